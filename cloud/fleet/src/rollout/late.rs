//! Devices that come into the group of a rollout later are taken into its last wave.

use super::service::{ROLLOUT_DEVICES, Rollouts, subject};
use super::state::{RolloutDevice, Status};
use super::work::Work;
use crate::error::Result;
use flotilla_identity::{Actor, audit};
use flotilla_storage::Batch;
use serde_json::json;

/// How often they are looked for.
const EVERY_MS: u64 = 10_000;
/// Devices that are taken in at once; others follow the next time.
const AT_ONCE: usize = 256;

impl Rollouts {
    /// Takes late comers in, if it is time to look for them. Where another change comes first they are found the next time.
    pub(super) async fn take_in(&self, work: &mut Work, now_ms: u64) -> Result<()> {
        let rollout = &work.rollout.value;
        let Some(group) = rollout.followed() else { return Ok(()) };
        let is_due = |at: u64| now_ms < at || now_ms - at >= EVERY_MS;
        if !work.joined_ms.is_none_or(is_due) {
            return Ok(());
        }
        let members = match self.groups.members(group).await {
            Ok(members) => members,
            Err(error) => {
                tracing::warn!(rollout = %rollout.id, %group, %error, "nobody is taken in now");
                Vec::new()
            }
        };
        let room = ROLLOUT_DEVICES.saturating_sub(work.devices.len()).min(AT_ONCE);
        let late: Vec<_> = members.into_iter().filter(|device| !work.has(device)).take(room).collect();
        let (mut changed, mut devices, mut batch) = (rollout.clone(), Vec::new(), Batch::new());
        for (device, position) in late.into_iter().zip(work.devices.len()..) {
            let zone = match rollout.policy.window {
                Some(_) => self.zone(&device).await?,
                None => None,
            };
            let device = RolloutDevice {
                rollout: rollout.id.clone(),
                device,
                position: u32::try_from(position).unwrap_or(u32::MAX),
                wave: u32::try_from(rollout.waves.len().saturating_sub(1)).unwrap_or(u32::MAX),
                status: Status::Pending,
                sent: None,
                baseline: None,
                shadow: None,
                tries: 0,
                zone,
            };
            self.store.rollout_devices.insert(&mut batch, &device)?;
            devices.push(device);
        }
        work.joined_ms = Some(now_ms);
        if devices.is_empty() {
            return Ok(());
        }
        changed.take_in(u32::try_from(devices.len()).unwrap_or(u32::MAX));
        self.store.rollouts.update(&mut batch, &work.rollout, &changed)?;
        let detail =
            json!({ "group": group, "devices": devices.iter().map(|late| &late.device).collect::<Vec<_>>() });
        audit::record(
            &mut batch,
            &Actor::system(),
            "rollout:take-in",
            &subject(&rollout.id),
            detail,
            now_ms,
        )?;
        match self.store.committed(batch).await? {
            Some(version) => {
                self.changes.rollout(&changed.id);
                work.taken_in(changed, devices, version);
            }
            None => work.joined_ms = None,
        }
        Ok(())
    }
}
