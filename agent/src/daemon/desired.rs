//! The desired document and the trust file: taken when they are believed and newer, stored, then acted on.

use super::{Daemon, state};
use crate::folder::DESIRED;
use crate::identity::store_trust;
use flotilla_device::desired::{Accepted, accept};
use flotilla_device::update::Event;
use flotilla_device::{renewal, session};
use flotilla_protocol::message::{DesiredModel, EventKind, ReplyBody, RequestBody, Settings};
use flotilla_protocol::topic::Down;
use flotilla_protocol::{Envelope, ErrorCode, ModelName, limits};
use std::collections::BTreeSet;

impl Daemon {
    /// The desired document that was accepted last goes on being the wanted state, once it is applied.
    pub(super) fn read_desired(&mut self) {
        let stored = self.options.folder.disk().read(DESIRED.as_ref(), limits::ENVELOPE);
        let bytes = match stored {
            Ok(None) => return,
            Ok(Some(bytes)) => bytes,
            Err(error) => {
                tracing::warn!(%error, "the stored desired document cannot be read");
                return;
            }
        };
        // A document that was stored but not noted down as accepted yet is as good as accepted.
        match self.believe(&bytes) {
            Ok(accepted) => {
                self.accepted_version = accepted.desired.version;
                self.desired = Some(accepted.desired);
            }
            Err((code, problem)) => {
                // The cloud sends it again.
                self.event(EventKind::Repaired, Some(code), format!("{DESIRED}: {problem}"));
            }
        }
    }

    fn believe(&self, bytes: &[u8]) -> Result<Accepted, (ErrorCode, String)> {
        let envelope = Envelope::from_bytes(bytes).map_err(|e| (e.code(), e.to_string()))?;
        let accepted = accept(&envelope, &self.trust, &self.identity.names.device, self.accepted_version)
            .map_err(|e| (e.code(), e.to_string()))?;
        self.clock.observe_signed(accepted.desired.issued_at_ms);
        Ok(accepted)
    }

    /// A desired document came.
    pub(super) fn on_desired(&mut self, bytes: &[u8]) {
        let accepted = match self.believe(bytes) {
            Ok(accepted) => accepted,
            Err((code, problem)) => return self.refuse_desired(code, problem),
        };
        self.desired_refusal = None;
        // It was signed just now, for this connection.
        self.clock.observe_present(accepted.desired.issued_at_ms);
        let ahead = i128::from(self.clock.wall_ms()) - i128::from(accepted.desired.issued_at_ms);
        self.clock_ahead_ms = Some(ahead.clamp(i64::MIN.into(), i64::MAX.into()) as i64);
        self.status_stale = true;
        if accepted.newer || self.desired.is_none() {
            let version = accepted.desired.version;
            let noted = state::Accepted { desired_version: version, proof_ms: self.clock.proof_ms() };
            if let Err(error) = noted.store_with(bytes, &self.options.folder) {
                tracing::error!(%error, version, "a desired document cannot be stored, so it is not acted on");
                return self.lose_link();
            }
            tracing::info!(version, models = accepted.desired.models.len(), "desired");
            self.accepted_version = version;
            self.desired = Some(accepted.desired);
            self.apply();
        } else {
            // One that was on the disk: its commands wait for the cloud's time.
            self.do_commands();
        }
        self.link_hard_examples();
        self.session(session::Event::DesiredSeen);
        // An answer to the hello: the pair of this connection works.
        self.renewal(renewal::Event::Heard(self.link_pair));
    }

    /// A refused document changes nothing. The same reason is recorded once until a good document comes.
    fn refuse_desired(&mut self, code: ErrorCode, problem: String) {
        tracing::warn!(%code, %problem, "a desired document was refused");
        if self.desired_refusal.replace(code) == Some(code) {
            return;
        }
        self.unusable(Down::Desired, code, problem);
        if code == ErrorCode::SignatureInvalid {
            // The control key may have been replaced.
            self.ask_for_trust();
        }
    }

    pub(super) fn settings(&self) -> Settings {
        self.desired.as_ref().map(|desired| desired.settings.clone()).unwrap_or_default()
    }

    /// The release that the accepted document names for a model.
    pub(super) fn wanted(&self, name: &ModelName) -> Option<DesiredModel> {
        self.desired.as_ref()?.models.get(name).cloned()
    }

    /// Writes anew what was damaged, so that it is said once.
    pub(super) fn mend_small_files(&mut self) {
        let noted =
            state::Accepted { desired_version: self.accepted_version, proof_ms: self.clock.proof_ms() };
        if let Err(error) = noted.store(&self.options.folder) {
            tracing::warn!(%error, "what was accepted cannot be noted anew");
        }
        if let Err(error) = state::store_commands(&self.options.folder, self.commands.reports()) {
            tracing::warn!(%error, "commands cannot be noted anew");
        }
    }

    /// Takes the accepted document, if there is one, for what is wanted.
    pub(super) fn apply(&mut self) {
        if self.desired.is_none() {
            return;
        }
        let settings = self.settings();
        self.fetcher.configure(&settings);
        self.host.set_drift_threshold(settings.drift_threshold_milli);
        self.desired.iter().for_each(|desired| self.hard.configure(desired));
        let wanted: BTreeSet<ModelName> =
            self.desired.iter().flat_map(|desired| desired.models.keys().cloned()).collect();
        for name in &wanted {
            if !self.models.contains_key(name) {
                // It may be on the disk all the same, where its folder could not be listed.
                let journal = self.journal(name);
                self.add(name, journal);
            }
        }
        let all: Vec<ModelName> = self.models.keys().cloned().collect();
        for name in all {
            let wanted = self.wanted(&name);
            self.give(&name, Event::Desired(wanted));
        }
        self.want_shadows();
        self.want_agent();
        self.do_commands();
        self.status_stale = true;
        self.session(session::Event::ReportChanged);
    }

    pub(super) fn ask_for_trust(&mut self) {
        let id = self.ask(RequestBody::Trust { have: self.trust.version });
        self.trust_questions.extend(id);
    }

    /// The answer to a question for the trust file. After a newer one the next is asked for: each is signed by the
    /// keys of the one before.
    pub(super) fn on_trust(&mut self, body: ReplyBody) {
        let bytes = match body {
            ReplyBody::Trust(bytes) => bytes,
            ReplyBody::Ok | ReplyBody::Certificate { .. } | ReplyBody::Stored { .. } => return,
            ReplyBody::Error { code, detail } => {
                tracing::debug!(%code, %detail, "no newer trust file");
                return;
            }
        };
        let next = Envelope::from_bytes(&bytes).map_err(|e| (e.code(), e.to_string())).and_then(|envelope| {
            let next = self.trust.accept_next(&envelope).map_err(|e| (e.code(), e.to_string()))?;
            if next.ca != self.trust.ca {
                // The certificate of this device is of the present CA; a new one takes a new enrolment.
                return Err((ErrorCode::CaMismatch, "the trust file names another CA".to_owned()));
            }
            Ok((envelope, next))
        });
        let (envelope, next) = match next {
            Ok(next) => next,
            Err((code, problem)) => {
                tracing::warn!(%code, %problem, "a trust file was refused");
                return self.event(EventKind::Failed, Some(code), problem);
            }
        };
        if let Err(error) = store_trust(&self.options.folder, &envelope) {
            tracing::error!(%error, "a newer trust file cannot be stored, so it is not used");
            return;
        }
        tracing::info!(version = next.version, "trust");
        self.clock.observe_signed(next.issued_at_ms);
        self.trust = next;
        self.status_stale = true;
        self.ask_for_trust();
        if self.desired_refusal.take() == Some(ErrorCode::SignatureInvalid) {
            self.ask(RequestBody::Desired);
        }
    }
}
