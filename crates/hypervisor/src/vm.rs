//! The virtual machine as KVM has it, and the [`Platform`] that devices see.

use crate::accelerator::{Accelerator, Processors, StateKind, decode, encode};
use crate::cpus::{Bus, CpuListener, Cpus};
use crate::interrupts::Routes;
use crate::slots::{DirtyLog, Slots};
use crate::{CpuChoices, CpuModel, HypervisorError, IrqchipState, Topology, preflight};
use kvm_bindings::{
    KVM_CAP_DISABLE_QUIRKS2, KVM_DEV_VFIO_FILE, KVM_DEV_VFIO_FILE_ADD, KVM_DEV_VFIO_FILE_DEL,
    KVM_PIT_SPEAKER_DUMMY, KVM_X86_QUIRK_SLOT_ZAP_ALL, kvm_create_device, kvm_device_attr,
    kvm_device_type_KVM_DEV_TYPE_VFIO, kvm_enable_cap, kvm_pit_config,
};
use kvm_ioctls::{DeviceFd, IoEventAddress, Kvm, NoDatamatch, VcpuFd, VmFd};
use pci::{BarMapping, DoorbellWidth, IntxLine, MsiVector, Platform};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::{Arc, Mutex, PoisonError};
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};
use vmm_sys_util::eventfd::EventFd;

/// Where KVM keeps three pages for real mode on Intel: just below the BIOS, in no other use.
const TSS_ADDRESS: usize = 0xfeff_d000;
const IDENTITY_MAP_ADDRESS: u64 = 0xfeff_c000;

/// A virtual machine: memory slots, interrupt routes, doorbells, and the VFIO registration.
pub struct Vm {
    kvm: Kvm,
    fd: Arc<VmFd>,
    slots: Arc<Slots>,
    routes: Arc<Routes>,
    msr_indices: Vec<u32>,
    vfio: Mutex<Option<DeviceFd>>,
    choices: CpuChoices,
    /// Kept mapped for as long as the VM's slots refer to it.
    ram: Arc<memory::GuestRam>,
}

fn io_error(error: kvm_ioctls::Error) -> io::Error {
    io::Error::from_raw_os_error(error.errno())
}

/// By default KVM throws away every translation of the guest when one memory slot is deleted, and each page the guest
/// has is faulted in anew: for every BAR that moves, in the middle of a boot or an unplug. A newer kernel (6.12) can be
/// told to drop the slot's own only; with an older one it is as it was.
fn keep_other_slots_mapped(fd: &VmFd) {
    let known = fd.check_extension_raw(u64::from(KVM_CAP_DISABLE_QUIRKS2));
    if u32::try_from(known).is_ok_and(|known| known & KVM_X86_QUIRK_SLOT_ZAP_ALL != 0) {
        let mut disable = kvm_enable_cap {
            cap: KVM_CAP_DISABLE_QUIRKS2,
            ..Default::default()
        };
        disable.args[0] = u64::from(KVM_X86_QUIRK_SLOT_ZAP_ALL);
        if let Err(error) = fd.enable_cap(&disable) {
            tracing::debug!(%error, "KVM_X86_QUIRK_SLOT_ZAP_ALL stays on");
        }
    }
}

impl Vm {
    /// Creates the VM with in-kernel interrupt controllers and timer and its RAM in place. Before that it runs a
    /// tiny guest, to tell a `/dev/kvm` that only opens from one that works. `choices` are of its processors.
    ///
    /// # Errors
    /// [`HypervisorError::Absent`], [`Denied`](HypervisorError::Denied) or
    /// [`Unusable`](HypervisorError::Unusable) say which of the three it is.
    pub fn new(
        ram: Arc<memory::GuestRam>,
        choices: CpuChoices,
    ) -> Result<Arc<Self>, HypervisorError> {
        let error = HypervisorError::ioctl;
        let kvm = preflight::open()?;
        preflight::run_two_instructions(&kvm)?;
        let fd = Arc::new(kvm.create_vm().map_err(error("KVM_CREATE_VM"))?);
        keep_other_slots_mapped(&fd);
        fd.set_identity_map_address(IDENTITY_MAP_ADDRESS)
            .map_err(error("KVM_SET_IDENTITY_MAP_ADDR"))?;
        fd.set_tss_address(TSS_ADDRESS)
            .map_err(error("KVM_SET_TSS_ADDR"))?;
        fd.create_irq_chip().map_err(error("KVM_CREATE_IRQCHIP"))?;
        fd.create_pit2(kvm_pit_config {
            flags: KVM_PIT_SPEAKER_DUMMY,
            ..Default::default()
        })
        .map_err(error("KVM_CREATE_PIT2"))?;
        let slots = Slots::new(
            Arc::clone(&fd),
            u32::try_from(kvm.get_nr_memslots()).unwrap_or(32),
        );
        for region in ram.iter() {
            let host = region.as_ptr() as u64;
            slots
                .add_ram(region.start_addr().0, host, region.len())
                .map_err(|source| HypervisorError::Ioctl {
                    what: "guest RAM",
                    source,
                })?;
        }
        let routes = Routes::new(Arc::clone(&fd)).map_err(|source| HypervisorError::Ioctl {
            what: "KVM_SET_GSI_ROUTING",
            source,
        })?;
        let msr_indices = kvm
            .get_msr_index_list()
            .map_err(error("KVM_GET_MSR_INDEX_LIST"))?
            .as_slice()
            .to_vec();
        Ok(Arc::new(Self {
            kvm,
            fd,
            slots,
            routes,
            msr_indices,
            vfio: Mutex::default(),
            choices,
            ram,
        }))
    }

    /// The system handle, for CPUID questions.
    pub fn kvm(&self) -> &Kvm {
        &self.kvm
    }

    /// The RAM the guest runs on.
    pub fn ram(&self) -> &Arc<memory::GuestRam> {
        &self.ram
    }

    /// The most vCPUs this host allows.
    pub fn max_vcpus(&self) -> u32 {
        u32::try_from(self.kvm.get_max_vcpus()).unwrap_or(u32::MAX)
    }

    pub(crate) fn create_vcpu(&self, index: u32) -> Result<VcpuFd, HypervisorError> {
        self.fd
            .create_vcpu(u64::from(index))
            .map_err(HypervisorError::ioctl("KVM_CREATE_VCPU"))
    }

    pub(crate) fn msr_indices(&self) -> &[u32] {
        &self.msr_indices
    }
}

impl Accelerator for Vm {
    fn name(&self) -> &'static str {
        "kvm"
    }

    fn irq_line(&self, gsi: u32) -> Arc<dyn IntxLine> {
        self.routes.line(gsi)
    }

    fn processors(
        self: Arc<Self>,
        count: u32,
        topology: Topology,
        bus: Arc<dyn Bus>,
        listener: Arc<dyn CpuListener>,
    ) -> Result<Box<dyn Processors>, HypervisorError> {
        let model = CpuModel::host(&self.kvm, topology)?.with(&self.choices);
        Ok(Box::new(Cpus::new(&self, count, &model, &bus, &listener)?))
    }

    fn set_dirty_log(&self, on: bool) -> Result<(), HypervisorError> {
        self.slots.set_dirty_log(on)
    }

    fn dirty_log(&self) -> Result<Vec<DirtyLog>, HypervisorError> {
        self.slots.dirty_log()
    }

    fn irqchip_kind(&self) -> StateKind {
        StateKind {
            model: "kvm-irqchip",
            version: IrqchipState::VERSION,
        }
    }

    fn save_irqchip(&self) -> Result<Vec<u8>, HypervisorError> {
        encode("interrupt controllers", &IrqchipState::save(&self.fd)?)
    }

    fn restore_irqchip(&self, state: &[u8]) -> Result<(), HypervisorError> {
        let state: IrqchipState = decode("interrupt controllers", state)?;
        state.restore(&self.fd)
    }
}

impl Platform for Vm {
    fn msi_vectors(&self, count: u16) -> io::Result<Vec<Arc<dyn MsiVector>>> {
        self.routes.vectors(count)
    }

    fn add_doorbell(&self, address: u64, width: DoorbellWidth, fd: &EventFd) -> io::Result<()> {
        let at = IoEventAddress::Mmio(address);
        match width {
            DoorbellWidth::Any => self.fd.register_ioevent(fd, &at, NoDatamatch),
            DoorbellWidth::Word(value) => self.fd.register_ioevent(fd, &at, value),
            DoorbellWidth::Dword(value) => self.fd.register_ioevent(fd, &at, value),
        }
        .map_err(io_error)
    }

    fn remove_doorbell(&self, address: u64, width: DoorbellWidth, fd: &EventFd) -> io::Result<()> {
        let at = IoEventAddress::Mmio(address);
        match width {
            DoorbellWidth::Any => self.fd.unregister_ioevent(fd, &at, NoDatamatch),
            DoorbellWidth::Word(value) => self.fd.unregister_ioevent(fd, &at, value),
            DoorbellWidth::Dword(value) => self.fd.unregister_ioevent(fd, &at, value),
        }
        .map_err(io_error)
    }

    fn map_bar(&self, address: u64, host: *mut u8, size: u64) -> io::Result<Box<dyn BarMapping>> {
        self.slots.map(address, host as u64, size)
    }

    fn vfio_file(&self, fd: BorrowedFd<'_>, register: bool) -> io::Result<()> {
        let mut device = self.vfio.lock().unwrap_or_else(PoisonError::into_inner);
        if device.is_none() {
            let mut create = kvm_create_device {
                type_: kvm_device_type_KVM_DEV_TYPE_VFIO,
                fd: 0,
                flags: 0,
            };
            *device = Some(self.fd.create_device(&mut create).map_err(io_error)?);
        }
        let Some(device) = device.as_ref() else {
            return Ok(());
        };
        let file: i32 = fd.as_raw_fd();
        let attr = kvm_device_attr {
            group: KVM_DEV_VFIO_FILE,
            attr: u64::from(if register {
                KVM_DEV_VFIO_FILE_ADD
            } else {
                KVM_DEV_VFIO_FILE_DEL
            }),
            addr: std::ptr::from_ref(&file) as u64,
            flags: 0,
        };
        device.set_device_attr(&attr).map_err(io_error)
    }
}
