//! The rules of who may be paired with whom, checked when a device is given, before anything of it
//! exists. SPEC: "Exact messages", and points 4, 5 and 9 of what QEMU checks too late or never.

use thiserror::Error;

/// A device's place: its bus's id and its device number there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// Id of the bus, for example `root0`.
    pub bus: String,
    /// Device number on that bus, 0–31.
    pub device: u8,
}

/// A standby as given: a virtio-net device with `failover=on`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StandbySpec {
    /// Its id.
    pub id: String,
    /// Its place, where known.
    pub slot: Option<Slot>,
    /// Its MAC address.
    pub mac: Option<[u8; 6]>,
    /// For how long the primary's link may be down, in ms, before the guest is moved to this standby; 0 for ever.
    pub link_timeout_ms: u64,
}

/// A primary as given: a PCI device with `failover_pair_id`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrimarySpec {
    /// Its id; a primary without one is refused.
    pub id: Option<String>,
    /// The id in its `failover_pair_id`.
    pub standby: String,
    /// Its place, where known.
    pub slot: Option<Slot>,
    /// Its MAC address, where known.
    pub mac: Option<[u8; 6]>,
    /// Whether its bus is PCI Express.
    pub on_pcie: bool,
    /// Base class and subclass, for example 0x0200.
    pub class: u16,
    /// Its `multifunction` property.
    pub multifunction: bool,
    /// Its function number.
    pub function: u8,
    /// Whether its state can be migrated. As long as it has no standby, a migration takes it for an ordinary device then;
    /// otherwise it blocks one.
    pub migratable: bool,
}

/// PCI base class and subclass of an Ethernet controller.
pub const CLASS_ETHERNET: u16 = 0x0200;

/// A pairing that is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PairingError {
    /// A primary needs a name to be told of.
    #[error("Device with failover_pair_id needs to have id")]
    NoId,
    /// The standby has a primary already.
    #[error("Cannot attach more than one primary device to '{standby}': '{present}' and '{given}'")]
    SecondPrimary {
        /// Id of the standby.
        standby: String,
        /// Id of the primary it has.
        present: String,
        /// Id of the one given.
        given: String,
    },
    /// An id that another device of a pair has.
    #[error("Duplicate device ID '{0}'")]
    DuplicateId(String),
    /// The primary's bus is conventional PCI.
    #[error("failover primary device must be on PCIExpress bus")]
    NotExpress,
    /// The primary's class is not 0x0200.
    #[error("failover primary device is not an Ethernet device")]
    NotEthernet,
    /// The primary is one of several functions, or would sit in its standby's slot.
    #[error("failover: primary device must be in its own PCI slot")]
    NotOwnSlot,
    /// `failover_pair_id` names the device itself.
    #[error(
        "failover_pair_id={0} names the device itself; it must name a virtio-net device with failover=on"
    )]
    SelfPaired(String),
    /// A migration is under way.
    #[error("device_add not allowed while migrating")]
    Migrating,
    /// A migration is under way.
    #[error("device_del not allowed while migrating")]
    DeleteWhileMigrating,
    /// A standby cannot go while its primary is with the guest.
    #[error("standby '{standby}' still has its primary '{primary}'; delete that one first")]
    StandbyInUse {
        /// Id of the standby.
        standby: String,
        /// Id of the primary.
        primary: String,
    },
    /// No pair has this standby.
    #[error("Device '{0}' not found")]
    UnknownStandby(String),
}

/// A pairing that is allowed and that will hardly work.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PairingWarning {
    /// Linux pairs by MAC address.
    #[error(
        "primary '{primary}' has MAC {} and its standby '{standby}' has {}; a Linux guest pairs them only if they are equal",
        mac_text(*primary_mac), mac_text(*standby_mac)
    )]
    MacMismatch {
        /// Id of the primary.
        primary: String,
        /// Id of the standby.
        standby: String,
        /// The primary's address.
        primary_mac: [u8; 6],
        /// The standby's address.
        standby_mac: [u8; 6],
    },
    /// The named standby does not exist (yet).
    #[error(
        "failover_pair_id={standby} of '{primary}' names no virtio-net device with failover=on; until one is added '{primary}' is no failover primary"
    )]
    NoStandby {
        /// Id of the primary.
        primary: String,
        /// The id it names.
        standby: String,
    },
}

fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|b| format!("{b:02x}")).join(":")
}

impl PrimarySpec {
    /// What can be said about the primary alone. Returns its id.
    pub(crate) fn check(&self) -> Result<&str, PairingError> {
        let id = self
            .id
            .as_deref()
            .filter(|id| !id.is_empty())
            .ok_or(PairingError::NoId)?;
        if id == self.standby {
            return Err(PairingError::SelfPaired(id.to_owned()));
        }
        if !self.on_pcie {
            return Err(PairingError::NotExpress);
        }
        if self.class != CLASS_ETHERNET {
            return Err(PairingError::NotEthernet);
        }
        if self.multifunction || self.function != 0 {
            return Err(PairingError::NotOwnSlot);
        }
        Ok(id)
    }

    /// What can be said about the two together.
    pub(crate) fn check_with(
        &self,
        id: &str,
        standby: &StandbySpec,
    ) -> Result<Option<PairingWarning>, PairingError> {
        if self.slot.is_some() && self.slot == standby.slot {
            return Err(PairingError::NotOwnSlot);
        }
        Ok(match (self.mac, standby.mac) {
            (Some(primary_mac), Some(standby_mac)) if primary_mac != standby_mac => {
                Some(PairingWarning::MacMismatch {
                    primary: id.to_owned(),
                    standby: standby.id.clone(),
                    primary_mac,
                    standby_mac,
                })
            }
            _ => None,
        })
    }
}
