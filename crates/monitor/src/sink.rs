//! Where events are emitted, to every client that listens.

use crate::event::Event;
use crate::outbox::Outbox;
use crate::wire::to_line;
use std::fmt;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How many events a subscriber inside the process may lag behind before it is given up.
pub const MAX_SUBSCRIBER_LAG: usize = 4096;

/// An event and the time since 1970 at which it was emitted.
#[derive(Debug, Clone, PartialEq)]
pub struct TimedEvent {
    /// When.
    pub since_epoch: Duration,
    /// What.
    pub event: Event,
}

struct Client {
    outbox: Weak<Outbox>,
    pretty: bool,
    label: String,
}

#[derive(Default)]
struct Listeners {
    clients: Vec<Client>,
    subscribers: Vec<SyncSender<TimedEvent>>,
}

struct Hub {
    clock: Box<dyn Fn() -> Duration + Send + Sync>,
    listeners: Mutex<Listeners>,
}

/// A handle to emit events with; cloning gives another to the same clients.
#[derive(Clone)]
pub struct EventSink(Arc<Hub>);

impl EventSink {
    /// A sink whose `clock` tells the time since 1970.
    pub fn new(clock: impl Fn() -> Duration + Send + Sync + 'static) -> Self {
        Self(Arc::new(Hub {
            clock: Box::new(clock),
            listeners: Mutex::default(),
        }))
    }

    /// A sink with the host's clock.
    pub fn with_host_clock() -> Self {
        Self::new(|| {
            SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default()
        })
    }

    fn lock(&self) -> MutexGuard<'_, Listeners> {
        self.0
            .listeners
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells every client that has negotiated its capabilities, and every subscriber. Never waits: a client that does not read
    /// loses its connection once [`MAX_PENDING_BYTES`](crate::MAX_PENDING_BYTES) wait for it.
    pub fn emit(&self, event: Event) {
        // Under the lock, so that all clients see all events in one order, with times that do not run backwards in it.
        let mut listeners = self.lock();
        let since_epoch = (self.0.clock)();
        tracing::debug!(event = event.name(), data = ?event.data(), "event");
        if !listeners.clients.is_empty() {
            let value = event.encode(since_epoch);
            let line: Arc<[u8]> = to_line(&value, false).into();
            let pretty: Option<Arc<[u8]>> = listeners
                .clients
                .iter()
                .any(|client| client.pretty)
                .then(|| to_line(&value, true).into());
            listeners.clients.retain(|client| {
                let Some(outbox) = client.outbox.upgrade() else { return false };
                let line = pretty.as_ref().filter(|_| client.pretty).unwrap_or(&line);
                if outbox.push_event(line) {
                    return true;
                }
                tracing::warn!(
                    monitor = client.label,
                    "a monitor's client does not read its events: it is disconnected, connect again and query the state"
                );
                false
            });
        }
        let timed = TimedEvent { since_epoch, event };
        listeners
            .subscribers
            .retain(|subscriber| match subscriber.try_send(timed.clone()) {
                Ok(()) => true,
                Err(TrySendError::Disconnected(_)) => false,
                Err(TrySendError::Full(_)) => {
                    tracing::warn!(
                        "a subscriber to events lags behind by {MAX_SUBSCRIBER_LAG} and is given up"
                    );
                    false
                }
            });
    }

    /// Events from now on, for a reader inside the process. Given up when it lags behind by [`MAX_SUBSCRIBER_LAG`].
    pub fn subscribe(&self) -> Receiver<TimedEvent> {
        let (sender, receiver) = sync_channel(MAX_SUBSCRIBER_LAG);
        self.lock().subscribers.push(sender);
        receiver
    }

    pub(crate) fn add_client(&self, outbox: &Arc<Outbox>, pretty: bool, label: &str) {
        let mut listeners = self.lock();
        listeners
            .clients
            .retain(|client| client.outbox.strong_count() > 0);
        listeners.clients.push(Client {
            outbox: Arc::downgrade(outbox),
            pretty,
            label: label.to_owned(),
        });
    }
}

impl fmt::Debug for EventSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventSink")
            .field("clients", &self.lock().clients.len())
            .finish_non_exhaustive()
    }
}
