//! What a guest has written and nobody has taken yet.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;

/// More than this many bytes are not kept for a slow reader.
const LIMIT: usize = 1 << 20;

enum Keep {
    /// Until a reader takes it, up to [`LIMIT`].
    UntilTaken,
    /// The last so many bytes.
    Last(usize),
    /// Nothing.
    Nothing,
}

struct State {
    bytes: VecDeque<u8>,
    keep: Keep,
    /// Counts the connections; 0 while there is none.
    generation: u64,
    connected: bool,
    writing: bool,
    lost: u64,
}

/// A bounded queue of bytes with a thread that writes them to whoever is connected.
pub struct Outbox {
    state: Mutex<State>,
    changed: Condvar,
    /// Gets a copy of all that is sent.
    log: OnceLock<Arc<Outbox>>,
}

impl Outbox {
    pub(super) fn new() -> Self {
        let state = State {
            bytes: VecDeque::new(),
            keep: Keep::UntilTaken,
            generation: 0,
            connected: false,
            writing: false,
            lost: 0,
        };
        Self {
            state: Mutex::new(state),
            changed: Condvar::new(),
            log: OnceLock::new(),
        }
    }

    /// From now on `log` gets a copy of all that is sent, whether anybody takes it here or not. Once only.
    pub(super) fn copy_to(&self, log: Arc<Outbox>) {
        let _ = self.log.set(log);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn swallow(&self) {
        self.state().keep = Keep::Nothing;
    }

    pub(super) fn keep_last(&self, bytes: usize) {
        self.state().keep = Keep::Last(bytes);
    }

    /// A reader is there: a thread writes to it until it goes. Returns the connection's number.
    pub(super) fn attach(self: &Arc<Self>, output: Box<dyn Write + Send>) -> u64 {
        let mut state = self.state();
        state.generation += 1;
        state.connected = true;
        let generation = state.generation;
        drop(state);
        let outbox = Arc::clone(self);
        let spawned = thread::Builder::new()
            .name("char out".into())
            .spawn(move || outbox.write_out(generation, output));
        if let Err(error) = spawned {
            tracing::error!(%error, "no thread for a character device's output");
            self.detach(generation);
        }
        generation
    }

    /// The reader of that connection is gone.
    pub(super) fn detach(&self, generation: u64) {
        let mut state = self.state();
        if state.generation == generation {
            state.connected = false;
            self.changed.notify_all();
        }
    }

    fn write_out(&self, generation: u64, mut output: Box<dyn Write + Send>) {
        loop {
            let mut state = self.state();
            while state.bytes.is_empty() && state.connected && state.generation == generation {
                state = self
                    .changed
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
            }
            if !state.connected || state.generation != generation {
                return;
            }
            let bytes: Vec<u8> = state.bytes.drain(..).collect();
            state.writing = true;
            drop(state);
            let result = output.write_all(&bytes).and_then(|()| output.flush());
            let mut state = self.state();
            state.writing = false;
            self.changed.notify_all();
            if let Err(error) = result {
                tracing::debug!(%error, "the reader of a character device is gone");
                if state.generation == generation {
                    state.connected = false;
                }
                return;
            }
        }
    }

    /// Waits until all has been written or nobody is there to take it.
    pub(super) fn flush(&self) {
        if let Some(log) = self.log.get() {
            log.flush();
        }
        let mut state = self.state();
        while state.connected && (state.writing || !state.bytes.is_empty()) {
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Queues bytes; what there is no room for is lost.
    pub fn send(&self, bytes: &[u8]) {
        if let Some(log) = self.log.get() {
            log.send(bytes);
        }
        let mut state = self.state();
        match state.keep {
            Keep::Nothing => return,
            Keep::Last(limit) => {
                state.bytes.extend(bytes);
                let over = state.bytes.len().saturating_sub(limit);
                state.bytes.drain(..over);
                return;
            }
            Keep::UntilTaken => {}
        }
        let room = LIMIT.saturating_sub(state.bytes.len());
        let taken = bytes.get(..room.min(bytes.len())).unwrap_or_default();
        state.bytes.extend(taken);
        if taken.len() < bytes.len() {
            if state.lost == 0 {
                tracing::warn!(
                    "nobody reads a character device: its oldest megabyte is kept, the rest lost"
                );
            }
            state.lost += (bytes.len() - taken.len()) as u64;
        }
        self.changed.notify_all();
    }

    /// The bytes that are kept, for `ringbuf-read` and tests.
    pub fn peek(&self) -> Vec<u8> {
        self.state().bytes.iter().copied().collect()
    }
}

/// The writing end, as a UART wants it.
pub struct OutboxWriter(pub Arc<Outbox>);

impl Write for OutboxWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.send(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    #[test]
    fn what_was_sent_before_a_reader_came_reaches_it() {
        let outbox = Arc::new(Outbox::new());
        outbox.send(b"early ");
        let (ours, theirs) = UnixStream::pair().unwrap();
        outbox.attach(Box::new(ours));
        outbox.send(b"late");
        outbox.flush();
        let mut got = [0; 10];
        io::Read::read_exact(&mut &theirs, &mut got).unwrap();
        assert_eq!(&got, b"early late");
    }

    #[test]
    fn a_copy_is_taken_of_what_nobody_reads() {
        let (outbox, log) = (Outbox::new(), Arc::new(Outbox::new()));
        outbox.swallow();
        outbox.copy_to(Arc::clone(&log));
        let (ours, theirs) = UnixStream::pair().unwrap();
        let generation = log.attach(Box::new(ours));
        outbox.send(b"seen");
        outbox.flush();
        log.detach(generation);
        let mut got = [0; 4];
        io::Read::read_exact(&mut &theirs, &mut got).unwrap();
        assert_eq!(&got, b"seen");
        assert_eq!(outbox.peek(), b"");
    }

    #[test]
    fn a_ring_keeps_the_last_bytes_and_nothing_blocks_without_a_reader() {
        let outbox = Outbox::new();
        outbox.keep_last(4);
        outbox.send(b"abcdef");
        assert_eq!(outbox.peek(), b"cdef");
        let full = Outbox::new();
        full.send(&vec![0; LIMIT + 1]);
        full.flush();
        assert_eq!(full.peek().len(), LIMIT);
    }
}
