//! A secret in memory: never in Debug output, wiped when dropped, compared in constant time by its hash.

use flotilla_protocol::Digest;
use rand::TryRngCore;
use rand::rngs::OsRng;
use std::fmt;
use zeroize::Zeroizing;

/// Random bytes in a secret: 256 bits.
const SECRET_BYTES: usize = 32;
/// Longest text that is hashed when somebody presents a secret.
const PRESENTED_MAX: usize = 1024;

/// A secret text. Its Debug output shows no part of it.
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// A new secret of 256 random bits: `{prefix}` and 64 hex digits. The prefix names its use, so that
    /// scanners find one that was leaked.
    pub(crate) fn random(prefix: &str) -> Self {
        let mut bytes = Zeroizing::new([0; SECRET_BYTES]);
        OsRng
            .try_fill_bytes(&mut *bytes)
            .expect("the system's random source works; without it nothing is safe");
        Self(Zeroizing::new(format!("{prefix}{}", &*Zeroizing::new(hex::encode(*bytes)))))
    }

    /// A secret that was read from a file or a request.
    pub(crate) fn from_text(text: &str) -> Self {
        Self(Zeroizing::new(text.to_owned()))
    }

    /// The text: for the one place that hands it to its owner.
    pub fn expose(&self) -> &str {
        &self.0
    }

    pub(crate) fn hash(&self) -> Digest {
        Digest::of(self.0.as_bytes())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// The hash of a presented secret, or `None` for a text that no secret can have.
pub(crate) fn presented(text: &str) -> Option<Digest> {
    (!text.is_empty() && text.len() <= PRESENTED_MAX).then(|| Digest::of(text.as_bytes()))
}

/// Whether two hashes are equal, in a time that does not depend on where they differ.
pub(crate) fn same(a: &Digest, b: &Digest) -> bool {
    let difference =
        a.as_bytes().iter().zip(b.as_bytes()).fold(0, |seen, (a, b)| std::hint::black_box(seen | (a ^ b)));
    difference == 0
}
