//! The PCI Express capability, version 2 (PCI Express Base 6.0, 7.5.3).

use crate::config_layout::{ConfigLayout, LayoutError};
use crate::regs;

/// Device capabilities, 32 bits.
pub(crate) const DEVICE_CAPABILITIES: u16 = 0x04;
/// Device control, 16 bits; device status follows.
pub(crate) const DEVICE_CONTROL: u16 = 0x08;
/// Device status, 16 bits.
pub(crate) const DEVICE_STATUS: u16 = 0x0a;
/// Link capabilities, 32 bits.
pub(crate) const LINK_CAPABILITIES: u16 = 0x0c;
/// Link control, 16 bits.
pub(crate) const LINK_CONTROL: u16 = 0x10;
/// Link status, 16 bits.
pub(crate) const LINK_STATUS: u16 = 0x12;
/// Slot capabilities, 32 bits.
pub(crate) const SLOT_CAPABILITIES: u16 = 0x14;
/// Slot control, 16 bits.
pub(crate) const SLOT_CONTROL: u16 = 0x18;
/// Slot status, 16 bits.
pub(crate) const SLOT_STATUS: u16 = 0x1a;
/// Root control, 16 bits.
pub(crate) const ROOT_CONTROL: u16 = 0x1c;
/// Link capabilities 2, 32 bits.
pub(crate) const LINK_CAPABILITIES_2: u16 = 0x2c;
/// Link control 2, 16 bits.
pub(crate) const LINK_CONTROL_2: u16 = 0x30;
/// Bytes of the version 2 structure.
const CAPABILITY_BYTES: usize = 0x3c;

const DEVICE_CAP_ROLE_BASED_ERRORS: u32 = 1 << 15;
const DEVICE_CAP_FLR: u32 = 1 << 28;
const DEVICE_CONTROL_FLR: u16 = 1 << 15;
/// 16 GT/s, sixteen lanes.
pub(crate) const LINK_SPEED_WIDTH: u32 = 4 | 16 << 4;
/// 2.5 to 16 GT/s.
pub(crate) const LINK_SPEEDS: u32 = 0x1e;

/// What sort of function the capability describes (device/port type).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExpressKind {
    /// Behind a port.
    Endpoint,
    /// Directly on the root complex's bus 0: it has no link.
    IntegratedEndpoint,
    /// A root port; slot registers are laid out by the port itself.
    RootPort,
}

/// Appends a PCI Express capability: 128-byte payloads, the link trained at 16 GT/s and sixteen lanes. `flr`
/// offers a function level reset: the device then checks each configuration write with [`flr_requested`].
/// Returns the capability's offset.
///
/// # Errors
/// No room.
pub fn add_express_capability(
    layout: &mut ConfigLayout,
    kind: ExpressKind,
    flr: bool,
) -> Result<u16, LayoutError> {
    let at = layout.capability(regs::CAP_EXPRESS, &[0; CAPABILITY_BYTES - 2], &[])?;
    let port_type: u16 = match kind {
        ExpressKind::Endpoint => 0,
        ExpressKind::IntegratedEndpoint => 9,
        ExpressKind::RootPort => 4,
    };
    let flr = if flr { DEVICE_CAP_FLR } else { 0 };
    layout
        .value(at + 2, &(2 | port_type << 4).to_le_bytes())
        .value(
            at + DEVICE_CAPABILITIES,
            &(DEVICE_CAP_ROLE_BASED_ERRORS | flr).to_le_bytes(),
        )
        // Error reporting, relaxed ordering, payload size, extended tag, no snoop, read request size.
        .writable(at + DEVICE_CONTROL, &0x79ffu16.to_le_bytes())
        .value(at + DEVICE_CONTROL, &0x2810u16.to_le_bytes())
        .write_one_to_clear(at + DEVICE_STATUS, &[0x0f]);
    if kind != ExpressKind::IntegratedEndpoint {
        let [speed_width, width, ..] = LINK_SPEED_WIDTH.to_le_bytes();
        layout
            .value(at + LINK_CAPABILITIES, &LINK_SPEED_WIDTH.to_le_bytes())
            // ASPM, common clock, extended synch.
            .writable(at + LINK_CONTROL, &[0xc3])
            .value(at + LINK_STATUS, &[speed_width, width])
            .value(at + LINK_CAPABILITIES_2, &LINK_SPEEDS.to_le_bytes())
            .writable(at + LINK_CONTROL_2, &[0x0f])
            .value(at + LINK_CONTROL_2, &[4]);
    }
    Ok(at)
}

/// Whether a guest's write of `data` at `offset` initiates a function level reset, by the device control
/// register of the capability at `capability`. The bit itself always reads 0.
pub fn flr_requested(capability: u16, offset: u16, data: &[u8]) -> bool {
    let [_, high] = DEVICE_CONTROL_FLR.to_le_bytes();
    let at = capability + DEVICE_CONTROL + 1;
    at.checked_sub(offset)
        .and_then(|index| data.get(usize::from(index)))
        .is_some_and(|byte| byte & high != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flr_is_seen_at_any_width() {
        assert!(flr_requested(0x40, 0x48, &[0, 0x80]));
        assert!(flr_requested(0x40, 0x48, &[0, 0x80, 0, 0]));
        assert!(flr_requested(0x40, 0x49, &[0x80]));
        assert!(!flr_requested(0x40, 0x48, &[0x80]));
        assert!(!flr_requested(0x40, 0x4a, &[0x80, 0x80]));
        assert!(!flr_requested(0x40, 0x44, &[0x80; 4]));
    }
}
