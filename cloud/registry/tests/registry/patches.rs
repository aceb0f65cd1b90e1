//! Patches of what devices have: made with a release, carried by bundles.

use crate::support::{Installation, NOW, new_version, open, request};
use bytes::Bytes;
use flotilla_identity::Actor;
use flotilla_onnx::{Dim, GraphBuilder, Node, Value};
use flotilla_protocol::ErrorCode;
use flotilla_registry::{Bundle, NewVersion};

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
async fn a_release_needs_none_of_the_earlier_files() {
    let dir = tempfile::tempdir().unwrap();
    let installation = open(dir.path()).await;
    let (registry, admin) = (&installation.registry, Actor::administrator());
    let mut files = Vec::new();
    for version in 0..3_u16 {
        registry.add_version(&admin, heavy_version(f32::from(version) / 5_000.0), NOW).await.unwrap();
        let release = registry.release(&admin, request(), NOW).await.unwrap();
        files.push(release.files[0].clone());
        installation.objects.remove(&files[0].digest).await.unwrap();
    }
    let bases: Vec<_> = files[2].patches.iter().filter_map(|patch| patch.base).collect();
    assert_eq!(bases, [files[1].digest], "there is a patch of what is there");
}
