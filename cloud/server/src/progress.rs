//! Progress on stderr: a bar in a terminal, plain lines otherwise. Stdout stays free for the report.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::sync::{Arc, Mutex};

/// Lines a stage prints without a terminal, at most: every tenth of the way.
const STEPS: u64 = 10;

/// Where progress goes. Clones share one display.
#[derive(Clone)]
pub(crate) struct Progress {
    shared: Arc<Mutex<Shared>>,
}

struct Shared {
    terminal: bool,
    bar: Option<ProgressBar>,
    last_step: u64,
    /// Of what the last step was a part: another sub-stage counts anew.
    last_total: Option<u64>,
}

impl Progress {
    /// A display on stderr.
    pub(crate) fn new() -> Self {
        let shared =
            Shared { terminal: std::io::stderr().is_terminal(), bar: None, last_step: 0, last_total: None };
        Self { shared: Arc::new(Mutex::new(shared)) }
    }

    /// A stage begins.
    pub(crate) fn stage(&self, stage: &str, text: &str) {
        self.with(|shared| {
            shared.clear();
            if shared.terminal {
                let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
                bar.set_style(style("{prefix:>10} {spinner} {msg}"));
                bar.set_prefix(stage.to_owned());
                bar.set_message(text.to_owned());
                bar.enable_steady_tick(std::time::Duration::from_millis(120));
                shared.bar = Some(bar);
            } else {
                eprintln!("{stage:>10}  {text}");
            }
        });
    }

    /// The stage is `done` far, of `total` where that is known.
    pub(crate) fn update(&self, stage: &str, done: u64, total: Option<u64>, text: &str) {
        let Some(total) = total.filter(|total| *total > 0) else {
            return self.count(stage, done, text);
        };
        self.with(|shared| match &shared.bar {
            Some(bar) => {
                if bar.length() != Some(total) {
                    bar.set_style(style("{prefix:>10} [{bar:30}] {pos}/{len} {msg}"));
                    bar.set_length(total);
                }
                bar.set_position(done);
                bar.set_message(text.to_owned());
            }
            None => {
                let step = done.saturating_mul(STEPS) / total;
                if shared.last_total.replace(total) != Some(total) || done == 0 {
                    shared.last_step = 0;
                }
                if step > shared.last_step {
                    shared.last_step = step;
                    eprintln!("{stage:>10}  {done}/{total} {text}");
                }
            }
        });
    }

    /// The stage is `done` far, and nobody knows of how much. Without a terminal a line is printed at each
    /// doubling.
    fn count(&self, stage: &str, done: u64, text: &str) {
        self.with(|shared| match &shared.bar {
            Some(bar) if done == 0 => bar.set_message(text.to_owned()),
            Some(bar) => bar.set_message(format!("{done} {text}")),
            None => {
                let step = u64::from(u64::BITS - done.leading_zeros());
                if step > shared.last_step {
                    shared.last_step = step;
                    eprintln!("{stage:>10}  {done} {text}");
                }
            }
        });
    }

    /// The stage is over, and its result is said elsewhere.
    pub(crate) fn clear(&self) {
        self.with(Shared::clear);
    }

    /// The stage is over.
    pub(crate) fn done(&self, stage: &str, text: &str) {
        self.with(|shared| {
            shared.clear();
            eprintln!("{stage:>10}  {text}");
        });
    }

    /// A plain line.
    pub(crate) fn line(&self, text: &str) {
        self.with(|shared| {
            shared.clear();
            eprintln!("{text}");
        });
    }

    fn with(&self, work: impl FnOnce(&mut Shared)) {
        work(&mut self.shared.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
    }
}

impl Shared {
    fn clear(&mut self) {
        (self.last_step, self.last_total) = (0, None);
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ")
}
