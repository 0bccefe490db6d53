//! From the kernel datapath's change to the hardware's: how long a rule outlives what its megaflow did.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use lab_tests::harness::{
    Daemon, Demo, Failure, Lab, OpenFlow, Outcome, Ovs, UdpRule, ensure, wait_for, wait_until,
};
use netlink_wire::genl::FamilyId;
use netlink_wire::ovs_flow::{self, Megaflow};
use netlink_wire::{Messages, ovs_datapath};
use ovs_offloadd::io::netlink::{Asker, DATAGRAM_BYTES_MAX, Protocol, Received, Socket};
use tc_flower::{Change, TcEvent, request};

use super::scene::{
    EAGER, FIRST, PORT, SETTLES_WITHIN, Traffic, agree, in_hardware, in_nic, one_megaflow_each, origin,
};

const FLOWS: u16 = 20;
/// OpenFlow changes, each of all flows.
const CHANGES: usize = 12;
/// Megaflows deleted one by one.
const DELETIONS: usize = 40;
/// The most that a rule may outlive its megaflow in an emulated guest that is busy otherwise.
const BOUND: Duration = Duration::from_secs(2);

/// What was heard.
#[derive(Debug, Default)]
pub(super) struct Record {
    /// Rules that are there, and what their megaflows did when they were made.
    rules: BTreeMap<String, Vec<u8>>,
    megaflows: BTreeMap<String, Heard>,
    /// Rules whose megaflow does something else by now, or is deleted, since when.
    pub(super) due: BTreeMap<String, Instant>,
    pub(super) lags: Vec<Duration>,
    pub(super) lost: u64,
}

/// A megaflow as it was last told.
#[derive(Debug, Default)]
struct Heard {
    is_there: bool,
    does: Vec<u8>,
}

/// A thread that hears of megaflows and of filters.
pub(super) struct Witness {
    record: Arc<Mutex<Record>>,
    ended: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Witness {
    pub(super) fn start() -> Outcome<Self> {
        let (record, ended) = (Arc::new(Mutex::new(Record::default())), Arc::new(AtomicBool::new(false)));
        let (told, is_ready) = std::sync::mpsc::channel();
        let (shared, end) = (Arc::clone(&record), Arc::clone(&ended));
        let thread = thread::spawn(move || {
            let failed = hear(&shared, &end, &told).map_err(|failure| failure.to_string());
            let _ = told.send(failed);
        });
        let ready = is_ready.recv().map_err(|_| Failure::new("the witness ended"))?;
        ready.map_err(Failure::new)?;
        Ok(Self { record, ended, thread: Some(thread) })
    }

    pub(super) fn with<T>(&self, read: impl FnOnce(&Record) -> T) -> T {
        read(&self.record.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn hear(
    record: &Mutex<Record>,
    ended: &AtomicBool,
    told: &std::sync::mpsc::Sender<Result<(), String>>,
) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut asker = Asker::open(Protocol::Generic, Duration::from_secs(5)).map_err(Failure::new)?;
        let family = asker.family_report(ovs_flow::FAMILY).await.map_err(Failure::new)?;
        let group = family.group(ovs_flow::GROUP).ok_or_else(|| Failure::new("ovs_flow has no group"))?;
        let (flows, filters) =
            (Socket::open(Protocol::Generic, 64 << 20)?, Socket::open(Protocol::Route, 64 << 20)?);
        flows.join(group.0)?;
        filters.join(request::RTNLGRP_TC)?;
        let _ = told.send(Ok(()));
        let (mut one, mut other) = (vec![0; DATAGRAM_BYTES_MAX], vec![0; DATAGRAM_BYTES_MAX]);
        while !ended.load(Ordering::Relaxed) {
            // What the daemon does comes after what it hears of.
            tokio::select! {
                biased;
                received = flows.receive(&mut one) => note(record, received?, &one, |record, bytes| {
                    record.take_flows(bytes, family.id);
                }),
                received = filters.receive(&mut other) => {
                    // Whether a socket has something is known late: what was told before this is there by now.
                    loop {
                        match flows.try_receive(&mut one)? {
                            Received::Nothing => break,
                            before => note(record, before, &one, |record, bytes| {
                                record.take_flows(bytes, family.id);
                            }),
                        }
                    }
                    note(record, received?, &other, Record::take_filters);
                }
                () = tokio::time::sleep(Duration::from_millis(50)) => {}
            }
        }
        Ok(())
    })
}

fn note(record: &Mutex<Record>, received: Received, buffer: &[u8], take: impl FnOnce(&mut Record, &[u8])) {
    let mut record = record.lock().unwrap_or_else(PoisonError::into_inner);
    match received {
        Received::Bytes(length) => take(&mut record, &buffer[..length]),
        Received::Overrun => record.lost += 1,
        Received::Nothing => {}
    }
}

impl Record {
    fn take_flows(&mut self, bytes: &[u8], family: FamilyId) {
        for message in Messages::new(bytes).filter_map(Result::ok) {
            if message.header.kind != family.0 {
                continue;
            }
            let Ok((flow, body)) = Megaflow::decode_with_body(&message) else {
                self.lost += 1;
                continue;
            };
            let Some(origin) = flow.counters.ufid.map(origin) else { continue };
            let megaflow = self.megaflows.entry(origin.clone()).or_default();
            megaflow.is_there = flow.counters.change != ovs_datapath::Change::Deleted;
            if let Some(body) = body.filter(|_| megaflow.is_there) {
                megaflow.does = body.parts().2.to_vec();
            }
            self.judge(origin);
        }
    }

    fn take_filters(&mut self, bytes: &[u8]) {
        for message in Messages::new(bytes).filter_map(Result::ok) {
            let Ok(TcEvent::Filter(report)) = TcEvent::decode(&message) else { continue };
            let cookie = report.actions.iter().find_map(|report| report.action.cookie);
            let Some(id) = cookie.as_ref().and_then(|cookie| cookie.as_bytes().strip_prefix(b"shdw")) else {
                continue;
            };
            let origin: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
            match report.change {
                Change::New => {
                    let does = self.megaflows.get(&origin).map(|megaflow| megaflow.does.clone());
                    self.rules.insert(origin.clone(), does.unwrap_or_default());
                }
                Change::Deleted => drop(self.rules.remove(&origin)),
            }
            self.judge(origin);
        }
    }

    /// Notes since when a rule is due, or that it is not any more: it went, or its megaflow is back, and as it was before the
    /// daemon got to it.
    fn judge(&mut self, origin: String) {
        let right = |does: &Vec<u8>| {
            self.megaflows.get(&origin).is_some_and(|megaflow| megaflow.is_there && megaflow.does == *does)
        };
        if self.rules.get(&origin).is_none_or(right) {
            self.lags.extend(self.due.remove(&origin).map(|since| since.elapsed()));
        } else {
            self.due.entry(origin).or_insert_with(Instant::now);
        }
    }
}

pub(super) fn rules_go_with_what_their_megaflows_did(lab: &mut Lab) -> Outcome {
    let ovs = Ovs::start(lab, &["hw-offload=false"])?;
    let demo = Demo::up(&ovs)?;
    one_megaflow_each(&ovs, FLOWS, "output:sn0pf0vf1")?;
    let witness = Witness::start()?;
    let traffic = Traffic::start(&demo, FLOWS, 400)?;
    let daemon = Daemon::start(lab, &ovs, EAGER)?;
    in_hardware(usize::from(FLOWS))?;

    for change in 0..CHANGES {
        let actions = format!("mod_nw_tos:{},output:sn0pf0vf1", 4 * (change + 1));
        let seen = witness.with(|record| record.lags.len());
        one_megaflow_each(&ovs, FLOWS, &actions)?;
        wait_until("every rule has gone for an OpenFlow change", SETTLES_WITHIN, || {
            Ok(witness.with(|record| record.lags.len()) >= seen + usize::from(FLOWS))
        })?;
        in_hardware(usize::from(FLOWS))?;
    }
    tell("OpenFlow changes", &witness.with(|record| record.lags.clone()), BOUND)?;
    let changed = witness.with(|record| record.lags.len());
    for deletion in 0..DELETIONS {
        in_hardware(usize::from(FLOWS))?;
        // They all may be on their way at one time.
        let ufids = wait_for("flows are in hardware by our tables", SETTLES_WITHIN, || {
            let flows = daemon.flows()?.into_iter().filter(|flow| flow["placement"] == "hardware");
            let ufids: Vec<String> = flows
                .filter_map(|flow| Some(flow["ufid"].as_str()?.trim_start_matches("ufid:").to_owned()))
                .collect();
            Ok(Some(ufids).filter(|ufids| !ufids.is_empty()))
        })?;
        let seen = witness.with(|record| record.lags.len());
        ovs.appctl(&["dpctl/del-flow", &format!("ufid:{}", ufids[deletion % ufids.len()])])?;
        wait_until("the rule has gone with its megaflow", SETTLES_WITHIN, || {
            Ok(witness.with(|record| record.lags.len()) > seen)
        })?;
    }
    tell("deleted megaflows", &witness.with(|record| record.lags[changed..].to_vec()), BOUND)?;
    agree(&ovs, &daemon, SETTLES_WITHIN)?;
    wait_until("no rule is due", SETTLES_WITHIN, || Ok(witness.with(|record| record.due.is_empty())))?;
    ensure!(witness.with(|record| record.lost) == 0, "the witness lost notifications");
    each_arrived_once(traffic)
}

/// OpenFlow changes a second, and for how many seconds.
const CHANGES_A_SECOND: u32 = 100;
const SECONDS: u32 = 30;

pub(super) fn rules_keep_up_with_a_hundred_openflow_changes_a_second(lab: &mut Lab) -> Outcome {
    let ovs = Ovs::start(lab, &["hw-offload=false"])?;
    let demo = Demo::up(&ovs)?;
    one_megaflow_each(&ovs, FLOWS, "output:sn0pf0vf1")?;
    let witness = Witness::start()?;
    let traffic = Traffic::start(&demo, FLOWS, 400)?;
    let daemon = Daemon::start(lab, &ovs, EAGER)?;
    in_hardware(usize::from(FLOWS))?;
    let output = ovs.vsctl(&["get", "Interface", "sn0pf0vf1", "ofport"])?.trim().parse()?;

    let mut bridge = OpenFlow::connect(&ovs, "br0")?;
    let begun = Instant::now();
    let mut placed = 0;
    for change in 0..CHANGES_A_SECOND * SECONDS {
        let due = begun + Duration::from_secs(1) * change / CHANGES_A_SECOND;
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let (round, flow) = (change / u32::from(FLOWS), change % u32::from(FLOWS));
        let ports = (FIRST + u16::try_from(flow)?, PORT);
        let tos = u8::try_from(round % 60)? * 4 + 4;
        bridge.change(UdpRule { priority: 100, ports, tos, output })?;
        if flow == 0 {
            bridge.settle()?;
            placed += in_nic()?.len();
        }
    }
    let took = begun.elapsed();
    println!(
        "    {} changes took {took:?}, about {} flows in hardware meanwhile",
        CHANGES_A_SECOND * SECONDS,
        placed as u32 * u32::from(FLOWS) / (CHANGES_A_SECOND * SECONDS)
    );
    wait_until("no rule is due", SETTLES_WITHIN, || Ok(witness.with(|record| record.due.is_empty())))?;
    tell("OpenFlow changes", &witness.with(|record| record.lags.clone()), BOUND)?;
    in_hardware(usize::from(FLOWS))?;
    agree(&ovs, &daemon, SETTLES_WITHIN)?;
    ensure!(took < Duration::from_secs(u64::from(SECONDS) * 5 / 4), "the bridge was not changed that fast");
    ensure!(placed > 0, "never was a rule there: this test shows nothing");
    ensure!(witness.with(|record| record.lost) == 0, "the witness lost notifications");
    each_arrived_once(traffic)
}

fn each_arrived_once(traffic: Traffic) -> Outcome {
    let sent = traffic.sender.stop()?;
    let received = traffic.receiver.finish()?;
    ensure!(received.duplicated == 0, "packets came twice: {received:?}");
    ensure!(sent == received.packets, "{sent} packets were sent and {received:?}");
    Ok(())
}

/// Prints the distribution, and fails where the worst is beyond the bound.
pub(super) fn tell(of: &str, lags: &[Duration], bound: Duration) -> Outcome {
    let mut lags = lags.to_vec();
    lags.sort();
    let at =
        |percent: usize| lags.get((lags.len() * percent / 100).min(lags.len().saturating_sub(1))).copied();
    let worst = lags.last().copied().unwrap_or_default();
    println!(
        "    {of}: {} rules outlived it by {:?} (p50), {:?} (p99), {worst:?} (worst)",
        lags.len(),
        at(50),
        at(99)
    );
    ensure!(worst < bound, "a rule outlived its megaflow by {worst:?}");
    Ok(())
}
