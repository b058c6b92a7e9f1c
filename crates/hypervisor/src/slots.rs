//! Memory slots: guest RAM with its dirty log, and host memory that devices show.

use crate::HypervisorError;
use kvm_bindings::{KVM_MEM_LOG_DIRTY_PAGES, kvm_userspace_memory_region};
use kvm_ioctls::VmFd;
use pci::BarMapping;
use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

/// Guest RAM as KVM knows it.
#[derive(Clone, Copy)]
struct RamSlot {
    slot: u32,
    guest: u64,
    host: u64,
    size: u64,
}

/// The pages of one stretch of RAM that the guest wrote since the last look.
pub struct DirtyLog {
    /// Guest-physical address of the first page.
    pub guest: u64,
    /// One bit a 4 KiB page, the lowest bit first.
    pub bitmap: Vec<u64>,
}

#[derive(Default)]
struct Table {
    next: u32,
    free: BTreeSet<u32>,
    ram: Vec<RamSlot>,
    log: bool,
}

pub(crate) struct Slots {
    vm: Arc<VmFd>,
    limit: u32,
    table: Mutex<Table>,
}

impl Slots {
    pub(crate) fn new(vm: Arc<VmFd>, limit: u32) -> Arc<Self> {
        Arc::new(Self {
            vm,
            limit,
            table: Mutex::default(),
        })
    }

    fn table(&self) -> std::sync::MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, table: &mut Table) -> io::Result<u32> {
        if let Some(slot) = table.free.pop_first() {
            return Ok(slot);
        }
        if table.next >= self.limit {
            return Err(io::Error::other("KVM has no memory slot left"));
        }
        table.next += 1;
        Ok(table.next - 1)
    }

    #[allow(unsafe_code)]
    fn set(&self, slot: u32, flags: u32, guest: u64, size: u64, host: u64) -> io::Result<()> {
        let region = kvm_userspace_memory_region {
            slot,
            flags,
            guest_phys_addr: guest,
            memory_size: size,
            userspace_addr: host,
        };
        // SAFETY: the callers promise that the host range is mapped until the slot is deleted; KVM refuses
        // overlaps.
        unsafe { self.vm.set_user_memory_region(region) }
            .map_err(|e| io::Error::from_raw_os_error(e.errno()))
    }

    /// Registers RAM. The mapping must outlive the VM.
    pub(crate) fn add_ram(&self, guest: u64, host: u64, size: u64) -> io::Result<()> {
        let mut table = self.table();
        let slot = self.take(&mut table)?;
        self.set(slot, 0, guest, size, host)?;
        table.ram.push(RamSlot {
            slot,
            guest,
            host,
            size,
        });
        Ok(())
    }

    /// Switches the dirty log of all RAM on (all clean) or off.
    pub(crate) fn set_dirty_log(&self, on: bool) -> Result<(), HypervisorError> {
        let mut table = self.table();
        let flags = if on { KVM_MEM_LOG_DIRTY_PAGES } else { 0 };
        for ram in &table.ram {
            self.set(ram.slot, flags, ram.guest, ram.size, ram.host)
                .map_err(|source| HypervisorError::Ioctl {
                    what: "dirty log",
                    source,
                })?;
        }
        table.log = on;
        Ok(())
    }

    /// What the guest wrote since the last call or since the log was switched on.
    pub(crate) fn dirty_log(&self) -> Result<Vec<DirtyLog>, HypervisorError> {
        let table = self.table();
        if !table.log {
            return Ok(Vec::new());
        }
        let read = |ram: &RamSlot| {
            let size =
                usize::try_from(ram.size).map_err(|_| kvm_ioctls::Error::new(libc::EFBIG))?;
            let bitmap = self.vm.get_dirty_log(ram.slot, size)?;
            Ok(DirtyLog {
                guest: ram.guest,
                bitmap,
            })
        };
        table
            .ram
            .iter()
            .map(read)
            .collect::<Result<_, _>>()
            .map_err(HypervisorError::ioctl("KVM_GET_DIRTY_LOG"))
    }

    /// Shows host memory to the guest until the value is dropped.
    pub(crate) fn map(
        self: &Arc<Self>,
        guest: u64,
        host: u64,
        size: u64,
    ) -> io::Result<Box<dyn BarMapping>> {
        let mut table = self.table();
        let slot = self.take(&mut table)?;
        if let Err(error) = self.set(slot, 0, guest, size, host) {
            table.free.insert(slot);
            return Err(error);
        }
        Ok(Box::new(Mapping {
            slots: Arc::clone(self),
            slot,
            guest,
        }))
    }
}

struct Mapping {
    slots: Arc<Slots>,
    slot: u32,
    guest: u64,
}

impl BarMapping for Mapping {}

impl Drop for Mapping {
    fn drop(&mut self) {
        let mut table = self.slots.table();
        match self.slots.set(self.slot, 0, self.guest, 0, 0) {
            Ok(()) => {
                table.free.insert(self.slot);
            }
            Err(error) => {
                tracing::error!(slot = self.slot, %error, "a device mapping could not be taken from the guest")
            }
        }
    }
}
