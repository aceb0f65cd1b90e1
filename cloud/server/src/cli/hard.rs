//! `flotilla hard …`: which devices may send hard examples, and what becomes of those that came.

use super::args::{Hard, HardConsent};
use super::client::Client;
use super::commands::{Done, Out, client, encode, write_new};
use super::exit::{self, Failure};
use super::table;
use crate::http::api::{
    DatasetView, HardConsentAnswer, HardConsentRequest, HardConsentView, HardDecision, HardDecisionView,
    HardExamplePage, HardExampleView, HardPolicy,
};
use flotilla_data::QUARANTINE_DECIDE;
use flotilla_protocol::ErrorCode;
use serde::Serialize;
use std::collections::BTreeMap;

/// What was decided, in one request or several.
#[derive(Debug, Default, Serialize)]
struct Outcome {
    examples: Vec<HardExampleView>,
    /// The last one of the datasets.
    dataset: Option<DatasetView>,
    /// The datasets with the accepted ones, each as it is now.
    datasets: Vec<DatasetView>,
}

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
            let groups = match chosen(&client, digests, all, model.as_deref())? {
                Chosen::Named(digests) => vec![(dataset, digests)],
                Chosen::Waiting(waiting) => by_dataset(waiting, dataset),
            };
            decide(&client, "accept", groups, out)
        }
        Hard::Reject { digests, all, model, target } => {
            let client = client(&target)?;
            let digests = match chosen(&client, digests, all, model.as_deref())? {
                Chosen::Named(digests) => digests,
                Chosen::Waiting(waiting) => waiting.into_iter().map(|example| example.digest).collect(),
            };
            decide(&client, "reject", vec![(None, digests)], out)
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

/// What a decision is about.
enum Chosen {
    /// These.
    Named(Vec<String>),
    /// All that wait.
    Waiting(Vec<HardExampleView>),
}

fn chosen(client: &Client, digests: Vec<String>, all: bool, model: Option<&str>) -> Result<Chosen, Failure> {
    if !all {
        return Ok(Chosen::Named(digests));
    }
    let waiting = list(client, model, Some("quarantined"))?;
    if waiting.is_empty() {
        return Err(Failure::new(ErrorCode::NotFound, "no hard example waits for a decision"));
    }
    Ok(Chosen::Waiting(waiting))
}

/// Groups with a dataset each: the one that is named, or those of the policies; behind them what has none.
fn by_dataset(waiting: Vec<HardExampleView>, dataset: Option<String>) -> Vec<(Option<String>, Vec<String>)> {
    let mut groups: BTreeMap<(bool, Option<String>), Vec<String>> = BTreeMap::new();
    for example in waiting {
        let dataset = dataset.clone().or(example.dataset);
        groups.entry((dataset.is_none(), dataset)).or_default().push(example.digest);
    }
    groups.into_iter().map(|((_, dataset), digests)| (dataset, digests)).collect()
}

/// Decides group by group, as many at once as the control plane takes: each acceptance is a version of its dataset. What
/// was decided is said even if something fails then.
fn decide(client: &Client, verb: &str, groups: Vec<(Option<String>, Vec<String>)>, out: &Out) -> Done {
    let mut done = Outcome::default();
    let decide_all = || {
        for (dataset, digests) in groups {
            for digests in digests.chunks(QUARANTINE_DECIDE) {
                let decision = HardDecision { examples: digests.to_vec(), dataset: dataset.clone() };
                let path = format!("/api/v1/hard-examples/{verb}");
                let view: HardDecisionView = client.post(&path, &decision)?;
                done.add(view);
            }
        }
        Ok(())
    };
    let result: Done = decide_all();
    if result.is_err() && done.examples.is_empty() {
        return result;
    }
    out.show(&done, |done| {
        println!("{} {verb}ed", done.examples.len());
        for dataset in &done.datasets {
            println!("{} v{}: {} samples without a label", dataset.name, dataset.version, dataset.unlabelled);
        }
    })?;
    result
}

impl Outcome {
    fn add(&mut self, view: HardDecisionView) {
        self.examples.extend(view.examples);
        if let Some(dataset) = view.dataset {
            self.datasets.retain(|known| known.name != dataset.name);
            self.datasets.push(dataset.clone());
            self.dataset = Some(dataset);
        }
    }
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
            example.medium.clone(),
            example.bytes.to_string(),
            example.dataset.clone().unwrap_or_default(),
        ]
    };
    let header = ["DIGEST", "STATE", "MODEL", "DEVICE", "REASON", "ANSWER", "WHAT", "BYTES", "DATASET"];
    table::print(&header, &examples.iter().map(row).collect::<Vec<_>>());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example(digest: &str, dataset: Option<&str>) -> HardExampleView {
        HardExampleView {
            digest: digest.into(),
            state: "quarantined".into(),
            device: "box-1".into(),
            model: "m".into(),
            release: "r".into(),
            reason: "margin".into(),
            label: "7".into(),
            score: 0.5,
            margin: 0.25,
            at_ms: 0,
            received_at_ms: 0,
            bytes: 1,
            medium: "picture".into(),
            width: 1,
            height: 1,
            milliseconds: 0,
            dataset: dataset.map(Into::into),
            dataset_version: None,
        }
    }

    #[test]
    fn all_that_wait_are_decided_on_dataset_by_dataset() {
        let waiting = || {
            [("1", Some("b")), ("2", None), ("3", Some("a")), ("4", Some("b"))]
                .map(|(digest, dataset)| example(digest, dataset))
                .to_vec()
        };
        let group = |dataset: Option<&str>, digests: &[&str]| {
            (dataset.map(str::to_owned), digests.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        let own = [group(Some("a"), &["3"]), group(Some("b"), &["1", "4"]), group(None, &["2"])];
        assert_eq!(by_dataset(waiting(), None), own);
        assert_eq!(by_dataset(waiting(), Some("c".into())), [group(Some("c"), &["1", "2", "3", "4"])]);
    }
}
