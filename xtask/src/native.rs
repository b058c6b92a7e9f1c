//! `--native`: this machine's own KVM, IOMMU and virtual functions instead of the lab's.

use std::fs::{self, OpenOptions};
use std::path::Path;

use anyhow::{Result, bail};
use clap::Args;

#[derive(Debug, Clone, Args)]
pub(crate) struct Native {
    /// Use this machine's own KVM and NIC instead of the lab.
    #[arg(long)]
    pub(crate) native: bool,
    /// The virtual function that is the primary on the source.
    #[arg(long, requires = "native", value_name = "PCI")]
    primary: Option<String>,
    /// The virtual function that is the primary on the target.
    #[arg(long, requires = "native", value_name = "PCI")]
    target_primary: Option<String>,
    /// A bridge of this machine's that has the source's physical function as a port.
    #[arg(long, requires = "native")]
    bridge: Option<String>,
    /// The same for the target's [default: the same bridge].
    #[arg(long, requires = "native")]
    target_bridge: Option<String>,
}

impl Native {
    /// Checks what can be checked before a guest runs; returns the agent's arguments.
    pub(crate) fn arguments(&self) -> Result<Vec<String>> {
        let (Some(primary), Some(target), Some(bridge)) =
            (&self.primary, &self.target_primary, &self.bridge)
        else {
            bail!(
                "--native needs --primary, --target-primary (two virtual functions) and --bridge"
            );
        };
        if !is_root() {
            bail!("--native needs root: it makes taps and binds virtual functions to vfio-pci");
        }
        if let Err(error) = OpenOptions::new().read(true).write(true).open("/dev/kvm") {
            bail!(
                "--native: /dev/kvm cannot be opened ({error}): load kvm_intel or kvm_amd, or use the lab"
            );
        }
        let groups = fs::read_dir("/sys/kernel/iommu_groups").map_or(0, Iterator::count);
        if groups == 0 {
            bail!(
                "--native: this machine has no IOMMU in use (intel_iommu=on, or the firmware's switch), or use the lab"
            );
        }
        for address in [primary, target] {
            let device = Path::new("/sys/bus/pci/devices").join(address);
            if !device.exists() {
                bail!("--native: there is no PCI device {address}; write it as 0000:5e:00.2");
            }
            if !device.join("physfn").exists() {
                bail!(
                    "--native: {address} is no SR-IOV virtual function (echo N > …/sriov_numvfs makes them)"
                );
            }
            if !device.join("iommu_group").exists() {
                bail!("--native: {address} is in no IOMMU group");
            }
        }
        if primary == target {
            bail!("--native: the source and the target need a virtual function each");
        }
        let target_bridge = self.target_bridge.as_ref().unwrap_or(bridge);
        for name in [bridge, target_bridge] {
            if !Path::new("/sys/class/net")
                .join(name)
                .join("bridge")
                .exists()
            {
                bail!("--native: there is no bridge {name}");
            }
        }
        Ok([
            "--native-primary",
            primary,
            "--native-target",
            target,
            "--native-bridge",
            bridge,
            target_bridge,
        ]
        .map(str::to_owned)
        .to_vec())
    }
}

fn is_root() -> bool {
    // A process owns its own folder in /proc under its effective user.
    fs::metadata("/proc/self").is_ok_and(|meta| std::os::unix::fs::MetadataExt::uid(&meta) == 0)
}
