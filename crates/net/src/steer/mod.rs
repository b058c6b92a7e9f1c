//! Steering the host's switch: what an operator would otherwise script around each switch of the path.
//!
//! ```text
//!    guest's VF ┄┄ (NIC: filter for the MAC) ┄┄┐
//!                                              ├── wire
//!    guest's virtio-net ── tap ── bridge ── PF ┘
//!                              (table: MAC → port)
//! ```
//!
//! Two tables decide where the guest's frames go, and both are stale after a switch. The NIC's filter
//! still hands them to a VF that no driver serves: the VF's administrative MAC is taken off. The
//! bridge has learned the address on the PF's side and sends them back where they came from: the entry
//! is moved to the tap's port, in one step, so that no frame finds neither, and held there (`sticky`):
//! a NIC may loop the announcement that follows back to its PF, and the bridge would learn the address
//! there again (seen with igb: each RARP of the host cost the guest its reception until it next sent
//! something).
//!
//! Moments (the caller's part):
//! - [`Steering::to_standby`] when the guest let go. Earlier, while the unplug is only asked, the VF's
//!   driver sets its filter again on its way out.
//! - [`Steering::to_both`] when the guest is asked to let go: frames from the wire reach the tap as well
//!   as the VF. As long as the primary is registered a Linux guest drops those on the standby; from the
//!   moment it lets go it takes them, whatever the host has noticed by then.
//! - [`Steering::arm_primary`] before the guest's driver probes the VF (it takes its address then), and
//!   no earlier than need be: a VF that was in use before gets the guest's frames from here on, and drops
//!   them until its driver opens it (seen with igb and igbvf: 50 of 50), so the tap gets them too. The
//!   last moment is the guest's first write that enables memory decoding, before that write is carried
//!   out.
//! - [`Steering::to_primary`] once the driver is in.
//! - [`Steering::guest_left`] when the guest runs elsewhere.
//! - [`Steering::primary_deleted`] when the primary is no part of the pair any more.
//! - [`Steering::restore`] at the end: what was found is put back.
//!
//! Each moment is told, with what was done at it, to the operator's hook where there is one
//! ([`Wanted::hook`]): for a switch that is no Linux bridge.
//!
//! A step that fails is told and the others are done all the same: a switch that learns by itself gets
//! there a little later.
//!
//! *Rejected: `learning off` on the PF's port.* It keeps a late frame of the VF from moving the entry
//! back, and it also keeps the bridge from learning that the guest left for another host. *Rejected:
//! static entries.* They outlive the process that made them; a held one goes when the tap loses its
//! carrier, which is when the process ends, or ages where it is the uplink's.
//!
//! Toward the primary the entry is held too: from the opening of the VF until its link is up a guest sends over its
//! standby, and drops what comes in there (seen with igbvf: the bridge sent the host's own traffic to the tap from then on).

mod carrier;
mod claim;
mod discovery;
mod hook;
mod moment;
mod route;
mod step;
mod thread;
mod wanted;

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

pub use carrier::{LinkOf, LinkWatch};
pub use discovery::{Port, Surroundings, Vf, VfVlan};
use hook::{Hook, Listener};
use moment::Last;
pub use moment::{Moment, Trouble};
use route::{Kernel, Route, Table};
pub use step::{Outcome, Report, Step};
pub use thread::{Order, SteeringThread, View};
pub use wanted::{Choice, HookConfig, Wanted};

use crate::announce::Mac;

const NO_MAC: Mac = [0; 6];

/// The host's switch around one pair.
pub struct Steering {
    kernel: Box<dyn Kernel>,
    wanted: Wanted,
    around: Surroundings,
    /// The VF's administrative address and VLAN now, as far as known.
    vf_mac: Option<Mac>,
    vf_vlan: Option<VfVlan>,
    /// Where an entry of ours is in the bridge's table.
    pointed: Option<Port>,
    /// The PF whose own filter has an entry of ours.
    asked_on: Option<Port>,
    /// The guest's VLANs, for the hook.
    vlans: Vec<u16>,
    hook: Option<Hook>,
    listener: Listener,
    /// Steps that failed last time, and why.
    failing: BTreeMap<String, String>,
    last: Option<Last>,
}

impl std::fmt::Debug for Steering {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Steering({})", self.describe())
    }
}

impl Steering {
    /// Looks around: the bridge of the standby's interface, and the PF of the VF. What is not there is a
    /// reason in [`Steering::surroundings`] and no error: there is then less to steer. Changes nothing.
    ///
    /// # Errors
    /// No netlink socket can be had in this network namespace, or no thread for the hook.
    pub fn discover(wanted: Wanted) -> io::Result<Self> {
        Self::discover_in(Path::new("/sys"), wanted)
    }

    /// [`Steering::discover`] where sysfs is mounted elsewhere.
    ///
    /// # Errors
    /// As there.
    pub fn discover_in(sysfs: &Path, wanted: Wanted) -> io::Result<Self> {
        Self::with(Box::new(Route::open()?), sysfs, wanted)
    }

    fn with(mut kernel: Box<dyn Kernel>, sysfs: &Path, wanted: Wanted) -> io::Result<Self> {
        let around = discovery::look(kernel.as_mut(), sysfs, &wanted)?;
        let hook = wanted
            .hook
            .as_ref()
            .map(|hook| Hook::start(&wanted.standby, hook.clone()))
            .transpose()?;
        let mut steering = Self {
            kernel,
            wanted,
            around,
            vf_mac: None,
            vf_vlan: None,
            pointed: None,
            asked_on: None,
            vlans: Vec::new(),
            hook,
            listener: Arc::new(|_| {}),
            failing: BTreeMap::new(),
            last: None,
        };
        steering.note_found();
        Ok(steering)
    }

    /// Looks around again for another primary, its id and its PCI address on this host. What was done for the one before must
    /// have been taken back ([`Steering::primary_deleted`]).
    ///
    /// # Errors
    /// The kernel cannot be asked.
    pub fn look_for(
        &mut self,
        primary: Option<String>,
        vf_address: Option<String>,
    ) -> io::Result<()> {
        self.wanted.primary = primary;
        self.wanted.vf_address = vf_address;
        self.around = discovery::look(self.kernel.as_mut(), Path::new("/sys"), &self.wanted)?;
        self.note_found();
        Ok(())
    }

    fn note_found(&mut self) {
        let vf = self.around.vf.as_ref().ok();
        self.vf_mac = vf.and_then(|vf| vf.mac_found);
        self.vf_vlan = vf.and_then(|vf| vf.vlan_found);
    }

    /// Whom to tell of steps that fail: called by whoever steers, or by the hook's thread; must not block.
    pub fn on_trouble(&mut self, listener: impl Fn(Trouble) + Send + Sync + 'static) {
        self.listener = Arc::new(listener);
        if let Some(hook) = &self.hook {
            hook.set_listener(Arc::clone(&self.listener));
        }
    }

    /// The VLANs on which the guest is, for the hook.
    pub fn set_vlans(&mut self, vlans: Vec<u16>) {
        self.vlans = vlans;
    }

    /// What is steered.
    pub fn wanted(&self) -> &Wanted {
        &self.wanted
    }

    /// What was found, and why the rest was not.
    pub fn surroundings(&self) -> &Surroundings {
        &self.around
    }

    /// One line for a log or for `info network`.
    pub fn describe(&self) -> String {
        let off = |choice: &Choice| match choice {
            Choice::Off => " (off)",
            Choice::Auto | Choice::Named(_) => "",
        };
        let tap = match (&self.around.tap, &self.around.bridge) {
            (Ok(port), Some(bridge)) => format!("bridge port {} of {bridge}", port.name),
            (Ok(port), None) => format!("bridge port {}", port.name),
            (Err(why), _) => format!("no bridge ({why})"),
        };
        let vf = match &self.around.vf {
            Ok(vf) => format!("VF {} of {}", vf.number, vf.pf.name),
            Err(why) => format!("no VF ({why})"),
        };
        let wanted = &self.wanted;
        let mut text = format!(
            "{tap}{}; {vf}{}",
            off(&wanted.standby_port),
            off(&wanted.pf)
        );
        match (&self.around.tap, &self.around.uplink) {
            (Ok(_), Ok(port)) => {
                let off = off(&wanted.primary_port);
                text += &format!("; uplink {}{off}", port.name);
            }
            (Ok(_), Err(why)) if self.around.vf.is_ok() => {
                text += &format!("; no uplink ({why})");
            }
            _ => {}
        }
        if let Some(last) = &self.last {
            text += &format!("; frames to {}; {last}", last.moment.path());
        }
        if let Some(hook) = &self.hook {
            text += &format!("; {}", hook.describe());
        }
        text
    }

    fn tap(&self) -> Option<Port> {
        let port = self.around.tap.as_ref().ok()?;
        (self.wanted.standby_port != Choice::Off).then(|| port.clone())
    }

    fn uplink(&self) -> Option<Port> {
        let port = self.around.uplink.as_ref().ok()?;
        (self.wanted.primary_port != Choice::Off).then(|| port.clone())
    }

    fn vf(&self) -> Option<Vf> {
        let vf = self.around.vf.as_ref().ok()?;
        (self.wanted.pf != Choice::Off).then(|| vf.clone())
    }

    /// The guest's frames go to the tap. Doing it twice does no harm.
    pub fn to_standby(&mut self, reason: &str) -> Report {
        let mut report = Report::default();
        let pointed = match self.tap() {
            Some(tap) => self.hold_at(&tap, &mut report),
            None => false,
        };
        // Unknown is better than wrong: the bridge then sends the frames everywhere.
        if let (false, Some(uplink)) = (pointed, self.uplink()) {
            self.forget_at(&uplink, &mut report);
        }
        // Before the VF loses the address: somebody has it at every moment, also with a NIC that does not let it go.
        self.ask_on_pf(&mut report);
        self.free_vf(&mut report);
        self.told(Moment::ToStandby, reason, report)
    }

    /// Whether [`to_standby`](Self::to_standby) was the last moment and nothing failed.
    fn is_at_standby(&self) -> bool {
        self.last
            .as_ref()
            .is_some_and(|last| last.moment == Moment::ToStandby && last.is_clean())
    }

    /// [`to_standby`](Self::to_standby), unless that was the last moment and all is as it was left then: a driver may have
    /// had its NIC set the VF's address anew on its way out (igbvf resets the VF and sets it), and so after the host's first
    /// step. `None`: there was nothing to do.
    pub fn stay_at_standby(&mut self, reason: &str) -> Option<Report> {
        if self.is_at_standby() && !self.vf_has_address() {
            return None;
        }
        Some(self.to_standby(reason))
    }

    /// Whether the NIC hands the guest's frames to the VF, as far as it says so.
    fn vf_has_address(&mut self) -> bool {
        let Some(vf) = self.vf() else {
            return false;
        };
        let state = self.kernel.vf(vf.pf.index, vf.number);
        state.is_ok_and(|state| state.mac == Some(self.wanted.mac))
    }

    /// Gives the VF the guest's address, which its driver takes when it probes. The NIC hands the
    /// guest's frames to the VF from now on, and where it can to the tap as well.
    pub fn arm_primary(&mut self) -> Report {
        let mut report = Report::default();
        self.show_both(&mut report);
        // Before the address: from then on frames come.
        self.set_wanted_vlan(&mut report);
        self.set_vf_mac(self.wanted.mac, &mut report);
        let reason = "the guest's driver begins to probe the primary";
        self.told(Moment::ArmPrimary, reason, report)
    }

    /// The guest's frames from the wire go to the tap too, whatever the VF gets: for the time in which
    /// only the guest knows which of its interfaces is in use. A NIC that hands a frame to one
    /// function alone gives it to whom it did before.
    pub fn to_both(&mut self, reason: &str) -> Report {
        let mut report = Report::default();
        self.show_both(&mut report);
        self.told(Moment::ToBoth, reason, report)
    }

    fn show_both(&mut self, report: &mut Report) {
        if let Some(tap) = self.tap() {
            self.hold_at(&tap, report);
            self.ask_on_pf(report);
        }
    }

    /// The guest's frames go to the primary; [`Steering::arm_primary`] is done if it was not.
    pub fn to_primary(&mut self, reason: &str) -> Report {
        let mut report = Report::default();
        self.remove_from_pf(&mut report);
        if self.vf_mac != Some(self.wanted.mac) {
            self.set_wanted_vlan(&mut report);
            self.set_vf_mac(self.wanted.mac, &mut report);
        }
        match (self.uplink(), self.tap()) {
            // The VF is behind its PF for everyone on this bridge. Held: until its link is up there a guest sends over its
            // standby, and the bridge would learn that; what comes in on the standby it drops all the same.
            (Some(uplink), _) => {
                self.hold_at(&uplink, &mut report);
            }
            // Where the primary's wire leads the bridge has to learn.
            (None, Some(tap)) => self.forget_at(&tap, &mut report),
            (None, None) => {}
        }
        self.told(Moment::ToPrimary, reason, report)
    }

    /// The guest runs on another host: nothing here claims its address, so that this host's own
    /// traffic finds it by the wire.
    pub fn guest_left(&mut self, reason: &str) -> Report {
        let mut report = Report::default();
        self.free_vf(&mut report);
        self.remove_from_pf(&mut report);
        for port in [self.tap(), self.uplink()].into_iter().flatten() {
            self.forget_at(&port, &mut report);
        }
        self.told(Moment::GuestLeft, reason, report)
    }

    /// The primary is no part of the pair any more, and the guest is on its standby: the VF gets back what it was found with,
    /// but not the guest's address, by which the NIC would keep the guest's frames for nobody.
    pub fn primary_deleted(&mut self) -> Report {
        let mut report = Report::default();
        self.remove_from_pf(&mut report);
        self.give_vf_back(&mut report, false);
        let report = self.told(Moment::PrimaryDeleted, "the primary was deleted", report);
        self.wanted.primary = None;
        self.wanted.vf_address = None;
        let deleted = || "the primary was deleted".to_owned();
        self.around.vf = Err(deleted());
        if !matches!(self.wanted.primary_port, Choice::Named(_)) {
            self.around.uplink = Err(deleted());
        }
        self.note_found();
        report
    }

    /// Takes back what was done here: the VF has the address and the VLAN it was found with, the tables no entry of
    /// ours.
    pub fn restore(&mut self, reason: &str) -> Report {
        let mut report = Report::default();
        self.remove_from_pf(&mut report);
        if let Some(port) = self.pointed.clone() {
            self.forget_at(&port, &mut report);
        }
        self.give_vf_back(&mut report, true);
        self.told(Moment::End, reason, report)
    }

    /// Waits until the hook was told all, within bounds ([`HookConfig::timeout`], for all together).
    pub fn finish(&mut self) {
        if let Some(hook) = &mut self.hook {
            hook.finish();
        }
    }

    /// Tells what failed: once, until it is done after all or fails in another way. A guest decides how often its switch is
    /// steered.
    fn tell_failures(&mut self, moment: Moment, report: &Report) {
        for (step, outcome) in &report.steps {
            let step = step.to_string();
            let Outcome::Failed(error) = outcome else {
                self.failing.remove(&step);
                continue;
            };
            let (standby, error) = (self.wanted.standby.clone(), error.to_string());
            if self.failing.insert(step.clone(), error.clone()).as_ref() == Some(&error) {
                continue;
            }
            tracing::warn!(
                standby,
                error,
                "steering the host's switch: '{step}' failed"
            );
            (self.listener)(Trouble {
                standby,
                moment,
                step,
                error,
            });
        }
    }

    /// Tells the hook, and whoever listens what failed.
    fn told(&mut self, moment: Moment, reason: &str, report: Report) -> Report {
        self.tell_failures(moment, &report);
        if let Some(hook) = &self.hook {
            let (wanted, around) = (&self.wanted, &self.around);
            let json = moment::record(moment, reason, wanted, &self.vlans, around, &report);
            hook.hand(moment, json);
        }
        self.last = Some(Last::new(moment, reason, &report));
        report
    }

    /// Points at the port and holds the entry there: many NICs hand a broadcast that the host sends back to the host
    /// (their VFs are on that wire too), and a bridge that learned from it would send the guest's frames out again. A
    /// kernel that cannot hold an entry (before 4.20) passes the flag over.
    fn hold_at(&mut self, port: &Port, report: &mut Report) -> bool {
        let result = self
            .kernel
            .add_entry(port.index, self.wanted.mac, Table::Bridge);
        let step = Step::PointAt {
            mac: self.wanted.mac,
            port: port.name.clone(),
        };
        let good = report.note(&self.wanted.standby, step, result);
        if good {
            self.pointed = Some(port.clone());
        }
        good
    }

    fn forget_at(&mut self, port: &Port, report: &mut Report) {
        let result = self
            .kernel
            .delete_entry(port.index, self.wanted.mac, Table::Bridge);
        let step = Step::ForgetAt {
            mac: self.wanted.mac,
            port: port.name.clone(),
        };
        if report.note(&self.wanted.standby, step, result) && self.pointed.as_ref() == Some(port) {
            self.pointed = None;
        }
    }

    /// Takes the address off the VF.
    fn free_vf(&mut self, report: &mut Report) {
        self.set_vf_mac(NO_MAC, report);
    }

    /// Asks the NIC to hand the guest's frames to the host, if they get from there to the tap: else its switch would keep
    /// them from whoever they are for. That the PF is promiscuous as a bridge's port is not enough: a NIC's switch may hand
    /// what it does not know to the wire alone, or to the VFs.
    fn ask_on_pf(&mut self, report: &mut Report) {
        let Some(Vf { pf, .. }) = self.vf().filter(|_| self.around.uplink.is_ok()) else {
            return;
        };
        if self.asked_on.as_ref() == Some(&pf) {
            return;
        }
        // The primary is another NIC's now, or its PF's driver was loaded anew.
        self.remove_from_pf(report);
        let result = self.kernel.add_entry(pf.index, self.wanted.mac, Table::Own);
        let step = Step::AddToPf {
            mac: self.wanted.mac,
            pf: pf.name.clone(),
        };
        if report.note(&self.wanted.standby, step, result) {
            self.asked_on = Some(pf);
        }
    }

    fn remove_from_pf(&mut self, report: &mut Report) {
        let Some(pf) = self.asked_on.clone() else {
            return;
        };
        let result = self
            .kernel
            .delete_entry(pf.index, self.wanted.mac, Table::Own);
        let step = Step::RemoveFromPf {
            mac: self.wanted.mac,
            pf: pf.name,
        };
        if report.note(&self.wanted.standby, step, result) {
            self.asked_on = None;
        }
    }

    fn set_vf_mac(&mut self, mac: Mac, report: &mut Report) -> bool {
        let Some(vf) = self.vf() else {
            return false;
        };
        let result = self.kernel.set_vf_mac(vf.pf.index, vf.number, mac);
        let step = Step::SetVfMac {
            pf: vf.pf.name,
            vf: vf.number,
            mac,
        };
        let good = report.note(&self.wanted.standby, step, result);
        if good {
            self.vf_mac = Some(mac);
        }
        good
    }

    /// Puts the VF on the VLAN that was chosen, if one was.
    fn set_wanted_vlan(&mut self, report: &mut Report) {
        if let Some(id) = self.wanted.vf_vlan
            && self.vf_vlan.is_none_or(|now| now.id != id)
        {
            self.set_vf_vlan(VfVlan { id, qos: 0 }, report);
        }
    }

    fn set_vf_vlan(&mut self, vlan: VfVlan, report: &mut Report) {
        let Some(vf) = self.vf() else { return };
        let result = self.kernel.set_vf_vlan(vf.pf.index, vf.number, vlan);
        let step = Step::SetVfVlan {
            pf: vf.pf.name,
            vf: vf.number,
            vlan,
        };
        if report.note(&self.wanted.standby, step, result) {
            self.vf_vlan = Some(vlan);
        }
    }

    /// The VF has what it was found with; the guest's address only if `own` says so.
    fn give_vf_back(&mut self, report: &mut Report, own: bool) {
        let Some(vf) = self.vf() else { return };
        if let Some(mac) = vf.mac_found
            && self.vf_mac != Some(mac)
            && (own || mac != self.wanted.mac)
        {
            self.set_vf_mac(mac, report);
        }
        if let Some(vlan) = vf.vlan_found
            && self.vf_vlan != Some(vlan)
        {
            self.set_vf_vlan(vlan, report);
        }
    }
}

#[cfg(test)]
mod tests;
