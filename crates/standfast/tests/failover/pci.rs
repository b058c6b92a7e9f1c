//! The client's way to the functions: ports 0xcf8 and 0xcfc, bridges numbered in the order they are found, regions and
//! windows wherever there is room.
//!
//! It is as careless as clients are: the low bits of a register's number stay in 0xcf8, a bridge's window is set by treating
//! its registers as a region's, and the windows of two bridges overlap.

use crate::client::Machine;

const MEMORY: u64 = 0xe000_0000;

/// Where the next region goes.
pub(crate) struct Pci {
    next: u64,
    buses: u64,
}

/// Which register bits of a virtio device's common configuration are where.
mod common {
    pub(crate) const DEVICE_FEATURE_SELECT: u64 = 0;
    pub(crate) const DEVICE_FEATURE: u64 = 4;
    pub(crate) const DRIVER_FEATURE_SELECT: u64 = 8;
    pub(crate) const DRIVER_FEATURE: u64 = 12;
    pub(crate) const STATUS: u64 = 20;
}

/// VIRTIO_NET_F_STANDBY.
pub(crate) const STANDBY: u64 = 1 << 62;
/// Indirect descriptors, event indices, and a bit that no driver sets.
const UNWANTED: u64 = 1 << 28 | 1 << 29 | 1 << 30;

impl Pci {
    /// Numbers the buses and opens the ports' windows; there are `ports` of them.
    pub(crate) fn set_up(machine: &mut Machine, ports: u64) -> Self {
        let mut pci = Self {
            next: MEMORY,
            buses: 0,
        };
        pci.number_buses(machine, 0);
        assert_eq!(pci.buses, ports);
        for port in 1..=ports {
            pci.enable(machine, port << 3);
            pci.place(machine, port << 3, 4);
        }
        pci
    }

    /// `function` is bus, device and function number in one.
    pub(crate) fn read(machine: &mut Machine, function: u64, register: u64, width: char) -> u64 {
        machine.command(&format!(
            "outl 0xcf8 {:#x}",
            1 << 31 | function << 8 | register
        ));
        machine.number(&format!("in{width} 0xcfc"))
    }

    fn write(machine: &mut Machine, function: u64, register: u64, width: char, value: u64) {
        machine.command(&format!(
            "outl 0xcf8 {:#x}",
            1 << 31 | function << 8 | register
        ));
        machine.command(&format!("out{width} 0xcfc {value:#x}"));
    }

    fn number_buses(&mut self, machine: &mut Machine, bus: u64) {
        for slot in 0..32 {
            let function = bus << 8 | slot << 3;
            if Self::read(machine, function, 0x0a, 'w') != 0x0604 {
                continue;
            }
            self.buses += 1;
            let below = self.buses;
            Self::write(machine, function, 0x18, 'b', bus);
            Self::write(machine, function, 0x19, 'b', below);
            Self::write(machine, function, 0x1a, 'b', 255);
            self.number_buses(machine, below);
            Self::write(machine, function, 0x1a, 'b', self.buses);
        }
    }

    fn enable(&mut self, machine: &mut Machine, function: u64) {
        let command = Self::read(machine, function, 4, 'w') | 7;
        Self::write(machine, function, 4, 'w', command);
        assert_eq!(Self::read(machine, function, 4, 'w') & 7, 7);
    }

    /// Gives a region the next free place; of a bridge it sets the window of memory.
    fn place(&mut self, machine: &mut Machine, function: u64, bar: u64) -> u64 {
        let register = 0x10 + 4 * bar;
        Self::write(machine, function, register, 'l', 0xffff_ffff);
        let mask = Self::read(machine, function, register, 'l') & !0xf;
        let size = 1 << mask.trailing_zeros();
        let at = self.next.next_multiple_of(size);
        self.next = at + size;
        Self::write(machine, function, register, 'l', at);
        at
    }

    /// The region and offset of a virtio structure, by the vendor capability that tells.
    fn structure(machine: &mut Machine, function: u64, kind: u64) -> Option<(u64, u64)> {
        let mut at = Self::read(machine, function, 0x34, 'b');
        while at != 0 {
            let byte = |machine: &mut Machine, n| Self::read(machine, function, at + n, 'b');
            if byte(machine, 0) == 9 && byte(machine, 3) == kind {
                let bar = byte(machine, 4);
                return Some((bar, Self::read(machine, function, at + 8, 'l')));
            }
            at = byte(machine, 1);
        }
        None
    }

    /// Brings the virtio NIC below port `bus` to DRIVER_OK and says which features it got. Without `standby` it refuses that.
    pub(crate) fn start_nic(&mut self, machine: &mut Machine, bus: u64, standby: bool) -> u64 {
        let function = bus << 8;
        assert_eq!(Self::read(machine, function, 0, 'w'), 0x1af4);
        let (bar, common) = Self::structure(machine, function, 1).unwrap();
        for kind in 2..=4 {
            let (other, _) = Self::structure(machine, function, kind).unwrap();
            assert_eq!(other, bar, "all structures are in one region");
        }
        self.enable(machine, function);
        let base = self.place(machine, function, bar) + common;
        let read = |machine: &mut Machine, at: u64, bytes: usize| {
            let answer = machine.command(&format!("read {:#x} {bytes:#x}", base + at));
            let value = u64::from_str_radix(&answer[2..], 16).unwrap();
            value.swap_bytes() >> (64 - 8 * bytes)
        };
        let write = |machine: &mut Machine, at: u64, bytes: usize, value: u64| {
            let value = value.swap_bytes() >> (64 - 8 * bytes);
            let digits = 2 * bytes;
            machine.command(&format!(
                "write {:#x} {bytes:#x} 0x{value:0digits$x}",
                base + at
            ));
        };
        for status in [0, 1, 3] {
            write(machine, common::STATUS, 1, status);
            assert_eq!(read(machine, common::STATUS, 1), status);
        }
        let mut features = 0;
        for half in 0..2 {
            write(machine, common::DEVICE_FEATURE_SELECT, 4, half);
            features |= read(machine, common::DEVICE_FEATURE, 4) << (32 * half);
        }
        features &= !UNWANTED;
        if !standby {
            features &= !STANDBY;
        }
        for half in 0..2 {
            write(machine, common::DRIVER_FEATURE_SELECT, 4, half);
            let value = features >> (32 * half) & 0xffff_ffff;
            write(machine, common::DRIVER_FEATURE, 4, value);
        }
        for status in [0xb, 0xf] {
            write(machine, common::STATUS, 1, status);
            assert_eq!(read(machine, common::STATUS, 1), status);
        }
        features
    }
}
