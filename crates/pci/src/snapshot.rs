//! The tree as a monitor shows it (`query-pci`).

use crate::address::Bdf;
use crate::bridge_windows::{BridgeWindows, read_u8, read_u16};
use crate::device::{BarKind, BarRegion, PciDevice};
use crate::regs;
use crate::root_complex::RootComplex;
use crate::topology::{Function, ROOT_BUS, Slotted};

/// One bus and what is on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BusSnapshot {
    /// Its id: `pcie.0`, or the port's.
    pub id: String,
    /// Its number; 0 for one below a port that software has not numbered yet.
    pub number: u8,
    /// Its functions by device and function number.
    pub functions: Vec<FunctionSnapshot>,
}

/// One function, by its registers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FunctionSnapshot {
    /// Its id in the tree.
    pub id: String,
    /// The device model's name.
    pub model: String,
    /// Where it answers.
    pub bdf: Bdf,
    /// Vendor id.
    pub vendor: u16,
    /// Device id.
    pub device: u16,
    /// Base class and sub-class.
    pub class: u16,
    /// Subsystem vendor and subsystem id; 0 for a bridge.
    pub subsystem: (u16, u16),
    /// Interrupt line as software stored it.
    pub interrupt_line: u8,
    /// Interrupt pin: 0 none, 1 INTA … 4 INTD.
    pub interrupt_pin: u8,
    /// Its regions.
    pub regions: Vec<RegionSnapshot>,
    /// What is below, if it is a port.
    pub bridge: Option<BridgeSnapshot>,
}

/// One region of a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RegionSnapshot {
    /// Index of its base address register.
    pub bar: usize,
    /// Kind, size and what the register holds.
    pub region: BarRegion,
    /// Where it is reachable now; `None` while decoding is off or a window in the way is closed.
    pub at: Option<u64>,
}

/// A port's windows and the bus below.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BridgeSnapshot {
    /// Bus numbers and windows.
    pub windows: BridgeWindows,
    /// The bus below.
    pub bus: BusSnapshot,
}

impl RootComplex {
    /// The whole tree at this moment.
    pub fn snapshot(&self) -> BusSnapshot {
        self.with_topology(|topology| {
            let placed = |device: &dyn PciDevice, bar: usize| {
                let mut regions = topology.placed.regions();
                let found = regions.find(|region| {
                    region.bar == bar && std::ptr::addr_eq(&raw const *region.device, device)
                });
                found.map(|region| region.start)
            };
            BusSnapshot {
                id: ROOT_BUS.to_owned(),
                number: 0,
                functions: topology
                    .functions
                    .iter()
                    .map(|(&devfn, slotted)| {
                        let mut snapshot = function_snapshot(0, devfn, &slotted.function, &placed);
                        snapshot.bridge = bridge_snapshot(slotted, &placed);
                        snapshot
                    })
                    .collect(),
            }
        })
    }
}

impl BusSnapshot {
    /// Adds a function that its guest has ejected and that the host keeps, to the bus `bus` below this one. Its regions are
    /// nowhere. Nothing happens if there is no such bus, or somebody is in that place.
    pub fn add_kept(&mut self, bus: &str, devfn: u8, function: &Function) {
        let ports = self.functions.iter_mut();
        let mut below = ports.filter_map(|port| port.bridge.as_mut().map(|bridge| &mut bridge.bus));
        let Some(below) = below.find(|below| below.id == bus) else {
            return;
        };
        let kept = function_snapshot(below.number, devfn, function, &|_, _| None);
        if below.functions.iter().all(|there| there.bdf != kept.bdf) {
            below.functions.push(kept);
        }
    }
}

fn bridge_snapshot(
    slotted: &Slotted,
    placed: &dyn Fn(&dyn PciDevice, usize) -> Option<u64>,
) -> Option<BridgeSnapshot> {
    let below = slotted.below.as_ref()?;
    let number = below.windows.secondary;
    Some(BridgeSnapshot {
        windows: below.windows.clone(),
        bus: BusSnapshot {
            id: slotted.function.id.clone(),
            number,
            functions: below
                .functions
                .iter()
                .map(|(&devfn, child)| function_snapshot(number, devfn, &child.function, placed))
                .collect(),
        },
    })
}

fn function_snapshot(
    bus: u8,
    devfn: u8,
    function: &Function,
    placed: &dyn Fn(&dyn PciDevice, usize) -> Option<u64>,
) -> FunctionSnapshot {
    let device = &*function.device;
    let is_bridge = read_u8(device, regs::HEADER_TYPE) & !regs::HEADER_MULTIFUNCTION == 1;
    let regions = device.decode().bars.into_iter().enumerate();
    FunctionSnapshot {
        id: function.id.clone(),
        model: function.model.clone(),
        bdf: Bdf::from_requester_id(u16::from_be_bytes([bus, devfn])),
        vendor: read_u16(device, regs::VENDOR_ID),
        device: read_u16(device, regs::DEVICE_ID),
        class: read_u16(device, regs::CLASS),
        subsystem: if is_bridge {
            (0, 0)
        } else {
            (
                read_u16(device, regs::SUBSYSTEM_VENDOR_ID),
                read_u16(device, regs::SUBSYSTEM_ID),
            )
        },
        interrupt_line: read_u8(device, regs::INTERRUPT_LINE),
        interrupt_pin: read_u8(device, regs::INTERRUPT_PIN),
        regions: regions
            .filter_map(|(bar, region)| {
                Some(RegionSnapshot {
                    bar,
                    region: region?,
                    at: placed(device, bar),
                })
            })
            .collect(),
        bridge: None,
    }
}

impl RegionSnapshot {
    /// Whether it is in the I/O address space.
    pub fn is_io(&self) -> bool {
        self.region.kind == BarKind::Io
    }
}
