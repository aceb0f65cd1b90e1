//! The twin of a device.

use super::super::api::{FailureView, TwinDifference, TwinModelView, TwinView};
use super::super::problem::Problem;
use super::super::service::{Answer, Call, Handled};
use crate::app::App;
use flotilla_fleet::{Compared, Difference};
use flotilla_protocol::manifest::AGENT_NAME;
use flotilla_protocol::{DeviceId, Digest, ModelName};
use serde_json::json;
use std::collections::BTreeSet;

/// `GET /api/v1/devices/{id}/twin`
pub(crate) async fn show(call: Call) -> Handled {
    let id: DeviceId = call.param("id")?;
    let twin = call.app.fleet.twin(&id).await?;
    let names: BTreeSet<&ModelName> = twin.wanted.keys().chain(twin.models.keys()).collect();
    let mut models = Vec::with_capacity(names.len());
    for name in names {
        let model = model(&call.app, &twin, name).await?;
        // An agent as it was installed is no release.
        let installed = name.as_str() == AGENT_NAME
            && (&model.wanted, &model.running, &model.candidate, &model.failure)
                == (&None, &None, &None, &None);
        if !installed {
            models.push(model);
        }
    }
    let reported = twin.head.as_ref().map(|head| {
        json!({
            "version": head.version,
            "desired_version": head.desired_version,
            "models": twin.models,
            "shadows": twin.shadows,
        })
    });
    Answer::json(&TwinView {
        device: id.to_string(),
        version: twin.desired.version,
        changed_at_ms: twin.changed_at_ms,
        reported_version: twin.head.as_ref().map_or(0, |head| head.desired_version),
        reported_at_ms: twin.head.as_ref().map(|head| head.at_ms),
        models,
        desired: json!(twin.desired),
        reported,
        differences: twin.differences.into_iter().map(difference).collect(),
    })
}

async fn model(app: &App, twin: &Compared, name: &ModelName) -> Result<TwinModelView, Problem> {
    let wanted = twin.wanted.get(name).map(|wanted| wanted.release);
    let report = twin.models.get(name).cloned().unwrap_or_default();
    let agent = name.as_str() == AGENT_NAME;
    let text = |release: Option<Digest>| release.map(|release| release.to_string());
    Ok(TwinModelView {
        model: if agent { "agent".to_owned() } else { name.to_string() },
        wanted_version: version(app, wanted).await?,
        running_version: version(app, report.confirmed).await?,
        differs: twin.differs(name),
        wanted: text(wanted),
        running: text(report.confirmed),
        candidate: text(report.candidate),
        phase: report.phase.as_str().to_owned(),
        slot: report.slot.map(|slot| slot.as_str().to_owned()),
        failure: report.failure.map(|failure| FailureView::new(failure.code, failure.detail)),
    })
}

/// The version of a release; none of one that a device names and this registry does not know.
async fn version(app: &App, release: Option<Digest>) -> Result<Option<u32>, Problem> {
    let Some(release) = release else { return Ok(None) };
    match app.registry.find_release(&release).await {
        Err(flotilla_registry::Error::ReleaseMissing(_)) => Ok(None),
        found => Ok(Some(found?.version)),
    }
}

fn difference(difference: Difference) -> TwinDifference {
    let Difference { at, desired, reported, why } = difference;
    TwinDifference { at, desired, reported, why }
}
