//! What somebody sees who looks at a fleet.

use super::*;
use crate::http::api::{BoardCount, ReleaseCounts, WaveCounts};

const NOW: u64 = 1_800_000_000_000;
const PAGE: Size = Size { columns: 120, rows: usize::MAX };

fn concern(device: &str, reason: &str) -> ConcernView {
    ConcernView {
        device: device.into(),
        name: None,
        reason: reason.into(),
        online: false,
        last_seen_ms: Some(NOW - 90_000),
        model: None,
        code: None,
        drift: None,
    }
}

fn wave(state: &str, size: u32, counts: WaveCounts) -> WaveView {
    WaveView { state: state.into(), size, counts, devices: Vec::new() }
}

fn rollout() -> RolloutView {
    let done = WaveCounts { confirmed: 10, ..WaveCounts::default() };
    let under_way = WaveCounts { pending: 40, sent: 20, confirmed: 30, failed: 10, ..WaveCounts::default() };
    let waves = [wave("done", 10, done), wave("running", 100, under_way)];
    serde_json::from_value(serde_json::json!({
        "id": "rollout-1", "model": "digits", "release": "ef".repeat(32), "state": "running", "reason": "",
        "waves": waves, "started_at_ms": 1, "finished_at_ms": null,
    }))
    .unwrap()
}

fn fleet() -> FleetSummaryView {
    let release =
        |digest: &str, version, devices| ReleaseCounts { release: digest.repeat(32), version, devices };
    let worst = vec![
        ConcernView {
            name: Some("Gate 7".into()),
            model: Some("digits".into()),
            code: Some("probe_too_slow".into()),
            ..concern("gate-7", "failed")
        },
        ConcernView {
            online: true,
            drift: Some(0.314),
            model: Some("digits".into()),
            ..concern("gate-8", "drifted")
        },
        ConcernView { last_seen_ms: Some(NOW - 3 * 86_400_000 - 7_200_000), ..concern("gate-9", "offline") },
        ConcernView { last_seen_ms: None, ..concern("gate-10", "offline") },
    ];
    FleetSummaryView {
        at_ms: NOW,
        devices: 111,
        decommissioned: 2,
        online: 100,
        states: [("confirmed".to_owned(), 109), ("failed".into(), 1), ("revoked".into(), 1)].into(),
        boards: vec![BoardCount { board: "raspberry-pi-5".into(), devices: 110 }],
        other_boards: 0,
        models: vec![ModelCounts {
            model: "digits".into(),
            devices: 110,
            none: 1,
            changing: 70,
            releases: vec![release("ab", Some(3), 69), release("ef", None, 40)],
            other_releases: 0,
        }],
        drifted: 1,
        worst,
        rollouts: vec![rollout()],
        sent_bytes: 5_000_000,
        received_bytes: 1_500,
        messages: 700,
    }
}

fn texts(lines: &[Line]) -> Vec<&str> {
    lines.iter().map(|line| line.text.as_str()).collect()
}

#[test]
fn a_whole_frame_says_what_there_is_to_say() {
    let lines = frame(&fleet(), None, None, PAGE);
    let wanted = [
        "08:00:00 UTC  111 devices, 100 online, 10 offline, 2 decommissioned",
        "700 messages, 1.5 kB from devices, 5.0 MB to devices since the control plane started",
        "STATES  109 confirmed, 1 failed, 1 revoked",
        "BOARDS  110 raspberry-pi-5",
        "MODEL digits  110 devices, 70 changing",
        "  v3      abababababab      69  62 % ###################",
        "  unknown efefefefefef      40  36 % ###########",
        "  none                       1   0 % #",
        "ROLLOUT rollout-1 digits efefefefefef  40/110 running",
        "  wave 1   done     [##############################] 10/10",
        "  wave 2   running  [#########!!!>>>>>>............] 30/100, 10 failed",
        "LOOK AT",
        "  gate-7 (Gate 7)  failed       digits probe_too_slow offline for 1m 30s",
        "  gate-8           drifted      digits by 0.31",
        "  gate-9           offline      offline for 3days 2h",
        "  gate-10          offline      never connected",
    ];
    assert_eq!(texts(&lines), wanted);
    let bad: Vec<_> =
        lines.iter().filter(|line| line.tone == Tone::Bad).map(|line| &line.text[..8]).collect();
    assert_eq!(bad, ["  wave 2", "  gate-7"]);
}

#[test]
fn rates_come_from_two_answers_and_not_across_a_restart_of_the_control_plane() {
    let before = fleet();
    let now = FleetSummaryView { at_ms: NOW + 2_000, messages: 705, received_bytes: 3_500, ..fleet() };
    let rates = Rates::between(&before, &now);
    let lines = frame(&now, rates, Some("no answer for 4 s"), PAGE);
    assert_eq!(lines[1].text, "2.5 messages/s, 1.0 kB/s from devices, 0 B/s to devices");
    assert_eq!((lines[2].text.as_str(), lines[2].tone), ("no answer for 4 s", Tone::Bad));
    assert_eq!(Rates::between(&now, &FleetSummaryView { at_ms: NOW + 9_000, ..fleet() }), None);
    assert_eq!(Rates::between(&before, &before), None);
}

#[test]
fn nothing_that_a_device_says_commands_the_terminal() {
    let evil = "\u{1b}[2J\u{9b}1m\r\nx";
    let mut view = fleet();
    view.boards[0].board = evil.into();
    view.models[0].model = evil.into();
    view.rollouts[0].reason = evil.into();
    view.worst[0].device = evil.into();
    view.worst[0].name = Some(evil.into());
    view.worst[0].code = Some(evil.into());
    for rows in 0..40 {
        for line in frame(&view, None, Some(evil), Size { rows, ..PAGE }) {
            assert!(!line.text.chars().any(char::is_control), "{:?}", line.text);
        }
    }
}

#[test]
fn a_frame_fits_into_every_terminal_and_every_part_has_its_share() {
    let mut view = fleet();
    view.worst = (0..40).map(|n| concern(&format!("gate-{n}"), "offline")).collect();
    for columns in 0..130 {
        for rows in 0..60 {
            let lines = frame(&view, None, Some("a problem"), Size { columns, rows });
            assert!(lines.len() <= rows, "{columns} x {rows}");
            assert!(lines.iter().all(|line| line.text.chars().count() <= columns), "{columns} x {rows}");
        }
    }
    let lines = frame(&view, None, None, Size { columns: 80, rows: 16 });
    assert_eq!(lines.len(), 16);
    for part in ["STATES", "MODEL", "ROLLOUT", "LOOK AT", "  … "] {
        assert!(lines.iter().any(|line| line.text.starts_with(part)), "{part}: {lines:?}");
    }
    let narrow = frame(&view, None, None, Size { columns: 10, rows: 1 });
    assert_eq!(texts(&narrow), ["08:00:00 …"]);
}

#[test]
fn devices_that_wait_for_approval_are_told_apart() {
    let mut fleet = fleet();
    fleet.devices += 3;
    fleet.states.insert("waiting".into(), 3);
    let lines = frame(&fleet, None, None, PAGE);
    let wanted = "08:00:00 UTC  114 devices, 100 online, 10 offline, 3 wait for approval, 2 decommissioned";
    assert_eq!(texts(&lines)[0], wanted);
}

#[test]
fn an_empty_fleet_is_two_lines() {
    let lines = frame(&FleetSummaryView::default(), None, None, PAGE);
    let wanted = [
        "00:00:00 UTC  0 devices, 0 online, 0 offline",
        "0 messages, 0 B from devices, 0 B to devices since the control plane started",
    ];
    assert_eq!(texts(&lines), wanted);
}

#[test]
fn a_single_failure_among_many_devices_is_seen_in_the_bar() {
    let counts = WaveCounts { confirmed: 9_999, failed: 1, ..WaveCounts::default() };
    let line = wave_line(1, &wave("running", 10_000, counts));
    assert_eq!(line.text, "  wave 1   running  [#############################!] 9999/10000, 1 failed");
}
