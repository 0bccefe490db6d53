//! NICs that are declared are kept as declared: at the start, at reload, and when something about them has changed.
//!
//! A thread of its own does it, since a change of firmware takes seconds. Without a `[[device]]` there is no such thread,
//! and nothing is ever looked at or changed.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use netlink_wire::devlink::Handle;
use tokio::sync::mpsc;
use tracing::{info, warn};

use crate::io::nic::{Daemon as DrainedBy, Places};
use crate::lifecycle::declared::DeclaredNic;
use crate::lifecycle::step::Operation;
use crate::nics::{Ended, NicReport, make};

/// Time after a change until it is looked at: changes come in bursts, and ours are among them.
const SETTLE: Duration = Duration::from_secs(1);
/// Time until a failure is tried again; it doubles with each up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_secs(2);
const RETRY_MAX: Duration = Duration::from_secs(300);

/// What came of a NIC and of each of its functions.
pub(super) type Reports = Vec<NicReport>;

/// What is declared, and what came of it.
#[derive(Debug)]
pub(super) struct Reconciler {
    places: Places,
    jobs: Option<std::sync::mpsc::Sender<Vec<DeclaredNic>>>,
    said: mpsc::Sender<Reports>,
    wanted: Vec<DeclaredNic>,
    /// By NIC: what to say of it.
    pub(super) sentences: BTreeMap<String, (bool, String)>,
    due: Option<Instant>,
    busy: bool,
    /// Something changed while a look was under way.
    changed: bool,
    retry: Duration,
}

impl Reconciler {
    /// Nothing is declared yet.
    pub(super) fn new(database: String, rundir: PathBuf, socket: PathBuf) -> (Self, mpsc::Receiver<Reports>) {
        let (said, reports) = mpsc::channel(4);
        let reconciler = Self {
            places: Places { database, rundir, daemon: DrainedBy::At(socket) },
            jobs: None,
            said,
            wanted: Vec::new(),
            sentences: BTreeMap::new(),
            due: None,
            busy: false,
            changed: false,
            retry: RETRY_MIN,
        };
        (reconciler, reports)
    }

    /// This is declared from now on.
    pub(super) fn declare(&mut self, wanted: &[DeclaredNic]) {
        if self.wanted == wanted && self.jobs.is_some() {
            return;
        }
        self.wanted = wanted.to_vec();
        let handles: Vec<String> = wanted.iter().map(|nic| nic.handle.to_string()).collect();
        self.sentences.retain(|handle, _| handles.contains(handle));
        self.retry = RETRY_MIN;
        if wanted.is_empty() {
            self.due = None;
        } else {
            self.due = Some(Instant::now());
        }
    }

    /// Something about NICs, links or bridges has changed.
    pub(super) fn something_changed(&mut self) {
        if self.wanted.is_empty() {
            return;
        }
        self.changed |= self.busy;
        let soon = Instant::now() + SETTLE;
        self.due = Some(self.due.map_or(soon, |due| due.min(soon)));
    }

    /// When it is time to look.
    pub(super) async fn due(&self) {
        match self.due.filter(|_| !self.busy) {
            Some(due) => tokio::time::sleep_until(due.into()).await,
            None => std::future::pending().await,
        }
    }

    /// It is time: the thread looks, and does what there is to do.
    pub(super) fn begin(&mut self) {
        self.due = None;
        let jobs = match &self.jobs {
            Some(jobs) => jobs,
            None => match self.start() {
                Ok(jobs) => self.jobs.insert(jobs),
                Err(why) => {
                    warn!(%why, "declared NICs cannot be looked after");
                    return;
                }
            },
        };
        self.busy = jobs.send(self.wanted.clone()).is_ok();
    }

    fn start(&self) -> Result<std::sync::mpsc::Sender<Vec<DeclaredNic>>, String> {
        let (jobs, work) = std::sync::mpsc::channel::<Vec<DeclaredNic>>();
        let (places, said) = (self.places.clone(), self.said.clone());
        let thread = std::thread::Builder::new().name("nics".to_owned());
        let body = move || {
            while let Ok(wanted) = work.recv() {
                let make = |part: &DeclaredNic| make(part, &places, tell);
                let reports = wanted.iter().flat_map(|nic| reach(nic, make)).collect();
                if said.blocking_send(reports).is_err() {
                    return;
                }
            }
        };
        thread.spawn(body).map(|_| jobs).map_err(|error| error.to_string())
    }

    /// The thread has done what there was to do.
    pub(super) fn take(&mut self, reports: Reports) {
        self.busy = false;
        let mut failed = false;
        let mut sentences: BTreeMap<String, (bool, String)> = BTreeMap::new();
        for report in reports {
            let reached = report.outcome == Ended::Reached;
            failed |= !reached;
            let steps = report.steps.len();
            let sentence = report.sentence();
            match sentences.entry(report.nic) {
                std::collections::btree_map::Entry::Vacant(entry) => {
                    entry.insert((reached, sentence));
                }
                // A NIC and its functions are one line: what is wrong comes before what is right.
                std::collections::btree_map::Entry::Occupied(mut entry) => match (reached, entry.get().0) {
                    (true, false) => {}
                    (true, true) if steps == 0 => {}
                    (true, true) | (false, true) => *entry.get_mut() = (reached, sentence),
                    (false, false) => entry.get_mut().1.push_str(&format!("; {sentence}")),
                },
            }
        }
        for (nic, (reached, sentence)) in &sentences {
            if self.sentences.get(nic) != Some(&(*reached, sentence.clone())) {
                match reached {
                    true => info!(nic, "{sentence}"),
                    false => warn!(nic, "{sentence}"),
                }
            }
        }
        self.sentences = sentences;
        if failed {
            let again = Instant::now() + self.retry;
            self.retry = (self.retry * 2).min(RETRY_MAX);
            self.due = Some(again);
        } else {
            self.retry = RETRY_MIN;
        }
        // A failure waits for its time also where it was our own doing that changed something.
        if std::mem::take(&mut self.changed) && !failed {
            self.due = Some(Instant::now() + SETTLE);
        }
    }
}

/// Makes the NIC as declared: itself and each of its functions by itself, or, where functions that were handed to their
/// namespaces as declared stand in the way of the NIC itself, everything at once, so that they are taken back for it.
fn reach(nic: &DeclaredNic, make: impl Fn(&DeclaredNic) -> NicReport) -> Vec<NicReport> {
    let mut parts = parts(nic);
    let Some(whole) = parts.next() else { return Vec::new() };
    let report = make(&whole);
    if !report.impossible.is_empty() && nic.ports.iter().any(|port| port.netns.is_some()) {
        let together = make(nic);
        if together.impossible.is_empty() {
            return vec![together];
        }
    }
    std::iter::once(report).chain(parts.map(|part| make(&part))).collect()
}

/// The NIC itself and each of its functions, each to be reached or undone by itself: a workload's namespace that is not
/// there yet keeps no other from its port, and no NIC from its mode.
fn parts(nic: &DeclaredNic) -> impl Iterator<Item = DeclaredNic> {
    let whole = DeclaredNic { ports: Vec::new(), ..nic.clone() };
    let ports = nic.ports.clone().into_iter().map({
        let (handle, hw_tc_offload, mode) = (nic.handle.clone(), nic.hw_tc_offload, nic.mode);
        move |port| DeclaredNic { hw_tc_offload, mode, ports: vec![port], ..DeclaredNic::new(handle.clone()) }
    });
    std::iter::once(whole).chain(ports)
}

fn tell(handle: &Handle, operation: &Operation, undo: bool) {
    match undo {
        false => info!(nic = %handle, "{operation}"),
        true => warn!(nic = %handle, "undo: {operation}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lifecycle::declared::{DeclaredPort, Function, NetnsRef, NetnsWanted};

    fn report(outcome: Ended, failed: Option<&str>) -> NicReport {
        NicReport {
            nic: "pci/a".into(),
            outcome,
            steps: Vec::new(),
            failed: failed.map(str::to_owned),
            impossible: Vec::new(),
            differences: Vec::new(),
            ports: Vec::new(),
        }
    }

    fn reconciler() -> Reconciler {
        Reconciler::new("unix:/x".into(), "/x".into(), "/x/y".into()).0
    }

    #[test]
    fn functions_in_their_declared_namespaces_are_taken_back_for_the_nic_and_others_stand_in_its_way() {
        let mut nic = DeclaredNic::new("pci/a".parse().unwrap());
        nic.ports = vec![DeclaredPort::new(Function::vf(0)), DeclaredPort::new(Function::vf(1))];
        let made = |nic: &DeclaredNic, refused: fn(&DeclaredNic) -> bool| {
            let asked = std::cell::RefCell::new(Vec::new());
            reach(nic, |part| {
                asked.borrow_mut().push(part.ports.len());
                let mut report = report(Ended::Reached, None);
                report.impossible.extend(refused(part).then(|| "VF 0 is in another namespace".to_owned()));
                report
            });
            asked.into_inner()
        };
        assert_eq!(made(&nic, |_| false), [0, 1, 1], "nothing is in the way");
        assert_eq!(
            made(&nic, |part| part.ports.is_empty()),
            [0, 1, 1],
            "it is in nobody's declared namespace"
        );
        nic.ports[0].netns = Some(NetnsWanted::In(NetnsRef::Name("pod".into())));
        assert_eq!(made(&nic, |part| part.ports.is_empty()), [0, 2], "all at once");
        assert_eq!(made(&nic, |part| part.ports.len() != 1), [0, 2, 1, 1], "another's is in the way");
    }

    #[test]
    fn without_a_declared_nic_nothing_is_ever_due() {
        let mut reconciler = reconciler();
        reconciler.declare(&[]);
        reconciler.something_changed();
        assert!(reconciler.due.is_none() && reconciler.jobs.is_none());
    }

    #[test]
    fn a_failure_is_tried_again_later_each_time_and_not_sooner_for_a_change_of_its_own() {
        let mut reconciler = reconciler();
        reconciler.declare(&[DeclaredNic::new("pci/a".parse().unwrap())]);
        let mut waits = Vec::new();
        for _ in 0..10 {
            reconciler.busy = true;
            reconciler.something_changed();
            reconciler.take(vec![report(Ended::Undone, Some("EIO"))]);
            waits.push((reconciler.due.unwrap() - Instant::now()).as_secs_f64().round() as u64);
        }
        assert_eq!(waits, [2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
        assert_eq!(reconciler.sentences["pci/a"], (false, "left as it was: EIO".to_owned()));
        reconciler.take(vec![report(Ended::Reached, None)]);
        assert_eq!((reconciler.retry, &reconciler.sentences["pci/a"].1[..]), (RETRY_MIN, "as declared"));
    }

    #[test]
    fn a_nic_and_each_of_its_functions_are_parts_of_their_own() {
        let mut nic = DeclaredNic::new("pci/a".parse().unwrap());
        nic.vfs = Some(2);
        nic.ports = vec![DeclaredPort::new(Function::vf(0)), DeclaredPort::new(Function::vf(1))];
        let parts: Vec<DeclaredNic> = parts(&nic).collect();
        let shapes: Vec<_> = parts.iter().map(|part| (part.vfs, part.ports.len())).collect();
        assert_eq!(shapes, [(Some(2), 0), (None, 1), (None, 1)]);
        let mut reconciler = reconciler();
        let ok = || report(Ended::Reached, None);
        reconciler.take(vec![ok(), report(Ended::Undone, Some("x")), ok()]);
        assert_eq!(reconciler.sentences["pci/a"], (false, "left as it was: x".to_owned()));
    }
}
