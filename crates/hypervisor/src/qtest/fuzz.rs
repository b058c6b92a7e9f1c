//! An entry for fuzzing: the lines a client sends.

use super::{GuestClock, Pins, Protocol, Qtest};
use crate::accelerator::Accelerator;
use crate::{Bus, CpuEvent, CpuListener, Topology};
use memory::GuestRam;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use vm_memory::GuestAddress;

const RAM_BYTES: usize = 0x1_0000;
/// Answers of one input: each may be long, and a few long ones say as much as many.
const MOST_ANSWERED_BYTES: usize = 16 << 20;

/// Ports and regions behind which nobody is; it holds what the client promises about each access.
struct Nobody;

fn check(data: &[u8], widest: usize) {
    assert!((1..=widest).contains(&data.len()), "{} bytes", data.len());
}

impl Bus for Nobody {
    fn port_read(&self, _: u16, data: &mut [u8]) {
        check(data, 4);
        data.fill(0xff);
    }

    fn port_write(&self, _: u16, data: &[u8]) {
        check(data, 4);
    }

    fn memory_read(&self, _: u64, data: &mut [u8]) {
        check(data, 8);
        data.fill(0xff);
    }

    fn memory_write(&self, _: u64, data: &[u8]) {
        check(data, 8);
    }
}

impl CpuListener for Nobody {
    fn cpu_event(&self, _: CpuEvent) {}
}

#[derive(Default)]
struct Clock(AtomicU64);

impl GuestClock for Clock {
    fn now_ns(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn advance_to_ns(&self, ns: u64) {
        self.0.fetch_max(ns, Ordering::Relaxed);
    }
}

fn session() -> Option<Protocol> {
    let ram = GuestRam::from_ranges(&[(GuestAddress(0), RAM_BYTES)]).ok()?;
    let qtest = Qtest::new(Arc::new(ram)).ok()?;
    let topology = Topology {
        cpus: 1,
        threads: 1,
        cores: 1,
    };
    let made = Arc::clone(&qtest).processors(1, topology, Arc::new(Nobody), Arc::new(Nobody));
    let _processors = made.ok()?;
    let find = |path: &str| match path {
        "ioapic" => Pins::Ioapic,
        "net0" => Pins::Without,
        _ => Pins::Unknown,
    };
    Some(Protocol::new(
        qtest.client()?,
        Arc::<Clock>::default(),
        Box::new(find),
        Box::new(|_| {}),
    ))
}

/// Each line of `data` is a command to a machine with 64 KiB of RAM and nothing else.
///
/// # Panics
/// An answer is not one line that begins with `OK`, `FAIL` or `ERR` (QEMU's word for a bad size), or an access was not of a width that a bus knows.
pub fn fuzz_lines(data: &[u8]) {
    let Some(mut protocol) = session() else {
        return;
    };
    let mut answered = 0;
    for line in String::from_utf8_lossy(data).lines() {
        let answer = protocol.execute(line);
        assert!(
            ["OK", "FAIL", "ERR"]
                .iter()
                .any(|word| answer.starts_with(word)),
            "{line:?} is answered {answer:?}"
        );
        assert!(answer.ends_with('\n') && answer.matches('\n').count() == 1);
        answered += answer.len();
        if answered > MOST_ANSWERED_BYTES {
            return;
        }
    }
}

/// Each command once and right, and again with its last word missing.
pub fn line_seeds() -> Vec<Vec<u8>> {
    let commands = [
        "endianness",
        "writeb 0x1000 0xff",
        "writeq 0xfee00000 0x1122334455667788",
        "readl 0xfffc",
        "readq 4096",
        "read 0xfff0 0x20",
        "write 0x10 4 0x01020304",
        "b64read 0x10 7",
        "b64write 0x10 3 AQID",
        "memset 0x8000 0x9000 0x5a",
        "inb 0x70",
        "inw 0xcf8",
        "inl 0xcfc",
        "outb 0x70 0",
        "outw 0xcf8 1",
        "outl 0xcf8 0x80000000",
        "clock_step",
        "clock_step 1000000",
        "clock_set 0x7fffffffffffffff",
        "irq_intercept_in ioapic",
        "irq_intercept_out net0",
        "set_irq_in ioapic (null) 3 1",
        "set_irq_in ioapic unnamed-gpio-in 23 -1",
        "module_load hw- qxl",
    ];
    commands
        .iter()
        .map(|command| {
            let short = command.rsplit_once(' ').map_or("", |(short, _)| short);
            format!("{command}\n{short}\n{command}\n").into_bytes()
        })
        .collect()
}
