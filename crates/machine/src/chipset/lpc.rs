//! The LPC bridge at 00:1f.0 (ICH9 datasheet, chapter 13): identity, and the power management base a guest reads.

use super::power::PM_PORT;
use pci::{ConfigLayout, ConfigSpace, Decode, Identity, PciDevice, StateError};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Power management base register.
const PMBASE: u16 = 0x40;
/// ACPI control: the power management block decodes, the SCI is interrupt 9.
const ACPI_CONTROL: u16 = 0x44;

/// The LPC bridge, a function without regions.
pub struct LpcBridge {
    config: Mutex<ConfigSpace>,
}

impl LpcBridge {
    /// 8086:2918, an ISA bridge.
    pub fn new() -> Self {
        let identity = Identity {
            vendor: 0x8086,
            device: 0x2918,
            class: 0x06_01_00,
            revision: 2,
            subsystem_vendor: 0x1af4,
            subsystem: 0x1100,
        };
        let mut layout = ConfigLayout::endpoint(identity);
        layout.value(PMBASE, &(u32::from(PM_PORT) | 1).to_le_bytes());
        layout.value(ACPI_CONTROL, &[0x80]);
        Self {
            config: Mutex::new(layout.build()),
        }
    }

    fn config(&self) -> MutexGuard<'_, ConfigSpace> {
        self.config.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for LpcBridge {
    fn default() -> Self {
        Self::new()
    }
}

impl PciDevice for LpcBridge {
    fn label(&self) -> String {
        "ICH9-LPC".into()
    }

    fn config_read(&self, offset: u16, data: &mut [u8]) {
        self.config().read(offset, data);
    }

    fn config_write(&self, offset: u16, data: &[u8]) {
        self.config().write(offset, data);
    }

    fn decode(&self) -> Decode {
        self.config().decode()
    }

    fn bar_read(&self, _: usize, _: u64, _: &mut [u8]) {}

    fn bar_write(&self, _: usize, _: u64, _: &[u8]) {}

    fn bar_placed(&self, _: usize, _: Option<u64>) {}

    fn reset(&self) {
        self.config().reset();
    }

    fn state_version(&self) -> u16 {
        1
    }

    fn save(&self) -> Result<Vec<u8>, StateError> {
        Ok(self.config().save())
    }

    fn restore(&self, version: u16, state: &[u8]) -> Result<(), StateError> {
        if version > self.state_version() {
            return Err(StateError::Newer {
                device: self.label(),
                found: version,
                known: self.state_version(),
            });
        }
        self.config()
            .restore(state)
            .map_err(|e| StateError::Refused {
                device: self.label(),
                reason: e.to_string(),
            })
    }
}
