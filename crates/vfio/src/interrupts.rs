//! Which kind of interrupt a function uses at the moment, and where each goes.
//!
//! A function signals eventfds; the hypervisor turns each into what the guest programmed. So an interrupt passes
//! neither through this process nor through its locks. A masked vector is masked at the hypervisor's end: the hardware
//! signals on, and the signal waits in the eventfd.
//!
//! When MSI-X is enabled all entries of the table get their eventfds at once. The guest unmasks them one by one later,
//! and the kernel cannot add interrupts to a running set on most hardware.

use crate::config_space::ConfigSpace;
use crate::hardware::{Hardware, IrqKind};
use crate::intx::{Intx, fd_of};
use crate::msix::MsixTable;
use pci::{IntxLine, MsiMessage, MsiVector};
use std::io;
use std::ops::Range;
use std::sync::Arc;

/// The kind of interrupt a function uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InterruptMode {
    /// None: it has no pin, and the guest enabled nothing else.
    Off,
    /// The pin.
    Intx,
    /// Message-signalled, so many vectors.
    Msi(u16),
    /// MSI-X, with a table of so many entries.
    Msix(u16),
}

/// The interrupts of one function.
pub(crate) struct Wiring {
    hardware: Arc<dyn Hardware>,
    label: String,
    vectors: Vec<Arc<dyn MsiVector>>,
    programmed: Vec<Option<MsiMessage>>,
    line: Option<Arc<dyn IntxLine>>,
    mode: InterruptMode,
    intx: Option<Intx>,
}

impl Wiring {
    /// `vectors` are as many as MSI or MSI-X ever use.
    pub(crate) fn new(
        hardware: Arc<dyn Hardware>,
        label: &str,
        vectors: Vec<Arc<dyn MsiVector>>,
    ) -> Self {
        Self {
            hardware,
            label: label.to_owned(),
            programmed: vec![None; vectors.len()],
            vectors,
            line: None,
            mode: InterruptMode::Off,
            intx: None,
        }
    }

    pub(crate) fn mode(&self) -> InterruptMode {
        self.mode
    }

    /// The line of the slot the function is in, or none while it is in no slot.
    pub(crate) fn connect(&mut self, line: Option<Arc<dyn IntxLine>>) {
        if matches!(self.mode, InterruptMode::Intx) {
            self.switch_off();
        }
        self.line = line;
    }

    /// The pin's interrupt, while it is the one in use.
    pub(crate) fn intx(&self) -> Option<&Intx> {
        self.intx.as_ref()
    }

    /// Brings the wiring in line with what the guest has set.
    pub(crate) fn update(&mut self, config: &ConfigSpace, table: Option<&MsixTable>) {
        let wanted = self.wanted(config, table);
        if wanted != self.mode {
            self.switch_off();
            self.switch_on(wanted);
        }
        match self.mode {
            InterruptMode::Msix(_) => self.program_msix(config, table, 0..self.vectors.len()),
            InterruptMode::Msi(_) => self.program_msi(config),
            InterruptMode::Off | InterruptMode::Intx => {}
        }
    }

    fn wanted(&self, config: &ConfigSpace, table: Option<&MsixTable>) -> InterruptMode {
        if let Some(table) = table
            && config.msix_state().enabled
        {
            return InterruptMode::Msix(u16::try_from(table.len()).unwrap_or(u16::MAX));
        }
        match config.msi_state().enabled {
            0 if config.pin() != 0 && self.line.is_some() => InterruptMode::Intx,
            0 => InterruptMode::Off,
            count => InterruptMode::Msi(count),
        }
    }

    fn switch_on(&mut self, wanted: InterruptMode) {
        let result = match wanted {
            InterruptMode::Off => Ok(()),
            InterruptMode::Intx => self.switch_intx_on(),
            InterruptMode::Msi(count) => self.give_vectors(IrqKind::Msi, count),
            InterruptMode::Msix(count) => self.give_vectors(IrqKind::Msix, count),
        };
        // The guest believes it is on in any case; it is tried again when the guest switches it off and on.
        self.mode = wanted;
        match result {
            Ok(()) => tracing::debug!(device = %self.label, mode = ?wanted, "interrupts"),
            Err(error) => {
                tracing::error!(device = %self.label, mode = ?wanted, %error, "the function's interrupts cannot be switched on: the guest gets none");
            }
        }
    }

    fn switch_intx_on(&mut self) -> io::Result<()> {
        if let Some(line) = &self.line {
            self.intx = Some(Intx::switch_on(&self.hardware, line, &self.label)?);
        }
        Ok(())
    }

    fn give_vectors(&self, kind: IrqKind, count: u16) -> io::Result<()> {
        let fds: Vec<_> = self
            .vectors
            .iter()
            .take(count.into())
            .map(|vector| fd_of(vector.trigger()))
            .collect();
        let Some(available) = self.hardware.set_triggers(kind, &fds)? else {
            return Ok(());
        };
        tracing::warn!(device = %self.label, wanted = count, available, "the host has too few interrupt vectors left; the guest's last ones stay silent");
        let fewer = fds.get(..available).unwrap_or(&fds);
        match self.hardware.set_triggers(kind, fewer)? {
            None => Ok(()),
            Some(_) => Err(io::Error::other("the host's interrupt vectors ran out")),
        }
    }

    /// Switches everything off; the vectors are masked.
    pub(crate) fn switch_off(&mut self) {
        let kind = match self.mode {
            InterruptMode::Off => None,
            InterruptMode::Intx => {
                self.intx = None;
                None
            }
            InterruptMode::Msi(_) => Some(IrqKind::Msi),
            InterruptMode::Msix(_) => Some(IrqKind::Msix),
        };
        if let Some(kind) = kind
            && let Err(error) = self.hardware.set_triggers(kind, &[])
        {
            tracing::warn!(device = %self.label, ?kind, %error, "the function's interrupts cannot be switched off");
        }
        for index in 0..self.vectors.len() {
            self.program(index, None);
        }
        self.mode = InterruptMode::Off;
    }

    /// Programs the vectors of these entries of the table. Nothing while MSI-X is off.
    pub(crate) fn program_msix(
        &mut self,
        config: &ConfigSpace,
        table: Option<&MsixTable>,
        entries: Range<usize>,
    ) {
        let (InterruptMode::Msix(_), Some(table)) = (self.mode, table) else {
            return;
        };
        let masked = config.msix_state().masked;
        for index in entries {
            let message = if masked { None } else { table.message(index) };
            self.program(index, message);
        }
    }

    fn program_msi(&mut self, config: &ConfigSpace) {
        let state = config.msi_state();
        for index in 0..self.vectors.len() {
            let number = u16::try_from(index).unwrap_or(u16::MAX);
            let masked = number < 32 && state.masked >> number & 1 != 0;
            let message = (number < state.enabled && !masked).then(|| MsiMessage {
                address: state.address,
                // The vector's number replaces the low bits (PCI Express Base 6.0, 7.7.1.5).
                data: u32::from(state.data & !(state.enabled - 1) | number),
            });
            self.program(index, message);
        }
    }

    fn program(&mut self, index: usize, message: Option<MsiMessage>) {
        let (Some(vector), Some(programmed)) =
            (self.vectors.get(index), self.programmed.get_mut(index))
        else {
            return;
        };
        if *programmed == message {
            return;
        }
        match vector.program(message) {
            Ok(()) => *programmed = message,
            Err(error) => {
                tracing::warn!(device = %self.label, index, %error, "an interrupt vector cannot be programmed");
            }
        }
    }

    /// Which of the first 64 vectors from `first` on are pending.
    pub(crate) fn pending(&self, first: usize) -> u64 {
        self.vectors
            .iter()
            .skip(first)
            .take(64)
            .enumerate()
            .fold(0, |bits, (bit, vector)| {
                bits | u64::from(vector.pending()) << bit
            })
    }
}

impl Drop for Wiring {
    fn drop(&mut self) {
        self.switch_off();
    }
}
