//! The training itself: epochs, steps, the best weights so far.

use std::time::Instant;

use burn::optim::{AdamWConfig, GradientsParams, ModuleOptimizer};
use burn::tensor::{Device, Tensor, TensorData, activation::log_softmax};
use rand::{SeedableRng, rngs::StdRng, seq::SliceRandom};

use super::network::{Average, Dense, Layer, random};
use super::{Aims, Rows, export};
use crate::config::Loss;
use crate::fit::{
    ADAM_EPSILON, AVERAGED_EPOCHS, EVALUATION_BATCH, batches, count_right, cross_entropy, pool,
};
use crate::network::numbers;
use crate::schedule::Schedule;
use crate::{Algorithm, Config, EpochMetrics, Error, Observer, Result, Trained};

/// Most numbers of a network (64 MiB).
const MAX_PARAMETERS: usize = 1 << 24;
/// Deviations from which on an error counts by its size alone, with [`Loss::Huber`].
const HUBER_DELTA: f32 = 1.0;

/// Trains on rows, and gives the (averaged) weights with the lowest validation loss as an ONNX file.
pub fn train_rows(
    config: &Config,
    train: &Rows,
    validation: &Rows,
    observer: &mut dyn Observer,
) -> Result<Trained> {
    config.validate()?;
    if config.algorithm != Algorithm::Mlp {
        return Err(Error::Setting {
            setting: "algorithm",
            value: config.algorithm.name().into(),
            bounds: "mlp, for rows of a table",
        });
    }
    train.check("training")?;
    train.check_classes()?;
    validation.check("validation")?;
    validation.check_like(train, "validation")?;
    let widths: Vec<usize> = std::iter::once(train.width)
        .chain(config.hidden.iter().map(|width| *width as usize))
        .chain([train.outputs()])
        .collect();
    let parameters: usize = widths.windows(2).map(|pair| (pair[0] + 1) * pair[1]).sum();
    if parameters > MAX_PARAMETERS {
        return Err(Error::TooLarge {
            what: "the network",
            found: parameters as u64,
            limit: MAX_PARAMETERS as u64,
            advice: "choose narrower layers under `hidden`, or leave out columns",
        });
    }
    let started = Instant::now();
    let scale = Scale::of(train);
    let fitted = pool(config.threads)?
        .install(|| Fit::new(config, &widths, &scale, train, validation).run(observer))?;
    let layers = scale.undone(fitted.layers);
    if layers.iter().flat_map(|layer| layer.weight.iter().chain(&layer.bias)).any(|v| !v.is_finite()) {
        return Err(Error::Diverged { epoch: fitted.best_epoch, learning_rate: config.learning_rate });
    }
    Ok(Trained {
        onnx: export::onnx(&layers, train, config.algorithm.name())?,
        parameters: parameters as u64,
        epochs: fitted.history.len() as u32,
        best_epoch: fitted.best_epoch,
        seconds: started.elapsed().as_secs_f64(),
        history: fitted.history,
    })
}

/// Mean and deviation of each target over the training rows; nothing where targets are none of their own.
struct Scale(Vec<(f64, f64)>);

impl Scale {
    fn of(rows: &Rows) -> Self {
        let Aims::Values { names, values } = &rows.aims else { return Self(Vec::new()) };
        let count = rows.len() as f64;
        let scale = |target: usize| {
            let column = || values.iter().skip(target).step_by(names.len());
            let mean = column().sum::<f64>() / count;
            let std = (column().map(|value| (value - mean).powi(2)).sum::<f64>() / count).sqrt();
            // What is left of equal numbers is rounding.
            let constant = std <= 10.0 * f64::EPSILON * mean.abs() || !std.is_normal();
            (mean, if constant { 1.0 } else { std })
        };
        Self((0..names.len()).map(scale).collect())
    }

    /// What the network learns of rows: targets as multiples of their deviation, or the rows themselves.
    fn wanted(&self, rows: &Rows) -> Vec<f32> {
        match &rows.aims {
            Aims::Classes { .. } => Vec::new(),
            Aims::Values { values, .. } => values
                .iter()
                .zip(self.0.iter().cycle())
                .map(|(value, (mean, std))| ((value - mean) / std) as f32)
                .collect(),
            Aims::Themselves => rows.values.clone(),
        }
    }

    /// The layers, with a last one that gives targets in their own unit.
    fn undone(&self, mut layers: Vec<Layer>) -> Vec<Layer> {
        if let Some(last) = layers.last_mut() {
            for (weight, (_, std)) in last.weight.iter_mut().zip(self.0.iter().cycle()) {
                *weight = (f64::from(*weight) * std) as f32;
            }
            for (bias, (mean, std)) in last.bias.iter_mut().zip(&self.0) {
                *bias = (f64::from(*bias) * std + mean) as f32;
            }
        }
        layers
    }
}

/// The best weights found.
struct Fitted {
    layers: Vec<Layer>,
    best_epoch: u32,
    history: Vec<EpochMetrics>,
}

/// How a network did on rows.
#[derive(Default)]
struct Tally {
    rows: usize,
    loss: f64,
    right: Option<usize>,
    /// Sum of the squared errors of values, in deviations.
    squares: Option<f64>,
}

impl Tally {
    fn add(&mut self, rows: usize, step: &Step) {
        self.rows += rows;
        self.loss += step.loss * rows as f64;
        self.right = step.right.map(|right| self.right.unwrap_or(0) + right);
        self.squares = step.squares.map(|squares| self.squares.unwrap_or(0.0) + squares);
    }

    fn loss(&self) -> f64 {
        self.loss / self.rows.max(1) as f64
    }

    fn accuracy(&self) -> Option<f64> {
        self.right.map(|right| right as f64 / self.rows.max(1) as f64)
    }
}

/// What a batch gave.
struct Step {
    loss: f64,
    right: Option<usize>,
    squares: Option<f64>,
}

/// A training in progress.
struct Fit<'a> {
    config: &'a Config,
    train: &'a Rows,
    validation: &'a Rows,
    wanted: Vec<f32>,
    wanted_validation: Vec<f32>,
    rng: StdRng,
    device: Device,
    network: Dense,
    optimizer: ModuleOptimizer,
    average: Average,
    schedule: Schedule,
    step: u64,
}

impl<'a> Fit<'a> {
    fn new(
        config: &'a Config,
        widths: &[usize],
        scale: &Scale,
        train: &'a Rows,
        validation: &'a Rows,
    ) -> Self {
        let mut rng = StdRng::seed_from_u64(config.seed);
        let device = Device::flex().autodiff();
        let network = Dense::load(&random(widths, &mut rng), &device);
        let optimizer = AdamWConfig::new()
            .with_weight_decay(config.weight_decay as f32)
            .with_epsilon(ADAM_EPSILON)
            .init();
        let steps = batches(train.len(), config.batch_size as usize).count() as u64;
        let rise = u64::from(config.warmup_epochs) * steps;
        Self {
            config,
            train,
            validation,
            wanted: scale.wanted(train),
            wanted_validation: scale.wanted(validation),
            rng,
            device,
            network,
            optimizer,
            average: Average::over(AVERAGED_EPOCHS * steps),
            schedule: Schedule::new(config.learning_rate, rise, u64::from(config.epochs) * steps),
            step: 0,
        }
    }

    fn run(mut self, observer: &mut dyn Observer) -> Result<Fitted> {
        let mut history: Vec<EpochMetrics> = Vec::new();
        let mut kept: Option<(EpochMetrics, Vec<Layer>)> = None;
        for epoch in 1..=self.config.epochs {
            let started = Instant::now();
            let trained = self.epoch(epoch, observer)?;
            let measured = self.measure()?;
            let metrics = EpochMetrics {
                epoch,
                of: self.config.epochs,
                train_loss: trained.loss(),
                train_accuracy: trained.accuracy(),
                validation_loss: measured.loss(),
                validation_accuracy: measured.accuracy(),
                validation_r2: self.r2(&measured),
                learning_rate: self.schedule.rate(self.step.saturating_sub(1)),
                seconds: started.elapsed().as_secs_f64(),
            };
            if !metrics.validation_loss.is_finite() {
                return Err(self.diverged(epoch));
            }
            if kept.as_ref().is_none_or(|(best, _)| metrics.validation_loss < best.validation_loss) {
                kept = Some((metrics, self.average.layers.clone()));
            }
            history.push(metrics);
            observer.epoch(metrics);
            let since = kept.as_ref().map_or(0, |(best, _)| epoch - best.epoch);
            if self.config.patience > 0 && since >= self.config.patience {
                break;
            }
        }
        let (best, layers) = kept.ok_or(Error::Engine { what: "a history" })?;
        Ok(Fitted { layers, best_epoch: best.epoch, history })
    }

    fn epoch(&mut self, epoch: u32, observer: &dyn Observer) -> Result<Tally> {
        let mut order: Vec<usize> = (0..self.train.len()).collect();
        order.shuffle(&mut self.rng);
        let mut tally = Tally::default();
        for range in batches(order.len(), self.config.batch_size as usize) {
            if observer.cancelled() {
                return Err(Error::Cancelled { epoch });
            }
            let step = self.learn(&order[range.clone()])?;
            if !step.loss.is_finite() {
                return Err(self.diverged(epoch));
            }
            tally.add(range.len(), &step);
        }
        Ok(tally)
    }

    /// One step on the rows of a batch.
    fn learn(&mut self, batch: &[usize]) -> Result<Step> {
        let width = self.train.width;
        let picked = |values: &[f32], width: usize| -> Vec<f32> {
            batch.iter().flat_map(|&row| values[row * width..(row + 1) * width].iter().copied()).collect()
        };
        let rows = picked(&self.train.values, width);
        let input = Tensor::from_data(TensorData::new(rows, [batch.len(), width]), &self.device);
        let given = self.network.forward(input);
        let numbers_given = numbers(given.clone())?;
        let (loss, right, squares) = match &self.train.aims {
            Aims::Classes { names, labels } => {
                let labels: Vec<u32> = batch.iter().map(|&row| labels[row]).collect();
                let targets = self.targets(&labels, names.len());
                let loss = -(log_softmax(given, 1) * targets).sum() / batch.len() as f32;
                (loss, Some(count_right(&numbers_given, &labels)), None)
            }
            Aims::Values { .. } | Aims::Themselves => {
                let outputs = self.train.outputs();
                let wanted = picked(&self.wanted, outputs);
                let squares = squared(&numbers_given, &wanted);
                let wanted = TensorData::new(wanted, [batch.len(), outputs]);
                let error = given - Tensor::from_data(wanted, &self.device);
                (self.loss(error).mean(), None, Some(squares))
            }
        };
        let value = numbers(loss.clone())?.first().copied().ok_or(Error::Engine { what: "a loss" })?;
        if value.is_finite() {
            let gradients = GradientsParams::from_grads(loss.backward(), &self.network);
            let rate = self.schedule.rate(self.step);
            self.network = self.optimizer.step(rate, self.network.clone(), gradients);
            self.average.add(self.network.layers()?);
            self.step += 1;
        }
        Ok(Step { loss: value.into(), right, squares })
    }

    /// What an error costs, each for itself.
    fn loss(&self, error: Tensor<2>) -> Tensor<2> {
        match self.config.loss {
            Loss::Mse => error.clone() * error,
            Loss::Huber => {
                let size = error.abs();
                let near = size.clone().clamp_max(HUBER_DELTA);
                // The square up to the bound, and a line behind it.
                near.clone() * (size * 2.0 - near)
            }
        }
    }

    /// The wanted probabilities, smoothed.
    fn targets(&self, labels: &[u32], classes: usize) -> Tensor<2> {
        let smoothing = self.config.label_smoothing as f32;
        let mut values = vec![smoothing / classes as f32; labels.len() * classes];
        for (row, &label) in values.chunks_exact_mut(classes).zip(labels) {
            row[label as usize] += 1.0 - smoothing;
        }
        Tensor::from_data(TensorData::new(values, [labels.len(), classes]), &self.device)
    }

    /// How the averaged weights do on the validation rows.
    fn measure(&self) -> Result<Tally> {
        let (device, rows) = (Device::flex(), self.validation);
        let network = Dense::load(&self.average.layers, &device);
        let (outputs, mut tally) = (rows.outputs(), Tally::default());
        for start in (0..rows.len()).step_by(EVALUATION_BATCH) {
            let end = (start + EVALUATION_BATCH).min(rows.len());
            let values = rows.values[start * rows.width..end * rows.width].to_vec();
            let input = Tensor::from_data(TensorData::new(values, [end - start, rows.width]), &device);
            let given = numbers(network.forward(input))?;
            let step = match &rows.aims {
                Aims::Classes { labels, .. } => {
                    let labels = &labels[start..end];
                    let loss = cross_entropy(&given, labels) / labels.len() as f64;
                    Step { loss, right: Some(count_right(&given, labels)), squares: None }
                }
                Aims::Values { .. } | Aims::Themselves => {
                    let squares = squared(&given, &self.wanted_validation[start * outputs..end * outputs]);
                    let loss = squares / given.len() as f64;
                    Step { loss, right: None, squares: Some(squares) }
                }
            };
            tally.add(end - start, &step);
        }
        Ok(tally)
    }

    /// The share of the validation rows' variance that is explained, over all targets together.
    fn r2(&self, measured: &Tally) -> Option<f64> {
        let outputs = self.validation.outputs();
        let count = self.validation.len() as f64;
        let spread = |target: usize| {
            let column =
                || self.wanted_validation.iter().skip(target).step_by(outputs).map(|v| f64::from(*v));
            let mean = column().sum::<f64>() / count;
            column().map(|value| (value - mean).powi(2)).sum::<f64>()
        };
        let total: f64 = (0..outputs).map(spread).sum();
        measured.squares.filter(|_| total > 0.0).map(|squares| 1.0 - squares / total)
    }

    fn diverged(&self, epoch: u32) -> Error {
        Error::Diverged { epoch, learning_rate: self.config.learning_rate }
    }
}

/// Sum of the squared differences.
fn squared(given: &[f32], wanted: &[f32]) -> f64 {
    given.iter().zip(wanted).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum()
}
