//! Who is asking: the administrator's token, login codes and console sessions.

use crate::actor::Actor;
use crate::admin_token::{self, ADMIN_TOKEN_FILE, Found, TokenState};
use crate::error::{Error, Result};
use crate::login_code::LoginCodes;
use crate::secret::{Secret, presented, same};
use crate::session::{self, Session};
use crate::{DEFAULT_PROJECT, audit, stored};
use flotilla_protocol::{Digest, ProjectId};
use flotilla_storage::{Batch, Expect, Key, Records, Table};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

const CREDENTIALS: Table = Table::new("credentials");
const ADMINISTRATOR: &str = "administrator";

/// Milliseconds since 1970, by the clock of this machine.
pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The door of an installation. Times are passed in as milliseconds since 1970.
pub struct Identity {
    records: Arc<dyn Records>,
    project: ProjectId,
    token_file: PathBuf,
    token_state: TokenState,
    /// Hash of the administrator token.
    credential: Digest,
    login_codes: Mutex<LoginCodes>,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity")
            .field("project", &self.project)
            .field("token_file", &self.token_file)
            .finish_non_exhaustive()
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Credential {
    hash: Digest,
    since_ms: u64,
}

impl Identity {
    /// Opens the door: makes the administrator token on the first start, and a new one when its file is gone.
    /// The token itself is in `folder` alone; [`Identity::token_state`] says what was found.
    pub async fn open(records: Arc<dyn Records>, folder: &Path, now_ms: u64) -> Result<Self> {
        let token_file = folder.join(ADMIN_TOKEN_FILE);
        let key = Key::new(CREDENTIALS, ADMINISTRATOR);
        let record = records.get(&key).await?;
        let known = record.as_ref().map(|record| stored::decode::<Credential>(&key, record)).transpose()?;
        let (token, token_state) = token(&token_file, folder, known.as_ref())?;
        let credential = token.hash();
        if token_state != TokenState::Unchanged {
            let mut batch = Batch::new();
            let value = stored::encode(&CREDENTIALS, &Credential { hash: credential, since_ms: now_ms })?;
            let expect = record.map_or(Expect::Absent, |record| Expect::Version(record.version));
            batch.put_if(key, value, expect);
            let detail = json!({ "state": format!("{token_state:?}") });
            let system = Actor::system();
            audit::record(&mut batch, &system, "credential:set", ADMINISTRATOR, detail, now_ms)?;
            records.commit(batch).await?;
        }
        tell(token_state, &token_file);
        Ok(Self {
            records,
            project: ProjectId::new(DEFAULT_PROJECT).expect("the name is well-formed"),
            token_file,
            token_state,
            credential,
            login_codes: Mutex::default(),
        })
    }

    /// The project of this installation.
    pub fn project(&self) -> &ProjectId {
        &self.project
    }

    /// Where the administrator finds the token.
    pub fn token_file(&self) -> &Path {
        &self.token_file
    }

    /// What opening found.
    pub fn token_state(&self) -> TokenState {
        self.token_state
    }

    /// Who presents this token.
    pub fn authenticate(&self, token: &str) -> Result<Actor> {
        match presented(token) {
            Some(hash) if same(&hash, &self.credential) => Ok(Actor::administrator()),
            _ => Err(Error::Unauthenticated { token_file: self.token_file.clone() }),
        }
    }

    /// A code that opens one console session, once, within [`crate::LOGIN_CODE_TTL_MS`].
    pub fn issue_login_code(&self, now_ms: u64) -> Secret {
        self.codes().issue(now_ms)
    }

    /// Exchanges a login code for a session.
    pub async fn login(&self, code: &str, now_ms: u64) -> Result<Session> {
        if !self.codes().redeem(code, now_ms) {
            return Err(Error::LoginCode);
        }
        session::begin(&*self.records, Actor::administrator(), self.credential, now_ms).await
    }

    /// Who the session with this cookie stands for.
    pub async fn authenticate_session(&self, cookie: &str, now_ms: u64) -> Result<Actor> {
        session::find(&*self.records, cookie, &self.credential, now_ms).await
    }

    /// Ends the session with this cookie; that it has ended already is fine.
    pub async fn logout(&self, cookie: &str, now_ms: u64) -> Result<()> {
        session::end(&*self.records, cookie, now_ms).await
    }

    fn codes(&self) -> MutexGuard<'_, LoginCodes> {
        // Every change of the codes is complete before anything can panic.
        self.login_codes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The token of this start, and how it relates to the known one.
fn token(file: &Path, folder: &Path, known: Option<&Credential>) -> Result<(Secret, TokenState)> {
    let replaced = if known.is_some() { TokenState::Replaced } else { TokenState::Created };
    Ok(match admin_token::read(file)? {
        Found::Missing => (admin_token::create(folder)?, replaced),
        Found::Exposed => (admin_token::create(folder)?, TokenState::ReplacedExposed),
        Found::Token(token) => {
            let state = match known {
                // The file is written before the record: a crash in between leaves the file alone.
                None => TokenState::Created,
                Some(known) if same(&known.hash, &token.hash()) => TokenState::Unchanged,
                Some(_) => TokenState::Changed,
            };
            (token, state)
        }
    })
}

fn tell(state: TokenState, file: &Path) {
    let file = file.display();
    match state {
        TokenState::Created => tracing::info!(%file, "the administrator token was made"),
        TokenState::Unchanged => {}
        TokenState::Replaced => {
            tracing::warn!(%file, "the administrator token's file was gone: a new token was made, the old one no longer works");
        }
        TokenState::ReplacedExposed => {
            tracing::warn!(%file, "other users could read the administrator token: a new one was made, the old one no longer works");
        }
        TokenState::Changed => {
            tracing::warn!(%file, "the file holds another administrator token than before: the old one no longer works");
        }
    }
}
