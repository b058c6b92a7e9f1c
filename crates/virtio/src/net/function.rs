//! The network device as the transport sees it (virtio 1.2, section 5.1).

use super::NetEvent;
use super::backend::Offloads;
use super::filter::MacAddr;
use super::pair::{PairQueues, PairWorker};
use super::saved::NetSaved;
use super::shared::{Rules, Shared};
use crate::device::{DeviceKind, Run, VirtioDevice};
use crate::features::net;
use crate::lock::lock;
use crate::queue::Virtqueue;
use crate::signals::Signals;
use crate::worker::Worker;
use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

const STATUS_LINK_UP: u16 = 1;
const STATUS_ANNOUNCE: u16 = 2;
const CONTROL_QUEUE_SIZE: u16 = 64;

struct Running {
    workers: Vec<Worker<PairQueues>>,
    control_index: Option<usize>,
    /// By index, the queues nobody serves: the driver enabled them without the feature they belong to.
    idle: Vec<Option<Virtqueue>>,
}

pub(super) struct NetDevice {
    pub(super) shared: Arc<Shared>,
    pub(super) configured_mac: MacAddr,
    pub(super) offered: u64,
    pub(super) mtu: u16,
    pub(super) rx_queue_size: u16,
    pub(super) tx_queue_size: u16,
    running: Mutex<Option<Running>>,
    /// Frames that wait for buffers while no worker runs, by pair.
    waiting: Mutex<Vec<Vec<u8>>>,
}

impl NetDevice {
    pub(super) fn new(
        shared: Arc<Shared>,
        configured_mac: MacAddr,
        offered: u64,
        mtu: u16,
        rx_queue_size: u16,
        tx_queue_size: u16,
    ) -> Self {
        Self {
            shared,
            configured_mac,
            offered,
            mtu,
            rx_queue_size,
            tx_queue_size,
            running: Mutex::default(),
            waiting: Mutex::default(),
        }
    }

    /// The configuration (virtio 1.2, section 5.1.4).
    fn registers(&self) -> [u8; 12] {
        let rules = self.shared.rules();
        let mut status = 0;
        if rules.link_up {
            status |= STATUS_LINK_UP;
        }
        if self.shared.announce.load(Ordering::Acquire) {
            status |= STATUS_ANNOUNCE;
        }
        let [m0, m1, m2, m3, m4, m5] = rules.filter.mac.0;
        let [s0, s1] = status.to_le_bytes();
        let [p0, p1] = self.shared.pairs.to_le_bytes();
        let [u0, u1] = self.mtu.to_le_bytes();
        [m0, m1, m2, m3, m4, m5, s0, s1, p0, p1, u0, u1]
    }
}

impl VirtioDevice for NetDevice {
    fn kind(&self) -> DeviceKind {
        DeviceKind {
            id: 1,
            class: 0x02_00_00,
        }
    }

    fn features(&self) -> u64 {
        self.offered
    }

    fn queue_sizes(&self) -> Vec<u16> {
        let pair = [self.rx_queue_size, self.tx_queue_size];
        let mut sizes = pair.repeat(usize::from(self.shared.pairs));
        if self.offered & net::CTRL_VQ != 0 {
            sizes.push(CONTROL_QUEUE_SIZE);
        }
        sizes
    }

    fn attach(&self, signals: Arc<Signals>) {
        // The transport calls this once.
        let shared = Arc::downgrade(&self.shared);
        signals.on_reroute(Box::new(move || {
            if let Some(shared) = shared.upgrade() {
                shared.look_again();
            }
        }));
        let _ = self.shared.signals.set(signals);
    }

    fn config_read(&self, offset: usize, data: &mut [u8]) {
        let registers = self.registers();
        for (byte, from) in data.iter_mut().zip(registers.iter().skip(offset)) {
            *byte = *from;
        }
    }

    fn negotiated(&self, features: u64) {
        self.shared.features.store(features, Ordering::Release);
        self.shared.change(|rules| {
            rules.filter.set_all_vlans(features & net::CTRL_VLAN == 0);
            rules.offloads = Offloads::from_bits_truncate(features);
        });
        self.shared.tell(if features == 0 {
            NetEvent::Reset
        } else {
            NetEvent::FeaturesNegotiated {
                standby: features & net::STANDBY != 0,
            }
        });
    }

    fn start(&self, run: Run) -> io::Result<()> {
        let Some(signals) = self.shared.signals.get() else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        self.shared.apply_to_backend(&self.shared.rules());
        let mut queues = run.queues;
        let mut take = |index: usize| queues.get_mut(index).and_then(Option::take);
        let control_index = self.shared.control_queue(run.features);
        let mut control = control_index.and_then(&mut take);
        let mut waiting = std::mem::take(&mut *lock(&self.waiting)).into_iter();
        let mut workers = Vec::with_capacity(usize::from(self.shared.pairs));
        for (pair, bell) in (0..self.shared.pairs).zip(&self.shared.bells) {
            let index = 2 * usize::from(pair);
            let worker = PairWorker {
                shared: Arc::clone(&self.shared),
                signals: Arc::clone(signals),
                ram: Arc::clone(&run.ram),
                kicks: Arc::clone(&run.kicks),
                pair,
                control_index: control_index.unwrap_or(0),
                queues: PairQueues {
                    rx: take(index),
                    tx: take(index + 1),
                    control: control.take(),
                    waiting: waiting.next().unwrap_or_default(),
                },
            };
            let name = format!("net-pair{pair}");
            match Worker::spawn(name, bell, move |bell| worker.run(bell)) {
                Ok(worker) => workers.push(worker),
                Err(error) => {
                    for worker in workers {
                        worker.join();
                    }
                    return Err(error);
                }
            }
        }
        *lock(&self.running) = Some(Running {
            workers,
            control_index,
            idle: queues,
        });
        Ok(())
    }

    fn stop(&self) -> Vec<Option<Virtqueue>> {
        let Some(running) = lock(&self.running).take() else {
            return Vec::new();
        };
        for worker in &running.workers {
            worker.ask_to_stop();
        }
        let mut queues = running.idle;
        let mut put = |index: usize, queue: Option<Virtqueue>| {
            if let Some(slot) = queues.get_mut(index)
                && queue.is_some()
            {
                *slot = queue;
            }
        };
        let mut waiting = Vec::new();
        for (pair, worker) in running.workers.into_iter().enumerate() {
            let back = worker.join().unwrap_or_default();
            put(2 * pair, back.rx);
            put(2 * pair + 1, back.tx);
            if let Some(index) = running.control_index {
                put(index, back.control);
            }
            waiting.push(back.waiting);
        }
        *lock(&self.waiting) = waiting;
        queues
    }

    fn reset(&self) {
        lock(&self.waiting).clear();
        self.shared.announce.store(false, Ordering::Release);
        let mac = self.configured_mac;
        self.shared
            .change(|rules| *rules = Rules::at_reset(mac, rules.link_up));
    }

    fn save(&self) -> Vec<u8> {
        let saved = NetSaved::of(
            &self.shared.rules(),
            self.shared.announce.load(Ordering::Acquire),
            &lock(&self.waiting),
        );
        // Encoding into memory cannot fail.
        minicbor::to_vec(saved).unwrap_or_default()
    }

    fn restore(&self, features: u64, state: &[u8]) -> Result<(), String> {
        let saved: NetSaved = minicbor::decode(state).map_err(|error| error.to_string())?;
        let restored = saved.check(self.shared.pairs, features)?;
        self.shared.features.store(features, Ordering::Release);
        self.shared
            .announce
            .store(restored.announce, Ordering::Release);
        self.shared.change(|rules| *rules = restored.rules);
        *lock(&self.waiting) = restored.waiting;
        Ok(())
    }
}
