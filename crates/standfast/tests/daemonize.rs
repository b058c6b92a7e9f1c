//! Going to the background, with real processes. It has no harness: forking needs a process with one thread.
#![allow(clippy::unwrap_used)]

use std::io::Read;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use standfast::daemon::{self, Side};
use standfast::pidfile::PidFile;
use standfast::startup::Startup;

/// Says which part a process of this test plays.
const ROLE: &str = "STANDFAST_TEST_ROLE";

fn main() -> ExitCode {
    if let Ok(role) = std::env::var(ROLE) {
        return play(&role);
    }
    let folder = tempfile::tempdir().unwrap();
    println!(
        "the command leaves with 0 once the daemon is ready, and the daemon lets go of the terminal"
    );
    ready(folder.path());
    println!("the command leaves with 1 when the daemon fails, and nothing is left behind");
    failing(folder.path());
    ExitCode::SUCCESS
}

/// What the program does, without a machine: the daemon waits for a byte on the named pipe `go` and ends.
fn play(role: &str) -> ExitCode {
    let startup = match daemon::daemonize().unwrap() {
        Side::Command(status) => return ExitCode::from(status),
        Side::Daemon(command) => Startup::background(command),
    };
    let _pid_file = PidFile::create(Path::new("pid")).unwrap();
    if role == "failing" {
        eprintln!("the daemon's last words");
        return ExitCode::FAILURE;
    }
    startup.ready().unwrap();
    println!("after the let-go this goes nowhere");
    let _ = std::fs::read("go");
    ExitCode::SUCCESS
}

fn command(role: &str, folder: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .env(ROLE, role)
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn ready(folder: &Path) {
    let go = folder.join("go");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &go,
        rustix::fs::FileType::Fifo,
        0o600.into(),
        0,
    )
    .unwrap();
    // `output` ends when the last holder of the pipes is gone: it would hang if the daemon kept them.
    let output = command("ready", folder).output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(
        output.stdout.is_empty() && output.stderr.is_empty(),
        "{output:?}"
    );

    let pid = std::fs::read_to_string(folder.join("pid")).unwrap();
    let pid: i32 = pid.trim_end().parse().unwrap();
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat
        .rsplit_once(')')
        .unwrap()
        .1
        .split_whitespace()
        .collect();
    let (group, session, terminal) = (fields[2], fields[3], fields[4]);
    assert_eq!(terminal, "0", "no controlling terminal");
    assert_eq!(group, session);
    assert_ne!(session, pid.to_string(), "the daemon leads no session");
    let other = PidFile::create(&folder.join("pid"))
        .unwrap_err()
        .to_string();
    assert_eq!(other, "another process holds its lock and is running");

    let gone = rustix::process::pidfd_open(
        rustix::process::Pid::from_raw(pid).unwrap(),
        rustix::process::PidfdFlags::empty(),
    )
    .unwrap();
    std::fs::write(&go, "x").unwrap();
    let mut watched = [rustix::event::PollFd::new(
        &gone,
        rustix::event::PollFlags::IN,
    )];
    let limit = rustix::event::Timespec {
        tv_sec: 60,
        tv_nsec: 0,
    };
    assert_eq!(
        rustix::event::poll(&mut watched, Some(&limit)).unwrap(),
        1,
        "the daemon did not end"
    );
    assert!(!folder.join("pid").exists());
}

fn failing(folder: &Path) {
    let mut child = command("failing", folder).spawn().unwrap();
    let mut words = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut words)
        .unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1));
    assert_eq!(words, "the daemon's last words\n");
    assert!(!folder.join("pid").exists());
}
