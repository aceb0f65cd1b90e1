//! Whether a new agent can be called healthy.
//!
//! Every model that served under the agent before it must serve, and it must have a session where that one had one.
//! Nobody can tell an agent that cannot reach its control plane any more from a network that is gone. So one that had a
//! session to lose goes back when it gets none in time; that is reported, and the release is tried again a few times
//! once the agent before it has a session again. An agent that was handed over without a session need not have one, as
//! long as nobody refuses it.

use super::Upgrade;
use crate::daemon::Daemon;
use flotilla_device::update::{Health, Unready};
use flotilla_protocol::message::ModelTelemetry;

impl Daemon {
    /// Why this agent cannot be called healthy now.
    pub(super) fn unready(&self) -> Option<(Unready, String)> {
        let trial = self.upgrade.as_ref().and_then(Upgrade::own_trial);
        let silent: Vec<&str> = self.silent_models().collect();
        if silent.len() > trial.map_or(0, |trial| trial.silent as usize) {
            return Some((Unready::Silent, format!("models that do not serve: {}", silent.join(", "))));
        }
        let problem = self.link_problem.as_ref();
        let online = trial.is_some_and(|trial| trial.online);
        let why = Unready::of_link(self.session.is_up(), problem.map(|(code, _)| *code), online)?;
        let detail = problem.map_or_else(String::new, |(code, detail)| format!(": {detail} ({code})"));
        Some((why, format!("there is no session{detail}")))
    }

    /// Models with a confirmed release that does not serve.
    pub(super) fn silent_models(&self) -> impl Iterator<Item = &str> {
        let silent = self.models.iter().filter(|(name, model)| {
            model.update.journal().confirmed.is_some() && self.host.served(name).is_none()
        });
        silent.map(|(name, _)| name.as_str())
    }

    /// How this agent and all its models do since it started.
    pub(super) fn health_of_all(&self) -> Health {
        let telemetry = self.host.telemetry();
        let sum =
            |count: fn(&ModelTelemetry) -> u64| telemetry.values().map(count).fold(0, u64::saturating_add);
        Health {
            predictions: sum(|model| model.predictions),
            failures: sum(|model| model.failures),
            unready: self.unready().map(|(why, _)| why),
            ..Health::default()
        }
    }
}
