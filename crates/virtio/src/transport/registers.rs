//! The common configuration structure (virtio 1.2, section 4.1.4.3).

use super::State;
use crate::queue::QueueSetup;
use crate::signals::Signals;

/// The driver has seen the device.
pub(super) const STATUS_ACKNOWLEDGE: u8 = 1;
/// It knows how to drive it.
pub(super) const STATUS_DRIVER: u8 = 2;
/// It is up.
pub(super) const STATUS_DRIVER_OK: u8 = 4;
/// The features are agreed on.
pub(super) const STATUS_FEATURES_OK: u8 = 8;
/// The device cannot go on.
pub(super) const STATUS_NEEDS_RESET: u8 = 0x40;
/// The driver gave up.
pub(super) const STATUS_FAILED: u8 = 0x80;

/// What a write asks of the transport beyond a register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    Nothing,
    /// The status register was written.
    Status(u8),
}

fn half(value: u64, high: bool) -> u64 {
    if high {
        value >> 32
    } else {
        value & 0xffff_ffff
    }
}

fn set_half(value: &mut u64, high: bool, part: u32) {
    *value = if high {
        *value & 0xffff_ffff | u64::from(part) << 32
    } else {
        *value & !0xffff_ffff | u64::from(part)
    };
}

impl State {
    fn selected(&self) -> Option<&QueueSetup> {
        self.queues.get(usize::from(self.queue_select))
    }

    pub(super) fn read_common(
        &self,
        signals: &Signals,
        offered: u64,
        offset: u64,
        data: &mut [u8],
    ) {
        let queue = self.selected().copied().unwrap_or_default();
        let selected = usize::from(self.queue_select);
        let value: u64 = match offset {
            0x00 => self.device_feature_select.into(),
            0x04 if self.device_feature_select < 2 => {
                half(offered, self.device_feature_select == 1)
            }
            0x08 => self.driver_feature_select.into(),
            0x0c if self.driver_feature_select < 2 => {
                half(self.driver_features, self.driver_feature_select == 1)
            }
            0x10 => signals.config_vector().into(),
            0x12 => self.queues.len() as u64,
            0x14 => {
                let broken = if signals.broken() {
                    STATUS_NEEDS_RESET
                } else {
                    0
                };
                u64::from(self.status | broken)
            }
            0x15 => signals.generation().into(),
            0x16 => self.queue_select.into(),
            0x18 => queue.size.into(),
            0x1a => signals.queue_vector(selected).into(),
            0x1c => queue.enabled.into(),
            // The notification address is this times the multiplier: one address a queue.
            0x1e => self.queue_select.into(),
            0x20 => queue.descriptors,
            0x24 => queue.descriptors >> 32,
            0x28 => queue.available,
            0x2c => queue.available >> 32,
            0x30 => queue.used,
            0x34 => queue.used >> 32,
            _ => 0,
        };
        for (byte, from) in data.iter_mut().zip(value.to_le_bytes()) {
            *byte = from;
        }
    }

    pub(super) fn write_common(&mut self, signals: &Signals, offset: u64, data: &[u8]) -> Asked {
        let mut bytes = [0; 8];
        for (byte, from) in bytes.iter_mut().zip(data) {
            *byte = *from;
        }
        let [a, b, c, d, high @ ..] = bytes;
        let (byte, word, dword) = (
            a,
            u16::from_le_bytes([a, b]),
            u32::from_le_bytes([a, b, c, d]),
        );
        let negotiating = self.status & STATUS_FEATURES_OK == 0;
        let selected = usize::from(self.queue_select);
        match (offset, data.len()) {
            (0x14, _) => return Asked::Status(byte),
            (_, 8) => {
                self.write_common(signals, offset, &[a, b, c, d]);
                return self.write_common(signals, offset + 4, &high);
            }
            (0x00, 4) => self.device_feature_select = dword,
            (0x08, 4) => self.driver_feature_select = dword,
            (0x0c, 4) if negotiating => match self.driver_feature_select {
                0 => set_half(&mut self.driver_features, false, dword),
                1 => set_half(&mut self.driver_features, true, dword),
                // There are no features beyond 63; a driver that accepts one is refused.
                _ => self.unknown_features |= dword != 0,
            },
            (0x10, 2) => signals.set_config_vector(word),
            (0x16, 2) => self.queue_select = word,
            (0x1a, 2) => signals.set_queue_vector(selected, word),
            _ => self.write_queue(offset, data.len(), word, dword),
        }
        Asked::Nothing
    }

    fn write_queue(&mut self, offset: u64, len: usize, word: u16, dword: u32) {
        let Some(max) = self.queue_sizes.get(usize::from(self.queue_select)) else {
            return;
        };
        let Some(queue) = self.queues.get_mut(usize::from(self.queue_select)) else {
            return;
        };
        // An enabled queue keeps its place and size until the device is reset.
        if queue.enabled {
            return;
        }
        match (offset, len) {
            (0x18, 2) if word.is_power_of_two() && word <= *max => queue.size = word,
            (0x1c, 2) if word == 1 => queue.enabled = true,
            (0x20 | 0x24, 4) => set_half(&mut queue.descriptors, offset == 0x24, dword),
            (0x28 | 0x2c, 4) => set_half(&mut queue.available, offset == 0x2c, dword),
            (0x30 | 0x34, 4) => set_half(&mut queue.used, offset == 0x34, dword),
            _ => {}
        }
    }

    /// Every register as at reset.
    pub(super) fn reset_registers(&mut self) {
        self.device_feature_select = 0;
        self.driver_feature_select = 0;
        self.driver_features = 0;
        self.unknown_features = false;
        self.status = 0;
        self.queue_select = 0;
        for (queue, size) in self.queues.iter_mut().zip(&self.queue_sizes) {
            *queue = QueueSetup {
                size: *size,
                ..QueueSetup::default()
            };
        }
    }
}
