//! The syntax tree: what was written, before anybody asked what it means. Printing it gives text that parses to
//! the same tree.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use super::constant::Constant;

/// Where something stands in the source, in bytes from its beginning.
///
/// All spans are equal: two trees are the same when they say the same, wherever they say it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Span {
    /// The first byte.
    pub start: usize,
    /// The byte after the last.
    pub end: usize,
}

impl Span {
    pub(super) fn to(self, end: Self) -> Self {
        Self { start: self.start, end: end.end }
    }
}

impl PartialEq for Span {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Span {}

/// How a field is compared with a constant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    /// `==`: equal to one of the values.
    Equal,
    /// `!=`: equal to none of the values.
    NotEqual,
    /// `<`
    Less,
    /// `<=`
    LessOrEqual,
    /// `>`
    Greater,
    /// `>=`
    GreaterOrEqual,
}

impl Relation {
    /// The relation that holds exactly where this one does not.
    pub fn inverted(self) -> Self {
        match self {
            Self::Equal => Self::NotEqual,
            Self::NotEqual => Self::Equal,
            Self::Less => Self::GreaterOrEqual,
            Self::LessOrEqual => Self::Greater,
            Self::Greater => Self::LessOrEqual,
            Self::GreaterOrEqual => Self::Less,
        }
    }

    /// The relation with its two sides exchanged: `5 < x` is `x > 5`.
    pub fn turned(self) -> Self {
        match self {
            Self::Equal | Self::NotEqual => self,
            Self::Less => Self::Greater,
            Self::LessOrEqual => Self::GreaterOrEqual,
            Self::Greater => Self::Less,
            Self::GreaterOrEqual => Self::LessOrEqual,
        }
    }

    pub(super) fn is_equality(self) -> bool {
        matches!(self, Self::Equal | Self::NotEqual)
    }
}

impl fmt::Display for Relation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Equal => "==",
            Self::NotEqual => "!=",
            Self::Less => "<",
            Self::LessOrEqual => "<=",
            Self::Greater => ">",
            Self::GreaterOrEqual => ">=",
        })
    }
}

/// What a field is compared with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Values {
    /// One constant, or the name of an address set.
    One(Constant),
    /// A set in braces.
    Set(Vec<Constant>),
}

impl Values {
    pub(super) fn as_slice(&self) -> &[Constant] {
        match self {
            Self::One(constant) => core::slice::from_ref(constant),
            Self::Set(constants) => constants,
        }
    }
}

/// One field, and what it is compared with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Test {
    /// The field as it was written.
    pub field: String,
    /// Where the field's name stands.
    pub field_span: Span,
    /// `field[low..high]`: only these bits, counted from the lowest.
    pub bits: Option<(u8, u8)>,
    /// The comparison; `None` for a bare field, which asks whether it is set.
    pub comparison: Option<(Relation, Values)>,
    /// The whole test.
    pub span: Span,
}

/// A condition as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expression {
    /// `1` or `0`.
    Constant(bool),
    /// `!` before a bare field, a constant or parentheses.
    Not(Box<Self>),
    /// Operands of `&&`; two or more.
    All(Vec<Self>),
    /// Operands of `||`; two or more.
    Any(Vec<Self>),
    /// A test of a field.
    Test(Test),
}

impl fmt::Display for Test {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.field)?;
        match self.bits {
            Some((low, high)) if low == high => write!(f, "[{low}]")?,
            Some((low, high)) => write!(f, "[{low}..{high}]")?,
            None => {}
        }
        match &self.comparison {
            None => Ok(()),
            Some((relation, Values::One(constant))) => write!(f, " {relation} {constant}"),
            Some((relation, Values::Set(constants))) => {
                write!(f, " {relation} {{")?;
                for (i, constant) in constants.iter().enumerate() {
                    write!(f, "{}{constant}", if i == 0 { "" } else { ", " })?;
                }
                f.write_str("}")
            }
        }
    }
}

impl Expression {
    fn write_operands(f: &mut fmt::Formatter<'_>, operands: &[Self], operator: &str) -> fmt::Result {
        for (i, operand) in operands.iter().enumerate() {
            if i > 0 {
                write!(f, " {operator} ")?;
            }
            match operand {
                Self::All(_) | Self::Any(_) => write!(f, "({operand})")?,
                _ => write!(f, "{operand}")?,
            }
        }
        Ok(())
    }
}

impl fmt::Display for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Constant(value) => f.write_str(if *value { "1" } else { "0" }),
            Self::Not(operand) => match &**operand {
                Self::Test(test) if test.comparison.is_none() => write!(f, "!{test}"),
                Self::Constant(_) | Self::Not(_) => write!(f, "!{operand}"),
                _ => write!(f, "!({operand})"),
            },
            Self::All(operands) => Self::write_operands(f, operands, "&&"),
            Self::Any(operands) => Self::write_operands(f, operands, "||"),
            Self::Test(test) => test.fmt(f),
        }
    }
}
