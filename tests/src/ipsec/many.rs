//! A host with thousands of tunnels: charon at the daemon's word, and charon as `ovs-monitor-ipsec` has it, one after the other, with the same
//! peer.
//!
//! How many there are is `LAB_TUNNELS`. The peer is one charon that answers for all addresses, and is started afresh for each side.

use std::collections::BTreeMap;
use std::fs;
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use lab_tests::ensure;
use lab_tests::harness::{
    Charon, Daemon, Failure, Lab, Netns, Outcome, Ovs, OvsDaemon, StarterMonitor, cpu_time, memory_kib,
    output, run, wait_until,
};

use super::soak::number;

const TUNNELS: usize = 200;
const HERE: &str = "10.8.0.1";
const GATEWAY: &str = "10.8.0.2";
/// The peer's addresses: whatever has such an address is at the other end.
const PEERS: &str = "10.9.0.0/16";
const PSK: &str = "swordfish";
/// Both ways of a tunnel have a child, and a child has two.
const SAS_OF_A_TUNNEL: usize = 4;
/// A port of OVSDB's transaction.
const PORTS_AT_ONCE: usize = 500;
/// What every charon here has beyond its defaults: one that answers 2,000 peers at a time takes them for no attack, and finds each by
/// a hash.
const CHARON: &str =
    " dos_protection = no\n init_limit_half_open = 0\n ikesa_table_size = 1024\n ikesa_table_segments = 16\n";
/// Between two looks at how far it is.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The longest for all of them on either side, unless `LAB_TUNNELS_S` says otherwise.
const UP_WITHIN_S: usize = 3_600;
const DONE_WITHIN: Duration = Duration::from_secs(600);
/// Memory of the daemon's for a tunnel, in KiB, is less: its row, connection, two children, four security associations and policies, each of
/// less than 1 KiB, in as many copies as there are threads and tasks that look at them.
const KIB_EACH: f64 = 48.0;
/// The share of a processor that the daemon has while nothing happens is less.
const SHARE: f64 = 0.25;
/// Steady CPU time is that of this long.
const STEADY: Duration = Duration::from_secs(60);

fn address(at: usize) -> String {
    format!("10.9.{}.{}", at / 250, at % 250 + 1)
}

fn name(at: usize) -> String {
    format!("t{at}")
}

/// A host that has the tunnels, and the wire to the other one.
struct Scene {
    charon: Charon,
    ovs: Ovs,
    left: Netns,
    right: Netns,
    tunnels: usize,
    within: Duration,
}

impl Scene {
    fn new(lab: &mut Lab, tunnels: usize) -> Outcome<Self> {
        let (left, right) = (Netns::new(lab, "left")?, Netns::new(lab, "right")?);
        run("ip", &["link", "add", "wire0", "type", "veth", "peer", "name", "wire1"])?;
        left.adopt("wire0", &format!("{HERE}/24"))?;
        right.adopt("wire1", &format!("{GATEWAY}/24"))?;
        left.run(&["ip", "route", "add", PEERS, "via", GATEWAY])?;
        right.run(&["ip", "route", "add", "local", PEERS, "dev", "lo"])?;
        let ovs = Ovs::start_in(lab, &left, &[])?;
        let charon = Charon::start_with(lab, &right, CHARON)?;
        let within = Duration::from_secs(number("LAB_TUNNELS_S", UP_WITHIN_S) as u64);
        let scene = Self { charon, ovs, left, right, tunnels, within };
        scene.has_peer(lab)?;
        Ok(scene)
    }

    /// What the peer answers with.
    fn has_peer(&self, lab: &Lab) -> Outcome {
        let child = |way: &str, local: &str, remote: &str| {
            format!(
                "   {way} {{\n    local_ts = dynamic[{local}]\n    remote_ts = dynamic[{remote}]\n    mode = transport\n    \
                 esp_proposals = aes256gcm16-ecp256-modp2048-esn-noesn, aes256gcm16-esn-noesn\n   }}\n"
            )
        };
        let text = format!(
            "connections {{\n all {{\n  version = 2\n  mobike = no\n  unique = never\n  local_addrs = {PEERS}\n  remote_addrs = {HERE}\n  \
             proposals = aes256gcm16-prfsha256-ecp256-modp2048\n  local {{\n   auth = psk\n  }}\n  remote {{\n   auth = psk\n   \
             id = {HERE}\n  }}\n  children {{\n{}{}  }}\n }}\n}}\nsecrets {{\n ike-all {{\n  secret = {PSK}\n }}\n}}\n",
            child("in", "udp/6081", "udp"),
            child("out", "udp", "udp/6081"),
        );
        let file = lab.dir().join("peer.conf");
        fs::write(&file, text)?;
        let file = file.display().to_string();
        self.charon.swanctl(&["--load-all", "--noprompt", "--file", &file]).map(drop)
    }

    /// `ovs-vsctl` with the words of each tunnel, many in a transaction.
    fn each(&self, first: &[&str], words: impl Fn(usize) -> String) -> Outcome {
        for begin in (0..self.tunnels).step_by(PORTS_AT_ONCE) {
            let mut command = self.ovs.command("ovs-vsctl");
            command.args(["--timeout=600"]).args(first);
            for at in begin..self.tunnels.min(begin + PORTS_AT_ONCE) {
                command.arg("--").args(words(at).split(' '));
            }
            output(&mut command)?;
        }
        Ok(())
    }

    /// Adds the tunnels, which nobody is to protect yet.
    fn add(&self, first: &[&str]) -> Outcome {
        let port = |at: usize| {
            let (name, remote) = (name(at), address(at));
            format!(
                "add-port br0 {name} -- set Interface {name} type=geneve options:remote_ip={remote} options:local_ip={HERE} options:key={at}"
            )
        };
        self.each(first, port)
    }

    /// Has all of them protected from now on.
    fn mark(&self) -> Outcome {
        self.each(&["--no-wait"], |at| format!("set Interface {} options:psk={PSK}", name(at)))
    }

    /// Security associations here, whoever made them and however far they are.
    fn count(&self, netns: &Netns) -> Outcome<usize> {
        let text = netns.run(&["ip", "xfrm", "state", "count"])?;
        let count = text.rsplit(' ').next().and_then(|count| count.trim().parse().ok());
        count.ok_or_else(|| Failure::new(format!("`ip xfrm state count` says {text}")))
    }

    /// Peers of whom the kernel has all security associations.
    fn protected(&self) -> Outcome<usize> {
        let text = self.left.run(&["ip", "xfrm", "state"])?;
        let mut peers: BTreeMap<&str, usize> = BTreeMap::new();
        let mut peer = "";
        for line in text.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            match &words[..] {
                ["src", src, "dst", dst, ..] => peer = if *src == HERE { dst } else { src },
                ["proto", "esp", "spi", spi, ..] if *spi != "0x00000000" => {
                    *peers.entry(peer).or_default() += 1
                }
                _ => {}
            }
        }
        Ok(peers.values().filter(|sas| **sas >= SAS_OF_A_TUNNEL).count())
    }

    /// Waits until the kernel has all security associations of every tunnel, or too long: how long it took for how many.
    fn come_up(&self, side: &str) -> Outcome<Rate> {
        let begin = Instant::now();
        let mut told = 0;
        loop {
            let sas = self.count(&self.left)?;
            let took = begin.elapsed();
            let is_late = took > self.within;
            if is_late || sas >= SAS_OF_A_TUNNEL * self.tunnels {
                let up = self.protected()?;
                if is_late || up == self.tunnels {
                    return Ok(Rate { up, took });
                }
            }
            if took.as_secs() / 30 > told {
                told = took.as_secs() / 30;
                println!("    {side}: {sas} security associations after {} s; {}", took.as_secs(), busy());
            }
            thread::sleep(LOOK_EVERY);
        }
    }
}

/// So many tunnels came up in so long.
#[derive(Debug, Clone, Copy)]
struct Rate {
    up: usize,
    took: Duration,
}

impl Rate {
    fn per_s(self) -> f64 {
        self.up as f64 / self.took.as_secs_f64()
    }

    fn print(self, side: &str, of: usize) {
        let Self { up, took } = self;
        println!("    {side}: {up} of {of} tunnels up in {:.1} s, {:.2}/s", took.as_secs_f64(), self.per_s());
    }
}

/// The whole of it.
pub(super) fn tunnels_come_up_no_slower_than_under_ovs_monitor_ipsec(lab: &mut Lab) -> Outcome {
    if let Some(lacks) = StarterMonitor::lacking() {
        return Err(Failure::new(lacks));
    }
    let tunnels = number("LAB_TUNNELS", TUNNELS);
    let driven = driven(lab, tunnels)?;
    let monitored = monitored(lab, tunnels)?;
    ensure!(
        driven.per_s() >= monitored.per_s(),
        "{:.2} tunnels come up in a second, and {:.2} under ovs-monitor-ipsec",
        driven.per_s(),
        monitored.per_s()
    );
    Ok(())
}

fn kib_each(before: u64, after: u64, tunnels: usize) -> f64 {
    after.saturating_sub(before) as f64 / tunnels as f64
}

/// The share of a processor that whoever drives charon has, and prints charon's, while nothing happens: what is looked at from time to time.
fn steady(driver: &str, cpu: impl Fn() -> Outcome<[Duration; 2]>) -> Outcome<f64> {
    let (begin, before) = (Instant::now(), cpu()?);
    thread::sleep(STEADY);
    let (over, after) = (begin.elapsed(), cpu()?);
    let [shares, charon] = [0, 1].map(|at| (after[at] - before[at]).as_secs_f64() / over.as_secs_f64());
    println!(
        "    of a processor, while nothing happens: {driver} {:.1} %, charon {:.1} %",
        shares * 100.0,
        charon * 100.0
    );
    Ok(shares)
}

const SIDE: &str = "driven by the daemon";

fn driven(lab: &mut Lab, tunnels: usize) -> Outcome<Rate> {
    let scene = Scene::new(lab, tunnels)?;
    scene.ovs.vsctl(&["add-br", "br0"])?;
    scene.add(&[])?;
    let charon = Charon::start_with(lab, &scene.left, CHARON)?;
    let config = format!(
        "mode = \"observe\"\n[ipsec]\ndrive = true\noffload = \"none\"\nvici = \"{}\"\n",
        charon.socket().display()
    );
    let daemon = Daemon::start(lab, &scene.ovs, &config)?;
    let memory = || Ok::<_, Failure>([memory_kib(daemon.pid())?, memory_kib(charon.pid())?]);
    let cpu = || Ok::<_, Failure>([cpu_time(daemon.pid())?, cpu_time(charon.pid())?]);
    let (memory_before, cpu_before) = (memory()?, cpu()?);
    scene.mark()?;
    let begin = Instant::now();
    let mut rate = scene.come_up(SIDE)?;
    let states = || -> Outcome<BTreeMap<String, usize>> {
        let all = daemon.json(&["tunnel", "list"])?;
        let mut states = BTreeMap::new();
        for tunnel in all.as_array().into_iter().flatten() {
            *states.entry(tunnel["state"].as_str().unwrap_or_default().to_owned()).or_default() += 1;
        }
        Ok(states)
    };
    rate.print(SIDE, tunnels);
    ensure!(rate.up == tunnels, "{:?}\n{}", states()?, daemon.log()?);
    wait_until("all tunnels are shown up", DONE_WITHIN, || Ok(states()?.get("up") == Some(&tunnels)))?;
    rate.took = begin.elapsed();
    println!("    {SIDE}: shown up after {:.1} s", rate.took.as_secs_f64());
    let (memory_after, cpu_after) = (memory()?, cpu()?);
    for (of, at) in [("the daemon", 0), ("charon", 1)] {
        println!(
            "    {of}: {} KiB before, {} KiB after, {:.1} KiB each; {:.1} s of CPU time",
            memory_before[at],
            memory_after[at],
            kib_each(memory_before[at], memory_after[at], tunnels),
            (cpu_after[at] - cpu_before[at]).as_secs_f64(),
        );
    }
    let [each, steady] = [kib_each(memory_before[0], memory_after[0], tunnels), steady("the daemon", cpu)?];
    ensure!(each < KIB_EACH, "the daemon has {each:.1} KiB more for each tunnel");
    ensure!(steady < SHARE, "the daemon has {:.1} % of a processor while nothing happens", steady * 100.0);
    let began = Instant::now();
    scene.ovs.vsctl(&["--timeout=600", "del-br", "br0"])?;
    wait_until("nothing is left", DONE_WITHIN, || {
        // What takes longest is asked last.
        if scene.count(&scene.left)? + scene.count(&scene.right)? > 0 || !states()?.is_empty() {
            thread::sleep(LOOK_EVERY);
            return Ok(false);
        }
        let policies = scene.left.run(&["ip", "xfrm", "policy"])?;
        let connections = charon.swanctl(&["--list-conns"])?;
        Ok(!policies.contains(" dport 6081 ") && connections.trim().is_empty())
    })?;
    let left = memory()?;
    println!(
        "    {SIDE}: nothing left {:.1} s after the ports were taken out; the daemon has {} KiB, charon {} KiB",
        began.elapsed().as_secs_f64(),
        left[0],
        left[1],
    );
    let most = memory_after[0] + (KIB_EACH as u64 * tunnels as u64) / 4;
    ensure!(
        left[0] < most,
        "the daemon has {} KiB when all tunnels are gone, {} with them",
        left[0],
        memory_after[0]
    );
    Ok(rate)
}

/// Sends to each peer what the tunnel sends, and what has the tunnel's port at this end, again and again: each has its trap.
struct Packets(Child);

impl Packets {
    const PROGRAM: &str = "
import socket, sys, time
tunnels = int(sys.argv[1])
peers = ['10.9.%d.%d' % (at // 250, at % 250 + 1) for at in range(tunnels)]
there, here = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
here.bind(('10.8.0.1', 6081))
while True:
    for peer in peers:
        for sends, port in (there, 6081), (here, 9):
            try: sends.sendto(b'x', (peer, port))
            except OSError: pass
        time.sleep(0.002)
    time.sleep(5)
";

    fn start(netns: &Netns, tunnels: usize) -> Outcome<Self> {
        let mut command = netns.command("python3");
        command.args(["-c", Self::PROGRAM, &tunnels.to_string()]);
        Ok(Self(command.stdin(Stdio::null()).stdout(Stdio::null()).spawn()?))
    }
}

impl Drop for Packets {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

const OTHER: &str = "ovs-monitor-ipsec";

fn monitored(lab: &mut Lab, tunnels: usize) -> Outcome<Rate> {
    let scene = Scene::new(lab, tunnels)?;
    // The switch would have the port that the packets are to come from. Without it, there is more time for the rest.
    scene.ovs.signal(OvsDaemon::Vswitchd, "TERM")?;
    let no_wait = ["--no-wait"];
    scene.ovs.vsctl(&["--no-wait", "add-br", "br0"])?;
    scene.add(&no_wait)?;
    let monitor = StarterMonitor::start(lab, &scene.left, &scene.ovs, CHARON)?;
    let (before, cpu_before) = (monitor.memory_kib()?, monitor.cpu_time()?);
    scene.mark()?;
    let packets = Packets::start(&scene.left, tunnels)?;
    let rate = scene.come_up(OTHER)?;
    rate.print(OTHER, tunnels);
    let (after, cpu_after) = (monitor.memory_kib()?, monitor.cpu_time()?);
    for (of, at) in [("it and the starter", 0), ("charon", 1)] {
        let each = kib_each(before[at], after[at], rate.up);
        let cpu = (cpu_after[at] - cpu_before[at]).as_secs_f64();
        println!(
            "    {of}: {} KiB before, {} KiB after, {each:.1} KiB each; {cpu:.1} s of CPU time",
            before[at], after[at]
        );
    }
    if rate.up == 0 {
        return Err(Failure::new(format!("none came up: {}", monitor.said())));
    }
    drop(packets);
    steady("it and the starter", || monitor.cpu_time())?;
    Ok(rate)
}

/// Who had how much CPU time in this guest so far.
fn busy() -> String {
    let mut all = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        if let Ok(time) = cpu_time(pid) {
            all.push((time.as_secs(), name.trim().to_owned()));
        }
    }
    all.sort();
    let all = all.into_iter().rev().take(6);
    all.map(|(s, name)| format!("{name} {s} s")).collect::<Vec<_>>().join(", ")
}
