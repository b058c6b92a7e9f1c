//! The Linux 64-bit boot protocol (Documentation/arch/x86/boot.rst, "64-bit Boot Protocol").

use super::{BOOT_PARAMS, COMMAND_LINE, PAGE_TABLES, Placed, memory_map};
use crate::address_map::{ACPI_TABLES, AddressMap};
use linux_loader::loader::bootparam::{boot_e820_entry, boot_params, setup_header};
use memory::GuestRam;
use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

/// The 64-bit entry point behind the load address.
pub(super) const ENTRY_OFFSET: u64 = 0x200;

/// No assigned boot loader.
const LOADER_UNDEFINED: u8 = 0xff;

const PAGE: u64 = 0x1000;
const PRESENT_WRITABLE: u64 = 0b11;
const LARGE: u64 = 1 << 7;

/// The first 4 GiB one to one, in pages of 2 MiB.
fn write_page_tables(ram: &GuestRam) -> Result<(), GuestMemoryError> {
    let directories = PAGE_TABLES + 2 * PAGE;
    ram.write_obj(
        (PAGE_TABLES + PAGE) | PRESENT_WRITABLE,
        GuestAddress(PAGE_TABLES),
    )?;
    for gib in 0..4 {
        ram.write_obj(
            (directories + gib * PAGE) | PRESENT_WRITABLE,
            GuestAddress(PAGE_TABLES + PAGE + 8 * gib),
        )?;
    }
    let entries: Vec<u8> = (0_u64..4 * 512)
        .flat_map(|i| (i << 21 | LARGE | PRESENT_WRITABLE).to_le_bytes())
        .collect();
    ram.write_slice(&entries, GuestAddress(directories))
}

fn low(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(0)
}

pub(super) fn write(
    ram: &GuestRam,
    map: &AddressMap,
    mut header: setup_header,
    placed: &Placed,
) -> Result<(), GuestMemoryError> {
    write_page_tables(ram)?;
    header.type_of_loader = LOADER_UNDEFINED;
    header.cmd_line_ptr = low(COMMAND_LINE);
    header.cmdline_size = u32::try_from(placed.command_line_bytes).unwrap_or(0);
    if let Some((address, size)) = placed.initrd {
        (header.ramdisk_image, header.ramdisk_size) = (low(address), low(size));
    }
    let mut params = boot_params {
        hdr: header,
        acpi_rsdp_addr: ACPI_TABLES.start,
        ..Default::default()
    };
    let entries = memory_map::entries(map);
    params.e820_entries = u8::try_from(entries.len()).unwrap_or(0);
    let mut table = params.e820_table;
    for (to, (addr, size, type_)) in table.iter_mut().zip(entries) {
        *to = boot_e820_entry {
            addr,
            size,
            r#type: type_,
        };
    }
    params.e820_table = table;
    ram.write_obj(params, GuestAddress(BOOT_PARAMS))
}
