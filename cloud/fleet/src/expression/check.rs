//! Reads an expression and checks it: names, kinds of values, depth and cost. What passes can be asked of any device.

use super::evaluate::NESTED;
use super::tree::{
    COLLECTIONS, Comparison, Field, List, ModelField, Node, Operation, Quantifier, Sample, TextSearch, Type,
};
use super::{COST, DEPTH, ExpressionError};
use crate::devices::{ATTRIBUTES, ENGINES, LABELS};
use crate::roster::MODELS;
use cel::common::ast::{CallExpr, ComprehensionExpr, Expr, LiteralValue, SelectExpr, SourceInfo, operators};
use cel::parser::{Expression as Parsed, Parser};
use flotilla_protocol::GroupName;

/// Functions that there are.
const FUNCTIONS: &str = "has, size, startsWith, endsWith, contains, exists, all, exists_one";

/// Reads an expression that is true or false of a device.
pub(super) fn read(text: &str) -> Result<(Node, Vec<GroupName>)> {
    let (parsed, source) = Parser::new().parse_with_source_info(text).map_err(|found| {
        let first = found.errors.into_iter().next();
        let (at, what) = first.map_or((1, "it is no CEL".into()), |error| {
            let line: usize = usize::try_from(error.pos.0 - 1).unwrap_or(0);
            let before: usize = text.split_inclusive('\n').take(line).map(|line| line.chars().count()).sum();
            (before + usize::try_from(error.pos.1).unwrap_or(0).max(1), error.msg)
        });
        // The parser's word for a character that it cannot read, and the like.
        ExpressionError { at, what: what.chars().take(200).collect() }
    })?;
    let mut checker = Checker { source, elements: Vec::new(), groups: Vec::new() };
    let (node, cost) = checker.typed(&parsed, Type::Bool, "an expression over devices", 0)?;
    if cost > COST {
        let what =
            format!("it takes up to {cost} steps a device; {COST} are possible: nest exists and all less");
        return Err(ExpressionError { at: 1, what });
    }
    Ok((node, checker.groups))
}

/// A checked part, and what it is.
enum Checked {
    Value(Node, Type),
    /// Of texts, or of what its elements are.
    List(List, Type),
    /// `models[name]`
    Model(Node),
    Attributes,
    Models,
    Telemetry,
    Groups,
}

impl Checked {
    fn as_str(&self) -> &'static str {
        match self {
            Self::Value(_, kind) => kind.as_str(),
            Self::List(..) => "a list",
            Self::Model(_) => "a model, with fields of its own",
            Self::Attributes => "a map of attributes",
            Self::Models => "a map of models",
            Self::Telemetry => "a sample, with fields of its own",
            Self::Groups => "asked by `\"NAME\" in groups` only",
        }
    }
}

type Result<T> = std::result::Result<T, ExpressionError>;

struct Checker {
    source: SourceInfo,
    /// Names of the elements that comprehensions look at, from outside, and what they are.
    elements: Vec<(String, Type)>,
    groups: Vec<GroupName>,
}

impl Checker {
    fn at(&self, part: &Parsed) -> usize {
        self.source.offset_for(part.id).map_or(1, |(start, _)| start as usize + 1)
    }

    fn wrong<T>(&self, part: &Parsed, what: impl Into<String>) -> Result<T> {
        Err(ExpressionError { at: self.at(part), what: what.into() })
    }

    /// A part that is of this kind.
    fn typed(&mut self, part: &Parsed, wanted: Type, of: &str, depth: usize) -> Result<(Node, usize)> {
        let (node, kind, cost) = self.value(part, depth)?;
        if kind == wanted || (kind.is_number() && wanted.is_number()) {
            return Ok((node, cost));
        }
        self.wrong(part, format!("{of} is {}, and this is {}", wanted.as_str(), kind.as_str()))
    }

    /// A part of one value.
    fn value(&mut self, part: &Parsed, depth: usize) -> Result<(Node, Type, usize)> {
        match self.any(part, depth)? {
            (Checked::Value(node, kind), cost) => Ok((node, kind, cost)),
            (other, _) => self.wrong(part, format!("this is {}: a single value is needed", other.as_str())),
        }
    }

    /// Any part, and what it costs at most.
    fn any(&mut self, part: &Parsed, depth: usize) -> Result<(Checked, usize)> {
        if depth > DEPTH {
            return self.wrong(part, format!("it is nested deeper than {DEPTH} levels"));
        }
        match &part.expr {
            Expr::Literal(literal) => self.literal(part, literal),
            Expr::Ident(name) => self.variable(part, name),
            Expr::Select(select) => self.select(part, select, depth),
            Expr::Call(call) => self.call(part, call, depth),
            Expr::Comprehension(over) => self.comprehension(part, over, depth),
            Expr::List(list) => {
                let (mut nodes, mut kind, mut cost) = (Vec::new(), None, 1_usize);
                for element in &list.elements {
                    let (node, this, more) = self.value(element, depth + 1)?;
                    let first = *kind.get_or_insert(this);
                    if !(first == this || first.is_number() && this.is_number()) {
                        return self.wrong(element, "the elements of a list are of one kind");
                    }
                    cost = cost.saturating_add(more);
                    nodes.push(node);
                }
                Ok((Checked::List(List::Literal(nodes.into()), kind.unwrap_or(Type::Text)), cost))
            }
            Expr::Map(_) | Expr::Struct(_) | Expr::Unspecified => {
                self.wrong(part, "maps cannot be written here")
            }
        }
    }

    fn literal(&self, part: &Parsed, literal: &LiteralValue) -> Result<(Checked, usize)> {
        let (node, kind) = match literal {
            LiteralValue::Boolean(value) => (Node::Bool(*value.inner()), Type::Bool),
            LiteralValue::Int(value) => (Node::Int(*value.inner()), Type::Int),
            LiteralValue::UInt(value) => match i64::try_from(*value.inner()) {
                Ok(value) => (Node::Int(value), Type::Int),
                Err(_) => return self.wrong(part, "this number is too large"),
            },
            LiteralValue::Double(value) => (Node::Double(*value.inner()), Type::Double),
            LiteralValue::String(value) => (Node::Text(value.inner().into()), Type::Text),
            LiteralValue::Bytes(_) | LiteralValue::Null => {
                return self
                    .wrong(part, "there are no bytes and no null here: ask has(…) whether there is a value");
            }
        };
        Ok((Checked::Value(node, kind), 1))
    }

    fn variable(&self, part: &Parsed, name: &str) -> Result<(Checked, usize)> {
        if let Some(number) = self.elements.iter().rposition(|(known, _)| known == name) {
            let kind = self.elements.get(number).map_or(Type::Text, |(_, kind)| *kind);
            return Ok((Checked::Value(Node::Element(number), kind), 1));
        }
        if let Some((field, kind)) = Field::named(name) {
            return Ok((Checked::Value(Node::Field(field), kind), 1));
        }
        let checked = match name {
            "labels" => Checked::List(List::Labels, Type::Text),
            "engines" => Checked::List(List::Engines, Type::Text),
            "attributes" => Checked::Attributes,
            "models" => Checked::Models,
            "telemetry" => Checked::Telemetry,
            "groups" => Checked::Groups,
            _ => {
                let all = [Field::NAMES, COLLECTIONS].concat().join(", ");
                return self.wrong(part, format!("there is no variable {name}; there are {all}"));
            }
        };
        Ok((checked, 1))
    }

    fn select(&mut self, part: &Parsed, select: &SelectExpr, depth: usize) -> Result<(Checked, usize)> {
        let (operand, cost) = self.any(&select.operand, depth + 1)?;
        let name = &select.field;
        if select.test && matches!(operand, Checked::Models) {
            let has = Node::In(Node::Text(name.as_str().into()).into(), List::Models);
            return Ok((Checked::Value(has, Type::Bool), cost + MODELS));
        }
        let (checked, more) = self.field(part, operand, Node::Text(name.as_str().into()), Some(name))?;
        let checked = match (select.test, checked) {
            (true, Checked::Value(node, _)) => Checked::Value(Node::Has(node.into()), Type::Bool),
            (_, checked) => checked,
        };
        Ok((checked, cost.saturating_add(more)))
    }

    /// `operand.name` or `operand[name]`
    fn field(
        &self,
        part: &Parsed,
        operand: Checked,
        key: Node,
        name: Option<&str>,
    ) -> Result<(Checked, usize)> {
        let unknown = |what: &str, names: &[&str]| {
            let name = name.unwrap_or("of this name");
            self.wrong(part, format!("{what} has no field {name}; it has {}", names.join(", ")))
        };
        match operand {
            Checked::Attributes => Ok((Checked::Value(Node::Attribute(key.into()), Type::Text), ATTRIBUTES)),
            Checked::Models => Ok((Checked::Model(key), 8)),
            Checked::Model(model) => match name.and_then(ModelField::named) {
                Some((field, kind)) => Ok((Checked::Value(Node::Model(model.into(), field), kind), 1)),
                None => unknown("a model", ModelField::NAMES),
            },
            Checked::Telemetry => match name.and_then(Sample::named) {
                Some((field, kind)) => Ok((Checked::Value(Node::Telemetry(field), kind), 1)),
                None => unknown("telemetry", Sample::NAMES),
            },
            Checked::List(..) => {
                self.wrong(part, "a list has no fields: ask it with `in`, `size(…)`, `exists` or `all`")
            }
            other => self.wrong(part, format!("this is {}: it has no fields", other.as_str())),
        }
    }

    fn call(&mut self, part: &Parsed, call: &CallExpr, depth: usize) -> Result<(Checked, usize)> {
        let below = depth + 1;
        match (call.func_name.as_str(), &call.target, call.args.as_slice()) {
            (operators::LOGICAL_NOT, None, [of]) => {
                let (node, cost) = self.typed(of, Type::Bool, "what `!` is of", below)?;
                Ok((Checked::Value(Node::Not(node.into()), Type::Bool), cost + 1))
            }
            (name @ (operators::LOGICAL_AND | operators::LOGICAL_OR), None, [a, b]) => {
                let of = if name == operators::LOGICAL_AND { "a side of `&&`" } else { "a side of `||`" };
                let (a, more) = self.typed(a, Type::Bool, of, below)?;
                let (b, cost) = self.typed(b, Type::Bool, of, below)?;
                let make = if name == operators::LOGICAL_AND { Node::And } else { Node::Or };
                let node = make(a.into(), b.into());
                Ok((Checked::Value(node, Type::Bool), cost.saturating_add(more) + 1))
            }
            (operators::CONDITIONAL, None, [condition, yes, no]) => {
                let (condition, cost) = self.typed(condition, Type::Bool, "a condition", below)?;
                let (yes, kind, more) = self.value(yes, below)?;
                let (no, other) = self.typed(no, kind, "the other choice", below)?;
                let node = Node::If(Box::new([condition, yes, no]));
                Ok((Checked::Value(node, kind), cost.saturating_add(more.max(other)) + 1))
            }
            (operators::NEGATE, None, [of]) => {
                let (node, kind, cost) = self.value(of, below)?;
                if !kind.is_number() {
                    return self.wrong(of, format!("`-` is of a number, and this is {}", kind.as_str()));
                }
                Ok((Checked::Value(Node::Negate(node.into()), kind), cost + 1))
            }
            (operators::IN, None, [item, list]) => self.within(part, item, list, below),
            (operators::INDEX, None, [operand, key]) => self.index(part, operand, key, below),
            ("size", None, [of]) => self.size(of, below),
            ("size", Some(of), []) => self.size(of, below),
            (name @ ("startsWith" | "endsWith" | "contains"), Some(text), [of]) => {
                let how = match name {
                    "startsWith" => TextSearch::StartsWith,
                    "endsWith" => TextSearch::EndsWith,
                    _ => TextSearch::Contains,
                };
                let (text, more) = self.typed(text, Type::Text, &format!("what {name} is of"), below)?;
                let (of, cost) = self.typed(of, Type::Text, &format!("what {name} looks for"), below)?;
                let node = Node::Search(how, text.into(), of.into());
                Ok((Checked::Value(node, Type::Bool), cost.saturating_add(more) + 4))
            }
            (name, None, [a, b]) if name.starts_with('_') => self.binary(part, name, a, b, below),
            (name, ..) => self.wrong(
                part,
                format!(
                    "there is no {} with so many arguments; there are {FUNCTIONS}",
                    name.trim_matches('@')
                ),
            ),
        }
    }

    fn binary(
        &mut self,
        part: &Parsed,
        name: &str,
        a: &Parsed,
        b: &Parsed,
        depth: usize,
    ) -> Result<(Checked, usize)> {
        let comparison = match name {
            operators::EQUALS => Some(Comparison::Equal),
            operators::NOT_EQUALS => Some(Comparison::Unequal),
            operators::LESS => Some(Comparison::Less),
            operators::LESS_EQUALS => Some(Comparison::AtMost),
            operators::GREATER => Some(Comparison::Greater),
            operators::GREATER_EQUALS => Some(Comparison::AtLeast),
            _ => None,
        };
        let operation = match name {
            operators::ADD => Some(Operation::Add),
            operators::SUBSTRACT => Some(Operation::Subtract),
            operators::MULTIPLY => Some(Operation::Multiply),
            operators::DIVIDE => Some(Operation::Divide),
            operators::MODULO => Some(Operation::Remainder),
            _ => None,
        };
        let (first, kind, more) = self.value(a, depth)?;
        if let Some(how) = comparison {
            let (second, cost) = self.typed(b, kind, "what this is compared with", depth)?;
            let node = Node::Compare(how, first.into(), second.into());
            return Ok((Checked::Value(node, Type::Bool), cost.saturating_add(more) + 1));
        }
        let Some(how) = operation else {
            let operator = name.trim_matches('_');
            return self.wrong(part, format!("there is no operator {operator} here"));
        };
        let (second, other, cost) = self.value(b, depth)?;
        if !(kind.is_number() && other.is_number()) {
            return self.wrong(part, "only numbers can be reckoned with");
        }
        let kind = if kind == other { kind } else { Type::Double };
        let node = Node::Arithmetic(how, first.into(), second.into());
        Ok((Checked::Value(node, kind), cost.saturating_add(more) + 1))
    }

    fn within(
        &mut self,
        part: &Parsed,
        item: &Parsed,
        list: &Parsed,
        depth: usize,
    ) -> Result<(Checked, usize)> {
        let (checked, cost) = self.any(list, depth)?;
        let (list, kind, length) = match self.ranged(checked) {
            Ok(range) => range,
            Err(Checked::Groups) => return self.in_group(part, item),
            Err(other) => {
                return self.wrong(list, format!("`in` asks a list or a map; this is {}", other.as_str()));
            }
        };
        let (item, more) = self.typed(item, kind, "what is looked for here", depth)?;
        let node = Node::In(item.into(), list);
        Ok((Checked::Value(node, Type::Bool), cost.saturating_add(more) + length))
    }

    fn in_group(&mut self, part: &Parsed, item: &Parsed) -> Result<(Checked, usize)> {
        let Expr::Literal(LiteralValue::String(name)) = &item.expr else {
            return self.wrong(item, "a group is named by its text: `\"NAME\" in groups`");
        };
        let name = match GroupName::new(name.inner()) {
            Ok(name) => name,
            Err(problem) => return self.wrong(item, problem.to_string()),
        };
        let known = self.groups.iter().position(|known| *known == name);
        let number = known.unwrap_or_else(|| {
            self.groups.push(name);
            self.groups.len() - 1
        });
        // A group's own expression may cost as much as this one.
        if self.groups.len() > GROUPS {
            return self.wrong(part, format!("it asks for more than {GROUPS} groups"));
        }
        Ok((Checked::Value(Node::InGroup(number), Type::Bool), 8))
    }

    fn index(
        &mut self,
        part: &Parsed,
        operand: &Parsed,
        key: &Parsed,
        depth: usize,
    ) -> Result<(Checked, usize)> {
        let (operand, cost) = self.any(operand, depth)?;
        let name = match &key.expr {
            Expr::Literal(LiteralValue::String(name)) => Some(name.inner().to_owned()),
            _ => None,
        };
        let (key, more) = self.typed(key, Type::Text, "what stands in brackets", depth)?;
        let (checked, own) = self.field(part, operand, key, name.as_deref())?;
        Ok((checked, cost.saturating_add(more).saturating_add(own)))
    }

    fn size(&mut self, of: &Parsed, depth: usize) -> Result<(Checked, usize)> {
        let (checked, cost) = self.any(of, depth)?;
        let node = match checked {
            Checked::Value(node, Type::Text) => Node::Length(node.into()),
            checked => match self.ranged(checked) {
                Ok((list, ..)) => Node::Size(list),
                Err(other) => {
                    return self.wrong(
                        of,
                        format!("size is of a text, a list or a map; this is {}", other.as_str()),
                    );
                }
            },
        };
        Ok((Checked::Value(node, Type::Int), cost + 4))
    }

    /// Something with elements: what they are, and how many at most.
    fn ranged(&self, checked: Checked) -> std::result::Result<(List, Type, usize), Checked> {
        match checked {
            Checked::List(list, kind) => {
                let length = match &list {
                    List::Labels => LABELS,
                    List::Engines => ENGINES,
                    List::Attributes => ATTRIBUTES,
                    List::Models => MODELS,
                    List::Literal(nodes) => nodes.len(),
                };
                Ok((list, kind, length + 1))
            }
            Checked::Attributes => Ok((List::Attributes, Type::Text, ATTRIBUTES + 1)),
            Checked::Models => Ok((List::Models, Type::Text, MODELS + 1)),
            other => Err(other),
        }
    }

    /// `list.exists(x, …)` and the like, as the parser writes them out.
    fn comprehension(
        &mut self,
        part: &Parsed,
        over: &ComprehensionExpr,
        depth: usize,
    ) -> Result<(Checked, usize)> {
        let Some((quantifier, body)) = quantified(over) else {
            return self.wrong(part, format!("lists cannot be made here; there are {FUNCTIONS}"));
        };
        let (checked, cost) = self.any(&over.iter_range, depth + 1)?;
        let (list, kind, length) = match self.ranged(checked) {
            Ok(range) => range,
            Err(other) => {
                return self
                    .wrong(&over.iter_range, format!("this has no elements: it is {}", other.as_str()));
            }
        };
        if self.elements.len() == NESTED {
            return self
                .wrong(part, format!("it has more than {NESTED} of exists and all within each other"));
        }
        self.elements.push((over.iter_var.clone(), kind));
        let body = self.typed(body, Type::Bool, "what is asked of each element", depth + 1);
        self.elements.pop();
        let (body, each) = body?;
        let node = Node::Over(quantifier, list, body.into());
        Ok((Checked::Value(node, Type::Bool), cost.saturating_add(length.saturating_mul(each + 1))))
    }
}

/// Groups that one expression asks for, at most.
pub(crate) const GROUPS: usize = 8;

/// What a comprehension asks of each element. The parser writes `exists` as `result || …` from `false` on, `all` as
/// `result && …` from `true` on, and `exists_one` as `… ? result + 1 : result` from `0` on.
fn quantified(over: &ComprehensionExpr) -> Option<(Quantifier, &Parsed)> {
    if over.iter_var2.is_some() {
        return None;
    }
    let Expr::Call(step) = &over.loop_step.expr else { return None };
    let start = match &over.accu_init.expr {
        Expr::Literal(start) => start,
        _ => return None,
    };
    match (start, step.func_name.as_str(), step.args.as_slice()) {
        (LiteralValue::Boolean(_), operators::LOGICAL_OR, [_, body]) => Some((Quantifier::Exists, body)),
        (LiteralValue::Boolean(_), operators::LOGICAL_AND, [_, body]) => Some((Quantifier::All, body)),
        (LiteralValue::Int(_), operators::CONDITIONAL, [body, ..]) => Some((Quantifier::ExistsOne, body)),
        _ => None,
    }
}
