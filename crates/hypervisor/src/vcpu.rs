//! One vCPU.

use crate::cpuid::CpuModel;
use crate::vcpu_state::VcpuState;
use crate::{HypervisorError, vm::Vm};
use kvm_bindings::{
    KVM_MP_STATE_INIT_RECEIVED, KVM_MP_STATE_RUNNABLE, Msrs, kvm_mp_state, kvm_msr_entry, kvm_regs,
    kvm_segment,
};
use kvm_ioctls::VcpuFd;
use std::sync::Arc;

/// How the boot protocol wants the first vCPU to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BootRegisters {
    /// 64-bit mode with the first 4 GiB mapped one to one at `page_tables`: the Linux 64-bit boot protocol
    /// (Documentation/arch/x86/boot.rst).
    Linux64 {
        /// Entry point.
        entry: u64,
        /// Guest-physical address of the boot parameters.
        boot_params: u64,
        /// Guest-physical address of the top page table.
        page_tables: u64,
        /// Guest-physical address of the descriptor table that holds [`GDT`].
        gdt: u64,
    },
    /// 32-bit protected mode without paging: the x86/HVM direct boot ABI (PVH).
    Pvh {
        /// Entry point.
        entry: u64,
        /// Guest-physical address of `hvm_start_info`.
        start_info: u64,
        /// Guest-physical address of the descriptor table that holds [`GDT`].
        gdt: u64,
    },
}

/// The descriptor table of a direct boot, by selector/8: null, unused, 64-bit code, data, 32-bit code, TSS.
pub const GDT: [u64; 6] = [
    0,
    0,
    0x00af_9b00_0000_ffff,
    0x00cf_9300_0000_ffff,
    0x00cf_9b00_0000_ffff,
    0x0000_8b00_0000_ffff,
];

const CODE64: u16 = 0x10;
const DATA: u16 = 0x18;
const CODE32: u16 = 0x20;
const TSS: u16 = 0x28;

fn segment(selector: u16) -> kvm_segment {
    let bits = GDT.get(usize::from(selector / 8)).copied().unwrap_or(0);
    let field = |shift: u32, mask: u64| u8::try_from(bits >> shift & mask).unwrap_or(0);
    let granular = field(55, 1) == 1;
    kvm_segment {
        base: 0,
        limit: if granular { u32::MAX } else { 0xffff },
        selector,
        type_: field(40, 0xf),
        s: field(44, 1),
        dpl: field(45, 3),
        present: field(47, 1),
        avl: field(52, 1),
        l: field(53, 1),
        db: field(54, 1),
        g: field(55, 1),
        ..Default::default()
    }
}

const CR0_PE: u64 = 1;
const CR0_ET: u64 = 1 << 4;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;

/// A virtual CPU, in the hands of its thread.
pub(crate) struct Vcpu {
    pub(crate) fd: VcpuFd,
    index: u32,
    vm: Arc<Vm>,
}

impl Vcpu {
    pub(crate) fn new(vm: Arc<Vm>, index: u32, model: &CpuModel) -> Result<Self, HypervisorError> {
        let fd = vm.create_vcpu(index)?;
        fd.set_cpuid2(&model.for_vcpu(index)?)
            .map_err(HypervisorError::ioctl("KVM_SET_CPUID2"))?;
        Ok(Self { fd, index, vm })
    }

    /// Its number, which is its APIC id.
    pub(crate) fn index(&self) -> u32 {
        self.index
    }

    /// Reads everything a guest can see of it.
    ///
    /// # Errors
    /// An ioctl failed.
    pub(crate) fn save(&self) -> Result<VcpuState, HypervisorError> {
        VcpuState::save(&self.fd, self.vm.msr_indices())
    }

    /// Takes over a saved state.
    ///
    /// # Errors
    /// The state does not fit or the kernel refuses it.
    pub(crate) fn restore(&self, state: &VcpuState) -> Result<(), HypervisorError> {
        state.restore(&self.fd)
    }

    /// Power-on state; the first vCPU then begins as the boot protocol says, the others wait for their start-up
    /// message.
    ///
    /// # Errors
    /// An ioctl failed.
    pub(crate) fn reset(
        &self,
        power_on: &VcpuState,
        boot: Option<BootRegisters>,
    ) -> Result<(), HypervisorError> {
        power_on.restore(&self.fd)?;
        if let (0, Some(boot)) = (self.index, boot) {
            self.enter(boot)?;
        }
        let mp_state = if self.index == 0 {
            KVM_MP_STATE_RUNNABLE
        } else {
            KVM_MP_STATE_INIT_RECEIVED
        };
        // A vCPU that is not the first waits for INIT and start-up: the kernel made it so at creation, and the
        // power-on state says the same; only the first is set going here.
        if self.index == 0 {
            self.fd
                .set_mp_state(kvm_mp_state { mp_state })
                .map_err(HypervisorError::ioctl("KVM_SET_MP_STATE"))?;
        }
        Ok(())
    }

    fn enter(&self, boot: BootRegisters) -> Result<(), HypervisorError> {
        let error = HypervisorError::ioctl;
        let mut sregs = self.fd.get_sregs().map_err(error("KVM_GET_SREGS"))?;
        let mut regs = kvm_regs {
            rflags: 2,
            ..Default::default()
        };
        let data = segment(DATA);
        (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
        sregs.tr = segment(TSS);
        (sregs.idt.base, sregs.idt.limit) = (0, 0);
        let gdt = match boot {
            BootRegisters::Linux64 {
                entry,
                boot_params,
                page_tables,
                gdt,
            } => {
                sregs.cs = segment(CODE64);
                sregs.cr0 = CR0_PE | CR0_ET | CR0_PG;
                sregs.cr3 = page_tables;
                sregs.cr4 = CR4_PAE;
                sregs.efer = EFER_LME | EFER_LMA;
                (regs.rip, regs.rsi) = (entry, boot_params);
                gdt
            }
            BootRegisters::Pvh {
                entry,
                start_info,
                gdt,
            } => {
                sregs.cs = segment(CODE32);
                sregs.cr0 = CR0_PE | CR0_ET;
                sregs.cr4 = 0;
                sregs.efer = 0;
                (regs.rip, regs.rbx) = (entry, start_info);
                gdt
            }
        };
        sregs.gdt.base = gdt;
        sregs.gdt.limit = u16::try_from(size_of_val(&GDT) - 1).unwrap_or(u16::MAX);
        self.fd.set_sregs(&sregs).map_err(error("KVM_SET_SREGS"))?;
        self.fd.set_regs(&regs).map_err(error("KVM_SET_REGS"))?;
        // IA32_MISC_ENABLE: fast strings, as firmware leaves it.
        let misc = kvm_msr_entry {
            index: 0x1a0,
            data: 1,
            ..Default::default()
        };
        if let Ok(msrs) = Msrs::from_entries(&[misc]) {
            self.fd.set_msrs(&msrs).map_err(error("KVM_SET_MSRS"))?;
        }
        Ok(())
    }
}
