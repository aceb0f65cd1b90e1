//! Dates as tables hold them: ISO 8601, or seconds since 1970. Calendars and time zones of places are not needed here.

use super::cell::Cell;
use flotilla_protocol::pipeline::table::Part;

/// A date and a time of day as written, and when that was.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Moment {
    year: i64,
    month: u32,
    day: u32,
    hour: u32,
    unix_seconds: f64,
}

const DAY: f64 = 86_400.0;
const FORMS: &str =
    "dates are 2024-05-01, 2024-05-01T13:45:00, the same with +02:00 or Z behind, or seconds since 1970";

impl Moment {
    /// The date in a cell; otherwise what is wrong.
    pub(super) fn of(cell: &Cell) -> Result<Self, String> {
        match cell.number() {
            Some(seconds) if !matches!(cell, Cell::Boolean(_)) => Self::of_seconds(seconds),
            _ => Self::of_text(&cell.text()).ok_or_else(|| format!("{} is no date; {FORMS}", cell.shown())),
        }
    }

    /// Seconds since 1970 in UTC.
    fn of_seconds(seconds: f64) -> Result<Self, String> {
        if (1e7..1e8).contains(&seconds) {
            // Mostly 20240501 for the first of May.
            return Err(format!("{seconds} may be a date or seconds since 1970; write 2024-05-01"));
        }
        let (year, month, day) = civil((seconds / DAY).floor().clamp(-1e6, 1e7) as i64);
        if !(1..=9999).contains(&year) {
            return Err(format!(
                "{seconds} seconds since 1970 are not within the years 1 to 9999 (milliseconds must be divided)"
            ));
        }
        let hour = (seconds.rem_euclid(DAY) / 3600.0) as u32;
        Ok(Self { year, month, day, hour: hour.min(23), unix_seconds: seconds })
    }

    pub(super) fn of_text(text: &str) -> Option<Self> {
        let (date, time) = text.split_at_checked(10)?;
        let mut parts = date.split('-');
        let mut next = |length| digits(parts.next()?, length);
        let (year, month, day) = (next(4)?, next(2)?, next(2)?);
        if parts.next().is_some() || year == 0 || !(1..=12).contains(&month) {
            return None;
        }
        if day == 0 || day > days_of_month(year.into(), month) {
            return None;
        }
        let (hour, seconds) = match time.strip_prefix(['T', 't', ' ']) {
            Some(time) => time_of_day(time)?,
            None if time.is_empty() => (0, 0.0),
            None => return None,
        };
        let year = i64::from(year);
        let unix_seconds = days(year, month, day) as f64 * DAY + seconds;
        Some(Self { year, month, day, hour, unix_seconds })
    }

    /// The part of it.
    pub(super) fn part(&self, part: Part) -> f64 {
        let days_since = |year, month, day| days(self.year, self.month, self.day) - days(year, month, day);
        match part {
            Part::Year => self.year as f64,
            Part::Month => self.month.into(),
            Part::Day => self.day.into(),
            // A Monday.
            Part::Weekday => days_since(2024, 1, 1).rem_euclid(7) as f64,
            Part::Hour => self.hour.into(),
            Part::DayOfYear => (days_since(self.year, 1, 1) + 1) as f64,
            Part::UnixSeconds => self.unix_seconds,
        }
    }
}

/// The hour, and the seconds since midnight in UTC, of `HH:MM[:SS[.fraction]]` and an offset.
fn time_of_day(text: &str) -> Option<(u32, f64)> {
    let end = text.find(['Z', 'z', '+', '-']).unwrap_or(text.len());
    let (clock, offset) = text.split_at(end);
    let mut parts = clock.trim_end().split(':');
    let (hour, minute) = (digits(parts.next()?, 2)?, digits(parts.next()?, 2)?);
    let (second, fraction) = match parts.next() {
        None => (0, 0.0),
        Some(seconds) => match seconds.split_once('.') {
            None => (digits(seconds, 2)?, 0.0),
            Some((whole, fraction)) => {
                // More digits than nanoseconds have are no clock's.
                if !(1..=9).contains(&fraction.len()) {
                    return None;
                }
                let scale = 10_f64.powi(fraction.len() as i32);
                (digits(whole, 2)?, f64::from(digits(fraction, fraction.len())?) / scale)
            }
        },
    };
    if parts.next().is_some() || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let ahead = match offset.split_at_checked(1) {
        None | Some(("Z" | "z", "")) => 0,
        Some(("Z" | "z", _)) => return None,
        Some((sign, offset)) => {
            let (hours, minutes) = match offset.split_once(':') {
                Some((hours, minutes)) => (hours, digits(minutes, 2)?),
                None if offset.len() == 4 && offset.is_ascii() => (&offset[..2], digits(&offset[2..], 2)?),
                None => (offset, 0),
            };
            let hours = digits(hours, 2)?;
            if hours > 23 || minutes > 59 {
                return None;
            }
            let ahead = i64::from(hours * 3600 + minutes * 60);
            if sign == "-" { -ahead } else { ahead }
        }
    };
    let seconds = i64::from(hour * 3600 + minute * 60 + second) - ahead;
    Some((hour, seconds as f64 + fraction))
}

/// A number of exactly so many digits.
fn digits(text: &str, length: usize) -> Option<u32> {
    (text.len() == length && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok())?
}

fn days_of_month(year: i64, month: u32) -> u32 {
    let next = if month == 12 { days(year + 1, 1, 1) } else { days(year, month + 1, 1) };
    (next - days(year, month, 1)) as u32
}

/// Days since 1970-01-01 of a date. Years begin in March here, so that a leap day is the last of its year.
fn days(year: i64, month: u32, day: u32) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let month = (i64::from(month) + 9) % 12;
    let (cycle, of_cycle) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * month + 2) / 5 + i64::from(day) - 1;
    cycle * 146_097 + of_cycle * 365 + of_cycle / 4 - of_cycle / 100 + of_year - 719_468
}

/// The date of a day since 1970-01-01.
fn civil(day: i64) -> (i64, u32, u32) {
    let day = day + 719_468;
    let (cycle, of_cycle) = (day.div_euclid(146_097), day.rem_euclid(146_097));
    let year = (of_cycle - of_cycle / 1460 + of_cycle / 36_524 - of_cycle / 146_096) / 365;
    let of_year = of_cycle - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (cycle * 400 + year + i64::from(month <= 2), month as u32, day as u32)
}
