//! JSON as it comes in: a stream of values, not of lines, from a client that may send anything.
//!
//! QEMU's dialect (strings in single quotes too) and QEMU's way back after garbage: an error that the lexer finds forgets what was
//! open and skips to the next character that can begin something; an error of grammar is told once the braces balance again. A byte
//! 0xff between messages brings the parser into a known state, as QEMU's clients use it.
//!
//! serde_json's own streaming deserializer was rejected: after an error it cannot go on, it wants a reader that blocks, and its texts
//! differ.

use serde_json::{Map, Number, Value};
use std::collections::VecDeque;

/// The most bytes one message may have.
pub const MAX_MESSAGE_BYTES: usize = 4 << 20;
/// The most tokens one message may have.
pub const MAX_MESSAGE_TOKENS: usize = 1 << 16;
/// How deep a message may nest.
pub const MAX_MESSAGE_DEPTH: usize = 64;

/// How much of a stray token an error message repeats.
const MAX_QUOTED_CHARS: usize = 64;

const NOT_A_KEY: &str = "key is not a string in object";

#[derive(Debug, Clone, PartialEq)]
enum Token {
    LeftBrace,
    RightBrace,
    LeftBracket,
    RightBracket,
    Colon,
    Comma,
    Keyword(String),
    Number(Number),
    Text(Result<String, String>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lexer {
    Start,
    Keyword,
    /// After `-`.
    Minus,
    /// A leading zero: no further digit may follow.
    Zero,
    Digits,
    /// After the point, no digit yet.
    Point,
    Fraction,
    /// After `e`, no sign and no digit yet.
    Exponent,
    /// After the sign of the exponent.
    ExponentSign,
    ExponentDigits,
    Text {
        quote: u8,
        escaped: bool,
    },
    /// After a stray character: skip to where something can begin.
    Recovery,
    /// After a message beyond the limits: skip to the end of the line.
    SkipLine,
}

enum Frame {
    Object {
        map: Map<String, Value>,
        key: Option<String>,
        expect: ObjectExpect,
    },
    Array {
        list: Vec<Value>,
        expect: ArrayExpect,
    },
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum ObjectExpect {
    KeyOrEnd,
    Key,
    Colon,
    Value,
    CommaOrEnd,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum ArrayExpect {
    ValueOrEnd,
    Value,
    CommaOrEnd,
}

/// The parser of one client's input.
pub struct JsonStream {
    lexer: Lexer,
    token: Vec<u8>,
    stack: Vec<Frame>,
    root: Option<Value>,
    error: Option<String>,
    open_braces: i64,
    open_brackets: i64,
    bytes: usize,
    tokens: usize,
    messages: VecDeque<Result<Value, String>>,
}

impl Default for JsonStream {
    fn default() -> Self {
        Self::new()
    }
}

impl JsonStream {
    /// At the beginning of a stream.
    pub fn new() -> Self {
        Self {
            lexer: Lexer::Start,
            token: Vec::new(),
            stack: Vec::new(),
            root: None,
            error: None,
            open_braces: 0,
            open_brackets: 0,
            bytes: 0,
            tokens: 0,
            messages: VecDeque::new(),
        }
    }

    /// The next message that is complete: a value, or what is wrong with it (`JSON parse error, …`).
    pub fn next_message(&mut self) -> Option<Result<Value, String>> {
        self.messages.pop_front()
    }

    /// Takes one byte; at most two messages become complete by it.
    pub fn feed(&mut self, byte: u8) {
        // A token that ends by lookahead gives the byte back once, and then the lexer is at its start and takes it.
        for _ in 0..3 {
            if self.step(byte) {
                break;
            }
        }
    }

    /// Returns false when the byte is to be looked at again.
    fn step(&mut self, byte: u8) -> bool {
        match self.lexer {
            Lexer::SkipLine => {
                if byte == b'\n' || byte >= 0xfe {
                    self.lexer = Lexer::Start;
                }
                true
            }
            Lexer::Recovery => {
                let begins = matches!(byte, b'{' | b'}' | b'[' | b']' | b':' | b',')
                    || (byte < 0x20 && byte != b'\t')
                    || byte >= 0xfe;
                if begins {
                    self.lexer = Lexer::Start;
                }
                !begins
            }
            _ => {
                if !self.count_byte() {
                    return true;
                }
                self.lex(byte)
            }
        }
    }

    fn lex(&mut self, byte: u8) -> bool {
        match self.lexer {
            Lexer::Start => self.lex_start(byte),
            Lexer::Text { quote, escaped } => self.lex_text(byte, quote, escaped),
            Lexer::Keyword => match byte {
                b'a'..=b'z' => self.keep(byte, Lexer::Keyword),
                _ => self.end_keyword(),
            },
            Lexer::Minus => match byte {
                b'0' => self.keep(byte, Lexer::Zero),
                b'1'..=b'9' => self.keep(byte, Lexer::Digits),
                _ => self.stray(byte),
            },
            Lexer::Zero | Lexer::Digits => match byte {
                b'0'..=b'9' if self.lexer == Lexer::Digits => self.keep(byte, Lexer::Digits),
                b'0'..=b'9' => self.stray(byte),
                b'.' => self.keep(byte, Lexer::Point),
                b'e' | b'E' => self.keep(byte, Lexer::Exponent),
                _ => self.end_number(),
            },
            Lexer::Point => match byte {
                b'0'..=b'9' => self.keep(byte, Lexer::Fraction),
                _ => self.stray(byte),
            },
            Lexer::Fraction => match byte {
                b'0'..=b'9' => self.keep(byte, Lexer::Fraction),
                b'e' | b'E' => self.keep(byte, Lexer::Exponent),
                _ => self.end_number(),
            },
            Lexer::Exponent => match byte {
                b'+' | b'-' => self.keep(byte, Lexer::ExponentSign),
                b'0'..=b'9' => self.keep(byte, Lexer::ExponentDigits),
                _ => self.stray(byte),
            },
            Lexer::ExponentSign => match byte {
                b'0'..=b'9' => self.keep(byte, Lexer::ExponentDigits),
                _ => self.stray(byte),
            },
            Lexer::ExponentDigits => match byte {
                b'0'..=b'9' => self.keep(byte, Lexer::ExponentDigits),
                _ => self.end_number(),
            },
            Lexer::Recovery | Lexer::SkipLine => true,
        }
    }

    fn lex_start(&mut self, byte: u8) -> bool {
        let token = match byte {
            b' ' | b'\t' | b'\r' | b'\n' => {
                if self.stack.is_empty() && self.tokens == 0 {
                    self.bytes = 0;
                }
                return true;
            }
            b'{' => Token::LeftBrace,
            b'}' => Token::RightBrace,
            b'[' => Token::LeftBracket,
            b']' => Token::RightBracket,
            b':' => Token::Colon,
            b',' => Token::Comma,
            b'"' | b'\'' => {
                return self.keep(
                    byte,
                    Lexer::Text {
                        quote: byte,
                        escaped: false,
                    },
                );
            }
            b'a'..=b'z' => return self.keep(byte, Lexer::Keyword),
            b'-' => return self.keep(byte, Lexer::Minus),
            b'0' => return self.keep(byte, Lexer::Zero),
            b'1'..=b'9' => return self.keep(byte, Lexer::Digits),
            _ => return self.stray(byte),
        };
        self.accept(token);
        true
    }

    fn lex_text(&mut self, byte: u8, quote: u8, escaped: bool) -> bool {
        if !(0x20..0xfe).contains(&byte) {
            return self.stray(byte);
        }
        if byte == quote && !escaped {
            let token = std::mem::take(&mut self.token);
            self.lexer = Lexer::Start;
            let text = unescape(token.get(1..).unwrap_or_default(), char::from(quote));
            self.accept(Token::Text(text));
            return true;
        }
        self.keep(
            byte,
            Lexer::Text {
                quote,
                escaped: byte == b'\\' && !escaped,
            },
        )
    }

    fn keep(&mut self, byte: u8, next: Lexer) -> bool {
        self.token.push(byte);
        self.lexer = next;
        true
    }

    fn end_keyword(&mut self) -> bool {
        let token = std::mem::take(&mut self.token);
        self.lexer = Lexer::Start;
        self.accept(Token::Keyword(String::from_utf8_lossy(&token).into_owned()));
        false
    }

    fn end_number(&mut self) -> bool {
        let token = std::mem::take(&mut self.token);
        self.lexer = Lexer::Start;
        let text = String::from_utf8_lossy(&token);
        // The lexer let only JSON numbers through. Beyond 64 bits they become floating point, and beyond that the greatest there is.
        let number = text
            .parse::<i64>()
            .map(Number::from)
            .or_else(|_| text.parse::<u64>().map(Number::from))
            .ok()
            .or_else(|| {
                Number::from_f64(text.parse::<f64>().unwrap_or(0.0).clamp(f64::MIN, f64::MAX))
            })
            .unwrap_or_else(|| Number::from(0));
        self.accept(Token::Number(number));
        false
    }

    fn stray(&mut self, byte: u8) -> bool {
        let mut token = std::mem::take(&mut self.token);
        token.push(byte);
        let text: String = String::from_utf8_lossy(&token)
            .chars()
            .take(MAX_QUOTED_CHARS)
            .collect();
        self.reset();
        self.messages
            .push_back(Err(format!("JSON parse error, stray '{text}'")));
        self.lexer = Lexer::Recovery;
        true
    }

    fn count_byte(&mut self) -> bool {
        self.bytes += 1;
        if self.bytes <= MAX_MESSAGE_BYTES {
            return true;
        }
        self.beyond("JSON token size limit exceeded");
        false
    }

    fn beyond(&mut self, what: &str) {
        self.reset();
        self.lexer = Lexer::SkipLine;
        self.messages.push_back(Err(what.to_owned()));
    }

    fn reset(&mut self) {
        self.lexer = Lexer::Start;
        self.token = Vec::new();
        self.stack.clear();
        self.root = None;
        self.error = None;
        self.open_braces = 0;
        self.open_brackets = 0;
        self.bytes = 0;
        self.tokens = 0;
    }

    fn accept(&mut self, token: Token) {
        self.tokens += 1;
        if self.tokens > MAX_MESSAGE_TOKENS {
            return self.beyond("JSON token count limit exceeded");
        }
        match token {
            Token::LeftBrace => self.open_braces += 1,
            Token::RightBrace => self.open_braces -= 1,
            Token::LeftBracket => self.open_brackets += 1,
            Token::RightBracket => self.open_brackets -= 1,
            _ => {}
        }
        if self.open_braces + self.open_brackets > MAX_MESSAGE_DEPTH as i64 {
            return self.beyond("JSON nesting depth limit exceeded");
        }
        if self.error.is_none()
            && let Err(error) = self.build(token)
        {
            self.error = Some(format!("JSON parse error, {error}"));
            self.stack.clear();
        }
        let balanced = self.open_braces == 0 && self.open_brackets == 0;
        if balanced || self.open_braces < 0 || self.open_brackets < 0 {
            let message = match (self.error.take(), self.root.take()) {
                (Some(error), _) => Err(error),
                (None, Some(value)) => Ok(value),
                (None, None) => Err("JSON parse error, expecting value".to_owned()),
            };
            self.messages.push_back(message);
            self.reset();
        }
    }

    fn build(&mut self, token: Token) -> Result<(), String> {
        match self.stack.last_mut() {
            None => {
                let value = self.begin_value(token)?;
                self.root = value;
                Ok(())
            }
            Some(Frame::Object { map, key, expect }) => match (*expect, token) {
                (ObjectExpect::KeyOrEnd | ObjectExpect::CommaOrEnd, Token::RightBrace) => {
                    let map = std::mem::take(map);
                    self.end_container(Value::Object(map))
                }
                (ObjectExpect::KeyOrEnd | ObjectExpect::Key, Token::Text(text)) => {
                    let text = text?;
                    if map.contains_key(&text) {
                        return Err("duplicate key".to_owned());
                    }
                    *key = Some(text);
                    *expect = ObjectExpect::Colon;
                    Ok(())
                }
                // What is wrong within the value comes before that it is no key.
                (ObjectExpect::KeyOrEnd | ObjectExpect::Key, token) => {
                    match self.begin_value(token)? {
                        Some(_) => Err(NOT_A_KEY.to_owned()),
                        None => Ok(()),
                    }
                }
                (ObjectExpect::Colon, Token::Colon) => {
                    *expect = ObjectExpect::Value;
                    Ok(())
                }
                (ObjectExpect::Colon, _) => Err("missing : in object pair".to_owned()),
                (ObjectExpect::Value, token) => {
                    *expect = ObjectExpect::CommaOrEnd;
                    match self.begin_value(token)? {
                        Some(value) => self.put(value),
                        None => Ok(()),
                    }
                }
                (ObjectExpect::CommaOrEnd, Token::Comma) => {
                    *expect = ObjectExpect::Key;
                    Ok(())
                }
                (ObjectExpect::CommaOrEnd, _) => Err("expected separator in dict".to_owned()),
            },
            Some(Frame::Array { list, expect }) => match (*expect, token) {
                (ArrayExpect::ValueOrEnd | ArrayExpect::CommaOrEnd, Token::RightBracket) => {
                    let list = std::mem::take(list);
                    self.end_container(Value::Array(list))
                }
                (ArrayExpect::ValueOrEnd | ArrayExpect::Value, token) => {
                    *expect = ArrayExpect::CommaOrEnd;
                    match self.begin_value(token)? {
                        Some(value) => self.put(value),
                        None => Ok(()),
                    }
                }
                (ArrayExpect::CommaOrEnd, Token::Comma) => {
                    *expect = ArrayExpect::Value;
                    Ok(())
                }
                (ArrayExpect::CommaOrEnd, _) => Err("expected separator in list".to_owned()),
            },
        }
    }

    /// The value that `token` is, or `None` when it opens a container.
    fn begin_value(&mut self, token: Token) -> Result<Option<Value>, String> {
        Ok(match token {
            Token::LeftBrace => {
                self.stack.push(Frame::Object {
                    map: Map::new(),
                    key: None,
                    expect: ObjectExpect::KeyOrEnd,
                });
                None
            }
            Token::LeftBracket => {
                self.stack.push(Frame::Array {
                    list: Vec::new(),
                    expect: ArrayExpect::ValueOrEnd,
                });
                None
            }
            Token::Text(text) => Some(Value::String(text?)),
            Token::Number(number) => Some(Value::Number(number)),
            Token::Keyword(word) => Some(match word.as_str() {
                "true" => Value::Bool(true),
                "false" => Value::Bool(false),
                "null" => Value::Null,
                _ => {
                    return Err(format!(
                        "invalid keyword '{}'",
                        word.chars().take(MAX_QUOTED_CHARS).collect::<String>()
                    ));
                }
            }),
            Token::RightBrace | Token::RightBracket | Token::Colon | Token::Comma => {
                return Err("expecting value".to_owned());
            }
        })
    }

    fn end_container(&mut self, value: Value) -> Result<(), String> {
        self.stack.pop();
        self.put(value)
    }

    fn put(&mut self, value: Value) -> Result<(), String> {
        match self.stack.last_mut() {
            None => self.root = Some(value),
            Some(Frame::Object { map, key, .. }) => {
                let key = key.take().ok_or(NOT_A_KEY)?;
                map.insert(key, value);
            }
            Some(Frame::Array { list, .. }) => list.push(value),
        }
        Ok(())
    }
}

/// The text of a string token, given without its quotes.
fn unescape(raw: &[u8], quote: char) -> Result<String, String> {
    let invalid = || "invalid escape sequence in string".to_owned();
    let raw = std::str::from_utf8(raw).map_err(|_| "invalid UTF-8 sequence in string")?;
    let mut text = String::with_capacity(raw.len());
    let mut rest = raw.chars();
    while let Some(c) = rest.next() {
        if c != '\\' {
            text.push(c);
            continue;
        }
        text.push(match rest.next().ok_or_else(invalid)? {
            c @ ('"' | '\'' | '\\' | '/') => c,
            'b' => '\u{8}',
            'f' => '\u{c}',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'u' => {
                let written: String = rest.clone().chain([quote]).take(4).collect();
                code_point(&mut rest)
                    .ok_or_else(|| format!("\\u{written} is not a valid Unicode character"))?
            }
            _ => return Err(invalid()),
        });
    }
    Ok(text)
}

/// What stands after `\u`: four digits, or the two halves of a surrogate pair. NUL is refused, unlike in QEMU: no name, path or id may
/// contain it.
fn code_point(rest: &mut std::str::Chars<'_>) -> Option<char> {
    let code = match hex4(rest)? {
        0 => return None,
        high @ 0xd800..=0xdbff => {
            if rest.next() != Some('\\') || rest.next() != Some('u') {
                return None;
            }
            match hex4(rest)? {
                low @ 0xdc00..=0xdfff => 0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00),
                _ => return None,
            }
        }
        code => code,
    };
    char::from_u32(code)
}

fn hex4(rest: &mut std::str::Chars<'_>) -> Option<u32> {
    let mut code = 0;
    for _ in 0..4 {
        code = code * 16 + rest.next()?.to_digit(16)?;
    }
    Some(code)
}

#[cfg(test)]
#[path = "json_test.rs"]
mod tests;
