//! Monitor's orders that need no machinery of their own: objects, announcements, a pair's path.

use crate::announcing::{Cause, Which};
use crate::board::Board;
use crate::{FdSource, MachineError};
use config::vm::{ObjectConfig, ObjectKind, VmConfig};
use failover::Event;
use net::announce::AnnounceParameters;
use std::fs::File;

/// `announce-self`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnnounceOrder {
    /// Delay before the first announcement, in ms.
    pub initial_ms: u64,
    /// The longest delay, in ms.
    pub max_ms: u64,
    /// How many announcements.
    pub rounds: u32,
    /// By how much the delay grows, in ms.
    pub step_ms: u64,
    /// Only the NICs of these ids; `None` for all.
    pub interfaces: Option<Vec<String>>,
    /// An order of the same name takes its place.
    pub id: Option<String>,
}

/// Whether an object can be added to a machine of this configuration.
///
/// # Errors
/// The id is taken, or the file it names cannot be opened.
pub fn check_new_object(config: &VmConfig, object: &ObjectConfig) -> Result<(), MachineError> {
    if config.objects.iter().any(|known| known.id == object.id) {
        return Err(MachineError::refused(format!(
            "attempt to add duplicate property '{}' to object (type 'container')",
            object.id
        )));
    }
    if let ObjectKind::Rng { path } = &object.kind {
        File::open(path).map_err(|error| {
            let error = error.to_string();
            // Without the number, which says the same again.
            let why = error.split(" (os error").next().unwrap_or_default();
            MachineError::refused(format!("Could not open '{}': {why}", path.display()))
        })?;
    }
    Ok(())
}

impl Board {
    /// `object-add`. `fds` resolves the descriptors that the client handed over.
    ///
    /// # Errors
    /// The id is taken, or the object cannot be had.
    pub fn object_add(
        &mut self,
        object: ObjectConfig,
        fds: &dyn FdSource,
    ) -> Result<(), MachineError> {
        check_new_object(&self.config, &object)?;
        self.make_iommufd(&object, fds)?;
        self.config.objects.push(object);
        Ok(())
    }

    /// `object-del`.
    ///
    /// # Errors
    /// There is no such object, or guest RAM is in it, or a device is had by it.
    pub fn object_del(&mut self, id: &str) -> Result<(), MachineError> {
        let Some(at) = self.config.objects.iter().position(|o| o.id == id) else {
            return Err(MachineError::refused(format!("object '{id}' not found")));
        };
        let is_memory = self.config.machine.memory_backend.as_deref() == Some(id);
        if is_memory || self.is_iommufd_used(id) {
            return Err(MachineError::refused(format!(
                "object '{id}' is in use, can not be deleted"
            )));
        }
        self.config.objects.remove(at);
        self.iommufds.remove(id);
        Ok(())
    }

    /// `announce-self`: announces NICs to the network, by the host and by the guest itself where it can. Without rounds it
    /// ends what an earlier order of the same id began.
    pub fn announce_self(&mut self, order: &AnnounceOrder) {
        let parameters = AnnounceParameters {
            initial_ms: order.initial_ms,
            max_ms: order.max_ms,
            rounds: order.rounds.into(),
            step_ms: order.step_ms,
        };
        let which = match &order.interfaces {
            None => Which::All,
            Some(names) => Which::Named(names.clone()),
        };
        let cause = Cause::Order(order.id.clone().unwrap_or_default());
        self.begin_announcing(cause, which, parameters);
    }

    /// `failover-switch`: an operator wants a pair's traffic on one of its devices. `id` is the standby's or the primary's.
    ///
    /// # Errors
    /// There is no such pair, or its state does not allow it.
    pub fn failover_switch(&mut self, id: &str, path: failover::Path) -> Result<(), MachineError> {
        self.order(id, &Event::OperatorSwitch(path))
            .map_err(|error| MachineError::refused(error.to_string()))
    }
}
