//! A model that was trained here, read back from its file.

use burn::tensor::{Device, Tensor};
use flotilla_onnx::Model;

use crate::export::{ALGORITHM_KEY, CLASSES_KEY, NETWORK_KEY, NOTE_FORMAT, Note, Notes};
use crate::fit::{parts, tensor};
use crate::fold::{Convolution, Folded};
use crate::kernel::Statistics;
use crate::network::{Network, Pass, Unit, numbers};
use crate::operation;
use crate::plan::NetworkPlan;
use crate::weights::{UnitWeights, Weights};
use crate::wiring::Wiring;
use crate::{Error, Images, Result, export};

/// Most bytes of a text in the metadata.
const MAX_TEXT: usize = 1 << 18;
/// Images that tell what normalisation saw.
const REVIVING_IMAGES: usize = 512;
/// What keeps the deviation of a normalisation from zero.
const EPSILON: f64 = 1e-5;

/// A model that was trained here: its plan and its weights.
#[derive(Clone, Debug, PartialEq)]
pub struct Source {
    plan: NetworkPlan,
    algorithm: String,
    classes: Vec<String>,
    bytes: usize,
    folded: Folded,
}

impl Source {
    /// Reads a file of [`crate::train`] or [`crate::shrink`]. Anything else is refused with [`Error::NotOurs`].
    pub fn read(onnx: &[u8]) -> Result<Self> {
        let model = Model::read(onnx).map_err(Error::Read)?;
        let text = |key| model.metadata_value(key).filter(|text| text.len() <= MAX_TEXT);
        let note = text(NETWORK_KEY)
            .ok_or_else(|| not_ours(format!("its file does not describe a network under `{NETWORK_KEY}`")))?;
        let note: Note = serde_json::from_str(note).map_err(|error| {
            not_ours(format!("what stands under `{NETWORK_KEY}` is no network ({error})"))
        })?;
        if note.format != NOTE_FORMAT {
            let found = note.format;
            return Err(not_ours(format!(
                "format {found} of `{NETWORK_KEY}` is not known, only {NOTE_FORMAT}"
            )));
        }
        let plan = note.network;
        plan.validate().map_err(|error| not_ours(error.to_string()))?;
        let classes: Vec<String> = text(CLASSES_KEY)
            .and_then(|text| serde_json::from_str(text).ok())
            .filter(|classes: &Vec<String>| classes.len() == plan.classes)
            .ok_or_else(|| not_ours(format!("`{CLASSES_KEY}` does not name {} classes", plan.classes)))?;
        let algorithm = text(ALGORITHM_KEY).unwrap_or_default().to_owned();
        let wiring = Wiring::new(&plan);
        let mut convolutions = Vec::with_capacity(wiring.units.len());
        for unit in wiring.units {
            let weight = constant(&model, &format!("{}.weight", unit.name), &unit.dims)?;
            let bias = constant(&model, &format!("{}.bias", unit.name), &unit.dims[..1])?;
            let (dims, stride, groups) = (unit.dims, unit.stride, unit.groups);
            convolutions.push(Convolution { dims, weight, bias, stride, groups });
        }
        let head = constant(&model, "head.weight", &[plan.classes, plan.features()])?;
        let bias = constant(&model, "head.bias", &[plan.classes])?;
        let source =
            Self { plan, algorithm, classes, bytes: onnx.len(), folded: Folded { convolutions, head, bias } };
        // What computes the outputs must be the network that is described, and nothing beside it.
        let again = export::model(&source.folded, &source.plan, source.notes())?;
        if again.nodes() != model.nodes() || again.outputs() != model.outputs() {
            return Err(not_ours("its graph is not the one that its network has".into()));
        }
        Ok(source)
    }

    /// The network.
    #[must_use]
    pub fn plan(&self) -> &NetworkPlan {
        &self.plan
    }

    /// Names of the classes.
    #[must_use]
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// Bytes of the file that it was read from.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn notes(&self) -> Notes<'_> {
        Notes { algorithm: &self.algorithm, classes: &self.classes, ranges: None }
    }

    /// The weights with a normalisation behind each convolution again, so that they can learn.
    ///
    /// The file has none: they are merged into the convolutions. Scale and shift are chosen so that on these images each
    /// normalisation gives what comes in, plus the bias.
    pub(crate) fn revive(&self, images: &Images) -> Result<Weights> {
        let device = Device::flex();
        let (folded, plan) = (&self.folded, &self.plan);
        let units = folded.convolutions.iter().map(plain);
        let features = plan.features();
        let head = (0..features * plan.classes)
            .map(|place| folded.head[place % plan.classes * features + place / plan.classes]);
        let mut weights = Weights { units: units.collect(), head: head.collect(), bias: folded.bias.clone() };
        let network = Network::load(plan, &weights, &device);
        let mut seen = Reviving { folded, sums: vec![Sums::default(); folded.convolutions.len()] };
        for (range, pixels) in parts(images, REVIVING_IMAGES) {
            network.run(tensor(pixels, range.len(), images, &device), &mut seen)?;
        }
        for ((unit, sums), convolution) in weights.units.iter_mut().zip(seen.sums).zip(&folded.convolutions) {
            for (channel, &bias) in convolution.bias.iter().enumerate() {
                let mean = sums.mean[channel] / sums.weight;
                let variance = sums.square[channel] / sums.weight - mean * mean;
                unit.mean[channel] = mean as f32;
                unit.variance[channel] = variance.max(0.0) as f32;
                unit.gamma[channel] = (f64::from(unit.variance[channel]) + EPSILON).sqrt() as f32;
                unit.beta[channel] = (f64::from(bias) + f64::from(unit.mean[channel])) as f32;
            }
        }
        Ok(weights)
    }
}

fn not_ours(problem: String) -> Error {
    Error::NotOurs { problem }
}

fn constant(model: &Model, name: &str, dims: &[usize]) -> Result<Vec<f32>> {
    match model.tensor_f32(name) {
        Ok(tensor) if tensor.dims == dims && tensor.data.iter().all(|v| v.is_finite()) => Ok(tensor.data),
        _ => Err(not_ours(format!("`{name}` is no constant of {dims:?} finite 32-bit floats"))),
    }
}

/// A normalisation that adds the bias and changes nothing else.
fn plain(convolution: &Convolution) -> UnitWeights {
    let channels = convolution.bias.len();
    UnitWeights {
        dims: convolution.dims,
        weight: convolution.weight.clone(),
        gamma: vec![1.0; channels],
        beta: convolution.bias.clone(),
        mean: vec![0.0; channels],
        variance: vec![(1.0 - EPSILON) as f32; channels],
        epsilon: EPSILON,
        stride: convolution.stride,
        groups: convolution.groups,
    }
}

/// What a convolution gave over several batches.
#[derive(Clone, Default)]
struct Sums {
    weight: f64,
    mean: Vec<f64>,
    square: Vec<f64>,
}

/// A run that looks at what each convolution gives before its normalisation.
struct Reviving<'a> {
    folded: &'a Folded,
    sums: Vec<Sums>,
}

impl Pass for Reviving<'_> {
    fn unit(&mut self, place: usize, unit: &Unit, x: Tensor<4>) -> Result<Tensor<4>> {
        let sum = unit.convolve(x, unit.weight.val())?;
        let (dims, norm) = (sum.dims(), unit.settings());
        let Statistics { mean, variance } = norm.layer(dims).statistics(&numbers(sum.clone())?);
        let images = dims[0] as f64;
        let sums = &mut self.sums[place];
        sums.weight += images;
        sums.mean.resize(mean.len(), 0.0);
        sums.square.resize(mean.len(), 0.0);
        for (channel, (mean, variance)) in mean.into_iter().zip(variance).enumerate() {
            let mean = f64::from(mean);
            sums.mean[channel] += images * mean;
            sums.square[channel] += images * (f64::from(variance) + mean * mean);
        }
        let channels = self.folded.convolutions[place].bias.len();
        let plain =
            Statistics { mean: vec![0.0; channels], variance: vec![(1.0 - EPSILON) as f32; channels] };
        operation::normalise_by(sum, unit.norm.gamma.val(), unit.norm.beta.val(), &plain, norm)
    }
}
