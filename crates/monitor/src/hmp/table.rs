//! The commands for a person, declared once: how they are written, what help says, what they become.

use super::arguments::{Arguments, Parameter, Wrong, flag, key_values, maybe, options, word};
use super::{Line, Machine, info, migration, print};
use crate::command::Command;
use crate::error::QmpError;
use crate::response::Response;
use crate::server::Identity;
use crate::types::*;
use serde_json::{Map, Value};

/// Prints the response of a command.
pub(crate) type Print = Box<dyn FnOnce(Response) -> String + Send>;

/// What a line comes to.
pub(crate) enum Action {
    /// A text, at once.
    Text(String),
    /// A command, and how its response is printed.
    Submit(Box<Command>, Print),
    /// Several commands, one after the other.
    Steps(Box<dyn FnOnce(&Machine) -> String + Send>),
}

impl Action {
    /// A command whose success says nothing.
    pub(crate) fn silent(command: Command) -> Self {
        Self::Submit(Box::new(command), Box::new(|_| String::new()))
    }

    /// A command whose response is printed by `print`.
    pub(crate) fn printed<T>(
        command: Command,
        print: impl FnOnce(T) -> String + Send + 'static,
    ) -> Self
    where
        T: TryFrom<Response>,
    {
        // The response's type was checked against the command's before it came here.
        Self::Submit(
            Box::new(command),
            Box::new(|response| T::try_from(response).map(print).unwrap_or_default()),
        )
    }
}

/// One command.
pub(crate) struct HmpCommand {
    /// Its names; the first is the one in full.
    pub(crate) names: &'static [&'static str],
    /// Its parameters, for help.
    pub(crate) usage: &'static str,
    /// What it does, for help.
    pub(crate) help: &'static str,
    /// Its parameters.
    pub(crate) parameters: &'static [Parameter],
    /// What it becomes.
    pub(crate) run: Run,
    /// Commands of which one may follow its name.
    pub(crate) below: &'static [HmpCommand],
}

/// What a command may need besides its arguments.
pub(crate) struct Context<'a> {
    pub(crate) identity: &'a Identity,
    pub(crate) in_qmp: bool,
}

pub(crate) type Run = fn(&Arguments, &Context<'_>) -> Result<Action, Wrong>;

pub(crate) const fn command(
    names: &'static [&'static str],
    parameters: &'static [Parameter],
    usage: &'static str,
    help: &'static str,
    run: Run,
) -> HmpCommand {
    HmpCommand {
        names,
        usage,
        help,
        parameters,
        run,
        below: &[],
    }
}

static COMMANDS: &[HmpCommand] = &[
    command(
        &["help", "?"],
        &[maybe("cmd"), maybe("sub")],
        "[cmd]",
        "show the help",
        help,
    ),
    HmpCommand {
        below: info::ITEMS,
        ..command(
            &["info"],
            &[],
            "[subcommand]",
            "show the state of the VM",
            info::run,
        )
    },
    command(&["stop", "s"], &[], "", "stop the vCPUs", |_, _| {
        Ok(Action::silent(Command::Stop))
    }),
    command(&["cont", "c"], &[], "", "let the vCPUs run", |_, _| {
        Ok(Action::silent(Command::Cont))
    }),
    command(&["system_reset"], &[], "", "reset the machine", |_, _| {
        Ok(Action::silent(Command::SystemReset))
    }),
    command(
        &["system_powerdown"],
        &[],
        "",
        "press the power button",
        |_, _| Ok(Action::silent(Command::SystemPowerdown)),
    ),
    command(&["quit", "q"], &[], "", "end the program", |_, _| {
        Ok(Action::silent(Command::Quit))
    }),
    command(
        &["device_add"],
        &[options("device")],
        "driver[,prop=value][,...]",
        "add a device, like -device on the command line",
        device_add,
    ),
    command(
        &["device_del"],
        &[word("id")],
        "device",
        "ask the guest to let go of a device, and remove it",
        |a, _| Ok(Action::silent(Command::DeviceDel { id: a.text("id") })),
    ),
    command(
        &["netdev_add"],
        &[options("netdev")],
        "type,id=str[,prop=value][,...]",
        "add the host's side of a NIC, like -netdev on the command line",
        |a, _| {
            let (kind, members) = kind_and_members(&a.text("netdev"), "type")?;
            Ok(Action::silent(Command::NetdevAdd(NetdevOptions::new(
                kind,
                members,
                Syntax::KeyValue,
            ))))
        },
    ),
    command(
        &["netdev_del"],
        &[word("id")],
        "id",
        "remove the host's side of a NIC",
        |a, _| Ok(Action::silent(Command::NetdevDel { id: a.text("id") })),
    ),
    command(
        &["object_add"],
        &[options("object")],
        "qom-type,id=str[,prop=value][,...]",
        "add an object, like -object on the command line",
        |a, _| {
            let (kind, members) = kind_and_members(&a.text("object"), "qom-type")?;
            Ok(Action::silent(Command::ObjectAdd(ObjectOptions::new(
                kind,
                members,
                Syntax::KeyValue,
            ))))
        },
    ),
    command(
        &["object_del"],
        &[word("id")],
        "id",
        "remove an object",
        |a, _| Ok(Action::silent(Command::ObjectDel { id: a.text("id") })),
    ),
    command(
        &["set_link"],
        &[word("name"), word("up")],
        "name on|off",
        "take the link of a NIC up or down",
        |a, _| {
            Ok(Action::silent(Command::SetLink {
                name: a.text("name"),
                up: a.switch("up")?,
            }))
        },
    ),
    command(
        &["announce_self"],
        &[maybe("interfaces"), maybe("id")],
        "[interfaces] [id]",
        "announce the NICs to the network",
        migration::announce_self,
    ),
    command(
        &["migrate"],
        &[flag("detach", 'd'), flag("resume", 'r'), word("uri")],
        "[-d] [-r] uri",
        "migrate to URI (with -d: do not wait for it to end)",
        migration::migrate,
    ),
    command(
        &["migrate_cancel"],
        &[],
        "",
        "cancel the migration",
        |_, _| Ok(Action::silent(Command::MigrateCancel)),
    ),
    command(
        &["migrate_continue"],
        &[word("state")],
        "state",
        "go on with a migration that waits in the given state",
        migration::migrate_continue,
    ),
    command(
        &["migrate_incoming"],
        &[word("uri")],
        "uri",
        "start to listen for a migration (after -incoming defer)",
        |a, _| {
            let command = Command::MigrateIncoming {
                uri: Some(a.text("uri")),
                channels: None,
                exit_on_error: None,
            };
            Ok(Action::silent(command))
        },
    ),
    command(
        &["migrate_pause"],
        &[],
        "",
        "pause a post-copy migration",
        |_, _| Ok(Action::silent(Command::MigratePause)),
    ),
    command(
        &["migrate_recover"],
        &[word("uri")],
        "uri",
        "listen for a paused post-copy migration to resume",
        |a, _| {
            Ok(Action::silent(Command::MigrateRecover {
                uri: a.text("uri"),
            }))
        },
    ),
    command(
        &["migrate_set_capability"],
        &[word("capability"), word("state")],
        "capability on|off",
        "switch what migrations can do",
        migration::set_capability,
    ),
    command(
        &["migrate_set_parameter"],
        &[word("parameter"), word("value")],
        "parameter value",
        "set a parameter of migrations",
        migration::set_parameter,
    ),
    command(
        &["failover_switch"],
        &[word("id"), word("path")],
        "standby-id standby|primary",
        "move the traffic of a pair to one of its devices",
        |a, _| {
            let path = a.text("path");
            let path = FailoverPath::from_wire(&path).ok_or_else(|| {
                format!("Error: Parameter 'path' does not accept value '{path}'\n")
            })?;
            Ok(Action::silent(Command::FailoverSwitch {
                id: a.text("id"),
                path,
            }))
        },
    ),
    command(
        &["qom-list"],
        &[word("path")],
        "path",
        "list the properties of an object",
        |a, _| {
            Ok(Action::printed(
                Command::QomList {
                    path: a.text("path"),
                },
                print::properties,
            ))
        },
    ),
    command(
        &["qom-get"],
        &[word("path"), word("property")],
        "path property",
        "print a property of an object",
        |a, _| {
            let command = Command::QomGet {
                path: a.text("path"),
                property: a.text("property"),
            };
            Ok(Action::printed(command, |value: Value| {
                format!("{value:#}\n")
            }))
        },
    ),
];

/// The commands' names, for a fuzzer.
#[cfg(any(test, feature = "fuzz"))]
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    COMMANDS
        .iter()
        .filter_map(|command| command.names.first().copied())
}

/// What a line comes to.
///
/// # Errors
/// What to print instead: the line is not understood.
pub(crate) fn interpret(line: &Line<'_>, identity: &Identity) -> Result<Action, String> {
    let text = line.text.trim();
    if text.is_empty() {
        return Ok(Action::Text(String::new()));
    }
    let (command, name, arguments) = look_up(text)?;
    let context = Context {
        identity,
        in_qmp: line.in_qmp,
    };
    let action = match Arguments::parse(command.parameters, arguments) {
        Ok(arguments) => (command.run)(&arguments, &context),
        Err(Wrong::Usage(what)) => {
            return Err(format!(
                "{}: {what}\n{}",
                command.names.join("|"),
                try_help(name)
            ));
        }
        Err(Wrong::Switch(letter)) => {
            return Err(format!(
                "{}: unsupported option -{letter}\n{}",
                command.names.join("|"),
                try_help(name)
            ));
        }
        Err(wrong) => Err(wrong),
    };
    action.map_err(|wrong| match wrong {
        Wrong::Usage(what) => format!("{what}\n{}", try_help(name)),
        Wrong::Switch(letter) => format!("unsupported option -{letter}\n{}", try_help(name)),
        Wrong::Text(text) => text,
    })
}

/// The command at the beginning of a line, what of the line calls it, and what follows.
///
/// # Errors
/// What to print instead: there is none of such a name.
fn look_up(line: &str) -> Result<(&'static HmpCommand, &str, &str), String> {
    let (mut table, mut rest) = (COMMANDS, line);
    loop {
        let (name, after) = first_word(rest);
        let called = line.len() - rest.len() + name.len();
        let called = line.get(..called).unwrap_or(line);
        let command = find(table, name).ok_or_else(|| unknown(called))?;
        if after.is_empty() || command.below.is_empty() {
            return Ok((command, called, after));
        }
        (table, rest) = (command.below, after);
    }
}

fn first_word(text: &str) -> (&str, &str) {
    match text.split_once(char::is_whitespace) {
        Some((word, rest)) => (word, rest.trim_start()),
        None => (text, ""),
    }
}

fn unknown(name: &str) -> String {
    format!("unknown command: '{name}'\n")
}

fn try_help(name: &str) -> String {
    format!("Try \"help {name}\" for more information\n")
}

fn find(table: &'static [HmpCommand], name: &str) -> Option<&'static HmpCommand> {
    table.iter().find(|command| command.names.contains(&name))
}

/// `usage -- help`, one line a command.
pub(crate) fn help_line(names: &str, usage: &str, help: &str) -> String {
    let space = if usage.is_empty() { "" } else { " " };
    format!("{names}{space}{usage} -- {help}\n")
}

fn help(arguments: &Arguments, _: &Context<'_>) -> Result<Action, Wrong> {
    let line =
        |command: &HmpCommand| help_line(&command.names.join("|"), command.usage, command.help);
    Ok(Action::Text(match arguments.get("cmd") {
        Some("info") => {
            let sub = arguments.get("sub");
            match (info::help(sub), sub) {
                (text, Some(sub)) if text.is_empty() => unknown(&format!("info {sub}")),
                (text, _) => text,
            }
        }
        Some(name) => find(COMMANDS, name).map_or_else(|| unknown(name), line),
        None => COMMANDS.iter().map(line).collect(),
    }))
}

fn kind_and_members(text: &str, implied: &str) -> Result<(String, Map<String, Value>), String> {
    let mut members = key_values(text, implied);
    match members.shift_remove(implied) {
        Some(Value::String(kind)) if !kind.is_empty() => Ok((kind, members)),
        _ => Err(print::error(&QmpError::missing(implied))),
    }
}

fn device_add(arguments: &Arguments, context: &Context<'_>) -> Result<Action, Wrong> {
    let (driver, members) = kind_and_members(&arguments.text("device"), "driver")?;
    let asks = |word: &str| word == "help" || word == "?";
    if asks(&driver) {
        return Ok(Action::Text(
            (context.identity.device_help)(None).unwrap_or_default(),
        ));
    }
    if members.keys().any(|key| asks(key)) {
        let text = (context.identity.device_help)(Some(&driver));
        return Ok(Action::Text(text.unwrap_or_else(|| {
            print::error(&QmpError::device_not_found(&driver))
        })));
    }
    Ok(Action::silent(Command::DeviceAdd(DeviceOptions::new(
        driver,
        members,
        Syntax::KeyValue,
    ))))
}
