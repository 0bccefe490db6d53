//! Open vSwitch's own system tests in the guest, with and without ovs-offloadd beside each of them.

mod record;
mod selection;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::command::run_logged;
use crate::debian::{Release, Tree};
use crate::guest::{Machine, Run, Shown, Work};
use crate::image::{Image, packages};
use crate::kernel::{Flavour, in_chroot};
use crate::lab::Lab;
use crate::logs::LogDirectory;
use crate::problem::{Doing, Problem};
use crate::test::Verdict;
use crate::{programs, progress, side_by_side};

pub(crate) use selection::Selection;

use record::{Earlier, Record};

/// Where Debian's package openvswitch-source puts the source, and where it is in the guest.
const TREE: &str = "usr/src/openvswitch";
/// The longest that one guest may run: all tests of one suite take less.
const TIME_LIMIT: Duration = Duration::from_secs(6 * 3600);

/// One of Open vSwitch's suites that use the kernel's datapath.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Suite {
    /// system-offloads-traffic.at, and system-traffic.at with `hw-offload=true`.
    Offloads,
    /// system-traffic.at with `hw-offload=false`, and what else there is for the kernel's datapath.
    Kmod,
}

impl Suite {
    pub(crate) fn named(name: &str) -> Option<Self> {
        [Self::Offloads, Self::Kmod].into_iter().find(|suite| suite.name() == name)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Offloads => "system-offloads",
            Self::Kmod => "system-kmod",
        }
    }
}

/// What the tests' ports are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ports {
    /// Pairs of veth devices, as the tests make them.
    Veth,
    /// Sub-functions of a simulated NIC and their representors.
    Simnic,
}

impl Ports {
    pub(crate) fn named(name: &str) -> Option<Self> {
        [Self::Veth, Self::Simnic].into_iter().find(|ports| ports.name() == name)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Veth => "veth",
            Self::Simnic => "simnic",
        }
    }
}

/// Whether ovs-offloadd runs beside the tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Without,
    With,
}

impl Side {
    pub(crate) const BOTH: [Self; 2] = [Self::Without, Self::With];

    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::BOTH.into_iter().find(|side| side.name() == name)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Without => "without",
            Self::With => "with",
        }
    }

    /// What `other_config:tc-policy` is: on its own Open vSwitch offers each flow to the NIC (its default), and beside
    /// the daemon none, for then the daemon does that.
    fn tc_policy(self) -> &'static str {
        match self {
            Self::Without => "",
            Self::With => "skip_hw",
        }
    }
}

/// What to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SuiteOptions {
    pub(crate) release: Release,
    pub(crate) kernel: Flavour,
    pub(crate) suite: Suite,
    pub(crate) ports: Ports,
    /// None: the table of what was run before is all that is wanted.
    pub(crate) sides: Vec<Side>,
    pub(crate) tests: Selection,
    /// How often tests are run once more that ended otherwise with the daemon each time.
    pub(crate) again: u32,
}

impl Default for SuiteOptions {
    fn default() -> Self {
        Self {
            release: Release::Trixie,
            kernel: Flavour::Ct,
            suite: Suite::Offloads,
            ports: Ports::Veth,
            sides: Side::BOTH.to_vec(),
            tests: Selection::default(),
            again: 0,
        }
    }
}

/// The tests that `cargo xtask test --long` runs, as Open vSwitch 3.5 numbers them: pings without offload and with it, HTTP, a
/// VXLAN tunnel, and conntrack.
const SAMPLE: [&str; 4] = ["1", "19-20", "29", "83"];

/// Runs the tests and prints how they ended, with and without the daemon.
pub(crate) fn run(repository: &Path, options: &SuiteOptions) -> Result<(), Problem> {
    let records = repository.join("target/ovs-testsuite");
    if !options.sides.is_empty() {
        let lab = Lab::open(repository)?;
        run_sides(repository, &lab, options, &records, Earlier::Replaced, options.sides.len())?;
        run_again(repository, &lab, options, &records)?;
    }
    let compared = compare(options, &records)?;
    println!("\n{} of {}, ports {}", options.suite.name(), options.release, options.ports.name());
    print!("{}", compared.table);
    if compared.wrong.is_empty() {
        Ok(())
    } else {
        Err(Problem::Failed("The daemon makes a difference, told above.".to_owned()))
    }
}

/// Runs a few of the tests on both sides, on ports of the simulated NIC: those that end otherwise with the daemon fail.
pub(crate) fn sample(repository: &Path, lab: &Lab) -> Result<Verdict, Problem> {
    let records = repository.join("target/ovs-testsuite/sample");
    // What an earlier run left is not to be taken for this one's.
    let _ = fs::remove_dir_all(&records);
    let mut options = SuiteOptions { ports: Ports::Simnic, ..SuiteOptions::default() };
    for word in SAMPLE {
        options.tests.add(word).map_err(Problem::Failed)?;
    }
    run_sides(repository, lab, &options, &records, Earlier::Replaced, 1)?;
    let Compared { table, mut wrong, failures, passed, skipped } = compare(&options, &records)?;
    print!("{table}");
    // They were chosen since they pass in the lab.
    wrong.extend(failures);
    Ok(Verdict::Ran { passed, failed: wrong.len() as u64, ignored: skipped, told: wrong })
}

/// What the records of the two sides say.
struct Compared {
    /// For the user.
    table: String,
    /// What ended otherwise with the daemon, and what was wrong with that.
    wrong: Vec<String>,
    /// What failed on both sides.
    failures: Vec<String>,
    /// How many passed on both sides.
    passed: u64,
    /// How many were skipped on both.
    skipped: u64,
}

/// The records of the side without the daemon and of the one with it.
fn read(options: &SuiteOptions, records: &Path) -> Result<[Record; 2], Problem> {
    let of = |side| Record::read(&records.join(record_name(options, side)));
    Ok([of(Side::Without)?, of(Side::With)?])
}

fn compare(options: &SuiteOptions, records: &Path) -> Result<Compared, Problem> {
    let [without, with] = read(options, records)?;
    let mut wrong = record::differences(&without, &with);
    wrong.extend(with.troubles());
    let (passed, skipped) = record::alike(&without, &with);
    let failures = record::failures(&without, &with);
    Ok(Compared { table: record::table(&without, &with), wrong, failures, passed, skipped })
}

/// Runs those tests again, on both sides, that have ended otherwise with the daemon each time.
fn run_again(repository: &Path, lab: &Lab, options: &SuiteOptions, records: &Path) -> Result<(), Problem> {
    for _ in 0..options.again {
        let [without, with] = read(options, records)?;
        let tests = Selection::of(record::differing(&without, &with));
        if tests.is_empty() {
            break;
        }
        let options = SuiteOptions { sides: Side::BOTH.to_vec(), tests, ..options.clone() };
        run_sides(repository, lab, &options, records, Earlier::Kept, Side::BOTH.len())?;
    }
    Ok(())
}

/// Runs the sides that `options` names, so many at a time, and keeps how the tests ended in `records`.
fn run_sides(
    repository: &Path,
    lab: &Lab,
    options: &SuiteOptions,
    records: &Path,
    earlier: Earlier,
    at_once: usize,
) -> Result<(), Problem> {
    let machine = lab.machine_with(image(lab, repository, options.release)?, options.kernel)?;
    let programs = programs::build(repository)?;
    let run = |side: Side| {
        let shown = if at_once > 1 { Shown::Behind(side.name()) } else { Shown::AsItIs };
        let record = records.join(record_name(options, side));
        Guests { repository, programs: &programs, machine: &machine, options, side, shown, record, earlier }
            .run()
    };
    side_by_side::run(options.sides.clone(), at_once, run).map(drop)
}

/// The guest's image: everyone's userland, what the tests call, and Open vSwitch's tree as built.
fn image(lab: &Lab, repository: &Path, release: Release) -> Result<PathBuf, Problem> {
    let files = repository.join("lab/ovs-testsuite");
    let mut all = packages(&repository.join("lab/images/userland.packages"))?;
    all.extend(packages(&files.join("guest.packages"))?);
    let tree = built(lab, &files, release)?;
    let image = Image {
        name: format!("image-ovs-testsuite-{release}"),
        title: format!("build the image of {release} with Open vSwitch's tests"),
        release,
        packages: all,
        added: Some((tree, TREE)),
    };
    image.made(lab.cache(), repository)
}

/// Open vSwitch's tree of `release`, built; the compiler and what it left are not kept.
fn built(lab: &Lab, files: &Path, release: Release) -> Result<PathBuf, Problem> {
    let packages = packages(&files.join("build.packages"))?;
    let script = files.join("build.sh");
    let text = fs::read_to_string(&script).doing(|| format!("read {}", script.display()))?;
    let parts = [release.codename(), &packages.join(" "), &text];
    let title = format!("build Open vSwitch of {release} from source (2 to 10 minutes on two cores)");
    let entry = lab.cache().entry(&format!("openvswitch-{release}"), &parts, &title, |dir| {
        let chroot = dir.join("chroot");
        Tree { release, packages: &packages, customize: None }.make(&chroot, &dir.join("mmdebstrap.log"))?;
        run_logged(&mut in_chroot(&chroot, &["sh", "-c", &text]), &dir.join("build.log"))?;
        let (from, to) = (chroot.join(TREE), dir.join("tree"));
        fs::rename(&from, &to).doing(|| format!("move {}", from.display()))?;
        fs::remove_dir_all(&chroot).doing(|| format!("remove {}", chroot.display()))
    })?;
    Ok(entry.join("tree"))
}

fn record_name(options: &SuiteOptions, side: Side) -> String {
    let SuiteOptions { release, kernel, suite, ports, .. } = options;
    format!("{release}-{kernel}-{}-{}-{}.tsv", suite.name(), ports.name(), side.name())
}

/// The guests that run one side: one, and another for the rest each time that one dies of a test.
struct Guests<'a> {
    repository: &'a Path,
    programs: &'a [PathBuf],
    machine: &'a Machine,
    options: &'a SuiteOptions,
    side: Side,
    shown: Shown<'a>,
    /// Where the record of this side is.
    record: PathBuf,
    earlier: Earlier,
}

impl Guests<'_> {
    fn run(&self) -> Result<(), Problem> {
        let mut left = self.options.tests.clone();
        loop {
            let (outcome, ended) = self.one(&left)?;
            let Err(why) = outcome else { return Ok(()) };
            let next = left.after(ended);
            // Without one result the guest is at fault, and not a test.
            let (Some((died_of, rest)), true) = (next, ended.is_some()) else { return Err(why) };
            progress::note(&format!("{why}\n    It was in test {died_of}: another guest runs the rest."));
            let mut record = Record::read(&self.record)?;
            record.guest_died_in(died_of);
            record.write(&self.record)?;
            if rest.is_empty() {
                return Ok(());
            }
            left = rest;
        }
    }

    /// Runs `tests` in one guest: how that ended, and the last test that did.
    fn one(&self, tests: &Selection) -> Result<(Result<(), Problem>, Option<u32>), Problem> {
        let SuiteOptions { suite, ports, .. } = self.options;
        let name = format!("ovs-testsuite-{}-{}-{}", suite.name(), ports.name(), self.side.name());
        let logs = LogDirectory::own(&self.repository.join("target/lab-logs").join(name))?;
        for file in ["results.tsv", "beside.tsv"] {
            // The last run's are not to be taken for this one's.
            let _ = fs::remove_file(logs.path().join(file));
        }
        let mut words = vec!["/repository/lab/ovs-testsuite/run.sh".to_owned(), suite.name().to_owned()];
        words.extend(tests.words());
        let pairs = [
            ("LAB_DAEMON", self.side.name()),
            ("LAB_PORTS", ports.name()),
            ("LAB_TC_POLICY", self.side.tc_policy()),
        ];
        let run = Run {
            repository: self.repository,
            programs: self.programs,
            share: None,
            logs: logs.path(),
            topology: None,
            environment: pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec(),
            shown: self.shown,
            work: Work::Command(words),
            time_limit: Some(TIME_LIMIT),
        };
        let ran = run.on(self.machine);
        let mut record = Record::read(&self.record)?;
        let ended = record.take(logs.path(), self.earlier)?;
        record.write(&self.record)?;
        match ran {
            Ok(0) => Ok((Ok(()), ended)),
            // It says so itself: no test is to blame, and another guest would fare no better.
            Ok(status) => Err(Problem::Failed(format!(
                "The tests did not run as they should: run.sh ended with status {status}."
            ))),
            Err(problem @ Problem::Failed(_)) => Ok((Err(problem), ended)),
            Err(problem) => Err(problem),
        }
    }
}
