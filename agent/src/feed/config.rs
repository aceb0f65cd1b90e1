//! `[[folder]]` and `[[stream]]` of `agent.toml`, checked as a whole before anything starts.

use flotilla_protocol::{ModelName, limits};
use http::Uri;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fmt;
use std::ops::RangeInclusive;
use std::path::{Component, Path, PathBuf};

/// Folders, and streams, of one device at most.
pub const MOST: usize = 16;
/// Frames that are predicted in a second.
const RATE: RangeInclusive<f64> = 0.001..=60.0;
/// Bytes of a file of results.
const OUTPUT_BYTES: RangeInclusive<u64> = 64 * limits::KIB as u64..=limits::MIB as u64 * 1024;
/// Milliseconds that a file rests before it is taken.
const SETTLE_MS: RangeInclusive<u64> = 0..=600_000;
/// Seconds without a frame.
const SILENCE_S: RangeInclusive<u64> = 1..=600;
/// Pixels a side that a camera may be asked for.
const SIDE: RangeInclusive<u32> = 16..=8_192;

/// What happens to a file once its line is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Done {
    /// It stays where it is.
    Keep,
    /// It goes into `done/` within the folder.
    #[default]
    Move,
    /// It is removed.
    Delete,
}

/// A folder whose files are predicted.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct FolderFeed {
    /// What it is called in status and messages.
    pub name: String,
    /// The folder.
    pub path: PathBuf,
    /// The model.
    pub model: ModelName,
    /// What happens to files whose line is written.
    #[serde(default)]
    pub done: Done,
    /// File of the results; `results/NAME.jsonl` in the agent's folder if not given.
    pub output: Option<PathBuf>,
    /// Bytes of the file of results, after which a new one begins; one old one is kept.
    #[serde(default = "output_bytes")]
    pub output_bytes: u64,
    /// Milliseconds that a file rests before it is taken.
    #[serde(default = "settle_ms")]
    pub settle_ms: u64,
    /// Largest file that is predicted, in bytes.
    #[serde(default = "max_bytes")]
    pub max_bytes: u64,
}

/// A camera whose frames are predicted.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct StreamFeed {
    /// What it is called in status and messages.
    pub name: String,
    /// The model.
    pub model: ModelName,
    /// Motion-JPEG over HTTP.
    pub url: Option<CameraUrl>,
    /// Or the node of a V4L2 camera.
    pub device: Option<PathBuf>,
    /// Columns that a V4L2 camera is asked for.
    #[serde(default = "width")]
    pub width: u32,
    /// Rows that a V4L2 camera is asked for.
    #[serde(default = "height")]
    pub height: u32,
    /// Frames that are predicted in a second at most.
    pub rate: f64,
    /// Seconds without a frame after which the camera is taken for lost.
    #[serde(default = "silence_s")]
    pub silence_s: u64,
    /// File of the results, if they are to be kept; the latest one is at `/streams` in any case.
    pub output: Option<PathBuf>,
    /// Bytes of the file of results, after which a new one begins; one old one is kept.
    #[serde(default = "output_bytes")]
    pub output_bytes: u64,
}

fn output_bytes() -> u64 {
    8 * limits::MIB as u64
}

fn settle_ms() -> u64 {
    500
}

fn max_bytes() -> u64 {
    limits::PREDICT_INPUT as u64
}

fn width() -> u32 {
    640
}

fn height() -> u32 {
    480
}

fn silence_s() -> u64 {
    10
}

/// The address of a camera. What is shown of it leaves out the query, which holds the password of many.
#[derive(Clone, PartialEq, Eq)]
pub struct CameraUrl(Uri);

impl CameraUrl {
    /// All of it, to ask with.
    pub fn uri(&self) -> &Uri {
        &self.0
    }
}

impl fmt::Display for CameraUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = self.0.authority().map_or("", |authority| authority.as_str());
        write!(f, "{host}{}", self.0.path())
    }
}

impl fmt::Debug for CameraUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CameraUrl({self})")
    }
}

impl<'de> Deserialize<'de> for CameraUrl {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse()
            .map(Self)
            .map_err(|_| serde::de::Error::custom("url is no address of the form http://HOST[:PORT]/PATH"))
    }
}

impl StreamFeed {
    /// Milliseconds between two frames that are predicted.
    pub fn period_ms(&self) -> u64 {
        ((1_000.0 / self.rate) as u64).max(1)
    }
}

impl FolderFeed {
    /// Where its results are, in a device's folder that keeps what its owner does not place elsewhere in `results`.
    pub fn output(&self, results: &Path) -> PathBuf {
        self.output.clone().unwrap_or_else(|| results.join(format!("{}.jsonl", self.name)))
    }
}

/// Where a file of results goes when it is full.
pub fn older(output: &Path) -> PathBuf {
    let mut name = OsString::from(output);
    name.push(".1");
    name.into()
}

/// Checks every bound, and that no two feeds are in each other's way. `results` is where results are that their owner does
/// not place elsewhere.
pub fn check(folders: &[FolderFeed], streams: &[StreamFeed], results: &Path) -> Result<(), String> {
    for (kind, count) in [("folder", folders.len()), ("stream", streams.len())] {
        if count > MOST {
            return Err(format!("there are {count} [[{kind}]]; {MOST} are possible"));
        }
    }
    let mut names = BTreeSet::new();
    // Each file of results takes the name of its older one, too.
    let mut outputs = BTreeMap::new();
    let mut common = |kind: &str, name: &String, output: Option<PathBuf>, bytes: u64| {
        let at = format!("[[{kind}]] {name:?}");
        ModelName::new(name.clone()).map_err(|_| {
            format!("{at}: name must have 1 to {} characters of a-z, 0-9, '-', '_' or '.'", limits::ID)
        })?;
        if !names.insert((kind.to_owned(), name.clone())) {
            return Err(format!("{at}: there are two of this name"));
        }
        within(&at, "output_bytes", bytes, &OUTPUT_BYTES, "bytes")?;
        let Some(output) = output else { return Ok(at) };
        for taken in [output.clone(), older(&output)] {
            if outputs.insert(taken.clone(), output.clone()).is_some() {
                let (output, taken) = (output.display(), taken.display());
                return Err(format!("{at}: output {output} is another feed's already: both write {taken}"));
            }
        }
        Ok(at)
    };
    for folder in folders {
        let at = common("folder", &folder.name, Some(folder.output(results)), folder.output_bytes)?;
        if let Some(output) = &folder.output {
            absolute(&at, "output", output)?;
        }
        absolute(&at, "path", &folder.path)?;
        within(&at, "settle_ms", folder.settle_ms, &SETTLE_MS, "ms")?;
        within(&at, "max_bytes", folder.max_bytes, &(1..=limits::PREDICT_INPUT as u64), "bytes")?;
    }
    for stream in streams {
        let at = common("stream", &stream.name, stream.output.clone(), stream.output_bytes)?;
        if let Some(output) = &stream.output {
            absolute(&at, "output", output)?;
        }
        if !RATE.contains(&stream.rate) {
            let (least, most) = (RATE.start(), RATE.end());
            return Err(format!(
                "{at}: rate is {}; {least} to {most} frames a second are possible",
                stream.rate
            ));
        }
        within(&at, "silence_s", stream.silence_s, &SILENCE_S, "s")?;
        within(&at, "width", stream.width, &SIDE, "pixels")?;
        within(&at, "height", stream.height, &SIDE, "pixels")?;
        match (&stream.url, &stream.device) {
            (Some(url), None) => check_url(&at, url.uri())?,
            (None, Some(device)) => absolute(&at, "device", device)?,
            _ => return Err(format!("{at}: exactly one of url and device is needed")),
        }
    }
    for folder in folders {
        let at = format!("[[folder]] {:?}", folder.name);
        // Its own lines would be taken for a file to predict; and whoever may write the folder could have a link lead
        // them elsewhere.
        if let Some(output) = outputs.values().find(|output| output.starts_with(&folder.path)) {
            return Err(format!("{at}: output {} lies in the folder itself", output.display()));
        }
        if folders.iter().filter(|other| other.path == folder.path).count() > 1 {
            return Err(format!("{at}: path {} is another folder's already", folder.path.display()));
        }
    }
    Ok(())
}

fn within<T: PartialOrd + fmt::Display>(
    at: &str,
    key: &str,
    value: T,
    range: &RangeInclusive<T>,
    unit: &str,
) -> Result<(), String> {
    if range.contains(&value) {
        return Ok(());
    }
    Err(format!("{at}: {key} is {value}; {} to {} {unit} are possible", range.start(), range.end()))
}

fn absolute(at: &str, key: &str, path: &Path) -> Result<(), String> {
    let plain = |part| matches!(part, Component::RootDir | Component::Normal(_));
    if path.is_absolute() && path.components().all(plain) {
        return Ok(());
    }
    Err(format!("{at}: {key} is {}; an absolute path without .. is needed", path.display()))
}

fn check_url(at: &str, url: &Uri) -> Result<(), String> {
    let Some(authority) = url.authority().filter(|_| url.scheme_str() == Some("http")) else {
        return Err(format!(
            "{at}: url must be of the form http://HOST[:PORT]/PATH; other schemes are not supported"
        ));
    };
    if authority.as_str().contains('@') {
        return Err(format!("{at}: url holds a user or password, which is not supported"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize)]
    struct Feeds {
        #[serde(default)]
        folder: Vec<FolderFeed>,
        #[serde(default)]
        stream: Vec<StreamFeed>,
    }

    fn parse(text: &str) -> Result<Feeds, String> {
        let feeds: Feeds = toml::from_str(text).map_err(|e| e.to_string())?;
        check(&feeds.folder, &feeds.stream, Path::new("/agent/results")).map(|()| feeds)
    }

    const FOLDER: &str = "[[folder]]\nname = \"in\"\npath = \"/in\"\nmodel = \"m\"\n";
    const STREAM: &str = "[[stream]]\nname = \"door\"\nmodel = \"m\"\nrate = 2\n";

    #[test]
    fn little_has_to_be_said() {
        let feeds =
            parse(&format!("{FOLDER}{STREAM}url = \"http://[::1]:80/video?x=1\"")).expect("good feeds");
        let folder = &feeds.folder[0];
        assert_eq!((folder.done, folder.settle_ms, folder.max_bytes), (Done::Move, 500, 16 << 20));
        assert_eq!((feeds.stream[0].period_ms(), feeds.stream[0].silence_s), (500, 10));
        assert!(parse(&format!("{STREAM}device = \"/dev/video0\"\nwidth = 320")).is_ok());
    }

    #[test]
    fn mistakes_name_the_feed_the_key_and_what_is_possible() {
        let url = "url = \"http://c/\"\n";
        for (text, words) in [
            (format!("{FOLDER}settle_ms = 600001"), "\"in\": settle_ms is 600001; 0 to 600000 ms"),
            (format!("{FOLDER}max_bytes = 0"), "max_bytes is 0; 1 to 16777216 bytes"),
            (format!("{FOLDER}output_bytes = 10"), "output_bytes is 10; 65536 to"),
            (format!("{FOLDER}done = \"burn\""), "burn"),
            (format!("{FOLDER}output = \"out\""), "output is out; an absolute path"),
            (format!("{FOLDER}output = \"/a/../in/x\""), "absolute path without .."),
            (format!("{FOLDER}output = \"/in/x.jsonl\""), "lies in the folder itself"),
            (format!("{FOLDER}output = \"/in/.mine/x.jsonl\""), "lies in the folder itself"),
            (FOLDER.replace("/in", "/agent"), "results/in.jsonl lies in the folder itself"),
            (format!("{FOLDER}{FOLDER}"), "two of this name"),
            (
                format!("{FOLDER}{}", FOLDER.replace("name = \"in\"", "name = \"b\"")),
                "is another folder's already",
            ),
            (FOLDER.replace("/in", "in"), "path is in; an absolute path"),
            (FOLDER.replace("name = \"in\"", "name = \"A b\""), "name must have"),
            (FOLDER.replace("model = \"m\"\n", ""), "model"),
            (FOLDER.replace("model = \"m\"", "model = \"M M\""), "model id"),
            (STREAM.to_owned(), "exactly one of url and device"),
            (format!("{STREAM}{url}device = \"/dev/video0\""), "exactly one of url and device"),
            (format!("{STREAM}url = \"rtsp://c/\""), "other schemes"),
            (format!("{STREAM}url = \"https://c/\""), "other schemes"),
            (format!("{STREAM}url = \"/video\""), "http://HOST"),
            (format!("{STREAM}url = \"http://me:secret@c/\""), "not supported"),
            (format!("{STREAM}url = \"ht tp\""), "url is no address"),
            (format!("{STREAM}device = \"video0\""), "device is video0"),
            (format!("{STREAM}{url}silence_s = 0"), "silence_s is 0; 1 to 600 s"),
            (format!("{STREAM}{url}width = 4"), "width is 4; 16 to 8192 pixels"),
            (
                format!("{STREAM}{url}").replace("rate = 2", "rate = 0"),
                "rate is 0; 0.001 to 60 frames a second",
            ),
            (format!("{STREAM}{url}").replace("rate = 2", "rate = nan"), "rate is NaN"),
            (format!("{STREAM}{url}").replace("rate = 2\n", ""), "rate"),
            (
                format!("{FOLDER}output = \"/out\"\n{STREAM}{url}output = \"/out\""),
                "output /out is another feed's already",
            ),
            (
                format!("{FOLDER}{STREAM}{url}output = \"/agent/results/in.jsonl\""),
                "\"door\": output /agent/results/in.jsonl is another feed's already",
            ),
            (
                format!("{FOLDER}output = \"/out\"\n{STREAM}{url}output = \"/out.1\""),
                "output /out.1 is another feed's already: both write /out.1",
            ),
            (
                format!("{FOLDER}output = \"/out.1\"\n{STREAM}{url}output = \"//out\""),
                "is another feed's already: both write",
            ),
        ] {
            let problem = parse(&text).err().unwrap_or_default();
            assert!(problem.contains(words) && !problem.contains("secret"), "{text}: {problem}");
        }
        let many: String = (0..=MOST)
            .map(|i| FOLDER.replace("\"in\"", &format!("\"in{i}\"")).replace("/in", &format!("/in{i}")))
            .collect();
        assert!(parse(&many).err().unwrap_or_default().contains("16 are possible"));
    }
}
