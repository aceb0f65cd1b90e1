//! What operators write on devices, and groups.

use super::super::api::{
    DeviceIdPage, GroupChange, GroupPreview, GroupRequest, GroupView, QuarantineRequest, TagAnswer,
    TagRequest,
};
use super::super::problem::Problem;
use super::super::service::{Answer, Call, Handled};
use super::orders;
use flotilla_fleet::{Group, GroupSpec, IdPage, Ordered, Query, Selection, TagChange};
use flotilla_protocol::{DeviceId, ErrorCode, GroupName};
use http::StatusCode;

/// `POST /api/v1/device-tags`
pub(crate) async fn tag(mut call: Call) -> Handled {
    let request: TagRequest = call.json().await?;
    let on = selection(request.devices, request.filter, request.search)?;
    let change = TagChange {
        name: request.name,
        add: request.add.into_iter().collect(),
        remove: request.remove.into_iter().collect(),
        set: request.set,
    };
    answer(call.app.fleet.tag(call.actor()?, on, change).await?)
}

/// `POST /api/v1/device-quarantine`
pub(crate) async fn quarantine(mut call: Call) -> Handled {
    let request: QuarantineRequest = call.json().await?;
    let on = selection(request.devices, request.filter, request.search)?;
    answer(call.app.fleet.quarantine(call.actor()?, on, request.reason).await?)
}

fn selection(
    devices: Option<Vec<String>>,
    filter: Option<String>,
    search: Option<String>,
) -> Result<Selection, Problem> {
    // Words that are none would be for every device.
    let search = search.filter(|search| !search.trim().is_empty());
    match (devices, filter, search) {
        (Some(devices), None, None) => Ok(Selection::Devices(ids(&devices)?)),
        (None, None, None) | (Some(_), _, _) => {
            Err(either("an order is for `devices`, or for those that a `filter`, a `search` or both find"))
        }
        (None, filter, search) => Ok(Selection::Matching(Query { filter, search, ..Query::default() })),
    }
}

pub(super) fn answer(done: Vec<Ordered>) -> Handled {
    let changed = done.iter().filter(|one| matches!(one.outcome, Ok(true))).count();
    let (devices, failed) = orders::told(done)?;
    Answer::json(&TagAnswer { devices: devices.len(), changed, failed })
}

/// `GET /api/v1/groups`
pub(crate) async fn list(call: Call) -> Handled {
    let all = call.app.fleet.groups().await?;
    Answer::json(&all.into_iter().map(|(group, total)| view(group, total)).collect::<Vec<_>>())
}

/// `POST /api/v1/groups`
pub(crate) async fn create(mut call: Call) -> Handled {
    let request: GroupRequest = call.json().await?;
    let name = request.name.parse::<GroupName>();
    let name = name.map_err(|e| Problem::new(ErrorCode::InvalidInput, format!("name: {e}")))?;
    let spec = match (request.devices, request.filter) {
        (Some(devices), None) => GroupSpec::Static(ids(&devices)?),
        (None, Some(filter)) => GroupSpec::Dynamic(filter),
        _ => return Err(either("a group is of `devices`, or of those that match a `filter`")),
    };
    call.app.fleet.create_group(call.actor()?, &name, spec).await?;
    one(&call, &name, StatusCode::CREATED).await
}

/// `POST /api/v1/groups/preview`
pub(crate) async fn preview(mut call: Call) -> Handled {
    let GroupPreview { filter, limit, after } = call.json().await?;
    let found = call.app.fleet.preview_group(&filter, &Query { limit, after, ..Query::default() }).await?;
    Answer::json(&page(found))
}

/// `GET /api/v1/groups/{name}`
pub(crate) async fn show(call: Call) -> Handled {
    let name: GroupName = call.param("name")?;
    one(&call, &name, StatusCode::OK).await
}

/// `POST /api/v1/groups/{name}/devices`
pub(crate) async fn change(mut call: Call) -> Handled {
    let GroupChange { add, remove } = call.json().await?;
    let name: GroupName = call.param("name")?;
    let (add, remove) = (ids(&add)?, ids(&remove)?);
    if add.is_empty() && remove.is_empty() {
        return Err(either("nothing is to change: name devices to `add` or to `remove`"));
    }
    if !add.is_empty() {
        call.app.fleet.add_to_group(call.actor()?, &name, add).await?;
    }
    if !remove.is_empty() {
        call.app.fleet.remove_from_group(call.actor()?, &name, remove).await?;
    }
    one(&call, &name, StatusCode::OK).await
}

/// `DELETE /api/v1/groups/{name}`
pub(crate) async fn delete(call: Call) -> Handled {
    let name: GroupName = call.param("name")?;
    let (group, page) = call.app.fleet.group(&name, &Query::default()).await?;
    call.app.fleet.delete_group(call.actor()?, &name).await?;
    Answer::json(&view(group, page.total))
}

async fn one(call: &Call, name: &GroupName, status: StatusCode) -> Handled {
    let (limit, after) = (call.query("limit")?, call.query("after")?);
    let (group, found) = call.app.fleet.group(name, &Query { limit, after, ..Query::default() }).await?;
    let view = GroupView { page: Some(page(found.clone())), ..view(group, found.total) };
    Answer::json_with(status, &view)
}

fn view(group: Group, total: usize) -> GroupView {
    GroupView {
        name: group.name.to_string(),
        filter: group.filter,
        total,
        created_by: group.created_by.to_string(),
        created_at_ms: group.created_at_ms,
        page: None,
    }
}

fn page(found: IdPage) -> DeviceIdPage {
    let devices = found.devices.iter().map(ToString::to_string).collect();
    DeviceIdPage { total: found.total, devices, next: found.next }
}

pub(super) fn ids(texts: &[String]) -> Result<Vec<DeviceId>, Problem> {
    let id = |text: &String| text.parse().map_err(|e| Problem::new(ErrorCode::InvalidInput, format!("{e}")));
    texts.iter().map(id).collect()
}

fn either(detail: &str) -> Problem {
    Problem::new(ErrorCode::InvalidInput, detail)
}
