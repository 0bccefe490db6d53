//! Transactions (RFC 7047 §4.1.3 and §5.2): operations that the server carries out all or not at all.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, json};
use thiserror::Error;
use uuid::Uuid;

use crate::column::Column;
use crate::condition::Clause;
use crate::datum::Datum;
use crate::decode::untyped_datum_from_json;
use crate::error::{RequestError, ServerError};
use crate::value::{NamedUuid, ToValue, Value};

/// Columns with values, for an insert, an update or a wait.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Columns(Map<String, serde_json::Value>);

impl Columns {
    /// No columns: an insert of it leaves every column at its default.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a column.
    #[must_use]
    pub fn set(mut self, column: impl Into<String>, value: impl ToValue) -> Self {
        self.0.insert(column.into(), value.to_value().0);
        self
    }
}

/// How a mutation changes a column (RFC 7047 §5.1, `<mutator>`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutator {
    /// Adds to a number, or to each number of a set.
    Add,
    /// Subtracts.
    Subtract,
    /// Multiplies.
    Multiply,
    /// Divides.
    Divide,
    /// The rest of a division; integers only.
    Remainder,
    /// Adds elements to a set, or pairs to a map whose keys are not there yet.
    Insert,
    /// Removes elements from a set, or pairs or keys from a map.
    Delete,
}

/// A change relative to what a column holds.
#[derive(Clone, Debug, PartialEq)]
pub struct Mutation(serde_json::Value);

impl Mutation {
    /// Changes `column` by `value`.
    pub fn new(column: &str, mutator: Mutator, value: impl ToValue) -> Self {
        let mutator = match mutator {
            Mutator::Add => "+=",
            Mutator::Subtract => "-=",
            Mutator::Multiply => "*=",
            Mutator::Divide => "/=",
            Mutator::Remainder => "%=",
            Mutator::Insert => "insert",
            Mutator::Delete => "delete",
        };
        Self(json!([column, mutator, value.to_value()]))
    }
}

/// What a `wait` waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// The selected rows are those given.
    Equal,
    /// The selected rows are not those given.
    NotEqual,
}

/// Position of an operation in its transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct OperationIndex(pub usize);

/// A row that the transaction inserts: refer to it in other operations by [`name`](Self::name), and find its UUID in the
/// [`Outcome`] by [`index`](Self::index).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewRow {
    /// The operation.
    pub index: OperationIndex,
    /// Stands for the row's UUID within the transaction.
    pub name: NamedUuid,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Yields {
    Uuid,
    Count,
    Rows,
    Nothing,
}

/// A list of operations.
#[derive(Clone, Debug, Default)]
pub struct Transaction {
    operations: Vec<serde_json::Value>,
    yields: Vec<Yields>,
}

impl Transaction {
    /// A transaction without operations.
    pub fn new() -> Self {
        Self::default()
    }

    fn push(&mut self, yields: Yields, operation: serde_json::Value) -> OperationIndex {
        self.operations.push(operation);
        self.yields.push(yields);
        OperationIndex(self.operations.len() - 1)
    }

    /// Inserts a row (§5.2.1).
    pub fn insert(&mut self, table: &str, row: Columns) -> NewRow {
        let name = format!("row{}", self.operations.len());
        let operation = json!({"op": "insert", "table": table, "row": row.0, "uuid-name": name});
        NewRow { index: self.push(Yields::Uuid, operation), name: NamedUuid(name) }
    }

    /// Inserts a row with a UUID of our choice. Open vSwitch 2.13 and later.
    pub fn insert_as(&mut self, uuid: Uuid, table: &str, row: Columns) -> OperationIndex {
        let operation = json!({"op": "insert", "table": table, "row": row.0, "uuid": uuid.to_string()});
        self.push(Yields::Uuid, operation)
    }

    /// Sets columns of the rows for which every clause holds (§5.2.3).
    pub fn update(&mut self, table: &str, rows: &[Clause], columns: Columns) -> OperationIndex {
        self.push(Yields::Count, json!({"op": "update", "table": table, "where": rows, "row": columns.0}))
    }

    /// Changes columns of the rows for which every clause holds (§5.2.4).
    pub fn mutate(&mut self, table: &str, rows: &[Clause], mutations: &[Mutation]) -> OperationIndex {
        let mutations: Vec<_> = mutations.iter().map(|mutation| &mutation.0).collect();
        self.push(
            Yields::Count,
            json!({"op": "mutate", "table": table, "where": rows, "mutations": mutations}),
        )
    }

    /// Deletes the rows for which every clause holds (§5.2.5).
    pub fn delete(&mut self, table: &str, rows: &[Clause]) -> OperationIndex {
        self.push(Yields::Count, json!({"op": "delete", "table": table, "where": rows}))
    }

    /// Reads columns of the rows for which every clause holds (§5.2.2); all columns when `columns` is empty.
    pub fn select(&mut self, table: &str, rows: &[Clause], columns: &[&str]) -> OperationIndex {
        let mut operation = json!({"op": "select", "table": table, "where": rows});
        if !columns.is_empty() {
            operation["columns"] = columns.into();
        }
        self.push(Yields::Rows, operation)
    }

    /// Waits until these columns of the rows for which every clause holds are, or are not, `expected` (§5.2.6). With a
    /// timeout of zero it is a check that fails the transaction with [`TimedOut`](crate::ErrorTag::TimedOut).
    pub fn wait(
        &mut self,
        timeout: Duration,
        table: &str,
        rows: &[Clause],
        columns: &[&str],
        until: Until,
        expected: Vec<Columns>,
    ) -> OperationIndex {
        let timeout_ms = i64::try_from(timeout.as_millis()).unwrap_or(i64::MAX);
        let until = match until {
            Until::Equal => "==",
            Until::NotEqual => "!=",
        };
        let expected: Vec<_> = expected.into_iter().map(|columns| columns.0).collect();
        self.push(
            Yields::Nothing,
            json!({"op": "wait", "timeout": timeout_ms, "table": table, "where": rows, "columns": columns,
                   "until": until, "rows": expected}),
        )
    }

    /// Writes a comment to the server's log of the database (§5.2.9).
    pub fn comment(&mut self, text: &str) -> OperationIndex {
        self.push(Yields::Nothing, json!({"op": "comment", "comment": text}))
    }

    /// Fails the transaction unless this connection holds a lock (§5.2.10).
    pub fn assert_lock(&mut self, lock: &str) -> OperationIndex {
        self.push(Yields::Nothing, json!({"op": "assert", "lock": lock}))
    }

    /// Asks for the transaction to be on disk before the server answers (§5.2.7).
    pub fn durable(&mut self) -> OperationIndex {
        self.push(Yields::Nothing, json!({"op": "commit", "durable": true}))
    }

    /// Fails the transaction, to try out what it would do (§5.2.8).
    pub fn abort(&mut self) -> OperationIndex {
        self.push(Yields::Nothing, json!({"op": "abort"}))
    }

    /// Number of operations.
    pub fn len(&self) -> usize {
        self.operations.len()
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }

    /// The parameters of `transact`.
    pub fn params(&self, database: &str) -> Vec<serde_json::Value> {
        let mut params = Vec::with_capacity(1 + self.operations.len());
        params.push(database.into());
        params.extend(self.operations.iter().cloned());
        params
    }

    /// Reads the reply to `transact`.
    ///
    /// # Errors
    ///
    /// [`TransactionError`]: the first operation that failed, or the commit.
    pub fn read_reply(&self, result: &RawValue) -> Result<Outcome, TransactionError> {
        let malformed = |why: String| RequestError::Malformed(format!("reply to transact: {why}"));
        let results: Vec<Option<WireResult<'_>>> =
            serde_json::from_str(result.get()).map_err(|error| malformed(error.to_string()))?;
        // The server adds one element when all operations succeeded and the commit failed.
        if results.len() < self.yields.len() || results.len() > self.yields.len() + 1 {
            let (found, expected) = (results.len(), self.yields.len());
            return Err(malformed(format!("{found} results for {expected} operations")).into());
        }
        let mut outcome = Outcome { results: Vec::with_capacity(self.yields.len()) };
        for (index, result) in results.into_iter().enumerate() {
            let Some(result) = result else {
                return Err(malformed(format!("operation {index} was not tried and none failed")).into());
            };
            if let Some(error) = result.error {
                let error = ServerError::new(error, result.details);
                return Err(if index < self.yields.len() {
                    TransactionError::Operation { index: OperationIndex(index), error }
                } else {
                    TransactionError::Commit(error)
                });
            }
            if let Some(yields) = self.yields.get(index) {
                let read = result.read(*yields);
                outcome.results.push(read.map_err(|why| malformed(format!("operation {index}: {why}")))?);
            }
        }
        Ok(outcome)
    }
}

#[derive(Deserialize)]
struct WireResult<'a> {
    #[serde(default)]
    error: Option<String>,
    #[serde(default)]
    details: Option<String>,
    #[serde(borrow, default)]
    uuid: Option<&'a RawValue>,
    #[serde(default)]
    count: Option<u64>,
    #[serde(borrow, default)]
    rows: Option<Vec<BTreeMap<String, &'a RawValue>>>,
}

impl WireResult<'_> {
    fn read(self, yields: Yields) -> Result<OperationResult, String> {
        match yields {
            Yields::Nothing => Ok(OperationResult::Done),
            Yields::Count => self.count.map(OperationResult::Count).ok_or_else(|| "no count".to_owned()),
            Yields::Uuid => {
                let datum = untyped_datum_from_json(self.uuid.ok_or("no uuid")?.get());
                let uuid = datum.ok().and_then(|datum| <Uuid as Column>::from_datum(&datum));
                uuid.map(OperationResult::Inserted).ok_or_else(|| "uuid is not one".to_owned())
            }
            Yields::Rows => {
                let row = |columns: BTreeMap<String, &RawValue>| {
                    let columns = columns
                        .into_iter()
                        .map(|(name, json)| Ok((name, untyped_datum_from_json(json.get())?)))
                        .collect::<serde_json::Result<_>>();
                    columns.map(SelectedRow).map_err(|error| error.to_string())
                };
                let rows = self.rows.ok_or("no rows")?.into_iter().map(row).collect::<Result<_, _>>()?;
                Ok(OperationResult::Rows(rows))
            }
        }
    }
}

/// What one operation did.
#[derive(Clone, Debug, PartialEq)]
pub enum OperationResult {
    /// An insert: the UUID of the new row.
    Inserted(Uuid),
    /// An update, mutate or delete: the number of rows it was about.
    Count(u64),
    /// A select: the rows.
    Rows(Vec<SelectedRow>),
    /// Any other operation.
    Done,
}

/// A row that a select found.
#[derive(Clone, Debug, PartialEq)]
pub struct SelectedRow(pub BTreeMap<String, Datum>);

impl SelectedRow {
    /// Reads a column as a Rust type; `None` when it is not there or is of another type.
    pub fn read<T: Column>(&self, column: &str) -> Option<T> {
        T::from_datum(self.0.get(column)?)
    }
}

/// What a transaction did, operation by operation.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// One result for each operation.
    pub results: Vec<OperationResult>,
}

impl Outcome {
    /// The UUID of a row that was inserted.
    pub fn inserted(&self, row: &NewRow) -> Option<Uuid> {
        match self.results.get(row.index.0)? {
            OperationResult::Inserted(uuid) => Some(*uuid),
            _ => None,
        }
    }

    /// The number of rows that an update, mutate or delete was about.
    pub fn count(&self, index: OperationIndex) -> Option<u64> {
        match self.results.get(index.0)? {
            OperationResult::Count(count) => Some(*count),
            _ => None,
        }
    }

    /// The rows that a select found.
    pub fn rows(&self, index: OperationIndex) -> Option<&[SelectedRow]> {
        match self.results.get(index.0)? {
            OperationResult::Rows(rows) => Some(rows),
            _ => None,
        }
    }
}

/// Why a transaction was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TransactionError {
    /// An operation failed; nothing was changed.
    #[error("operation {}: {error}", index.0)]
    Operation {
        /// Which one, counted from 0.
        index: OperationIndex,
        /// Why.
        error: ServerError,
    },
    /// All operations succeeded, and then the commit failed; nothing was changed.
    #[error("commit: {0}")]
    Commit(ServerError),
    /// There is no reply, or none that can be read.
    #[error(transparent)]
    Request(#[from] RequestError),
}

impl TransactionError {
    /// The server's error, if it is one.
    pub fn server_error(&self) -> Option<&ServerError> {
        match self {
            Self::Operation { error, .. } | Self::Commit(error) => Some(error),
            Self::Request(RequestError::Refused(error)) => Some(error),
            Self::Request(_) => None,
        }
    }
}

impl From<Value> for serde_json::Value {
    fn from(value: Value) -> Self {
        value.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorTag;

    fn three() -> Transaction {
        let mut transaction = Transaction::new();
        transaction.insert("Port", Columns::new().set("name", "p0"));
        transaction.delete("Port", &[Clause::equal("name", "p1")]);
        transaction.select("Port", &[], &["name"]);
        transaction
    }

    fn reply(json: &str) -> Result<Outcome, TransactionError> {
        three().read_reply(&RawValue::from_string(json.to_owned()).unwrap())
    }

    #[test]
    fn each_operation_has_its_typed_result() {
        let json = r#"[{"uuid":["uuid","00000000-0000-0000-0000-000000000005"]},{"count":2},{"rows":[{"name":"p0"}]}]"#;
        let outcome = reply(json).unwrap();
        assert_eq!(outcome.results[0], OperationResult::Inserted(Uuid::from_u128(5)));
        assert_eq!(outcome.count(OperationIndex(1)), Some(2));
        assert_eq!(outcome.rows(OperationIndex(2)).unwrap()[0].read::<String>("name").unwrap(), "p0");
    }

    #[test]
    fn the_operation_that_failed_is_told_from_the_commit() {
        let failed =
            reply(r#"[{"uuid":["uuid","00000000-0000-0000-0000-000000000005"]},{"error":"x"},null]"#);
        assert!(matches!(failed, Err(TransactionError::Operation { index: OperationIndex(1), .. })));
        let json = r#"[{"uuid":["uuid","00000000-0000-0000-0000-000000000005"]},{"count":0},{"rows":[]},
            {"error":"constraint violation","details":"d"}]"#;
        let Err(TransactionError::Commit(error)) = reply(json) else { panic!() };
        assert_eq!((error.tag, error.details.as_deref()), (ErrorTag::ConstraintViolation, Some("d")));
    }

    #[test]
    fn replies_that_do_not_fit_the_operations_are_malformed() {
        for json in [
            "{}",
            "[]",
            "[null,null,null]",
            r#"[{"count":1},{"count":1},{"rows":[]}]"#,
            r#"[{"uuid":["uuid","5"]},{"count":2},{"rows":[]}]"#,
            r#"[{"uuid":["uuid","00000000-0000-0000-0000-000000000005"]},{"count":-2},{"rows":[]}]"#,
            r#"[{"uuid":["uuid","00000000-0000-0000-0000-000000000005"]},{"count":2},{"rows":[{"name":null}]}]"#,
        ] {
            assert!(
                matches!(reply(json), Err(TransactionError::Request(RequestError::Malformed(_)))),
                "{json}"
            );
        }
    }
}
