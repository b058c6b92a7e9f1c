//! Interrupts by message, without an interrupt controller: the messages go to words of the guest's RAM.

use super::address::Bdf;
use super::config::{ConfigAccess, word_set};
use super::function::Function;
use super::regs;
use crate::bus::{BusError, BusWords, GuestBus};
use crate::error::GuestError;
use crate::ram::{Block, GuestRam};

/// What a message writes; anything but 0 would do.
const RAISED: u32 = 0x5f1a_6e00;

/// One message's word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MessageCell {
    address: u64,
}

impl MessageCell {
    /// Whether the message came since the last call.
    ///
    /// # Errors
    /// The bus.
    pub fn take(self, bus: &mut dyn GuestBus) -> Result<bool, BusError> {
        let came = word_set(bus, self.address)?;
        if came {
            // Before its cause is looked at: a message that comes now stays.
            bus.write32(self.address, 0)?;
        }
        Ok(came)
    }

    /// What to program into a function: address and data.
    pub fn message(self) -> (u64, u32) {
        (self.address, RAISED)
    }
}

/// A page of words for messages to be written to.
#[derive(Debug, Clone)]
pub struct MsiWords {
    page: Block,
    free: Vec<u64>,
}

impl MsiWords {
    /// # Errors
    /// No RAM is left; the bus.
    pub fn new(bus: &mut dyn GuestBus, ram: &mut GuestRam) -> Result<Self, GuestError> {
        let page = ram.take(bus, 1)?;
        // One a cache line; the highest first, so that the lowest is handed out first.
        let free = (0..page.bytes / 64).rev().map(|n| page.address + 64 * n);
        Ok(Self {
            page,
            free: free.collect(),
        })
    }

    /// A word that no message uses, cleared.
    ///
    /// # Errors
    /// All are in use; the bus.
    pub fn take(&mut self, bus: &mut dyn GuestBus) -> Result<MessageCell, GuestError> {
        let address = self
            .free
            .pop()
            .ok_or_else(|| GuestError::NoRoom("another interrupt message".into()))?;
        bus.write32(address, 0)?;
        Ok(MessageCell { address })
    }

    /// Takes a word back whose message is switched off.
    pub fn give_back(&mut self, cell: MessageCell) {
        debug_assert!(cell.address - self.page.address < self.page.bytes);
        self.free.push(cell.address);
    }
}

/// The MSI-X capability and table of a function (PCI Express 4.0, 7.7.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Msix {
    bdf: Bdf,
    control: u16,
    table: u64,
    vectors: u16,
}

impl Msix {
    const ENABLE: u16 = 1 << 15;
    const MASK_ALL: u16 = 1 << 14;

    /// Finds it. `None` when the function has none, or its table is in a region without an address.
    ///
    /// # Errors
    /// The bus.
    pub fn find(
        bus: &mut dyn GuestBus,
        access: ConfigAccess,
        function: &Function,
    ) -> Result<Option<Self>, BusError> {
        let Some(capability) = function.capability(regs::CAP_MSIX) else {
            return Ok(None);
        };
        let control = capability.offset + 2;
        let vectors = (access.read16(bus, function.bdf, control)? & 0x7ff) + 1;
        let place = access.read32(bus, function.bdf, capability.offset + 4)?;
        let base = function.bar_address((place & 7) as u8);
        Ok(base.map(|base| Self {
            bdf: function.bdf,
            control,
            table: base + u64::from(place & !7),
            vectors,
        }))
    }

    /// Vectors in the table.
    pub fn vectors(&self) -> u16 {
        self.vectors
    }

    /// Switches MSI-X on; vectors are masked until they are set.
    ///
    /// # Errors
    /// The bus.
    pub fn enable(&self, bus: &mut dyn GuestBus, access: ConfigAccess) -> Result<(), BusError> {
        access.write16(bus, self.bdf, self.control, Self::ENABLE | Self::MASK_ALL)?;
        for vector in 0..self.vectors {
            self.mask(bus, vector, true)?;
        }
        access.write16(bus, self.bdf, self.control, Self::ENABLE)
    }

    /// Masks all vectors and switches MSI-X off.
    ///
    /// # Errors
    /// The bus.
    pub fn disable(&self, bus: &mut dyn GuestBus, access: ConfigAccess) -> Result<(), BusError> {
        for vector in 0..self.vectors {
            self.mask(bus, vector, true)?;
        }
        access.write16(bus, self.bdf, self.control, 0)
    }

    /// Points a vector at a word and unmasks it.
    ///
    /// # Errors
    /// The bus.
    pub fn set(
        &self,
        bus: &mut dyn GuestBus,
        vector: u16,
        cell: MessageCell,
    ) -> Result<(), BusError> {
        let entry = self.entry(vector);
        let (address, data) = cell.message();
        bus.write32(entry, address as u32)?;
        bus.write32(entry + 4, (address >> 32) as u32)?;
        bus.write32(entry + 8, data)?;
        self.mask(bus, vector, false)
    }

    /// Masks or unmasks a vector.
    ///
    /// # Errors
    /// The bus.
    pub fn mask(&self, bus: &mut dyn GuestBus, vector: u16, masked: bool) -> Result<(), BusError> {
        bus.write32(self.entry(vector) + 12, masked.into())
    }

    fn entry(&self, vector: u16) -> u64 {
        self.table + 16 * u64::from(vector)
    }
}

/// The MSI capability of a function (PCI Express 4.0, 7.7.1), with one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Msi {
    bdf: Bdf,
    offset: u16,
}

impl Msi {
    const ENABLE: u16 = 1;
    const WIDE: u16 = 1 << 7;
    const MASKS: u16 = 1 << 8;

    /// Finds it.
    pub fn find(function: &Function) -> Option<Self> {
        let capability = function.capability(regs::CAP_MSI)?;
        Some(Self {
            bdf: function.bdf,
            offset: capability.offset,
        })
    }

    /// Points the message at a word and switches MSI on.
    ///
    /// MSI's data has 16 bits, and the function writes 32 of them with the upper ones zero.
    ///
    /// # Errors
    /// The bus.
    pub fn enable(
        self,
        bus: &mut dyn GuestBus,
        access: ConfigAccess,
        cell: MessageCell,
    ) -> Result<(), BusError> {
        let Self { bdf, offset } = self;
        let control = access.read16(bus, bdf, offset + 2)?;
        let (address, data) = cell.message();
        access.write32(bus, bdf, offset + 4, address as u32)?;
        let data_offset = if control & Self::WIDE != 0 {
            access.write32(bus, bdf, offset + 8, (address >> 32) as u32)?;
            offset + 12
        } else {
            offset + 8
        };
        access.write16(bus, bdf, data_offset, data as u16)?;
        if control & Self::MASKS != 0 {
            access.write32(bus, bdf, data_offset + 4, 0)?;
        }
        access.write16(bus, bdf, offset + 2, control & !0x70 | Self::ENABLE)
    }

    /// Switches it off.
    ///
    /// # Errors
    /// The bus.
    pub fn disable(self, bus: &mut dyn GuestBus, access: ConfigAccess) -> Result<(), BusError> {
        let control = access.read16(bus, self.bdf, self.offset + 2)?;
        access.write16(bus, self.bdf, self.offset + 2, control & !Self::ENABLE)
    }
}
