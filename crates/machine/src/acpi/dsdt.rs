//! The differentiated system description table: the root bus, the root ports with the methods of ACPI hotplug,
//! the serial ports, soft power-off.
//!
//! ACPI hotplug as the guest sees it: the machine sets a slot's bit in `up` or `down` of its bus and raises GPE 1;
//! `_E01` selects each bus in turn, reads both registers and notifies the slots (1 = look, 3 = eject, please); the
//! guest's driver lets go and evaluates `_EJ0`, which writes the slot's bit to the eject register.

use super::{Description, OEM_ID, OEM_REVISION, OEM_TABLE_ID};
use crate::address_map::{ECAM, PCI_IO, PCI_MEM32};
use crate::chipset::power::{HOTPLUG_GPE, SLEEP_TYPE_S5};
use acpi_tables::aml::{
    Acquire, AddressSpace, AddressSpaceCacheable, And, Arg, CreateDWordField, Device, EISAName,
    Else, Equal, Field, FieldAccessType, FieldEntry, FieldLockRule, FieldUpdateRule, IO, If,
    Interrupt, Local, Memory32Fixed, Method, MethodCall, Mutex, Name, NotEqual, Notify, ONE,
    OpRegion, OpRegionSpace, Or, Package, Path, Release, ResourceTemplate, Return, Scope,
    ShiftLeft, Store, Uuid, ZERO,
};
use acpi_tables::sdt::Sdt;
use acpi_tables::{Aml, AmlSink};

/// A slot below a root port on bus 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HotplugSlot {
    /// The port's device and function number on bus 0.
    pub devfn: u8,
    /// The number its bus is selected by in the hotplug block.
    pub bsel: u32,
    /// The slot's number for people.
    pub number: u32,
}

/// First port of the hotplug block.
const HOTPLUG_PORT: u16 = 0x0cc0;

/// Native hotplug's bit in the control word of `_OSC` (PCI Firmware Specification 3.3, table 4-5).
const OSC_NATIVE_HOTPLUG: u8 = 1;
const OSC_PME_AER_CAPABILITY: u8 = 0x1e;
const PCI_HOST_BRIDGE: &str = "33DB4D5B-1FF7-401C-9657-7441C03DD766";

/// Bytes already encoded, as a child of other objects.
struct Encoded(Vec<u8>);

impl Aml for Encoded {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        sink.vec(&self.0);
    }
}

fn encode(children: &[&dyn Aml]) -> Encoded {
    let mut bytes = Vec::new();
    for child in children {
        child.to_aml_bytes(&mut bytes);
    }
    Encoded(bytes)
}

fn path(name: &str) -> Path {
    Path::new(name)
}

/// `SXX_`, by device and function number: unique on the root bus.
fn port_name(devfn: u8) -> String {
    format!("S{devfn:02X}_")
}

fn field(name: &str, bits: usize) -> FieldEntry {
    let mut id = [b'_'; 4];
    for (to, from) in id.iter_mut().zip(name.bytes()) {
        *to = from;
    }
    FieldEntry::Named(id, bits)
}

fn registers(name: &str, offset: u16, entries: Vec<FieldEntry>) -> Encoded {
    let (port, length) = (
        HOTPLUG_PORT + offset,
        4 * u8::try_from(entries.len()).unwrap_or(1),
    );
    let region = OpRegion::new(path(name), OpRegionSpace::SystemIO, &port, &length);
    let fields = Field::new(
        path(name),
        FieldAccessType::DWord,
        FieldLockRule::NoLock,
        FieldUpdateRule::WriteAsZeroes,
        entries,
    );
    encode(&[&region, &fields])
}

/// The hotplug block, the mutex that guards its bus selector, and the eject method.
fn hotplug_block() -> Encoded {
    let pending = registers("PCST", 0x0, vec![field("PCIU", 32), field("PCID", 32)]);
    let eject = registers("SEJ_", 0x8, vec![field("B0EJ", 32)]);
    let select = registers("BNMR", 0x10, vec![field("BNUM", 32)]);
    let mutex = Mutex::new(path("BLCK"), 0);
    let (bnum, b0ej) = (path("BNUM"), path("B0EJ"));
    let acquire = Acquire::new(path("BLCK"), 0xffff);
    let choose = Store::new(&bnum, &Arg(0));
    let bit = ShiftLeft::new(&b0ej, &ONE, &Arg(1));
    let release = Release::new(path("BLCK"));
    let done = Return::new(&ZERO);
    let pcej = Method::new(
        path("PCEJ"),
        2,
        true,
        vec![&acquire, &choose, &bit, &release, &done],
    );
    encode(&[&pending, &eject, &select, &mutex, &pcej])
}

/// A root port with the one slot below it.
fn port(slot: &HotplugSlot) -> Encoded {
    let address = u32::from(slot.devfn >> 3) << 16 | u32::from(slot.devfn & 7);
    let adr = Name::new(path("_ADR"), &address);
    let bsel = Name::new(path("BSEL"), &slot.bsel);

    let device_adr = Name::new(path("_ADR"), &ZERO);
    let sun = Name::new(path("_SUN"), &slot.number);
    let (bsel_path, s00) = (path("BSEL"), path("S00_"));
    let call = MethodCall::new(path("PCEJ"), vec![&bsel_path, &ZERO]);
    let ej0 = Method::new(path("_EJ0"), 1, false, vec![&call]);
    let device = Device::new(path("S00_"), vec![&device_adr, &sun, &ej0]);

    let notify = Notify::new(&s00, &Arg(1));
    let present = And::new(&ZERO, &Arg(0), &ONE);
    let when = If::new(&present, vec![&notify]);
    let dvnt = Method::new(path("DVNT"), 2, false, vec![&when]);

    let (bnum, pciu, pcid) = (path("BNUM"), path("PCIU"), path("PCID"));
    let choose = Store::new(&bnum, &bsel_path);
    let three = 3_u8;
    let up = MethodCall::new(path("DVNT"), vec![&pciu, &ONE]);
    let down = MethodCall::new(path("DVNT"), vec![&pcid, &three]);
    let pcnt = Method::new(path("PCNT"), 0, false, vec![&choose, &up, &down]);

    encode(&[&Device::new(
        Path::new(&port_name(slot.devfn)),
        vec![&adr, &bsel, &device, &dvnt, &pcnt],
    )])
}

fn osc(native_hotplug: bool) -> Encoded {
    let allowed = if native_hotplug {
        OSC_PME_AER_CAPABILITY | OSC_NATIVE_HOTPLUG
    } else {
        OSC_PME_AER_CAPABILITY
    };
    let (four, eight, sixteen) = (4_u8, 8_u8, 0x10_u8);
    let (cdw1, cdw3) = (path("CDW1"), path("CDW3"));
    let status = CreateDWordField::new(&cdw1, &Arg(3), &ZERO);
    let control = CreateDWordField::new(&cdw3, &Arg(3), &eight);
    let grant = And::new(&Local(0), &cdw3, &allowed);
    let unknown_revision = Or::new(&cdw1, &cdw1, &eight);
    let revised = NotEqual::new(&Arg(1), &ONE);
    let if_revised = If::new(&revised, vec![&unknown_revision]);
    let masked = Or::new(&cdw1, &cdw1, &sixteen);
    let refused = NotEqual::new(&cdw3, &Local(0));
    let if_refused = If::new(&refused, vec![&masked]);
    let store = Store::new(&cdw3, &Local(0));
    let uuid = Uuid::new(PCI_HOST_BRIDGE);
    let ours = Equal::new(&Arg(0), &uuid);
    let when = If::new(
        &ours,
        vec![&control, &grant, &if_revised, &if_refused, &store],
    );
    let unknown_uuid = Or::new(&cdw1, &cdw1, &four);
    let otherwise = Else::new(vec![&unknown_uuid]);
    let answer = Return::new(&Arg(3));
    encode(&[&Method::new(
        path("_OSC"),
        4,
        true,
        vec![&status, &when, &otherwise, &answer],
    )])
}

/// Interrupts of INTA..INTD of the 32 slots: the line of a pin is [`crate::board::intx_gsi`].
fn prt() -> Encoded {
    let mut entries = Vec::new();
    for slot in 0..32_u8 {
        for pin in 0..4_u8 {
            let address = u32::from(slot) << 16 | 0xffff;
            let gsi = crate::board::intx_gsi(slot, pin);
            entries.push(encode(&[&Package::new(vec![&address, &pin, &ZERO, &gsi])]));
        }
    }
    // More than 255 entries would need a VarPackage; there are 128.
    encode(&[&Name::new(
        path("_PRT"),
        &Package::new(entries.iter().map(|e| e as &dyn Aml).collect()),
    )])
}

fn root_bus_resources(description: &Description<'_>) -> Encoded {
    let cacheable = AddressSpaceCacheable::NotCacheable;
    let low = |address: u64| u32::try_from(address).unwrap_or(u32::MAX);
    let buses = AddressSpace::new_bus_number(0_u16, 0xff);
    let config_ports = IO::new(0xcf8, 0xcf8, 1, 8);
    let low_ports = AddressSpace::new_io(0_u16, 0xcf7, None);
    let high_ports = AddressSpace::new_io(0xd00_u16, PCI_IO.end, None);
    let vga = AddressSpace::new_memory(cacheable, true, 0xa_0000_u32, 0xb_ffff, None);
    let mem32 = AddressSpace::new_memory(
        cacheable,
        true,
        low(PCI_MEM32.start),
        low(PCI_MEM32.end - 1),
        None,
    );
    let window = description.map.pci_mem64();
    let mut parts: Vec<&dyn Aml> =
        vec![&buses, &config_ports, &low_ports, &high_ports, &vga, &mem32];
    let mem64 = AddressSpace::new_memory(
        cacheable,
        true,
        window.start,
        window.end.saturating_sub(1),
        None,
    );
    if !window.is_empty() {
        parts.push(&mem64);
    }
    encode(&[&Name::new(path("_CRS"), &ResourceTemplate::new(parts))])
}

/// What the guest must not hand out: the ECAM region.
fn motherboard() -> Encoded {
    let low = |address: u64| u32::try_from(address).unwrap_or(u32::MAX);
    let hid = Name::new(path("_HID"), &EISAName::new("PNP0C02"));
    let ecam = Memory32Fixed::new(true, low(ECAM.start), low(ECAM.end - ECAM.start));
    let hotplug = IO::new(HOTPLUG_PORT, HOTPLUG_PORT, 1, 0x18);
    let pm = IO::new(0x600, 0x600, 1, 0x80);
    let crs = Name::new(
        path("_CRS"),
        &ResourceTemplate::new(vec![&ecam, &hotplug, &pm]),
    );
    encode(&[&Device::new(path("DRAC"), vec![&hid, &crs])])
}

fn serial(index: usize, port: u16, irq: u8) -> Encoded {
    let hid = Name::new(path("_HID"), &EISAName::new("PNP0501"));
    let number = u8::try_from(index + 1).unwrap_or(u8::MAX);
    let uid = Name::new(path("_UID"), &number);
    let io = IO::new(port, port, 0, 8);
    let irq = Interrupt::new(true, true, false, false, u32::from(irq));
    let crs = Name::new(path("_CRS"), &ResourceTemplate::new(vec![&io, &irq]));
    encode(&[&Device::new(
        Path::new(&format!("COM{number}")),
        vec![&hid, &uid, &crs],
    )])
}

fn real_time_clock() -> Encoded {
    let hid = Name::new(path("_HID"), &EISAName::new("PNP0B00"));
    let io = IO::new(0x70, 0x70, 1, 8);
    let irq = Interrupt::new(true, true, false, false, 8);
    let crs = Name::new(path("_CRS"), &ResourceTemplate::new(vec![&io, &irq]));
    encode(&[&Device::new(path("RTC_"), vec![&hid, &crs])])
}

fn root_bus(description: &Description<'_>) -> Encoded {
    let hid = Name::new(path("_HID"), &EISAName::new("PNP0A08"));
    let cid = Name::new(path("_CID"), &EISAName::new("PNP0A03"));
    let uid = Name::new(path("_UID"), &ZERO);
    let adr = Name::new(path("_ADR"), &ZERO);
    let seg = Name::new(path("_SEG"), &ZERO);
    let bbn = Name::new(path("_BBN"), &ZERO);
    let mut parts = vec![
        encode(&[&hid, &cid, &uid, &adr, &seg, &bbn]),
        root_bus_resources(description),
        prt(),
        osc(description.native_hotplug),
    ];
    if !description.native_hotplug {
        parts.push(hotplug_block());
        parts.extend(description.slots.iter().map(port));
        let calls: Vec<_> = description
            .slots
            .iter()
            .map(|s| {
                MethodCall::new(
                    Path::new(&format!("\\_SB_.PCI0.{}.PCNT", port_name(s.devfn))),
                    vec![],
                )
            })
            .collect();
        let calls: Vec<&dyn Aml> = calls.iter().map(|c| c as &dyn Aml).collect();
        parts.push(encode(&[&Method::new(path("PCNT"), 0, false, calls)]));
    }
    encode(&[&Device::new(
        path("PCI0"),
        parts.iter().map(|p| p as &dyn Aml).collect(),
    )])
}

fn events(description: &Description<'_>) -> Encoded {
    if description.native_hotplug {
        return encode(&[]);
    }
    let acquire = Acquire::new(path("\\_SB_.PCI0.BLCK"), 0xffff);
    let look = MethodCall::new(path("\\_SB_.PCI0.PCNT"), vec![]);
    let release = Release::new(path("\\_SB_.PCI0.BLCK"));
    let name = format!("_E{HOTPLUG_GPE:02X}");
    let method = Method::new(Path::new(&name), 0, false, vec![&acquire, &look, &release]);
    encode(&[&Scope::new(path("\\_GPE"), vec![&method])])
}

pub(super) fn dsdt(description: &Description<'_>) -> Vec<u8> {
    let mut devices = vec![root_bus(description), motherboard(), real_time_clock()];
    devices.extend(
        description
            .serials
            .iter()
            .enumerate()
            .map(|(i, &(port, irq))| serial(i, port, irq)),
    );
    let scope = Scope::new(
        path("\\_SB_"),
        devices.iter().map(|d| d as &dyn Aml).collect(),
    );
    let s5 = Name::new(
        path("\\_S5_"),
        &Package::new(vec![&SLEEP_TYPE_S5, &ZERO, &ZERO, &ZERO]),
    );
    let body = encode(&[&scope, &events(description), &s5]);
    let mut table = Sdt::new(*b"DSDT", 36, 2, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    table.append_slice(&body.0);
    table.as_slice().to_vec()
}
