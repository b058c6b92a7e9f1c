//! The worker of one queue pair: receives, transmits and, for the first pair, serves the control queue. Where the kernel
//! can move the frames it only hands the rings over and takes them back ([`kernel`](super::kernel)).

use super::control::Control;
use super::kernel::{Handing, Tokens};
use super::receive::Receiver;
use super::shared::{Context, Shared};
use super::transmit::Transmitter;
use crate::chain::RingError;
use crate::features::net;
use crate::queue::Virtqueue;
use crate::signals::Signals;
use crate::worker::{Bell, Sleep};
use memory::GuestRam;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::eventfd::EventFd;

const RX: u64 = 0;
const TX: u64 = 1;
const CONTROL: u64 = 2;
const BACKEND: u64 = 3;
const FAILURE: u64 = 4;
const RX_CALL: u64 = 5;
const TX_CALL: u64 = 6;

/// What goes into a worker, and what comes back.
#[derive(Default)]
pub(super) struct PairQueues {
    pub(super) rx: Option<Virtqueue>,
    pub(super) tx: Option<Virtqueue>,
    pub(super) control: Option<Virtqueue>,
    /// A frame that waits for the driver's buffers, with header; empty if none.
    pub(super) waiting: Vec<u8>,
}

/// Everything a worker needs.
pub(super) struct PairWorker {
    pub(super) shared: Arc<Shared>,
    pub(super) signals: Arc<Signals>,
    pub(super) ram: Arc<GuestRam>,
    pub(super) kicks: Arc<[EventFd]>,
    pub(super) pair: u16,
    pub(super) control_index: usize,
    pub(super) queues: PairQueues,
}

impl PairWorker {
    /// Serves the pair until the bell says stop or the device is broken; gives the queues back.
    pub(super) fn run(self, bell: &Bell) -> PairQueues {
        let Self {
            shared,
            signals,
            ram,
            kicks,
            pair,
            control_index,
            queues,
        } = self;
        let Some(counters) = shared.counters.get(usize::from(pair)) else {
            return queues;
        };
        let rx_index = 2 * usize::from(pair);
        let mergeable = shared.features.load(Ordering::Acquire) & net::MRG_RXBUF != 0;
        let waiting = queues.waiting;
        let mut serving = Serving {
            context: Context::new(&shared, &signals, &ram, counters, pair),
            mergeable,
            rx_kicked: true,
            rx: queues
                .rx
                .map(|queue| Receiver::new(queue, rx_index, mergeable, waiting)),
            tx: queues.tx.map(|queue| Transmitter::new(queue, rx_index + 1)),
            control: queues
                .control
                .map(|queue| Control::new(queue, control_index)),
            handing: Handing::new(&shared, &kicks, pair),
        };
        match Sources::new(bell, &serving, &kicks, control_index) {
            Ok(mut sources) => {
                if let Err(error) = serving.serve(bell, &mut sources) {
                    signals.fail(&format!("pair {pair}"), &error);
                }
            }
            Err(error) => signals.fail(&format!("pair {pair}"), &error),
        }
        serving.take_back();
        let (rx, waiting) = serving.rx.map(Receiver::into_parts).unzip();
        PairQueues {
            rx,
            tx: serving.tx.map(Transmitter::into_queue),
            control: serving.control.map(Control::into_queue),
            waiting: waiting.unwrap_or_default(),
        }
    }
}

struct Serving<'m> {
    context: Context<'m>,
    mergeable: bool,
    /// The driver may have given receive buffers.
    rx_kicked: bool,
    /// The queues that are served here.
    rx: Option<Receiver<'m>>,
    tx: Option<Transmitter<'m>>,
    control: Option<Control<'m>>,
    handing: Option<Handing<'m>>,
}

#[derive(Debug, thiserror::Error)]
enum ServeError {
    #[error("{0}")]
    Ring(#[from] RingError),
    #[error("{0}")]
    Host(#[from] io::Error),
}

struct Sources<'m> {
    sleep: Sleep,
    kicks: &'m [EventFd],
    /// Woken also when the backend becomes writable.
    writable: bool,
}

impl<'m> Sources<'m> {
    fn new(
        bell: &Bell,
        serving: &Serving<'_>,
        kicks: &'m [EventFd],
        control_index: usize,
    ) -> io::Result<Self> {
        let sleep = Sleep::new(bell)?;
        if serving.control.is_some()
            && let Some(kick) = kicks.get(control_index)
        {
            sleep.add_eventfd(kick, CONTROL)?;
        }
        if let Some(handing) = &serving.handing {
            let tokens = Tokens {
                failure: FAILURE,
                relays: [RX_CALL, TX_CALL],
            };
            handing.watch(&sleep, &tokens)?;
        }
        let mut sources = Self {
            sleep,
            kicks,
            writable: false,
        };
        sources.watch_frames(&serving.context)?;
        Ok(sources)
    }

    fn kicks_of(&self, pair: u16) -> impl Iterator<Item = (&'m EventFd, u64)> {
        let first = 2 * usize::from(pair);
        let pair = self.kicks.get(first..first + 2).unwrap_or(&[]);
        pair.iter().zip([RX, TX])
    }

    /// Wakes for the driver's buffers and the backend's frames.
    fn watch_frames(&mut self, context: &Context<'_>) -> io::Result<()> {
        for (kick, token) in self.kicks_of(context.pair) {
            self.sleep.add_eventfd(kick, token)?;
        }
        if let Some(fd) = context.shared.backend.poll_fd(context.pair) {
            self.sleep.add(fd, BACKEND)?;
        }
        self.writable = false;
        Ok(())
    }

    /// The opposite.
    fn ignore_frames(&mut self, context: &Context<'_>) -> io::Result<()> {
        for (kick, _) in self.kicks_of(context.pair) {
            self.sleep.remove_eventfd(kick)?;
        }
        if let Some(fd) = context.shared.backend.poll_fd(context.pair) {
            self.sleep.remove(fd)?;
        }
        Ok(())
    }
}

impl Serving<'_> {
    fn serve(&mut self, bell: &Bell, sources: &mut Sources<'_>) -> Result<(), ServeError> {
        while !bell.stopping() && !self.context.signals.broken() {
            let changed = self.context.renew();
            if let Some(handing) = self.handing.as_mut().filter(|_| changed) {
                handing.reroute(&self.context);
            }
            let mut busy = false;
            if let Some(control) = self.control.as_mut().filter(|control| control.ready) {
                control.serve(&self.context)?;
                busy |= control.ready;
                self.context.renew();
            }
            self.settle(sources)?;
            let mut blocked = false;
            if let Some(tx) = self.tx.as_mut() {
                if tx.ready && !tx.blocked {
                    tx.transmit(&mut self.context)?;
                }
                busy |= tx.ready && !tx.blocked;
                blocked = tx.blocked;
            }
            if let Some(rx) = self.rx.as_mut() {
                if std::mem::take(&mut self.rx_kicked) {
                    rx.kicked(self.context.ram)?;
                }
                if rx.ready && !rx.starved {
                    rx.receive(&mut self.context)?;
                }
                busy |= rx.ready && !rx.starved;
            }
            busy |= self.may_hand_over();
            self.watch_writable(sources, blocked)?;
            for (token, events) in sources.sleep.wait(busy.then_some(Duration::ZERO))? {
                match token {
                    RX => self.rx_kicked = true,
                    TX => {
                        if let Some(tx) = self.tx.as_mut() {
                            tx.ready = true;
                        }
                    }
                    CONTROL => {
                        if let Some(control) = self.control.as_mut() {
                            control.ready = true;
                        }
                    }
                    BACKEND => {
                        if let Some(rx) = self.rx.as_mut() {
                            rx.ready = true;
                        }
                        if let Some(tx) = self.tx.as_mut()
                            && events
                                .intersects(EventSet::OUT | EventSet::ERROR | EventSet::HANG_UP)
                        {
                            tx.blocked = false;
                        }
                    }
                    FAILURE => {
                        if let Some(handing) = self.handing.as_mut() {
                            handing.give_up(&self.context);
                        }
                    }
                    RX_CALL | TX_CALL => {
                        if let Some(handing) = &self.handing {
                            handing.relay(self.context.signals, usize::from(token == TX_CALL));
                        }
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// Whether the kernel is to have the pair and nothing stands in its way. A frame that waits here for the driver's
    /// buffers does: it comes before those the kernel would give.
    fn may_hand_over(&self) -> bool {
        self.rx.as_ref().is_some_and(|rx| !rx.waits())
            && self.tx.is_some()
            && self
                .handing
                .as_ref()
                .is_some_and(|handing| handing.wanted(&self.context))
    }

    /// Has the pair served by whom it is to be served.
    fn settle(&mut self, sources: &mut Sources<'_>) -> io::Result<()> {
        if self.may_hand_over() {
            sources.ignore_frames(&self.context)?;
            let (Some(rx), Some(tx), Some(handing)) =
                (self.rx.take(), self.tx.take(), self.handing.as_mut())
            else {
                return Ok(());
            };
            let (rx, _) = rx.into_parts();
            if let Err(queues) = handing.hand_over(&self.context, [rx, tx.into_queue()]) {
                self.serve_here(queues);
                sources.watch_frames(&self.context)?;
            }
        } else if let Some(handing) = &self.handing
            && handing.held()
            && !handing.wanted(&self.context)
        {
            self.take_back();
            sources.watch_frames(&self.context)?;
        }
        Ok(())
    }

    /// Takes the rings back from the kernel, if it has them.
    fn take_back(&mut self) {
        let handing = self.handing.as_mut();
        if let Some(queues) = handing.and_then(|handing| handing.take_back(self.context.ram)) {
            self.serve_here(queues);
        }
    }

    fn serve_here(&mut self, [rx, tx]: [Virtqueue; 2]) {
        let index = 2 * usize::from(self.context.pair);
        self.rx = Some(Receiver::new(rx, index, self.mergeable, Vec::new()));
        self.tx = Some(Transmitter::new(tx, index + 1));
        self.rx_kicked = true;
    }

    fn watch_writable(&self, sources: &mut Sources<'_>, wanted: bool) -> io::Result<()> {
        // Set anew each time it blocks: that makes epoll look at the state as it is now.
        if wanted || sources.writable {
            let context = &self.context;
            if let Some(fd) = context.shared.backend.poll_fd(context.pair) {
                sources.sleep.set_writable(fd, BACKEND, wanted)?;
            }
            sources.writable = wanted;
        }
        Ok(())
    }
}

/// Lets the three queues of a pair run for some turns without a thread, for [`fuzz_queue`](crate::fuzz_queue).
pub(crate) fn fuzz_pair(
    backend: Arc<dyn super::NetBackend>,
    signals: &Signals,
    ram: &GuestRam,
    features: u64,
    queues: [Option<Virtqueue>; 3],
) {
    let listener = Arc::new(|_: super::NetEvent| ());
    let mac = super::MacAddr([2, 0, 0, 0, 0, 1]);
    let Ok(shared) = Shared::new("fuzzed".to_owned(), backend, listener, mac, 1) else {
        return;
    };
    shared.features.store(features, Ordering::Release);
    shared.change(|rules| rules.offloads = super::Offloads::from_bits_truncate(features));
    let Some(counters) = shared.counters.first() else {
        return;
    };
    let mergeable = features & net::MRG_RXBUF != 0;
    let mut context = Context::new(&shared, signals, ram, counters, 0);
    let [rx, tx, control] = queues;
    if let Some(control) = control {
        let mut control = Control::new(control, 2);
        for _ in 0..4 {
            if control.serve(&context).is_err() {
                break;
            }
            context.renew();
        }
    }
    if let Some(tx) = tx {
        let mut tx = Transmitter::new(tx, 1);
        for _ in 0..4 {
            if tx.transmit(&mut context).is_err() {
                break;
            }
        }
    }
    if let Some(rx) = rx {
        let mut rx = Receiver::new(rx, 0, mergeable, Vec::new());
        for _ in 0..4 {
            if rx.kicked(ram).is_err() || rx.receive(&mut context).is_err() {
                break;
            }
        }
        drop(rx.into_parts());
    }
}
