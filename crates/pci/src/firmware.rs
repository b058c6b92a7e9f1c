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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{FakeFunction, IO, MEM32, MEM64, complex, function, port};
    use crate::{BarRegion, BusSnapshot, FunctionSnapshot, SlotDriver};
    use std::sync::Arc;

    fn windows(mem64: bool) -> FirmwareWindows {
        FirmwareWindows {
            io: IO.0..=IO.1,
            mem32: MEM32.0..=MEM32.1,
            mem64_prefetch: mem64.then_some(MEM64.0..=MEM64.1),
            interrupt_lines: [10, 10, 11, 11, 10, 10, 11, 11],
        }
    }

    const E1000E: [(usize, BarKind, u64, bool); 4] = [
        (0, BarKind::Memory32, 0x2_0000, false),
        (1, BarKind::Memory32, 0x2_0000, false),
        (2, BarKind::Io, 0x20, false),
        (3, BarKind::Memory32, 0x4000, false),
    ];
    const VF: [(usize, BarKind, u64, bool); 2] = [
        (0, BarKind::Memory64, 0x4000, false),
        (3, BarKind::Memory64, 0x4000, true),
    ];

    /// A NIC on bus 0 and `ports` ports, every third one occupied.
    fn tree(ports: u8) -> Arc<RootComplex> {
        let root = complex();
        root.insert(
            "pcie.0",
            1 << 3,
            function("net0", FakeFunction::new("net0", &E1000E)),
        )
        .unwrap();
        for index in 0..ports {
            let id = format!("rp{index}");
            // Eight ports a device, as many a machine with more than thirty has them.
            let mut config = port(&id, u16::from(index), SlotDriver::Acpi)
                .0
                .config()
                .clone();
            config.multifunction = true;
            let made = crate::RootPort::new(config, &crate::testing::RecordingPlatform::default());
            root.insert_port((2 << 3) + index, Arc::new(made.unwrap()))
                .unwrap();
            if index % 3 == 0 {
                let bars = if index % 2 == 0 {
                    E1000E.as_slice()
                } else {
                    VF.as_slice()
                };
                let id = format!("d{index}");
                root.insert(
                    &format!("rp{index}"),
                    0,
                    function(&id, FakeFunction::new(&id, bars)),
                )
                .unwrap();
            }
        }
        root
    }

    fn everything_is_reachable(functions: &[FunctionSnapshot]) {
        for function in functions {
            for region in &function.regions {
                assert_eq!(
                    region.at,
                    Some(region.region.base),
                    "{} {region:?}",
                    function.id
                );
            }
            if let Some(bridge) = &function.bridge {
                everything_is_reachable(&bridge.bus.functions);
            }
        }
    }

    fn below(snapshot: &BusSnapshot, port: &str) -> Vec<FunctionSnapshot> {
        let port = snapshot.functions.iter().find(|f| f.id == port).unwrap();
        port.bridge.as_ref().unwrap().bus.functions.clone()
    }

    #[test]
    fn everything_is_placed_and_the_same_after_a_reset() {
        for mem64 in [true, false] {
            let root = tree(64);
            let done = assign(&root, &windows(mem64));
            assert_eq!(
                done,
                Assignment {
                    last_bus: 64,
                    unplaced: Vec::new()
                }
            );
            let first = root.snapshot();
            everything_is_reachable(&first.functions);
            assert_eq!(first.functions[0].interrupt_line, 10);
            assert_eq!(assign(&root, &windows(mem64)), done);
            assert_eq!(root.snapshot(), first);
            root.reset();
            assign(&root, &windows(mem64));
            assert_eq!(root.snapshot(), first);
        }
    }

    #[test]
    fn a_nic_plugged_later_finds_room_in_every_window() {
        for mem64 in [true, false] {
            let root = tree(9);
            assign(&root, &windows(mem64));
            for (index, bars) in [E1000E.as_slice(), VF.as_slice()].into_iter().enumerate() {
                let id = format!("late{index}");
                let bus = format!("rp{}", index + 1);
                let device = FakeFunction::new(&id, bars);
                root.insert_hot(&bus, 0, function(&id, device)).unwrap();
                place_as_linux_does(&root, &bus, bars);
                everything_is_reachable(&below(&root.snapshot(), &bus));
            }
        }
    }

    /// Puts each region of the newcomer below `bus` into the window of its kind.
    fn place_as_linux_does(root: &RootComplex, bus: &str, bars: &[(usize, BarKind, u64, bool)]) {
        let snapshot = root.snapshot();
        let port = snapshot.functions.iter().find(|f| f.id == bus).unwrap();
        let windows = port.bridge.as_ref().unwrap().windows.clone();
        let bdf = Bdf::new(windows.secondary, 0, 0);
        let mut next = [&windows.io, &windows.memory, &windows.prefetchable]
            .map(|window| *window.as_ref().unwrap().start());
        for &(bar, kind, size, prefetchable) in bars {
            let at = match kind {
                BarKind::Io => &mut next[0],
                BarKind::Memory64 if prefetchable => &mut next[2],
                _ => &mut next[1],
            };
            let base = at.next_multiple_of(size);
            *at = base + size;
            let register = regs::BAR0 + 4 * u16::try_from(bar).unwrap();
            let bytes = base.to_le_bytes();
            root.config_write(bdf, register, &bytes[..4]);
            if kind == BarKind::Memory64 {
                root.config_write(bdf, register + 4, &bytes[4..]);
            }
        }
        root.config_write(bdf, regs::COMMAND, &[7, 0]);
    }

    #[test]
    fn what_does_not_fit_is_said_and_stays_off() {
        let root = tree(4);
        let mut small = windows(false);
        small.mem32 = MEM32.0..=MEM32.0 + 0x3f_ffff;
        let done = assign(&root, &small);
        let snapshot = root.snapshot();
        assert!(
            done.unplaced.is_empty(),
            "without room to spare it fits: {done:?}"
        );
        everything_is_reachable(&snapshot.functions);
        small.mem32 = MEM32.0..=MEM32.0 + 0x6_ffff;
        let done = assign(&root, &small);
        assert!(!done.unplaced.is_empty());
        let d0 = &below(&root.snapshot(), "rp0")[0];
        let memory = |r: &&crate::RegionSnapshot| !r.is_io();
        assert!(d0.regions.iter().filter(memory).all(|r| r.at.is_none()));
        assert!(d0.regions.iter().any(|r| r.at.is_some()), "I/O is there");
    }

    #[test]
    fn huge_and_odd_regions_do_not_upset_the_plan() {
        let root = complex();
        let bars = [
            (0, BarKind::Memory64, 1 << 40, true),
            (2, BarKind::Memory64, 1 << 33, true),
            (4, BarKind::Memory32, 1 << 31, false),
        ];
        root.insert_port(2 << 3, port("rp0", 1, SlotDriver::Acpi).0)
            .unwrap();
        root.insert("rp0", 0, function("gpu", FakeFunction::new("gpu", &bars)))
            .unwrap();
        let done = assign(&root, &windows(true));
        let nic = Bdf::new(1, 0, 0);
        assert!(done.unplaced.contains(&(nic, 4)) && done.unplaced.contains(&(nic, 0)));
        let gpu = &below(&root.snapshot(), "rp0")[0];
        assert_eq!(
            gpu.regions[2].region,
            BarRegion {
                kind: BarKind::Memory32,
                base: 0,
                size: 1 << 31,
                prefetchable: false
            }
        );
    }
}
