//! Serial numbers of devices that are expected.

use super::super::api::{RegisteredView, RegistrationView};
use super::super::service::{Answer, Call, Handled};
use flotilla_fleet::{LIST_BYTES, Registered, Registration};
use flotilla_protocol::enrol::BoardSerial;

/// `GET /api/v1/registrations`
pub(crate) async fn list(call: Call) -> Handled {
    all(&call).await
}

/// `POST /api/v1/registrations`
pub(crate) async fn register(mut call: Call) -> Handled {
    let list = call.bytes(LIST_BYTES).await?;
    let Registered { new, replaced, unchanged, enrolled } =
        call.app.fleet.register(call.actor()?, &list).await?;
    Answer::json(&RegisteredView { new, replaced, unchanged, enrolled })
}

/// `DELETE /api/v1/registrations/{serial}`
pub(crate) async fn unregister(call: Call) -> Handled {
    let serial: BoardSerial = call.param("serial")?;
    call.app.fleet.unregister(call.actor()?, &serial).await?;
    all(&call).await
}

async fn all(call: &Call) -> Handled {
    let all = call.app.fleet.registrations().await?;
    Answer::json(&all.into_iter().map(view).collect::<Vec<_>>())
}

fn view(registration: Registration) -> RegistrationView {
    RegistrationView {
        serial: registration.serial.to_string(),
        name: registration.tags.name,
        group: registration.group.map(|group| group.to_string()),
        labels: registration.tags.labels.into_iter().collect(),
        attributes: registration.tags.attributes,
        registered_at_ms: registration.registered_at_ms,
        registered_by: registration.registered_by.to_string(),
        device: registration.device.map(|device| device.to_string()),
    }
}
