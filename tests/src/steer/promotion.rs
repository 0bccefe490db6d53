//! Into hardware, and out of it when nothing comes any more.

use lab_tests::harness::{
    Daemon, Demo, Failure, Lab, Outcome, Ovs, SentByVf, Stream, agree, ensure, run, wait_for,
};

use super::{FAST, NIC, PLACED_WITHIN, SLOW, Traffic, flow_to, in_hardware, set_rule, start_daemon, ufid};

pub(super) fn a_fast_flow_moves_into_the_nic_without_a_loss_and_a_slow_one_stays(lab: &mut Lab) -> Outcome {
    let ovs = Ovs::for_steering(lab)?;
    let demo = Demo::up(&ovs)?;
    for port in [FAST, SLOW] {
        set_rule(&ovs, port, "output:sn0p0")?;
    }
    let slow = Stream { from_port: 10_003, count: 100_000, rate_per_s: 20, ..Stream::default() };
    let (fast, slow) = (Traffic::fast(&demo)?, Traffic::start(&demo, SLOW, slow)?);
    let daemon = start_daemon(lab, &ovs)?;
    let share_before = hardware_share(&daemon)?;
    let flow = in_hardware(&daemon, FAST)?;

    // Both counts are of one moment; that all packets arrive is seen at the end.
    let settled = SentByVf::read("sn0pf0vf0")?;
    let sent = wait_for("the hardware has forwarded a thousand packets", PLACED_WITHIN, || {
        let sent = SentByVf::read("sn0pf0vf0")?.since(settled);
        if sent.hardware >= 1000 { Ok(Some(sent)) } else { Err(Failure::new(format!("{sent:?}"))) }
    })?;
    println!("    {} packets went through hardware; slow path: {}", sent.hardware, sent.slow);
    ensure!(sent.slow < sent.hardware / 4, "what vm0 has sent crossed the representor: {sent:?}");

    let filters = run("tc", &["-s", "filter", "show", "dev", "sn0pf0vf0", "ingress"])?;
    let reported = filters.split("filter protocol").any(|filter| {
        filter.contains(&format!("dst_port {FAST}"))
            && filter.lines().any(|line| line.trim().starts_with("in_hw"))
    });
    ensure!(reported, "the kernel does not report the flow in_hw:\n{filters}");
    let placements = agree(&NIC, &ovs, &daemon, PLACED_WITHIN)?;
    ensure!(placements.hardware.contains_key(ufid(&flow)), "{flow} is not in {placements:?}");
    let kept = flow_to(&daemon, SLOW)?.ok_or_else(|| Failure::new("the slow flow is not listed"))?;
    ensure!(kept["placement"] == "tc", "the slow flow is not in TC's software path: {kept}");
    // Of all packets since the daemon's start, the more of them in software the longer the flow was there.
    let share = wait_for("the share in hardware has risen", PLACED_WITHIN, || {
        let share = hardware_share(&daemon)?;
        if share > share_before + 0.3 {
            return Ok(Some(share));
        }
        Err(Failure::new(format!("from {share_before} to {share} only")))
    })?;
    println!("    share of packets in hardware: {share_before:.2} before, {share:.2} now");

    for (name, traffic) in [("fast", fast), ("slow", slow)] {
        let (sent, lost) = traffic.stop()?;
        ensure!(lost == 0, "of {sent} packets of the {name} flow {lost} were lost");
    }
    Ok(())
}

/// Share of the packets forwarded by hardware since the daemon's start.
fn hardware_share(daemon: &Daemon) -> Outcome<f64> {
    let traffic = &daemon.json(&["status"])?["traffic"];
    let packets = |part: &str| {
        let packets = traffic[part]["packets"].as_f64();
        packets.ok_or_else(|| Failure::new(format!("`status` shows no packets of {part}: {traffic}")))
    };
    let (hardware, software) = (packets("hardware")?, packets("software")?);
    Ok(if hardware + software > 0.0 { hardware / (hardware + software) } else { 0.0 })
}
