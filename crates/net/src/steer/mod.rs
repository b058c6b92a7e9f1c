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
//! - [`Steering::restore`] at the end: what was found is put back.
//!
//! A step that fails is told and the others are done all the same: a switch that learns by itself gets
//! there a little later.
//!
//! *Rejected: `learning off` on the PF's port.* It keeps a late frame of the VF from moving the entry
//! back, and it also keeps the bridge from learning that the guest left for another host. *Rejected:
//! static entries.* They outlive the process that made them; a held one goes when the tap loses its
//! carrier, which is when the process ends.

mod discovery;
mod route;

use std::fmt;
use std::io;
use std::path::Path;

pub use discovery::{Port, Surroundings, Vf};
use route::{Route, Table};

use crate::announce::Mac;

const NO_MAC: Mac = [0; 6];

/// One change to the host's network. Its text is the command that does the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// The bridge sends frames for the guest to this port.
    PointAt {
        /// The guest's address.
        mac: Mac,
        /// Name of the port.
        port: String,
        /// What comes in at another port does not change that.
        held: bool,
    },
    /// The bridge knows nothing of the guest at this port any more.
    ForgetAt {
        /// The guest's address.
        mac: Mac,
        /// Name of the port.
        port: String,
    },
    /// The NIC hands frames for this address to the VF; all zeroes: none.
    SetVfMac {
        /// Name of the PF's interface.
        pf: String,
        /// The VF's number.
        vf: u32,
        /// The VF's administrative address.
        mac: Mac,
    },
    /// The NIC hands frames for the guest to the host.
    AddToPf {
        /// The guest's address.
        mac: Mac,
        /// Name of the PF's interface.
        pf: String,
    },
    /// The reverse of it.
    RemoveFromPf {
        /// The guest's address.
        mac: Mac,
        /// Name of the PF's interface.
        pf: String,
    },
}

struct MacText<'m>(&'m Mac);

impl fmt::Display for MacText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::PointAt { mac, port, held } => {
                let sticky = if *held { " sticky" } else { "" };
                write!(
                    f,
                    "bridge fdb replace {} dev {port} master dynamic{sticky}",
                    MacText(mac)
                )
            }
            Step::ForgetAt { mac, port } => {
                write!(f, "bridge fdb del {} dev {port} master", MacText(mac))
            }
            Step::SetVfMac { pf, vf, mac } => {
                write!(f, "ip link set dev {pf} vf {vf} mac {}", MacText(mac))
            }
            Step::AddToPf { mac, pf } => {
                write!(f, "bridge fdb add {} dev {pf} self", MacText(mac))
            }
            Step::RemoveFromPf { mac, pf } => {
                write!(f, "bridge fdb del {} dev {pf} self", MacText(mac))
            }
        }
    }
}

/// How a step ended.
#[derive(Debug)]
pub enum Outcome {
    /// Done.
    Done,
    /// It was so already.
    Already,
    /// The kernel said no.
    Failed(io::Error),
}

/// What was done, in its order.
#[derive(Debug, Default)]
pub struct Report {
    /// Each step with its end.
    pub steps: Vec<(Step, Outcome)>,
}

impl Report {
    /// Whether nothing failed.
    pub fn is_clean(&self) -> bool {
        self.failures().next().is_none()
    }

    /// The steps that failed.
    pub fn failures(&self) -> impl Iterator<Item = (&Step, &io::Error)> {
        self.steps
            .iter()
            .filter_map(|(step, outcome)| match outcome {
                Outcome::Failed(error) => Some((step, error)),
                _ => None,
            })
    }

    fn note(&mut self, step: Step, result: io::Result<()>) -> bool {
        let outcome = match result {
            Ok(()) => Outcome::Done,
            Err(e) if is_already(&step, &e) => Outcome::Already,
            Err(e) => Outcome::Failed(e),
        };
        let good = !matches!(outcome, Outcome::Failed(_));
        match &outcome {
            Outcome::Failed(e) => tracing::warn!("steering: '{step}' failed: {e}"),
            outcome => tracing::debug!("steering: '{step}': {outcome:?}"),
        }
        self.steps.push((step, outcome));
        good
    }
}

/// Deleting what is not there and adding what is there are no failures.
fn is_already(step: &Step, error: &io::Error) -> bool {
    match step {
        Step::ForgetAt { .. } | Step::RemoveFromPf { .. } => {
            matches!(error.raw_os_error(), Some(libc::ENOENT))
        }
        Step::AddToPf { .. } => error.raw_os_error() == Some(libc::EEXIST),
        _ => false,
    }
}

/// The host's switch around one pair.
#[derive(Debug)]
pub struct Steering {
    route: Route,
    mac: Mac,
    around: Surroundings,
    /// The VF's administrative address now, as far as known.
    vf_mac: Option<Mac>,
    /// Where an entry of ours is in the bridge's table.
    pointed: Option<Port>,
    /// Whether the PF's own filter has an entry of ours.
    on_pf: bool,
}

impl Steering {
    /// Looks around: the bridge of the tap `tap`, and the PF of the VF at PCI address `primary` (none
    /// for a primary of another kind). What is not there is a reason in [`Steering::surroundings`] and
    /// no error: there is then less to steer. Changes nothing.
    ///
    /// # Errors
    /// No netlink socket can be had in this network namespace.
    pub fn discover(tap: &str, primary: Option<&str>, mac: Mac) -> io::Result<Self> {
        Self::discover_in(Path::new("/sys"), tap, primary, mac)
    }

    /// [`Steering::discover`] where sysfs is mounted elsewhere.
    ///
    /// # Errors
    /// As there.
    pub fn discover_in(
        sysfs: &Path,
        tap: &str,
        primary: Option<&str>,
        mac: Mac,
    ) -> io::Result<Self> {
        let mut route = Route::open()?;
        let around = discovery::look(&mut route, sysfs, tap, primary)?;
        let vf_mac = around.vf.as_ref().ok().and_then(|vf| vf.mac_found);
        Ok(Self {
            route,
            mac,
            around,
            vf_mac,
            pointed: None,
            on_pf: false,
        })
    }

    /// What was found, and why the rest was not.
    pub fn surroundings(&self) -> &Surroundings {
        &self.around
    }

    /// One line for a log or for `info network`.
    pub fn describe(&self) -> String {
        let tap = match &self.around.tap {
            Ok(port) => format!("bridge port {}", port.name),
            Err(why) => format!("no bridge ({why})"),
        };
        let vf = match &self.around.vf {
            Ok(vf) => format!("VF {} of {}", vf.number, vf.pf.name),
            Err(why) => format!("no VF ({why})"),
        };
        match (&self.around.vf, &self.around.uplink) {
            (Ok(_), Err(why)) => format!("{tap}; {vf}; no uplink ({why})"),
            _ => format!("{tap}; {vf}"),
        }
    }

    /// The guest's frames go to the tap. Doing it twice does no harm.
    pub fn to_standby(&mut self) -> Report {
        let mut report = Report::default();
        let pointed = match self.around.tap.clone() {
            Ok(tap) => self.hold_at(&tap, &mut report),
            Err(_) => false,
        };
        // Unknown is better than wrong: the bridge then sends the frames everywhere.
        if let (false, Ok(uplink)) = (pointed, self.around.uplink.clone()) {
            self.forget_at(&uplink, &mut report);
        }
        self.free_vf(&mut report);
        report
    }

    /// Gives the VF the guest's address, which its driver takes when it probes. The NIC hands the
    /// guest's frames to the VF from now on, and where it can to the tap as well.
    pub fn arm_primary(&mut self) -> Report {
        let mut report = self.to_both();
        self.set_vf_mac(self.mac, &mut report);
        report
    }

    /// The guest's frames from the wire go to the tap too, whatever the VF gets: for the time in which
    /// only the guest knows which of its interfaces is in use. A NIC that hands a frame to one
    /// function alone gives it to whom it did before.
    pub fn to_both(&mut self) -> Report {
        let mut report = Report::default();
        if let Ok(tap) = self.around.tap.clone() {
            self.hold_at(&tap, &mut report);
            self.ask_on_pf(&mut report);
        }
        report
    }

    /// The guest's frames go to the primary; [`Steering::arm_primary`] is done if it was not.
    pub fn to_primary(&mut self) -> Report {
        let mut report = Report::default();
        self.remove_from_pf(&mut report);
        if self.vf_mac != Some(self.mac) {
            self.set_vf_mac(self.mac, &mut report);
        }
        match (self.around.uplink.clone(), self.around.tap.clone()) {
            // The VF is behind its PF for everyone on this bridge.
            (Ok(uplink), _) => {
                self.point_at(&uplink, &mut report);
            }
            // Where the primary's wire leads the bridge has to learn.
            (Err(_), Ok(tap)) => self.forget_at(&tap, &mut report),
            (Err(_), Err(_)) => {}
        }
        report
    }

    /// The guest runs on another host: nothing here claims its address, so that this host's own
    /// traffic finds it by the wire.
    pub fn guest_left(&mut self) -> Report {
        let mut report = Report::default();
        self.free_vf(&mut report);
        self.remove_from_pf(&mut report);
        for port in [self.around.tap.clone(), self.around.uplink.clone()]
            .into_iter()
            .flatten()
        {
            self.forget_at(&port, &mut report);
        }
        report
    }

    /// Takes back what was done here: the VF has the address it was found with, the tables no entry of
    /// ours.
    pub fn restore(&mut self) -> Report {
        let mut report = Report::default();
        self.remove_from_pf(&mut report);
        if let Some(port) = self.pointed.clone() {
            self.forget_at(&port, &mut report);
        }
        let found = self.around.vf.as_ref().ok().and_then(|vf| vf.mac_found);
        if let Some(found) = found
            && self.vf_mac != Some(found)
        {
            self.set_vf_mac(found, &mut report);
        }
        report
    }

    fn point_at(&mut self, port: &Port, report: &mut Report) -> bool {
        self.point(port, Table::Bridge, report)
    }

    /// Points at the port and holds the entry there: many NICs hand a broadcast that the host sends back to the host
    /// (their VFs are on that wire too), and a bridge that learned from it would send the guest's frames out again. A
    /// kernel that cannot hold an entry (before 4.20) passes the flag over.
    fn hold_at(&mut self, port: &Port, report: &mut Report) -> bool {
        self.point(port, Table::Held, report)
    }

    fn point(&mut self, port: &Port, table: Table, report: &mut Report) -> bool {
        let result = self.route.add_entry(port.index, self.mac, table);
        let step = Step::PointAt {
            mac: self.mac,
            port: port.name.clone(),
            held: table == Table::Held,
        };
        let good = report.note(step, result);
        if good {
            self.pointed = Some(port.clone());
        }
        good
    }

    fn forget_at(&mut self, port: &Port, report: &mut Report) {
        let result = self.route.delete_entry(port.index, self.mac, Table::Bridge);
        report.note(
            Step::ForgetAt {
                mac: self.mac,
                port: port.name.clone(),
            },
            result,
        );
        if self.pointed.as_ref() == Some(port) {
            self.pointed = None;
        }
    }

    /// Takes the address off the VF; where the NIC does not allow that, the host asks for it too.
    fn free_vf(&mut self, report: &mut Report) {
        if self.around.vf.is_ok() && !self.set_vf_mac(NO_MAC, report) {
            self.ask_on_pf(report);
        }
    }

    /// Asks the NIC to hand the guest's frames to the host.
    fn ask_on_pf(&mut self, report: &mut Report) {
        if self.on_pf {
            return;
        }
        if let Ok(vf) = self.around.vf.clone() {
            let result = self.route.add_entry(vf.pf.index, self.mac, Table::Own);
            let step = Step::AddToPf {
                mac: self.mac,
                pf: vf.pf.name,
            };
            self.on_pf = report.note(step, result);
        }
    }

    fn remove_from_pf(&mut self, report: &mut Report) {
        if !self.on_pf {
            return;
        }
        if let Ok(vf) = self.around.vf.clone() {
            let result = self.route.delete_entry(vf.pf.index, self.mac, Table::Own);
            let step = Step::RemoveFromPf {
                mac: self.mac,
                pf: vf.pf.name,
            };
            self.on_pf = !report.note(step, result);
        }
    }

    fn set_vf_mac(&mut self, mac: Mac, report: &mut Report) -> bool {
        let Ok(vf) = self.around.vf.clone() else {
            return false;
        };
        let result = self.route.set_vf_mac(vf.pf.index, vf.number, mac);
        let step = Step::SetVfMac {
            pf: vf.pf.name,
            vf: vf.number,
            mac,
        };
        let good = report.note(step, result);
        if good {
            self.vf_mac = Some(mac);
        }
        good
    }
}
