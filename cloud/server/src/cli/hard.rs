//! `flotilla hard …`: which devices may send hard examples, and what becomes of those that came.

use super::args::{Hard, HardConsent};
use super::client::Client;
use super::commands::{Done, Out, client, encode, write_new};
use super::exit::{self, Failure};
use super::table;
use crate::http::api::{
    HardConsentAnswer, HardConsentRequest, HardConsentView, HardDecision, HardDecisionView, HardExamplePage,
    HardExampleView, HardPolicy,
};
use flotilla_protocol::ErrorCode;

/// Examples that are decided on in one request.
const AT_ONCE: usize = 100;

pub(super) fn run(command: Hard, out: &Out) -> Done {
    match command {
        Hard::Consent(consent) => self::consent(consent, out),
        Hard::Consents { model, target } => {
            let query = model.map(|model| format!("?model={}", encode(&model))).unwrap_or_default();
            let all: Vec<HardConsentView> = client(&target)?.get(&format!("/api/v1/hard-consents{query}"))?;
            out.show(&all, |all| print_consents(all))
        }
        Hard::List { model, state, target } => {
            let all = list(&client(&target)?, model.as_deref(), state.as_deref())?;
            out.show(&all, |all| print_examples(all))
        }
        Hard::Show { digest, file, target } => {
            let (client, path) = (client(&target)?, format!("/api/v1/hard-examples/{}", encode(&digest)));
            let example: HardExampleView = client.get(&path)?;
            if let Some(file) = file {
                write_new(&file, || Ok(client.get_bytes(&format!("{path}/picture"))?))?;
            }
            out.show(&example, |example| print_examples(std::slice::from_ref(example)))
        }
        Hard::Accept { digests, all, model, dataset, target } => {
            let client = client(&target)?;
            let examples = chosen(&client, digests, all, model.as_deref())?;
            decide(&client, "accept", &examples, dataset, out)
        }
        Hard::Reject { digests, all, model, target } => {
            let client = client(&target)?;
            let examples = chosen(&client, digests, all, model.as_deref())?;
            decide(&client, "reject", &examples, None, out)
        }
    }
}

fn consent(wanted: HardConsent, out: &Out) -> Done {
    let policy = (!wanted.off).then_some(HardPolicy {
        confidence_below_per_mille: wanted.confidence_below.map(per_mille),
        margin_below_per_mille: wanted.margin_below.map(per_mille),
        shadow_disagreement: wanted.shadow,
        audit_per_million: wanted.audit_per_million,
        daily_bytes: wanted.daily_bytes.unwrap_or(0),
        dataset: wanted.dataset,
    });
    let devices = (!wanted.all).then_some(wanted.devices);
    let HardConsent { model, all, off, .. } = wanted;
    let request = HardConsentRequest { model, devices, all, policy, off };
    let answer: HardConsentAnswer = client(&wanted.target)?.post("/api/v1/hard-consents", &request)?;
    out.show(&answer, |answer| print_consents(&answer.consents))?;
    exit::of_all(&answer.failed)
}

fn per_mille(share: f64) -> u16 {
    (share * 1_000.0).round() as u16
}

/// Every example, page by page.
fn list(client: &Client, model: Option<&str>, state: Option<&str>) -> Result<Vec<HardExampleView>, Failure> {
    let mut all = Vec::new();
    let mut after: Option<String> = None;
    loop {
        let parts = [("model", model), ("state", state), ("after", after.as_deref())];
        let parts = parts.into_iter().filter_map(|(name, value)| Some(format!("{name}={}", encode(value?))));
        let query = parts.collect::<Vec<_>>().join("&");
        let page: HardExamplePage = client.get(&format!("/api/v1/hard-examples?{query}"))?;
        all.extend(page.examples);
        match page.next {
            None => return Ok(all),
            next => after = next,
        }
    }
}

fn chosen(
    client: &Client,
    digests: Vec<String>,
    all: bool,
    model: Option<&str>,
) -> Result<Vec<String>, Failure> {
    if !all {
        return Ok(digests);
    }
    let waiting = list(client, model, Some("quarantined"))?;
    if waiting.is_empty() {
        return Err(Failure::new(ErrorCode::NotFound, "no hard example waits for a decision"));
    }
    Ok(waiting.into_iter().map(|example| example.digest).collect())
}

fn decide(client: &Client, verb: &str, examples: &[String], dataset: Option<String>, out: &Out) -> Done {
    let mut done = HardDecisionView { examples: Vec::new(), dataset: None };
    for examples in examples.chunks(AT_ONCE) {
        let decision = HardDecision { examples: examples.to_vec(), dataset: dataset.clone() };
        let view: HardDecisionView = client.post(&format!("/api/v1/hard-examples/{verb}"), &decision)?;
        done.examples.extend(view.examples);
        done.dataset = view.dataset;
    }
    out.show(&done, |done| {
        println!("{} {verb}ed", done.examples.len());
        if let Some(dataset) = &done.dataset {
            println!("{} v{}: {} samples without a label", dataset.name, dataset.version, dataset.unlabelled);
        }
    })
}

fn print_consents(consents: &[HardConsentView]) {
    let row = |consent: &HardConsentView| {
        let policy = &consent.policy;
        let share = |per_mille: Option<u16>| {
            per_mille.map(|n| format!("{:.3}", f64::from(n) / 1_000.0)).unwrap_or_default()
        };
        vec![
            consent.device.clone(),
            consent.model.clone(),
            share(policy.confidence_below_per_mille),
            share(policy.margin_below_per_mille),
            policy.shadow_disagreement.to_string(),
            policy.audit_per_million.to_string(),
            policy.daily_bytes.to_string(),
            policy.dataset.clone().unwrap_or_default(),
        ]
    };
    let header =
        ["DEVICE", "MODEL", "CONFIDENCE <", "MARGIN <", "SHADOW", "AUDIT/MILLION", "BYTES/DAY", "DATASET"];
    table::print(&header, &consents.iter().map(row).collect::<Vec<_>>());
}

fn print_examples(examples: &[HardExampleView]) {
    let row = |example: &HardExampleView| {
        vec![
            example.digest.clone(),
            example.state.clone(),
            example.model.clone(),
            example.device.clone(),
            example.reason.clone(),
            format!("{} {:.3}", example.label, example.score),
            example.bytes.to_string(),
            example.dataset.clone().unwrap_or_default(),
        ]
    };
    let header = ["DIGEST", "STATE", "MODEL", "DEVICE", "REASON", "ANSWER", "BYTES", "DATASET"];
    table::print(&header, &examples.iter().map(row).collect::<Vec<_>>());
}
