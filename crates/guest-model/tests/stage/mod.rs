//! Source, target, the wire between them and the guest on them, in this process.
//!
//! ```text
//!   Traffic ── frames ──▶ HostEnd ◀── dgram ──▶ Host 0 ── unix ── Relay ── unix ──▶ Host 1 ◀── dgram ──▶ HostEnd
//!      ▲                                          ▲                                   ▲
//!      └────────── Guest ── InProcessBus ─────────┴────── the one that runs ──────────┘
//! ```
//! Time passes only when there is nothing else to do ([`Stage::until`]) and no thread does anything ([`Crew`]), and then
//! up to the next moment that the guest or a machine waits for; what needs no time is waited for without
//! ([`Stage::wait`]). Whatever happens rings one bell.

#![allow(dead_code, unused_imports, unreachable_pub)] // Each test uses its part.

mod command;
mod crew;
mod host;
mod journey;
mod operator;
mod relay;
mod traffic;

pub use command::Command;
pub use crew::Crew;
pub use host::{Host, Setup, port, primary};
pub use journey::{Course, Halt, Journey};
pub use relay::{Relay, Section};
pub use traffic::Traffic;

use anyhow::{Context as _, Result, bail};
use guest_model::{Bdf, Bell, Guest, GuestBus as _, GuestOptions, InProcessBus, NetOptions, News};
use host::{mac, pair_of};
use machine::inspect::Phase;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What needs none of the guest's time and does not come for so long is not going to.
const PATIENCE: Duration = Duration::from_secs(60);
/// Memory of the guest's that cannot be sent as pages of zeros: more than a socket holds.
const FILLED: (u64, usize) = (8 << 20, 2 << 20);
/// By the guest's clock, nothing takes longer.
const LONGEST: Duration = Duration::from_secs(300);
/// A kernel that panicked reboots after this long (`panic=10`).
pub const PANIC_REBOOT: Duration = Duration::from_secs(10);

/// A thread that is at something rings when it is done, or else it is looked at again so soon.
const LOOK: Duration = Duration::from_micros(500);
/// Frames that go while time passes are so far apart.
const FRAME_INTERVAL: Duration = Duration::from_millis(10);

const ENDLESS: (u64, u64) = (u64::MAX, u64::MAX);

/// Which frames go both ways.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Frames {
    None,
    /// The next as soon as one came, of each pair up to these numbers, out and back.
    UpTo(Vec<(u64, u64)>),
    Endless,
    /// One every so often.
    Paced,
}

pub const SOURCE: usize = 0;
pub const TARGET: usize = 1;

pub struct Stage {
    pub bell: Bell,
    pub bus: InProcessBus,
    pub guest: Guest,
    pub now: Duration,
    pub hosts: [Option<Host>; 2],
    /// By pair.
    pub traffic: Vec<Traffic>,
    /// What both hosts have.
    setup: Setup,
    next_frame: Duration,
    /// The guest's processor does nothing: it hangs, or the test needs it between two steps.
    pub still: bool,
    /// The guest has panicked, and reboots then.
    pub reboots_at: Option<Duration>,
    /// How many targets there were besides the first.
    targets: usize,
    /// What happened, for who looks into a failure.
    diary: Vec<String>,
    folder: PathBuf,
    crew: Crew,
}

impl Stage {
    /// A source whose guest has its primary, or both. Everything goes to `folder`. Of `setup` only what both hosts have
    /// counts.
    pub fn start(folder: &Path, setup: &Setup, seed: u64) -> Result<Self> {
        let crew = Crew::gather(folder)?;
        let bell = Bell::new()?;
        let setup = Setup {
            native: setup.native,
            two: setup.two,
            monitor: setup.monitor,
            ..Setup::default()
        };
        let source = Host::start(&folder.join("source"), &setup, &bell)?;
        let mut bus = InProcessBus::new(bell.clone());
        bus.add(&source.machine.client, &source.machine.gate);
        let options = GuestOptions {
            seed,
            net: NetOptions {
                ring_limit: 16,
                ..NetOptions::default()
            },
            ..GuestOptions::default()
        };
        let guest = Guest::boot(&mut bus, options, Duration::ZERO)?;
        let mut stage = Self {
            bell,
            bus,
            guest,
            now: Duration::ZERO,
            hosts: [Some(source), None],
            traffic: (0..setup.pairs()).map(Traffic::new).collect(),
            setup,
            next_frame: Duration::ZERO,
            still: false,
            reboots_at: None,
            targets: 0,
            diary: Vec::new(),
            folder: folder.to_owned(),
            crew,
        };
        stage.until("the primary", |stage| Ok(stage.has_all()))?;
        Ok(stage)
    }

    /// A target that listens. Where the source is to connect, without a relay.
    pub fn add_target(&mut self, setup: &Setup) -> Result<PathBuf> {
        let setup = Setup {
            incoming: true,
            ..setup.clone()
        };
        let target = Host::start(&self.folder.join("target"), &setup, &self.bell)?;
        self.bus.add(&target.machine.client, &target.machine.gate);
        let socket = self.folder.join("incoming");
        target.listen(&format!("unix:{}", socket.display()))?;
        self.hosts[TARGET] = Some(target);
        Ok(socket)
    }

    /// Another target in the place of the first, which waits for a guest that does not come to it. It loads from nowhere
    /// yet.
    pub fn replace_target(&mut self, memory: Option<&Path>) -> Result<()> {
        if let Some(first) = self.hosts[TARGET].take() {
            first.end()?;
        }
        let setup = Setup {
            incoming: true,
            memory: memory.map(Path::to_owned),
            ..self.setup.clone()
        };
        self.targets += 1;
        let folder = self.folder.join(format!("target{}", self.targets));
        let target = Host::start(&folder, &setup, &self.bell)?;
        self.bus.add(&target.machine.client, &target.machine.gate);
        self.hosts[TARGET] = Some(target);
        Ok(())
    }

    /// Processes are looked for from now on, too.
    pub const fn starts_processes(&mut self) {
        self.crew.processes = true;
    }

    pub fn relay(&self, target: &Path) -> Result<Relay> {
        Relay::start(&self.folder, target, &self.bell)
    }

    pub fn host(&self, at: usize) -> Result<&Host> {
        self.hosts[at].as_ref().context("this host is gone")
    }

    /// Fills some of the guest's memory.
    pub fn fill(&mut self, seed: u8) -> Result<()> {
        let (address, bytes) = FILLED;
        let data: Vec<u8> = (0..bytes).map(|at| (at / 4096) as u8 ^ seed | 1).collect();
        Ok(self.bus.memory_write(address, &data)?)
    }

    /// The host that runs the guest.
    ///
    /// # Errors
    /// Both do.
    pub fn running(&self) -> Result<Option<usize>> {
        // The target first: if the guest moves between the two looks, neither sees it rather than both.
        let runs: Vec<usize> = [TARGET, SOURCE]
            .into_iter()
            .filter(|at| self.hosts[*at].as_ref().is_some_and(Host::runs))
            .collect();
        if runs.len() > 1 {
            bail!("the guest runs on both sides");
        }
        Ok(runs.first().copied())
    }

    pub const fn pairs(&self) -> usize {
        self.setup.pairs()
    }

    /// Whether the guest has this pair's primary.
    pub fn has(&self, pair: usize) -> bool {
        let mut masters = self.guest.masters().iter();
        masters.any(|master| master.mac == mac(pair) && master.primary.is_some())
    }

    /// Whether the guest has a primary.
    pub fn has_primary(&self) -> bool {
        (0..self.pairs()).any(|pair| self.has(pair))
    }

    /// Whether the guest has all of its primaries.
    pub fn has_all(&self) -> bool {
        (0..self.pairs()).all(|pair| self.has(pair))
    }

    /// The guest panics: it does nothing any more, and reboots in a while.
    pub fn panic(&mut self) {
        self.reboots_at = Some(self.now + PANIC_REBOOT);
    }

    /// Takes in what came to the hosts' ends of the networks.
    fn collect(&mut self) -> Result<()> {
        for end in self.hosts.iter().flatten().flat_map(|host| &host.ends) {
            while let Some(bytes) = end.receive()? {
                for traffic in &mut self.traffic {
                    traffic.arrived_outside(&bytes);
                }
            }
        }
        Ok(())
    }

    /// The guest does what there is to do, if it runs; frames are taken in, and sent.
    fn round(&mut self, frames: &Frames) -> Result<()> {
        self.collect()?;
        let Some(at) = self.running()?.filter(|_| !self.still) else {
            return Ok(());
        };
        match self.reboots_at {
            Some(then) if self.now < then => return Ok(()),
            Some(_) => {
                self.reboots_at = None;
                self.guest.reboot(&mut self.bus, self.now)?;
            }
            None => {}
        }
        self.guest.step(&mut self.bus, self.now)?;
        while let Some(delivery) = self.guest.receive() {
            for traffic in &mut self.traffic {
                traffic.arrived_inside(&delivery.frame);
            }
        }
        for (when, news) in self.guest.take_news() {
            self.diary.push(format!("{when:?} guest: {news:?}"));
            match news {
                News::Rebooted => self.torn(),
                News::Unbound(function) => {
                    let torn = self.traffic.get_mut(pair_of(function));
                    torn.into_iter().for_each(Traffic::torn);
                }
                _ => {}
            }
        }
        if *frames == Frames::Paced {
            if self.now < self.next_frame {
                return Ok(());
            }
            self.next_frame = self.now + FRAME_INTERVAL;
        }
        for (pair, traffic) in self.traffic.iter_mut().enumerate() {
            let up_to = match frames {
                Frames::None => return Ok(()),
                Frames::UpTo(numbers) => numbers.get(pair).copied().unwrap_or_default(),
                Frames::Endless | Frames::Paced => ENDLESS,
            };
            let sent = traffic.send(&self.hosts, at, &mut self.guest, &mut self.bus, up_to)?;
            self.diary.extend(sent);
        }
        Ok(())
    }

    /// What was under way of all pairs may be lost.
    pub fn torn(&mut self) {
        self.traffic.iter_mut().for_each(Traffic::torn);
    }

    /// Waits for the bell or a frame, and says whether something came.
    fn listen(&self, left: Duration) -> Result<bool> {
        let ends = self.hosts.iter().flatten().flat_map(|host| &host.ends);
        let ends: Vec<_> = ends.map(|end| end.as_fd()).collect();
        Ok(self.bell.wait(&ends, left)?)
    }

    /// Waits until something comes, or no thread is at anything; says whether something came.
    fn something_comes(&self) -> Result<bool> {
        while !self.crew.waits()? {
            if self.listen(LOOK)? {
                return Ok(true);
            }
        }
        // What the last of them did before it went to sleep.
        self.listen(Duration::ZERO)
    }

    /// Waits until no thread is at anything: whoever is to wait for something has begun to.
    pub fn rest(&self) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        while !self.crew.waits()? {
            if Instant::now() > end {
                bail!("somebody is always at something: {:?}", self.crew.names()?);
            }
            self.listen(LOOK)?;
        }
        Ok(())
    }

    /// Plays on until `done`, and no time passes.
    pub fn wait(&mut self, what: &str, done: impl FnMut(&Self) -> Result<bool>) -> Result<()> {
        self.play(what, Frames::None, false, done)
    }

    /// As [`wait`](Self::wait), with frames going both ways.
    pub fn wait_with_frames(
        &mut self,
        what: &str,
        done: impl FnMut(&Self) -> Result<bool>,
    ) -> Result<()> {
        self.play(what, Frames::Endless, false, done)
    }

    /// Plays on until `done`; time passes whenever nothing else happens.
    pub fn until(&mut self, what: &str, done: impl FnMut(&Self) -> Result<bool>) -> Result<()> {
        self.play(what, Frames::None, true, done)
    }

    /// As [`until`](Self::until), with frames going both ways.
    pub fn until_with_frames(
        &mut self,
        what: &str,
        done: impl FnMut(&Self) -> Result<bool>,
    ) -> Result<()> {
        self.play(what, Frames::Paced, true, done)
    }

    fn play(
        &mut self,
        what: &str,
        frames: Frames,
        time_passes: bool,
        mut done: impl FnMut(&Self) -> Result<bool>,
    ) -> Result<()> {
        let (end, limit) = (Instant::now() + PATIENCE, self.now + LONGEST);
        loop {
            self.bell.heard();
            self.round(&frames).with_context(|| what.to_owned())?;
            let next = self.moments(&frames)?;
            // What the machines did for that may concern the guest without an interrupt.
            self.round(&frames).with_context(|| what.to_owned())?;
            if done(self)? {
                return Ok(());
            }
            if Instant::now() > end || self.now > limit {
                return Err(self.stuck(what));
            }
            // What happened since, or is under way, is to be seen before time passes: it needs none.
            if self.something_comes()? {
                continue;
            }
            // Nobody sets another one now.
            let alarms = self.hosts.iter().flatten().filter_map(Host::alarm_in);
            match next.into_iter().chain(alarms).min().filter(|_| time_passes) {
                Some(next) => self.pass(next),
                None => {
                    // A process rings no bell; whatever it has done, it is asleep by now.
                    if self.crew.processes && done(self)? {
                        return Ok(());
                    }
                    self.listen(end.saturating_duration_since(Instant::now()))?;
                }
            }
        }
    }

    fn stuck(&self, what: &str) -> anyhow::Error {
        let mut lines = vec![format!("waited in vain for {what}, at {:?}", self.now)];
        for (at, host) in self.hosts.iter().enumerate() {
            let Some(host) = host else { continue };
            lines.push(format!(
                "host {at}: running {}, {:?}, steers to {:?}, {:?}",
                host.runs(),
                host.failure(),
                (0..self.pairs())
                    .map(|pair| host.path(pair))
                    .collect::<Vec<_>>(),
                host.events()
            ));
        }
        for (pair, traffic) in self.traffic.iter().enumerate() {
            let active = self.guest.active(mac(pair));
            lines.push(format!("guest's pair {pair} on {active:?}; {traffic:?}"));
        }
        lines.extend(self.diary.iter().rev().take(40).rev().cloned());
        anyhow::Error::msg(lines.join("\n    "))
    }

    /// How long until the guest or a machine has something to do by itself. All that was asked for so far is done by then.
    fn moments(&mut self, frames: &Frames) -> Result<Option<Duration>> {
        let mut moments = Vec::new();
        for host in self.hosts.iter().flatten() {
            moments.extend(host.due_in()?);
        }
        if self.running()?.is_some() && !self.still {
            let own = match self.reboots_at {
                Some(then) => Some(then),
                None => self.guest.next_deadline(),
            };
            let frame = (*frames == Frames::Paced).then_some(self.next_frame);
            let next = own.into_iter().chain(frame);
            moments.extend(next.map(|then| then.saturating_sub(self.now)));
        }
        Ok(moments.into_iter().min())
    }

    fn pass(&mut self, by: Duration) {
        let by = by.max(Duration::from_millis(1));
        self.now += by;
        self.diary.push(format!("{:?}", self.now));
        for host in self.hosts.iter().flatten() {
            host.clock.advance(by);
        }
    }

    /// Frames of each pair pass both ways from now on.
    pub fn reachable(&mut self) -> Result<()> {
        // A reboot that the test asked for itself is seen by the news of it.
        self.round(&Frames::None)?;
        let marks: Vec<_> = self.traffic.iter().map(Traffic::marks).collect();
        let wanted = marks.clone();
        let passed = move |stage: &Self| {
            let mut each = stage.traffic.iter().zip(&wanted);
            Ok(each.all(|(traffic, marks)| traffic.passed(*marks)))
        };
        self.play("frames both ways", Frames::UpTo(marks), true, passed)
    }

    /// No frame was doubled or came from nowhere, and none lost but where the path changed under it.
    pub fn check_frames(&self) -> Result<()> {
        for (account, overtaken) in self.traffic.iter().flat_map(Traffic::accounts) {
            if account.doubled > 0 || account.unknown > 0 || account.lost > overtaken {
                bail!("{account}; the path changed under {overtaken}");
            }
        }
        Ok(())
    }

    /// Each primary is with its guest, or nowhere on its way there.
    pub fn settled(&self) -> Result<bool> {
        let Some(at) = self.running()? else {
            return Ok(false);
        };
        let host = self.host(at)?;
        for (number, pair) in host.pairs()?.into_iter().enumerate() {
            let settled = match pair.phase {
                Some(Phase::Active) => self.has(number) && pair.reason.is_none(),
                // Told, and given up until somebody does something.
                Some(Phase::Plugging) => {
                    let guest_idle = self.guest.next_deadline().is_none();
                    guest_idle && host.told_missing(number) && host.due_in()?.is_none()
                }
                Some(Phase::Unplugging) => false,
                // A guest that has just arrived, or comes back: its primary follows.
                _ => pair.reason.is_none_or(|note| note.name != "migration"),
            };
            if !settled {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The guest has each primary, or the machine says why not: then, which pair's, and what it says.
    pub fn primaries_or_reasons(&self) -> Result<Vec<(usize, String)>> {
        let Some(at) = self.running()? else {
            bail!("the guest runs nowhere");
        };
        let mut missing = Vec::new();
        for (number, pair) in self.host(at)?.pairs()?.into_iter().enumerate() {
            let name = pair.primary.unwrap_or_default();
            match (self.has(number), pair.reason.map(|note| note.name)) {
                (true, None) => {}
                (true, Some(reason)) => {
                    bail!("the guest has {name}, and the host says: {reason}")
                }
                (false, Some(reason)) => missing.push((number, reason.to_owned())),
                (false, None) => bail!("the guest has no {name}, and the host does not say so"),
            }
        }
        Ok(missing)
    }

    /// Ends what is left of the machines; nothing of theirs may stay. Who is still there, the last one tells.
    pub fn end(self) -> Result<Crew> {
        for host in self.hosts.into_iter().flatten() {
            host.end()?;
        }
        Ok(self.crew)
    }
}
