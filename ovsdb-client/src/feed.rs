//! One monitored database within a session: schema, monitor request with its fallbacks, updates into the replica.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::value::RawValue;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::condition::Condition;
use crate::error::{ErrorTag, LinkError, ServerError, Unsupported};
use crate::monitor::Monitor;
use crate::replica::Replica;
use crate::row::{Change, Layout};
use crate::schema::DatabaseSchema;
use crate::update::{Dialect, updates_from_json};

/// The ways to monitor, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    /// Open vSwitch 2.12 and later: continues where the last connection ended, if the server remembers.
    CondSince,
    /// Open vSwitch 2.6 and later.
    Cond,
    /// RFC 7047. Knows no conditions: the replica then holds all rows.
    Original,
}

impl Method {
    fn name(self) -> &'static str {
        match self {
            Self::CondSince => "monitor_cond_since",
            Self::Cond => "monitor_cond",
            Self::Original => "monitor",
        }
    }

    fn update(self) -> &'static str {
        match self {
            Self::CondSince => "update3",
            Self::Cond => "update2",
            Self::Original => "update",
        }
    }

    fn fallback(self) -> Option<Self> {
        match self {
            Self::CondSince => Some(Self::Cond),
            Self::Cond => Some(Self::Original),
            Self::Original => None,
        }
    }

    fn dialect(self) -> Dialect {
        match self {
            Self::CondSince | Self::Cond => Dialect::Differences,
            Self::Original => Dialect::Original,
        }
    }
}

#[derive(Debug)]
pub(crate) struct Feed {
    monitor: Monitor,
    schema_version: Option<String>,
    layouts: Vec<Arc<Layout>>,
    replica: Replica,
    method: Method,
    /// The last transaction in the replica; absent when the replica has to be filled afresh.
    last_txn: Option<Uuid>,
    /// The conditions the replica stands for: those of the monitor request or of the last change confirmed.
    acknowledged: BTreeMap<String, Condition>,
    /// Conditions sent and not yet confirmed.
    sent: Option<BTreeMap<String, Condition>>,
}

pub(crate) enum MonitorAnswer {
    Synchronised {
        changes: Vec<Change>,
        /// Whether they follow on the last connection's.
        continued: bool,
    },
    /// The server does not know the method: ask again, with the next one.
    Again,
}

impl Feed {
    pub(crate) fn new(monitor: Monitor) -> Self {
        Self {
            monitor,
            schema_version: None,
            layouts: Vec::new(),
            replica: Replica::default(),
            method: Method::CondSince,
            last_txn: None,
            acknowledged: BTreeMap::new(),
            sent: None,
        }
    }

    pub(crate) fn replica(&self) -> &Replica {
        &self.replica
    }

    pub(crate) fn method(&self) -> Method {
        self.method
    }

    pub(crate) fn schema_version(&self) -> Option<&str> {
        self.schema_version.as_deref()
    }

    /// A new connection: the server may be another, or of another version.
    pub(crate) fn start(&mut self) {
        self.method = Method::CondSince;
        self.sent = None;
    }

    pub(crate) fn forget_position(&mut self) {
        self.last_txn = None;
    }

    pub(crate) fn schema_params(&self) -> Value {
        json!([self.monitor.database])
    }

    /// Takes the reply to `get_schema`; true when there is something to monitor.
    pub(crate) fn handle_schema(
        &mut self,
        outcome: Result<&RawValue, ServerError>,
    ) -> Result<bool, LinkError> {
        let database = || self.monitor.database.clone();
        let schema = outcome.map_err(|error| Unsupported::Database { database: database(), error })?;
        let schema: DatabaseSchema =
            serde_json::from_str(schema.get()).map_err(|error| LinkError::malformed("schema", error))?;
        let layouts = self.monitor.layouts(&schema)?;
        if self.layouts != layouts {
            self.layouts = layouts;
            self.last_txn = None;
        }
        self.schema_version = schema.version;
        Ok(!self.layouts.is_empty())
    }

    fn monitor_id(&self) -> &str {
        &self.monitor.database
    }

    /// Method and parameters of the monitor request.
    pub(crate) fn monitor_request(&mut self) -> (&'static str, Value) {
        // Rows that only now match are not among the changes since then.
        if self.acknowledged != self.monitor.conditions {
            self.last_txn = None;
        }
        let tables = self.layouts.iter().map(|layout| {
            let columns: Vec<_> = layout.columns.iter().map(|column| &*column.name).collect();
            let request = match (self.method, self.monitor.conditions.get(&*layout.table)) {
                (Method::Original, _) | (_, None) => json!({"columns": columns}),
                (_, Some(condition)) => json!({"columns": columns, "where": condition}),
            };
            (layout.table.to_string(), json!([request]))
        });
        let tables: serde_json::Map<_, _> = tables.collect();
        let params = match self.method {
            Method::CondSince => {
                let last_txn = self.last_txn.unwrap_or(Uuid::nil()).to_string();
                json!([self.monitor.database, self.monitor_id(), tables, last_txn])
            }
            Method::Cond | Method::Original => json!([self.monitor.database, self.monitor_id(), tables]),
        };
        self.sent = Some(self.monitor.conditions.clone());
        (self.method.name(), params)
    }

    /// Takes the reply to the monitor request.
    pub(crate) fn handle_monitor(
        &mut self,
        outcome: Result<&RawValue, ServerError>,
    ) -> Result<MonitorAnswer, LinkError> {
        let malformed = |error: serde_json::Error| LinkError::malformed("monitor reply", error);
        let result = match (outcome, self.method.fallback()) {
            (Ok(result), _) => result,
            (Err(error), Some(fallback)) if error.tag == ErrorTag::UnknownMethod => {
                self.method = fallback;
                return Ok(MonitorAnswer::Again);
            }
            (Err(error), _) => return Err(LinkError::Refused { what: "the monitor", error }),
        };
        let (continued, last_txn, updates) = match self.method {
            Method::CondSince => {
                let (found, last_txn, updates): (bool, Uuid, &RawValue) =
                    parse_since(result).map_err(malformed)?;
                // A server that finds the zero id has found nothing.
                (found && self.last_txn.is_some(), Some(last_txn), updates)
            }
            Method::Cond | Method::Original => (false, None, result),
        };
        let updates =
            updates_from_json(updates.get(), &self.layouts, self.method.dialect()).map_err(malformed)?;
        let changes = if continued {
            self.replica.update(updates, &self.layouts)
        } else {
            self.replica.replace(updates, &self.layouts)
        };
        let changes = changes.inspect_err(|_| self.last_txn = None)?;
        self.last_txn = last_txn.filter(|id| !id.is_nil());
        if let Some(sent) = self.sent.take() {
            self.acknowledged = sent;
        }
        Ok(MonitorAnswer::Synchronised { changes, continued })
    }

    /// Takes an update notification; `None` when it is not about this feed.
    pub(crate) fn handle_update(
        &mut self,
        method: &str,
        params: &RawValue,
    ) -> Result<Option<Vec<Change>>, LinkError> {
        if method != self.method.update() {
            return Ok(None);
        }
        let malformed = |error: serde_json::Error| LinkError::malformed("update", error);
        let (id, last_txn, updates) = match self.method {
            Method::CondSince => {
                let (id, last_txn, updates): (Value, String, &RawValue) =
                    serde_json::from_str(params.get()).map_err(malformed)?;
                let last_txn = Uuid::try_parse(&last_txn)
                    .map_err(|error| LinkError::malformed("transaction id", error))?;
                (id, Some(last_txn), updates)
            }
            Method::Cond | Method::Original => {
                let (id, updates): (Value, &RawValue) =
                    serde_json::from_str(params.get()).map_err(malformed)?;
                (id, None, updates)
            }
        };
        if id.as_str() != Some(self.monitor_id()) {
            return Ok(None);
        }
        let updates =
            updates_from_json(updates.get(), &self.layouts, self.method.dialect()).map_err(malformed)?;
        let changes = self.replica.update(updates, &self.layouts).inspect_err(|_| self.last_txn = None)?;
        self.last_txn = last_txn.filter(|id| !id.is_nil());
        Ok(Some(changes))
    }

    pub(crate) fn set_condition(&mut self, table: &str, condition: Condition) {
        self.monitor.conditions.insert(table.to_owned(), condition);
    }

    pub(crate) fn conditions_are_acknowledged(&self) -> bool {
        self.sent.is_none() && self.acknowledged == self.monitor.conditions
    }

    /// Parameters of the `monitor_cond_change` that is due, if one is.
    pub(crate) fn condition_change(&mut self) -> Option<Value> {
        if self.sent.is_some() || self.acknowledged == self.monitor.conditions {
            return None;
        }
        if self.method == Method::Original {
            // There is nothing to tell this server: it sends every row anyway.
            self.acknowledged = self.monitor.conditions.clone();
            return None;
        }
        let is_monitored = |table: &str| self.layouts.iter().any(|layout| &*layout.table == table);
        let tables = self.monitor.conditions.iter().filter(|(table, condition)| {
            is_monitored(table) && self.acknowledged.get(*table) != Some(condition)
        });
        let tables: serde_json::Map<_, _> =
            tables.map(|(table, condition)| (table.clone(), json!([{"where": condition}]))).collect();
        self.sent = Some(self.monitor.conditions.clone());
        Some(json!([self.monitor_id(), self.monitor_id(), tables]))
    }

    /// Takes the reply to `monitor_cond_change`.
    pub(crate) fn handle_condition_change(
        &mut self,
        outcome: Result<&RawValue, ServerError>,
    ) -> Result<(), LinkError> {
        outcome.map_err(|error| LinkError::Refused { what: "the change of conditions", error })?;
        if let Some(sent) = self.sent.take() {
            self.acknowledged = sent;
        }
        Ok(())
    }
}

fn parse_since(result: &RawValue) -> serde_json::Result<(bool, Uuid, &RawValue)> {
    use serde::de::Error as _;
    let (found, last_txn, updates): (bool, String, &RawValue) = serde_json::from_str(result.get())?;
    let last_txn = Uuid::try_parse(&last_txn).map_err(serde_json::Error::custom)?;
    Ok((found, last_txn, updates))
}
