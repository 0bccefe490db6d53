//! The protocol, pure: frames, requests and the time go in; frames to send and events come out.
//!
//! The session opens no socket and reads no clock. It survives connections: what the replica holds is kept from one to
//! the next, and resynchronised by difference.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::condition::Condition;
use crate::error::{ErrorTag, LinkError, RequestError, ServerError};
use crate::feed::{Feed, MonitorAnswer};
use crate::jsonrpc::Message;
use crate::lock::Locks;
use crate::monitor::Monitor;
use crate::replica::Tables;
use crate::row::Change;

/// Requests that may wait for an answer at one time.
pub const IN_FLIGHT_MAX: usize = 1024;

/// A caller's name for a request of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub u64);

/// How a session behaves.
#[derive(Clone, Debug)]
pub struct SessionConfig {
    /// What to monitor.
    pub monitor: Monitor,
    /// After this long without a byte from the server an echo is sent, and after as long again the connection is given up.
    /// `None` never probes. OVS's own programs use 5 s.
    pub probe_interval: Option<Duration>,
    /// Of a clustered database, stay only with the leader.
    pub leader_only: bool,
}

/// What a session reports.
#[derive(Debug)]
pub enum SessionEvent {
    /// Rows changed.
    Changes(Vec<Change>),
    /// The replica is complete, and from now on follows the server.
    Synchronised {
        /// The version of the server's schema.
        schema_version: Option<String>,
        /// Whether the server sent only what had changed since the last connection, and not everything again.
        continued: bool,
    },
    /// A request has its answer, or never will.
    Answer(Token, Result<Box<RawValue>, RequestError>),
    /// All conditions set so far are in force, and the rows they select are in the replica.
    ConditionsApplied,
    /// A lock is ours, or is no longer.
    Lock {
        /// Its name.
        name: String,
        /// Whether it is ours.
        held: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Offline,
    Starting,
    Live,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Which {
    Main,
    Server,
}

#[derive(Debug)]
enum Pending {
    Schema(Which),
    Monitor(Which),
    ConditionChange,
    Echo,
    Lock(String),
    Unlock,
    Caller(Token),
}

crate::table! {
    /// A database of the server, in its `_Server` database (ovsdb-server(5)).
    struct ServerDatabase in "Database" {
        name: String,
        model: String,
        connected: bool,
        leader: bool,
    }
}

/// A session with a server, across connections.
#[derive(Debug)]
pub struct Session {
    main: Feed,
    database: String,
    is_monitoring: bool,
    server: Option<Feed>,
    phase: Phase,
    next_id: u64,
    pending: BTreeMap<u64, Pending>,
    locks: Locks,
    sends: VecDeque<Vec<u8>>,
    events: VecDeque<SessionEvent>,
    probe_interval: Option<Duration>,
    last_heard: Option<Instant>,
    echo_sent: Option<Instant>,
}

impl Session {
    /// A session without a connection.
    pub fn new(config: SessionConfig) -> Self {
        let server = || Feed::new(Monitor::new("_Server").rows::<ServerDatabase>());
        Self {
            database: config.monitor.database.clone(),
            is_monitoring: !config.monitor.is_empty(),
            main: Feed::new(config.monitor),
            server: config.leader_only.then(server),
            phase: Phase::Offline,
            next_id: 1,
            pending: BTreeMap::new(),
            locks: Locks::default(),
            sends: VecDeque::new(),
            events: VecDeque::new(),
            probe_interval: config.probe_interval,
            last_heard: None,
            echo_sent: None,
        }
    }

    /// The rows as the server last sent them.
    pub fn tables(&self) -> &Tables {
        self.main.replica().tables()
    }

    /// Whether the replica follows the server now.
    pub fn is_live(&self) -> bool {
        self.phase == Phase::Live
    }

    /// Whether another request may be sent now.
    pub fn accepts_requests(&self) -> bool {
        self.is_live() && self.pending.len() < IN_FLIGHT_MAX
    }

    /// The method by which the server is monitored.
    pub fn monitor_method(&self) -> &'static str {
        match self.main.method() {
            crate::feed::Method::CondSince => "monitor_cond_since",
            crate::feed::Method::Cond => "monitor_cond",
            crate::feed::Method::Original => "monitor",
        }
    }

    /// There is a connection.
    pub fn connected(&mut self, now: Instant) {
        self.phase = Phase::Starting;
        self.last_heard = Some(now);
        self.echo_sent = None;
        self.main.start();
        if let Some(server) = &mut self.server {
            server.start();
            server.forget_position();
            let params = server.schema_params();
            self.send("get_schema", &params, Pending::Schema(Which::Server));
        } else {
            self.request_schema();
        }
    }

    /// The connection is gone. Requests in flight are answered with [`RequestError::OutcomeUnknown`].
    pub fn disconnected(&mut self, why: &LinkError) {
        self.phase = Phase::Offline;
        self.last_heard = None;
        self.echo_sent = None;
        self.sends.clear();
        if matches!(why, LinkError::Inconsistent(_)) {
            self.main.forget_position();
        }
        for pending in std::mem::take(&mut self.pending).into_values() {
            if let Pending::Caller(token) = pending {
                self.events.push_back(SessionEvent::Answer(token, Err(RequestError::OutcomeUnknown)));
            }
        }
        for name in self.locks.disconnected() {
            self.events.push_back(SessionEvent::Lock { name, held: false });
        }
    }

    /// Bytes arrived, a whole message or not: the server is alive.
    pub fn heard(&mut self, now: Instant) {
        self.last_heard = Some(now);
        self.echo_sent = None;
    }

    /// The next frame to send.
    pub fn poll_send(&mut self) -> Option<Vec<u8>> {
        self.sends.pop_front()
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<SessionEvent> {
        self.events.pop_front()
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        Some(self.echo_sent.or(self.last_heard)? + self.probe_interval?)
    }

    /// The time has come that [`poll_timeout`](Self::poll_timeout) named; earlier it does nothing.
    ///
    /// # Errors
    ///
    /// [`LinkError::Silent`] when the server has not even answered an echo: close the connection.
    pub fn handle_timeout(&mut self, now: Instant) -> Result<(), LinkError> {
        if self.poll_timeout().is_none_or(|due| now < due) {
            return Ok(());
        }
        if self.echo_sent.is_some() {
            return Err(LinkError::Silent);
        }
        self.echo_sent = Some(now);
        self.send("echo", &json!([]), Pending::Echo);
        Ok(())
    }

    /// Sends a request of the caller's. Ask [`accepts_requests`](Self::accepts_requests) before.
    pub fn request(&mut self, token: Token, method: &str, params: &RawValue) {
        if self.accepts_requests() {
            self.send(method, params, Pending::Caller(token));
        } else {
            self.events.push_back(SessionEvent::Answer(token, Err(RequestError::Busy)));
        }
    }

    /// The caller no longer waits for an answer: asks the server to give the transaction up if it has not begun it.
    pub fn cancel(&mut self, token: Token) {
        let is_it = |pending: &Pending| matches!(pending, Pending::Caller(found) if *found == token);
        let Some((&id, _)) = self.pending.iter().find(|(_, pending)| is_it(pending)) else { return };
        self.push(&Message::notification("cancel", &[id]));
    }

    /// Changes which rows of a table are monitored. [`SessionEvent::ConditionsApplied`] says when it is in force.
    pub fn set_condition(&mut self, table: &str, condition: Condition) {
        self.main.set_condition(table, condition);
        if self.is_live() {
            self.update_conditions();
        }
    }

    /// Wants a lock (RFC 7047 §4.1.8), on this connection and on each one after it. With `steal` it is taken from its holder
    /// once, now.
    pub fn lock(&mut self, name: &str, steal: bool) {
        if let Some(method) = self.locks.want(name, steal, self.is_live()) {
            self.send(method, &json!([name]), Pending::Lock(name.to_owned()));
        }
    }

    /// Gives a lock up, held or not.
    pub fn unlock(&mut self, name: &str) {
        let Some(was_held) = self.locks.drop_lock(name) else { return };
        if self.is_live() {
            self.send("unlock", &json!([name]), Pending::Unlock);
        }
        if was_held {
            self.events.push_back(SessionEvent::Lock { name: name.to_owned(), held: false });
        }
    }

    /// Takes one frame from the server.
    ///
    /// # Errors
    ///
    /// [`LinkError`]: close the connection. The replica is as the last good message left it.
    pub fn handle_frame(&mut self, frame: &[u8]) -> Result<(), LinkError> {
        let message = Message::parse(frame).map_err(|error| LinkError::malformed("message", error))?;
        match message {
            Message::Request { id, method, params } => {
                self.push(&if method == "echo" {
                    Message::reply(id, &params)
                } else {
                    Message::error(id, "unknown method")
                });
                Ok(())
            }
            Message::Notification { method, params } => self.handle_notification(&method, &params),
            Message::Reply { id, outcome } => {
                let Some(pending) = id.as_u64().and_then(|id| self.pending.remove(&id)) else {
                    return Err(LinkError::malformed("reply", "nothing was asked with its id"));
                };
                let outcome = match &outcome {
                    Ok(result) => Ok(&**result),
                    Err(error) => Err(ServerError::from_json(error.get())),
                };
                self.handle_reply(pending, outcome)
            }
        }
    }

    fn handle_reply(
        &mut self,
        pending: Pending,
        outcome: Result<&RawValue, ServerError>,
    ) -> Result<(), LinkError> {
        match pending {
            Pending::Schema(which) => self.handle_schema(which, outcome),
            Pending::Monitor(which) => self.handle_monitor(which, outcome),
            Pending::ConditionChange => {
                self.main.handle_condition_change(outcome)?;
                self.update_conditions();
                Ok(())
            }
            Pending::Echo | Pending::Unlock => Ok(()),
            Pending::Lock(name) => {
                let result = outcome.map_err(|error| LinkError::Refused { what: "a lock", error })?;
                if self.locks.handle_reply(&name, result)? {
                    self.events.push_back(SessionEvent::Lock { name, held: true });
                }
                Ok(())
            }
            Pending::Caller(token) => {
                let answer = outcome.map(RawValue::to_owned).map_err(RequestError::Refused);
                self.events.push_back(SessionEvent::Answer(token, answer));
                Ok(())
            }
        }
    }

    fn handle_schema(
        &mut self,
        which: Which,
        outcome: Result<&RawValue, ServerError>,
    ) -> Result<(), LinkError> {
        match which {
            Which::Main if !self.is_monitoring => self.handle_synchronised(Vec::new(), false),
            Which::Main => {
                if self.main.handle_schema(outcome)? {
                    let (method, params) = self.main.monitor_request();
                    self.send(method, &params, Pending::Monitor(which));
                    Ok(())
                } else {
                    self.handle_synchronised(Vec::new(), false)
                }
            }
            Which::Server => {
                // Before Open vSwitch 2.9 there is no such database, and there are no clusters either.
                if matches!(&outcome, Err(error) if error.tag == ErrorTag::UnknownDatabase) {
                    self.request_schema();
                    return Ok(());
                }
                let Some(server) = &mut self.server else { return Ok(()) };
                server.handle_schema(outcome)?;
                let (method, params) = server.monitor_request();
                self.send(method, &params, Pending::Monitor(which));
                Ok(())
            }
        }
    }

    fn handle_monitor(
        &mut self,
        which: Which,
        outcome: Result<&RawValue, ServerError>,
    ) -> Result<(), LinkError> {
        let feed = match (which, &mut self.server) {
            (Which::Server, Some(server)) => server,
            _ => &mut self.main,
        };
        match feed.handle_monitor(outcome)? {
            MonitorAnswer::Again => {
                let (method, params) = feed.monitor_request();
                self.send(method, &params, Pending::Monitor(which));
                Ok(())
            }
            MonitorAnswer::Synchronised { changes, continued } => match which {
                Which::Main => self.handle_synchronised(changes, continued),
                Which::Server => {
                    self.check_leader()?;
                    self.request_schema();
                    Ok(())
                }
            },
        }
    }

    fn handle_synchronised(&mut self, changes: Vec<Change>, continued: bool) -> Result<(), LinkError> {
        self.phase = Phase::Live;
        if !changes.is_empty() {
            self.events.push_back(SessionEvent::Changes(changes));
        }
        let schema_version = self.main.schema_version().map(str::to_owned);
        self.events.push_back(SessionEvent::Synchronised { schema_version, continued });
        for (name, method) in self.locks.connected() {
            self.send(method, &json!([name]), Pending::Lock(name));
        }
        self.update_conditions();
        Ok(())
    }

    fn handle_notification(&mut self, method: &str, params: &RawValue) -> Result<(), LinkError> {
        match method {
            "update" | "update2" | "update3" => {
                if let Some(server) = &mut self.server
                    && server.handle_update(method, params)?.is_some()
                {
                    return self.check_leader();
                }
                match self.main.handle_update(method, params)? {
                    Some(changes) if !changes.is_empty() => {
                        self.events.push_back(SessionEvent::Changes(changes));
                        Ok(())
                    }
                    Some(_) => Ok(()),
                    None => Err(LinkError::malformed("update", "it is not of our monitor")),
                }
            }
            "monitor_canceled" => Err(LinkError::Canceled),
            "locked" | "stolen" => {
                let held = method == "locked";
                if let Some(name) = self.locks.handle_notification(params, held)? {
                    self.events.push_back(SessionEvent::Lock { name, held });
                }
                Ok(())
            }
            // RFC 7047 allows for methods to come.
            _ => Ok(()),
        }
    }

    fn check_leader(&self) -> Result<(), LinkError> {
        let Some(server) = &self.server else { return Ok(()) };
        let databases = server.replica().tables().rows::<ServerDatabase>();
        let ours = databases.flatten().find(|(_, database)| database.name == self.database);
        match ours {
            Some((_, database))
                if database.model == "clustered" && !(database.leader && database.connected) =>
            {
                Err(LinkError::NotLeader { database: self.database.clone() })
            }
            // A database that is not listed is answered by get_schema.
            _ => Ok(()),
        }
    }

    fn request_schema(&mut self) {
        let params = self.main.schema_params();
        if self.is_monitoring {
            self.send("get_schema", &params, Pending::Schema(Which::Main));
        } else {
            // Nothing to monitor: an echo proves that the server speaks.
            self.send("echo", &json!([]), Pending::Schema(Which::Main));
        }
    }

    fn update_conditions(&mut self) {
        if let Some(params) = self.main.condition_change() {
            self.send("monitor_cond_change", &params, Pending::ConditionChange);
        } else if self.main.conditions_are_acknowledged() {
            self.events.push_back(SessionEvent::ConditionsApplied);
        }
    }

    fn send<P: Serialize + ?Sized>(&mut self, method: &str, params: &P, pending: Pending) {
        let id = self.next_id;
        self.next_id += 1;
        self.pending.insert(id, pending);
        self.push(&Message::request(Value::from(id), method.to_owned(), params));
    }

    fn push(&mut self, message: &Result<Message<'_>, crate::jsonrpc::Malformed>) {
        match message {
            Ok(message) => self.sends.push_back(message.to_bytes()),
            Err(error) => debug_assert!(false, "all our messages have a JSON form: {error}"),
        }
    }
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
