//! The probe through the real binary: what passes, what does not, and that nothing outlives its bound.

use crate::support::{always, golden, greedy, write_slot};
use flotilla_agent::probe::{self, ProbeError, ProbeLimits};
use flotilla_protocol::message::ProbeReport;
use flotilla_protocol::{ErrorCode, limits};
use std::path::Path;
use std::time::Duration;

const LIMITS: ProbeLimits =
    ProbeLimits { memory_bytes: 256 * limits::MIB as u64, timeout: Duration::from_secs(60), latency_us: 0 };

fn agent() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_flotilla-agent"))
}

async fn probe(slot: &Path, limits: ProbeLimits) -> Result<ProbeReport, ProbeError> {
    probe::run(agent(), &[], slot, "small", limits).await
}

/// A slot with a model and the golden vectors of one that always answers "a".
fn slot(onnx: &[u8]) -> tempfile::TempDir {
    let slot = tempfile::tempdir().unwrap();
    write_slot(slot.path(), onnx, &golden(0));
    slot
}

#[tokio::test]
async fn a_good_candidate_passes_with_its_measurements() {
    let slot = slot(&always(0));
    let report = probe(slot.path(), LIMITS).await.unwrap();
    assert_eq!((report.vectors, report.max_abs_error), (2, 0.0));
    assert!(report.p50_ms > 0.0 && report.p95_ms >= report.p50_ms);
    assert!((1 << 20..LIMITS.memory_bytes).contains(&report.peak_rss_bytes), "{report:?}");
}

#[tokio::test]
async fn other_outputs_than_the_golden_ones_are_a_mismatch() {
    let error = probe(slot(&always(1)).path(), LIMITS).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::ProbeMismatch, "{error}");
}

#[tokio::test]
async fn a_file_that_was_damaged_after_staging_is_found() {
    let slot = slot(&always(0));
    let path = slot.path().join("files/model.onnx");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[40] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    assert_eq!(probe(slot.path(), LIMITS).await.unwrap_err().code(), ErrorCode::DigestMismatch);
    std::fs::remove_file(path).unwrap();
    assert_eq!(probe(slot.path(), LIMITS).await.unwrap_err().code(), ErrorCode::NotFound);
    std::fs::write(slot.path().join("release.cbor"), b"nothing").unwrap();
    assert_eq!(probe(slot.path(), LIMITS).await.unwrap_err().code(), ErrorCode::Malformed);
}

#[tokio::test]
async fn a_candidate_for_another_board_does_not_pass() {
    let slot = slot(&always(0));
    let error = probe::run(agent(), &[], slot.path(), "large", LIMITS).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::BoardMismatch, "{error}");
}

#[tokio::test]
async fn a_candidate_over_its_memory_is_stopped_by_the_system() {
    let error = probe(slot(&greedy()).path(), LIMITS).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::ProbeMemory, "{error}");
}

#[tokio::test]
async fn too_slow_candidates_and_probes_that_do_not_end_are_typed() {
    let slot = slot(&always(0));
    let error = probe(slot.path(), ProbeLimits { latency_us: 1, ..LIMITS }).await;
    // A prediction of this model may take less than a microsecond nowhere.
    assert!(matches!(error, Err(ProbeError::TooSlow { limit_us: 1, .. })), "{error:?}");
    let endless = ["-c".to_owned(), "exec sleep 1000".to_owned()];
    let limits = ProbeLimits { timeout: Duration::from_millis(1), ..LIMITS };
    let error = probe::run(Path::new("/bin/sh"), &endless, slot.path(), "small", limits).await.unwrap_err();
    assert!(matches!(error, ProbeError::Timeout { .. }), "{error}");
    assert_eq!(error.code(), ErrorCode::ProbeTooSlow);
}

#[tokio::test]
async fn a_child_that_dies_or_talks_nonsense_is_a_crash() {
    let slot = slot(&always(0));
    let scripts = [
        ("kill -SEGV $$", "signal"),
        ("echo complaint >&2; exit 1", "complaint"),
        ("echo '{\"vectors\": \"many\"}'", "not readable"),
        ("exec yes", "more than"),
    ];
    for (script, words) in scripts {
        let prefix = ["-c".to_owned(), script.to_owned()];
        let error =
            probe::run(Path::new("/bin/sh"), &prefix, slot.path(), "small", LIMITS).await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::ProbeCrashed, "{script}: {error}");
        assert!(error.to_string().contains(words), "{script}: {error}");
    }
    let error = probe::run(Path::new("/nowhere"), &[], slot.path(), "small", LIMITS).await.unwrap_err();
    assert!(matches!(error, ProbeError::Spawn(_)), "{error}");
}

/// Whether a process with this id does, or could do, anything.
fn lives(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(['Z', 'X']))
}

#[tokio::test]
async fn no_child_outlives_its_probe() {
    let slot = slot(&always(0));
    let file = slot.path().join("pid");
    let prefix = ["-c".to_owned(), format!("echo $$ > '{}'; exec sleep 1000", file.display())];
    let pid = {
        let probing = probe::run(Path::new("/bin/sh"), &prefix, slot.path(), "small", LIMITS);
        let started = async {
            loop {
                match std::fs::read_to_string(&file) {
                    Ok(pid) if pid.ends_with('\n') => break pid.trim().to_owned(),
                    _ => tokio::task::yield_now().await,
                }
            }
        };
        tokio::select! {
            ended = probing => panic!("the child ended by itself: {ended:?}"),
            pid = started => pid,
        }
    };
    // The probe was dropped just now, as when the agent stops.
    while lives(&pid) {
        tokio::task::yield_now().await;
    }
}

/// A program in place of a new agent.
fn stranger(body: &str) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("agent");
    std::fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    root
}

#[tokio::test]
async fn a_new_agent_that_hangs_or_takes_all_memory_is_stopped_whatever_its_own_code_does() {
    let hangs = stranger("exec sleep 1000 </dev/null");
    let limits = ProbeLimits { timeout: Duration::from_millis(200), ..LIMITS };
    let path = hangs.path().join("agent");
    let error = probe::version(&path, limits).await.unwrap_err();
    assert!(matches!(error, ProbeError::Timeout { .. }), "{error}");
    let error = probe::self_test(&path, hangs.path(), &[], limits).await.unwrap_err();
    assert!(matches!(error, ProbeError::Timeout { .. }), "{error}");

    // Without a bound it would say so.
    let greedy = stranger(
        "awk 'BEGIN { s = \"x\"; for (i = 0; i < 28; i++) s = s s; print length(s) }' </dev/null && exit 9",
    );
    let limits = ProbeLimits { memory_bytes: 64 * limits::MIB as u64, ..LIMITS };
    let path = greedy.path().join("agent");
    for error in [
        probe::version(&path, limits).await.unwrap_err(),
        probe::self_test(&path, greedy.path(), &[], limits).await.unwrap_err(),
    ] {
        let text = error.to_string();
        assert!(!text.contains("exit status: 9"), "it got 256 MiB: {text}");
    }
}
