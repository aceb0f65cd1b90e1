//! `flotilla simulate` as types.

use super::Output;
use clap::Args;
use flotilla_protocol::Digest;
use flotilla_simulator::options::{Faults, Options, Share};
use std::path::PathBuf;
use std::time::Duration;

/// `flotilla simulate`
#[derive(Debug, Args)]
pub struct Simulate {
    /// Devices: 1 to 100000. Each takes one connection and one file descriptor.
    #[arg(long)]
    pub devices: u32,
    /// File with a claim code of enough uses, for devices that are not enrolled yet (`flotilla device claim FILE --uses N`).
    #[arg(long)]
    pub claim: Option<PathBuf>,
    /// Folder that keeps the devices' keys and certificates, so that the next simulation is of the same devices. Without
    /// it every simulation enrols new ones.
    #[arg(long)]
    pub state: Option<PathBuf>,
    /// What the ids of new devices begin with; a dash and five digits follow. By default sim- and four random digits.
    #[arg(long)]
    pub name: Option<String>,
    /// Seed of all chance: with the same one the same devices are struck.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Board profile that the devices claim to be.
    #[arg(long, default_value = "generic")]
    pub board: String,
    /// Heartbeat (MQTT keepalive) in seconds: 5 to 3600.
    #[arg(long, default_value_t = 240)]
    pub keepalive_s: u16,
    /// Connections that are being opened at a time: 1 to 1024.
    #[arg(long, default_value_t = 64)]
    pub connecting: u32,
    /// Predictions that each device is asked for in a second: 0 to 100.
    #[arg(long, default_value_t = 1.0)]
    pub predictions_per_s: f64,
    /// Share of the predictions that fail on every device, whatever the release.
    #[arg(long, value_name = "SHARE", default_value_t)]
    pub errors: Share,
    /// Milliseconds that a probe takes: 0 to 600000.
    #[arg(long, default_value_t = 100)]
    pub probe_ms: u64,
    /// End after this time, such as 10m, counted from the first connection. Otherwise Ctrl-C ends it.
    #[arg(long = "for", value_name = "TIME", value_parser = humantime::parse_duration)]
    pub lasts: Option<Duration>,
    /// End once every device, lying ones aside, runs this release.
    #[arg(long, value_name = "DIGEST")]
    pub until_release: Option<Digest>,
    /// What goes wrong.
    #[command(flatten)]
    pub faults: FaultArgs,
    /// Output form of the report, and of errors.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

/// Shares are of the devices, such as 5% or 0.05, and exact: 10% of 50 are five.
#[derive(Debug, Args)]
#[command(next_help_heading = "Faults (a SHARE is of the devices where nothing else is said: 5% or 0.05)")]
pub struct FaultArgs {
    /// Devices that go away and come back, again and again.
    #[arg(long, value_name = "SHARE", default_value_t)]
    pub offline: Share,
    /// How long they are away each time, or half of it at least: 100ms to 30days.
    #[arg(long, value_name = "TIME", default_value = "1m", value_parser = humantime::parse_duration)]
    pub offline_for: Duration,
    /// How long they stay in between, or half of it at least: 100ms to 30days.
    #[arg(long, value_name = "TIME", default_value = "1m", value_parser = humantime::parse_duration)]
    pub online_for: Duration,
    /// Devices with a slow link.
    #[arg(long, value_name = "SHARE", default_value_t)]
    pub slow: Share,
    /// What it carries, in bytes a second, both directions together: 256 to 1000000000.
    #[arg(long, default_value_t = Faults::default().slow_bytes_per_s)]
    pub slow_bytes_per_s: u64,
    /// Devices on which the probe of a release fails.
    #[arg(long, value_name = "SHARE", default_value_t)]
    pub failing_probes: Share,
    /// Devices on which a release does worse, by the effects that follow.
    #[arg(long, value_name = "SHARE", default_value_t)]
    pub worse: Share,
    /// Share of the predictions that fail there beside the usual ones.
    #[arg(long, value_name = "SHARE", default_value_t)]
    pub worse_errors: Share,
    /// Factor by which its latency is higher there: 1 to 1000.
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0)]
    pub worse_latency: f64,
    /// What it loses there of its mean confidence, such as 10% of 0 to 1.
    #[arg(long, value_name = "SHARE", default_value_t)]
    pub worse_confidence: Share,
    /// The release whose probes fail and that does worse; every release without it.
    #[arg(long, value_name = "DIGEST")]
    pub of_release: Option<Digest>,
    /// Devices whose inputs drift.
    #[arg(long, value_name = "SHARE", default_value_t)]
    pub drifting: Share,
    /// When they begin to, counted from the start: 100ms to 30days.
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = humantime::parse_duration)]
    pub drift_after: Duration,
    /// How far inputs are off from then on: population stability index in thousandths, 0 to 10000.
    #[arg(long, default_value_t = Faults::default().drift_milli)]
    pub drift_milli: u32,
    /// Devices that crash and start again three seconds later.
    #[arg(long, value_name = "SHARE", default_value_t)]
    pub crashing: Share,
    /// How long they run in between, or half of it at least: 100ms to 30days.
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = humantime::parse_duration)]
    pub crash_every: Duration,
    /// Share of all messages, in either direction, that come twice: 0% to 50%.
    #[arg(long, value_name = "SHARE", default_value_t)]
    pub duplicated: Share,
    /// Share of all messages, in either direction, that are overtaken by the next one: 0% to 50%.
    #[arg(long, value_name = "SHARE", default_value_t)]
    pub reordered: Share,
    /// Devices that flood the control plane with questions.
    #[arg(long, value_name = "SHARE", default_value_t)]
    pub flooding: Share,
    /// How many they ask in a second: 1 to 1000.
    #[arg(long, default_value_t = Faults::default().flood_per_s)]
    pub flood_per_s: u32,
    /// Devices that say at once that they run what is wanted, and never fetch it.
    #[arg(long, value_name = "SHARE", default_value_t)]
    pub lying: Share,
}

impl Simulate {
    /// The same in the simulator's words.
    pub fn options(self) -> Options {
        let faults = self.faults;
        Options {
            devices: self.devices,
            prefix: self.name.unwrap_or_else(|| format!("sim-{:04x}", rand::random::<u16>())),
            claim: self.claim,
            state: self.state,
            seed: self.seed,
            board: self.board,
            keepalive_s: self.keepalive_s,
            connecting: self.connecting,
            predictions_per_s: self.predictions_per_s,
            errors: self.errors,
            probe_ms: self.probe_ms,
            lasts: self.lasts,
            until: self.until_release,
            faults: Faults {
                offline: faults.offline,
                offline_for: faults.offline_for,
                online_for: faults.online_for,
                slow: faults.slow,
                slow_bytes_per_s: faults.slow_bytes_per_s,
                failing_probes: faults.failing_probes,
                worse: faults.worse,
                worse_errors: faults.worse_errors,
                worse_latency: faults.worse_latency,
                worse_confidence: faults.worse_confidence,
                of_release: faults.of_release,
                drifting: faults.drifting,
                drift_after: faults.drift_after,
                drift_milli: faults.drift_milli,
                crashing: faults.crashing,
                crash_every: faults.crash_every,
                duplicated: faults.duplicated,
                reordered: faults.reordered,
                flooding: faults.flooding,
                flood_per_s: faults.flood_per_s,
                lying: faults.lying,
            },
        }
    }
}
