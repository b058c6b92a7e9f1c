//! The wire between source and target of a migration, in the test's hands: it can hold a section back, stall, or break.

use anyhow::Result;
use guest_model::Bell;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// Sections by their numbers in the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Section {
    Ram = 2,
    TakeOver = 5,
    Go = 6,
    Ready = 0x101,
    Loaded = 0x102,
    Resumed = 0x103,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Order {
    #[default]
    Pass,
    Hold(u16),
    Stall,
    Cut,
}

#[derive(Default)]
struct Inner {
    order: Order,
    holding: bool,
    sockets: Vec<UnixStream>,
}

struct Shared {
    inner: Mutex<Inner>,
    changed: Condvar,
    bell: Bell,
}

pub struct Relay {
    shared: Arc<Shared>,
    listener: Arc<UnixListener>,
    path: PathBuf,
    thread: Option<JoinHandle<()>>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn order(&self, order: Order) {
        let mut inner = self.lock();
        if inner.order == Order::Cut {
            return;
        }
        inner.order = order;
        inner.holding = false;
        if order == Order::Cut {
            for socket in inner.sockets.drain(..) {
                // The other end may have closed it.
                let _ = socket.shutdown(Shutdown::Both);
            }
        }
        self.changed.notify_all();
    }

    /// Waits while a section of this kind is held; an error once the wire is cut.
    fn pass(&self, kind: u16) -> io::Result<()> {
        let mut inner = self.lock();
        loop {
            match inner.order {
                Order::Cut => return Err(io::ErrorKind::BrokenPipe.into()),
                Order::Hold(held) if held == kind => inner.holding = true,
                Order::Stall => inner.holding = true,
                _ => return Ok(()),
            }
            self.bell.ring();
            inner = self
                .changed
                .wait(inner)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn add(&self, socket: &UnixStream) -> io::Result<()> {
        let mut inner = self.lock();
        if inner.order == Order::Cut {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        inner.sockets.push(socket.try_clone()?);
        Ok(())
    }
}

/// Carries whole sections from one side to the other.
fn carry(
    from: &mut UnixStream,
    to: &mut UnixStream,
    prolog: bool,
    shared: &Shared,
) -> io::Result<()> {
    const PROLOG_BYTES: usize = 16;
    const HEADER_BYTES: usize = 12;
    const RUN_BYTES: usize = 16;
    const PAGE_BYTES: u64 = 4096;
    let number = |bytes: &[u8]| {
        let digits = bytes.iter().rev();
        digits.fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte))
    };
    if prolog {
        let mut bytes = [0; PROLOG_BYTES];
        from.read_exact(&mut bytes)?;
        to.write_all(&bytes)?;
    }
    loop {
        let mut header = [0; HEADER_BYTES];
        from.read_exact(&mut header)?;
        let kind = number(&header[..2]) as u16;
        shared.pass(kind)?;
        let mut body = vec![0; number(&header[4..8]) as usize];
        from.read_exact(&mut body)?;
        to.write_all(&header)?;
        to.write_all(&body)?;
        if kind == Section::Ram as u16 {
            let with_bytes = |run: &&[u8]| number(&run[2..4]) == 1;
            let runs = body.chunks(RUN_BYTES).filter(with_bytes);
            let pages: u64 = runs.map(|run| number(&run[4..8])).sum();
            let bytes = pages * PAGE_BYTES;
            let copied = io::copy(&mut Read::by_ref(from).take(bytes), to)?;
            if copied != bytes {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

fn run(listener: &UnixListener, target: &Path, shared: &Arc<Shared>) -> io::Result<()> {
    let (mut source, _) = listener.accept()?;
    let mut target = UnixStream::connect(target)?;
    shared.add(&source)?;
    shared.add(&target)?;
    let (mut answers, mut to_source) = (target.try_clone()?, source.try_clone()?);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // A side that closes ends the other's connection too.
            let _ = carry(&mut answers, &mut to_source, false, shared);
            let _ = to_source.shutdown(Shutdown::Both);
            let _ = answers.shutdown(Shutdown::Both);
        });
        let _ = carry(&mut source, &mut target, true, shared);
        let _ = target.shutdown(Shutdown::Write);
        let _ = source.shutdown(Shutdown::Read);
    });
    Ok(())
}

impl Relay {
    /// From a socket `name.relay` in `folder` to the one at `target`.
    pub fn start(folder: &Path, target: &Path, bell: &Bell) -> Result<Self> {
        let path = folder.join("relay");
        let listener = Arc::new(UnixListener::bind(&path)?);
        let shared = Arc::new(Shared {
            inner: Mutex::default(),
            changed: Condvar::new(),
            bell: bell.clone(),
        });
        let (door, state, target) = (
            Arc::clone(&listener),
            Arc::clone(&shared),
            target.to_owned(),
        );
        let thread = std::thread::Builder::new()
            .name("relay".into())
            .spawn(move || {
                // A wire that was cut, or a side that is gone: both see it for themselves.
                let _ = run(&door, &target, &state);
            })?;
        Ok(Self {
            shared,
            listener,
            path,
            thread: Some(thread),
        })
    }

    /// Where the source is to connect.
    pub fn uri(&self) -> String {
        format!("unix:{}", self.path.display())
    }

    /// Holds back the next section of this kind, and all that follows it.
    pub fn hold(&self, section: Section) {
        self.shared.order(Order::Hold(section as u16));
    }

    /// Whether what is to be held has come.
    pub fn holds(&self) -> bool {
        self.shared.lock().holding
    }

    /// Lets everything pass.
    pub fn release(&self) {
        self.shared.order(Order::Pass);
    }

    /// Lets nothing more pass, either way, and stays up.
    pub fn stall(&self) {
        self.shared.order(Order::Stall);
    }

    /// Breaks: both sides see the connection end.
    pub fn cut(&self) {
        self.shared.order(Order::Cut);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.cut();
        // Nobody may have come: then the thread waits here.
        let _ = rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        let _ = std::fs::remove_file(&self.path);
    }
}
