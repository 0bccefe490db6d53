//! The event log: everything the engine was told, with its time, and a mark of what it wanted done.
//!
//! One JSON object per line. Filters stand in it as the kernel sent them, so that a replay reads them with the codec
//! of today. The same events at the same times give the same effects: [`replay`] checks it.

mod answer;
mod entry;
mod ipsec;
mod policy;
mod port;
mod probed;
mod raw;

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, BufWriter, Write as _};
use std::path::Path;

use offload_engine::{Effect, Engine, Event, Micros};
use serde::{Deserialize, Serialize};

pub(crate) use entry::Entry;
use entry::settings_of;
pub(crate) use raw::Raws;

use crate::config::Assignment;

/// A key of the configuration with its value.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Setting(pub(crate) String, pub(crate) crate::config::Scalar);

impl Setting {
    /// All of them, from the weakest layer to the strongest.
    pub(crate) fn all<'a>(assignments: impl IntoIterator<Item = &'a Assignment>) -> Vec<Self> {
        assignments
            .into_iter()
            .map(|assignment| Self(assignment.key.name.to_owned(), assignment.value.clone()))
            .collect()
    }
}

/// What a log contains. 2: of a flow of the kernel datapath also which datapath it is in, its key, mask and actions.
const FORMAT: u32 = 2;

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Start {
    ovs_offloadd: String,
    /// [`FORMAT`]; the first did not say.
    #[serde(default = "first_format")]
    format: u32,
    t_us: u64,
    settings: Vec<Setting>,
}

fn first_format() -> u32 {
    1
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    t_us: u64,
    event: Entry,
    /// How many effects it had, and what they hash to.
    effects: (usize, String),
}

/// Writes an event log of bounded length.
#[derive(Debug)]
pub struct Recorder {
    out: Option<BufWriter<File>>,
    written: u64,
    bytes_max: u64,
}

impl Recorder {
    /// Starts a log with the settings in force.
    ///
    /// # Errors
    /// Those of the file system.
    pub(crate) fn create(
        path: &Path,
        bytes_max: u64,
        now: Micros,
        settings: Vec<Setting>,
    ) -> io::Result<Self> {
        let out = Some(BufWriter::new(File::create(path)?));
        let mut recorder = Self { out, written: 0, bytes_max };
        recorder.write(&Start {
            ovs_offloadd: env!("CARGO_PKG_VERSION").to_owned(),
            format: FORMAT,
            t_us: now.0,
            settings,
        })?;
        Ok(recorder)
    }

    /// Prepares an event for the log, before the engine consumes it; takes the bytes of its filters.
    pub(crate) fn entry(event: &Event, raws: &mut Raws, settings: impl FnOnce() -> Vec<Setting>) -> Entry {
        Entry::of(event, raws, settings)
    }

    /// Adds an event and what the engine wanted done. After an error, or at the bound, the log ends.
    ///
    /// # Errors
    /// Once: why the log has ended.
    pub(crate) fn add(&mut self, now: Micros, event: Entry, effects: &[Effect]) -> io::Result<()> {
        if self.out.is_none() {
            return Ok(());
        }
        let line = Line { t_us: now.0, event, effects: (effects.len(), mark(effects)) };
        let outcome = self.write(&line).and_then(|()| match self.written >= self.bytes_max {
            true => Err(io::Error::other(format!(
                "it has reached {} bytes (limits.record-bytes)",
                self.bytes_max
            ))),
            false => Ok(()),
        });
        if outcome.is_err() {
            self.out = None;
        }
        outcome
    }

    fn write<T: Serialize>(&mut self, line: &T) -> io::Result<()> {
        let Some(out) = &mut self.out else { return Ok(()) };
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        self.written += text.len() as u64;
        out.write_all(&text)
    }

    /// Puts what was added on file.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.out.as_mut().map_or(Ok(()), BufWriter::flush)
    }
}

/// FNV-1a of the effects' text: equal effects have equal marks in any process.
fn mark(effects: &[Effect]) -> String {
    let text = format!("{effects:?}");
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{hash:016x}")
}

/// What a replay found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Replayed {
    /// Events.
    pub events: u64,
    /// Effects.
    pub effects: u64,
    /// Time that the log spans, in microseconds.
    pub span_us: u64,
}

/// Longest line of a log.
const LINE_BYTES_MAX: usize = 4 << 20;

/// Runs an event log through the engine.
///
/// # Errors
/// One sentence: the log cannot be read, or the engine wanted something else than was recorded.
pub fn replay(path: &Path) -> Result<Replayed, String> {
    let name = path.display();
    let file = File::open(path).map_err(|error| format!("cannot read {name}: {error}"))?;
    let mut lines = BufReader::new(file).lines();
    let wrong = |line: usize, why: &dyn std::fmt::Display| format!("{name}:{line}: {why}");
    let first = lines.next().ok_or_else(|| wrong(1, &"the log is empty"))?;
    let first = first.map_err(|error| wrong(1, &error))?;
    let start: Start =
        serde_json::from_str(&first).map_err(|error| wrong(1, &format!("no event log: {error}")))?;
    if start.format != FORMAT {
        let what = format!(
            "an event log of format {}, which ovs-offloadd {} wrote; this program reads format {FORMAT} only",
            start.format, start.ovs_offloadd
        );
        return Err(wrong(1, &what));
    }
    let settings = settings_of(&start.settings).map_err(|why| wrong(1, &why))?;
    let mut engine = Engine::new(Micros(start.t_us), settings);
    let mut replayed = Replayed { events: 0, effects: 0, span_us: 0 };
    let mut effects = Vec::new();
    for (index, line) in lines.enumerate() {
        let number = index + 2;
        let line = line.map_err(|error| wrong(number, &error))?;
        if line.len() > LINE_BYTES_MAX {
            return Err(wrong(number, &"the line is too long"));
        }
        // The last line of a daemon that was killed may be cut.
        let Line { t_us, event, effects: recorded } =
            serde_json::from_str(&line).map_err(|error| wrong(number, &error))?;
        let event = event.into_event().map_err(|why| wrong(number, &why))?;
        effects.clear();
        engine.handle(Micros(t_us), event, &mut effects);
        if recorded != (effects.len(), mark(&effects)) {
            return Err(wrong(
                number,
                &format!(
                    "the engine wants other effects than were recorded, {} of them: {effects:?}",
                    effects.len()
                ),
            ));
        }
        replayed.events += 1;
        replayed.effects += effects.len() as u64;
        replayed.span_us = t_us.saturating_sub(start.t_us);
    }
    Ok(replayed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use offload_engine::{OvsSettings, OvsVersion, Peer, PortFacts, PortKind, TcPolicy};
    use tc_flower::Location;

    fn record(path: &Path, events: Vec<(u64, Event)>) {
        let mut recorder = Recorder::create(path, 1 << 20, Micros(1), Vec::new()).unwrap();
        let mut engine = Engine::new(Micros(1), settings_of(&[]).unwrap());
        for (at, event) in events {
            let entry = Recorder::entry(&event, &mut Raws::default(), Vec::new);
            let mut effects = Vec::new();
            engine.handle(Micros(at), event, &mut effects);
            recorder.add(Micros(at), entry, &effects).unwrap();
        }
        recorder.flush().unwrap();
    }

    fn some_events() -> Vec<(u64, Event)> {
        let ifindex = netlink_wire::Ifindex(7);
        let port = PortFacts {
            name: "p".into(),
            ifindex,
            location: Location::ingress(ifindex),
            dp_port: Some(netlink_wire::DpPort(2)),
            dp: Some(netlink_wire::Ifindex(3)),
            bridge: "br0".into(),
            iface_id: Some("x".into()),
            workload: None,
            kind: PortKind::Representor,
            tunnel_kind: None,
            tunnel_port: None,
            nic: Some(offload_engine::NicId(0)),
            hw_tc_offload: true,
        };
        let ovs = OvsSettings {
            version: Some(OvsVersion::new(3, 5, 0)),
            hw_offload: true,
            tc_policy: TcPolicy::SkipHw,
            max_idle: Some(Micros(5_000_000)),
        };
        vec![
            (2, Event::JournalFound(vec!["a8a8cb2c-1b0d-4b0b-8a7c-8b3e3b1a5a01".parse().unwrap()])),
            (3, Event::Peer { peer: Peer::Vswitchd, up: true }),
            (4, Event::Ovs(ovs)),
            (5, Event::Port(Box::new(port))),
            (600_000, Event::Wake),
            (700_000, Event::TcOverrun),
            (1_200_000, Event::Wake),
        ]
    }

    #[test]
    fn a_recorded_log_replays_to_the_same_effects() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        record(&path, some_events());
        let replayed = replay(&path).unwrap();
        assert_eq!((replayed.events, replayed.span_us), (7, 1_199_999));
        assert!(replayed.effects > 0);
    }

    #[test]
    fn other_effects_are_told_with_their_line() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        record(&path, some_events());
        // Without the port there is nothing to dump at the wake that follows.
        let text = std::fs::read_to_string(&path).unwrap();
        let without: Vec<&str> = text.lines().filter(|line| !line.contains("\"port\"")).collect();
        std::fs::write(&path, without.join("\n")).unwrap();
        let sentence = replay(&path).unwrap_err();
        assert!(sentence.contains("the engine wants other effects than were recorded"), "{sentence}");
    }

    #[test]
    fn a_log_ends_at_its_bound() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let mut recorder = Recorder::create(&path, 300, Micros(1), Vec::new()).unwrap();
        let mut add = || {
            let entry = Recorder::entry(&Event::Wake, &mut Raws::default(), Vec::new);
            recorder.add(Micros(2), entry, &[])
        };
        let ended = (0..100).find_map(|_| add().err()).unwrap();
        assert!(ended.to_string().contains("limits.record-bytes"), "{ended}");
        assert!(add().is_ok(), "it is told once");
        recorder.flush().unwrap();
        assert!(std::fs::metadata(&path).unwrap().len() < 500);
    }

    #[test]
    fn a_log_of_another_format_is_refused_with_both_formats() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        std::fs::write(&path, "{\"ovs_offloadd\":\"0.1.0\",\"t_us\":1,\"settings\":[]}\n").unwrap();
        let sentence = replay(&path).unwrap_err();
        assert!(sentence.contains("format 1") && sentence.contains("format 2"), "{sentence}");
    }

    #[test]
    fn what_is_no_log_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        std::fs::write(&path, "nonsense\n").unwrap();
        assert!(replay(&path).unwrap_err().contains("log:1: no event log"));
        assert!(replay(&directory.path().join("none")).unwrap_err().starts_with("cannot read "));
    }
}
