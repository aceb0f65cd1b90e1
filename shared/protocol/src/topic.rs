//! MQTT topics, text <-> type. The only place with topic strings.
//!
//! ```
//! use flotilla_protocol::topic::{Topic, Up};
//! use flotilla_protocol::{DeviceId, ProjectId};
//! let topic = Topic::up(&"default".parse::<ProjectId>()?, &"gate-7".parse::<DeviceId>()?, Up::Hello);
//! assert_eq!(topic.to_string(), "flotilla/v1/default/gate-7/hello");
//! assert_eq!("flotilla/v1/default/gate-7/hello".parse::<Topic>()?, topic);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use crate::{DeviceId, ProjectId};
use std::fmt;
use std::str::FromStr;

const ROOT: &str = "flotilla/v1";

macro_rules! channels {
    ($($(#[doc = $doc:literal])+ $name:ident { $($(#[doc = $vdoc:literal])+ $variant:ident = $text:literal,)+ })+) => {$(
        $(#[doc = $doc])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $($(#[doc = $vdoc])+ $variant,)+ }

        impl $name {
            /// Every channel of this direction.
            pub const ALL: &'static [$name] = &[$($name::$variant,)+];

            /// The last level of the topic.
            pub fn as_str(self) -> &'static str {
                match self { $($name::$variant => $text,)+ }
            }

            fn from_text(text: &str) -> Option<Self> {
                match text { $($text => Some($name::$variant),)+ _ => None }
            }
        }
    )+};
}

channels! {
    /// What a device publishes.
    Up {
        /// First message of every connection.
        Hello = "hello",
        /// What the device runs now.
        Reported = "reported",
        /// Batches of the live and backlog streams.
        Telemetry = "telemetry",
        /// Batches of the event stream.
        Event = "event",
        /// Asks for bytes by digest.
        Fetch = "fetch",
        /// Asks the cloud for anything else.
        Request = "request",
        /// Sends bytes to the cloud.
        Upload = "upload",
    }
    /// What a device subscribes to.
    Down {
        /// The signed wanted state.
        Desired = "desired",
        /// Answers to `fetch`.
        Chunk = "chunk",
        /// Answers to `request`, and refusals.
        Reply = "reply",
        /// Records that are durable in the cloud.
        Ack = "ack",
    }
}

/// A direction and channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Channel {
    /// Device to cloud.
    Up(Up),
    /// Cloud to device.
    Down(Down),
}

/// A topic of one device.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Topic {
    /// The device's project.
    pub project: ProjectId,
    /// The device.
    pub device: DeviceId,
    /// Direction and channel.
    pub channel: Channel,
}

/// Why a text is not a topic of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a topic of the form {ROOT}/PROJECT/DEVICE/CHANNEL")]
pub struct InvalidTopic;

impl Topic {
    /// A topic that a device publishes to.
    pub fn up(project: &ProjectId, device: &DeviceId, channel: Up) -> Self {
        Self { project: project.clone(), device: device.clone(), channel: Channel::Up(channel) }
    }

    /// A topic that a device subscribes to.
    pub fn down(project: &ProjectId, device: &DeviceId, channel: Down) -> Self {
        Self { project: project.clone(), device: device.clone(), channel: Channel::Down(channel) }
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let channel = match self.channel {
            Channel::Up(up) => up.as_str(),
            Channel::Down(down) => down.as_str(),
        };
        write!(f, "{ROOT}/{}/{}/{channel}", self.project, self.device)
    }
}

impl FromStr for Topic {
    type Err = InvalidTopic;
    fn from_str(text: &str) -> Result<Self, InvalidTopic> {
        let rest = text.strip_prefix(ROOT).and_then(|r| r.strip_prefix('/')).ok_or(InvalidTopic)?;
        let mut levels = rest.split('/');
        let (Some(project), Some(device), Some(channel), None) =
            (levels.next(), levels.next(), levels.next(), levels.next())
        else {
            return Err(InvalidTopic);
        };
        let channel = Up::from_text(channel)
            .map(Channel::Up)
            .or_else(|| Down::from_text(channel).map(Channel::Down))
            .ok_or(InvalidTopic)?;
        Ok(Self {
            project: project.parse().map_err(|_| InvalidTopic)?,
            device: device.parse().map_err(|_| InvalidTopic)?,
            channel,
        })
    }
}
