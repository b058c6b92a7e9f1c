//! The machine's end of a channel to L1's agent.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::fs::{FlockOperation, flock};

use crate::state::{CHANNELS, StateDir};
use crate::wire::{Frame, MAX_PAYLOAD_BYTES, Open, resync};

/// How long the agent may take to answer a greeting.
const GREETING: Duration = Duration::from_secs(30);
/// How long it may take to accept a command.
const ACCEPTANCE: Duration = Duration::from_secs(10);
/// How often a command is handed over at most.
const OPEN_ATTEMPTS: u32 = 5;

/// A channel of our own, until it is dropped.
pub struct Channel {
    stream: UnixStream,
    _lock: File,
}

impl Channel {
    /// Takes a free channel of the running L1.
    pub fn take(state: &StateDir) -> Result<Self> {
        for index in 0..CHANNELS {
            let lock = OpenOptions::new()
                .create(true)
                .truncate(false)
                .write(true)
                .open(state.channel_lock(index))?;
            if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
                return Self::open(state, index, lock);
            }
        }
        bail!("all {CHANNELS} channels to the lab host are in use")
    }

    fn open(state: &StateDir, index: usize, lock: File) -> Result<Self> {
        // A socket's path is limited to 108 bytes; the folder may be deeper than that.
        let folder = File::open(state.root())?;
        let path = PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd()))
            .join(StateDir::channel_socket(index));
        let stream = UnixStream::connect(path)
            .context("the lab host is not running (cargo xtask lab up)")?;
        Ok(Self {
            stream,
            _lock: lock,
        })
    }

    /// A channel over any stream, with an agent at its other end.
    #[cfg(test)]
    pub(crate) fn over(stream: UnixStream, lock: File) -> Self {
        Self {
            stream,
            _lock: lock,
        }
    }

    #[cfg(test)]
    pub(crate) fn send(&mut self, frame: &Frame) {
        frame.write(&mut self.stream).unwrap();
    }

    /// Waits until the agent answers.
    pub fn greet(&mut self, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        let nonce = crate::clock::now_us().to_le_bytes().to_vec();
        let mut first = true;
        while Instant::now() < deadline {
            if !first {
                self.stream.write_all(&resync()).ok();
            }
            first = false;
            Frame::Hello(nonce.clone())
                .write(&mut self.stream)
                .context("the lab host hung up")?;
            self.stream.set_read_timeout(Some(Duration::from_secs(3)))?;
            loop {
                match Frame::read(&mut self.stream) {
                    Ok(Frame::Hello(answer)) if answer == nonce => {
                        self.stream.set_read_timeout(None)?;
                        return Ok(());
                    }
                    Ok(_) => {}
                    Err(error)
                        if matches!(
                            error.kind(),
                            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
                        ) =>
                    {
                        break;
                    }
                    Err(error) if error.kind() == io::ErrorKind::InvalidData => break,
                    Err(error) => return Err(error).context("the lab host hung up"),
                }
            }
        }
        bail!(
            "the lab host's agent did not answer within {} s",
            limit.as_secs()
        )
    }

    /// Runs a command; what it says goes to the two sinks as it comes. Returns its exit status.
    pub fn run(
        &mut self,
        open: &Open,
        mut output: impl FnMut(&[u8]) -> io::Result<()>,
        mut error: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<i32> {
        let request = serde_json::to_vec(open)?;
        for _ in 0..OPEN_ATTEMPTS {
            Frame::Open(request.clone()).write(&mut self.stream)?;
            if open.tty.is_none() {
                Frame::Input(Vec::new()).write(&mut self.stream)?;
            }
            if let Some(first) = self.accepted()? {
                return self.follow(first, &mut output, &mut error);
            }
            // The port told the agent that its client was gone, when it had just come: the request went to nobody.
            self.greet(GREETING)?;
        }
        bail!("the lab host's agent takes no command")
    }

    /// The first frame of the agent's answer to a request, or nothing if it never got there.
    fn accepted(&mut self) -> Result<Option<Frame>> {
        self.stream.set_read_timeout(Some(ACCEPTANCE))?;
        let first = loop {
            match Frame::read(&mut self.stream) {
                // A late answer to a greeting.
                Ok(Frame::Hello(nonce)) if !nonce.is_empty() => {}
                Ok(first) => break Some(first),
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
                    ) =>
                {
                    break None;
                }
                Err(error) => return Err(error).context("the lab host hung up"),
            }
        };
        self.stream.set_read_timeout(None)?;
        Ok(first)
    }

    fn follow(
        &mut self,
        first: Frame,
        output: &mut dyn FnMut(&[u8]) -> io::Result<()>,
        error: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<i32> {
        let mut frame = first;
        loop {
            match frame {
                Frame::Output(bytes) => output(&bytes)?,
                Frame::Error(bytes) => error(&bytes)?,
                Frame::Exit(code) => return Ok(code),
                _ => {}
            }
            frame = Frame::read(&mut self.stream).context("the lab host hung up")?;
        }
    }

    /// Runs a command and returns its stdout; fails if it failed.
    pub fn capture(&mut self, argv: &[&str]) -> Result<String> {
        let open = Open {
            argv: argv.iter().map(|&word| word.to_owned()).collect(),
            env: Vec::new(),
            tty: None,
        };
        let (mut output, mut error) = (Vec::new(), Vec::new());
        let code = self.run(
            &open,
            |bytes| output.write_all(bytes),
            |bytes| error.write_all(bytes),
        )?;
        if code != 0 {
            bail!(
                "{} failed in the lab host ({code}): {}",
                argv.join(" "),
                String::from_utf8_lossy(&error).trim()
            );
        }
        Ok(String::from_utf8_lossy(&output).into_owned())
    }

    /// Connects this terminal with a command on a terminal of its own.
    pub fn shell(&mut self, mut open: Open) -> Result<i32> {
        use rustix::termios::{OptionalActions, tcgetattr, tcgetwinsize, tcsetattr};
        let stdin = io::stdin();
        let saved = tcgetattr(&stdin).context("lab shell needs a terminal; lab run does not")?;
        let size = tcgetwinsize(&stdin)?;
        open.tty = Some((size.ws_row, size.ws_col));
        let mut raw = saved.clone();
        raw.make_raw();
        tcsetattr(&stdin, OptionalActions::Now, &raw)?;
        let mut sender = self.stream.try_clone()?;
        // This thread ends with the process: a read of a terminal cannot be interrupted.
        thread::spawn(move || {
            let mut buffer = vec![0; MAX_PAYLOAD_BYTES];
            while let Ok(size @ 1..) = io::stdin().read(&mut buffer) {
                let bytes = buffer.get(..size).unwrap_or_default().to_vec();
                if Frame::Input(bytes).write(&mut sender).is_err() {
                    break;
                }
            }
        });
        let result = self.run(
            &open,
            |bytes| {
                io::stdout()
                    .write_all(bytes)
                    .and_then(|()| io::stdout().flush())
            },
            |bytes| io::stderr().write_all(bytes),
        );
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &saved);
        result
    }
}
