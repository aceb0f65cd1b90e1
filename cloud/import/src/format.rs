//! What kind of file somebody has brought, by its bytes: names of files say what people wish.

use serde::Serialize;

use crate::{Error, Result};

/// Kinds of files that are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// An ONNX file.
    Onnx,
    /// A ModelArts model package, or another archive with one ONNX file in it.
    Package,
}

/// How an archive is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Archive {
    Zip,
    Tar,
    TarGz,
}

/// What the bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// To be tried as ONNX, which has no magic.
    Onnx,
    Archive(Archive),
}

/// Recognises a file; other formats are refused with what converts them.
pub(crate) fn recognise(bytes: &[u8]) -> Result<Kind> {
    let at = |place: usize, magic: &[u8]| bytes.get(place..place + magic.len()) == Some(magic);
    if at(4, b"TFL3") {
        return refuse(
            "TensorFlow Lite",
            "convert it with `pip install tf2onnx`, then `python -m tf2onnx.convert --tflite MODEL.tflite --output \
             MODEL.onnx --opset 13`",
        );
    }
    if at(0, b"\x89HDF\r\n\x1a\n") {
        return refuse("HDF5, as Keras writes it", KERAS);
    }
    // A pickle of protocol 2 and later, as torch.save wrote before version 1.6.
    if at(0, b"\x80\x02") || at(0, b"\x80\x03") || at(0, b"\x80\x04") || at(0, b"\x80\x05") {
        return refuse("a Python pickle, as PyTorch and scikit-learn write it", TORCH);
    }
    if at(0, b"PK\x03\x04") || at(0, b"PK\x05\x06") {
        return Ok(Kind::Archive(Archive::Zip));
    }
    if at(0, b"\x1f\x8b") {
        return Ok(Kind::Archive(Archive::TarGz));
    }
    if at(257, b"ustar") {
        return Ok(Kind::Archive(Archive::Tar));
    }
    if at(0, b"ORTM") || at(4, b"ORTM") {
        return refuse("ONNX Runtime's own format", "give the .onnx file that it was made from");
    }
    let start = bytes.get(..512).unwrap_or(bytes);
    let text = start.trim_ascii_start();
    if text.starts_with(b"<?xml") || text.starts_with(b"<net") {
        return refuse("an XML file, as OpenVINO describes a network", OPENVINO);
    }
    if at(0, b"IMOD") || text.starts_with(b"7767517") {
        return refuse("an ncnn model", "export ONNX from the framework that trained it");
    }
    if at(0, b"GGUF") {
        return refuse("GGUF, a language model of llama.cpp", "language models do not run on these devices");
    }
    if at(7, b"\0{\"") {
        return refuse("safetensors: weights without a graph", TORCH);
    }
    Ok(Kind::Onnx)
}

const TORCH: &str = "load the model in Python and export it with `torch.onnx.export(model.eval(), example_input, \
                     \"MODEL.onnx\", opset_version=13)`, or with `skl2onnx.to_onnx` for scikit-learn";
const KERAS: &str = "save it with `model.export(\"folder\")` and convert it with `pip install tf2onnx`, then `python -m \
                     tf2onnx.convert --saved-model folder --output MODEL.onnx --opset 13`";
const OPENVINO: &str =
    "export ONNX from the framework that trained it: OpenVINO's files cannot be turned back";

fn refuse<T>(what: &'static str, advice: &str) -> Result<T> {
    Err(Error::Format { what, advice: advice.into() })
}

/// Refuses an archive that is the format of another tool, by the names in it.
pub(crate) fn refuse_foreign(names: &[&str]) -> Result<()> {
    let ends = |end: &str| names.iter().any(|name| name.ends_with(end));
    let named = |file: &str| names.iter().any(|name| name.rsplit('/').next() == Some(file));
    if ends(".onnx") {
        return Ok(());
    }
    if ends("data.pkl") || ends(".ptl") || ends(".pt") || ends(".pth") {
        return refuse("a PyTorch file", TORCH);
    }
    if named("saved_model.pb") {
        return refuse(
            "a TensorFlow SavedModel",
            "unpack it and convert it with `pip install tf2onnx`, then `python -m \
            tf2onnx.convert --saved-model FOLDER --output MODEL.onnx --opset 13`",
        );
    }
    if named("model.weights.h5") || ends(".keras") || ends(".h5") {
        return refuse("a Keras file", KERAS);
    }
    if ends(".tflite") {
        return refuse(
            "an archive with TensorFlow Lite in it",
            "convert it with `pip install tf2onnx`, then `python -m \
            tf2onnx.convert --tflite MODEL.tflite --output MODEL.onnx --opset 13`",
        );
    }
    if ends(".xml") && ends(".bin") {
        return refuse("an OpenVINO model", OPENVINO);
    }
    if ends(".mlmodel") || named("model.mlmodel") {
        return refuse("a Core ML model", "export ONNX from the framework that trained it");
    }
    if ends(".om") {
        return refuse(
            "an archive with an Ascend .om model in it",
            "give the .onnx file that ATC made it from",
        );
    }
    Ok(())
}
