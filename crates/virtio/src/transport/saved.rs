//! The transport's saved state.

use crate::queue::QueueSetup;
use minicbor::{Decode, Encode};
use pci::MsixSaved;

/// The version written.
pub(super) const VERSION: u16 = 1;

#[derive(Debug, Encode, Decode)]
pub(super) struct TransportSaved {
    #[cbor(n(0), with = "minicbor::bytes")]
    pub(super) config_space: Vec<u8>,
    #[n(1)]
    pub(super) msix: MsixSaved,
    #[n(2)]
    pub(super) device_feature_select: u32,
    #[n(3)]
    pub(super) driver_feature_select: u32,
    #[n(4)]
    pub(super) driver_features: u64,
    #[n(5)]
    pub(super) status: u8,
    #[n(6)]
    pub(super) broken: bool,
    #[n(7)]
    pub(super) queue_select: u16,
    #[n(8)]
    pub(super) config_vector: u16,
    #[n(9)]
    pub(super) isr: u8,
    #[n(10)]
    pub(super) generation: u8,
    #[n(11)]
    pub(super) queues: Vec<QueueSaved>,
    /// The device type's own.
    #[cbor(n(12), with = "minicbor::bytes")]
    pub(super) device: Vec<u8>,
}

#[derive(Debug, Encode, Decode)]
pub(super) struct QueueSaved {
    #[n(0)]
    size: u16,
    #[n(1)]
    enabled: bool,
    #[n(2)]
    descriptors: u64,
    #[n(3)]
    available: u64,
    #[n(4)]
    used: u64,
    #[n(5)]
    next_available: u16,
    #[n(6)]
    next_used: u16,
    #[n(7)]
    pub(super) vector: u16,
}

impl QueueSaved {
    pub(super) fn of(setup: &QueueSetup, vector: u16) -> Self {
        Self {
            size: setup.size,
            enabled: setup.enabled,
            descriptors: setup.descriptors,
            available: setup.available,
            used: setup.used,
            next_available: setup.next_available,
            next_used: setup.next_used,
            vector,
        }
    }

    /// The set-up, if the size is possible; the addresses are checked when the queue starts.
    pub(super) fn setup(&self, max_size: u16) -> Option<QueueSetup> {
        (self.size.is_power_of_two() && self.size <= max_size).then_some(QueueSetup {
            size: self.size,
            enabled: self.enabled,
            descriptors: self.descriptors,
            available: self.available,
            used: self.used,
            next_available: self.next_available,
            next_used: self.next_used,
        })
    }
}
