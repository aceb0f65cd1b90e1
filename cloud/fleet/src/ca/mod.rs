//! The certificate authority of an installation: one root, an intermediate per project, and what they sign.
//!
//! - [`CertificateAuthority`] lives in a private folder, one file a key (`root.pem`, `project-NAME.pem`), each the
//!   PKCS#8 key followed by its certificate, so that a key and its certificate are written in one atomic step.
//! - The **root** signs the server's certificates and the intermediates. Its public key's digest ([`CertificateAuthority::ca_hash`])
//!   stands in every claim code, and every server chain carries the root, so a new device checks who it talks to before it trusts anything.
//! - The **intermediate** signs device certificates. A device certificate says who its holder is in a URI name
//!   `flotilla:PROJECT/DEVICE`; [`device_identity`] reads it back and nothing else in the certificate is believed.
//!
//! Validity: the CA and server certificates begin at the Unix epoch, because a board without a battery-backed clock
//! wakes up in 1970 and must still be able to connect; whether the end of validity counts on such a clock is the
//! device's own decision (it compares with the highest time it has ever known). Device certificates are judged by
//! the server's clock alone and begin one day in the past. Revocation is by [`Serial`], asked at every connection.

mod authority;
mod error;
mod files;
mod identity;
#[cfg(test)]
mod tests;

pub use authority::{CertificateAuthority, DEVICE_VALIDITY, DeviceCertificate, ServerIdentity};
pub use error::Error;
pub use identity::{InvalidSerial, PeerIdentity, Serial, device_identity};
