//! `flotilla device approve|reject` for devices that wait to be taken into the fleet.

use super::client::Client;
use super::commands::{Done, Out, encode};
use super::exit::Failure;
use super::groups;
use crate::http::api::{AdmissionRequest, DeviceView};
use flotilla_protocol::ErrorCode;

/// Whether these devices wait for approval, or else ask for something else. What is meant for several is the same.
pub(super) fn wait(client: &Client, ids: &[String]) -> Result<bool, Failure> {
    let mut waits = Vec::with_capacity(ids.len());
    for id in ids {
        let device: DeviceView = client.get(&format!("/api/v1/devices/{}", encode(id)))?;
        waits.push(device.state == "waiting");
    }
    match waits.iter().position(|wait| !wait) {
        None => Ok(!ids.is_empty()),
        Some(_) if ids.len() == 1 => Ok(false),
        Some(place) => {
            let detail = format!(
                "device {} does not wait for approval; new certificates are decided on one by one",
                ids[place]
            );
            Err(Failure::new(ErrorCode::InvalidInput, detail))
        }
    }
}

/// Takes them in, or for a reason shuts them out; all that wait, if none is named.
pub(super) fn decide(client: &Client, ids: Vec<String>, reject: Option<String>, out: &Out) -> Done {
    let devices = (!ids.is_empty()).then_some(ids);
    groups::tag(client.post("/api/v1/device-admission", &AdmissionRequest { devices, reject })?, out)
}

/// There is no device that it could be.
pub(super) fn none_named() -> Failure {
    Failure::new(ErrorCode::InvalidInput, "name the devices, or give --waiting for all that wait".to_owned())
}
