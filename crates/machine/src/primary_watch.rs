//! A primary between its slot and its hardware: sees the moments at which the guest's driver takes it and lets go.
//!
//! What a driver does with a NIC, in order, and what follows from it here:
//!
//! | the driver | seen as | follows |
//! |---|---|---|
//! | begins to probe | memory decoding goes on | the VF is given the guest's address, before the write is carried out |
//! | opens the interface | the first interrupt vector is unmasked | frames may go to the primary ([`Event::DriverIn`]) |
//! | closes the interface, on its way out | the last vector is masked | frames go to the standby ([`Event::DriverOut`]) |
//!
//! The address must not come later, since the driver reads it while it probes; and it should not come earlier: from then on the
//! NIC keeps the guest's frames for a VF whose driver is not up yet. So the vCPU that writes waits for it, before its write is
//! carried out and without any lock of the bus; not for ever, should the host's kernel not answer ([`SteeringThread`]).
//!
//! [`Event::DriverIn`]: failover::Event::DriverIn
//! [`Event::DriverOut`]: failover::Event::DriverOut

use crate::control::Control;
use net::steer::{Order, SteeringThread};
use pci::{Decode, IntxLine, PciDevice, StateError, regs};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Pointer to the first capability (PCI Express Base 6.0, 7.5.1.1.11).
const CAPABILITIES_POINTER: u16 = 0x34;
/// Command register, memory space enable.
const MEMORY_ENABLE: u8 = 1 << 1;
/// MSI-X message control: enable.
const MSIX_ENABLE: u8 = 1 << 7;
/// MSI-X vector control: masked.
const VECTOR_MASKED: u8 = 1;
const ENTRY_BYTES: u64 = 16;
const VECTOR_CONTROL: u64 = 12;

/// A pair's steering, shared with the vCPUs for the one moment described above.
pub(crate) type SharedSteering = Arc<SteeringThread>;

/// Where the MSI-X table is.
#[derive(Debug, Clone, Copy)]
struct Table {
    capability: u16,
    bar: usize,
    offset: u64,
    vectors: u64,
}

#[derive(Default)]
struct Watch {
    armed: bool,
    enabled: bool,
    unmasked: std::collections::BTreeSet<u64>,
    in_use: bool,
}

/// The function in the slot.
pub(crate) struct WatchedPrimary {
    inner: Arc<dyn PciDevice>,
    id: String,
    control: Control,
    steering: Option<SharedSteering>,
    table: Option<Table>,
    watch: Mutex<Watch>,
}

fn read<const N: usize>(device: &dyn PciDevice, offset: u16) -> [u8; N] {
    let mut data = [0; N];
    device.config_read(offset, &mut data);
    data
}

/// Finds the MSI-X capability by the chain, as a driver does.
fn find_table(device: &dyn PciDevice) -> Option<Table> {
    let [mut at] = read::<1>(device, CAPABILITIES_POINTER);
    // A chain longer than the registers there are is a loop.
    for _ in 0..48 {
        if at < 0x40 {
            return None;
        }
        let capability = u16::from(at & !3);
        let [id, next] = read::<2>(device, capability);
        if id == regs::CAP_MSIX {
            let vectors = u64::from(u16::from_le_bytes(read(device, capability + 2)) & 0x7ff) + 1;
            let place = u32::from_le_bytes(read(device, capability + 4));
            let bar = usize::try_from(place & 7).ok()?;
            return Some(Table {
                capability,
                bar,
                offset: u64::from(place & !7),
                vectors,
            });
        }
        at = next;
    }
    None
}

/// Whether a write switches memory decoding on, wherever in it the command register is: a guest may begin before it.
fn enables_memory(offset: u16, data: &[u8]) -> bool {
    let command = regs::COMMAND
        .checked_sub(offset)
        .and_then(|at| data.get(usize::from(at)));
    command.is_some_and(|command| command & MEMORY_ENABLE != 0)
}

impl WatchedPrimary {
    /// Watches `inner`, the primary `id`; `steering` gives the VF its address.
    pub(crate) fn new(
        inner: Arc<dyn PciDevice>,
        id: String,
        control: Control,
        steering: Option<SharedSteering>,
    ) -> Arc<Self> {
        let table = find_table(inner.as_ref());
        Arc::new(Self {
            inner,
            id,
            control,
            steering,
            table,
            watch: Mutex::default(),
        })
    }

    fn watch(&self) -> MutexGuard<'_, Watch> {
        self.watch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn arm(&self) {
        if std::mem::replace(&mut self.watch().armed, true) {
            return;
        }
        if let Some(steering) = &self.steering {
            // What fails is logged and told by itself.
            steering.order(Order::ArmPrimary);
        }
    }

    /// Tells when the driver begins or ceases to use it.
    fn settle(&self, mut watch: MutexGuard<'_, Watch>) {
        let in_use = match self.table {
            Some(_) => watch.enabled && !watch.unmasked.is_empty(),
            // Without MSI-X, bus mastering is the best sign there is.
            None => self.inner.decode().bus_master,
        };
        if in_use == std::mem::replace(&mut watch.in_use, in_use) {
            return;
        }
        drop(watch);
        tracing::debug!(primary = self.id, in_use, "the guest's driver");
        let id = self.id.clone();
        self.control
            .post(move |board| board.primary_in_use(&id, in_use));
    }
}

impl PciDevice for WatchedPrimary {
    fn label(&self) -> String {
        self.inner.label()
    }

    fn config_read(&self, offset: u16, data: &mut [u8]) {
        self.inner.config_read(offset, data);
    }

    fn before_config_write(&self, offset: u16, data: &[u8]) {
        if enables_memory(offset, data) {
            self.arm();
        }
        self.inner.before_config_write(offset, data);
    }

    fn config_write(&self, offset: u16, data: &[u8]) {
        self.inner.config_write(offset, data);
        let mut watch = self.watch();
        if let Some(table) = self.table {
            let [enable] = read::<1>(self.inner.as_ref(), table.capability + 3);
            watch.enabled = enable & MSIX_ENABLE != 0;
        }
        self.settle(watch);
    }

    fn decode(&self) -> Decode {
        self.inner.decode()
    }

    fn bar_read(&self, bar: usize, offset: u64, data: &mut [u8]) {
        self.inner.bar_read(bar, offset, data);
    }

    fn bar_write(&self, bar: usize, offset: u64, data: &[u8]) {
        self.inner.bar_write(bar, offset, data);
        let Some(table) = self.table.filter(|table| table.bar == bar) else {
            return;
        };
        let Some(within) = offset.checked_sub(table.offset) else {
            return;
        };
        // The vector control is the last dword of an entry; an eight-byte write may carry it in its upper half.
        let (vector, register) = (within / ENTRY_BYTES, within % ENTRY_BYTES);
        let control = VECTOR_CONTROL
            .checked_sub(register)
            .and_then(|at| data.get(usize::try_from(at).ok()?));
        if let Some(control) = control.filter(|_| vector < table.vectors) {
            let mut watch = self.watch();
            if control & VECTOR_MASKED == 0 {
                watch.unmasked.insert(vector);
            } else {
                watch.unmasked.remove(&vector);
            }
            self.settle(watch);
        }
    }

    fn bar_placed(&self, bar: usize, at: Option<u64>) {
        self.inner.bar_placed(bar, at);
    }

    fn connect_intx(&self, line: Arc<dyn IntxLine>) {
        self.inner.connect_intx(line);
    }

    fn detached(&self) {
        self.inner.detached();
    }

    fn reset(&self) {
        let mut watch = self.watch();
        watch.unmasked.clear();
        watch.enabled = false;
        watch.in_use = false;
        drop(watch);
        self.inner.reset();
    }

    fn state_version(&self) -> u16 {
        self.inner.state_version()
    }

    fn save(&self) -> Result<Vec<u8>, StateError> {
        self.inner.save()
    }

    fn restore(&self, version: u16, state: &[u8]) -> Result<(), StateError> {
        self.inner.restore(version, state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_write_of_the_command_register_gets_past() {
        assert!(enables_memory(regs::COMMAND, &[MEMORY_ENABLE, 0]));
        // By a wider access, or one that is not aligned.
        assert!(enables_memory(0, &[0, 0, 0, 0, MEMORY_ENABLE, 0, 0, 0]));
        assert!(enables_memory(regs::COMMAND - 1, &[0, MEMORY_ENABLE, 0, 0]));
        // It is switched off, or not in the write.
        assert!(!enables_memory(regs::COMMAND, &[!MEMORY_ENABLE, 0xff]));
        assert!(!enables_memory(0, &[0xff; 4]));
        assert!(!enables_memory(regs::COMMAND + 1, &[0xff; 4]));
        assert!(!enables_memory(u16::MAX, &[0xff; 4]));
    }
}
