//! The two ways from the address spaces to configuration space: the memory-mapped one and I/O ports 0xcf8 to
//! 0xcff.

use crate::address::Bdf;
use crate::config_space::CONFIG_SPACE_BYTES;
use crate::root_complex::RootComplex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// Bytes of the memory-mapped window for one bus.
pub const ECAM_BUS_BYTES: u64 = 1 << 20;

/// The enhanced configuration access mechanism (PCI Express Base 6.0, 7.2.2): 4 KiB of memory a function.
pub struct Ecam {
    root: Arc<RootComplex>,
    buses: u16,
}

impl Ecam {
    /// For buses 0 to `buses`-1; more than 256 are taken as 256.
    pub fn new(root: Arc<RootComplex>, buses: u16) -> Self {
        Self {
            root,
            buses: buses.min(256),
        }
    }

    /// Bytes of the window.
    pub fn size_bytes(&self) -> u64 {
        u64::from(self.buses) * ECAM_BUS_BYTES
    }

    /// The function and register at an offset of the window, if `len` bytes from there are one function's.
    fn target(&self, offset: u64, len: usize) -> Option<(Bdf, u16)> {
        let bus = u8::try_from(offset / ECAM_BUS_BYTES)
            .ok()
            .filter(|bus| u16::from(*bus) < self.buses)?;
        let [devfn, ..] = (offset >> 12).to_le_bytes();
        let register = u16::try_from(offset & 0xfff).ok()?;
        (usize::from(register) + len <= CONFIG_SPACE_BYTES).then_some((
            Bdf::from_requester_id(u16::from_be_bytes([bus, devfn])),
            register,
        ))
    }

    /// A guest's read at an offset of the window; all ones where no function is.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        match self.target(offset, data.len()) {
            Some((bdf, register)) => self.root.config_read(bdf, register, data),
            None => data.fill(0xff),
        }
    }

    /// A guest's write at an offset of the window.
    pub fn write(&self, offset: u64, data: &[u8]) {
        if let Some((bdf, register)) = self.target(offset, data.len()) {
            self.root.config_write(bdf, register, data);
        }
    }
}

/// First of the eight I/O ports of [`ConfigPorts`].
pub const CONFIG_PORTS_BASE: u16 = 0xcf8;

const DATA: u16 = CONFIG_PORTS_BASE + 4;
const ENABLE: u32 = 1 << 31;

/// Configuration mechanism 1 (PCI Local Bus 3.0, 3.2.2.3.2): the address at port 0xcf8, the data at 0xcfc.
pub struct ConfigPorts {
    root: Arc<RootComplex>,
    address: AtomicU32,
}

impl ConfigPorts {
    /// The latch holds 0.
    pub fn new(root: Arc<RootComplex>) -> Self {
        Self {
            root,
            address: AtomicU32::new(0),
        }
    }

    /// The latched address, for a saved state.
    pub fn address(&self) -> u32 {
        self.address.load(Ordering::Relaxed)
    }

    /// Latches an address, as of a saved state or 0 at a reset.
    pub fn set_address(&self, address: u32) {
        // Bits 24 to 30 are reserved; the lowest two may say which byte is meant.
        self.address.store(address & 0x80ff_ffff, Ordering::Relaxed);
    }

    fn target(&self, port: u16) -> Option<(Bdf, u16)> {
        let address = self.address();
        let [register, devfn, bus, _] = address.to_le_bytes();
        // An access that is not aligned is one of the bytes from there, as QEMU has it.
        let first = u16::from(register) | port & 3;
        (address & ENABLE != 0).then_some((
            Bdf::from_requester_id(u16::from_be_bytes([bus, devfn])),
            first,
        ))
    }

    /// A guest's read of ports 0xcf8 to 0xcff; false for other ports, `data` untouched then.
    pub fn read(&self, port: u16, data: &mut [u8]) -> bool {
        match port {
            CONFIG_PORTS_BASE..DATA => {
                let bytes = self.address().to_le_bytes();
                let from = bytes
                    .into_iter()
                    .skip(usize::from(port - CONFIG_PORTS_BASE));
                for (byte, latched) in data.iter_mut().zip(from.chain(std::iter::repeat(0xff))) {
                    *byte = latched;
                }
                true
            }
            DATA..=0xcff => {
                data.fill(0xff);
                if let Some((bdf, register)) = self.target(port) {
                    let data = data.get_mut(..within(port, data.len())).unwrap_or_default();
                    self.root.config_read(bdf, register, data);
                }
                true
            }
            _ => false,
        }
    }

    /// A guest's write to ports 0xcf8 to 0xcff; false where the write is not this mechanism's: other ports, and
    /// narrow ones at 0xcf8 to 0xcfb, among which is the reset control register 0xcf9.
    pub fn write(&self, port: u16, data: &[u8]) -> bool {
        match (port, data) {
            (CONFIG_PORTS_BASE, &[a, b, c, d]) => {
                self.set_address(u32::from_le_bytes([a, b, c, d]));
                true
            }
            (DATA..=0xcff, data) => {
                if let Some((bdf, register)) = self.target(port) {
                    let data = data.get(..within(port, data.len())).unwrap_or_default();
                    self.root.config_write(bdf, register, data);
                }
                true
            }
            _ => false,
        }
    }
}

/// Bytes of an access of `len` at `port` that the data port has; the others are no port's.
fn within(port: u16, len: usize) -> usize {
    len.min(usize::from((DATA + 4).saturating_sub(port)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{FakeFunction, complex, function};

    fn root() -> Arc<RootComplex> {
        let root = complex();
        root.insert(
            "pcie.0",
            3 << 3,
            function("nic", FakeFunction::new("nic", &[])),
        )
        .unwrap();
        root
    }

    #[test]
    fn ecam_finds_functions_and_all_ones_elsewhere() {
        let ecam = Ecam::new(root(), 16);
        let mut word = [0; 4];
        ecam.read(3 << 15, &mut word);
        assert_eq!(u32::from_le_bytes(word), 0x1041_1af4);
        let mut wide = [0; 8];
        ecam.read(3 << 15, &mut wide);
        assert_eq!(wide[..6], [0xf4, 0x1a, 0x41, 0x10, 0, 0]);
        for offset in [4 << 15, 1 << 20, 16 << 20, u64::MAX, (3 << 15) + 4094] {
            word = [0; 4];
            ecam.read(offset, &mut word);
            assert_eq!(word, [0xff; 4], "{offset:#x}");
            ecam.write(offset, &word);
        }
        ecam.write((3 << 15) + 0x3c, &[7]);
        ecam.read((3 << 15) + 0x3c, &mut word);
        assert_eq!(word[0], 7);
    }

    #[test]
    fn the_low_bits_may_be_in_either_port() {
        let ports = ConfigPorts::new(root());
        let select = |register: u32| {
            assert!(ports.write(0xcf8, &(ENABLE | 3 << 11 | register).to_le_bytes()));
        };
        let mut half = [0; 2];
        select(0);
        ports.read(0xcfe, &mut half);
        assert_eq!(u16::from_le_bytes(half), 0x1041);
        select(2);
        ports.read(0xcfc, &mut half);
        assert_eq!(u16::from_le_bytes(half), 0x1041);
        let mut word = [0; 4];
        ports.read(0xcfc, &mut word);
        assert_eq!(u32::from_le_bytes(word), 0x1041);
        ports.read(0xcfe, &mut word);
        assert_eq!(word, [0x41, 0x10, 0xff, 0xff]);
        ports.read(0xcf8, &mut word);
        assert_eq!(u32::from_le_bytes(word), ENABLE | 3 << 11 | 2);
        let mut byte = [0];
        select(0x3c);
        ports.write(0xcfc, &[9]);
        ports.read(0xcfc, &mut byte);
        assert_eq!(byte, [9]);
    }

    #[test]
    fn nothing_answers_while_disabled_or_absent() {
        let ports = ConfigPorts::new(root());
        let mut word = [0; 4];
        assert!(ports.read(0xcfc, &mut word));
        assert_eq!(word, [0xff; 4]);
        assert!(!ports.write(0xcf9, &[6]), "reset control is the machine's");
        assert!(!ports.write(0xd00, &[6]));
        assert!(!ports.read(0xcf7, &mut word));
        ports.write(0xcf8, &(ENABLE | 9 << 11).to_le_bytes());
        ports.read(0xcfc, &mut word);
        assert_eq!(word, [0xff; 4]);
    }
}
