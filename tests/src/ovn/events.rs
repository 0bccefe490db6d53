//! What happens to OVN while a stream is carried in hardware between two chassis, with the daemon and without it.

mod happenings;
pub(super) mod tracked;

use std::time::{Duration, Instant};

use lab_tests::harness::{Lab, Outcome, ensure, wait_until};

use super::DONE_WITHIN;
use super::fabric::{Carried, Fabric};
use super::topologies::plug_into_one_switch;
use happenings::{EVENTS, Event, Scene};

/// Nothing arrives for so long: it is denied.
const SILENCE: Duration = Duration::from_secs(1);
/// Open vSwitch looks through all of its flows every half second, later where that takes longer; OVN's own time and that
/// of an emulated guest are in it too.
const DENIED_WITHIN: Duration = Duration::from_secs(15);
/// Times that everything happens with the daemon, and as often without it.
const ROUNDS: u32 = 3;
/// Packets that may be lost with the daemon where without it some are lost too, beyond twice as many: those of half a second.
const LOST_BESIDE: u64 = 300;

/// Restarts of OVN's daemons lose nothing; where a tunnel's end, a port, a workload or the permission is gone, nothing of it is
/// left in hardware, and what comes back is placed again.
pub(super) fn what_ovn_takes_away_leaves_hardware_and_its_restarts_lose_nothing(lab: &mut Lab) -> Outcome {
    let mut fabric = Fabric::with_vfs(lab, 2)?;
    plug_into_one_switch(&fabric)?;
    let scene = Scene::new(lab, &mut fabric)?;
    for event in &EVENTS {
        let lost = scene.lost_by(event)?;
        ensure!(event.loses || lost == 0, "{}: {lost} packets were lost", event.name);
    }
    denied(scene.fabric)
}

/// The same events on the same two chassis, with the daemon and without it: no more is lost with it.
pub(super) fn what_happens_to_ovn_loses_no_more_than_without_the_daemon(lab: &mut Lab) -> Outcome {
    let mut fabric = Fabric::with_vfs(lab, 2)?;
    plug_into_one_switch(&fabric)?;
    let mut scene = Scene::new(lab, &mut fabric)?;
    let rounds = |scene: &Scene| {
        let once = || EVENTS.iter().map(|event| scene.lost_by(event)).collect::<Outcome<Vec<u64>>>();
        (0..ROUNDS).map(|_| once()).collect::<Outcome<Vec<_>>>()
    };
    let with = rounds(&scene)?;
    scene.without_daemons()?;
    let without = rounds(&scene)?;
    let of = |rounds: &[Vec<u64>], at: usize| rounds.iter().map(|round| round[at]).collect::<Vec<_>>();
    let shown = |lost: &[u64]| lost.iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
    println!("    | event | lost with ovs-offloadd | lost without |");
    for (at, event) in EVENTS.iter().enumerate() {
        println!("    | {} | {} | {} |", event.name, shown(&of(&with, at)), shown(&of(&without, at)));
    }
    for (at, event) in EVENTS.iter().enumerate() {
        let most = |rounds: &[Vec<u64>]| of(rounds, at).into_iter().max().unwrap_or(0);
        ensure_no_more(event, most(&with), most(&without))?;
    }
    Ok(())
}

fn ensure_no_more(event: &Event, with: u64, without: u64) -> Outcome {
    let bound = if event.loses { 2 * without + LOST_BESIDE } else { 0 };
    ensure!(with <= bound, "{}: {with} packets were lost with the daemon, {without} without it", event.name);
    Ok(())
}

/// An ACL denies the stream, which is in hardware.
fn denied(fabric: &Fabric) -> Outcome {
    let carried = fabric.send("what is denied", happenings::ADDRESS, 7299)?;
    fabric.in_hardware("what is denied", &carried)?;
    let begin = Instant::now();
    fabric.ovn.nbctl(&["--wait=hv", "acl-add", "blue", "to-lport", "20", "ip4", "drop"])?;
    let ordered = begin.elapsed();
    let mut last = (carried.received(), Instant::now());
    wait_until("what the ACL denies does not arrive any more", DONE_WITHIN, || {
        let received = carried.received();
        if received != last.0 {
            last = (received, Instant::now());
        }
        Ok(last.1.elapsed() >= SILENCE)
    })?;
    let denied = last.1.duration_since(begin).saturating_sub(ordered);
    println!(
        "    an ACL that denies: in OVN after {} ms, in force {} ms later",
        ordered.as_millis(),
        denied.as_millis()
    );
    ensure!(denied <= DENIED_WITHIN, "packets that an ACL denies passed for {denied:?}");
    fabric.agree()?;
    fabric.ovn.nbctl(&["--wait=hv", "acl-del", "blue"])?;
    fabric.in_hardware("what is allowed again", &carried)?;
    stop(carried)
}

fn stop(carried: Carried) -> Outcome {
    carried.stop().map(drop)
}
