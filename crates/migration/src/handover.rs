//! The hand-over: from the VM's stop on the source until it runs on the target.
//!
//! ```text
//!        source                                   target
//!   VM   runs                                     loads RAM
//!        │ stop
//!        │ last pages, devices, TakeOver ───────▶ loads all of it
//!   ①    │                                        │
//!        │ ◀─────────────────────────────── Loaded│
//!   ②    │ no more cancel (token sealed)          │ waits for Go
//!        │ Go ──────────────────────────────────▶ │
//!   ③    ┊ never resumes by itself                │ runs            VM
//!        │ ◀──────────────────────────────Resumed │
//!        completed                                completed
//! ```
//!
//! The VM never runs on both sides, because each side runs it only under its own rule:
//!
//! * The **target** runs it only once it has a whole `Go`. Whatever happens before (the connection lost, the stream wrong, a
//!   device that does not load), it fails, and never runs it.
//! * The **source** writes `Go` only after `Loaded`, and resumes by itself only while no `Go` can have reached the target, or
//!   when the target says after it that it failed (`Failed` is sent only by a target that does not run the VM).
//!
//! What goes wrong where:
//!
//! | | what | source | target |
//! |---|---|---|---|
//! | ① | target dies, refuses (`Failed`), stalls past `handover-timeout`; cancel | resumes | fails |
//! | ② | writing `Go` fails: the target cannot have it | resumes | fails |
//! | ③ | target says `Failed` | resumes | has failed |
//! | ③ | connection lost, no `Resumed` in time | stays stopped, `failed`, and says why | runs it if it got `Go` |
//!
//! The last line is the two generals' problem: no number of messages makes it go away. We choose the side that cannot corrupt a
//! guest: stopped on the source and running on at most one side, with an error that tells the operator how to end it.
//!
//! A one-way channel knows no answers. To a file (`file:`), the migration is complete when the file is on the disk; until then
//! the source may still resume. Behind a pipe (`exec:`, `fd:`) there may be a target, which runs the VM as soon as it has a
//! whole `TakeOver`: from the moment that is written the source never resumes by itself, and the command must then end well.

use memory::{DirtyPages, Ram};

use crate::link::SendError;
use crate::outgoing::Job;
use crate::precopy::PageSender;
use crate::state::State;
use crate::stream::{Kind, TakeOver};

impl Job<'_> {
    /// From the stop on. When this fails, [`Job::conclude`] knows what may be undone.
    pub(crate) fn hand_over(
        &mut self,
        ram: &Ram,
        sender: &mut PageSender<'_>,
        dirty: &mut DirtyPages,
    ) -> Result<(), SendError> {
        let shared = self.shared;
        let stopping = shared.clock.now();
        let stopped = self.source.stop_vm()?;
        self.stopped = Some(stopped);
        let precopy_bytes = self.link()?.sent_bytes();
        shared
            .statistics
            .update(|figures| figures.ram.precopy_bytes = precopy_bytes);

        if self.pause_before_switchover {
            self.advance(State::PreSwitchover)?;
            let waited = self
                .link()?
                .channel()
                .wait_for(&shared.proceed, &shared.cancel);
            if waited.is_err() {
                return Err(self.broken()?);
            }
        }
        self.advance(State::Device)?;
        // The VM stands still: a target that is stuck must not keep it so.
        let within = self.patience();
        self.link()?.hurry(within);

        // Devices first: saving may make them write to guest memory a last time.
        let devices = self.source.save_devices()?;
        self.sync_dirty(ram, dirty)?;
        shared
            .statistics
            .update(|figures| figures.ram.dirty_sync_count += 1);
        sender.send(self.link()?, dirty, &|| 0)?;
        for device in &devices {
            let what = format!("the state of device '{}'", device.name);
            self.link()?.send(Kind::Device, device, &what)?;
        }
        let end = TakeOver {
            run: stopped.was_running,
            devices: devices.len() as u64,
            pages: sender.pages(),
        };
        let pipe = self.link()?.is_pipe();
        if pipe && !shared.cancel.seal() {
            return Err(SendError::Cancelled);
        }
        let link = self.link()?;
        link.send(Kind::TakeOver, &end, "'take over'")?;
        let sent_bytes = link.sent_bytes();
        shared.statistics.update(|figures| {
            figures.ram.transferred_bytes = sent_bytes;
            figures.ram.downtime_bytes = sent_bytes.saturating_sub(precopy_bytes);
        });

        if self.link()?.is_bidirectional() {
            self.wait_for_target()?;
        } else {
            if let Some(link) = self.link.take() {
                link.finish(self.patience()).map_err(|error| {
                    if pipe {
                        SendError::Unknown(error.to_string())
                    } else {
                        error
                    }
                })?;
            }
            if !shared.cancel.seal() {
                return Err(SendError::Cancelled);
            }
        }
        let downtime = shared.clock.now().saturating_sub(stopping);
        shared
            .statistics
            .update(|figures| figures.downtime = Some(downtime));
        Ok(())
    }

    fn wait_for_target(&mut self) -> Result<(), SendError> {
        let shared = self.shared;
        let within = self.patience();
        let link = self.link()?;
        link.expect(Kind::Loaded, within)?;
        if !shared.cancel.seal() {
            return Err(SendError::Cancelled);
        }
        link.go()?;
        match link.expect(Kind::Resumed, within) {
            Ok(()) => Ok(()),
            Err(SendError::Refused(why)) => Err(SendError::Refused(why)),
            Err(error) => Err(SendError::Unknown(error.to_string())),
        }
    }
}
