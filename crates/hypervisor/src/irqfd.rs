//! An eventfd whose signals KVM turns into one route's interrupt (`KVM_IRQFD`), switched off without waiting.
//!
//! To take an irqfd away KVM waits for readers and workers of its own, up to tens of milliseconds on a busy host. A guest
//! that closes a NIC masks one vector after another, each of them in a write that it waits for. So the taking away is a
//! thread's, and the mask takes effect when that is done; whoever sets a message meanwhile takes the order back, or
//! waits for it.
//!
//! ```text
//!            attach                 detach                worker begins             done
//!   Absent ─────────▶ Attached ──────────────▶ Leaving ─────────────────▶ Removing ──────▶ Absent
//!                        ▲      attach: taken back │         attach: waits for it
//!                        └─────────────────────────┘
//! ```
//! A signal between mask and effect is delivered as one that was on its way when the guest masked.

use kvm_ioctls::VmFd;
use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use vmm_sys_util::eventfd::EventFd;

/// The two calls of the kernel's.
pub(crate) trait Attach: Send + Sync + 'static {
    fn attach(&self, trigger: &EventFd, gsi: u32) -> io::Result<()>;
    fn detach(&self, trigger: &EventFd, gsi: u32) -> io::Result<()>;
}

impl Attach for VmFd {
    fn attach(&self, trigger: &EventFd, gsi: u32) -> io::Result<()> {
        self.register_irqfd(trigger, gsi)
            .map_err(|error| io::Error::from_raw_os_error(error.errno()))
    }

    fn detach(&self, trigger: &EventFd, gsi: u32) -> io::Result<()> {
        self.unregister_irqfd(trigger, gsi)
            .map_err(|error| io::Error::from_raw_os_error(error.errno()))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Absent,
    Attached,
    Leaving,
    Removing,
}

struct Shared {
    kernel: Arc<dyn Attach>,
    trigger: EventFd,
    gsi: u32,
    state: Mutex<State>,
    settled: Condvar,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a removal that has begun.
    fn removed<'a>(&self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        while *state == State::Removing {
            state = self
                .settled
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        state
    }

    /// Carries out a detach that was not taken back.
    fn remove(&self) {
        let mut state = self.state();
        if *state != State::Leaving {
            return;
        }
        *state = State::Removing;
        drop(state);
        if let Err(error) = self.kernel.detach(&self.trigger, self.gsi) {
            tracing::debug!(gsi = self.gsi, %error, "an irqfd could not be taken away");
        }
        *self.state() = State::Absent;
        self.settled.notify_all();
    }
}

/// The thread that takes irqfds away; it ends with the last of its handles.
#[derive(Clone)]
pub(crate) struct Remover(Option<Sender<Arc<Shared>>>);

impl Remover {
    /// Starts the thread. Where none can be had, whoever detaches waits.
    pub(crate) fn start() -> Self {
        let (sender, orders): (_, Receiver<Arc<Shared>>) = channel();
        let thread = std::thread::Builder::new()
            .name("irqfd".to_owned())
            .spawn(move || orders.iter().for_each(|irqfd| irqfd.remove()));
        Self(thread.is_ok().then_some(sender))
    }

    fn order(&self, irqfd: &Arc<Shared>) {
        let sent = self
            .0
            .as_ref()
            .is_some_and(|sender| sender.send(Arc::clone(irqfd)).is_ok());
        if !sent {
            irqfd.remove();
        }
    }
}

/// One eventfd and its route.
pub(crate) struct Irqfd {
    shared: Arc<Shared>,
    remover: Remover,
}

impl Irqfd {
    /// Not attached yet.
    pub(crate) fn new(
        kernel: Arc<dyn Attach>,
        remover: Remover,
        trigger: EventFd,
        gsi: u32,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                kernel,
                trigger,
                gsi,
                state: Mutex::new(State::Absent),
                settled: Condvar::new(),
            }),
            remover,
        }
    }

    pub(crate) fn trigger(&self) -> &EventFd {
        &self.shared.trigger
    }

    /// From now on a signal is an interrupt.
    ///
    /// # Errors
    /// The kernel refused it.
    pub(crate) fn attach(&self) -> io::Result<()> {
        let mut state = self.shared.removed(self.shared.state());
        if *state == State::Absent {
            self.shared
                .kernel
                .attach(&self.shared.trigger, self.shared.gsi)?;
        }
        *state = State::Attached;
        Ok(())
    }

    /// As [`detach`](Self::detach), and waits until it is so: its route may go then.
    pub(crate) fn close(&self) {
        let mut state = self.shared.state();
        if *state == State::Attached {
            *state = State::Leaving;
        }
        drop(state);
        self.shared.remove();
        drop(self.shared.removed(self.shared.state()));
    }

    /// Soon a signal is no interrupt any more, and stays in the eventfd.
    pub(crate) fn detach(&self) {
        let mut state = self.shared.state();
        if *state == State::Attached {
            *state = State::Leaving;
            drop(state);
            self.remover.order(&self.shared);
        }
    }
}

impl Drop for Irqfd {
    fn drop(&mut self) {
        self.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    /// A kernel that says what it is asked, and takes an irqfd away when it is let.
    struct Kernel {
        said: Mutex<Vec<&'static str>>,
        begun: Mutex<Sender<()>>,
        let_go: Mutex<Receiver<()>>,
    }

    impl Attach for Kernel {
        fn attach(&self, _: &EventFd, _: u32) -> io::Result<()> {
            self.said.lock().unwrap().push("attach");
            Ok(())
        }

        fn detach(&self, _: &EventFd, _: u32) -> io::Result<()> {
            self.begun.lock().unwrap().send(()).unwrap();
            self.let_go.lock().unwrap().recv().unwrap();
            self.said.lock().unwrap().push("detach");
            Ok(())
        }
    }

    fn kernel() -> (Arc<Kernel>, Receiver<()>, Sender<()>) {
        let (begun, begins) = mpsc::channel();
        let (go, let_go) = mpsc::channel();
        let kernel = Kernel {
            said: Mutex::default(),
            begun: Mutex::new(begun),
            let_go: Mutex::new(let_go),
        };
        (Arc::new(kernel), begins, go)
    }

    fn irqfd(kernel: &Arc<Kernel>, remover: &Remover) -> Irqfd {
        let trigger = EventFd::new(0).unwrap();
        Irqfd::new(Arc::<Kernel>::clone(kernel), remover.clone(), trigger, 24)
    }

    #[test]
    fn detaching_does_not_wait_and_attaching_waits_for_what_has_begun() {
        let (kernel, begins, go) = kernel();
        let irqfd = irqfd(&kernel, &Remover::start());
        irqfd.attach().unwrap();
        irqfd.detach();
        begins.recv().unwrap();
        assert_eq!(*kernel.said.lock().unwrap(), ["attach"]);
        std::thread::scope(|scope| {
            let again = scope.spawn(|| irqfd.attach());
            go.send(()).unwrap();
            again.join().unwrap().unwrap();
        });
        assert_eq!(*kernel.said.lock().unwrap(), ["attach", "detach", "attach"]);
        go.send(()).unwrap();
        drop(irqfd);
    }

    #[test]
    fn a_mask_that_is_taken_back_in_time_costs_nothing() {
        let (kernel, begins, go) = kernel();
        let remover = Remover::start();
        let busy = irqfd(&kernel, &remover);
        let irqfd = irqfd(&kernel, &remover);
        busy.attach().unwrap();
        irqfd.attach().unwrap();
        busy.detach();
        begins.recv().unwrap();
        irqfd.detach();
        irqfd.attach().unwrap();
        go.send(()).unwrap();
        go.send(()).unwrap();
        drop(busy);
        assert_eq!(*kernel.said.lock().unwrap(), ["attach", "attach", "detach"]);
        drop(irqfd);
        assert_eq!(kernel.said.lock().unwrap().len(), 4);
    }

    #[test]
    fn nothing_is_attached_once_it_is_dropped() {
        let (kernel, begins, go) = kernel();
        let irqfd = irqfd(&kernel, &Remover::start());
        irqfd.attach().unwrap();
        irqfd.detach();
        begins.recv().unwrap();
        go.send(()).unwrap();
        drop(irqfd);
        assert_eq!(*kernel.said.lock().unwrap(), ["attach", "detach"]);
    }
}
