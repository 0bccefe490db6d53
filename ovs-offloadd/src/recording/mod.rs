//! `ovs-offloadctl record`: fetches the flow table's history from the daemon and writes it to a file.
//!
//! `docs/recording.md` has the format. What is recorded is the engine's business; see [`offload_engine::recording`].

mod anonymise;
mod file;
mod session;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use clap::Args;
use policies::Micros;
use policies::recording::{self, Decoder, Ending, Malformed, Record};
use serde::Serialize;

pub use anonymise::Anonymiser;
pub use file::{OtherVersion, Reader, Writer, is_recording};
pub(crate) use session::answer;
use session::{Part, Started};

use crate::io::unixctl::{Client, CommandError};

/// Time between two questions to the daemon.
const ASK_EVERY: Duration = Duration::from_millis(250);
/// Time after which what was recorded is put on file: a machine that fails loses no more.
const FLUSH_EVERY: Duration = Duration::from_secs(5);

/// What to record, and where to.
#[derive(Debug, Clone, PartialEq, Args)]
pub struct RecordArgs {
    /// File to write; one that is there is replaced
    pub file: PathBuf,
    /// How long to record [default: until Ctrl-C]
    #[arg(long = "for", value_name = "TIME", value_parser = span)]
    pub duration: Option<Micros>,
    /// Replace addresses, and names of ports, interfaces and tenants, by others; prefixes that addresses share stay shared
    #[arg(long)]
    pub anonymise: bool,
}

fn span(text: &str) -> Result<Micros, policies::NotAQuantity> {
    text.parse()
}

/// What was recorded so far.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Recorded {
    /// How long that took, in seconds.
    pub recorded_s: f64,
    /// The daemon's epochs in that time.
    pub epochs: u64,
    /// Megaflows in the recording at the end.
    pub flows: u32,
    /// Megaflows that were described: those that appeared, and those that changed.
    pub described: u64,
    /// The file's length.
    pub file_bytes: u64,
    /// Epochs that are part of another one, and the most megaflows left out at a time, since the daemon had no room.
    pub epochs_merged: u64,
    /// See above.
    pub left_out_max: u32,
    /// Whether it was stopped before its time was up.
    pub interrupted: bool,
}

impl Recorded {
    /// For people.
    pub fn sentence(&self, file: &Path) -> String {
        let mut text = format!(
            "{:.1} s recorded in {} epochs: {} flows described, {} there at the end; {} has {} bytes",
            self.recorded_s,
            self.epochs,
            self.described,
            self.flows,
            file.display(),
            self.file_bytes
        );
        if self.epochs_merged > 0 || self.left_out_max > 0 {
            let _ = write!(
                text,
                "\nNot all of it could be kept: {} epochs are part of later ones, and at most {} flows at a time were left out",
                self.epochs_merged, self.left_out_max
            );
        }
        text
    }
}

/// Why a recording came to nothing, or ended early.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The daemon, before anything was recorded.
    #[error(transparent)]
    Start(CommandError),
    /// The daemon, later.
    #[error(
        "the recording ended after {after}: {why}; {file} holds what was recorded until then, and can be replayed"
    )]
    Ended {
        /// How much was recorded.
        after: Micros,
        /// What happened.
        why: String,
        /// The file.
        file: String,
    },
    /// The file.
    #[error("cannot write {path}: {error}")]
    Output {
        /// Which.
        path: String,
        /// Why.
        error: std::io::Error,
    },
    /// No random numbers.
    #[error("there are no random numbers to anonymise with: {0}")]
    Key(std::io::Error),
}

/// Takes records in and puts them on file.
#[derive(Debug)]
pub struct Sink {
    writer: Writer,
    anonymiser: Option<Anonymiser>,
    decoder: Decoder,
    unread: Vec<u8>,
    out: Vec<u8>,
    so_far: Recorded,
    past: Micros,
}

impl Sink {
    /// Writes to a file.
    pub fn new(writer: Writer, anonymiser: Option<Anonymiser>) -> Self {
        Self {
            writer,
            anonymiser,
            decoder: Decoder::new(),
            unread: Vec::new(),
            out: Vec::new(),
            so_far: Recorded::default(),
            past: Micros::ZERO,
        }
    }

    /// Takes the next bytes of the stream, which may end within a record.
    ///
    /// # Errors
    /// The file cannot be written, or, inside, the stream is malformed.
    pub fn take(&mut self, bytes: &[u8]) -> std::io::Result<Result<(), Malformed>> {
        self.unread.extend_from_slice(bytes);
        self.out.clear();
        let mut at = 0;
        let outcome = loop {
            let rest = &self.unread[at..];
            match self.decoder.read(rest) {
                Ok(Some((record, length))) => {
                    note(&mut self.so_far, &mut self.past, &record);
                    match &mut self.anonymiser {
                        Some(anonymiser) => anonymiser.write(&mut self.out, &record),
                        None => self.out.extend_from_slice(&rest[..length]),
                    }
                    at += length;
                }
                Ok(None) => break Ok(()),
                Err(malformed) => break Err(malformed),
            }
        };
        self.unread.drain(..at);
        self.writer.add(&self.out)?;
        Ok(outcome)
    }

    /// How much was recorded.
    pub fn past(&self) -> Micros {
        self.past
    }

    /// Ends the file, in order.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn finish(mut self, ending: Ending) -> std::io::Result<Recorded> {
        self.out.clear();
        recording::write(&mut self.out, &Record::End(ending));
        self.writer.add(&self.out)?;
        let file_bytes = self.writer.finish()?;
        let recorded_s = self.past.0 as f64 / 1e6;
        Ok(Recorded { recorded_s, file_bytes, interrupted: ending != Ending::TimeIsUp, ..self.so_far })
    }
}

fn note(so_far: &mut Recorded, past: &mut Micros, record: &Record<'_>) {
    match record {
        Record::Flow(_) => so_far.described += 1,
        Record::Epoch(epoch) => {
            *past = past.plus(epoch.past);
            so_far.epochs += 1;
            so_far.epochs_merged += u64::from(epoch.merged);
            so_far.left_out_max = so_far.left_out_max.max(epoch.left_out);
        }
        _ => {}
    }
}

/// Records until the time is up, until `stop` turns true, or until the daemon goes away. `progress` is told now and then how
/// much was recorded and how many megaflows there are.
///
/// # Errors
/// See [`RecordError`]. Whatever happens, the file is left readable.
pub async fn run(
    args: &RecordArgs,
    client: &mut Client,
    limit: Duration,
    stop: &AtomicBool,
    progress: &mut (dyn FnMut(Micros, u32) + Send),
) -> Result<Recorded, RecordError> {
    let output = |error| RecordError::Output { path: args.file.display().to_string(), error };
    let anonymiser = if args.anonymise { Some(Anonymiser::new(random_key()?)) } else { None };
    let session = start(client, limit).await.map_err(RecordError::Start)?;
    let mut fetch = Fetch { client, limit, session, read: 0 };
    let mut sink = Sink::new(Writer::create(&args.file).map_err(output)?, anonymiser);
    let begun = Instant::now();
    let mut flushed = begun;
    let ending = loop {
        let is_stopped = stop.load(Ordering::Relaxed);
        let is_over = args.duration.is_some_and(|span| begun.elapsed() >= Duration::from_micros(span.0));
        let outcome = fetch.catch_up(&mut sink, is_stopped || is_over, progress).await.map_err(output)?;
        if let Err(why) = outcome {
            let after = sink.past();
            sink.finish(Ending::DaemonGone).map_err(output)?;
            return Err(RecordError::Ended { after, why, file: args.file.display().to_string() });
        }
        if is_over || is_stopped {
            break if is_over { Ending::TimeIsUp } else { Ending::Interrupted };
        }
        if flushed.elapsed() >= FLUSH_EVERY {
            sink.writer.flush().map_err(output)?;
            flushed = Instant::now();
        }
        tokio::time::sleep(ASK_EVERY).await;
    };
    sink.finish(ending).map_err(output)
}

fn random_key() -> Result<[u8; 16], RecordError> {
    let mut key = [0; 16];
    match rustix::rand::getrandom(&mut key, rustix::rand::GetRandomFlags::empty()) {
        Ok(16) => Ok(key),
        Ok(_) => Err(RecordError::Key(std::io::ErrorKind::UnexpectedEof.into())),
        Err(error) => Err(RecordError::Key(error.into())),
    }
}

async fn start(client: &mut Client, limit: Duration) -> Result<u64, CommandError> {
    let text = client.command("recording/start", &["--output=json"], limit).await?;
    let unreadable = |error: serde_json::Error| CommandError::Unanswered {
        socket: client.socket().to_owned(),
        why: format!("its answer cannot be read: {error}"),
    };
    serde_json::from_str::<Started>(&text).map(|started| started.session).map_err(unreadable)
}

/// A session of the daemon's, as far as it was read.
struct Fetch<'c> {
    client: &'c mut Client,
    limit: Duration,
    session: u64,
    read: u64,
}

impl Fetch<'_> {
    /// Reads all there is; the session is stopped in between, if it `is_last` time. Inside, why the recording has ended.
    async fn catch_up(
        &mut self,
        sink: &mut Sink,
        is_last: bool,
        progress: &mut (dyn FnMut(Micros, u32) + Send),
    ) -> std::io::Result<Result<(), String>> {
        let mut is_stopped = false;
        loop {
            let part = match self.read().await {
                Ok(part) => part,
                Err(why) => return Ok(Err(why)),
            };
            let records = match BASE64.decode(&part.records) {
                Ok(records) => records,
                Err(error) => return Ok(Err(format!("the daemon's answer cannot be read: {error}"))),
            };
            self.read += records.len() as u64;
            if let Err(malformed) = sink.take(&records)? {
                return Ok(Err(format!("the daemon's recording cannot be read: {malformed}")));
            }
            sink.so_far.flows = part.flows;
            progress(sink.past(), part.flows);
            // The end is asked for once more, so that the daemon knows that it arrived.
            if part.has_more || part.is_last && !records.is_empty() {
                continue;
            }
            if !is_last || part.is_last {
                return Ok(Ok(()));
            }
            // All that was kept is read, so that there is room for what was counted up to now.
            if !is_stopped {
                let session = self.session.to_string();
                if let Err(error) = self.client.command("recording/stop", &[&session], self.limit).await {
                    return Ok(Err(error.to_string()));
                }
                is_stopped = true;
            }
        }
    }

    async fn read(&mut self) -> Result<Part, String> {
        let (session, from) = (self.session.to_string(), self.read.to_string());
        let params = [session.as_str(), from.as_str(), "--output=json"];
        let text = self
            .client
            .command("recording/read", &params, self.limit)
            .await
            .map_err(|error| error.to_string())?;
        serde_json::from_str(&text).map_err(|error| format!("the daemon's answer cannot be read: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use offload_engine::{Count, Engine, Event, Megaflow, Round};
    use policies::replay::PolicyName;
    use tokio::sync::{mpsc, oneshot};

    use super::*;
    use crate::ctl::{Asked, Query, RecordingQuery, parse_request};
    use crate::io::unixctl::{Commands, Printed, Server};
    use crate::replay::{self, ReplayArgs};

    const LIMIT: Duration = Duration::from_secs(10);

    /// A daemon whose time is counted by the questions it is asked: an epoch passes with each.
    struct Daemon {
        engine: Engine,
        now: Micros,
        packets: u64,
        is_stopped: bool,
        /// Questions until it goes away.
        ends_after: Option<u32>,
    }

    impl Daemon {
        fn new() -> Self {
            let now = Micros::from_secs(100);
            let settings = offload_engine::Settings::default();
            Self { engine: Engine::new(now, settings), now, packets: 0, is_stopped: false, ends_after: None }
        }

        /// A flow of the kernel datapath counts 10 packets of 100 bytes more, and an epoch ends.
        fn epoch(&mut self) {
            self.now = self.now.plus(Micros::from_millis(500));
            self.packets += 10;
            let flow = Megaflow {
                ufid: "a8a8cb2c-1b0d-4b0b-8a7c-8b3e3b1a5a01".parse().unwrap(),
                dp: netlink_wire::Ifindex(3),
                in_port: None,
                counted: Some(Count::new(self.packets, self.packets * 100)),
                unfit: None,
                needs_chain_restore: false,
                body: None,
            };
            let mut effects = Vec::new();
            self.engine.handle(
                self.now,
                Event::Megaflow { round: Some(Round(u64::MAX)), flow: Box::new(flow) },
                &mut effects,
            );
            self.engine.handle(self.now, Event::Wake, &mut effects);
        }
    }

    type Ask = (String, Vec<String>, oneshot::Sender<Result<String, String>>);

    /// Hands questions to the daemon, which has one thread.
    struct Asks(mpsc::Sender<Ask>);

    impl Commands for Asks {
        async fn run(&self, method: String, params: Vec<String>, _: bool) -> Result<Printed, String> {
            let (reply, answer) = oneshot::channel();
            self.0.send((method, params, reply)).await.map_err(|_| "ending".to_owned())?;
            match answer.await {
                Ok(answer) => answer.map(Printed::Text),
                Err(_) => std::future::pending().await,
            }
        }
    }

    fn ask(daemon: &mut Daemon, method: &str, params: &[String]) -> Result<String, String> {
        let Asked { query, .. } = parse_request(method, params).map_err(|refused| refused.0)?;
        let Query::Recording(query) = query else { return Err("not a recording".to_owned()) };
        match query {
            RecordingQuery::Read { .. } if !daemon.is_stopped => daemon.epoch(),
            RecordingQuery::Stop { .. } => daemon.is_stopped = true,
            _ => {}
        }
        answer(&mut daemon.engine, daemon.now, &query)
    }

    struct Scene {
        directory: tempfile::TempDir,
        daemon: Daemon,
        asked: mpsc::Receiver<Ask>,
        client: Client,
    }

    impl Scene {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let socket = directory.path().join("s.ctl");
            let server = Server::bind(&socket, 4).unwrap();
            let (asks, asked) = mpsc::channel(1);
            tokio::spawn(async move { server.serve(Arc::new(Asks(asks))).await });
            Self { directory, daemon: Daemon::new(), asked, client: Client::new(socket) }
        }

        fn args(&self, duration: Option<Micros>) -> RecordArgs {
            RecordArgs { file: self.directory.path().join("table.rec"), duration, anonymise: false }
        }

        async fn record(&mut self, args: &RecordArgs, stop: bool) -> Result<Recorded, RecordError> {
            let Self { daemon, asked, client, .. } = self;
            let limit = if daemon.ends_after.is_some() { Duration::from_millis(200) } else { LIMIT };
            let serve = async {
                while let Some((method, params, reply)) = asked.recv().await {
                    if daemon.ends_after == Some(0) {
                        continue;
                    }
                    daemon.ends_after = daemon.ends_after.map(|left| left - 1);
                    let _ = reply.send(ask(daemon, &method, &params));
                }
            };
            let (stop, mut progress) = (AtomicBool::new(stop), |_, _| ());
            tokio::select! {
                recorded = run(args, client, limit, &stop, &mut progress) => recorded,
                () = serve => panic!("nobody asks any more"),
            }
        }
    }

    fn replay_of(file: &Path) -> Result<replay::Report, String> {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            args: ReplayArgs,
        }
        let args = <Line as clap::Parser>::try_parse_from(["replay", file.to_str().unwrap()]).unwrap().args;
        replay::run(&args, &AtomicBool::new(false), &mut |_| ()).map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn what_the_daemon_counted_while_it_was_recorded_is_what_a_replay_counts() {
        let mut scene = Scene::new();
        let args = scene.args(Some(Micros::from_millis(600)));
        let recorded = scene.record(&args, false).await.unwrap();
        assert!(recorded.epochs >= 3 && !recorded.interrupted, "{recorded:?}");
        assert_eq!((recorded.flows, recorded.described), (1, 1));
        let report = replay_of(&args.file).unwrap();
        let counted = scene.daemon.engine.status(Micros::ZERO).totals.total();
        assert_eq!((report.packets_total, report.bytes_total), (counted.packets, counted.bytes));
        // Nobody can place a flow of the kernel datapath.
        assert_eq!(report.policies[PolicyName::Oracle.word()].bytes_in_hardware, 0);
        assert_eq!(report.note, None);
        assert_eq!(scene.daemon.engine.recordings(), 0, "the session has ended");
    }

    #[tokio::test]
    async fn an_interrupted_recording_is_kept_and_says_so() {
        let mut scene = Scene::new();
        let args = scene.args(None);
        let recorded = scene.record(&args, true).await.unwrap();
        assert!(recorded.interrupted);
        let report = replay_of(&args.file).unwrap();
        assert!(
            report.note.as_ref().unwrap().starts_with("the recording was interrupted after"),
            "{report:?}"
        );
    }

    #[tokio::test]
    async fn a_daemon_that_goes_away_leaves_a_file_that_can_be_replayed() {
        let mut scene = Scene::new();
        scene.daemon.ends_after = Some(4);
        let args = scene.args(Some(Micros::from_secs(3_600)));
        let sentence = scene.record(&args, false).await.unwrap_err().to_string();
        assert!(sentence.starts_with("the recording ended after 1.5 s: "), "{sentence}");
        assert!(sentence.contains("can be replayed"), "{sentence}");
        let report = replay_of(&args.file).unwrap();
        assert_eq!(report.packets_total, 30);
        let note = report.note.unwrap();
        assert_eq!(note, "the recording ends after 1.5 s, when the daemon went away");
        // A daemon that is not there at all.
        let mut nobody = Client::new(scene.directory.path().join("none.ctl"));
        let (stop, mut progress) = (AtomicBool::new(false), |_, _| ());
        let outcome = run(&args, &mut nobody, LIMIT, &stop, &mut progress).await;
        assert!(matches!(outcome, Err(RecordError::Start(_))), "{outcome:?}");
    }

    #[tokio::test]
    async fn a_file_is_read_up_to_where_it_is_cut_or_damaged() {
        let mut scene = Scene::new();
        let args = scene.args(Some(Micros::from_secs(2)));
        scene.record(&args, false).await.unwrap();
        let whole = std::fs::read(&args.file).unwrap();
        let all = replay_of(&args.file).unwrap().packets_total;
        let path = scene.directory.path().join("other.rec");
        for length in 0..whole.len() {
            std::fs::write(&path, &whole[..length]).unwrap();
            match replay_of(&path) {
                Ok(report) => {
                    // What closes the frame may be missing: nothing is missing then.
                    let is_whole = report.note.is_none() && report.packets_total == all;
                    let note = report.note.unwrap_or_default();
                    assert!(is_whole || note.starts_with("the file is cut short after"), "{length}: {note}");
                    assert!(report.packets_total <= all);
                }
                Err(sentence) => assert!(!sentence.contains('\n'), "{sentence}"),
            }
        }
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x10;
            std::fs::write(&path, &damaged).unwrap();
            match replay_of(&path) {
                Ok(report) => {
                    let is_told = report.note.is_some() || report.packets_total == all;
                    assert!(is_told, "byte {at}: {report:?}");
                }
                Err(sentence) => assert!(!sentence.contains('\n'), "{sentence}"),
            }
        }
        let next = [b"ovs-offloadd recording 3\n", &whole[25..]].concat();
        std::fs::write(&path, next).unwrap();
        assert!(replay_of(&path).unwrap_err().contains("is a recording of version 3"));
    }
}
