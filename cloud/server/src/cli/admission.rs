//! `flotilla device approve|reject` for devices that wait to be taken into the fleet.

use super::client::Client;
use super::commands::{Done, Out, encode};
use super::exit::Failure;
use super::groups;
use crate::http::api::{AdmissionRequest, DeviceView};
use flotilla_protocol::ErrorCode;

/// Whether these devices wait for approval, or else ask for something else: what holds for the first is meant for all.
pub(super) fn wait(client: &Client, ids: &[String]) -> Result<bool, Failure> {
    let Some(first) = ids.first() else { return Ok(false) };
    let device: DeviceView = client.get(&format!("/api/v1/devices/{}", encode(first)))?;
    Ok(device.state == "waiting")
}

/// Takes them in, or for a reason shuts them out; all that wait, if none is named.
pub(super) fn decide(client: &Client, ids: Vec<String>, reject: Option<String>, out: &Out) -> Done {
    let devices = (!ids.is_empty()).then_some(ids);
    groups::tag(client.post("/api/v1/device-admission", &AdmissionRequest { devices, reject })?, out)
}

/// Certificates are looked at one by one.
pub(super) fn one_at_a_time() -> Failure {
    let detail =
        "the first of these devices does not wait for approval; new certificates are decided on one by one";
    Failure::new(ErrorCode::InvalidInput, detail.to_owned())
}
