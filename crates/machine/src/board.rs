//! The board.

/// The IOAPIC's line of a pin (0 for INTA) of a device on bus 0.
pub const fn intx_gsi(device: u8, pin: u8) -> u8 {
    16 + if device < 25 {
        4 + ((device + pin) & 3)
    } else {
        pin & 3
    }
}
