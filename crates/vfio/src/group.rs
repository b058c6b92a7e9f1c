//! The way by IOMMU groups: a container of the kernel's, the groups in it, and guest memory in that.

use crate::dma::{DmaMap, DmaProgress};
use crate::error::{VfioError, failed, open_error};
use crate::host::HostDevice;
use crate::kernel::{ContainerFile, DeviceFile, GroupFile};
use memory::Ram;
use pci::Platform;
use std::collections::BTreeMap;
use std::io;
use std::ops::ControlFlow;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

/// The groups in use and the container they are in.
#[derive(Default)]
pub(crate) struct Groups {
    /// By number, and how many of the functions are theirs.
    groups: BTreeMap<u32, (Arc<GroupFile>, usize)>,
    space: Option<Space>,
}

/// The kernel's container and guest memory in it.
struct Space {
    container: ContainerFile,
    map: Option<DmaMap>,
}

impl Groups {
    pub(crate) fn contains(&self, number: u32) -> bool {
        self.groups.contains_key(&number)
    }

    /// Guest memory is mapped, or is being mapped.
    pub(crate) fn is_mapped(&self) -> bool {
        self.space.is_some()
    }

    /// Takes a place in the function's group, which is opened and put into the container unless it is there already; the
    /// container is made if there is none. The place is given up by [`leave`](Self::leave).
    pub(crate) fn enter(
        &mut self,
        device: &HostDevice,
        platform: &dyn Platform,
    ) -> Result<u32, VfioError> {
        let number = device.group.ok_or_else(|| VfioError::NoGroup {
            device: device.name.clone(),
        })?;
        if let Some((_, users)) = self.groups.get_mut(&number) {
            *users += 1;
        } else {
            let group = self.open_group(device, number, platform)?;
            self.groups.insert(number, (Arc::new(group), 1));
        }
        Ok(number)
    }

    /// Opens a function of a group that was entered, and maps guest memory unless it is.
    ///
    /// The function is opened while memory is being mapped: either takes its time, and neither needs the other.
    pub(crate) fn open(
        &mut self,
        number: u32,
        device: &str,
        ram: &Ram,
        hook: &mut dyn FnMut(DmaProgress) -> ControlFlow<()>,
    ) -> Result<DeviceFile, VfioError> {
        let group = self.groups.get(&number).map(|(group, _)| Arc::clone(group));
        let group = group.ok_or_else(|| VfioError::NoGroup {
            device: device.to_owned(),
        })?;
        let (opened, mapped) = thread::scope(|scope| {
            let opening = scope.spawn(|| group.device(device));
            let mapped = self.map(device, ram, hook);
            let opened = opening
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("the opening thread panicked")));
            (opened, mapped)
        });
        mapped?;
        opened.map_err(failed(device, "open the function"))
    }

    /// Opens a group and puts it into the container, which is made if there is none.
    fn open_group(
        &mut self,
        device: &HostDevice,
        number: u32,
        platform: &dyn Platform,
    ) -> Result<GroupFile, VfioError> {
        let name = &device.name;
        let fresh = match &self.space {
            Some(_) => None,
            None => Some(open_container()?),
        };
        let path = group_path(number);
        let group = GroupFile::open(&path).map_err(|error| group_error(error, &path, device))?;
        if !group
            .is_viable()
            .map_err(failed(name, "ask for its group's state"))?
        {
            let mut others = device.offenders();
            if others.is_empty() {
                others = "one of its members is in use by a host driver".to_owned();
            }
            return Err(VfioError::NotViable {
                device: name.clone(),
                group: number,
                others,
            });
        }
        let container = match (&fresh, &self.space) {
            (Some(container), _) => container,
            (None, Some(space)) => &space.container,
            (None, None) => {
                return Err(failed(name, "find its container")(
                    io::ErrorKind::NotFound.into(),
                ));
            }
        };
        group.join(container).map_err(|error| {
            if error.raw_os_error() == Some(libc::EBUSY) {
                group_error(error, &path, device)
            } else {
                failed(name, "put its group into a container")(error)
            }
        })?;
        // Before any DMA mapping: the kernel decides on cache coherence by it.
        let registered = platform.vfio_file(group.as_fd(), true);
        if let Err(error) = registered {
            let _ = group.leave();
            return Err(failed(name, "make its group known to the hypervisor")(
                error,
            ));
        }
        if let Some(container) = fresh {
            if let Err(error) = container.set_type1v2() {
                close_group(&group, number, platform);
                return Err(failed(name, "set up the IOMMU")(error));
            }
            self.space = Some(Space {
                container,
                map: None,
            });
        }
        Ok(group)
    }

    /// Maps guest memory, unless it is.
    fn map(
        &mut self,
        device: &str,
        ram: &Ram,
        hook: &mut dyn FnMut(DmaProgress) -> ControlFlow<()>,
    ) -> Result<(), VfioError> {
        let Some(Space {
            container,
            map: map @ None,
        }) = &mut self.space
        else {
            return Ok(());
        };
        *map = Some(DmaMap::map(container, ram.guest(), device, hook)?);
        Ok(())
    }

    /// Gives a place up; with the last one of all, memory and container go.
    pub(crate) fn leave(&mut self, number: u32, platform: &dyn Platform) {
        let last = match self.groups.get_mut(&number) {
            Some((_, users)) => {
                *users -= 1;
                *users == 0
            }
            None => false,
        };
        if !last {
            return;
        }
        let group = self.groups.remove(&number);
        if self.groups.is_empty()
            && let Some(Space { container, map }) = &mut self.space
            && let Some(mut map) = map.take()
        {
            map.unmap(container);
        }
        if let Some((group, _)) = group {
            close_group(&group, number, platform);
        }
        if self.groups.is_empty() {
            self.space = None;
        }
    }
}

fn group_path(number: u32) -> PathBuf {
    PathBuf::from(format!("/dev/vfio/{number}"))
}

/// Whether a group is nobody's: opens it and closes it again.
///
/// # Errors
/// [`VfioError::Busy`], or why the group cannot be opened.
pub(crate) fn check_free(device: &HostDevice, number: u32) -> Result<(), VfioError> {
    let path = group_path(number);
    GroupFile::open(&path)
        .map(drop)
        .map_err(|error| group_error(error, &path, device))
}

fn close_group(group: &GroupFile, number: u32, platform: &dyn Platform) {
    if let Err(error) = platform.vfio_file(group.as_fd(), false) {
        tracing::warn!(group = number, %error, "the hypervisor does not let go of an IOMMU group");
    }
    if let Err(error) = group.leave() {
        tracing::warn!(group = number, %error, "an IOMMU group does not leave its container");
    }
}

fn open_container() -> Result<ContainerFile, VfioError> {
    let path = Path::new("/dev/vfio/vfio");
    let container = ContainerFile::open(path).map_err(|error| open_error(error, path))?;
    let (version, type1v2) = container
        .abilities()
        .map_err(failed("VFIO container", "ask for the API version"))?;
    match (version, type1v2) {
        (0, true) => Ok(container),
        (0, false) => Err(VfioError::Unsupported("no type 1v2 IOMMU".to_owned())),
        _ => Err(VfioError::Unsupported(format!("API version {version}"))),
    }
}

fn group_error(source: io::Error, path: &Path, device: &HostDevice) -> VfioError {
    if source.raw_os_error() == Some(libc::EBUSY) {
        return device.in_use();
    }
    open_error(source, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_open_says_what_to_do() {
        let error = |errno| {
            group_error(
                io::Error::from_raw_os_error(errno),
                Path::new("/dev/vfio/4294967295"),
                &crate::host::tests::function(None),
            )
            .to_string()
        };
        let text = error(libc::ENOENT);
        assert!(
            text.contains("/dev/vfio/4294967295 does not exist"),
            "{text}"
        );
        assert!(text.contains("modprobe vfio-pci"), "{text}");
        assert!(error(libc::EACCES).contains("chown $USER /dev/vfio/4294967295"));
        let text = error(libc::EBUSY);
        assert!(
            text.contains("0000:5e:00.2: its IOMMU group 4294967295"),
            "{text}"
        );
        assert!(text.ends_with("is in use by another process"), "{text}");
    }
}
