//! Releases of two models, good ones and bad ones of every nature, made and signed once for all seeds.

use flotilla_protocol::manifest::{
    Constraints, ENGINE_TRACT, FileEntry, Lineage, Metrics, Patch, ReleaseKind, Variant,
};
use flotilla_protocol::message::DesiredModel;
use flotilla_protocol::pipeline::{
    Activation, Classification, Colour, ImageInput, Input, Layout, Output, Resize,
};
use flotilla_protocol::signature::SigningKey;
use flotilla_protocol::trust::KeySet;
use flotilla_protocol::{
    Digest, Envelope, EnvelopeKind, ModelName, Pipeline, ReleaseManifest, TrustFile, limits,
};
use std::collections::BTreeMap;
use std::sync::OnceLock;

/// Below it nothing is activated.
const FLOOR: u64 = 5;

/// What becomes of a release that is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Nature {
    Good,
    /// Not signed by a key that the device believes.
    Unsigned,
    /// Older than the trust file allows.
    BelowFloor,
    /// Its golden test fails.
    FailsProbe,
    /// It passes the probe and cannot be loaded.
    FailsLoad,
    /// It loads, and its predictions fail.
    FailsUnderLoad,
    /// Probing it takes the device down.
    KillsProbed,
    /// Loading it takes the device down.
    KillsLoaded,
}

/// The releases of each model; the first one is good.
const NATURES: [Nature; 10] = [
    Nature::Good,
    Nature::Good,
    Nature::Good,
    Nature::Unsigned,
    Nature::BelowFloor,
    Nature::FailsProbe,
    Nature::FailsLoad,
    Nature::FailsUnderLoad,
    Nature::KillsProbed,
    Nature::KillsLoaded,
];

/// One release.
pub(super) struct Release {
    pub(super) nature: Nature,
    pub(super) digest: Digest,
    pub(super) envelope: Vec<u8>,
    /// Content by file name.
    pub(super) files: BTreeMap<String, Vec<u8>>,
}

impl Release {
    /// What a desired document says of it.
    pub(super) fn wanted(&self, attempt: u32) -> DesiredModel {
        DesiredModel { release: self.digest, envelope_bytes: self.envelope.len() as u32, attempt }
    }
}

/// All releases, the keys, and the trust file.
pub(super) struct Releases {
    pub(super) trust: TrustFile,
    pub(super) control: SigningKey,
    by_model: BTreeMap<ModelName, Vec<Release>>,
    /// What the cloud gives out: envelopes and files.
    contents: BTreeMap<Digest, Vec<u8>>,
}

/// A model with a file of more than one chunk.
pub(super) fn large() -> ModelName {
    "digits".parse().unwrap()
}

/// A model of small files.
pub(super) fn small() -> ModelName {
    "faces".parse().unwrap()
}

/// The releases.
pub(super) fn all() -> &'static Releases {
    static ALL: OnceLock<Releases> = OnceLock::new();
    ALL.get_or_init(Releases::new)
}

impl Releases {
    fn new() -> Self {
        let (signer, control) = (SigningKey::from_seed(&[2; 32]), SigningKey::from_seed(&[1; 32]));
        let trust = TrustFile {
            version: 1,
            project: "default".parse().unwrap(),
            ca: Digest::of(b"ca"),
            release_keys: KeySet::single(signer.public()),
            control_keys: KeySet::single(control.public()),
            min_release: BTreeMap::from([(large(), FLOOR), (small(), FLOOR)]),
            issued_at_ms: 1,
        };
        let stranger = SigningKey::from_seed(&[9; 32]);
        let mut releases = Self { trust, control, by_model: BTreeMap::new(), contents: BTreeMap::new() };
        for model in [large(), small()] {
            for (index, nature) in NATURES.into_iter().enumerate() {
                let files = files(&model, index as u8);
                let mut manifest = manifest(&model, index as u32, nature, &files);
                releases.patch(&mut manifest, &files["model"]);
                let key = if nature == Nature::Unsigned { &stranger } else { &signer };
                let envelope = Envelope::seal(EnvelopeKind::Release, &manifest, &[key]).to_bytes();
                let digest = Digest::of(&envelope);
                releases.contents.insert(digest, envelope.clone());
                for content in files.values() {
                    releases.contents.insert(Digest::of(content), content.clone());
                }
                let release = Release { nature, digest, envelope, files };
                releases.by_model.entry(model.clone()).or_default().push(release);
            }
        }
        releases
    }

    /// Adds patches of the model file against those of the releases before: good ones, one that makes something else, and
    /// one that the cloud does not give out.
    fn patch(&mut self, manifest: &mut ReleaseManifest, new: &[u8]) {
        let before = self.by_model.get(&manifest.model).map_or(&[][..], |releases| releases);
        let Some(entry) = manifest.files.iter_mut().find(|file| file.name == "model") else { return };
        for (index, base) in before.iter().enumerate().rev().take(limits::FILE_PATCHES) {
            let base = &base.files["model"];
            let mut content = flotilla_patch::make(Some(base), new, new.len()).unwrap();
            let lost = index == 2;
            if index == 1 {
                let middle = content.len() / 2;
                content[middle] ^= 0x55;
            }
            entry.patches.push(Patch::of(Some(Digest::of(base)), flotilla_patch::METHOD, &content));
            if !lost {
                self.contents.insert(Digest::of(&content), content);
            }
        }
    }

    /// The releases of a model.
    pub(super) fn of(&self, model: &ModelName) -> &[Release] {
        &self.by_model[model]
    }

    /// The release with this digest.
    pub(super) fn find(&self, digest: Digest) -> &Release {
        self.by_model.values().flatten().find(|release| release.digest == digest).unwrap()
    }

    /// Bytes that the cloud has under a digest.
    pub(super) fn content(&self, digest: Digest) -> Option<&[u8]> {
        self.contents.get(&digest).map(Vec::as_slice)
    }
}

fn bytes(seed: u8, length: usize) -> Vec<u8> {
    (0..length).map(|i| (i % 251) as u8 ^ seed.wrapping_mul(37)).collect()
}

/// Releases of a model have some content in common, so that there is something to reuse.
fn files(model: &ModelName, index: u8) -> BTreeMap<String, Vec<u8>> {
    let engine = if *model == large() {
        let mut content = bytes(200, limits::CHUNK);
        content.extend(bytes(index, 700));
        content
    } else {
        // Hardly any byte is another one in the next release.
        let mut content = bytes(50, 5_000);
        content.iter_mut().step_by(700).for_each(|byte| *byte ^= index + 1);
        content
    };
    BTreeMap::from([
        ("golden".to_owned(), bytes(index + 100, 300)),
        ("labels".to_owned(), bytes(201, 900)),
        ("model".to_owned(), engine),
    ])
}

fn manifest(
    model: &ModelName,
    index: u32,
    nature: Nature,
    files: &BTreeMap<String, Vec<u8>>,
) -> ReleaseManifest {
    let image = ImageInput {
        width: 2,
        height: 2,
        colour: Colour::Grey,
        resize: Resize::Exact,
        layout: Layout::Nchw,
        mean: vec![0.0],
        std: vec![1.0],
        ..ImageInput::none()
    };
    let output = Classification::new(vec!["a".into(), "b".into()], Activation::None);
    ReleaseManifest {
        format: 1,
        kind: ReleaseKind::Model,
        project: "default".parse().unwrap(),
        model: model.clone(),
        version: index + 1,
        counter: if nature == Nature::BelowFloor { FLOOR - 1 } else { FLOOR + u64::from(index) },
        created_at_ms: 0,
        expires_at_ms: None,
        variants: vec![Variant { engine: ENGINE_TRACT.into(), boards: Vec::new(), model: "model".into() }],
        files: files.iter().map(|(name, content)| FileEntry::of(name, content)).collect(),
        pipeline: Pipeline::new(Input::Image(image), Output::Classification(output)),
        golden: "golden".into(),
        metrics: Metrics::default(),
        lineage: Lineage::default(),
        constraints: Constraints::default(),
        agent: None,
        baseline: None,
    }
}
