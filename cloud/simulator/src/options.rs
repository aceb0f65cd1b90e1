//! What is simulated: how many devices, and which faults. Every figure has a unit and a bound.

use crate::Error;
use flotilla_protocol::{DeviceId, Digest};
use std::fmt;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// Devices of one simulation.
pub const DEVICES: RangeInclusive<u32> = 1..=100_000;
/// Connections that are being opened at a time.
pub const CONNECTING: RangeInclusive<u32> = 1..=1_024;
/// Seconds of the MQTT keepalive.
pub const KEEPALIVE_S: RangeInclusive<u16> = 5..=3_600;
/// Predictions of one device in a second.
pub const PREDICTIONS_PER_S: RangeInclusive<f64> = 0.0..=100.0;
/// Milliseconds that a probe takes.
pub const PROBE_MS: RangeInclusive<u64> = 0..=600_000;
/// Bytes a second of a slow link.
pub const SLOW_BYTES_PER_S: RangeInclusive<u64> = 256..=1_000_000_000;
/// Spans of time in faults.
pub const SPAN: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(30 * 24 * 3_600);
/// Drift scores, in thousandths.
pub const DRIFT_MILLI: RangeInclusive<u32> = 0..=10_000;
/// By how much a worse release is slower.
pub const LATENCY_FACTOR: RangeInclusive<f64> = 1.0..=1_000.0;
/// Messages that a flooding device sends in a second.
pub const FLOOD_PER_S: RangeInclusive<u32> = 1..=1_000;
/// Largest share of messages that may be duplicated or reordered: with all of them nothing would get through.
const MESSAGES: f64 = 0.5;

/// A share of devices, messages or predictions: 0 to 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, PartialOrd)]
pub struct Share(f64);

/// Why a text is not a share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a share is a percentage from 0% to 100%, such as 2.5%, or a number from 0 to 1")]
pub struct InvalidShare;

impl Share {
    /// All.
    pub const ALL: Share = Share(1.0);

    /// The share, if it is one.
    pub fn new(share: f64) -> Result<Self, InvalidShare> {
        if (0.0..=1.0).contains(&share) { Ok(Self(share)) } else { Err(InvalidShare) }
    }

    /// As a number from 0 to 1.
    pub fn get(self) -> f64 {
        self.0
    }

    /// So many of `all`, to the nearest.
    pub fn of(self, all: u32) -> u32 {
        (f64::from(all) * self.0).round() as u32
    }
}

impl FromStr for Share {
    type Err = InvalidShare;
    fn from_str(text: &str) -> Result<Self, InvalidShare> {
        let (number, scale) = text.strip_suffix('%').map_or((text, 1.0), |number| (number, 100.0));
        Self::new(number.trim().parse::<f64>().map_err(|_| InvalidShare)? / scale)
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.0 * 100.0)
    }
}

/// A simulation.
#[derive(Clone, Debug)]
pub struct Options {
    /// Devices.
    pub devices: u32,
    /// What their ids begin with; a dash and five digits follow.
    pub prefix: String,
    /// File with a claim code, for those that are not enrolled yet.
    pub claim: Option<PathBuf>,
    /// Folder that keeps their keys and certificates for the next simulation.
    pub state: Option<PathBuf>,
    /// Seed of all chance.
    pub seed: u64,
    /// Board profile that they claim to be.
    pub board: String,
    /// Heartbeat, in seconds.
    pub keepalive_s: u16,
    /// Connections that are being opened at a time; the others wait for their turn.
    pub connecting: u32,
    /// Predictions that each is asked for in a second.
    pub predictions_per_s: f64,
    /// Predictions that fail on every device, whatever the release. One of few is enough to end a short probation.
    pub errors: Share,
    /// Time of a probe, in milliseconds.
    pub probe_ms: u64,
    /// What goes wrong.
    pub faults: Faults,
    /// Ends after this time, counted from the first connection.
    pub lasts: Option<Duration>,
    /// Ends once every device that does not lie runs this release.
    pub until: Option<Digest>,
}

/// What goes wrong. Nothing by default.
#[derive(Clone, Debug)]
pub struct Faults {
    /// Devices that go away and come back, again and again.
    pub offline: Share,
    /// How long they are away each time: at least half of it, drawn anew each time.
    pub offline_for: Duration,
    /// How long they stay in between: at least half of it, drawn anew each time.
    pub online_for: Duration,
    /// Devices with a slow link.
    pub slow: Share,
    /// What it carries, in bytes a second in both directions together.
    pub slow_bytes_per_s: u64,
    /// Devices on which the probe of a release fails.
    pub failing_probes: Share,
    /// Devices on which a release does worse.
    pub worse: Share,
    /// Predictions that fail there beside the usual ones.
    pub worse_errors: Share,
    /// By how much it is slower there.
    pub worse_latency: f64,
    /// What it loses there of its mean confidence.
    pub worse_confidence: Share,
    /// The release whose probes fail and that does worse; without one, every release.
    pub of_release: Option<Digest>,
    /// Devices whose inputs drift.
    pub drifting: Share,
    /// When they begin to, counted from the device's start.
    pub drift_after: Duration,
    /// How far their inputs are off from then on, as population stability index in thousandths.
    pub drift_milli: u32,
    /// Devices that crash and start again.
    pub crashing: Share,
    /// How long they run in between: at least half of it, drawn anew each time.
    pub crash_every: Duration,
    /// Messages, in either direction, that come twice.
    pub duplicated: Share,
    /// Messages, in either direction, that are overtaken by the next one.
    pub reordered: Share,
    /// Devices that flood the control plane with questions.
    pub flooding: Share,
    /// How many a second.
    pub flood_per_s: u32,
    /// Devices that say at once that they run what is wanted, and never fetch it.
    pub lying: Share,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            offline: Share::default(),
            offline_for: Duration::from_secs(60),
            online_for: Duration::from_secs(60),
            slow: Share::default(),
            slow_bytes_per_s: 16 * 1024,
            failing_probes: Share::default(),
            worse: Share::default(),
            worse_errors: Share::default(),
            worse_latency: 1.0,
            worse_confidence: Share::default(),
            of_release: None,
            drifting: Share::default(),
            drift_after: Duration::from_secs(3_600),
            drift_milli: 400,
            crashing: Share::default(),
            crash_every: Duration::from_secs(600),
            duplicated: Share::default(),
            reordered: Share::default(),
            flooding: Share::default(),
            flood_per_s: 1_000,
            lying: Share::default(),
        }
    }
}

impl Options {
    /// Checks every bound.
    pub fn check(&self) -> Result<(), Error> {
        within("--devices", self.devices, &DEVICES)?;
        within("--connecting", self.connecting, &CONNECTING)?;
        within("--keepalive-s", self.keepalive_s, &KEEPALIVE_S)?;
        within("--predictions-per-s", self.predictions_per_s, &PREDICTIONS_PER_S)?;
        within("--probe-ms", self.probe_ms, &PROBE_MS)?;
        self.device(DEVICES.end() - 1)?;
        self.faults.check()
    }

    /// The id of a device, counted from 0.
    pub fn device(&self, index: u32) -> Result<DeviceId, Error> {
        DeviceId::new(format!("{}-{:05}", self.prefix, index + 1)).map_err(|e| Error::Option {
            option: "--name",
            given: self.prefix.clone(),
            possible: e.to_string(),
        })
    }
}

impl Faults {
    fn check(&self) -> Result<(), Error> {
        within("--slow-bytes-per-s", self.slow_bytes_per_s, &SLOW_BYTES_PER_S)?;
        within("--worse-latency", self.worse_latency, &LATENCY_FACTOR)?;
        within("--drift-milli", self.drift_milli, &DRIFT_MILLI)?;
        within("--flood-per-s", self.flood_per_s, &FLOOD_PER_S)?;
        let spans = [
            ("--offline-for", self.offline_for),
            ("--online-for", self.online_for),
            ("--drift-after", self.drift_after),
            ("--crash-every", self.crash_every),
        ];
        for (option, span) in spans {
            if !SPAN.contains(&span) {
                let possible = "100ms to 30days are possible".to_owned();
                return Err(Error::Option { option, given: format!("{span:?}"), possible });
            }
        }
        for (option, share) in [("--duplicated", self.duplicated), ("--reordered", self.reordered)] {
            if share.get() > MESSAGES {
                let possible = "0% to 50% are possible".to_owned();
                return Err(Error::Option { option, given: share.to_string(), possible });
            }
        }
        Ok(())
    }

    /// Whether a release is one that faults of releases strike.
    pub(crate) fn strikes(&self, release: &Digest) -> bool {
        self.of_release.is_none_or(|only| only == *release)
    }
}

fn within<T: PartialOrd + fmt::Display>(
    option: &'static str,
    given: T,
    bounds: &RangeInclusive<T>,
) -> Result<(), Error> {
    if bounds.contains(&given) {
        return Ok(());
    }
    let possible = format!("{} to {} are possible", bounds.start(), bounds.end());
    Err(Error::Option { option, given: given.to_string(), possible })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Ten devices and no fault.
    pub(crate) fn options() -> Options {
        Options {
            devices: 10,
            prefix: "sim".to_owned(),
            claim: None,
            state: None,
            seed: 1,
            board: "generic".to_owned(),
            keepalive_s: 240,
            connecting: 64,
            predictions_per_s: 1.0,
            errors: Share::default(),
            probe_ms: 100,
            faults: Faults::default(),
            lasts: None,
            until: None,
        }
    }

    #[test]
    fn shares_are_percentages_or_numbers_and_nothing_beyond_all() {
        let share = |text: &str| text.parse::<Share>().map(Share::get);
        assert_eq!(share("2.5%"), Ok(0.025));
        assert_eq!(share("0.3"), Ok(0.3));
        assert_eq!(share("100%"), Ok(1.0));
        for wrong in ["101%", "-1%", "1.5", "NaN", "many", "", "%"] {
            assert_eq!(share(wrong), Err(InvalidShare), "{wrong}");
        }
        assert_eq!("10%".parse::<Share>().map(|share| share.of(50)), Ok(5));
    }

    #[test]
    fn what_is_outside_its_bounds_is_refused_by_name() {
        assert!(options().check().is_ok());
        let refused = |change: fn(&mut Options)| {
            let mut options = options();
            change(&mut options);
            match options.check() {
                Err(Error::Option { option, .. }) => option,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(refused(|o| o.devices = 0), "--devices");
        assert_eq!(refused(|o| o.prefix = "Not An Id".to_owned()), "--name");
        assert_eq!(refused(|o| o.predictions_per_s = f64::NAN), "--predictions-per-s");
        assert_eq!(refused(|o| o.faults.worse_latency = 0.5), "--worse-latency");
        assert_eq!(refused(|o| o.faults.offline_for = Duration::ZERO), "--offline-for");
        assert_eq!(refused(|o| o.faults.reordered = Share::ALL), "--reordered");
        assert_eq!(refused(|o| o.faults.flood_per_s = 0), "--flood-per-s");
    }
}
