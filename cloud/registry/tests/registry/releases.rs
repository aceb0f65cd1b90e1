//! Versions with lineage and releases that devices believe.

use crate::support::{NOW, ca, model, new_version, onnx, open, pipeline, released, request};
use bytes::Bytes;
use flotilla_identity::{Actor, audit};
use flotilla_protocol::{Baseline, Digest, Envelope, ErrorCode, ReleaseManifest, TrustFile, codec, limits};
use flotilla_registry::{Bundle, NewVersion, ReleaseRequest};

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
