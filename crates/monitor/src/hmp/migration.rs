//! The commands that drive a migration by hand.

use super::Machine;
use super::arguments::{Arguments, Wrong};
use super::print;
use super::table::{Action, Context};
use crate::command::Command;
use crate::qapi::{Path, QapiType};
use crate::types::*;
use serde_json::{Map, Value};
use std::thread;
use std::time::Duration;

/// How often a waiting `migrate` looks whether it is over.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// `migrate [-d] uri`.
pub(crate) fn migrate(arguments: &Arguments, context: &Context<'_>) -> Result<Action, Wrong> {
    let command = Command::Migrate {
        uri: Some(arguments.text("uri")),
        channels: None,
        detach: Some(true),
        resume: arguments.has("resume").then_some(true),
    };
    // A program that sends a line by QMP must not be held up by it.
    if arguments.has("detach") || context.in_qmp {
        return Ok(Action::silent(command));
    }
    Ok(Action::Steps(Box::new(|machine| {
        wait_for_end(machine, command)
    })))
}

fn wait_for_end(machine: &Machine, command: Command) -> String {
    if let Err(error) = machine.ask(command) {
        return print::error(&error);
    }
    loop {
        let info = match machine.ask(Command::QueryMigrate) {
            Ok(response) => MigrationInfo::try_from(response).unwrap_or_default(),
            Err(error) => return print::error(&error),
        };
        match info.status {
            None | Some(MigrationStatus::None | MigrationStatus::Completed) => {
                return String::new();
            }
            Some(MigrationStatus::Failed) => {
                return format!(
                    "Error: {}\n",
                    info.error_desc
                        .unwrap_or_else(|| "the migration failed".to_owned())
                );
            }
            Some(MigrationStatus::Cancelled) => {
                return "Error: the migration was cancelled\n".to_owned();
            }
            Some(MigrationStatus::PreSwitchover) => {
                return "the migration waits for migrate_continue pre-switchover\n".to_owned();
            }
            Some(_) => thread::sleep(LOOK_AGAIN),
        }
    }
}

/// `migrate_continue state`.
pub(crate) fn migrate_continue(arguments: &Arguments, _: &Context<'_>) -> Result<Action, Wrong> {
    let state = decode("state", Value::from(arguments.text("state")))?;
    Ok(Action::silent(Command::MigrateContinue { state }))
}

fn decode<T: QapiType>(name: &str, value: Value) -> Result<T, String> {
    T::decode(value, &Path::ROOT.member(name)).map_err(|error| print::error(&error))
}

/// `migrate_set_capability capability on|off`.
pub(crate) fn set_capability(arguments: &Arguments, _: &Context<'_>) -> Result<Action, Wrong> {
    let name = arguments.text("capability");
    let capability = MigrationCapability::from_wire(&name).ok_or_else(|| no_such(&name))?;
    let state = arguments.switch("state")?;
    let capabilities = vec![MigrationCapabilityStatus { capability, state }];
    Ok(Action::silent(Command::MigrateSetCapabilities {
        capabilities,
    }))
}

/// Parameters that a person gives in MiB a second unless with a suffix, as in QEMU.
const RATES: &[&str] = &[
    "max-bandwidth",
    "avail-switchover-bandwidth",
    "max-postcopy-bandwidth",
];
/// Parameters that a person gives in bytes unless with a suffix.
const SIZES: &[&str] = &["xbzrle-cache-size"];

fn no_such(name: &str) -> String {
    format!("Error: invalid parameter value: {name}\n")
}

/// `migrate_set_parameter parameter value`.
pub(crate) fn set_parameter(arguments: &Arguments, _: &Context<'_>) -> Result<Action, Wrong> {
    let name = arguments.text("parameter");
    let text = arguments.text("value");
    let value = if RATES.contains(&name.as_str()) {
        Value::from(size(&text, 1 << 20)?)
    } else if SIZES.contains(&name.as_str()) {
        Value::from(size(&text, 1)?)
    } else {
        match text.as_str() {
            "on" => Value::Bool(true),
            "off" => Value::Bool(false),
            text => text
                .parse::<i64>()
                .map_or_else(|_| Value::from(text), Value::from),
        }
    };
    if !MigrationParameters::MEMBERS.contains(&name.as_str()) {
        return Err(no_such(&name).into());
    }
    let mut members = Map::new();
    members.insert(name, value);
    let parameters = Box::<MigrationParameters>::decode(Value::Object(members), &Path::ROOT)
        .map_err(|error| print::error(&error))?;
    Ok(Action::silent(Command::MigrateSetParameters(parameters)))
}

/// `10`, `10M`, `1.5G`: in bytes, with `unit` bytes for a number without a suffix.
fn size(text: &str, unit: u64) -> Result<u64, String> {
    let wrong = || format!("Error: Invalid size {text}\n");
    let (number, unit) = match text.char_indices().last() {
        Some((at, suffix)) if suffix.is_ascii_alphabetic() => {
            let shift = match suffix.to_ascii_uppercase() {
                'B' => 0,
                'K' => 10,
                'M' => 20,
                'G' => 30,
                'T' => 40,
                _ => return Err(wrong()),
            };
            (text.get(..at).unwrap_or_default(), 1_u64 << shift)
        }
        _ => (text, unit),
    };
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(unit).ok_or_else(wrong);
    }
    let bytes = number.parse::<f64>().map_err(|_| wrong())? * unit as f64;
    // Below 2^63, so that the conversion is exact enough and never saturates.
    if bytes.is_finite() && (0.0..9.2e18).contains(&bytes) {
        Ok(bytes as u64)
    } else {
        Err(wrong())
    }
}

/// `announce_self [interfaces] [id]`, in the rounds that the migration parameters say.
pub(crate) fn announce_self(arguments: &Arguments, _: &Context<'_>) -> Result<Action, Wrong> {
    let interfaces = arguments
        .get("interfaces")
        .map(|list| list.split(',').map(str::to_owned).collect());
    let id = arguments.get("id").map(str::to_owned);
    Ok(Action::Steps(Box::new(|machine| {
        let answer = machine.ask(Command::QueryMigrateParameters);
        let announced = answer.and_then(|response| {
            let parameters = CurrentMigrationParameters::try_from(response)
                .map_or_else(|_| MigrationParameters::default(), |found| found.0);
            let order = rounds_of(&parameters, interfaces, id);
            machine.ask(Command::AnnounceSelf(order))
        });
        announced.map_or_else(|error| print::error(&error), |_| String::new())
    })))
}

fn rounds_of(
    parameters: &MigrationParameters,
    interfaces: Option<Vec<String>>,
    id: Option<String>,
) -> AnnounceParameters {
    let number = |value: Option<u64>, default: i64| {
        value.map_or(default, |value| i64::try_from(value).unwrap_or(i64::MAX))
    };
    AnnounceParameters {
        initial_ms: number(parameters.announce_initial_ms, 50),
        max_ms: number(parameters.announce_max_ms, 550),
        rounds: number(parameters.announce_rounds, 5),
        step_ms: number(parameters.announce_step_ms, 100),
        interfaces,
        id,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_announcement_goes_by_the_migration_parameters() {
        let parameters = MigrationParameters {
            announce_rounds: Some(2),
            announce_max_ms: Some(u64::MAX),
            ..MigrationParameters::default()
        };
        let order = rounds_of(&parameters, None, Some("x".into()));
        assert_eq!(
            (order.rounds, order.initial_ms, order.step_ms),
            (2, 50, 100)
        );
        assert_eq!((order.max_ms, order.id.as_deref()), (i64::MAX, Some("x")));
    }

    #[test]
    fn sizes_have_suffixes() {
        assert_eq!(size("32", 1 << 20), Ok(32 << 20));
        assert_eq!(size("1.5G", 1), Ok(3 << 29));
        assert_eq!(size("7k", 1), Ok(7 << 10));
        for wrong in ["", "M", "-1", "1X", "99999999999T", "NaN", "inf"] {
            assert!(size(wrong, 1).is_err(), "{wrong}");
        }
    }
}
