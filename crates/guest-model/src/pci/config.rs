//! Reading and writing configuration space, by the two ways a q35 board has.

use super::address::Bdf;
use super::regs;
use crate::bus::{BusError, BusWords, GuestBus};

const ADDRESS_PORT: u16 = 0xcf8;
const DATA_PORT: u16 = 0xcfc;

/// How configuration accesses are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConfigAccess {
    /// Address to port 0xcf8, data at 0xcfc (PCI 3.0, 3.2.2.3.2); the first 256 bytes of each function.
    Ports,
    /// Memory-mapped (PCI Express 4.0, 7.2.2), beginning at this address for bus 0; all 4096 bytes.
    Ecam(u64),
}

impl ConfigAccess {
    /// Switches the memory-mapped configuration space of a q35 host bridge on at `base`, a multiple of 256 MiB; a board
    /// that has it in a fixed place keeps that. Returns the access to use, by ports when there is none.
    ///
    /// # Errors
    /// The bus.
    pub fn open_ecam(bus: &mut dyn GuestBus, base: u64) -> Result<Self, BusError> {
        const PCIEXBAR: u16 = 0x60;
        const BASE_MASK: u64 = !0xfff_ffff;
        let host_bridge = Bdf::new(0, 0, 0);
        let ports = Self::Ports;
        ports.write32(bus, host_bridge, PCIEXBAR + 4, (base >> 32) as u32)?;
        ports.write32(bus, host_bridge, PCIEXBAR, base as u32 & !0xfff_ffff | 1)?;
        let low = ports.read32(bus, host_bridge, PCIEXBAR)?;
        let high = ports.read32(bus, host_bridge, PCIEXBAR + 4)?;
        if low & 1 == 0 {
            return Ok(ports);
        }
        let ecam = Self::Ecam((u64::from(high) << 32 | u64::from(low)) & BASE_MASK);
        // The same function must answer there, or the register lied.
        let same =
            ecam.read32(bus, host_bridge, regs::ID)? == ports.read32(bus, host_bridge, regs::ID)?;
        Ok(if same { ecam } else { ports })
    }

    fn memory(base: u64, bdf: Bdf, offset: u16) -> u64 {
        base + (u64::from(bdf.bits()) << 12) + u64::from(offset & 0xfff)
    }

    fn select(bus: &mut dyn GuestBus, bdf: Bdf, offset: u16) -> Result<u16, BusError> {
        let address = 1 << 31 | u32::from(bdf.bits()) << 8 | u32::from(offset & 0xfc);
        bus.port_out(ADDRESS_PORT, 4, address)?;
        Ok(DATA_PORT + (offset & 3))
    }

    fn read(self, bus: &mut dyn GuestBus, bdf: Bdf, offset: u16, n: u8) -> Result<u32, BusError> {
        match self {
            Self::Ports => {
                let port = Self::select(bus, bdf, offset)?;
                bus.port_in(port, n)
            }
            Self::Ecam(base) => {
                let mut data = [0; 4];
                let address = Self::memory(base, bdf, offset);
                let part = data.get_mut(..n.into()).ok_or(BusError::Width(n.into()))?;
                bus.memory_read(address, part)?;
                Ok(u32::from_le_bytes(data))
            }
        }
    }

    fn write(
        self,
        bus: &mut dyn GuestBus,
        bdf: Bdf,
        offset: u16,
        data: &[u8],
    ) -> Result<(), BusError> {
        match self {
            Self::Ports => {
                let mut value = [0; 4];
                let part = value.get_mut(..data.len());
                part.ok_or(BusError::Width(data.len()))?
                    .copy_from_slice(data);
                let port = Self::select(bus, bdf, offset)?;
                bus.port_out(port, data.len() as u8, u32::from_le_bytes(value))
            }
            Self::Ecam(base) => bus.memory_write(Self::memory(base, bdf, offset), data),
        }
    }

    /// Reads a byte.
    ///
    /// # Errors
    /// The bus; so for all of these. A function that is absent is no error: it reads all ones.
    pub fn read8(self, bus: &mut dyn GuestBus, bdf: Bdf, offset: u16) -> Result<u8, BusError> {
        Ok(self.read(bus, bdf, offset, 1)? as u8)
    }

    /// Reads two bytes at an even offset.
    ///
    /// # Errors
    /// The bus.
    pub fn read16(self, bus: &mut dyn GuestBus, bdf: Bdf, offset: u16) -> Result<u16, BusError> {
        Ok(self.read(bus, bdf, offset, 2)? as u16)
    }

    /// Reads four bytes at a multiple of four.
    ///
    /// # Errors
    /// The bus.
    pub fn read32(self, bus: &mut dyn GuestBus, bdf: Bdf, offset: u16) -> Result<u32, BusError> {
        self.read(bus, bdf, offset, 4)
    }

    /// Writes a byte.
    ///
    /// # Errors
    /// The bus.
    pub fn write8(
        self,
        bus: &mut dyn GuestBus,
        bdf: Bdf,
        offset: u16,
        value: u8,
    ) -> Result<(), BusError> {
        self.write(bus, bdf, offset, &[value])
    }

    /// Writes two bytes at an even offset.
    ///
    /// # Errors
    /// The bus.
    pub fn write16(
        self,
        bus: &mut dyn GuestBus,
        bdf: Bdf,
        offset: u16,
        value: u16,
    ) -> Result<(), BusError> {
        self.write(bus, bdf, offset, &value.to_le_bytes())
    }

    /// Writes four bytes at a multiple of four.
    ///
    /// # Errors
    /// The bus.
    pub fn write32(
        self,
        bus: &mut dyn GuestBus,
        bdf: Bdf,
        offset: u16,
        value: u32,
    ) -> Result<(), BusError> {
        self.write(bus, bdf, offset, &value.to_le_bytes())
    }

    /// Sets and clears bits of the command register; returns what it was.
    ///
    /// # Errors
    /// The bus.
    pub fn command(
        self,
        bus: &mut dyn GuestBus,
        bdf: Bdf,
        set: u16,
        clear: u16,
    ) -> Result<u16, BusError> {
        let old = self.read16(bus, bdf, regs::COMMAND)?;
        let new = old & !clear | set;
        if new != old {
            self.write16(bus, bdf, regs::COMMAND, new)?;
        }
        Ok(old)
    }
}

/// The word a function that is not there reads as.
pub(crate) fn nobody(id: u32) -> bool {
    id & 0xffff == 0xffff || id == 0
}

/// Whether a register of a region or a word of RAM is set, by one aligned read.
pub(crate) fn word_set(bus: &mut dyn GuestBus, address: u64) -> Result<bool, BusError> {
    Ok(bus.read32(address)? != 0)
}
