//! An OVSDB (RFC 7047) client.

mod atom;
mod column;
mod condition;
mod datum;
mod decode;
pub mod jsonrpc;
mod replica;
mod row;
pub mod schema;
pub mod update;
mod value;

pub use atom::{Atom, AtomKind, AtomValue, Real, Uuid};
pub use column::Column;
pub use condition::{Clause, Condition, Function};
pub use datum::{Datum, Duplicate};
pub use decode::datum_from_json;
pub use replica::{Backlog, Inconsistent, Replica, Tables};
pub use row::{Change, ColumnNeed, Layout, LayoutColumn, Row, RowError, TableRow, TypedChange};
pub use value::{NamedUuid, ToAtom, ToValue, Value};
