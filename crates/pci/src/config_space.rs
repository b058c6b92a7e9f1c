//! A function's configuration space: registers, and which of their bits a guest can change.

use crate::config_layout::{Bar, HeaderKind};
use crate::device::{BAR_COUNT, BarKind, BarRegion, Decode, ROM_BAR};
use crate::regs;

/// Bytes of a PCI Express function's configuration space.
pub const CONFIG_SPACE_BYTES: usize = 4096;

pub(crate) type Registers = Box<[u8; CONFIG_SPACE_BYTES]>;

/// A saved configuration space does not belong to a function laid out like this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ConfigMismatch {
    /// A read-only register differs.
    #[error(
        "configuration register {offset:#x} is {here:#04x} here and {saved:#04x} in the saved state: the device is configured differently"
    )]
    ReadOnly {
        /// Byte offset.
        offset: u16,
        /// The saved byte.
        saved: u8,
        /// This function's byte.
        here: u8,
    },
    /// More bytes than a configuration space has.
    #[error("the saved configuration space has {0} bytes, at most 4096 are possible")]
    TooLong(usize),
}

/// 4096 bytes of registers with, for each bit, who may change it.
///
/// Built by [`ConfigLayout`](crate::ConfigLayout). A device owns one behind its lock, gives guest accesses to
/// [`read`](Self::read) and [`write`](Self::write), and uses the `get_`/`set_` methods for what it changes
/// itself, which no mask restrains.
#[derive(Debug, Clone)]
pub struct ConfigSpace {
    pub(crate) registers: Registers,
    /// Values at power-on.
    pub(crate) initial: Registers,
    /// Bits a guest's write sets.
    pub(crate) writable: Registers,
    /// Bits a guest clears by writing 1.
    pub(crate) clearable: Registers,
    /// Bits the device changes at run time though a guest cannot.
    pub(crate) device_owned: Registers,
    pub(crate) header: HeaderKind,
    pub(crate) bars: [Option<Bar>; BAR_COUNT],
}

impl ConfigSpace {
    /// A guest's read, little-endian, of any length. Bytes past the end read as all ones.
    pub fn read(&self, offset: u16, data: &mut [u8]) {
        for (index, byte) in (usize::from(offset)..).zip(data) {
            *byte = self.registers.get(index).copied().unwrap_or(0xff);
        }
    }

    /// A guest's write, little-endian, of any length. Read-only bits and bytes past the end are unchanged.
    pub fn write(&mut self, offset: u16, data: &[u8]) {
        for (index, &value) in (usize::from(offset)..).zip(data) {
            let (Some(register), Some(&writable), Some(&clearable)) = (
                self.registers.get_mut(index),
                self.writable.get(index),
                self.clearable.get(index),
            ) else {
                return;
            };
            *register = (*register & !writable | value & writable) & !(value & clearable);
        }
    }

    fn bytes<const N: usize>(&self, offset: u16) -> [u8; N] {
        let mut bytes = [0xff; N];
        self.read(offset, &mut bytes);
        bytes
    }

    fn set_bytes(&mut self, offset: u16, bytes: &[u8]) {
        for (index, &byte) in (usize::from(offset)..).zip(bytes) {
            if let Some(register) = self.registers.get_mut(index) {
                *register = byte;
            }
        }
    }

    /// The register's 8 bits.
    pub fn get_u8(&self, offset: u16) -> u8 {
        u8::from_le_bytes(self.bytes(offset))
    }

    /// The register's 16 bits.
    pub fn get_u16(&self, offset: u16) -> u16 {
        u16::from_le_bytes(self.bytes(offset))
    }

    /// The register's 32 bits.
    pub fn get_u32(&self, offset: u16) -> u32 {
        u32::from_le_bytes(self.bytes(offset))
    }

    /// The device itself sets 8 bits, whatever the masks say.
    pub fn set_u8(&mut self, offset: u16, value: u8) {
        self.set_bytes(offset, &value.to_le_bytes());
    }

    /// The device itself sets 16 bits, whatever the masks say.
    pub fn set_u16(&mut self, offset: u16, value: u16) {
        self.set_bytes(offset, &value.to_le_bytes());
    }

    /// The device itself sets 32 bits, whatever the masks say.
    pub fn set_u32(&mut self, offset: u16, value: u32) {
        self.set_bytes(offset, &value.to_le_bytes());
    }

    /// The device sets the bits of `set` and clears those of `clear` in a 16-bit register.
    pub fn change_u16(&mut self, offset: u16, clear: u16, set: u16) {
        let value = self.get_u16(offset) & !clear | set;
        self.set_u16(offset, value);
    }

    /// Type 0 or type 1.
    pub fn header(&self) -> HeaderKind {
        self.header
    }

    /// The kind, size and prefetchability of a base address register as laid out; its base is 0.
    pub fn bar(&self, index: usize) -> Option<BarRegion> {
        let bar = (*self.bars.get(index)?)?;
        Some(BarRegion {
            kind: bar.kind,
            base: 0,
            size: bar.size,
            prefetchable: bar.prefetchable,
        })
    }

    /// Every register as at power-on.
    pub fn reset(&mut self) {
        *self.registers = *self.initial;
    }

    /// What the command register and the base address registers claim now.
    pub fn decode(&self) -> Decode {
        let command = self.get_u16(regs::COMMAND);
        let mut decode = Decode {
            io_enabled: command & regs::COMMAND_IO != 0,
            memory_enabled: command & regs::COMMAND_MEMORY != 0,
            bus_master: command & regs::COMMAND_BUS_MASTER != 0,
            bars: [None; BAR_COUNT],
        };
        for (index, (region, bar)) in decode.bars.iter_mut().zip(&self.bars).enumerate() {
            let Some(bar) = bar else { continue };
            let low = self.get_u32(bar.register);
            if index == ROM_BAR && low & 1 == 0 {
                continue;
            }
            let base = match bar.kind {
                BarKind::Memory64 => {
                    u64::from(low) | u64::from(self.get_u32(bar.register + 4)) << 32
                }
                BarKind::Io | BarKind::Memory32 => u64::from(low),
            };
            *region = Some(BarRegion {
                kind: bar.kind,
                // The flag bits below the size are no address.
                base: base & !(bar.size - 1),
                size: bar.size,
                prefetchable: bar.prefetchable,
            });
        }
        decode
    }

    /// The offset of the first capability of this id, following the chain as a guest does.
    pub fn find_capability(&self, id: u8) -> Option<u16> {
        if self.get_u16(regs::STATUS) & regs::STATUS_CAPABILITIES == 0 {
            return None;
        }
        let mut at = self.get_u8(regs::CAPABILITIES) & !3;
        // 48 double words fit behind the header; a longer chain is a circle.
        for _ in 0..48 {
            if at < 0x40 {
                return None;
            }
            if self.get_u8(u16::from(at)) == id {
                return Some(u16::from(at));
            }
            at = self.get_u8(u16::from(at) + 1) & !3;
        }
        None
    }

    /// The registers for a saved state: 4096 bytes without the zeros at the end.
    pub fn save(&self) -> Vec<u8> {
        let end = self.registers.iter().rposition(|byte| *byte != 0);
        self.registers
            .iter()
            .take(end.map_or(0, |last| last + 1))
            .copied()
            .collect()
    }

    /// Takes over the bits of `saved` that a guest or the device may have changed.
    ///
    /// # Errors
    /// A bit nobody changes at run time differs: the saved function was laid out differently. Nothing was
    /// changed then.
    pub fn restore(&mut self, saved: &[u8]) -> Result<(), ConfigMismatch> {
        if saved.len() > CONFIG_SPACE_BYTES {
            return Err(ConfigMismatch::TooLong(saved.len()));
        }
        let mut registers = self.registers.clone();
        let masks = self
            .writable
            .iter()
            .zip(self.clearable.iter())
            .zip(self.device_owned.iter())
            .map(|((w, c), d)| w | c | d);
        let saved = saved.iter().copied().chain(std::iter::repeat(0));
        for (offset, ((here, mask), saved)) in
            (0u16..).zip(registers.iter_mut().zip(masks).zip(saved))
        {
            if (*here ^ saved) & !mask != 0 {
                return Err(ConfigMismatch::ReadOnly {
                    offset,
                    saved,
                    here: *here,
                });
            }
            *here = *here & !mask | saved & mask;
        }
        self.registers = registers;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config_layout::{ConfigLayout, Identity};

    fn nic() -> ConfigSpace {
        let mut layout = ConfigLayout::endpoint(Identity {
            vendor: 0x1af4,
            device: 0x1041,
            class: 0x02_00_00,
            revision: 1,
            subsystem_vendor: 0x1af4,
            subsystem: 0x1100,
        });
        layout.bar(0, BarKind::Io, 0x20, false).unwrap();
        layout.bar(1, BarKind::Memory32, 0x1000, false).unwrap();
        layout.bar(4, BarKind::Memory64, 0x4000, true).unwrap();
        layout.rom(0x1_0000).unwrap();
        layout.interrupt_pin(1);
        layout
            .capability(regs::CAP_VENDOR, &[8, 0, 1, 2, 3, 4], &[0, 0, 0xff])
            .unwrap();
        layout.build()
    }

    fn write32(space: &mut ConfigSpace, offset: u16, value: u32) {
        space.write(offset, &value.to_le_bytes());
    }

    #[test]
    fn sizing_tells_size_and_kind() {
        let mut space = nic();
        for offset in [0x10, 0x14, 0x18, 0x20, 0x24, 0x30] {
            write32(&mut space, offset, 0xffff_ffff);
        }
        assert_eq!(space.get_u32(0x10), 0xffff_ffe1);
        assert_eq!(space.get_u32(0x14), 0xffff_f000);
        assert_eq!(space.get_u32(0x18), 0);
        assert_eq!(space.get_u32(0x20), 0xffff_c00c);
        assert_eq!(space.get_u32(0x24), 0xffff_ffff);
        assert_eq!(space.get_u32(0x30), 0xffff_0001);
    }

    #[test]
    fn decode_follows_the_registers() {
        let mut space = nic();
        write32(&mut space, 0x10, 0xc041);
        write32(&mut space, 0x20, 0x4000_0000);
        write32(&mut space, 0x24, 0x38);
        assert_eq!(
            space.decode().bars[ROM_BAR],
            None,
            "a ROM that is off claims nothing"
        );
        write32(&mut space, 0x30, 0xfeb0_0001);
        space.write(0x04, &[7, 0]);
        let decode = space.decode();
        assert!(decode.io_enabled && decode.memory_enabled && decode.bus_master);
        assert_eq!(decode.bars[0].unwrap().base, 0xc040);
        assert_eq!(decode.bars[4].unwrap().base, 0x38_4000_0000);
        assert_eq!(
            decode.bars[5], None,
            "the upper half is no region of its own"
        );
        assert_eq!(decode.bars[ROM_BAR].unwrap().base, 0xfeb0_0000);
        space.reset();
        assert!(!space.decode().memory_enabled);
        assert_eq!(space.decode().bars[4].unwrap().base, 0);
    }

    #[test]
    fn status_bits_clear_by_writing_one() {
        let mut space = nic();
        space.change_u16(regs::STATUS, 0, 0x8000);
        space.write(regs::STATUS, &[0xff, 0x00]);
        assert_eq!(
            space.get_u16(regs::STATUS),
            0x8000 | regs::STATUS_CAPABILITIES
        );
        space.write(regs::STATUS + 1, &[0x80]);
        assert_eq!(space.get_u16(regs::STATUS), regs::STATUS_CAPABILITIES);
    }

    #[test]
    fn accesses_past_the_end_are_ignored() {
        let mut space = nic();
        space.write(4095, &[1, 2, 3, 4]);
        let mut data = [0; 4];
        space.read(4095, &mut data);
        assert_eq!(data, [0, 0xff, 0xff, 0xff]);
        space.read(u16::MAX, &mut data);
        assert_eq!(data, [0xff; 4]);
    }

    #[test]
    fn capabilities_are_found_and_masked() {
        let mut space = nic();
        let at = space.find_capability(regs::CAP_VENDOR).unwrap();
        assert_eq!(space.find_capability(regs::CAP_MSIX), None);
        write32(&mut space, at, 0xffff_ffff);
        write32(&mut space, at + 4, 0xffff_ffff);
        assert_eq!(space.get_u32(at) >> 16, 0x0008);
        assert_eq!(space.get_u32(at + 4), 0x0403_02ff);
    }

    #[test]
    fn restore_takes_writable_bits_and_refuses_another_layout() {
        let mut space = nic();
        write32(&mut space, 0x14, 0xfebd_1000);
        space.write(0x3c, &[11]);
        let saved = space.save();
        let mut other = nic();
        other.restore(&saved).unwrap();
        assert_eq!(other.decode(), space.decode());
        assert_eq!(other.get_u8(0x3c), 11);

        let mut foreign = saved.clone();
        foreign[2] = 0x42;
        let before = other.clone();
        assert_eq!(
            other.restore(&foreign),
            Err(ConfigMismatch::ReadOnly {
                offset: 2,
                saved: 0x42,
                here: 0x41
            })
        );
        assert_eq!(other.registers, before.registers);
        assert_eq!(
            other.restore(&[0; 4097]),
            Err(ConfigMismatch::TooLong(4097))
        );
        assert!(other.restore(&[]).is_err());
    }
}
