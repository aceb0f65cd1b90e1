//! What the fleet offers of experiments.

use super::request::ExperimentRequest;
use super::state::Experiment;
use crate::error::Result;
use crate::fleet::Fleet;
use flotilla_gates::versus::Side;
use flotilla_identity::{Actor, now_ms};
use flotilla_protocol::ExperimentId;

impl Fleet {
    /// Starts an experiment: two releases on two halves of some devices.
    pub async fn start_experiment(&self, actor: &Actor, request: ExperimentRequest) -> Result<Experiment> {
        self.inner.experiments.start(actor, request, now_ms()).await
    }

    /// A page of the experiments before `after`, newest first.
    pub async fn experiments(&self, after: Option<&ExperimentId>, limit: usize) -> Result<Vec<Experiment>> {
        self.inner.experiments.list(after, limit).await
    }

    /// An experiment.
    pub async fn experiment(&self, id: &ExperimentId) -> Result<Experiment> {
        self.inner.experiments.get(id).await
    }

    /// Ends an experiment. Devices keep what they have, or both halves go back to what they ran before.
    pub async fn stop_experiment(&self, actor: &Actor, id: &ExperimentId, back: bool) -> Result<Experiment> {
        self.inner.experiments.stop(actor, id, back, now_ms()).await
    }

    /// Promotes a release, the winner where none is named, to the devices of the other half, or to all whose devices took part.
    pub async fn promote_experiment(
        &self,
        actor: &Actor,
        id: &ExperimentId,
        side: Option<Side>,
        to_all: bool,
    ) -> Result<Experiment> {
        self.inner.experiments.promote(actor, id, side, to_all, now_ms()).await
    }
}
