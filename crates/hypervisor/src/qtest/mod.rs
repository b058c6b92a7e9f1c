//! A machine whose processors are a client: `-accel qtest`.
//!
//! ```text
//!   test in this process ─────────────┐
//!                                     ▼                ┌─ RAM
//!   socket ── Protocol (lines) ──▶ Client (a Bus) ─────┼─ doorbells ──▶ eventfd ──▶ device's worker
//!                                     ▲                └─ the board's Bus: ports, configuration space, regions
//!                                     │ IRQ raise / lower
//!   device ── MsiVector, IntxLine ─▶ Interrupts ──▶ a message's data into RAM
//! ```
//! No guest code runs and `/dev/kvm` is not opened. Everything else of the machine is what it is under KVM.
//!
//! A client is not held off while the machine is stopped: one of QEMU's may look at memory then, and no lock is needed,
//! since each device has its own, and RAM is written as any device writes it. One in this process that is to stop and
//! go on as a processor does asks the [`Gate`] before each access.

mod client;
mod doorbells;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
mod gate;
mod intercept;
mod interrupts;
mod processors;
mod protocol;
mod values;
mod watch;

pub use client::{Client, GuestClock};
pub use gate::{Gate, Inside};
pub use interrupts::{InterruptListener, LINES};
pub use pci::MsiMessage;
pub use protocol::{MAX_LINE_BYTES, MAX_TRANSFER_BYTES, Pins, Protocol, Reply};

use crate::accelerator::{Accelerator, Processors, StateKind, decode, encode};
use crate::{Bus, CpuListener, DirtyLog, HypervisorError, Topology};
use doorbells::Doorbells;
use interrupts::Interrupts;
use memory::GuestRam;
use minicbor::{Decode, Encode};
use pci::{BarMapping, DoorbellWidth, IntxLine, MsiVector, Platform};
use processors::IdleProcessors;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, OnceLock, Weak};
use vmm_sys_util::eventfd::EventFd;

/// The accelerator that runs nothing.
pub struct Qtest {
    ram: Arc<GuestRam>,
    doorbells: Arc<Doorbells>,
    interrupts: Arc<Interrupts>,
    /// The processors have it: the board's bus, which it holds, holds us.
    client: OnceLock<Weak<Client>>,
    gate: Arc<Gate>,
}

/// What is saved of the interrupt controllers: there are none, only the lines that would lead to them.
#[derive(Debug, Encode, Decode)]
struct LinesState {
    /// One bit a line that is high. The devices that hold them high raise them again when they are restored.
    #[n(0)]
    levels: u32,
}

const IRQCHIP_VERSION: u16 = 1;

impl Qtest {
    /// For a machine with this RAM.
    ///
    /// # Errors
    /// No descriptors or threads are left.
    pub fn new(ram: Arc<GuestRam>) -> Result<Arc<Self>, HypervisorError> {
        let interrupts =
            Interrupts::new(Arc::clone(&ram)).map_err(|source| HypervisorError::Host {
                what: "interrupts of the qtest accelerator",
                source,
            })?;
        Ok(Arc::new(Self {
            ram,
            doorbells: Arc::default(),
            interrupts,
            client: OnceLock::new(),
            gate: Arc::default(),
        }))
    }

    /// The client's view of the machine; `None` until the machine is built, and once its processors are gone.
    pub fn client(&self) -> Option<Arc<Client>> {
        self.client.get().and_then(Weak::upgrade)
    }

    /// Whether the machine runs, for a client that is to keep to it.
    pub fn gate(&self) -> &Arc<Gate> {
        &self.gate
    }

    /// From now on `listener` hears of each interrupt, until it is dropped.
    pub fn watch_interrupts(&self, listener: &Arc<dyn InterruptListener>) {
        self.interrupts.watch(listener);
    }
}

impl Accelerator for Qtest {
    fn name(&self) -> &'static str {
        "qtest"
    }

    fn irq_line(&self, gsi: u32) -> Arc<dyn IntxLine> {
        self.interrupts.line(gsi)
    }

    fn processors(
        self: Arc<Self>,
        count: u32,
        _: Topology,
        bus: Arc<dyn Bus>,
        _: Arc<dyn CpuListener>,
    ) -> Result<Box<dyn Processors>, HypervisorError> {
        let client = Arc::new(Client::new(
            Arc::clone(&self.ram),
            Arc::clone(&self.doorbells),
            Arc::clone(&self.interrupts),
            bus,
        ));
        if self.client.set(Arc::downgrade(&client)).is_err() {
            tracing::debug!("a machine's processors were made twice; the first client stays");
        }
        let gate = Arc::clone(&self.gate);
        Ok(Box::new(IdleProcessors::new(count, gate, client)))
    }

    fn set_dirty_log(&self, _: bool) -> Result<(), HypervisorError> {
        // The client writes through vm-memory, which keeps a bitmap.
        Ok(())
    }

    fn dirty_log(&self) -> Result<Vec<DirtyLog>, HypervisorError> {
        Ok(Vec::new())
    }

    fn irqchip_kind(&self) -> StateKind {
        StateKind {
            model: "qtest-irqchip",
            version: IRQCHIP_VERSION,
        }
    }

    fn save_irqchip(&self) -> Result<Vec<u8>, HypervisorError> {
        let levels = self.interrupts.levels();
        encode("interrupt lines", &LinesState { levels })
    }

    fn restore_irqchip(&self, state: &[u8]) -> Result<(), HypervisorError> {
        let LinesState { levels } = decode("interrupt lines", state)?;
        if levels >> LINES != 0 {
            return Err(HypervisorError::State {
                what: "interrupt lines",
                reason: format!("{levels:#x} names more than {LINES} lines"),
            });
        }
        Ok(())
    }
}

impl Platform for Qtest {
    fn msi_vectors(&self, count: u16) -> io::Result<Vec<Arc<dyn MsiVector>>> {
        self.interrupts.vectors(count)
    }

    fn add_doorbell(&self, address: u64, width: DoorbellWidth, fd: &EventFd) -> io::Result<()> {
        self.doorbells.add(address, width, fd)
    }

    fn remove_doorbell(&self, address: u64, width: DoorbellWidth, fd: &EventFd) -> io::Result<()> {
        self.doorbells.remove(address, width, fd)
    }

    fn map_bar(&self, _: u64, _: *mut u8, _: u64) -> io::Result<Box<dyn BarMapping>> {
        // Without a mapping a function answers each access itself, which is all a client needs.
        Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "the qtest accelerator maps no device memory",
        ))
    }

    fn vfio_file(&self, _: BorrowedFd<'_>, _: bool) -> io::Result<()> {
        Ok(())
    }
}
