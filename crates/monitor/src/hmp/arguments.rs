//! The words of a line, by the parameters that its command declares.

use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// What a command's parameter is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A switch of one letter, as `-d`.
    Flag(char),
    /// A word; quotes allow spaces in it.
    Word,
    /// The rest of the line.
    Rest,
}

/// A command's parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Parameter {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) optional: bool,
}

/// `-d` and the like.
pub(crate) const fn flag(name: &'static str, letter: char) -> Parameter {
    Parameter {
        name,
        kind: Kind::Flag(letter),
        optional: true,
    }
}
/// A word that must be there.
pub(crate) const fn word(name: &'static str) -> Parameter {
    Parameter {
        name,
        kind: Kind::Word,
        optional: false,
    }
}
/// A word that may be there.
pub(crate) const fn maybe(name: &'static str) -> Parameter {
    Parameter {
        name,
        kind: Kind::Word,
        optional: true,
    }
}
/// The rest of the line, which may be empty.
pub(crate) const fn options(name: &'static str) -> Parameter {
    Parameter {
        name,
        kind: Kind::Rest,
        optional: true,
    }
}
/// Why a line was not understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wrong {
    /// It is not as help says.
    Usage(&'static str),
    /// A switch that it does not have.
    Switch(char),
    /// Something else, told in full.
    Text(String),
}

impl From<String> for Wrong {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

/// What was given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Arguments {
    given: BTreeMap<&'static str, String>,
}

impl Arguments {
    /// Reads `line`, without the command's name.
    ///
    /// # Errors
    /// A word is missing or too many, or a quote is not closed.
    pub(crate) fn parse(parameters: &[Parameter], line: &str) -> Result<Self, Wrong> {
        let mut given = BTreeMap::new();
        let mut left = line.trim();
        let switches = || parameters.iter().map(|parameter| parameter.kind);
        for parameter in parameters {
            match parameter.kind {
                Kind::Flag(letter) => {
                    let first = left.split_whitespace().next().unwrap_or_default();
                    if let ['-', other] = first.chars().collect::<Vec<_>>()[..]
                        && !switches().any(|kind| kind == Kind::Flag(other))
                    {
                        return Err(Wrong::Switch(other));
                    }
                    let mut word = left.split_whitespace();
                    if word
                        .next()
                        .and_then(|first| first.strip_prefix('-'))
                        .is_some_and(|l| l.chars().eq([letter]))
                    {
                        given.insert(parameter.name, String::new());
                        left = left.get(2..).unwrap_or_default().trim_start();
                    }
                }
                Kind::Rest => {
                    if !left.is_empty() {
                        given.insert(parameter.name, left.to_owned());
                        left = "";
                    }
                }
                Kind::Word => {
                    if let Some((word, after)) = take_word(left)? {
                        given.insert(parameter.name, word);
                        left = after;
                    }
                }
            }
            if !parameter.optional && !given.contains_key(parameter.name) {
                return Err(Wrong::Usage("string expected"));
            }
        }
        if !left.is_empty() {
            return Err(Wrong::Usage("extraneous characters at the end of line"));
        }
        Ok(Self { given })
    }

    /// The flag was given.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.given.contains_key(name)
    }

    /// The word, when it was given.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.given.get(name).map(String::as_str)
    }

    /// The word; empty when it was not given, which [`parse`](Self::parse) excludes for one that is mandatory.
    pub(crate) fn text(&self, name: &str) -> String {
        self.get(name).unwrap_or_default().to_owned()
    }

    /// The word as `on` or `off`.
    ///
    /// # Errors
    /// It is neither.
    pub(crate) fn switch(&self, name: &str) -> Result<bool, Wrong> {
        match self.get(name) {
            Some("on") => Ok(true),
            Some("off") => Ok(false),
            _ => Err(Wrong::Usage("Expected 'on' or 'off'")),
        }
    }
}

fn take_word(line: &str) -> Result<Option<(String, &str)>, Wrong> {
    let mut word = String::new();
    let mut chars = line.char_indices();
    let Some((_, first)) = chars.next() else {
        return Ok(None);
    };
    if first != '"' {
        let end = line.find(char::is_whitespace).unwrap_or(line.len());
        let (word, after) = line.split_at(end);
        return Ok(Some((word.to_owned(), after.trim_start())));
    }
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => {
                return Ok(Some((
                    word,
                    line.get(at + 1..).unwrap_or_default().trim_start(),
                )));
            }
            '\\' => word.extend(chars.next().map(|(_, c)| c)),
            c => word.push(c),
        }
    }
    Err(Wrong::Usage("string expected"))
}

/// Reads `first,key=value,key=value`: the first element is the value of `implied` unless it is a `key=value` itself; a key alone is
/// on; `,,` stands for a comma.
pub(crate) fn key_values(text: &str, implied: &str) -> Map<String, Value> {
    let mut elements = vec![String::new()];
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match (c, elements.last_mut()) {
            (',', _) if chars.peek() != Some(&',') => elements.push(String::new()),
            (c, Some(element)) => {
                if c == ',' {
                    chars.next();
                }
                element.push(c);
            }
            (_, None) => {}
        }
    }
    let mut members = Map::new();
    for (i, element) in elements.into_iter().enumerate() {
        let (key, value) = match element.split_once('=') {
            Some((key, value)) => (key, value),
            None if i == 0 => (implied, element.as_str()),
            None if element.is_empty() => continue,
            None => (element.as_str(), "on"),
        };
        members.insert(key.to_owned(), Value::from(value));
    }
    members
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn words_flags_and_quotes() {
        let parameters = [flag("detach", 'd'), word("uri"), maybe("more")];
        let arguments =
            Arguments::parse(&parameters, " -d  \"exec:cat >\\\"x\\\"\" y").expect("well-formed");
        assert!(arguments.has("detach"));
        assert_eq!(arguments.get("uri"), Some("exec:cat >\"x\""));
        assert_eq!(arguments.get("more"), Some("y"));
        assert!(Arguments::parse(&parameters, "-d").is_err());
        assert!(Arguments::parse(&parameters, "a b c").is_err());
        assert!(Arguments::parse(&parameters, "\"a").is_err());
        let arguments =
            Arguments::parse(&parameters, "-dx").expect("a word that looks like a flag");
        assert_eq!(
            (arguments.has("detach"), arguments.get("uri")),
            (false, Some("-dx"))
        );
    }

    #[test]
    fn key_values_escape_commas() {
        assert_eq!(
            Value::Object(key_values(
                "virtio-net-pci,id=a,,b,failover,mac=x=y",
                "driver"
            )),
            json!({"driver": "virtio-net-pci", "id": "a,b", "failover": "on", "mac": "x=y"})
        );
        assert_eq!(
            Value::Object(key_values("id=x,driver=y,", "driver")),
            json!({"id": "x", "driver": "y"})
        );
    }
}
