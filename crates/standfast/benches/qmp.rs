//! Round trips of `query-status` over a Unix socket, ours and QEMU's in turn: `cargo bench -p standfast --bench qmp`.
//!
//! Prints the medians and their ratio. Nothing is asserted: what a loaded machine shows is no failure.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Rounds, each with both programs one after the other, so that both see the same load.
const ROUNDS: usize = 20;
const ROUND_TRIPS: usize = 1000;
const PATIENCE: Duration = Duration::from_secs(20);

struct Monitor {
    child: Child,
    stream: BufReader<UnixStream>,
}

impl Drop for Monitor {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Monitor {
    fn start(program: &str, accelerator: &str, socket: &Path) -> Option<Self> {
        let mut child = Command::new(program)
            .args(["-M", &format!("none,accel={accelerator}")])
            .args(["-nodefaults", "-display", "none", "-qmp"])
            .arg(format!("unix:{},server=on,wait=off", socket.display()))
            .stdin(Stdio::null())
            .spawn()
            .ok()?;
        let begin = Instant::now();
        let stream = loop {
            // The socket cannot be waited for: it is not there yet.
            match UnixStream::connect(socket) {
                Ok(stream) => break stream,
                Err(error) if begin.elapsed() > PATIENCE => panic!("{program}: {error}"),
                Err(_) => assert!(child.try_wait().unwrap().is_none(), "{program} ended"),
            }
        };
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut monitor = Self {
            child,
            stream: BufReader::new(stream),
        };
        monitor.line();
        monitor.ask(r#"{"execute": "qmp_capabilities"}"#);
        Some(monitor)
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stream.read_line(&mut line).unwrap();
        line
    }

    fn ask(&mut self, command: &str) {
        self.stream.get_mut().write_all(command.as_bytes()).unwrap();
        let answer = self.line();
        assert!(answer.starts_with("{\"return\""), "{answer}");
    }

    fn round(&mut self, into: &mut Vec<Duration>) {
        for _ in 0..ROUND_TRIPS {
            let begin = Instant::now();
            self.ask(r#"{"execute": "query-status"}"#);
            into.push(begin.elapsed());
        }
    }
}

fn at(sorted: &[Duration], part: usize, of: usize) -> f64 {
    let place = (sorted.len() * part / of).min(sorted.len().saturating_sub(1));
    sorted[place].as_secs_f64() * 1e6
}

fn main() {
    let folder = tempfile::tempdir().unwrap();
    let qemu = std::env::var("STANDFAST_QEMU").unwrap_or_else(|_| "qemu-system-x86_64".into());
    let ours = env!("CARGO_BIN_EXE_standfast");
    let mut ours = Monitor::start(ours, "kvm", &folder.path().join("ours")).unwrap();
    let mut theirs = Monitor::start(&qemu, "tcg", &folder.path().join("qemu"));
    if theirs.is_none() {
        println!("SKIPPED: there is no {qemu} to compare with");
    }
    let (mut a, mut b) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        ours.round(&mut a);
        if let Some(theirs) = &mut theirs {
            theirs.round(&mut b);
        }
    }
    let mut medians = Vec::new();
    for (name, times) in [("Standfast", &mut a), ("QEMU", &mut b)] {
        if times.is_empty() {
            continue;
        }
        times.sort();
        println!(
            "{name:<10} median {:>7.1} us, 99 of 100 below {:>7.1} us, {} round trips",
            at(times, 1, 2),
            at(times, 99, 100),
            times.len()
        );
        medians.push(at(times, 1, 2));
    }
    if let [ours, theirs] = medians.as_slice() {
        println!("ratio {:.2} (below 1: ours is faster)", ours / theirs);
    }
}
