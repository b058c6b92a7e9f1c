//! The firmware's configuration interface (QEMU's fw_cfg, by ports): what a firmware asks about the machine before it
//! has looked around. A selector at 0x510, a byte stream at 0x511.
//!
//! Files and the DMA interface are not there: a directly booted kernel needs neither.

use super::{PortDevice, value};
use minicbor::{Decode, Encode};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Selector, 16 bits wide; the data port follows.
pub const FW_CFG_PORT: u16 = 0x510;
/// Ports in the block.
pub const FW_CFG_PORTS: u16 = 2;

const SIGNATURE: u16 = 0x00;
const ID: u16 = 0x01;
const UUID: u16 = 0x02;
const RAM_SIZE: u16 = 0x03;
const NO_GRAPHICS: u16 = 0x04;
const NB_CPUS: u16 = 0x05;
const MAX_CPUS: u16 = 0x0f;
const FILE_DIR: u16 = 0x19;

/// The traditional interface, by ports.
const ID_TRADITIONAL: u32 = 1;
/// Selects an item to be written, which none can be.
const WRITE_CHANNEL: u16 = 1 << 14;
/// What a selector that names nothing is kept as.
const INVALID: u16 = 0xffff;

/// Which item is read, and how far; also the saved form.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Encode, Decode)]
pub struct FwCfgState {
    #[n(0)]
    selector: u16,
    #[n(1)]
    offset: u32,
}

/// What the machine tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FwCfgFacts {
    /// All of guest RAM.
    pub ram_bytes: u64,
    /// Processors.
    pub cpus: u16,
    /// `-nographic` was given.
    pub no_graphics: bool,
    /// The machine's UUID, or zero.
    pub uuid: [u8; 16],
}

/// The interface.
pub struct FwCfg {
    items: BTreeMap<u16, Vec<u8>>,
    state: Mutex<FwCfgState>,
}

impl FwCfg {
    /// Tells `facts`.
    pub fn new(facts: &FwCfgFacts) -> Self {
        let items = [
            (SIGNATURE, b"QEMU".to_vec()),
            (ID, ID_TRADITIONAL.to_le_bytes().to_vec()),
            (UUID, facts.uuid.to_vec()),
            (RAM_SIZE, facts.ram_bytes.to_le_bytes().to_vec()),
            (
                NO_GRAPHICS,
                u16::from(facts.no_graphics).to_le_bytes().to_vec(),
            ),
            (NB_CPUS, facts.cpus.to_le_bytes().to_vec()),
            (MAX_CPUS, facts.cpus.to_le_bytes().to_vec()),
            // The number of files, big-endian.
            (FILE_DIR, 0_u32.to_be_bytes().to_vec()),
        ];
        Self {
            items: items.into(),
            state: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, FwCfgState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Power-on state: the signature is selected.
    pub fn reset(&self) {
        *self.state() = FwCfgState::default();
    }

    /// Where the reader is.
    pub fn save(&self) -> FwCfgState {
        *self.state()
    }

    /// Takes over where a reader was.
    pub fn restore(&self, saved: FwCfgState) {
        *self.state() = saved;
    }
}

impl PortDevice for FwCfg {
    fn read(&self, _: u16, data: &mut [u8]) {
        // Bytes only, at either port.
        let [byte] = data else {
            data.fill(0);
            return;
        };
        let mut state = self.state();
        let item = self.items.get(&state.selector);
        *byte = item
            .and_then(|item| item.get(state.offset as usize))
            .copied()
            .unwrap_or(0);
        if item.is_some_and(|item| (state.offset as usize) < item.len()) {
            state.offset += 1;
        }
    }

    fn write(&self, offset: u16, data: &[u8]) {
        // Only a word at the first port selects; data cannot be written.
        if offset != 0 || data.len() != 2 {
            return;
        }
        let selector = u16::try_from(value(data)).unwrap_or(INVALID) & !WRITE_CHANNEL;
        let selector = if self.items.contains_key(&selector) {
            selector
        } else {
            INVALID
        };
        *self.state() = FwCfgState {
            selector,
            offset: 0,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(fw_cfg: &FwCfg, count: usize) -> Vec<u8> {
        let byte = || {
            let mut byte = [0xff];
            fw_cfg.read(1, &mut byte);
            byte[0]
        };
        (0..count).map(|_| byte()).collect()
    }

    fn fw_cfg() -> FwCfg {
        FwCfg::new(&FwCfgFacts {
            ram_bytes: 0x1_2345_6000,
            cpus: 3,
            no_graphics: false,
            uuid: [7; 16],
        })
    }

    #[test]
    fn items_are_read_byte_by_byte_and_end_in_zeroes() {
        let fw_cfg = fw_cfg();
        assert_eq!(read(&fw_cfg, 6), b"QEMU\0\0");
        fw_cfg.write(0, &[3, 0]);
        assert_eq!(read(&fw_cfg, 8), 0x1_2345_6000_u64.to_le_bytes());
        fw_cfg.write(0, &[5, 0]);
        assert_eq!(read(&fw_cfg, 3), [3, 0, 0]);
        fw_cfg.write(0, &[0x34, 0x12]);
        assert_eq!(read(&fw_cfg, 2), [0, 0]);
        fw_cfg.write(0, &[0, 0x40]);
        assert_eq!(read(&fw_cfg, 1), b"Q");
    }

    #[test]
    fn other_widths_do_nothing() {
        let fw_cfg = fw_cfg();
        fw_cfg.write(0, &[3]);
        fw_cfg.write(1, &[3]);
        fw_cfg.write(0, &[3, 0, 0, 0]);
        let mut word = [0xff; 2];
        fw_cfg.read(0, &mut word);
        assert_eq!(word, [0; 2]);
        assert_eq!(read(&fw_cfg, 1), b"Q");
    }

    #[test]
    fn the_place_of_the_reader_survives_a_save() {
        let (one, two) = (fw_cfg(), fw_cfg());
        one.write(0, &[3, 0]);
        read(&one, 1);
        let bytes = minicbor::to_vec(one.save()).unwrap();
        two.restore(minicbor::decode(&bytes).unwrap());
        assert_eq!(read(&two, 1), [0x60]);
        let far = FwCfgState {
            selector: 3,
            offset: u32::MAX,
        };
        two.restore(far);
        assert_eq!(read(&two, 1), [0]);
        two.reset();
        assert_eq!(read(&two, 1), b"Q");
    }
}
