//! What the device measures of itself.

use crate::folder::Folder;
use crate::npu::{Npus, Sources};
use flotilla_device::update::Vitals;
use flotilla_protocol::limits;
use flotilla_protocol::manifest::ENGINE_TRACT;
use flotilla_protocol::message::{BoardFacts, TelemetrySample};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use sysinfo::{Components, Networks, System};

/// The temperature that a file tells in thousandths of a degree Celsius.
pub fn celsius(file: &Path) -> Option<f32> {
    // What it names is the owner's word: a device or a huge file must not be read to its end.
    let mut text = String::new();
    fs::File::open(file).ok()?.take(32).read_to_string(&mut text).ok()?;
    text.trim().parse::<i32>().ok().map(|thousandths| thousandths as f32 / 1_000.0)
}

/// Reads the system's counters.
pub struct Sensors {
    system: Option<System>,
    thermometers: Option<Components>,
    thermometer: Option<PathBuf>,
    networks: Option<Networks>,
    npus: Npus,
}

impl Default for Sensors {
    fn default() -> Self {
        Self::new()
    }
}

impl Sensors {
    /// Sensors whose first CPU figure covers the time from now on.
    pub fn new() -> Self {
        let mut system = System::new().ok();
        if let Some(system) = &mut system {
            system.refresh_memory();
            system.refresh_cpu_usage();
        }
        Self {
            system,
            thermometers: Components::new_with_refreshed_list().ok(),
            thermometer: None,
            networks: Networks::new_with_refreshed_list().ok(),
            npus: Npus::new(Sources::default()),
        }
    }

    /// The same with the temperature from this file, in thousandths of a degree, as Linux' `thermal_zone*/temp` has it.
    pub fn with_thermometer(self, thermometer: Option<PathBuf>) -> Self {
        Self { thermometer, ..self }
    }

    /// What probation watches of the device.
    pub fn vitals(&mut self) -> Vitals {
        let temperature_c = self.temperature_c().map(|hottest| hottest.max(0.0) as u32);
        Vitals { memory_bytes: held_bytes(), temperature_c }
    }

    /// The highest temperature of the device, in degrees Celsius; that of the owner's file, if one is named.
    pub fn temperature_c(&mut self) -> Option<f32> {
        if let Some(file) = &self.thermometer {
            return celsius(file);
        }
        let all = self.thermometers.as_mut()?;
        all.refresh(false);
        all.iter().filter_map(|one| one.temperature()).filter(|t| t.is_finite()).reduce(f32::max)
    }

    /// Bytes in and out over all networks but the machine's own.
    fn traffic(&mut self) -> Option<(u64, u64)> {
        let all = self.networks.as_mut()?;
        all.refresh(true);
        let outside = all.iter().filter(|(name, _)| *name != "lo");
        Some(outside.fold((0, 0), |(received, sent): (u64, u64), (_, one)| {
            (received.saturating_add(one.total_received()), sent.saturating_add(one.total_transmitted()))
        }))
    }

    /// What the device is.
    pub fn board(&self, board: &str) -> BoardFacts {
        BoardFacts {
            board: board.to_owned(),
            engines: vec![ENGINE_TRACT.to_owned()],
            arch: std::env::consts::ARCH.to_owned(),
            cpus: std::thread::available_parallelism()
                .map_or(1, |n| u32::try_from(n.get()).unwrap_or(u32::MAX)),
            memory_bytes: self.memory_bytes(),
            os: System::long_os_version()
                .unwrap_or_else(|_| std::env::consts::OS.to_owned())
                .chars()
                .take(limits::ID)
                .collect(),
        }
    }

    /// Memory of the device; 0 for unknown.
    pub fn memory_bytes(&self) -> u64 {
        self.system.as_ref().map_or(0, System::total_memory)
    }

    /// The present state, without models.
    pub fn sample(&mut self, folder: &Folder, uptime_s: u64) -> TelemetrySample {
        let (cpu_percent, memory_used_bytes) = self.system.as_mut().map_or((0.0, 0), |system| {
            system.refresh_memory();
            system.refresh_cpu_usage();
            (system.global_cpu_usage(), system.used_memory())
        });
        let traffic = self.traffic();
        TelemetrySample {
            uptime_s,
            cpu_percent,
            memory_used_bytes,
            rss_bytes: rss_bytes().unwrap_or(0),
            disk_free_bytes: folder.free_bytes().unwrap_or(0),
            temperature_c: self.temperature_c(),
            throttled: false,
            received_bytes: traffic.map(|(received, _)| received),
            sent_bytes: traffic.map(|(_, sent)| sent),
            npus: self.npus.sample(),
            models: Default::default(),
            shadows: Default::default(),
        }
    }
}

/// Resident memory of this process; none where the system does not say.
pub fn rss_bytes() -> Option<u64> {
    status_bytes(&fs::read_to_string("/proc/self/status").ok()?, "VmRSS:")
}

/// Memory that this process made and holds, in RAM or swapped out. Pages of files, which the system takes back when it
/// likes, do not count.
fn held_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    Some(status_bytes(&status, "RssAnon:")? + status_bytes(&status, "VmSwap:").unwrap_or(0))
}

/// A figure of `/proc/self/status` (proc(5)).
fn status_bytes(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests fail by panicking")]
mod tests {
    use super::*;

    #[test]
    fn a_device_knows_its_own_figures() {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::open(root.path()).unwrap();
        let mut sensors = Sensors::new();
        let sample = sensors.sample(&folder, 3);
        assert_eq!(sample.uptime_s, 3);
        assert!(sample.rss_bytes > 0 && sample.disk_free_bytes > 0);
        assert!(sample.memory_used_bytes > 0 && sample.memory_used_bytes <= sensors.memory_bytes());
        assert!((0.0..=100.0).contains(&sample.cpu_percent));
        let held = sensors.vitals().memory_bytes.unwrap();
        let more = std::hint::black_box(vec![1u8; 64 << 20]);
        assert!(sensors.vitals().memory_bytes.unwrap() >= held + (32 << 20));
        drop(more);
        let board = sensors.board("generic");
        assert!(board.cpus > 0 && !board.os.is_empty());
    }
}
