//! The commands that end: enrol, status, doctor, predict.

use super::{Output, client};
use crate::clock::Clock;
use crate::config::Config;
use crate::disk::{self, DiskError};
use crate::enrol::{Applicant, enrol as enrol_folder, read_claim};
use crate::folder::Folder;
use crate::program;
use crate::sensors::Sensors;
use crate::serial;
use crate::{Error, doctor, identity};
use flotilla_protocol::enrol::BoardSerial;
use flotilla_protocol::message::Verdict;
use flotilla_protocol::{DeviceId, ErrorCode, ModelName, limits};
use http::Method;
use serde_json::{Value, json};
use std::path::Path;

pub(super) async fn enrol(
    claim: &Path,
    dir: &Path,
    device: Option<DeviceId>,
    serial: Option<BoardSerial>,
    output: Output,
) -> Result<(), Error> {
    let claim = read_claim(claim)?;
    let folder = Folder::open(dir)?;
    let config = Config::read(&folder)?;
    let board = Sensors::new().board(&config.board);
    let serial = serial.or(config.serial).or_else(|| serial::of_machine(Path::new("/")));
    let applicant = Applicant { device, board, serial };
    let names = enrol_folder(&folder, &claim, applicant, &Clock::new(0)).await?;
    match output {
        Output::Json => println!("{}", json!(names)),
        Output::Text => {
            println!("enrolled as device {} of project {}", names.device, names.project);
            println!(
                "next: `flotilla-launcher --dir {0}` or `{1} run --dir {0}`, or its service",
                dir.display(),
                program::name()
            );
        }
    }
    Ok(())
}

pub(super) async fn status(dir: &Path, output: Output) -> Result<(), Error> {
    let status = match client::request(dir, Method::GET, "/status", "application/json", Vec::new()).await {
        Err(Error::NotRunning { .. }) => return not_running(dir, output),
        other => other?,
    };
    match output {
        Output::Json => println!("{status}"),
        Output::Text => print_status(&status),
    }
    Ok(())
}

/// What can be said without an agent.
fn not_running(dir: &Path, output: Output) -> Result<(), Error> {
    let names = if dir.is_dir() { identity::names(&Folder::open(dir)?)? } else { None };
    match (output, &names) {
        (Output::Json, _) => println!("{}", json!({ "running": false, "identity": names })),
        (Output::Text, Some(names)) => println!("device    {} of project {}", names.device, names.project),
        (Output::Text, None) => return Err(Error::NotEnrolled { folder: dir.to_owned() }),
    }
    Err(Error::NotRunning { folder: dir.to_owned() })
}

fn print_status(status: &Value) {
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    };
    let short =
        |value: &Value| value.as_str().map_or("-".to_owned(), |digest| digest.chars().take(12).collect());
    println!("device    {} of project {}", text(&status["device"]), text(&status["project"]));
    println!("agent     {}, {}", text(&status["agent"]), agent_text(status));
    let endpoint = text(&status["endpoint"]);
    let scheme = if endpoint.starts_with("unix:") { "" } else { "http://" };
    println!("endpoint  {scheme}{endpoint}");
    println!("broker    {}", text(&status["broker"]));
    if status["connected"].as_bool().unwrap_or(false) {
        println!("link      connected");
    } else {
        println!("link      not connected: {}", text(&status["connection_problem"]["detail"]));
    }
    if status["throttled"].as_bool().unwrap_or(false) {
        println!("heat      the board is too hot: predictions are slowed down");
    }
    println!("records   {} waiting for the cloud", text(&status["records_waiting"]));
    for (name, model) in status["models"].as_object().into_iter().flatten() {
        println!(
            "model     {name}: {}, release {}, slot {}",
            text(&model["phase"]),
            short(&model["confirmed"]),
            text(&model["slot"])
        );
        if !model["candidate"].is_null() {
            let (done, total) = (text(&model["bytes_done"]), text(&model["bytes_total"]));
            println!("          candidate {}, {done} of {total} bytes", short(&model["candidate"]));
        }
        if !model["failure"].is_null() {
            let failure = &model["failure"];
            println!(
                "          {} failed: {} [{}]",
                short(&failure["release"]),
                text(&failure["detail"]),
                text(&failure["code"])
            );
        }
    }
    print_feeds(status);
}

/// A line for each folder and stream.
fn print_feeds(status: &Value) {
    let number = |feed: &Value, key: &str| feed[key].as_u64().unwrap_or(0);
    let problem = |feed: &Value| {
        let problem =
            [&feed["problem"], &feed["result_problem"]].into_iter().find(|problem| problem.is_object());
        let text = |problem: &Value| {
            let text = |key: &str| problem[key].as_str().unwrap_or_default().to_owned();
            format!("; {} [{}]", text("detail"), text("code"))
        };
        problem.map(text).unwrap_or_default()
    };
    for (name, folder) in status["folders"].as_object().into_iter().flatten() {
        let (predicted, refused) = (number(folder, "predicted"), number(folder, "refused"));
        let waiting = number(folder, "waiting");
        println!(
            "folder    {name}: {predicted} predicted, {refused} refused, {waiting} waiting{}",
            problem(folder)
        );
    }
    for (name, stream) in status["streams"].as_object().into_iter().flatten() {
        let state = if stream["live"].as_bool().unwrap_or(false) { "live" } else { "no frames" };
        let (predicted, dropped) = (number(stream, "predicted"), number(stream, "dropped"));
        println!("stream    {name}: {state}, {predicted} predicted, {dropped} dropped{}", problem(stream));
    }
}

/// Where the agent comes from, and where its own upgrade stands.
fn agent_text(status: &Value) -> String {
    let place = match status["agent_slot"].as_str() {
        Some(slot) => format!("slot {slot}"),
        None => "as installed".to_owned(),
    };
    let upgrade = &status["agent_upgrade"];
    let failure = upgrade["failure"]["detail"]
        .as_str()
        .map(|detail| format!("; {} [{}]", detail, upgrade["failure"]["code"].as_str().unwrap_or_default()));
    let phase = upgrade["phase"].as_str().filter(|phase| *phase != "idle");
    let phase = phase.map(|phase| format!(", upgrade {phase}")).unwrap_or_default();
    format!("{place}{phase}{}", failure.unwrap_or_default())
}

pub(super) async fn doctor(dir: &Path, output: Output) -> Result<(), Error> {
    // Opening a folder that is not there would make it.
    if !dir.is_dir() {
        return Err(Error::NotEnrolled { folder: dir.to_owned() });
    }
    let diagnosis = doctor::examine(&Folder::open(dir)?).await;
    match output {
        Output::Json => println!("{}", json!(diagnosis)),
        Output::Text => print!("{}", doctor::text(&diagnosis)),
    }
    match diagnosis.count(Verdict::Fail) {
        0 => Ok(()),
        fails => Err(Error::Sick { fails }),
    }
}

pub(super) async fn predict(model: &ModelName, file: &Path, dir: &Path) -> Result<(), Error> {
    let missing = || DiskError::Io { path: file.to_owned(), source: std::io::ErrorKind::NotFound.into() };
    let input = match disk::read(file, limits::PREDICT_INPUT) {
        Err(DiskError::TooLarge { path, max }) => {
            return Err(Error::Refused {
                server: "the agent".to_owned(),
                code: ErrorCode::TooLarge,
                detail: format!("{} is larger than the {max} bytes of an input", path.display()),
            });
        }
        read => read?.ok_or_else(missing)?,
    };
    let content_type = match input.as_slice() {
        [0x89, b'P', b'N', b'G', ..] => "image/png",
        [0xFF, 0xD8, 0xFF, ..] => "image/jpeg",
        _ => "application/octet-stream",
    };
    let path = format!("/predict/{model}");
    let answer = client::request(dir, Method::POST, &path, content_type, input).await?;
    println!("{answer}");
    Ok(())
}
