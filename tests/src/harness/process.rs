//! Running programs of the guest.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::{Failure, Outcome};

/// Runs `program` and gives its standard output; fails with what it said when it does not succeed.
pub fn run(program: &str, arguments: &[&str]) -> Outcome<String> {
    output(Command::new(program).args(arguments))
}

/// Runs `command` and gives its standard output; fails with what it said when it does not succeed.
pub fn output(command: &mut Command) -> Outcome<String> {
    let shown = format!("{command:?}");
    let output =
        command.stdin(Stdio::null()).output().map_err(|error| Failure::new(format!("{shown}: {error}")))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(text);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Failure::new(format!("{shown} ended with {}: {} {}", output.status, said.trim(), text.trim())))
}

/// Where a program is that the lab has on its PATH.
pub fn program(name: &str) -> Outcome<PathBuf> {
    Ok(PathBuf::from(run("sh", &["-c", &format!("command -v {name}")])?.trim()))
}

/// `utime` and `stime` of all threads of a process, in ticks of 10 ms (`proc_pid_stat(5)`).
pub fn cpu_time(pid: u32) -> Outcome<Duration> {
    ticks(pid, 2)
}

/// The same with that of its children that have ended (`cutime` and `cstime`).
pub fn cpu_time_with_children(pid: u32) -> Outcome<Duration> {
    ticks(pid, 4)
}

fn ticks(pid: u32, fields: usize) -> Outcome<Duration> {
    const TICK: Duration = Duration::from_millis(10);
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, rest) = stat.rsplit_once(')').ok_or_else(|| Failure::new(stat.clone()))?;
    let ticks = rest.split_whitespace().skip(11).take(fields).filter_map(|field| field.parse::<u32>().ok());
    Ok(TICK * ticks.sum::<u32>())
}

/// Memory of a process that is its own and in use: `RssAnon` of `proc_pid_status(5)`, in KiB. The pages of its program are not in it.
pub fn memory_kib(pid: u32) -> Outcome<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let value = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = value.and_then(|value| value.trim().strip_suffix(" kB")).and_then(|kib| kib.parse().ok());
    kib.ok_or_else(|| Failure::new(format!("process {pid} has no RssAnon: {status}")))
}
