//! Rows as the server has them, and the typed rows that programs read them as.

use std::fmt;
use std::sync::Arc;

use thiserror::Error;
use uuid::Uuid;

use crate::column::Column;
use crate::datum::Datum;
use crate::schema::ColumnType;

/// One column of a monitored table.
#[derive(Clone, Debug, PartialEq)]
pub struct LayoutColumn {
    /// Its name.
    pub name: Box<str>,
    /// Its type in the server's schema.
    pub column_type: ColumnType,
    pub(crate) default: Datum,
}

/// Which columns the rows of a table have, in which order.
#[derive(Clone, Debug, PartialEq)]
pub struct Layout {
    /// The table's name.
    pub table: Arc<str>,
    /// The columns, sorted by name.
    pub columns: Box<[LayoutColumn]>,
}

impl Layout {
    /// A layout of these columns.
    pub fn new(table: &str, columns: impl IntoIterator<Item = (String, ColumnType)>) -> Self {
        let mut columns: Vec<_> = columns
            .into_iter()
            .map(|(name, column_type)| LayoutColumn {
                name: name.into(),
                default: Datum::default_of(&column_type),
                column_type,
            })
            .collect();
        columns.sort_by(|a, b| a.name.cmp(&b.name));
        columns.dedup_by(|a, b| a.name == b.name);
        Self { table: table.into(), columns: columns.into() }
    }

    /// Position of a column.
    pub fn position(&self, column: &str) -> Option<usize> {
        self.columns.binary_search_by(|known| (*known.name).cmp(column)).ok()
    }
}

/// A row that cannot be read as the type asked for.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("table {table}, column {column}: {why}")]
pub struct RowError {
    /// The table.
    pub table: String,
    /// The column.
    pub column: String,
    /// What is wrong with it.
    pub why: String,
}

/// The monitored columns of one row. Cheap to share: wrap it in an `Arc`.
#[derive(Clone)]
pub struct Row {
    layout: Arc<Layout>,
    values: Box<[Datum]>,
}

impl fmt::Debug for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the layout: it says the same of every row.
        f.write_str(&self.layout.table)?;
        f.debug_map().entries(self.iter().map(|(column, value)| (column, value.to_json()))).finish()
    }
}

impl PartialEq for Row {
    fn eq(&self, other: &Self) -> bool {
        (Arc::ptr_eq(&self.layout, &other.layout) || self.layout == other.layout)
            && self.values == other.values
    }
}

impl Row {
    /// A row; `values` in the order of the layout's columns.
    pub(crate) fn new(layout: Arc<Layout>, values: Box<[Datum]>) -> Self {
        debug_assert_eq!(layout.columns.len(), values.len());
        Self { layout, values }
    }

    /// The table's name.
    pub fn table(&self) -> &Arc<str> {
        &self.layout.table
    }

    /// The value of a column, if it is monitored.
    pub fn get(&self, column: &str) -> Option<&Datum> {
        self.values.get(self.layout.position(column)?)
    }

    /// All columns with their values.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Datum)> {
        self.layout.columns.iter().map(|column| &*column.name).zip(&self.values)
    }

    /// Reads a column as a Rust type; `None` when the column is not there.
    ///
    /// # Errors
    ///
    /// [`RowError`] when the value is not of that type.
    pub fn read<T: Column>(&self, column: &str) -> Result<Option<T>, RowError> {
        let Some(datum) = self.get(column) else { return Ok(None) };
        match T::from_datum(datum) {
            Some(value) => Ok(Some(value)),
            None => {
                Err(self.error(column, format!("cannot be read as {}: {}", T::expected(), datum.to_json())))
            }
        }
    }

    /// An error about one of the row's columns.
    pub fn error(&self, column: &str, why: impl Into<String>) -> RowError {
        RowError { table: self.layout.table.to_string(), column: column.to_owned(), why: why.into() }
    }

    /// The row after a difference; `changes` by position of the column.
    pub(crate) fn with_differences(&self, changes: &[(usize, Datum)]) -> Self {
        let mut values = self.values.clone();
        for (position, difference) in changes {
            if let (Some(value), Some(column)) =
                (values.get_mut(*position), self.layout.columns.get(*position))
            {
                *value = value.with_difference(difference, &column.column_type);
            }
        }
        Self { layout: Arc::clone(&self.layout), values }
    }
}

/// What a typed row needs of one column.
#[derive(Clone, Copy, Debug)]
pub struct ColumnNeed {
    /// The column's name.
    pub name: &'static str,
    /// Whether the row can do without it, because it has a default.
    pub has_default: bool,
    /// Whether a column of a type will do.
    pub accepts: fn(&ColumnType) -> bool,
    /// The type expected, in words.
    pub expected: fn() -> String,
}

/// A row of a table as a Rust type. Write it with [`table!`](crate::table).
pub trait TableRow: Sized {
    /// The table's name.
    const TABLE: &'static str;
    /// The columns read.
    const COLUMNS: &'static [ColumnNeed];

    /// Reads a row.
    ///
    /// # Errors
    ///
    /// [`RowError`] when a column is missing or does not fit. Columns are checked against the server's schema when a
    /// monitor starts, so what is left are values outside an enumeration.
    fn from_row(row: &Row) -> Result<Self, RowError>;
}

/// One change of one row. `old` and `new` are never equal, and never both absent.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// The table.
    pub table: Arc<str>,
    /// The row.
    pub uuid: Uuid,
    /// The row before; absent when it is new.
    pub old: Option<Arc<Row>>,
    /// The row now; absent when it was deleted.
    pub new: Option<Arc<Row>>,
}

/// A [`Change`] read as a typed row.
#[derive(Clone, Debug, PartialEq)]
pub struct TypedChange<T> {
    /// The row's UUID.
    pub uuid: Uuid,
    /// The row before; absent when it is new.
    pub old: Option<T>,
    /// The row now; absent when it was deleted.
    pub new: Option<T>,
}

impl Change {
    /// The change as rows of `T`; `None` when it is about another table.
    ///
    /// # Errors
    ///
    /// [`RowError`] when a row does not fit `T`.
    pub fn read<T: TableRow>(&self) -> Option<Result<TypedChange<T>, RowError>> {
        if &*self.table != T::TABLE {
            return None;
        }
        let read = |row: &Option<Arc<Row>>| row.as_deref().map(T::from_row).transpose();
        let typed = || Ok(TypedChange { uuid: self.uuid, old: read(&self.old)?, new: read(&self.new)? });
        Some(typed())
    }
}

/// Declares a typed row of a table.
///
/// Each field names the column it reads: its own name, or the one after `=>`. A field with a default after `=` does not
/// need the column to exist: an older server that lacks it gives the default. Types are those that implement
/// [`Column`]: `i64`, [`Real`](crate::Real), `bool`, `String`, [`Uuid`], `Option`, `Vec`, `BTreeSet` and
/// `BTreeMap` of them.
///
/// ```
/// use std::collections::BTreeMap;
///
/// ovsdb_client::table! {
///     /// A network device attached to a bridge.
///     pub struct Interface in "Interface" {
///         /// Its name in the kernel.
///         pub name: String,
///         pub kind: String => "type",
///         pub ofport: Option<i64>,
///         pub external_ids: BTreeMap<String, String>,
///         /// OVS 2.3 and later.
///         pub error: Option<String> = None,
///     }
/// }
/// ```
#[macro_export]
macro_rules! table {
    (
        $(#[$meta:meta])*
        $vis:vis struct $name:ident in $table:literal {
            $(
                $(#[$field_meta:meta])*
                $field_vis:vis $field:ident : $type:ty $(=> $column:literal)? $(= $default:expr)?
            ),* $(,)?
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq)]
        $vis struct $name {
            $( $(#[$field_meta])* $field_vis $field: $type, )*
        }

        impl $crate::TableRow for $name {
            const TABLE: &'static str = $table;
            const COLUMNS: &'static [$crate::ColumnNeed] = &[$(
                $crate::ColumnNeed {
                    name: $crate::table!(@name $field $($column)?),
                    has_default: $crate::table!(@has_default $($default)?),
                    accepts: <$type as $crate::Column>::accepts,
                    expected: <$type as $crate::Column>::expected,
                },
            )*];

            fn from_row(row: &$crate::Row) -> ::core::result::Result<Self, $crate::RowError> {
                ::core::result::Result::Ok(Self {$(
                    $field: match row.read::<$type>($crate::table!(@name $field $($column)?))? {
                        ::core::option::Option::Some(value) => value,
                        ::core::option::Option::None => {
                            $crate::table!(@missing row, $crate::table!(@name $field $($column)?), $($default)?)
                        }
                    },
                )*})
            }
        }
    };
    (@name $field:ident) => { ::core::stringify!($field) };
    (@name $field:ident $column:literal) => { $column };
    (@has_default) => { false };
    (@has_default $default:expr) => { true };
    (@missing $row:ident, $name:expr, ) => {
        return ::core::result::Result::Err($row.error($name, "is not there"))
    };
    (@missing $row:ident, $name:expr, $default:expr) => { $default };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::atom::{Atom, AtomKind};
    use crate::schema::BaseType;
    use std::collections::{BTreeMap, BTreeSet};

    crate::table! {
        struct Interface in "Interface" {
            name: String,
            kind: String => "type",
            ofport: Option<i64>,
            tags: BTreeSet<i64>,
            options: BTreeMap<String, String>,
            error: Option<String> = Some("unknown".to_owned()),
        }
    }

    fn column_type(key: AtomKind, value: Option<AtomKind>, min: u32, max: Option<u32>) -> ColumnType {
        ColumnType { key: BaseType::plain(key), value: value.map(BaseType::plain), min, max }
    }

    fn layout() -> Arc<Layout> {
        let string = AtomKind::String;
        Arc::new(Layout::new(
            "Interface",
            [
                ("type".to_owned(), ColumnType::scalar(string)),
                ("name".to_owned(), ColumnType::scalar(string)),
                ("ofport".to_owned(), column_type(AtomKind::Integer, None, 0, Some(1))),
                ("tags".to_owned(), column_type(AtomKind::Integer, None, 0, None)),
                ("options".to_owned(), column_type(string, Some(string), 0, None)),
            ],
        ))
    }

    fn default_row() -> Row {
        let layout = layout();
        let values = layout.columns.iter().map(|column| column.default.clone()).collect();
        Row::new(layout, values)
    }

    #[test]
    fn columns_are_read_by_name_and_missing_ones_take_their_default() {
        let layout = layout();
        let name = layout.position("name").unwrap();
        let ofport = layout.position("ofport").unwrap();
        let row = default_row().with_differences(&[
            (name, Datum::atom(Atom::String("eth0".into()))),
            (ofport, Datum::atom(Atom::Integer(3))),
        ]);
        let interface = Interface::from_row(&row).unwrap();
        assert_eq!(
            (interface.name.as_str(), interface.kind.as_str(), interface.ofport),
            ("eth0", "", Some(3))
        );
        assert_eq!(interface.error.as_deref(), Some("unknown"));
        assert!(interface.tags.is_empty() && interface.options.is_empty());
    }

    #[test]
    fn each_rust_type_accepts_only_columns_it_can_always_read() {
        let integer = ColumnType::scalar(AtomKind::Integer);
        let optional = column_type(AtomKind::Integer, None, 0, Some(1));
        let set = column_type(AtomKind::Integer, None, 0, None);
        let map = column_type(AtomKind::String, Some(AtomKind::Integer), 0, None);
        assert_eq!([&integer, &optional, &set, &map].map(i64::accepts), [true, false, false, false]);
        assert_eq!([&integer, &optional, &set, &map].map(Option::<i64>::accepts), [true, true, false, false]);
        assert_eq!([&integer, &optional, &set, &map].map(Vec::<i64>::accepts), [true, true, true, false]);
        assert!(BTreeMap::<String, i64>::accepts(&map) && !BTreeMap::<String, String>::accepts(&map));
    }

    #[test]
    fn a_value_of_another_type_is_an_error_that_names_the_column() {
        let error = default_row().read::<i64>("name").unwrap_err();
        assert_eq!(error.to_string(), "table Interface, column name: cannot be read as integer: \"\"");
    }
}
