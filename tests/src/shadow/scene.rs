//! Flows from vm0 to vm1, rules that the NIC has of them, and the comparison of all who know.

use std::collections::BTreeSet;
use std::time::Duration;

use lab_tests::harness::{
    Daemon, Demo, Failure, Outcome, Ovs, Receiver, Sender, Simnic, Stream, ensure, ethtool_counters, wait_for,
};
use netlink_wire::Ufid;

/// The NIC of the demo topology that Open vSwitch is on.
pub(super) const NIC: Simnic = Simnic::existing(0);
/// The longest an emulated guest may take until flows are where they belong.
pub(super) const SETTLES_WITHIN: Duration = Duration::from_secs(60);
/// A policy that wants every flow in hardware, soon, and does without a guard.
pub(super) const EAGER: &str = "mode = \"shadow\"\nshadow.guard = \"none\"\nmetrics.listen = \"off\"\n\
    policy.min-rate = \"100 bit/s\"\npolicy.min-age = \"100 ms\"\npolicy.epoch = \"250 ms\"\n";
/// How a cookie of shadow mode begins, as simnic shows it.
pub(super) const TAG: &str = "73686477";
/// The UDP port that the flows go to.
pub(super) const PORT: u16 = 7100;
/// The source port of the first flow; the others follow.
pub(super) const FIRST: u16 = 21_000;

/// What a rule's cookie has of its megaflow's id.
pub(super) fn origin(ufid: Ufid) -> String {
    ufid.as_bytes()[..11].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Makes megaflows of `flows` source ports, all with these actions.
pub(super) fn one_megaflow_each(ovs: &Ovs, flows: u16, actions: &str) -> Outcome {
    let rule = |n: u16| format!("priority=100,udp,tp_src={},tp_dst={PORT},actions={actions}\n", FIRST + n);
    let file = ovs.rundir().join("shadow-rules.txt");
    std::fs::write(&file, (0..flows).map(rule).collect::<String>())?;
    ovs.ofctl(&["--bundle", "add-flows", "br0", &file.to_string_lossy()]).map(drop)
}

/// A stream of so many flows, until it is stopped.
pub(super) struct Traffic {
    pub(super) sender: Sender,
    pub(super) receiver: Receiver,
}

impl Traffic {
    pub(super) fn start(demo: &Demo<'_>, flows: u16, rate_per_s: u64) -> Outcome<Self> {
        let to = format!("{}:{PORT}", Demo::VM1);
        let receiver = Receiver::start(&demo.vm1, &to)?;
        let stream = Stream {
            to: &to,
            from_port: FIRST,
            flows: u32::from(flows),
            count: 1_000_000,
            rate_per_s,
            payload_bytes: 200,
        };
        Ok(Self { sender: Sender::start_stoppable(&demo.vm0, stream)?, receiver })
    }
}

/// Cookies of our rules in the NIC, by what they have of a megaflow's id; what else is there is a failure.
pub(super) fn in_nic() -> Outcome<BTreeSet<String>> {
    let rules = NIC.rules()?;
    let of_line = |line: &str| {
        let cookie = line.split_whitespace().skip_while(|word| *word != "cookie").nth(1);
        let origin = cookie.and_then(|cookie| cookie.strip_prefix(TAG));
        origin.map(str::to_owned).ok_or_else(|| Failure::new(format!("a rule of somebody else: {line}")))
    };
    rules.lines().map(of_line).collect()
}

/// Waits until `count` flows at least are in the NIC.
pub(super) fn in_hardware(count: usize) -> Outcome<BTreeSet<String>> {
    wait_for(&format!("{count} flows are in hardware"), SETTLES_WITHIN, || {
        let rules = in_nic()?;
        if rules.len() >= count {
            return Ok(Some(rules));
        }
        Err(Failure::new(format!("the NIC has {} rules", rules.len())))
    })
}

/// Waits until the NIC has just the flows that our tables say are in hardware, each of them a megaflow of the kernel
/// datapath by Open vSwitch's own word.
pub(super) fn agree(ovs: &Ovs, daemon: &Daemon, limit: Duration) -> Outcome<BTreeSet<String>> {
    wait_for("NIC, Open vSwitch and our tables agree", limit, || {
        let id = |text: &str| -> Outcome<String> { Ok(origin(text.trim_start_matches("ufid:").parse()?)) };
        let ours = daemon.flows()?.into_iter().filter(|flow| flow["placement"] == "hardware");
        let ours = ours
            .map(|flow| id(flow["ufid"].as_str().unwrap_or_default()))
            .collect::<Outcome<BTreeSet<String>>>()?;
        let nic = in_nic()?;
        let there = ovs.flows("ovs")?;
        let there = there
            .iter()
            .filter_map(|line| line.split("ufid:").nth(1)?.split(',').next())
            .map(id)
            .collect::<Outcome<BTreeSet<String>>>()?;
        if ours == nic && nic.is_subset(&there) {
            return Ok(Some(nic));
        }
        Err(Failure::new(format!("the NIC has {nic:?}\nwe {ours:?}\nOpen vSwitch {there:?}")))
    })
}

/// The rules of the NIC by their cookies, and what each has counted.
pub(super) fn numbers() -> Outcome<Vec<(String, u64)>> {
    let rules = NIC.rules()?;
    let of = |line: &str| {
        let word = |name: &str| line.split_whitespace().skip_while(|word| *word != name).nth(1);
        Some((word("cookie")?.to_owned(), word("packets")?.parse().ok()?))
    };
    rules
        .lines()
        .map(|line| of(line).ok_or_else(|| Failure::new(format!("a rule without cookie or packets: {line}"))))
        .collect()
}

/// That no rule of ours is left, neither in the NIC nor in TC.
pub(super) fn nothing_left() -> Outcome {
    let left = in_nic()?;
    ensure!(left.is_empty(), "rules are left in the NIC: {left:?}");
    for port in ["sn0p0", "sn0pf0vf0", "sn0pf0vf1"] {
        let Ok(filters) = lab_tests::harness::run("tc", &["filter", "show", "dev", port, "ingress"]) else {
            continue;
        };
        ensure!(!filters.contains("flower"), "filters are left at {port}:\n{filters}");
    }
    Ok(())
}

/// Packets that the NIC's queues and those to ovs-vswitchd had no room for: a guest that stood still for a while sends the rest at once.
pub(super) fn dropped(ovs: &Ovs) -> Outcome<u64> {
    let shown = ovs.appctl(&["dpctl/show"])?;
    let mut dropped =
        shown.split("lost:").nth(1).and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    for device in ["sn0pf0vf0", "sn0pf0vf1"] {
        let counters = ethtool_counters(device)?;
        let of_queue =
            counters.iter().filter(|(name, _)| matches!(&***name, "drop_queue" | "drop_queue_packets"));
        let of_queue: u64 = of_queue.map(|(_, packets)| *packets).sum();
        dropped = dropped.map(|dropped: u64| dropped + of_queue);
    }
    dropped.ok_or_else(|| Failure::new(format!("`dpctl/show` tells of no lost packets: {shown}")))
}
