//! Real predictions on the devices' own endpoints, and what telemetry says of them.

use super::devices::LocalDevice;
use super::report::ProbeReport;
use super::{At, NAME, StageError, Stages};
use crate::http::api::{DeviceEvaluation, DeviceView, EvaluationView, Json, SampleView};
use flotilla_protocol::ErrorCode;
use serde_json::json;
use std::time::{Duration, Instant};

const POLL: Duration = Duration::from_millis(150);
/// Telemetry comes every few seconds here.
const TELEMETRY_LIMIT: Duration = Duration::from_secs(60);

/// What one device answered.
struct Answers {
    labels: Vec<u32>,
    release: String,
}

impl Stages {
    pub(super) fn predict(&mut self, devices: &[LocalDevice]) -> Result<(), StageError> {
        let stage = "predict";
        self.progress.stage(stage, "evaluating in the control plane");
        let version = self.report.release.version;
        let dataset = json!({ "dataset": NAME, "version": self.report.dataset.version, "split": "test" });
        let cloud: EvaluationView = self
            .client
            .post(&format!("/api/v1/models/{NAME}/versions/{version}/evaluate"), &dataset)
            .at(stage)?;
        let path = format!("/api/v1/datasets/{NAME}/versions/{}/samples", self.report.dataset.version);
        let samples: Vec<SampleView> = self.client.get(&format!("{path}?split=test")).at(stage)?;
        let images = samples
            .iter()
            .map(|sample| self.client.get_bytes(&format!("{path}/{}", sample.digest)))
            .collect::<Result<Vec<_>, _>>()
            .at(stage)?;
        let mut done = 0;
        let total = (samples.len() * devices.len()) as u64;
        for (index, device) in devices.iter().enumerate() {
            let answers = ask(device, &images, || {
                done += 1;
                self.progress.update(stage, done, Some(total), "predictions on the devices");
            })
            .map_err(|(code, detail)| StageError::new(stage, code, detail))?;
            let correct =
                answers.labels.iter().zip(&samples).filter(|(label, s)| Some(**label) == s.label).count();
            let report = &mut self.report.devices[index];
            report.predictions = answers.labels.len() as u64;
            report.correct = correct as u64;
            report.accuracy = correct as f64 / samples.len().max(1) as f64;
            report.identical_to_cloud = answers.labels == cloud.predictions;
            if !report.identical_to_cloud {
                let detail = format!("{} does not answer as the control plane's evaluation does", device.id);
                return Err(StageError::new(stage, ErrorCode::InferenceFailed, detail));
            }
            let evaluation = DeviceEvaluation {
                release: answers.release,
                total: samples.len() as u64,
                correct: correct as u64,
            };
            let path = format!("/api/v1/devices/{}/evaluations", device.id);
            let _recorded: Json = self.client.post(&path, &evaluation).at(stage)?;
        }
        let accuracies: Vec<_> = self.report.devices.iter().map(|d| format!("{:.4}", d.accuracy)).collect();
        self.progress.done(
            stage,
            &format!(
                "{} test samples on each device: accuracy {}; every answer identical to the control plane's",
                samples.len(),
                accuracies.join(", ")
            ),
        );
        Ok(())
    }

    pub(super) fn telemetry(&mut self) -> Result<(), StageError> {
        let stage = "telemetry";
        self.progress.stage(stage, "waiting for the devices' reports");
        let deadline = Instant::now() + TELEMETRY_LIMIT;
        let views = loop {
            let views: Vec<DeviceView> = self.client.get("/api/v1/devices").at(stage)?;
            let told = |id: &str, at_least: u64| {
                let counted = |v: &DeviceView| v.model(NAME).is_some_and(|m| m.predictions >= at_least);
                views.iter().any(|v| v.id == id && counted(v) && v.rss_bytes.is_some())
            };
            if self.report.devices.iter().all(|d| told(&d.id, d.predictions)) {
                break views;
            }
            if Instant::now() > deadline {
                let detail =
                    format!("not every device has reported its predictions within {TELEMETRY_LIMIT:?}");
                return Err(StageError::new(stage, ErrorCode::Timeout, detail));
            }
            std::thread::sleep(POLL);
        };
        for report in &mut self.report.devices {
            let Some(view) = views.iter().find(|v| v.id == report.id) else { continue };
            let Some(model) = view.model(NAME) else { continue };
            report.state = model.state.clone();
            report.release = model.release.clone().unwrap_or_default();
            report.slot = model.slot.clone().unwrap_or_default();
            report.rss_bytes = view.rss_bytes.unwrap_or_default();
            report.drift = model.drift.clone();
            self.report.bytes_over_mqtt += view.bytes_sent;
            report.probe = model.probe.as_ref().map_or(ProbeReport::default(), |p| ProbeReport {
                max_abs_error: p.max_abs_error,
                p50_ms: p.p50_ms,
            });
        }
        let drifts = self.report.devices.iter().filter_map(|device| device.drift.as_ref());
        let drift = drifts.max_by(|a, b| a.score.total_cmp(&b.score)).map_or_else(
            || "no device can tell its drift yet".to_owned(),
            |drift| format!("drift at most {:.3} ({})", drift.score, drift.shift),
        );
        let rss = self.report.devices.iter().map(|d| d.rss_bytes).max().unwrap_or_default();
        self.progress.done(
            stage,
            &format!(
                "every device reports; {drift}; largest agent {:.1} MB; {} bytes sent to the devices over MQTT",
                rss as f64 / 1e6,
                self.report.bytes_over_mqtt
            ),
        );
        Ok(())
    }
}

/// Sends every image to the device's endpoint.
fn ask(
    device: &LocalDevice,
    images: &[Vec<u8>],
    mut answered: impl FnMut(),
) -> Result<Answers, (ErrorCode, String)> {
    let network = |detail: String| (ErrorCode::Network, format!("{}: {detail}", device.id));
    let endpoint = device.endpoint().ok_or_else(|| network("its local API does not listen".into()))?;
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(Duration::from_secs(30)))
        .build()
        .into();
    let url = format!("http://{endpoint}/predict/{NAME}");
    let mut answers = Answers { labels: Vec::with_capacity(images.len()), release: String::new() };
    for image in images {
        let sent = agent.post(&url).header("content-type", "image/png").send(&image[..]);
        let mut response = sent.map_err(|e| network(e.to_string()))?;
        let status = response.status();
        let answer: Json = response.body_mut().read_json().map_err(|e| network(e.to_string()))?;
        let label = answer["label_index"].as_u64().and_then(|l| u32::try_from(l).ok());
        let Some(label) = label.filter(|_| status.is_success()) else {
            let detail = answer["detail"].as_str().unwrap_or("no label in the answer");
            return Err((ErrorCode::InferenceFailed, format!("{} answers {status}: {detail}", device.id)));
        };
        answers.labels.push(label);
        answers.release = answer["release"].as_str().unwrap_or_default().to_owned();
        answered();
    }
    Ok(answers)
}
