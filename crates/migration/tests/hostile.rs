//! Streams nobody meant to send.
#![allow(clippy::unwrap_used)]

mod support;

use std::sync::OnceLock;

use migration::fuzz::{fuzz_machine, fuzz_stream, receive_bytes};
use migration::{STREAM_VERSION, State};
use proptest::prelude::*;
use support::*;

/// A good stream, of a machine of 64 pages, taken from a file.
fn good() -> &'static [u8] {
    static STREAM: OnceLock<Vec<u8>> = OnceLock::new();
    STREAM.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vm");
        let guest = Guest::new(64 * 4096, 16);
        guest.set_running(true);
        for _ in 0..40 {
            guest.step();
        }
        let (record, events) = record();
        let outgoing = send(
            TestSource::new(&guest, &record),
            &format!("file:{}", path.display()),
        );
        events.until_state(State::Completed);
        outgoing.join();
        std::fs::read(path).unwrap()
    })
}

fn received(data: &[u8]) -> Result<(), String> {
    let (ram, mut configuration) = fuzz_machine().unwrap();
    configuration.devices = Guest::new(8192, 1).configuration().devices;
    receive_bytes(data, &ram, &configuration)
}

#[test]
fn a_good_stream_is_taken_and_every_shorter_one_refused() {
    let good = good();
    received(good).unwrap();
    for length in (0..good.len())
        .rev()
        .take(200)
        .chain((0..good.len()).step_by(97))
    {
        let error = received(&good[..length]).unwrap_err();
        // As many as came, also in the middle of a section or of a page.
        let counted = format!("truncated: it ends after {length} bytes, in ");
        assert!(error.contains(&counted), "{length}: {error}");
    }
}

#[test]
fn foreign_and_newer_streams_are_told_apart() {
    let qemu = [b"QEVM\0\0\0\x03".as_slice(), &[0; 64]].concat();
    assert!(
        received(&qemu)
            .unwrap_err()
            .contains("QEMU migration stream")
    );
    let error = received(b"GET / HTTP/1.1\r\n\r\n").unwrap_err();
    assert!(
        error.contains("not a Standfast migration stream"),
        "{error}"
    );
    let mut newer = good().to_vec();
    newer[8..12].copy_from_slice(&(STREAM_VERSION + 1).to_le_bytes());
    let error = received(&newer).unwrap_err();
    assert!(error.contains("format version 2"), "{error}");
}

#[test]
fn any_changed_byte_outside_of_pages_is_noticed() {
    let good = good();
    // The configuration's section, and the first RAM table with its header.
    let table = first_ram();
    let entries = u32::from_le_bytes(good[table + 4..table + 8].try_into().unwrap());
    for at in 16..table + 12 + entries as usize {
        let mut bad = good.to_vec();
        bad[at] ^= 0x10;
        assert!(received(&bad).is_err(), "byte {at}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]
    #[test]
    fn noise_is_survived(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..40), cut in any::<prop::sample::Index>()) {
        let mut bad = good().to_vec();
        for (at, value) in changes {
            let at = at.index(bad.len());
            bad[at] = value;
        }
        bad.truncate(cut.index(bad.len()) + 1);
        let _ = received(&bad);
        fuzz_stream(&bad);
    }

    /// Sections with a right checksum and any contents: the checks behind the checksum.
    #[test]
    fn well_formed_nonsense_is_survived(sections in prop::collection::vec((0u16..10, prop::collection::vec(any::<u8>(), 0..200)), 0..10)) {
        let configuration = &good()[..first_ram()];
        let mut bad = configuration.to_vec();
        for (kind, body) in sections {
            bad.extend(section(kind, &body));
        }
        let _ = received(&bad);
    }

    #[test]
    fn pages_out_of_range_are_refused(block in 0u16..3, kind in 0u16..3, count in any::<u32>(), first in any::<u64>()) {
        let mut bad = good()[..first_ram()].to_vec();
        let mut body = Vec::new();
        body.extend(block.to_le_bytes());
        body.extend(kind.to_le_bytes());
        body.extend(count.to_le_bytes());
        body.extend(first.to_le_bytes());
        bad.extend(section(2, &body));
        prop_assert!(received(&bad).is_err());
    }
}

/// Where the configuration ends.
fn first_ram() -> usize {
    let good = good();
    28 + u32::from_le_bytes(good[20..24].try_into().unwrap()) as usize
}

fn section(kind: u16, body: &[u8]) -> Vec<u8> {
    let mut bytes = kind.to_le_bytes().to_vec();
    bytes.extend([0, 0]);
    bytes.extend(u32::try_from(body.len()).unwrap().to_le_bytes());
    let mut crc = u32::MAX;
    for byte in bytes.iter().chain(body) {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ if crc & 1 == 1 { 0xedb8_8320 } else { 0 };
        }
    }
    bytes.extend((!crc).to_le_bytes());
    bytes.extend(body);
    bytes
}
