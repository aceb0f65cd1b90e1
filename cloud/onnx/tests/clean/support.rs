//! Models run in the engine, and arrays of the test data.

use std::collections::BTreeMap;
use std::io::{Cursor, Read, Seek};
use std::path::PathBuf;

use flotilla_onnx::Model;
use tract_onnx::prelude::*;

/// Numbers that look random and are the same everywhere, between -1 and 1.
pub(crate) fn noise(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        // splitmix64
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

/// A tensor of floats.
pub(crate) fn floats(dims: &[usize], values: &[f32]) -> Tensor {
    Tensor::from_shape(dims, values).unwrap()
}

/// What the engine answers, by the names of outputs.
pub(crate) fn run(model: &Model, inputs: &[Tensor]) -> TractResult<BTreeMap<String, Tensor>> {
    let (runnable, names) = load(model, inputs)?;
    let inputs = inputs.iter().cloned().map(TValue::from).collect();
    let outputs = runnable.run(inputs)?;
    Ok(names.into_iter().zip(outputs.into_iter().map(TValue::into_tensor)).collect())
}

/// The model as the engine runs it, and the names of its outputs.
pub(crate) fn load(model: &Model, inputs: &[Tensor]) -> TractResult<(Arc<TypedRunnableModel>, Vec<String>)> {
    let loader = onnx().with_ignore_output_shapes(true).with_ignore_value_info(true);
    let mut parsed = loader.model_for_read(&mut &*model.write())?;
    for (place, input) in inputs.iter().enumerate() {
        let fact = InferenceFact::dt_shape(input.datum_type(), input.shape());
        parsed.set_input_fact(place, fact)?;
    }
    let names = parsed
        .output_outlets()?
        .iter()
        .map(|&outlet| parsed.outlet_label(outlet).unwrap_or(&parsed.node(outlet.node).name).to_owned())
        .collect();
    Ok((parsed.into_optimized()?.into_runnable()?, names))
}

/// The largest absolute difference of two tensors of any number type.
pub(crate) fn difference(a: &Tensor, b: &Tensor) -> f32 {
    assert_eq!(a.shape(), b.shape());
    let (a, b) = (a.cast_to::<f32>().unwrap(), b.cast_to::<f32>().unwrap());
    let (a, b) = (a.to_plain_array_view::<f32>().unwrap(), b.to_plain_array_view::<f32>().unwrap());
    a.iter().zip(b.iter()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// The folder of models in the test data; none where tests may go without.
pub(crate) fn models() -> Option<PathBuf> {
    let Some(folder) = std::env::var_os("FLOTILLA_TEST_DATA") else {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "FLOTILLA_TEST_DATA is not set");
        println!("skipped: FLOTILLA_TEST_DATA is not set");
        return None;
    };
    Some(PathBuf::from(folder).join("models"))
}

/// A model of the test data.
pub(crate) fn model(path: &str) -> Option<Model> {
    Some(Model::read(&std::fs::read(models()?.join(path)).unwrap()).unwrap())
}

/// One array of an .npz file of the test data.
pub(crate) fn array(file: &str, name: &str) -> Tensor {
    let file = std::fs::File::open(models().unwrap().join(file)).unwrap();
    npy(&member(&mut zip::ZipArchive::new(file).unwrap(), &format!("{name}.npy")))
}

/// One member of an archive.
pub(crate) fn member<R: Read + Seek>(archive: &mut zip::ZipArchive<R>, name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    archive.by_name(name).unwrap().read_to_end(&mut bytes).unwrap();
    bytes
}

/// An array as numpy writes it.
pub(crate) fn npy(bytes: &[u8]) -> Tensor {
    let length = usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    let header = std::str::from_utf8(&bytes[10..10 + length]).unwrap();
    let part = |key: &str, end: char| header.split(key).nth(1).unwrap().split(end).next().unwrap().to_owned();
    assert!(header.contains("'fortran_order': False"), "{header}");
    let shape: Vec<usize> =
        part("'shape': (", ')').split(',').filter_map(|dim| dim.trim().parse().ok()).collect();
    decoded(&part("'descr': '", '\''), &shape, &bytes[10 + length..])
}

fn decoded(kind: &str, shape: &[usize], data: &[u8]) -> Tensor {
    match kind {
        "<f4" => {
            let values: Vec<f32> = data.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect();
            Tensor::from_shape(shape, &values).unwrap()
        }
        "<i8" => {
            let values: Vec<i64> = data.as_chunks::<8>().0.iter().map(|&b| i64::from_le_bytes(b)).collect();
            Tensor::from_shape(shape, &values).unwrap()
        }
        "<i4" => {
            let values: Vec<i32> = data.as_chunks::<4>().0.iter().map(|&b| i32::from_le_bytes(b)).collect();
            Tensor::from_shape(shape, &values).unwrap()
        }
        "|i1" => {
            let values: Vec<i8> = data.iter().map(|&b| b as i8).collect();
            Tensor::from_shape(shape, &values).unwrap()
        }
        "|u1" => Tensor::from_shape(shape, data).unwrap(),
        "|b1" => {
            let values: Vec<bool> = data.iter().map(|&b| b != 0).collect();
            Tensor::from_shape(shape, &values).unwrap()
        }
        other => panic!("arrays of {other} are not read"),
    }
}

/// A small model with what ONNX Runtime answers; `fixtures.py` makes them.
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) model: Model,
    pub(crate) inputs: Vec<Tensor>,
    pub(crate) outputs: BTreeMap<String, Tensor>,
}

/// All small models whose names begin so.
pub(crate) fn cases(wanted: impl Fn(&str) -> bool) -> Vec<Case> {
    let mut archive = zip::ZipArchive::new(Cursor::new(include_bytes!("fixtures.zip"))).unwrap();
    let names: Vec<String> = archive.file_names().map(|name| name.unwrap().into_owned()).collect();
    let models = names.iter().filter_map(|name| name.strip_suffix(".onnx")).filter(|name| wanted(name));
    let case = |name: &str| {
        let model = Model::read(&member(&mut archive, &format!("{name}.onnx"))).unwrap();
        let inputs = model.inputs().into_iter().map(|input| format!("{name}/in/{}.npy", input.name));
        let inputs = inputs.map(|path| npy(&member(&mut archive, &path))).collect();
        let prefix = format!("{name}/out/");
        let outputs = names.iter().filter_map(|path| {
            let output = path.strip_prefix(&prefix)?.strip_suffix(".npy")?;
            Some((output.to_owned(), npy(&member(&mut archive, path))))
        });
        let outputs = outputs.collect();
        Case { name: name.into(), model, inputs, outputs }
    };
    models.map(case).collect()
}

/// Sample `index` of a batch, as a batch of one.
pub(crate) fn sample(batch: &Tensor, index: usize) -> Tensor {
    batch.slice(0, index, index + 1).unwrap()
}
