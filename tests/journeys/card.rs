//! The card of a model version: its figures are those that anybody counts from the predictions, in every form, and in the
//! console.

use crate::console::{PAGE, everything_fits};
use flotilla_tests::{Browser, Plane};
use serde_json::{Value, json};
use std::path::Path;

const CLASSES: usize = 10;

/// Samples by true and by predicted class, counted from what the control plane says of each sample.
fn counted(plane: &Plane, version: u32) -> Vec<Vec<u64>> {
    let (status, samples) = plane.get("/api/v1/datasets/digits/versions/1/samples?split=test");
    assert_eq!(status, 200, "{samples}");
    let asked = json!({ "dataset": "digits", "version": 1, "split": "test" });
    let (status, said) = plane.post(&format!("/api/v1/models/digits/versions/{version}/evaluate"), asked);
    assert_eq!(status, 200, "{said}");
    let (samples, said) = (samples.as_array().unwrap(), said["predictions"].as_array().unwrap());
    assert_eq!(samples.len(), said.len());
    let mut confusion = vec![vec![0; CLASSES]; CLASSES];
    for (sample, predicted) in samples.iter().zip(said) {
        confusion[sample["label"].as_u64().unwrap() as usize][predicted.as_u64().unwrap() as usize] += 1;
    }
    confusion
}

/// Wilson's interval, as it stands in the books.
fn wilson(hits: u64, total: u64) -> [f64; 2] {
    let (n, p, z) = (total as f64, hits as f64 / total as f64, 1.96);
    let middle = p + z * z / (2.0 * n);
    let half = z * (p * (1.0 - p) / n + z * z / (4.0 * n * n)).sqrt();
    [(middle - half) / (1.0 + z * z / n), (middle + half) / (1.0 + z * z / n)]
}

#[track_caller]
fn close(said: &Value, expected: f64) {
    let off = said.as_f64().map(|said| (said - expected).abs());
    assert!(off.is_some_and(|off| off < 1e-4), "{said} is not {expected}");
}

/// Every figure of a classifier's quality against a confusion matrix that was counted elsewhere.
fn figures_are_right(quality: &Value, confusion: &[Vec<u64>]) {
    let figures = &quality["figures"];
    let total: u64 = confusion.iter().flatten().sum();
    let correct: u64 = (0..CLASSES).map(|class| confusion[class][class]).sum();
    assert_eq!((&quality["samples"], &figures["correct"]), (&json!(total), &json!(correct)));
    close(&quality["value"], correct as f64 / total as f64);
    let [low, high] = wilson(correct, total);
    close(&quality["interval"][0], low);
    close(&quality["interval"][1], high);
    assert_eq!(figures["confusion"], json!(confusion));
    let mut f1s = 0.0;
    for class in 0..CLASSES {
        let row = &figures["classes"][class];
        let support: u64 = confusion[class].iter().sum();
        let predicted: u64 = confusion.iter().map(|counts| counts[class]).sum();
        let right = confusion[class][class];
        assert_eq!((&row["support"], &row["predicted"]), (&json!(support), &json!(predicted)), "{row}");
        close(&row["precision"]["value"], right as f64 / predicted as f64);
        close(&row["recall"]["value"], right as f64 / support as f64);
        close(&row["recall"]["interval"][0], wilson(right, support)[0]);
        let f1 = 2.0 * right as f64 / (support + predicted) as f64;
        close(&row["f1"]["value"], f1);
        f1s += f1;
    }
    close(&figures["macro_f1"], f1s / CLASSES as f64);
    let bins = figures["calibration"]["bins"].as_array().unwrap();
    let of = |bin: &Value, name: &str| bin[name].as_f64().unwrap();
    let right: f64 = bins.iter().map(|bin| of(bin, "samples") * of(bin, "accuracy")).sum();
    assert!((right - correct as f64).abs() < 1e-6, "{bins:?}");
    let off: f64 =
        bins.iter().map(|bin| of(bin, "samples") * (of(bin, "confidence") - of(bin, "accuracy")).abs()).sum();
    close(&figures["calibration"]["ece"], off / total as f64);
}

#[test]
fn a_card_says_what_anybody_counts_in_every_form_and_in_the_console() {
    let plane = Plane::start();
    let release = plane.release(json!({ "epochs": 3, "patience": 0, "seed": 1 }));

    let trained: Value = plane.cli(&["model", "card", "digits", "1"]);
    figures_are_right(&trained["quality"], &counted(&plane, 1));
    assert_eq!(trained["compression"], Value::Null);
    assert_eq!(trained["releases"], json!([]));

    let card: Value = plane.cli(&["model", "card", "digits"]);
    assert_eq!((&card["model"], &card["version"]), (&"digits".into(), &2.into()), "the newest by default");
    let confusion = counted(&plane, 2);
    figures_are_right(&card["quality"], &confusion);
    assert_eq!(card["data"]["facts"]["licence"], "CC-BY-4.0");
    let test = card["quality"]["samples"].as_u64();
    assert_eq!(card["data"]["facts"]["splits"][2].as_u64(), test);
    let steps: Vec<_> = card["lineage"].as_array().unwrap().iter().map(|step| &step["version"]).collect();
    assert_eq!(steps, [2, 1]);
    assert_eq!(card["lineage"][1]["origin"]["kind"], "trained");
    close(&card["compression"]["value_after"], card["quality"]["value"].as_f64().unwrap());
    let signed = &card["releases"][0];
    assert_eq!((&signed["digest"], &signed["trusted"]), (&release["digest"], &true.into()));
    assert_eq!(signed["key"], release["key_id"]);
    assert_eq!(signed["files"][0][1]["digest"], card["file"]["digest"], "the signed file is the judged one");

    forms(&plane, &card);
    what_is_not_there(&plane);
    a_licence_is_said_and_taken_back(&plane);
    let login: Value = plane.cli(&["login"]);
    let Some(mut page) = Browser::open(login["url"].as_str().unwrap()) else { return };
    console(&mut page, &card, &confusion);
}

/// Markdown and HTML say the same as JSON.
fn forms(plane: &Plane, card: &Value) {
    let base = "/api/v1/models/digits/versions/2/card";
    let markdown = String::from_utf8(plane.get_bytes(&format!("{base}.md"))).unwrap();
    let accuracy = card["quality"]["value"].as_f64().unwrap();
    let interval = [0, 1].map(|end| 100.0 * card["quality"]["interval"][end].as_f64().unwrap());
    let told =
        format!("{:.2} % (95 % interval {:.2} % to {:.2} %)", 100.0 * accuracy, interval[0], interval[1]);
    assert!(markdown.contains(&format!("- **Accuracy**: {told}")), "{told} is not in\n{markdown}");
    let head = markdown.strip_prefix("---\n").unwrap().split("\n---\n").next().unwrap();
    for line in
        ["license: unknown", "pipeline_tag: image-classification", "- \"digits\"", "    - type: accuracy"]
    {
        assert!(head.lines().any(|said| said == line), "{line} is not in\n{head}");
    }
    let value = head.lines().find_map(|line| line.trim().strip_prefix("value: ")).unwrap();
    close(&value.parse::<f64>().unwrap().into(), accuracy);
    let first = card["quality"]["figures"]["classes"][0]["support"].as_u64().unwrap();
    assert!(markdown.contains(&format!("| 0 | {first} | ")), "{markdown}");
    assert!(markdown.contains("Of the data set digits**: CC-BY-4.0"), "{markdown}");

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("digits.html");
    let written: Value =
        plane.cli(&["model", "card", "digits", "2", "--format", "html", "--file", file.to_str().unwrap()]);
    let html = std::fs::read_to_string(&file).unwrap();
    assert_eq!(written["bytes"].as_u64(), Some(html.len() as u64));
    assert_eq!(html.as_bytes(), plane.get_bytes(&format!("{base}.html")));
    assert!(html.contains(&format!("<dd>{told}</dd>")), "{told} is not in the HTML");
    assert_eq!(html.matches("<svg").count(), 3, "confusion, reliability, and the candidates");
    for foreign in ["<script", "src=", "href=", "@import", "url("] {
        assert!(!html.contains(foreign), "{foreign}: one file that asks for nothing");
    }
    alone(&file);
}

/// The file opened by itself: its style works, and nothing in it is refused or missing.
fn alone(file: &Path) {
    let Some(mut page) = Browser::open(&format!("file://{}", file.display())) else { return };
    page.wait_for("document.querySelectorAll('svg').length === 3", PAGE);
    let width = "getComputedStyle(document.body).maxWidth";
    assert_eq!(page.eval(width), "960px", "the style is taken");
    let wide = "document.querySelector('#card-none, svg').getBoundingClientRect().width > 100";
    assert!(page.is_true(wide));
}

fn a_licence_is_said_and_taken_back(plane: &Plane) {
    let said: Value = plane.cli(&["model", "licence", "digits", "1", "Apache-2.0"]);
    assert_eq!((&said["version"], &said["licence"]), (&1.into(), &"Apache-2.0".into()));
    let markdown = || String::from_utf8(plane.get_bytes("/api/v1/models/digits/versions/1/card.md")).unwrap();
    assert!(markdown().starts_with("---\nlicense: apache-2.0\n"), "{}", markdown());
    let other: Value = plane.cli(&["model", "card", "digits", "2"]);
    assert_eq!(other["licence"], Value::Null, "each version says its own");
    let (_, audit) = plane.get("/api/v1/audit");
    let entry = audit.as_array().unwrap().iter().find(|entry| entry["action"] == "model:set-licence");
    assert_eq!(entry.unwrap()["subject"], "model/digits/1", "{audit}");
    for bad in ["", "two\nlines"] {
        let output = plane.cli_output(&["model", "licence", "digits", "1", bad]);
        assert!(!output.status.success(), "{bad:?}");
    }
    let _taken: Value = plane.cli(&["model", "licence", "digits", "1"]);
    assert!(markdown().starts_with("---\nlicense: unknown\n"), "{}", markdown());
}

fn what_is_not_there(plane: &Plane) {
    for path in ["digits/versions/9/card", "digits/versions/9/card.md", "nothing/versions/latest/card.html"] {
        let (status, problem) = plane.get(&format!("/api/v1/models/{path}"));
        assert_eq!((status, &problem["code"]), (404, &"not_found".into()), "{path}: {problem}");
    }
    let (status, problem) = plane.get("/api/v1/models/digits/versions/newest/card");
    assert_eq!((status, &problem["code"]), (400, &"invalid_input".into()), "{problem}");
    let (status, _) = plane.request("GET", "/api/v1/models/digits/versions/2/card.html", None, None);
    assert_eq!(status, 401, "a card is for whoever may read models");
}

fn console(page: &mut Browser, card: &Value, confusion: &[Vec<u64>]) {
    page.wait_for("document.querySelector('#releases a') !== null", PAGE);
    page.eval("document.querySelector('#releases a').click()");
    page.wait_for("location.hash === '#/models/digits/2'", PAGE);
    page.wait_for("document.querySelector('#card-confusion svg') !== null", PAGE);
    let numbers = "[...document.querySelectorAll('#card-confusion svg g text')].map((text) => Number(text.textContent))";
    let there: Vec<u64> = confusion.iter().flatten().copied().filter(|samples| *samples > 0).collect();
    assert_eq!(page.eval(numbers), json!(there));
    let rows =
        "[...document.querySelectorAll('#card-classes tbody tr')].map((row) => row.children[1].textContent)";
    let supports: Vec<String> =
        confusion.iter().map(|counts| counts.iter().sum::<u64>().to_string()).collect();
    assert_eq!(page.eval(rows), json!(supports));
    let text = page.eval("document.querySelector('#card').textContent");
    let accuracy = format!("{:.2} %", 100.0 * card["quality"]["value"].as_f64().unwrap());
    for said in [&accuracy, card["file"]["digest"].as_str().unwrap(), "CC-BY-4.0", "not stated"] {
        assert!(text.as_str().unwrap().contains(said), "{said} is not on the page");
    }
    for picture in ["confusion", "calibration", "compression"] {
        assert!(page.is_true(&format!("document.querySelector('#card-{picture} .picture svg') !== null")));
    }
    let links = "[...document.querySelectorAll('#card .forms a')].map((a) => a.getAttribute('href').split('.')[1] ?? 'json')";
    assert_eq!(page.eval(links), json!(["html", "html", "md", "json"]));
    everything_fits(page, "card");
}

/// Classes whose names are somebody's attempt, through import, training, card and console.
#[test]
fn hostile_class_names_stay_names() {
    const NAMES: [&str; 2] = ["<img src=x onerror=window.hit=1>", "a|b\"onload='x"];
    let plane = Plane::start();
    let folder = tempfile::tempdir().unwrap();
    for (class, name) in NAMES.into_iter().enumerate() {
        let classes = folder.path().join(name);
        std::fs::create_dir(&classes).unwrap();
        for number in 0..40_u8 {
            let pixel =
                |x: u32, y: u32| image::Luma([((x as usize + class * 3) * 20) as u8 ^ (y as u8 + number)]);
            image::GrayImage::from_fn(8, 8, pixel).save(classes.join(format!("{number}.png"))).unwrap();
        }
    }
    let _import: Value = plane.cli(&["dataset", "import", "evil", folder.path().to_str().unwrap()]);
    let config = json!({ "epochs": 1, "patience": 0 }).to_string();
    let _trained: Value = plane.cli(&["train", "evil", "--config", &config]);
    let base = "/api/v1/models/evil/versions/1/card";
    let html = String::from_utf8(plane.get_bytes(&format!("{base}.html"))).unwrap();
    assert!(!html.contains("<img") && html.contains("&lt;img src=x onerror=window.hit=1&gt;"), "{html}");
    let markdown = String::from_utf8(plane.get_bytes(&format!("{base}.md"))).unwrap();
    assert!(!markdown.contains("<img") && markdown.contains("a\\|b"), "{markdown}");

    let login: Value = plane.cli(&["login"]);
    let Some(mut page) = Browser::open(login["url"].as_str().unwrap()) else { return };
    page.wait_for("document.querySelector('[data-link]').dataset.link === 'live'", PAGE);
    page.eval("location.hash = '#/models/evil/1'");
    page.wait_for("document.querySelector('#card-confusion svg') !== null", PAGE);
    let text = page.eval("document.querySelector('#card-classes').textContent");
    assert!(NAMES.into_iter().all(|name| text.as_str().unwrap().contains(name)), "{text}");
    assert!(page.is_true("document.querySelector('#card img') === null && window.hit === undefined"));
}
