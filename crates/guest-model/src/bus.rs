//! The one thing a model guest needs of a machine: its ports and its memory.

use std::io;
use std::time::Duration;

/// What a CPU would reach: ports, and the guest-physical address space with RAM, regions of functions and ECAM.
///
/// Interrupts need no method here. An MSI message is a write to memory, so the model lets its messages point at words
/// of its own RAM and looks there ([`MsiWords`](crate::MsiWords)); the system control interrupt is a level, and its
/// cause can be read in ACPI's status registers. Both work on any machine, whether or not it has an interrupt
/// controller that somebody listens to.
pub trait GuestBus {
    /// Reads a port, in one access of 1, 2 or 4 bytes.
    ///
    /// # Errors
    /// The machine is gone, or refuses the access.
    fn port_in(&mut self, port: u16, bytes: u8) -> Result<u32, BusError>;

    /// Writes a port, in one access of 1, 2 or 4 bytes.
    ///
    /// # Errors
    /// As [`port_in`](Self::port_in).
    fn port_out(&mut self, port: u16, bytes: u8, value: u32) -> Result<(), BusError>;

    /// Reads memory of any length. An aligned 1, 2, 4 or 8 bytes are one access, so that registers can be read.
    ///
    /// # Errors
    /// As [`port_in`](Self::port_in).
    fn memory_read(&mut self, address: u64, data: &mut [u8]) -> Result<(), BusError>;

    /// Writes memory; the same holds for the width of the access.
    ///
    /// # Errors
    /// As [`port_in`](Self::port_in).
    fn memory_write(&mut self, address: u64, data: &[u8]) -> Result<(), BusError>;

    /// Lets at most `limit` of real time pass for the machine's own threads to go on; an implementation that can tell
    /// returns early when something may have changed.
    ///
    /// # Errors
    /// As [`port_in`](Self::port_in).
    fn pause(&mut self, limit: Duration) -> Result<(), BusError>;
}

/// Why an access did not happen.
#[derive(Debug, thiserror::Error)]
pub enum BusError {
    /// The connection to the machine broke.
    #[error("the machine's bus is gone: {0}")]
    Gone(#[from] io::Error),
    /// The machine answered, and refused.
    #[error("the machine refused '{request}': {answer}")]
    Refused {
        /// What was asked.
        request: String,
        /// What came back.
        answer: String,
    },
    /// A width no CPU has.
    #[error("no access is {0} bytes wide")]
    Width(usize),
}

/// Typed reads and writes over any [`GuestBus`]; little-endian, as everything on this bus is.
pub trait BusWords: GuestBus {
    /// Reads one byte.
    ///
    /// # Errors
    /// As [`GuestBus::memory_read`]; so for all of these.
    fn read8(&mut self, address: u64) -> Result<u8, BusError> {
        let mut data = [0];
        self.memory_read(address, &mut data)?;
        Ok(data[0])
    }

    /// Reads two bytes.
    ///
    /// # Errors
    /// As [`read8`](Self::read8).
    fn read16(&mut self, address: u64) -> Result<u16, BusError> {
        let mut data = [0; 2];
        self.memory_read(address, &mut data)?;
        Ok(u16::from_le_bytes(data))
    }

    /// Reads four bytes.
    ///
    /// # Errors
    /// As [`read8`](Self::read8).
    fn read32(&mut self, address: u64) -> Result<u32, BusError> {
        let mut data = [0; 4];
        self.memory_read(address, &mut data)?;
        Ok(u32::from_le_bytes(data))
    }

    /// Reads eight bytes.
    ///
    /// # Errors
    /// As [`read8`](Self::read8).
    fn read64(&mut self, address: u64) -> Result<u64, BusError> {
        let mut data = [0; 8];
        self.memory_read(address, &mut data)?;
        Ok(u64::from_le_bytes(data))
    }

    /// Writes one byte.
    ///
    /// # Errors
    /// As [`GuestBus::memory_write`]; so for all of these.
    fn write8(&mut self, address: u64, value: u8) -> Result<(), BusError> {
        self.memory_write(address, &[value])
    }

    /// Writes two bytes.
    ///
    /// # Errors
    /// As [`write8`](Self::write8).
    fn write16(&mut self, address: u64, value: u16) -> Result<(), BusError> {
        self.memory_write(address, &value.to_le_bytes())
    }

    /// Writes four bytes.
    ///
    /// # Errors
    /// As [`write8`](Self::write8).
    fn write32(&mut self, address: u64, value: u32) -> Result<(), BusError> {
        self.memory_write(address, &value.to_le_bytes())
    }

    /// Writes eight bytes.
    ///
    /// # Errors
    /// As [`write8`](Self::write8).
    fn write64(&mut self, address: u64, value: u64) -> Result<(), BusError> {
        self.memory_write(address, &value.to_le_bytes())
    }
}

impl<B: GuestBus + ?Sized> BusWords for B {}
