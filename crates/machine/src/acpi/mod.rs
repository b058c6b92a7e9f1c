//! The ACPI tables of the board (ACPI 6.5).
//!
//! RSDP → XSDT → FADT (→ FACS, DSDT), MADT, MCFG; all of them in one blob that is placed at
//! [`ACPI_TABLES`] before the guest starts.

mod dsdt;
mod fadt;

use crate::address_map::{ACPI_TABLES, AddressMap, ECAM, IOAPIC, LOCAL_APIC};
use acpi_tables::Aml;
use acpi_tables::facs::FACS;
use acpi_tables::madt::{
    EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic,
};
use acpi_tables::mcfg::MCFG;
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;

pub use dsdt::HotplugSlot;

const OEM_ID: [u8; 6] = *b"STNDFS";
const OEM_TABLE_ID: [u8; 8] = *b"STANDQ35";
const OEM_REVISION: u32 = 1;

/// The interrupt that ACPI events raise.
pub const SCI: u8 = 9;

/// What the tables describe.
pub struct Description<'a> {
    /// Number of vCPUs; their APIC ids are 0 and on.
    pub cpus: u32,
    /// The memory layout.
    pub map: &'a AddressMap,
    /// The slots that ACPI hotplug drives, in order of their ports.
    pub slots: &'a [HotplugSlot],
    /// The guest's own PCIe driver, not ACPI, drives hotplug.
    pub native_hotplug: bool,
    /// Serial ports: I/O base and interrupt.
    pub serials: &'a [(u16, u8)],
}

/// The tables do not fit their place.
#[derive(Debug, thiserror::Error)]
#[error(
    "the ACPI tables of {cpus} vCPUs and {slots} slots take {bytes} bytes, more than the {room} there are"
)]
pub struct TooLarge {
    cpus: u32,
    slots: usize,
    bytes: usize,
    room: u64,
}

/// Tables laid one after the other, each at a multiple of 64 bytes.
struct Blob {
    bytes: Vec<u8>,
}

impl Blob {
    fn place(&mut self, table: &[u8]) -> u64 {
        self.bytes.resize(self.bytes.len().next_multiple_of(64), 0);
        let at = ACPI_TABLES.start + self.bytes.len() as u64;
        self.bytes.extend_from_slice(table);
        at
    }
}

fn encode(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}

/// An interrupt source override of the MADT (5.2.12.5).
fn source_override(source: u8, gsi: u32, flags: u16) -> [u8; 10] {
    let [a, b, c, d] = gsi.to_le_bytes();
    let [e, f] = flags.to_le_bytes();
    [2, 10, 0, source, a, b, c, d, e, f]
}

const ACTIVE_HIGH_LEVEL: u16 = 0b11_01;

fn madt(cpus: u32) -> Vec<u8> {
    let controller =
        LocalInterruptController::Address(u32::try_from(LOCAL_APIC).unwrap_or(u32::MAX));
    let mut madt = MADT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION, controller);
    for id in 0..cpus {
        let id = u8::try_from(id).unwrap_or(u8::MAX);
        madt.add_structure(ProcessorLocalApic::new(id, id, EnabledStatus::Enabled));
    }
    madt.add_structure(IoApic::new(0, u32::try_from(IOAPIC).unwrap_or(u32::MAX), 0));
    let bytes = encode(&madt);
    // The crate has no overrides; an Sdt appends them and mends length and checksum. PC-AT compatible: two PICs.
    let mut table = Sdt::new(*b"APIC", 36, 6, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    table.append_slice(bytes.get(36..).unwrap_or_default());
    table.write_u32(40, 1);
    table.append_slice(&source_override(0, 2, 0));
    table.append_slice(&source_override(SCI, u32::from(SCI), ACTIVE_HIGH_LEVEL));
    // LINT1 of all processors is NMI (5.2.12.7).
    table.append_slice(&[4, 6, 0xff, 0, 0, 1]);
    table.as_slice().to_vec()
}

/// The tables, to be placed at [`ACPI_TABLES`]; the RSDP is the first of them.
///
/// # Errors
/// They do not fit.
pub fn tables(description: &Description<'_>) -> Result<Vec<u8>, TooLarge> {
    const RSDP_ROOM: usize = 64;
    let mut blob = Blob {
        bytes: vec![0; RSDP_ROOM],
    };
    let facs = blob.place(&encode(&FACS::new()));
    let dsdt = blob.place(&dsdt::dsdt(description));
    let mut mcfg = MCFG::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    mcfg.add_ecam(ECAM.start, 0, 0, u8::MAX);
    let mut xsdt = XSDT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    for table in [
        fadt::fadt(facs, dsdt),
        madt(description.cpus),
        encode(&mcfg),
    ] {
        xsdt.add_entry(blob.place(&table));
    }
    let xsdt = blob.place(&encode(&xsdt));
    let rsdp = encode(&Rsdp::new(OEM_ID, xsdt));
    for (to, from) in blob.bytes.iter_mut().zip(rsdp) {
        *to = from;
    }
    let room = ACPI_TABLES.end - ACPI_TABLES.start;
    if blob.bytes.len() as u64 > room {
        let bytes = blob.bytes.len();
        return Err(TooLarge {
            cpus: description.cpus,
            slots: description.slots.len(),
            bytes,
            room,
        });
    }
    Ok(blob.bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |a, b| a.wrapping_add(*b))
    }

    fn u64_at(bytes: &[u8], at: usize) -> u64 {
        u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
    }

    fn table(blob: &[u8], address: u64) -> &[u8] {
        let at = usize::try_from(address - ACPI_TABLES.start).unwrap();
        let len = u32::from_le_bytes(blob[at + 4..at + 8].try_into().unwrap()) as usize;
        &blob[at..at + len]
    }

    fn blob(slots: &[HotplugSlot]) -> Vec<u8> {
        let map = AddressMap::new(1 << 30, 40);
        let serials = [(0x3f8, 4)];
        let description = Description {
            cpus: 64,
            map: &map,
            slots,
            native_hotplug: false,
            serials: &serials,
        };
        tables(&description).unwrap()
    }

    #[test]
    fn every_table_is_reached_and_sums_to_zero() {
        let blob = blob(&[HotplugSlot {
            devfn: 8,
            bsel: 0,
            number: 1,
        }]);
        assert_eq!(&blob[..8], b"RSD PTR ");
        assert_eq!(sum(&blob[..36]), 0);
        let xsdt = table(&blob, u64_at(&blob, 24));
        assert_eq!(sum(xsdt), 0);
        let names: Vec<_> = xsdt[36..]
            .chunks(8)
            .map(|entry| {
                let table = table(&blob, u64_at(entry, 0));
                assert_eq!(sum(table), 0, "{:?}", &table[..4]);
                table[..4].to_vec()
            })
            .collect();
        assert_eq!(
            names,
            [b"FACP".to_vec(), b"APIC".to_vec(), b"MCFG".to_vec()]
        );
        let fadt = table(&blob, u64_at(&xsdt[36..], 0));
        assert_eq!(&table(&blob, u64_at(fadt, 140))[..4], b"DSDT");
    }

    #[test]
    fn thirty_two_slots_fit() {
        let slots: Vec<_> = (0..32)
            .map(|i| HotplugSlot {
                devfn: 8 + i * 4,
                bsel: u32::from(i),
                number: i.into(),
            })
            .collect();
        assert!((blob(&slots).len() as u64) < ACPI_TABLES.end - ACPI_TABLES.start);
    }
}
