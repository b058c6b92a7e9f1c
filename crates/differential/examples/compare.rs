//! Plays scenarios by name (or all) and prints both transcripts: `play STANDFAST [NAME...]`; with `qemu` in its place QEMU is compared with itself.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use differential::scenario::{perform, play_all};
use differential::scenarios::GROUPS;
use differential::{Programs, table};

fn main() {
    let mut arguments = std::env::args().skip(1);
    let standfast = arguments.next().unwrap();
    let names: Vec<String> = arguments.collect();
    let mut programs = Programs::find(Path::new(&standfast)).unwrap();
    if standfast == "qemu" {
        programs.ours = programs.qemu.clone();
    }
    let mut outcomes = Vec::new();
    for group in GROUPS {
        if names.is_empty() || names.iter().any(|name| name == group.name) {
            outcomes.extend(play_all(group.scenarios, &programs, 4));
        }
        for scenario in group.scenarios {
            if names.iter().any(|name| name == scenario.name) {
                for program in [&programs.qemu, &programs.ours] {
                    let (transcripts, error) = perform(scenario, program);
                    println!("{} {}", program.kind.label(), scenario.name);
                    for transcript in transcripts {
                        print!("{transcript}");
                    }
                    println!("  {error:?}");
                }
            }
        }
    }
    print!("{}", table::table(&outcomes));
}
