//! `agent.toml`: what the owner of a device decides about it. Every setting has a default, so the file is optional;
//! an unknown setting is an error.

use crate::folder::{CONFIG, Folder};
use crate::{Error, disk};
use flotilla_protocol::limits;
use serde::Deserialize;
use std::net::{Ipv4Addr, SocketAddr};

/// The default configuration, with what each setting means.
pub const DEFAULT: &str = r#"# Address of the local endpoint; loopback only. Port 0 takes any free port, written to run/endpoint.
listen = "127.0.0.1:0"
# Name of this device's board profile.
board = "generic"
# Seconds between signs of life on an idle connection.
keepalive_s = 240
# What is logged to standard error: error, warn, info, debug or trace; RUST_LOG overrides it.
log = "info"
# Largest release that may be stored, in bytes.
model_bytes = 268435456
# Bytes on the disk that a download leaves free.
disk_reserve_bytes = 16777216
# Memory that trying a candidate may take, and by which it may grow on probation, in bytes, where its release does not say.
probe_memory_bytes = 536870912
# Seconds that trying a candidate may take.
probe_timeout_s = 120
# Degrees Celsius; a new release that heats the device up beyond them is reverted.
temperature_limit_c = 95
"#;

/// What the owner of a device decides about it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Address of the local endpoint.
    pub listen: SocketAddr,
    /// Name of the board profile.
    pub board: String,
    /// Seconds between signs of life on an idle connection.
    pub keepalive_s: u16,
    /// Log filter.
    pub log: String,
    /// Largest release that may be stored, in bytes.
    pub model_bytes: u64,
    /// Bytes on the disk that a download leaves free.
    pub disk_reserve_bytes: u64,
    /// Memory that trying a candidate may take, and by which it may grow on probation, in bytes, where its release does
    /// not say.
    pub probe_memory_bytes: u64,
    /// Seconds that trying a candidate may take.
    pub probe_timeout_s: u64,
    /// Degrees Celsius beyond which a candidate on probation must not heat the device up.
    pub temperature_limit_c: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            board: "generic".to_owned(),
            keepalive_s: 240,
            log: "info".to_owned(),
            model_bytes: 256 * limits::MIB as u64,
            disk_reserve_bytes: 16 * limits::MIB as u64,
            probe_memory_bytes: 512 * limits::MIB as u64,
            probe_timeout_s: 120,
            temperature_limit_c: 95,
        }
    }
}

impl Config {
    /// Reads the folder's configuration, if it has one.
    pub fn read(folder: &Folder) -> Result<Self, Error> {
        let path = folder.path(CONFIG);
        let Some(bytes) = disk::read(&path, 64 * limits::KIB)? else { return Ok(Self::default()) };
        let wrong = |problem: String| Error::Config { path: path.clone(), problem };
        let text = String::from_utf8(bytes).map_err(|e| wrong(e.to_string()))?;
        Self::parse(&text).map_err(wrong)
    }

    fn parse(text: &str) -> Result<Self, String> {
        let config: Self = toml::from_str(text).map_err(|e| e.to_string().trim().replace('\n', " "))?;
        if !config.listen.ip().is_loopback() {
            return Err(format!("listen is {}, but the local endpoint is for loopback only", config.listen));
        }
        if config.board.is_empty() || config.board.len() > limits::ID {
            return Err(format!("board must have 1 to {} characters", limits::ID));
        }
        if config.keepalive_s < 5 {
            return Err("keepalive_s must be 5 at least".to_owned());
        }
        if config.probe_timeout_s == 0 {
            return Err("probe_timeout_s must be 1 at least".to_owned());
        }
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_default_is_the_default() {
        assert_eq!(Config::parse(DEFAULT), Ok(Config::default()));
        assert_eq!(Config::parse(""), Ok(Config::default()));
    }

    #[test]
    fn mistakes_are_named() {
        for (text, word) in [
            ("lissten = \"127.0.0.1:0\"", "lissten"),
            ("listen = \"0.0.0.0:80\"", "loopback"),
            ("keepalive_s = 0", "keepalive_s"),
            ("board = \"\"", "board"),
            ("log = 3", "log"),
        ] {
            let problem = Config::parse(text).err().unwrap_or_default();
            assert!(problem.contains(word), "{text}: {problem}");
        }
    }
}
