//! Laying out a configuration space: header, base address registers and the two capability chains.

use crate::config_space::{CONFIG_SPACE_BYTES, ConfigSpace, Registers};
use crate::device::{BAR_COUNT, BarKind, ROM_BAR};
use crate::regs;

/// Layout of the first 64 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeaderKind {
    /// Type 0: a function that is no bridge.
    Endpoint,
    /// Type 1: a bridge or a port.
    Bridge,
}

/// Who a function says it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// Vendor id.
    pub vendor: u16,
    /// Device id.
    pub device: u16,
    /// Base class, sub-class and programming interface: 24 bits, `0x02_00_00` for Ethernet.
    pub class: u32,
    /// Revision id.
    pub revision: u8,
    /// Subsystem vendor id; a type 1 header has no register for it.
    pub subsystem_vendor: u16,
    /// Subsystem id; a type 1 header has no register for it.
    pub subsystem: u16,
}

/// The wish does not fit into a configuration space.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// Not a base address register of this header, taken already, or a 64-bit one without a register after it.
    #[error("base address register {0} does not exist in this header or is taken")]
    BarIndex(usize),
    /// Not a power of two, or outside of what the kind allows.
    #[error("base address register {bar}: {size:#x} bytes is no possible size")]
    BarSize {
        /// Index.
        bar: usize,
        /// Wanted size in bytes.
        size: u64,
    },
    /// The place is taken, misaligned or outside of the region where capabilities are.
    #[error("no room for {bytes} bytes of capability {id:#x}")]
    CapabilityRoom {
        /// Capability id.
        id: u16,
        /// Wanted size in bytes.
        bytes: usize,
    },
    /// Interrupt vectors: their number, or the place of their table.
    #[error("{0} interrupt vectors are not possible at the wanted place")]
    Vectors(usize),
}

/// One base address register as laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bar {
    pub(crate) register: u16,
    pub(crate) kind: BarKind,
    pub(crate) size: u64,
    pub(crate) prefetchable: bool,
}

const STANDARD_CAPABILITIES: std::ops::Range<usize> = 0x40..0x100;
const EXTENDED_CAPABILITIES: std::ops::Range<usize> = 0x100..CONFIG_SPACE_BYTES;

/// Builder of a [`ConfigSpace`].
///
/// Values set here are those at power-on; [`build`](Self::build) gives the space its guest sees.
#[derive(Debug, Clone)]
pub struct ConfigLayout {
    space: ConfigSpace,
    /// Double words that belong to a capability already.
    taken: Box<[bool; CONFIG_SPACE_BYTES / 4]>,
    /// The register that shall point to the next standard capability.
    link: u16,
    /// The extended capability whose pointer is still 0.
    extended_link: Option<u16>,
}

impl ConfigLayout {
    /// A function with a type 0 header.
    pub fn endpoint(identity: Identity) -> Self {
        let mut layout = Self::blank(HeaderKind::Endpoint, identity);
        layout
            .space
            .set_u16(regs::SUBSYSTEM_VENDOR_ID, identity.subsystem_vendor);
        layout.space.set_u16(regs::SUBSYSTEM_ID, identity.subsystem);
        layout
    }

    /// A bridge or port with a type 1 header: bus numbers, the three windows (I/O with 16 bits, prefetchable
    /// memory with 64) and bridge control. The subsystem ids need a capability: [`regs::CAP_SUBSYSTEM`].
    pub fn bridge(identity: Identity) -> Self {
        let mut layout = Self::blank(HeaderKind::Bridge, identity);
        layout.writable(regs::PRIMARY_BUS, &[0xff; 3]);
        layout.writable(regs::IO_BASE, &[0xf0, 0xf0]);
        // All windows begin closed, with the base above the limit.
        layout.space.set_u16(regs::IO_BASE, 0x00f0);
        layout.write_one_to_clear(regs::SECONDARY_STATUS, &0xf900u16.to_le_bytes());
        layout.writable(regs::MEMORY_BASE, &[0xf0, 0xff, 0xf0, 0xff]);
        layout.writable(regs::PREFETCH_BASE, &[0xf0, 0xff, 0xf0, 0xff]);
        layout.space.set_u32(regs::MEMORY_BASE, 0x0000_fff0);
        layout.space.set_u32(regs::PREFETCH_BASE, 0x0001_fff1);
        layout.writable(regs::PREFETCH_BASE_UPPER, &[0xff; 8]);
        layout.writable(regs::BRIDGE_CONTROL, &0x005fu16.to_le_bytes());
        layout
    }

    fn blank(header: HeaderKind, identity: Identity) -> Self {
        let zeros = || -> Registers { Box::new([0; CONFIG_SPACE_BYTES]) };
        let mut layout = Self {
            space: ConfigSpace {
                registers: zeros(),
                initial: zeros(),
                writable: zeros(),
                clearable: zeros(),
                device_owned: zeros(),
                header,
                bars: [None; BAR_COUNT],
            },
            taken: Box::new([false; CONFIG_SPACE_BYTES / 4]),
            link: regs::CAPABILITIES,
            extended_link: None,
        };
        let space = &mut layout.space;
        space.set_u16(regs::VENDOR_ID, identity.vendor);
        space.set_u16(regs::DEVICE_ID, identity.device);
        space.set_u32(
            regs::REVISION_ID,
            identity.class << 8 | u32::from(identity.revision),
        );
        space.set_u8(regs::HEADER_TYPE, u8::from(header == HeaderKind::Bridge));
        // I/O, memory, bus master, parity response, SERR#, INTx disable.
        layout.writable(regs::COMMAND, &0x0547u16.to_le_bytes());
        layout.write_one_to_clear(regs::STATUS, &0xf900u16.to_le_bytes());
        layout.device_owned(regs::STATUS, &regs::STATUS_INTERRUPT.to_le_bytes());
        // Cache line size: no effect, but software may store its value.
        layout.writable(0x0c, &[0xff]);
        layout.writable(regs::INTERRUPT_LINE, &[0xff]);
        layout
    }

    /// The header says that other functions of this device exist.
    pub fn multifunction(&mut self, multifunction: bool) -> &mut Self {
        let kind = self.space.get_u8(regs::HEADER_TYPE) & !regs::HEADER_MULTIFUNCTION;
        let bit = if multifunction {
            regs::HEADER_MULTIFUNCTION
        } else {
            0
        };
        self.space.set_u8(regs::HEADER_TYPE, kind | bit);
        self
    }

    /// The INTx pin: 0 none, 1 INTA … 4 INTD; others are taken as none.
    pub fn interrupt_pin(&mut self, pin: u8) -> &mut Self {
        self.space
            .set_u8(regs::INTERRUPT_PIN, if pin <= 4 { pin } else { 0 });
        self
    }

    /// Power-on value of any register.
    pub fn value(&mut self, offset: u16, bytes: &[u8]) -> &mut Self {
        for (offset, byte) in (offset..).zip(bytes) {
            self.space.set_u8(offset, *byte);
        }
        self
    }

    /// A guest can change the bits of `mask` from `offset` on.
    pub fn writable(&mut self, offset: u16, mask: &[u8]) -> &mut Self {
        or_into(&mut self.space.writable, offset, mask);
        self
    }

    /// A guest clears the bits of `mask` by writing ones to them.
    pub fn write_one_to_clear(&mut self, offset: u16, mask: &[u8]) -> &mut Self {
        or_into(&mut self.space.clearable, offset, mask);
        self
    }

    /// The device itself changes the bits of `mask` at run time: they belong to the saved state, and a
    /// difference is no contradiction.
    pub fn device_owned(&mut self, offset: u16, mask: &[u8]) -> &mut Self {
        or_into(&mut self.space.device_owned, offset, mask);
        self
    }

    /// A base address register.
    ///
    /// # Errors
    /// The index or size is impossible: I/O takes 4 to 256 bytes, memory 16 bytes to 2 GiB (2^62 for 64 bits).
    pub fn bar(
        &mut self,
        index: usize,
        kind: BarKind,
        size: u64,
        prefetchable: bool,
    ) -> Result<&mut Self, LayoutError> {
        let count = match self.space.header {
            HeaderKind::Endpoint => 6,
            HeaderKind::Bridge => 2,
        };
        let registers = if kind == BarKind::Memory64 { 2 } else { 1 };
        let wanted = index..index.saturating_add(registers);
        let below_is_64 = index
            .checked_sub(1)
            .and_then(|below| self.space.bars.get(below).copied().flatten())
            .is_some_and(|bar| bar.kind == BarKind::Memory64);
        if wanted.end > count
            || below_is_64
            || wanted
                .clone()
                .any(|i| self.space.bars.get(i).is_none_or(Option::is_some))
        {
            return Err(LayoutError::BarIndex(index));
        }
        let sizes = match kind {
            BarKind::Io => 4..=256,
            BarKind::Memory32 => 16..=1 << 31,
            BarKind::Memory64 => 16..=1 << 62,
        };
        if !size.is_power_of_two() || !sizes.contains(&size) {
            return Err(LayoutError::BarSize { bar: index, size });
        }
        let register =
            regs::BAR0 + 4 * u16::try_from(index).map_err(|_| LayoutError::BarIndex(index))?;
        let flags = match kind {
            BarKind::Io => 1,
            BarKind::Memory32 => u32::from(prefetchable) << 3,
            BarKind::Memory64 => 4 | u32::from(prefetchable) << 3,
        };
        self.space.set_u32(register, flags);
        let mask = (!(size - 1)).to_le_bytes();
        self.writable(register, mask.get(..registers * 4).unwrap_or(&mask));
        if let Some(slot) = self.space.bars.get_mut(index) {
            *slot = Some(Bar {
                register,
                kind,
                size,
                prefetchable,
            });
        }
        Ok(self)
    }

    /// The expansion ROM's base address register.
    ///
    /// # Errors
    /// Not a power of two between 2 KiB and 16 MiB, or there is one already.
    pub fn rom(&mut self, size: u64) -> Result<&mut Self, LayoutError> {
        if !size.is_power_of_two() || !(0x800..=0x100_0000).contains(&size) {
            return Err(LayoutError::BarSize { bar: ROM_BAR, size });
        }
        let register = match self.space.header {
            HeaderKind::Endpoint => regs::ROM_TYPE0,
            HeaderKind::Bridge => regs::ROM_TYPE1,
        };
        let [.., slot] = &mut self.space.bars;
        if slot.is_some() {
            return Err(LayoutError::BarIndex(ROM_BAR));
        }
        *slot = Some(Bar {
            register,
            kind: BarKind::Memory32,
            size,
            prefetchable: false,
        });
        let [a, b, c, d, ..] = (!(size - 1)).to_le_bytes();
        self.writable(register, &[a | 1, b, c, d]);
        Ok(self)
    }

    /// Appends a capability to the standard chain at the first free place; `body` is what follows the id and
    /// the pointer, `mask` says which bits of the body a guest can write (missing bytes: none). Returns its
    /// offset.
    ///
    /// # Errors
    /// No room.
    pub fn capability(&mut self, id: u8, body: &[u8], mask: &[u8]) -> Result<u16, LayoutError> {
        let at = self.free_place(STANDARD_CAPABILITIES, u16::from(id), body.len() + 2)?;
        self.capability_at(at, id, body, mask)
    }

    /// Appends a capability at a place of its own, as a copy of a physical function has it.
    ///
    /// # Errors
    /// The place is taken, misaligned or outside of 0x40..0x100.
    pub fn capability_at(
        &mut self,
        at: u16,
        id: u8,
        body: &[u8],
        mask: &[u8],
    ) -> Result<u16, LayoutError> {
        self.take(STANDARD_CAPABILITIES, at, u16::from(id), body.len() + 2)?;
        // Below 0x100, so the low byte is all of it.
        let [pointer, _] = at.to_le_bytes();
        self.space.set_u8(self.link, pointer);
        self.link = at + 1;
        let status = self.space.get_u16(regs::STATUS);
        self.space
            .set_u16(regs::STATUS, status | regs::STATUS_CAPABILITIES);
        self.space.set_u8(at, id);
        self.value(at + 2, body);
        self.writable(at + 2, mask.get(..body.len()).unwrap_or(mask));
        Ok(at)
    }

    /// Appends a capability to the extended chain; `body` is what follows the header's four bytes. The first
    /// one comes to lie at 0x100, where the chain begins. Returns its offset.
    ///
    /// # Errors
    /// No room.
    pub fn extended_capability(
        &mut self,
        id: u16,
        version: u8,
        body: &[u8],
        mask: &[u8],
    ) -> Result<u16, LayoutError> {
        let at = self.free_place(EXTENDED_CAPABILITIES, id, body.len() + 4)?;
        self.take(EXTENDED_CAPABILITIES, at, id, body.len() + 4)?;
        if let Some(previous) = self.extended_link {
            let header = self.space.get_u32(previous) & 0x000f_ffff;
            self.space.set_u32(previous, header | u32::from(at) << 20);
        }
        self.extended_link = Some(at);
        self.space
            .set_u32(at, u32::from(version & 0xf) << 16 | u32::from(id));
        self.value(at + 4, body);
        self.writable(at + 4, mask.get(..body.len()).unwrap_or(mask));
        Ok(at)
    }

    fn free_place(
        &self,
        within: std::ops::Range<usize>,
        id: u16,
        bytes: usize,
    ) -> Result<u16, LayoutError> {
        let words = bytes.div_ceil(4);
        let mut run = 0;
        for word in within.start / 4..within.end / 4 {
            run = if self.taken.get(word) == Some(&false) {
                run + 1
            } else {
                0
            };
            if run >= words {
                let at = (word + 1 - words) * 4;
                return u16::try_from(at).map_err(|_| LayoutError::CapabilityRoom { id, bytes });
            }
        }
        Err(LayoutError::CapabilityRoom { id, bytes })
    }

    fn take(
        &mut self,
        within: std::ops::Range<usize>,
        at: u16,
        id: u16,
        bytes: usize,
    ) -> Result<(), LayoutError> {
        let no_room = LayoutError::CapabilityRoom { id, bytes };
        let start = usize::from(at);
        let end = start.saturating_add(bytes);
        if start % 4 != 0 || start < within.start || end > within.end {
            return Err(no_room);
        }
        let words = self
            .taken
            .get_mut(start / 4..end.div_ceil(4))
            .ok_or(no_room)?;
        if words.contains(&true) {
            return Err(no_room);
        }
        words.fill(true);
        Ok(())
    }

    /// The finished space, its registers as at power-on.
    pub fn build(mut self) -> ConfigSpace {
        *self.space.initial = *self.space.registers;
        self.space
    }
}

fn or_into(registers: &mut Registers, offset: u16, mask: &[u8]) {
    for (register, bits) in registers.iter_mut().skip(usize::from(offset)).zip(mask) {
        *register |= bits;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANYONE: Identity = Identity {
        vendor: 0x1b36,
        device: 0x0001,
        class: 0x06_04_00,
        revision: 0,
        subsystem_vendor: 0,
        subsystem: 0,
    };

    #[test]
    fn impossible_bars_are_refused() {
        let mut layout = ConfigLayout::endpoint(ANYONE);
        let index =
            |r: Result<&mut ConfigLayout, LayoutError>| matches!(r, Err(LayoutError::BarIndex(_)));
        assert!(index(layout.bar(5, BarKind::Memory64, 0x1000, false)));
        assert!(index(layout.bar(6, BarKind::Memory32, 0x1000, false)));
        assert!(index(layout.bar(
            usize::MAX,
            BarKind::Memory64,
            0x1000,
            false
        )));
        layout.bar(2, BarKind::Memory64, 0x1000, false).unwrap();
        assert!(index(layout.bar(3, BarKind::Memory32, 0x1000, false)));
        assert!(index(layout.bar(1, BarKind::Memory64, 0x1000, false)));
        let size = |r: Result<&mut ConfigLayout, LayoutError>| {
            matches!(r, Err(LayoutError::BarSize { .. }))
        };
        assert!(size(layout.bar(0, BarKind::Memory32, 0x1001, false)));
        assert!(size(layout.bar(0, BarKind::Io, 0x1000, false)));
        assert!(size(layout.bar(0, BarKind::Memory32, 0, false)));
        let mut bridge = ConfigLayout::bridge(ANYONE);
        assert!(index(bridge.bar(2, BarKind::Memory32, 0x1000, false)));
    }

    #[test]
    fn capabilities_chain_and_run_out() {
        let mut layout = ConfigLayout::endpoint(ANYONE);
        assert_eq!(layout.capability_at(0x60, 9, &[4, 0], &[]).unwrap(), 0x60);
        assert_eq!(layout.capability(9, &[0x10; 14], &[]).unwrap(), 0x40);
        assert_eq!(layout.capability(9, &[0x20; 30], &[]).unwrap(), 0x64);
        assert!(layout.capability_at(0x62, 9, &[0, 0], &[]).is_err());
        assert!(layout.capability_at(0x60, 9, &[0, 0], &[]).is_err());
        assert!(layout.capability_at(0xfc, 9, &[0; 6], &[]).is_err());
        assert!(layout.capability(9, &[0; 200], &[]).is_err());
        assert_eq!(
            layout.extended_capability(1, 2, &[0; 40], &[]).unwrap(),
            0x100
        );
        assert_eq!(
            layout.extended_capability(3, 1, &[0; 8], &[]).unwrap(),
            0x12c
        );
        let space = layout.build();
        assert_eq!(space.get_u8(0x34), 0x60);
        assert_eq!(space.get_u8(0x61), 0x40);
        assert_eq!(space.get_u8(0x41), 0x64);
        assert_eq!(space.get_u8(0x65), 0);
        assert_eq!(space.get_u32(0x100), 0x12c2_0001);
        assert_eq!(space.get_u32(0x12c), 0x0001_0003);
    }
}
