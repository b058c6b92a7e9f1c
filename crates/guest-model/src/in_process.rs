//! The bus of a machine in this process, with its qtest accelerator.

use crate::bus::{BusError, GuestBus};
use hypervisor::Bus as _;
use hypervisor::qtest::Client;
use std::sync::Arc;
use std::time::Duration;

/// How often one who waits looks again, at least.
const LOOK: Duration = Duration::from_micros(200);

/// The place of the processors of a machine in this process.
#[derive(Clone)]
pub struct InProcessBus {
    client: Arc<Client>,
}

impl InProcessBus {
    /// `client` is what the machine's qtest accelerator hands out.
    pub fn new(client: Arc<Client>) -> Self {
        Self { client }
    }
}

fn width(bytes: u8) -> Result<usize, BusError> {
    match bytes {
        1 | 2 | 4 => Ok(bytes.into()),
        _ => Err(BusError::Width(bytes.into())),
    }
}

impl GuestBus for InProcessBus {
    fn port_in(&mut self, port: u16, bytes: u8) -> Result<u32, BusError> {
        let mut data = [0; 4];
        self.client.port_read(port, &mut data[..width(bytes)?]);
        Ok(u32::from_le_bytes(data))
    }

    fn port_out(&mut self, port: u16, bytes: u8, value: u32) -> Result<(), BusError> {
        let data = value.to_le_bytes();
        self.client.port_write(port, &data[..width(bytes)?]);
        Ok(())
    }

    fn memory_read(&mut self, address: u64, data: &mut [u8]) -> Result<(), BusError> {
        self.client.memory_read(address, data);
        Ok(())
    }

    fn memory_write(&mut self, address: u64, data: &[u8]) -> Result<(), BusError> {
        self.client.memory_write(address, data);
        Ok(())
    }

    fn pause(&mut self, limit: Duration) -> Result<(), BusError> {
        std::thread::sleep(limit.min(LOOK));
        Ok(())
    }
}
