//! What a new agent wrote is read by the one from before, once that is taken back.
//!
//! The agent from before is the program that `FLOTILLA_OLD_AGENT` names (`tests/run --full` builds the last release's),
//! without it this one.

use crate::cloud::Cloud;
use crate::releases::Plan;
use crate::updates::{confirmed, want};
use crate::upgrade::{AGENT, AgentPlan, Device, agent_confirmed, want_agent};
use flotilla_protocol::message::{EventKind, RecordBody};
use std::path::PathBuf;

#[tokio::test(flavor = "multi_thread")]
async fn the_agent_from_before_goes_on_with_models_records_and_identity_of_the_new_one() {
    let old = std::env::var_os("FLOTILLA_OLD_AGENT").map_or_else(|| PathBuf::from(AGENT), PathBuf::from);
    let old = old.canonicalize().unwrap();
    let mut cloud = Cloud::start().await;
    cloud.settings.telemetry_interval_s = 1;
    let first = Plan::good(0).publish(&cloud);
    want(&mut cloud, &first);
    let mut device = Device::with_installed(&cloud, old.clone());
    device.launch();
    confirmed(&cloud, first.release).await;
    let runs = async |d: &Device| {
        let pid = d.status().await["pid"].as_u64()?;
        std::fs::read_link(format!("/proc/{pid}/exe")).ok()
    };
    assert_eq!(runs(&device).await, Some(old.clone()));

    // The new agent takes over, and writes each of its files: another release of the model, journals, slots, records.
    let crashes = device.path("crashes");
    let body = format!("[ \"$1\" = run ] && [ -e {} ] && exit 101", crashes.display());
    let new = AgentPlan::script(&body, 1).publish(&cloud);
    want_agent(&mut cloud, &new);
    agent_confirmed(&cloud, new.release).await;
    let second = Plan::good(1).publish(&cloud);
    want(&mut cloud, &second);
    confirmed(&cloud, second.release).await;
    let waiting = async |d: &Device, at_least: u64| {
        d.status().await["records_waiting"].as_u64().filter(|waiting| *waiting >= at_least)
    };
    device.until("an empty outbox", async |d| waiting(d, 0).await.filter(|w| *w == 0)).await;
    cloud.stop().await;
    device.until("records of the new agent", async |d| waiting(d, 3).await).await;

    // It does not stay up any more, far from any network.
    std::fs::write(&crashes, "").unwrap();
    assert!(device.kill_agent().await);
    device.until("the agent from before", async |d| runs(d).await.filter(|exe| *exe == old)).await;
    assert_eq!(device.label().await, "b", "the release that the new agent confirmed");
    let status = device.status().await;
    assert_eq!(status["models"]["letters"]["confirmed"], second.release.to_string());

    cloud.resume().await;
    device.until("delivery", async |d| waiting(d, 0).await.filter(|w| *w == 0)).await;
    let state = cloud.state();
    assert_eq!(state.conflicts, 0, "no number was given twice");
    let epochs: std::collections::BTreeSet<_> = state.hellos.iter().map(|hello| hello.epoch).collect();
    assert_eq!(epochs.len(), 1, "the outbox is still the first one");
    let counters: Vec<u64> = state.hellos.iter().map(|hello| hello.counter).collect();
    assert!(counters.windows(2).all(|pair| pair[0] < pair[1]), "{counters:?}");
    let mut last = std::collections::BTreeMap::new();
    for (epoch, stream, seq) in state.kept.keys() {
        let before = last.insert((*epoch, *stream), *seq).unwrap_or(0);
        assert_eq!(before + 1, *seq, "records of {stream:?} are missing");
    }
    let repaired = |body: &RecordBody| matches!(body, RecordBody::Event(e) if e.kind == EventKind::Repaired);
    assert!(!state.kept.values().any(|record| repaired(&record.body)), "something could not be read");
    let what =
        if old == PathBuf::from(AGENT).canonicalize().unwrap() { "this program" } else { "an older program" };
    println!("{what} read all that the new one wrote: {} records, none lost", state.kept.len());
}
