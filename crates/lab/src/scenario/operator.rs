//! An operator who steers the hosts' network by hand, at the events of a migration: the best that users of a VMM which
//! does not steer can do with a script.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Result, anyhow};

use super::Bench;
use crate::qmp::Watcher;
use crate::site::Site;
use crate::vm::Vm;

/// How often one who waits for an event looks whether all is over.
const LOOK: Duration = Duration::from_millis(500);

/// The hands at work: one on each host.
pub(crate) struct Operator {
    over: Arc<AtomicBool>,
    hands: Vec<JoinHandle<Result<()>>>,
}

impl Operator {
    /// Waits beside both hosts. When the source goes on after its unplug, the NIC there no longer claims the guest's
    /// addresses; when the guest's state is on the target, and the primary is about to be plugged, the NIC there does.
    /// The bridges forget what they learned at both moments.
    pub(crate) fn at_work(bench: &Bench, pairs: usize, source: &Vm, target: &Vm) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let hand = |host: usize, vm: &Vm, label: &'static str, to_standby: bool| {
            let watcher = vm.qmp.watcher();
            let from = vm.qmp.events().len();
            let (site, over) = (bench.site.clone(), Arc::clone(&over));
            thread::spawn(move || {
                steer_at(&watcher, from, label, &over, || {
                    steer_all(&site, host, pairs, to_standby)
                })
            })
        };
        let hands = vec![
            hand(0, source, "MIGRATION:active", true),
            hand(1, target, "FAILOVER_NEGOTIATED", false),
        ];
        Self { over, hands }
    }

    /// Says whether all was done.
    pub(crate) fn finish(self) -> Result<()> {
        self.over.store(true, Ordering::Relaxed);
        for hand in self.hands {
            hand.join().map_err(|_| anyhow!("a hand panicked"))??;
        }
        Ok(())
    }
}

fn steer_all(site: &Site, host: usize, pairs: usize, to_standby: bool) -> Result<()> {
    (0..pairs).try_for_each(|pair| site.steer(host, pair, to_standby))
}

fn steer_at(
    watcher: &Watcher,
    from: usize,
    label: &str,
    over: &AtomicBool,
    steer: impl FnOnce() -> Result<()>,
) -> Result<()> {
    while !over.load(Ordering::Relaxed) {
        if watcher.wait_any(from, &[label], LOOK).is_some() {
            return steer();
        }
    }
    Err(anyhow!("{label} did not come"))
}
