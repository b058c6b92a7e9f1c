//! The fixed ACPI description table (ACPI 6.5, 5.2.9).

use super::{OEM_ID, OEM_REVISION, OEM_TABLE_ID, SCI};
use crate::chipset::power::{
    GPE0_BYTES, GPE0_PORT, PM_TIMER_PORT, PM1_CONTROL_PORT, PM1_EVENT_PORT,
};
use crate::chipset::reset::{RESET_PORT, RESET_VALUE};
use acpi_tables::sdt::Sdt;

const LENGTH: u32 = 276;

/// WBINVD works, C1 on all processors, the sleep button is no fixed one, the timer has 32 bits, the reset
/// register is there.
const FLAGS: u32 = 1 | 1 << 2 | 1 << 5 | 1 << 8 | 1 << 10;

/// A generic address in I/O space (5.2.3.2).
fn port(port: u16, bits: u8, access: u8) -> [u8; 12] {
    let [a, b] = port.to_le_bytes();
    [1, bits, 0, access, a, b, 0, 0, 0, 0, 0, 0]
}

pub(super) fn fadt(facs: u64, dsdt: u64) -> Vec<u8> {
    let low = |address: u64| u32::try_from(address).unwrap_or(0);
    let mut t = Sdt::new(*b"FACP", LENGTH, 6, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    t.write_u32(36, low(facs));
    t.write_u32(40, low(dsdt));
    t.write_u8(45, 4); // enterprise server
    t.write_u16(46, u16::from(SCI));
    // SMI_CMD stays 0: the machine is in ACPI mode from the start.
    t.write_u32(56, u32::from(PM1_EVENT_PORT));
    t.write_u32(64, u32::from(PM1_CONTROL_PORT));
    t.write_u32(76, u32::from(PM_TIMER_PORT));
    t.write_u32(80, u32::from(GPE0_PORT));
    t.write_u8(88, 4);
    t.write_u8(89, 2);
    t.write_u8(91, 4);
    t.write_u8(92, GPE0_BYTES);
    t.write_u16(96, 0xfff); // no C2
    t.write_u16(98, 0xfff); // no C3
    t.write_u8(108, 0x32); // century, in the real-time clock's memory
    t.write_u32(112, FLAGS);
    t.write_bytes(116, &port(RESET_PORT, 8, 1));
    t.write_u8(128, RESET_VALUE);
    t.write_u8(131, 5);
    t.write_u64(140, dsdt);
    t.write_bytes(148, &port(PM1_EVENT_PORT, 32, 2));
    t.write_bytes(172, &port(PM1_CONTROL_PORT, 16, 2));
    t.write_bytes(208, &port(PM_TIMER_PORT, 32, 3));
    t.write_bytes(220, &port(GPE0_PORT, GPE0_BYTES * 8, 1));
    t.write_bytes(268, b"Standfst");
    t.as_slice().to_vec()
}
