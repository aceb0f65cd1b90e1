//! A control plane with everything real in it, and devices that speak the protocol over real connections.

use bytes::Bytes;
use flotilla_data::{Datasets, Quarantine};
use flotilla_fleet::ca::CertificateAuthority;
use flotilla_fleet::{ClaimRequest, DeviceView, Fleet, FleetConfig, FleetParts};
use flotilla_identity::{Actor, now_ms};
use flotilla_onnx::{Dim, GraphBuilder, Node, Value};
use flotilla_protocol::enrol::{ClaimCode, EnrolAnswer, EnrolRequest};
use flotilla_protocol::manifest::{Lineage, Metrics};
use flotilla_protocol::message::{
    Ack, BoardFacts, Chunk, Desired, DesiredModel, Epoch, Failure, Fetch, Hello, ModelReport, Phase, Reply,
    ReplyBody, Reported,
};
use flotilla_protocol::pipeline::{
    Activation, Classification, Colour, ImageInput, Input, Layout, Output, Resize,
};
use flotilla_protocol::topic::{Channel, Down, Topic, Up};
use flotilla_protocol::{
    DeviceId, Digest, Envelope, EnvelopeKind, ErrorCode, JobId, ModelName, Pipeline, ProjectId, TrustFile,
    codec, limits,
};
use flotilla_registry::{Keys, NewVersion, Registry, Release, ReleaseRequest, Source};
use flotilla_storage::{Objects, Records, SledRecords};
use rcgen::{CertificateParams, KeyPair};
use rumqttc::{AsyncClient, Event, EventLoop, MqttOptions, Packet, QoS, TlsConfiguration, Transport};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use serde::Serialize;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Ends a test that hangs; nothing is measured by it.
const HANG: Duration = Duration::from_secs(60);
/// How often an obedient device repeats its report.
const REPEAT: Duration = Duration::from_millis(250);

pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(HANG, future).await.expect("this does not hang")
}

pub(crate) fn project() -> ProjectId {
    ProjectId::new("default").unwrap()
}

pub(crate) fn device(name: &str) -> DeviceId {
    DeviceId::new(name).unwrap()
}

pub(crate) fn model(name: &str) -> ModelName {
    ModelName::new(name).unwrap()
}

pub(crate) struct Installation {
    pub(crate) fleet: Fleet,
    pub(crate) registry: Arc<Registry>,
    pub(crate) records: Arc<dyn Records>,
    pub(crate) objects: Objects,
    pub(crate) quarantine: Quarantine,
    pub(crate) admin: Actor,
}

impl Installation {
    pub(crate) async fn open(folder: &Path) -> Self {
        Self::try_open(folder, ([127, 0, 0, 1], 0).into()).await.unwrap()
    }

    pub(crate) async fn try_open(folder: &Path, listen: SocketAddr) -> Result<Self, flotilla_fleet::Error> {
        Self::open_with(folder, listen, Arc::new(SledRecords::open(&folder.join("records")).unwrap())).await
    }

    pub(crate) async fn open_with(
        folder: &Path,
        listen: SocketAddr,
        records: Arc<dyn Records>,
    ) -> Result<Self, flotilla_fleet::Error> {
        let objects = Objects::open(&folder.join("objects")).unwrap();
        let authority = CertificateAuthority::open_or_create(&folder.join("ca"), &project()).unwrap();
        let keys = Keys::open_or_create(&folder.join("keys")).unwrap();
        let registry =
            Registry::open(project(), records.clone(), objects.clone(), keys, authority.ca_hash(), now_ms());
        let registry = Arc::new(registry.await.unwrap());
        let datasets = Datasets::new(records.clone(), objects.clone());
        let quarantine =
            Quarantine::open(records.clone(), datasets, folder.join("hard"), now_ms()).await.unwrap();
        let parts = FleetParts {
            records: records.clone(),
            objects: objects.clone(),
            registry: registry.clone(),
            authority: Arc::new(authority),
            quarantine: quarantine.clone(),
        };
        let config =
            FleetConfig { listen, ..FleetConfig::local(folder.join("telemetry"), folder.join("logs")) };
        let fleet = Fleet::start(config, parts).await?;
        Ok(Self { fleet, registry, records, objects, quarantine, admin: Actor::administrator() })
    }

    pub(crate) async fn close(self) {
        self.fleet.shutdown().await;
        self.records.close().await.unwrap();
    }

    /// A release of a model whose file has several chunks.
    pub(crate) async fn release(&self, name: &str, gain: f32) -> Release {
        let version = NewVersion {
            quality: None,
            baseline: None,
            model: model(name),
            onnx: onnx(gain),
            pipeline: pipeline(),
            source: Source::Trained { job: JobId::new("job-1").unwrap() },
            metrics: Metrics { samples: 10, correct: 9, accuracy: 0.9, other: Default::default() },
            lineage: Lineage::default(),
            report: None,
            licence: None,
            samples: None,
        };
        self.registry.add_version(&self.admin, version, now_ms()).await.unwrap();
        let request = ReleaseRequest::newest(model(name), vec![Bytes::from_static(&[1, 2, 3, 4])]);
        self.registry.release(&self.admin, request, now_ms()).await.unwrap()
    }

    pub(crate) async fn enrol(&self, name: &str) -> Credentials {
        let request = ClaimRequest::plain(1, 60_000, "localhost:1".into());
        let (_, code) = self.fleet.create_claim(&self.admin, request).await.unwrap();
        self.enrol_with(&code, name).await
    }

    pub(crate) async fn enrol_with(&self, code: &ClaimCode, name: &str) -> Credentials {
        self.try_enrol(code, name, None).await.unwrap()
    }

    pub(crate) async fn try_enrol(
        &self,
        code: &ClaimCode,
        name: &str,
        serial: Option<&str>,
    ) -> Result<Credentials, flotilla_fleet::Error> {
        let key = KeyPair::generate().unwrap();
        let csr_pem = CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap();
        let request = EnrolRequest {
            secret: code.secret.clone(),
            csr_pem,
            device: Some(device(name)),
            board: BoardFacts::default(),
            serial: serial.map(|serial| serial.parse().unwrap()),
        };
        let answer = self.fleet.enrol(request).await?;
        Ok(Credentials { answer, key })
    }

    /// Enrols a device, connects it and says hello.
    pub(crate) async fn device(&self, name: &str) -> Device {
        let credentials = self.enrol(name).await;
        self.connect(&credentials, 1).await
    }

    pub(crate) async fn connect(&self, credentials: &Credentials, counter: u64) -> Device {
        let mut device = self.try_connect(credentials).await.unwrap();
        device.hello(counter, 0).await;
        device
    }

    pub(crate) async fn try_connect(
        &self,
        credentials: &Credentials,
    ) -> Result<Device, rumqttc::ConnectionError> {
        Device::connect(credentials, self.fleet.mqtt_addr()).await
    }

    /// Waits until a device looks as it should.
    pub(crate) async fn until(&self, name: &str, wanted: impl Fn(&DeviceView) -> bool) -> DeviceView {
        let mut changes = self.fleet.watch();
        soon(async {
            loop {
                let view = self.fleet.device(&device(name)).await.unwrap();
                if wanted(&view) {
                    return view;
                }
                // Whatever has changed, or was missed: look again.
                let _ = changes.recv().await;
            }
        })
        .await
    }
}

#[derive(Debug)]
pub(crate) struct Credentials {
    pub(crate) answer: EnrolAnswer,
    pub(crate) key: KeyPair,
}

impl Credentials {
    /// The same device with a later certificate.
    pub(crate) fn with(&self, key: KeyPair, certificate_pem: String) -> Self {
        Self { answer: EnrolAnswer { certificate_pem, ..self.answer.clone() }, key }
    }

    pub(crate) async fn connect(&self, address: SocketAddr) -> Result<Device, rumqttc::ConnectionError> {
        Device::connect(self, address).await
    }

    fn tls(&self) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.answer.ca_pem.as_bytes()).unwrap()).unwrap();
        let pem = self.answer.certificate_pem.as_bytes();
        let chain = CertificateDer::pem_slice_iter(pem).map(Result::unwrap).collect();
        let key = PrivateKeyDer::try_from(self.key.serialize_der()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .unwrap();
        Arc::new(config)
    }
}

/// A device on the wire. It is driven by its own calls and never reconnects.
pub(crate) struct Device {
    pub(crate) id: DeviceId,
    pub(crate) trust: TrustFile,
    client: AsyncClient,
    events: EventLoop,
    waiting: VecDeque<(Down, Bytes)>,
    report_version: u64,
    fetches: u64,
}

impl Device {
    async fn connect(
        credentials: &Credentials,
        address: SocketAddr,
    ) -> Result<Self, rumqttc::ConnectionError> {
        use base64::Engine;
        let id = credentials.answer.device.clone();
        let mut options = MqttOptions::new(id.as_str(), address.ip().to_string(), address.port());
        options.set_transport(Transport::Tls(TlsConfiguration::Rustls(credentials.tls())));
        options.set_keep_alive(Duration::from_secs(60));
        options.set_max_packet_size(512 * 1024, 512 * 1024);
        let (client, events) = AsyncClient::new(options, 64);
        let trust = base64::engine::general_purpose::STANDARD.decode(&credentials.answer.trust).unwrap();
        let trust = TrustFile::accept_first(&Envelope::from_bytes(&trust).unwrap()).unwrap();
        let waiting = VecDeque::new();
        let mut this = Self { id, trust, client, events, waiting, report_version: 0, fetches: 0 };
        this.packet(|packet| matches!(packet, Packet::ConnAck(_))).await?;
        for channel in Down::ALL {
            let topic = Topic::down(&project(), &this.id, *channel).to_string();
            this.client.try_subscribe(topic, QoS::AtLeastOnce).unwrap();
            this.packet(|packet| matches!(packet, Packet::SubAck(_))).await?;
        }
        Ok(this)
    }

    /// Waits for a packet; messages that come meanwhile wait for [`Device::receive`].
    async fn packet(&mut self, wanted: impl Fn(&Packet) -> bool) -> Result<(), rumqttc::ConnectionError> {
        loop {
            let Event::Incoming(packet) = soon(self.events.poll()).await? else { continue };
            if wanted(&packet) {
                return Ok(());
            }
            self.keep(packet);
        }
    }

    fn keep(&mut self, packet: Packet) {
        if let Packet::Publish(publish) = packet {
            let topic: Topic = publish.topic.parse().unwrap();
            assert_eq!(topic.device, self.id);
            let Channel::Down(channel) = topic.channel else { panic!("a down topic") };
            self.waiting.push_back((channel, publish.payload));
        }
    }

    /// Publishes and waits until the broker has it.
    pub(crate) async fn send_bytes(&mut self, channel: Up, payload: Vec<u8>) {
        let topic = Topic::up(&project(), &self.id, channel).to_string();
        self.client.try_publish(topic, QoS::AtLeastOnce, false, payload).unwrap();
        self.packet(|packet| matches!(packet, Packet::PubAck(_))).await.unwrap();
    }

    pub(crate) async fn send(&mut self, channel: Up, message: &impl Serialize) {
        self.send_bytes(channel, codec::encode(message)).await;
    }

    /// Publishes without waiting for anything.
    pub(crate) fn post(&mut self, channel: Up, message: &impl Serialize) {
        let topic = Topic::up(&project(), &self.id, channel).to_string();
        self.client.try_publish(topic, QoS::AtLeastOnce, false, codec::encode(message)).unwrap();
    }

    /// The next message on a channel. Others are kept.
    pub(crate) async fn receive(&mut self, channel: Down) -> Bytes {
        loop {
            if let Some(at) = self.waiting.iter().position(|(c, _)| *c == channel) {
                return self.waiting.remove(at).unwrap().1;
            }
            let Event::Incoming(packet) = soon(self.events.poll()).await.unwrap() else { continue };
            self.keep(packet);
        }
    }

    /// Waits until the broker ends the connection.
    pub(crate) async fn closed(&mut self) {
        self.packet(|_| false).await.unwrap_err();
    }

    pub(crate) async fn hello(&mut self, counter: u64, desired_version: u64) {
        self.send(Up::Hello, &self.hello_of(counter, desired_version)).await;
    }

    fn hello_of(&self, counter: u64, desired_version: u64) -> Hello {
        Hello {
            protocol: 1,
            agent: "test 1.0".into(),
            counter,
            epoch: Epoch(7),
            desired_version,
            trust_version: self.trust.version,
            board: BoardFacts { board: "test-board".into(), cpus: 4, ..BoardFacts::default() },
        }
    }

    /// Does at once whatever it is told, until the connection ends; `accepted` is the last document that it has believed.
    /// It repeats its report as the agent does, but sooner.
    pub(crate) async fn obey(
        &mut self,
        counter: u64,
        accepted: &mut u64,
    ) -> Result<(), rumqttc::ConnectionError> {
        self.post(Up::Hello, &self.hello_of(counter, *accepted));
        let (mut again, mut last) = (tokio::time::interval(REPEAT), None);
        loop {
            while let Some((channel, bytes)) = self.waiting.pop_front() {
                if channel == Down::Desired {
                    let desired: Desired = Envelope::from_bytes(&bytes)
                        .unwrap()
                        .open(EnvelopeKind::Desired, &self.trust.control_keys)
                        .unwrap();
                    // A device ignores what is older than what it has accepted.
                    if desired.version >= *accepted {
                        *accepted = desired.version;
                        self.report_version += 1;
                        last = Some(obedient(&desired, self.report_version));
                        self.post(Up::Reported, &last);
                    }
                }
            }
            tokio::select! {
                event = self.events.poll() => {
                    if let Event::Incoming(packet) = event? {
                        self.keep(packet);
                    }
                }
                _ = again.tick() => last.iter().for_each(|report| self.post(Up::Reported, report)),
            }
        }
    }

    /// The next desired document, believed only as a device believes it.
    pub(crate) async fn desired(&mut self) -> Desired {
        let bytes = self.receive(Down::Desired).await;
        let envelope = Envelope::from_bytes(&bytes).unwrap();
        let desired: Desired = envelope.open(EnvelopeKind::Desired, &self.trust.control_keys).unwrap();
        assert_eq!((&desired.device, &desired.project), (&self.id, &project()));
        desired
    }

    /// The next desired document that names a release of the model, or none of it.
    pub(crate) async fn desired_release(&mut self, name: &str, release: Option<Digest>) -> Desired {
        loop {
            let desired = self.desired().await;
            if desired.models.get(&model(name)).map(|m| m.release) == release {
                return desired;
            }
        }
    }

    pub(crate) async fn ack(&mut self) -> Ack {
        codec::decode(&self.receive(Down::Ack).await, 1000).unwrap()
    }

    pub(crate) async fn reply(&mut self) -> Reply {
        codec::decode(&self.receive(Down::Reply).await, limits::MQTT_PAYLOAD).unwrap()
    }

    pub(crate) async fn refusal(&mut self) -> ErrorCode {
        match self.reply().await.body {
            ReplyBody::Error { code, .. } => code,
            other => panic!("not a refusal but {other:?}"),
        }
    }

    /// Reports one model, in answer to a desired document.
    pub(crate) async fn report(&mut self, desired: &Desired, name: &str, report: ModelReport) {
        self.report_version += 1;
        let reported = Reported {
            version: self.report_version,
            desired_version: desired.version,
            models: [(model(name), report)].into(),
            commands: vec![],
            agent: None,
            shadows: Default::default(),
        };
        self.send(Up::Reported, &reported).await;
    }

    /// Runs what it should.
    pub(crate) async fn confirm(&mut self, desired: &Desired, name: &str) {
        let wanted = desired.models.get(&model(name));
        let report = ModelReport {
            phase: Phase::Confirmed,
            confirmed: wanted.map(|wanted| wanted.release),
            attempt: wanted.map_or(0, |wanted| wanted.attempt),
            ..ModelReport::default()
        };
        self.report(desired, name, report).await;
    }

    /// Cannot run what it should.
    pub(crate) async fn fail(&mut self, desired: &Desired, name: &str, code: ErrorCode) {
        let wanted = &desired.models[&model(name)];
        let failure = Failure { release: wanted.release, code, detail: "on purpose".into() };
        let report = ModelReport {
            phase: Phase::Failed,
            attempt: wanted.attempt,
            failure: Some(failure),
            ..ModelReport::default()
        };
        self.report(desired, name, report).await;
    }

    pub(crate) async fn fetch(&mut self, digest: Digest, offset: u64, chunks: u32) {
        self.fetches += 1;
        let fetch = Fetch { id: self.fetches, digest, offset, chunks };
        self.send(Up::Fetch, &fetch).await;
    }

    /// Downloads a whole file, a window of two chunks at a time.
    pub(crate) async fn download(&mut self, digest: Digest) -> Vec<u8> {
        let mut content = Vec::new();
        loop {
            self.fetch(digest, content.len() as u64, 2).await;
            for _ in 0..2 {
                let bytes = self.receive(Down::Chunk).await;
                let chunk: Chunk = codec::decode(&bytes, limits::MQTT_PAYLOAD).unwrap();
                assert_eq!((chunk.digest, chunk.offset), (digest, content.len() as u64));
                content.extend_from_slice(&chunk.data);
                if content.len() as u64 == chunk.total {
                    assert_eq!(Digest::of(&content), digest);
                    return content;
                }
            }
        }
    }
}

/// The report of a device that runs what it should.
fn obedient(desired: &Desired, version: u64) -> Reported {
    let confirmed = |wanted: &DesiredModel| ModelReport {
        phase: Phase::Confirmed,
        confirmed: Some(wanted.release),
        attempt: wanted.attempt,
        ..ModelReport::default()
    };
    Reported {
        version,
        desired_version: desired.version,
        models: desired.models.iter().map(|(name, wanted)| (name.clone(), confirmed(wanted))).collect(),
        commands: vec![],
        agent: None,
        shadows: Default::default(),
    }
}

pub(crate) fn pipeline() -> Pipeline {
    Pipeline::new(
        Input::Image(ImageInput {
            width: 2,
            height: 2,
            colour: Colour::Grey,
            resize: Resize::Exact,
            layout: Layout::Nchw,
            mean: vec![0.0],
            std: vec![1.0],
            ..ImageInput::none()
        }),
        Output::Classification(Classification::new(
            vec!["dark".into(), "bright".into()],
            Activation::Softmax,
        )),
    )
}

pub(crate) fn onnx(gain: f32) -> Bytes {
    let shape = [Dim::from("N"), Dim::from(1), Dim::from(2), Dim::from(2)];
    let graph = GraphBuilder::new("brightness")
        .input(Value::f32("x", shape))
        .output(Value::f32("y", [Dim::from("N"), Dim::from(2)]))
        .initializer_f32("w", &[2, 4], vec![-gain, -gain, -gain, -gain, gain, gain, gain, gain])
        .initializer_f32("b", &[2], vec![1.0, -1.0])
        .node(Node::new("Flatten", ["x"], ["flat"]).int("axis", 1))
        .node(Node::new("Gemm", ["flat", "w", "b"], ["y"]).int("transB", 1))
        .metadata("padding", "x".repeat(5 * limits::CHUNK + 17));
    graph.build().unwrap().write().into()
}
