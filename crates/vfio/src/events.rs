//! What a function tells its owner beside interrupts for the guest: that it failed, or that the host wants it back.

use crate::hardware::{Hardware, IrqKind};
use crate::intx::{event, fd_of, wait_for};
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use vmm_sys_util::eventfd::EventFd;

/// Who is told. The calls come from a thread of the function's own, which must not be held up for long and must not
/// drop the function: hand them on.
pub trait VfioListener: Send + Sync {
    /// The function `id` reported an uncorrectable error: what it does from here on is not to be relied on.
    fn device_error(&self, id: &str);

    /// The host asks for the function `id` back: it is being unbound from its driver or taken out of the machine.
    /// The kernel asks again every few seconds, and waits.
    fn device_requested(&self, id: &str);
}

/// The thread that waits for these. Dropping it ends the thread.
pub(crate) struct EventWatch {
    hardware: Arc<dyn Hardware>,
    stop: Arc<EventFd>,
    watched: Vec<IrqKind>,
    thread: Option<JoinHandle<()>>,
}

impl EventWatch {
    /// Begins to wait; `None` where the function has neither.
    pub(crate) fn start(
        hardware: &Arc<dyn Hardware>,
        id: &str,
        listener: Arc<dyn VfioListener>,
    ) -> io::Result<Option<Self>> {
        let mut watched = Vec::new();
        let mut events = Vec::new();
        for kind in [IrqKind::Error, IrqKind::Request] {
            if hardware.irq(kind)?.count == 0 {
                continue;
            }
            let trigger = event()?;
            match hardware.set_triggers(kind, &[fd_of(&trigger)]) {
                Ok(_) => {
                    watched.push(kind);
                    events.push(trigger);
                }
                Err(error) => {
                    tracing::warn!(device = id, ?kind, %error, "cannot watch the function");
                }
            }
        }
        if events.is_empty() {
            return Ok(None);
        }
        let stop = Arc::new(event()?);
        let thread = std::thread::Builder::new().name(format!("vfio {id}")).spawn({
            let (id, kinds, stop) = (id.to_owned(), watched.clone(), Arc::clone(&stop));
            move || {
                let waited: Vec<&EventFd> = events.iter().chain([&*stop]).collect();
                loop {
                    let kind = match wait_for(&waited) {
                        Ok(index) => kinds.get(index),
                        Err(error) => {
                            tracing::error!(device = id, %error, "the function is no longer watched for errors");
                            None
                        }
                    };
                    match kind {
                        Some(IrqKind::Error) => listener.device_error(&id),
                        Some(_) => listener.device_requested(&id),
                        None => return,
                    }
                }
            }
        })?;
        Ok(Some(Self {
            hardware: Arc::clone(hardware),
            stop,
            watched,
            thread: Some(thread),
        }))
    }
}

impl Drop for EventWatch {
    fn drop(&mut self) {
        for kind in &self.watched {
            if let Err(error) = self.hardware.set_triggers(*kind, &[]) {
                tracing::debug!(?kind, %error, "cannot stop watching the function");
            }
        }
        let _ = self.stop.write(1);
        // A listener that drops the function in its call, against its contract, must not wait for itself.
        if let Some(thread) = self.thread.take()
            && thread.thread().id() != std::thread::current().id()
        {
            let _ = thread.join();
        }
    }
}
