//! The guest's own RAM, handed out to drivers.

use crate::bus::{BusError, GuestBus};
use crate::error::GuestError;
use std::collections::BTreeMap;

const PAGE: u64 = 0x1000;

/// A piece of RAM, for the device to read and write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block {
    /// Guest-physical address, a multiple of 4 KiB.
    pub address: u64,
    /// Size in bytes, a multiple of 4 KiB.
    pub bytes: u64,
}

/// Hands out whole pages, lowest first.
#[derive(Debug, Clone)]
pub struct GuestRam {
    next: u64,
    end: u64,
    free: BTreeMap<u64, Vec<u64>>,
}

impl GuestRam {
    /// The pages from `start` up to `end`; both are multiples of 4 KiB.
    pub fn new(start: u64, end: u64) -> Self {
        Self {
            next: start,
            end,
            free: BTreeMap::new(),
        }
    }

    /// Asks the machine how much RAM it has (fw_cfg, key 3), and takes what is between 1 MiB and 2 GiB. A machine
    /// without fw_cfg counts as one with 64 MiB.
    ///
    /// # Errors
    /// The bus.
    pub fn ask(bus: &mut dyn GuestBus) -> Result<Self, BusError> {
        const SELECTOR: u16 = 0x510;
        const DATA: u16 = 0x511;
        let mut read_key = |key: u32, data: &mut [u8]| -> Result<(), BusError> {
            bus.port_out(SELECTOR, 2, key)?;
            for byte in data {
                *byte = bus.port_in(DATA, 1)? as u8;
            }
            Ok(())
        };
        let mut signature = [0; 4];
        read_key(0, &mut signature)?;
        let mut size = [0; 8];
        read_key(3, &mut size)?;
        let bytes = if &signature == b"QEMU" {
            u64::from_le_bytes(size)
        } else {
            64 << 20
        };
        Ok(Self::new(1 << 20, bytes.min(2 << 30) & !(PAGE - 1)))
    }

    /// A piece of at least `bytes`, filled with zeros.
    ///
    /// # Errors
    /// All is used up; the bus.
    pub fn take(&mut self, bus: &mut dyn GuestBus, bytes: u64) -> Result<Block, GuestError> {
        let bytes = bytes.max(1).next_multiple_of(PAGE);
        let address = match self.free.get_mut(&bytes).and_then(Vec::pop) {
            Some(address) => address,
            None => {
                let address = self.next;
                let end = address.checked_add(bytes).filter(|&end| end <= self.end);
                self.next =
                    end.ok_or_else(|| GuestError::NoRoom(format!("{bytes} bytes of RAM")))?;
                address
            }
        };
        let zeros = [0; PAGE as usize];
        for page in (address..address + bytes).step_by(PAGE as usize) {
            bus.memory_write(page, &zeros)?;
        }
        Ok(Block { address, bytes })
    }

    /// Takes a piece back, which no device may use any more.
    pub fn give_back(&mut self, block: Block) {
        self.free
            .entry(block.bytes)
            .or_default()
            .push(block.address);
    }
}
