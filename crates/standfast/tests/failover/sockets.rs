//! The kinds of sockets on which a client may stand in for the processors.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::client::{PATIENCE, program};

/// The program with these options; killed when it is dropped.
struct Vmm(Child);

impl Vmm {
    fn start(folder: &Path, options: &[&str]) -> Self {
        let child = Command::new(program(folder))
            .args(["-M", "q35", "-m", "64", "-nodefaults", "-display", "none"])
            .args(["-accel", "qtest", "-qtest-log", "none"])
            .args(options)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self(child)
    }
}

impl Drop for Vmm {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// A client that talks on `stream` reaches the machine.
fn reaches<S: Read + Write>(stream: S) {
    let mut stream = BufReader::new(stream);
    for (line, answer) in [
        ("endianness", "OK little"),
        ("writel 0x1000 0x12345678", "OK"),
        ("readw 0x1002", "OK 0x0000000000001234"),
        ("outl 0xcf8 0x80000000", "OK"),
        ("inl 0xcfc", "OK 0x29c08086"),
    ] {
        writeln!(stream.get_mut(), "{line}").unwrap();
        let mut heard = String::new();
        stream.read_line(&mut heard).unwrap();
        assert_eq!(heard.trim_end(), answer, "{line}");
    }
}

#[test]
fn over_tcp_as_a_client() {
    let folder = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = format!("tcp:{}", listener.local_addr().unwrap());
    let _vmm = Vmm::start(folder.path(), &["-qtest", &to]);
    let (stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    reaches(stream);
}

#[test]
fn over_a_chardev_that_listens() {
    let folder = tempfile::tempdir().unwrap();
    let (ready, at) = (folder.path().join("ready"), folder.path().join("qtest"));
    // The monitor connects once everything listens.
    let listener = UnixListener::bind(&ready).unwrap();
    let chardev = format!("socket,id=q,path={},server=on,wait=off", at.display());
    let qmp = format!("unix:{}", ready.display());
    let options = ["-chardev", &chardev, "-qtest", "chardev:q", "-qmp", &qmp];
    let _vmm = Vmm::start(folder.path(), &options);
    let (monitor, _) = listener.accept().unwrap();
    let mut greeting = String::new();
    BufReader::new(monitor).read_line(&mut greeting).unwrap();
    // One client after the other.
    for _ in 0..2 {
        let stream = UnixStream::connect(&at).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        reaches(stream);
    }
}

#[test]
fn over_a_descriptor() {
    let folder = tempfile::tempdir().unwrap();
    let (ours, theirs) = UnixStream::pair().unwrap();
    rustix::io::fcntl_setfd(&theirs, rustix::io::FdFlags::empty()).unwrap();
    let chardev = format!("socket,id=q,fd={}", theirs.as_raw_fd());
    let _vmm = Vmm::start(
        folder.path(),
        &["-chardev", &chardev, "-qtest", "chardev:q"],
    );
    drop(theirs);
    ours.set_read_timeout(Some(PATIENCE)).unwrap();
    reaches(ours);
}
