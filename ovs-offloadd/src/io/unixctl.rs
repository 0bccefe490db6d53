//! OVS's control protocol, both ends: JSON-RPC 1.0 over a unix socket, strings in, a string out.
//!
//! Source: Open vSwitch, `lib/unixctl.c`. A server answers one request at a time per connection.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ovsdb_client::jsonrpc::{Closed, Connection, Limits, Message};
use thiserror::Error;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tracing::{debug, warn};

use crate::config::show_duration;

/// Why a command got no good answer.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CommandError {
    /// The server was not reached; it did not get the command.
    #[error("cannot reach {}: {why}", socket.display())]
    Unreachable {
        /// The socket.
        socket: PathBuf,
        /// Why.
        why: String,
    },
    /// The server may have got the command, and may yet carry it out.
    #[error("no answer from {}: {why}", socket.display())]
    Unanswered {
        /// The socket.
        socket: PathBuf,
        /// Why.
        why: String,
    },
    /// The server refused, in its own words.
    #[error("{0}")]
    Refused(String),
}

/// A client of one control socket.
#[derive(Debug)]
pub struct Client {
    socket: PathBuf,
    connection: Option<Connection<UnixStream>>,
    next_id: u64,
}

impl Client {
    /// A client that connects with its first command.
    pub fn new(socket: PathBuf) -> Self {
        Self { socket, connection: None, next_id: 0 }
    }

    /// The socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Sends a command and waits for its answer, `limit` at most.
    ///
    /// # Errors
    /// Unless the server refused, the connection is given up and the next command opens another one.
    pub async fn command(
        &mut self,
        method: &str,
        params: &[&str],
        limit: Duration,
    ) -> Result<String, CommandError> {
        let id = self.next_id;
        self.next_id += 1;
        let request = Message::request(id, method, params)
            .map_err(|error| CommandError::Refused(format!("{method}: {error}")))?;
        // Taken, so that a dropped or failed exchange never leaves a connection out of step behind.
        if let Some(mut connection) = self.connection.take()
            && let Ok(Ok(())) = timeout(limit, connection.send(&request)).await
        {
            return self.answer(connection, id, limit).await;
        }
        // A connection that no longer takes anything has not delivered the command either: the server restarted.
        let mut connection = self.connect(limit).await?;
        match timeout(limit, connection.send(&request)).await {
            Ok(Ok(())) => self.answer(connection, id, limit).await,
            Ok(Err(closed)) => Err(self.unanswered(closed.to_string())),
            Err(_) => Err(self.unanswered("it does not read".to_owned())),
        }
    }

    async fn connect(&self, limit: Duration) -> Result<Connection<UnixStream>, CommandError> {
        let why = match timeout(limit, UnixStream::connect(&self.socket)).await {
            Ok(Ok(stream)) => return Ok(Connection::new(stream, Limits::UNIXCTL)),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no connection within {}", show_duration(limit)),
        };
        Err(CommandError::Unreachable { socket: self.socket.clone(), why })
    }

    async fn answer(
        &mut self,
        mut connection: Connection<UnixStream>,
        id: u64,
        limit: Duration,
    ) -> Result<String, CommandError> {
        match timeout(limit, reply_to(&mut connection, id)).await {
            Ok(Ok(outcome)) => {
                self.connection = Some(connection);
                outcome.map_err(CommandError::Refused)
            }
            Ok(Err(why)) => Err(self.unanswered(why)),
            Err(_) => Err(self.unanswered(format!("not within {}", show_duration(limit)))),
        }
    }

    fn unanswered(&self, why: String) -> CommandError {
        CommandError::Unanswered { socket: self.socket.clone(), why }
    }
}

async fn reply_to(
    connection: &mut Connection<UnixStream>,
    id: u64,
) -> Result<Result<String, String>, String> {
    loop {
        match connection.receive().await.map_err(|closed| closed.to_string())? {
            Message::Reply { id: answered, outcome } if answered == id => {
                return match outcome {
                    Ok(result) => Ok(Ok(text_of(result.get())?)),
                    Err(error) => Ok(Err(text_of(error.get())?)),
                };
            }
            other => debug!(?other, "control socket sent something that was not asked for"),
        }
    }
}

fn text_of(json: &str) -> Result<String, String> {
    // A null result is an empty answer; anything but a string would be another protocol.
    serde_json::from_str::<Option<String>>(json)
        .map(Option::unwrap_or_default)
        .map_err(|_| "the answer is not a string: this is not an Open vSwitch control socket".to_owned())
}

/// Carries out commands for a [`Server`].
pub trait Commands: Send + Sync + 'static {
    /// Answers a command: what it prints, or one sentence that says why not.
    ///
    /// `json` is what the connection asked for with `set-options --format json` (ovs-appctl `--format json`, Open
    /// vSwitch 3.4 and later).
    fn run(
        &self,
        method: String,
        params: Vec<String>,
        json: bool,
    ) -> impl Future<Output = Result<Printed, String>> + Send;
}

/// What a command prints.
#[derive(Debug, Clone, PartialEq)]
pub enum Printed {
    /// Text.
    Text(String),
    /// A document, for a connection that asked for JSON.
    Document(serde_json::Value),
}

/// A control socket that answers commands; its file is removed when dropped.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    path: PathBuf,
    clients: Arc<Semaphore>,
}

impl Server {
    /// Listens at `path` for at most `clients_max` clients at a time.
    ///
    /// A socket file that nobody listens on is replaced.
    ///
    /// # Errors
    /// Those of the file system; `AddrInUse` if somebody listens there, or something else stands there.
    pub fn bind(path: &Path, clients_max: usize) -> io::Result<Self> {
        use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
        let left_behind = std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket())
            && std::os::unix::net::UnixStream::connect(path).is_err();
        if left_behind {
            std::fs::remove_file(path)?;
        }
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o770))?;
        Ok(Self { listener, path: path.to_owned(), clients: Arc::new(Semaphore::new(clients_max)) })
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Answers clients for ever.
    pub async fn serve<C: Commands>(&self, commands: Arc<C>) {
        loop {
            let Ok(permit) = Arc::clone(&self.clients).acquire_owned().await else { return };
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let commands = Arc::clone(&commands);
                    tokio::spawn(async move {
                        answer(stream, commands.as_ref()).await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    // Out of descriptors, most likely; accepting at once again would spin.
                    warn!(%error, "control socket cannot accept a client");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Longest silence of a client before its place is given to another.
const CLIENT_IDLE_MAX: Duration = Duration::from_secs(300);

async fn answer<C: Commands>(stream: UnixStream, commands: &C) {
    let mut connection = Connection::new(stream, Limits::UNIXCTL);
    let mut json = false;
    loop {
        let message = match timeout(CLIENT_IDLE_MAX, connection.receive()).await {
            Ok(Ok(message)) => message,
            Ok(Err(Closed::ByPeer)) | Err(_) => return,
            Ok(Err(closed)) => {
                debug!(%closed, "control client gone");
                return;
            }
        };
        let params = message.params_as::<Vec<String>>();
        let Message::Request { id, method, .. } = message else {
            debug!("control client sent no request");
            return;
        };
        let outcome = match params {
            Ok(params) if method == "set-options" => set_options(&params, &mut json),
            Ok(params) => commands.run(method.into_owned(), params, json).await,
            Err(_) => Err(format!("\"{method}\" command has non-string argument")),
        };
        let reply = match &outcome {
            Ok(Printed::Text(text)) if json => {
                Message::reply(id, &serde_json::json!({"reply-format": "plain", "reply": text}))
            }
            Ok(Printed::Text(text)) => Message::reply(id, text),
            Ok(Printed::Document(document)) => Message::reply(id, document),
            Err(sentence) => Message::error(id, sentence),
        };
        let Ok(reply) = reply else { return };
        match timeout(CLIENT_IDLE_MAX, connection.send(&reply)).await {
            Ok(Ok(())) => {}
            _ => return,
        }
    }
}

fn set_options(params: &[String], json: &mut bool) -> Result<Printed, String> {
    let words: Vec<&str> = params.iter().flat_map(|param| param.split('=')).collect();
    *json = match words[..] {
        ["--format" | "-f", "json"] => true,
        ["--format" | "-f", "text"] => false,
        ["--format" | "-f", other] => return Err(format!("option format has invalid value {other}")),
        _ => return Err("\"set-options\" command takes --format text|json".to_owned()),
    };
    Ok(Printed::Text(String::new()))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Parrot;

    impl Commands for Parrot {
        async fn run(&self, method: String, params: Vec<String>, json: bool) -> Result<Printed, String> {
            match method.as_str() {
                "say" => Ok(Printed::Text(params.join("|"))),
                "tell" if json => Ok(Printed::Document(serde_json::json!(params))),
                "hang" => std::future::pending().await,
                _ => Err(format!("{method}: no")),
            }
        }
    }

    const LIMIT: Duration = Duration::from_secs(10);

    async fn parrot(directory: &Path, clients_max: usize) -> PathBuf {
        let path = directory.join("s.ctl");
        let server = Server::bind(&path, clients_max).unwrap();
        tokio::spawn(async move { server.serve(Arc::new(Parrot)).await });
        path
    }

    #[tokio::test]
    async fn an_answer_and_a_refusal_come_back_as_text() {
        let directory = tempfile::tempdir().unwrap();
        let mut client = Client::new(parrot(directory.path(), 4).await);
        assert_eq!(client.command("say", &["a", "ü \"q\""], LIMIT).await, Ok("a|ü \"q\"".into()));
        assert_eq!(client.command("x", &[], LIMIT).await, Err(CommandError::Refused("x: no".into())));
        assert_eq!(client.command("say", &[], LIMIT).await, Ok(String::new()));
    }

    #[tokio::test]
    async fn a_command_without_an_answer_does_not_spoil_the_next_one() {
        let directory = tempfile::tempdir().unwrap();
        let mut client = Client::new(parrot(directory.path(), 4).await);
        let unanswered = client.command("hang", &[], Duration::from_millis(20)).await;
        assert!(matches!(unanswered, Err(CommandError::Unanswered { .. })), "{unanswered:?}");
        assert_eq!(client.command("say", &["b"], LIMIT).await, Ok("b".into()));
    }

    #[tokio::test]
    async fn a_server_that_came_back_is_found_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s.ctl");
        let mut client = Client::new(path.clone());
        let nobody = client.command("say", &[], LIMIT).await;
        assert!(matches!(nobody, Err(CommandError::Unreachable { .. })), "{nobody:?}");
        for round in ["1", "2"] {
            // The socket file that a killed daemon leaves behind.
            drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
            let server = Server::bind(&path, 1).unwrap();
            let serving = tokio::spawn(async move {
                let (stream, _) = server.listener.accept().await.unwrap();
                answer(stream, &Parrot).await;
            });
            assert_eq!(client.command("say", &[round], LIMIT).await, Ok(round.into()));
            serving.abort();
            assert!(serving.await.unwrap_err().is_cancelled());
        }
    }

    #[tokio::test]
    async fn a_socket_in_use_is_not_taken_over() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s.ctl");
        let _first = Server::bind(&path, 1).unwrap();
        assert_eq!(Server::bind(&path, 1).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }

    #[tokio::test]
    async fn clients_beyond_the_limit_wait_and_are_served_later() {
        let directory = tempfile::tempdir().unwrap();
        let path = parrot(directory.path(), 1).await;
        let mut first = Client::new(path.clone());
        assert_eq!(first.command("say", &["1"], LIMIT).await, Ok("1".into()));
        let mut second = Client::new(path);
        let (answer, ()) = tokio::join!(second.command("say", &["2"], LIMIT), async { drop(first) });
        assert_eq!(answer, Ok("2".into()));
    }

    #[tokio::test]
    async fn what_is_not_json_ends_only_its_own_connection() {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let directory = tempfile::tempdir().unwrap();
        let path = parrot(directory.path(), 4).await;
        for nonsense in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"{\"id\":1,\"result\":[],\"error\":null}"] {
            let mut stream = UnixStream::connect(&path).await.unwrap();
            stream.write_all(nonsense).await.unwrap();
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest).await;
            assert!(rest.is_empty());
        }
        assert_eq!(Client::new(path).command("say", &["d"], LIMIT).await, Ok("d".into()));
    }

    #[tokio::test]
    async fn a_non_string_argument_is_refused_as_open_vswitch_does() {
        let directory = tempfile::tempdir().unwrap();
        let path = parrot(directory.path(), 4).await;
        let stream = UnixStream::connect(&path).await.unwrap();
        let mut connection = Connection::new(stream, Limits::UNIXCTL);
        connection.send(&Message::request(7, "say", &[1]).unwrap()).await.unwrap();
        let Message::Reply { outcome: Err(error), .. } = connection.receive().await.unwrap() else {
            panic!("no refusal")
        };
        assert_eq!(text_of(error.get()).unwrap(), "\"say\" command has non-string argument");
    }

    #[tokio::test]
    async fn a_connection_can_ask_for_json() {
        let directory = tempfile::tempdir().unwrap();
        let stream = UnixStream::connect(parrot(directory.path(), 4).await).await.unwrap();
        let mut connection = Connection::new(stream, Limits::UNIXCTL);
        let mut ask = async |method: &'static str, params: &[&str]| {
            connection.send(&Message::request(0, method, params).unwrap()).await.unwrap();
            match connection.receive().await.unwrap() {
                Message::Reply { outcome: Ok(result), .. } => result.get().to_owned(),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(ask("set-options", &["--format", "json"]).await, r#"{"reply":"","reply-format":"plain"}"#);
        assert_eq!(ask("tell", &["a"]).await, r#"["a"]"#);
        assert_eq!(ask("say", &["a"]).await, r#"{"reply":"a","reply-format":"plain"}"#);
        ask("set-options", &["--format=text"]).await;
        assert_eq!(ask("say", &["a"]).await, "\"a\"");
    }
}
