//! A real ovsdb-server of a test's own, and what stands between it and a client.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use lab_tests::harness::{Failure, Lab, Outcome, output, run, wait_until};
use ovsdb_client::transport::SocketPath;
use ovsdb_client::{Remote, TlsFiles};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;

const STARTS_WITHIN: Duration = Duration::from_secs(30);

/// A schema with a column of every kind.
pub(crate) const SCHEMA: &str = r#"{"name": "Lab", "version": "1.2.3", "tables": {"Thing": {
    "isRoot": true, "indexes": [["name"]], "columns": {
        "name": {"type": "string"},
        "number": {"type": "integer"},
        "ratio": {"type": "real"},
        "flag": {"type": "boolean"},
        "maybe": {"type": {"key": "integer", "min": 0, "max": 1}},
        "tags": {"type": {"key": "string", "min": 0, "max": "unlimited"}},
        "options": {"type": {"key": "string", "value": "string", "min": 0, "max": "unlimited"}},
        "friends": {"type": {"key": {"type": "uuid", "refTable": "Thing"}, "min": 0, "max": "unlimited"}}
    }}}}"#;

/// An ovsdb-server, killed when dropped.
#[derive(Debug)]
pub(crate) struct Server {
    dir: PathBuf,
    arguments: Vec<String>,
    process: Option<Child>,
}

impl Server {
    /// A standalone database of [`SCHEMA`], served on a Unix socket.
    pub(crate) fn start(lab: &Lab) -> Outcome<Self> {
        Self::with_arguments(lab, &[])
    }

    /// The same, with more arguments for the server.
    pub(crate) fn with_arguments(lab: &Lab, arguments: &[&str]) -> Outcome<Self> {
        let schema = lab.dir().join("schema");
        fs::write(&schema, SCHEMA)?;
        Self::of_schema(lab, &schema, arguments)
    }

    /// A standalone database of a schema file.
    pub(crate) fn of_schema(lab: &Lab, schema: &Path, arguments: &[&str]) -> Outcome<Self> {
        let mut server = Self::prepare(lab, arguments);
        output(Command::new("ovsdb-tool").arg("create").arg(server.database()).arg(schema))?;
        server.launch()?;
        Ok(server)
    }

    /// A cluster of one server. It remembers its transactions, as a standalone server does not.
    pub(crate) fn of_cluster(lab: &Lab) -> Outcome<Self> {
        let schema = lab.dir().join("schema");
        fs::write(&schema, SCHEMA)?;
        let mut server = Self::prepare(lab, &[]);
        let address = format!("unix:{}", lab.dir().join("raft").display());
        let mut create = Command::new("ovsdb-tool");
        output(create.arg("create-cluster").arg(server.database()).arg(schema).arg(address))?;
        server.launch()?;
        Ok(server)
    }

    fn prepare(lab: &Lab, arguments: &[&str]) -> Self {
        let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        Self { dir: lab.dir().to_path_buf(), arguments, process: None }
    }

    fn database(&self) -> PathBuf {
        self.dir.join("conf.db")
    }

    fn socket(&self) -> PathBuf {
        self.dir.join("db.sock")
    }

    /// Where it listens.
    pub(crate) fn remote(&self) -> Remote {
        Remote::Unix(self.socket())
    }

    /// Starts the server on the database as it is.
    pub(crate) fn launch(&mut self) -> Outcome {
        // A killed server leaves its socket behind, and the wait below is for the new one.
        let _ = fs::remove_file(self.socket());
        let log = fs::File::options().create(true).append(true).open(self.dir.join("ovsdb-server.out"))?;
        let mut command = Command::new("ovsdb-server");
        command.arg("--no-chdir").arg(format!("--remote=punix:{}", self.socket().display()));
        command.arg(format!("--unixctl={}", self.dir.join("ctl").display()));
        command.args(&self.arguments).arg(self.database());
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.process = Some(command.spawn()?);
        let socket = self.socket();
        wait_until("ovsdb-server accepts connections", STARTS_WITHIN, || {
            Ok(std::os::unix::net::UnixStream::connect(SocketPath::new(&socket)?.path()).is_ok())
        })
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) -> Outcome {
        if let Some(mut process) = self.process.take() {
            process.kill()?;
            process.wait()?;
        }
        Ok(())
    }

    /// Sends a signal such as `STOP` or `CONT`.
    pub(crate) fn signal(&self, signal: &str) -> Outcome {
        let pid = self.process.as_ref().ok_or(Failure::new("ovsdb-server does not run"))?.id();
        run("kill", &[&format!("-{signal}"), &pid.to_string()]).map(drop)
    }

    /// `ovs-appctl ARGUMENTS`, to this server.
    pub(crate) fn appctl(&self, arguments: &[&str]) -> Outcome<String> {
        let mut command = Command::new("ovs-appctl");
        output(command.arg("-t").arg(self.dir.join("ctl")).args(arguments))
    }

    /// A transaction on the file of a server that does not run.
    pub(crate) fn transact_offline(&self, transaction: &str) -> Outcome<String> {
        let said = output(Command::new("ovsdb-tool").arg("transact").arg(self.database()).arg(transaction))?;
        if said.contains("\"error\"") { Err(Failure::new(said)) } else { Ok(said) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Err(failure) = self.kill() {
            eprintln!("stopping ovsdb-server: {failure}");
        }
    }
}

/// A TCP port that nobody listens on.
pub(crate) fn free_port() -> Outcome<u16> {
    run("ip", &["link", "set", "lo", "up"])?;
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Keys and certificates as `ovs-pki` makes them.
#[derive(Debug)]
pub(crate) struct Pki(PathBuf);

impl Pki {
    /// Two CAs, and a key with a certificate for the server and for the client, both signed by the first.
    pub(crate) fn make(lab: &Lab) -> Outcome<Self> {
        let pki = Self(lab.dir().to_path_buf());
        pki.run(&["init"])?;
        pki.run(&["req+sign", "server", "switch"])?;
        pki.run(&["req+sign", "client", "switch"])?;
        Ok(pki)
    }

    fn run(&self, arguments: &[&str]) -> Outcome {
        let mut command = Command::new("ovs-pki");
        command.current_dir(&self.0).arg("-d").arg(self.0.join("pki")).arg("-l").arg(self.0.join("pki.log"));
        output(command.args(arguments)).map(drop)
    }

    /// The CA that signed both.
    pub(crate) fn ca(&self) -> PathBuf {
        self.0.join("pki/switchca/cacert.pem")
    }

    /// A CA that signed neither.
    pub(crate) fn other_ca(&self) -> PathBuf {
        self.0.join("pki/controllerca/cacert.pem")
    }

    /// The client's files, with a CA to check the server against.
    pub(crate) fn client(&self, ca_cert: PathBuf) -> TlsFiles {
        let file = |name: &str| self.0.join(name);
        TlsFiles { private_key: file("client-privkey.pem"), certificate: file("client-cert.pem"), ca_cert }
    }

    /// The arguments with which a server uses its files.
    pub(crate) fn server_arguments(&self) -> [String; 3] {
        let argument = |name: &str, path: PathBuf| format!("--{name}={}", path.display());
        [
            argument("private-key", self.0.join("server-privkey.pem")),
            argument("certificate", self.0.join("server-cert.pem")),
            argument("ca-cert", self.ca()),
        ]
    }
}

/// A Unix socket in front of a server that lets only so many bytes through to the client, and then none until the server
/// closes the connection: the client sees what it would see of a server that dies at that byte.
#[derive(Debug)]
pub(crate) struct Tap {
    path: PathBuf,
    allowed: Arc<AtomicU64>,
    is_dry: Arc<AtomicBool>,
    is_cut: watch::Sender<bool>,
}

impl Tap {
    /// Stands in front of `server`, open.
    pub(crate) fn before(server: &Server) -> Outcome<Self> {
        let path = server.dir.join("tap.sock");
        let listener = UnixListener::bind(SocketPath::new(&path)?.path())?;
        let allowed = Arc::new(AtomicU64::new(u64::MAX));
        let is_dry = Arc::new(AtomicBool::new(false));
        let (is_cut, cut) = watch::channel(false);
        let (upstream, limit, dry) = (server.socket(), Arc::clone(&allowed), Arc::clone(&is_dry));
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (upstream, limit, dry) = (upstream.clone(), Arc::clone(&limit), Arc::clone(&dry));
                let mut is_cut = cut.clone();
                tokio::spawn(async move {
                    // Without a server the client's connection just closes.
                    let Ok(path) = SocketPath::new(&upstream) else { return };
                    if let Ok(server) = UnixStream::connect(path.path()).await {
                        tokio::select! {
                            () = forward(client, server, limit.load(Ordering::SeqCst), &dry) => {}
                            // An error is the end of the tap itself.
                            _ = is_cut.wait_for(|is_cut| *is_cut) => {}
                        }
                    }
                });
            }
        });
        Ok(Self { path, allowed, is_dry, is_cut })
    }

    /// Where clients connect to.
    pub(crate) fn remote(&self) -> Remote {
        Remote::Unix(self.path.clone())
    }

    /// Lets `bytes` through to each client that connects from now on.
    pub(crate) fn allow(&self, bytes: u64) {
        self.is_dry.store(false, Ordering::SeqCst);
        self.allowed.store(bytes, Ordering::SeqCst);
    }

    /// Closes every connection, and each new one at once, until it is opened again.
    pub(crate) fn cut(&self, is_cut: bool) {
        self.is_cut.send_replace(is_cut);
    }

    /// Whether a connection has used up what was allowed.
    pub(crate) fn is_dry(&self) -> bool {
        self.is_dry.load(Ordering::SeqCst)
    }
}

async fn forward(client: UnixStream, server: UnixStream, mut allowed: u64, dry: &AtomicBool) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let upwards = tokio::spawn(async move {
        // Its end is the end of the client.
        let _ = copy(&mut from_client, &mut to_server).await;
    });
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(count @ 1..) = from_server.read(&mut buffer).await {
        let passed = allowed.min(count as u64);
        allowed -= passed;
        let passed = usize::try_from(passed).unwrap_or(count);
        if to_client.write_all(&buffer[..passed]).await.is_err() {
            break;
        }
        if allowed == 0 {
            dry.store(true, Ordering::SeqCst);
        }
    }
    upwards.abort();
}
