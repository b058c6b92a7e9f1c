//! MSI with 64-bit addresses, with or without masking per vector (PCI Express Base 6.0, 7.7.1).

use crate::config_layout::{ConfigLayout, LayoutError};
use crate::config_space::ConfigSpace;
use crate::lock::lock;
use crate::platform::{MsiMessage, MsiVector};
use crate::regs;
use std::sync::{Arc, Mutex};

const CONTROL_ENABLE: u16 = 1;
const CONTROL_64BIT: u16 = 1 << 7;
const CONTROL_MASKING: u16 = 1 << 8;

/// The vectors of one function as MSI shows them to its guest.
///
/// All of its registers are in the configuration space, so nothing else needs saving: after a restore
/// [`config_written`](Self::config_written) takes them over.
pub struct Msi {
    vectors: Vec<Arc<dyn MsiVector>>,
    masking: bool,
    state: Mutex<State>,
}

struct State {
    capability: u16,
    enabled: bool,
    programmed: Vec<Option<MsiMessage>>,
}

impl Msi {
    /// `vectors` is 1, 2, 4, 8, 16 or 32 long; `masking` gives each its mask bit.
    ///
    /// # Errors
    /// Another number of vectors.
    pub fn new(vectors: Vec<Arc<dyn MsiVector>>, masking: bool) -> Result<Self, LayoutError> {
        if !vectors.len().is_power_of_two() || vectors.len() > 32 {
            return Err(LayoutError::Vectors(vectors.len()));
        }
        Ok(Self {
            state: Mutex::new(State {
                capability: 0,
                enabled: false,
                programmed: vec![None; vectors.len()],
            }),
            vectors,
            masking,
        })
    }

    /// Appends the capability to a layout; once, before the first access.
    ///
    /// # Errors
    /// No room.
    pub fn add_capability(&self, layout: &mut ConfigLayout) -> Result<u16, LayoutError> {
        let (body, mask, len) = self.capability_body();
        let body = body.get(..len).unwrap_or(&body);
        let at = layout.capability(regs::CAP_MSI, body, &mask)?;
        self.placed(layout, at);
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
        let (body, mask, len) = self.capability_body();
        let body = body.get(..len).unwrap_or(&body);
        let at = layout.capability_at(at, regs::CAP_MSI, body, &mask)?;
        self.placed(layout, at);
        Ok(at)
    }

    fn placed(&self, layout: &mut ConfigLayout, at: u16) {
        if self.masking {
            layout.device_owned(at + 0x14, &self.all_vectors().to_le_bytes());
        }
        lock(&self.state).capability = at;
    }

    fn capability_body(&self) -> ([u8; 22], [u8; 22], usize) {
        // Control, address, upper address, data, reserved, mask, pending.
        let (mut body, mut mask) = ([0; 22], [0; 22]);
        let log2 = u16::try_from(self.vectors.len().trailing_zeros()).unwrap_or(0);
        let kind = if self.masking {
            CONTROL_64BIT | CONTROL_MASKING
        } else {
            CONTROL_64BIT
        };
        body[0..2].copy_from_slice(&(log2 << 1 | kind).to_le_bytes());
        mask[0..2].copy_from_slice(&(7 << 4 | CONTROL_ENABLE).to_le_bytes());
        mask[2..12].copy_from_slice(&[0xfc, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
        if self.masking {
            mask[14..18].copy_from_slice(&self.all_vectors().to_le_bytes());
        }
        (body, mask, if self.masking { 22 } else { 12 })
    }

    fn all_vectors(&self) -> u32 {
        u32::MAX >> (32 - self.vectors.len().clamp(1, 32))
    }

    /// One of the vectors, for handing its eventfd to the kernel.
    pub fn vector(&self, index: usize) -> Option<&Arc<dyn MsiVector>> {
        self.vectors.get(index)
    }

    /// Whether the guest uses MSI; then INTx stays silent.
    pub fn enabled(&self) -> bool {
        lock(&self.state).enabled
    }

    /// How many vectors the guest enabled; 0 while MSI is off.
    pub fn vectors_enabled(&self, space: &ConfigSpace) -> usize {
        let state = lock(&self.state);
        if !state.enabled {
            return 0;
        }
        self.allotted(space.get_u16(state.capability + 2))
    }

    fn allotted(&self, control: u16) -> usize {
        // Software may ask for more than there are; it gets what there is.
        self.vectors.len().min(1 << (control >> 4 & 7).min(5))
    }

    /// Interrupts by one vector; those beyond what the guest enabled share the last one it did enable.
    pub fn signal(&self, index: usize) {
        let last = {
            let state = lock(&self.state);
            state
                .programmed
                .iter()
                .rposition(Option::is_some)
                .unwrap_or(0)
        };
        if let Some(vector) = self
            .vectors
            .get(if self.masking { index } else { index.min(last) })
        {
            vector.signal();
        }
    }

    /// The configuration space was written, reset or restored: programs the vectors after it.
    pub fn config_written(&self, space: &ConfigSpace) {
        let mut state = lock(&self.state);
        let at = state.capability;
        if at == 0 {
            return;
        }
        let control = space.get_u16(at + 2);
        state.enabled = control & CONTROL_ENABLE != 0;
        let enabled = if state.enabled {
            self.allotted(control)
        } else {
            0
        };
        let address =
            u64::from(space.get_u32(at + 4) & !3) | u64::from(space.get_u32(at + 8)) << 32;
        let data = u32::from(space.get_u16(at + 0xc));
        let masked = if self.masking {
            space.get_u32(at + 0x10)
        } else {
            0
        };
        let vectors = (0u32..).zip(&self.vectors).zip(&mut state.programmed);
        for ((index, vector), programmed) in vectors {
            let open = (index as usize) < enabled && masked >> index & 1 == 0;
            // The vector's number replaces the low bits of the data.
            let low = u32::try_from(enabled).unwrap_or(1).max(1) - 1;
            let wanted = open.then_some(MsiMessage {
                address,
                data: data & !low | index,
            });
            if wanted == *programmed {
                continue;
            }
            match vector.program(wanted) {
                Ok(()) => *programmed = wanted,
                Err(error) => {
                    tracing::warn!(vector = index, %error, "interrupt vector could not be programmed")
                }
            }
        }
    }

    /// Brings the pending bits up to date; before a guest's read of the capability. Nothing without masking.
    pub fn refresh_pending(&self, space: &mut ConfigSpace) {
        let at = lock(&self.state).capability;
        if !self.masking || at == 0 {
            return;
        }
        let pending = (0u32..)
            .zip(&self.vectors)
            .fold(0, |bits, (index, vector)| {
                bits | u32::from(vector.pending()) << index
            });
        space.set_u32(at + 0x14, pending);
    }

    /// After a restore of the configuration space: what was pending at the source is pending here.
    pub fn restore_pending(&self, space: &ConfigSpace) {
        let at = lock(&self.state).capability;
        if !self.masking || at == 0 {
            return;
        }
        let pending = space.get_u32(at + 0x14);
        for (index, vector) in (0u32..).zip(&self.vectors) {
            if pending >> index & 1 != 0 {
                vector.signal();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config_layout::Identity;
    use crate::testing::{RecordingPlatform, TestVector};

    fn function(count: u16, masking: bool) -> (Msi, ConfigSpace, u16, Vec<Arc<TestVector>>) {
        let (vectors, seen) = RecordingPlatform::default().vectors(count);
        let msi = Msi::new(vectors, masking).unwrap();
        let mut layout = ConfigLayout::endpoint(Identity {
            vendor: 1,
            device: 2,
            class: 0x02_00_00,
            revision: 0,
            subsystem_vendor: 0,
            subsystem: 0,
        });
        let at = msi.add_capability(&mut layout).unwrap();
        (msi, layout.build(), at, seen)
    }

    #[test]
    fn vectors_number_themselves_in_the_low_data_bits() {
        let (msi, mut space, at, seen) = function(4, true);
        space.write(at + 4, &0xfee0_2003u32.to_le_bytes());
        space.write(at + 0xc, &0x43u16.to_le_bytes());
        space.write(at + 0x10, &0xffff_fffdu32.to_le_bytes());
        assert_eq!(space.get_u32(at + 0x10), 0xd, "only four mask bits exist");
        space.write(at + 2, &(2 << 4 | 1u16).to_le_bytes());
        msi.config_written(&space);
        assert_eq!(msi.vectors_enabled(&space), 4);
        assert_eq!(seen[0].message(), None, "masked");
        assert_eq!(
            seen[1].message(),
            Some(MsiMessage {
                address: 0xfee0_2000,
                data: 0x41
            })
        );
        msi.signal(2);
        msi.refresh_pending(&mut space);
        assert_eq!(space.get_u32(at + 0x14), 4);

        let (other, mut other_space, _, other_seen) = function(4, true);
        other_space.restore(&space.save()).unwrap();
        other.restore_pending(&other_space);
        other.config_written(&other_space);
        assert!(other_seen[2].pending());
        assert_eq!(other_seen[1].message(), seen[1].message());

        space.reset();
        msi.config_written(&space);
        assert_eq!(seen[1].message(), None);
        assert!(!msi.enabled());
    }

    #[test]
    fn asking_for_too_many_vectors_gives_what_there_is() {
        let (msi, mut space, at, seen) = function(1, false);
        space.write(at + 2, &(7 << 4 | 1u16).to_le_bytes());
        msi.config_written(&space);
        assert_eq!(msi.vectors_enabled(&space), 1);
        assert!(seen[0].message().is_some());
        msi.signal(31);
        assert_eq!(seen[0].signals(), 1);
        assert!(Msi::new(RecordingPlatform::default().vectors(3).0, false).is_err());
    }
}
