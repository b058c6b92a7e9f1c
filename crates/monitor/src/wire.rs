//! JSON as it goes out: QEMU's spacing (`{"return": {}}`), which scripts have been seen to grep for.

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
