//! The two initramfs files of the lab: L1's, which turns into the lab host, and the guest's.
//!
//! Both hold the same static program, `lab-agent`, as `/init`; it looks at its command line to
//! know which of the two it is.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use flate2::Compression;
use flate2::write::GzEncoder;

use crate::cpio::Archive;
use crate::kernel::Kernel;
use crate::packages;

/// The file by which `/init` knows that it is the lab host's.
pub const HOST_MARK: &str = "lab-host";

/// What L1 loads, in this order; `?` marks what an older kernel may lack.
const HOST_MODULES: &[&str] = &[
    "virtio_pci",
    "virtio_console",
    "9pnet_virtio",
    "9p",
    "irqbypass",
    "kvm",
    "kvm-amd",
    "vfio",
    "vfio_iommu_type1",
    "iommufd?",
    "vfio-pci",
    "virtio_net",
    "tun",
    "bridge",
    "veth",
    "vhost_net",
    "tap",
    "macvtap",
    "igb",
    "e1000e",
];

/// What the guest loads; the drivers come last so that the failover module is there before them.
const GUEST_MODULES: &[&str] = &[
    "button?",
    "virtio_pci",
    "net_failover",
    "virtio_net",
    "igbvf",
    "e1000e",
    "virtio_blk",
    "virtio_rng?",
];

/// Which image to build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Image {
    /// The lab host.
    Host,
    /// The guest.
    Guest,
    /// The guest with iperf3 in it.
    GuestIperf,
}

impl Image {
    fn name(self, kernel: &Kernel) -> String {
        match self {
            // The lab host may have another kernel at each start.
            Self::Host => format!("l1-{}.img", kernel.release),
            Self::Guest => "guest.img".to_owned(),
            Self::GuestIperf => "guest-iperf.img".to_owned(),
        }
    }
}

/// Builds an image into `folder`, unless the one there is newer than all that goes into it.
pub fn ensure(
    image: Image,
    folder: &Path,
    kernel: &Kernel,
    busybox: &Path,
    agent: &Path,
) -> Result<PathBuf> {
    let file = folder.join(image.name(kernel));
    let age = |path: &Path| fs::metadata(path).and_then(|meta| meta.modified()).ok();
    let program = std::env::current_exe().ok();
    let inputs = [
        Some(kernel.image.as_path()),
        Some(busybox),
        Some(agent),
        program.as_deref(),
    ];
    let built = age(&file);
    if built.is_some() && inputs.into_iter().flatten().all(|input| age(input) < built) {
        return Ok(file);
    }
    let fresh = file.with_extension("new");
    let out =
        fs::File::create(&fresh).with_context(|| format!("cannot create {}", fresh.display()))?;
    let mut archive = Archive::new(GzEncoder::new(out, Compression::fast()));
    fill(&mut archive, image, kernel, busybox, agent)
        .with_context(|| format!("cannot build {}", file.display()))?;
    archive.finish()?.finish()?;
    fs::rename(&fresh, &file)?;
    Ok(file)
}

fn fill(
    archive: &mut Archive<impl Write>,
    image: Image,
    kernel: &Kernel,
    busybox: &Path,
    agent: &Path,
) -> Result<()> {
    for folder in ["dev", "proc", "sys", "run", "tmp", "host"] {
        archive.folder(folder)?;
    }
    archive.character_device("dev/console", 5, 1)?;
    archive.file("init", 0o755, &fs::read(agent)?)?;
    if image == Image::Host {
        archive.file(HOST_MARK, 0o644, b"")?;
    }
    archive.file("bin/busybox", 0o755, &fs::read(busybox)?)?;
    let applets = packages::output(Command::new(busybox).arg("--list"), "busybox --list")?;
    for applet in applets.lines().filter(|name| *name != "busybox") {
        archive.link(&format!("bin/{applet}"), "busybox")?;
    }
    let names = if image == Image::Host {
        HOST_MODULES
    } else {
        GUEST_MODULES
    };
    let mut order = String::new();
    for module in kernel.modules(names)? {
        archive.file(&format!("modules/{}.ko", module.name), 0o644, &module.bytes)?;
        order.push_str(&module.name);
        order.push('\n');
    }
    archive.file("modules/order", 0o644, order.as_bytes())?;
    if image == Image::GuestIperf {
        add_program(archive, "iperf3")?;
    }
    Ok(())
}

/// Adds a dynamic program with the libraries it names.
fn add_program(archive: &mut Archive<impl Write>, name: &str) -> Result<()> {
    let program =
        packages::find_program(name).with_context(|| format!("{name} is not installed"))?;
    archive.file(&format!("bin/{name}"), 0o755, &fs::read(&program)?)?;
    let list = packages::output(Command::new("ldd").arg(&program), "ldd")?;
    for library in list.split_whitespace().filter(|word| word.starts_with('/')) {
        archive.file(library.trim_start_matches('/'), 0o755, &fs::read(library)?)?;
    }
    Ok(())
}
