//! Both hotplug controllers, driven as Linux drives them.

use crate::testing::{
    Ear, FakeFunction, RecordingPlatform, TestVector, Told, complex, function, port,
};
use crate::{
    BarKind, Bdf, Hotplug, PciDevice, PowerIndicator, RootComplex, RootPort, SlotDriver, SlotError,
    Withdrawal, regs,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

struct Rig {
    root: Arc<RootComplex>,
    hotplug: Hotplug,
    ear: Arc<Ear>,
    gpe: Arc<AtomicU32>,
    ports: Vec<(Arc<RootPort>, Arc<TestVector>)>,
}

/// Three ports rp0 to rp2 at 00:02.0 to 00:04.0, buses 1 to 3.
fn rig(driven_by: SlotDriver) -> Rig {
    let root = complex();
    let ear = Arc::new(Ear::default());
    assert!(root.set_listener(ear.clone()));
    let mut ports = Vec::new();
    for index in 0u8..3 {
        let made = port(&format!("rp{index}"), u16::from(index), driven_by);
        root.insert_port((index + 2) << 3, made.0.clone()).unwrap();
        root.config_write(
            Bdf::new(0, index + 2, 0),
            regs::PRIMARY_BUS,
            &[0, index + 1, index + 1],
        );
        ports.push(made);
    }
    let gpe = Arc::new(AtomicU32::new(0));
    let raised = Arc::clone(&gpe);
    let raise = Box::new(move || {
        raised.fetch_add(1, Ordering::Relaxed);
    });
    let ids = ["rp0", "rp1", "rp2"].map(str::to_owned).to_vec();
    let hotplug = Hotplug::new(Arc::clone(&root), ids, raise);
    Rig {
        root,
        hotplug,
        ear,
        gpe,
        ports,
    }
}

fn nic() -> Arc<FakeFunction> {
    FakeFunction::new("nic", &[(0, BarKind::Memory32, 0x1000, false)])
}

fn vendor(root: &RootComplex, bus: u8) -> u16 {
    let mut data = [0; 2];
    root.config_read(Bdf::new(bus, 0, 0), 0, &mut data);
    u16::from_le_bytes(data)
}

fn outl(rig: &Rig, offset: u16, value: u32) {
    rig.hotplug.acpi().write(offset, &value.to_le_bytes());
}

fn inl(rig: &Rig, offset: u16) -> u32 {
    let mut data = [0; 4];
    rig.hotplug.acpi().read(offset, &mut data);
    u32::from_le_bytes(data)
}

#[test]
fn acpi_plug_and_eject() {
    let rig = rig(SlotDriver::Acpi);
    assert_eq!(rig.hotplug.acpi().select_number("rp0"), Some(2));
    assert_eq!(rig.hotplug.acpi().select_number("rp2"), Some(0));
    let nic = nic();
    let mut plugged = function("primary0", nic.clone());
    plugged.acpi_index = 7;
    rig.hotplug.plug("rp1", 0, plugged).unwrap();
    assert_eq!(nic.told(), [Told::Reset, Told::Connected]);
    assert_eq!(rig.gpe.load(Ordering::Relaxed), 1);
    outl(&rig, 0x10, 0);
    assert_eq!(inl(&rig, 0), 0, "not that bus");
    outl(&rig, 0x10, 1);
    assert_eq!(inl(&rig, 0), 1);
    assert_eq!(inl(&rig, 0), 0, "reading clears it");
    assert_eq!(inl(&rig, 0xc), u32::MAX);
    outl(&rig, 0x14, 1);
    assert_eq!((inl(&rig, 0x14), inl(&rig, 0x14)), (7, 0));
    assert_eq!(vendor(&rig.root, 2), 0x1af4);

    rig.hotplug.request_unplug("primary0").unwrap();
    rig.hotplug.request_unplug("primary0").unwrap();
    assert_eq!(rig.gpe.load(Ordering::Relaxed), 3);
    rig.root
        .config_write(Bdf::new(2, 0, 0), regs::COMMAND, &[6, 0]);
    assert_eq!(rig.ear.heard(), [""; 0]);
    assert_eq!((inl(&rig, 4), inl(&rig, 4)), (1, 1));
    assert_eq!(rig.ear.heard(), ["Noticed(rp1)"]);
    rig.root
        .config_write(Bdf::new(2, 0, 0), regs::COMMAND, &[2, 0]);
    rig.root
        .config_write(Bdf::new(2, 0, 0), regs::COMMAND, &[6, 0]);
    rig.root
        .config_write(Bdf::new(2, 0, 0), regs::COMMAND, &[2, 0]);
    assert_eq!(rig.ear.heard(), ["DriverLetGo(primary0 in rp1)"], "once");
    outl(&rig, 8, 1);
    assert_eq!(
        rig.ear.heard(),
        ["LetGo(primary0 in rp1, Eject, asked: true)"]
    );
    assert_eq!(inl(&rig, 4), 0);
    assert_eq!(vendor(&rig.root, 2), 0xffff);
    assert_eq!(nic.told(), [Told::Detached]);
    assert_eq!(
        rig.hotplug.request_unplug("primary0"),
        Err(SlotError::DeviceNotFound("primary0".to_owned()))
    );

    // Back at once, and thrown out by the guest itself.
    rig.hotplug
        .plug("rp1", 0, function("primary0", nic))
        .unwrap();
    assert_eq!(inl(&rig, 0), 1);
    outl(&rig, 8, 1);
    assert_eq!(
        rig.ear.heard(),
        ["LetGo(primary0 in rp1, Eject, asked: false)"]
    );
    outl(&rig, 8, 1);
    outl(&rig, 0x10, u32::MAX);
    outl(&rig, 8, u32::MAX);
    assert_eq!((inl(&rig, 0), inl(&rig, 0xc), inl(&rig, 0x10)), (0, 0, 0));
    outl(&rig, 0x10, 255);
    assert_eq!((inl(&rig, 0xc), inl(&rig, 0x10)), (u32::MAX, 255));
    assert_eq!(rig.ear.heard(), [""; 0]);
}

#[test]
fn acpi_requests_can_be_taken_back_and_end_with_a_reset() {
    let rig = rig(SlotDriver::Acpi);
    rig.hotplug
        .plug("rp0", 0, function("primary0", nic()))
        .unwrap();
    rig.hotplug.request_unplug("primary0").unwrap();
    assert_eq!(
        rig.hotplug.withdraw_unplug("primary0").unwrap(),
        Withdrawal::Withdrawn
    );
    outl(&rig, 0x10, 2);
    assert_eq!(inl(&rig, 4), 0);
    rig.hotplug.request_unplug("primary0").unwrap();
    inl(&rig, 4);
    assert_eq!(
        rig.hotplug.withdraw_unplug("primary0").unwrap(),
        Withdrawal::TooLate
    );
    rig.hotplug.reset();
    assert_eq!(rig.ear.heard(), ["Noticed(rp0)"]);
    rig.hotplug.repeat_unplug_request("primary0").unwrap();
    rig.hotplug.reset();
    assert_eq!(
        rig.ear.heard(),
        ["LetGo(primary0 in rp0, MachineReset, asked: true)"]
    );
    assert_eq!(inl(&rig, 0x10), 0);
}

#[test]
fn acpi_block_moves_to_a_machine_with_the_same_ports() {
    let source = rig(SlotDriver::Acpi);
    source.hotplug.plug("rp0", 0, function("a", nic())).unwrap();
    source.hotplug.plug("rp2", 0, function("b", nic())).unwrap();
    source.hotplug.request_unplug("b").unwrap();
    outl(&source, 0x10, 2);
    let target = rig(SlotDriver::Acpi);
    target.root.insert("rp0", 0, function("a", nic())).unwrap();
    target.root.insert("rp2", 0, function("b", nic())).unwrap();
    for (from, to) in source.ports.iter().zip(&target.ports) {
        to.0.restore(1, &from.0.save().unwrap()).unwrap();
    }
    let saved = source.hotplug.acpi().save().unwrap();
    target.hotplug.acpi().restore(1, &saved).unwrap();
    target.root.redecode_all();
    assert_eq!(inl(&target, 0), 1);
    outl(&target, 0x10, 0);
    assert_eq!(inl(&target, 4), 1);
    outl(&target, 8, 1);
    assert_eq!(
        target.ear.heard(),
        ["Noticed(rp2)", "LetGo(b in rp2, Eject, asked: true)"]
    );

    assert!(target.hotplug.acpi().restore(2, &saved).is_err());
    assert!(target.hotplug.acpi().restore(1, &saved[..5]).is_err());
    let other = Hotplug::new(complex(), vec!["rp0".to_owned()], Box::new(|| {}));
    let error = other.acpi().restore(1, &saved).unwrap_err().to_string();
    assert!(error.contains("[rp2, rp1, rp0]"), "{error}");
}

#[test]
fn only_ports_with_hotplug_take_devices() {
    let rig = rig(SlotDriver::Acpi);
    let mut config = rig.ports[0].0.config().clone();
    (config.id, config.slot, config.hotplug) = ("fixed".to_owned(), 9, false);
    let fixed = RootPort::new(config, &RecordingPlatform::default()).unwrap();
    rig.root.insert_port(9 << 3, Arc::new(fixed)).unwrap();
    for (bus, devfn) in [("pcie.0", 7 << 3), ("fixed", 0)] {
        let error = rig.hotplug.plug(bus, devfn, function("x", nic()));
        assert_eq!(error, Err(SlotError::NoHotplug(bus.to_owned())));
    }
    rig.root.insert("fixed", 0, function("x", nic())).unwrap();
    assert_eq!(
        rig.hotplug.request_unplug("x"),
        Err(SlotError::NoHotplug("fixed".to_owned()))
    );
}

/// Slot registers of a port, as pciehp reads and writes them.
struct Slot<'a> {
    root: &'a RootComplex,
    port: Bdf,
    express: u16,
}

impl Slot<'_> {
    fn of(rig: &Rig, device: u8) -> Slot<'_> {
        let port = Bdf::new(0, device, 0);
        let root = &*rig.root;
        let read = |offset| {
            let mut byte = [0];
            root.config_read(port, offset, &mut byte);
            byte[0]
        };
        let mut at = u16::from(read(regs::CAPABILITIES));
        while read(at) != regs::CAP_EXPRESS {
            at = u16::from(read(at + 1));
            assert_ne!(at, 0);
        }
        Slot {
            root,
            port,
            express: at,
        }
    }

    fn read16(&self, offset: u16) -> u16 {
        let mut data = [0; 2];
        self.root
            .config_read(self.port, self.express + offset, &mut data);
        u16::from_le_bytes(data)
    }

    /// Reads and clears the events.
    fn events(&self) -> u16 {
        let status = self.read16(0x1a) & 0x11f;
        self.root
            .config_write(self.port, self.express + 0x1a, &status.to_le_bytes());
        status
    }

    fn present(&self) -> bool {
        self.read16(0x1a) & 0x40 != 0
    }

    fn link_active(&self) -> bool {
        self.read16(0x12) & 1 << 13 != 0
    }

    fn command(&self, clear: u16, set: u16) {
        let control = self.read16(0x18) & !clear | set;
        self.root
            .config_write(self.port, self.express + 0x18, &control.to_le_bytes());
        assert_eq!(self.events() & 0x10, 0x10, "each command completes");
    }

    /// MSI, and the enables pciehp sets for a slot with an attention button: button, fault, latch, command
    /// completed, hot-plug interrupt, link.
    fn start_driver(&self) {
        let mut at = u16::from({
            let mut byte = [0];
            self.root
                .config_read(self.port, regs::CAPABILITIES, &mut byte);
            byte[0]
        });
        loop {
            let mut header = [0; 2];
            self.root.config_read(self.port, at, &mut header);
            if header[0] == regs::CAP_MSI {
                break;
            }
            at = u16::from(header[1]);
        }
        self.root
            .config_write(self.port, at + 4, &0xfee0_0000u32.to_le_bytes());
        self.root.config_write(self.port, at + 2, &[1, 0]);
        self.events();
        self.command(0, 0x1037);
    }

    fn blink(&self) {
        self.command(0x300, 0x200);
    }

    /// Power on, as board_added does.
    fn power_on(&self) {
        self.blink();
        self.command(0x400, 0);
        self.command(0x300, 0x100);
    }
}

const BUTTON: u16 = 1;
const PRESENCE: u16 = 8;
const LINK: u16 = 0x100;

#[test]
fn native_plug_and_orderly_removal() {
    let rig = rig(SlotDriver::Native);
    let slot = Slot::of(&rig, 2);
    let vector = &rig.ports[0].1;
    assert!(!slot.present() && !slot.link_active());
    assert_eq!(rig.ports[0].0.power_indicator(), PowerIndicator::Off);
    slot.start_driver();
    let before = vector.signals();
    let nic = nic();
    rig.hotplug
        .plug("rp0", 0, function("primary0", nic.clone()))
        .unwrap();
    assert_eq!(rig.gpe.load(Ordering::Relaxed), 0, "ACPI has no part in it");
    assert!(vector.signals() > before);
    assert_eq!(
        slot.events(),
        PRESENCE | LINK,
        "no press, which a booting guest may misread"
    );
    assert!(slot.present() && slot.link_active());
    assert_eq!(vendor(&rig.root, 1), 0xffff, "no power yet");
    slot.power_on();
    assert_eq!(vendor(&rig.root, 1), 0x1af4);
    assert_eq!(nic.told(), [Told::Reset, Told::Connected], "reset once");
    rig.root
        .config_write(Bdf::new(1, 0, 0), regs::COMMAND, &[6, 0]);

    rig.hotplug.request_unplug("primary0").unwrap();
    let again = rig.hotplug.request_unplug("primary0").unwrap_err();
    assert_eq!(
        again.to_string(),
        "Device primary0 is already in the process of unplug"
    );
    let signals = vector.signals();
    rig.hotplug.repeat_unplug_request("primary0").unwrap();
    assert_eq!(
        vector.signals(),
        signals,
        "the first press was not read yet"
    );
    assert_eq!(slot.events(), BUTTON);
    slot.blink();
    assert_eq!(rig.ear.heard(), ["Noticed(rp0)"]);
    rig.hotplug.repeat_unplug_request("primary0").unwrap();
    assert_eq!(slot.events(), 0, "a press now would call it off");
    rig.root
        .config_write(Bdf::new(1, 0, 0), regs::COMMAND, &[2, 0]);
    assert_eq!(rig.ear.heard(), ["DriverLetGo(primary0 in rp0)"]);
    slot.command(0, 0x400);
    assert_eq!(
        rig.ear.heard(),
        ["LetGo(primary0 in rp0, PowerOff, asked: true)"]
    );
    assert!(!slot.present() && !slot.link_active());
    assert_eq!(nic.told(), [Told::Detached]);

    // Put back while the driver still waits out its second of power-off, whose events it forgets.
    rig.hotplug
        .plug("rp0", 0, function("primary0", nic.clone()))
        .unwrap();
    slot.events();
    let signals = vector.signals();
    let control = slot.read16(0x18) | 0x300;
    rig.root
        .config_write(slot.port, slot.express + 0x18, &control.to_le_bytes());
    assert!(vector.signals() > signals);
    assert_eq!(
        slot.events() & (PRESENCE | LINK),
        PRESENCE | LINK,
        "told again"
    );
    assert_eq!(rig.ear.heard(), [""; 0], "not taken for a removal");
    slot.power_on();
    assert_eq!(vendor(&rig.root, 1), 0x1af4);

    // The guest's operator turns the slot off.
    slot.command(0, 0x400);
    assert_eq!(rig.ear.heard(), [""; 0]);
    slot.command(0, 0x300);
    assert_eq!(
        rig.ear.heard(),
        ["LetGo(primary0 in rp0, PowerOff, asked: false)"]
    );
}

#[test]
fn native_slot_refuses_while_busy_and_calls_off() {
    let rig = rig(SlotDriver::Native);
    let slot = Slot::of(&rig, 3);
    slot.start_driver();
    rig.hotplug.plug("rp1", 0, function("x", nic())).unwrap();
    slot.blink();
    for refused in [
        rig.hotplug.may_request_unplug("x"),
        rig.hotplug.request_unplug("x"),
    ] {
        assert_eq!(
            refused.unwrap_err().to_string(),
            "Hot-unplug failed: guest is busy (power indicator blinking)"
        );
    }
    slot.power_on();
    slot.events();
    rig.hotplug.may_request_unplug("x").unwrap();
    rig.hotplug.request_unplug("x").unwrap();
    assert_eq!(
        rig.hotplug.may_request_unplug("x").unwrap_err().to_string(),
        "Device x is already in the process of unplug"
    );
    slot.events();
    slot.blink();
    assert_eq!(
        rig.hotplug.withdraw_unplug("x").unwrap(),
        Withdrawal::TooLate
    );
    assert_eq!(
        slot.events(),
        BUTTON,
        "the second press calls the removal off"
    );
    slot.command(0x300, 0x100);
    assert!(!rig.ports[1].0.unplug_asked());

    // Withdrawn before the guest has read of it: it never hears of it.
    rig.hotplug.request_unplug("x").unwrap();
    assert_eq!(
        rig.hotplug.withdraw_unplug("x").unwrap(),
        Withdrawal::Withdrawn
    );
    assert_eq!(slot.events(), 0);
    // Withdrawn after that, and before the indicator blinks.
    rig.hotplug.request_unplug("x").unwrap();
    assert_eq!(slot.events(), BUTTON);
    assert_eq!(
        rig.hotplug.withdraw_unplug("x").unwrap(),
        Withdrawal::TooLate
    );
    assert_eq!(slot.events(), 0);
    let blinking = slot.read16(0x18) & !0x300 | 0x200;
    let control = slot.express + 0x18;
    rig.root
        .config_write(slot.port, control, &blinking.to_le_bytes());
    let completed = 0x10;
    assert_eq!(
        slot.events(),
        BUTTON | completed,
        "pressed when it begins to act"
    );
    slot.command(0x300, 0x100);
    // A removal that the guest calls off by itself is told.
    assert_eq!(rig.ear.heard(), ["Noticed(rp1)"]);
    rig.hotplug.request_unplug("x").unwrap();
    slot.events();
    slot.blink();
    slot.command(0x300, 0x100);
    assert_eq!(rig.ear.heard(), ["Noticed(rp1)", "Kept(rp1)"]);
    assert!(!rig.ports[1].0.unplug_asked());
    rig.hotplug.request_unplug("x").unwrap();
    rig.hotplug.reset();
    rig.root.reset();
    assert_eq!(
        rig.ear.heard(),
        ["LetGo(x in rp1, MachineReset, asked: true)"]
    );
}

#[test]
fn a_slot_without_power_lets_go_at_once() {
    let rig = rig(SlotDriver::Native);
    rig.hotplug.plug("rp0", 0, function("x", nic())).unwrap();
    rig.hotplug.request_unplug("x").unwrap();
    assert_eq!(
        rig.ear.heard(),
        ["LetGo(x in rp0, NotPowered, asked: true)"]
    );
    assert!(rig.root.function("x").is_none());
}

#[test]
fn a_driver_with_no_ear_but_the_button_gets_it_pressed() {
    let rig = rig(SlotDriver::Native);
    let slot = Slot::of(&rig, 2);
    slot.command(0, 0x21);
    rig.hotplug.plug("rp0", 0, function("x", nic())).unwrap();
    assert_eq!(slot.events(), PRESENCE | LINK | BUTTON);
}

#[test]
fn a_cold_plugged_slot_is_powered_and_quiet() {
    let rig = rig(SlotDriver::Native);
    let slot = Slot::of(&rig, 2);
    rig.root.insert("rp0", 0, function("x", nic())).unwrap();
    assert_eq!(vendor(&rig.root, 1), 0x1af4);
    assert!(slot.present() && slot.link_active());
    assert_eq!(slot.events(), 0);
    rig.root.reset();
    rig.root
        .config_write(slot.port, regs::PRIMARY_BUS, &[0, 1, 1]);
    assert_eq!(vendor(&rig.root, 1), 0x1af4);
    assert_eq!(rig.ports[0].0.power_indicator(), PowerIndicator::On);
}

#[test]
fn functions_of_a_device_come_and_go_together() {
    let rig = rig(SlotDriver::Acpi);
    let (first, second) = (nic(), nic());
    rig.hotplug.plug("rp0", 1, function("f1", second)).unwrap();
    assert_eq!(rig.gpe.load(Ordering::Relaxed), 0, "waits for function 0");
    rig.hotplug.plug("rp0", 0, function("f0", first)).unwrap();
    assert_eq!(rig.gpe.load(Ordering::Relaxed), 1);
    let late = rig.hotplug.plug("rp0", 2, function("f2", nic()));
    assert!(matches!(late, Err(SlotError::Occupied { .. })));
    outl(&rig, 0x10, 2);
    outl(&rig, 8, 1);
    assert_eq!(
        rig.ear.heard(),
        [
            "LetGo(f1 in rp0, Eject, asked: false)",
            "LetGo(f0 in rp0, Eject, asked: false)"
        ]
    );
}

#[test]
fn a_native_slot_moves_in_the_middle_of_a_removal() {
    let source = rig(SlotDriver::Native);
    source.root.insert("rp0", 0, function("x", nic())).unwrap();
    let slot = Slot::of(&source, 2);
    slot.start_driver();
    source.hotplug.request_unplug("x").unwrap();
    slot.events();
    slot.blink();
    let saved = source.ports[0].0.save().unwrap();

    let target = rig(SlotDriver::Native);
    target.root.insert("rp0", 0, function("x", nic())).unwrap();
    target.ports[0].0.restore(1, &saved).unwrap();
    target.root.redecode_all();
    assert_eq!(target.ports[0].1.message(), source.ports[0].1.message());
    assert_eq!(
        target.ports[0].0.power_indicator(),
        PowerIndicator::Blinking
    );
    Slot::of(&target, 2).command(0, 0x400);
    assert_eq!(
        target.ear.heard(),
        ["LetGo(x in rp0, PowerOff, asked: true)"]
    );

    // A target without the device tells the guest that the slot is empty.
    let empty = rig(SlotDriver::Native);
    empty.ports[0].0.restore(1, &saved).unwrap();
    empty.root.redecode_all();
    let slot = Slot::of(&empty, 2);
    assert!(!slot.present());
    assert_eq!(slot.events() & PRESENCE, PRESENCE);
    assert!(
        empty.ports[1].0.restore(1, &saved).is_err(),
        "another slot number"
    );
    assert!(empty.ports[0].0.restore(2, &saved).is_err());
    assert!(empty.ports[0].0.restore(1, b"\x9f").is_err());
}
