//! Orders for many devices, as they are answered.

use super::super::api::{FailureView, OrderFailure};
use super::super::problem::Problem;
use flotilla_fleet::Ordered;
use flotilla_protocol::DeviceId;

/// The devices of an order, and those on which it was not possible. What is not possible on the one device that an order is
/// for is the request's failure.
pub(super) fn told(done: Vec<Ordered>) -> Result<(Vec<DeviceId>, Vec<OrderFailure>), Problem> {
    let single = done.len() == 1;
    let (mut devices, mut failed) = (Vec::with_capacity(done.len()), Vec::new());
    for Ordered { device, outcome } in done {
        match outcome {
            Err(error) if single => return Err(error.into()),
            Err(error) => {
                let failure = FailureView::new(error.code(), error.to_string());
                failed.push(OrderFailure { device: device.to_string(), failure });
            }
            Ok(_) => {}
        }
        devices.push(device);
    }
    Ok((devices, failed))
}
