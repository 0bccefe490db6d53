//! More new megaflows by one port than are followed.

use std::thread;
use std::time::Duration;

use lab_tests::harness::{Daemon, Demo, Failure, Lab, Outcome, Ovs, ensure, wait_for, wait_until};

use super::scene::{EAGER, SETTLES_WITHIN, Traffic, agree, in_hardware, in_nic, numbers, one_megaflow_each};
use super::set_up::datagram;
use crate::io::netns;
use crate::io::packet_socket::PacketSocket;

const FLOWS: u16 = 4;
/// Megaflows that a burst makes, several times what is followed in a second.
const BURST: u16 = 400;
/// Between two bursts.
const APART: Duration = Duration::from_millis(500);

pub(super) fn a_port_that_is_scanned_through_is_shed_and_the_flows_of_others_stay_in_hardware(
    lab: &mut Lab,
) -> Outcome {
    // Whether rules stay shows nothing where Open vSwitch takes their megaflows for idle, or for not worth another look.
    let ovs = Ovs::start(lab, &["hw-offload=false", "max-idle=600000", "min-revalidate-pps=0"])?;
    let demo = Demo::up(&ovs)?;
    one_megaflow_each(&ovs, FLOWS, "output:sn0pf0vf1")?;
    // What an action reads of a packet, its megaflow matches in full.
    let scanned = "priority=200,udp,in_port=sn0pf0vf1,actions=move:OXM_OF_UDP_SRC[]->NXM_NX_REG0[0..15],output:sn0pf0vf0";
    ovs.ofctl(&["add-flow", "br0", scanned])?;
    let name = demo.vm1.name().to_owned();
    let opened = thread::spawn(move || netns::enter(&name).and_then(|()| PacketSocket::open_all())).join();
    let socket = opened.map_err(|_| Failure::new("the sender's thread ended"))??;
    let device = demo.vm1.run(&["cat", "/sys/class/net/sn0v1/ifindex"])?.trim().parse()?;
    let traffic = Traffic::start(&demo, FLOWS, 200)?;
    let daemon = Daemon::start(lab, &ovs, &format!("{EAGER}limits.new-flows-max = 100\n"))?;
    let placed = in_hardware(usize::from(FLOWS))?;
    let before = numbers()?;

    let mut from = 0_u16;
    let shed = || -> Outcome<usize> {
        Ok(daemon.flows()?.iter().filter(|flow| flow["reason"] == "too_many_new").count())
    };
    let too_many = wait_for("the port is shed", SETTLES_WITHIN, || {
        for _ in 0..BURST {
            from = from.checked_add(1).unwrap_or(1);
            socket.send_by(device, &datagram(from))?;
        }
        thread::sleep(APART);
        match shed()? {
            0 => Err(Failure::new(format!("nothing of {from} megaflows is too much"))),
            count => Ok(Some(count)),
        }
    })?;
    println!("    {too_many} megaflows are too many");
    let left = in_nic()?;
    ensure!(placed.is_subset(&left), "the flows of the other port did not stay: {placed:?}, {left:?}");
    for (cookie, packets) in &before {
        let now = numbers()?.into_iter().find(|(other, _)| other == cookie);
        ensure!(now.as_ref().is_some_and(|(_, now)| now >= packets), "{cookie} was made anew: {now:?}");
    }
    wait_until("the port is like any other again", SETTLES_WITHIN, || Ok(shed()? == 0))?;
    agree(&ovs, &daemon, SETTLES_WITHIN)?;
    ensure!(daemon.log()?.contains("limits.new-flows-max"), "the log does not say so");
    let sent = traffic.sender.stop()?;
    let received = traffic.receiver.finish()?;
    ensure!(
        received.duplicated == 0 && sent == received.packets,
        "{sent} packets were sent and {received:?}"
    );
    Ok(())
}
