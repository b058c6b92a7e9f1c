//! What goes wrong.

use crate::cell::Scene;
use crate::moments::{Course, Moment};
use crate::stage::{self, Halt, SOURCE, Stage, TARGET, port, primary};
use anyhow::{Context as _, Result};
use guest_model::{Act, InProcessBus, Moment as Step};
use hypervisor::Bus as _;
use machine::inspect::{Path, Phase};
use rustix::process::Signal;
use std::fs::OpenOptions;
use std::time::Duration;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    Cancel,
    TargetKilled,
    CommandFails,
    StreamCut,
    StreamStalled,
    TargetMemory,
    SourceVfGone,
    TargetVfGone,
    EjectLate,
    EjectNever,
    EjectTwice,
    Reboot,
    Panic,
    ClientGone,
    TargetClientGone,
    DiskFull,
    SourceClockJump,
    TargetClockJump,
}

/// Where a fault comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Group {
    /// What becomes of the migration's channel, and of who is at its ends.
    Channel,
    Host,
    Guest,
}

impl Group {
    pub(crate) const ALL: [Self; 3] = [Self::Channel, Self::Host, Self::Guest];
}

/// An eject that comes when nobody waits for it any more.
const LATE: Duration = Duration::from_secs(40);
const JUMP: Duration = Duration::from_secs(3600);

/// Memory of the guest's that nothing else uses; more than a socket, a pipe or what is left of a file's last block takes.
const LAST_WRITTEN: (u64, usize) = (12 << 20, 1 << 20);

const STOPPED: &str = "the guest is stopped";
const HAS_LET_GO: &str = "the guest has let go, and is not asked";
const NOT_IN_USE: &str = "the guest does not use it yet, and is not asked";
const NO_TARGET_YET: &str = "there is no target yet; `file: loading` has one";
const NO_COMMAND: &str = "no command is at the other end";
const NO_CONNECTION: &str =
    "a file is no connection; of one that ends too early `file: loading` tells";
const CONNECTION_ENDED: &str = "the connection has ended";
const ALL_WRITTEN: &str = "all of it is written";
const MEMORY_IS_THERE: &str = "all that was sent of guest memory is there; what the guest touches first afterwards ends \
                               the process (SIGBUS), and that is `target killed`";

impl Fault {
    pub(crate) const ALL: [Self; 18] = [
        Self::Cancel,
        Self::TargetKilled,
        Self::CommandFails,
        Self::StreamCut,
        Self::StreamStalled,
        Self::TargetMemory,
        Self::SourceVfGone,
        Self::TargetVfGone,
        Self::EjectLate,
        Self::EjectNever,
        Self::EjectTwice,
        Self::Reboot,
        Self::Panic,
        Self::ClientGone,
        Self::TargetClientGone,
        Self::DiskFull,
        Self::SourceClockJump,
        Self::TargetClockJump,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Cancel => "cancel",
            Self::TargetKilled => "target killed",
            Self::CommandFails => "command fails",
            Self::StreamCut => "stream cut",
            Self::StreamStalled => "stream stalled",
            Self::TargetMemory => "target out of memory",
            Self::SourceVfGone => "source's VF gone",
            Self::TargetVfGone => "target's VF gone",
            Self::EjectLate => "eject late",
            Self::EjectNever => "eject never",
            Self::EjectTwice => "eject twice",
            Self::Reboot => "guest reboot",
            Self::Panic => "guest panic",
            Self::ClientGone => "QMP client gone",
            Self::TargetClientGone => "target's QMP client gone",
            Self::DiskFull => "disk full",
            Self::SourceClockJump => "source's clock jumps",
            Self::TargetClockJump => "target's clock jumps",
        }
    }

    pub(crate) const fn group(self) -> Group {
        match self {
            Self::Cancel
            | Self::TargetKilled
            | Self::CommandFails
            | Self::StreamCut
            | Self::StreamStalled
            | Self::ClientGone
            | Self::TargetClientGone => Group::Channel,
            Self::TargetMemory
            | Self::SourceVfGone
            | Self::TargetVfGone
            | Self::DiskFull
            | Self::SourceClockJump
            | Self::TargetClockJump => Group::Host,
            Self::EjectLate | Self::EjectNever | Self::EjectTwice | Self::Reboot | Self::Panic => {
                Group::Guest
            }
        }
    }

    /// How it is done here.
    pub(crate) const fn about(self) -> &'static str {
        match self {
            Self::Cancel => "`migrate_cancel`, be there something to cancel or not",
            Self::TargetKilled => {
                "its connection ends, and it is gone; where it had the guest, `cont` on the source; of `exec:` the command and \
                 all that it has started are killed"
            }
            Self::CommandFails => {
                "it ends with a status that is not 0: before it has read anything, in the middle of it (what reads is killed), \
                 or having read everything"
            }
            Self::StreamCut => {
                "both sides see the connection end; of a file the end is missing; a command ends with 0 and has not read all"
            }
            Self::StreamStalled => {
                "nothing passes any more, either way, and a command reads nothing more; where no wait ends by itself, \
                 `migrate_cancel`"
            }
            Self::TargetMemory => "the file system that guest memory is in is full",
            Self::SourceVfGone => {
                "what an error of the function does (its event is the only thing that is played)"
            }
            Self::TargetVfGone => {
                "before the guest comes: `device_del`; after it: as on the source"
            }
            Self::EjectLate => {
                "asked for: 40 s later, after the deadline; else: an eject that nobody asked for; when stopped: written in the \
                 moment of the stop"
            }
            Self::EjectNever => {
                "the guest ignores every request; on the target, one of `failover-switch`"
            }
            Self::EjectTwice => "two ejects, one after the other",
            Self::Reboot => {
                "by the reset register; when stopped: written in the moment of the stop"
            }
            Self::Panic => "the guest does nothing for 10 s, then reboots (`panic=10`)",
            Self::ClientGone => {
                "who said `migrate` goes with an answer unread; another comes and goes in the middle of a line (`migrate_cancel`, or \
                 `migrate` itself); a third comes, and finds the migration as it was"
            }
            Self::TargetClientGone => {
                "the same of who said `migrate-incoming`, in the middle of `quit`"
            }
            Self::DiskFull => "the disk of the file, or of what the command writes",
            Self::SourceClockJump | Self::TargetClockJump => "by an hour",
        }
    }

    pub(crate) const fn needs_small_disk(self) -> bool {
        matches!(self, Self::TargetMemory | Self::DiskFull)
    }

    /// The machines are ordered by clients of their monitors.
    pub(crate) const fn needs_monitor(self) -> bool {
        matches!(self, Self::ClientGone | Self::TargetClientGone)
    }

    /// Why this cannot happen then, if it cannot.
    pub(crate) fn impossible_at(self, moment: Moment) -> Option<&'static str> {
        let (halt, course) = (moment.halt, moment.course);
        let command = course == Course::Command;
        let memory_is_there = moment.on_target() || moment.stopped() && halt != Halt::PreSwitchover;
        match self {
            Self::TargetKilled if moment.before_target() && !command => Some(NO_TARGET_YET),
            Self::TargetVfGone
            | Self::TargetClockJump
            | Self::TargetMemory
            | Self::TargetClientGone
                if moment.before_target() =>
            {
                Some(NO_TARGET_YET)
            }
            Self::CommandFails if !command => Some(NO_COMMAND),
            Self::StreamStalled if course == Course::File => Some(NO_CONNECTION),
            Self::StreamCut if course == Course::File && halt != Halt::Loading => {
                Some(NO_CONNECTION)
            }
            Self::StreamCut if halt == Halt::Taken => Some(ALL_WRITTEN),
            Self::StreamCut | Self::StreamStalled
                if moment.has_completed() && !moment.is_kept() =>
            {
                Some(CONNECTION_ENDED)
            }
            Self::TargetMemory if memory_is_there && !moment.is_kept() => Some(MEMORY_IS_THERE),
            Self::EjectNever if matches!(halt, Halt::Active | Halt::PreSwitchover) => {
                Some(HAS_LET_GO)
            }
            Self::EjectNever if matches!(halt, Halt::Resumed | Halt::Plugging) => Some(NOT_IN_USE),
            Self::EjectLate | Self::EjectNever | Self::EjectTwice | Self::Reboot
                if moment.stopped() && halt != Halt::PreSwitchover =>
            {
                Some(STOPPED)
            }
            Self::DiskFull if !moment.is_kept() => Some("no file is written"),
            Self::DiskFull if matches!(halt, Halt::Taken | Halt::Loading) => Some(ALL_WRITTEN),
            _ => None,
        }
    }

    /// It happens. The migration is halted, and goes on after it.
    pub(crate) fn strike(self, scene: &mut Scene, moment: Moment) -> Result<()> {
        let (pair, port) = (moment.pair(), port(moment.pair()));
        if moment.halt == Halt::PreSwitchover
            && matches!(
                self,
                Self::StreamStalled | Self::TargetMemory | Self::DiskFull
            )
        {
            // There is something to send still.
            let written = vec![0x5a; LAST_WRITTEN.1];
            let client = &scene.journey.source()?.machine.client;
            client.memory_write(LAST_WRITTEN.0, &written);
        }
        if moment.course == Course::Command && self.strikes_command(scene, moment)? {
            return Ok(());
        }
        let stage = &mut scene.journey.stage;
        match self {
            Self::Cancel => stage.host(SOURCE)?.cancel(),
            Self::TargetKilled => {
                scene.journey.relay.cut();
                match stage.hosts[TARGET].take() {
                    Some(target) => target.end(),
                    None => Ok(()),
                }
            }
            Self::CommandFails => Ok(()),
            Self::StreamCut if moment.halt == Halt::Loading => {
                let file = OpenOptions::new().write(true).open(&scene.file)?;
                Ok(file.set_len(file.metadata()?.len() / 2)?)
            }
            Self::StreamCut => {
                scene.journey.relay.cut();
                Ok(())
            }
            Self::StreamStalled => {
                scene.journey.relay.stall();
                Ok(())
            }
            Self::TargetMemory if moment.halt == Halt::Loading => {
                let disk = scene.small_disk.as_ref().context("no small disk")?;
                stage.replace_target(Some(disk.folder()))?;
                disk.fill()
            }
            Self::TargetMemory | Self::DiskFull => {
                let disk = scene.small_disk.as_ref();
                disk.context("no small disk")?.fill()
            }
            Self::SourceVfGone => lose_function(scene, SOURCE, pair),
            Self::TargetVfGone if moment.on_target() => lose_function(scene, TARGET, pair),
            Self::TargetVfGone => {
                let deletes = move |board: &mut machine::Board| board.device_del(&primary(pair));
                Ok(stage.host(TARGET)?.ask(deletes)??)
            }
            Self::EjectLate if moment.halt == Halt::WaitUnplug => {
                let late = Act::Slow(LATE);
                stage.guest.misbehave_behind(port, Step::Eject, late, 1);
                Ok(())
            }
            Self::EjectTwice if moment.halt == Halt::WaitUnplug => {
                let twice = Act::EjectTwice;
                stage.guest.misbehave_behind(port, Step::Eject, twice, 1);
                Ok(())
            }
            Self::EjectLate | Self::EjectTwice => {
                let mut stopping = InProcessBus::new(stage.bell.clone());
                let bus = if moment.stopped() {
                    // As the exit of a processor that was under way when it was stopped.
                    stopping.add_unstopped(
                        &stage.hosts[SOURCE]
                            .as_ref()
                            .context("no source")?
                            .machine
                            .client,
                    );
                    &mut stopping
                } else {
                    &mut stage.bus
                };
                for _ in 0..1 + usize::from(self == Self::EjectTwice) {
                    stage.guest.eject_unasked(bus, port, stage.now)?;
                }
                Ok(())
            }
            Self::EjectNever => {
                // With native hotplug what is noticed is a button, and what is asked for comes five seconds later.
                for step in [Step::Noticed, Step::DriverOut] {
                    stage.guest.misbehave_behind(port, step, Act::Ignore, 1000);
                }
                if moment.on_target() {
                    let order = move |board: &mut machine::Board| {
                        board.failover_switch(&primary(pair), Path::Standby)
                    };
                    stage.host(TARGET)?.ask(order)??;
                    stage.still = false;
                    let given_up = |stage: &Stage| {
                        Ok(stage.host(TARGET)?.pair(pair)?.phase != Some(Phase::Unplugging))
                    };
                    stage.until("the end of the order", given_up)?;
                }
                Ok(())
            }
            Self::Reboot if moment.stopped() => {
                stage.host(SOURCE)?.machine.client.port_write(0xcf9, &[6]);
                Ok(())
            }
            Self::Reboot => {
                stage.guest.reboot(&mut stage.bus, stage.now)?;
                if matches!(moment.halt, Halt::Listening | Halt::Setup) {
                    stage.until("the primary after the reboot", Stage::settled)?;
                }
                Ok(())
            }
            Self::Panic => {
                stage.panic();
                Ok(())
            }
            Self::ClientGone if moment.halt == Halt::Listening => {
                let half = format!(
                    "{{\"execute\": \"migrate\", \"arguments\": {{\"uri\": \"{}\"",
                    scene.journey.uri()
                );
                scene.journey.source()?.clients_go(&half)
            }
            Self::ClientGone => stage
                .host(SOURCE)?
                .clients_go("{\"execute\": \"migrate_cancel\""),
            Self::TargetClientGone if moment.on_target() => {
                let completed = |stage: &Stage| Ok(stage.host(TARGET)?.was("completed"));
                stage.wait("the target's word of the end", completed)?;
                stage.host(TARGET)?.clients_go("{\"execute\": \"quit\"")
            }
            Self::TargetClientGone => stage.host(TARGET)?.clients_go("{\"execute\": \"quit\""),
            Self::SourceClockJump => {
                stage.rest()?;
                let source = stage.host(SOURCE)?;
                let waits = source.alarm_in().is_some();
                source.jump(JUMP);
                if waits {
                    let ended = |stage: &Stage| Ok(stage.host(SOURCE)?.ended());
                    stage.wait("the end of its patience", ended)?;
                }
                Ok(())
            }
            Self::TargetClockJump => {
                stage.host(TARGET)?.jump(JUMP);
                Ok(())
            }
        }
    }
}

impl Fault {
    /// What it does to the command at the other end; `false` if nothing.
    fn strikes_command(self, scene: &mut Scene, moment: Moment) -> Result<bool> {
        let stage::Course::Command(command, _) = &scene.journey.course else {
            return Ok(false);
        };
        let reads = moment.halt == Halt::PreSwitchover;
        match self {
            Self::TargetKilled => command.signal(Signal::KILL, false)?,
            Self::StreamStalled => {
                command.signal(Signal::STOP, false)?;
                return Ok(true);
            }
            Self::CommandFails if reads => command.loses_reader(3)?,
            Self::CommandFails => command.ends(3)?,
            Self::StreamCut if reads => command.loses_reader(0)?,
            Self::StreamCut => command.ends(0)?,
            _ => return Ok(false),
        }
        // What is written before it has gone would be taken for read if it ends well.
        let ended = |stage: &Stage| Ok(stage.host(SOURCE)?.ended());
        scene.journey.stage.wait("the end of the command", ended)?;
        Ok(true)
    }
}

fn lose_function(scene: &Scene, at: usize, pair: usize) -> Result<()> {
    let host = scene.journey.stage.host(at)?;
    host.ask(move |board| board.primary_failed(&primary(pair), "it is gone"))
}
