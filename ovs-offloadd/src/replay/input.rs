//! Files of traffic: which kind they are, and how they are read.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use policies::language::Subject;
use policies::recording::{Ending, Malformed};
use policies::replay::{
    BadLine, Class, CsvReader, Options, RecordedTraffic, Taken, Tick, TraceTraffic, Traffic, tick_length,
};
use policies::rules::Rules;
use policies::tenants::TenantBook;
use policies::{Micros, planner};

use crate::recording::{OtherVersion, Reader, is_recording};

/// What a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Flows, one phase per row.
    Csv,
    /// Everything the engine was told.
    EventLog,
    /// The flow table's history.
    Recording,
}

/// What is wrong with a file of traffic.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// It cannot be read.
    #[error("cannot read {path}: {error}")]
    Unreadable {
        /// The file.
        path: String,
        /// Why.
        error: std::io::Error,
    },
    /// It is of no known kind.
    #[error(
        "{path} is neither a recording of ovs-offloadctl record, nor a CSV of flows (header \
         flow,start_s,end_s,packets,bytes,on_s,off_s,tenant), nor an event log of ovs-offloadd --record"
    )]
    Unknown {
        /// The file.
        path: String,
    },
    /// A line of CSV is wrong.
    #[error("{path}: {bad}")]
    Csv {
        /// The file.
        path: String,
        /// The line and what is wrong.
        bad: BadLine,
    },
    /// A recording of another version.
    #[error(
        "{path} is a recording of version {version}, and this program reads version {}",
        policies::recording::VERSION
    )]
    Version {
        /// The file.
        path: String,
        /// Its version.
        version: String,
    },
    /// A recording is wrong.
    #[error("{path}: after {after} of the recording: {why}")]
    Recording {
        /// The file.
        path: String,
        /// How much of it could be read.
        after: Micros,
        /// What is wrong.
        why: Malformed,
    },
    /// A recording holds nothing.
    #[error("{path}: there is no whole epoch in this recording")]
    Empty {
        /// The file.
        path: String,
    },
    /// Only a recording knows NICs.
    #[error("{path} is no recording of ovs-offloadctl record and knows no NICs: leave --nic out")]
    NoNics {
        /// The file.
        path: String,
    },
    /// It was read no further, because the user asked for that.
    #[error("interrupted while reading {path}")]
    Interrupted {
        /// The file.
        path: String,
    },
}

/// Longest line that is looked at.
const LINE_BYTES_MAX: u64 = 4 << 10;

/// Finds out what a file holds, by its first line.
///
/// # Errors
/// It cannot be read, or holds nothing that is known.
pub fn kind_of(path: &Path) -> Result<Kind, InputError> {
    let name = path.display().to_string();
    let unreadable = |error| InputError::Unreadable { path: name.clone(), error };
    let mut first = Vec::new();
    let file = File::open(path).map_err(unreadable)?;
    std::io::Read::take(BufReader::new(file), LINE_BYTES_MAX)
        .read_until(b'\n', &mut first)
        .map_err(unreadable)?;
    match is_recording(&first) {
        Ok(true) => return Ok(Kind::Recording),
        Ok(false) => {}
        Err(OtherVersion(version)) => return Err(InputError::Version { path: name, version }),
    }
    let text = String::from_utf8_lossy(&first);
    if CsvReader::is_header(text.trim_end()) {
        return Ok(Kind::Csv);
    }
    // Its fields are in any order, where somebody has written it anew.
    if text.starts_with('{') && text.contains("\"ovs_offloadd\":") {
        return Ok(Kind::EventLog);
    }
    Err(InputError::Unknown { path: name })
}

/// Traffic from a file.
#[derive(Debug)]
pub(super) enum FileTraffic {
    Csv { trace: Box<TraceTraffic>, flows: u32, tenants: Vec<String> },
    Recording(Box<Recording>),
}

/// A recording that is being played.
#[derive(Debug)]
pub(super) struct Recording {
    name: String,
    reader: Reader,
    traffic: RecordedTraffic,
    ending: Option<Ending>,
}

impl FileTraffic {
    pub(super) fn tick(&mut self) -> Result<Option<Tick<'_>>, InputError> {
        match self {
            Self::Csv { trace, .. } => Ok(trace.tick()),
            Self::Recording(recording) => recording.tick(),
        }
    }

    /// When it ends, as far as that is known.
    pub(super) fn end(&self) -> Option<Micros> {
        match self {
            Self::Csv { trace, .. } => Some(trace.end()),
            Self::Recording(_) => None,
        }
    }

    /// How much of it was played up to `now`, in thousandths.
    pub(super) fn thousandths(&self, now: Micros) -> u32 {
        match self {
            Self::Csv { trace, .. } => {
                u32::try_from(now.0.saturating_mul(1_000) / trace.end().0.max(1)).unwrap_or(1_000)
            }
            Self::Recording(recording) => recording.reader.thousandths(),
        }
    }

    pub(super) fn flows(&self) -> u32 {
        match self {
            Self::Csv { flows, .. } => *flows,
            Self::Recording(_) => 0,
        }
    }

    /// The names of the tenants, by number.
    pub(super) fn tenants(&self) -> Vec<String> {
        match self {
            Self::Csv { tenants, .. } => tenants.clone(),
            Self::Recording(recording) => recording.traffic.tenants(),
        }
    }

    pub(super) fn recording(&self) -> Option<&Recording> {
        match self {
            Self::Csv { .. } => None,
            Self::Recording(recording) => Some(recording),
        }
    }
}

impl Recording {
    fn open(path: &Path, rules: &Rules, nic: Option<u16>, warmup: Micros) -> Result<Self, InputError> {
        let name = path.display().to_string();
        let reader =
            Reader::open(path).map_err(|error| InputError::Unreadable { path: name.clone(), error })?;
        let traffic = RecordedTraffic::new(rules.clone(), warmup).of_nic(nic);
        let mut recording = Self { name, reader, traffic, ending: None };
        match recording.take()? {
            Some(Taken::Start) => Ok(recording),
            _ => Err(InputError::Empty { path: recording.name }),
        }
    }

    /// Reads up to the end of an epoch; nothing if there is none any more.
    fn take(&mut self) -> Result<Option<Taken>, InputError> {
        loop {
            let (used, taken) = self.traffic.take(self.reader.ahead()).map_err(|why| {
                InputError::Recording { path: self.name.clone(), after: self.traffic.now(), why }
            })?;
            self.reader.used(used);
            match taken {
                Taken::All if self.reader.more() => {}
                Taken::All => return Ok(None),
                Taken::End(ending) => {
                    self.ending = Some(ending);
                    return Ok(None);
                }
                Taken::Epoch | Taken::Start => return Ok(Some(taken)),
            }
        }
    }

    fn tick(&mut self) -> Result<Option<Tick<'_>>, InputError> {
        Ok(self.take()?.map(|_| self.traffic.tick()))
    }

    pub(super) fn traffic(&self) -> &RecordedTraffic {
        &self.traffic
    }

    /// Why there is no more of it, unless its time was up.
    pub(super) fn note(&self) -> Option<String> {
        let after = self.traffic.now();
        match (self.ending, self.reader.damage()) {
            (Some(Ending::TimeIsUp), _) => None,
            (Some(Ending::Interrupted), _) => Some(format!("the recording was interrupted after {after}")),
            (Some(Ending::DaemonGone), _) => {
                Some(format!("the recording ends after {after}, when the daemon went away"))
            }
            (None, Some(error)) => {
                Some(format!("the file is damaged after {after} of the recording: {error}"))
            }
            (None, None) => Some(format!("the file is cut short after {after} of the recording")),
        }
    }
}

/// Opens a file of traffic, and makes `options` fit it. Of a recording, only the megaflows of `nic` compete, where one is
/// named.
pub(super) fn open(
    path: &Path,
    rules: &Rules,
    nic: Option<u16>,
    options: &mut Options,
    stop: &AtomicBool,
) -> Result<FileTraffic, InputError> {
    match kind_of(path)? {
        Kind::Csv if nic.is_some() => Err(InputError::NoNics { path: path.display().to_string() }),
        Kind::Csv => open_csv(path, rules, options, stop),
        Kind::EventLog => Err(InputError::Unknown { path: path.display().to_string() }),
        Kind::Recording => {
            let mut recording = Recording::open(path, rules, nic, options.warmup)?;
            recording.traffic.fit(options);
            options.classes = recording.traffic.classes();
            options.division = recording.traffic.division();
            Ok(FileTraffic::Recording(Box::new(recording)))
        }
    }
}

fn open_csv(
    path: &Path,
    rules: &Rules,
    options: &mut Options,
    stop: &AtomicBool,
) -> Result<FileTraffic, InputError> {
    let name = path.display().to_string();
    let unreadable = |error| InputError::Unreadable { path: name.clone(), error };
    let mut input = BufReader::with_capacity(1 << 20, File::open(path).map_err(unreadable)?);
    let mut reader = CsvReader::new();
    let mut line = String::new();
    let bad = |bad| InputError::Csv { path: name.clone(), bad };
    while input.read_line(&mut line).map_err(unreadable)? > 0 {
        reader.take(&line).map_err(bad)?;
        line.clear();
        if stop.load(Ordering::Relaxed) {
            return Err(InputError::Interrupted { path: name });
        }
    }
    let trace = reader.finish().map_err(bad)?;
    let (flows, tenants) = (trace.flows, trace.tenants.clone());
    ask_rules(rules, &tenants, options);
    let trace = Box::new(TraceTraffic::new(trace, tick_length(options)));
    Ok(FileTraffic::Csv { trace, flows, tenants })
}

/// What the rules say about each tenant's flows: of a flow in a CSV only the tenant is known.
fn ask_rules(rules: &Rules, tenants: &[String], options: &mut Options) {
    options.division.limits = rules.division().limits;
    for (number, name) in (0_u16..).zip(tenants) {
        let tenant = Some(name.as_str()).filter(|name| !name.is_empty());
        let mut subject = Subject::default();
        subject.tenant = tenant;
        let decision = rules.decide(&subject, &mut TenantBook::new());
        let number = planner::TenantId(number);
        options.classes.push(Class { verdict: decision.verdict, tenant: number });
        if let Some(tenant) = tenant.filter(|tenant| rules.trace(&subject).tenant == Some(*tenant)) {
            options.division.shares.insert(number, rules.share(tenant));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_log_is_known_in_whatever_order_its_first_fields_are() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("events.jsonl");
        for line in
            ["{\"ovs_offloadd\":\"0.1.0\",\"format\":2}\n", "{\"format\":2,\"ovs_offloadd\":\"0.1.0\"}\n"]
        {
            std::fs::write(&path, line).unwrap();
            assert_eq!(kind_of(&path).unwrap(), Kind::EventLog, "{line}");
        }
        std::fs::write(&path, "{\"format\":2}\n").unwrap();
        assert!(kind_of(&path).is_err());
    }
}
