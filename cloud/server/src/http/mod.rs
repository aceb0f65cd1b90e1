//! The HTTP API: one ROUTES table drives dispatch, permissions and the API description.
//!
//! - [`listen`]: the accept loop; [`service`]: the warp filter in front of the table.
//! - [`routes`]: method, path, permission, handler; [`openapi`]: OpenAPI 3.1 out of the same table.
//! - [`api`]: the bodies that travel; `handlers`: what the routes do, a file a noun.
//! - The modules `problem`: errors; `spool`: bodies that are kept on the disk.

pub mod api;
mod handlers;
pub mod listen;
pub mod openapi;
pub mod problem;
pub mod routes;
pub mod service;
pub(crate) mod spool;

pub use problem::Problem;
