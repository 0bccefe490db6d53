//! Packets in fragments through connection tracking, over IPv4.
//!
//! TC's flower does not read the ports of a first fragment (`fl_classify` of `net/sched/cls_flower.c` dissects without
//! `FLOW_DISSECTOR_F_PARSE_1ST_FRAG`), and the rule that Open vSwitch makes of one matches bits of them. So with `hw-offload`
//! each first fragment goes to ovs-vswitchd, which hands it back to the kernel's datapath, while the later ones are TC's. Two
//! things come of that, without the daemon as with it:
//!
//! - Where a later fragment completes the packet, TC takes it on as what its first fragment was: not one that came in at this
//!   device. The kernel sends it on without its Ethernet header, which the receiver counts as dropped.
//! - Where ovs-vswitchd is late, the kernel gives up on the packet as soon as 64 other fragments of the same sender have come
//!   (`net.ipv4.ipfrag_max_dist`).

use lab_tests::harness::{Failure, Lab, Netns, Outcome, Receiver, Sender, Stream, ensure, wait_until};

use super::DONE_WITHIN;
use super::compared::{Journey, Kind};
use super::connections::allow_by_acl;
use super::fabric::{Chassis, Fabric};

/// Packets, each in two fragments with the pods' MTU.
const COUNT: u64 = 150;
const PAYLOAD_BYTES: u32 = 2000;
/// What ovs-vswitchd keeps pace with in an emulated guest.
const RATE_PER_S: u64 = 25;
/// The same where it is to be compared, and what it does not keep pace with on a busy machine.
const BUSY_COUNT: u64 = 900;
const BUSY_PER_S: u64 = 300;
const ROUNDS: u32 = 3;

/// Packets that did not come back, and those of them whose end is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Lost {
    unanswered: u64,
    /// Left the host without their Ethernet header, in two frames each.
    headless: u64,
    /// Given up by the host's reassembly.
    given_up: u64,
}

impl Lost {
    /// Whether the kernel says of all of them what became of them.
    fn is_by_the_kernel(self) -> bool {
        self.unanswered <= self.headless + self.given_up
    }
}

/// Frames that the pod's device dropped: they are of no protocol.
fn dropped(pod: &Netns) -> Outcome<u64> {
    Ok(pod.run(&["sh", "-c", "cat /sys/class/net/sn*/statistics/rx_dropped"])?.trim().parse()?)
}

/// Times that the host's reassembly failed.
fn failed(host: &Chassis) -> Outcome<u64> {
    let text = host.run(&["cat", "/proc/net/snmp"])?;
    let mut ip = text.lines().filter(|line| line.starts_with("Ip:")).map(str::split_whitespace);
    let (Some(names), Some(values)) = (ip.next(), ip.next()) else {
        return Err(Failure::new(format!("no counters of IP in {text}")));
    };
    let value = names.zip(values).find(|(name, _)| *name == "ReasmFails").map(|(_, value)| value);
    Ok(value.ok_or_else(|| Failure::new("no counter ReasmFails"))?.parse()?)
}

impl Fabric {
    /// Sends packets in fragments there, and back as answers.
    fn fragmented(&self, journey: &Journey<'_>, count: u64, rate_per_s: u64) -> Outcome<Lost> {
        let counts = || {
            let dropped = dropped(journey.from)? + dropped(journey.to)?;
            Ok::<_, Failure>((dropped, failed(&self.hosts[0])? + failed(&self.hosts[1])?))
        };
        let before = counts()?;
        let (listens, to) = journey.ends(Kind::Fragments);
        let receiver = Receiver::start_answering(journey.to, &listens)?;
        let stream = Stream { to: &to, count, rate_per_s, payload_bytes: PAYLOAD_BYTES, ..Stream::default() };
        let sent = Sender::start(journey.from, stream)?.finish_answered()?;
        let received = receiver.finish()?;
        ensure!(received.duplicated == 0, "packets came twice: {received:?}");
        ensure!(sent.answers > 0, "{}: of {sent:?} in fragments {received:?} arrived", journey.topology);
        let now = counts()?;
        Ok(Lost {
            unanswered: sent.packets - sent.answers,
            headless: (now.0 - before.0) / 2,
            given_up: now.1 - before.1,
        })
    }

    /// Sends packets in fragments through connection tracking, in software alone and then beside a connection that is in
    /// hardware: none may be lost but what the kernel itself spoils. It is a line of the table for each place that they were
    /// counted at.
    pub(super) fn send_fragments(&self, journey: Journey<'_>) -> Outcome {
        self.drain()?;
        let software = self.fragmented(&journey, COUNT, RATE_PER_S)?;
        self.use_again()?;
        let connection = journey.connection()?;
        self.settled(journey.topology, &connection)?;
        let before = self.passed(&journey)?;
        let hardware = self.fragmented(&journey, COUNT, RATE_PER_S)?;
        let passed = self.passed(&journey)?;
        for ((host, meter), (now, before)) in journey.meters.iter().zip(passed.iter().zip(&before)) {
            // Of two frames for each packet and each answer none went by hardware, unless a CPU saw fewer.
            let (slow, frames) = (now.since(*before).slow(), 4 * (COUNT - hardware.unanswered));
            let share = 100.0 * frames.saturating_sub(slow) as f64 / frames as f64;
            let lost = format!("{} / {} of {COUNT}", software.unanswered, hardware.unanswered);
            self.hosts[*host].compared(journey.topology, Kind::Fragments.name(), *meter, share, &lost)?;
        }
        connection.close()?;
        for lost in [software, hardware] {
            println!("    {}, in fragments: {lost:?}", journey.topology);
            let topology = journey.topology;
            ensure!(lost.is_by_the_kernel(), "{topology}: {lost:?} of {COUNT} packets in fragments");
        }
        Ok(())
    }
}

/// The same side by side, at a rate that ovs-vswitchd keeps pace with, and at one that it may not.
pub(super) fn fragments_through_conntrack_are_lost_as_without_the_daemon(lab: &mut Lab) -> Outcome {
    let mut fabric = Fabric::up(lab)?;
    allow_by_acl(&fabric)?;
    let rounds = |fabric: &Fabric, what: &str, keeps_all: bool| {
        let journey = Journey::between_pods(fabric, what, "10.1.0.2");
        wait_until("the pods reach each other", DONE_WITHIN, || Ok(journey.from.pings(journey.called)))?;
        for (count, rate_per_s) in [(COUNT, RATE_PER_S), (BUSY_COUNT, BUSY_PER_S)] {
            for _ in 0..ROUNDS {
                let lost = fabric.fragmented(&journey, count, rate_per_s)?;
                println!("    {what}: of {count} packets in fragments at {rate_per_s} per second {lost:?}");
                let kept = lost.unanswered == 0 || rate_per_s == BUSY_PER_S;
                ensure!(kept || !keeps_all, "{what}: {lost:?}");
                ensure!(lost.is_by_the_kernel() || rate_per_s == BUSY_PER_S, "{what}: {lost:?}");
            }
        }
        Ok::<_, Failure>(())
    };
    rounds(&fabric, "with ovs-offloadd", false)?;
    fabric.hosts.iter_mut().try_for_each(|host| host.offload_alone())?;
    rounds(&fabric, "Open vSwitch with hw-offload", false)?;
    fabric.hosts.iter_mut().try_for_each(|host| host.offload_nothing())?;
    rounds(&fabric, "Open vSwitch without hw-offload", true)
}
