//! The way out: the guest is asked to let go of a primary, and what it answers; primaries that fail, and their deletion.

use super::Primary;
use crate::MachineError;
use crate::board::Board;
use crate::control::Control;
use crate::devices::device_path;
use failover::Event;
use pci::{SlotError, SlotEvent, SlotListener};
use std::sync::atomic::Ordering;

/// Hands what slots tell on to the control thread.
pub(crate) struct SlotWatcher(Control);

impl SlotWatcher {
    pub(crate) fn new(control: Control) -> Self {
        Self(control)
    }
}

impl SlotListener for SlotWatcher {
    fn slot_event(&self, event: SlotEvent) {
        self.0.post(move |board| board.slot_event(event));
    }
}

impl Board {
    pub(super) fn ask_unplug(&mut self, id: &str, attempt: u32) {
        let standby = self
            .pairs
            .pairs
            .by_primary(id)
            .map(|p| p.standby().to_owned());
        if let Some(standby) = standby {
            self.steer_to_both(&standby);
        }
        let asked = if attempt == 1 {
            self.hotplug.request_unplug(id)
        } else {
            self.hotplug.repeat_unplug_request(id)
        };
        match asked {
            Ok(()) => {}
            // It is in the midst of something with this slot: asked again before long.
            Err(SlotError::GuestBusy) => tracing::debug!(primary = id, "the slot is busy"),
            // The guest has just let go: that is on its way here.
            Err(SlotError::DeviceNotFound(_)) => {
                tracing::debug!(
                    primary = id,
                    attempt,
                    "asked of a slot that is empty already"
                );
            }
            // Asked before, for another purpose: that goes on.
            Err(SlotError::AlreadyUnplugging(_)) => {
                tracing::debug!(primary = id, attempt, "the guest is at it already");
            }
            Err(error) => self.feed(id, &Event::UnplugNotAsked(error.to_string())),
        }
    }

    pub(super) fn cancel_unplug_ask(&mut self, id: &str) {
        if let Err(error) = self.hotplug.withdraw_unplug(id) {
            tracing::debug!(primary = id, %error, "nothing to take back");
        }
        let pair = self
            .pairs
            .pairs
            .by_primary(id)
            .filter(|p| p.path() == failover::Path::Primary);
        if let Some(standby) = pair.map(|p| p.standby().to_owned()) {
            self.steer_to_primary(&standby);
        }
    }

    /// Takes a primary out of its slot without asking.
    pub(super) fn take_out(&mut self, id: &str) {
        self.hotplug.remove(id);
        self.left_slot(id);
    }

    pub(super) fn left_slot(&mut self, id: &str) {
        self.devices.remove(id);
        if let Some(primary) = self.pairs.primaries.get_mut(id) {
            primary.in_slot = false;
        }
    }

    /// A slot has something to tell.
    pub(crate) fn slot_event(&mut self, event: SlotEvent) {
        match event {
            SlotEvent::Noticed { bus } => tracing::debug!(bus, "the guest has seen the request"),
            SlotEvent::Kept { bus } => {
                let of = |(_, primary): &(&String, &Primary)| {
                    primary.in_slot && primary.place().bus == bus
                };
                let id = self.pairs.primaries().find(of).map(|(id, _)| id.clone());
                if let Some(id) = id {
                    let why = "its slot's driver called the removal off";
                    self.feed(&id, &Event::UnplugRefused(why.into()));
                }
            }
            SlotEvent::DriverLetGo { id, .. } => self.feed(&id, &Event::DriverOut),
            SlotEvent::LetGo {
                id, cause, asked, ..
            } => {
                tracing::info!(device = id, ?cause, asked, "the guest has let go");
                if self.pairs.primary(&id).is_none() {
                    return self.device_let_go(&id);
                }
                self.left_slot(&id);
                if self.pairs.pairs.by_primary(&id).is_some() {
                    self.feed(&id, &Event::GuestLetGo);
                } else {
                    self.forget_primary(&id, true);
                }
            }
        }
    }

    /// The host has found that a primary works no more: what its error event does, for whoever else finds it out.
    pub fn primary_failed(&mut self, id: &str, why: &str) {
        tracing::error!(primary = id, why, "a passed-through function is lost");
        self.feed(id, &Event::DeviceFailed(why.to_owned()));
    }

    /// The host waits for a function to be closed: whoever has it is asked for it, of whatever kind it is to its guest.
    pub fn function_wanted_back(&mut self, id: &str) {
        if self.pairs.pairs.by_primary(id).is_some() {
            return self.primary_failed(id, "the host wants it back");
        }
        tracing::warn!(
            device = id,
            "the host wants a passed-through function back: the guest is asked to let go of it"
        );
        if let Err(error) = self.hotplug.request_unplug(id) {
            // The kernel asks again.
            tracing::warn!(device = id, %error, "the guest cannot be asked to let go of it");
        }
    }

    /// `device_del` of a primary.
    pub(crate) fn delete_primary(&mut self, id: &str) -> Result<(), MachineError> {
        if self.outgoing.in_progress() {
            return Err(MachineError::refused(
                "device_del not allowed while migrating",
            ));
        }
        if self.pairs.pairs.by_primary(id).is_some() {
            if self.pairs.primary(id).is_some_and(|p| p.in_slot) {
                // Who asks for it hears at once that the slot cannot be asked now.
                let asked = self.hotplug.may_request_unplug(id);
                asked.map_err(|e| MachineError::refused(e.to_string()))?;
            }
            return self
                .order(id, &Event::DeletionAsked)
                .map_err(|e| MachineError::refused(e.to_string()));
        }
        if self.pairs.primary(id).is_some_and(|p| p.in_slot) {
            return self
                .hotplug
                .request_unplug(id)
                .map_err(|e| MachineError::refused(e.to_string()));
        }
        self.forget_primary(id, true);
        Ok(())
    }

    /// The primary exists no more.
    pub(super) fn forget_primary(&mut self, id: &str, tell: bool) {
        let Some(primary) = self.pairs.primaries.remove(id) else {
            return;
        };
        if let Some(opening) = &primary.opening {
            opening.store(true, Ordering::Relaxed);
        }
        self.pairs.pairs.remove_unpaired(id);
        if primary.in_slot {
            self.hotplug.remove(id);
            self.devices.remove(id);
        }
        self.netdevs.release(id);
        if let Some(standby) = &primary.config.failover_pair_id {
            self.pairs.forget_steered_primary(standby);
        }
        if tell {
            let path = device_path(&primary.config, id);
            match &primary.vfio {
                Some(vfio) => self.tell_deleted_once_closed(vfio, &primary.config, path),
                None => self.tell_deleted(&primary.config, path),
            }
        }
    }
}
