//! How hot the board is, and that predictions are slowed down while it is too hot.

use super::Daemon;
use crate::config::Config;
use crate::host::ModelHost;
use crate::sensors::Sensors;
use flotilla_device::throttle::Throttle;
use flotilla_protocol::ErrorCode;
use flotilla_protocol::message::EventKind;

/// How often the temperature is read.
const READ_MS: u64 = 5_000;

/// Slows predictions down, and lets them go on.
pub(super) struct Heat {
    throttle: Throttle,
    due_ms: u64,
}

impl Heat {
    pub(super) fn new(config: &Config) -> Self {
        Self { throttle: Throttle::new(config.throttle_c as f32, config.resume_c as f32), due_ms: 0 }
    }

    /// When the temperature is read next.
    pub(super) fn due_ms(&self) -> u64 {
        self.due_ms
    }

    pub(super) fn is_hot(&self) -> bool {
        self.throttle.is_hot()
    }

    /// Reads the temperature when that is due. Says whether the board is too hot from now on, if that changed, and what
    /// was read.
    pub(super) fn feel(
        &mut self,
        now_ms: u64,
        sensors: &mut Sensors,
        host: &ModelHost,
    ) -> Option<(bool, String)> {
        if now_ms < self.due_ms {
            return None;
        }
        self.due_ms = now_ms + READ_MS;
        let celsius = sensors.temperature_c();
        let hot = self.throttle.read(celsius)?;
        host.throttle(hot);
        let reading =
            celsius.map_or("the thermometer is gone".to_owned(), |c| format!("{c:.1} degrees Celsius"));
        tracing::warn!(hot, reading, "heat");
        Some((hot, reading))
    }
}

impl Daemon {
    pub(super) fn feel_if_due(&mut self, now_ms: u64) {
        let Some((hot, reading)) = self.heat.feel(now_ms, &mut self.sensors, &self.host) else { return };
        self.status_stale = true;
        let (kind, bound) = if hot {
            (EventKind::Throttled, format!("slow from {} on", self.options.config.throttle_c))
        } else {
            (EventKind::Cooled, format!("slow until below {}", self.options.config.resume_c))
        };
        self.event(kind, None, format!("{reading}; {bound}"));
    }

    /// Says so if the file that the owner named tells no temperature.
    pub(super) fn miss_thermometer(&mut self) {
        let Some(file) = self.options.config.temperature_file.clone() else { return };
        if self.sensors.temperature_c().is_none() {
            let detail =
                format!("temperature_file {} tells no temperature, so heat is not noticed", file.display());
            self.event(EventKind::Failed, Some(ErrorCode::NotFound), detail);
        }
    }
}
