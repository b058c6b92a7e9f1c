//! The primary is had by iommufd: by its own character device, not by its group.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::{Bench, Skipped, migrate};
use crate::vm::{Config, Iommufd, Vm, Vmm};

const DEV_IOMMU: &str = "/dev/iommu";
const REMOVAL_LIMIT: Duration = Duration::from_secs(60);

/// The descriptors that a VMM is started with.
const GIVEN: (i32, i32) = (8, 9);

fn config(bench: &Bench, name: &str, host: usize) -> Result<Config> {
    let mut config = bench.config(name, host)?;
    config.iommufd = Some(Iommufd::Opened);
    Ok(config)
}

fn primary_of(config: &Config) -> Result<String> {
    let pair = config.pairs.first().context("no pair")?;
    pair.primary.clone().context("no primary")
}

/// The files below `/dev` that have to do with the IOMMU and that the VMM has open.
fn open_files(vm: &Vm) -> Vec<String> {
    let fds = fs::read_dir(format!("/proc/{}/fd", vm.pid()));
    let mut files: Vec<String> = fds
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|fd| Some(fs::read_link(fd.path()).ok()?.to_str()?.to_owned()))
        // The links are seen from outside of the lab host's root.
        .filter_map(|file| Some(file[file.find("/dev/")?..].to_owned()))
        .filter(|file| file == DEV_IOMMU || file.starts_with("/dev/vfio/"))
        .collect();
    files.sort();
    files.dedup();
    files
}

/// Checks that the VMM has its primary by iommufd and by nothing else.
fn had_by_iommufd(vm: &Vm, function: &str) -> Result<()> {
    let files = open_files(vm);
    let wanted = [
        DEV_IOMMU.to_owned(),
        cdev_of(function)?.display().to_string(),
    ];
    ensure!(
        files == wanted,
        "the VMM has {files:?} open, not {wanted:?}"
    );
    Ok(())
}

/// The function's character device.
fn cdev_of(function: &str) -> Result<PathBuf> {
    let folder = format!("/sys/bus/pci/devices/{function}/vfio-dev");
    let entry = fs::read_dir(&folder)
        .with_context(|| format!("no {folder}"))?
        .flatten()
        .next();
    let name = entry.with_context(|| format!("{folder} is empty"))?;
    Ok(Path::new("/dev/vfio/devices").join(name.file_name()))
}

/// A program that starts the VMM with the IOMMU and the function open.
fn with_descriptors(bench: &Bench, function: &str) -> Result<Vmm> {
    let (iommu, cdev) = GIVEN;
    let script = format!(
        "#!/bin/sh\nexec {iommu}<>{DEV_IOMMU} {cdev}<>{}\nexec {} \"$@\"\n",
        cdev_of(function)?.display(),
        bench.vmm.program.display()
    );
    fs::create_dir_all(&bench.runs)?;
    let program = bench.runs.join("with-descriptors");
    fs::write(&program, script)?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    Ok(Vmm {
        name: bench.vmm.name.clone(),
        program,
    })
}

/// The primary leaves by the monitor's order, and the kernel is done with it; then it comes back.
fn leaves_and_comes_back(bench: &Bench, vm: &mut Vm, function: &str) -> Result<()> {
    let from = vm.qmp.events().len();
    vm.qmp.execute("device_del", json!({"id": "hostdev0"}))?;
    let deleted = vm.qmp.wait_event(from, "DEVICE_DELETED", REMOVAL_LIMIT);
    deleted.context("no DEVICE_DELETED: the guest did not let go")?;
    bench.without_primary(vm, 0)?;
    let left = open_files(vm);
    ensure!(
        left.is_empty(),
        "without a primary the VMM has {left:?} open"
    );
    bench.operator_steers(0, true)?;
    bench.reachable(0).context("on the standby")?;
    bench.operator_steers(0, false)?;
    vm.qmp.execute(
        "device_add",
        json!({
            "driver": "vfio-pci", "host": function, "id": "hostdev0", "bus": "root1",
            "failover_pair_id": "net1", "iommufd": Iommufd::ID,
        }),
    )?;
    bench
        .settled(vm)
        .context("after the primary was added again")?;
    had_by_iommufd(vm, function)
}

/// Boots, takes the primary out and in, goes to the other host, and comes back to a VMM that is handed its descriptors.
pub fn there_and_back(bench: &Bench) -> Result<()> {
    if !Path::new(DEV_IOMMU).exists() {
        return Err(Skipped(format!(
            "the lab host's kernel has no {DEV_IOMMU}; build one with CONFIG_IOMMUFD and CONFIG_VFIO_DEVICE_CDEV, and \
             name it by --kernel (crates/lab/README.md)"
        ))
        .into());
    }
    let first = config(bench, "first", 0)?;
    let function = primary_of(&first)?;
    let mut first = bench.boot_with_primary(first)?;
    had_by_iommufd(&first, &function)?;
    leaves_and_comes_back(bench, &mut first, &function)?;

    let second = config(bench, "second", 1)?;
    let there = primary_of(&second)?;
    let second = migrate::step_to(bench, first, second, 1)?;
    had_by_iommufd(&second, &there).context("on the other host")?;

    let mut third = config(bench, "third", 0)?;
    let (iommu, cdev) = GIVEN;
    third.iommufd = Some(Iommufd::Given {
        iommu,
        function: cdev,
    });
    let vmm = with_descriptors(bench, &function)?;
    let mut third = migrate::step_by(bench, &vmm, second, third, 0)?;
    had_by_iommufd(&third, &function).context("back again")?;
    ensure!(
        third.quit()?.success(),
        "the last VMM did not quit with status 0: {}",
        third.said().trim()
    );
    Ok(())
}
