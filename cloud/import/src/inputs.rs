//! Inputs made up for a pipeline: a device that answers them as the control plane did computes the same. They say nothing
//! about how good a model is.

use flotilla_protocol::Pipeline;
use flotilla_protocol::pipeline::table::{Column, ColumnKind};
use flotilla_protocol::pipeline::{Input, TensorKind, TensorSpec};
use serde_json::{Value, json};

/// Inputs that are made, if they are small enough …
const INPUTS: usize = 4;
/// … to have so many bytes together; one is made however large it is.
const BYTES: usize = 1 << 20;

/// Whole inputs for this pipeline, always the same ones: pictures and tensors as raw values, recordings as samples, rows
/// as JSON.
pub fn generated_inputs(pipeline: &Pipeline) -> Vec<Vec<u8>> {
    let mut inputs: Vec<Vec<u8>> = Vec::with_capacity(INPUTS);
    for number in 0..INPUTS {
        let mut noise = Noise(number as u64 + 1);
        let input = match &pipeline.input {
            Input::Image(image) => picture(
                number,
                image.width as usize,
                image.height as usize,
                image.colour.channels(),
                &mut noise,
            ),
            Input::Sound(sound) => recording(number, sound.rate, sound.clip.samples as usize, &mut noise),
            Input::Table(table) => row(number, &table.columns, &mut noise),
            Input::Tensors(tensors) => {
                tensors.tensors.iter().flat_map(|spec| tensor(spec, &mut noise)).collect()
            }
        };
        if !inputs.is_empty() && input.len() * (inputs.len() + 1) > BYTES {
            break;
        }
        inputs.push(input);
    }
    inputs
}

/// splitmix64
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// -1 to 1.
    fn value(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }
}

/// A gradient, patches, stripes, a bright square: what networks for pictures tell apart.
fn picture(number: usize, width: usize, height: usize, channels: usize, noise: &mut Noise) -> Vec<u8> {
    let patches: Vec<u8> = (0..64 * channels).map(|_| noise.next() as u8).collect();
    let mut bytes = Vec::with_capacity(width * height * channels);
    for y in 0..height {
        for x in 0..width {
            for channel in 0..channels {
                bytes.push(match number {
                    0 => ((x * 255 / width.max(1) + y * 255 / height.max(1)) / 2 + 40 * channel) as u8,
                    1 => patches[(y * 8 / height.max(1) * 8 + x * 8 / width.max(1)) * channels + channel],
                    2 => {
                        if (x + y) / 4 % 2 == 0 {
                            230
                        } else {
                            20 + 60 * channel as u8
                        }
                    }
                    _ => {
                        let middle = |at: usize, side: usize| (side / 4..side - side / 4).contains(&at);
                        if middle(x, width) && middle(y, height) { 240 } else { 15 }
                    }
                });
            }
        }
    }
    bytes
}

/// A tone that rises, noise, a beat, almost silence.
fn recording(number: usize, rate: u32, samples: usize, noise: &mut Noise) -> Vec<u8> {
    let sample = |at: usize, noise: &mut Noise| {
        let time = at as f32 / rate.max(1) as f32;
        let tone = |hertz: f32| (std::f32::consts::TAU * hertz * time).sin();
        match number {
            0 => 0.5 * tone(200.0 + 300.0 * time),
            1 => 0.2 * noise.value(),
            2 => 0.4 * tone(440.0) * tone(3.0),
            _ => 0.001 * noise.value(),
        }
    };
    (0..samples).flat_map(|at| sample(at, noise).to_le_bytes()).collect()
}

/// Numbers of another size a row: trees ask for thresholds that nobody here knows.
fn row(number: usize, columns: &[Column], noise: &mut Noise) -> Vec<u8> {
    let size = 10_f64.powi(number as i32);
    let mut cell = |column: &Column| -> Value {
        match &column.kind {
            ColumnKind::Number(scaled) => {
                let value = scaled.mean + f64::from(noise.value()) * scaled.std * size;
                let bounds = scaled.clip.as_ref();
                json!(bounds.map_or(value, |bounds| value.clamp(bounds.low, bounds.high)))
            }
            ColumnKind::Category(category) => {
                let place = noise.next() as usize % category.values.len().max(1);
                json!(category.values.get(place))
            }
            ColumnKind::Boolean(_) => json!(noise.next().is_multiple_of(2)),
            ColumnKind::Date(_) => {
                json!(format!("2024-{:02}-{:02}", noise.next() % 12 + 1, noise.next() % 28 + 1))
            }
        }
    };
    let cells: serde_json::Map<String, Value> =
        columns.iter().map(|column| (column.name.clone(), cell(column))).collect();
    Value::Object(cells).to_string().into_bytes()
}

/// Little-endian values: floats from -1 to 1, and integers of 0 and 1, which any table that they look things up in has.
fn tensor(spec: &TensorSpec, noise: &mut Noise) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..spec.values().unwrap_or_default() {
        match spec.kind {
            TensorKind::Fp32 => bytes.extend(noise.value().to_le_bytes()),
            TensorKind::Fp64 => bytes.extend(f64::from(noise.value()).to_le_bytes()),
            kind => {
                bytes.push((noise.next() % 2) as u8);
                bytes.resize(bytes.len() + kind.bytes() - 1, 0);
            }
        }
    }
    bytes
}
