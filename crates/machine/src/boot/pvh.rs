//! The x86/HVM direct boot ABI (PVH).

use super::{BOOT_PARAMS, COMMAND_LINE, Placed, memory_map};
use crate::address_map::{ACPI_TABLES, AddressMap};
use linux_loader::loader::elf::start_info::{
    hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info,
};
use memory::GuestRam;
use vm_memory::{ByteValued, Bytes, GuestAddress, GuestMemoryError};

const MAGIC: u32 = 0x336e_c578;
const MODULES: u64 = BOOT_PARAMS + 0x80;
const MEMORY_MAP: u64 = BOOT_PARAMS + 0x100;

/// A structure that guest memory can take whole.
#[derive(Clone, Copy, Default)]
#[repr(transparent)]
struct Plain<T>(T);

// SAFETY: all three are repr(C) structures of integers without padding (asserted by their crate).
#[allow(unsafe_code)]
unsafe impl ByteValued for Plain<hvm_start_info> {}
// SAFETY: as above.
#[allow(unsafe_code)]
unsafe impl ByteValued for Plain<hvm_modlist_entry> {}
// SAFETY: as above.
#[allow(unsafe_code)]
unsafe impl ByteValued for Plain<hvm_memmap_table_entry> {}

pub(super) fn write(
    ram: &GuestRam,
    map: &AddressMap,
    placed: &Placed,
) -> Result<(), GuestMemoryError> {
    let mut info = hvm_start_info {
        magic: MAGIC,
        version: 1,
        cmdline_paddr: COMMAND_LINE,
        rsdp_paddr: ACPI_TABLES.start,
        memmap_paddr: MEMORY_MAP,
        ..Default::default()
    };
    if let Some((paddr, size)) = placed.initrd {
        info.nr_modules = 1;
        info.modlist_paddr = MODULES;
        ram.write_obj(
            Plain(hvm_modlist_entry {
                paddr,
                size,
                ..Default::default()
            }),
            GuestAddress(MODULES),
        )?;
    }
    for (index, (addr, size, type_)) in (0_u64..).zip(memory_map::entries(map)) {
        let entry = Plain(hvm_memmap_table_entry {
            addr,
            size,
            type_,
            reserved: 0,
        });
        ram.write_obj(
            entry,
            GuestAddress(MEMORY_MAP + index * size_of::<hvm_memmap_table_entry>() as u64),
        )?;
        info.memmap_entries += 1;
    }
    ram.write_obj(Plain(info), GuestAddress(BOOT_PARAMS))
}
