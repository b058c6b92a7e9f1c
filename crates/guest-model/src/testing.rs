//! What the unit tests stand on: memory without a machine.

use crate::bus::{BusError, GuestBus};
use std::time::Duration;

/// So many bytes from address 0 on, and no ports.
pub(crate) struct MemoryBus(pub(crate) Vec<u8>);

impl MemoryBus {
    pub(crate) fn new(bytes: usize) -> Self {
        Self(vec![0; bytes])
    }

    pub(crate) fn word(&self, address: u64) -> u16 {
        let at = address as usize;
        u16::from_le_bytes([self.0[at], self.0[at + 1]])
    }

    pub(crate) fn put(&mut self, address: u64, data: &[u8]) {
        let at = address as usize;
        self.0[at..at + data.len()].copy_from_slice(data);
    }
}

impl GuestBus for MemoryBus {
    fn port_in(&mut self, _: u16, _: u8) -> Result<u32, BusError> {
        Ok(u32::MAX)
    }

    fn port_out(&mut self, _: u16, _: u8, _: u32) -> Result<(), BusError> {
        Ok(())
    }

    fn memory_read(&mut self, address: u64, data: &mut [u8]) -> Result<(), BusError> {
        let at = address as usize;
        data.copy_from_slice(&self.0[at..at + data.len()]);
        Ok(())
    }

    fn memory_write(&mut self, address: u64, data: &[u8]) -> Result<(), BusError> {
        self.put(address, data);
        Ok(())
    }

    fn pause(&mut self, _: Duration) -> Result<(), BusError> {
        Ok(())
    }
}
