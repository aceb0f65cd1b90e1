//! A conversation goes on whatever the broker, the records or a copy of the device get in its way.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use super::{Core, Dispatcher, Pace};
use crate::authority::DeviceAuthority;
use crate::broker::{self, Authority, Decision, Downlink, Inbound, PeerIdentity, Refusal};
use crate::ca::{CertificateAuthority, Serial};
use crate::changes::Changes;
use crate::connections::Connections;
use crate::devices::{Certificate, Device, ReportHead, Twin};
use crate::groups::Groups;
use crate::ingest::{DeviceEvents, Ingest};
use crate::logs::Logs;
use crate::renewal::{PendingRenewal, RenewalState};
use crate::rollout::Rollouts;
use crate::roster::Roster;
use crate::store::Store;
use crate::transfer::Transfers;
use async_trait::async_trait;
use bytes::Bytes;
use flotilla_data::{Datasets, Quarantine};
use flotilla_identity::audit;
use flotilla_protocol::message::{
    Ack, BoardFacts, Chunk, DesiredModel, Epoch, EventKind, Fetch, Hello, Record, RecordBody, Reply,
    ReplyBody, ReportStored, Reported, Request, RequestBody, Settings, Stream, TelemetryBatch,
    TelemetrySample,
};
use flotilla_protocol::topic::{Down, Up};
use flotilla_protocol::{DeviceId, Digest, ErrorCode, ProjectId, codec, limits};
use flotilla_registry::{Keys, Registry};
use flotilla_storage::{Batch, Collection, Objects, Records, Segments, SledRecords};
use serde::Serialize;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Ends a test that hangs; nothing is measured by it.
const HANG: Duration = Duration::from_secs(60);
/// Longer than two messages take on the slowest machine.
const TURN: Duration = Duration::from_secs(4);

/// A broker that answers chunks as it was told to.
struct Wire {
    chunks: Mutex<VecDeque<broker::Error>>,
    sent: mpsc::UnboundedSender<(Down, Bytes)>,
}

#[async_trait]
impl Downlink for Wire {
    async fn publish(
        &self,
        _: &ProjectId,
        _: &DeviceId,
        channel: Down,
        payload: Bytes,
    ) -> Result<(), broker::Error> {
        let refused = (channel == Down::Chunk).then(|| self.chunks.lock().unwrap().pop_front()).flatten();
        refused.map_or(Ok(()), Err)?;
        // The test may have seen enough.
        let _ = self.sent.send((channel, payload));
        Ok(())
    }

    fn disconnect(&self, _: &ProjectId, _: &DeviceId) {}

    fn is_connected(&self, _: &ProjectId, _: &DeviceId) -> bool {
        true
    }
}

/// A device that talks to a control plane over a [`Wire`].
struct Talk {
    _folder: tempfile::TempDir,
    records: Arc<dyn Records>,
    store: Arc<Store>,
    objects: Objects,
    wire: Arc<Wire>,
    sent: mpsc::UnboundedReceiver<(Down, Bytes)>,
    inbound: mpsc::Sender<Inbound>,
    dispatcher: JoinHandle<()>,
    project: ProjectId,
    device: DeviceId,
    connection: u64,
    fetches: u64,
}

impl Talk {
    async fn new() -> Self {
        Self::with(Pace::default()).await
    }

    async fn with(pace: Pace) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (project, device) = (ProjectId::new("shop").unwrap(), DeviceId::new("gate-7").unwrap());
        let records: Arc<dyn Records> = Arc::new(SledRecords::open(&folder.path().join("records")).unwrap());
        let objects = Objects::open(&folder.path().join("objects")).unwrap();
        let authority = CertificateAuthority::open_or_create(&folder.path().join("ca"), &project).unwrap();
        let keys = Keys::open_or_create(&folder.path().join("keys")).unwrap();
        let ca = authority.ca_hash();
        let registry = Registry::open(project.clone(), records.clone(), objects.clone(), keys, ca, 0);
        let registry = Arc::new(registry.await.unwrap());
        let (store, changes) = (Arc::new(Store::new(records.clone())), Changes::new());
        let segments = Segments::open(&folder.path().join("telemetry")).unwrap();
        let ingest = Ingest::open(store.clone(), segments, changes.clone()).await.unwrap();
        let connections = Arc::new(Connections::default());
        let transfers = Transfers::new(project.clone(), store.clone(), registry.clone(), objects.clone());
        let roster = Roster::open(store.clone(), registry.clone(), connections.clone(), &changes).await;
        let groups = Arc::new(Groups { store: store.clone(), roster: Arc::new(roster.unwrap()) });
        let rollouts = Rollouts {
            store: store.clone(),
            registry: registry.clone(),
            groups,
            connections: connections.clone(),
            changes: changes.clone(),
            wake: Default::default(),
            beginning: Default::default(),
            news: Default::default(),
            board: Default::default(),
        };
        let datasets = Datasets::new(records.clone(), objects.clone());
        let quarantine =
            Quarantine::open(records.clone(), datasets, folder.path().join("hard"), 0).await.unwrap();
        let (sender, sent) = mpsc::unbounded_channel();
        let wire = Arc::new(Wire { chunks: Mutex::default(), sent: sender });
        let core = Core {
            project: project.clone(),
            store: store.clone(),
            registry,
            authority: Arc::new(authority),
            connections,
            ingest: Arc::new(ingest),
            transfers: Arc::new(transfers),
            quarantine,
            logs: Arc::new(Logs::open(folder.path().join("logs"), store.clone()).await.unwrap()),
            rollouts: Arc::new(rollouts),
            changes,
            downlink: wire.clone(),
            pace,
        };
        let (inbound, events) = mpsc::channel(16);
        let dispatcher = tokio::spawn(Dispatcher::new(Arc::new(core)).run(events, CancellationToken::new()));
        let (connection, fetches) = (0, 0);
        Self {
            _folder: folder,
            records,
            store,
            objects,
            wire,
            sent,
            inbound,
            dispatcher,
            project,
            device,
            connection,
            fetches,
        }
    }

    /// A device with these certificates, of which the last has yet to be used if there are several.
    async fn enrol(&self, serials: &[Serial], twin: Twin) {
        let certificate = |serial: &Serial| Certificate {
            serial: serial.to_string(),
            key: Digest::of(serial.as_bytes()),
            not_after_ms: u64::MAX,
            unused: false,
        };
        let (first, later) = serials.split_first().unwrap();
        let (project, id) = (self.project.clone(), self.device.clone());
        let mut device =
            Device::enrolled(project, id, &BoardFacts::default(), certificate(first), "claim".into(), 0);
        later.iter().for_each(|serial| device.issue(certificate(serial)));
        let mut batch = Batch::new();
        self.store.devices.insert(&mut batch, &device).unwrap();
        self.store.twins.insert(&mut batch, &twin).unwrap();
        self.store.commit(batch).await.unwrap();
    }

    async fn stored(&self) -> Device {
        self.store.devices.get("gate-7").await.unwrap().unwrap().value
    }

    /// Events that say so, each with its audit record.
    async fn clones(&self) -> usize {
        let events = self.store.events.get("gate-7").await.unwrap().map(|found| found.value.events);
        let raised = events.iter().flatten().filter(|event| event.kind == EventKind::Cloned).count();
        let trail = audit::list(&*self.records, audit::Order::NewestFirst, None, 100).await.unwrap();
        assert_eq!(trail.iter().filter(|record| record.action == "device:cloned").count(), raised);
        raised
    }

    fn peer(&self, serial: Serial) -> Arc<PeerIdentity> {
        Arc::new(PeerIdentity { project: self.project.clone(), device: self.device.clone(), serial })
    }

    async fn connect(&mut self, serial: Serial) {
        self.connection += 1;
        let remote = ([127, 0, 0, 1], 1).into();
        let event = Inbound::Connected { peer: self.peer(serial), connection: self.connection, remote };
        self.inbound.send(event).await.unwrap();
    }

    async fn say(&self, serial: Serial, channel: Up, message: &impl Serialize) {
        let (peer, connection) = (self.peer(serial), self.connection);
        let payload = codec::encode(message).into();
        self.inbound.send(Inbound::Message { peer, connection, channel, payload }).await.unwrap();
    }

    /// Connects, says hello and waits for the answer.
    async fn hello(&mut self, serial: Serial, counter: u64, desired_version: u64) {
        self.connect(serial).await;
        let hello = Hello {
            protocol: 1,
            agent: "test 1.0".into(),
            counter,
            epoch: Epoch(7),
            desired_version,
            trust_version: 1,
            board: BoardFacts::default(),
        };
        self.say(serial, Up::Hello, &hello).await;
        self.receive(Down::Desired).await;
    }

    async fn report(&self, serial: Serial, version: u64) {
        let reported = Reported {
            version,
            desired_version: 0,
            models: BTreeMap::new(),
            commands: Vec::new(),
            agent: None,
            shadows: BTreeMap::new(),
        };
        self.say(serial, Up::Reported, &reported).await;
    }

    /// Which report is stored, as the acknowledgement of this record says.
    async fn stored_report(&mut self, serial: Serial, seq: u64) -> Option<ReportStored> {
        let record = Record { seq, at_ms: seq, body: RecordBody::Sample(TelemetrySample::default()) };
        let (epoch, stream) = (Epoch(7), Stream::Live);
        let batch = TelemetryBatch { epoch, stream, records: vec![record], dropped: Vec::new() };
        self.say(serial, Up::Telemetry, &batch).await;
        let ack: Ack = codec::decode(&self.receive(Down::Ack).await, limits::MQTT_PAYLOAD).unwrap();
        assert_eq!(ack.up_to, seq, "records are acknowledged all the same");
        ack.reported
    }

    async fn fetch(&mut self, serial: Serial, digest: Digest, chunks: u32) {
        self.fetches += 1;
        let fetch = Fetch { id: self.fetches, digest, offset: 0, chunks };
        self.say(serial, Up::Fetch, &fetch).await;
    }

    /// The next message on this channel; others are of no interest.
    async fn receive(&mut self, wanted: Down) -> Bytes {
        let receiving = async {
            loop {
                let (channel, payload) = self.sent.recv().await.unwrap();
                if channel == wanted {
                    return payload;
                }
            }
        };
        tokio::time::timeout(HANG, receiving).await.expect("this does not hang")
    }

    async fn chunk(&mut self) -> u64 {
        let chunk: Chunk = codec::decode(&self.receive(Down::Chunk).await, limits::MQTT_PAYLOAD).unwrap();
        chunk.offset
    }

    async fn refusal(&mut self) -> (u64, ErrorCode) {
        let reply: Reply = codec::decode(&self.receive(Down::Reply).await, limits::MQTT_PAYLOAD).unwrap();
        match reply.body {
            ReplyBody::Error { code, .. } => (reply.id, code),
            other => panic!("not a refusal but {other:?}"),
        }
    }

    async fn close(self) {
        drop(self.inbound);
        tokio::time::timeout(HANG, self.dispatcher).await.expect("this does not hang").unwrap();
    }
}

#[tokio::test]
async fn a_download_goes_on_after_the_broker_was_busy_for_once() {
    let mut talk = Talk::new().await;
    let serial = Serial::random().unwrap();
    let digest = talk.objects.put(Bytes::from(vec![7; 2 * limits::CHUNK])).await.unwrap();
    let mut twin = Twin::new(talk.device.clone(), Settings::default(), 0);
    let wanted = DesiredModel { release: digest, envelope_bytes: 1, attempt: 1 };
    twin.models.insert("digits".parse().unwrap(), wanted);
    talk.enrol(&[serial], twin).await;
    talk.hello(serial, 1, 0).await;

    let busy = || broker::Error::Busy { waited: Duration::ZERO };
    let slow = || broker::Error::DeviceBusy {
        project: ProjectId::new("shop").unwrap(),
        device: DeviceId::new("gate-7").unwrap(),
        waited: Duration::ZERO,
    };
    for (fetch, error) in [busy(), slow(), busy()].into_iter().enumerate() {
        talk.wire.chunks.lock().unwrap().push_back(error);
        talk.fetch(serial, digest, 2).await;
        assert_eq!(talk.refusal().await, (fetch as u64 + 1, ErrorCode::Busy), "the device is told");
    }
    talk.fetch(serial, digest, 2).await;
    assert_eq!([talk.chunk().await, talk.chunk().await], [0, limits::CHUNK as u64]);

    // A link that was cut for a moment ends what was asked for over it, and no more.
    let gone = broker::Error::NotConnected { project: talk.project.clone(), device: talk.device.clone() };
    talk.wire.chunks.lock().unwrap().push_back(gone);
    talk.fetch(serial, digest, 1).await;
    // Its end is answered by nobody, so only what was asked for before it may be lost.
    let taken = async {
        while !talk.wire.chunks.lock().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(HANG, taken).await.expect("this does not hang");
    talk.fetch(serial, digest, 1).await;
    assert_eq!(talk.chunk().await, 0);
    talk.close().await;
}

#[tokio::test]
async fn an_acknowledgement_names_the_report_that_is_stored_and_no_other() {
    let mut talk = Talk::new().await;
    let serial = Serial::random().unwrap();
    talk.enrol(&[serial], Twin::new(talk.device.clone(), Settings::default(), 0)).await;
    talk.hello(serial, 5, 0).await;
    assert_eq!(talk.stored_report(serial, 1).await, None, "there is none yet");
    talk.report(serial, 1).await;
    assert_eq!(talk.stored_report(serial, 2).await, Some(ReportStored { counter: 5, version: 1 }));

    let head = Collection::<ReportHead>::key("gate-7");
    let mut batch = Batch::new();
    batch.put(head.clone(), Bytes::from_static(b"rubbish"));
    talk.store.commit(batch).await.unwrap();
    talk.report(serial, 2).await;
    let first = Some(ReportStored { counter: 5, version: 1 });
    assert_eq!(talk.stored_report(serial, 3).await, first, "the second could not be stored");
    let mut batch = Batch::new();
    batch.delete(head);
    talk.store.commit(batch).await.unwrap();
    talk.report(serial, 3).await;
    assert_eq!(talk.stored_report(serial, 4).await, Some(ReportStored { counter: 5, version: 3 }));

    talk.hello(serial, 6, 0).await;
    assert_eq!(talk.stored_report(serial, 5).await, None, "each connection has its own reports");
    talk.close().await;
}

#[tokio::test]
async fn a_sign_of_a_copy_that_could_not_be_stored_is_raised_at_the_next_hello_and_holds_nothing_up() {
    let mut talk = Talk::new().await;
    let (old, new) = (Serial::random().unwrap(), Serial::random().unwrap());
    talk.enrol(&[old, new], Twin::new(talk.device.clone(), Settings::default(), 0)).await;
    talk.hello(old, 5, 1).await;
    let renewal = PendingRenewal {
        device: talk.device.clone(),
        key: Digest::of(new.as_bytes()),
        asked_at_ms: 0,
        decision: RenewalState::Pending,
    };
    let events = Collection::<DeviceEvents>::key("gate-7");
    let mut batch = Batch::new();
    batch.put(events.clone(), Bytes::from_static(b"rubbish"));
    talk.store.renewals.insert(&mut batch, &renewal).unwrap();
    talk.store.commit(batch).await.unwrap();

    talk.hello(new, 5, 40).await;
    let device = talk.stored().await;
    assert_eq!((device.health.repeated_hellos, device.health.raised_ms), (1, None));
    assert_eq!(device.certificates.len(), 1, "the new certificate has taken over");
    assert_eq!(talk.store.renewals.get("gate-7").await.unwrap().map(|found| found.value), None);
    let twin = talk.store.twins.get("gate-7").await.unwrap().unwrap().value;
    assert!(twin.version > 40, "records from a backup are overtaken");

    let mut batch = Batch::new();
    batch.delete(events);
    talk.store.commit(batch).await.unwrap();
    talk.hello(new, 5, 41).await;
    assert_eq!(talk.clones().await, 1);
    talk.hello(new, 5, 41).await;
    assert_eq!(talk.clones().await, 1, "once in a while");
    talk.close().await;
}

#[tokio::test]
async fn a_copy_that_lost_the_race_to_rotate_is_noticed_when_it_shows_the_retired_certificate() {
    let mut talk = Talk::new().await;
    let (old, new) = (Serial::random().unwrap(), Serial::random().unwrap());
    talk.enrol(&[old, new], Twin::new(talk.device.clone(), Settings::default(), 0)).await;
    talk.hello(old, 1, 1).await;
    talk.hello(new, 2, 1).await;
    let authority = DeviceAuthority { project: talk.project.clone(), store: talk.store.clone() };
    let refused = Decision::Refuse(Refusal::Revoked);
    // The answer to the hello may have been lost: an honest device tries the old one once more.
    assert_eq!(authority.connect(&talk.peer(old)).await, refused);
    assert_eq!(talk.clones().await, 0);

    let settled = talk.stored().await.retired[0].at_ms + 60_000;
    let heard = |device: &mut Device, _: &mut Batch| {
        device.last_seen_ms = Some(settled);
        Ok(true)
    };
    talk.store.modify(&talk.store.devices, b"gate-7", heard).await.unwrap();
    assert_eq!(authority.connect(&talk.peer(Serial::random().unwrap())).await, refused);
    assert_eq!(talk.clones().await, 0, "a certificate that was never the device's says nothing of it");
    for _ in 0..3 {
        assert_eq!(authority.connect(&talk.peer(old)).await, refused);
        assert_eq!(talk.clones().await, 1, "once in a while");
    }
    assert_eq!(talk.stored().await.health.last_problem.unwrap().code, ErrorCode::Replayed);
    assert_eq!(authority.connect(&talk.peer(new)).await, Decision::Allow, "nobody is locked out");
    talk.close().await;
}

#[tokio::test]
async fn devices_that_come_back_all_at_once_are_answered_one_after_the_other_and_asking_again_changes_nothing()
 {
    let mut talk = Talk::with(Pace::every(TURN, 1)).await;
    let serial = Serial::random().unwrap();
    talk.enrol(&[serial], Twin::new(talk.device.clone(), Settings::default(), 0)).await;
    let begun = tokio::time::Instant::now();
    talk.hello(serial, 1, 0).await;
    // The second hello so soon waits for its turn.
    talk.connect(serial).await;
    let hello = Hello {
        protocol: 1,
        agent: "test 1.0".into(),
        counter: 2,
        epoch: Epoch(7),
        desired_version: 0,
        trust_version: 1,
        board: BoardFacts::default(),
    };
    talk.say(serial, Up::Hello, &hello).await;
    talk.say(serial, Up::Request, &Request { id: 1, body: RequestBody::Desired }).await;
    let (first, _) = tokio::time::timeout(HANG, talk.sent.recv()).await.unwrap().unwrap();
    assert_eq!(first, Down::Reply, "it hears that it was heard");
    talk.receive(Down::Desired).await;
    assert!(begun.elapsed() >= TURN, "{:?}", begun.elapsed());
}
