//! The guest's slots: what is plugged in gets its drivers, what is asked for is let go; or not, if so told.

use super::{Guest, Hotplug, News};
use crate::behaviour::{Act, Moment};
use crate::bus::GuestBus;
use crate::error::GuestError;
use crate::hotplug::{NativeSlot, Power, SlotOrder};
use crate::pci::{Bdf, MsiWords, PciTree, regs};
use std::time::Duration;

/// A step that waits for its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Job {
    pub(super) due: Duration,
    port: Bdf,
    moment: Moment,
    /// Whether it was asked already how to behave here.
    asked: bool,
}

/// Takes the native slots of all ports over.
pub(super) fn take_over_native(
    bus: &mut dyn GuestBus,
    tree: &PciTree,
    words: &mut MsiWords,
) -> Result<Hotplug, GuestError> {
    let mut slots = Vec::new();
    for port in tree.functions() {
        let Some(bridge) = &port.bridge else { continue };
        let occupied = tree.on_bus(bridge.secondary).next().is_some();
        slots.extend(NativeSlot::take_over(
            bus,
            tree.access(),
            port,
            occupied,
            words,
        )?);
    }
    Ok(if slots.is_empty() {
        Hotplug::None
    } else {
        Hotplug::Native(slots)
    })
}

impl Guest {
    pub(super) fn slot_deadlines(&self) -> impl Iterator<Item = Duration> + '_ {
        let slots = match &self.hotplug {
            Hotplug::Native(slots) => slots.as_slice(),
            _ => &[],
        };
        slots.iter().filter_map(|slot| match slot.power() {
            Power::BlinkingOn { until }
            | Power::BlinkingOff { until }
            | Power::PoweringOff { until } => Some(until),
            Power::Off | Power::On | Power::Leaving => None,
        })
    }

    pub(super) fn look_at_slots(
        &mut self,
        bus: &mut dyn GuestBus,
        now: Duration,
    ) -> Result<(), GuestError> {
        let access = self.tree.access();
        match &mut self.hotplug {
            Hotplug::None => Ok(()),
            Hotplug::Acpi(acpi) => {
                if !acpi.take_event(bus)? {
                    return Ok(());
                }
                for change in acpi.changes(bus)? {
                    if change.up {
                        self.queue(now, change.port, Moment::Plug);
                    }
                    if change.down && !self.letting_go(change.port) {
                        self.queue(now, change.port, Moment::Noticed);
                    }
                }
                Ok(())
            }
            Hotplug::Native(slots) => {
                let mut orders = Vec::new();
                for slot in slots {
                    let port = slot.port();
                    let of_slot = slot.service(bus, access, now)?;
                    orders.extend(of_slot.into_iter().map(|order| (port, order)));
                }
                for (port, order) in orders {
                    self.obey(bus, port, order, now)?;
                }
                Ok(())
            }
        }
    }

    fn obey(
        &mut self,
        bus: &mut dyn GuestBus,
        port: Bdf,
        order: SlotOrder,
        now: Duration,
    ) -> Result<(), GuestError> {
        match order {
            SlotOrder::Noticed => self.queue(now, port, Moment::Noticed),
            SlotOrder::TakenBack => {
                self.jobs
                    .retain(|job| job.port != port || job.moment == Moment::Plug);
                self.tell(now, News::TakenBack(port));
            }
            SlotOrder::DriverIn => self.queue(now, port, Moment::Plug),
            SlotOrder::DriverOut => self.queue(now, port, Moment::DriverOut),
            SlotOrder::Gone => self.clear_slot(bus, port, now)?,
            SlotOrder::Emptied => {}
        }
        Ok(())
    }

    fn queue(&mut self, due: Duration, port: Bdf, moment: Moment) {
        self.jobs.push_back(Job {
            due,
            port,
            moment,
            asked: false,
        });
    }

    fn letting_go(&self, port: Bdf) -> bool {
        self.jobs
            .iter()
            .any(|job| job.port == port && job.moment != Moment::Plug)
    }

    /// Does the jobs whose time has come, in their order, and those that follow from them.
    pub(super) fn do_jobs(
        &mut self,
        bus: &mut dyn GuestBus,
        now: Duration,
    ) -> Result<(), GuestError> {
        while let Some(at) = self.jobs.iter().position(|job| job.due <= now) {
            let Some(mut job) = self.jobs.remove(at) else {
                break;
            };
            let act = if job.asked {
                None
            } else {
                self.behaviours.take(job.port, job.moment)
            };
            if let Some(act) = act {
                self.tell(now, News::Misbehaved(job.moment, act));
            }
            match act {
                Some(Act::Slow(by)) => {
                    (job.due, job.asked) = (now + by, true);
                    self.jobs.insert(at, job);
                    continue;
                }
                Some(Act::Ignore) => continue,
                Some(Act::Refuse) => {
                    self.refuse(bus, job.port, now)?;
                    continue;
                }
                Some(Act::Reboot) => return self.reboot(bus, now),
                Some(Act::PullDriver) => {
                    for bdf in self.behind(job.port) {
                        self.unbind(bus, bdf, now)?;
                    }
                    continue;
                }
                Some(Act::EjectFirst) if job.moment != Moment::Plug => {
                    if job.moment == Moment::Noticed {
                        self.tell(now, News::Noticed(job.port));
                    }
                    self.eject(bus, job.port, now)?;
                    self.clear_slot(bus, job.port, now)?;
                    continue;
                }
                Some(Act::EjectTwice) if job.moment == Moment::Eject => {
                    self.eject(bus, job.port, now)?;
                }
                Some(Act::Garbage) => self.scribble(bus)?,
                _ => {}
            }
            self.advance(bus, job, now)?;
        }
        Ok(())
    }

    fn advance(
        &mut self,
        bus: &mut dyn GuestBus,
        job: Job,
        now: Duration,
    ) -> Result<(), GuestError> {
        let port = job.port;
        match job.moment {
            Moment::Plug => self.look_again(bus, port, now),
            Moment::Noticed => {
                self.tell(now, News::Noticed(port));
                // A native slot blinks first, and gives the order itself.
                if self.has_acpi_hotplug() {
                    self.queue(now, port, Moment::DriverOut);
                }
                Ok(())
            }
            Moment::DriverOut => {
                self.clear_slot(bus, port, now)?;
                self.queue(now, port, Moment::Eject);
                Ok(())
            }
            Moment::Eject => self.eject(bus, port, now),
        }
    }

    fn behind(&self, port: Bdf) -> Vec<Bdf> {
        let bridge = self.tree.function(port).and_then(|f| f.bridge.as_ref());
        let Some(bridge) = bridge else {
            return Vec::new();
        };
        let secondary = bridge.secondary;
        self.tree.on_bus(secondary).map(|f| f.bdf).collect()
    }

    /// Drivers out, functions forgotten.
    fn clear_slot(
        &mut self,
        bus: &mut dyn GuestBus,
        port: Bdf,
        now: Duration,
    ) -> Result<(), GuestError> {
        for bdf in self.behind(port) {
            self.unbind(bus, bdf, now)?;
        }
        self.tree.forget(port).map(drop)
    }

    /// What was plugged in gets its drivers; what does not answer any more loses them.
    fn look_again(
        &mut self,
        bus: &mut dyn GuestBus,
        port: Bdf,
        now: Duration,
    ) -> Result<(), GuestError> {
        let access = self.tree.access();
        let mut stale = false;
        for bdf in self.behind(port) {
            stale |= access.read16(bus, bdf, regs::ID)? == 0xffff;
        }
        if stale {
            self.clear_slot(bus, port, now)?;
        }
        match self.tree.rescan(bus, port) {
            Ok(_) => {}
            Err(GuestError::Bus(error)) => return Err(error.into()),
            Err(error) => self.tell(now, News::Unusable(port, error.to_string())),
        }
        for bdf in self.behind(port) {
            self.bind(bus, bdf, now)?;
        }
        if let Some(slot) = self.native_slot(port) {
            slot.came(bus, access)?;
        }
        Ok(())
    }

    fn native_slot(&mut self, port: Bdf) -> Option<&mut NativeSlot> {
        match &mut self.hotplug {
            Hotplug::Native(slots) => slots.iter_mut().find(|slot| slot.port() == port),
            _ => None,
        }
    }

    /// Takes the drivers off what is behind a port and ejects it, whoever asked for that or did not.
    ///
    /// # Errors
    /// The bus; the slot does not take a command.
    pub fn eject_unasked(
        &mut self,
        bus: &mut dyn GuestBus,
        port: Bdf,
        now: Duration,
    ) -> Result<(), GuestError> {
        self.clear_slot(bus, port, now)?;
        self.eject(bus, port, now)
    }

    fn eject(
        &mut self,
        bus: &mut dyn GuestBus,
        port: Bdf,
        now: Duration,
    ) -> Result<(), GuestError> {
        let access = self.tree.access();
        if let Hotplug::Acpi(acpi) = &self.hotplug {
            acpi.eject(bus, port)?;
        } else if let Some(slot) = self.native_slot(port) {
            slot.power_off(bus, access, now)?;
        }
        self.tell(now, News::Ejected(port));
        Ok(())
    }

    fn refuse(
        &mut self,
        bus: &mut dyn GuestBus,
        port: Bdf,
        now: Duration,
    ) -> Result<(), GuestError> {
        let access = self.tree.access();
        if let Some(slot) = self.native_slot(port) {
            let mut orders = Vec::new();
            slot.take_back(bus, access, &mut orders)?;
        }
        self.tell(now, News::TakenBack(port));
        // The drivers may be out already: they return.
        self.look_again(bus, port, now)
    }

    fn scribble(&mut self, bus: &mut dyn GuestBus) -> Result<(), GuestError> {
        let mut word = || self.seed.bits() as u32;
        let words = [word(), word(), word(), word()];
        let access = self.tree.access();
        match &self.hotplug {
            Hotplug::None => {}
            Hotplug::Acpi(acpi) => acpi.scribble(bus, words)?,
            Hotplug::Native(slots) => {
                for slot in slots {
                    slot.scribble(bus, access, words)?;
                }
            }
        }
        Ok(())
    }
}
