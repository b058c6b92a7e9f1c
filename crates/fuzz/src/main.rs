//! The targets as a program: with feature `libfuzzer` the fuzzer itself, told by the environment what to do
//! (`STANDFAST_FUZZ_TARGET`, and `STANDFAST_FUZZ_SEEDS`, a folder to write the seeds into before it begins; without a target
//! it lists them); without that feature it plays the files it is given.
#![cfg_attr(feature = "libfuzzer", no_main)]

use fuzz::heap::Counting;

#[global_allocator]
static HEAP: Counting = Counting;

#[cfg(feature = "libfuzzer")]
mod fuzzer {
    use fuzz::{TARGETS, Target};
    use std::path::PathBuf;
    use std::process::exit;
    use std::sync::OnceLock;

    static CHOSEN: OnceLock<&'static Target> = OnceLock::new();

    fn choose() {
        let name = std::env::var("STANDFAST_FUZZ_TARGET").unwrap_or_default();
        let Some(target) = Target::find(&name) else {
            for target in TARGETS {
                println!("{}\t{}\t{}", target.name, target.longest_bytes, target.what);
            }
            exit(0);
        };
        if let Some(folder) = std::env::var_os("STANDFAST_FUZZ_SEEDS").map(PathBuf::from)
            && let Err(error) = target.write_seeds(&folder)
        {
            eprintln!("cannot write {}: {error}", folder.display());
            exit(1);
        }
        CHOSEN.get_or_init(|| target);
    }

    libfuzzer_sys::fuzz_target!(init: choose(), |data: &[u8]| {
        if let Some(target) = CHOSEN.get() {
            target.play(data);
        }
    });
}

#[cfg(not(feature = "libfuzzer"))]
fn main() -> std::process::ExitCode {
    use std::process::ExitCode;
    let mut arguments = std::env::args().skip(1);
    let Some(target) = arguments.next().and_then(|name| fuzz::Target::find(&name)) else {
        let names: Vec<_> = fuzz::TARGETS.iter().map(|target| target.name).collect();
        eprintln!("usage: fuzz {} FILE…", names.join("|"));
        return ExitCode::FAILURE;
    };
    for file in arguments {
        match std::fs::read(&file) {
            Ok(input) => target.play(&input),
            Err(error) => {
                eprintln!("{file}: {error}");
                return ExitCode::FAILURE;
            }
        }
        println!("{file}: ended well");
    }
    ExitCode::SUCCESS
}
