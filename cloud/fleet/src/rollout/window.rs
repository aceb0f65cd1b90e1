//! When a rollout may touch a device: hours of the week, on the device's own clock.
//!
//! Only the moment at which a device is told counts: what has begun then goes on after the hours are over. Hours are
//! those of the wall clock, so a night on which clocks change is an hour shorter or longer.

use crate::error::{Error, Result};
use jiff::Timestamp;
use jiff::civil::Weekday;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::str::FromStr;

/// Minutes of a day.
const DAY: u16 = 24 * 60;
/// The longest name of a time zone.
const ZONE: usize = 64;
const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

/// Hours of the week. Written as `mon-fri 01:00-05:00`, `sat,sun 22:00-04:00` or `daily 02:00-03:30`; hours that end
/// before they begin last until the next morning, and those that end when they begin all day.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// The days on which they begin, Monday first.
    pub days: [bool; 7],
    /// When they begin, in minutes since midnight.
    pub from: u16,
    /// When they end, in minutes since midnight.
    pub to: u16,
    /// The IANA time zone of devices that have none of their own.
    pub zone: String,
}

impl Window {
    /// Refuses what cannot be meant.
    pub(super) fn check(&self) -> Result<()> {
        if self.days == [false; 7] || self.from >= DAY || self.to > DAY {
            return Err(Error::Invalid(
                "a maintenance window has at least one day, and times of a day".into(),
            ));
        }
        zone(&self.zone).map(drop)
    }

    /// Whether they are now, in a time zone.
    fn is_open(&self, zone: &TimeZone, now_ms: u64) -> bool {
        let now = i64::try_from(now_ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
        let Some(now) = now.map(|now| zone.to_datetime(now)) else { return false };
        let minute = now.hour() as u16 * 60 + now.minute() as u16;
        let on = |day: Weekday| self.days[day.to_monday_zero_offset() as usize];
        let (today, yesterday) = (on(now.weekday()), on(now.weekday().previous()));
        if self.from < self.to {
            today && (self.from..self.to).contains(&minute)
        } else {
            (today && minute >= self.from) || (yesterday && minute < self.to)
        }
    }
}

/// The time zone of this name.
pub(crate) fn zone(name: &str) -> Result<TimeZone> {
    let unknown = || {
        Error::Invalid(format!(
            "{name:?} is no time zone: name one of the IANA's, such as Europe/Berlin or UTC"
        ))
    };
    if name.len() > ZONE {
        return Err(Error::Invalid(format!("the name of a time zone has at most {ZONE} letters")));
    }
    TimeZone::get(name).map_err(|_| unknown())
}

/// Which time zones are within a window at one moment: each is looked up once.
pub(super) struct Open<'a> {
    window: Option<&'a Window>,
    now_ms: u64,
    zones: HashMap<&'a str, bool>,
}

impl<'a> Open<'a> {
    pub(super) fn at(window: Option<&'a Window>, now_ms: u64) -> Self {
        Self { window, now_ms, zones: HashMap::new() }
    }

    /// Whether a device of this time zone may be told now. One whose zone is not known any more has the window's own.
    pub(super) fn is_for(&mut self, device: Option<&'a str>) -> bool {
        let Some(window) = self.window else { return true };
        let name = device.unwrap_or(&window.zone);
        *self.zones.entry(name).or_insert_with(|| {
            let zone = zone(name).or_else(|_| zone(&window.zone)).unwrap_or(TimeZone::UTC);
            window.is_open(&zone, self.now_ms)
        })
    }
}

impl FromStr for Window {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = || {
            Error::Invalid(format!(
                "{text:?} is no maintenance window: write days and hours, such as \"mon-fri 01:00-05:00\", \"sat,sun 22:00-04:00\" \
                 or \"daily 02:00-03:30\""
            ))
        };
        let lower = text.to_ascii_lowercase();
        let (days, hours) = lower.trim().split_once(char::is_whitespace).ok_or_else(bad)?;
        let (from, to) = hours.trim().split_once('-').ok_or_else(bad)?;
        let window = Self {
            days: days_of(days).ok_or_else(bad)?,
            from: minutes(from).filter(|from| *from < DAY).ok_or_else(bad)?,
            to: minutes(to).ok_or_else(bad)?,
            zone: "UTC".to_owned(),
        };
        window.check()?;
        Ok(window)
    }
}

fn days_of(text: &str) -> Option<[bool; 7]> {
    let day = |name: &str| DAYS.iter().position(|day| *day == name);
    if text == "daily" {
        return Some([true; 7]);
    }
    let mut days = [false; 7];
    for part in text.split(',') {
        let (first, last) = match part.split_once('-') {
            Some((first, last)) => (day(first)?, day(last)?),
            None => (day(part)?, day(part)?),
        };
        let span = (last + 7 - first) % 7;
        (0..=span).for_each(|offset| days[(first + offset) % 7] = true);
    }
    Some(days)
}

/// `05:00` as minutes since midnight, up to `24:00`.
fn minutes(text: &str) -> Option<u16> {
    let (hour, minute) = text.trim().split_once(':')?;
    let two = |digits: &str| {
        (digits.len() == 2 && digits.bytes().all(|b| b.is_ascii_digit()))
            .then(|| digits.parse::<u16>().ok())?
    };
    let (hour, minute) = (two(hour)?, two(minute)?);
    (minute < 60).then_some(hour * 60 + minute).filter(|minutes| *minutes <= DAY)
}

impl std::fmt::Display for Window {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let named: Vec<&str> =
            DAYS.iter().zip(self.days).filter(|(_, on)| *on).map(|(day, _)| *day).collect();
        let days = if named.len() == 7 { "daily".to_owned() } else { named.join(",") };
        let clock = |minutes: u16| format!("{:02}:{:02}", minutes / 60, minutes % 60);
        write!(f, "{days} {}-{}", clock(self.from), clock(self.to))
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests fail by panicking")]
mod tests {
    use super::*;

    fn open(window: &str, zone: &str, at: &str) -> bool {
        let window: Window = window.parse().unwrap();
        let now: Timestamp = at.parse().unwrap();
        Open::at(Some(&window), now.as_millisecond() as u64).is_for(Some(zone))
    }

    #[test]
    fn hours_are_those_of_the_devices_own_clock() {
        // 27 November 2026 is a Friday.
        let nights = "mon-fri 01:00-05:00";
        assert!(open(nights, "UTC", "2026-11-27T01:00:00Z"));
        assert!(!open(nights, "UTC", "2026-11-27T05:00:00Z"), "their end is not theirs any more");
        assert!(!open(nights, "UTC", "2026-11-28T02:00:00Z"), "Saturday");
        assert!(open(nights, "Asia/Tokyo", "2026-11-26T17:00:00Z"), "two in the morning of Friday there");
        assert!(!open(nights, "Asia/Tokyo", "2026-11-27T17:00:00Z"), "and of Saturday");
        // Berlin goes from summer to winter time in between.
        assert!(open("daily 02:00-02:30", "Europe/Berlin", "2026-10-24T00:10:00Z"));
        assert!(open("daily 02:00-02:30", "Europe/Berlin", "2026-10-26T01:10:00Z"));
    }

    #[test]
    fn hours_may_last_until_the_next_morning_and_days_around_the_weekend() {
        let weekend = "sat,sun 22:00-04:00";
        assert!(open(weekend, "UTC", "2026-11-28T23:00:00Z"));
        assert!(open(weekend, "UTC", "2026-11-30T03:59:00Z"), "they began on Sunday");
        assert!(!open(weekend, "UTC", "2026-11-28T03:00:00Z"), "they would have begun on Friday");
        assert!(open("fri-mon 00:00-24:00", "UTC", "2026-11-30T12:00:00Z"));
        assert!(!open("fri-mon 00:00-24:00", "UTC", "2026-12-01T12:00:00Z"));
        assert!(open("daily 07:00-07:00", "UTC", "2026-12-01T06:59:00Z"), "all day");
    }

    #[test]
    fn a_device_without_a_zone_that_is_known_has_the_windows() {
        let mut window: Window = "daily 01:00-02:00".parse().unwrap();
        window.zone = "Asia/Tokyo".to_owned();
        let now: Timestamp = "2026-11-26T16:30:00Z".parse().unwrap();
        let mut open = Open::at(Some(&window), now.as_millisecond() as u64);
        assert!(open.is_for(None) && open.is_for(Some("Nowhere/Atall")) && !open.is_for(Some("UTC")));
        assert!(Open::at(None, 0).is_for(None), "no window, no wait");
    }

    #[test]
    fn a_window_is_written_as_it_is_read_and_nonsense_is_refused() {
        for text in ["mon,tue,wed,thu,fri 01:00-05:00", "daily 00:00-24:00", "sat,sun 22:00-04:00"] {
            assert_eq!(text.parse::<Window>().unwrap().to_string(), text);
        }
        assert_eq!("MON-fri  1:00-5:00".parse::<Window>().unwrap_err().code().as_str(), "invalid_input");
        for text in [
            "",
            "mon",
            "mon 25:00-26:00",
            "mon 24:00-01:00",
            "mon 01:60-02:00",
            "moon 01:00-02:00",
            "mon- 01:00-02:00",
        ] {
            assert!(text.parse::<Window>().is_err(), "{text}");
        }
        assert!(
            zone("Europe/Berlin").is_ok() && zone("Mars/Olympus").is_err() && zone(&"x".repeat(65)).is_err()
        );
    }
}
