//! The outbox in memory: the same order, bounds and numbers as on a real disk.

use super::Device;
use flotilla_device::outbox::{Outbox, StreamState};
use flotilla_protocol::message::{
    Ack, Epoch, EventKind, EventRecord, Record, RecordBody, Stream, TelemetryBatch, TelemetrySample,
};
use flotilla_protocol::topic::Up;
use flotilla_protocol::{Digest, ErrorCode, ModelName, codec, limits};
use rand::Rng;
use std::collections::VecDeque;

/// Bytes of records in one message; the rest of the payload is for its frame.
const MESSAGE: usize = limits::MQTT_PAYLOAD - 32 * limits::KIB;

/// The records of one device.
pub(super) struct Records {
    order: Outbox,
    lanes: [VecDeque<(usize, Record)>; 3],
}

fn lane(stream: Stream) -> usize {
    match stream {
        Stream::Event => 0,
        Stream::Live => 1,
        Stream::Backlog => 2,
    }
}

impl Records {
    pub(super) fn new(epoch: u64) -> Self {
        let [event, live, backlog] = [StreamState::default(); 3];
        Self { order: Outbox::new(Epoch(epoch), event, live, backlog), lanes: Default::default() }
    }

    pub(super) fn epoch(&self) -> Epoch {
        self.order.epoch()
    }

    pub(super) fn due_ms(&self) -> Option<u64> {
        self.order.due_ms()
    }

    pub(super) fn connected(&mut self) {
        self.order.connected();
    }

    pub(super) fn disconnected(&mut self) {
        self.order.disconnected();
    }

    fn append(&mut self, at_ms: u64, body: RecordBody) {
        let stream = match body {
            RecordBody::Event(_) => Stream::Event,
            RecordBody::Sample(_) => self.order.telemetry_stream(),
        };
        let record = Record { seq: self.order.stream(stream).next, at_ms, body };
        let bytes = codec::encode(&record).len();
        self.order.append(stream, bytes as u64);
        self.lanes[lane(stream)].push_back((bytes, record));
        while let Some(stream) = self.order.over() {
            let oldest = self.lanes[lane(stream)].pop_front();
            self.order.dropped_oldest(stream, oldest.map_or(0, |(bytes, _)| bytes as u64));
        }
    }

    /// The next message to send, if any.
    fn next(&mut self, now_ms: u64, random: u64) -> Option<(Up, Vec<u8>)> {
        let batch = self.order.next(now_ms)?;
        let mut last = batch.dropped.map_or(batch.from.saturating_sub(1), |dropped| dropped.last);
        let (mut records, mut room) = (Vec::new(), MESSAGE);
        for (bytes, record) in &self.lanes[lane(batch.stream)] {
            if record.seq >= batch.to || *bytes > room {
                break;
            }
            room -= bytes;
            last = record.seq;
            records.push(record.clone());
        }
        let dropped = batch.dropped.into_iter().collect();
        let message = TelemetryBatch { epoch: self.epoch(), stream: batch.stream, records, dropped };
        self.order.sent(batch.stream, last, now_ms, random);
        let up = if batch.stream == Stream::Event { Up::Event } else { Up::Telemetry };
        Some((up, codec::encode(&message)))
    }

    pub(super) fn ack(&mut self, ack: &Ack) {
        let Some(freed) = self.order.ack(ack) else { return };
        let kept = &mut self.lanes[lane(freed.stream)];
        let mut size = 0;
        while kept.front().is_some_and(|(_, record)| record.seq <= freed.last) {
            size += kept.pop_front().map_or(0, |(bytes, _)| bytes as u64);
        }
        self.order.freed(freed.stream, size);
    }
}

impl Device {
    pub(super) fn event(&mut self, kind: EventKind, code: Option<ErrorCode>, detail: String) {
        self.record_event(EventRecord { kind, model: None, release: None, code, detail });
    }

    pub(super) fn record_event(&mut self, event: EventRecord) {
        if matches!(event.kind, EventKind::Switched | EventKind::Confirmed | EventKind::Drift) {
            // People look now.
            self.run.sample_due_ms = self.clock.now_ms();
        }
        if let Some(code) = event.code.filter(|_| event.kind == EventKind::Failed) {
            self.world.figures.failed(code);
        }
        self.disk.records.append(self.clock.wall_ms(), RecordBody::Event(event));
    }

    /// Takes a sample at the cadence that the cloud wants, a faster one on probation.
    pub(super) fn sample_if_due(&mut self, now_ms: u64) {
        let settings = self.settings();
        let probation = self.run.models.values().any(|model| model.update.in_probation());
        let seconds =
            if probation { settings.probation_telemetry_interval_s } else { settings.telemetry_interval_s };
        let interval_ms = u64::from(seconds.max(1)) * 1_000;
        self.run.sample_due_ms = self.run.sample_due_ms.min(now_ms + interval_ms);
        if now_ms < self.run.sample_due_ms {
            return;
        }
        self.run.sample_due_ms = now_ms + interval_ms;
        let sample = TelemetrySample {
            uptime_s: now_ms / 1_000,
            cpu_percent: self.rng.random_range(5.0..30.0),
            memory_used_bytes: 400 * limits::MIB as u64,
            rss_bytes: self.rng.random_range(17..20) * limits::MIB as u64,
            disk_free_bytes: 4 * 1024 * limits::MIB as u64,
            models: self.figures_of_models(now_ms),
            ..TelemetrySample::default()
        };
        self.disk.records.append(self.clock.wall_ms(), RecordBody::Sample(sample));
    }

    /// Hands records to the link as far as their order allows.
    pub(super) fn send_records(&mut self, now_ms: u64) {
        if !self.run.session.is_up() {
            return;
        }
        while let Some((up, payload)) = self.disk.records.next(now_ms, self.rng.random()) {
            self.publish(up, payload);
        }
    }

    /// Drift becomes an event.
    pub(super) fn drifted(&mut self, model: &ModelName, release: Digest, milli: u32) {
        let detail = format!(
            "the simulated inputs are {:.2} from the training data (PSI)",
            f64::from(milli) / 1_000.0
        );
        let (model, release) = (Some(model.clone()), Some(release));
        self.record_event(EventRecord { kind: EventKind::Drift, model, release, code: None, detail });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(text: &str) -> RecordBody {
        RecordBody::Event(EventRecord {
            kind: EventKind::Started,
            model: None,
            release: None,
            code: None,
            detail: text.to_owned(),
        })
    }

    #[test]
    fn records_are_kept_until_the_cloud_has_them() {
        let mut records = Records::new(7);
        records.append(1, event("one"));
        records.append(2, event("two"));
        assert!(records.next(0, 0).is_none(), "there is no connection");
        records.connected();
        assert!(records.next(0, 0).is_some_and(|(up, _)| up == Up::Event));
        assert!(records.next(0, 0).is_none(), "one batch is on its way");
        records.disconnected();
        records.connected();
        assert!(records.next(0, 0).is_some(), "it is sent anew");
        records.ack(&Ack { epoch: Epoch(7), stream: Stream::Event, up_to: 2, reported: None });
        assert!(records.lanes.iter().all(VecDeque::is_empty));
        records.disconnected();
        records.connected();
        assert!(records.next(0, 0).is_none());
    }
}
