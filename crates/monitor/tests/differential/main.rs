//! The same input to QEMU and to a monitor of ours: what does not depend on the machine must come back the same, or be listed here with
//! a reason.
//!
//! Needs a QEMU 10 on the PATH (or in `STANDFAST_QEMU`); without one the tests are SKIPPED, loudly, and with `STANDFAST_NO_SKIP=1` they
//! fail.

#[allow(dead_code, reason = "another test uses the rest")]
#[path = "../session/machine.rs"]
mod machine;
mod schema;
mod session;

use monitor::{Endpoint, Mode, Monitors};
use serde_json::Value;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A test that waits longer has found a bug.
const PATIENCE: Duration = Duration::from_secs(20);

/// Both programs, each with a socket.
struct Both {
    qemu: Qemu,
    ours: PathBuf,
    _monitors: Monitors,
    _folder: tempfile::TempDir,
}

struct Qemu {
    child: Child,
    socket: PathBuf,
}

impl Drop for Qemu {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn skipped(why: &str) {
    // Past the test harness, which hides what a passing test prints.
    let _ = writeln!(
        std::io::stderr(),
        "SKIPPED: nothing was compared with QEMU: {why}"
    );
    assert!(
        std::env::var_os("STANDFAST_NO_SKIP").is_none(),
        "STANDFAST_NO_SKIP is set"
    );
}

/// Starts both, unless there is no QEMU to compare with.
fn both() -> Option<Both> {
    let program = std::env::var_os("STANDFAST_QEMU").unwrap_or_else(|| "qemu-system-x86_64".into());
    let version = match Command::new(&program).arg("--version").output() {
        Ok(output) => String::from_utf8_lossy(&output.stdout).into_owned(),
        Err(error) => {
            skipped(&format!("{}: {error}", Path::new(&program).display()));
            return None;
        }
    };
    if !version.contains("version 10.") {
        skipped(&format!("it is not QEMU 10 but {version}"));
        return None;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("qemu");
    let child = Command::new(&program)
        .args([
            "-M",
            "none,accel=tcg",
            "-nodefaults",
            "-display",
            "none",
            "-qmp",
        ])
        .arg(format!("unix:{},server=on,wait=off", socket.display()))
        .stdin(Stdio::null())
        .spawn()
        .expect("QEMU starts");
    let qemu = Qemu { child, socket };
    let ours = folder.path().join("ours");
    let machine = machine::start();
    let mut identity = machine::identity();
    identity.netdev_types = vec!["tap".to_owned()];
    let mut monitors =
        Monitors::new(identity, machine.clone(), machine.events.clone()).expect("descriptors");
    let endpoint = Endpoint::UnixServer {
        path: ours.clone(),
        wait: false,
    }
    .open()
    .expect("a socket");
    monitors
        .serve(Mode::Qmp { pretty: false }, endpoint)
        .expect("threads");
    Some(Both {
        qemu,
        ours,
        _monitors: monitors,
        _folder: folder,
    })
}

/// Connects, and waits for the socket to appear; gives the greeting and a reader of what follows.
fn connect(socket: &Path) -> (UnixStream, BufReader<UnixStream>) {
    let start = Instant::now();
    let stream = loop {
        match UnixStream::connect(socket) {
            Ok(stream) => break stream,
            Err(error) => assert!(start.elapsed() < PATIENCE, "{}: {error}", socket.display()),
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    let mut reader = BufReader::new(stream.try_clone().expect("descriptors are left"));
    message(&mut reader);
    (stream, reader)
}

fn message(reader: &mut impl BufRead) -> Value {
    let mut line = String::new();
    reader.read_line(&mut line).expect("an answer in time");
    serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
}

/// Sends `input` in a session of its own, after negotiating with `enable`, and gives what comes back, without events.
fn answers(socket: &Path, enable: &str, input: &[u8]) -> Vec<Value> {
    let (mut stream, mut reader) = connect(socket);
    let negotiate =
        format!("{{\"execute\": \"qmp_capabilities\", \"arguments\": {{\"enable\": [{enable}]}}}}");
    stream.write_all(negotiate.as_bytes()).expect("it reads");
    message(&mut reader);
    stream.write_all(input).expect("it reads");
    stream
        .write_all(b"\n{\"execute\": \"query-fdsets\", \"id\": \"the end\"}")
        .expect("it reads");
    let mut answers = Vec::new();
    loop {
        let answer = message(&mut reader);
        if answer.get("id").is_some_and(|id| id == "the end") {
            return answers;
        }
        if answer.get("event").is_none() {
            answers.push(answer);
        }
    }
}
