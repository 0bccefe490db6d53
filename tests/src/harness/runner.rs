//! Tests as table entries, and how one is run: alone, in its own directory, with the kernel's log watched.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Completion, Failed, Trial};

use super::kernel_log::{self, KernelLog};
use super::need::required;
use super::{Need, Outcome};

/// Bytes of the name of a test's directory: the path of a socket in it has at most 107 (`sun_path` of unix(7)).
const DIR_NAME_MAX: usize = 32;

/// One test.
#[derive(Debug, Clone, Copy)]
pub struct Test {
    name: &'static str,
    run: fn(&mut Lab) -> Outcome,
    needs: &'static [Need],
    per_release: bool,
    long: bool,
    complaint_of_its_own: Option<&'static str>,
}

impl Test {
    /// A test that states the fact `name`.
    pub const fn new(name: &'static str, run: fn(&mut Lab) -> Outcome) -> Self {
        Self { name, run, needs: &[], per_release: false, long: false, complaint_of_its_own: None }
    }

    /// It cannot run without these.
    pub const fn needs(mut self, needs: &'static [Need]) -> Self {
        self.needs = needs;
        self
    }

    /// Its result depends on the guest's release (Open vSwitch, kernel): it is part of the suite `release`.
    pub const fn per_release(mut self) -> Self {
        self.per_release = true;
        self
    }

    /// Whether it is one of that suite.
    fn is_in(&self, suite: &str) -> bool {
        match suite {
            "release" => self.per_release,
            "conntrack" => self.needs.contains(&Need::Ct),
            _ => true,
        }
    }

    /// What it does has the kernel complain with lines that have this in them, by no fault of ours; how often is printed.
    pub const fn has_the_kernel_complain(mut self, of: &'static str) -> Self {
        self.complaint_of_its_own = Some(of);
        self
    }

    /// It takes minutes: it runs with `LAB_LONG=1` only.
    pub const fn long(mut self) -> Self {
        self.long = true;
        self
    }
}

/// The table entry of a test function: its name is the function's.
#[macro_export]
macro_rules! fact {
    ($function:ident) => {
        $crate::harness::Test::new(stringify!($function), $function)
    };
}

/// The place a test runs in.
#[derive(Debug)]
pub struct Lab {
    dir: PathBuf,
    made: u32,
}

impl Lab {
    /// A fresh place in `dir`, whose content is lost.
    pub fn at(dir: &Path) -> Outcome<Self> {
        let _ = fs::remove_dir_all(dir);
        fs::create_dir_all(dir)?;
        Ok(Self { dir: dir.to_path_buf(), made: 0 })
    }

    /// A directory of the test's own; what is in it is kept when the test fails.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A name that nothing else in the guest has, `word` within it; at most 15 bytes when `word` has at most 8.
    pub fn unique(&mut self, word: &str) -> String {
        self.made += 1;
        format!("t{}{word}", self.made)
    }
}

/// Runs the tests that the command line and the environment select.
pub fn run_all(subjects: &[(&str, &[Test])]) -> ExitCode {
    let mut arguments = Arguments::from_args();
    // One guest, one Open vSwitch datapath, one kernel log: tests take turns.
    arguments.test_threads = Some(1);
    let required = match required(&std::env::var("REQUIRE").unwrap_or_default()) {
        Ok(required) => required,
        Err(wrong) => {
            eprintln!("lab-tests: {wrong}.");
            return ExitCode::from(2);
        }
    };
    let chosen = Subjects::named(&std::env::var("LAB_SUBJECTS").unwrap_or_default());
    if let Some(unknown) = chosen.names.iter().find(|name| !subjects.iter().any(|(known, _)| known == name)) {
        eprintln!("lab-tests: LAB_SUBJECTS names `{unknown}`, and there is no such subject.");
        return ExitCode::from(2);
    }
    let suite = std::env::var("LAB_SUITE").unwrap_or_default();
    let with_long = std::env::var("LAB_LONG").is_ok_and(|value| value == "1");
    let times = Times::default();
    let mut trials = Vec::new();
    for (subject, tests) in subjects.iter().filter(|(subject, _)| chosen.has(subject)) {
        for test in *tests {
            if !test.is_in(&suite) || (test.long && !with_long) {
                continue;
            }
            let (test, required, times) = (*test, required.clone(), times.clone());
            let name = format!("{subject}::{}", test.name);
            trials.push(Trial::ignorable_test(name.clone(), move || {
                let begin = Instant::now();
                let result = run_one(&name, &test, &required);
                times.note(begin.elapsed(), name);
                result
            }));
        }
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    if !arguments.list {
        times.print();
    }
    conclusion.exit_code()
}

/// Subjects as `LAB_SUBJECTS` names them.
#[derive(Debug)]
struct Subjects {
    names: Vec<String>,
    /// All but these.
    but: bool,
}

impl Subjects {
    fn named(text: &str) -> Self {
        let (but, names) = text.strip_prefix('-').map_or((false, text), |names| (true, names));
        let names: Vec<String> =
            names.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect();
        Self { but: but || names.is_empty(), names }
    }

    fn has(&self, subject: &str) -> bool {
        self.names.iter().any(|name| name == subject) != self.but
    }
}

/// How long tests took: a suite that grows beyond its time is mended where the time goes.
#[derive(Debug, Clone, Default)]
struct Times(Arc<Mutex<Vec<(Duration, String)>>>);

impl Times {
    /// Tests that are told.
    const SHOWN: usize = 12;

    fn note(&self, took: Duration, name: String) {
        if let Ok(mut all) = self.0.lock() {
            all.push((took, name));
        }
    }

    fn print(&self) {
        let Ok(mut all) = self.0.lock() else { return };
        all.sort_by(|a, b| b.cmp(a));
        println!("the slowest tests:");
        for (took, name) in all.iter().take(Self::SHOWN) {
            println!("{:>8.1} s  {name}", took.as_secs_f64());
        }
    }
}

fn run_one(name: &str, test: &Test, required: &[Need]) -> Result<Completion, Failed> {
    for need in test.needs {
        match need.lacking() {
            Some(reason) if required.contains(need) => {
                return Err(format!("{} is required: {reason}", need.name()).into());
            }
            Some(reason) => return Ok(Completion::ignored_with(reason)),
            None => {}
        }
    }
    let dir = PathBuf::from("/run/lab-tests").join(dir_name(name));
    let prepared = prepare(&dir);
    let (mut lab, mut log) = prepared.map_err(|failure| Failed::from(failure.to_string()))?;
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| (test.run)(&mut lab)));
    let messages = log.read();
    let failure = match result {
        Ok(Ok(())) => {
            complaint(test, &messages).map(|complaint| format!("the kernel complained: {complaint}"))
        }
        Ok(Err(failure)) => Some(failure.to_string()),
        Err(panic) => Some(format!("panicked: {}", panic_text(&*panic))),
    };
    let Some(failure) = failure else {
        // The directory is of no use any more; a failure to remove it costs memory and nothing else.
        let _ = fs::remove_dir_all(&dir);
        return Ok(Completion::Completed);
    };
    let _ = fs::write(dir.join("kernel.log"), messages);
    let kept = keep(&dir, name).unwrap_or_else(|lost| format!("could not be kept: {lost}"));
    // Told again at the end; but a suite that is stopped before never comes to its end.
    eprintln!("{name}: {failure}");
    Err(format!("{failure}\nlogs: {kept}").into())
}

/// The first complaint of the kernel that is none of those which the test is known to bring about.
fn complaint(test: &Test, messages: &str) -> Option<String> {
    let is_its_own = |line: &&str| test.complaint_of_its_own.is_some_and(|of| line.contains(of));
    let (own, others): (Vec<&str>, Vec<&str>) = messages.lines().partition(is_its_own);
    if let Some(first) = own.first() {
        println!("    {} times the kernel complained: {first}", own.len());
    }
    kernel_log::complaint(&others.join("\n")).map(str::to_owned)
}

fn dir_name(test: &str) -> String {
    test.replace("::", "-").chars().take(DIR_NAME_MAX).collect()
}

fn prepare(dir: &Path) -> Outcome<(Lab, KernelLog)> {
    Ok((Lab::at(dir)?, KernelLog::from_now()?))
}

/// Copies a failed test's directory to where the host finds it, without sockets.
fn keep(dir: &Path, name: &str) -> Outcome<String> {
    let Some(logs) = std::env::var_os("LAB_LOGS") else { return Ok(dir.display().to_string()) };
    let to = PathBuf::from(logs).join(name.replace("::", "-"));
    fs::create_dir_all(&to)?;
    let script = "cd \"$1\" && find . -type f -size -16M | tar -cf - -T - | tar -xf - -C \"$2\"";
    super::output(Command::new("sh").args(["-c", script, "keep"]).arg(dir).arg(&to))?;
    Ok(to.display().to_string())
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("without a text")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_complaint_that_a_test_is_known_for_is_its_own_alone() {
        let test = Test::new("x", |_| Ok(()));
        let messages = "eth0: up\nunregister_netdevice: waiting for sn0p0 to become free\nBUG: x";
        assert!(complaint(&test, messages).is_some_and(|of| of.contains("sn0p0")));
        let test = test.has_the_kernel_complain("waiting for sn");
        assert_eq!(complaint(&test, messages).as_deref(), Some("BUG: x"));
        assert_eq!(complaint(&test, &messages.replace("BUG: ", "")), None);
    }

    #[test]
    fn what_one_choice_of_subjects_leaves_out_is_in_the_other() {
        let chosen = |text: &str| {
            let chosen = Subjects::named(text);
            ["lab", "steer", "races"].into_iter().filter(|subject| chosen.has(subject)).collect::<Vec<_>>()
        };
        assert_eq!(chosen("lab,steer"), ["lab", "steer"]);
        assert_eq!(chosen("-lab,steer"), ["races"]);
        assert_eq!(chosen(""), ["lab", "steer", "races"]);
    }
}
