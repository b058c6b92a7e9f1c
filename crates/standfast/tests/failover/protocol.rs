//! The socket itself: what is said there, who may say it, and how fast it is.

use crate::client::{Machine, PATIENCE, program};
use crate::pair::PORTS;
use crate::pci::Pci;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

/// A VMM that listens; killed when it is dropped.
struct Vmm(Child, UnixStream);

impl Vmm {
    // It is waited for when it is dropped; one that nobody can connect to ends with the test.
    #[allow(clippy::zombie_processes)]
    fn start(program: &Path, options: &[&str], socket: &Path) -> Self {
        let child = Command::new(program)
            .args(["-M", "q35", "-nodefaults", "-display", "none"])
            .args(["-qtest-log", "none", "-qtest"])
            .arg(format!("unix:{},server=on,wait=off", socket.display()))
            .args(options)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let end = Instant::now() + PATIENCE;
        loop {
            if let Ok(stream) = UnixStream::connect(socket) {
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                return Self(child, stream);
            }
            assert!(Instant::now() < end, "nobody listens");
            std::thread::yield_now();
        }
    }

    /// What is answered to `lines`, which are sent at once.
    fn talk(&mut self, lines: &[u8], answers: usize) -> Vec<String> {
        self.1.write_all(lines).unwrap();
        let reader = BufReader::new(self.1.try_clone().unwrap());
        reader.lines().take(answers).map(Result::unwrap).collect()
    }
}

impl Drop for Vmm {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn standfast(folder: &Path) -> Vmm {
    let socket = folder.join("qtest");
    Vmm::start(&program(folder), &["-accel", "qtest"], &socket)
}

#[test]
fn hostile_lines_are_answered_and_end_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut vmm = standfast(folder.path());
    let lines = b"\n\xff\xfe\nread 0 0xffffffffffffffff\nwrite 0 1\ninb\noutb 0x10000 0\nreadq -1\nclock_step x\nendianness\n";
    let answers = vmm.talk(lines, 9);
    assert!(answers[..6].iter().all(|line| line.starts_with("FAIL ")));
    assert_eq!(answers[8], "OK little");
    // A line without an end: the connection stays, and a client after it is served.
    let stream = &mut vmm.1;
    let chunk = vec![b'x'; 1 << 20];
    for _ in 0..40 {
        stream.write_all(&chunk).unwrap();
    }
    let answers = vmm.talk(b"\nendianness\n", 2);
    assert!(answers[0].starts_with("FAIL the line is longer"));
    assert_eq!(answers[1], "OK little");
    vmm.1.write_all(b"half a li").unwrap();
    let again = UnixStream::connect(folder.path().join("qtest")).unwrap();
    again.set_read_timeout(Some(PATIENCE)).unwrap();
    drop(std::mem::replace(&mut vmm.1, again));
    assert_eq!(vmm.talk(b"endianness\n", 1), ["OK little"]);
}

#[test]
fn memory_ports_and_firmware_configuration() {
    let machine = &mut Machine::start(PORTS);
    machine.command("writeq 0x1000 0x1122334455667788");
    assert_eq!(machine.command("read 0x1000 4"), "0x88776655");
    machine.command("outw 0x510 3");
    let size: Vec<u64> = (0..8).map(|_| machine.number("inb 0x511")).collect();
    assert_eq!(size, [0, 0, 0, 8, 0, 0, 0, 0], "128 MiB");
    assert_eq!(machine.number("inl 0xcc0"), 0);
    machine.command("clock_step 1000000000");
    assert_eq!(machine.number("inl 0x608"), 3_579_545);
    Pci::set_up(machine, 2);
    // Memory-mapped configuration space shows the same.
    assert_eq!(machine.number("readl 0xb0008000"), 0x000c_1b36);
}

#[test]
fn thirty_two_ports() {
    let mut options = String::from("-M pc-q35-9.0 -nodefaults ");
    for n in 0..32 {
        let (slot, function) = (1 + n / 8, n % 8);
        let multifunction = if function == 0 {
            ",multifunction=on"
        } else {
            ""
        };
        options += &format!(
            "-device pcie-root-port,id=root{n},bus=pcie.0,addr={slot:#x}.{function},chassis={}{multifunction} ",
            n + 1
        );
    }
    options += "-device virtio-net,id=last,bus=root31 -device virtio-net,id=first,bus=root0";
    let machine = &mut Machine::start(&options);
    for n in 0..32 {
        let function = ((1 + n / 8) << 3) | (n % 8);
        assert_eq!(Pci::read(machine, function, 0, 'l'), 0x000c_1b36, "{n}");
    }
    // Port n has the number 31-n in the hotplug block; both ends can be ejected from.
    for port in ["0", "31"] {
        machine.command(&format!("outl 0xcd0 {port}"));
        assert_eq!(machine.number("inl 0xccc") & 1, 1, "removable");
    }
}

fn qemu() -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?)
        .map(|folder| folder.join("qemu-system-x86_64"))
        .find(|file| file.is_file())
}

/// Microseconds for a round trip, the median of many.
fn round_trip_us(vmm: &mut Vmm) -> f64 {
    const ROUNDS: usize = 3000;
    let stream = &mut vmm.1;
    let mut times = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        let start = Instant::now();
        stream.write_all(b"readl 0x1000\n").unwrap();
        let mut answer = [0; 22];
        stream.read_exact(&mut answer).unwrap();
        times.push(start.elapsed());
        assert_eq!(&answer, b"OK 0x0000000000000000\n");
    }
    times.sort();
    times[ROUNDS / 2].as_secs_f64() * 1e6
}

/// No assertion: a shared host's scheduler decides more than either program.
#[test]
fn a_round_trip_beside_qemus() {
    let Some(qemu) = qemu() else {
        eprintln!("SKIPPED a_round_trip_beside_qemus: qemu-system-x86_64 is not installed");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let firmware = folder.path().join("halt.bin");
    let mut image = vec![0xf4; 64 << 10];
    // At the reset vector: cli; hlt; and to the hlt again.
    image[0xfff0..0xfff4].copy_from_slice(&[0xfa, 0xf4, 0xeb, 0xfd]);
    std::fs::write(&firmware, image).unwrap();
    let options = ["-accel", "tcg", "-bios", firmware.to_str().unwrap()];
    let mut theirs = Vmm::start(&qemu, &options, &folder.path().join("theirs"));
    let mut ours = standfast(folder.path());
    let (theirs, ours) = (round_trip_us(&mut theirs), round_trip_us(&mut ours));
    eprintln!(
        "qtest round trip: {ours:.1} us, QEMU's {theirs:.1} us, ratio {:.2}",
        ours / theirs
    );
}
