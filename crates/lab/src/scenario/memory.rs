//! Guest memory of every kind.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use super::{Bench, migrate};
use crate::vm::{Config, Vm};

/// The machine's memory, in MiB: small, so that two of them fit into the huge pages set aside.
const MEMORY_MIB: u32 = 192;
const HUGE_PAGE_MIB: u32 = 2;

/// Huge pages of the host set aside, and a file system of them; given back at the end.
struct HugePages {
    mount: PathBuf,
    before: String,
}

const RESERVED: &str = "/proc/sys/vm/nr_hugepages";

impl HugePages {
    fn reserve(count: u32, mount: PathBuf) -> Result<Self> {
        let before = fs::read_to_string(RESERVED).context("the host has no huge pages")?;
        fs::create_dir_all(&mount)?;
        let pages = Self { mount, before };
        fs::write(RESERVED, count.to_string())?;
        let got = fs::read_to_string(RESERVED)?;
        ensure!(
            got.trim() == count.to_string(),
            "the host set aside {} huge pages of {count}",
            got.trim()
        );
        run(Command::new("mount")
            .args(["-t", "hugetlbfs", "none"])
            .arg(&pages.mount))?;
        Ok(pages)
    }

    /// Huge pages that nobody uses.
    fn free(&self) -> Result<u32> {
        let info = fs::read_to_string("/proc/meminfo")?;
        let line = info
            .lines()
            .find_map(|line| line.strip_prefix("HugePages_Free:"))
            .context("the host does not count its huge pages")?;
        line.trim().parse().context("no number of huge pages")
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        // Where it was not mounted there is nothing to undo.
        let _ = Command::new("umount").arg(&self.mount).status();
        let _ = fs::write(RESERVED, &self.before);
    }
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output()?;
    if !output.status.success() {
        bail!(
            "{command:?}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}

fn with_memory(bench: &Bench, name: &str, host: usize, backend: &str) -> Result<Config> {
    let mut config = bench.plain_config(name, host)?;
    config.memory_mib = MEMORY_MIB;
    config.extra = vec![
        "-object".to_owned(),
        format!("memory-backend-{backend},id=mem,size={MEMORY_MIB}M"),
        "-machine".to_owned(),
        "memory-backend=mem".to_owned(),
    ];
    Ok(config)
}

/// What a process has of memory, in KiB, by a line of its `smaps_rollup`.
fn kib(vm: &Vm, line: &str) -> Result<u64> {
    let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", vm.pid()))?;
    let value = rollup
        .lines()
        .find_map(|l| l.strip_prefix(line)?.strip_prefix(':'))
        .with_context(|| format!("no {line} in smaps_rollup"))?;
    let value = value.trim().trim_end_matches(" kB");
    value.parse().context("no number of KiB")
}

/// Guest memory of huge pages by memfd, of a file on tmpfs, of a file on hugetlbfs, and plain: a guest moves from each to
/// the next.
pub fn memory_backends(bench: &Bench) -> Result<()> {
    let folder = bench.runs.join("memory");
    fs::create_dir_all(&folder)?;
    let per_machine = MEMORY_MIB / HUGE_PAGE_MIB;
    let huge = HugePages::reserve(per_machine, folder.join("huge"))?;
    let file = |name: &str, at: &Path| format!("file,mem-path={}", at.join(name).display());
    let ram_kib = u64::from(MEMORY_MIB) * 1024;

    let first = with_memory(
        bench,
        "hugetlb-memfd",
        0,
        "memfd,hugetlb=on,hugetlbsize=2M,share=on,prealloc=on",
    )?;
    let first = bench.boot(first)?;
    bench.reachable(0)?;
    ensure!(
        huge.free()? == 0,
        "{} huge pages of {per_machine} are free, with memory preallocated of them",
        huge.free()?
    );

    let tmpfs = file("tmpfs-file", &folder) + ",share=on";
    let second = with_memory(bench, "file-on-tmpfs", 1, &tmpfs)?;
    let second = migrate::plain_step(bench, first, second, 1)?;
    ensure!(
        folder.join("tmpfs-file").metadata()?.len() == u64::from(MEMORY_MIB) << 20,
        "the file is not as long as the memory"
    );
    ensure!(
        huge.free()? == per_machine,
        "{} huge pages of {per_machine} are free, after their machine ended",
        huge.free()?
    );

    let hugetlbfs = file("huge-file", &huge.mount) + ",share=off,prealloc=on";
    let third = with_memory(bench, "file-on-hugetlbfs", 0, &hugetlbfs)?;
    let third = migrate::plain_step(bench, second, third, 0)?;
    ensure!(
        huge.free()? < per_machine,
        "no huge page is in use, with memory in a file of them"
    );

    let fourth = with_memory(bench, "ram", 1, "ram,prealloc=on")?;
    let mut fourth = migrate::plain_step(bench, third, fourth, 1)?;
    let resident = kib(&fourth, "Rss")?;
    ensure!(
        resident >= ram_kib,
        "{resident} KiB are resident, of {ram_kib} preallocated"
    );
    ensure!(
        fourth.quit()?.success(),
        "the last VMM did not quit with status 0: {}",
        fourth.said().trim()
    );
    Ok(())
}
