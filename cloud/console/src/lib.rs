//! The web console: plain ES modules, no build step, embedded into the binary.
//!
//! `assets/app.js` is the entry; each view is a module under `assets/views/`. The pages read one stream,
//! `GET /api/v1/events`, and show its snapshots; devices, of which there may be 100,000, they ask for as they are looked at. Vendored files and their licences: `assets/vendor/README.md`.

/// One embedded file.
#[derive(Clone, Copy, Debug)]
pub struct Asset {
    /// Path below `/console/`.
    pub path: &'static str,
    /// Media type.
    pub content_type: &'static str,
    /// The bytes.
    pub bytes: &'static [u8],
}

macro_rules! assets {
    ($($path:literal: $content_type:expr,)+) => {
        /// Every embedded file.
        pub const ASSETS: &[Asset] = &[$(Asset {
            path: $path,
            content_type: $content_type,
            bytes: include_bytes!(concat!("../assets/", $path)),
        },)+];
    };
}

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const IMAGE: &str = "image/svg+xml";
const TEXT: &str = "text/plain; charset=utf-8";

assets! {
    "index.html": HTML,
    "app.js": SCRIPT,
    "live.js": SCRIPT,
    "post.js": SCRIPT,
    "format.js": SCRIPT,
    "style.css": STYLE,
    "icon.svg": IMAGE,
    "views/loop.js": SCRIPT,
    "get.js": SCRIPT,
    "route.js": SCRIPT,
    "fleet.css": STYLE,
    "views/fleet/table.js": SCRIPT,
    "views/fleet/found.js": SCRIPT,
    "views/fleet/columns.js": SCRIPT,
    "views/fleet/bulk.js": SCRIPT,
    "views/device/page.js": SCRIPT,
    "views/device/identity.js": SCRIPT,
    "views/device/tags.js": SCRIPT,
    "views/device/twin.js": SCRIPT,
    "views/device/history.js": SCRIPT,
    "views/device/commands.js": SCRIPT,
    "views/telemetry.js": SCRIPT,
    "views/rollouts.js": SCRIPT,
    "views/new_rollout.js": SCRIPT,
    "views/evidence.js": SCRIPT,
    "views/experiments.js": SCRIPT,
    "views/shadows.js": SCRIPT,
    "views/training.js": SCRIPT,
    "views/chart.js": SCRIPT,
    "views/compression.js": SCRIPT,
    "views/compression/report.js": SCRIPT,
    "views/compression/form.js": SCRIPT,
    "views/releases.js": SCRIPT,
    "views/hard.js": SCRIPT,
    "views/models.js": SCRIPT,
    "views/import_model.js": SCRIPT,
    "views/model_report.js": SCRIPT,
    "models.css": STYLE,
    "views/card.js": SCRIPT,
    "card.css": STYLE,
    "vendor/README.md": TEXT,
    "vendor/htm/standalone.module.js": SCRIPT,
    "vendor/htm/LICENSE-htm": TEXT,
    "vendor/htm/LICENSE-preact": TEXT,
    "vendor/uplot/uPlot.esm.js": SCRIPT,
    "vendor/uplot/uPlot.min.css": STYLE,
    "vendor/uplot/LICENSE": TEXT,
}

/// The page itself.
pub fn index() -> &'static Asset {
    &ASSETS[0]
}

/// The file at this path below `/console/`.
pub fn asset(path: &str) -> Option<&'static Asset> {
    ASSETS.iter().find(|asset| asset.path == path)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests fail by panicking")]
mod tests {
    use super::*;
    use std::path::Path;

    fn walk(folder: &Path, root: &Path, found: &mut Vec<String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, root, found);
            } else {
                found.push(path.strip_prefix(root).unwrap().to_str().unwrap().to_owned());
            }
        }
    }

    #[test]
    fn every_file_of_the_folder_is_embedded() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets");
        let mut found = Vec::new();
        walk(&root, &root, &mut found);
        for path in found {
            assert!(asset(&path).is_some(), "{path} is not in ASSETS");
        }
    }

    #[test]
    fn every_import_names_an_embedded_file() {
        for file in ASSETS.iter().filter(|a| a.content_type == SCRIPT || a.content_type == HTML) {
            let text = std::str::from_utf8(file.bytes).unwrap();
            for piece in text.split("/console/").skip(1) {
                let path: String =
                    piece.chars().take_while(|c| c.is_alphanumeric() || "/-_.".contains(*c)).collect();
                assert!(asset(&path).is_some(), "{} refers to {path}", file.path);
            }
        }
        assert_eq!(index().path, "index.html");
    }
}
