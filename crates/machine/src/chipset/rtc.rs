//! The real-time clock and its memory (Motorola MC146818A): the time of day, no alarm and no periodic interrupt.

use super::PortDevice;
use minicbor::{Decode, Encode};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Index port; the data port follows.
pub const RTC_PORT: u16 = 0x70;

const REGISTER_A: u8 = 0x0a;
const REGISTER_B: u8 = 0x0b;
const REGISTER_C: u8 = 0x0c;
const REGISTER_D: u8 = 0x0d;
const CENTURY: u8 = 0x32;
const BINARY: u8 = 1 << 2;
const HOURS_24: u8 = 1 << 1;
const SET: u8 = 1 << 7;
/// The registers of the time and the date.
const TIME: [u8; 8] = [0x00, 0x02, 0x04, 0x06, 0x07, 0x08, 0x09, CENTURY];
/// Two digits for the century and two for the year: no guest sets the clock farther from any host's, in seconds.
const FARTHEST_S: u64 = 20_000 * 366 * 86_400;

/// Index, memory, and how far the guest has moved the clock; also the saved form.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct RtcState {
    #[n(0)]
    index: u8,
    #[cbor(n(1), with = "minicbor::bytes")]
    memory: Vec<u8>,
    /// Guest's time less the host's, in seconds.
    #[n(2)]
    offset_s: i64,
}

/// A moment split into the clock's registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Civil {
    year: i64,
    month: i64,
    day: i64,
    weekday: i64,
    second_of_day: i64,
}

/// Days since 1970-01-01 to the proleptic Gregorian calendar, by eras of 400 years that begin in March.
fn civil(seconds: i64) -> Civil {
    let (days, second_of_day) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    Civil {
        year,
        month,
        day,
        weekday: (days + 4).rem_euclid(7) + 1,
        second_of_day,
    }
}

/// The inverse of [`civil`].
fn seconds(year: i64, month: i64, day: i64, second_of_day: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let month = if month > 2 { month - 3 } else { month + 9 };
    let day_of_era =
        year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + (153 * month + 2) / 5 + day - 1;
    (era * 146_097 + day_of_era - 719_468) * 86_400 + second_of_day
}

/// The real-time clock.
pub struct Rtc {
    state: Mutex<RtcState>,
    /// Seconds since 1970 on the host.
    now_s: Arc<dyn Fn() -> i64 + Send + Sync>,
    /// The offset it was built with, in seconds.
    built_with_s: i64,
    /// Told when the guest has set the clock.
    changed: Arc<dyn Fn() + Send + Sync>,
}

impl Rtc {
    /// A clock that shows `now_s`, in seconds since 1970, plus `offset_s`, and calls `changed`, on the guest's thread and with
    /// the clock locked, each time the guest has set it.
    pub fn new(
        now_s: Arc<dyn Fn() -> i64 + Send + Sync>,
        offset_s: i64,
        changed: Arc<dyn Fn() + Send + Sync>,
    ) -> Self {
        let mut memory = vec![0; 128];
        for (register, value) in [
            (REGISTER_A, 0x26),
            (REGISTER_B, HOURS_24),
            (REGISTER_D, 0x80),
        ] {
            if let Some(cell) = memory.get_mut(usize::from(register)) {
                *cell = value;
            }
        }
        Self {
            state: Mutex::new(RtcState {
                index: 0,
                memory,
                offset_s,
            }),
            now_s,
            built_with_s: offset_s,
            changed,
        }
    }

    /// How far the guest has set the clock ahead of what it was built with, in seconds.
    pub fn set_ahead_s(&self) -> i64 {
        self.state().offset_s.saturating_sub(self.built_with_s)
    }

    fn state(&self) -> MutexGuard<'_, RtcState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The registers.
    pub fn save(&self) -> RtcState {
        self.state().clone()
    }

    /// Takes over saved registers; memory of another size, or a clock that no guest can have set, is refused by leaving all
    /// as it is.
    pub fn restore(&self, saved: RtcState) -> bool {
        let fits = saved.memory.len() == 128
            && saved.index < 128
            && saved.offset_s.unsigned_abs() <= FARTHEST_S;
        if fits {
            *self.state() = saved;
        }
        fits
    }

    fn memory(state: &RtcState, register: u8) -> u8 {
        state
            .memory
            .get(usize::from(register))
            .copied()
            .unwrap_or(0xff)
    }

    fn format(state: &RtcState, value: i64) -> u8 {
        let value = u8::try_from(value.rem_euclid(100)).unwrap_or(0);
        if Self::memory(state, REGISTER_B) & BINARY != 0 {
            value
        } else {
            ((value / 10) << 4) | (value % 10)
        }
    }

    fn parse(state: &RtcState, byte: u8) -> i64 {
        i64::from(if Self::memory(state, REGISTER_B) & BINARY != 0 {
            byte
        } else {
            (byte >> 4) * 10 + (byte & 0xf)
        })
    }

    /// The hour of the day that the memory of its register says.
    fn hours(state: &RtcState) -> i64 {
        let byte = Self::memory(state, 0x04);
        if Self::memory(state, REGISTER_B) & HOURS_24 != 0 {
            return Self::parse(state, byte).clamp(0, 23);
        }
        let twelve = Self::parse(state, byte & 0x7f).clamp(1, 12) % 12;
        twelve + if byte & 0x80 != 0 { 12 } else { 0 }
    }

    fn hour(state: &RtcState, hour: i64) -> u8 {
        if Self::memory(state, REGISTER_B) & HOURS_24 != 0 {
            return Self::format(state, hour);
        }
        let twelve = if hour % 12 == 0 { 12 } else { hour % 12 };
        Self::format(state, twelve) | if hour >= 12 { 0x80 } else { 0 }
    }

    /// Whether the guest holds the clock in order to set it: the registers of the time are memory then.
    fn is_held(state: &RtcState) -> bool {
        Self::memory(state, REGISTER_B) & SET != 0
    }

    /// What a register of the time shows at a moment; `None` for the other registers.
    fn shown(state: &RtcState, register: u8, at: Civil) -> Option<u8> {
        let time = at.second_of_day;
        Some(match register {
            0x00 => Self::format(state, time % 60),
            0x02 => Self::format(state, time / 60 % 60),
            0x04 => Self::hour(state, time / 3600),
            0x06 => Self::format(state, at.weekday),
            0x07 => Self::format(state, at.day),
            0x08 => Self::format(state, at.month),
            0x09 => Self::format(state, at.year),
            CENTURY => Self::format(state, at.year / 100),
            _ => return None,
        })
    }

    fn read_register(&self, state: &RtcState) -> u8 {
        if !Self::is_held(state)
            && let Some(shown) = Self::shown(state, state.index, self.civil(state))
        {
            return shown;
        }
        match state.index {
            // Never in the middle of an update: the time is computed when it is read.
            REGISTER_A => Self::memory(state, REGISTER_A) & 0x7f,
            REGISTER_C => 0,
            register => Self::memory(state, register),
        }
    }

    fn civil(&self, state: &RtcState) -> Civil {
        civil((self.now_s)().saturating_add(state.offset_s))
    }

    /// Writes the time into the memory of its registers.
    fn hold(&self, state: &mut RtcState) {
        let now = self.civil(state);
        for register in TIME {
            if let (Some(shown), Some(cell)) = (
                Self::shown(state, register, now),
                state.memory.get_mut(usize::from(register)),
            ) {
                *cell = shown;
            }
        }
    }

    /// The clock goes on from what the memory of its registers says.
    fn release(&self, state: &mut RtcState) {
        let number = |register| Self::parse(state, Self::memory(state, register));
        let new = seconds(
            number(CENTURY).clamp(0, 99) * 100 + number(0x09).clamp(0, 99),
            number(0x08).clamp(1, 12),
            number(0x07).clamp(1, 31),
            Self::hours(state) * 3600 + number(0x02).clamp(0, 59) * 60 + number(0x00).clamp(0, 59),
        );
        let offset_s = new - (self.now_s)();
        if state.offset_s != offset_s {
            state.offset_s = offset_s;
            (self.changed)();
        }
    }

    fn write_register(&self, state: &mut RtcState, byte: u8) {
        let register = state.index;
        if matches!(register, REGISTER_C | REGISTER_D) {
            return;
        }
        let was_held = Self::is_held(state);
        let is_time = TIME.contains(&register);
        // The form of the digits may change with register B, so the time is taken before.
        if !was_held && (is_time || (register == REGISTER_B && byte & SET != 0)) {
            self.hold(state);
        }
        if let Some(cell) = state.memory.get_mut(usize::from(register)) {
            *cell = byte;
        }
        if !Self::is_held(state) && (is_time || was_held) {
            self.release(state);
        }
    }
}

impl PortDevice for Rtc {
    fn read(&self, offset: u16, data: &mut [u8]) {
        if let (1, Some(byte)) = (offset, data.first_mut()) {
            *byte = self.read_register(&self.state());
        }
    }

    fn write(&self, offset: u16, data: &[u8]) {
        let mut state = self.state();
        match (offset, data.first()) {
            // The top bit masks NMI on real boards.
            (0, Some(byte)) => state.index = byte & 0x7f,
            (1, Some(byte)) => self.write_register(&mut state, *byte),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-11-23 08:09:10 UTC, a Monday, plus `offset_s`.
    fn clock(offset_s: i64) -> Rtc {
        Rtc::new(Arc::new(|| 1_795_421_350), offset_s, Arc::new(|| {}))
    }

    fn write(rtc: &Rtc, register: u8, byte: u8) {
        rtc.write(0, &[register]);
        rtc.write(1, &[byte]);
    }

    fn read(rtc: &Rtc, register: u8) -> u8 {
        rtc.write(0, &[register]);
        let mut data = [0];
        rtc.read(1, &mut data);
        data[0]
    }

    #[test]
    fn shows_the_hosts_time_in_bcd() {
        let rtc = clock(0);
        let shown = [0x32, 9, 8, 7, 6, 4, 2, 0].map(|r| read(&rtc, r));
        assert_eq!(shown, [0x20, 0x26, 0x11, 0x23, 0x02, 0x08, 0x09, 0x10]);
    }

    #[test]
    fn the_guest_can_set_it_and_the_offset_is_saved() {
        let rtc = clock(0);
        write(&rtc, 4, 0x23);
        assert_eq!(read(&rtc, 4), 0x23);
        let other = clock(0);
        assert!(other.restore(rtc.save()));
        assert_eq!(read(&other, 4), 0x23);
    }

    /// As Linux does it: SET, the digits one after the other in whatever order, SET taken back.
    #[test]
    fn a_date_that_is_none_on_the_way_to_another_does_not_matter() {
        use std::sync::atomic::{AtomicUsize, Ordering};
        let told = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&told);
        let changed = Arc::new(move || {
            count.fetch_add(1, Ordering::Relaxed);
        });
        // 2026-11-29: there is no 29th of the February that comes on the way.
        let rtc = Rtc::new(Arc::new(|| 1_795_421_350), 6 * 86_400, changed);
        write(&rtc, REGISTER_B, HOURS_24 | SET);
        let wanted = [
            (9, 0x31),
            (8, 0x02),
            (7, 0x03),
            (4, 0x04),
            (2, 0x05),
            (0, 0x06),
            (0x32, 0x20),
        ];
        for (register, byte) in wanted {
            write(&rtc, register, byte);
            assert_eq!(read(&rtc, register), byte, "it reads back while it is held");
        }
        assert_eq!(told.load(Ordering::Relaxed), 0);
        // A clock that is held moves with its guest.
        let there = clock(0);
        assert!(there.restore(rtc.save()));
        for rtc in [&rtc, &there] {
            write(rtc, REGISTER_B, HOURS_24);
            assert_eq!(rtc.state().offset_s, 1_927_857_906 - 1_795_421_350);
            for (register, byte) in wanted {
                assert_eq!(read(rtc, register), byte);
            }
            assert_eq!(read(rtc, 6), 0x02, "a Monday");
        }
        assert_eq!(told.load(Ordering::Relaxed), 1);
        // Set to what it shows already, it tells nothing.
        write(&rtc, 8, 0x02);
        assert_eq!(told.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn twelve_hours_are_written_as_they_are_read() {
        let rtc = clock(0);
        write(&rtc, REGISTER_B, 0);
        for (byte, hour) in [
            (0x12, 0),
            (0x01, 1),
            (0x11, 11),
            (0x92, 12),
            (0x81, 13),
            (0x91, 23),
        ] {
            write(&rtc, 4, byte);
            assert_eq!(read(&rtc, 4), byte);
            let time = civil(1_795_421_350 + rtc.state().offset_s).second_of_day;
            assert_eq!(time / 3600, hour);
        }
    }

    #[test]
    fn a_clock_out_of_this_world_is_refused() {
        let rtc = clock(0);
        for offset_s in [i64::MIN, i64::MAX, 1 << 40, -(1 << 40)] {
            let far = clock(offset_s).save();
            assert!(!rtc.restore(far), "{offset_s}");
        }
        // Digits that are none do not move it out of four digits of year either, however often they are written.
        for register in [0x32, 9, 8, 7, 4, 2, 0].into_iter().cycle().take(2000) {
            write(&rtc, register, 0xff);
        }
        let other = clock(0);
        assert!(other.restore(rtc.save()));
        assert_eq!([0x32, 9].map(|r| read(&other, r)), [0x99, 0x99]);
    }

    #[test]
    fn calendar_round_trips() {
        for s in (0..4_000_000_000_i64).step_by(86_399 * 37) {
            let c = civil(s);
            assert_eq!(seconds(c.year, c.month, c.day, c.second_of_day), s);
        }
    }
}
