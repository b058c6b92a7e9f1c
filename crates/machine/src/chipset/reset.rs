//! The ways a guest resets a PC: the reset control register and the keyboard controller.

use super::{PortDevice, PowerListener, PowerRequest, put, value};
use std::sync::atomic::{AtomicU8, Ordering};

/// The reset control register (ICH9 datasheet, 13.7.5).
pub const RESET_PORT: u16 = 0xcf9;
/// What the FADT tells the guest to write there: reset the CPUs, fully.
pub const RESET_VALUE: u8 = 0x0f;

const RESET_CPU: u8 = 1 << 2;

/// The reset control register at 0xcf9. It lies inside the dword of the configuration address port, which
/// answers all other widths.
pub struct ResetControl {
    value: AtomicU8,
    listener: PowerListener,
}

impl ResetControl {
    /// Tells `listener` of resets.
    pub fn new(listener: PowerListener) -> Self {
        Self {
            value: AtomicU8::new(0),
            listener,
        }
    }
}

impl PortDevice for ResetControl {
    fn read(&self, _: u16, data: &mut [u8]) {
        put(data, u32::from(self.value.load(Ordering::Relaxed)));
    }

    fn write(&self, _: u16, data: &[u8]) {
        let written = value(data).to_le_bytes()[0];
        // The bit that starts the reset reads as zero afterwards.
        self.value
            .store(written & !RESET_CPU & RESET_VALUE, Ordering::Relaxed);
        if written & RESET_CPU != 0 {
            tracing::info!(
                value = written,
                "the guest wrote the reset control register"
            );
            (self.listener)(PowerRequest::Reset);
        }
    }
}

/// Status port of the keyboard controller.
pub const KEYBOARD_STATUS: u16 = 0x64;
const PULSE_RESET: u8 = 0xfe;

/// What is left of the keyboard controller: no keyboard, but the reset line that its output port drives.
pub struct KeyboardReset {
    listener: PowerListener,
}

impl KeyboardReset {
    /// Tells `listener` of resets.
    pub fn new(listener: PowerListener) -> Self {
        Self { listener }
    }
}

impl PortDevice for KeyboardReset {
    fn read(&self, _: u16, data: &mut [u8]) {
        // Input buffer empty, output buffer empty: whoever waits for either goes on at once.
        put(data, 0);
    }

    fn write(&self, _: u16, data: &[u8]) {
        if data.first() == Some(&PULSE_RESET) {
            tracing::info!("the guest pulsed the keyboard controller's reset line");
            (self.listener)(PowerRequest::Reset);
        }
    }
}
