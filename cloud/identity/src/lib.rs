//! Who may do what, and what was done.
//!
//! - [`Actor`]: who acts: the administrator, a device, or the control plane itself.
//! - [`Permission`] and [`authorize`]: default deny; every route names one permission.
//! - [`Identity`]: the administrator's token (a 0600 file), one-time login codes and console sessions.
//! - [`audit`]: the trail. Its records go into the same batch as the change they describe, so that neither
//!   exists without the other.
//!
//! Secrets are kept as SHA-256 hashes; in memory they are [`Secret`]s, which no log or Debug output shows.

mod actor;
mod admin_token;
pub mod audit;
mod error;
mod identity;
mod login_code;
mod permission;
mod secret;
mod session;
mod stored;

pub use actor::{Actor, ActorKind};
pub use admin_token::{ADMIN_TOKEN_FILE, TokenState};
pub use audit::AuditRecord;
pub use error::{Error, Result};
pub use identity::{Identity, now_ms};
pub use login_code::LOGIN_CODE_TTL_MS;
pub use permission::{Permission, authorize};
pub use secret::Secret;
pub use session::{SESSION_TTL_MS, Session};

/// The one project of an installation.
pub const DEFAULT_PROJECT: &str = "default";
