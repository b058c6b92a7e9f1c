//! The memory map a firmware would report (ACPI 6.5, 15.4).

use crate::address_map::{AddressMap, CONVENTIONAL_END, ECAM, FOUR_GIB, HIGH_MEMORY};

pub(super) const USABLE: u32 = 1;
pub(super) const RESERVED: u32 = 2;

/// Address, size in bytes, type.
pub(super) fn entries(map: &AddressMap) -> Vec<(u64, u64, u32)> {
    let mut entries = vec![
        (0, CONVENTIONAL_END, USABLE),
        (CONVENTIONAL_END, HIGH_MEMORY - CONVENTIONAL_END, RESERVED),
        (
            HIGH_MEMORY,
            map.low_ram_end().saturating_sub(HIGH_MEMORY),
            USABLE,
        ),
        (ECAM.start, ECAM.end - ECAM.start, RESERVED),
    ];
    if map.high_ram_bytes() > 0 {
        entries.push((FOUR_GIB, map.high_ram_bytes(), USABLE));
    }
    entries
}
