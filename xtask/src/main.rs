//! Set-up, demo and tests: `cargo xtask help`.

mod cache;
mod command;
mod debian;
mod emulation;
mod guest;
mod host;
mod image;
mod kernel;
mod lab;
mod logs;
mod options;
mod ovs_testsuite;
mod problem;
mod programs;
mod progress;
mod pure;
mod side_by_side;
mod simnic;
mod suites;
mod table;
mod test;
mod tools;
mod trace;
mod virtme;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use crate::guest::{Run, Shown, Work};
use crate::lab::{Choice, Lab};
use crate::logs::LogDirectory;
use crate::options::{Call, LabOptions};
use crate::problem::Problem;

/// The longest the demo may take in its guest.
const DEMO_LIMIT: Duration = Duration::from_secs(600);

fn main() -> ExitCode {
    // The crate lies directly in the repository.
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."));
    let call = options::parse(std::env::args_os());
    let result = call.and_then(|call| match call {
        Call::Help => {
            print!("{}", options::HELP);
            Ok(())
        }
        Call::Lab(options) => lab(repository, options),
        Call::Demo => demo(repository),
        Call::Trace(options) => trace::run(&options),
        Call::PlannerTable(options) => table::run(repository, &options),
        Call::OvsTestsuite(options) => ovs_testsuite::run(repository, &options),
        Call::Test { only, long } => test::run(repository, &only, long),
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            if !matches!(problem, Problem::Status(_)) {
                eprintln!("xtask: {problem}");
            }
            ExitCode::from(problem.exit_code())
        }
    }
}

fn lab(repository: &Path, options: LabOptions) -> Result<(), Problem> {
    let lab = Lab::open(repository)?;
    let machine = lab.machine(options.choice)?;
    let programs = programs::build(repository)?;
    let interactive = options.command.is_empty();
    let logs = LogDirectory::own(&repository.join("target/lab-logs/lab"))?;
    let run = Run {
        repository,
        programs: &programs,
        share: options.share.as_deref(),
        logs: logs.path(),
        topology: options.topology.as_deref(),
        environment: Vec::new(),
        shown: Shown::AsItIs,
        work: if interactive { Work::Shell } else { Work::Command(options.command) },
        time_limit: options.time_limit.filter(|_| !interactive),
    };
    match run.on(&machine)? {
        0 => Ok(()),
        status => Err(Problem::Status(status)),
    }
}

fn demo(repository: &Path) -> Result<(), Problem> {
    let lab = Lab::open(repository)?;
    let machine = lab.machine(Choice::default())?;
    let programs = programs::build(repository)?;
    let run = Run {
        repository,
        programs: &programs,
        share: None,
        logs: &repository.join("target/lab-logs/demo"),
        topology: Some("demo"),
        environment: Vec::new(),
        shown: Shown::AsItIs,
        work: Work::Command(vec!["lab-tests".to_owned(), "demo".to_owned()]),
        time_limit: Some(DEMO_LIMIT),
    };
    match run.on(&machine)? {
        0 => Ok(()),
        _ => Err(Problem::Failed("The demo ended with a failure, told above.".to_owned())),
    }
}
