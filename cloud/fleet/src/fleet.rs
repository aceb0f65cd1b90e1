//! The fleet as a whole: broker, conversations, rollouts and telemetry, started and stopped together.

use crate::authority::DeviceAuthority;
use crate::broker::{Bounds, Broker, BrokerConfig, Downlink};
use crate::ca::CertificateAuthority;
use crate::changes::{Change, Changes};
use crate::claims::{self, Claim, ClaimRequest};
use crate::connections::Connections;
use crate::devices::{self, DeviceView, Shadows, Traffic, Views};
use crate::enrol::Enrolment;
use crate::error::{Error, Result};
use crate::experiments::Experiments;
use crate::groups::Groups;
use crate::inbound::{Core, Dispatcher, Pace};
use crate::ingest::{DeviceEvent, HistoryPoint, Ingest};
use crate::logs::Logs;
use crate::registrations::{self, Registered, Registration};
use crate::renewal::{self, Challenges, PendingRenewal, Word};
use crate::rollout::Rollouts;
use crate::roster::Roster;
use crate::store::Store;
use crate::sweep;
use crate::telemetry::{self, ReleaseTelemetry};
use crate::transfer::Transfers;
use bytes::Bytes;
use flotilla_data::Quarantine;
use flotilla_identity::{Actor, now_ms};
use flotilla_protocol::enrol::{BoardSerial, ClaimCode, EnrolAnswer, EnrolRequest};
use flotilla_protocol::message::{HardExamples, Settings};
use flotilla_protocol::renew::{Challenge, RenewAnswer, RenewRequest};
use flotilla_protocol::{DeviceId, Digest, ModelName};
use flotilla_registry::{CurrentTrust, Registry};
use flotilla_storage::{Objects, Records, Segments};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;
use tokio::sync::{broadcast, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Events of the broker that may wait for the dispatcher, which never waits itself.
const INBOUND: usize = 64;

/// Where the fleet keeps its telemetry and where devices reach it.
#[derive(Clone, Debug)]
pub struct FleetConfig {
    /// Folder of the telemetry segments.
    pub telemetry: PathBuf,
    /// Folder of the lines that devices' logs brought.
    pub logs: PathBuf,
    /// Where the broker listens; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Name or address under which devices reach the broker; the address it listens on where none is given.
    pub advertise: Option<String>,
    /// Names and addresses that the broker's certificate is for, beside those of this machine's loopback.
    pub server_names: Vec<String>,
    /// What devices may use of the broker.
    pub bounds: Bounds,
    /// How a device behaves that has just enrolled.
    pub settings: Settings,
}

impl FleetConfig {
    /// A fleet on loopback with the default bounds.
    pub fn local(telemetry: PathBuf, logs: PathBuf) -> Self {
        Self {
            telemetry,
            logs,
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            advertise: None,
            server_names: Vec::new(),
            bounds: Bounds::default(),
            settings: Settings::default(),
        }
    }
}

/// What the fleet is built on.
#[derive(Clone)]
pub struct FleetParts {
    /// Records of everything.
    pub records: Arc<dyn Records>,
    /// Files of releases.
    pub objects: Objects,
    /// Releases, keys and trust.
    pub registry: Arc<Registry>,
    /// Certificates.
    pub authority: Arc<CertificateAuthority>,
    /// Where hard examples of devices go.
    pub quarantine: Quarantine,
}

/// The fleet. Clones share it.
#[derive(Clone)]
pub struct Fleet {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) parts: FleetParts,
    settings: Settings,
    mqtt: String,
    address: SocketAddr,
    pub(crate) store: Arc<Store>,
    pub(crate) connections: Arc<Connections>,
    pub(crate) rollouts: Arc<Rollouts>,
    pub(crate) groups: Arc<Groups>,
    pub(crate) experiments: Arc<Experiments>,
    logs: Arc<Logs>,
    pub(crate) changes: Changes,
    downlink: Mutex<Option<Arc<Broker>>>,
    pub(crate) tasks: TaskTracker,
    pub(crate) stop: CancellationToken,
    challenges: Challenges,
}

/// `host:port`, with brackets around an IPv6 address.
pub fn host_port(host: &str, port: u16) -> String {
    match host.parse::<IpAddr>() {
        Ok(address) => SocketAddr::new(address, port).to_string(),
        Err(_) => format!("{host}:{port}"),
    }
}

impl Fleet {
    /// Opens the devices' port and takes up what was under way when the control plane last stopped.
    pub async fn start(config: FleetConfig, parts: FleetParts) -> Result<Self> {
        let project = parts.authority.project().clone();
        if *parts.registry.project() != project {
            return Err(Error::Invalid(
                "the registry and the certificate authority are of two projects".into(),
            ));
        }
        let store = Arc::new(Store::new(parts.records.clone()));
        let connections = Arc::new(Connections::default());
        let changes = Changes::new();
        let segments = open_segments(config.telemetry).await?;
        let ingest = Arc::new(Ingest::open(store.clone(), segments, changes.clone()).await?);
        let logs = Arc::new(Logs::open(config.logs, store.clone()).await?);
        let roster =
            Roster::open(store.clone(), parts.registry.clone(), connections.clone(), &changes).await?;
        let roster = Arc::new(roster);
        let groups = Arc::new(Groups { store: store.clone(), roster: roster.clone() });
        let rollouts = Arc::new(Rollouts {
            store: store.clone(),
            registry: parts.registry.clone(),
            groups: groups.clone(),
            connections: connections.clone(),
            changes: changes.clone(),
            wake: Default::default(),
            beginning: Default::default(),
            news: Default::default(),
            board: Default::default(),
        });
        let experiments = Arc::new(Experiments::new(rollouts.clone(), roster.clone()));

        let (events, inbound) = mpsc::channel(INBOUND);
        let broker = BrokerConfig {
            listen: config.listen,
            server: parts.authority.issue_server(&config.server_names, SystemTime::now())?,
            client_roots: vec![parts.authority.root().clone()],
            bounds: config.bounds,
        };
        let authority = DeviceAuthority { project: project.clone(), store: store.clone() };
        let broker = Arc::new(Broker::start(broker, Arc::new(authority), events).await?);
        let address = broker.local_addr();

        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let transfers =
            Transfers::new(project.clone(), store.clone(), parts.registry.clone(), parts.objects.clone());
        let core = Core {
            project,
            store: store.clone(),
            registry: parts.registry.clone(),
            authority: parts.authority.clone(),
            connections: connections.clone(),
            ingest: ingest.clone(),
            transfers: Arc::new(transfers),
            quarantine: parts.quarantine.clone(),
            logs: logs.clone(),
            rollouts: rollouts.clone(),
            changes: changes.clone(),
            downlink: broker.clone(),
            pace: Pace::default(),
        };
        tasks.spawn(Dispatcher::new(Arc::new(core)).run(inbound, stop.clone()));
        tasks.spawn({
            let stop = stop.clone();
            async move { ingest.fold(stop).await }
        });
        tasks.spawn({
            let (rollouts, stop) = (rollouts.clone(), stop.clone());
            async move { rollouts.run(stop).await }
        });
        tasks.spawn({
            let (experiments, stop) = (experiments.clone(), stop.clone());
            async move { experiments.run(stop).await }
        });
        tasks.spawn({
            let stop = stop.clone();
            async move { roster.run(stop).await }
        });
        tasks.spawn(sweep::run(store.clone(), parts.quarantine.clone(), stop.clone()));
        let inner = Inner {
            mqtt: config.advertise.map_or(address.to_string(), |host| host_port(&host, address.port())),
            settings: config.settings,
            address,
            parts,
            store,
            connections,
            rollouts,
            groups,
            experiments,
            logs,
            changes,
            downlink: Mutex::new(Some(broker)),
            tasks,
            stop,
            challenges: Challenges::new(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Where devices connect: the real port when 0 was asked for.
    pub fn mqtt_addr(&self) -> SocketAddr {
        self.inner.address
    }

    /// Ends all conversations and connections. What is durable stays; what devices have not seen acknowledged they send
    /// again after the next start.
    pub async fn shutdown(&self) {
        self.inner.stop.cancel();
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
        let broker = self.inner.downlink.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(broker) = broker.and_then(Arc::into_inner) {
            broker.shutdown().await;
        }
    }

    /// News of devices and rollouts from now on. A watcher that falls behind is told so and reads everything again.
    pub fn watch(&self) -> broadcast::Receiver<Change> {
        self.inner.changes.watch()
    }

    /// MQTT payload of all devices since the start.
    pub fn traffic(&self) -> Traffic {
        self.inner.connections.traffic()
    }

    /// Devices that are connected now.
    pub fn connected(&self) -> usize {
        self.inner.connections.len()
    }

    // === enrolment ===

    /// Makes a claim code. It holds a secret: hand it out and forget it.
    pub async fn create_claim(&self, actor: &Actor, request: ClaimRequest) -> Result<(Claim, ClaimCode)> {
        let ca = self.inner.parts.authority.ca_hash();
        claims::create(&self.inner.store, ca, actor, request, now_ms()).await
    }

    /// Registers a list of serial numbers, as comma-separated values: devices that are expected.
    pub async fn register(&self, actor: &Actor, list: &[u8]) -> Result<Registered> {
        registrations::register(&self.inner.store, actor, list, now_ms()).await
    }

    /// Every registered serial number.
    pub async fn registrations(&self) -> Result<Vec<Registration>> {
        registrations::list(&self.inner.store).await
    }

    /// Forgets a registered serial number.
    pub async fn unregister(&self, actor: &Actor, serial: &BoardSerial) -> Result<()> {
        registrations::unregister(&self.inner.store, actor, serial, now_ms()).await
    }

    /// Every claim, without its secret.
    pub async fn claims(&self) -> Result<Vec<Claim>> {
        claims::list(&self.inner.store).await
    }

    /// Makes a device of whoever holds a valid claim.
    pub async fn enrol(&self, request: EnrolRequest) -> Result<EnrolAnswer> {
        let inner = &*self.inner;
        let enrolment = Enrolment {
            store: &inner.store,
            authority: &inner.parts.authority,
            registry: &inner.parts.registry,
            settings: &inner.settings,
            mqtt: &inner.mqtt,
        };
        let answer = enrolment.enrol(request, now_ms()).await?;
        inner.changes.device(&answer.device);
        Ok(answer)
    }

    // === renewal ===

    /// What a device signs that asks for a new certificate without a connection.
    pub fn challenge(&self) -> Challenge {
        self.inner.challenges.give(now_ms())
    }

    /// A device whose certificate has ended asks for a new one: it is given when a person has approved it.
    pub async fn renew(&self, request: RenewRequest) -> Result<RenewAnswer> {
        let inner = &*self.inner;
        let device = request.device.clone();
        let answer =
            renewal::renew(&inner.store, &inner.parts.authority, &inner.challenges, request, now_ms())
                .await?;
        inner.changes.device(&device);
        Ok(answer)
    }

    /// Lets a device that waits have its new certificate, over this key and no other.
    pub async fn approve_renewal(
        &self,
        actor: &Actor,
        id: &DeviceId,
        key: &Digest,
    ) -> Result<PendingRenewal> {
        let renewal = renewal::decide(&self.inner.store, actor, id, Word::Approve(key), now_ms()).await?;
        self.inner.changes.device(id);
        Ok(renewal)
    }

    /// Refuses a device that waits its new certificate.
    pub async fn reject_renewal(&self, actor: &Actor, id: &DeviceId, reason: &str) -> Result<PendingRenewal> {
        let renewal = renewal::decide(&self.inner.store, actor, id, Word::Reject(reason), now_ms()).await?;
        self.inner.changes.device(id);
        Ok(renewal)
    }

    // === devices ===

    pub(crate) fn views(&self) -> Views<'_> {
        Views::new(&self.inner.store, &self.inner.parts.registry, &self.inner.connections)
    }

    /// One device.
    pub async fn device(&self, id: &DeviceId) -> Result<DeviceView> {
        self.views().device(id).await
    }

    /// The recent history of a device, oldest first.
    pub async fn history(&self, id: &DeviceId) -> Result<Vec<HistoryPoint>> {
        devices::history(&self.inner.store, id).await
    }

    /// What ran on a device and when, newest first.
    pub async fn runs(&self, id: &DeviceId) -> Result<Vec<devices::Ran>> {
        devices::runs(&self.inner.store, id).await
    }

    /// What the devices say of a model, by the release that they serve.
    pub async fn model_telemetry(&self, model: &ModelName) -> Result<BTreeMap<Digest, ReleaseTelemetry>> {
        telemetry::of_model(&self.inner.store, model).await
    }

    /// The last events of a device, oldest first.
    pub async fn events(&self, id: &DeviceId) -> Result<Vec<DeviceEvent>> {
        if self.inner.store.devices.get(id.as_str()).await?.is_none() {
            return Err(Error::DeviceMissing(id.clone()));
        }
        let events = self.inner.store.events.get(id.as_str()).await?;
        Ok(events.map(|events| events.value.events.into()).unwrap_or_default())
    }

    /// Takes a device's right to connect away, for good, and ends its connection.
    pub async fn revoke(&self, actor: &Actor, id: &DeviceId, reason: &str) -> Result<()> {
        devices::revoke(&self.inner.store, actor, id, reason, now_ms()).await?;
        self.shut_out(id).await;
        Ok(())
    }

    /// Ends the connection of a device that may not connect any more, and all that is under way with it.
    pub(crate) async fn shut_out(&self, id: &DeviceId) {
        self.disconnect(id);
        self.give_up_uploads(id).await;
        self.inner.changes.device(id);
        self.inner.rollouts.hear(id);
    }

    /// Changes how a device behaves, from what it is now. `change` may be asked more than once.
    pub async fn configure(
        &self,
        actor: &Actor,
        id: &DeviceId,
        change: impl Fn(&Settings) -> Result<Settings>,
    ) -> Result<()> {
        if devices::configure(&self.inner.store, actor, id, change, now_ms()).await? {
            self.inner.connections.desired_changed(id);
            self.inner.changes.device(id);
        }
        Ok(())
    }

    /// Parts do not say of which model they are, so all of the device go; what it may still send it offers anew.
    pub(crate) async fn give_up_uploads(&self, id: &DeviceId) {
        if let Err(error) = self.inner.parts.quarantine.give_up(id).await {
            tracing::error!(device = %id, %error, "what was on its way stays on the disk until the next day");
        }
    }

    /// The models of which a device may keep and send inputs.
    pub async fn consents(&self, id: &DeviceId) -> Result<BTreeMap<ModelName, HardExamples>> {
        devices::consents(&self.inner.store, id).await
    }

    /// The same of every device that may connect and has one.
    pub async fn all_consents(&self) -> Result<Vec<(DeviceId, BTreeMap<ModelName, HardExamples>)>> {
        devices::all_consents(&self.inner.store).await
    }

    /// Gives a device a command and returns its id. An offline device gets it when it is back, unless so many
    /// milliseconds have passed; without them [`devices::COMMAND_DEADLINE_MS`].
    pub async fn command(
        &self,
        actor: &Actor,
        id: &DeviceId,
        order: &devices::Order,
        patience_ms: Option<u64>,
    ) -> Result<u64> {
        let command = devices::command(&self.inner.store, actor, id, order, patience_ms, now_ms()).await?;
        self.inner.connections.desired_changed(id);
        Ok(command)
    }

    /// The last commands of a device with where each stands, newest first.
    pub async fn commands(&self, id: &DeviceId) -> Result<Vec<(devices::Asked, devices::Stage)>> {
        devices::commands(&self.inner.store, id, now_ms()).await
    }

    /// The lines of its log that a device sent for a command.
    pub async fn log(&self, id: &DeviceId, command: u64) -> Result<Vec<u8>> {
        self.inner.logs.read(id, command).await
    }

    /// The number of the examination that a device is asked for, and its last one.
    pub async fn examination(&self, id: &DeviceId) -> Result<(Option<u64>, Option<devices::Examined>)> {
        devices::examination(&self.inner.store, id).await
    }

    // === shadows ===

    /// The shadow of a model on every device that has one, or had; so many devices are listed.
    pub async fn shadows(&self, model: &ModelName, most: usize) -> Result<Shadows> {
        devices::shadow::of_model(&self.inner.store, model, most).await
    }

    /// The shadows of all models on the devices that have one now; so many devices of each are listed.
    pub async fn all_shadows(&self, most: usize) -> Result<BTreeMap<ModelName, Shadows>> {
        devices::shadow::of_all(&self.inner.store, most).await
    }

    // === trust ===

    /// Forbids every release of `model` below `counter`, on every device, for good.
    ///
    /// Devices ask for the trust file when they connect, so those that are connected are sent away: their own spread
    /// of reconnections keeps a large fleet from coming back at once.
    pub async fn set_floor(
        &self,
        actor: &Actor,
        model: &ModelName,
        counter: u64,
    ) -> Result<Arc<CurrentTrust>> {
        let before = self.inner.parts.registry.trust();
        let trust = self.inner.parts.registry.set_floor(actor, model, counter, now_ms()).await?;
        if trust.file.version != before.file.version {
            self.disconnect_all();
        }
        Ok(trust)
    }

    /// Takes a trust file that was made and signed elsewhere. Devices get it as after [`Fleet::set_floor`].
    pub async fn publish_trust(&self, actor: &Actor, envelope: Bytes) -> Result<Arc<CurrentTrust>> {
        let trust = self.inner.parts.registry.publish_trust(actor, envelope, now_ms()).await?;
        self.disconnect_all();
        Ok(trust)
    }

    fn disconnect_all(&self) {
        self.inner.connections.devices().iter().for_each(|device| self.disconnect(device));
    }

    fn disconnect(&self, device: &DeviceId) {
        if let Some(broker) = &*self.inner.downlink.lock().unwrap_or_else(PoisonError::into_inner) {
            broker.disconnect(self.inner.parts.authority.project(), device);
        }
    }
}

async fn open_segments(folder: PathBuf) -> Result<Segments> {
    let opening = tokio::task::spawn_blocking({
        let folder = folder.clone();
        move || Segments::open(&folder)
    });
    Ok(opening.await.map_err(|_| flotilla_storage::Error::Closed { path: folder })??)
}
