//! Claim codes: the right to enrol so many devices until some moment. The secret is known to its holder alone; here
//! lies its hash.

use crate::devices::Tags;
use crate::error::{Error, Result};
use crate::groups::Group;
use crate::store::{self, Store};
use flotilla_identity::{Actor, audit};
use flotilla_protocol::enrol::{ClaimCode, ClaimSecret};
use flotilla_protocol::{ActorId, DeviceId, Digest, GroupName};
use flotilla_storage::{Batch, Collection, Entity, Expect, Table, Versioned};
use serde::{Deserialize, Serialize};
use serde_json::json;

/// Devices that one claim may enrol.
pub const CLAIM_USES: u32 = 10_000;
/// Longest life of a claim: a year.
pub const CLAIM_TTL_MS: u64 = 366 * 24 * 60 * 60 * 1000;

/// A claim as it is remembered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// Hash of the secret, which names the claim. It is no secret itself.
    pub id: Digest,
    /// Devices it may enrol.
    pub uses: u32,
    /// Devices it has enrolled.
    pub used: u32,
    /// The last of these.
    #[serde(default)]
    pub last_device: Option<DeviceId>,
    /// When it ends, in milliseconds since 1970.
    pub expires_at_ms: u64,
    /// When it was made.
    pub created_at_ms: u64,
    /// Who made it.
    pub created_by: ActorId,
    /// The static group that its devices join.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<GroupName>,
    /// What is written on its devices.
    #[serde(default, skip_serializing_if = "Tags::is_empty")]
    pub tags: Tags,
    /// Whether its devices wait for somebody's approval.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub approval: bool,
    /// Whether it is for registered serial numbers only.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub registered: bool,
}

impl Entity for Claim {
    const TABLE: Table = Table::new("claims");

    fn id(&self) -> Vec<u8> {
        self.id.as_bytes().to_vec()
    }
}

/// What a new claim may do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimRequest {
    /// Devices it may enrol: 1 to [`CLAIM_USES`].
    pub uses: u32,
    /// How long it lives in milliseconds, at most [`CLAIM_TTL_MS`].
    pub ttl_ms: u64,
    /// `host:port` of the HTTPS server, as devices reach it.
    pub server: String,
    /// The static group that its devices join.
    #[serde(default)]
    pub group: Option<GroupName>,
    /// What is written on its devices: labels and attributes.
    #[serde(default)]
    pub tags: Tags,
    /// Whether its devices wait for somebody's approval.
    #[serde(default)]
    pub approval: bool,
    /// Whether it is for registered serial numbers only.
    #[serde(default)]
    pub registered: bool,
}

impl ClaimRequest {
    /// A claim that gives its devices nothing beside their certificates.
    pub fn plain(uses: u32, ttl_ms: u64, server: String) -> Self {
        Self { uses, ttl_ms, server, group: None, tags: Tags::default(), approval: false, registered: false }
    }
}

impl Claim {
    /// Refuses if its time is over.
    pub(crate) fn ended(&self, now_ms: u64) -> Result<()> {
        if now_ms >= self.expires_at_ms { Err(Error::ClaimExpired) } else { Ok(()) }
    }

    /// Whether a device may still enrol with it.
    pub(crate) fn is_open(&self, now_ms: u64) -> bool {
        self.used < self.uses && self.ended(now_ms).is_ok()
    }

    /// Uses the claim once, if that is possible.
    pub(crate) fn redeem(&mut self, device: &DeviceId, now_ms: u64) -> Result<()> {
        if self.used >= self.uses {
            return Err(Error::ClaimUsed);
        }
        self.ended(now_ms)?;
        self.used += 1;
        self.last_device = Some(device.clone());
        Ok(())
    }
}

/// Makes a claim. The code holds the secret: hand it out and forget it.
pub(crate) async fn create(
    store: &Store,
    ca: Digest,
    actor: &Actor,
    request: ClaimRequest,
    now_ms: u64,
) -> Result<(Claim, ClaimCode)> {
    if !(1..=CLAIM_USES).contains(&request.uses) {
        return Err(Error::Invalid(format!(
            "a claim enrols 1 to {CLAIM_USES} devices, not {}",
            request.uses
        )));
    }
    if !(1..=CLAIM_TTL_MS).contains(&request.ttl_ms) {
        return Err(Error::Invalid(format!("a claim lives 1 to {CLAIM_TTL_MS} ms, not {}", request.ttl_ms)));
    }
    let port = request.server.rsplit_once(':').filter(|(host, _)| !host.is_empty());
    if port.and_then(|(_, port)| port.parse::<u16>().ok()).is_none() || request.server.len() > 255 {
        return Err(Error::Invalid("the server of a claim is HOST:PORT, as devices reach it".into()));
    }
    if !request.tags.is_empty() {
        request.tags.check()?;
    }
    if request.tags.name.is_some() {
        return Err(Error::Invalid("a claim gives labels and attributes; a name is for one device".into()));
    }
    let mut batch = Batch::new();
    if let Some(name) = &request.group {
        let group = store.groups.get(name.as_str()).await?;
        let group = group.ok_or_else(|| Error::GroupMissing(name.clone()))?;
        if group.value.filter.is_some() {
            return Err(Error::GroupDynamic(name.clone()));
        }
        // Not deleted in this moment.
        batch.require(Collection::<Group>::key(name.as_str()), Expect::Version(group.version));
    }
    let secret = ClaimSecret::random();
    let claim = Claim {
        id: secret.hash(),
        uses: request.uses,
        used: 0,
        last_device: None,
        expires_at_ms: now_ms.saturating_add(request.ttl_ms),
        created_at_ms: now_ms,
        created_by: actor.id.clone(),
        group: request.group,
        tags: request.tags,
        approval: request.approval,
        registered: request.registered,
    };
    store.claims.insert(&mut batch, &claim)?;
    let mut detail =
        json!({ "uses": claim.uses, "expires_at_ms": claim.expires_at_ms, "server": request.server });
    if claim.group.is_some() || !claim.tags.is_empty() {
        detail["gives"] = json!({ "group": claim.group, "tags": claim.tags });
    }
    for (what, is) in [("approval", claim.approval), ("registered", claim.registered)] {
        if is {
            detail[what] = json!(true);
        }
    }
    audit::record(&mut batch, actor, "device:claim", &subject(&claim.id), detail, now_ms)?;
    if !store.try_commit(batch).await? {
        return Err(Error::Contended("the group of the claim".into()));
    }
    Ok((claim, ClaimCode { server: request.server, ca, secret }))
}

/// The claim with this secret.
pub(crate) async fn find(store: &Store, secret: &ClaimSecret) -> Result<Versioned<Claim>> {
    // The hash is looked up, not compared: what timing tells about it says nothing of the secret.
    store.claims.get(secret.hash().as_bytes()).await?.ok_or(Error::ClaimInvalid)
}

/// Every claim.
pub(crate) async fn list(store: &Store) -> Result<Vec<Claim>> {
    Ok(store::all(&store.claims, &[]).await?.into_iter().map(|claim| claim.value).collect())
}

/// Removes claims that ended long ago: what they enrolled names them in the audit trail.
pub(crate) async fn sweep(store: &Store, now_ms: u64) -> Result<()> {
    let ended = now_ms.saturating_sub(CLAIM_TTL_MS);
    for claim in store::all(&store.claims, &[]).await? {
        if claim.value.expires_at_ms < ended {
            let mut batch = Batch::new();
            store.claims.delete(&mut batch, &claim)?;
            store.try_commit(batch).await?;
        }
    }
    Ok(())
}

pub(crate) fn subject(claim: &Digest) -> String {
    format!("claim/{}", claim.short())
}
