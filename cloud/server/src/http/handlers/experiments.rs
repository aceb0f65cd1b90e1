//! Experiments: start, control, look.

use super::super::api::{
    ExperimentMetric, ExperimentPromotion, ExperimentRequest, ExperimentStop, ExperimentView, HalfView,
};
use super::super::problem::Problem;
use super::super::service::{Answer, Call, Handled};
use super::rollout_view::watch_view;
use crate::app::App;
use flotilla_fleet::{Experiment, Members, Winner};
use flotilla_gates::metric::{Bounds, Metric};
use flotilla_gates::versus::Side;
use flotilla_protocol::{Digest, ErrorCode};
use http::StatusCode;

/// Experiments that one answer lists.
const LISTED: usize = 200;

/// `GET /api/v1/experiments`
pub(crate) async fn list(call: Call) -> Handled {
    let mut found = call.app.fleet.experiments(None, LISTED).await?;
    found.sort_by_key(|experiment| experiment.created_at_ms);
    Answer::json(&found.iter().map(view).collect::<Vec<_>>())
}

/// `POST /api/v1/experiments`
pub(crate) async fn create(mut call: Call) -> Handled {
    let request = call.json().await?;
    let wanted = wanted(&call.app, request).await?;
    let experiment = call.app.fleet.start_experiment(call.actor()?, wanted).await?;
    Answer::json_with(StatusCode::CREATED, &view(&experiment))
}

/// `GET /api/v1/experiments/{id}`
pub(crate) async fn show(call: Call) -> Handled {
    Answer::json(&view(&call.app.fleet.experiment(&call.param("id")?).await?))
}

/// `POST /api/v1/experiments/{id}/stop`
pub(crate) async fn stop(mut call: Call) -> Handled {
    let ExperimentStop { back } = call.json().await?;
    let id = call.param("id")?;
    Answer::json(&view(&call.app.fleet.stop_experiment(call.actor()?, &id, back).await?))
}

/// `POST /api/v1/experiments/{id}/promote`
pub(crate) async fn promote(mut call: Call) -> Handled {
    let ExperimentPromotion { side, to_all } = call.json().await?;
    let side = match side.as_deref() {
        None => None,
        Some("a") => Some(Side::A),
        Some("b") => Some(Side::B),
        Some(other) => return Err(invalid("side", &format!("a or b, not {other:?}"))),
    };
    let id = call.param("id")?;
    Answer::json(&view(&call.app.fleet.promote_experiment(call.actor()?, &id, side, to_all).await?))
}

/// What is asked for, in the fleet's words. Bounds are the fleet's business.
async fn wanted(app: &App, request: ExperimentRequest) -> Result<flotilla_fleet::ExperimentRequest, Problem> {
    let mut releases = Vec::new();
    for (what, text) in [("a", &request.a), ("b", &request.b)] {
        let digest: Digest = text.parse().map_err(|e| invalid(what, &e))?;
        releases.push(app.registry.find_release(&digest).await?.digest);
    }
    let members = match (request.group, request.filter) {
        (None, None) => Members::All,
        (Some(group), None) => Members::Group(group.parse().map_err(|e| invalid("group", &e))?),
        (None, Some(filter)) => Members::Where(filter),
        (Some(_), Some(_)) => {
            return Err(invalid(
                "group",
                &"an experiment is on a group or on those of a filter, not on both",
            ));
        }
    };
    let winner = match request.winner.as_deref() {
        None | Some("ask") => Winner::Ask,
        Some("auto") => Winner::Auto,
        Some(other) => return Err(invalid("winner", &format!("auto or ask, not {other:?}"))),
    };
    Ok(flotilla_fleet::ExperimentRequest {
        members,
        share: request.share.unwrap_or(50),
        soak_s: request.soak_s,
        max_soak_s: request.max_soak_s,
        metrics: request.metrics.iter().map(metric).collect::<Result<_, _>>()?,
        winner,
        name: request.name,
        ..flotilla_fleet::ExperimentRequest::of(releases[0], releases[1])
    })
}

fn metric(asked: &ExperimentMetric) -> Result<(Metric, Bounds), Problem> {
    let metric = Metric::from_text(&asked.metric)
        .ok_or_else(|| invalid("metrics", &format!("there is no metric {:?}", asked.metric)))?;
    let bounds = metric.bounds(asked.tolerated, asked.harm).ok_or_else(|| {
        invalid(
            "metrics",
            &format!(
                "{}: what is tolerated is 0 or more, of latency and memory a factor of 1 or more, and harm is more than \
                 that; not {} and {}",
                asked.metric, asked.tolerated, asked.harm
            ),
        )
    })?;
    Ok((metric, bounds))
}

fn invalid(what: &str, why: &dyn std::fmt::Display) -> Problem {
    Problem::new(ErrorCode::InvalidInput, format!("{what}: {why}"))
}

fn view(experiment: &Experiment) -> ExperimentView {
    let half = |side| {
        let half = experiment.half(side);
        let watched = experiment.compared.as_ref().map(|compared| match side {
            Side::A => &compared.a,
            Side::B => &compared.b,
        });
        HalfView {
            release: half.wanted.release.to_string(),
            version: half.wanted.version,
            devices: half.devices,
            rollout: half.rollout.as_ref().map(|id| id.to_string()),
            watch: watch_view(&experiment.watch, watched),
        }
    };
    let decision = experiment.decision.as_ref();
    let promotion = experiment.promotion.as_ref();
    ExperimentView {
        id: experiment.id.to_string(),
        name: experiment.name.clone(),
        model: experiment.model.to_string(),
        state: experiment.state.as_str().to_owned(),
        reason: experiment.reason.clone(),
        a: half(Side::A),
        b: half(Side::B),
        share: experiment.share,
        left_out: experiment.left_out.clone(),
        winner: experiment.winner.as_str().to_owned(),
        decided: decision.and_then(|decision| decision.winner).map(|side| side.as_str().to_owned()),
        decision: decision.map(|decision| decision.reason.clone()),
        promotion: promotion.map(|promotion| promotion.rollout.to_string()),
        promoted: promotion.map(|promotion| promotion.side.as_str().to_owned()),
        created_by: experiment.created_by.to_string(),
        created_at_ms: experiment.created_at_ms,
        finished_at_ms: experiment.finished_at_ms,
    }
}
