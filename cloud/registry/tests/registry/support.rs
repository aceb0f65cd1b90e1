//! A registry in a folder, and a small model for it.

use bytes::Bytes;
use flotilla_identity::Actor;
use flotilla_onnx::{Dim, GraphBuilder, Node, Value};
use flotilla_protocol::manifest::{Lineage, Metrics};
use flotilla_protocol::pipeline::{
    Activation, Classification, Colour, ImageInput, Input, Layout, Output, Resize,
};
use flotilla_protocol::{Digest, JobId, ModelName, Pipeline, ProjectId};
use flotilla_registry::{Keys, NewVersion, Registry, ReleaseRequest, Source};
use flotilla_storage::{Objects, Records, SledRecords};
use std::path::Path;
use std::sync::Arc;

pub(crate) const NOW: u64 = 1_800_000_000_000;

pub(crate) struct Installation {
    pub(crate) registry: Registry,
    pub(crate) records: Arc<dyn Records>,
    pub(crate) objects: Objects,
}

pub(crate) fn ca() -> Digest {
    Digest::of(b"the CA's public key")
}

pub(crate) async fn try_open(dir: &Path, ca: Digest) -> Result<Installation, flotilla_registry::Error> {
    let records: Arc<dyn Records> = Arc::new(SledRecords::open(&dir.join("records")).unwrap());
    let objects = Objects::open(&dir.join("objects")).unwrap();
    let keys = Keys::open_or_create(&dir.join("keys"))?;
    let project = ProjectId::new("default").unwrap();
    let registry = Registry::open(project, records.clone(), objects.clone(), keys, ca, NOW).await;
    match registry {
        Ok(registry) => Ok(Installation { registry, records, objects }),
        Err(error) => {
            records.close().await.unwrap();
            Err(error)
        }
    }
}

pub(crate) async fn open(dir: &Path) -> Installation {
    try_open(dir, ca()).await.unwrap()
}

pub(crate) fn pipeline() -> Pipeline {
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
            vec!["dark".into(), "bright".into()],
            Activation::Softmax,
        )),
    )
}

/// Scores a picture of four pixels as dark or bright.
pub(crate) fn onnx(gain: f32) -> Bytes {
    let shape = [Dim::from("N"), Dim::from(1), Dim::from(2), Dim::from(2)];
    let model = GraphBuilder::new("brightness")
        .input(Value::f32("x", shape))
        .output(Value::f32("y", [Dim::from("N"), Dim::from(2)]))
        .initializer_f32("w", &[2, 4], vec![-gain, -gain, -gain, -gain, gain, gain, gain, gain])
        .initializer_f32("b", &[2], vec![1.0, -1.0])
        .node(Node::new("Flatten", ["x"], ["flat"]).int("axis", 1))
        .node(Node::new("Gemm", ["flat", "w", "b"], ["y"]).int("transB", 1));
    model.build().unwrap().write().into()
}

pub(crate) fn model() -> ModelName {
    ModelName::new("brightness").unwrap()
}

pub(crate) fn new_version(gain: f32) -> NewVersion {
    NewVersion {
        quality: None,
        baseline: None,
        model: model(),
        onnx: onnx(gain),
        pipeline: pipeline(),
        source: Source::Trained { job: JobId::new("job-1").unwrap() },
        metrics: Metrics { samples: 10, correct: 9, accuracy: 0.9, other: Default::default() },
        lineage: Lineage { dataset: "pixels".into(), dataset_version: 3, ..Default::default() },
        report: Some(serde_json::json!({ "curve": [0.5, 0.9] })),
        licence: None,
        samples: None,
    }
}

pub(crate) fn request() -> ReleaseRequest {
    let inputs = [[0_u8, 10, 20, 30], [255, 200, 250, 240]];
    ReleaseRequest::newest(model(), inputs.iter().map(|pixels| Bytes::copy_from_slice(pixels)).collect())
}

pub(crate) async fn released(installation: &Installation) -> flotilla_registry::Release {
    let admin = Actor::administrator();
    installation.registry.add_version(&admin, new_version(1.0), NOW).await.unwrap();
    installation.registry.release(&admin, request(), NOW).await.unwrap()
}
