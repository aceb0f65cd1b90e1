//! Telemetry, events, and the document of the local endpoint's `/status`.

use super::Daemon;
use crate::host::{ModelHost, Served};
use crate::outbox::{Store, Unusable};
use crate::sensors::rss_bytes;
use flotilla_device::backoff::Backoff;
use flotilla_protocol::message::{EventKind, EventRecord, RecordBody};
use flotilla_protocol::{ErrorCode, ModelName};
use serde_json::{Value, json};
use std::sync::PoisonError;

/// Records kept in memory while the outbox cannot be used; beyond it the oldest are lost.
pub(super) const WAITING: usize = 256;
/// When an outbox that could not be used is opened anew.
const REOPEN: Backoff = Backoff { base_ms: 5_000, cap_ms: 300_000 };

impl Daemon {
    /// Keeps an event for the cloud.
    pub(super) fn record_event(&mut self, event: EventRecord) {
        match event.kind {
            EventKind::Failed | EventKind::Reverted | EventKind::Repaired | EventKind::Drift => {
                tracing::warn!(
                    kind = ?event.kind,
                    model = event.model.as_ref().map(tracing::field::display),
                    code = event.code.map(tracing::field::display),
                    detail = event.detail,
                    "event"
                )
            }
            _ => tracing::info!(
                kind = ?event.kind,
                model = event.model.as_ref().map(tracing::field::display),
                detail = event.detail,
                "event"
            ),
        }
        if matches!(event.kind, EventKind::Switched | EventKind::Confirmed | EventKind::Drift) {
            // People look now.
            self.sample_due_ms = self.clock.now_ms();
        }
        self.keep(RecordBody::Event(event));
    }

    fn keep(&mut self, body: RecordBody) {
        self.status_stale = true;
        self.waiting.push_back((self.clock.wall_ms(), body));
        self.store_waiting();
        if self.waiting.len() > WAITING {
            self.waiting.pop_front();
            self.records_lost += 1;
        }
    }

    fn store_waiting(&mut self) {
        while let (Some(outbox), Some((at_ms, body))) = (&mut self.outbox, self.waiting.front()) {
            match outbox.append(*at_ms, body.clone()) {
                Ok(kept) => {
                    self.waiting.pop_front();
                    if !kept {
                        self.records_lost += 1;
                        tracing::error!("a record is over its bound and is lost");
                    }
                }
                Err(error) => self.outbox_failed(&error),
            }
        }
    }

    /// A disk that fails once leaves the outbox unusable until it is opened anew.
    pub(super) fn outbox_failed(&mut self, error: &Unusable) {
        tracing::error!(%error, "the outbox is closed; it is opened anew later");
        self.outbox = None;
        let wait = REOPEN.delay_ms(self.outbox_tries, rand::random());
        self.outbox_tries += 1;
        self.outbox_due_ms = Some(self.clock.now_ms() + wait);
        self.status_stale = true;
    }

    /// Opens the outbox; what was recorded meanwhile goes into it.
    pub(super) fn open_outbox(&mut self) {
        self.outbox_due_ms = None;
        let (store, repaired) = match Store::open(&self.options.folder) {
            Ok(opened) => opened,
            Err(error) => return self.outbox_failed(&error),
        };
        self.outbox = Some(store);
        if let Some(why) = repaired {
            tracing::warn!(%why, "the outbox was damaged and is new");
            self.event(EventKind::Repaired, Some(ErrorCode::StorageCorrupt), format!("outbox: {why}"));
        }
        let lost = self.records_lost - self.records_lost_said;
        self.records_lost_said = self.records_lost;
        if lost > 0 {
            let detail = format!(
                "the outbox could not be used for a while, or they were over their bound: {lost} records are lost"
            );
            self.event(EventKind::Failed, Some(ErrorCode::StorageIo), detail);
        }
        self.store_waiting();
        if self.session.is_up() {
            // The hello names the outbox.
            self.lose_link();
        }
    }

    /// What is due now.
    pub(super) fn reopen_outbox_if_due(&mut self, now_ms: u64) {
        if self.outbox_due_ms.is_some_and(|at| now_ms >= at) {
            self.open_outbox();
        }
    }

    /// Takes a sample at the cadence that the cloud wants, a faster one on probation.
    pub(super) fn sample_if_due(&mut self, now_ms: u64) {
        let settings = self.settings();
        let probation = self.models.values().any(|model| model.update.in_probation());
        let seconds =
            if probation { settings.probation_telemetry_interval_s } else { settings.telemetry_interval_s };
        let interval_ms = u64::from(seconds.max(1)) * 1_000;
        self.sample_due_ms = self.sample_due_ms.min(now_ms + interval_ms);
        if now_ms < self.sample_due_ms {
            return;
        }
        self.sample_due_ms = now_ms + interval_ms;
        self.take_sample(now_ms);
    }

    /// Takes a sample at once.
    pub(super) fn sample_now(&mut self) {
        self.take_sample(self.clock.now_ms());
    }

    fn take_sample(&mut self, now_ms: u64) {
        let mut sample = self.sensors.sample(&self.options.folder, now_ms / 1_000);
        sample.throttled = self.heat.is_hot();
        sample.models = self.host.telemetry();
        sample.shadows = self.host.shadow_telemetry();
        self.keep(RecordBody::Sample(sample));
    }

    /// Hands records to the link as far as their order allows.
    pub(super) fn send_records(&mut self) {
        let now_ms = self.clock.now_ms();
        while let Some(outbox) = &mut self.outbox {
            match outbox.next(now_ms) {
                Ok(Some((up, payload))) => {
                    self.outbox_tries = 0;
                    self.publish_records(up, payload);
                }
                Ok(None) => return,
                // Damage is found out, and thrown away, when it is opened anew.
                Err(error) => self.outbox_failed(&error),
            }
        }
    }

    /// Renews what `/status` shows.
    pub(super) fn show_status(&mut self) {
        if !std::mem::take(&mut self.status_stale) {
            return;
        }
        let models: serde_json::Map<_, _> = self
            .models
            .iter()
            .map(|(name, model)| (name.to_string(), json!(model.update.report())))
            .collect();
        let problem =
            self.link_problem.as_ref().map(|(code, detail)| json!({ "code": code, "detail": detail }));
        let agent = self.agent_report();
        let document = json!({
            "agent": agent.version,
            "agent_slot": agent.slot,
            "agent_upgrade": agent.upgrade,
            "project": self.identity.names.project,
            "device": self.identity.names.device,
            "endpoint": self.endpoint.to_string(),
            "broker": self.identity.names.mqtt,
            "connected": self.session.is_up(),
            "connection_problem": problem,
            "clock_ahead_ms": self.clock_ahead_ms,
            "certificate": self.certificate_status(),
            "log": crate::logging::now(),
            "desired_version": self.accepted_version,
            "report_stored": self.session.report_is_stored(),
            "trust_version": self.trust.version,
            "models": models,
            "shadows": self.shadow_reports(),
            "serving": serving(&self.host),
            "records_waiting": self.outbox.as_ref().map(|outbox| outbox.waiting()),
            "records_made": self.outbox.as_ref().map(|outbox| outbox.made()),
            "records_dropped": self.outbox.as_ref().map(|outbox| outbox.dropped()),
            "records_in_memory": self.waiting.len(),
            "records_lost": self.records_lost,
            "throttled": self.heat.is_hot(),
            "rss_bytes": rss_bytes(),
            "pid": std::process::id(),
        });
        *self.status.lock().unwrap_or_else(PoisonError::into_inner) = document;
    }
}

/// What `/status` says of the models that serve.
pub(super) fn serving(host: &ModelHost) -> Value {
    let of = |(name, served): (ModelName, Served)| {
        (name.to_string(), json!({ "release": served.release, "slot": served.slot }))
    };
    Value::Object(host.all_served().into_iter().map(of).collect())
}
