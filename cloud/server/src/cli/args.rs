//! The command line as types.

mod experiment;
mod fleet;
mod groups;
mod hard;
mod rollout;
mod simulate;

use clap::{Args, Parser, Subcommand, ValueEnum};
pub use experiment::{Experiment, ExperimentId, ExperimentSpec, Side, Winner};
pub use fleet::{DeviceDecommission, Fleet, FleetTop};
use flotilla_protocol::message::{QuietHours, Settings};
pub use groups::{
    DeviceAttribute, DeviceLabel, DeviceList, DeviceQuarantine, DeviceRelease, Group, GroupDevices, Those,
};
pub use hard::{Hard, HardConsent};
pub use rollout::{OnStop, Rollout, RolloutId, RolloutSpec};
pub use simulate::Simulate;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

const EXIT_CODES: &str = "Exit codes: 0 done, 1 failed, 2 wrong command line, 3 control plane not reachable, \
4 not allowed, 5 not found, 6 folder or port not usable. Errors carry a stable code in brackets.";

/// Lives of a device's certificate that are possible: what a device needs to renew it, to ten years.
const CERTIFICATE_S: std::ops::RangeInclusive<u64> = 10..=10 * 365 * 24 * 60 * 60;

/// From data to a healthy fleet of edge devices, in one binary.
#[derive(Debug, Parser)]
#[command(name = "flotilla", version, about, after_help = EXIT_CODES)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// How results are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// Tables and sentences.
    #[default]
    Text,
    /// JSON.
    Json,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the whole loop on the bundled real data: import, train, shrink, sign, roll out to local devices, watch.
    Quickstart(Quickstart),
    /// Run the control plane.
    Up(Up),
    /// Print a one-time address that opens the console.
    Login(Target),
    /// Datasets.
    #[command(subcommand)]
    Dataset(Dataset),
    /// Train a model on a dataset.
    Train(Train),
    /// Compress a model within an accuracy budget.
    Compress(Compress),
    /// Models and their versions.
    #[command(subcommand)]
    Model(Model),
    /// Signed releases.
    #[command(subcommand)]
    Release(Release),
    /// Which keys devices believe.
    #[command(subcommand)]
    Trust(Trust),
    /// Devices.
    #[command(subcommand)]
    Device(Device),
    /// Groups of devices.
    #[command(subcommand)]
    Group(Group),
    /// Rollouts.
    #[command(subcommand)]
    Rollout(Rollout),
    /// Experiments: two releases on two halves of the fleet, compared.
    #[command(subcommand)]
    Experiment(Experiment),
    /// The whole fleet.
    #[command(subcommand)]
    Fleet(Fleet),
    /// Hard examples: inputs that devices send because a model was not sure of them.
    #[command(subcommand)]
    Hard(Hard),
    /// Releases that run beside confirmed ones, for comparison only.
    #[command(subcommand)]
    Shadow(Shadow),
    /// Jobs.
    #[command(subcommand)]
    Job(Job),
    /// Run a fleet of light devices against a running control plane, over real connections, with faults on request.
    Simulate(Box<Simulate>),
    /// The audit trail, newest first.
    Audit(Target),
    /// The device agent: the same as the binary `flotilla-agent`.
    Agent(flotilla_agent::cli::Args),
    /// Run one job in this process, for the control plane.
    #[command(hide = true)]
    JobChild {
        /// The attempt's folder.
        folder: PathBuf,
    },
}

/// Which control plane a command talks to.
#[derive(Clone, Debug, Args)]
pub struct Target {
    /// Folder of a control plane on this machine.
    #[arg(long, default_value = "flotilla-data")]
    pub dir: PathBuf,
    /// Address of a control plane (http://host:port); needs --token-file.
    #[arg(long, requires = "token_file")]
    pub server: Option<String>,
    /// File that holds the token.
    #[arg(long)]
    pub token_file: Option<PathBuf>,
    /// Output form, of errors too.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

/// `flotilla quickstart`
#[derive(Debug, Args)]
pub struct Quickstart {
    /// Folder of everything.
    #[arg(long, default_value = "flotilla-quickstart")]
    pub dir: PathBuf,
    /// Number of local devices.
    #[arg(long, default_value_t = 3)]
    pub devices: usize,
    /// Print a JSON report last and end, instead of staying up.
    #[arg(long)]
    pub once: bool,
    /// Address of the HTTP API and the console; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:0")]
    pub http: SocketAddr,
    /// Address of the MQTT broker; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:0")]
    pub mqtt: SocketAddr,
    /// Form of errors; the report of --once is JSON always.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

/// `flotilla up`
#[derive(Debug, Args)]
pub struct Up {
    /// Folder of everything; made if it is not there.
    #[arg(long, default_value = "flotilla-data")]
    pub dir: PathBuf,
    /// Address of the HTTP API and the console. Plain HTTP is served to this machine only, HTTPS to everybody.
    #[arg(long, default_value = "127.0.0.1:8080")]
    pub http: SocketAddr,
    /// Address of the MQTT broker (TLS with client certificates).
    #[arg(long, default_value = "127.0.0.1:8883")]
    pub mqtt: SocketAddr,
    /// Further host names or addresses under which devices reach this machine.
    #[arg(long = "name")]
    pub names: Vec<String>,
    /// Seconds that a new release must stay healthy on a device before it is confirmed. For devices that enrol
    /// from now on.
    #[arg(long, default_value_t = Settings::default().probation_s, value_parser = clap::value_parser!(u32).range(1..=30 * 24 * 3600))]
    pub probation_s: u32,
    /// Seconds between a device's telemetry samples. For devices that enrol from now on.
    #[arg(long, default_value_t = Settings::default().telemetry_interval_s, value_parser = clap::value_parser!(u32).range(1..=24 * 3600))]
    pub telemetry_s: u32,
    /// Seconds for which a device's certificate is valid; devices renew theirs by themselves when two thirds have
    /// passed. For certificates signed from now on.
    #[arg(long, default_value_t = flotilla_fleet::ca::DEVICE_VALIDITY.as_secs(),
        value_parser = clap::value_parser!(u64).range(CERTIFICATE_S))]
    pub certificate_s: u64,
    /// Form of errors.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

/// `flotilla dataset …`
#[derive(Debug, Subcommand)]
pub enum Dataset {
    /// Import a folder, zip or csv as a new version.
    Import {
        /// Name of the dataset.
        name: String,
        /// A folder or zip of images by class, an IDX folder or zip, a csv table. Without it: the bundled digits.
        path: Option<PathBuf>,
        /// The format, when it is not recognised by itself.
        #[arg(long)]
        format: Option<String>,
        /// Label column of a table.
        #[arg(long)]
        label: Option<String>,
        /// Seed of the split.
        #[arg(long)]
        seed: Option<u64>,
        /// The control plane.
        #[command(flatten)]
        target: Target,
    },
    /// List datasets.
    List(Target),
}

/// `flotilla train`
#[derive(Debug, Args)]
pub struct Train {
    /// Dataset to train on.
    pub dataset: String,
    /// Dataset version; the newest by default.
    #[arg(long)]
    pub version: Option<u32>,
    /// The model that gets a new version; named like the dataset by default.
    #[arg(long)]
    pub model: Option<String>,
    /// Settings of the algorithm, as a JSON object.
    #[arg(long)]
    pub config: Option<String>,
    /// Return at once instead of following the job.
    #[arg(long)]
    pub detach: bool,
    /// The control plane.
    #[command(flatten)]
    pub target: Target,
}

/// `flotilla compress`
#[derive(Debug, Args)]
pub struct Compress {
    /// The model.
    pub model: String,
    /// The version; the newest by default.
    #[arg(long)]
    pub version: Option<u32>,
    /// Largest acceptable drop of test accuracy, absolute.
    #[arg(long, default_value_t = crate::http::api::default_max_drop())]
    pub max_drop: f64,
    /// Largest acceptable size in bytes.
    #[arg(long)]
    pub max_bytes: Option<u64>,
    /// Return at once instead of following the job.
    #[arg(long)]
    pub detach: bool,
    /// The control plane.
    #[command(flatten)]
    pub target: Target,
}

/// `flotilla model …`
#[derive(Debug, Subcommand)]
pub enum Model {
    /// List model versions.
    List(Target),
    /// Show what all devices say of a model, by release: latency, answers, confidence, drift.
    Telemetry {
        /// The model.
        model: String,
        /// The control plane.
        #[command(flatten)]
        target: Target,
    },
    /// Say what a model of another tool is and costs: inputs, outputs, operators, memory, a guess at its pipeline. Takes an
    /// ONNX file or a ModelArts model package; needs no control plane.
    Inspect(Inspect),
    /// Write the plain ONNX file of a version.
    Export {
        /// The model.
        model: String,
        /// The version.
        version: u32,
        /// The file to write.
        file: PathBuf,
        /// The control plane.
        #[command(flatten)]
        target: Target,
    },
}

/// `flotilla model inspect`
#[derive(Debug, Args)]
pub struct Inspect {
    /// The file.
    pub file: PathBuf,
    /// A file with the names of the classes, one a line.
    #[arg(long, value_name = "FILE")]
    pub labels: Option<PathBuf>,
    /// What an open dimension is, by the symbol of the file; repeat for several. An open batch is 1.
    #[arg(long = "dim", value_name = "SYMBOL=NUMBER")]
    pub dims: Vec<String>,
    /// An input that always has the same value, as a sample rate; repeat for several.
    #[arg(long = "fix", value_name = "INPUT=NUMBER")]
    pub fixed: Vec<String>,
    /// Of a quantised model, clamp activations and do not round them: as fast as the float model, other numbers.
    #[arg(long)]
    pub float_activations: bool,
    /// Write the cleaned model there.
    #[arg(long, value_name = "FILE")]
    pub cleaned: Option<PathBuf>,
    /// Output form, of errors too.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

/// `flotilla release …`
#[derive(Debug, Subcommand)]
pub enum Release {
    /// Sign a model version.
    Create {
        /// The model.
        model: String,
        /// The version; the newest by default.
        #[arg(long)]
        version: Option<u32>,
        /// A board that it is for, by the name of its profile, such as raspberry-pi-5; repeat for several. Every board by
        /// default; others refuse it.
        #[arg(long = "board", value_name = "NAME")]
        boards: Vec<String>,
        /// The control plane.
        #[command(flatten)]
        target: Target,
    },
    /// Sign an agent, to be rolled out like a model's release.
    CreateAgent {
        /// The agent's program; repeat for several architectures.
        #[arg(long = "binary", value_name = "FILE", required = true)]
        binaries: Vec<PathBuf>,
        /// The architecture of a single program that does not say it itself, such as aarch64.
        #[arg(long)]
        arch: Option<String>,
        /// Its version, as `flotilla-agent --version` prints it.
        #[arg(long = "version", value_name = "VERSION")]
        agent_version: String,
        /// The control plane.
        #[command(flatten)]
        target: Target,
    },
    /// Write a release that offline keys have yet to sign, with its files, as a zip.
    Draft {
        /// The model.
        model: String,
        /// The file to write.
        file: PathBuf,
        /// The version; the newest by default.
        #[arg(long)]
        version: Option<u32>,
        /// A board that it is for, by the name of its profile, such as raspberry-pi-5; repeat for several. Every board by
        /// default; others refuse it.
        #[arg(long = "board", value_name = "NAME")]
        boards: Vec<String>,
        /// The control plane.
        #[command(flatten)]
        target: Target,
    },
    /// Add the signature of a release key to a draft. Needs no control plane.
    Sign {
        /// The zip.
        file: PathBuf,
        /// File with the private key.
        #[arg(long)]
        key: PathBuf,
        /// Output form, of errors too.
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
    /// List releases.
    List(Target),
    /// Write a release with its files as a zip.
    Export {
        /// Digest of the release.
        digest: String,
        /// The file to write.
        file: PathBuf,
        /// The control plane.
        #[command(flatten)]
        target: Target,
    },
    /// Import a bundle that the project's keys signed.
    Import {
        /// The zip.
        file: PathBuf,
        /// The control plane.
        #[command(flatten)]
        target: Target,
    },
}

/// `flotilla trust …`
///
/// A new version is proposed to a file, signed there by the release keys, each where it lives, and published.
#[derive(Debug, Subcommand)]
pub enum Trust {
    /// Show the trust file in force, or one in a file.
    Show {
        /// A proposed trust file.
        file: Option<PathBuf>,
        /// The control plane.
        #[command(flatten)]
        target: Target,
    },
    /// Make a private key in a new file (mode 0600) and print its public half. Needs no control plane.
    Key {
        /// The file to write.
        file: PathBuf,
        /// Output form, of errors too.
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
    /// Write the next version, not signed, to a new file.
    Propose {
        /// The file to write.
        file: PathBuf,
        /// A release key's public half in hex; repeat for all that are to be. Unchanged where none is given.
        #[arg(long = "release-key")]
        release_keys: Vec<String>,
        /// How many release keys must sign.
        #[arg(long)]
        threshold: Option<u16>,
        /// A control key's public half in hex; repeat for all that are to be. Unchanged where none is given.
        #[arg(long = "control-key")]
        control_keys: Vec<String>,
        /// MODEL=COUNTER: forbids every release of the model below this counter; repeat for several. Floors only rise.
        #[arg(long = "floor")]
        floors: Vec<String>,
        /// The control plane.
        #[command(flatten)]
        target: Target,
    },
    /// Add the signature of a release key to a proposed trust file. Needs no control plane.
    Sign {
        /// The proposed trust file.
        file: PathBuf,
        /// File with the private key.
        #[arg(long)]
        key: PathBuf,
        /// Output form, of errors too.
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
    /// Put a trust file in force that enough keys have signed: those in force and its own.
    Publish {
        /// The signed trust file.
        file: PathBuf,
        /// The control plane.
        #[command(flatten)]
        target: Target,
    },
}

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
        #[arg(long = "attribute", value_name = "KEY=VALUE", value_parser = groups::attribute)]
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

/// `flotilla shadow …`
#[derive(Debug, Subcommand)]
pub enum Shadow {
    /// Let a release run beside a model's confirmed one, on the same inputs; applications never get its answers.
    Start {
        /// The model.
        model: String,
        /// Digest of the release; the newest of the model by default.
        #[arg(long)]
        release: Option<String>,
        /// On which devices.
        #[command(flatten)]
        on: OnDevices,
        /// Share of the inputs that it sees, in per mille.
        #[arg(long, default_value_t = flotilla_protocol::message::SHARE_ALL,
            value_parser = clap::value_parser!(u32).range(1..=1000))]
        share: u32,
        /// The control plane.
        #[command(flatten)]
        target: Target,
    },
    /// End it; the device's files of it go, too.
    Stop {
        /// The model.
        model: String,
        /// On which devices.
        #[command(flatten)]
        on: OnDevices,
        /// The control plane.
        #[command(flatten)]
        target: Target,
    },
    /// Show how it compares, on each device and in all.
    Show {
        /// The model.
        model: String,
        /// The control plane.
        #[command(flatten)]
        target: Target,
    },
}

/// Some devices, or all of them.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct OnDevices {
    /// A device; repeat for several.
    #[arg(long = "device")]
    pub devices: Vec<String>,
    /// Every active device that runs the model.
    #[arg(long)]
    pub all: bool,
}

/// `flotilla job …`
#[derive(Debug, Subcommand)]
pub enum Job {
    /// List jobs.
    List(Target),
    /// Show one job.
    Show {
        /// The job.
        id: String,
        /// The control plane.
        #[command(flatten)]
        target: Target,
    },
    /// Print a job's log.
    Log {
        /// The job.
        id: String,
        /// The control plane.
        #[command(flatten)]
        target: Target,
    },
    /// Cancel a job.
    Cancel {
        /// The job.
        id: String,
        /// The control plane.
        #[command(flatten)]
        target: Target,
    },
}

impl Command {
    /// The form in which results and errors are printed.
    pub fn output(&self) -> Output {
        match self {
            Command::Quickstart(options) => options.output,
            Command::Up(options) => options.output,
            Command::Simulate(options) => options.output,
            Command::Agent(_) | Command::JobChild { .. } => Output::Text,
            Command::Release(Release::Sign { output, .. })
            | Command::Trust(Trust::Key { output, .. } | Trust::Sign { output, .. }) => *output,
            Command::Login(target) | Command::Audit(target) => target.output,
            Command::Rollout(command) => command.target().output,
            Command::Experiment(command) => command.target().output,
            Command::Train(train) => train.target.output,
            Command::Compress(compress) => compress.target.output,
            Command::Model(Model::Inspect(inspect)) => inspect.output,
            Command::Dataset(Dataset::Import { target, .. } | Dataset::List(target))
            | Command::Model(
                Model::List(target) | Model::Telemetry { target, .. } | Model::Export { target, .. },
            )
            | Command::Release(
                Release::Create { target, .. }
                | Release::CreateAgent { target, .. }
                | Release::List(target)
                | Release::Draft { target, .. }
                | Release::Export { target, .. }
                | Release::Import { target, .. },
            )
            | Command::Device(
                Device::List(DeviceList { target, .. })
                | Device::Label(DeviceLabel { target, .. })
                | Device::Attribute(DeviceAttribute { target, .. })
                | Device::Quarantine(DeviceQuarantine { target, .. })
                | Device::Release(DeviceRelease { target, .. })
                | Device::Name { target, .. }
                | Device::Show { target, .. }
                | Device::Telemetry { target, .. }
                | Device::Twin { target, .. }
                | Device::Claim { target, .. }
                | Device::Register { target, .. }
                | Device::Registered(target)
                | Device::Unregister { target, .. }
                | Device::Settings(DeviceSettings { target, .. })
                | Device::Diagnose { target, .. }
                | Device::Ping(Order { target, .. })
                | Device::RestartModel { order: Order { target, .. }, .. }
                | Device::RotateCertificate(Order { target, .. })
                | Device::LogLevel { order: Order { target, .. }, .. }
                | Device::Logs { order: Order { target, .. }, .. }
                | Device::Commands { target, .. }
                | Device::Diagnosis { target, .. }
                | Device::Approve { target, .. }
                | Device::Reject { target, .. }
                | Device::Revoke { target, .. }
                | Device::History { target, .. }
                | Device::Decommission(DeviceDecommission { target, .. }),
            )
            | Command::Fleet(Fleet::Top(FleetTop { target, .. }))
            | Command::Group(
                Group::Create { target, .. }
                | Group::Preview { target, .. }
                | Group::List(target)
                | Group::Show { target, .. }
                | Group::Add(GroupDevices { target, .. })
                | Group::Remove(GroupDevices { target, .. })
                | Group::Delete { target, .. },
            )
            | Command::Trust(
                Trust::Show { target, .. } | Trust::Propose { target, .. } | Trust::Publish { target, .. },
            )
            | Command::Hard(
                Hard::Consent(HardConsent { target, .. })
                | Hard::Consents { target, .. }
                | Hard::List { target, .. }
                | Hard::Show { target, .. }
                | Hard::Accept { target, .. }
                | Hard::Reject { target, .. },
            )
            | Command::Shadow(
                Shadow::Start { target, .. } | Shadow::Stop { target, .. } | Shadow::Show { target, .. },
            )
            | Command::Job(
                Job::List(target)
                | Job::Show { target, .. }
                | Job::Log { target, .. }
                | Job::Cancel { target, .. },
            ) => target.output,
        }
    }
}
