//! One TCP connection with the guest's echo port, used all the time.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};

use crate::guest::agent::ECHO_PORT;
use crate::launch::enter_netns;

/// How often a word is sent.
const PACE: Duration = Duration::from_millis(50);

#[derive(Debug, Default)]
struct Tally {
    sent: u64,
    echoed: u64,
    error: Option<String>,
}

/// A connection at work: it sends numbers and checks that they come back, in order.
pub struct Connection {
    stop: Arc<AtomicBool>,
    tally: Arc<Mutex<Tally>>,
    thread: Option<JoinHandle<()>>,
}

impl Connection {
    /// Connects from within a network namespace.
    pub fn open(netns: Option<&str>, guest: Ipv4Addr) -> Result<Self> {
        let netns = netns.map(str::to_owned);
        let connected = thread::spawn(move || -> Result<TcpStream> {
            if let Some(name) = &netns {
                enter_netns(name)?;
            }
            let address = SocketAddrV4::new(guest, ECHO_PORT);
            TcpStream::connect_timeout(&address.into(), Duration::from_secs(20))
                .with_context(|| format!("cannot connect with {address}"))
        });
        let stream = connected
            .join()
            .map_err(|_| anyhow!("the connector panicked"))??;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PACE))?;
        let stop = Arc::new(AtomicBool::new(false));
        let tally = Arc::new(Mutex::new(Tally::default()));
        let (stopped, shared) = (Arc::clone(&stop), Arc::clone(&tally));
        let thread = thread::spawn(move || {
            if let Err(error) = converse(stream, &stopped, &shared) {
                shared.lock().unwrap_or_else(PoisonError::into_inner).error =
                    Some(format!("{error:#}"));
            }
        });
        Ok(Self {
            stop,
            tally,
            thread: Some(thread),
        })
    }

    /// Sends one number more, waits up to `limit` for all of them to be back, and closes.
    ///
    /// # Errors
    /// What broke the connection, or that it fell silent.
    pub fn finish(mut self, limit: Duration) -> Result<u64> {
        let target = self
            .tally
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .sent
            + 1;
        let deadline = Instant::now() + limit;
        loop {
            {
                let tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(error) = &tally.error {
                    return Err(anyhow!("the TCP connection broke: {error}"));
                }
                if tally.echoed >= target {
                    break;
                }
                if Instant::now() > deadline {
                    return Err(anyhow!(
                        "the TCP connection fell silent: {} of {} echoed",
                        tally.echoed,
                        tally.sent
                    ));
                }
            }
            thread::sleep(Duration::from_millis(10));
        }
        self.end();
        Ok(target)
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.end();
    }
}

fn converse(mut stream: TcpStream, stop: &AtomicBool, tally: &Mutex<Tally>) -> Result<()> {
    let lock = || tally.lock().unwrap_or_else(PoisonError::into_inner);
    let mut pending = Vec::new();
    let mut buffer = [0; 4096];
    let mut next = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        if Instant::now() >= next {
            next = Instant::now() + PACE;
            let number = lock().sent;
            stream.write_all(&number.to_be_bytes())?;
            lock().sent += 1;
        }
        match stream.read(&mut buffer) {
            Ok(0) => anyhow::bail!("the guest closed it"),
            Ok(size) => pending.extend_from_slice(buffer.get(..size).unwrap_or_default()),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(error) => return Err(error.into()),
        }
        while let Some((word, rest)) = pending.split_first_chunk::<8>() {
            let mut tally = lock();
            if u64::from_be_bytes(*word) != tally.echoed {
                anyhow::bail!(
                    "number {} came back as {}",
                    tally.echoed,
                    u64::from_be_bytes(*word)
                );
            }
            tally.echoed += 1;
            drop(tally);
            pending = rest.to_vec();
        }
    }
    Ok(())
}
