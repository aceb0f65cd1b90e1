//! The whole fleet in some numbers.

use super::super::api::{BoardCount, ConcernView, FleetSummaryView, ModelCounts, ReleaseCounts};
use super::super::service::{Answer, Call, Handled};
use super::rollouts;
use flotilla_fleet::{Concern, FleetSummary, ModelSummary};

/// `GET /api/v1/fleet`
pub(crate) async fn fleet(call: Call) -> Handled {
    let summary = call.app.fleet.summary().await?;
    let rollouts = rollouts::under_way(&call.app).await?;
    Answer::json(&FleetSummaryView { rollouts, ..view(summary) })
}

fn view(summary: FleetSummary) -> FleetSummaryView {
    let board = |(board, devices)| BoardCount { board, devices };
    FleetSummaryView {
        at_ms: summary.at_ms,
        devices: summary.devices,
        decommissioned: summary.decommissioned,
        online: summary.online,
        states: summary.states.into_iter().map(|(state, count)| (state.to_owned(), count)).collect(),
        boards: summary.boards.into_iter().map(board).collect(),
        other_boards: summary.other_boards,
        models: summary.models.into_iter().map(model).collect(),
        drifted: summary.drifted,
        worst: summary.worst.into_iter().map(concern).collect(),
        rollouts: Vec::new(),
        sent_bytes: summary.traffic.sent,
        received_bytes: summary.traffic.received,
        messages: summary.messages,
    }
}

fn model(counted: ModelSummary) -> ModelCounts {
    let releases = counted.releases.into_iter().map(|count| ReleaseCounts {
        release: count.release,
        version: count.version,
        devices: count.devices,
    });
    ModelCounts {
        model: counted.model,
        devices: counted.devices,
        none: counted.none,
        changing: counted.changing,
        releases: releases.collect(),
        other_releases: counted.other_releases,
    }
}

fn concern(concern: Concern) -> ConcernView {
    ConcernView {
        device: concern.device.to_string(),
        name: concern.name,
        reason: concern.reason.as_str().to_owned(),
        online: concern.online,
        last_seen_ms: concern.last_seen_ms,
        model: concern.model,
        code: concern.code.map(|code| code.to_string()),
        drift: concern.drift.map(|drift| f64::from(drift) / 1_000.0),
    }
}
