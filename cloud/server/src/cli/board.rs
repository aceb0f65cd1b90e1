//! `flotilla board …`: what boards cost, predicted, measured and corrected.

use super::args::{Board, Target};
use super::commands::{Done, Out, client, encode, write_new};
use super::exit::Failure;
use super::{read_file, table};
use crate::http::api::{BoardDetailView, BoardView, PredictionView};
use crate::progress::Progress;
use flotilla_boards::{Calibrated, CostTable, calibrate};
use flotilla_protocol::ErrorCode;
use flotilla_protocol::limits::KIB;
use std::io::Read;
use std::time::Duration;

/// Largest table that is read.
const TABLE: u64 = 256 * KIB as u64;

pub(super) fn run(command: Board, out: &Out) -> Done {
    match command {
        Board::List(target) => {
            let all: Vec<BoardView> = client(&target)?.get("/api/v1/boards")?;
            out.show(&all, |all| print(all))
        }
        Board::Show { name, target } => {
            let board: BoardDetailView =
                client(&target)?.get(&format!("/api/v1/boards/{}", encode(&name)))?;
            out.show(&board, show)
        }
        Board::Predict { model, version, board, target } => {
            let version = version.map(|version| format!("&version={version}")).unwrap_or_default();
            let path =
                format!("/api/v1/boards/{}/prediction?model={}{version}", encode(&board), encode(&model));
            let prediction: PredictionView = client(&target)?.get(&path)?;
            out.show(&prediction, print_prediction)
        }
        Board::Measure { name, seconds, file, target } => {
            let measured = measure(&name, Duration::from_secs(seconds))?;
            eprintln!(
                "measured by {} graphs; on those left out of the fit predictions are {:.0} % off in the middle, {:.0} % at worst",
                measured.graphs,
                measured.median_error * 100.0,
                measured.worst_error * 100.0
            );
            let text = measured.table.to_text().map_err(|e| Failure::new(ErrorCode::Internal, e))?;
            match file {
                Some(file) => {
                    write_new(&file, || Ok(text.into_bytes()))?;
                    println!("{}: what operators cost on {name}", file.display());
                    Ok(())
                }
                None => keep(&name, text, &target, out),
            }
        }
        Board::Keep { file, target } => {
            let mut text = String::new();
            let read = read_file(&file)?.take(TABLE + 1).read_to_string(&mut text);
            let invalid = |e: String| {
                Failure::new(ErrorCode::InvalidInput, format!("{} is no cost table: {e}", file.display()))
            };
            read.map_err(|e| invalid(e.to_string()))?;
            let table = CostTable::parse(&text).map_err(|e| invalid(e.to_string()))?;
            keep(&table.board, text, &target, out)
        }
    }
}

fn measure(name: &str, time: Duration) -> Result<Calibrated, Failure> {
    let progress = Progress::new();
    progress.stage("measure", "runs generated graphs on one thread of this machine");
    let told = progress.clone();
    let measured = calibrate(name, time, move |done, all| {
        told.update("measure", done as u64, Some(all as u64), "graphs");
    });
    progress.done("measure", "done");
    measured.map_err(|e| Failure::new(e.code(), e.detail()))
}

fn keep(name: &str, text: String, target: &Target, out: &Out) -> Done {
    let path = format!("/api/v1/boards/{}/table", encode(name));
    let board: BoardView = client(target)?.post_bytes(&path, Some(text.len() as u64), text.as_bytes())?;
    out.show(&board, |board| print(std::slice::from_ref(board)))
}

fn print(boards: &[BoardView]) {
    let row = |board: &BoardView| {
        let told = board.correction.as_ref().filter(|correction| correction.reports > 0);
        let error = told.and_then(|correction| correction.median_error);
        vec![
            board.name.clone(),
            board.title.clone(),
            board.costs.clone().unwrap_or_else(|| "unknown".into()),
            told.map_or_else(|| "-".into(), |correction| format!("x {:.2}", correction.scale)),
            told.map_or(0, |correction| correction.reports).to_string(),
            error.map_or_else(|| "-".into(), |error| format!("{:.0} %", (error - 1.0) * 100.0)),
        ]
    };
    let rows: Vec<_> = boards.iter().map(row).collect();
    table::print(&["BOARD", "TITLE", "COSTS", "DEVICES SAY", "REPORTS", "ERROR"], &rows);
}

fn show(board: &BoardDetailView) {
    print(std::slice::from_ref(&board.board));
    if let Some(spread) = board.board.spread {
        println!(
            "without devices' word predictions are within a factor of {spread:.2} nine times out of ten"
        );
    }
    let hardware = &board.profile["hardware"];
    for (key, unit) in [("arch", ""), ("cpus", " cores"), ("memory_mb", " MiB"), ("clock_mhz", " MHz")] {
        if !hardware[key].is_null() {
            println!("  {key:<14} {}{unit}", hardware[key].to_string().trim_matches('"'));
        }
    }
    let kinds = board.table["kinds"].as_object();
    let rows: Vec<Vec<String>> = kinds
        .into_iter()
        .flatten()
        .map(|(kind, cost)| {
            let parts = cost.as_object().into_iter().flatten();
            let parts = parts.filter_map(|(unit, ns)| Some(format!("{unit} {:.3}", ns.as_f64()?)));
            vec![kind.clone(), parts.collect::<Vec<_>>().join(", ")]
        })
        .collect();
    if !rows.is_empty() {
        println!();
        table::print(&["OPERATOR", "NANOSECONDS A UNIT OF WORK"], &rows);
    }
}

fn print_prediction(prediction: &PredictionView) {
    println!(
        "{} v{} on {}: {:.3} ms a prediction on one thread, between {:.3} and {:.3} ms nine times out of ten",
        prediction.model,
        prediction.version,
        prediction.board,
        prediction.ms,
        prediction.low_ms,
        prediction.high_ms
    );
    let told = match prediction.reports {
        0 => "no device has said how long it takes".to_owned(),
        reports => format!("corrected by {reports} reports of devices"),
    };
    println!("what operators cost there is {}; {told}", prediction.costs);
    if prediction.unknown > 0.0 {
        println!("{:.0} % of it are operators of which nothing is known", prediction.unknown * 100.0);
    }
}
