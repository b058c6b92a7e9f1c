//! The host's switch follows the pair: what the state machine wants steered, handed to crate `net`; and what does not work
//! there, told.

use super::PairKeeper;
use crate::board::Board;
use crate::devices::host_spec;
use crate::event::MachineEvent;
use crate::primary_watch::SharedSteering;
use config::vm::{DeviceKind, SteeredInterface, SteeringConfig};
use failover::Event;
use net::steer::{Choice, HookConfig, Order, SteeringThread, Trouble, Wanted};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use vfio::HostDevice;
use virtio::RxFilter;

/// How long whoever has the switch steered waits for the host's kernel, which as a rule is done within a millisecond.
const PATIENCE: Duration = Duration::from_millis(500);

/// Why the host's network is steered after this event.
pub(super) fn because(event: &Event) -> &'static str {
    match event {
        Event::StandbyNegotiated => "the guest has accepted STANDBY",
        Event::StandbyRefused => "the guest does not accept STANDBY",
        Event::StandbyReset => "the guest's driver has reset the standby",
        Event::MachineReset => "the machine was reset",
        Event::PlugSucceeded => "the primary is plugged",
        Event::PlugFailed(_) => "the primary could not be plugged",
        Event::PlugBrokenOff => "the plug was broken off",
        Event::DriverIn => "the guest's driver has opened the primary",
        Event::DriverOut => "the guest's driver has closed the primary",
        Event::GuestLetGo => "the guest has let go of the primary",
        Event::UnplugRefused(_) => "the guest refuses to let go of the primary",
        Event::UnplugNotAsked(_) => "the guest could not be asked to let go of the primary",
        Event::DeviceFailed(_) => "the primary has failed",
        Event::LinkDown => "the primary's link is down",
        Event::LinkUp => "the primary's link is up",
        Event::OperatorSwitch(_) => "an operator's order",
        Event::DeletionAsked => "the primary is to be deleted",
        Event::PrimaryGone => "the primary is gone",
    }
}

/// The VLANs that a driver asked for; none if it takes all, which says nothing.
pub(crate) fn vlans_of(filter: &RxFilter) -> Vec<u16> {
    const EVERY_VLAN: usize = 4096;
    let vlans: Vec<u16> = filter.vlans().collect();
    if vlans.len() == EVERY_VLAN {
        return Vec::new();
    }
    // Id 0 is a priority, and the last one is reserved (IEEE 802.1Q, table 9-2).
    let real = |id: &u16| (1..=4094).contains(id);
    vlans.into_iter().filter(real).collect()
}

fn choice(interface: &SteeredInterface, steer: bool) -> Choice {
    match interface {
        _ if !steer => Choice::Off,
        SteeredInterface::Auto => Choice::Auto,
        SteeredInterface::Off => Choice::Off,
        SteeredInterface::Named(name) => Choice::Named(name.clone()),
    }
}

impl PairKeeper {
    /// The machine ends: the host's switch gets back what it had, and hooks are waited for.
    pub(super) fn restore_steering(&self) {
        for steering in self.steering.values() {
            steering.order(Order::Restore("the machine ends"));
        }
        for steering in self.steering.values() {
            steering.finish();
        }
    }

    /// The standby is deleted. Its hook is told by itself.
    pub(super) fn end_steering(&mut self, standby: &str) {
        if let Some(steering) = self.steering.remove(standby) {
            steering.order(Order::Restore("the standby was deleted"));
        }
    }

    /// The primary is deleted: the next one is looked up afresh.
    pub(super) fn forget_steered_primary(&self, standby: &str) {
        if let Some(steering) = self.steering.get(standby) {
            steering.order(Order::PrimaryDeleted);
        }
    }

    /// The interface of the physical function that the primary of this standby belongs to, as far as it was found.
    pub(crate) fn pf_of(&self, standby: &str) -> Option<String> {
        let vf = self.steering.get(standby)?.view().vf?;
        Some(vf.pf.name)
    }

    /// How the host's switch is steered for a standby, for `info network`.
    pub fn steering_of(&self, standby: &str) -> Option<String> {
        self.steering.get(standby).map(|s| s.view().description)
    }
}

impl Board {
    /// The address of a primary on the host, if it is a function of the host.
    pub(super) fn address_of_primary(&self, primary: &str) -> Option<String> {
        match &self.pairs.primary(primary)?.config.kind {
            DeviceKind::VfioPci(vfio) => HostDevice::find(&host_spec(vfio), Path::new("/sys"))
                .ok()
                .map(|host| host.name),
            _ => None,
        }
    }

    /// What there is to steer for a standby; nothing for one that is on no interface of the host and has no hook.
    fn steering_wanted(&self, standby: &str, primary: Option<String>) -> Option<Wanted> {
        let device = self.devices.get(standby)?;
        let DeviceKind::VirtioNet(nic) = &device.config.kind else {
            return None;
        };
        let SteeringConfig {
            steer,
            pf,
            vf,
            vf_vlan,
            standby_port,
            primary_port,
            hook,
            hook_timeout_ms,
        } = &nic.steering;
        let interface = self.netdevs.interface_of(standby).map(str::to_owned);
        let named = matches!(standby_port, SteeredInterface::Named(_));
        if interface.is_none() && !named && hook.is_none() {
            return None;
        }
        // Its directory is another one.
        let absolute = |path: &std::path::PathBuf| {
            std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
        };
        Some(Wanted {
            standby: standby.to_owned(),
            mac: self.devices.net(standby)?.configured_mac().0,
            interface,
            vf_address: primary
                .as_deref()
                .and_then(|id| self.address_of_primary(id)),
            primary,
            pf: choice(pf, *steer),
            vf: vf.map(u32::from),
            vf_vlan: *vf_vlan,
            standby_port: choice(standby_port, *steer),
            primary_port: choice(primary_port, *steer),
            hook: hook.as_ref().map(|program| HookConfig {
                program: absolute(program),
                timeout: Duration::from_millis((*hook_timeout_ms).into()),
            }),
        })
    }

    pub(super) fn steering(&mut self, standby: &str) -> Option<SharedSteering> {
        let pair = self.pairs.pairs.by_standby(standby);
        let primary = pair.and_then(|p| p.primary().map(str::to_owned));
        if let Some(steering) = self.pairs.steering.get(standby) {
            let steering = Arc::clone(steering);
            if steering.view().primary != primary {
                let vf_address = primary
                    .as_deref()
                    .and_then(|id| self.address_of_primary(id));
                steering.order(Order::LookFor {
                    primary,
                    vf_address,
                });
            }
            return Some(steering);
        }
        let wanted = self.steering_wanted(standby, primary)?;
        let control = self.control.clone();
        let tell = move |trouble| {
            control.post(move |board| board.steering_failed(trouble));
        };
        // By a clock that a test moves nobody loses it: what the host's kernel takes is none of that clock's time.
        let clock = self.control.host_clock();
        let patience = clock.host_wait(PATIENCE).unwrap_or(Duration::MAX);
        let steering = match SteeringThread::start(wanted, patience, tell) {
            Ok(steering) => Arc::new(steering),
            Err(error) => {
                tracing::warn!(standby, %error, "the host's switch cannot be steered");
                return None;
            }
        };
        let known = Arc::clone(&steering);
        self.pairs.steering.insert(standby.to_owned(), known);
        self.note_vlans(standby);
        Some(steering)
    }

    /// The guest's VLANs are told with each step.
    pub(super) fn note_vlans(&self, standby: &str) {
        let nic = self.devices.net(standby);
        if let (Some(nic), Some(steering)) = (nic, self.pairs.steering.get(standby)) {
            let vlans = vlans_of(&nic.rx_filter());
            steering.set_vlans(vlans);
        }
    }

    /// A step, or the hook, failed: told, and nothing else.
    fn steering_failed(&mut self, trouble: Trouble) {
        self.emit(MachineEvent::FailoverSteeringFailed {
            id: trouble.standby,
            moment: trouble.moment.name(),
            step: trouble.step,
            reason: trouble.error,
        });
    }

    /// Makes the host's switch send to the standby.
    pub(crate) fn steer_to_standby(&mut self, standby: &str) {
        if let Some(steering) = self.steering(standby) {
            let order = Order::ToStandby(self.pairs.because);
            // The eject comes just after the driver is out, and a migration waits for what is done at it: that all is still
            // as it was left is looked at beside it.
            if steering.view().at_standby {
                steering.post(order);
            } else {
                steering.order(order);
            }
        }
    }

    pub(super) fn steer_to_both(&mut self, standby: &str) {
        if let Some(steering) = self.steering(standby) {
            steering.order(Order::ToBoth(self.pairs.because));
        }
    }

    pub(super) fn steer_to_primary(&mut self, standby: &str) {
        if let Some(steering) = self.steering(standby) {
            steering.order(Order::ToPrimary(self.pairs.because));
        }
    }

    pub(super) fn steer_away(&mut self, standby: &str) {
        if let Some(steering) = self.steering(standby) {
            steering.order(Order::GuestLeft(self.pairs.because));
        }
    }
}
