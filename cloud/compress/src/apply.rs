//! Recipes at work: a file in, a file out.

use std::cell::OnceCell;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use flotilla_onnx::{DataType, F16_MAX, Model, Node, Tensor, f16_bits, f16_value};

use crate::forms::{self, MIN_OPSET};
use crate::gram::{Gram, grams};
use crate::int8::{Channels, sqnr_db};
use crate::layer::{Layer, layers};
use crate::reconstruct::{Grid, reconstruct};
use crate::transform::equalise::{Equalised, equalise};
use crate::transform::{Norms, bias, fold::fold};
use crate::weights::{self, Site, SkipReason, Skipped};
use crate::{
    Calibration, Error, Form, MAX_LAYERS, Means, Recipe, Result, Rounding, Step, Weights, int4, int8,
};

/// Before this version of the file format every initialiser had to be an input as well.
const MIN_IR: i64 = 4;
/// Operators with weights, and how many of them a model may have, small ones included: folding looks at each.
const PRODUCTS: [&str; 3] = ["Conv", "Gemm", "MatMul"];
const MAX_PRODUCTS: usize = 4 * MAX_LAYERS;
/// Models before their first rounding that are kept, with what samples say of them.
const KEPT: usize = 3;

/// Applies recipes to one file. What recipes begin with alike is done once.
pub(crate) struct Workshop<'a> {
    source: &'a [u8],
    calibration: Option<&'a Calibration>,
    prepared: Vec<(Vec<Step>, Rc<Prepared>)>,
}

/// A model whose weights are all floats still.
pub(crate) struct Prepared {
    pub(crate) model: Model,
    pub(crate) norms: Norms,
    pub(crate) equalised: Equalised,
    pub(crate) layers: Vec<Layer>,
    grams: OnceCell<Vec<Option<Gram>>>,
}

/// A file that a recipe made.
#[derive(Debug)]
pub(crate) struct Built {
    pub(crate) onnx: Vec<u8>,
    /// Weights that have another form now.
    pub(crate) stored: Vec<Entry>,
    /// Weights that stayed, and why.
    pub(crate) skipped: Vec<Skipped>,
}

/// A weight that has another form now.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) site: Site,
    pub(crate) form: Form,
    /// Bytes in the file, before.
    pub(crate) bytes_before: u64,
    /// Bytes of everything that takes its place.
    pub(crate) bytes_after: u64,
    /// Signal to quantisation noise of the weight alone.
    pub(crate) sqnr_db: Option<f64>,
}

impl<'a> Workshop<'a> {
    pub(crate) fn new(source: &'a [u8], calibration: Option<&'a Calibration>) -> Self {
        Self { source, calibration, prepared: Vec::new() }
    }

    /// The file that a recipe makes.
    pub(crate) fn build(&mut self, recipe: &Recipe) -> Result<Built> {
        recipe.check()?;
        if self.calibration.is_none()
            && let Some(step) = recipe.steps.iter().position(Step::needs_samples)
        {
            return Err(Error::NeedsCalibration { step });
        }
        let floats =
            |step: &Step| matches!(step, Step::StripNotes { .. } | Step::Fold {} | Step::Equalise { .. });
        let split = recipe.steps.iter().position(|step| !floats(step)).unwrap_or(recipe.steps.len());
        let (first, rest) = recipe.steps.split_at(split);
        let prepared = self.prepare(first)?;
        let mut work = Work {
            model: prepared.model.clone(),
            prepared: &prepared,
            calibration: self.calibration,
            stored: Vec::new(),
            skipped: Vec::new(),
            deltas: HashMap::new(),
        };
        for step in rest {
            work.step(step)?;
        }
        let shrinks =
            rest.iter().any(|step| matches!(step, Step::Weights(weights) if weights.only.is_empty()));
        if shrinks && work.stored.is_empty() {
            return Err(Error::NothingToCompress { skipped: work.skipped });
        }
        work.model.check_order()?;
        Ok(Built { onnx: work.model.write(), stored: work.stored, skipped: work.skipped })
    }

    /// The model after steps that leave all weights floats.
    pub(crate) fn prepare(&mut self, steps: &[Step]) -> Result<Rc<Prepared>> {
        if let Some((_, prepared)) = self.prepared.iter().find(|(done, _)| done == steps) {
            return Ok(Rc::clone(prepared));
        }
        let mut model = read(self.source)?;
        let (mut norms, mut equalised) = (Norms::default(), Equalised::default());
        for step in steps {
            float_step(&mut model, &mut norms, &mut equalised, step)?;
        }
        let layers = layers(&model);
        let prepared = Rc::new(Prepared { model, norms, equalised, layers, grams: OnceCell::new() });
        if self.prepared.len() == KEPT {
            self.prepared.remove(0);
        }
        self.prepared.push((steps.to_vec(), Rc::clone(&prepared)));
        Ok(prepared)
    }
}

/// Reads a model, and checks that its order and version allow what is done to it.
fn read(onnx: &[u8]) -> Result<Model> {
    let mut model = Model::read(onnx)?;
    model.check_order()?;
    let opset = model.opset();
    if opset < MIN_OPSET {
        return Err(Error::Opset { opset, needed: MIN_OPSET });
    }
    let layers = model.nodes().iter().filter(|node| PRODUCTS.contains(&node.op_type.as_str())).count();
    if layers > MAX_PRODUCTS {
        return Err(Error::TooManyLayers { layers });
    }
    model.require_ir_version(MIN_IR);
    Ok(model)
}

fn float_step(model: &mut Model, norms: &mut Norms, equalised: &mut Equalised, step: &Step) -> Result<()> {
    match step {
        Step::StripNotes { everywhere } => model.strip_notes(*everywhere),
        Step::Fold {} => drop(fold(model, norms)?),
        Step::Equalise { rounds } => *equalised = equalise(model, norms, *rounds)?,
        Step::Weights(_) | Step::CorrectBias { .. } | Step::Tidy {} => {}
    }
    Ok(())
}

/// A model on its way through the steps that round it.
struct Work<'a> {
    model: Model,
    prepared: &'a Prepared,
    calibration: Option<&'a Calibration>,
    stored: Vec<Entry>,
    skipped: Vec<Skipped>,
    /// What rounding did to weights, in memory order.
    deltas: HashMap<String, Vec<f32>>,
}

/// A weight in its new form, or why there is none.
type Shaped = std::result::Result<(forms::Stored, Vec<f32>), SkipReason>;

impl Work<'_> {
    fn step(&mut self, step: &Step) -> Result<()> {
        match step {
            Step::Weights(weights) if weights.form == Form::F16 => self.halve(weights),
            Step::Weights(weights) => self.round(weights),
            Step::CorrectBias { by } => self.correct(*by),
            Step::Tidy {} => {
                self.model.remove_unused_initializers();
                self.model.share_initializers();
                self.model.shorten_names();
                Ok(())
            }
            other => {
                let (mut norms, mut equalised) = (self.prepared.norms.clone(), Equalised::default());
                float_step(&mut self.model, &mut norms, &mut equalised, other)
            }
        }
    }

    /// Stores weights of layers as integers.
    fn round(&mut self, weights: &Weights) -> Result<()> {
        let found = weights::find(&self.model, weights.min_elements);
        if found.sites.len() > MAX_LAYERS {
            return Err(Error::TooManyLayers { layers: found.sites.len() });
        }
        let before: HashSet<String> = self.stored.iter().map(|entry| entry.site.name.clone()).collect();
        let skipped = found.skipped.into_iter().filter(|skipped| !before.contains(&skipped.name));
        let skipped: Vec<Skipped> = skipped.collect();
        self.check_names(weights, &found.sites, &skipped)?;
        if weights.only.is_empty() {
            for skipped in skipped {
                self.skip(skipped);
            }
        }
        let mut put = Vec::new();
        for (number, site) in found.sites.into_iter().enumerate() {
            if !weights.only.is_empty() && !weights.only.contains(&site.name) {
                continue;
            }
            let reason = if weights.except.contains(&site.name) {
                Err(SkipReason::KeptFloat)
            } else {
                // Numbered before anything is left out, so that a layer has the same names in every candidate.
                self.shape(number, &site, weights)?
            };
            let before = forms::constant_bytes(&self.model, &site.name) as u64;
            match reason {
                Ok((stored, _)) if stored.bytes(&self.model) as u64 >= before => {
                    self.skip(skip(&site, SkipReason::NoGain));
                }
                Ok((stored, floats)) => put.push((site, stored, floats, before)),
                Err(reason) => self.skip(skip(&site, reason)),
            }
        }
        let mut nodes: Vec<Node> = Vec::new();
        for (site, stored, floats, bytes_before) in put {
            let data = self.model.tensor_f32(&site.name)?.data;
            let bytes_after = stored.bytes(&self.model) as u64;
            nodes.extend(stored.put(&mut self.model, &site.name)?);
            let sqnr_db = sqnr_db(&data, &floats);
            let delta = floats.iter().zip(&data).map(|(new, old)| new - old).collect();
            self.deltas.insert(site.name.clone(), delta);
            self.skipped.retain(|skipped| skipped.name != site.name);
            self.stored.push(Entry { site, form: weights.form, bytes_before, bytes_after, sqnr_db });
        }
        self.model.insert_nodes(0, nodes)?;
        Ok(())
    }

    fn skip(&mut self, skipped: Skipped) {
        if self.skipped.iter().all(|known| known.name != skipped.name) {
            self.skipped.push(skipped);
        }
    }

    /// Refuses names that stand for no weight.
    fn check_names(&self, weights: &Weights, sites: &[Site], skipped: &[Skipped]) -> Result<()> {
        let known = sites.iter().map(|site| site.name.as_str());
        let known = known.chain(skipped.iter().map(|skipped| skipped.name.as_str()));
        let known: HashSet<&str> =
            known.chain(self.stored.iter().map(|entry| entry.site.name.as_str())).collect();
        let named = weights.only.iter().chain(&weights.except).map(String::as_str);
        match named.filter(|name| !known.contains(name)).min() {
            Some(name) => {
                let known = sites.iter().map(|site| site.name.clone()).collect();
                Err(Error::UnknownLayer { name: name.into(), known })
            }
            None => Ok(()),
        }
    }

    /// One weight in its new form, and the floats that this stands for.
    fn shape(&self, number: usize, site: &Site, weights: &Weights) -> Result<Shaped> {
        let Tensor { dims, data } = self.model.tensor_f32(&site.name)?;
        if let Some(element) = data.iter().position(|v| !v.is_finite()) {
            return Err(Error::NonFinite { tensor: site.name.clone(), element });
        }
        let place = self.prepared.layers.iter().position(|layer| layer.weight == site.name);
        let layer = place.map(|place| &self.prepared.layers[place]);
        let gram = match place {
            Some(place) if weights.rounding == Rounding::Reconstruct => self.grams()?[place].as_ref(),
            _ => None,
        };
        let energy = layer.zip(gram).map(|(layer, gram)| gram.energy(layer));
        if weights.form == Form::Int8 {
            let channels = Channels::along(&dims, site.axis)
                .ok_or_else(|| Error::NoAxis { tensor: site.name.clone(), axis: site.axis })?;
            let mut quantised =
                int8::quantise(&data, channels, &weights.clip, weights.half_scales, energy.as_deref())
                    .map_err(|element| Error::NonFinite { tensor: site.name.clone(), element })?;
            if let (Some(layer), Some(gram)) = (layer, gram)
                && quantised.scales.len() == layer.matrix.rows
            {
                let scales = &quantised.scales;
                let grid = Grid { scale: &|row, _| scales[row], range: (-127, 127) };
                let mut values = quantised.values.clone();
                reconstruct(layer, &data, &grid, gram, &mut values);
                quantised.values = values;
            }
            let floats = quantised.floats(channels);
            return Ok(Ok((forms::int8(&self.model, number, site, &dims, &quantised)?, floats)));
        }
        let contrib = weights.form == Form::MatMulNBits;
        let fits = |layer: &&Layer| {
            let dense = layer.window.is_none() && dims.len() == 2;
            let even = (layer.matrix.rows * layer.matrix.cols).is_multiple_of(2);
            if contrib { dense } else { even && (dense || !layer.matrix.transposed) }
        };
        let Some(layer) = layer.filter(fits) else { return Ok(Err(SkipReason::Shape)) };
        let block = if contrib { int4::BLOCK } else { int4::even_block(layer.matrix.cols) };
        let peak = data.iter().fold(0.0_f32, |peak, v| peak.max(v.abs()));
        if peak > F16_MAX {
            return Ok(Err(SkipReason::Range));
        }
        let mut blocks = int4::quantise(&data, layer.matrix, block, contrib, energy.as_deref());
        if let Some(gram) = gram {
            let mut shifted = data.clone();
            for row in 0..layer.matrix.rows {
                for col in 0..layer.matrix.cols {
                    let zero = f32::from(blocks.zeros[row * blocks.of_row + col / block]) - 8.0;
                    shifted[layer.matrix.at(row, col)] += zero * blocks.scale(row, col);
                }
            }
            let mut values = blocks.values.clone();
            let grid = Grid { scale: &|row, col| blocks.scale(row, col), range: int4::RANGE };
            reconstruct(layer, &shifted, &grid, gram, &mut values);
            blocks.values = values;
        }
        let floats = blocks.floats(layer.matrix);
        let stored = if contrib {
            forms::mat_mul_nbits(&self.model, number, layer, &blocks)?
        } else {
            Some(forms::int4(&self.model, number, site, &dims, layer, &blocks)?)
        };
        Ok(stored.map(|stored| (stored, floats)).ok_or(SkipReason::Shape))
    }

    fn grams(&self) -> Result<&[Option<Gram>]> {
        let Prepared { model, layers, grams: cell, .. } = self.prepared;
        if let (None, Some(set)) = (cell.get(), self.calibration) {
            let _ = cell.set(grams(model, layers, set)?);
        }
        Ok(cell.get().map(Vec::as_slice).unwrap_or_default())
    }

    /// Stores constants as 16-bit floats where that changes none by more than its own rounding.
    fn halve(&mut self, weights: &Weights) -> Result<()> {
        let outputs: HashSet<String> =
            self.model.graph().output.iter().map(|output| output.name.clone()).collect();
        // What a form consists of is as small as it should be, and scales must not lose digits.
        let found = weights::find(&self.model, weights.min_elements);
        self.check_halved(weights)?;
        let mut nodes = Vec::new();
        let float = |data_type: i32| data_type == DataType::Float as i32;
        let names: Vec<String> =
            self.model.initializers().iter().filter(|t| float(t.data_type)).map(|t| t.name.clone()).collect();
        for (number, name) in names.into_iter().enumerate() {
            let meant = weights.only.is_empty() || weights.only.contains(&name);
            if !meant
                || weights.except.contains(&name)
                || outputs.contains(&name)
                || name.starts_with("scale_")
            {
                continue;
            }
            let tensor = self.model.tensor_f32(&name)?;
            if (tensor.data.len() as u64) < weights.min_elements || !halves_well(&tensor.data) {
                continue;
            }
            let site = found.sites.iter().find(|site| site.name == name).cloned();
            let site = site.unwrap_or_else(|| Site {
                name: name.clone(),
                op: "constant".into(),
                nodes: Vec::new(),
                axis: 0,
                elements: tensor.data.len() as u64,
            });
            let stored = forms::f16(&self.model, number, &name, &tensor);
            let bytes_before = forms::constant_bytes(&self.model, &name) as u64;
            let bytes_after = stored.bytes(&self.model) as u64;
            if bytes_after >= bytes_before {
                continue;
            }
            nodes.extend(stored.put(&mut self.model, &name)?);
            let floats: Vec<f32> = tensor.data.iter().map(|v| f16_value(f16_bits(*v))).collect();
            let sqnr_db = sqnr_db(&tensor.data, &floats);
            self.skipped.retain(|skipped| skipped.name != name);
            self.stored.push(Entry { site, form: Form::F16, bytes_before, bytes_after, sqnr_db });
        }
        self.model.insert_nodes(0, nodes)?;
        Ok(())
    }

    fn check_halved(&self, weights: &Weights) -> Result<()> {
        let known = |name: &String| {
            self.model.constant(name).is_some() || self.stored.iter().any(|entry| entry.site.name == *name)
        };
        match weights.only.iter().chain(&weights.except).find(|name| !known(name)) {
            Some(name) => {
                let known = self.model.initializers().iter().map(|t| t.name.clone()).collect();
                Err(Error::UnknownLayer { name: name.clone(), known })
            }
            None => Ok(()),
        }
    }

    fn correct(&mut self, by: Means) -> Result<()> {
        let rounded: Vec<&Layer> =
            self.prepared.layers.iter().filter(|layer| self.deltas.contains_key(&layer.weight)).collect();
        let reference = &self.prepared.model;
        match (by, self.calibration) {
            (Means::Samples, Some(set)) => {
                bias::by_samples(&mut self.model, reference, &rounded, set)?;
            }
            (Means::Samples, None) => {}
            (Means::Norms, _) => {
                let norms = &self.prepared.norms;
                bias::by_norms(&mut self.model, reference, &rounded, norms, &self.deltas)?;
            }
        }
        Ok(())
    }
}

/// Whether 16-bit floats hold values with an error that is small beside all of them: a thousandth of their root mean
/// square.
fn halves_well(data: &[f32]) -> bool {
    let square: f64 = data.iter().map(|v| f64::from(*v).powi(2)).sum();
    let bound = (square / data.len().max(1) as f64).sqrt() / 1000.0;
    let off = |v: f32| (f64::from(f16_value(f16_bits(v))) - f64::from(v)).abs();
    // Large values among small ones are off by more than that, and by no more than their own last digit.
    data.iter().all(|&v| v.abs() <= F16_MAX && off(v) <= bound.max(f64::from(v.abs()) / 2048.0))
}

fn skip(site: &Site, reason: SkipReason) -> Skipped {
    Skipped { name: site.name.clone(), op: site.op.clone(), elements: site.elements, reason }
}
