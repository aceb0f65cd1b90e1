//! What operators ask of the whole fleet: which devices, and which groups.

use crate::devices::{self, Compared, DeviceView};
use crate::error::Result;
use crate::fleet::Fleet;
use crate::groups::{Group, GroupSpec};
use crate::roster::{Census, Found, Query};
use flotilla_identity::{Actor, now_ms};
use flotilla_protocol::{DeviceId, GroupName};

/// A page of devices.
#[derive(Clone, Debug, PartialEq)]
pub struct DevicePage {
    /// Devices that match, on all pages.
    pub total: usize,
    /// Those of this page, in the order that was asked for.
    pub devices: Vec<DeviceView>,
    /// Where the next page begins; none after the last.
    pub next: Option<String>,
}

/// A page of ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdPage {
    /// Devices that match, on all pages.
    pub total: usize,
    /// Those of this page.
    pub devices: Vec<DeviceId>,
    /// Where the next page begins; none after the last.
    pub next: Option<String>,
}

impl From<Found> for IdPage {
    fn from(found: Found) -> Self {
        let devices = found.page.iter().map(|row| row.id.clone()).collect();
        Self { total: found.total, devices, next: found.next }
    }
}

impl Fleet {
    /// A page of the devices that a query finds.
    pub async fn find(&self, query: &Query) -> Result<DevicePage> {
        let IdPage { total, devices: ids, next } = self.inner.groups.find(query).await?.into();
        let mut views = self.views();
        let mut devices = Vec::with_capacity(ids.len());
        for id in &ids {
            devices.push(views.device(id).await?);
        }
        Ok(DevicePage { total, devices, next })
    }

    /// The fleet in figures; so many devices are named as drifted at most.
    pub async fn census(&self, most: usize) -> Result<Census> {
        self.inner.groups.census(most).await
    }

    /// What a device should be beside what it says it is.
    pub async fn twin(&self, id: &DeviceId) -> Result<Compared> {
        let project = self.inner.parts.authority.project();
        devices::compared(&self.inner.store, project, id, now_ms()).await
    }

    /// The groups that a device is in, by name.
    pub async fn groups_of(&self, id: &DeviceId) -> Result<Vec<GroupName>> {
        self.inner.groups.of(id).await
    }

    /// Every group, by name, with the number of its devices that may connect.
    pub async fn groups(&self) -> Result<Vec<(Group, usize)>> {
        let mut all = Vec::new();
        for group in self.inner.groups.list().await? {
            let (_, found) = self.group(&group.name, &Query { limit: Some(1), ..Query::default() }).await?;
            all.push((group, found.total));
        }
        Ok(all)
    }

    /// A group, and a page of its devices that may connect.
    pub async fn group(&self, name: &GroupName, page: &Query) -> Result<(Group, IdPage)> {
        let group = self.inner.groups.get(name).await?;
        let filter = Some(format!("\"{name}\" in groups"));
        let found = self.inner.groups.find_active(&Query { filter, ..page.clone() }).await?;
        Ok((group, found.into()))
    }

    /// Who would be in a group with this expression.
    pub async fn preview_group(&self, filter: &str, page: &Query) -> Result<IdPage> {
        let query = Query { filter: Some(filter.to_owned()), ..page.clone() };
        Ok(self.inner.groups.preview(&query).await?.into())
    }

    /// Makes a group.
    pub async fn create_group(&self, actor: &Actor, name: &GroupName, spec: GroupSpec) -> Result<Group> {
        self.inner.groups.create(actor, name, spec, now_ms()).await
    }

    /// Takes devices into a static group.
    pub async fn add_to_group(
        &self,
        actor: &Actor,
        name: &GroupName,
        devices: Vec<DeviceId>,
    ) -> Result<Group> {
        self.inner.groups.add(actor, name, devices, now_ms()).await
    }

    /// Takes devices out of a static group.
    pub async fn remove_from_group(
        &self,
        actor: &Actor,
        name: &GroupName,
        devices: Vec<DeviceId>,
    ) -> Result<Group> {
        self.inner.groups.remove(actor, name, devices, now_ms()).await
    }

    /// Deletes a group that nothing uses.
    pub async fn delete_group(&self, actor: &Actor, name: &GroupName) -> Result<()> {
        self.inner.groups.delete(actor, name, now_ms()).await
    }
}
