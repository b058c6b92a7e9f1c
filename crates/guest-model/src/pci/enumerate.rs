//! The whole tree: buses numbered, regions placed, windows opened; and one slot again when something was plugged.

use super::address::Bdf;
use super::config::ConfigAccess;
use super::function::{BarKind, Bridge, Function};
use super::plan::{Need, Range, pack};
use super::regs;
use crate::bus::{BusError, GuestBus};
use crate::error::GuestError;
use std::collections::BTreeMap;

const KINDS: [BarKind; 3] = [BarKind::Io, BarKind::Memory, BarKind::Prefetch64];

/// What a bridge's windows are multiples of.
const IO_GRAIN: u64 = 0x1000;
const MEMORY_GRAIN: u64 = 1 << 20;

/// What a slot gets that may be empty, so that what is plugged later finds room.
const RESERVE_MEMORY: u64 = 2 << 20;
const RESERVE_PREFETCH: u64 = 2 << 20;

/// The root bus's address ranges to place regions in: start and size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Windows {
    /// Ports.
    pub io: (u64, u64),
    /// Memory below 4 GiB.
    pub memory: (u64, u64),
    /// Memory above 4 GiB, for regions that are prefetchable and 64 bits wide.
    pub prefetch: (u64, u64),
}

impl Default for Windows {
    /// What is free on a q35 board with less than 2 GiB of RAM: ports beyond those of the chipset, memory between ECAM
    /// and the interrupt controllers, and 16 GiB from 32 GiB on.
    fn default() -> Self {
        Self {
            io: (0x6000, 0xa000),
            memory: (0xc000_0000, 0x3e00_0000),
            prefetch: (0x8_0000_0000, 0x4_0000_0000),
        }
    }
}

impl Windows {
    fn range(&self, kind: BarKind) -> Range {
        let (start, size) = match kind {
            BarKind::Io => self.io,
            BarKind::Memory => self.memory,
            BarKind::Prefetch64 => self.prefetch,
        };
        Range::new(start, size)
    }
}

/// All functions, as this guest set them up.
#[derive(Debug, Clone)]
pub struct PciTree {
    access: ConfigAccess,
    functions: Vec<Function>,
    /// What is free behind each bridge.
    free: BTreeMap<(Bdf, BarKind), Range>,
    reserve: bool,
}

impl PciTree {
    /// Sets everything up: what a firmware does before a kernel, and a kernel does again.
    ///
    /// Afterwards all functions decode their regions and none is bus master but the bridges.
    ///
    /// # Errors
    /// The bus. A region without room stays unplaced, and its function does not decode it.
    pub fn enumerate(
        bus: &mut dyn GuestBus,
        access: ConfigAccess,
        windows: &Windows,
    ) -> Result<Self, GuestError> {
        let mut tree = Self {
            access,
            functions: Vec::new(),
            free: BTreeMap::new(),
            reserve: true,
        };
        let mut last = 0;
        tree.scan_bus(bus, 0, 32, &mut last)?;
        tree.functions.sort_by_key(|function| function.bdf);
        for kind in KINDS {
            let mut root = windows.range(kind);
            let need = tree.packed(0, kind).total;
            let base = root.take(need);
            if base.is_none() && need.size > 0 {
                // Without the reserves there may be room; they are the same for all three spaces.
                tree.reserve = false;
            }
            let base = base.or_else(|| root.take(tree.packed(0, kind).total));
            if let Some(base) = base {
                tree.place_bus(0, kind, base);
            }
            tree.reserve = true;
        }
        for at in 0..tree.functions.len() {
            tree.program(bus, at)?;
        }
        Ok(tree)
    }

    /// How configuration accesses are made.
    pub fn access(&self) -> ConfigAccess {
        self.access
    }

    /// All functions, by address.
    pub fn functions(&self) -> &[Function] {
        &self.functions
    }

    /// The function at an address.
    pub fn function(&self, bdf: Bdf) -> Option<&Function> {
        self.functions.iter().find(|function| function.bdf == bdf)
    }

    /// The functions on a bus.
    pub fn on_bus(&self, number: u8) -> impl Iterator<Item = &Function> {
        self.functions
            .iter()
            .filter(move |function| function.bdf.bus() == number)
    }

    /// The bridge whose secondary bus this is; `None` for the root bus.
    pub fn bridge_of(&self, number: u8) -> Option<&Function> {
        self.functions
            .iter()
            .find(|f| f.bridge.as_ref().is_some_and(|b| b.secondary == number))
    }

    /// Looks at the slot behind `port` again, and sets up what was not there before. Returns the new functions.
    ///
    /// # Errors
    /// The bus; `port` is no bridge; there is no room for a region.
    pub fn rescan(&mut self, bus: &mut dyn GuestBus, port: Bdf) -> Result<Vec<Bdf>, GuestError> {
        let secondary = self.secondary(port)?;
        let mut found = Vec::new();
        for number in 0..8 {
            let bdf = Bdf::new(secondary, 0, number);
            if self.function(bdf).is_some() {
                continue;
            }
            let Some(mut function) = Function::probe(bus, self.access, bdf)? else {
                if number == 0 {
                    break;
                }
                continue;
            };
            for bar in &mut function.bars {
                let need = Need {
                    size: bar.size,
                    align: bar.size,
                };
                let free = self.free.get_mut(&(port, bar.kind));
                bar.address = free.and_then(|free| free.take(need));
                if bar.address.is_none() && bar.kind == BarKind::Prefetch64 {
                    let below = self.free.get_mut(&(port, BarKind::Memory));
                    bar.address = below.and_then(|free| free.take(need));
                }
                if bar.address.is_none() && bar.kind != BarKind::Io {
                    return Err(GuestError::NoRoom(format!("region {} of {bdf}", bar.index)));
                }
            }
            found.push(bdf);
            self.functions.push(function);
            let at = self.functions.len() - 1;
            self.program(bus, at)?;
            let multifunction = self.access.read8(bus, bdf, regs::HEADER_TYPE)? & 0x80 != 0;
            if number == 0 && !multifunction {
                break;
            }
        }
        self.functions.sort_by_key(|function| function.bdf);
        Ok(found)
    }

    /// Forgets what was behind `port`, and takes its addresses back. Returns the functions that were there.
    ///
    /// # Errors
    /// `port` is no bridge.
    pub fn forget(&mut self, port: Bdf) -> Result<Vec<Function>, GuestError> {
        let secondary = self.secondary(port)?;
        let gone: Vec<Function> = self.on_bus(secondary).cloned().collect();
        self.functions.retain(|f| f.bdf.bus() != secondary);
        for bar in gone.iter().flat_map(|function| &function.bars) {
            for kind in KINDS {
                if let (Some(address), Some(free)) = (bar.address, self.free.get_mut(&(port, kind)))
                {
                    free.give_back(address);
                }
            }
        }
        Ok(gone)
    }

    fn secondary(&self, port: Bdf) -> Result<u8, GuestError> {
        self.function(port)
            .and_then(|function| function.bridge.as_ref())
            .map(|bridge| bridge.secondary)
            .ok_or_else(|| GuestError::unfit(port, "is no bridge"))
    }

    /// Finds all functions on a bus, and behind its bridges; numbers buses on the way, depth first.
    fn scan_bus(
        &mut self,
        bus: &mut dyn GuestBus,
        number: u8,
        devices: u8,
        last: &mut u8,
    ) -> Result<(), BusError> {
        for device in 0..devices {
            for function in 0..8 {
                let bdf = Bdf::new(number, device, function);
                let Some(mut found) = Function::probe(bus, self.access, bdf)? else {
                    if function == 0 {
                        break;
                    }
                    continue;
                };
                if found.bridge.is_some() && *last < 0xff {
                    *last += 1;
                    let secondary = *last;
                    let numbers =
                        |subordinate: u8| u32::from_le_bytes([number, secondary, subordinate, 0]);
                    self.access
                        .write32(bus, bdf, regs::BUS_NUMBERS, numbers(0xff))?;
                    let port_type = match found.capability(regs::CAP_EXPRESS) {
                        Some(at) => {
                            let offset = at.offset + regs::EXPRESS_FLAGS;
                            self.access.read16(bus, bdf, offset)? >> 4 & 15
                        }
                        None => 0,
                    };
                    // A root port and a switch's downstream port end in a link, with one device on it.
                    let devices = if matches!(port_type, 4 | 6) { 1 } else { 32 };
                    self.scan_bus(bus, secondary, devices, last)?;
                    self.access
                        .write32(bus, bdf, regs::BUS_NUMBERS, numbers(*last))?;
                    found.bridge = Some(Bridge {
                        secondary,
                        subordinate: *last,
                        ..Bridge::default()
                    });
                }
                self.functions.push(found);
                let header = self.access.read8(bus, bdf, regs::HEADER_TYPE)?;
                if function == 0 && header & 0x80 == 0 {
                    break;
                }
            }
        }
        Ok(())
    }

    /// The needs on a bus: first those of regions, then those of bridges' windows, with what they are for.
    fn needs(&self, number: u8, kind: BarKind) -> Vec<(usize, Option<usize>, Need)> {
        let mut needs = Vec::new();
        for (at, function) in self.functions.iter().enumerate() {
            if function.bdf.bus() != number {
                continue;
            }
            for (bar_at, bar) in function.bars.iter().enumerate() {
                if bar.kind == kind {
                    let (size, align) = (bar.size, bar.size);
                    needs.push((at, Some(bar_at), Need { size, align }));
                }
            }
            if let Some(bridge) = &function.bridge {
                let inside = self.packed(bridge.secondary, kind).total;
                let (grain, reserve) = match kind {
                    BarKind::Io => (IO_GRAIN, 0),
                    BarKind::Memory => (MEMORY_GRAIN, RESERVE_MEMORY),
                    BarKind::Prefetch64 => (MEMORY_GRAIN, RESERVE_PREFETCH),
                };
                let reserve = if self.reserve { reserve } else { 0 };
                let size = inside.size.max(reserve).next_multiple_of(grain);
                let align = inside.align.max(grain);
                needs.push((at, None, Need { size, align }));
            }
        }
        needs
    }

    fn packed(&self, number: u8, kind: BarKind) -> super::plan::Packing {
        let needs = self.needs(number, kind);
        pack(&needs.iter().map(|(_, _, need)| *need).collect::<Vec<_>>())
    }

    fn place_bus(&mut self, number: u8, kind: BarKind, base: u64) {
        let needs = self.needs(number, kind);
        let packing = self.packed(number, kind);
        for ((at, bar_at, need), offset) in needs.into_iter().zip(packing.offsets) {
            if need.size == 0 {
                continue;
            }
            let start = base + offset;
            let function = &mut self.functions[at];
            match bar_at {
                Some(bar_at) => {
                    function.bars[bar_at].address = Some(start);
                    let bridge = self.bridge_of(number).map(|bridge| bridge.bdf);
                    if let Some(free) = bridge.and_then(|b| self.free.get_mut(&(b, kind))) {
                        free.mark(start, need.size);
                    }
                }
                None => {
                    let bdf = function.bdf;
                    let Some(bridge) = &mut function.bridge else {
                        continue;
                    };
                    let window = match kind {
                        BarKind::Io => &mut bridge.io,
                        BarKind::Memory => &mut bridge.memory,
                        BarKind::Prefetch64 => &mut bridge.prefetch,
                    };
                    *window = Some((start, need.size));
                    let secondary = bridge.secondary;
                    self.free.insert((bdf, kind), Range::new(start, need.size));
                    self.place_bus(secondary, kind, start);
                }
            }
        }
    }

    /// Writes what was decided for one function into its registers.
    fn program(&mut self, bus: &mut dyn GuestBus, at: usize) -> Result<(), BusError> {
        let access = self.access;
        let function = &self.functions[at];
        let bdf = function.bdf;
        for bar in &function.bars {
            let Some(address) = bar.address else { continue };
            let offset = regs::BAR0 + 4 * u16::from(bar.index);
            access.write32(bus, bdf, offset, address as u32)?;
            if bar.wide {
                access.write32(bus, bdf, offset + 4, (address >> 32) as u32)?;
            }
        }
        let mut command = function.decodes();
        if let Some(bridge) = &function.bridge {
            open_windows(bus, access, bdf, bridge)?;
            command = regs::COMMAND_IO | regs::COMMAND_MEMORY | regs::COMMAND_MASTER;
        }
        access.command(bus, bdf, command, 0)?;
        Ok(())
    }
}

/// PCI-to-PCI bridge windows (PCI-to-PCI Bridge Architecture 1.2, 3.2.5); one whose base is above its limit is shut.
fn open_windows(
    bus: &mut dyn GuestBus,
    access: ConfigAccess,
    bdf: Bdf,
    bridge: &Bridge,
) -> Result<(), BusError> {
    let ends = |window: Option<(u64, u64)>, shut: (u64, u64)| {
        window.map_or(shut, |(start, size)| (start, start + size - 1))
    };
    let (base, limit) = ends(bridge.io, (0xf000, 0x0fff));
    let io = (base >> 8 & 0xf0 | limit & 0xf000) as u16;
    access.write16(bus, bdf, regs::IO_WINDOW, io)?;
    access.write32(bus, bdf, regs::IO_WINDOW_UPPER, 0)?;
    let words = |base: u64, limit: u64| {
        (base >> 16 & 0xfff0) as u32 | ((limit >> 16 & 0xfff0) as u32) << 16
    };
    let (base, limit) = ends(bridge.memory, (0xfff0_0000, 0));
    access.write32(bus, bdf, regs::MEMORY_WINDOW, words(base, limit))?;
    let (base, limit) = ends(bridge.prefetch, (0xfff0_0000, 0));
    access.write32(bus, bdf, regs::PREFETCH_WINDOW, words(base, limit))?;
    let (base, limit) = ((base >> 32) as u32, (limit >> 32) as u32);
    access.write32(bus, bdf, regs::PREFETCH_BASE_UPPER, base)?;
    access.write32(bus, bdf, regs::PREFETCH_LIMIT_UPPER, limit)?;
    Ok(())
}
