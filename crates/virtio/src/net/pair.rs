//! The worker of one queue pair: receives, transmits and, for the first pair, serves the control queue.

use super::control::Control;
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
            rx: queues
                .rx
                .map(|queue| Receiver::new(queue, rx_index, mergeable, waiting)),
            tx: queues.tx.map(|queue| Transmitter::new(queue, rx_index + 1)),
            control: queues
                .control
                .map(|queue| Control::new(queue, control_index)),
        };
        match Sources::new(bell, &serving, &kicks, control_index) {
            Ok(mut sources) => {
                if let Err(error) = serving.serve(bell, &mut sources) {
                    signals.fail(&format!("pair {pair}"), &error);
                }
            }
            Err(error) => signals.fail(&format!("pair {pair}"), &error),
        }
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
    rx: Option<Receiver<'m>>,
    tx: Option<Transmitter<'m>>,
    control: Option<Control<'m>>,
}

#[derive(Debug, thiserror::Error)]
enum ServeError {
    #[error("{0}")]
    Ring(#[from] RingError),
    #[error("{0}")]
    Host(#[from] io::Error),
}

struct Sources {
    sleep: Sleep,
    /// Woken also when the backend becomes writable.
    writable: bool,
}

impl Sources {
    fn new(
        bell: &Bell,
        serving: &Serving<'_>,
        kicks: &[EventFd],
        control_index: usize,
    ) -> io::Result<Self> {
        let sleep = Sleep::new(bell)?;
        let rx_index = 2 * usize::from(serving.context.pair);
        let mut wanted = vec![(rx_index, RX), (rx_index + 1, TX)];
        if serving.control.is_some() {
            wanted.push((control_index, CONTROL));
        }
        for (index, token) in wanted {
            if let Some(kick) = kicks.get(index) {
                sleep.add_eventfd(kick, token)?;
            }
        }
        let context = &serving.context;
        if let Some(fd) = context.shared.backend.poll_fd(context.pair) {
            sleep.add(fd, BACKEND)?;
        }
        Ok(Self {
            sleep,
            writable: false,
        })
    }
}

impl Serving<'_> {
    fn serve(&mut self, bell: &Bell, sources: &mut Sources) -> Result<(), ServeError> {
        let mut rx_kicked = true;
        while !bell.stopping() && !self.context.signals.broken() {
            self.context.renew();
            let mut busy = false;
            if let Some(control) = self.control.as_mut().filter(|control| control.ready) {
                control.serve(&self.context)?;
                busy |= control.ready;
                self.context.renew();
            }
            let mut blocked = false;
            if let Some(tx) = self.tx.as_mut() {
                if tx.ready && !tx.blocked {
                    tx.transmit(&mut self.context)?;
                }
                busy |= tx.ready && !tx.blocked;
                blocked = tx.blocked;
            }
            if let Some(rx) = self.rx.as_mut() {
                if std::mem::take(&mut rx_kicked) {
                    rx.kicked(self.context.ram)?;
                }
                if rx.ready && !rx.starved {
                    rx.receive(&mut self.context)?;
                }
                busy |= rx.ready && !rx.starved;
            }
            self.watch_writable(sources, blocked)?;
            for (token, events) in sources.sleep.wait(busy.then_some(Duration::ZERO))? {
                match token {
                    RX => rx_kicked = true,
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
                    _ => {}
                }
            }
        }
        Ok(())
    }

    fn watch_writable(&self, sources: &mut Sources, wanted: bool) -> io::Result<()> {
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
