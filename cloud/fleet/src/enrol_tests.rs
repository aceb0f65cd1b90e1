//! What a device engineer meets at enrolment: a claim works as often and as long as it says, and a refusal changes
//! nothing.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use super::*;
use crate::ca::device_identity;
use crate::claims::{CLAIM_TTL_MS, CLAIM_USES, ClaimRequest};
use flotilla_protocol::enrol::ClaimSecret;
use flotilla_protocol::message::BoardFacts;
use flotilla_protocol::{Envelope, ErrorCode, ProjectId, TrustFile};
use flotilla_registry::Keys;
use flotilla_storage::{Objects, Records, SledRecords};
use rcgen::{CertificateParams, KeyPair};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use std::sync::Arc;
use tempfile::TempDir;

const NOW: u64 = 1_800_000_000_000;
const HOUR: u64 = 3_600_000;

struct Installation {
    _folder: TempDir,
    records: Arc<dyn Records>,
    store: Store,
    authority: CertificateAuthority,
    registry: Registry,
    settings: Settings,
}

impl Installation {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let project = ProjectId::new("shop").unwrap();
        let records: Arc<dyn Records> = Arc::new(SledRecords::open(&folder.path().join("records")).unwrap());
        let objects = Objects::open(&folder.path().join("objects")).unwrap();
        let authority = CertificateAuthority::open_or_create(&folder.path().join("ca"), &project).unwrap();
        let keys = Keys::open_or_create(&folder.path().join("keys")).unwrap();
        let registry =
            Registry::open(project, records.clone(), objects, keys, authority.ca_hash(), NOW).await.unwrap();
        let (store, settings) =
            (Store::new(records.clone()), Settings { probation_s: 7, ..Settings::default() });
        Self { _folder: folder, records, store, authority, registry, settings }
    }

    async fn claim(&self, uses: u32) -> ClaimSecret {
        let request = ClaimRequest::plain(uses, HOUR, "localhost:8080".into());
        let ca = self.authority.ca_hash();
        let (claim, code) =
            claims::create(&self.store, ca, &Actor::administrator(), request, NOW).await.unwrap();
        assert_eq!((code.ca, code.secret.hash()), (ca, claim.id));
        code.secret
    }

    async fn enrol(&self, request: EnrolRequest, now_ms: u64) -> Result<EnrolAnswer> {
        let enrolment = Enrolment {
            store: &self.store,
            authority: &self.authority,
            registry: &self.registry,
            settings: &self.settings,
            mqtt: "localhost:8883",
        };
        enrolment.enrol(request, now_ms).await
    }

    async fn devices(&self) -> Vec<Device> {
        self.store.devices.list(None, 100).await.unwrap().items.into_iter().map(|found| found.value).collect()
    }
}

fn request(secret: &ClaimSecret, device: Option<&str>) -> EnrolRequest {
    let key = KeyPair::generate().unwrap();
    let csr_pem = CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap();
    EnrolRequest {
        secret: secret.clone(),
        csr_pem,
        device: device.map(|id| DeviceId::new(id).unwrap()),
        board: BoardFacts { board: "raspberry-pi-4".into(), ..BoardFacts::default() },
        serial: None,
    }
}

#[tokio::test]
async fn a_claim_makes_a_device_with_certificate_trust_and_twin() {
    let installation = Installation::new().await;
    let secret = installation.claim(1).await;
    let answer = installation.enrol(request(&secret, Some("gate-7")), NOW + 1).await.unwrap();
    assert_eq!(answer.device.as_str(), "gate-7");
    assert_eq!(answer.mqtt, "localhost:8883");
    let certificate = CertificateDer::from_pem_slice(answer.certificate_pem.as_bytes()).unwrap();
    let identity = device_identity(&certificate).unwrap();
    assert_eq!((identity.project, identity.device), (answer.project, answer.device.clone()));
    let trust = Envelope::from_bytes(&STANDARD.decode(&answer.trust).unwrap()).unwrap();
    assert_eq!(TrustFile::accept_first(&trust).unwrap().ca, installation.authority.ca_hash());

    let [device] = &installation.devices().await[..] else { panic!("one device") };
    assert!(device.accepts(&identity.serial));
    assert!(!device.accepts(&crate::ca::Serial::random().unwrap()));
    assert_eq!(device.board.board, "raspberry-pi-4");
    let twin = installation.store.twins.get("gate-7").await.unwrap().unwrap().value;
    assert_eq!((twin.version, twin.settings.probation_s, twin.models.len()), (1, 7, 0));
    let trail = audit::list(&*installation.records, audit::Order::NewestFirst, None, 1).await.unwrap();
    assert_eq!((trail[0].action.as_str(), trail[0].subject.as_str()), ("device:enrol", "device/gate-7"));
}

#[tokio::test]
async fn a_device_whose_answer_was_lost_asks_again_and_gets_it_without_using_the_claim_up() {
    let installation = Installation::new().await;
    let secret = installation.claim(1).await;
    for name in [Some("gate-7"), None] {
        let secret = if name.is_some() { secret.clone() } else { installation.claim(1).await };
        let asked = request(&secret, name);
        let first = installation.enrol(asked.clone(), NOW + 1).await.unwrap();
        let second = installation.enrol(asked, NOW + 2).await.unwrap();
        assert_eq!(first.device, second.device);
        let serial = |answer: &EnrolAnswer| {
            let pem = answer.certificate_pem.as_bytes();
            device_identity(&CertificateDer::from_pem_slice(pem).unwrap()).unwrap().serial
        };
        let device = installation.store.devices.get(first.device.as_str()).await.unwrap().unwrap().value;
        assert!(device.accepts(&serial(&second)));
        assert!(!device.accepts(&serial(&first)), "the certificate that was lost opens nothing");
        // Neither another key nor, once the device has connected, the same one gets anything more.
        let other = installation.enrol(request(&secret, name), NOW + 3).await.unwrap_err();
        assert_eq!(other.code(), ErrorCode::ClaimUsed);
    }
    assert_eq!(installation.devices().await.len(), 2);
}

#[tokio::test]
async fn a_claim_works_as_often_as_it_says_even_at_the_same_moment() {
    let installation = Installation::new().await;
    let secret = installation.claim(3).await;
    let tries = (0..10).map(|_| installation.enrol(request(&secret, None), NOW + 1));
    let outcomes = futures::future::join_all(tries).await;
    let (enrolled, refused): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(|outcome| outcome.is_ok());
    assert_eq!(enrolled.len(), 3);
    assert!(refused.iter().all(|outcome| outcome.as_ref().unwrap_err().code() == ErrorCode::ClaimUsed));
    assert_eq!(installation.devices().await.len(), 3);
    let [claim] = &claims::list(&installation.store).await.unwrap()[..] else { panic!("one claim") };
    assert_eq!((claim.used, claim.uses), (3, 3));
}

#[tokio::test]
async fn a_refused_enrolment_changes_nothing_and_says_why() {
    let installation = Installation::new().await;
    let secret = installation.claim(2).await;
    let refused = async |request, now_ms| installation.enrol(request, now_ms).await.unwrap_err().code();
    assert_eq!(refused(request(&ClaimSecret::random(), None), NOW).await, ErrorCode::ClaimInvalid);
    assert_eq!(refused(request(&secret, None), NOW + HOUR).await, ErrorCode::ClaimExpired);
    let garbage = EnrolRequest { csr_pem: "not a request".into(), ..request(&secret, None) };
    assert_eq!(refused(garbage, NOW).await, ErrorCode::InvalidInput);
    assert!(installation.devices().await.is_empty());

    installation.enrol(request(&secret, Some("gate-7")), NOW).await.unwrap();
    assert_eq!(refused(request(&secret, Some("gate-7")), NOW).await, ErrorCode::AlreadyExists);
    let stranger = request(&ClaimSecret::random(), Some("gate-7"));
    assert_eq!(refused(stranger, NOW).await, ErrorCode::ClaimInvalid, "a stranger learns no device ids");
    installation.enrol(request(&secret, Some("gate-8")), NOW).await.unwrap();
    assert_eq!(refused(request(&secret, None), NOW).await, ErrorCode::ClaimUsed);
    assert_eq!(refused(request(&secret, None), NOW + HOUR).await, ErrorCode::ClaimUsed);
}

#[tokio::test]
async fn claims_are_bounded_and_swept_long_after_their_end() {
    let installation = Installation::new().await;
    let ca = installation.authority.ca_hash();
    let good = ClaimRequest::plain(1, HOUR, "edge.example:443".into());
    for wrong in [
        ClaimRequest { uses: 0, ..good.clone() },
        ClaimRequest { uses: CLAIM_USES + 1, ..good.clone() },
        ClaimRequest { ttl_ms: 0, ..good.clone() },
        ClaimRequest { ttl_ms: CLAIM_TTL_MS + 1, ..good.clone() },
        ClaimRequest { server: "no-port".into(), ..good.clone() },
        ClaimRequest { server: ":443".into(), ..good.clone() },
        ClaimRequest { server: "host:http".into(), ..good.clone() },
    ] {
        let refused = claims::create(&installation.store, ca, &Actor::administrator(), wrong, NOW).await;
        assert_eq!(refused.unwrap_err().code(), ErrorCode::InvalidInput);
    }
    installation.claim(1).await;
    claims::sweep(&installation.store, NOW + CLAIM_TTL_MS).await.unwrap();
    assert_eq!(claims::list(&installation.store).await.unwrap().len(), 1);
    claims::sweep(&installation.store, NOW + 2 * CLAIM_TTL_MS).await.unwrap();
    assert!(claims::list(&installation.store).await.unwrap().is_empty());
}
