//! Does `/dev/kvm` run a guest? It may open and yet not: inside a VM whose hypervisor only pretends.

use crate::HypervisorError;
use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::{Cap, Kvm, VcpuExit};
use std::io;
use vm_memory::mmap::MmapRegionBuilder;

const PAGE: usize = 4096;

/// Opens KVM.
pub(crate) fn open() -> Result<Kvm, HypervisorError> {
    let kvm = Kvm::new().map_err(|e| {
        let error = io::Error::from_raw_os_error(e.errno());
        match error.kind() {
            io::ErrorKind::NotFound => HypervisorError::Absent,
            _ => HypervisorError::Denied(error),
        }
    })?;
    if kvm.get_api_version() != 12 {
        return Err(HypervisorError::Unusable(format!(
            "its API version is {}, not 12",
            kvm.get_api_version()
        )));
    }
    for (cap, name) in [
        (Cap::Irqchip, "an in-kernel interrupt controller"),
        (Cap::UserMemory, "user memory slots"),
        (Cap::Irqfd, "irqfd"),
        (Cap::Ioeventfd, "ioeventfd"),
        (Cap::ImmediateExit, "immediate_exit"),
        (Cap::ExtCpuid, "CPUID tables"),
    ] {
        if !kvm.check_extension(cap) {
            return Err(HypervisorError::Lacks(name));
        }
    }
    Ok(kvm)
}

/// Runs two real instructions in a throw-away VM: `out 0x80, al` in 16-bit mode, from a page of its own.
#[allow(unsafe_code)]
pub(crate) fn run_two_instructions(kvm: &Kvm) -> Result<(), HypervisorError> {
    let unusable = |what: &'static str| {
        move |e: kvm_ioctls::Error| HypervisorError::Unusable(format!("{what}: {e}"))
    };
    let page = MmapRegionBuilder::<()>::new(PAGE)
        .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
        .with_mmap_flags(libc::MAP_ANONYMOUS | libc::MAP_PRIVATE)
        .build()
        .map_err(|e| HypervisorError::Unusable(e.to_string()))?;
    // SAFETY: the page is mapped writable and larger than the code.
    unsafe { page.as_ptr().cast::<[u8; 3]>().write([0xe6, 0x80, 0xf4]) };
    let vm = kvm.create_vm().map_err(unusable("KVM_CREATE_VM"))?;
    let region = kvm_userspace_memory_region {
        memory_size: PAGE as u64,
        guest_phys_addr: 0x1000,
        userspace_addr: page.as_ptr() as u64,
        ..Default::default()
    };
    // SAFETY: the page outlives the VM, which is dropped first.
    unsafe { vm.set_user_memory_region(region) }.map_err(unusable("KVM_SET_USER_MEMORY_REGION"))?;
    let mut vcpu = vm.create_vcpu(0).map_err(unusable("KVM_CREATE_VCPU"))?;
    let mut sregs = vcpu.get_sregs().map_err(unusable("KVM_GET_SREGS"))?;
    (sregs.cs.base, sregs.cs.selector) = (0, 0);
    vcpu.set_sregs(&sregs).map_err(unusable("KVM_SET_SREGS"))?;
    let mut regs = vcpu.get_regs().map_err(unusable("KVM_GET_REGS"))?;
    (regs.rip, regs.rflags) = (0x1000, 2);
    vcpu.set_regs(&regs).map_err(unusable("KVM_SET_REGS"))?;
    match vcpu.run() {
        Ok(VcpuExit::IoOut(0x80, _)) => Ok(()),
        Ok(exit) => Err(HypervisorError::Unusable(format!(
            "a one-instruction guest ended with {exit:?}"
        ))),
        Err(error) => Err(unusable("KVM_RUN")(error)),
    }
}
