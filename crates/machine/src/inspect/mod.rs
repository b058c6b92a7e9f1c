//! The machine as a monitor's queries see it: plain values, taken on the control thread at the moment of the query.
//!
//! The queries are written against [`Inspect`] and not against the [`Board`](crate::Board), so that they can be asked of a machine that was never
//! built: `-machine none`, and a test without KVM.

mod board;
mod counters;
mod filters;
mod orders;
mod pairs;

pub use counters::PairCounters;
pub(crate) use counters::device_of;
pub use failover::{Path, Phase};
pub(crate) use filters::FilterNews;
pub use hypervisor::CpuModel;
pub use orders::{AnnounceOrder, check_new_object};
pub use pci::{
    BarKind, BarRegion, Bdf, BridgeSnapshot, BridgeWindows, BusSnapshot, FunctionSnapshot,
    ROOT_BUS, RegionSnapshot,
};
pub use virtio::{MacAddr, NetCounters, RxFilter};

use crate::RunState;
use config::vm::{DeviceConfig, VmConfig};
use migration::{Capabilities, Info, Parameters};

/// A character device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChardevView {
    /// Its id.
    pub id: String,
    /// Where it leads: `pty:/dev/pts/3`.
    pub filename: String,
}

/// A device of the user's that the guest sees, or that waits beside its slot.
#[derive(Debug, Clone, PartialEq)]
pub struct DeviceView {
    /// Unique: the user's id, or the last part of its path.
    pub key: String,
    /// Its path in the tree of objects.
    pub path: String,
    /// What the user asked for.
    pub config: DeviceConfig,
    /// The bus and the device and function number on it; `None` for a device that is on no PCI bus.
    pub place: Option<(String, u8)>,
    /// It came after the start.
    pub hotplugged: bool,
    /// The size of its MSI-X table; 0 without one.
    pub msix_vectors: u16,
    /// A NIC's address as it was made.
    pub mac: Option<MacAddr>,
}

/// What is behind a NIC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetdevView {
    /// Its id.
    pub id: String,
    /// Its kind, as `type=` names it.
    pub kind: &'static str,
    /// What there is to say about it: `ifname=tap0`.
    pub description: String,
}

/// A virtio NIC.
#[derive(Debug, Clone, PartialEq)]
pub struct NicView {
    /// Its key, as in [`DeviceView::key`].
    pub key: String,
    /// Its driver.
    pub driver: &'static str,
    /// The address it was given.
    pub mac: MacAddr,
    /// The cable is in.
    pub link_up: bool,
    /// Queue pairs there are, and those the driver uses.
    pub queue_pairs: (u16, u16),
    /// Which frames the driver wants.
    pub filter: RxFilter,
    /// What passed so far.
    pub counters: NetCounters,
    /// What is behind it.
    pub netdev: Option<NetdevView>,
    /// For the standby of a pair: how the host's switch is steered.
    pub steering: Option<String>,
}

/// A word for programs, and a sentence for a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoteView {
    /// The word.
    pub name: &'static str,
    /// The sentence.
    pub text: String,
}

/// A pair of standby and primary, or a primary that names a standby which does not exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PairView {
    /// The standby's id.
    pub standby: String,
    /// The primary's id.
    pub primary: Option<String>,
    /// Where it is in its life; `None` for a primary without its standby.
    pub phase: Option<Phase>,
    /// For how long, in ms.
    pub since_ms: u64,
    /// Which device carries the traffic.
    pub path: Path,
    /// The guest accepted STANDBY.
    pub negotiated: bool,
    /// Why it is where it is, unless all is as it should be.
    pub reason: Option<NoteView>,
    /// How many attempts to plug have failed in a row, while another is to come.
    pub attempts: Option<u32>,
    /// In how many ms the next attempt comes.
    pub retry_ms: Option<u64>,
    /// What happened so far.
    pub counters: PairCounters,
    /// What would stop a migration that began now.
    pub blockers: Vec<NoteView>,
    /// What would not, and what the guest will have to do without.
    pub warnings: Vec<NoteView>,
}

/// Something that was put into guest memory before the guest ran.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RomView {
    /// Its file, or what it is.
    pub name: String,
    /// Where it is; `None` where the format of the file decides.
    pub address: Option<u64>,
    /// Its size in bytes.
    pub size_bytes: u64,
}

/// What queries ask a machine.
pub trait Inspect {
    /// The configuration, with the objects as they are now.
    fn config(&self) -> &VmConfig;
    /// Why the guest runs or does not.
    fn run_state(&self) -> RunState;
    /// Host thread ids of the vCPUs.
    fn cpu_threads(&self) -> Vec<i32>;
    /// The thread that does what has no thread of its own.
    fn control_thread(&self) -> i32;
    /// The character devices, those of monitors apart.
    fn chardevs(&self) -> Vec<ChardevView>;
    /// The PCI functions the guest sees; `None` without a board.
    fn pci(&self) -> Option<BusSnapshot>;
    /// The devices, in the order in which they came.
    fn devices(&self) -> Vec<DeviceView>;
    /// The virtio NICs among them.
    fn nics(&self) -> Vec<NicView>;
    /// A client has looked at the filter of this NIC: its next change is to be told.
    fn filter_looked_at(&self, key: &str) {
        let _ = key;
    }
    /// Netdevs without a NIC.
    fn spare_netdevs(&self) -> Vec<NetdevView>;
    /// The pairs, in the order of their standbys.
    fn pairs(&self) -> Vec<PairView>;
    /// What was put into guest memory.
    fn roms(&self) -> Vec<RomView>;
    /// The processor the guest sees.
    ///
    /// # Errors
    /// KVM cannot be asked; one line says why.
    fn cpu_model(&self) -> Result<CpuModel, String>;
    /// Whether KVM runs guests here.
    fn kvm_enabled(&self) -> bool;
    /// A migration that runs or ran.
    fn migrate_info(&self) -> Option<Info>;
    /// What migrations can do.
    fn migrate_capabilities(&self) -> Capabilities;
    /// The parameters of migrations.
    fn migrate_parameters(&self) -> Parameters;
}

/// Whether KVM runs guests on this host: opens `/dev/kvm` and runs two instructions.
///
/// # Errors
/// One line that says what is missing.
pub fn kvm_runs_guests() -> Result<(), String> {
    hypervisor::check_host().map_err(|e| e.to_string())
}

/// The processor that `-cpu host` would show here, without a machine.
///
/// # Errors
/// KVM cannot be asked; one line says why.
pub fn host_cpu_model() -> Result<CpuModel, String> {
    hypervisor::host_cpu_model().map_err(|e| e.to_string())
}
