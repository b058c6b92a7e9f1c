//! A frame a datagram: `-netdev dgram`, and `-netdev socket` with `udp=` or a socket of datagrams.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use rustix::io::Errno;
use rustix::net::{SendFlags, SocketAddrUnix, SocketType, sendto, sockopt};
use virtio::{IoBuffer, NetBackend, gather, total_len};

use crate::netdev::Netdev;
use crate::socket_file::{SocketFile, clear_the_way};
use crate::wire::{self, FRAME_BYTES_MAX};

/// A socket whose datagrams are frames.
#[derive(Debug)]
pub struct Datagrams {
    socket: OwnedFd,
    /// A Unix socket's peer; it may come and go, so that the socket is not connected to it.
    peer: Option<SocketAddrUnix>,
    /// The file of a Unix socket of ours.
    _file: Option<SocketFile>,
    /// It has an end, after which reading gives nothing for ever.
    ends: bool,
    kind: &'static str,
    description: String,
}

impl Datagrams {
    fn new(socket: OwnedFd, kind: &'static str, description: String) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        Ok(Self {
            socket,
            peer: None,
            _file: None,
            ends: false,
            kind,
            description,
        })
    }

    /// Takes and gives frames at `local`, of and to `remote` alone. `kind` is `dgram` or `socket`.
    ///
    /// # Errors
    /// The address is in use, or of another family.
    pub fn udp(local: SocketAddr, remote: SocketAddr, kind: &'static str) -> io::Result<Self> {
        let socket = UdpSocket::bind(local)?;
        // The kernel then drops what others send.
        socket.connect(remote)?;
        let local = socket.local_addr()?;
        let description = match kind {
            "socket" => format!("socket: udp={remote}"),
            _ => format!("udp={local}/{remote}"),
        };
        Self::new(socket.into(), kind, description)
    }

    /// Takes frames at the path `local`, which it makes and at the end removes, and gives them to `remote`.
    ///
    /// # Errors
    /// The path cannot be made, or one of them is too long.
    pub fn unix(local: &Path, remote: &Path) -> io::Result<Self> {
        clear_the_way(local, SocketType::DGRAM)?;
        let socket = UnixDatagram::bind(local)?;
        let description = format!("udp={}:{}", local.display(), remote.display());
        let mut datagrams = Self::new(socket.into(), "dgram", description)?;
        datagrams._file = Some(SocketFile::made(local));
        datagrams.peer = Some(SocketAddrUnix::new(remote)?);
        Ok(datagrams)
    }

    /// Uses a connected socket. `kind` is `dgram` or `socket`.
    ///
    /// # Errors
    /// It is no socket that keeps messages apart.
    pub fn connected(socket: OwnedFd, kind: &'static str) -> io::Result<Self> {
        let ends = match sockopt::socket_type(&socket)? {
            SocketType::DGRAM => false,
            SocketType::SEQPACKET => true,
            _ => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    "it is a stream, not a socket of datagrams",
                ));
            }
        };
        let family = match sockopt::socket_domain(&socket)? {
            rustix::net::AddressFamily::UNIX => "unix",
            _ => "inet",
        };
        let prefix = if kind == "socket" { "socket: " } else { "" };
        let description = format!("{prefix}fd={} {family}", socket.as_raw_fd());
        let mut datagrams = Self::new(socket, kind, description)?;
        datagrams.ends = ends;
        Ok(datagrams)
    }

    fn send_to(&self, peer: &SocketAddrUnix, frame: &[u8]) -> io::Result<()> {
        lost_is_sent(
            sendto(
                &self.socket,
                frame,
                SendFlags::NOSIGNAL | SendFlags::DONTWAIT,
                peer,
            )
            .map_err(io::Error::from),
        )
        .map(drop)
    }
}

/// A peer that is not there, or does not keep up: its frames are lost, which is no error on a network.
fn lost_is_sent(sent: io::Result<usize>) -> io::Result<Option<usize>> {
    let lost = [
        Errno::CONNREFUSED,
        Errno::NOENT,
        Errno::NOBUFS,
        Errno::AGAIN,
    ];
    match sent {
        Err(error) if Errno::from_io_error(&error).is_some_and(|e| lost.contains(&e)) => Ok(None),
        other => other.map(Some),
    }
}

impl NetBackend for Datagrams {
    fn recv(&self, _pair: u16, into: &[IoBuffer<'_>]) -> io::Result<Option<usize>> {
        match wire::recv(self.socket.as_fd(), into) {
            // An earlier frame found nobody; what has come since is there all the same.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                wire::recv(self.socket.as_fd(), into)
            }
            Ok(Some(0)) if self.ends => Ok(None),
            other => other,
        }
    }

    fn send(&self, _pair: u16, from: &[IoBuffer<'_>]) -> io::Result<Option<usize>> {
        let bytes = total_len(from);
        if let Some(peer) = &self.peer {
            let mut frame = vec![0; bytes.min(FRAME_BYTES_MAX)];
            gather(from, 0, &mut frame);
            self.send_to(peer, &frame)?;
            return Ok(Some(bytes));
        }
        match wire::send(self.socket.as_fd(), from) {
            // A connected socket tells when there is room.
            Ok(sent) => Ok(sent),
            Err(error) => lost_is_sent(Err(error)).map(|_| Some(bytes)),
        }
    }

    fn poll_fd(&self, _pair: u16) -> Option<BorrowedFd<'_>> {
        Some(self.socket.as_fd())
    }
}

impl Netdev for Datagrams {
    fn kind(&self) -> &'static str {
        self.kind
    }

    fn describe(&self) -> String {
        self.description.clone()
    }

    fn announce(&self, frame: &[u8]) -> io::Result<()> {
        match &self.peer {
            Some(peer) => self.send_to(peer, frame),
            None => lost_is_sent(rustix::io::write(&self.socket, frame).map_err(io::Error::from))
                .map(drop),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{frame, left_over_socket, receive, receive_soon, transmit};

    #[test]
    fn udp_carries_frames_both_ways_and_hears_only_its_peer() {
        let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let ours = Datagrams::udp(any, peer.local_addr().unwrap(), "dgram").unwrap();
        transmit(&ours, &frame(1, 1514));
        let mut room = [0; 2000];
        let (bytes, at) = peer.recv_from(&mut room).unwrap();
        assert_eq!(room[..bytes], frame(1, 1514));
        let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
        stranger.send_to(&frame(2, 60), at).unwrap();
        peer.send_to(&frame(3, 60), at).unwrap();
        assert_eq!(receive_soon(&ours), Some(frame(3, 60)));
        assert_eq!(
            ours.describe(),
            format!("udp={at}/{}", peer.local_addr().unwrap())
        );
    }

    #[test]
    fn a_udp_peer_that_is_not_there_is_no_error() {
        // An address at which no test listens, and no port that one may be given.
        let gone = SocketAddr::from(([127, 0, 0, 2], 1));
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let ours = Datagrams::udp(any, gone, "dgram").unwrap();
        for _ in 0..5 {
            transmit(&ours, &frame(1, 60));
            assert_eq!(receive(&ours), None);
        }
    }

    #[test]
    fn unix_peers_may_come_late_go_and_be_slow() {
        let folder = tempfile::tempdir().unwrap();
        let [a, b] = ["a", "b"].map(|name| folder.path().join(name));
        let ours = Datagrams::unix(&a, &b).unwrap();
        transmit(&ours, &frame(1, 60));
        let peer = Datagrams::unix(&b, &a).unwrap();
        transmit(&ours, &frame(2, 60));
        assert_eq!(receive(&peer), Some(frame(2, 60)));
        transmit(&peer, &frame(3, 9000));
        assert_eq!(receive(&ours), Some(frame(3, 9000)));
        for _ in 0..2000 {
            transmit(&ours, &frame(4, 1514));
        }
        assert!(Datagrams::unix(&a, &b).is_err(), "in use");
        drop(peer);
        transmit(&ours, &frame(5, 60));
        drop(ours);
        assert!(!a.exists() && !b.exists());
    }

    #[test]
    fn the_socket_of_a_process_that_ended_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let [a, b] = ["a", "b"].map(|name| folder.path().join(name));
        left_over_socket(&a);
        assert!(a.exists());
        assert!(Datagrams::unix(&a, &b).is_ok());
        std::fs::write(&b, "a file of somebody's").unwrap();
        assert!(Datagrams::unix(&b, &a).is_err());
        assert!(b.exists());
    }

    #[test]
    fn a_connected_pair_blocks_rather_than_loses() {
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        let ours = Datagrams::connected(ours.into(), "dgram").unwrap();
        let sent = (0..10_000)
            .take_while(|_| crate::testing::try_transmit(&ours, &frame(1, 60)).is_some())
            .count();
        assert!((1..10_000).contains(&sent));
        let mut room = [0; 100];
        for _ in 0..sent {
            assert_eq!(theirs.recv(&mut room).unwrap(), 60);
        }
        let (stream, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(Datagrams::connected(stream.into(), "dgram").is_err());
    }
}
