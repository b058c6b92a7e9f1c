//! A whole machine in this process: no socket, no KVM, and no time but what the test lets pass.

#![allow(clippy::unwrap_used)]
use config::vm::{Accel, DeviceConfig, VmConfig};
use config::{Options, Source};
use hypervisor::Bus;
use machine::clock::ManualClock;
use machine::in_process::InProcess;
use machine::{MachineEvent, MachineListener};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

struct Ear(Sender<MachineEvent>);

impl MachineListener for Ear {
    fn event(&self, event: MachineEvent) {
        // A test that has ended hears nothing any more.
        let _ = self.0.send(event);
    }
}

struct Machine {
    inner: InProcess,
    clock: Arc<ManualClock>,
    events: Receiver<MachineEvent>,
}

impl Machine {
    fn start(devices: &[&str]) -> Self {
        let mut config = VmConfig {
            memory_bytes: 64 << 20,
            ..VmConfig::default()
        };
        config.machine.accel = vec![Accel::Qtest];
        for text in devices {
            let options = Options::parse(text, Some("driver")).unwrap();
            let device = DeviceConfig::from_options(options, Source::CommandLine).unwrap();
            config.devices.push(device);
        }
        let clock = ManualClock::new();
        let (sender, events) = channel();
        let inner = InProcess::start(config, &clock, Box::new(Ear(sender))).unwrap();
        Self {
            inner,
            clock,
            events,
        }
    }

    fn inl(&self, port: u16) -> u32 {
        let mut data = [0; 4];
        self.inner.client.port_read(port, &mut data);
        u32::from_le_bytes(data)
    }

    fn config_read(&self, bus: u32, devfn: u32, register: u32) -> u32 {
        let address = 1 << 31 | bus << 16 | devfn << 8 | register;
        self.inner.client.port_write(0xcf8, &address.to_le_bytes());
        self.inl(0xcfc)
    }
}

const PORT: &str = "pcie-root-port,id=root0,addr=0x1,bus=pcie.0,chassis=1";
const NIC: &str = "virtio-net-pci,id=net0,bus=root0,mac=52:54:00:11:22:33";

#[test]
fn a_client_finds_the_board_and_nobody_has_assigned_resources() {
    let machine = Machine::start(&[PORT, NIC]);
    assert_eq!(machine.config_read(0, 0, 0), 0x29c0_8086);
    assert_eq!(machine.config_read(0, 0x1f << 3, 0), 0x2918_8086);
    assert_eq!(machine.config_read(0, 1 << 3, 0), 0x000c_1b36);
    assert_eq!(machine.config_read(0, 1 << 3, 0x18) & 0xffff_ff00, 0);
    assert_eq!(machine.config_read(1, 0, 0), u32::MAX);
    let mut ecam = [0; 4];
    machine.inner.client.memory_read(0xb000_8000, &mut ecam);
    assert_eq!(u32::from_le_bytes(ecam), 0x000c_1b36);

    machine.config_read(0, 1 << 3, 0x18);
    machine.inner.client.port_write(0xcfd, &[1]);
    machine.inner.client.port_write(0xcfe, &[1]);
    assert_eq!(machine.config_read(1, 0, 0), 0x1041_1af4);
    assert_eq!(machine.config_read(1, 0, 0x20) & !0xf, 0, "BAR 4");

    machine.inner.client.port_write(0x510, &3_u16.to_le_bytes());
    let bytes: Vec<u8> = (0..8)
        .map(|_| {
            let mut byte = [0];
            machine.inner.client.port_read(0x511, &mut byte);
            byte[0]
        })
        .collect();
    assert_eq!(bytes, (64_u64 << 20).to_le_bytes());
    machine
        .inner
        .control
        .ask(|board| board.stop().unwrap())
        .unwrap();
    assert_eq!(machine.events.try_recv().unwrap(), MachineEvent::Stop);
}

#[test]
fn the_guests_timer_counts_by_the_clock_that_was_handed_in() {
    let machine = Machine::start(&[]);
    assert_eq!(machine.inl(0x608), 0);
    machine.clock.advance(Duration::from_secs(1));
    assert_eq!(machine.inl(0x608), 3_579_545);
    assert_eq!(machine.inner.control.now().as_ms(), 1000);
}

#[test]
fn a_guest_that_sets_its_clock_is_told_of_once() {
    let machine = Machine::start(&[]);
    let write = |register: u8, byte: u8| {
        machine.inner.client.port_write(0x70, &[register]);
        machine.inner.client.port_write(0x71, &[byte]);
    };
    let hour = || {
        machine.inner.client.port_write(0x70, &[4]);
        let mut data = [0];
        machine.inner.client.port_read(0x71, &mut data);
        data[0]
    };
    // The clock is held, its hour is put forward or back by one, it goes on.
    let (before, after) = match hour() {
        0x23 => (0x23, 0x22),
        nine if nine & 0xf == 9 => (nine, nine + 7),
        other => (other, other + 1),
    };
    write(0x0b, 0x82);
    write(0x04, before);
    write(0x04, after);
    write(0x0b, 0x02);
    let one_hour = 3600 * if after > before { 1 } else { -1 };
    // Everything posted before this has happened after it.
    machine.inner.control.ask(|_| ()).unwrap();
    let told: Vec<_> = machine.events.try_iter().collect();
    let expected = MachineEvent::RtcChange { offset_s: one_hour };
    assert_eq!(told, [expected]);
    assert_eq!(hour(), after);
}

#[test]
fn a_machine_that_ends_leaves_nobody_on_the_bus_and_no_socket() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let mut config = VmConfig {
        memory_bytes: 64 << 20,
        ..VmConfig::default()
    };
    config.machine.accel = vec![Accel::Qtest];
    let netdev = format!(
        "dgram,id=n0,local.type=unix,local.path={},remote.type=unix,remote.path={}",
        path("here"),
        path("there")
    );
    let options = Options::parse(&netdev, Some("type")).unwrap();
    let netdev = config::vm::NetdevConfig::from_options(options, Source::CommandLine);
    config.netdevs.push(netdev.unwrap());
    let nic = Options::parse("virtio-net-pci,netdev=n0,addr=0x3", Some("driver")).unwrap();
    let nic = DeviceConfig::from_options(nic, Source::CommandLine).unwrap();
    config.devices.push(nic);
    let (sender, _events) = channel();
    let clock = ManualClock::new();
    let machine = InProcess::start(config, &clock, Box::new(Ear(sender))).unwrap();
    // A client that is still there when the machine ends.
    let client = Arc::clone(&machine.client);
    let nic = || {
        let mut id = [0; 4];
        client.memory_read(0xb000_0000 + (3 << 15), &mut id);
        u32::from_le_bytes(id)
    };
    assert_eq!(nic(), 0x1041_1af4);
    assert!(folder.path().join("here").exists());
    assert_eq!(machine.end(), 0);
    assert_eq!(nic(), u32::MAX);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}
