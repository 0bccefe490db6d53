//! Datums: what one column of one row holds, in one canonical form.
//!
//! Canonical means sorted, without duplicates, and a set of one element is that element: equal values compare equal
//! however the server wrote them.

use std::cmp::Ordering;

use crate::atom::Atom;
use crate::schema::ColumnType;

/// The value of a column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datum(Repr);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Repr {
    One(Atom),
    Set(Box<[Atom]>),
    Map(Box<[(Atom, Atom)]>),
}

/// A set that holds an element twice, or a map that holds a key twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Duplicate;

impl Datum {
    /// One atom.
    pub fn atom(atom: Atom) -> Self {
        Self(Repr::One(atom))
    }

    /// A set, in any order.
    ///
    /// # Errors
    ///
    /// [`Duplicate`] when an element occurs twice.
    pub fn set(mut atoms: Vec<Atom>) -> Result<Self, Duplicate> {
        if atoms.len() == 1 {
            return Ok(Self(Repr::One(atoms.remove(0))));
        }
        atoms.sort_unstable();
        if atoms.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(Duplicate);
        }
        Ok(Self(Repr::Set(atoms.into())))
    }

    /// A map, in any order.
    ///
    /// # Errors
    ///
    /// [`Duplicate`] when a key occurs twice.
    pub fn map(mut pairs: Vec<(Atom, Atom)>) -> Result<Self, Duplicate> {
        pairs.sort_unstable();
        if pairs.windows(2).any(|pair| pair[0].0 == pair[1].0) {
            return Err(Duplicate);
        }
        Ok(Self(Repr::Map(pairs.into())))
    }

    /// The empty set.
    pub fn empty_set() -> Self {
        Self(Repr::Set(Box::default()))
    }

    /// The value of a column that nobody has set (RFC 7047 §5.2.1; `update2` leaves such columns out).
    pub fn default_of(column_type: &ColumnType) -> Self {
        match (&column_type.value, column_type.min) {
            (None, 0) => Self::empty_set(),
            (None, _) => Self::atom(Atom::default_of(column_type.key.kind)),
            (Some(_), 0) => Self(Repr::Map(Box::default())),
            (Some(value), _) => Self(Repr::Map(Box::new([(
                Atom::default_of(column_type.key.kind),
                Atom::default_of(value.kind),
            )]))),
        }
    }

    /// The elements, in ascending order; `None` for a map. A single atom is a set of one element.
    pub fn as_set(&self) -> Option<&[Atom]> {
        match &self.0 {
            Repr::One(atom) => Some(std::slice::from_ref(atom)),
            Repr::Set(atoms) => Some(atoms),
            Repr::Map(_) => None,
        }
    }

    /// The pairs, in ascending order of their keys; `None` for a set, save an empty one.
    pub fn as_map(&self) -> Option<&[(Atom, Atom)]> {
        match &self.0 {
            Repr::Map(pairs) => Some(pairs),
            Repr::Set(atoms) if atoms.is_empty() => Some(&[]),
            Repr::One(_) | Repr::Set(_) => None,
        }
    }

    /// The only element; `None` when there are none or several, or for a map.
    pub fn as_atom(&self) -> Option<&Atom> {
        match &self.0 {
            Repr::One(atom) => Some(atom),
            Repr::Set(_) | Repr::Map(_) => None,
        }
    }

    /// Number of elements or pairs.
    pub fn len(&self) -> usize {
        match &self.0 {
            Repr::One(_) => 1,
            Repr::Set(atoms) => atoms.len(),
            Repr::Map(pairs) => pairs.len(),
        }
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The value after a difference as `update2` sends it.
    ///
    /// A column for one element is replaced. Elements of a set that occur in the difference change sides. Of a map, a pair
    /// that is there already is removed, any other pair is added or replaces the value of its key.
    #[must_use]
    pub fn with_difference(&self, difference: &Self, column_type: &ColumnType) -> Self {
        if !column_type.is_composite() {
            return difference.clone();
        }
        if column_type.is_map() {
            let (old, new) = (self.as_map().unwrap_or(&[]), difference.as_map().unwrap_or(&[]));
            let pairs = merge(old, new, |pair| &pair.0, |old, new| (old.1 != new.1).then(|| new.clone()));
            Self(Repr::Map(pairs.into()))
        } else {
            let (old, new) = (self.as_set().unwrap_or(&[]), difference.as_set().unwrap_or(&[]));
            let mut atoms = merge(old, new, |atom| atom, |_, _| None);
            Self(if atoms.len() == 1 { Repr::One(atoms.remove(0)) } else { Repr::Set(atoms.into()) })
        }
    }

    /// The value on the wire (RFC 7047 §5.1, `<value>`).
    pub fn to_json(&self) -> serde_json::Value {
        match &self.0 {
            Repr::One(atom) => atom.to_json(),
            Repr::Set(atoms) => {
                serde_json::json!(["set", atoms.iter().map(Atom::to_json).collect::<Vec<_>>()])
            }
            Repr::Map(pairs) => {
                let pairs: Vec<_> =
                    pairs.iter().map(|(key, value)| [key.to_json(), value.to_json()]).collect();
                serde_json::json!(["map", pairs])
            }
        }
    }
}

/// Merges two ascending lists; `both` decides what becomes of elements with the same key.
fn merge<T: Clone>(
    old: &[T],
    new: &[T],
    key: impl Fn(&T) -> &Atom,
    both: impl Fn(&T, &T) -> Option<T>,
) -> Vec<T> {
    let mut merged = Vec::with_capacity(old.len() + new.len());
    let (mut old, mut new) = (old.iter().peekable(), new.iter().peekable());
    loop {
        let order = match (old.peek(), new.peek()) {
            (None, None) => return merged,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(old), Some(new)) => key(old).cmp(key(new)),
        };
        match order {
            Ordering::Less => merged.extend(old.next().cloned()),
            Ordering::Greater => merged.extend(new.next().cloned()),
            Ordering::Equal => {
                if let (Some(old), Some(new)) = (old.next(), new.next()) {
                    merged.extend(both(old, new));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::atom::{AtomKind, Real};
    use crate::decode::datum_from_json;
    use crate::schema::BaseType;
    use proptest::prelude::*;
    use uuid::Uuid;

    fn column_type(kind: AtomKind, value: Option<AtomKind>, max: Option<u32>) -> ColumnType {
        ColumnType { key: BaseType::plain(kind), value: value.map(BaseType::plain), min: 0, max }
    }

    fn integers(values: &[i64]) -> Datum {
        Datum::set(values.iter().copied().map(Atom::Integer).collect()).unwrap()
    }

    fn map(pairs: &[(&str, &str)]) -> Datum {
        let string = |text: &str| Atom::String(text.into());
        Datum::map(pairs.iter().map(|(key, value)| (string(key), string(value))).collect()).unwrap()
    }

    #[test]
    fn a_set_of_one_element_is_that_element() {
        assert_eq!(integers(&[7]), Datum::atom(Atom::Integer(7)));
        assert_eq!(integers(&[3, 1, 2]), integers(&[1, 2, 3]));
        assert_eq!(Datum::set(vec![Atom::Integer(1), Atom::Integer(1)]), Err(Duplicate));
    }

    #[test]
    fn elements_in_a_set_difference_change_sides() {
        let set = column_type(AtomKind::Integer, None, None);
        assert_eq!(integers(&[1, 2]).with_difference(&integers(&[2, 3]), &set), integers(&[1, 3]));
        assert_eq!(integers(&[1]).with_difference(&integers(&[1]), &set), Datum::empty_set());
        assert_eq!(Datum::empty_set().with_difference(&integers(&[5]), &set), integers(&[5]));
    }

    #[test]
    fn a_map_difference_adds_removes_and_replaces() {
        let map_type = column_type(AtomKind::String, Some(AtomKind::String), None);
        let old = map(&[("a", "1"), ("b", "2"), ("c", "3")]);
        let difference = map(&[("a", "1"), ("b", "9"), ("d", "4")]);
        assert_eq!(old.with_difference(&difference, &map_type), map(&[("b", "9"), ("c", "3"), ("d", "4")]));
    }

    #[test]
    fn a_column_for_one_element_is_replaced() {
        let optional = column_type(AtomKind::Integer, None, Some(1));
        assert_eq!(integers(&[1]).with_difference(&integers(&[2]), &optional), integers(&[2]));
        assert_eq!(integers(&[1]).with_difference(&Datum::empty_set(), &optional), Datum::empty_set());
    }

    fn atom(kind: AtomKind) -> BoxedStrategy<Atom> {
        match kind {
            AtomKind::Integer => any::<i64>().prop_map(Atom::Integer).boxed(),
            AtomKind::Real => any::<f64>().prop_filter_map("finite", Real::new).prop_map(Atom::Real).boxed(),
            AtomKind::Boolean => any::<bool>().prop_map(Atom::Boolean).boxed(),
            AtomKind::String => ".{0,8}".prop_map(|text| Atom::String(text.into())).boxed(),
            AtomKind::Uuid => any::<u128>().prop_map(|bits| Atom::Uuid(Uuid::from_u128(bits))).boxed(),
        }
    }

    fn kind() -> impl Strategy<Value = AtomKind> {
        prop::sample::select(vec![
            AtomKind::Integer,
            AtomKind::Real,
            AtomKind::Boolean,
            AtomKind::String,
            AtomKind::Uuid,
        ])
    }

    fn typed_datum(
        element: impl Fn(AtomKind) -> BoxedStrategy<Atom> + Clone + 'static,
    ) -> impl Strategy<Value = (ColumnType, Datum)> {
        (kind(), proptest::option::of(kind())).prop_flat_map(move |(key, value)| {
            let column = column_type(key, value, None);
            let datum = match value {
                None => prop::collection::btree_set(element(key), 0..6)
                    .prop_map(|set| Datum::set(set.into_iter().collect()).unwrap())
                    .boxed(),
                Some(value) => prop::collection::btree_map(element(key), element(value), 0..6)
                    .prop_map(|map| Datum::map(map.into_iter().collect()).unwrap())
                    .boxed(),
            };
            (Just(column), datum)
        })
    }

    proptest! {
        #[test]
        fn a_datum_survives_the_wire((column, datum) in typed_datum(atom)) {
            let json = serde_json::to_string(&datum.to_json()).unwrap();
            prop_assert_eq!(datum_from_json(&json, &column).unwrap(), datum);
        }

        #[test]
        fn a_difference_leads_from_old_to_new(
            old in prop::collection::btree_map(0i64..8, 0i64..3, 0..8),
            new in prop::collection::btree_map(0i64..8, 0i64..3, 0..8),
        ) {
            let atoms = |map: &std::collections::BTreeMap<i64, i64>| -> Vec<(Atom, Atom)> {
                map.iter().map(|(k, v)| (Atom::Integer(*k), Atom::Integer(*v))).collect()
            };
            // The rule of ovsdb-server(7), 4.1.14, written the other way round.
            let difference: std::collections::BTreeMap<i64, i64> = (0..8)
                .filter(|key| old.get(key) != new.get(key))
                .filter_map(|key| Some((key, *new.get(&key).or(old.get(&key))?)))
                .collect();
            let map_type = column_type(AtomKind::Integer, Some(AtomKind::Integer), None);
            let (old, new) = (Datum::map(atoms(&old)).unwrap(), Datum::map(atoms(&new)).unwrap());
            let difference = Datum::map(atoms(&difference)).unwrap();
            prop_assert_eq!(old.with_difference(&difference, &map_type), new);
        }
    }
}
