//! Finds, sorts and pages devices on the rows of the roster. Pure: rows in, ids out.

use super::Row;
use crate::devices::{DECOMMISSIONED, URGENCY, WAITING};
use crate::error::{Error, Result};
use crate::expression::{Asked, Expression, GROUPS};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use flotilla_protocol::DeviceId;
use serde::{Deserialize, Serialize};
use std::cell::Cell;
use std::cmp::Ordering;
use std::sync::Arc;

/// Devices of one page where nothing is said.
const PAGE: usize = 500;
/// Devices of one page at most.
const PAGE_MAX: usize = 1_000;
/// Longest text that is searched for, in bytes.
const SEARCH: usize = 128;
/// Columns that devices are sorted by, at most.
const SORTED: usize = 4;
/// Longest cursor, in bytes.
const CURSOR: usize = 4_096;

/// Which devices are looked for, and in which order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Query {
    /// An expression that is true of them; see [`crate::expression`].
    pub filter: Option<String>,
    /// Words of which each stands in the id, the name, a label or the board.
    pub search: Option<String>,
    /// Columns, with `-` before those that descend: `-seen,board`. By id where nothing is said.
    pub sort: Option<String>,
    /// Devices of one page.
    pub limit: Option<usize>,
    /// Where the page begins: what the page before said.
    pub after: Option<String>,
    /// Whether devices are meant, too, that have been decommissioned. A filter that names that state asks for them by itself.
    #[serde(default)]
    pub all_states: bool,
    /// So many of the devices from there on are passed over: whoever scrolls through a long list jumps.
    #[serde(default)]
    pub skip: Option<usize>,
}

/// A query that is understood.
pub(crate) struct Search {
    pub(crate) filter: Option<Expression>,
    /// In lower case.
    words: Vec<String>,
    sort: Vec<Sort>,
    limit: usize,
    after: Option<Cursor>,
    all_states: bool,
    skip: usize,
}

/// The rows of one page.
pub(crate) struct Found {
    /// Devices that match, on all pages.
    pub(crate) total: usize,
    pub(crate) page: Vec<Arc<Row>>,
    /// Where the next page begins; none after the last.
    pub(crate) next: Option<String>,
}

impl Search {
    /// Refuses a query that cannot be answered, and says why.
    pub(crate) fn new(query: &Query) -> Result<Self> {
        let search = query.search.as_deref().unwrap_or_default();
        if search.len() > SEARCH {
            let problem = format!("a search is for at most {SEARCH} bytes of text, not {}", search.len());
            return Err(Error::Invalid(problem));
        }
        let limit = query.limit.unwrap_or(PAGE);
        if !(1..=PAGE_MAX).contains(&limit) {
            return Err(Error::Invalid(format!("a page has 1 to {PAGE_MAX} devices, not {limit}")));
        }
        let sort = Sort::all(query.sort.as_deref().unwrap_or_default())?;
        let after = query.after.as_deref().map(|after| Cursor::read(after, &sort)).transpose()?;
        Ok(Self {
            filter: query.filter.as_deref().map(Expression::parse).transpose()?,
            words: search.split_whitespace().map(str::to_lowercase).collect(),
            sort,
            limit,
            after,
            all_states: query.all_states
                || query.filter.as_ref().is_some_and(|filter| filter.contains(DECOMMISSIONED)),
            skip: query.skip.unwrap_or(0),
        })
    }

    /// The page of the rows that match. `in_group` says whether a device is in the group of this number in the filter.
    pub(crate) fn find(
        &self,
        rows: Vec<Arc<Row>>,
        now_ms: u64,
        in_group: &dyn Fn(usize, &Row) -> bool,
    ) -> Found {
        let matching = rows.into_iter().filter(|row| self.matches(row, now_ms, in_group));
        let mut rows: Vec<Sorted> = matching.map(Sorted::from).collect();
        let total = rows.len();
        if let Some(after) = &self.after {
            rows.retain(|row| after.order(row, &self.sort).is_lt());
        }
        let by = |a: &Sorted, b: &Sorted| order(a, b, &self.sort);
        let end = self.skip.saturating_add(self.limit);
        let more = rows.len() > end;
        if more {
            // What follows the page is not sorted.
            rows.select_nth_unstable_by(end - 1, by);
            rows.truncate(end);
        }
        rows.sort_unstable_by(by);
        rows.drain(..self.skip.min(rows.len()));
        let next = rows.last().filter(|_| more).map(|last| Cursor::at(last, &self.sort).write());
        Found { total, page: rows.into_iter().map(|sorted| sorted.row).collect(), next }
    }

    /// Whether a device is one of those that are looked for.
    pub(crate) fn matches(&self, row: &Row, now_ms: u64, in_group: &dyn Fn(usize, &Row) -> bool) -> bool {
        if row.state == DECOMMISSIONED && !self.all_states {
            return false;
        }
        if !self.words.iter().all(|word| says(row, word)) {
            return false;
        }
        // However often it asks for a group, whose expression may cost as much as its own, that is looked at once.
        let known = [const { Cell::new(None) }; GROUPS];
        let in_group = |number: usize| match known.get(number) {
            Some(known) => known.get().unwrap_or_else(|| {
                let is_in = in_group(number, row);
                known.set(Some(is_in));
                is_in
            }),
            None => false,
        };
        let asked = Asked { row, now_ms, in_group: &in_group };
        self.filter.as_ref().is_none_or(|filter| filter.matches(&asked))
    }
}

/// Whether a word, which is in lower case, stands in what names the device.
fn says(row: &Row, word: &str) -> bool {
    row.id.as_str().contains(word)
        || row.labels.iter().any(|label| label.contains(word))
        || row.facts.board.to_lowercase().contains(word)
        || row.name.as_ref().is_some_and(|name| name.to_lowercase().contains(word))
}

/// A column, and which way it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sort {
    column: Column,
    descending: bool,
}

macro_rules! columns {
    ($($name:ident = $text:literal,)+) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        enum Column { $($name,)+ }

        impl Column {
            const NAMES: &'static [&'static str] = &[$($text,)+];

            fn named(name: &str) -> Option<Self> {
                match name { $($text => Some(Self::$name),)+ _ => None }
            }
        }
    };
}

columns! {
    Id = "id",
    Name = "name",
    State = "state",
    Online = "online",
    Seen = "seen",
    Enrolled = "enrolled",
    Board = "board",
    Arch = "arch",
    Os = "os",
    Agent = "agent",
    Cpus = "cpus",
    Memory = "memory",
    Cpu = "cpu",
    MemoryFree = "memory_free",
    DiskFree = "disk_free",
    Temperature = "temperature",
}

impl Sort {
    fn all(text: &str) -> Result<Vec<Self>> {
        let parts: Vec<&str> = text.split(',').map(str::trim).filter(|part| !part.is_empty()).collect();
        if parts.len() > SORTED {
            let problem = format!("devices are sorted by at most {SORTED} columns, not {}", parts.len());
            return Err(Error::Invalid(problem));
        }
        let one = |part: &&str| {
            let (descending, name) = part.strip_prefix('-').map_or((false, *part), |name| (true, name));
            let column = Column::named(name).ok_or_else(|| {
                let name: String = name.chars().take(SEARCH).collect();
                let all = Column::NAMES.join(", ");
                Error::Invalid(format!("devices cannot be sorted by {name:?}; there are {all}"))
            })?;
            Ok(Self { column, descending })
        };
        parts.iter().map(one).collect()
    }

    fn key<'a>(&self, sorted: &'a Sorted) -> Key<'a> {
        let row = &*sorted.row;
        let sample = row.sample.as_ref();
        let number = |number: Option<u64>| number.map_or(Key::None, |number| Key::Number(number as f64));
        let measured = |number: Option<f32>| match number.filter(|number| number.is_finite()) {
            Some(number) => Key::Number(number.into()),
            None => Key::None,
        };
        let text = |text: &'a str| if text.is_empty() { Key::None } else { Key::Text(text) };
        match self.column {
            Column::Id => Key::Text(row.id.as_str()),
            Column::Name => row.name.as_deref().map_or(Key::None, text),
            Column::State => Key::Number(urgency(row.state)),
            Column::Online => Key::Number(if row.online() { 0.0 } else { 1.0 }),
            Column::Seen => number(sorted.seen_ms),
            Column::Enrolled => number(Some(row.enrolled_at_ms)),
            Column::Board => text(&row.facts.board),
            Column::Arch => text(&row.facts.arch),
            Column::Os => text(&row.facts.os),
            Column::Agent => text(&row.facts.agent),
            Column::Cpus => number(Some(row.facts.cpus.into()).filter(|cpus| *cpus > 0)),
            Column::Memory => number(Some(row.facts.memory_bytes).filter(|bytes| *bytes > 0)),
            Column::Cpu => measured(sample.map(|sample| sample.cpu_percent)),
            Column::MemoryFree => number(row.memory_free_bytes()),
            Column::DiskFree => number(sample.map(|sample| sample.disk_free_bytes)),
            Column::Temperature => measured(sample.and_then(|sample| sample.temperature_c)),
        }
    }
}

/// What needs somebody's eye comes first.
fn urgency(state: &str) -> f64 {
    if state == WAITING {
        return -1.0;
    }
    URGENCY.iter().position(|phase| phase.as_str() == state).unwrap_or(URGENCY.len()) as f64
}

/// What a device is sorted by. What a device lacks comes last, whichever way the column goes.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Key<'a> {
    Number(f64),
    Text(&'a str),
    None,
}

impl Key<'_> {
    fn order(&self, other: &Self, descending: bool) -> Ordering {
        let order = match (self, other) {
            (Self::None, Self::None) => return Ordering::Equal,
            (Self::None, _) => return Ordering::Greater,
            (_, Self::None) => return Ordering::Less,
            (Self::Number(a), Self::Number(b)) => a.total_cmp(b),
            (Self::Text(a), Self::Text(b)) => a.cmp(b),
            // Keys of one column are of one kind; a cursor is checked for it.
            (Self::Number(_), Self::Text(_)) => Ordering::Less,
            (Self::Text(_), Self::Number(_)) => Ordering::Greater,
        };
        if descending { order.reverse() } else { order }
    }
}

/// A row with what rises while it is sorted: connected devices are heard all the time.
struct Sorted {
    row: Arc<Row>,
    seen_ms: Option<u64>,
}

impl From<Arc<Row>> for Sorted {
    fn from(row: Arc<Row>) -> Self {
        Self { seen_ms: row.last_seen_ms(), row }
    }
}

fn order(a: &Sorted, b: &Sorted, sort: &[Sort]) -> Ordering {
    sort.iter()
        .map(|sort| sort.key(a).order(&sort.key(b), sort.descending))
        .find(|order| order.is_ne())
        .unwrap_or_else(|| a.row.id.cmp(&b.row.id))
}

/// The place behind a device: what it was sorted by when its page was made, and its id. A device that comes or goes moves
/// no other one to another side of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Cursor {
    keys: Vec<CursorKey>,
    id: DeviceId,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
enum CursorKey {
    /// A number's bits: its text would not always be read as the same number.
    Number(u64),
    Text(String),
    None(()),
}

impl CursorKey {
    fn key(&self) -> Key<'_> {
        match self {
            Self::Number(bits) => Key::Number(f64::from_bits(*bits)),
            Self::Text(text) => Key::Text(text),
            Self::None(()) => Key::None,
        }
    }
}

impl Cursor {
    fn at(row: &Sorted, sort: &[Sort]) -> Self {
        let key = |sort: &Sort| match sort.key(row) {
            Key::Number(number) => CursorKey::Number(number.to_bits()),
            Key::Text(text) => CursorKey::Text(text.to_owned()),
            Key::None => CursorKey::None(()),
        };
        Self { keys: sort.iter().map(key).collect(), id: row.row.id.clone() }
    }

    fn write(&self) -> String {
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(self).unwrap_or_default())
    }

    fn read(text: &str, sort: &[Sort]) -> Result<Self> {
        let bytes = (text.len() <= CURSOR).then(|| URL_SAFE_NO_PAD.decode(text).ok()).flatten();
        let cursor: Option<Self> = bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        cursor.filter(|cursor| cursor.keys.len() == sort.len()).ok_or_else(|| {
            Error::Invalid("`after` is not where a page of this search, in this order, ended".into())
        })
    }

    /// Where the cursor stands from a row.
    fn order(&self, row: &Sorted, sort: &[Sort]) -> Ordering {
        self.keys
            .iter()
            .zip(sort)
            .map(|(own, sort)| own.key().order(&sort.key(row), sort.descending))
            .find(|order| order.is_ne())
            .unwrap_or_else(|| self.id.cmp(&row.row.id))
    }
}
