//! A compiled condition and its evaluation, which neither allocates nor fails.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::cmp::Ordering;
use core::fmt;

use super::constant::{Format, Written, ones};
use super::fields::{Flag, Text};
use super::glob;
use super::subject::{Bits, Header, Locality, PortName, Subject, Truth};
use super::syntax::{Relation, Span};
use crate::{Micros, Rate};

/// A run of one of the program's pools.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) start: u32,
    pub(super) end: u32,
}

impl Run {
    fn of<T>(self, pool: &[T]) -> &[T] {
        pool.get(self.start as usize..self.end as usize).unwrap_or(&[])
    }
}

/// Which bits of which header a test looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slice {
    pub(super) header: Header,
    pub(super) low: u8,
    pub(super) width: u8,
}

impl Slice {
    fn of(self, subject: &Subject<'_>) -> Bits {
        let Bits { value, mask } = subject.get(self.header);
        Bits { value: value >> self.low & ones(self.width), mask: mask >> self.low & ones(self.width) }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Node {
    /// The nodes up to `end` all hold.
    All {
        end: u32,
    },
    /// One of the nodes up to `end` holds.
    Any {
        end: u32,
    },
    Constant(bool),
    /// The bits are one of the `exact` values (sorted), or in one of the `blocks`; or, `negated`, in none.
    Member {
        slice: Slice,
        exact: Run,
        blocks: Run,
        negated: bool,
    },
    /// The bits, as a number, relate so to `values[at]`.
    Order {
        slice: Slice,
        relation: Relation,
        at: u32,
    },
    Text {
        text: Text,
        patterns: Run,
        negated: bool,
    },
    Flag {
        flag: Flag,
        negated: bool,
    },
    Age {
        relation: Relation,
        age: Micros,
    },
    Rate {
        relation: Relation,
        rate: Rate,
    },
}

/// Whether a trace shows a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shown {
    /// It holds others together, or is part of what a predicate means.
    No,
    /// It was written.
    Written,
    /// It follows from what was written.
    Implied,
}

/// What a node was compiled from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Label {
    pub(super) span: Span,
    pub(super) text: Box<str>,
    pub(super) field: &'static str,
    pub(super) format: Format,
    pub(super) shown: Shown,
}

/// A compiled condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Match {
    pub(super) source: String,
    /// In the order of writing, an `All` or `Any` before its operands.
    pub(super) nodes: Vec<Node>,
    /// One for each node.
    pub(super) labels: Vec<Label>,
    pub(super) values: Vec<u128>,
    pub(super) blocks: Vec<Bits>,
    pub(super) patterns: Vec<String>,
}

impl Match {
    /// The condition as it was written.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// For which packets of the megaflow the condition holds.
    ///
    /// `Always` and `Never` are certain. `Sometimes` is said of each test by itself: `tcp.dst < 9 || tcp.dst > 8` is
    /// "sometimes" for a megaflow of all ports, although one of the two always holds.
    pub fn evaluate(&self, subject: &Subject<'_>) -> Truth {
        self.evaluate_at(&mut 0, subject)
    }

    /// Whether the answer may change while the megaflow stays the same: the condition asks for `age` or `rate`.
    pub fn depends_on_time(&self) -> bool {
        self.nodes.iter().any(|node| matches!(node, Node::Age { .. } | Node::Rate { .. }))
    }

    /// How many tests the condition was compiled to, those that prerequisites added included.
    pub fn tests(&self) -> usize {
        self.nodes.len()
    }

    /// Evaluates every test that was written, and what it implies, and says what each saw.
    pub fn trace<'a>(&'a self, subject: &Subject<'a>) -> Trace<'a> {
        let shown = self.labels.iter().enumerate().filter(|(_, label)| label.shown != Shown::No);
        let tests = shown.map(|(index, label)| TestTrace {
            text: &label.text,
            span: label.span,
            implied: label.shown == Shown::Implied,
            truth: self.evaluate_at(&mut { index }, subject),
            saw: self.saw(index, subject),
        });
        Trace { truth: self.evaluate(subject), tests: tests.collect() }
    }

    /// What the node saw; for a predicate that does not hold, what the test saw that decided it.
    fn saw<'a>(&'a self, mut index: usize, subject: &Subject<'a>) -> Saw<'a> {
        while let Some(Node::All { end } | Node::Any { end }) = self.nodes.get(index) {
            let truth = self.evaluate_at(&mut { index }, subject);
            if truth == Truth::Always {
                return Saw::Nothing;
            }
            let mut next = index + 1;
            loop {
                index = next;
                // One of the operands is as true as the whole: "all" is the minimum, "any" the maximum.
                if next >= *end as usize {
                    return Saw::Nothing;
                }
                if self.evaluate_at(&mut next, subject) == truth {
                    break;
                }
            }
        }
        match (self.nodes.get(index), self.labels.get(index)) {
            (Some(node), Some(label)) => saw(node, label, subject),
            _ => Saw::Nothing,
        }
    }

    /// Evaluates the node at `at` and leaves `at` behind it. The depth of the recursion is that of the source and of
    /// the predicates, both bounded.
    fn evaluate_at(&self, at: &mut usize, subject: &Subject<'_>) -> Truth {
        let Some(node) = self.nodes.get(*at) else { return Truth::Never };
        *at += 1;
        match *node {
            Node::All { end } => {
                let mut truth = Truth::Always;
                while *at < end as usize && truth != Truth::Never {
                    truth = truth.min(self.evaluate_at(at, subject));
                }
                *at = end as usize;
                truth
            }
            Node::Any { end } => {
                let mut truth = Truth::Never;
                while *at < end as usize && truth != Truth::Always {
                    truth = truth.max(self.evaluate_at(at, subject));
                }
                *at = end as usize;
                truth
            }
            _ => self.test(node, subject),
        }
    }

    fn test(&self, node: &Node, subject: &Subject<'_>) -> Truth {
        match *node {
            Node::All { .. } | Node::Any { .. } => Truth::Sometimes,
            Node::Constant(value) => value.into(),
            Node::Member { slice, exact, blocks, negated } => {
                let bits = slice.of(subject);
                let in_blocks = blocks.of(&self.blocks).iter().map(|block| is_in_block(bits, *block)).max();
                let is_one_of = is_one_of(bits, slice.width, exact.of(&self.values));
                is_one_of.max(in_blocks.unwrap_or(Truth::Never)).negated_if(negated)
            }
            Node::Order { slice, relation, at } => {
                let bits = slice.of(subject);
                let value = self.values.get(at as usize).copied().unwrap_or(0);
                let (least, most) = (bits.value, bits.value | ones(slice.width) & !bits.mask);
                between(holds(relation, least.cmp(&value)), holds(relation, most.cmp(&value)))
            }
            Node::Text { text, patterns, negated } => {
                is_text(text, patterns.of(&self.patterns), subject).negated_if(negated)
            }
            Node::Flag { flag, negated } => {
                flag_of(flag, subject).map_or(Truth::Sometimes, Truth::from).negated_if(negated)
            }
            Node::Age { relation, age } => {
                subject.age.map_or(Truth::Sometimes, |actual| holds(relation, actual.cmp(&age)).into())
            }
            Node::Rate { relation, rate } => {
                let (actual, rate) = match rate {
                    Rate::BytesPerSecond(rate) => (subject.bytes_per_s, rate),
                    Rate::PacketsPerSecond(rate) => (subject.packets_per_s, rate),
                };
                actual.map_or(Truth::Sometimes, |actual| holds(relation, actual.cmp(&rate)).into())
            }
        }
    }
}

/// Truth of an order relation that holds, or not, at both ends of the values there are.
fn between(at_least: bool, at_most: bool) -> Truth {
    match (at_least, at_most) {
        (true, true) => Truth::Always,
        (false, false) => Truth::Never,
        _ => Truth::Sometimes,
    }
}

fn holds(relation: Relation, order: Ordering) -> bool {
    match relation {
        Relation::Equal => order.is_eq(),
        Relation::NotEqual => order.is_ne(),
        Relation::Less => order.is_lt(),
        Relation::LessOrEqual => order.is_le(),
        Relation::Greater => order.is_gt(),
        Relation::GreaterOrEqual => order.is_ge(),
    }
}

fn is_in_block(bits: Bits, block: Bits) -> Truth {
    if (bits.value ^ block.value) & bits.mask & block.mask != 0 {
        Truth::Never
    } else if block.mask & !bits.mask == 0 {
        Truth::Always
    } else {
        Truth::Sometimes
    }
}

/// `sorted` is in ascending order, so that only values the megaflow can have need to be looked at.
fn is_one_of(bits: Bits, width: u8, sorted: &[u128]) -> Truth {
    if bits.mask == ones(width) {
        return sorted.binary_search(&bits.value).is_ok().into();
    }
    let most = bits.value | ones(width) & !bits.mask;
    let first = sorted.partition_point(|value| *value < bits.value);
    let candidates = sorted.get(first..).unwrap_or(&[]).iter().take_while(|value| **value <= most);
    for value in candidates {
        if value & bits.mask == bits.value {
            return Truth::Sometimes;
        }
    }
    Truth::Never
}

fn is_text(text: Text, patterns: &[String], subject: &Subject<'_>) -> Truth {
    let is = |actual: Option<&str>| {
        actual.map_or(Truth::Sometimes, |actual| {
            patterns.iter().any(|pattern| glob::matches(pattern, actual)).into()
        })
    };
    match text {
        Text::Inport => is(subject.inport.name),
        Text::InportIfaceId => is(subject.inport.iface_id),
        Text::Outport => any_port(subject, |port| is(port.name)),
        Text::OutportIfaceId => any_port(subject, |port| is(port.iface_id)),
        Text::Encap => is(subject.encap),
        // What cannot be told may be any of the words; only "unknown" itself is certain.
        Text::Locality => match (subject.locality, is(Some(subject.locality.word()))) {
            (Locality::Unknown, Truth::Never) => Truth::Sometimes,
            (_, truth) => truth,
        },
        Text::Tenant => is(subject.tenant),
        Text::Namespace => is(subject.namespace),
        Text::Workload => is(subject.workload),
        Text::Chassis => is(subject.chassis),
    }
}

/// Packets leave through all of the ports, so one that fits is enough.
fn any_port(subject: &Subject<'_>, fits: impl Fn(&PortName<'_>) -> Truth) -> Truth {
    subject.outports.map_or(Truth::Sometimes, |ports| ports.iter().map(fits).max().unwrap_or(Truth::Never))
}

fn flag_of(flag: Flag, subject: &Subject<'_>) -> Option<bool> {
    match flag {
        Flag::Encap => subject.encap.map(|kind| !kind.is_empty()),
        Flag::Rewrites => subject.rewrites,
        Flag::Drops => subject.drops,
        Flag::Recirculates => subject.recirculates,
        Flag::Encrypted => subject.encrypted,
    }
}

/// What every single test of a condition said.
#[derive(Clone, Debug)]
pub struct Trace<'a> {
    /// What the condition as a whole says.
    pub truth: Truth,
    /// The tests in the order of writing.
    pub tests: Vec<TestTrace<'a>>,
}

/// What a single test said.
#[derive(Clone, Debug)]
pub struct TestTrace<'a> {
    /// The test.
    pub text: &'a str,
    /// Where it stands in the condition, or for an implied one, what implies it.
    pub span: Span,
    /// It was not written but follows: a prerequisite.
    pub implied: bool,
    /// What it said.
    pub truth: Truth,
    /// What it looked at.
    pub saw: Saw<'a>,
}

/// What a test looked at.
#[derive(Clone, Copy, Debug)]
pub enum Saw<'a> {
    /// Nothing: a constant, or a predicate that holds.
    Nothing,
    /// Bits of a header.
    Bits {
        /// The field.
        field: &'static str,
        /// What the megaflow has there.
        bits: Bits,
        /// How many bits the test looks at.
        width: u8,
        /// How to write them.
        format: Format,
    },
    /// A text; `None` when it is not known.
    Text(&'static str, Option<&'a str>),
    /// The egress ports; `None` when they are not known.
    Ports(&'static str, Option<&'a [PortName<'a>]>),
    /// A yes or no; `None` when it is not known.
    Flag(&'static str, Option<bool>),
    /// The age; `None` when it is not known.
    Age(Option<Micros>),
    /// The rate; `None` when it is not known.
    Rate(Option<Rate>),
}

fn saw<'a>(node: &Node, label: &Label, subject: &Subject<'a>) -> Saw<'a> {
    let field = label.field;
    match *node {
        Node::All { .. } | Node::Any { .. } | Node::Constant(_) => Saw::Nothing,
        Node::Member { slice, .. } | Node::Order { slice, .. } => {
            Saw::Bits { field, bits: slice.of(subject), width: slice.width, format: label.format }
        }
        Node::Text { text, .. } => match text {
            Text::Inport => Saw::Text(field, subject.inport.name),
            Text::InportIfaceId => Saw::Text(field, subject.inport.iface_id),
            Text::Outport | Text::OutportIfaceId => Saw::Ports(field, subject.outports),
            Text::Encap => Saw::Text(field, subject.encap),
            Text::Locality => Saw::Text(field, Some(subject.locality.word())),
            Text::Tenant => Saw::Text(field, subject.tenant),
            Text::Namespace => Saw::Text(field, subject.namespace),
            Text::Workload => Saw::Text(field, subject.workload),
            Text::Chassis => Saw::Text(field, subject.chassis),
        },
        Node::Flag { flag, .. } => Saw::Flag(field, flag_of(flag, subject)),
        Node::Age { .. } => Saw::Age(subject.age),
        Node::Rate { rate: Rate::BytesPerSecond(_), .. } => {
            Saw::Rate(subject.bytes_per_s.map(Rate::BytesPerSecond))
        }
        Node::Rate { rate: Rate::PacketsPerSecond(_), .. } => {
            Saw::Rate(subject.packets_per_s.map(Rate::PacketsPerSecond))
        }
    }
}

impl fmt::Display for Saw<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Nothing => Ok(()),
            Self::Bits { field, bits, .. } if bits.mask == 0 => write!(f, "{field} is any"),
            Self::Bits { field, bits, width, format } => {
                let mask = (bits.mask != ones(width)).then_some(bits.mask);
                // A masked number is read bit by bit.
                let format =
                    if mask.is_some() && format == Format::Decimal { Format::Hexadecimal } else { format };
                match mask {
                    None => write!(f, "{field} is {}", Written(bits.value, format)),
                    Some(mask) => {
                        let number = super::constant::Number { value: bits.value, mask: Some(mask), format };
                        write!(f, "{field} is {number}")
                    }
                }
            }
            Self::Text(field, Some(text)) => write!(f, "{field} is \"{text}\""),
            Self::Ports(field, Some([])) => write!(f, "{field} is none"),
            Self::Ports(field, Some(ports)) => {
                write!(f, "{field} is ")?;
                for (i, port) in ports.iter().enumerate() {
                    let name = if field.ends_with("iface_id") { port.iface_id } else { port.name };
                    let separator = if i == 0 { "" } else { ", " };
                    match name {
                        Some(name) => write!(f, "{separator}\"{name}\"")?,
                        None => write!(f, "{separator}not known")?,
                    }
                }
                Ok(())
            }
            Self::Flag(field, Some(true)) => write!(f, "{field}: yes"),
            Self::Flag(field, Some(false)) => write!(f, "{field}: no"),
            Self::Age(Some(age)) => write!(f, "age is {age}"),
            Self::Rate(Some(rate)) => write!(f, "rate is {rate}"),
            Self::Text(field, None) | Self::Ports(field, None) | Self::Flag(field, None) => {
                write!(f, "{field} is not known")
            }
            Self::Age(None) => f.write_str("age is not known"),
            Self::Rate(None) => f.write_str("rate is not known"),
        }
    }
}

impl fmt::Display for TestTrace<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<9}  {}", self.truth, self.text)?;
        if self.implied {
            f.write_str(" (implied)")?;
        }
        match self.saw {
            Saw::Nothing => Ok(()),
            saw => write!(f, ": {saw}"),
        }
    }
}
