//! What an operator may write, what it means on a device that lacks half of everything, and what is refused and how.

use super::*;
use crate::roster::{Row, testing};
use std::sync::Arc;
use std::time::{Duration, Instant};

const NOW: u64 = 1_800_000_000_000;

fn on(row: &Row, text: &str) -> bool {
    let expression = Expression::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
    expression.matches(&Asked { row, now_ms: NOW, in_group: &|number| number == 0 })
}

fn refused(text: &str) -> ExpressionError {
    Expression::parse(text).map(|_| ()).expect_err(text)
}

#[test]
fn what_is_known_of_a_device_can_be_asked() {
    let row = testing::full_row(NOW);
    for yes in [
        "true",
        r#"id == "gate-7""#,
        r#"name == "Gate 7" && state == "failed""#,
        "!online && seen_s == 60 && enrolled_s == 3600",
        r#"board == "raspberry-pi-5" && arch == "aarch64" && os.startsWith("Debian") && agent == "0.1.0""#,
        r#""tract" in engines && cpus == 4 && memory >= 8 * 1024 * 1024 * 1024 && trust == 2"#,
        r#""canary" in labels && !("lab" in labels) && size(labels) == 2"#,
        r#"attributes.site == "berlin" && attributes["rack-no"] == "7" && "site" in attributes"#,
        r#"has(attributes.site) && !has(attributes.owner)"#,
        r#"models.digits.phase == "failed" && models["digits"].version == 3"#,
        r#"models.digits.wanted_version == 4 && !models.digits.confirmed && models.digits.failure == "probe_too_slow""#,
        "models.digits.drift > 0.24 && models.digits.p95_ms < 100 && models.digits.predictions == 10",
        r#"models.digits.release.startsWith("ab") && has(models.digits) && !has(models.faces)"#,
        "telemetry.cpu > 79.5 && telemetry.temperature == 61.5 && telemetry.throttled && telemetry.age_s == 30",
        "telemetry.memory_free == memory - telemetry.memory_used && telemetry.disk_free < 1000000",
        r#"models.exists(m, models[m].phase == "failed") && labels.all(l, size(l) > 2)"#,
        r#"labels.exists_one(l, l.contains("ana")) && ["berlin", "paris"].exists(s, s == attributes.site)"#,
        r#"attributes.site in ["berlin", "paris"] && 1 in [1, 2.5]"#,
        r#"(online ? cpus : 7) == 7 && 7 / 2 == 3 && 7.0 / 2 == 3.5 && -7 % 4 == -3"#,
        r#""lab" in groups && !("other" in groups)"#,
        "id == 'gate-7' // a remark\n && true",
    ] {
        assert!(on(&row, yes), "{yes}");
        assert!(!on(&row, &format!("!({yes}\n)")), "not {yes}");
    }
}

#[test]
fn what_a_device_lacks_never_matches_and_never_fails_the_search() {
    let row = testing::bare_row(NOW);
    for lacking in [
        r#"name == "x""#,
        r#"attributes.site == "berlin""#,
        "seen_s > 5",
        "cpus > 1",
        "telemetry.cpu > 0",
        r#"models.digits.phase == "failed""#,
        "models.digits.drift > 0.1",
        "1 / 0 == 1",
        "9223372036854775807 + 1 > 0",
        r#"["berlin"].exists(s, s == attributes.site)"#,
        r#"id in [attributes.site]"#,
    ] {
        assert!(!on(&row, lacking), "{lacking}");
        assert!(!on(&row, &format!("!({lacking})")), "nor its opposite: {lacking}");
        assert!(on(&row, &format!("{lacking} || true")) && on(&row, &format!("true || {lacking}")));
        assert!(on(&row, &format!("!({lacking} && false)")) && on(&row, &format!("!(false && {lacking})")));
    }
    assert!(on(
        &row,
        "size(labels) == 0 && size(models) == 0 && !has(telemetry.cpu) && !has(models.digits.drift)"
    ));
    assert!(on(&row, "labels.all(l, false) && !labels.exists(l, true)"));
}

#[test]
fn mistakes_are_named_where_they_are_with_what_there_is() {
    for (text, at, says) in [
        (r#"lables == "x""#, 1, "there is no variable lables; there are id, name"),
        ("online && telemetry.cpus > 1", 20, "telemetry has no field cpus; it has cpu"),
        (r#"models.digits.state == "x""#, 14, "a model has no field state; it has release"),
        ("online && cpus", 11, "true or false"),
        (r#"cpus == "four""#, 9, "a number"),
        ("id", 1, "true or false"),
        (r#"id + "x" == "y""#, 4, "only numbers"),
        ("labels == 1", 1, "a list"),
        ("groups == 1", 1, "in groups"),
        ("cpus in groups", 1, "a group is named by its text"),
        (r#""No Group" in groups"#, 1, "group id"),
        ("models.map(m, m) == 1", 8, "lists cannot be made"),
        (r#"id.matches("x")"#, 11, "there is no matches"),
        ("labels[0] == \"x\"", 8, "a text"),
        ("telemetry == 1", 1, "fields of its own"),
        ("online &&", 10, ""),
        ("\"unended", 1, ""),
        ("", 1, "empty"),
        ("null == 1", 1, "has("),
        ("[1, \"a\"] == 1", 5, "one kind"),
        ("online && {1: 2}", 11, "maps cannot"),
    ] {
        let error = refused(text);
        assert!(error.what.contains(says), "{text}: {error}");
        let near = error.at.abs_diff(at);
        assert!(near <= 9, "{text}: at {} and not {at}: {error}", error.at);
        assert!(error.to_string().contains("at character"), "{error}");
    }
}

#[test]
fn hostile_expressions_end_at_once_and_with_an_error() {
    let many = |part: &str, times: usize| part.repeat(times);
    // The parser takes pairs of these away.
    for pairs in [format!("{}online", many("!", 900)), format!("{}1 == 1", many("-", 900))] {
        drop(Expression::parse(&pairs));
    }
    for hostile in [
        many("(", LENGTH),
        format!("{}online{}", many("(", 400), many(")", 400)),
        format!("models{}", many(".a", 500)),
        format!("{}1{}", many("[", 500), many("]", 500)),
        many("{", LENGTH),
        format!("1{} > 0", many("+1", 500)),
        format!("{}online", many("online?online:", 70)),
        many("\"", LENGTH),
        many("\\", LENGTH),
        many("a.b(", 250),
        many("online || ", 100),
        "models.exists(a, models.exists(b, a == b))".into(),
        "labels.exists(a, labels.exists(b, labels.exists(c, a + b == c)))".into(),
        "labels.all(a, labels.all(b, labels.all(c, labels.all(d, labels.all(e, true)))))".into(),
        "x".repeat(LENGTH + 1),
        "\u{0}\u{ffff}".into(),
        (0..9).map(|n| format!("\"g{n}\" in groups")).collect::<Vec<_>>().join(" || "),
    ] {
        let begun = Instant::now();
        let short: String = hostile.chars().take(40).collect();
        refused(&hostile);
        assert!(begun.elapsed() < Duration::from_secs(20), "{short} is not hanging");
    }
}

/// A device with as much of everything as possible, asked what costs most of all that passes.
#[test]
fn what_passes_is_answered_for_100_000_devices_in_bounded_time() {
    let row = Arc::new(testing::largest_row(NOW));
    let costly = r#"models.exists(m, models[m].phase == "none" || models[m].drift > 100)"#;
    let expression = Expression::parse(costly).unwrap();
    let asked = Asked { row: &row, now_ms: NOW, in_group: &|_| false };
    let begun = Instant::now();
    let matched = (0..1_000).filter(|_| expression.matches(&asked)).count();
    assert_eq!(matched, 0);
    let each = begun.elapsed() / 1_000;
    println!("the costliest expression: {each:?} a device with {} models (not optimised)", row.models.len());
}
