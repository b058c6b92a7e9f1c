//! A queue pair in the hands of the host's kernel (vhost-net).
//!
//! ```text
//!   guest ── doorbell ──▶ kick eventfd ──▶ kernel ◀──▶ tap             this process takes no part
//!   guest ◀── irqfd ◀──── vector's eventfd ◀─┘
//! ```
//!
//! The pair's worker hands both rings over while frames pass (link up, the driver uses the pair) and takes them back
//! when they do not, when the device stops, and when the kernel meets something it cannot go on with: then it serves
//! them itself. Control queue, link, offloads and state stay here. What the kernel does not do is filter:
//! the driver gets frames it did not ask for, and a Linux guest drops them.

use super::shared::{Context, Shared};
use crate::features::{net, ring};
use crate::queue::Virtqueue;
use crate::signals::Signals;
use crate::worker::{Sleep, eventfd};
use memory::GuestRam;
use std::io;
use std::os::fd::BorrowedFd;
use vmm_sys_util::eventfd::EventFd;

/// The features that decide what rings and headers look like: the kernel has to know them.
pub(super) const RING_FEATURES: u64 =
    ring::INDIRECT_DESC | ring::EVENT_IDX | ring::VERSION_1 | net::MRG_RXBUF;

/// A ring as the kernel gets it. Its three parts are in RAM, each in one piece.
pub struct KernelRing<'a> {
    /// Number of entries.
    pub size: u16,
    /// Guest-physical address of the descriptor table.
    pub descriptors: u64,
    /// Guest-physical address of the available ring.
    pub available: u64,
    /// Guest-physical address of the used ring.
    pub used: u64,
    /// The next entry of the available ring to be taken.
    pub next_available: u16,
    /// What the driver's notifications signal.
    pub kick: &'a EventFd,
    /// What to signal when the driver wants an interrupt.
    pub call: &'a EventFd,
}

/// The host's kernel as a server of queue pairs. The worker of a pair calls it; for one pair it is never called twice at
/// a time. Ring 0 is the receive queue, ring 1 the transmit queue.
pub trait KernelPairs: Send + Sync {
    /// The ring features it understands, of INDIRECT_DESC, EVENT_IDX, VERSION_1 and MRG_RXBUF.
    fn ring_features(&self) -> u64;

    /// Serves pair `pair` from now on by the negotiated `features`. Nobody else touches its rings until it is stopped.
    ///
    /// # Errors
    /// The kernel refused; it does not serve the pair.
    fn start(&self, pair: u16, features: u64, rings: [KernelRing<'_>; 2]) -> io::Result<()>;

    /// From now on ring `ring` of a pair that runs signals `call`.
    ///
    /// # Errors
    /// The kernel refused; it signals what it did before.
    fn set_call(&self, pair: u16, ring: usize, call: &EventFd) -> io::Result<()>;

    /// Stops to serve the pair: on return nothing of guest memory is accessed any more and every chain taken is in the
    /// used ring. Returns the next entry of each available ring, `None` where the kernel does not say.
    fn stop(&self, pair: u16) -> [Option<u16>; 2];

    /// What becomes readable when the kernel cannot go on with the pair. [`start`](Self::start) makes it silent.
    /// `None`: it never fails.
    fn failure_fd(&self, pair: u16) -> Option<BorrowedFd<'_>>;
}

/// Where a ring's interrupts go.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Route {
    /// The vector's own eventfd: past this process.
    Vector(u16),
    /// Over the worker: no MSI-X, or no vector.
    Worker,
}

/// What a worker needs to hand its pair over, made once.
pub(super) struct Handing<'m> {
    kernel: &'m dyn KernelPairs,
    pair: u16,
    kicks: [&'m EventFd; 2],
    /// Interrupts on their way over the worker.
    relays: [EventFd; 2],
    /// The kernel failed: not again until the driver starts anew.
    given_up: bool,
    held: Option<Held>,
}

struct Held {
    queues: [Virtqueue; 2],
    routes: [Route; 2],
}

/// Tokens of a worker's sleep.
pub(super) struct Tokens {
    pub(super) failure: u64,
    pub(super) relays: [u64; 2],
}

impl<'m> Handing<'m> {
    /// `None` if the backend's frames do not pass the kernel alone.
    pub(super) fn new(shared: &'m Shared, kicks: &'m [EventFd], pair: u16) -> Option<Self> {
        let kernel = shared.backend.kernel()?;
        let first = 2 * usize::from(pair);
        let relays = eventfd().and_then(|rx| Ok([rx, eventfd()?]));
        match relays {
            Ok(relays) => Some(Self {
                kernel,
                pair,
                kicks: [kicks.get(first)?, kicks.get(first + 1)?],
                relays,
                given_up: false,
                held: None,
            }),
            Err(error) => {
                tracing::warn!(device = %shared.label, pair, %error, "the kernel cannot serve the queue pair; it is served in user space");
                None
            }
        }
    }

    /// Whether the kernel serves the pair now.
    pub(super) fn held(&self) -> bool {
        self.held.is_some()
    }

    /// Whether the pair is to be handed over as soon as nothing of it waits here.
    pub(super) fn wanted(&self, context: &Context<'_>) -> bool {
        !self.given_up && context.open()
    }

    /// Wakes the worker for the kernel's failures and for interrupts that go over it.
    pub(super) fn watch(&self, sleep: &Sleep, tokens: &Tokens) -> io::Result<()> {
        for (relay, token) in self.relays.iter().zip(tokens.relays) {
            sleep.add_eventfd(relay, token)?;
        }
        match self.kernel.failure_fd(self.pair) {
            Some(fd) => sleep.add(fd, tokens.failure),
            None => Ok(()),
        }
    }

    fn route(&self, signals: &Signals, ring: usize) -> Route {
        signals
            .vector_of(2 * usize::from(self.pair) + ring)
            .map_or(Route::Worker, Route::Vector)
    }

    fn call<'a>(&'a self, signals: &'a Signals, ring: usize, route: Route) -> Option<&'a EventFd> {
        match route {
            Route::Vector(vector) => signals.vector_fd(vector),
            Route::Worker => self.relays.get(ring),
        }
    }

    fn start(
        &self,
        context: &Context<'_>,
        queues: &[Virtqueue; 2],
        routes: [Route; 2],
    ) -> io::Result<()> {
        let ring = |queue: &Virtqueue, ring, kick, route| {
            let call = self
                .call(context.signals, ring, route)
                .ok_or(io::ErrorKind::NotFound)?;
            queue
                .for_kernel(context.ram, kick, call)
                .ok_or_else(|| io::Error::other("a ring is not in one piece in host memory"))
        };
        let ([rx, tx], [rx_kick, tx_kick]) = (queues, self.kicks);
        let [rx_route, tx_route] = routes;
        let rings = [
            ring(rx, 0, rx_kick, rx_route)?,
            ring(tx, 1, tx_kick, tx_route)?,
        ];
        let features = context.shared.negotiated();
        self.kernel.start(self.pair, features, rings)
    }

    /// Hands the queues over, or gives them back if that cannot be.
    pub(super) fn hand_over(
        &mut self,
        context: &Context<'_>,
        queues: [Virtqueue; 2],
    ) -> Result<(), [Virtqueue; 2]> {
        let signals = context.signals;
        let routes = [self.route(signals, 0), self.route(signals, 1)];
        if let Err(error) = self.start(context, &queues, routes) {
            self.given_up = true;
            tracing::warn!(device = %context.shared.label, pair = self.pair, %error, "the kernel cannot serve the queue pair; it is served in user space");
            return Err(queues);
        }
        // What the driver gave while it was asked to be silent is announced by nobody.
        for kick in self.kicks {
            let _ = kick.write(1);
        }
        tracing::debug!(device = %context.shared.label, pair = self.pair, "the kernel serves the queue pair");
        self.held = Some(Held { queues, routes });
        Ok(())
    }

    /// Takes the queues back, if they were handed over.
    pub(super) fn take_back(&mut self, ram: &GuestRam) -> Option<[Virtqueue; 2]> {
        let mut held = self.held.take()?;
        let reached = self.kernel.stop(self.pair);
        for (queue, next) in held.queues.iter_mut().zip(reached) {
            queue.reached(ram, next);
        }
        Some(held.queues)
    }

    /// The driver may have mapped its queues to other vectors, or switched MSI-X.
    pub(super) fn reroute(&mut self, context: &Context<'_>) {
        let signals = context.signals;
        let Some(mut held) = self.held.take() else {
            return;
        };
        for (ring, route) in held.routes.iter_mut().enumerate() {
            let new = self.route(signals, ring);
            if new == *route {
                continue;
            }
            let outcome = self
                .call(signals, ring, new)
                .ok_or_else(|| io::ErrorKind::NotFound.into())
                .and_then(|call| self.kernel.set_call(self.pair, ring, call));
            match outcome {
                Ok(()) => {
                    *route = new;
                    // One that went the old way may have been lost; one too many does no harm.
                    signals.queue(2 * usize::from(self.pair) + ring);
                }
                Err(error) => {
                    tracing::warn!(device = %context.shared.label, pair = self.pair, %error, "interrupts of the kernel could not be sent another way");
                }
            }
        }
        self.held = Some(held);
    }

    /// Passes on an interrupt that came over the worker.
    pub(super) fn relay(&self, signals: &Signals, ring: usize) {
        signals.queue(2 * usize::from(self.pair) + ring);
    }

    /// The kernel said that it cannot go on: the worker does, and finds out what is wrong with the ring, if it is that.
    pub(super) fn give_up(&mut self, context: &Context<'_>) {
        if self.held() {
            self.given_up = true;
            tracing::warn!(device = %context.shared.label, pair = self.pair, "the kernel reports a failure of the queue pair; from here on it is served in user space");
        }
    }
}
