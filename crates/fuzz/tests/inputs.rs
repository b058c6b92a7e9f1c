//! Every seed, and every input that once crashed, through its target: in its bound, and to its end.
#![allow(clippy::unwrap_used)]

use fuzz::heap::Counting;
use fuzz::{TARGETS, Target};
use std::collections::HashSet;

#[global_allocator]
static HEAP: Counting = Counting;

fn regressions(target: &Target) -> Vec<(String, Vec<u8>)> {
    let Ok(folder) = std::fs::read_dir(target.regressions()) else {
        return Vec::new();
    };
    folder
        .map(|entry| {
            let path = entry.unwrap().path();
            (path.display().to_string(), std::fs::read(&path).unwrap())
        })
        .collect()
}

// One test: the heap's bound is the process's.
#[test]
fn every_kept_input_ends_well() {
    let mut names = HashSet::new();
    for target in TARGETS {
        assert!(names.insert(target.name));
        let seeds = (target.seeds)();
        assert!(
            !seeds.is_empty(),
            "{} has nothing to begin with",
            target.name
        );
        for (index, seed) in seeds.iter().enumerate() {
            println!("{}: seed {index}", target.name);
            assert!(
                seed.len() <= target.longest_bytes,
                "{}: a seed of {} bytes",
                target.name,
                seed.len()
            );
            target.play(seed);
        }
        for (file, input) in regressions(target) {
            println!("{file}");
            target.play(&input);
        }
        target.play(&[]);
    }
    // A folder that belongs to no target would never be played.
    let kept = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("regressions");
    for entry in std::fs::read_dir(kept).into_iter().flatten() {
        let name = entry.unwrap().file_name();
        assert!(
            Target::find(name.to_str().unwrap()).is_some(),
            "{name:?} is no target"
        );
    }
}
