//! Checked expressions, and the names of everything that they can speak of.

/// A checked expression of one value.
#[derive(Clone, Debug)]
pub(super) enum Node {
    Bool(bool),
    Int(i64),
    Double(f64),
    Text(Box<str>),
    /// A variable of the device.
    Field(Field),
    Telemetry(Sample),
    /// The attribute of this key.
    Attribute(Box<Node>),
    /// A field of the model of this name.
    Model(Box<Node>, ModelField),
    /// The element that a comprehension looks at: its number from outside.
    Element(usize),
    /// Whether there is a value.
    Has(Box<Node>),
    Not(Box<Node>),
    And(Box<Node>, Box<Node>),
    Or(Box<Node>, Box<Node>),
    If(Box<[Node; 3]>),
    Compare(Comparison, Box<Node>, Box<Node>),
    Arithmetic(Operation, Box<Node>, Box<Node>),
    Negate(Box<Node>),
    In(Box<Node>, List),
    /// Whether it is in the group of this number.
    InGroup(usize),
    Size(List),
    /// Characters of a text.
    Length(Box<Node>),
    Search(TextSearch, Box<Node>, Box<Node>),
    /// How many elements make the body true.
    Over(Quantifier, List, Box<Node>),
}

/// Several values.
#[derive(Clone, Debug)]
pub(super) enum List {
    Labels,
    Engines,
    /// Keys of attributes.
    Attributes,
    /// Names of models.
    Models,
    Literal(Box<[Node]>),
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Comparison {
    Equal,
    Unequal,
    Less,
    AtMost,
    Greater,
    AtLeast,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Operation {
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum TextSearch {
    StartsWith,
    EndsWith,
    Contains,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Quantifier {
    Exists,
    All,
    ExistsOne,
}

/// What a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Type {
    Bool,
    Int,
    Double,
    Text,
}

impl Type {
    pub(super) fn is_number(self) -> bool {
        matches!(self, Self::Int | Self::Double)
    }

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Bool => "true or false",
            Self::Int | Self::Double => "a number",
            Self::Text => "a text",
        }
    }
}

macro_rules! names {
    ($($(#[doc = $doc:literal])+ $set:ident { $($name:ident = $text:literal: $type:ident,)+ })+) => {$(
        $(#[doc = $doc])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum $set { $($name,)+ }

        impl $set {
            /// Every name.
            pub(super) const NAMES: &'static [&'static str] = &[$($text,)+];

            /// The one with this name, and what it is.
            pub(super) fn named(name: &str) -> Option<(Self, Type)> {
                match name { $($text => Some((Self::$name, Type::$type)),)+ _ => None }
            }
        }
    )+};
}

names! {
    /// Variables of one value.
    Field {
        Id = "id": Text,
        Name = "name": Text,
        State = "state": Text,
        Online = "online": Bool,
        SeenS = "seen_s": Int,
        EnrolledS = "enrolled_s": Int,
        Board = "board": Text,
        Arch = "arch": Text,
        Os = "os": Text,
        Agent = "agent": Text,
        Cpus = "cpus": Int,
        Memory = "memory": Int,
        Trust = "trust": Int,
    }
    /// Fields of the last sample.
    Sample {
        Cpu = "cpu": Double,
        MemoryUsed = "memory_used": Int,
        MemoryFree = "memory_free": Int,
        DiskFree = "disk_free": Int,
        AgentMemory = "agent_memory": Int,
        Temperature = "temperature": Double,
        Throttled = "throttled": Bool,
        UptimeS = "uptime_s": Int,
        AgeS = "age_s": Int,
    }
    /// Fields of a model.
    ModelField {
        Release = "release": Text,
        Wanted = "wanted": Text,
        Version = "version": Int,
        WantedVersion = "wanted_version": Int,
        Phase = "phase": Text,
        Confirmed = "confirmed": Bool,
        Failure = "failure": Text,
        Drift = "drift": Double,
        Predictions = "predictions": Int,
        Failures = "failures": Int,
        P95Ms = "p95_ms": Double,
    }
}

/// Variables that are not of one value.
pub(super) const COLLECTIONS: &[&str] = &["labels", "engines", "attributes", "models", "telemetry", "groups"];
