//! What an actor may do. Default deny: what is not granted here is refused.

use crate::actor::{Actor, ActorKind};
use crate::error::{Error, Result};
use std::fmt;

macro_rules! permissions {
    ($($(#[doc = $doc:literal])+ $name:ident = $text:literal,)+) => {
        /// One thing that can be allowed. The names are stable: routes, policies and the audit trail use them.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Permission {
            $($(#[doc = $doc])+ $name,)+
        }

        impl Permission {
            /// Every permission.
            pub const ALL: &'static [Permission] = &[$(Permission::$name,)+];

            /// The stable name.
            pub fn as_str(self) -> &'static str {
                match self { $(Permission::$name => $text,)+ }
            }
        }
    };
}

permissions! {
    /// See the server's state, version and metrics.
    ServerRead = "server:read",
    /// Make one-time addresses that open the console as the administrator.
    ServerLogin = "server:login",
    /// Read the audit trail.
    AuditRead = "audit:read",
    /// List and read datasets and their samples.
    DatasetRead = "dataset:read",
    /// Import data as a dataset version.
    DatasetImport = "dataset:import",
    /// List and see the hard examples that devices send.
    ExampleRead = "example:read",
    /// Accept hard examples as samples, or reject them.
    ExampleReview = "example:review",
    /// List and read jobs, their metrics and logs.
    JobRead = "job:read",
    /// Cancel a job.
    JobCancel = "job:cancel",
    /// Start a training job.
    TrainCreate = "train:create",
    /// Start a compression job.
    CompressCreate = "compress:create",
    /// List, read and export models and their versions.
    ModelRead = "model:read",
    /// Import a model or a bundle.
    ModelImport = "model:import",
    /// Sign a model version as a release.
    ReleaseCreate = "release:create",
    /// List and read releases.
    ReleaseRead = "release:read",
    /// List and read devices.
    DeviceRead = "device:read",
    /// Make claim codes with which devices enrol.
    DeviceClaim = "device:claim",
    /// Approve or reject the renewal of a device's certificate.
    DeviceApprove = "device:approve",
    /// Replace the trust file by one that the release keys signed.
    TrustPublish = "trust:publish",
    /// Revoke a device, or change its settings.
    DeviceControl = "device:control",
    /// Start a rollout.
    RolloutCreate = "rollout:create",
    /// List and read rollouts.
    RolloutRead = "rollout:read",
    /// Pause, resume or abort a rollout.
    RolloutControl = "rollout:control",
    /// Approve or refuse rollouts that wait for it.
    RolloutApprove = "rollout:approve",
}

impl fmt::Display for Permission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Refuses unless the actor may do this.
pub fn authorize(actor: &Actor, permission: Permission) -> Result<()> {
    match actor.kind {
        ActorKind::Administrator | ActorKind::System => Ok(()),
        // Devices act over their own connection alone, where the broker decides by certificate and topic.
        ActorKind::Device => Err(Error::PermissionDenied { actor: actor.id.clone(), permission }),
    }
}
