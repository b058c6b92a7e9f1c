//! Descriptors that the program was started with: each is had by its number or by its set, once, and no other of the
//! process's descriptors is.

use crate::client::Machine;
use rustix::io::{FdFlags, fcntl_setfd};
use serde_json::json;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

/// COM1's transmit register, in the words of qtest.
const SAY_A: &str = "outb 0x3f8 0x41";

/// Children inherit it from now on.
fn passed(fd: impl Into<OwnedFd>) -> OwnedFd {
    let fd = fd.into();
    fcntl_setfd(&fd, FdFlags::empty()).unwrap();
    fd
}

fn text(mut file: &File) -> String {
    let mut text = String::new();
    file.seek(SeekFrom::Start(0)).unwrap();
    file.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn a_serial_port_writes_to_a_set_and_to_its_log() {
    let (output, log) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
    let (one, two) = (
        passed(output.try_clone().unwrap()),
        passed(log.try_clone().unwrap()),
    );
    let mut machine = Machine::start(&format!(
        "-M q35 -nodefaults -add-fd set=7,fd={},opaque=console -add-fd set=8,fd={} \
         -chardev file,id=c,path=/dev/fdset/7,append=on,logfile=/dev/fdset/8,logappend=on -serial chardev:c",
        one.as_raw_fd(),
        two.as_raw_fd()
    ));
    drop((one, two));
    machine.command(SAY_A);
    let sets = machine.qmp("query-fdsets", json!({})).unwrap();
    assert_eq!(sets[0]["fdset-id"], 7);
    assert_eq!(sets[0]["fds"][0]["opaque"], "console");
    // Both are written out before the program ends.
    machine.stop();
    assert_eq!((text(&output).as_str(), text(&log).as_str()), ("A", "A"));
}

#[test]
fn a_guest_comes_in_by_a_number() {
    for line in ["-incoming fd:", "-incoming defer"] {
        let (source, target) = UnixStream::pair().unwrap();
        let theirs = passed(target);
        let number = theirs.as_raw_fd();
        let at_start = line.ends_with(':');
        let line = match at_start {
            true => format!("-M q35 -nodefaults {line}{number}"),
            false => format!("-M q35 -nodefaults {line}"),
        };
        let mut machine = Machine::start(&line);
        drop(theirs);
        if !at_start {
            let arguments = json!({"uri": format!("fd:{number}"), "exit-on-error": false});
            machine.qmp("migrate-incoming", arguments).unwrap();
            // It ends without a word: told as a stream that is truncated, so it was listened to.
            drop(source);
            machine.until("failed", &["setup", "active"]);
        }
    }
}

#[test]
fn a_descriptor_of_the_machines_own_is_not_to_be_had() {
    let mut machine = Machine::start("-M q35 -nodefaults");
    // Monitor, qtest, eventfds, guest RAM: whatever is open there, and what other tests let it inherit.
    let mut owned = 0;
    for fd in 3..60 {
        let netdev = json!({"type": "tap", "id": "n", "fd": fd.to_string()});
        let refused = machine.qmp("netdev_add", netdev).unwrap_err();
        let own = format!("fd={fd}: that descriptor is not open; pass it to this process");
        owned += u32::from(refused == own);
    }
    assert!(owned > 30, "{owned}");
    assert_eq!(
        machine.qmp("query-status", json!({})).unwrap()["running"],
        true
    );
    machine.stop();
}

#[test]
fn a_serial_port_connects_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("console");
    // Nobody listens there yet.
    let mut machine = Machine::start(&format!(
        "-M q35 -nodefaults -chardev socket,id=c,path={},reconnect-ms=10 -serial chardev:c",
        path.display()
    ));
    let (sender, receiver) = std::sync::mpsc::channel();
    let listener = UnixListener::bind(&path).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            if sender.send(stream.unwrap()).is_err() {
                return;
            }
        }
    });
    let next = || receiver.recv_timeout(Duration::from_secs(25)).unwrap();
    drop(next());
    let mut second = next();
    machine.command(SAY_A);
    let mut said = [0];
    second.read_exact(&mut said).unwrap();
    assert_eq!(said, *b"A");
}
