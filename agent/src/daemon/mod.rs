//! The running agent: one task that owns every decision machine and performs what they say. Slow work (downloads,
//! hashing, probes, loading) runs in tasks of its own and comes back as news.
//!
//! A confirmed release serves as soon as it is loaded, with or without a network.

mod alone;
mod commands;
mod desired;
mod diagnosis;
mod drift;
mod heat;
mod jobs;
pub(crate) mod journals;
mod link;
mod logs;
mod measure;
mod models;
mod records;
mod renewal;
mod shadows;
pub(crate) mod state;
mod unusable;
mod upgrade;
mod work;

pub(crate) use upgrade::unreadable;

use crate::clock::Clock;
use crate::config::Config;
use crate::disk::DiskError;
use crate::feed::Feeds;
use crate::fetch::Fetcher;
use crate::folder::{ENDPOINT, Folder, RUN};
use crate::hard::{self, HardExamples};
use crate::host::{ModelHost, Notes};
use crate::identity::{self, Identity};
use crate::link::{Link, LinkEvent, QUEUE};
use crate::memory::Shares;
use crate::outbox::Store;
use crate::sensors::Sensors;
use crate::supervisor::Supervisor;
use crate::{Error, api, footprint};
pub(crate) use diagnosis::stored;
use flotilla_device::Fault;
use flotilla_device::command::Commands;
use flotilla_device::launch::{Binary, Place};
use flotilla_device::renewal::{Pair, Renewal};
use flotilla_device::session::{self, Session};
use flotilla_device::{shadow, update};
use flotilla_protocol::message::{Desired, Diagnosis, EventKind, EventRecord, Measured, RecordBody};
use flotilla_protocol::{ErrorCode, ModelName, TrustFile};
use heat::Heat;
use jobs::Jobs;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use unusable::Unusable;

/// An address that could not be written down is tried again after so long.
const ENDPOINT_RETRY_MS: u64 = 5_000;

/// After so long what a start or a load ran is not run again soon.
const TEXT_AFTER_MS: u64 = 2_000;

/// What an agent runs on.
pub struct Options {
    /// Its folder.
    pub folder: Folder,
    /// Its configuration.
    pub config: Config,
    /// The program that probes candidates: this one.
    pub exe: PathBuf,
    /// Arguments before `probe` that make it the agent.
    pub prefix: Vec<String>,
    /// From where the launcher started it, if it did: [`crate::upgrade::launched`].
    pub launched: Option<Place>,
    /// The device's clock, in milliseconds since 1970.
    pub wall: fn() -> u64,
}

/// Why the agent ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It was told to.
    Stopped,
    /// The launcher is to start another agent.
    Switch,
}

/// News of slow work.
pub(crate) enum News {
    /// A step for the update machine of a model, or of the agent.
    Update(Option<ModelName>, update::Event),
    /// What the launcher has to know of the binary that is to run.
    Binary {
        /// The activation that asked.
        ticket: u64,
        /// The binary, or why it cannot be told.
        result: Result<Binary, Fault>,
    },
    /// A model's folder may be empty now.
    Cleared(ModelName),
    /// A step for the machine of a model's shadow.
    Shadow(ModelName, shadow::Event),
    /// The place of a model's shadow is clear.
    ShadowCleared(ModelName),
    /// An examination has ended, or why it could not.
    Examined(Result<Diagnosis, String>),
    /// The lines of the log that a command asked for, and how many found no room.
    Log(u64, Result<(Vec<u8>, u64), Fault>),
    /// What a command had measured, or why it could not be; its place is clear.
    Measured(u64, Result<Measured, Fault>),
    /// The outcome of a question for a certificate over HTTPS, by its number.
    Certificate(u64, Result<Option<String>, Error>),
}

struct Managed {
    update: update::Update,
    tick_ms: Option<u64>,
    jobs: Jobs,
    /// Slots that are being cleared.
    clears: u32,
}

struct Daemon {
    options: Options,
    clock: Clock,
    identity: Identity,
    trust: TrustFile,
    host: Arc<ModelHost>,
    hard: HardExamples,
    fetcher: Fetcher,
    shares: Shares,
    sensors: Sensors,
    heat: Heat,
    probes: Arc<Semaphore>,
    news: mpsc::Sender<News>,

    session: Session,
    session_tick_ms: Option<u64>,
    link: Option<Link>,
    link_number: u64,
    link_events: mpsc::Sender<(u64, LinkEvent)>,
    link_problem: Option<(ErrorCode, String)>,
    trust_questions: BTreeSet<u64>,

    renewal: Renewal,
    renewal_tick_ms: Option<u64>,
    /// The pair with which the link was opened.
    link_pair: Pair,
    certificate_question: Option<u64>,
    /// Questions over HTTPS that were asked since the start.
    https_question: u64,
    renewal_problem: Option<(ErrorCode, String)>,

    accepted_version: u64,
    desired: Option<Desired>,
    desired_refusal: Option<ErrorCode>,
    unusable: Unusable,
    commands: Commands,
    commands_retry_ms: Option<u64>,
    commands_tries: u32,
    /// Commands that wait for the examination that runs.
    examining: BTreeSet<u64>,
    log_pull: logs::LogPull,
    measuring: Option<measure::Measuring>,
    /// By how much this clock was ahead of the control plane's when the last desired document came.
    clock_ahead_ms: Option<i64>,
    models: BTreeMap<ModelName, Managed>,
    shadows: BTreeMap<ModelName, shadows::Managed>,
    upgrade: Option<upgrade::Upgrade>,

    /// None while the disk does not let it be used.
    outbox: Option<Store>,
    outbox_due_ms: Option<u64>,
    outbox_tries: u32,
    /// Records that could not be stored yet.
    waiting: VecDeque<(u64, RecordBody)>,
    records_lost: u64,
    /// How many of them the cloud is told of.
    records_lost_said: u64,
    sample_due_ms: u64,
    /// When the text that start-up or a load needed is let go.
    text_due_ms: Option<u64>,
    status: Arc<Mutex<Value>>,
    status_stale: bool,
    endpoint: api::Address,
    /// When its file is to be written, if it is not there yet.
    endpoint_due_ms: Option<u64>,
    supervisor: Supervisor,
}

/// Runs the agent until `shutdown`.
pub async fn run(options: Options, shutdown: CancellationToken) -> Result<Ended, Error> {
    let _lock = options.folder.lock()?;
    let mut damage = state::Damage::new();
    let stored = state::Accepted::read(&options.folder, &mut damage);
    let clock = Clock::with_wall(stored.proof_ms, options.wall);
    let bonds = identity::establish(&options.folder, &clock, &mut damage);
    if bonds.is_err() && !alone::has_models(&options.folder) {
        return bonds.map(|_| Ended::Stopped);
    }

    let (hard, outlet) = HardExamples::new();
    let notes = Notes::new(options.folder.path(RUN));
    let host = Arc::new(
        ModelHost::with_notes(notes).with_hard_examples(hard.clone()).with_threads(options.config.threads),
    );
    let status = Arc::new(Mutex::new(Value::Null));
    let listener = api::bind(&options.config.listen, options.config.socket_mode).await?;
    let endpoint = listener.address().clone();
    let shown = Arc::clone(&status);
    let Config { folders, streams, .. } = &options.config;
    let mut feeds = Feeds::start(folders, streams, &options.folder, &host, &clock, shutdown.child_token());
    let (fed, figures) = (feeds.shown(), hard.clone());
    let show: api::Status = Arc::new(move || {
        let mut status = shown.lock().unwrap_or_else(PoisonError::into_inner).clone();
        fed.complete(&mut status);
        if let Some(status) = status.as_object_mut() {
            status.insert("hard_examples".to_owned(), json!(figures.figures()));
        }
        status
    });
    let serving = api::serve(listener, Arc::clone(&host), show, shutdown.child_token());
    let mut sensors = Sensors::new().with_thermometer(options.config.temperature_file.clone());
    let mut heat = Heat::new(&options.config);
    let bonds = match bonds {
        Ok(bonds) => Some(bonds),
        Err(error) => {
            let mut alone = alone::Alone {
                options: &options,
                clock: &clock,
                host: &host,
                status: &status,
                endpoint: &endpoint,
                sensors: &mut sensors,
                heat: &mut heat,
            };
            alone.serve(error, &mut damage, &shutdown).await
        }
    };
    let Some((identity, trust)) = bonds else {
        feeds.close().await;
        ended(serving.await);
        return Ok(Ended::Stopped);
    };
    clock.observe_signed(trust.issued_at_ms);
    tracing::info!(device = %identity.names.device, project = %identity.names.project, %endpoint, "the agent runs");

    let (news, mut news_in) = mpsc::channel(64);
    let (link_events, mut link_in) = mpsc::channel(QUEUE);
    let fetcher = Fetcher::new(clock.clone());
    let shares = Shares::new(options.config.models_memory(sensors.memory_bytes()));
    let keeper =
        hard::Worker::new(outlet, options.folder.clone(), &options.config, clock.clone(), fetcher.clone());
    let keeping = tokio::spawn(keeper.run(shutdown.child_token()));
    let mut daemon = Daemon {
        renewal: renewal::machine(&identity),
        renewal_tick_ms: Some(0),
        link_pair: Pair::Present,
        certificate_question: None,
        https_question: 0,
        renewal_problem: None,
        session: Session::new(state::counter(&options.folder, &clock, &mut damage)),
        accepted_version: stored.desired_version,
        commands: Commands::new(state::commands(&options.folder, &mut damage)),
        commands_retry_ms: None,
        commands_tries: 0,
        options,
        clock,
        identity,
        trust,
        host,
        hard,
        fetcher,
        shares,
        sensors,
        heat,
        probes: Arc::new(Semaphore::new(1)),
        news,
        session_tick_ms: Some(0),
        link: None,
        link_number: 0,
        link_events,
        link_problem: None,
        trust_questions: BTreeSet::new(),
        desired: None,
        desired_refusal: None,
        unusable: Unusable::default(),
        examining: BTreeSet::new(),
        log_pull: logs::LogPull::default(),
        measuring: None,
        clock_ahead_ms: None,
        models: BTreeMap::new(),
        shadows: BTreeMap::new(),
        upgrade: None,
        outbox: None,
        outbox_due_ms: None,
        outbox_tries: 0,
        waiting: VecDeque::new(),
        records_lost: 0,
        records_lost_said: 0,
        sample_due_ms: 0,
        text_due_ms: Some(TEXT_AFTER_MS),
        status,
        status_stale: true,
        endpoint,
        endpoint_due_ms: Some(0),
        supervisor: Supervisor::new(),
    };
    daemon.announce();
    daemon.boot(damage);
    daemon.supervisor.ready();
    let host = Arc::clone(&daemon.host);
    loop {
        daemon.on_time();
        daemon.send_records();
        daemon.show_status();
        if daemon.leaves() {
            break;
        }
        let due = daemon.clock.instant(daemon.due_ms());
        tokio::select! {
            () = shutdown.cancelled() => break,
            Some((number, event)) = link_in.recv() => daemon.on_link(number, event),
            Some(news) = news_in.recv() => daemon.on_news(news),
            Some(said) = feeds.said() => {
                let detail = format!("{}: {}", said.feed, said.fault.detail);
                daemon.event(EventKind::Failed, Some(said.fault.code), detail);
            }
            () = host.drifts() => daemon.on_drift(),
            () = tokio::time::sleep_until(due) => {}
        }
    }
    let leaves = daemon.leaves();
    tracing::info!("the agent stops");
    if !leaves {
        daemon.supervisor.stopping();
    }
    // The local endpoint, too.
    shutdown.cancel();
    daemon.close().await;
    feeds.close().await;
    if let Err(error) = keeping.await {
        tracing::error!(%error, "hard examples ended badly");
    }
    ended(serving.await);
    Ok(if leaves { Ended::Switch } else { Ended::Stopped })
}

fn ended(serving: Result<(), tokio::task::JoinError>) {
    if let Err(error) = serving {
        tracing::error!(%error, "the local endpoint ended badly");
    }
}

/// Writes down where the local endpoint listens.
fn announce(folder: &Folder, endpoint: &api::Address) -> Result<(), DiskError> {
    folder.disk().replace(ENDPOINT.as_ref(), format!("{endpoint}\n").as_bytes())
}

impl Daemon {
    /// Writes down where the local endpoint listens. A disk that takes nothing is no reason not to serve: it is tried
    /// again.
    fn announce(&mut self) {
        self.endpoint_due_ms = announce(&self.options.folder, &self.endpoint).err().map(|error| {
            tracing::warn!(%error, "the endpoint's address cannot be written down yet");
            self.clock.now_ms() + ENDPOINT_RETRY_MS
        });
    }

    /// Everything that needs no network: records, models, the stored desired document.
    fn boot(&mut self, damage: state::Damage) {
        self.open_outbox();
        let detail = format!("agent {}", env!("CARGO_PKG_VERSION"));
        self.event(EventKind::Started, None, detail);
        for what in std::mem::take(&mut self.options.config.passed_over) {
            let detail = format!("agent.toml: this agent passes over {what}");
            tracing::warn!(detail);
            self.event(EventKind::Failed, Some(ErrorCode::InvalidInput), detail);
        }
        self.miss_thermometer();
        let mend = !damage.is_empty();
        for what in damage {
            self.event(EventKind::Repaired, Some(ErrorCode::StorageCorrupt), what);
        }
        self.forget_measurement();
        self.read_desired();
        self.load_models();
        self.load_shadows();
        self.load_upgrade();
        self.apply();
        if mend {
            self.mend_small_files();
        }
    }

    fn on_news(&mut self, news: News) {
        match news {
            News::Update(None, event) => self.give_upgrade(event),
            News::Binary { ticket, result } => self.hand_over(ticket, result),
            News::Update(Some(model), event) => {
                if matches!(event, update::Event::SwitchDone { .. }) {
                    self.text_due_ms = Some(self.clock.now_ms() + TEXT_AFTER_MS);
                }
                self.give(&model, event);
            }
            News::Cleared(model) => self.on_cleared(&model),
            News::Shadow(model, event) => self.give_shadow(&model, event),
            News::ShadowCleared(model) => self.on_shadow_cleared(&model),
            News::Examined(examined) => self.on_examined(examined),
            News::Log(command, lines) => self.on_log(command, lines),
            News::Measured(command, result) => self.on_measured(command, result),
            News::Certificate(question, outcome) => self.on_renewed(question, outcome),
        }
    }

    fn on_time(&mut self) {
        let now_ms = self.clock.now_ms();
        self.supervisor.live(now_ms);
        if self.text_due_ms.is_some_and(|at| now_ms >= at) {
            self.text_due_ms = None;
            footprint::let_go();
        }
        if self.session_tick_ms.is_some_and(|at| now_ms >= at) {
            self.session_tick_ms = None;
            self.session(session::Event::Tick);
        }
        if self.renewal_tick_ms.is_some_and(|at| now_ms >= at) {
            self.renewal_tick_ms = None;
            self.renewal(flotilla_device::renewal::Event::Tick);
        }
        let due = |(name, model): (&ModelName, &Managed)| {
            model.tick_ms.is_some_and(|at| now_ms >= at).then(|| name.clone())
        };
        let names: Vec<ModelName> = self.models.iter().filter_map(due).collect();
        for name in names {
            self.tick(&name);
        }
        self.tick_shadows(now_ms);
        self.tick_upgrade(now_ms);
        self.feel_if_due(now_ms);
        self.look_at_commands(now_ms);
        self.send_log(now_ms);
        self.sample_if_due(now_ms);
        self.reopen_outbox_if_due(now_ms);
        if self.endpoint_due_ms.is_some_and(|at| now_ms >= at) {
            self.announce();
        }
    }

    fn due_ms(&self) -> u64 {
        let ticks = self.models.values().filter_map(|model| model.tick_ms);
        let outbox = self.outbox.as_ref().filter(|_| self.session.is_up()).and_then(Store::due_ms);
        let others = [
            self.session_tick_ms,
            self.renewal_tick_ms,
            outbox,
            self.outbox_due_ms,
            self.upgrade_due_ms(),
            self.shadows_due_ms(),
            self.log_pull.due_ms(),
            Some(self.sample_due_ms),
            Some(self.heat.due_ms()),
            self.commands_due_ms(),
            self.text_due_ms,
            self.endpoint_due_ms,
            self.supervisor.due_ms(),
        ];
        ticks.chain(others.into_iter().flatten()).min().unwrap_or(u64::MAX / 2)
    }

    fn event(&mut self, kind: EventKind, code: Option<ErrorCode>, detail: String) {
        let detail = flotilla_device::fault::cut(detail);
        self.record_event(EventRecord { kind, model: None, release: None, code, detail });
    }

    async fn close(mut self) {
        if let Err(error) = self.options.folder.disk().remove(ENDPOINT.as_ref()) {
            tracing::warn!(%error, "the endpoint file stays behind");
        }
        for managed in self.models.values_mut() {
            managed.jobs.cancel();
        }
        self.close_shadows().await;
        self.cancel_upgrade();
        if let Some(link) = self.link.take() {
            link.close().await;
        }
        if let Some(Err(error)) = self.outbox.as_ref().map(Store::close) {
            tracing::warn!(%error, "records may be lost");
        }
    }
}
