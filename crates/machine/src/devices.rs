//! Devices of the user's: made from their configuration, put into slots, taken out again.

use crate::MachineError;
use crate::board::Board;
use crate::event::MachineEvent;
use crate::network::FdSource;
use config::SlotAddr;
use config::vm::{
    BlkConfig, DeviceConfig, DeviceKind, NetdevConfig, ObjectKind, RngConfig, VfioPciConfig,
    VfioSource, VirtioCommon, VirtioNetConfig,
};
use pci::{Function, PciDevice, ROOT_BUS};
use std::fs::{File, OpenOptions};
use std::sync::Arc;
use vfio::{HostAddress, HostSpec, VfioPci};
use virtio::{
    MacAddr, NetConfig, NetEvent, RngLimit, Unconnected, VirtioBlk, VirtioNet, VirtioPci, VirtioRng,
};

/// What the board keeps of a device beside its place on the bus.
#[derive(Clone)]
pub(crate) enum Body {
    Port,
    Net(Arc<VirtioNet>),
    /// A virtio device of another kind.
    Virtio(Arc<VirtioPci>),
    Vfio(Arc<VfioPci>),
    Serial,
}

impl Body {
    fn workers(&self) -> Option<&Arc<VirtioPci>> {
        match self {
            Self::Net(net) => Some(net.function()),
            Self::Virtio(function) => Some(function),
            Self::Port | Self::Vfio(_) | Self::Serial => None,
        }
    }
}

/// A device of the user's.
#[derive(Clone)]
pub(crate) struct Device {
    /// Unique: the user's id, or the last part of its path in the device tree.
    pub(crate) key: String,
    pub(crate) config: DeviceConfig,
    pub(crate) body: Body,
}

impl Device {
    /// Its path in the device tree.
    pub(crate) fn path(&self) -> String {
        device_path(&self.config, &self.key)
    }
}

/// A device's path in the device tree.
pub(crate) fn device_path(config: &DeviceConfig, key: &str) -> String {
    match &config.id {
        Some(id) => format!("/machine/peripheral/{id}"),
        None => format!("/machine/peripheral-anon/{key}"),
    }
}

/// All devices that are with the guest, or would be but for their slot.
pub struct Devices {
    list: Vec<Device>,
    anonymous: usize,
    paused: bool,
}

impl Devices {
    pub(crate) fn new() -> Self {
        Self {
            list: Vec::new(),
            anonymous: 0,
            paused: true,
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Device> {
        self.list.iter()
    }

    pub(crate) fn get(&self, key: &str) -> Option<&Device> {
        self.list.iter().find(|d| d.key == key)
    }

    pub(crate) fn net(&self, key: &str) -> Option<&Arc<VirtioNet>> {
        match &self.get(key)?.body {
            Body::Net(net) => Some(net),
            _ => None,
        }
    }

    pub(crate) fn add(&mut self, device: Device) {
        if let Some(workers) = device.body.workers() {
            if self.paused {
                workers.pause()
            } else {
                workers.resume()
            }
        }
        self.list.push(device);
    }

    pub(crate) fn remove(&mut self, key: &str) -> Option<Device> {
        let at = self.list.iter().position(|d| d.key == key)?;
        Some(self.list.remove(at))
    }

    fn key_for(&mut self, config: &DeviceConfig) -> String {
        config.id.clone().unwrap_or_else(|| {
            self.anonymous += 1;
            format!("device[{}]", self.anonymous - 1)
        })
    }

    /// Brings all workers to rest; they have when this returns.
    pub(crate) fn pause(&mut self) {
        self.paused = true;
        self.list
            .iter()
            .filter_map(|d| d.body.workers())
            .for_each(|w| w.pause());
    }

    /// Lets the workers of all running devices work.
    pub(crate) fn resume(&mut self) {
        self.paused = false;
        self.list
            .iter()
            .filter_map(|d| d.body.workers())
            .for_each(|w| w.resume());
    }
}

/// A device that is made and not yet in a slot.
pub(crate) struct Made {
    pub(crate) function: Arc<dyn PciDevice>,
    pub(crate) body: Body,
}

/// A place on a bus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) bus: String,
    pub(crate) devfn: u8,
}

fn devfn(addr: SlotAddr) -> u8 {
    addr.slot << 3 | addr.function & 7
}

/// The host function a `vfio-pci` names.
pub(crate) fn host_spec(config: &VfioPciConfig) -> HostSpec {
    match &config.source {
        VfioSource::Host(a) => HostSpec::Address(HostAddress {
            domain: a.domain,
            bus: a.bus,
            device: a.device,
            function: a.function,
        }),
        VfioSource::SysfsDev(path) => HostSpec::Sysfs(path.clone()),
        // Replaced by the function's folder when the descriptor came: see `passthrough`.
        VfioSource::Fd => HostSpec::Sysfs("fd=".into()),
    }
}

fn common_off(common: &VirtioCommon) -> u64 {
    let switches = [
        (common.event_idx, "event_idx"),
        (common.indirect_desc, "indirect_desc"),
    ];
    features_off(&switches)
}

fn features_off(switches: &[(bool, &str)]) -> u64 {
    let bit = |name: &str| {
        virtio::FEATURE_SWITCHES
            .iter()
            .find(|(n, _)| *n == name)
            .map_or(0, |(_, bit)| *bit)
    };
    switches
        .iter()
        .filter(|(on, _)| !on)
        .fold(0, |off, (_, name)| off | bit(name))
}

fn net_features_off(config: &VirtioNetConfig) -> u64 {
    common_off(&config.common)
        | features_off(&[
            (config.csum, "csum"),
            (config.guest_csum, "guest_csum"),
            (config.guest_tso4, "guest_tso4"),
            (config.guest_tso6, "guest_tso6"),
            (config.guest_ecn, "guest_ecn"),
            (config.guest_ufo, "guest_ufo"),
            (config.guest_announce, "guest_announce"),
            (config.host_tso4, "host_tso4"),
            (config.host_tso6, "host_tso6"),
            (config.host_ecn, "host_ecn"),
            (config.host_ufo, "host_ufo"),
            (config.mrg_rxbuf, "mrg_rxbuf"),
            (config.status, "status"),
            (config.ctrl_vq, "ctrl_vq"),
            (config.ctrl_rx, "ctrl_rx"),
            (config.ctrl_vlan, "ctrl_vlan"),
            (config.ctrl_rx_extra, "ctrl_rx_extra"),
            (config.ctrl_mac_addr, "ctrl_mac_addr"),
            (config.ctrl_guest_offloads, "ctrl_guest_offloads"),
        ])
}

impl Board {
    /// Where a device goes: its `bus=` and `addr=`, or the first free place of the root bus.
    pub(crate) fn place_of(&self, config: &DeviceConfig) -> Result<Place, MachineError> {
        let bus = config.bus.clone().unwrap_or_else(|| ROOT_BUS.to_owned());
        let devfn = match config.addr {
            Some(addr) => devfn(addr),
            None => match self
                .root
                .free_devfn(&bus)
                .map_err(|e| MachineError::refused(e.to_string()))?
            {
                Some(free) => free,
                None => {
                    return Err(MachineError::refused(format!(
                        "PCI: no slot/function available for {}, all in use or reserved",
                        config.driver
                    )));
                }
            },
        };
        Ok(Place { bus, devfn })
    }

    fn label(config: &DeviceConfig, key: &str) -> String {
        format!("{} '{key}'", config.driver)
    }

    /// Makes a virtio device; claims its netdev.
    pub(crate) fn make(
        &mut self,
        config: &DeviceConfig,
        key: &str,
        place: &Place,
    ) -> Result<Made, MachineError> {
        let label = Self::label(config, key);
        let on_root_bus = place.bus == ROOT_BUS;
        match &config.kind {
            DeviceKind::VirtioNet(net) => self.make_net(net, key, label, on_root_bus),
            DeviceKind::VirtioRng(rng) => self.make_rng(rng, label, on_root_bus),
            DeviceKind::VirtioBlk(blk) => self.make_blk(blk, label, on_root_bus),
            DeviceKind::RootPort(_) | DeviceKind::VfioPci(_) | DeviceKind::IsaSerial(_) => Err(
                MachineError::refused(format!("{label} is not made this way")),
            ),
        }
    }

    fn make_net(
        &mut self,
        net: &VirtioNetConfig,
        key: &str,
        label: String,
        on_root_bus: bool,
    ) -> Result<Made, MachineError> {
        let mac = net.mac.unwrap_or_else(|| self.next_mac());
        let backend: Arc<dyn virtio::NetBackend> = match &net.netdev {
            Some(netdev) => {
                let watch = net.failover.then_some((mac, &self.control));
                self.netdevs.claim(netdev, "virtio-net-pci", key, watch)?
            }
            None => Arc::new(Unconnected),
        };
        let config = NetConfig {
            label,
            mac: MacAddr(mac),
            failover: net.failover,
            mtu: net.host_mtu,
            queue_pairs: if net.mq {
                backend.queue_pairs().max(1)
            } else {
                1
            },
            rx_queue_size: net.rx_queue_size,
            tx_queue_size: net.tx_queue_size,
            features_off: net_features_off(net),
            vectors: net.common.vectors,
            on_root_bus,
        };
        let (control, id) = (self.control.clone(), key.to_owned());
        let listener = Arc::new(move |event: NetEvent| {
            let id = id.clone();
            control.post(move |board| board.net_event(&id, event));
        });
        let platform = Arc::clone(&self.vm);
        match VirtioNet::new(
            config,
            backend,
            Arc::clone(self.ram.guest()),
            platform,
            listener,
        ) {
            Ok(net) => Ok(Made {
                function: net.function().clone(),
                body: Body::Net(net),
            }),
            Err(error) => {
                self.netdevs.release(key);
                Err(MachineError::refused(error.to_string()))
            }
        }
    }

    /// QEMU's scheme: 52:54:00:12:34:56 and on.
    fn next_mac(&self) -> [u8; 6] {
        let taken: Vec<_> = self
            .devices
            .iter()
            .filter_map(|d| match &d.body {
                Body::Net(net) => Some(net.configured_mac().0),
                _ => None,
            })
            .collect();
        (0x56..=u8::MAX)
            .map(|last| [0x52, 0x54, 0x00, 0x12, 0x34, last])
            .find(|mac| !taken.contains(mac))
            .unwrap_or([0x52, 0x54, 0x00, 0x12, 0x35, 0x00])
    }

    fn make_rng(
        &self,
        rng: &RngConfig,
        label: String,
        on_root_bus: bool,
    ) -> Result<Made, MachineError> {
        let path = match &rng.rng {
            None => None,
            Some(id) => match self
                .config
                .objects
                .iter()
                .find(|o| &o.id == id)
                .map(|o| &o.kind)
            {
                Some(ObjectKind::Rng { path }) => Some(path.clone()),
                _ => {
                    return Err(MachineError::refused(format!(
                        "Property 'virtio-rng-pci.rng' can't find value '{id}'"
                    )));
                }
            },
        };
        let path = path.unwrap_or_else(|| "/dev/urandom".into());
        let source = File::open(&path)
            .map_err(|e| MachineError::refused(format!("{}: {e}", path.display())))?;
        let limit = rng.max_bytes.map(|max_bytes| RngLimit {
            max_bytes,
            period_ms: u64::from(rng.period_ms.max(1)),
        });
        let config = virtio::RngConfig {
            label,
            source,
            limit,
            on_root_bus,
        };
        let rng = VirtioRng::new(config, Arc::clone(self.ram.guest()), self.vm.clone())
            .map_err(|e| MachineError::refused(e.to_string()))?;
        Ok(Made {
            function: rng.function().clone(),
            body: Body::Virtio(rng.function().clone()),
        })
    }

    fn make_blk(
        &self,
        blk: &BlkConfig,
        label: String,
        on_root_bus: bool,
    ) -> Result<Made, MachineError> {
        let drive = self
            .config
            .drives
            .iter()
            .find(|d| d.id == blk.drive)
            .ok_or_else(|| {
                MachineError::refused(format!(
                    "Property 'virtio-blk-pci.drive' can't find value '{}'",
                    blk.drive
                ))
            })?;
        let file = OpenOptions::new()
            .read(true)
            .write(!drive.readonly)
            .open(&drive.path)
            .map_err(|e| {
                MachineError::refused(format!("Could not open '{}': {e}", drive.path.display()))
            })?;
        let config = virtio::BlkConfig {
            label,
            file,
            read_only: drive.readonly,
            discard: false,
            serial: blk.serial.clone().unwrap_or_default(),
            queue_size: blk.queue_size,
            on_root_bus,
        };
        let blk = VirtioBlk::new(config, Arc::clone(self.ram.guest()), self.vm.clone())
            .map_err(|e| MachineError::refused(e.to_string()))?;
        Ok(Made {
            function: blk.function().clone(),
            body: Body::Virtio(blk.function().clone()),
        })
    }

    /// A device of the command line. Root ports are in their places already.
    pub(crate) fn add_at_start(
        &mut self,
        mut config: DeviceConfig,
        fds: &dyn FdSource,
    ) -> Result<(), MachineError> {
        match &config.kind {
            DeviceKind::IsaSerial(_) => {
                let key = self.devices.key_for(&config);
                self.devices.add(Device {
                    key,
                    config,
                    body: Body::Serial,
                });
                return Ok(());
            }
            DeviceKind::RootPort(_) => {
                let key = self.devices.key_for(&config);
                self.devices.add(Device {
                    key,
                    config,
                    body: Body::Port,
                });
                return Ok(());
            }
            _ => {}
        }
        let cdev = self.take_cdev(&mut config, fds)?;
        if config.failover_pair_id.is_some() {
            return self.add_primary(config, cdev, failover::When::AtStart);
        }
        let place = self.place_of(&config)?;
        let key = self.devices.key_for(&config);
        let made = match &config.kind {
            DeviceKind::VfioPci(_) => self.open_now(&config, &key, cdev)?,
            _ => self.make(&config, &key, &place)?,
        };
        let function = function(&config, &key, Arc::clone(&made.function));
        if let Err(error) = self.root.insert(&place.bus, place.devfn, function) {
            self.netdevs.release(&key);
            return Err(MachineError::refused(error.to_string()));
        }
        self.settle(config, key, made.body, &place)
    }

    /// The device is in its slot: the board keeps it, and a standby joins its pair.
    fn settle(
        &mut self,
        config: DeviceConfig,
        key: String,
        body: Body,
        place: &Place,
    ) -> Result<(), MachineError> {
        let standby = match (&config.kind, &body) {
            (DeviceKind::VirtioNet(net), Body::Net(device)) if net.failover => {
                Some(device.configured_mac().0)
            }
            _ => None,
        };
        self.devices.add(Device {
            key: key.clone(),
            config,
            body,
        });
        if let Some(mac) = standby
            && let Err(error) = self.add_standby(&key, mac, place)
        {
            self.drop_device(&key);
            return Err(error);
        }
        Ok(())
    }

    /// Takes a device out without asking anybody.
    fn drop_device(&mut self, key: &str) {
        self.hotplug.remove(key);
        self.devices.remove(key);
        self.netdevs.release(key);
    }

    /// `device_add`. `fds` resolves the descriptors that the client handed over.
    ///
    /// # Errors
    /// As QEMU words them; nothing has changed then.
    pub fn device_add(
        &mut self,
        mut config: DeviceConfig,
        fds: &dyn FdSource,
    ) -> Result<(), MachineError> {
        if self.outgoing.in_progress() {
            return Err(MachineError::refused(
                "device_add not allowed while migrating",
            ));
        }
        if let Some(id) = &config.id
            && (self.devices.get(id).is_some()
                || self.pairs.primary(id).is_some()
                || self.root.function(id).is_some())
        {
            return Err(MachineError::refused(format!("Duplicate device ID '{id}'")));
        }
        let bus = config.bus.as_deref().unwrap_or(ROOT_BUS);
        if matches!(
            config.kind,
            DeviceKind::RootPort(_) | DeviceKind::IsaSerial(_)
        ) || bus == ROOT_BUS
        {
            return Err(MachineError::refused(format!(
                "Bus '{bus}' does not support hotplugging"
            )));
        }
        let port = self
            .root
            .port(bus)
            .ok_or_else(|| MachineError::refused(format!("Bus '{bus}' not found")))?;
        if !port.config().hotplug {
            return Err(MachineError::refused(format!(
                "Bus '{bus}' does not support hotplugging"
            )));
        }
        let cdev = self.take_cdev(&mut config, fds)?;
        if config.failover_pair_id.is_some() {
            return self.add_primary(config, cdev, failover::When::Hotplug);
        }
        let place = self.place_of(&config)?;
        let key = self.devices.key_for(&config);
        let made = match &config.kind {
            DeviceKind::VfioPci(_) => self.open_now(&config, &key, cdev)?,
            _ => self.make(&config, &key, &place)?,
        };
        self.plug(config, key, made, &place)
    }

    /// Hot-plugs a device that is made.
    pub(crate) fn plug(
        &mut self,
        config: DeviceConfig,
        key: String,
        made: Made,
        place: &Place,
    ) -> Result<(), MachineError> {
        let function = function(&config, &key, Arc::clone(&made.function));
        if let Err(error) = self.hotplug.plug(&place.bus, place.devfn, function) {
            self.netdevs.release(&key);
            return Err(MachineError::refused(error.to_string()));
        }
        self.settle(config, key, made.body, place)
    }

    /// `device_del`: asks the guest. DEVICE_DELETED follows when it has let go.
    ///
    /// # Errors
    /// As QEMU words them.
    pub fn device_del(&mut self, id: &str) -> Result<(), MachineError> {
        let not_found = || MachineError::DeviceNotFound(id.to_owned());
        if self.pairs.primary(id).is_some() {
            return self.delete_primary(id);
        }
        let device = self.devices.get(id).ok_or_else(not_found)?;
        if self.outgoing.in_progress() {
            return Err(MachineError::refused(
                "device_del not allowed while migrating",
            ));
        }
        if matches!(device.body, Body::Port | Body::Serial) {
            let bus = device.config.bus.as_deref().unwrap_or(ROOT_BUS);
            return Err(MachineError::refused(format!(
                "Bus '{bus}' does not support hotplugging"
            )));
        }
        self.hotplug.request_unplug(id).map_err(|e| match e {
            pci::SlotError::DeviceNotFound(_) => not_found(),
            error => MachineError::refused(error.to_string()),
        })
    }

    /// The guest has let go of a device that is no primary.
    pub(crate) fn device_let_go(&mut self, key: &str) {
        let Some(device) = self.devices.remove(key) else {
            return;
        };
        self.netdevs.release(key);
        if self.pairs.forget_standby(key) {
            tracing::info!(standby = key, "the standby of a pair is gone");
        }
        match &device.body {
            Body::Vfio(vfio) => self.tell_deleted_once_closed(vfio, &device.config, device.path()),
            _ => self.tell_deleted(&device.config, device.path()),
        }
    }

    /// Whoever hears of it may give the function to another at once: only when the kernel is done with it.
    pub(crate) fn tell_deleted_once_closed(
        &self,
        vfio: &VfioPci,
        config: &DeviceConfig,
        path: String,
    ) {
        let (control, config) = (self.control.clone(), config.clone());
        vfio.when_closed(move || control.post(move |board| board.tell_deleted(&config, path)));
    }

    /// A virtio device is two for a client: the one on PCI, and the one behind it, which goes first.
    pub(crate) fn tell_deleted(&self, config: &DeviceConfig, path: String) {
        let is_virtio = matches!(
            config.kind,
            DeviceKind::VirtioNet(_) | DeviceKind::VirtioBlk(_) | DeviceKind::VirtioRng(_)
        );
        if is_virtio {
            self.emit(MachineEvent::DeviceDeleted {
                id: None,
                path: format!("{path}/virtio-backend"),
            });
        }
        self.emit(MachineEvent::DeviceDeleted {
            id: config.id.clone(),
            path,
        });
    }

    /// `netdev_add`. `fds` resolves the descriptors that the client handed over.
    ///
    /// # Errors
    /// The id is taken, or the netdev cannot be had.
    pub fn netdev_add(
        &mut self,
        config: &NetdevConfig,
        fds: &dyn FdSource,
    ) -> Result<(), MachineError> {
        self.netdevs.open(config, fds, &self.ram)
    }

    /// `netdev_del`.
    ///
    /// # Errors
    /// There is none, or a device uses it.
    pub fn netdev_del(&mut self, id: &str) -> Result<(), MachineError> {
        self.netdevs.close(id)
    }

    /// `set_link`: plugs a NIC's cable in or out. `name` is a device's id or that of its netdev.
    ///
    /// # Errors
    /// There is no such NIC.
    pub fn set_link(&mut self, name: &str, up: bool) -> Result<(), MachineError> {
        let by_netdev = |d: &&Device| matches!(&d.config.kind, DeviceKind::VirtioNet(n) if n.netdev.as_deref() == Some(name));
        let device = self
            .devices
            .iter()
            .find(|d| d.key == name)
            .or_else(|| self.devices.iter().find(by_netdev));
        let found = match device {
            Some(device) => Some((device.key.clone(), device.body.clone())),
            None => self.pairs.beside_its_slot(name),
        };
        match found {
            Some((key, Body::Net(net))) => {
                net.set_link(up);
                self.primary_link(&key, up);
                Ok(())
            }
            _ => Err(MachineError::DeviceNotFound(name.to_owned())),
        }
    }
}

/// How the root complex knows a device.
pub(crate) fn function(config: &DeviceConfig, key: &str, device: Arc<dyn PciDevice>) -> Function {
    Function {
        id: key.to_owned(),
        model: config.driver.to_owned(),
        acpi_index: config.acpi_index,
        device,
    }
}
