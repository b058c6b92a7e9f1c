//! ISA devices.

use super::declare::{full, ignored};
use crate::property::{Property, PropertyKind as K};

pub(super) const ISA_SERIAL: &[Property] = &[
    full(
        "chardev",
        K::Chardev,
        None,
        "Id of the chardev behind the port",
    ),
    full(
        "index",
        K::U8,
        None,
        "0 for COM1 to 3 for COM4; default: the next free one",
    ),
    full(
        "iobase",
        K::U16,
        None,
        "First I/O port; default: that of the index",
    ),
    full("irq", K::U8, None, "Interrupt; default: that of the index"),
    ignored("wakeup", K::Bool, Some("off"), "Wake the guest"),
];
