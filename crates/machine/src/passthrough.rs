//! By what a `vfio-pci` is had: the machine's `iommufd` objects, and functions that were handed over open.

use crate::MachineError;
use crate::board::Board;
use crate::devices::host_spec;
use crate::network::{FdSource, resolve};
use config::vm::{
    DeviceConfig, DeviceKind, FdRef, ObjectConfig, ObjectKind, VfioPciConfig, VfioSource,
};
use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use vfio::{Access, GivenCdev, HostDevice, Iommufd, VfioError};

const SYSFS: &str = "/sys";

/// The `iommufd` objects there are, by id.
#[derive(Default)]
pub(crate) struct Iommufds(BTreeMap<String, Arc<Iommufd>>);

impl Iommufds {
    pub(crate) fn remove(&mut self, id: &str) {
        self.0.remove(id);
    }
}

impl Board {
    /// Makes an object that is an `iommufd`, and leaves any other to who uses it.
    pub(crate) fn make_iommufd(
        &mut self,
        object: &ObjectConfig,
        fds: &dyn FdSource,
    ) -> Result<(), MachineError> {
        let ObjectKind::IommuFd { fd } = &object.kind else {
            return Ok(());
        };
        let id = object.id.clone();
        let made = match fd {
            None => Iommufd::new(id.clone()),
            Some(fd) => {
                let fd = taken(fd, fds)?;
                Iommufd::of_descriptor(id.clone(), fd).map_err(refused)?
            }
        };
        self.iommufds.0.insert(id, Arc::new(made));
        Ok(())
    }

    /// Whether a device is had by this object, or is to be.
    pub(crate) fn is_iommufd_used(&self, id: &str) -> bool {
        let plugged = self.devices.iter().map(|device| &device.config);
        let primaries = self.pairs.primaries().map(|(_, primary)| &primary.config);
        plugged.chain(primaries).any(|config| {
            matches!(&config.kind, DeviceKind::VfioPci(vfio) if vfio.iommufd.as_deref() == Some(id))
        })
    }

    /// By which of the kernel's interfaces a function is had.
    pub(crate) fn access_to(&self, vfio: &VfioPciConfig) -> Result<Access, MachineError> {
        let Some(id) = &vfio.iommufd else {
            return Ok(Access::Group);
        };
        if let Some(made) = self.iommufds.0.get(id) {
            return Ok(Access::Iommufd(Arc::clone(made)));
        }
        let object = self.config.objects.iter().find(|object| object.id == *id);
        let wrong = object.map(|object| ObjectConfig::check_iommufd(id, Some(object)));
        match wrong {
            Some(Err(error)) => Err(MachineError::refused(error.to_string())),
            _ => Err(MachineError::DeviceNotFound(id.clone())),
        }
    }

    /// Takes over the descriptor that a `vfio-pci` names by `fd=`; from then on its configuration says which function it is.
    pub(crate) fn take_cdev(
        &self,
        config: &mut DeviceConfig,
        fds: &dyn FdSource,
    ) -> Result<Option<Arc<GivenCdev>>, MachineError> {
        let DeviceKind::VfioPci(vfio) = &mut config.kind else {
            return Ok(None);
        };
        let Some(fd) = &vfio.fd else {
            return Ok(None);
        };
        let fd = taken(fd, fds)?;
        let given = HostDevice::of_cdev(fd.as_fd(), Path::new(SYSFS)).map_err(refused)?;
        if vfio.source == VfioSource::Fd {
            vfio.source = VfioSource::SysfsDev(given.sysfs);
        } else {
            let named = HostDevice::find(&host_spec(vfio), Path::new(SYSFS)).map_err(refused)?;
            if named.name != given.name {
                return Err(refused(VfioError::OtherCdev {
                    given: given.name,
                    named: named.name,
                }));
            }
        }
        Ok(Some(Arc::new(GivenCdev::new(fd))))
    }
}

/// The descriptor that a user names.
fn taken(fd: &FdRef, fds: &dyn FdSource) -> Result<OwnedFd, MachineError> {
    resolve(fd, fds).map_err(|error| {
        MachineError::refused(match fd {
            FdRef::Name(name) => format!("Could not parse remote object fd {name}:{error}"),
            FdRef::Number(_) => error,
        })
    })
}

fn refused(error: VfioError) -> MachineError {
    MachineError::refused(error.to_string())
}
