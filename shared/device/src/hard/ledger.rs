//! What was kept and sent of each model today. Entered before the bytes are written or sent, and stored, so that neither
//! a kill nor a restart gives a budget twice.
//!
//! A day is a day in UTC by the device's clock. A clock that is set back, or not believed, goes on with the same
//! account: only a clock that moves on past midnight opens a new one. So between two such moments no more is sent than
//! the budget says.

use crate::frame::{self, FrameError, Kind};
use flotilla_protocol::codec;
use flotilla_protocol::limits;
use flotilla_protocol::message::HardExamples;
use flotilla_protocol::{ErrorCode, ModelName};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The file's frame.
pub const KIND: Kind = Kind { name: *b"FHL", version: 1 };
/// Bytes kept for each byte that may be sent: better examples may take the place of others so many times a day, and no
/// more is written to a disk that wears out.
pub const KEPT_FOR_SENT: u64 = 4;
/// Accounts in one ledger: models come and go within a day.
const ACCOUNTS: usize = 4 * limits::HARD_MODELS;
const DAY_MS: u64 = 24 * 3_600 * 1_000;
/// In place of a day that is not known; no device was there on that one.
const UNDATED: u64 = 0;

/// The account of one model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Account {
    /// Days since 1970.
    day: u64,
    kept: u64,
    sent: u64,
    /// Whether anything was spent since while the day was not known.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    undated: bool,
}

/// The accounts of all models.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    models: BTreeMap<ModelName, Account>,
    /// The day on which the ledger was found to be damaged, [`UNDATED`] if it was not known: what was spent until then is
    /// not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lost: Option<u64>,
}

/// The day of a moment in milliseconds since 1970.
pub fn day(wall_ms: u64) -> u64 {
    wall_ms / DAY_MS
}

impl Ledger {
    /// In place of one that cannot be read: whatever was allowed today counts as spent.
    pub fn in_place_of_lost(today: Option<u64>) -> Self {
        Self { models: BTreeMap::new(), lost: Some(today.unwrap_or(UNDATED)) }
    }

    /// The day is known now. If what was lost before has no day yet, it is this one, and the ledger has to be stored: says
    /// whether that is so.
    #[must_use]
    pub fn date(&mut self, today: u64) -> bool {
        let undated = self.lost == Some(UNDATED);
        if undated {
            self.lost = Some(today);
        }
        undated
    }

    fn account(&self, model: &ModelName, today: Option<u64>) -> Account {
        let lost = |day| Account { day, kept: u64::MAX, sent: u64::MAX, undated: day == UNDATED };
        let fresh = self.lost.map_or(Account::default(), lost);
        let account = self.models.get(model).copied().unwrap_or(fresh);
        match today {
            // What was spent on a day that was not known may have been today.
            Some(today) if today > account.day && !account.undated => {
                Account { day: today, ..Account::default() }
            }
            Some(today) => Account { day: today, undated: false, ..account },
            None => Account { undated: true, ..account },
        }
    }

    /// Bytes of this model that may still be sent today.
    pub fn may_send(&self, model: &ModelName, policy: &HardExamples, today: Option<u64>) -> u64 {
        policy.daily_bytes.saturating_sub(self.account(model, today).sent)
    }

    /// Bytes of this model that may still be kept today.
    pub fn may_keep(&self, model: &ModelName, policy: &HardExamples, today: Option<u64>) -> u64 {
        let most = policy.daily_bytes.saturating_mul(KEPT_FOR_SENT);
        most.saturating_sub(self.account(model, today).kept)
    }

    /// So much is going to be sent.
    pub fn send(&mut self, model: &ModelName, today: Option<u64>, bytes: u64) {
        let mut account = self.account(model, today);
        account.sent = account.sent.saturating_add(bytes);
        self.enter(model, account);
    }

    /// So much is going to be kept.
    pub fn keep(&mut self, model: &ModelName, today: Option<u64>, bytes: u64) {
        let mut account = self.account(model, today);
        account.kept = account.kept.saturating_add(bytes);
        self.enter(model, account);
    }

    fn enter(&mut self, model: &ModelName, account: Account) {
        if self.models.len() >= ACCOUNTS && !self.models.contains_key(model) {
            // Of the oldest day nobody asks any more; of today's there are not so many.
            let oldest = self.models.iter().min_by_key(|(_, account)| account.day);
            let oldest = oldest.map(|(model, _)| model.clone());
            oldest.and_then(|model| self.models.remove(&model));
        }
        self.models.insert(model.clone(), account);
    }

    /// The file's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        frame::seal(KIND, &codec::encode(self))
    }

    /// Reads the file.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Damaged> {
        let (_, content) = frame::open(KIND, bytes)?;
        codec::decode(content, BOUND).map_err(|e| Damaged::Content(e.to_string()))
    }
}

/// Largest ledger.
pub const BOUND: usize = 16 * limits::KIB;

/// Why a stored file of hard examples cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damaged {
    /// It is not whole.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// It is whole and means nothing.
    #[error("{0}")]
    Content(String),
}

impl Damaged {
    /// The stable code.
    pub fn code(&self) -> ErrorCode {
        match self {
            Damaged::Frame(error) => error.code(),
            Damaged::Content(_) => ErrorCode::StorageCorrupt,
        }
    }
}
