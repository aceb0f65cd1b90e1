//! Releases, pipelines and trust files as examples.

use flotilla_protocol::baseline::{Baseline, Feature, FeatureBaseline};
use flotilla_protocol::manifest::{
    AgentFacts, Constraints, ENGINE_TRACT, FileEntry, Lineage, Metrics, Patch, ReleaseKind, ReleaseManifest,
    Variant, agent_engine, agent_name,
};
use flotilla_protocol::pipeline::detection::{AnchorFree, AnchorFreeLevel, CellBox};
use flotilla_protocol::pipeline::{
    Activation, Anomaly, AnomalyScore, Classification, Colour, ConstantTensor, Decoder, Detection, Filter,
    ImageInput, Input, Layout, Output, Place, Resize, SoundInput, StateTensor, TensorKind, TensorSpec,
    TensorsInput,
};
use flotilla_protocol::signature::SigningKey;
use flotilla_protocol::trust::KeySet;
use flotilla_protocol::{Digest, Pipeline, TrustFile, codec};
use std::collections::BTreeMap;

pub(crate) fn pipeline() -> Pipeline {
    Pipeline::new(
        Input::Image(ImageInput {
            width: 8,
            height: 8,
            colour: Colour::Grey,
            resize: Resize::Stretch,
            layout: Layout::Nchw,
            mean: vec![0.5],
            std: vec![0.5],
            ..ImageInput::none()
        }),
        Output::Classification(Classification::new(vec!["zero".into(), "one".into()], Activation::None)),
    )
}

pub(crate) fn manifest() -> ReleaseManifest {
    ReleaseManifest {
        format: 1,
        kind: ReleaseKind::Model,
        project: "default".parse().unwrap(),
        model: "digits".parse().unwrap(),
        version: 2,
        counter: 7,
        created_at_ms: 1_790_000_000_000,
        expires_at_ms: Some(1_890_000_000_000),
        variants: vec![Variant { engine: ENGINE_TRACT.into(), boards: vec![], model: "model.onnx".into() }],
        files: vec![FileEntry::of("model.onnx", &[7; 300_000]), FileEntry::of("golden.cbor", b"vectors")],
        pipeline: pipeline(),
        golden: "golden.cbor".into(),
        metrics: Metrics { samples: 360, correct: 356, accuracy: 356.0 / 360.0, other: BTreeMap::new() },
        lineage: Lineage {
            dataset: "digits".into(),
            dataset_version: 1,
            training_job: "job-1".into(),
            recipe: "int8".into(),
        },
        constraints: Constraints { memory_bytes: 1 << 24, latency_us: 50_000 },
        agent: None,
        baseline: None,
    }
}

pub(crate) fn baseline() -> Baseline {
    let feature =
        FeatureBaseline { feature: Feature::Contrast, edges: vec![0.25, 0.5], counts: vec![400, 401, 399] };
    Baseline {
        format: 1,
        features: vec![feature],
        labels: vec![1, 0],
        classes: vec![700, 500, 0],
        confidence: vec![0, 0, 0, 0, 0, 3, 7, 20, 170, 1_000],
    }
}

/// A release whose model a device can have without fetching all of it.
pub(crate) fn patched_manifest() -> ReleaseManifest {
    let mut manifest = manifest();
    let base = Some(Digest::of(b"the model before"));
    manifest.files[0].patches =
        vec![Patch::of(base, "delta-1", &[1; 200_000]), Patch::of(None, "a method of later", b"small")];
    manifest
}

/// A release that says what its model saw in training.
pub(crate) fn baseline_manifest() -> ReleaseManifest {
    let mut manifest = manifest();
    manifest.files.push(FileEntry::of("baseline.cbor", &codec::encode(&baseline())));
    manifest.baseline = Some("baseline.cbor".into());
    manifest
}

pub(crate) fn agent_manifest() -> ReleaseManifest {
    let binary = "flotilla-agent-linux-x86_64";
    ReleaseManifest {
        kind: ReleaseKind::Agent,
        model: agent_name(),
        variants: vec![Variant {
            engine: agent_engine("linux", "x86_64"),
            boards: vec![],
            model: binary.into(),
        }],
        files: vec![FileEntry::of(binary, &[9; 300_000])],
        pipeline: Pipeline::none(),
        golden: String::new(),
        metrics: Metrics::default(),
        lineage: Lineage::default(),
        constraints: Constraints::default(),
        agent: Some(AgentFacts { version: "0.2.0".into() }),
        ..manifest()
    }
}

pub(crate) fn trust() -> TrustFile {
    TrustFile {
        version: 3,
        project: "default".parse().unwrap(),
        ca: Digest::of(b"ca"),
        release_keys: KeySet {
            threshold: 2,
            keys: (1..4).map(|i| SigningKey::from_seed(&[i; 32]).public()).collect(),
        },
        control_keys: KeySet::single(SigningKey::from_seed(&[9; 32]).public()),
        min_release: BTreeMap::from([("digits".parse().unwrap(), 5)]),
        issued_at_ms: 1_790_000_000_000,
    }
}

/// Old bytes read to the same value, and today's encoder still writes them.
/// A pipeline with everything that pictures and detectors may have.
pub(crate) fn detector() -> Pipeline {
    let image = ImageInput {
        width: 320,
        height: 240,
        colour: Colour::Bgr,
        resize: Resize::Letterbox { fill: 114, place: Place::Centre },
        layout: Layout::Nhwc,
        mean: vec![0.0; 3],
        std: vec![1.0; 3],
        filter: Filter::Bilinear,
        orient: true,
    };
    let level = AnchorFreeLevel {
        stride: 8,
        classes: "cls_8".into(),
        objectness: Some("obj_8".into()),
        boxes: "bbox_8".into(),
    };
    let decoder = Decoder::AnchorFree(AnchorFree {
        levels: vec![level],
        boxes: CellBox::Distribution { bins: 16 },
        sigmoid: true,
        root: true,
        point: 0.5,
    });
    let labels = vec!["face".into()];
    let detection = Detection { labels, decoder, score: 0.5, overlap: 0.45, limit: 100 };
    Pipeline::new(Input::Image(image), Output::Detection(detection))
}

pub(crate) fn keywords() -> Pipeline {
    let classes = Classification::new(vec!["yes".into(), "no".into()], Activation::None);
    Pipeline::new(Input::Sound(SoundInput::mlperf_keywords()), Output::Classification(classes))
}

pub(crate) fn stateful() -> Pipeline {
    let spec =
        |name: &str, kind, shape: &[u32]| TensorSpec { name: name.into(), kind, shape: shape.to_vec() };
    let tensors = vec![spec("x", TensorKind::Fp32, &[1, 512])];
    let anomaly = Anomaly { score: AnomalyScore::SquaredError, threshold: 0.25, output: Some("y".into()) };
    Pipeline {
        states: vec![StateTensor { input: spec("h", TensorKind::Fp32, &[2, 1, 64]), output: "hn".into() }],
        constants: vec![ConstantTensor { input: spec("sr", TensorKind::Int64, &[]), values: vec![16_000.0] }],
        ..Pipeline::new(Input::Tensors(TensorsInput { tensors }), Output::Anomaly(anomaly))
    }
}
