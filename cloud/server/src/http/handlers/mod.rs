//! What the routes do, a file a noun. Handlers turn requests into calls of the nouns' crates, and their
//! values into the bodies of [`super::api`].

pub(crate) mod boards;
pub(crate) mod card;
pub(crate) mod commands;
pub(crate) mod compress;
pub(crate) mod console;
pub(crate) mod datasets;
pub(crate) mod diagnosis;
pub(crate) mod experiments;
pub(crate) mod fleet;
pub(crate) mod groups;
pub(crate) mod hard;
pub(crate) mod imports;
pub(crate) mod jobs;
pub(crate) mod lifetime;
pub(crate) mod models;
mod orders;
pub(crate) mod registrations;
pub(crate) mod releases;
mod rollout_request;
mod rollout_view;
pub(crate) mod rollouts;
pub(crate) mod server;
pub(crate) mod settings;
pub(crate) mod shadow;
pub(crate) mod summary;
pub(crate) mod telemetry;
pub(crate) mod trust;
pub(crate) mod twin;

/// Conversions of every crate's error into a problem: code and text, nothing else.
macro_rules! problems {
    ($($error:ty),+ $(,)?) => {$(
        impl From<$error> for super::problem::Problem {
            fn from(error: $error) -> Self {
                Self::new(error.code(), crate::error_text::with_causes(&error))
            }
        }
    )+};
}

problems! {
    flotilla_storage::Error,
    flotilla_identity::Error,
    flotilla_compress::Error,
    flotilla_data::Error,
    flotilla_jobs::Error,
    flotilla_registry::Error,
    flotilla_fleet::Error,
    flotilla_runtime::Error,
}
