//! ACPI's fixed hardware (ACPI 6.5, 4.8.3): PM1 events and control, the timer, general-purpose events; the
//! system control interrupt.

use super::{PortDevice, PowerListener, PowerRequest, put, value};
use minicbor::{Decode, Encode};
use pci::IntxLine;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// First port of the block, as the ICH9 has it with PMBASE 0x600.
pub const PM_PORT: u16 = 0x600;
/// Ports in the block.
pub const PM_PORTS: u16 = 0x80;
/// PM1 status and enable registers.
pub const PM1_EVENT_PORT: u16 = PM_PORT;
/// PM1 control register.
pub const PM1_CONTROL_PORT: u16 = PM_PORT + 4;
/// The 3.579545 MHz timer.
pub const PM_TIMER_PORT: u16 = PM_PORT + 8;
/// General-purpose event registers: status, then enable.
pub const GPE0_PORT: u16 = PM_PORT + 0x20;
/// Bytes of the general-purpose event block, half of them status.
pub const GPE0_BYTES: u8 = 16;
/// The general-purpose event of PCI hotplug.
pub const HOTPLUG_GPE: u8 = 1;
/// SLP_TYP of soft power-off.
pub const SLEEP_TYPE_S5: u8 = 5;

const TIMER_HZ: u128 = 3_579_545;

const PM1_STATUS: u16 = 0x00;
const PM1_ENABLE: u16 = 0x02;
const PM1_CONTROL: u16 = 0x04;
const PM_TIMER: u16 = 0x08;
const GPE0: u16 = 0x20;
const GPE0_HALF: u16 = GPE0_BYTES as u16 / 2;

const POWER_BUTTON: u16 = 1 << 8;
const SCI_ENABLE: u16 = 1;
const SLEEP_ENABLE: u16 = 1 << 13;

/// The registers; also their saved form.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
pub struct PowerState {
    #[n(0)]
    pm1_status: u16,
    #[n(1)]
    pm1_enable: u16,
    #[n(2)]
    pm1_control: u16,
    #[n(3)]
    gpe_status: u64,
    #[n(4)]
    gpe_enable: u64,
}

impl PowerState {
    fn sci(&self) -> bool {
        self.pm1_status & self.pm1_enable & POWER_BUTTON != 0
            || self.gpe_status & self.gpe_enable != 0
    }
}

/// ACPI's fixed hardware.
pub struct Power {
    state: Mutex<PowerState>,
    sci: Arc<dyn IntxLine>,
    listener: PowerListener,
    /// Time since the machine was made; the timer counts it.
    clock: Arc<dyn Fn() -> Duration + Send + Sync>,
}

impl Power {
    /// `sci` is the line of the system control interrupt; `clock` is monotonic.
    pub fn new(
        sci: Arc<dyn IntxLine>,
        listener: PowerListener,
        clock: Arc<dyn Fn() -> Duration + Send + Sync>,
    ) -> Arc<Self> {
        let power = Self {
            state: Mutex::default(),
            sci,
            listener,
            clock,
        };
        power.reset();
        Arc::new(power)
    }

    fn state(&self) -> MutexGuard<'_, PowerState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Power-on values.
    pub fn reset(&self) {
        let mut state = self.state();
        *state = PowerState {
            pm1_control: SCI_ENABLE,
            ..Default::default()
        };
        self.sci.set(state.sci());
    }

    /// Raises a general-purpose event, 0..64.
    pub fn raise_event(&self, event: u8) {
        let mut state = self.state();
        state.gpe_status |= 1_u64.checked_shl(u32::from(event)).unwrap_or(0);
        self.sci.set(state.sci());
    }

    /// Somebody presses the power button; `false` when the guest does not listen to it.
    pub fn press_button(&self) -> bool {
        let mut state = self.state();
        state.pm1_status |= POWER_BUTTON;
        self.sci.set(state.sci());
        state.pm1_enable & POWER_BUTTON != 0
    }

    /// The registers.
    pub fn save(&self) -> PowerState {
        self.state().clone()
    }

    /// Takes over saved registers.
    pub fn restore(&self, saved: PowerState) {
        let mut state = self.state();
        *state = saved;
        self.sci.set(state.sci());
    }

    fn timer(&self) -> u32 {
        let ticks = (self.clock)().as_nanos() * TIMER_HZ / 1_000_000_000;
        u32::try_from(ticks & u128::from(u32::MAX)).unwrap_or(0)
    }

    fn read_byte(&self, state: &PowerState, offset: u16) -> Option<u8> {
        let of16 = |register: u16, base: u16| {
            register
                .to_le_bytes()
                .get(usize::from(offset - base))
                .copied()
        };
        let of64 = |register: u64, base: u16| {
            register
                .to_le_bytes()
                .get(usize::from(offset - base))
                .copied()
        };
        match offset {
            PM1_STATUS..PM1_ENABLE => of16(state.pm1_status, PM1_STATUS),
            PM1_ENABLE..PM1_CONTROL => of16(state.pm1_enable, PM1_ENABLE),
            PM1_CONTROL..0x06 => of16(state.pm1_control, PM1_CONTROL),
            GPE0..0x28 => of64(state.gpe_status, GPE0),
            0x28..0x30 => of64(state.gpe_enable, GPE0 + GPE0_HALF),
            _ => None,
        }
    }

    /// Writes one byte; whether it asked for the sleep that is power-off.
    fn write_byte(state: &mut PowerState, offset: u16, byte: u8) -> bool {
        let with16 = |register: u16, base: u16| {
            let mut bytes = register.to_le_bytes();
            if let Some(b) = bytes.get_mut(usize::from(offset - base)) {
                *b = byte;
            }
            u16::from_le_bytes(bytes)
        };
        match offset {
            PM1_STATUS..PM1_ENABLE => state.pm1_status &= !with16(0, PM1_STATUS),
            PM1_ENABLE..PM1_CONTROL => state.pm1_enable = with16(state.pm1_enable, PM1_ENABLE),
            PM1_CONTROL..0x06 => {
                let control = with16(state.pm1_control, PM1_CONTROL);
                // Always in ACPI mode; the sleep enable reads as zero.
                state.pm1_control = control & !SLEEP_ENABLE | SCI_ENABLE;
                return control & SLEEP_ENABLE != 0
                    && control >> 10 & 7 == u16::from(SLEEP_TYPE_S5);
            }
            GPE0..0x28 => state.gpe_status &= !(u64::from(byte) << (8 * (offset - GPE0))),
            0x28..0x30 => {
                let shift = 8 * (offset - 0x28);
                state.gpe_enable = state.gpe_enable & !(0xff << shift) | u64::from(byte) << shift;
            }
            _ => {}
        }
        false
    }
}

impl PortDevice for Power {
    fn read(&self, offset: u16, data: &mut [u8]) {
        if (PM_TIMER..PM_TIMER + 4).contains(&offset) {
            return put(data, self.timer() >> (8 * (offset - PM_TIMER)));
        }
        let state = self.state();
        for (at, byte) in (offset..).zip(data) {
            *byte = self.read_byte(&state, at).unwrap_or(0);
        }
    }

    fn write(&self, offset: u16, data: &[u8]) {
        let mut state = self.state();
        let mut power_off = false;
        for (at, byte) in (offset..).zip(data) {
            power_off |= Self::write_byte(&mut state, at, *byte);
        }
        self.sci.set(state.sci());
        drop(state);
        tracing::trace!(offset, value = value(data), "ACPI register written");
        if power_off {
            (self.listener)(PowerRequest::PowerOff);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    #[derive(Default)]
    struct Line(AtomicBool);

    impl IntxLine for Line {
        fn set(&self, asserted: bool) {
            self.0.store(asserted, Ordering::SeqCst);
        }
        fn drive_by(
            &self,
            _: Option<(
                &vmm_sys_util::eventfd::EventFd,
                &vmm_sys_util::eventfd::EventFd,
            )>,
        ) -> std::io::Result<()> {
            Err(std::io::ErrorKind::Unsupported.into())
        }
    }

    fn power() -> (Arc<Power>, Arc<Line>, Arc<AtomicUsize>) {
        let (line, offs) = (Arc::new(Line::default()), Arc::new(AtomicUsize::new(0)));
        let count = Arc::clone(&offs);
        let listener: PowerListener = Arc::new(move |request| {
            assert_eq!(request, PowerRequest::PowerOff);
            count.fetch_add(1, Ordering::SeqCst);
        });
        (
            Power::new(line.clone(), listener, Arc::new(|| Duration::from_secs(1))),
            line,
            offs,
        )
    }

    #[test]
    fn an_enabled_event_raises_the_interrupt_until_its_status_is_cleared() {
        let (power, line, _) = power();
        power.raise_event(HOTPLUG_GPE);
        assert!(!line.0.load(Ordering::SeqCst));
        power.write(0x28, &[1 << HOTPLUG_GPE]);
        assert!(line.0.load(Ordering::SeqCst));
        power.write(0x20, &[1 << HOTPLUG_GPE]);
        assert!(!line.0.load(Ordering::SeqCst));
    }

    #[test]
    fn sleep_type_5_is_power_off_and_others_are_not() {
        let (power, _, offs) = power();
        power.write(4, &(SLEEP_ENABLE | 1 << 10).to_le_bytes());
        assert_eq!(offs.load(Ordering::SeqCst), 0);
        power.write(
            4,
            &(SLEEP_ENABLE | u16::from(SLEEP_TYPE_S5) << 10).to_le_bytes(),
        );
        assert_eq!(offs.load(Ordering::SeqCst), 1);
        let mut control = [0; 2];
        power.read(4, &mut control);
        assert_eq!(u16::from_le_bytes(control) & SCI_ENABLE, SCI_ENABLE);
    }

    #[test]
    fn the_timer_counts_3_579545_mhz() {
        let (power, ..) = power();
        let mut timer = [0; 4];
        power.read(8, &mut timer);
        assert_eq!(u32::from_le_bytes(timer), 3_579_545);
    }

    #[test]
    fn registers_survive_a_save() {
        let (power, ..) = power();
        power.write(0x28, &[0x5a]);
        power.write(2, &[0x21, 0x03]);
        let saved = power.save();
        let bytes = minicbor::to_vec(&saved).unwrap();
        let (other, ..) = self::power();
        other.restore(minicbor::decode(&bytes).unwrap());
        assert_eq!(other.save(), saved);
    }
}
