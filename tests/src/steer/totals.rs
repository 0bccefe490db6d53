//! Counters: OpenFlow's never fall, and ours are what the generator sent.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use lab_tests::harness::{
    Daemon, Demo, Failure, Lab, Outcome, Ovs, OvsDaemon, agree, ensure, ufid_of_rule, wait_for, wait_until,
};

use super::{
    FAST, FAST_PER_S, NIC, PLACED_WITHIN, Traffic, flow_to, in_hardware, set_rule, start_daemon, ufid,
};

/// What OpenFlow may miss of two promotions: each time what came after Open vSwitch saved the counters and before the
/// filter was replaced, or, before 3.2, since Open vSwitch's last look at them. In a slow guest that is up to a second.
const UNCOUNTED_MAX: u64 = 2 * FAST_PER_S;

/// What may be uncounted after a restart of ovs-vswitchd, which removes all filters at once, without a last word about
/// their counters: what came since the last reading. We read every 500 ms, and a slow guest takes as long again.
const UNREAD_MAX: u64 = FAST_PER_S;
/// What may be uncounted of two promotions: what came between the reading of a filter and its end, two requests of one
/// batch when we replace it, and one when Open vSwitch makes it anew. That is microseconds on a processor of one's own; a
/// virtual one may be stopped there by its host: 10 packets were seen with four runnable tasks for each of its processors.
pub(super) const BETWEEN_MAX: u64 = FAST_PER_S / 5;
/// How long the sums stay as they are when the last reading is in: several readings.
const SETTLED_AFTER: Duration = Duration::from_secs(3);

pub(super) fn openflow_counters_of_promoted_flows_go_on_and_never_fall(lab: &mut Lab) -> Outcome {
    let ovs = Ovs::for_steering(lab)?;
    let demo = Demo::up(&ovs)?;
    set_rule(&ovs, FAST, "output:sn0p0")?;
    let traffic = Traffic::fast(&demo)?;
    let daemon = start_daemon(lab, &ovs)?;
    let ended = AtomicBool::new(false);
    let (sent, samples) = thread::scope(|scope| {
        let sampler = scope.spawn(|| {
            let mut samples = Vec::new();
            while !ended.load(Ordering::Relaxed) {
                samples.push(openflow_packets(&ovs)?);
            }
            Ok::<_, Failure>(samples)
        });
        let sent = promote_twice(&daemon, traffic);
        ended.store(true, Ordering::Relaxed);
        let samples = sampler.join().map_err(|_| Failure::new("the sampler panicked"))?;
        Ok::<_, Failure>((sent?, samples?))
    })?;
    let fall = samples.windows(2).find(|pair| pair[1] < pair[0]);
    ensure!(fall.is_none(), "the OpenFlow counter fell: {fall:?} in {samples:?}");

    // The first ends the revalidation that may have begun before the last packet.
    for _ in 0..2 {
        ovs.appctl(&["revalidator/wait"])?;
    }
    let counted = openflow_packets(&ovs)?;
    println!(
        "    of {sent} packets OpenFlow counted {counted}, in {} samples without a fall; at most {UNCOUNTED_MAX} may lack",
        samples.len()
    );
    ensure!(
        counted <= sent && counted + UNCOUNTED_MAX >= sent,
        "OpenFlow counted {counted} of {sent} packets"
    );
    no_warning(&ovs)
}

/// Promoted, demoted on request, promoted again: the number of packets sent meanwhile, none of them lost.
fn promote_twice(daemon: &Daemon, traffic: Traffic) -> Outcome<u64> {
    in_hardware(daemon, FAST)?;
    daemon.ctl(&["drain"])?;
    wait_until("the flow is in software", PLACED_WITHIN, || {
        Ok(flow_to(daemon, FAST)?.is_some_and(|flow| flow["placement"] == "tc"))
    })?;
    daemon.ctl(&["drain", "--off"])?;
    in_hardware(daemon, FAST)?;
    let (sent, lost) = traffic.stop()?;
    ensure!(lost == 0, "of {sent} packets {lost} were lost");
    Ok(sent)
}

/// `n_packets` of the fast flow's rule.
fn openflow_packets(ovs: &Ovs) -> Outcome<u64> {
    let text = ovs.ofctl(&["dump-flows", "br0", &format!("udp,tp_dst={FAST}")])?;
    let count = text.split("n_packets=").nth(1).and_then(|rest| rest.split(',').next()?.parse().ok());
    count.ok_or_else(|| Failure::new(format!("`ovs-ofctl dump-flows` shows {text}")))
}

/// Fails when Open vSwitch logged a warning that its start and this guest do not explain.
fn no_warning(ovs: &Ovs) -> Outcome {
    let log = ovs.log()?;
    let warning = log.lines().find(|line| {
        (line.contains("|WARN|") || line.contains("|ERR|") || line.contains("|EMER|")) && !is_harmless(line)
    });
    ensure!(warning.is_none(), "Open vSwitch warns: {}", warning.unwrap_or_default());
    Ok(())
}

/// Warnings that have nothing to do with flows: a slow guest, and what this kernel cannot do.
fn is_harmless(line: &str) -> bool {
    ["Unreasonably long", "context switches", "faults: ", "disk: ", "fork: "]
        .iter()
        .any(|text| line.contains(text))
}

pub(super) fn totals_are_what_was_sent_across_promotions_demotions_and_restarts(lab: &mut Lab) -> Outcome {
    let ovs = Ovs::for_steering(lab)?;
    let demo = Demo::up(&ovs)?;
    set_rule(&ovs, FAST, "output:sn0p0")?;
    let mut daemon = start_daemon(lab, &ovs)?;
    demo.hush_vm0()?;
    let before = Sums::read(&ovs, &daemon)?;

    // Promotions and demotions: exactly, but for what came between a filter's reading and its end.
    let sent = promote_twice(&daemon, Traffic::fast(&demo)?)?;
    let after = settled(&ovs, &daemon, before.plus(sent), BETWEEN_MAX)?;
    let (counted, missed) = (after.counted() - before.counted(), after.missed - before.missed);
    println!(
        "    promotions and a demotion: {sent} sent, {counted} counted, {missed} missed in the datapath; \
         at most {BETWEEN_MAX} may lack"
    );
    // Misses are told for the datapath as a whole: what our tables lack is among them, and no packet is in twice.
    ensure!(
        counted <= sent && counted + missed + BETWEEN_MAX >= sent,
        "{sent} were sent; sums: {before:?}, then {after:?}"
    );
    let hardware = after.hardware - before.hardware;
    ensure!(hardware > 0 && hardware < sent, "of {sent} packets {hardware} were counted in hardware");

    // ovs-vswitchd killed: but for what came since the last reading.
    let before = after;
    let traffic = Traffic::fast(&demo)?;
    in_hardware(&daemon, FAST)?;
    ovs.signal(OvsDaemon::Vswitchd, "KILL")?;
    ovs.restart(OvsDaemon::Vswitchd)?;
    set_rule(&ovs, FAST, "output:sn0p0")?;
    in_hardware(&daemon, FAST)?;
    let (sent, lost) = traffic.stop()?;
    let after = settled(&ovs, &daemon, before.plus(sent), lost + UNREAD_MAX)?;
    // A datapath that was made anew misses from zero.
    let (counted, missed) = (after.counted() - before.counted(), after.missed.saturating_sub(before.missed));
    println!(
        "    ovs-vswitchd killed: {sent} sent, {lost} lost, {counted} counted, {missed} missed in the datapath"
    );
    ensure!(
        counted <= sent && counted + missed + lost + UNREAD_MAX >= sent,
        "{sent} sent, {lost} lost, {counted} counted, {missed} missed"
    );

    // We are killed: the NIC goes on counting, and the next daemon reads it.
    let traffic = Traffic::fast(&demo)?;
    let flow = in_hardware(&daemon, FAST)?;
    let at_kill = packets_of_rule(ufid(&flow))?;
    daemon.signal("KILL")?;
    daemon.restart()?;
    let adopted = in_hardware(&daemon, FAST)?;
    ensure!(flow["ufid"] == adopted["ufid"], "the daemon found {flow} and then {adopted}");
    let (sent, lost) = traffic.stop()?;
    ensure!(lost == 0, "of {sent} packets {lost} were lost while ovs-offloadd was killed");
    let in_nic = packets_of_rule(ufid(&flow))?;
    ensure!(
        in_nic > at_kill,
        "the rule had counted {at_kill} packets when we were killed, and then {in_nic}"
    );
    let counted = wait_for("our tables show what the NIC counted", PLACED_WITHIN, || {
        let flow = flow_to(&daemon, FAST)?;
        let counted = flow.and_then(|flow| flow["traffic"]["hardware"]["packets"].as_u64());
        Ok(counted.filter(|counted| *counted >= in_nic))
    })?;
    println!("    ovs-offloadd killed: {in_nic} packets in the NIC, {counted} in the next daemon's tables");
    ensure!(counted == in_nic, "the NIC counted {in_nic} packets, and our tables show {counted}");
    agree(&NIC, &ovs, &daemon, PLACED_WITHIN)?;
    Ok(())
}

/// What the NIC's rule of this megaflow has counted.
fn packets_of_rule(ufid: &str) -> Outcome<u64> {
    let rules = NIC.rules()?;
    let rule = rules.lines().find(|rule| ufid_of_rule(rule).as_deref() == Some(ufid));
    let count = rule.and_then(|rule| rule.split(" packets ").nth(1)?.split_whitespace().next()?.parse().ok());
    count.ok_or_else(|| Failure::new(format!("the NIC has no rule of {ufid}:\n{rules}")))
}

/// What came from vm0, by what counted it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sums {
    /// In our tables, of the port.
    software: u64,
    hardware: u64,
    /// Packets that met no megaflow and went to ovs-vswitchd, of the whole datapath.
    missed: u64,
}

impl Sums {
    pub(super) fn read(ovs: &Ovs, daemon: &Daemon) -> Outcome<Self> {
        let ports = daemon.json(&["port", "list"])?;
        let port = ports.as_array().and_then(|ports| ports.iter().find(|port| port["name"] == "sn0pf0vf0"));
        let packets = |part: &str| port.and_then(|port| port["traffic"][part]["packets"].as_u64());
        let unreadable = || Failure::new(format!("`port list` shows no traffic of sn0pf0vf0: {ports}"));
        Ok(Self {
            software: packets("software").ok_or_else(unreadable)?,
            hardware: packets("hardware").ok_or_else(unreadable)?,
            missed: missed(ovs)?,
        })
    }

    /// In our tables.
    fn counted(self) -> u64 {
        self.software + self.hardware
    }

    fn all(self) -> u64 {
        self.counted() + self.missed
    }

    pub(super) fn plus(self, packets: u64) -> u64 {
        self.all() + packets
    }
}

/// Waits until the sums have come to `all`, or to at most `lacking` less with nothing added for some readings.
pub(super) fn settled(ovs: &Ovs, daemon: &Daemon, all: u64, lacking: u64) -> Outcome<Sums> {
    let mut last = (0, Instant::now());
    wait_for(&format!("{all} packets are counted"), PLACED_WITHIN, || {
        let sums = Sums::read(ovs, daemon)?;
        if sums.all() != last.0 {
            last = (sums.all(), Instant::now());
        }
        let at_rest = last.1.elapsed() >= SETTLED_AFTER;
        if sums.all() >= all || sums.all() + lacking >= all && at_rest {
            return Ok(Some(sums));
        }
        Err(Failure::new(format!("{} are: {sums:?}", sums.all())))
    })
}

/// Packets that met no megaflow, from `dpctl/show`.
fn missed(ovs: &Ovs) -> Outcome<u64> {
    let text = ovs.appctl(&["dpctl/show"])?;
    let count = text.split("missed:").nth(1).and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    count.ok_or_else(|| Failure::new(format!("`dpctl/show` shows {text}")))
}
