//! The composition root: every part of the control plane in one folder.
//!
//! ```text
//! DIR/records/       sled: every record         DIR/keys/   release and control key, 0600
//! DIR/objects/       content-addressed files    DIR/ca/     root and project CA, 0600
//! DIR/telemetry/     fsynced segments           DIR/jobs/   a folder a job and attempt
//! DIR/hard/          hard examples of devices, not trusted yet
//! DIR/logs/          what devices' logs said, where it was asked for
//! DIR/admin-token    the administrator's token, 0600
//! DIR/server.json    where a running control plane listens
//! ```
//!
//! Parts open in the order of their dependencies; opening fails before anything listens.

use crate::cli::client::{SERVER_FILE, ServerFile};
use crate::http::listen;
use crate::http::service::Api;
use crate::work;
use flotilla_data::{Datasets, Quarantine};
use flotilla_fleet::broker::Bounds;
use flotilla_fleet::ca::{CertificateAuthority, DEVICE_VALIDITY};
use flotilla_fleet::{Fleet, FleetConfig, FleetParts, host_port};
use flotilla_identity::{DEFAULT_PROJECT, Identity, now_ms};
use flotilla_jobs::{Queue, Worker, WorkerConfig};
use flotilla_protocol::message::Settings;
use flotilla_protocol::{ErrorCode, ProjectId};
use flotilla_registry::{Keys, Registry};
use flotilla_storage::{Objects, Records, SledRecords};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Uploads that are received or imported at a time.
pub const UPLOADS: usize = 4;

/// How a control plane is set up.
#[derive(Clone, Debug)]
pub struct AppConfig {
    /// Folder of everything.
    pub dir: PathBuf,
    /// Address of the HTTP API.
    pub http: SocketAddr,
    /// Address of the MQTT broker.
    pub mqtt: SocketAddr,
    /// Further names under which devices reach this machine.
    pub names: Vec<String>,
    /// How newly enrolled devices behave.
    pub settings: Settings,
    /// How long the certificate of a device is valid.
    pub device_validity: Duration,
}

impl Default for AppConfig {
    fn default() -> Self {
        let loopback = |port| SocketAddr::from(([127, 0, 0, 1], port));
        Self {
            dir: "flotilla-data".into(),
            http: loopback(8080),
            mqtt: loopback(8883),
            names: Vec::new(),
            settings: Settings::default(),
            device_validity: DEVICE_VALIDITY,
        }
    }
}

/// Why a control plane did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The folder cannot be used.
    #[error("the folder {path} cannot be used: {source}; choose another with --dir or make it writable")]
    Folder {
        /// The folder or file.
        path: PathBuf,
        /// What failed.
        source: io::Error,
    },
    /// The HTTP address cannot be bound.
    #[error(
        "the HTTP address {address} cannot be bound: {source}; choose another with --http, or port 0 for a free one"
    )]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What failed.
        source: io::Error,
    },
    /// Nobody said how devices reach this machine.
    #[error(
        "{address} means every address of this machine, so devices have to be told one: add --name HOST, the name or address under which they reach it"
    )]
    NameNeeded {
        /// The address.
        address: SocketAddr,
    },
    /// The TLS set-up failed.
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
    /// The store does not open.
    #[error(transparent)]
    Storage(#[from] flotilla_storage::Error),
    /// Identity does not open.
    #[error(transparent)]
    Identity(#[from] flotilla_identity::Error),
    /// Jobs do not open.
    #[error(transparent)]
    Jobs(#[from] flotilla_jobs::Error),
    /// The datasets do not open.
    #[error(transparent)]
    Data(#[from] flotilla_data::Error),
    /// The registry does not open.
    #[error(transparent)]
    Registry(#[from] flotilla_registry::Error),
    /// The certificate authority does not open.
    #[error(transparent)]
    Ca(#[from] flotilla_fleet::ca::Error),
    /// The fleet does not start.
    #[error(transparent)]
    Fleet(#[from] flotilla_fleet::Error),
}

impl StartError {
    /// The stable code.
    pub fn code(&self) -> ErrorCode {
        match self {
            StartError::Folder { source, .. } => match source.kind() {
                io::ErrorKind::StorageFull => ErrorCode::StorageFull,
                io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => {
                    ErrorCode::StorageReadOnly
                }
                _ => ErrorCode::StorageIo,
            },
            StartError::Bind { source, .. } if source.kind() == io::ErrorKind::AddrInUse => {
                ErrorCode::PortInUse
            }
            StartError::Bind { .. } => ErrorCode::Network,
            StartError::NameNeeded { .. } => ErrorCode::InvalidInput,
            StartError::Tls(_) => ErrorCode::Tls,
            StartError::Storage(e) => e.code(),
            StartError::Identity(e) => e.code(),
            StartError::Jobs(e) => e.code(),
            StartError::Data(e) => e.code(),
            StartError::Registry(e) => e.code(),
            StartError::Ca(e) => e.code(),
            StartError::Fleet(e) => e.code(),
        }
    }
}

/// A running control plane.
pub struct App {
    /// Actors and sessions.
    pub identity: Identity,
    /// Every record.
    pub records: Arc<dyn Records>,
    /// Datasets.
    pub datasets: Arc<Datasets>,
    /// Hard examples that devices sent.
    pub quarantine: Quarantine,
    /// Jobs.
    pub queue: Queue,
    /// Models and releases.
    pub registry: Arc<Registry>,
    /// Devices and rollouts.
    pub fleet: Fleet,
    /// Boards, and how long models take there.
    pub boards: Arc<crate::boards::Boards>,
    /// Accuracy counted on devices.
    pub evaluations: crate::evaluations::Evaluations,
    /// How far running imports are.
    pub imports: crate::imports::Imports,
    /// Content-addressed files.
    pub objects: Objects,
    /// Where uploads of datasets wait.
    pub spool: PathBuf,
    /// Files that wait to be imported.
    pub held: crate::uploads::Uploads,
    /// A permit an upload, so that they cannot fill the disk all at once.
    pub uploads: Arc<Semaphore>,
    /// Milliseconds since 1970.
    pub started_at_ms: u64,
    dir: PathBuf,
    http: SocketAddr,
    enrol_at: String,
    changed: watch::Sender<u64>,
    stop: CancellationToken,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

impl App {
    /// Opens everything in the folder and starts to listen.
    pub async fn start(config: AppConfig) -> Result<Arc<Self>, StartError> {
        install_crypto_provider();
        let reach = Reach::of(&config)?;
        let dir = config.dir.clone();
        make_private_folder(&dir)?;
        let project = ProjectId::new(DEFAULT_PROJECT).expect("the name is well-formed");
        let records: Arc<dyn Records> = Arc::new(SledRecords::open(&dir.join("records"))?);
        let objects = Objects::open(&dir.join("objects"))?;
        let identity = Identity::open(records.clone(), &dir, now_ms()).await?;
        let authority = CertificateAuthority::open_or_create(&dir.join("ca"), &project)?;
        let authority = Arc::new(authority.with_device_validity(config.device_validity));
        let keys = Keys::open_or_create(&dir.join("keys"))?;
        let ca = authority.ca_hash();
        let registry =
            Arc::new(Registry::open(project, records.clone(), objects.clone(), keys, ca, now_ms()).await?);
        let datasets = Arc::new(Datasets::new(records.clone(), objects.clone()));
        datasets.tidy().await?;
        let quarantine =
            Quarantine::open(records.clone(), Datasets::clone(&datasets), dir.join("hard"), now_ms()).await?;
        let queue = Queue::new(records.clone(), objects.clone(), dir.join("jobs"));
        let spool = dir.join("spool");
        // Uploads of an earlier life are of no use to anybody.
        drop(std::fs::remove_dir_all(&spool));

        let (listeners, http) = listen::bind(config.http)
            .await
            .map_err(|(address, source)| StartError::Bind { address, source })?;
        let tls = Arc::new(server_tls(&authority, &reach.names)?);
        let fleet = FleetConfig {
            listen: config.mqtt,
            advertise: reach.mqtt,
            server_names: reach.names,
            settings: config.settings.clone(),
            bounds: crate::descriptors::bounded(Bounds::default()),
            ..FleetConfig::local(dir.join("telemetry"), dir.join("logs"))
        };
        let parts = FleetParts {
            records: records.clone(),
            objects: objects.clone(),
            registry: registry.clone(),
            authority,
            quarantine: quarantine.clone(),
        };
        let fleet = Fleet::start(fleet, parts).await?;
        let (changed, _) = watch::channel(0);
        let app = Arc::new(Self {
            boards: Arc::new(crate::boards::Boards::new(
                records.clone(),
                registry.clone(),
                datasets.clone(),
                fleet.clone(),
            )),
            evaluations: crate::evaluations::Evaluations::new(records.clone()),
            imports: crate::imports::Imports::default(),
            identity,
            records,
            datasets,
            quarantine,
            queue,
            registry,
            fleet,
            held: crate::uploads::Uploads::new(spool.join("held")),
            spool,
            objects,
            uploads: Arc::new(Semaphore::new(UPLOADS)),
            started_at_ms: now_ms(),
            dir,
            http: listen::local(http),
            enrol_at: reach.http.map_or(http.to_string(), |host| host_port(&host, http.port())),
            changed,
            stop: CancellationToken::new(),
            tasks: Mutex::default(),
        });
        app.write_server_file()?;
        for listener in listeners {
            app.spawn(listen::serve(listener, tls.clone(), Api::new(app.clone()), app.stop.clone()));
        }
        app.spawn(app.clone().run_worker());
        app.spawn(app.clone().forward_changes());
        Ok(app)
    }

    /// `http://host:port` of the API and the console, for this machine.
    pub fn http_url(&self) -> String {
        format!("http://{}", self.http)
    }

    /// Where the API listens for this machine.
    pub fn http_address(&self) -> SocketAddr {
        self.http
    }

    /// `host:port` of the broker.
    pub fn mqtt_address(&self) -> SocketAddr {
        self.fleet.mqtt_addr()
    }

    /// `host:port` that claim codes carry.
    pub fn enrol_at(&self) -> &str {
        &self.enrol_at
    }

    /// The file with the administrator's token.
    pub fn token_file(&self) -> &Path {
        self.identity.token_file()
    }

    /// A fresh one-time address that opens the console.
    pub fn login_url(&self) -> String {
        format!("{}/login?code={}", self.http_url(), self.identity.issue_login_code(now_ms()).expose())
    }

    /// Says that something the console shows may have changed.
    pub fn changed(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    /// Follows [`App::changed`].
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Ends when the control plane stops.
    pub async fn stopping(&self) {
        self.stop.cancelled().await;
    }

    /// Stops listening, lets requests in flight finish, and stops every part. What was acknowledged is durable
    /// already.
    pub async fn shutdown(&self) {
        self.stop.cancel();
        let tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        for task in tasks {
            drop(task.await);
        }
        self.fleet.shutdown().await;
        drop(std::fs::remove_file(self.dir.join(SERVER_FILE)));
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).push(tokio::spawn(task));
    }

    async fn run_worker(self: Arc<Self>) {
        let program = match std::env::current_exe() {
            Ok(program) => program,
            Err(error) => {
                tracing::error!(%error, "jobs cannot run: this program does not find itself");
                return;
            }
        };
        let config = WorkerConfig::new(program, ["job-child"]);
        let worker = work::equip(
            Worker::new(self.queue.clone(), config),
            &self.datasets,
            &self.registry,
            &self.objects,
            &self.boards,
        );
        if let Err(error) = worker.run(self.stop.clone()).await {
            tracing::error!(%error, "the worker has stopped; jobs wait until the control plane starts again");
        }
    }

    /// Everything that changes on its own wakes the console.
    async fn forward_changes(self: Arc<Self>) {
        let (mut jobs, mut fleet) = (self.queue.watch_all(), self.fleet.watch());
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return,
                news = jobs.next() => if news.is_none() { return },
                news = fleet.recv() => if matches!(news, Err(RecvError::Closed)) { return },
            }
            self.changed();
        }
    }

    fn write_server_file(&self) -> Result<(), StartError> {
        let path = self.dir.join(SERVER_FILE);
        let file = ServerFile {
            http: self.http_url(),
            mqtt: self.mqtt_address().to_string(),
            pid: std::process::id(),
        };
        let text = serde_json::to_vec(&file).unwrap_or_default();
        let temporary = path.with_extension("tmp");
        std::fs::write(&temporary, text)
            .and_then(|()| std::fs::rename(&temporary, &path))
            .map_err(|source| StartError::Folder { path, source })
    }
}

/// How devices reach this machine.
struct Reach {
    /// Names and addresses that certificates are for, beside those of loopback.
    names: Vec<String>,
    /// Host of the HTTPS server, as claim codes carry it; the address itself where there is none.
    http: Option<String>,
    /// Host of the broker, as enrolled devices learn it.
    mqtt: Option<String>,
}

impl Reach {
    /// The first name that was given; without one, addresses speak for themselves.
    fn of(config: &AppConfig) -> Result<Self, StartError> {
        let mut names = config.names.clone();
        for address in [config.http, config.mqtt] {
            let ip = address.ip();
            if ip.is_unspecified() && config.names.is_empty() {
                return Err(StartError::NameNeeded { address });
            }
            if !ip.is_unspecified() && !ip.is_loopback() && !names.contains(&ip.to_string()) {
                names.push(ip.to_string());
            }
        }
        // Loopback is for this machine only, whatever names it has.
        let host =
            |address: SocketAddr| config.names.first().filter(|_| !address.ip().is_loopback()).cloned();
        Ok(Self { http: host(config.http), mqtt: host(config.mqtt), names })
    }
}

fn server_tls(
    authority: &CertificateAuthority,
    names: &[String],
) -> Result<rustls::ServerConfig, StartError> {
    let identity = authority.issue_server(names, SystemTime::now())?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(identity.chain, identity.key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// Two providers are linked in (the broker brings its own); ours is chosen once, for the whole process.
fn install_crypto_provider() {
    drop(rustls::crypto::ring::default_provider().install_default());
}

fn make_private_folder(dir: &Path) -> Result<(), StartError> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|source| StartError::Folder { path: dir.to_owned(), source })
}
