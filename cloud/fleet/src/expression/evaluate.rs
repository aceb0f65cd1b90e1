//! Asks a checked expression of one device. Nothing here can fail, and nothing is allocated: where there is no value,
//! there is none.

use super::tree::{Comparison, Field, List, ModelField, Node, Operation, Quantifier, Sample, TextSearch};
use crate::roster::{Row, RowModel};
use std::cmp::Ordering;

/// Comprehensions within each other, at most.
pub(super) const NESTED: usize = 4;

/// Whom an expression is asked of, and when.
pub(crate) struct Asked<'a> {
    pub(crate) row: &'a Row,
    pub(crate) now_ms: u64,
    /// Whether the device is in the group of this number.
    pub(crate) in_group: &'a dyn Fn(usize) -> bool,
}

/// A value of one device.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Value<'a> {
    Bool(bool),
    Int(i64),
    Double(f64),
    Text(&'a str),
}

/// The elements that comprehensions look at, from outside.
type Elements<'a> = [Option<Value<'a>>; NESTED];

impl Node {
    /// Whether it is true. What has no value is not.
    pub(super) fn is_true(&self, asked: &Asked<'_>) -> bool {
        self.holds(asked, &mut [None; NESTED], 0) == Some(true)
    }

    fn holds<'a>(&'a self, asked: &Asked<'a>, elements: &mut Elements<'a>, depth: usize) -> Option<bool> {
        match self.value(asked, elements, depth)? {
            Value::Bool(value) => Some(value),
            _ => None,
        }
    }

    fn text<'a>(&'a self, asked: &Asked<'a>, elements: &mut Elements<'a>, depth: usize) -> Option<&'a str> {
        match self.value(asked, elements, depth)? {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    fn value<'a>(&'a self, asked: &Asked<'a>, e: &mut Elements<'a>, depth: usize) -> Option<Value<'a>> {
        let row = asked.row;
        Some(match self {
            Self::Bool(value) => Value::Bool(*value),
            Self::Int(value) => Value::Int(*value),
            Self::Double(value) => Value::Double(*value),
            Self::Text(text) => Value::Text(text),
            Self::Field(field) => return field.of(asked),
            Self::Telemetry(field) => return field.of(asked),
            Self::Attribute(key) => Value::Text(row.attribute(key.text(asked, e, depth)?)?),
            Self::Model(name, field) => return field.of(row.model(name.text(asked, e, depth)?)?),
            Self::Element(number) => return e.get(*number).copied().flatten(),
            Self::Has(of) => Value::Bool(of.value(asked, e, depth).is_some()),
            Self::Not(of) => Value::Bool(!of.holds(asked, e, depth)?),
            // One side decides alone if it can, whatever the other side lacks.
            Self::And(a, b) => match a.holds(asked, e, depth) {
                Some(false) => Value::Bool(false),
                Some(true) => Value::Bool(b.holds(asked, e, depth)?),
                None => return (b.holds(asked, e, depth) == Some(false)).then_some(Value::Bool(false)),
            },
            Self::Or(a, b) => match a.holds(asked, e, depth) {
                Some(true) => Value::Bool(true),
                Some(false) => Value::Bool(b.holds(asked, e, depth)?),
                None => return (b.holds(asked, e, depth) == Some(true)).then_some(Value::Bool(true)),
            },
            Self::If(of) => {
                let [condition, yes, no] = &**of;
                let chosen = if condition.holds(asked, e, depth)? { yes } else { no };
                return chosen.value(asked, e, depth);
            }
            Self::Compare(how, a, b) => {
                let order = order(a.value(asked, e, depth)?, b.value(asked, e, depth)?);
                Value::Bool(how.of(order))
            }
            Self::Arithmetic(how, a, b) => {
                return how.of(a.value(asked, e, depth)?, b.value(asked, e, depth)?);
            }
            Self::Negate(of) => match of.value(asked, e, depth)? {
                Value::Int(value) => Value::Int(value.checked_neg()?),
                Value::Double(value) => Value::Double(-value),
                _ => return None,
            },
            Self::In(item, list) => {
                let item = item.value(asked, e, depth)?;
                let (mut found, mut lacking) = (false, false);
                list.each(asked, e, depth, &mut |_, element| match element {
                    Some(element) => found = found || equal(item, element),
                    None => lacking = true,
                });
                if lacking && !found {
                    return None;
                }
                Value::Bool(found)
            }
            Self::InGroup(number) => Value::Bool((asked.in_group)(*number)),
            Self::Size(list) => Value::Int(i64::try_from(list.len(row)).ok()?),
            Self::Length(of) => Value::Int(i64::try_from(of.text(asked, e, depth)?.chars().count()).ok()?),
            Self::Search(how, text, part) => {
                let (text, part) = (text.text(asked, e, depth)?, part.text(asked, e, depth)?);
                Value::Bool(match how {
                    TextSearch::StartsWith => text.starts_with(part),
                    TextSearch::EndsWith => text.ends_with(part),
                    TextSearch::Contains => text.contains(part),
                })
            }
            Self::Over(quantifier, list, body) => {
                let (mut yes, mut no, mut lacking) = (0_usize, 0_usize, 0_usize);
                list.each(asked, e, depth, &mut |e, element| {
                    if let Some(place) = e.get_mut(depth) {
                        *place = element;
                    }
                    match body.holds(asked, e, depth + 1) {
                        Some(true) => yes += 1,
                        Some(false) => no += 1,
                        None => lacking += 1,
                    }
                });
                Value::Bool(match quantifier {
                    Quantifier::Exists if yes > 0 => true,
                    Quantifier::All if no > 0 => false,
                    _ if lacking > 0 => return None,
                    Quantifier::Exists => false,
                    Quantifier::All => true,
                    Quantifier::ExistsOne => yes == 1,
                })
            }
        })
    }
}

impl List {
    fn len(&self, row: &Row) -> usize {
        match self {
            Self::Labels => row.labels.len(),
            Self::Engines => row.facts.engines.len(),
            Self::Attributes => row.attributes.len(),
            Self::Models => row.models.len(),
            Self::Literal(nodes) => nodes.len(),
        }
    }

    /// Shows every element.
    fn each<'a>(
        &'a self,
        asked: &Asked<'a>,
        e: &mut Elements<'a>,
        depth: usize,
        show: &mut dyn FnMut(&mut Elements<'a>, Option<Value<'a>>),
    ) {
        let row = asked.row;
        let mut text = |text: &'a str| show(e, Some(Value::Text(text)));
        match self {
            Self::Labels => row.labels.iter().for_each(|label| text(label)),
            Self::Engines => row.facts.engines.iter().for_each(|engine| text(engine)),
            Self::Attributes => row.attributes.iter().for_each(|(key, _)| text(key)),
            Self::Models => row.models.iter().for_each(|model| text(&model.name)),
            Self::Literal(nodes) => {
                for node in nodes {
                    let element = node.value(asked, e, depth);
                    show(e, element);
                }
            }
        }
    }
}

impl Field {
    fn of<'a>(self, asked: &Asked<'a>) -> Option<Value<'a>> {
        let (row, facts) = (asked.row, &asked.row.facts);
        let since = |at_ms: u64| int(asked.now_ms.saturating_sub(at_ms) / 1000);
        match self {
            Self::Id => Some(Value::Text(row.id.as_str())),
            Self::Name => row.name.as_deref().map(Value::Text),
            Self::State => Some(Value::Text(row.state)),
            Self::Online => Some(Value::Bool(row.online())),
            Self::SeenS => row.last_seen_ms().and_then(since),
            Self::EnrolledS => since(row.enrolled_at_ms),
            Self::Board => told(&facts.board),
            Self::Arch => told(&facts.arch),
            Self::Os => told(&facts.os),
            Self::Agent => told(&facts.agent),
            Self::Cpus => (facts.cpus > 0).then_some(Value::Int(facts.cpus.into())),
            Self::Memory => (facts.memory_bytes > 0).then(|| int(facts.memory_bytes)).flatten(),
            Self::Trust => int(facts.trust_version),
        }
    }
}

impl Sample {
    fn of<'a>(self, asked: &Asked<'a>) -> Option<Value<'a>> {
        let sample = asked.row.sample.as_ref()?;
        match self {
            Self::Cpu => double(sample.cpu_percent.into()),
            Self::MemoryUsed => int(sample.memory_used_bytes),
            Self::MemoryFree => asked.row.memory_free_bytes().and_then(int),
            Self::DiskFree => int(sample.disk_free_bytes),
            Self::AgentMemory => int(sample.agent_memory_bytes),
            Self::Temperature => sample.temperature_c.and_then(|celsius| double(celsius.into())),
            Self::Throttled => Some(Value::Bool(sample.throttled)),
            Self::UptimeS => int(sample.uptime_s),
            Self::AgeS => int(asked.now_ms.saturating_sub(sample.received_ms) / 1000),
        }
    }
}

impl ModelField {
    fn of(self, model: &RowModel) -> Option<Value<'_>> {
        let release = model.confirmed.as_ref();
        let wanted = model.wanted.as_ref();
        match self {
            Self::Release => release.map(|release| Value::Text(&release.digest)),
            Self::Wanted => wanted.map(|release| Value::Text(&release.digest)),
            Self::Version => release.and_then(|release| release.version).map(|n| Value::Int(n.into())),
            Self::WantedVersion => wanted.and_then(|release| release.version).map(|n| Value::Int(n.into())),
            Self::Phase => Some(Value::Text(model.phase.as_str())),
            Self::Confirmed => Some(Value::Bool(wanted.is_some() && wanted == release)),
            Self::Failure => model.failure.map(|code| Value::Text(code.as_str())),
            Self::Drift => model.drift.and_then(|milli| double(f64::from(milli) / 1000.0)),
            Self::Predictions => model.predictions.and_then(int),
            Self::Failures => model.failures.and_then(int),
            Self::P95Ms => model.p95_us.and_then(|us| double(us as f64 / 1000.0)),
        }
    }
}

/// A text that a device has told.
fn told(text: &str) -> Option<Value<'_>> {
    (!text.is_empty()).then_some(Value::Text(text))
}

fn int<'a>(value: u64) -> Option<Value<'a>> {
    i64::try_from(value).ok().map(Value::Int)
}

fn double<'a>(value: f64) -> Option<Value<'a>> {
    value.is_finite().then_some(Value::Double(value))
}

fn equal(a: Value<'_>, b: Value<'_>) -> bool {
    order(a, b) == Some(Ordering::Equal)
}

/// How two values of one kind stand to each other; whole numbers and others are one kind.
fn order(a: Value<'_>, b: Value<'_>) -> Option<Ordering> {
    match (a, b) {
        (Value::Bool(a), Value::Bool(b)) => Some(a.cmp(&b)),
        (Value::Int(a), Value::Int(b)) => Some(a.cmp(&b)),
        (Value::Text(a), Value::Text(b)) => Some(a.cmp(b)),
        (Value::Int(a), Value::Double(b)) => (a as f64).partial_cmp(&b),
        (Value::Double(a), Value::Int(b)) => a.partial_cmp(&(b as f64)),
        (Value::Double(a), Value::Double(b)) => a.partial_cmp(&b),
        _ => None,
    }
}

impl Comparison {
    fn of(self, order: Option<Ordering>) -> bool {
        match (self, order) {
            (Self::Unequal, order) => order != Some(Ordering::Equal),
            (_, None) => false,
            (Self::Equal, Some(order)) => order.is_eq(),
            (Self::Less, Some(order)) => order.is_lt(),
            (Self::AtMost, Some(order)) => order.is_le(),
            (Self::Greater, Some(order)) => order.is_gt(),
            (Self::AtLeast, Some(order)) => order.is_ge(),
        }
    }
}

impl Operation {
    fn of<'a>(self, a: Value<'a>, b: Value<'a>) -> Option<Value<'a>> {
        if let (Value::Int(a), Value::Int(b)) = (a, b) {
            let value = match self {
                Self::Add => a.checked_add(b),
                Self::Subtract => a.checked_sub(b),
                Self::Multiply => a.checked_mul(b),
                Self::Divide => a.checked_div(b),
                Self::Remainder => a.checked_rem(b),
            };
            return value.map(Value::Int);
        }
        let number = |value| match value {
            Value::Int(value) => Some(value as f64),
            Value::Double(value) => Some(value),
            _ => None,
        };
        let (a, b) = (number(a)?, number(b)?);
        double(match self {
            Self::Add => a + b,
            Self::Subtract => a - b,
            Self::Multiply => a * b,
            Self::Divide => a / b,
            Self::Remainder => a % b,
        })
    }
}
