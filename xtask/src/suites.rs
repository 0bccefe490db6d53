//! The lab suites: each in its own guest, two guests at a time.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::debian::Release;
use crate::emulation::ran_what_was_patched_away;
use crate::guest::{Machine, Run, Shown, Work};
use crate::kernel::Flavour;
use crate::lab::{Choice, Lab};
use crate::problem::{Doing, Problem};
use crate::test::{Verdict, verdict_of};
use crate::{programs, progress, side_by_side};

/// The longest the suite of one guest may take, and with `--long`.
const SUITE_LIMIT: Duration = Duration::from_secs(40 * 60);
const LONG_SUITE_LIMIT: Duration = Duration::from_secs(3 * 3600);
/// Guests that run at a time. A guest waits for timers and states for much of its time, so that two of them take little
/// longer than one; with `--long` some measure how long things take, and run alone.
const AT_ONCE: usize = 2;

/// The tests that run in one guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Suite {
    /// The name for `--only`.
    pub(crate) name: &'static str,
    /// The guest.
    pub(crate) choice: Choice,
    /// `full`, `release` for what depends on the release, or `conntrack` for what needs a kernel that offloads connections.
    pub(crate) tests: &'static str,
    /// The subjects of its tests, with commas; all but these behind a `-`; empty for all.
    pub(crate) subjects: &'static str,
    /// It runs with `--long` only.
    pub(crate) long: bool,
}

/// All of them, those first that take longest. The full one is in four parts, so that none is what all wait for: what
/// the others leave out is in `lab-faults`, whatever it is.
pub(crate) const ALL: [Suite; 11] = [
    suite("lab-trixie", Release::Trixie, Flavour::Trixie, "lab,ovsdb,steer,doctor,ovn"),
    suite("lab-nics", Release::Trixie, Flavour::Trixie, "simnic,inventory,lifecycle,hot"),
    suite("lab-judge", Release::Trixie, Flavour::Trixie, "judge"),
    suite(
        "lab-faults",
        Release::Trixie,
        Flavour::Trixie,
        "-lab,ovsdb,steer,doctor,ovn,simnic,inventory,lifecycle,hot,judge",
    ),
    Suite { tests: "release", ..suite("lab-bookworm", Release::Bookworm, Flavour::Trixie, "") },
    Suite { tests: "release", ..suite("lab-sid", Release::Sid, Flavour::Sid, "") },
    Suite { tests: "conntrack", ..suite("lab-conntrack", Release::Trixie, Flavour::Ct, "") },
    Suite {
        long: true,
        tests: "conntrack",
        ..suite("lab-conntrack-bookworm", Release::Bookworm, Flavour::Ct, "")
    },
    Suite { long: true, tests: "conntrack", ..suite("lab-conntrack-sid", Release::Sid, Flavour::Ct, "") },
    Suite { long: true, ..suite("lab-ct", Release::Trixie, Flavour::Ct, "") },
    Suite { long: true, ..suite("lab-debug", Release::Trixie, Flavour::Debug, "") },
];

const fn suite(name: &'static str, release: Release, kernel: Flavour, subjects: &'static str) -> Suite {
    Suite { name, choice: Choice { release, kernel }, tests: "full", subjects, long: false }
}

/// A suite with what became of it, and the time that took.
pub(crate) type Ended = (Suite, Verdict, Duration);

impl Suite {
    /// Whether what it tests changes from day to day: it is told loudly, and is no failure of this project.
    pub(crate) fn moves(self) -> bool {
        self.choice.release == Release::Sid || self.choice.kernel == Flavour::Sid
    }

    fn environment(self, long: bool) -> Vec<(String, String)> {
        let ct = matches!(self.choice.kernel, Flavour::Ct | Flavour::Debug);
        let require = match (ct, self.choice.release) {
            (true, Release::Trixie) => "all",
            (true, _) => "simnic,ct,ovn,daemon,strongswan",
            (false, Release::Trixie) => "simnic,ovn,daemon,strongswan,libreswan",
            (false, _) => "simnic,ovn,daemon,strongswan",
        };
        let long = if long { "1" } else { "0" };
        let pairs = [
            ("LAB_SUITE", self.tests),
            ("LAB_SUBJECTS", self.subjects),
            ("LAB_LONG", long),
            ("LAB_LOGS", "/logs"),
            ("REQUIRE", require),
        ];
        pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec()
    }
}

/// Makes what the suites need, one after the other, and runs them. They end in any order.
pub(crate) fn run(repository: &Path, lab: &Lab, suites: &[Suite], long: bool) -> Result<Vec<Ended>, Problem> {
    if suites.is_empty() {
        return Ok(Vec::new());
    }
    eprintln!("\n=== lab ===");
    let (mut ready, mut ended) = (Vec::new(), Vec::new());
    for suite in suites {
        match machine(lab, *suite)? {
            Ok(machine) => ready.push((*suite, machine)),
            Err(why) => ended.push((*suite, Verdict::NotAvailable(why), Duration::ZERO)),
        }
    }
    let programs = programs::build(repository)?;
    let at_once = if long { 1 } else { AT_ONCE.min(ready.len()) };
    ended.extend(side_by_side::run(ready, at_once, |(suite, machine)| {
        let begin = Instant::now();
        let shown = if at_once > 1 { Shown::Behind(suite.name) } else { Shown::AsItIs };
        let verdict = in_guest(repository, &programs, suite, &machine, shown, long)?;
        Ok((suite, verdict, begin.elapsed()))
    })?);
    Ok(ended)
}

/// What the suite's guest is started from; or why that cannot be had today, where it is no failure.
fn machine(lab: &Lab, suite: Suite) -> Result<Result<Machine, String>, Problem> {
    if let (true, Err(problem)) = (suite.moves(), lab.fetch(suite.choice)) {
        eprintln!("\n    sid: not available: {problem}\n");
        return Ok(Err(problem.to_string().lines().last().unwrap_or_default().trim().to_owned()));
    }
    lab.machine(suite.choice).map(Ok)
}

fn in_guest(
    repository: &Path,
    programs: &[PathBuf],
    suite: Suite,
    machine: &Machine,
    shown: Shown<'_>,
    long: bool,
) -> Result<Verdict, Problem> {
    let logs = repository.join("target/lab-logs").join(suite.name);
    // The last run's files are not to be taken for this one's.
    let _ = fs::remove_dir_all(&logs);
    let run = Run {
        repository,
        programs,
        share: None,
        logs: &logs,
        topology: None,
        environment: suite.environment(long),
        shown,
        work: Work::Command(vec!["lab-tests".to_owned()]),
        time_limit: Some(if long { LONG_SUITE_LIMIT } else { SUITE_LIMIT }),
    };
    let Choice { release, kernel } = suite.choice;
    let title = format!("{}: suite `{}` on {release} with kernel {kernel}", suite.name, suite.tests);
    let mut broke_off = None;
    let mut ended = progress::step(&title, || run.on(machine));
    if ended.is_err() && !machine.kvm && is_emulations_fault(&logs)? {
        eprintln!(
            "    {}: the guest's kernel died of a breakpoint that was not in its memory, which is QEMU's emulation (docs/lab.md): \
             once more",
            suite.name
        );
        ended = progress::step(&title, || run.on(machine));
    }
    let success = match ended {
        Ok(status) => status == 0,
        Err(Problem::Failed(why)) => {
            eprintln!("    {why}");
            broke_off = Some(why);
            false
        }
        Err(problem) => return Err(problem),
    };
    let output = fs::read(logs.join("output.log")).unwrap_or_default();
    let mut output = String::from_utf8_lossy(&output).into_owned();
    output.extend(broke_off.map(|why| format!("\n{why}\n")));
    Ok(verdict_of(&output, success))
}

/// Whether a guest ended of what its processors were emulated wrong, by its console, which is kept under another name.
fn is_emulations_fault(logs: &Path) -> Result<bool, Problem> {
    let console = logs.join("console.log");
    let said = fs::read(&console).unwrap_or_default();
    let is_so = ran_what_was_patched_away(&String::from_utf8_lossy(&said));
    if is_so {
        let kept = logs.join("console-int3.log");
        fs::rename(&console, &kept).doing(|| format!("keep {}", console.display()))?;
    }
    Ok(is_so)
}
