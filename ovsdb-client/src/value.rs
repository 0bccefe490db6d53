//! Values as programs give them to operations and conditions; unlike a [`Datum`] they can name a row of the same transaction.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::json;

use crate::atom::{Atom, AtomValue};
use crate::datum::Datum;

/// A value on its way to the server (RFC 7047 §5.1, `<value>`).
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Value(pub(crate) serde_json::Value);

/// The name of a row that the same transaction inserts; the server puts the row's UUID in its place.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NamedUuid(pub(crate) String);

/// Something that goes into a scalar column, a set or a map.
pub trait ToAtom {
    /// Its form on the wire (RFC 7047 §5.1, `<atom>`).
    fn to_atom_json(&self) -> serde_json::Value;
}

impl<T: AtomValue> ToAtom for T {
    fn to_atom_json(&self) -> serde_json::Value {
        self.to_atom().to_json()
    }
}

impl ToAtom for &str {
    fn to_atom_json(&self) -> serde_json::Value {
        (*self).into()
    }
}

impl ToAtom for Atom {
    fn to_atom_json(&self) -> serde_json::Value {
        self.to_json()
    }
}

impl ToAtom for NamedUuid {
    fn to_atom_json(&self) -> serde_json::Value {
        json!(["named-uuid", self.0])
    }
}

/// Something that goes into a column.
pub trait ToValue {
    /// Its form on the wire.
    fn to_value(&self) -> Value;
}

fn set<'a, T: ToAtom + 'a>(atoms: impl IntoIterator<Item = &'a T>) -> Value {
    let atoms: Vec<_> = atoms.into_iter().map(ToAtom::to_atom_json).collect();
    Value(json!(["set", atoms]))
}

impl<T: ToAtom> ToValue for T {
    fn to_value(&self) -> Value {
        Value(self.to_atom_json())
    }
}

impl<T: ToAtom> ToValue for Option<T> {
    fn to_value(&self) -> Value {
        set(self)
    }
}

impl<T: ToAtom> ToValue for Vec<T> {
    fn to_value(&self) -> Value {
        set(self)
    }
}

impl<T: ToAtom, const N: usize> ToValue for [T; N] {
    fn to_value(&self) -> Value {
        set(self)
    }
}

impl<T: ToAtom> ToValue for BTreeSet<T> {
    fn to_value(&self) -> Value {
        set(self)
    }
}

impl<K: ToAtom, V: ToAtom> ToValue for BTreeMap<K, V> {
    fn to_value(&self) -> Value {
        let pairs: Vec<_> =
            self.iter().map(|(key, value)| [key.to_atom_json(), value.to_atom_json()]).collect();
        Value(json!(["map", pairs]))
    }
}

impl ToValue for Datum {
    fn to_value(&self) -> Value {
        Value(self.to_json())
    }
}

impl ToValue for Value {
    fn to_value(&self) -> Value {
        self.clone()
    }
}
