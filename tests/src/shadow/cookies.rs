//! What hardware took, by OpenFlow rules, against what was sent.

use std::collections::BTreeMap;

use lab_tests::harness::{Daemon, Demo, Failure, Lab, Outcome, Ovs, ensure, run, wait_for, wait_until};

use super::scene::{EAGER, PORT, SETTLES_WITHIN, Traffic, in_hardware, in_nic};

const FLOWS: u16 = 4;
/// The cookie of the first flow's rule; the others follow.
const COOKIE: u64 = 0x100;
/// The cookie of the rule in the second table, that all pass.
const SHARED: u64 = 0xabc;

/// Packets by table and cookie.
type Packets = BTreeMap<(u64, u64), u64>;

pub(super) fn openflow_rules_and_what_hardware_took_of_them_are_together_what_was_sent(
    lab: &mut Lab,
) -> Outcome {
    let ovs = Ovs::start(lab, &["hw-offload=false"])?;
    let demo = Demo::up(&ovs)?;
    let rule = |n: u16| {
        let cookie = COOKIE + u64::from(n);
        let from = 21_000 + n;
        format!("cookie={cookie:#x},priority=100,udp,tp_src={from},tp_dst={PORT},actions=resubmit(,1)\n")
    };
    let shared = format!("table=1,cookie={SHARED:#x},actions=output:sn0pf0vf1\n");
    let file = ovs.rundir().join("cookies.txt");
    std::fs::write(&file, (0..FLOWS).map(rule).chain([shared]).collect::<String>())?;
    ovs.ofctl(&["--bundle", "add-flows", "br0", &file.to_string_lossy()])?;

    // The kernel drops what a device is to send while it gets a qdisc, and every packet counts here.
    for device in ["sn0pf0vf0", "sn0pf0vf1"] {
        run("tc", &["qdisc", "add", "dev", device, "clsact"])?;
    }
    let daemon = Daemon::start(lab, &ovs, EAGER)?;
    let traffic = Traffic::start(&demo, FLOWS, 400)?;
    in_hardware(usize::from(FLOWS))?;
    let listed = wait_for("it is known whether Open vSwitch tells", SETTLES_WITHIN, || {
        let listed = daemon.json(&["openflow", "list"])?;
        Ok((listed["telling"] != "unknown").then_some(listed))
    })?;
    if listed["telling"] == "unsupported" {
        let why = listed["why"].as_str().unwrap_or_default();
        ensure!(why.contains("3.4"), "why it does not tell: {why:?}");
        println!("    {why}");
        wait_until("what hardware took is of no rule", SETTLES_WITHIN, || {
            Ok(daemon.json(&["openflow", "list"])?["untold"]["packets"].as_u64() > Some(100))
        })?;
        traffic.sender.stop()?;
        return traffic.receiver.finish().map(drop);
    }
    flows_have_cookies(&daemon)?;
    wait_until("hardware took most of it", SETTLES_WITHIN, || {
        Ok(ours(&daemon)?.get(&(1, SHARED)).is_some_and(|packets| *packets >= 800))
    })?;
    let sent = traffic.sender.stop()?;
    let received = traffic.receiver.finish()?;
    ensure!(received.packets == sent, "{sent} packets were sent and {received:?}");

    add_up(&ovs, &daemon, sent)?;
    // With the megaflows gone, it is all there.
    ovs.appctl(&["revalidator/purge"])?;
    wait_until("no rule is left", SETTLES_WITHIN, || Ok(in_nic()?.is_empty()))?;
    add_up(&ovs, &daemon, sent)
}

/// Waits until both together have what was sent, rule by rule.
fn add_up(ovs: &Ovs, daemon: &Daemon, sent: u64) -> Outcome {
    wait_for("OpenFlow's counters and ours are what was sent", SETTLES_WITHIN, || {
        let (theirs, ours) = (theirs(ovs)?, ours(daemon)?);
        let both = |table: u64, cookie: u64| {
            let of = |packets: &Packets| packets.get(&(table, cookie)).copied().unwrap_or_default();
            of(&theirs) + of(&ours)
        };
        let each: Vec<u64> = (0..FLOWS).map(|n| both(0, COOKIE + u64::from(n))).collect();
        let even = each.iter().all(|packets| packets.abs_diff(sent / u64::from(FLOWS)) <= 1);
        if even && each.iter().sum::<u64>() == sent && both(1, SHARED) == sent {
            println!("    of {sent} packets OpenFlow counted {theirs:?}, and we {ours:?}");
            return Ok(Some(()));
        }
        Err(Failure::new(format!("{sent} packets were sent; OpenFlow has {theirs:?}, and we have {ours:?}")))
    })
}

/// What our sums have.
fn ours(daemon: &Daemon) -> Outcome<Packets> {
    let listed = daemon.json(&["openflow", "list"])?;
    let rules = listed["rules"].as_array().cloned().unwrap_or_default();
    let of = |rule: &serde_json::Value| {
        let cookie = rule["cookie"].as_str()?.strip_prefix("0x")?;
        let cookie = u64::from_str_radix(cookie, 16).ok()?;
        // Before 4.0, Open vSwitch does not tell the bridge.
        (rule["bridge"] == "br0" || rule["bridge"].is_null()).then_some(())?;
        Some(((rule["table"].as_u64()?, cookie), rule["hardware"]["packets"].as_u64()?))
    };
    Ok(rules.iter().filter_map(of).collect())
}

/// What Open vSwitch's counters have.
fn theirs(ovs: &Ovs) -> Outcome<Packets> {
    let dumped = ovs.ofctl(&["dump-flows", "br0"])?;
    let of = |line: &str| {
        let word = |name: &str| line.split([' ', ',']).find_map(|word| word.strip_prefix(name));
        let cookie = u64::from_str_radix(word("cookie=0x")?, 16).ok()?;
        Some(((word("table=")?.parse().ok()?, cookie), word("n_packets=")?.parse().ok()?))
    };
    Ok(dumped.lines().filter_map(of).collect())
}

/// Flows in hardware say which OpenFlow rules they are of.
fn flows_have_cookies(daemon: &Daemon) -> Outcome {
    wait_for("each flow in hardware has its cookies", SETTLES_WITHIN, || {
        let flows = daemon.flows()?;
        let cookies = |flow: &serde_json::Value| -> Vec<(u64, String)> {
            let rules = flow["openflow"].as_array().cloned().unwrap_or_default();
            let of = |rule: &serde_json::Value| {
                (
                    rule["table"].as_u64().unwrap_or(999),
                    rule["cookie"].as_str().unwrap_or_default().to_owned(),
                )
            };
            rules.iter().map(of).collect()
        };
        for n in 0..FLOWS {
            let expected = [(0, format!("{:#x}", COOKIE + u64::from(n))), (1, format!("{SHARED:#x}"))];
            if !flows.iter().any(|flow| cookies(flow) == expected) {
                return Err(Failure::new(format!("no flow has {expected:?}: {flows:?}")));
            }
        }
        let Some(one) = flows.iter().find(|flow| !cookies(flow).is_empty()) else { return Ok(None) };
        // Open vSwitch may make it anew meanwhile, and its cookies are asked for again then.
        let why = daemon.ctl(&["flow", "why", one["ufid"].as_str().unwrap_or_default()])?;
        ensure!(why.contains(&format!("table 1 cookie {SHARED:#x}")), "`flow why` says:\n{why}");
        Ok(Some(()))
    })
}
