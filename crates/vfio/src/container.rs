//! The I/O address space a machine's functions share, and the IOMMU groups in it.

use crate::dma::{self, DmaMap, DmaProgress};
use crate::error::VfioError;
use crate::host::{HostDevice, holder_of};
use crate::kernel::{ContainerFile, DeviceFile, GroupFile};
use memory::Ram;
use pci::Platform;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::ops::ControlFlow;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread;
use std::time::Duration;

/// How long an open waits for the last one to be undone; that takes the kernel a fraction of a second.
const LEAVE_LIMIT: Duration = Duration::from_secs(10);

/// The VFIO side of one machine: its functions' IOMMU groups and the mapping of guest memory for their DMA.
///
/// Making one opens nothing. The first function's group brings the kernel's container into being and maps guest
/// memory; when the last function is dropped both go.
pub struct Container {
    ram: Arc<Ram>,
    platform: Arc<dyn Platform>,
    state: Mutex<State>,
    leaving: Leaving,
}

/// Functions that are being closed, by name: another open of the same one waits for that. A lock of its own, since the
/// other is held for as long as memory is mapped and unmapped.
#[derive(Debug, Default)]
struct Leaving {
    names: Mutex<BTreeSet<String>>,
    one_less: Condvar,
}

impl Leaving {
    fn names(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self, name: &str) {
        self.names().insert(name.to_owned());
    }

    fn end(&self, name: &str) {
        self.names().remove(name);
        self.one_less.notify_all();
    }

    /// Waits until the function is not on its way out, at most [`LEAVE_LIMIT`].
    fn wait(&self, name: &str) {
        let names = self.names();
        let waited = self
            .one_less
            .wait_timeout_while(names, LEAVE_LIMIT, |names| names.contains(name));
        let (_names, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        if timeout.timed_out() {
            tracing::warn!(device = name, "the kernel takes long to close the function");
        }
    }
}

#[derive(Default)]
struct State {
    /// The functions in use, by name: whose they are.
    functions: BTreeMap<String, String>,
    /// The groups in use and how many of the functions are theirs.
    groups: BTreeMap<u32, (Arc<GroupFile>, usize)>,
    space: Option<Space>,
}

/// The kernel's container and guest memory in it.
struct Space {
    container: ContainerFile,
    map: Option<DmaMap>,
}

impl fmt::Debug for Container {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.lock();
        f.debug_struct("Container")
            .field("functions", &state.functions)
            .field("mapped", &state.space.is_some())
            .finish_non_exhaustive()
    }
}

/// A function's place in a container. Dropping it gives up the group, and with the last one the container.
#[derive(Debug)]
pub(crate) struct Membership {
    container: Arc<Container>,
    function: String,
    group: u32,
}

impl Container {
    /// A container for functions that reach `ram`.
    pub fn new(ram: Arc<Ram>, platform: Arc<dyn Platform>) -> Arc<Self> {
        Arc::new(Self {
            ram,
            platform,
            state: Mutex::default(),
            leaving: Leaving::default(),
        })
    }

    /// Whether `host` could be opened now: its group is ours already, or nobody's. Opens nothing for longer than it takes
    /// to ask, and waits for nothing: while functions of this machine are opened or closed it is not known, and
    /// taken for free.
    ///
    /// # Errors
    /// [`VfioError::Busy`], or why the group cannot be opened.
    pub fn check_free(&self, host: &HostDevice) -> Result<(), VfioError> {
        if self.leaving.names().contains(&host.name) {
            return Ok(());
        }
        let state = match self.state.try_lock() {
            Ok(state) => state,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return Ok(()),
        };
        let Some(group) = host.group.filter(|group| !state.groups.contains_key(group)) else {
            return Ok(());
        };
        let path = PathBuf::from(format!("/dev/vfio/{group}"));
        GroupFile::open(&path)
            .map(drop)
            .map_err(|error| group_error(error, &path, &host.name, group))
    }

    /// What its functions need of the hypervisor.
    pub(crate) fn platform(&self) -> &Arc<dyn Platform> {
        &self.platform
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a function and, unless they are already, its group and the mapping of guest memory.
    ///
    /// The function is opened while memory is being mapped: either takes its time, and neither needs the other.
    /// Blocks while another function of the machine does the same, and while this one is being closed.
    pub(crate) fn join(
        self: &Arc<Self>,
        device: &HostDevice,
        id: &str,
        hook: &mut dyn FnMut(DmaProgress) -> ControlFlow<()>,
    ) -> Result<(Membership, DeviceFile), VfioError> {
        let name = &device.name;
        let number = device.group.ok_or_else(|| VfioError::NoGroup {
            device: name.clone(),
        })?;
        self.leaving.wait(name);
        let mut state = self.lock();
        if let Some(holder) = state.functions.get(name) {
            return Err(VfioError::UsedHere {
                device: name.clone(),
                holder: holder.clone(),
            });
        }
        let group = match state.groups.get_mut(&number) {
            Some((group, users)) => {
                *users += 1;
                Arc::clone(group)
            }
            None => {
                let group = Arc::new(self.open_group(&mut state, device, number)?);
                state.groups.insert(number, (Arc::clone(&group), 1));
                group
            }
        };
        state.functions.insert(name.clone(), id.to_owned());
        let membership = Membership {
            container: Arc::clone(self),
            function: name.clone(),
            group: number,
        };
        let (opened, mapped) = thread::scope(|scope| {
            let opening = scope.spawn(|| group.device(name));
            let mapped = self.map(&mut state, name, hook);
            let opened = opening
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("the opening thread panicked")));
            (opened, mapped)
        });
        // An error from here on drops the membership, which needs the lock.
        drop(state);
        mapped?;
        let opened = opened.map_err(|source| VfioError::Kernel {
            device: name.clone(),
            what: "open the function".to_owned(),
            source,
        })?;
        Ok((membership, opened))
    }

    /// Opens a group and puts it into the container, which is made if there is none.
    fn open_group(
        &self,
        state: &mut State,
        device: &HostDevice,
        number: u32,
    ) -> Result<GroupFile, VfioError> {
        let name = &device.name;
        let failed = |what: &str| {
            let (device, what) = (name.clone(), what.to_owned());
            move |source: io::Error| VfioError::Kernel {
                device,
                what,
                source,
            }
        };
        let fresh = match &state.space {
            Some(_) => None,
            None => Some(open_container()?),
        };
        let path = PathBuf::from(format!("/dev/vfio/{number}"));
        let group =
            GroupFile::open(&path).map_err(|error| group_error(error, &path, name, number))?;
        if !group
            .is_viable()
            .map_err(failed("ask for its group's state"))?
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
        let container = match (&fresh, &state.space) {
            (Some(container), _) => container,
            (None, Some(space)) => &space.container,
            (None, None) => {
                return Err(failed("find its container")(io::ErrorKind::NotFound.into()));
            }
        };
        group.join(container).map_err(|error| {
            if error.raw_os_error() == Some(libc::EBUSY) {
                group_error(error, &path, name, number)
            } else {
                failed("put its group into a container")(error)
            }
        })?;
        // Before any DMA mapping: the kernel decides on cache coherence by it.
        let registered = self.platform.vfio_file(group.as_fd(), true);
        if let Err(error) = registered {
            let _ = group.leave();
            return Err(failed("make its group known to the hypervisor")(error));
        }
        if let Some(container) = fresh {
            if let Err(error) = container.set_type1v2() {
                self.close_group(&group, number);
                return Err(failed("set up the IOMMU")(error));
            }
            state.space = Some(Space {
                container,
                map: None,
            });
        }
        Ok(group)
    }

    /// Maps guest memory, unless it is. From then on it stays where it is: a page given back to the host and had again
    /// would be another one for the guest and still the old one for the function.
    fn map(
        &self,
        state: &mut State,
        device: &str,
        hook: &mut dyn FnMut(DmaProgress) -> ControlFlow<()>,
    ) -> Result<(), VfioError> {
        let Some(Space {
            container,
            map: map @ None,
        }) = &mut state.space
        else {
            return Ok(());
        };
        self.ram.set_discard_allowed(false);
        match DmaMap::map(container, self.ram.guest(), device, hook) {
            Ok(made) => {
                *map = Some(made);
                Ok(())
            }
            Err(error) => {
                self.ram.set_discard_allowed(true);
                Err(error)
            }
        }
    }

    /// Has the host provide all of guest memory now, page by page, so that mapping it later is quick: on a migration
    /// target, while the stream comes in, this takes most of the time out of [`VfioPci::open`](crate::VfioPci::open).
    /// The memory's content stays as it is, whoever writes to it meanwhile.
    ///
    /// Slow; belongs on a helper thread of low priority. `hook` is asked between the steps whether to go on. From here
    /// on no page is given back to the host, until the last function of the container is gone.
    ///
    /// # Errors
    /// [`VfioError::Cancelled`] if the hook said so, [`VfioError::Map`] where the host has no memory left.
    pub fn populate(
        &self,
        hook: &mut dyn FnMut(DmaProgress) -> ControlFlow<()>,
    ) -> Result<(), VfioError> {
        self.ram.set_discard_allowed(false);
        dma::populate(self.ram.guest(), hook)
    }

    fn close_group(&self, group: &GroupFile, number: u32) {
        if let Err(error) = self.platform.vfio_file(group.as_fd(), false) {
            tracing::warn!(group = number, %error, "the hypervisor does not let go of an IOMMU group");
        }
        if let Err(error) = group.leave() {
            tracing::warn!(group = number, %error, "an IOMMU group does not leave its container");
        }
    }

    fn leave(&self, function: &str, number: u32) {
        let mut state = self.lock();
        state.functions.remove(function);
        let last = match state.groups.get_mut(&number) {
            Some((_, users)) => {
                *users -= 1;
                *users == 0
            }
            None => false,
        };
        if !last {
            return;
        }
        let group = state.groups.remove(&number);
        if state.groups.is_empty()
            && let Some(Space { container, map }) = &mut state.space
            && let Some(mut map) = map.take()
        {
            map.unmap(container);
            self.ram.set_discard_allowed(true);
        }
        if let Some((group, _)) = group {
            self.close_group(&group, number);
        }
        if state.groups.is_empty() {
            state.space = None;
        }
    }
}

impl Membership {
    /// From now on an open of the function waits until this is dropped.
    pub(crate) fn begin_leaving(&self) {
        self.container.leaving.begin(&self.function);
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.container.leave(&self.function, self.group);
        self.container.leaving.end(&self.function);
    }
}

fn open_container() -> Result<ContainerFile, VfioError> {
    let path = Path::new("/dev/vfio/vfio");
    let container = ContainerFile::open(path).map_err(|error| open_error(error, path))?;
    let (version, type1v2) = container.abilities().map_err(|source| VfioError::Kernel {
        device: "VFIO container".to_owned(),
        what: "ask for the API version".to_owned(),
        source,
    })?;
    match (version, type1v2) {
        (0, true) => Ok(container),
        (0, false) => Err(VfioError::Unsupported("no type 1v2 IOMMU".to_owned())),
        _ => Err(VfioError::Unsupported(format!("API version {version}"))),
    }
}

fn open_error(source: io::Error, path: &Path) -> VfioError {
    let text = path.display().to_string();
    match source.raw_os_error() {
        Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => VfioError::NoVfio { path: text },
        errno => VfioError::Open {
            hint: match errno {
                Some(libc::EACCES | libc::EPERM) => {
                    format!(", run as root or give this user the file (chown $USER {text})")
                }
                _ => String::new(),
            },
            path: text,
            source,
        },
    }
}

fn group_error(source: io::Error, path: &Path, device: &str, group: u32) -> VfioError {
    if source.raw_os_error() == Some(libc::EBUSY) {
        return VfioError::Busy {
            device: device.to_owned(),
            group,
            holder: holder_of(path, Path::new("/proc"))
                .unwrap_or_else(|| "another process".to_owned()),
        };
    }
    open_error(source, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_waits_for_the_same_function_to_be_closed_and_for_no_other() {
        let leaving = Leaving::default();
        leaving.begin("0000:5e:00.2");
        leaving.wait("0000:5e:00.3");
        let closed = std::sync::atomic::AtomicBool::new(false);
        let order = std::sync::atomic::Ordering::SeqCst;
        thread::scope(|scope| {
            let opening = scope.spawn(|| {
                leaving.wait("0000:5e:00.2");
                assert!(closed.load(order), "opened while it is being closed");
            });
            thread::yield_now();
            closed.store(true, order);
            leaving.end("0000:5e:00.2");
            opening.join().unwrap();
        });
        assert!(leaving.names().is_empty());
    }

    #[test]
    fn a_refused_open_says_what_to_do() {
        let error = |errno| {
            group_error(
                io::Error::from_raw_os_error(errno),
                Path::new("/dev/vfio/4294967295"),
                "0000:5e:00.2",
                u32::MAX,
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
