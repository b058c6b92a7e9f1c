//! Whether the machine runs, for a client in this process that keeps to it as a processor does.
//!
//! A client of the socket may look at a stopped machine, as QEMU's may. One that stands in for a processor goes through
//! this gate with every access: there is none while the machine is stopped, and a stop waits for those under way.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

type Watcher = Box<dyn Fn() + Send + Sync>;

#[derive(Default)]
struct Passage {
    running: bool,
    inside: usize,
}

/// The gate of a machine without processors.
#[derive(Default)]
pub struct Gate {
    passage: Mutex<Passage>,
    left: Condvar,
    watchers: Mutex<Vec<Watcher>>,
}

/// Somebody is inside; the machine does not stop until this is dropped.
pub struct Inside<'a>(&'a Gate);

impl Gate {
    fn lock(&self) -> MutexGuard<'_, Passage> {
        self.passage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Goes in, for one access; `None` while the machine does not run.
    pub fn enter(&self) -> Option<Inside<'_>> {
        let mut passage = self.lock();
        if !passage.running {
            return None;
        }
        passage.inside += 1;
        Some(Inside(self))
    }

    /// Whether the machine runs, at this moment.
    pub fn is_open(&self) -> bool {
        self.lock().running
    }

    /// From now on `wake` is called whenever the machine begins to run. It must not block.
    pub fn on_open(&self, wake: Watcher) {
        let mut watchers = self.watchers.lock().unwrap_or_else(PoisonError::into_inner);
        watchers.push(wake);
    }

    /// The machine runs.
    pub(super) fn open(&self) {
        self.lock().running = true;
        let watchers = self.watchers.lock().unwrap_or_else(PoisonError::into_inner);
        watchers.iter().for_each(|wake| wake());
    }

    /// The machine is stopped when this returns: nobody is inside.
    pub(super) fn close(&self) {
        let mut passage = self.lock();
        passage.running = false;
        while passage.inside > 0 {
            passage = self
                .left
                .wait(passage)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        let mut passage = self.0.lock();
        passage.inside -= 1;
        if passage.inside == 0 {
            self.0.left.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::mpsc::channel;

    #[test]
    fn a_stop_waits_for_the_access_under_way_and_lets_no_other_in() {
        let gate = Arc::new(Gate::default());
        assert!(gate.enter().is_none(), "not running yet");
        let (sender, opened) = channel();
        gate.on_open(Box::new(move || sender.send(()).unwrap()));
        gate.open();
        opened.recv().unwrap();

        let inside = gate.enter().unwrap();
        let (sender, closed) = channel();
        let stopper = Arc::clone(&gate);
        let thread = std::thread::spawn(move || {
            stopper.close();
            sender.send(()).unwrap();
        });
        while gate.is_open() {
            std::thread::yield_now();
        }
        assert!(gate.enter().is_none());
        assert!(closed.try_recv().is_err(), "somebody is inside");
        drop(inside);
        closed.recv().unwrap();
        thread.join().unwrap();
    }
}
