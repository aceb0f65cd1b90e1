//! Boxes out of a detector's outputs.

use super::suppress::{Candidate, suppress};
use super::{Label, Object};
use crate::preprocess::Frame;
use crate::tensor::Port;
use crate::{Error, Result};
use flotilla_protocol::pipeline::Detection;
use flotilla_protocol::pipeline::detection::{
    AnchorFree, BoxForm, Boxes, CellBox, Decoder, OBJECTS, PriorLevel, Priors,
};

/// Boxes that go into suppression at most, the best: beyond that no network has anything to say.
const CANDIDATES: usize = 20 * OBJECTS as usize;

/// A decoder whose outputs are found and whose shapes fit.
#[derive(Clone, Debug)]
pub(super) struct Detector {
    labels: Vec<String>,
    score: f32,
    overlap: f64,
    limit: usize,
    form: Form,
    /// Columns and rows of the network's picture.
    size: [f32; 2],
}

#[derive(Clone, Debug)]
enum Form {
    Boxes { boxes: usize, scores: usize, spec: Boxes, priors: Vec<[f32; 4]> },
    YoloV5 { output: usize },
    YoloV8 { output: usize, places: usize },
    YoloX { output: usize, cells: Vec<[f32; 3]> },
    AnchorFree { levels: Vec<Level>, spec: AnchorFree },
}

/// One level of outputs without anchors.
#[derive(Clone, Debug)]
struct Level {
    stride: f32,
    columns: usize,
    cells: usize,
    classes: usize,
    objectness: Option<usize>,
    boxes: usize,
    /// Whether values of a cell lie as planes.
    planes: bool,
}

impl Detector {
    /// Finds the outputs among `ports` for a network that takes pictures of this size.
    pub(super) fn new(detection: &Detection, size: (u32, u32), ports: &[Port]) -> Result<Self> {
        let classes = detection.labels.len();
        let form = match &detection.decoder {
            Decoder::Boxes(spec) => {
                let (boxes, scores) = (find(ports, Some(&spec.boxes))?, find(ports, Some(&spec.scores))?);
                let wide = classes + usize::from(spec.background);
                let places = ports[boxes].values() / 4;
                expect(&ports[boxes], places * 4)?;
                expect(&ports[scores], places * wide)?;
                // Counted before they are made: a small description may ask for any number.
                let count = spec.priors.as_ref().map_or(places as u64, |priors| count_of(priors, size));
                if count != places as u64 {
                    return Err(Error::Interface(format!(
                        "it gives {places} boxes, and the priors of a picture of {} x {} are {count}",
                        size.0, size.1
                    )));
                }
                let priors = spec.priors.as_ref().map_or_else(Vec::new, |priors| cells_of(priors, size));
                Form::Boxes { boxes, scores, spec: spec.clone(), priors }
            }
            Decoder::YoloV5(yolo) => {
                let output = find(ports, yolo.output.as_deref())?;
                rows(&ports[output], 5 + classes)?;
                Form::YoloV5 { output }
            }
            Decoder::YoloV8(yolo) => {
                let output = find(ports, yolo.output.as_deref())?;
                let places = columns(&ports[output], 4 + classes)?;
                Form::YoloV8 { output, places }
            }
            Decoder::YoloX(grid) => {
                let output = find(ports, grid.output.as_deref())?;
                let places = rows(&ports[output], 5 + classes)?;
                let cells_at = |stride: &u32| u64::from(size.0 / stride) * u64::from(size.1 / stride);
                let count: u64 = grid.strides.iter().map(cells_at).sum();
                if count != places as u64 {
                    return Err(Error::Interface(format!(
                        "it gives {places} boxes, and the cells of a picture of {} x {} are {count}",
                        size.0, size.1
                    )));
                }
                let cells = grid.strides.iter().flat_map(|stride| grid_of(size, *stride)).collect();
                Form::YoloX { output, cells }
            }
            Decoder::AnchorFree(spec) => {
                let level = |level: &flotilla_protocol::pipeline::detection::AnchorFreeLevel| {
                    let (columns, rows) = (size.0.div_ceil(level.stride), size.1.div_ceil(level.stride));
                    let cells = columns as usize * rows as usize;
                    let class_port = find(ports, Some(&level.classes))?;
                    let boxes = find(ports, Some(&level.boxes))?;
                    expect(&ports[class_port], cells * classes)?;
                    expect(&ports[boxes], cells * numbers(spec.boxes))?;
                    let objectness =
                        level.objectness.as_ref().map(|name| find(ports, Some(name))).transpose()?;
                    objectness.map_or(Ok(()), |place| expect(&ports[place], cells))?;
                    // The last axis is that of a cell's values, or the first after the batch is: with rows and columns behind
                    // it, which may be as many as the values.
                    let (columns, rows) = (columns as usize, rows as usize);
                    let shape = &ports[boxes].shape;
                    let planes = shape.ends_with(&[numbers(spec.boxes), rows, columns])
                        || shape.last() != Some(&numbers(spec.boxes));
                    Ok(Level {
                        stride: level.stride as f32,
                        columns,
                        cells,
                        classes: class_port,
                        objectness,
                        boxes,
                        planes,
                    })
                };
                let levels = spec.levels.iter().map(level).collect::<Result<Vec<_>>>()?;
                Form::AnchorFree { levels, spec: spec.clone() }
            }
        };
        Ok(Self {
            labels: detection.labels.clone(),
            score: detection.score,
            overlap: f64::from(detection.overlap),
            limit: detection.limit as usize,
            form,
            size: [size.0 as f32, size.1 as f32],
        })
    }

    /// The things, in pixels of the picture that was sent.
    pub(super) fn read(&self, outputs: &[&[f32]], frame: &Frame) -> Vec<Object> {
        let mut found = Vec::new();
        self.decode(outputs, &mut |label, score, place| {
            // What is no number is no box.
            if score >= self.score && score.is_finite() && place.iter().all(|side| side.is_finite()) {
                found.push(Candidate { label, score, place });
            }
        });
        if found.len() > CANDIDATES {
            found.sort_by(|a, b| b.score.total_cmp(&a.score));
            found.truncate(CANDIDATES);
        }
        let object = |candidate: Candidate| {
            let [left, top, right, bottom] = candidate.place;
            let back = |axis: usize, value: f32| {
                ((value - frame.offset[axis]) / frame.scale[axis]).clamp(0.0, frame.size[axis])
            };
            let label = Label {
                label_index: candidate.label,
                label: self.labels[candidate.label].clone(),
                score: candidate.score,
            };
            Object { label, place: [back(0, left), back(1, top), back(0, right), back(1, bottom)] }
        };
        suppress(found, self.overlap, self.limit).into_iter().map(object).collect()
    }

    /// Hands over the best label of each place, with its box in pixels of the network's picture.
    fn decode(&self, outputs: &[&[f32]], each: &mut dyn FnMut(usize, f32, [f32; 4])) {
        let classes = self.labels.len();
        match &self.form {
            Form::Boxes { boxes, scores, spec, priors } => {
                let wide = classes + usize::from(spec.background);
                let rows = outputs[*scores].chunks_exact(wide).zip(outputs[*boxes].as_chunks::<4>().0);
                for (place, (scores, numbers)) in rows.enumerate() {
                    let total = if spec.softmax { Softmax::over(scores) } else { Softmax::none() };
                    // A place may hold more than one label.
                    for (label, score) in scores[wide - classes..].iter().enumerate() {
                        let score = total.of(*score);
                        if score >= self.score {
                            each(label, score, self.corners(spec, numbers, priors.get(place)));
                        }
                    }
                }
            }
            Form::YoloV5 { output } => {
                for row in outputs[*output].chunks_exact(5 + classes) {
                    let (label, score) = best(row[5..].iter().copied());
                    each(label, row[4] * score, centred([row[0], row[1], row[2], row[3]]));
                }
            }
            Form::YoloV8 { output, places } => {
                let at = |row: usize, place: usize| outputs[*output][row * places + place];
                for place in 0..*places {
                    let (label, score) = best((4..4 + classes).map(|row| at(row, place)));
                    each(label, score, centred([at(0, place), at(1, place), at(2, place), at(3, place)]));
                }
            }
            Form::YoloX { output, cells } => {
                for (row, [column, line, stride]) in outputs[*output].chunks_exact(5 + classes).zip(cells) {
                    let (label, score) = best(row[5..].iter().copied());
                    let centre = [(row[0] + column) * stride, (row[1] + line) * stride];
                    let size = [row[2].exp() * stride, row[3].exp() * stride];
                    each(label, row[4] * score, centred([centre[0], centre[1], size[0], size[1]]));
                }
            }
            Form::AnchorFree { levels, spec } => {
                for level in levels {
                    for cell in 0..level.cells {
                        let (label, score) =
                            best((0..classes).map(|c| level.value(outputs[level.classes], cell, c, classes)));
                        let activate = |value: f32| if spec.sigmoid { sigmoid(value) } else { value };
                        let objectness = level.objectness.map(|port| activate(outputs[port][cell]));
                        let mut score = activate(score) * objectness.unwrap_or(1.0);
                        if spec.root {
                            score = score.max(0.0).sqrt();
                        }
                        if score >= self.score {
                            each(label, score, level.place(spec, outputs[level.boxes], cell));
                        }
                    }
                }
            }
        }
    }

    fn corners(&self, spec: &Boxes, numbers: &[f32; 4], prior: Option<&[f32; 4]>) -> [f32; 4] {
        let mut numbers = *numbers;
        if let (Some([x, y, width, height]), Some(priors)) = (prior, &spec.priors) {
            let [dx, dy, dw, dh] = numbers;
            numbers = [
                x + dx * priors.centre_variance * width,
                y + dy * priors.centre_variance * height,
                width * (dw * priors.size_variance).exp(),
                height * (dh * priors.size_variance).exp(),
            ];
        }
        let [left, top, right, bottom] = match spec.form {
            BoxForm::Corners => numbers,
            BoxForm::TopLeft => [numbers[1], numbers[0], numbers[3], numbers[2]],
            BoxForm::Centre => centred(numbers),
        };
        let [width, height] = if spec.relative { self.size } else { [1.0, 1.0] };
        [left * width, top * height, right * width, bottom * height]
    }
}

impl Level {
    fn value(&self, output: &[f32], cell: usize, index: usize, of: usize) -> f32 {
        output[if self.planes { index * self.cells + cell } else { cell * of + index }]
    }

    fn place(&self, spec: &AnchorFree, output: &[f32], cell: usize) -> [f32; 4] {
        let of = numbers(spec.boxes);
        let number = |index: usize| self.value(output, cell, index, of);
        let x = ((cell % self.columns) as f32 + spec.point) * self.stride;
        let y = ((cell / self.columns) as f32 + spec.point) * self.stride;
        let sides = |side: &dyn Fn(usize) -> f32| {
            let side = |index: usize| side(index) * self.stride;
            [x - side(0), y - side(1), x + side(2), y + side(3)]
        };
        match spec.boxes {
            CellBox::CentreSize => centred([
                x + number(0) * self.stride,
                y + number(1) * self.stride,
                number(2).exp() * self.stride,
                number(3).exp() * self.stride,
            ]),
            CellBox::Distances => sides(&number),
            CellBox::Distribution { bins } => {
                let bins = usize::from(bins);
                sides(&|side| mean_of((0..bins).map(|bin| number(side * bins + bin))))
            }
        }
    }
}

/// Numbers of one cell's box.
fn numbers(boxes: CellBox) -> usize {
    match boxes {
        CellBox::CentreSize | CellBox::Distances => 4,
        CellBox::Distribution { bins } => 4 * usize::from(bins),
    }
}

/// The output of this name, or the only one.
pub(super) fn find(ports: &[Port], name: Option<&str>) -> Result<usize> {
    let names = || ports.iter().map(|port| port.name.as_str()).collect::<Vec<_>>().join(", ");
    match name {
        Some(name) => ports
            .iter()
            .position(|port| port.name == name)
            .ok_or_else(|| Error::Interface(format!("it has no output {name}; it has {}", names()))),
        None if ports.len() == 1 => Ok(0),
        None => Err(Error::Interface(format!(
            "it has {} outputs ({}); the pipeline must name the one that is meant",
            ports.len(),
            names()
        ))),
    }
}

fn expect(port: &Port, values: usize) -> Result<()> {
    if port.values() == values && values > 0 {
        return Ok(());
    }
    Err(Error::Interface(format!(
        "its output {} has the shape {:?}; {values} values are needed for these labels and boxes",
        port.name, port.shape
    )))
}

/// Rows of this many values.
fn rows(port: &Port, wide: usize) -> Result<usize> {
    let places = port.values() / wide;
    expect(port, places * wide)?;
    if port.shape.last() == Some(&wide) { Ok(places) } else { Err(turned(port, wide)) }
}

/// Columns of this many values.
fn columns(port: &Port, high: usize) -> Result<usize> {
    let places = port.values() / high;
    expect(port, places * high)?;
    if port.shape.iter().rev().nth(1) == Some(&high) { Ok(places) } else { Err(turned(port, high)) }
}

fn turned(port: &Port, of: usize) -> Error {
    Error::Interface(format!(
        "its output {} has the shape {:?}; no fitting axis has {of} values, as this decoder and these labels need",
        port.name, port.shape
    ))
}

/// Column, row and stride of each cell, row by row.
fn grid_of((width, height): (u32, u32), stride: u32) -> Vec<[f32; 3]> {
    let (columns, rows) = (width / stride, height / stride);
    (0..rows)
        .flat_map(|row| (0..columns).map(move |column| [column as f32, row as f32, stride as f32]))
        .collect()
}

/// How many priors a picture has.
fn count_of(priors: &Priors, size: (u32, u32)) -> u64 {
    let of_level = |level: &PriorLevel| {
        let cells = u64::from(size.0.div_ceil(level.stride)) * u64::from(size.1.div_ceil(level.stride));
        cells * level.sizes.len() as u64
    };
    priors.levels.iter().map(of_level).sum()
}

/// Centre, width and height of each prior, as parts of the picture.
fn cells_of(priors: &Priors, size: (u32, u32)) -> Vec<[f32; 4]> {
    let (width, height) = (size.0 as f32, size.1 as f32);
    let mut all = Vec::new();
    for level in &priors.levels {
        let (columns, rows) = (size.0.div_ceil(level.stride), size.1.div_ceil(level.stride));
        let stride = level.stride as f32;
        for row in 0..rows {
            for column in 0..columns {
                let x = (column as f32 + 0.5) * stride / width;
                let y = (row as f32 + 0.5) * stride / height;
                all.extend(level.sizes.iter().map(|[w, h]| [x, y, w / width, h / height]));
            }
        }
    }
    all
}

/// Corners of a box that is given by its centre and size.
fn centred([x, y, width, height]: [f32; 4]) -> [f32; 4] {
    [x - width / 2.0, y - height / 2.0, x + width / 2.0, y + height / 2.0]
}

/// The highest value and its place; the first of equals.
fn best(values: impl Iterator<Item = f32>) -> (usize, f32) {
    values.enumerate().fold((0, f32::NEG_INFINITY), |best, next| if next.1 > best.1 { next } else { best })
}

pub(super) fn sigmoid(value: f32) -> f32 {
    1.0 / (1.0 + (-value).exp())
}

/// The mean place of a distribution whose logits these are.
fn mean_of(logits: impl Iterator<Item = f32> + Clone) -> f32 {
    let largest = logits.clone().fold(f32::NEG_INFINITY, f32::max);
    let (mut sum, mut weighted) = (0.0, 0.0);
    for (place, logit) in logits.enumerate() {
        let weight = (logit - largest).exp();
        sum += weight;
        weighted += weight * place as f32;
    }
    weighted / sum
}

/// What makes a score of a logit, once the others of its row are known.
struct Softmax(Option<(f32, f32)>);

impl Softmax {
    fn none() -> Self {
        Self(None)
    }

    fn over(logits: &[f32]) -> Self {
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        Self(Some((largest, logits.iter().map(|logit| (logit - largest).exp()).sum())))
    }

    fn of(&self, value: f32) -> f32 {
        self.0.map_or(value, |(largest, sum)| (value - largest).exp() / sum)
    }
}
