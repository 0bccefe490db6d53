//! The task that connects a [`Session`] to a server, again and again. It decides nothing about the protocol.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::value::RawValue;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{sleep, sleep_until, timeout};

use crate::backoff::Backoff;
use crate::client::Config;
use crate::condition::Condition;
use crate::error::{LinkError, RequestError};
use crate::jsonrpc::{Connection, Limits};
use crate::remote::Remote;
use crate::session::{IN_FLIGHT_MAX, Session, SessionConfig, SessionEvent, Token};
use crate::tls::Tls;
use crate::transport::{ByteStream, connect};
use crate::watcher::Shared;

/// Requests that wait for a connection.
const WAITING_MAX: usize = 256;
/// Callers that wait for their conditions to be in force.
const CONDITION_WAITERS_MAX: usize = 256;

pub(crate) type Answer = Result<Box<RawValue>, RequestError>;

#[derive(Debug)]
pub(crate) enum Command {
    Request { method: String, params: Box<RawValue>, answer: oneshot::Sender<Answer> },
    SetCondition { table: String, condition: Condition, applied: oneshot::Sender<Result<(), RequestError>> },
    Lock { name: String, steal: bool },
    Unlock { name: String },
}

struct Waiting {
    method: String,
    params: Box<RawValue>,
    answer: oneshot::Sender<Answer>,
}

pub(crate) struct Driver {
    session: Session,
    shared: Arc<Shared>,
    commands: mpsc::Receiver<Command>,
    /// Somebody dropped the future of a request.
    dropped: Arc<Notify>,
    remotes: Vec<Remote>,
    tls: Option<Tls>,
    limits: Limits,
    connect_timeout: Duration,
    backoff: Backoff,
    random: Box<dyn FnMut() -> u64 + Send>,
    waiting: VecDeque<Waiting>,
    in_flight: BTreeMap<Token, oneshot::Sender<Answer>>,
    condition_waiters: Vec<oneshot::Sender<Result<(), RequestError>>>,
    next_token: u64,
}

/// Whether to go on.
enum Flow {
    /// The connection is lost for this reason.
    Lost(LinkError),
    /// Nobody is interested any more.
    Ended,
}

impl From<LinkError> for Flow {
    fn from(error: LinkError) -> Self {
        Self::Lost(error)
    }
}

impl Driver {
    pub(crate) fn new(
        config: Config,
        shared: Arc<Shared>,
        commands: mpsc::Receiver<Command>,
        dropped: Arc<Notify>,
    ) -> Self {
        let session = SessionConfig {
            monitor: config.monitor,
            probe_interval: config.probe_interval,
            leader_only: config.leader_only,
        };
        Self {
            session: Session::new(session),
            shared,
            commands,
            dropped,
            remotes: config.remotes,
            tls: config.tls,
            limits: config.limits,
            connect_timeout: config.connect_timeout,
            backoff: Backoff::new(config.backoff_min, config.backoff_max),
            random: config.random,
            waiting: VecDeque::new(),
            in_flight: BTreeMap::new(),
            condition_waiters: Vec::new(),
            next_token: 0,
        }
    }

    pub(crate) async fn run(mut self) {
        for remote in self.remotes.clone().into_iter().cycle() {
            self.shared.connecting(remote.to_string());
            let why = match self.connection(&remote).await {
                Flow::Lost(why) => why,
                Flow::Ended => break,
            };
            self.session.disconnected(&why);
            self.drain_events();
            self.shared.lost(why);
            let delay = self.backoff.next_delay((self.random)());
            if self.serve_offline(sleep(delay)).await.is_none() {
                break;
            }
        }
        self.shared.end();
    }

    /// One connection, from the first packet to the last.
    async fn connection(&mut self, remote: &Remote) -> Flow {
        let tls = self.tls.clone();
        let attempt = timeout(self.connect_timeout, connect(remote, tls.as_ref()));
        let stream = match self.serve_offline(attempt).await {
            None => return Flow::Ended,
            Some(Err(_)) => return Flow::Lost(LinkError::ConnectTimeout),
            Some(Ok(Err(error))) => return Flow::Lost(LinkError::Connect(error)),
            Some(Ok(Ok(stream))) => stream,
        };
        let mut connection = Connection::new(stream, self.limits);
        self.session.connected(Instant::now());
        loop {
            if let Err(flow) = self.step(&mut connection).await {
                return flow;
            }
        }
    }

    async fn step(&mut self, connection: &mut Connection<Box<dyn ByteStream>>) -> Result<(), Flow> {
        self.send_waiting();
        while let Some(bytes) = self.session.poll_send() {
            connection.queue_bytes(&bytes).map_err(|_| LinkError::Congested)?;
        }
        let has_room = self.waiting.len() < WAITING_MAX;
        let due = self.session.poll_timeout();
        let dropped = Arc::clone(&self.dropped);
        tokio::select! {
            biased;
            read = connection.read_some() => {
                // What arrived before the end still counts.
                let ended = read.map_err(LinkError::from);
                if ended.is_ok() {
                    self.session.heard(Instant::now());
                }
                while let Some(frame) = connection.next_frame().map_err(LinkError::from)? {
                    self.session.handle_frame(&frame)?;
                    self.drain_events();
                }
                ended?;
            }
            // Before new requests: they may have been made in the belief that the dropped one will not happen.
            () = dropped.notified() => self.cancel_dropped(),
            command = self.commands.recv(), if has_room => self.take_command(command.ok_or(Flow::Ended)?),
            () = sleep_until(due.unwrap_or_else(far_away).into()), if due.is_some() => {
                self.session.handle_timeout(Instant::now())?;
            }
        }
        self.drain_events();
        Ok(())
    }

    /// Does what can be done without a connection until `until` is ready; `None` when nobody is interested any more.
    async fn serve_offline<F: Future>(&mut self, until: F) -> Option<F::Output> {
        tokio::pin!(until);
        loop {
            let has_room = self.waiting.len() < WAITING_MAX;
            let dropped = Arc::clone(&self.dropped);
            tokio::select! {
                done = &mut until => return Some(done),
                () = dropped.notified() => self.cancel_dropped(),
                command = self.commands.recv(), if has_room => self.take_command(command?),
            }
        }
    }

    fn take_command(&mut self, command: Command) {
        match command {
            Command::Request { method, params, answer } => {
                self.waiting.push_back(Waiting { method, params, answer });
            }
            Command::SetCondition { table, condition, applied } => {
                if self.condition_waiters.len() < CONDITION_WAITERS_MAX {
                    self.condition_waiters.push(applied);
                    self.session.set_condition(&table, condition);
                } else {
                    // The caller may have gone meanwhile; then nobody needs the answer.
                    let _ = applied.send(Err(RequestError::Busy));
                }
            }
            Command::Lock { name, steal } => self.session.lock(&name, steal),
            Command::Unlock { name } => self.session.unlock(&name),
        }
    }

    fn send_waiting(&mut self) {
        while self.session.accepts_requests()
            && let Some(request) = self.waiting.pop_front()
        {
            if request.answer.is_closed() {
                continue;
            }
            let token = Token(self.next_token);
            self.next_token += 1;
            debug_assert!(self.in_flight.len() <= IN_FLIGHT_MAX);
            self.in_flight.insert(token, request.answer);
            self.session.request(token, &request.method, &request.params);
        }
    }

    fn cancel_dropped(&mut self) {
        self.waiting.retain(|request| !request.answer.is_closed());
        self.condition_waiters.retain(|applied| !applied.is_closed());
        let closed = self.in_flight.iter().filter(|(_, answer)| answer.is_closed()).map(|(token, _)| *token);
        for token in closed.collect::<Vec<_>>() {
            self.in_flight.remove(&token);
            self.session.cancel(token);
        }
    }

    fn drain_events(&mut self) {
        while let Some(event) = self.session.poll_event() {
            match event {
                SessionEvent::Changes(changes) => self.shared.changes(changes, self.session.tables().len()),
                SessionEvent::Synchronised { schema_version, continued } => {
                    self.backoff.reset();
                    self.shared.synchronised(schema_version, continued, self.session.monitor_method());
                }
                SessionEvent::Answer(token, answer) => {
                    if let Some(waiting) = self.in_flight.remove(&token) {
                        // The caller may have gone meanwhile; then nobody needs the answer.
                        let _ = waiting.send(answer);
                    }
                }
                SessionEvent::ConditionsApplied => {
                    for applied in self.condition_waiters.drain(..) {
                        let _ = applied.send(Ok(()));
                    }
                }
                SessionEvent::Lock { name, held } => self.shared.lock(name, held),
            }
        }
    }
}

fn far_away() -> Instant {
    Instant::now() + Duration::from_secs(3600)
}
