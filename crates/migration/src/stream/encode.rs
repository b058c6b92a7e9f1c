//! Writing: sections as bytes.

use memory::PageRun;

use super::crc::crc32;
use super::{Kind, MAGIC, MAX_RUNS, RUN_BYTES, SECTION_HEADER_BYTES, STREAM_VERSION};

/// The first bytes of a stream.
pub(crate) fn prolog() -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..12].copy_from_slice(&STREAM_VERSION.to_le_bytes());
    bytes
}

fn header(kind: Kind, body: &[u8]) -> [u8; SECTION_HEADER_BYTES] {
    let mut bytes = [0; SECTION_HEADER_BYTES];
    // Bodies are bounded far below 4 GiB by Kind::max_body_bytes; `section` checks it.
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
    bytes[..2].copy_from_slice(&(kind as u16).to_le_bytes());
    bytes[4..8].copy_from_slice(&length.to_le_bytes());
    let crc = crc32(&[&bytes[..8], body]);
    bytes[8..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// A section with `body`; `None` when the body is larger than any reader takes.
pub(crate) fn section(kind: Kind, body: &[u8]) -> Option<Vec<u8>> {
    if body.len() > kind.max_body_bytes() {
        return None;
    }
    let mut bytes = Vec::with_capacity(SECTION_HEADER_BYTES + body.len());
    bytes.extend_from_slice(&header(kind, body));
    bytes.extend_from_slice(body);
    Some(bytes)
}

/// A section whose body is `value` in CBOR; `None` as for [`section`].
pub(crate) fn section_of(kind: Kind, value: &impl minicbor::Encode<()>) -> Option<Vec<u8>> {
    let body = minicbor::to_vec(value).ok()?;
    section(kind, &body)
}

/// An entry of a RAM table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) pages: PageRun,
    /// Whether the bytes follow; if not, they are zero.
    pub(crate) bytes: bool,
}

impl Run {
    /// Kind field of an entry whose pages are zero.
    pub(crate) const ZERO: u16 = 0;
    /// Kind field of an entry whose bytes follow the table.
    pub(crate) const BYTES: u16 = 1;
}

/// A RAM section under construction: neighbouring runs of one kind are joined.
#[derive(Debug, Default)]
pub(crate) struct RamTable {
    runs: Vec<Run>,
}

impl RamTable {
    /// Adds a run. The pages of it must be representable on the wire: at most `u32::MAX`, block below 65536.
    pub(crate) fn push(&mut self, run: Run) {
        if let Some(last) = self.runs.last_mut() {
            let joined = last.pages.count.checked_add(run.pages.count);
            if last.bytes == run.bytes
                && last.pages.block == run.pages.block
                && last.pages.first.checked_add(last.pages.count) == Some(run.pages.first)
                && let Some(count) = joined.filter(|count| *count <= u64::from(u32::MAX))
            {
                last.pages.count = count;
                return;
            }
        }
        self.runs.push(run);
    }

    pub(crate) fn runs(&self) -> &[Run] {
        &self.runs
    }

    pub(crate) fn is_full(&self) -> bool {
        self.runs.len() >= MAX_RUNS
    }

    pub(crate) fn clear(&mut self) {
        self.runs.clear();
    }

    /// Header and table; the pages of the runs with bytes follow, in order.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(self.runs.len() * RUN_BYTES);
        for run in &self.runs {
            let block = u16::try_from(run.pages.block).unwrap_or(u16::MAX);
            let kind = if run.bytes { Run::BYTES } else { Run::ZERO };
            let count = u32::try_from(run.pages.count).unwrap_or(u32::MAX);
            body.extend_from_slice(&block.to_le_bytes());
            body.extend_from_slice(&kind.to_le_bytes());
            body.extend_from_slice(&count.to_le_bytes());
            body.extend_from_slice(&run.pages.first.to_le_bytes());
        }
        let mut bytes = header(Kind::Ram, &body).to_vec();
        bytes.append(&mut body);
        bytes
    }
}
