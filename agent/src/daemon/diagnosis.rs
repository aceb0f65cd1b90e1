//! The command `diagnostics`: the device examines itself and reports what it finds. And what the doctor may see of the
//! daemon's own files.

use super::{Daemon, News, state};
use crate::clock::Clock;
use crate::doctor;
use crate::folder::Folder;
use flotilla_device::command::Event;
use flotilla_protocol::ErrorCode;
use flotilla_protocol::message::{CommandState, Diagnosis};

/// What the small files say, for the doctor.
pub(crate) struct Stored {
    /// Version of the accepted desired document.
    pub(crate) accepted: u64,
    /// The latest moment that a signature proved.
    pub(crate) proof_ms: u64,
    /// What is damaged.
    pub(crate) damage: Vec<String>,
}

/// Reads the small files.
pub(crate) fn stored(folder: &Folder) -> Stored {
    let mut damage = state::Damage::new();
    let accepted = state::Accepted::read(folder, &mut damage);
    state::counter(folder, &Clock::new(accepted.proof_ms), &mut damage);
    state::commands(folder, &mut damage);
    Stored { accepted: accepted.desired_version, proof_ms: accepted.proof_ms, damage }
}

impl Daemon {
    /// Starts an examination for a command; one that runs already serves it as well.
    pub(super) fn examine(&mut self, command: u64) {
        let runs = !self.examining.is_empty();
        self.examining.insert(command);
        if runs {
            return;
        }
        let (folder, news) = (self.options.folder.clone(), self.news.clone());
        tokio::spawn(async move {
            let examined = tokio::spawn(async move { doctor::examine(&folder).await }).await;
            // Nobody listens any more only when the agent stops.
            let _ = news.send(News::Examined(examined.map_err(|e| e.to_string()))).await;
        });
    }

    /// The examination has ended, for everybody who waits for it.
    pub(super) fn on_examined(&mut self, examined: Result<Diagnosis, String>) {
        for id in std::mem::take(&mut self.examining) {
            let (state, diagnosis) = match &examined {
                Ok(diagnosis) => (CommandState::Done, Some(diagnosis.clone())),
                Err(problem) => {
                    let detail = format!("the examination ended badly: {problem}");
                    (CommandState::Failed { code: ErrorCode::Internal, detail }, None)
                }
            };
            self.command(Event::Ended { id, state, diagnosis });
        }
    }
}
