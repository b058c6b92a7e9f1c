//! Finding a function of the host in sysfs: its driver, its IOMMU group, who else is in that.
//!
//! Nothing is opened or changed here, so all of it can be asked at the moment a user gives an option.

use crate::address::HostSpec;
use crate::error::VfioError;
use std::fs::{self, File};
use std::os::fd::BorrowedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Drivers beside VFIO's own that leave a group viable: they do no DMA.
const HARMLESS_DRIVERS: [&str; 2] = ["pci-stub", "pcieport"];

/// A function of the host as sysfs describes it at the moment of asking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostDevice {
    /// `0000:5e:00.2`.
    pub name: String,
    /// Its folder under `/sys/devices`, links resolved.
    pub sysfs: PathBuf,
    /// The driver that has it.
    pub driver: Option<String>,
    /// Its IOMMU group.
    pub group: Option<u32>,
    /// The group is one of the kernel's unsafe "no-IOMMU" groups.
    pub unsafe_group: bool,
    /// Class, subclass and programming interface: 0x020000 for an Ethernet controller.
    pub class: u32,
    /// Vendor id.
    pub vendor: u16,
    /// Device id.
    pub device: u16,
    /// Where it is a virtual function: the physical one it belongs to.
    pub physical_function: Option<String>,
    /// Names of the functions in its group, itself among them, and their drivers.
    pub members: Vec<GroupMember>,
    /// Whether the kernel's VFIO has it (Linux 6.1 and newer tell).
    pub known_to_vfio: bool,
    /// `vfioN`, its character device under `/dev/vfio/devices`, where the kernel has those.
    pub cdev: Option<String>,
}

/// A function in an IOMMU group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupMember {
    /// `0000:5e:00.2`.
    pub name: String,
    /// The driver that has it.
    pub driver: Option<String>,
}

impl HostDevice {
    /// Looks the function up. `sysfs` is `/sys`, or another tree of that form.
    ///
    /// # Errors
    /// [`VfioError::NotFound`] and [`VfioError::NotPci`]. A function that exists and cannot be used is found; what is
    /// in its way is told by [`check_usable`](Self::check_usable).
    pub fn find(spec: &HostSpec, sysfs: &Path) -> Result<Self, VfioError> {
        let path = match spec {
            HostSpec::Address(address) => sysfs.join("bus/pci/devices").join(address.to_string()),
            HostSpec::Sysfs(path) => path.clone(),
        };
        let folder = fs::canonicalize(&path).map_err(|_| VfioError::NotFound {
            device: spec.to_string(),
            path: path.display().to_string(),
        })?;
        let not_pci = |reason: &str| VfioError::NotPci {
            path: path.display().to_string(),
            reason: reason.to_owned(),
        };
        let name = folder
            .file_name()
            .and_then(|name| name.to_str())
            .ok_or_else(|| not_pci("it has no name"))?
            .to_owned();
        let number = |file: &str| {
            let text = fs::read_to_string(folder.join(file)).ok()?;
            u32::from_str_radix(text.trim().strip_prefix("0x")?, 16).ok()
        };
        let id = |file: &str| number(file).and_then(|value| u16::try_from(value).ok());
        let class = number("class").ok_or_else(|| not_pci("it has no class"))?;
        let vendor = id("vendor").ok_or_else(|| not_pci("it has no vendor"))?;
        let device = id("device").ok_or_else(|| not_pci("it has no device id"))?;
        let group_folder = fs::canonicalize(folder.join("iommu_group")).ok();
        let group = group_folder
            .as_deref()
            .and_then(Path::file_name)
            .and_then(|name| name.to_str()?.parse().ok());
        let unsafe_group = group_folder
            .as_deref()
            .and_then(|group| fs::read_to_string(group.join("name")).ok())
            .is_some_and(|name| name.trim() == "vfio-noiommu");
        let members = group_folder.map_or_else(Vec::new, |group| group_members(&group));
        let known = entries(&folder.join("vfio-dev"))
            .into_iter()
            .find(|name| name.starts_with("vfio"));
        // Without CONFIG_VFIO_DEVICE_CDEV it has the name and no number.
        let has_number = |name: &String| folder.join("vfio-dev").join(name).join("dev").exists();
        Ok(Self {
            driver: driver_of(&folder),
            group,
            unsafe_group,
            class,
            vendor,
            device,
            physical_function: link_name(&folder.join("physfn")),
            members,
            known_to_vfio: known.is_some(),
            cdev: known.filter(has_number),
            name,
            sysfs: folder,
        })
    }

    /// The function whose character device (`/dev/vfio/devices/vfioN`) `cdev` is; it may be bound or not.
    ///
    /// # Errors
    /// [`VfioError::NotCdev`] for any other file, and as [`find`](Self::find).
    pub fn of_cdev(cdev: BorrowedFd<'_>, sysfs: &Path) -> Result<Self, VfioError> {
        let not = |_| VfioError::NotCdev;
        let file = File::from(cdev.try_clone_to_owned().map_err(not)?);
        let number = file.metadata().map_err(not)?.rdev();
        let name = format!("{}:{}", libc::major(number), libc::minor(number));
        let entry = fs::canonicalize(sysfs.join("dev/char").join(name)).map_err(not)?;
        // FUNCTION/vfio-dev/vfioN
        let above = entry.parent().filter(|above| above.ends_with("vfio-dev"));
        let folder = above.and_then(Path::parent).ok_or(VfioError::NotCdev)?;
        Self::find(&HostSpec::Sysfs(folder.to_owned()), sysfs)
    }

    /// Whether it belongs to a VFIO driver: `vfio-pci` or a vendor's variant of it.
    pub fn is_bound_to_vfio(&self) -> bool {
        self.driver.as_deref().is_some_and(is_vfio_driver) || self.known_to_vfio
    }

    /// Whether it is an Ethernet controller (class 02, subclass 00).
    pub fn is_ethernet(&self) -> bool {
        self.class >> 8 == 0x0200
    }

    /// Says what keeps it from being passed through, as far as that is to be seen without opening anything.
    ///
    /// # Errors
    /// [`VfioError::OtherDriver`], [`VfioError::NoDriver`], [`VfioError::NoGroup`], [`VfioError::NotViable`].
    pub fn check_usable(&self) -> Result<(), VfioError> {
        let device = self.name.clone();
        let sysfs = format!("/sys/bus/pci/devices/{}", self.name);
        if !self.is_bound_to_vfio() {
            return Err(match self.driver.clone() {
                Some(driver) => VfioError::OtherDriver {
                    device,
                    driver,
                    sysfs,
                },
                None => VfioError::NoDriver { device, sysfs },
            });
        }
        if self.unsafe_group {
            return Err(VfioError::NoGroup { device });
        }
        let Some(group) = self.group else {
            return Err(VfioError::NoGroup { device });
        };
        let others = self.offenders();
        if others.is_empty() {
            Ok(())
        } else {
            Err(VfioError::NotViable {
                device,
                group,
                others,
            })
        }
    }

    /// The path of its character device, where the kernel has those.
    pub(crate) fn cdev_path(&self) -> Option<PathBuf> {
        Some(Path::new("/dev/vfio/devices").join(self.cdev.as_deref()?))
    }

    /// Who has it by its group or by its character device, as far as this process may know.
    fn holder(&self) -> Option<String> {
        let procfs = Path::new("/proc");
        let group = self.group.map(|group| format!("/dev/vfio/{group}"));
        let by_group = group.and_then(|file| holder_of(Path::new(&file), procfs, None));
        // While it is being opened its own file is open here, too.
        let but = Some(std::process::id());
        by_group.or_else(|| holder_of(&self.cdev_path()?, procfs, but))
    }

    /// The error that somebody has it already who is known; `None` if nobody is.
    pub(crate) fn held(&self) -> Option<VfioError> {
        Some(self.busy(self.holder()?))
    }

    /// The error that it, or another of its group, is in use, by whoever it is.
    pub(crate) fn in_use(&self) -> VfioError {
        self.held()
            .unwrap_or_else(|| self.busy("another process".to_owned()))
    }

    fn busy(&self, holder: String) -> VfioError {
        VfioError::Busy {
            device: self.name.clone(),
            group: self.group.unwrap_or_default(),
            holder,
        }
    }

    /// The members of its group that keep the group from being used: `0000:5e:00.3 is bound to ixgbe`; empty if none.
    pub fn offenders(&self) -> String {
        self.members
            .iter()
            .filter_map(|member| {
                let driver = member.driver.as_deref()?;
                let fine = is_vfio_driver(driver) || HARMLESS_DRIVERS.contains(&driver);
                (!fine).then(|| format!("{} is bound to {driver}", member.name))
            })
            .collect::<Vec<_>>()
            .join(", ")
    }
}

fn is_vfio_driver(driver: &str) -> bool {
    driver.ends_with("vfio-pci") || driver.ends_with("vfio_pci")
}

fn link_name(link: &Path) -> Option<String> {
    let target = fs::read_link(link).ok()?;
    Some(target.file_name()?.to_str()?.to_owned())
}

fn driver_of(folder: &Path) -> Option<String> {
    link_name(&folder.join("driver"))
}

/// The names in a folder, sorted; none if it cannot be read.
fn entries(folder: &Path) -> Vec<String> {
    let Ok(listing) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut names: Vec<String> = listing
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    names.sort();
    names
}

fn group_members(group: &Path) -> Vec<GroupMember> {
    let devices = group.join("devices");
    entries(&devices)
        .into_iter()
        .map(|name| GroupMember {
            driver: driver_of(&devices.join(&name)),
            name,
        })
        .collect()
}

/// Who has `file` open, for a message: the first process found, by id and name.
///
/// `procfs` is `/proc`. It finds only what this process may look at; `None` says nothing. The process `but` does not count.
fn holder_of(file: &Path, procfs: &Path, but: Option<u32>) -> Option<String> {
    entries(procfs)
        .into_iter()
        .filter(|name| name.parse().is_ok_and(|pid: u32| Some(pid) != but))
        .find_map(|pid| {
            let process = procfs.join(&pid);
            let fds = process.join("fd");
            let holds = entries(&fds)
                .iter()
                .any(|fd| fs::read_link(fds.join(fd)).is_ok_and(|target| target == file));
            holds.then(|| {
                let name = fs::read_to_string(process.join("comm")).unwrap_or_default();
                format!("process {pid} ({})", name.trim())
            })
        })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::os::unix::fs::symlink;
    use tempfile::TempDir;

    /// A function as it would be found, with a character device or without; of a group that no host has.
    pub(crate) fn function(cdev: Option<&str>) -> HostDevice {
        HostDevice {
            name: "0000:5e:00.2".to_owned(),
            sysfs: PathBuf::from("/sys/devices/pci0000:5d/0000:5e:00.2"),
            driver: Some("vfio-pci".to_owned()),
            group: Some(u32::MAX),
            unsafe_group: false,
            class: 0x020000,
            vendor: 0x8086,
            device: 0x10ca,
            physical_function: None,
            members: Vec::new(),
            known_to_vfio: true,
            cdev: cdev.map(str::to_owned),
        }
    }

    /// A sysfs of its own: functions with their drivers, sorted into groups.
    struct Tree(TempDir);

    impl Tree {
        fn new() -> Self {
            let tree = Self(tempfile::tempdir().unwrap());
            fs::create_dir_all(tree.0.path().join("bus/pci/devices")).unwrap();
            tree
        }

        fn device(&self, name: &str, driver: Option<&str>, group: Option<u32>) -> PathBuf {
            let root = self.0.path();
            let folder = root.join("devices/pci0000:5d").join(name);
            fs::create_dir_all(&folder).unwrap();
            for (file, text) in [
                ("class", "0x020000\n"),
                ("vendor", "0x8086\n"),
                ("device", "0x10ca\n"),
            ] {
                fs::write(folder.join(file), text).unwrap();
            }
            symlink(&folder, root.join("bus/pci/devices").join(name)).unwrap();
            if let Some(driver) = driver {
                let drivers = root.join("bus/pci/drivers").join(driver);
                fs::create_dir_all(&drivers).unwrap();
                symlink(&drivers, folder.join("driver")).unwrap();
            }
            if let Some(group) = group {
                let group = root.join("kernel/iommu_groups").join(group.to_string());
                fs::create_dir_all(group.join("devices")).unwrap();
                symlink(&folder, group.join("devices").join(name)).unwrap();
                symlink(&group, folder.join("iommu_group")).unwrap();
            }
            folder
        }

        fn find(&self, spec: &str) -> Result<HostDevice, VfioError> {
            HostDevice::find(&HostSpec::Address(spec.parse().unwrap()), self.0.path())
        }
    }

    #[test]
    fn a_function_ready_for_use_is_found_by_address_and_by_path() {
        let tree = Tree::new();
        let folder = tree.device("0000:5e:00.2", Some("vfio-pci"), Some(12));
        symlink(tree.0.path(), folder.join("physfn")).unwrap();
        let device = tree.find("5e:00.2").unwrap();
        device.check_usable().unwrap();
        assert_eq!(device.name, "0000:5e:00.2");
        assert_eq!(device.group, Some(12));
        assert_eq!((device.vendor, device.device), (0x8086, 0x10ca));
        assert!(device.is_ethernet());
        assert!(device.physical_function.is_some());
        let by_path = HostSpec::Sysfs(tree.0.path().join("bus/pci/devices/0000:5e:00.2"));
        assert_eq!(HostDevice::find(&by_path, tree.0.path()).unwrap(), device);
    }

    #[test]
    fn what_is_in_the_way_is_named_with_its_remedy() {
        let tree = Tree::new();
        tree.device("0000:5e:00.2", Some("igbvf"), Some(12));
        tree.device("0000:5e:00.3", None, Some(13));
        tree.device("0000:5e:00.4", Some("vfio-pci"), None);
        tree.device("0000:5e:00.5", Some("vfio-pci"), Some(14));
        tree.device("0000:5e:00.6", Some("ixgbe"), Some(14));
        tree.device("0000:5e:00.7", Some("pcieport"), Some(14));
        let error = |name: &str| {
            tree.find(name)
                .and_then(|device| device.check_usable())
                .unwrap_err()
        };
        let other = error("5e:00.2").to_string();
        assert!(
            other.contains(
                "0000:5e:00.2 is bound to igbvf; bind it to vfio-pci: echo vfio-pci > \
                            /sys/bus/pci/devices/0000:5e:00.2/driver_override;"
            ),
            "{other}"
        );
        assert!(matches!(error("5e:00.3"), VfioError::NoDriver { .. }));
        assert!(matches!(error("5e:00.4"), VfioError::NoGroup { .. }));
        assert!(
            matches!(error("5e:00.5"), VfioError::NotViable { group: 14, others, .. }
                if others == "0000:5e:00.6 is bound to ixgbe")
        );
        let missing = error("5e:1f.0").to_string();
        assert!(missing.contains("no PCI device 0000:5e:1f.0"), "{missing}");
    }

    #[test]
    fn a_character_device_is_found_from_the_function_and_the_function_from_it() {
        let tree = Tree::new();
        // A vendor's driver by any name, known by the kernel's word alone.
        let folder = tree.device("0000:5e:00.2", Some("nic_direct"), Some(12));
        assert_eq!(tree.find("5e:00.2").unwrap().cdev, None);
        assert!(!tree.find("5e:00.2").unwrap().is_bound_to_vfio());
        let cdev = folder.join("vfio-dev/vfio7");
        fs::create_dir_all(&cdev).unwrap();
        // A kernel that has no files for it.
        let device = tree.find("5e:00.2").unwrap();
        assert!(device.is_bound_to_vfio() && device.cdev.is_none());
        fs::write(cdev.join("dev"), "1:3\n").unwrap();
        let device = tree.find("5e:00.2").unwrap();
        assert_eq!(device.cdev.as_deref(), Some("vfio7"));

        let chars = tree.0.path().join("dev/char");
        fs::create_dir_all(&chars).unwrap();
        let of = |path: &str| {
            let file = File::open(path).unwrap();
            HostDevice::of_cdev(file.as_fd(), tree.0.path())
        };
        // In the place of a function's: a device there always is, 1:3.
        assert!(matches!(of("/dev/null"), Err(VfioError::NotCdev)));
        symlink(&cdev, chars.join("1:3")).unwrap();
        assert_eq!(of("/dev/null").unwrap(), device);
        // A device, but no function's; and no device at all.
        symlink(&folder, chars.join("1:5")).unwrap();
        assert!(matches!(of("/dev/zero"), Err(VfioError::NotCdev)));
        assert!(matches!(of("/proc/self/stat"), Err(VfioError::NotCdev)));
    }

    #[test]
    fn a_group_without_an_iommu_is_none() {
        let tree = Tree::new();
        let folder = tree.device("0000:5e:00.2", Some("vfio-pci"), Some(0));
        fs::write(folder.join("iommu_group/name"), "vfio-noiommu\n").unwrap();
        let error = tree.find("5e:00.2").unwrap().check_usable().unwrap_err();
        assert!(matches!(error, VfioError::NoGroup { .. }));
    }

    #[test]
    fn a_folder_that_is_no_function_is_refused() {
        let tree = Tree::new();
        let spec = HostSpec::Sysfs(tree.0.path().to_owned());
        let error = HostDevice::find(&spec, tree.0.path()).unwrap_err();
        assert!(matches!(error, VfioError::NotPci { .. }));
    }

    #[test]
    fn the_holder_of_a_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let fds = folder.path().join("4711/fd");
        fs::create_dir_all(&fds).unwrap();
        fs::write(folder.path().join("4711/comm"), "qemu-system-x86\n").unwrap();
        symlink("/dev/vfio/12", fds.join("7")).unwrap();
        let holder = |file: &str| holder_of(Path::new(file), folder.path(), None);
        assert_eq!(
            holder("/dev/vfio/12").as_deref(),
            Some("process 4711 (qemu-system-x86)")
        );
        assert_eq!(holder("/dev/vfio/13"), None);
        let but = holder_of(Path::new("/dev/vfio/12"), folder.path(), Some(4711));
        assert_eq!(but, None);
    }
}
