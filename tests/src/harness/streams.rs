//! The packet generator and receiver of [`crate::traffic`], run in namespaces.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use super::{Failure, Netns, Outcome, output, wait_until};

/// The longest a receiver may take until its socket is bound.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// What a sender is to send.
#[derive(Debug, Clone, Copy)]
pub struct Stream<'a> {
    /// `ADDRESS:PORT` of the receiver.
    pub to: &'a str,
    /// Source port of the first flow; the others follow.
    pub from_port: u16,
    /// Flows, by source port.
    pub flows: u32,
    /// Packets of each flow.
    pub count: u64,
    /// Packets per second of all flows together; 0: as fast as it goes.
    pub rate_per_s: u64,
    /// UDP payload in bytes.
    pub payload_bytes: u32,
}

impl Default for Stream<'_> {
    fn default() -> Self {
        Self { to: "", from_port: 20_000, flows: 1, count: 1000, rate_per_s: 1000, payload_bytes: 64 }
    }
}

/// A running generator.
#[derive(Debug)]
pub struct Sender {
    child: Child,
    said: LastLine,
}

/// What a generator has sent, and what came back of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sent {
    /// Packets sent.
    pub packets: u64,
    /// Different answers.
    pub answers: u64,
    /// Packets without an answer by now, although they were sent 100 ms ago or a later one of their flow has one.
    pub unanswered: u64,
}

impl Sender {
    /// Starts sending from `netns`.
    pub fn start(netns: &Netns, stream: Stream<'_>) -> Outcome<Self> {
        Self::spawn(netns, stream, false)
    }

    /// Starts sending from `netns`, until all is sent or [`Sender::stop`] is called.
    pub fn start_stoppable(netns: &Netns, stream: Stream<'_>) -> Outcome<Self> {
        Self::spawn(netns, stream, true)
    }

    fn spawn(netns: &Netns, stream: Stream<'_>, stoppable: bool) -> Outcome<Self> {
        let mut command = traffic(netns);
        command.args(["send", "--to", stream.to]);
        command.args(["--from-port", &stream.from_port.to_string(), "--flows", &stream.flows.to_string()]);
        command.args(["--count", &stream.count.to_string(), "--rate", &stream.rate_per_s.to_string()]);
        command.args(["--size", &stream.payload_bytes.to_string()]);
        command.args(stoppable.then_some("--until-input-ends"));
        let input = if stoppable { Stdio::piped() } else { Stdio::null() };
        let mut child = command.stdin(input).stdout(Stdio::piped()).spawn()?;
        let said = LastLine::of(&mut child)?;
        Ok(Self { child, said })
    }

    /// Ends one that was started as stoppable: the number of packets sent.
    pub fn stop(self) -> Outcome<u64> {
        self.stop_answered().map(|sent| sent.packets)
    }

    /// The same, with the answers.
    pub fn stop_answered(mut self) -> Outcome<Sent> {
        drop(self.child.stdin.take());
        self.result()
    }

    /// What one that was started as stoppable has sent so far, at most about 100 ms ago.
    pub fn so_far(&self) -> Sent {
        sent(&self.said.text()).unwrap_or_default()
    }

    /// Waits until everything is sent: the number of packets.
    pub fn finish(mut self) -> Outcome<u64> {
        self.result().map(|sent| sent.packets)
    }

    /// The same, with the answers.
    pub fn finish_answered(mut self) -> Outcome<Sent> {
        self.result()
    }

    fn result(&mut self) -> Outcome<Sent> {
        let status = self.child.wait()?;
        let text = self.said.finish()?;
        sent(&text).ok_or_else(|| Failure::new(format!("the generator ended with {status}: {text}")))
    }

    /// Sends all of `stream` from `netns`: the number of packets.
    pub fn send(netns: &Netns, stream: Stream<'_>) -> Outcome<u64> {
        Self::start(netns, stream)?.finish()
    }
}

fn sent(line: &str) -> Option<Sent> {
    Some(Sent {
        packets: field(line, "sent")?,
        answers: field(line, "answers")?,
        unanswered: field(line, "unanswered")?,
    })
}

/// The last line that a process has printed.
#[derive(Debug)]
struct LastLine {
    line: Arc<Mutex<String>>,
    reader: Option<thread::JoinHandle<()>>,
}

impl LastLine {
    fn of(child: &mut Child) -> Outcome<Self> {
        let out = child.stdout.take().ok_or_else(|| Failure::new("the generator has no output"))?;
        let line = Arc::new(Mutex::new(String::new()));
        let shared = Arc::clone(&line);
        let reader = thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                *shared.lock().unwrap_or_else(PoisonError::into_inner) = line;
            }
        });
        Ok(Self { line, reader: Some(reader) })
    }

    fn text(&self) -> String {
        self.line.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The last line of all, once the process has ended.
    fn finish(&mut self) -> Outcome<String> {
        if let Some(reader) = self.reader.take() {
            reader.join().map_err(|_| Failure::new("the reader of a generator panicked"))?;
        }
        Ok(self.text())
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        // Finished already, in most cases.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What came of a trace that was played.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Played {
    /// Packets sent: all of the trace.
    pub packets: u64,
    /// The longest time by which a packet was sent later than the trace has it.
    pub late: Duration,
}

impl Played {
    /// Plays the CSV `trace` from `netns` to `ADDRESS:PORT`, the flows from `from_port` on, and returns when all is sent.
    /// What was sent when is in the CSV `sent` then.
    pub fn from_trace(netns: &Netns, to: &str, from_port: u16, trace: &Path, sent: &Path) -> Outcome<Self> {
        let mut command = traffic(netns);
        command.args(["play", "--to", to, "--from-port", &from_port.to_string()]);
        let text = output(command.arg("--trace").arg(trace).arg("--sent").arg(sent))?;
        let value = |name| {
            field(&text, name).ok_or_else(|| Failure::new(format!("the player does not say {name}: {text}")))
        };
        Ok(Self { packets: value("sent")?, late: Duration::from_micros(value("late_us")?) })
    }
}

/// What a receiver counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Received {
    /// Different packets.
    pub packets: u64,
    /// Packets that came more than once, each time after the first.
    pub duplicated: u64,
    /// Packets that came after a later one of their flow.
    pub reordered: u64,
    /// Packets that did not come although a later one of their flow did.
    pub missing: u64,
    /// Packets that came and that the receiver was too slow for.
    pub socket_drops: u64,
    /// The longest time between one packet and the next.
    pub silence: Duration,
}

/// A running receiver.
#[derive(Debug)]
pub struct Receiver {
    child: Child,
    input: Option<ChildStdin>,
    said: LastLine,
}

impl Receiver {
    /// Starts one in `netns`, bound to `ADDRESS:PORT` when this returns.
    pub fn start(netns: &Netns, bind: &str) -> Outcome<Self> {
        Self::spawn(netns, bind, false)
    }

    /// The same of one that sends each packet back.
    pub fn start_answering(netns: &Netns, bind: &str) -> Outcome<Self> {
        Self::spawn(netns, bind, true)
    }

    fn spawn(netns: &Netns, bind: &str, answers: bool) -> Outcome<Self> {
        let mut command = traffic(netns);
        command.args(["receive", "--bind", bind]).args(answers.then_some("--answer"));
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let input = child.stdin.take();
        let receiver = Self { said: LastLine::of(&mut child)?, child, input };
        wait_until("the receiver is bound", READY_WITHIN, || Ok(!receiver.said.text().is_empty()))?;
        Ok(receiver)
    }

    /// What has been counted so far, at most about 100 ms old.
    pub fn so_far(&self) -> Received {
        counts(&self.said.text())
    }

    /// Ends the receiver once nothing comes any more: the final counts.
    pub fn finish(mut self) -> Outcome<Received> {
        drop(self.input.take());
        let status = self.child.wait()?;
        let line = self.said.finish()?;
        if status.success() {
            Ok(counts(&line))
        } else {
            Err(Failure::new(format!("the receiver ended with {status}: {line}")))
        }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        // Finished already, in most cases.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn traffic(netns: &Netns) -> Command {
    let mut command = netns.command("lab-tests");
    command.arg("traffic");
    command
}

fn counts(line: &str) -> Received {
    let value = |name| field(line, name).unwrap_or(0);
    Received {
        packets: value("received"),
        duplicated: value("duplicated"),
        reordered: value("reordered"),
        missing: value("missing"),
        socket_drops: value("socket_drops"),
        silence: Duration::from_micros(value("silence_us")),
    }
}

/// The number after `name=` in a line of such pairs.
fn field(line: &str, name: &str) -> Option<u64> {
    let value = line.split_whitespace().find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
    value.and_then(|value| value.parse().ok())
}
