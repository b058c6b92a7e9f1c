//! What a machine's functions share: who has which, and the I/O address spaces that guest memory is mapped into.

use crate::dma::{self, DmaProgress};
use crate::error::VfioError;
use crate::group::{self, Groups};
use crate::host::HostDevice;
use crate::iommufd::{Access, BoundFile, GivenCdev, Iommufds};
use crate::kernel::DeviceFile;
use memory::Ram;
use pci::Platform;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::ControlFlow;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

/// How long an open waits for the last one to be undone; that takes the kernel a fraction of a second.
const LEAVE_LIMIT: Duration = Duration::from_secs(10);

/// The VFIO side of one machine: its functions, by IOMMU group or by iommufd, and the mapping of guest memory for their
/// DMA.
///
/// Making one opens nothing. The first function that comes by its group brings the kernel's container into being and
/// maps guest memory in it, the first of an [`Iommufd`](crate::Iommufd) does the same with an address space of that; with
/// the last one of either it goes.
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
    groups: Groups,
    iommufds: Iommufds,
}

impl fmt::Debug for Container {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.lock();
        f.debug_struct("Container")
            .field("functions", &state.functions)
            .field("mapped", &state.is_mapped())
            .finish_non_exhaustive()
    }
}

impl State {
    fn is_mapped(&self) -> bool {
        self.groups.is_mapped() || self.iommufds.is_mapped()
    }
}

/// Where a function is.
#[derive(Debug)]
enum Place {
    Group(u32),
    Iommufd(BoundFile),
}

/// A function's place in a container. Dropping it gives up its group or its place in an iommufd's address space, and with
/// the last one of that the mapping of guest memory.
#[derive(Debug)]
pub(crate) struct Membership {
    container: Arc<Container>,
    function: String,
    place: Place,
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
    /// [`VfioError::Busy`], or why the group cannot be opened. By iommufd a group need not be to be opened: then only the
    /// former.
    pub fn check_free(&self, host: &HostDevice, access: &Access) -> Result<(), VfioError> {
        if self.leaving.names().contains(&host.name) {
            return Ok(());
        }
        let state = match self.state.try_lock() {
            Ok(state) => state,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return Ok(()),
        };
        let ours = |group: &u32| state.groups.contains(*group) || state.iommufds.contains(*group);
        let Some(group) = host.group.filter(|group| !ours(group)) else {
            return Ok(());
        };
        // The kernel lets nobody open a group with a function that is bound to an iommufd.
        match (group::check_free(host, group), access) {
            (Err(busy @ VfioError::Busy { .. }), Access::Iommufd(_)) => Err(busy),
            (_, Access::Iommufd(_)) => Ok(()),
            (result, Access::Group) => result,
        }
    }

    /// What its functions need of the hypervisor.
    pub(crate) fn platform(&self) -> &Arc<dyn Platform> {
        &self.platform
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a function for the device `id` and, unless it is already, maps guest memory where it will reach it. `given`
    /// is its character device, for access by iommufd, where that was handed over.
    ///
    /// Blocks while another function of the machine does the same, and while this one is being closed.
    pub(crate) fn join(
        self: &Arc<Self>,
        device: &HostDevice,
        id: &str,
        (access, given): (&Access, Option<&GivenCdev>),
        hook: &mut dyn FnMut(DmaProgress) -> ControlFlow<()>,
    ) -> Result<(Membership, DeviceFile), VfioError> {
        let name = &device.name;
        self.leaving.wait(name);
        let mut guard = self.lock();
        let state = &mut *guard;
        if let Some(holder) = state.functions.get(name) {
            return Err(VfioError::UsedHere {
                device: name.clone(),
                holder: holder.clone(),
            });
        }
        let platform = self.platform.as_ref();
        let place = match access {
            Access::Group => Place::Group(state.groups.enter(device, platform)?),
            Access::Iommufd(object) => {
                Place::Iommufd(state.iommufds.enter(device, object, given, platform)?)
            }
        };
        state.functions.insert(name.clone(), id.to_owned());
        let membership = Membership {
            container: Arc::clone(self),
            function: name.clone(),
            place,
        };
        // From here on memory stays where it is: a page given back to the host and had again would be another one for the
        // guest and still the old one for the function.
        self.ram.set_discard_allowed(false);
        let opened = match &membership.place {
            Place::Group(number) => state.groups.open(*number, name, &self.ram, hook),
            Place::Iommufd(place) => state.iommufds.open(place, device, &self.ram, hook),
        };
        // An error drops the membership, which needs the lock.
        drop(guard);
        Ok((membership, opened?))
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
        dma::populate(self.ram.guest(), "guest memory", hook)
    }

    fn leave(&self, function: &str, place: &mut Place) {
        let mut state = self.lock();
        state.functions.remove(function);
        match place {
            Place::Group(number) => state.groups.leave(*number, self.platform.as_ref()),
            Place::Iommufd(place) => {
                place.forget(self.platform.as_ref());
                state.iommufds.leave(place);
            }
        }
        if !state.is_mapped() {
            self.ram.set_discard_allowed(true);
        }
    }
}

impl Membership {
    /// From now on an open of the function waits until this is dropped.
    pub(crate) fn begin_leaving(&self) {
        self.container.leaving.begin(&self.function);
    }

    /// What keeps the function's file open beside its user lets go of it: the kernel closes it with the user's.
    pub(crate) fn let_go_of_file(&mut self) {
        if let Place::Iommufd(place) = &mut self.place {
            place.forget(self.container.platform.as_ref());
        }
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.container.leave(&self.function, &mut self.place);
        self.container.leaving.end(&self.function);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

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
}
