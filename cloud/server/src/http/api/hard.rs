//! Hard examples: which devices may send them, and what was sent.

use super::OrderFailure;
use flotilla_protocol::message::HardExamples;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What a device may keep and send of one model's inputs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HardPolicy {
    /// Inputs whose best score is below so many thousandths (1 to 1000).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub confidence_below_per_mille: Option<u16>,
    /// Inputs whose best two scores are less than so many thousandths apart (1 to 1000).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub margin_below_per_mille: Option<u16>,
    /// Inputs on which a release in the shadow says another label.
    pub shadow_disagreement: bool,
    /// Any inputs at random: so many of a million.
    pub audit_per_million: u32,
    /// Bytes that may be sent on one day (UTC); 0 keeps and sends nothing.
    pub daily_bytes: u64,
    /// The dataset that accepted ones are meant for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dataset: Option<String>,
}

impl From<HardExamples> for HardPolicy {
    fn from(policy: HardExamples) -> Self {
        let HardExamples {
            confidence_below_per_mille,
            margin_below_per_mille,
            shadow_disagreement,
            audit_per_million,
            daily_bytes,
            dataset,
        } = policy;
        let dataset = dataset.map(|dataset| dataset.to_string());
        Self {
            confidence_below_per_mille,
            margin_below_per_mille,
            shadow_disagreement,
            audit_per_million,
            daily_bytes,
            dataset,
        }
    }
}

/// Lets devices keep and send inputs of a model, or takes that back: for `devices` or `all`, with a `policy` or `off`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HardConsentRequest {
    /// The model.
    pub model: String,
    /// The devices.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub devices: Option<Vec<String>>,
    /// Every active device; every one that has a consent for the model, where it is taken back.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub all: bool,
    /// What they may do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<HardPolicy>,
    /// Takes the consent back: they delete what they have kept.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub off: bool,
}

/// What became of an order about consents.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct HardConsentAnswer {
    /// The consents for the model that the devices of the order have now.
    pub consents: Vec<HardConsentView>,
    /// Devices on which it was not possible; it is carried out on the others.
    pub failed: Vec<OrderFailure>,
}

/// A device that may keep and send inputs of a model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HardConsentView {
    /// Device id.
    pub device: String,
    /// The model.
    pub model: String,
    /// What it may do.
    pub policy: HardPolicy,
}

/// A hard example that a device sent.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct HardExampleView {
    /// Content address of its bytes: its name.
    pub digest: String,
    /// `quarantined`, `accepted` or `rejected`.
    pub state: String,
    /// The device that sent it first.
    pub device: String,
    /// The model that it was hard for.
    pub model: String,
    /// The release that answered.
    pub release: String,
    /// Why it was kept: `disagreement`, `confidence`, `margin` or `audit`.
    pub reason: String,
    /// The label that was answered.
    pub label: String,
    /// Its score.
    pub score: f32,
    /// By how much it was ahead of the next.
    pub margin: f32,
    /// When, by the device's clock, in milliseconds since 1970.
    pub at_ms: u64,
    /// When it was complete here, in milliseconds since 1970.
    pub received_at_ms: u64,
    /// How many bytes it has.
    pub bytes: u64,
    /// What it is: `picture`, `recording` or `row`.
    pub medium: String,
    /// Columns of a picture.
    pub width: u32,
    /// Rows of a picture.
    pub height: u32,
    /// How long a recording is.
    #[serde(default)]
    pub milliseconds: u32,
    /// The dataset that it is meant for or, once accepted, a sample of.
    pub dataset: Option<String>,
    /// The first version of the dataset that has it.
    pub dataset_version: Option<u32>,
}

/// A page of hard examples.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct HardExamplePage {
    /// The examples.
    pub examples: Vec<HardExampleView>,
    /// The value of `after` for the next page; none after the last.
    pub next: Option<String>,
}

/// A decision on hard examples.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HardDecision {
    /// Digests of the examples, 1000 at most.
    pub examples: Vec<String>,
    /// The dataset of which they become unlabelled samples; the one that their policy named if not given. Of no meaning to
    /// a rejection.
    #[serde(default)]
    pub dataset: Option<String>,
}

/// What a decision did.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct HardDecisionView {
    /// The examples as they are now.
    pub examples: Vec<HardExampleView>,
    /// The dataset as it is now, if they were accepted.
    pub dataset: Option<super::DatasetView>,
}

/// A sample that nobody has labelled.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct UnlabelledView {
    /// Content address: the last segment of the sample's route.
    pub digest: String,
}
