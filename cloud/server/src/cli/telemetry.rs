//! What devices tell, for people: `device show`, `device telemetry` and `model telemetry`.

use super::table;
use crate::http::api::{
    ClassCount, DeviceModelView, DeviceTelemetryView, DeviceView, DriftView, NpuView, ReleaseTelemetryView,
};
use flotilla_protocol::baseline::Shift;
use std::time::{Duration, SystemTime};

/// Characters of the longest bar.
const BAR: u128 = 24;
/// Labels of which a bar is shown.
const LABELS: usize = 12;

/// Everything that is known of one device.
pub(super) fn print_device(device: &DeviceView) {
    let link = if device.connected { "online" } else { "offline" };
    let [agent, board, arch] = [&device.agent, &device.board, &device.arch].map(|text| table::line(text));
    println!("device {} {link}, {agent} on {board} ({arch})", device.id);
    let written = device.labels.iter().cloned();
    let written = written.chain(device.attributes.iter().map(|(key, value)| format!("{key}={value}")));
    let facts = [
        ("name", device.name.clone()),
        ("labels", Some(written.collect::<Vec<_>>().join(" ")).filter(|labels| !labels.is_empty())),
    ];
    for (name, value) in facts {
        value.iter().for_each(|value| println!("  {name:<13} {}", table::line(value)));
    }
    let facts = [
        ("temperature", device.temperature_c.map(|celsius| format!("{celsius:.1} °C"))),
        ("cpu", device.cpu_percent.map(|percent| format!("{percent:.1} %"))),
        ("agent memory", device.rss_bytes.map(bytes)),
        ("disk free", device.disk_free_bytes.map(bytes)),
        ("network in", device.received_bytes.map(bytes)),
        ("network out", device.network_sent_bytes.map(bytes)),
    ];
    for (name, value) in facts {
        println!("  {name:<13} {}", value.unwrap_or_else(|| "not told".into()));
    }
    device.npus.iter().for_each(|unit| println!("  {:<13} {}", "npu", npu(unit)));
    device.models.iter().for_each(print_model);
}

fn print_model(model: &DeviceModelView) {
    let release = model.release.as_deref().map_or("none", |release| release.get(..12).unwrap_or(release));
    println!("model {} {}, release {release}", model.model, model.state);
    if model.bytes_patches > 0 {
        let (patches, rebuilt) = (bytes(model.bytes_patches), bytes(model.bytes_rebuilt));
        println!("  {:<13} {patches} of patches instead of {rebuilt}", "fetched");
    }
    println!("  {:<13} {} answered, {} failed", "predictions", model.predictions, model.failures);
    println!("  {:<13} {}", "latency", latency([model.p50_us, model.p95_us, model.p99_us]));
    println!("  {:<13} {}", "drift", model.drift.as_ref().map_or_else(unknown, drift));
    print_counts(&model.classes, &model.confidence);
}

/// The models whose inputs or answers have shifted.
pub(super) fn drifted(device: &DeviceView) -> String {
    let shifted = |model: &DeviceModelView| {
        let drift = model.drift.as_ref().filter(|drift| drift.shift != Shift::Stable.as_str())?;
        Some(format!("{}: {} {:.2} by {}", model.model, drift.shift, drift.score, drift.cause))
    };
    device.models.iter().filter_map(shifted).collect::<Vec<_>>().join("; ")
}

/// The recent past of one device.
pub(super) fn print_telemetry(telemetry: &DeviceTelemetryView) {
    let rows = telemetry.history.iter().map(|point| {
        vec![
            ago(point.at_ms),
            format!("{:.1}", point.cpu_percent),
            bytes(point.rss_bytes),
            point.predictions.to_string(),
            point.failures.to_string(),
            micros(point.p50_us),
            micros(point.p95_us),
            micros(point.p99_us),
            point.drift.map(|score| format!("{score:.3}")).unwrap_or_default(),
        ]
    });
    let header = ["TAKEN", "CPU %", "MEMORY", "PREDICTIONS", "FAILED", "P50", "P95", "P99", "DRIFT"];
    table::print(&header, &rows.collect::<Vec<_>>());
    for event in &telemetry.events {
        let model = event.model.as_deref().unwrap_or_default();
        let code = event.code.as_ref().map(|code| format!(" [{code}]")).unwrap_or_default();
        let detail = table::line(&event.detail);
        println!("{}: {} {model} {detail}{code}", ago(event.at_ms), event.kind);
    }
}

/// What the fleet says of a model, a release each.
pub(super) fn print_releases(releases: &[ReleaseTelemetryView]) {
    releases.iter().for_each(print_release);
}

pub(super) fn print_release(release: &ReleaseTelemetryView) {
    let version = release.version.map_or_else(|| "unknown version".into(), |version| format!("v{version}"));
    let digest = release.release.get(..12).unwrap_or(&release.release);
    println!("release {digest} {version}, served by {} devices", release.devices);
    println!("  {:<13} {} answered, {} failed", "predictions", release.predictions, release.failures);
    println!("  {:<13} {}", "latency", latency([release.p50_us, release.p95_us, release.p99_us]));
    let (told, silent) = (release.stable + release.moderate + release.major, release.devices);
    println!(
        "  {:<13} {} stable, {} moderate, {} major, {} not told",
        "drift",
        release.stable,
        release.moderate,
        release.major,
        silent.saturating_sub(told)
    );
    if let (Some(device), Some(worst)) = (&release.worst_device, &release.worst) {
        println!("  {:<13} {device}: {}", "farthest off", drift(worst));
    }
    print_counts(&release.classes, &release.confidence);
}

fn print_counts(classes: &[ClassCount], confidence: &[u64]) {
    if classes.is_empty() {
        return;
    }
    let labels = classes.iter().take(LABELS).map(|class| (class.label.clone(), class.count));
    print_bars("answers", labels.collect());
    let tenths = confidence.iter().enumerate().filter(|(_, count)| **count > 0);
    let tenth = |(bin, count): (usize, &u64)| {
        (format!("{:.1}-{:.1}", bin as f64 / 10.0, (bin + 1) as f64 / 10.0), *count)
    };
    print_bars("confidence", tenths.map(tenth).collect());
}

fn print_bars(title: &str, bars: Vec<(String, u64)>) {
    let longest = bars.iter().map(|(_, count)| *count).max().unwrap_or_default();
    let width = bars.iter().map(|(name, _)| name.chars().count()).max().unwrap_or_default();
    let mut title = Some(title);
    for (name, count) in bars {
        let (name, bar) = (table::line(&name), bar(count, longest));
        println!("  {:<13} {name:<width$} {bar} {count}", title.take().unwrap_or_default());
    }
}

/// Of a device that counts as high as it likes, too.
fn bar(count: u64, longest: u64) -> String {
    let length = (u128::from(count) * BAR).div_ceil(u128::from(longest.max(1))).min(BAR);
    "#".repeat(length as usize)
}

fn drift(drift: &DriftView) -> String {
    format!(
        "{:.3} {}, most by {} (inputs {:.3}, classes {:.3}, confidence {:.3}; last {} predictions)",
        drift.score,
        drift.shift,
        drift.cause,
        drift.inputs,
        drift.classes,
        drift.confidence,
        drift.predictions
    )
}

fn unknown() -> String {
    "not told: the release has no baseline, or too few predictions were made".into()
}

fn npu(npu: &NpuView) -> String {
    let said = [
        npu.utilisation_percent.map(|percent| format!("{percent} % used")),
        npu.memory_used_mb.zip(npu.memory_total_mb).map(|(used, total)| format!("{used} of {total} MB")),
        npu.temperature_c.map(|celsius| format!("{celsius} °C")),
        npu.power_w.map(|watts| format!("{watts:.1} W")),
        npu.health.clone(),
    ];
    let said: Vec<String> = said.into_iter().flatten().collect();
    format!("{} {}", table::line(&npu.chip), said.join(", "))
}

fn latency(quantiles: [Option<u64>; 3]) -> String {
    let [p50, p95, p99] = quantiles.map(micros);
    if p50.is_empty() { "not told".into() } else { format!("p50 <= {p50}, p95 <= {p95}, p99 <= {p99}") }
}

fn micros(us: Option<u64>) -> String {
    us.map(|us| format!("{:.3} ms", us as f64 / 1e3)).unwrap_or_default()
}

fn bytes(count: u64) -> String {
    format!("{:.1} MB", count as f64 / 1e6)
}

fn ago(at_ms: u64) -> String {
    let at = SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(at_ms));
    let seconds =
        at.and_then(|at| SystemTime::now().duration_since(at).ok()).map_or(0, |since| since.as_secs());
    format!("{seconds} s ago")
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests fail by panicking")]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_as_long_as_its_share_whatever_was_counted() {
        let lengths =
            [(0, 10), (1, 1_000), (5, 10), (10, 10), (0, 0), (u64::MAX / 2, u64::MAX), (u64::MAX, u64::MAX)];
        assert_eq!(lengths.map(|(count, longest)| bar(count, longest).len()), [0, 1, 12, 24, 0, 12, 24]);
    }

    #[test]
    fn a_chip_is_named_without_what_would_move_the_cursor() {
        let unit =
            NpuView { chip: "310B4\x1b[2J".into(), ..serde_json::from_str("{\"chip\":\"\"}").unwrap() };
        assert_eq!(npu(&unit).trim_end(), "310B4\u{fffd}[2J");
    }
}
