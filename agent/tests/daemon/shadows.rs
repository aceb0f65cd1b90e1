//! Releases that run beside the confirmed one: what the fleet learns of them, and that applications never notice.

use crate::cloud::{Cloud, State};
use crate::device::Device;
use crate::releases::{Plan, letters};
use crate::updates::{confirmed, settled, settled_with, want};
use flotilla_device::shadow::ShadowJournal;
use flotilla_protocol::message::{
    DesiredModel, Disagreement, EventKind, RecordBody, ShadowPhase, ShadowRelease, ShadowReport,
    ShadowTelemetry,
};
use flotilla_protocol::signature::SigningKey;
use flotilla_protocol::{Digest, ErrorCode, limits};
use rand::Rng;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

fn shadow_report(state: &State) -> Option<ShadowReport> {
    state.reported.as_ref()?.shadows.get(&letters()).cloned()
}

/// The newest figures that came of this shadow.
fn figures(state: &State, release: Digest) -> Option<ShadowTelemetry> {
    state.records.iter().rev().find_map(|record| match &record.body {
        RecordBody::Sample(sample) => {
            sample.shadows.get(&letters()).filter(|shadow| shadow.release == Some(release)).cloned()
        }
        RecordBody::Event(_) => None,
    })
}

fn want_shadow(cloud: &mut Cloud, model: &DesiredModel) {
    want_share(cloud, model, 1_000);
}

fn want_share(cloud: &mut Cloud, model: &DesiredModel, share_per_mille: u32) {
    let DesiredModel { release, envelope_bytes, attempt } = model.clone();
    let shadow = ShadowRelease { release, envelope_bytes, attempt, share_per_mille };
    cloud.shadows.insert(letters(), shadow);
    cloud.settings.telemetry_interval_s = 1;
    cloud.want();
}

async fn in_phase(cloud: &Cloud, release: Digest, phase: ShadowPhase) -> ShadowReport {
    let there = |state: &State| shadow_report(state).filter(|r| r.release == release && r.phase == phase);
    cloud.until(&format!("shadow {}", phase.as_str()), there).await
}

/// A device that answers `a`, with this release beside it.
async fn shadowed(plan: Plan) -> (Cloud, Device, DesiredModel, DesiredModel) {
    let (mut cloud, device, first) = settled().await;
    let second = plan.publish(&cloud);
    want_shadow(&mut cloud, &second);
    in_phase(&cloud, second.release, ShadowPhase::Running).await;
    (cloud, device, first, second)
}

/// The confirmed release answers, and nothing else does.
async fn answers(device: &Device, release: Digest, label: &str) {
    let answer = device.until("an answer", async |device| device.answer().await).await;
    assert_eq!(answer, (release.to_string(), label.to_owned()));
}

/// Asks until the cloud has figures of the shadow that the check is content with.
async fn until_figures(
    cloud: &Cloud,
    device: &Device,
    (confirmed, label): (Digest, &str),
    shadow: Digest,
    check: impl Fn(&ShadowTelemetry) -> bool,
) -> ShadowTelemetry {
    device
        .until("figures of the shadow", async |device| {
            answers(device, confirmed, label).await;
            figures(&cloud.state(), shadow).filter(|figures| check(figures))
        })
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shadow_is_compared_on_the_same_inputs_and_is_quickly_promoted() {
    let (mut cloud, device, first, second) = shadowed(Plan { ballast_chunks: 6, ..Plan::good(1) }).await;
    let of_first = (first.release, "a");
    let figures = until_figures(&cloud, &device, of_first, second.release, |f| f.compared >= 5).await;
    assert_eq!((figures.agreed, figures.failures, figures.against), (0, 0, Some(first.release)));
    assert_eq!(figures.disagreements, [Disagreement { confirmed: 0, shadow: 1, count: figures.compared }]);
    for side in [&figures.confirmed, &figures.shadow] {
        assert_eq!(side.latency.count(), figures.compared);
        assert!(side.mean_confidence(figures.compared).is_some_and(|mean| mean > 0.99), "{side:?}");
    }

    // One that is of the same mind takes its place. Nobody else has heard of either.
    let third = Plan { salt: 1, ballast_chunks: 1, ..Plan::good(0) }.publish(&cloud);
    want_shadow(&mut cloud, &third);
    let figures = until_figures(&cloud, &device, of_first, third.release, |f| f.compared >= 3).await;
    assert_eq!((figures.agreed, figures.disagreements), (figures.compared, vec![]));
    assert_eq!(device.status().await["serving"]["letters"]["release"], first.release.to_string());

    // Back to the one that is to serve: everything of it is here when it does.
    want_shadow(&mut cloud, &DesiredModel { attempt: 1, ..second.clone() });
    in_phase(&cloud, second.release, ShadowPhase::Running).await;
    cloud.state().asked.clear();
    want(&mut cloud, &second);
    let report = confirmed(&cloud, second.release).await;
    assert_eq!(report.bytes_reused, report.bytes_total);
    let files: Vec<Digest> = cloud.state().asked.keys().copied().collect();
    assert_eq!(files, [second.release], "only its document was asked for");
    in_phase(&cloud, second.release, ShadowPhase::Promoted).await;
    let cleared = async |device: &Device| (!device.path("models/letters/shadow").exists()).then_some(());
    device.until("a cleared place", cleared).await;
    assert!(device.children("shadow").is_empty());
    answers(&device, second.release, "b").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_share_of_the_inputs_is_seen_and_none_of_it_when_none_is_wanted() {
    let (mut cloud, mut device, first, second) = shadowed(Plan::good(1)).await;
    let version = |s: &State| s.reported.as_ref().map(|r| r.desired_version);
    let before = version(&cloud.state());
    want_share(&mut cloud, &second, 250);
    cloud.until("the newer document", |s| (version(s) > before).then_some(())).await;
    for _ in 0..40 {
        answers(&device, first.release, "a").await;
    }
    let seen = |s: &State| figures(s, second.release).filter(|f| f.compared + f.skipped >= 10);
    let figures = cloud.until("a quarter of the inputs", seen).await;
    assert!(figures.compared + figures.skipped <= 11, "{figures:?}");

    // A kill and a cold start without the cloud: it goes on by itself.
    device.kill().await;
    device.until("the shadow's end", async |d| d.children("shadow").is_empty().then_some(())).await;
    cloud.stop().await;
    device.start().await;
    device.until("a shadow", async |device| device.children("shadow").first().copied()).await;
    answers(&device, first.release, "a").await;

    // Not wanted any more: nothing of it stays.
    cloud.shadows.clear();
    cloud.want();
    cloud.resume().await;
    let gone = async |device: &Device| {
        let left = ["models/letters/shadow", "models/letters/shadow.journal"].map(|name| device.path(name));
        (left.iter().all(|path| !path.exists()) && device.children("shadow").is_empty()).then_some(())
    };
    device.until("nothing of the shadow", gone).await;
    cloud.until("a report", |s| s.reported.as_ref().filter(|r| r.shadows.is_empty()).map(drop)).await;

    // And it goes with its model.
    want_shadow(&mut cloud, &second);
    in_phase(&cloud, second.release, ShadowPhase::Running).await;
    cloud.models.clear();
    cloud.want();
    let gone = async |device: &Device| (!device.path("models/letters").exists()).then_some(());
    device.until("the model's end", gone).await;
    assert!(device.children("shadow").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn shadows_that_must_not_run_are_refused_with_their_reason() {
    let (mut cloud, device, first) =
        settled_with("model_bytes = 1000000\nprobe_memory_bytes = 200000000").await;
    let floors = BTreeMap::from([(letters(), 10)]);
    cloud.state().trust = Some(cloud.trust(2, floors).to_bytes());
    // A new connection asks for newer trust.
    cloud.stop().await;
    cloud.resume().await;
    cloud.until("newer trust", |s| s.trust.is_none().then_some(())).await;
    let stranger = SigningKey::from_seed(&[99; 32]);
    let cases = [
        (ErrorCode::SignatureInvalid, Plan { key: stranger, ..Plan::good(1) }),
        (ErrorCode::BelowFloor, Plan::changed(1, |m| m.counter = 9)),
        (ErrorCode::InvalidInput, Plan::changed(1, |m| m.model = "faces".parse().unwrap())),
        (ErrorCode::ProbeMismatch, Plan { golden_label: 2, ..Plan::good(1) }),
        (ErrorCode::TooLarge, Plan { ballast_chunks: 16, ..Plan::good(1) }),
        // Alone it would fit.
        (ErrorCode::NoRoom, Plan::changed(1, |m| m.constraints.memory_bytes = 199_999_999)),
    ];
    for (code, plan) in cases {
        let bad = plan.publish(&cloud);
        want_shadow(&mut cloud, &bad);
        let failure = in_phase(&cloud, bad.release, ShadowPhase::Failed).await.failure.unwrap();
        assert_eq!((failure.code, failure.release), (code, bad.release), "{}", failure.detail);
        assert!(device.children("shadow").is_empty());
        answers(&device, first.release, "a").await;
    }
    let good = Plan::good(2).publish(&cloud);
    want_shadow(&mut cloud, &good);
    in_phase(&cloud, good.release, ShadowPhase::Running).await;
}

/// Sends a signal to the shadow's process, once it is another than `before`.
async fn signal(device: &Device, signal: &str, before: Option<u32>) -> u32 {
    let pid = device
        .until("a shadow", async |device| {
            device.children("shadow").into_iter().find(|pid| Some(*pid) != before)
        })
        .await;
    let sent = tokio::process::Command::new("kill").args([signal, &pid.to_string()]).status().await.unwrap();
    assert!(sent.success());
    pid
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shadow_that_crashes_and_then_hangs_is_given_up_and_nobody_who_asks_notices() {
    let (mut cloud, device, first, second) = shadowed(Plan::good(1)).await;
    let crashed = signal(&device, "-ABRT", None).await;
    answers(&device, first.release, "a").await;
    device
        .until("a second start", async |d| d.children("shadow").iter().find(|pid| **pid != crashed).copied())
        .await;
    in_phase(&cloud, second.release, ShadowPhase::Running).await;
    signal(&device, "-STOP", Some(crashed)).await;
    // The input that it hangs at, and many after it.
    let hung = async |device: &Device| {
        answers(device, first.release, "a").await;
        shadow_report(&cloud.state()).filter(|report| report.phase == ShadowPhase::Failed)
    };
    let failure = device.until("its failure", hung).await.failure.unwrap();
    assert_eq!((failure.code, failure.release), (ErrorCode::Timeout, second.release), "{}", failure.detail);
    assert_eq!(cloud.until_event(EventKind::Failed).await.code, Some(ErrorCode::Timeout));
    device.until("its end", async |d| d.children("shadow").is_empty().then_some(())).await;
    answers(&device, first.release, "a").await;
    // The operator who wants it all the same says so.
    want_shadow(&mut cloud, &DesiredModel { attempt: 1, ..second.clone() });
    in_phase(&cloud, second.release, ShadowPhase::Running).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shadow_that_is_damaged_on_the_disk_is_fetched_anew() {
    let (cloud, mut device, first, second) = shadowed(Plan::good(1)).await;
    device.kill().await;
    let file = device.path("models/letters/shadow/files/model.onnx");
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[20] ^= 1;
    std::fs::write(&file, &bytes).unwrap();
    cloud.state().reported = None;
    device.start().await;
    let repaired = cloud.until_event(EventKind::Repaired).await;
    assert_eq!((repaired.code, repaired.release), (Some(ErrorCode::DigestMismatch), Some(second.release)));
    in_phase(&cloud, second.release, ShadowPhase::Running).await;
    answers(&device, first.release, "a").await;

    // Without its journal nothing has to be fetched.
    device.kill().await;
    std::fs::write(device.path("models/letters/shadow.journal"), b"FSJ\x01 rubbish").unwrap();
    {
        let mut state = cloud.state();
        state.reported = None;
        state.asked.clear();
    }
    device.start().await;
    in_phase(&cloud, second.release, ShadowPhase::Running).await;
    assert!(cloud.state().asked.is_empty());
    answers(&device, first.release, "a").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn updates_under_load_with_a_shadow_fail_no_request() {
    let (mut cloud, device, first, _) = shadowed(Plan::good(1)).await;
    let endpoint = std::fs::read_to_string(device.path("run/endpoint")).unwrap().trim().to_owned();
    let (stop, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let asking = [0, 1].map(|_| {
        let (endpoint, stop, asked) = (endpoint.clone(), Arc::clone(&stop), Arc::clone(&asked));
        tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let answer = crate::device::answer_of(&endpoint, "letters").await;
                assert!(
                    answer.is_some_and(|(_, label)| label != "b"),
                    "an application heard the shadow, or nothing"
                );
                asked.fetch_add(1, Ordering::Relaxed);
            }
        })
    });
    let third = Plan::good(2).publish(&cloud);
    for release in [&third, &first, &third] {
        want(&mut cloud, release);
        confirmed(&cloud, release.release).await;
        let running = |s: &State| shadow_report(s).filter(|r| r.phase == ShadowPhase::Running);
        cloud.until("the shadow beside it", running).await;
        let before = asked.load(Ordering::Relaxed);
        device.until("answers", async |_| (asked.load(Ordering::Relaxed) > before + 20).then_some(())).await;
    }
    stop.store(true, Ordering::Relaxed);
    for asking in asking {
        asking.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kills_at_random_moments_leave_the_confirmed_release_and_the_shadow_gets_there() {
    let (mut cloud, mut device, first) = settled().await;
    let mut rng = rand::rng();
    for (round, kills) in [(1u32, 3), (2, 3), (3, 2)] {
        let plan = Plan { ballast_chunks: 12, salt: round as u8, ..Plan::good(1 + round as usize % 2) };
        let mut shadow = plan.publish(&cloud);
        cloud.settings.download_bytes_per_s = Some(12 * limits::CHUNK as u64);
        want_shadow(&mut cloud, &shadow);
        for _ in 0..kills {
            // Any moment is a good one.
            tokio::time::sleep(Duration::from_millis(rng.random_range(0..900))).await;
            device.kill().await;
            device
                .until("no child", async |d| {
                    (d.children("shadow").is_empty() && d.probes().is_empty()).then_some(())
                })
                .await;
            let journal = std::fs::read(device.path("models/letters/shadow.journal")).ok();
            assert!(
                journal.is_none_or(|bytes| ShadowJournal::from_bytes(&bytes).is_ok()),
                "a kill tore the journal"
            );
            cloud.state().reported = None;
            device.start().await;
            answers(&device, first.release, "a").await;
        }
        let ended = |s: &State| {
            shadow_report(s)
                .filter(|r| r.release == shadow.release)
                .filter(|r| matches!(r.phase, ShadowPhase::Running | ShadowPhase::Failed))
        };
        let report = cloud.until("the end of a shadow's road", ended).await;
        if report.phase == ShadowPhase::Failed {
            // A device that goes down again and again during its probe blames it, rightly.
            assert_eq!(report.failure.map(|f| f.code), Some(ErrorCode::ProbeCrashed));
            shadow.attempt = 1;
            want_shadow(&mut cloud, &shadow);
            in_phase(&cloud, shadow.release, ShadowPhase::Running).await;
        }
        answers(&device, first.release, "a").await;
    }
}
