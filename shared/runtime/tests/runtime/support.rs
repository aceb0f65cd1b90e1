//! Small models, pictures and readers that several tests need.

use flotilla_onnx::{Dim, GraphBuilder, Node, Value};
use flotilla_protocol::Pipeline;
use flotilla_protocol::pipeline::{
    Activation, Classification, Colour, ImageInput, Input, Layout, Output, Resize,
};
use flotilla_runtime::Prediction;
use flotilla_runtime::engine::Engine;
use std::io::{Cursor, Read};
use std::path::PathBuf;

/// A pipeline for grey pictures of this size, values 0 to 1.
pub(crate) fn grey(width: u32, height: u32, resize: Resize, labels: &[&str]) -> Pipeline {
    Pipeline::new(
        Input::Image(ImageInput {
            width,
            height,
            colour: Colour::Grey,
            resize,
            layout: Layout::Nchw,
            mean: vec![0.0],
            std: vec![1.0],
            ..ImageInput::none()
        }),
        Output::Classification(Classification::new(
            labels.iter().map(|&label| label.to_owned()).collect(),
            Activation::Softmax,
        )),
    )
}

/// The picture that a pipeline takes.
pub(crate) fn image(pipeline: &mut Pipeline) -> &mut ImageInput {
    match &mut pipeline.input {
        Input::Image(image) => image,
        other => panic!("{other:?} is no picture"),
    }
}

/// The classes that a pipeline gives.
pub(crate) fn classes(pipeline: &mut Pipeline) -> &mut Classification {
    match &mut pipeline.output {
        Output::Classification(classification) => classification,
        other => panic!("{other:?} are no classes"),
    }
}

/// The same with red, green and blue.
pub(crate) fn rgb(width: u32, height: u32, resize: Resize, layout: Layout, labels: &[&str]) -> Pipeline {
    let mut pipeline = grey(width, height, resize, labels);
    let image = image(&mut pipeline);
    (image.colour, image.layout) = (Colour::Rgb, layout);
    (image.mean, image.std) = (vec![0.0; 3], vec![1.0; 3]);
    pipeline
}

/// An engine for a model with one input of this shape.
pub(crate) fn engine(onnx: &[u8], shape: &[usize]) -> flotilla_runtime::Result<Engine> {
    Engine::load_plain(onnx, shape)
}

/// What a model of one float tensor gives for another.
pub(crate) fn run(engine: &mut Engine, input: &[f32]) -> flotilla_runtime::Result<Vec<f32>> {
    engine.run_plain(input)
}

/// The label that a model gives.
pub(crate) fn label(prediction: &Prediction) -> &str {
    prediction.headline().unwrap().label
}

/// Which half of a 2x2 picture is lighter: logits are the sums of its left and of its right column.
pub(crate) fn halves(batch: impl Into<Dim>) -> Vec<u8> {
    GraphBuilder::new("halves")
        .input(Value::f32("x", [batch.into(), 1.into(), 2.into(), 2.into()]))
        .output(Value::f32("y", [Dim::from("N"), Dim::from(2)]))
        .initializer_f32("w", &[4, 2], vec![1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0])
        .node(Node::new("Flatten", ["x"], ["flat"]).int("axis", 1))
        .node(Node::new("MatMul", ["flat", "w"], ["y"]))
        .build()
        .unwrap()
        .write()
}

/// The pipeline of [`halves`].
pub(crate) fn halves_pipeline() -> Pipeline {
    grey(2, 2, Resize::Stretch, &["left", "right"])
}

pub(crate) fn png(image: impl Into<image::DynamicImage>) -> Vec<u8> {
    let mut out = Cursor::new(Vec::new());
    image.into().write_to(&mut out, image::ImageFormat::Png).unwrap();
    out.into_inner()
}

pub(crate) fn jpeg(image: impl Into<image::DynamicImage>) -> Vec<u8> {
    let mut out = Cursor::new(Vec::new());
    image.into().write_to(&mut out, image::ImageFormat::Jpeg).unwrap();
    out.into_inner()
}

/// A file of the big test data; none where there is none, which CI does not accept.
pub(crate) fn data(path: &str) -> Option<PathBuf> {
    if let Some(folder) = std::env::var_os("FLOTILLA_TEST_DATA") {
        return Some(PathBuf::from(folder).join(path));
    }
    assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "CI must set FLOTILLA_TEST_DATA");
    println!("skipped: FLOTILLA_TEST_DATA is not set, so {path} is not there");
    None
}

pub(crate) fn gunzip(path: PathBuf) -> Vec<u8> {
    let mut out = Vec::new();
    flate2::read::GzDecoder::new(std::fs::File::open(path).unwrap()).read_to_end(&mut out).unwrap();
    out
}

/// One array of an .npz file: its elements as bytes, and the length of its first axis.
pub(crate) fn npz(path: PathBuf, name: &str) -> (Vec<u8>, usize) {
    let mut archive = zip::ZipArchive::new(std::fs::File::open(path).unwrap()).unwrap();
    let mut bytes = Vec::new();
    archive.by_name(&format!("{name}.npy")).unwrap().read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes[..8], *b"\x93NUMPY\x01\x00");
    let end = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    let header = std::str::from_utf8(&bytes[10..end]).unwrap();
    assert!(header.contains("'fortran_order': False"), "{header}");
    let shape = header.split("'shape': (").nth(1).unwrap();
    (bytes[end..].to_vec(), shape.split(',').next().unwrap().parse().unwrap())
}

pub(crate) fn floats((bytes, rows): (Vec<u8>, usize)) -> Vec<Vec<f32>> {
    let values: Vec<f32> = bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    values.chunks(values.len() / rows).map(<[f32]>::to_vec).collect()
}

/// A file of the folder of golden values.
pub(crate) fn recording(name: &str) -> Vec<u8> {
    std::fs::read(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)).unwrap()
}

/// One file of a ZIP archive.
pub(crate) fn unzip(path: &std::path::Path, name: &str) -> Vec<u8> {
    let mut archive = zip::ZipArchive::new(std::fs::File::open(path).unwrap()).unwrap();
    let mut bytes = Vec::new();
    archive.by_name(name).unwrap().read_to_end(&mut bytes).unwrap();
    bytes
}

/// A chirp, a tone and noise: the same as in `tests/golden/sound.py`.
pub(crate) fn signal(samples: usize, rate: u32) -> Vec<i16> {
    use std::f64::consts::TAU;
    let (rate, length) = (f64::from(rate), samples as f64 / f64::from(rate));
    let mut state = 1_u32;
    let sample = |index: usize| {
        let t = index as f64 / rate;
        let chirp = 9000.0 * (TAU * (200.0 * t + (0.4 * rate - 200.0) * t * t / (2.0 * length))).sin();
        let tone = 3000.0 * (TAU * 440.0 * t).sin();
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (chirp + tone + 0.5).floor() as i16 + (state >> 20) as i16 - 2048
    };
    (0..samples).map(sample).collect()
}

/// A WAV file: `format` 1 for integers, 3 for floats; `data` as it is.
pub(crate) fn wav(format: u16, channels: u16, rate: u32, bits: u16, data: &[u8]) -> Vec<u8> {
    let block = channels * (bits / 8);
    let mut file = b"RIFF".to_vec();
    file.extend((36 + data.len() as u32).to_le_bytes());
    file.extend(b"WAVEfmt ");
    file.extend(16_u32.to_le_bytes());
    file.extend([format.to_le_bytes(), channels.to_le_bytes()].concat());
    file.extend([rate.to_le_bytes(), (rate * u32::from(block)).to_le_bytes()].concat());
    file.extend([block.to_le_bytes(), bits.to_le_bytes()].concat());
    file.extend(b"data");
    file.extend((data.len() as u32).to_le_bytes());
    file.extend(data);
    file
}

/// A WAV file of one channel of 16 bits.
pub(crate) fn wav16(samples: &[i16], rate: u32) -> Vec<u8> {
    let data: Vec<u8> = samples.iter().flat_map(|sample| sample.to_le_bytes()).collect();
    wav(1, 1, rate, 16, &data)
}
