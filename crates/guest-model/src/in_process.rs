//! The bus of machines in this process: a processor that stops and goes on with its machine, and moves with its guest.

use crate::bell::Bell;
use crate::bus::{BusError, GuestBus};
use hypervisor::Bus as _;
use hypervisor::qtest::{Client, Gate, InterruptListener, MsiMessage};
use std::io;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// A guest that runs nowhere for so long in the midst of an access has been lost.
const PATIENCE: Duration = Duration::from_secs(60);

/// A machine on which the guest may run.
#[derive(Clone)]
struct Place {
    client: Weak<Client>,
    /// Without one accesses happen whether the machine runs or not.
    gate: Option<Arc<Gate>>,
    _interrupts: Arc<dyn InterruptListener>,
}

impl Place {
    fn is_open(&self) -> bool {
        self.gate.as_ref().is_none_or(|gate| gate.is_open())
    }
}

/// The guest's processor. An access happens on the machine that runs, and waits while none does: a stop of the machine
/// falls between two accesses, wherever in its drivers the guest is, and after a migration the next one goes to the
/// target.
pub struct InProcessBus {
    places: Vec<Place>,
    bell: Bell,
}

/// Rings for every interrupt.
struct Ringer(Bell);

impl InterruptListener for Ringer {
    fn line(&self, _: u32, _: bool) {
        self.0.ring();
    }

    fn message(&self, _: MsiMessage) {
        self.0.ring();
    }
}

impl InProcessBus {
    /// On no machine yet. `bell` is rung by interrupts, and when a machine begins to run; whoever else may change
    /// what the guest waits for rings it too.
    pub fn new(bell: Bell) -> Self {
        Self {
            places: Vec::new(),
            bell,
        }
    }

    /// A machine on which the guest runs, or may run after a migration. Forgotten when it ends.
    pub fn add(&mut self, client: &Arc<Client>, gate: &Arc<Gate>) {
        let bell = self.bell.clone();
        gate.on_open(Box::new(move || bell.ring()));
        self.add_place(client, Some(Arc::clone(gate)));
    }

    /// A machine whose stops do not stop the guest, as those of one that is reached over a socket do not.
    pub fn add_unstopped(&mut self, client: &Arc<Client>) {
        self.add_place(client, None);
    }

    fn add_place(&mut self, client: &Arc<Client>, gate: Option<Arc<Gate>>) {
        self.places.retain(|place| place.client.strong_count() > 0);
        let interrupts: Arc<dyn InterruptListener> = Arc::new(Ringer(self.bell.clone()));
        client.watch_interrupts(&interrupts);
        self.places.push(Place {
            client: Arc::downgrade(client),
            gate,
            _interrupts: interrupts,
        });
    }

    /// Whether a machine runs the guest, at this moment.
    pub fn runs(&self) -> bool {
        self.places
            .iter()
            .any(|place| place.client.strong_count() > 0 && place.is_open())
    }

    /// Carries out one access where the guest runs.
    fn access<T>(&self, mut access: impl FnMut(&Client) -> T) -> Result<T, BusError> {
        let end = Instant::now() + PATIENCE;
        loop {
            for place in &self.places {
                let Some(client) = place.client.upgrade() else {
                    continue;
                };
                let inside = place.gate.as_ref().map(|gate| gate.enter());
                if !matches!(inside, Some(None)) {
                    return Ok(access(&client));
                }
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let error = io::Error::new(io::ErrorKind::TimedOut, "the guest runs nowhere");
                return Err(error.into());
            }
            self.bell.wait(&[], left)?;
        }
    }
}

fn width(bytes: u8) -> Result<usize, BusError> {
    match bytes {
        1 | 2 | 4 => Ok(bytes.into()),
        _ => Err(BusError::Width(bytes.into())),
    }
}

impl GuestBus for InProcessBus {
    fn port_in(&mut self, port: u16, bytes: u8) -> Result<u32, BusError> {
        let bytes = width(bytes)?;
        self.access(|client| {
            let mut data = [0; 4];
            client.port_read(port, &mut data[..bytes]);
            u32::from_le_bytes(data)
        })
    }

    fn port_out(&mut self, port: u16, bytes: u8, value: u32) -> Result<(), BusError> {
        let bytes = width(bytes)?;
        let data = value.to_le_bytes();
        self.access(|client| client.port_write(port, &data[..bytes]))
    }

    fn memory_read(&mut self, address: u64, data: &mut [u8]) -> Result<(), BusError> {
        self.access(|client| client.memory_read(address, data))
    }

    fn memory_write(&mut self, address: u64, data: &[u8]) -> Result<(), BusError> {
        self.access(|client| client.memory_write(address, data))
    }

    fn pause(&mut self, limit: Duration) -> Result<(), BusError> {
        self.bell.wait(&[], limit)?;
        Ok(())
    }
}
