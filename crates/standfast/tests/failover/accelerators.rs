//! A guest does not move between KVM and a client in the processors' place: its processors' state would be nobody's.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::client::{Machine, program};

const BOARD: &str = "-M q35 -m 64 -nodefaults -display none -S";

/// Runs the program until it ends by itself.
fn run(folder: &Path, options: &str, incoming: &Path) -> Output {
    Command::new(program(folder))
        .args(BOARD.split_whitespace())
        .args(options.split_whitespace())
        .arg("-incoming")
        .arg(format!("file:{}", incoming.display()))
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// A stream of a machine on KVM, stopped before its first instruction; nothing, with a reason told, where there is no KVM.
fn stream_of_kvm(folder: &Path) -> Option<std::path::PathBuf> {
    let at = folder.join("qmp");
    let listener = UnixListener::bind(&at).unwrap();
    let mut child = Command::new(program(folder))
        .args(BOARD.split_whitespace())
        .args(["-accel", "kvm", "-qmp"])
        .arg(format!("unix:{}", at.display()))
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let (stream, _) = listener.accept().unwrap();
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
    let mut ask = |command: &str, arguments: Value| -> Option<Value> {
        let request = json!({"execute": command, "arguments": arguments});
        writeln!(&stream, "{request}").ok()?;
        loop {
            let line = lines.next()?.ok()?;
            let mut answer: Value = serde_json::from_str(&line).unwrap();
            if let Some(value) = answer.get_mut("return") {
                return Some(value.take());
            }
            assert!(answer.get("error").is_none(), "{line}");
        }
    };
    let Some(_) = ask("qmp_capabilities", json!({})) else {
        let output = child.wait_with_output().unwrap();
        let why = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(why.contains("kvm") || why.contains("KVM"), "{why}");
        eprintln!("SKIPPED: no stream of KVM's: {}", why.trim_end());
        return None;
    };
    let file = folder.join("of-kvm");
    ask(
        "migrate",
        json!({"uri": format!("file:{}", file.display())}),
    )
    .unwrap();
    loop {
        let info = ask("query-migrate", json!({})).unwrap();
        match info["status"].as_str() {
            Some("completed") => break,
            Some("failed") | None => panic!("{info}"),
            Some(_) => std::thread::yield_now(),
        }
    }
    ask("quit", json!({})).unwrap();
    assert!(child.wait().unwrap().success());
    Some(file)
}

/// Both processor models are named, and what to do.
fn refused(output: &Output, theirs: &str, own: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    let expected = format!("is a {theirs} on the source and a {own} here");
    assert!(
        said.contains("load of migration failed") && said.contains(&expected),
        "{said}"
    );
}

#[test]
fn a_stream_of_kvm_is_refused_by_a_client_and_the_reverse() {
    let folder = tempfile::tempdir().unwrap();
    let of_kvm = stream_of_kvm(folder.path());
    if let Some(file) = &of_kvm {
        let output = run(folder.path(), "-accel qtest", file);
        refused(&output, "vcpu", "qtest-vcpu");
    }
    let mut machine = Machine::start("-M q35 -m 64 -nodefaults");
    let file = machine.folder.path().join("of-qtest");
    let to = json!({"uri": format!("file:{}", file.display())});
    machine.qmp("migrate", to).unwrap();
    machine.until("completed", &["setup", "active", "device"]);
    // Taken back by its own kind, so that it is the accelerator and nothing else that is refused.
    let mut same = Machine::start("-M q35 -m 64 -nodefaults -incoming defer");
    let from = json!({"uri": format!("file:{}", file.display())});
    same.qmp("migrate-incoming", from).unwrap();
    same.until("completed", &["setup", "active"]);
    if of_kvm.is_some() {
        let output = run(folder.path(), "-accel kvm", &file);
        refused(&output, "qtest-vcpu", "vcpu");
    }
}

#[test]
fn memory_is_locked_where_that_is_asked_for() {
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED: locking memory needs root");
        return;
    }
    let locked_kib = ["off", "on"].map(|lock| {
        let options = format!("-M q35 -nodefaults -m 32 -overcommit mem-lock={lock}");
        let mut machine = Machine::start(&options);
        let cpus = machine.qmp("query-cpus-fast", json!({})).unwrap();
        let thread = cpus[0]["thread-id"].as_u64().unwrap();
        let status = std::fs::read_to_string(format!("/proc/{thread}/status")).unwrap();
        let line = status.lines().find_map(|l| l.strip_prefix("VmLck:"));
        let kib = line.unwrap().trim().trim_end_matches(" kB");
        kib.parse::<u64>().unwrap()
    });
    assert_eq!(locked_kib[0], 0);
    assert!(locked_kib[1] >= 32 << 10, "{locked_kib:?}");
}
