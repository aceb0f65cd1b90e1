//! Enrolment: a claim and a signing request become a device.

use crate::ca::CertificateAuthority;
use crate::claims;
use crate::devices::{Certificate, Device, DeviceState, Twin};
use crate::error::{Error, Result};
use crate::groups;
use crate::registrations;
use crate::store::{ATTEMPTS, Store};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use flotilla_identity::{Actor, audit};
use flotilla_protocol::DeviceId;
use flotilla_protocol::enrol::{EnrolAnswer, EnrolRequest};
use flotilla_protocol::message::Settings;
use flotilla_registry::Registry;
use flotilla_storage::Batch;
use serde_json::json;
use std::time::{Duration, UNIX_EPOCH};

/// What every device gets beside its certificate.
pub(crate) struct Enrolment<'a> {
    pub(crate) store: &'a Store,
    pub(crate) authority: &'a CertificateAuthority,
    pub(crate) registry: &'a Registry,
    pub(crate) settings: &'a Settings,
    /// `host:port` of the broker, as devices reach it.
    pub(crate) mqtt: &'a str,
}

impl Enrolment<'_> {
    /// Uses the claim once and makes the device, its twin and the audit record, all in one commit. A device that asks
    /// again with the same claim and key, because no answer came, gets one. Whoever has no valid claim learns nothing
    /// about the devices that exist.
    pub(crate) async fn enrol(&self, request: EnrolRequest, now_ms: u64) -> Result<EnrolAnswer> {
        let store = self.store;
        for _ in 0..ATTEMPTS {
            let found = claims::find(store, &request.secret).await?;
            let mut claim = found.value.clone();
            // Whoever leaves the id to the cloud and asks again means the device that the claim made last.
            let wanted = request.device.clone().or_else(|| claim.last_device.clone());
            let csr = request.csr_pem.as_bytes();
            let key = self.authority.key_of_csr(csr)?;
            let known = match &wanted {
                Some(id) => store.devices.get(id.as_str()).await?,
                None => None,
            };
            let again = known.filter(|known| known.value.is_enrolled_as(&claim.id.short(), &key));
            let id = match &again {
                Some(known) => known.value.id.clone(),
                None => request.device.clone().unwrap_or_else(DeviceId::random),
            };
            let now = UNIX_EPOCH + Duration::from_millis(now_ms);
            if let Some(known) = again {
                // Its answer was lost on the way: the same claim and key are the same enrolment.
                claim.ended(now_ms)?;
                let issued = self.authority.sign_device_csr(csr, &id, now)?;
                let mut device = known.value.clone();
                device.certificates = vec![Certificate::from(&issued)];
                let serial = &device.certificates[0].serial;
                let detail = json!({ "claim": claim.id.short(), "serial": serial, "again": true });
                let mut batch = Batch::new();
                store.devices.update(&mut batch, &known, &device)?;
                let subject = format!("device/{id}");
                audit::record(&mut batch, &Actor::device(&id), "device:enrol", &subject, detail, now_ms)?;
                if store.try_commit(batch).await? {
                    return Ok(self.answer(id, issued.chain_pem));
                }
                continue;
            }
            claim.redeem(&id, now_ms)?;
            if store.devices.get(id.as_str()).await?.is_some() {
                return Err(Error::DeviceExists(id));
            }
            let issued = self.authority.sign_device_csr(csr, &id, now)?;
            let project = self.authority.project().clone();
            let certificate = Certificate::from(&issued);
            let mut detail = json!({
                "claim": claim.id.short(), "serial": certificate.serial,
                "key": certificate.key, "board": request.board.board,
            });
            if claim.group.is_some() || !claim.tags.is_empty() {
                detail["given"] = json!({ "group": claim.group, "tags": claim.tags });
            }
            let mut device =
                Device::enrolled(project, id.clone(), &request.board, certificate, claim.id.short(), now_ms);
            device.tags = claim.tags.clone();
            device.serial = request.serial.clone();
            if claim.approval {
                device.state = DeviceState::Waiting { since_ms: now_ms };
                detail["waits"] = json!(true);
            }
            let mut batch = Batch::new();
            // What is registered of this one device wins over what all of the claim get.
            let registered = registrations::take(store, &mut batch, request.serial.as_ref(), &id).await?;
            if claim.registered && registered.is_none() {
                return Err(Error::SerialUnknown);
            }
            let own_group = registered.as_ref().is_some_and(|registered| registered.group.is_some());
            if let Some(group) = claim.group.as_ref().filter(|_| !own_group) {
                groups::join(store, &mut batch, group, &id).await?;
            }
            if let Some(serial) = &request.serial {
                detail["serial_number"] = json!(serial);
            }
            if let Some(registered) = registered {
                detail["registered"] = json!({ "group": registered.group, "tags": registered.tags });
                device.tags.labels.extend(registered.tags.labels);
                device.tags.attributes.extend(registered.tags.attributes);
                device.tags.name = registered.tags.name;
                device.tags.check_numbers()?;
            }
            store.claims.update(&mut batch, &found, &claim)?;
            store.devices.insert(&mut batch, &device)?;
            store.twins.insert(&mut batch, &Twin::new(id.clone(), self.settings.clone(), now_ms))?;
            let subject = format!("device/{id}");
            audit::record(&mut batch, &Actor::device(&id), "device:enrol", &subject, detail, now_ms)?;
            if store.try_commit(batch).await? {
                tracing::info!(device = %id, "a device has enrolled");
                return Ok(self.answer(id, issued.chain_pem));
            }
            // Another device used the claim, or took the id, at the same moment: look again.
        }
        Err(Error::Contended("the claim".into()))
    }

    fn answer(&self, device: DeviceId, certificate_pem: String) -> EnrolAnswer {
        EnrolAnswer {
            project: self.authority.project().clone(),
            device,
            certificate_pem,
            ca_pem: self.authority.root_pem(),
            trust: STANDARD.encode(&self.registry.trust().envelope),
            mqtt: self.mqtt.to_owned(),
        }
    }
}

#[cfg(test)]
#[path = "enrol_tests.rs"]
mod tests;
