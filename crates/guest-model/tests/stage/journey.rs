//! A migration that is halted at a moment of its course.

use super::{Command, Host, Relay, SOURCE, Section, Setup, Stage, TARGET};
use anyhow::{Result, ensure};
use guest_model::Guest;
use machine::inspect::Phase;
use migration::{Capability, ParametersUpdate};
use std::path::{Path, PathBuf};

/// A moment at which a migration can be halted: how far source and target are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Halt {
    /// No migration yet; the target listens.
    Listening,
    /// Connected; the target's first answer is under way.
    Setup,
    /// The guest is asked for its primary, and has done nothing yet.
    WaitUnplug,
    /// It has let go; memory is under way.
    Active,
    /// The guest is stopped, and the operator is to say `migrate-continue`.
    PreSwitchover,
    /// The devices are sent; the target has not got the last of the stream.
    Device,
    /// The target has loaded all, and its word of it is under way.
    Loaded,
    /// The source's `Go` is under way.
    Go,
    /// The guest runs on the target, whose word of it is under way.
    Resumed,
    /// The primary is in the target's slot, and the guest has not looked.
    Plugging,
    /// The guest uses the primary on the target.
    Back,
    /// A command has read everything, and has not ended.
    Taken,
    /// What was written is whole; a target waits for the order to load it.
    Loading,
}

/// What a migration goes through.
pub enum Course {
    /// The wire, to the target.
    Wire,
    /// To this file; a target loads it afterwards.
    File(PathBuf),
    /// To a command that writes this file; a target loads it afterwards by another.
    Command(Command, PathBuf),
}

/// A source with its guest, a target, and the wire between them.
pub struct Journey {
    pub stage: Stage,
    pub relay: Relay,
    pub course: Course,
    /// The guest as it was when the source stopped it: what the source has of it still.
    left: Option<Guest>,
}

impl Journey {
    /// All of it in `folder`; the target differs from the source by `target`.
    pub fn start(folder: &Path, seed: u64, target: &Setup) -> Result<Self> {
        let mut stage = Stage::start(folder, target, seed)?;
        let socket = stage.add_target(target)?;
        stage.fill(1)?;
        let relay = stage.relay(&socket)?;
        Ok(Self {
            stage,
            relay,
            course: Course::Wire,
            left: None,
        })
    }

    pub fn source(&self) -> Result<&Host> {
        self.stage.host(SOURCE)
    }

    pub fn migrate(&self) -> Result<()> {
        self.source()?.migrate(&self.uri())
    }

    /// Where the source sends to.
    pub fn uri(&self) -> String {
        match &self.course {
            Course::Wire => self.relay.uri(),
            Course::File(path) => format!("file:{}", path.display()),
            Course::Command(command, _) => command.uri(),
        }
    }

    /// Where a target loads from what was written, if it was.
    pub fn kept(&self) -> Option<String> {
        match &self.course {
            Course::Wire => None,
            Course::File(path) => Some(format!("file:{}", path.display())),
            Course::Command(_, path) => Some(format!("exec:cat {}", path.display())),
        }
    }

    /// Migrates up to a moment. From where the machine may stop, the guest's processor is still: whoever wants it to
    /// run in the midst of a stop lets it.
    pub fn to(&mut self, halt: Halt) -> Result<()> {
        match halt {
            Halt::Listening => return Ok(()),
            Halt::Setup => self.relay.hold(Section::Ready),
            Halt::WaitUnplug => self.stage.still = true,
            Halt::PreSwitchover => {
                let pause = [(Capability::PauseBeforeSwitchover, true)];
                self.source()?
                    .ask(move |board| board.migrate_set_capabilities(&pause))??;
                self.relay.hold(Section::Ram);
            }
            _ => self.relay.hold(Section::Ram),
        }
        self.migrate()?;
        match halt {
            Halt::Setup => return self.wire_holds("setup"),
            Halt::WaitUnplug => return self.source_was("wait-unplug"),
            _ => {}
        }
        if !matches!(self.course, Course::Wire) {
            return self.on_to_kept(halt);
        }
        let relay = &self.relay;
        self.stage.until("pre-copy", |_| Ok(relay.holds()))?;
        self.source_was("active")?;
        if halt == Halt::Active {
            return Ok(());
        }
        self.stage.still = true;
        self.left = Some(self.stage.guest.clone());
        match halt {
            Halt::PreSwitchover => {
                self.relay.release();
                self.source_was("pre-switchover")
            }
            Halt::Device => {
                self.relay.hold(Section::TakeOver);
                self.wire_holds("the devices")?;
                self.source_was("device")
            }
            Halt::Loaded => {
                self.relay.hold(Section::Loaded);
                self.wire_holds("the target's word")
            }
            Halt::Go => {
                self.relay.hold(Section::Go);
                self.wire_holds("the source's word")
            }
            Halt::Resumed => {
                self.relay.hold(Section::Resumed);
                self.wire_holds("the target's last word")?;
                self.offered()
            }
            _ => {
                self.relay.release();
                self.source_was("completed")?;
                self.offered()?;
                if halt == Halt::Back {
                    self.stage.still = false;
                    self.stage.until("the primary", Stage::settled)?;
                    ensure!(self.stage.has_all(), "the primary did not come");
                }
                Ok(())
            }
        }
    }

    /// Halts what is not sent through the wire: memory goes to a file at a rate that is none, a command does not read
    /// yet.
    pub fn hold(&mut self) -> Result<()> {
        match &self.course {
            Course::Wire => Ok(()),
            Course::File(_) => self.bandwidth(1),
            Course::Command(..) => {
                self.stage.starts_processes();
                Ok(())
            }
        }
    }

    /// On from where the guest is asked for its primary.
    fn on_to_kept(&mut self, halt: Halt) -> Result<()> {
        self.lets_go()?;
        if halt == Halt::Active {
            return Ok(());
        }
        self.send_memory()?;
        if halt == Halt::PreSwitchover {
            return self.source_was("pre-switchover");
        }
        if let Course::Command(command, _) = &self.course {
            let taken = |_: &Stage| Ok(command.has_taken());
            self.stage.wait("the command to read all", taken)?;
            self.left = Some(self.stage.guest.clone());
            if halt == Halt::Taken {
                return self.source_was("device");
            }
            command.ends(0)?;
        }
        self.left = Some(self.stage.guest.clone());
        self.source_was("completed")?;
        self.stage.replace_target(None)
    }

    /// Plays until the guest has let go, or the migration has ended without that; then the guest's processor stands
    /// still.
    pub fn lets_go(&mut self) -> Result<()> {
        self.stage.until("the eject", |stage| {
            let out = !stage.has_primary() && stage.guest.next_deadline().is_none();
            Ok(stage.host(SOURCE)?.ended() || out && stage.host(SOURCE)?.was("active"))
        })?;
        self.stage.still = true;
        Ok(())
    }

    /// Lets memory go to the file, or to the command.
    pub fn send_memory(&self) -> Result<()> {
        match &self.course {
            Course::Wire => Ok(()),
            Course::File(_) => self.bandwidth(0),
            Course::Command(command, _) => command.reads(),
        }
    }

    fn bandwidth(&self, bytes: u64) -> Result<()> {
        let update = ParametersUpdate {
            max_bandwidth_bytes: Some(bytes),
            ..ParametersUpdate::default()
        };
        Ok(self
            .source()?
            .ask(move |board| board.migrate_set_parameters(&update))??)
    }

    /// The source is to run the guest again, which has gone on elsewhere since: it goes on as the source knows it.
    pub fn forget_target(&mut self) {
        if let Some(left) = self.left.take() {
            self.stage.guest = left;
            self.stage.torn();
        }
    }

    fn wire_holds(&mut self, what: &str) -> Result<()> {
        let relay = &self.relay;
        self.stage.wait(what, |_| Ok(relay.holds()))
    }

    fn source_was(&mut self, state: &str) -> Result<()> {
        self.stage
            .wait(state, |stage| Ok(stage.host(SOURCE)?.was(state)))
    }

    /// The target runs the guest and has put the primary into its slot.
    fn offered(&mut self) -> Result<()> {
        self.stage.wait("the primary in its slot", |stage| {
            let target = stage.host(TARGET)?;
            let pairs = target.pairs()?;
            let mut phases = pairs.iter().map(|pair| pair.phase);
            Ok(target.runs() && phases.all(|phase| phase == Some(Phase::Plugging)))
        })
    }

    /// Lets everything go on that was halted.
    pub fn go_on(&mut self) -> Result<()> {
        self.relay.release();
        self.go_on_without_wire()
    }

    /// The same, but the wire stays as it is.
    pub fn go_on_without_wire(&mut self) -> Result<()> {
        self.stage.still = false;
        match &self.stage.hosts[SOURCE] {
            Some(source) => source.go_on(),
            None => Ok(()),
        }
    }

    /// However it went: the guest is reachable, its primary is back or the host says why not, and no frame was lost
    /// but where its path changed under it. Says where it runs, and those reasons.
    pub fn arrives(mut self) -> Result<(usize, Vec<(usize, String)>)> {
        self.stage.guest.behave();
        self.stage.reachable()?;
        self.stage
            .until("the primary, or a reason", Stage::settled)?;
        let reasons = self.stage.primaries_or_reasons()?;
        self.stage.reachable()?;
        self.stage.check_frames()?;
        let at = self.stage.running()?.unwrap_or(usize::MAX);
        drop(self.relay);
        self.stage.end()?;
        Ok((at, reasons))
    }
}
