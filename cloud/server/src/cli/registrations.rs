//! `flotilla device register|registered|unregister`: serial numbers of devices that are expected.

use super::args::Target;
use super::commands::{Done, Out, client, encode};
use super::exit::Failure;
use super::table;
use crate::http::api::{RegisteredView, RegistrationView};
use flotilla_protocol::ErrorCode;
use std::fs::File;
use std::path::Path;

/// Registers a list.
pub(super) fn register(file: &Path, target: &Target, out: &Out) -> Done {
    let list = File::open(file).map_err(|problem| {
        Failure::new(ErrorCode::StorageIo, format!("{} cannot be read: {problem}", file.display()))
    })?;
    let done: RegisteredView = client(target)?.post_file("/api/v1/registrations", list)?;
    out.show(&done, |done| {
        let RegisteredView { new, replaced, unchanged, enrolled } = done;
        println!(
            "{new} new, {replaced} replaced, {unchanged} unchanged, {enrolled} left alone because a device has enrolled"
        );
    })
}

/// Lists them.
pub(super) fn list(target: &Target, out: &Out) -> Done {
    let all: Vec<RegistrationView> = client(target)?.get("/api/v1/registrations")?;
    out.show(&all, |all| print(all))
}

/// Forgets some.
pub(super) fn unregister(serials: &[String], target: &Target, out: &Out) -> Done {
    let client = client(target)?;
    let mut left: Vec<RegistrationView> = Vec::new();
    for serial in serials {
        left = client.delete(&format!("/api/v1/registrations/{}", encode(serial)))?;
    }
    out.show(&left, |left| println!("{} serial numbers are registered", left.len()))
}

fn print(all: &[RegistrationView]) {
    let row = |one: &RegistrationView| {
        let attributes = one.attributes.iter().map(|(key, value)| format!("{key}={value}"));
        let tags: Vec<String> = one.labels.iter().cloned().chain(attributes).collect();
        vec![
            one.serial.clone(),
            one.device.clone().unwrap_or_default(),
            one.name.clone().unwrap_or_default(),
            one.group.clone().unwrap_or_default(),
            tags.join(" "),
        ]
    };
    table::print(&["SERIAL", "DEVICE", "NAME", "GROUP", "LABELS"], &all.iter().map(row).collect::<Vec<_>>());
}
