//! A wire for a migration's stream that can be cut: a listener beside the source, which passes everything on.

use std::io;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::{Result, anyhow};

use crate::launch::enter_netns;

/// Both ends, once the source has connected.
type Ends = Arc<Mutex<Vec<TcpStream>>>;

pub(super) struct Relay {
    port: u16,
    ends: Ends,
}

impl Relay {
    /// Listens in a network namespace, for one connection to `target`.
    pub(super) fn start(netns: Option<&str>, target: Ipv4Addr, port: u16) -> Result<Self> {
        let ends = Ends::default();
        let (netns, kept) = (netns.map(str::to_owned), Arc::clone(&ends));
        let listening = thread::spawn(move || -> Result<u16> {
            if let Some(name) = &netns {
                enter_netns(name)?;
            }
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
            let own = listener.local_addr()?.port();
            // A thread begins in the namespace of the one that makes it.
            thread::spawn(move || pass_on(&listener, (target, port).into(), &kept));
            Ok(own)
        });
        let port = listening
            .join()
            .map_err(|_| anyhow!("the relay panicked"))??;
        Ok(Self { port, ends })
    }

    /// Where the source is to connect.
    pub(super) fn uri(&self) -> String {
        format!("tcp:127.0.0.1:{}", self.port)
    }

    /// Cuts it, for both sides.
    pub(super) fn cut(&self) {
        let ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        for end in ends.iter() {
            let _ = end.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.cut();
    }
}

fn pass_on(listener: &TcpListener, target: SocketAddr, ends: &Ends) -> io::Result<()> {
    let (near, _) = listener.accept()?;
    let far = TcpStream::connect(target)?;
    let (mut from_near, mut to_near) = (near.try_clone()?, near.try_clone()?);
    let (mut from_far, mut to_far) = (far.try_clone()?, far.try_clone()?);
    ends.lock()
        .unwrap_or_else(PoisonError::into_inner)
        .extend([near, far]);
    thread::spawn(move || {
        let _ = io::copy(&mut from_far, &mut to_near);
        let _ = to_near.shutdown(Shutdown::Both);
    });
    let _ = io::copy(&mut from_near, &mut to_far);
    to_far.shutdown(Shutdown::Both)
}
