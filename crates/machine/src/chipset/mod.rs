//! The devices of the PC that are not PCI functions, and the LPC bridge they hang on.

pub mod fw_cfg;
pub mod lpc;
pub mod power;
pub mod reset;
pub mod rtc;
pub mod serial;

/// A block of I/O ports with registers behind it. Called from all vCPU threads at once.
pub trait PortDevice: Send + Sync {
    /// Reads at `offset` from the block's first port; `data` is 1, 2 or 4 bytes and stays all ones where no
    /// register answers.
    fn read(&self, offset: u16, data: &mut [u8]);
    /// Writes at `offset`; `data` is 1, 2 or 4 bytes.
    fn write(&self, offset: u16, data: &[u8]);
}

/// The little-endian value of 1 to 4 bytes.
pub(crate) fn value(data: &[u8]) -> u32 {
    data.iter()
        .rev()
        .fold(0, |value, byte| value << 8 | u32::from(*byte))
}

/// Puts the low bytes of `value` into `data`.
pub(crate) fn put(data: &mut [u8], value: u32) {
    for (to, from) in data.iter_mut().zip(value.to_le_bytes()) {
        *to = from;
    }
}

/// What the guest, or the hardware, asks of the whole machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PowerRequest {
    /// Reset.
    Reset,
    /// Soft power-off.
    PowerOff,
}

/// Told by vCPU threads; must not block.
pub type PowerListener = std::sync::Arc<dyn Fn(PowerRequest) + Send + Sync>;
