//! How a device behaves: shown, and changed setting by setting.

use super::super::service::{Answer, Call, Handled};
use flotilla_fleet::Error;
use flotilla_protocol::DeviceId;
use flotilla_protocol::message::Settings;
use serde_json::{Map, Value, json};

/// `GET /api/v1/devices/{id}/settings`
pub(crate) async fn show(call: Call) -> Handled {
    let id: DeviceId = call.param("id")?;
    Answer::json(&call.app.fleet.device(&id).await?.settings)
}

/// `PATCH /api/v1/devices/{id}/settings`
pub(crate) async fn change(mut call: Call) -> Handled {
    let id: DeviceId = call.param("id")?;
    let patch: Map<String, Value> = call.json().await?;
    call.app.fleet.configure(call.actor()?, &id, |settings| merged(settings, &patch)).await?;
    Answer::json(&call.app.fleet.device(&id).await?.settings)
}

/// A merge patch (RFC 7396) of settings.
fn merged(settings: &Settings, patch: &Map<String, Value>) -> Result<Settings, Error> {
    let invalid = |problem: String| Error::Invalid(problem);
    if let Some(name) = patch.keys().find(|name| !is_setting(name)) {
        return Err(invalid(format!("there is no setting {name:?}")));
    }
    let mut all = json!(settings);
    for (name, value) in patch {
        match all.as_object_mut() {
            Some(all) if value.is_null() => drop(all.remove(name)),
            Some(all) => drop(all.insert(name.clone(), value.clone())),
            None => {}
        }
    }
    serde_json::from_value(all).map_err(|e| invalid(format!("the settings are not usable: {e}")))
}

/// Settings are numbers and lists: an object is refused under the name of a setting, and passed over under any other.
fn is_setting(name: &str) -> bool {
    serde_json::from_value::<Settings>(json!({ name: {} })).is_err()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests fail by panicking")]
mod tests {
    use super::*;
    use flotilla_protocol::message::QuietHours;

    fn patched(patch: Value) -> Result<Settings, String> {
        let before = Settings { probation_s: 7, download_bytes_per_s: Some(5_000), ..Settings::default() };
        merged(&before, patch.as_object().unwrap()).map_err(|e| e.to_string())
    }

    #[test]
    fn what_is_named_changes_null_is_the_default_and_the_rest_stays() {
        let settings = patched(json!({
            "download_bytes_per_s": null,
            "quiet_hours": [{ "from_min": 1_320, "to_min": 360 }],
        }));
        let quiet_hours = vec![QuietHours { from_min: 1_320, to_min: 360 }];
        assert_eq!(settings, Ok(Settings { probation_s: 7, quiet_hours, ..Settings::default() }));
        assert_eq!(
            patched(json!({ "probation_s": null })).unwrap().probation_s,
            Settings::default().probation_s
        );
    }

    #[test]
    fn mistakes_are_named() {
        for (patch, word) in [
            (json!({ "quiet_hour": null }), "quiet_hour"),
            (json!({ "probation_s": "soon" }), "soon"),
            (json!({ "quiet_hours": [{ "from_min": 1 }] }), "to_min"),
        ] {
            let problem = patched(patch.clone()).unwrap_err();
            assert!(problem.contains(word), "{patch}: {problem}");
        }
    }
}
