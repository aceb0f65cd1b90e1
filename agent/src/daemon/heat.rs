//! How hot the board is, and that predictions are slowed down while it is too hot.

use super::Daemon;
use flotilla_protocol::message::EventKind;

/// How often the temperature is read.
const READ_MS: u64 = 5_000;

impl Daemon {
    /// Reads the temperature when that is due, and slows predictions down or lets them go on.
    pub(super) fn feel_if_due(&mut self, now_ms: u64) {
        if now_ms < self.heat_due_ms {
            return;
        }
        self.heat_due_ms = now_ms + READ_MS;
        let celsius = self.sensors.temperature_c();
        let Some(hot) = self.throttle.read(celsius) else { return };
        self.host.throttle(hot);
        self.status_stale = true;
        let reading =
            celsius.map_or("the thermometer is gone".to_owned(), |c| format!("{c:.1} degrees Celsius"));
        let (kind, bound) = if hot {
            (EventKind::Throttled, format!("slow from {} on", self.options.config.throttle_c))
        } else {
            (EventKind::Cooled, format!("slow until below {}", self.options.config.resume_c))
        };
        self.event(kind, None, format!("{reading}; {bound}"));
    }
}
