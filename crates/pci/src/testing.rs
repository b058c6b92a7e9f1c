//! A platform that records what is asked of it, and functions to put into slots: for this crate's tests only.

use crate::address_map::HostWindows;
use crate::config_layout::{ConfigLayout, Identity};
use crate::config_space::ConfigSpace;
use crate::device::{BarKind, Decode, PciDevice, StateError};
use crate::lock::lock;
use crate::platform::{BarMapping, DoorbellWidth, IntxLine, MsiMessage, MsiVector, Platform};
use crate::root_complex::RootComplex;
use crate::root_port::{RootPort, RootPortConfig, SlotDriver};
use crate::slot_event::{SlotEvent, SlotListener};
use crate::topology::Function;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

pub(crate) struct TestVector {
    fd: EventFd,
    state: Mutex<(Option<MsiMessage>, u32, bool)>,
}

impl TestVector {
    pub(crate) fn message(&self) -> Option<MsiMessage> {
        lock(&self.state).0
    }

    /// Signals so far, delivered or not.
    pub(crate) fn signals(&self) -> u32 {
        lock(&self.state).1
    }
}

impl MsiVector for TestVector {
    fn program(&self, message: Option<MsiMessage>) -> io::Result<()> {
        let mut state = lock(&self.state);
        state.0 = message;
        state.2 &= message.is_none();
        Ok(())
    }

    fn trigger(&self) -> &EventFd {
        &self.fd
    }

    fn signal(&self) {
        let mut state = lock(&self.state);
        state.1 += 1;
        state.2 |= state.0.is_none();
    }

    fn pending(&self) -> bool {
        lock(&self.state).2
    }
}

#[derive(Default)]
pub(crate) struct RecordingPlatform {
    pub(crate) made: Mutex<Vec<Arc<TestVector>>>,
}

impl RecordingPlatform {
    pub(crate) fn vectors(&self, count: u16) -> (Vec<Arc<dyn MsiVector>>, Vec<Arc<TestVector>>) {
        let seen: Vec<_> = (0..count)
            .map(|_| {
                Arc::new(TestVector {
                    fd: EventFd::new(EFD_NONBLOCK).unwrap(),
                    state: Mutex::new((None, 0, false)),
                })
            })
            .collect();
        lock(&self.made).extend(seen.iter().cloned());
        let vectors = seen.iter().map(|v| Arc::clone(v) as Arc<dyn MsiVector>);
        (vectors.collect(), seen)
    }
}

impl Platform for RecordingPlatform {
    fn msi_vectors(&self, count: u16) -> io::Result<Vec<Arc<dyn MsiVector>>> {
        Ok(self.vectors(count).0)
    }

    fn add_doorbell(&self, _: u64, _: DoorbellWidth, _: &EventFd) -> io::Result<()> {
        Ok(())
    }

    fn remove_doorbell(&self, _: u64, _: DoorbellWidth, _: &EventFd) -> io::Result<()> {
        Ok(())
    }

    fn map_bar(&self, _: u64, _: *mut u8, _: u64) -> io::Result<Box<dyn BarMapping>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn vfio_file(&self, _: std::os::fd::BorrowedFd<'_>, _: bool) -> io::Result<()> {
        Ok(())
    }
}

#[derive(Default)]
pub(crate) struct TestLine {
    pub(crate) asserted: Mutex<bool>,
}

impl IntxLine for TestLine {
    fn set(&self, asserted: bool) {
        *lock(&self.asserted) = asserted;
    }

    fn drive_by(&self, _: Option<(&EventFd, &EventFd)>) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// Writes down what slots tell.
#[derive(Default)]
pub(crate) struct Ear {
    heard: Mutex<Vec<SlotEvent>>,
}

impl SlotListener for Ear {
    fn slot_event(&self, event: SlotEvent) {
        lock(&self.heard).push(event);
    }
}

impl Ear {
    /// What it heard since the last call.
    pub(crate) fn heard(&self) -> Vec<String> {
        let heard = std::mem::take(&mut *lock(&self.heard));
        heard.iter().map(|event| format!("{event:?}")).collect()
    }
}

pub(crate) const MEM32: (u64, u64) = (0xc000_0000, 0xfebf_ffff);
pub(crate) const MEM64: (u64, u64) = (0x80_0000_0000, 0xff_ffff_ffff);
pub(crate) const IO: (u64, u64) = (0x1000, 0xffff);

/// An empty root complex with windows as a q35 machine has them.
pub(crate) fn complex() -> Arc<RootComplex> {
    let windows = HostWindows {
        io: vec![IO.0..=IO.1],
        memory: vec![MEM32.0..=MEM32.1, MEM64.0..=MEM64.1],
    };
    let wiring = Box::new(|_| Arc::new(TestLine::default()) as Arc<dyn IntxLine>);
    Arc::new(RootComplex::new(windows, wiring))
}

pub(crate) fn function(id: &str, device: Arc<dyn PciDevice>) -> Function {
    Function {
        id: id.to_owned(),
        model: "fake-nic".to_owned(),
        acpi_index: 0,
        device,
    }
}

pub(crate) fn port(id: &str, slot: u16, driven_by: SlotDriver) -> (Arc<RootPort>, Arc<TestVector>) {
    let platform = RecordingPlatform::default();
    let config = RootPortConfig {
        id: id.to_owned(),
        chassis: 1,
        slot,
        port: 0,
        hotplug: true,
        native_hotplug: true,
        driven_by,
        multifunction: false,
    };
    let port = Arc::new(RootPort::new(config, &platform).unwrap());
    let vector = lock(&platform.made).pop().unwrap();
    (port, vector)
}

/// What a [`FakeFunction`] was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Told {
    Connected,
    Placed(usize, Option<u64>),
    Detached,
    Reset,
}

/// A function with memory behind its regions, which writes down what the bus tells it.
pub(crate) struct FakeFunction {
    name: String,
    space: Mutex<ConfigSpace>,
    pub(crate) memory: Mutex<Vec<u8>>,
    told: Mutex<Vec<Told>>,
    in_slot: AtomicBool,
}

impl FakeFunction {
    /// `bars`: index, kind, size, prefetchable.
    pub(crate) fn new(name: &str, bars: &[(usize, BarKind, u64, bool)]) -> Arc<Self> {
        let mut layout = ConfigLayout::endpoint(Identity {
            vendor: 0x1af4,
            device: 0x1041,
            class: 0x02_00_00,
            revision: 1,
            subsystem_vendor: 0x1af4,
            subsystem: 0x1100,
        });
        for &(index, kind, size, prefetchable) in bars {
            layout.bar(index, kind, size, prefetchable).unwrap();
        }
        layout.interrupt_pin(1);
        Arc::new(Self {
            name: name.to_owned(),
            space: Mutex::new(layout.build()),
            memory: Mutex::new(vec![0; 0x1_0000]),
            told: Mutex::new(Vec::new()),
            in_slot: AtomicBool::new(false),
        })
    }

    /// What it was told since the last call.
    pub(crate) fn told(&self) -> Vec<Told> {
        std::mem::take(&mut lock(&self.told))
    }
}

impl PciDevice for FakeFunction {
    fn label(&self) -> String {
        self.name.clone()
    }

    fn config_read(&self, offset: u16, data: &mut [u8]) {
        lock(&self.space).read(offset, data);
    }

    fn config_write(&self, offset: u16, data: &[u8]) {
        lock(&self.space).write(offset, data);
    }

    fn decode(&self) -> Decode {
        lock(&self.space).decode()
    }

    fn bar_read(&self, bar: usize, offset: u64, data: &mut [u8]) {
        assert!(
            self.in_slot.load(Ordering::SeqCst),
            "accessed after it was detached"
        );
        let size = self.decode().bars[bar].unwrap().size;
        assert!(offset + data.len() as u64 <= size);
        let memory = lock(&self.memory);
        for (offset, byte) in (offset..).zip(data) {
            *byte = memory[usize::try_from(offset).unwrap() % 0x1_0000];
        }
    }

    fn bar_write(&self, bar: usize, offset: u64, data: &[u8]) {
        assert!(
            self.in_slot.load(Ordering::SeqCst),
            "accessed after it was detached"
        );
        let size = self.decode().bars[bar].unwrap().size;
        assert!(offset + data.len() as u64 <= size);
        let mut memory = lock(&self.memory);
        for (offset, byte) in (offset..).zip(data) {
            memory[usize::try_from(offset).unwrap() % 0x1_0000] = *byte;
        }
    }

    fn bar_placed(&self, bar: usize, at: Option<u64>) {
        lock(&self.told).push(Told::Placed(bar, at));
    }

    fn connect_intx(&self, _: Arc<dyn IntxLine>) {
        self.in_slot.store(true, Ordering::SeqCst);
        lock(&self.told).push(Told::Connected);
    }

    fn detached(&self) {
        self.in_slot.store(false, Ordering::SeqCst);
        lock(&self.told).push(Told::Detached);
    }

    fn reset(&self) {
        lock(&self.space).reset();
        lock(&self.told).push(Told::Reset);
    }

    fn state_version(&self) -> u16 {
        1
    }

    fn save(&self) -> Result<Vec<u8>, StateError> {
        Ok(lock(&self.space).save())
    }

    fn restore(&self, _: u16, state: &[u8]) -> Result<(), StateError> {
        lock(&self.space)
            .restore(state)
            .map_err(|error| StateError::Refused {
                device: self.label(),
                reason: error.to_string(),
            })
    }
}
