//! Files of other formats are named, with the command that converts them.

use flotilla_import::{Error, Options, inspect};
use flotilla_protocol::ErrorCode;

use crate::support::{file, zip};

fn refusal(bytes: &[u8]) -> String {
    let error = inspect(bytes, &Options::default()).unwrap_err();
    assert!(matches!(error, Error::Format { .. }), "{error}");
    assert_eq!(error.code(), ErrorCode::ModelUnsupported);
    error.to_string()
}

#[test]
fn tensorflow_lite_is_refused_with_the_command_that_converts_it() {
    let Some(bytes) = file("mlperf-tiny/ic_resnet8_int8.tflite") else { return };
    let text = refusal(&bytes);
    assert!(text.contains("TensorFlow Lite") && text.contains("pip install tf2onnx"), "{text}");
    assert!(text.contains("tf2onnx.convert --tflite") && text.contains("--opset 13"), "{text}");
}

#[test]
fn other_formats_are_named() {
    let cases: [(Vec<u8>, &str, &str); 10] = [
        (zip(&[("archive/data.pkl", b"x"), ("archive/version", b"3")]), "PyTorch", "torch.onnx.export"),
        (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.".to_vec(), "pickle", "torch.onnx.export"),
        (b"\x89HDF\r\n\x1a\n0000".to_vec(), "Keras", "tf2onnx"),
        (zip(&[("config.json", b"{}"), ("model.weights.h5", b"x")]), "Keras", "tf2onnx"),
        (
            zip(&[("m/saved_model.pb", b"x"), ("m/variables/variables.index", b"x")]),
            "SavedModel",
            "--saved-model",
        ),
        (b"<?xml version=\"1.0\"?><net name=\"m\" version=\"11\">".to_vec(), "OpenVINO", "export ONNX"),
        (zip(&[("m.xml", b"<net"), ("m.bin", b"x")]), "OpenVINO", "export ONNX"),
        (zip(&[("m.tflite", b"x")]), "TensorFlow Lite", "tf2onnx"),
        (b"GGUF\x03\0\0\0".to_vec(), "GGUF", "language models"),
        (b"\x10\0\0\0ORTM____".to_vec(), "ONNX Runtime's own format", ".onnx file"),
    ];
    for (bytes, what, advice) in cases {
        let text = refusal(&bytes);
        assert!(text.contains(what) && text.contains(advice), "{what}: {text}");
    }
}

#[test]
fn what_is_no_model_at_all_is_refused() {
    for bytes in
        [&b""[..], b"<html>not found</html>", b"hello", b"\0\0\0\0\0\0\0\0", b"PK\x03\x04cut", b"\x1f\x8bcut"]
    {
        let error = inspect(bytes, &Options::default()).unwrap_err();
        assert!(matches!(error.code(), ErrorCode::ModelInvalid | ErrorCode::ModelUnsupported), "{error}");
    }
}
