//! Atoms: the scalar values of OVSDB (RFC 7047 §5.1), and the Rust types that stand for them.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use serde::Deserialize;

pub use uuid::Uuid;

/// The type of an atom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AtomKind {
    /// A 64-bit signed integer.
    Integer,
    /// A finite IEEE double.
    Real,
    /// True or false.
    Boolean,
    /// A UTF-8 string.
    String,
    /// The UUID of a row.
    Uuid,
}

impl fmt::Display for AtomKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Integer => "integer",
            Self::Real => "real",
            Self::Boolean => "boolean",
            Self::String => "string",
            Self::Uuid => "uuid",
        })
    }
}

/// A finite double with the total order that sets and map keys need.
#[derive(Clone, Copy, Debug)]
pub struct Real(f64);

impl Real {
    /// The number, unless it is NaN or infinite: JSON has no form for these. Minus zero becomes zero.
    pub fn new(value: f64) -> Option<Self> {
        value.is_finite().then_some(Self(if value == 0.0 { 0.0 } else { value }))
    }

    /// The number.
    pub fn get(self) -> f64 {
        self.0
    }
}

impl PartialEq for Real {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Real {}

impl PartialOrd for Real {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Real {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.total_cmp(&other.0)
    }
}

/// One scalar value.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Atom {
    /// A 64-bit signed integer.
    Integer(i64),
    /// A finite double.
    Real(Real),
    /// True or false.
    Boolean(bool),
    /// A string.
    String(Box<str>),
    /// The UUID of a row.
    Uuid(Uuid),
}

impl Atom {
    /// The atom's type.
    pub fn kind(&self) -> AtomKind {
        match self {
            Self::Integer(_) => AtomKind::Integer,
            Self::Real(_) => AtomKind::Real,
            Self::Boolean(_) => AtomKind::Boolean,
            Self::String(_) => AtomKind::String,
            Self::Uuid(_) => AtomKind::Uuid,
        }
    }

    /// The value that OVSDB gives a column of this type when nobody sets it.
    pub fn default_of(kind: AtomKind) -> Self {
        match kind {
            AtomKind::Integer => Self::Integer(0),
            AtomKind::Real => Self::Real(Real(0.0)),
            AtomKind::Boolean => Self::Boolean(false),
            AtomKind::String => Self::String("".into()),
            AtomKind::Uuid => Self::Uuid(Uuid::nil()),
        }
    }

    /// The string, if it is one.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(value) => Some(value),
            _ => None,
        }
    }

    /// The atom on the wire (RFC 7047 §5.1, `<atom>`).
    pub fn to_json(&self) -> serde_json::Value {
        match self {
            Self::Integer(value) => (*value).into(),
            Self::Real(value) => value.get().into(),
            Self::Boolean(value) => (*value).into(),
            Self::String(value) => value.as_ref().into(),
            Self::Uuid(value) => serde_json::json!(["uuid", value.to_string()]),
        }
    }
}

/// A Rust type that stands for an atom. Implement it for an own newtype or for an enumeration of strings.
pub trait AtomValue: Sized {
    /// The type of atom that it stands for.
    const KIND: AtomKind;

    /// The value of an atom; `None` when the atom is of another kind or is not one of the values allowed.
    fn from_atom(atom: &Atom) -> Option<Self>;

    /// The atom of a value.
    fn to_atom(&self) -> Atom;
}

macro_rules! atom_value {
    ($type:ty, $kind:ident, $value:ident => $from:expr, $self_:ident => $to:expr) => {
        impl AtomValue for $type {
            const KIND: AtomKind = AtomKind::$kind;

            fn from_atom(atom: &Atom) -> Option<Self> {
                match atom {
                    Atom::$kind($value) => Some($from),
                    _ => None,
                }
            }

            fn to_atom(&self) -> Atom {
                let $self_ = self;
                Atom::$kind($to)
            }
        }
    };
}

atom_value!(i64, Integer, value => *value, value => *value);
atom_value!(bool, Boolean, value => *value, value => *value);
atom_value!(Uuid, Uuid, value => *value, value => *value);
atom_value!(String, String, value => value.to_string(), value => value.as_str().into());
atom_value!(Box<str>, String, value => value.clone(), value => value.clone());
atom_value!(Arc<str>, String, value => Arc::from(&**value), value => (&**value).into());

impl AtomValue for Real {
    const KIND: AtomKind = AtomKind::Real;

    fn from_atom(atom: &Atom) -> Option<Self> {
        match atom {
            Atom::Real(value) => Some(*value),
            // A whole number of a `select`, whose columns come without their types.
            Atom::Integer(value) => Self::new(*value as f64),
            _ => None,
        }
    }

    fn to_atom(&self) -> Atom {
        Atom::Real(*self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reals_without_a_json_form_do_not_exist() {
        assert!(Real::new(f64::NAN).is_none());
        assert!(Real::new(f64::INFINITY).is_none());
        assert_eq!(Real::new(-0.0), Real::new(0.0));
    }

    #[test]
    fn a_value_of_another_kind_is_not_taken() {
        assert_eq!(i64::from_atom(&Atom::String("1".into())), None);
        assert_eq!(String::from_atom(&Atom::String("1".into())).as_deref(), Some("1"));
    }
}
