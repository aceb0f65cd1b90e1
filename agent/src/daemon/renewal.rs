//! The certificate: performs what its machine says. A new pair lies durably beside the present one before it is used,
//! and takes its place only when the cloud has answered to it.

use super::{Daemon, News};
use crate::Error;
use crate::enrol::{Renewal as Question, check_certificate, signing_request};
use crate::identity::Identity;
use crate::pairs;
use flotilla_device::renewal::{Effect, Event, Now, Pair, Renewal, Road};
use flotilla_device::{Fault, session};
use flotilla_protocol::message::{EventKind, ReplyBody, RequestBody};
use flotilla_protocol::{Digest, ErrorCode};
use rcgen::PublicKeyData;
use serde_json::{Value, json};

/// The machine of a device as it lies on the disk.
pub(super) fn machine(identity: &Identity) -> Renewal {
    let digest = Digest::of(identity.present.serial.as_bytes());
    let spread = digest.as_bytes().iter().take(8).fold(0, |all, byte| (all << 8) | u64::from(*byte));
    Renewal::new(identity.present.life, identity.next.as_ref().map(|next| next.life), spread)
}

impl Daemon {
    fn renewal_now(&self) -> Now {
        Now { ms: self.clock.now_ms(), calendar_ms: self.clock.trusted_ms() }
    }

    /// One step of the machine.
    pub(super) fn renewal(&mut self, event: Event) {
        let (next, effects) = self.renewal.step(event, self.renewal_now(), rand::random());
        self.status_stale |= next.state() != self.renewal.state();
        self.renewal = next;
        for effect in effects {
            match effect {
                Effect::Ask(Road::Link) => self.ask_over_the_link(),
                Effect::Ask(Road::Https) => self.ask_over_https(),
                Effect::Reconnect => {
                    self.drop_link();
                    self.session(session::Event::Lost);
                }
                Effect::Adopt => self.adopt(),
                Effect::Discard => {
                    self.identity.next = None;
                    tracing::warn!("the new certificate does not work and is thrown away");
                    if let Err(error) = pairs::discard(&self.options.folder) {
                        tracing::warn!(%error, "it stays on the disk for now");
                    }
                }
                Effect::ScheduleTick { at_ms } => self.renewal_tick_ms = Some(at_ms),
            }
        }
    }

    fn ask_over_the_link(&mut self) {
        let csr = pairs::asked_key(&self.options.folder).and_then(|key| signing_request(&key));
        match csr {
            Ok(csr_pem) => {
                tracing::info!("a new certificate is due and asked for");
                self.certificate_question = self.ask(RequestBody::Certificate { csr_pem });
            }
            Err(error) => self.no_certificate(error.code(), &error.to_string()),
        }
    }

    /// The answer to the question over the link.
    pub(super) fn on_certificate(&mut self, body: ReplyBody) {
        match body {
            ReplyBody::Certificate { chain_pem } => self.take(&chain_pem),
            ReplyBody::Error { code, detail } => self.no_certificate(code, &detail),
            ReplyBody::Ok | ReplyBody::Trust(_) | ReplyBody::Stored { .. } => {
                self.no_certificate(ErrorCode::Malformed, "the answer is of another kind")
            }
        }
    }

    fn ask_over_https(&mut self) {
        let folder = &self.options.folder;
        let parts = pairs::asked_key(folder)
            .and_then(|key| Ok((Digest::of(&key.subject_public_key_info()), signing_request(&key)?)));
        let question = parts.and_then(|(key, csr_pem)| {
            tracing::info!(%key, "the certificate has ended; a new one is asked for over HTTPS");
            Ok(Question {
                names: self.identity.names.clone(),
                ca: self.identity.ca.clone(),
                keys: pairs::known_keys(folder)?,
                csr_pem,
            })
        });
        match question {
            Ok(question) => {
                let (clock, news) = (self.clock.clone(), self.news.clone());
                self.https_question += 1;
                let number = self.https_question;
                tokio::spawn(async move {
                    let outcome = question.ask(&clock).await;
                    // Nobody hears it when the agent stops; the next start asks again.
                    let _ = news.send(News::Certificate(number, outcome)).await;
                });
            }
            Err(error) => self.no_certificate(error.code(), &error.to_string()),
        }
    }

    /// The outcome of a question over HTTPS. One that was given up is of no interest: what the cloud signs later over the
    /// same key takes its place there.
    pub(super) fn on_renewed(&mut self, question: u64, outcome: Result<Option<String>, Error>) {
        if question != self.https_question {
            return;
        }
        match outcome {
            Ok(Some(chain_pem)) => self.take(&chain_pem),
            Ok(None) => {
                tracing::info!("the new certificate waits for an approval in the control plane");
                self.renewal_problem = None;
                self.status_stale = true;
                self.renewal(Event::NotYet);
            }
            Err(error) => self.no_certificate(error.code(), &error.to_string()),
        }
    }

    /// Checks a certificate as at enrolment and stores it beside the present one.
    fn take(&mut self, chain_pem: &str) {
        if !self.renewal.has_asked() {
            // Too late: it was given up, and may have been replaced in the cloud.
            return;
        }
        match self.store_next(chain_pem) {
            Ok(event) => {
                tracing::info!("a new certificate is stored; it is tried now");
                self.renewal_problem = None;
                self.renewal(event);
            }
            Err(fault) => self.no_certificate(fault.code, &fault.detail),
        }
    }

    fn store_next(&mut self, chain_pem: &str) -> Result<Event, Fault> {
        let folder = &self.options.folder;
        let failed = |error: &Error| Fault::transient(error.code(), error.to_string());
        let key = pairs::asked_key(folder).map_err(|e| failed(&e))?;
        let Identity { names, ca, .. } = &self.identity;
        check_certificate(chain_pem, ca.clone(), &key, names, self.clock.trusted_ms())?;
        pairs::store_next(folder, &key, chain_pem).map_err(|e| failed(&e.into()))?;
        let unusable = || Fault::lasting(ErrorCode::StorageCorrupt, "it cannot be read back");
        let next = pairs::next(folder, ca, &self.clock).ok_or_else(unusable)?;
        let life = next.life;
        self.identity.next = Some(next);
        Ok(Event::Stored(life))
    }

    fn no_certificate(&mut self, code: ErrorCode, problem: &str) {
        tracing::warn!(%code, problem, "no new certificate; it is asked for again");
        // The same reason is recorded once until there is another outcome.
        if self.renewal_problem.replace((code, problem.to_owned())).map(|(code, _)| code) != Some(code) {
            self.event(EventKind::Failed, Some(code), format!("certificate renewal: {problem}"));
        }
        self.status_stale = true;
        self.renewal(Event::NotYet);
    }

    fn adopt(&mut self) {
        if let Err(error) = pairs::adopt(&self.options.folder) {
            tracing::error!(%error, "the new certificate cannot take over yet");
            return self.renewal(Event::NotAdopted);
        }
        if let Some(next) = self.identity.next.take() {
            self.identity.present = next;
            self.link_pair = Pair::Present;
        }
        tracing::info!(serial = self.identity.present.serial, "the new certificate has taken over");
        self.status_stale = true;
        self.renewal(Event::Adopted);
        self.certificate_commands();
    }

    /// What `/status` shows of it.
    pub(super) fn certificate_status(&self) -> Value {
        let problem =
            self.renewal_problem.as_ref().map(|(code, detail)| json!({ "code": code, "detail": detail }));
        json!({
            "serial": self.identity.present.serial,
            "ends_at_ms": self.renewal.present().ends_ms,
            "expired": self.renewal.is_expired(self.renewal_now()),
            "renewal": self.renewal.state(),
            "problem": problem,
        })
    }
}
