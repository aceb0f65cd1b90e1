//! One-time login codes: how the console is opened without typing a token.
//!
//! Codes live in memory, hashed. A restart ends them, which costs one more `flotilla login`.

use crate::secret::{Secret, presented, same};
use flotilla_protocol::Digest;

/// How long a login code is good.
pub const LOGIN_CODE_TTL_MS: u64 = 10 * 60 * 1000;
/// Open codes; one more pushes the oldest out.
const OPEN_CODES: usize = 32;

/// The open codes.
#[derive(Debug, Default)]
pub(crate) struct LoginCodes {
    open: Vec<Open>,
}

#[derive(Debug)]
struct Open {
    hash: Digest,
    expires_at_ms: u64,
}

impl LoginCodes {
    /// A new code.
    pub(crate) fn issue(&mut self, now_ms: u64) -> Secret {
        self.open.retain(|code| code.expires_at_ms > now_ms);
        if self.open.len() == OPEN_CODES {
            self.open.remove(0);
        }
        let code = Secret::random("flc-");
        self.open.push(Open { hash: code.hash(), expires_at_ms: now_ms + LOGIN_CODE_TTL_MS });
        code
    }

    /// Uses a code up. Says whether it was good.
    pub(crate) fn redeem(&mut self, code: &str, now_ms: u64) -> bool {
        let Some(hash) = presented(code) else { return false };
        let Some(index) = self.open.iter().position(|open| same(&open.hash, &hash)) else { return false };
        self.open.remove(index).expires_at_ms > now_ms
    }
}
