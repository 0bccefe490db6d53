//! Files of traffic: which kind they are, and how they are read.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use policies::Micros;
use policies::replay::{BadLine, CsvReader, Tick, TraceTraffic, Traffic};

/// What a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Flows, one phase per row.
    Csv,
    /// Everything the engine was told.
    EventLog,
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
        "{path} is neither a CSV of flows (header flow,start_s,end_s,packets,bytes,on_s,off_s,tenant) nor an event log \
         of ovs-offloadd --record"
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
    let text = String::from_utf8_lossy(&first);
    if CsvReader::is_header(text.trim_end()) {
        return Ok(Kind::Csv);
    }
    if text.starts_with("{\"ovs_offloadd\"") {
        return Ok(Kind::EventLog);
    }
    Err(InputError::Unknown { path: name })
}

/// Traffic from a file.
#[derive(Debug)]
pub(super) struct FileTraffic {
    trace: TraceTraffic,
    flows: u32,
    tenants: Vec<String>,
}

impl FileTraffic {
    pub(super) fn tick(&mut self) -> Result<Option<Tick<'_>>, InputError> {
        Ok(self.trace.tick())
    }

    /// When it ends.
    pub(super) fn end(&self) -> Micros {
        self.trace.end()
    }

    pub(super) fn flows(&self) -> u32 {
        self.flows
    }

    /// The names of the tenants, by number.
    pub(super) fn tenants(&self) -> &[String] {
        &self.tenants
    }
}

pub(super) fn open(path: &Path, tick_length: Micros, stop: &AtomicBool) -> Result<FileTraffic, InputError> {
    let name = path.display().to_string();
    match kind_of(path)? {
        Kind::Csv => {}
        Kind::EventLog => return Err(InputError::Unknown { path: name }),
    }
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
    Ok(FileTraffic { trace: TraceTraffic::new(trace, tick_length), flows, tenants })
}
