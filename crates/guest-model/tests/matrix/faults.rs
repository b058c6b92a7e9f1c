//! What goes wrong.

use crate::cell::Scene;
use crate::moments::Moment;
use crate::stage::{Halt, PRIMARY, SOURCE, Stage, TARGET};
use anyhow::Result;
use guest_model::{Act, Bdf, Moment as Step};
use hypervisor::Bus as _;
use machine::inspect::{Path, Phase};
use std::time::Duration;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    Cancel,
    TargetKilled,
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

/// The port behind which the primary is.
const PORT: Bdf = Bdf::new(0, 2, 0);
/// An eject that comes when nobody waits for it any more.
const LATE: Duration = Duration::from_secs(40);
const JUMP: Duration = Duration::from_secs(3600);

/// Memory of the guest's that nothing else uses.
const LAST_WRITTEN: u64 = 12 << 20;

const STOPPED: &str = "the guest is stopped";
const HAS_LET_GO: &str = "the guest has let go, and is not asked";
const NOT_IN_USE: &str = "the guest does not use it yet, and is not asked";
const NO_MIGRATION: &str = "no migration is under way";
const NO_TARGET: &str = "a file has no target";

impl Fault {
    pub(crate) const ALL: [Self; 16] = [
        Self::Cancel,
        Self::TargetKilled,
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
        Self::DiskFull,
        Self::SourceClockJump,
        Self::TargetClockJump,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Cancel => "cancel",
            Self::TargetKilled => "target killed",
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
            Self::DiskFull => "disk full",
            Self::SourceClockJump => "source's clock jumps",
            Self::TargetClockJump => "target's clock jumps",
        }
    }

    pub(crate) const fn group(self) -> Group {
        match self {
            Self::Cancel
            | Self::TargetKilled
            | Self::StreamCut
            | Self::StreamStalled
            | Self::ClientGone => Group::Channel,
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
            Self::Cancel => "`migrate_cancel`",
            Self::TargetKilled => {
                "its connection ends, and it is gone; where it had the guest, `cont` on the source"
            }
            Self::StreamCut => "both sides see the connection end",
            Self::StreamStalled => {
                "nothing passes any more, either way; where no wait ends by itself, `migrate_cancel`"
            }
            Self::TargetMemory => "the file system that guest memory is in is full",
            Self::SourceVfGone => {
                "what an error of the function does (its event is the only thing that is played)"
            }
            Self::TargetVfGone => {
                "before the guest comes: `device_del`; after it: as on the source"
            }
            Self::EjectLate => {
                "asked for: 40 s later, after the deadline; else: an eject that nobody asked for"
            }
            Self::EjectNever => {
                "the guest ignores every request; on the target, one of `failover-switch`"
            }
            Self::EjectTwice => "two ejects, one after the other",
            Self::Reboot => {
                "by the reset register; when stopped: written in the moment of the stop"
            }
            Self::Panic => "the guest does nothing for 10 s, then reboots (`panic=10`)",
            Self::ClientGone => "the monitor's client",
            Self::DiskFull => "the file's disk",
            Self::SourceClockJump | Self::TargetClockJump => "by an hour",
        }
    }

    pub(crate) const fn needs_small_disk(self) -> bool {
        matches!(self, Self::TargetMemory | Self::DiskFull)
    }

    /// Why this cannot happen then, if it cannot.
    pub(crate) const fn impossible_at(self, moment: Moment) -> Option<&'static str> {
        let (halt, file) = (moment.halt(), moment.to_file());
        match self {
            Self::Cancel if !moment.under_way() => Some(NO_MIGRATION),
            Self::TargetKilled | Self::TargetVfGone | Self::TargetClockJump if file => {
                Some(NO_TARGET)
            }
            Self::StreamCut | Self::StreamStalled if file => Some("a file is no connection"),
            Self::StreamCut | Self::StreamStalled if !moment.under_way() => Some(NO_MIGRATION),
            Self::TargetMemory if file => Some(NO_TARGET),
            Self::TargetMemory if moment.stopped() || moment.on_target() => {
                Some("all of guest memory is there")
            }
            Self::SourceVfGone if moment.on_target() => Some("the guest has left it"),
            Self::SourceVfGone if !moment.has_primary() => Some(
                "it is out of the guest; that it is gone shows when it is opened, and here nothing opens a function",
            ),
            Self::EjectLate | Self::EjectNever | Self::EjectTwice if moment.stopped() => {
                Some(STOPPED)
            }
            Self::EjectLate | Self::EjectNever if matches!(halt, Halt::Active) => Some(HAS_LET_GO),
            Self::EjectNever if matches!(halt, Halt::Resumed | Halt::Plugging) => Some(NOT_IN_USE),
            Self::Reboot if matches!(halt, Halt::Device | Halt::Loaded | Halt::Go) => Some(STOPPED),
            Self::ClientGone => Some(
                "no monitor is in this process; the program's is closed in its own tests (`model_guest`)",
            ),
            Self::DiskFull if !file => Some("no file is written"),
            _ => None,
        }
    }

    /// It happens. The migration is halted, and goes on after it.
    pub(crate) fn strike(self, scene: &mut Scene, moment: Moment) -> Result<()> {
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
            Self::StreamCut => {
                scene.journey.relay.cut();
                Ok(())
            }
            Self::StreamStalled => {
                scene.journey.relay.stall();
                Ok(())
            }
            Self::DiskFull if moment.stopped() => {
                // What the guest wrote last, so that what is left to send is more than the file's last block takes.
                let written = [0x5a; 1 << 16];
                let client = &stage.host(SOURCE)?.machine.client;
                client.memory_write(LAST_WRITTEN, &written);
                scene.small_disk()?.fill()
            }
            Self::TargetMemory | Self::DiskFull => scene.small_disk()?.fill(),
            Self::SourceVfGone => lose_function(scene, SOURCE),
            Self::TargetVfGone if moment.on_target() => lose_function(scene, TARGET),
            Self::TargetVfGone => {
                let deleted = stage.host(TARGET)?.ask(|board| board.device_del(PRIMARY))?;
                Ok(deleted?)
            }
            Self::EjectLate if matches!(moment.halt(), Halt::WaitUnplug) => {
                stage.guest.misbehave(Step::Eject, Act::Slow(LATE), 1);
                Ok(())
            }
            Self::EjectLate => Ok(stage.guest.eject_unasked(&mut stage.bus, PORT, stage.now)?),
            Self::EjectNever => {
                // With native hotplug what is noticed is a button, and what is asked for comes five seconds later.
                stage.guest.misbehave(Step::Noticed, Act::Ignore, 1000);
                stage.guest.misbehave(Step::DriverOut, Act::Ignore, 1000);
                if moment.on_target() {
                    let order =
                        |board: &mut machine::Board| board.failover_switch(PRIMARY, Path::Standby);
                    stage.host(TARGET)?.ask(order)??;
                    stage.still = false;
                    let given_up = |stage: &Stage| {
                        Ok(stage.host(TARGET)?.pair()?.phase != Some(Phase::Unplugging))
                    };
                    stage.until("the end of the order", given_up)?;
                }
                Ok(())
            }
            Self::EjectTwice if matches!(moment.halt(), Halt::WaitUnplug) => {
                stage.guest.misbehave(Step::Eject, Act::EjectTwice, 1);
                Ok(())
            }
            Self::EjectTwice => {
                stage.guest.eject_unasked(&mut stage.bus, PORT, stage.now)?;
                Ok(stage.guest.eject_unasked(&mut stage.bus, PORT, stage.now)?)
            }
            Self::Reboot if moment.stopped() => {
                stage.host(SOURCE)?.machine.client.port_write(0xcf9, &[6]);
                Ok(())
            }
            Self::Reboot => {
                stage.guest.reboot(&mut stage.bus, stage.now)?;
                if matches!(moment.halt(), Halt::Listening | Halt::Setup) {
                    stage.until("the primary after the reboot", Stage::settled)?;
                }
                Ok(())
            }
            Self::Panic => {
                stage.panic();
                Ok(())
            }
            Self::ClientGone => Ok(()),
            Self::SourceClockJump => {
                stage.host(SOURCE)?.jump(JUMP);
                Ok(())
            }
            Self::TargetClockJump => {
                stage.host(TARGET)?.jump(JUMP);
                Ok(())
            }
        }
    }
}

fn lose_function(scene: &Scene, at: usize) -> Result<()> {
    let host = scene.journey.stage.host(at)?;
    host.ask(|board| board.primary_failed(PRIMARY, "it is gone"))
}
