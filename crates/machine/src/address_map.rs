//! Where things are in the guest's address spaces: QEMU's q35 layout, so that a guest finds the same board.
//!
//! ```text
//!   0x0000_0000_0000  RAM (boot parameters, page tables and command line of a direct boot below 0x9_fc00)
//!   0x0000_000a_0000  the PC's hole; ACPI tables in 0xe_0000..0x10_0000
//!   0x0000_0010_0000  RAM up to `low_ram_end` (2 GiB when there is more than 2.75 GiB, else all of it)
//!   0x0000_b000_0000  configuration space of the PCI segment (ECAM), 256 MiB
//!   0x0000_c000_0000  32-bit PCI window
//!   0x0000_fec0_0000  IOAPIC, local APICs, KVM's three pages
//!   0x0001_0000_0000  RAM beyond `low_ram_end`
//!   above it, 1 GiB aligned: 64-bit PCI window
//! ```

use memory::GuestRange;
use std::ops::Range;

/// Start and size of the ECAM region: 256 buses of 1 MiB.
pub const ECAM: Range<u64> = 0xb000_0000..0xc000_0000;

/// The 32-bit memory window of the root bus.
pub const PCI_MEM32: Range<u64> = 0xc000_0000..0xfec0_0000;

/// The I/O ports of the root bus that a guest may hand out to functions.
pub const PCI_IO: Range<u16> = 0x1000..0xffff;

/// IOAPIC registers.
pub const IOAPIC: u64 = 0xfec0_0000;

/// Local APIC registers.
pub const LOCAL_APIC: u64 = 0xfee0_0000;

/// ACPI tables.
pub const ACPI_TABLES: Range<u64> = 0xe_0000..0x10_0000;

/// End of conventional memory, where an EBDA would begin.
pub const CONVENTIONAL_END: u64 = 0x9_fc00;

/// First byte of RAM above 1 MiB.
pub const HIGH_MEMORY: u64 = 0x10_0000;

/// First byte above the 32-bit address space.
pub const FOUR_GIB: u64 = 1 << 32;

/// RAM above this size is split, with `SPLIT_LOW` of it below 4 GiB.
const SPLIT_ABOVE: u64 = 0xb000_0000;
const SPLIT_LOW: u64 = 0x8000_0000;
const GIB: u64 = 1 << 30;

/// The guest-physical layout for an amount of RAM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressMap {
    ram_bytes: u64,
    physical_bits: u8,
}

impl AddressMap {
    /// For `ram_bytes` of RAM on CPUs with `physical_bits` of physical address.
    pub fn new(ram_bytes: u64, physical_bits: u8) -> Self {
        Self {
            ram_bytes,
            physical_bits: physical_bits.clamp(36, 52),
        }
    }

    /// End of RAM below 4 GiB.
    pub fn low_ram_end(&self) -> u64 {
        if self.ram_bytes > SPLIT_ABOVE {
            SPLIT_LOW
        } else {
            self.ram_bytes
        }
    }

    /// RAM above 4 GiB, in bytes.
    pub fn high_ram_bytes(&self) -> u64 {
        self.ram_bytes - self.low_ram_end()
    }

    /// Where RAM appears.
    pub fn ram(&self) -> Vec<GuestRange> {
        let mut ranges = vec![GuestRange::new(0, self.low_ram_end())];
        if self.high_ram_bytes() > 0 {
            ranges.push(GuestRange::new(FOUR_GIB, self.high_ram_bytes()));
        }
        ranges
    }

    /// The 64-bit memory window of the root bus, empty when the CPUs' addresses do not reach beyond RAM.
    pub fn pci_mem64(&self) -> Range<u64> {
        let start = (FOUR_GIB + self.high_ram_bytes()).next_multiple_of(GIB);
        let end = (1_u64 << self.physical_bits).min(start + (1 << 38));
        // The top gigabytes of a small address space are left alone: AMD keeps HyperTransport there.
        start..if self.physical_bits >= 40 {
            end
        } else {
            end.saturating_sub(12 * GIB)
        }
        .max(start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_ram_is_one_piece_and_large_ram_is_split_at_2_gib() {
        let small = AddressMap::new(256 << 20, 36);
        assert_eq!(small.ram(), [GuestRange::new(0, 256 << 20)]);
        let large = AddressMap::new(4 << 30, 40);
        assert_eq!(
            large.ram(),
            [
                GuestRange::new(0, 2 << 30),
                GuestRange::new(FOUR_GIB, 2 << 30)
            ]
        );
        assert_eq!(large.pci_mem64().start, 6 << 30);
    }

    #[test]
    fn the_64_bit_window_fits_the_cpus() {
        assert_eq!(AddressMap::new(1 << 30, 36).pci_mem64(), 4 << 30..52 << 30);
        assert!(AddressMap::new(60 << 30, 36).pci_mem64().is_empty());
    }
}
