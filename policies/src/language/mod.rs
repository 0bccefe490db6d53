//! The match language of OVN and OVS, over megaflows instead of packets.
//!
//! A megaflow is a *set* of packets: a condition holds for all of them, for none, or for some ([`Truth`]). Text goes
//! through [`Expression::parse`] (syntax) and [`Match::compile`] (fields, types, address sets) and is then evaluated
//! against a [`Subject`] as often as one likes, without allocating.
//!
//! Fields, operators and their meaning follow ovn-sb(5), "Logical_Flow", column `match`; `docs/policy.md` is the
//! reference. Nothing in here knows about rules or places.

mod compile;
mod constant;
mod diagnostic;
mod fields;
mod glob;
mod lexer;
mod parser;
mod program;
mod sketch;
mod subject;
mod syntax;
#[cfg(test)]
mod tests;

pub use compile::AddressSets;
pub use constant::{Constant, Format, Number};
pub use diagnostic::{Diagnostic, Origin, Problem};
pub use fields::{FieldHelp, field_help};
pub use program::{Match, Saw, TestTrace, Trace};
pub use sketch::{Sketch, SketchActions, SketchPort};
pub use subject::{Bits, Header, Locality, PortName, Subject, Truth};
pub use syntax::{Expression, Relation, Span, Test, Values};

/// The longest condition, in bytes.
pub const SOURCE_BYTES_MAX: usize = 64 * 1024;

/// The deepest nesting of parentheses and negations.
pub const NESTING_MAX: usize = 32;

/// The most tests in one condition, those that prerequisites add included.
pub const TESTS_MAX: usize = 8 * 1024;

/// The most values in all sets of one condition, address sets included.
pub const VALUES_MAX: usize = 256 * 1024;
