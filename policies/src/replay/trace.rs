//! Traffic as it was recorded or drawn: phases of flows, read from CSV.
//!
//! The header is `flow,start_s,end_s,packets,bytes,on_s,off_s,tenant`; the last three columns may be absent, or empty
//! in a row. Rows of one flow name are phases of one flow. See [`super::traffic`] for what they mean in time.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

use crate::Micros;

/// The number of a flow in a trace, from 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlowNumber(pub u32);

impl FlowNumber {
    pub(super) fn index(self) -> usize {
        self.0 as usize
    }
}

/// The number of a tenant in a trace, from 0, in the order in which they first appear; 0 is also for flows of nobody.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TenantNumber(pub u16);

/// A stretch of time in which a flow sends evenly, or in even bursts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Phase {
    /// The flow.
    pub flow: FlowNumber,
    /// Whose it is.
    pub tenant: TenantNumber,
    /// When it begins: the time of its first packet.
    pub start: Micros,
    /// When it ends.
    pub end: Micros,
    /// Packets in all of it; at least 1.
    pub packets: u64,
    /// Bytes in all of it.
    pub bytes: u64,
    /// How long a burst and the pause after it last; `None` for no pauses.
    pub bursts: Option<(Micros, Micros)>,
}

/// Phases of flows, in order of their beginnings.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    /// The phases.
    pub phases: Vec<Phase>,
    /// How many flows there are.
    pub flows: u32,
    /// The names of the tenants, by number; never empty.
    pub tenants: Vec<String>,
}

impl Trace {
    /// When the last phase ends.
    pub fn end(&self) -> Micros {
        self.phases.iter().map(|phase| phase.end).max().unwrap_or_default()
    }
}

/// What is wrong with a line of CSV.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadLine {
    /// The line, from 1.
    pub line: u64,
    /// What is wrong.
    pub why: String,
}

impl fmt::Display for BadLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.why)
    }
}

impl core::error::Error for BadLine {}

const COLUMNS: [&str; 8] = ["flow", "start_s", "end_s", "packets", "bytes", "on_s", "off_s", "tenant"];
/// Columns that a row must have.
const NEEDED: usize = 5;
/// The most rows of one trace.
const ROWS_MAX: usize = 1 << 26;
/// The most tenants of one trace.
const TENANTS_MAX: usize = 1 << 12;
/// The latest time of a trace: a year.
const LATEST: Micros = Micros::from_secs(366 * 86_400);

/// Reads CSV line by line.
#[derive(Clone, Debug, Default)]
pub struct CsvReader {
    line: u64,
    /// Number of columns of the header.
    columns: usize,
    phases: Vec<Phase>,
    /// The flow's name of each row, hashed, with the row.
    names: Vec<(u128, u32)>,
    tenants: Vec<String>,
}

impl CsvReader {
    /// A reader that has read nothing.
    pub fn new() -> Self {
        Self { tenants: Vec::from([String::new()]), ..Self::default() }
    }

    /// Whether `line` is the header of such a file.
    pub fn is_header(line: &str) -> bool {
        header(line.trim_start_matches('\u{feff}')).is_some()
    }

    /// Takes the next line, without or with its end of line.
    ///
    /// # Errors
    /// What is wrong with it; nothing of it is kept then.
    pub fn take(&mut self, line: &str) -> Result<(), BadLine> {
        self.line += 1;
        let line = line.trim();
        let outcome = if self.columns == 0 {
            self.take_header(line)
        } else if line.is_empty() {
            Ok(())
        } else {
            self.take_row(line)
        };
        outcome.map_err(|why| BadLine { line: self.line, why })
    }

    /// Everything that was read, in order of time.
    ///
    /// # Errors
    /// There was no header.
    pub fn finish(mut self) -> Result<Trace, BadLine> {
        if self.columns == 0 {
            return Err(BadLine { line: 1, why: wrong_header() });
        }
        self.names.sort_unstable();
        let mut flows = 0_u32;
        let mut last = None;
        for (name, row) in &self.names {
            if last.is_some_and(|last| last != *name) {
                flows += 1;
            }
            last = Some(*name);
            self.phases[*row as usize].flow = FlowNumber(flows);
        }
        let flows = flows + u32::from(last.is_some());
        self.phases.sort_by_key(|phase| phase.start);
        // Numbers go by the order of first packets: those that live at the same time are close together in memory.
        let mut numbers = alloc::vec![None; flows as usize];
        let mut next = 0;
        for phase in &mut self.phases {
            let number = numbers[phase.flow.index()].get_or_insert_with(|| {
                next += 1;
                FlowNumber(next - 1)
            });
            phase.flow = *number;
        }
        Ok(Trace { phases: self.phases, flows, tenants: self.tenants })
    }

    fn take_header(&mut self, line: &str) -> Result<(), String> {
        self.columns = header(line.trim_start_matches('\u{feff}')).ok_or_else(wrong_header)?;
        Ok(())
    }

    fn take_row(&mut self, line: &str) -> Result<(), String> {
        if self.phases.len() >= ROWS_MAX {
            return Err(format!("more than {ROWS_MAX} rows"));
        }
        let mut fields = [""; COLUMNS.len()];
        let mut found = 0;
        for field in line.split(',') {
            let Some(place) = fields.get_mut(found) else {
                return Err(format!("more than {} columns", COLUMNS.len()));
            };
            *place = field.trim();
            found += 1;
        }
        if found < NEEDED || found > self.columns {
            return Err(format!("{found} columns where the header has {}", self.columns));
        }
        let [name, start, end, packets, bytes, on, off, tenant] = fields;
        if name.is_empty() {
            return Err("a flow needs a name".to_string());
        }
        let (start, end) = (seconds("start_s", start)?, seconds("end_s", end)?);
        if end < start {
            return Err("end_s is before start_s".to_string());
        }
        let (packets, bytes) = (whole("packets", packets)?, whole("bytes", bytes)?);
        let bursts = bursts(on, off)?;
        if packets == 0 {
            // Without a packet there are no bytes and no megaflow.
            return if bytes == 0 { Ok(()) } else { Err("bytes without a packet".to_string()) };
        }
        let tenant = self.tenant(tenant)?;
        let row = self.phases.len() as u32;
        self.names.push((hash(name), row));
        self.phases.push(Phase { flow: FlowNumber(0), tenant, start, end, packets, bytes, bursts });
        Ok(())
    }

    fn tenant(&mut self, name: &str) -> Result<TenantNumber, String> {
        if let Some(known) = self.tenants.iter().position(|tenant| tenant == name) {
            return Ok(TenantNumber(known as u16));
        }
        if self.tenants.len() >= TENANTS_MAX {
            return Err(format!("more than {TENANTS_MAX} tenants"));
        }
        self.tenants.push(name.to_string());
        Ok(TenantNumber((self.tenants.len() - 1) as u16))
    }
}

/// How many columns a header has, if it is one.
fn header(line: &str) -> Option<usize> {
    let mut count = 0;
    for name in line.split(',') {
        if COLUMNS.get(count) != Some(&name.trim()) {
            return None;
        }
        count += 1;
    }
    (count >= NEEDED).then_some(count)
}

fn wrong_header() -> String {
    format!("the header has to be \"{}\"; the last three may be absent", COLUMNS.join(","))
}

fn whole(column: &str, text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("{column} is {text:?}, and has to be a whole number"))
}

/// Seconds in decimal notation, as microseconds; digits beyond them are cut. Exponents are read too.
fn seconds(column: &str, text: &str) -> Result<Micros, String> {
    let wrong = || format!("{column} is {text:?}, and has to be a number of seconds from 0");
    let (number, exponent) = match text.split_once(['e', 'E']) {
        Some((number, exponent)) => (number, exponent.parse::<i32>().map_err(|_| wrong())?),
        None => (text, 0),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let is_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.len() + fraction.len() == 0 || !is_digits(whole) || !is_digits(fraction) {
        return Err(wrong());
    }
    let mut shift = exponent.checked_add(6).ok_or_else(wrong)?;
    let mut micros = 0_u64;
    let digit = |byte: u8| u64::from(byte - b'0');
    for byte in whole.bytes() {
        micros =
            micros.checked_mul(10).and_then(|micros| micros.checked_add(digit(byte))).ok_or_else(wrong)?;
    }
    for byte in fraction.bytes() {
        if shift <= 0 {
            break;
        }
        micros =
            micros.checked_mul(10).and_then(|micros| micros.checked_add(digit(byte))).ok_or_else(wrong)?;
        shift -= 1;
    }
    while shift > 0 && micros > 0 {
        micros = micros.checked_mul(10).ok_or_else(wrong)?;
        shift -= 1;
    }
    while shift < 0 && micros > 0 {
        micros /= 10;
        shift += 1;
    }
    if micros > LATEST.0 {
        return Err(format!("{column} is later than a year"));
    }
    Ok(Micros(micros))
}

fn bursts(on: &str, off: &str) -> Result<Option<(Micros, Micros)>, String> {
    let on = if on.is_empty() { None } else { Some(seconds("on_s", on)?) };
    let off = if off.is_empty() { Micros::ZERO } else { seconds("off_s", off)? };
    match on {
        _ if off == Micros::ZERO => Ok(None),
        Some(on) if on > Micros::ZERO => Ok(Some((on, off))),
        _ => Err("off_s without on_s".to_string()),
    }
}

/// FNV-1a of 128 bits: names that differ differ in it.
fn hash(name: &str) -> u128 {
    name.bytes().fold(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d_u128, |hash, byte| {
        (hash ^ u128::from(byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Trace, BadLine> {
        let mut reader = CsvReader::new();
        text.lines().try_for_each(|line| reader.take(line))?;
        reader.finish()
    }

    const HEADER: &str = "flow,start_s,end_s,packets,bytes,on_s,off_s,tenant\n";

    #[test]
    fn rows_of_one_name_are_phases_of_one_flow_in_order_of_time() {
        let trace =
            read(&format!("{HEADER}a,2,3,1,100,,,x\nb,1.5,1.5,2,200,0.8,2,\na,0,1,1,100,,,x\n")).unwrap();
        assert_eq!(trace.flows, 2);
        let starts: Vec<u64> = trace.phases.iter().map(|phase| phase.start.0).collect();
        assert_eq!(starts, [0, 1_500_000, 2_000_000]);
        assert_eq!(trace.phases[0].flow, trace.phases[2].flow);
        assert_ne!(trace.phases[0].flow, trace.phases[1].flow);
        assert_eq!(trace.tenants, ["", "x"]);
        assert_eq!(trace.phases[1].bursts, Some((Micros::from_millis(800), Micros::from_secs(2))));
        assert_eq!(trace.end(), Micros::from_secs(3));
    }

    #[test]
    fn the_last_three_columns_may_be_absent_from_the_file_or_a_row() {
        let trace = read("flow,start_s,end_s,packets,bytes\na,0,1,1,100\n").unwrap();
        assert_eq!((trace.flows, trace.phases[0].bursts), (1, None));
        assert_eq!(read(&format!("{HEADER}a,0,1,1,100\n\na,1,1,1,9,,\n")).unwrap().phases.len(), 2);
    }

    #[test]
    fn seconds_are_read_in_any_decimal_notation() {
        for (text, us) in [
            ("0", 0),
            ("1.25", 1_250_000),
            ("1e-3", 1_000),
            ("2.5E2", 250_000_000),
            ("1.0000009", 1_000_000),
            (".5", 500_000),
        ] {
            assert_eq!(seconds("start_s", text), Ok(Micros(us)), "{text}");
        }
        for text in ["", ".", "-1", "1s", "nan", "1e", "1e99", "99999999999999999999", "32000000"] {
            assert!(seconds("start_s", text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        for (row, why) in [
            ("a,2,1,1,1", "end_s is before start_s"),
            ("a,0,1,0,1", "bytes without a packet"),
            ("a,0,1,1,1,,2", "off_s without on_s"),
            ("a,0,1,1,1,0,2", "off_s without on_s"),
            (",0,1,1,1", "a flow needs a name"),
            ("a,0,1,1", "4 columns where the header has 8"),
            ("a,0,1,1.5,1", "packets is \"1.5\", and has to be a whole number"),
            ("a,0,1,1,1,,,x,y", "more than 8 columns"),
        ] {
            let error = read(&format!("{HEADER}{row}\n")).unwrap_err();
            assert_eq!(error, BadLine { line: 2, why: why.to_string() });
        }
        assert_eq!(read("flow,start,end\n").unwrap_err().line, 1);
        assert!(read("").is_err());
    }

    #[test]
    fn a_flow_that_sent_nothing_is_no_flow() {
        assert_eq!(read(&format!("{HEADER}a,0,1,0,0\n")).unwrap().flows, 0);
    }
}
