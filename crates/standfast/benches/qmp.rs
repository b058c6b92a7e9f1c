//! Round trips over a Unix socket, ours and QEMU's in turn: `cargo bench -p standfast --bench qmp`.
//!
//! A monitor is asked `query-status`; on the qtest socket four bytes of RAM are read, and four of configuration space are found by
//! two accesses. Prints the medians and their ratio. Nothing is asserted: what a loaded machine shows is no failure.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Rounds, each with both programs one after the other, so that both see the same load.
const ROUNDS: usize = 20;
const ROUND_TRIPS: usize = 1000;
const PATIENCE: Duration = Duration::from_secs(20);

/// A program whose processors stand still, and its two sockets.
struct Vmm {
    child: Child,
    qmp: BufReader<UnixStream>,
    qtest: BufReader<UnixStream>,
}

impl Drop for Vmm {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Vmm {
    fn start(program: &str, still: &[&str], folder: &Path, name: &str) -> Option<Self> {
        let at = |what: &str| folder.join(format!("{name}.{what}"));
        let listening = |path: &PathBuf| format!("unix:{},server=on,wait=off", path.display());
        let (qmp, qtest) = (at("qmp"), at("qtest"));
        let mut child = Command::new(program)
            .args(["-M", "q35", "-m", "64", "-nodefaults", "-display", "none"])
            .args(still)
            .args(["-qtest-log", "/dev/null"])
            .args(["-qmp", &listening(&qmp), "-qtest", &listening(&qtest)])
            .stdin(Stdio::null())
            .spawn()
            .ok()?;
        let begin = Instant::now();
        let mut connect = |path: &PathBuf| loop {
            // The socket cannot be waited for: it is not there yet.
            match UnixStream::connect(path) {
                Ok(stream) => {
                    stream.set_read_timeout(Some(PATIENCE)).unwrap();
                    break BufReader::new(stream);
                }
                Err(error) if begin.elapsed() > PATIENCE => panic!("{program}: {error}"),
                Err(_) => assert!(child.try_wait().unwrap().is_none(), "{program} ended"),
            }
        };
        let (qmp, qtest) = (connect(&qmp), connect(&qtest));
        let mut vmm = Self { child, qmp, qtest };
        line(&mut vmm.qmp);
        ask(&mut vmm.qmp, "{\"execute\": \"qmp_capabilities\"}\n");
        Some(vmm)
    }
}

fn line(stream: &mut BufReader<UnixStream>) -> String {
    let mut line = String::new();
    stream.read_line(&mut line).unwrap();
    line
}

fn ask(stream: &mut BufReader<UnixStream>, request: &str) {
    stream.get_mut().write_all(request.as_bytes()).unwrap();
    let answer = line(stream);
    let good = answer.starts_with("{\"return\"") || answer.starts_with("OK");
    assert!(good, "{answer}");
}

/// What is measured: its name, and one round trip (or two that belong together).
type Subject = (&'static str, fn(&mut Vmm));

const SUBJECTS: &[Subject] = &[
    ("QMP query-status", |vmm| {
        ask(&mut vmm.qmp, "{\"execute\": \"query-status\"}\n");
    }),
    ("qtest readl of RAM", |vmm| {
        ask(&mut vmm.qtest, "readl 0x1000\n");
    }),
    ("qtest outl 0xcf8, inl 0xcfc", |vmm| {
        ask(&mut vmm.qtest, "outl 0xcf8 0x80000000\n");
        ask(&mut vmm.qtest, "inl 0xcfc\n");
    }),
];

fn at(sorted: &[Duration], part: usize, of: usize) -> f64 {
    let place = (sorted.len() * part / of).min(sorted.len().saturating_sub(1));
    sorted[place].as_secs_f64() * 1e6
}

fn main() {
    let folder = tempfile::tempdir().unwrap();
    let qemu = std::env::var("STANDFAST_QEMU").unwrap_or_else(|_| "qemu-system-x86_64".into());
    // At the reset vector: cli; hlt; and to the hlt again.
    let firmware = folder.path().join("halt.bin");
    let mut image = vec![0xf4; 64 << 10];
    image[0xfff0..0xfff4].copy_from_slice(&[0xfa, 0xf4, 0xeb, 0xfd]);
    std::fs::write(&firmware, image).unwrap();
    let ours = env!("CARGO_BIN_EXE_standfast");
    let mut ours = Vmm::start(ours, &["-accel", "qtest"], folder.path(), "ours").unwrap();
    let still = ["-accel", "tcg", "-bios", firmware.to_str().unwrap()];
    let mut theirs = Vmm::start(&qemu, &still, folder.path(), "qemu");
    if theirs.is_none() {
        println!("SKIPPED: there is no {qemu} to compare with");
    }
    for (subject, round_trip) in SUBJECTS {
        let (mut a, mut b) = (Vec::new(), Vec::new());
        let round = |vmm: &mut Vmm, into: &mut Vec<Duration>| {
            for _ in 0..ROUND_TRIPS {
                let begin = Instant::now();
                round_trip(vmm);
                into.push(begin.elapsed());
            }
        };
        for _ in 0..ROUNDS {
            round(&mut ours, &mut a);
            if let Some(theirs) = &mut theirs {
                round(theirs, &mut b);
            }
        }
        println!("{subject}");
        let mut medians = Vec::new();
        for (name, times) in [("Standfast", &mut a), ("QEMU", &mut b)] {
            if times.is_empty() {
                continue;
            }
            times.sort();
            println!(
                "  {name:<10} median {:>7.1} us, 99 of 100 below {:>7.1} us, {} times",
                at(times, 1, 2),
                at(times, 99, 100),
                times.len()
            );
            medians.push(at(times, 1, 2));
        }
        if let [ours, theirs] = medians.as_slice() {
            println!("  ratio {:.2} (below 1: ours is faster)", ours / theirs);
        }
    }
}
