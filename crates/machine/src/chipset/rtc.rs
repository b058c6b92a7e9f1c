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
}

impl Rtc {
    /// A clock that shows `now_s` plus `offset_s`; both in seconds since 1970.
    pub fn new(now_s: Arc<dyn Fn() -> i64 + Send + Sync>, offset_s: i64) -> Self {
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
        }
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

    fn hour(state: &RtcState, hour: i64) -> u8 {
        if Self::memory(state, REGISTER_B) & HOURS_24 != 0 {
            return Self::format(state, hour);
        }
        let twelve = if hour % 12 == 0 { 12 } else { hour % 12 };
        Self::format(state, twelve) | if hour >= 12 { 0x80 } else { 0 }
    }

    fn read_register(&self, state: &RtcState) -> u8 {
        let now = civil((self.now_s)().saturating_add(state.offset_s));
        let time = now.second_of_day;
        match state.index {
            0x00 => Self::format(state, time % 60),
            0x02 => Self::format(state, time / 60 % 60),
            0x04 => Self::hour(state, time / 3600),
            0x06 => Self::format(state, now.weekday),
            0x07 => Self::format(state, now.day),
            0x08 => Self::format(state, now.month),
            0x09 => Self::format(state, now.year),
            CENTURY => Self::format(state, now.year / 100),
            // Never in the middle of an update: the time is computed when it is read.
            REGISTER_A => Self::memory(state, REGISTER_A) & 0x7f,
            REGISTER_C => 0,
            register => Self::memory(state, register),
        }
    }

    fn write_register(&self, state: &mut RtcState, byte: u8) {
        let host = (self.now_s)();
        let now = civil(host.saturating_add(state.offset_s));
        let (hour, minute, second) = (
            now.second_of_day / 3600,
            now.second_of_day / 60 % 60,
            now.second_of_day % 60,
        );
        let given = Self::parse(state, byte);
        let at = |year: i64, month: i64, day: i64, h: i64, m: i64, s: i64| {
            seconds(
                year,
                month.clamp(1, 12),
                day.clamp(1, 31),
                h.clamp(0, 23) * 3600 + m.clamp(0, 59) * 60 + s.clamp(0, 59),
            )
        };
        let new = match state.index {
            0x00 => at(now.year, now.month, now.day, hour, minute, given),
            0x02 => at(now.year, now.month, now.day, hour, given, second),
            0x04 => at(now.year, now.month, now.day, given, minute, second),
            0x07 => at(now.year, now.month, given, hour, minute, second),
            0x08 => at(now.year, given, now.day, hour, minute, second),
            0x09 => at(
                now.year / 100 * 100 + given.clamp(0, 99),
                now.month,
                now.day,
                hour,
                minute,
                second,
            ),
            CENTURY => at(
                given.clamp(0, 99) * 100 + now.year % 100,
                now.month,
                now.day,
                hour,
                minute,
                second,
            ),
            REGISTER_C | REGISTER_D => return,
            register => {
                let kept = if register == REGISTER_B {
                    byte & !SET
                } else {
                    byte
                };
                if let Some(cell) = state.memory.get_mut(usize::from(register)) {
                    *cell = kept;
                }
                return;
            }
        };
        state.offset_s = new - host;
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

    fn read(rtc: &Rtc, register: u8) -> u8 {
        rtc.write(0, &[register]);
        let mut data = [0];
        rtc.read(1, &mut data);
        data[0]
    }

    #[test]
    fn shows_the_hosts_time_in_bcd() {
        // 2026-11-23 08:09:10 UTC, a Monday.
        let rtc = Rtc::new(Arc::new(|| 1_795_421_350), 0);
        let shown = [0x32, 9, 8, 7, 6, 4, 2, 0].map(|r| read(&rtc, r));
        assert_eq!(shown, [0x20, 0x26, 0x11, 0x23, 0x02, 0x08, 0x09, 0x10]);
    }

    #[test]
    fn the_guest_can_set_it_and_the_offset_is_saved() {
        let rtc = Rtc::new(Arc::new(|| 1_795_421_350), 0);
        rtc.write(0, &[4]);
        rtc.write(1, &[0x23]);
        assert_eq!(read(&rtc, 4), 0x23);
        let other = Rtc::new(Arc::new(|| 1_795_421_350), 0);
        assert!(other.restore(rtc.save()));
        assert_eq!(read(&other, 4), 0x23);
    }

    #[test]
    fn a_clock_out_of_this_world_is_refused() {
        let rtc = Rtc::new(Arc::new(|| 1_795_421_350), 0);
        for offset_s in [i64::MIN, i64::MAX, 1 << 40, -(1 << 40)] {
            let far = Rtc::new(Arc::new(|| 0), offset_s).save();
            assert!(!rtc.restore(far), "{offset_s}");
        }
        // Digits that are none do not move it out of four digits of year either, however often they are written.
        for register in [0x32, 9, 8, 7, 4, 2, 0].into_iter().cycle().take(2000) {
            rtc.write(0, &[register]);
            rtc.write(1, &[0xff]);
        }
        let other = Rtc::new(Arc::new(|| 1_795_421_350), 0);
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
