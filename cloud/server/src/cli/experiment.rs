//! `flotilla experiment …`: starts, follows, controls and shows experiments.

use super::args::{Experiment, ExperimentId, ExperimentSpec, Side, Winner};
use super::commands::{Done, Out, client, encode};
use super::{follow, rollout};
use crate::http::api::{
    ExperimentMetric, ExperimentPromotion, ExperimentRequest, ExperimentStop, ExperimentView, HalfView,
};

/// Runs a command.
pub(super) fn run(command: Experiment, out: &Out) -> Done {
    match command {
        Experiment::Create(spec) => {
            let made: ExperimentView =
                client(&spec.target)?.post("/api/v1/experiments", &request_of(&spec))?;
            out.show(&made, print)
        }
        Experiment::List(target) => {
            let all: Vec<ExperimentView> = client(&target)?.get("/api/v1/experiments")?;
            out.show(&all, |all| all.iter().for_each(print))
        }
        Experiment::Show(experiment) => {
            let found: ExperimentView = client(&experiment.target)?.get(&path(&experiment, ""))?;
            out.show(&found, print)
        }
        Experiment::Watch(experiment) => {
            let client = client(&experiment.target)?;
            let found: ExperimentView = client.get(&path(&experiment, ""))?;
            out.show(&follow::experiment(&client, found)?, print)
        }
        Experiment::Stop { back, experiment } => {
            let request = ExperimentStop { back };
            let stopped: ExperimentView =
                client(&experiment.target)?.post(&path(&experiment, "/stop"), &request)?;
            out.show(&stopped, print)
        }
        Experiment::Promote { experiment, side, to_all } => {
            let side = side.map(|side| if side == Side::A { "a".to_owned() } else { "b".to_owned() });
            let request = ExperimentPromotion { side, to_all };
            let promoted: ExperimentView =
                client(&experiment.target)?.post(&path(&experiment, "/promote"), &request)?;
            out.show(&promoted, print)
        }
    }
}

fn path(experiment: &ExperimentId, of: &str) -> String {
    format!("/api/v1/experiments/{}{of}", encode(&experiment.id))
}

fn request_of(spec: &ExperimentSpec) -> ExperimentRequest {
    let metric = |(metric, tolerated, harm): &(String, f64, f64)| ExperimentMetric {
        metric: metric.clone(),
        tolerated: *tolerated,
        harm: *harm,
    };
    ExperimentRequest {
        a: spec.a.clone(),
        b: spec.b.clone(),
        group: spec.group.clone(),
        filter: spec.filter.clone(),
        share: Some(spec.share),
        soak_s: spec.soak.map(|time| time.as_secs()),
        max_soak_s: spec.max_soak.map(|time| time.as_secs()),
        metrics: spec.metrics.iter().map(metric).collect(),
        winner: (spec.winner == Winner::Auto).then(|| "auto".to_owned()),
        name: spec.name.clone(),
    }
}

fn print(experiment: &ExperimentView) {
    let ExperimentView { id, name, model, state, reason, .. } = experiment;
    println!("{id} {model} {state} {name}\n  {reason}");
    for (code, devices) in &experiment.left_out {
        println!("  {devices} devices take no part [{code}]");
    }
    for (side, half) in [("a", &experiment.a), ("b", &experiment.b)] {
        let HalfView { release, version, devices, rollout, watch } = half;
        let by = rollout.as_deref().unwrap_or("which run it already");
        println!("  {side}: version {version} ({release}) on {devices} devices, {by}");
        rollout::print_findings(&watch.findings);
    }
    if let (Some(side), Some(rollout)) = (&experiment.promoted, &experiment.promotion) {
        println!("  {side} goes to the others with {rollout}");
    }
}
