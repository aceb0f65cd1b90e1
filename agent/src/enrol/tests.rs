//! What a device accepts of a server, over real TLS sockets, and that nothing is stored or sent otherwise.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use super::*;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use flotilla_device::update::Confirmed;
use flotilla_protocol::Pipeline;
use flotilla_protocol::enrol::ClaimSecret;
use flotilla_protocol::manifest::{Constraints, Lineage, Metrics, ReleaseKind};
use flotilla_protocol::message::SlotName;
use flotilla_protocol::signature::SigningKey;
use flotilla_protocol::trust::KeySet;
use flotilla_protocol::{Digest, Envelope, EnvelopeKind, ErrorCode, TrustFile};
use rcgen::{
    BasicConstraints, CertificateSigningRequestParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyUsagePurpose, PublicKeyData, SanType,
};
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// A root that signs servers and devices.
struct Ca {
    issuer: Issuer<'static, KeyPair>,
    der: CertificateDer<'static>,
    pem: String,
}

impl Ca {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.distinguished_name.push(DnType::CommonName, "test root");
        let certificate = params.self_signed(&key).unwrap();
        Self { der: certificate.der().clone(), pem: certificate.pem(), issuer: Issuer::new(params, key) }
    }

    fn hash(&self) -> Digest {
        Digest::of(&self.issuer.key().subject_public_key_info())
    }

    fn server(&self) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (certificate.der().clone(), PrivateKeyDer::try_from(key.serialize_der()).unwrap())
    }

    fn device(&self, csr_pem: &str, uri: &str) -> String {
        let csr = CertificateSigningRequestParams::from_pem(csr_pem).unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.signed_by(&csr.public_key, &self.issuer).unwrap().pem()
    }
}

fn trust(ca: Digest, project: &str) -> String {
    trust_signed(ca, project, &SigningKey::from_seed(&[1; 32]))
}

/// A trust file that names the usual release key, signed by these.
fn trust_signed_by(ca: Digest, project: &str, by: &[&SigningKey]) -> String {
    let key = SigningKey::from_seed(&[1; 32]);
    let file = TrustFile {
        version: 1,
        project: project.parse().unwrap(),
        ca,
        release_keys: KeySet::single(key.public()),
        control_keys: KeySet::single(SigningKey::from_seed(&[2; 32]).public()),
        min_release: BTreeMap::new(),
        issued_at_ms: 1,
    };
    STANDARD.encode(Envelope::seal(EnvelopeKind::Trust, &file, by).to_bytes())
}

fn trust_signed(ca: Digest, project: &str, by: &SigningKey) -> String {
    trust_signed_by(ca, project, &[by])
}

fn good_answer(ca: &Ca, request: &EnrolRequest) -> EnrolAnswer {
    EnrolAnswer {
        project: "default".parse().unwrap(),
        device: "gate-7".parse().unwrap(),
        certificate_pem: ca.device(&request.csr_pem, "flotilla:default/gate-7"),
        ca_pem: ca.pem.clone(),
        trust: trust(ca.hash(), "default"),
        mqtt: "127.0.0.1:8883".to_owned(),
    }
}

type Answering = Box<dyn Fn(&Ca, &EnrolRequest) -> (u16, String) + Send + Sync>;

/// A server that shows `chain` and answers; counts the bytes that it was sent after the handshake.
struct Server {
    address: String,
    received: Arc<AtomicUsize>,
    requests: Arc<Mutex<Vec<EnrolRequest>>>,
}

impl Server {
    async fn start(ca: Arc<Ca>, chain_root: Option<CertificateDer<'static>>, answering: Answering) -> Self {
        let (leaf, key) = ca.server();
        let chain = std::iter::once(leaf).chain(chain_root).collect();
        let config = ServerConfig::builder_with_provider(tls::provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let received = Arc::new(AtomicUsize::new(0));
        let requests = Arc::new(Mutex::new(Vec::new()));
        let server = Self { address, received: received.clone(), requests: requests.clone() };
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let Ok(mut stream) = acceptor.accept(tcp).await else { continue };
                let mut bytes = Vec::new();
                let body = loop {
                    match stream.read_buf(&mut bytes).await {
                        Ok(read) if read > 0 => received.fetch_add(read, Ordering::SeqCst),
                        _ => break None,
                    };
                    let Some(head) = bytes.windows(4).position(|w| w == b"\r\n\r\n") else { continue };
                    // The body is JSON, so it is whole as soon as it can be read.
                    if let Ok(request) = serde_json::from_slice::<EnrolRequest>(&bytes[head + 4..]) {
                        assert!(bytes.starts_with(b"POST /api/v1/enrol HTTP/1.1\r\n"));
                        break Some(request);
                    }
                };
                let Some(request) = body else { continue };
                let (status, text) = answering(&ca, &request);
                requests.lock().unwrap().push(request);
                let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n", text.len());
                stream.write_all(head.as_bytes()).await.unwrap();
                stream.write_all(text.as_bytes()).await.unwrap();
                stream.shutdown().await.unwrap();
            }
        });
        server
    }
}

struct Bench {
    root: tempfile::TempDir,
    folder: Folder,
    ca: Arc<Ca>,
}

impl Bench {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::open(root.path()).unwrap();
        Self { root, folder, ca: Arc::new(Ca::new()) }
    }

    async fn honest(&self, change: impl Fn(&mut EnrolAnswer) + Send + Sync + 'static) -> Server {
        let answering: Answering = Box::new(move |ca, request| {
            let mut answer = good_answer(ca, request);
            change(&mut answer);
            (200, serde_json::to_string(&answer).unwrap())
        });
        Server::start(self.ca.clone(), Some(self.ca.der.clone()), answering).await
    }

    async fn enrol_at(&self, server: &Server, ca: Digest) -> Result<Names, Error> {
        let claim = ClaimCode { server: server.address.clone(), ca, secret: ClaimSecret::random() };
        let applicant = Applicant { device: Some("gate-7".parse().unwrap()), ..Applicant::default() };
        enrol(&self.folder, &claim, applicant, &Clock::new(0)).await
    }

    async fn enrol(&self, server: &Server) -> Result<Names, Error> {
        self.enrol_at(server, self.ca.hash()).await
    }

    fn check_nothing_stored(&self) {
        assert_eq!(identity::names(&self.folder).unwrap(), None);
        assert!(!self.root.path().join(IDENTITY).exists());
        assert!(!self.root.path().join("trust.cbor").exists());
    }
}

#[tokio::test]
async fn an_enrolled_folder_has_a_private_identity_that_works() {
    let bench = Bench::new();
    let server = bench.honest(|_| ()).await;
    let names = bench.enrol(&server).await.unwrap();
    assert_eq!(names.device.as_str(), "gate-7");
    let clock = Clock::new(0);
    assert_eq!(identity::read(&bench.folder, &clock).unwrap().names, names);
    assert_eq!(identity::trust(&bench.folder, &names.project).unwrap().version, 1);
    use std::os::unix::fs::PermissionsExt;
    let mode = |path: &str| fs::metadata(bench.root.path().join(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("identity"), mode("identity/key.pem")), (0o700, 0o600));
    let sent = serde_json::to_string(&*server.requests.lock().unwrap()).unwrap();
    let key = fs::read_to_string(bench.root.path().join("identity/key.pem")).unwrap();
    let secret = key.lines().nth(1).unwrap();
    assert!(!sent.contains(secret), "the private key was sent");
}

#[tokio::test]
async fn a_server_with_another_ca_is_sent_nothing() {
    let bench = Bench::new();
    let server = bench.honest(|_| ()).await;
    let error = bench.enrol_at(&server, Digest::of(b"the real one")).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::CaMismatch, "{error}");
    assert_eq!(error.exit_code(), 4);
    assert_eq!(server.received.load(Ordering::SeqCst), 0);
    bench.check_nothing_stored();
}

#[tokio::test]
async fn showing_the_real_root_beside_a_chain_of_ones_own_does_not_help() {
    let bench = Bench::new();
    let impostor = Arc::new(Ca::new());
    let server =
        Server::start(impostor, Some(bench.ca.der.clone()), Box::new(|_, _| (200, String::new()))).await;
    let error = bench.enrol(&server).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::Tls, "{error}");
    assert_eq!(server.received.load(Ordering::SeqCst), 0);
    bench.check_nothing_stored();
}

#[tokio::test]
async fn a_server_that_does_not_show_its_root_is_not_trusted() {
    let bench = Bench::new();
    let server = Server::start(bench.ca.clone(), None, Box::new(|_, _| (200, String::new()))).await;
    assert_eq!(bench.enrol(&server).await.unwrap_err().code(), ErrorCode::CaMismatch);
    assert_eq!(server.received.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn answers_that_do_not_fit_are_refused_as_a_whole() {
    let other = Ca::new();
    let (other_hash, other_pem) = (other.hash(), other.pem.clone());
    let stranger = KeyPair::generate().unwrap();
    let strangers_csr = CertificateParams::default().serialize_request(&stranger).unwrap().pem().unwrap();
    let bench = Bench::new();
    let strangers = bench.ca.device(&strangers_csr, "flotilla:default/gate-7");
    let forged = trust_signed(bench.ca.hash(), "default", &SigningKey::from_seed(&[77; 32]));
    let unsigned = trust_signed_by(bench.ca.hash(), "default", &[]);
    let enough = "x".repeat(limits::CERTIFICATE + 1);

    type Change = Box<dyn Fn(&mut EnrolAnswer) + Send + Sync>;
    let cases: Vec<(&str, ErrorCode, Change)> = vec![
        ("another CA", ErrorCode::CaMismatch, Box::new(move |a| a.ca_pem = other_pem.clone())),
        (
            "a stranger's certificate",
            ErrorCode::Tls,
            Box::new(move |a| a.certificate_pem = strangers.clone()),
        ),
        ("another device", ErrorCode::Tls, Box::new(|a| a.device = "gate-8".parse().unwrap())),
        ("no certificate", ErrorCode::Malformed, Box::new(|a| a.certificate_pem.clear())),
        (
            "trust of another CA",
            ErrorCode::CaMismatch,
            Box::new(move |a| a.trust = trust(other_hash, "default")),
        ),
        (
            "trust signed by other keys",
            ErrorCode::SignatureInvalid,
            Box::new(move |a| a.trust = forged.clone()),
        ),
        (
            "trust signed by nobody",
            ErrorCode::SignatureInvalid,
            Box::new(move |a| a.trust = unsigned.clone()),
        ),
        ("far too many certificates", ErrorCode::Malformed, Box::new(move |a| a.certificate_pem += &enough)),
        ("broken trust", ErrorCode::Malformed, Box::new(|a| a.trust = "AAAA".into())),
        ("no broker", ErrorCode::Malformed, Box::new(|a| a.mqtt = "nowhere".into())),
    ];
    for (name, code, change) in cases {
        let server = bench.honest(change).await;
        let error = bench.enrol(&server).await.unwrap_err();
        assert_eq!(error.code(), code, "{name}: {error}");
        bench.check_nothing_stored();
    }
    let hash = bench.ca.hash();
    let server = bench.honest(move |a| a.trust = trust(hash, "elsewhere")).await;
    assert_eq!(bench.enrol(&server).await.unwrap_err().code(), ErrorCode::WrongProject);
    bench.check_nothing_stored();
}

#[tokio::test]
async fn a_certificate_of_another_ca_is_refused_whatever_it_names() {
    let bench = Bench::new();
    let answering: Answering = Box::new(move |ca, request| {
        let other = Ca::new();
        let mut answer = good_answer(ca, request);
        answer.certificate_pem = other.device(&request.csr_pem, "flotilla:default/gate-7");
        (200, serde_json::to_string(&answer).unwrap())
    });
    let server = Server::start(bench.ca.clone(), Some(bench.ca.der.clone()), answering).await;
    let error = bench.enrol(&server).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::Tls, "{error}");
    bench.check_nothing_stored();
}

#[tokio::test]
async fn what_the_server_refuses_is_said_with_its_code() {
    let bench = Bench::new();
    for code in [ErrorCode::ClaimUsed, ErrorCode::ClaimExpired, ErrorCode::ClaimInvalid] {
        let problem = format!(r#"{{"type":"about:blank","code":"{code}","detail":"this code is {code}"}}"#);
        let answering: Answering = Box::new(move |_, _| (403, problem.clone()));
        let server = Server::start(bench.ca.clone(), Some(bench.ca.der.clone()), answering).await;
        let error = bench.enrol(&server).await.unwrap_err();
        assert_eq!(error.code(), code);
        assert!(error.to_string().contains(&format!("this code is {code}")), "{error}");
        bench.check_nothing_stored();
    }
}

#[tokio::test]
async fn an_enrolled_folder_is_not_enrolled_again() {
    let bench = Bench::new();
    let server = bench.honest(|_| ()).await;
    bench.enrol(&server).await.unwrap();
    let before = fs::read(bench.root.path().join("identity/key.pem")).unwrap();
    let error = bench.enrol(&server).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::AlreadyExists);
    assert!(error.to_string().contains("gate-7"), "{error}");
    assert_eq!(fs::read(bench.root.path().join("identity/key.pem")).unwrap(), before);
    assert_eq!(server.requests.lock().unwrap().len(), 1);
}

/// A model of which this release is confirmed.
fn install(bench: &Bench, model: &str, project: &str, key: &SigningKey) {
    let model: ModelName = model.parse().unwrap();
    let manifest = ReleaseManifest {
        format: 1,
        kind: ReleaseKind::Agent,
        project: project.parse().unwrap(),
        model: model.clone(),
        version: 1,
        counter: 1,
        created_at_ms: 1,
        expires_at_ms: None,
        variants: Vec::new(),
        files: Vec::new(),
        pipeline: Pipeline::none(),
        golden: String::new(),
        metrics: Metrics::default(),
        lineage: Lineage::default(),
        constraints: Constraints::default(),
        agent: None,
        baseline: None,
    };
    let bytes = Envelope::seal(EnvelopeKind::Release, &manifest, &[key]).to_bytes();
    let slot = bench.folder.slot(&model, SlotName::A);
    fs::create_dir_all(slot.path()).unwrap();
    slot.put_envelope(&bytes).unwrap();
    let journal = UpdateJournal {
        confirmed: Some(Confirmed {
            slot: SlotName::A,
            release: Digest::of(&bytes),
            counter: 1,
            probe: None,
            attempt: 0,
            crashes: 0,
        }),
        ..UpdateJournal::default()
    };
    bench.folder.disk().replace(&Folder::journal(&model), &journal.to_bytes()).unwrap();
}

#[tokio::test]
async fn a_folder_that_is_enrolled_anew_starts_over_and_keeps_only_the_models_that_it_may_believe() {
    let bench = Bench::new();
    let server = bench.honest(|_| ()).await;
    bench.enrol(&server).await.unwrap();
    let path = |name: &str| bench.root.path().join(name);
    for name in ["accepted", "desired.cbor", "commands", "identity.copy"] {
        fs::write(path(name), "of the device that this was").unwrap();
    }
    fs::write(path("counter"), "hellos are counted on").unwrap();
    fs::create_dir(path("outbox")).unwrap();
    fs::write(path("outbox/db"), "records of the device that this was").unwrap();
    let (own, other) = (SigningKey::from_seed(&[1; 32]), SigningKey::from_seed(&[9; 32]));
    install(&bench, "own", "default", &own);
    install(&bench, "elsewhere", "elsewhere", &own);
    install(&bench, "stranger", "default", &other);

    // As the doctor says.
    fs::rename(path("identity"), path("identity.away")).unwrap();
    fs::rename(path("trust.cbor"), path("trust.away")).unwrap();
    bench.enrol(&server).await.unwrap();
    for name in ["accepted", "desired.cbor", "commands", "outbox", "identity.copy"] {
        assert!(!path(name).exists(), "{name} is not of this device");
    }
    assert!(path("counter").exists());
    assert_eq!(bench.folder.disk().folders("models".as_ref()).unwrap(), ["own"]);
}

#[tokio::test]
async fn a_folder_in_use_is_not_enrolled() {
    let bench = Bench::new();
    let server = bench.honest(|_| ()).await;
    let _lock = bench.folder.lock().unwrap();
    assert_eq!(bench.enrol(&server).await.unwrap_err().code(), ErrorCode::StorageInUse);
}

#[test]
fn a_claim_code_is_read_from_a_file_and_errors_do_not_repeat_it() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("claim");
    let claim = ClaimCode { server: "h:1".into(), ca: Digest::of(b""), secret: ClaimSecret::random() };
    fs::write(&path, format!("{}\n", claim.to_text())).unwrap();
    assert_eq!(read_claim(&path).unwrap(), claim);
    let cut = &claim.to_text()[..60];
    fs::write(&path, cut).unwrap();
    let error = read_claim(&path).unwrap_err();
    assert_eq!(error.code(), ErrorCode::ClaimInvalid);
    assert!(!error.to_string().contains(&cut[20..]), "{error}");
    assert_eq!(read_claim(&root.path().join("none")).unwrap_err().code(), ErrorCode::ClaimInvalid);
}
