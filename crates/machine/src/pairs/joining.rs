//! Devices of pairs come: by the command line, which is read to its end before anything is said of what is missing, or by
//! the monitor.

use super::{Primary, migrates};
use crate::MachineError;
use crate::board::Board;
use crate::devices::{Place, host_spec};
use config::vm::{DeviceConfig, DeviceKind};
use failover::{Placing, PrimarySpec, Slot, StandbySpec, When};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use vfio::{GivenCdev, HostDevice, VfioPci};

/// Base class and subclass.
fn base_and_subclass(class: u32) -> u16 {
    u16::try_from(class >> 8 & 0xffff).unwrap_or(0)
}

impl Board {
    /// What is known of a primary before it is opened; refused here if it cannot be had.
    fn primary_spec(
        &mut self,
        config: &DeviceConfig,
        cdev: Option<&GivenCdev>,
        place: &Place,
    ) -> Result<PrimarySpec, MachineError> {
        let class = match &config.kind {
            DeviceKind::VfioPci(vfio) => {
                let access = self.access_to(vfio)?;
                let found = HostDevice::find(&host_spec(vfio), Path::new("/sys"))
                    .and_then(|host| access.check_usable(&host, cdev).map(|()| host));
                match (found, self.config.incoming.is_some()) {
                    // A target opens it once its guest has come; until then another may use it, and it may not even exist.
                    (Ok(host), true) => base_and_subclass(host.class),
                    (Err(error), true) => {
                        tracing::warn!(
                            primary = config.id,
                            "the guest will have to wait for it: {error}"
                        );
                        failover::CLASS_ETHERNET
                    }
                    (Ok(host), false) => {
                        self.container()
                            .check_free(&host, &access)
                            .map_err(|e| MachineError::refused(e.to_string()))?;
                        base_and_subclass(host.class)
                    }
                    (Err(error), false) => return Err(MachineError::refused(error.to_string())),
                }
            }
            DeviceKind::VirtioNet(_) => failover::CLASS_ETHERNET,
            _ => 0,
        };
        let mac = match &config.kind {
            DeviceKind::VirtioNet(net) => net.mac,
            _ => None,
        };
        Ok(PrimarySpec {
            id: config.id.clone(),
            standby: config.failover_pair_id.clone().unwrap_or_default(),
            slot: Some(Slot {
                bus: place.bus.clone(),
                device: place.devfn >> 3,
            }),
            mac,
            on_pcie: true,
            class,
            multifunction: config.multifunction,
            function: place.devfn & 7,
            migratable: migrates(config),
        })
    }

    /// A device with `failover_pair_id` was given.
    pub(crate) fn add_primary(
        &mut self,
        config: DeviceConfig,
        cdev: Option<Arc<GivenCdev>>,
        when: When,
    ) -> Result<(), MachineError> {
        let id = config.id.clone().ok_or_else(|| {
            MachineError::refused("Device with failover_pair_id needs to have id")
        })?;
        let place = self.place_of(&config)?;
        let hotplug = self
            .root
            .port(&place.bus)
            .is_some_and(|port| port.config().hotplug);
        if !hotplug {
            return Err(MachineError::refused(format!(
                "Bus '{}' does not support hotplugging",
                place.bus
            )));
        }
        let spec = self.primary_spec(&config, cdev.as_deref(), &place)?;
        let other = match &config.kind {
            DeviceKind::VfioPci(_) => None,
            _ => Some(self.make(&config, &id, &place)?),
        };
        let now = self.now();
        let added = match self.pairs.pairs.add_primary(now, spec, when) {
            Ok(added) => added,
            Err(error) => {
                self.netdevs.release(&id);
                return Err(MachineError::refused(error.to_string()));
            }
        };
        for warning in &added.warnings {
            tracing::warn!("{warning}");
        }
        let primary = Primary {
            config,
            place,
            cdev,
            vfio: None,
            other,
            in_slot: false,
            opening: None,
            link: None,
        };
        self.pairs.primaries.insert(id.clone(), primary);
        if added.placing == Placing::PlugNow
            && let Err(error) = self.plug_visible(&id, When::Hotplug)
        {
            self.pairs.pairs.remove_unpaired(&id);
            self.pairs.primaries.remove(&id);
            self.netdevs.release(&id);
            return Err(error);
        }
        self.perform(added.actions);
        Ok(())
    }

    /// A primary that came before its standby is an ordinary device to the guest.
    pub(super) fn plug_visible(&mut self, id: &str, when: When) -> Result<(), MachineError> {
        let primary = self.pairs.primary(id);
        let given = primary.map(|p| (p.config.clone(), p.cdev.clone()));
        if let Some((config, cdev)) =
            given.filter(|(c, _)| matches!(c.kind, DeviceKind::VfioPci(_)))
        {
            let wanted = self.vfio_config(&config, id, cdev)?;
            let container = self.container();
            let device = VfioPci::open(wanted, &container, &mut |_| ControlFlow::Continue(()))
                .map_err(|e| MachineError::refused(e.to_string()))?;
            if let Some(primary) = self.pairs.primaries.get_mut(id) {
                primary.vfio = Some(device);
            }
        }
        self.insert_primary(id, when).map_err(MachineError::refused)
    }

    /// A standby is in its slot: it joins its pair.
    pub(crate) fn add_standby(
        &mut self,
        id: &str,
        mac: [u8; 6],
        place: &Place,
    ) -> Result<(), MachineError> {
        let slot = Some(Slot {
            bus: place.bus.clone(),
            device: place.devfn >> 3,
        });
        let link_timeout_ms = match self.devices.get(id).map(|device| &device.config.kind) {
            Some(DeviceKind::VirtioNet(net)) => net.failover_link_timeout_ms.into(),
            _ => 0,
        };
        let spec = StandbySpec {
            id: id.to_owned(),
            slot,
            mac: Some(mac),
            link_timeout_ms,
        };
        let added = self
            .pairs
            .pairs
            .add_standby(self.now(), spec)
            .map_err(|e| MachineError::refused(e.to_string()))?;
        for warning in &added.warnings {
            tracing::warn!("{warning}");
        }
        self.perform(added.actions);
        Ok(())
    }

    /// The command line is read: what is left to say and to do.
    ///
    /// # Errors
    /// A primary without a standby cannot be had.
    pub(crate) fn finish_pairs(&mut self) -> Result<(), MachineError> {
        for warning in self.pairs.pairs.unpaired() {
            tracing::warn!("{warning}");
        }
        for id in self.pairs.pairs.show_unpaired() {
            let text = self.pairs.primary(&id).map(|p| p.config.text.clone());
            self.plug_visible(&id, When::AtStart)
                .map_err(|e| MachineError::Device(text.unwrap_or_default(), e.to_string()))?;
        }
        // Announcing and steering wait until the guest runs; what they steer is looked up here, where a user still reads.
        let standbys: Vec<String> = self
            .pairs
            .pairs
            .iter()
            .map(|p| p.standby().to_owned())
            .collect();
        for standby in standbys {
            if let Some(steering) = self.steering(&standby) {
                tracing::info!(
                    standby,
                    network = steering.view().description,
                    "failover pair"
                );
            }
        }
        let primaries: Vec<String> = self.pairs.primaries.keys().cloned().collect();
        for primary in primaries {
            self.look_at_nic(&primary);
        }
        Ok(())
    }
}
