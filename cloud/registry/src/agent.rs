//! Releases of the device agent itself: binaries, one a platform, signed like a model's release.
//!
//! They go under the reserved name [`AGENT_NAME`], with a counter and a floor of their own, so that rollouts, trust
//! and transfer need to know nothing of them.

use crate::error::{Error, Result};
use crate::model::Model;
use crate::registry::{ATTEMPTS, Registry, blocking, busy};
use crate::release::{Release, envelope_too_large};
use bytes::Bytes;
use flotilla_identity::{Actor, audit};
use flotilla_protocol::manifest::{
    AGENT_NAME, AgentFacts, Constraints, FileEntry, Lineage, Metrics, ReleaseKind, Variant, agent_engine,
    agent_name,
};
use flotilla_protocol::{Envelope, EnvelopeKind, Pipeline, ReleaseManifest, limits};
use flotilla_storage::{Batch, Versioned};
use serde_json::json;
use std::io::{Cursor, Read};
use zip::ZipArchive;

/// The operating system of every binary so far.
pub const AGENT_OS: &str = "linux";
/// Bytes that all binaries of one release may have.
const BINARIES: u64 = 256 * limits::MIB as u64;

/// An agent that is to be released.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentRequest {
    /// Its version, as the binaries print it themselves.
    pub version: String,
    /// A binary an architecture.
    pub binaries: Vec<AgentBinary>,
    /// After this moment devices do not activate it any more.
    pub expires_at_ms: Option<u64>,
}

/// One binary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentBinary {
    /// The architecture, as Rust names it.
    pub arch: String,
    /// The program.
    pub content: Bytes,
}

/// The architecture of an ELF program, as Rust names it; none for another file or an architecture not known here.
pub fn architecture(program: &[u8]) -> Option<&'static str> {
    let head = program.get(..20)?;
    let machine = [head[18], head[19]];
    let machine = match (head.starts_with(b"\x7fELF"), head[5]) {
        (true, 1) => u16::from_le_bytes(machine),
        (true, 2) => u16::from_be_bytes(machine),
        _ => return None,
    };
    Some(match machine {
        3 => "x86",
        8 => "mips",
        40 => "arm",
        62 => "x86_64",
        183 => "aarch64",
        243 if head[4] == 2 => "riscv64",
        _ => return None,
    })
}

impl AgentRequest {
    /// The binaries in a zip file, each named by its architecture. Blocks.
    pub fn from_zip(version: String, zip: &[u8]) -> Result<Self> {
        let unreadable =
            |error: zip::result::ZipError| Error::Invalid(format!("this is not a zip file: {error}"));
        let mut zip = ZipArchive::new(Cursor::new(zip)).map_err(unreadable)?;
        let (mut binaries, mut room) = (Vec::new(), BINARIES);
        for index in 0..zip.len().min(limits::RELEASE_FILES + 1) {
            let mut entry = zip.by_index(index).map_err(unreadable)?;
            let arch = entry.name().map_err(unreadable)?.into_owned();
            let mut content = Vec::new();
            let read = (&mut entry).take(room + 1).read_to_end(&mut content);
            read.map_err(|error| Error::Invalid(format!("{arch:?} cannot be unpacked: {error}")))?;
            let size = content.len() as u64;
            room = room.checked_sub(size).ok_or(Error::TooLarge {
                what: "the agent's binaries",
                size,
                bound: BINARIES,
            })?;
            binaries.push(AgentBinary { arch, content: content.into() });
        }
        Ok(Self { version, binaries, expires_at_ms: None })
    }

    fn check(&self, now_ms: u64) -> Result<()> {
        let invalid = |text: String| Err(Error::Invalid(text));
        let plain = |text: &str| {
            (1..=limits::ID).contains(&text.len())
                && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.+".contains(&b))
        };
        if !plain(&self.version) {
            return invalid(format!("{:?} is not a version, such as 1.2.3", self.version));
        }
        if self.binaries.is_empty() || self.binaries.len() > limits::RELEASE_FILES {
            return invalid(format!(
                "{} binaries; 1 to {} are possible",
                self.binaries.len(),
                limits::RELEASE_FILES
            ));
        }
        for (index, binary) in self.binaries.iter().enumerate() {
            if !plain(&binary.arch) || binary.arch.contains('+') {
                return invalid(format!("{:?} is not the name of an architecture", binary.arch));
            }
            if self.binaries[..index].iter().any(|other| other.arch == binary.arch) {
                return invalid(format!("there are two binaries for {}", binary.arch));
            }
            match architecture(&binary.content) {
                Some(found) if found != binary.arch => {
                    return invalid(format!("the binary for {} is one for {found}", binary.arch));
                }
                _ => {}
            }
            if binary.content.is_empty() {
                return invalid(format!("the binary for {} is empty", binary.arch));
            }
        }
        match self.expires_at_ms {
            Some(at) if at <= now_ms => invalid("the release would be expired already".into()),
            _ => Ok(()),
        }
    }
}

impl Registry {
    /// Signs an agent as a release, and makes manifest, binaries and record visible in one commit.
    pub async fn release_agent(&self, actor: &Actor, request: AgentRequest, now_ms: u64) -> Result<Release> {
        request.check(now_ms)?;
        let (name, mut files) = (agent_name(), Vec::new());
        for binary in &request.binaries {
            self.objects.put(binary.content.clone()).await?;
            let (file, content) =
                (format!("{AGENT_NAME}-{AGENT_OS}-{}", binary.arch), binary.content.clone());
            files.push(blocking(move || Ok(FileEntry::of(file, &content))).await?);
        }
        for _ in 0..ATTEMPTS {
            let found = self.models.get(name.as_str()).await?;
            let counter = found.as_ref().map_or(0, |agent| agent.value.latest_release) + 1;
            let manifest = self.agent_manifest(&request, &files, counter, now_ms)?;
            let envelope = Envelope::seal(EnvelopeKind::Release, &manifest, &[self.release_key()]);
            let encoded = envelope.to_bytes();
            if encoded.len() > limits::ENVELOPE {
                return Err(envelope_too_large(encoded.len()));
            }
            let release = Release::of(&manifest, &envelope, &encoded, &actor.id)?;
            self.objects.put(encoded).await?;
            let mut batch = Batch::new();
            self.releases.insert(&mut batch, &release)?;
            self.put_agent(&mut batch, actor, found, counter, now_ms)?;
            let detail = json!({
                "digest": release.digest, "version": request.version, "key": release.key_id,
                "binaries": release.files.iter().map(|file| &file.name).collect::<Vec<_>>(),
            });
            let subject = format!("release/{name}/{counter}");
            audit::record(&mut batch, actor, "release:create-agent", &subject, detail, now_ms)?;
            match self.commit(batch).await {
                Err(error) if error.is_conflict() => {}
                done => return done.map(|()| release),
            }
        }
        Err(busy(&name))
    }

    /// Writes the record under the reserved name: its releases are counted there.
    pub(crate) fn put_agent(
        &self,
        batch: &mut Batch,
        actor: &Actor,
        found: Option<Versioned<Model>>,
        counter: u64,
        now_ms: u64,
    ) -> Result<()> {
        match found {
            Some(found) => {
                let latest_release = found.value.latest_release.max(counter);
                let agent = Model { latest_release, ..found.value.clone() };
                self.models.update(batch, &found, &agent)?;
            }
            None => {
                let agent = Model {
                    name: agent_name(),
                    latest_version: 0,
                    latest_release: counter,
                    created_at_ms: now_ms,
                    created_by: actor.id.clone(),
                };
                self.models.insert(batch, &agent)?;
            }
        }
        Ok(())
    }

    fn agent_manifest(
        &self,
        request: &AgentRequest,
        files: &[FileEntry],
        counter: u64,
        now_ms: u64,
    ) -> Result<ReleaseManifest> {
        let variants = request.binaries.iter().zip(files).map(|(binary, file)| Variant {
            engine: agent_engine(AGENT_OS, &binary.arch),
            boards: Vec::new(),
            model: file.name.clone(),
        });
        let manifest = ReleaseManifest {
            format: 1,
            kind: ReleaseKind::Agent,
            project: self.project().clone(),
            model: agent_name(),
            version: u32::try_from(counter).unwrap_or(u32::MAX),
            counter,
            created_at_ms: now_ms,
            expires_at_ms: request.expires_at_ms,
            variants: variants.collect(),
            files: files.to_vec(),
            pipeline: Pipeline::none(),
            golden: String::new(),
            metrics: Metrics::default(),
            lineage: Lineage::default(),
            constraints: Constraints::default(),
            agent: Some(AgentFacts { version: request.version.clone() }),
            baseline: None,
        };
        manifest.check()?;
        Ok(manifest)
    }
}

#[cfg(test)]
mod tests {
    use super::architecture;

    #[test]
    fn programs_are_told_apart_by_their_heads() {
        let head = |class: u8, order: u8, machine: [u8; 2]| {
            let mut head = b"\x7fELF".to_vec();
            head.extend([class, order, 1]);
            head.resize(18, 0);
            head.extend(machine);
            head
        };
        assert_eq!(architecture(&head(2, 1, [62, 0])), Some("x86_64"));
        assert_eq!(architecture(&head(2, 1, [183, 0])), Some("aarch64"));
        assert_eq!(architecture(&head(1, 2, [0, 8])), Some("mips"));
        assert_eq!(architecture(&head(2, 1, [1, 1])), None);
        assert_eq!(architecture(b"#!/bin/sh\nexec something else"), None);
        assert_eq!(architecture(b"\x7fELF"), None);
    }
}
