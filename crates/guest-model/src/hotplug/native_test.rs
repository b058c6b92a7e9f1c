//! The states and times of a native slot, against its registers alone.

use super::*;
use crate::pci::{Bridge, Capability, Function};
use crate::ram::GuestRam;
use crate::testing::MemoryBus;

const MSI: u16 = 0x40;
const EXPRESS: u16 = 0x60;
const PORT: Bdf = Bdf::new(0, 1, 0);
/// Configuration space of the port, by ECAM from address 0 on.
const CONFIG: u64 = 0x8000;
const ACCESS: ConfigAccess = ConfigAccess::Ecam(0);

/// The registers of a slot: a command completes at once, events are cleared by writing ones.
struct Slot(MemoryBus);

fn register(offset: u16) -> u64 {
    CONFIG + u64::from(EXPRESS + offset)
}

impl Slot {
    fn new(present: bool) -> Self {
        let mut slot = Self(MemoryBus::new(0x2_0000));
        let capabilities = ATTENTION_BUTTON | POWER_CONTROLLER | HOTPLUG_CAPABLE;
        let at = register(regs::SLOT_CAPABILITIES);
        slot.0.put(at, &capabilities.to_le_bytes());
        slot.set_present(present);
        slot
    }

    fn status(&self) -> u16 {
        self.0.word(register(regs::SLOT_STATUS))
    }

    fn control(&self) -> u16 {
        self.0.word(register(regs::SLOT_CONTROL))
    }

    fn set_status(&mut self, status: u16) {
        self.0
            .put(register(regs::SLOT_STATUS), &status.to_le_bytes());
    }

    fn set_present(&mut self, present: bool) {
        let (status, link) = if present {
            (PRESENT, LINK_ACTIVE)
        } else {
            (0, 0)
        };
        self.set_status(self.status() & !PRESENT | status);
        self.0.put(register(regs::LINK_STATUS), &link.to_le_bytes());
    }

    /// Latches events and sends the port's message.
    fn tell(&mut self, events: u16) {
        self.set_status(self.status() | events);
        let control = self.0.word(CONFIG + u64::from(MSI) + 2);
        assert!(control & 1 != 0, "MSI is on");
        let address = self.0.word(CONFIG + u64::from(MSI) + 4);
        let data = self.0.word(CONFIG + u64::from(MSI) + 8);
        self.0.put(address.into(), &u32::from(data).to_le_bytes());
    }
}

impl GuestBus for Slot {
    fn port_in(&mut self, port: u16, bytes: u8) -> Result<u32, BusError> {
        self.0.port_in(port, bytes)
    }

    fn port_out(&mut self, port: u16, bytes: u8, value: u32) -> Result<(), BusError> {
        self.0.port_out(port, bytes, value)
    }

    fn memory_read(&mut self, address: u64, data: &mut [u8]) -> Result<(), BusError> {
        self.0.memory_read(address, data)
    }

    fn memory_write(&mut self, address: u64, data: &[u8]) -> Result<(), BusError> {
        if address == register(regs::SLOT_STATUS) {
            let ones = u16::from_le_bytes([data[0], data[1]]);
            self.set_status(self.status() & !(ones & EVENTS));
            return Ok(());
        }
        self.0.memory_write(address, data)?;
        if address == register(regs::SLOT_CONTROL) {
            self.set_status(self.status() | COMPLETED);
        }
        Ok(())
    }

    fn pause(&mut self, limit: Duration) -> Result<(), BusError> {
        self.0.pause(limit)
    }
}

fn taken_over(present: bool) -> (Slot, NativeSlot) {
    let mut bus = Slot::new(present);
    let mut ram = GuestRam::new(0x1000, 0x4000);
    let mut words = MsiWords::new(&mut bus, &mut ram).unwrap();
    let port = Function {
        bdf: PORT,
        vendor: 0x1b36,
        device: 0xc,
        class: 0x604,
        bars: Vec::new(),
        capabilities: vec![
            Capability {
                id: regs::CAP_MSI,
                offset: MSI,
            },
            Capability {
                id: regs::CAP_EXPRESS,
                offset: EXPRESS,
            },
        ],
        bridge: Some(Bridge::default()),
    };
    let slot = NativeSlot::take_over(&mut bus, ACCESS, &port, present, &mut words);
    let slot = slot.unwrap().unwrap();
    (bus, slot)
}

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn service(bus: &mut Slot, slot: &mut NativeSlot, now: Duration) -> Vec<SlotOrder> {
    slot.service(bus, ACCESS, now).unwrap()
}

#[test]
fn a_press_blinks_for_five_seconds_and_the_power_takes_one_more() {
    let (mut bus, mut slot) = taken_over(true);
    assert_eq!(bus.control() & POWER_INDICATOR, INDICATOR_ON);
    assert!(service(&mut bus, &mut slot, seconds(0)).is_empty());

    bus.tell(BUTTON);
    assert_eq!(
        service(&mut bus, &mut slot, seconds(10)),
        [SlotOrder::Noticed]
    );
    assert_eq!(bus.control() & POWER_INDICATOR, INDICATOR_BLINK);
    assert_eq!(bus.status() & BUTTON, 0, "the event is taken");
    let before = seconds(15) - Duration::from_millis(1);
    assert!(service(&mut bus, &mut slot, before).is_empty());
    assert_eq!(
        service(&mut bus, &mut slot, seconds(15)),
        [SlotOrder::DriverOut]
    );
    assert_eq!(bus.control() & POWER_OFF, 0, "its drivers are in still");

    slot.power_off(&mut bus, ACCESS, seconds(16)).unwrap();
    assert_ne!(bus.control() & POWER_OFF, 0);
    bus.set_present(false);
    bus.tell(PRESENCE_CHANGED | LINK_CHANGED);
    let until = seconds(17);
    assert_eq!(slot.power(), Power::PoweringOff { until });
    assert!(service(&mut bus, &mut slot, seconds(16)).is_empty());
    assert_eq!(
        service(&mut bus, &mut slot, seconds(17)),
        [SlotOrder::Emptied]
    );
    assert_eq!(bus.control() & POWER_INDICATOR, INDICATOR_OFF);
    assert_eq!(slot.power(), Power::Off);
}

#[test]
fn a_second_press_takes_it_back() {
    let (mut bus, mut slot) = taken_over(true);
    bus.tell(BUTTON);
    service(&mut bus, &mut slot, seconds(0));
    bus.tell(BUTTON);
    assert_eq!(
        service(&mut bus, &mut slot, seconds(4)),
        [SlotOrder::TakenBack]
    );
    assert_eq!(bus.control() & POWER_INDICATOR, INDICATOR_ON);
    assert!(service(&mut bus, &mut slot, seconds(60)).is_empty());
    assert_eq!(slot.power(), Power::On);
}

#[test]
fn what_is_put_into_an_empty_slot_comes_up_at_once() {
    let (mut bus, mut slot) = taken_over(false);
    assert_ne!(bus.control() & POWER_OFF, 0);
    assert_eq!(bus.control() & POWER_INDICATOR, INDICATOR_OFF);
    bus.set_present(true);
    bus.tell(PRESENCE_CHANGED | LINK_CHANGED);
    assert_eq!(
        service(&mut bus, &mut slot, seconds(1)),
        [SlotOrder::DriverIn]
    );
    assert_eq!(bus.control() & POWER_OFF, 0);
    slot.came(&mut bus, ACCESS).unwrap();
    assert_eq!(bus.control() & POWER_INDICATOR, INDICATOR_ON);
}

#[test]
fn what_is_pulled_out_is_gone_without_asking() {
    let (mut bus, mut slot) = taken_over(true);
    bus.set_present(false);
    bus.tell(PRESENCE_CHANGED);
    assert_eq!(service(&mut bus, &mut slot, seconds(1)), [SlotOrder::Gone]);
    assert_ne!(bus.control() & POWER_OFF, 0);
    assert_eq!(slot.power(), Power::Off);
}

#[test]
fn without_a_message_nothing_is_looked_at() {
    let (mut bus, mut slot) = taken_over(true);
    bus.set_status(bus.status() | BUTTON);
    assert!(service(&mut bus, &mut slot, seconds(60)).is_empty());
    assert_eq!(slot.power(), Power::On);
}
