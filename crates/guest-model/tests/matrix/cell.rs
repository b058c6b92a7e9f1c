//! One cell: up to the moment, the fault, on to the end; then what was promised must hold.

use crate::faults::Fault;
use crate::leftovers::Inventory;
use crate::moments::{Course, Moment};
use crate::small_disk::SmallDisk;
use crate::stage::{
    self, Command, Crew, Halt, Host, Journey, SOURCE, Setup, Stage, TARGET, primary,
};
use crate::table::Entry;
use anyhow::{Context as _, Result, ensure};
use machine::{Board, MachineEvent};
use migration::ParametersUpdate;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Within so much of the guest's time after the fault frames pass both ways, wherever the guest runs.
pub(crate) const REACHABLE: Duration = Duration::from_secs(1);
/// The same for a guest that does nothing for ten seconds.
pub(crate) const REACHABLE_AFTER_PANIC: Duration = Duration::from_secs(11);
/// The same when a function is gone that the guest lets go of five seconds after the slot's button was pressed.
pub(crate) const REACHABLE_AFTER_BUTTON: Duration = Duration::from_secs(6);
/// And its primary is back, or it is told why not: the deadline of an unplug, a late eject and a native slot's times.
pub(crate) const SETTLED: Duration = Duration::from_secs(60);
/// How long the other side has to answer, or to take what it is sent, where it does not.
const HANDOVER_MS: u64 = 400;

/// How the guest came to where it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Way {
    ByItself,
    /// The target was lost or may have the guest: the operator, who knows, said `cont` on the source.
    Continued,
    /// The file was loaded.
    Loaded,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Cell {
    Played {
        /// Which side runs the guest.
        at: usize,
        way: Way,
        /// Which primaries of how many are not back, and why, as the host tells it.
        missing: Vec<(usize, String)>,
        pairs: usize,
    },
    Impossible(&'static str),
    Skipped,
    Failed,
}

impl Cell {
    pub(crate) const fn is_played(&self) -> bool {
        matches!(self, Self::Played { .. })
    }

    /// What the page says of it.
    pub(crate) fn entry(&self) -> Entry {
        let (text, note) = match self {
            Self::Played {
                at,
                way,
                missing,
                pairs,
            } => {
                let side = if *at == SOURCE { "source" } else { "target" };
                let way = match way {
                    Way::ByItself => "",
                    Way::Continued => " (`cont`)",
                    Way::Loaded => " (file)",
                };
                let gone = match (missing.as_slice(), pairs) {
                    ([], _) => String::new(),
                    (_, 1) => ", no primary".to_owned(),
                    ([(which, _)], _) => format!(", no `{}`", primary(*which)),
                    _ => ", no primaries".to_owned(),
                };
                let reasons: BTreeSet<_> = missing.iter().map(|(_, reason)| reason).collect();
                let reasons: Vec<_> = reasons.iter().map(|name| format!("`{name}`")).collect();
                let note = (!missing.is_empty()).then(|| {
                    let reasons = reasons.join(", ");
                    format!("the primary is not back, and the host says so: {reasons}")
                });
                (format!("{side}{way}{gone}"), note)
            }
            Self::Impossible(why) => ("—".into(), Some((*why).to_owned())),
            Self::Skipped => ("skipped".into(), None),
            Self::Failed => ("**failed**".into(), None),
        };
        Entry { text, note }
    }
}

/// All there is in a cell.
pub(crate) struct Scene {
    pub(crate) journey: Journey,
    pub(crate) small_disk: Option<SmallDisk>,
    /// What is written, if anything.
    pub(crate) file: PathBuf,
}

impl Scene {
    fn set_up(
        folder: &Path,
        moment: Moment,
        fault: Fault,
        native: bool,
        seed: u64,
    ) -> Result<Self> {
        let disk = folder.join("small");
        let small_disk = fault
            .needs_small_disk()
            .then(|| SmallDisk::mount(&disk))
            .transpose()?;
        let memory = fault == Fault::TargetMemory && !moment.is_kept();
        let setup = Setup {
            native,
            two: moment.course == Course::TwoPairs,
            monitor: fault.needs_monitor(),
            memory: memory.then(|| disk.clone()),
            ..Setup::default()
        };
        let mut journey = Journey::start(folder, seed, &setup)?;
        let file = if fault == Fault::DiskFull {
            disk.join("guest")
        } else {
            folder.join("guest")
        };
        match moment.course {
            Course::Wire | Course::TwoPairs => {}
            Course::File => journey.course = stage::Course::File(file.clone()),
            Course::Command => {
                let command = Command::new(folder, &file)?;
                journey.course = stage::Course::Command(command, file.clone());
            }
        }
        let update = ParametersUpdate {
            handover_timeout_ms: (fault == Fault::StreamStalled).then_some(HANDOVER_MS),
            ..ParametersUpdate::default()
        };
        let source = journey.source()?;
        source.ask(move |board| board.migrate_set_parameters(&update))??;
        journey.hold()?;
        Ok(Self {
            journey,
            small_disk,
            file,
        })
    }

    /// Plays on until the migration has ended, if one is under way.
    fn finish(&mut self, moment: Moment, fault: Fault) -> Result<()> {
        if moment.halt == Halt::Listening && self.journey.source()?.runs() {
            if fault == Fault::SourceVfGone {
                // It is opened again first: a slot that is being powered cannot be asked for what is in it.
                let stage = &mut self.journey.stage;
                stage.until("the function's return", Stage::settled)?;
            }
            self.journey.migrate()?;
        } else if !moment.under_way() {
            return Ok(());
        }
        let stalled = fault == Fault::StreamStalled;
        if moment.is_kept() && !moment.stopped() && !stalled {
            self.journey.lets_go()?;
            self.journey.send_memory()?;
        }
        if let stage::Course::Command(command, _) = &self.journey.course {
            command.ends(0)?;
        }
        let stage = &mut self.journey.stage;
        let ended = |stage: &Stage| Ok(stage.host(SOURCE)?.ended());
        let endless = matches!(moment.halt, Halt::WaitUnplug | Halt::Active);
        match fault {
            Fault::StreamStalled if endless => {
                stage.until("the guest to let go", |stage| Ok(!stage.has_primary()))?;
                stage.host(SOURCE)?.cancel()?;
                stage.wait("the cancel", ended)
            }
            Fault::StreamStalled => stage.until("the migration's end", ended),
            Fault::Cancel | Fault::TargetKilled | Fault::StreamCut | Fault::CommandFails
                if moment.halt != Halt::Listening =>
            {
                stage.wait("the migration's end", ended)
            }
            // Only a guest that has to let go takes time.
            _ if endless || matches!(moment.halt, Halt::Listening | Halt::Setup) => {
                stage.until("the migration's end", ended)
            }
            _ => stage.wait("the migration's end", ended),
        }
    }

    /// A target loads what was written: the one that waits for that, or else another; says whether it runs the guest.
    fn load(&mut self, uri: &str, waits: bool) -> Result<bool> {
        let stage = &mut self.journey.stage;
        if !waits || stage.hosts[TARGET].is_none() {
            stage.replace_target(None)?;
        }
        stage.host(TARGET)?.listen(uri)?;
        stage.wait("the file", |stage| {
            let target = stage.host(TARGET)?;
            Ok(target.runs() || target.was("failed"))
        })?;
        Ok(stage.host(TARGET)?.runs())
    }

    /// Which side runs the guest; where neither does, the operator does what is left to do.
    fn runner(&mut self, moment: Moment, fault: Fault) -> Result<(usize, Way)> {
        let completed = self.journey.source()?.was("completed");
        // Or the source has only lost its patience, and what it said last is on its way.
        let told =
            matches!(moment.halt, Halt::Go | Halt::Resumed) && fault == Fault::SourceClockJump;
        if (completed || told) && !moment.is_kept() && self.journey.stage.hosts[TARGET].is_some() {
            // It may be stopped for a moment, for a reset.
            let runs = |stage: &Stage| Ok(stage.host(TARGET)?.runs());
            self.journey.stage.wait("the target", runs)?;
        }
        if let Some(at) = self.journey.stage.running()? {
            return Ok((at, Way::ByItself));
        }
        if completed && let Some(uri) = self.journey.kept() {
            let waits = moment.halt == Halt::Loading;
            let loaded = self.load(&uri, waits)?;
            let broken = waits && fault == Fault::StreamCut;
            ensure!(
                loaded != (broken || waits && fault == Fault::TargetMemory),
                "loaded: {loaded}"
            );
            // Where it was for want of memory, another target has that.
            if loaded || !broken && self.load(&uri, false)? {
                return Ok((TARGET, Way::Loaded));
            }
        }
        if moment.is_kept()
            && let Some(target) = self.journey.stage.hosts[TARGET].take()
        {
            target.end()?;
        }
        // Nobody but the operator knows that the target does not run the guest, and never will.
        self.journey.relay.cut();
        let stage = &mut self.journey.stage;
        let over = |stage: &Stage| Ok(stage.hosts[TARGET].as_ref().is_none_or(Host::ended));
        stage.wait("the target's end", over)?;
        ensure!(stage.running()?.is_none(), "the target runs the guest");
        stage.host(SOURCE)?.ask(Board::cont)??;
        self.journey.forget_target();
        Ok((SOURCE, Way::Continued))
    }
}

/// Plays a cell.
///
/// # Errors
/// Something that was promised does not hold.
pub(crate) fn play(moment: Moment, fault: Fault, native: bool, seed: u64) -> Result<Cell> {
    let before = Inventory::take()?;
    let folder = tempfile::tempdir()?;
    let scene = Scene::set_up(folder.path(), moment, fault, native, seed)?;
    let (cell, crew) = act(scene, moment, fault, native)?;
    before.restored(&crew)?;
    Ok(cell)
}

fn act(mut scene: Scene, moment: Moment, fault: Fault, native: bool) -> Result<(Cell, Crew)> {
    scene.journey.to(moment.halt).context("on the way")?;
    fault.strike(&mut scene, moment).context("the fault")?;
    let struck = scene.journey.stage.now;
    if fault == Fault::StreamStalled {
        scene.journey.go_on_without_wire()?;
    } else {
        scene.journey.go_on()?;
    }

    // The guest waits for its reset, and boots where that happens.
    let waits_for_reset = fault == Fault::Reboot && moment.stopped();
    scene.journey.stage.still = waits_for_reset;

    // Frames pass while the migration goes on, if the guest runs at all.
    let stage = &mut scene.journey.stage;
    let mut reached = None;
    if stage.reboots_at.is_some() && !(moment.is_kept() && moment.stopped()) {
        stage.until("the reboot", |stage| Ok(stage.reboots_at.is_none()))?;
    }
    if stage.running()?.is_some() && !stage.still {
        stage.reachable()?;
        reached = Some(stage.now - struck);
    }
    scene.finish(moment, fault)?;
    scene.journey.stage.still = waits_for_reset;
    let (at, way) = scene.runner(moment, fault)?;
    let stage = &mut scene.journey.stage;
    if waits_for_reset {
        let reset = MachineEvent::Reset(true);
        stage.wait("the reset", |s| Ok(s.host(at)?.events().contains(&reset)))?;
        stage.still = false;
        stage.guest.reboot(&mut stage.bus, stage.now)?;
    }
    stage.reachable()?;
    let reached = reached.unwrap_or(stage.now - struck);
    let bound = match fault {
        Fault::Panic => REACHABLE_AFTER_PANIC,
        Fault::SourceVfGone | Fault::TargetVfGone if native => REACHABLE_AFTER_BUTTON,
        _ => REACHABLE,
    };
    ensure!(reached <= bound, "reachable only after {reached:?}");

    stage.guest.behave();
    stage.until("the primary, or a reason", Stage::settled)?;
    let settled = stage.now - struck;
    ensure!(settled <= SETTLED, "settled only after {settled:?}");
    let missing = stage.primaries_or_reasons()?;
    let pairs = stage.pairs();
    stage.reachable()?;
    stage.check_frames()?;
    ensure!(stage.running()? == Some(at), "the guest has moved");

    let Scene {
        journey,
        small_disk,
        ..
    } = scene;
    let Journey { stage, relay, .. } = journey;
    drop(relay);
    let crew = stage.end()?;
    drop(small_disk);
    let played = Cell::Played {
        at,
        way,
        missing,
        pairs,
    };
    Ok((played, crew))
}
