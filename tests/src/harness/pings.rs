//! A ping that goes on, with its answers counted.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use super::{Failure, Netns, Outcome, run};

/// A running `ping`.
#[derive(Debug)]
pub struct Pings {
    child: Child,
    heard: Arc<Heard>,
    reader: Option<thread::JoinHandle<String>>,
}

#[derive(Debug, Default)]
struct Heard {
    answers: AtomicU64,
    /// The number of the last answered one; they begin at 1.
    last: AtomicU64,
}

impl Pings {
    /// Pings `address` from `netns` every `interval_ms`, with `payload_bytes` in each.
    pub fn start(netns: &Netns, address: &str, interval_ms: u32, payload_bytes: u32) -> Outcome<Self> {
        let mut command = netns.command("ping");
        let interval = format!("{}.{:03}", interval_ms / 1000, interval_ms % 1000);
        command.args(["-n", "-i", &interval, "-s", &payload_bytes.to_string(), address]);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let out = child.stdout.take().ok_or_else(|| Failure::new("ping has no output"))?;
        let heard = Arc::<Heard>::default();
        let shared = Arc::clone(&heard);
        let reader = thread::spawn(move || {
            let mut summary = String::new();
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                if let Some(number) = number_of_answer(&line) {
                    shared.answers.fetch_add(1, Ordering::Relaxed);
                    shared.last.fetch_max(number, Ordering::Relaxed);
                } else if line.contains("packets transmitted") {
                    summary = line;
                }
            }
            summary
        });
        Ok(Self { child, heard, reader: Some(reader) })
    }

    /// Pings that were answered so far.
    pub fn answers(&self) -> u64 {
        self.heard.answers.load(Ordering::Relaxed)
    }

    /// Pings before the last answered one that were not answered.
    pub fn missing(&self) -> u64 {
        self.heard.last.load(Ordering::Relaxed).saturating_sub(self.answers())
    }

    /// Ends it: pings sent, and answered. The last may have been on its way.
    pub fn stop(mut self) -> Outcome<(u64, u64)> {
        run("kill", &["-INT", &self.child.id().to_string()])?;
        self.child.wait()?;
        let reader = self.reader.take().ok_or_else(|| Failure::new("ping was stopped twice"))?;
        let summary = reader.join().map_err(|_| Failure::new("the reader of ping panicked"))?;
        totals(&summary).ok_or_else(|| Failure::new(format!("ping said at last: {summary}")))
    }
}

impl Drop for Pings {
    fn drop(&mut self) {
        // Ended already, in most cases.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `108 bytes from 10.0.0.2: icmp_seq=7 ttl=64 time=0.1 ms`
fn number_of_answer(line: &str) -> Option<u64> {
    let (_, rest) = line.split_once("bytes from")?;
    let word = rest.split_whitespace().find_map(|word| word.strip_prefix("icmp_seq="))?;
    word.parse().ok()
}

/// `12 packets transmitted, 11 received, 8.3% packet loss, time 55ms`
fn totals(summary: &str) -> Option<(u64, u64)> {
    let mut parts = summary.split(", ");
    let sent = parts.next()?.split_whitespace().next()?.parse().ok()?;
    let received = parts.find(|part| part.ends_with("received"))?.split_whitespace().next()?.parse().ok()?;
    Some((sent, received))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_and_totals_are_read() {
        let line = "1008 bytes from fd01::2: icmp_seq=41 ttl=64 time=0.733 ms";
        assert_eq!(number_of_answer(line), Some(41));
        assert_eq!(number_of_answer("From 10.1.0.1 icmp_seq=1 Destination Host Unreachable"), None);
        let summary = "41 packets transmitted, 40 received, 2.4% packet loss, time 230ms";
        assert_eq!(totals(summary), Some((41, 40)));
    }
}
