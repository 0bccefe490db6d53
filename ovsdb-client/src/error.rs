//! What can go wrong, by who is to blame: the server refused, the server cannot, the link broke.

use serde::Deserialize;
use thiserror::Error;

use crate::jsonrpc::Closed;
use crate::replica::Inconsistent;

/// Why a server refused something (RFC 7047 §3.1, `<error>`).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorTag {
    /// Another row has the same values in an index, or a value breaks a constraint.
    ConstraintViolation,
    /// A row is referred to that does not exist, or is still referred to.
    ReferentialIntegrityViolation,
    /// The lock of an `assert` is not held.
    NotOwner,
    /// A `wait` was not satisfied in time.
    TimedOut,
    /// The transaction asked to be aborted.
    Aborted,
    /// The server ran out of something.
    ResourcesExhausted,
    /// The server could not write to disk.
    Io,
    /// Two inserts use the same name.
    DuplicateUuidName,
    /// A mutation divides by zero.
    DomainError,
    /// A mutation leaves the range of its column.
    RangeError,
    /// The transaction was cancelled.
    Canceled,
    /// The server does not know the method.
    UnknownMethod,
    /// The server has no such database.
    UnknownDatabase,
    /// This member of the cluster does not lead.
    NotLeader,
    /// Anything else, in the server's words.
    Other(String),
}

impl ErrorTag {
    fn from_wire(tag: &str) -> Self {
        match tag {
            "constraint violation" => Self::ConstraintViolation,
            "referential integrity violation" => Self::ReferentialIntegrityViolation,
            "not owner" => Self::NotOwner,
            "timed out" => Self::TimedOut,
            "aborted" => Self::Aborted,
            "resources exhausted" => Self::ResourcesExhausted,
            "I/O error" => Self::Io,
            "duplicate uuid-name" => Self::DuplicateUuidName,
            "domain error" => Self::DomainError,
            "range error" => Self::RangeError,
            "canceled" => Self::Canceled,
            "unknown method" => Self::UnknownMethod,
            "unknown database" => Self::UnknownDatabase,
            "not leader" => Self::NotLeader,
            other => Self::Other(other.to_owned()),
        }
    }
}

/// An error reported by the server.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{text}{}{}", if details.is_some() { ": " } else { "" }, details.as_deref().unwrap_or(""))]
pub struct ServerError {
    /// Its kind.
    pub tag: ErrorTag,
    /// The server's word for it.
    pub text: String,
    /// The server's explanation.
    pub details: Option<String>,
}

impl ServerError {
    pub(crate) fn new(text: impl Into<String>, details: Option<String>) -> Self {
        let text = text.into();
        Self { tag: ErrorTag::from_wire(&text), text, details }
    }

    /// Reads an error as the server writes it: an object, or in some replies a string.
    pub(crate) fn from_json(json: &str) -> Self {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Object {
                error: String,
                #[serde(default)]
                details: Option<String>,
            },
            Text(String),
        }
        match serde_json::from_str(json) {
            Ok(Form::Object { error, details }) => Self::new(error, details),
            Ok(Form::Text(text)) => Self::new(text, None),
            Err(_) => Self::new(json, None),
        }
    }
}

/// What the server lacks. A normal outcome, for example with an older Open vSwitch.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Unsupported {
    /// The server has no such database.
    #[error("server has no database {database}: {error}")]
    Database {
        /// The database asked for.
        database: String,
        /// The server's words.
        error: ServerError,
    },
    /// The schema has no such table.
    #[error(
        "database {database} has no table {table}: the server's schema {version} is too old or of another product"
    )]
    Table {
        /// The database.
        database: String,
        /// The table asked for.
        table: String,
        /// The version of the server's schema.
        version: String,
    },
    /// The table has no such column, and the row type has no default for it.
    #[error("table {table} has no column {column}: the server's schema {version} is too old")]
    Column {
        /// The table.
        table: String,
        /// The column asked for.
        column: String,
        /// The version of the server's schema.
        version: String,
    },
    /// The column holds something else than the row type reads.
    #[error("table {table}, column {column} is {found} in the server's schema, expected {expected}")]
    ColumnType {
        /// The table.
        table: String,
        /// The column.
        column: String,
        /// The type expected.
        expected: String,
        /// The type in the server's schema.
        found: String,
    },
}

/// Why a link to a server was given up. The client connects again after each of them.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LinkError {
    /// No connection could be made.
    #[error("cannot connect: {0}")]
    Connect(std::io::Error),
    /// No connection was made in time.
    #[error("cannot connect: no answer in time")]
    ConnectTimeout,
    /// The connection ended.
    #[error(transparent)]
    Closed(#[from] Closed),
    /// The server sent something that is not OVSDB.
    #[error("server sent a malformed {what}: {why}")]
    Malformed {
        /// Which message.
        what: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// The server's updates do not fit together. The next connection fetches everything afresh.
    #[error(transparent)]
    Inconsistent(#[from] Inconsistent),
    /// The server sends nothing, not even an answer to an echo.
    #[error("server does not answer")]
    Silent,
    /// The server refused to be monitored.
    #[error("server refused {what}: {error}")]
    Refused {
        /// The request refused.
        what: &'static str,
        /// The server's words.
        error: ServerError,
    },
    /// The server lacks something that we need.
    #[error(transparent)]
    Unsupported(#[from] Unsupported),
    /// The server is not the leader of its cluster, or has lost touch with it, and only a leader will do.
    #[error("server does not lead the cluster of {database}")]
    NotLeader {
        /// The database.
        database: String,
    },
    /// The server ended our monitor, because the database went away or changed its schema.
    #[error("server canceled the monitor")]
    Canceled,
    /// We have more to say than the server reads.
    #[error("server does not read its requests")]
    Congested,
}

impl LinkError {
    pub(crate) fn malformed(what: &'static str, why: impl std::fmt::Display) -> Self {
        Self::Malformed { what, why: why.to_string() }
    }
}

/// Why a request has no result.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RequestError {
    /// The server refused it.
    #[error(transparent)]
    Refused(#[from] ServerError),
    /// The connection broke after the request was sent. It may or may not have been carried out.
    #[error("connection lost before the server answered: the request may or may not have been carried out")]
    OutcomeUnknown,
    /// Too many requests wait already.
    #[error("too many requests wait for the server")]
    Busy,
    /// The client has ended.
    #[error("the client has ended")]
    Ended,
    /// The request has no JSON form, or the answer not the form expected.
    #[error("malformed {0}")]
    Malformed(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_read_in_each_form_a_server_writes() {
        let error =
            ServerError::from_json(r#"{"error":"timed out","details":"\"wait\" timed out","syntax":"x"}"#);
        assert_eq!(
            (&error.tag, error.to_string().as_str()),
            (&ErrorTag::TimedOut, "timed out: \"wait\" timed out")
        );
        assert_eq!(ServerError::from_json(r#""unknown method""#).tag, ErrorTag::UnknownMethod);
        assert_eq!(ServerError::from_json("[1]").tag, ErrorTag::Other("[1]".to_owned()));
    }
}
