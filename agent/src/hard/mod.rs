//! Hard examples: inputs that a model was not sure of, kept for the cloud with what the model said, if the device's
//! desired document consents to it.
//!
//! - here: the way in. Whoever has a prediction offers it after it is answered; without a consent that costs a look at
//!   a flag, and with one a copy of what is kept. Nothing waits: beyond [`WAITING`] it is dropped, and counted.
//! - `worker`: the one task that stores and sends them.
//! - `files`: what lies in the folder `hard`.

mod files;
mod worker;

pub(crate) use worker::Worker;

use crate::link::Sender;
use flotilla_device::hard::{decide, margin, wants_disagreements};
use flotilla_protocol::message::{
    Desired, HardExample, HardExamples as Policy, HardReason, Reply, ReplyBody, Settings,
};
use flotilla_protocol::{Digest, ModelName, limits};
use flotilla_runtime::{Answer, Input, Prediction, Preprocessor};
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};

/// Examples that may wait to be stored.
const QUEUE: usize = 16;
/// Bytes that they may have together.
const WAITING: usize = 2 * limits::HARD_EXAMPLE;
/// Answers of the cloud that may wait.
const REPLIES: usize = 8;

/// What was predicted, as it stood before the model.
#[derive(Clone, Copy, Debug)]
pub enum Seen<'a> {
    /// What an application sent.
    Input(Input<'a>),
    /// A tensor as the network takes it.
    Tensor(&'a [f32]),
}

impl Seen<'_> {
    fn bytes(&self) -> usize {
        match self {
            Seen::Input(input) => input.bytes().len(),
            Seen::Tensor(values) => size_of_val(*values),
        }
    }

    fn to_owned(self) -> Copied {
        match self {
            Seen::Input(Input::Encoded(bytes) | Input::Unsaid(bytes)) => Copied::Encoded(bytes.to_vec()),
            Seen::Input(Input::Raw(bytes)) => Copied::Raw(bytes.to_vec()),
            Seen::Tensor(values) => Copied::Tensor(values.to_vec()),
        }
    }
}

/// A copy of it.
enum Copied {
    Encoded(Vec<u8>),
    Raw(Vec<u8>),
    Tensor(Vec<f32>),
}

/// An example on its way to the disk.
struct Found {
    copied: Copied,
    preprocessor: Arc<Preprocessor>,
    example: HardExample,
    _room: OwnedSemaphorePermit,
}

impl Found {
    /// What to keep: a picture, recording or row as it was sent, or made of raw values at the model's own size.
    fn kept(self) -> flotilla_runtime::Result<Vec<u8>> {
        let kept = match self.copied {
            Copied::Encoded(bytes) => self.preprocessor.kept(Input::Encoded(&bytes))?,
            Copied::Raw(values) => self.preprocessor.kept(Input::Raw(&values))?,
            Copied::Tensor(values) => match self.preprocessor.pictures() {
                Some(pictures) => Some(pictures.picture(&values)?),
                None => None,
            },
        };
        kept.ok_or(flotilla_runtime::Error::ImageFormat)
    }
}

/// What the operator wants.
#[derive(Clone, Debug, Default, PartialEq)]
struct Wanted {
    policies: BTreeMap<ModelName, Policy>,
    settings: Settings,
}

/// Figures for whoever looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Figures {
    /// Examples that are kept now.
    pub kept: u64,
    /// Bytes that they take.
    pub bytes: u64,
    /// Examples that the cloud has taken, since the start.
    pub sent: u64,
    /// Examples that found no room, or lost it to others, since the start.
    pub dropped: u64,
    /// Examples that the cloud will never take, since the start.
    pub refused: u64,
    /// Stored examples that were damaged, since the start.
    pub damaged: u64,
}

/// The way in. Clones share it.
#[derive(Clone)]
pub struct HardExamples(Arc<Shared>);

struct Shared {
    /// Whether there is any policy.
    on: AtomicBool,
    policies: RwLock<BTreeMap<ModelName, Policy>>,
    room: Arc<Semaphore>,
    found: mpsc::Sender<Found>,
    dropped: AtomicU64,
    wanted: watch::Sender<Option<Wanted>>,
    link: watch::Sender<Option<Sender>>,
    replies: mpsc::Sender<Reply>,
    figures: Mutex<Figures>,
}

/// What a [`Worker`] takes from the way in.
pub(crate) struct Outlet {
    shared: Arc<Shared>,
    found: mpsc::Receiver<Found>,
    wanted: watch::Receiver<Option<Wanted>>,
    link: watch::Receiver<Option<Sender>>,
    replies: mpsc::Receiver<Reply>,
}

#[cfg(test)]
impl Outlet {
    /// Why the next input is to be kept, if there is one.
    pub(crate) fn next_reason(&mut self) -> Option<HardReason> {
        self.found.try_recv().ok().map(|found| found.example.reason)
    }
}

impl std::fmt::Debug for HardExamples {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HardExamples").finish_non_exhaustive()
    }
}

/// Without a worker nothing is kept.
impl Default for HardExamples {
    fn default() -> Self {
        Self::new().0
    }
}

impl HardExamples {
    /// A way in, switched off, and its end for a [`Worker`].
    pub(crate) fn new() -> (Self, Outlet) {
        let (found, found_in) = mpsc::channel(QUEUE);
        let (replies, replies_in) = mpsc::channel(REPLIES);
        let (wanted, wanted_in) = watch::channel(None);
        let (link, link_in) = watch::channel(None);
        let shared = Arc::new(Shared {
            on: AtomicBool::new(false),
            policies: RwLock::default(),
            room: Arc::new(Semaphore::new(WAITING)),
            found,
            dropped: AtomicU64::new(0),
            wanted,
            link,
            replies,
            figures: Mutex::default(),
        });
        let outlet = Outlet {
            shared: Arc::clone(&shared),
            found: found_in,
            wanted: wanted_in,
            link: link_in,
            replies: replies_in,
        };
        (Self(shared), outlet)
    }

    /// Takes the consents and settings of a desired document. A model without a consent offers nothing any more when this
    /// returns; what is kept of it is deleted at once, by the worker.
    pub(crate) fn configure(&self, desired: &Desired) {
        let consents = desired.hard_examples.iter().filter(|(_, policy)| policy.daily_bytes > 0);
        let policies: BTreeMap<_, _> =
            consents.map(|(model, policy)| (model.clone(), policy.clone())).collect();
        self.0.on.store(!policies.is_empty(), Ordering::Release);
        self.0.policies.write().unwrap_or_else(PoisonError::into_inner).clone_from(&policies);
        let wanted = Wanted { policies, settings: desired.settings.clone() };
        self.0.wanted.send_if_modified(|before| {
            let differs = before.as_ref() != Some(&wanted);
            *before = Some(wanted.clone());
            differs
        });
    }

    /// The link is up with this sender, or down.
    pub(crate) fn link(&self, sender: Option<Sender>) {
        self.0.link.send_if_modified(|before| {
            let other = before.is_some() != sender.is_some();
            if other {
                *before = sender;
            }
            other
        });
    }

    /// An answer came, maybe to one of the uploads.
    pub(crate) fn reply(&self, reply: &Reply) {
        if matches!(reply.body, ReplyBody::Stored { .. } | ReplyBody::Error { .. }) {
            // One that finds no room is like one that is lost: the question's time runs out.
            let _ = self.0.replies.try_send(reply.clone());
        }
    }

    /// What became of examples.
    pub fn figures(&self) -> Figures {
        let figures = *self.0.figures();
        Figures { dropped: figures.dropped + self.0.dropped.load(Ordering::Relaxed), ..figures }
    }

    /// An input was answered: keeps it, if the model's policy says so and it is something that people can look at.
    /// `preprocessor` is that of the release that answered.
    pub fn offer(
        &self,
        of: (&ModelName, Digest),
        seen: Seen<'_>,
        preprocessor: &Arc<Preprocessor>,
        prediction: &Prediction,
    ) {
        self.offer_if(of, seen, preprocessor, prediction, |policy, score, margin| {
            decide(policy, score, margin, rand::random())
        });
    }

    /// A release in the shadow has another answer to an input that was offered before.
    pub fn offer_disagreement(
        &self,
        of: (&ModelName, Digest),
        seen: Seen<'_>,
        preprocessor: &Arc<Preprocessor>,
        prediction: &Prediction,
    ) {
        self.offer_if(of, seen, preprocessor, prediction, |policy, _, _| {
            wants_disagreements(policy).then_some(HardReason::Disagreement)
        });
    }

    fn offer_if(
        &self,
        (model, release): (&ModelName, Digest),
        seen: Seen<'_>,
        preprocessor: &Arc<Preprocessor>,
        prediction: &Prediction,
        decide: impl FnOnce(&Policy, f32, f32) -> Option<HardReason>,
    ) {
        if !self.0.on.load(Ordering::Acquire) {
            return;
        }
        // Of a tensor only a picture can be made again.
        let shown = match seen {
            Seen::Input(_) => preprocessor.keeps(),
            Seen::Tensor(_) => preprocessor.pictures().is_some(),
        };
        if !shown {
            return;
        }
        let headline = prediction.headline();
        let score = match (&prediction.answer, headline) {
            // Numbers and vectors do not say how sure they are.
            (Answer::Values(_) | Answer::Embedding | Answer::Tensors(_), _) => 1.0,
            (Answer::Anomaly(anomaly), _) => f32::from(u8::from(!anomaly.anomalous)),
            (_, Some(headline)) => headline.confidence.unwrap_or(0.0),
            // Nothing that was found is what a detector is least sure of.
            (_, None) => 0.0,
        };
        let margin = match (&prediction.answer, headline) {
            (Answer::Class(_), Some(headline)) => margin(&prediction.scores, headline.label_index),
            _ => score,
        };
        let reason = {
            let policies = self.0.policies.read().unwrap_or_else(PoisonError::into_inner);
            policies.get(model).and_then(|policy| decide(policy, score, margin))
        };
        if let Some(reason) = reason
            && self.keep((model, release), seen, preprocessor, prediction, margin, reason).is_none()
        {
            self.0.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// `None` if there is no room.
    fn keep(
        &self,
        (model, release): (&ModelName, Digest),
        seen: Seen<'_>,
        preprocessor: &Arc<Preprocessor>,
        prediction: &Prediction,
        margin: f32,
        reason: HardReason,
    ) -> Option<()> {
        let bytes =
            u32::try_from(seen.bytes()).ok().filter(|bytes| *bytes as usize <= limits::HARD_EXAMPLE)?;
        let permit = self.0.found.try_reserve().ok()?;
        let headline = prediction.headline();
        let room = Arc::clone(&self.0.room).try_acquire_many_owned(bytes).ok()?;
        let example = HardExample {
            model: model.clone(),
            release,
            reason,
            label: headline.map_or("", |headline| headline.label).to_owned(),
            label_index: headline.map_or(0, |headline| headline.label_index as u32),
            score: headline.and_then(|headline| headline.confidence).unwrap_or(0.0),
            margin,
            // The worker knows the time.
            at_ms: 0,
        };
        permit.send(Found {
            copied: seen.to_owned(),
            preprocessor: Arc::clone(preprocessor),
            example,
            _room: room,
        });
        Some(())
    }
}

impl Shared {
    fn figures(&self) -> MutexGuard<'_, Figures> {
        self.figures.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
