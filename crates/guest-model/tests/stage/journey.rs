//! A migration that is halted at a moment of its course.

use super::{Host, Relay, SOURCE, Section, Setup, Stage, TARGET};
use anyhow::{Result, ensure};
use guest_model::Guest;
use machine::Board;
use machine::inspect::Phase;
use migration::{Capability, ParametersUpdate};
use std::path::Path;

/// A moment at which a migration can be halted: how far source and target are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
}

/// A source with its guest, a target, and the wire between them.
pub struct Journey {
    pub stage: Stage,
    pub relay: Relay,
    /// Where to; by the wire, unless somebody sets it to a file.
    pub uri: String,
    /// The guest as it was when the source stopped it: what the source has of it still.
    left: Option<Guest>,
}

impl Journey {
    /// All of it in `folder`; the target differs from the source by `target`.
    pub fn start(folder: &Path, seed: u64, target: &Setup) -> Result<Self> {
        let mut stage = Stage::start(folder, target.native, seed)?;
        let socket = stage.add_target(target)?;
        stage.fill(1)?;
        let relay = stage.relay(&socket)?;
        let uri = relay.uri();
        Ok(Self {
            stage,
            relay,
            uri,
            left: None,
        })
    }

    pub fn source(&self) -> Result<&Host> {
        self.stage.host(SOURCE)
    }

    pub fn migrate(&self) -> Result<()> {
        self.source()?.migrate(&self.uri)
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
        if self.uri != self.relay.uri() {
            self.let_go_to_file()?;
            return self.source_was("pre-switchover");
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
                    ensure!(self.stage.has_primary(), "the primary did not come");
                }
                Ok(())
            }
        }
    }

    /// To a file there is no wire to hold anything on: memory goes at this rate, which is none.
    pub fn hold_file(&self) -> Result<()> {
        self.bandwidth(1)
    }

    /// Plays until the guest has let go, or the migration has ended without that; then the guest's processor stands
    /// still, and memory goes to the file.
    pub fn let_go_to_file(&mut self) -> Result<()> {
        self.stage.until("the eject", |stage| {
            let out = !stage.has_primary() && stage.guest.next_deadline().is_none();
            Ok(stage.host(SOURCE)?.ended() || out && stage.host(SOURCE)?.was("active"))
        })?;
        self.stage.still = true;
        self.bandwidth(0)
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
            self.stage.traffic.torn();
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
            Ok(target.runs() && target.pair()?.phase == Some(Phase::Plugging))
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
        if let Some(source) = &self.stage.hosts[SOURCE] {
            // Nothing waits for it unless it was halted there, and not any more if it was cancelled.
            let _ = source.ask(Board::migrate_continue)?;
        }
        Ok(())
    }

    /// However it went: the guest is reachable, its primary is back or the host says why not, and no frame was lost
    /// but where its path changed under it. Says where it runs, and that reason.
    pub fn arrives(mut self) -> Result<(usize, Option<String>)> {
        self.stage.guest.behave();
        self.stage.reachable()?;
        self.stage
            .until("the primary, or a reason", Stage::settled)?;
        let reason = self.stage.primary_or_reason()?;
        self.stage.reachable()?;
        self.stage.check_frames()?;
        let at = self.stage.running()?.unwrap_or(usize::MAX);
        drop(self.relay);
        self.stage.end()?;
        Ok((at, reason))
    }
}
