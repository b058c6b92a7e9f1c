//! The in-kernel interrupt controllers, timer and clock: their saved state.

use crate::HypervisorError;
use crate::vcpu_state::{Raw, raw};
use kvm_bindings::{
    KVM_CLOCK_TSC_STABLE, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE,
    kvm_clock_data, kvm_irqchip, kvm_pit_state2,
};
use kvm_ioctls::VmFd;
use minicbor::{Decode, Encode};

const CHIPS: [u32; 3] = [
    KVM_IRQCHIP_PIC_MASTER,
    KVM_IRQCHIP_PIC_SLAVE,
    KVM_IRQCHIP_IOAPIC,
];

/// Both PICs, the IOAPIC, the PIT and the guest's paravirtual clock.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct IrqchipState {
    /// `struct kvm_irqchip` of each chip: PIC master, PIC slave, IOAPIC.
    #[n(0)]
    chips: Vec<Raw>,
    /// `struct kvm_pit_state2`.
    #[n(1)]
    pit: Raw,
    /// The guest's clock in nanoseconds.
    #[n(2)]
    clock_ns: u64,
}

impl IrqchipState {
    /// Version of the encoded form.
    pub const VERSION: u16 = 1;

    /// Reads the state; the vCPUs are paused.
    pub(crate) fn save(vm: &VmFd) -> Result<Self, HypervisorError> {
        let mut chips = Vec::with_capacity(CHIPS.len());
        for chip_id in CHIPS {
            let mut chip = kvm_irqchip {
                chip_id,
                ..Default::default()
            };
            vm.get_irqchip(&mut chip)
                .map_err(HypervisorError::ioctl("KVM_GET_IRQCHIP"))?;
            chips.push(Raw::of(&chip_bytes(&chip)));
        }
        let pit = vm
            .get_pit2()
            .map_err(HypervisorError::ioctl("KVM_GET_PIT2"))?;
        let clock = vm
            .get_clock()
            .map_err(HypervisorError::ioctl("KVM_GET_CLOCK"))?;
        Ok(Self {
            chips,
            pit: raw(&pit),
            clock_ns: clock.clock,
        })
    }

    /// Sets the state; the vCPUs are paused.
    pub(crate) fn restore(&self, vm: &VmFd) -> Result<(), HypervisorError> {
        if self.chips.len() != CHIPS.len() {
            return Err(HypervisorError::State {
                what: "interrupt controllers",
                reason: "not three of them".into(),
            });
        }
        for (chip_id, bytes) in CHIPS.into_iter().zip(&self.chips) {
            let chip = chip_from(chip_id, bytes)?;
            vm.set_irqchip(&chip)
                .map_err(HypervisorError::ioctl("KVM_SET_IRQCHIP"))?;
        }
        let pit: kvm_pit_state2 = self.pit.get("timer")?;
        vm.set_pit2(&pit)
            .map_err(HypervisorError::ioctl("KVM_SET_PIT2"))?;
        self.restore_clock(vm)
    }

    fn restore_clock(&self, vm: &VmFd) -> Result<(), HypervisorError> {
        // The flag is the kernel's answer, not an order: it is refused as input.
        debug_assert_ne!(KVM_CLOCK_TSC_STABLE, 0);
        let clock = kvm_clock_data {
            clock: self.clock_ns,
            ..Default::default()
        };
        vm.set_clock(&clock)
            .map_err(HypervisorError::ioctl("KVM_SET_CLOCK"))
    }
}

/// The chip's 512 bytes.
#[allow(unsafe_code)]
fn chip_bytes(chip: &kvm_irqchip) -> [u8; 512] {
    // SAFETY: `dummy` spans the union, which KVM_GET_IRQCHIP filled or which was zero before.
    let bytes = unsafe { chip.chip.dummy };
    bytes.map(|b| b.to_ne_bytes()[0])
}

fn chip_from(chip_id: u32, bytes: &Raw) -> Result<kvm_irqchip, HypervisorError> {
    let bytes: [u8; 512] = bytes.array("interrupt controller")?;
    let mut chip = kvm_irqchip {
        chip_id,
        ..Default::default()
    };
    chip.chip.dummy = bytes.map(|b| std::os::raw::c_char::from_ne_bytes([b]));
    Ok(chip)
}
