//! The end of an open function: what of it takes the kernel long is done on a thread of its own.

use crate::container::Membership;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Instant;

/// Called once the function is closed.
type Closed = Box<dyn FnOnce() + Send>;

/// The last hold on a function: closing its file resets it, and leaving the container unmaps guest memory if it is the
/// last one there; together 50 to 180 ms. Dropping this returns at once.
///
/// It must be dropped after everything else that uses the file.
pub(crate) struct Closing {
    label: String,
    hold: Option<Hold>,
    closed: Mutex<Option<Closed>>,
}

struct Hold {
    // In this order: the file of a function is closed before its group is.
    file: Box<dyn Send + Sync>,
    membership: Option<Membership>,
}

impl Closing {
    /// `file` is a hold on the function's file, which is closed with the last one.
    pub(crate) fn new(label: &str, file: impl Send + Sync + 'static) -> Self {
        Self {
            label: label.to_owned(),
            hold: Some(Hold {
                file: Box::new(file),
                membership: None,
            }),
            closed: Mutex::default(),
        }
    }

    /// Keeps the function's place in its container.
    pub(crate) fn keep(&mut self, membership: Membership) {
        if let Some(hold) = &mut self.hold {
            hold.membership = Some(membership);
        }
    }

    /// Calls `closed` when it is all over: nobody in this process holds the function any more.
    pub(crate) fn when_closed(&self, closed: Closed) {
        *self.closed.lock().unwrap_or_else(PoisonError::into_inner) = Some(closed);
    }
}

impl Drop for Closing {
    fn drop(&mut self) {
        let Some(hold) = self.hold.take() else {
            return;
        };
        if let Some(membership) = &hold.membership {
            membership.begin_leaving();
        }
        let label = std::mem::take(&mut self.label);
        let closed = self
            .closed
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let work = move || {
            let begun = Instant::now();
            let Hold {
                file,
                mut membership,
            } = hold;
            if let Some(membership) = &mut membership {
                membership.let_go_of_file();
            }
            drop(file);
            drop(membership);
            tracing::debug!(device = label, ms = begun.elapsed().as_millis(), "closed");
            if let Some(closed) = closed {
                closed();
            }
        };
        if let Err(error) = thread::Builder::new().name("close".into()).spawn(work) {
            // The closure is dropped by now, and with it the function is closed, by this thread.
            tracing::warn!(%error, "no thread to close a function: what waits for it is not told");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Receiver, channel};

    /// A file that the kernel takes its time to close.
    struct Slow(Mutex<Receiver<()>>);

    impl Drop for Slow {
        fn drop(&mut self) {
            self.0.get_mut().unwrap().recv().unwrap();
        }
    }

    #[test]
    fn dropping_does_not_wait_for_the_kernel_and_the_end_is_told_after_it() {
        let (release, closing) = channel();
        let (told, end) = channel();
        let hold = Closing::new("f", Slow(Mutex::new(closing)));
        hold.when_closed(Box::new(move || told.send(()).unwrap()));
        drop(hold);
        // The kernel is not done: nobody was told, and this thread is here all the same.
        assert!(end.try_recv().is_err());
        release.send(()).unwrap();
        assert!(end.recv().is_ok());
    }
}
