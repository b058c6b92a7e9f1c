//! The MSI-X table a guest writes (PCI Express Base 6.0, 7.7.2). The hardware's own is the kernel's.

use crate::config_space::MsixLayout;
use pci::MsiMessage;
use std::ops::Range;

/// Bytes of an entry.
pub(crate) const ENTRY_BYTES: u64 = 16;

const MASKED: u8 = 1;
const CONTROL: usize = 12;

/// The table's registers; all entries are masked at power-on.
#[derive(Debug, Clone)]
pub(crate) struct MsixTable {
    registers: Vec<u8>,
}

impl MsixTable {
    pub(crate) fn new(layout: &MsixLayout) -> Self {
        let mut table = Self {
            registers: vec![0; usize::from(layout.entries) * 16],
        };
        table.reset();
        table
    }

    pub(crate) fn reset(&mut self) {
        self.registers.fill(0);
        for control in self.registers.iter_mut().skip(CONTROL).step_by(16) {
            *control = MASKED;
        }
    }

    /// The number of entries.
    pub(crate) fn len(&self) -> usize {
        self.registers.len() / 16
    }

    /// A guest's read at an offset from the table's beginning; what is behind the table reads as zero.
    pub(crate) fn read(&self, offset: u64, data: &mut [u8]) {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        for (index, byte) in data.iter_mut().enumerate() {
            let at = start.saturating_add(index);
            *byte = self.registers.get(at).copied().unwrap_or(0);
        }
    }

    /// A guest's write at an offset from the table's beginning. Answers with the entries that changed.
    pub(crate) fn write(&mut self, offset: u64, data: &[u8]) -> Range<usize> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        for (index, value) in data.iter().enumerate() {
            let at = start.saturating_add(index);
            let writable = match at % 16 {
                0 => 0xfc,
                1..CONTROL => 0xff,
                CONTROL => MASKED,
                _ => 0,
            };
            if let Some(register) = self.registers.get_mut(at) {
                *register = value & writable;
            }
        }
        let end = start.saturating_add(data.len()).min(self.registers.len());
        start.min(end) / 16..end.div_ceil(16)
    }

    /// What the entry sends; nothing while it is masked, or if there is no such entry.
    pub(crate) fn message(&self, index: usize) -> Option<MsiMessage> {
        let start = index.checked_mul(16)?;
        let entry = self.registers.get(start..start.checked_add(16)?)?;
        let (address, rest) = entry.split_first_chunk()?;
        let (data, control) = rest.split_first_chunk()?;
        if control.first()? & MASKED != 0 {
            return None;
        }
        Some(MsiMessage {
            address: u64::from_le_bytes(*address),
            data: u32::from_le_bytes(*data),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> MsixTable {
        MsixTable::new(&MsixLayout {
            offset: 0x70,
            entries: 3,
            table_bar: 3,
            table_offset: 0,
            pba_bar: 3,
            pba_offset: 0x2000,
        })
    }

    #[test]
    fn an_entry_sends_once_it_is_unmasked() {
        let mut table = table();
        assert_eq!(table.write(16, &0xfee0_1003u64.to_le_bytes()), 1..2);
        assert_eq!(table.write(24, &0x4041u32.to_le_bytes()), 1..2);
        assert_eq!(table.message(1), None);
        assert_eq!(table.write(28, &0xffff_fffeu32.to_le_bytes()), 1..2);
        let message = MsiMessage {
            address: 0xfee0_1000,
            data: 0x4041,
        };
        assert_eq!(table.message(1), Some(message));
        let mut control = [0xff; 4];
        table.read(28, &mut control);
        assert_eq!(control, [0; 4]);
        assert_eq!(table.message(0), None);
        table.reset();
        assert_eq!(table.message(1), None);
    }

    #[test]
    fn accesses_across_and_behind_its_end_do_no_harm() {
        let mut table = table();
        assert_eq!(table.write(12, &[0; 8]), 0..2);
        assert_eq!(table.write(44, &[0; 8]), 2..3);
        assert!(table.write(48, &[0xff; 4]).is_empty());
        assert!(table.write(u64::MAX, &[0xff; 8]).is_empty());
        let mut data = [0xff; 8];
        table.read(u64::MAX, &mut data);
        assert_eq!(data, [0; 8]);
        assert_eq!(table.message(usize::MAX), None);
    }
}
