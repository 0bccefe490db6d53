//! Time and memory of a first synchronisation with a large database, next to `ovsdb-client dump` and to just reading.
//!
//! ```sh
//! cargo bench -p ovsdb-client --bench initial_sync -- [ROWS]      # 200000 unless told
//! ```
//!
//! It needs `ovsdb-server`, `ovsdb-tool` and `ovsdb-client` (Debian: openvswitch-common, openvswitch-switch) and a temporary
//! directory. Rows are like those of OVN's Logical_Flow table. Each reader is a process of its own.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ovsdb_client::jsonrpc::{Connection, Limits, Message};
use ovsdb_client::{Client, Columns, Config, Monitor, Remote, Transaction, Uuid, table};
use serde_json::json;
use tokio::net::UnixStream;

const SCHEMA: &str = r#"{"name": "Bench", "version": "1.0.0", "tables": {"Logical_Flow": {"isRoot": true, "columns": {
    "logical_datapath": {"type": {"key": "uuid", "min": 0}},
    "pipeline": {"type": "string"}, "table_id": {"type": "integer"}, "priority": {"type": "integer"},
    "match": {"type": "string"}, "actions": {"type": "string"},
    "tags": {"type": {"key": "string", "value": "string", "min": 0, "max": "unlimited"}},
    "external_ids": {"type": {"key": "string", "value": "string", "min": 0, "max": "unlimited"}}}}}}"#;

table! {
    struct LogicalFlow in "Logical_Flow" {
        logical_datapath: Option<Uuid>,
        pipeline: String,
        table_id: i64,
        priority: i64,
        matches: String => "match",
        actions: String,
        external_ids: BTreeMap<String, String>,
    }
}

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

struct Server {
    process: Child,
    dir: PathBuf,
}

impl Server {
    fn start() -> Outcome<Self> {
        let dir = std::env::temp_dir().join(format!("ovsdb-bench-{}", std::process::id()));
        fs::create_dir_all(&dir)?;
        fs::write(dir.join("schema"), SCHEMA)?;
        let created =
            Command::new("ovsdb-tool").arg("create").arg(dir.join("db")).arg(dir.join("schema")).status()?;
        if !created.success() {
            return Err("ovsdb-tool cannot create a database".into());
        }
        let mut command = Command::new("ovsdb-server");
        command.arg(format!("--remote=punix:{}", dir.join("sock").display()));
        command.arg(format!("--unixctl={}", dir.join("ctl").display())).arg(dir.join("db"));
        let process = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn()?;
        Ok(Self { process, dir })
    }

    fn socket(&self) -> PathBuf {
        self.dir.join("sock")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Whatever fails here, the process ends soon and the directory is a temporary one.
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

async fn fill(socket: &Path, rows: usize) -> Outcome {
    let config = Config::new(Remote::Unix(socket.into()), Monitor::new("Bench"));
    let (client, _watcher) = Client::start(Config { probe_interval: None, ..config });
    let ids = BTreeMap::from([("source", "northd.c:1234"), ("stage-name", "ls_in_port_sec_l2")]);
    for first in (0..rows).step_by(5000) {
        let mut transaction = Transaction::new();
        for row in first..rows.min(first + 5000) {
            let matches = format!(
                "inport == \"lsp{row}\" && eth.src == 0a:00:00:{:02x}:{:02x}:01 && ip4.dst == 10.0.0.0/8",
                row >> 8 & 255,
                row & 255
            );
            let columns = Columns::new().set("pipeline", "ingress").set("table_id", (row % 30) as i64);
            let columns = columns.set("priority", 50).set("match", matches).set("external_ids", ids.clone());
            transaction.insert(
                "Logical_Flow",
                columns
                    .set("actions", "reg0[15] = 1; next;")
                    .set("logical_datapath", Some(Uuid::from_u128(row as u128))),
            );
        }
        client.transact(&transaction).await?;
    }
    Ok(())
}

/// What just reading the reply costs: most of it is the server's time.
async fn read_only(socket: &Path) -> Outcome<usize> {
    let mut connection = Connection::new(UnixStream::connect(socket).await?, Limits::OVSDB);
    let columns =
        ["logical_datapath", "pipeline", "table_id", "priority", "match", "actions", "external_ids"];
    let params = json!(["Bench", "bench", {"Logical_Flow": [{"columns": columns}]}, Uuid::nil().to_string()]);
    connection.send(&Message::request(1, "monitor_cond_since", &params)?).await?;
    Ok(connection.receive_frame().await?.len())
}

async fn synchronise(socket: &Path) -> Outcome<usize> {
    let monitor = Monitor::new("Bench").rows::<LogicalFlow>();
    let config = Config::new(Remote::Unix(socket.into()), monitor);
    let (_client, mut watcher) = Client::start(Config { probe_interval: None, ..config });
    Ok(watcher.synchronised().await?.len())
}

/// The largest resident size of a process so far, in KiB.
fn peak_kib(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// Runs a reader, and gives its time and largest size.
fn measure(mut command: Command) -> Outcome<(Duration, u64)> {
    let begin = Instant::now();
    let mut process = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn()?;
    let mut peak = 0;
    loop {
        peak = peak.max(peak_kib(process.id()).unwrap_or(0));
        if let Some(status) = process.try_wait()? {
            let time = begin.elapsed();
            return if status.success() {
                Ok((time, peak))
            } else {
                Err(format!("{command:?}: {status}").into())
            };
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn compare(rows: usize, runtime: &tokio::runtime::Runtime) -> Outcome {
    let server = Server::start()?;
    let begin = Instant::now();
    while !server.socket().exists() {
        if begin.elapsed() > Duration::from_secs(30) {
            return Err("ovsdb-server does not listen".into());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    runtime.block_on(fill(&server.socket(), rows))?;
    println!("{rows} rows filled in {:.1} s", begin.elapsed().as_secs_f64());
    let this = std::env::current_exe()?;
    for round in 1..=3 {
        for (name, mode) in
            [("just reading", Some("read")), ("this client", Some("sync")), ("ovsdb-client dump", None)]
        {
            let command = match mode {
                Some(mode) => {
                    let mut command = Command::new(&this);
                    command.arg(mode).arg(server.socket());
                    command
                }
                None => {
                    let mut command = Command::new("ovsdb-client");
                    command.arg("dump").arg(format!("unix:{}", server.socket().display())).arg("Bench");
                    command
                }
            };
            let (time, peak) = measure(command)?;
            println!("round {round}  {name:<18} {:>7.2} s  {:>6} MiB", time.as_secs_f64(), peak / 1024);
        }
    }
    Ok(())
}

fn main() -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["read", socket] => runtime.block_on(read_only(Path::new(socket))).map(drop),
        ["sync", socket] => {
            let rows = runtime.block_on(synchronise(Path::new(socket)))?;
            if rows == 0 { Err("there are no rows".into()) } else { Ok(()) }
        }
        words if words.contains(&"--bench") => {
            let rows = words.iter().find_map(|word| word.parse().ok()).unwrap_or(200_000);
            compare(rows, &runtime)
        }
        // `cargo test --all-targets` runs benches too.
        _ => {
            println!("run it with: cargo bench -p ovsdb-client --bench initial_sync -- [ROWS]");
            Ok(())
        }
    }
}
