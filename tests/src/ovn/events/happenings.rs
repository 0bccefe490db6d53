//! The events, each under a stream of its own.

use std::time::{Duration, Instant};

use lab_tests::harness::{Lab, Netns, Outcome, Receiver, ensure, run, wait_until};

use super::super::DONE_WITHIN;
use super::super::fabric::{Carried, Fabric};

/// Packets per second of a stream.
const RATE_PER_S: u64 = 600;
/// The pod of the second chassis.
pub(super) const ADDRESS: &str = "10.1.0.2";
const HV1: usize = 0;
const HV2: usize = 1;

/// Something that happens.
pub(super) struct Event {
    pub(super) name: &'static str,
    /// Whether packets are lost by it as such.
    pub(super) loses: bool,
    /// Does it; gives how long the test itself had something away, from when that was done until it was to come back.
    happens: fn(&Scene, &Stream) -> Outcome<Duration>,
}

pub(super) const EVENTS: [Event; 6] = [
    Event { name: "ovn-controller and ovn-northd restarted", loses: false, happens: restarts },
    Event { name: "the same without `ovn-ofctrl-wait-before-clear`", loses: true, happens: hasty_restart },
    Event { name: "chassis left and came back", loses: true, happens: chassis_gone },
    Event { name: "port deleted and added again", loses: true, happens: port_gone },
    Event { name: "workload moved to the other chassis and back", loses: true, happens: workload_moves },
    Event { name: "tunnel endpoint moved to another address and back", loses: true, happens: endpoint_moves },
];

/// The two chassis, and the place that the second one's workload may move to: a VF of the first one.
pub(super) struct Scene<'a> {
    pub(super) fabric: &'a mut Fabric,
    place: Netns,
    with_daemons: bool,
    /// UDP port of the next stream.
    port: std::cell::Cell<u16>,
}

/// A stream to the workload, wherever it is.
struct Stream {
    carried: Carried,
    at_place: Receiver,
}

impl<'a> Scene<'a> {
    pub(super) fn new(lab: &mut Lab, fabric: &'a mut Fabric) -> Outcome<Self> {
        let place = Netns::new(lab, "place")?;
        let (device, representor) = (fabric.hosts[HV1].nic().vf(1), fabric.hosts[HV1].nic().representor(1));
        let mac = fabric.hosts[HV2].mac()?;
        run("ip", &["link", "set", &device, "address", &mac])?;
        run("ip", &["link", "set", &device, "mtu", "1400"])?;
        place.adopt(&device, &format!("{ADDRESS}/24"))?;
        run("ip", &["link", "set", &representor, "up"])?;
        Ok(Self { fabric, place, with_daemons: true, port: 7201.into() })
    }

    /// From now on Open vSwitch alone offloads all it can, as it does by default, and there is no daemon.
    pub(super) fn without_daemons(&mut self) -> Outcome {
        self.with_daemons = false;
        for host in &mut self.fabric.hosts {
            host.offload_alone()?;
        }
        let pod = &self.fabric.hosts[HV1].pod;
        wait_until("the pods reach each other", DONE_WITHIN, || Ok(pod.pings(ADDRESS)))
    }

    /// Packets of a stream that are lost by the event, without those of the time for which the test had something away.
    pub(super) fn lost_by(&self, event: &Event) -> Outcome<u64> {
        let port = self.port.replace(self.port.get() + 1);
        let at_place = Receiver::start(&self.place, &format!("{ADDRESS}:{port}"))?;
        let stream = Stream { carried: self.fabric.send(event.name, ADDRESS, port)?, at_place };
        self.fabric.in_hardware(event.name, &stream.carried)?;
        let away = (event.happens)(self, &stream)?;
        self.fabric.in_hardware(event.name, &stream.carried)?;
        self.agree()?;
        let (sent, received) = stream.carried.stop()?;
        let moved = stream.at_place.finish()?;
        ensure!(received.duplicated == 0, "{}: packets came twice: {received:?}", event.name);
        let lost = sent.saturating_sub(received.packets + moved.packets);
        let away = RATE_PER_S * away.as_millis() as u64 / 1000;
        println!("    {}: of {sent} packets {lost} lost, {away} of them while it was away", event.name);
        Ok(lost.saturating_sub(away))
    }

    /// NIC, Open vSwitch and daemon agree, where there is one.
    fn agree(&self) -> Outcome {
        if self.with_daemons { self.fabric.agree() } else { Ok(()) }
    }

    fn synced(&self) -> Outcome {
        self.fabric.ovn.nbctl(&["--wait=hv", "sync"]).map(drop)
    }

    fn vsctl(&self, host: usize, words: &[&str]) -> Outcome {
        self.fabric.hosts[host].ovs().vsctl(words).map(drop)
    }

    /// Waits until no rule of the host's NIC has these words.
    fn gone(&self, host: usize, words: &str) -> Outcome {
        wait_until(&format!("no rule of hv{} has {words}", host + 1), DONE_WITHIN, || {
            Ok(!self.fabric.hosts[host].rules()?.contains(words))
        })
    }
}

fn restarts(scene: &Scene, stream: &Stream) -> Outcome<Duration> {
    // By itself a new ovn-controller takes all OpenFlow flows away and makes them anew. It has to know the new ones by then.
    let wait = ["set", "Open_vSwitch", ".", "external_ids:ovn-ofctrl-wait-before-clear=20000"];
    scene.vsctl(HV1, &wait)?;
    let fabric = &*scene.fabric;
    fabric.ovn.kill_controller("hv1")?;
    fabric.ovn.restart_northd()?;
    fabric.in_hardware("OVN's daemons are gone", &stream.carried)?;
    fabric.ovn.start_controller(fabric.hosts[HV1].ovs(), "hv1")?;
    scene.synced()?;
    scene.vsctl(HV1, &["remove", "Open_vSwitch", ".", "external_ids", "ovn-ofctrl-wait-before-clear"])?;
    Ok(Duration::ZERO)
}

fn hasty_restart(scene: &Scene, _: &Stream) -> Outcome<Duration> {
    scene.fabric.ovn.kill_controller("hv1")?;
    scene.fabric.ovn.start_controller(scene.fabric.hosts[HV1].ovs(), "hv1")?;
    scene.synced()?;
    Ok(Duration::ZERO)
}

fn chassis_gone(scene: &Scene, _: &Stream) -> Outcome<Duration> {
    scene.fabric.ovn.leave("hv2")?;
    let begin = Instant::now();
    scene.gone(HV1, "/tunnel")?;
    scene.agree()?;
    let away = begin.elapsed();
    scene.fabric.ovn.start_controller(scene.fabric.hosts[HV2].ovs(), "hv2")?;
    scene.synced()?;
    Ok(away)
}

/// The receiving pod's port is taken off the bridge, and put there again.
fn port_gone(scene: &Scene, _: &Stream) -> Outcome<Duration> {
    let representor = scene.fabric.hosts[HV2].representor();
    scene.vsctl(HV2, &["del-port", "br-int", &representor])?;
    let begin = Instant::now();
    scene.gone(HV2, "pf0vf0")?;
    scene.agree()?;
    let away = begin.elapsed();
    scene.fabric.plug()?;
    Ok(away)
}

/// The workload's port is claimed by the first chassis, where the sender is, and then by its own again.
fn workload_moves(scene: &Scene, stream: &Stream) -> Outcome<Duration> {
    let fabric = &*scene.fabric;
    let representor = fabric.hosts[HV1].nic().representor(1);
    let claims = ["--", "set", "Interface", &representor, "external_ids:iface-id=pod2"];
    scene.vsctl(HV1, &[&["add-port", "br-int", &representor][..], &claims].concat())?;
    let request = |chassis: &str| {
        let option = format!("requested-chassis={chassis}");
        fabric.ovn.nbctl(&["--wait=hv", "lsp-set-options", "pod2", &option]).map(drop)
    };
    request("hv1")?;
    arrives("at the new place", || stream.at_place.so_far().packets)?;
    scene.gone(HV1, "/tunnel")?;
    scene.agree()?;
    in_hardware_at_place(scene, stream)?;

    request("hv2")?;
    scene.vsctl(HV1, &["del-port", "br-int", &representor])?;
    arrives("at the old place", || stream.carried.received())?;
    scene.gone(HV1, "pf0vf1")?;
    scene.fabric.ovn.nbctl(&["clear", "Logical_Switch_Port", "pod2", "options"])?;
    Ok(Duration::ZERO)
}

fn arrives(what: &str, received: impl Fn() -> u64) -> Outcome {
    let before = received();
    wait_until(&format!("the stream arrives {what}"), DONE_WITHIN, || Ok(received() > before))
}

/// Of packets between two VFs of the first chassis no CPU sees more than one in twenty.
fn in_hardware_at_place(scene: &Scene, stream: &Stream) -> Outcome {
    let counts =
        || Ok::<_, lab_tests::harness::Failure>((stream.at_place.so_far().packets, scene.fabric.slow()?));
    let mut window = counts()?;
    wait_until("the stream to the new place is in hardware", DONE_WITHIN, || {
        let now = counts()?;
        if now.0 < window.0 + 600 {
            return Ok(false);
        }
        let slow = now.1 - window.1;
        window = now;
        Ok(slow <= 30)
    })
}

/// The second chassis gets another address, and its first one back.
fn endpoint_moves(scene: &Scene, _: &Stream) -> Outcome<Duration> {
    let host = &scene.fabric.hosts[HV2];
    let uplink = host.nic().uplink();
    host.run(&["sysctl", "-qw", &format!("net.ipv4.conf.{uplink}.promote_secondaries=1")])?;
    for (from, to) in [("172.31.0.2", "172.31.0.12"), ("172.31.0.12", "172.31.0.2")] {
        host.run(&["ip", "address", "add", &format!("{to}/24"), "dev", &uplink])?;
        scene.vsctl(HV2, &["set", "Open_vSwitch", ".", &format!("external_ids:ovn-encap-ip={to}")])?;
        host.run(&["ip", "address", "del", &format!("{from}/24"), "dev", &uplink])?;
        scene.synced()?;
        let old = format!("dst={from},");
        wait_until("no flow leads to the old address", DONE_WITHIN, || {
            let flows = scene.fabric.hosts[HV1].ovs().appctl(&["dpctl/dump-flows", "-m"])?;
            Ok(!flows.contains(&old))
        })?;
        scene.agree()?;
    }
    Ok(Duration::ZERO)
}
