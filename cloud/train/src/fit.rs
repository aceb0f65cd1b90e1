//! The training itself: epochs, steps, the best weights so far.

use std::fmt;
use std::time::Instant;

use burn::optim::{AdamWConfig, GradientsParams, ModuleOptimizer};
use burn::tensor::{Device, Tensor, TensorData, activation::log_softmax};
use rand::{SeedableRng, rngs::StdRng, seq::SliceRandom};

use crate::augment::Augmenter;
use crate::distil::{Distil, Teacher};
use crate::export::Notes;
use crate::fold::Folded;
use crate::network::{Network, Straight, numbers};
use crate::plan::NetworkPlan;
use crate::rounding::{Bits, Observed, Range, Rounded};
use crate::schedule::Schedule;
use crate::weights::{Average, Weights};
use crate::{Config, EpochMetrics, Error, Images, Observer, Result, export};

/// Images measured at once.
pub(crate) const EVALUATION_BATCH: usize = 128;
/// Epochs over which weights are averaged.
pub(crate) const AVERAGED_EPOCHS: u64 = 2;
/// Training images whose activations say how wide their ranges are.
const OBSERVED_IMAGES: usize = 512;
/// Room of the optimiser's second moment: small gradients of normalised layers must not vanish beside it.
pub(crate) const ADAM_EPSILON: f32 = 1e-8;

/// A trained model and how it came about.
#[derive(Clone, PartialEq)]
pub struct Trained {
    /// The file, with the weights of `best_epoch`.
    pub onnx: Vec<u8>,
    /// Numbers that the exported model has.
    pub parameters: u64,
    /// Epochs that ran.
    pub epochs: u32,
    /// The epoch whose weights are in the file, from 1: the one with the lowest validation loss.
    pub best_epoch: u32,
    /// Time that all epochs took.
    pub seconds: f64,
    /// What each epoch gave.
    pub history: Vec<EpochMetrics>,
}

/// Debug output without the weights.
impl fmt::Debug for Trained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trained")
            .field("onnx_bytes", &self.onnx.len())
            .field("parameters", &self.parameters)
            .field("epochs", &self.epochs)
            .field("best_epoch", &self.best_epoch)
            .field("seconds", &self.seconds)
            .field("last", &self.history.last())
            .finish()
    }
}

/// Trains on `train`, chooses an epoch by `validation`, and gives that epoch's averaged weights as an ONNX file.
pub fn train(
    config: &Config,
    train: &Images,
    validation: &Images,
    observer: &mut dyn Observer,
) -> Result<Trained> {
    if config.algorithm.takes_rows() {
        return Err(Error::Setting {
            setting: "algorithm",
            value: config.algorithm.name().into(),
            bounds: "dscnn-s, dscnn-m, cnn-s or resnet-8, for pictures and recordings",
        });
    }
    let plan = NetworkPlan::for_images(config.algorithm, train);
    train_plan(config, &plan, train, validation, observer)
}

/// The same with a network of one's own; `config.algorithm` is only the name that the file gets.
pub fn train_plan(
    config: &Config,
    plan: &NetworkPlan,
    train: &Images,
    validation: &Images,
    observer: &mut dyn Observer,
) -> Result<Trained> {
    teach(config, plan, Lesson::default(), train, validation, observer)
}

/// A whole training, from its check to its file.
pub(crate) fn teach<'a>(
    config: &'a Config,
    plan: &'a NetworkPlan,
    lesson: Lesson<'a>,
    train: &'a Images,
    validation: &'a Images,
    observer: &mut dyn Observer,
) -> Result<Trained> {
    config.validate()?;
    check(plan, train, validation, config.batch_size)?;
    let started = Instant::now();
    let fitted =
        pool(config.threads)?.install(|| Fit::new(config, plan, lesson, train, validation).run(observer))?;
    let folded = fitted.folded(config)?;
    let notes = Notes { algorithm: config.algorithm.name(), classes: &train.classes, ranges: None };
    let onnx = export::onnx(&folded, plan, notes)?;
    let parameters = plan.parameters();
    tracing::debug!(parameters, bytes = onnx.len(), best_epoch = fitted.best_epoch, "trained");
    Ok(Trained {
        onnx,
        parameters,
        epochs: fitted.history.len() as u32,
        best_epoch: fitted.best_epoch,
        seconds: started.elapsed().as_secs_f64(),
        history: fitted.history,
    })
}

/// Refuses images that cannot be trained on or that are not those of the network.
pub(crate) fn check(plan: &NetworkPlan, train: &Images, validation: &Images, batch_size: u32) -> Result<()> {
    train.check("training")?;
    train.check_classes()?;
    validation.check("validation")?;
    validation.check_like(train, "validation")?;
    plan.validate()?;
    let shape =
        |channels, height, width, classes| format!("{channels}x{height}x{width} of {classes} classes");
    let found = shape(train.channels, train.height, train.width, train.classes.len());
    let expected = shape(plan.channels, plan.height, plan.width, plan.classes);
    if found != expected {
        return Err(Error::Mismatch { part: "training", what: "what the network takes", found, expected });
    }
    plan.check_memory((batch_size as usize).max(EVALUATION_BATCH))
}

/// Threads to train on. Inside a pool of its own, the loop itself runs on a worker: handing each small operation over to
/// another pool would cost more than many of them take.
pub(crate) fn pool(threads: u32) -> Result<rayon::ThreadPool> {
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads as usize)
        .thread_name(|index| format!("train-{index}"))
        .build()
        .map_err(Error::Threads)
}

/// The best weights found.
pub(crate) struct Fitted {
    pub(crate) weights: Weights,
    pub(crate) best_epoch: u32,
    pub(crate) history: Vec<EpochMetrics>,
}

impl Fitted {
    /// The network as it is exported, if its numbers are finite.
    pub(crate) fn folded(&self, config: &Config) -> Result<Folded> {
        let folded = Folded::new(self.weights.clone());
        if folded.is_finite() {
            return Ok(folded);
        }
        Err(Error::Diverged { epoch: self.best_epoch, learning_rate: config.learning_rate })
    }
}

/// What is special about a training.
#[derive(Default)]
pub(crate) struct Lesson<'a> {
    /// Weights to begin with, instead of random ones.
    pub(crate) start: Option<&'a Weights>,
    /// Who is learnt from beside the labels.
    pub(crate) teacher: Option<(&'a mut dyn Teacher, Distil)>,
    /// Bits of the weights.
    pub(crate) bits: Option<Bits>,
    /// Whether activations have 8 bits as well.
    pub(crate) activations: bool,
}

/// A training in progress.
pub(crate) struct Fit<'a> {
    plan: &'a NetworkPlan,
    lesson: Lesson<'a>,
    ranges: Option<Vec<Range>>,
    config: &'a Config,
    train: &'a Images,
    validation: &'a Images,
    augmenter: Augmenter,
    rng: StdRng,
    device: Device,
    network: Network,
    optimizer: ModuleOptimizer,
    pub(crate) average: Average,
    schedule: Schedule,
    step: u64,
}

/// What was right and how wrong the rest was.
#[derive(Default)]
pub(crate) struct Tally {
    images: usize,
    right: usize,
    loss: f64,
}

impl Tally {
    /// The share of images that were right.
    pub(crate) fn accuracy(&self) -> f64 {
        self.right as f64 / self.images as f64
    }

    /// The mean loss.
    pub(crate) fn loss(&self) -> f64 {
        self.loss / self.images as f64
    }
}

impl<'a> Fit<'a> {
    pub(crate) fn new(
        config: &'a Config,
        plan: &'a NetworkPlan,
        lesson: Lesson<'a>,
        train: &'a Images,
        validation: &'a Images,
    ) -> Self {
        let mut rng = StdRng::seed_from_u64(config.seed);
        let device = Device::flex().autodiff();
        let network = match lesson.start {
            Some(weights) => Network::load(plan, weights, &device),
            None => Network::new(plan, &mut rng, &device),
        };
        let optimizer = AdamWConfig::new()
            .with_weight_decay(config.weight_decay as f32)
            .with_epsilon(ADAM_EPSILON)
            .init();
        let steps = batches(train.len(), config.batch_size as usize).count() as u64;
        let rise = u64::from(config.warmup_epochs) * steps;
        Self {
            plan,
            lesson,
            ranges: None,
            config,
            train,
            validation,
            augmenter: Augmenter::new(config.augment.clone(), train),
            rng,
            device,
            network,
            optimizer,
            average: Average::over(AVERAGED_EPOCHS * steps),
            schedule: Schedule::new(config.learning_rate, rise, u64::from(config.epochs) * steps),
            step: 0,
        }
    }

    pub(crate) fn run(mut self, observer: &mut dyn Observer) -> Result<Fitted> {
        let mut history: Vec<EpochMetrics> = Vec::new();
        let mut kept: Option<(EpochMetrics, Weights)> = None;
        for epoch in 1..=self.config.epochs {
            let started = Instant::now();
            self.observe()?;
            let trained = self.epoch(epoch, observer)?;
            let weights = self.average.weights().ok_or(Error::Engine { what: "an epoch" })?;
            let measured = measure(self.plan, weights, self.rounding(), self.validation)?;
            let metrics = EpochMetrics {
                epoch,
                of: self.config.epochs,
                train_loss: trained.loss(),
                train_accuracy: Some(trained.accuracy()),
                validation_loss: measured.loss(),
                validation_accuracy: Some(measured.accuracy()),
                validation_r2: None,
                learning_rate: self.schedule.rate(self.step.saturating_sub(1)),
                seconds: started.elapsed().as_secs_f64(),
            };
            if !metrics.validation_loss.is_finite() {
                return Err(self.diverged(epoch));
            }
            // Of a few hundred images one more or less is right by chance: the loss tells epochs apart that the
            // accuracy cannot.
            if kept.as_ref().is_none_or(|(best, _)| metrics.validation_loss < best.validation_loss) {
                kept = Some((metrics, weights.clone()));
            }
            history.push(metrics);
            observer.epoch(metrics);
            let since = kept.as_ref().map_or(0, |(best, _)| epoch - best.epoch);
            if self.config.patience > 0 && since >= self.config.patience {
                break;
            }
        }
        let (best, weights) = kept.ok_or(Error::Engine { what: "a history" })?;
        Ok(Fitted { weights, best_epoch: best.epoch, history })
    }

    /// Bits of weights, and ranges of activations that are rounded.
    fn rounding(&self) -> Option<(Bits, Option<&[Range]>)> {
        self.lesson.bits.map(|bits| (bits, self.ranges.as_deref()))
    }

    /// Looks how wide the activations are, if an epoch is to round them.
    fn observe(&mut self) -> Result<()> {
        if let Some(bits) = self.lesson.bits.filter(|_| self.lesson.activations) {
            self.ranges = Some(observe(self.plan, self.network.weights()?.rounded(bits), self.train)?);
        }
        Ok(())
    }

    pub(crate) fn epoch(&mut self, epoch: u32, observer: &dyn Observer) -> Result<Tally> {
        let mut order: Vec<usize> = (0..self.train.len()).collect();
        order.shuffle(&mut self.rng);
        let mut tally = Tally::default();
        for range in batches(order.len(), self.config.batch_size as usize) {
            if observer.cancelled() {
                return Err(Error::Cancelled { epoch });
            }
            let (loss, right) = self.learn(&order[range.clone()])?;
            if !loss.is_finite() {
                return Err(self.diverged(epoch));
            }
            tally.images += range.len();
            tally.right += right;
            tally.loss += loss * range.len() as f64;
        }
        Ok(tally)
    }

    /// One step on the images of a batch: its mean loss, and how many of its images were right.
    fn learn(&mut self, batch: &[usize]) -> Result<(f64, usize)> {
        let train = self.train;
        let mut pixels = Vec::with_capacity(batch.len() * train.values());
        batch.iter().for_each(|&index| self.augmenter.apply(train.image(index), &mut self.rng, &mut pixels));
        let labels: Vec<u32> = batch.iter().map(|&index| train.labels[index]).collect();
        let taught = match &mut self.lesson.teacher {
            Some((teacher, distil)) => Some((teacher.logits(&pixels, batch.len())?, *distil)),
            None => None,
        };
        let input = tensor(pixels, batch.len(), train, &self.device);
        let logits = match self.rounding() {
            Some((bits, ranges)) => self.network.run(input, &mut Rounded::new(bits, ranges))?,
            None => self.network.forward(input)?,
        };
        let right = count_right(&numbers(logits.clone())?, &labels);
        let targets = self.targets(&labels);
        let mut loss = -(log_softmax(logits.clone(), 1) * targets).sum() / batch.len() as f32;
        if let Some((teacher, distil)) = taught {
            let alpha = distil.alpha as f32;
            loss = loss * (1.0 - alpha) + distil.loss(logits, teacher)? * alpha;
        }
        let value = numbers(loss.clone())?.first().copied().ok_or(Error::Engine { what: "a loss" })?;
        if value.is_finite() {
            let gradients = GradientsParams::from_grads(loss.backward(), &self.network);
            let rate = self.schedule.rate(self.step);
            self.network = self.optimizer.step(rate, self.network.clone(), gradients);
            self.average.add(self.network.weights()?);
            self.step += 1;
        }
        Ok((value.into(), right))
    }

    /// The wanted probabilities, smoothed.
    fn targets(&self, labels: &[u32]) -> Tensor<2> {
        let classes = self.train.classes.len();
        let smoothing = self.config.label_smoothing as f32;
        let mut values = vec![smoothing / classes as f32; labels.len() * classes];
        for (row, &label) in values.chunks_exact_mut(classes).zip(labels) {
            row[label as usize] += 1.0 - smoothing;
        }
        Tensor::from_data(TensorData::new(values, [labels.len(), classes]), &self.device)
    }

    fn diverged(&self, epoch: u32) -> Error {
        Error::Diverged { epoch, learning_rate: self.config.learning_rate }
    }
}

/// The places of each batch. A last batch too small for its statistics to mean anything is left out: the next epoch
/// shuffles its images elsewhere.
pub(crate) fn batches(images: usize, size: usize) -> impl Iterator<Item = std::ops::Range<usize>> {
    let rest = images % size;
    let end = if images > size && rest * 4 < size { images - rest } else { images };
    (0..end).step_by(size).map(move |start| start..(start + size).min(end))
}

/// The ranges of a network's values on some images.
pub(crate) fn observe(plan: &NetworkPlan, weights: Weights, images: &Images) -> Result<Vec<Range>> {
    let device = Device::flex();
    let network = Network::load(plan, &weights, &device);
    let mut observed = Observed::default();
    for (range, pixels) in parts(images, OBSERVED_IMAGES) {
        observed.again();
        network.run(tensor(pixels, range.len(), images, &device), &mut observed)?;
    }
    Ok(observed.ranges)
}

/// The first images, at most so many, a batch after the other.
pub(crate) fn parts(
    images: &Images,
    most: usize,
) -> impl Iterator<Item = (std::ops::Range<usize>, Vec<f32>)> + '_ {
    let end = images.len().min(most);
    (0..end).step_by(EVALUATION_BATCH).map(move |start| {
        let range = start..(start + EVALUATION_BATCH).min(end);
        let pixels = &images.pixels[range.start * images.values()..range.end * images.values()];
        (range, pixels.to_vec())
    })
}

/// How a network does on images, with weights and perhaps activations of few bits.
pub(crate) fn measure(
    plan: &NetworkPlan,
    weights: &Weights,
    rounding: Option<(Bits, Option<&[Range]>)>,
    images: &Images,
) -> Result<Tally> {
    let device = Device::flex();
    let network = Network::load(plan, weights, &device);
    let mut tally = Tally::default();
    for (range, pixels) in parts(images, images.len()) {
        let input = tensor(pixels, range.len(), images, &device);
        let logits = match rounding {
            Some((bits, ranges)) => network.run(input, &mut Rounded::new(bits, ranges)),
            None => network.run(input, &mut Straight),
        };
        let logits = numbers(logits?)?;
        let labels = &images.labels[range.clone()];
        tally.images += range.len();
        tally.right += count_right(&logits, labels);
        tally.loss += cross_entropy(&logits, labels);
    }
    Ok(tally)
}

pub(crate) fn tensor(pixels: Vec<f32>, count: usize, like: &Images, device: &Device) -> Tensor<4> {
    Tensor::from_data(TensorData::new(pixels, [count, like.channels, like.height, like.width]), device)
}

/// The sum of the cross-entropies of logits.
pub(crate) fn cross_entropy(logits: &[f32], labels: &[u32]) -> f64 {
    let classes = logits.len() / labels.len().max(1);
    let of = |(row, label): (&[f32], &u32)| {
        let highest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = row.iter().map(|&v| f64::from(v - highest).exp()).sum();
        sum.ln() - f64::from(row[*label as usize] - highest)
    };
    logits.chunks_exact(classes.max(1)).zip(labels).map(of).sum()
}

pub(crate) fn count_right(logits: &[f32], labels: &[u32]) -> usize {
    let classes = logits.len() / labels.len().max(1);
    let answer = |row: &[f32]| (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b]));
    logits
        .chunks_exact(classes.max(1))
        .zip(labels)
        .filter(|(row, label)| answer(row) == Some(**label as usize))
        .count()
}
