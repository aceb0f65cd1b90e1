//! `agent.toml`: what the owner of a device decides about it. Every setting has a default, so the file is optional.
//!
//! An unknown setting is an error, except for an agent that a launcher starts: a newer agent may have brought the setting,
//! and one that is taken back to must run. It passes over what it does not know, a feed or board file that it can make
//! nothing of among them, and says so.

mod settings;

pub use settings::DEFAULT;

use crate::api::Address;
use crate::feed::config::{FolderFeed, StreamFeed, check as check_feeds};
use crate::folder::{CONFIG, Folder, RESULTS};
use crate::{Error, board, disk};
use flotilla_protocol::board::{BoardProfile, built_in};
use flotilla_protocol::enrol::BoardSerial;
use flotilla_protocol::limits;
use settings::{AUTO, Mistake, Settings};
use std::path::{Path, PathBuf};
use toml::{Table, Value};

/// The board that is taken where nothing gives another away.
pub const BOARD: &str = "generic";
/// The feeds' tables.
const FOLDERS: &str = "folder";
const STREAMS: &str = "stream";
/// Of all that the agent may store, the part that the log may take.
const LOG_PART: u64 = 16;

/// The feeds of a kind.
fn each(feeds: Option<Value>) -> impl Iterator<Item = Value> {
    match feeds {
        Some(Value::Array(all)) => all,
        Some(other) => vec![other],
        None => Vec::new(),
    }
    .into_iter()
}

/// What the owner of a device decides about it, and what its board profile says where the owner does not.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Address of the local endpoint.
    pub listen: Address,
    /// Its mode, if it is a socket.
    pub socket_mode: u32,
    /// Name of the board profile.
    pub board: String,
    /// The profile; the one of [`BOARD`] for a name that is not built in.
    pub profile: BoardProfile,
    /// The serial number of the board, where its owner says it.
    pub serial: Option<BoardSerial>,
    /// Seconds between signs of life on an idle connection.
    pub keepalive_s: u16,
    /// Log filter.
    pub log: String,
    /// Bytes of the log that are kept on the disk.
    pub log_bytes: u64,
    /// Largest release that may be stored, in bytes.
    pub model_bytes: u64,
    /// Bytes on the disk that a download leaves free.
    pub disk_reserve_bytes: u64,
    /// Bytes on the disk that slots, records, the agent's own releases and the log may take together.
    storage_bytes: u64,
    /// Memory that trying a candidate may take, and by which it may grow on probation, in bytes, where its release does
    /// not say.
    pub probe_memory_bytes: u64,
    /// Memory that all models and shadows may take together, in bytes; 0 for half of the device's.
    models_memory_bytes: u64,
    /// Seconds that trying a candidate may take.
    pub probe_timeout_s: u64,
    /// Degrees Celsius beyond which a candidate on probation must not heat the device up.
    pub temperature_limit_c: u32,
    /// Degrees Celsius from which on predictions are slowed down.
    pub throttle_c: u32,
    /// Degrees Celsius below which they are not any more.
    pub resume_c: u32,
    /// Predictions at the same time over all models; 0 for one a core.
    pub threads: u32,
    /// Nice level of the agent.
    pub nice: i32,
    /// Where the temperature stands, in thousandths of a degree.
    pub temperature_file: Option<PathBuf>,
    /// What this agent does not know or cannot make anything of.
    pub passed_over: Vec<String>,
    /// Folders whose files are predicted.
    pub folders: Vec<FolderFeed>,
    /// Cameras whose frames are predicted.
    pub streams: Vec<StreamFeed>,
}

impl Default for Config {
    fn default() -> Self {
        Self::resolve(Settings { board: BOARD.to_owned(), ..Settings::default() }, None, Path::new("/"))
    }
}

impl Config {
    /// Reads the folder's configuration, if it has one.
    pub fn read(folder: &Folder) -> Result<Self, Error> {
        Self::read_with(folder, |text, results| {
            let (settings, unknown) =
                Settings::parse(text, results).map_err(|mistake| mistake.to_string())?;
            match unknown.first() {
                None => Self::checked(settings, Path::new("/")),
                Some(first) => Err(format!("there is no setting {first}; `flotilla-agent config` shows all")),
            }
        })
    }

    /// The same, without the settings, feeds and board file that this agent cannot make anything of: they stand in
    /// `passed_over`.
    pub fn read_what_is_known(folder: &Folder) -> Result<Self, Error> {
        Self::read_with(folder, |text, results| Self::parse_what_is_known(text, results, Path::new("/")))
    }

    fn read_with(
        folder: &Folder,
        parse: impl FnOnce(&str, &Path) -> Result<Self, String>,
    ) -> Result<Self, Error> {
        let path = folder.path(CONFIG);
        let wrong = |problem: String| Error::Config { path: path.clone(), problem };
        let bytes = disk::read(&path, 64 * limits::KIB)?.unwrap_or_default();
        let text = String::from_utf8(bytes).map_err(|e| wrong(e.to_string()))?;
        let results = std::path::absolute(folder.path(RESULTS)).map_err(|e| wrong(e.to_string()))?;
        parse(&text, &results).map_err(wrong)
    }

    fn parse_what_is_known(text: &str, results: &Path, root: &Path) -> Result<Self, String> {
        let mut table: Table = toml::from_str(text).map_err(|e| Mistake::read(text, &e).to_string())?;
        let feeds = [FOLDERS, STREAMS].map(|kind| (kind, table.remove(kind)));
        // Lines of what is left say nothing to whoever wrote the whole.
        let (mut settings, mut passed_over) =
            Settings::parse(&table.to_string(), results).map_err(|mistake| mistake.problem)?;
        for (kind, feed) in feeds.into_iter().flat_map(|(kind, feeds)| each(feeds).map(move |f| (kind, f))) {
            let one = Table::from_iter([(kind.to_owned(), Value::Array(vec![feed]))]);
            let with = Settings::parse(&one.to_string(), results)
                .map_err(|mistake| mistake.problem)
                .and_then(|(other, unknown)| {
                    let folders = [&settings.folder[..], &other.folder[..]].concat();
                    let streams = [&settings.stream[..], &other.stream[..]].concat();
                    check_feeds(&folders, &streams, results).map(|()| (folders, streams, unknown))
                });
            match with {
                Ok((folders, streams, unknown)) => {
                    (settings.folder, settings.stream) = (folders, streams);
                    passed_over.extend(unknown);
                }
                Err(problem) => passed_over.push(format!("a [[{kind}]]: {problem}")),
            }
        }
        if let Some(Err(problem)) = settings.board_file.as_ref().map(|path| own_profile(path)) {
            settings.board_file = None;
            passed_over.push(problem);
        }
        Ok(Self { passed_over, ..Self::checked(settings, root)? })
    }

    /// What holds together with the board's profile; `root` is where the machine's file system starts.
    fn checked(settings: Settings, root: &Path) -> Result<Self, String> {
        let own = settings.board_file.as_ref().map(|path| own_profile(path)).transpose()?;
        let config = Self::resolve(settings, own, root);
        let (throttle, resume, limit) = (config.throttle_c, config.resume_c, config.temperature_limit_c);
        if resume >= throttle || throttle > limit {
            return Err(format!(
                "resume_c is {resume}, throttle_c {throttle} and temperature_limit_c {limit}; the first must be below the second, and that not above the third"
            ));
        }
        Ok(config)
    }

    fn resolve(settings: Settings, own: Option<BoardProfile>, root: &Path) -> Self {
        let board = match &own {
            Some(profile) => profile.name.clone(),
            None if settings.board == AUTO => {
                board::detect(root, std::env::consts::ARCH, || board::chips(root)).unwrap_or(BOARD).to_owned()
            }
            None => settings.board,
        };
        let profile = own.or_else(|| built_in(&board)).or_else(|| built_in(BOARD));
        let profile = profile.expect("the generic profile is built in, which a test holds");
        let bytes = |mb: u64| mb * limits::MIB as u64;
        // What the owner says of one bound moves those of the profile that he does not speak of.
        let temperature = &profile.temperature;
        let temperature_limit_c = settings.temperature_limit_c.unwrap_or(temperature.limit_c);
        let throttle_c = settings.throttle_c.unwrap_or(temperature.throttle_c.min(temperature_limit_c));
        let below = throttle_c.saturating_sub(temperature.throttle_c - temperature.resume_c);
        let resume_c = settings.resume_c.unwrap_or(temperature.resume_c.min(below));
        let storage_bytes = settings.storage_bytes.unwrap_or_else(|| bytes(profile.agent.storage_mb));
        Self {
            listen: settings.listen,
            socket_mode: settings.socket_mode,
            serial: settings.serial,
            keepalive_s: settings.keepalive_s,
            log: settings.log,
            log_bytes: settings.log_bytes.min(storage_bytes / LOG_PART),
            model_bytes: settings.model_bytes.unwrap_or_else(|| bytes(profile.model.release_mb)),
            disk_reserve_bytes: settings
                .disk_reserve_bytes
                .unwrap_or_else(|| bytes(profile.agent.disk_reserve_mb)),
            storage_bytes,
            probe_memory_bytes: settings.probe_memory_bytes.unwrap_or_else(|| bytes(profile.model.memory_mb)),
            models_memory_bytes: settings
                .models_memory_bytes
                .unwrap_or_else(|| profile.agent.models_memory_mb.map_or(0, bytes)),
            probe_timeout_s: settings.probe_timeout_s.unwrap_or(profile.model.probe_s),
            temperature_limit_c,
            throttle_c,
            resume_c,
            threads: settings.threads.unwrap_or(profile.agent.threads),
            nice: settings.nice.unwrap_or(profile.agent.nice),
            temperature_file: settings.temperature_file,
            passed_over: Vec::new(),
            folders: settings.folder,
            streams: settings.stream,
            board,
            profile,
        }
    }
}

impl Config {
    /// Bytes on the disk that everything but the log may take together. The log's whole bound is set aside for it: it
    /// grows at any time and asks nobody.
    pub fn storage_beside_log(&self) -> u64 {
        self.storage_bytes.saturating_sub(self.log_bytes)
    }

    /// Memory that all models and shadows may take together, in bytes, on a device that has so much; 0 for unknown.
    pub fn models_memory(&self, device_bytes: u64) -> u64 {
        match (self.models_memory_bytes, device_bytes) {
            (0, 0) => u64::MAX,
            (0, device) => (device / 2).max(self.probe_memory_bytes),
            (said, _) => said,
        }
    }
}

fn own_profile(path: &Path) -> Result<BoardProfile, String> {
    let wrong = |problem: String| format!("board_file {}: {problem}", path.display());
    let bytes = disk::read(path, limits::BOARD_PROFILE).map_err(|e| wrong(e.to_string()))?;
    let bytes = bytes.ok_or_else(|| wrong("there is no such file".to_owned()))?;
    let text = String::from_utf8(bytes).map_err(|e| wrong(e.to_string()))?;
    BoardProfile::parse(&text).map_err(|e| wrong(e.to_string()))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests fail by panicking")]
mod tests {
    use super::*;
    use std::fs;

    /// On a machine that nothing gives away.
    fn parse(text: &str) -> Result<Config, String> {
        at(text, tempfile::tempdir().unwrap().path())
    }

    fn at(text: &str, root: &Path) -> Result<Config, String> {
        let settings =
            Settings::parse(text, Path::new("/agent/results")).map_err(|mistake| mistake.to_string())?;
        Config::checked(settings.0, root)
    }

    #[test]
    fn the_documented_default_is_the_default() {
        assert_eq!(parse(DEFAULT), Ok(Config::default()));
        assert_eq!(parse(""), Ok(Config::default()));
        let setting = |line: &&str| line.split_once(" = ").is_some_and(|(key, _)| !key.contains(' '));
        let all = DEFAULT
            .lines()
            .map(|line| {
                line.strip_prefix("# ").filter(|rest| setting(rest) || rest.starts_with("[[")).unwrap_or(line)
            })
            .filter(|line| {
                !["board_file", "temperature_file", "serial"].iter().any(|of| line.starts_with(of))
            })
            .fold(String::new(), |all, line| all + line + "\n");
        let config = parse(&all).unwrap();
        let (folders, streams) = (config.folders.clone(), config.streams.clone());
        let rest = Config { folders: Vec::new(), streams: Vec::new(), ..config };
        assert_eq!(rest, Config::default(), "what is commented out is what holds");
        let least = parse(
            "[[folder]]\nname = \"parcels\"\npath = \"/var/spool/parcels\"\nmodel = \"parcels\"\noutput = \"/var/log/flotilla/parcels.jsonl\"\n\
             [[stream]]\nname = \"door\"\nmodel = \"people\"\nrate = 2\nurl = \"http://camera.local:8080/video\"\noutput = \"/var/log/flotilla/door.jsonl\"",
        );
        assert_eq!(
            least.map(|c| (c.folders, c.streams)),
            Ok((folders, streams)),
            "and so are the feeds' defaults"
        );
    }

    #[test]
    fn the_board_decides_what_its_owner_does_not() {
        let pi = parse("board = \"raspberry-pi-4\"\nprobe_timeout_s = 7").unwrap();
        assert_eq!((pi.board.as_str(), pi.model_bytes >> 20, pi.probe_timeout_s), ("raspberry-pi-4", 128, 7));
        assert_eq!(pi.temperature_limit_c, 85);
        let own = parse("board = \"one-of-mine\"").unwrap();
        assert_eq!((own.board.as_str(), own.profile.name.as_str()), ("one-of-mine", BOARD));

        let machine = tempfile::tempdir().unwrap();
        let tree = machine.path().join("proc/device-tree");
        fs::create_dir_all(&tree).unwrap();
        fs::write(tree.join("compatible"), "rockchip,rk3588\0").unwrap();
        assert_eq!(at("", machine.path()).unwrap().board, "rk3588");
        assert_eq!(at("board = \"generic\"", machine.path()).unwrap().board, BOARD);
    }

    #[test]
    fn one_bound_of_the_temperature_moves_those_that_are_not_given() {
        let bounds = |text: &str| parse(text).map(|c| (c.resume_c, c.throttle_c, c.temperature_limit_c));
        assert_eq!(
            bounds("temperature_limit_c = 85"),
            Ok((75, 85, 85)),
            "valid since before there was a throttle"
        );
        assert_eq!(bounds("throttle_c = 75"), Ok((65, 75, 95)));
        assert_eq!(bounds("resume_c = 60"), Ok((60, 90, 95)));
    }

    #[test]
    fn a_profile_of_ones_own_is_checked_like_a_built_in_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("board.toml");
        let setting = format!("board_file = {path:?}");
        assert!(parse(&setting).unwrap_err().contains("no such file"));
        let (_, text) = flotilla_protocol::board::BUILT_IN[0];
        fs::write(&path, text.replace("\"generic\"", "\"mine\"").replace("probe_s = 120", "probe_s = 9"))
            .unwrap();
        let config = parse(&setting).unwrap();
        assert_eq!((config.board.as_str(), config.probe_timeout_s), ("mine", 9));
        fs::write(&path, text.replace("probe_s = 120", "probe_s = 0")).unwrap();
        let problem = parse(&setting).unwrap_err();
        assert!(problem.contains("board.toml") && problem.contains("model.probe_s is 0"), "{problem}");
    }

    #[test]
    fn what_a_newer_agent_may_have_brought_is_refused_or_passed_over() {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::open(root.path()).unwrap();
        let door = "[[stream]]\nname = \"door\"\nmodel = \"people\"\nrate = 2\n";
        let parcels = "[[folder]]\nname = \"parcels\"\npath = \"/in\"\nmodel = \"parcels\"\n";
        let good = format!("{door}url = \"http://c/v\"\n");
        for (text, feeds, passed_over) in [
            ("later = { a = 1 }\n".to_owned(), 0, vec!["later"]),
            (format!("{good}zoom = 3\n"), 1, vec!["stream.0.zoom"]),
            (format!("{door}rtsp = \"rtsp://c\"\n{parcels}"), 1, vec!["exactly one of url and device"]),
            (
                format!("{}{good}", door.replace("door", "yard") + "url = \"rtsp://c/\"\n"),
                1,
                vec!["other schemes"],
            ),
            (format!("{parcels}done = \"archive\"\n{good}"), 1, vec!["archive"]),
            (format!("{good}{good}"), 1, vec!["two of this name"]),
            // Where a folder's lines go by themselves.
            (
                format!("{parcels}{good}output = {:?}\n", root.path().join("results/parcels.jsonl")),
                1,
                vec!["already"],
            ),
            ("folder = 3\n".to_owned(), 0, vec!["invalid type"]),
            ("board_file = \"/nowhere/board.toml\"\n".to_owned(), 0, vec!["no such file"]),
        ] {
            fs::write(root.path().join(CONFIG), format!("keepalive_s = 99\n{text}")).unwrap();
            assert!(Config::read(&folder).is_err(), "{text}");
            let config = Config::read_what_is_known(&folder).unwrap();
            assert_eq!(
                (config.keepalive_s, config.folders.len() + config.streams.len()),
                (99, feeds),
                "{text}"
            );
            assert_eq!(config.passed_over.len(), passed_over.len(), "{text}: {:?}", config.passed_over);
            for (said, word) in config.passed_over.iter().zip(passed_over) {
                assert!(said.contains(word), "{text}: {said}");
            }
        }
        // A value that no agent ever took is a mistake for each of them.
        fs::write(root.path().join(CONFIG), "keepalive_s = 0").unwrap();
        assert!(Config::read_what_is_known(&folder).is_err());
    }

    #[test]
    fn the_log_has_its_part_of_the_storage_and_the_rest_is_for_everything_else() {
        let of = |text: &str| parse(text).map(|c| (c.log_bytes, c.storage_beside_log())).unwrap();
        assert_eq!(of("storage_bytes = 160000000"), (4 << 20, 160_000_000 - (4 << 20)));
        assert_eq!(of("storage_bytes = 1600000"), (100_000, 1_500_000), "a sixteenth at most");
        assert_eq!(of("storage_bytes = 1600000\nlog_bytes = 0"), (0, 1_600_000));
    }

    #[test]
    fn all_models_together_have_what_is_said_or_half_of_the_device_and_one_fits_always() {
        let gib = 1 << 30;
        let of = |text: &str, device| parse(text).unwrap().models_memory(device);
        assert_eq!(of("", 8 * gib), 4 * gib);
        assert_eq!(of("", gib / 2), gib / 2, "a model of the board's may take as much");
        assert_eq!(of("", 0), u64::MAX);
        assert_eq!(of("models_memory_bytes = 70000000", 8 * gib), 70_000_000);
    }

    #[test]
    fn a_mistake_is_placed_without_telling_a_password() {
        let text = "keepalive_s = 99\n[[stream]]\nname = \"door\"\nurl = \"http://u:s3cret@camera/v\n";
        let problem = parse(text).unwrap_err();
        assert!(problem.starts_with("line 4, url: "), "{problem}");
        assert!(!problem.contains("s3cret"), "{problem}");
    }

    #[test]
    fn mistakes_are_named() {
        for (text, word) in [
            ("listen = \"0.0.0.0:80\"", "loopback"),
            ("keepalive_s = 0", "keepalive_s"),
            ("board = \"\"", "board"),
            ("log = 3", "log"),
            ("listen = \"unix:here\"", "absolute"),
            ("socket_mode = 0o1777", "socket_mode"),
            ("log_bytes = 65535", "log_bytes"),
            ("log_bytes = 268435457", "log_bytes"),
            ("threads = 257", "threads"),
            ("nice = 20", "nice"),
            ("temperature_file = \"temp\"", "absolute"),
            ("throttle_c = 60\nresume_c = 60", "resume_c is 60"),
            ("throttle_c = 120", "throttle_c 120"),
        ] {
            let problem = parse(text).err().unwrap_or_default();
            assert!(problem.contains(word), "{text}: {problem}");
        }
    }
}
