//! `flotilla device list|label|attribute|name` and `flotilla group …` as types.

use super::{Output, Target};
use clap::{Args, Subcommand};

const FILTER: &str = "\
An expression is CEL over: id, name, state, online, seen_s, enrolled_s, board, arch, os, agent, engines, cpus, memory, trust, \
labels, attributes, groups, models, telemetry. Such as:
  online && \"canary\" in labels && attributes.site == \"berlin\"
  models.digits.phase == \"failed\" || telemetry.temperature > 80
  \"lab\" in groups && seen_s > 3600
What a device lacks never matches.";

/// `flotilla device list`
#[derive(Debug, Args)]
#[command(after_help = FILTER)]
pub struct DeviceList {
    /// Those of which this expression is true.
    #[arg(long, value_name = "EXPRESSION")]
    pub filter: Option<String>,
    /// Those in whose id, name, labels or board each of these words stands.
    #[arg(long, value_name = "WORDS")]
    pub search: Option<String>,
    /// Columns, with - before those that descend, such as --sort=-seen,board: id, name, state, online, seen, enrolled,
    /// board, arch, os, agent, cpus, memory, cpu, memory_free, disk_free, temperature.
    #[arg(long, value_name = "COLUMNS", allow_hyphen_values = true)]
    pub sort: Option<String>,
    /// How many.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=1000), conflicts_with = "all")]
    pub limit: u32,
    /// All that there are.
    #[arg(long)]
    pub all: bool,
    /// Those that have been decommissioned, too.
    #[arg(long)]
    pub all_states: bool,
    /// The control plane.
    #[command(flatten)]
    pub target: Target,
}

/// Some devices, or those that match.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct Those {
    /// The devices.
    pub ids: Vec<String>,
    /// Every device that may connect and of which this expression is true now, instead.
    #[arg(long, value_name = "EXPRESSION")]
    pub filter: Option<String>,
}

/// `flotilla device label`
#[derive(Debug, Args)]
pub struct DeviceLabel {
    /// Which devices.
    #[command(flatten)]
    pub those: Those,
    /// A label that they get, such as canary; repeat for several.
    #[arg(long = "add", value_name = "LABEL", required_unless_present = "remove")]
    pub add: Vec<String>,
    /// A label that they lose; repeat for several.
    #[arg(long = "remove", value_name = "LABEL")]
    pub remove: Vec<String>,
    /// The control plane.
    #[command(flatten)]
    pub target: Target,
}

/// `flotilla device attribute`
#[derive(Debug, Args)]
pub struct DeviceAttribute {
    /// Which devices.
    #[command(flatten)]
    pub those: Those,
    /// An attribute that they get, such as site=berlin; repeat for several.
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = attribute, required_unless_present = "unset")]
    pub set: Vec<(String, String)>,
    /// The key of an attribute that they lose; repeat for several.
    #[arg(long = "unset", value_name = "KEY")]
    pub unset: Vec<String>,
    /// The control plane.
    #[command(flatten)]
    pub target: Target,
}

/// `flotilla device quarantine`
#[derive(Debug, Args)]
pub struct DeviceQuarantine {
    /// Which devices.
    #[command(flatten)]
    pub those: Those,
    /// Why.
    #[arg(long, default_value = "by an operator")]
    pub reason: String,
    /// The control plane.
    #[command(flatten)]
    pub target: Target,
}

/// `flotilla device release`
#[derive(Debug, Args)]
pub struct DeviceRelease {
    /// Which devices.
    #[command(flatten)]
    pub those: Those,
    /// The control plane.
    #[command(flatten)]
    pub target: Target,
}

/// `KEY=VALUE`
pub(super) fn attribute(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').filter(|(key, _)| !key.is_empty());
    let (key, value) = pair.ok_or("an attribute is KEY=VALUE, such as site=berlin")?;
    Ok((key.to_owned(), value.to_owned()))
}

/// `flotilla group …`
#[derive(Debug, Subcommand)]
pub enum Group {
    /// Make a group: of devices that are named, or of whoever matches an expression, late comers by themselves.
    #[command(after_help = FILTER)]
    Create {
        /// Its name.
        name: String,
        /// A device; repeat for several.
        #[arg(
            long = "device",
            value_name = "ID",
            required_unless_present = "filter",
            conflicts_with = "filter"
        )]
        devices: Vec<String>,
        /// The expression.
        #[arg(long, value_name = "EXPRESSION")]
        filter: Option<String>,
        /// The control plane.
        #[command(flatten)]
        target: Target,
    },
    /// Print who would be in a group with an expression, without making it.
    #[command(after_help = FILTER)]
    Preview {
        /// The expression.
        #[arg(long, value_name = "EXPRESSION")]
        filter: String,
        /// How many devices are printed.
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
        limit: u32,
        /// The control plane.
        #[command(flatten)]
        target: Target,
    },
    /// List groups.
    List(Target),
    /// Show a group and its devices.
    Show {
        /// The group.
        name: String,
        /// How many devices are printed.
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
        limit: u32,
        /// The control plane.
        #[command(flatten)]
        target: Target,
    },
    /// Take devices into a static group.
    Add(GroupDevices),
    /// Take devices out of a static group.
    Remove(GroupDevices),
    /// Delete a group that nothing uses; its devices stay as they are.
    Delete {
        /// The group.
        name: String,
        /// The control plane.
        #[command(flatten)]
        target: Target,
    },
}

/// Devices of a group.
#[derive(Debug, Args)]
pub struct GroupDevices {
    /// The group.
    pub name: String,
    /// The devices.
    #[arg(required = true)]
    pub devices: Vec<String>,
    /// The control plane.
    #[command(flatten)]
    pub target: Target,
}

impl Group {
    /// The form in which results and errors are printed.
    pub(crate) fn output(&self) -> Output {
        match self {
            Self::Create { target, .. }
            | Self::Preview { target, .. }
            | Self::List(target)
            | Self::Show { target, .. }
            | Self::Add(GroupDevices { target, .. })
            | Self::Remove(GroupDevices { target, .. })
            | Self::Delete { target, .. } => target.output,
        }
    }
}
