//! The way by iommufd: a function's own character device, bound to `/dev/iommu`, and guest memory in an address space of
//! that.
//!
//! ```text
//!   Iommufd (-object iommufd) ──open──▶ /dev/iommu ──▶ IOAS ◀── guest memory, in steps
//!                                           ▲            ▲
//!                         bind (the kernel resets)     attach
//!                                           └─ /dev/vfio/devices/vfioN
//! ```
//! A function is attached while its address space is still empty: the kernel pins memory when it is both mapped and
//! reached by a function, so that one attached to a full address space would have it pinned in one go.

use crate::dma::{self, DmaMap, DmaProgress};
use crate::error::{VfioError, failed, open_error};
use crate::host::HostDevice;
use crate::kernel::{CdevFile, DeviceFile, Ioas, IommuFile};
use memory::Ram;
use pci::Platform;
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

/// Where the kernel's iommufd is.
const DEV_IOMMU: &str = "/dev/iommu";

/// An `iommufd` object of a machine. `/dev/iommu` is opened with the first function that is bound to it, and closed with
/// the last, unless it was handed over open.
#[derive(Debug)]
pub struct Iommufd {
    id: String,
    given: Option<OwnedFd>,
}

impl Iommufd {
    /// One that opens `/dev/iommu` itself. Opens nothing yet: it need not be there before a function needs it.
    pub fn new(id: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            given: None,
        }
    }

    /// One that is open already.
    ///
    /// # Errors
    /// [`VfioError::NotIommufd`] if the descriptor is anything else than an open `/dev/iommu`.
    pub fn of_descriptor(id: impl Into<String>, fd: OwnedFd) -> Result<Self, VfioError> {
        let id = id.into();
        let file = fd.try_clone().map(IommuFile::over);
        if !file.is_ok_and(|file| file.is_iommufd()) {
            return Err(VfioError::NotIommufd { id });
        }
        Ok(Self {
            id,
            given: Some(fd),
        })
    }

    /// Its id.
    pub fn id(&self) -> &str {
        &self.id
    }

    fn open(&self) -> Result<IommuFile, VfioError> {
        match &self.given {
            Some(fd) => {
                let fd = fd.try_clone();
                fd.map(IommuFile::over).map_err(failed(
                    &format!("iommufd={}", self.id),
                    "use its descriptor",
                ))
            }
            None => self.open_at(Path::new(DEV_IOMMU)),
        }
    }

    fn open_at(&self, path: &Path) -> Result<IommuFile, VfioError> {
        IommuFile::open(path).map_err(|error| match open_error(error, path) {
            VfioError::NoVfio { path } => VfioError::NoIommufd {
                id: self.id.clone(),
                path,
            },
            other => other,
        })
    }
}

/// Which of the kernel's interfaces a function is had by.
#[derive(Debug, Clone)]
pub enum Access {
    /// Its IOMMU group, in a container.
    Group,
    /// Its character device, bound to this iommufd.
    Iommufd(Arc<Iommufd>),
}

impl Access {
    /// Says what keeps a function from being had this way, as far as that is to be seen without opening the function. `given`
    /// is its character device, where that was handed over.
    ///
    /// # Errors
    /// As [`HostDevice::check_usable`]; by iommufd [`VfioError::NoIommufd`] and [`VfioError::NoCdev`] as well.
    pub fn check_usable(
        &self,
        host: &HostDevice,
        given: Option<&GivenCdev>,
    ) -> Result<(), VfioError> {
        host.check_usable()?;
        let Self::Iommufd(object) = self else {
            return Ok(());
        };
        object.open()?;
        if host.cdev.is_none() && !given.is_some_and(GivenCdev::is_there) {
            return Err(VfioError::NoCdev {
                device: host.name.clone(),
            });
        }
        Ok(())
    }
}

/// A function's character device that was handed over open. It serves one opening: the kernel binds an open file once
/// and for all, so that a function that shall be another's afterwards has to be closed.
#[derive(Debug)]
pub struct GivenCdev(Mutex<Option<OwnedFd>>);

impl GivenCdev {
    /// The descriptor, not bound yet.
    pub fn new(fd: OwnedFd) -> Self {
        Self(Mutex::new(Some(fd)))
    }

    fn take(&self) -> Option<OwnedFd> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn is_there(&self) -> bool {
        let fd = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        fd.is_some()
    }
}

/// The iommufds in use, by id.
#[derive(Default)]
pub(crate) struct Iommufds {
    spaces: BTreeMap<String, Space>,
}

/// The kernel's address space and guest memory in it.
struct Space {
    // In this order: the address space is given up before the file is closed.
    ioas: Ioas,
    file: IommuFile,
    map: Option<DmaMap>,
    /// The groups of its functions, and how many of the functions are theirs.
    groups: BTreeMap<u32, usize>,
}

/// The place of a function in an iommufd's address space.
pub(crate) struct BoundFile {
    iommufd: String,
    group: u32,
    /// A hold on its file, beside the user's: the hypervisor, which has one of its own, is told to let go by it.
    file: Option<CdevFile>,
}

impl fmt::Debug for BoundFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BoundFile")
            .field("iommufd", &self.iommufd)
            .finish_non_exhaustive()
    }
}

impl BoundFile {
    /// Hypervisor and this let go of the file; done once.
    pub(crate) fn forget(&mut self, platform: &dyn Platform) {
        if let Some(file) = self.file.take()
            && let Err(error) = platform.vfio_file(file.as_fd(), false)
        {
            tracing::warn!(group = self.group, %error, "the hypervisor does not let go of a function");
        }
    }
}

impl Iommufds {
    /// Whether a function of this group is ours.
    pub(crate) fn contains(&self, group: u32) -> bool {
        let mut spaces = self.spaces.values();
        spaces.any(|space| space.groups.contains_key(&group))
    }

    /// Guest memory is mapped, or is being mapped.
    pub(crate) fn is_mapped(&self) -> bool {
        !self.spaces.is_empty()
    }

    /// Takes a place for a function: opens its character device, and makes the address space if there is none. The place is
    /// given up by [`leave`](Self::leave).
    pub(crate) fn enter(
        &mut self,
        device: &HostDevice,
        object: &Iommufd,
        given: Option<&GivenCdev>,
        platform: &dyn Platform,
    ) -> Result<BoundFile, VfioError> {
        let name = &device.name;
        let group = device.group.ok_or_else(|| VfioError::NoGroup {
            device: name.clone(),
        })?;
        let fresh = match self.spaces.get(&object.id) {
            Some(_) => None,
            None => Some(Space::new(object)?),
        };
        let file = open_cdev(device, given)?;
        // Before it is bound: the kernel gives the function its virtual machine then.
        platform
            .vfio_file(file.as_fd(), true)
            .map_err(failed(name, "make it known to the hypervisor"))?;
        if let Some(space) = fresh {
            self.spaces.insert(object.id.clone(), space);
        }
        if let Some(space) = self.spaces.get_mut(&object.id) {
            *space.groups.entry(group).or_default() += 1;
        }
        Ok(BoundFile {
            iommufd: object.id.clone(),
            group,
            file: Some(file),
        })
    }

    /// Binds and attaches a function that has its place, and maps guest memory unless it is.
    ///
    /// While the kernel binds the function, which it does with a reset, the host is made to provide the memory: either
    /// takes its time, and neither needs the other.
    pub(crate) fn open(
        &mut self,
        place: &BoundFile,
        device: &HostDevice,
        ram: &Ram,
        hook: &mut dyn FnMut(DmaProgress) -> ControlFlow<()>,
    ) -> Result<DeviceFile, VfioError> {
        let name = &device.name;
        let file = place.file.as_ref().map(CdevFile::hold);
        let file = file.unwrap_or_else(|| Err(io::ErrorKind::NotFound.into()));
        let file = CdevFile::over(file.map_err(failed(name, "keep its file"))?);
        let space = self.spaces.get_mut(&place.iommufd);
        let space = space.ok_or_else(|| VfioError::NotIommufd {
            id: place.iommufd.clone(),
        })?;
        let (iommu, fresh) = (&space.file, space.map.is_none());
        let (bound, populated) = thread::scope(|scope| {
            let binding = scope.spawn(|| file.bind(iommu));
            let populated = match fresh {
                true => dma::populate(ram.guest(), name, hook),
                false => Ok(()),
            };
            let bound = binding
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("the binding thread panicked")));
            (bound, populated)
        });
        let bound = bound.map_err(|error| bind_error(error, device, &place.iommufd))?;
        populated?;
        bound
            .attach(&space.ioas)
            .map_err(failed(name, "attach it to the address space"))?;
        if fresh {
            space.map = Some(DmaMap::map(&space.ioas, ram.guest(), name, hook)?);
        }
        Ok(bound)
    }

    /// Gives a place up, whose function is closed; with the last one of an address space, memory and file go.
    pub(crate) fn leave(&mut self, place: &BoundFile) {
        let Some(space) = self.spaces.get_mut(&place.iommufd) else {
            return;
        };
        if let Some(users) = space.groups.get_mut(&place.group) {
            *users -= 1;
            if *users == 0 {
                space.groups.remove(&place.group);
            }
        }
        if !space.groups.is_empty() {
            return;
        }
        if let Some(mut map) = space.map.take() {
            map.unmap(&space.ioas);
        }
        self.spaces.remove(&place.iommufd);
    }
}

impl Space {
    fn new(object: &Iommufd) -> Result<Self, VfioError> {
        let file = object.open()?;
        let ioas = file.address_space().map_err(failed(
            &format!("iommufd={}", object.id),
            "make an I/O address space",
        ))?;
        Ok(Self {
            ioas,
            file,
            map: None,
            groups: BTreeMap::new(),
        })
    }
}

/// The function's character device: the one that was handed over, as long as it is there.
fn open_cdev(device: &HostDevice, given: Option<&GivenCdev>) -> Result<CdevFile, VfioError> {
    if let Some(fd) = given.and_then(GivenCdev::take) {
        return Ok(CdevFile::over(fd));
    }
    let path = device.cdev_path().ok_or_else(|| VfioError::NoCdev {
        device: device.name.clone(),
    })?;
    CdevFile::open(&path).map_err(|error| match open_error(error, &path) {
        VfioError::Open { path, source, .. } if given.is_some() => VfioError::Open {
            path,
            source,
            hint: ": its fd= was closed with the function; add the device anew, with another"
                .to_owned(),
        },
        error => error,
    })
}

/// Why the kernel does not bind a function.
fn bind_error(source: io::Error, device: &HostDevice, iommufd: &str) -> VfioError {
    let name = device.name.clone();
    let errno = source.raw_os_error();
    let other = || failed(&device.name, &format!("bind it to iommufd={iommufd}"))(source);
    match errno {
        Some(libc::EPERM) => VfioError::UnsafeInterrupts { device: name },
        // What the kernel says of a function that is bound already, among other things.
        Some(libc::EINVAL) => device.held().unwrap_or_else(other),
        Some(libc::EBUSY) => {
            let others = device.offenders();
            if others.is_empty() {
                return device.in_use();
            }
            VfioError::NotViable {
                device: name,
                group: device.group.unwrap_or_default(),
                others,
            }
        }
        _ => other(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::tests::function as device;
    use std::fs::File;

    fn null() -> OwnedFd {
        File::open("/dev/null").unwrap().into()
    }

    #[test]
    fn a_kernel_without_iommufd_is_told_with_its_remedy() {
        let object = Iommufd::new("iommufd0");
        let error = object.open_at(Path::new("/dev/no-such-iommu")).err();
        let text = error.unwrap().to_string();
        assert!(
            text.starts_with("iommufd=iommufd0: /dev/no-such-iommu does not exist"),
            "{text}"
        );
        assert!(
            text.contains("CONFIG_IOMMUFD") && text.contains("leave iommufd= out"),
            "{text}"
        );
        assert!(!text.contains('\n'), "{text}");
    }

    #[test]
    fn a_descriptor_that_is_no_iommufd_is_refused_when_it_is_given() {
        let error = Iommufd::of_descriptor("iommufd0", null()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "iommufd=iommufd0: its fd= is no open /dev/iommu"
        );
    }

    #[test]
    fn a_kernel_without_character_devices_is_told_with_its_remedy() {
        let error = open_cdev(&device(None), None).unwrap_err().to_string();
        assert!(error.contains("CONFIG_VFIO_DEVICE_CDEV"), "{error}");
        assert!(error.starts_with("0000:5e:00.2 has no character device"));
    }

    #[test]
    fn a_given_function_serves_once() {
        let given = GivenCdev::new(null());
        assert!(open_cdev(&device(None), Some(&given)).is_ok());
        assert!(!given.is_there());
        // From then on it is had by its path, like any other.
        assert!(matches!(
            open_cdev(&device(None), Some(&given)),
            Err(VfioError::NoCdev { .. })
        ));
        let missing = open_cdev(&device(Some("vfio4294967295")), Some(&given));
        assert!(
            matches!(missing, Err(VfioError::NoVfio { path }) if path == "/dev/vfio/devices/vfio4294967295")
        );
    }

    #[test]
    fn what_keeps_the_kernel_from_binding_is_told() {
        let error = |errno| {
            bind_error(
                io::Error::from_raw_os_error(errno),
                &device(Some("vfio4294967295")),
                "iommufd0",
            )
        };
        assert!(matches!(
            error(libc::EPERM),
            VfioError::UnsafeInterrupts { .. }
        ));
        assert!(
            matches!(error(libc::EBUSY), VfioError::Busy { holder, .. } if holder == "another process")
        );
        let other = error(libc::ENOTTY).to_string();
        assert!(
            other.starts_with("0000:5e:00.2: cannot bind it to iommufd=iommufd0"),
            "{other}"
        );
        let mut shared = device(None);
        shared.members = vec![crate::GroupMember {
            name: "0000:5e:00.3".to_owned(),
            driver: Some("ixgbe".to_owned()),
        }];
        let error = bind_error(
            io::Error::from_raw_os_error(libc::EBUSY),
            &shared,
            "iommufd0",
        );
        assert!(
            matches!(error, VfioError::NotViable { others, .. } if others == "0000:5e:00.3 is bound to ixgbe")
        );
    }
}
