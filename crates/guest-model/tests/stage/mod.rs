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

mod crew;
mod host;
mod journey;
mod relay;
mod traffic;

pub use crew::Crew;
pub use host::{Host, MAC, PRIMARY, STANDBY, Setup};
pub use journey::{Halt, Journey};
pub use relay::{Relay, Section};
pub use traffic::Traffic;

use anyhow::{Context as _, Result, bail};
use guest_model::{Bell, Guest, GuestBus as _, GuestOptions, InProcessBus, NetOptions, News};
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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Frames {
    None,
    /// The next as soon as one came, up to these numbers, out and back.
    UpTo((u64, u64)),
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
    pub traffic: Traffic,
    next_frame: Duration,
    /// The guest's processor does nothing: it hangs, or the test needs it between two steps.
    pub still: bool,
    /// The guest has panicked, and reboots then.
    pub reboots_at: Option<Duration>,
    /// What happened, for who looks into a failure.
    diary: Vec<String>,
    folder: PathBuf,
    crew: Crew,
}

impl Stage {
    /// A source whose guest has its primary. Everything goes to `folder`.
    pub fn start(folder: &Path, native: bool, seed: u64) -> Result<Self> {
        let crew = Crew::gather(folder)?;
        let bell = Bell::new()?;
        let setup = Setup {
            native,
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
            traffic: Traffic::new(),
            next_frame: Duration::ZERO,
            still: false,
            reboots_at: None,
            diary: Vec::new(),
            folder: folder.to_owned(),
            crew,
        };
        stage.until("the primary", |stage| Ok(stage.has_primary()))?;
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

    /// Another target in the place of the first, which waits for a guest that does not come to it.
    pub fn replace_target(&mut self, native: bool, uri: &str) -> Result<()> {
        if let Some(first) = self.hosts[TARGET].take() {
            first.end()?;
        }
        let setup = Setup {
            native,
            incoming: true,
            ..Setup::default()
        };
        let target = Host::start(&self.folder.join("second"), &setup, &self.bell)?;
        self.bus.add(&target.machine.client, &target.machine.gate);
        target.listen(uri)?;
        self.hosts[TARGET] = Some(target);
        Ok(())
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
        let runs: Vec<usize> = (0..self.hosts.len())
            .filter(|at| self.hosts[*at].as_ref().is_some_and(Host::runs))
            .collect();
        if runs.len() > 1 {
            bail!("the guest runs on both sides");
        }
        Ok(runs.first().copied())
    }

    pub fn has_primary(&self) -> bool {
        let mut masters = self.guest.masters().iter();
        masters.any(|master| master.primary.is_some())
    }

    /// The guest panics: it does nothing any more, and reboots in a while.
    pub fn panic(&mut self) {
        self.reboots_at = Some(self.now + PANIC_REBOOT);
    }

    /// The guest does what there is to do, if it runs; frames are taken in, and sent.
    fn round(&mut self, frames: Frames) -> Result<()> {
        self.traffic.collect(&self.hosts)?;
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
        self.traffic.take_in(&mut self.guest);
        for (when, news) in self.guest.take_news() {
            self.diary.push(format!("{when:?} guest: {news:?}"));
            if matches!(news, News::Rebooted | News::Unbound(_)) {
                self.traffic.torn();
            }
        }
        let up_to = match frames {
            Frames::UpTo(numbers) => numbers,
            Frames::Paced if self.now >= self.next_frame => {
                self.next_frame = self.now + FRAME_INTERVAL;
                ENDLESS
            }
            Frames::Paced | Frames::None => return Ok(()),
        };
        let sent = self
            .traffic
            .send(&self.hosts, at, &mut self.guest, &mut self.bus, up_to)?;
        self.diary.extend(sent);
        Ok(())
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
        self.play(what, Frames::UpTo(ENDLESS), false, done)
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
            self.round(frames).with_context(|| what.to_owned())?;
            let next = self.moments(frames)?;
            // What the machines did for that may concern the guest without an interrupt.
            self.round(frames).with_context(|| what.to_owned())?;
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
            match next.filter(|_| time_passes) {
                Some(next) => self.pass(next),
                None => {
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
                "host {at}: running {}, {:?}, steers to {}, {:?}",
                host.runs(),
                host.failure(),
                host.path(),
                host.events()
            ));
        }
        lines.push(format!("guest on {:?}", self.guest.active(MAC)));
        lines.push(format!("{:?}", self.traffic));
        lines.extend(self.diary.iter().rev().take(40).rev().cloned());
        anyhow::Error::msg(lines.join("\n    "))
    }

    /// How long until the guest or a machine has something to do by itself. All that was asked for so far is done by then.
    fn moments(&mut self, frames: Frames) -> Result<Option<Duration>> {
        let mut moments = Vec::new();
        for host in self.hosts.iter().flatten() {
            moments.extend(host.due_in()?);
        }
        if self.running()?.is_some() && !self.still {
            let own = match self.reboots_at {
                Some(then) => Some(then),
                None => self.guest.next_deadline(),
            };
            let frame = (frames == Frames::Paced).then_some(self.next_frame);
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

    /// Frames pass both ways from now on.
    pub fn reachable(&mut self) -> Result<()> {
        // A reboot that the test asked for itself is seen by the news of it.
        self.round(Frames::None)?;
        let marks = self.traffic.marks();
        let passed = move |stage: &Self| Ok(stage.traffic.passed(marks));
        self.play("frames both ways", Frames::UpTo(marks), true, passed)
    }

    /// No frame was doubled or came from nowhere, and none lost but where the path changed under it.
    pub fn check_frames(&self) -> Result<()> {
        for (account, overtaken) in self.traffic.accounts() {
            if account.doubled > 0 || account.unknown > 0 || account.lost > overtaken {
                bail!("{account}; the path changed under {overtaken}");
            }
        }
        Ok(())
    }

    /// The primary is with its guest, or nowhere on its way there.
    pub fn settled(&self) -> Result<bool> {
        let Some(at) = self.running()? else {
            return Ok(false);
        };
        let host = self.host(at)?;
        let pair = host.pair()?;
        Ok(match pair.phase {
            Some(Phase::Active) => self.has_primary() && pair.reason.is_none(),
            // Told, and given up until somebody does something.
            Some(Phase::Plugging) => {
                let guest_idle = self.guest.next_deadline().is_none();
                guest_idle && host.told_missing() && host.due_in()?.is_none()
            }
            Some(Phase::Unplugging) => false,
            // A guest that has just arrived, or comes back: its primary follows.
            _ => pair.reason.is_none_or(|note| note.name != "migration"),
        })
    }

    /// The guest has its primary, or the machine says why not: then, what it says.
    pub fn primary_or_reason(&self) -> Result<Option<String>> {
        let Some(at) = self.running()? else {
            bail!("the guest runs nowhere");
        };
        let pair = self.host(at)?.pair()?;
        match (
            self.has_primary(),
            pair.reason.map(|note| note.name.to_owned()),
        ) {
            (true, None) => Ok(None),
            (true, Some(reason)) => bail!("the guest has its primary, and the host says: {reason}"),
            (false, Some(reason)) => Ok(Some(reason)),
            (false, None) => bail!("the guest has no primary, and the host does not say so"),
        }
    }

    /// Ends what is left of the machines; nothing of theirs may stay. Who is still there, the last one tells.
    pub fn end(self) -> Result<Crew> {
        for host in self.hosts.into_iter().flatten() {
            host.end()?;
        }
        Ok(self.crew)
    }
}
