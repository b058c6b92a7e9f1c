use super::super::client::testing::{Recorder, client};
use super::*;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Default)]
struct Clock(AtomicU64);

impl GuestClock for Clock {
    fn now_ns(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }

    fn advance_to_ns(&self, ns: u64) {
        self.0.fetch_max(ns, Ordering::SeqCst);
    }
}

fn session() -> (Protocol, Arc<Recorder>, Arc<Mutex<String>>) {
    let (client, recorder, _) = client();
    let heard = Arc::new(Mutex::new(String::new()));
    let ear = Arc::clone(&heard);
    let find = |path: &str| match path {
        "ioapic" => Pins::Ioapic,
        "/machine/peripheral/net0" => Pins::Without,
        _ => Pins::Unknown,
    };
    let protocol = Protocol::new(
        client,
        Arc::<Clock>::default(),
        Box::new(find),
        Box::new(move |line: &str| ear.lock().unwrap().push_str(line)),
    );
    (protocol, recorder, heard)
}

/// Each line of commands and its answer.
fn transcript(lines: &[(&str, &str)]) {
    let (mut protocol, ..) = session();
    for (command, answer) in lines {
        assert_eq!(
            protocol.execute(command).trim_end_matches('\n'),
            *answer,
            "{command}"
        );
    }
}

#[test]
fn memory_in_every_width() {
    transcript(&[
        ("endianness", "OK little"),
        ("writeq 0x1000 0x1122334455667788", "OK"),
        ("readb 0x1000", "OK 0x0000000000000088"),
        ("readw 4096", "OK 0x0000000000007788"),
        ("readl 010000", "OK 0x0000000055667788"),
        ("readq 0x1000", "OK 0x1122334455667788"),
        ("read 0x1000 4", "OK 0x88776655"),
        ("writeb 0x1000 0xfff", "OK"),
        ("writew 0x1001 -1", "OK"),
        ("writel 0x1003 1", "OK"),
        ("read 0x1000 0x8", "OK 0xffffff0100000011"),
        ("write 0x2000 4 0x0102", "OK"),
        ("read 0x2000 4", "OK 0x01020000"),
        ("b64read 0x2000 2", "OK AQI="),
        ("b64write 0x2000 3 YWJj", "OK"),
        ("read 0x2000 3", "OK 0x616263"),
        ("memset 0x2000 0 1", "OK"),
        ("memset 0x2000 2 0xee", "OK"),
        ("read 0x2000 3", "OK 0xeeee63"),
        ("memset 0 0x10000 0xaa", "OK"),
        ("readq 0xfff8", "OK 0xaaaaaaaaaaaaaaaa"),
    ]);
}

#[test]
fn ports_show_at_least_four_digits() {
    let (mut protocol, bus, _) = session();
    assert_eq!(protocol.execute("inb 0x70"), "OK 0x0012\n");
    assert_eq!(protocol.execute("inw 0x70"), "OK 0x1212\n");
    assert_eq!(protocol.execute("inl 0x70"), "OK 0x12121212\n");
    assert_eq!(protocol.execute("inl 0xffff"), "OK 0xffffffff\n");
    bus.take();
    for command in ["outb 0xcf8 0x1ff", "outw 0xcf8 1", "outl 0xcf8 0x80000000"] {
        assert_eq!(protocol.execute(command), "OK\n");
    }
    assert_eq!(
        bus.take(),
        [
            "out 0xcf8 [ff]",
            "out 0xcf8 [01, 00]",
            "out 0xcf8 [00, 00, 00, 80]"
        ]
    );
}

#[test]
fn wrong_lines_fail_and_say_why() {
    transcript(&[
        ("", "FAIL Unknown command ''"),
        ("nope 1 2", "FAIL Unknown command 'nope'"),
        ("inb", "FAIL Command 'inb' needs more arguments"),
        ("inb 0x10000", "FAIL 0x10000 is not an I/O port"),
        ("inb 7q", "FAIL '7q' is not a number"),
        ("inb  7", "FAIL '' is not a number"),
        ("outb 7", "FAIL Command 'outb' needs more arguments"),
        ("read 0 0", "FAIL 'read' of no bytes"),
        (
            "read 0 16777217",
            "FAIL 16777217 bytes are too many at once: at most 16777216",
        ),
        (
            "read 0 -1",
            "FAIL 18446744073709551615 bytes are too many at once: at most 16777216",
        ),
        (
            "memset 0x10000000 -1 0",
            "FAIL 18446744073709551615 bytes are too many at once: at most 16777216",
        ),
        ("write 0 4 0x", "ERR invalid argument size"),
        ("write 0 4", "FAIL Command 'write' needs more arguments"),
        ("module_load a b", "FAIL"),
        ("rtas 1 2", "FAIL Unknown command 'rtas'"),
    ]);
}

#[test]
fn the_clock_only_goes_forward() {
    transcript(&[
        (
            "clock_step",
            "FAIL cannot advance clock to the next deadline because there is no pending deadline",
        ),
        ("clock_step 100", "OK 100"),
        ("clock_step 0", "FAIL could not advance time"),
        ("clock_step -5", "FAIL could not advance time"),
        (
            "clock_step 9223372036854775807",
            "FAIL could not advance time",
        ),
        ("clock_set 1000", "OK 1000"),
        ("clock_set 999", "FAIL 1000"),
        ("clock_set -1", "FAIL 1000"),
        ("clock_set x", "FAIL 'x' is not a number"),
    ]);
}

#[test]
fn intercepted_lines_are_told_before_the_answer() {
    let (mut protocol, _, heard) = session();
    let mut run = |command: &str| protocol.execute(command);
    assert_eq!(run("set_irq_in ioapic unnamed-gpio-in 3 1"), "OK\n");
    assert_eq!(run("irq_intercept_in nowhere"), "FAIL Unknown device\n");
    assert_eq!(
        run("irq_intercept_in /machine/peripheral/net0"),
        "FAIL No intercepts installed\n"
    );
    assert_eq!(
        run("irq_intercept_out ioapic"),
        "FAIL No intercepts installed\n"
    );
    assert_eq!(
        run("irq_intercept_in ioapic some"),
        "FAIL Interception of named in-GPIOs not yet supported\n"
    );
    assert_eq!(run("irq_intercept_in ioapic"), "OK\n");
    assert_eq!(run("irq_intercept_in ioapic"), "OK\n");
    assert_eq!(
        run("irq_intercept_in /machine/peripheral/net0"),
        "FAIL IRQ intercept already enabled\n"
    );
    assert_eq!(run("set_irq_in ioapic unnamed-gpio-in 16 1"), "OK\n");
    assert_eq!(run("set_irq_in ioapic unnamed-gpio-in 16 1"), "OK\n");
    assert_eq!(run("set_irq_in ioapic unnamed-gpio-in 16 0"), "OK\n");
    assert_eq!(*heard.lock().unwrap(), "IRQ raise 16\nIRQ lower 16\n");
    assert!(run("set_irq_in ioapic unnamed-gpio-in 24 1").starts_with("FAIL No such pin"));
    assert!(run("set_irq_in ioapic named 1 1").starts_with("FAIL No such pin"));
}
