//! The stages from data to rollout.

use super::report::{
    CompressionReport, DatasetReport, ReleaseReport, RolloutReport, TrainingReport, WaveReport,
};
use super::{At, NAME, StageError, Stages};
use crate::cli::follow;
use crate::http::api::{
    CompressRequest, DatasetView, ImportView, JobView, Json, ModelVersionView, ReleaseRequest, ReleaseView,
    RolloutRequest, RolloutView, TrainRequest,
};
use flotilla_protocol::ErrorCode;
use serde_json::json;
use std::time::{Duration, Instant};

/// How often a running job or rollout is asked for.
const POLL: Duration = Duration::from_millis(150);
/// A rollout on local devices takes seconds; beyond this something is wrong.
const ROLLOUT_LIMIT: Duration = Duration::from_secs(300);

impl Stages {
    pub(super) fn import(&mut self) -> Result<(), StageError> {
        let stage = "import";
        self.progress.stage(stage, "importing the bundled optical digits");
        let import: ImportView = follow::import(&self.client, &self.progress, stage, NAME, || {
            self.client.post(&format!("/api/v1/datasets/{NAME}/import-bundled"), &json!({}))
        })
        .at(stage)?;
        let DatasetView { name, version, samples, classes, train, validation, test, .. } = import.dataset;
        let note = if import.unchanged { " (already there)" } else { "" };
        self.progress.done(
            stage,
            &format!("{name} v{version}: {samples} samples, {classes} classes; train {train}, validation {validation}, test {test}{note}"),
        );
        self.report.dataset = DatasetReport { name, version, samples, classes, train, validation, test };
        Ok(())
    }

    pub(super) fn train(&mut self) -> Result<(), StageError> {
        let stage = "train";
        let trained = self.versions(stage)?.into_iter().find(|v| v.source == "trained");
        let (job, note) = match trained {
            Some(version) => (self.job(stage, &version.job)?, " (already trained)"),
            None => {
                let request = TrainRequest {
                    dataset: NAME.into(),
                    dataset_version: Some(self.report.dataset.version),
                    model: NAME.into(),
                    config: Json::Null,
                    leave_out: Vec::new(),
                };
                (self.job_to_its_end(stage, "train", &json!(request))?, "")
            }
        };
        let result = job.result.unwrap_or_default();
        self.report.training = TrainingReport {
            job: job.id,
            algorithm: text(&result, "algorithm"),
            parameters: result["parameters"].as_u64().unwrap_or_default(),
            epochs: result["epochs"].as_u64().unwrap_or_default(),
            seconds: result["seconds"].as_f64().unwrap_or_default(),
            test_accuracy: result["test_accuracy"].as_f64().unwrap_or_default(),
        };
        let t = &self.report.training;
        self.progress.done(
            stage,
            &format!(
                "{}: {} parameters, {} epochs in {:.1} s, test accuracy {:.4}{note}",
                t.algorithm, t.parameters, t.epochs, t.seconds, t.test_accuracy
            ),
        );
        Ok(())
    }

    pub(super) fn compress(&mut self) -> Result<(), StageError> {
        let stage = "compress";
        let versions = self.versions(stage)?;
        let training = self.report.training.job.clone();
        let trained = versions.iter().find(|v| v.job == training).map(|v| v.version);
        let (job, note) = match versions.into_iter().find(|v| v.source == "compressed") {
            Some(version) => (self.job(stage, &version.job)?, " (already compressed)"),
            None => {
                let request = CompressRequest { version: trained, ..CompressRequest::new(NAME) };
                (self.job_to_its_end(stage, "compress", &json!(request))?, "")
            }
        };
        let made = self.versions(stage)?.into_iter().find(|v| v.job == job.id).map(|v| v.version);
        self.compressed = made;
        let result = job.result.unwrap_or_default();
        self.report.compression = CompressionReport {
            recipe: text(&result, "recipe"),
            bytes_before: result["bytes_before"].as_u64().unwrap_or_default(),
            bytes_after: result["bytes_after"].as_u64().unwrap_or_default(),
            // Jobs of earlier versions, which a folder may hold, knew accuracy alone.
            test_accuracy: result["value_after"]
                .as_f64()
                .or(result["accuracy_after"].as_f64())
                .unwrap_or_default(),
            accuracy_drop: result["drop"].as_f64().or(result["accuracy_drop"].as_f64()).unwrap_or_default(),
        };
        let c = &self.report.compression;
        self.progress.done(
            stage,
            &format!(
                "{}: {} -> {} bytes, test accuracy {:.4} (drop {:.4}){note}",
                c.recipe, c.bytes_before, c.bytes_after, c.test_accuracy, c.accuracy_drop
            ),
        );
        Ok(())
    }

    pub(super) fn release(&mut self) -> Result<(), StageError> {
        let stage = "release";
        self.progress.stage(stage, "signing");
        // Versions that somebody else added in the meantime are not of this loop.
        let wanted = self.compressed;
        let releases: Vec<ReleaseView> = self.client.get("/api/v1/releases").at(stage)?;
        let existing = releases.into_iter().rev().find(|r| r.model == NAME && Some(r.version) == wanted);
        let (release, note) = match existing {
            Some(release) => (release, " (already signed)"),
            None => {
                let request = ReleaseRequest { model: NAME.into(), version: wanted, boards: Vec::new() };
                (self.client.post("/api/v1/releases", &request).at(stage)?, "")
            }
        };
        let ReleaseView { model, version, digest, bytes, key_id, .. } = release;
        self.progress.done(
            stage,
            &format!(
                "{model} v{version}: {bytes} bytes, digest {}, key {}{note}",
                short(&digest),
                short(&key_id)
            ),
        );
        self.report.release = ReleaseReport { model, version, digest, bytes, key_id };
        Ok(())
    }

    pub(super) fn rollout(&mut self) -> Result<(), StageError> {
        let stage = "rollout";
        let started = Instant::now();
        let digest = self.report.release.digest.clone();
        let rollouts: Vec<RolloutView> = self.client.get("/api/v1/rollouts").at(stage)?;
        let mut rollouts = rollouts.into_iter().rev().filter(|r| r.model == NAME).peekable();
        if let Some(open) = rollouts.peek().filter(|r| !r.is_over() && !self.is_of_running_devices(r)) {
            // It waits for devices of an earlier run that do not run now.
            let path = format!("/api/v1/rollouts/{}/abort", open.id);
            let _aborted: RolloutView = self.client.post(&path, &json!({})).at(stage)?;
            rollouts.next();
        }
        let existing =
            rollouts.find(|r| r.release == digest && (!r.is_over() || self.covers_every_device(r)));
        let (mut rollout, note) = match existing {
            Some(rollout) if rollout.is_over() => (rollout, " (already rolled out)"),
            Some(rollout) => (rollout, " (continued)"),
            None => {
                let devices = self.report.devices.iter().map(|device| device.id.clone()).collect();
                let request =
                    RolloutRequest { release: digest, devices: Some(devices), ..RolloutRequest::default() };
                (self.client.post("/api/v1/rollouts", &request).at(stage)?, "")
            }
        };
        self.progress.stage(stage, &format!("{}: canary first", rollout.id));
        while !rollout.is_over() {
            if started.elapsed() > ROLLOUT_LIMIT {
                let detail = format!("{} is still {} after {ROLLOUT_LIMIT:?}", rollout.id, rollout.state);
                return Err(StageError::new(stage, ErrorCode::Timeout, detail));
            }
            std::thread::sleep(POLL);
            rollout = self.client.get(&format!("/api/v1/rollouts/{}", rollout.id)).at(stage)?;
            let (confirmed, all) = rollout.progress();
            self.progress.update(stage, confirmed.into(), Some(all.into()), "devices confirmed");
        }
        if rollout.state != "succeeded" {
            let detail = format!("{} ended as {}: {}", rollout.id, rollout.state, rollout.reason);
            return Err(StageError::new(stage, ErrorCode::WrongState, detail));
        }
        let seconds = rollout
            .finished_at_ms
            .map_or(0.0, |finished| finished.saturating_sub(rollout.started_at_ms) as f64 / 1000.0);
        let waves = rollout.waves.iter().map(|wave| WaveReport {
            state: wave.state.clone(),
            devices: wave.devices.iter().map(|d| d.id.clone()).collect(),
        });
        self.report.rollout = RolloutReport {
            id: rollout.id.clone(),
            state: rollout.state.clone(),
            waves: waves.collect(),
            seconds,
        };
        let sizes: Vec<_> = rollout.waves.iter().map(|w| w.devices.len().to_string()).collect();
        self.progress.done(
            stage,
            &format!("{}: waves of {} confirmed in {seconds:.1} s{note}", rollout.state, sizes.join(" + ")),
        );
        Ok(())
    }

    fn is_of_running_devices(&self, rollout: &RolloutView) -> bool {
        let mut devices = rollout.waves.iter().flat_map(|wave| &wave.devices);
        devices.all(|device| self.report.devices.iter().any(|running| running.id == device.id))
    }

    fn covers_every_device(&self, rollout: &RolloutView) -> bool {
        let covered = |id: &str| rollout.waves.iter().any(|w| w.devices.iter().any(|d| d.id == id));
        rollout.state == "succeeded" && self.report.devices.iter().all(|device| covered(&device.id))
    }

    fn versions(&self, stage: &'static str) -> Result<Vec<ModelVersionView>, StageError> {
        let all: Vec<ModelVersionView> = self.client.get("/api/v1/models").at(stage)?;
        let dataset = self.report.dataset.version;
        Ok(all.into_iter().filter(|v| v.model == NAME && v.dataset_version == dataset).collect())
    }

    fn job(&self, stage: &'static str, id: &str) -> Result<JobView, StageError> {
        self.client.get(&format!("/api/v1/jobs/{id}")).at(stage)
    }

    /// Continues an open job of this kind, or submits one, and follows it to its end.
    fn job_to_its_end(&self, stage: &'static str, kind: &str, request: &Json) -> Result<JobView, StageError> {
        self.progress.stage(stage, "queued");
        let jobs: Vec<JobView> = self.client.get("/api/v1/jobs").at(stage)?;
        let open = jobs.into_iter().rev().find(|job| job.kind == kind && !job.is_over());
        let mut job: JobView = match open {
            Some(job) => job,
            None => self.client.post(&format!("/api/v1/jobs/{kind}"), request).at(stage)?,
        };
        while !job.is_over() {
            std::thread::sleep(POLL);
            job = self.job(stage, &job.id)?;
            follow::job_progress(&self.progress, stage, &job);
        }
        if job.state == "succeeded" {
            return Ok(job);
        }
        let failure =
            job.failure.unwrap_or(crate::http::api::FailureView::new(ErrorCode::Cancelled, "cancelled"));
        let detail = format!("{} {}: {}", job.id, job.state, failure.detail);
        Err(StageError::new(stage, ErrorCode::from_text(&failure.code), detail))
    }
}

fn text(value: &Json, name: &str) -> String {
    value[name].as_str().unwrap_or_default().to_owned()
}

fn short(digest: &str) -> &str {
    digest.get(..12).unwrap_or(digest)
}
