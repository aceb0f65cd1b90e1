//! Board profiles: what a device's hardware is, and what a model may cost there. One TOML file a board
//! (`firmware-configs/`, whose README explains every key); units stand in the names of the keys.

use crate::{ErrorCode, limits};
use serde::{Deserialize, Serialize};

/// The format that is read.
pub const FORMAT: u32 = 1;

/// The profiles that come with the platform: the name of the file, and its content.
pub const BUILT_IN: [(&str, &str); 10] = [
    ("generic", include_str!("../../../firmware-configs/generic.toml")),
    ("x86-64-gateway", include_str!("../../../firmware-configs/x86-64-gateway.toml")),
    ("raspberry-pi-4", include_str!("../../../firmware-configs/raspberry-pi-4.toml")),
    ("raspberry-pi-5", include_str!("../../../firmware-configs/raspberry-pi-5.toml")),
    ("jetson-orin-nano", include_str!("../../../firmware-configs/jetson-orin-nano.toml")),
    ("rk3588", include_str!("../../../firmware-configs/rk3588.toml")),
    ("atlas-200-dk", include_str!("../../../firmware-configs/atlas-200-dk.toml")),
    ("atlas-200i-dk-a2", include_str!("../../../firmware-configs/atlas-200i-dk-a2.toml")),
    ("atlas-500", include_str!("../../../firmware-configs/atlas-500.toml")),
    ("atlas-300i-x86", include_str!("../../../firmware-configs/atlas-300i-x86.toml")),
];

/// The built-in profile of this name.
pub fn built_in(name: &str) -> Option<BoardProfile> {
    let (_, text) = BUILT_IN.iter().find(|(built_in, _)| *built_in == name)?;
    // A test reads every one of them.
    BoardProfile::parse(text).ok()
}

/// A board profile.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BoardProfile {
    /// The format of the file.
    pub format: u32,
    /// The name that releases and `agent.toml` use.
    pub name: String,
    /// What people call it.
    pub title: String,
    /// Whether the figures were measured on the hardware; others come from documents.
    pub verified: bool,
    /// What it is made of.
    pub hardware: Hardware,
    /// What gives it away.
    #[serde(default)]
    pub detect: Detect,
    /// What a model may cost.
    pub model: ModelBudget,
    /// What the agent may take.
    pub agent: AgentBudget,
    /// When heat counts.
    pub temperature: Temperature,
    /// Its neural processing unit.
    #[serde(default)]
    pub npu: Option<Npu>,
}

/// What a board is made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hardware {
    /// `x86_64`, `aarch64`, or `any`.
    pub arch: String,
    /// Cores that the operating system sees.
    pub cpus: u32,
    /// Memory of its smallest variant, in MiB.
    pub memory_mb: u64,
    /// The highest clock of the cores that predict, in MHz; none where documents do not say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock_mhz: Option<u32>,
    /// Multiplications with an addition of 32-bit floats that one of them begins in a cycle.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub macs_per_cycle: Option<u32>,
}

/// What gives a board away. Any entry that matches does; a board without entries is never detected.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Detect {
    /// Entries of `/proc/device-tree/compatible`.
    pub device_tree: Vec<String>,
    /// Words of the product name of `/sys/class/dmi/id/product_name`.
    pub dmi_product: Vec<String>,
    /// Names of NPU chips, as `npu-smi` has them.
    pub npu_chips: Vec<String>,
}

/// What a model may cost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelBudget {
    /// Largest release, in MiB.
    pub release_mb: u64,
    /// Memory to load and run it, in MiB, where the release does not say.
    pub memory_mb: u64,
    /// Time for its probe, in seconds.
    pub probe_s: u64,
}

/// What the agent may take.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentBudget {
    /// Disk that downloads leave free, in MiB.
    pub disk_reserve_mb: u64,
    /// Disk for slots, records and the agent's own releases together, in MiB.
    pub storage_mb: u64,
    /// Memory that all models and shadows of a device may take together, in MiB; half of what the device has if it is not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub models_memory_mb: Option<u64>,
    /// Threads that predict; 0 for as many as there are cores.
    pub threads: u32,
    /// The nice level of the agent, from -20 to 19.
    pub nice: i32,
}

/// When heat counts, in degrees Celsius.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Temperature {
    /// From here on predictions are slowed down.
    pub throttle_c: u32,
    /// Below this they are not any more.
    pub resume_c: u32,
    /// A new release that heats the board up beyond this is reverted.
    pub limit_c: u32,
}

/// A neural processing unit. Models do not run on it yet; what it does is reported.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Npu {
    /// What `atc` calls it: `Ascend310`, `Ascend310B4`, …
    pub soc_version: String,
    /// Units on the board.
    pub count: u32,
    /// Whether its memory is the board's own, not to be added to it.
    pub shared_memory: bool,
}

/// Why a profile is not usable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BoardError {
    /// It cannot be read: a wrong key, a missing one, or a value of another kind.
    #[error("the board profile cannot be read: {0}")]
    Unreadable(String),
    /// A value is out of its range.
    #[error("{key} is {got}; {range} is possible")]
    Range {
        /// The key.
        key: &'static str,
        /// Its value.
        got: String,
        /// What is possible.
        range: String,
    },
}

impl BoardError {
    /// The stable code.
    pub fn code(&self) -> ErrorCode {
        ErrorCode::InvalidInput
    }
}

impl BoardProfile {
    /// Reads a profile of at most [`limits::BOARD_PROFILE`] bytes.
    pub fn parse(text: &str) -> Result<Self, BoardError> {
        if text.len() > limits::BOARD_PROFILE {
            let detail = format!("it has {} bytes; {} are possible", text.len(), limits::BOARD_PROFILE);
            return Err(BoardError::Unreadable(detail));
        }
        let profile: Self = toml::from_str(text)
            .map_err(|e| BoardError::Unreadable(e.to_string().trim().replace('\n', " ")))?;
        profile.check()?;
        Ok(profile)
    }

    fn check(&self) -> Result<(), BoardError> {
        let mib = 1 << 20;
        within("format", self.format, FORMAT, FORMAT)?;
        name("name", &self.name)?;
        text("title", &self.title)?;
        one_of("hardware.arch", &self.hardware.arch, &["x86_64", "aarch64", "any"])?;
        within("hardware.cpus", self.hardware.cpus, 1, 1_024)?;
        within("hardware.memory_mb", self.hardware.memory_mb, 64, 64 * mib)?;
        if let Some(clock) = self.hardware.clock_mhz {
            within("hardware.clock_mhz", clock, 100, 10_000)?;
        }
        if let Some(width) = self.hardware.macs_per_cycle {
            within("hardware.macs_per_cycle", width, 1, 256)?;
        }
        for (key, words) in [
            ("detect.device_tree", &self.detect.device_tree),
            ("detect.dmi_product", &self.detect.dmi_product),
            ("detect.npu_chips", &self.detect.npu_chips),
        ] {
            within(key, words.len(), 0, 32)?;
            words.iter().try_for_each(|word| text(key, word))?;
        }
        within("model.release_mb", self.model.release_mb, 1, 4_096)?;
        within("model.memory_mb", self.model.memory_mb, 8, self.hardware.memory_mb)?;
        within("model.probe_s", self.model.probe_s, 1, 3_600)?;
        within("agent.disk_reserve_mb", self.agent.disk_reserve_mb, 0, mib)?;
        // Two slots of the largest release, and as much beside it as records take.
        within("agent.storage_mb", self.agent.storage_mb, 2 * self.model.release_mb + 64, 64 * mib)?;
        if let Some(models) = self.agent.models_memory_mb {
            within("agent.models_memory_mb", models, self.model.memory_mb, self.hardware.memory_mb)?;
        }
        within("agent.threads", self.agent.threads, 0, 256)?;
        within("agent.nice", self.agent.nice, -20, 19)?;
        within("temperature.limit_c", self.temperature.limit_c, 40, 150)?;
        within("temperature.throttle_c", self.temperature.throttle_c, 30, self.temperature.limit_c)?;
        within("temperature.resume_c", self.temperature.resume_c, 20, self.temperature.throttle_c - 1)?;
        if let Some(npu) = &self.npu {
            name("npu.soc_version", &npu.soc_version)?;
            within("npu.count", npu.count, 1, 64)?;
        }
        Ok(())
    }
}

fn within<T: PartialOrd + std::fmt::Display>(
    key: &'static str,
    got: T,
    least: T,
    most: T,
) -> Result<(), BoardError> {
    if got >= least && got <= most {
        return Ok(());
    }
    let range = if least == most { format!("{least}") } else { format!("{least} to {most}") };
    Err(BoardError::Range { key, got: got.to_string(), range })
}

fn one_of(key: &'static str, got: &str, possible: &[&str]) -> Result<(), BoardError> {
    if possible.contains(&got) {
        return Ok(());
    }
    Err(BoardError::Range { key, got: format!("{got:?}"), range: possible.join(", ") })
}

fn text(key: &'static str, got: &str) -> Result<(), BoardError> {
    if (1..=limits::ID).contains(&got.len()) && !got.chars().any(char::is_control) {
        return Ok(());
    }
    let range = format!("a text of 1 to {} bytes", limits::ID);
    Err(BoardError::Range { key, got: format!("{got:?}"), range })
}

fn name(key: &'static str, got: &str) -> Result<(), BoardError> {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if text(key, got).is_ok() && got.chars().all(fits) {
        return Ok(());
    }
    let range = format!("1 to {} letters, digits, - and _", limits::ID);
    Err(BoardError::Range { key, got: format!("{got:?}"), range })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests fail by panicking")]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::{Path, PathBuf};

    fn folder() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../firmware-configs")
    }

    fn files(folder: &Path) -> BTreeSet<PathBuf> {
        let all = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        all.filter(|path| path.extension().is_some_and(|ending| ending == "toml")).collect()
    }

    #[test]
    fn every_profile_can_be_read_and_is_built_in_under_its_own_name() {
        let names: BTreeSet<String> = files(&folder())
            .iter()
            .map(|path| {
                let text = fs::read_to_string(path).unwrap();
                let profile =
                    BoardProfile::parse(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
                assert_eq!(path.file_stem().unwrap().to_str(), Some(profile.name.as_str()));
                assert_eq!(built_in(&profile.name), Some(profile.clone()));
                profile.name
            })
            .collect();
        assert_eq!(names, BUILT_IN.iter().map(|(name, _)| (*name).to_owned()).collect());
        assert_eq!(built_in("toaster"), None);
    }

    /// Each file says in its first line what must be said of it.
    #[test]
    fn bad_profiles_fail_with_the_key_and_what_is_possible() {
        let bad = files(&folder().join("bad"));
        assert!(bad.len() >= 8, "{bad:?}");
        for path in bad {
            let text = fs::read_to_string(&path).unwrap();
            let expected = text.lines().next().unwrap().trim_start_matches("# expected: ");
            let problem = BoardProfile::parse(&text).unwrap_err().to_string();
            assert!(problem.contains(expected), "{}: {problem}", path.display());
        }
        let long = format!("# {}", "x".repeat(limits::BOARD_PROFILE));
        assert!(BoardProfile::parse(&long).unwrap_err().to_string().contains("are possible"));
    }

    #[test]
    fn the_readme_explains_every_key() {
        let readme = fs::read_to_string(folder().join("README.md")).unwrap();
        let mut profile = built_in("atlas-200i-dk-a2").unwrap();
        (profile.hardware.clock_mhz, profile.hardware.macs_per_cycle) = (Some(1_000), Some(4));
        let value = toml::Value::try_from(profile).unwrap();
        let mut keys = Vec::new();
        for (key, value) in value.as_table().unwrap() {
            match value.as_table() {
                Some(table) => keys.extend(table.keys().map(|inner| format!("`{key}.{inner}`"))),
                None => keys.push(format!("`{key}`")),
            }
        }
        assert!(keys.len() > 20);
        for key in keys {
            assert!(readme.contains(&key), "{key} is not explained");
        }
    }
}
