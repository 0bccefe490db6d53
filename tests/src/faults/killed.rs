//! The daemon killed at any moment.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use lab_tests::harness::{
    Daemon, Demo, Failure, Lab, Outcome, Ovs, Seen, Sender, Stream, TcWatch, agree, ensure, netlink_sockets,
    wait_until,
};
use serde_json::Value;
use tc_flower::Change;

use super::scene::{EAGER, FIRST, Flows, NIC, PORT, SETTLES_WITHIN, in_hardware, status};

/// How often it is killed, unless LAB_LONG=1 asks for all of it.
const KILLS: u32 = 15;
const KILLS_LONG: u32 = 200;
/// Flows that last, of which every packet has to arrive, and source ports that come and go beside them.
const LASTING: u32 = 30;
const PASSING: u32 = 60;

/// The longest one lives.
const LIVES_MS: u64 = 1000;
/// How often it is asked meanwhile what it has done.
const LOOK: Duration = Duration::from_millis(50);

/// A sequence of numbers that is the same in each run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit.max(1)
    }
}

pub(super) fn forwarding_and_rules_survive_kills_of_the_daemon(lab: &mut Lab) -> Outcome {
    let kills = if std::env::var("LAB_LONG").is_ok_and(|value| value == "1") { KILLS_LONG } else { KILLS };
    let ovs = Ovs::for_steering(lab)?;
    // The topology's own traffic makes flows: the witness has to be there before them.
    let witness = TcWatch::start()?;
    let demo = Demo::up(&ovs)?;
    Flows::new(LASTING).one_megaflow_each(lab, &ovs, "NORMAL")?;
    let traffic = Flows::new(LASTING).start(&demo, 150)?;
    let mut daemon = Daemon::start(lab, &ovs, EAGER)?;
    let mut ours = netlink_sockets(daemon.pid())?;
    in_hardware(&daemon, &ovs, u64::from(LASTING))?;
    let ended = AtomicBool::new(false);
    let rules_file = lab.dir().join("churn.txt");
    let killed = thread::scope(|scope| {
        let churn = scope.spawn(|| churn(&demo, &ovs, &rules_file, &ended));
        let killed = kill_often(&ovs, &mut daemon, &mut ours, kills);
        ended.store(true, Ordering::Relaxed);
        churn.join().map_err(|_| Failure::new("the churning thread panicked"))??;
        killed
    })?;
    in_hardware(&daemon, &ovs, u64::from(LASTING))?;
    let agreed = agree(&NIC, &ovs, &daemon, SETTLES_WITHIN)?;
    let out_of_order = witness.ensure_nothing_created(&ours)?;
    println!(
        "killed {kills} times in {:?}: {} flows cleared for {} noted in journals, {} in hardware at the end, \
         {out_of_order} of {} changes told out of order",
        killed.took,
        killed.cleared,
        killed.noted,
        agreed.hardware.len(),
        witness.len()
    );
    // Of the flows that last, every rule is wanted all the time.
    let mut last = ovs.flows("tc")?;
    last.retain(|flow| flow.contains(&format!("dst={PORT}")));
    let wanted = |seen: &Seen| last.iter().any(|flow| flow.contains(&seen.ufid));
    let taken_out = witness.changes(|seen| {
        let out = seen.change == Change::Deleted || (seen.was_in_hw && !seen.in_hw && seen.skip_hw);
        out && ours.contains(&seen.portid) && wanted(seen)
    })?;
    ensure!(last.len() >= LASTING as usize, "{} of {LASTING} flows are in TC", last.len());
    ensure!(taken_out.is_empty(), "rules were taken out of hardware by us: {taken_out:?}");
    ensure!(
        killed.cleared <= killed.noted + killed.repaired,
        "more flows were cleared than were in the journals or raced: {killed:?}"
    );
    let (sent, lost) = traffic.stop()?;
    ensure!(lost == 0, "of {sent} packets of the flows that last {lost} were lost");
    Ok(())
}

/// What the kills came to.
#[derive(Debug, Default)]
struct Killed {
    took: Duration,
    /// Flows that Open vSwitch was asked to decide about afresh.
    cleared: u64,
    /// Lines of the journals that the killed daemons left.
    noted: u64,
    /// Flows whose change by Open vSwitch one of our commands had undone: these are decided afresh, too.
    repaired: u64,
}

impl Killed {
    /// Adds what a daemon says that it did, the last time it was asked.
    fn add(&mut self, status: &Value) {
        let done = |name: &str| status["done"][name].as_u64().unwrap_or_default();
        self.cleared += done("flows_cleared");
        self.repaired += done("races_repaired");
    }
}

fn kill_often(ovs: &Ovs, daemon: &mut Daemon, ours: &mut BTreeSet<u32>, kills: u32) -> Outcome<Killed> {
    let begin = Instant::now();
    let mut numbers = Numbers(7);
    let mut killed = Killed::default();
    for _ in 0..kills {
        // From before it knows any filter to well after its first plans.
        let moment = Instant::now() + Duration::from_millis(numbers.below(LIVES_MS));
        let mut said = Value::Null;
        while Instant::now() < moment {
            thread::sleep(LOOK);
            said = status(daemon, ovs)?.0;
        }
        killed.add(&said);
        daemon.signal("KILL")?;
        // No journal, no command in flight.
        let journal = std::fs::read_to_string(ovs.rundir().join("ovs-offloadd.journal")).unwrap_or_default();
        killed.noted += journal.lines().count() as u64;
        daemon.restart()?;
        ours.append(&mut netlink_sockets(daemon.pid())?);
    }
    killed.add(&status(daemon, ovs)?.0);
    killed.took = begin.elapsed();
    Ok(killed)
}

/// Flows come and go, and Open vSwitch changes them, until `ended`.
fn churn(demo: &Demo<'_>, ovs: &Ovs, rules_file: &Path, ended: &AtomicBool) -> Outcome {
    let to = format!("{}:{}", Demo::REMOTE, PORT + 1);
    let mut tos = 0_u32;
    while !ended.load(Ordering::Relaxed) {
        let from_port = FIRST + 1000;
        // A flow of its own for every tenth port, with actions that change from one time to the next.
        let rules: String = (0..PASSING)
            .step_by(10)
            .map(|port| {
                tos = (tos + 4) % 64;
                format!(
                    "priority=100,udp,tp_src={},tp_dst={},actions=mod_nw_tos:{tos},NORMAL\n",
                    u32::from(from_port) + port,
                    PORT + 1
                )
            })
            .collect();
        std::fs::write(rules_file, rules)?;
        ovs.ofctl(&["add-flows", "br0", &rules_file.to_string_lossy()])?;
        let stream =
            Stream { to: &to, from_port, flows: PASSING, count: 5, rate_per_s: 200, ..Stream::default() };
        Sender::send(&demo.vm0, stream)?;
        // Deleted all at once, and made again by the next packets.
        wait_until("the revalidators have purged", SETTLES_WITHIN, || {
            ovs.appctl(&["revalidator/wait"]).map(|_| true)
        })?;
    }
    Ok(())
}
