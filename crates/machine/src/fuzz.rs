//! An entry for fuzzing: the state that a stream brings for what is not a PCI function, then a guest at the chipset's ports.

use crate::chipset::PortDevice;
use crate::chipset::fw_cfg::FwCfgState;
use crate::chipset::power::Power;
use crate::chipset::rtc::{Rtc, RtcState};
use crate::chipset::serial::SerialPort;
use crate::saved::ChipsetState;
use hypervisor::{IrqchipState, VcpuState};
use pci::IntxLine;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use vmm_sys_util::eventfd::EventFd;

struct Line;

impl IntxLine for Line {
    fn set(&self, _: bool) {}

    fn drive_by(&self, _: Option<(&EventFd, &EventFd)>) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

struct Chipset {
    serial: Arc<SerialPort>,
    rtc: Rtc,
    power: Arc<Power>,
}

/// A day in 2026.
const NOW_S: i64 = 1_790_000_000;

fn clock(offset_s: i64) -> Rtc {
    Rtc::new(Arc::new(|| NOW_S), offset_s, Arc::new(|| {}))
}

impl Chipset {
    fn new() -> Self {
        Self {
            serial: SerialPort::new(Arc::new(Line), Box::new(io::sink())),
            rtc: clock(0),
            power: Power::new(
                Arc::new(Line),
                Arc::new(|_| {}),
                Arc::new(|| Duration::from_secs(1)),
            ),
        }
    }

    fn restore(&self, state: &[u8]) {
        let Ok(state) = minicbor::decode::<ChipsetState>(state) else {
            return;
        };
        for saved in &state.serials {
            self.serial.restore(saved);
        }
        self.rtc.restore(state.rtc);
        self.power.restore(state.power);
    }

    fn save(&self) -> Vec<u8> {
        self.save_with(self.rtc.save())
    }

    fn save_with(&self, rtc: RtcState) -> Vec<u8> {
        let state = ChipsetState {
            power: self.power.save(),
            rtc,
            serials: vec![self.serial.save()],
            config_address: 0x8000_0000,
            pending_power: Some(1),
            fw_cfg: Some(FwCfgState::default()),
        };
        minicbor::to_vec(state).unwrap_or_default()
    }
}

/// Byte 0 chooses whose state it is; two bytes of length and as many of state follow, then accesses to the chipset's ports:
/// device and direction in one byte, an offset, and up to four bytes.
pub fn fuzz_state(data: &[u8]) {
    let Some((&[choice, low, high], rest)) = data.split_first_chunk() else {
        return;
    };
    let length = usize::from(u16::from_le_bytes([low, high])).min(rest.len());
    let (state, mut accesses) = rest.split_at_checked(length).unwrap_or((rest, &[]));
    match choice % 3 {
        1 => return drop(minicbor::decode::<VcpuState>(state)),
        2 => return drop(minicbor::decode::<IrqchipState>(state)),
        _ => {}
    }
    let chipset = Chipset::new();
    chipset.restore(state);
    while let Some((&[kind, offset], rest)) = accesses.split_first_chunk() {
        let length = 1 << (kind >> 6 & 1) << (kind >> 7);
        let (bytes, rest) = rest.split_at_checked(length).unwrap_or((&[0], &[]));
        accesses = rest;
        let (device, ports): (&dyn PortDevice, u16) = match kind % 4 {
            0 => (&*chipset.serial, 8),
            1 | 2 => (&chipset.rtc, 2),
            _ => (&*chipset.power, 0x80),
        };
        let offset = u16::from(offset) % ports;
        let mut back = bytes.to_vec();
        if kind & 0x10 == 0 {
            device.write(offset, bytes);
        }
        device.read(offset, &mut back);
        if kind & 0x20 != 0 {
            chipset.serial.receive(bytes);
        }
    }
    let saved = chipset.save();
    assert!(minicbor::decode::<ChipsetState>(&saved).is_ok());
}

/// A chipset as it saves itself, with a guest that sets the clock; and empty states of the others.
pub fn state_seeds() -> Vec<Vec<u8>> {
    let mut guest = Vec::new();
    for register in [0, 2, 4, 6, 7, 8, 9, 10, 11, 0x32] {
        guest.extend([0x01, 0, register, 0x01, 1, 0x12]);
    }
    for port in 0..8 {
        guest.extend([0x00, port, 0x83, 0x20, port, 7]);
    }
    for port in [0, 2, 4, 8, 0x20, 0x28] {
        guest.extend([0x43, port, 0xff, 0x3f]);
    }
    let of = |choice: u8, state: Vec<u8>| {
        let mut seed = vec![choice];
        seed.extend(u16::try_from(state.len()).unwrap_or(0).to_le_bytes());
        seed.extend(state);
        seed
    };
    // Arrays of as many fields as there are: byte strings, numbers, a list.
    let blob = [0x44, 1, 2, 3, 4];
    let vcpu = [&[0x8a][..], &blob.repeat(7), &[0, 0x81, 0x82, 1, 2, 0]].concat();
    let irqchip = [&[0x83, 0x83][..], &blob.repeat(4), &[0]].concat();
    let mut seeds = vec![of(1, vcpu), of(2, irqchip)];
    for offset_s in [0, i64::MAX, i64::MIN, -62_135_596_800] {
        let chipset = Chipset::new();
        let rtc = clock(offset_s).save();
        let mut seed = of(0, chipset.save_with(rtc));
        seed.extend(&guest);
        seeds.push(seed);
    }
    seeds
}
