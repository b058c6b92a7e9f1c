//! Where the log goes and how much of it: `-d`, `-D`, `-msg timestamp=on` and the environment's `STANDFAST_LOG`.
//!
//! Without any of them warnings and errors go to standard error. `STANDFAST_LOG` is a filter of its own
//! (`migration=debug,pci=trace`) and wins over `-d`.

use std::fmt;
use std::fs::File;
use std::io::{self, IsTerminal};
use std::sync::Mutex;

use config::vm::LogConfig;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::FmtContext;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::registry::LookupSpan;

/// The environment variable that overrides `-d`.
pub const ENVIRONMENT: &str = "STANDFAST_LOG";

/// The crates whose detail can be asked for by name.
const PARTS: &[&str] = &[
    "failover",
    "hypervisor",
    "machine",
    "memory",
    "migration",
    "monitor",
    "net",
    "pci",
    "standfast",
    "vfio",
    "virtio",
];

/// The items of `-d`, with a line each.
pub const ITEMS: &[(&str, &str)] = &[
    (
        "info",
        "what a machine goes through: start, stop, migration, plug and unplug",
    ),
    ("all", "the detail of all parts"),
    (
        "failover",
        "detail of the pairs: negotiation, plug, unplug, let-go",
    ),
    ("hypervisor", "detail of vCPUs and KVM"),
    ("machine", "detail of the board and its control thread"),
    ("memory", "detail of guest RAM"),
    ("migration", "detail of the stream and its passes"),
    ("monitor", "commands and events of the monitors"),
    ("net", "detail of taps, vhost, announcing and steering"),
    ("pci", "detail of config space and hotplug"),
    ("standfast", "detail of the start"),
    ("vfio", "detail of passed-through devices"),
    ("virtio", "detail of the virtio devices"),
    ("guest_errors", "what the guest does wrong to its devices"),
    ("unimp", "what the guest asks for and is not there"),
    ("trace:PART", "everything of one part, such as trace:pci"),
];

/// The filter directives of an item of `-d`.
///
/// # Errors
/// There is no such item.
pub fn directive(item: &str) -> Result<String, String> {
    let detail = |parts: &[&str]| {
        parts
            .iter()
            .map(|part| format!("{part}=debug"))
            .collect::<Vec<_>>()
            .join(",")
    };
    match item {
        "info" => Ok("info".to_owned()),
        "all" => Ok("debug".to_owned()),
        "guest_errors" | "unimp" => Ok(detail(&["pci", "virtio", "vfio", "machine"])),
        _ if PARTS.contains(&item) => Ok(detail(&[item])),
        _ => match item.strip_prefix("trace:") {
            Some(part) if PARTS.contains(&part) => Ok(format!("{part}=trace")),
            _ => {
                let names: Vec<&str> = ITEMS.iter().map(|(name, _)| *name).collect();
                Err(format!(
                    "unknown log item '{item}'; there are {}",
                    names.join(", ")
                ))
            }
        },
    }
}

/// Sets the log up for the whole process; call it once, and after any fork.
///
/// # Errors
/// The log file cannot be created, or `STANDFAST_LOG` is malformed.
pub fn set_up(config: &LogConfig) -> io::Result<()> {
    let filter = match std::env::var(ENVIRONMENT) {
        Ok(text) if !text.is_empty() => EnvFilter::try_new(&text).map_err(|error| {
            io::Error::other(format!("environment variable {ENVIRONMENT}: {error}"))
        })?,
        _ => {
            let mut directives = vec!["warn".to_owned()];
            directives.extend(config.items.iter().filter_map(|item| directive(item).ok()));
            EnvFilter::new(directives.join(","))
        }
    };
    let builder = tracing_subscriber::fmt().with_env_filter(filter);
    let result = match &config.file {
        Some(path) => {
            // The id is known only now: -daemonize has forked since the option was read.
            let path = path
                .to_string_lossy()
                .replace("%d", &std::process::id().to_string());
            let file = File::create(&path).map_err(|error| {
                io::Error::new(
                    error.kind(),
                    format!("-D {path}: could not open log file '{path}': {error}"),
                )
            })?;
            builder
                .with_ansi(false)
                .with_timer(SystemTime)
                .with_writer(Mutex::new(file))
                .try_init()
        }
        None => {
            let terse = Terse {
                timestamp: config.timestamp,
            };
            builder
                .with_ansi(io::stderr().is_terminal())
                .with_writer(io::stderr)
                .event_format(terse)
                .try_init()
        }
    };
    result.map_err(io::Error::other)
}

/// A line on standard error as QEMU writes it: warnings and errors begin with the program's name, a hint to the line before
/// (its target is [`HINT`]) with nothing, and what was asked for by `-d` with its level and its place in the program.
struct Terse {
    timestamp: bool,
}

/// The target of a line that explains the one before.
const HINT: &str = "hint";

impl<S, N> FormatEvent<S, N> for Terse
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        if self.timestamp {
            SystemTime.format_time(&mut writer)?;
            writer.write_char(' ')?;
        }
        let metadata = event.metadata();
        match *metadata.level() {
            _ if metadata.target() == HINT => {}
            Level::ERROR => write!(writer, "{}: ", program_name())?,
            Level::WARN => write!(writer, "{}: warning: ", program_name())?,
            level => write!(
                writer,
                "{}: {level} {}: ",
                program_name(),
                metadata.target()
            )?,
        }
        context.format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}

/// The program's name as it was called: messages begin with it, as QEMU's do, and it may run under a name of QEMU's.
pub fn program_name() -> String {
    let called = std::env::args_os().next().unwrap_or_default();
    let name = std::path::Path::new(&called).file_name();
    let name = name.map(|name| name.to_string_lossy().replace(char::is_control, " "));
    name.filter(|name| !name.is_empty())
        .unwrap_or_else(|| "standfast".to_owned())
}
