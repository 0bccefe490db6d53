//! Decodes `<table-updates>` (RFC 7047 §4.1.6) and `<table-updates2>` (ovsdb-server(7) §4.1.14) in one pass.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, Visitor};
use uuid::Uuid;

use crate::datum::Datum;
use crate::decode::{DatumSeed, UuidSeed};
use crate::row::Layout;

/// The two forms of updates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// `<table-updates>`, of `monitor`.
    Original,
    /// `<table-updates2>`, of `monitor_cond` and `monitor_cond_since`.
    Differences,
}

/// What happened to a row.
#[derive(Clone, Debug, PartialEq)]
pub enum RowUpdate {
    /// The row now has these values, in the order of the layout.
    Full(Box<[Datum]>),
    /// These columns changed by these differences, by position in the layout.
    Difference(Vec<(usize, Datum)>),
    /// The row is gone.
    Delete,
}

/// The updates of one table.
#[derive(Clone, Debug, PartialEq)]
pub struct TableUpdate {
    /// Position of the table among the layouts.
    pub table: usize,
    /// The rows.
    pub rows: Vec<(Uuid, RowUpdate)>,
}

/// Reads the updates of all tables.
///
/// # Errors
///
/// The JSON error, when the text is not of that form or names a table or column that is not among the layouts.
pub fn updates_from_json<L: AsRef<Layout>>(
    json: &str,
    layouts: &[L],
    dialect: Dialect,
) -> serde_json::Result<Vec<TableUpdate>> {
    let mut deserializer = serde_json::Deserializer::from_str(json);
    let updates = TablesSeed { layouts, dialect }.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(updates)
}

struct TablesSeed<'a, L> {
    layouts: &'a [L],
    dialect: Dialect,
}

impl<'de, L: AsRef<Layout>> DeserializeSeed<'de> for TablesSeed<'_, L> {
    type Value = Vec<TableUpdate>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de, L: AsRef<Layout>> Visitor<'de> for TablesSeed<'_, L> {
    type Value = Vec<TableUpdate>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of table updates")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut tables = Vec::new();
        let find = |name: &str| self.layouts.iter().position(|layout| &*layout.as_ref().table == name);
        while let Some(table) = map.next_key_seed(NameSeed { what: "table", find })? {
            let layout = self.layouts[table].as_ref();
            let rows = map.next_value_seed(RowsSeed { layout, dialect: self.dialect })?;
            tables.push(TableUpdate { table, rows });
        }
        Ok(tables)
    }
}

/// A name that has to be known; gives its position.
struct NameSeed<F> {
    what: &'static str,
    find: F,
}

impl<'de, F: Fn(&str) -> Option<usize>> DeserializeSeed<'de> for NameSeed<F> {
    type Value = usize;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<usize, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<F: Fn(&str) -> Option<usize>> Visitor<'_> for NameSeed<F> {
    type Value = usize;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the name of a monitored {}", self.what)
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<usize, E> {
        (self.find)(name).ok_or_else(|| E::custom(format!("{} {name:?} is not monitored", self.what)))
    }
}

struct RowsSeed<'a> {
    layout: &'a Layout,
    dialect: Dialect,
}

impl<'de> DeserializeSeed<'de> for RowsSeed<'_> {
    type Value = Vec<(Uuid, RowUpdate)>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for RowsSeed<'_> {
    type Value = Vec<(Uuid, RowUpdate)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of row updates")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut rows = Vec::new();
        while let Some(uuid) = map.next_key_seed(UuidSeed)? {
            let update = match self.dialect {
                Dialect::Original => map.next_value_seed(OriginalSeed(self.layout))?,
                Dialect::Differences => map.next_value_seed(DifferencesSeed(self.layout))?,
            };
            rows.push((uuid, update));
        }
        Ok(rows)
    }
}

struct OriginalSeed<'a>(&'a Layout);

impl<'de> DeserializeSeed<'de> for OriginalSeed<'_> {
    type Value = RowUpdate;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<RowUpdate, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for OriginalSeed<'_> {
    type Value = RowUpdate;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with \"old\" or \"new\"")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RowUpdate, A::Error> {
        let mut update = None;
        let find = |name: &str| ["old", "new"].iter().position(|known| *known == name);
        while let Some(member) = map.next_key_seed(NameSeed { what: "row update", find })? {
            if member == 1 {
                update = Some(RowUpdate::Full(full(map.next_value_seed(ColumnsSeed::full(self.0))?, self.0)));
            } else {
                map.next_value::<IgnoredAny>()?;
                update = update.or(Some(RowUpdate::Delete));
            }
        }
        update.ok_or_else(|| A::Error::custom("row update has neither \"old\" nor \"new\""))
    }
}

struct DifferencesSeed<'a>(&'a Layout);

impl<'de> DeserializeSeed<'de> for DifferencesSeed<'_> {
    type Value = RowUpdate;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<RowUpdate, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for DifferencesSeed<'_> {
    type Value = RowUpdate;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with \"initial\", \"insert\", \"modify\" or \"delete\"")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RowUpdate, A::Error> {
        let find =
            |name: &str| ["initial", "insert", "modify", "delete"].iter().position(|known| *known == name);
        let update = match map.next_key_seed(NameSeed { what: "row update", find })? {
            Some(0 | 1) => RowUpdate::Full(full(map.next_value_seed(ColumnsSeed::full(self.0))?, self.0)),
            Some(2) => RowUpdate::Difference(map.next_value_seed(ColumnsSeed::difference(self.0))?),
            Some(_) => {
                map.next_value::<IgnoredAny>()?;
                RowUpdate::Delete
            }
            None => return Err(A::Error::custom("row update is empty")),
        };
        if map.next_key::<IgnoredAny>()?.is_some() {
            return Err(A::Error::custom("row update has more than one member"));
        }
        Ok(update)
    }
}

/// Columns that are left out have their default value.
fn full(columns: Vec<(usize, Datum)>, layout: &Layout) -> Box<[Datum]> {
    let mut columns = columns.into_iter().peekable();
    let values = layout.columns.iter().enumerate().map(|(position, column)| {
        let given = columns.next_if(|(given, _)| *given == position);
        given.map_or_else(|| column.default.clone(), |(_, datum)| datum)
    });
    values.collect()
}

#[derive(Clone, Copy)]
struct ColumnsSeed<'a> {
    layout: &'a Layout,
    is_difference: bool,
}

impl<'a> ColumnsSeed<'a> {
    fn full(layout: &'a Layout) -> Self {
        Self { layout, is_difference: false }
    }

    fn difference(layout: &'a Layout) -> Self {
        Self { layout, is_difference: true }
    }
}

impl<'de> DeserializeSeed<'de> for ColumnsSeed<'_> {
    type Value = Vec<(usize, Datum)>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for ColumnsSeed<'_> {
    type Value = Vec<(usize, Datum)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of columns")
    }

    /// Columns with their values, by ascending position, each at most once.
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let layout = self.layout;
        let find = |name: &str| layout.position(name);
        let mut columns: Vec<(usize, Datum)> = Vec::with_capacity(layout.columns.len());
        while let Some(position) = map.next_key_seed(NameSeed { what: "column", find })? {
            let column_type = &layout.columns[position].column_type;
            let datum = if self.is_difference {
                map.next_value_seed(DatumSeed::difference(column_type))
            } else {
                map.next_value_seed(DatumSeed::full(column_type))
            };
            let datum = datum.map_err(|error| {
                A::Error::custom(format!(
                    "table {}, column {}: {error}",
                    layout.table, layout.columns[position].name
                ))
            })?;
            columns.push((position, datum));
        }
        columns.sort_by_key(|(position, _)| *position);
        if columns.windows(2).any(|pair| pair[0].0 == pair[1].0) {
            return Err(A::Error::custom("row names a column twice"));
        }
        Ok(columns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::atom::{Atom, AtomKind};
    use crate::schema::{BaseType, ColumnType};
    use std::sync::Arc;

    fn layouts() -> [Arc<Layout>; 1] {
        let set = ColumnType { key: BaseType::plain(AtomKind::Integer), value: None, min: 0, max: None };
        let columns = [("name".to_owned(), ColumnType::scalar(AtomKind::String)), ("trunks".to_owned(), set)];
        [Arc::new(Layout::new("Port", columns))]
    }

    fn read(json: &str, dialect: Dialect) -> serde_json::Result<Vec<TableUpdate>> {
        updates_from_json(json, &layouts(), dialect)
    }

    const UUID: &str = "00000000-0000-0000-0000-000000000001";

    #[test]
    fn columns_that_an_initial_row_leaves_out_have_their_default() {
        let json = format!(r#"{{"Port":{{"{UUID}":{{"initial":{{"name":"p0"}}}}}}}}"#);
        let updates = read(&json, Dialect::Differences).unwrap();
        let values = vec![Datum::atom(Atom::String("p0".into())), Datum::empty_set()].into();
        assert_eq!(updates[0].rows, [(Uuid::from_u128(1), RowUpdate::Full(values))]);
    }

    #[test]
    fn each_member_of_both_dialects_is_understood() {
        let json = format!(r#"{{"Port":{{"{UUID}":{{"modify":{{"trunks":["set",[1,2]]}}}}}}}}"#);
        let [table] = &read(&json, Dialect::Differences).unwrap()[..] else { panic!() };
        assert!(matches!(&table.rows[0].1, RowUpdate::Difference(columns) if columns.len() == 1));
        let json = format!(r#"{{"Port":{{"{UUID}":{{"delete":null}}}}}}"#);
        assert_eq!(read(&json, Dialect::Differences).unwrap()[0].rows[0].1, RowUpdate::Delete);
        let json = format!(r#"{{"Port":{{"{UUID}":{{"old":{{"name":"p"}}}}}}}}"#);
        assert_eq!(read(&json, Dialect::Original).unwrap()[0].rows[0].1, RowUpdate::Delete);
        let json = format!(r#"{{"Port":{{"{UUID}":{{"new":{{"name":"q"}},"old":{{"name":"p"}}}}}}}}"#);
        assert!(matches!(read(&json, Dialect::Original).unwrap()[0].rows[0].1, RowUpdate::Full(_)));
    }

    #[test]
    fn what_does_not_fit_the_schema_is_refused_with_its_place() {
        let row = |row: &str| format!(r#"{{"Port":{{"{UUID}":{row}}}}}"#);
        for json in [
            r#"{"Bridge":{}}"#.to_owned(),
            r#"{"Port":{"1":{"delete":null}}}"#.to_owned(),
            r#"{"Port":[]}"#.to_owned(),
            row("{}"),
            row(r#"{"upsert":{}}"#),
            row(r#"{"initial":{"colour":"red"}}"#),
            row(r#"{"initial":{"name":"a","name":"b"}}"#),
            row(r#"{"insert":{},"delete":null}"#),
        ] {
            assert!(read(&json, Dialect::Differences).is_err(), "{json}");
        }
        let error = read(&row(r#"{"initial":{"name":5}}"#), Dialect::Differences).unwrap_err();
        assert!(
            error.to_string().starts_with("table Port, column name: expected string, found integer"),
            "{error}"
        );
    }
}
