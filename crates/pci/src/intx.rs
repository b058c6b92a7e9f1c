//! How INTx pins reach the chipset's interrupt lines.
//!
//! The chipset has eight lines, PIRQA to PIRQH, numbered 0 to 7 here. As on q35: on bus 0 the devices 0 to 24
//! use PIRQE to PIRQH, turned by their device number, and the devices 25 to 31 use PIRQA to PIRQD without a
//! turn. A pin below a port is first turned by the device number below (which is 0 in a slot) and comes out of
//! the port's own pins. The machine's `_PRT` for bus 0 has to say the same as [`pirq`]; ports need none.

use crate::platform::IntxLine;
use std::sync::Arc;

/// Makes a function's share of a line PIRQA (0) to PIRQH (7).
pub type IntxWiring = Box<dyn Fn(u8) -> Arc<dyn IntxLine> + Send + Sync>;

/// The line, 0 to 7, of a pin (0 for INTA … 3 for INTD) of a device on bus 0.
pub const fn pirq(device: u8, pin: u8) -> u8 {
    if device < 25 {
        4 + (device.wrapping_add(pin) & 3)
    } else {
        pin & 3
    }
}

/// The pin of the port, 0 to 3, at which a pin of a device below it comes out.
pub const fn swizzle(device: u8, pin: u8) -> u8 {
    device.wrapping_add(pin) & 3
}
