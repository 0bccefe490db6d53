//! Turns a filter, as the kernel reported it, into the request that replaces it. For trying the codec on a kernel.
//!
//! `rewrite replace` reads a message in hexadecimal from standard input and writes the request that replaces the filter
//! by itself, with new actions; `rewrite demote` the one that adds skip_hw and keeps the actions; `rewrite compare` reads
//! two messages, one per line, and says whether they describe the same rule: `same`. Errors have exit code 1.

use netlink_wire::Message;
use std::io::Read;
use std::process::ExitCode;
use tc_flower::{ActionIndex, Filter, FilterFlags, FilterReport, ReplaceActions, Seq, TcEvent, request};

fn main() -> ExitCode {
    let mode = std::env::args().nth(1).unwrap_or_default();
    let mut input = String::new();
    if let Err(error) = std::io::stdin().read_to_string(&mut input) {
        eprintln!("standard input: {error}");
        return ExitCode::FAILURE;
    }
    match run(&mode, &input) {
        Ok(output) => {
            println!("{output}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(mode: &str, input: &str) -> Result<String, String> {
    let mut reports = input.split_whitespace().map(report);
    let mut next = || reports.next().unwrap_or_else(|| Err("a message is missing".into()));
    match mode {
        "replace" => {
            let filter = next()?.to_filter().map_err(|error| error.to_string())?;
            write(&filter, ReplaceActions::Fresh)
        }
        "demote" => {
            let filter = next()?.to_filter().map_err(|error| error.to_string())?;
            write(&Filter { flags: FilterFlags::SKIP_HW, ..filter }, ReplaceActions::Kept)
        }
        "compare" => {
            let (before, after) = (rule(next()?)?, rule(next()?)?);
            match before == after {
                true => Ok("same".into()),
                false => Err(format!("different\n{before:#?}\n{after:#?}")),
            }
        }
        _ => Err("usage: rewrite replace|demote|compare < HEX".into()),
    }
}

fn report(hex: &str) -> Result<FilterReport, String> {
    let digits = |at: usize| hex.get(at..at + 2).ok_or("an odd number of digits");
    let byte = |at| u8::from_str_radix(digits(at)?, 16).map_err(|_| "not hexadecimal");
    let bytes = (0..hex.len()).step_by(2).map(byte).collect::<Result<Vec<_>, _>>()?;
    let message = Message::first(&bytes).map_err(|error| error.to_string())?;
    match TcEvent::decode(&message).map_err(|error| error.to_string())? {
        TcEvent::Filter(report) => Ok(*report),
        other => Err(format!("not a filter: {other:?}")),
    }
}

fn write(filter: &Filter, actions: ReplaceActions) -> Result<String, String> {
    let bytes = request::replace(filter, actions, Seq(1)).map_err(|error| error.to_string())?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// What has to stay the same: everything but flags and the indices of actions.
fn rule(report: FilterReport) -> Result<Filter, String> {
    let mut filter = report.to_filter().map_err(|error| error.to_string())?;
    filter.flags = FilterFlags::NONE;
    for action in &mut filter.actions {
        action.index = ActionIndex(0);
        action.flags = action.flags & tc_flower::ActionFlags::NO_PERCPU_STATS;
    }
    Ok(filter)
}
