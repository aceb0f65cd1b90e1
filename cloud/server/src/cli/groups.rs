//! `flotilla device list|label|attribute|name` and `flotilla group …`.

use super::args::{DeviceAttribute, DeviceLabel, DeviceList, Group, GroupDevices, Target, Those};
use super::commands::{Done, Out, client, encode, print_devices};
use super::{exit, table};
use crate::http::api::{
    DeviceIdPage, DeviceView, GroupChange, GroupPreview, GroupRequest, GroupView, QuarantineRequest,
    TagAnswer, TagRequest,
};
use std::collections::BTreeMap;

/// Devices of one page where all are listed.
const PAGE: u32 = 1_000;

/// Devices, found and sorted.
pub(super) fn list(asked: DeviceList, out: &Out) -> Done {
    let client = client(&asked.target)?;
    let limit = if asked.all { PAGE } else { asked.limit };
    let mut path = format!("/api/v1/devices?limit={limit}");
    for (name, value) in [("filter", &asked.filter), ("search", &asked.search), ("sort", &asked.sort)] {
        if let Some(value) = value {
            path += &format!("&{name}={}", encode(value));
        }
    }
    if asked.all_states {
        path += "&all_states=true";
    }
    let mut devices: Vec<DeviceView> = Vec::new();
    let mut next = Some(path);
    let mut total = None;
    while let Some(path) = next {
        let page = client.get_page::<Vec<DeviceView>>(&path)?;
        devices.extend(page.answer);
        total = page.total;
        next = page.next.filter(|_| asked.all);
    }
    out.show(&devices, |devices| print_devices(devices))?;
    // Apart from the devices, so that a script which reads them is not disturbed.
    let more = total.and_then(|total| total.checked_sub(devices.len() as u64)).filter(|more| *more > 0);
    if let Some(more) = more {
        eprintln!("and {more} more: ask for all of them with --all, or for fewer with --filter or --search");
    }
    Ok(())
}

/// Labels of devices.
pub(super) fn label(asked: DeviceLabel, out: &Out) -> Done {
    let request = TagRequest { add: asked.add, remove: asked.remove, ..those(asked.those) };
    tag(client(&asked.target)?.post("/api/v1/device-tags", &request)?, out)
}

/// Attributes of devices.
pub(super) fn attribute(asked: DeviceAttribute, out: &Out) -> Done {
    let gone = asked.unset.into_iter().map(|key| (key, None));
    let set: BTreeMap<_, _> =
        gone.chain(asked.set.into_iter().map(|(key, value)| (key, Some(value)))).collect();
    let request = TagRequest { set, ..those(asked.those) };
    tag(client(&asked.target)?.post("/api/v1/device-tags", &request)?, out)
}

fn those(those: Those) -> TagRequest {
    let devices = those.filter.is_none().then_some(those.ids);
    TagRequest { devices, filter: those.filter, ..TagRequest::default() }
}

/// Keeps rollouts away from devices for a reason, or lets them in again.
pub(super) fn quarantine(on: Those, reason: Option<String>, target: &Target, out: &Out) -> Done {
    let TagRequest { devices, filter, .. } = those(on);
    let request = QuarantineRequest { devices, filter, search: None, reason };
    tag(client(target)?.post("/api/v1/device-quarantine", &request)?, out)
}

pub(super) fn tag(answer: TagAnswer, out: &Out) -> Done {
    out.show(&answer, |answer| {
        println!("{} of {} devices changed", answer.changed, answer.devices);
    })?;
    exit::of_all(&answer.failed)
}

/// `flotilla group …`
pub(super) fn run(command: Group, out: &Out) -> Done {
    let path = |name: &str| format!("/api/v1/groups/{}", encode(name));
    match command {
        Group::Create { name, devices, filter, target } => {
            let devices = filter.is_none().then_some(devices);
            let request = GroupRequest { name, devices, filter };
            let group: GroupView = client(&target)?.post("/api/v1/groups", &request)?;
            out.show(&group, print_group)
        }
        Group::Preview { filter, limit, target } => {
            let request = GroupPreview { filter, limit: usize::try_from(limit).ok(), after: None };
            let page: DeviceIdPage = client(&target)?.post("/api/v1/groups/preview", &request)?;
            out.show(&page, |page| {
                println!("{} devices match", page.total);
                print_page(page);
            })
        }
        Group::List(target) => {
            let all: Vec<GroupView> = client(&target)?.get("/api/v1/groups")?;
            out.show(&all, |all| {
                let row = |group: &GroupView| {
                    let filter = group.filter.clone().unwrap_or_else(|| "static".into());
                    vec![group.name.clone(), group.total.to_string(), filter]
                };
                table::print(&["GROUP", "DEVICES", "OF"], &all.iter().map(row).collect::<Vec<_>>());
            })
        }
        Group::Show { name, limit, target } => {
            let group: GroupView = client(&target)?.get(&format!("{}?limit={limit}", path(&name)))?;
            out.show(&group, print_group)
        }
        Group::Add(GroupDevices { name, devices: add, target }) => {
            let request = GroupChange { add, ..GroupChange::default() };
            let group: GroupView = client(&target)?.post(&format!("{}/devices", path(&name)), &request)?;
            out.show(&group, print_group)
        }
        Group::Remove(GroupDevices { name, devices: remove, target }) => {
            let request = GroupChange { remove, ..GroupChange::default() };
            let group: GroupView = client(&target)?.post(&format!("{}/devices", path(&name)), &request)?;
            out.show(&group, print_group)
        }
        Group::Delete { name, target } => {
            let group: GroupView = client(&target)?.delete(&path(&name))?;
            out.show(&group, |group| {
                println!("group {} is deleted; its {} devices stay", group.name, group.total)
            })
        }
    }
}

fn print_group(group: &GroupView) {
    let of = group.filter.as_ref().map_or_else(|| "static".into(), |filter| format!("where {filter}"));
    println!("group {}: {} devices, {}", group.name, group.total, table::line(&of));
    group.page.iter().for_each(print_page);
}

fn print_page(page: &DeviceIdPage) {
    page.devices.iter().for_each(|id| println!("  {id}"));
    let more = page.total.saturating_sub(page.devices.len());
    if more > 0 {
        println!("  and {more} more");
    }
}
