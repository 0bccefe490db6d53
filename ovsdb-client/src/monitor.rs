//! What to monitor: tables, columns and conditions, checked against the schema that a server turns out to have.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::condition::Condition;
use crate::error::Unsupported;
use crate::row::{ColumnNeed, Layout, TableRow};
use crate::schema::{DatabaseSchema, TableSchema};

#[derive(Clone, Debug)]
enum Needs {
    /// What a typed row reads.
    Typed(&'static [ColumnNeed]),
    /// Columns by name, whatever they hold.
    Named(Vec<String>),
    /// Whatever the table has.
    Every,
}

/// One table to monitor.
#[derive(Clone, Debug)]
pub(crate) struct TableRequest {
    table: String,
    needs: Vec<Needs>,
    is_optional: bool,
}

/// What to monitor of one database.
///
/// ```
/// # ovsdb_client::table! { struct Bridge in "Bridge" { name: String } }
/// use ovsdb_client::{Clause, Condition, Monitor};
///
/// let monitor = Monitor::new("Open_vSwitch")
///     .rows::<Bridge>()
///     .columns("Port", ["name", "tag"])
///     .condition("Port", Condition::Any(vec![Clause::equal("name", "eth0")]));
/// ```
#[derive(Clone, Debug)]
pub struct Monitor {
    pub(crate) database: String,
    tables: BTreeMap<String, TableRequest>,
    pub(crate) conditions: BTreeMap<String, Condition>,
}

impl Monitor {
    /// Nothing yet of this database: a client that only sends requests needs no more.
    pub fn new(database: impl Into<String>) -> Self {
        Self { database: database.into(), tables: BTreeMap::new(), conditions: BTreeMap::new() }
    }

    fn add(mut self, table: &str, needs: Needs) -> Self {
        let request = || TableRequest { table: table.to_owned(), needs: Vec::new(), is_optional: false };
        self.tables.entry(table.to_owned()).or_insert_with(request).needs.push(needs);
        self
    }

    /// Monitors what `T` reads. Two row types may read the same table.
    #[must_use]
    pub fn rows<T: TableRow>(self) -> Self {
        self.add(T::TABLE, Needs::Typed(T::COLUMNS))
    }

    /// Monitors columns by name.
    #[must_use]
    pub fn columns<'a>(self, table: &str, columns: impl IntoIterator<Item = &'a str>) -> Self {
        self.add(table, Needs::Named(columns.into_iter().map(str::to_owned).collect()))
    }

    /// Monitors every column of a table.
    #[must_use]
    pub fn every_column(self, table: &str) -> Self {
        self.add(table, Needs::Every)
    }

    /// Lets a table be missing from the server's schema: it is then empty.
    #[must_use]
    pub fn optional(mut self, table: &str) -> Self {
        if let Some(request) = self.tables.get_mut(table) {
            request.is_optional = true;
        }
        self
    }

    /// Monitors only some rows of a table.
    #[must_use]
    pub fn condition(mut self, table: &str, condition: Condition) -> Self {
        self.conditions.insert(table.to_owned(), condition);
        self
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.tables.is_empty()
    }

    /// Finds tables and columns in a schema.
    ///
    /// # Errors
    ///
    /// [`Unsupported`], naming the table or column that is missing or is of another type.
    pub(crate) fn layouts(&self, schema: &DatabaseSchema) -> Result<Vec<Arc<Layout>>, Unsupported> {
        let version = schema.version.as_deref().unwrap_or("of unknown version");
        let mut layouts = Vec::with_capacity(self.tables.len());
        for request in self.tables.values() {
            match schema.tables.get(&request.table) {
                Some(table) => layouts.push(Arc::new(request.layout(table, version)?)),
                None if request.is_optional => {}
                None => {
                    return Err(Unsupported::Table {
                        database: self.database.clone(),
                        table: request.table.clone(),
                        version: version.to_owned(),
                    });
                }
            }
        }
        Ok(layouts)
    }
}

impl TableRequest {
    fn layout(&self, schema: &TableSchema, version: &str) -> Result<Layout, Unsupported> {
        let missing = |column: &str| Unsupported::Column {
            table: self.table.clone(),
            column: column.to_owned(),
            version: version.to_owned(),
        };
        let mut columns = Vec::new();
        for needs in &self.needs {
            match needs {
                Needs::Every => {
                    columns.extend(
                        schema
                            .columns
                            .iter()
                            .map(|(name, column)| (name.clone(), column.column_type.clone())),
                    );
                }
                Needs::Named(names) => {
                    for name in names {
                        let column = schema.columns.get(name).ok_or_else(|| missing(name))?;
                        columns.push((name.clone(), column.column_type.clone()));
                    }
                }
                Needs::Typed(needs) => {
                    for need in *needs {
                        let Some(column) = schema.columns.get(need.name) else {
                            if need.has_default {
                                continue;
                            }
                            return Err(missing(need.name));
                        };
                        if !(need.accepts)(&column.column_type) {
                            return Err(Unsupported::ColumnType {
                                table: self.table.clone(),
                                column: need.name.to_owned(),
                                expected: (need.expected)(),
                                found: column.column_type.to_string(),
                            });
                        }
                        columns.push((need.name.to_owned(), column.column_type.clone()));
                    }
                }
            }
        }
        Ok(Layout::new(&self.table, columns))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    crate::table! {
        struct Port in "Port" {
            name: String,
            tag: Option<i64>,
            protected: bool = false,
        }
    }

    fn schema(json: serde_json::Value) -> DatabaseSchema {
        serde_json::from_value(serde_json::json!({"name": "db", "version": "1.2.3", "tables": json})).unwrap()
    }

    fn layouts(columns: serde_json::Value) -> Result<Vec<Arc<Layout>>, Unsupported> {
        Monitor::new("db").rows::<Port>().layouts(&schema(serde_json::json!({"Port": {"columns": columns}})))
    }

    #[test]
    fn a_column_with_a_default_may_be_missing() {
        let layouts = layouts(serde_json::json!({
            "name": {"type": "string"}, "tag": {"type": {"key": "integer", "min": 0}}, "other": {"type": "real"}
        }));
        let names: Vec<_> =
            layouts.unwrap()[0].columns.iter().map(|column| column.name.to_string()).collect();
        assert_eq!(names, ["name", "tag"]);
    }

    #[test]
    fn what_the_schema_lacks_is_named() {
        let error = layouts(serde_json::json!({"name": {"type": "string"}})).unwrap_err();
        assert_eq!(error.to_string(), "table Port has no column tag: the server's schema 1.2.3 is too old");
        let error =
            layouts(serde_json::json!({"name": {"type": "string"}, "tag": {"type": "string"}})).unwrap_err();
        assert_eq!(
            error.to_string(),
            "table Port, column tag is string in the server's schema, expected optional integer"
        );
        let monitor = Monitor::new("db").rows::<Port>();
        assert!(matches!(monitor.layouts(&schema(serde_json::json!({}))), Err(Unsupported::Table { .. })));
        assert_eq!(monitor.optional("Port").layouts(&schema(serde_json::json!({}))).unwrap(), []);
    }
}
