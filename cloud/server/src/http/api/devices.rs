//! What operators write on devices, and the groups that they make of them.

use super::OrderFailure;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// Changes what is written on devices. What it does not speak of stays.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TagRequest {
    /// Device ids; or `filter`, `search` or both.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub devices: Option<Vec<String>>,
    /// An expression (CEL): every device that may connect and matches now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
    /// Words, as those of a search for devices: of the devices that the filter leaves, those that they find.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub search: Option<String>,
    /// The name from now on; an empty one takes it away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Labels that the devices get.
    #[serde(default)]
    pub add: Vec<String>,
    /// Labels that they lose.
    #[serde(default)]
    pub remove: Vec<String>,
    /// Attributes that they get; null takes one away.
    #[serde(default)]
    pub set: BTreeMap<String, Option<String>>,
}

/// Keeps rollouts away from devices, or lets them in again.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct QuarantineRequest {
    /// Device ids; or `filter`, `search` or both.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub devices: Option<Vec<String>>,
    /// An expression (CEL): every device that may connect and matches now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
    /// Words, as those of a search for devices: of the devices that the filter leaves, those that they find.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub search: Option<String>,
    /// Why no rollout is to take them; null releases them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What became of a list of serial numbers.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct RegisteredView {
    /// Those that were not known.
    pub new: usize,
    /// Known ones, of which the list says something else.
    pub replaced: usize,
    /// Known ones, of which it says the same.
    pub unchanged: usize,
    /// Those with which a device has enrolled: they stay as they are.
    pub enrolled: usize,
}

/// A registered serial number.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct RegistrationView {
    /// The serial number.
    pub serial: String,
    /// The name of the device that enrols with it.
    pub name: Option<String>,
    /// The static group that it joins.
    pub group: Option<String>,
    /// Its labels.
    pub labels: Vec<String>,
    /// Its attributes.
    pub attributes: BTreeMap<String, String>,
    /// Milliseconds since 1970.
    pub registered_at_ms: u64,
    /// Who registered it.
    pub registered_by: String,
    /// The device that has enrolled with it.
    pub device: Option<String>,
}

/// Takes devices that wait for approval into the fleet, or shuts them out for good.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AdmissionRequest {
    /// Device ids; all that wait by default.
    #[serde(default)]
    pub devices: Option<Vec<String>>,
    /// Why they are shut out; without it they are taken in.
    #[serde(default)]
    pub reject: Option<String>,
}

/// Takes devices out of service, for good.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DecommissionRequest {
    /// Device ids.
    pub devices: Vec<String>,
    /// Why.
    pub reason: String,
}

/// Something that happened to a model of a device.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct RanView {
    /// When the device said so, in milliseconds since 1970.
    pub at_ms: u64,
    /// Model; `flotilla-agent` for the agent itself.
    pub model: String,
    /// Digest of the release.
    pub release: String,
    /// confirmed (it serves), reverted (it serves again), failed, or removed (nothing serves any more).
    pub outcome: String,
    /// The stable code of a failure.
    pub code: Option<String>,
    /// The rollout that brought it, if that is known.
    pub rollout: Option<String>,
}

/// What became of an order for many devices.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct TagAnswer {
    /// Devices that the order was for.
    pub devices: usize,
    /// Of these, the devices on which it was a change.
    pub changed: usize,
    /// Those on which it was not possible.
    pub failed: Vec<OrderFailure>,
}

/// Makes a group: of devices that are named, or of whoever matches an expression.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct GroupRequest {
    /// Its name.
    pub name: String,
    /// Device ids, for a static group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub devices: Option<Vec<String>>,
    /// An expression (CEL), for a dynamic group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
}

/// A group.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct GroupView {
    /// Its name.
    pub name: String,
    /// The expression of a dynamic group; null for a static one.
    pub filter: Option<String>,
    /// Its devices that may connect, as of now.
    pub total: usize,
    /// Who made it.
    pub created_by: String,
    /// Milliseconds since 1970.
    pub created_at_ms: u64,
    /// A page of its devices; told of a single group only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page: Option<DeviceIdPage>,
}

/// Changes who is in a static group.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct GroupChange {
    /// Device ids that come in.
    #[serde(default)]
    pub add: Vec<String>,
    /// Device ids that go; those that are not in it are passed over.
    #[serde(default)]
    pub remove: Vec<String>,
}

/// Asks who would be in a dynamic group.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct GroupPreview {
    /// The expression (CEL).
    pub filter: String,
    /// Devices of a page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    /// Where the page begins: `next` of the one before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
}

/// A page of devices, by id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeviceIdPage {
    /// Devices on all pages.
    pub total: usize,
    /// Ids of this page's.
    pub devices: Vec<String>,
    /// Where the next page begins; null after the last.
    pub next: Option<String>,
}
