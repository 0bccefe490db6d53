//! Commands to ovs-vswitchd, a few at a time, each with one answer.
//!
//! Whether ovs-vswitchd lives is told by the lock on its pidfile, and whether its main thread still works by its answer
//! to a question that costs it nothing.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use netlink_wire::Ufid;
use offload_engine::dpctl::FlowText;
use offload_engine::{Answer, CommandError, OpId};
use tokio::sync::{Mutex, mpsc, watch};
use tracing::debug;

use super::revalidator;
use crate::io::rundir::control_socket;
use crate::io::unixctl::{self, Client};

/// Its name in the run directory.
pub(crate) const PROGRAM: &str = "ovs-vswitchd";
/// Commands at a time: each of its connections carries one, and its main thread takes one of each per turn.
const WORKERS: usize = 4;
/// Commands that wait at most; the engine keeps fewer in flight.
const WAITING_MAX: usize = 256;
/// Time between two looks at the pidfile.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// What is said of an ovs-vswitchd that runs and does not answer.
const SILENT: &str =
    "it runs, but does not answer on its control socket: it is stopped, or its main thread is busy";
/// Looks from one question to the next.
const LOOKS_PER_QUESTION: u32 = 3;

/// A command.
#[derive(Debug)]
pub(crate) enum Command {
    /// `dpctl/get-flow`, once the revalidator rests.
    Read(Ufid),
    /// `dpctl/mod-flow`.
    Modify(Box<FlowText>),
    /// `dpctl/del-flow`.
    Delete(Ufid),
    /// `ofproto/detrace`.
    Detrace(Ufid),
}

/// What comes back.
#[derive(Debug)]
pub(crate) enum Said {
    /// The revalidator rests: a reading that was asked for may be sent on ([`Vswitchd::read`]).
    Rests(OpId, Command),
    /// The answer to a command.
    Answer(OpId, Answer),
    /// The version of the ovs-vswitchd that runs.
    Version(String),
    /// ovs-vswitchd is there, or is not, for this reason. A restart is told as both.
    Up(Result<(), String>),
}

/// The sending side.
#[derive(Debug)]
pub(crate) struct Vswitchd {
    commands: mpsc::Sender<(OpId, Command)>,
    /// Reads, which the saving of a flow's counters begins with.
    reads: mpsc::Sender<(OpId, Command)>,
}

impl Vswitchd {
    /// Starts the workers. `limit` is the longest wait for an answer, and may change.
    pub(crate) fn start(rundir: PathBuf, limit: watch::Receiver<Duration>) -> (Self, mpsc::Receiver<Said>) {
        let (commands, waiting) = mpsc::channel(WAITING_MAX);
        let (reads, early) = mpsc::channel(WAITING_MAX);
        let (say, said) = mpsc::channel(WAITING_MAX);
        let waiting = Arc::new(Mutex::new(waiting));
        for _ in 0..WORKERS {
            tokio::spawn(work(rundir.clone(), Arc::clone(&waiting), say.clone(), limit.clone()));
        }
        tokio::spawn(revalidator::hold_until_quiet(rundir.clone(), early, say.clone(), limit.clone()));
        tokio::spawn(look(rundir, say, limit));
        (Self { commands, reads }, said)
    }

    /// Sends a command; of a reading it is told first that the revalidator rests ([`Said::Rests`]).
    ///
    /// # Errors
    /// The answer at once, if too many wait.
    pub(crate) fn send(&self, op: OpId, command: Command) -> Result<(), Answer> {
        let queue = if matches!(command, Command::Read(_)) { &self.reads } else { &self.commands };
        queue.try_send((op, command)).map_err(too_many)
    }

    /// Sends on a reading, now that the revalidator rests.
    ///
    /// # Errors
    /// The answer at once, if too many wait.
    pub(crate) fn read(&self, op: OpId, command: Command) -> Result<(), Answer> {
        self.commands.try_send((op, command)).map_err(too_many)
    }
}

fn too_many(error: mpsc::error::TrySendError<(OpId, Command)>) -> Answer {
    let (_, command) = error.into_inner();
    failed(&command, CommandError::Failed("too many commands wait for ovs-vswitchd".to_owned()))
}

async fn work(
    rundir: PathBuf,
    waiting: Arc<Mutex<mpsc::Receiver<(OpId, Command)>>>,
    say: mpsc::Sender<Said>,
    limit: watch::Receiver<Duration>,
) {
    let mut client: Option<Client> = None;
    loop {
        let Some((op, command)) = waiting.lock().await.recv().await else { return };
        let limit = *limit.borrow();
        let answer = match control_socket(&rundir, PROGRAM) {
            Ok(socket) => {
                if client.as_ref().is_none_or(|client| client.socket() != socket) {
                    client = Some(Client::new(socket));
                }
                match &mut client {
                    Some(client) => carry_out(client, &command, limit).await,
                    None => failed(&command, CommandError::Lost),
                }
            }
            Err(not_running) => failed(&command, CommandError::Failed(not_running.to_string())),
        };
        if say.send(Said::Answer(op, answer)).await.is_err() {
            return;
        }
    }
}

async fn carry_out(client: &mut Client, command: &Command, limit: Duration) -> Answer {
    match command {
        Command::Read(ufid) => Answer::FlowRead(read(client, *ufid, limit).await),
        Command::Modify(flow) => {
            let key = format!("{},{}", flow.ufid, flow.key);
            done(ask(client, "dpctl/mod-flow", &[&key, &flow.actions], limit).await)
        }
        Command::Delete(ufid) => done(ask(client, "dpctl/del-flow", &[&ufid.to_string()], limit).await),
        Command::Detrace(ufid) => {
            Answer::Detraced(ask(client, "ofproto/detrace", &[&ufid.to_string()], limit).await)
        }
    }
}

/// Reads a flow in two parts. That it did not change between them is for the engine to see: a change is notified before
/// the second part is read.
async fn read(client: &mut Client, ufid: Ufid, limit: Duration) -> Result<FlowText, CommandError> {
    let flow = ufid.to_string();
    let with_whole_key = ask(client, "dpctl/get-flow", &["-m", &flow], limit).await?;
    let with_port_numbers = ask(client, "dpctl/get-flow", &["--no-names", &flow], limit).await?;
    FlowText::parse(&with_whole_key, &with_port_numbers).map_err(CommandError::Unreadable)
}

async fn ask(
    client: &mut Client,
    command: &str,
    arguments: &[&str],
    limit: Duration,
) -> Result<String, CommandError> {
    client.command(command, arguments, limit).await.map_err(|error| match error {
        unixctl::CommandError::Refused(words) => CommandError::Failed(words.trim().to_owned()),
        unixctl::CommandError::Unreachable { .. } => CommandError::Failed(error.to_string()),
        unixctl::CommandError::Unanswered { .. } => {
            debug!(%error, "command to ovs-vswitchd has no answer");
            CommandError::Lost
        }
    })
}

fn done(outcome: Result<String, CommandError>) -> Answer {
    Answer::CommandDone(outcome.map(drop))
}

fn failed(command: &Command, why: CommandError) -> Answer {
    match command {
        Command::Read(_) => Answer::FlowRead(Err(why)),
        Command::Detrace(_) => Answer::Detraced(Err(why)),
        Command::Modify(_) | Command::Delete(_) => Answer::CommandDone(Err(why)),
    }
}

async fn look(rundir: PathBuf, say: mpsc::Sender<Said>, limit: watch::Receiver<Duration>) {
    let mut known = None;
    let mut asked: Option<u32> = None;
    let mut version_known = false;
    let mut timer = tokio::time::interval(LOOK_EVERY);
    timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        timer.tick().await;
        let there = control_socket(&rundir, PROGRAM).map_err(|not_running| not_running.to_string());
        let mut news = Vec::new();
        if known.as_ref() != Some(&there) {
            if matches!((&known, &there), (Some(Ok(_)), Ok(_))) {
                news.push(Said::Up(Err("restarted".to_owned())));
            }
            news.push(Said::Up(there.clone().map(|_| ())));
            (asked, version_known) = (None, false);
            known = Some(there);
        } else if let Ok(socket) = there {
            let looks = asked.map_or(LOOKS_PER_QUESTION, |looks| looks + 1);
            asked = Some(looks % LOOKS_PER_QUESTION);
            if looks >= LOOKS_PER_QUESTION {
                let limit = *limit.borrow();
                let version = Client::new(socket).command("version", &[], limit).await;
                let answers = matches!(version, Ok(_) | Err(unixctl::CommandError::Refused(_)));
                news.extend(version.ok().filter(|_| !version_known).and_then(|reply| {
                    version_known = true;
                    Some(Said::Version(version_in(&reply)?.to_owned()))
                }));
                // Told each time: only a change makes a difference to who hears it.
                news.push(Said::Up(if answers { Ok(()) } else { Err(SILENT.to_owned()) }));
            }
        }
        for said in news {
            if say.send(said).await.is_err() {
                return;
            }
        }
    }
}

/// The version in `ovs-vswitchd (Open vSwitch) 3.5.0`.
pub(crate) fn version_in(reply: &str) -> Option<&str> {
    let line = reply.lines().next()?;
    line.split_whitespace().rev().find(|word| word.starts_with(|c: char| c.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn no_limit() -> watch::Receiver<Duration> {
        watch::channel(Duration::from_secs(10)).1
    }

    /// Takes what OVS's `all_commands` (`lib/dpctl.c`) takes, and prints what it was told.
    struct Dpctl;

    impl unixctl::Commands for Dpctl {
        async fn run(&self, method: String, words: Vec<String>, _: bool) -> Result<unixctl::Printed, String> {
            let most = if method == "dpctl/mod-flow" { 3 } else { 2 };
            if words.len() > most {
                return Err(format!("\"{method}\" command takes at most {most} arguments"));
            }
            let key = match words[0].as_str() {
                "-m" => format!("{}, in_port(vm0_h)", words[1]),
                "--no-names" => "in_port(2)".to_owned(),
                ufid if ufid.starts_with(UFID) => return Ok(unixctl::Printed::Text(String::new())),
                other => return Err(format!("parsing flow ufid {other}")),
            };
            let actions = if words[0] == "-m" { "vm1_h" } else { "3" };
            Ok(unixctl::Printed::Text(format!("{key}, packets:1, bytes:60, used:never, actions:{actions}\n")))
        }
    }

    const UFID: &str = "ufid:a8a8cb2c-1b0d-4b0b-8a7c-8b3e3b1a5a01";

    #[tokio::test]
    async fn commands_are_what_ovs_vswitchd_takes() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s.ctl");
        let server = unixctl::Server::bind(&path, 4).unwrap();
        tokio::spawn(async move { server.serve(Arc::new(Dpctl)).await });
        let mut client = Client::new(path);
        let ufid: Ufid = UFID.parse().unwrap();
        let limit = Duration::from_secs(10);
        let flow = FlowText { ufid, key: "in_port(vm0_h)".into(), actions: "3".into() };
        let read = carry_out(&mut client, &Command::Read(ufid), limit).await;
        assert_eq!(read, Answer::FlowRead(Ok(flow.clone())));
        for command in [Command::Modify(Box::new(flow)), Command::Delete(ufid)] {
            assert_eq!(carry_out(&mut client, &command, limit).await, Answer::CommandDone(Ok(())));
        }
    }

    #[tokio::test]
    async fn without_ovs_vswitchd_a_command_fails_and_is_not_lost() {
        let directory = tempfile::tempdir().unwrap();
        let (vswitchd, mut said) = Vswitchd::start(directory.path().to_owned(), no_limit());
        let ufid: Ufid = "a8a8cb2c-1b0d-4b0b-8a7c-8b3e3b1a5a01".parse().unwrap();
        vswitchd.send(OpId(7), Command::Delete(ufid)).unwrap();
        loop {
            match said.recv().await.unwrap() {
                said @ (Said::Version(_) | Said::Rests(..)) => panic!("{said:?}"),
                Said::Up(state) => assert!(state.unwrap_err().contains("is not running")),
                Said::Answer(op, answer) => {
                    assert_eq!(op, OpId(7));
                    let Answer::CommandDone(Err(CommandError::Failed(why))) = answer else {
                        panic!("{answer:?}")
                    };
                    assert!(why.starts_with("ovs-vswitchd is not running: there is no "), "{why}");
                    break;
                }
            }
        }
    }

    #[tokio::test]
    async fn too_many_commands_are_answered_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let (vswitchd, _said) = Vswitchd::start(directory.path().to_owned(), no_limit());
        let ufid: Ufid = "a8a8cb2c-1b0d-4b0b-8a7c-8b3e3b1a5a01".parse().unwrap();
        // No worker runs before the first await of this test.
        let refused =
            (0..=WAITING_MAX as u64).find_map(|op| vswitchd.send(OpId(op), Command::Read(ufid)).err());
        let Some(Answer::FlowRead(Err(CommandError::Failed(why)))) = refused else { panic!("{refused:?}") };
        assert!(why.contains("too many"));
    }

    #[test]
    fn the_version_is_the_last_number_of_the_first_line() {
        assert_eq!(version_in("ovs-vswitchd (Open vSwitch) 3.5.0\nDPDK 24.11.1\n"), Some("3.5.0"));
        assert_eq!(version_in("ovs-vswitchd (Open vSwitch) 3.7.90 (x)"), Some("3.7.90"));
        assert_eq!(version_in(""), None);
    }
}
