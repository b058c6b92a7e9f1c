//! `info`: what there is to see, declared once.

use super::arguments::{Arguments, Wrong};
use super::table::{Action, Context, help_line};
use super::{Machine, print, print_pci};
use crate::command::Command;
use crate::types::*;

struct Item {
    names: &'static [&'static str],
    help: &'static str,
    show: fn(&Context<'_>) -> Action,
}

const fn item(
    names: &'static [&'static str],
    help: &'static str,
    show: fn(&Context<'_>) -> Action,
) -> Item {
    Item { names, help, show }
}

static ITEMS: &[Item] = &[
    item(&["version"], "show the version of the program", |context| {
        let VersionTriple {
            major,
            minor,
            micro,
        } = context.identity.qemu;
        Action::Text(format!(
            "{major}.{minor}.{micro} ({})\n",
            context.identity.package
        ))
    }),
    item(&["status"], "show the run state", |_| {
        Action::printed(Command::QueryStatus, print::status)
    }),
    item(&["name"], "show the guest's name", |_| {
        Action::printed(Command::QueryName, |info: NameInfo| {
            info.name.map(|name| name + "\n").unwrap_or_default()
        })
    }),
    item(&["uuid"], "show the guest's UUID", |_| {
        Action::printed(Command::QueryUuid, |info: UuidInfo| info.uuid + "\n")
    }),
    item(&["kvm"], "show whether KVM is used", |_| {
        Action::printed(Command::QueryKvm, print::kvm)
    }),
    item(&["cpus"], "show the vCPUs", |_| {
        Action::printed(Command::QueryCpusFast, print::cpus)
    }),
    item(&["memory_size_summary"], "show the size of memory", |_| {
        Action::printed(Command::QueryMemorySizeSummary, print::memory)
    }),
    item(&["pci"], "show the PCI functions", |_| {
        Action::printed(Command::QueryPci, print_pci::pci)
    }),
    item(&["network"], "show NICs and what is behind them", |_| {
        Action::printed(Command::QueryNetwork, print::network)
    }),
    item(
        &["failover"],
        "show the pairs of standby and primary",
        |_| Action::printed(Command::QueryFailover, print::failover),
    ),
    item(&["migrate"], "show the migration", |_| {
        Action::printed(Command::QueryMigrate, print::migration)
    }),
    item(
        &["migrate_capabilities"],
        "show what migrations can do",
        |_| Action::printed(Command::QueryMigrateCapabilities, print::capabilities),
    ),
    item(
        &["migrate_parameters"],
        "show the parameters of migrations",
        |_| Action::printed(Command::QueryMigrateParameters, print::parameters),
    ),
    item(&["chardev"], "show the character devices", |_| {
        Action::printed(Command::QueryChardev, print::chardevs)
    }),
    item(&["block"], "show the block devices", |_| {
        Action::printed(Command::QueryBlock, print::blocks)
    }),
    item(&["iothreads"], "show the I/O threads", |_| {
        Action::printed(Command::QueryIothreads, print::iothreads)
    }),
    item(&["qtree"], "show buses and devices", |_| {
        Action::printed(Command::QueryQtree, print::qtree)
    }),
    item(&["qom-tree"], "show the tree of objects", |_| {
        Action::Steps(Box::new(qom_tree))
    }),
    item(&["roms"], "show what was loaded into guest memory", |_| {
        Action::printed(Command::QueryRoms, |text: HumanReadableText| {
            text.human_readable_text
        })
    }),
];

/// `info [item]`.
pub(crate) fn run(arguments: &Arguments, context: &Context<'_>) -> Result<Action, Wrong> {
    let Some(name) = arguments.get("item") else {
        return Ok(Action::Text(help(None)));
    };
    let item = ITEMS.iter().find(|item| item.names.contains(&name));
    let item = item.ok_or_else(|| format!("unknown command: 'info {name}'\n"))?;
    Ok((item.show)(context))
}

/// `help info [item]`.
pub(crate) fn help(name: Option<&str>) -> String {
    ITEMS
        .iter()
        .filter(|item| name.is_none_or(|name| item.names.contains(&name)))
        .map(|item| help_line(&format!("info {}", item.names.join("|")), "", item.help))
        .collect()
}

/// How many objects the tree shows at most, and how deep: the machine's answers could go round in circles.
const MAX_OBJECTS: usize = 10_000;
const MAX_DEPTH: usize = 32;

fn qom_tree(machine: &Machine) -> String {
    let mut text = String::from("/machine\n");
    let mut pending = vec![("/machine".to_owned(), 1)];
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
