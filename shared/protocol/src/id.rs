//! Typed ids. All share one alphabet, safe in topics, file names, URLs and certificates.

use crate::limits;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Why a text is not an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a {kind} id: use 1 to {max} characters of a-z, 0-9, '-', '_' or '.', starting with a letter or digit", max = limits::ID)]
pub struct InvalidId {
    /// Which kind of id was expected.
    pub kind: &'static str,
    /// The text that was given, cut to the bound.
    pub text: String,
}

fn check(kind: &'static str, text: &str) -> Result<(), InvalidId> {
    let well_formed = !text.is_empty()
        && text.len() <= limits::ID
        && text.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(&b))
        && !text.contains("..");
    if well_formed {
        return Ok(());
    }
    Err(InvalidId { kind, text: text.chars().take(limits::ID).collect() })
}

macro_rules! ids {
    ($($(#[doc = $doc:literal])+ $name:ident = $kind:literal, $prefix:literal;)+) => {$(
        $(#[doc = $doc])+
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// The id with this text, if it is well-formed.
            pub fn new(text: impl Into<String>) -> Result<Self, InvalidId> {
                let text = text.into();
                check($kind, &text)?;
                Ok(Self(text))
            }

            /// A new random id: a prefix that names the kind, and 64 random bits.
            pub fn random() -> Self {
                Self(format!("{}-{:016x}", $prefix, rand::random::<u64>()))
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                Self::new(text)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                Self::new(String::deserialize(d)?).map_err(serde::de::Error::custom)
            }
        }
    )+};
}

ids! {
    /// A tenant of an installation.
    ProjectId = "project", "project";
    /// One edge device within its project.
    DeviceId = "device", "device";
    /// Who acts: a user, a service account or a device.
    ActorId = "actor", "actor";
    /// A dataset within its project.
    DatasetName = "dataset", "dataset";
    /// A model within its project; a device runs at most one release of each.
    ModelName = "model", "model";
    /// A job in the queue.
    JobId = "job", "job";
    /// A group of devices within its project.
    GroupName = "group", "group";
    /// A rollout.
    RolloutId = "rollout", "rollout";
    /// A comparison of two releases.
    ExperimentId = "experiment", "experiment";
}
