//! The lab itself: what every other test relies on.

use std::time::Duration;

use lab_tests::harness::{
    Demo, Lab, Need, Netns, Outcome, Ovs, Receiver, Sender, Stream, Test, ensure, fact, run, wait_for,
};

pub(crate) const TESTS: &[Test] = &[
    fact!(open_vswitch_puts_flows_of_the_demo_topology_in_tc).needs(&[Need::Simnic]).per_release(),
    fact!(the_receiver_counts_every_packet_that_was_sent),
    fact!(the_receiver_sees_what_the_network_lost),
    fact!(two_tests_in_turn_do_not_see_each_others_bridge),
];

fn open_vswitch_puts_flows_of_the_demo_topology_in_tc(lab: &mut Lab) -> Outcome {
    let ovs = Ovs::for_steering(lab)?;
    let demo = Demo::up(&ovs)?;
    let receiver = Receiver::start(&demo.remote, "10.10.0.100:7000")?;
    let stream = Stream { to: "10.10.0.100:7000", count: 500, rate_per_s: 500, ..Stream::default() };
    let sender = Sender::start(&demo.vm0, stream)?;
    let flow = wait_for("a UDP flow from VF 0 is in TC", Duration::from_secs(10), || {
        let flows = ovs.flows("tc")?;
        Ok(flows
            .into_iter()
            .find(|flow| flow.contains("in_port(sn0pf0vf0)") && flow.contains("eth_type(0x0800)")))
    })?;
    ensure!(flow.contains("dp:tc"), "{flow}");
    let sent = sender.finish()?;
    let received = receiver.finish()?;
    ensure!(received.packets == sent, "of {sent} packets {received:?} arrived");
    Ok(())
}

/// Two namespaces joined by a pair of devices, the second with address 10.20.0.2.
fn pair(lab: &mut Lab) -> Outcome<(Netns, Netns)> {
    let (near, far) = (Netns::new(lab, "near")?, Netns::new(lab, "far")?);
    let (a, b) = (lab.unique("a"), lab.unique("b"));
    run("ip", &["link", "add", &a, "type", "veth", "peer", "name", &b])?;
    near.adopt(&a, "10.20.0.1/24")?;
    far.adopt(&b, "10.20.0.2/24")?;
    Ok((near, far))
}

fn the_receiver_counts_every_packet_that_was_sent(lab: &mut Lab) -> Outcome {
    let (near, far) = pair(lab)?;
    let receiver = Receiver::start(&far, "10.20.0.2:7000")?;
    let stream = Stream { to: "10.20.0.2:7000", flows: 50, count: 40, rate_per_s: 4000, ..Stream::default() };
    let sent = Sender::send(&near, stream)?;
    let received = receiver.finish()?;
    ensure!(sent == 2000, "the generator sent {sent} packets and was to send 2000");
    ensure!(received.packets == sent && received.missing == 0, "of {sent} packets {received:?} arrived");
    ensure!(received.duplicated == 0, "packets were duplicated: {received:?}");
    Ok(())
}

fn the_receiver_sees_what_the_network_lost(lab: &mut Lab) -> Outcome {
    let (near, far) = pair(lab)?;
    // A filter that drops every second flow, by the lowest bit of the source port.
    let device = far.run(&["sh", "-c", "ls /sys/class/net | grep -v lo"])?;
    let device = device.trim();
    far.run(&["tc", "qdisc", "add", "dev", device, "clsact"])?;
    let u32_match = ["match", "ip", "sport", "1", "0x0001"];
    let filter = ["tc", "filter", "add", "dev", device, "ingress", "protocol", "ip", "u32"];
    far.run(&[&filter[..], &u32_match, &["action", "drop"]].concat())?;
    let receiver = Receiver::start(&far, "10.20.0.2:7000")?;
    let stream = Stream { to: "10.20.0.2:7000", flows: 4, count: 100, rate_per_s: 2000, ..Stream::default() };
    let sent = Sender::send(&near, stream)?;
    let received = receiver.finish()?;
    ensure!(
        sent == 400 && received.packets == 200,
        "of {sent} packets {received:?} arrived, and 200 were to"
    );
    Ok(())
}

fn two_tests_in_turn_do_not_see_each_others_bridge(lab: &mut Lab) -> Outcome {
    {
        let ovs = Ovs::start(lab, &[])?;
        ovs.vsctl(&["add-br", "first"])?;
        ensure!(ovs.appctl(&["dpctl/show"])?.contains("first"), "the bridge is not in the datapath");
    }
    std::fs::remove_dir_all(lab.dir().join("ovs"))?;
    let ovs = Ovs::start(lab, &[])?;
    ovs.vsctl(&["add-br", "second"])?;
    let datapath = ovs.appctl(&["dpctl/show"])?;
    ensure!(datapath.contains("second") && !datapath.contains("first"), "the datapath has: {datapath}");
    Ok(())
}
