//! `flotilla device …` as types.

use super::{
    DeviceAttribute, DeviceDecommission, DeviceLabel, DeviceList, DeviceQuarantine, DeviceRelease, Output,
    Target,
};
use clap::{Args, Subcommand};
use flotilla_protocol::message::QuietHours;
use std::path::PathBuf;
use std::time::Duration;

/// `flotilla device …`
#[derive(Debug, Subcommand)]
pub enum Device {
    /// List devices: all, or those that are found.
    List(DeviceList),
    /// Give devices labels, or take them away: short words by which they are found and grouped.
    Label(DeviceLabel),
    /// Give devices attributes, or take them away: short texts by key, such as site=berlin.
    Attribute(DeviceAttribute),
    /// Keep rollouts away from devices; they connect and work as before.
    Quarantine(DeviceQuarantine),
    /// Let rollouts take devices again.
    Release(DeviceRelease),
    /// Give a device a name for people.
    Name {
        /// The device.
        id: String,
        /// The name; an empty one takes it away.
        name: String,
        /// The control plane.
        #[command(flatten)]
        target: Target,
    },
    /// Show one device: sensors, and what its models answer, how fast, how sure, and how far from their training data.
    Show {
        /// The device.
        id: String,
        /// The control plane.
        #[command(flatten)]
        target: Target,
    },
    /// Show the recent past of one device: telemetry samples and events.
    Telemetry {
        /// The device.
        id: String,
        /// The control plane.
        #[command(flatten)]
        target: Target,
    },
    /// Show what a device should run beside what it says it runs, and where the two differ.
    Twin {
        /// The device.
        id: String,
        /// The control plane.
        #[command(flatten)]
        target: Target,
    },
    /// Write a new claim code to a file (mode 0600).
    Claim {
        /// The file to write; give it to `flotilla-agent enrol --claim FILE`.
        file: PathBuf,
        /// How many devices may enrol with it.
        #[arg(long, default_value_t = 1)]
        uses: u32,
        /// Hours for which it is valid.
        #[arg(long, default_value_t = 24)]
        hours: u64,
        /// A static group that the devices join.
        #[arg(long, value_name = "NAME")]
        group: Option<String>,
        /// A label that the devices get; repeat for several.
        #[arg(long = "label", value_name = "LABEL")]
        labels: Vec<String>,
        /// An attribute that the devices get, such as site=berlin; repeat for several.
        #[arg(long = "attribute", value_name = "KEY=VALUE", value_parser = super::groups::attribute)]
        attributes: Vec<(String, String)>,
        /// Let the devices wait until somebody has approved each: they may connect, and get nothing before.
        #[arg(long)]
        approval: bool,
        /// Let in registered serial numbers only; see `flotilla device register`.
        #[arg(long)]
        registered: bool,
        /// The control plane.
        #[command(flatten)]
        target: Target,
    },
    /// Register serial numbers of boards that are expected, from a file of comma-separated values.
    ///
    /// Its columns are serial, name, group, labels (with spaces between them) and attribute.KEY, of which only the first has
    /// to be there. A device that says such a serial number when it enrols gets the rest of its line. One mistake refuses the
    /// whole file.
    Register {
        /// The file.
        file: PathBuf,
        /// The control plane.
        #[command(flatten)]
        target: Target,
    },
    /// List registered serial numbers, and the devices that have enrolled with them.
    Registered(Target),
    /// Forget registered serial numbers; devices that have enrolled with them stay as they are.
    Unregister {
        /// The serial numbers.
        #[arg(required = true)]
        serials: Vec<String>,
        /// The control plane.
        #[command(flatten)]
        target: Target,
    },
    /// Let a device examine itself and print what it finds: certificates, clock, disk, link, models and more, each
    /// with what to do. Exits with 1 if a check fails.
    Diagnose {
        /// The device.
        id: String,
        /// Seconds to wait for its answer.
        #[arg(long, default_value_t = 60)]
        wait: u64,
        /// The control plane.
        #[command(flatten)]
        target: Target,
    },
    /// See that a device answers.
    Ping(Order),
    /// Let a device run a model version once, as candidates are probed, and report what that takes. Nothing is activated.
    Measure {
        /// Whom to ask, and how long.
        #[command(flatten)]
        order: Order,
        /// The model.
        model: String,
        /// The version; the newest by default.
        version: Option<u32>,
    },
    /// Let a device load the confirmed release of a model anew.
    RestartModel {
        /// Whom to ask, and how long.
        #[command(flatten)]
        order: Order,
        /// The model.
        model: String,
    },
    /// Let a device replace its certificate now. Done when the new one is in use.
    RotateCertificate(Order),
    /// Let a device's agent log at another level until its next start.
    LogLevel {
        /// Whom to ask, and how long.
        #[command(flatten)]
        order: Order,
        /// The level.
        #[arg(value_parser = ["error", "warn", "info", "debug", "trace"])]
        level: String,
    },
    /// Print what a device's log says. Times are those of the device's clock.
    Logs {
        /// Whom to ask, and how long.
        #[command(flatten)]
        order: Order,
        /// How long ago the first line is at most, such as 90s, 15m, 1h or 2d; from the oldest line on if not given.
        #[arg(long, value_name = "AGO", value_parser = humantime::parse_duration)]
        since: Option<Duration>,
        /// How long ago the last line is at least; to the newest line if not given.
        #[arg(long, value_name = "AGO", value_parser = humantime::parse_duration)]
        until: Option<Duration>,
        /// Most bytes, 1024 to 1048576; the newest lines are taken.
        #[arg(long, default_value_t = 65_536)]
        max_bytes: u32,
        /// The least serious level; all if not given.
        #[arg(long, value_parser = ["error", "warn", "info", "debug", "trace"])]
        level: Option<String>,
    },
    /// List the last commands of a device, newest first, with what became of each.
    Commands {
        /// The device.
        id: String,
        /// The control plane.
        #[command(flatten)]
        target: Target,
    },
    /// Print what a device found when it last examined itself.
    Diagnosis {
        /// The device.
        id: String,
        /// The control plane.
        #[command(flatten)]
        target: Target,
    },
    /// Take devices into the fleet that wait for approval; or let one have the new certificate that it asks for after the
    /// end of its old one.
    Approve {
        /// The devices.
        #[arg(required_unless_present = "waiting")]
        ids: Vec<String>,
        /// All that wait for approval.
        #[arg(long, conflicts_with = "ids")]
        waiting: bool,
        /// The digest of the key that it asks with, as its log names it; the one that waits now if not given. Refused if
        /// another request waits.
        #[arg(long, conflicts_with = "waiting")]
        key: Option<String>,
        /// The control plane.
        #[command(flatten)]
        target: Target,
    },
    /// Shut devices out for good that wait for approval; or refuse one the new certificate that it asks for.
    Reject {
        /// The devices.
        #[arg(required = true)]
        ids: Vec<String>,
        /// Why; the device's log says it too, if it asks for a certificate.
        #[arg(long, default_value = "rejected by an operator")]
        reason: String,
        /// The control plane.
        #[command(flatten)]
        target: Target,
    },
    /// Show how a device behaves, or change it.
    Settings(DeviceSettings),
    /// Show what ran on a device and when: releases confirmed, failed and gone back to, and the rollouts that brought them.
    History {
        /// The device.
        id: String,
        /// The control plane.
        #[command(flatten)]
        target: Target,
    },
    /// Take devices out of service, for good: they never connect again and leave their static groups; nothing is asked of
    /// them any more, and their history stays.
    Decommission(DeviceDecommission),
    /// Shut a device out at once.
    Revoke {
        /// The device.
        id: String,
        /// The control plane.
        #[command(flatten)]
        target: Target,
    },
}

/// Whom to give a command, and how long to wait for its end.
#[derive(Debug, Args)]
pub struct Order {
    /// The device.
    pub id: String,
    /// Seconds after which it is given up, even if the device stays offline; a day if not given.
    #[arg(long, value_name = "SECONDS")]
    pub deadline: Option<u64>,
    /// Seconds to wait for its end.
    #[arg(long, default_value_t = 60)]
    pub wait: u64,
    /// Do not wait.
    #[arg(long)]
    pub detach: bool,
    /// The control plane.
    #[command(flatten)]
    pub target: Target,
}

/// `flotilla device settings`
#[derive(Debug, Args)]
pub struct DeviceSettings {
    /// The device.
    pub id: String,
    /// Bytes a second that its downloads may take together; 0 for as many as the link carries.
    #[arg(long)]
    pub download_bytes_per_s: Option<u64>,
    /// A span of every day, in UTC, in which it downloads nothing, such as 22:00-06:00; repeat for several.
    #[arg(long = "quiet", value_parser = quiet_hours)]
    pub quiet: Vec<QuietHours>,
    /// Let it download at any time.
    #[arg(long, conflicts_with = "quiet")]
    pub no_quiet: bool,
    /// Seconds that a new release must stay healthy before it is confirmed.
    #[arg(long)]
    pub probation_s: Option<u32>,
    /// Seconds between its telemetry samples.
    #[arg(long)]
    pub telemetry_s: Option<u32>,
    /// Drift score (population stability index) above which an event says so, such as 0.25.
    #[arg(long)]
    pub drift_above: Option<f64>,
    /// The control plane.
    #[command(flatten)]
    pub target: Target,
}

fn quiet_hours(text: &str) -> Result<QuietHours, String> {
    let minute = |time: &str| {
        let (hour, minute) = time.split_once(':')?;
        let (hour, minute): (u16, u16) = (hour.parse().ok()?, minute.parse().ok()?);
        (hour < 24 && minute < 60).then_some(hour * 60 + minute)
    };
    let span = text.split_once('-').and_then(|(from, to)| Some((minute(from)?, minute(to)?)));
    let (from_min, to_min) = span.ok_or("quiet hours are two times of day, such as 22:00-06:00")?;
    Ok(QuietHours { from_min, to_min })
}

impl Device {
    /// The form in which results and errors are printed.
    pub(crate) fn output(&self) -> Output {
        match self {
            Self::List(DeviceList { target, .. })
            | Self::Label(DeviceLabel { target, .. })
            | Self::Attribute(DeviceAttribute { target, .. })
            | Self::Quarantine(DeviceQuarantine { target, .. })
            | Self::Release(DeviceRelease { target, .. })
            | Self::Name { target, .. }
            | Self::Show { target, .. }
            | Self::Telemetry { target, .. }
            | Self::Twin { target, .. }
            | Self::Claim { target, .. }
            | Self::Register { target, .. }
            | Self::Registered(target)
            | Self::Unregister { target, .. }
            | Self::Settings(DeviceSettings { target, .. })
            | Self::Diagnose { target, .. }
            | Self::Ping(Order { target, .. })
            | Self::Measure { order: Order { target, .. }, .. }
            | Self::RestartModel { order: Order { target, .. }, .. }
            | Self::RotateCertificate(Order { target, .. })
            | Self::LogLevel { order: Order { target, .. }, .. }
            | Self::Logs { order: Order { target, .. }, .. }
            | Self::Commands { target, .. }
            | Self::Diagnosis { target, .. }
            | Self::Approve { target, .. }
            | Self::Reject { target, .. }
            | Self::Revoke { target, .. }
            | Self::History { target, .. }
            | Self::Decommission(DeviceDecommission { target, .. }) => target.output,
        }
    }
}
