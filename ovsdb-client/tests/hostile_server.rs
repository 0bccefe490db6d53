//! Servers that send what no server should. Each is a mock, because no real one can be made to.

#![expect(clippy::unwrap_used, reason = "a test ends where it meets what it did not expect")]

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use ovsdb_client::jsonrpc::{Connection, Limits, Message};
use ovsdb_client::{Client, Config, LinkError, Monitor, Notice, Remote, Watcher, table};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

table! {
    struct Port in "Port" {
        name: String,
    }
}

const WITHIN: Duration = Duration::from_secs(20);
const ROW: &str = "00000000-0000-0000-0000-000000000001";

/// Where in a connection the hostile bytes come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Greeting,
    Schema,
    Monitor,
    Update,
}

/// A server that is well behaved on every second connection, and on the others sends `bytes` at some stage.
struct Hostile {
    path: PathBuf,
}

impl Hostile {
    fn start(stage: Stage, bytes: Vec<u8>) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("ovsdb-hostile-{}-{number}", std::process::id()));
        let listener = UnixListener::bind(&path).unwrap();
        let bytes = Arc::new(bytes);
        tokio::spawn(async move {
            let mut is_hostile = true;
            while let Ok((stream, _)) = listener.accept().await {
                let bytes = is_hostile.then(|| Arc::clone(&bytes));
                tokio::spawn(serve(stream, stage, bytes));
                is_hostile = !is_hostile;
            }
        });
        Self { path }
    }

    fn client(&self) -> (Client, Watcher) {
        let limits = Limits { message_bytes_max: 1 << 20, ..Limits::OVSDB };
        let remote = Remote::Unix(self.path.clone());
        let config = Config::new(remote, Monitor::new("db").rows::<Port>());
        let short = Duration::from_millis(5);
        Client::start(Config { limits, backoff_min: short, backoff_max: short, ..config })
    }
}

impl Drop for Hostile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn serve(stream: UnixStream, stage: Stage, hostile: Option<Arc<Vec<u8>>>) {
    let mut connection = Connection::new(stream, Limits::OVSDB);
    if stage == Stage::Greeting
        && let Some(bytes) = &hostile
    {
        return inject(connection, bytes).await;
    }
    while let Ok(message) = connection.receive().await {
        let Message::Request { id, method, .. } = message else { continue };
        let (here, result) = match &*method {
            "get_schema" => {
                let column = json!({"name": {"type": "string"}});
                (Stage::Schema, json!({"name": "db", "tables": {"Port": {"columns": column}}}))
            }
            "monitor_cond_since" => {
                let row = json!({"Port": {ROW: {"initial": {"name": "p"}}}});
                (Stage::Monitor, json!([false, "00000000-0000-0000-0000-000000000000", row]))
            }
            _ => (Stage::Update, json!([])),
        };
        if here == stage
            && let Some(bytes) = &hostile
        {
            return inject(connection, bytes).await;
        }
        connection.send(&Message::reply(id, &result).unwrap()).await.unwrap();
        if here == Stage::Monitor
            && stage == Stage::Update
            && let Some(bytes) = &hostile
        {
            return inject(connection, bytes).await;
        }
    }
}

/// Sends the bytes, and then waits for the client to leave.
async fn inject(mut connection: Connection<UnixStream>, bytes: &[u8]) {
    for piece in bytes.chunks(64 * 1024) {
        if write_raw(&mut connection, piece).await.is_err() {
            return;
        }
    }
    while connection.receive_frame().await.is_ok() {}
}

async fn write_raw(connection: &mut Connection<UnixStream>, bytes: &[u8]) -> std::io::Result<()> {
    connection.stream_mut().write_all(bytes).await
}

async fn next(watcher: &mut Watcher) -> Notice {
    timeout(WITHIN, watcher.next()).await.expect("a notice in time").expect("the client goes on")
}

/// The reason for which the hostile connection is given up. The next connection has to bring the rows.
async fn reason(stage: Stage, bytes: impl Into<Vec<u8>>) -> String {
    let hostile = Hostile::start(stage, bytes.into());
    let (client, mut watcher) = hostile.client();
    let why = loop {
        if let Notice::Lost(why) = next(&mut watcher).await {
            break why;
        }
    };
    assert!(!matches!(*why, LinkError::Silent), "it was given up for its silence, not for what it sent");
    while !client.status().is_synchronised || watcher.tables().len() != 1 {
        next(&mut watcher).await;
    }
    assert_eq!(watcher.rows::<Port>().next().unwrap().unwrap().1.name, "p");
    why.to_string()
}

fn update(row: Value) -> String {
    let txn = "00000000-0000-0000-0000-000000000000";
    json!({"method": "update3", "params": ["db", txn, {"Port": {ROW: row}}], "id": null}).to_string()
}

#[tokio::test]
async fn garbage_is_no_json_rpc() {
    for stage in [Stage::Greeting, Stage::Schema, Stage::Monitor, Stage::Update] {
        let why = reason(stage, "HTTP/1.1 400 Bad Request\r\n").await;
        assert_eq!(why, "peer does not speak JSON-RPC: expected a JSON object, found byte 0x48");
        let why = reason(stage, b"\x16\x03\x01\x02\x00".to_vec()).await;
        assert!(why.contains("0x16"), "{why}");
    }
}

#[tokio::test]
async fn a_giant_message_is_refused_before_it_is_held() {
    let mut giant = br#"{"id":1,"result":""#.to_vec();
    giant.resize(4 << 20, b'x');
    for stage in [Stage::Greeting, Stage::Schema, Stage::Monitor, Stage::Update] {
        let why = reason(stage, giant.clone()).await;
        assert!(why.contains("longer than 1048576 bytes"), "{why}");
    }
}

#[tokio::test]
async fn deep_nesting_is_refused_before_it_is_parsed() {
    let deep = format!(r#"{{"id":1,"result":{}"#, "[".repeat(500_000));
    let why = reason(Stage::Monitor, deep).await;
    assert!(why.contains("deeper than 100 levels"), "{why}");
    let within = format!(r#"{{"id":1,"result":{}{},"error":null}}"#, "[".repeat(98), "]".repeat(98));
    let why = reason(Stage::Schema, within).await;
    assert!(why.contains("malformed schema"), "{why}");
}

#[tokio::test]
async fn half_a_utf8_character_is_malformed() {
    let why = reason(Stage::Schema, b"{\"id\":1,\"result\":\"\xc3\",\"error\":null}".to_vec()).await;
    assert!(why.contains("malformed message"), "{why}");
    let row = update(json!({"modify": {"name": "é"}})).into_bytes();
    let broken: Vec<u8> = row.into_iter().filter(|byte| *byte != 0xa9).collect();
    let why = reason(Stage::Update, broken).await;
    assert!(why.contains("malformed message"), "{why}");
}

#[tokio::test]
async fn values_of_the_wrong_type_are_malformed_and_change_nothing() {
    for row in [
        json!({"modify": {"name": 5}}),
        json!({"modify": {"name": ["set", ["a", "b"]]}}),
        json!({"modify": {"name": ["uuid", ROW]}}),
        json!({"modify": {"name": null}}),
        json!({"modify": ["name"]}),
        json!({"insert": {"colour": "red"}}),
        json!({"replace": {}}),
        json!(null),
    ] {
        let why = reason(Stage::Update, update(row.clone())).await;
        assert!(why.contains("malformed update"), "{row}: {why}");
    }
    for reply in
        [json!({"id": 1, "result": 5, "error": null}), json!({"id": 1, "result": null, "error": null})]
    {
        let why = reason(Stage::Schema, reply.to_string()).await;
        assert!(why.contains("malformed schema"), "{why}");
    }
}

#[tokio::test]
async fn an_end_in_the_middle_of_a_message_is_not_taken_for_its_end() {
    struct Cut(PathBuf);
    let path = std::env::temp_dir().join(format!("ovsdb-cut-{}", std::process::id()));
    let listener = UnixListener::bind(&path).unwrap();
    let cut = Cut(path);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let mut connection = Connection::new(stream, Limits::OVSDB);
            // The client may have gone; then there is nothing to cut.
            if connection.receive().await.is_ok() {
                let _ = write_raw(&mut connection, br#"{"id":1,"result":{"name":"db","tables":{"#).await;
            }
        }
    });
    let config = Config::new(Remote::Unix(cut.0.clone()), Monitor::new("db").rows::<Port>());
    let (_client, mut watcher) = Client::start(config);
    let Notice::Lost(why) = next(&mut watcher).await else { panic!("there is no connection to speak of") };
    std::fs::remove_file(&cut.0).unwrap();
    assert_eq!(why.to_string(), "connection closed by peer in the middle of a message");
}
