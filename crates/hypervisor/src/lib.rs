//! Who runs the guest: KVM's vCPUs, or a client that stands in for them; and the hypervisor's side of guest memory.
//!
//! ```text
//!   machine ── Processors: one thread a vCPU, run / pause / call ──▶ Vcpu ── KVM_RUN ──▶ guest
//!      │                                                              │ exits
//!      │                                                              ▼
//!      │                                                         Bus (ports and memory that is not RAM)
//!      │                                                              ▲
//!      │                                                              │ reads, writes
//!      │                                                         qtest::Client ◀── a test in this process, or the socket
//!      └── Accelerator: Vm (memory slots, dirty log, interrupt routes, doorbells), or Qtest
//!                                                                        (each is the Platform of crate pci)
//! ```
//!
//! A vCPU's registers are touched by its own thread alone: whoever wants them (a save, a restore, a reset) hands
//! the thread a closure while the vCPUs are paused.

// What a guest, a stream or a client sends ends no program: see "Hostile input" in CONTRIBUTING.md.
#![cfg_attr(
    not(test),
    warn(
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::unreachable
    )
)]

mod accelerator;
mod cpuid;
mod cpus;
mod error;
mod interrupts;
mod irqchip;
mod irqfd;
mod preflight;
pub mod qtest;
mod signal;
mod slots;
mod vcpu;
mod vcpu_state;
mod vm;

pub use accelerator::{Accelerator, Processors, StateKind};
pub use cpuid::{CpuChoices, CpuModel, CpuSwitch, Topology};
pub use cpus::{Bus, CpuEvent, CpuListener};
pub use error::HypervisorError;
pub use irqchip::IrqchipState;
pub use qtest::Qtest;
pub use slots::DirtyLog;
pub use vcpu::{BootRegisters, GDT};
pub use vcpu_state::VcpuState;
pub use vm::Vm;

/// Whether KVM runs guests on this host: opens `/dev/kvm` and runs two instructions.
///
/// # Errors
/// The first thing that is missing.
pub fn check_host() -> Result<(), HypervisorError> {
    preflight::run_two_instructions(&preflight::open()?)
}

/// The processor that `-cpu host` would show here, with one vCPU.
///
/// # Errors
/// KVM cannot be asked.
pub fn host_cpu_model() -> Result<CpuModel, HypervisorError> {
    let topology = Topology {
        cpus: 1,
        threads: 1,
        cores: 1,
    };
    CpuModel::host(&preflight::open()?, topology)
}
