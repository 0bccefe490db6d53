//! `cargo xtask test`: every check and every test, in parts, with one summary at the end.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::command::shown;
use crate::guest::{Shown, pass};
use crate::lab::Lab;
use crate::problem::{Doing, Problem};
use crate::programs::cargo_for_guest;
use crate::progress;
use crate::suites::{self, Suite};
use crate::{ovs_testsuite, pure, side_by_side, tools};

/// How long each fuzz target runs, in seconds, and with `--long`.
const FUZZ_S: &str = "10";
const LONG_FUZZ_S: &str = "300";
/// Fuzz targets that run at a time.
const FUZZ_AT_ONCE: usize = 2;
/// Lines that the end of a run repeats of what a part told of its failures, and of a part that broke off.
const TOLD_LINES: usize = 60;
const LAST_LINES: usize = 30;

/// A check or a suite that runs on this machine, not in a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Check {
    Fmt,
    Clippy,
    Doc,
    Deny,
    Pure,
    Unit,
    Fuzz,
}

impl Check {
    /// All of them, in the order they run: what fails fastest comes first.
    const ALL: [Self; 7] =
        [Self::Fmt, Self::Clippy, Self::Pure, Self::Doc, Self::Deny, Self::Unit, Self::Fuzz];

    fn name(self) -> &'static str {
        match self {
            Self::Fmt => "fmt",
            Self::Clippy => "clippy",
            Self::Doc => "doc",
            Self::Deny => "deny",
            Self::Pure => "pure",
            Self::Unit => "unit",
            Self::Fuzz => "fuzz",
        }
    }
}

/// A part of the tests that can be run by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Check(Check),
    Suite(Suite),
    /// Some of Open vSwitch's own tests, with the daemon and without.
    OvsTestsuite,
}

impl Part {
    /// Every part: checks, then suites in guests.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        let suites = suites::ALL.into_iter().map(Self::Suite);
        Check::ALL.into_iter().map(Self::Check).chain(suites).chain([Self::OvsTestsuite])
    }

    /// The name for `--only`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Check(check) => check.name(),
            Self::Suite(suite) => suite.name,
            Self::OvsTestsuite => "ovs-testsuite",
        }
    }

    /// Whether it runs with `--long` only.
    fn long(self) -> bool {
        matches!(self, Self::Suite(Suite { long: true, .. }) | Self::OvsTestsuite)
    }
}

/// What became of a part.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It ran: tests (a check counts as one) that passed and failed, and what it told of those that failed.
    Ran { passed: u64, failed: u64, ignored: u64, told: Vec<String> },
    /// It cannot be had today, which is no failure, and this is why.
    NotAvailable(String),
}

struct Report {
    name: &'static str,
    verdict: Verdict,
    elapsed: Duration,
    /// A failure is told, and is none of this project's.
    may_fail: bool,
}

/// Runs `only` these parts, or all.
pub(crate) fn run(repository: &Path, only: &[Part], long: bool) -> Result<(), Problem> {
    let chosen = |part: &Part| if only.is_empty() { long || !part.long() } else { only.contains(part) };
    let parts: Vec<Part> = Part::all().filter(chosen).collect();
    let begin = Instant::now();
    tools::toolchain_components(repository)?;
    // Set-up comes before the first test: what is missing shows at once, not after half an hour.
    let lab = Lab::open(repository)?;
    let tests = Tests { repository, lab, long };
    let (mut reports, mut in_guests) = (Vec::new(), Vec::new());
    let ovs_testsuite = parts.contains(&Part::OvsTestsuite);
    for part in parts {
        let check = match part {
            Part::Check(check) => check,
            Part::Suite(suite) => {
                in_guests.push(suite);
                continue;
            }
            Part::OvsTestsuite => continue,
        };
        eprintln!("\n=== {} ===", check.name());
        let begin = Instant::now();
        let verdict = tests.run(check)?;
        reports.push(Report { name: check.name(), verdict, elapsed: begin.elapsed(), may_fail: false });
    }
    for (suite, verdict, elapsed) in suites::run(repository, &tests.lab, &in_guests, long)? {
        reports.push(Report { name: suite.name, verdict, elapsed, may_fail: suite.moves() });
    }
    if ovs_testsuite {
        let (name, begin) = (Part::OvsTestsuite.name(), Instant::now());
        eprintln!("\n=== {name} ===");
        let verdict = ovs_testsuite::sample(repository, &tests.lab)?;
        reports.push(Report { name, verdict, elapsed: begin.elapsed(), may_fail: false });
    }
    summarise(&reports, begin.elapsed())
}

fn summarise(reports: &[Report], in_all: Duration) -> Result<(), Problem> {
    let (mut all_passed, mut all_failed) = (0, 0);
    repeat_failures(reports);
    println!("\n{:<14} {:>7} {:>7} {:>8} {:>13}", "part", "passed", "failed", "ignored", "time");
    for report in reports {
        let (name, time) = (report.name, progress::seconds(report.elapsed));
        match &report.verdict {
            Verdict::Ran { passed, failed, ignored, .. } => {
                let allowed = *failed > 0 && report.may_fail;
                let remark = if allowed { "   FAILED, which is allowed: sid moves" } else { "" };
                println!("{name:<14} {passed:>7} {failed:>7} {ignored:>8} {time:>13}{remark}");
                all_passed += passed;
                all_failed += if allowed { 0 } else { *failed };
            }
            Verdict::NotAvailable(why) => println!("{name:<14} NOT AVAILABLE: {why}"),
        }
    }
    println!("\n{all_passed} passed, {all_failed} failed, in {}", progress::seconds(in_all));
    if all_failed == 0 { Ok(()) } else { Err(Problem::Failed("Some tests failed.".to_owned())) }
}

/// What failed, once more: of a long run often only the last lines are kept, and suites run at the same time.
fn repeat_failures(reports: &[Report]) {
    for report in reports {
        let Verdict::Ran { told, .. } = &report.verdict else { continue };
        if !told.is_empty() {
            println!("\n=== what failed in {} ===\n{}", report.name, told.join("\n"));
        }
    }
}

struct Tests<'a> {
    repository: &'a Path,
    lab: Lab,
    long: bool,
}

impl Tests<'_> {
    fn run(&self, check: Check) -> Result<Verdict, Problem> {
        match check {
            Check::Fmt => self.check("fmt", self.cargo(&["fmt", "--all", "--check"])),
            Check::Clippy => self.check(
                "clippy",
                self.cargo(&["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"]),
            ),
            Check::Doc => {
                let mut doc = self.cargo(&["doc", "--quiet", "--workspace", "--no-deps"]);
                doc.env("RUSTDOCFLAGS", "-D warnings");
                self.check("doc", doc)
            }
            Check::Deny => {
                tools::dependencies(self.repository)?;
                let mut deny = Command::new(tools::CARGO_DENY.path(self.lab.cache())?);
                deny.current_dir(self.repository).args([
                    "--offline",
                    "check",
                    "--hide-inclusion-graph",
                    "licenses",
                    "bans",
                    "sources",
                ]);
                self.check("deny", deny)
            }
            Check::Pure => match pure::check(self.repository) {
                Ok(check) => self.check("pure", check),
                Err(problem) => {
                    let told = vec![problem.to_string()];
                    Ok(Verdict::Ran { passed: 0, failed: 1, ignored: 0, told })
                }
            },
            Check::Unit => {
                let mut test = cargo_for_guest("test", self.repository)?;
                test.args(["--quiet", "--workspace", "--no-fail-fast"]);
                self.suite("unit", test)
            }
            Check::Fuzz => self.fuzz(),
        }
    }

    fn cargo(&self, arguments: &[&str]) -> Command {
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.current_dir(self.repository).args(arguments);
        cargo
    }

    /// A command that counts as one test.
    fn check(&self, name: &str, command: Command) -> Result<Verdict, Problem> {
        let (success, output) = self.watched(name, command, Shown::AsItIs)?;
        let told = if success { Vec::new() } else { last_lines(&output) };
        Ok(Verdict::Ran { passed: u64::from(success), failed: u64::from(!success), ignored: 0, told })
    }

    /// A command that prints the results of tests as cargo test does.
    fn suite(&self, name: &str, command: Command) -> Result<Verdict, Problem> {
        let (success, output) = self.watched(name, command, Shown::AsItIs)?;
        Ok(verdict_of(&output, success))
    }

    /// Runs `command` with its output shown and kept: whether it succeeded, and that output.
    fn watched(&self, name: &str, mut command: Command, show: Shown<'_>) -> Result<(bool, String), Problem> {
        let log = self.repository.join("target/lab-logs").join(format!("{name}.log"));
        fs::create_dir_all(self.repository.join("target/lab-logs"))
            .doing(|| "make target/lab-logs".to_owned())?;
        let keep = File::create(&log).doing(|| format!("write {}", log.display()))?;
        let keep_err = keep.try_clone().doing(|| format!("write {}", log.display()))?;
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().doing(|| format!("start `{}`", shown(&command)))?;
        let readers = [
            pass(child.stdout.take(), keep, show.writer(std::io::stdout())),
            pass(child.stderr.take(), keep_err, show.writer(std::io::stderr())),
        ];
        let status = child.wait().doing(|| format!("wait for `{}`", shown(&command)))?;
        for reader in readers.into_iter().flatten() {
            // A reader thread only ends; it has nothing to say.
            let _ = reader.join();
        }
        let output = fs::read(&log).doing(|| format!("read {}", log.display()))?;
        Ok((status.success(), String::from_utf8_lossy(&output).into_owned()))
    }

    fn fuzz(&self) -> Result<Verdict, Problem> {
        let targets = fuzz_targets(self.repository)?;
        let mut seed = Command::new("python3");
        seed.current_dir(self.repository).arg("fuzz/seed.py");
        let (seeded, _) = self.watched("fuzz-seed", seed, Shown::AsItIs)?;
        // All at once, for two builds would wait for each other.
        let (built, _) = self.watched("fuzz-build", self.cargo_fuzz("build")?, Shown::AsItIs)?;
        let mut told = vec![told_unless(seeded, "seed"), told_unless(built, "build")];
        if built {
            told.extend(side_by_side::run(targets, FUZZ_AT_ONCE, |target| {
                Ok(told_unless(self.fuzz_target(&target)?, &target))
            })?);
        }
        let run = told.len() as u64;
        let told: Vec<String> = told.into_iter().flatten().collect();
        let failed = told.len() as u64;
        Ok(Verdict::Ran { passed: run - failed, failed, ignored: 0, told })
    }

    /// Runs a fuzz target for its time: whether nothing was found.
    fn fuzz_target(&self, target: &str) -> Result<bool, Problem> {
        let mut fuzz = self.cargo_fuzz("run")?;
        let seconds = format!("-max_total_time={}", if self.long { LONG_FUZZ_S } else { FUZZ_S });
        fuzz.args([
            target,
            "--",
            &seconds,
            "-timeout=10",
            "-rss_limit_mb=2048",
            "-verbosity=0",
            "-print_funcs=0",
        ]);
        fuzz.arg("-print_final_stats=1");
        let (success, _) = self.watched(&format!("fuzz-{target}"), fuzz, Shown::Behind(target))?;
        progress::note(&format!("fuzz target {target}: {}", if success { "ok" } else { "FAILED" }));
        Ok(success)
    }

    fn cargo_fuzz(&self, verb: &str) -> Result<Command, Problem> {
        let mut fuzz = Command::new(tools::CARGO_FUZZ.path(self.lab.cache())?);
        // No sanitizer: it needs a nightly compiler, and the crates that are fuzzed forbid unsafe code.
        fuzz.current_dir(self.repository).args(["fuzz", verb, "--sanitizer", "none"]);
        Ok(fuzz)
    }
}

/// Where a fuzzing step that failed left its words.
fn told_unless(success: bool, step: &str) -> Option<String> {
    (!success).then(|| format!("fuzz-{step}: see target/lab-logs/fuzz-{step}.log"))
}

/// The names of the fuzz targets: the programs of fuzz/Cargo.toml.
fn fuzz_targets(repository: &Path) -> Result<Vec<String>, Problem> {
    let dir: PathBuf = repository.join("fuzz/fuzz_targets");
    let mut names = Vec::new();
    for found in fs::read_dir(&dir).doing(|| format!("read {}", dir.display()))? {
        let path = found.doing(|| format!("read {}", dir.display()))?.path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            names.push(path.file_stem().unwrap_or_default().to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// Adds up the lines `test result: …`. A run that failed without one failed test counts as one: it broke off.
pub(crate) fn verdict_of(output: &str, success: bool) -> Verdict {
    let (mut passed, mut failed, mut ignored) = (0, 0, 0);
    for line in output.lines().filter_map(|line| line.strip_prefix("test result: ")) {
        let count = |what: &str| {
            let part = line.split([';', '.']).find_map(|part| part.trim().strip_suffix(what));
            part.and_then(|number| number.trim().parse::<u64>().ok()).unwrap_or(0)
        };
        passed += count(" passed");
        failed += count(" failed");
        ignored += count(" ignored");
    }
    if !success && failed == 0 {
        failed = 1;
    }
    let mut told = if failed > 0 { told_of_failures(output) } else { Vec::new() };
    if told.is_empty() && failed > 0 {
        told = last_lines(output);
    }
    Verdict::Ran { passed, failed, ignored, told }
}

/// The lines between `failures:` and `test result:`, as test programs print them.
fn told_of_failures(output: &str) -> Vec<String> {
    let mut within = false;
    let told = output.lines().filter(|line| {
        within = (within || *line == "failures:") && !line.starts_with("test result: ");
        within && !line.trim().is_empty()
    });
    told.take(TOLD_LINES).map(str::to_owned).collect()
}

/// The last lines of `output`, for what broke off says there why.
fn last_lines(output: &str) -> Vec<String> {
    let lines: Vec<&str> = output.lines().collect();
    lines[lines.len().saturating_sub(LAST_LINES)..].iter().map(|line| (*line).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(output: &str, success: bool) -> (u64, u64, u64) {
        match verdict_of(output, success) {
            Verdict::Ran { passed, failed, ignored, .. } => (passed, failed, ignored),
            Verdict::NotAvailable(why) => panic!("it ran: {why}"),
        }
    }

    fn told(output: &str, success: bool) -> Vec<String> {
        match verdict_of(output, success) {
            Verdict::Ran { told, .. } => told,
            Verdict::NotAvailable(why) => panic!("it ran: {why}"),
        }
    }

    #[test]
    fn results_of_all_test_programs_are_added_up() {
        let output = "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; finished in 1.00s\n\
                      test a ... FAILED\n\
                      test result: FAILED. 4 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.10s\n";
        assert_eq!(counts(output, false), (7, 2, 1));
    }

    #[test]
    fn a_run_that_breaks_off_counts_as_a_failure_and_its_last_words_are_repeated() {
        assert_eq!(counts("", false), (0, 1, 0));
        let cut = "test result: ok. 3 passed; 0 failed; 0 ignored\nthe guest is gone\n";
        assert_eq!(counts(cut, false), (3, 1, 0));
        assert_eq!(told(cut, false).last().map(String::as_str), Some("the guest is gone"));
    }

    #[test]
    fn the_failures_of_all_test_programs_are_repeated_and_nothing_else() {
        let output = "test a ... FAILED\n\nfailures:\n\n---- a ----\n1 of 3 packets lost\n\n\nfailures:\n    a\n\n\
                      test result: FAILED. 1 passed; 1 failed; 0 ignored\nrunning 1 test\ntest b ... ok\n\
                      test result: ok. 1 passed; 0 failed; 0 ignored\n";
        assert_eq!(
            told(output, false),
            ["failures:", "---- a ----", "1 of 3 packets lost", "failures:", "    a"]
        );
        assert_eq!(told("test result: ok. 1 passed; 0 failed; 0 ignored\n", true), [""; 0]);
    }
}
