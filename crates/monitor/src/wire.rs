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
    fn write_string_fragment<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
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
    fn begin_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }
}

/// One message with its line end.
pub(crate) fn to_line(value: &Value, pretty: bool) -> Vec<u8> {
    let mut line = Vec::with_capacity(128);
    // Writing to memory does not fail, and a Value has only string keys.
    let _ = if pretty {
        value.serialize(&mut Serializer::with_formatter(
            &mut line,
            PrettyFormatter::with_indent(b"    "),
        ))
    } else {
        value.serialize(&mut Serializer::with_formatter(&mut line, Spaced))
    };
    line.extend_from_slice(b"\r\n");
    line
}

/// The answer to a command, with the client's `id`.
pub(crate) fn answer(result: &Result<Response, QmpError>, id: Option<Value>) -> Value {
    let mut object = Map::new();
    match result {
        Ok(response) => {
            object.insert("return".to_owned(), response.encode());
        }
        Err(error) => {
            object.insert(
                "error".to_owned(),
                json!({"class": error.class.as_str(), "desc": error.desc}),
            );
        }
    }
    if let Some(id) = id {
        object.insert("id".to_owned(), id);
    }
    Value::Object(object)
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
    }
}
