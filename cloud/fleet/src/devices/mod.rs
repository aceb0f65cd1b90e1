//! Devices, their twins, and what people see of them.

mod commands;
mod compare;
mod consents;
mod decommission;
mod device;
mod examined;
mod figures;
mod quarantine;
mod runs;
mod service;
pub(crate) mod shadow;
mod tags;
mod twin;
mod view;

pub use commands::{Asked, COMMAND_DEADLINE_MAX_MS, COMMAND_DEADLINE_MS, Order, PulledLog, Stage};
pub(crate) use commands::{CommandHistory, command, commands, finish, keep_log, pulled};
pub(crate) use compare::compared;
pub use compare::{Compared, Difference};
pub(crate) use consents::{Consents, all_consents, consent, consented, consents, senders_consents};
pub(crate) use decommission::decommission;
pub(crate) use device::ENGINES;
pub use device::{Certificate, Device, DeviceState, Health, Problem, Quarantine, Traffic};
pub use examined::Examined;
pub(crate) use examined::examination;
pub(crate) use figures::{Seen, ShadowFigures};
pub use runs::{Ran, RanOutcome};
pub(crate) use runs::{Runs, note_runs, runs};
pub(crate) use service::{active_devices, admit, configure, quarantine, revoke};
pub(crate) use shadow::ShadowState;
pub use shadow::{ShadowView, Shadows};
pub(crate) use tags::{ATTRIBUTES, LABELS, tag};
pub use tags::{TagChange, Tags};
pub(crate) use twin::sanitise;
pub use twin::{ModelState, ReportHead, Twin};
pub(crate) use view::{DECOMMISSIONED, URGENCY, Views, WAITING, history, state_of};
pub use view::{DeviceView, ModelView, ReleaseView};
