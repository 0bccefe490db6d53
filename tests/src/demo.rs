//! The main job, shown: an elephant goes into the NIC, mice and a flow below the policy's rate stay in software.
//!
//! Everything printed is what `ovs-offloadctl`, `ethtool -S` and the receivers say at that moment.

use std::process::ExitCode;
use std::time::Duration;

use lab_tests::harness::{
    Daemon, Demo, Failure, Lab, Outcome, Ovs, Received, Receiver, Sender, SentByVf, Stream, run, wait_for,
    wait_until,
};
use serde_json::Value;

/// Where the demo's own files are.
const DIR: &str = "/run/demo";
/// What the daemon is told: nothing that a user would have to, except to decide a little faster.
const CONFIG: &str = "mode = \"steer\"\n\n[policy]\nmin-rate = \"2 Mbit/s\"\nmin-age = \"500 ms\"\n";
/// Receivers' ports at the remote host.
const ELEPHANT: u16 = 7001;
const MICE: u16 = 7002;
const SLOW: u16 = 7003;
/// The first mouse's source port, and how many mice there are.
const MOUSE_PORT: u16 = 20_000;
const MICE_COUNT: u32 = 300;

/// Shows it; the exit code says whether everything that is claimed was seen.
pub(crate) fn main() -> ExitCode {
    match show() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("\nThe demo did not show what it is to show: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn show() -> Outcome {
    let lab = Lab::at(DIR.as_ref())?;
    let ovs = Ovs::running("/var/run/openvswitch".as_ref());
    let demo = Demo::running(&ovs);
    say("Open vSwitch, its bridge, and a NIC that is simulated and really forwards");
    print!("{}", first_line(&run("ovs-vswitchd", &["--version"])?));
    println!("kernel {}", run("uname", &["-r"])?.trim());
    print!("{}", run("devlink", &["dev", "eswitch", "show", "simnic/simnic0"])?);
    print!("{}", ovs.vsctl(&["get", "Open_vSwitch", ".", "other_config"])?);
    one_megaflow_per_connection(&ovs)?;

    say("Traffic from vm0 to the remote host: an elephant, 300 mice, and one flow below the policy's rate");
    let traffic = Traffic::start(&demo)?;
    wait_until("Open vSwitch has the elephant's flow in TC", Duration::from_secs(20), || {
        Ok(ovs.flows("tc")?.iter().any(|flow| flow.contains(&format!("dst={ELEPHANT}"))))
    })?;
    wait_until("a thousand packets of the elephant have come", Duration::from_secs(60), || {
        Ok(traffic.elephant.1.so_far().packets > 1000)
    })?;
    let before = SentByVf::read("sn0pf0vf0")?;
    println!("Without ovs-offloadd every packet crosses the representor sn0pf0vf0, which the CPU serves:");
    print_sent(before);

    say("ovs-offloadd starts");
    print!("{CONFIG}");
    let daemon = Daemon::start(&lab, &ovs, CONFIG)?;
    print!("{}", daemon.ctl(&["status"])?);
    let elephant = wait_for("the elephant is in hardware", Duration::from_secs(60), || {
        let flows = flows(&daemon)?;
        Ok(flows.into_iter().find(|flow| is_to(flow, ELEPHANT) && flow["placement"] == "hardware"))
    })?;
    say("The elephant is in hardware");
    println!("{}", daemon.ctl(&["flow", "why", &text(&elephant["ufid"])])?);
    let (settled, at) = (SentByVf::read("sn0pf0vf0")?, traffic.elephant.1.so_far().packets);
    wait_until("three thousand more packets of it have come", Duration::from_secs(60), || {
        Ok(traffic.elephant.1.so_far().packets >= at + 3000)
    })?;
    let (later, arrived) = (SentByVf::read("sn0pf0vf0")?, traffic.elephant.1.so_far().packets - at);
    println!("Since then {arrived} packets of the elephant arrived. At the representor, meanwhile:");
    println!("  in hardware  +{:>8} packets", later.hardware - settled.hardware);
    println!("  slow path    +{:>8} packets (the mice, and the slow flow)", later.slow - settled.slow);
    ensure_more(
        later.hardware - settled.hardware,
        arrived / 2,
        "the elephant's packets went through the hardware",
    )?;
    ensure_more(
        arrived / 2,
        later.slow - settled.slow,
        "the elephant's packets no longer crossed the representor",
    )?;

    say("The flows that stayed in software, and why");
    let all = flows(&daemon)?;
    let mice = all.iter().filter(|flow| is_to(flow, MICE)).collect::<Vec<_>>();
    let promoted = mice.iter().filter(|flow| flow["placement"] == "hardware").count();
    println!("mice: {} flows, {promoted} of them in hardware", mice.len());
    ensure_more(1, promoted as u64, "the mice stayed in software")?;
    let slow = all
        .iter()
        .find(|flow| is_to(flow, SLOW))
        .ok_or_else(|| Failure::new("the slow flow is not listed"))?;
    println!("{}", daemon.ctl(&["flow", "why", &text(&slow["ufid"])])?);
    lab_tests::ensure!(slow["placement"] != "hardware", "the slow flow is in hardware: {slow}");
    print!("{}", daemon.ctl(&["flow", "list", "--sort", "rate", "--limit", "5"])?);

    say("At the end");
    traffic.finish()?;
    print!("{}", daemon.ctl(&["status"])?);
    println!("\nNo packet was lost.");
    Ok(())
}

/// Lets Open vSwitch decide by port, as a firewall or a load balancer makes it: one megaflow for each connection.
fn one_megaflow_per_connection(ovs: &Ovs) -> Outcome {
    let mut rules = String::new();
    for port in [ELEPHANT, SLOW] {
        rules.push_str(&format!("priority=100,udp,tp_dst={port},actions=NORMAL\n"));
    }
    for port in (MOUSE_PORT..).take(MICE_COUNT as usize) {
        rules.push_str(&format!("priority=100,udp,tp_src={port},tp_dst={MICE},actions=NORMAL\n"));
    }
    let file = format!("{DIR}/rules.txt");
    std::fs::write(&file, rules)?;
    ovs.ofctl(&["add-flows", "br0", &file]).map(drop)
}

/// The three kinds of traffic, with their receivers.
struct Traffic {
    elephant: (Sender, Receiver),
    mice: (Sender, Receiver),
    slow: (Sender, Receiver),
}

impl Traffic {
    fn start(demo: &Demo<'_>) -> Outcome<Self> {
        let start = |port: u16, stream: Stream<'_>| -> Outcome<(Sender, Receiver)> {
            let to = format!("{}:{port}", Demo::REMOTE);
            let receiver = Receiver::start(&demo.remote, &to)?;
            Ok((Sender::start(&demo.vm0, Stream { to: &to, ..stream })?, receiver))
        };
        let elephant = Stream {
            from_port: 10_001,
            count: 40_000,
            rate_per_s: 800,
            payload_bytes: 1400,
            ..Stream::default()
        };
        let mice = Stream {
            from_port: MOUSE_PORT,
            flows: MICE_COUNT,
            count: 20,
            rate_per_s: 150,
            ..Stream::default()
        };
        let slow = Stream {
            from_port: 10_003,
            count: 1000,
            rate_per_s: 20,
            payload_bytes: 200,
            ..Stream::default()
        };
        Ok(Self { elephant: start(ELEPHANT, elephant)?, mice: start(MICE, mice)?, slow: start(SLOW, slow)? })
    }

    /// Waits for all that is under way, and fails when a packet did not arrive.
    fn finish(self) -> Outcome {
        println!("{:<10} {:>8} {:>8} {:>6} {:>10}", "traffic", "sent", "arrived", "lost", "duplicated");
        for (name, (sender, receiver)) in
            [("elephant", self.elephant), ("mice", self.mice), ("slow", self.slow)]
        {
            let sent = sender.finish()?;
            let Received { packets, duplicated, .. } = receiver.finish()?;
            println!(
                "{name:<10} {sent:>8} {packets:>8} {:>6} {duplicated:>10}",
                sent.saturating_sub(packets)
            );
            lab_tests::ensure!(sent == packets, "of {sent} packets of the {name} {packets} arrived");
        }
        Ok(())
    }
}

fn print_sent(sent: SentByVf) {
    println!("  vf_tx_hw_packets   {:>8}  (forwarded by the hardware)", sent.hardware);
    println!("  vf_tx_slow_packets {:>8}  (seen by the CPU)", sent.slow);
}

fn flows(daemon: &Daemon) -> Outcome<Vec<Value>> {
    let answer: Value = serde_json::from_str(&daemon.ctl(&["flow", "list", "--output", "json"])?)?;
    let list = answer.as_array().or_else(|| answer["flows"].as_array());
    list.cloned().ok_or_else(|| Failure::new(format!("`flow list` answers {answer}")))
}

fn is_to(flow: &Value, port: u16) -> bool {
    let key = flow["key"].as_str().unwrap_or_default();
    [format!("tp_dst={port}"), format!("dst={port}"), format!("udp.dst == {port}")]
        .iter()
        .any(|text| key.contains(text))
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn ensure_more(more: u64, less: u64, claim: &str) -> Outcome {
    lab_tests::ensure!(more > less, "{claim} is not what was seen ({more} and {less})");
    Ok(())
}

fn first_line(text: &str) -> String {
    text.lines().take(1).map(|line| format!("{line}\n")).collect()
}

fn say(title: &str) {
    println!("\n=== {title} ===\n");
}
