//! The command line as types.

mod board;
mod compress;
mod dataset;
mod device;
mod experiment;
mod fleet;
mod groups;
mod hard;
mod job;
mod model;
mod release;
mod rollout;
mod shadow;
mod simulate;
mod trust;

pub use board::Board;
use clap::{Args, Parser, Subcommand, ValueEnum};
pub use compress::Compress;
pub use dataset::Dataset;
pub use device::{Device, DeviceSettings, Order};
pub use experiment::{Experiment, ExperimentId, ExperimentSpec, Side, Winner};
pub use fleet::{DeviceDecommission, Fleet, FleetTop};
use flotilla_protocol::message::Settings;
pub use groups::{
    DeviceAttribute, DeviceLabel, DeviceList, DeviceQuarantine, DeviceRelease, Group, GroupDevices, Those,
};
pub use hard::{Hard, HardConsent};
pub use job::{Job, Train};
pub use model::{CardFormat, Inspect, Model, ModelCard, ModelImport, Reading};
pub use release::Release;
pub use rollout::{OnStop, Rollout, RolloutId, RolloutSpec};
pub use shadow::{OnDevices, Shadow};
pub use simulate::Simulate;
use std::net::SocketAddr;
use std::path::PathBuf;
pub use trust::Trust;

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
    /// Boards: what devices are, and how long models take there.
    #[command(subcommand)]
    Board(Board),
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
    /// Look at a model of another tool in this process, for the control plane.
    #[command(hide = true)]
    ExamineChild {
        /// Folder of what it is given.
        input: PathBuf,
        /// Folder of what it makes.
        output: PathBuf,
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

impl Command {
    /// The form in which results and errors are printed.
    pub fn output(&self) -> Output {
        match self {
            Self::Quickstart(options) => options.output,
            Self::Up(options) => options.output,
            Self::Simulate(options) => options.output,
            Self::Agent(_) | Self::JobChild { .. } | Self::ExamineChild { .. } => Output::Text,
            Self::Login(target) | Self::Audit(target) => target.output,
            Self::Train(train) => train.target.output,
            Self::Compress(compress) => compress.target.output,
            Self::Fleet(Fleet::Top(FleetTop { target, .. })) => target.output,
            Self::Rollout(command) => command.target().output,
            Self::Experiment(command) => command.target().output,
            Self::Release(command) => command.output(),
            Self::Trust(command) => command.output(),
            Self::Model(command) => command.output(),
            Self::Dataset(command) => command.output(),
            Self::Device(command) => command.output(),
            Self::Board(command) => command.output(),
            Self::Group(command) => command.output(),
            Self::Hard(command) => command.output(),
            Self::Shadow(command) => command.output(),
            Self::Job(command) => command.output(),
        }
    }
}
