//! Database schemas (RFC 7047 §3.2): what tables, columns and types a server has.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::atom::AtomKind;

/// A database's schema, the reply to `get_schema`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct DatabaseSchema {
    /// The database's name.
    pub name: String,
    /// The schema's version, `x.y.z`; absent in old schemas.
    #[serde(default)]
    pub version: Option<String>,
    /// The tables, by name.
    pub tables: BTreeMap<String, TableSchema>,
}

/// One table.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct TableSchema {
    /// The columns, by name, without `_uuid` and `_version`.
    pub columns: BTreeMap<String, ColumnSchema>,
    /// Whether rows survive without being referenced.
    #[serde(default, rename = "isRoot")]
    pub is_root: bool,
    /// Sets of columns whose values together are unique among the rows.
    #[serde(default)]
    pub indexes: Vec<Vec<String>>,
}

/// One column.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct ColumnSchema {
    /// What it holds.
    #[serde(rename = "type")]
    pub column_type: ColumnType,
    /// Whether its value is lost when the server restarts.
    #[serde(default)]
    pub ephemeral: bool,
    /// Whether it can be changed after the row was inserted.
    #[serde(default = "yes")]
    pub mutable: bool,
}

fn yes() -> bool {
    true
}

/// What a column holds: `min` to `max` keys, or pairs of key and value.
#[derive(Clone, Debug, PartialEq)]
pub struct ColumnType {
    /// Type of the elements, or of the keys of a map.
    pub key: BaseType,
    /// Type of the values; present in a map.
    pub value: Option<BaseType>,
    /// Least number of elements: 0 or 1.
    pub min: u32,
    /// Greatest number of elements; `None` is unlimited.
    pub max: Option<u32>,
}

impl ColumnType {
    /// Exactly one atom.
    pub fn scalar(kind: AtomKind) -> Self {
        Self { key: BaseType::plain(kind), value: None, min: 1, max: Some(1) }
    }

    /// A map, or a set of any number of elements.
    pub fn is_map(&self) -> bool {
        self.value.is_some()
    }

    /// Whether more than one element fits. Of such columns the server sends differences, of others the new value.
    pub fn is_composite(&self) -> bool {
        self.max != Some(1)
    }

    /// Whether this many elements are allowed.
    pub fn allows(&self, count: usize) -> bool {
        count >= self.min as usize && self.max.is_none_or(|max| count <= max as usize)
    }
}

impl fmt::Display for ColumnType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.value, self.min, self.max) {
            (Some(value), ..) => write!(f, "map of {} to {}", self.key.kind, value.kind),
            (None, 1, Some(1)) => write!(f, "{}", self.key.kind),
            (None, 0, Some(1)) => write!(f, "optional {}", self.key.kind),
            (None, ..) => write!(f, "set of {}", self.key.kind),
        }
    }
}

/// The type of a key or of a value.
#[derive(Clone, Debug, PartialEq)]
pub struct BaseType {
    /// Its kind of atom.
    pub kind: AtomKind,
    /// For a UUID: the table whose rows it refers to.
    pub ref_table: Option<String>,
    /// The values allowed, as they are on the wire; absent when any is.
    pub one_of: Option<Value>,
}

impl BaseType {
    /// Any atom of a kind.
    pub fn plain(kind: AtomKind) -> Self {
        Self { kind, ref_table: None, one_of: None }
    }
}

impl<'de> Deserialize<'de> for BaseType {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Plain(AtomKind),
            Full {
                #[serde(rename = "type")]
                kind: AtomKind,
                #[serde(default, rename = "refTable")]
                ref_table: Option<String>,
                #[serde(default, rename = "enum")]
                one_of: Option<Value>,
            },
        }
        Ok(match Form::deserialize(deserializer)? {
            Form::Plain(kind) => Self::plain(kind),
            Form::Full { kind, ref_table, one_of } => Self { kind, ref_table, one_of },
        })
    }
}

impl<'de> Deserialize<'de> for ColumnType {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Max {
            Count(u32),
            Word(String),
        }
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Plain(AtomKind),
            Full {
                key: BaseType,
                #[serde(default)]
                value: Option<BaseType>,
                #[serde(default)]
                min: Option<u32>,
                #[serde(default)]
                max: Option<Max>,
            },
        }
        Ok(match Form::deserialize(deserializer)? {
            Form::Plain(kind) => Self::scalar(kind),
            Form::Full { key, value, min, max } => {
                let max = match max {
                    None => Some(1),
                    Some(Max::Count(count)) => Some(count),
                    Some(Max::Word(word)) if word == "unlimited" => None,
                    Some(Max::Word(word)) => {
                        return Err(serde::de::Error::custom(format!("max of a column cannot be {word:?}")));
                    }
                };
                Self { key, value, min: min.unwrap_or(1), max }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn column_type(json: Value) -> ColumnType {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn every_form_of_a_column_type_is_understood() {
        assert_eq!(column_type(json!("integer")), ColumnType::scalar(AtomKind::Integer));
        let optional = column_type(json!({"key": {"type": "uuid", "refTable": "Port"}, "min": 0}));
        assert_eq!((optional.min, optional.max), (0, Some(1)));
        assert_eq!(optional.key.ref_table.as_deref(), Some("Port"));
        assert_eq!(optional.to_string(), "optional uuid");
        let map = column_type(json!({"key": "string", "value": "string", "min": 0, "max": "unlimited"}));
        assert!(map.is_map() && map.is_composite());
        assert_eq!(map.to_string(), "map of string to string");
        let set = column_type(json!({"key": {"type": "integer", "minInteger": 0}, "min": 0, "max": 4096}));
        assert!(set.allows(0) && set.allows(4096) && !set.allows(4097));
        assert!(serde_json::from_value::<ColumnType>(json!({"key": "integer", "max": "some"})).is_err());
        assert!(serde_json::from_value::<ColumnType>(json!("complex")).is_err());
    }
}
