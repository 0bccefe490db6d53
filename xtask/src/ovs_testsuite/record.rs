//! How the tests of one suite ended on one side: kept from run to run, so that the tests can be run in parts.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use crate::problem::{Doing, Problem};

/// How a test ended, as far as the two sides have to agree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Pass,
    Skip,
    Fail,
}

/// What becomes of what the record has of a test that is run again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Earlier {
    /// The new end is in its place.
    Replaced,
    /// It is kept beside the new one.
    Kept,
}

/// Between the results of one test that was run several times: in none of the test program's words.
const THEN: &str = ", then ";

/// One test's end.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Row {
    /// The test program's own word: `ok`, `skipped (…)`, `FAILED (…)`; or that the guest died. Of a test that was run several
    /// times each of them, with [`THEN`] between.
    result: String,
    seconds: String,
    title: String,
    /// Daemons that ran beside it: one for each ovs-vswitchd that the test started.
    daemons: u32,
    /// Rules that these moved into hardware.
    promotions: u64,
    /// What was wrong with one of them; empty if nothing was.
    trouble: String,
}

impl Row {
    /// How it ended the first time.
    fn kind(&self) -> Kind {
        self.kinds().next().unwrap_or(Kind::Fail)
    }

    /// How it ended each time.
    fn kinds(&self) -> impl Iterator<Item = Kind> + '_ {
        self.result.split(THEN).map(|result| match result {
            "ok" | "expected failure" => Kind::Pass,
            result if result.starts_with("skipped") => Kind::Skip,
            _ => Kind::Fail,
        })
    }

    /// Whether it never ended as `other` did.
    fn differs_from(&self, other: &Self) -> bool {
        let kinds: BTreeSet<Kind> = self.kinds().collect();
        other.kinds().all(|kind| !kinds.contains(&kind))
    }
}

/// The tests of one suite on one side, by number.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Record(BTreeMap<u32, Row>);

impl Record {
    /// The record in `path`; an empty one when there is none.
    pub(super) fn read(path: &Path) -> Result<Self, Problem> {
        match fs::read_to_string(path) {
            Ok(text) => Ok(Self(text.lines().filter_map(row).collect())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error).doing(|| format!("read {}", path.display())),
        }
    }

    /// Writes the record to `path`.
    pub(super) fn write(&self, path: &Path) -> Result<(), Problem> {
        let directory = path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(directory).doing(|| format!("make {}", directory.display()))?;
        let mut text = String::new();
        for (number, row) in &self.0 {
            let Row { result, seconds, title, daemons, promotions, trouble } = row;
            // Writing to a string cannot fail.
            let _ =
                writeln!(text, "{number}\t{result}\t{seconds}\t{title}\t{daemons}\t{promotions}\t{trouble}");
        }
        fs::write(path, text).doing(|| format!("write {}", path.display()))
    }

    /// Takes over what a guest left in `logs`: the number of the last test that ended, if one did.
    pub(super) fn take(&mut self, logs: &Path, earlier: Earlier) -> Result<Option<u32>, Problem> {
        let text = |name: &str| match fs::read_to_string(logs.join(name)) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(String::new()),
            text => text.doing(|| format!("read {}", logs.join(name).display())),
        };
        Ok(self.merge(&text("results.tsv")?, &text("beside.tsv")?, earlier))
    }

    fn merge(&mut self, results: &str, beside: &str, earlier: Earlier) -> Option<u32> {
        let mut taken: BTreeMap<u32, Row> = results.lines().filter_map(row).collect();
        for line in beside.lines() {
            let mut fields = line.split('\t');
            let number = fields.next().and_then(|number| number.parse().ok());
            let Some(row) = number.and_then(|number: u32| taken.get_mut(&number)) else { continue };
            let [state, status, promotions, complaints] = [(); 4].map(|()| fields.next().unwrap_or_default());
            row.daemons += 1;
            row.promotions += promotions.parse::<u64>().unwrap_or(0);
            if state != "alive" {
                row.trouble = format!("it {state} (status {status})");
            } else if status != "0" {
                row.trouble = format!("it ended with status {status}");
            } else if complaints != "0" {
                row.trouble = format!("{complaints} errors in its log");
            }
        }
        let last = taken.keys().next_back().copied();
        for (number, mut row) in taken {
            if let (Earlier::Kept, Some(before)) = (earlier, self.0.remove(&number)) {
                row.result = [before.result, row.result].join(THEN);
                row.daemons += before.daemons;
                row.promotions += before.promotions;
                if row.trouble.is_empty() {
                    row.trouble = before.trouble;
                }
            }
            self.0.insert(number, row);
        }
        last
    }

    /// Notes that a guest died while it ran this test.
    pub(super) fn guest_died_in(&mut self, number: u32) {
        let result = "FAILED (the guest died)".to_owned();
        self.0.insert(number, Row { result, ..Row::default() });
    }

    /// The tests beside which something was wrong with the daemon, or none ran though the test did.
    pub(super) fn troubles(&self) -> Vec<String> {
        let trouble = |(number, row): (&u32, &Row)| {
            let what = match (row.kind(), row.daemons) {
                (Kind::Pass, 0) => "none ran beside it",
                _ if row.trouble.is_empty() => return None,
                _ => row.trouble.as_str(),
            };
            Some(format!("{number} {}: {what}", row.title))
        };
        self.0.iter().filter_map(trouble).collect()
    }

    fn count(&self, kind: Kind) -> usize {
        self.0.values().filter(|row| row.kind() == kind).count()
    }
}

fn row(line: &str) -> Option<(u32, Row)> {
    let mut fields = line.split('\t');
    let number = fields.next()?.parse().ok()?;
    let mut text = || fields.next().unwrap_or_default().to_owned();
    let (result, seconds, title) = (text(), text(), text());
    let (daemons, promotions) = (text().parse().unwrap_or(0), text().parse().unwrap_or(0));
    Some((number, Row { result, seconds, title, daemons, promotions, trouble: text() }))
}

/// How many tests passed on both sides, and how many were skipped on both.
pub(super) fn alike(without: &Record, with: &Record) -> (u64, u64) {
    let count = |kind| on_both(without, with, kind).count() as u64;
    (count(Kind::Pass), count(Kind::Skip))
}

/// The tests that fail on both sides, and where.
pub(super) fn failures(without: &Record, with: &Record) -> Vec<String> {
    let told = |(number, without, with): (u32, &Row, &Row)| {
        let Row { title, result, .. } = without;
        if *result == with.result {
            format!("{number} {title}: {result}")
        } else {
            format!("{number} {title}: {result} without, {} with", with.result)
        }
    };
    on_both(without, with, Kind::Fail).map(told).collect()
}

/// The tests that ended as `kind` on both sides.
fn on_both<'a>(
    without: &'a Record,
    with: &'a Record,
    kind: Kind,
) -> impl Iterator<Item = (u32, &'a Row, &'a Row)> {
    both(without, with).filter(move |(_, without, with)| without.kind() == kind && with.kind() == kind)
}

/// The tests that ended otherwise on the two sides each time, of those that ran on both.
pub(super) fn differing(without: &Record, with: &Record) -> Vec<u32> {
    both(without, with)
        .filter(|(_, without, with)| without.differs_from(with))
        .map(|(number, ..)| number)
        .collect()
}

/// The same with how they ended.
pub(super) fn differences(without: &Record, with: &Record) -> Vec<String> {
    both(without, with).filter(|(_, without, with)| without.differs_from(with)).map(told).collect()
}

/// The tests that ended otherwise on the two sides the first time, and not each time.
fn varying(without: &Record, with: &Record) -> Vec<String> {
    let varies = |without: &Row, with: &Row| without.kind() != with.kind() && !without.differs_from(with);
    both(without, with).filter(|(_, without, with)| varies(without, with)).map(told).collect()
}

fn both<'a>(without: &'a Record, with: &'a Record) -> impl Iterator<Item = (u32, &'a Row, &'a Row)> {
    without.0.iter().filter_map(|(number, row)| Some((*number, row, with.0.get(number)?)))
}

fn told((number, without, with): (u32, &Row, &Row)) -> String {
    format!("{number} {}: without {}; with {}", without.title, without.result, with.result)
}

/// What the user sees: the counts, what differs, what failed on both sides, and what was wrong with the daemon.
pub(super) fn table(without: &Record, with: &Record) -> String {
    let mut text = format!("{:<8} {:>5} {:>5} {:>5} {:>5}\n", "daemon", "pass", "skip", "fail", "all");
    for (name, record) in [("without", without), ("with", with)] {
        let [pass, skip, fail] = [Kind::Pass, Kind::Skip, Kind::Fail].map(|kind| record.count(kind));
        let _ = writeln!(text, "{name:<8} {pass:>5} {skip:>5} {fail:>5} {:>5}", record.0.len());
    }
    let beside = with.0.values().filter(|row| row.daemons > 0);
    let acted = beside.clone().filter(|row| row.promotions > 0).count();
    let promotions: u64 = with.0.values().map(|row| row.promotions).sum();
    let _ =
        writeln!(text, "beside {} tests; {promotions} promotions, beside {acted} of them", beside.count());
    let one_side = without.0.keys().filter(|number| !with.0.contains_key(number)).count()
        + with.0.keys().filter(|number| !without.0.contains_key(number)).count();
    if one_side > 0 {
        let _ = writeln!(text, "{one_side} ran on one side only");
    }
    let lists: [(&str, Vec<String>); 4] = [
        ("fail on both sides", failures(without, with)),
        ("ended otherwise with the daemon, and as without it when repeated", varying(without, with)),
        ("end otherwise with the daemon", differences(without, with)),
        ("trouble with the daemon", with.troubles()),
    ];
    for (heading, lines) in lists {
        if !lines.is_empty() {
            let _ = writeln!(text, "{heading}:\n  {}", lines.join("\n  "));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(results: &str, beside: &str) -> Record {
        let mut record = Record::default();
        record.merge(results, beside, Earlier::Replaced);
        record
    }

    #[test]
    fn only_how_a_test_ends_makes_a_difference_and_not_where() {
        let without = record("1\tok\t1.0\ta\n2\tFAILED (x.at:7)\t1.0\tb\n3\tok\t1.0\tc\n4\tok\t1.0\td\n", "");
        let with = record("1\tok\t2.0\ta\n2\tFAILED (x.at:9)\t1.0\tb\n3\tskipped (x.at:2)\t1.0\tc\n", "");
        assert_eq!(differences(&without, &with), ["3 c: without ok; with skipped (x.at:2)"]);
        assert!(table(&without, &with).contains("1 ran on one side only"));
        assert_eq!(failures(&without, &with), ["2 b: FAILED (x.at:7) without, FAILED (x.at:9) with"]);
        assert_eq!(alike(&without, &with), (1, 0));
    }

    #[test]
    fn a_test_differs_only_if_it_never_ended_as_on_the_other_side() {
        let mut without = record("1\tok\t1.0\ta\n2\tok\t1.0\tb\n", "");
        let mut with = record("1\tFAILED (x.at:1)\t1.0\ta\n2\tFAILED (x.at:2)\t1.0\tb\n", "");
        assert_eq!(differing(&without, &with), [1, 2]);
        without.merge("1\tok\t1.0\ta\n2\tok\t1.0\tb\n", "", Earlier::Kept);
        with.merge("1\tok\t1.0\ta\n2\tFAILED (x.at:3)\t1.0\tb\n", "1\talive\t0\t5\t0\n", Earlier::Kept);
        assert_eq!(varying(&without, &with), ["1 a: without ok, then ok; with FAILED (x.at:1), then ok"]);
        assert_eq!(
            differences(&without, &with),
            ["2 b: without ok, then ok; with FAILED (x.at:2), then FAILED (x.at:3)"]
        );
        assert_eq!(with.0[&1].promotions, 5);
        assert_eq!(with.0[&1].kind(), Kind::Fail, "the counts are those of the first run");
    }

    #[test]
    fn a_daemon_that_ended_complained_or_never_ran_is_trouble() {
        let results =
            "1\tok\t1.0\ta\n2\tok\t1.0\tb\n3\tok\t1.0\tc\n4\tok\t1.0\td\n5\tskipped (x.at:1)\t1.0\te\n";
        let beside = "1\talive\t0\t5\t0\n1\talive\t0\t2\t0\n2\tended before its ovs-vswitchd\t101\t0\t1\n3\talive\t0\t1\t2\n";
        let record = record(results, beside);
        assert_eq!(record.0[&1].promotions, 7);
        assert_eq!(
            record.troubles(),
            [
                "2 b: it ended before its ovs-vswitchd (status 101)",
                "3 c: 2 errors in its log",
                "4 d: none ran beside it"
            ]
        );
    }

    #[test]
    fn a_later_run_of_some_tests_replaces_only_these() {
        let path = std::env::temp_dir().join(format!("xtask-record-{}.tsv", std::process::id()));
        let mut kept = record("1\tok\t1.0\ta\n2\tok\t1.0\tb\n", "1\talive\t0\t3\t0\n");
        assert_eq!(
            kept.merge("2\tFAILED (x.at:1)\t2.0\tb\n", "2\talive\t1\t4\t0\n", Earlier::Replaced),
            Some(2)
        );
        kept.guest_died_in(3);
        kept.write(&path).unwrap();
        let read = Record::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        assert_eq!(read, kept);
        assert_eq!([Kind::Pass, Kind::Skip, Kind::Fail].map(|kind| read.count(kind)), [1, 0, 2]);
        assert_eq!(read.troubles(), ["2 b: it ended with status 1"]);
    }
}
