//! What a guest, or a client of the `qtest` socket, finds in registers: the protocol itself, configuration space, the block for
//! hotplug by ACPI, the firmware's interface, a virtio device's registers.

use anyhow::Result;
use serde_json::{Value, json};

use super::act::Act;
use crate::intended::{ALONE, BACK, OFFERED};
use crate::machine::{add_primary, add_standby, board, pairs, plain_nic, standby, words};
use crate::scenario::{Scenario, row};

/// Selects a register of a function of bus 0 by its ports.
fn select(slot: u32, register: u32) -> String {
    format!("outl 0xcf8 {:#x}", 1 << 31 | slot << 11 | register)
}

/// The ports of ACPI's block for PCI hotplug.
const UP: &str = "inl 0xcc0";
const DOWN: &str = "inl 0xcc4";
const EJECT: &str = "outl 0xcc8 0x1";
const REMOVABLE: &str = "inl 0xccc";
const INDEX: &str = "inl 0xcd4";

/// What the block says of the bus with a number.
fn block(act: Act, number: u32) -> Result<Act> {
    act.line(&format!("outl 0xcd0 {number:#x}"))?
        .lines(&[UP, UP, DOWN, DOWN, REMOVABLE])
}

/// … of each of `count`.
fn blocks(act: Act, count: u32) -> Result<Act> {
    (0..count).try_fold(act, block)
}

pub(super) const SCENARIOS: &[Scenario] = &[
    row!(
        "registers-qtest",
        "the protocol: each width, memory in bulk, and lines that are none",
        |stage| {
            Act::boot(stage, "vm", &board(1))?
                .lines(&[
                    "endianness",
                    "writeq 0x100000 0x1122334455667788",
                    "readb 0x100000",
                    "readw 0x100000",
                    "readl 0x100000",
                    "readq 0x100000",
                    "read 0x100000 0x8",
                    "writeb 0x100000 0xfff",
                    "writew 0x100002 0x1",
                    "writel 0x100004 0xffffffff",
                    "readq 1048576",
                    "write 0x100000 0x4 0x01020304",
                    "write 0x100004 0x4 0x01",
                    "write 0x100004 0x4 0x",
                    "read 0x100000 0x8",
                    "b64read 0x100000 0x4",
                    "b64write 0x100000 0x3 YWJj",
                    "memset 0x100003 0x2 0xee",
                    "memset 0x100003 0x0 0x11",
                    "read 0x100000 0x8",
                    "readl 0xfe000000",
                    "outb 0x80 0x12",
                    "inb 0x80",
                    "inw 0x1234",
                    "inl 0x1234",
                    "irq_intercept_in nope",
                    "nope",
                    "nope 1 2",
                    "OUTB 0x80 0x12",
                ])?
                .finish()
        }
    ),
    row!(
        "registers-chipset",
        "host bridge, LPC bridge, a port and an empty slot by ports 0xcf8 and 0xcfc, low bits of an offset in either",
        |stage| {
            let mut act = Act::boot(stage, "vm", &board(1))?;
            for slot in [0, 1, 2, 31] {
                // Identity, class and revision, kind of header, subsystem.
                for register in [0x00, 0x08, 0x0c, 0x2c] {
                    act = act.line(&select(slot, register))?.line("inl 0xcfc")?;
                }
            }
            for low in 1..4 {
                act = act.line(&select(31, low))?.lines(&[
                    "inb 0xcfc",
                    "inb 0xcfd",
                    "inb 0xcfe",
                    "inb 0xcff",
                    "inw 0xcfc",
                    "inw 0xcfe",
                    "inl 0xcfc",
                ])?;
            }
            // Not enabled: nobody answers.
            act.line("outl 0xcf8 0x0")?
                .lines(&["inl 0xcfc", "inl 0xcf8"])?
                .finish()
        },
        &[ALONE]
    ),
    row!(
        "registers-ecam",
        "the same by memory, switched on where the board has it",
        |stage| {
            Act::boot(stage, "vm", &pairs(1))?
                .line(&select(0, 0x64))?
                .line("outl 0xcfc 0x0")?
                .line(&select(0, 0x60))?
                .line("outl 0xcfc 0xb0000001")?
                .lines(&[
                    "readl 0xb0000000",
                    "readl 0xb0008000",
                    "readl 0xb00f8000",
                    "readw 0xb0008002",
                    "readb 0xb000800b",
                    // The standby, and the slot in which the primary is hidden.
                    "readl 0xb0100000",
                    "readl 0xb0200000",
                    "readl 0xb0010000",
                ])?
                .finish()
        }
    ),
    row!(
        "registers-virtio",
        "where a virtio-net device's registers are",
        |stage| {
            Act::boot(stage, "vm", &[board(2), standby(0)].concat())?
                .guest_looks(0)?
                .virtio_registers(0)?
                .finish()
        }
    ),
    row!(
        "registers-features",
        "what a virtio-net device offers, with failover and without",
        |stage| {
            Act::boot(stage, "on", &[board(2), standby(0)].concat())?
                .features(0)?
                .finish()?;
            Act::boot(stage, "off", &[board(2), plain_nic(0)].concat())?
                .features(0)?
                .finish()
        },
        &[OFFERED]
    ),
    row!(
        "registers-acpi",
        "ACPI's block: a device comes, is asked for, and is ejected",
        |stage| {
            let act = Act::boot(stage, "vm", &board(2))?;
            let act = blocks(act, 3)?
                .step("device_add")
                .ask("device_add", add_standby(0))?;
            let act = blocks(act, 3)?
                .step("device_del")
                .ask("device_del", json!({"id": "standby0"}))?;
            let act = blocks(act, 2)?
                .step("eject")
                .lines(&["outl 0xcd0 0x1", EJECT, UP, DOWN])?;
            act.wait("DEVICE_DELETED standby0")?
                .ask("query-pci", Value::Null)?
                .finish()
        }
    ),
    row!(
        "registers-acpi-numbers",
        "the buses' numbers: ports declared from the last slot on, and one that cannot hotplug among them",
        |stage| {
            let line = words(
                "-M q35 -m 64 -nodefaults -display none \
                 -device pcie-root-port,id=root0,chassis=1,addr=0x5 \
                 -device pcie-root-port,id=root1,chassis=2,addr=0x3,hotplug=off \
                 -device pcie-root-port,id=root2,chassis=3,addr=0x4",
            );
            let act = Act::boot(stage, "vm", &line)?
                .ask("device_add", add_standby(0))?
                .ask("device_add", add_standby(1))?;
            blocks(act, 4)?.finish()
        }
    ),
    row!(
        "registers-acpi-index",
        "the index that a device has, by its slot",
        |stage| {
            let mut indexed = standby(0);
            if let Some(device) = indexed.last_mut() {
                device.push_str(",acpi-index=7");
            }
            Act::boot(stage, "vm", &[board(2), indexed].concat())?
                .lines(&[
                    "outl 0xcd0 0x1",
                    INDEX,
                    "outl 0xcd4 0x0",
                    INDEX,
                    "outl 0xcd0 0x0",
                    "outl 0xcd4 0x0",
                    INDEX,
                ])?
                .finish()
        }
    ),
    row!(
        "registers-acpi-primary",
        "ACPI's block while a guest accepts, is asked to let go, and goes on here after all",
        |stage| {
            // An answer of the monitor's comes once all is done that was set off before.
            let settled = |act: Act| act.ask("query-status", Value::Null);
            let act = block(settled(Act::pairs(stage, 1)?)?, 0)?
                .events()?
                .step("migrate")
                .migrate_and_wait("exec:cat > DIR/state")?;
            let act = block(act, 0)?
                .step("eject")
                .eject(1)?
                .completed()?
                .step("cont")
                .ask("cont", Value::Null)?;
            block(settled(act)?, 0)?.guest_looks(1)?.finish()
        },
        &[BACK]
    ),
    row!(
        "registers-acpi-added",
        "ACPI's block when the primary comes by the monitor",
        |stage| {
            let act = Act::boot(stage, "vm", &[board(2), standby(0)].concat())?
                .accept(0)?
                .ask("device_add", add_primary(0))?;
            block(act, 0)?.finish()
        }
    ),
    row!(
        "registers-firmware",
        "the firmware's interface: the signature, and the size of memory",
        |stage| {
            let mut act = Act::boot(stage, "vm", &board(1))?;
            for item in ["0x0", "0x3", "0x5"] {
                act = act.line(&format!("outw 0x510 {item}"))?;
                for _ in 0..9 {
                    act = act.line("inb 0x511")?;
                }
            }
            act.finish()
        }
    ),
];
