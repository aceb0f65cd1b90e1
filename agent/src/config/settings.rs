//! The file as its owner writes it: its settings with their bounds, and where a mistake is.

use crate::api::Address;
use crate::feed::config::{FolderFeed, StreamFeed, check as check_feeds};
use flotilla_protocol::enrol::BoardSerial;
use flotilla_protocol::limits;
use serde::Deserialize;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

/// The default configuration, with what each setting means.
pub const DEFAULT: &str = r#"# Address of the local endpoint: loopback, or "unix:/run/flotilla/agent.sock". Port 0 takes any free port; the address is
# written to run/endpoint.
listen = "127.0.0.1:0"
# Who may use it, if it is a socket: its mode.
socket_mode = 0o660
# The board profile: one of the built-in ones, or auto to find out which of them this machine is.
board = "auto"
# A profile of your own, in its place.
# board_file = "/etc/flotilla/board.toml"
# The serial number of the board, if what the board itself says (its device tree, or DMI) is wrong or nothing. It is told at
# enrolment: a list of serial numbers that is registered with the control plane names the device by it.
# serial = "PF-2041-7"
# Seconds between signs of life on an idle connection.
keepalive_s = 240
# What is logged to standard error: error, warn, info, debug or trace; RUST_LOG overrides it.
log = "info"
# Bytes of it that are kept in logs/ for whoever asks for it from afar, a sixteenth of storage_bytes at most; 0 keeps none.
log_bytes = 4194304

# What follows is the board profile's; whoever sets one knows better.
# Largest release that may be stored, in bytes.
# model_bytes = 268435456
# Bytes on the disk that a download leaves free.
# disk_reserve_bytes = 16777216
# Bytes on the disk that slots, records, hard examples, the log and the agent's own releases may take together.
# storage_bytes = 4294967296
# Memory that trying a candidate may take, and by which it may grow on probation, in bytes, where its release does not say.
# probe_memory_bytes = 536870912
# Memory that all models and shadows may take together, by what their probes took, in bytes; 0 for half of the device's.
# While a model changes, the old and the new release of that one model count as the larger of the two.
# models_memory_bytes = 0
# Seconds that trying a candidate may take.
# probe_timeout_s = 120
# Degrees Celsius; a new release that heats the device up beyond them is reverted.
# temperature_limit_c = 95
# Degrees Celsius from which on predictions are slowed down, and below which they are not any more.
# throttle_c = 90
# resume_c = 80
# Predictions at the same time over all models; 0 for one a core.
# threads = 0
# Nice level of the agent, -20 to 19; below 0 needs the right to it.
# nice = 0
# Where the temperature stands, in thousandths of a degree; the hottest thermometer of the system if not given.
# temperature_file = "/sys/class/thermal/thermal_zone0/temp"

# Pictures that the agent fetches itself, from folders and cameras: up to 16 of each. Results are JSON lines; how they are
# going stands in `status`.
# [[folder]]
# name = "parcels"
# Pictures that are put into this folder are predicted. Rename them into it, or write and close them; names that begin with
# a dot or end with .tmp or .part are left alone.
# path = "/var/spool/parcels"
# model = "parcels"
# What happens to a file that has its line: move (into done/), keep or delete. What cannot be predicted goes into failed/.
# done = "move"
# The lines; results/NAME.jsonl in the agent's folder if not given.
# output = "/var/log/flotilla/parcels.jsonl"
# Bytes of that file, after which it becomes NAME.1 and a new one begins: 65536 to 1073741824.
# output_bytes = 8388608
# Milliseconds that a file rests before it is taken: 0 to 600000.
# settle_ms = 500
# Largest file, in bytes: up to 16777216.
# max_bytes = 16777216

# [[stream]]
# name = "door"
# model = "people"
# A camera: Motion-JPEG over HTTP, or in its place a V4L2 device such as device = "/dev/video0" with width and height.
# url = "http://camera.local:8080/video"
# Frames that are predicted in a second, 0.001 to 60; the newest one wins. The latest result is at GET /streams.
# rate = 2.0
# Seconds without a frame after which the camera is taken for lost, and looked for again: 1 to 600.
# silence_s = 10
# Where the lines go, if they are to be kept, and its bound.
# output = "/var/log/flotilla/door.jsonl"
# output_bytes = 8388608
"#;

/// Asks for the board to be found out.
pub(super) const AUTO: &str = "auto";
/// Bounds of the log on the disk.
const LOG_BYTES: std::ops::RangeInclusive<u64> = 64 * limits::KIB as u64..=256 * limits::MIB as u64;

/// The file as it stands.
#[derive(Debug, Deserialize)]
#[serde(default)]
pub(super) struct Settings {
    pub(super) listen: Address,
    pub(super) socket_mode: u32,
    pub(super) board: String,
    pub(super) board_file: Option<PathBuf>,
    pub(super) serial: Option<BoardSerial>,
    pub(super) keepalive_s: u16,
    pub(super) log: String,
    pub(super) log_bytes: u64,
    pub(super) model_bytes: Option<u64>,
    pub(super) disk_reserve_bytes: Option<u64>,
    pub(super) storage_bytes: Option<u64>,
    pub(super) probe_memory_bytes: Option<u64>,
    pub(super) models_memory_bytes: Option<u64>,
    pub(super) probe_timeout_s: Option<u64>,
    pub(super) temperature_limit_c: Option<u32>,
    pub(super) throttle_c: Option<u32>,
    pub(super) resume_c: Option<u32>,
    pub(super) threads: Option<u32>,
    pub(super) nice: Option<i32>,
    pub(super) temperature_file: Option<PathBuf>,
    pub(super) folder: Vec<FolderFeed>,
    pub(super) stream: Vec<StreamFeed>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            listen: Address::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))),
            socket_mode: 0o660,
            board: AUTO.to_owned(),
            board_file: None,
            serial: None,
            keepalive_s: 240,
            log: "info".to_owned(),
            log_bytes: 4 * limits::MIB as u64,
            model_bytes: None,
            disk_reserve_bytes: None,
            storage_bytes: None,
            probe_memory_bytes: None,
            models_memory_bytes: None,
            probe_timeout_s: None,
            temperature_limit_c: None,
            throttle_c: None,
            resume_c: None,
            threads: None,
            nice: None,
            temperature_file: None,
            folder: Vec::new(),
            stream: Vec::new(),
        }
    }
}

impl Settings {
    /// The settings, and names of those that there are not; `results` is where feeds write if nothing else is said.
    pub(super) fn parse(text: &str, results: &Path) -> Result<(Self, Vec<String>), Mistake> {
        let mut unknown = Vec::new();
        let read = toml::Deserializer::parse(text).map_err(|e| Mistake::read(text, &e))?;
        let settings: Self = serde_ignored::deserialize(read, |path| unknown.push(path.to_string()))
            .map_err(|e| Mistake::read(text, &e))?;
        settings.check(results).map_err(Mistake::of)?;
        Ok((settings, unknown))
    }

    fn check(&self, results: &Path) -> Result<(), String> {
        if self.socket_mode > 0o777 {
            return Err(format!("socket_mode is {:#o}; 0o000 to 0o777 are possible", self.socket_mode));
        }
        if self.board.is_empty() || self.board.len() > limits::ID {
            return Err(format!("board must have 1 to {} characters", limits::ID));
        }
        if self.keepalive_s < 5 {
            return Err("keepalive_s must be 5 at least".to_owned());
        }
        if self.probe_timeout_s == Some(0) {
            return Err("probe_timeout_s must be 1 at least".to_owned());
        }
        if self.log_bytes != 0 && !LOG_BYTES.contains(&self.log_bytes) {
            let (least, most) = (LOG_BYTES.start(), LOG_BYTES.end());
            return Err(format!("log_bytes must be 0 or {least} to {most}"));
        }
        if self.threads.is_some_and(|threads| threads > 256) {
            return Err("threads must be 256 at most; 0 is one a core".to_owned());
        }
        if self.nice.is_some_and(|nice| !(-20..=19).contains(&nice)) {
            return Err("nice must be -20 to 19".to_owned());
        }
        if let Some(file) = self.temperature_file.as_ref().filter(|file| !file.is_absolute()) {
            return Err(format!("temperature_file is {}; an absolute path is needed", file.display()));
        }
        check_feeds(&self.folder, &self.stream, results)
    }
}

/// What is wrong with a text, and where if that is known.
#[derive(Debug)]
pub(super) struct Mistake {
    pub(super) place: Option<String>,
    pub(super) problem: String,
}

impl Mistake {
    fn of(problem: String) -> Self {
        Self { place: None, problem }
    }

    /// Names the line and its key. Not its value: a camera's address may hold a password.
    pub(super) fn read(text: &str, error: &toml::de::Error) -> Self {
        let at = error.span().map(|span| span.start).and_then(|at| Some((text.get(..at)?, text.get(at..)?)));
        let place = at.map(|(before, after)| {
            let number = before.matches('\n').count() + 1;
            let line = before.rsplit('\n').next().unwrap_or_default().to_owned()
                + after.split('\n').next().unwrap_or_default();
            match line.split_once('=') {
                Some((key, _)) => format!("line {number}, {}", key.trim()),
                None => format!("line {number}"),
            }
        });
        Self { place, problem: error.message().replace('\n', " ") }
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Some(place) => write!(f, "{place}: {}", self.problem),
            None => f.write_str(&self.problem),
        }
    }
}
