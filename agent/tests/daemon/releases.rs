//! Releases whose answers are known, good ones and bad ones.

use crate::cloud::{Cloud, release_key};
use flotilla_onnx::{Dim, GraphBuilder, Node, Value};
use flotilla_protocol::manifest::{
    Constraints, ENGINE_TRACT, FileEntry, Lineage, Metrics, ReleaseKind, Variant,
};
use flotilla_protocol::message::DesiredModel;
use flotilla_protocol::pipeline::{
    Activation, Classification, Colour, ImageInput, Input, Layout, Output, Resize,
};
use flotilla_protocol::signature::SigningKey;
use flotilla_protocol::{
    Digest, Envelope, EnvelopeKind, ModelName, Pipeline, ReleaseManifest, codec, limits,
};
use flotilla_runtime::{Model, make_golden};

pub(crate) const LABELS: [&str; 3] = ["a", "b", "c"];

pub(crate) fn letters() -> ModelName {
    "letters".parse().unwrap()
}

/// A release to be made: a model that always answers one label, and what is wrong with it, if anything.
pub(crate) struct Plan {
    pub(crate) label: usize,
    pub(crate) golden_label: usize,
    pub(crate) ballast_chunks: usize,
    /// Makes the ballast another one.
    pub(crate) salt: u8,
    /// Values that a prediction works out for nothing, four bytes each and several times over.
    pub(crate) toil: usize,
    /// Whether a prediction of a picture with a white pixel fails.
    pub(crate) fragile: bool,
    pub(crate) key: SigningKey,
    /// Keys that sign too.
    pub(crate) more_keys: Vec<SigningKey>,
    pub(crate) manifest: Box<dyn Fn(&mut ReleaseManifest)>,
}

/// So much toil takes a moment on any machine.
pub(crate) const SLOW: usize = 4_000_000;

impl Plan {
    pub(crate) fn good(label: usize) -> Self {
        Self {
            label,
            golden_label: label,
            ballast_chunks: 0,
            salt: 0,
            toil: 0,
            fragile: false,
            key: release_key(),
            more_keys: Vec::new(),
            manifest: Box::new(|_| ()),
        }
    }

    pub(crate) fn changed(label: usize, change: impl Fn(&mut ReleaseManifest) + 'static) -> Self {
        Self { manifest: Box::new(change), ..Self::good(label) }
    }

    /// The content of the largest file.
    pub(crate) fn ballast(&self) -> Vec<u8> {
        (0..self.ballast_chunks * limits::CHUNK)
            .map(|i| (i / limits::CHUNK * 31 + i % 251) as u8 ^ self.label as u8 ^ self.salt)
            .collect()
    }

    /// Puts the release's bytes into the cloud; returns what a desired document says of it.
    pub(crate) fn publish(self, cloud: &Cloud) -> DesiredModel {
        let golden = make_golden(&mut model(self.golden_label), [[1, 2, 3, 4], [200, 0, 7, 9]], 1e-4);
        let ballast = self.ballast();
        let files = [
            ("model.onnx", onnx(self.label, self.toil, self.fragile)),
            ("golden.cbor", codec::encode(&golden.unwrap())),
            ("ballast.bin", ballast),
        ];
        let mut manifest = ReleaseManifest {
            format: 1,
            kind: ReleaseKind::Model,
            project: "default".parse().unwrap(),
            model: letters(),
            version: self.label as u32,
            counter: 10 + self.label as u64,
            created_at_ms: 0,
            expires_at_ms: None,
            variants: vec![Variant {
                engine: ENGINE_TRACT.into(),
                boards: vec![],
                model: "model.onnx".into(),
            }],
            files: files.iter().map(|(name, content)| FileEntry::of(*name, content)).collect(),
            pipeline: pipeline(),
            golden: "golden.cbor".into(),
            metrics: Metrics::default(),
            lineage: Lineage::default(),
            constraints: Constraints::default(),
            agent: None,
            baseline: None,
        };
        (self.manifest)(&mut manifest);
        for (_, content) in files {
            cloud.put(content);
        }
        let mut envelope = Envelope::seal(EnvelopeKind::Release, &manifest, &[&self.key]);
        self.more_keys.iter().for_each(|key| assert!(envelope.sign(key)));
        let envelope = envelope.to_bytes();
        let envelope_bytes = envelope.len() as u32;
        DesiredModel { release: cloud.put(envelope), envelope_bytes, attempt: 0 }
    }
}

/// A model that always answers one label.
pub(crate) fn model(label: usize) -> Model {
    Model::load(&pipeline(), &onnx(label, 0, false)).unwrap()
}

/// The ballast's digest of a plan.
pub(crate) fn largest_object(cloud: &Cloud) -> Digest {
    let state = cloud.state();
    state.objects.iter().max_by_key(|(_, bytes)| bytes.len()).map(|(digest, _)| *digest).unwrap()
}

fn pipeline() -> Pipeline {
    Pipeline::new(
        Input::Image(ImageInput {
            width: 2,
            height: 2,
            colour: Colour::Grey,
            resize: Resize::Exact,
            layout: Layout::Nchw,
            mean: vec![0.0],
            std: vec![1.0],
            ..ImageInput::none()
        }),
        Output::Classification(Classification::new(
            LABELS.map(ToOwned::to_owned).to_vec(),
            Activation::Softmax,
        )),
    )
}

fn onnx(label: usize, toil: usize, fragile: bool) -> Vec<u8> {
    let mut bias = vec![0.0; LABELS.len()];
    bias[label] = 10.0;
    let graph = GraphBuilder::new("always")
        .input(Value::f32("x", [Dim::from("N"), 1.into(), 2.into(), 2.into()]))
        .output(Value::f32("y", [Dim::from("N"), Dim::from(LABELS.len())]))
        .initializer_f32("w", &[4, LABELS.len()], vec![0.01; 4 * LABELS.len()])
        .initializer_f32("b", &[LABELS.len()], bias);
    let graph = if fragile {
        graph
            .initializer_f32("white", &[1], vec![1.0])
            .node(Node::new("Sub", ["white", "x"], ["dark"]))
            .node(Node::new("Log", ["dark"], ["deep"]))
            .node(Node::new("Flatten", ["deep"], ["flat"]).int("axis", 1))
    } else {
        graph.node(Node::new("Flatten", ["x"], ["flat"]).int("axis", 1))
    };
    let graph = if toil > 0 {
        graph
            .node(Node::new("Gemm", ["flat", "w", "b"], ["base"]))
            .initializer_i64("wide", &[4], vec![1, (toil / 4) as i64, 2, 2])
            .initializer_i64("one", &[1], vec![1])
            .initializer_f32("nothing", &[1, LABELS.len()], vec![0.0; LABELS.len()])
            .node(Node::new("Expand", ["x", "wide"], ["many"]))
            .node(Node::new("Exp", ["many"], ["more"]))
            .node(Node::new("ReduceMean", ["more"], ["mean"]).ints("axes", [1, 2, 3]).int("keepdims", 0))
            .node(Node::new("Unsqueeze", ["mean", "one"], ["row"]))
            .node(Node::new("MatMul", ["row", "nothing"], ["zero"]))
            .node(Node::new("Add", ["base", "zero"], ["y"]))
    } else {
        graph.node(Node::new("Gemm", ["flat", "w", "b"], ["y"]))
    };
    graph.build().unwrap().write()
}
