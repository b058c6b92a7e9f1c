//! The q35 host bridge at 00:00.0 (Intel 3 Series Express Chipset, DRAM controller, 8086:29c0).

use crate::config_layout::{ConfigLayout, Identity};
use crate::config_space::ConfigSpace;
use crate::device::{Decode, PciDevice, StateError};
use crate::lock::lock;
use std::sync::Mutex;

/// Base and size of the memory-mapped configuration space.
const PCIEXBAR: u16 = 0x60;

/// Device 0 of bus 0. It has no regions; what it says is where the memory-mapped configuration space is.
pub struct HostBridge {
    space: Mutex<ConfigSpace>,
}

impl HostBridge {
    /// `ecam_base` is a multiple of 64 MiB, `buses` 64, 128 or 256 (others are told as 256).
    pub fn new(ecam_base: u64, buses: u16) -> Self {
        let mut layout = ConfigLayout::endpoint(Identity {
            vendor: 0x8086,
            device: 0x29c0,
            class: 0x06_00_00,
            revision: 0,
            subsystem_vendor: 0x1af4,
            subsystem: 0x1100,
        });
        let length = match buses {
            64 => 2,
            128 => 1,
            _ => 0,
        };
        let value = ecam_base & !0x3ff_ffff | length << 1 | 1;
        // The board fixes the place: the register tells it and takes no other.
        layout.value(PCIEXBAR, &value.to_le_bytes());
        // Programmable attribute maps and SMRAM control: software may store there, all of it is RAM anyway.
        layout.writable(0x90, &[0x30, 0x33, 0x33, 0x33, 0x33, 0x33, 0x33]);
        layout.writable(0x9d, &[0x4f]);
        Self {
            space: Mutex::new(layout.build()),
        }
    }
}

impl PciDevice for HostBridge {
    fn label(&self) -> String {
        "mch".to_owned()
    }

    fn config_read(&self, offset: u16, data: &mut [u8]) {
        lock(&self.space).read(offset, data);
    }

    fn config_write(&self, offset: u16, data: &[u8]) {
        lock(&self.space).write(offset, data);
    }

    fn decode(&self) -> Decode {
        lock(&self.space).decode()
    }

    fn bar_read(&self, _bar: usize, _offset: u64, data: &mut [u8]) {
        data.fill(0xff);
    }

    fn bar_write(&self, _bar: usize, _offset: u64, _data: &[u8]) {}

    fn bar_placed(&self, _bar: usize, _at: Option<u64>) {}

    fn reset(&self) {
        lock(&self.space).reset();
    }

    fn state_version(&self) -> u16 {
        1
    }

    fn save(&self) -> Result<Vec<u8>, StateError> {
        Ok(lock(&self.space).save())
    }

    fn restore(&self, version: u16, state: &[u8]) -> Result<(), StateError> {
        if version > 1 {
            return Err(StateError::Newer {
                device: self.label(),
                found: version,
                known: 1,
            });
        }
        lock(&self.space)
            .restore(state)
            .map_err(|error| StateError::Refused {
                device: self.label(),
                reason: error.to_string(),
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_tells_where_configuration_space_is() {
        let bridge = HostBridge::new(0xb000_0000, 256);
        bridge.config_write(PCIEXBAR, &[0; 4]);
        let mut value = [0; 8];
        bridge.config_read(PCIEXBAR, &mut value);
        assert_eq!(u64::from_le_bytes(value), 0xb000_0001);
        let saved = bridge.save().unwrap();
        bridge.restore(1, &saved).unwrap();
        assert!(bridge.restore(2, &saved).is_err());
        assert!(
            HostBridge::new(0xe000_0000, 256)
                .restore(1, &saved)
                .is_err()
        );
    }
}
