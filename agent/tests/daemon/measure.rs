//! A model is measured without ever serving: who signed it, what it may take, and that nothing of it stays.

use crate::cloud::Cloud;
use crate::device::Device;
use crate::releases::{Plan, letters};
use crate::updates::{phase, settled, want};
use flotilla_protocol::manifest::ReleaseKind;
use flotilla_protocol::message::{
    Command, CommandKind, CommandReport, CommandState, DesiredModel, Measurement, Phase,
};
use flotilla_protocol::signature::SigningKey;
use flotilla_protocol::{Digest, ErrorCode};

/// A model that is signed to be measured.
fn to_measure(label: usize) -> Plan {
    Plan::changed(label, |manifest| manifest.kind = ReleaseKind::Measurement)
}

fn measure(id: u64, of: &DesiredModel) -> Command {
    let wanted = Measurement { manifest: of.release, envelope_bytes: of.envelope_bytes };
    Command { id, kind: CommandKind::Measure(wanted), deadline_ms: None }
}

async fn end(cloud: &Cloud, id: u64) -> CommandReport {
    let find = |commands: &[CommandReport]| commands.iter().find(|report| report.id == id).cloned();
    cloud.until("the end of the command", |state| find(&state.reported.as_ref()?.commands)).await
}

fn code(report: &CommandReport) -> Option<ErrorCode> {
    match &report.state {
        CommandState::Done => None,
        CommandState::Failed { code, .. } => Some(*code),
    }
}

fn is_clear(device: &Device) -> bool {
    std::fs::read_dir(device.path("measure")).map_or(true, |mut entries| entries.next().is_none())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_is_measured_and_reported_while_another_one_serves_and_nothing_of_it_stays() {
    let (mut cloud, device, _) = settled().await;
    let measured = Plan { ballast_chunks: 3, ..to_measure(1) }.publish(&cloud);
    cloud.commands = vec![measure(70, &measured)];
    cloud.want();
    let report = end(&cloud, 70).await;
    assert_eq!(code(&report), None, "{report:?}");
    let figures = report.measured.unwrap();
    assert_eq!(figures.vectors, 2);
    assert!(figures.p50_us > 0 && figures.p95_us >= figures.p50_us && figures.peak_bytes > 0, "{figures:?}");
    assert!(figures.max_error_micro < 1_000 && figures.outputs != Digest::of(b""), "{figures:?}");
    assert_eq!(device.label().await, "a");
    assert!(is_clear(&device));
    let models = cloud.state().reported.clone().unwrap().models;
    assert_eq!(models.len(), 1, "it is no model of the device: {models:?}");

    // What is answered judges nothing: a model that answers otherwise than the control plane says is measured as well.
    let other = Plan { golden_label: 2, ..to_measure(1) }.publish(&cloud);
    cloud.commands = vec![measure(71, &other)];
    cloud.want();
    let otherwise = end(&cloud, 71).await.measured.unwrap();
    assert!(otherwise.max_error_micro > 100_000, "{otherwise:?}");
    assert_eq!(otherwise.outputs, figures.outputs, "the same model on the same inputs");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_was_signed_to_be_measured_is_and_it_is_never_activated() {
    let (mut cloud, device, first) = settled().await;
    let foreign = Plan { key: SigningKey::from_seed(&[9; 32]), ..to_measure(1) }.publish(&cloud);
    let large = Plan::changed(1, |manifest| {
        manifest.kind = ReleaseKind::Measurement;
        manifest.constraints.memory_bytes = u64::MAX / 2;
    })
    .publish(&cloud);
    let broken = Plan::changed(1, |manifest| {
        manifest.kind = ReleaseKind::Measurement;
        manifest.variants[0].model = "golden.cbor".into();
    })
    .publish(&cloud);
    for (id, of, expected) in [
        (80, &first, ErrorCode::Unsupported),
        (81, &foreign, ErrorCode::SignatureInvalid),
        (82, &large, ErrorCode::NoRoom),
        (83, &broken, ErrorCode::ModelInvalid),
    ] {
        cloud.commands = vec![measure(id, of)];
        cloud.want();
        let report = end(&cloud, id).await;
        assert_eq!((code(&report), report.measured), (Some(expected), None), "{report:?}");
        assert!(is_clear(&device));
    }
    let measured = to_measure(1).publish(&cloud);
    want(&mut cloud, &measured);
    let refused = phase(&cloud, Phase::Failed).await;
    assert_eq!(refused.failure.unwrap().code, ErrorCode::Unsupported);
    assert_eq!(refused.confirmed, Some(first.release));
    assert_eq!(device.label().await, "a");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_model_is_measured_at_a_time_none_during_an_update_and_one_that_is_called_off_ends() {
    let (mut cloud, mut device, _) = settled().await;
    let slow = Plan { ballast_chunks: 8, ..to_measure(1) }.publish(&cloud);
    cloud.state().budget = Some(2);
    cloud.commands = vec![measure(90, &slow), measure(91, &slow)];
    cloud.want();
    assert_eq!(code(&end(&cloud, 91).await), Some(ErrorCode::Busy));
    cloud.commands.clear();
    cloud.want();
    cloud.state().budget = None;
    let next = to_measure(2).publish(&cloud);
    for id in 92.. {
        // The one before has to notice that it is not wanted any more.
        cloud.commands = vec![measure(id, &next)];
        cloud.want();
        match code(&end(&cloud, id).await) {
            None => break,
            other => assert_eq!(other, Some(ErrorCode::Busy)),
        }
    }
    assert!(is_clear(&device));

    // A kill in the middle: the command is still wanted, and begins anew.
    cloud.state().budget = Some(0);
    let again = Plan { salt: 7, ballast_chunks: 2, ..to_measure(1) }.publish(&cloud);
    cloud.commands = vec![measure(1_000, &again)];
    cloud.want();
    let asked = |state: &crate::cloud::State| state.asked.contains_key(&again.release).then_some(());
    cloud.until("the measurement begins", asked).await;
    device.kill().await;
    cloud.state().budget = None;
    device.start().await;
    assert_eq!(code(&end(&cloud, 1_000).await), None);

    // An update under way comes first.
    cloud.state().budget = Some(0);
    let update = Plan { salt: 8, ballast_chunks: 2, ..Plan::good(1) }.publish(&cloud);
    cloud.models.insert(letters(), update);
    cloud.commands = vec![measure(1_001, &next)];
    cloud.want();
    assert_eq!(code(&end(&cloud, 1_001).await), Some(ErrorCode::Busy));
}
