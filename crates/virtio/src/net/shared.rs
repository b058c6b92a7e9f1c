//! What the queue pairs' workers, the control plane and the driver's configuration accesses have in common.

use super::backend::{NetBackend, Offloads, VNET_HEADER_BYTES};
use super::filter::{MacAddr, RxFilter};
use super::{NetEvent, NetListener};
use crate::features::net;
use crate::lock::lock;
use crate::signals::Signals;
use crate::worker::Bell;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

/// Longest frame with header: 64 KiB of IP, an Ethernet header with two tags, and room to see a longer one.
pub(super) const LONGEST_BYTES: usize = 65536 + 128;

/// Frames of an interface that does not say its MTU are no longer than this.
const MTU_UNKNOWN: u16 = 9216;

/// What the driver programmed and the operator ordered. Workers hold a copy and renew it when it changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rules {
    pub(super) filter: RxFilter,
    pub(super) link_up: bool,
    pub(super) active_pairs: u16,
    pub(super) offloads: Offloads,
}

impl Rules {
    pub(super) fn at_reset(mac: MacAddr, link_up: bool) -> Self {
        Self {
            filter: RxFilter::open(mac),
            link_up,
            active_pairs: 1,
            offloads: Offloads::empty(),
        }
    }
}

/// Counts since the device was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NetCounters {
    /// Frames the guest was given.
    pub rx_frames: u64,
    /// Their bytes, without virtio-net headers.
    pub rx_bytes: u64,
    /// Frames lost: they did not fit, the link was down.
    pub rx_dropped: u64,
    /// Frames the driver's filter did not want.
    pub rx_filtered: u64,
    /// Times a frame waited for the driver to give buffers.
    pub rx_starved: u64,
    /// Frames the backend took.
    pub tx_frames: u64,
    /// Their bytes, without virtio-net headers.
    pub tx_bytes: u64,
    /// Frames lost: the backend refused them, the link was down.
    pub tx_dropped: u64,
}

#[derive(Debug, Default)]
pub(super) struct PairCounters {
    pub(super) rx_frames: AtomicU64,
    pub(super) rx_bytes: AtomicU64,
    pub(super) rx_dropped: AtomicU64,
    pub(super) rx_filtered: AtomicU64,
    pub(super) rx_starved: AtomicU64,
    pub(super) tx_frames: AtomicU64,
    pub(super) tx_bytes: AtomicU64,
    pub(super) tx_dropped: AtomicU64,
}

/// Adds to a counter.
pub(super) fn add(counter: &AtomicU64, count: usize) {
    counter.fetch_add(count as u64, Ordering::Relaxed);
}

impl PairCounters {
    fn add_to(&self, sum: &mut NetCounters) {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        sum.rx_frames += read(&self.rx_frames);
        sum.rx_bytes += read(&self.rx_bytes);
        sum.rx_dropped += read(&self.rx_dropped);
        sum.rx_filtered += read(&self.rx_filtered);
        sum.rx_starved += read(&self.rx_starved);
        sum.tx_frames += read(&self.tx_frames);
        sum.tx_bytes += read(&self.tx_bytes);
        sum.tx_dropped += read(&self.tx_dropped);
    }
}

pub(super) struct Shared {
    pub(super) label: String,
    pub(super) backend: Arc<dyn NetBackend>,
    pub(super) listener: Arc<dyn NetListener>,
    pub(super) pairs: u16,
    /// What the guest accepted; 0 before.
    pub(super) features: AtomicU64,
    /// The driver shall announce itself.
    pub(super) announce: AtomicBool,
    pub(super) bells: Vec<Arc<Bell>>,
    pub(super) counters: Vec<PairCounters>,
    pub(super) signals: OnceLock<Arc<Signals>>,
    rules: Mutex<Rules>,
    generation: AtomicU64,
}

impl Shared {
    pub(super) fn new(
        label: String,
        backend: Arc<dyn NetBackend>,
        listener: Arc<dyn NetListener>,
        mac: MacAddr,
        pairs: u16,
    ) -> std::io::Result<Self> {
        Ok(Self {
            label,
            backend,
            listener,
            pairs,
            features: AtomicU64::new(0),
            announce: AtomicBool::new(false),
            bells: (0..pairs)
                .map(|_| Bell::new().map(Arc::new))
                .collect::<Result<_, _>>()?,
            counters: (0..pairs).map(|_| PairCounters::default()).collect(),
            signals: OnceLock::new(),
            rules: Mutex::new(Rules::at_reset(mac, true)),
            generation: AtomicU64::new(0),
        })
    }

    pub(super) fn rules(&self) -> Rules {
        lock(&self.rules).clone()
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Changes the rules; every worker takes notice.
    pub(super) fn change(&self, change: impl FnOnce(&mut Rules)) {
        change(&mut lock(&self.rules));
        self.look_again();
    }

    /// Has every worker look at what it holds a copy of.
    pub(super) fn look_again(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
        for bell in &self.bells {
            bell.ring();
        }
    }

    /// What the guest accepted; 0 before.
    pub(super) fn negotiated(&self) -> u64 {
        self.features.load(Ordering::Acquire)
    }

    pub(super) fn accepted(&self, feature: u64) -> bool {
        self.negotiated() & feature != 0
    }

    pub(super) fn tell(&self, event: NetEvent) {
        self.listener.net_event(event);
    }

    /// The configuration changed in a way the driver has to look at.
    pub(super) fn config_changed(&self) {
        if let Some(signals) = self.signals.get() {
            signals.config();
        }
    }

    /// Bytes a frame with its header can have under these rules.
    pub(super) fn longest(&self, rules: &Rules) -> usize {
        if rules.offloads.segments() {
            LONGEST_BYTES
        } else {
            let mtu = self.backend.mtu().unwrap_or(MTU_UNKNOWN).max(1500);
            // Ethernet header with two tags, and room to see a longer one.
            VNET_HEADER_BYTES + 14 + 8 + usize::from(mtu) + 2
        }
    }

    /// Tells the backend what the driver takes now.
    pub(super) fn apply_to_backend(&self, rules: &Rules) {
        let complain = |what: &str, error: std::io::Error| {
            tracing::warn!(device = %self.label, %error, "the host's side refused {what}");
        };
        if self.backend.vnet_header()
            && let Err(error) = self.backend.set_offloads(rules.offloads)
        {
            complain("the driver's offloads", error);
        }
        if self.pairs > 1 {
            for pair in 0..self.pairs {
                if let Err(error) = self
                    .backend
                    .set_pair_enabled(pair, pair < rules.active_pairs)
                {
                    complain("to switch a queue pair", error);
                }
            }
        }
    }

    pub(super) fn totals(&self) -> NetCounters {
        let mut sum = NetCounters::default();
        for pair in &self.counters {
            pair.add_to(&mut sum);
        }
        sum
    }

    /// The index of the control queue (virtio 1.2, section 5.1.2).
    pub(super) fn control_queue(&self, features: u64) -> Option<usize> {
        if features & net::CTRL_VQ == 0 {
            None
        } else if features & net::MQ != 0 {
            Some(2 * usize::from(self.pairs))
        } else {
            Some(2)
        }
    }
}

/// What one worker has at hand while it serves its pair.
pub(super) struct Context<'m> {
    pub(super) shared: &'m Shared,
    pub(super) signals: &'m Signals,
    pub(super) ram: &'m memory::GuestRam,
    pub(super) counters: &'m PairCounters,
    pub(super) pair: u16,
    pub(super) rules: Rules,
    pub(super) longest: usize,
    pub(super) vnet_header: bool,
    seen: u64,
}

impl<'m> Context<'m> {
    pub(super) fn new(
        shared: &'m Shared,
        signals: &'m Signals,
        ram: &'m memory::GuestRam,
        counters: &'m PairCounters,
        pair: u16,
    ) -> Self {
        let seen = shared.generation();
        let rules = shared.rules();
        Self {
            longest: shared.longest(&rules),
            vnet_header: shared.backend.vnet_header(),
            shared,
            signals,
            ram,
            counters,
            pair,
            rules,
            seen,
        }
    }

    /// Takes notice of changed rules; whether anything may have changed.
    pub(super) fn renew(&mut self) -> bool {
        let generation = self.shared.generation();
        let changed = generation != self.seen;
        if changed {
            self.seen = generation;
            self.rules = self.shared.rules();
            self.longest = self.shared.longest(&self.rules);
        }
        changed
    }

    /// Whether frames pass: the link is up and the driver uses the pair.
    pub(super) fn open(&self) -> bool {
        self.rules.link_up && self.pair < self.rules.active_pairs
    }
}
