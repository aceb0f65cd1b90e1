//! What devices tell: of one device, and of a release over all of them.

use super::super::api::{
    ClassCount, DeviceTelemetryView, DriftView, EventView, HistoryView, NpuView, ReleaseTelemetryView,
};
use super::super::problem::Problem;
use super::super::service::{Answer, Call, Handled};
use crate::app::App;
use flotilla_fleet::{DeviceEvent, HistoryPoint, ReleaseTelemetry};
use flotilla_protocol::baseline::{Feature, Shift};
use flotilla_protocol::message::{Drift, NpuSample};
use flotilla_protocol::{DeviceId, Digest, ModelName};
use serde::Serialize;
use serde_json::json;

/// `GET /api/v1/devices/{id}/telemetry`
pub(crate) async fn device(call: Call) -> Handled {
    let id: DeviceId = call.param("id")?;
    let history = call.app.fleet.history(&id).await?;
    let events = call.app.fleet.events(&id).await?;
    Answer::json(&DeviceTelemetryView {
        device: id.to_string(),
        history: history.into_iter().map(point).collect(),
        events: events.into_iter().map(event).collect(),
    })
}

/// `GET /api/v1/models/{model}/telemetry`
pub(crate) async fn model(call: Call) -> Handled {
    let model: ModelName = call.param("model")?;
    call.app.registry.model(&model).await?;
    let mut views = Vec::new();
    for (release, telemetry) in call.app.fleet.model_telemetry(&model).await? {
        views.push(release_view(&call.app, release, telemetry).await?);
    }
    views.sort_by_key(|view: &ReleaseTelemetryView| (view.version, view.release.clone()));
    Answer::json(&views)
}

/// A release's telemetry with the names of its labels.
pub(super) async fn release_view(
    app: &App,
    release: Digest,
    telemetry: ReleaseTelemetry,
) -> Result<ReleaseTelemetryView, Problem> {
    // A device may serve what this registry does not know, or what today's release keys did not sign.
    let version = match app.registry.find_release(&release).await {
        Err(flotilla_registry::Error::ReleaseMissing(_)) => None,
        found => Some(found?.version),
    };
    let manifest = match version {
        Some(_) => app.registry.manifest(&release).await.ok(),
        None => None,
    };
    let labels = manifest.as_ref().map(|manifest| manifest.pipeline.labels()).unwrap_or_default();
    let mut classes: Vec<ClassCount> = telemetry
        .classes
        .iter()
        .map(|(label, count)| ClassCount {
            label: labels.get(*label as usize).cloned().unwrap_or_else(|| format!("#{label}")),
            count: *count,
        })
        .collect();
    classes.sort_by_key(|class| std::cmp::Reverse(class.count));
    let devices = |shift| telemetry.shifts.get(&shift).copied().unwrap_or_default();
    Ok(ReleaseTelemetryView {
        release: release.to_string(),
        version,
        devices: telemetry.devices,
        predictions: telemetry.predictions,
        failures: telemetry.failures,
        p50_us: telemetry.latency.quantile_us(0.5),
        p95_us: telemetry.latency.quantile_us(0.95),
        p99_us: telemetry.latency.quantile_us(0.99),
        classes,
        stable: devices(Shift::Stable),
        moderate: devices(Shift::Moderate),
        major: devices(Shift::Major),
        worst_device: telemetry.worst.as_ref().map(|(device, _)| device.to_string()),
        worst: telemetry.worst.map(|(_, worst)| drift(worst)),
        confidence: telemetry.confidence,
    })
}

pub(super) fn drift(drift: Drift) -> DriftView {
    DriftView {
        score: index(drift.score()),
        shift: drift.shift().as_str().to_owned(),
        cause: drift.cause().to_owned(),
        predictions: drift.predictions,
        inputs: index(drift.inputs),
        feature: drift.feature.map(Feature::as_str).map(ToOwned::to_owned),
        classes: index(drift.classes),
        confidence: index(drift.confidence),
    }
}

pub(super) fn npu(npu: NpuSample) -> NpuView {
    NpuView {
        chip: npu.chip,
        utilisation_percent: npu.utilisation_percent,
        memory_total_mb: npu.memory_total_mb,
        memory_used_mb: npu.memory_used_mb,
        temperature_c: npu.temperature_c,
        power_w: npu.power_w,
        health: npu.health.map(|health| word(&health)),
    }
}

fn index(milli: u32) -> f64 {
    f64::from(milli) / 1_000.0
}

fn point(point: HistoryPoint) -> HistoryView {
    HistoryView {
        at_ms: point.at_ms,
        cpu_percent: point.cpu_percent,
        rss_bytes: point.rss_bytes,
        predictions: point.predictions,
        failures: point.failures,
        p50_us: point.p50_us,
        p95_us: point.p95_us,
        p99_us: point.p99_us,
        drift: point.drift.map(index),
    }
}

fn event(event: DeviceEvent) -> EventView {
    EventView {
        at_ms: event.at_ms,
        kind: word(&event.kind),
        model: event.model.map(|model| model.to_string()),
        release: event.release.map(|release| release.to_string()),
        code: event.code.map(|code| code.to_string()),
        detail: event.detail,
    }
}

/// An enum's word on the wire.
fn word(value: &impl Serialize) -> String {
    json!(value).as_str().unwrap_or_default().to_owned()
}
