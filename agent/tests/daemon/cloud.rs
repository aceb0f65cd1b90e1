//! A control plane small enough for a test: one TLS listener, one device at a time, MQTT packets by hand.

use bytes::BytesMut;
use flotilla_protocol::message::{
    Ack, Chunk, Command, Desired, DesiredModel, Epoch, EventKind, EventRecord, Fetch, HardExample,
    HardExamples, Hello, LogOffer, Record, RecordBody, Reply, ReplyBody, ReportStored, Reported, Request,
    RequestBody, Settings, ShadowRelease, Stream, TelemetryBatch, Upload,
};
use flotilla_protocol::signature::SigningKey;
use flotilla_protocol::topic::{Channel, Down, Topic, Up};
use flotilla_protocol::trust::KeySet;
use flotilla_protocol::{Digest, Envelope, EnvelopeKind, ErrorCode, ModelName, TrustFile, codec, limits};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData, SanType,
};
use rumqttc::{ConnAck, ConnectReturnCode, Packet, PubAck, Publish, QoS, SubAck, SubscribeReasonCode};
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ServerConfig, WebPkiClientVerifier};
use std::collections::{BTreeMap, VecDeque};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};

const PACKET: usize = limits::MQTT_PAYLOAD + 4 * limits::KIB;
/// How long a test waits for what must happen. It bounds a broken run and measures nothing.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) fn release_key() -> SigningKey {
    SigningKey::from_seed(&[21; 32])
}

pub(crate) fn control_key() -> SigningKey {
    SigningKey::from_seed(&[22; 32])
}

/// What the cloud knows and heard, and how it behaves.
#[derive(Default)]
pub(crate) struct State {
    pub(crate) objects: BTreeMap<Digest, Vec<u8>>,
    pub(crate) desired: Option<Vec<u8>>,
    /// The trust file that is given out next, once; later ones wait behind it.
    pub(crate) trust: Option<Vec<u8>>,
    pub(crate) later_trust: VecDeque<Vec<u8>>,
    pub(crate) hellos: Vec<Hello>,
    pub(crate) certificate_requests: Vec<String>,
    pub(crate) reported: Option<Reported>,
    /// The last report since the last hello.
    report: Option<ReportStored>,
    /// Whether acknowledgements leave out which report is stored, as those of an older control plane do.
    pub(crate) says_no_report: bool,
    pub(crate) records: Vec<Record>,
    /// Each record once, as an idempotent cloud keeps it.
    pub(crate) kept: BTreeMap<(Epoch, Stream, u64), Record>,
    /// Numbers that came with two contents.
    pub(crate) conflicts: u64,
    /// Batches of records, in the order in which they were published.
    pub(crate) batches: Vec<TelemetryBatch>,
    /// Acknowledgements of this stream are held back.
    pub(crate) hold: Option<Stream>,
    held: Vec<Ack>,
    /// Chunks that were asked for, by file.
    pub(crate) asked: BTreeMap<Digest, Vec<u64>>,
    /// Chunks of a content that go out with one byte changed before right ones do.
    pub(crate) spoil: BTreeMap<Digest, u32>,
    /// Chunks that went out changed: content and offset.
    pub(crate) spoiled: Vec<(Digest, u64)>,
    /// Chunks that still go out; then fetches are not answered.
    pub(crate) budget: Option<u32>,
    /// Whether records are acknowledged.
    pub(crate) deaf: bool,
    /// What was uploaded, as far as it has come.
    pub(crate) uploads: BTreeMap<Digest, Vec<u8>>,
    /// What was offered.
    pub(crate) examples: Vec<HardExample>,
    /// Logs that were offered, with their digests.
    pub(crate) logs: Vec<(LogOffer, Digest)>,
    /// Every message of an upload: file, offset and bytes of data.
    pub(crate) upload_pieces: Vec<(Digest, u64, usize)>,
    /// Bytes of all of them.
    pub(crate) upload_bytes: u64,
    /// Messages of uploads that are still taken and answered.
    pub(crate) uploads_left: Option<u32>,
    /// Whether the device may not connect.
    pub(crate) shut_out: bool,
    outgoing: Option<mpsc::UnboundedSender<(Down, Vec<u8>)>>,
}

/// The control plane of one device.
pub(crate) struct Cloud {
    root: Issuer<'static, KeyPair>,
    root_der: CertificateDer<'static>,
    root_pem: String,
    address: String,
    state: Arc<Mutex<State>>,
    changed: watch::Sender<u64>,
    task: Option<JoinHandle<()>>,
    version: u64,
    /// When documents say that they were signed, in milliseconds since 1970.
    pub(crate) issued_at_ms: u64,
    pub(crate) settings: Settings,
    pub(crate) models: BTreeMap<ModelName, DesiredModel>,
    pub(crate) commands: Vec<Command>,
    pub(crate) agent: Option<DesiredModel>,
    pub(crate) hard_examples: BTreeMap<ModelName, HardExamples>,
    pub(crate) shadows: BTreeMap<ModelName, ShadowRelease>,
}

impl Cloud {
    pub(crate) async fn start() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.distinguished_name.push(DnType::CommonName, "test root");
        let certificate = params.self_signed(&key).unwrap();
        let mut cloud = Self {
            root_der: certificate.der().clone(),
            root_pem: certificate.pem(),
            root: Issuer::new(params, key),
            address: String::new(),
            state: Arc::default(),
            changed: watch::Sender::new(0),
            task: None,
            version: 0,
            issued_at_ms: 1,
            settings: Settings { probation_s: 0, ..Settings::default() },
            models: BTreeMap::new(),
            commands: Vec::new(),
            agent: None,
            hard_examples: BTreeMap::new(),
            shadows: BTreeMap::new(),
        };
        cloud.listen("127.0.0.1:0").await;
        cloud
    }

    /// Stands where another control plane stood.
    pub(crate) async fn take_the_place_of(&mut self, other: &Self) {
        self.stop().await;
        let address = other.address.clone();
        self.listen(&address).await;
    }

    async fn listen(&mut self, address: &str) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = params.signed_by(&key, &self.root).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(self.root_der.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(clients.build().unwrap())
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
            )
            .unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind(address).await.unwrap();
        self.address = listener.local_addr().unwrap().to_string();
        let (state, changed) = (Arc::clone(&self.state), self.changed.clone());
        self.task = Some(tokio::spawn(async move {
            // They end with this task.
            let mut sessions = JoinSet::new();
            loop {
                let Ok((tcp, _)) = listener.accept().await else { return };
                let (acceptor, state, changed) = (acceptor.clone(), Arc::clone(&state), changed.clone());
                sessions.spawn(async move {
                    let Ok(stream) = acceptor.accept(tcp).await else { return };
                    let _ = session(stream, &state, &changed).await;
                });
            }
        }));
    }

    /// Goes away, connection and listener.
    pub(crate) async fn stop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
            let _ = task.await;
        }
        self.state().outgoing = None;
    }

    /// Takes the address of one that went away.
    pub(crate) async fn impersonate(&mut self, other: &Cloud) {
        self.stop().await;
        self.listen(&other.address).await;
    }

    /// Comes back at the same address.
    pub(crate) async fn resume(&mut self) {
        let address = self.address.clone();
        self.listen(&address).await;
    }

    /// Version of the document that was signed last.
    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// The root CA, PEM.
    pub(crate) fn root_pem(&self) -> &str {
        &self.root_pem
    }

    fn ca_hash(&self) -> Digest {
        Digest::of(&self.root.key().subject_public_key_info())
    }

    pub(crate) fn trust(&self, version: u64, floors: BTreeMap<ModelName, u64>) -> Envelope {
        self.trust_of(self.ca_hash(), version, floors)
    }

    pub(crate) fn trust_of(&self, ca: Digest, version: u64, floors: BTreeMap<ModelName, u64>) -> Envelope {
        let file = TrustFile {
            version,
            project: "default".parse().unwrap(),
            ca,
            release_keys: KeySet::single(release_key().public()),
            control_keys: KeySet::single(control_key().public()),
            min_release: floors,
            issued_at_ms: 1,
        };
        Envelope::seal(EnvelopeKind::Trust, &file, &[&release_key()])
    }

    /// Puts an identity into a folder as enrolment does.
    pub(crate) fn admit(&self, folder: &Path) {
        self.admit_until(folder, Duration::from_secs(365 * 24 * 3_600));
    }

    /// The same with a certificate that ends so long from now; 0 for one that ended yesterday.
    pub(crate) fn admit_until(&self, folder: &Path, left: Duration) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        let day = Duration::from_secs(24 * 3_600);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let at = |since: Duration| rcgen::date_time_ymd(1970, 1, 1) + since;
        (params.not_before, params.not_after) =
            (at(now - 2 * day), at(if left.is_zero() { now - day } else { now + left }));
        params.subject_alt_names = vec![SanType::URI("flotilla:default/gate-7".try_into().unwrap())];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&key, &self.root).unwrap();
        let identity = folder.join("identity");
        std::fs::create_dir_all(&identity).unwrap();
        std::fs::write(identity.join("key.pem"), key.serialize_pem()).unwrap();
        let private = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(identity.join("key.pem"), private).unwrap();
        std::fs::write(identity.join("cert.pem"), certificate.pem()).unwrap();
        std::fs::write(identity.join("ca.pem"), &self.root_pem).unwrap();
        let names = serde_json::json!({ "project": "default", "device": "gate-7", "mqtt": self.address });
        std::fs::write(identity.join("device.json"), names.to_string()).unwrap();
        let folder = flotilla_agent::folder::Folder::open(folder).unwrap();
        flotilla_agent::identity::store_trust(&folder, &self.trust(1, BTreeMap::new())).unwrap();
    }

    /// Signs the wanted state as a new version and sends it if the device is there.
    pub(crate) fn want(&mut self) -> Vec<u8> {
        self.version += 1;
        let bytes = self.document(self.version, &control_key());
        self.send_desired(bytes.clone());
        bytes
    }

    /// The wanted state as any version, by any key.
    pub(crate) fn document(&self, version: u64, key: &SigningKey) -> Vec<u8> {
        let desired = Desired {
            project: "default".parse().unwrap(),
            device: "gate-7".parse().unwrap(),
            version,
            issued_at_ms: self.issued_at_ms,
            models: self.models.clone(),
            settings: self.settings.clone(),
            commands: self.commands.clone(),
            agent: self.agent.clone(),
            hard_examples: self.hard_examples.clone(),
            shadows: self.shadows.clone(),
        };
        Envelope::seal(EnvelopeKind::Desired, &desired, &[key]).to_bytes()
    }

    pub(crate) fn send_desired(&self, bytes: Vec<u8>) {
        let mut state = self.state();
        if let Some(out) = &state.outgoing {
            // A device that went away this moment gets it after its next hello.
            let _ = out.send((Down::Desired, bytes.clone()));
        }
        state.desired = Some(bytes);
    }

    /// Sends any bytes on any of the device's topics.
    pub(crate) fn send(&self, down: Down, payload: Vec<u8>) {
        self.state().outgoing.as_ref().expect("the device is there").send((down, payload)).unwrap();
    }

    /// Sends what was held back, and holds nothing back any more.
    pub(crate) fn release(&self) {
        let mut state = self.state();
        state.hold = None;
        for ack in std::mem::take(&mut state.held) {
            state.outgoing.as_ref().unwrap().send((Down::Ack, codec::encode(&ack))).unwrap();
        }
    }

    pub(crate) fn put(&self, bytes: Vec<u8>) -> Digest {
        let digest = Digest::of(&bytes);
        self.state().objects.insert(digest, bytes);
        digest
    }

    /// Waits until the state is as it should be, and returns what the check gives.
    pub(crate) async fn until<T>(&self, what: &str, check: impl Fn(&State) -> Option<T>) -> T {
        let mut changed = self.changed.subscribe();
        let wait = async {
            loop {
                if let Some(found) = check(&self.state()) {
                    return found;
                }
                changed.changed().await.unwrap();
            }
        };
        match tokio::time::timeout(PATIENCE, wait).await {
            Ok(found) => found,
            Err(_) => panic!("{what} did not happen; last report: {:?}", self.state().reported),
        }
    }

    pub(crate) async fn until_event(&self, kind: EventKind) -> EventRecord {
        self.until(&format!("event {kind:?}"), |state| state.events().find(|e| e.kind == kind).cloned()).await
    }
}

impl Drop for Cloud {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

impl State {
    pub(crate) fn events(&self) -> impl Iterator<Item = &EventRecord> {
        self.records.iter().filter_map(|record| match &record.body {
            RecordBody::Event(event) => Some(event),
            RecordBody::Sample(_) => None,
        })
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap()
}

/// One connection. A later one of the same device ends it, as a broker does.
async fn session(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    state: &Mutex<State>,
    changed: &watch::Sender<u64>,
) -> std::io::Result<()> {
    let (outgoing, sends) = mpsc::unbounded_channel();
    let own = outgoing.downgrade();
    let ended = converse(stream, state, changed, Some(outgoing), sends).await;
    if own.upgrade().is_some() {
        lock(state).outgoing = None;
    }
    ended
}

async fn converse(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    state: &Mutex<State>,
    changed: &watch::Sender<u64>,
    mut outgoing: Option<mpsc::UnboundedSender<(Down, Vec<u8>)>>,
    mut sends: mpsc::UnboundedReceiver<(Down, Vec<u8>)>,
) -> std::io::Result<()> {
    let (mut incoming, mut number) = (BytesMut::new(), 0u16);
    loop {
        let mut answers = BytesMut::new();
        while let Ok(packet) = Packet::read(&mut incoming, PACKET) {
            match packet {
                Packet::Connect(connect) => {
                    let mut state = lock(state);
                    let code = match state.shut_out || connect.client_id != "gate-7" {
                        true => ConnectReturnCode::NotAuthorized,
                        false => ConnectReturnCode::Success,
                    };
                    ConnAck::new(code, false).write(&mut answers).unwrap();
                    state.outgoing = outgoing.take();
                }
                Packet::Subscribe(subscribe) => {
                    let codes = vec![SubscribeReasonCode::Success(QoS::AtLeastOnce); subscribe.filters.len()];
                    SubAck::new(subscribe.pkid, codes).write(&mut answers).unwrap();
                }
                Packet::Publish(publish) => {
                    PubAck::new(publish.pkid).write(&mut answers).unwrap();
                    take(&publish, state);
                }
                Packet::PingReq => {
                    Packet::PingResp.write(&mut answers, PACKET).unwrap();
                }
                Packet::Disconnect => return Ok(()),
                _ => {}
            }
        }
        stream.write_all(&answers).await?;
        stream.flush().await?;
        changed.send_modify(|count| *count += 1);
        tokio::select! {
            read = stream.read_buf(&mut incoming) => {
                if read? == 0 {
                    return Ok(());
                }
            }
            sent = sends.recv() => {
                let Some((down, payload)) = sent else { return Ok(()) };
                number = number.checked_add(1).unwrap_or(1);
                let topic = Topic::down(&"default".parse().unwrap(), &"gate-7".parse().unwrap(), down);
                let mut publish = Publish::new(topic.to_string(), QoS::AtLeastOnce, payload);
                publish.pkid = number;
                let mut bytes = BytesMut::new();
                publish.write(&mut bytes).unwrap();
                stream.write_all(&bytes).await?;
            }
        }
    }
}

fn take(publish: &Publish, state: &Mutex<State>) {
    let topic: Topic = publish.topic.parse().unwrap();
    let Channel::Up(up) = topic.channel else { panic!("a device published to {topic}") };
    let payload = &publish.payload;
    let mut state = lock(state);
    let mut answers: Vec<(Down, Vec<u8>)> = Vec::new();
    match up {
        Up::Hello => {
            state.hellos.push(codec::decode(payload, PACKET).unwrap());
            state.report = None;
            answers.extend(state.desired.clone().map(|desired| (Down::Desired, desired)));
        }
        Up::Reported => {
            let reported: Reported = codec::decode(payload, PACKET).unwrap();
            let counter = state.hellos.last().map(|hello| hello.counter);
            state.report = counter.map(|counter| ReportStored { counter, version: reported.version });
            state.reported = Some(reported);
        }
        Up::Telemetry | Up::Event => {
            let batch: TelemetryBatch = codec::decode(payload, PACKET).unwrap();
            batch.check().unwrap();
            let up_to = batch.records.last().map_or(0, |record| record.seq);
            for record in &batch.records {
                let key = (batch.epoch, batch.stream, record.seq);
                let first = state.kept.entry(key).or_insert_with(|| record.clone()) == record;
                state.conflicts += u64::from(!first);
            }
            let reported = state.report.filter(|_| !state.says_no_report);
            let ack = Ack { epoch: batch.epoch, stream: batch.stream, up_to, reported };
            state.records.extend(batch.records.iter().cloned());
            state.batches.push(batch);
            if state.hold == Some(ack.stream) {
                state.held.push(ack);
            } else if !state.deaf {
                answers.push((Down::Ack, codec::encode(&ack)));
            }
        }
        Up::Request => {
            let request: Request = codec::decode(payload, PACKET).unwrap();
            match request.body {
                RequestBody::Desired => answers.extend(state.desired.clone().map(|d| (Down::Desired, d))),
                RequestBody::Trust { .. } => {
                    let next = state.trust.take();
                    state.trust = state.later_trust.pop_front();
                    let body = next.map_or(ReplyBody::Ok, ReplyBody::Trust);
                    answers.push((Down::Reply, codec::encode(&Reply { id: request.id, body })));
                }
                RequestBody::Certificate { csr_pem } => state.certificate_requests.push(csr_pem),
                RequestBody::Unknown => {}
            }
        }
        Up::Fetch => {
            let fetch: Fetch = codec::decode(payload, PACKET).unwrap();
            assert_eq!(fetch.check(), Ok(()));
            answers.extend(chunks(&mut state, &fetch));
        }
        Up::Upload => {
            let upload: Upload = codec::decode(payload, PACKET).unwrap();
            assert_eq!(upload.check(), Ok(()));
            state.upload_bytes += payload.len() as u64;
            state.upload_pieces.push((upload.digest, upload.offset, upload.data.len()));
            if state.uploads_left != Some(0) {
                state.uploads_left = state.uploads_left.map(|left| left - 1);
                state.examples.extend(upload.example);
                state.logs.extend(upload.log.map(|log| (log, upload.digest)));
                let has = state.uploads.entry(upload.digest).or_default();
                if has.len() as u64 == upload.offset {
                    has.extend(&upload.data);
                }
                let body = ReplyBody::Stored { bytes: has.len() as u64 };
                answers.push((Down::Reply, codec::encode(&Reply { id: upload.id, body })));
            }
        }
    }
    if let Some(out) = &state.outgoing {
        for answer in answers {
            out.send(answer).unwrap();
        }
    }
}

fn chunks(state: &mut State, fetch: &Fetch) -> Vec<(Down, Vec<u8>)> {
    let Some(content) = state.objects.get(&fetch.digest).cloned() else {
        state.asked.entry(fetch.digest).or_default().push(fetch.offset);
        let body =
            ReplyBody::Error { code: ErrorCode::NotFound, detail: "the file cannot be read now".into() };
        return vec![(Down::Reply, codec::encode(&Reply { id: fetch.id, body }))];
    };
    let mut out = Vec::new();
    for index in 0..u64::from(fetch.chunks) {
        let offset = fetch.offset + index * limits::CHUNK as u64;
        state.asked.entry(fetch.digest).or_default().push(offset);
        if state.budget == Some(0) {
            continue;
        }
        state.budget = state.budget.map(|left| left - 1);
        let end = (offset as usize + limits::CHUNK).min(content.len());
        // Of a truncated file there may be nothing here.
        let mut data = content.get(offset as usize..end).unwrap_or_default().to_vec();
        if let Some(left) = state.spoil.get_mut(&fetch.digest).filter(|left| **left > 0) {
            *left -= 1;
            let middle = data.len() / 2;
            data[middle] ^= 1;
            state.spoiled.push((fetch.digest, offset));
        }
        let chunk = Chunk { digest: fetch.digest, offset, total: content.len() as u64, data };
        out.push((Down::Chunk, codec::encode(&chunk)));
    }
    out
}
