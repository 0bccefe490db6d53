//! Reads datums straight from JSON text into their canonical form, guided by the column's type.
//!
//! No tree of `serde_json::Value` is built: an initial monitor reply can be hundreds of megabytes.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, SeqAccess, Visitor};
use uuid::Uuid;

use crate::atom::{Atom, AtomKind, Real};
use crate::datum::Datum;
use crate::schema::ColumnType;

/// Reads one `<value>` of a column.
///
/// # Errors
///
/// The JSON error, with what was expected and where.
pub fn datum_from_json(json: &str, column_type: &ColumnType) -> serde_json::Result<Datum> {
    let mut deserializer = serde_json::Deserializer::from_str(json);
    let datum = DatumSeed::full(column_type).deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(datum)
}

/// Reads a `<value>` whose type is not known, as results of `select` are: a number without a fraction is an integer.
pub(crate) fn untyped_datum_from_json(json: &str) -> serde_json::Result<Datum> {
    let mut deserializer = serde_json::Deserializer::from_str(json);
    let datum = DatumSeed { column_type: None, check_count: false }.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(datum)
}

#[derive(Clone, Copy)]
pub(crate) struct DatumSeed<'a> {
    column_type: Option<&'a ColumnType>,
    check_count: bool,
}

impl<'a> DatumSeed<'a> {
    /// A whole value: the number of its elements is checked.
    pub(crate) fn full(column_type: &'a ColumnType) -> Self {
        Self { column_type: Some(column_type), check_count: true }
    }

    /// A difference as `update2` sends it: any number of elements.
    pub(crate) fn difference(column_type: &'a ColumnType) -> Self {
        Self { column_type: Some(column_type), check_count: !column_type.is_composite() }
    }

    fn key(&self) -> AtomSeed {
        AtomSeed(self.column_type.map(|column| column.key.kind))
    }

    fn value(&self) -> AtomSeed {
        AtomSeed(self.column_type.and_then(|column| Some(column.value.as_ref()?.kind)))
    }

    fn check<E: Error>(&self, datum: Datum) -> Result<Datum, E> {
        let Some(column_type) = self.column_type else { return Ok(datum) };
        let right_form =
            if column_type.is_map() { datum.as_map().is_some() } else { datum.as_set().is_some() };
        if !right_form {
            return Err(E::custom(format!("expected {column_type}")));
        }
        if self.check_count && !column_type.allows(datum.len()) {
            return Err(E::custom(format!("expected {column_type}, found {} elements", datum.len())));
        }
        Ok(datum)
    }
}

impl<'de> DeserializeSeed<'de> for DatumSeed<'_> {
    type Value = Datum;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Datum, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for DatumSeed<'_> {
    type Value = Datum;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.column_type {
            Some(column_type) => write!(f, "{column_type}"),
            None => f.write_str("an OVSDB value"),
        }
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Datum, E> {
        self.check(Datum::atom(self.key().visit_bool(value)?))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Datum, E> {
        self.check(Datum::atom(self.key().visit_i64(value)?))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Datum, E> {
        self.check(Datum::atom(self.key().visit_u64(value)?))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Datum, E> {
        self.check(Datum::atom(self.key().visit_f64(value)?))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Datum, E> {
        self.check(Datum::atom(self.key().visit_str(value)?))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Datum, A::Error> {
        let tag = seq.next_element_seed(TagSeed)?.ok_or_else(|| A::Error::custom("empty array as value"))?;
        let short = || A::Error::custom("array of one element as value");
        let datum = match tag {
            Tag::Uuid => {
                let uuid = seq.next_element_seed(UuidSeed)?.ok_or_else(short)?;
                Datum::atom(self.key().checked(Atom::Uuid(uuid))?)
            }
            Tag::Set => Datum::set(seq.next_element_seed(SetSeed(self.key()))?.ok_or_else(short)?)
                .map_err(|_| A::Error::custom("set holds an element twice"))?,
            Tag::Map => {
                Datum::map(seq.next_element_seed(MapSeed(self.key(), self.value()))?.ok_or_else(short)?)
                    .map_err(|_| A::Error::custom("map holds a key twice"))?
            }
        };
        finish(&mut seq)?;
        self.check(datum)
    }
}

fn finish<'de, A: SeqAccess<'de>>(seq: &mut A) -> Result<(), A::Error> {
    match seq.next_element::<serde::de::IgnoredAny>()? {
        None => Ok(()),
        Some(_) => Err(A::Error::custom("value has too many elements")),
    }
}

/// An atom of a kind, or of any kind.
#[derive(Clone, Copy)]
struct AtomSeed(Option<AtomKind>);

impl AtomSeed {
    fn checked<E: Error>(self, atom: Atom) -> Result<Atom, E> {
        match self.0 {
            Some(kind) if kind != atom.kind() => {
                Err(E::custom(format!("expected {kind}, found {}", atom.kind())))
            }
            _ => Ok(atom),
        }
    }
}

impl<'de> DeserializeSeed<'de> for AtomSeed {
    type Value = Atom;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Atom, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for AtomSeed {
    type Value = Atom;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(kind) => write!(f, "{kind}"),
            None => f.write_str("an OVSDB atom"),
        }
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Atom, E> {
        self.checked(Atom::Boolean(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Atom, E> {
        if self.0 == Some(AtomKind::Real) {
            return self.visit_f64(value as f64);
        }
        self.checked(Atom::Integer(value))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Atom, E> {
        match i64::try_from(value) {
            Ok(value) => self.visit_i64(value),
            Err(_) => self.visit_f64(value as f64),
        }
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Atom, E> {
        // OVS writes and reads 1e3 as the integer it is.
        if self.0 == Some(AtomKind::Integer) && value.fract() == 0.0 && value.abs() < 9.0e18 {
            return Ok(Atom::Integer(value as i64));
        }
        let real = Real::new(value).ok_or_else(|| E::custom("number out of range"))?;
        self.checked(Atom::Real(real))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Atom, E> {
        self.checked(Atom::String(value.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Atom, A::Error> {
        if !matches!(seq.next_element_seed(TagSeed)?, Some(Tag::Uuid)) {
            return Err(A::Error::custom("expected an atom, found a set or map"));
        }
        let uuid =
            seq.next_element_seed(UuidSeed)?.ok_or_else(|| A::Error::custom("array without a UUID"))?;
        finish(&mut seq)?;
        self.checked(Atom::Uuid(uuid))
    }
}

enum Tag {
    Uuid,
    Set,
    Map,
}

struct TagSeed;

impl<'de> DeserializeSeed<'de> for TagSeed {
    type Value = Tag;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Tag, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for TagSeed {
    type Value = Tag;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"uuid\", \"set\" or \"map\"")
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Tag, E> {
        match value {
            "uuid" => Ok(Tag::Uuid),
            "set" => Ok(Tag::Set),
            "map" => Ok(Tag::Map),
            other => Err(E::custom(format!("expected \"uuid\", \"set\" or \"map\", found {other:?}"))),
        }
    }
}

/// A UUID as text.
pub(crate) struct UuidSeed;

impl<'de> DeserializeSeed<'de> for UuidSeed {
    type Value = Uuid;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Uuid, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for UuidSeed {
    type Value = Uuid;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a UUID")
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Uuid, E> {
        Uuid::try_parse(value).map_err(|_| E::custom(format!("{value:?} is not a UUID")))
    }
}

struct SetSeed(AtomSeed);

impl<'de> DeserializeSeed<'de> for SetSeed {
    type Value = Vec<Atom>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Vec<Atom>, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for SetSeed {
    type Value = Vec<Atom>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of atoms")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<Atom>, A::Error> {
        let mut atoms = Vec::new();
        while let Some(atom) = seq.next_element_seed(self.0)? {
            atoms.push(atom);
        }
        Ok(atoms)
    }
}

#[derive(Clone, Copy)]
struct PairSeed(AtomSeed, AtomSeed);

impl<'de> DeserializeSeed<'de> for PairSeed {
    type Value = (Atom, Atom);

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(Atom, Atom), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for PairSeed {
    type Value = (Atom, Atom);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of a key and a value")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(Atom, Atom), A::Error> {
        let short = || A::Error::custom("expected an array of a key and a value");
        let key = seq.next_element_seed(self.0)?.ok_or_else(short)?;
        let value = seq.next_element_seed(self.1)?.ok_or_else(short)?;
        finish(&mut seq)?;
        Ok((key, value))
    }
}

struct MapSeed(AtomSeed, AtomSeed);

impl<'de> DeserializeSeed<'de> for MapSeed {
    type Value = Vec<(Atom, Atom)>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for MapSeed {
    type Value = Vec<(Atom, Atom)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of pairs")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut pairs = Vec::new();
        while let Some(pair) = seq.next_element_seed(PairSeed(self.0, self.1))? {
            pairs.push(pair);
        }
        Ok(pairs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::BaseType;

    fn set_of(kind: AtomKind) -> ColumnType {
        ColumnType { key: BaseType::plain(kind), value: None, min: 0, max: None }
    }

    #[test]
    fn values_of_the_wrong_type_are_refused() {
        let integer = ColumnType::scalar(AtomKind::Integer);
        for json in [
            r#""1""#,
            "1.5",
            "true",
            "null",
            "{}",
            "[]",
            r#"["set"]"#,
            r#"["set",[1,2]]"#,
            r#"["set",[]]"#,
            r#"["map",[[1,2]]]"#,
            r#"["uuid","x"]"#,
            r#"["bag",[1]]"#,
            "9223372036854775808",
            r#"["set",[1],2]"#,
        ] {
            assert!(datum_from_json(json, &integer).is_err(), "{json}");
        }
        assert_eq!(datum_from_json("1e3", &integer).unwrap(), Datum::atom(Atom::Integer(1000)));
        assert_eq!(datum_from_json(r#"["set",[5]]"#, &integer).unwrap(), Datum::atom(Atom::Integer(5)));
    }

    #[test]
    fn a_set_that_holds_an_element_twice_is_refused() {
        assert!(datum_from_json(r#"["set",["a","a"]]"#, &set_of(AtomKind::String)).is_err());
        assert!(datum_from_json(r#"["set",["a",1]]"#, &set_of(AtomKind::String)).is_err());
    }

    #[test]
    fn an_integer_may_stand_for_a_real() {
        let real = ColumnType::scalar(AtomKind::Real);
        let half = Real::new(2.0).unwrap();
        assert_eq!(datum_from_json("2", &real).unwrap(), Datum::atom(Atom::Real(half)));
    }

    #[test]
    fn values_without_a_type_are_read_as_they_look() {
        assert_eq!(untyped_datum_from_json("2").unwrap(), Datum::atom(Atom::Integer(2)));
        let map =
            untyped_datum_from_json(r#"["map",[["a",["uuid","00000000-0000-0000-0000-000000000001"]]]]"#)
                .unwrap();
        assert_eq!(map.as_map().unwrap()[0].1, Atom::Uuid(Uuid::from_u128(1)));
    }
}
