//! Why a step towards a release did not succeed: to be tried again, or final.

use flotilla_protocol::{ErrorCode, limits};

/// A reason with its stable code.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{detail} ({code})")]
pub struct Fault {
    /// The stable code.
    pub code: ErrorCode,
    /// For people, cut to the bound of free text.
    pub detail: String,
    /// Whether trying again, with everything else as it is, may help. Such a fault is never a failure of the
    /// release.
    pub transient: bool,
}

impl Fault {
    /// A fault that is a property of the release, the trust or the board.
    pub fn lasting(code: ErrorCode, detail: impl Into<String>) -> Self {
        Self { code, detail: cut(detail.into()), transient: false }
    }

    /// A fault of the link or of the moment.
    pub fn transient(code: ErrorCode, detail: impl Into<String>) -> Self {
        Self { code, detail: cut(detail.into()), transient: true }
    }
}

/// Cuts free text to the protocol's bound, at a character boundary.
pub fn cut(mut text: String) -> String {
    if text.len() > limits::TEXT {
        let mut end = limits::TEXT;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_reason_is_cut_at_a_character_boundary() {
        let fault = Fault::lasting(ErrorCode::Internal, "ü".repeat(limits::TEXT));
        assert_eq!(fault.detail.len(), limits::TEXT);
        let odd = Fault::lasting(ErrorCode::Internal, format!("x{}", "ü".repeat(limits::TEXT)));
        assert_eq!(odd.detail.len(), limits::TEXT - 1);
    }
}
