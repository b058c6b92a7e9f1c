//! One terminal for several: serial ports and monitors, switched by Ctrl-A.
//!
//! ```text
//!                     ┌──▶ queue ──▶ thread ──▶ UART        what is typed goes to one of them
//!   terminal ──▶ Mux ─┤
//!                     └──▶ pseudo-terminal ──▶ HMP          what they write goes to the terminal, all of it
//! ```
//! The key must work whatever the guest does: bytes for a UART wait in a bounded queue with a thread of its own, never in
//! the terminal's reader. A monitor for people is given a pseudo-terminal: the terminal itself is raw, and the kernel's line
//! discipline echoes and edits. It says nothing before it is looked at for the first time.

use super::{Outbox, Receiver};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, tcgetattr, tcsetattr};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

/// The most that share a terminal.
const FRONT_ENDS_MAX: usize = 4;

/// Ctrl-A.
const ESCAPE: u8 = 1;
/// Pieces of input, of at most 4 KiB, that wait for a guest; what is typed beyond is lost.
const WAITING_MAX: usize = 256;
/// To a line discipline: forget the line; and an empty one, after which a monitor shows its prompt.
const FRESH_PROMPT: &[u8] = b"\x15\n";

const HELP: &str = "\r\n\
    C-a h    this list\r\n\
    C-a x    end the machine\r\n\
    C-a b    send a break to the serial port (magic SysRq)\r\n\
    C-a c    go to the next: serial ports and monitors take turns\r\n\
    C-a C-a  send C-a\r\n";

/// What arrives for a UART.
enum Input {
    Bytes(Vec<u8>),
    Break,
}

enum FrontEnd {
    Port(SyncSender<Input>),
    Monitor {
        master: Arc<OwnedFd>,
        /// Lines are edited, and there is a prompt.
        for_people: bool,
        seen: bool,
    },
}

#[derive(Default)]
struct State {
    front_ends: Vec<FrontEnd>,
    focus: usize,
    escaped: bool,
    lost: bool,
}

/// The switch.
pub(super) struct Mux {
    state: Mutex<State>,
    looked_at: Condvar,
    outbox: Arc<Outbox>,
    /// What Ctrl-A x does.
    end: Box<dyn Fn() + Send + Sync>,
}

/// Too many share it.
fn full() -> io::Error {
    io::Error::other(format!(
        "too many uses of multiplexed chardev (maximum is {FRONT_ENDS_MAX})"
    ))
}

impl Mux {
    pub(super) fn new(outbox: Arc<Outbox>, end: Box<dyn Fn() + Send + Sync>) -> Self {
        Self {
            state: Mutex::default(),
            looked_at: Condvar::new(),
            outbox,
            end,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A serial port more; the last one has the focus at first.
    ///
    /// # Errors
    /// Too many share the terminal, or the host has no threads left.
    pub(super) fn add_port(&self, port: Arc<dyn Receiver>) -> io::Result<()> {
        let mut state = self.state();
        if state.front_ends.len() >= FRONT_ENDS_MAX {
            return Err(full());
        }
        let (sender, inputs) = sync_channel(WAITING_MAX);
        thread::Builder::new()
            .name("char in".into())
            .spawn(move || {
                for input in inputs {
                    match input {
                        Input::Bytes(bytes) => port.receive(&bytes),
                        Input::Break => port.receive_break(),
                    }
                }
            })?;
        state.focus = state.front_ends.len();
        state.front_ends.push(FrontEnd::Port(sender));
        Ok(())
    }

    /// A monitor more. Returns what it is to read and write.
    ///
    /// # Errors
    /// Too many share the terminal, or the host has no pseudo-terminals or threads left.
    pub(super) fn add_monitor(self: &Arc<Self>, for_people: bool) -> io::Result<OwnedFd> {
        let mut state = self.state();
        if state.front_ends.len() >= FRONT_ENDS_MAX {
            return Err(full());
        }
        let (master, end) = line_discipline(for_people)?;
        let master = Arc::new(master);
        let (mux, from) = (Arc::clone(self), Arc::clone(&master));
        let at = state.front_ends.len();
        thread::Builder::new()
            .name("monitor mux".into())
            .spawn(move || mux.show(at, &from))?;
        state.front_ends.push(FrontEnd::Monitor {
            master,
            for_people,
            // The only one has it from the beginning.
            seen: at == 0,
        });
        Ok(end)
    }

    /// Carries what monitor `at` writes to the terminal, once it has been looked at.
    fn show(&self, at: usize, from: &OwnedFd) {
        let mut state = self.state();
        while !matches!(
            state.front_ends.get(at),
            Some(FrontEnd::Monitor { seen: true, .. })
        ) {
            state = self
                .looked_at
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        drop(state);
        let mut buffer = [0; 4096];
        loop {
            let mut set = [PollFd::new(from, PollFlags::IN)];
            match poll(&mut set, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(_) => return,
            }
            match rustix::io::read(from, &mut buffer) {
                // The monitor has closed its end.
                Ok(0) | Err(Errno::IO) => return,
                Ok(count) => self.outbox.send(buffer.get(..count).unwrap_or_default()),
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(error) => {
                    tracing::debug!(%error, "a monitor's output is lost");
                    return;
                }
            }
        }
    }

    /// Gives the one in focus what was typed.
    fn deliver(&self, state: &mut State, input: Input) {
        let taken = match (state.front_ends.get(state.focus), input) {
            (Some(FrontEnd::Port(queue)), input) => {
                !matches!(queue.try_send(input), Err(TrySendError::Full(_)))
            }
            (Some(FrontEnd::Monitor { master, .. }), Input::Bytes(bytes)) => {
                rustix::io::write(master, &bytes).is_ok_and(|count| count == bytes.len())
            }
            (_, Input::Break) | (None, _) => true,
        };
        if !taken && !std::mem::replace(&mut state.lost, true) {
            tracing::warn!("what is typed is not read, and lost");
        }
    }

    fn next(&self, state: &mut State) {
        if let Some(FrontEnd::Monitor { seen: true, .. }) = state.front_ends.get(state.focus) {
            self.outbox.send(b"\r\n");
        }
        state.focus = (state.focus + 1) % state.front_ends.len().max(1);
        let focus = state.focus;
        if let Some(FrontEnd::Monitor {
            master,
            for_people,
            seen,
        }) = state.front_ends.get_mut(focus)
        {
            if !std::mem::replace(seen, true) {
                self.looked_at.notify_all();
            } else if *for_people {
                // It is a convenience: without room nothing is lost.
                let _ = rustix::io::write(&*master, FRESH_PROMPT);
            }
        }
    }

    fn command(&self, state: &mut State, key: u8) {
        match key {
            b'h' | b'?' => self.outbox.send(HELP.as_bytes()),
            b'x' => {
                self.outbox.send(b"Standfast: terminated\r\n");
                (self.end)();
            }
            b'b' => self.deliver(state, Input::Break),
            b'c' => self.next(state),
            ESCAPE => self.deliver(state, Input::Bytes(vec![ESCAPE])),
            _ => {}
        }
    }
}

impl Receiver for Mux {
    fn receive(&self, bytes: &[u8]) {
        let mut state = self.state();
        let mut rest = bytes;
        while !rest.is_empty() {
            if std::mem::take(&mut state.escaped) {
                if let Some((key, after)) = rest.split_first() {
                    self.command(&mut state, *key);
                    rest = after;
                }
                continue;
            }
            let plain = rest.iter().take_while(|byte| **byte != ESCAPE).count();
            let (typed, after) = rest.split_at_checked(plain).unwrap_or((rest, &[]));
            if !typed.is_empty() {
                self.deliver(&mut state, Input::Bytes(typed.to_vec()));
            }
            if let Some((_, after)) = after.split_first() {
                state.escaped = true;
                rest = after;
            } else {
                rest = after;
            }
        }
    }
}

/// A pseudo-terminal: its master, which does not block, and the other end. One that is not for people passes every byte on.
fn line_discipline(for_people: bool) -> io::Result<(OwnedFd, OwnedFd)> {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let name = ptsname(&master, Vec::new())?;
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let end = rustix::fs::open(name.as_c_str(), flags, Mode::empty())?;
    let mut modes = tcgetattr(&end)?;
    if for_people {
        // Nobody is to be signalled, and a stray Ctrl-D must not end the monitor.
        modes.local_modes -= LocalModes::ISIG;
        modes.special_codes[SpecialCodeIndex::VEOF] = 0;
    } else {
        modes.make_raw();
    }
    tcsetattr(&end, OptionalActions::Now, &modes)?;
    let flags = fcntl_getfl(master.as_fd())?;
    fcntl_setfl(&master, flags | OFlags::NONBLOCK)?;
    Ok((master, end))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::{Read, Write};
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc::{Receiver as Channel, Sender, channel};

    #[derive(Debug, PartialEq, Eq)]
    enum Got {
        Bytes(Vec<u8>),
        Break,
    }

    struct Port(Mutex<Sender<Got>>);

    impl Receiver for Port {
        fn receive(&self, bytes: &[u8]) {
            self.0
                .lock()
                .unwrap()
                .send(Got::Bytes(bytes.to_vec()))
                .unwrap();
        }
        fn receive_break(&self) {
            self.0.lock().unwrap().send(Got::Break).unwrap();
        }
    }

    fn port() -> (Arc<Port>, Channel<Got>) {
        let (sender, got) = channel();
        (Arc::new(Port(Mutex::new(sender))), got)
    }

    fn mux() -> (Arc<Mux>, Arc<Outbox>, Arc<AtomicUsize>) {
        let outbox = Arc::new(Outbox::new());
        let ends = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&ends);
        let end = Box::new(move || {
            count.fetch_add(1, Ordering::Relaxed);
        });
        (Arc::new(Mux::new(Arc::clone(&outbox), end)), outbox, ends)
    }

    fn shown(outbox: &Outbox, what: &str) {
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while !String::from_utf8_lossy(&outbox.peek()).contains(what) {
            assert!(
                std::time::Instant::now() < deadline,
                "{what:?} is not shown"
            );
            thread::yield_now();
        }
    }

    #[test]
    fn the_key_switches_sends_itself_breaks_and_ends() {
        let (mux, outbox, ends) = mux();
        let (port, got) = port();
        mux.add_port(port).unwrap();
        let mut monitor = File::from(mux.add_monitor(true).unwrap());
        mux.receive(b"ab\x01");
        mux.receive(b"\x01cd\x01b\x01z\x01h");
        assert_eq!(got.recv(), Ok(Got::Bytes(b"ab".to_vec())));
        assert_eq!(got.recv(), Ok(Got::Bytes(vec![1])));
        assert_eq!(got.recv(), Ok(Got::Bytes(b"cd".to_vec())));
        assert_eq!(got.recv(), Ok(Got::Break));
        shown(&outbox, "C-a c");
        mux.receive(b"\x01cinfx\x7fo status\r");
        let mut line = [0; 100];
        let count = monitor.read(&mut line).unwrap();
        assert_eq!(&line[..count], b"info status\n");
        shown(&outbox, "infx");
        mux.receive(b"\x01cback\x01x");
        assert_eq!(got.recv(), Ok(Got::Bytes(b"back".to_vec())));
        assert_eq!(ends.load(Ordering::Relaxed), 1);
        assert!(got.try_recv().is_err());
    }

    #[test]
    fn a_monitor_is_silent_until_it_is_looked_at_and_prompts_anew_afterwards() {
        let (mux, outbox, _) = mux();
        mux.add_port(port().0).unwrap();
        let mut monitor = File::from(mux.add_monitor(true).unwrap());
        monitor.write_all(b"banner ").unwrap();
        mux.receive(b"x");
        assert_eq!(outbox.peek(), b"");
        mux.receive(b"\x01c");
        shown(&outbox, "banner ");
        mux.receive(b"half a line\x01c\x01c");
        let mut line = [0; 100];
        let count = monitor.read(&mut line).unwrap();
        assert_eq!(&line[..count], b"\n", "the half line is forgotten");
    }

    #[test]
    fn a_guest_that_reads_nothing_does_not_hold_up_the_key() {
        struct Deaf(Mutex<()>);
        impl Receiver for Deaf {
            fn receive(&self, _: &[u8]) {
                drop(self.0.lock().unwrap());
            }
        }
        let (mux, outbox, ends) = mux();
        let deaf = Arc::new(Deaf(Mutex::new(())));
        mux.add_port(Arc::clone(&deaf) as _).unwrap();
        let held = deaf.0.lock().unwrap();
        for _ in 0..10 * WAITING_MAX {
            mux.receive(b"typed in vain");
        }
        mux.receive(b"\x01h\x01x");
        shown(&outbox, "C-a x");
        assert_eq!(ends.load(Ordering::Relaxed), 1);
        drop(held);
    }

    #[test]
    fn a_lone_monitor_has_the_focus_and_four_are_the_most() {
        let (mux, outbox, _) = mux();
        let mut first = File::from(mux.add_monitor(false).unwrap());
        first.write_all(b"greeting").unwrap();
        shown(&outbox, "greeting");
        mux.receive(b"{\n}");
        let mut bytes = [0; 3];
        first.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"{\n}");
        for _ in 1..FRONT_ENDS_MAX {
            mux.add_port(port().0).unwrap();
        }
        assert!(mux.add_port(port().0).is_err());
        assert!(mux.add_monitor(true).is_err());
    }
}
