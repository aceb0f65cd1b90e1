//! `flotilla shadow …`: a release beside the confirmed one, started, stopped and compared.

use super::args::{OnDevices, Shadow};
use super::commands::{Done, Out, client, encode};
use super::{exit, table};
use crate::http::api::{ShadowFiguresView, ShadowRequest, ShadowStop, ShadowView};

pub(super) fn run(command: Shadow, out: &Out) -> Done {
    let path = |model: &str| format!("/api/v1/models/{}/shadow", encode(model));
    let view: ShadowView = match command {
        Shadow::Start { model, release, on, share, target } => {
            let request = ShadowRequest { release, devices: named(on), share_per_mille: share };
            client(&target)?.post(&path(&model), &request)?
        }
        Shadow::Stop { model, on, target } => {
            client(&target)?.post(&format!("{}/stop", path(&model)), &ShadowStop { devices: named(on) })?
        }
        Shadow::Show { model, target } => client(&target)?.get(&path(&model))?,
    };
    out.show(&view, print)?;
    exit::of_all(&view.failed)
}

fn named(on: OnDevices) -> Option<Vec<String>> {
    (!on.all).then_some(on.devices)
}

fn print(view: &ShadowView) {
    if view.devices.is_empty() {
        println!("no release runs beside the confirmed one of {}", view.model);
        return;
    }
    let mut rows = Vec::new();
    for device in &view.devices {
        let note = device.failure.as_ref().map(|f| format!("{} [{}]", f.detail, f.code)).unwrap_or_default();
        let release = device.release.as_ref().or(device.figures.as_ref().and_then(|f| f.release.as_ref()));
        rows.push(row(&device.device, &device.state, release, device.figures.as_ref(), note));
    }
    if view.devices_left_out > 0 {
        rows.push(vec![format!("and {} more", view.devices_left_out)]);
    }
    for total in &view.totals {
        let against = total.against.as_ref().map(|against| format!("against {}", short(Some(against))));
        rows.push(row("TOTAL", "", total.release.as_ref(), Some(total), against.unwrap_or_default()));
    }
    let header = [
        "DEVICE",
        "STATE",
        "RELEASE",
        "COMPARED",
        "AGREEMENT",
        "FAILED",
        "SKIPPED",
        "CONFIDENCE",
        "P50 us",
        "P95 us",
        "NOTE",
    ];
    table::print(&header, &rows);
    println!(
        "CONFIDENCE, P50 and P95: the confirmed release / the shadow, on the inputs that both answered."
    );
}

fn row(
    name: &str,
    state: &str,
    release: Option<&String>,
    figures: Option<&ShadowFiguresView>,
    note: String,
) -> Vec<String> {
    let mut row = vec![name.to_owned(), state.to_owned(), short(release)];
    let Some(figures) = figures else {
        row.extend(std::iter::repeat_n(String::new(), 7));
        row.push(note);
        return row;
    };
    let pair = |one: Option<String>, two: Option<String>| match (one, two) {
        (Some(one), Some(two)) => format!("{one} / {two}"),
        _ => String::new(),
    };
    let score = |score: Option<f64>| score.map(|score| format!("{score:.3}"));
    let us = |us: Option<u64>| us.map(|us| us.to_string());
    row.extend([
        figures.compared.to_string(),
        figures.agreement.map(|share| format!("{:.1} %", share * 100.0)).unwrap_or_default(),
        figures.failures.to_string(),
        figures.skipped.to_string(),
        pair(score(figures.confirmed_confidence), score(figures.shadow_confidence)),
        pair(us(figures.confirmed_p50_us), us(figures.shadow_p50_us)),
        pair(us(figures.confirmed_p95_us), us(figures.shadow_p95_us)),
        note,
    ]);
    row
}

fn short(digest: Option<&String>) -> String {
    digest.map(|digest| digest.chars().take(12).collect()).unwrap_or_default()
}
