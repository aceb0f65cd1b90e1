//! Devices, claims and enrolment.

use super::super::api::{
    AgentUpgradeView, ApproveRequest, ClaimRequest, ClaimView, ClassCount, DeviceEvaluation, DeviceModelView,
    DeviceView, FailureView, FleetView, ProbeView, RejectRequest,
};
use super::super::problem::Problem;
use super::super::service::{Answer, Call, Handled, percent_encode};
use super::telemetry;
use crate::app::App;
use crate::evaluations::Evaluation;
use flotilla_fleet::{ModelView, Query, Tags};
use flotilla_identity::now_ms;
use flotilla_protocol::enrol::EnrolRequest;
use flotilla_protocol::renew::RenewRequest;
use flotilla_protocol::{DeviceId, Digest, ErrorCode, limits};
use http::StatusCode;

/// How many devices match, on all pages.
const TOTAL: http::HeaderName = http::HeaderName::from_static("x-total-count");
/// Devices that the overview shows as those that have drifted most.
const DRIFTED: usize = 12;

/// `POST /api/v1/enrol`
pub(crate) async fn enrol(mut call: Call) -> Handled {
    let body = call.bytes(limits::ENROL_BODY).await?;
    let request: EnrolRequest = serde_json::from_slice(&body).map_err(|e| {
        // The text of the error could quote the secret.
        let detail =
            format!("the body is not an enrolment request (line {}, column {})", e.line(), e.column());
        Problem::new(ErrorCode::InvalidInput, detail)
    })?;
    let answer = call.app.fleet.enrol(request).await?;
    Answer::json_with(StatusCode::CREATED, &answer)
}

/// `POST /api/v1/renew/challenge`
pub(crate) async fn challenge(call: Call) -> Handled {
    Answer::json(&call.app.fleet.challenge())
}

/// `POST /api/v1/renew`
pub(crate) async fn renew(mut call: Call) -> Handled {
    let body = call.bytes(limits::ENROL_BODY).await?;
    let request: RenewRequest = serde_json::from_slice(&body).map_err(|e| {
        Problem::new(ErrorCode::InvalidInput, format!("the body is not a renewal request: {e}"))
    })?;
    Answer::json(&call.app.fleet.renew(request).await?)
}

/// `POST /api/v1/devices/{id}/renewal/approve`
pub(crate) async fn approve(mut call: Call) -> Handled {
    let request: ApproveRequest = call.json().await?;
    let key: Digest = request.key.parse().map_err(|e| {
        Problem::new(ErrorCode::InvalidInput, format!("`key` is not the renewal_key of a device: {e}"))
    })?;
    let id: DeviceId = call.param("id")?;
    call.app.fleet.approve_renewal(call.actor()?, &id, &key).await?;
    one_device(&call).await
}

/// `POST /api/v1/devices/{id}/renewal/reject`
pub(crate) async fn reject(mut call: Call) -> Handled {
    let request: RejectRequest = call.json().await?;
    let id: DeviceId = call.param("id")?;
    call.app.fleet.reject_renewal(call.actor()?, &id, &request.reason).await?;
    one_device(&call).await
}

/// `POST /api/v1/claims`
pub(crate) async fn claim(mut call: Call) -> Handled {
    let request: ClaimRequest = call.json().await?;
    let invalid = |e: flotilla_protocol::id::InvalidId| Problem::new(ErrorCode::InvalidInput, e);
    let request = flotilla_fleet::ClaimRequest {
        uses: request.uses,
        ttl_ms: request.valid_s.saturating_mul(1000),
        server: call.app.enrol_at().to_owned(),
        group: request.group.map(|name| name.parse()).transpose().map_err(invalid)?,
        tags: Tags {
            name: None,
            labels: request.labels.into_iter().collect(),
            attributes: request.attributes,
        },
        approval: request.approval,
        registered: request.registered,
    };
    let (claim, code) = call.app.fleet.create_claim(call.actor()?, request).await?;
    Answer::json_with(
        StatusCode::CREATED,
        &ClaimView { code: code.to_text(), expires_at_ms: claim.expires_at_ms },
    )
}

/// `GET /api/v1/devices`
pub(crate) async fn devices(call: Call) -> Handled {
    let query = Query {
        filter: call.query("filter")?,
        search: call.query("search")?,
        sort: call.query("sort")?,
        limit: call.query("limit")?,
        after: call.query("after")?,
        all_states: call.query("all_states")?.unwrap_or(false),
        skip: call.query("skip")?,
    };
    let page = call.app.fleet.find(&query).await?;
    let mut views = Vec::with_capacity(page.devices.len());
    for device in page.devices {
        views.push(view(&call.app, device).await?);
    }
    let answer = Answer::json(&views)?.with(TOTAL, &page.total.to_string())?;
    let Some(next) = page.next else { return Ok(answer) };
    let mut link = format!("/api/v1/devices?after={}", percent_encode(&next));
    for (name, value) in call.query.iter().filter(|(name, _)| !["after", "skip"].contains(&name.as_str())) {
        link += &format!("&{}={}", percent_encode(name), percent_encode(value));
    }
    answer.with(http::header::LINK, &format!("<{link}>; rel=\"next\""))
}

/// The fleet in figures, and the devices that have drifted most.
pub(crate) async fn census(app: &App) -> Result<(FleetView, Vec<DeviceView>), Problem> {
    let census = app.fleet.census(DRIFTED).await?;
    let mut drifted = Vec::with_capacity(census.drifted.len());
    for id in &census.drifted {
        drifted.push(view(app, app.fleet.device(id).await?).await?);
    }
    let fleet = FleetView {
        total: census.total,
        online: census.online,
        states: census.states.into_iter().map(|(state, devices)| (state.to_owned(), devices)).collect(),
        changes: census.changes,
    };
    Ok((fleet, drifted))
}

/// `GET /api/v1/devices/{id}`
pub(crate) async fn device(call: Call) -> Handled {
    one_device(&call).await
}

async fn one_device(call: &Call) -> Handled {
    let id: DeviceId = call.param("id")?;
    let device = call.app.fleet.device(&id).await?;
    let groups = call.app.fleet.groups_of(&id).await?;
    let groups = Some(groups.iter().map(ToString::to_string).collect());
    Answer::json(&DeviceView { groups, ..view(&call.app, device).await? })
}

async fn view(app: &App, device: flotilla_fleet::DeviceView) -> Result<DeviceView, Problem> {
    let mut models = Vec::with_capacity(device.models.len());
    for model in device.models {
        models.push(model_view(app, &device.id, model).await?);
    }
    Ok(DeviceView {
        id: device.id.to_string(),
        connected: device.connected,
        online: device.connected,
        state: device.standing.to_owned(),
        quarantine: device.quarantine.map(|quarantine| quarantine.reason),
        name: device.tags.name,
        labels: device.tags.labels.into_iter().collect(),
        attributes: device.tags.attributes,
        groups: None,
        enrolled_at_ms: device.enrolled_at_ms,
        serial: device.serial.map(|serial| serial.to_string()),
        board: device.board.board,
        engines: device.board.engines,
        cpus: device.board.cpus,
        memory_bytes: device.board.memory_bytes,
        os: device.board.os,
        arch: device.board.arch,
        agent: device.agent,
        agent_upgrade: device.agent_upgrade.map(agent_upgrade),
        models,
        rss_bytes: device.rss_bytes,
        cpu_percent: device.cpu_percent,
        disk_free_bytes: device.disk_free_bytes,
        temperature_c: device.temperature_c,
        received_bytes: device.received_bytes,
        network_sent_bytes: device.sent_bytes,
        npus: device.npus.into_iter().map(telemetry::npu).collect(),
        bytes_sent: device.traffic.sent,
        last_seen_ms: device.last_seen_ms.unwrap_or_default(),
        records: device.records,
        records_dropped: device.records_dropped,
        records_missing: device.records_missing,
        repeated_hellos: device.health.repeated_hellos,
        problem: device.health.last_problem.as_ref().map(|p| FailureView::new(p.code, &p.detail)),
        certificate_ends_ms: device.certificates.iter().map(|c| c.not_after_ms).max(),
        certificates: device.certificates.iter().map(|c| c.serial.clone()).collect(),
        renewal: device.renewal.as_ref().map(|r| r.decision.as_str().to_owned()),
        renewal_key: device.renewal.as_ref().map(|r| r.key.to_string()),
    })
}

async fn model_view(app: &App, device: &DeviceId, model: ModelView) -> Result<DeviceModelView, Problem> {
    let release = model.release.as_ref();
    let digest = release.map(|r| r.digest);
    let counted = match &digest {
        Some(digest) => app.evaluations.of(device, &model.model, digest).await?,
        None => None,
    };
    let (accuracy, accuracy_source) = match counted {
        Some(e) => {
            let source = format!("counted on the device: {} of {}", e.correct, e.total);
            (Some(e.correct as f64 / e.total.max(1) as f64), Some(source))
        }
        None => (model.accuracy, model.accuracy.map(|_| "as measured for the release".to_owned())),
    };
    Ok(DeviceModelView {
        model: model.model.to_string(),
        state: model.phase.as_str().to_owned(),
        version: release.and_then(|r| r.version),
        release: digest.map(|digest| digest.to_string()),
        slot: model.slot.map(|slot| slot.as_str().to_owned()),
        bytes_done: model.bytes_done,
        bytes_total: model.bytes_total,
        bytes_reused: model.bytes_reused,
        bytes_rebuilt: model.bytes_rebuilt,
        bytes_patches: model.bytes_patches,
        probe: model.probe.map(|p| ProbeView {
            max_abs_error: p.max_abs_error,
            p50_ms: p.p50_ms,
            p95_ms: p.p95_ms,
        }),
        failure: model.failure.map(|f| FailureView::new(f.code, &f.detail)),
        accuracy,
        accuracy_source,
        p50_us: model.p50_us,
        p95_us: model.p95_us,
        p99_us: model.p99_us,
        predictions: model.predictions,
        failures: model.failures,
        classes: model.classes.into_iter().map(|(label, count)| ClassCount { label, count }).collect(),
        confidence: model.confidence,
        drift: model.drift.map(telemetry::drift),
    })
}

fn agent_upgrade(upgrade: ModelView) -> AgentUpgradeView {
    AgentUpgradeView {
        phase: upgrade.phase.as_str().to_owned(),
        release: upgrade.release.map(|release| release.digest.to_string()),
        wanted: upgrade.wanted.map(|release| release.digest.to_string()),
        slot: upgrade.slot.map(|slot| slot.as_str().to_owned()),
        failure: upgrade.failure.map(|f| FailureView::new(f.code, &f.detail)),
    }
}

/// `POST /api/v1/devices/{id}/revoke`
pub(crate) async fn revoke(call: Call) -> Handled {
    let id: DeviceId = call.param("id")?;
    call.app.fleet.revoke(call.actor()?, &id, "revoked by an operator").await?;
    one_device(&call).await
}

/// `POST /api/v1/devices/{id}/evaluations`
pub(crate) async fn record_evaluation(mut call: Call) -> Handled {
    let request: DeviceEvaluation = call.json().await?;
    let id: DeviceId = call.param("id")?;
    let device = call.app.fleet.device(&id).await?;
    let release: Digest = request
        .release
        .parse()
        .map_err(|e| Problem::new(ErrorCode::InvalidInput, format!("release: {e}")))?;
    if request.correct > request.total || request.total == 0 {
        let detail = format!("{} right of {} samples is not possible", request.correct, request.total);
        return Err(Problem::new(ErrorCode::InvalidInput, detail));
    }
    let runs = |model: &&ModelView| model.release.as_ref().is_some_and(|r| r.digest == release);
    let model = device.models.iter().find(runs).ok_or_else(|| {
        let detail = format!("{} has not confirmed the release {}", device.id, release.short());
        Problem::new(ErrorCode::NotFound, detail)
    })?;
    let evaluation = Evaluation {
        model: model.model.clone(),
        device: device.id,
        release,
        total: request.total,
        correct: request.correct,
        at_ms: now_ms(),
    };
    call.app.evaluations.record(call.actor()?, evaluation).await?;
    call.app.changed();
    one_device(&call).await
}
