//! Hard examples: consents of devices, and what is in quarantine.

use super::super::api::{
    HardConsentAnswer, HardConsentRequest, HardConsentView, HardDecision, HardDecisionView, HardExamplePage,
    HardExampleView, HardPolicy,
};
use super::super::problem::Problem;
use super::super::service::{Answer, Call, Handled};
use super::{datasets, orders};
use crate::app::App;
use flotilla_data::{Decided, ExampleState, Quarantined};
use flotilla_identity::now_ms;
use flotilla_protocol::message::HardExamples;
use flotilla_protocol::{DatasetName, DeviceId, Digest, ErrorCode, ModelName};
use http::StatusCode;
use std::str::FromStr;

/// Examples that the console shows.
const SHOWN: usize = 24;
/// Examples of one page.
const LISTED: usize = 500;

fn parse<T: FromStr>(what: &str, text: &str) -> Result<T, Problem>
where
    T::Err: std::fmt::Display,
{
    text.parse().map_err(|e| Problem::new(ErrorCode::InvalidInput, format!("{what} {text:?}: {e}")))
}

// === consents ===

/// `POST /api/v1/hard-consents`
pub(crate) async fn consent(mut call: Call) -> Handled {
    let request: HardConsentRequest = call.json().await?;
    let model: ModelName = parse("model", &request.model)?;
    let invalid = |detail: &str| Problem::new(ErrorCode::InvalidInput, detail);
    let devices = match (request.devices, request.all) {
        (Some(names), false) => {
            Some(names.iter().map(|name| parse("device", name)).collect::<Result<Vec<_>, _>>()?)
        }
        (None, true) => None,
        _ => return Err(invalid("say for which devices: `devices`, or `all`: true")),
    };
    let (fleet, actor) = (&call.app.fleet, call.actor()?);
    let done = match (request.policy.map(policy_of).transpose()?, request.off) {
        (Some(policy), false) => {
            if let Some(dataset) = &policy.dataset {
                call.app.datasets.get(dataset).await?;
            }
            fleet.consent(actor, devices, &model, &policy).await?
        }
        (None, true) => fleet.withdraw_consent(actor, devices, &model).await?,
        _ => return Err(invalid("say what they may do: `policy`; or `off`: true takes the consent back")),
    };
    call.app.changed();
    let (devices, failed) = orders::told(done)?;
    let mut consents = Vec::new();
    for device in devices {
        let all = fleet.consents(&device).await?.into_iter();
        consents.extend(all.filter(|(name, _)| *name == model).map(|of| consent_view(&device, of)));
    }
    Answer::json(&HardConsentAnswer { consents, failed })
}

/// `GET /api/v1/hard-consents`
pub(crate) async fn consents(call: Call) -> Handled {
    let only: Option<ModelName> = call.query("model")?;
    let mut views = Vec::new();
    for (device, consents) in call.app.fleet.all_consents().await? {
        let wanted = consents.into_iter().filter(|(name, _)| only.as_ref().is_none_or(|only| only == name));
        views.extend(wanted.map(|of| consent_view(&device, of)));
    }
    Answer::json(&views)
}

fn consent_view(device: &DeviceId, (model, policy): (ModelName, HardExamples)) -> HardConsentView {
    HardConsentView { device: device.to_string(), model: model.to_string(), policy: policy.into() }
}

fn policy_of(policy: HardPolicy) -> Result<HardExamples, Problem> {
    let dataset = policy.dataset.as_deref().map(|dataset| parse("dataset", dataset)).transpose()?;
    Ok(HardExamples {
        confidence_below_per_mille: policy.confidence_below_per_mille,
        margin_below_per_mille: policy.margin_below_per_mille,
        shadow_disagreement: policy.shadow_disagreement,
        audit_per_million: policy.audit_per_million,
        daily_bytes: policy.daily_bytes,
        dataset,
    })
}

// === examples ===

/// `GET /api/v1/hard-examples`
pub(crate) async fn list(call: Call) -> Handled {
    let state: Option<String> = call.query("state")?;
    if let Some(state) = state.as_deref().filter(|state| !ExampleState::NAMES.contains(state)) {
        let names = ExampleState::NAMES.join(", ");
        return Err(Problem::new(ErrorCode::InvalidInput, format!("state {state:?} is none of {names}")));
    }
    let model: Option<ModelName> = call.query("model")?;
    let after: Option<Digest> = call.query("after")?;
    let (page, next) = call.app.quarantine.list(state.as_deref(), after.as_ref(), LISTED).await?;
    let wanted = |q: &Quarantined| model.as_ref().is_none_or(|model| *model == q.example.model);
    Answer::json(&HardExamplePage {
        examples: page.into_iter().filter(wanted).map(view).collect(),
        next: next.map(|next| next.to_string()),
    })
}

/// The first that wait for a decision.
pub(crate) async fn waiting(app: &App) -> Result<Vec<HardExampleView>, Problem> {
    let (page, _) = app.quarantine.list(Some("quarantined"), None, SHOWN).await?;
    Ok(page.into_iter().map(view).collect())
}

/// `GET /api/v1/hard-examples/{digest}`
pub(crate) async fn show(call: Call) -> Handled {
    Answer::json(&view(call.app.quarantine.get(&call.param("digest")?).await?))
}

/// `GET /api/v1/hard-examples/{digest}/picture`
pub(crate) async fn picture(call: Call) -> Handled {
    let bytes = call.app.quarantine.picture(&call.param("digest")?).await?;
    Answer::bytes(StatusCode::OK, datasets::content_type(&bytes), bytes)
}

/// `POST /api/v1/hard-examples/accept`
pub(crate) async fn accept(mut call: Call) -> Handled {
    let decision: HardDecision = call.json().await?;
    let dataset: Option<DatasetName> =
        decision.dataset.as_deref().map(|dataset| parse("dataset", dataset)).transpose()?;
    let examples = digests(&decision)?;
    let decided = call.app.quarantine.accept(call.actor()?, &examples, dataset.as_ref(), now_ms()).await?;
    answer(&call, decided).await
}

/// `POST /api/v1/hard-examples/reject`
pub(crate) async fn reject(mut call: Call) -> Handled {
    let decision: HardDecision = call.json().await?;
    let decided = call.app.quarantine.reject(call.actor()?, &digests(&decision)?, now_ms()).await?;
    answer(&call, decided).await
}

fn digests(decision: &HardDecision) -> Result<Vec<Digest>, Problem> {
    decision.examples.iter().map(|digest| parse("hard example", digest)).collect()
}

async fn answer(call: &Call, decided: Decided) -> Handled {
    call.app.changed();
    let accepted = decided.examples.iter().find_map(|example| match &example.state {
        ExampleState::Accepted { dataset, version, .. } => Some((dataset.clone(), *version)),
        _ => None,
    });
    let dataset = match accepted {
        Some((name, version)) => {
            Some(datasets::view(&call.app.datasets.version(&name, Some(version)).await?))
        }
        None => None,
    };
    let examples = decided.examples.into_iter().map(view).collect();
    Answer::json(&HardDecisionView { examples, dataset })
}

fn view(quarantined: Quarantined) -> HardExampleView {
    let Quarantined {
        digest,
        bytes,
        medium,
        width,
        height,
        milliseconds,
        device,
        example,
        dataset,
        received_at_ms,
        state,
    } = quarantined;
    let (dataset, dataset_version) = match &state {
        ExampleState::Accepted { dataset, version, .. } => (Some(dataset.to_string()), Some(*version)),
        _ => (dataset.map(|dataset| dataset.to_string()), None),
    };
    HardExampleView {
        digest: digest.to_string(),
        state: state.as_str().to_owned(),
        device: device.to_string(),
        model: example.model.to_string(),
        release: example.release.to_string(),
        reason: example.reason.as_str().to_owned(),
        label: example.label,
        score: example.score,
        margin: example.margin,
        at_ms: example.at_ms,
        received_at_ms,
        bytes,
        medium: medium.as_str().to_owned(),
        width,
        height,
        milliseconds,
        dataset,
        dataset_version,
    }
}
