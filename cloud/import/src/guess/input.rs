//! What goes in.

use flotilla_onnx::pb::NodeProto;
use flotilla_onnx::{DataType, Dim, Model, Tensor, Value};

use super::{Colour, Input, Layout, Normalisation, State};

/// Samples from which a row is a piece of sound rather than a row of a table.
const SOUND_SAMPLES: usize = 2000;

/// Features that a frame of sound has as a rule, and no picture a side.
const FEATURES: [usize; 7] = [10, 13, 20, 39, 40, 64, 80];

const SOUND_NAMES: [&str; 10] =
    ["audio", "wav", "waveform", "mfcc", "mel", "spectrogram", "speech", "fbank", "pcm", "sound"];
const FEATURE_NAMES: [&str; 5] = ["mfcc", "mel", "spectrogram", "fbank", "feats"];

pub(super) fn guess(original: &Model, model: &Model, states: &[State], why: &mut Vec<String>) -> Input {
    let all = model.inputs();
    let mut inputs: Vec<&Value> =
        all.iter().filter(|input| states.iter().all(|state| state.input != input.name)).collect();
    // A rate beside the samples says that they are sound.
    let has_rate = inputs.iter().any(|input| is_rate(input));
    inputs.retain(|input| !is_rate(input));
    let [input] = inputs.as_slice() else {
        why.push(format!("the model takes {} tensors", inputs.len()));
        return Input::Tensors;
    };
    let dims: Vec<Option<usize>> = input.dims.iter().flatten().map(size).collect();
    let name = input.name.to_lowercase();
    let named = |words: &[&str]| words.iter().any(|word| name.contains(word));
    let number = matches!(
        input.data_type,
        Some(DataType::Float | DataType::Float16 | DataType::Int8 | DataType::Uint8 | DataType::Double)
    );
    if !number {
        why.push(format!("`{}` holds neither floats nor bytes", input.name));
        return Input::Tensors;
    }
    match dims.as_slice() {
        [_, a, b, c] => picture(original, input, [*a, *b, *c], &named, why),
        [_, frames, features] if named(&FEATURE_NAMES) => {
            why.push(format!("the name `{}` is one of sound features", input.name));
            let normalisation = normalisation(original, input, why);
            Input::SoundFeatures { frames: *frames, features: *features, normalisation }
        }
        [_, Some(1), samples]
            if has_rate || named(&SOUND_NAMES) || samples.is_some_and(|n| n >= SOUND_SAMPLES) =>
        {
            why.push(format!("`{}` is one long row: sound", input.name));
            Input::Sound { samples: *samples }
        }
        [samples] | [_, samples]
            if has_rate || named(&SOUND_NAMES) || samples.is_some_and(|n| n >= SOUND_SAMPLES) =>
        {
            why.push(format!("`{}` is one long row, or is called so: sound", input.name));
            Input::Sound { samples: *samples }
        }
        [_, columns] => {
            why.push(format!(
                "`{}` is a row of {}",
                input.name,
                columns.map_or("some".into(), |n| n.to_string())
            ));
            Input::Table { columns: *columns, normalisation: normalisation(original, input, why) }
        }
        _ => {
            why.push(format!("`{}` has {} dimensions", input.name, dims.len()));
            Input::Tensors
        }
    }
}

/// Whether an input is the sample rate of what comes in another.
pub(crate) fn is_rate(input: &Value) -> bool {
    matches!(input.name.to_lowercase().as_str(), "sr" | "sample_rate" | "sampling_rate")
        && input.dims.as_ref().is_none_or(|dims| dims.len() <= 1)
}

fn size(dim: &Dim) -> Option<usize> {
    if let Dim::Fixed(size) = dim { Some(*size) } else { None }
}

/// Four dimensions: a picture, or features of sound in its shape.
fn picture(
    original: &Model,
    input: &Value,
    [a, b, c]: [Option<usize>; 3],
    named: &dyn Fn(&[&str]) -> bool,
    why: &mut Vec<String>,
) -> Input {
    let channels = |n: Option<usize>| match n {
        Some(1) => Some(Colour::Grey),
        Some(3) => Some(Colour::Colour),
        _ => None,
    };
    let (layout, colour, height, width) = match (channels(a), channels(c)) {
        (Some(colour), _) if !(colour == Colour::Grey && channels(c) == Some(Colour::Colour)) => {
            (Layout::Nchw, colour, b, c)
        }
        (_, Some(colour)) => (Layout::Nhwc, colour, a, b),
        _ => {
            why.push(format!("`{}` has neither 1 nor 3 channels", input.name));
            return Input::Tensors;
        }
    };
    let feature = |side: Option<usize>| side.is_some_and(|side| FEATURES.contains(&side));
    let oblong = height != width && (feature(width) || feature(height));
    if colour == Colour::Grey && (named(&SOUND_NAMES) || oblong) {
        why.push(format!("`{}` is frames by features of sound rather than a picture", input.name));
        let (frames, features) =
            if feature(width) || !feature(height) { (height, width) } else { (width, height) };
        return Input::SoundFeatures { frames, features, normalisation: normalisation(original, input, why) };
    }
    why.push(format!("`{}` has the shape of a picture", input.name));
    let normalisation = normalisation(original, input, why);
    Input::Image { layout, width, height, colour, normalisation }
}

/// What the first nodes say of the numbers they are given.
fn normalisation(original: &Model, input: &Value, why: &mut Vec<String>) -> Normalisation {
    let mut name = input.name.clone();
    for _ in 0..6 {
        let readers = original.consumers_of(&name);
        let [reader] = readers.as_slice() else { break };
        let node: &NodeProto = &original.nodes()[*reader];
        match node.op_type.as_str() {
            "Reshape" | "Transpose" | "Cast" | "Identity" | "Squeeze" | "Unsqueeze" => {}
            "DequantizeLinear" | "QLinearConv" => {
                if let Some(quantised) = grid(original, node, input.data_type) {
                    why.push("the input is quantised, and its scale tells the range of its numbers".into());
                    return quantised;
                }
                break;
            }
            "Sub" | "Div" | "Mul" | "Add" | "BatchNormalization"
                if takes_constants(original, node, &name) =>
            {
                why.push(format!("the model itself scales its input ({})", node.op_type));
                return Normalisation::Bytes;
            }
            _ => break,
        }
        match node.output.first() {
            Some(output) => name.clone_from(output),
            None => break,
        }
    }
    if input.data_type == Some(DataType::Uint8) {
        why.push("the input takes bytes".into());
        return Normalisation::Bytes;
    }
    Normalisation::Unknown
}

fn takes_constants(model: &Model, node: &NodeProto, name: &str) -> bool {
    node.input.iter().all(|input| input == name || model.constant(input).is_some())
}

fn grid(model: &Model, node: &NodeProto, kind: Option<DataType>) -> Option<Normalisation> {
    let scale: Tensor<f32> = model.tensor_f32(node.input.get(1)?).ok()?;
    let [scale] = scale.data.as_slice() else { return None };
    let zero = match node.input.get(2).and_then(|name| model.constant(name)) {
        Some(proto) => match (proto.raw_data.first(), proto.int32_data.first(), kind) {
            (Some(&byte), _, Some(DataType::Int8)) => i32::from(byte as i8),
            (Some(&byte), _, _) => i32::from(byte),
            (None, Some(&value), _) => value,
            _ => 0,
        },
        None => 0,
    };
    let (low, top) = if kind == Some(DataType::Int8) { (-128, 127) } else { (0, 255) };
    let real = |integer: i32| (integer - zero) as f32 * scale;
    Some(Normalisation::Quantised { scale: *scale, zero, most: real(top), least: real(low) })
}
