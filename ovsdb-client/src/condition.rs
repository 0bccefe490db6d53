//! Conditions on rows (RFC 7047 §5.1, and ovsdb-server(7) §4.1.12): which rows an operation or a monitor is about.

use serde::{Serialize, Serializer};

use crate::value::{ToValue, Value};

/// How a clause compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Function {
    /// The column equals the value.
    Equal,
    /// The column does not equal the value.
    NotEqual,
    /// The column is less; integers and reals only.
    Less,
    /// The column is less or equal; integers and reals only.
    LessOrEqual,
    /// The column is greater; integers and reals only.
    Greater,
    /// The column is greater or equal; integers and reals only.
    GreaterOrEqual,
    /// The column holds every element or pair of the value.
    Includes,
    /// The column holds no element or pair of the value.
    Excludes,
}

impl Function {
    fn wire(self) -> &'static str {
        match self {
            Self::Equal => "==",
            Self::NotEqual => "!=",
            Self::Less => "<",
            Self::LessOrEqual => "<=",
            Self::Greater => ">",
            Self::GreaterOrEqual => ">=",
            Self::Includes => "includes",
            Self::Excludes => "excludes",
        }
    }
}

/// One comparison of one column.
#[derive(Clone, Debug, PartialEq)]
pub struct Clause {
    column: String,
    function: Function,
    value: Value,
}

impl Clause {
    /// Compares `column` with `value`.
    pub fn new(column: impl Into<String>, function: Function, value: impl ToValue) -> Self {
        Self { column: column.into(), function, value: value.to_value() }
    }

    /// The column equals the value.
    pub fn equal(column: impl Into<String>, value: impl ToValue) -> Self {
        Self::new(column, Function::Equal, value)
    }

    /// The row with this UUID.
    pub fn uuid(uuid: uuid::Uuid) -> Self {
        Self::equal("_uuid", uuid)
    }
}

impl Serialize for Clause {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (&self.column, self.function.wire(), &self.value).serialize(serializer)
    }
}

/// Which rows of a table a monitor follows.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Condition {
    /// Every row.
    #[default]
    Every,
    /// No row, until the condition is changed.
    Never,
    /// The rows for which at least one clause holds. Without clauses it is [`Never`](Self::Never).
    Any(Vec<Clause>),
}

impl Serialize for Condition {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Every => [true].serialize(serializer),
            Self::Any(clauses) if !clauses.is_empty() => clauses.serialize(serializer),
            // An empty array would be an implicit true.
            Self::Never | Self::Any(_) => [false].serialize(serializer),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire(condition: &Condition) -> String {
        serde_json::to_string(condition).unwrap()
    }

    #[test]
    fn a_condition_without_clauses_is_not_sent_as_the_implicit_true() {
        assert_eq!(wire(&Condition::Any(Vec::new())), "[false]");
        assert_eq!(wire(&Condition::Every), "[true]");
        let clauses = vec![Clause::equal("name", "br0"), Clause::new("tag", Function::Includes, Some(3))];
        assert_eq!(wire(&Condition::Any(clauses)), r#"[["name","==","br0"],["tag","includes",["set",[3]]]]"#);
    }
}
