//! `cargo xtask test`: every check and every test, in parts, with one summary at the end.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::command::shown;
use crate::debian::Release;
use crate::guest::{Run, Work, pass};
use crate::kernel::Flavour;
use crate::lab::{Choice, Lab};
use crate::problem::{Doing, Problem};
use crate::programs::{self, cargo_for_guest};
use crate::progress;
use crate::{pure, tools};

/// The longest the suite of one guest may take, and with `--long`.
const SUITE_LIMIT: Duration = Duration::from_secs(40 * 60);
const LONG_SUITE_LIMIT: Duration = Duration::from_secs(3 * 3600);
/// How long each fuzz target runs, in seconds, and with `--long`.
const FUZZ_S: &str = "10";
const LONG_FUZZ_S: &str = "300";

/// A part of the tests that can be run by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Fmt,
    Clippy,
    Doc,
    Deny,
    Pure,
    Unit,
    Fuzz,
    /// The lab suite on this guest; all of it, or what depends on the release.
    Guest {
        name: &'static str,
        choice: Choice,
        suite: &'static str,
        long: bool,
    },
}

const fn guest(
    name: &'static str,
    release: Release,
    kernel: Flavour,
    suite: &'static str,
    long: bool,
) -> Part {
    Part::Guest { name, choice: Choice { release, kernel }, suite, long }
}

impl Part {
    /// Every part, in the order they run: what fails fastest comes first.
    pub(crate) const ALL: [Self; 12] = [
        Self::Fmt,
        Self::Clippy,
        Self::Pure,
        Self::Doc,
        Self::Deny,
        Self::Unit,
        Self::Fuzz,
        guest("lab-trixie", Release::Trixie, Flavour::Trixie, "full", false),
        guest("lab-bookworm", Release::Bookworm, Flavour::Trixie, "release", false),
        guest("lab-sid", Release::Sid, Flavour::Sid, "release", false),
        guest("lab-ct", Release::Trixie, Flavour::Ct, "full", true),
        guest("lab-debug", Release::Trixie, Flavour::Debug, "full", true),
    ];

    /// The name for `--only`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Fmt => "fmt",
            Self::Clippy => "clippy",
            Self::Doc => "doc",
            Self::Deny => "deny",
            Self::Pure => "pure",
            Self::Unit => "unit",
            Self::Fuzz => "fuzz",
            Self::Guest { name, .. } => name,
        }
    }

    /// Whether it runs with `--long` only.
    fn long(self) -> bool {
        matches!(self, Self::Guest { long: true, .. })
    }

    /// Whether what it tests changes from day to day: it is told loudly, and is no failure of this project.
    fn moving(self) -> bool {
        let sid = |choice: Choice| choice.release == Release::Sid || choice.kernel == Flavour::Sid;
        matches!(self, Self::Guest { choice, .. } if sid(choice))
    }
}

/// What became of a part.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// It ran: tests (a check counts as one) that passed and failed.
    Ran { passed: u64, failed: u64, ignored: u64 },
    /// It cannot be had today, which is no failure, and this is why.
    NotAvailable(String),
}

struct Report {
    part: Part,
    verdict: Verdict,
    elapsed: Duration,
}

/// Runs `only` these parts, or all.
pub(crate) fn run(repository: &Path, only: &[Part], long: bool) -> Result<(), Problem> {
    let chosen = |part: &Part| if only.is_empty() { long || !part.long() } else { only.contains(part) };
    let parts: Vec<Part> = Part::ALL.into_iter().filter(chosen).collect();
    tools::toolchain_components(repository)?;
    // Set-up comes before the first test: what is missing shows at once, not after half an hour.
    let lab = Lab::open(repository)?;
    let tests = Tests { repository, lab, long };
    let mut reports = Vec::new();
    for part in parts {
        eprintln!("\n=== {} ===", part.name());
        let begin = Instant::now();
        let verdict = tests.run(part)?;
        reports.push(Report { part, verdict, elapsed: begin.elapsed() });
    }
    summarise(&reports)
}

fn summarise(reports: &[Report]) -> Result<(), Problem> {
    let (mut all_passed, mut all_failed) = (0, 0);
    println!("\n{:<14} {:>7} {:>7} {:>8} {:>13}", "part", "passed", "failed", "ignored", "time");
    for report in reports {
        let (name, time) = (report.part.name(), progress::seconds(report.elapsed));
        match &report.verdict {
            Verdict::Ran { passed, failed, ignored } => {
                let allowed = *failed > 0 && report.part.moving();
                let remark = if allowed { "   FAILED, which is allowed: sid moves" } else { "" };
                println!("{name:<14} {passed:>7} {failed:>7} {ignored:>8} {time:>13}{remark}");
                all_passed += passed;
                all_failed += if allowed { 0 } else { *failed };
            }
            Verdict::NotAvailable(why) => println!("{name:<14} NOT AVAILABLE: {why}"),
        }
    }
    println!("\n{all_passed} passed, {all_failed} failed");
    if all_failed == 0 { Ok(()) } else { Err(Problem::Failed("Some tests failed.".to_owned())) }
}

struct Tests<'a> {
    repository: &'a Path,
    lab: Lab,
    long: bool,
}

impl Tests<'_> {
    fn run(&self, part: Part) -> Result<Verdict, Problem> {
        match part {
            Part::Fmt => self.check("fmt", self.cargo(&["fmt", "--all", "--check"])),
            Part::Clippy => self.check(
                "clippy",
                self.cargo(&["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"]),
            ),
            Part::Doc => {
                let mut doc = self.cargo(&["doc", "--quiet", "--workspace", "--no-deps"]);
                doc.env("RUSTDOCFLAGS", "-D warnings");
                self.check("doc", doc)
            }
            Part::Deny => {
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
            Part::Pure => match pure::check(self.repository) {
                Ok(check) => self.check("pure", check),
                Err(problem) => {
                    progress::note(&problem.to_string());
                    Ok(Verdict::Ran { passed: 0, failed: 1, ignored: 0 })
                }
            },
            Part::Unit => {
                let mut test = cargo_for_guest("test", self.repository)?;
                test.args(["--quiet", "--workspace", "--no-fail-fast"]);
                self.suite("unit", test)
            }
            Part::Fuzz => self.fuzz(),
            Part::Guest { name, choice, suite, .. } => self.guest(part, name, choice, suite),
        }
    }

    fn cargo(&self, arguments: &[&str]) -> Command {
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.current_dir(self.repository).args(arguments);
        cargo
    }

    /// A command that counts as one test.
    fn check(&self, name: &str, command: Command) -> Result<Verdict, Problem> {
        let (success, _) = self.watched(name, command)?;
        Ok(Verdict::Ran { passed: u64::from(success), failed: u64::from(!success), ignored: 0 })
    }

    /// A command that prints the results of tests as cargo test does.
    fn suite(&self, name: &str, command: Command) -> Result<Verdict, Problem> {
        let (success, output) = self.watched(name, command)?;
        Ok(verdict_of(&output, success))
    }

    /// Runs `command` with its output shown and kept: whether it succeeded, and that output.
    fn watched(&self, name: &str, mut command: Command) -> Result<(bool, String), Problem> {
        let log = self.repository.join("target/lab-logs").join(format!("{name}.log"));
        fs::create_dir_all(self.repository.join("target/lab-logs"))
            .doing(|| "make target/lab-logs".to_owned())?;
        let keep = File::create(&log).doing(|| format!("write {}", log.display()))?;
        let keep_err = keep.try_clone().doing(|| format!("write {}", log.display()))?;
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().doing(|| format!("start `{}`", shown(&command)))?;
        let readers = [
            pass(child.stdout.take(), keep, std::io::stdout()),
            pass(child.stderr.take(), keep_err, std::io::stderr()),
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
        let program = tools::CARGO_FUZZ.path(self.lab.cache())?;
        let targets = fuzz_targets(self.repository)?;
        let mut seed = Command::new("python3");
        seed.current_dir(self.repository).arg("fuzz/seed.py");
        let (seeded, _) = self.watched("fuzz-seed", seed)?;
        let seconds = format!("-max_total_time={}", if self.long { LONG_FUZZ_S } else { FUZZ_S });
        let (mut passed, mut failed) = (0, u64::from(!seeded));
        for target in targets {
            let mut fuzz = Command::new(&program);
            // No sanitizer: it needs a nightly compiler, and the crates that are fuzzed forbid unsafe code.
            fuzz.current_dir(self.repository).args(["fuzz", "run", "--sanitizer", "none", &target, "--"]);
            fuzz.args([
                &seconds,
                "-timeout=10",
                "-rss_limit_mb=2048",
                "-verbosity=0",
                "-print_final_stats=1",
            ]);
            let (success, _) = self.watched(&format!("fuzz-{target}"), fuzz)?;
            progress::note(&format!("fuzz target {target}: {}", if success { "ok" } else { "FAILED" }));
            passed += u64::from(success);
            failed += u64::from(!success);
        }
        Ok(Verdict::Ran { passed, failed, ignored: 0 })
    }

    fn guest(&self, part: Part, name: &str, choice: Choice, suite: &str) -> Result<Verdict, Problem> {
        if let (true, Err(problem)) = (part.moving(), self.lab.fetch(choice)) {
            eprintln!("\n    sid: not available: {problem}\n");
            return Ok(Verdict::NotAvailable(
                problem.to_string().lines().last().unwrap_or_default().trim().to_owned(),
            ));
        }
        let machine = self.lab.machine(choice)?;
        let programs = programs::build(self.repository)?;
        let logs = self.repository.join("target/lab-logs").join(name);
        // The last run's files are not to be taken for this one's.
        let _ = fs::remove_dir_all(&logs);
        let run = Run {
            repository: self.repository,
            programs: &programs,
            share: None,
            logs: &logs,
            topology: None,
            environment: self.suite_environment(choice, suite),
            quiet: false,
            work: Work::Command(vec!["lab-tests".to_owned()]),
            time_limit: Some(if self.long { LONG_SUITE_LIMIT } else { SUITE_LIMIT }),
        };
        let ended = progress::step(
            &format!("lab suite `{suite}` on {} with kernel {}", choice.release, choice.kernel),
            || run.on(&machine),
        );
        let success = match ended {
            Ok(status) => status == 0,
            Err(Problem::Failed(why)) => {
                eprintln!("    {why}");
                false
            }
            Err(problem) => return Err(problem),
        };
        let output = fs::read(logs.join("output.log")).unwrap_or_default();
        Ok(verdict_of(&String::from_utf8_lossy(&output), success))
    }

    fn suite_environment(&self, choice: Choice, suite: &str) -> Vec<(String, String)> {
        let ct = matches!(choice.kernel, Flavour::Ct | Flavour::Debug);
        let require = if ct { "all" } else { "simnic,ovn,daemon" };
        let long = if self.long { "1" } else { "0" };
        let pairs = [("LAB_SUITE", suite), ("LAB_LONG", long), ("LAB_LOGS", "/logs"), ("REQUIRE", require)];
        pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec()
    }
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
fn verdict_of(output: &str, success: bool) -> Verdict {
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
    Verdict::Ran { passed, failed, ignored }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_all_test_programs_are_added_up() {
        let output = "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; finished in 1.00s\n\
                      test a ... FAILED\n\
                      test result: FAILED. 4 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.10s\n";
        assert_eq!(verdict_of(output, false), Verdict::Ran { passed: 7, failed: 2, ignored: 1 });
    }

    #[test]
    fn a_run_that_breaks_off_counts_as_a_failure() {
        assert_eq!(verdict_of("", false), Verdict::Ran { passed: 0, failed: 1, ignored: 0 });
        let cut = "test result: ok. 3 passed; 0 failed; 0 ignored\n";
        assert_eq!(verdict_of(cut, false), Verdict::Ran { passed: 3, failed: 1, ignored: 0 });
    }
}
