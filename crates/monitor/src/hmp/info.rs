//! `info`: what there is to see, declared once.

use super::arguments::{Arguments, Wrong, flag, maybe};
use super::table::{Action, Context, HmpCommand, Run, command, help_line};
use super::{Machine, print, print_pci};
use crate::command::Command;
use crate::types::*;

pub(super) static ITEMS: &[HmpCommand] = &[
    plain(
        &["version"],
        "show the version of the program",
        |_, context| {
            let VersionTriple {
                major,
                minor,
                micro,
            } = context.identity.qemu;
            Ok(Action::Text(format!(
                "{major}.{minor}.{micro} ({})\n",
                context.identity.package
            )))
        },
    ),
    plain(&["status"], "show the run state", |_, _| {
        Ok(Action::printed(Command::QueryStatus, print::status))
    }),
    plain(&["name"], "show the guest's name", |_, _| {
        Ok(Action::printed(Command::QueryName, |info: NameInfo| {
            info.name.map(|name| name + "\n").unwrap_or_default()
        }))
    }),
    plain(&["uuid"], "show the guest's UUID", |_, _| {
        Ok(Action::printed(Command::QueryUuid, |info: UuidInfo| {
            info.uuid + "\n"
        }))
    }),
    plain(&["kvm"], "show whether KVM is used", |_, _| {
        Ok(Action::printed(Command::QueryKvm, print::kvm))
    }),
    plain(&["cpus"], "show the vCPUs", |_, _| {
        Ok(Action::printed(Command::QueryCpusFast, print::cpus))
    }),
    plain(
        &["memory_size_summary"],
        "show the size of memory",
        |_, _| {
            Ok(Action::printed(
                Command::QueryMemorySizeSummary,
                print::memory,
            ))
        },
    ),
    plain(&["pci"], "show the PCI functions", |_, _| {
        Ok(Action::printed(Command::QueryPci, print_pci::pci))
    }),
    plain(&["network"], "show NICs and what is behind them", |_, _| {
        Ok(Action::printed(Command::QueryNetwork, print::network))
    }),
    plain(
        &["failover"],
        "show the pairs of standby and primary",
        |_, _| Ok(Action::printed(Command::QueryFailover, print::failover)),
    ),
    plain(&["migrate"], "show the migration", |_, _| {
        Ok(Action::printed(Command::QueryMigrate, print::migration))
    }),
    plain(
        &["migrate_capabilities"],
        "show what migrations can do",
        |_, _| {
            Ok(Action::printed(
                Command::QueryMigrateCapabilities,
                print::capabilities,
            ))
        },
    ),
    plain(
        &["migrate_parameters"],
        "show the parameters of migrations",
        |_, _| {
            Ok(Action::printed(
                Command::QueryMigrateParameters,
                print::parameters,
            ))
        },
    ),
    plain(&["chardev"], "show the character devices", |_, _| {
        Ok(Action::printed(Command::QueryChardev, print::chardevs))
    }),
    command(
        &["block"],
        &[flag("nodes", 'n'), flag("verbose", 'v'), maybe("device")],
        "[-n] [-v] [device]",
        "show the block devices, or one (with -n: the nodes; with -v: more)",
        |a, _| {
            let wanted = a.get("device").map(str::to_owned);
            let verbose = a.has("verbose");
            Ok(if a.has("nodes") {
                let flat = Some(true);
                let print = move |list| print::nodes(list, wanted.as_deref());
                Action::printed(Command::QueryNamedBlockNodes { flat }, print)
            } else {
                let print = move |list| print::blocks(list, wanted.as_deref(), verbose);
                Action::printed(Command::QueryBlock, print)
            })
        },
    ),
    plain(&["iothreads"], "show the I/O threads", |_, _| {
        Ok(Action::printed(Command::QueryIothreads, print::iothreads))
    }),
    command(
        &["qtree"],
        &[flag("brief", 'b')],
        "[-b]",
        "show buses and devices (with -b: without their properties)",
        |a, _| {
            let brief = a.has("brief");
            Ok(Action::printed(Command::QueryQtree, move |buses| {
                print::qtree(buses, brief)
            }))
        },
    ),
    command(
        &["qom-tree"],
        &[maybe("path")],
        "[path]",
        "show the tree of objects",
        |a, _| {
            let path = a.get("path").unwrap_or("/machine").to_owned();
            Ok(Action::Steps(Box::new(move |machine| {
                qom_tree(machine, path)
            })))
        },
    ),
    plain(
        &["roms"],
        "show what was loaded into guest memory",
        |_, _| {
            Ok(Action::printed(
                Command::QueryRoms,
                |text: HumanReadableText| text.human_readable_text,
            ))
        },
    ),
];

/// One that takes nothing.
const fn plain(names: &'static [&'static str], help: &'static str, show: Run) -> HmpCommand {
    command(names, &[], "", help, show)
}

/// `info` alone says what there is.
pub(super) fn run(_: &Arguments, _: &Context<'_>) -> Result<Action, Wrong> {
    Ok(Action::Text(help(None)))
}

/// `help info [item]`.
pub(super) fn help(name: Option<&str>) -> String {
    ITEMS
        .iter()
        .filter(|item| name.is_none_or(|name| item.names.contains(&name)))
        .map(|item| {
            help_line(
                &format!("info {}", item.names.join("|")),
                item.usage,
                item.help,
            )
        })
        .collect()
}

/// How many objects the tree shows at most, and how deep: the machine's answers could go round in circles.
const MAX_OBJECTS: usize = 10_000;
const MAX_DEPTH: usize = 32;

fn qom_tree(machine: &Machine, from: String) -> String {
    let mut text = format!("{from}\n");
    let mut pending = vec![(from, 1)];
    let mut shown = 0;
    while let Some((path, depth)) = pending.pop() {
        if depth > 1 {
            let name = path.rsplit('/').next().unwrap_or_default();
            text.push_str(&format!(
                "{:indent$}/{name}\n",
                "",
                indent = (depth - 1) * 2
            ));
        }
        shown += 1;
        if depth >= MAX_DEPTH || shown >= MAX_OBJECTS {
            continue;
        }
        let list = match machine.ask(Command::QomList { path: path.clone() }) {
            Ok(response) => Vec::<ObjectPropertyInfo>::try_from(response).unwrap_or_default(),
            Err(_) if depth == 1 => return format!("Path '{path}' could not be resolved.\n"),
            Err(error) => return text + &print::error(&error),
        };
        let children: Vec<_> = list
            .into_iter()
            .filter(|property| property.kind.starts_with("child<"))
            .collect();
        for child in children.into_iter().rev() {
            pending.push((format!("{path}/{}", child.name), depth + 1));
        }
    }
    text
}
