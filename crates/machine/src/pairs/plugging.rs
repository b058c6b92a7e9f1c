//! The way in: a primary is opened beside the running guest and put into its slot.

use super::opening::plug_error;
use super::steering::because;
use crate::board::Board;
use crate::devices::{Body, Place, function};
use crate::primary_watch::WatchedPrimary;
use failover::{Event, Pair, Path as Way, PlugError, When};
use pci::PciDevice;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use vfio::VfioPci;

impl Board {
    /// Opens the primary if need be, on a thread of its own, which posts the result.
    pub(super) fn begin_plug(&mut self, id: &str) {
        self.look_at_nic(id);
        let Some(primary) = self.pairs.primary(id) else {
            return;
        };
        if primary.other.is_some() {
            return self.primary_ready(id, Ok(None));
        }
        let (config, open) = (primary.config.clone(), primary.vfio.clone());
        let wanted = match self.vfio_config(&config, id, primary.cdev.clone()) {
            Ok(wanted) => wanted,
            Err(error) => return self.plug_failed(id, PlugError::other(error.to_string())),
        };
        let container = self.container();
        let stop = Arc::new(AtomicBool::new(false));
        if let Some(primary) = self.pairs.primaries.get_mut(id) {
            primary.opening = Some(Arc::clone(&stop));
        }
        let (control, name) = (self.control.clone(), id.to_owned());
        let work = move || {
            crate::control::give_way();
            let result = match open {
                // It was let go of: fresh hardware for a fresh driver.
                Some(device) => device.prepare_replug().map(|()| device),
                None => VfioPci::open(wanted, &container, &mut |progress| {
                    tracing::trace!(?progress, "mapping guest memory for the primary");
                    if stop.load(Ordering::Relaxed) {
                        ControlFlow::Break(())
                    } else {
                        ControlFlow::Continue(())
                    }
                }),
            };
            let result = result.map(Some).map_err(|e| plug_error(&e));
            control.post(move |board| board.primary_ready(&name, result));
        };
        if let Err(error) = thread::Builder::new()
            .name(format!("open {id}"))
            .spawn(work)
        {
            self.plug_failed(id, PlugError::other(error.to_string()));
        }
    }

    /// It is not wanted in its slot any more; opening it may be broken off between two steps of mapping.
    pub(super) fn break_off_plug(&mut self, id: &str) {
        if let Some(opening) = self.pairs.primary(id).and_then(|p| p.opening.as_ref()) {
            opening.store(true, Ordering::Relaxed);
        }
    }

    fn plug_failed(&mut self, id: &str, error: PlugError) {
        self.feed(id, &Event::PlugFailed(error));
    }

    /// The primary is open, or not: into its slot with it, if it is still wanted there.
    fn primary_ready(&mut self, id: &str, result: Result<Option<Arc<VfioPci>>, PlugError>) {
        let Some(primary) = self.pairs.primaries.get_mut(id) else {
            return;
        };
        primary.opening = None;
        match &result {
            Ok(Some(device)) => primary.vfio = Some(Arc::clone(device)),
            Ok(None) => {}
            // What cannot be reset is opened afresh the next time; and its host may want it back.
            Err(_) => primary.vfio = None,
        }
        let pair = self.pairs.pairs.by_primary(id);
        if !pair.is_some_and(Pair::still_wants_plug) {
            tracing::debug!(primary = id, "no longer wanted in its slot");
            return self.feed(id, &Event::PlugBrokenOff);
        }
        let outcome = result.and_then(|_| {
            self.insert_primary(id, When::Hotplug)
                .map_err(PlugError::other)
        });
        match outcome {
            Ok(()) => self.feed(id, &Event::PlugSucceeded),
            Err(error) => self.plug_failed(id, error),
        }
    }

    /// Puts the primary into its slot.
    pub(super) fn insert_primary(&mut self, id: &str, when: When) -> Result<(), String> {
        let standby = self
            .pairs
            .pairs
            .by_primary(id)
            .map(|p| p.standby().to_owned());
        let steering = standby.and_then(|standby| self.steering(&standby));
        let control = self.control.clone();
        let primary = self.pairs.primaries.get_mut(id).ok_or("it was deleted")?;
        let device: Arc<dyn PciDevice> = match (&primary.vfio, &primary.other) {
            (Some(vfio), _) => vfio.clone(),
            (None, Some(made)) => made.function.clone(),
            (None, None) => return Err("it is not open".into()),
        };
        let device = WatchedPrimary::new(device, id.to_owned(), control, steering);
        let shown = function(&primary.config, id, device);
        let Place { bus, devfn } = &primary.place;
        match when {
            When::AtStart => self.root.insert(bus, *devfn, shown),
            When::Hotplug => self.hotplug.plug(bus, *devfn, shown),
        }
        .map_err(|e| e.to_string())?;
        primary.in_slot = true;
        let body = match (&primary.vfio, &primary.other) {
            (Some(vfio), _) => Body::Vfio(vfio.clone()),
            (None, Some(made)) => made.body.clone(),
            (None, None) => return Err("it is not open".into()),
        };
        let config = primary.config.clone();
        self.devices.add(crate::devices::Device {
            key: id.to_owned(),
            config,
            body,
        });
        Ok(())
    }

    /// The link of a primary is up or down, as the host sees it.
    pub(crate) fn primary_link(&mut self, id: &str, up: bool) {
        if self.pairs.pairs.by_primary(id).is_some() {
            self.feed(id, if up { &Event::LinkUp } else { &Event::LinkDown });
        }
    }

    /// The guest's driver uses its primary now, or no longer.
    pub(crate) fn primary_in_use(&mut self, id: &str, in_use: bool) {
        let Some(pair) = self.pairs.pairs.by_primary(id) else {
            return;
        };
        let standby = pair.standby().to_owned();
        // One that was taken back may go on all the same.
        let asked = pair.unplug_why().is_some();
        let on_primary = pair.path() == Way::Primary;
        match (in_use, asked) {
            (true, _) => {
                self.feed(id, &Event::DriverIn);
                if on_primary && !asked {
                    // It was closed for a while, and open to both.
                    self.pairs.because = because(&Event::DriverIn);
                    self.steer_to_primary(&standby);
                }
            }
            (false, true) => self.feed(id, &Event::DriverOut),
            // A closed primary is still the guest's path: nothing reaches the standby while the driver is there. Whether it
            // is, only the guest knows; once it is not, the standby is all that it has.
            (false, false) if on_primary => {
                self.pairs.because = because(&Event::DriverOut);
                self.steer_to_both(&standby);
            }
            (false, false) => {}
        }
    }
}
