//! JSON as it goes out: QEMU's spacing (`{"return": {}}`), which scripts grep for, and nothing but ASCII.

use crate::error::QmpError;
use crate::response::Response;
use serde::Serialize;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};
use serde_json::{Map, Value, json};
use std::io::{self, Write};

struct Spaced;

impl Formatter for Spaced {
    fn begin_array_value<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        if first {
            Ok(())
        } else {
            writer.write_all(b", ")
        }
    }
    fn begin_object_key<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        if first {
            Ok(())
        } else {
            writer.write_all(b", ")
        }
    }
    fn write_f64<W: ?Sized + Write>(&mut self, writer: &mut W, value: f64) -> io::Result<()> {
        writer.write_all(number(value).as_bytes())
    }
    fn write_string_fragment<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        ascii(writer, fragment)
    }
    fn begin_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }
}

/// Text with everything escaped that is not ASCII.
fn ascii<W: ?Sized + Write>(writer: &mut W, fragment: &str) -> io::Result<()> {
    let mut plain = fragment;
    while let Some(at) = plain.find(|c: char| !c.is_ascii() || c == '\u{7f}') {
        let (before, after) = plain.split_at(at);
        writer.write_all(before.as_bytes())?;
        let mut rest = after.chars();
        for unit in rest
            .next()
            .map(|c| c.encode_utf16(&mut [0; 2]).to_vec())
            .unwrap_or_default()
        {
            write!(writer, "\\u{unit:04X}")?;
        }
        plain = rest.as_str();
    }
    writer.write_all(plain.as_bytes())
}

/// A number as C's `%.17g` writes it, which is how QEMU does.
fn number(value: f64) -> String {
    const DIGITS: i32 = 17;
    let scientific = format!("{value:.16e}");
    let Some((mantissa, exponent)) = scientific.split_once('e') else {
        return scientific;
    };
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let trim = |text: &str| -> String {
        if text.contains('.') {
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        } else {
            text.to_owned()
        }
    };
    if (-4..DIGITS).contains(&exponent) {
        let decimals = usize::try_from(DIGITS - 1 - exponent).unwrap_or(0);
        return trim(&format!("{value:.decimals$}"));
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{}e{sign}{:02}", trim(mantissa), exponent.abs())
}

/// The spacing of `pretty=on`.
struct Pretty(PrettyFormatter<'static>);

macro_rules! as_pretty {
    ($( $method:ident ( $($first:ident)? ) )*) => {$(
        fn $method<W: ?Sized + Write>(&mut self, writer: &mut W $(, $first: bool)?) -> io::Result<()> {
            self.0.$method(writer $(, $first)?)
        }
    )*};
}

impl Formatter for Pretty {
    as_pretty! {
        begin_array() end_array() begin_array_value(first) end_array_value()
        begin_object() end_object() begin_object_key(first) begin_object_value() end_object_value()
    }

    fn write_f64<W: ?Sized + Write>(&mut self, writer: &mut W, value: f64) -> io::Result<()> {
        writer.write_all(number(value).as_bytes())
    }
    fn write_string_fragment<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        ascii(writer, fragment)
    }
}

/// One message with its line end.
pub(crate) fn to_line(value: &Value, pretty: bool) -> Vec<u8> {
    let mut line = Vec::with_capacity(128);
    // Writing to memory does not fail, and a Value has only string keys.
    let _ = if pretty {
        value.serialize(&mut Serializer::with_formatter(
            &mut line,
            Pretty(PrettyFormatter::with_indent(b"    ")),
        ))
    } else {
        value.serialize(&mut Serializer::with_formatter(&mut line, Spaced))
    };
    line.extend_from_slice(b"\r\n");
    line
}

/// The answer to a command, with the client's `id`.
pub(crate) fn answer(result: &Result<Response, QmpError>, id: Option<Value>) -> Value {
    // The id stands where QEMU has it.
    let id = id.map(|id| ("id".to_owned(), id));
    let outcome = match result {
        Ok(response) => ("return".to_owned(), response.encode()),
        Err(error) => {
            let error = json!({"class": error.class.as_str(), "desc": error.desc});
            return Value::Object(Map::from_iter(
                id.into_iter().chain([("error".to_owned(), error)]),
            ));
        }
    };
    Value::Object(Map::from_iter([outcome].into_iter().chain(id)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_spaced_as_qemus_and_ascii() {
        let value = json!({"return": {"a": [1, "ä😀\n\u{7f}"]}, "id": {}});
        let line = to_line(&value, false);
        assert_eq!(
            String::from_utf8_lossy(&line),
            "{\"return\": {\"a\": [1, \"\\u00E4\\uD83D\\uDE00\\n\\u007F\"]}, \"id\": {}}\r\n"
        );
        assert_eq!(serde_json::from_slice::<Value>(&line).expect("JSON"), value);
        let pretty = String::from_utf8(to_line(&value, true)).expect("text");
        assert!(pretty.is_ascii(), "{pretty}");
        assert_eq!(serde_json::from_str::<Value>(&pretty).expect("JSON"), value);
    }

    #[test]
    fn numbers_are_written_as_c_does() {
        for (value, text) in [
            (0.0, "0"),
            (-0.0, "-0"),
            (1.0, "1"),
            (0.1, "0.10000000000000001"),
            (2.5, "2.5"),
            (1e5, "100000"),
            (1e16, "10000000000000000"),
            (1e17, "1e+17"),
            (1.5e300, "1.5000000000000001e+300"),
            (0.0001, "0.0001"),
            (0.00001, "1.0000000000000001e-05"),
            (1e23, "9.9999999999999992e+22"),
            (-1234.5678, "-1234.5678"),
        ] {
            assert_eq!(number(value), text);
        }
    }
}
