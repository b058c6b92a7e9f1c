//! The function as a device on the guest's bus.

use crate::address::HostSpec;
use crate::closing::Closing;
use crate::config_space::ConfigSpace;
use crate::container::Container;
use crate::dma::DmaProgress;
use crate::error::{VfioError, failed};
use crate::events::{EventWatch, VfioListener};
use crate::function::Function;
use crate::hardware::Hardware;
use crate::host::HostDevice;
use crate::interrupts::{InterruptMode, Wiring};
use crate::iommufd::{Access, GivenCdev};
use crate::msix::{ENTRY_BYTES, MsixTable};
use crate::window::{HostWindow, mappable_ranges};
use pci::{BarMapping, Decode, IntxLine, PciDevice, Platform, StateError, regs};
use std::fmt;
use std::io;
use std::ops::{ControlFlow, Range};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// What a user says of a passed-through function.
#[derive(Clone)]
pub struct VfioConfig {
    /// The device's id, for messages and events.
    pub id: String,
    /// Which function of the host.
    pub host: HostSpec,
    /// By which of the kernel's interfaces.
    pub access: Access,
    /// Its character device, for access by iommufd, where that was handed over open.
    pub cdev: Option<Arc<GivenCdev>>,
    /// Where sysfs is: `/sys`.
    pub sysfs: PathBuf,
    /// Who is told when it fails or is asked back.
    pub listener: Option<Arc<dyn VfioListener>>,
}

impl VfioConfig {
    /// A function by the id it shall have and the host's name for it; by its group, and nobody listens.
    pub fn new(id: impl Into<String>, host: HostSpec) -> Self {
        Self {
            id: id.into(),
            host,
            access: Access::Group,
            cdev: None,
            sysfs: Path::new("/sys").to_owned(),
            listener: None,
        }
    }
}

impl fmt::Debug for VfioConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VfioConfig")
            .field("id", &self.id)
            .field("host", &self.host)
            .field("access", &self.access)
            .finish_non_exhaustive()
    }
}

/// A part of a BAR that is mapped in this process, to be shown to the guest.
type Window = (u64, HostWindow);

/// A passed-through function.
///
/// Dropping it takes it from the guest, and returns. The kernel then takes some 100 ms to reset the function, and with the
/// last one of a [`Container`] to unmap guest memory: a thread of its own waits for that, [`when_closed`](Self::when_closed)
/// tells of its end, and another [`open`](Self::open) of the same function in the same container waits for it.
//
// The fields are dropped in this order: the watch and the guest's mappings before the memory they show, that before
// the function's file, and the group last.
pub struct VfioPci {
    label: String,
    watch: Option<EventWatch>,
    state: Mutex<State>,
    windows: [Vec<Window>; 6],
    traps: Traps,
    /// The guest's accesses to the BARs are to be told to the pin's interrupt.
    watches_accesses: AtomicBool,
    function: Function,
    platform: Arc<dyn Platform>,
    host: Option<HostDevice>,
    class: u32,
    closing: Closing,
}

struct State {
    wiring: Wiring,
    config: ConfigSpace,
    table: Option<MsixTable>,
    /// Where the guest sees the regions.
    placed: [Option<u64>; 6],
    mapped: [Vec<Box<dyn BarMapping>>; 6],
    /// The guest wrote to the hardware since it was last reset.
    touched: bool,
}

/// The ranges of the BARs that are ours: BAR and offsets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Traps {
    table: Option<(usize, Range<u64>)>,
    pending: Option<(usize, Range<u64>)>,
}

impl Traps {
    fn new(config: &ConfigSpace) -> Self {
        let Some(layout) = config.msix() else {
            return Self::default();
        };
        let entries = u64::from(layout.entries);
        let range = |start: u64, size: u64| start..start.saturating_add(size);
        Self {
            table: Some((
                layout.table_bar,
                range(layout.table_offset, entries * ENTRY_BYTES),
            )),
            pending: Some((
                layout.pba_bar,
                range(layout.pba_offset, entries.div_ceil(64) * 8),
            )),
        }
    }

    fn of_bar(&self, bar: usize) -> Vec<Range<u64>> {
        [&self.table, &self.pending]
            .into_iter()
            .flatten()
            .filter(|(at, _)| *at == bar)
            .map(|(_, range)| range.clone())
            .collect()
    }

    /// Where in the range an access to the BAR is, if it is.
    fn within(range: &Option<(usize, Range<u64>)>, bar: usize, offset: u64) -> Option<u64> {
        let (at, range) = range.as_ref()?;
        (*at == bar && range.contains(&offset)).then(|| offset - range.start)
    }
}

impl VfioPci {
    /// Opens a function of the host for a guest whose memory the container maps.
    ///
    /// Slow: the kernel resets the function, and for the first one of a machine pins the guest's memory. `hook` is
    /// asked between the steps of that whether to go on. Nothing is left behind when it fails.
    ///
    /// # Errors
    /// Each [`VfioError`]; its message names the remedy.
    pub fn open(
        config: VfioConfig,
        container: &Arc<Container>,
        hook: &mut dyn FnMut(DmaProgress) -> ControlFlow<()>,
    ) -> Result<Arc<Self>, VfioError> {
        let host = HostDevice::find(&config.host, &config.sysfs)?;
        config.access.check_usable(&host, config.cdev.as_deref())?;
        let begun = Instant::now();
        let (membership, file) = container.join(
            &host,
            &config.id,
            (&config.access, config.cdev.as_deref()),
            hook,
        )?;
        let hardware: Arc<dyn Hardware> = Arc::new(file);
        let mut device = Self::over(
            hardware,
            &config,
            &host.name,
            Arc::clone(container.platform()),
        )?;
        tracing::info!(device = %device.label, ms = begun.elapsed().as_millis(), "opened");
        device.host = Some(host);
        device.closing.keep(membership);
        Ok(Arc::new(device))
    }

    fn over(
        hardware: Arc<dyn Hardware>,
        config: &VfioConfig,
        name: &str,
        platform: Arc<dyn Platform>,
    ) -> Result<Self, VfioError> {
        let label = format!("vfio-pci '{}' ({name})", config.id);
        let failed = |what: &str| failed(name, what);
        let function = Function::new(Arc::clone(&hardware), &label)
            .map_err(failed("ask for the function's regions"))?;
        let picture = function
            .picture()
            .map_err(failed("read the function's configuration space"))?;
        let irq = |kind| {
            hardware
                .irq(kind)
                .map_err(failed("ask for the function's interrupts"))
        };
        let has_pin = irq(crate::hardware::IrqKind::Intx)?.count > 0;
        let mut sizes = [0; 6];
        for (size, region) in sizes.iter_mut().zip(function.bars()) {
            *size = region.size;
        }
        let space = ConfigSpace::new(&picture, &sizes, has_pin).map_err(|reason| {
            VfioError::NotPassable {
                device: name.to_owned(),
                reason,
            }
        })?;
        if !hardware.can_reset() {
            tracing::warn!(device = %label, "the function has no reset of its own; what a guest leaves in it the next one finds");
        }
        let count = space
            .msix()
            .map_or(0, |layout| layout.entries)
            .max(space.msi().map_or(0, |layout| layout.vectors));
        let vectors = platform
            .msi_vectors(count)
            .map_err(failed("get interrupt vectors from the hypervisor"))?;
        let traps = Traps::new(&space);
        let windows =
            map_windows(&function, &traps).map_err(failed("map the function's regions"))?;
        let watch = match &config.listener {
            Some(listener) => EventWatch::start(&hardware, &config.id, Arc::clone(listener))
                .map_err(failed("watch the function for errors"))?,
            None => None,
        };
        let class = u32::from_le_bytes([
            picture.get(9).copied().unwrap_or(0),
            picture.get(10).copied().unwrap_or(0),
            picture.get(11).copied().unwrap_or(0),
            0,
        ]);
        let closing = Closing::new(&label, Arc::clone(&hardware));
        let device = Self {
            state: Mutex::new(State {
                wiring: Wiring::new(hardware, &label, vectors),
                table: space.msix().as_ref().map(MsixTable::new),
                config: space,
                placed: [None; 6],
                mapped: Default::default(),
                // The kernel reset it when it was opened.
                touched: false,
            }),
            label,
            watch,
            windows,
            traps,
            watches_accesses: AtomicBool::new(false),
            function,
            platform,
            host: None,
            class,
            closing,
        };
        // Whatever its last owner left: no DMA before the guest's driver asks for it.
        device.function.config_write(regs::COMMAND, &[0, 0]);
        Ok(device)
    }

    /// Class, subclass and programming interface: 0x020000 for an Ethernet controller.
    pub fn class_code(&self) -> u32 {
        self.class
    }

    /// Whether it has a PCI Express capability.
    pub fn is_express(&self) -> bool {
        self.lock().config.express().is_some()
    }

    /// What sysfs said of it when it was opened.
    pub fn host(&self) -> Option<&HostDevice> {
        self.host.as_ref()
    }

    /// Calls `closed` once it is dropped and the kernel has closed the function: another process may open it from then on.
    /// Called from a thread of its own, at most once; a later call replaces an earlier one.
    pub fn when_closed(&self, closed: impl FnOnce() + Send + 'static) {
        self.closing.when_closed(Box::new(closed));
    }

    /// Whether the kernel can reset it alone.
    pub fn can_reset(&self) -> bool {
        self.function.hardware().can_reset()
    }

    /// The kind of interrupt it uses now.
    pub fn interrupt_mode(&self) -> InterruptMode {
        self.lock().wiring.mode()
    }

    /// The ranges of a BAR that the guest reaches without us: offset and size in bytes.
    pub fn direct_ranges(&self, bar: usize) -> Vec<(u64, u64)> {
        self.windows.get(bar).map_or_else(Vec::new, |windows| {
            windows
                .iter()
                .map(|(offset, window)| (*offset, window.size()))
                .collect()
        })
    }

    /// Makes a function that was taken out of its slot ready to be put into one again: resets it, so that the guest's
    /// driver finds it as at power-on. Slow, some 100 ms; its DMA mappings stay.
    ///
    /// Pre: it is in no slot.
    ///
    /// # Errors
    /// [`VfioError::Kernel`] if the reset fails; the function's state is then the last guest driver's.
    pub fn prepare_replug(&self) -> Result<(), VfioError> {
        self.function_reset(&mut self.lock())
            .map_err(|source| VfioError::Kernel {
                device: self.label.clone(),
                what: "reset the function".to_owned(),
                source,
            })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Interrupts off, out of the guest's sight, no DMA; the guest's registers as at power-on.
    fn quiesce(&self, state: &mut State) {
        state.wiring.switch_off();
        state.conceal();
        state.config.reset();
        if let Some(table) = &mut state.table {
            table.reset();
        }
        self.function.config_write(regs::COMMAND, &[0, 0]);
        // The answer pushes the function's writes on their way before it (PCI Express Base 6.0, 2.4.1).
        self.function.config_read(regs::COMMAND, &mut [0, 0]);
    }

    /// A reset takes some 100 ms, so it is left out where it would change nothing: a function that is put into its slot
    /// is reset by the bus, and was just opened or prepared.
    fn function_reset(&self, state: &mut State) -> io::Result<()> {
        self.quiesce(state);
        let mut result = Ok(());
        if state.touched && self.can_reset() {
            let begun = Instant::now();
            result = self.function.hardware().reset();
            state.touched = result.is_err();
            tracing::debug!(device = %self.label, ms = begun.elapsed().as_millis(), ok = result.is_ok(), "function reset");
        }
        self.rewire(state);
        result
    }

    /// Brings interrupts, and with them the mappings, in line with what the guest has set.
    fn rewire(&self, state: &mut State) {
        let State {
            wiring,
            config,
            table,
            ..
        } = state;
        wiring.update(config, table.as_ref());
        let watches = wiring.intx().is_some_and(|intx| intx.watches_accesses());
        if self.watches_accesses.swap(watches, Ordering::AcqRel) != watches {
            for bar in 0..6 {
                self.show(state, bar);
            }
        }
    }

    /// Maps a region's windows into the guest where it is placed, or takes them out.
    fn show(&self, state: &mut State, bar: usize) {
        let (Some(mapped), Some(placed), Some(windows)) = (
            state.mapped.get_mut(bar),
            state.placed.get(bar),
            self.windows.get(bar),
        ) else {
            return;
        };
        mapped.clear();
        let Some(base) = *placed else { return };
        if self.watches_accesses.load(Ordering::Acquire) {
            return;
        }
        for (offset, window) in windows {
            let Some(address) = base.checked_add(*offset) else {
                continue;
            };
            match self
                .platform
                .map_bar(address, window.start(), window.size())
            {
                Ok(mapping) => mapped.push(mapping),
                Err(error) => {
                    tracing::warn!(device = %self.label, bar, %error, "a BAR cannot be mapped into the guest; accesses to it are slow");
                }
            }
        }
    }

    fn told_of_access(&self) {
        if self.watches_accesses.load(Ordering::Acquire)
            && let Some(intx) = self.lock().wiring.intx()
        {
            intx.accessed();
        }
    }

    /// The pending bits as a guest reads them, 64 vectors in each quad word.
    fn read_pending(&self, offset: u64, data: &mut [u8]) {
        let state = self.lock();
        for (at, byte) in (offset..).zip(data) {
            let first = usize::try_from(at / 8)
                .unwrap_or(usize::MAX)
                .saturating_mul(64);
            let bits = state.wiring.pending(first).to_le_bytes();
            *byte = bits.get((at % 8) as usize).copied().unwrap_or(0);
        }
    }
}

impl State {
    /// Nothing of the function is mapped into the guest any more.
    fn conceal(&mut self) {
        self.placed = [None; 6];
        for mapped in &mut self.mapped {
            mapped.clear();
        }
    }
}

/// Maps the parts of the BARs the guest may reach without us.
fn map_windows(function: &Function, traps: &Traps) -> io::Result<[Vec<Window>; 6]> {
    let page = rustix::param::page_size() as u64;
    let mut windows: [Vec<Window>; 6] = Default::default();
    for (bar, (windows, region)) in windows.iter_mut().zip(function.bars()).enumerate() {
        for range in mappable_ranges(region, &traps.of_bar(bar), page) {
            let size = range.end - range.start;
            windows.push((
                range.start,
                function.hardware().map(region, range.start, size)?,
            ));
        }
    }
    Ok(windows)
}

impl PciDevice for VfioPci {
    fn label(&self) -> String {
        self.label.clone()
    }

    fn config_read(&self, offset: u16, data: &mut [u8]) {
        let mut state = self.lock();
        if state.config.msi().is_some_and(|msi| msi.maskable) {
            let pending = state.wiring.pending(0);
            state.config.set_msi_pending((pending & 0xffff_ffff) as u32);
        }
        if state.config.needs_hardware(offset, data.len()) {
            self.function.config_read(offset, data);
        }
        state.config.overlay(offset, data);
    }

    fn config_write(&self, offset: u16, data: &[u8]) {
        let mut state = self.lock();
        let state = &mut *state;
        if state.config.asks_for_reset(offset, data) {
            if let Err(error) = self.function_reset(state) {
                tracing::warn!(device = %self.label, %error, "the guest's function-level reset failed");
            }
            return;
        }
        let before = state.config.command();
        let writes = state.config.write(offset, data);
        // Out of the guest's sight first: once memory is disabled an access would find nothing.
        if before & !state.config.command() & regs::COMMAND_MEMORY != 0 {
            state.conceal();
        }
        state.touched |= !writes.is_empty();
        for (offset, data) in writes {
            self.function.config_write(offset, &data);
        }
        self.rewire(state);
    }

    fn decode(&self) -> Decode {
        self.lock().config.decode()
    }

    fn bar_read(&self, bar: usize, offset: u64, data: &mut [u8]) {
        if let Some(at) = Traps::within(&self.traps.table, bar, offset) {
            match &self.lock().table {
                Some(table) => table.read(at, data),
                None => data.fill(0),
            }
        } else if let Some(at) = Traps::within(&self.traps.pending, bar, offset) {
            self.read_pending(at, data);
        } else {
            self.function.bar_read(bar, offset, data);
            self.told_of_access();
        }
    }

    fn bar_write(&self, bar: usize, offset: u64, data: &[u8]) {
        if let Some(at) = Traps::within(&self.traps.table, bar, offset) {
            let mut state = self.lock();
            let State {
                wiring,
                config,
                table,
                ..
            } = &mut *state;
            if let Some(table) = table {
                let changed = table.write(at, data);
                wiring.program_msix(config, Some(table), changed);
            }
        } else if Traps::within(&self.traps.pending, bar, offset).is_none() {
            self.function.bar_write(bar, offset, data);
            self.told_of_access();
        }
    }

    fn bar_placed(&self, bar: usize, at: Option<u64>) {
        let mut state = self.lock();
        if let Some(placed) = state.placed.get_mut(bar) {
            *placed = at;
            self.show(&mut state, bar);
        }
    }

    fn connect_intx(&self, line: Arc<dyn IntxLine>) {
        let mut state = self.lock();
        state.wiring.connect(Some(line));
        self.rewire(&mut state);
    }

    fn detached(&self) {
        let mut state = self.lock();
        self.quiesce(&mut state);
        state.wiring.connect(None);
        self.rewire(&mut state);
    }

    fn reset(&self) {
        if let Err(error) = self.function_reset(&mut self.lock()) {
            tracing::warn!(device = %self.label, %error, "the function cannot be reset");
        }
    }

    fn state_version(&self) -> u16 {
        0
    }

    fn save(&self) -> Result<Vec<u8>, StateError> {
        Err(StateError::NotMigratable {
            device: self.label.clone(),
            reason: "its state is in the hardware; pair it with a virtio-net device that has failover=on \
                     (failover_pair_id=ID), so that it is unplugged for the migration"
                .to_owned(),
        })
    }

    fn restore(&self, _version: u16, _state: &[u8]) -> Result<(), StateError> {
        Err(StateError::Refused {
            device: self.label.clone(),
            reason: "the state of a passed-through function cannot be taken over".to_owned(),
        })
    }
}

impl fmt::Debug for VfioPci {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VfioPci")
            .field("label", &self.label)
            .field("class", &format_args!("{:06x}", self.class))
            .finish_non_exhaustive()
    }
}

impl Drop for VfioPci {
    fn drop(&mut self) {
        self.watch = None;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        self.quiesce(&mut state);
        state.wiring.connect(None);
    }
}

#[cfg(test)]
mod tests;
