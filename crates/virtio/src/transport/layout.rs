//! The function's configuration space: where a driver finds the structures (virtio 1.2, section 4.1.4).

use crate::device::DeviceKind;
use pci::{
    BarKind, ConfigLayout, ConfigSpace, ExpressKind, Identity, LayoutError, Msix,
    add_express_capability, regs,
};

/// The region of the vector table and the pending bits.
pub(super) const MSIX_BAR: u8 = 1;
/// The region of the virtio structures.
pub(super) const STRUCTURES_BAR: u8 = 4;
/// Its size in bytes.
pub(super) const STRUCTURES_BYTES: u64 = 0x4000;
/// Common configuration in [`STRUCTURES_BAR`].
pub(super) const COMMON: u64 = 0;
/// ISR status.
pub(super) const ISR: u64 = 0x1000;
/// The device type's configuration.
pub(super) const DEVICE: u64 = 0x2000;
/// Notifications; queue `n` at `4 * n`.
pub(super) const NOTIFY: u64 = 0x3000;
/// Bytes between the notification addresses of two queues.
pub(super) const NOTIFY_MULTIPLIER: u64 = 4;

const STRUCTURE_BYTES: u64 = 0x1000;
const VENDOR: u16 = 0x1af4;
const MODERN_DEVICE_BASE: u16 = 0x1040;
const SUBSYSTEM: u16 = 0x1100;
const CAP_POWER_MANAGEMENT: u8 = 1;

const CFG_COMMON: u8 = 1;
const CFG_NOTIFY: u8 = 2;
const CFG_ISR: u8 = 3;
const CFG_DEVICE: u8 = 4;
const CFG_PCI: u8 = 5;

/// Where capabilities that need attention came to lie.
#[derive(Debug, Clone, Copy)]
pub(super) struct Places {
    pub(super) express: u16,
    /// The PCI configuration access capability.
    pub(super) window: u16,
}

fn le<const N: usize>(out: &mut Vec<u8>, bytes: [u8; N]) {
    out.extend_from_slice(&bytes);
}

/// A virtio capability's bytes after id and pointer.
fn structure(kind: u8, bar: u8, offset: u64, length: u64, extra: Option<u32>) -> Vec<u8> {
    let mut body = vec![if extra.is_some() { 20 } else { 16 }, kind, bar, 0, 0, 0];
    // All offsets and lengths here are constants below 2^32.
    le(&mut body, (offset as u32).to_le_bytes());
    le(&mut body, (length as u32).to_le_bytes());
    if let Some(extra) = extra {
        le(&mut body, extra.to_le_bytes());
    }
    body
}

/// The configuration space of a device of this kind. `on_root_bus`: it sits on the root complex's own bus rather than
/// behind a port.
pub(super) fn config_space(
    kind: DeviceKind,
    msix: &Msix,
    msix_bar_bytes: u64,
    on_root_bus: bool,
) -> Result<(ConfigSpace, Places), LayoutError> {
    let mut layout = ConfigLayout::endpoint(Identity {
        vendor: VENDOR,
        device: MODERN_DEVICE_BASE + kind.id,
        class: kind.class,
        revision: 1,
        subsystem_vendor: VENDOR,
        subsystem: SUBSYSTEM,
    });
    layout
        .interrupt_pin(1)
        .bar(
            usize::from(MSIX_BAR),
            BarKind::Memory32,
            msix_bar_bytes,
            false,
        )?
        .bar(
            usize::from(STRUCTURES_BAR),
            BarKind::Memory64,
            STRUCTURES_BYTES,
            true,
        )?;
    let express = add_express_capability(
        &mut layout,
        if on_root_bus {
            ExpressKind::IntegratedEndpoint
        } else {
            ExpressKind::Endpoint
        },
        true,
    )?;
    msix.add_capability(&mut layout)?;
    let bar = STRUCTURES_BAR;
    let notify = u32::try_from(NOTIFY_MULTIPLIER).ok();
    for (kind, offset, extra) in [
        (CFG_COMMON, COMMON, None),
        (CFG_ISR, ISR, None),
        (CFG_DEVICE, DEVICE, None),
        (CFG_NOTIFY, NOTIFY, notify),
    ] {
        let body = structure(kind, bar, offset, STRUCTURE_BYTES, extra);
        layout.capability(regs::CAP_VENDOR, &body, &[])?;
    }
    let body = structure(CFG_PCI, 0, 0, 0, Some(0));
    // Region, offset and length are the driver's; the data is an access, not a register.
    let mask = [
        0, 0, 0xff, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
    ];
    let window = layout.capability(regs::CAP_VENDOR, &body, &mask)?;
    // Version 1.2, and no state is lost in D3hot: nothing is switched off there.
    layout.capability(CAP_POWER_MANAGEMENT, &[3, 0, 8, 0, 0, 0], &[0, 0, 3])?;
    Ok((layout.build(), Places { express, window }))
}

/// An access through the PCI configuration access capability (virtio 1.2, section 4.1.4.9).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Windowed {
    pub(super) bar: u8,
    pub(super) offset: u64,
    pub(super) length: usize,
}

impl Places {
    /// The region access that a configuration access of `len` bytes at `offset` stands for, if it is one.
    pub(super) fn windowed(
        &self,
        space: &ConfigSpace,
        offset: u16,
        len: usize,
    ) -> Option<Windowed> {
        let data = self.window + 16;
        if offset != data {
            return None;
        }
        let access = Windowed {
            bar: space.get_u8(self.window + 4),
            offset: u64::from(space.get_u32(self.window + 8)),
            length: usize::try_from(space.get_u32(self.window + 12)).ok()?,
        };
        let end = access.offset + access.length as u64;
        (matches!(access.length, 1 | 2 | 4)
            && access.length <= len
            && access.bar == STRUCTURES_BAR
            && access.offset.is_multiple_of(access.length as u64)
            && end <= STRUCTURES_BYTES)
            .then_some(access)
    }
}
