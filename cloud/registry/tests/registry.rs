//! What a model engineer gets from the registry: versions with lineage, signed releases, bundles that can be
//! carried and are refused when anything about them is wrong.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use bytes::Bytes;
use flotilla_identity::{Actor, audit};
use flotilla_onnx::{Dim, GraphBuilder, Node, Value};
use flotilla_protocol::manifest::{Lineage, Metrics, agent_engine, agent_name};
use flotilla_protocol::pipeline::{
    Activation, Classification, Colour, ImageInput, Input, Layout, Output, Resize,
};
use flotilla_protocol::signature::SigningKey;
use flotilla_protocol::trust::KeySet;
use flotilla_protocol::{
    Baseline, Digest, Envelope, EnvelopeKind, ErrorCode, JobId, ModelName, Pipeline, ProjectId,
    ReleaseManifest, TrustFile, codec, limits,
};
use flotilla_registry::{
    AgentBinary, AgentRequest, Bundle, Keys, NewVersion, Registry, ReleaseRequest, Source,
};
use flotilla_storage::{Objects, Records, SledRecords};
use std::path::Path;
use std::sync::Arc;

const NOW: u64 = 1_800_000_000_000;

struct Installation {
    registry: Registry,
    records: Arc<dyn Records>,
    objects: Objects,
}

fn ca() -> Digest {
    Digest::of(b"the CA's public key")
}

async fn try_open(dir: &Path, ca: Digest) -> Result<Installation, flotilla_registry::Error> {
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

async fn open(dir: &Path) -> Installation {
    try_open(dir, ca()).await.unwrap()
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
            vec!["dark".into(), "bright".into()],
            Activation::Softmax,
        )),
    )
}

/// Scores a picture of four pixels as dark or bright.
fn onnx(gain: f32) -> Bytes {
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

fn model() -> ModelName {
    ModelName::new("brightness").unwrap()
}

fn new_version(gain: f32) -> NewVersion {
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

fn request() -> ReleaseRequest {
    let inputs = [[0_u8, 10, 20, 30], [255, 200, 250, 240]];
    ReleaseRequest::newest(model(), inputs.iter().map(|pixels| Bytes::copy_from_slice(pixels)).collect())
}

async fn released(installation: &Installation) -> flotilla_registry::Release {
    let admin = Actor::administrator();
    installation.registry.add_version(&admin, new_version(1.0), NOW).await.unwrap();
    installation.registry.release(&admin, request(), NOW).await.unwrap()
}

#[tokio::test]
async fn a_release_is_believed_by_a_device_and_names_the_bytes_that_ship() {
    let dir = tempfile::tempdir().unwrap();
    let installation = open(dir.path()).await;
    let release = released(&installation).await;

    // What a device does: trust file first, then the envelope, then every file.
    let trust = installation.registry.trust();
    let device = TrustFile::accept_first(&Envelope::from_bytes(&trust.envelope).unwrap()).unwrap();
    assert_eq!(device.ca, ca());
    let encoded = installation.objects.get(&release.digest).await.unwrap();
    assert_eq!(encoded.len(), release.envelope_bytes as usize);
    let manifest = ReleaseManifest::open(&Envelope::from_bytes(&encoded).unwrap(), &device, NOW).unwrap();
    assert_eq!((manifest.version, manifest.counter), (1, 1));
    assert_eq!(manifest.file("model.onnx").unwrap().digest, Digest::of(&onnx(1.0)));
    assert_eq!(manifest.lineage.dataset_version, 3);
    assert_eq!(manifest.total_bytes(), release.total_bytes);

    let mut files = std::collections::BTreeMap::new();
    for file in &manifest.files {
        files.insert(file.name.clone(), installation.objects.get(&file.digest).await.unwrap().to_vec());
    }
    let bundle = flotilla_runtime::Bundle::from_files(manifest, files).unwrap();
    let mut runner = flotilla_runtime::Model::from_bundle(&bundle, "any", "tract-onnx").unwrap();
    let report = flotilla_runtime::check_golden(&mut runner, &bundle.golden().unwrap()).unwrap();
    assert_eq!((report.vectors, report.max_abs_error), (2, 0.0));
    assert_eq!(
        runner.predict(flotilla_runtime::Input::Raw(&[255; 4])).unwrap().headline().unwrap().label,
        "bright"
    );
}

#[tokio::test]
async fn versions_and_releases_count_up_and_stay_over_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let admin = Actor::administrator();
    let first = {
        let installation = open(dir.path()).await;
        let first = released(&installation).await;
        let second = installation.registry.add_version(&admin, new_version(2.0), NOW + 1).await.unwrap();
        assert_eq!(second.version, 2);
        installation.records.close().await.unwrap();
        first
    };
    let installation = open(dir.path()).await;
    let registry = &installation.registry;
    assert_eq!(registry.trust().file.version, 1, "the trust file is made once");
    let again = registry.release(&admin, request(), NOW + 2).await.unwrap();
    assert_eq!((again.version, again.counter), (2, 2));
    let old =
        registry.release(&admin, ReleaseRequest { version: Some(1), ..request() }, NOW + 3).await.unwrap();
    assert_eq!((old.version, old.counter), (1, 3), "releasing an old version again is a new release");
    let listed = registry.releases(&model(), None, 10).await.unwrap();
    assert_eq!(listed.iter().map(|r| r.counter).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(registry.find_release(&first.digest).await.unwrap(), first);
    assert_eq!(registry.latest_release(&model()).await.unwrap().unwrap(), old);
    let versions = registry.versions(&model(), Some(1), 10).await.unwrap();
    assert_eq!(versions.iter().map(|v| v.version).collect::<Vec<_>>(), [2]);
    assert_eq!(registry.pipeline(&versions[0]).await.unwrap(), pipeline());
    assert_eq!(registry.report(&versions[0]).await.unwrap().unwrap()["curve"][1], 0.9);
    let trail = audit::list(&*installation.records, audit::Order::OldestFirst, None, 100).await.unwrap();
    let actions: Vec<_> = trail.iter().map(|entry| entry.action.as_str()).collect();
    let (version, release) = ("model:add-version", "release:create");
    assert_eq!(actions, ["trust:create", version, release, version, release, release]);
}

#[tokio::test]
async fn concurrent_versions_get_numbers_of_their_own() {
    let dir = tempfile::tempdir().unwrap();
    let installation = open(dir.path()).await;
    let admin = Actor::administrator();
    let adding = (0..6).map(|_| installation.registry.add_version(&admin, new_version(1.0), NOW));
    let mut numbers: Vec<u32> =
        futures_join(adding).await.into_iter().map(|version| version.unwrap().version).collect();
    numbers.sort();
    assert_eq!(numbers, [1, 2, 3, 4, 5, 6]);
}

async fn futures_join<F: Future>(futures: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut pending: Vec<_> = futures.map(|f| (Box::pin(f), None)).collect();
    std::future::poll_fn(|context| {
        for (future, done) in &mut pending {
            if done.is_none()
                && let std::task::Poll::Ready(output) = future.as_mut().poll(context)
            {
                *done = Some(output);
            }
        }
        let all = pending.iter().all(|(_, done)| done.is_some());
        if all { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    pending.into_iter().filter_map(|(_, done)| done).collect()
}

#[tokio::test]
async fn only_digests_of_the_release_are_reachable_from_it() {
    let dir = tempfile::tempdir().unwrap();
    let installation = open(dir.path()).await;
    let release = released(&installation).await;
    let reachable = installation.registry.reachable(&release.digest).await.unwrap();
    let golden = release.files.iter().find(|file| file.name == "golden.cbor").unwrap();
    assert_eq!(reachable, [release.digest, Digest::of(&onnx(1.0)), golden.digest].into());
    let unknown = installation.registry.reachable(&Digest::of(b"x")).await.unwrap_err();
    assert_eq!(unknown.code(), ErrorCode::NotFound);
}

#[tokio::test]
async fn what_cannot_run_is_no_version_and_what_proves_nothing_is_no_release() {
    let dir = tempfile::tempdir().unwrap();
    let installation = open(dir.path()).await;
    let admin = Actor::administrator();
    let registry = &installation.registry;
    let garbage = NewVersion { onnx: Bytes::from_static(b"not a model"), ..new_version(1.0) };
    assert_eq!(registry.add_version(&admin, garbage, NOW).await.unwrap_err().code(), ErrorCode::ModelInvalid);
    let mut nonsense = new_version(1.0);
    nonsense.metrics.accuracy = f64::NAN;
    assert_eq!(
        registry.add_version(&admin, nonsense, NOW).await.unwrap_err().code(),
        ErrorCode::InvalidInput
    );
    assert_eq!(registry.release(&admin, request(), NOW).await.unwrap_err().code(), ErrorCode::NotFound);

    released(&installation).await;
    let refused = async |request| registry.release(&admin, request, NOW).await.unwrap_err().code();
    assert_eq!(refused(ReleaseRequest { golden_inputs: vec![], ..request() }).await, ErrorCode::InvalidInput);
    assert_eq!(refused(ReleaseRequest { version: Some(9), ..request() }).await, ErrorCode::NotFound);
    assert_eq!(
        refused(ReleaseRequest { expires_at_ms: Some(NOW), ..request() }).await,
        ErrorCode::InvalidInput
    );
    let short = ReleaseRequest { golden_inputs: vec![Bytes::from_static(&[1, 2, 3])], ..request() };
    let code = registry.release(&admin, short, NOW).await.unwrap_err().code();
    assert_eq!(code, ErrorCode::InvalidInput, "a golden input that the pipeline cannot read");
    assert_eq!(registry.model(&model()).await.unwrap().latest_release, 1, "refusals use up no counter");
}

#[tokio::test]
async fn floors_rise_and_are_signed_for_devices() {
    let dir = tempfile::tempdir().unwrap();
    let installation = open(dir.path()).await;
    released(&installation).await;
    let admin = Actor::administrator();
    let registry = &installation.registry;
    let second = registry.release(&admin, request(), NOW).await.unwrap();
    let before = registry.trust();
    let after = registry.set_floor(&admin, &model(), 2, NOW + 5).await.unwrap();
    let accepted = before.file.accept_next(&Envelope::from_bytes(&after.envelope).unwrap()).unwrap();
    assert_eq!((accepted.version, accepted.floor(&model())), (2, 2));
    assert_eq!(registry.set_floor(&admin, &model(), 2, NOW).await.unwrap().file.version, 2, "idempotent");
    for wrong in [1, 3] {
        let error = registry.set_floor(&admin, &model(), wrong, NOW).await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::InvalidInput);
    }
    let first = registry.releases(&model(), None, 1).await.unwrap().remove(0);
    let open_on_device = async |digest: &Digest| {
        let envelope = installation.objects.get(digest).await.unwrap();
        ReleaseManifest::open(&Envelope::from_bytes(&envelope).unwrap(), &accepted, NOW)
    };
    assert_eq!(open_on_device(&first.digest).await.unwrap_err().code(), ErrorCode::BelowFloor);
    open_on_device(&second.digest).await.unwrap();
    installation.records.close().await.unwrap();
    drop(installation);
    assert_eq!(open(dir.path()).await.registry.trust(), after, "the floor is durable");
}

#[tokio::test]
async fn keys_and_records_of_different_installations_do_not_mix() {
    let dir = tempfile::tempdir().unwrap();
    let installation = open(dir.path()).await;
    installation.records.close().await.unwrap();
    drop(installation);
    let other_ca = try_open(dir.path(), Digest::of(b"another CA")).await.err().unwrap();
    assert_eq!(other_ca.code(), ErrorCode::CaMismatch);
    std::fs::remove_dir_all(dir.path().join("keys")).unwrap();
    assert_eq!(try_open(dir.path(), ca()).await.err().unwrap().code(), ErrorCode::SignatureInvalid);
}

#[tokio::test]
async fn a_bundle_brings_a_release_back_after_the_records_are_lost() {
    let dir = tempfile::tempdir().unwrap();
    let installation = open(dir.path()).await;
    let release = released(&installation).await;
    let zip = installation.registry.export(&release.digest).await.unwrap();
    assert_eq!(
        zip,
        installation.registry.export(&release.digest).await.unwrap(),
        "the same bytes every time"
    );
    let admin = Actor::administrator();
    let same = installation.registry.import_bundle(&admin, zip.clone(), NOW).await.unwrap();
    assert_eq!(same, release, "importing what is there changes nothing");
    installation.records.close().await.unwrap();
    drop(installation);

    std::fs::remove_dir_all(dir.path().join("records")).unwrap();
    std::fs::remove_dir_all(dir.path().join("objects")).unwrap();
    let installation = open(dir.path()).await;
    let imported = installation.registry.import_bundle(&admin, zip, NOW + 9).await.unwrap();
    assert_eq!((imported.digest, imported.counter), (release.digest, release.counter));
    let version = installation.registry.version(&model(), release.version).await.unwrap();
    assert_eq!(version.onnx, Digest::of(&onnx(1.0)));
    assert_eq!(version.metrics.accuracy, 0.9);
    let next = installation.registry.release(&admin, request(), NOW + 10).await.unwrap();
    assert_eq!(next.counter, release.counter + 1, "counters go on behind the imported release");
}

#[tokio::test]
async fn a_release_carries_the_baseline_of_its_version_wherever_it_goes() {
    let dir = tempfile::tempdir().unwrap();
    let installation = open(dir.path()).await;
    let (registry, admin) = (&installation.registry, Actor::administrator());
    let counts = Baseline {
        format: 1,
        features: vec![],
        labels: vec![1],
        classes: vec![7, 3],
        confidence: vec![0, 0, 0, 0, 0, 0, 0, 0, 0, 10],
    };
    let broken = Baseline { classes: vec![], ..counts.clone() };
    let refused = registry
        .add_version(&admin, NewVersion { baseline: Some(broken), ..new_version(1.0) }, NOW)
        .await
        .unwrap_err();
    assert!(refused.to_string().contains("classes"), "{refused}");

    let with = NewVersion { baseline: Some(counts.clone()), ..new_version(1.0) };
    registry.add_version(&admin, with, NOW).await.unwrap();
    let release = registry.release(&admin, request(), NOW).await.unwrap();
    let manifest = registry.manifest(&release.digest).await.unwrap();
    assert_eq!(manifest.baseline.as_deref(), Some("baseline.cbor"));
    let file = release.files.iter().find(|file| file.name == "baseline.cbor").unwrap();
    assert!(registry.reachable(&release.digest).await.unwrap().contains(&file.digest));
    let stored = installation.objects.get(&file.digest).await.unwrap();
    assert_eq!(codec::decode::<Baseline>(&stored, limits::BASELINE).unwrap(), counts);
    let draft = Bundle::from_zip(&registry.draft(request(), NOW).await.unwrap()).unwrap();
    assert_eq!(draft.files["baseline.cbor"], stored);

    // Into a registry that has lost everything, and out of it again.
    let zip = registry.export(&release.digest).await.unwrap();
    installation.records.close().await.unwrap();
    drop(installation);
    std::fs::remove_dir_all(dir.path().join("records")).unwrap();
    std::fs::remove_dir_all(dir.path().join("objects")).unwrap();
    let installation = open(dir.path()).await;
    installation.registry.import_bundle(&admin, zip, NOW).await.unwrap();
    let next = installation.registry.release(&admin, request(), NOW).await.unwrap();
    assert!(next.files.iter().any(|again| again.digest == file.digest));
    // A version without one makes a release without one.
    installation.registry.add_version(&admin, new_version(2.0), NOW).await.unwrap();
    let blind = installation.registry.release(&admin, request(), NOW).await.unwrap();
    assert_eq!(installation.registry.manifest(&blind.digest).await.unwrap().baseline, None);
    assert_eq!(blind.files.len(), 2);
}

/// A version whose model carries so many weights that do nothing, moved by a little from one version to the next.
fn heavy_version(moved: f32) -> NewVersion {
    let shape = [Dim::from("N"), Dim::from(1), Dim::from(2), Dim::from(2)];
    let ballast = (0..4_000).map(|i| ((i * 7_919 % 1_009) as f32 - 504.0) / 504.0 + moved).collect();
    let model = GraphBuilder::new("brightness")
        .input(Value::f32("x", shape))
        .output(Value::f32("y", [Dim::from("N"), Dim::from(2)]))
        .initializer_f32("w", &[2, 4], vec![-1.0, -1.0, -1.0, -1.0, 1.0, 1.0, 1.0, 1.0])
        .initializer_f32("b", &[2], vec![1.0, -1.0])
        .initializer_f32("wide", &[4, 1_000], ballast)
        .initializer_f32("back", &[1_000, 4], vec![0.0; 4_000])
        .node(Node::new("Flatten", ["x"], ["flat"]).int("axis", 1))
        .node(Node::new("MatMul", ["flat", "wide"], ["many"]))
        .node(Node::new("MatMul", ["many", "back"], ["none"]))
        .node(Node::new("Add", ["flat", "none"], ["same"]))
        .node(Node::new("Gemm", ["same", "w", "b"], ["y"]).int("transB", 1));
    NewVersion { onnx: model.build().unwrap().write().into(), ..new_version(1.0) }
}

#[tokio::test]
async fn a_release_brings_patches_of_what_devices_have_and_a_bundle_carries_them() {
    let dir = tempfile::tempdir().unwrap();
    let installation = open(dir.path()).await;
    let (registry, admin) = (&installation.registry, Actor::administrator());
    let mut files = Vec::new();
    for version in 0..6_u16 {
        registry.add_version(&admin, heavy_version(f32::from(version) / 5_000.0), NOW).await.unwrap();
        let release = registry.release(&admin, request(), NOW).await.unwrap();
        files.push((release.digest, release.files[0].clone()));
    }
    let (newest, file) = files.last().cloned().unwrap();
    let bases: Vec<_> = file.patches.iter().filter_map(|patch| patch.base).collect();
    assert_eq!(bases.len(), 4, "against the four releases before it");
    assert!((1..5).all(|at| bases.contains(&files[at].1.digest)));

    let manifest = registry.manifest(&newest).await.unwrap();
    let reachable = registry.reachable(&newest).await.unwrap();
    let new = installation.objects.get(&file.digest).await.unwrap();
    for patch in &manifest.file("model.onnx").unwrap().patches {
        assert!(patch.bytes * 10 <= file.bytes * 8 && reachable.contains(&patch.digest));
        let content = installation.objects.get(&patch.digest).await.unwrap();
        let base = match &patch.base {
            Some(base) => installation.objects.get(base).await.unwrap(),
            None => Bytes::new(),
        };
        let mut read = |offset: u64, buffer: &mut [u8]| {
            let rest = base.get(offset as usize..).unwrap_or(&[]);
            let size = rest.len().min(buffer.len());
            buffer[..size].copy_from_slice(&rest[..size]);
            Ok(size)
        };
        let mut made = Vec::new();
        let mut out = |piece: &[u8]| {
            made.extend_from_slice(piece);
            Ok::<_, std::convert::Infallible>(())
        };
        flotilla_patch::rebuild(&mut &content[..], &mut read, file.bytes, &mut out).unwrap();
        assert!(made == new);
    }

    // Into a registry that has lost everything: with its patches, without them, and not with others.
    let zip = registry.export(&newest).await.unwrap();
    let lost = async |installation: Installation| {
        installation.records.close().await.unwrap();
        drop(installation);
        std::fs::remove_dir_all(dir.path().join("records")).unwrap();
        std::fs::remove_dir_all(dir.path().join("objects")).unwrap();
        open(dir.path()).await
    };
    let installation = lost(installation).await;
    let again = installation.registry.import_bundle(&admin, zip.clone(), NOW).await.unwrap();
    assert_eq!(again.files[0], file);
    let draft = Bundle::from_zip(&installation.registry.draft(request(), NOW).await.unwrap()).unwrap();
    assert!(draft.patches.len() <= 1, "who has the same file needs no patch of it");
    let installation = lost(installation).await;
    let whole = Bundle::from_zip(&zip).unwrap();
    let mut other = whole.clone();
    *other.patches.values_mut().next().unwrap() = Bytes::from_static(b"another patch");
    let other = Bytes::from(other.to_zip().unwrap());
    let refused = installation.registry.import_bundle(&admin, other, NOW).await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::DigestMismatch);
    let without = Bytes::from(Bundle { patches: Default::default(), ..whole }.to_zip().unwrap());
    let bare = installation.registry.import_bundle(&admin, without, NOW).await.unwrap();
    assert!(bare.files[0].patches.is_empty(), "devices fetch the file");
}

#[tokio::test]
async fn a_bundle_signed_by_another_key_is_refused() {
    let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (ours, theirs) = (open(ours.path()).await, open(theirs.path()).await);
    let release = released(&theirs).await;
    let zip = theirs.registry.export(&release.digest).await.unwrap();
    let refused = ours.registry.import_bundle(&Actor::administrator(), zip, NOW).await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::SignatureInvalid);
    assert!(ours.registry.models(None, 10).await.unwrap().is_empty(), "nothing of it stays");
    assert_eq!(ours.objects.list(None, 10).await.unwrap().len(), 1, "only the trust file is stored");
}

#[tokio::test]
async fn a_bundle_that_was_changed_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let installation = open(dir.path()).await;
    let release = released(&installation).await;
    let zip = installation.registry.export(&release.digest).await.unwrap();
    let good = Bundle::from_zip(&zip).unwrap();
    let import = async |bundle: &Bundle| {
        let zip = bundle.to_zip().unwrap();
        installation.registry.import_bundle(&Actor::administrator(), zip.into(), NOW).await
    };
    import(&good).await.unwrap();

    let mut flipped = good.clone();
    let mut model = flipped.files["model.onnx"].to_vec();
    let middle = model.len() / 2;
    model[middle] ^= 1;
    flipped.files.insert("model.onnx".into(), model.into());
    assert_eq!(import(&flipped).await.unwrap_err().code(), ErrorCode::DigestMismatch);

    let mut missing = good.clone();
    missing.files.remove("golden.cbor");
    assert_eq!(import(&missing).await.unwrap_err().code(), ErrorCode::Malformed);

    let mut more = good.clone();
    more.files.insert("extra.bin".into(), Bytes::from_static(b"x"));
    assert_eq!(import(&more).await.unwrap_err().code(), ErrorCode::Malformed);

    let mut signed = good.envelope.to_vec();
    let middle = signed.len() / 2;
    signed[middle] ^= 1;
    let changed = Bundle { envelope: signed.into(), ..good.clone() };
    let code = import(&changed).await.unwrap_err().code();
    assert!([ErrorCode::SignatureInvalid, ErrorCode::Malformed].contains(&code), "{code}");
}

fn agent_request(version: &str, binaries: &[(&str, &'static [u8])]) -> AgentRequest {
    let binaries = binaries.iter().map(|(arch, content)| AgentBinary {
        arch: (*arch).to_owned(),
        content: Bytes::from_static(content),
    });
    AgentRequest { version: version.into(), binaries: binaries.collect(), expires_at_ms: None }
}

#[tokio::test]
async fn an_agent_is_released_under_its_own_name_counter_and_floor() {
    let dir = tempfile::tempdir().unwrap();
    let installation = open(dir.path()).await;
    let (registry, admin) = (&installation.registry, Actor::administrator());
    let first = registry.release_agent(&admin, agent_request("0.2.0", &[("x86_64", b"one")]), NOW).await;
    assert_eq!(first.unwrap().counter, 1);
    let two = agent_request("0.3.0", &[("x86_64", b"two"), ("aarch64", b"three")]);
    let second = registry.release_agent(&admin, two, NOW).await.unwrap();
    assert_eq!((second.counter, second.agent.clone().unwrap().version.as_str()), (2, "0.3.0"));
    assert_eq!(registry.latest_release(&agent_name()).await.unwrap().as_ref(), Some(&second));
    assert_eq!(registry.reachable(&second.digest).await.unwrap().len(), 3);

    // A device finds its own binary in what the release keys signed.
    let envelope = Envelope::from_bytes(&installation.objects.get(&second.digest).await.unwrap()).unwrap();
    let manifest = ReleaseManifest::open(&envelope, &registry.trust().file, NOW).unwrap();
    let part = manifest.part_for("any", &agent_engine("linux", "aarch64")).unwrap();
    assert_eq!(installation.objects.get(&part.files[0].digest).await.unwrap(), Bytes::from_static(b"three"));

    let trust = registry.set_floor(&admin, &agent_name(), 2, NOW).await.unwrap();
    assert_eq!(trust.file.floor(&agent_name()), 2);
    let trail = audit::list(&*installation.records, audit::Order::OldestFirst, None, 100).await.unwrap();
    assert_eq!(trail.iter().filter(|record| record.action == "release:create-agent").count(), 2);

    // It can be carried away and back like any other; it is there already.
    let zip = registry.export(&second.digest).await.unwrap();
    assert_eq!(registry.import_bundle(&admin, zip, NOW).await.unwrap(), second);
}

#[tokio::test]
async fn an_agent_bundle_comes_back_into_a_registry_that_lost_it() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let installation = open(dir.path()).await;
    let admin = Actor::administrator();
    let request = agent_request("0.2.0", &[("x86_64", b"one")]);
    let release = installation.registry.release_agent(&admin, request, NOW).await.unwrap();
    let zip = installation.registry.export(&release.digest).await.unwrap();
    // The same keys, and nothing else.
    std::fs::create_dir(other.path().join("keys")).unwrap();
    for entry in std::fs::read_dir(dir.path().join("keys")).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), other.path().join("keys").join(entry.file_name())).unwrap();
    }
    let lost = open(other.path()).await;
    assert_eq!(lost.registry.import_bundle(&admin, zip, NOW).await.unwrap().digest, release.digest);
    let again = agent_request("0.2.1", &[("x86_64", b"two")]);
    assert_eq!(lost.registry.release_agent(&admin, again, NOW).await.unwrap().counter, 2);
}

#[tokio::test]
async fn agents_that_are_none_are_not_signed_and_no_model_takes_their_name() {
    let dir = tempfile::tempdir().unwrap();
    let installation = open(dir.path()).await;
    let arm: &[u8] = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\xb7\0";
    for request in [
        agent_request("", &[("x86_64", b"x")]),
        agent_request("1.0; rm", &[("x86_64", b"x")]),
        agent_request("1.0", &[]),
        agent_request("1.0", &[("x86_64", b"")]),
        agent_request("1.0", &[("../x", b"x")]),
        agent_request("1.0", &[("x86_64", b"x"), ("x86_64", b"y")]),
        agent_request("1.0", &[("x86_64", arm)]),
    ] {
        let refused =
            installation.registry.release_agent(&Actor::administrator(), request.clone(), NOW).await;
        assert_eq!(refused.unwrap_err().code(), ErrorCode::InvalidInput, "{request:?}");
    }
    let version = NewVersion { model: agent_name(), ..new_version(1.0) };
    let refused = installation.registry.add_version(&Actor::administrator(), version, NOW).await;
    assert_eq!(refused.unwrap_err().code(), ErrorCode::InvalidInput);
}

#[test]
fn paths_that_leave_a_bundle_are_refused() {
    use std::io::{Cursor, Write};
    for path in [
        "../x",
        "files/../../x",
        "/etc/passwd",
        "files/.hidden",
        "files/a/b",
        "files/",
        "other",
        "files/a\\b",
    ] {
        let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
        zip.start_file(path, zip::write::SimpleFileOptions::default()).unwrap();
        zip.write_all(b"x").unwrap();
        let bytes = zip.finish().unwrap().into_inner();
        assert_eq!(Bundle::from_zip(&bytes).unwrap_err().code(), ErrorCode::ArchivePath, "{path}");
    }
}

#[test]
fn a_bundle_that_unpacks_to_too_much_is_refused() {
    let bomb =
        Bundle { envelope: vec![0; 10 << 20].into(), files: Default::default(), patches: Default::default() };
    let zip = bomb.to_zip().unwrap();
    assert!(zip.len() < 100_000);
    assert_eq!(Bundle::from_zip(&zip).unwrap_err().code(), ErrorCode::TooLarge);
}

proptest::proptest! {
    #[test]
    fn arbitrary_and_damaged_zip_files_never_panic(
        noise in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200),
        at in 0_usize..400,
        value: u8,
    ) {
        let _ = Bundle::from_zip(&noise);
        let files = [("a.bin".to_owned(), Bytes::from_static(b"0123456789"))].into();
        let mut zip = Bundle { envelope: Bytes::from_static(b"envelope"), files, patches: Default::default() }.to_zip().unwrap();
        let at = at % zip.len();
        zip[at] = value;
        let _ = Bundle::from_zip(&zip);
    }
}

fn offline(seed: u8) -> SigningKey {
    SigningKey::from_seed(&[seed; 32])
}

/// The release key of an installation, as a person who keeps it has it.
fn release_key(dir: &Path) -> SigningKey {
    flotilla_registry::read_key(&dir.join("keys/release.key")).unwrap()
}

/// The next trust file with these release keys.
fn next(registry: &Registry, threshold: u16, keys: &[&SigningKey]) -> TrustFile {
    let mut file = registry.trust().file.clone();
    file.version += 1;
    file.release_keys = KeySet { threshold, keys: keys.iter().map(|key| key.public()).collect() };
    file
}

fn signed(file: &TrustFile, keys: &[&SigningKey]) -> Bytes {
    Envelope::seal(EnvelopeKind::Trust, file, keys).to_bytes().into()
}

#[tokio::test]
async fn release_keys_move_offline_step_by_step_and_devices_follow_every_step() {
    let dir = tempfile::tempdir().unwrap();
    let installation = open(dir.path()).await;
    released(&installation).await;
    let (registry, admin) = (&installation.registry, Actor::administrator());
    let (own, b, c) = (release_key(dir.path()), offline(2), offline(3));
    let first = registry.trust().file.clone();

    // Two of two, then two of three without the key that lies here.
    let two = next(registry, 2, &[&own, &b]);
    registry.publish_trust(&admin, signed(&two, &[&own, &b]), NOW).await.unwrap();
    let three = next(registry, 2, &[&b, &c, &offline(4)]);
    registry.publish_trust(&admin, signed(&three, &[&own, &b, &c]), NOW).await.unwrap();
    assert_eq!(registry.trust().file, three);

    // A device that slept since version 1 walks: it could not believe version 3 by the keys of version 1.
    let mut device = first.clone();
    let newest = Envelope::from_bytes(&registry.trust().envelope).unwrap();
    let by_old_keys_alone = signed(&three, &[&own]);
    assert!(device.accept_next(&newest).is_ok(), "the old key happens to be among those that signed");
    let without = Envelope::from_bytes(&signed(&three, &[&b, &c])).unwrap();
    assert_eq!(device.accept_next(&without).unwrap_err().code(), ErrorCode::SignatureInvalid);
    for version in 2..=3 {
        let bytes = registry.trust_after(device.version).await.unwrap().unwrap();
        device = device.accept_next(&Envelope::from_bytes(&bytes).unwrap()).unwrap();
        assert_eq!(device.version, version);
    }
    assert_eq!(registry.trust_after(3).await.unwrap(), None);
    assert_eq!(registry.trust_after(u64::MAX).await.unwrap(), None);
    // A device that enrols now believes it as its first.
    assert_eq!(TrustFile::accept_first(&newest).unwrap(), three);
    assert!(TrustFile::accept_first(&Envelope::from_bytes(&by_old_keys_alone).unwrap()).is_err());

    // What the key of this installation alone may no longer sign says what to do.
    let refused = registry.release(&admin, request(), NOW).await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::SignatureInvalid);
    assert!(refused.to_string().contains("release draft"), "{refused}");
    let refused = registry.set_floor(&admin, &model(), 1, NOW).await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::SignatureInvalid);

    // A draft counts when enough keys have signed it.
    let draft = registry.draft(request(), NOW).await.unwrap();
    let with = |keys: &[&SigningKey]| {
        let mut bundle = Bundle::from_zip(&draft).unwrap();
        let mut envelope = Envelope::from_bytes(&bundle.envelope).unwrap();
        keys.iter().for_each(|key| assert!(envelope.sign(key)));
        bundle.envelope = envelope.to_bytes().into();
        Bytes::from(bundle.to_zip().unwrap())
    };
    for keys in [&[][..], &[&b], &[&b, &b], &[&own, &b], &[&offline(9), &c]] {
        let refused = registry.import_bundle(&admin, with(keys), NOW).await.unwrap_err();
        assert_eq!(refused.code(), ErrorCode::SignatureInvalid);
    }
    let release = registry.import_bundle(&admin, with(&[&c, &b]), NOW).await.unwrap();
    assert_eq!(release.counter, 2);
    let envelope = Envelope::from_bytes(&installation.objects.get(&release.digest).await.unwrap()).unwrap();
    ReleaseManifest::open(&envelope, &device, NOW).unwrap();
    assert!(ReleaseManifest::open(&envelope, &first, NOW).is_err(), "its keys are new");

    let trail = audit::list(&*installation.records, audit::Order::NewestFirst, None, 10).await.unwrap();
    assert_eq!(trail.iter().filter(|record| record.action == "trust:publish").count(), 2);
    installation.records.close().await.unwrap();
    drop(installation);
    let again = open(dir.path()).await;
    assert_eq!(again.registry.trust().file, three, "durable, and no other release key is expected here");
    assert!(again.registry.trust_after(1).await.unwrap().is_some(), "history too");
}

#[tokio::test]
async fn a_floor_may_rise_beside_a_backup_key_and_the_control_plane_starts_again() {
    let dir = tempfile::tempdir().unwrap();
    let installation = open(dir.path()).await;
    released(&installation).await;
    let (registry, admin) = (&installation.registry, Actor::administrator());
    registry.release(&admin, request(), NOW).await.unwrap();
    let (own, backup) = (release_key(dir.path()), offline(2));
    let either = next(registry, 1, &[&own, &backup]);
    registry.publish_trust(&admin, signed(&either, &[&own]), NOW).await.unwrap();
    let risen = registry.set_floor(&admin, &model(), 2, NOW).await.unwrap();
    assert_eq!(risen.file.release_keys, either.release_keys);
    installation.records.close().await.unwrap();
    drop(installation);
    let again = open(dir.path()).await;
    assert_eq!(again.registry.trust(), risen);
    again.records.close().await.unwrap();
    drop(again);
    std::fs::remove_dir_all(dir.path().join("keys")).unwrap();
    let foreign = try_open(dir.path(), ca()).await.err().unwrap();
    assert_eq!(foreign.code(), ErrorCode::SignatureInvalid, "keys of another installation are still told");
}

#[tokio::test]
async fn a_trust_file_that_breaks_a_rule_is_refused_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let installation = open(dir.path()).await;
    released(&installation).await;
    let (registry, admin) = (&installation.registry, Actor::administrator());
    let (own, b) = (release_key(dir.path()), offline(2));
    registry.set_floor(&admin, &model(), 1, NOW).await.unwrap();
    let good = next(registry, 2, &[&own, &b]);
    let both = [&own, &b];
    type Change = fn(&mut TrustFile);
    let changes: [(&str, ErrorCode, Change); 9] = [
        ("rolled back", ErrorCode::Replayed, |f| f.version = 1),
        ("the same version", ErrorCode::Replayed, |f| f.version = 2),
        ("a version left out", ErrorCode::InvalidInput, |f| f.version = 4),
        ("a floor lowered", ErrorCode::BelowFloor, |f| f.min_release.clear()),
        ("a floor above the newest release", ErrorCode::InvalidInput, |f| {
            f.min_release.insert(model(), 2);
        }),
        ("another project", ErrorCode::WrongProject, |f| f.project = "elsewhere".parse().unwrap()),
        ("another CA", ErrorCode::CaMismatch, |f| f.ca = Digest::of(b"other")),
        ("control keys that lie elsewhere", ErrorCode::SignatureInvalid, |f| {
            f.control_keys = KeySet::single(offline(8).public());
        }),
        ("out of the future", ErrorCode::InvalidInput, |f| f.issued_at_ms = NOW + 86_400_000),
    ];
    let before = registry.trust();
    for (what, code, change) in changes {
        let mut file = good.clone();
        change(&mut file);
        let refused = registry.publish_trust(&admin, signed(&file, &both), NOW).await.unwrap_err();
        assert_eq!(refused.code(), code, "{what}: {refused}");
    }
    let unsatisfiable = next(registry, 3, &[&own, &b]);
    let twice = next(registry, 2, &[&own, &own]);
    for (what, code, bytes) in [
        ("not signed", ErrorCode::SignatureInvalid, signed(&good, &[])),
        ("signed by its own keys alone", ErrorCode::SignatureInvalid, signed(&good, &[&b])),
        ("not signed by its own keys", ErrorCode::SignatureInvalid, signed(&good, &[&own])),
        ("the same key twice", ErrorCode::SignatureInvalid, signed(&good, &[&own, &own])),
        ("more signatures than keys", ErrorCode::InvalidInput, signed(&unsatisfiable, &both)),
        ("one key named twice", ErrorCode::InvalidInput, signed(&twice, &both)),
        ("rubbish", ErrorCode::Malformed, Bytes::from_static(b"rubbish")),
    ] {
        let refused = registry.publish_trust(&admin, bytes, NOW).await.unwrap_err();
        assert_eq!(refused.code(), code, "{what}: {refused}");
    }
    let mut changed = signed(&good, &both).to_vec();
    let at = changed.len() / 3;
    changed[at] ^= 1;
    assert!(registry.publish_trust(&admin, changed.into(), NOW).await.is_err());
    assert_eq!(registry.trust(), before);
    registry.publish_trust(&admin, signed(&good, &both), NOW).await.unwrap();
}
