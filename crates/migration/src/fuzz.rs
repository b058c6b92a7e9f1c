//! The receiver on bytes in memory: for fuzzing, and for tests of bad streams.

use std::sync::Arc;

use memory::{GuestRange, PAGE_SIZE_BYTES, PageRun, Ram, RamConfig, allocate};

use crate::channel::ChannelError;
use crate::incoming::Target;
use crate::payloads::DevicePayloads;
use crate::reason::Reason;
use crate::receive::{IncomingError, Peer, receive};
use crate::stream::{
    BlockShape, Configuration, DevicePayload, Farewell, Kind, PassEnd, RamTable, Run,
    SECTION_HEADER_BYTES, TakeOver, crc32, prolog,
};

/// A machine that takes everything.
struct Anything(Arc<Ram>, Configuration);

impl Target for Anything {
    fn ram(&self) -> Arc<Ram> {
        self.0.clone()
    }

    fn configuration(&mut self) -> Result<Configuration, Reason> {
        Ok(self.1.clone())
    }

    fn prepare(&mut self, _source: &Configuration) -> Result<(), Reason> {
        Ok(())
    }

    fn load_devices(&mut self, payloads: &mut DevicePayloads) -> Result<(), Reason> {
        let names: Vec<String> = payloads.left().map(str::to_owned).collect();
        for name in names {
            payloads.require(&name, 1)?;
        }
        Ok(())
    }

    fn resume(&mut self, _run: bool) -> Result<(), Reason> {
        Ok(())
    }

    fn resumed(&mut self) {}

    fn failed(&mut self, _why: &str) {}
}

impl Peer for &[u8] {
    fn expect_answers(&mut self) -> Result<(), IncomingError> {
        Ok(())
    }

    fn answer(&mut self, _kind: Kind) -> Result<(), ChannelError> {
        Ok(())
    }

    fn seal(&mut self) -> bool {
        true
    }
}

/// Receives `data` as a stream into `ram`, as the receiver's thread does, for a machine of `configuration` that takes any
/// device. It must return, whatever the bytes.
///
/// # Errors
/// What the receiver would say.
pub fn receive_bytes(
    data: &[u8],
    ram: &Arc<Ram>,
    configuration: &Configuration,
) -> Result<(), String> {
    let mut input = data;
    let mut target = Anything(ram.clone(), configuration.clone());
    receive(&mut input, &mut target, true).map_err(|error| error.to_string())
}

/// The machine [`fuzz_stream`] receives into: 64 pages in two ranges, and its configuration.
///
/// # Errors
/// When the host has no memory for it.
pub fn fuzz_machine() -> Result<(Arc<Ram>, Configuration), memory::MemoryError> {
    let size_bytes = 64 * PAGE_SIZE_BYTES;
    let ram = allocate(
        &RamConfig::anonymous(size_bytes),
        &[
            GuestRange::new(0, size_bytes / 2),
            GuestRange::new(1 << 32, size_bytes / 2),
        ],
    )?;
    let configuration = Configuration {
        machine: "pc-q35-10.0".to_owned(),
        blocks: vec![BlockShape {
            name: "pc.ram".to_owned(),
            size_bytes,
        }],
        devices: Vec::new(),
        uuid: None,
        program: String::new(),
        page_bytes: 4096,
        answers: false,
    };
    Ok((ram, configuration))
}

/// What a packed input's first byte is; no stream begins so.
const PACKED: u8 = 0;

/// A stream whose sections are well-formed as far as length and checksum go, which no mutation would hit by itself. Each
/// is packed as: kind and flags in two bytes, two bytes of length, the body, and a count of pages of bytes behind it.
fn unpack(mut packed: &[u8]) -> Vec<u8> {
    let mut stream = prolog().to_vec();
    while let Some((&[kind, high, low_length, high_length], rest)) = packed.split_first_chunk() {
        let length = usize::from(u16::from_le_bytes([low_length, high_length])).min(rest.len());
        let (body, rest) = rest.split_at_checked(length).unwrap_or((rest, &[]));
        let (pages, rest) = rest.split_first().unwrap_or((&0, &[]));
        packed = rest;
        let mut header = vec![kind, high & 1, high >> 1 & 1, 0];
        header.extend(u32::try_from(length).unwrap_or(0).to_le_bytes());
        let crc = crc32(&[&header, body]);
        stream.extend(header);
        stream.extend(crc.to_le_bytes());
        stream.extend(body);
        stream.resize(stream.len() + usize::from(pages % 65) * 4096, *pages);
    }
    stream
}

/// The opposite of [`unpack`], for seeds.
fn pack(sections: &[(Kind, Vec<u8>, u8)]) -> Vec<u8> {
    let mut packed = vec![PACKED];
    for (kind, body, pages) in sections {
        let [low, high] = (*kind as u16).to_le_bytes();
        packed.extend([low, high]);
        packed.extend(u16::try_from(body.len()).unwrap_or(0).to_le_bytes());
        packed.extend(body);
        packed.push(*pages);
    }
    packed
}

fn cbor(value: &impl minicbor::Encode<()>) -> Vec<u8> {
    minicbor::to_vec(value).unwrap_or_default()
}

/// Good streams to begin with: pages and devices, a source that gives up, answers that travel back.
pub fn stream_seeds() -> Vec<Vec<u8>> {
    let Ok((_, configuration)) = fuzz_machine() else {
        return Vec::new();
    };
    let configuration = (Kind::Configuration, cbor(&configuration), 0);
    let mut table = RamTable::default();
    for (first, count, bytes) in [(0, 2, true), (5, 20, false), (32, 1, true)] {
        let pages = PageRun {
            block: 0,
            first,
            count,
        };
        table.push(Run { pages, bytes });
    }
    let table = table.encode();
    let table = table.get(SECTION_HEADER_BYTES..).unwrap_or_default();
    let device = |name: &str| {
        let device = DevicePayload {
            name: name.to_owned(),
            version: 1,
            bytes: vec![1, 2, 3],
        };
        (Kind::Device, cbor(&device), 0)
    };
    let end = PassEnd { pass: 1, pages: 23 };
    let over = TakeOver {
        run: true,
        devices: 2,
        pages: 23,
    };
    let whole = [
        configuration.clone(),
        (Kind::Ram, table.to_vec(), 3),
        (Kind::PassEnd, cbor(&end), 0),
        device("a"),
        device("b"),
        (Kind::TakeOver, cbor(&over), 0),
        (Kind::Go, Vec::new(), 0),
    ];
    let farewell = cbor(&Farewell::new("no more"));
    let given_up = [configuration, (Kind::Abandon, farewell.clone(), 0)];
    let back = [
        (Kind::Ready, Vec::new(), 0),
        (Kind::Failed, farewell.clone(), 0),
    ];
    let mut raw = unpack(pack(&whole).get(1..).unwrap_or_default());
    raw.truncate(0x2000);
    vec![
        pack(&whole),
        pack(&given_up),
        pack(&back),
        raw,
        b"QEVM\0\0\0\x03".to_vec(),
    ]
}

/// The fuzz target's entry: `data` as a stream, or packed, into a machine made for it.
pub fn fuzz_stream(data: &[u8]) {
    if let Some((&PACKED, packed)) = data.split_first() {
        return fuzz_bytes(&unpack(packed));
    }
    fuzz_bytes(data);
}

fn fuzz_bytes(data: &[u8]) {
    thread_local! {
        static MACHINE: Option<(Arc<Ram>, Configuration)> = fuzz_machine().ok();
    }
    MACHINE.with(|machine| {
        if let Some((ram, configuration)) = machine {
            // Either answer is fine; panicking, hanging or growing is not.
            let _ = receive_bytes(data, ram, configuration);
        }
    });
}
