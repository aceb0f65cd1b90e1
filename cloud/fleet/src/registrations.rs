//! Devices that are expected: serial numbers, with what is written on the device that enrols with one.
//!
//! A serial number is what a device says of its board, and no proof: the secret of a claim admits it. It names a device
//! among those that a claim lets in, and each once.

use crate::devices::Tags;
use crate::error::{Error, Result};
use crate::groups::{self, Group};
use crate::store::{self, ATTEMPTS, Store};
use flotilla_identity::{Actor, audit};
use flotilla_protocol::enrol::BoardSerial;
use flotilla_protocol::{ActorId, DeviceId, Digest, GroupName};
use flotilla_storage::{Batch, Entity, Table};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};

/// Bytes of a list.
pub const LIST_BYTES: usize = 16 * 1024 * 1024;
/// Serial numbers that are registered at most.
pub const REGISTERED: usize = 100_000;
/// Serial numbers that are written in one commit.
const COMMIT: usize = 500;
/// How a column begins that gives an attribute.
const ATTRIBUTE: &str = "attribute.";

/// A device that is expected, or has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registration {
    /// The serial number of its board.
    pub serial: BoardSerial,
    /// The static group that it joins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<GroupName>,
    /// What is written on it: a name, labels, attributes.
    #[serde(default, skip_serializing_if = "Tags::is_empty")]
    pub tags: Tags,
    /// When it was registered, in milliseconds since 1970.
    pub registered_at_ms: u64,
    /// By whom.
    pub registered_by: ActorId,
    /// The device that enrolled with it last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<DeviceId>,
}

impl Entity for Registration {
    const TABLE: Table = Table::new("registrations");

    fn id(&self) -> Vec<u8> {
        self.serial.as_str().into()
    }
}

/// What became of a list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registered {
    /// Serial numbers that were not known.
    pub new: usize,
    /// Known ones, of which the list says something else.
    pub replaced: usize,
    /// Known ones, of which it says the same.
    pub unchanged: usize,
    /// Those with which a device has enrolled: they stay as they are.
    pub enrolled: usize,
}

/// A line of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Line {
    serial: BoardSerial,
    group: Option<GroupName>,
    tags: Tags,
}

/// Reads a list: comma-separated values (RFC 4180) with a header that names the columns `serial`, `name`, `group`, `labels`
/// (with spaces between them) and `attribute.KEY`, of which only the first has to be there. One mistake refuses it whole.
fn parse(list: &[u8]) -> Result<Vec<Line>> {
    let bad = |line: u64, what: String| Error::Invalid(format!("line {line} of the list: {what}"));
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(list);
    let header = reader.headers().map_err(|problem| bad(1, said(&problem)))?.clone();
    let mut seen = BTreeSet::new();
    for column in &header {
        let known = matches!(column, "serial" | "name" | "group" | "labels")
            || column.strip_prefix(ATTRIBUTE).is_some_and(|key| !key.is_empty());
        if !known {
            let columns = "serial, name, group, labels and attribute.KEY";
            return Err(bad(1, format!("there is no column {column:?}: {columns} can be given")));
        }
        if !seen.insert(column) {
            return Err(bad(1, format!("column {column:?} comes twice")));
        }
    }
    if !seen.contains("serial") {
        return Err(bad(1, "the header names no column serial".into()));
    }
    let (mut lines, mut at) = (Vec::new(), BTreeMap::new());
    for record in reader.records() {
        let record = record.map_err(|problem| {
            let line = problem.position().map_or(0, csv::Position::line);
            bad(line, said(&problem))
        })?;
        let number = record.position().map_or(0, csv::Position::line);
        let line = line(&header, &record).map_err(|what| bad(number, what))?;
        if let Some(first) = at.insert(line.serial.clone(), number) {
            let what =
                format!("column serial: {} stands in line {first}, too: take one of them out", line.serial);
            return Err(bad(number, what));
        }
        if lines.len() >= REGISTERED {
            return Err(Error::TooMany { what: "serial numbers in one list", bound: REGISTERED });
        }
        lines.push(line);
    }
    if lines.is_empty() {
        return Err(Error::Invalid("the list has no line beside its header".into()));
    }
    Ok(lines)
}

/// What is wrong with the form of a list.
fn said(problem: &csv::Error) -> String {
    match problem.kind() {
        csv::ErrorKind::Utf8 { .. } => "it is no UTF-8 text".to_owned(),
        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
            format!("it has {len} values, and the header names {expected_len} columns")
        }
        _ => problem.to_string(),
    }
}

fn line(header: &csv::StringRecord, record: &csv::StringRecord) -> std::result::Result<Line, String> {
    let (mut serial, mut group, mut tags) = (None, None, Tags::default());
    for (column, value) in header.iter().zip(record).filter(|(_, value)| !value.is_empty()) {
        let wrong = |problem: &dyn std::fmt::Display| format!("column {column}: {problem}");
        match column {
            "serial" => serial = Some(value.parse::<BoardSerial>().map_err(|problem| wrong(&problem))?),
            "group" => group = Some(value.parse::<GroupName>().map_err(|problem| wrong(&problem))?),
            "name" => tags.name = Some(value.to_owned()),
            "labels" => tags.labels = value.split_whitespace().map(str::to_owned).collect(),
            _ => {
                let key = column.strip_prefix(ATTRIBUTE).unwrap_or(column);
                drop(tags.attributes.insert(key.to_owned(), value.to_owned()));
            }
        }
    }
    let serial = serial.ok_or("column serial: it is empty")?;
    if !tags.is_empty() {
        tags.check().map_err(|problem| problem.to_string())?;
    }
    Ok(Line { serial, group, tags })
}

/// Registers a list. It is checked whole before anything is written, and written a part after the other: whoever is cut off
/// in the middle gives the same list again, and the rest is done.
pub(crate) async fn register(store: &Store, actor: &Actor, list: &[u8], now_ms: u64) -> Result<Registered> {
    if list.len() > LIST_BYTES {
        return Err(Error::TooMany { what: "bytes in a list", bound: LIST_BYTES });
    }
    let lines = parse(list)?;
    for name in lines.iter().filter_map(|line| line.group.as_ref()).collect::<BTreeSet<_>>() {
        let found: Option<Group> = store.groups.get(name.as_str()).await?.map(|found| found.value);
        if found.ok_or_else(|| Error::GroupMissing(name.clone()))?.filter.is_some() {
            return Err(Error::GroupDynamic(name.clone()));
        }
    }
    let known = store::all(&store.registrations, &[]).await?;
    let known: BTreeSet<_> = known.into_iter().map(|found| found.value.serial).collect();
    let more = lines.iter().filter(|line| !known.contains(&line.serial)).count();
    if known.len() + more > REGISTERED {
        return Err(Error::TooMany { what: "registered serial numbers", bound: REGISTERED });
    }
    let digest = Digest::of(list);
    let mut done = Registered::default();
    for part in lines.chunks(COMMIT) {
        let written = write(store, actor, part, &digest, now_ms).await?;
        done.new += written.new;
        done.replaced += written.replaced;
        done.unchanged += written.unchanged;
        done.enrolled += written.enrolled;
    }
    Ok(done)
}

async fn write(
    store: &Store,
    actor: &Actor,
    lines: &[Line],
    list: &Digest,
    now_ms: u64,
) -> Result<Registered> {
    for _ in 0..ATTEMPTS {
        let (mut done, mut batch) = (Registered::default(), Batch::new());
        for line in lines {
            let found = store.registrations.get(line.serial.as_str()).await?;
            let Some(found) = found else {
                let new = Registration {
                    serial: line.serial.clone(),
                    group: line.group.clone(),
                    tags: line.tags.clone(),
                    registered_at_ms: now_ms,
                    registered_by: actor.id.clone(),
                    device: None,
                };
                store.registrations.insert(&mut batch, &new)?;
                done.new += 1;
                continue;
            };
            let known = &found.value;
            if holder(store, known).await?.is_some() {
                done.enrolled += 1;
            } else if (&known.group, &known.tags) == (&line.group, &line.tags) {
                done.unchanged += 1;
            } else {
                let (group, tags) = (line.group.clone(), line.tags.clone());
                let changed = Registration { group, tags, ..known.clone() };
                store.registrations.update(&mut batch, &found, &changed)?;
                done.replaced += 1;
            }
        }
        if done.new + done.replaced == 0 {
            return Ok(done);
        }
        let detail = json!({ "list": list, "new": done.new, "replaced": done.replaced });
        audit::record(&mut batch, actor, "device:register", "registrations", detail, now_ms)?;
        if store.try_commit(batch).await? {
            return Ok(done);
        }
    }
    Err(Error::Contended("the registered serial numbers".into()))
}

/// The device that has a serial number now: one that is shut out has it no more.
async fn holder(store: &Store, registration: &Registration) -> Result<Option<DeviceId>> {
    let Some(id) = &registration.device else { return Ok(None) };
    let device = store.devices.get(id.as_str()).await?;
    Ok(device.filter(|device| device.value.may_connect()).map(|device| device.value.id))
}

/// What is registered of a device that enrols; takes the serial number for it, in the commit that makes the device. None if it
/// says none, or one that nobody has registered.
pub(crate) async fn take(
    store: &Store,
    batch: &mut Batch,
    serial: Option<&BoardSerial>,
    device: &DeviceId,
) -> Result<Option<Registration>> {
    let Some(serial) = serial else { return Ok(None) };
    let Some(found) = store.registrations.get(serial.as_str()).await? else { return Ok(None) };
    if let Some(other) = holder(store, &found.value).await? {
        return Err(Error::SerialTaken { serial: serial.clone(), device: other });
    }
    let taken = Registration { device: Some(device.clone()), ..found.value.clone() };
    store.registrations.update(batch, &found, &taken)?;
    if let Some(group) = &taken.group {
        groups::join(store, batch, group, device).await?;
    }
    Ok(Some(taken))
}

/// Every registration, by serial number, with the device that has it now.
pub(crate) async fn list(store: &Store) -> Result<Vec<Registration>> {
    let mut all = Vec::new();
    for found in store::all(&store.registrations, &[]).await? {
        let device = holder(store, &found.value).await?;
        all.push(Registration { device, ..found.value });
    }
    Ok(all)
}

/// Forgets a serial number. The device that has enrolled with it stays as it is.
pub(crate) async fn unregister(
    store: &Store,
    actor: &Actor,
    serial: &BoardSerial,
    now_ms: u64,
) -> Result<()> {
    for _ in 0..ATTEMPTS {
        let found = store.registrations.get(serial.as_str()).await?;
        let found = found.ok_or_else(|| Error::SerialMissing(serial.clone()))?;
        let mut batch = Batch::new();
        store.registrations.delete(&mut batch, &found)?;
        let detail = json!({ "serial": serial, "device": found.value.device });
        audit::record(&mut batch, actor, "device:unregister", "registrations", detail, now_ms)?;
        if store.try_commit(batch).await? {
            return Ok(());
        }
    }
    Err(Error::Contended("the registered serial numbers".into()))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests fail by panicking")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_list_says_what_each_device_is_to_be() {
        let list = "serial,name,labels,attribute.site,group\r\n\
                    PF-1,\"Till 1, door\",shop  canary,berlin,tills\r\nPF-2,,,,\r\n";
        let lines = parse(list.as_bytes()).unwrap();
        assert_eq!(lines.len(), 2);
        let Line { serial, group, tags } = &lines[0];
        assert_eq!((serial.as_str(), group.as_ref().unwrap().as_str()), ("PF-1", "tills"));
        assert_eq!(tags.name.as_deref(), Some("Till 1, door"));
        assert_eq!(tags.labels, ["canary".to_owned(), "shop".to_owned()].into());
        assert_eq!(tags.attributes, [("site".to_owned(), "berlin".to_owned())].into());
        assert!(lines[1].tags.is_empty() && lines[1].group.is_none());
    }

    #[test]
    fn a_mistake_is_named_with_its_line_and_column() {
        for (list, wanted) in [
            ("", "line 1 of the list: the header names no column serial"),
            ("name\nx\n", "line 1 of the list: the header names no column serial"),
            ("serial,colour\nA,red\n", "line 1 of the list: there is no column \"colour\""),
            ("serial,serial\nA,B\n", "line 1 of the list: column \"serial\" comes twice"),
            ("serial,attribute.\nA,B\n", "there is no column \"attribute.\""),
            ("serial\n", "the list has no line beside its header"),
            ("serial,name\nA,x\nB\n", "line 3 of the list: it has 1 values, and the header names 2 columns"),
            ("serial,name\nA,x\n,y\n", "line 3 of the list: column serial: it is empty"),
            ("serial\nA\nB\nA\n", "line 4 of the list: column serial: A stands in line 2, too"),
            ("serial\nA B\n", "line 2 of the list: column serial: a serial number is"),
            ("serial,group\nA,No Group\n", "line 2 of the list: column group:"),
            ("serial,labels\nA,NO!\n", "line 2 of the list: a label"),
        ] {
            let problem = parse(list.as_bytes()).unwrap_err().to_string();
            assert!(problem.contains(wanted), "{list:?}: {problem}");
        }
        let problem = parse(b"serial\n\xff\xfe\n").unwrap_err().to_string();
        assert!(problem.contains("line 2") && problem.contains("no UTF-8"), "{problem}");
    }

    proptest! {
        #[test]
        fn no_list_makes_it_panic(list in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&list);
            let _ = parse(&[b"serial,name\n".as_slice(), list.as_slice()].concat());
        }
    }
}
