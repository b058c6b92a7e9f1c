//! Ending what was started, however the program ends: by return, by panic, by a signal.

use std::sync::{Mutex, PoisonError};
use std::thread;

use anyhow::{Context, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::l1::L1;
use crate::progress::say;

static OWNED: Mutex<Option<L1>> = Mutex::new(None);

/// An L1 that ends when this is dropped, or when a signal ends the program.
pub struct Owned(());

impl Owned {
    /// Takes charge of `l1`.
    pub fn new(l1: L1) -> Self {
        *OWNED.lock().unwrap_or_else(PoisonError::into_inner) = Some(l1);
        Self(())
    }

    /// Leaves L1 running.
    pub fn keep(self) {
        OWNED.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        stop();
    }
}

fn stop() {
    // Held until L1 is gone, so that a return and a signal at the same time wait for each other.
    let mut owned = OWNED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(l1) = owned.take() {
        l1.stop();
        say("lab host: stopped");
    }
}

/// From now on SIGINT, SIGTERM and SIGHUP clean up before they end the program.
pub fn on_signals() -> Result<()> {
    let mut signals =
        Signals::new([SIGINT, SIGTERM, SIGHUP]).context("cannot watch for signals")?;
    thread::spawn(move || {
        if let Some(signal) = signals.forever().next() {
            say("interrupted: cleaning up");
            stop();
            std::process::exit(128 + signal);
        }
    });
    Ok(())
}
