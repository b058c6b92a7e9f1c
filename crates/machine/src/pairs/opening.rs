//! A passed-through function is found, opened and let go of; the host's memory is made ready for it.

use super::PairKeeper;
use crate::MachineError;
use crate::board::Board;
use crate::control::Control;
use crate::devices::{Body, Made, host_spec};
use config::vm::{DeviceConfig, DeviceKind};
use failover::{PlugError, PlugFault};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use vfio::{Container, GivenCdev, VfioConfig, VfioError, VfioListener, VfioPci};

/// Hands what a passed-through function tells on to the control thread.
struct FunctionWatcher(Control);

impl VfioListener for FunctionWatcher {
    fn device_error(&self, id: &str) {
        let id = id.to_owned();
        self.0
            .post(move |board| board.primary_failed(&id, "it reported an uncorrectable error"));
    }

    fn device_requested(&self, id: &str) {
        let id = id.to_owned();
        self.0.post(move |board| board.function_wanted_back(&id));
    }
}

/// Why a function cannot be had, in the words of the pair.
pub(crate) fn plug_error(error: &VfioError) -> PlugError {
    let fault = match error {
        VfioError::NotFound { .. } | VfioError::NotPci { .. } => PlugFault::DeviceMissing,
        VfioError::OtherDriver { .. } | VfioError::NoDriver { .. } => PlugFault::OtherDriver,
        VfioError::Busy { .. } | VfioError::UsedHere { .. } => PlugFault::Busy,
        _ => PlugFault::Other,
    };
    PlugError {
        fault,
        text: error.to_string(),
    }
}

impl PairKeeper {
    /// The guest is here, or does not come: what is not populated by now is when it is mapped.
    pub(crate) fn stop_populating(&mut self) {
        if let Some(stop) = self.populating.take() {
            stop.store(true, Ordering::Relaxed);
        }
    }
}

impl Board {
    pub(super) fn container(&mut self) -> Arc<Container> {
        let (ram, platform) = (Arc::clone(&self.ram), self.vm.clone());
        Arc::clone(
            self.pairs
                .container
                .get_or_insert_with(|| Container::new(ram, platform)),
        )
    }

    pub(super) fn vfio_config(
        &self,
        config: &DeviceConfig,
        key: &str,
        cdev: Option<Arc<GivenCdev>>,
    ) -> Result<VfioConfig, MachineError> {
        let DeviceKind::VfioPci(vfio) = &config.kind else {
            return Err(MachineError::refused(format!(
                "'{}' is no vfio-pci",
                config.driver
            )));
        };
        let mut wanted = VfioConfig::new(key, host_spec(vfio));
        wanted.access = self.access_to(vfio)?;
        wanted.cdev = cdev;
        wanted.listener = Some(Arc::new(FunctionWatcher(self.control.clone())));
        Ok(wanted)
    }

    /// Opens a passed-through function now, on this thread.
    pub(crate) fn open_now(
        &mut self,
        config: &DeviceConfig,
        key: &str,
        cdev: Option<Arc<GivenCdev>>,
    ) -> Result<Made, MachineError> {
        let wanted = self.vfio_config(config, key, cdev)?;
        let container = self.container();
        let device = VfioPci::open(wanted, &container, &mut |_| ControlFlow::Continue(()))
            .map_err(|e| MachineError::refused(e.to_string()))?;
        Ok(Made {
            body: Body::Vfio(Arc::clone(&device)),
            function: device,
        })
    }

    /// A guest is on its way that will want its passed-through primary back: has the host provide the memory now,
    /// while the stream comes in, which is most of what opening the primary takes.
    pub(crate) fn prepare_memory(&mut self) {
        let waited_for = self
            .pairs
            .primaries
            .values()
            .any(|primary| matches!(primary.config.kind, DeviceKind::VfioPci(_)));
        if !waited_for || self.pairs.populating.is_some() {
            return;
        }
        let container = self.container();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let work = move || {
            // Only what the receiver and other guests leave over.
            if let Err(error) = rustix::process::setpriority_process(None, 19) {
                tracing::debug!(%error, "the priority cannot be lowered");
            }
            let result = container.populate(&mut |_| {
                if stopped.load(Ordering::Relaxed) {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            });
            tracing::debug!(?result, "memory populated for the primaries");
        };
        match thread::Builder::new().name("populate".into()).spawn(work) {
            Ok(_) => self.pairs.populating = Some(stop),
            Err(error) => tracing::debug!(%error, "memory is populated when it is mapped"),
        }
    }

    /// The guest runs elsewhere: another may have the primary.
    pub(super) fn release_primary(&mut self, id: &str) {
        if let Some(primary) = self.pairs.primaries.get_mut(id) {
            primary.vfio = None;
        }
    }
}
