//! The declarative pre-processing of a pipeline, executed.

mod image;
mod picture;
mod resize;
mod tensors;

pub use image::{Frame, Pictures};
pub use picture::encode_rgb;

use crate::engine::Given;
use crate::sound::Frontend;
use crate::table::TableEncoder;
use crate::tensor::Values;
use crate::{Error, Input, Result, sound};
use flotilla_protocol::Pipeline;
use flotilla_protocol::pipeline;
use std::borrow::Cow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tensors::Tensors;

/// Turns raw inputs into tensors. Made from a pipeline whose bounds are checked once.
#[derive(Clone, Debug)]
pub struct Preprocessor {
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    Image(Pictures),
    /// Its buffers are used again from call to call.
    Sound(Arc<Mutex<Frontend>>),
    Table(TableEncoder),
    Tensors(Tensors),
}

/// An input as the network takes it.
#[derive(Clone, Debug, PartialEq)]
pub struct Prepared {
    /// What the network is given, once for each window of the input; each has a tensor an input of the network, states
    /// and constants aside. Tensors of pictures hold 32-bit floats, whatever the network takes.
    pub rows: Vec<Vec<Values>>,
    /// Where the network's picture lies in the one that was sent, if it is one.
    pub frame: Option<Frame>,
}

impl Prepared {
    /// The values of the first tensor of the first window, as 32-bit floats.
    pub fn values(&self) -> Cow<'_, [f32]> {
        self.rows.first().and_then(|row| row.first()).map_or(Cow::Borrowed(&[]), Values::to_f32)
    }
}

impl Preprocessor {
    /// The pre-processing of `pipeline`.
    pub fn new(pipeline: &Pipeline) -> Result<Self> {
        pipeline.check()?;
        let kind = match &pipeline.input {
            pipeline::Input::Image(image) => Kind::Image(Pictures::new(image)?),
            pipeline::Input::Sound(sound) => Kind::Sound(Arc::new(Mutex::new(Frontend::new(sound)?))),
            pipeline::Input::Table(table) => Kind::Table(TableEncoder::new(table)?),
            pipeline::Input::Tensors(input) => Kind::Tensors(Tensors::new(input)),
        };
        Ok(Self { kind })
    }

    /// What the network will be given.
    pub fn given(&self) -> Vec<Given> {
        match &self.kind {
            Kind::Image(pictures) => vec![Given::of(&pictures.shape())],
            Kind::Sound(frontend) => {
                let mut shape = lock(frontend).shape();
                if let Some(rows) = shape.first_mut() {
                    *rows = 1;
                }
                vec![Given::of(&shape)]
            }
            Kind::Table(encoder) => vec![Given::of(&encoder.shape())],
            Kind::Tensors(tensors) => tensors
                .ports
                .iter()
                .map(|port| Given {
                    name: Some(port.name.clone()),
                    kind: Some(port.kind),
                    shape: port.shape.clone(),
                })
                .collect(),
        }
    }

    /// What knows pictures, if the model takes them.
    pub fn pictures(&self) -> Option<&Pictures> {
        match &self.kind {
            Kind::Image(pictures) => Some(pictures),
            Kind::Sound(_) | Kind::Table(_) | Kind::Tensors(_) => None,
        }
    }

    /// Bytes that a raw input has; none where it may have any number.
    pub fn raw_bytes(&self) -> Option<usize> {
        match &self.kind {
            Kind::Image(pictures) => Some(pictures.raw_bytes()),
            Kind::Sound(_) | Kind::Table(_) => None,
            Kind::Tensors(tensors) => Some(tensors.raw_bytes()),
        }
    }

    /// Says of an input of which nothing is said what it is, by what the model takes and how the bytes begin.
    pub fn told<'a>(&self, input: Input<'a>) -> Input<'a> {
        let Input::Unsaid(bytes) = input else { return input };
        let encoded = match &self.kind {
            Kind::Image(_) => picture::is_known(bytes),
            Kind::Sound(_) => sound::is_known(bytes),
            Kind::Table(_) => true,
            Kind::Tensors(tensors) => bytes.len() != tensors.raw_bytes(),
        };
        if encoded { Input::Encoded(bytes) } else { Input::Raw(bytes) }
    }

    /// Everything that comes before the network.
    pub fn prepare(&self, input: Input<'_>) -> Result<Prepared> {
        let told = self.told(input);
        match &self.kind {
            Kind::Image(pictures) => {
                let (tensor, frame) = pictures.tensor(given(told))?;
                Ok(Prepared { rows: vec![vec![Values::Fp32(tensor)]], frame: Some(frame) })
            }
            Kind::Sound(frontend) => {
                let mut frontend = lock(frontend);
                let values = match told {
                    Input::Raw(bytes) => frontend.tensor_of_samples(&samples(bytes)?)?,
                    Input::Encoded(bytes) | Input::Unsaid(bytes) => frontend.tensor(bytes)?,
                };
                let row = values.len() / frontend.shape().first().copied().unwrap_or(1).max(1);
                let rows = values.chunks(row.max(1)).map(|row| vec![Values::Fp32(row.to_vec())]).collect();
                Ok(Prepared { rows, frame: None })
            }
            Kind::Table(encoder) => {
                let tensor = encoder.tensor(told.bytes())?;
                Ok(Prepared { rows: vec![vec![Values::Fp32(tensor)]], frame: None })
            }
            Kind::Tensors(tensors) => {
                let row = match told {
                    Input::Raw(bytes) => tensors.raw(bytes)?,
                    Input::Encoded(bytes) | Input::Unsaid(bytes) => tensors.json(bytes)?,
                };
                Ok(Prepared { rows: vec![row], frame: None })
            }
        }
    }

    /// The tensor of a model that has one, of floats.
    pub fn tensor(&self, input: Input<'_>) -> Result<Vec<f32>> {
        let mut rows = self.prepare(input)?.rows.into_iter().flatten();
        match (rows.next(), rows.next()) {
            (Some(Values::Fp32(tensor)), None) => Ok(tensor),
            _ => Err(Error::Interface("it takes more than one tensor of floats".to_owned())),
        }
    }

    /// The same input, small: pictures at the model's own size and colour, as PNG, for inputs that have to be small, such
    /// as golden vectors; its tensor differs from the original's by the rounding of values to bytes. Everything else is
    /// as it is.
    pub fn miniature(&self, input: Input<'_>) -> Result<Vec<u8>> {
        match &self.kind {
            Kind::Image(pictures) => pictures.miniature(given(self.told(input))),
            Kind::Sound(_) | Kind::Table(_) | Kind::Tensors(_) => Ok(input.bytes().to_vec()),
        }
    }
}

impl Preprocessor {
    /// Whether [`Self::kept`] has anything to give of encoded and raw inputs.
    pub fn keeps(&self) -> bool {
        !matches!(self.kind, Kind::Tensors(_))
    }

    /// An input in a form that says by itself what it is, for somebody to look at later: a picture as it was sent or as PNG,
    /// a recording as it was sent or as WAV, a row as a JSON object of the columns that the model looks at. Nothing of
    /// tensors.
    pub fn kept(&self, input: Input<'_>) -> Result<Option<Vec<u8>>> {
        let told = self.told(input);
        Ok(match (&self.kind, told) {
            (Kind::Tensors(_), _) => None,
            (Kind::Table(encoder), _) => Some(encoder.named(told.bytes())?),
            (Kind::Image(pictures), Input::Raw(_)) => Some(pictures.miniature(given(told))?),
            (Kind::Sound(frontend), Input::Raw(bytes)) => {
                Some(sound::to_wav(lock(frontend).input().rate, &samples(bytes)?))
            }
            (_, Input::Encoded(bytes) | Input::Unsaid(bytes)) => Some(bytes.to_vec()),
        })
    }
}

fn lock(frontend: &Mutex<Frontend>) -> MutexGuard<'_, Frontend> {
    frontend.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Samples as little-endian 32-bit floats.
fn samples(bytes: &[u8]) -> Result<Vec<f32>> {
    let (samples, rest) = bytes.as_chunks::<4>();
    if !rest.is_empty() || samples.is_empty() {
        return Err(Error::SampleBytes { got: bytes.len() });
    }
    Ok(samples.iter().map(|sample| f32::from_le_bytes(*sample)).collect())
}

fn given(input: Input<'_>) -> image::Given<'_> {
    match input {
        Input::Raw(bytes) => image::Given::Raw(bytes),
        Input::Encoded(bytes) | Input::Unsaid(bytes) => image::Given::Encoded(bytes),
    }
}

/// The tensor of one input without a model. For many inputs, make a [`Preprocessor`] once.
pub fn preprocess(pipeline: &Pipeline, input: Input<'_>) -> Result<Vec<f32>> {
    Preprocessor::new(pipeline)?.tensor(input)
}
