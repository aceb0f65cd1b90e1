//! The models that serve on this device.
//!
//! A release is put in place of another in one step: requests that were admitted before it end on the old
//! one, later ones start on the new one, and none fails because of it. Each model runs one prediction at a
//! time; a bounded number of others wait, and beyond that callers are told at once that it is busy. Who waits holds no
//! thread: a busy model takes one of those that predict, and nothing from other models or from the rest of the agent.

mod blame;
mod counters;
mod drift;
mod error;
mod note;
mod pace;
mod ranked;
mod shadow;
#[cfg(test)]
pub(crate) mod testing;
mod turn;

pub use counters::Health;
pub use drift::Drifted;
pub use error::HostError;
pub use note::Notes;
pub use ranked::Ranked;
pub use shadow::{Compared, Kept, Offer, Side};
pub use turn::{Ticket, Turn};

pub(crate) use pace::threads;

use crate::hard::{HardExamples, Seen};
use counters::{Totals, Window};
use drift::{Alarm, Watched};
use flotilla_protocol::message::{ModelTelemetry, SlotName};
use flotilla_protocol::pipeline::Input as Takes;
use flotilla_protocol::{Digest, ModelName, limits};
use flotilla_runtime::{Input, Model, Port, Prediction, Preprocessor, Values};
use note::Note;
use pace::Pace;
use shadow::{Shadowed, Shown};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

/// Predictions of one model that run or wait at most.
pub const QUEUE: usize = 32;

/// A prediction and what made it.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The prediction.
    pub prediction: Prediction,
    /// The release that made it.
    pub release: Digest,
    /// The slot of that release.
    pub slot: SlotName,
    /// Time of pre-processing and inference in microseconds, waiting not included.
    pub latency_us: u64,
    /// Names of the labels, in the order of their indices.
    pub labels: Arc<[String]>,
}

/// Answers to a batch of tensors, and what made them.
#[derive(Clone, Debug, PartialEq)]
pub struct Inferred {
    /// What the network gave for each row, a tensor an output.
    pub outputs: Vec<Vec<Values>>,
    /// What post-processing made of each row.
    pub predictions: Vec<Prediction>,
    /// Names of the labels, in the order of their indices.
    pub labels: Vec<String>,
    /// The release that made them.
    pub release: Digest,
}

/// What the network of a serving release takes and gives: names, and shapes with a batch of one.
#[derive(Clone, Debug, PartialEq)]
pub struct Interface {
    /// The release.
    pub release: Digest,
    /// What it takes; states and constants are not among them.
    pub inputs: Vec<Port>,
    /// What it gives; states are not among them.
    pub outputs: Vec<Port>,
    /// What its pipeline takes.
    pub takes: Takes,
    /// Whether it keeps states between calls.
    pub stateful: bool,
    /// Names of its labels, in the order of their indices.
    pub labels: Arc<[String]>,
}

/// What serves in place of a model's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Served {
    /// The release.
    pub release: Digest,
    /// Its slot.
    pub slot: SlotName,
}

/// The serving models by name. Shared between threads by `Arc`.
#[derive(Debug, Default)]
pub struct ModelHost {
    serving: RwLock<BTreeMap<ModelName, Arc<Serving>>>,
    notes: Notes,
    alarm: Arc<Alarm>,
    hard: HardExamples,
    pace: Arc<Pace>,
}

/// One installed release.
#[derive(Debug)]
struct Serving {
    name: ModelName,
    served: Served,
    interface: Interface,
    /// What the release took that served before.
    before: Option<Takes>,
    /// Whoever waits for it gets it in the order of coming.
    model: Arc<tokio::sync::Mutex<Model>>,
    window: Mutex<Window>,
    totals: Arc<Mutex<Totals>>,
    watched: Watched,
    alarm: Arc<Alarm>,
    note: Arc<Note>,
    preprocessor: Arc<Preprocessor>,
    hard: HardExamples,
    pace: Arc<Pace>,
    lifetime: Arc<Lifetime>,
}

/// What outlives a swap.
#[derive(Debug, Default)]
struct Lifetime {
    admitted: AtomicUsize,
    shadowed: Shadowed,
}

impl ModelHost {
    /// A host without models that notes nowhere what is at work.
    pub fn new() -> Self {
        Self::default()
    }

    /// A host without models, with notes of what is at work.
    pub fn with_notes(notes: Notes) -> Self {
        Self { notes, ..Self::default() }
    }

    /// The same host, with a way for hard examples to the cloud.
    pub fn with_hard_examples(self, hard: HardExamples) -> Self {
        Self { hard, ..self }
    }

    /// The same host, with so many predictions at the same time over all models; 0 for one a core.
    pub fn with_threads(self, threads: u32) -> Self {
        Self { pace: Arc::new(Pace::new(threads)), ..self }
    }

    /// While the board is too hot each thread rests as long as it worked.
    pub fn throttle(&self, throttled: bool) {
        self.pace.throttle(throttled);
    }

    /// The notes of what is at work.
    pub fn notes(&self) -> &Notes {
        &self.notes
    }

    /// Lets `model` serve under `name`, in place of what served there before. The health window starts anew;
    /// the counters go on if it is the same release.
    pub fn install(
        &self,
        name: ModelName,
        release: Digest,
        slot: SlotName,
        mut model: Model,
    ) -> Result<(), HostError> {
        let mut all = self.serving.write().unwrap_or_else(PoisonError::into_inner);
        let before = all.get(&name);
        let same = before.filter(|before| before.served.release == release);
        let totals = same.map(|before| Arc::clone(&before.totals)).unwrap_or_default();
        let took = match before {
            Some(before) if same.is_some() => before.before.clone(),
            Some(before) => Some(before.interface.takes.clone()),
            None => None,
        };
        let lifetime = match before {
            Some(before) => Arc::clone(&before.lifetime),
            None if all.len() >= limits::DESIRED_MODELS => return Err(HostError::TooManyModels),
            None => Arc::default(),
        };
        let served = Served { release, slot };
        let interface = Interface {
            release,
            inputs: model.inputs().to_vec(),
            outputs: model.outputs().to_vec(),
            takes: model.takes().clone(),
            stateful: model.is_stateful(),
            labels: model.labels().into(),
        };
        let (preprocessor, hard) = (Arc::new(model.preprocessor().clone()), self.hard.clone());
        let watched = Watched::new(model.take_monitor());
        let serving = Serving {
            name: name.clone(),
            served,
            interface,
            before: took,
            model: Arc::new(tokio::sync::Mutex::new(model)),
            window: Mutex::default(),
            totals,
            watched,
            alarm: Arc::clone(&self.alarm),
            note: self.notes.of(&name),
            preprocessor,
            hard,
            pace: Arc::clone(&self.pace),
            lifetime,
        };
        let before = all.insert(name, Arc::new(serving));
        // The old model frees its memory after the lock is free again.
        drop(all);
        drop(before);
        Ok(())
    }

    /// Stops serving `name`; requests that are admitted already still end well. Its counters start from zero
    /// when it comes back.
    pub fn remove(&self, name: &ModelName) -> bool {
        let removed = self.serving.write().unwrap_or_else(PoisonError::into_inner).remove(name);
        removed.is_some()
    }

    /// What serves under `name`.
    pub fn served(&self, name: &ModelName) -> Option<Served> {
        self.find(name).map(|serving| serving.served)
    }

    /// What the network that serves under `name` takes and gives.
    pub fn interface(&self, name: &ModelName) -> Option<Interface> {
        self.find(name).map(|serving| serving.interface.clone())
    }

    /// Everything that serves.
    pub fn all_served(&self) -> BTreeMap<ModelName, Served> {
        self.read().iter().map(|(name, serving)| (name.clone(), serving.served)).collect()
    }

    /// Takes a place in the queue of the release that serves now. It is given back when the ticket is used or
    /// dropped.
    pub fn admit(&self, name: &ModelName) -> Result<Ticket, HostError> {
        let serving = self.find(name).ok_or_else(|| HostError::NotServing { model: name.clone() })?;
        let place = |admitted| (admitted < QUEUE).then_some(admitted + 1);
        match serving.lifetime.admitted.fetch_update(Ordering::AcqRel, Ordering::Acquire, place) {
            Ok(_) => Ok(Ticket::new(serving)),
            Err(_) => Err(HostError::Busy { model: name.clone() }),
        }
    }

    /// Predicts one input, waiting for its turn. This blocks: asynchronous callers take a ticket and wait for its turn.
    pub fn predict(&self, name: &ModelName, input: Input<'_>) -> Result<Answer, HostError> {
        self.admit(name)?.wait().predict(input)
    }

    /// The counters of every release that serves.
    pub fn telemetry(&self) -> BTreeMap<ModelName, ModelTelemetry> {
        let of = |serving: &Serving| {
            let totals = lock(&serving.totals).telemetry(serving.served.release);
            ModelTelemetry { drift: serving.watched.drift(), ..totals }
        };
        self.read().iter().map(|(name, serving)| (name.clone(), of(serving))).collect()
    }

    /// How the release that serves under `name` did since it was installed.
    pub fn health(&self, name: &ModelName) -> Option<Health> {
        let serving = self.find(name)?;
        let window = lock(&serving.window);
        Some(window.health(serving.served.release))
    }

    fn find(&self, name: &ModelName) -> Option<Arc<Serving>> {
        self.read().get(name).cloned()
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, BTreeMap<ModelName, Arc<Serving>>> {
        self.serving.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Serving {
    /// Offers an input that was answered as a hard example.
    fn offer(&self, seen: Seen<'_>, prediction: &Prediction) {
        self.hard.offer((&self.name, self.served.release), seen, &self.preprocessor, prediction);
    }

    /// Offers an input that was answered, and to which the release in the shadow has another answer.
    fn offer_disagreement(&self, seen: Seen<'_>, prediction: &Prediction) {
        self.hard.offer_disagreement((&self.name, self.served.release), seen, &self.preprocessor, prediction);
    }

    /// Shows an input that was answered to the shadow. One that keeps states would have to see all of them, and sees none;
    /// a board that is too hot has no time for one.
    fn show(&self, input: Shown<'_>, prediction: &Prediction, latency_us: u64) {
        if self.interface.stateful {
            return;
        }
        let throttled = self.pace.is_throttled();
        self.lifetime.shadowed.offer(&self.interface, input, prediction, latency_us, throttled);
    }
}

/// The runtime turns panics into errors and its state stays usable, so a poisoned lock is no reason to stop.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
