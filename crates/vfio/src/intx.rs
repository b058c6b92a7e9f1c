//! The pin's interrupt: level-triggered, masked by the kernel when it fires, unmasked when the guest has served it.
//!
//! Usually the hypervisor does all of it: the interrupt raises the guest's line, the guest's end-of-interrupt lowers
//! it and unmasks the hardware, and this process is not asked. Where the hypervisor cannot, a thread raises the line,
//! and the guest's next access to the function's registers is taken for the service: the line is lowered and the
//! hardware unmasked; if it still asserts, it fires again. For that the guest's accesses must come here, so the
//! function's BARs are not mapped into the guest while that is so.

use crate::hardware::{Hardware, IrqKind};
use pci::IntxLine;
use rustix::event::{PollFd, PollFlags, poll};
use std::io;
use std::os::fd::AsRawFd;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// A new eventfd; reading one that nobody signalled does not block.
pub(crate) fn event() -> io::Result<EventFd> {
    EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK)
}

/// An eventfd as a borrowed descriptor.
#[allow(unsafe_code)]
pub(crate) fn fd_of(event: &EventFd) -> BorrowedFd<'_> {
    // SAFETY: the descriptor is open for as long as the eventfd, which is what the result borrows.
    unsafe { BorrowedFd::borrow_raw(event.as_raw_fd()) }
}

/// Waits until one of the eventfds is signalled, and takes its signals. Answers with its place in the list.
pub(crate) fn wait_for(events: &[&EventFd]) -> io::Result<usize> {
    loop {
        let fds: Vec<BorrowedFd<'_>> = events.iter().map(|event| fd_of(event)).collect();
        let mut polled: Vec<PollFd<'_>> = fds
            .iter()
            .map(|fd| PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::IN))
            .collect();
        match poll(&mut polled, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for (index, (event, polled)) in events.iter().zip(&polled).enumerate() {
            if polled.revents().contains(PollFlags::IN) && event.read().is_ok() {
                return Ok(index);
            }
        }
    }
}

fn held(raised: &Mutex<bool>) -> MutexGuard<'_, bool> {
    raised.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The pin's interrupt while it is switched on. Dropping it switches it off.
pub(crate) struct Intx {
    hardware: Arc<dyn Hardware>,
    line: Arc<dyn IntxLine>,
    relay: Option<Relay>,
}

/// The thread that raises the line where the hypervisor does not.
struct Relay {
    stop: Arc<EventFd>,
    /// Whether the line is up; changed together with the line, so that neither is lost.
    raised: Arc<Mutex<bool>>,
    thread: Option<JoinHandle<()>>,
}

impl Intx {
    /// Switches it on. Pre: no other kind of the function's interrupts is.
    pub(crate) fn switch_on(
        hardware: &Arc<dyn Hardware>,
        line: &Arc<dyn IntxLine>,
        label: &str,
    ) -> io::Result<Self> {
        let (trigger, resample) = (event()?, event()?);
        let relay = match line.drive_by(Some((&trigger, &resample))) {
            Ok(()) => None,
            Err(error) => {
                tracing::info!(device = label, %error, "the hypervisor does not drive the interrupt line; a thread does");
                Some(Relay::start(trigger.try_clone()?, line, label)?)
            }
        };
        let intx = Self {
            hardware: Arc::clone(hardware),
            line: Arc::clone(line),
            relay,
        };
        hardware.set_triggers(IrqKind::Intx, &[fd_of(&trigger)])?;
        if intx.relay.is_none() {
            hardware.set_unmask(Some(fd_of(&resample)))?;
        }
        Ok(intx)
    }

    /// Whether the guest's accesses to the function must be seen here.
    pub(crate) fn watches_accesses(&self) -> bool {
        self.relay.is_some()
    }

    /// The guest accessed a register.
    pub(crate) fn accessed(&self) {
        let Some(relay) = &self.relay else { return };
        let mut raised = held(&relay.raised);
        if std::mem::take(&mut *raised) {
            self.line.set(false);
            if let Err(error) = self.hardware.unmask() {
                tracing::warn!(%error, "cannot unmask a pin's interrupt");
            }
        }
    }
}

impl Drop for Intx {
    fn drop(&mut self) {
        if let Err(error) = self.hardware.set_triggers(IrqKind::Intx, &[]) {
            tracing::debug!(%error, "cannot switch a pin's interrupt off");
        }
        if self.relay.take().is_none()
            && let Err(error) = self.line.drive_by(None)
        {
            tracing::warn!(%error, "the hypervisor does not give an interrupt line back");
        }
        self.line.set(false);
    }
}

impl Relay {
    fn start(trigger: EventFd, line: &Arc<dyn IntxLine>, label: &str) -> io::Result<Self> {
        let stop = Arc::new(event()?);
        let raised = Arc::new(Mutex::new(false));
        let thread = std::thread::Builder::new()
            .name(format!("intx {label}"))
            .spawn({
                let (stop, raised, line) =
                    (Arc::clone(&stop), Arc::clone(&raised), Arc::clone(line));
                move || {
                    while let Ok(0) = wait_for(&[&trigger, &stop]) {
                        let mut raised = held(&raised);
                        *raised = true;
                        line.set(true);
                    }
                }
            })?;
        Ok(Self {
            stop,
            raised,
            thread: Some(thread),
        })
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.stop.write(1);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
