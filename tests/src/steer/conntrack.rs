//! Flows through connection tracking: chains of filters that are worth something together only.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use lab_tests::harness::{
    Daemon, Failure, Lab, Need, Netns, Outcome, Ovs, SentByVf, Simnic, TcWatch, ensure, run, wait_for,
    wait_until,
};
use serde_json::Value;
use tc_flower::{Chain, Location};

use super::{PLACED_WITHIN, config};
use crate::io::{netns, tcp_info};

const VM1: &str = "10.9.0.2:7001";
/// An address that is nobody's, and is translated to that.
const SERVICE: &str = "10.9.0.9:7001";
/// Bytes that may have been between NIC and receiver at one moment: what the sender sends in most of a second.
const UNDER_WAY_MAX: u64 = 500_000;
const REP0: &str = "sn0pf0vf0";
const REP1: &str = "sn0pf0vf1";

/// Two VFs of one NIC behind an Open vSwitch whose tables track connections.
struct Scene {
    ovs: Ovs,
    vms: [Netns; 2],
    _nic: Simnic,
}

impl Scene {
    fn up(lab: &mut Lab) -> Outcome<Self> {
        let ovs = Ovs::for_steering(lab)?;
        let nic = Simnic::new(0, 2)?;
        nic.set_mode("switchdev")?;
        ovs.vsctl(&["--may-exist", "add-br", "br0"])?;
        let vms = [Netns::new(lab, "vm0")?, Netns::new(lab, "vm1")?];
        for (vf, vm) in (0_u32..).zip(&vms) {
            vm.adopt(&nic.vf(vf), &format!("10.9.0.{}/24", vf + 1))?;
            run("ip", &["link", "set", &nic.representor(vf), "up"])?;
            ovs.vsctl(&["add-port", "br0", &nic.representor(vf)])?;
        }
        ovs.ofctl(&["del-flows", "br0"])?;
        let scene = Self { ovs, vms, _nic: nic };
        scene.rule("priority=10,arp,actions=normal")?;
        scene.rule("priority=10,tcp,actions=ct(zone=1,table=1)")?;
        for (from, to) in [(REP0, REP1), (REP1, REP0)] {
            scene.rule(&format!(
                "table=1,priority=10,tcp,ct_state=+trk+new,in_port={from},actions=ct(commit,zone=1),output:{to}"
            ))?;
            scene.rule(&format!(
                "table=1,priority=20,tcp,ct_state=+trk+est,in_port={from},actions=output:{to}"
            ))?;
        }
        Ok(scene)
    }

    fn rule(&self, rule: &str) -> Outcome {
        self.ovs.ofctl(&["add-flow", "br0", rule]).map(drop)
    }
}

/// One connection over which bytes go, and are counted, until it is stopped.
pub(crate) struct Connection {
    shared: Arc<Shared>,
    ends: Vec<JoinHandle<Result<(), String>>>,
}

/// What the ends of a connection know of each other.
#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    /// Bytes that arrived.
    received: AtomicU64,
    /// Segments that were sent again.
    retransmits: AtomicU64,
}

impl Connection {
    fn open(scene: &Scene) -> Outcome<Self> {
        Self::between(scene.vms.each_ref(), VM1, VM1)
    }

    /// From the first to the second, which listens at `listens` and is called by `address`.
    pub(crate) fn between(vms: [&Netns; 2], listens: &str, address: &str) -> Outcome<Self> {
        let shared = Arc::<Shared>::default();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let (to, at, end) = (vms[1].name().to_owned(), listens.to_owned(), Arc::clone(&shared));
        let server =
            thread::spawn(move || serve((&to, &at), &ready, &end).map_err(|failure| failure.to_string()));
        let (from, called, end) = (vms[0].name().to_owned(), address.to_owned(), Arc::clone(&shared));
        is_ready.recv().map_err(|_| Failure::new("the server does not listen"))?;
        let client = thread::spawn(move || send(&from, &called, &end).map_err(|failure| failure.to_string()));
        Ok(Self { shared, ends: vec![server, client] })
    }

    pub(crate) fn received(&self) -> u64 {
        self.shared.received.load(Ordering::Relaxed)
    }

    /// Segments that were sent again so far.
    pub(crate) fn retransmits(&self) -> u64 {
        self.shared.retransmits.load(Ordering::Relaxed)
    }

    pub(crate) fn close(self) -> Outcome {
        self.shared.stop.store(true, Ordering::Relaxed);
        for end in self.ends {
            end.join()
                .map_err(|_| Failure::new("an end of the connection panicked"))?
                .map_err(Failure::new)?;
        }
        Ok(())
    }
}

fn serve(
    (namespace, listens): (&str, &str),
    ready: &std::sync::mpsc::Sender<()>,
    shared: &Shared,
) -> Outcome {
    netns::enter(namespace)?;
    let listener = TcpListener::bind(listens)?;
    let _ = ready.send(());
    let (mut stream, _) = listener.accept()?;
    stream.set_read_timeout(Some(Duration::from_millis(100)))?;
    let mut buffer = vec![0; 65_536];
    while !shared.stop.load(Ordering::Relaxed) {
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(bytes) => {
                shared.received.fetch_add(bytes as u64, Ordering::Relaxed);
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn send(namespace: &str, address: &str, shared: &Shared) -> Outcome {
    netns::enter(namespace)?;
    let mut stream = TcpStream::connect_timeout(&address.parse()?, PLACED_WITHIN)?;
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(Duration::from_millis(100)))?;
    let block = [7; 1400];
    while !shared.stop.load(Ordering::Relaxed) {
        shared.retransmits.store(tcp_info::retransmits(&stream)?, Ordering::Relaxed);
        match stream.write(&block) {
            Ok(_) => thread::sleep(Duration::from_millis(2)),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            // The other end is stopped first.
            Err(_) if shared.stop.load(Ordering::Relaxed) => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// The flow that is last for packets of established connections by this port.
fn established(daemon: &Daemon, port: &str) -> Outcome<Option<Value>> {
    let flows = daemon.flows()?;
    let last = |flow: &Value| {
        flow["port"] == port
            && flow["chain"].as_u64().is_some_and(|chain| chain > 0)
            && flow["goes_to"].is_null()
            && flow["key"].as_str().is_some_and(|key| key.contains("+est"))
    };
    Ok(flows.into_iter().find(last))
}

pub(crate) fn in_hardware(daemon: &Daemon, port: &str) -> Outcome<Value> {
    wait_for(&format!("what is established by {port} is in hardware"), PLACED_WITHIN, || {
        Ok(established(daemon, port)?.filter(|flow| flow["placement"] == "hardware"))
    })
}

fn why(daemon: &Daemon, flow: &Value) -> Outcome<Value> {
    daemon.json(&["flow", "why", flow["ufid"].as_str().unwrap_or_default()])
}

pub(super) fn what_recirculation_joins_is_held_back_where_the_kernel_cannot_go_on_and_says_so(
    lab: &mut Lab,
) -> Outcome {
    let scene = Scene::up(lab)?;
    let connection = Connection::open(&scene)?;
    let daemon = Daemon::start(lab, &scene.ovs, &config(&scene.ovs)?)?;
    if Need::Ct.lacking().is_none() {
        wait_until("the kernel is known to go on", PLACED_WITHIN, || {
            Ok(daemon.json(&["status"])?["recirculation"]["kernel"] == "works")
        })?;
        return connection.close();
    }
    let held_back = wait_for("a flow is held back for its recirculation", PLACED_WITHIN, || {
        Ok(daemon.flows()?.into_iter().find(|flow| flow["reason"] == "no_chain_restore"))
    })?;
    let told = why(&daemon, &held_back)?["why"].to_string();
    ensure!(told.contains("CONFIG_NET_TC_SKB_EXT"), "`flow why` says {told}");
    let status = daemon.json(&["status"])?;
    ensure!(status["recirculation"]["kernel"] == "missing", "`status` says {}", status["recirculation"]);
    ensure!(
        status["recirculation"]["held_back"].as_u64() >= Some(1),
        "`status` says {}",
        status["recirculation"]
    );
    let text = daemon.ctl(&["status"])?;
    ensure!(text.contains("kernel without CONFIG_NET_TC_SKB_EXT"), "`status` does not say it:\n{text}");
    let doctor = daemon.ctl(&["doctor"]).unwrap_or_else(|failure| failure.to_string());
    ensure!(doctor.contains("kernel-no-skb-ext"), "`doctor` does not say it:\n{doctor}");
    // Flows there are from the first packet on, which has no bytes for anybody yet.
    wait_until("bytes arrive", PLACED_WITHIN, || Ok(connection.received() > 0))?;
    connection.close()
}

pub(super) fn an_established_connection_moves_into_the_nic_as_a_unit_and_an_acl_is_denied_there(
    lab: &mut Lab,
) -> Outcome {
    let scene = Scene::up(lab)?;
    let watch = TcWatch::start()?;
    let connection = Connection::open(&scene)?;
    let daemon = Daemon::start(lab, &scene.ovs, &config(&scene.ovs)?)?;
    let flow = in_hardware(&daemon, REP0)?;
    let unit = &why(&daemon, &flow)?["unit"];
    let before = unit["before"].as_array().cloned().unwrap_or_default();
    ensure!(
        before.iter().any(|part| part["in_hardware"] == true),
        "nothing before it is in hardware: {unit}"
    );
    most_goes_through_hardware(&connection)?;
    ensure_goto_order(&watch)?;

    // Open vSwitch forgets the connection: it is new once more, and comes back.
    scene.ovs.appctl(&["dpctl/flush-conntrack"])?;
    let arrived = connection.received();
    wait_until("bytes arrive after the flush", PLACED_WITHIN, || {
        Ok(connection.received() > arrived + 100_000)
    })?;
    in_hardware(&daemon, REP0)?;
    most_goes_through_hardware(&connection)?;

    // What an ACL denies, hardware denies.
    let rule = format!("table=1,priority=20,tcp,ct_state=+trk+est,in_port={REP0},actions=drop");
    scene.rule(&rule)?;
    // The first ends the one that may have begun before the change.
    for _ in 0..2 {
        scene.ovs.appctl(&["revalidator/wait"])?;
    }
    let (denied, arrived) = (Instant::now(), connection.received());
    let mut last = (connection.received(), Instant::now());
    wait_until("nothing arrives any more", PLACED_WITHIN, || {
        let now = connection.received();
        if now != last.0 {
            last = (now, Instant::now());
        }
        Ok(last.1.elapsed() > Duration::from_secs(2))
    })?;
    let took = last.1.saturating_duration_since(denied);
    let late = connection.received() - arrived;
    println!("    the last byte came {} ms after the change was in force, {late} in all", took.as_millis());
    // What had passed the NIC by then, and waited for its receiver.
    ensure!(late < UNDER_WAY_MAX, "{late} bytes arrived after the change was in force");
    scene.rule(&rule.replace("actions=drop", &format!("actions=output:{REP1}")))?;
    let arrived = connection.received();
    wait_until("bytes arrive again", PLACED_WITHIN, || Ok(connection.received() > arrived + 100_000))?;
    in_hardware(&daemon, REP0)?;

    let seen = watch.len();
    daemon.ctl(&["drain"])?;
    wait_until("hardware is empty", PLACED_WITHIN, || {
        Ok(daemon.flows()?.iter().all(|flow| flow["placement"] != "hardware"))
    })?;
    ensure_reverse_order(&watch, seen)?;
    connection.close()
}

pub(super) fn a_connection_to_a_translated_address_moves_into_the_nic(lab: &mut Lab) -> Outcome {
    let scene = Scene::up(lab)?;
    scene.rule("priority=20,tcp,actions=ct(zone=1,nat,table=1)")?;
    scene.rule(&format!(
        "table=1,priority=30,tcp,ct_state=+trk+new,in_port={REP0},nw_dst=10.9.0.9,\
         actions=ct(commit,zone=1,nat(dst=10.9.0.2)),output:{REP1}"
    ))?;
    let mac = scene.vms[1].run(&["cat", "/sys/class/net/sn0v1/address"])?;
    let known =
        ["ip", "neigh", "replace", "10.9.0.9", "lladdr", mac.trim(), "dev", "sn0v0", "nud", "permanent"];
    scene.vms[0].run(&known)?;
    let connection = Connection::between(scene.vms.each_ref(), VM1, SERVICE)?;
    let daemon = Daemon::start(lab, &scene.ovs, &config(&scene.ovs)?)?;
    in_hardware(&daemon, REP0)?;
    most_goes_through_hardware(&connection)?;
    connection.close()
}

/// Of the next thousand packets that vm0 sends 95 in 100 are forwarded by the NIC.
pub(crate) fn most_goes_through_hardware(connection: &Connection) -> Outcome {
    // Acknowledgements and all: what the NIC counts.
    let mut best = 0.0_f64;
    wait_until("19 of 20 packets go through hardware", PLACED_WITHIN, || {
        let (from, arrived) = (SentByVf::read(REP0)?, connection.received());
        wait_until("more bytes arrive", PLACED_WITHIN, || Ok(connection.received() > arrived + 1_000_000))?;
        let sent = SentByVf::read(REP0)?.since(from);
        let share = sent.hardware as f64 / (sent.hardware + sent.slow).max(1) as f64;
        best = best.max(share);
        Ok(share >= 0.95)
    })?;
    println!("    {:.1}% of vm0's packets went through hardware", best * 100.0);
    Ok(())
}

fn chain_of(location: &Location) -> String {
    format!("{location:?}")
}

/// In each port's filters, the first of a chain that is not the first went into hardware after one of the first chain.
fn ensure_goto_order(watch: &TcWatch) -> Outcome {
    let promoted = watch.changes(|seen| seen.in_hw && !seen.was_in_hw)?;
    let later = promoted.iter().filter(|seen| seen.address.chain != Chain(0)).collect::<Vec<_>>();
    ensure!(!later.is_empty(), "nothing of a later chain was promoted: {promoted:?}");
    for seen in later {
        let first = promoted
            .iter()
            .find(|other| other.address.location == seen.address.location && other.address.chain == Chain(0));
        ensure!(
            first.is_some_and(|first| first.at <= seen.at),
            "{} of {} was promoted before what leads there",
            seen.ufid,
            chain_of(&seen.address.location)
        );
    }
    Ok(())
}

/// After the first `seen` changes, each port's filters of later chains left hardware before those of the first.
fn ensure_reverse_order(watch: &TcWatch, seen: usize) -> Outcome {
    let all = watch.changes(|_| true)?;
    let demoted: Vec<_> =
        all.iter().skip(seen).filter(|seen| seen.was_in_hw && seen.skip_hw && !seen.in_hw).collect();
    ensure!(
        demoted.iter().any(|seen| seen.address.chain != Chain(0)),
        "nothing of a later chain: {demoted:?}"
    );
    for (at, first) in demoted.iter().enumerate().filter(|(_, seen)| seen.address.chain == Chain(0)) {
        let late = demoted
            .iter()
            .skip(at)
            .find(|seen| seen.address.location == first.address.location && seen.address.chain != Chain(0));
        ensure!(late.is_none(), "{late:?} was demoted after {first:?}");
    }
    Ok(())
}
