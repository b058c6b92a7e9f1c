//! The events, declared once: what they carry, and how introspection describes them.

use crate::qapi::{QapiType, describe_member};
use crate::schema::Schema;
use crate::types::*;
use serde_json::{Map, Value, json};
use std::time::Duration;

/// What the table knows about one event.
#[derive(Debug, Clone, Copy)]
pub struct EventDescription {
    /// The name on the wire.
    pub name: &'static str,
    /// Enters the type of its data.
    pub describe_data: fn(&mut Schema) -> String,
}

macro_rules! events {
    ($(
        $(#[$meta:meta])*
        $wire:literal $variant:ident $( { $( $(#[$fmeta:meta])* $field:ident : $ty:ty = $fwire:literal, )* } )? ;
    )*) => {
        /// Something that happened, for every client that listens.
        #[derive(Debug, Clone, PartialEq)]
        pub enum Event {
            $( $(#[$meta])* $variant $( { $( $(#[$fmeta])* $field: $ty, )* } )?, )*
        }

        impl Event {
            /// The name on the wire.
            pub fn name(&self) -> &'static str {
                match self { $( Self::$variant { .. } => $wire, )* }
            }

            /// What it carries; `None` for an event that carries nothing.
            pub fn data(&self) -> Option<Value> {
                match self {
                    $( Self::$variant $( { $( $field, )* } )? => {
                        let data: Option<Map<String, Value>> = None;
                        $(
                            let mut object = data.unwrap_or_default();
                            $(
                                if let Some(value) = $field.encode_member() {
                                    object.insert($fwire.to_owned(), value);
                                }
                            )*
                            let data = Some(object);
                        )?
                        data.map(Value::Object)
                    } )*
                }
            }
        }

        /// The declarations of the events, in their order.
        pub static EVENTS: &[EventDescription] = &[$(
            EventDescription {
                name: $wire,
                describe_data: |schema| {
                    let name = <()>::describe(schema);
                    $(
                        let _ = name;
                        let name = schema.object(concat!("q_obj_", $wire, "-arg"), |schema| {
                            vec![$( describe_member::<$ty>(schema, $fwire), )*]
                        });
                    )?
                    name
                },
            },
        )*];
    };
}

events! {
    /// The vCPUs stopped.
    "STOP" Stop;
    /// The vCPUs run.
    "RESUME" Resume;
    /// The machine was reset.
    "RESET" Reset {
        /// The guest asked for it.
        guest: bool = "guest",
        /// Who asked.
        reason: ShutdownCause = "reason",
    };
    /// The VM was shut down, or the program is about to end.
    "SHUTDOWN" Shutdown {
        /// The guest asked for it.
        guest: bool = "guest",
        /// Who asked.
        reason: ShutdownCause = "reason",
    };
    /// The power button was pressed.
    "POWERDOWN" Powerdown;
    /// The guest sleeps.
    "SUSPEND" Suspend;
    /// The guest woke up.
    "WAKEUP" Wakeup;
    /// The guest panicked.
    "GUEST_PANICKED" GuestPanicked {
        /// What was done about it.
        action: GuestPanicAction = "action",
    };
    /// The guest set its clock.
    "RTC_CHANGE" RtcChange {
        /// How far it is ahead of what `-rtc base=` says, in seconds.
        offset_s: i64 = "offset",
        /// The clock's path in the object tree.
        qom_path: String = "qom-path",
    };
    /// A device is gone.
    "DEVICE_DELETED" DeviceDeleted {
        /// Its id, when it had one.
        device: Option<String> = "device",
        /// Its path in the object tree.
        path: String = "path",
    };
    /// The guest refused to let go of a device.
    "DEVICE_UNPLUG_GUEST_ERROR" DeviceUnplugGuestError {
        /// Its id, when it has one.
        device: Option<String> = "device",
        /// Its path in the object tree.
        path: String = "path",
    };
    /// The guest changed a receive filter; told once until the filter is queried.
    "NIC_RX_FILTER_CHANGED" NicRxFilterChanged {
        /// The NIC's id.
        name: Option<String> = "name",
        /// The NIC's path in the object tree.
        path: String = "path",
    };
    /// The size of a memory device changed.
    "MEMORY_DEVICE_SIZE_CHANGE" MemoryDeviceSizeChange {
        /// Its id, when it has one.
        id: Option<String> = "id",
        /// The new size, in bytes.
        size_bytes: u64 = "size",
        /// Its path in the object tree.
        qom_path: String = "qom-path",
    };
    /// The state of the migration changed.
    "MIGRATION" Migration {
        /// The new state.
        status: MigrationStatus = "status",
    };
    /// A pass over memory begins.
    "MIGRATION_PASS" MigrationPass {
        /// Its number, from 1.
        pass: i64 = "pass",
    };
    /// The guest was asked to let go of a primary for a migration.
    "UNPLUG_PRIMARY" UnplugPrimary {
        /// The primary's id.
        device_id: String = "device-id",
    };
    /// The guest accepted STANDBY.
    "FAILOVER_NEGOTIATED" FailoverNegotiated {
        /// The standby's id.
        device_id: String = "device-id",
    };
    /// The traffic of a pair moved to its other device.
    "FAILOVER_PATH_CHANGED" FailoverPathChanged {
        /// The standby's id.
        device_id: String = "device-id",
        /// Where the traffic is now.
        path: FailoverPath = "path",
        /// Why, a word for programs.
        reason: String = "reason",
    };
    /// A step of steering the host's network for a pair, or its hook, failed. The guest goes on.
    "FAILOVER_STEERING_FAILED" FailoverSteeringFailed {
        /// The standby's id.
        device_id: String = "device-id",
        /// When: the moment, as the hook is told it.
        moment: String = "moment",
        /// The command that does the same as the step, or the hook's program.
        step: String = "step",
        /// Why.
        reason: String = "reason",
    };
    /// A pair has to do without its primary.
    "FAILOVER_PRIMARY_MISSING" FailoverPrimaryMissing {
        /// The standby's id.
        device_id: String = "device-id",
        /// The primary's id, when one is configured.
        primary_id: Option<String> = "primary-id",
        /// Why, a word for programs.
        reason: String = "reason",
        /// The same for a person.
        message: String = "message",
        /// In how many ms the next attempt comes; absent when another event brings it.
        retry_ms: Option<u64> = "retry-ms",
    };
    /// A guest that was asked to let go of a primary has not, or will not; it keeps it.
    "FAILOVER_UNPLUG_FAILED" FailoverUnplugFailed {
        /// The standby's id.
        device_id: String = "device-id",
        /// The primary's id.
        primary_id: String = "primary-id",
        /// Why, a word for programs.
        reason: String = "reason",
        /// The same for a person.
        message: String = "message",
    };
}

impl Event {
    /// The event as it goes to a client, with the time since 1970 at which it happened.
    pub fn encode(&self, since_epoch: Duration) -> Value {
        let mut object = Map::new();
        object.insert(
            "timestamp".to_owned(),
            json!({"seconds": since_epoch.as_secs(), "microseconds": since_epoch.subsec_micros()}),
        );
        object.insert("event".to_owned(), Value::from(self.name()));
        if let Some(data) = self.data() {
            object.insert("data".to_owned(), data);
        }
        Value::Object(object)
    }
}
