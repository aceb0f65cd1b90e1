//! `flotilla device twin`: both sides of a device, for people.

use super::table;
use crate::http::api::{TwinModelView, TwinView};

/// Prints the models on both sides, and then what differs.
pub(super) fn print(twin: &TwinView) {
    println!("device {}: document {}, answered {}", twin.device, twin.version, answered(twin));
    if !twin.models.is_empty() {
        let header = ["MODEL", "WANTED", "RUNNING", "PHASE", "SLOT", ""];
        table::print(&header, &twin.models.iter().map(row).collect::<Vec<_>>());
    }
    for one in &twin.differences {
        let [desired, reported] =
            [&one.desired, &one.reported].map(|side| side.as_deref().map_or("none", |text| shorter(text)));
        println!("{}: {desired} wanted, {reported} reported: {}", one.at, table::line(&one.why));
    }
    if twin.differences.is_empty() {
        println!("the device is as it should be");
    }
}

fn answered(twin: &TwinView) -> String {
    if twin.reported_version == 0 { "none".into() } else { twin.reported_version.to_string() }
}

fn row(model: &TwinModelView) -> Vec<String> {
    let release = |digest: &Option<String>, version: Option<u32>| match (digest, version) {
        (Some(digest), Some(version)) => format!("v{version} {}", shorter(digest)),
        (Some(digest), None) => shorter(digest).to_owned(),
        (None, _) => "none".to_owned(),
    };
    vec![
        model.model.clone(),
        release(&model.wanted, model.wanted_version),
        release(&model.running, model.running_version),
        model.phase.clone(),
        model.slot.clone().unwrap_or_default(),
        if model.differs { "differs".into() } else { String::new() },
    ]
}

/// The beginning of a digest; other texts are as short already.
fn shorter(text: &str) -> &str {
    text.get(..12).unwrap_or(text)
}
