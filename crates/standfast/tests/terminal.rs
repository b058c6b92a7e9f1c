//! Serial port and monitor on one terminal, with a real pseudo-terminal and a guest that echoes.
//!
//! Needs `/dev/kvm`; where a guest of forty bytes does not run, the test is SKIPPED, loudly.
#![allow(clippy::unwrap_used)] // helpers of tests: a panic is a failed test

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, tcgetattr};
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// What must happen has happened by then, however busy the host is.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where the guest is loaded and entered.
const ENTRY: u32 = 0x10_0000;

/// A guest that sends back what COM1 receives, and `!` for a break.
const ECHO: &[u8] = &[
    0x66, 0xba, 0xfd, 0x03, // mov dx, 0x3fd
    0xec, // in al, dx
    0xa8, 0x10, // test al, break
    0x74, 0x0a, // jz +10
    0xb0, b'!', // mov al, '!'
    0x66, 0xba, 0xf8, 0x03, // mov dx, 0x3f8
    0xee, // out dx, al
    0xec, // in al, dx
    0xeb, 0xed, // jmp start
    0xa8, 0x01, // test al, data ready
    0x74, 0xe9, // jz start
    0x66, 0xba, 0xf8, 0x03, // mov dx, 0x3f8
    0xec, // in al, dx
    0xee, // out dx, al
    0xeb, 0xe1, // jmp start
];

/// An ELF file that is entered by the PVH protocol.
fn kernel() -> Vec<u8> {
    const NOTE_AT: u64 = 0x200;
    const CODE_AT: u64 = 0x300;
    let mut elf = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    elf.extend(2u16.to_le_bytes());
    elf.extend(62u16.to_le_bytes());
    elf.extend(1u32.to_le_bytes());
    elf.extend(u64::from(ENTRY).to_le_bytes());
    elf.extend(64u64.to_le_bytes());
    elf.extend(0u64.to_le_bytes());
    elf.extend(0u32.to_le_bytes());
    for size in [64u16, 56, 2, 64, 0, 0] {
        elf.extend(size.to_le_bytes());
    }
    let mut segment = |kind: u32, flags: u32, at: u64, address: u64, bytes: u64| {
        elf.extend(kind.to_le_bytes());
        elf.extend(flags.to_le_bytes());
        for value in [at, address, address, bytes, bytes, 4] {
            elf.extend(value.to_le_bytes());
        }
    };
    segment(1, 7, CODE_AT, ENTRY.into(), ECHO.len() as u64);
    segment(4, 4, NOTE_AT, 0, 20);
    elf.resize(NOTE_AT as usize, 0);
    for word in [4u32, 4, 18] {
        elf.extend(word.to_le_bytes());
    }
    elf.extend(b"Xen\0");
    elf.extend(ENTRY.to_le_bytes());
    elf.resize(CODE_AT as usize, 0);
    elf.extend(ECHO);
    elf
}

struct Terminal {
    master: File,
    /// Held, so that its modes can be asked for.
    end: OwnedFd,
    shown: Vec<u8>,
    program: Child,
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}

impl Terminal {
    /// The program with `options` on a terminal of its own.
    fn run(options: &str, kernel: &std::path::Path) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY;
        let end = rustix::fs::open(name.as_c_str(), flags, rustix::fs::Mode::empty()).unwrap();
        let stdio = || Stdio::from(end.try_clone().unwrap());
        let program = Command::new(env!("CARGO_BIN_EXE_standfast"))
            .args(options.split_whitespace())
            .arg("-kernel")
            .arg(kernel)
            .stdin(stdio())
            .stdout(stdio())
            .spawn()
            .unwrap();
        Self {
            master: File::from(master),
            end,
            shown: Vec::new(),
            program,
        }
    }

    fn is_raw(&self) -> bool {
        let modes = tcgetattr(&self.end).unwrap().local_modes;
        !modes.intersects(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG)
    }

    /// Before that the terminal itself would echo.
    fn wait_until_raw(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        while !self.is_raw() {
            assert!(Instant::now() < deadline, "the program does not start");
            self.read();
        }
    }

    fn type_in(&mut self, keys: &[u8]) {
        self.master.write_all(keys).unwrap();
    }

    /// Waits for `text`, and forgets everything up to its end.
    fn wait_for(&mut self, text: &str) -> bool {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(at) = find(&self.shown, text.as_bytes()) {
                self.shown.drain(..at + text.len());
                return true;
            }
            if Instant::now() >= deadline {
                eprintln!(
                    "{text:?} is not in {:?}",
                    String::from_utf8_lossy(&self.shown)
                );
                return false;
            }
            self.read();
        }
    }

    fn read(&mut self) {
        let mut set = [PollFd::from_borrowed_fd(self.master.as_fd(), PollFlags::IN)];
        let tenth = Timespec {
            tv_sec: 0,
            tv_nsec: 100_000_000,
        };
        if poll(&mut set, Some(&tenth)).unwrap() == 1 {
            let mut buffer = [0; 4096];
            let count = rustix::io::read(&self.master, &mut buffer).unwrap_or(0);
            self.shown.extend(&buffer[..count]);
        }
    }
}

fn find(bytes: &[u8], text: &[u8]) -> Option<usize> {
    bytes.windows(text.len()).position(|part| part == text)
}

fn skipped(why: &str) {
    // Past the test harness, which hides what a passing test prints.
    let _ = writeln!(std::io::stderr(), "SKIPPED: no guest on a terminal: {why}");
}

/// Whether the guest answers; what it is asked is a key that nobody else answers.
fn guest_runs(terminal: &mut Terminal) -> bool {
    terminal.wait_until_raw();
    terminal.type_in(b"~");
    let runs = terminal.wait_for("~");
    if !runs {
        skipped("KVM does not run it here");
    }
    runs
}

#[test]
fn serial_port_and_monitor_share_a_terminal() {
    if !std::path::Path::new("/dev/kvm").exists() {
        return skipped("there is no /dev/kvm");
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("echo");
    std::fs::write(&file, kernel()).unwrap();
    let board = "-M q35 -accel kvm -m 64 -nodefaults";
    for options in [
        "-M q35 -accel kvm -m 64 -nographic".to_owned(),
        format!("{board} -display none -serial mon:stdio"),
        format!(
            "{board} -nographic -chardev stdio,id=t,mux=on,signal=off -serial chardev:t -mon t"
        ),
    ] {
        let mut terminal = Terminal::run(&options, &file);
        if !guest_runs(&mut terminal) {
            return;
        }
        // Ctrl-C, a carriage return and Ctrl-A are the guest's.
        terminal.type_in(b"a\x03b\rc\x01\x01d");
        assert!(terminal.wait_for("a\x03b\rc\x01d"));
        terminal.type_in(b"\x01b");
        assert!(terminal.wait_for("!"), "a break");
        terminal.type_in(b"\x01h");
        assert!(terminal.wait_for("C-a C-a"));
        // The monitor: it echoes, and the keys can be corrected.
        terminal.type_in(b"\x01c");
        assert!(terminal.wait_for("(qemu) "), "{options}");
        terminal.type_in(b"info stax\x7ftus\r");
        assert!(terminal.wait_for("\x08 \x08tus\r"));
        assert!(terminal.wait_for("VM status: running"));
        // There and back; what was begun is forgotten. The monitor's echo is waited for, since
        // it and the guest write to the terminal independently of each other.
        terminal.type_in(b"quit");
        assert!(terminal.wait_for("quit"));
        terminal.type_in(b"\x01c");
        terminal.type_in(b"guest");
        assert!(terminal.wait_for("guest"));
        terminal.type_in(b"\x01c");
        assert!(terminal.wait_for("(qemu) "));
        terminal.type_in(b"info version\r");
        assert!(terminal.wait_for("Standfast"));
        terminal.type_in(b"\x01x");
        assert!(terminal.wait_for("terminated"));
        assert!(terminal.program.wait().unwrap().success());
        assert!(!terminal.is_raw(), "the terminal is as it was");
    }
}

#[test]
fn a_guest_that_stands_still_does_not_hold_up_the_key() {
    if !std::path::Path::new("/dev/kvm").exists() {
        return skipped("there is no /dev/kvm");
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("echo");
    std::fs::write(&file, kernel()).unwrap();
    let mut terminal = Terminal::run("-M q35 -accel kvm -m 64 -nographic -S", &file);
    terminal.wait_until_raw();
    for _ in 0..100 {
        terminal.type_in(b"nobody reads this line of sixty-four characters of the serial.. ");
    }
    terminal.type_in(b"\x01cinfo status\r");
    assert!(terminal.wait_for("VM status: paused (prelaunch)"));
    terminal.type_in(b"quit\r");
    assert!(terminal.program.wait().unwrap().success());
    assert!(!terminal.is_raw());
}
