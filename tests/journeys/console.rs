//! The console in a browser: what it shows is what the control plane knows, live, and readable on narrow screens.

use flotilla_tests::{Browser, Device, Plane, eventually};
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;

pub(crate) const PAGE: Duration = Duration::from_secs(60);

/// Notes every state that the page shows from now on, without repetitions.
const WATCH: &str = r"
    window.opened = 'once';
    window.seen = {};
    const note = (key, value) => {
        const list = (window.seen[key] ??= []);
        if (list.at(-1) !== value) list.push(value);
    };
    const look = () => {
        for (const e of document.querySelectorAll('[data-device]')) note(e.dataset.device, e.dataset.state);
        for (const e of document.querySelectorAll('[data-rollout]')) note('rollout', e.dataset.state);
        document.querySelectorAll('.waves > li').forEach((e, i) => note(`wave ${i + 1}`, e.className));
        for (const e of document.querySelectorAll('[data-epochs]')) note('epochs', Number(e.dataset.epochs));
    };
    look();
    new MutationObserver(look).observe(document.getElementById('app'),
        { subtree: true, childList: true, attributes: true, characterData: true });
";

/// The devices' rows: id and state, and each cell under its heading.
const ROWS: &str = r"
    [...document.querySelectorAll('[data-device]')].map((row) => Object.fromEntries([
        ['id', row.dataset.device], ['state', row.dataset.state],
        ...[...row.querySelectorAll('[data-th]')].map((cell) => [cell.dataset.th, cell.textContent.trim()]),
    ]))
";

/// The cells of a device's model on its page, each under its heading.
const MODEL: &str = r"
    Object.fromEntries([...document.querySelectorAll('[data-model] td')].map((cell) => [cell.dataset.th, cell.textContent.trim()]))
";

/// The telemetry cards: title, facts by name, and how many bars there are.
const CARDS: &str = r"
    [...document.querySelectorAll('[data-told]')].map((card) => ({
        title: card.querySelector('h3').textContent,
        facts: Object.fromEntries([...card.querySelectorAll('dl > div')].map((fact) =>
            [fact.querySelector('dt').textContent, fact.querySelector('dd').textContent])),
        answers: card.querySelectorAll('.answers i').length,
        tenths: card.querySelectorAll('.confidence i').length,
    }))
";

/// The compression report: a list of cells a row, of its tables.
const COMPRESSION: &str = r"
    [...document.querySelectorAll('#compression table')].map((table) =>
        [...table.querySelectorAll('tbody tr')].map((row) => [...row.children].map((cell) => cell.textContent.trim())))
";

/// What does not fit: boxes that have to be scrolled sideways, elements beyond their box, text that is cut off or
/// too small. What scrolls on purpose is let be, and so is the inside of the chart, which is a picture.
const MISFITS: &str = r"
    (() => {
        const found = [];
        const width = document.documentElement.clientWidth;
        const name = (e) => `${e.tagName.toLowerCase()}.${e.className} '${e.textContent.trim().slice(0, 40)}'`;
        const misfit = (e, what) => found.push(`${name(e)}: ${what}`);
        const scrolls = (e, box) => {
            for (let at = e; at !== box; at = at.parentElement) {
                if (['auto', 'scroll'].includes(getComputedStyle(at).overflowX)) return true;
            }
            return false;
        };
        if (document.documentElement.scrollWidth > width) misfit(document.body, `wider than ${width}`);
        for (const box of document.querySelectorAll('section, .loop > li, header, footer')) {
            const left = box.getBoundingClientRect().left + box.clientLeft;
            const right = left + box.clientWidth;
            if (left < 0 || right > width) misfit(box, `from ${left} to ${right} of ${width}`);
            if (box.scrollWidth > box.clientWidth) misfit(box, `${box.scrollWidth} in ${box.clientWidth}`);
            for (const e of box.querySelectorAll('*')) {
                const place = e.getBoundingClientRect();
                if (place.width === 0 || e.closest('.u-wrap') || scrolls(e, box)) continue;
                if (place.left < left - 1 || place.right > right + 1) {
                    misfit(e, `from ${place.left} to ${place.right} in ${left} to ${right}`);
                }
            }
            const texts = document.createTreeWalker(box, NodeFilter.SHOW_TEXT);
            for (let text = texts.nextNode(); text; text = texts.nextNode()) {
                const e = text.parentElement;
                const range = document.createRange();
                range.selectNodeContents(text);
                const place = range.getBoundingClientRect();
                if (!text.data.trim() || place.width === 0 || e.closest('.u-wrap') || scrolls(e, box)) continue;
                const size = parseFloat(getComputedStyle(e).fontSize);
                if (size < 12) misfit(e, `${size} px high`);
                for (let at = e; at !== box.parentElement; at = at.parentElement) {
                    const cut = getComputedStyle(at).overflowX !== 'visible';
                    const frame = at.getBoundingClientRect();
                    if (cut && (place.left < frame.left - 1 || place.right > frame.right + 1
                        || place.top < frame.top - 1 || place.bottom > frame.bottom + 1)) {
                        misfit(e, `text is cut off by ${name(at)}`);
                    }
                }
            }
        }
        return found;
    })()
";

/// Some frames later: the chart follows a new width in the frame after it.
const FRAMES: &str = r"
    [1, 2, 3].reduce((before) => before.then(() => new Promise(requestAnimationFrame)), Promise.resolve())
";

/// The page of a whole loop, whose figures are those of the quickstart's report.
pub(crate) fn shows_the_loop(url: &str, report: &Value) {
    let Some(mut page) = Browser::open(url) else { return };
    page.wait_for("document.querySelectorAll('[data-device][data-state=confirmed]').length === 3", PAGE);
    page.wait_for("document.querySelector('[data-link]').dataset.link === 'live'", PAGE);
    assert!(!page.eval("location.href").as_str().unwrap().contains("code="), "the code stays in the address");

    let epochs = &report["training"]["epochs"];
    page.wait_for(
        &format!("Number(document.querySelector('[data-epochs]').dataset.epochs) === {epochs}"),
        PAGE,
    );
    page.wait_for("document.querySelector('#training canvas') !== null", PAGE);
    let accuracy = "Number(document.querySelector('[data-validation-accuracy]').dataset.validationAccuracy)";
    assert!(page.eval(accuracy).as_f64().unwrap() > 0.95);
    page.wait_for("document.querySelector('[data-rollout]').dataset.state === 'succeeded'", PAGE);

    devices_as_the_api_says(&mut page, report);
    telemetry_as_reported(&mut page, report);
    compression_as_reported(&mut page, report);
    everything_fits(&mut page, "console");
    pages_of_devices(&mut page, report);
}

/// State, release and agent of every device, as people read them.
fn devices_as_the_api_says(page: &mut Browser, report: &Value) {
    let devices = "fetch('/api/v1/devices').then((answer) => answer.json())";
    // Telemetry comes every few seconds: one comparison may fall between an answer and the page's next state.
    let rows = eventually("the page shows what the API says", PAGE, || {
        let known = page.eval(devices).as_array().unwrap().iter().map(row).collect::<Option<Vec<_>>>()?;
        let shown = page.eval(ROWS);
        let wanted = ["id", "state", "Release", "Agent", "Seen"];
        let shown: Vec<Value> = shown
            .as_array()
            .unwrap()
            .iter()
            .map(|row| wanted.iter().map(|name| ((*name).to_owned(), row[*name].clone())).collect())
            .collect();
        (shown == known).then_some(shown)
    });
    for (row, device) in rows.iter().zip(report["devices"].as_array().unwrap()) {
        assert_eq!(row["id"], device["id"]);
    }
}

/// A device as its row should read; `None` while it has not reported everything.
fn row(device: &Value) -> Option<Value> {
    let model = &device["models"][0];
    let release = model["release"].as_str()?.get(..12)?;
    Some(json!({
        "id": device["id"],
        "state": model["state"],
        "Release": format!("{} v{} {release}", model["model"].as_str()?, model["version"]),
        "Agent": device["agent"],
        "Seen": "online",
    }))
}

/// The page of each device: nothing differs, and the figures are those of the report.
fn pages_of_devices(page: &mut Browser, report: &Value) {
    let tested = report["dataset"]["test"].as_u64().unwrap();
    for device in report["devices"].as_array().unwrap() {
        let id = device["id"].as_str().unwrap();
        page.eval(&format!("location.hash = '#/devices/{id}'"));
        page.wait_for(&format!("document.querySelector('[data-page]').dataset.page === '{id}'"), PAGE);
        page.wait_for("document.querySelector('[data-differences]').dataset.differences === '0'", PAGE);
        let cells = page.eval(MODEL);
        assert_eq!(cells["Wanted"], cells["Running"], "{cells}");
        assert_eq!(cells["Phase"], "confirmed");
        assert_eq!(cells["Accuracy"], percent(&device["accuracy"]), "as it was counted on the device");
        let predictions = format!("{:?} === {MODEL}.Predictions", tested.to_string());
        page.wait_for(&predictions, PAGE);
        // Telemetry comes every few seconds: one comparison may fall between an answer and the page's next state.
        eventually("latency and memory as the device measured them", PAGE, || {
            let view = page.eval(&format!("fetch('/api/v1/devices/{id}').then((answer) => answer.json())"));
            let latency = |name: &str| Some(format!("≤ {}", micros(view["models"][0][name].as_u64()?)));
            let latency = format!("{} / {}", latency("p50_us")?, latency("p95_us")?);
            let memory = format!("Agent memory{}", bytes(view["rss_bytes"].as_u64()?));
            let shown = page.eval("document.querySelector('#identity').textContent");
            (page.eval(MODEL)["Latency p50 / p95"] == latency && shown.as_str()?.contains(&memory))
                .then_some(())
        });
        page.wait_for("document.querySelectorAll('#history canvas').length === 3", PAGE);
        page.wait_for("document.querySelector('[data-event=confirmed]') !== null", PAGE);
    }
    everything_fits(page, "device");
    page.eval("history.back()");
}

/// A card a device: its drift in words, its latency's tail, and a bar for each answer and tenth of confidence.
fn telemetry_as_reported(page: &mut Browser, report: &Value) {
    let devices = report["devices"].as_array().unwrap().len();
    let drifts = "document.querySelectorAll('[data-told][data-shift=stable]').length";
    page.wait_for(&format!("{drifts} === {devices}"), PAGE);
    let cards = page.eval(CARDS);
    for card in cards.as_array().unwrap() {
        let of = |fact: &str| card["facts"][fact].as_str().unwrap_or_else(|| panic!("no {fact} in {card}"));
        assert!(card["title"].as_str().unwrap().contains("stable 0."), "{card}");
        assert_eq!(of("Latency p50 / p95 / p99").matches('≤').count(), 3, "{card}");
        assert!(of("Network in / out").contains(" / ") && of("CPU").ends_with('%'), "{card}");
        assert_eq!((&card["answers"], &card["tenths"]), (&10.into(), &10.into()), "{card}");
    }
    assert_eq!(cards.as_array().unwrap().len(), devices);
}

fn compression_as_reported(page: &mut Browser, report: &Value) {
    let (before, after) = (&report["training"], &report["compression"]);
    // The report itself comes after the overview.
    page.wait_for("document.querySelectorAll('#compression table').length === 3", PAGE);
    page.wait_for("document.querySelector('#compression .plot svg') !== null", PAGE);
    let tables = page.eval(COMPRESSION);
    let dots = page.eval("document.querySelectorAll('#compression .plot circle').length");
    assert_eq!(dots, tables[1].as_array().unwrap().len(), "a dot a candidate");
    assert_eq!(page.eval("document.querySelectorAll('#compression tr.chosen').length"), 1);
    let size = ["bytes_before", "bytes_after"].map(|name| bytes(after[name].as_u64().unwrap()));
    assert_eq!(tables[0][0], json!(["Size", size[0], size[1]]));
    let accuracy = [before, after].map(|part| percent(&part["test_accuracy"]));
    assert_eq!(tables[0][1], json!(["Test accuracy", accuracy[0], accuracy[1]]));
    let latency = tables[0][2].as_array().unwrap();
    assert_eq!(latency[0], "Latency p50");
    for figure in &latency[1..] {
        let (number, unit) = figure.as_str().unwrap().split_once(' ').unwrap();
        assert!(number.parse::<f64>().unwrap() > 0.0 && ["µs", "ms"].contains(&unit), "{latency:?}");
    }
    let layers = tables[2].as_array().unwrap();
    assert!(layers.len() >= 3, "{layers:?}");
    let mut worst = f64::INFINITY;
    for layer in layers {
        let [name, form, bytes, error] = [0, 1, 2, 3].map(|cell| layer[cell].as_str().unwrap());
        assert!(!name.is_empty() && !form.is_empty() && bytes.contains(" → "), "{layer}");
        let error = error.parse::<f64>().unwrap();
        assert!(error >= 0.0 && error <= worst, "{layer} is not worse than what comes after it");
        worst = error;
    }
}

pub(crate) fn everything_fits(page: &mut Browser, name: &str) {
    for width in [1440, 390] {
        for dark in [false, true] {
            page.look(width, dark);
            page.wait_for(&format!("document.documentElement.clientWidth === {width}"), PAGE);
            let misfits = page.eval(&format!("{FRAMES}.then(() => {MISFITS})"));
            assert_eq!(misfits, json!([]), "at {width} px: {misfits:#}");
            if let Some(folder) = std::env::var_os("FLOTILLA_SCREENSHOTS") {
                let name = format!("{name}-{width}-{}.png", if dark { "dark" } else { "light" });
                page.screenshot(&Path::new(&folder).join(name));
            }
        }
    }
}

#[test]
fn an_open_page_follows_training_and_rollout_without_a_reload() {
    let plane = Plane::start();
    let login: Value = plane.cli(&["login"]);
    let Some(mut page) = Browser::open(login["url"].as_str().unwrap()) else { return };
    page.wait_for("document.querySelector('[data-link]').dataset.link === 'live'", PAGE);
    page.wait_for("document.querySelector('#devices .empty') !== null", PAGE);
    page.eval(WATCH);

    let release = plane.release(json!({ "epochs": 3, "patience": 0, "seed": 1 }));
    page.wait_for("window.seen.epochs.at(-1) === 3", PAGE);
    let mut devices: Vec<_> = (1..=2).map(|n| Device::enrol(&plane, &format!("box-{n}"))).collect();
    devices.iter_mut().for_each(Device::start);
    for device in &devices {
        let selector = format!("[data-device={}][data-state=idle] .dot.on", device.id);
        page.wait_for(&format!("document.querySelector('{selector}') !== null"), PAGE);
    }

    // While no device can act the page shows the rollout's very beginning.
    devices.iter().for_each(Device::freeze);
    let _rollout: Value = plane.cli(&["rollout", "create", release["digest"].as_str().unwrap(), "--detach"]);
    page.wait_for("document.querySelector('.waves > li.running .chip.sent') !== null", PAGE);
    page.wait_for("document.querySelector('.waves > li.waiting .chip.pending') !== null", PAGE);
    assert_eq!(page.eval("document.querySelectorAll('[data-device][data-state=idle]').length"), 2);
    devices.iter().for_each(Device::thaw);
    page.wait_for("document.querySelectorAll('[data-device][data-state=confirmed]').length === 2", PAGE);
    page.wait_for("document.querySelector('[data-rollout]').dataset.state === 'succeeded'", PAGE);

    let seen = page.eval("window.seen");
    assert_eq!(page.eval("window.opened"), "once", "the page was loaded again");
    assert_eq!(seen["rollout"], json!(["running", "succeeded"]));
    assert_eq!(seen["wave 1"], json!(["running", "done"]));
    let second = seen["wave 2"].as_array().unwrap();
    assert_eq!((second.first(), second.last()), (Some(&json!("waiting")), Some(&json!("done"))), "{seen}");
    for device in &devices {
        let states = seen[&device.id].as_array().unwrap();
        let confirmed = states.iter().position(|state| state == "confirmed");
        assert_eq!((&states[0], confirmed), (&json!("idle"), Some(states.len() - 1)), "{seen}");
    }
}

/// Types into a field of the form for a new rollout.
const FILL: &str = "var fill = (name, value) => { const field = document.forms[0].elements[name]; field.value = value; \
     field.dispatchEvent(new Event('input', { bubbles: true })); }";

#[test]
fn a_wave_that_is_watched_is_shown_paused_resumed_and_sent_back_from_the_page() {
    let plane = Plane::start();
    let login: Value = plane.cli(&["login"]);
    let Some(mut page) = Browser::open(login["url"].as_str().unwrap()) else { return };
    let mut devices: Vec<_> = (1..=2).map(|n| Device::enrol(&plane, &format!("box-{n}"))).collect();
    devices.iter_mut().for_each(Device::start);
    let release = plane.release(json!({ "epochs": 1, "patience": 0, "seed": 1 }));
    // What it would do is shown before anybody is touched.
    let digest = release["digest"].as_str().unwrap();
    page.wait_for("document.querySelector('[data-order=new]') !== null", PAGE);
    page.eval("document.querySelector('[data-order=new]').click()");
    page.wait_for("document.querySelector('form.new') !== null", PAGE);
    page.eval(&format!("{FILL}; fill('release', '{digest}'); fill('waves', '1, 200%')"));
    page.eval("document.querySelector('[data-order=plan]').click()");
    page.wait_for("document.querySelector('form.new .bad')?.textContent.includes('200%')", PAGE);
    page.eval(&format!("{FILL}; fill('waves', '1'); fill('soak', '0.5'); fill('shadow', '1')"));
    page.eval("document.querySelector('[data-order=plan]').click()");
    page.wait_for("document.querySelector('[data-plan]')?.textContent.includes('waves of 1 + 1')", PAGE);
    page.wait_for(
        "document.querySelector('[data-plan]').textContent.includes('as a shadow on 1 device for 1h')",
        PAGE,
    );
    everything_fits(&mut page, "new-rollout");
    assert_eq!(plane.get("/api/v1/rollouts").1, json!([]), "nobody is touched");
    page.eval("document.querySelector('[data-order=create]').click()");
    page.wait_for("document.querySelector('.watch')?.textContent.includes('for 30 min to 4 h')", PAGE);
    // Nobody ran anything that it could have been a shadow of.
    page.wait_for("document.querySelector('.shadow-stage')?.dataset.stage === 'skipped'", PAGE);
    assert_eq!(page.eval("document.querySelectorAll('.waves > li.waiting .chip.pending').length"), 1);
    everything_fits(&mut page, "watched-wave");

    let state = |state: &str| format!("document.querySelector('[data-rollout]').dataset.state === '{state}'");
    page.eval("document.querySelector('[data-order=pause]').click()");
    page.wait_for(&state("paused"), PAGE);
    page.eval("document.querySelector('[data-order=resume]').click()");
    page.wait_for(&state("running"), PAGE);
    // Asked twice, since it touches devices.
    page.eval("document.querySelector('[data-order=rollback]').click()");
    page.wait_for(
        "document.querySelector('[data-order=rollback]').textContent.trim() === 'Send 1 device back'",
        PAGE,
    );
    page.eval("document.querySelector('[data-order=rollback]').click()");
    page.wait_for(&state("rolled_back"), PAGE);
    assert_eq!(
        page.eval("document.querySelector('[data-rollout] [data-order]')"),
        Value::Null,
        "there is nothing left to stop"
    );
}

// === figures as the page writes them ===

fn percent(share: &Value) -> String {
    share.as_f64().map_or("–".to_owned(), |share| format!("{:.2} %", share * 100.0))
}

fn bytes(count: u64) -> String {
    let (mut figure, mut units) = (count as f64, ["B", "KB", "MB", "GB"].into_iter());
    let mut unit = units.next().unwrap();
    while figure >= 1000.0 {
        figure /= 1000.0;
        unit = units.next().unwrap();
    }
    match unit {
        "B" => format!("{figure} B"),
        _ if figure < 10.0 => format!("{figure:.2} {unit}"),
        _ => format!("{figure:.1} {unit}"),
    }
}

fn micros(us: u64) -> String {
    match us {
        0..1_000 => format!("{us} µs"),
        1_000..10_000 => format!("{:.2} ms", us as f64 / 1000.0),
        _ => format!("{:.1} ms", us as f64 / 1000.0),
    }
}
