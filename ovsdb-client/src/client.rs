//! The client: one database of one server or cluster, for as long as somebody holds it.

use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use tokio::sync::{Notify, mpsc, oneshot};

use crate::condition::Condition;
use crate::driver::{Command, Driver};
use crate::error::RequestError;
use crate::jsonrpc::{Limits, raw};
use crate::monitor::Monitor;
use crate::remote::Remote;
use crate::replica::Tables;
use crate::schema::DatabaseSchema;
use crate::tls::Tls;
use crate::transaction::{Outcome, Transaction, TransactionError};
use crate::watcher::{Shared, Status, Watcher};

/// Commands that wait for the task that talks to the server; callers wait beyond that.
const COMMANDS_MAX: usize = 64;

/// How to reach a server and what to follow. All fields have sensible values from [`Config::new`].
pub struct Config {
    /// The servers of the database, tried in turn.
    pub remotes: Vec<Remote>,
    /// Our key and certificates, for `ssl:` remotes.
    pub tls: Option<Tls>,
    /// What to monitor.
    pub monitor: Monitor,
    /// After this long without a byte from the server an echo is sent, and after as long again the connection is given up.
    /// `None` never probes. A server that is busy with a very large database may need more than the 5 s that OVS and we use.
    pub probe_interval: Option<Duration>,
    /// Of a clustered database, stay only with the leader.
    pub leader_only: bool,
    /// Longest time for a connection to be made.
    pub connect_timeout: Duration,
    /// Shortest step between two attempts to connect; it doubles with each.
    pub backoff_min: Duration,
    /// Longest step between two attempts to connect.
    pub backoff_max: Duration,
    /// What the server may make us hold.
    pub limits: Limits,
    /// Where jitter comes from.
    pub random: Box<dyn FnMut() -> u64 + Send>,
}

impl Config {
    /// Follows `monitor` at one remote.
    pub fn new(remote: Remote, monitor: Monitor) -> Self {
        Self {
            remotes: vec![remote],
            tls: None,
            monitor,
            probe_interval: Some(Duration::from_secs(5)),
            leader_only: false,
            connect_timeout: Duration::from_secs(5),
            backoff_min: Duration::from_millis(250),
            backoff_max: Duration::from_secs(8),
            limits: Limits::OVSDB,
            // Each `RandomState` is seeded by the system: enough to spread clients in time.
            random: Box::new(|| RandomState::new().build_hasher().finish()),
        }
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("remotes", &self.remotes)
            .field("monitor", &self.monitor)
            .finish_non_exhaustive()
    }
}

/// A client of one database. Cheap to clone.
///
/// Requests wait while there is no connection; drop their future, or put a timeout around it, to give up. A request whose
/// future is dropped before it was sent is not sent; one that was sent is cancelled at the server if it can be.
#[derive(Clone, Debug)]
pub struct Client {
    commands: mpsc::Sender<Command>,
    dropped: Arc<Notify>,
    shared: Arc<Shared>,
    database: Arc<str>,
}

impl Client {
    /// Starts a task on the current tokio runtime that connects, and connects again, until the client with all its clones and
    /// the watcher are dropped.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub fn start(config: Config) -> (Self, Watcher) {
        let (commands, receiver) = mpsc::channel(COMMANDS_MAX);
        let shared = Arc::new(Shared::default());
        let dropped = Arc::new(Notify::new());
        let database = config.monitor.database.as_str().into();
        let driver = Driver::new(config, Arc::clone(&shared), receiver, Arc::clone(&dropped));
        tokio::spawn(driver.run());
        let watcher =
            Watcher { shared: Arc::clone(&shared), seen: Tables::default(), _commands: commands.clone() };
        (Self { commands, dropped, shared, database }, watcher)
    }

    /// The state of the connection.
    pub fn status(&self) -> Status {
        self.shared.status()
    }

    /// Sends any request and gives its result as text.
    ///
    /// # Errors
    ///
    /// [`RequestError`].
    pub async fn request_raw<P: Serialize + ?Sized>(
        &self,
        method: &str,
        params: &P,
    ) -> Result<Box<RawValue>, RequestError> {
        let params = raw(params).map_err(|error| RequestError::Malformed(error.to_string()))?;
        let (answer, receiver) = oneshot::channel();
        self.command(Command::Request { method: method.to_owned(), params, answer }).await?;
        self.wait(receiver).await?
    }

    /// Sends any request and reads its result as `R`.
    ///
    /// # Errors
    ///
    /// [`RequestError`].
    pub async fn request<P: Serialize + ?Sized, R: DeserializeOwned>(
        &self,
        method: &str,
        params: &P,
    ) -> Result<R, RequestError> {
        let result = self.request_raw(method, params).await?;
        serde_json::from_str(result.get())
            .map_err(|error| RequestError::Malformed(format!("reply to {method}: {error}")))
    }

    /// The server's databases (RFC 7047 §4.1.1).
    ///
    /// # Errors
    ///
    /// [`RequestError`].
    pub async fn list_dbs(&self) -> Result<Vec<String>, RequestError> {
        self.request("list_dbs", &[(); 0]).await
    }

    /// The database's schema (RFC 7047 §4.1.2).
    ///
    /// # Errors
    ///
    /// [`RequestError`].
    pub async fn get_schema(&self) -> Result<DatabaseSchema, RequestError> {
        self.request("get_schema", &[&*self.database]).await
    }

    /// Asks the server to repeat something (RFC 7047 §4.1.11). The client also probes by itself.
    ///
    /// # Errors
    ///
    /// [`RequestError`].
    pub async fn echo<P: Serialize + ?Sized>(&self, params: &P) -> Result<Box<RawValue>, RequestError> {
        self.request_raw("echo", params).await
    }

    /// Carries out a transaction (RFC 7047 §4.1.3). It is never sent twice: after
    /// [`OutcomeUnknown`](RequestError::OutcomeUnknown) look at the rows to see whether it was carried out.
    ///
    /// # Errors
    ///
    /// [`TransactionError`]; except after `OutcomeUnknown` nothing was changed.
    pub async fn transact(&self, transaction: &Transaction) -> Result<Outcome, TransactionError> {
        let result = self.request_raw("transact", &transaction.params(&self.database)).await?;
        transaction.read_reply(&result)
    }

    /// Changes which rows of a table are monitored, and waits until that is in force and the rows are with the watcher. The
    /// change stays when the future is dropped.
    ///
    /// # Errors
    ///
    /// [`RequestError`].
    pub async fn set_condition(&self, table: &str, condition: Condition) -> Result<(), RequestError> {
        let (applied, receiver) = oneshot::channel();
        self.command(Command::SetCondition { table: table.to_owned(), condition, applied }).await?;
        self.wait(receiver).await?
    }

    /// Wants a lock (RFC 7047 §4.1.8), on this connection and on each one after it. The watcher tells when it is ours and
    /// when it no longer is. The name is an identifier: letters, digits and underscores.
    ///
    /// # Errors
    ///
    /// [`RequestError::Ended`].
    pub async fn lock(&self, name: &str) -> Result<(), RequestError> {
        self.command(Command::Lock { name: name.to_owned(), steal: false }).await
    }

    /// As [`lock`](Self::lock), but takes the lock from its holder, once.
    ///
    /// # Errors
    ///
    /// [`RequestError::Ended`].
    pub async fn steal(&self, name: &str) -> Result<(), RequestError> {
        self.command(Command::Lock { name: name.to_owned(), steal: true }).await
    }

    /// Gives a lock up, held or not.
    ///
    /// # Errors
    ///
    /// [`RequestError::Ended`].
    pub async fn unlock(&self, name: &str) -> Result<(), RequestError> {
        self.command(Command::Unlock { name: name.to_owned() }).await
    }

    async fn command(&self, command: Command) -> Result<(), RequestError> {
        self.commands.send(command).await.map_err(|_| RequestError::Ended)
    }

    async fn wait<T>(&self, receiver: oneshot::Receiver<T>) -> Result<T, RequestError> {
        let mut guard = TellIfDropped { dropped: Some(&self.dropped) };
        // The receiver has to go before the guard speaks, so it is moved into the future here, inside the guard's life.
        let answer = receiver.await;
        guard.dropped = None;
        answer.map_err(|_| RequestError::Ended)
    }
}

/// Tells the driver to look for requests that nobody waits for.
struct TellIfDropped<'a> {
    dropped: Option<&'a Notify>,
}

impl Drop for TellIfDropped<'_> {
    fn drop(&mut self) {
        if let Some(dropped) = self.dropped {
            dropped.notify_one();
        }
    }
}
