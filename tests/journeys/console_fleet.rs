//! The console over a fleet of 10,000 devices: the table holds what can be seen, finds, sorts and changes the rest; a device's
//! page shows what it should be beside what it is.

use crate::console::{PAGE, everything_fits};
use crate::seed::{BOARDS, SITES, id, seed};
use flotilla_tests::{Browser, Device, Plane};
use serde_json::{Value, json};
use std::time::Instant;

const DEVICES: usize = 10_000;
/// Rows that the page may hold at a time.
const ROWS: u64 = 60;

/// The table's ids from top to bottom.
const SHOWN: &str = r"
    [...document.querySelectorAll('.grid [data-device]')]
        .sort((a, b) => a.ariaRowIndex - b.ariaRowIndex).map((row) => row.dataset.device)
";

/// Writes into a box as somebody who types.
fn type_into(page: &mut Browser, selector: &str, text: &str) {
    page.eval(&format!(
        "(() => {{ const box = document.querySelector({selector:?}); box.value = {text:?}; \
         box.dispatchEvent(new Event('input', {{ bubbles: true }})); }})()"
    ));
}

fn click(page: &mut Browser, selector: &str) {
    page.wait_for(
        &format!("document.querySelector({selector:?}) && !document.querySelector({selector:?}).disabled"),
        PAGE,
    );
    page.eval(&format!("document.querySelector({selector:?}).click()"));
}

fn press(page: &mut Browser, key: &str) {
    page.eval(&format!(
        "document.querySelector('.grid').dispatchEvent(new KeyboardEvent('keydown', {{ key: {key:?}, bubbles: true }}))"
    ));
}

fn total_is(page: &mut Browser, total: usize) {
    page.wait_for(
        &format!("document.querySelector('#devices [data-total]').dataset.total === '{total}' && !document.querySelector('#devices h2').textContent.includes('…')"),
        PAGE,
    );
}

fn first_is(page: &mut Browser, id: &str) {
    page.wait_for(&format!("{SHOWN}[0] === '{id}'"), PAGE);
}

fn rows(page: &mut Browser) -> u64 {
    page.eval("document.querySelectorAll('.grid .rows > .row').length").as_u64().unwrap()
}

/// A control plane with one enrolled device and the seeded ones.
fn large_fleet() -> Plane {
    let mut plane = Plane::start();
    let _enrolled = Device::enrol(&plane, "box-1");
    plane.terminate();
    let begun = Instant::now();
    seed(&plane.dir, "box-1", DEVICES);
    println!("{DEVICES} devices seeded in {:?}", begun.elapsed());
    plane.restart();
    plane
}

#[test]
fn ten_thousand_devices_are_scrolled_found_sorted_and_changed_from_the_page() {
    let plane = large_fleet();
    let _group: Value = plane.cli(&["group", "create", "pis", "--filter", "board == 'raspberry-pi-5'"]);
    let login: Value = plane.cli(&["login"]);
    let Some(mut page) = Browser::open(login["url"].as_str().unwrap()) else { return };
    page.look(1440, false);
    total_is(&mut page, DEVICES + 1);
    first_is(&mut page, "box-1");
    assert_eq!(page.eval("document.querySelector('.grid').ariaRowCount"), (DEVICES + 2).to_string());
    assert!(rows(&mut page) <= ROWS, "{} rows", rows(&mut page));
    let overview = plane.get("/api/v1/overview").1;
    assert_eq!(overview["fleet"]["total"], DEVICES + 1);
    let begun = Instant::now();
    let middle = plane.get("/api/v1/devices?limit=100&skip=5000&sort=-temperature").1;
    println!(
        "overview: {} bytes; a page in the middle, sorted: {:?}",
        overview.to_string().len(),
        begun.elapsed()
    );
    assert_eq!(middle.as_array().unwrap().len(), 100);
    assert!(overview.to_string().len() < 100_000, "the overview grows with the fleet");

    // Anywhere at once, by wheel and by key, and never more rows than can be seen.
    page.eval("document.querySelector('.grid').scrollTop = 44 * 5000");
    page.wait_for(
        &format!("document.querySelector('[data-device=\"{}\"]')?.ariaRowIndex === '5002'", id(4_999)),
        PAGE,
    );
    assert!(rows(&mut page) <= ROWS, "{} rows", rows(&mut page));
    press(&mut page, "End");
    page.wait_for(&format!("{SHOWN}.at(-1) === '{}'", id(DEVICES - 1)), PAGE);
    assert_eq!(
        page.eval("document.querySelector('.grid').getAttribute('aria-activedescendant')"),
        format!("device-{DEVICES}")
    );
    assert!(rows(&mut page) <= ROWS, "{} rows", rows(&mut page));
    press(&mut page, "Home");
    first_is(&mut page, "box-1");

    // Whoever looks at a device and comes back is where they were.
    page.eval("document.querySelector('.grid').scrollTop = 44 * 5000");
    click(&mut page, &format!("[data-device={}] a", id(4_999)));
    page.wait_for(&format!("document.querySelector('[data-page]')?.dataset.page === '{}'", id(4_999)), PAGE);
    page.eval("history.back()");
    page.wait_for(&format!("{SHOWN}.includes('{}')", id(4_999)), PAGE);
    assert_eq!(page.eval("document.querySelector('.grid').scrollTop"), 44 * 5000);
    press(&mut page, "Home");
    first_is(&mut page, "box-1");

    // Words, an expression, a group, a mistake that is named.
    type_into(&mut page, "[name=search]", "jetson edge-0001");
    total_is(&mut page, 3);
    assert_eq!(page.eval(SHOWN), json!([id(10), id(14), id(18)]));
    type_into(&mut page, "[name=search]", "");
    type_into(&mut page, "[name=filter]", "attributes.site == 'site-7'");
    total_is(&mut page, DEVICES / SITES);
    type_into(&mut page, "[name=filter]", "lables == 1");
    page.wait_for(
        "document.querySelector('#filter-problem').textContent.includes('there is no variable lables')",
        PAGE,
    );
    assert_eq!(page.eval("document.querySelector('[name=filter]').ariaInvalid"), "true");
    assert_eq!(page.eval(SHOWN)[0], id(7), "what was found before stays to be seen");
    type_into(&mut page, "[name=filter]", "");
    total_is(&mut page, DEVICES + 1);
    page.eval("(() => { const box = document.querySelector('[name=group]'); box.value = 'pis'; box.dispatchEvent(new Event('change', { bubbles: true })); })()");
    total_is(&mut page, DEVICES / BOARDS.len());

    // A column up and down.
    click(&mut page, "[data-sort=temperature]");
    first_is(&mut page, &id(0));
    click(&mut page, "[data-sort=temperature]");
    first_is(&mut page, &id(48));
    assert_eq!(
        page.eval("document.querySelector('[data-sort=temperature]').parentElement.ariaSort"),
        "descending"
    );
    everything_fits(&mut page, "fleet");
    page.look(1440, false);
    page.eval("(() => { const box = document.querySelector('[name=group]'); box.value = ''; box.dispatchEvent(new Event('change', { bubbles: true })); })()");

    bulk(&mut page, &plane);
    device_page(&mut page, &plane);
}

/// What is done to all that match reaches them all; a device on which it fails is named.
fn bulk(page: &mut Browser, plane: &Plane) {
    let found = "%22pilot%22%20in%20labels";
    let labelled =
        || plane.get(&format!("/api/v1/devices?filter={found}&limit=1000")).1.as_array().unwrap().len();
    let site = DEVICES / SITES;
    click(page, "[data-sort=id]");
    type_into(page, "[name=search]", "edge");
    type_into(page, "[name=filter]", "attributes.site == 'site-0'");
    total_is(page, site);
    click(page, ".grid .head input");
    type_into(page, "[data-bulk-label]", "pilot");
    click(page, "[data-bulk=add]");
    // Asked twice, since they are more than can be seen.
    page.wait_for(
        &format!("document.querySelector('[data-bulk=add]').textContent === 'Add label {site} devices?'"),
        PAGE,
    );
    assert_eq!(labelled(), 0);
    click(page, "[data-bulk=add]");
    page.wait_for(
        &format!("document.querySelector('[data-changed]')?.dataset.changed === '{}'", site - 1),
        PAGE,
    );
    assert_eq!(labelled(), site - 1);
    let told = page.eval("document.querySelector('.told-by li').textContent");
    assert!(told.as_str().unwrap().contains(&id(0)), "{told}");
    page.wait_for(
        &format!("document.querySelector('[data-device=\"{}\"] .chip')?.textContent === 'pilot'", id(20)),
        PAGE,
    );

    everything_fits(page, "bulk");
    page.look(1440, false);

    // Two that are picked go into quarantine, and out again.
    click(page, ".grid .head input");
    for number in [20, 40] {
        click(page, &format!("[data-device={}] input", id(number)));
    }
    type_into(page, ".bulk [placeholder=reason]", "their fans are broken");
    click(page, "[data-bulk=quarantine]");
    click(page, "[data-bulk=quarantine]");
    page.wait_for("document.querySelectorAll('[data-device][data-state=quarantined]').length === 2", PAGE);
    assert_eq!(plane.device(&id(40)).unwrap()["quarantine"], "their fans are broken");
    click(page, "[data-bulk=release]");
    page.wait_for("document.querySelectorAll('[data-device][data-state=quarantined]').length === 0", PAGE);
    type_into(page, "[name=search]", "");
    type_into(page, "[name=filter]", "");
    total_is(page, DEVICES + 1);
}

fn device_page(page: &mut Browser, plane: &Plane) {
    // By key from the table, and back to where one was.
    type_into(page, "[name=search]", "edge-0012");
    total_is(page, 10);
    first_is(page, &id(120));
    for _ in 0..3 {
        press(page, "ArrowDown");
        page.eval("new Promise(requestAnimationFrame)");
    }
    press(page, "Enter");
    let open = format!("document.querySelector('[data-page]')?.dataset.page === '{}'", id(123));
    page.wait_for(&open, PAGE);

    // What it should run is not what it runs.
    page.wait_for("document.querySelector('[data-versions]')?.dataset.versions === '3/2'", PAGE);
    let differences =
        "[...document.querySelectorAll('[data-difference]')].map((row) => row.dataset.difference)";
    assert_eq!(page.eval(differences), json!(["version", "models/digits/release"]));
    let twin = plane.get(&format!("/api/v1/devices/{}/twin", id(123))).1;
    let model = &twin["models"][0];
    assert_eq!((&model["model"], &model["differs"]), (&json!("digits"), &json!(true)));
    let row =
        page.eval("[...document.querySelectorAll('[data-model=digits] td')].map((cell) => cell.textContent)");
    for (cell, side) in [(1, "wanted"), (2, "running")] {
        let digest = model[side].as_str().unwrap();
        assert!(row[cell].as_str().unwrap().contains(&digest[..12]), "{side}: {row}");
    }
    assert!(page.is_true("document.querySelector('[data-model=digits]').classList.contains('differs')"));
    let told: Value = plane.cli(&["device", "twin", &id(123)]);
    assert_eq!(told["differences"], twin["differences"]);

    // What is written on it, and that no rollout takes it.
    type_into(page, "#tags [name=label]", "watched");
    page.eval("document.querySelector('#tags [name=label]').form.requestSubmit()");
    page.wait_for("document.querySelector('[data-label=watched]') !== null", PAGE);
    type_into(page, "#tags [name=attribute]", "rack=7");
    page.eval("document.querySelector('#tags [name=attribute]').form.requestSubmit()");
    page.wait_for("document.querySelector('[data-attribute=rack]') !== null", PAGE);
    type_into(page, "#quarantine input", "it smells");
    page.eval("document.querySelector('#quarantine').requestSubmit()");
    page.wait_for("document.querySelector('#quarantine').textContent.includes('it smells')", PAGE);
    let view = plane.device(&id(123)).unwrap();
    assert_eq!((&view["labels"], &view["attributes"]["rack"]), (&json!(["watched"]), &json!("7")));
    click(page, "[data-label=watched] button");
    page.wait_for("document.querySelector('[data-label=watched]') === null", PAGE);
    click(page, "[data-ask=ping]");
    page.wait_for("document.querySelector('[data-kind=ping]')?.dataset.state === 'pending'", PAGE);
    page.wait_for("document.querySelector('[data-difference^=\"commands/\"]') !== null", PAGE);
    everything_fits(page, "device-behind");
    page.eval("document.querySelector('#twin summary').click()");
    page.wait_for("document.querySelectorAll('#twin pre').length === 2", PAGE);
    page.look(1440, false);

    page.eval("history.back()");
    total_is(page, 10);
    assert_eq!(page.eval("document.querySelector('[name=search]').value"), "edge-0012");
    page.eval("location.hash = '#/devices/nobody'");
    page.wait_for("document.querySelector('main [role=alert]')?.textContent.includes('nobody')", PAGE);
}
