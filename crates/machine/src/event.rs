//! What the machine tells its monitors.

use failover::Path;
use migration::{Info, State};

/// An event of the machine, in the words of QAPI.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MachineEvent {
    /// The vCPUs stopped.
    Stop,
    /// The vCPUs run.
    Resume,
    /// The machine was reset; `true` if by the guest.
    Reset(bool),
    /// The machine is shut down.
    Shutdown {
        /// By the guest.
        guest: bool,
        /// QAPI's `ShutdownCause`.
        reason: &'static str,
    },
    /// The power button was pressed.
    Powerdown,
    /// The guest set its real-time clock.
    RtcChange {
        /// How far it is ahead of what `-rtc base=` says, in seconds.
        offset_s: i64,
    },
    /// A device is gone.
    DeviceDeleted {
        /// Its id, if it had one.
        id: Option<String>,
        /// Its path in the device tree.
        path: String,
    },
    /// The guest refused to give a device back.
    UnplugGuestError {
        /// Its id.
        id: String,
        /// Its path in the device tree.
        path: String,
    },
    /// The guest accepted VIRTIO_NET_F_STANDBY.
    FailoverNegotiated {
        /// The standby.
        id: String,
    },
    /// The guest is asked to give up a primary.
    UnplugPrimary {
        /// The primary.
        id: String,
    },
    /// The guest's traffic takes another path.
    FailoverPathChanged {
        /// The standby.
        id: String,
        /// `standby` or `primary`.
        path: String,
        /// Why, a word for programs.
        reason: &'static str,
    },
    /// A primary is not where it should be.
    FailoverPrimaryMissing {
        /// Its standby.
        standby: String,
        /// The primary, if there is one.
        id: Option<String>,
        /// Why, a word for programs.
        reason: &'static str,
        /// The same for a person.
        message: String,
        /// In how many ms the next attempt comes; none if it is another event that brings it.
        retry_ms: Option<u64>,
    },
    /// The guest was asked to let go of a primary, and it stays.
    FailoverUnplugFailed {
        /// Its standby.
        standby: String,
        /// The primary.
        id: String,
        /// Why, a word for programs.
        reason: &'static str,
        /// The same for a person.
        message: String,
    },
    /// A step of steering the host's network, or its hook, failed; nothing else follows from it.
    FailoverSteeringFailed {
        /// The standby.
        id: String,
        /// The moment's name, as the hook is told it.
        moment: &'static str,
        /// The command that does the same, or the hook's program.
        step: String,
        /// Why.
        reason: String,
    },
    /// The migration's state.
    Migration(String),
    /// A pass over the guest's memory begins.
    MigrationPass(u64),
    /// A guest changed its receive filter.
    RxFilterChanged {
        /// The NIC.
        id: Option<String>,
        /// Its path in the device tree.
        path: String,
    },
}

/// A change of a migration's state, with what is known at that moment.
#[derive(Debug, Clone, PartialEq)]
pub struct MigrationNews {
    /// The guest leaves, or else comes.
    pub outgoing: bool,
    /// The new state.
    pub state: State,
    /// What `query-migrate` says now.
    pub info: Info,
    /// Each pair's standby, and which way its traffic takes.
    pub paths: Vec<(String, Path)>,
}

/// Told on the control thread, in order; must not block.
pub trait MachineListener: Send {
    /// See [`MachineEvent`].
    fn event(&self, event: MachineEvent);

    /// Told of each change, whether or not a client asked for its event, and before that.
    fn migration(&self, news: MigrationNews) {
        let _ = news;
    }
}
