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
use std::time::Duration;

/// A test that waits longer has found a bug.
const PATIENCE: Duration = Duration::from_secs(60);

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
    let mut child = Command::new(&program)
        .args([
            "-M",
            "none,accel=tcg",
            "-nodefaults",
            "-display",
            "none",
            "-qmp",
        ])
        .arg(format!("unix:{},server=on,wait=off", socket.display()))
        // A client that connects while QEMU still sets its monitors up may be greeted twice or hung up on. The greeting of a second
        // monitor says that the first is ready.
        .args(["-qmp", "stdio"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("QEMU starts");
    let mut ready = BufReader::new(child.stdout.take().expect("a pipe"));
    ready.read_line(&mut String::new()).expect("QEMU greets");
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

/// Connects and reads the greeting.
fn connect(socket: &Path) -> (UnixStream, BufReader<UnixStream>) {
    let stream = UnixStream::connect(socket).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    let mut reader = BufReader::new(stream.try_clone().expect("descriptors are left"));
    message(&mut reader);
    (stream, reader)
}

fn message(reader: &mut BufReader<UnixStream>) -> Value {
    let mut line = String::new();
    let read = reader.read_line(&mut line);
    let whose = reader.get_ref().peer_addr();
    read.unwrap_or_else(|error| panic!("{whose:?}: no answer in time: {error}"));
    serde_json::from_str(&line).unwrap_or_else(|error| panic!("{whose:?}: {error}: {line:?}"))
}

/// Sends `input` in a session of its own, after negotiating with `enable`, and gives what comes back, without events.
fn answers(socket: &Path, enable: &str, input: &[u8]) -> Vec<Value> {
    let (mut stream, mut reader) = connect(socket);
    let negotiate =
        format!("{{\"execute\": \"qmp_capabilities\", \"arguments\": {{\"enable\": [{enable}]}}}}");
    stream.write_all(negotiate.as_bytes()).expect("it reads");
    let negotiated = message(&mut reader);
    assert_eq!(
        negotiated,
        serde_json::json!({"return": {}}),
        "{}",
        socket.display()
    );
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
