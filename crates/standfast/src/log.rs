//! Where the log goes and how much of it: `-d`, `-D`, `-msg timestamp=on` and the environment's `STANDFAST_LOG`.
//!
//! Without any of them warnings and errors go to standard error. `STANDFAST_LOG` is a filter of its own
//! (`migration=debug,pci=trace`) and wins over `-d`.

use std::fs::File;
use std::io::{self, IsTerminal};
use std::sync::Mutex;

use config::vm::LogConfig;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::time::SystemTime;

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
            let builder = builder
                .with_ansi(io::stderr().is_terminal())
                .with_writer(io::stderr);
            if config.timestamp {
                builder.with_timer(SystemTime).try_init()
            } else {
                builder.without_time().try_init()
            }
        }
    };
    result.map_err(io::Error::other)
}
