//! What a line of results says. Fields are only ever added: programs of others read these lines.

use crate::host::{Answer, Ranked};
use flotilla_device::Fault;
use flotilla_device::inbox::Stamp;
use flotilla_protocol::{Digest, ErrorCode, ModelName};
use flotilla_runtime::{Anomaly, Answer as Said, Object, Value};
use serde::{Deserialize, Serialize};

/// The best labels that a line names.
const TOP: usize = 5;

/// A result, or why there is none: then `code` and `detail` stand in place of label and scores.
#[derive(Serialize)]
pub(super) struct Line<'a> {
    /// When, by the device's clock, in milliseconds since 1970.
    at_ms: u64,
    #[serde(flatten)]
    of: Of<'a>,
    model: &'a ModelName,
    #[serde(skip_serializing_if = "Option::is_none")]
    release: Option<Digest>,
    #[serde(skip_serializing_if = "Option::is_none")]
    label: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    score: Option<f32>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    top: Vec<Ranked<'a>>,
    /// What a detector found.
    #[serde(skip_serializing_if = "Option::is_none")]
    objects: Option<&'a [Object]>,
    /// What a model of numbers says.
    #[serde(skip_serializing_if = "Option::is_none")]
    values: Option<&'a [Value]>,
    /// How unusual the input is.
    #[serde(skip_serializing_if = "Option::is_none")]
    anomaly: Option<&'a Anomaly>,
    /// A vector.
    #[serde(skip_serializing_if = "Option::is_none")]
    embedding: Option<&'a [f32]>,
    /// Of pre-processing and inference, in microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    latency_us: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<ErrorCode>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'a str>,
}

/// What was predicted.
#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum Of<'a> {
    /// A file by its name, and its content by its stamp.
    File { file: &'a str, stamp: String },
    /// A frame by its number since the agent started.
    Frame { stream: &'a str, frame: u64 },
}

impl<'a> Line<'a> {
    pub(super) fn answered(at_ms: u64, of: Of<'a>, model: &'a ModelName, answer: &'a Answer) -> Self {
        let headline = answer.prediction.headline();
        let mut line = Self {
            release: Some(answer.release),
            label: headline.map(|headline| headline.label),
            score: headline.and_then(|headline| headline.confidence),
            top: answer.top(TOP),
            latency_us: Some(answer.latency_us),
            ..Self::nothing(at_ms, of, model)
        };
        match &answer.prediction.answer {
            Said::Objects(objects) => line.objects = Some(objects),
            Said::Values(values) => line.values = Some(values),
            Said::Anomaly(anomaly) => line.anomaly = Some(anomaly),
            Said::Embedding => line.embedding = Some(&answer.prediction.scores),
            // Tensors as they are have no place in a line.
            Said::Class(_) | Said::Labels(_) | Said::Tensors(_) => {}
        }
        line
    }

    pub(super) fn refused(at_ms: u64, of: Of<'a>, model: &'a ModelName, fault: &'a Fault) -> Self {
        Self { code: Some(fault.code), detail: Some(&fault.detail), ..Self::nothing(at_ms, of, model) }
    }

    fn nothing(at_ms: u64, of: Of<'a>, model: &'a ModelName) -> Self {
        Self {
            at_ms,
            of,
            model,
            release: None,
            label: None,
            score: None,
            top: Vec::new(),
            objects: None,
            values: None,
            anomaly: None,
            embedding: None,
            latency_us: None,
            code: None,
            detail: None,
        }
    }
}

/// What a line says of the file that it is about: which content, and whether it was refused.
pub(super) fn settled(line: &[u8]) -> Option<(Stamp, bool)> {
    #[derive(Deserialize)]
    struct Settled {
        stamp: String,
        #[serde(default)]
        code: Option<ErrorCode>,
    }
    let line: Settled = serde_json::from_slice(line).ok()?;
    Some((line.stamp.parse().ok()?, line.code.is_some()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use flotilla_protocol::message::SlotName;
    use flotilla_runtime::{Label, Prediction};

    #[test]
    fn lines_are_what_they_were() {
        let model: ModelName = "letters".parse().expect("a name");
        let stamp = Stamp { inode: 7, bytes: 66, changed_ns: 1_700_000_000_123_456_789 };
        let answer = Answer {
            prediction: Prediction {
                answer: Said::Class(Label { label_index: 1, label: "b".into(), score: 0.75 }),
                scores: vec![0.25, 0.75],
            },
            release: Digest::of(b"release"),
            slot: SlotName::A,
            latency_us: 321,
            labels: ["a".to_owned(), "b".to_owned()].into(),
        };
        let fault = Fault::lasting(ErrorCode::SampleInvalid, "no picture");
        let file = || Of::File { file: "x.png", stamp: stamp.to_string() };
        let lines = [
            Line::answered(5, file(), &model, &answer),
            Line::refused(6, file(), &model, &fault),
            Line::answered(7, Of::Frame { stream: "door", frame: 9 }, &model, &answer),
        ];
        let text: String = lines.map(|line| serde_json::to_string(&line).expect("a line") + "\n").concat();
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/result-lines-v1.jsonl");
        if std::env::var_os("FLOTILLA_BLESS").is_some() && !path.exists() {
            std::fs::write(&path, &text).expect("written");
        }
        assert_eq!(text, std::fs::read_to_string(path).expect("a golden file"));
        let read: Vec<_> = text.lines().map(|line| settled(line.as_bytes())).collect();
        assert_eq!(read, [Some((stamp, false)), Some((stamp, true)), None]);
    }
}
