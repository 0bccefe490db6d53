//! What becomes of our rules when the daemon, its guard, or both die or hang.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use lab_tests::harness::{Daemon, Demo, Failure, Guard, Lab, Outcome, Ovs, ensure, wait_for, wait_until};

use super::lag::{Witness, tell};
use super::scene::{
    EAGER, SETTLES_WITHIN, Traffic, agree, in_hardware, in_nic, nothing_left, numbers, one_megaflow_each,
};

const FLOWS: u16 = 4;
/// As in the unit of the package.
const LEASE: Duration = Duration::from_secs(3);
const GRACE: Duration = Duration::from_secs(5);
/// Where a daemon is to be started in time, however slow the guest is.
const PATIENT: [&str; 4] = ["--lease", "30 s", "--grace", "60 s"];
/// What an emulated guest that is busy otherwise may take for the rest.
const SLOW: Duration = Duration::from_secs(20);

/// The usual policy, with this guard.
fn config(guard: &Guard) -> String {
    EAGER.replace("\"none\"", &format!("\"{}\"", guard.socket().display()))
}

/// Waits until neither the NIC nor TC has a rule: how long that took.
fn gone(what: &str, since: Instant) -> Outcome<Duration> {
    // The NIC is rid of a rule a little before TC is.
    wait_for(&format!("after {what} no rule is left"), LEASE.max(GRACE) + SLOW, || nothing_left().map(Some))?;
    let took = since.elapsed();
    println!("    after {what} the last rule was gone within {took:?}");
    Ok(took)
}

/// The rules that were there are there, and not made anew: they go on counting.
pub(super) fn stay(what: &str, before: &BTreeMap<String, u64>) -> Outcome {
    wait_for(&format!("{what}: the rules count on"), SETTLES_WITHIN, || {
        let now: BTreeMap<String, u64> = numbers()?.into_iter().collect();
        if let Some((cookie, packets)) =
            before.iter().find(|(cookie, packets)| now.get(*cookie).is_none_or(|now| now < *packets))
        {
            let now = now.get(cookie);
            return Ok(Some(Err(Failure::new(format!(
                "{what}: {cookie} had {packets} packets, and has {now:?}"
            )))));
        }
        Ok(before.iter().all(|(cookie, packets)| now[cookie] > *packets).then_some(Ok(())))
    })?
}

pub(super) fn before() -> Outcome<BTreeMap<String, u64>> {
    in_hardware(usize::from(FLOWS))?;
    Ok(numbers()?.into_iter().collect())
}

pub(super) fn rules_of_a_dead_or_hung_daemon_go_and_those_that_are_right_are_taken_over(
    lab: &mut Lab,
) -> Outcome {
    // Whether rules go on counting shows nothing where Open vSwitch makes their megaflows anew.
    let ovs = Ovs::start(lab, &["hw-offload=false", "max-idle=600000"])?;
    let demo = Demo::up(&ovs)?;
    one_megaflow_each(&ovs, FLOWS, "output:sn0pf0vf1")?;
    let traffic = Traffic::start(&demo, FLOWS, 200)?;
    let mut guard = Guard::new(lab, &[]);
    let mut daemon = Daemon::start(lab, &ovs, &config(&guard))?;
    wait_until("without a guard it is said why nothing is placed", SETTLES_WITHIN, || {
        let flows = daemon.flows()?;
        let held_back = flows.iter().filter(|flow| flow["reason"] == "no_guard").count();
        Ok(held_back >= usize::from(FLOWS) && in_nic()?.is_empty())
    })?;
    guard.start()?;
    in_hardware(usize::from(FLOWS))?;

    // A daemon that hangs, while what its megaflows do changes; it goes on, and has to begin anew.
    daemon.signal("STOP")?;
    let took = gone("a hang", Instant::now())?;
    ensure!(took < LEASE + SLOW, "it took {took:?}");
    one_megaflow_each(&ovs, FLOWS, "mod_nw_tos:8,output:sn0pf0vf1")?;
    daemon.signal("CONT")?;
    wait_until("the daemon has heard that its rules were taken", SETTLES_WITHIN, || {
        Ok(daemon.log()?.contains("the guard has removed our rules"))
    })?;
    in_hardware(usize::from(FLOWS))?;
    agree(&ovs, &daemon, SETTLES_WITHIN)?;

    // One that is killed, and no other comes.
    before()?;
    let killed = Instant::now();
    daemon.signal("KILL")?;
    ensure!(!in_nic()?.is_empty(), "a killed daemon left nothing: this test shows nothing");
    let took = gone("a kill", killed)?;
    ensure!(took < GRACE + SLOW, "it took {took:?}");
    daemon.restart()?;

    // The guard ends, and stays away: then the daemon's own rules go.
    in_hardware(usize::from(FLOWS))?;
    guard.kill()?;
    gone("the end of the guard", Instant::now())?;

    // One that is back at once is not missed.
    guard.set_arguments(&PATIENT);
    guard.start()?;
    let there = before()?;
    guard.kill()?;
    guard.start()?;
    stay("the guard was killed", &there)?;

    // Another daemon takes over what is right.
    let there = before()?;
    daemon.signal("KILL")?;
    daemon.restart()?;
    stay("the daemon was killed, and another came", &there)?;
    agree(&ovs, &daemon, SETTLES_WITHIN)?;
    stay("the other daemon knows its flows", &there)?;
    let said = daemon.log()?;
    ensure!(
        said.contains(&format!("earlier ovs-offloadd are taken over rules={FLOWS}")),
        "it has taken over others:\n{said}"
    );
    daemon.signal("TERM")?;
    nothing_left()?;
    traffic.sender.stop()?;
    traffic.receiver.finish().map(drop)
}

/// A sequence of numbers that is the same in each run.
pub(super) struct Numbers(pub(super) u64);

impl Numbers {
    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit.max(1)
    }
}

const CHURNED: u16 = 12;
/// Kills, or LAB_KILLS.
const KILLS: u64 = 500;
/// The longest between two kills.
const APART_MS: u64 = 3_500;
/// Shorter than the package's, so that rules are removed as often as taken over.
const SHORT: [&str; 4] = ["--lease", "1500 ms", "--grace", "2 s"];
/// What is stated: the grace time, and what it takes to start a guard and to remove. In an emulated guest the rest is long.
const BOUND: Duration = Duration::from_secs(8);

pub(super) fn no_rule_outlives_its_megaflow_by_more_than_the_bound_whoever_is_killed(
    lab: &mut Lab,
) -> Outcome {
    let kills = std::env::var("LAB_KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(KILLS);
    let ovs = Ovs::start(lab, &["hw-offload=false"])?;
    let demo = Demo::up(&ovs)?;
    one_megaflow_each(&ovs, CHURNED, "output:sn0pf0vf1")?;
    let witness = Witness::start()?;
    let traffic = Traffic::start(&demo, CHURNED, 300)?;
    let mut guard = Guard::new(lab, &SHORT);
    guard.start()?;
    let mut daemon = Daemon::start(lab, &ovs, &config(&guard))?;
    in_hardware(usize::from(CHURNED))?;
    let mut numbers = Numbers(1);
    let (mut placed, mut tos) = (0, 0);
    for kill in 0..kills {
        let until = Instant::now() + Duration::from_millis(numbers.below(APART_MS));
        // OpenFlow changes and deletions meanwhile, and right after the kill.
        while Instant::now() < until {
            churn(&ovs, &mut numbers, &mut tos)?;
            placed = placed.max(in_nic()?.len());
        }
        let which = numbers.below(3);
        if which != 1 {
            daemon.signal("KILL")?;
        }
        if which != 0 {
            guard.kill()?;
        }
        churn(&ovs, &mut numbers, &mut tos)?;
        if which != 0 {
            guard.spawn()?;
        }
        // Sometimes none comes for long.
        if which != 1 {
            let away = Duration::from_millis(if numbers.below(4) == 0 { 4_000 } else { 300 });
            let until = Instant::now() + away;
            while Instant::now() < until {
                churn(&ovs, &mut numbers, &mut tos)?;
            }
            daemon.restart()?;
        }
        let worst = witness.with(|record| record.due.values().map(Instant::elapsed).max());
        let worst = worst.unwrap_or_default();
        ensure!(worst < BOUND, "after {kill} kills a rule has outlived its megaflow by {worst:?}");
    }
    wait_until(
        "the daemon places again",
        SETTLES_WITHIN,
        || Ok(in_nic()?.len() >= usize::from(CHURNED) / 2),
    )?;
    wait_until("no rule is due", BOUND + SLOW, || Ok(witness.with(|record| record.due.is_empty())))?;
    let lags = witness.with(|record| record.lags.clone());
    ensure!(witness.with(|record| record.lost) == 0, "the witness lost notifications");
    ensure!(placed > 0, "never was a rule there: this test shows nothing");
    let said = guard.log();
    let removals = said.matches("nobody answers for").count();
    let takings = daemon.log()?.matches("earlier ovs-offloadd are taken over rules=").count();
    println!(
        "    {kills} kills: the guard removed rules {removals} times, daemons took them over {takings} times"
    );
    tell("kills under churn", &lags, BOUND)?;
    daemon.signal("TERM")?;
    nothing_left()?;
    traffic.sender.stop()?;
    traffic.receiver.finish().map(drop)
}

/// Something changes: what all flows do, or one of them is deleted.
fn churn(ovs: &Ovs, numbers: &mut Numbers, tos: &mut u64) -> Outcome {
    if numbers.below(3) == 0 {
        *tos = (*tos + 1) % 32;
        one_megaflow_each(ovs, CHURNED, &format!("mod_nw_tos:{},output:sn0pf0vf1", 4 * *tos))
    } else {
        let flows = ovs.flows("ovs")?;
        let ufid = |line: &String| Some(line.split("ufid:").nth(1)?.split(',').next()?.to_owned());
        let ufids: Vec<String> = flows.iter().filter_map(ufid).collect();
        if ufids.is_empty() {
            return Ok(());
        }
        let chosen = usize::try_from(numbers.below(ufids.len() as u64)).unwrap_or_default();
        // It may be gone by now.
        let _ = ovs.appctl(&["dpctl/del-flow", &format!("ufid:{}", ufids[chosen])]);
        Ok(())
    }
}
