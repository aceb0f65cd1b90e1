//! A smaller network that does nearly what a larger one did: pruned or made anew, taught by the larger one, and trained
//! to have weights of few bits.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Instant;

use crate::config::{number, whole};
use crate::distil::Frozen;
use crate::export::Notes;
use crate::fit::{self, Fit, Fitted, Lesson};
use crate::fold::Folded;
use crate::observer::Counted;
use crate::prune::{self, LEAST_WIDTH};
use crate::size::{Frame, Measure};
use crate::weights::Weights;
use crate::{
    Augment, Bits, Config, Distil, Error, Images, Importance, NetworkPlan, Observer, Result, Source, Teacher,
    Trained, export, importance,
};

/// What a single cut leaves at least, of bytes or multiplications. Several small cuts, each mended by learning, lose
/// less than a large one.
const CUT: f64 = 0.6;
/// Most sizes of one series.
const MAX_SHARES: usize = 16;
/// How much faster than after a cut a network learns that begins at random.
const STUDENT_RATE: f64 = 1.5;
/// How much slower a network learns whose weights are rounded.
const ROUNDED_RATE: f64 = 0.3;
/// A series ends with the first point that loses so many times what is allowed.
const HOPELESS: f64 = 3.0;
/// Tries to find the width of a student.
const HALVINGS: usize = 20;

/// How a smaller network comes about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// The least important channels go, a cut at a time, and what is left learns after each.
    #[default]
    Prune,
    /// A network of the same stages with fewer channels begins at random.
    Student,
}

/// The settings of [`shrink`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Shrink {
    /// The sizes to try, from large to small, as shares of what the source takes with 32-bit floats.
    pub shares: Vec<f64>,
    /// What the sizes are counted in: bytes of the file with 8-bit weights, or multiplications.
    pub measure: Measure,
    /// How much accuracy may be lost; 0.01 is one point.
    pub max_drop: f64,
    /// How smaller networks come about.
    pub way: Way,
    /// What tells which channels go.
    pub importance: Importance,
    /// How much is learnt from the source.
    pub distil: Distil,
    /// Bits of the weights.
    pub bits: Bits,
    /// Whether activations are trained to have 8 bits as well. Their ranges then stand in the file.
    pub activations: bool,
    /// Epochs after each cut but the last one.
    pub cut_epochs: u32,
    /// Epochs at each size.
    pub epochs: u32,
    /// Epochs with rounded weights, at each size.
    pub rounded_epochs: u32,
    /// Images a step.
    pub batch_size: u32,
    /// The highest learning rate after a cut.
    pub learning_rate: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// How images are changed while training.
    pub augment: Augment,
    /// Where all randomness comes from.
    pub seed: u64,
    /// Threads to train on; 0 for one per core.
    pub threads: u32,
}

impl Default for Shrink {
    fn default() -> Self {
        Self {
            shares: vec![0.15, 0.1, 0.07],
            measure: Measure::Bytes,
            max_drop: 0.01,
            way: Way::default(),
            importance: Importance::default(),
            distil: Distil::default(),
            bits: Bits::default(),
            activations: false,
            cut_epochs: 2,
            epochs: 8,
            rounded_epochs: 4,
            batch_size: 64,
            learning_rate: 0.01,
            weight_decay: 0.01,
            augment: Augment::default(),
            seed: 0,
            threads: 0,
        }
    }
}

impl Shrink {
    /// Refuses settings out of their bounds.
    pub fn validate(&self) -> Result<()> {
        whole("shares", self.shares.len() as u32, 1, MAX_SHARES as u32, "1 to 16 sizes")?;
        for &share in &self.shares {
            number("shares", share, 0.001, 1.0, "shares from 0.001 to 1")?;
        }
        if !self.shares.is_sorted_by(|a, b| a > b) {
            let value = format!("{:?}", self.shares);
            return Err(Error::Setting { setting: "shares", value, bounds: "in order, the largest first" });
        }
        number("max_drop", self.max_drop, 0.0, 1.0, "from 0 to 1")?;
        check_distil(&self.distil)?;
        whole("cut_epochs", self.cut_epochs, 0, 1000, "from 0 to 1000")?;
        whole("rounded_epochs", self.rounded_epochs, 0, 1000, "from 0 to 1000")?;
        self.config(self.epochs, 1.0, 0).validate()
    }

    /// The settings of one of its trainings.
    fn config(&self, epochs: u32, rate: f64, number: u64) -> Config {
        Config {
            epochs,
            batch_size: self.batch_size,
            learning_rate: self.learning_rate * rate,
            warmup_epochs: u32::from(rate > 1.0),
            weight_decay: self.weight_decay,
            label_smoothing: 0.0,
            augment: self.augment.clone(),
            patience: 0,
            seed: self.seed.wrapping_add(number),
            threads: self.threads,
            ..Config::default()
        }
    }
}

fn check_distil(distil: &Distil) -> Result<()> {
    number("distil.temperature", distil.temperature, 0.1, 100.0, "from 0.1 to 100")?;
    number("distil.alpha", distil.alpha, 0.0, 1.0, "from 0 to 1")
}

/// A network of one size.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// The file, with weights of 32-bit floats whose rounding to so many bits loses nothing.
    #[serde(skip)]
    pub onnx: Vec<u8>,
    /// The network.
    pub plan: NetworkPlan,
    /// Share of the validation images that it gets right with its rounded weights.
    pub accuracy: f64,
    /// What it gets right less than the source; below zero where it is better.
    pub drop: f64,
    /// Bytes of the file when its weights are 8-bit integers, a few more or less.
    pub int8_bytes: u64,
    /// Those, as a share of the source's file.
    pub share: f64,
    /// Multiplications of one prediction.
    pub macs: u64,
    /// Numbers that the network has.
    pub parameters: u64,
    /// Time that it took to come from the point before.
    pub seconds: f64,
}

/// Debug output without the weights.
impl fmt::Debug for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Point")
            .field("accuracy", &self.accuracy)
            .field("drop", &self.drop)
            .field("int8_bytes", &self.int8_bytes)
            .field("share", &self.share)
            .field("macs", &self.macs)
            .finish_non_exhaustive()
    }
}

/// A series of smaller networks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Shrunk {
    /// Share of the validation images that the source gets right.
    pub accuracy: f64,
    /// Multiplications of the source.
    pub macs: u64,
    /// Bytes of the source's file.
    pub bytes: u64,
    /// The networks, from large to small.
    pub points: Vec<Point>,
    /// Place of the smallest one that loses no more than is allowed.
    pub best: Option<usize>,
}

/// Makes smaller networks of a model that was trained here.
///
/// What a point is worth is measured on the validation images here, to choose by; what counts is measured on its file.
pub fn shrink(
    settings: &Shrink,
    source: &Source,
    train: &Images,
    validation: &Images,
    observer: &mut dyn Observer,
) -> Result<Shrunk> {
    settings.validate()?;
    fit::check(source.plan(), train, validation, settings.batch_size)?;
    if train.classes != source.classes() {
        let (found, expected) = (train.classes.join(", "), source.classes().join(", "));
        return Err(Error::Mismatch { part: "training", what: "the list of classes", found, expected });
    }
    fit::pool(settings.threads)?
        .install(|| Shrinking::new(settings, source, train, validation, observer)?.run())
}

/// Trains a network on images and on what a teacher says about them. The teacher sees the images as they are changed.
pub fn distil(
    config: &Config,
    settings: Distil,
    plan: &NetworkPlan,
    teacher: &mut dyn Teacher,
    train: &Images,
    validation: &Images,
    observer: &mut dyn Observer,
) -> Result<Trained> {
    check_distil(&settings)?;
    let lesson = Lesson { teacher: Some((teacher, settings)), ..Lesson::default() };
    fit::teach(config, plan, lesson, train, validation, observer)
}

/// A shrinking in progress.
struct Shrinking<'a> {
    settings: &'a Shrink,
    source: &'a Source,
    train: &'a Images,
    validation: &'a Images,
    observer: Counted<'a>,
    frame: Frame,
    teacher: Frozen,
    accuracy: f64,
    /// The network so far, with weights that are not rounded.
    plan: NetworkPlan,
    weights: Weights,
    trainings: u64,
}

impl<'a> Shrinking<'a> {
    fn new(
        settings: &'a Shrink,
        source: &'a Source,
        train: &'a Images,
        validation: &'a Images,
        observer: &'a mut dyn Observer,
    ) -> Result<Self> {
        let plan = source.plan().clone();
        let weights = source.revive(train)?;
        Ok(Self {
            settings,
            source,
            train,
            validation,
            observer: Counted::new(observer),
            frame: Frame::of(&plan, source.bytes()),
            teacher: Frozen::new(&plan, &weights),
            accuracy: fit::measure(&plan, &weights, None, validation)?.accuracy(),
            plan,
            weights,
            trainings: 0,
        })
    }

    fn run(mut self) -> Result<Shrunk> {
        let (macs, bytes) = (self.plan.macs(), self.source.bytes() as u64);
        let whole = match self.settings.measure {
            Measure::Bytes => bytes,
            Measure::Macs => macs,
        };
        let mut points: Vec<Point> = Vec::new();
        for share in &self.settings.shares {
            let goal = (share * whole as f64) as u64;
            match self.point(goal) {
                Ok(point) => {
                    let hopeless = point.drop > HOPELESS * self.settings.max_drop;
                    points.push(point);
                    if hopeless {
                        break;
                    }
                }
                // The points that there are say more than an error would.
                Err(Error::OutOfReach { .. }) if !points.is_empty() => break,
                Err(error) => return Err(error),
            }
        }
        let allowed = |point: &Point| point.drop <= self.settings.max_drop;
        let best = points.iter().rposition(allowed);
        Ok(Shrunk { accuracy: self.accuracy, macs, bytes, points, best })
    }

    /// The network that measures no more than a goal.
    fn point(&mut self, goal: u64) -> Result<Point> {
        let started = Instant::now();
        match self.settings.way {
            Way::Prune => self.prune(goal)?,
            Way::Student => self.student(goal)?,
        }
        let bits = self.settings.bits;
        let rounded = match self.settings.rounded_epochs {
            0 => self.weights.clone(),
            epochs => {
                self.observer.begins("training with rounded weights");
                self.learn(Some(self.weights.clone()), epochs, ROUNDED_RATE, Some(bits))?.weights
            }
        };
        let ranges = match self.settings.activations {
            true => Some(fit::observe(&self.plan, rounded.clone().rounded(bits), self.train)?),
            false => None,
        };
        let rounding = Some((bits, ranges.as_deref()));
        let accuracy = fit::measure(&self.plan, &rounded, rounding, self.validation)?.accuracy();
        let folded = Folded::new(rounded).rounded(bits);
        let notes = Notes { ranges: ranges.as_deref(), ..self.source.notes() };
        let onnx = export::onnx(&folded, &self.plan, notes)?;
        let int8_bytes = Frame::of(&self.plan, onnx.len()).int8_bytes(&self.plan);
        let point = Point {
            plan: self.plan.clone(),
            accuracy,
            drop: self.accuracy - accuracy,
            int8_bytes,
            share: int8_bytes as f64 / self.source.bytes() as f64,
            macs: self.plan.macs(),
            parameters: self.plan.parameters(),
            seconds: started.elapsed().as_secs_f64(),
            onnx,
        };
        tracing::debug!(?point, "shrunk");
        Ok(point)
    }

    fn measure(&self) -> u64 {
        self.frame.measure(self.settings.measure, &self.plan)
    }

    /// Cuts and learns until the goal is met.
    fn prune(&mut self, goal: u64) -> Result<()> {
        let settings = self.settings;
        while self.measure() > goal {
            let before = self.measure();
            let next = goal.max((before as f64 * CUT) as u64);
            self.observer.begins(&format!("cutting from {before} to {next}"));
            let scores = importance::scores(settings.importance, &self.plan, &self.weights, self.train)?;
            let kept = prune::choose(&self.plan, self.frame, &scores, settings.measure, next);
            (self.plan, self.weights) = prune::narrow(&self.plan, &self.weights, &kept);
            let after = self.measure();
            if after == before {
                return Err(Error::OutOfReach { wanted: goal, least: before });
            }
            if after > goal && settings.cut_epochs > 0 {
                self.weights =
                    self.learn(Some(self.weights.clone()), settings.cut_epochs, 1.0, None)?.weights;
            }
        }
        self.weights = self.learn(Some(self.weights.clone()), settings.epochs, 1.0, None)?.weights;
        Ok(())
    }

    /// The widest network of the same stages that meets the goal, taught from the beginning.
    fn student(&mut self, goal: u64) -> Result<()> {
        let whole = self.source.plan();
        let size = |plan: &NetworkPlan| self.frame.measure(self.settings.measure, plan);
        let (mut low, mut high) = (0.0, 1.0);
        for _ in 0..HALVINGS {
            let middle = (low + high) / 2.0;
            if size(&whole.scaled(middle, LEAST_WIDTH)) <= goal { low = middle } else { high = middle }
        }
        let plan = whole.scaled(low, LEAST_WIDTH);
        if size(&plan) > goal {
            return Err(Error::OutOfReach { wanted: goal, least: size(&plan) });
        }
        self.plan = plan;
        self.observer.begins("teaching a student");
        self.weights = self.learn(None, self.settings.epochs, STUDENT_RATE, None)?.weights;
        Ok(())
    }

    fn learn(
        &mut self,
        start: Option<Weights>,
        epochs: u32,
        rate: f64,
        bits: Option<Bits>,
    ) -> Result<Fitted> {
        self.trainings += 1;
        let config = self.settings.config(epochs, rate, self.trainings);
        let lesson = Lesson {
            start: start.as_ref(),
            teacher: Some((&mut self.teacher, self.settings.distil)),
            bits,
            activations: self.settings.activations,
        };
        let fit = Fit::new(&config, &self.plan, lesson, self.train, self.validation);
        let fitted = fit.run(&mut self.observer)?;
        self.observer.ended();
        fitted.folded(&config)?;
        Ok(fitted)
    }
}
