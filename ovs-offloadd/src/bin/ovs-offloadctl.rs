//! ovs-offloadctl: asks and commands ovs-offloadd over its control socket.

use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use clap::{CommandFactory as _, Parser as _};
use netlink_wire::devlink::Handle;
use ovs_offloadd::config::{self, Config, default_rundir};
use ovs_offloadd::ctl::{
    Asked, Cli, Local, NicQuery, OutputFormat, PolicyQuery, PolicyTestArgs, PortQuery, Query, Verb, policy,
    to_request,
};
use ovs_offloadd::daemon;
use ovs_offloadd::doctor::{self, DoctorArgs, Places};
use ovs_offloadd::io::rundir::{NotRunning, control_socket};
use ovs_offloadd::io::unixctl::{Client, CommandError};
use ovs_offloadd::lifecycle::step::Operation;
use ovs_offloadd::nics;
use ovs_offloadd::probe;
use ovs_offloadd::recording::{self, RecordArgs, RecordError};
use ovs_offloadd::replay::{self, ReplayArgs};
use policies::Micros;
use tc_flower::Chain;

/// The daemon refused, or found nothing.
const REFUSED: u8 = 1;
/// Wrong usage, or no daemon.
const UNUSABLE: u8 = 2;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match &cli.verb {
        Verb::Local(Local::Doctor(args)) => {
            let outcome = match &args.probe {
                Some(port) => probe_port(&cli, args, port),
                None => examine(&cli, args),
            };
            return match outcome {
                Ok((text, status)) => print(&text, status),
                Err((status, sentence)) => complain(status, &sentence),
            };
        }
        Verb::Asked(Query::Nic(query)) if query.is_local() => return change(&cli, nic(&cli, query)),
        Verb::Asked(Query::Port(query)) if query.is_local() => return change(&cli, port(&cli, query)),
        Verb::Asked(Query::Policy(policy)) if policy.is_local() => ask_file(policy, cli.output),
        Verb::Asked(query) => ask(&cli, query),
        Verb::Local(Local::Record(args)) => record(&cli, args),
        Verb::Local(local) => run_local(local, cli.output),
    };
    match outcome {
        Ok(text) => print(&text, 0),
        Err((status, sentence)) => complain(status, &sentence),
    }
}

/// A step that begins, for a person who waits.
fn progress(handle: &Handle, operation: &Operation, undo: bool) {
    if std::io::stderr().is_terminal() {
        let undo = if undo { "undo: " } else { "" };
        eprintln!("{handle}: {undo}{operation}");
    }
}

fn nic(cli: &Cli, query: &NicQuery) -> Result<nics::Report, nics::Unusable> {
    match query {
        NicQuery::Apply(args) => nics::apply(args, cli.rundir.as_deref(), progress),
        NicQuery::List | NicQuery::Show { .. } => Err(nics::Unusable("this needs the daemon".to_owned())),
    }
}

fn port(cli: &Cli, query: &PortQuery) -> Result<nics::Report, nics::Unusable> {
    let (rundir, limit) = (cli.rundir.as_deref(), Duration::from_secs(cli.timeout));
    match query {
        PortQuery::Attach(args) => nics::attach(args, rundir, limit, progress),
        PortQuery::Detach(args) => nics::detach(args, rundir, limit, progress),
        PortQuery::List(_) => Err(nics::Unusable("this needs the daemon".to_owned())),
    }
}

fn change(cli: &Cli, outcome: Result<nics::Report, nics::Unusable>) -> ExitCode {
    let report = match outcome {
        Ok(report) => report,
        Err(nics::Unusable(sentence)) => return complain(UNUSABLE, &sentence),
    };
    match cli.output {
        OutputFormat::Table => print(&report.text(), report.exit_status()),
        OutputFormat::Json => match serde_json::to_string_pretty(&report) {
            Ok(text) => print(&text, report.exit_status()),
            Err(error) => complain(UNUSABLE, &error.to_string()),
        },
    }
}

fn complain(status: u8, sentence: &str) -> ExitCode {
    eprintln!("ovs-offloadctl: {sentence}");
    ExitCode::from(status)
}

fn print(text: &str, status: u8) -> ExitCode {
    let newline = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    match write!(std::io::stdout(), "{text}{newline}") {
        Ok(()) => ExitCode::from(status),
        // As with `| head`.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::from(status),
        Err(error) => {
            eprintln!("ovs-offloadctl: cannot write the answer: {error}");
            ExitCode::from(UNUSABLE)
        }
    }
}

type Outcome = Result<String, (u8, String)>;

fn ask(cli: &Cli, query: &Query) -> Outcome {
    let socket = find_socket(cli).map_err(|sentence| (UNUSABLE, sentence))?;
    let width = width(cli.output);
    let (method, params) = to_request(&Asked { query: query.clone(), output: cli.output, width });
    let params: Vec<&str> = params.iter().map(String::as_str).collect();
    let mut client = Client::new(socket);
    runtime()?
        .block_on(client.command(&method, &params, Duration::from_secs(cli.timeout)))
        .map_err(|error| unanswered(&error))
}

/// Columns of the terminal; none for a program or a pipe.
fn width(output: OutputFormat) -> Option<u16> {
    std::io::stdout()
        .is_terminal()
        .then(|| rustix::termios::tcgetwinsize(std::io::stdout()).ok())
        .flatten()
        .map(|size| size.ws_col)
        .filter(|width| *width > 0 && output == OutputFormat::Table)
}

/// Looks at this host: what there is to print, and the exit status.
fn examine(cli: &Cli, args: &DoctorArgs) -> Result<(String, u8), (u8, String)> {
    let places = Places { rundir: cli.rundir.clone(), timeout: Duration::from_secs(cli.timeout) };
    let report = runtime()?.block_on(doctor::run(args, &places));
    let text = match cli.output {
        OutputFormat::Json => {
            serde_json::to_string_pretty(&report).map_err(|error| (UNUSABLE, error.to_string()))?
        }
        OutputFormat::Table => report.text(width(cli.output)),
    };
    Ok((text, report.exit_status()))
}

/// Tries what a NIC takes: what there is to print, and the exit status.
fn probe_port(cli: &Cli, args: &DoctorArgs, port: &str) -> Result<(String, u8), (u8, String)> {
    let places = Places { rundir: cli.rundir.clone(), timeout: Duration::from_secs(cli.timeout) };
    let rundir = doctor::rundir(args, &places);
    let stop = Arc::new(AtomicBool::new(false));
    stop_on_interrupt(&stop);
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let asked = probe::Asked {
        port,
        chain: args.chain.map(Chain),
        rundir: rundir.clone(),
        now_s: since_1970.as_secs(),
    };
    let runtime = runtime()?;
    let matrix = runtime
        .block_on(probe::probe(&asked, args, &places, &stop))
        .map_err(|sentence| (REFUSED, sentence))?;
    if matrix.says_something() {
        match probe::write(&rundir, &matrix) {
            Ok(_) => tell_daemon(cli, &runtime, &rundir),
            Err(error) => eprintln!("ovs-offloadctl: what was seen cannot be kept: {error}"),
        }
    }
    let text = match cli.output {
        OutputFormat::Json => {
            serde_json::to_string_pretty(&matrix).map_err(|error| (UNUSABLE, error.to_string()))?
        }
        OutputFormat::Table => matrix.text(),
    };
    Ok((text, matrix.exit_status()))
}

/// Has the daemon read what is kept, if one runs; one that starts later reads it then.
fn tell_daemon(cli: &Cli, runtime: &tokio::runtime::Runtime, rundir: &Path) {
    let socket = match cli.target.contains('/') {
        true => PathBuf::from(&cli.target),
        false => match control_socket(rundir, &cli.target) {
            Ok(socket) => socket,
            Err(_) => return,
        },
    };
    let mut client = Client::new(socket);
    match runtime.block_on(client.command("probe/load", &[], Duration::from_secs(cli.timeout))) {
        Ok(sentence) => eprintln!("{}", sentence.trim_end()),
        Err(error) => eprintln!("ovs-offloadctl: the daemon was not told: {error}"),
    }
}

fn runtime() -> Result<tokio::runtime::Runtime, (u8, String)> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| (UNUSABLE, format!("cannot start: {error}")))
}

fn unanswered(error: &CommandError) -> (u8, String) {
    match error {
        CommandError::Refused(sentence) => (REFUSED, sentence.clone()),
        CommandError::Unreachable { .. } => {
            (UNUSABLE, format!("{error}; does ovs-offloadd run, and may you use its socket?"))
        }
        CommandError::Unanswered { .. } => {
            (UNUSABLE, format!("{error}; it may be busy, or the command may still be carried out"))
        }
    }
}

/// Writes the flow table's history to a file, until the time is up or Ctrl-C.
fn record(cli: &Cli, args: &RecordArgs) -> Outcome {
    let socket = find_socket(cli).map_err(|sentence| (UNUSABLE, sentence))?;
    let stop = Arc::new(AtomicBool::new(false));
    stop_on_interrupt(&stop);
    let shown = std::io::stderr().is_terminal();
    let mut progress = |past: Micros, flows: u32| {
        if shown {
            let of = args.duration.map(|all| format!(" of {all}")).unwrap_or_default();
            eprint!("\r\x1b[K{past}{of} recorded, {flows} flows");
        }
    };
    let mut client = Client::new(socket);
    let limit = Duration::from_secs(cli.timeout);
    let outcome = runtime()?.block_on(recording::run(args, &mut client, limit, &stop, &mut progress));
    if shown {
        eprint!("\r\x1b[K");
    }
    let recorded = outcome.map_err(|error| match error {
        RecordError::Start(error) => unanswered(&error),
        RecordError::Ended { .. } => (REFUSED, error.to_string()),
        RecordError::Output { .. } | RecordError::Key(_) => (UNUSABLE, error.to_string()),
    })?;
    match cli.output {
        OutputFormat::Json => {
            serde_json::to_string_pretty(&recorded).map_err(|error| (UNUSABLE, error.to_string()))
        }
        OutputFormat::Table => Ok(recorded.sentence(&args.file)),
    }
}

/// What is asked of a configuration file, without the daemon.
fn ask_file(query: &PolicyQuery, output: OutputFormat) -> Outcome {
    let read = |file: &Path| {
        config::read_file(file)
            .and_then(|written| Config::from_file(&[], &written))
            .map_err(|errors| (REFUSED, format!("the configuration is wrong\n{errors}")))
    };
    match query {
        PolicyQuery::Check { file } => {
            let file = file.clone().unwrap_or_else(daemon::default_config_file);
            let rules = read(&file)?.rules.texts().len();
            Ok(match output {
                OutputFormat::Json => serde_json::json!({"ok": true, "rules": rules}).to_string(),
                OutputFormat::Table => format!("ok: {rules} rule{}", if rules == 1 { "" } else { "s" }),
            })
        }
        PolicyQuery::Test(PolicyTestArgs { flow, config: Some(file) }) => {
            let rules = read(file)?.rules;
            let sketch = policy::sketch(flow).map_err(|sentence| (UNUSABLE, sentence))?;
            let mut outports = Vec::new();
            let tested = policy::test_of(flow, &rules, &rules.trace(&sketch.subject(&mut outports)));
            Ok(match output {
                OutputFormat::Json => {
                    serde_json::to_string_pretty(&tested).map_err(|error| (UNUSABLE, error.to_string()))?
                }
                OutputFormat::Table => policy::policy_test(&tested),
            })
        }
        PolicyQuery::Test(_) | PolicyQuery::Show => Err((UNUSABLE, "this needs the daemon".to_owned())),
    }
}

fn find_socket(cli: &Cli) -> Result<PathBuf, String> {
    if cli.target.contains('/') {
        return Ok(PathBuf::from(&cli.target));
    }
    let rundir = cli.rundir.clone().unwrap_or_else(default_rundir);
    control_socket(&rundir, &cli.target).map_err(|error| match error {
        NotRunning::NoPidfile { .. } | NotRunning::Stale { .. } => {
            format!("{error}; start it with: systemctl start {}", cli.target)
        }
        NotRunning::Unreadable { .. } => format!("{error}; are you root?"),
    })
}

fn run_local(local: &Local, output: OutputFormat) -> Outcome {
    match local {
        Local::Doctor(_) | Local::Record(_) => Err((UNUSABLE, "this needs the daemon".to_owned())),
        Local::Replay(args) => run_replay(args, output),
        Local::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), "ovs-offloadctl", &mut text);
            Ok(String::from_utf8_lossy(&text).into_owned())
        }
        Local::Man { directory: Some(directory) } => write_pages(directory)
            .map_err(|error| (UNUSABLE, format!("cannot write to {}: {error}", directory.display()))),
        Local::Man { directory: None } => {
            let mut text = Vec::new();
            clap_mangen::Man::new(Cli::command())
                .render(&mut text)
                .map_err(|error| (UNUSABLE, error.to_string()))?;
            Ok(String::from_utf8_lossy(&text).into_owned())
        }
    }
}

/// Runs a recording: an event log through the engine, anything else through the planner and its rivals.
fn run_replay(args: &ReplayArgs, output: OutputFormat) -> Outcome {
    let json = |error: serde_json::Error| (UNUSABLE, error.to_string());
    if replay::kind_of(&args.file).map_err(|error| (UNUSABLE, error.to_string()))? == replay::Kind::EventLog {
        let replayed = ovs_offloadd::event_log::replay(&args.file).map_err(|sentence| (REFUSED, sentence))?;
        return Ok(match output {
            OutputFormat::Json => serde_json::to_string(&replayed).map_err(json)?,
            OutputFormat::Table => format!(
                "{} events over {} s gave the {} effects that were recorded",
                replayed.events,
                replayed.span_us / 1_000_000,
                replayed.effects
            ),
        });
    }
    let stop = Arc::new(AtomicBool::new(false));
    stop_on_interrupt(&stop);
    let shown = std::io::stderr().is_terminal();
    let mut progress = |thousandths: u32| {
        if shown {
            eprint!("\r{}.{} % replayed", thousandths / 10, thousandths % 10);
        }
    };
    let report = replay::run(args, &stop, &mut progress);
    if shown {
        eprint!("\r\x1b[K");
    }
    let report = report.map_err(|error| (UNUSABLE, error.to_string()))?;
    match output {
        OutputFormat::Json => serde_json::to_string_pretty(&report).map_err(json),
        OutputFormat::Table => Ok(report.table()),
    }
}

/// Sets `stop` at the first Ctrl-C; the second ends the program as ever.
fn stop_on_interrupt(stop: &Arc<AtomicBool>) {
    let stop = Arc::clone(stop);
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let Ok(runtime) = runtime else { return };
        runtime.block_on(async {
            if tokio::signal::ctrl_c().await.is_ok() {
                stop.store(true, Ordering::Relaxed);
            }
            if tokio::signal::ctrl_c().await.is_ok() {
                std::process::exit(130);
            }
        });
    });
}

fn write_pages(directory: &Path) -> std::io::Result<String> {
    std::fs::create_dir_all(directory)?;
    clap_mangen::generate_to(Cli::command(), directory)?;
    Ok(String::new())
}
