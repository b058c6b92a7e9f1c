//! One function as the scan found it.

use super::address::Bdf;
use super::config::ConfigAccess;
use super::regs;
use crate::bus::{BusError, GuestBus};

/// Address space and shape of a region.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BarKind {
    /// I/O ports.
    Io,
    /// Memory below 4 GiB: a 32-bit region, or one that is not prefetchable.
    Memory,
    /// Prefetchable memory that may be above 4 GiB.
    Prefetch64,
}

/// A region of a function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bar {
    /// Number of its (first) register.
    pub index: u8,
    /// Where it may be.
    pub kind: BarKind,
    /// Whether it takes two registers.
    pub wide: bool,
    /// Size in bytes, a power of two.
    pub size: u64,
    /// Where it was put; `None` while there is no room for it.
    pub address: Option<u64>,
}

/// A capability in the list of a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capability {
    /// What it is.
    pub id: u8,
    /// Where it begins in configuration space.
    pub offset: u16,
}

/// What makes a function a bridge.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Bridge {
    /// The bus behind it.
    pub secondary: u8,
    /// Highest bus behind it.
    pub subordinate: u8,
    /// I/O ports passed on: first and number.
    pub io: Option<(u64, u64)>,
    /// Memory passed on: start and size.
    pub memory: Option<(u64, u64)>,
    /// Prefetchable memory passed on: start and size.
    pub prefetch: Option<(u64, u64)>,
}

/// A function: identity, regions, capabilities.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Function {
    /// Where it is.
    pub bdf: Bdf,
    /// Vendor id.
    pub vendor: u16,
    /// Device id.
    pub device: u16,
    /// Class and subclass, 0x0200 for an Ethernet controller.
    pub class: u16,
    /// Its regions.
    pub bars: Vec<Bar>,
    /// Its capabilities, in the order of the list.
    pub capabilities: Vec<Capability>,
    /// Set when it is a bridge.
    pub bridge: Option<Bridge>,
}

impl Function {
    /// Looks at a function and sizes its regions, which leaves its decoding off. `None` when nobody answers.
    ///
    /// # Errors
    /// The bus.
    pub fn probe(
        bus: &mut dyn GuestBus,
        access: ConfigAccess,
        bdf: Bdf,
    ) -> Result<Option<Self>, BusError> {
        let id = access.read32(bus, bdf, regs::ID)?;
        if super::config::nobody(id) {
            return Ok(None);
        }
        let class = (access.read32(bus, bdf, regs::CLASS_REVISION)? >> 16) as u16;
        let header = access.read8(bus, bdf, regs::HEADER_TYPE)? & 0x7f;
        let is_bridge = header == 1;
        let registers = if is_bridge { 2 } else { 6 };
        access.command(bus, bdf, 0, regs::COMMAND_IO | regs::COMMAND_MEMORY)?;
        let mut bars = Vec::new();
        let mut index = 0;
        while index < registers {
            let bar = size_bar(bus, access, bdf, index, registers)?;
            index += 1;
            if let Some(bar) = bar {
                index += u8::from(bar.wide);
                bars.push(bar);
            }
        }
        Ok(Some(Self {
            bdf,
            vendor: id as u16,
            device: (id >> 16) as u16,
            class,
            bars,
            capabilities: list_capabilities(bus, access, bdf)?,
            bridge: is_bridge.then(Bridge::default),
        }))
    }

    /// The first capability of this kind.
    pub fn capability(&self, id: u8) -> Option<Capability> {
        self.capabilities.iter().copied().find(|c| c.id == id)
    }

    /// Where a region was put.
    pub fn bar_address(&self, index: u8) -> Option<u64> {
        self.bars
            .iter()
            .find(|bar| bar.index == index)
            .and_then(|bar| bar.address)
    }

    /// Whether it is an Ethernet controller.
    pub fn is_ethernet(&self) -> bool {
        self.class == 0x0200
    }

    /// Whether it is a virtio network device, modern or transitional.
    pub fn is_virtio_net(&self) -> bool {
        self.vendor == 0x1af4 && matches!(self.device, 0x1000 | 0x1041)
    }

    /// Command bits that its placed regions need.
    pub(crate) fn decodes(&self) -> u16 {
        self.bars
            .iter()
            .filter(|bar| bar.address.is_some())
            .map(|bar| match bar.kind {
                BarKind::Io => regs::COMMAND_IO,
                BarKind::Memory | BarKind::Prefetch64 => regs::COMMAND_MEMORY,
            })
            .fold(0, |all, bit| all | bit)
    }
}

fn size_bar(
    bus: &mut dyn GuestBus,
    access: ConfigAccess,
    bdf: Bdf,
    index: u8,
    registers: u8,
) -> Result<Option<Bar>, BusError> {
    let offset = regs::BAR0 + 4 * u16::from(index);
    let original = access.read32(bus, bdf, offset)?;
    access.write32(bus, bdf, offset, u32::MAX)?;
    let mask = access.read32(bus, bdf, offset)?;
    access.write32(bus, bdf, offset, original)?;
    if mask == 0 || mask == u32::MAX {
        return Ok(None);
    }
    if mask & 1 == 1 {
        // Ports above 64 KiB do not exist here, so the upper half of the mask may be missing.
        let size = u64::from(!(mask & !3) & 0xffff) + 1;
        return Ok(Some(Bar {
            index,
            kind: BarKind::Io,
            wide: false,
            size,
            address: None,
        }));
    }
    let wide = mask >> 1 & 3 == 2 && index + 1 < registers;
    let mut size_mask = u64::from(mask & !15) | 0xffff_ffff_0000_0000;
    if wide {
        let upper = access.read32(bus, bdf, offset + 4)?;
        access.write32(bus, bdf, offset + 4, u32::MAX)?;
        let upper_mask = access.read32(bus, bdf, offset + 4)?;
        access.write32(bus, bdf, offset + 4, upper)?;
        size_mask = u64::from(upper_mask) << 32 | u64::from(mask & !15);
    }
    let size = (!size_mask).wrapping_add(1);
    Ok(size.is_power_of_two().then_some(Bar {
        index,
        kind: if wide && mask & 8 != 0 {
            BarKind::Prefetch64
        } else {
            BarKind::Memory
        },
        wide,
        size,
        address: None,
    }))
}

fn list_capabilities(
    bus: &mut dyn GuestBus,
    access: ConfigAccess,
    bdf: Bdf,
) -> Result<Vec<Capability>, BusError> {
    let mut found: Vec<Capability> = Vec::new();
    if access.read16(bus, bdf, regs::STATUS)? & regs::STATUS_CAPABILITIES == 0 {
        return Ok(found);
    }
    let mut next = access.read8(bus, bdf, regs::CAPABILITIES)? & 0xfc;
    // A list that runs in a circle ends where it would begin again.
    while next >= 0x40 && found.iter().all(|seen| seen.offset != u16::from(next)) {
        let word = access.read16(bus, bdf, next.into())?;
        found.push(Capability {
            id: word as u8,
            offset: next.into(),
        });
        next = (word >> 8) as u8 & 0xfc;
    }
    Ok(found)
}
