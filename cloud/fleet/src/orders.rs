//! Orders for many devices at once. Each device's change is one commit with its audit record, and the device is told right
//! after it. One on which the order fails does not keep it from the others; neither does a caller that goes away.

use crate::devices::{self, TagChange, shadow};
use crate::error::{Error, Result};
use crate::fleet::Fleet;
use crate::rollout;
use crate::roster::Query;
use flotilla_identity::{Actor, now_ms};
use flotilla_protocol::manifest::agent_name;
use flotilla_protocol::message::{HardExamples, SHARE_ALL};
use flotilla_protocol::{DeviceId, Digest, ModelName};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Devices that one order names, at most.
const NAMED: usize = 10_000;

/// Which devices an order is for.
#[derive(Clone, Debug)]
pub enum Selection {
    /// These.
    Devices(Vec<DeviceId>),
    /// Those that may connect and that a query looks for at this moment, on whichever page.
    Matching(Query),
}

/// What became of an order on one device.
#[derive(Debug)]
pub struct Ordered {
    /// The device.
    pub device: DeviceId,
    /// Whether it was a change; or why it was not possible.
    pub outcome: Result<bool>,
}

impl Fleet {
    /// Lets devices keep and send inputs of a model; all that may connect where none are named.
    pub async fn consent(
        &self,
        actor: &Actor,
        named: Option<Vec<DeviceId>>,
        model: &ModelName,
        policy: &HardExamples,
    ) -> Result<Vec<Ordered>> {
        policy.check().map_err(|problem| Error::Invalid(problem.to_string()))?;
        not_the_agent(model)?;
        self.inner.parts.registry.model(model).await?;
        let targets = match named {
            Some(named) => distinct(named)?,
            None => devices::active_devices(&self.inner.store).await?,
        };
        self.consent_is(actor, targets, model, Some(policy.clone())).await
    }

    /// Takes that back, from all that have it where none are named: they delete what they have kept.
    pub async fn withdraw_consent(
        &self,
        actor: &Actor,
        named: Option<Vec<DeviceId>>,
        model: &ModelName,
    ) -> Result<Vec<Ordered>> {
        let targets = match named {
            Some(named) => distinct(named)?,
            None => devices::consented(&self.inner.store, model).await?,
        };
        self.consent_is(actor, targets, model, None).await
    }

    async fn consent_is(
        &self,
        actor: &Actor,
        targets: Vec<DeviceId>,
        model: &ModelName,
        policy: Option<HardExamples>,
    ) -> Result<Vec<Ordered>> {
        let order = Arc::new((actor.clone(), model.clone(), policy));
        let each = move |fleet: Fleet, id: DeviceId| {
            let order = order.clone();
            async move {
                let (actor, model, policy) = &*order;
                let changed =
                    devices::consent(&fleet.inner.store, actor, &id, model, policy.as_ref(), now_ms())
                        .await?;
                if changed {
                    fleet.inner.connections.desired_changed(&id);
                }
                // What was on its way is deleted, too.
                if policy.as_ref().is_none_or(|policy| policy.daily_bytes == 0) {
                    fleet.give_up_uploads(&id).await;
                }
                Ok(changed)
            }
        };
        self.order(targets, each).await
    }

    /// Lets a release, the newest where none is named, run beside the confirmed one of its model on these devices; on all
    /// that run the model where none are named.
    pub async fn start_shadow(
        &self,
        actor: &Actor,
        model: &ModelName,
        release: Option<&Digest>,
        named: Option<Vec<DeviceId>>,
        share_per_mille: u32,
    ) -> Result<Vec<Ordered>> {
        if !(1..=SHARE_ALL).contains(&share_per_mille) {
            let problem =
                format!("a share of the inputs is 1 to {SHARE_ALL} per mille, not {share_per_mille}");
            return Err(Error::Invalid(problem));
        }
        not_the_agent(model)?;
        let release = rollout::release(&self.inner.parts.registry, model, release).await?;
        let targets = match named {
            Some(named) => distinct(named)?,
            None => shadow::running(&self.inner.store, model).await?,
        };
        let order = Arc::new((actor.clone(), release));
        let each = move |fleet: Fleet, id: DeviceId| {
            let order = order.clone();
            async move {
                let (actor, release) = &*order;
                shadow::start(&fleet.inner.store, actor, release, &id, share_per_mille, now_ms()).await?;
                fleet.inner.connections.desired_changed(&id);
                Ok(true)
            }
        };
        self.order(targets, each).await
    }

    /// Ends the shadow of a model on these devices; on all that have one where none are named.
    pub async fn stop_shadow(
        &self,
        actor: &Actor,
        model: &ModelName,
        named: Option<Vec<DeviceId>>,
    ) -> Result<Vec<Ordered>> {
        let targets = match named {
            Some(named) => distinct(named)?,
            None => shadow::shadowed(&self.inner.store, model).await?,
        };
        let order = Arc::new((actor.clone(), model.clone()));
        let each = move |fleet: Fleet, id: DeviceId| {
            let order = order.clone();
            async move {
                let (actor, model) = &*order;
                let stopped = shadow::stop(&fleet.inner.store, actor, model, &id, now_ms()).await?;
                if stopped {
                    fleet.inner.connections.desired_changed(&id);
                }
                Ok(stopped)
            }
        };
        self.order(targets, each).await
    }

    /// Changes what is written on devices.
    pub async fn tag(&self, actor: &Actor, on: Selection, change: TagChange) -> Result<Vec<Ordered>> {
        change.check()?;
        let targets = self.selected(on).await?;
        let order = Arc::new((actor.clone(), change));
        let each = move |fleet: Fleet, id: DeviceId| {
            let order = order.clone();
            async move {
                let (actor, change) = &*order;
                devices::tag(&fleet.inner.store, actor, &id, change, now_ms()).await
            }
        };
        self.order(targets, each).await
    }

    /// Puts devices into quarantine for a reason, or without one releases them: they connect and work, and no rollout takes
    /// them.
    pub async fn quarantine(
        &self,
        actor: &Actor,
        on: Selection,
        reason: Option<String>,
    ) -> Result<Vec<Ordered>> {
        let targets = self.selected(on).await?;
        let order = Arc::new((actor.clone(), reason));
        let each = move |fleet: Fleet, id: DeviceId| {
            let order = order.clone();
            async move {
                let (actor, reason) = &*order;
                devices::quarantine(&fleet.inner.store, actor, &id, reason.as_deref(), now_ms()).await
            }
        };
        self.order(targets, each).await
    }

    /// Takes devices out of service for good: they never connect again, leave their static groups, and nothing is asked
    /// of them any more. Their history stays.
    pub async fn decommission(
        &self,
        actor: &Actor,
        named: Vec<DeviceId>,
        reason: String,
    ) -> Result<Vec<Ordered>> {
        let order = Arc::new((actor.clone(), reason));
        let each = move |fleet: Fleet, id: DeviceId| {
            let order = order.clone();
            async move {
                let (actor, reason) = &*order;
                let changed = devices::decommission(&fleet.inner.store, actor, &id, reason, now_ms()).await?;
                fleet.shut_out(&id).await;
                Ok(changed)
            }
        };
        self.order(distinct(named)?, each).await
    }

    /// Takes devices that wait for approval into the fleet, or, for a reason, shuts them out for good. Without names all
    /// that wait.
    pub async fn admit(
        &self,
        actor: &Actor,
        named: Option<Vec<DeviceId>>,
        rejected: Option<String>,
    ) -> Result<Vec<Ordered>> {
        let named = match named {
            Some(named) => named,
            None => match self.waiting().await? {
                nobody if nobody.is_empty() => return Ok(Vec::new()),
                all => all,
            },
        };
        let order = Arc::new((actor.clone(), rejected));
        let each = move |fleet: Fleet, id: DeviceId| {
            let order = order.clone();
            async move {
                let (actor, rejected) = &*order;
                let changed =
                    devices::admit(&fleet.inner.store, actor, &id, rejected.as_deref(), now_ms()).await?;
                if rejected.is_some() {
                    fleet.shut_out(&id).await;
                } else {
                    fleet.inner.connections.desired_changed(&id);
                    fleet.inner.changes.device(&id);
                }
                Ok(changed)
            }
        };
        self.order(distinct(named)?, each).await
    }

    /// The devices that wait for somebody's approval.
    async fn waiting(&self) -> Result<Vec<DeviceId>> {
        let rows = self.inner.groups.roster.rows().await?;
        Ok(rows.iter().filter(|row| row.state == devices::WAITING).map(|row| row.id.clone()).collect())
    }

    /// The devices that an order is for.
    async fn selected(&self, on: Selection) -> Result<Vec<DeviceId>> {
        match on {
            Selection::Devices(named) => distinct(named),
            Selection::Matching(query) => self.inner.groups.matching(&query).await,
        }
    }

    /// Carries an order out on one device after the other, in a task of its own: a caller that goes away would otherwise
    /// cut it in two.
    async fn order<F: Future<Output = Result<bool>> + Send + 'static>(
        &self,
        targets: Vec<DeviceId>,
        each: impl Fn(Fleet, DeviceId) -> F + Send + Sync + 'static,
    ) -> Result<Vec<Ordered>> {
        let fleet = self.clone();
        let task = self.inner.tasks.spawn(async move {
            let mut done = Vec::with_capacity(targets.len());
            for device in targets {
                let outcome = match fleet.inner.stop.is_cancelled() {
                    true => Err(Error::Stopping),
                    false => each(fleet.clone(), device.clone()).await,
                };
                if let Ok(true) = outcome {
                    fleet.inner.changes.device(&device);
                }
                done.push(Ordered { device, outcome });
            }
            done
        });
        task.await.map_err(|ended| match ended.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Error::Stopping,
        })
    }
}

fn distinct(named: Vec<DeviceId>) -> Result<Vec<DeviceId>> {
    let distinct: BTreeSet<DeviceId> = named.into_iter().collect();
    match distinct.len() {
        0 => Err(Error::Invalid("the order names no device".into())),
        1..=NAMED => Ok(distinct.into_iter().collect()),
        _ => Err(Error::Busy { what: "the devices of one order", bound: NAMED }),
    }
}

fn not_the_agent(model: &ModelName) -> Result<()> {
    if *model == agent_name() {
        return Err(Error::Invalid(format!("{model} is the agent itself and no model that predicts")));
    }
    Ok(())
}
