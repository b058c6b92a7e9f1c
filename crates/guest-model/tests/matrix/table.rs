//! The matrix as a page.

use crate::cell::{REACHABLE, REACHABLE_AFTER_BUTTON, REACHABLE_AFTER_PANIC, SETTLED};
use crate::faults::Fault;
use crate::moments::{Course, Moment};
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

pub(crate) const PAGE: &str = "docs/fault-matrix.md";
pub(crate) const ANEW: &str = "cargo xtask matrix --write";

/// The tables, by native hotplug, and their titles.
const TABLES: [(bool, &str); 2] = [(false, "ACPI hotplug"), (true, "Native hotplug")];

/// What the page says of a cell: a word or two, and the note that it has a number of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) text: String,
    pub(crate) note: Option<String>,
}

impl Entry {
    pub(crate) fn is_played(&self) -> bool {
        self.text.starts_with("source") || self.text.starts_with("target")
    }

    pub(crate) fn is_impossible(&self) -> bool {
        self.text == "—"
    }
}

pub(crate) struct Table {
    cells: BTreeMap<(bool, Fault, Moment), Entry>,
}

/// Whether the page is to be written rather than compared with.
pub(crate) fn is_written() -> bool {
    std::env::var_os("STANDFAST_WRITE_DOCS").is_some()
}

fn path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .join(PAGE)
}

impl Table {
    pub(crate) const fn new() -> Self {
        let cells = BTreeMap::new();
        Self { cells }
    }

    /// As the page in the repository has it; what it does not have is not in it.
    pub(crate) fn of_page() -> Self {
        let page = std::fs::read_to_string(path()).unwrap_or_default();
        let lines = page.lines().filter_map(|line| line.split_once(". "));
        let notes: BTreeMap<usize, &str> = lines
            .filter_map(|(number, note)| Some((number.parse().ok()?, note)))
            .collect();
        let mut table = Self::new();
        for (native, title) in TABLES {
            let begin = format!("## {title}\n");
            let rows = page.split_once(&begin).map_or("", |(_, rest)| rest);
            let rows = rows.split("\n## ").next().unwrap_or_default();
            let mut moments = Vec::new();
            for row in rows.lines().filter_map(|row| row.strip_prefix("| ")) {
                let mut cells = row.split('|').map(str::trim);
                let name = cells.next().unwrap_or_default();
                if name.is_empty() {
                    moments = cells.collect();
                    continue;
                }
                let Some(fault) = Fault::ALL.into_iter().find(|fault| fault.name() == name) else {
                    continue;
                };
                for (moment, cell) in moments.iter().zip(cells) {
                    let Some(moment) = Moment::all().find(|m| m.name() == *moment) else {
                        continue;
                    };
                    let numbered = cell.rsplit_once(' ');
                    let numbered = numbered.and_then(|(text, n)| Some((text, n.parse().ok()?)));
                    let entry = match numbered {
                        Some((text, number)) => Entry {
                            text: text.to_owned(),
                            note: notes.get(&number).map(|note| (*note).to_owned()),
                        },
                        None => Entry {
                            text: cell.to_owned(),
                            note: None,
                        },
                    };
                    table.add(native, moment, fault, entry);
                }
            }
        }
        table
    }

    pub(crate) fn add(&mut self, native: bool, moment: Moment, fault: Fault, entry: Entry) {
        self.cells.insert((native, fault, moment), entry);
    }

    pub(crate) fn get(&self, native: bool, moment: Moment, fault: Fault) -> Option<&Entry> {
        self.cells.get(&(native, fault, moment))
    }

    pub(crate) fn merge(&mut self, other: Self) {
        self.cells.extend(other.cells);
    }

    /// How many cells were played.
    pub(crate) fn played(&self) -> usize {
        self.cells
            .values()
            .filter(|entry| entry.is_played())
            .count()
    }

    pub(crate) fn write(&self) {
        std::fs::write(path(), self.to_string()).unwrap();
    }

    /// The page in the repository is this, word for word.
    pub(crate) fn compare_with_page(&self) {
        let (page, ours) = (
            std::fs::read_to_string(path()).unwrap_or_default(),
            self.to_string(),
        );
        let differs = page
            .lines()
            .zip(ours.lines())
            .find(|(there, here)| there != here);
        assert!(
            page == ours,
            "{PAGE} is stale ({differs:#?}); {ANEW} writes it anew"
        );
    }
}

impl Table {
    /// The table of some courses.
    fn write_part(
        &self,
        f: &mut fmt::Formatter<'_>,
        native: bool,
        courses: &[Course],
        notes: &mut Notes,
    ) -> fmt::Result {
        let fits = |moment: &Moment| courses.contains(&moment.course);
        let has = |moment: &Moment| {
            self.cells
                .keys()
                .any(|(n, _, m)| (*n, m) == (native, moment))
        };
        let moments: Vec<_> = Moment::all().filter(|m| fits(m) && has(m)).collect();
        if moments.is_empty() {
            return Ok(());
        }
        write!(f, "| |")?;
        for moment in &moments {
            write!(f, " {} |", moment.name())?;
        }
        writeln!(f, "\n|---|{}", "---|".repeat(moments.len()))?;
        for fault in Fault::ALL {
            let row: Vec<_> = moments
                .iter()
                .filter_map(|moment| self.get(native, *moment, fault))
                .collect();
            if row.iter().all(|entry| entry.is_impossible()) {
                continue;
            }
            write!(f, "| {} |", fault.name())?;
            for Entry { text, note } in row {
                match note {
                    Some(note) => write!(f, " {text} {} |", notes.number(note))?,
                    None => write!(f, " {text} |")?,
                }
            }
            writeln!(f)?;
        }
        writeln!(f)
    }
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

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut notes = Notes::default();
        writeln!(
            f,
            "# The fault matrix\n\n\
             Made by `{ANEW}`; the tests of crate `guest-model` fail when it is stale. Each moment of a migration × each fault, played in one process by\n\
             the model guest ([crates/guest-model](../crates/guest-model/src/lib.rs)), with ACPI's hotplug and with native hotplug.\n\
             A cell says which side runs the guest in the end. {} cells are played, and in every one of them\n",
            self.played()
        )?;
        writeln!(
            f,
            "- exactly one side runs the guest, and at no moment both do;\n\
             - numbered frames pass both ways within {} s of the fault ({} s if the guest does nothing for ten; {} s if a\n  \
               function is gone of which a native slot's button has it let go), none is doubled,\n  \
               and none lost but where the path changed or its driver left while it was on its way;\n\
             - the primary is back within {} s, or the host says why it is not (a note);\n\
             - of the machines no thread, no process, no open file and no socket is left.\n\n\
             With two pairs (`two:`) all of it holds for both, and what goes wrong with one goes wrong with the second.\n\
             A fault that cannot happen at any moment of a table has no row there.\n\n\
             Times are of the guest's and the machines' clock, which is handed in.\n",
            REACHABLE.as_secs(),
            REACHABLE_AFTER_PANIC.as_secs(),
            REACHABLE_AFTER_BUTTON.as_secs(),
            SETTLED.as_secs()
        )?;
        for (native, title) in TABLES {
            writeln!(f, "## {title}\n")?;
            for courses in Course::TABLES {
                self.write_part(f, native, courses, &mut notes)?;
            }
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
        for moment in Moment::all() {
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
             target is its connection's and its machine's end, not that of a process (which the tests of the program do). Two\n\
             pairs are played in the moments in which one can be behind the other. The scenarios of the lab (`cargo xtask test`) play a part of this with all of that real.\n"
        )
    }
}
