//! What a bridge forwards downstream: bus numbers and address windows (PCI Express Base 6.0, 7.5.1.3).

use crate::device::{BarKind, PciDevice};
use crate::regs;
use std::ops::RangeInclusive;

/// The bus numbers and windows a bridge's type 1 header holds at the moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BridgeWindows {
    /// Number of the bus above.
    pub primary: u8,
    /// Number of the bus right below; 0 until software has numbered it.
    pub secondary: u8,
    /// Highest bus number below.
    pub subordinate: u8,
    /// I/O ports forwarded; `None` while the window is closed (base above limit).
    pub io: Option<RangeInclusive<u64>>,
    /// Memory below 4 GiB forwarded.
    pub memory: Option<RangeInclusive<u64>>,
    /// Prefetchable memory forwarded.
    pub prefetchable: Option<RangeInclusive<u64>>,
}

impl BridgeWindows {
    /// Reads them from a function's registers.
    ///
    /// Pre: the function has a type 1 header.
    pub fn of(bridge: &dyn PciDevice) -> Self {
        let u8_at = |offset| u64::from(read_u8(bridge, offset));
        let u16_at = |offset| u64::from(read_u16(bridge, offset));
        let u32_at = |offset| u64::from(read_u32(bridge, offset));

        let mut io_base = (u8_at(regs::IO_BASE) & 0xf0) << 8;
        let mut io_limit = (u8_at(regs::IO_BASE + 1) & 0xf0) << 8 | 0xfff;
        if u8_at(regs::IO_BASE) & 0xf == 1 {
            io_base |= u16_at(regs::IO_BASE_UPPER) << 16;
            io_limit |= u16_at(regs::IO_BASE_UPPER + 2) << 16;
        }
        let memory_base = (u16_at(regs::MEMORY_BASE) & 0xfff0) << 16;
        let memory_limit = (u16_at(regs::MEMORY_BASE + 2) & 0xfff0) << 16 | 0xf_ffff;
        let mut prefetch_base = (u16_at(regs::PREFETCH_BASE) & 0xfff0) << 16;
        let mut prefetch_limit = (u16_at(regs::PREFETCH_BASE + 2) & 0xfff0) << 16 | 0xf_ffff;
        if u16_at(regs::PREFETCH_BASE) & 0xf == 1 {
            prefetch_base |= u32_at(regs::PREFETCH_BASE_UPPER) << 32;
            prefetch_limit |= u32_at(regs::PREFETCH_BASE_UPPER + 4) << 32;
        }
        let open = |base: u64, limit: u64| (base <= limit).then_some(base..=limit);
        Self {
            primary: read_u8(bridge, regs::PRIMARY_BUS),
            secondary: read_u8(bridge, regs::SECONDARY_BUS),
            subordinate: read_u8(bridge, regs::SUBORDINATE_BUS),
            io: open(io_base, io_limit),
            memory: open(memory_base, memory_limit),
            prefetchable: open(prefetch_base, prefetch_limit),
        }
    }

    /// Whether an access to any address of `range` is forwarded downstream.
    pub fn forwards(&self, kind: BarKind, range: &RangeInclusive<u64>) -> bool {
        let windows = match kind {
            BarKind::Io => [self.io.as_ref(), None],
            // Both memory windows forward any memory access; prefetchability matters to software alone.
            BarKind::Memory32 | BarKind::Memory64 => {
                [self.memory.as_ref(), self.prefetchable.as_ref()]
            }
        };
        windows
            .into_iter()
            .flatten()
            .any(|window| contains(window, range))
    }

    /// Whether configuration requests for `bus` go downstream.
    pub fn routes(&self, bus: u8) -> bool {
        self.secondary != 0 && (self.secondary..=self.subordinate).contains(&bus)
    }
}

/// Whether `inner` lies within `outer` as a whole.
pub(crate) fn contains(outer: &RangeInclusive<u64>, inner: &RangeInclusive<u64>) -> bool {
    outer.contains(inner.start()) && outer.contains(inner.end())
}

pub(crate) fn read_u8(device: &dyn PciDevice, offset: u16) -> u8 {
    let mut data = [0xff; 1];
    device.config_read(offset, &mut data);
    u8::from_le_bytes(data)
}

pub(crate) fn read_u16(device: &dyn PciDevice, offset: u16) -> u16 {
    let mut data = [0xff; 2];
    device.config_read(offset, &mut data);
    u16::from_le_bytes(data)
}

pub(crate) fn read_u32(device: &dyn PciDevice, offset: u16) -> u32 {
    let mut data = [0xff; 4];
    device.config_read(offset, &mut data);
    u32::from_le_bytes(data)
}
