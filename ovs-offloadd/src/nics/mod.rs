//! NICs made as they are declared: by `nic apply`, `port attach` and `port detach`, and by the daemon.
//!
//! Joins what decides (`lifecycle`) and what does (`io::nic`), one NIC at a time and one process at a time.

mod compare;
mod report;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use netlink_wire::devlink::Handle;

use crate::config::{Config, read_file};
use crate::ctl::{FunctionArgs, NicApplyArgs, PortAttachArgs, PortDetachArgs};
use crate::daemon::default_config_file;
use crate::io::nic::{NicHands, Places, Turn, eswitch_handles};
use crate::lifecycle::declared::{Attach, DeclaredNic, DeclaredPort, FunctionKind, NetnsWanted};
use crate::lifecycle::observed::Observed;
use crate::lifecycle::plan::plan;
use crate::lifecycle::run::{Hands as _, Outcome, run};
use crate::lifecycle::step::Operation;

pub use compare::{Difference, differences};
pub use report::{Ended, NicReport, PortView, Report, StepView};

/// Told of each step that begins, and of each that is undone.
pub type Progress = fn(&Handle, &Operation, bool);

fn silent(_: &Handle, _: &Operation, _: bool) {}

/// Makes one NIC as it is declared, or leaves it as it is, or says what came of it.
pub fn make(declared: &DeclaredNic, places: &Places, progress: Progress) -> NicReport {
    let handle = &declared.handle;
    let begin = || -> Result<(Turn, NicHands), String> {
        // Two who change one host at a time would each undo what the other did.
        let turn = Turn::take(&places.rundir)?;
        Ok((turn, NicHands::new(declared, places.clone(), progress)?))
    };
    let (_turn, mut hands) = match begin() {
        Ok(begun) => begun,
        Err(why) => return NicReport::not_begun(handle, why),
    };
    let before = hands.observe().unwrap_or_default();
    let outcome = run(declared, &mut hands);
    let after = hands.observe().unwrap_or_default();
    let names = named(before, &after, &outcome);
    let functions = declared.ports.iter().map(|port| port.function);
    NicReport::ended(handle, &outcome, &names).with_ports(functions, &after)
}

/// A reading in which devices have names: that of the end, where there is what the steps were done to.
fn named(before: Observed, after: &Observed, outcome: &Outcome) -> Observed {
    match outcome {
        Outcome::Reached { .. } => after.clone(),
        _ => before,
    }
}

/// What would be done for one NIC. Changes nothing.
pub fn would(declared: &DeclaredNic, places: &Places) -> NicReport {
    let now = NicHands::new(declared, places.clone(), silent).and_then(|mut hands| hands.observe());
    match now {
        Ok(now) => NicReport::planned(&declared.handle, plan(declared, &now), &now),
        Err(why) => NicReport::not_begun(&declared.handle, why),
    }
}

/// What stands in the way of a command that changes NICs before it has looked at one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unusable(pub String);

fn configuration(file: Option<&PathBuf>) -> Result<Config, Unusable> {
    let default = default_config_file();
    let file = match file {
        Some(file) => file,
        None if default.exists() => &default,
        None => return Ok(Config::defaults()),
    };
    let config = read_file(file).and_then(|written| Config::from_file(&[], &written));
    config.map_err(|errors| Unusable(format!("the configuration is wrong\n{errors}")))
}

fn places_of(config: &Config, rundir: Option<&Path>) -> Places {
    let mut config = config.clone();
    if let Some(rundir) = rundir {
        config.ovs.rundir = Some(rundir.to_owned());
    }
    Places { database: config.database(), rundir: config.rundir(), daemon: crate::io::nic::Daemon::Found }
}

/// `nic apply`
///
/// # Errors
/// The configuration is wrong, or declares no such NIC.
pub fn apply(args: &NicApplyArgs, rundir: Option<&Path>, progress: Progress) -> Result<Report, Unusable> {
    let config = configuration(args.config.as_ref())?;
    let places = places_of(&config, rundir);
    let is_meant =
        |nic: &&DeclaredNic| args.nic.as_ref().is_none_or(|handle| *handle == nic.handle.to_string());
    let nics: Vec<&DeclaredNic> = config.devices.iter().filter(is_meant).collect();
    if let (Some(handle), true) = (&args.nic, nics.is_empty()) {
        return Err(Unusable(format!("the configuration declares no {handle}")));
    }
    let make = |nic: &DeclaredNic| match args.dry_run {
        true => would(nic, &places),
        false => make(nic, &places, progress),
    };
    Ok(Report { nics: nics.into_iter().map(make).collect() })
}

/// The NIC that is meant: by its handle, or by its number in `nic list`; without a daemon by its place among the handles.
fn handle_of(text: &str, places: &Places, limit: Duration) -> Result<Handle, Unusable> {
    if let Ok(handle) = text.parse() {
        return Ok(handle);
    }
    let number: u16 = text
        .parse()
        .map_err(|_| Unusable(format!("{text} is neither a number of `nic list` nor a devlink handle")))?;
    let found = eswitch_handles(places, limit).map_err(Unusable)?;
    let known: Vec<String> = found.iter().map(|(number, handle)| format!("{number} is {handle}")).collect();
    found
        .into_iter()
        .collect::<BTreeMap<u16, Handle>>()
        .remove(&number)
        .ok_or_else(|| Unusable(format!("there is no NIC {number} ({})", known.join(", "))))
}

fn begin(args: &FunctionArgs, rundir: Option<&Path>, limit: Duration) -> Result<(Places, Handle), Unusable> {
    let config = configuration(args.config.as_ref())?;
    let places = places_of(&config, rundir);
    let handle = handle_of(&args.nic, &places, limit)?;
    Ok((places, handle))
}

fn done(args: &FunctionArgs, declared: &DeclaredNic, places: &Places, progress: Progress) -> Report {
    let nic = if args.dry_run { would(declared, places) } else { make(declared, places, progress) };
    Report { nics: vec![nic] }
}

/// `port attach`: the function's device to its namespace, its representor to its bridge.
///
/// # Errors
/// There is no such NIC, or the configuration is wrong.
pub fn attach(
    args: &PortAttachArgs,
    rundir: Option<&Path>,
    limit: Duration,
    progress: Progress,
) -> Result<Report, Unusable> {
    let (places, handle) = begin(&args.function, rundir, limit)?;
    let function = args.function.function();
    let mut external_ids: BTreeMap<String, String> = args.external_ids.iter().cloned().collect();
    external_ids.extend(args.iface_id.iter().map(|id| ("iface-id".to_owned(), id.clone())));
    let port = DeclaredPort {
        mac: args.mac,
        mtu: args.mtu,
        up: Some(true),
        active: matches!(function.kind, FunctionKind::Sf(_)).then_some(true),
        attach: Some(Attach::Bridge { bridge: args.bridge.clone(), external_ids, may_move: false }),
        netns: args.netns.clone().map(NetnsWanted::In),
        ..DeclaredPort::new(function)
    };
    let declared = DeclaredNic { ports: vec![port], ..DeclaredNic::new(handle) };
    Ok(done(&args.function, &declared, &places, progress))
}

/// `port detach`: the contrary of [`attach`], and no error where there is nothing left to detach.
///
/// # Errors
/// There is no such NIC, or the configuration is wrong.
pub fn detach(
    args: &PortDetachArgs,
    rundir: Option<&Path>,
    limit: Duration,
    progress: Progress,
) -> Result<Report, Unusable> {
    let (places, handle) = begin(&args.function, rundir, limit)?;
    let function = args.function.function();
    let mut declared = DeclaredNic::new(handle);
    let now = NicHands::new(&declared, places.clone(), silent).and_then(|mut hands| hands.observe());
    let state = now.as_ref().ok().and_then(|now| now.function(function)).cloned();
    if let Some(state) = state {
        let port = DeclaredPort {
            up: state.representor.is_some().then_some(false),
            attach: Some(Attach::Nowhere),
            netns: state.netdev.is_some().then_some(NetnsWanted::Home),
            ..DeclaredPort::new(function)
        };
        declared.ports.push(port);
        declared.known_namespaces.extend(args.netns.clone());
    }
    Ok(done(&args.function, &declared, &places, progress))
}
