//! The command line as types.

use clap::{Args, Parser, Subcommand, ValueEnum};
use flotilla_protocol::message::Settings;
use std::net::SocketAddr;
use std::path::PathBuf;

const EXIT_CODES: &str = "Exit codes: 0 done, 1 failed, 2 wrong command line, 3 control plane not reachable, \
4 not allowed, 5 not found, 6 folder or port not usable. Errors carry a stable code in brackets.";

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
    /// Devices.
    #[command(subcommand)]
    Device(Device),
    /// Rollouts.
    #[command(subcommand)]
    Rollout(Rollout),
    /// Jobs.
    #[command(subcommand)]
    Job(Job),
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
    #[arg(long, default_value_t = Settings::default().probation_s)]
    pub probation_s: u32,
    /// Seconds between a device's telemetry samples. For devices that enrol from now on.
    #[arg(long, default_value_t = Settings::default().telemetry_interval_s)]
    pub telemetry_s: u32,
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

/// `flotilla device …`
#[derive(Debug, Subcommand)]
pub enum Device {
    /// List devices.
    List(Target),
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
        /// The control plane.
        #[command(flatten)]
        target: Target,
    },
    /// Shut a device out at once.
    Revoke {
        /// The device.
        id: String,
        /// The control plane.
        #[command(flatten)]
        target: Target,
    },
}

/// `flotilla rollout …`
#[derive(Debug, Subcommand)]
pub enum Rollout {
    /// Roll a release out: one canary, then the rest.
    Create {
        /// Digest of the release.
        release: String,
        /// A device; repeat for several. All active devices by default.
        #[arg(long = "device")]
        devices: Vec<String>,
        /// Return at once instead of following the rollout.
        #[arg(long)]
        detach: bool,
        /// The control plane.
        #[command(flatten)]
        target: Target,
    },
    /// List rollouts.
    List(Target),
    /// Show one rollout.
    Show {
        /// The rollout.
        id: String,
        /// The control plane.
        #[command(flatten)]
        target: Target,
    },
    /// Stop a rollout; devices keep what they confirmed.
    Abort {
        /// The rollout.
        id: String,
        /// The control plane.
        #[command(flatten)]
        target: Target,
    },
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
            Command::Agent(_) | Command::JobChild { .. } => Output::Text,
            Command::Login(target) | Command::Audit(target) => target.output,
            Command::Train(train) => train.target.output,
            Command::Compress(compress) => compress.target.output,
            Command::Dataset(Dataset::Import { target, .. } | Dataset::List(target))
            | Command::Model(Model::List(target) | Model::Export { target, .. })
            | Command::Release(
                Release::Create { target, .. }
                | Release::CreateAgent { target, .. }
                | Release::List(target)
                | Release::Export { target, .. }
                | Release::Import { target, .. },
            )
            | Command::Device(
                Device::List(target) | Device::Claim { target, .. } | Device::Revoke { target, .. },
            )
            | Command::Rollout(
                Rollout::Create { target, .. }
                | Rollout::List(target)
                | Rollout::Show { target, .. }
                | Rollout::Abort { target, .. },
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
