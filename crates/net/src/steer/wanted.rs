//! What is to be steered: what the machine knows of a pair, and what its operator chose otherwise.

use std::path::PathBuf;
use std::time::Duration;

use crate::announce::Mac;

/// An interface, as an operator chooses it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Choice {
    /// The one that is found.
    #[default]
    Auto,
    /// The one that is found is left as it is.
    Off,
    /// This one.
    Named(String),
}

/// A program that is told each step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HookConfig {
    /// The program.
    pub program: PathBuf,
    /// How long it may take for a step.
    pub timeout: Duration,
}

/// A pair, and how it is to be steered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Id of the standby: for messages, and for the hook.
    pub standby: String,
    /// Id of the primary.
    pub primary: Option<String>,
    /// The guest's address.
    pub mac: Mac,
    /// The interface of the host that the standby is on.
    pub interface: Option<String>,
    /// The PCI address of the primary on this host.
    pub vf_address: Option<String>,
    /// The interface of the VF's PF.
    pub pf: Choice,
    /// The VF's number on its PF; `None`: the one that is found.
    pub vf: Option<u32>,
    /// The VF's VLAN on its PF, 0 for none; `None`: as it is found.
    pub vf_vlan: Option<u16>,
    /// The bridge's port towards the standby; found: the standby's interface.
    pub standby_port: Choice,
    /// The bridge's port towards the primary; found: the PF, or what is above it.
    pub primary_port: Choice,
    /// A program that is told each step.
    pub hook: Option<HookConfig>,
}

impl Wanted {
    /// A standby on the interface `tap` and the VF at PCI address `vf`, all else found.
    pub fn pair(tap: &str, vf: Option<&str>, mac: Mac) -> Self {
        Self {
            mac,
            interface: Some(tap.to_owned()),
            vf_address: vf.map(str::to_owned),
            ..Self::default()
        }
    }
}
