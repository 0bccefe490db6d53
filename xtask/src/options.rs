//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use lexopt::prelude::{Long, Short, Value, ValueExt};

use crate::lab::Choice;
use crate::ovs_testsuite::{Ports, Side, Suite, SuiteOptions};
use crate::problem::Problem;
use crate::table::TableOptions;
use crate::test::Part;
use crate::trace::{Model, TraceOptions};

/// What `cargo xtask help` prints.
pub(crate) const HELP: &str = "\
Usage: cargo xtask COMMAND [OPTIONS]

Commands:
  demo    set everything up, then show real Open vSwitch flows move into a simulated SmartNIC
  test    set everything up, then run every test, those in the lab guest included
  lab     a shell in the lab guest, or a command of yours
  ovs-testsuite
          run Open vSwitch's own system tests in the guest, with the daemon beside each and without: docs/ovs-testsuite.md
  trace   draw traffic from a published campus model, as CSV for `ovs-offloadctl replay`
  planner-table
          replay such traffic under every model and write the table of docs/planner.md; takes hours
  help    this text

Options of lab:
  --release R       userland: trixie (default), bookworm or sid
  --kernel K        kernel: trixie (default), sid, ct (with TC conntrack offload) or debug (KASAN, lockdep)
  --topology T      what is up when the command starts: demo (default of a shell) or none (default of a command)
  --share DIR       makes DIR readable and writable as /share, and the command's directory
  --time-limit S    seconds after which a command's guest is stopped (default 1800; 0: never)
  -- COMMAND…       runs COMMAND instead of a shell and ends with its exit status

Options of test:
  --only PART       runs this part only; may be given several times. Parts: fmt, clippy, pure, doc, deny, unit, fuzz,
                    lab-trixie, lab-nics, lab-judge, lab-faults, lab-bookworm, lab-sid, lab-conntrack, and with --long
                    also lab-conntrack-bookworm, lab-conntrack-sid, lab-ct, lab-debug, ovs-testsuite
  --long            adds what takes longer than a change should wait for

Options of ovs-testsuite:
  --release R       whose Open vSwitch: trixie (default), bookworm or sid
  --kernel K        kernel: as for lab, but ct is the default
  --suite S         system-offloads (default) or system-kmod
  --ports P         veth (default), as the tests make them, or simnic: ports of the simulated NIC in their place
  --daemon D        with or without; both, in two guests at a time, if not said
  --again N         up to N times more, both sides, those that ended otherwise with the daemon each time (default 0)
  --table           run nothing, print the table of what was run before
  TESTS…            which tests: 7, 7-12 or 7-; all if none is said

Options of trace:
  --model M         how fast flows send: constant (default), bursts, random-bursts, slow-start, diurnal, heavy-tailed
                    or adversarial
  --seed N          another number draws other flows (default 1)
  --duration-s S    for how long flows arrive (default 900)
  --flows-per-s N   how many arrive (default 1810, as on the campus)
  --tenants N       shares the flows among so many tenants (default: nobody's)
  --flood N         so many flows of one more tenant, all at two thirds of the time (default 0)
  --output FILE     writes to FILE instead of standard output

Options of planner-table:
  --seeds N         how many seeds of each model (default 10)
  --duration-s S    length of each trace (default 900)
  --warmup-s S      how much of it is left out (default 300)

Exit codes: 0 success, 1 failure, 2 something is missing or wrong on this machine or in the call;
`lab -- COMMAND` ends with COMMAND's own.
";

/// The longest a command of the caller may take, unless the caller says otherwise.
const TIME_LIMIT: Duration = Duration::from_secs(1800);

/// One call of xtask.
#[derive(Debug, PartialEq)]
pub(crate) enum Call {
    /// Print the help text.
    Help,
    /// Run a guest for the caller.
    Lab(LabOptions),
    /// Draw traffic.
    Trace(TraceOptions),
    /// Write the planner's table.
    PlannerTable(TableOptions),
    /// Run Open vSwitch's own tests.
    OvsTestsuite(SuiteOptions),
    /// Show the main job.
    Demo,
    /// Run these parts of the tests (none: all).
    Test { only: Vec<Part>, long: bool },
}

/// Options of `lab`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct LabOptions {
    pub(crate) choice: Choice,
    pub(crate) share: Option<PathBuf>,
    pub(crate) topology: Option<String>,
    pub(crate) time_limit: Option<Duration>,
    /// Empty for a shell.
    pub(crate) command: Vec<String>,
}

/// Reads the command line, the program's own name first.
pub(crate) fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Call, Problem> {
    let mut parser = lexopt::Parser::from_iter(arguments);
    let call = match parser.next().map_err(wrong)? {
        None | Some(Short('h') | Long("help")) => return Ok(Call::Help),
        Some(Value(command)) => match command.to_str() {
            Some("help") => return Ok(Call::Help),
            Some("lab") => parse_lab(&mut parser).map(Call::Lab),
            Some("demo") => parse_nothing(&mut parser).map(|()| Call::Demo),
            Some("test") => parse_test(&mut parser),
            Some("ovs-testsuite") => parse_ovs_testsuite(&mut parser).map(Call::OvsTestsuite),
            Some("planner-table") => parse_table(&mut parser).map(Call::PlannerTable),
            Some("trace") => parse_trace(&mut parser).map(Call::Trace),
            _ => Err(format!("there is no command `{}`", command.to_string_lossy()).into()),
        },
        Some(other) => Err(other.unexpected()),
    };
    call.map_err(wrong)
}

fn wrong(error: lexopt::Error) -> Problem {
    Problem::cannot(format!("{error}: see `cargo xtask help`."))
}

fn parse_nothing(parser: &mut lexopt::Parser) -> Result<(), lexopt::Error> {
    parser.next()?.map_or(Ok(()), |argument| Err(argument.unexpected()))
}

fn parse_test(parser: &mut lexopt::Parser) -> Result<Call, lexopt::Error> {
    let (mut only, mut long) = (Vec::new(), false);
    while let Some(argument) = parser.next()? {
        match argument {
            Long("only") => {
                let name = parser.value()?.string()?;
                let part = Part::all().find(|part| part.name() == name);
                only.push(part.ok_or_else(|| format!("there is no part `{name}` of the tests"))?);
            }
            Long("long") => long = true,
            other => return Err(other.unexpected()),
        }
    }
    Ok(Call::Test { only, long })
}

fn parse_trace(parser: &mut lexopt::Parser) -> Result<TraceOptions, lexopt::Error> {
    let mut options = TraceOptions::default();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("model") => {
                let name = parser.value()?.string()?;
                let model = Model::ALL.into_iter().find(|model| model.name() == name);
                options.model = model.ok_or_else(|| format!("there is no model `{name}`"))?;
            }
            Long("seed") => options.seed = parser.value()?.parse()?,
            Long("duration-s") => options.duration_s = positive(parser)?,
            Long("flows-per-s") => options.flows_per_s = positive(parser)?,
            Long("tenants") => options.tenants = parser.value()?.parse()?,
            Long("flood") => options.flood = parser.value()?.parse()?,
            Long("output") => options.output = Some(parser.value()?.into()),
            other => return Err(other.unexpected()),
        }
    }
    Ok(options)
}

fn parse_ovs_testsuite(parser: &mut lexopt::Parser) -> Result<SuiteOptions, lexopt::Error> {
    let mut options = SuiteOptions::default();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("release") => options.release = parser.value()?.parse()?,
            Long("kernel") => options.kernel = parser.value()?.parse()?,
            Long("suite") => options.suite = named(parser, "suite", Suite::named)?,
            Long("ports") => options.ports = named(parser, "kind of ports", Ports::named)?,
            Long("daemon") => options.sides = vec![named(parser, "side", Side::named)?],
            Long("again") => options.again = parser.value()?.parse()?,
            Long("table") => options.sides = Vec::new(),
            Value(word) => options.tests.add(&word.string()?)?,
            other => return Err(other.unexpected()),
        }
    }
    Ok(options)
}

/// The value of an option, which is a name of something.
fn named<T>(
    parser: &mut lexopt::Parser,
    what: &str,
    find: impl FnOnce(&str) -> Option<T>,
) -> Result<T, lexopt::Error> {
    let name = parser.value()?.string()?;
    Ok(find(&name).ok_or_else(|| format!("there is no {what} `{name}`"))?)
}

fn parse_table(parser: &mut lexopt::Parser) -> Result<TableOptions, lexopt::Error> {
    let mut options = TableOptions::default();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("seeds") => options.seeds = parser.value()?.parse()?,
            Long("duration-s") => options.duration_s = positive(parser)?,
            Long("warmup-s") => options.warmup_s = positive(parser)?,
            other => return Err(other.unexpected()),
        }
    }
    Ok(options)
}

fn positive(parser: &mut lexopt::Parser) -> Result<f64, lexopt::Error> {
    let number: f64 = parser.value()?.parse()?;
    if number > 0.0 && number <= 1e6 {
        Ok(number)
    } else {
        Err("a number above 0 and up to a million is needed".into())
    }
}

fn parse_lab(parser: &mut lexopt::Parser) -> Result<LabOptions, lexopt::Error> {
    let mut options = LabOptions {
        choice: Choice::default(),
        share: None,
        topology: None,
        time_limit: Some(TIME_LIMIT),
        command: Vec::new(),
    };
    let mut topology = None;
    while let Some(argument) = parser.next()? {
        match argument {
            Long("release") => options.choice.release = parser.value()?.parse()?,
            Long("kernel") => options.choice.kernel = parser.value()?.parse()?,
            Long("share") => options.share = Some(parser.value()?.into()),
            Long("topology") => topology = Some(parser.value()?.string()?),
            Long("time-limit") => {
                let limit = Duration::from_secs(parser.value()?.parse()?);
                options.time_limit = Some(limit).filter(|limit| !limit.is_zero());
            }
            Value(word) => {
                options.command.push(word.string()?);
                for word in parser.raw_args()? {
                    options.command.push(word.string()?);
                }
            }
            other => return Err(other.unexpected()),
        }
    }
    options.topology = match topology.as_deref() {
        Some("none") => None,
        Some("demo") => topology,
        Some(other) => return Err(format!("there is no topology `{other}`: use demo or none").into()),
        None => options.command.is_empty().then(|| "demo".to_owned()),
    };
    Ok(options)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::debian::Release;
    use crate::kernel::Flavour;

    fn call(words: &[&str]) -> Result<Call, Problem> {
        parse(["xtask"].iter().chain(words).map(OsString::from))
    }

    #[test]
    fn words_after_the_command_belong_to_it_whatever_they_look_like() {
        let Ok(Call::Lab(options)) =
            call(&["lab", "--release", "sid", "--kernel=ct", "--", "ls", "--release", "-l"])
        else {
            panic!("this is a call of lab")
        };
        assert_eq!(options.choice, Choice { release: Release::Sid, kernel: Flavour::Ct });
        assert_eq!(options.command, ["ls", "--release", "-l"]);
        assert_eq!(options.topology, None);
    }

    #[test]
    fn a_shell_has_the_demo_topology_up() {
        let Ok(Call::Lab(options)) = call(&["lab"]) else { panic!("this is a call of lab") };
        assert_eq!(options.topology.as_deref(), Some("demo"));
    }

    #[test]
    fn a_wrong_call_ends_with_code_2() {
        for words in [
            &["no-such"][..],
            &["lab", "--release", "buzz"],
            &["lab", "--topology", "ring"],
            &["ovs-testsuite", "--ports", "tap"],
            &["ovs-testsuite", "9-3"],
            &["lab", "--no-such"],
        ] {
            let problem = call(words).expect_err("this call is wrong");
            assert_eq!(problem.exit_code(), 2, "{words:?}: {problem}");
        }
    }
}
