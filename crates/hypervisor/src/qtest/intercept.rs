//! `irq_intercept_in`: the lines a client hears of.

use super::interrupts::{InterruptListener, LINES};
use std::sync::{Mutex, PoisonError};

/// Takes lines for the client that are no reply. Must not block.
pub(super) type Sink = Box<dyn Fn(&str) + Send + Sync>;

/// Writes `IRQ raise N` and `IRQ lower N`.
pub(super) struct Intercept {
    told: Mutex<[bool; LINES as usize]>,
    sink: Sink,
}

impl Intercept {
    pub(super) fn new(sink: Sink) -> Self {
        Self {
            told: Mutex::new([false; LINES as usize]),
            sink,
        }
    }
}

impl InterruptListener for Intercept {
    fn line(&self, gsi: u32, high: bool) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(level) = told.get_mut(gsi as usize) else {
            return;
        };
        if *level != high {
            *level = high;
            (self.sink)(&format!(
                "IRQ {} {gsi}\n",
                if high { "raise" } else { "lower" }
            ));
        }
    }
}
