//! Turns filters, as the kernel reported them, into the requests that replace them. For trying the codec on a kernel.
//!
//! Each line of standard input is a command and messages in hexadecimal, each line of standard output its answer:
//!
//! - `replace MESSAGE`: the request that replaces the filter by itself, with new actions;
//! - `promote MESSAGE`: the same, without skip_hw;
//! - `demote MESSAGE`: the request that adds skip_hw and keeps the actions;
//! - `compare MESSAGE MESSAGE`: `same` if both describe the same rule;
//! - `show MESSAGE`: keys and actions as text.
//!
//! An answer that begins with `error` says why not.

use netlink_wire::Message;
use std::io::BufRead;
use tc_flower::{
    ActionFlags, ActionIndex, Filter, FilterFlags, FilterReport, ReplaceActions, Seq, TcEvent, display,
    request,
};

fn main() {
    for line in std::io::stdin().lock().lines().map_while(Result::ok) {
        let answer = run(&line).unwrap_or_else(|error| format!("error {error}"));
        println!("{}", answer.replace('\n', " "));
    }
}

fn run(line: &str) -> Result<String, String> {
    let mut words = line.split_whitespace();
    let command = words.next().unwrap_or_default();
    let mut next = || words.next().map_or_else(|| Err("a message is missing".into()), report);
    let filter = |report: FilterReport| report.to_filter().map_err(|error| error.to_string());
    match command {
        "replace" => write(&filter(next()?)?, ReplaceActions::Fresh),
        "promote" => {
            write(&Filter { flags: FilterFlags::VERBOSE, ..filter(next()?)? }, ReplaceActions::Fresh)
        }
        "demote" => write(&Filter { flags: FilterFlags::SKIP_HW, ..filter(next()?)? }, ReplaceActions::Kept),
        "compare" => {
            let (before, after) = (rule(next()?)?, rule(next()?)?);
            match before == after {
                true => Ok("same".into()),
                false => Err(format!("different: {before:?} {after:?}")),
            }
        }
        "show" => {
            let report = next()?;
            let actions = report.actions.iter().map(|report| &report.action);
            let actions = display::actions(actions, &|ifindex, f| write!(f, "{ifindex}")).to_string();
            Ok(format!("{} actions: {actions}", report.keys))
        }
        _ => Err("not a command: replace, promote, demote, compare or show".into()),
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
        action.flags = action.flags & ActionFlags::NO_PERCPU_STATS;
    }
    Ok(filter)
}
