//! The control thread: the one owner of the machine's control plane.
//!
//! Whoever wants something of the machine (a monitor, a slot, a device, a migration's thread, a timer) posts a
//! [`Job`]: a closure that runs on the control thread with the [`Board`] in its hands. Jobs run one at a time in
//! the order they were posted, so nothing in the control plane needs a lock and no two decisions overlap. A job must
//! not wait for another job.
//!
//! Rejected: an enum of messages with a reply channel each. It says each command three times (the message, its
//! sender, its handler), and the order of replies and events would have to be restored afterwards; a closure
//! answers from where the events are emitted.

use crate::board::Board;
use crate::clock::{Clock, Clocks};
use failover::Moment;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

/// Something to be done on the control thread.
pub type Job = Box<dyn FnOnce(&mut Board) + Send>;

/// A handle to the control thread; cheap to clone.
#[derive(Clone)]
pub struct Control {
    jobs: Sender<Job>,
    clocks: Clocks,
}

/// The receiving end, which becomes the control thread.
pub struct ControlLoop {
    jobs: Receiver<Job>,
    control: Control,
}

/// The machine is gone; nobody carries out what was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the machine has ended")]
pub struct Ended;

/// Makes the calling thread yield to vCPUs and devices wherever processors are short: what it does beside a running
/// guest may take longer, the guest may not. It cannot be taken back without privileges, and need not be: once the guest
/// is stopped nobody is left to yield to.
pub(crate) fn give_way() {
    const NICE: i32 = 10;
    // On Linux this is the niceness of the calling thread alone.
    if let Err(error) = rustix::process::setpriority_process(None, NICE) {
        tracing::debug!(%error, "the priority cannot be lowered");
    }
}

/// A handle and the loop behind it, by the host's clock.
pub fn control() -> (Control, ControlLoop) {
    control_with(Clocks::host())
}

/// A handle and the loop behind it, by these clocks.
pub fn control_with(clocks: Clocks) -> (Control, ControlLoop) {
    let (sender, receiver) = channel::<Job>();
    let wake = sender.clone();
    clocks.host.on_move(Box::new(move || {
        // A loop that has ended has nothing that could be due.
        let _ = wake.send(Box::new(|_| {}));
    }));
    let control = Control {
        jobs: sender,
        clocks,
    };
    (
        control.clone(),
        ControlLoop {
            jobs: receiver,
            control,
        },
    )
}

impl Control {
    /// Has `job` run on the control thread; returns at once. After the machine's end it is dropped.
    pub fn post(&self, job: impl FnOnce(&mut Board) + Send + 'static) {
        if self.jobs.send(Box::new(job)).is_err() {
            tracing::trace!("a job came after the machine's end");
        }
    }

    /// Runs `job` on the control thread and waits for its answer. Never to be called *on* the control thread.
    ///
    /// # Errors
    /// The machine has ended.
    pub fn ask<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Board) -> T + Send + 'static,
    ) -> Result<T, Ended> {
        let (sender, receiver) = channel();
        self.post(move |board| {
            // The asker may be gone: then nobody misses the answer.
            let _ = sender.send(job(board));
        });
        receiver.recv().map_err(|_| Ended)
    }

    /// Now, on the clock by which the machine's waits end.
    pub fn now(&self) -> Moment {
        let now = self.clocks.host.now().as_millis();
        Moment::from_ms(u64::try_from(now).unwrap_or(u64::MAX))
    }

    /// The clock by which the machine's waits end.
    pub fn host_clock(&self) -> &Arc<dyn Clock> {
        &self.clocks.host
    }

    /// The clock by which the guest's devices count.
    pub fn guest_clock(&self) -> &Arc<dyn Clock> {
        &self.clocks.guest
    }
}

impl ControlLoop {
    /// Runs jobs and timers until the board says it is done; returns the exit status, and the board for what is left to do.
    pub fn run(self, mut board: Board) -> (u8, Board) {
        loop {
            if let Some(status) = board.exit_status() {
                return (status, board);
            }
            let now = self.control.now();
            let wait = board.next_deadline().and_then(|deadline| {
                let left = Duration::from_millis(deadline.ms_since(now));
                self.control.clocks.host.host_wait(left)
            });
            let job = match wait {
                Some(wait) => match self.jobs.recv_timeout(wait) {
                    Ok(job) => Some(job),
                    Err(RecvTimeoutError::Timeout) => None,
                    Err(RecvTimeoutError::Disconnected) => return (0, board),
                },
                None => match self.jobs.recv() {
                    Ok(job) => Some(job),
                    Err(_) => return (0, board),
                },
            };
            if let Some(job) = job {
                job(&mut board);
            }
            board.tick(self.control.now());
        }
    }
}
