//! The conversation with one device over one connection.
//!
//! Whatever a device sends, the conversation goes on: what cannot be used is counted, kept as the device's last problem,
//! and logged once a connection.

use super::Core;
use super::fetches::Fetches;
use super::uploads::Uploads;
use crate::broker::{self, PeerIdentity};
use crate::ca::Serial;
use crate::cloned;
use crate::connections::Connection;
use crate::devices::{
    self, Examined, Health, ModelState, Problem, ReportHead, Traffic, Twin, sanitise, shadow,
};
use crate::error::{Error, Result};
use crate::ingest::Head;
use crate::renewal;
use crate::store::{self, ATTEMPTS};
use crate::text::bounded;
use crate::transfer::Refused;
use bytes::Bytes;
use flotilla_identity::now_ms;
use flotilla_protocol::message::{
    Ack, Fetch, Hello, Reply, ReplyBody, ReportStored, Reported, Request, RequestBody, Stream,
    TelemetryBatch, Upload,
};
use flotilla_protocol::topic::{Down, Up};
use flotilla_protocol::{DeviceId, ErrorCode, codec, limits};
use flotilla_storage::Batch;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// The protocol version that is spoken here.
const PROTOCOL: u16 = 1;
/// How often what a device got wrong, and when it was seen, is written down.
const FLUSH: Duration = Duration::from_secs(15);
/// A desired document that the device has not answered is sent again after this time, then after twice as long …
const RESEND: Duration = Duration::from_secs(30);
/// … and at least this often.
const RESEND_MAX: Duration = Duration::from_secs(15 * 60);
/// A desired document that could not be sent is tried again after this time.
const RETRY: Duration = Duration::from_secs(1);

/// A message of a device.
pub(super) struct Mail {
    pub(super) channel: Up,
    pub(super) payload: Bytes,
    /// Its share of the room for waiting messages.
    pub(super) room: OwnedSemaphorePermit,
}

/// A message that cannot be used.
struct Unusable {
    code: ErrorCode,
    detail: String,
}

impl Unusable {
    fn new(code: ErrorCode, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into() }
    }
}

/// The state of one conversation.
pub(super) struct Worker {
    core: Arc<Core>,
    device: DeviceId,
    /// The certificate with which the connection was opened.
    serial: Serial,
    connection: Arc<Connection>,
    stop: CancellationToken,
    /// The hello of this connection.
    hello: Option<Hello>,
    /// Streams of which this connection has seen a batch.
    streams: BTreeSet<Stream>,
    /// Version of the last report of this connection.
    report_version: Option<u64>,
    /// The desired version that the device has answered.
    answered: u64,
    /// When the desired document is sent again, and how long after the last time.
    resend: Option<(Instant, Duration)>,
    /// Whether that is the answer to its hello, whose turn has not come yet.
    queued: bool,
    fetches: Option<Fetches>,
    uploads: Option<Uploads>,
    /// What the device got wrong and is not written down yet.
    health: Health,
    warned: bool,
}

impl Worker {
    pub(super) fn new(
        core: Arc<Core>,
        peer: PeerIdentity,
        connection: Arc<Connection>,
        stop: CancellationToken,
    ) -> Self {
        Self {
            core,
            device: peer.device,
            serial: peer.serial,
            connection,
            stop,
            hello: None,
            streams: BTreeSet::new(),
            report_version: None,
            answered: 0,
            resend: None,
            queued: false,
            fetches: None,
            uploads: None,
            health: Health::default(),
            warned: false,
        }
    }

    /// Talks until the connection ends. A step that has begun is finished: storing is never cut off half-way.
    pub(super) async fn run(mut self, mut mail: mpsc::Receiver<Mail>) {
        let _ended = Ended {
            core: Arc::clone(&self.core),
            device: self.device.clone(),
            connection: Arc::clone(&self.connection),
        };
        let connection = Arc::clone(&self.connection);
        self.core.changes.device(&self.device);
        let mut flush = tokio::time::interval_at(Instant::now() + FLUSH, FLUSH);
        while !self.stop.is_cancelled() {
            let resend_at = self.resend.map(|(at, _)| at);
            let resend = async {
                match resend_at {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.stop.cancelled() => break,
                received = mail.recv() => match received {
                    Some(mail) => self.receive(mail).await,
                    None => break,
                },
                () = connection.desired.notified(), if self.hello.is_some() => self.send_desired().await,
                () = resend => self.send_desired().await,
                _ = flush.tick() => self.write_down().await,
            }
        }
        if let Some(fetches) = self.fetches.take() {
            fetches.stop().await;
        }
        if let Some(uploads) = self.uploads.take() {
            uploads.stop().await;
        }
        self.write_down().await;
    }

    async fn receive(&mut self, mail: Mail) {
        self.connection.received(mail.payload.len(), now_ms());
        let handled = match mail.channel {
            Up::Hello => self.on_hello(&mail.payload).await,
            _ if self.hello.is_none() => {
                Err(Unusable::new(ErrorCode::WrongState, "the first message of a connection is a hello"))
            }
            Up::Reported => self.on_reported(&mail.payload).await,
            Up::Telemetry | Up::Event => self.on_telemetry(mail.channel, &mail.payload).await,
            Up::Fetch => self.on_fetch(&mail.payload).await,
            Up::Request => self.on_request(&mail.payload).await,
            Up::Upload => self.on_upload(&mail.payload, mail.room).await,
        };
        if let Err(problem) = handled {
            self.unusable(mail.channel, problem);
        }
    }

    fn unusable(&mut self, channel: Up, problem: Unusable) {
        let Unusable { code, detail } = problem;
        let detail = bounded(&format!("{}: {detail}", channel.as_str()), 256);
        if !std::mem::replace(&mut self.warned, true) {
            tracing::warn!(device = %self.device, %code, detail, "a message cannot be used; further ones are counted");
        }
        self.health.refused_messages = self.health.refused_messages.saturating_add(1);
        self.health.last_problem = Some(Problem { at_ms: now_ms(), code, detail });
    }

    // === messages ===

    async fn on_hello(&mut self, payload: &[u8]) -> Result<(), Unusable> {
        let hello: Hello = decode(payload)?;
        if hello.protocol != PROTOCOL {
            let detail = format!("protocol {} is not spoken here, only {PROTOCOL}", hello.protocol);
            return Err(Unusable::new(ErrorCode::Unsupported, detail));
        }
        let repeated = self.hello.as_ref() == Some(&hello);
        self.report_version = None;
        self.answered = hello.desired_version;
        if !repeated {
            match self.store_hello(&hello).await {
                Ok(true) => {}
                // Retired or revoked between its admission and this moment: it gets no answer.
                Ok(false) => {
                    tracing::info!(device = %self.device, serial = %self.serial,
                        "a device said hello with a certificate that does not count any more");
                    self.core.downlink.disconnect(&self.core.project, &self.device);
                    let shown = cloned::shown(&self.core.store, &self.device, &self.serial, now_ms()).await;
                    shown.unwrap_or_else(|error| self.failed("its retired certificate", &error));
                    return Ok(());
                }
                Err(error) => self.failed("its hello", &error),
            }
            self.overtake(&hello).await.unwrap_or_else(|error| self.failed("its document's version", &error));
        }
        self.hello = Some(hello);
        self.core.changes.device(&self.device);
        match self.core.pace.wait(Instant::now()) {
            Duration::ZERO => self.send_desired().await,
            wait => (self.queued, self.resend) = (true, Some((Instant::now() + wait, RETRY))),
        }
        Ok(())
    }

    /// Takes the hello in, with all that follows from it in one commit. `false` if its certificate does not count any
    /// more.
    async fn store_hello(&self, hello: &Hello) -> Result<bool> {
        let (store, now_ms) = (&self.core.store, now_ms());
        for _ in 0..ATTEMPTS {
            let Some(found) = store.devices.get(self.device.as_str()).await? else { return Ok(false) };
            let (mut device, mut batch) = (found.value.clone(), Batch::new());
            if !device.accepts(&self.serial) {
                return Ok(false);
            }
            let (before, counter) = (device.hello_counter, hello.counter);
            if device.hello(hello, now_ms) {
                let detail = format!(
                    "hello counter {counter} after {before}: the device's folder may have been copied or restored"
                );
                let evidence = json!({ "counter": counter, "before": before });
                cloned::raise(store, &mut batch, &mut device, &detail, evidence, now_ms).await?;
            }
            let rotated = renewal::used(store, &mut batch, &mut device, &self.serial, now_ms).await?;
            store.devices.update(&mut batch, &found, &device)?;
            if store.try_commit(batch).await? {
                if rotated {
                    tracing::info!(device = %self.device, serial = %self.serial, "a device has a new certificate");
                }
                return Ok(true);
            }
        }
        Err(Error::Contended(format!("device {}", self.device)))
    }

    /// A device that knows a newer desired document than these records gets one that is newer still.
    async fn overtake(&self, hello: &Hello) -> Result<()> {
        let store = &self.core.store;
        let mut overtaken = false;
        store
            .modify(&store.twins, self.device.as_str().as_bytes(), |twin, _| {
                overtaken = twin.overtake(hello.desired_version, now_ms());
                Ok(overtaken)
            })
            .await?;
        if overtaken {
            tracing::warn!(device = %self.device, version = hello.desired_version,
                "the device knows a newer desired document than these records: they seem to come from a backup");
        }
        Ok(())
    }

    async fn on_reported(&mut self, payload: &[u8]) -> Result<(), Unusable> {
        let reported = sanitise(decode::<Reported>(payload)?)
            .map_err(|code| Unusable::new(code, "the report names too many models or commands"))?;
        if self.report_version.is_some_and(|last| reported.version <= last) {
            return Ok(());
        }
        match self.store_report(&reported).await {
            Ok(()) => {
                self.report_version = Some(reported.version);
                self.answered = self.answered.max(reported.desired_version);
            }
            // The device repeats its report until it is told that it is stored.
            Err(error) => self.failed("its report", &error),
        }
        Ok(())
    }

    /// The last report of this connection that is stored.
    fn reported(&self) -> Option<ReportStored> {
        let (hello, version) = (self.hello.as_ref()?, self.report_version?);
        Some(ReportStored { counter: hello.counter, version })
    }

    async fn store_report(&self, reported: &Reported) -> Result<()> {
        let (store, now_ms) = (&self.core.store, now_ms());
        let head = store.reports.get(self.device.as_str()).await?;
        let known = store::all(&store.models, &ModelState::prefix(&self.device)).await?;
        let known: BTreeMap<_, _> =
            known.into_iter().map(|known| (known.value.model.clone(), known)).collect();
        let mut batch = Batch::new();
        let new = ReportHead {
            device: Some(self.device.clone()),
            counter: self.hello.as_ref().map_or(0, |hello| hello.counter),
            version: reported.version,
            desired_version: reported.desired_version,
            at_ms: now_ms,
        };
        store::put(&store.reports, &mut batch, head.as_ref(), &new)?;
        let mut changes = BTreeMap::new();
        for (model, report) in &reported.models {
            let state =
                ModelState { device: self.device.clone(), model: model.clone(), report: report.clone() };
            let found = known.get(model);
            if found.is_none_or(|found| found.value != state) {
                store::put(&store.models, &mut batch, found, &state)?;
            }
            changes.insert(model, (found.map(|found| &found.value.report), Some(report)));
        }
        for (model, gone) in known.iter().filter(|(model, _)| !reported.models.contains_key(*model)) {
            store.models.delete(&mut batch, gone)?;
            changes.insert(model, (Some(&gone.value.report), None));
        }
        devices::note_runs(store, &mut batch, &self.device, changes, now_ms).await?;
        shadow::store_reports(store, &mut batch, &self.device, &reported.shadows).await?;
        store.commit(batch).await?;
        self.core.rollouts.hear(&self.device);
        self.core.changes.device(&self.device);
        if reported.commands.is_empty() {
            return Ok(());
        }
        let last = store.examined.get(self.device.as_str()).await?;
        let answer = |twin: &Twin, batch: &mut Batch| match Examined::answer(twin, &reported.commands, now_ms)
        {
            Some(examined) => store::put(&store.examined, batch, last.as_ref(), &examined),
            None => Ok(()),
        };
        if devices::finish(store, &self.device, &reported.commands, now_ms, answer).await? {
            self.core.connections.desired_changed(&self.device);
        }
        Ok(())
    }

    async fn on_telemetry(&mut self, channel: Up, payload: &[u8]) -> Result<(), Unusable> {
        let batch: TelemetryBatch = decode(payload)?;
        batch.check().map_err(|code| Unusable::new(code, "a batch is out of order or over its bound"))?;
        if (batch.stream == Stream::Event) != (channel == Up::Event) {
            return Err(Unusable::new(ErrorCode::Malformed, "a batch came on the topic of another stream"));
        }
        if self.hello.as_ref().is_none_or(|hello| hello.epoch != batch.epoch) {
            return Err(Unusable::new(ErrorCode::Malformed, "a batch is of another epoch than the hello"));
        }
        let stream = batch.stream;
        let head = if self.streams.contains(&stream) { Head::Follows } else { Head::Oldest };
        match self.core.ingest.store(&self.device, batch, head, now_ms()).await {
            Ok(stored) => {
                self.streams.insert(stream);
                let _ = self.publish(Down::Ack, &Ack { reported: self.reported(), ..stored.ack }).await;
                if stored.missing > 0 {
                    let detail = format!("{} records are missing without a word", stored.missing);
                    return Err(Unusable::new(ErrorCode::Malformed, detail));
                }
                if stored.refused > 0 {
                    let detail =
                        format!("{} records are over {} bytes", stored.refused, limits::TELEMETRY_RECORD);
                    return Err(Unusable::new(ErrorCode::TooLarge, detail));
                }
            }
            // Not acknowledged: the device keeps the records and sends them again.
            Err(error) => self.failed("its records", &error),
        }
        Ok(())
    }

    async fn on_fetch(&mut self, payload: &[u8]) -> Result<(), Unusable> {
        let fetch: Fetch = decode(payload)?;
        let fetches = match self.fetches.take().filter(|fetches| !fetches.is_over()) {
            Some(fetches) => fetches,
            None => {
                let (core, device) = (Arc::clone(&self.core), self.device.clone());
                Fetches::start(core, device, Arc::clone(&self.connection), self.stop.clone())
            }
        };
        let pushed = fetches.push(fetch);
        self.fetches = Some(fetches);
        if let Err(fetch) = pushed {
            let refused = Refused { code: ErrorCode::Busy, detail: "too many fetches at once".into() };
            let _ = self.publish(Down::Reply, &refused.reply(fetch.id)).await;
        }
        Ok(())
    }

    async fn on_request(&mut self, payload: &[u8]) -> Result<(), Unusable> {
        let request: Request = decode(payload)?;
        let body = match request.body {
            RequestBody::Desired => {
                // While its turn comes, asking does not make it sooner.
                if !self.queued {
                    self.send_desired().await;
                }
                ReplyBody::Ok
            }
            RequestBody::Trust { have } => self.next_trust(have).await,
            RequestBody::Certificate { csr_pem } => self.rotate(&csr_pem).await,
            RequestBody::Unknown => unsupported("this request is not known here"),
        };
        let _ = self.publish(Down::Reply, &Reply { id: request.id, body }).await;
        Ok(())
    }

    /// The trust file after the one that the device has: each is signed by the keys of the one before.
    async fn next_trust(&self, have: u64) -> ReplyBody {
        match self.core.registry.trust_after(have).await {
            Ok(Some(envelope)) => ReplyBody::Trust(envelope.to_vec()),
            Ok(None) => ReplyBody::Ok,
            Err(error) => {
                let error = Error::from(error);
                self.failed("a trust file", &error);
                ReplyBody::Error { code: error.code(), detail: error.to_string() }
            }
        }
    }

    /// A certificate over a new key, for the device of this connection and no other.
    async fn rotate(&self, csr_pem: &str) -> ReplyBody {
        let (store, authority) = (&self.core.store, &self.core.authority);
        match renewal::rotate(store, authority, &self.device, csr_pem, now_ms()).await {
            Ok(chain_pem) => ReplyBody::Certificate { chain_pem },
            Err(error) => {
                tracing::warn!(device = %self.device, code = %error.code(), %error, "no new certificate");
                ReplyBody::Error { code: error.code(), detail: bounded(&error.to_string(), limits::TEXT) }
            }
        }
    }

    async fn on_upload(&mut self, payload: &[u8], room: OwnedSemaphorePermit) -> Result<(), Unusable> {
        let upload: Upload = decode(payload)?;
        let id = upload.id;
        let uploads = match self.uploads.take().filter(|uploads| !uploads.is_over()) {
            Some(uploads) => uploads,
            None => {
                let (core, device) = (Arc::clone(&self.core), self.device.clone());
                Uploads::start(core, device, Arc::clone(&self.connection), self.stop.child_token())
            }
        };
        let pushed = uploads.push(upload, room);
        self.uploads = Some(uploads);
        if !pushed {
            let refused = Refused { code: ErrorCode::Busy, detail: "too many uploads at once".into() };
            let _ = self.publish(Down::Reply, &refused.reply(id)).await;
        }
        Ok(())
    }

    // === answers ===

    /// Signs the desired document as of now and sends it; again and again while the device does not answer.
    async fn send_desired(&mut self) {
        self.queued = false;
        let sent = self.try_send_desired().await;
        self.resend = match sent {
            Ok(version) if self.answered >= version => None,
            Ok(_) => {
                let pause = self.resend.map_or(RESEND, |(_, pause)| (pause * 2).clamp(RESEND, RESEND_MAX));
                Some((Instant::now() + pause, pause))
            }
            // The connection is over; the next one begins with a hello.
            Err(Error::Broker(broker::Error::NotConnected { .. })) => None,
            Err(error) => {
                self.failed("its desired document", &error);
                let pause = self.resend.map_or(RETRY, |(_, pause)| (pause * 2).min(RESEND_MAX));
                Some((Instant::now() + pause, pause))
            }
        };
    }

    async fn try_send_desired(&self) -> Result<u64> {
        let found = self.core.store.twins.get(self.device.as_str()).await?;
        let twin = found.ok_or_else(|| Error::DeviceMissing(self.device.clone()))?.value;
        let consents = devices::consents(&self.core.store, &self.device).await?;
        let document = twin.document(&self.core.project, consents, now_ms());
        let sealed = self.core.registry.seal_desired(&document)?;
        self.publish_bytes(Down::Desired, sealed).await?;
        Ok(twin.version)
    }

    async fn publish(&self, channel: Down, message: &impl Serialize) -> Result<(), broker::Error> {
        self.publish_bytes(channel, codec::encode(message).into()).await
    }

    async fn publish_bytes(&self, channel: Down, payload: Bytes) -> Result<(), broker::Error> {
        let size = payload.len();
        tokio::select! {
            // Only a shutdown or a newer connection stops a conversation: this one is over.
            () = self.stop.cancelled() => {
                let (project, device) = (self.core.project.clone(), self.device.clone());
                Err(broker::Error::NotConnected { project, device })
            }
            published = self.core.downlink.publish(&self.core.project, &self.device, channel, payload) => {
                published.inspect(|()| self.connection.sent(size))
            }
        }
    }

    // === bookkeeping ===

    fn failed(&self, what: &'static str, error: &Error) {
        tracing::error!(device = %self.device, what, code = %error.code(), %error, "a device cannot be served now");
    }

    /// Writes down when the device was last seen, what it got wrong and how much it talked.
    async fn write_down(&mut self) {
        let (store, seen_ms) = (&self.core.store, self.connection.last_seen_ms());
        let health = self.health.clone();
        let (new, traffic) = self.connection.uncounted();
        if new == Traffic::default() && health == Health::default() {
            return;
        }
        let written = store
            .modify(&store.devices, self.device.as_str().as_bytes(), |device, _| {
                device.last_seen_ms = device.last_seen_ms.max(Some(seen_ms));
                device.health.absorb(&health);
                device.traffic = device.traffic.plus(new);
                Ok(true)
            })
            .await;
        match written {
            Ok(_) => {
                self.health = Health::default();
                self.connection.counted(traffic);
            }
            Err(error) => self.failed("its health", &error),
        }
    }
}

/// Forgets the connection when its conversation ends, however it ends.
struct Ended {
    core: Arc<Core>,
    device: DeviceId,
    connection: Arc<Connection>,
}

impl Drop for Ended {
    fn drop(&mut self) {
        self.core.connections.end(&self.device, &self.connection);
        self.core.changes.device(&self.device);
    }
}

fn unsupported(detail: &str) -> ReplyBody {
    ReplyBody::Error { code: ErrorCode::Unsupported, detail: detail.into() }
}

fn decode<T: DeserializeOwned>(payload: &[u8]) -> Result<T, Unusable> {
    codec::decode(payload, limits::MQTT_PAYLOAD)
        .map_err(|error| Unusable::new(error.code(), error.to_string()))
}
