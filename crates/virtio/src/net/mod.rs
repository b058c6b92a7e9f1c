//! The network device (virtio 1.2, section 5.1).

mod backend;
mod control;
mod filter;
mod function;
mod kernel;
mod pair;
mod receive;
mod saved;
mod shared;
mod transmit;

pub use backend::{NetBackend, Offloads, Unconnected, VNET_HEADER_BYTES, unless_blocked};
pub use filter::{MAC_TABLE_ENTRIES, MacAddr, RxFilter};
pub use kernel::{KernelPairs, KernelRing};
pub(crate) use pair::fuzz_pair;
pub use shared::NetCounters;

use crate::features::{net, ring};
use crate::transport::{PciConfig, VirtioError, VirtioPci};
use function::NetDevice;
use memory::GuestRam;
use pci::Platform;
use shared::Shared;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Properties that switch a feature, by the name users know, with the feature's bit; all are on by default. What the
/// backend cannot do is not offered whatever they say. `failover`, `mq`, `host_mtu` and `mac` are not among them.
pub const FEATURE_SWITCHES: &[(&str, u64)] = &[
    ("csum", net::CSUM),
    ("guest_csum", net::GUEST_CSUM),
    ("guest_tso4", net::GUEST_TSO4),
    ("guest_tso6", net::GUEST_TSO6),
    ("guest_ecn", net::GUEST_ECN),
    ("guest_ufo", net::GUEST_UFO),
    ("guest_announce", net::GUEST_ANNOUNCE),
    ("host_tso4", net::HOST_TSO4),
    ("host_tso6", net::HOST_TSO6),
    ("host_ecn", net::HOST_ECN),
    ("host_ufo", net::HOST_UFO),
    ("mrg_rxbuf", net::MRG_RXBUF),
    ("status", net::STATUS),
    ("ctrl_vq", net::CTRL_VQ),
    ("ctrl_rx", net::CTRL_RX),
    ("ctrl_vlan", net::CTRL_VLAN),
    ("ctrl_rx_extra", net::CTRL_RX_EXTRA),
    ("ctrl_mac_addr", net::CTRL_MAC_ADDR),
    ("ctrl_guest_offloads", net::CTRL_GUEST_OFFLOADS),
    ("indirect_desc", ring::INDIRECT_DESC),
    ("event_idx", ring::EVENT_IDX),
];

/// What of a feature stands on another: without the second the first is not offered (virtio 1.2, section 5.1.3.1).
const FEATURE_NEEDS: &[(u64, u64)] = &[
    (net::GUEST_TSO4, net::GUEST_CSUM),
    (net::GUEST_TSO6, net::GUEST_CSUM),
    (net::GUEST_UFO, net::GUEST_CSUM),
    (net::GUEST_ECN, net::GUEST_TSO4 | net::GUEST_TSO6),
    (net::HOST_TSO4, net::CSUM),
    (net::HOST_TSO6, net::CSUM),
    (net::HOST_UFO, net::CSUM),
    (net::HOST_ECN, net::HOST_TSO4 | net::HOST_TSO6),
    (net::CTRL_RX, net::CTRL_VQ),
    (net::CTRL_RX_EXTRA, net::CTRL_RX),
    (net::CTRL_VLAN, net::CTRL_VQ),
    (net::CTRL_MAC_ADDR, net::CTRL_VQ),
    (net::CTRL_GUEST_OFFLOADS, net::CTRL_VQ),
    (net::GUEST_ANNOUNCE, net::CTRL_VQ),
    (net::GUEST_ANNOUNCE, net::STATUS),
    (net::MQ, net::CTRL_VQ),
];

/// The least MTU IPv4 knows, and drivers take.
const MTU_MIN: u16 = 68;

/// What a network device is asked to be.
#[derive(Debug, Clone)]
pub struct NetConfig {
    /// For logs and errors: `virtio-net-pci 'net1'`.
    pub label: String,
    /// Its address.
    pub mac: MacAddr,
    /// Offer `VIRTIO_NET_F_STANDBY`: it is the standby of a pair.
    pub failover: bool,
    /// The MTU in bytes it advises its driver; `None`: none.
    pub mtu: Option<u16>,
    /// Queue pairs to offer; at most as many as the backend has.
    pub queue_pairs: u16,
    /// Entries of each receive queue: a power of two from 256 to 1024.
    pub rx_queue_size: u16,
    /// Entries of each transmit queue: a power of two from 256 to 1024.
    pub tx_queue_size: u16,
    /// Feature bits switched off, see [`FEATURE_SWITCHES`].
    pub features_off: u64,
    /// Number of MSI-X vectors; `None`: one a queue, one for the configuration.
    pub vectors: Option<u16>,
    /// It sits on the root complex's own bus, not behind a port.
    pub on_root_bus: bool,
}

impl NetConfig {
    /// One queue pair of 256 entries, everything offered, behind a port.
    #[must_use]
    pub fn new(label: impl Into<String>, mac: MacAddr) -> Self {
        Self {
            label: label.into(),
            mac,
            failover: false,
            mtu: None,
            queue_pairs: 1,
            rx_queue_size: 256,
            tx_queue_size: 256,
            features_off: 0,
            vectors: None,
            on_root_bus: false,
        }
    }
}

/// What a network device has to tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NetEvent {
    /// The driver's features were accepted: it set FEATURES_OK, and read back that it is. From here on the choice binds
    /// until a reset, which it does not at the single writes of the feature registers; and it comes before DRIVER_OK, so
    /// that a primary can be on its way while the driver still sets up its queues.
    FeaturesNegotiated {
        /// The guest accepted `VIRTIO_NET_F_STANDBY`.
        standby: bool,
    },
    /// The driver or the machine reset the device: nothing is negotiated any more.
    Reset,
    /// The driver changed which frames it wants.
    RxFilterChanged,
    /// The driver has announced itself, as asked by [`VirtioNet::announce`].
    AnnounceAcked,
}

/// Who wants to know. Called from vCPU threads and workers, with the device's lock held: it must not block, and must
/// not call the device but for [`VirtioNet::standby_negotiated`].
pub trait NetListener: Send + Sync {
    /// Something happened.
    fn net_event(&self, event: NetEvent);
}

impl<F: Fn(NetEvent) + Send + Sync> NetListener for F {
    fn net_event(&self, event: NetEvent) {
        self(event);
    }
}

/// `virtio-net-pci`.
pub struct VirtioNet {
    device: Arc<NetDevice>,
    function: Arc<VirtioPci>,
}

fn features(config: &NetConfig, backend: &dyn NetBackend, pairs: u16) -> u64 {
    let mut features = FEATURE_SWITCHES.iter().fold(0, |all, (_, bit)| all | bit) | net::MAC;
    let offloads = if backend.vnet_header() {
        backend.offloads()
    } else {
        Offloads::empty()
    };
    let guest = Offloads::all().bits();
    let host = Offloads::all().host_features();
    features &= !(guest | host);
    features |= offloads.bits() | offloads.host_features();
    if offloads.is_empty() {
        features &= !net::CTRL_GUEST_OFFLOADS;
    }
    if config.mtu.is_some() {
        features |= net::MTU;
    }
    if pairs > 1 {
        features |= net::MQ;
    }
    if config.failover {
        features |= net::STANDBY;
    }
    if let Some(kernel) = backend.kernel() {
        features &= kernel.ring_features() | !kernel::RING_FEATURES;
    }
    features &= !config.features_off;
    // Two rounds: the needs are at most two deep.
    for _ in 0..2 {
        for (feature, needed) in FEATURE_NEEDS {
            if features & needed == 0 {
                features &= !feature;
            }
        }
    }
    features
}

fn check_queue_size(label: &str, name: &str, size: u16) -> Result<(), VirtioError> {
    if size.is_power_of_two() && (256..=1024).contains(&size) {
        return Ok(());
    }
    Err(VirtioError::Property {
        device: label.to_owned(),
        reason: format!("Invalid {name} (= {size}), must be a power of 2 between 256 and 1024."),
    })
}

impl VirtioNet {
    /// Makes the device. It serves the guest as soon as its driver is up.
    ///
    /// # Errors
    /// A property is out of range, or the host has no resources left.
    pub fn new(
        config: NetConfig,
        backend: Arc<dyn NetBackend>,
        ram: Arc<GuestRam>,
        platform: Arc<dyn Platform>,
        listener: Arc<dyn NetListener>,
    ) -> Result<Arc<Self>, VirtioError> {
        let label = config.label.clone();
        check_queue_size(&label, "rx_queue_size", config.rx_queue_size)?;
        check_queue_size(&label, "tx_queue_size", config.tx_queue_size)?;
        if let Some(mtu) = config.mtu.filter(|mtu| *mtu < MTU_MIN) {
            return Err(VirtioError::Property {
                device: label,
                reason: format!("Invalid host_mtu (= {mtu}), must be between {MTU_MIN} and 65535."),
            });
        }
        let available = backend.queue_pairs().max(1);
        if config.queue_pairs == 0 || config.queue_pairs > available {
            return Err(VirtioError::Property {
                device: label,
                reason: format!(
                    "{} queue pairs are wanted, its netdev has {available}: give it as many with queues=",
                    config.queue_pairs
                ),
            });
        }
        let mut pairs = config.queue_pairs;
        let offered = features(&config, &*backend, pairs);
        if offered & net::MQ == 0 {
            pairs = 1;
        }
        let shared =
            Shared::new(label.clone(), backend, listener, config.mac, pairs).map_err(|source| {
                VirtioError::Host {
                    device: label.clone(),
                    source,
                }
            })?;
        let device = Arc::new(NetDevice::new(
            Arc::new(shared),
            config.mac,
            offered,
            config.mtu.unwrap_or(0),
            config.rx_queue_size,
            config.tx_queue_size,
        ));
        let function = VirtioPci::new(
            PciConfig {
                label,
                vectors: config.vectors,
                on_root_bus: config.on_root_bus,
            },
            Arc::clone(&device) as Arc<_>,
            ram,
            platform,
        )?;
        Ok(Arc::new(Self { device, function }))
    }

    /// The function on the bus; also [`pause`](VirtioPci::pause) and [`resume`](VirtioPci::resume).
    pub fn function(&self) -> &Arc<VirtioPci> {
        &self.function
    }

    /// Whether the guest has accepted to be on the standby of a pair. True from FEATURES_OK, or a restore, to the next
    /// reset. Takes no lock.
    pub fn standby_negotiated(&self) -> bool {
        self.device.shared.accepted(net::STANDBY)
    }

    /// Whether the guest will announce itself when asked.
    pub fn can_announce(&self) -> bool {
        self.device.shared.accepted(net::GUEST_ANNOUNCE)
    }

    /// Asks the guest to announce itself; [`NetEvent::AnnounceAcked`] says it did. `false` if it cannot.
    pub fn announce(&self) -> bool {
        if !self.can_announce() {
            return false;
        }
        self.device.shared.announce.store(true, Ordering::Release);
        self.device.shared.config_changed();
        true
    }

    /// Plugs the cable in or out.
    pub fn set_link(&self, up: bool) {
        if self.link_up() != up {
            self.device.shared.change(|rules| rules.link_up = up);
            self.device.shared.config_changed();
        }
    }

    /// Whether the cable is in.
    pub fn link_up(&self) -> bool {
        self.device.shared.rules().link_up
    }

    /// The address now: the driver may have changed it.
    pub fn mac(&self) -> MacAddr {
        self.device.shared.rules().filter.mac
    }

    /// The address it was given, which a guest's failover matches by.
    pub fn configured_mac(&self) -> MacAddr {
        self.device.configured_mac
    }

    /// Which frames the driver wants.
    pub fn rx_filter(&self) -> RxFilter {
        self.device.shared.rules().filter
    }

    /// Queue pairs there are, and those the driver uses.
    pub fn queue_pairs(&self) -> (u16, u16) {
        let shared = &self.device.shared;
        (shared.pairs, shared.rules().active_pairs)
    }

    /// What passed so far.
    pub fn counters(&self) -> NetCounters {
        self.device.shared.totals()
    }
}
