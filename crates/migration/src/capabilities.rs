//! Capabilities of migrations, by QMP's names.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

macro_rules! capabilities {
    ($($variant:ident $name:literal $supported:literal $doc:literal)*) => {
        /// A capability QEMU's users know.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum Capability {
            $(#[doc = $doc] #[serde(rename = $name)] $variant,)*
        }

        impl Capability {
            /// All of them, in the order `query-migrate-capabilities` lists them.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// Its name in QMP.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// Whether it can be switched on.
            #[must_use]
            pub const fn is_supported(self) -> bool {
                match self { $(Self::$variant => $supported,)* }
            }
        }
    };
}

capabilities! {
    Xbzrle "xbzrle" false "Deltas of cached pages."
    RdmaPinAll "rdma-pin-all" false "RDMA with all memory pinned."
    AutoConverge "auto-converge" false "Slow down a guest that writes faster than it is sent."
    ZeroBlocks "zero-blocks" true "Deprecated, has no effect."
    Events "events" true "Emit MIGRATION and MIGRATION_PASS."
    PostcopyRam "postcopy-ram" false "Fetch pages after the switch-over."
    Colo "x-colo" false "Checkpointing."
    ReleaseRam "release-ram" false "Free memory on the source as it is sent."
    ReturnPath "return-path" true "Answers from the target. Always there where the channel has a way back."
    PauseBeforeSwitchover "pause-before-switchover" true "Wait for migrate-continue, the VM stopped."
    Multifd "multifd" false "Several connections."
    DirtyBitmaps "dirty-bitmaps" false "Dirty bitmaps of block devices."
    PostcopyBlocktime "postcopy-blocktime" false "Measure how long post-copy blocks."
    LateBlockActivate "late-block-activate" false "Activate block devices when the VM runs."
    IgnoreShared "x-ignore-shared" false "Leave shared memory out."
    ValidateUuid "validate-uuid" true "Refuse a target of another uuid."
    BackgroundSnapshot "background-snapshot" false "A snapshot while the guest runs."
    ZeroCopySend "zero-copy-send" false "Send without copying into the kernel."
    PostcopyPreempt "postcopy-preempt" false "A channel for pages the target waits for."
    SwitchoverAck "switchover-ack" false "The target allows the switch-over."
    DirtyLimit "dirty-limit" false "Slow down only the vCPUs that write much."
    MappedRam "mapped-ram" false "Pages at fixed places of a file."
}

/// A capability that cannot be switched on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("migration capability '{}' is not supported", .0.name())]
pub struct Unsupported(pub Capability);

/// Which capabilities are on. None is, at first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Capabilities(BTreeSet<Capability>);

impl Capabilities {
    /// Whether `capability` is on.
    #[must_use]
    pub fn has(&self, capability: Capability) -> bool {
        self.0.contains(&capability)
    }

    /// Switches capabilities on and off: all of them, or none.
    ///
    /// # Errors
    /// The first that is switched on and not supported; switching it off is fine.
    pub fn set(&mut self, wishes: &[(Capability, bool)]) -> Result<(), Unsupported> {
        if let Some((capability, _)) = wishes
            .iter()
            .find(|(capability, on)| *on && !capability.is_supported())
        {
            return Err(Unsupported(*capability));
        }
        for (capability, on) in wishes {
            if *on {
                self.0.insert(*capability);
            } else {
                self.0.remove(capability);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_supported_is_refused_when_switched_on() {
        let mut capabilities = Capabilities::default();
        let error = capabilities
            .set(&[(Capability::Events, true), (Capability::Multifd, true)])
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "migration capability 'multifd' is not supported"
        );
        assert!(!capabilities.has(Capability::Events));
        capabilities
            .set(&[(Capability::Events, true), (Capability::Multifd, false)])
            .unwrap();
        assert!(capabilities.has(Capability::Events));
        for capability in Capability::ALL {
            let json = serde_json::to_string(capability).unwrap();
            assert_eq!(json, format!("\"{}\"", capability.name()));
        }
    }
}
