//! A passed-through function's configuration space as the guest sees it.
//!
//! Each bit is answered either by the hardware (through the kernel's VFIO, which virtualises some of it itself) or by
//! us. Ours are: the command register, the base address registers, the interrupt line, MSI and MSI-X, the power
//! state, the lists of capabilities, and whatever a guest shall not see. The rest is read from and written to the
//! hardware. The command register is both: the guest reads what it wrote, because a virtual function has no memory
//! enable of its own (PCI Express Base 6.0, 9.3.4.1.3), and the hardware gets it too.

use crate::capabilities::{self, EXTENDED_START, Entry, dword, hidden_size, id, word};
use pci::{BAR_COUNT, BarKind, BarRegion, Decode, regs};
use std::collections::VecDeque;

/// Bytes of a configuration space.
pub(crate) const SPACE_BYTES: usize = 4096;

/// Bits of the command register a guest can change.
const COMMAND_WRITABLE: u16 = regs::COMMAND_IO
    | regs::COMMAND_MEMORY
    | regs::COMMAND_BUS_MASTER
    | COMMAND_PARITY
    | COMMAND_SYSTEM_ERROR
    | regs::COMMAND_INTX_DISABLE;
const COMMAND_PARITY: u16 = 1 << 6;
const COMMAND_SYSTEM_ERROR: u16 = 1 << 8;

const EXPRESS_TYPE_MASK: u16 = 0x00f0;
const EXPRESS_TYPE_ENDPOINT: u16 = 0x0000;
const EXPRESS_TYPE_LEGACY_ENDPOINT: u16 = 0x0010;
const EXPRESS_TYPE_INTEGRATED: u16 = 0x0090;
const EXPRESS_SLOT_IMPLEMENTED: u16 = 1 << 8;
/// 2.5 GT/s, one lane, as link capabilities and link status both encode it.
const LINK_SLOWEST: u16 = 0x0011;

const POWER_STATE: u16 = 0x0003;
const POWER_NO_SOFT_RESET: u16 = 1 << 3;

const MSIX_ENABLE: u16 = 1 << 15;
const MSIX_FUNCTION_MASK: u16 = 1 << 14;
const MSI_ENABLE: u16 = 1;
const MSI_64_BIT: u16 = 1 << 7;
const MSI_MASKABLE: u16 = 1 << 8;

/// Where the MSI capability is and what it can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MsiLayout {
    pub(crate) offset: usize,
    pub(crate) wide: bool,
    pub(crate) maskable: bool,
    /// 1, 2, 4, 8, 16 or 32.
    pub(crate) vectors: u16,
}

impl MsiLayout {
    fn data(&self) -> usize {
        self.offset + if self.wide { 12 } else { 8 }
    }

    /// Where the mask bits are; the pending bits follow.
    pub(crate) fn mask(&self) -> Option<usize> {
        self.maskable.then(|| self.data() + 4)
    }

    fn end(&self) -> usize {
        self.mask().map_or(self.data() + 2, |mask| mask + 8)
    }
}

/// Where the MSI-X capability is and where its table and pending bits are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MsixLayout {
    pub(crate) offset: usize,
    /// 1..=2048.
    pub(crate) entries: u16,
    pub(crate) table_bar: usize,
    pub(crate) table_offset: u64,
    pub(crate) pba_bar: usize,
    pub(crate) pba_offset: u64,
}

/// What the guest has set MSI to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct MsiState {
    /// Vectors in use; 0 while it is off.
    pub(crate) enabled: u16,
    pub(crate) address: u64,
    pub(crate) data: u16,
    pub(crate) masked: u32,
}

/// What the guest has set MSI-X's control register to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct MsixState {
    pub(crate) enabled: bool,
    pub(crate) masked: bool,
}

#[derive(Debug, Clone, Copy)]
struct Bar {
    kind: BarKind,
    size: u64,
    prefetchable: bool,
}

/// The bits that are ours, with their present and their power-on values.
#[derive(Debug, Clone)]
pub(crate) struct ConfigSpace {
    ours: Box<[u8; SPACE_BYTES]>,
    initial: Box<[u8; SPACE_BYTES]>,
    /// 1 where the guest is answered from `ours`.
    emulated: Box<[u8; SPACE_BYTES]>,
    /// Bits of `ours` the guest can change.
    writable: Box<[u8; SPACE_BYTES]>,
    /// Bytes whose writes the hardware gets.
    forwarded: Box<[bool; SPACE_BYTES]>,
    bars: [Option<Bar>; 6],
    msi: Option<MsiLayout>,
    msix: Option<MsixLayout>,
    express: Option<usize>,
    advanced_features: Option<usize>,
}

/// A write for the hardware: offset and bytes.
pub(crate) type HardwareWrite = (u16, Vec<u8>);

impl ConfigSpace {
    /// Lays out the guest's view over a picture of the hardware's space, 256 or 4096 bytes.
    ///
    /// `bar_sizes` are the sizes of the regions 0..6 in bytes, 0 where there is none; `pin` says whether the pin's
    /// interrupt can be had.
    ///
    /// # Errors
    /// A reason why such a function cannot be passed through.
    pub(crate) fn new(picture: &[u8], bar_sizes: &[u64; 6], pin: bool) -> Result<Self, String> {
        let mut ours = Box::new([0; SPACE_BYTES]);
        for (to, from) in ours.iter_mut().zip(picture) {
            *to = *from;
        }
        let mut space = Self {
            initial: ours.clone(),
            ours,
            emulated: Box::new([0; SPACE_BYTES]),
            writable: Box::new([0; SPACE_BYTES]),
            forwarded: Box::new([true; SPACE_BYTES]),
            bars: [None; 6],
            msi: None,
            msix: None,
            express: None,
            advanced_features: None,
        };
        space.lay_out_header(pin)?;
        space.lay_out_bars(bar_sizes)?;
        let list = capabilities::conventional(picture);
        for entry in list.iter().filter(|entry| entry.shown) {
            space.lay_out_capability(entry)?;
        }
        space.chain(&list);
        space.chain_extended(&capabilities::extended(picture));
        // What the hardware does not have reads as zero and is not written to.
        if let Some(rest) = u16::try_from(picture.len())
            .ok()
            .filter(|rest| *rest < 4096)
        {
            space.own(rest.into(), SPACE_BYTES - usize::from(rest), 0);
            space.initial[rest.into()..].fill(0);
        }
        space.reset();
        Ok(space)
    }

    /// From now on these bytes are ours; bits of `writable` the guest can change, byte by byte the same.
    fn own(&mut self, offset: usize, length: usize, writable: u8) {
        for at in offset..offset.saturating_add(length).min(SPACE_BYTES) {
            self.emulated[at] = 0xff;
            self.writable[at] = writable;
            self.forwarded[at] = false;
        }
    }

    /// A register of ours with its power-on value.
    fn own_u16(&mut self, offset: usize, value: u16, writable: u16) {
        self.own_bytes(offset, &value.to_le_bytes(), &writable.to_le_bytes());
    }

    fn own_u32(&mut self, offset: usize, value: u32, writable: u32) {
        self.own_bytes(offset, &value.to_le_bytes(), &writable.to_le_bytes());
    }

    fn own_bytes(&mut self, offset: usize, values: &[u8], writable: &[u8]) {
        for (at, (value, writable)) in (offset..SPACE_BYTES).zip(values.iter().zip(writable)) {
            self.own(at, 1, *writable);
            self.initial[at] = *value;
        }
    }

    fn initial_u16(&self, offset: usize) -> u16 {
        word(&self.initial[..], offset).unwrap_or(0)
    }

    fn lay_out_header(&mut self, pin: bool) -> Result<(), String> {
        let header = self.initial[usize::from(regs::HEADER_TYPE)] & !regs::HEADER_MULTIFUNCTION;
        if header != 0 {
            return Err("it is a bridge, not an endpoint".to_owned());
        }
        self.own_u16(regs::COMMAND.into(), 0, COMMAND_WRITABLE);
        self.forwarded[4..6].fill(true);
        self.own(regs::HEADER_TYPE.into(), 2, 0);
        self.initial[usize::from(regs::HEADER_TYPE)] = header;
        // No self test: it would let a guest stop the function's configuration space.
        self.initial[usize::from(regs::HEADER_TYPE) + 1] = 0;
        // Cardbus pointer and the expansion ROM are not shown.
        self.own_u32(0x28, 0, 0);
        self.own_u32(regs::ROM_TYPE0.into(), 0, 0);
        self.own_bytes(regs::INTERRUPT_LINE.into(), &[0], &[0xff]);
        let pin_register = usize::from(regs::INTERRUPT_PIN);
        let number = match self.initial[pin_register] {
            number @ 1..=4 if pin => number,
            _ => 0,
        };
        self.own_bytes(pin_register, &[number], &[0]);
        Ok(())
    }

    fn lay_out_bars(&mut self, sizes: &[u64; 6]) -> Result<(), String> {
        self.own(regs::BAR0.into(), 24, 0);
        let flags: Vec<u32> = (0..6)
            .map(|index| dword(&self.initial[..], 0x10 + index * 4).unwrap_or(0))
            .collect();
        self.initial[0x10..0x28].fill(0);
        let mut upper_half = false;
        for (index, (&size, &flags)) in sizes.iter().zip(&flags).enumerate() {
            if std::mem::take(&mut upper_half) || size == 0 {
                continue;
            }
            let register = 0x10 + index * 4;
            if !size.is_power_of_two() {
                return Err(format!(
                    "its region {index} has {size:#x} bytes, not a power of two"
                ));
            }
            let (kind, prefetchable) = if flags & 1 != 0 {
                (BarKind::Io, false)
            } else if flags & 6 == 4 {
                (BarKind::Memory64, flags & 8 != 0)
            } else {
                (BarKind::Memory32, flags & 8 != 0)
            };
            let (least, type_bits) = match kind {
                BarKind::Io => (4, flags & 1),
                BarKind::Memory32 | BarKind::Memory64 => (16, flags & 0xe),
            };
            let fits = match kind {
                BarKind::Memory64 => index < 5,
                BarKind::Io | BarKind::Memory32 => size <= 1 << 31,
            };
            if size < least || !fits {
                return Err(format!(
                    "its region {index} of {size:#x} bytes fits no base address register"
                ));
            }
            let mask = (!(size - 1)).to_le_bytes();
            let [a, b, c, d, upper @ ..] = mask;
            self.own_u32(register, type_bits, u32::from_le_bytes([a, b, c, d]));
            if kind == BarKind::Memory64 {
                self.own_bytes(register + 4, &[0; 4], &upper);
                upper_half = true;
            }
            if let Some(bar) = self.bars.get_mut(index) {
                *bar = Some(Bar {
                    kind,
                    size,
                    prefetchable,
                });
            }
        }
        Ok(())
    }

    fn lay_out_capability(&mut self, entry: &Entry) -> Result<(), String> {
        let Ok(kind) = u8::try_from(entry.id) else {
            return Ok(());
        };
        let at = entry.offset;
        let least = match kind {
            id::POWER => 8,
            id::EXPRESS => 0x14,
            id::ADVANCED_FEATURES => 6,
            _ => 2,
        };
        if at + least > entry.end {
            return Err(format!(
                "its capability of id {kind:#x} runs into the next one"
            ));
        }
        match kind {
            id::POWER => {
                // The function stays powered: in D3 the kernel would take its regions away. NoSoftRst tells the guest
                // that no reset hides in the way back to D0.
                self.own_u32(at + 4, POWER_NO_SOFT_RESET.into(), POWER_STATE.into());
                let abilities = self.initial_u16(at + 2);
                // No wake-up events: nobody would deliver them.
                self.own_u16(at + 2, abilities & 0x07ff, 0);
            }
            id::MSI => self.lay_out_msi(entry)?,
            id::MSIX => self.lay_out_msix(entry)?,
            id::EXPRESS => self.lay_out_express(entry)?,
            id::ADVANCED_FEATURES => self.advanced_features = Some(at),
            _ => {}
        }
        Ok(())
    }

    fn lay_out_msi(&mut self, entry: &Entry) -> Result<(), String> {
        let at = entry.offset;
        let control = self.initial_u16(at + 2);
        let layout = MsiLayout {
            offset: at,
            wide: control & MSI_64_BIT != 0,
            maskable: control & MSI_MASKABLE != 0,
            vectors: 1 << (control >> 1 & 7).min(5),
        };
        if layout.end() > entry.end {
            return Err("its MSI capability runs into the next one".to_owned());
        }
        self.own_u16(at + 2, control & !(MSI_ENABLE | 0x70), MSI_ENABLE | 0x70);
        self.own_u32(at + 4, 0, !3);
        if layout.wide {
            self.own_u32(at + 8, 0, u32::MAX);
        }
        self.own_u16(layout.data(), 0, u16::MAX);
        if let Some(mask) = layout.mask() {
            let bits = u32::MAX >> (32 - u32::from(layout.vectors));
            self.own_u32(mask, 0, bits);
            self.own_u32(mask + 4, 0, 0);
        }
        self.msi = Some(layout);
        Ok(())
    }

    fn lay_out_msix(&mut self, entry: &Entry) -> Result<(), String> {
        let at = entry.offset;
        if at + 12 > entry.end {
            return Err("its MSI-X capability runs into the next one".to_owned());
        }
        let control = self.initial_u16(at + 2) & !(MSIX_ENABLE | MSIX_FUNCTION_MASK);
        let place = |offset| {
            let value = dword(&self.initial[..], offset).unwrap_or(0);
            ((value & 7) as usize, u64::from(value & !7))
        };
        let (table_bar, table_offset) = place(at + 4);
        let (pba_bar, pba_offset) = place(at + 8);
        let layout = MsixLayout {
            offset: at,
            entries: (control & 0x7ff) + 1,
            table_bar,
            table_offset,
            pba_bar,
            pba_offset,
        };
        let size = |bar: usize| {
            self.bars
                .get(bar)
                .copied()
                .flatten()
                .map_or(0, |bar| bar.size)
        };
        let entries = u64::from(layout.entries);
        if table_offset + entries * 16 > size(table_bar)
            || pba_offset + entries.div_ceil(64) * 8 > size(pba_bar)
        {
            return Err("its MSI-X table is outside of its regions".to_owned());
        }
        self.own_u16(at + 2, control, MSIX_ENABLE | MSIX_FUNCTION_MASK);
        self.own(at + 4, 8, 0);
        self.msix = Some(layout);
        Ok(())
    }

    fn lay_out_express(&mut self, entry: &Entry) -> Result<(), String> {
        let at = entry.offset;
        let flags = self.initial_u16(at + 2);
        let kind = flags & EXPRESS_TYPE_MASK;
        match kind {
            EXPRESS_TYPE_ENDPOINT | EXPRESS_TYPE_LEGACY_ENDPOINT => {}
            EXPRESS_TYPE_INTEGRATED => {
                // Behind a root port it is an ordinary endpoint with a link, of which the hardware has no registers.
                self.own_u32(at + 0xc, LINK_SLOWEST.into(), 0);
                self.own_u16(at + 0x10, 0, 0);
                self.own_u16(at + 0x12, LINK_SLOWEST, 0);
            }
            _ => {
                return Err(
                    "it is a port of a PCI Express switch or bridge, not an endpoint".to_owned(),
                );
            }
        }
        let shown_kind = match kind {
            EXPRESS_TYPE_LEGACY_ENDPOINT => EXPRESS_TYPE_LEGACY_ENDPOINT,
            _ => EXPRESS_TYPE_ENDPOINT,
        };
        let shown = flags & !(EXPRESS_TYPE_MASK | EXPRESS_SLOT_IMPLEMENTED) | shown_kind;
        self.own_u16(at + 2, shown, 0);
        self.express = Some(at);
        Ok(())
    }

    /// Makes the conventional list skip what is not shown.
    fn chain(&mut self, list: &[Entry]) {
        let pointer = capabilities::CAPABILITIES_POINTER;
        let status = usize::from(regs::STATUS);
        self.own(pointer, 4, 0);
        self.initial[pointer..pointer + 4].fill(0);
        // Only this one bit of the status register is ours.
        self.emulated[status] |= 0x10;
        self.initial[status] &= !0x10;
        let mut link = pointer;
        for entry in list {
            let (at, end) = (entry.offset, entry.end.min(EXTENDED_START));
            if !entry.shown {
                self.own(at, end - at, 0);
                self.initial[at..end].fill(0);
                continue;
            }
            self.own(at, 2, 0);
            self.initial[at + 1] = 0;
            // Below 0x100 by construction.
            self.initial[link] = at.to_le_bytes()[0];
            self.initial[status] |= 0x10;
            link = at + 1;
        }
    }

    /// Makes the extended list skip what is not shown. Where its first entry is hidden a null capability stands in
    /// (PCI Express Base 6.0, 7.9.28): the list always begins at 0x100.
    fn chain_extended(&mut self, list: &[Entry]) {
        let mut link: Option<usize> = None;
        for entry in list {
            let at = entry.offset;
            if !entry.shown {
                let size = hidden_size(entry.id).unwrap_or(4);
                let end = at.saturating_add(size).min(entry.end).min(SPACE_BYTES);
                self.own(at, end - at, 0);
                self.initial[at..end].fill(0);
                if link.is_none() {
                    link = Some(at);
                }
                continue;
            }
            self.own(at, 4, 0);
            // Keep id and version, cut the pointer.
            self.initial[at + 2] &= 0x0f;
            self.initial[at + 3] = 0;
            if let Some(link) = link {
                let [low, high, ..] = (at << 4).to_le_bytes();
                self.initial[link + 2] |= low & 0xf0;
                self.initial[link + 3] = high;
            }
            link = Some(at);
        }
    }

    /// Every bit of ours as at power-on.
    pub(crate) fn reset(&mut self) {
        *self.ours = *self.initial;
    }

    /// Whether a read of these bytes needs the hardware's answer.
    pub(crate) fn needs_hardware(&self, offset: u16, length: usize) -> bool {
        (usize::from(offset)..SPACE_BYTES)
            .take(length)
            .any(|at| self.emulated[at] != 0xff)
    }

    /// Lays our bits over what the hardware answered.
    pub(crate) fn overlay(&self, offset: u16, data: &mut [u8]) {
        for (at, byte) in (usize::from(offset)..SPACE_BYTES).zip(data) {
            *byte = *byte & !self.emulated[at] | self.ours[at] & self.emulated[at];
        }
    }

    /// A guest's write: changes our bits and says what the hardware is to be written.
    ///
    /// A write that concerns the hardware in some of its bytes only is handed on byte by byte.
    pub(crate) fn write(&mut self, offset: u16, data: &[u8]) -> VecDeque<HardwareWrite> {
        let bytes = || (usize::from(offset)..SPACE_BYTES).zip(data.iter().copied());
        for (at, value) in bytes() {
            let writable = self.writable[at];
            self.ours[at] = self.ours[at] & !writable | value & writable;
        }
        if bytes().all(|(at, _)| self.forwarded[at]) {
            return VecDeque::from([(offset, data.to_vec())]);
        }
        bytes()
            .filter(|(at, _)| self.forwarded[*at])
            .filter_map(|(at, value)| Some((u16::try_from(at).ok()?, vec![value])))
            .collect()
    }

    /// What the guest is shown of a range that is wholly ours.
    fn word(&self, offset: usize) -> u16 {
        word(&self.ours[..], offset).unwrap_or(0)
    }

    fn dword(&self, offset: usize) -> u32 {
        dword(&self.ours[..], offset).unwrap_or(0)
    }

    /// The command register as the guest set it.
    pub(crate) fn command(&self) -> u16 {
        self.word(regs::COMMAND.into())
    }

    /// The pin's number, 0 where there is none.
    pub(crate) fn pin(&self) -> u8 {
        self.ours[usize::from(regs::INTERRUPT_PIN)]
    }

    pub(crate) fn msi(&self) -> Option<MsiLayout> {
        self.msi
    }

    pub(crate) fn msix(&self) -> Option<MsixLayout> {
        self.msix
    }

    /// Where the PCI Express capability is, if it is a PCI Express function.
    pub(crate) fn express(&self) -> Option<usize> {
        self.express
    }

    pub(crate) fn msi_state(&self) -> MsiState {
        let Some(layout) = self.msi else {
            return MsiState::default();
        };
        let control = self.word(layout.offset + 2);
        let upper = if layout.wide {
            self.dword(layout.offset + 8)
        } else {
            0
        };
        MsiState {
            enabled: if control & MSI_ENABLE != 0 {
                layout.vectors.min(1 << (control >> 4 & 7).min(5))
            } else {
                0
            },
            address: u64::from(upper) << 32 | u64::from(self.dword(layout.offset + 4)),
            data: self.word(layout.data()),
            masked: layout.mask().map_or(0, |mask| self.dword(mask)),
        }
    }

    /// Shows which MSI vectors are pending.
    pub(crate) fn set_msi_pending(&mut self, bits: u32) {
        if let Some(pending) = self
            .msi
            .and_then(|layout| layout.mask())
            .map(|mask| mask + 4)
            && let Some(register) = self.ours.get_mut(pending..pending + 4)
        {
            register.copy_from_slice(&bits.to_le_bytes());
        }
    }

    pub(crate) fn msix_state(&self) -> MsixState {
        let control = self.msix.map_or(0, |layout| self.word(layout.offset + 2));
        MsixState {
            enabled: control & MSIX_ENABLE != 0,
            masked: control & MSIX_FUNCTION_MASK != 0,
        }
    }

    /// Whether the write asks for a function-level reset, by PCI Express device control or by advanced features.
    pub(crate) fn asks_for_reset(&self, offset: u16, data: &[u8]) -> bool {
        let written = |register: usize| {
            let at = register.checked_sub(usize::from(offset))?;
            data.get(at).copied()
        };
        let express = self.express.and_then(|at| written(at + 9));
        let advanced = self.advanced_features.and_then(|at| written(at + 4));
        express.is_some_and(|byte| byte & 0x80 != 0) || advanced.is_some_and(|byte| byte & 1 != 0)
    }

    /// What the function claims of the address spaces now.
    pub(crate) fn decode(&self) -> Decode {
        let command = self.command();
        let mut bars = [None; BAR_COUNT];
        for (index, (region, bar)) in bars.iter_mut().zip(&self.bars).enumerate() {
            let Some(bar) = bar else { continue };
            let register = usize::from(regs::BAR0) + index * 4;
            let low = u64::from(self.dword(register));
            let base = match bar.kind {
                BarKind::Memory64 => low | u64::from(self.dword(register + 4)) << 32,
                BarKind::Io | BarKind::Memory32 => low,
            };
            *region = Some(BarRegion {
                kind: bar.kind,
                base: base & !(bar.size - 1),
                size: bar.size,
                prefetchable: bar.prefetchable,
            });
        }
        Decode {
            io_enabled: command & regs::COMMAND_IO != 0,
            memory_enabled: command & regs::COMMAND_MEMORY != 0,
            bus_master: command & regs::COMMAND_BUS_MASTER != 0,
            bars,
        }
    }
}

#[cfg(test)]
mod tests;
