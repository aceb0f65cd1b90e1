//! What operators write on devices: a name, labels, attributes. Short texts that search, groups and claims go by.

use super::device::Device;
use super::service::subject;
use crate::error::{Error, Result};
use crate::store::Store;
use flotilla_identity::{Actor, audit};
use flotilla_protocol::DeviceId;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Labels of one device.
pub(crate) const LABELS: usize = 16;
/// Attributes of one device.
pub(crate) const ATTRIBUTES: usize = 16;
/// Longest label, and longest key of an attribute.
const WORD: usize = 32;
/// Longest value of an attribute, in bytes.
const VALUE: usize = 128;
/// Longest name, in bytes.
const NAME: usize = 64;
/// Labels and attributes of one change: its audit record holds all of them.
const CHANGES: usize = LABELS + ATTRIBUTES;

/// What operators have written on a device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tags {
    /// Its name for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Short words, such as `canary`.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub labels: BTreeSet<String>,
    /// Short texts by key, such as `site`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, String>,
}

/// A change of what is written on a device. What it does not speak of stays.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TagChange {
    /// The name from now on; an empty one takes it away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Labels that it gets.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub add: BTreeSet<String>,
    /// Labels that it loses.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub remove: BTreeSet<String>,
    /// Attributes that it gets; without a value one is taken away.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub set: BTreeMap<String, Option<String>>,
}

impl Tags {
    /// Whether nothing is written on the device.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Refuses what a device cannot carry.
    pub(crate) fn check(&self) -> Result<()> {
        let all = TagChange {
            name: self.name.clone(),
            add: self.labels.clone(),
            remove: BTreeSet::new(),
            set: self.attributes.iter().map(|(key, value)| (key.clone(), Some(value.clone()))).collect(),
        };
        all.check()?;
        self.check_numbers()
    }

    pub(crate) fn check_numbers(&self) -> Result<()> {
        for (what, has, bound) in [
            ("labels on one device", self.labels.len(), LABELS),
            ("attributes on one device", self.attributes.len(), ATTRIBUTES),
        ] {
            if has > bound {
                return Err(Error::TooMany { what, bound });
            }
        }
        Ok(())
    }

    /// These with a change made to them.
    pub(crate) fn changed(&self, change: &TagChange) -> Result<Self> {
        let mut tags = self.clone();
        if let Some(name) = &change.name {
            tags.name = Some(name.clone()).filter(|name| !name.is_empty());
        }
        tags.labels.retain(|label| !change.remove.contains(label));
        tags.labels.extend(change.add.iter().cloned());
        for (key, value) in &change.set {
            match value {
                Some(value) => drop(tags.attributes.insert(key.clone(), value.clone())),
                None => drop(tags.attributes.remove(key)),
            }
        }
        tags.check_numbers()?;
        Ok(tags)
    }
}

impl TagChange {
    /// Refuses what no device can carry.
    pub(crate) fn check(&self) -> Result<()> {
        if *self == Self::default() {
            return Err(Error::Invalid(
                "nothing is to change: name labels to add or remove, attributes to set, or a name".into(),
            ));
        }
        if self.add.len() + self.remove.len() + self.set.len() > CHANGES {
            return Err(Error::TooMany { what: "labels and attributes in one change", bound: CHANGES });
        }
        if let Some(label) = self.add.intersection(&self.remove).next() {
            return Err(Error::Invalid(format!("label {label:?} is to be added and removed at once")));
        }
        self.add.iter().chain(&self.remove).try_for_each(|label| word("a label", label))?;
        self.set.keys().try_for_each(|key| word("the key of an attribute", key))?;
        for (key, value) in &self.set {
            let what = format!("the value of attribute {key}");
            value.as_ref().map_or(Ok(()), |value| text(&what, value, VALUE))?;
        }
        self.name.as_ref().map_or(Ok(()), |name| text("a device's name", name, NAME))
    }
}

fn word(what: &str, word: &str) -> Result<()> {
    let first = word.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    let all = word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(&b));
    if first && all && word.len() <= WORD {
        return Ok(());
    }
    let word: String = word.chars().take(WORD).collect();
    Err(Error::Invalid(format!(
        "{what} is 1 to {WORD} characters of a-z, 0-9, '-', '_' or '.', starting with a letter or digit: not {word:?}"
    )))
}

fn text(what: &str, text: &str, max: usize) -> Result<()> {
    if text.len() <= max && !text.contains(char::is_control) {
        return Ok(());
    }
    Err(Error::Invalid(format!("{what} is at most {max} bytes on one line, not {}", text.len())))
}

/// Changes what is written on a device. Says whether that is a change.
pub(crate) async fn tag(
    store: &Store,
    actor: &Actor,
    id: &DeviceId,
    change: &TagChange,
    now_ms: u64,
) -> Result<bool> {
    let mut changed = false;
    let device = store
        .modify(&store.devices, id.as_str().as_bytes(), |device: &mut Device, batch| {
            let tags = device.tags.changed(change)?;
            changed = tags != device.tags;
            if changed {
                device.tags = tags;
                let detail = serde_json::to_value(change).unwrap_or_default();
                audit::record(batch, actor, "device:tag", &subject(id), detail, now_ms)?;
            }
            Ok(changed)
        })
        .await?;
    device.map(|_| changed).ok_or_else(|| Error::DeviceMissing(id.clone()))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests fail by panicking")]
mod tests {
    use super::*;
    use flotilla_protocol::ErrorCode;

    fn change(add: &[&str], remove: &[&str], set: &[(&str, Option<&str>)]) -> TagChange {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        let set = set.iter().map(|(key, value)| ((*key).to_owned(), value.map(str::to_owned))).collect();
        TagChange { name: None, add: words(add), remove: words(remove), set }
    }

    #[test]
    fn what_is_named_changes_and_the_rest_stays() {
        let first = change(&["canary", "lab"], &[], &[("site", Some("berlin")), ("rack", Some("7"))]);
        let tags = Tags::default().changed(&first).unwrap();
        let second = TagChange { name: Some("Gate 7".into()), ..change(&[], &["lab"], &[("rack", None)]) };
        let tags = tags.changed(&second).unwrap();
        assert_eq!(tags.name.as_deref(), Some("Gate 7"));
        assert_eq!(tags.labels, ["canary".to_owned()].into());
        assert_eq!(tags.attributes, [("site".to_owned(), "berlin".to_owned())].into());
        assert_eq!(tags.changed(&second).unwrap(), tags, "the same again changes nothing");
        let nameless = TagChange { name: Some(String::new()), ..TagChange::default() };
        assert_eq!(tags.changed(&nameless).unwrap().name, None);
    }

    #[test]
    fn records_of_earlier_versions_read_and_a_bare_device_is_written_as_before() {
        let device = crate::roster::testing::bare_device("gate-7", 1);
        let text = serde_json::to_string(&device).unwrap();
        assert!(!text.contains("tags"), "{text}");
        assert_eq!(serde_json::from_str::<Device>(&text).unwrap(), device);
        let claim = r#"{"id":"0000000000000000000000000000000000000000000000000000000000000000","uses":1,"used":0,"expires_at_ms":1,"created_at_ms":1,"created_by":"admin"}"#;
        let claim: crate::claims::Claim = serde_json::from_str(claim).unwrap();
        assert!(claim.group.is_none() && claim.tags.is_empty());
    }

    #[test]
    fn what_no_device_can_carry_is_refused_by_name() {
        for (bad, says) in [
            (change(&["Canary"], &[], &[]), "Canary"),
            (change(&[""], &[], &[]), "label"),
            (change(&[&"a".repeat(33)], &[], &[]), "32"),
            (change(&["a"], &["a"], &[]), "at once"),
            (change(&[], &[], &[("Site", Some("x"))]), "Site"),
            (change(&[], &[], &[("site", Some("a\nb"))]), "site"),
            (change(&[], &[], &[("site", Some(&"ü".repeat(65)))]), "128"),
            (TagChange { name: Some("x".repeat(65)), ..TagChange::default() }, "64"),
            (TagChange::default(), "nothing"),
        ] {
            let error = bad.check().unwrap_err();
            assert_eq!(error.code(), ErrorCode::InvalidInput);
            assert!(error.to_string().contains(says), "{error}");
        }
        let many: Vec<String> = (0..=LABELS).map(|n| format!("l{n}")).collect();
        let many = change(&many.iter().map(String::as_str).collect::<Vec<_>>(), &[], &[]);
        many.check().unwrap();
        assert_eq!(Tags::default().changed(&many).unwrap_err().code(), ErrorCode::Busy);
        let words: Vec<String> = (0..=CHANGES).map(|n| format!("l{n}")).collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        assert_eq!(change(&[], &words, &[]).check().unwrap_err().code(), ErrorCode::Busy);
        let longest = "\u{fc}\"".repeat(VALUE / 3);
        let keys: Vec<String> = (0..ATTRIBUTES).map(|n| format!("{n:0>32}")).collect();
        let set: Vec<_> = keys.iter().map(|key| (key.as_str(), Some(longest.as_str()))).collect();
        let labels: Vec<&str> = keys.iter().map(String::as_str).collect();
        let full = change(&labels, &[], &set);
        full.check().unwrap();
        assert!(serde_json::to_vec(&full).unwrap().len() < audit::AUDIT_DETAIL, "it fits into the trail");
    }
}
