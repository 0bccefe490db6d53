//! `ovs-offloadctl replay`: reads traffic from a file, runs the planner and its rivals on it, and reports.
//!
//! What is decided and counted is in [`policies::replay`]; here are files, progress, and how it is told.

mod args;
mod chart;
mod input;
mod report;

use std::panic::resume_unwind;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::ScopedJoinHandle;

use policies::replay::{KeptTick, Options, Outcome, Replay, tick_length};
use policies::rules::Rules;
use policies::{Micros, planner};

pub use args::{Bad, ReplayArgs};
pub use input::{InputError, Kind, kind_of};
pub use report::Report;

use crate::config::{Config, read_file};
use input::FileTraffic;

/// What a replay may end with other than a report.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The file of traffic.
    #[error(transparent)]
    Input(#[from] InputError),
    /// The file of the policy.
    #[error("{0}")]
    Policy(String),
    /// Options that contradict each other, or the traffic.
    #[error("{0}")]
    Options(String),
    /// The drawing or the CSV of a sweep.
    #[error("cannot write {path}: {error}")]
    Output {
        /// Which file.
        path: String,
        /// Why.
        error: std::io::Error,
    },
}

/// Ticks that are read ahead of those who play them.
const TICKS_AHEAD: usize = 8;

/// Runs a replay. `progress` is told the share that is done, in thousandths, now and then; a `stop` that turns true ends
/// the replay early, with a report of what is done.
///
/// # Errors
/// See [`ReplayError`].
pub fn run(
    args: &ReplayArgs,
    stop: &AtomicBool,
    progress: &mut dyn FnMut(u32),
) -> Result<Report, ReplayError> {
    let (mut options, rules) = options(args)?;
    let mut traffic = input::open(&args.file, &rules, args.nic, &mut options, stop)?;
    let until = args.until.unwrap_or(Micros(u64::MAX));
    if let Some(end) = traffic.end() {
        outlasts(end.min(until), options.warmup)?;
    }
    let mut replay = play(Replay::new(&options, traffic.flows()), &mut traffic, until, stop, progress)?;
    let interrupted = stop.load(Ordering::Relaxed);
    if !interrupted {
        replay.finish();
        if traffic.recording().is_some() && replay.now() == Micros::ZERO {
            return Err(InputError::Empty { path: args.file.display().to_string() }.into());
        }
        outlasts(traffic.end().unwrap_or(replay.now()).min(until), options.warmup)?;
    }
    let report = Report::new(args, &options, &replay, &traffic, interrupted);
    if args.sweep {
        let prefix = args.sweep_prefix();
        write(&prefix, "csv", &report.sweep_csv())?;
        write(&prefix, "svg", &chart::draw(&report.curves(), &report.title()))?;
    }
    Ok(report)
}

/// Runs a replay up to the end of the traffic or `until`, each part of it on a thread of its own.
fn play(
    replay: Replay,
    traffic: &mut FileTraffic,
    until: Micros,
    stop: &AtomicBool,
    progress: &mut dyn FnMut(u32),
) -> Result<Replay, InputError> {
    std::thread::scope(|scope| {
        let start = |mut part: Replay| {
            let (given, taken) = sync_channel::<Arc<KeptTick>>(TICKS_AHEAD);
            let playing = scope.spawn(move || {
                taken.iter().for_each(|tick| part.tick(&tick.tick()));
                part
            });
            (given, playing)
        };
        let (first, rest) = replay.split();
        let (to_first, first) = start(first);
        let (mut given, rest): (Vec<_>, Vec<_>) = rest.into_iter().map(start).unzip();
        given.push(to_first);
        // Without another tick to come they end.
        let outcome = give(given, traffic, until, stop, progress);
        let end =
            |part: ScopedJoinHandle<'_, Replay>| part.join().unwrap_or_else(|panic| resume_unwind(panic));
        let whole = end(first).join(rest.into_iter().map(end));
        outcome.map(|()| whole)
    })
}

/// Gives ticks to all parts of a replay.
fn give(
    parts: Vec<SyncSender<Arc<KeptTick>>>,
    traffic: &mut FileTraffic,
    until: Micros,
    stop: &AtomicBool,
    progress: &mut dyn FnMut(u32),
) -> Result<(), InputError> {
    let mut told = None;
    while !stop.load(Ordering::Relaxed) {
        let Some(tick) = traffic.tick()?.filter(|tick| tick.end <= until) else { break };
        let (now, tick) = (tick.end, Arc::new(tick.keep()));
        for part in &parts {
            // One that takes no more has panicked, and that is told when it is joined.
            let _ = part.send(Arc::clone(&tick));
        }
        let of_until = u128::from(now.0) * 1_000 / u128::from(until.0.max(1));
        let done = traffic.thousandths(now).max(u32::try_from(of_until).unwrap_or(1_000)).min(1_000);
        if told != Some(done) {
            progress(done);
            told = Some(done);
        }
    }
    Ok(())
}

/// Whether there is any traffic after the warm-up.
fn outlasts(end: Micros, warmup: Micros) -> Result<(), ReplayError> {
    if end > warmup {
        return Ok(());
    }
    Err(ReplayError::Options(format!(
        "the traffic ends after {end}, within the warm-up of {warmup}: give a shorter --warmup"
    )))
}

fn write(prefix: &Path, extension: &str, text: &str) -> Result<(), ReplayError> {
    let mut name = prefix.as_os_str().to_owned();
    name.push(".");
    name.push(extension);
    std::fs::write(&name, text)
        .map_err(|error| ReplayError::Output { path: name.to_string_lossy().into_owned(), error })
}

/// Entries of a sweep, where nothing else is asked for.
const SWEEP: [u32; 12] = [16, 32, 64, 128, 256, 512, 1_024, 2_048, 4_096, 8_192, 16_384, 32_768];

fn options(args: &ReplayArgs) -> Result<(Options, Rules), ReplayError> {
    let wrong = |errors: crate::config::ConfigErrors| ReplayError::Policy(errors.to_string());
    let written = args.policy.as_deref().map(read_file).transpose().map_err(wrong)?.unwrap_or_default();
    let config = Config::from_file(&[], &written).map_err(wrong)?;
    let settings: planner::Settings = crate::daemon::engine_settings(&config).planner;
    let mut entries = vec![args.entries];
    if args.sweep {
        entries.extend(if args.sweep_entries.is_empty() { &SWEEP[..] } else { &args.sweep_entries });
        entries.sort_unstable();
        entries.dedup();
    }
    let options = Options {
        entries,
        installs_per_s: args.installs_per_s.unwrap_or(settings.installs_per_s),
        epoch: args.epoch,
        oracle_epoch: args.oracle_epoch,
        warmup: args.warmup,
        settings,
        classes: Vec::new(),
        division: planner::Division::default(),
        ewma: args.ewma,
    };
    if tick_length(&options) < Micros::from_millis(1) {
        return Err(ReplayError::Options(
            "--epoch and --oracle-epoch have to be multiples of one time of at least 1 ms".to_owned(),
        ));
    }
    Ok((options, config.rules))
}

/// The outcome of a policy with so many entries.
fn find(outcomes: &[Outcome], policy: policies::replay::PolicyName, entries: u32) -> Option<&Outcome> {
    outcomes.iter().find(|outcome| outcome.policy == policy && outcome.entries == entries)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: ReplayArgs,
    }

    /// Two steady flows, the larger of which comes second, and one that has ended before the end of the warm-up.
    const CSV: &str = "flow,start_s,end_s,packets,bytes,on_s,off_s,tenant\n\
        small,0,100,1000,100000,,,\nlarge,5,105,100000,100000000,,,t\nearly,0,5,10,5000\n";

    fn replay(text: &str, options: &str, stop: bool) -> Result<Report, ReplayError> {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("flows.csv");
        std::fs::write(&file, text).unwrap();
        let words = ["replay", file.to_str().unwrap()].into_iter().chain(options.split_whitespace());
        let args = Line::try_parse_from(words).unwrap().args;
        let mut told = Vec::new();
        let report = run(&args, &AtomicBool::new(stop), &mut |done| told.push(done));
        assert!(report.is_err() || stop || told.last() == Some(&1_000), "{told:?}");
        report
    }

    #[test]
    fn json_has_totals_and_every_policy_by_name() {
        let report = replay(CSV, "--entries 1 --installs-per-s 10 --warmup 20s --ewma", false).unwrap();
        let json = serde_json::to_value(&report).unwrap();
        // 80 s of one, and 85 s of the other.
        assert_eq!(json["bytes_total"], 80_000 + 85_000_000);
        assert_eq!(json["packets_total"], 800 + 85_000);
        for policy in ["planner", "oracle", "seen-oracle", "ovs-rebalance", "lru", "first-come", "best-ewma"]
        {
            for key in ["bytes_in_hardware", "packets_in_hardware", "installs", "evictions"] {
                assert!(json["policies"][policy][key].is_u64(), "{policy} {key}");
            }
        }
        let bytes = |policy: &str| json["policies"][policy]["bytes_in_hardware"].as_u64();
        assert_eq!(bytes("oracle"), Some(85_000_000));
        assert_eq!(bytes("planner"), Some(85_000_000));
        assert_eq!(bytes("first-come"), Some(80_000), "who came first keeps its entry");
        assert_eq!(json["policies"]["oracle"]["installs"], 0, "what happened in the warm-up is left out");
    }

    #[test]
    fn what_comes_after_until_is_left_out() {
        let report = replay(CSV, "--entries 2 --warmup 20s --until 50s", false).unwrap();
        assert_eq!(report.bytes_total, 30_000 + 30_000_000);
        assert_eq!(report.replayed_s, 50.0);
        let whole = replay(CSV, "--entries 2 --warmup 20s", false).unwrap();
        let later = replay(CSV, "--entries 2 --warmup 20s --until 1000s", false).unwrap();
        assert_eq!(later.policies, whole.policies, "the file ends before that");
        assert!(replay(CSV, "--warmup 20s --until 20s", false).is_err());
    }

    #[test]
    fn a_sweep_writes_its_curve_as_svg_and_as_csv() {
        let directory = tempfile::tempdir().unwrap();
        let prefix = directory.path().join("curve");
        let options = format!("--entries 4 --sweep --sweep-entries 1,2 --sweep-to {}", prefix.display());
        let report = replay(CSV, &options, false).unwrap();
        assert_eq!(report.sweep.iter().map(|point| point.entries).collect::<Vec<_>>(), [1, 2, 4]);
        let csv = std::fs::read_to_string(prefix.with_extension("csv")).unwrap();
        assert_eq!(csv.lines().count(), 1 + 3 * 6);
        assert!(std::fs::read_to_string(prefix.with_extension("svg")).unwrap().contains("planner"));
    }

    #[test]
    fn what_was_done_before_an_interruption_is_kept() {
        let report = replay(CSV, "--entries 1", true);
        // Reading the file is not worth keeping; a replay is.
        assert!(matches!(report, Err(ReplayError::Input(InputError::Interrupted { .. }))));
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("flows.csv");
        std::fs::write(&file, CSV).unwrap();
        let args = Line::try_parse_from(["replay", file.to_str().unwrap()]).unwrap().args;
        let stop = AtomicBool::new(false);
        let report = run(&args, &stop, &mut |done| stop.store(done >= 500, Ordering::Relaxed)).unwrap();
        assert!(report.interrupted);
        assert!((52.0..54.0).contains(&report.replayed_s), "{}", report.replayed_s);
        assert!(report.table().contains("interrupted: the file goes on until 105 s"));
    }

    #[test]
    fn what_cannot_be_replayed_is_told_in_a_sentence() {
        let sentence = |text: &str, options: &str| replay(text, options, false).unwrap_err().to_string();
        assert!(sentence("a,b\n", "").contains("nor a CSV of flows"));
        assert!(sentence(CSV, "--warmup 200s").contains("give a shorter --warmup"));
        assert!(
            sentence("flow,start_s,end_s,packets,bytes\na,1,0,1,1\n", "").contains("line 2: end_s is before")
        );
        assert!(sentence(CSV, "--policy /nonexistent/p.toml").contains("/nonexistent/p.toml"));
    }
}
