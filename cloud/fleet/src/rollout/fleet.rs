//! What the fleet offers of rollouts.

use super::control::{DeviceControl, RolloutControl};
use super::preflight::Preflight;
use super::request::RolloutRequest;
use super::state::{Rollout, RolloutDevice, Status, Tally};
use crate::error::Result;
use crate::fleet::Fleet;
use crate::telemetry::{self, ReleaseTelemetry};
use flotilla_identity::{Actor, now_ms};
use flotilla_protocol::RolloutId;

impl Fleet {
    /// Starts a rollout.
    pub async fn start_rollout(&self, actor: &Actor, request: RolloutRequest) -> Result<Rollout> {
        self.inner.rollouts.start(actor, request, now_ms()).await
    }

    /// What a rollout would do, and who cannot take the release: nothing is changed.
    pub async fn preflight(&self, request: RolloutRequest) -> Result<Preflight> {
        self.inner.rollouts.preflight(request, now_ms()).await
    }

    /// Leaves devices of a rollout out, or tells them again.
    pub async fn control_rollout_devices(
        &self,
        actor: &Actor,
        id: &RolloutId,
        control: &DeviceControl,
    ) -> Result<Rollout> {
        self.inner.rollouts.control_devices(actor, id, control, now_ms()).await
    }

    /// Starts, approves, pauses, resumes, aborts or rolls back a rollout.
    pub async fn control_rollout(
        &self,
        actor: &Actor,
        id: &RolloutId,
        control: RolloutControl,
    ) -> Result<Rollout> {
        self.inner.rollouts.control(actor, id, control, now_ms()).await
    }

    /// A page of the rollouts before `after`, newest first.
    pub async fn rollouts(&self, after: Option<&RolloutId>, limit: usize) -> Result<Vec<Rollout>> {
        self.inner.rollouts.list(after, limit).await
    }

    /// A rollout.
    pub async fn rollout(&self, id: &RolloutId) -> Result<Rollout> {
        self.inner.rollouts.get(id).await
    }

    /// How many devices of each wave of a rollout stand where.
    pub async fn rollout_tallies(&self, rollout: &Rollout) -> Result<Vec<Tally>> {
        self.inner.rollouts.tallies(rollout).await
    }

    /// The devices of a rollout, in their order.
    pub async fn rollout_devices(&self, id: &RolloutId) -> Result<Vec<RolloutDevice>> {
        self.inner.rollouts.devices(id).await
    }

    /// Some devices of a rollout, in their order: those from this place on that stand like this.
    pub async fn some_rollout_devices(
        &self,
        id: &RolloutId,
        from: u32,
        limit: usize,
        wanted: impl Fn(&Status) -> bool,
    ) -> Result<Vec<RolloutDevice>> {
        self.inner.rollouts.some_devices(id, from, limit, wanted).await
    }

    /// What the devices of a rollout say of its release.
    pub async fn rollout_telemetry(&self, rollout: &Rollout) -> Result<ReleaseTelemetry> {
        let devices = self.inner.rollouts.devices(&rollout.id).await?;
        telemetry::of_rollout(&self.inner.store, rollout, &devices).await
    }
}
