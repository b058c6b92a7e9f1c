//! The stream: our own format, versioned, and hostile until it has been checked.
//!
//! ```text
//!   prolog        "STNDFAST"  version u32  reserved u32
//!   section       kind u16  flags u16  length u32  crc u32 │ body of `length` bytes │ pages (kind RAM only)
//!   …
//! ```
//! All numbers are little-endian. The CRC (CRC-32, IEEE 802.3) covers kind, flags, length and body. The bytes of pages are
//! not covered: they are most of the stream, every transport we have checks them already, and the table that says where
//! they go is covered. Bodies are CBOR with numbered fields, except RAM's, a table of 16-byte entries:
//!
//! ```text
//!   block u16  kind u16 (0 zeroes, 1 bytes follow)  pages u32  first page u64
//! ```
//!
//! Source to target, in this order:
//!
//! | section | body | |
//! |---|---|---|
//! | `Configuration` | [`Configuration`] | once, first |
//! | `Ram` | table, then the pages of its entries of kind 1 | any number |
//! | `PassEnd` | [`PassEnd`] | after each pass over the dirty pages |
//! | `Device` | [`DevicePayload`] | one a device, in the order to load them |
//! | `TakeOver` | [`TakeOver`] | once: nothing is missing any more |
//! | `Go` | none | once, only where there is a way back |
//! | `Abandon` | [`Farewell`] | instead of all the rest: the source keeps its VM |
//!
//! Target to source: `Ready` (after `Configuration`), `Loaded` (after `TakeOver`), `Resumed` (after `Go`), or at any time
//! `Failed` with the reason. What a section of an unknown kind means for a reader of this version is said by its flag
//! [`IGNORABLE`]: skip it, or refuse the stream.

mod crc;
mod decode;
mod encode;

use minicbor::{Decode, Encode};

use crate::channel::ChannelError;

pub(crate) use crc::crc32;
pub(crate) use decode::{Input, Reader, Received};
pub(crate) use encode::{RamTable, Run, prolog, section, section_of};

/// How a stream begins.
pub(crate) const MAGIC: [u8; 8] = *b"STNDFAST";
/// The format written, and the newest one read.
pub const STREAM_VERSION: u32 = 1;
/// How a QEMU stream begins.
pub(crate) const QEMU_MAGIC: [u8; 4] = *b"QEVM";
/// Section flag: a reader that does not know the kind skips the section.
pub(crate) const IGNORABLE: u16 = 1;
/// Bytes of a section before its body.
pub(crate) const SECTION_HEADER_BYTES: usize = 12;
/// Bytes of an entry of a RAM table.
pub(crate) const RUN_BYTES: usize = 16;
/// Entries of a RAM table.
pub(crate) const MAX_RUNS: usize = 512;
/// Devices in a stream.
pub(crate) const MAX_DEVICES: usize = 4096;
/// Bytes of all device payloads of a stream together.
pub(crate) const MAX_DEVICE_BYTES: usize = 64 << 20;
/// Bytes of any other body.
pub(crate) const MAX_BODY_BYTES: usize = 1 << 20;
/// Bytes of a reason that travels to the other side.
pub(crate) const MAX_REASON_BYTES: usize = 4096;

/// Kinds of sections; those from 0x100 on travel back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub(crate) enum Kind {
    Configuration = 1,
    Ram = 2,
    PassEnd = 3,
    Device = 4,
    TakeOver = 5,
    Go = 6,
    Abandon = 7,
    Ready = 0x101,
    Loaded = 0x102,
    Resumed = 0x103,
    Failed = 0x1ff,
}

impl Kind {
    fn from_wire(value: u16) -> Option<Self> {
        [
            Self::Configuration,
            Self::Ram,
            Self::PassEnd,
            Self::Device,
            Self::TakeOver,
            Self::Go,
            Self::Abandon,
            Self::Ready,
            Self::Loaded,
            Self::Resumed,
            Self::Failed,
        ]
        .into_iter()
        .find(|kind| *kind as u16 == value)
    }

    fn max_body_bytes(self) -> usize {
        match self {
            Self::Device => MAX_DEVICE_BYTES,
            Self::Ram => MAX_RUNS * RUN_BYTES,
            _ => MAX_BODY_BYTES,
        }
    }
}

/// What source and target must have in common.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Configuration {
    /// The machine type, with its version: `pc-q35-10.0`.
    #[n(0)]
    pub machine: String,
    /// RAM blocks, by name.
    #[n(1)]
    pub blocks: Vec<BlockShape>,
    /// Devices with state in the stream, by the name of their payload, and parts of devices that have to be there too.
    #[n(2)]
    pub devices: Vec<DeviceShape>,
    /// The VM's uuid, if it has one; compared only with the capability validate-uuid.
    #[n(3)]
    pub uuid: Option<String>,
    /// Program and version that writes the stream, for messages.
    #[n(4)]
    pub program: String,
    /// Bytes of a page of the stream.
    #[n(5)]
    pub page_bytes: u32,
    /// Whether the source waits for answers.
    #[n(6)]
    pub answers: bool,
}

/// A RAM block as both sides must have it.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct BlockShape {
    /// Its name.
    #[n(0)]
    pub name: String,
    /// Its size in bytes.
    #[n(1)]
    pub size_bytes: u64,
}

/// A device as both sides must have it.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct DeviceShape {
    /// The name of its payload: its place in the machine and, where it has one, its id.
    #[n(0)]
    pub name: String,
    /// Its model: `virtio-net-pci`.
    #[n(1)]
    pub model: String,
    /// The option that has to be the same on both sides, where it is not `-device`; for messages.
    #[n(2)]
    pub option: Option<String>,
}

/// The state of one device.
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
pub struct DevicePayload {
    /// Whose it is: the same name as in [`Configuration::devices`].
    #[n(0)]
    pub name: String,
    /// Version of the saved state's type; a device reads its own and older ones.
    #[n(1)]
    pub version: u32,
    /// The saved state, encoded by the device.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub bytes: Vec<u8>,
}

impl std::fmt::Debug for DevicePayload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "DevicePayload({} v{}, {} bytes)",
            self.name,
            self.version,
            self.bytes.len()
        )
    }
}

/// A pass is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub(crate) struct PassEnd {
    /// Passes so far.
    #[n(0)]
    pub(crate) pass: u64,
    /// Pages sent so far, zero pages among them.
    #[n(1)]
    pub(crate) pages: u64,
}

/// Everything has been sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub(crate) struct TakeOver {
    /// Whether the VM ran on the source: whether to run it on the target.
    #[n(0)]
    pub(crate) run: bool,
    /// Number of device sections sent.
    #[n(1)]
    pub(crate) devices: u64,
    /// Pages sent in all.
    #[n(2)]
    pub(crate) pages: u64,
}

/// A side gives up, and why.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Farewell {
    #[n(0)]
    pub(crate) reason: String,
}

impl Farewell {
    /// Of a reason cut to what may travel.
    pub(crate) fn new(reason: &str) -> Self {
        let mut end = reason.len().min(MAX_REASON_BYTES);
        while !reason.is_char_boundary(end) {
            end -= 1;
        }
        Self {
            reason: reason.get(..end).unwrap_or_default().to_owned(),
        }
    }
}

/// What is wrong with a stream.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// It comes from QEMU.
    #[error(
        "this is a QEMU migration stream: Standfast reads only streams that Standfast wrote; shut the guest down and boot it here"
    )]
    Qemu,
    /// It is something else altogether.
    #[error("this is not a Standfast migration stream: it begins with \"{bytes}\"", bytes = .0.escape_ascii())]
    Foreign([u8; 8]),
    /// It was written by a newer program.
    #[error(
        "the stream has format version {found}, this program reads up to version {STREAM_VERSION}: update it before migrating here"
    )]
    Newer {
        /// Its version.
        found: u32,
    },
    /// It ends too early.
    #[error("the stream is truncated: it ends after {at} bytes, in {inside}")]
    Truncated {
        /// Bytes that came.
        at: u64,
        /// What should have continued.
        inside: &'static str,
    },
    /// It contradicts itself.
    #[error("the stream is corrupt at byte {at}: {what}")]
    Corrupt {
        /// Bytes read before.
        at: u64,
        /// What is wrong.
        what: String,
    },
    /// A section that must be understood is not.
    #[error(
        "the stream has a section of unknown kind {kind:#x} at byte {at}: update this program before migrating here"
    )]
    UnknownSection {
        /// Its kind.
        kind: u16,
        /// Bytes read before.
        at: u64,
    },
    /// Reading failed.
    #[error(transparent)]
    Channel(#[from] ChannelError),
}
