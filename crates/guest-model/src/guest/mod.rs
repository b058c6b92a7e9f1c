//! The whole guest: boots, then lives in steps.
//!
//! ```text
//!   boot ─▶ RAM, configuration access, PCI tree, hotplug, drivers
//!   step ─▶ events of slots ─▶ jobs (with delays and misbehaviour) ─▶ drivers in and out, ejects
//!        └▶ interrupts of NICs ─▶ frames to their interface, links, announcements
//! ```
//!
//! The guest holds no bus: each call is handed one. So it moves to another machine with the machine's memory by being
//! handed the other machine's bus from then on.

mod nics;
mod slots;

use crate::behaviour::{Act, Behaviours, Moment};
use crate::bus::GuestBus;
use crate::error::GuestError;
use crate::failover::{Mac, Master};
use crate::hotplug::{AcpiHotplug, NativeSlot};
use crate::pci::{Bdf, ConfigAccess, MsiWords, PciTree, Windows, regs};
use crate::ram::GuestRam;
use crate::seed::Seed;
use crate::virtio::{NetDriver, NetOptions};
use slots::Job;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// How a guest is set up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestOptions {
    /// How its network drivers set their devices up.
    pub net: NetOptions,
    /// Where to put regions.
    pub windows: Windows,
    /// Where to have the memory-mapped configuration space; `None` uses ports alone.
    pub ecam: Option<u64>,
    /// For what it does at random.
    pub seed: u64,
}

impl Default for GuestOptions {
    fn default() -> Self {
        Self {
            net: NetOptions::default(),
            windows: Windows::default(),
            ecam: Some(0xb000_0000),
            seed: 0,
        }
    }
}

/// Something that happened in the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// A driver has its device.
    Bound {
        /// The function.
        bdf: Bdf,
        /// Its permanent address.
        mac: Mac,
        /// Whether it became a standby.
        standby: bool,
    },
    /// A driver has left its device.
    Unbound(Bdf),
    /// A driver cannot use its device, or not any more.
    Unusable(Bdf, String),
    /// A primary was paired with a standby.
    Paired {
        /// The standby.
        standby: Bdf,
        /// The primary.
        primary: Bdf,
    },
    /// A pair is one no more.
    Unpaired {
        /// The standby.
        standby: Bdf,
        /// What was its primary.
        primary: Bdf,
    },
    /// The guest is asked to let go of what is behind a port.
    Noticed(Bdf),
    /// The request was taken back in time, or refused.
    TakenBack(Bdf),
    /// The guest has ejected what was behind a port, or powered its slot off.
    Ejected(Bdf),
    /// A link went up or down.
    Link(Bdf, bool),
    /// A device asked for an announcement, and was answered.
    Announced(Bdf),
    /// The guest did as it was told to.
    Misbehaved(Moment, Act),
    /// The guest booted again.
    Rebooted,
}

/// A frame that reached an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// The interface's address.
    pub to: Mac,
    /// The device it came over.
    pub over: Bdf,
    /// The frame.
    pub frame: Vec<u8>,
}

#[derive(Debug, Clone)]
enum Hotplug {
    None,
    Acpi(AcpiHotplug),
    Native(Vec<NativeSlot>),
}

/// A guest.
#[derive(Debug, Clone)]
pub struct Guest {
    options: GuestOptions,
    ram: GuestRam,
    words: MsiWords,
    tree: PciTree,
    hotplug: Hotplug,
    nics: BTreeMap<Bdf, NetDriver>,
    masters: Vec<Master>,
    jobs: VecDeque<Job>,
    behaviours: Behaviours,
    seed: Seed,
    inbox: VecDeque<Delivery>,
    news: Vec<(Duration, News)>,
}

/// How often the end of a reset is looked for, and how long in between.
const RESET_LOOKS: u32 = 2000;
const RESET_PAUSE: Duration = Duration::from_millis(2);

impl Guest {
    /// Boots: enumerates, takes the slots over, gives each network function its driver.
    ///
    /// # Errors
    /// The bus; the machine has too little RAM. A device that its driver cannot use is news, no error.
    pub fn boot(
        bus: &mut dyn GuestBus,
        options: GuestOptions,
        now: Duration,
    ) -> Result<Self, GuestError> {
        let mut ram = GuestRam::ask(bus)?;
        let mut words = MsiWords::new(bus, &mut ram)?;
        let access = match options.ecam {
            Some(base) => ConfigAccess::open_ecam(bus, base)?,
            None => ConfigAccess::Ports,
        };
        let tree = PciTree::enumerate(bus, access, &options.windows)?;
        let hotplug = match AcpiHotplug::find(bus, &tree)? {
            Some(acpi) => Hotplug::Acpi(acpi),
            None => slots::take_over_native(bus, &tree, &mut words)?,
        };
        let mut guest = Self {
            seed: Seed::new(options.seed),
            options,
            ram,
            words,
            tree,
            hotplug,
            nics: BTreeMap::new(),
            masters: Vec::new(),
            jobs: VecDeque::new(),
            behaviours: Behaviours::default(),
            inbox: VecDeque::new(),
            news: Vec::new(),
        };
        let found: Vec<Bdf> = guest.tree.functions().iter().map(|f| f.bdf).collect();
        for bdf in found {
            guest.bind(bus, bdf, now)?;
        }
        Ok(guest)
    }

    /// Does all there is to do now. Call it again when time has passed or the machine may have done something.
    ///
    /// # Errors
    /// The bus; a slot that takes no commands. What one device does wrong is news.
    pub fn step(&mut self, bus: &mut dyn GuestBus, now: Duration) -> Result<(), GuestError> {
        self.look_at_slots(bus, now)?;
        self.do_jobs(bus, now)?;
        self.look_at_nics(bus, now)
    }

    /// The earliest time at which there is something to do without an event.
    pub fn next_deadline(&self) -> Option<Duration> {
        let jobs = self.jobs.iter().map(|job| job.due);
        jobs.chain(self.slot_deadlines()).min()
    }

    /// Behaves otherwise the next `times` times it comes to `moment`.
    pub fn misbehave(&mut self, moment: Moment, act: Act, times: u32) {
        self.behaviours.plan(None, moment, act, times);
    }

    /// The same behind one port alone.
    pub fn misbehave_behind(&mut self, port: Bdf, moment: Moment, act: Act, times: u32) {
        self.behaviours.plan(Some(port), moment, act, times);
    }

    /// Behaves well from now on.
    pub fn behave(&mut self) {
        self.behaviours.clear();
    }

    /// What happened since the last call, with its time.
    pub fn take_news(&mut self) -> Vec<(Duration, News)> {
        std::mem::take(&mut self.news)
    }

    fn tell(&mut self, now: Duration, news: News) {
        tracing::debug!(?now, ?news, "guest");
        self.news.push((now, news));
    }

    /// The functions, as this guest set them up.
    pub fn tree(&self) -> &PciTree {
        &self.tree
    }

    /// Its configuration accesses.
    pub fn access(&self) -> ConfigAccess {
        self.tree.access()
    }

    /// The failover interfaces.
    pub fn masters(&self) -> &[Master] {
        &self.masters
    }

    /// The driver of a function.
    pub fn nic(&self, bdf: Bdf) -> Option<&NetDriver> {
        self.nics.get(&bdf)
    }

    /// The driver of a function, for its control queue.
    pub fn nic_mut(&mut self, bdf: Bdf) -> Option<&mut NetDriver> {
        self.nics.get_mut(&bdf)
    }

    /// All functions with a network driver.
    pub fn nics(&self) -> impl Iterator<Item = (Bdf, &NetDriver)> {
        self.nics.iter().map(|(bdf, nic)| (*bdf, nic))
    }

    /// Whether hotplug goes by ACPI; the other way is native.
    pub fn has_acpi_hotplug(&self) -> bool {
        matches!(self.hotplug, Hotplug::Acpi(_))
    }

    /// Reboots by the reset control register, and boots again with the same options.
    ///
    /// # Errors
    /// The machine does not reset; as [`boot`](Self::boot).
    pub fn reboot(&mut self, bus: &mut dyn GuestBus, now: Duration) -> Result<(), GuestError> {
        self.reset_machine(bus)?;
        let options = self.options.clone();
        let mut booted = Self::boot(bus, options, now)?;
        booted.behaviours = std::mem::take(&mut self.behaviours);
        booted.seed = self.seed.clone();
        self.tell(now, News::Rebooted);
        let since = std::mem::replace(&mut booted.news, std::mem::take(&mut self.news));
        booted.news.extend(since);
        *self = booted;
        Ok(())
    }

    /// Changes the options, for the next boot and for drivers that bind from now on.
    pub fn options_mut(&mut self) -> &mut GuestOptions {
        &mut self.options
    }

    /// A reset is over when a bus mastering bit that was set is gone.
    fn reset_machine(&mut self, bus: &mut dyn GuestBus) -> Result<(), GuestError> {
        const RESET_CONTROL: u16 = 0xcf9;
        const FULL_RESET: [u32; 2] = [0x02, 0x06];
        let ports = ConfigAccess::Ports;
        let mut mark = None;
        for function in self.tree.functions().iter().filter(|f| f.bridge.is_none()) {
            ports.command(bus, function.bdf, regs::COMMAND_MASTER, 0)?;
            let command = ports.read16(bus, function.bdf, regs::COMMAND)?;
            if command != 0xffff && command & regs::COMMAND_MASTER != 0 {
                mark = Some(function.bdf);
                break;
            }
        }
        let Some(mark) = mark else {
            return Err(GuestError::Waited("a function that shows a reset".into()));
        };
        for value in FULL_RESET {
            bus.port_out(RESET_CONTROL, 1, value)?;
        }
        for _ in 0..RESET_LOOKS {
            let command = ports.read16(bus, mark, regs::COMMAND)?;
            if command & regs::COMMAND_MASTER == 0 {
                return Ok(());
            }
            bus.pause(RESET_PAUSE)?;
        }
        Err(GuestError::Waited("the machine's reset".into()))
    }
}
