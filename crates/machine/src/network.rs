//! The host's side of the machine's NICs: netdevs.

mod sockets;

use crate::MachineError;
use crate::control::Control;
use crate::inspect::NetdevView;
use config::vm::{FdRef, NetdevBackend, NetdevConfig, TapConfig, TapScript, TapSource, UserConfig};
use memory::Ram;
use net::Watched;
use net::addresses::Addresses;
use net::hub::Hub;
use net::tap::{Script, Tap};
use net::user::{LeaseNames, Plan, Subnet, UserNet};
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};
use virtio::NetBackend;

/// Resolves the descriptors that a user names: `getfd`'s names, or inherited numbers.
pub trait FdSource {
    /// Takes the descriptor of that name.
    ///
    /// # Errors
    /// There is none.
    fn take(&self, name: &str) -> Result<OwnedFd, String>;

    /// Another descriptor for one of the set `/dev/fdset/SET`, open for reading or for writing.
    ///
    /// # Errors
    /// There is no such set, or it has none that is open so.
    fn open_set(&self, set: i64, _write: bool) -> Result<OwnedFd, String> {
        Err(format!("File descriptor set {set} not found"))
    }
}

/// An open netdev.
struct Netdev {
    id: String,
    backend: Arc<dyn net::Netdev>,
    /// The device that uses it.
    user: Option<String>,
    /// What was learned of that device's guest, if it is watched.
    addresses: Option<Arc<Addresses>>,
}

/// All netdevs.
pub struct Netdevs {
    list: Vec<Netdev>,
    /// Those there are, by number; their ports keep them.
    hubs: HashMap<i32, Weak<Hub>>,
}

/// The descriptor that a user names.
pub(crate) fn resolve(fd: &FdRef, fds: &dyn FdSource) -> Result<OwnedFd, String> {
    match fd {
        FdRef::Number(number) => crate::passed::take(*number).map_err(|e| e.to_string()),
        FdRef::Name(name) => fds.take(name),
    }
}

fn script(script: &TapScript) -> Script {
    match script {
        TapScript::No => Script::from_option("no"),
        TapScript::Default => Script::default(),
        TapScript::Path(path) => Script::from_option(&path.to_string_lossy()),
    }
}

fn open_tap(config: &TapConfig, fds: &dyn FdSource, ram: &Ram) -> Result<Tap, String> {
    let resolve = |fd: &FdRef| resolve(fd, fds);
    let tap = match &config.source {
        TapSource::Fds(names) => {
            let open = names.iter().map(resolve).collect::<Result<Vec<_>, _>>()?;
            let config = net::tap::TapConfig {
                source: net::tap::TapSource::Fds(open),
                queues: config.queues,
                vnet_header: config.vnet_hdr,
                script: Script::from_option("no"),
                downscript: Script::from_option("no"),
            };
            Tap::open(config)
        }
        TapSource::Open {
            ifname,
            script: up,
            downscript,
        } => {
            let source = match ifname {
                Some(name) => net::tap::TapSource::Name(name.clone()),
                None => net::tap::TapSource::New,
            };
            let config = net::tap::TapConfig {
                source,
                queues: config.queues,
                vnet_header: config.vnet_hdr,
                script: script(up),
                downscript: script(downscript),
            };
            Tap::open(config)
        }
    };
    let mut tap = tap.map_err(|e| e.to_string())?;
    if config.vhost {
        let passed = config.vhost_fds.iter().map(resolve);
        let passed = passed.collect::<Result<Vec<_>, _>>()?;
        tap.set_vhost(passed, ram).map_err(|e| e.to_string())?;
    }
    Ok(tap)
}

fn plan_of(user: &UserConfig) -> Plan {
    Plan {
        subnet: Subnet {
            address: user.network,
            mask: user.mask,
        },
        gateway: user.host,
        name_server: user.dns,
        first_lease: user.dhcp_start,
        names: LeaseNames {
            host: user.hostname.clone(),
            domain: user.domain_name.clone(),
        },
        routed: !user.restrict,
    }
}

impl Netdev {
    fn view(&self) -> NetdevView {
        NetdevView {
            id: self.id.clone(),
            kind: self.backend.kind(),
            description: self.backend.describe(),
        }
    }
}

impl Netdevs {
    pub(crate) fn new() -> Self {
        Self {
            list: Vec::new(),
            hubs: HashMap::new(),
        }
    }

    /// Opens a netdev.
    pub(crate) fn open(
        &mut self,
        config: &NetdevConfig,
        fds: &dyn FdSource,
        ram: &Ram,
    ) -> Result<(), MachineError> {
        if self.list.iter().any(|n| n.id == config.id) {
            return Err(MachineError::refused(format!(
                "Duplicate ID '{}'",
                config.id
            )));
        }
        let backend = self
            .open_backend(&config.id, &config.backend, fds, ram)
            .map_err(MachineError::refused)?;
        self.list.push(Netdev {
            id: config.id.clone(),
            backend,
            user: None,
            addresses: None,
        });
        Ok(())
    }

    fn open_backend(
        &mut self,
        id: &str,
        backend: &NetdevBackend,
        fds: &dyn FdSource,
        ram: &Ram,
    ) -> Result<Arc<dyn net::Netdev>, String> {
        match backend {
            NetdevBackend::Tap(tap) => Ok(Arc::new(open_tap(tap, fds, ram)?)),
            NetdevBackend::HubPort(port) => {
                let hub = self.hub(port.hub_id);
                let port = hub.add_port(port.hub_id).map_err(|e| e.to_string())?;
                Ok(Arc::new(port))
            }
            NetdevBackend::Datagram(datagrams) => {
                sockets::datagrams(datagrams, "dgram", fds).map(|d| Arc::new(d) as _)
            }
            NetdevBackend::Stream(stream) => {
                sockets::stream(id, stream, "stream", fds).map(|s| Arc::new(s) as _)
            }
            NetdevBackend::Socket(socket) => sockets::socket(id, socket, fds),
            NetdevBackend::User(user) => {
                // Not what the same words give with QEMU.
                tracing::warn!(
                    "a user network ends in this process: it has a gateway and DHCP, and no way outside"
                );
                let user = UserNet::new(plan_of(user)).map_err(|e| e.to_string())?;
                Ok(Arc::new(user))
            }
        }
    }

    /// The hub of that number; a new one if it has no ports yet.
    fn hub(&mut self, id: i32) -> Arc<Hub> {
        self.hubs.retain(|_, hub| hub.strong_count() > 0);
        if let Some(hub) = self.hubs.get(&id).and_then(Weak::upgrade) {
            return hub;
        }
        let hub = Arc::new(Hub::default());
        self.hubs.insert(id, Arc::downgrade(&hub));
        hub
    }

    /// Closes a netdev that no device uses.
    pub(crate) fn close(&mut self, id: &str) -> Result<(), MachineError> {
        let at = self
            .list
            .iter()
            .position(|n| n.id == id)
            .ok_or_else(|| MachineError::DeviceNotFound(id.to_owned()))?;
        if let Some(user) = self.list.get(at).and_then(|n| n.user.as_deref()) {
            return Err(MachineError::refused(format!(
                "netdev '{id}' is in use by device '{user}': delete that first"
            )));
        }
        self.list.remove(at);
        Ok(())
    }

    /// The backend behind a netdev, for the device `user`; its guest's addresses are learned if `watch` says what its MAC
    /// address is.
    pub(crate) fn claim(
        &mut self,
        id: &str,
        driver: &str,
        user: &str,
        watch: Option<([u8; 6], &Control)>,
    ) -> Result<Arc<dyn NetBackend>, MachineError> {
        let owner = config::device_types::find(driver)
            .map_or_else(|| driver.to_owned(), |device| device.owner("netdev"));
        let netdev = self.list.iter_mut().find(|n| n.id == id);
        let netdev = netdev.ok_or_else(|| {
            MachineError::refused(format!("Property '{owner}.netdev' can't find value '{id}'"))
        })?;
        if netdev.user.is_some() {
            return Err(MachineError::refused(format!(
                "Property '{owner}.netdev' can't take value '{id}', it's in use"
            )));
        }
        netdev.user = Some(user.to_owned());
        let Some((mac, control)) = watch else {
            return Ok(netdev.backend.clone());
        };
        let addresses = Arc::new(Addresses::new(mac));
        netdev.addresses = Some(Arc::clone(&addresses));
        let clock = Arc::clone(control.host_clock());
        let watched = Watched::new(netdev.backend.clone(), addresses, move || clock.now());
        Ok(Arc::new(watched))
    }

    /// The device is gone: its netdev can be used by another.
    pub(crate) fn release(&mut self, user: &str) {
        for netdev in self
            .list
            .iter_mut()
            .filter(|n| n.user.as_deref() == Some(user))
        {
            netdev.user = None;
            netdev.addresses = None;
        }
    }

    /// What a device is on.
    pub(crate) fn backend_of(&self, user: &str) -> Option<&Arc<dyn net::Netdev>> {
        self.list
            .iter()
            .find(|n| n.user.as_deref() == Some(user))
            .map(|n| &n.backend)
    }

    /// What was learned of a device's guest, if it is watched.
    pub(crate) fn addresses_of(&self, user: &str) -> Option<&Addresses> {
        let netdev = self.list.iter().find(|n| n.user.as_deref() == Some(user))?;
        netdev.addresses.as_deref()
    }

    /// The interface of the host that a device is on, if it is on one.
    pub(crate) fn interface_of(&self, user: &str) -> Option<&str> {
        self.backend_of(user)?.interface()
    }

    /// The netdev that a device uses.
    pub(crate) fn describe_of(&self, user: &str) -> Option<NetdevView> {
        let netdev = self.list.iter().find(|n| n.user.as_deref() == Some(user))?;
        Some(netdev.view())
    }

    /// Netdevs without a device.
    pub(crate) fn unused(&self) -> Vec<NetdevView> {
        let unused = self.list.iter().filter(|n| n.user.is_none());
        unused.map(Netdev::view).collect()
    }
}
