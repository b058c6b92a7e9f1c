//! Reading: sections out of bytes nobody vouches for.

use memory::{HostSpan, PageRun};
use minicbor::Decode;

use super::crc::crc32;
use super::{
    Configuration, DevicePayload, Farewell, IGNORABLE, Kind, MAGIC, PassEnd, QEMU_MAGIC, RUN_BYTES,
    Run, SECTION_HEADER_BYTES, STREAM_VERSION, StreamError, TakeOver,
};
use crate::channel::ChannelError;

/// A body is read in pieces of this size, so that a length nobody backs up with bytes costs no memory.
const PIECE_BYTES: usize = 64 << 10;

/// Where bytes come from.
pub(crate) trait Input {
    /// Fills `buffer`, and says how many bytes there were for it: fewer than it has only where the input ends.
    fn fill(&mut self, buffer: &mut [u8]) -> Result<usize, ChannelError>;
    /// The same for guest pages.
    fn fill_guest(&mut self, span: HostSpan<'_>) -> Result<usize, ChannelError>;
}

/// A section, checked and decoded.
#[derive(Debug)]
pub(crate) enum Received {
    Configuration(Configuration),
    /// The bytes of the runs that have them are still to be read, with [`Reader::read_guest`].
    Ram(Vec<Run>),
    PassEnd(PassEnd),
    Device(DevicePayload),
    TakeOver(TakeOver),
    Go,
    Abandon(String),
    Ready,
    Loaded,
    Resumed,
    Failed(String),
}

impl Received {
    /// For messages.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Configuration(_) => "a configuration",
            Self::Ram(_) => "RAM",
            Self::PassEnd(_) => "an end of a pass",
            Self::Device(_) => "device state",
            Self::TakeOver(_) => "'take over'",
            Self::Go => "'go'",
            Self::Abandon(_) => "'abandoned'",
            Self::Ready => "'ready'",
            Self::Loaded => "'loaded'",
            Self::Resumed => "'resumed'",
            Self::Failed(_) => "'failed'",
        }
    }
}

/// Reads sections one by one.
pub(crate) struct Reader<I> {
    input: I,
    at: u64,
}

impl<I: Input> Reader<I> {
    pub(crate) fn new(input: I) -> Self {
        Self { input, at: 0 }
    }

    pub(crate) fn input_mut(&mut self) -> &mut I {
        &mut self.input
    }

    fn fill(&mut self, buffer: &mut [u8], inside: &'static str) -> Result<(), StreamError> {
        let count = self.input.fill(buffer)?;
        self.came(count, buffer.len(), inside)
    }

    /// Counts what came, which has to be all that was due.
    fn came(&mut self, count: usize, due: usize, inside: &'static str) -> Result<(), StreamError> {
        self.at = self.at.saturating_add(count as u64);
        if count < due {
            return Err(StreamError::Truncated {
                at: self.at,
                inside,
            });
        }
        Ok(())
    }

    pub(crate) fn corrupt(&self, what: impl Into<String>) -> StreamError {
        StreamError::Corrupt {
            at: self.at,
            what: what.into(),
        }
    }

    /// Fills guest pages with the bytes that follow a RAM table.
    pub(crate) fn read_guest(&mut self, span: HostSpan<'_>) -> Result<(), StreamError> {
        let count = self.input.fill_guest(span)?;
        self.came(count, span.len_bytes(), "guest memory")
    }

    /// Reads how a stream begins, and refuses what is none of ours.
    pub(crate) fn prolog(&mut self) -> Result<(), StreamError> {
        let mut magic = [0; 8];
        self.fill(&mut magic, "its first bytes")?;
        if magic.starts_with(&QEMU_MAGIC) {
            return Err(StreamError::Qemu);
        }
        if magic != MAGIC {
            return Err(StreamError::Foreign(magic));
        }
        let mut rest = [0; 8];
        self.fill(&mut rest, "its first bytes")?;
        let found = u32_at(&rest, 0);
        match found {
            1..=STREAM_VERSION => Ok(()),
            0 => Err(self.corrupt("format version 0")),
            _ => Err(StreamError::Newer { found }),
        }
    }

    /// Reads the next section, skipping those that may be.
    pub(crate) fn next(&mut self) -> Result<Received, StreamError> {
        loop {
            let mut header = [0; SECTION_HEADER_BYTES];
            self.fill(
                &mut header,
                "a section's header, or before the last section",
            )?;
            let wire_kind = u16_at(&header, 0);
            let flags = u16_at(&header, 2);
            let length = usize::try_from(u32_at(&header, 4)).unwrap_or(usize::MAX);
            let kind = Kind::from_wire(wire_kind);
            let limit = kind.map_or(super::MAX_BODY_BYTES, Kind::max_body_bytes);
            if length > limit {
                return Err(self.corrupt(format!(
                    "a section of kind {wire_kind:#x} and {length} bytes"
                )));
            }
            let body = self.body(length)?;
            let head = header.get(..8).unwrap_or_default();
            if crc32(&[head, &body]) != u32_at(&header, 8) {
                return Err(self.corrupt(format!(
                    "a section of kind {wire_kind:#x} with a wrong checksum"
                )));
            }
            match kind {
                Some(kind) => return self.decode(kind, &body),
                None if flags & IGNORABLE != 0 => {
                    tracing::debug!("skipped a section of unknown kind {wire_kind:#x}");
                }
                None => {
                    return Err(StreamError::UnknownSection {
                        kind: wire_kind,
                        at: self.at,
                    });
                }
            }
        }
    }

    fn body(&mut self, length: usize) -> Result<Vec<u8>, StreamError> {
        let mut body = Vec::new();
        while body.len() < length {
            let from = body.len();
            body.resize(length.min(from + PIECE_BYTES), 0);
            let piece = body.get_mut(from..).unwrap_or_default();
            self.fill(piece, "a section")?;
        }
        Ok(body)
    }

    fn decode(&self, kind: Kind, body: &[u8]) -> Result<Received, StreamError> {
        Ok(match kind {
            Kind::Configuration => Received::Configuration(self.cbor(body)?),
            Kind::Ram => Received::Ram(self.runs(body)?),
            Kind::PassEnd => Received::PassEnd(self.cbor(body)?),
            Kind::Device => Received::Device(self.cbor(body)?),
            Kind::TakeOver => Received::TakeOver(self.cbor(body)?),
            Kind::Go => Received::Go,
            Kind::Abandon => Received::Abandon(self.cbor::<Farewell>(body)?.reason),
            Kind::Ready => Received::Ready,
            Kind::Loaded => Received::Loaded,
            Kind::Resumed => Received::Resumed,
            Kind::Failed => Received::Failed(self.cbor::<Farewell>(body)?.reason),
        })
    }

    fn cbor<T: for<'b> Decode<'b, ()>>(&self, body: &[u8]) -> Result<T, StreamError> {
        minicbor::decode(body)
            .map_err(|error| self.corrupt(format!("undecodable section: {error}")))
    }

    fn runs(&self, body: &[u8]) -> Result<Vec<Run>, StreamError> {
        if body.is_empty() || !body.len().is_multiple_of(RUN_BYTES) {
            return Err(self.corrupt("a RAM table of a wrong size"));
        }
        body.chunks_exact(RUN_BYTES)
            .map(|entry| {
                let bytes = match u16_at(entry, 2) {
                    Run::ZERO => false,
                    Run::BYTES => true,
                    other => return Err(self.corrupt(format!("RAM pages of kind {other}"))),
                };
                let count = u64::from(u32_at(entry, 4));
                if count == 0 {
                    return Err(self.corrupt("an empty run of RAM pages"));
                }
                Ok(Run {
                    pages: PageRun {
                        block: usize::from(u16_at(entry, 0)),
                        first: u64::from(u32_at(entry, 8)) | u64::from(u32_at(entry, 12)) << 32,
                        count,
                    },
                    bytes,
                })
            })
            .collect()
    }
}

/// Little-endian numbers out of a buffer; zero past its end, which no caller asks for.
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes
        .get(at..)
        .and_then(|rest| rest.first_chunk())
        .map_or(0, |chunk| u32::from_le_bytes(*chunk))
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    bytes
        .get(at..)
        .and_then(|rest| rest.first_chunk())
        .map_or(0, |chunk| u16::from_le_bytes(*chunk))
}

impl Input for &[u8] {
    fn fill(&mut self, buffer: &mut [u8]) -> Result<usize, ChannelError> {
        let (now, rest) = self.split_at(self.len().min(buffer.len()));
        if let Some(filled) = buffer.get_mut(..now.len()) {
            filled.copy_from_slice(now);
        }
        *self = rest;
        Ok(now.len())
    }

    fn fill_guest(&mut self, span: HostSpan<'_>) -> Result<usize, ChannelError> {
        let Some((now, rest)) = self.split_at_checked(span.len_bytes()) else {
            return Ok(std::mem::take(self).len());
        };
        span.copy_from(now);
        *self = rest;
        Ok(now.len())
    }
}
