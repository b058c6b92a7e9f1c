//! A device with one queue and one worker that serves requests one after another.

use crate::chain::{Buffers, RingError};
use crate::device::Run;
use crate::lock::lock;
use crate::queue::Virtqueue;
use crate::signals::Signals;
use crate::worker::{Bell, Sleep, Worker};
use memory::GuestRam;
use std::io;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;
use vmm_sys_util::eventfd::EventFd;

/// Requests after which the driver sees its buffers back.
const REQUESTS_PER_PUBLICATION: usize = 16;
/// Requests after which the worker looks whether it shall stop.
const REQUESTS_PER_TURN: usize = 64;
const KICK: u64 = 0;

/// What became of a request.
pub(crate) enum Served {
    /// Done, with so many bytes written to the driver's buffers.
    Done(u32),
    /// Not before so much time has passed.
    Later(Duration),
}

/// What a device type does with a request.
pub(crate) trait Requests: Send + Sync + 'static {
    /// Serves the request in `buffers`. Whatever it writes to guest memory it marks.
    fn serve<'m>(&self, ram: &'m GuestRam, buffers: &mut Buffers<'m>) -> Result<Served, RingError>;
}

/// The worker and how it is started and stopped.
pub(crate) struct SingleQueue {
    name: &'static str,
    bell: Arc<Bell>,
    signals: OnceLock<Arc<Signals>>,
    worker: Mutex<Option<Worker<Virtqueue>>>,
}

impl SingleQueue {
    pub(crate) fn new(name: &'static str) -> io::Result<Self> {
        Ok(Self {
            name,
            bell: Arc::new(Bell::new()?),
            signals: OnceLock::new(),
            worker: Mutex::default(),
        })
    }

    pub(crate) fn attach(&self, signals: Arc<Signals>) {
        // The transport calls this once.
        let _ = self.signals.set(signals);
    }

    pub(crate) fn start(&self, run: Run, requests: Arc<impl Requests>) -> io::Result<()> {
        let Some(signals) = self.signals.get() else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        let Some(queue) = run.queues.into_iter().next().flatten() else {
            return Ok(());
        };
        let signals = Arc::clone(signals);
        let (ram, kicks) = (run.ram, run.kicks);
        let worker = Worker::spawn(self.name.to_owned(), &self.bell, move |bell| {
            let mut serving = Serving {
                ram: &ram,
                queue,
                buffers: Buffers::default(),
            };
            if let Some(kick) = kicks.first()
                && let Err(error) = serving.run(bell, &signals, kick, &*requests)
            {
                signals.fail("queue 0", &error);
            }
            serving.queue
        })?;
        *lock(&self.worker) = Some(worker);
        Ok(())
    }

    pub(crate) fn stop(&self) -> Vec<Option<Virtqueue>> {
        let worker = lock(&self.worker).take();
        worker.map(|worker| vec![worker.join()]).unwrap_or_default()
    }
}

struct Serving<'m> {
    ram: &'m GuestRam,
    queue: Virtqueue,
    buffers: Buffers<'m>,
}

#[derive(Debug, thiserror::Error)]
enum ServeError {
    #[error("{0}")]
    Ring(#[from] RingError),
    #[error("{0}")]
    Host(#[from] io::Error),
}

impl Serving<'_> {
    fn run(
        &mut self,
        bell: &Bell,
        signals: &Signals,
        kick: &EventFd,
        requests: &impl Requests,
    ) -> Result<(), ServeError> {
        let mut sleep = Sleep::new(bell)?;
        sleep.add_eventfd(kick, KICK)?;
        while !bell.stopping() && !signals.broken() {
            let wait = self.turn(signals, requests)?;
            let _ = sleep.wait(wait)?.count();
        }
        Ok(())
    }

    /// Serves a bounded number of requests; returns how long to sleep at most.
    fn turn(
        &mut self,
        signals: &Signals,
        requests: &impl Requests,
    ) -> Result<Option<Duration>, RingError> {
        self.queue.disable_notification(self.ram)?;
        let mut wait = Some(Duration::ZERO);
        for count in 1..=REQUESTS_PER_TURN {
            let Some(head) = self.queue.pop(self.ram)? else {
                if self.queue.enable_notification(self.ram)? {
                    self.queue.disable_notification(self.ram)?;
                    continue;
                }
                wait = None;
                break;
            };
            self.buffers.clear();
            self.queue.resolve(self.ram, head, &mut self.buffers)?;
            match requests.serve(self.ram, &mut self.buffers)? {
                Served::Done(written) => self.queue.stage_used(self.ram, head, written)?,
                Served::Later(time) => {
                    self.queue.unpop(1);
                    wait = Some(time);
                    break;
                }
            }
            if count % REQUESTS_PER_PUBLICATION == 0 {
                self.give_back(signals)?;
            }
        }
        self.buffers.clear();
        self.give_back(signals)?;
        Ok(wait)
    }

    fn give_back(&mut self, signals: &Signals) -> Result<(), RingError> {
        self.queue.publish(self.ram)?;
        if self.queue.wants_interrupt(self.ram)? {
            signals.queue(0);
        }
        Ok(())
    }
}
