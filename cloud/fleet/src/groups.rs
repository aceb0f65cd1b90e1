//! Groups: devices that are named once and spoken of together. A static group keeps its members; a dynamic one is an
//! expression, and whoever matches it is in it, late comers by themselves.

use crate::error::{Error, Result};
use crate::expression::{Asked, Expression};
use crate::rollout::Rollout;
use crate::roster::{Census, Found, Query, Roster, Row, Search};
use crate::store::{self, ATTEMPTS, Store};
use flotilla_identity::{Actor, audit, now_ms};
use flotilla_protocol::{ActorId, DeviceId, GroupName};
use flotilla_storage::{Batch, Entity, PAGE_ENTITIES, Table, Versioned, compound};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

/// Groups of one project.
const GROUPS: usize = 256;
/// Members of one static group.
const MEMBERS: usize = 100_000;
/// Members that are written in one commit: the audit record names each of them.
const COMMIT_MEMBERS: usize = 100;

/// A group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// Its name.
    pub name: GroupName,
    /// The expression of a dynamic group; a static one has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
    /// Members that are kept, those that may not connect any more with them.
    #[serde(default)]
    pub kept: u32,
    /// Who made it.
    pub created_by: ActorId,
    /// When, in milliseconds since 1970.
    pub created_at_ms: u64,
}

impl Entity for Group {
    const TABLE: Table = Table::new("groups");

    fn id(&self) -> Vec<u8> {
        self.name.as_str().into()
    }
}

/// That a device is in a static group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Member {
    pub(crate) group: GroupName,
    pub(crate) device: DeviceId,
}

impl Entity for Member {
    const TABLE: Table = Table::new("group-members");

    fn id(&self) -> Vec<u8> {
        compound([self.group.as_str(), self.device.as_str()])
    }
}

/// Who is to be in a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GroupSpec {
    /// These devices.
    Static(Vec<DeviceId>),
    /// Whoever matches an expression.
    Dynamic(String),
}

/// Who is in a group now.
pub(crate) enum Membership {
    Static(HashSet<DeviceId>),
    Dynamic(Expression),
}

impl Membership {
    fn has(&self, row: &Row, now_ms: u64) -> bool {
        match self {
            Self::Static(members) => members.contains(&row.id),
            // The expression of a group asks for no group.
            Self::Dynamic(filter) => filter.matches(&Asked { row, now_ms, in_group: &|_| false }),
        }
    }
}

/// Makes, changes and resolves groups, and finds devices by them.
pub(crate) struct Groups {
    pub(crate) store: Arc<Store>,
    pub(crate) roster: Arc<Roster>,
}

impl Groups {
    // === questions ===

    /// Every group, by name.
    pub(crate) async fn list(&self) -> Result<Vec<Group>> {
        Ok(store::all(&self.store.groups, &[]).await?.into_iter().map(|group| group.value).collect())
    }

    /// One group.
    pub(crate) async fn get(&self, name: &GroupName) -> Result<Group> {
        Ok(self.found(name).await?.value)
    }

    async fn found(&self, name: &GroupName) -> Result<Versioned<Group>> {
        let found = self.store.groups.get(name.as_str()).await?;
        found.ok_or_else(|| Error::GroupMissing(name.clone()))
    }

    /// The devices of a group that a rollout may take, as of now, by id: those that may connect and are not in quarantine.
    pub(crate) async fn members(&self, name: &GroupName) -> Result<Vec<DeviceId>> {
        match self.membership(name).await? {
            Membership::Static(members) => self.roster.taking_rollouts(members.into_iter().collect()).await,
            dynamic => {
                let rows = self.roster.rows().await?;
                blocking(move || {
                    let now_ms = now_ms();
                    let is_member = |row: &&Arc<Row>| row.takes_rollouts && dynamic.has(row, now_ms);
                    rows.iter().filter(is_member).map(|row| row.id.clone()).collect()
                })
                .await
            }
        }
    }

    async fn membership(&self, name: &GroupName) -> Result<Membership> {
        match self.get(name).await?.filter {
            Some(filter) => Ok(Membership::Dynamic(blocking(move || group_filter(&filter)).await??)),
            None => Ok(Membership::Static(self.kept(name).await?.into_iter().collect())),
        }
    }

    async fn kept(&self, name: &GroupName) -> Result<Vec<DeviceId>> {
        let members = store::all(&self.store.members, &compound([name.as_str()])).await?;
        Ok(members.into_iter().map(|member| member.value.device).collect())
    }

    async fn active_rows(&self) -> Result<Vec<Arc<Row>>> {
        let mut rows = self.roster.rows().await?;
        rows.retain(|row| row.active);
        Ok(rows)
    }

    /// A page of the devices that a query finds.
    pub(crate) async fn find(&self, query: &Query) -> Result<Found> {
        self.find_among(query, self.roster.rows().await?).await
    }

    /// The same of those that may connect: who would be in a group with this expression.
    pub(crate) async fn find_active(&self, query: &Query) -> Result<Found> {
        self.find_among(query, self.active_rows().await?).await
    }

    /// The same, for the expression of a group.
    pub(crate) async fn preview(&self, query: &Query) -> Result<Found> {
        let filter = query.filter.clone().unwrap_or_default();
        blocking(move || group_filter(&filter)).await??;
        self.find_active(query).await
    }

    /// Every device that may connect and that a query looks for, on whichever page.
    pub(crate) async fn matching(&self, query: &Query) -> Result<Vec<DeviceId>> {
        let query = query.clone();
        let search = blocking(move || Search::new(&query)).await??;
        let groups = self.memberships(search.filter.as_ref()).await?;
        let rows = self.active_rows().await?;
        blocking(move || {
            let now_ms = now_ms();
            let in_group = |number: usize, row: &Row| groups.get(number).is_some_and(|g| g.has(row, now_ms));
            let found = rows.iter().filter(|row| search.matches(row, now_ms, &in_group));
            found.map(|row| row.id.clone()).collect()
        })
        .await
    }

    /// Who is in the groups that an expression asks for.
    async fn memberships(&self, filter: Option<&Expression>) -> Result<Vec<Membership>> {
        let mut groups = Vec::new();
        for name in filter.map(Expression::groups).unwrap_or_default() {
            groups.push(self.membership(name).await?);
        }
        Ok(groups)
    }

    async fn find_among(&self, query: &Query, rows: Vec<Arc<Row>>) -> Result<Found> {
        let query = query.clone();
        let search = blocking(move || Search::new(&query)).await??;
        let groups = self.memberships(search.filter.as_ref()).await?;
        blocking(move || {
            let now_ms = now_ms();
            let in_group = |number: usize, row: &Row| groups.get(number).is_some_and(|g| g.has(row, now_ms));
            search.find(rows, now_ms, &in_group)
        })
        .await
    }

    /// The groups that a device is in, by name.
    pub(crate) async fn of(&self, id: &DeviceId) -> Result<Vec<GroupName>> {
        let row = self.roster.one(id).await?.ok_or_else(|| Error::DeviceMissing(id.clone()))?;
        let (mut names, mut dynamic) = (Vec::new(), Vec::new());
        for Group { name, filter, .. } in self.list().await? {
            match filter {
                Some(filter) => dynamic.push((name, filter)),
                None => {
                    let member = compound([name.as_str(), id.as_str()]);
                    names.extend(self.store.members.get(member).await?.map(|_| name));
                }
            }
        }
        let matching = blocking(move || {
            let asked = Asked { row: &row, now_ms: now_ms(), in_group: &|_| false };
            let is_in = |filter: &str| Ok::<_, Error>(group_filter(filter)?.matches(&asked));
            let each = dynamic.into_iter().map(|(name, filter)| Ok(is_in(&filter)?.then_some(name)));
            each.filter_map(Result::transpose).collect::<Result<Vec<_>>>()
        });
        names.extend(matching.await??);
        names.sort();
        Ok(names)
    }

    /// The fleet in figures; so many devices are named at most.
    pub(crate) async fn census(&self, most: usize) -> Result<Census> {
        let rows = self.roster.rows().await?;
        let changes = self.roster.changes();
        blocking(move || Census::of(&rows, changes, most)).await
    }

    // === operators ===

    /// Makes a group. The members of a static one are written in parts; one that is cut off is a smaller group.
    pub(crate) async fn create(
        &self,
        actor: &Actor,
        name: &GroupName,
        spec: GroupSpec,
        now_ms: u64,
    ) -> Result<Group> {
        let (filter, members) = match spec {
            GroupSpec::Static(members) => (None, members.into_iter().collect()),
            GroupSpec::Dynamic(filter) => {
                let text = filter.clone();
                blocking(move || group_filter(&text)).await??;
                (Some(filter), BTreeSet::new())
            }
        };
        self.check_devices(&members).await?;
        if self.store.groups.list(None, GROUPS).await?.items.len() >= GROUPS {
            return Err(Error::TooMany { what: "groups", bound: GROUPS });
        }
        let (kept, created_by) = (0, actor.id.clone());
        let group = Group { name: name.clone(), filter, kept, created_by, created_at_ms: now_ms };
        let mut batch = Batch::new();
        self.store.groups.insert(&mut batch, &group)?;
        let detail = json!({ "filter": group.filter, "devices": members.len() });
        audit::record(&mut batch, actor, "group:create", &subject(name), detail, now_ms)?;
        if !self.store.try_commit(batch).await? {
            return Err(Error::GroupExists(name.clone()));
        }
        if members.is_empty() { Ok(group) } else { self.change(actor, name, &members, true, now_ms).await }
    }

    /// Takes devices into a static group.
    pub(crate) async fn add(
        &self,
        actor: &Actor,
        name: &GroupName,
        devices: Vec<DeviceId>,
        now_ms: u64,
    ) -> Result<Group> {
        let devices = devices.into_iter().collect();
        self.check_devices(&devices).await?;
        self.change(actor, name, &devices, true, now_ms).await
    }

    /// Takes devices out of a static group; those that are not in it are passed over.
    pub(crate) async fn remove(
        &self,
        actor: &Actor,
        name: &GroupName,
        devices: Vec<DeviceId>,
        now_ms: u64,
    ) -> Result<Group> {
        self.change(actor, name, &devices.into_iter().collect(), false, now_ms).await
    }

    /// Deletes a group that nothing uses. Its devices stay as they are.
    pub(crate) async fn delete(&self, actor: &Actor, name: &GroupName, now_ms: u64) -> Result<()> {
        let group = self.found(name).await?;
        if let Some(user) = self.user(name, now_ms).await? {
            return Err(Error::GroupInUse { group: name.clone(), user });
        }
        if group.value.kept > 0 {
            self.change(actor, name, &self.kept(name).await?.into_iter().collect(), false, now_ms).await?;
        }
        for _ in 0..ATTEMPTS {
            let group = self.found(name).await?;
            if group.value.kept > 0 {
                break;
            }
            let mut batch = Batch::new();
            self.store.groups.delete(&mut batch, &group)?;
            let detail = json!({ "filter": group.value.filter });
            audit::record(&mut batch, actor, "group:delete", &subject(name), detail, now_ms)?;
            if self.store.try_commit(batch).await? {
                return Ok(());
            }
        }
        Err(Error::Contended(format!("group {name}")))
    }

    /// What uses a group, for people.
    async fn user(&self, name: &GroupName, now_ms: u64) -> Result<Option<String>> {
        let claims = store::all(&self.store.claims, &[]).await?.into_iter().map(|claim| claim.value);
        let mut open = claims.filter(|claim| claim.is_open(now_ms) && claim.group.as_ref() == Some(name));
        if let Some(claim) = open.next() {
            return Ok(Some(format!("the claim code {}, which puts devices into it", claim.id.short())));
        }
        let registered = store::all(&self.store.registrations, &[]).await?.into_iter();
        if let Some(one) = registered.map(|one| one.value).find(|one| one.group.as_ref() == Some(name)) {
            return Ok(Some(format!("the registered serial number {}, whose device joins it", one.serial)));
        }
        let (active, by) = (Rollout::ACTIVE, Rollout::BY_STATE);
        let mut after: Option<Vec<u8>> = None;
        loop {
            let page = self.store.rollouts.lookup(by, active, after.as_deref(), PAGE_ENTITIES).await?;
            let mut rollouts = page.items.into_iter().map(|rollout| rollout.value);
            if let Some(rollout) = rollouts.find(|rollout| rollout.follows.as_ref() == Some(name)) {
                return Ok(Some(format!("rollout {}, which takes its late comers in", rollout.id)));
            }
            match page.next {
                Some(next) => after = Some(next),
                None => return Ok(None),
            }
        }
    }

    async fn check_devices(&self, devices: &BTreeSet<DeviceId>) -> Result<()> {
        for id in devices {
            let device = self.store.devices.get(id.as_str()).await?;
            let device = device.ok_or_else(|| Error::DeviceMissing(id.clone()))?;
            if !device.value.is_active() {
                return Err(device.value.refusal());
            }
        }
        Ok(())
    }

    /// Adds or removes members, a part after the other. The group's record counts them and changes with every part, so
    /// that two changes at once do not mix.
    async fn change(
        &self,
        actor: &Actor,
        name: &GroupName,
        devices: &BTreeSet<DeviceId>,
        add: bool,
        now_ms: u64,
    ) -> Result<Group> {
        let all: Vec<&DeviceId> = devices.iter().collect();
        let mut group = self.found(name).await?.value;
        if group.filter.is_some() {
            return Err(Error::GroupDynamic(name.clone()));
        }
        for part in all.chunks(COMMIT_MEMBERS) {
            group = self.change_part(actor, name, part, add, now_ms).await?;
        }
        Ok(group)
    }

    async fn change_part(
        &self,
        actor: &Actor,
        name: &GroupName,
        part: &[&DeviceId],
        add: bool,
        now_ms: u64,
    ) -> Result<Group> {
        for _ in 0..ATTEMPTS {
            let found = self.found(name).await?;
            let (mut group, mut batch, mut changed) = (found.value.clone(), Batch::new(), Vec::new());
            for device in part {
                let member = Member { group: name.clone(), device: (*device).clone() };
                match (self.store.members.get(member.id()).await?, add) {
                    (None, true) => self.store.members.insert(&mut batch, &member)?,
                    (Some(known), false) => self.store.members.delete(&mut batch, &known)?,
                    _ => continue,
                }
                changed.push(*device);
            }
            if changed.is_empty() {
                return Ok(group);
            }
            let count = u32::try_from(changed.len()).unwrap_or(u32::MAX);
            group.kept = if add { group.kept + count } else { group.kept.saturating_sub(count) };
            if group.kept as usize > MEMBERS {
                return Err(Error::TooMany { what: "devices in one group", bound: MEMBERS });
            }
            self.store.groups.update(&mut batch, &found, &group)?;
            let detail = if add { json!({ "added": changed }) } else { json!({ "removed": changed }) };
            audit::record(&mut batch, actor, "group:change", &subject(name), detail, now_ms)?;
            if self.store.try_commit(batch).await? {
                return Ok(group);
            }
        }
        Err(Error::Contended(format!("group {name}")))
    }
}

/// Puts a device that enrols into a static group, in the same commit. A group that was deleted since is passed over.
pub(crate) async fn join(
    store: &Store,
    batch: &mut Batch,
    name: &GroupName,
    device: &DeviceId,
) -> Result<()> {
    let Some(found) = store.groups.get(name.as_str()).await? else { return Ok(()) };
    let mut group = found.value.clone();
    if group.filter.is_some() || group.kept as usize >= MEMBERS {
        tracing::warn!(%device, group = %name, "a device that enrols finds no place in its group");
        return Ok(());
    }
    group.kept += 1;
    store.groups.update(batch, &found, &group)?;
    store.members.insert(batch, &Member { group: name.clone(), device: device.clone() })?;
    Ok(())
}

/// Takes a device out of every static group that it is in, within a commit, and says which these are.
pub(crate) async fn leave_all(store: &Store, batch: &mut Batch, device: &DeviceId) -> Result<Vec<GroupName>> {
    let mut left = Vec::new();
    for found in store::all(&store.groups, &[]).await? {
        let name = &found.value.name;
        let member = Member { group: name.clone(), device: device.clone() };
        let Some(known) = store.members.get(member.id()).await? else { continue };
        store.members.delete(batch, &known)?;
        let kept = found.value.kept.saturating_sub(1);
        store.groups.update(batch, &found, &Group { kept, ..found.value.clone() })?;
        left.push(name.clone());
    }
    Ok(left)
}

/// The expression of a dynamic group, which asks for no other group: none can then ask for itself.
fn group_filter(text: &str) -> Result<Expression> {
    let filter = Expression::parse(text)?;
    match filter.groups() {
        [] => Ok(filter),
        _ => Err(Error::Invalid("the expression of a group cannot ask for other groups".into())),
    }
}

fn subject(name: &GroupName) -> String {
    format!("group/{name}")
}

/// Runs what takes its time where nobody else waits for it.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|ended| match ended.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        Err(_) => Error::Stopping,
    })
}
