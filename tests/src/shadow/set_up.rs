//! What it costs ovs-vswitchd that somebody hears of each megaflow it makes: with a listener the kernel writes a notification
//! within the request that makes the flow (`ovs_flow_cmd_build_info()`, which does nothing without one).

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use lab_tests::harness::{
    Daemon, Demo, Failure, Lab, Outcome, Ovs, OvsDaemon, cpu_time, ensure, wait_for, wait_until,
};

use super::scene::{EAGER, SETTLES_WITHIN};
use crate::io::netns;
use crate::io::packet_socket::PacketSocket;

/// Megaflows of one round; Open vSwitch begins with a limit of 10,000.
const MEGAFLOWS: u16 = 8_000;
/// Rounds of each kind, in turn.
const ROUNDS: usize = 3;
/// Packets of megaflows that are not there yet, at most.
const AHEAD: u64 = 100;
/// One of so many packets may get lost on its way to ovs-vswitchd.
const LOST_ONE_OF: u64 = 10;
/// What ovs-vswitchd may take for a megaflow with us listening, against what it takes alone.
const TIMES_AT_MOST: f64 = 2.0;

/// Who listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Listens {
    Nobody,
    Observing,
    Shadowing,
}

/// What a round took.
#[derive(Clone, Copy, Debug)]
struct Took {
    megaflows: u64,
    vswitchd: Duration,
    daemon: Duration,
    /// From the first to the last.
    within: Duration,
    /// From then on until the daemon knew nine of ten.
    behind: Duration,
}

impl Took {
    fn per_megaflow(self, of: Duration) -> f64 {
        of.as_secs_f64() * 1e6 / self.megaflows as f64
    }
}

pub(super) fn making_a_megaflow_costs_vswitchd_less_than_twice_as_much_with_us_listening(
    lab: &mut Lab,
) -> Outcome {
    let ovs = Ovs::start(lab, &["hw-offload=false", "max-idle=600000"])?;
    let demo = Demo::up(&ovs)?;
    // What an action reads of a packet, its megaflow matches in full.
    let reading = "priority=100,udp,in_port=sn0pf0vf0,actions=move:OXM_OF_UDP_SRC[]->NXM_NX_REG0[0..15],output:sn0pf0vf1";
    ovs.ofctl(&["add-flow", "br0", reading])?;
    let name = demo.vm0.name().to_owned();
    let opened = thread::spawn(move || netns::enter(&name).and_then(|()| PacketSocket::open_all())).join();
    let socket = opened.map_err(|_| Failure::new("the sender's thread ended"))??;
    let device = demo.vm0.run(&["cat", "/sys/class/net/sn0v0/ifindex"])?.trim().parse()?;
    let send = |frame: &[u8]| socket.send_by(device, frame);

    let kinds = [Listens::Nobody, Listens::Observing, Listens::Shadowing];
    let mut took: [Vec<Took>; 3] = [const { Vec::new() }; 3];
    for _ in 0..ROUNDS {
        for (kind, rounds) in kinds.into_iter().zip(&mut took) {
            rounds.push(round(lab, &ovs, &send, kind)?);
        }
    }
    let mut vswitchd_takes = Vec::new();
    for (kind, rounds) in kinds.into_iter().zip(&took) {
        let each = |of: fn(&Took) -> f64| {
            let mut all: Vec<f64> = rounds.iter().map(of).collect();
            all.sort_by(f64::total_cmp);
            all
        };
        let vswitchd = each(|took| took.per_megaflow(took.vswitchd));
        let daemon = each(|took| took.per_megaflow(took.daemon));
        println!("    {kind:?}: ovs-vswitchd {vswitchd:.0?} us per megaflow, ovs-offloadd {daemon:.0?} us");
        let per_s = each(|took| took.megaflows as f64 / took.within.as_secs_f64());
        let behind = each(|took| took.behind.as_secs_f64() * 1e3);
        println!(
            "    {kind:?}: {per_s:.0?} new ones per second, the daemon {behind:.0?} ms behind at the end"
        );
        vswitchd_takes.push(vswitchd[ROUNDS / 2]);
    }
    for with in &vswitchd_takes[1..] {
        ensure!(
            *with <= vswitchd_takes[0] * TIMES_AT_MOST,
            "it costs {with:.0} us instead of {:.0}",
            vswitchd_takes[0]
        );
    }
    Ok(())
}

/// Makes [`MEGAFLOWS`] anew.
fn round(lab: &Lab, ovs: &Ovs, send: &dyn Fn(&[u8]) -> io::Result<()>, listens: Listens) -> Outcome<Took> {
    let daemon = match listens {
        Listens::Nobody => None,
        Listens::Observing => {
            Some(Daemon::start(lab, ovs, &lazy().replace("mode = \"shadow\"", "mode = \"observe\""))?)
        }
        Listens::Shadowing => Some(Daemon::start(lab, ovs, &lazy())?),
    };
    // Unlike `dpctl/del-flows`, it has Open vSwitch forget that it made them.
    ovs.appctl(&["revalidator/purge"])?;
    wait_until("no megaflow is there", SETTLES_WITHIN, || Ok(there(ovs)? < 100))?;
    let pid = ovs.pid(OvsDaemon::Vswitchd)?;
    let daemons = || daemon.as_ref().map_or(Ok(Duration::ZERO), |daemon| cpu_time(daemon.pid()));
    let (before, vswitchd, ours) = (there(ovs)?, cpu_time(pid)?, daemons()?);
    let (mut sent, begun) = (0, Instant::now());
    while sent < u64::from(MEGAFLOWS) {
        let until = (sent + AHEAD / 2).min(u64::from(MEGAFLOWS));
        for number in sent..until {
            send(&datagram(u16::try_from(number)? + 1))?;
        }
        sent = until;
        wait_for("most of what was sent has its megaflow", SETTLES_WITHIN, || {
            let made = there(ovs)?.saturating_sub(before);
            if made + AHEAD / 2 + sent / LOST_ONE_OF >= sent {
                return Ok(Some(()));
            }
            Err(Failure::new(format!("{sent} packets were sent and {made} megaflows made")))
        })?;
    }
    wait_until("nearly all have theirs", SETTLES_WITHIN, || {
        Ok(there(ovs)?.saturating_sub(before) + sent / LOST_ONE_OF >= sent)
    })?;
    let mut took = Took {
        within: begun.elapsed(),
        behind: Duration::ZERO,
        megaflows: there(ovs)?.saturating_sub(before),
        vswitchd: cpu_time(pid)?.saturating_sub(vswitchd),
        daemon: daemons()?.saturating_sub(ours),
    };
    if let Some(daemon) = &daemon {
        let at_least = usize::try_from(took.megaflows)? * 9 / 10;
        let made = Instant::now();
        wait_until("the daemon knows them", SETTLES_WITHIN, || Ok(daemon.flows()?.len() >= at_least))?;
        took.behind = made.elapsed();
    }
    Ok(took)
}

/// Mode shadow that places none of these.
fn lazy() -> String {
    EAGER.replace("100 bit/s", "1 Gbit/s")
}

/// Megaflows of the kernel datapath.
fn there(ovs: &Ovs) -> Outcome<u64> {
    let shown = ovs.appctl(&["dpctl/show"])?;
    let count = shown.lines().find_map(|line| line.trim().strip_prefix("flows: ")?.parse().ok());
    count.ok_or_else(|| Failure::new(format!("`dpctl/show` tells of no flows: {shown}")))
}

/// UDP from this port.
pub(super) fn datagram(from: u16) -> Vec<u8> {
    let mut frame = vec![0x02, 0, 0, 0, 0, 2, 0x02, 0, 0, 0, 0, 1, 0x08, 0x00];
    frame.extend([0x45, 0, 0, 28, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 10, 0, 1, 10, 10, 0, 2]);
    frame.extend(from.to_be_bytes());
    frame.extend([0x1b, 0xbc, 0, 8, 0, 0]);
    frame.resize(60, 0);
    frame
}
