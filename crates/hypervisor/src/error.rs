//! What can go wrong between the machine and who runs the guest.

use std::io;

/// An error of the hypervisor; each message is one line that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum HypervisorError {
    /// There is no `/dev/kvm`.
    #[error(
        "no /dev/kvm: load the kvm_intel or kvm_amd module, and turn virtualization on in the firmware (or nested virtualization, inside a VM)"
    )]
    Absent,
    /// `/dev/kvm` may not be opened.
    #[error("/dev/kvm cannot be opened: {0}; run as root or join the group that owns it")]
    Denied(#[source] io::Error),
    /// `/dev/kvm` opens, but a guest does not run under it.
    #[error("/dev/kvm opens but cannot run a guest here: {0}")]
    Unusable(String),
    /// KVM lacks something that the machine cannot do without.
    #[error("this kernel's KVM lacks {0}, which the machine needs")]
    Lacks(&'static str),
    /// An ioctl failed.
    #[error("KVM: {what}: {source}")]
    Ioctl {
        /// What was being done.
        what: &'static str,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The host has no more of something.
    #[error("{what}: {source}")]
    Host {
        /// What was being done.
        what: &'static str,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// More vCPUs than KVM allows.
    #[error("-smp: {asked} vCPUs asked for, this host's KVM allows {limit}")]
    TooManyVcpus {
        /// As configured.
        asked: u32,
        /// KVM's limit.
        limit: u32,
    },
    /// A saved state does not fit.
    #[error("saved state of {what} refused: {reason}")]
    State {
        /// Which part.
        what: &'static str,
        /// One clear sentence.
        reason: String,
    },
    /// A vCPU thread is gone.
    #[error("vCPU {0} has stopped for good")]
    Gone(u32),
}

impl HypervisorError {
    /// Names the ioctl that failed.
    pub(crate) fn ioctl(what: &'static str) -> impl Fn(kvm_ioctls::Error) -> Self {
        move |error| Self::Ioctl {
            what,
            source: io::Error::from_raw_os_error(error.errno()),
        }
    }
}
