//! The commands that talk to a running control plane.

use super::args::{Command, Dataset, Device, DeviceSettings, Job, Model, Order, Release, Target, Train};
use super::client::Client;
use super::exit::Failure;
use super::{
    admission, board, card, compress, diagnose, experiment, follow, groups, hard, import, inspect, lifetime,
    order, pipeline, read_file, registrations, rollout, shadow, table, telemetry, top, trust, twin, upload,
};
use crate::http::api::{
    ApproveRequest, AuditView, ClaimRequest, ClaimView, CommandRequest, CommandView, DatasetView,
    DeviceTelemetryView, DeviceView, ImportView, JobView, Json, LoginView, MeasureRequest, ModelVersionView,
    RejectRequest, ReleaseRequest, ReleaseTelemetryView, ReleaseView, TagRequest, TrainRequest, TwinView,
};
use crate::progress::Progress;
use flotilla_protocol::enrol::ClaimCode;
use flotilla_protocol::{Digest, ErrorCode};
use serde::Serialize;
use serde_json::json;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

pub(super) use crate::http::service::percent_encode as encode;

pub(super) type Done = Result<(), Failure>;

/// Runs a command.
pub(crate) fn run(command: Command, json: bool) -> Done {
    let out = Out { json };
    match command {
        Command::Login(target) => login(&client(&target)?, &out),
        Command::Audit(target) => audit(&client(&target)?, &out),
        Command::Dataset(command) => dataset(command, &out),
        Command::Train(train) => self::train(train, &out),
        Command::Compress(compress) => compress::run(compress, &out),
        Command::Model(command) => model(command, &out),
        Command::Release(command) => release(command, &out),
        Command::Trust(command) => trust::run(command, &out),
        Command::Device(command) => device(command, &out),
        Command::Board(command) => board::run(command, &out),
        Command::Group(command) => groups::run(command, &out),
        Command::Fleet(command) => top::run(command, &out),
        Command::Hard(command) => hard::run(command, &out),
        Command::Rollout(command) => rollout::run(command, &out),
        Command::Experiment(command) => experiment::run(command, &out),
        Command::Shadow(command) => shadow::run(command, &out),
        Command::Job(command) => job(command, &out),
        Command::Quickstart(_)
        | Command::Up(_)
        | Command::Simulate(_)
        | Command::Agent(_)
        | Command::JobChild { .. }
        | Command::ExamineChild { .. } => {
            Err(Failure::new(ErrorCode::Internal, "this command does not talk to a control plane"))
        }
    }
}

/// Where results go.
pub(super) struct Out {
    /// Whether they are JSON.
    pub(super) json: bool,
}

impl Out {
    /// Prints a value as JSON, or by `text`.
    pub(super) fn show<T: Serialize>(&self, value: &T, text: impl FnOnce(&T)) -> Done {
        if !self.json {
            text(value);
            return Ok(());
        }
        let line = serde_json::to_string(value).map_err(|e| Failure::new(ErrorCode::Internal, e))?;
        println!("{line}");
        Ok(())
    }
}

pub(super) fn client(target: &Target) -> Result<Client, Failure> {
    let (Some(server), Some(file)) = (&target.server, &target.token_file) else {
        return Ok(Client::of_folder(&target.dir)?);
    };
    let token = std::fs::read_to_string(file)
        .map_err(|e| Failure::new(ErrorCode::NotFound, format!("{} cannot be read: {e}", file.display())))?;
    Ok(Client::new(server.clone(), token))
}

fn login(client: &Client, out: &Out) -> Done {
    let login: LoginView = client.post("/api/v1/login-codes", &Json::Null)?;
    out.show(&login, |l| println!("{}", l.url))
}

fn audit(client: &Client, out: &Out) -> Done {
    let trail: Vec<AuditView> = client.get("/api/v1/audit")?;
    out.show(&trail, |trail| {
        let row = |a: &AuditView| {
            vec![
                a.at_ms.to_string(),
                a.actor.clone(),
                a.action.clone(),
                a.subject.clone(),
                a.detail.to_string(),
            ]
        };
        table::print(
            &["TIME (ms)", "ACTOR", "ACTION", "SUBJECT", "DETAIL"],
            &trail.iter().map(row).collect::<Vec<_>>(),
        );
    })
}

fn dataset(command: Dataset, out: &Out) -> Done {
    match command {
        Dataset::List(target) => {
            let all: Vec<DatasetView> = client(&target)?.get("/api/v1/datasets")?;
            out.show(&all, |all| {
                let row = |d: &DatasetView| {
                    let counts =
                        [d.samples, d.train, d.validation, d.test, d.unlabelled].map(|n| n.to_string());
                    [vec![d.name.clone(), d.version.to_string(), d.classes.to_string()], counts.to_vec()]
                        .concat()
                };
                let header =
                    ["NAME", "VERSION", "CLASSES", "SAMPLES", "TRAIN", "VALIDATION", "TEST", "UNLABELLED"];
                table::print(&header, &all.iter().map(row).collect::<Vec<_>>());
            })
        }
        Dataset::Import { name, path, format, label, target_column, seed, target } => {
            let client = client(&target)?;
            let progress = Progress::new();
            let stage = "import";
            progress.stage(stage, &name);
            let encoded = encode(&name);
            let base = format!("/api/v1/datasets/{encoded}");
            let import: ImportView = match path {
                None => follow::import(&client, &progress, stage, &encoded, || {
                    client.post(&format!("{base}/import-bundled"), &Json::Null)
                })?,
                Some(path) => {
                    let (file, file_name) = upload::open(&path)?;
                    let mut query = format!("?file={}", encode(&file_name));
                    let seed = seed.map(|s| s.to_string());
                    let options =
                        [("format", format), ("label", label), ("target", target_column), ("seed", seed)];
                    for (key, value) in options {
                        if let Some(value) = value {
                            query += &format!("&{key}={}", encode(&value));
                        }
                    }
                    let bytes = (0, file.metadata().ok().map(|facts| facts.len()));
                    let upload = follow::Upload { file, shown: (&progress, stage), bytes };
                    follow::import(&client, &progress, stage, &encoded, || {
                        client.post_bytes(&format!("{base}/import{query}"), bytes.1, upload)
                    })?
                }
            };
            progress.clear();
            out.show(&import, print_import)
        }
    }
}

fn print_import(import: &ImportView) {
    let d = &import.dataset;
    let note = if import.unchanged { " (the same content was there already)" } else { "" };
    println!("{} v{}: {} samples, {} classes{note}", d.name, d.version, d.samples, d.classes);
    println!(
        "train {}, validation {}, test {}; {} duplicates",
        d.train, d.validation, d.test, import.duplicates
    );
    if import.skipped_total > 0 {
        println!("{} samples were skipped:", import.skipped_total);
    }
    for skipped in &import.skipped {
        let line = skipped.line.map(|l| format!(":{l}")).unwrap_or_default();
        println!("  {}{line}: {}", skipped.file, skipped.reason);
    }
    if import.skipped_total > import.skipped.len() as u64 {
        println!("  … and {} more", import.skipped_total - import.skipped.len() as u64);
    }
}

fn train(train: Train, out: &Out) -> Done {
    let config = match &train.config {
        Some(text) => serde_json::from_str(text).map_err(|e| {
            Failure::new(ErrorCode::InvalidInput, format!("--config is not a JSON object: {e}"))
        })?,
        None => Json::Null,
    };
    let client = client(&train.target)?;
    let model = train.model.unwrap_or_else(|| train.dataset.clone());
    let (dataset, dataset_version, leave_out) = (train.dataset, train.version, train.leave_out);
    let request = TrainRequest { dataset, dataset_version, model, config, leave_out };
    let job: JobView = client.post("/api/v1/jobs/train", &request)?;
    finish_job(&client, job, train.detach, out)
}

fn finish_job(client: &Client, job: JobView, detach: bool, out: &Out) -> Done {
    let job = if detach { job } else { follow::job(client, job)? };
    out.show(&job, print_job)
}

fn print_job(job: &JobView) {
    println!("{} {} {}", job.id, job.kind, job.state);
    if let Some(Json::Object(result)) = &job.result {
        for (name, value) in result {
            println!("  {name}: {value}");
        }
    }
    if let Some(failure) = &job.failure {
        println!("  {} [{}]", failure.detail, failure.code);
    }
}

fn job(command: Job, out: &Out) -> Done {
    match command {
        Job::List(target) => {
            let all: Vec<JobView> = client(&target)?.get("/api/v1/jobs")?;
            out.show(&all, |all| {
                let row = |j: &JobView| {
                    let progress = j.progress.as_ref().map(|p| format!("{} {}/{}", p.stage, p.done, p.total));
                    vec![j.id.clone(), j.kind.clone(), j.state.clone(), progress.unwrap_or_default()]
                };
                table::print(&["ID", "KIND", "STATE", "PROGRESS"], &all.iter().map(row).collect::<Vec<_>>());
            })
        }
        Job::Show { id, target } => {
            let job: JobView = client(&target)?.get(&format!("/api/v1/jobs/{}", encode(&id)))?;
            out.show(&job, print_job)
        }
        Job::Cancel { id, target } => {
            let job: JobView =
                client(&target)?.post(&format!("/api/v1/jobs/{}/cancel", encode(&id)), &Json::Null)?;
            out.show(&job, print_job)
        }
        Job::Log { id, target } => {
            let log = client(&target)?.get_bytes(&format!("/api/v1/jobs/{}/log", encode(&id)))?;
            std::io::stdout().write_all(&log).map_err(|e| Failure::new(ErrorCode::StorageIo, e))
        }
    }
}

fn model(command: Model, out: &Out) -> Done {
    match command {
        Model::List(target) => {
            let all: Vec<ModelVersionView> = client(&target)?.get("/api/v1/models")?;
            out.show(&all, |all| {
                let row = |v: &ModelVersionView| {
                    let accuracy = v.accuracy.map(|a| format!("{a:.4}")).unwrap_or_default();
                    let known = !v.dataset.is_empty();
                    let trained_on =
                        if known { format!("{} v{}", v.dataset, v.dataset_version) } else { "-".into() };
                    vec![
                        v.model.clone(),
                        v.version.to_string(),
                        v.source.clone(),
                        v.bytes.to_string(),
                        accuracy,
                        trained_on,
                    ]
                };
                let header = ["MODEL", "VERSION", "SOURCE", "BYTES", "ACCURACY", "DATASET"];
                table::print(&header, &all.iter().map(row).collect::<Vec<_>>());
            })
        }
        Model::Telemetry { model, target } => {
            let path = format!("/api/v1/models/{}/telemetry", encode(&model));
            let told: Vec<ReleaseTelemetryView> = client(&target)?.get(&path)?;
            out.show(&told, |told| telemetry::print_releases(told))
        }
        Model::Inspect(command) => inspect::run(command, out),
        Model::Report { model, version, target } => compress::show(&model, version, &client(&target)?, out),
        Model::Import(command) => import::run(command, out),
        Model::Card(command) => card::run(command, out),
        Model::Licence { model, version, licence, target } => {
            card::say_licence(&client(&target)?, &model, version, licence, out)
        }
        Model::Export { model, version, file, pipeline: beside, target } => {
            let base = format!("/api/v1/models/{}/versions/{version}", encode(&model));
            if let Some(beside) = beside {
                pipeline::write(&beside, &client(&target)?.get(&format!("{base}/pipeline"))?, &[])?;
            }
            let path = format!("{base}/onnx");
            let mut facts = (0, String::new());
            write_new(&file, || {
                let bytes = client(&target)?.get_bytes(&path)?;
                facts = (bytes.len(), Digest::of(&bytes).to_string());
                Ok(bytes)
            })?;
            let (bytes, digest) = facts;
            let said = json!({ "file": file, "bytes": bytes, "digest": digest });
            out.show(&said, |_| {
                println!(
                    "{} holds the plain ONNX of {model} v{version}: {bytes} bytes, {digest}",
                    file.display()
                )
            })
        }
    }
}

fn release(command: Release, out: &Out) -> Done {
    let print_one = |r: &ReleaseView| {
        let version = r.agent.clone().unwrap_or_else(|| format!("v{}", r.version));
        println!("{} {version} {} ({} bytes, key {})", r.model, r.digest, r.bytes, r.key_id)
    };
    match command {
        Release::Create { model, version, boards, target } => {
            let release: ReleaseView =
                client(&target)?.post("/api/v1/releases", &ReleaseRequest { model, version, boards })?;
            out.show(&release, |release| {
                print_one(release);
                if release.proved_by.as_deref() == Some("generated") {
                    println!(
                        "devices prove it with made up inputs: they show that a device computes the same, and nothing else"
                    );
                }
            })
        }
        Release::CreateAgent { binaries, arch, agent_version, target } => {
            let path = format!("/api/v1/agent-releases?version={}", encode(&agent_version));
            let release: ReleaseView =
                client(&target)?.post_file(&path, upload::programs(&binaries, arch)?)?;
            out.show(&release, print_one)
        }
        Release::Draft { model, version, boards, file, target } => {
            let request = ReleaseRequest { model, version, boards };
            write_new(&file, || Ok(client(&target)?.post_for_bytes("/api/v1/releases/draft", &request)?))
        }
        Release::Sign { file, key, .. } => trust::sign_release(&file, &key, out),
        Release::List(target) => {
            let all: Vec<ReleaseView> = client(&target)?.get("/api/v1/releases")?;
            out.show(&all, |all| all.iter().for_each(print_one))
        }
        Release::Export { digest, file, target } => {
            let path = format!("/api/v1/releases/{}/bundle", encode(&digest));
            write_new(&file, || Ok(client(&target)?.get_bytes(&path)?))
        }
        Release::Import { file, target } => {
            let release: ReleaseView = client(&target)?.post_file("/api/v1/bundles", read_file(&file)?)?;
            out.show(&release, print_one)
        }
    }
}

fn give(asked: &Order, request: &CommandRequest, out: &Out) -> Done {
    let view = order::ask(&client(asked.target())?, &encode(&asked.id), asked, request)?;
    out.show(&view, |view| order::print(std::slice::from_ref(view)))?;
    order::verdict(&asked.id, &view)
}

fn device(command: Device, out: &Out) -> Done {
    match command {
        Device::List(asked) => groups::list(asked, out),
        Device::Label(asked) => groups::label(asked, out),
        Device::Attribute(asked) => groups::attribute(asked, out),
        Device::Quarantine(asked) => groups::quarantine(asked.those, Some(asked.reason), &asked.target, out),
        Device::Release(asked) => groups::quarantine(asked.those, None, &asked.target, out),
        Device::Name { id, name, target } => {
            let request = TagRequest { devices: Some(vec![id]), name: Some(name), ..TagRequest::default() };
            groups::tag(client(&target)?.post("/api/v1/device-tags", &request)?, out)
        }
        Device::Show { id, target } => {
            let device: DeviceView = client(&target)?.get(&format!("/api/v1/devices/{}", encode(&id)))?;
            out.show(&device, telemetry::print_device)
        }
        Device::Telemetry { id, target } => {
            let path = format!("/api/v1/devices/{}/telemetry", encode(&id));
            let told: DeviceTelemetryView = client(&target)?.get(&path)?;
            out.show(&told, telemetry::print_telemetry)
        }
        Device::Twin { id, target } => {
            let path = format!("/api/v1/devices/{}/twin", encode(&id));
            let view: TwinView = client(&target)?.get(&path)?;
            out.show(&view, twin::print)
        }
        Device::Diagnose { id, wait, target } => {
            let view = diagnose::ask(&client(&target)?, &encode(&id), Duration::from_secs(wait))?;
            out.show(&view, diagnose::print).and_then(|()| diagnose::verdict(&view))
        }
        Device::Ping(asked) => give(&asked, &order::request("ping", &asked), out),
        Device::RotateCertificate(asked) => give(&asked, &order::request("rotate_certificate", &asked), out),
        Device::RestartModel { model, order: asked } => {
            let request = order::request("restart_model", &asked);
            give(&asked, &CommandRequest { model: Some(model), ..request }, out)
        }
        Device::LogLevel { level, order: asked } => {
            let request = order::request("log_level", &asked);
            give(&asked, &CommandRequest { level: Some(level), ..request }, out)
        }
        Device::Logs { order: asked, since, until, max_bytes, level } => {
            let request = CommandRequest { level, ..order::request("log_pull", &asked) };
            let client = client(asked.target())?;
            let request = order::of_log(request, since, until, max_bytes);
            let view = order::ask(&client, &encode(&asked.id), &asked, &request)?;
            order::show_log(&client, &asked, view, out)
        }
        Device::Measure { order: asked, model, version } => {
            let request = MeasureRequest { model, version, deadline_s: asked.deadline };
            let client = client(asked.target())?;
            let path = format!("/api/v1/devices/{}/measure", encode(&asked.id));
            let view = order::follow(&client, &encode(&asked.id), &asked, client.post(&path, &request)?)?;
            out.show(&view, order::print_measured).and_then(|()| order::verdict(&asked.id, &view))
        }
        Device::Commands { id, target } => {
            let path = format!("/api/v1/devices/{}/commands", encode(&id));
            let all: Vec<CommandView> = client(&target)?.get(&path)?;
            out.show(&all, |all| order::print(all))
        }
        Device::Diagnosis { id, target } => {
            let view = diagnose::last(&client(&target)?, &encode(&id))?;
            out.show(&view, diagnose::print).and_then(|()| diagnose::verdict(&view))
        }
        Device::Approve { ids, waiting, key, target } => {
            let client = client(&target)?;
            if waiting || admission::wait(&client, &ids)? {
                return admission::decide(&client, ids, None, out);
            }
            let [id] = ids.as_slice() else { return Err(admission::none_named()) };
            let path = format!("/api/v1/devices/{}", encode(id));
            let key = match key {
                Some(key) => key,
                None => key_of_renewal(&client.get(&path)?)?,
            };
            let path = format!("{path}/renewal/approve");
            let device: DeviceView = client.post(&path, &ApproveRequest { key })?;
            out.show(&device, |d| print_devices(std::slice::from_ref(d)))
        }
        Device::Reject { ids, reason, target } => {
            let client = client(&target)?;
            if admission::wait(&client, &ids)? {
                return admission::decide(&client, ids, Some(reason), out);
            }
            let [id] = ids.as_slice() else { return Err(admission::none_named()) };
            let path = format!("/api/v1/devices/{}/renewal/reject", encode(id));
            let device: DeviceView = client.post(&path, &RejectRequest { reason })?;
            out.show(&device, |d| print_devices(std::slice::from_ref(d)))
        }
        Device::Decommission(asked) => lifetime::decommission(&asked, out),
        Device::History { id, target } => lifetime::history(&id, &target, out),
        Device::Settings(settings) => device_settings(settings, out),
        Device::Revoke { id, target } => {
            let path = format!("/api/v1/devices/{}/revoke", encode(&id));
            let device: DeviceView = client(&target)?.post(&path, &Json::Null)?;
            out.show(&device, |d| print_devices(std::slice::from_ref(d)))
        }
        Device::Register { file, target } => registrations::register(&file, &target, out),
        Device::Registered(target) => registrations::list(&target, out),
        Device::Unregister { serials, target } => registrations::unregister(&serials, &target, out),
        Device::Claim { file, uses, hours, group, labels, attributes, approval, registered, target } => {
            let request = ClaimRequest {
                uses,
                valid_s: hours.saturating_mul(3600),
                group,
                labels,
                attributes: attributes.into_iter().collect(),
                approval,
                registered,
            };
            let mut server = String::new();
            write_new(&file, || {
                let claim: ClaimView = client(&target)?.post("/api/v1/claims", &request)?;
                server = claim.code.parse::<ClaimCode>().map(|code| code.server).unwrap_or_default();
                Ok(claim.code.into_bytes())
            })?;
            println!(
                "{}: a claim code for {uses} device(s), valid for {hours} h, at {server}",
                file.display()
            );
            if is_this_machine(&server) {
                eprintln!(
                    "it works on this machine only: for others the control plane needs `flotilla up --http ADDRESS --mqtt ADDRESS --name NAME`"
                );
            }
            Ok(())
        }
    }
}

/// Whether nobody else reaches this `host:port`.
fn is_this_machine(server: &str) -> bool {
    let host = server.rsplit_once(':').map_or(server, |(host, _)| host).trim_matches(['[', ']']);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn device_settings(wanted: DeviceSettings, out: &Out) -> Done {
    let path = format!("/api/v1/devices/{}/settings", encode(&wanted.id));
    let mut patch = serde_json::Map::new();
    if let Some(rate) = wanted.download_bytes_per_s {
        patch.insert("download_bytes_per_s".into(), json!((rate > 0).then_some(rate)));
    }
    if wanted.no_quiet || !wanted.quiet.is_empty() {
        patch.insert("quiet_hours".into(), json!(wanted.quiet));
    }
    for (name, seconds) in [("probation_s", wanted.probation_s), ("telemetry_interval_s", wanted.telemetry_s)]
    {
        patch.extend(seconds.map(|seconds| (name.to_owned(), json!(seconds))));
    }
    if let Some(score) = wanted.drift_above {
        patch.insert("drift_threshold_milli".into(), json!((score * 1_000.0).round() as u32));
    }
    let client = client(&wanted.target)?;
    let settings: Json = if patch.is_empty() { client.get(&path)? } else { client.patch(&path, &patch)? };
    out.show(&settings, |settings| {
        let rows = settings.as_object().into_iter().flatten();
        let rows: Vec<_> = rows.map(|(name, value)| vec![name.clone(), value.to_string()]).collect();
        table::print(&["SETTING", "VALUE"], &rows);
    })
}

pub(super) fn print_devices(devices: &[DeviceView]) {
    let mut rows = Vec::new();
    for device in devices {
        let link = if device.connected { "online" } else { "offline" };
        if device.models.is_empty() {
            let none = String::new;
            rows.push(vec![
                device.id.clone(),
                link.into(),
                none(),
                device.state.clone(),
                none(),
                none(),
                none(),
                labels(device),
                note(device),
            ]);
        }
        for model in &device.models {
            let release = model.release.as_deref().map(|r| r.chars().take(12).collect()).unwrap_or_default();
            rows.push(vec![
                device.id.clone(),
                link.into(),
                model.model.clone(),
                if device.is_shut_out() { device.state.clone() } else { model.state.clone() },
                release,
                model.slot.clone().unwrap_or_default(),
                model.predictions.to_string(),
                labels(device),
                note(device),
            ]);
        }
    }
    let header = ["DEVICE", "LINK", "MODEL", "STATE", "RELEASE", "SLOT", "PREDICTIONS", "LABELS", "NOTE"];
    table::print(&header, &rows);
}

/// What operators have written on a device, in short.
fn labels(device: &DeviceView) -> String {
    let attributes = device.attributes.iter().map(|(key, value)| format!("{key}={value}"));
    let all: Vec<String> = device.labels.iter().cloned().chain(attributes).collect();
    all.join(" ")
}

/// The key of the request that waits for an approval, said before it is approved.
fn key_of_renewal(device: &DeviceView) -> Result<String, Failure> {
    let (id, state) = (&device.id, &device.state);
    let key = device.renewal_key.clone().ok_or_else(|| {
        let problem = format!("device {id} ({state}) has not asked for a new certificate");
        Failure::new(ErrorCode::NotFound, problem)
    })?;
    eprintln!(
        "device {id} asks for a certificate over the key {key}; the log of the device names the same one"
    );
    Ok(key)
}

/// What somebody should look at.
fn note(device: &DeviceView) -> String {
    if let Some(reason) = &device.quarantine {
        return format!("in quarantine: {reason}");
    }
    if device.state == "waiting" {
        return "waits for approval: approve or reject".to_owned();
    }
    match (device.renewal.as_deref(), device.repeated_hellos) {
        (Some("pending"), _) => {
            let key = device.renewal_key.as_deref().unwrap_or_default();
            format!("asks for a new certificate over {}: approve or reject", key.get(..12).unwrap_or(key))
        }
        (Some(other), _) => format!("renewal {other}"),
        (None, 0) => telemetry::drifted(device),
        (None, repeated) => format!("{repeated} repeated hellos: its folder may have been copied"),
    }
}

/// Writes a new file that only its owner reads; an existing one stays as it is. The file is made before the
/// content is asked for: what the control plane gives out once must have a place to go.
pub(super) fn write_new(path: &Path, content: impl FnOnce() -> Result<Vec<u8>, Failure>) -> Done {
    let failed = |e: std::io::Error| {
        let (code, advice) = match e.kind() {
            std::io::ErrorKind::AlreadyExists => (ErrorCode::AlreadyExists, "; name another file"),
            _ => (ErrorCode::StorageIo, ""),
        };
        Failure::new(code, format!("{} cannot be written: {e}{advice}", path.display()))
    };
    let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let mut file = file.map_err(failed)?;
    let written =
        content().and_then(|bytes| file.write_all(&bytes).and_then(|()| file.sync_all()).map_err(failed));
    if written.is_err() {
        drop(std::fs::remove_file(path));
    }
    written
}
