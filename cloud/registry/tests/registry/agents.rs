//! Releases of the agent itself.

use crate::support::{NOW, new_version, open};
use bytes::Bytes;
use flotilla_identity::{Actor, audit};
use flotilla_protocol::manifest::{agent_engine, agent_name};
use flotilla_protocol::{Envelope, ErrorCode, ReleaseManifest};
use flotilla_registry::{AgentBinary, AgentRequest, NewVersion};

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
