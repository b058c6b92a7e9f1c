//! Guest RAM as the machine and its devices use it, on real host memory.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use memory::{
    DirtyPages, Extent, GuestRange, HugePages, MemoryError, PageRun, Ram, RamBackend, RamConfig,
    allocate,
};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

const MIB: u64 = 1 << 20;
const HIGH: u64 = 1 << 32;

/// q35's shape in small: low RAM at 0, the rest above 4 GiB.
fn split_layout() -> Arc<Ram> {
    allocate(
        &RamConfig::anonymous(3 * MIB),
        &[GuestRange::new(0, 2 * MIB), GuestRange::new(HIGH, MIB)],
    )
    .unwrap()
}

fn run(first: u64, count: u64) -> PageRun {
    PageRun {
        block: 0,
        first,
        count,
    }
}

#[test]
fn device_writes_show_up_once_in_block_offsets() {
    let ram = split_layout();
    assert_eq!(ram.guest().num_regions(), 2);
    ram.guest()
        .write_slice(&[1; 8192], GuestAddress(0x1800))
        .unwrap();
    ram.guest()
        .write_obj(7u64, GuestAddress(HIGH + 0x3000))
        .unwrap();
    let mut dirty = DirtyPages::clean(&ram);
    ram.take_device_dirty(&mut dirty);
    let runs: Vec<_> = dirty.runs(u64::MAX).collect();
    assert_eq!(runs, [run(1, 3), run(512 + 3, 1)]);
    let mut again = DirtyPages::clean(&ram);
    ram.take_device_dirty(&mut again);
    assert!(again.is_clean());
}

#[test]
fn writes_from_elsewhere_are_marked_across_the_hole() {
    let ram = split_layout();
    ram.mark_dirty(GuestAddress(2 * MIB - 1), HIGH);
    let mut dirty = DirtyPages::clean(&ram);
    ram.take_device_dirty(&mut dirty);
    assert_eq!(dirty.runs(u64::MAX).collect::<Vec<_>>(), [run(511, 257)]);
    // A slot's log of the range above 4 GiB lands at its block offset.
    dirty.clear_all();
    assert!(dirty.merge_slot_log(&ram, GuestAddress(HIGH), &[0b101]));
    assert!(!dirty.merge_slot_log(&ram, GuestAddress(3 * MIB), &[1]));
    assert_eq!(
        dirty.runs(9).collect::<Vec<_>>(),
        [run(512, 1), run(514, 1)]
    );
}

#[test]
fn untouched_pages_are_known_without_touching_them() {
    let ram = split_layout();
    let all = run(0, ram.pages());
    assert_eq!(
        ram.extents(all).unwrap(),
        [Extent {
            run: all,
            populated: false
        }]
    );
    ram.guest()
        .write_slice(&[9; 4096], GuestAddress(HIGH))
        .unwrap();
    let extents = ram.extents(all).unwrap();
    assert_eq!(
        extents.iter().map(|extent| extent.run.count).sum::<u64>(),
        768
    );
    assert!(
        extents
            .iter()
            .any(|e| e.populated && e.run.first <= 512 && e.run.first + e.run.count > 512)
    );
    // Asking did not populate: page 0 is still a hole, unless the host gives huge pages.
    let span = ram.spans(run(512, 1)).unwrap().next().unwrap();
    assert!(!span.page_is_zero(0));
    assert!(!span.page_is_zero(1));
}

#[test]
fn zeroed_pages_go_back_to_the_host() {
    let ram = split_layout();
    for discard in [true, false] {
        ram.set_discard_allowed(discard);
        ram.guest()
            .write_slice(&[5; 3 * 4096], GuestAddress(2 * MIB - 3 * 4096))
            .unwrap();
        ram.guest().write_obj(5u8, GuestAddress(HIGH)).unwrap();
        ram.zero_pages(run(510, 3)).unwrap();
        let mut page = [0; 3 * 4096];
        ram.guest()
            .read_slice(&mut page, GuestAddress(2 * MIB - 3 * 4096))
            .unwrap();
        assert_eq!(page[4095], 5);
        assert!(page[4096..].iter().all(|byte| *byte == 0));
        assert_eq!(ram.guest().read_obj::<u8>(GuestAddress(HIGH)).unwrap(), 0);
    }
    assert!(matches!(
        ram.zero_pages(run(700, 69)),
        Err(MemoryError::OutOfRange { .. })
    ));
    assert!(ram.spans(run(1, u64::MAX)).is_err());
}

#[test]
fn a_span_a_mapping() {
    let ram = split_layout();
    let spans: Vec<_> = ram.spans(run(510, 4)).unwrap().collect();
    assert_eq!(
        spans
            .iter()
            .map(|span| span.len_bytes())
            .collect::<Vec<_>>(),
        [8192, 8192]
    );
    assert!(spans[1].copy_from(&[3; 8192]));
    assert!(!spans[1].copy_from(&[3; 8191]));
    assert_eq!(
        ram.guest()
            .read_obj::<u8>(GuestAddress(HIGH + 8191))
            .unwrap(),
        3
    );
}

#[test]
fn too_much_is_refused_with_the_figures() {
    let size = 1 << 50;
    let error = allocate(&RamConfig::anonymous(size), &[GuestRange::new(0, size)]).unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, MemoryError::MoreThanHost { .. }), "{text}");
    assert!(text.contains("1024 TiB") && text.contains("-m"), "{text}");
    let huge = RamConfig {
        backend: RamBackend::Memfd {
            huge_pages: Some(HugePages::SizeBytes(2 * MIB)),
        },
        ..RamConfig::anonymous(1 << 45)
    };
    let error = allocate(&huge, &[GuestRange::new(0, 1 << 45)]).unwrap_err();
    assert!(
        matches!(
            error,
            MemoryError::HugePages { .. } | MemoryError::NoSuchHugePage { .. }
        ),
        "{error}"
    );
}

#[test]
fn a_wrong_layout_is_refused() {
    for ranges in [
        vec![],
        vec![GuestRange::new(0, MIB)],
        vec![GuestRange::new(0, MIB), GuestRange::new(MIB - 4096, MIB)],
        vec![GuestRange::new(u64::MAX - 4095, 2 * MIB)],
        vec![GuestRange::new(0, 2 * MIB), GuestRange::new(2 * MIB, 0)],
    ] {
        assert!(matches!(
            allocate(&RamConfig::anonymous(2 * MIB), &ranges),
            Err(MemoryError::Layout { .. })
        ));
    }
    assert!(matches!(
        allocate(&RamConfig::anonymous(4097), &[GuestRange::new(0, 4097)]),
        Err(MemoryError::Unaligned { .. })
    ));
    assert!(matches!(
        allocate(&RamConfig::anonymous(0), &[]),
        Err(MemoryError::Empty { .. })
    ));
}

#[test]
fn a_file_keeps_what_was_written_if_shared() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ram");
    let config = |share| RamConfig {
        backend: RamBackend::File {
            path: path.clone(),
            offset_bytes: 4096,
        },
        share,
        ..RamConfig::anonymous(MIB)
    };
    let layout = [GuestRange::new(0, MIB)];
    let shared = allocate(&config(true), &layout).unwrap();
    shared.guest().write_obj(1u8, GuestAddress(0)).unwrap();
    let private = allocate(&config(false), &layout).unwrap();
    assert_eq!(private.guest().read_obj::<u8>(GuestAddress(0)).unwrap(), 1);
    private.zero_pages(run(0, 256)).unwrap();
    assert_eq!(private.guest().read_obj::<u8>(GuestAddress(0)).unwrap(), 0);
    assert_eq!(shared.guest().read_obj::<u8>(GuestAddress(0)).unwrap(), 1);
    assert_eq!(std::fs::read(&path).unwrap()[4096], 1);
    // Too short a file, and a directory.
    let error = allocate(
        &RamConfig {
            size_bytes: 2 * MIB,
            ..config(true)
        },
        &[GuestRange::new(0, 2 * MIB)],
    )
    .unwrap_err();
    assert!(matches!(error, MemoryError::FileSize { .. }), "{error}");
    let in_dir = RamConfig {
        backend: RamBackend::File {
            path: dir.path().to_owned(),
            offset_bytes: 0,
        },
        ..RamConfig::anonymous(MIB)
    };
    allocate(&in_dir, &layout).unwrap();
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn preallocated_memory_is_there() {
    let ram = allocate(
        &RamConfig {
            prealloc: true,
            ..RamConfig::anonymous(2 * MIB)
        },
        &[GuestRange::new(0, 2 * MIB)],
    )
    .unwrap();
    let extents = ram.extents(run(0, 512)).unwrap();
    assert!(extents.iter().all(|extent| extent.populated), "{extents:?}");
    // Zeroing does not undo it.
    ram.zero_pages(run(0, 512)).unwrap();
    assert!(ram.extents(run(0, 512)).unwrap()[0].populated);
}

/// `FilePmdMapped`/`ShmemPmdMapped` in KiB of the mapping that begins at `address`.
fn huge_kib(address: u64) -> u64 {
    let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let head = format!("{address:x}-");
    let from = smaps.find(&head).expect("the mapping");
    let line = smaps[from..]
        .lines()
        .find(|line| line.starts_with("ShmemPmdMapped:"))
        .expect("ShmemPmdMapped");
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn plain_ram_comes_in_huge_pages_where_it_is_touched() {
    let enabled = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";
    let setting = std::fs::read_to_string(enabled).unwrap_or_default();
    if !rustix::process::geteuid().is_root() || setting.is_empty() || setting.contains("[deny]") {
        println!("SKIPPED: huge pages need the right to mount, and {enabled} not to be 'deny'");
        return;
    }
    let ram = allocate(
        &RamConfig::anonymous(8 * MIB),
        &[GuestRange::new(0, 8 * MIB)],
    )
    .unwrap();
    let at = ram.ranges().next().unwrap().host_address();
    assert!(at.is_multiple_of(2 * MIB), "mapped at {at:#x}");
    assert_eq!(huge_kib(at), 0);
    ram.guest().write_obj(1u8, GuestAddress(5 * MIB)).unwrap();
    assert_eq!(huge_kib(at), 2048);
    // Shared as a memfd is: who gets the descriptor sees the same bytes.
    let mut byte = [0];
    std::os::unix::fs::FileExt::read_exact_at(&**ram.blocks()[0].file(), &mut byte, 5 * MIB)
        .unwrap();
    assert_eq!(byte, [1]);
}
