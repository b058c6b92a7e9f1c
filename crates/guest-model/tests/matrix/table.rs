//! The matrix as a page.

use crate::cell::{Cell, REACHABLE, REACHABLE_AFTER_BUTTON, REACHABLE_AFTER_PANIC, SETTLED, Way};
use crate::faults::Fault;
use crate::moments::Moment;
use crate::stage::SOURCE;
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

const PAGE: &str = "docs/fault-matrix.md";
const ANEW: &str = "cargo xtask matrix --write";

#[derive(Default)]
pub(crate) struct Table {
    cells: BTreeMap<(bool, Fault, Moment), Cell>,
}

impl Table {
    pub(crate) fn add(&mut self, native: bool, moment: Moment, fault: Fault, cell: Cell) {
        self.cells.insert((native, fault, moment), cell);
    }

    /// How many cells were played.
    pub(crate) fn played(&self) -> usize {
        let played = |cell: &&Cell| matches!(cell, Cell::Played { .. });
        self.cells.values().filter(played).count()
    }

    /// The page in the repository says the same; or is written.
    pub(crate) fn compare_with_docs(&self) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../..")
            .join(PAGE);
        let page = self.to_string();
        if std::env::var_os("STANDFAST_WRITE_DOCS").is_some() {
            std::fs::write(&path, page).unwrap();
            return;
        }
        let there = std::fs::read_to_string(&path).unwrap_or_default();
        let (there, page) = (shape(&there), shape(&page));
        let differs: Vec<_> = there.iter().zip(&page).filter(|(a, b)| a != b).collect();
        assert!(
            there == page,
            "{PAGE} is stale ({differs:#?}); {ANEW} writes it anew"
        );
    }
}

/// A page without what may differ between two runs: on which side a played cell ended, and the notes' numbers. A few
/// faults race with the migration, and either side is right.
fn shape(page: &str) -> Vec<String> {
    let cell = |cell: &str| match cell.trim() {
        text if text.starts_with('—') => "impossible".to_owned(),
        text if text.starts_with("source (") || text.starts_with("source,") => "played".to_owned(),
        text if text.starts_with("target (") || text.starts_with("target,") => "played".to_owned(),
        "source" | "target" => "played".to_owned(),
        text => text.to_owned(),
    };
    let note = |line: &&str| !line.starts_with(|first: char| first.is_ascii_digit());
    let tables = page
        .split_once("## The moments")
        .map_or(page, |(tables, _)| tables);
    let rest = page.get(tables.len()..).unwrap_or_default();
    let tables = tables.lines().filter(note);
    let tables = tables.map(|line| line.split('|').map(cell).collect::<Vec<_>>().join("|"));
    tables.chain(rest.lines().map(str::to_owned)).collect()
}

/// Notes by number, in the order in which they are first needed.
#[derive(Default)]
struct Notes(Vec<String>);

impl Notes {
    fn number(&mut self, note: &str) -> usize {
        match self.0.iter().position(|known| known == note) {
            Some(at) => at + 1,
            None => {
                self.0.push(note.to_owned());
                self.0.len()
            }
        }
    }
}

fn entry(cell: &Cell, notes: &mut Notes) -> String {
    match cell {
        Cell::Played { at, way, missing } => {
            let mut text = String::from(if *at == SOURCE { "source" } else { "target" });
            text += match way {
                Way::ByItself => "",
                Way::Continued => " (`cont`)",
                Way::Loaded => " (file)",
            };
            if let Some(reason) = missing {
                let note = format!("the primary is not back, and the host says so: `{reason}`");
                text += &format!(", no primary {}", notes.number(&note));
            }
            text
        }
        Cell::Impossible(why) => format!("— {}", notes.number(why)),
        Cell::Skipped => "skipped".into(),
        Cell::Failed => "**failed**".into(),
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut notes = Notes::default();
        writeln!(
            f,
            "# The fault matrix\n\n\
             Made by `{ANEW}`; that fails without `--write` when it is stale. Each moment of a migration × each fault, played in one process by\n\
             the model guest ([crates/guest-model](../crates/guest-model/src/lib.rs)), with ACPI's hotplug and with native hotplug.\n\
             A cell says which side runs the guest in the end; where the fault races with the migration, it may be the other one\n\
             another time. {} cells were played, and in every one of them\n",
            self.played()
        )?;
        writeln!(
            f,
            "- exactly one side runs the guest, and at no moment both do;\n\
             - numbered frames pass both ways within {} s of the fault ({} s if the guest does nothing for ten; {} s if a\n  \
               function is gone of which a native slot's button has it let go), none is doubled,\n  \
               and none lost but where the path changed or its driver left while it was on its way;\n\
             - the primary is back within {} s, or the host says why it is not (a note);\n\
             - of the machines no thread, no open file and no socket is left.\n\n\
             Times are of the guest's and the machines' clock, which is handed in.\n",
            REACHABLE.as_secs(),
            REACHABLE_AFTER_PANIC.as_secs(),
            REACHABLE_AFTER_BUTTON.as_secs(),
            SETTLED.as_secs()
        )?;
        for (native, title) in [(false, "ACPI hotplug"), (true, "Native hotplug")] {
            let cells: Vec<(Fault, Moment, &Cell)> = self
                .cells
                .iter()
                .filter(|((n, ..), _)| *n == native)
                .map(|((_, fault, moment), cell)| (*fault, *moment, cell))
                .collect();
            let moments: Vec<Moment> = Moment::ALL
                .into_iter()
                .filter(|moment| cells.iter().any(|cell| cell.1 == *moment))
                .collect();
            write!(f, "## {title}\n\n| |")?;
            for moment in &moments {
                write!(f, " {} |", moment.name())?;
            }
            writeln!(f, "\n|---|{}", "---|".repeat(moments.len()))?;
            for fault in Fault::ALL {
                let row: Vec<_> = cells.iter().filter(|cell| cell.0 == fault).collect();
                if row.is_empty() {
                    continue;
                }
                write!(f, "| {} |", fault.name())?;
                for cell in row {
                    write!(f, " {} |", entry(cell.2, &mut notes))?;
                }
                writeln!(f)?;
            }
            writeln!(f)?;
        }
        for (number, note) in (1..).zip(&notes.0) {
            writeln!(f, "{number}. {note}")?;
        }
        writeln!(
            f,
            "\n`cont`: the source had said `Go`, or the target had the guest, and was lost. The source does not run the guest by\n\
             itself then; the operator, who knows that the target does not, said `cont`.\n\n## The moments\n\n\
             | | source | target |\n|---|---|---|"
        )?;
        for moment in Moment::ALL {
            let (source, target) = moment.about();
            writeln!(f, "| {} | {source} | {target} |", moment.name())?;
        }
        writeln!(f, "\n## The faults\n\n| | |\n|---|---|")?;
        for fault in Fault::ALL {
            writeln!(f, "| {} | {} |", fault.name(), fault.about())?;
        }
        write!(
            f,
            "\n## What this does not show\n\n\
             The primary is a virtio-net function, so that no VFIO function is opened, reset or mapped, and no VF's binding can be\n\
             left behind; the host's ends are sockets: no tap, no bridge's table. Both machines are in one process: killing the\n\
             target is its connection's and its machine's end, not that of a process (which the tests of the program do, as they\n\
             close a monitor's client). The scenarios of the lab (`cargo xtask test`) play a part of this with all of that real.\n"
        )
    }
}
