//! Direct boot: what a firmware and a boot loader would have left in memory when the kernel is entered.
//!
//! ```text
//!   0x0500  descriptor table            0x7000  boot parameters ("zero page") or hvm_start_info
//!   0x9000  page tables (6 pages)       0x2_0000  command line
//!   0xe_0000 ACPI tables                0x10_0000 and on: kernel;   initial RAM disk: as high as it may be
//! ```
//! A bzImage is entered by the Linux 64-bit boot protocol, an ELF image by PVH.

mod linux64;
mod memory_map;
mod pvh;

use crate::address_map::{ACPI_TABLES, AddressMap};
use hypervisor::{BootRegisters, GDT};
use linux_loader::loader::bootparam::setup_header;
use linux_loader::loader::bzimage::BzImage;
use linux_loader::loader::elf::{Elf, PvhBootCapability};
use linux_loader::loader::{KernelLoader, KernelLoaderResult};
use memory::GuestRam;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use vm_memory::{Bytes, GuestAddress};

pub(crate) const GDT_ADDRESS: u64 = 0x500;
pub(crate) const BOOT_PARAMS: u64 = 0x7000;
pub(crate) const PAGE_TABLES: u64 = 0x9000;
pub(crate) const COMMAND_LINE: u64 = 0x2_0000;
/// Room for the command line, the final zero included.
pub(crate) const COMMAND_LINE_ROOM: u64 = 0x1_0000;

/// Why nothing can be booted; each message names the option.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// A file cannot be read.
    #[error("{option} {path}: {source}")]
    File {
        /// The command line's option.
        option: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file is no kernel that can be entered directly.
    #[error("-kernel {path}: {reason}; give a bzImage or a vmlinux with a PVH entry point")]
    NotAKernel {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Kernel or initial RAM disk are larger than RAM.
    #[error("{option} {path} does not fit into {ram_mib} MiB of RAM: give more with -m")]
    TooLarge {
        /// The command line's option.
        option: &'static str,
        /// The file.
        path: PathBuf,
        /// RAM below 4 GiB.
        ram_mib: u64,
    },
    /// The command line is too long.
    #[error("-append: {length} bytes are more than the {limit} the kernel takes")]
    CommandLine {
        /// Its length.
        length: usize,
        /// The limit.
        limit: u64,
    },
    /// Guest memory could not be written.
    #[error("boot data could not be placed in guest memory: {0}")]
    Memory(#[from] vm_memory::GuestMemoryError),
}

/// What to boot.
#[derive(Debug, Clone)]
pub struct BootSource {
    /// `-kernel`.
    pub kernel: PathBuf,
    /// `-initrd`.
    pub initrd: Option<PathBuf>,
    /// `-append`.
    pub append: String,
}

/// What the kernel finds: where things were put.
pub(crate) struct Placed {
    pub(crate) initrd: Option<(u64, u64)>,
    pub(crate) command_line_bytes: usize,
}

fn open(option: &'static str, path: &Path) -> Result<File, BootError> {
    let error = |source| BootError::File {
        option,
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(error)?;
    if file.metadata().map_err(error)?.is_dir() {
        return Err(error(io::ErrorKind::IsADirectory.into()));
    }
    Ok(file)
}

/// Puts kernel, initial RAM disk, command line, ACPI `tables` and everything the entry protocol wants into guest
/// memory, and tells how the first vCPU begins.
///
/// # Errors
/// See [`BootError`]. Guest memory may be half written then; it is not to be run.
pub fn load(
    source: &BootSource,
    ram: &GuestRam,
    map: &AddressMap,
    tables: &[u8],
) -> Result<BootRegisters, BootError> {
    ram.write_slice(tables, GuestAddress(ACPI_TABLES.start))?;
    for (index, descriptor) in (0_u64..).zip(GDT) {
        ram.write_obj(descriptor, GuestAddress(GDT_ADDRESS + 8 * index))?;
    }
    let mut kernel = open("-kernel", &source.kernel)?;
    let mut magic = [0; 4];
    let not_a_kernel = |reason: String| BootError::NotAKernel {
        path: source.kernel.clone(),
        reason,
    };
    kernel
        .read_exact(&mut magic)
        .map_err(|_| not_a_kernel("it is shorter than four bytes".into()))?;
    if magic == *b"\x7fELF" {
        let loaded =
            Elf::load(ram, None, &mut kernel, None).map_err(|e| not_a_kernel(plain(&e)))?;
        let PvhBootCapability::PvhEntryPresent(entry) = loaded.pvh_boot_cap else {
            return Err(not_a_kernel("the ELF image has no PVH entry point".into()));
        };
        let placed = place(
            source,
            ram,
            map,
            &loaded,
            COMMAND_LINE_ROOM - 1,
            u64::from(u32::MAX),
        )?;
        pvh::write(ram, map, &placed)?;
        return Ok(BootRegisters::Pvh {
            entry: entry.0,
            start_info: BOOT_PARAMS,
            gdt: GDT_ADDRESS,
        });
    }
    let loaded = load_bzimage(source, &mut kernel, ram, map)?;
    let header = loaded
        .setup_header
        .ok_or_else(|| not_a_kernel("it has no setup header".into()))?;
    if header.version < 0x020c || header.xloadflags & 1 == 0 {
        return Err(not_a_kernel(
            "it is no 64-bit kernel of boot protocol 2.12 or later".into(),
        ));
    }
    // As it is loaded by the file's length, the guest would find out, and reset for ever.
    let length = kernel.seek(SeekFrom::End(0)).unwrap_or(u64::MAX);
    if !is_whole(&header, length) {
        return Err(not_a_kernel(format!(
            "the file is truncated: its {length} bytes are fewer than its header says"
        )));
    }
    let limit = u64::from(header.cmdline_size).min(COMMAND_LINE_ROOM - 1);
    let placed = place(
        source,
        ram,
        map,
        &loaded,
        limit,
        u64::from(header.initrd_addr_max),
    )?;
    linux64::write(ram, map, header, &placed)?;
    Ok(BootRegisters::Linux64 {
        entry: loaded.kernel_load.0 + linux64::ENTRY_OFFSET,
        boot_params: BOOT_PARAMS,
        page_tables: PAGE_TABLES,
        gdt: GDT_ADDRESS,
    })
}

fn load_bzimage(
    source: &BootSource,
    kernel: &mut File,
    ram: &GuestRam,
    map: &AddressMap,
) -> Result<KernelLoaderResult, BootError> {
    BzImage::load(
        ram,
        None,
        kernel,
        Some(GuestAddress(crate::address_map::HIGH_MEMORY)),
    )
    .map_err(|error| {
        use linux_loader::loader::{Error, bzimage};
        let path = source.kernel.clone();
        match error {
            Error::Bzimage(bzimage::Error::ReadBzImageCompressedKernel) => BootError::TooLarge {
                option: "-kernel",
                path,
                ram_mib: map.low_ram_end() >> 20,
            },
            Error::Bzimage(bzimage::Error::InvalidBzImage) => BootError::NotAKernel {
                path,
                reason: "it is neither a bzImage nor an ELF image".into(),
            },
            error => BootError::NotAKernel {
                path,
                reason: plain(&error),
            },
        }
    })
}

/// The loader's message without the name that it begins each part with.
fn plain(error: &linux_loader::loader::Error) -> String {
    error.to_string().replace("Kernel Loader: ", "")
}

/// A file of `length` bytes holds all of the kernel that its header speaks of.
fn is_whole(header: &setup_header, length: u64) -> bool {
    // A header that says 0 means 4.
    let sectors = match header.setup_sects {
        0 => 4,
        sectors => u64::from(sectors),
    };
    (sectors + 1) * 512 + u64::from(header.syssize) * 16 <= length
}

/// Places command line and initial RAM disk.
fn place(
    source: &BootSource,
    ram: &GuestRam,
    map: &AddressMap,
    kernel: &KernelLoaderResult,
    command_line_limit: u64,
    initrd_max: u64,
) -> Result<Placed, BootError> {
    let line = source.append.as_bytes();
    if line.len() as u64 > command_line_limit {
        return Err(BootError::CommandLine {
            length: line.len(),
            limit: command_line_limit,
        });
    }
    ram.write_slice(line, GuestAddress(COMMAND_LINE))?;
    ram.write_slice(&[0], GuestAddress(COMMAND_LINE + line.len() as u64))?;
    let initrd = source
        .initrd
        .as_deref()
        .map(|path| load_initrd(path, ram, map, kernel, initrd_max))
        .transpose()?;
    Ok(Placed {
        initrd,
        command_line_bytes: line.len(),
    })
}

fn load_initrd(
    path: &Path,
    ram: &GuestRam,
    map: &AddressMap,
    kernel: &KernelLoaderResult,
    max: u64,
) -> Result<(u64, u64), BootError> {
    let mut file = open("-initrd", path)?;
    let file_error = |source| BootError::File {
        option: "-initrd",
        path: path.to_owned(),
        source,
    };
    let size = file.metadata().map_err(file_error)?.len();
    let too_large = || BootError::TooLarge {
        option: "-initrd",
        path: path.to_owned(),
        ram_mib: map.low_ram_end() >> 20,
    };
    // The kernel unpacks itself behind where it was loaded: init_size beyond its (2 MiB aligned) place is its own.
    let needs = kernel.setup_header.map_or(0, |h| u64::from(h.init_size));
    let kernel_end = kernel
        .kernel_end
        .max(kernel.kernel_load.0.next_multiple_of(2 << 20) + needs);
    let top = map.low_ram_end().min(max.saturating_add(1));
    let start = top.checked_sub(size).ok_or_else(too_large)? & !0xfff;
    if start < kernel_end {
        return Err(too_large());
    }
    let length = usize::try_from(size).map_err(|_| too_large())?;
    ram.read_exact_volatile_from(GuestAddress(start), &mut file, length)?;
    Ok((start, size))
}
