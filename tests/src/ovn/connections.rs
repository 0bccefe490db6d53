//! OVN topologies whose packets pass connection tracking, across two chassis.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use lab_tests::harness::{Failure, Lab, Netns, Outcome, Pings, ensure, wait_until};

use super::DONE_WITHIN;
use super::compared::{Journey, Kind, SHARE_MIN, TCP, UDP};
use super::fabric::{Fabric, Meter, OUTSIDE_V4};
use super::provider::{GATEWAY_V4, add_gateway};
use super::topologies::{plug_into_one_switch, plug_into_two_switches};
use crate::io::netns;
use crate::steer::conntrack::Connection;

/// The pod of the first chassis has this address outside, and that of the second the other.
const FLOATING: [&str; 2] = ["172.30.0.101", "172.30.0.102"];
const PINGS: u64 = 200;
/// Nothing arrives for so long: it is denied.
const SILENCE: Duration = Duration::from_secs(1);
/// Open vSwitch looks through all of its flows every half second, later where that takes longer; OVN's own time and that
/// of an emulated guest are in it too.
const DENIED_WITHIN: Duration = Duration::from_secs(15);

fn print_head() {
    println!(
        "    | topology | traffic | chassis | flows | placed | packets in hardware | lost or sent again | the rest |"
    );
}

/// A stateful ACL on a port group with an address set, and a load balancer before a distributed router.
pub(super) fn connections_across_two_chassis_work_with_their_flows_in_hardware(lab: &mut Lab) -> Outcome {
    let fabric = Fabric::up(lab)?;
    print_head();
    stateful_acl(&fabric)?;
    denied_while_established(&fabric)?;
    refused(&fabric)?;
    fabric.agree()?;
    load_balancer(&fabric)?;
    fabric.agree()
}

/// SNAT, and addresses of their own outside, with a distributed gateway.
pub(super) fn translated_connections_through_a_gateway_work_with_their_flows_in_hardware(
    lab: &mut Lab,
) -> Outcome {
    let fabric = Fabric::with_provider(lab)?;
    print_head();
    plug_into_two_switches(&fabric)?;
    add_gateway(&fabric)?;
    snat(&fabric)?;
    fabric.agree()?;
    floating_addresses(&fabric)?;
    fabric.agree()
}

/// The pods on one logical switch, of which the second may be reached by the first at some ports, and by nobody else.
pub(super) fn allow_by_acl(fabric: &Fabric) -> Outcome {
    plug_into_one_switch(fabric)?;
    let ovn = &fabric.ovn;
    ovn.nb("pg-add pods pod1 pod2")?;
    ovn.nb("create Address_Set name=friends4 addresses=10.1.0.1")?;
    ovn.nb("create Address_Set name=friends6 'addresses=\"fd01::1\"'")?;
    let acl = |priority: u32, what: &str, verdict: &str| {
        let of = format!("outport == @pods && {what}");
        ovn.nb(&format!("--type=port-group acl-add pods to-lport {priority} '{of}' {verdict}")).map(drop)
    };
    acl(1002, "ip4.src == $friends4 && (tcp.dst == 7001 || udp.dst == 7002 || icmp4)", "allow-related")?;
    acl(1002, "ip6.src == $friends6 && (tcp.dst == 7001 || udp.dst == 7002 || icmp6)", "allow-related")?;
    acl(1001, "(tcp.dst == 7009 || udp.dst == 7009)", "reject")?;
    acl(1000, "ip", "drop")?;
    ovn.nb("--wait=hv sync").map(drop)
}

fn stateful_acl(fabric: &Fabric) -> Outcome {
    allow_by_acl(fabric)?;
    for (topology, address) in
        [("stateful ACL of a port group", "10.1.0.2"), ("stateful ACL of a port group, IPv6", "fd01::2")]
    {
        let journey = Journey::between_pods(fabric, topology, address);
        for kind in [Kind::Tcp, Kind::Udp, Kind::Ping, Kind::Fragments] {
            fabric.compare(journey, kind)?;
        }
    }
    Ok(())
}

/// A connection in hardware is denied by an ACL that comes later, by one that goes, and by its address leaving the set that is
/// allowed; allowed again it goes on, in hardware.
fn denied_while_established(fabric: &Fabric) -> Outcome {
    const ALLOWED: &str =
        "'outport == @pods && ip4.src == $friends4 && (tcp.dst == 7001 || udp.dst == 7002 || icmp4)'";
    let acl = |verb: &str, words: &str| format!("--type=port-group {verb} pods to-lport {words}");
    let changes = [
        (
            "an ACL that denies",
            acl("acl-add", "2000 'outport == @pods && tcp' drop"),
            acl("acl-del", "2000 'outport == @pods && tcp'"),
        ),
        (
            "an ACL that allowed and is removed",
            acl("acl-del", &format!("1002 {ALLOWED}")),
            acl("acl-add", &format!("1002 {ALLOWED} allow-related")),
        ),
        (
            "an address that leaves its set",
            "clear Address_Set friends4 addresses".to_owned(),
            "add Address_Set friends4 addresses 10.1.0.1".to_owned(),
        ),
        (
            "a port that leaves its group",
            "pg-set-ports pods pod1".to_owned(),
            "pg-set-ports pods pod1 pod2".to_owned(),
        ),
    ];
    let pods = [&fabric.hosts[0].pod, &fabric.hosts[1].pod];
    for (what, deny, allow) in changes {
        if what == "a port that leaves its group" {
            // Without the group's ACLs all is allowed: let what is not of the group be denied.
            fabric.ovn.nb("acl-add blue to-lport 900 ip drop")?;
        }
        let connection = Connection::between(pods, "10.1.0.2:7001", "10.1.0.2:7001")?;
        fabric.settled(what, &connection)?;
        let begin = Instant::now();
        fabric.ovn.nb(&format!("--wait=hv {deny}"))?;
        let ordered = begin.elapsed();
        let mut last = (connection.received(), Instant::now());
        wait_until(&format!("{what}: nothing arrives any more"), DONE_WITHIN, || {
            let received = connection.received();
            if received != last.0 {
                last = (received, Instant::now());
            }
            Ok(last.1.elapsed() >= SILENCE)
        })?;
        let after = last.1.duration_since(begin).saturating_sub(ordered);
        println!(
            "    {what}: in OVN after {} ms, in force {} ms later",
            ordered.as_millis(),
            after.as_millis()
        );
        ensure!(after <= DENIED_WITHIN, "{what}: bytes passed for {after:?}");
        fabric.agree()?;
        fabric.ovn.nb(&format!("--wait=hv {allow}"))?;
        fabric.settled(&format!("{what}, and is allowed again"), &connection)?;
        connection.close()?;
    }
    Ok(())
}

/// What is rejected is answered: TCP with a reset, UDP with an ICMP error; what is dropped is not.
fn refused(fabric: &Fabric) -> Outcome {
    let pod = &fabric.hosts[0].pod;
    for address in ["10.1.0.2:7009", "[fd01::2]:7009"] {
        let address: SocketAddr = address.parse()?;
        let answer = inside(pod, move || TcpStream::connect_timeout(&address, DONE_WITHIN).map(drop))?;
        let refused = matches!(&answer, Err(error) if error.kind() == ErrorKind::ConnectionRefused);
        ensure!(refused, "a rejected TCP connection to {address} ended with {answer:?}");
        let answer = inside(pod, move || {
            let from = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let socket = UdpSocket::bind(from)?;
            socket.set_read_timeout(Some(DONE_WITHIN))?;
            socket.connect(address)?;
            socket.send(b"rejected")?;
            socket.recv(&mut [0; 16]).map(drop)
        })?;
        let refused = matches!(&answer, Err(error) if error.kind() == ErrorKind::ConnectionRefused);
        ensure!(refused, "a rejected UDP packet to {address} was answered with {answer:?}");
    }
    let address: SocketAddr = "10.1.0.2:7010".parse()?;
    let answer = inside(pod, move || TcpStream::connect_timeout(&address, SILENCE).map(drop))?;
    let dropped = matches!(&answer, Err(error) if error.kind() == ErrorKind::TimedOut);
    ensure!(dropped, "a dropped TCP connection ended with {answer:?}");
    Ok(())
}

/// What `work` gives in the namespace.
fn inside<T: Send + 'static>(
    namespace: &Netns,
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Outcome<std::io::Result<T>> {
    let name = namespace.name().to_owned();
    let thread = thread::spawn(move || netns::enter(&name).map(|()| work()));
    Ok(thread.join().map_err(|_| Failure::new("it panicked"))??)
}

fn load_balancer(fabric: &Fabric) -> Outcome {
    plug_into_two_switches(fabric)?;
    let ovn = &fabric.ovn;
    ovn.nb("lb-add web 30.0.0.1:80 10.2.2.1:7001 tcp")?;
    ovn.nb("lb-add dns 30.0.0.1:53 10.2.2.1:7002 udp")?;
    ovn.nb("lb-add web6 [fd30::1]:80 [fd02:2::1]:7001 tcp")?;
    ovn.nb("ls-lb-add net1 web -- ls-lb-add net1 dns -- ls-lb-add net1 web6")?;
    ovn.nb("--wait=hv sync")?;
    let way = |topology, listens, called| Journey {
        called,
        tcp: (7001, 80),
        udp: (7002, 53),
        ..Journey::between_pods(fabric, topology, listens)
    };
    for kind in [Kind::Tcp, Kind::Udp] {
        fabric.compare(way("load balancer with DNAT", "10.2.2.1", "30.0.0.1"), kind)?;
    }
    fabric.compare(way("load balancer with DNAT, IPv6", "fd02:2::1", "fd30::1"), Kind::Tcp)
}

/// From the second chassis' pod through the tunnel to the first chassis, and out there with the router's address.
fn snat(fabric: &Fabric) -> Outcome {
    fabric.ovn.nb(&format!("--wait=hv lr-nat-add router snat {GATEWAY_V4} 10.2.0.0/16"))?;
    // Nobody outside knows a way to the pods' own addresses.
    fabric.outside()?.run(&["ip", "route", "del", "10.2.0.0/16"])?;
    let outside = fabric.outside()?;
    let journey = Journey {
        topology: "SNAT, distributed gateway",
        from: &fabric.hosts[1].pod,
        to: outside,
        listens: OUTSIDE_V4,
        called: OUTSIDE_V4,
        tcp: TCP,
        udp: UDP,
        meters: &[(0, Meter::Provider), (1, Meter::Pod)],
        tracked: true,
        share_min: SHARE_MIN,
    };
    [Kind::Tcp, Kind::Udp, Kind::Ping].into_iter().try_for_each(|kind| fabric.compare(journey, kind))
}

/// Each pod has an address of its own outside, and its chassis translates it.
fn floating_addresses(fabric: &Fabric) -> Outcome {
    for (number, address) in (1..).zip(FLOATING) {
        fabric.ovn.nb(&format!(
            "lr-nat-add router dnat_and_snat {address} 10.2.{number}.1 pod{number} 0a:00:00:00:0{number}:fd"
        ))?;
    }
    fabric.ovn.nb("--wait=hv sync")?;
    let journey = Journey {
        topology: "DNAT and SNAT, distributed",
        from: fabric.outside()?,
        to: &fabric.hosts[1].pod,
        listens: "10.2.2.1",
        called: FLOATING[1],
        tcp: TCP,
        udp: UDP,
        meters: &[(1, Meter::Provider), (1, Meter::Pod)],
        tracked: true,
        // What comes in passes a zone of its own first, in which it has no connection: it is software's from there on.
        share_min: 25.0,
    };
    [Kind::Tcp, Kind::Udp].into_iter().try_for_each(|kind| fabric.compare(journey, kind))?;
    // The table tells ICMP apart by the connection beside it, which would have to be in hardware for the most part.
    fabric.drain()?;
    pings_are_answered(fabric, FLOATING[1])?;
    fabric.use_again()?;
    let connection = journey.connection()?;
    wait_until("a connection beside them is in hardware", DONE_WITHIN, || {
        Ok(fabric.hosts[1].flows()?.1 >= 2)
    })?;
    pings_are_answered(fabric, FLOATING[1])?;
    connection.close()
}

/// Every echo request from outside is answered.
fn pings_are_answered(fabric: &Fabric, address: &str) -> Outcome {
    let pings = Pings::start(fabric.outside()?, address, 5, 1200)?;
    wait_until(&format!("{address} answers {PINGS} times, and each time"), DONE_WITHIN, || {
        let (answered, missing) = (pings.answers(), pings.missing());
        // What another one has overtaken is missing until it is there.
        ensure!(
            answered >= PINGS && missing == 0,
            "of pings to {address} {answered} were answered, and {missing} of those before were not"
        );
        Ok(true)
    })?;
    pings.stop().map(drop)
}
