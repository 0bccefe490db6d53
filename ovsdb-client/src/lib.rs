#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod atom;
mod backoff;
mod client;
mod column;
mod condition;
mod datum;
mod decode;
mod driver;
mod error;
mod feed;
pub mod jsonrpc;
mod lock;
mod monitor;
mod remote;
mod replica;
mod row;
pub mod schema;
pub mod session;
mod tls;
mod transaction;
pub mod transport;
pub mod update;
mod value;
mod watcher;

pub use atom::{Atom, AtomKind, AtomValue, Real, Uuid};
pub use backoff::Backoff;
pub use client::{Client, Config};
pub use column::Column;
pub use condition::{Clause, Condition, Function};
pub use datum::{Datum, Duplicate};
pub use decode::datum_from_json;
pub use error::{ErrorTag, LinkError, RequestError, ServerError, Unsupported};
pub use monitor::Monitor;
pub use remote::{DEFAULT_PORT, ParseRemoteError, Remote};
pub use replica::{Backlog, Inconsistent, Replica, Tables};
pub use row::{Change, ColumnNeed, Layout, LayoutColumn, Row, RowError, TableRow, TypedChange};
pub use tls::{Tls, TlsError, TlsFiles};
pub use transaction::{
    Columns, Mutation, Mutator, NewRow, OperationIndex, OperationResult, Outcome, SelectedRow, Transaction,
    TransactionError, Until,
};
pub use value::{NamedUuid, ToAtom, ToValue, Value};
pub use watcher::{Notice, Status, Watcher};
