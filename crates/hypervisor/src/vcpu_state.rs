//! A vCPU's saved state: the kernel's structures, each under a number of its own.

use crate::HypervisorError;
use kvm_bindings::{
    Msrs, kvm_debugregs, kvm_lapic_state, kvm_mp_state, kvm_msr_entry, kvm_regs, kvm_sregs,
    kvm_vcpu_events, kvm_xcrs, kvm_xsave,
};
use kvm_ioctls::VcpuFd;
use minicbor::{Decode, Encode};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// The bytes of one kernel structure.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(transparent)]
pub(crate) struct Raw(#[cbor(n(0), with = "minicbor::bytes")] Vec<u8>);

/// The bytes of `value`.
pub(crate) fn raw<T: IntoBytes + Immutable>(value: &T) -> Raw {
    Raw(value.as_bytes().to_vec())
}

impl Raw {
    pub(crate) fn of(bytes: &[u8]) -> Self {
        Self(bytes.to_vec())
    }

    /// The structure; refused unless the size agrees.
    pub(crate) fn get<T: FromBytes>(&self, what: &'static str) -> Result<T, HypervisorError> {
        T::read_from_bytes(&self.0).map_err(|_| HypervisorError::State {
            what,
            reason: format!("{} bytes, {} expected", self.0.len(), size_of::<T>()),
        })
    }

    pub(crate) fn array<const N: usize>(
        &self,
        what: &'static str,
    ) -> Result<[u8; N], HypervisorError> {
        self.get(what)
    }
}

/// Everything of a vCPU that a guest can see.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct VcpuState {
    #[n(0)]
    regs: Raw,
    #[n(1)]
    sregs: Raw,
    #[n(2)]
    xsave: Raw,
    #[n(3)]
    xcrs: Raw,
    #[n(4)]
    debug: Raw,
    #[n(5)]
    lapic: Raw,
    #[n(6)]
    events: Raw,
    #[n(7)]
    mp_state: u32,
    #[n(8)]
    msrs: Vec<(u32, u64)>,
    /// Frequency of the time stamp counter in kHz, 0 where unknown.
    #[n(9)]
    tsc_khz: u32,
}

/// Model-specific registers whose value on one host means nothing on another, or that the kernel refuses to be
/// told: performance counters' status, microcode revision, feature words that KVM derives from the CPUID.
const NOT_MOVED: [u32; 6] = [
    0x0000_008b, // IA32_BIOS_SIGN_ID
    0x0000_017d, // IA32_SMM_MONITOR
    0x0000_034f, // KVM's PEBS leftovers
    0x0000_03f1, // IA32_PEBS_ENABLE
    0x0000_0345, // IA32_PERF_CAPABILITIES
    0x0000_03f6, // MSR_PEBS_LD_LAT
];

/// IA32_TSC and IA32_TSC_DEADLINE: the deadline counts by the counter, so it is set last.
const IA32_TSC_DEADLINE: u32 = 0x6e0;

impl VcpuState {
    /// Version of the encoded form.
    pub const VERSION: u16 = 1;

    /// Reads the state in the order the kernel asks for (pending exceptions after the run loop has settled,
    /// MP state first since it may flush pending work).
    pub(crate) fn save(vcpu: &VcpuFd, msr_indices: &[u32]) -> Result<Self, HypervisorError> {
        let error = HypervisorError::ioctl;
        let mp_state = vcpu
            .get_mp_state()
            .map_err(error("KVM_GET_MP_STATE"))?
            .mp_state;
        Ok(Self {
            mp_state,
            regs: raw(&vcpu.get_regs().map_err(error("KVM_GET_REGS"))?),
            sregs: raw(&vcpu.get_sregs().map_err(error("KVM_GET_SREGS"))?),
            xsave: raw(&vcpu.get_xsave().map_err(error("KVM_GET_XSAVE"))?.region),
            xcrs: raw(&vcpu.get_xcrs().map_err(error("KVM_GET_XCRS"))?),
            debug: raw(&vcpu.get_debug_regs().map_err(error("KVM_GET_DEBUGREGS"))?),
            lapic: raw(&vcpu.get_lapic().map_err(error("KVM_GET_LAPIC"))?),
            msrs: read_msrs(vcpu, msr_indices)?,
            events: raw(&vcpu
                .get_vcpu_events()
                .map_err(error("KVM_GET_VCPU_EVENTS"))?),
            tsc_khz: vcpu.get_tsc_khz().unwrap_or(0),
        })
    }

    /// Sets the state.
    #[allow(unsafe_code)]
    pub(crate) fn restore(&self, vcpu: &VcpuFd) -> Result<(), HypervisorError> {
        let error = HypervisorError::ioctl;
        self.restore_tsc_khz(vcpu);
        vcpu.set_mp_state(kvm_mp_state {
            mp_state: self.mp_state,
        })
        .map_err(error("KVM_SET_MP_STATE"))?;
        vcpu.set_regs(&self.regs.get::<kvm_regs>("registers")?)
            .map_err(error("KVM_SET_REGS"))?;
        vcpu.set_sregs(&self.sregs.get::<kvm_sregs>("system registers")?)
            .map_err(error("KVM_SET_SREGS"))?;
        vcpu.set_xcrs(&self.xcrs.get::<kvm_xcrs>("extended control registers")?)
            .map_err(error("KVM_SET_XCRS"))?;
        let xsave = kvm_xsave {
            region: self.xsave.get("floating point state")?,
            ..Default::default()
        };
        // SAFETY: no feature that needs more than the 4 KiB of `region` was enabled for the process (arch_prctl's
        // ARCH_REQ_XCOMP_GUEST_PERM is never called), so the kernel reads no further.
        unsafe { vcpu.set_xsave(&xsave) }.map_err(error("KVM_SET_XSAVE"))?;
        vcpu.set_debug_regs(&self.debug.get::<kvm_debugregs>("debug registers")?)
            .map_err(error("KVM_SET_DEBUGREGS"))?;
        vcpu.set_lapic(&self.lapic.get::<kvm_lapic_state>("local APIC")?)
            .map_err(error("KVM_SET_LAPIC"))?;
        self.restore_msrs(vcpu)?;
        let events = self.events.get::<kvm_vcpu_events>("pending events")?;
        vcpu.set_vcpu_events(&events)
            .map_err(error("KVM_SET_VCPU_EVENTS"))
    }

    fn restore_tsc_khz(&self, vcpu: &VcpuFd) {
        if self.tsc_khz == 0
            || vcpu
                .get_tsc_khz()
                .is_ok_and(|khz| khz.abs_diff(self.tsc_khz) <= self.tsc_khz / 4000)
        {
            return;
        }
        if let Err(error) = vcpu.set_tsc_khz(self.tsc_khz) {
            tracing::warn!(
                khz = self.tsc_khz, %error,
                "this host cannot run the guest's time stamp counter at the source's frequency"
            );
        }
    }

    fn restore_msrs(&self, vcpu: &VcpuFd) -> Result<(), HypervisorError> {
        let mut entries: Vec<kvm_msr_entry> = self
            .msrs
            .iter()
            .map(|&(index, data)| entry(index, data))
            .collect();
        entries.sort_by_key(|e| e.index == IA32_TSC_DEADLINE);
        let mut rest = entries.as_slice();
        while !rest.is_empty() {
            let chunk = rest.get(..rest.len().min(MSR_BATCH)).unwrap_or(rest);
            let msrs = Msrs::from_entries(chunk).map_err(|_| too_many_msrs())?;
            let done = vcpu
                .set_msrs(&msrs)
                .map_err(HypervisorError::ioctl("KVM_SET_MSRS"))?;
            if done < chunk.len() {
                // The kernel stops at the first it does not take.
                let refused = chunk.get(done).map_or(0, |e| e.index);
                tracing::debug!(
                    msr = format_args!("{refused:#x}"),
                    "this host's KVM does not take a register"
                );
                rest = rest.get(done + 1..).unwrap_or_default();
            } else {
                rest = rest.get(done..).unwrap_or_default();
            }
        }
        Ok(())
    }
}

/// KVM's own limit on one call (MAX_IO_MSRS).
const MSR_BATCH: usize = 256;

fn too_many_msrs() -> HypervisorError {
    HypervisorError::State {
        what: "model-specific registers",
        reason: "too many".into(),
    }
}

fn entry(index: u32, data: u64) -> kvm_msr_entry {
    kvm_msr_entry {
        index,
        data,
        ..Default::default()
    }
}

fn read_msrs(vcpu: &VcpuFd, indices: &[u32]) -> Result<Vec<(u32, u64)>, HypervisorError> {
    let mut values = Vec::with_capacity(indices.len());
    let mut wanted: Vec<u32> = indices
        .iter()
        .copied()
        .filter(|i| !NOT_MOVED.contains(i))
        .collect();
    while !wanted.is_empty() {
        let chunk: Vec<_> = wanted
            .iter()
            .take(MSR_BATCH)
            .map(|&i| entry(i, 0))
            .collect();
        let mut msrs = Msrs::from_entries(&chunk).map_err(|_| too_many_msrs())?;
        let done = vcpu
            .get_msrs(&mut msrs)
            .map_err(HypervisorError::ioctl("KVM_GET_MSRS"))?;
        values.extend(msrs.as_slice().iter().take(done).map(|e| (e.index, e.data)));
        // Listed but not readable on this vCPU: skipped.
        let step = if done < chunk.len() { done + 1 } else { done };
        wanted.drain(..step);
    }
    Ok(values)
}
