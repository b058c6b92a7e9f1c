//! The guest's view of a picture like that of an 82576 virtual function.

use super::*;
use crate::function::tests::{MSIX_AT, VF_BARS, virtual_function};
use proptest::prelude::*;

fn space() -> ConfigSpace {
    ConfigSpace::new(&virtual_function(), &VF_BARS, false).unwrap()
}

/// What a guest reads where the hardware says what the picture says.
fn read<const N: usize>(space: &ConfigSpace, offset: u16) -> [u8; N] {
    let at = usize::from(offset);
    let mut data: [u8; N] = virtual_function()[at..at + N].try_into().unwrap();
    space.overlay(offset, &mut data);
    data
}

fn read_u32(space: &ConfigSpace, offset: u16) -> u32 {
    u32::from_le_bytes(read(space, offset))
}

#[test]
fn bars_are_sized_and_placed_without_the_hardware() {
    let mut space = space();
    for register in (0x10..0x28).step_by(4) {
        assert!(space.write(register, &[0xff; 4]).is_empty());
    }
    assert!(space.write(0x30, &[0xff; 4]).is_empty());
    let sizes: Vec<u32> = (0x10..0x28)
        .step_by(4)
        .map(|at| read_u32(&space, at))
        .collect();
    assert_eq!(
        sizes,
        [0xffff_c00c, u32::MAX, 0, 0xffff_c00c, u32::MAX, 0],
        "two of 16 KiB, 64 bits wide, and no ROM"
    );
    assert_eq!(read_u32(&space, 0x30), 0);
    space.write(0x10, &0x8000_0000u32.to_le_bytes());
    space.write(0x14, &0x38u32.to_le_bytes());
    let decode = space.decode();
    assert_eq!(decode.bars[0].unwrap().base, 0x38_8000_0000);
    assert_eq!(decode.bars[0].unwrap().size, 0x4000);
    assert_eq!(decode.bars[1], None);
    assert!(!decode.memory_enabled);
}

#[test]
fn the_command_register_is_ours_and_the_hardware_gets_it() {
    let mut space = space();
    let writes = space.write(4, &[0xff, 0xff]);
    assert_eq!(writes, [(4, vec![0xff, 0xff])]);
    assert_eq!(u16::from_le_bytes(read(&space, 4)), COMMAND_WRITABLE);
    let decode = space.decode();
    assert!(decode.memory_enabled && decode.bus_master && decode.io_enabled);
    assert!(!space.needs_hardware(4, 2) && space.needs_hardware(4, 4));
    space.reset();
    assert_eq!(space.command(), 0);
}

#[test]
fn a_write_across_our_bits_and_the_hardwares_is_taken_apart() {
    let mut space = space();
    // Cache line size and latency timer are the hardware's, header type and self test ours.
    let writes = space.write(0xc, &[0x10, 0x20, 0xff, 0xff]);
    assert_eq!(writes, [(0xc, vec![0x10]), (0xd, vec![0x20])]);
    assert_eq!(read::<1>(&space, 0xe), [0], "one function, type 0");
    assert!(space.write(0x3c, &[11, 2]).is_empty());
    assert_eq!(
        read::<2>(&space, 0x3c),
        [11, 0],
        "a virtual function has no pin"
    );
}

#[test]
fn the_chain_skips_what_is_hidden() {
    let space = space();
    let mut seen = Vec::new();
    let mut at: u16 = read::<1>(&space, 0x34)[0].into();
    while at != 0 {
        let [id, next] = read::<2>(&space, at);
        seen.push(id);
        at = next.into();
    }
    assert_eq!(seen, [id::MSIX, id::EXPRESS]);
    assert_eq!(read_u32(&space, 0x50), 0, "the unknown one is blank");
    let header = read_u32(&space, 0x100);
    assert_eq!(header & 0xf_ffff, 0x2_0001, "error reporting");
    let next = u16::try_from(header >> 20).unwrap();
    assert_eq!(
        read_u32(&space, next),
        0x0001_0003,
        "serial number, and then nothing"
    );
    assert_eq!(read_u32(&space, 0x150), 0, "Alternative Routing-ID");
}

#[test]
fn a_hidden_first_extended_capability_becomes_a_null_one() {
    let mut picture = virtual_function();
    picture[0x100] = 0x10;
    let space = ConfigSpace::new(&picture, &VF_BARS, false).unwrap();
    let mut data = [0xff; 4];
    space.overlay(0x100, &mut data);
    assert_eq!(u32::from_le_bytes(data), 0x1600_0000);
}

#[test]
fn msix_is_set_by_the_guest_alone() {
    let mut space = space();
    let layout = space.msix().unwrap();
    assert_eq!(
        (layout.entries, layout.table_bar, layout.pba_offset),
        (3, 3, 0x2000)
    );
    let control = u16::try_from(MSIX_AT + 2).unwrap();
    assert!(space.write(control, &[0xff, 0xff]).is_empty());
    assert_eq!(u16::from_le_bytes(read(&space, control)), 0xc002);
    let state = space.msix_state();
    assert!(state.enabled && state.masked);
    space.reset();
    assert_eq!(space.msix_state(), MsixState::default());
}

#[test]
fn function_level_reset_is_recognized_whatever_the_width() {
    let space = space();
    let at = u16::try_from(space.express().unwrap()).unwrap();
    assert!(space.asks_for_reset(at + 8, &[0, 0x80]));
    assert!(space.asks_for_reset(at + 8, &[0, 0x80, 0, 0]));
    assert!(space.asks_for_reset(at + 9, &[0x80]));
    assert!(!space.asks_for_reset(at + 8, &[0xff, 0x7f]));
    assert!(!space.asks_for_reset(at + 10, &[0xff, 0xff]));
}

#[test]
fn what_cannot_be_passed_through_is_refused_with_a_reason() {
    let refused = |edit: &dyn Fn(&mut Vec<u8>), bars: &[u64; 6]| {
        let mut picture = virtual_function();
        edit(&mut picture);
        ConfigSpace::new(&picture, bars, false).unwrap_err()
    };
    assert!(refused(&|p| p[0xe] = 1, &VF_BARS).contains("bridge"));
    assert!(refused(&|_| (), &[0x3000, 0, 0, 0x4000, 0, 0]).contains("power of two"));
    assert!(refused(&|_| (), &[0x4000, 0, 0, 0x20, 0, 0]).contains("MSI-X table"));
    assert!(refused(&|p| p[0xa2] = 0x42, &VF_BARS).contains("port"));
}

#[test]
fn msi_follows_its_layout() {
    let mut picture = vec![0; 256];
    picture[6] = 0x10;
    picture[0x34] = 0x50;
    // Four vectors, 64 bits wide, maskable.
    picture[0x50..0x54].copy_from_slice(&[id::MSI, 0, 0x84, 0x01]);
    picture[0x3d] = 1;
    let mut space = ConfigSpace::new(&picture, &[0; 6], true).unwrap();
    assert_eq!(space.pin(), 1);
    space.write(0x54, &0xfee0_1007u32.to_le_bytes());
    space.write(0x58, &1u32.to_le_bytes());
    space.write(0x5c, &0x41u16.to_le_bytes());
    space.write(0x60, &0xffu32.to_le_bytes());
    assert_eq!(space.msi_state().enabled, 0);
    space.write(0x52, &0x71u16.to_le_bytes());
    let state = space.msi_state();
    assert_eq!((state.enabled, state.address), (4, 0x1_fee0_1004));
    assert_eq!((state.data, state.masked), (0x41, 0xf));
    space.set_msi_pending(5);
    let mut data = [0; 4];
    space.overlay(0x64, &mut data);
    assert_eq!(data, [5, 0, 0, 0]);
    assert!(!space.needs_hardware(0x100, 4), "no extended space");
}

#[test]
fn the_power_state_stays_in_our_hands() {
    let mut picture = vec![0; 256];
    picture[6] = 0x10;
    picture[0x34] = 0x40;
    picture[0x40..0x48].copy_from_slice(&[id::POWER, 0, 0xff, 0xff, 0, 0, 0, 0]);
    let mut space = ConfigSpace::new(&picture, &[0; 6], true).unwrap();
    assert!(space.write(0x44, &[0x03, 0x01]).is_empty());
    let mut data = [0; 4];
    space.overlay(0x44, &mut data);
    assert_eq!(data, [0x0b, 0, 0, 0], "D3, no soft reset, no wake-up");
}

proptest! {
    #[test]
    fn no_picture_and_no_access_panics(
        picture in proptest::collection::vec(any::<u8>(), 4096),
        sizes in proptest::array::uniform6(0u64..0x1_0000_0000),
        accesses in proptest::collection::vec((any::<u16>(), proptest::collection::vec(any::<u8>(), 1..5)), 0..40),
    ) {
        let mut picture = picture;
        picture[0xe] = 0;
        let sizes = sizes.map(|size| if size % 3 == 0 { 0 } else { size.next_power_of_two() });
        let Ok(mut space) = ConfigSpace::new(&picture, &sizes, true) else { return Ok(()) };
        for (offset, mut data) in accesses {
            let offset = offset % 4096;
            space.write(offset, &data);
            space.overlay(offset, &mut data);
            let _ = (space.decode(), space.msi_state(), space.msix_state(), space.asks_for_reset(offset, &data));
            space.set_msi_pending(u32::MAX);
        }
    }
}
