//! The pairs, inspected; and what a migration would meet that began now.

use super::{NoteView, PairView};
use crate::board::Board;
use crate::devices::host_spec;
use crate::pairs::plug_error;
use config::vm::{DeviceConfig, DeviceKind};
use failover::{Consent, Dangling, Gate, Pair, PairingWarning, Path, Reason};
use net::tap::mtu_of;
use std::path::Path as FilePath;
use std::sync::Arc;
use vfio::{Access, Container, HostDevice, VfioError};

const SYSFS: &str = "/sys";

fn note(name: &'static str, text: impl Into<String>) -> NoteView {
    NoteView {
        name,
        text: text.into(),
    }
}

fn of_reason(reason: &Reason) -> NoteView {
    note(reason.name(), reason.to_string())
}

/// What a guest makes of it that uses the larger of two.
fn mtu_mismatch(tap: (&str, u32), pf: (&str, u32)) -> Option<NoteView> {
    if tap.1 == pf.1 {
        return None;
    }
    Some(note(
        "mtu-mismatch",
        format!(
            "'{}' takes frames of {} bytes and '{}' of {}: a guest loses the larger ones on the other path; set both alike (ip link set … mtu …)",
            tap.0, tap.1, pf.0, pf.1
        ),
    ))
}

fn mac_of(config: &DeviceConfig) -> Option<[u8; 6]> {
    match &config.kind {
        DeviceKind::VirtioNet(net) => net.mac,
        _ => None,
    }
}

impl Board {
    /// The pairs, and the primaries that have no standby.
    pub(super) fn pair_views(&self) -> Vec<PairView> {
        let pairs = self.pairs.pairs();
        let mut views: Vec<_> = pairs.iter().map(|pair| self.pair_view(pair)).collect();
        views.extend(
            pairs
                .dangling()
                .map(|dangling| self.dangling_view(&dangling)),
        );
        views
    }

    fn pair_view(&self, pair: &Pair) -> PairView {
        let now = self.control.now();
        let situation = pair.situation();
        let retry = situation.as_ref().and_then(|s| s.retry);
        let obstacles = self.pairs.pairs().obstacles();
        PairView {
            standby: pair.standby().to_owned(),
            primary: pair.primary().map(str::to_owned),
            phase: Some(pair.state().phase()),
            since_ms: now.ms_since(pair.since()),
            path: pair.path(),
            negotiated: pair.consent() == Consent::Given,
            attempts: retry.map(|(_, attempt)| attempt),
            retry_ms: retry.map(|(at, _)| at.ms_since(now)),
            reason: situation.map(|s| note(s.name, s.text)),
            counters: self.pairs.counters_of(pair.standby()),
            blockers: obstacles
                .filter(|refusal| Some(refusal.primary.as_str()) == pair.primary())
                .map(|refusal| of_reason(&refusal.reason))
                .collect(),
            warnings: self.pair_warnings(pair),
        }
    }

    /// A primary that names no standby there is.
    fn dangling_view(&self, dangling: &Dangling<'_>) -> PairView {
        let reason = Reason::NoStandby {
            standby: dangling.standby.to_owned(),
        };
        PairView {
            standby: dangling.standby.to_owned(),
            primary: Some(dangling.primary.to_owned()),
            phase: None,
            since_ms: 0,
            path: if dangling.visible {
                Path::Primary
            } else {
                Path::Standby
            },
            negotiated: false,
            attempts: None,
            retry_ms: None,
            reason: Some(of_reason(&reason)),
            counters: super::PairCounters::default(),
            blockers: if dangling.blocks_migration {
                vec![of_reason(&reason)]
            } else {
                Vec::new()
            },
            warnings: Vec::new(),
        }
    }

    /// What would not stop a migration, and will disappoint whoever expects more of it.
    fn pair_warnings(&self, pair: &Pair) -> Vec<NoteView> {
        let mut notes = Vec::new();
        let awaited = self.pairs.pairs().gate() == Gate::Incoming;
        let Some(primary) = pair.primary() else {
            notes.push(of_reason(&Reason::NoPrimary));
            return notes;
        };
        if pair.consent() == Consent::None && !awaited {
            notes.push(note(
                "not-accepted",
                "the guest has not accepted STANDBY: it does without its primary, here and after a migration",
            ));
        }
        let config = self.pairs.primary(primary).map(|p| &p.config);
        let Some(config) = config else {
            return notes;
        };
        notes.extend(self.mac_warning(pair, config));
        notes.extend(self.mtu_warning(pair));
        if let Err(error) = self.host_device(primary, config) {
            let error = plug_error(&error);
            notes.push(note(error.fault.name(), error.text));
        }
        notes
    }

    /// A Linux guest pairs by address. A VF is given its standby's.
    fn mac_warning(&self, pair: &Pair, config: &DeviceConfig) -> Option<NoteView> {
        let standby_mac = self.devices.net(pair.standby())?.configured_mac().0;
        let primary_mac = mac_of(config).filter(|mac| *mac != standby_mac)?;
        let warning = PairingWarning::MacMismatch {
            primary: pair.primary().unwrap_or_default().to_owned(),
            standby: pair.standby().to_owned(),
            primary_mac,
            standby_mac,
        };
        Some(note("mac-mismatch", warning.to_string()))
    }

    fn mtu_warning(&self, pair: &Pair) -> Option<NoteView> {
        let tap = self.netdevs.interface_of(pair.standby())?;
        let pf = self.pairs.pf_of(pair.standby())?;
        let mtu = |interface: &str| mtu_of(interface).ok();
        mtu_mismatch((tap, mtu(tap)?), (&pf, mtu(&pf)?))
    }

    /// Whether the host's function could be opened, for one that is not open.
    fn host_device(&self, primary: &str, config: &DeviceConfig) -> Result<(), VfioError> {
        let DeviceKind::VfioPci(vfio) = &config.kind else {
            return Ok(());
        };
        if self.pairs.is_open(primary) {
            return Ok(());
        }
        let host = HostDevice::find(&host_spec(vfio), FilePath::new(SYSFS))?;
        // Its object cannot be deleted as long as it is there.
        let access = self.access_to(vfio).unwrap_or(Access::Group);
        access.check_usable(&host, self.pairs.cdev_of(primary))?;
        match self.pairs.container() {
            Some(container) => container.check_free(&host, &access),
            None => {
                let container = Container::new(Arc::clone(&self.ram), self.vm.clone());
                container.check_free(&host, &access)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_unequal_mtus_are_worth_a_word() {
        assert_eq!(mtu_mismatch(("tap0", 1500), ("eth0", 1500)), None);
        let told = mtu_mismatch(("tap0", 1500), ("eth0", 9000));
        assert!(told.is_some_and(|note| {
            note.name == "mtu-mismatch" && note.text.contains("9000") && note.text.contains("tap0")
        }));
    }
}
