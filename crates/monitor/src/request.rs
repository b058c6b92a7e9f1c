//! A message of QMP becomes a command: the envelope around the arguments.

use crate::command::{AnyCommand, describe};
use crate::error::QmpError;
use serde_json::{Map, Value};

/// What the session has agreed on so far.
#[derive(Debug, Clone, Copy)]
pub(crate) struct State {
    /// `qmp_capabilities` was executed.
    pub(crate) negotiated: bool,
    /// It enabled execution out of band.
    pub(crate) oob: bool,
}

/// Reads a message, without its `id`.
///
/// # Errors
/// It is no request, or not at this time; there is no such command, or its arguments are wrong.
pub(crate) fn decode(object: Map<String, Value>, state: State) -> Result<AnyCommand, QmpError> {
    let mut name: Option<(String, String)> = None;
    let mut arguments = Value::Object(Map::new());
    for (member, value) in object {
        match member.as_str() {
            "execute" | "exec-oob" if member == "execute" || state.oob => {
                let Value::String(command) = value else {
                    return Err(QmpError::generic(format!(
                        "QMP input member '{member}' must be a string"
                    )));
                };
                if name.is_some() {
                    // In this order whichever came first: QEMU looks at the members in an order of its own.
                    return Err(QmpError::generic(
                        "QMP input member 'execute' clashes with 'exec-oob'",
                    ));
                }
                name = Some((member, command));
            }
            "arguments" if value.is_object() => arguments = value,
            "arguments" => {
                return Err(QmpError::generic(
                    "QMP input member 'arguments' must be an object",
                ));
            }
            _ => {
                return Err(QmpError::generic(format!(
                    "QMP input member '{member}' is unexpected"
                )));
            }
        }
    }
    let (member, name) =
        name.ok_or_else(|| QmpError::generic("QMP input lacks member 'execute'"))?;
    if !state.negotiated && name != "qmp_capabilities" {
        return Err(QmpError::command_not_found(
            "Expecting capabilities negotiation with 'qmp_capabilities'",
        ));
    }
    if member == "exec-oob" && describe(&name).is_some_and(|description| !description.allow_oob) {
        return Err(QmpError::generic(format!(
            "The command {name} does not support OOB"
        )));
    }
    let command = AnyCommand::decode(&name, arguments)?;
    if state.negotiated && name == "qmp_capabilities" {
        return Err(QmpError::command_not_found(
            "Capabilities negotiation is already complete, command ignored",
        ));
    }
    Ok(command)
}
