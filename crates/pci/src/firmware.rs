//! What a firmware does to the bus before a kernel starts, for machines that have none: numbers the buses,
//! places every region, opens the ports' windows, stores interrupt lines. Through configuration accesses alone.
//!
//! The ports' windows leave room for what is plugged in later, so that a kernel has nothing to move.

use crate::address::Bdf;
use crate::device::BarKind;
use crate::firmware_plan::{BarNeed, Plan, PortNeed};
use crate::intx::{pirq, swizzle};
use crate::regs;
use crate::root_complex::RootComplex;
use std::ops::RangeInclusive;

/// The address ranges to place regions in, all within the root complex's windows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FirmwareWindows {
    /// I/O ports.
    pub io: RangeInclusive<u64>,
    /// Memory below 4 GiB.
    pub mem32: RangeInclusive<u64>,
    /// Memory for prefetchable regions, above 4 GiB; without it they go below.
    pub mem64_prefetch: Option<RangeInclusive<u64>>,
    /// The value of the interrupt line registers for PIRQA to PIRQH.
    pub interrupt_lines: [u8; 8],
}

/// What came of an assignment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Assignment {
    /// Highest bus number given.
    pub last_bus: u8,
    /// Regions there was no room for, by function and base address register ([`ROM_BAR`](crate::ROM_BAR) for the
    /// ROM). Their functions do not decode that address space.
    pub unplaced: Vec<(Bdf, usize)>,
}

/// One function as the scan found it.
struct Found {
    bdf: Bdf,
    is_bridge: bool,
    pin: u8,
    bars: Vec<BarNeed>,
}

/// Assigns everything. The result depends on the tree alone: after a reset it is the same again.
///
/// Pre: no vCPU runs. Functions end up decoding what was placed, without bus mastering; ports forward all.
pub fn assign(root: &RootComplex, windows: &FirmwareWindows) -> Assignment {
    let bus = Bus { root };
    let on_root: Vec<Found> = bus.scan(0, 32);
    let mut result = Assignment::default();
    let mut needs = Vec::new();
    let mut below = Vec::new();
    for bridge in on_root.iter().filter(|found| found.is_bridge) {
        let Some(number) = result.last_bus.checked_add(1) else {
            break;
        };
        result.last_bus = number;
        bus.close(bridge.bdf);
        for (offset, value) in [
            (regs::PRIMARY_BUS, 0),
            (regs::SECONDARY_BUS, number),
            (regs::SUBORDINATE_BUS, number),
        ] {
            bus.write8(bridge.bdf, offset, value);
        }
        let found = bus.scan(number, 1);
        needs.push(PortNeed {
            bars: found.iter().flat_map(|found| found.bars.clone()).collect(),
        });
        below.push((bridge.bdf, found));
    }

    let root_bars: Vec<BarNeed> = on_root
        .iter()
        .flat_map(|found| found.bars.clone())
        .collect();
    let plan = Plan::make(windows, &root_bars, &needs);
    for (bar, base) in &plan.bars {
        bus.place(bar, *base);
    }
    result.unplaced = plan.unplaced.iter().map(|bar| (bar.bdf, bar.bar)).collect();
    for ((bridge, found), ports) in below.iter().zip(&plan.ports) {
        bus.open(
            *bridge,
            ports.io.as_ref(),
            ports.mem32.as_ref(),
            ports.prefetch.as_ref(),
        );
        for function in found {
            let pin = |pin| pirq(bridge.device(), swizzle(function.bdf.device(), pin));
            bus.finish(function, &plan, &windows.interrupt_lines, pin);
        }
    }
    for function in &on_root {
        let pin = |pin| pirq(function.bdf.device(), pin);
        bus.finish(function, &plan, &windows.interrupt_lines, pin);
    }
    for (bdf, bar) in &result.unplaced {
        tracing::warn!(%bdf, bar, "no room left for this region");
    }
    result
}

struct Bus<'a> {
    root: &'a RootComplex,
}

impl Bus<'_> {
    fn read<const N: usize>(&self, bdf: Bdf, offset: u16) -> [u8; N] {
        let mut data = [0xff; N];
        self.root.config_read(bdf, offset, &mut data);
        data
    }

    fn read32(&self, bdf: Bdf, offset: u16) -> u32 {
        u32::from_le_bytes(self.read(bdf, offset))
    }

    fn write8(&self, bdf: Bdf, offset: u16, value: u8) {
        self.root.config_write(bdf, offset, &[value]);
    }

    fn write16(&self, bdf: Bdf, offset: u16, value: u16) {
        self.root.config_write(bdf, offset, &value.to_le_bytes());
    }

    fn write32(&self, bdf: Bdf, offset: u16, value: u32) {
        self.root.config_write(bdf, offset, &value.to_le_bytes());
    }

    /// Every function of a bus, with decoding turned off and the sizes of its regions found out.
    fn scan(&self, bus: u8, devices: u8) -> Vec<Found> {
        let mut found = Vec::new();
        for device in 0..devices {
            let first = Bdf::new(bus, device, 0);
            if self.read32(first, regs::VENDOR_ID) & 0xffff == 0xffff {
                continue;
            }
            let [kind] = self.read(first, regs::HEADER_TYPE);
            let functions = if kind & regs::HEADER_MULTIFUNCTION != 0 {
                8
            } else {
                1
            };
            for function in 0..functions {
                let bdf = Bdf::new(bus, device, function);
                if self.read32(bdf, regs::VENDOR_ID) & 0xffff == 0xffff {
                    continue;
                }
                let [kind] = self.read(bdf, regs::HEADER_TYPE);
                let is_bridge = kind & !regs::HEADER_MULTIFUNCTION == 1;
                self.write16(bdf, regs::COMMAND, 0);
                let [pin] = self.read(bdf, regs::INTERRUPT_PIN);
                found.push(Found {
                    bdf,
                    is_bridge,
                    pin,
                    bars: self.sizes(bdf, is_bridge),
                });
            }
        }
        found
    }

    fn sizes(&self, bdf: Bdf, is_bridge: bool) -> Vec<BarNeed> {
        let mut needs = Vec::new();
        let count = if is_bridge { 2 } else { 6 };
        let mut index: u16 = 0;
        while index < count {
            let register = regs::BAR0 + 4 * index;
            let flags = self.read32(bdf, register);
            let is_io = flags & 1 != 0;
            let is_64 = !is_io && flags & 6 == 4 && index + 1 < count;
            let low = self.size_bits(bdf, register, if is_io { !3 } else { !0xf }, !0);
            let bits = if is_64 {
                u64::from(self.size_bits(bdf, register + 4, !0, !0)) << 32 | u64::from(low)
            } else if is_io {
                // The upper half of an I/O register may be hard-wired to 0.
                u64::from(low) | 0xffff_ffff_ffff_0000
            } else {
                u64::from(low) | 0xffff_ffff_0000_0000
            };
            if low != 0 || is_64 && bits != 0 {
                needs.push(BarNeed {
                    bdf,
                    bar: usize::from(index),
                    register,
                    kind: match (is_io, is_64) {
                        (true, _) => BarKind::Io,
                        (_, true) => BarKind::Memory64,
                        _ => BarKind::Memory32,
                    },
                    prefetchable: !is_io && flags & 8 != 0,
                    size: bits & bits.wrapping_neg(),
                });
            }
            index += if is_64 { 2 } else { 1 };
        }
        let rom = if is_bridge {
            regs::ROM_TYPE1
        } else {
            regs::ROM_TYPE0
        };
        let bits = self.size_bits(bdf, rom, !0x7ff, !0x7ff);
        if bits != 0 {
            needs.push(BarNeed {
                bdf,
                bar: crate::ROM_BAR,
                register: rom,
                kind: BarKind::Memory32,
                prefetchable: false,
                size: u64::from(bits & bits.wrapping_neg()),
            });
        }
        needs
    }

    /// Which of the address bits `mask` of a base address register can be written, found out by writing `ones`
    /// (not to the ROM's enable bit).
    fn size_bits(&self, bdf: Bdf, register: u16, mask: u32, ones: u32) -> u32 {
        self.write32(bdf, register, ones);
        let bits = self.read32(bdf, register) & mask;
        self.write32(bdf, register, 0);
        bits
    }

    fn place(&self, bar: &BarNeed, base: u64) {
        let [a, b, c, d, upper @ ..] = base.to_le_bytes();
        self.root.config_write(bar.bdf, bar.register, &[a, b, c, d]);
        if bar.kind == BarKind::Memory64 {
            self.root.config_write(bar.bdf, bar.register + 4, &upper);
        }
    }

    /// Closes all windows of a port: base above limit.
    fn close(&self, port: Bdf) {
        self.open(port, None, None, None);
    }

    fn open(
        &self,
        port: Bdf,
        io: Option<&RangeInclusive<u64>>,
        mem32: Option<&RangeInclusive<u64>>,
        prefetch: Option<&RangeInclusive<u64>>,
    ) {
        // The fields hold address bits 12 to 15, 20 to 31 and 20 to 63.
        let (base, limit) = io.map_or((0xf0, 0), |io| {
            (io.start() >> 8 & 0xf0, io.end() >> 8 & 0xf0)
        });
        let [io_base, ..] = base.to_le_bytes();
        let [io_limit, ..] = limit.to_le_bytes();
        self.root
            .config_write(port, regs::IO_BASE, &[io_base, io_limit]);
        let fields = |window: Option<&RangeInclusive<u64>>| {
            let (base, limit) = window.map_or((0xfff0_0000, 0), |w| (*w.start(), *w.end()));
            let [_, _, a, b, base_upper @ ..] = base.to_le_bytes();
            let [_, _, c, d, limit_upper @ ..] = limit.to_le_bytes();
            ([a & 0xf0, b, c & 0xf0, d], base_upper, limit_upper)
        };
        let (low, ..) = fields(mem32);
        self.root.config_write(port, regs::MEMORY_BASE, &low);
        let (low, base_upper, limit_upper) = fields(prefetch);
        self.root.config_write(port, regs::PREFETCH_BASE, &low);
        self.root
            .config_write(port, regs::PREFETCH_BASE_UPPER, &base_upper);
        self.root
            .config_write(port, regs::PREFETCH_BASE_UPPER + 4, &limit_upper);
    }

    /// Interrupt line and command register.
    fn finish(&self, found: &Found, plan: &Plan, lines: &[u8; 8], line_of: impl Fn(u8) -> u8) {
        if let Some(pin) = found.pin.checked_sub(1).filter(|pin| *pin < 4) {
            let line = lines.get(usize::from(line_of(pin)));
            self.write8(
                found.bdf,
                regs::INTERRUPT_LINE,
                line.copied().unwrap_or(0xff),
            );
        }
        let mut command = 0;
        if found.is_bridge {
            command |= regs::COMMAND_IO | regs::COMMAND_MEMORY | regs::COMMAND_BUS_MASTER;
        }
        // A space with a region that found no place stays off: its register holds no address.
        for (bit, is_io) in [(regs::COMMAND_IO, true), (regs::COMMAND_MEMORY, false)] {
            let mut bars = found
                .bars
                .iter()
                .filter(|bar| bar.bar != crate::ROM_BAR && (bar.kind == BarKind::Io) == is_io)
                .peekable();
            if bars.peek().is_some() && bars.all(|bar| !plan.unplaced.contains(bar)) {
                command |= bit;
            }
        }
        self.write16(found.bdf, regs::COMMAND, command);
    }
}
