//! Rust types that stand for the value of a column: scalars, optionals, sets and maps.

use std::collections::{BTreeMap, BTreeSet};

use crate::atom::{AtomKind, AtomValue};
use crate::datum::Datum;
use crate::schema::ColumnType;

/// A Rust type that a column can be read as.
pub trait Column: Sized {
    /// Whether a column of this type can be read as `Self` whatever it holds.
    fn accepts(column_type: &ColumnType) -> bool;

    /// The column type expected, for a message to a person.
    fn expected() -> String;

    /// The value; `None` when the datum does not fit.
    fn from_datum(datum: &Datum) -> Option<Self>;
}

fn is_set_of(column_type: &ColumnType, kind: AtomKind) -> bool {
    column_type.value.is_none() && column_type.key.kind == kind
}

impl<T: AtomValue> Column for T {
    fn accepts(column_type: &ColumnType) -> bool {
        is_set_of(column_type, T::KIND) && column_type.min == 1 && column_type.max == Some(1)
    }

    fn expected() -> String {
        T::KIND.to_string()
    }

    fn from_datum(datum: &Datum) -> Option<Self> {
        T::from_atom(datum.as_atom()?)
    }
}

impl<T: AtomValue> Column for Option<T> {
    fn accepts(column_type: &ColumnType) -> bool {
        is_set_of(column_type, T::KIND) && column_type.max == Some(1)
    }

    fn expected() -> String {
        format!("optional {}", T::KIND)
    }

    fn from_datum(datum: &Datum) -> Option<Self> {
        match datum.as_set()? {
            [] => Some(None),
            [atom] => Some(Some(T::from_atom(atom)?)),
            _ => None,
        }
    }
}

impl<T: AtomValue> Column for Vec<T> {
    fn accepts(column_type: &ColumnType) -> bool {
        is_set_of(column_type, T::KIND)
    }

    fn expected() -> String {
        format!("set of {}", T::KIND)
    }

    fn from_datum(datum: &Datum) -> Option<Self> {
        datum.as_set()?.iter().map(T::from_atom).collect()
    }
}

impl<T: AtomValue + Ord> Column for BTreeSet<T> {
    fn accepts(column_type: &ColumnType) -> bool {
        is_set_of(column_type, T::KIND)
    }

    fn expected() -> String {
        format!("set of {}", T::KIND)
    }

    fn from_datum(datum: &Datum) -> Option<Self> {
        datum.as_set()?.iter().map(T::from_atom).collect()
    }
}

impl<K: AtomValue + Ord, V: AtomValue> Column for BTreeMap<K, V> {
    fn accepts(column_type: &ColumnType) -> bool {
        column_type.key.kind == K::KIND
            && column_type.value.as_ref().is_some_and(|value| value.kind == V::KIND)
    }

    fn expected() -> String {
        format!("map of {} to {}", K::KIND, V::KIND)
    }

    fn from_datum(datum: &Datum) -> Option<Self> {
        datum.as_map()?.iter().map(|(key, value)| Some((K::from_atom(key)?, V::from_atom(value)?))).collect()
    }
}
