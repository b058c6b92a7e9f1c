//! What a client can learn about the protocol itself, from the tables that carry it.

use crate::command::all;
use crate::event::EVENTS;
use crate::schema::Schema;
use crate::server::Identity;
use crate::types::{CommandInfo, EventInfo};
use serde_json::Value;

/// `query-commands`.
pub(crate) fn commands() -> Vec<CommandInfo> {
    all()
        .map(|command| CommandInfo {
            name: command.name.to_owned(),
        })
        .collect()
}

/// `query-events`.
pub(crate) fn events() -> Vec<EventInfo> {
    EVENTS
        .iter()
        .map(|event| EventInfo {
            name: event.name.to_owned(),
        })
        .collect()
}

/// `query-qmp-schema`.
pub(crate) fn schema(identity: &Identity) -> Vec<Value> {
    let mut schema = Schema::new(&identity.netdev_types, &identity.object_types);
    for command in all() {
        let arguments = (command.describe_arguments)(&mut schema);
        let result = (command.describe_result)(&mut schema);
        schema.command(
            command.name,
            &arguments,
            &result,
            command.allow_oob,
            command.features,
        );
    }
    for event in EVENTS {
        let data = (event.describe_data)(&mut schema);
        schema.event(event.name, &data);
    }
    schema.into_json()
}
