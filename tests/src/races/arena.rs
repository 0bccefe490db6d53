//! Where the races are run, and how their end is judged.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use lab_tests::harness::{
    Daemon, Demo, Failure, Lab, Outcome, Ovs, TcWatch, agree, ensure, netlink_sockets, wait_for, wait_until,
};
use serde_json::Value;

use super::back::Orders;
use crate::faults::scene::{EAGER, FIRST, Flows, NIC, PORT, SETTLES_WITHIN};

/// Flows that are raced at a time.
const FLOWS: u32 = 40;
/// Flows whose actions one command changes; with LAB_LONG=1, all of them at a time.
const BATCH: u32 = 20;
/// Threads that keep ovs-vswitchd's main thread busy.
const BUSY: usize = 2;
/// The longest a race may run.
const RUNS_FOR: Duration = Duration::from_secs(3600);
/// The longest a change waits for the daemon to have a command under way.
const HOLDS_FOR: Duration = Duration::from_millis(500);
/// Time between two looks whether it has.
const LOOK: Duration = Duration::from_millis(1);

/// What is raced.
pub(super) struct Race {
    /// steer.counters
    pub(super) counters: &'static str,
    /// Whether the daemon is killed meanwhile, again and again.
    pub(super) kills: bool,
    pub(super) rounds: u64,
    /// With LAB_LONG=1.
    pub(super) rounds_long: u64,
}

/// Runs a race and judges it.
pub(super) fn run(lab: &mut Lab, race: Race) -> Outcome {
    let long = std::env::var("LAB_LONG").is_ok_and(|value| value == "1");
    let rounds = if long { race.rounds_long } else { race.rounds };
    let ovs = Ovs::for_steering(lab)?;
    // The topology's own traffic makes flows: the witness has to be there before them.
    let witness = TcWatch::start()?;
    let demo = Demo::up(&ovs)?;
    Flows::new(FLOWS).one_megaflow_each(lab, &ovs, "NORMAL")?;
    let traffic = Flows::new(FLOWS).start(&demo, 400)?;
    let config = format!("{EAGER}steer.counters = \"{}\"\n", race.counters);
    let mut daemon = Daemon::start(lab, &ovs, &config)?;
    let mut ours = netlink_sockets(daemon.pid())?;
    wait_until("most flows are in hardware", SETTLES_WITHIN, || {
        Ok(daemon.json(&["status"])?["flows"]["hardware"].as_u64().unwrap_or_default() > u64::from(FLOWS) / 2)
    })?;
    let arena = Arena {
        ovs: &ovs,
        batch: if long { FLOWS } else { BATCH },
        dir: lab.dir(),
        journal: ovs.rundir().join("ovs-offloadd.journal"),
        done: AtomicU64::new(0),
        ended: AtomicBool::new(false),
        orders: Mutex::default(),
    };
    let begin = Instant::now();
    let mut tally = Tally::default();
    thread::scope(|scope| {
        let workers: Vec<_> = (0..BUSY)
            .map(|_| scope.spawn(|| arena.keep_busy()))
            .chain([scope.spawn(|| arena.change_and_end(rounds))])
            .collect();
        let raced = arena.attend(&mut daemon, &mut ours, race.kills, &mut tally);
        arena.ended.store(true, Ordering::Relaxed);
        let all = workers.into_iter().map(|worker| {
            worker.join().unwrap_or_else(|_| Err(Failure::new("a thread of the race panicked")))
        });
        all.fold(raced, Result::and)
    })?;
    let took = begin.elapsed();
    at_rest(&ovs, &daemon)?;
    tally.add(&daemon.json(&["status"])?);
    let raced = as_in_tc(&ovs)?;
    let out_of_order = witness.ensure_nothing_created(&ours)?;
    let promotions =
        witness.changes(|seen| ours.contains(&seen.portid) && seen.in_hw && !seen.was_in_hw)?.len();
    ensure!(
        promotions as u64 >= rounds / 20,
        "{promotions} promotions in {rounds} rounds: there was nothing to race with"
    );
    ensure!(!race.kills || tally.kills > 0, "the daemon was never seen in mid-command");
    agree(&NIC, &ovs, &daemon, SETTLES_WITHIN)?;
    let back = arena
        .orders
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner)
        .time_back(&witness.changes(|_| true)?);
    // What Open vSwitch installs by itself, with nobody else there.
    daemon.signal("TERM")?;
    let before = witness.len();
    ovs.appctl(&["revalidator/purge"])?;
    let afresh = wait_for("every flow is installed afresh", SETTLES_WITHIN, || {
        let mut made = witness.changes(|_| true)?.split_off(before);
        made.retain(|seen| seen.creates);
        let afresh = as_in_tc(&ovs)?;
        let is_made = |flow: &Flow| made.iter().any(|seen| seen.ufid.ends_with(&flow.ufid));
        Ok((afresh.len() == FLOWS as usize && afresh.values().all(is_made)).then_some(afresh))
    })?;
    for (port, flow) in &raced {
        let (actions, wanted) = (&flow.actions, afresh.get(port).map(|flow| &flow.actions));
        ensure!(
            wanted == Some(actions),
            "after the race the flow of source port {port} has the actions {actions}, and afresh {wanted:?}"
        );
    }
    ensure!(raced.len() == FLOWS as usize, "{} of {FLOWS} flows are in TC after the race", raced.len());
    let (sent, lost) = traffic.stop()?;
    println!(
        "steer.counters={}: {} rounds in {took:?}, {promotions} promotions, {out_of_order} changes told out of \
         order, Open vSwitch complained {} times, {lost} of {sent} packets lost; replaced actions were back {} times, for at most {:?}; \
         {tally:?}",
        race.counters,
        arena.done.load(Ordering::Relaxed),
        complaints(&ovs)?,
        back.times,
        back.longest,
    );
    Ok(())
}

/// What the daemons of one race say that they did.
#[derive(Debug, Default)]
struct Tally {
    kills: u64,
    clean_promotions: u64,
    races_repaired: u64,
    flows_cleared: u64,
    race_longest_us: u64,
}

impl Tally {
    fn add(&mut self, status: &Value) {
        let done = |name: &str| status["done"][name].as_u64().unwrap_or_default();
        self.clean_promotions += done("clean_promotions");
        self.races_repaired += done("races_repaired");
        self.flows_cleared += done("flows_cleared");
        self.race_longest_us = self.race_longest_us.max(done("race_longest_us"));
    }
}

struct Arena<'a> {
    ovs: &'a Ovs,
    /// Flows whose actions one command changes.
    batch: u32,
    dir: &'a Path,
    /// Where the daemon notes what it has under way.
    journal: PathBuf,
    done: AtomicU64,
    ended: AtomicBool,
    /// What the flows are to do.
    orders: Mutex<Orders>,
}

impl Arena<'_> {
    fn change_and_end(&self, rounds: u64) -> Outcome {
        let changed = self.change(rounds);
        self.ended.store(true, Ordering::Relaxed);
        changed
    }

    /// Changes the actions of flows, now and then by deleting the rule and making it anew, until enough is done.
    fn change(&self, rounds: u64) -> Outcome {
        let begin = Instant::now();
        let (mut step, batch) = (0_u32, self.batch);
        while self.done.load(Ordering::Relaxed) < rounds && !self.ended.load(Ordering::Relaxed) {
            let first = (step * batch) % FLOWS;
            // Eight values, so that actions also return to what they were.
            let tos = (step / (FLOWS / batch) + first) % 8 * 4;
            let rules: String = (first..first + batch)
                .map(|n| {
                    let port = u32::from(FIRST) + n;
                    format!("priority=100,udp,tp_src={port},tp_dst={PORT},actions=mod_nw_tos:{tos},NORMAL\n")
                })
                .collect();
            let file = self.dir.join("change.txt");
            std::fs::write(&file, rules)?;
            if step % 7 == 3 {
                self.order(first, 0);
                for n in first..first + batch {
                    let rule = format!("udp,tp_src={},tp_dst={PORT}", u32::from(FIRST) + n);
                    self.ovs.ofctl(&["del-flows", "br0", &rule])?;
                }
            }
            if step % 11 == 5 {
                self.ovs.appctl(&["revalidator/purge"])?;
            }
            self.wait_for_a_command();
            self.order(first, tos as u8);
            self.ovs.ofctl(&["add-flows", "br0", &file.to_string_lossy()])?;
            let before = self.done.fetch_add(u64::from(batch), Ordering::Relaxed);
            if before / 1000 < (before + u64::from(batch)) / 1000 {
                println!("{} rounds in {:?}", before + u64::from(batch), begin.elapsed());
            }
            step += 1;
        }
        Ok(())
    }

    /// Notes what a batch of flows is about to be ordered to do.
    fn order(&self, first: u32, tos: u8) {
        let port = |n: u32| FIRST + n as u16;
        let mut orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        orders.add(Instant::now(), port(first)..port(first + self.batch), tos);
    }

    /// Commands that ovs-vswitchd's main thread has to carry out, one after the other.
    fn keep_busy(&self) -> Outcome {
        while !self.ended.load(Ordering::Relaxed) {
            self.ovs.appctl(&["dpctl/dump-flows", "-m"])?;
            self.ovs.vsctl(&["set", "bridge", "br0", "external_ids:busy=1"])?;
        }
        Ok(())
    }

    /// Waits for at most [`HOLDS_FOR`] until the daemon has something under way: true then.
    fn wait_for_a_command(&self) -> bool {
        let begin = Instant::now();
        while !self.journal.exists() {
            if begin.elapsed() >= HOLDS_FOR {
                return false;
            }
            thread::sleep(LOOK);
        }
        true
    }

    /// Kills the daemon in mid-command again and again if that is wanted, until the changes have ended.
    fn attend(
        &self,
        daemon: &mut Daemon,
        ours: &mut BTreeSet<u32>,
        kills: bool,
        tally: &mut Tally,
    ) -> Outcome {
        let begin = Instant::now();
        while !self.ended.load(Ordering::Relaxed) {
            ensure!(begin.elapsed() < RUNS_FOR, "after {RUNS_FOR:?} the changes are not done");
            if !kills {
                thread::sleep(HOLDS_FOR);
                continue;
            }
            let said = daemon.json(&["status"])?;
            if !self.wait_for_a_command() {
                continue;
            }
            daemon.signal("KILL")?;
            tally.kills += 1;
            tally.add(&said);
            daemon.restart()?;
            ours.append(&mut netlink_sockets(daemon.pid())?);
        }
        Ok(())
    }
}

/// Waits until Open vSwitch and we have nothing left to do.
fn at_rest(ovs: &Ovs, daemon: &Daemon) -> Outcome {
    ovs.appctl(&["revalidator/wait"])?;
    let mut last = None;
    let rested = wait_until("nothing changes any more", SETTLES_WITHIN, || {
        thread::sleep(Duration::from_secs(1));
        let status = daemon.json(&["status"])?;
        let in_flight = status["nics"][0]["in_flight"].as_u64().unwrap_or_default();
        let hardware = status["flows"]["hardware"].as_u64();
        let now = (as_in_tc(ovs)?, hardware);
        let before = last.replace(now.clone());
        let missing: Vec<_> =
            (0..FLOWS).map(|n| u32::from(FIRST) + n).filter(|port| !now.0.contains_key(port)).collect();
        let changed = before.map(|(flows, hardware)| {
            (now.0.iter().filter(|(port, flow)| flows.get(*port) != Some(*flow)).count(), hardware)
        });
        ensure!(
            changed == Some((0, hardware)) && in_flight == 0 && missing.is_empty(),
            "{in_flight} commands are in flight, {hardware:?} flows are in hardware, the flows of source ports \
             {missing:?} are not in TC; so many flows changed in a second, and so many were in hardware before: {changed:?}"
        );
        Ok(true)
    });
    rested.map_err(|failure| {
        let datapath = ovs.flows("ovs").unwrap_or_default();
        let told = ovs.log().unwrap_or_default();
        let complaints: Vec<_> = told.lines().filter(|line| is_complaint(line)).collect();
        Failure::new(format!(
            "{failure}\nin the kernel's datapath: {datapath:#?}\nOpen vSwitch said: {complaints:#?}"
        ))
    })
}

/// Warnings of Open vSwitch that a command on a flow failed.
fn complaints(ovs: &Ovs) -> Outcome<usize> {
    Ok(ovs.log()?.lines().filter(|line| is_complaint(line)).count())
}

fn is_complaint(line: &str) -> bool {
    line.contains("|WARN|") && line.contains("failed to")
}

/// A raced flow as TC has it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Flow {
    ufid: String,
    actions: String,
}

/// The raced flows as TC has them, by source port.
fn as_in_tc(ovs: &Ovs) -> Outcome<BTreeMap<u32, Flow>> {
    let mut flows = BTreeMap::new();
    for line in ovs.flows("tc")? {
        if !line.contains(&format!("dst={PORT}")) {
            continue;
        }
        let after = |words: &str| line.split_once(words).map(|(_, rest)| rest);
        let port = after("udp(src=").and_then(|rest| rest.split([',', ')', '/']).next());
        let ufid = after("ufid:").and_then(|rest| rest.split(',').next());
        let (Some(port), Some(ufid), Some(actions)) = (port, ufid, after("actions:")) else {
            return Err(Failure::new(format!("`{line}` is not readable")));
        };
        let flow = Flow { ufid: ufid.to_owned(), actions: actions.trim().to_owned() };
        let other = flows.insert(port.parse()?, flow);
        ensure!(other.is_none(), "two filters are there for one flow: {line} and {other:?}");
    }
    Ok(flows)
}
