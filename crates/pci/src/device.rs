//! What the bus needs from a function.

use crate::platform::IntxLine;
use std::sync::Arc;

/// Base address registers of a type 0 header (0..6) and the expansion ROM.
pub const BAR_COUNT: usize = 7;

/// The expansion ROM's index among the regions of a [`Decode`].
pub const ROM_BAR: usize = 6;

/// In which address space a base address register claims its range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BarKind {
    /// I/O ports.
    Io,
    /// Memory below 4 GiB.
    Memory32,
    /// Memory anywhere; takes two registers.
    Memory64,
}

/// The range one base address register claims.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BarRegion {
    /// Address space.
    pub kind: BarKind,
    /// First address, as the guest wrote it; 0 where it wrote nothing yet.
    pub base: u64,
    /// Size in bytes, a power of two.
    pub size: u64,
    /// Reads have no side effects (PCI Express Base 6.0, 7.5.1.2.1).
    pub prefetchable: bool,
}

/// What a function claims of the address spaces at the moment: the command register's enables and the
/// base address registers. It is a picture; the bus decides which of it is reachable through the windows
/// of the ports above.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Decode {
    /// Command register, I/O space enable.
    pub io_enabled: bool,
    /// Command register, memory space enable.
    pub memory_enabled: bool,
    /// Command register, bus master enable.
    pub bus_master: bool,
    /// The base address registers by index, [`ROM_BAR`] last (present only while the ROM is enabled).
    pub bars: [Option<BarRegion>; BAR_COUNT],
}

/// A function's state could not be saved or taken over.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The payload's version is newer than this program knows.
    #[error("{device}: state of version {found} is newer than {known}, the newest known here")]
    Newer {
        /// Which device.
        device: String,
        /// The stream's version.
        found: u16,
        /// The newest known version.
        known: u16,
    },
    /// The payload does not decode, or contradicts this device's configuration.
    #[error("{device}: {reason}")]
    Refused {
        /// Which device.
        device: String,
        /// One clear sentence.
        reason: String,
    },
    /// The device cannot be migrated.
    #[error("{device}: cannot be migrated: {reason}")]
    NotMigratable {
        /// Which device.
        device: String,
        /// One clear sentence.
        reason: String,
    },
}

/// One PCI function.
///
/// All methods take `&self`: vCPU threads call the accessors at any time and from several threads at once,
/// so a function guards its own state. A method must not call back into the bus, and must not block on the
/// control thread.
///
/// Order of calls: the bus calls [`connect_intx`](Self::connect_intx) once when the function is put into a
/// slot, then the accessors; [`bar_placed`](Self::bar_placed) follows each write that changed
/// [`decode`](Self::decode) or a window above. When the function is taken out of its slot the bus calls
/// `bar_placed(_, None)` for each placed region and then [`detached`](Self::detached); afterwards no accessor is
/// called until it is put into a slot again.
pub trait PciDevice: Send + Sync {
    /// The device's name for logs and errors: `virtio-net-pci 'net1'`.
    fn label(&self) -> String;

    /// Reads 1, 2 or 4 bytes of configuration space.
    ///
    /// Pre: `offset + data.len() <= 4096` and the access does not cross a double word. `data` is little-endian.
    fn config_read(&self, offset: u16, data: &mut [u8]);

    /// Writes 1, 2 or 4 bytes of configuration space; preconditions as of [`config_read`](Self::config_read).
    fn config_write(&self, offset: u16, data: &[u8]);

    /// Called before [`config_write`](Self::config_write) with the same bytes, for what has to be done before and may take its
    /// time: other accesses to the bus go on meanwhile, and the function may be taken out of its slot before the write.
    fn before_config_write(&self, offset: u16, data: &[u8]) {
        let _ = (offset, data);
    }

    /// What the function claims now. Cheap: the bus calls it after each configuration write.
    fn decode(&self) -> Decode;

    /// Reads from a region; `offset + data.len()` is within its size, `data.len()` is 1, 2, 4 or 8.
    fn bar_read(&self, bar: usize, offset: u64, data: &mut [u8]);

    /// Writes to a region; bounds as of [`bar_read`](Self::bar_read).
    fn bar_write(&self, bar: usize, offset: u64, data: &[u8]);

    /// The region is now reachable at guest-physical address (or port) `at`, or nowhere. This is where a
    /// function places doorbells and maps host memory.
    fn bar_placed(&self, bar: usize, at: Option<u64>);

    /// The interrupt line the function's INTx pin is wired to, for as long as it stays in its slot.
    fn connect_intx(&self, line: Arc<dyn IntxLine>) {
        let _ = line;
    }

    /// Taken out of its slot: interrupts are off, no doorbell and no mapping is left, nothing of guest memory
    /// is accessed any more. Host resources are kept, so that it can be put back at once.
    fn detached(&self) {}

    /// Fundamental or conventional reset: every register as at power-on.
    fn reset(&self);

    /// Version of what [`save`](Self::save) writes.
    fn state_version(&self) -> u16;

    /// The function's state, encoded. The machine is stopped.
    ///
    /// # Errors
    /// [`StateError::NotMigratable`] for a function whose state lives in hardware.
    fn save(&self) -> Result<Vec<u8>, StateError>;

    /// Takes over a saved state. The machine is stopped and the function is in its slot; the bus re-reads
    /// [`decode`](Self::decode) afterwards and places the regions.
    ///
    /// # Errors
    /// The payload is hostile input: anything that does not fit is refused with a reason.
    fn restore(&self, version: u16, state: &[u8]) -> Result<(), StateError>;
}
