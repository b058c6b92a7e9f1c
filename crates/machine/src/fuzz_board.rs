//! An entry for fuzzing: a client of `-qtest` and a client of the monitor at a whole machine with a pair, in this process.
//!
//! Nothing is left out but sockets: the lines of the client go to the real board, and what it sets off happens on the real control
//! thread, so that what two of its commands do to each other is found as well.

use crate::FdSource;
use crate::clock::{Clocks, ManualClock};
use crate::control::{Control, control_with};
use crate::event::{MachineEvent, MachineListener};
use config::vm::{Accel, DeviceConfig, VmConfig};
use config::{Options, Source};
use hypervisor::qtest::{Pins, Protocol};
use std::os::fd::OwnedFd;
use std::time::Duration;

/// RAM of the machine: enough for rings, little enough to be made for each input.
const RAM_BYTES: u64 = 2 << 20;
/// After so many commands an input ends: a machine may be slow, but it has to end.
const MOST_COMMANDS: usize = 256;
/// The most that is answered, so that reads of RAM do not take all the time.
const MOST_ANSWERED_BYTES: usize = 4 << 20;

const DEVICES: &[&str] = &[
    "pcie-root-port,id=root0,addr=0x1,bus=pcie.0,chassis=1",
    "pcie-root-port,id=root1,addr=0x2,bus=pcie.0,chassis=2",
    "virtio-net-pci,id=standby0,bus=root0,mac=52:54:00:00:00:01,romfile=,failover=on",
    PRIMARY,
];
const PRIMARY: &str =
    "virtio-net-pci,id=primary0,bus=root1,mac=52:54:00:00:00:01,romfile=,failover_pair_id=standby0";

struct Deaf;

impl MachineListener for Deaf {
    fn event(&self, _: MachineEvent) {}
}

impl FdSource for Deaf {
    fn take(&self, name: &str) -> Result<OwnedFd, String> {
        Err(format!("no descriptor '{name}'"))
    }
}

fn device(text: &str) -> Option<DeviceConfig> {
    let options = Options::parse(text, Some("driver")).ok()?;
    DeviceConfig::from_options(options, Source::CommandLine).ok()
}

fn configuration() -> Option<VmConfig> {
    let mut config = VmConfig {
        memory_bytes: RAM_BYTES,
        ..VmConfig::default()
    };
    config.machine.accel = vec![Accel::Qtest];
    config.devices = DEVICES.iter().filter_map(|text| device(text)).collect();
    config.validate().ok()?;
    Some(config)
}

/// What a monitor's client does, by a word after `!`. Whether it is refused does not matter.
fn ask(control: &Control, clock: &ManualClock, word: &str) {
    match word {
        "stop" => control.post(|board| drop(board.stop())),
        "cont" => control.post(|board| drop(board.cont())),
        "reset" => control.post(|board| drop(board.reset(false))),
        "del-primary" => control.post(|board| drop(board.device_del("primary0"))),
        "del-standby" => control.post(|board| drop(board.device_del("standby0"))),
        "add-primary" => control.post(|board| {
            if let Some(device) = device(PRIMARY) {
                drop(board.device_add(device, &Deaf));
            }
        }),
        "wait" => clock.advance(Duration::from_secs(6)),
        _ => {}
    }
}

/// Each line of `data` is a command of the `qtest` protocol, or `!` and a word for what a monitor's client does meanwhile.
///
/// # Panics
/// An answer is not one line of the protocol's, or the machine does not end well.
pub fn fuzz_board(data: &[u8]) {
    let Some(config) = configuration() else {
        return;
    };
    let clock = ManualClock::new();
    let (control, control_loop) = control_with(Clocks::manual(&clock));
    let Ok(mut board) = crate::build(config, control.clone(), Box::new(Deaf), &Deaf) else {
        return;
    };
    let client = board.qtest().and_then(|qtest| qtest.client());
    let (Ok(()), Some(client)) = (board.power_up(), client) else {
        return;
    };
    let machine = std::thread::spawn(move || control_loop.run(board).0);
    let find = |path: &str| match path {
        "ioapic" => Pins::Ioapic,
        "standby0" => Pins::Without,
        _ => Pins::Unknown,
    };
    let mut protocol = Protocol::new(client, clock.clone(), Box::new(find), Box::new(|_| {}));
    let mut answered = 0;
    for line in String::from_utf8_lossy(data).lines().take(MOST_COMMANDS) {
        if let Some(word) = line.strip_prefix('!') {
            ask(&control, &clock, word);
            continue;
        }
        let answer = protocol.execute(line);
        let good = ["OK", "FAIL", "ERR"];
        assert!(
            good.iter().any(|word| answer.starts_with(word)) && answer.ends_with('\n'),
            "{line:?} is answered {answer:?}"
        );
        answered += answer.len();
        if answered > MOST_ANSWERED_BYTES {
            break;
        }
    }
    drop(protocol);
    control.post(|board| board.quit("host-qmp-quit"));
    assert!(machine.join().is_ok(), "the control thread panicked");
}

/// A guest that sets up a port, finds the standby, accepts it, and has its primary unplugged; and each order of the monitor's.
pub fn board_seeds() -> Vec<Vec<u8>> {
    let set_up = "\
outl 0xcf8 0x80000818
outl 0xcfc 0x00010100
outl 0xcf8 0x80000820
outl 0xcfc 0xc010c000
outl 0xcf8 0x80000804
outl 0xcfc 0x7
outl 0xcf8 0x80010000
inl 0xcfc
outl 0xcf8 0x80010014
outl 0xcfc 0xc0000000
outl 0xcf8 0x80010004
outl 0xcfc 0x7
readl 0xc0000000
";
    let hotplug = "\
outl 0xcd0 0
inl 0xcc0
inl 0xcc4
outl 0xcc8 1
outl 0xcd0 1
outl 0xcc8 1
clock_step 1000000000
";
    let monitor = "!del-primary\n!wait\n!add-primary\n!stop\n!cont\n!reset\n!del-standby\n";
    let low = "outb 0x70 0xd\ninb 0x71\noutw 0x510 3\ninb 0x511\nreadl 0xb0008000\nwrite 0x1000 4 0x01020304\n";
    vec![
        format!("{set_up}{hotplug}").into_bytes(),
        format!("{set_up}{monitor}{hotplug}").into_bytes(),
        format!("{low}{monitor}{low}").into_bytes(),
    ]
}

/// Words of the lines.
pub fn board_words() -> Vec<String> {
    let words = "outb outw outl inb inw inl readb readw readl readq writeb writew writel writeq read write memset clock_step \
                 irq_intercept_in ioapic 0xcf8 0xcfc 0xcc0 0xcc4 0xcc8 0xcd0 0x510 0x511 0x70 0x71 0xcf9 0x600 0x604 0x608 0xb0000000 \
                 0x80000800 0x80010000 0xc0000000 !stop !cont !reset !del-primary !add-primary !del-standby !wait";
    words.split_whitespace().map(str::to_owned).collect()
}
