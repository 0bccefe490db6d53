//! What happens to conntrack and to OVN under a TCP connection that passes an ACL, in hardware at both ends.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use lab_tests::harness::{Failure, Lab, Outcome, ensure, wait_until};

use super::super::DONE_WITHIN;
use super::super::fabric::{Chassis, Fabric};
use super::super::topologies::plug_into_one_switch;
use crate::io::{conntrack, netns};
use crate::steer::conntrack::Connection;

const SERVER: &str = "10.1.0.2:7001";
/// Bytes that are to come while the connection is in hardware, and packets of it that a CPU may see meanwhile: of more than
/// 700 with data, and their acknowledgements, 5 %.
const WATCHED_BYTES: u64 = 1_000_000;
const SLOW_MAX: u64 = 35;
/// How long nothing may arrive with the daemon, beyond twice as long as without it: the shortest time after which TCP sends
/// again what was lost, and twice as long for the second time.
const STALL_BESIDE: Duration = Duration::from_millis(600);
const LOOKS_EVERY: Duration = Duration::from_millis(5);
/// Times that everything happens with the daemon, and as often without it, where they are compared.
const ROUNDS: u32 = 3;

struct Event {
    name: &'static str,
    happens: fn(&Fabric) -> Outcome,
}

const EVENTS: [Event; 4] = [
    Event { name: "conntrack flushed by Open vSwitch", happens: flushed_by_open_vswitch },
    Event { name: "conntrack flushed zone by zone", happens: flushed_by_zone },
    Event { name: "conntrack flushed in the kernel", happens: flushed_in_the_kernel },
    Event { name: "ovn-controller and ovn-northd restarted", happens: restarted },
];

fn flushed_by_open_vswitch(fabric: &Fabric) -> Outcome {
    fabric.hosts.iter().try_for_each(|host| host.ovs().appctl(&["dpctl/flush-conntrack"]).map(drop))
}

fn flushed_by_zone(fabric: &Fabric) -> Outcome {
    for host in &fabric.hosts {
        let zones = host.nic().shown("zones")?;
        let zones: BTreeSet<&str> = zones.lines().filter_map(|line| line.split_whitespace().nth(1)).collect();
        ensure!(!zones.is_empty(), "the NIC has no zone");
        for zone in zones {
            host.ovs().appctl(&["dpctl/flush-conntrack", &format!("zone={zone}")])?;
        }
    }
    Ok(())
}

/// As `conntrack -F` does it, in each host's namespace.
fn flushed_in_the_kernel(fabric: &Fabric) -> Outcome {
    for host in &fabric.hosts {
        let netns = host.netns_name().map(str::to_owned);
        let flush =
            move || netns.map_or(Ok(()), |name| netns::enter(&name)).and_then(|()| conntrack::flush());
        thread::spawn(flush).join().map_err(|_| Failure::new("the flush panicked"))??;
    }
    Ok(())
}

fn restarted(fabric: &Fabric) -> Outcome {
    let wait = "external_ids:ovn-ofctrl-wait-before-clear=8000";
    fabric.hosts[0].ovs().vsctl(&["set", "Open_vSwitch", ".", wait])?;
    fabric.ovn.kill_controller("hv1")?;
    fabric.ovn.restart_northd()?;
    fabric.ovn.start_controller(fabric.hosts[0].ovs(), "hv1")?;
    fabric.ovn.nbctl(&["--wait=hv", "sync"]).map(drop)
}

fn tracked_fabric(lab: &mut Lab) -> Outcome<Fabric> {
    let fabric = Fabric::up(lab)?;
    plug_into_one_switch(&fabric)?;
    let ovn = &fabric.ovn;
    ovn.nbctl(&["acl-add", "blue", "to-lport", "1002", "tcp.dst == 7001", "allow-related"])?;
    ovn.nbctl(&["--wait=hv", "acl-add", "blue", "to-lport", "1000", "outport == \"pod2\" && ip", "drop"])?;
    Ok(fabric)
}

fn open(fabric: &Fabric) -> Outcome<Connection> {
    let [one, two] = &fabric.hosts;
    Connection::between([&one.pod, &two.pod], SERVER, SERVER)
}

/// Waits until no CPU sees more than one in twenty packets of the connection, acknowledgements included.
fn in_hardware(fabric: &Fabric, connection: &Connection, what: &str) -> Outcome {
    let counts = || Ok::<_, Failure>((connection.received(), fabric.slow()?));
    let mut window = counts()?;
    wait_until(&format!("{what}: the connection is in hardware at both ends"), DONE_WITHIN, || {
        let now = counts()?;
        if now.0 < window.0 + WATCHED_BYTES {
            return Ok(false);
        }
        let slow = now.1 - window.1;
        window = now;
        ensure!(slow <= SLOW_MAX, "a CPU saw {slow} packets of {WATCHED_BYTES} bytes\n{}", tell(fabric)?);
        Ok(true)
    })
}

fn tell(fabric: &Fabric) -> Outcome<String> {
    let rules = fabric.hosts.iter().map(Chassis::rules).collect::<Outcome<Vec<_>>>()?;
    Ok(rules.join("\n"))
}

/// The longest time for which nothing arrived while the event happened, and until all was in hardware again.
fn longest_stall(fabric: &Fabric, connection: &Connection, event: &Event) -> Outcome<Duration> {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let (mut last, mut longest) = ((connection.received(), Instant::now()), Duration::ZERO);
            while !over.load(Ordering::Relaxed) {
                thread::sleep(LOOKS_EVERY);
                let received = connection.received();
                if received != last.0 {
                    longest = longest.max(last.1.elapsed());
                    last = (received, Instant::now());
                }
            }
            longest.max(last.1.elapsed())
        });
        let done = (event.happens)(fabric).and_then(|()| in_hardware(fabric, connection, event.name));
        over.store(true, Ordering::Relaxed);
        let longest = watch.join().map_err(|_| Failure::new("the watch panicked"))?;
        done.map(|()| longest)
    })
}

/// Every connection in the NIC is one that conntrack has.
fn no_connection_is_stale(host: &Chassis) -> Outcome {
    wait_until("the NIC has no connection that conntrack has not", DONE_WITHIN, || {
        let in_nic = in_nic(&host.nic().shown("connections")?);
        let known = known(&host.ovs().appctl(&["dpctl/dump-conntrack"])?);
        let stale: Vec<_> = in_nic.difference(&known).collect();
        ensure!(stale.is_empty(), "the NIC has {stale:?}, conntrack {known:?}");
        Ok(true)
    })
}

/// Zone and tuple of each line of simnic's table: `zone 3 tcp 10.1.0.1:4711->10.1.0.2:7001 …`.
fn in_nic(connections: &str) -> BTreeSet<String> {
    let line = |line: &str| {
        let mut words = line.split_whitespace();
        Some(format!("{} {}", words.nth(1)?, words.nth(1)?))
    };
    connections.lines().filter_map(line).collect()
}

/// The same of both directions of each line of `dpctl/dump-conntrack`:
/// `tcp,orig=(src=10.1.0.1,dst=10.1.0.2,sport=4711,dport=7001),reply=(…),zone=3,…`.
fn known(dump: &str) -> BTreeSet<String> {
    let line = |line: &str| {
        let after = |key: &str| line.split_once(key).map(|(_, rest)| rest);
        let zone = after("zone=").and_then(|rest| rest.split(',').next()).unwrap_or("0").to_owned();
        ["orig=(", "reply=("].map(|way| {
            let text = after(way).and_then(|rest| rest.split(')').next()).unwrap_or_default();
            let of = |key: &str| {
                text.split(',').find_map(|pair| pair.strip_prefix(key)?.strip_prefix('=')).unwrap_or_default()
            };
            format!("{zone} {}:{}->{}:{}", of("src"), of("sport"), of("dst"), of("dport"))
        })
    };
    dump.lines().flat_map(line).collect()
}

/// The connection goes on and is in hardware again after each; rules, and connections in the NIC, are what Open vSwitch and
/// conntrack have.
pub(in super::super) fn a_connection_in_hardware_outlives_flushes_of_conntrack_and_restarts_of_ovn(
    lab: &mut Lab,
) -> Outcome {
    let fabric = tracked_fabric(lab)?;
    let connection = open(&fabric)?;
    in_hardware(&fabric, &connection, "at first")?;
    for host in &fabric.hosts {
        ensure!(!in_nic(&host.nic().shown("connections")?).is_empty(), "the NIC has no connection");
    }
    for event in &EVENTS {
        let stall = longest_stall(&fabric, &connection, event)?;
        println!("    {}: nothing arrived for {} ms", event.name, stall.as_millis());
        fabric.agree()?;
        fabric.hosts.iter().try_for_each(no_connection_is_stale)?;
    }
    connection.close()
}

/// The same events on the same two chassis, with the daemon and without it: the connection does not stand still for longer.
pub(in super::super) fn a_connection_stands_still_no_longer_than_without_the_daemon(
    lab: &mut Lab,
) -> Outcome {
    let mut fabric = tracked_fabric(lab)?;
    let with = stalls(&fabric)?;
    for host in &mut fabric.hosts {
        host.offload_alone()?;
    }
    let without = stalls(&fabric)?;
    println!("    | event | longest stall with ovs-offloadd, ms | without |");
    let shown = |stalls: &[Duration]| {
        stalls.iter().map(|stall| stall.as_millis().to_string()).collect::<Vec<_>>().join(", ")
    };
    for ((event, with), without) in EVENTS.iter().zip(&with).zip(&without) {
        println!("    | {} | {} | {} |", event.name, shown(with), shown(without));
    }
    for ((event, with), without) in EVENTS.iter().zip(&with).zip(&without) {
        let longest = |stalls: &[Duration]| stalls.iter().max().copied().unwrap_or_default();
        let (with, without) = (longest(with), longest(without));
        ensure!(with <= 2 * without + STALL_BESIDE, "{}: {with:?}, and without {without:?}", event.name);
    }
    Ok(())
}

/// The longest stall by each event, of [`ROUNDS`].
fn stalls(fabric: &Fabric) -> Outcome<Vec<Vec<Duration>>> {
    let connection = open(fabric)?;
    in_hardware(fabric, &connection, "at first")?;
    let of =
        |event| (0..ROUNDS).map(|_| longest_stall(fabric, &connection, event)).collect::<Outcome<Vec<_>>>();
    let stalls = EVENTS.iter().map(of).collect::<Outcome<Vec<_>>>()?;
    connection.close()?;
    Ok(stalls)
}
