//! The host's side of the machine's NICs: netdevs, and announcing through them.

use crate::MachineError;
use config::vm::{FdRef, NetdevBackend, NetdevConfig, TapConfig, TapScript, TapSource};
use failover::Moment;
use net::announce::{AnnounceParameters, AnnounceSchedule, rarp};
use net::tap::{Script, Tap};
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;
use virtio::{MacAddr, NetBackend};

/// Resolves the descriptors that a user names: `getfd`'s names, or inherited numbers.
pub trait FdSource {
    /// Takes the descriptor of that name.
    ///
    /// # Errors
    /// There is none.
    fn take(&self, name: &str) -> Result<OwnedFd, String>;
}

/// An open netdev.
pub(crate) struct Netdev {
    pub(crate) id: String,
    pub(crate) tap: Arc<Tap>,
    /// The device that uses it.
    user: Option<String>,
}

struct Announcing {
    tap: Arc<Tap>,
    mac: MacAddr,
    schedule: AnnounceSchedule,
}

/// All netdevs.
pub struct Netdevs {
    list: Vec<Netdev>,
    announcing: Vec<Announcing>,
}

/// Takes over a descriptor that was passed to this process.
#[allow(unsafe_code)]
pub(crate) fn inherited(number: i32) -> Result<OwnedFd, String> {
    // SAFETY: only asks for the descriptor's flags.
    let open = unsafe { BorrowedFd::borrow_raw(number.max(0)) };
    if number < 0 || rustix::io::fcntl_getfd(open).is_err() {
        return Err(format!(
            "fd={number}: that descriptor is not open; pass it to this process"
        ));
    }
    // SAFETY: it is open, and the user gave it to this netdev, which owns it from now on.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

fn script(script: &TapScript) -> Script {
    match script {
        TapScript::No => Script::from_option("no"),
        TapScript::Default => Script::default(),
        TapScript::Path(path) => Script::from_option(&path.to_string_lossy()),
    }
}

fn open_tap(config: &TapConfig, fds: &dyn FdSource) -> Result<Tap, String> {
    if config.vhost {
        if config.vhost_force || !config.vhost_fds.is_empty() {
            return Err(
                "vhost=on: the in-kernel data path is not supported yet; leave it out".into(),
            );
        }
        tracing::warn!("vhost=on is not supported yet: the data path stays in user space");
    }
    let resolve = |fd: &FdRef| match fd {
        FdRef::Number(number) => inherited(*number),
        FdRef::Name(name) => fds.take(name),
    };
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
    tap.map_err(|e| e.to_string())
}

impl Netdevs {
    pub(crate) fn new() -> Self {
        Self {
            list: Vec::new(),
            announcing: Vec::new(),
        }
    }

    /// Opens a netdev.
    pub(crate) fn open(
        &mut self,
        config: &NetdevConfig,
        fds: &dyn FdSource,
    ) -> Result<(), MachineError> {
        if self.list.iter().any(|n| n.id == config.id) {
            return Err(MachineError::refused(format!(
                "Duplicate ID '{}' for netdev",
                config.id
            )));
        }
        let NetdevBackend::Tap(tap) = &config.backend;
        let tap = open_tap(tap, fds).map_err(MachineError::refused)?;
        self.list.push(Netdev {
            id: config.id.clone(),
            tap: Arc::new(tap),
            user: None,
        });
        Ok(())
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

    /// The backend behind a netdev, for the device `user`.
    pub(crate) fn claim(
        &mut self,
        id: &str,
        driver: &str,
        user: &str,
    ) -> Result<Arc<dyn NetBackend>, MachineError> {
        let netdev = self.list.iter_mut().find(|n| n.id == id);
        let netdev = netdev.ok_or_else(|| {
            MachineError::refused(format!(
                "Property '{driver}.netdev' can't find value '{id}'"
            ))
        })?;
        if netdev.user.is_some() {
            return Err(MachineError::refused(format!(
                "Property '{driver}.netdev' can't take value '{id}', it's in use"
            )));
        }
        netdev.user = Some(user.to_owned());
        Ok(netdev.tap.clone())
    }

    /// The device is gone: its netdev can be used by another.
    pub(crate) fn release(&mut self, user: &str) {
        for netdev in self
            .list
            .iter_mut()
            .filter(|n| n.user.as_deref() == Some(user))
        {
            netdev.user = None;
        }
    }

    /// The tap that a device uses.
    pub(crate) fn tap_of(&self, user: &str) -> Option<&Arc<Tap>> {
        self.list
            .iter()
            .find(|n| n.user.as_deref() == Some(user))
            .map(|n| &n.tap)
    }

    /// The netdev that a device uses: its id and its description.
    pub(crate) fn describe_of(&self, user: &str) -> Option<(String, String)> {
        let netdev = self.list.iter().find(|n| n.user.as_deref() == Some(user))?;
        Some((netdev.id.clone(), netdev.tap.describe()))
    }

    /// Netdevs without a device: id and description.
    pub(crate) fn unused(&self) -> Vec<(String, String)> {
        let unused = self.list.iter().filter(|n| n.user.is_none());
        unused.map(|n| (n.id.clone(), n.tap.describe())).collect()
    }

    /// Announces an address through the netdev of `user`, from now on by the schedule.
    pub(crate) fn announce(
        &mut self,
        user: &str,
        mac: MacAddr,
        now: Moment,
        parameters: AnnounceParameters,
    ) {
        let Some(tap) = self.tap_of(user).cloned() else {
            return;
        };
        self.announcing.retain(|a| !Arc::ptr_eq(&a.tap, &tap));
        let schedule = AnnounceSchedule::starting(Duration::from_millis(now.as_ms()), parameters);
        self.announcing.push(Announcing { tap, mac, schedule });
        self.tick(now);
    }

    pub(crate) fn next_deadline(&self) -> Option<Moment> {
        let due = self
            .announcing
            .iter()
            .filter_map(|a| a.schedule.next_at())
            .min()?;
        Some(Moment::from_ms(
            u64::try_from(due.as_millis()).unwrap_or(u64::MAX),
        ))
    }

    /// Sends what is due.
    pub(crate) fn tick(&mut self, now: Moment) {
        for announcing in &mut self.announcing {
            if announcing.schedule.due(Duration::from_millis(now.as_ms()))
                && let Err(error) = announcing.tap.send_frame(&rarp(announcing.mac.0, None))
            {
                tracing::warn!(tap = announcing.tap.name(), %error, "the guest could not be announced");
            }
        }
        self.announcing.retain(|a| a.schedule.next_at().is_some());
    }
}
