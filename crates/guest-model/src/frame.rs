//! Numbered frames, the host's end of a network, and the account of what became of each frame.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

/// The EtherType of numbered frames, of the range that is left for experiments (IEEE 802).
pub const ETHERTYPE: u16 = 0x88b5;

const HEADER: usize = 14;
const MAGIC: &[u8; 4] = b"sfgm";
const SHORTEST: usize = 60;

/// A frame with a number, and which stream of frames it belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NumberedFrame {
    /// Whom it is for.
    pub to: [u8; 6],
    /// Whom it is from.
    pub from: [u8; 6],
    /// Which stream of frames, each counted by itself.
    pub stream: u32,
    /// Its number.
    pub number: u64,
}

impl NumberedFrame {
    /// The bytes on the wire, at least the 60 that Ethernet wants.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(SHORTEST);
        bytes.extend_from_slice(&self.to);
        bytes.extend_from_slice(&self.from);
        bytes.extend_from_slice(&ETHERTYPE.to_be_bytes());
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&self.stream.to_be_bytes());
        bytes.extend_from_slice(&self.number.to_be_bytes());
        bytes.resize(SHORTEST, 0);
        bytes
    }

    /// The frame in these bytes; `None` for any other frame.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let body = bytes.get(HEADER..)?;
        let ethertype = bytes.get(12..14)?;
        if ethertype != ETHERTYPE.to_be_bytes() || body.get(..4)? != MAGIC {
            return None;
        }
        Some(Self {
            to: bytes.get(..6)?.try_into().ok()?,
            from: bytes.get(6..12)?.try_into().ok()?,
            stream: u32::from_be_bytes(body.get(4..8)?.try_into().ok()?),
            number: u64::from_be_bytes(body.get(8..16)?.try_into().ok()?),
        })
    }
}

/// What became of the frames of one stream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ledger {
    /// How often each number arrived.
    sent: BTreeMap<u64, u32>,
    unknown: u64,
}

/// The sum of a [`Ledger`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Account {
    /// Frames that arrived once.
    pub delivered: usize,
    /// Frames that did not arrive.
    pub lost: usize,
    /// Frames that arrived more than once.
    pub doubled: usize,
    /// Arrivals that nobody had sent.
    pub unknown: u64,
}

impl Account {
    /// Whether each frame arrived, and once.
    pub fn is_clean(&self) -> bool {
        self.lost == 0 && self.doubled == 0 && self.unknown == 0
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            delivered,
            lost,
            doubled,
            unknown,
        } = self;
        write!(
            f,
            "{delivered} delivered, {lost} lost, {doubled} doubled, {unknown} unknown"
        )
    }
}

impl Ledger {
    /// A frame goes out.
    pub fn sent(&mut self, number: u64) {
        self.sent.entry(number).or_default();
    }

    /// A frame came in.
    pub fn arrived(&mut self, number: u64) {
        match self.sent.get_mut(&number) {
            Some(times) => *times = times.saturating_add(1),
            None => self.unknown += 1,
        }
    }

    /// Numbers that did not arrive.
    pub fn missing(&self) -> impl Iterator<Item = u64> + '_ {
        let never = self.sent.iter().filter(|(_, times)| **times == 0);
        never.map(|(number, _)| *number)
    }

    /// The sum.
    pub fn account(&self) -> Account {
        let count = |fits: fn(u32) -> bool| self.sent.values().filter(|&&n| fits(n)).count();
        Account {
            delivered: count(|n| n == 1),
            lost: count(|n| n == 0),
            doubled: count(|n| n > 1),
            unknown: self.unknown,
        }
    }
}

/// The host's end of a `-netdev dgram` with unix sockets: one datagram is one frame.
#[derive(Debug)]
pub struct HostEnd {
    socket: UnixDatagram,
    local: PathBuf,
    remote: PathBuf,
}

impl HostEnd {
    /// Binds the socket the VMM sends to, before the VMM starts. `name` is free among those in `folder`.
    ///
    /// # Errors
    /// The socket cannot be made.
    pub fn bind(folder: &Path, name: &str) -> io::Result<Self> {
        let local = folder.join(format!("{name}.host"));
        let remote = folder.join(format!("{name}.vmm"));
        let socket = UnixDatagram::bind(&local)?;
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket,
            local,
            remote,
        })
    }

    /// The value of the VMM's `-netdev` option.
    pub fn netdev(&self, id: &str) -> String {
        let (here, there) = (self.local.display(), self.remote.display());
        format!(
            "dgram,id={id},local.type=unix,local.path={there},remote.type=unix,remote.path={here}"
        )
    }

    /// Sends a frame to the VMM. `false` when it does not listen, or has too many frames waiting: then it is lost, as
    /// on a wire.
    ///
    /// # Errors
    /// The socket broke.
    pub fn send(&self, frame: &[u8]) -> io::Result<bool> {
        match self.socket.send_to(frame, &self.remote) {
            Ok(_) => Ok(true),
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::WouldBlock
                        | io::ErrorKind::NotFound
                        | io::ErrorKind::ConnectionRefused
                ) =>
            {
                Ok(false)
            }
            Err(e) => Err(e),
        }
    }

    /// The next frame that the VMM sent.
    ///
    /// # Errors
    /// The socket broke.
    pub fn receive(&self) -> io::Result<Option<Vec<u8>>> {
        let mut frame = vec![0; 1 << 16];
        match self.socket.recv(&mut frame) {
            Ok(bytes) => {
                frame.truncate(bytes);
                Ok(Some(frame))
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(e) => Err(e),
        }
    }
}

impl AsFd for HostEnd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_survives_the_wire_and_others_are_not_taken_for_one() {
        let frame = NumberedFrame {
            to: [0xff; 6],
            from: [2, 0, 0, 0, 0, 1],
            stream: 7,
            number: u64::MAX - 1,
        };
        let mut bytes = frame.encode();
        assert_eq!(bytes.len(), 60);
        assert_eq!(NumberedFrame::decode(&bytes), Some(frame));
        assert_eq!(NumberedFrame::decode(&bytes[..29]), None);
        bytes[12] = 8;
        assert_eq!(NumberedFrame::decode(&bytes), None);
    }

    #[test]
    fn each_frame_is_delivered_lost_or_doubled() {
        let mut ledger = Ledger::default();
        (0..4).for_each(|number| ledger.sent(number));
        for number in [0, 2, 2, 9, 3] {
            ledger.arrived(number);
        }
        let account = ledger.account();
        assert_eq!(
            account,
            Account {
                delivered: 2,
                lost: 1,
                doubled: 1,
                unknown: 1
            }
        );
        assert!(!account.is_clean());
        assert_eq!(ledger.missing().collect::<Vec<_>>(), [1]);
    }
}
