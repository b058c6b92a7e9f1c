//! MSI-X: capability, vector table and pending bits (PCI Express Base 6.0, 7.7.2).

use crate::config_layout::{ConfigLayout, LayoutError};
use crate::config_space::ConfigSpace;
use crate::device::StateError;
use crate::lock::lock;
use crate::platform::{MsiMessage, MsiVector};
use crate::regs;
use minicbor::{Decode, Encode};
use std::sync::{Arc, Mutex};

/// Bytes of one entry of the vector table.
pub const MSIX_ENTRY_BYTES: u64 = 16;

/// The most vectors a function can have.
pub const MSIX_MAX_VECTORS: usize = 2048;

const CONTROL_ENABLE: u16 = 1 << 15;
const CONTROL_FUNCTION_MASK: u16 = 1 << 14;
const VECTOR_MASKED: u32 = 1;

/// In which base address register's region, and where in it, table and pending bits are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MsixPlace {
    /// Index of the base address register, 0..6; table and pending bits share it.
    pub bar: u8,
    /// The table's offset, a multiple of 8.
    pub table_offset: u32,
    /// The pending bits' offset, a multiple of 8.
    pub pba_offset: u32,
}

/// The vectors of one function as MSI-X shows them to its guest.
///
/// The device gives accesses to the region of [`MsixPlace`] to [`bar_read`](Self::bar_read) and
/// [`bar_write`](Self::bar_write) first, and calls [`config_written`](Self::config_written) after each
/// configuration write. Signalling takes no lock.
pub struct Msix {
    place: MsixPlace,
    vectors: Vec<Arc<dyn MsiVector>>,
    state: Mutex<State>,
}

struct State {
    /// Where the capability is.
    capability: u16,
    enabled: bool,
    function_masked: bool,
    entries: Vec<Entry>,
}

#[derive(Clone, Copy, Default)]
struct Entry {
    message: MsiMessage,
    control: u32,
    /// What the vector was last programmed with.
    programmed: Option<MsiMessage>,
}

const ENTRY_AT_RESET: Entry = Entry {
    message: MsiMessage {
        address: 0,
        data: 0,
    },
    control: VECTOR_MASKED,
    programmed: None,
};

/// What the saved state of a function's MSI-X consists of; the capability's control register is in the
/// configuration space.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct MsixSaved {
    /// The table.
    #[n(0)]
    entries: Vec<MsixSavedEntry>,
}

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
struct MsixSavedEntry {
    #[n(0)]
    address: u64,
    #[n(1)]
    data: u32,
    #[n(2)]
    control: u32,
    #[n(3)]
    pending: bool,
}

impl Msix {
    /// `vectors` is 1 to 2048 long, as [`Platform::msi_vectors`](crate::Platform::msi_vectors) gave them.
    ///
    /// # Errors
    /// Another number, or the table and the pending bits overlap or are misaligned.
    pub fn new(vectors: Vec<Arc<dyn MsiVector>>, place: MsixPlace) -> Result<Self, LayoutError> {
        let wrong = LayoutError::Vectors(vectors.len());
        if !(1..=MSIX_MAX_VECTORS).contains(&vectors.len())
            || place.bar > 5
            || !place.table_offset.is_multiple_of(8)
            || !place.pba_offset.is_multiple_of(8)
        {
            return Err(wrong);
        }
        let msix = Self {
            place,
            state: Mutex::new(State {
                capability: 0,
                enabled: false,
                function_masked: false,
                entries: vec![ENTRY_AT_RESET; vectors.len()],
            }),
            vectors,
        };
        let (table, pba) = (msix.table_range(), msix.pba_range());
        if table.start < pba.end && pba.start < table.end {
            return Err(wrong);
        }
        Ok(msix)
    }

    /// Bytes the pending bits of `vectors` vectors take.
    pub const fn pba_bytes(vectors: usize) -> u64 {
        vectors.div_ceil(64) as u64 * 8
    }

    fn table_range(&self) -> std::ops::Range<u64> {
        let start = u64::from(self.place.table_offset);
        start..start + self.vectors.len() as u64 * MSIX_ENTRY_BYTES
    }

    fn pba_range(&self) -> std::ops::Range<u64> {
        let start = u64::from(self.place.pba_offset);
        start..start + Self::pba_bytes(self.vectors.len())
    }

    /// Appends the capability to a layout; once, before the first access.
    ///
    /// # Errors
    /// No room.
    pub fn add_capability(&self, layout: &mut ConfigLayout) -> Result<u16, LayoutError> {
        let (body, mask) = self.capability_body()?;
        let at = layout.capability(regs::CAP_MSIX, &body, &mask)?;
        lock(&self.state).capability = at;
        Ok(at)
    }

    /// As [`add_capability`](Self::add_capability), at a place of its own.
    ///
    /// # Errors
    /// The place is taken.
    pub fn add_capability_at(
        &self,
        layout: &mut ConfigLayout,
        at: u16,
    ) -> Result<u16, LayoutError> {
        let (body, mask) = self.capability_body()?;
        let at = layout.capability_at(at, regs::CAP_MSIX, &body, &mask)?;
        lock(&self.state).capability = at;
        Ok(at)
    }

    fn capability_body(&self) -> Result<([u8; 10], [u8; 2]), LayoutError> {
        let last = u16::try_from(self.vectors.len() - 1)
            .map_err(|_| LayoutError::Vectors(self.vectors.len()))?;
        let bar = u32::from(self.place.bar);
        let mut body = [0; 10];
        let (control, rest) = body.split_at_mut(2);
        let (table, pba) = rest.split_at_mut(4);
        control.copy_from_slice(&last.to_le_bytes());
        table.copy_from_slice(&(self.place.table_offset | bar).to_le_bytes());
        pba.copy_from_slice(&(self.place.pba_offset | bar).to_le_bytes());
        Ok((body, (CONTROL_ENABLE | CONTROL_FUNCTION_MASK).to_le_bytes()))
    }

    /// The base address register of table and pending bits.
    pub fn bar(&self) -> usize {
        usize::from(self.place.bar)
    }

    /// How many vectors there are.
    pub fn vector_count(&self) -> usize {
        self.vectors.len()
    }

    /// One of the vectors, for handing its eventfd to the kernel.
    pub fn vector(&self, index: usize) -> Option<&Arc<dyn MsiVector>> {
        self.vectors.get(index)
    }

    /// Whether the guest uses MSI-X; then INTx stays silent.
    pub fn enabled(&self) -> bool {
        lock(&self.state).enabled
    }

    /// The message the vector delivers now; `None` while it is masked, or the table as a whole is.
    pub fn programmed(&self, index: usize) -> Option<MsiMessage> {
        lock(&self.state).entries.get(index)?.programmed
    }

    /// Interrupts by one vector. Masked, it becomes pending. Nothing happens for an index out of range.
    pub fn signal(&self, index: usize) {
        if let Some(vector) = self.vectors.get(index) {
            vector.signal();
        }
    }

    /// The configuration space was written, reset or restored: takes over enable and function mask.
    pub fn config_written(&self, space: &ConfigSpace) {
        let mut state = lock(&self.state);
        if state.capability == 0 {
            return;
        }
        let control = space.get_u16(state.capability + 2);
        let enabled = control & CONTROL_ENABLE != 0;
        let function_masked = control & CONTROL_FUNCTION_MASK != 0;
        if (enabled, function_masked) != (state.enabled, state.function_masked) {
            state.enabled = enabled;
            state.function_masked = function_masked;
            self.program_all(&mut state);
        }
    }

    fn program_all(&self, state: &mut State) {
        for index in 0..self.vectors.len() {
            self.program(state, index);
        }
    }

    fn program(&self, state: &mut State, index: usize) {
        let open = state.enabled && !state.function_masked;
        let (Some(entry), Some(vector)) = (state.entries.get_mut(index), self.vectors.get(index))
        else {
            return;
        };
        let wanted = (open && entry.control & VECTOR_MASKED == 0).then_some(entry.message);
        if wanted == entry.programmed {
            return;
        }
        match vector.program(wanted) {
            Ok(()) => entry.programmed = wanted,
            Err(error) => {
                tracing::warn!(vector = index, %error, "interrupt vector could not be programmed")
            }
        }
    }

    /// Whether an offset of region [`bar`](Self::bar) belongs to table or pending bits.
    pub fn covers(&self, offset: u64) -> bool {
        self.table_range().contains(&offset) || self.pba_range().contains(&offset)
    }

    /// A guest's read of region [`bar`](Self::bar); false, and `data` untouched, where neither table nor
    /// pending bits are.
    pub fn bar_read(&self, offset: u64, data: &mut [u8]) -> bool {
        if let Some(within) = within(&self.table_range(), offset, data.len()) {
            let state = lock(&self.state);
            for (at, byte) in (within..).zip(data) {
                let word = state.table_word(at / 4);
                *byte = byte_of(word, at);
            }
            true
        } else if let Some(within) = within(&self.pba_range(), offset, data.len()) {
            for (at, byte) in (within..).zip(data) {
                *byte = self.pending_byte(at);
            }
            true
        } else {
            false
        }
    }

    fn pending_byte(&self, at: usize) -> u8 {
        (0..8).fold(0, |byte, bit| {
            let pending = self
                .vectors
                .get(at * 8 + bit)
                .is_some_and(|vector| vector.pending());
            byte | u8::from(pending) << bit
        })
    }

    /// A guest's write to region [`bar`](Self::bar); false where neither table nor pending bits are. Software
    /// must write whole double words; others, and writes to the pending bits, do nothing.
    pub fn bar_write(&self, offset: u64, data: &[u8]) -> bool {
        let Some(within) = within(&self.table_range(), offset, data.len()) else {
            return self.pba_range().contains(&offset);
        };
        if within % 4 != 0 {
            return true;
        }
        let mut state = lock(&self.state);
        for (index, word) in (within / 4..).zip(data.chunks_exact(4)) {
            let Ok(word) = word.try_into().map(u32::from_le_bytes) else {
                continue;
            };
            state.set_table_word(index, word);
            self.program(&mut state, index / 4);
        }
        true
    }

    /// Power-on state: disabled, every vector masked. The caller resets the configuration space itself.
    pub fn reset(&self) {
        let mut state = lock(&self.state);
        state.enabled = false;
        state.function_masked = false;
        self.program_all(&mut state);
        for entry in &mut state.entries {
            *entry = Entry {
                programmed: entry.programmed,
                ..ENTRY_AT_RESET
            };
        }
    }

    /// Table and pending bits for a saved state; the machine is stopped.
    pub fn save(&self) -> MsixSaved {
        let state = lock(&self.state);
        let entries = state.entries.iter().zip(&self.vectors);
        MsixSaved {
            entries: entries
                .map(|(entry, vector)| MsixSavedEntry {
                    address: entry.message.address,
                    data: entry.message.data,
                    control: entry.control,
                    pending: vector.pending(),
                })
                .collect(),
        }
    }

    /// Takes over table and pending bits, and enable and function mask from `space`, which was restored before.
    ///
    /// # Errors
    /// The saved function `device` has another number of vectors.
    pub fn restore(
        &self,
        device: &str,
        saved: &MsixSaved,
        space: &ConfigSpace,
    ) -> Result<(), StateError> {
        if saved.entries.len() != self.vectors.len() {
            return Err(StateError::Refused {
                device: device.to_owned(),
                reason: format!(
                    "{} interrupt vectors were saved, there are {} here",
                    saved.entries.len(),
                    self.vectors.len()
                ),
            });
        }
        {
            let mut state = lock(&self.state);
            // Masked until all is in place, so that a signal finds the message it was raised for.
            state.enabled = false;
            self.program_all(&mut state);
            for (entry, from) in state.entries.iter_mut().zip(&saved.entries) {
                entry.message = MsiMessage {
                    address: from.address & !3,
                    data: from.data,
                };
                entry.control = from.control & VECTOR_MASKED;
            }
            for (vector, from) in self.vectors.iter().zip(&saved.entries) {
                if from.pending {
                    vector.signal();
                }
            }
        }
        self.config_written(space);
        Ok(())
    }
}

impl State {
    fn table_word(&self, index: usize) -> u32 {
        let Some(entry) = self.entries.get(index / 4) else {
            return 0;
        };
        let [a, b, c, d, e, f, g, h] = entry.message.address.to_le_bytes();
        match index % 4 {
            0 => u32::from_le_bytes([a, b, c, d]),
            1 => u32::from_le_bytes([e, f, g, h]),
            2 => entry.message.data,
            _ => entry.control,
        }
    }

    fn set_table_word(&mut self, index: usize, word: u32) {
        let Some(entry) = self.entries.get_mut(index / 4) else {
            return;
        };
        let address = &mut entry.message.address;
        match index % 4 {
            0 => *address = *address & !0xffff_ffff | u64::from(word & !3),
            1 => *address = *address & 0xffff_ffff | u64::from(word) << 32,
            2 => entry.message.data = word,
            _ => entry.control = word & VECTOR_MASKED,
        }
    }
}

/// The offset within `range` of an access that lies in it as a whole.
fn within(range: &std::ops::Range<u64>, offset: u64, len: usize) -> Option<usize> {
    let start = offset.checked_sub(range.start)?;
    let end = offset.checked_add(len as u64)?;
    (end <= range.end).then_some(())?;
    usize::try_from(start).ok()
}

fn byte_of(word: u32, at: usize) -> u8 {
    word.to_le_bytes().get(at % 4).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config_layout::Identity;
    use crate::testing::{RecordingPlatform, TestVector};

    fn function(count: u16) -> (Msix, ConfigSpace, u16, Vec<Arc<TestVector>>) {
        let platform = RecordingPlatform::default();
        let (vectors, seen) = platform.vectors(count);
        let place = MsixPlace {
            bar: 1,
            table_offset: 0,
            pba_offset: 0x800,
        };
        let msix = Msix::new(vectors, place).unwrap();
        let mut layout = ConfigLayout::endpoint(Identity {
            vendor: 1,
            device: 2,
            class: 0x02_00_00,
            revision: 0,
            subsystem_vendor: 0,
            subsystem: 0,
        });
        let at = msix.add_capability(&mut layout).unwrap();
        (msix, layout.build(), at, seen)
    }

    fn set_control(msix: &Msix, space: &mut ConfigSpace, at: u16, control: u16) {
        space.write(at + 2, &control.to_le_bytes());
        msix.config_written(space);
    }

    fn write_entry(msix: &Msix, index: u64, address: u64, data: u32, control: u32) {
        let at = index * MSIX_ENTRY_BYTES;
        assert!(msix.bar_write(at, &address.to_le_bytes()));
        assert!(msix.bar_write(at + 8, &data.to_le_bytes()));
        assert!(msix.bar_write(at + 12, &control.to_le_bytes()));
    }

    #[test]
    fn a_vector_delivers_only_while_enabled_and_unmasked() {
        let (msix, mut space, at, seen) = function(3);
        write_entry(&msix, 1, 0xfee0_1000, 0x41, 0);
        assert_eq!(seen[1].message(), None, "not enabled");
        set_control(
            &msix,
            &mut space,
            at,
            CONTROL_ENABLE | CONTROL_FUNCTION_MASK,
        );
        assert_eq!(seen[1].message(), None, "function masked");
        set_control(&msix, &mut space, at, CONTROL_ENABLE);
        let message = MsiMessage {
            address: 0xfee0_1000,
            data: 0x41,
        };
        assert_eq!(seen[1].message(), Some(message));
        assert_eq!(seen[0].message(), None, "masked at power-on");
        msix.bar_write(16 + 12, &1u32.to_le_bytes());
        assert_eq!(seen[1].message(), None);
        msix.signal(1);
        let mut pending = [0; 8];
        assert!(msix.bar_read(0x800, &mut pending));
        assert_eq!(pending, [2, 0, 0, 0, 0, 0, 0, 0]);
        msix.bar_write(16 + 12, &0u32.to_le_bytes());
        assert_eq!(seen[1].message(), Some(message));
        msix.reset();
        space.reset();
        assert_eq!(seen[1].message(), None);
        let mut word = [0; 4];
        msix.bar_read(16 + 12, &mut word);
        assert_eq!(word, [1, 0, 0, 0]);
        msix.signal(99);
    }

    #[test]
    fn accesses_beside_the_table_are_the_devices_own() {
        let (msix, ..) = function(3);
        let mut data = [0x55; 4];
        assert!(!msix.bar_read(48, &mut data));
        assert!(!msix.bar_write(48, &data));
        assert!(!msix.bar_read(0x808, &mut data));
        assert!(!msix.bar_read(u64::MAX, &mut data));
        assert_eq!(data, [0x55; 4]);
        assert!(msix.bar_write(2, &[1, 2]), "odd accesses are swallowed");
        assert!(msix.covers(47) && !msix.covers(48) && msix.covers(0x800));
    }

    #[test]
    fn state_moves_to_another_instance_pending_included() {
        let (msix, mut space, at, _) = function(2);
        write_entry(&msix, 0, 0xfee0_0000, 0x31, 0);
        write_entry(&msix, 1, 0xfee0_0000, 0x32, 1);
        set_control(&msix, &mut space, at, CONTROL_ENABLE);
        msix.signal(1);
        let bytes = minicbor::to_vec(msix.save()).unwrap();

        let (other, mut other_space, _, seen) = function(2);
        other_space.restore(&space.save()).unwrap();
        let saved: MsixSaved = minicbor::decode(&bytes).unwrap();
        other.restore("x", &saved, &other_space).unwrap();
        assert_eq!(seen[0].message().unwrap().data, 0x31);
        assert_eq!(seen[1].message(), None);
        assert!(seen[1].pending() && !seen[0].pending());
        assert!(other.enabled());

        let (smaller, ..) = function(1);
        assert!(smaller.restore("x", &saved, &other_space).is_err());
    }

    #[test]
    fn impossible_places_are_refused() {
        let platform = RecordingPlatform::default();
        let make = |count, bar, table_offset, pba_offset| {
            Msix::new(
                platform.vectors(count).0,
                MsixPlace {
                    bar,
                    table_offset,
                    pba_offset,
                },
            )
        };
        assert!(make(0, 0, 0, 0x800).is_err());
        assert!(make(4, 6, 0, 0x800).is_err());
        assert!(make(4, 0, 4, 0x800).is_err());
        assert!(make(4, 0, 0, 0x38).is_err());
        assert!(make(4, 0, 0, 0x40).is_ok());
    }
}
