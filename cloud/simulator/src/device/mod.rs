//! One simulated device: the shell that performs what the machines decide, on a disk in memory and a real connection.
//!
//! - `session`: what is said over the connection; `wire`: the connection, and what goes wrong on it.
//! - `update`: the machines of its models; `work`: fetching, verifying and probing for them.
//! - `records`: its outbox; `serving`: predictions by chance.
//!
//! All of it is one task beside the one that drives the connection: nothing here takes long.

mod records;
mod serving;
mod session;
mod update;
mod wire;
mod work;

use crate::chance::Nature;
use crate::identities::Identity;
use crate::run::World;
use flotilla_agent::clock::Clock;
use flotilla_agent::pairs::Credential;
use flotilla_device::command::Commands;
use flotilla_device::download::Pace;
use flotilla_device::session::{self as machine, Session};
use flotilla_device::update::{Event, UpdateJournal};
use flotilla_protocol::message::{CommandReport, Desired, EventKind, Settings};
use flotilla_protocol::{ErrorCode, ModelName, ReleaseManifest, TrustFile};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use records::Records;
use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;
use update::Managed;
use wire::Wire;
use work::Job;

/// How long a crashed device takes to start again.
const RESTART_MS: u64 = 3_000;
/// How often a flooding device lets go of a part of its flood.
const FLOOD_MS: u64 = 50;

/// A device.
pub(crate) struct Device {
    world: Arc<World>,
    index: u32,
    nature: Nature,
    identity: Arc<Identity>,
    credential: Credential,
    clock: Clock,
    rng: SmallRng,
    disk: Disk,
    run: Run,
    wire: Wire,
    life: Life,
    /// Its turn to open a connection.
    turn: Option<OwnedSemaphorePermit>,
    had_session: bool,
    /// When it last said that it runs the release that is waited for.
    told_ms: Option<u64>,
}

/// What a crash leaves.
struct Disk {
    trust: TrustFile,
    desired: Option<Desired>,
    counter: u64,
    ended: Vec<CommandReport>,
    models: BTreeMap<ModelName, Kept>,
    records: Records,
}

/// What is kept of one model.
#[derive(Default)]
struct Kept {
    journal: UpdateJournal,
    slots: [Option<Filled>; 2],
}

/// A slot with some of a release in it. Chunks lie in the library; here stands which.
struct Filled {
    release: flotilla_protocol::Digest,
    manifest: Option<Arc<ReleaseManifest>>,
    chunks: HashSet<flotilla_protocol::Digest>,
}

/// What a crash takes.
struct Run {
    session: Session,
    session_tick_ms: Option<u64>,
    commands: Commands,
    models: BTreeMap<ModelName, Managed>,
    news: VecDeque<(ModelName, Event)>,
    jobs: VecDeque<Job>,
    pace: Pace,
    sample_due_ms: u64,
    questions: u64,
    trust_questions: BTreeSet<u64>,
    refusal: Option<ErrorCode>,
}

impl Run {
    fn new(disk: &Disk) -> Self {
        Self {
            session: Session::new(disk.counter),
            session_tick_ms: Some(0),
            commands: Commands::new(disk.ended.clone()),
            models: BTreeMap::new(),
            news: VecDeque::new(),
            jobs: VecDeque::new(),
            pace: Pace::default(),
            sample_due_ms: u64::MAX,
            questions: 0,
            trust_questions: BTreeSet::new(),
            refusal: None,
        }
    }
}

/// What chance does to it, and when.
struct Life {
    away: bool,
    /// When it goes away, or comes back.
    changes_ms: Option<u64>,
    crashes_ms: Option<u64>,
    /// When it starts again, while it is down.
    starts_ms: Option<u64>,
    flood_ms: Option<u64>,
}

impl Device {
    pub(crate) fn new(
        world: Arc<World>,
        index: u32,
        identity: Arc<Identity>,
        trust: TrustFile,
    ) -> Result<Self, crate::Error> {
        let clock = Clock::new(trust.issued_at_ms);
        let (key, chain) = (identity.key_pem.as_bytes(), identity.certificate_pem.as_bytes());
        let credential =
            flotilla_agent::pairs::credential(key, chain, &world.ca, &clock).map_err(|problem| {
                crate::Error::Identity { device: identity.names.device.to_string(), problem }
            })?;
        let nature = world.natures[index as usize].clone();
        let mut rng =
            SmallRng::seed_from_u64(world.options.seed.wrapping_mul(0x9E37_79B9).wrapping_add(index.into()));
        let faults = &world.options.faults;
        let wire = Wire::new(nature.bytes_per_s, faults.duplicated.get(), faults.reordered.get());
        let life = Life {
            away: false,
            changes_ms: nature.leaves.then(|| rng.random_range(0..=ms(faults.online_for))),
            crashes_ms: nature.crashes.then(|| rng.random_range(0..=ms(faults.crash_every))),
            starts_ms: None,
            flood_ms: nature.floods.then_some(0),
        };
        let disk = Disk {
            trust,
            desired: None,
            // As the agent does where its count is lost: far above any count of hellos in an earlier simulation.
            counter: clock.wall_ms() / 1_000,
            ended: Vec::new(),
            models: BTreeMap::new(),
            records: Records::new(rng.random()),
        };
        let run = Run::new(&disk);
        let (turn, had_session, told_ms) = (None, false, None);
        Ok(Self {
            world,
            index,
            nature,
            identity,
            credential,
            clock,
            rng,
            disk,
            run,
            wire,
            life,
            turn,
            had_session,
            told_ms,
        })
    }

    /// Lives until stopped.
    pub(crate) async fn live(mut self, stop: CancellationToken) {
        self.start();
        while !stop.is_cancelled() {
            let now_ms = self.clock.now_ms();
            self.suffer(now_ms);
            if self.life.starts_ms.is_none() {
                self.on_time(now_ms);
            }
            if self.waits_for_turn(now_ms) {
                let turns = Arc::clone(&self.world.turns);
                let Some(Ok(turn)) = stop.run_until_cancelled(turns.acquire_owned()).await else { break };
                self.turn = Some(turn);
                continue;
            }
            let due = self.clock.instant(self.due_ms(now_ms));
            let free = self.wire.is_free(now_ms);
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some((number, event)) = self.wire.events.recv(), if free => self.on_link(number, event),
                () = tokio::time::sleep_until(due) => {}
            }
        }
        self.wire.close().await;
    }

    // === what happens to it ===

    fn start(&mut self) {
        self.run = Run::new(&self.disk);
        self.run.sample_due_ms = self.clock.now_ms();
        self.event(EventKind::Started, None, "simulated".to_owned());
        self.load_models();
        self.apply();
    }

    fn suffer(&mut self, now_ms: u64) {
        let faults = &self.world.options.faults;
        let (online_for, offline_for, crash_every) =
            (ms(faults.online_for), ms(faults.offline_for), ms(faults.crash_every));
        if self.life.starts_ms.is_some_and(|at| now_ms >= at) {
            self.life.starts_ms = None;
            self.start();
        }
        if self.life.crashes_ms.is_some_and(|at| now_ms >= at) {
            self.life.crashes_ms = Some(now_ms + RESTART_MS + self.about(crash_every));
            self.life.starts_ms = Some(now_ms + RESTART_MS);
            self.lose_link();
            self.forget_models();
        }
        if self.life.changes_ms.is_some_and(|at| now_ms >= at) {
            self.life.away = !self.life.away;
            let span = if self.life.away { offline_for } else { online_for };
            self.life.changes_ms = Some(now_ms + self.about(span));
            if self.life.away && self.wire.is_open() {
                self.lose_link();
                self.session(machine::Event::Lost);
            }
        }
        if self.life.flood_ms.is_some_and(|at| now_ms >= at) {
            self.life.flood_ms = Some(now_ms + FLOOD_MS);
            self.flood();
        }
    }

    /// At least half of a span.
    fn about(&mut self, span_ms: u64) -> u64 {
        self.rng.random_range(span_ms / 2..=span_ms)
    }

    // === time ===

    fn on_time(&mut self, now_ms: u64) {
        if let Some((down, payload)) = self.wire.overdue(now_ms) {
            self.on_message(down, &payload);
        }
        let tick = self.run.session_tick_ms.is_some_and(|at| now_ms >= at);
        if tick && !self.life.away && (self.wire.is_open() || self.turn.is_some()) {
            self.run.session_tick_ms = None;
            self.session(machine::Event::Tick);
            if !self.wire.is_open() {
                self.turn = None;
            }
        }
        self.tick_models(now_ms);
        self.look_at_commands();
        self.work(now_ms);
        self.sample_if_due(now_ms);
        self.send_records(now_ms);
    }

    /// Whether it would open a connection now. So many do at a time as the simulation permits.
    fn waits_for_turn(&self, now_ms: u64) -> bool {
        let due = self.run.session_tick_ms.is_some_and(|at| now_ms >= at);
        due && !self.life.away && self.life.starts_ms.is_none() && !self.wire.is_open() && self.turn.is_none()
    }

    fn due_ms(&self, now_ms: u64) -> u64 {
        let life = [self.life.changes_ms, self.life.crashes_ms, self.life.starts_ms];
        let down = self.life.starts_ms.is_some();
        let up = self.run.session.is_up();
        let others = [
            self.run.session_tick_ms.filter(|_| !self.life.away),
            self.life.flood_ms.filter(|_| up),
            self.disk.records.due_ms().filter(|_| up),
            self.jobs_due_ms(),
            self.models_due_ms(),
            self.commands_due_ms(),
            self.wire.due_ms(now_ms),
            Some(self.run.sample_due_ms),
        ];
        let others = others.into_iter().flatten().filter(|_| !down);
        life.into_iter().flatten().chain(others).min().unwrap_or(u64::MAX / 2)
    }

    fn settings(&self) -> Settings {
        self.disk.desired.as_ref().map(|desired| desired.settings.clone()).unwrap_or_default()
    }

    /// The control plane's time as far as it is known.
    fn present_ms(&self) -> u64 {
        self.clock.present_ms().unwrap_or_else(|| self.clock.trusted_ms())
    }
}

fn ms(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
