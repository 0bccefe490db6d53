//! Replay against the real loop: one and the same traffic, with the same table, budget and epoch.

mod drawn;

use std::fs;
use std::path::Path;
use std::time::Duration;

use lab_tests::harness::{
    Daemon, Demo, Failure, Lab, Need, Outcome, Ovs, Played, Receiver, SentByVf, Test, ensure,
    ethtool_counters, fact, wait_for,
};
use serde_json::Value;

use crate::faults::scene::{FIRST, Flows, NIC, PORT};

pub(crate) const TESTS: &[Test] = &[fact!(the_share_in_hardware_is_what_replay_predicts_of_the_same_traffic)
    .needs(&[Need::Simnic, Need::Daemon])
    .long()];

/// What the traffic is drawn with.
const SEED: u64 = 104_729;
/// Entries of simnic's table, and of the replay's.
const ENTRIES: u64 = 16;
/// Installs per second.
const INSTALLS_PER_S: u64 = 100;
/// How often filters are read and a plan is made.
const EPOCH_MS: u64 = 500;
/// By how much the share of bytes in hardware may differ from what replay predicts. docs/planner.md has the runs that it
/// comes from.
const MARGIN: f64 = 0.04;
/// Beginnings of epochs against the traffic's, of which nobody knows the real one: the prediction is their mean.
const PHASES: u64 = 3;
/// How late a packet may be sent. Replay is given the times at which packets were sent, so it need not be little; but with
/// a machine that stops for longer it is not the daemon that is measured.
const LATE_MAX: Duration = Duration::from_secs(2);
/// What the NIC forwards between the last reading of a rule and its end is in no counter of TC: at most one packet of so
/// many.
const UNCOUNTED_SHARE: u64 = 200;
/// Packets that vm0 may have to say beside.
const OTHERS_MAX: u64 = 20;
/// The longest until the last packets are in the daemon's tables.
const COUNTED_WITHIN: Duration = Duration::from_secs(20);

/// The daemon's configuration, and the replay's policy: a NIC that tells its counters at once, as replay takes it to.
fn config() -> String {
    let burst = INSTALLS_PER_S * EPOCH_MS / 1_000;
    format!(
        "mode = \"steer\"\nsteer.counters = \"fast\"\nmetrics.listen = \"off\"\npolicy.epoch = \"{EPOCH_MS} ms\"\n\
         nic.capacity = {ENTRIES}\nnic.counter-delay = \"0 s\"\nnic.installs-per-s = {INSTALLS_PER_S}\n\
         nic.install-burst = {burst}\n"
    )
}

fn the_share_in_hardware_is_what_replay_predicts_of_the_same_traffic(lab: &mut Lab) -> Outcome {
    let ovs = Ovs::for_steering(lab)?;
    let demo = Demo::up(&ovs)?;
    demo.hush_vm0()?;
    NIC.set("table_size", &ENTRIES.to_string())?;
    NIC.set("counter_delay_ms", "0")?;
    Flows::new(drawn::FLOWS).one_megaflow_each(lab, &ovs, "output:sn0p0")?;
    let to = format!("{}:{PORT}", Demo::REMOTE);
    let receiver = Receiver::start(&demo.remote, &to)?;
    let daemon = Daemon::start(lab, &ovs, &config())?;
    let (trace, sent) = (lab.dir().join("trace.csv"), lab.dir().join("sent.csv"));
    fs::write(&trace, drawn::csv(SEED))?;

    let (nic, ours) = (SentByVf::read("sn0pf0vf0")?, Counted::read(&daemon)?);
    let (installs, refusals) = (counter("hw_installs")?, counter("hw_refusals")?);
    let played = Played::from_trace(&demo.vm0, &to, FIRST, &trace, &sent)?;
    ensure!(played.late <= LATE_MAX, "the sender fell {:?} behind: this machine is too busy", played.late);
    let nic = SentByVf::read("sn0pf0vf0")?.since(nic);
    let (installs, refusals) = (counter("hw_installs")? - installs, counter("hw_refusals")? - refusals);
    let received = receiver.finish()?;
    println!("    {played:?}, {received:?}; {nic:?}; {installs} installs, {refusals} refusals");
    let others = (nic.hardware + nic.slow).checked_sub(played.packets);
    ensure!(
        others.is_some_and(|others| others <= OTHERS_MAX),
        "{} packets were sent; the NIC saw {nic:?}",
        played.packets
    );

    let ours = wait_for("our tables have what the NIC forwarded", COUNTED_WITHIN, || {
        let counted = Counted::read(&daemon)?.since(ours);
        let uncounted = nic.hardware.checked_sub(counted.hardware_packets);
        if uncounted.is_some_and(|uncounted| uncounted <= nic.hardware / UNCOUNTED_SHARE) {
            return Ok(Some(counted));
        }
        Err(Failure::new(format!("{counted:?}, and the NIC has {nic:?}")))
    })?;
    let measured = nic.hardware_bytes as f64 / (nic.hardware_bytes + nic.slow_bytes) as f64;
    let predicted = predict(lab.dir(), &daemon, &sent)?;
    println!("    measured {measured:.4}, our tables {:.4}", ours.share());
    println!("    {predicted}");
    let off = measured - predicted.share;
    ensure!(
        off.abs() <= MARGIN,
        "{measured:.4} of the bytes were in hardware, and replay predicts {:.4}: {off:+.4} off, and {MARGIN} is allowed",
        predicted.share
    );
    // A prediction that any policy would meet says nothing.
    let rival = predicted.best_rival;
    ensure!(measured > rival + MARGIN, "{measured:.4} is no more than a rival would get, {rival:.4}");
    Ok(())
}

fn counter(name: &str) -> Outcome<u64> {
    let counters = ethtool_counters("sn0p0")?;
    counters.get(name).copied().ok_or_else(|| Failure::new(format!("ethtool -S shows no {name}")))
}

/// What our tables say came in from vm0.
#[derive(Debug, Clone, Copy)]
struct Counted {
    hardware_packets: u64,
    hardware_bytes: u64,
    software_bytes: u64,
}

impl Counted {
    fn read(daemon: &Daemon) -> Outcome<Self> {
        let ports = daemon.json(&["port", "list"])?;
        let port = ports.as_array().and_then(|ports| ports.iter().find(|port| port["name"] == "sn0pf0vf0"));
        let value = |part: &str, unit: &str| {
            let value = port.and_then(|port| port["traffic"][part][unit].as_u64());
            value.ok_or_else(|| {
                Failure::new(format!("`port list` shows no {part} {unit} of sn0pf0vf0: {ports}"))
            })
        };
        Ok(Self {
            hardware_packets: value("hardware", "packets")?,
            hardware_bytes: value("hardware", "bytes")?,
            software_bytes: value("software", "bytes")?,
        })
    }

    fn since(self, earlier: Self) -> Self {
        Self {
            hardware_packets: self.hardware_packets - earlier.hardware_packets,
            hardware_bytes: self.hardware_bytes - earlier.hardware_bytes,
            software_bytes: self.software_bytes - earlier.software_bytes,
        }
    }

    fn share(self) -> f64 {
        self.hardware_bytes as f64 / (self.hardware_bytes + self.software_bytes) as f64
    }
}

/// What replay says of some traffic, with the beginnings of epochs at different times.
#[derive(Debug)]
struct Prediction {
    /// The planner's share of the bytes: mean, least and most.
    share: f64,
    least: f64,
    most: f64,
    /// Its installs, on average.
    installs: f64,
    /// The best share of those that do not know the future.
    best_rival: f64,
}

impl std::fmt::Display for Prediction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { share, least, most, installs, best_rival } = self;
        write!(
            f,
            "{share:.4} predicted ({least:.4} to {most:.4}), {installs:.0} installs; best rival {best_rival:.4}"
        )
    }
}

fn predict(directory: &Path, daemon: &Daemon, trace: &Path) -> Outcome<Prediction> {
    let text = fs::read_to_string(trace)?;
    let shifted = directory.join("shifted.csv");
    let policy = directory.join("offloadd.toml");
    let (mut shares, mut installs, mut best_rival) = (Vec::new(), 0.0, 0.0_f64);
    for phase in 0..PHASES {
        fs::write(&shifted, shift(&text, (phase * EPOCH_MS / PHASES) as f64 / 1_000.0)?)?;
        let (entries, per_s) = (ENTRIES.to_string(), INSTALLS_PER_S.to_string());
        let epoch = format!("{EPOCH_MS}ms");
        let path = |path: &Path| path.to_string_lossy().into_owned();
        let words = ["replay", &path(&shifted), "--policy", &path(&policy), "--entries", &entries];
        let options = ["--installs-per-s", &per_s, "--epoch", &epoch, "--oracle-epoch", &epoch];
        let report = daemon.json(&[&words[..], &options].concat())?;
        let total = report["bytes_total"].as_f64().filter(|total| *total > 0.0);
        let total = total.ok_or_else(|| Failure::new(format!("replay of nothing: {report}")))?;
        let of = |policy: &str, what: &str| -> Outcome<f64> {
            let value = report["policies"][policy].get(what).and_then(Value::as_f64);
            value.ok_or_else(|| Failure::new(format!("replay has no {what} of {policy}: {report}")))
        };
        shares.push(of("planner", "bytes_in_hardware")? / total);
        installs += of("planner", "installs")? / PHASES as f64;
        for rival in ["ovs-rebalance", "lru", "first-come"] {
            best_rival = best_rival.max(of(rival, "bytes_in_hardware")? / total);
        }
    }
    Ok(Prediction {
        share: shares.iter().sum::<f64>() / shares.len() as f64,
        least: shares.iter().copied().fold(f64::INFINITY, f64::min),
        most: shares.iter().copied().fold(0.0, f64::max),
        installs,
        best_rival,
    })
}

/// The same traffic, `by` seconds later.
fn shift(csv: &str, by: f64) -> Outcome<String> {
    let mut lines = csv.lines();
    let header = lines.next().unwrap_or_default();
    let later = |line: &str| -> Outcome<String> {
        let mut fields: Vec<String> = line.split(',').map(str::to_owned).collect();
        for time in fields.iter_mut().skip(1).take(2) {
            *time = format!("{:.6}", time.parse::<f64>()? + by);
        }
        Ok(fields.join(","))
    };
    let rows: Vec<String> = lines.map(later).collect::<Outcome<_>>()?;
    Ok(format!("{header}\n{}\n", rows.join("\n")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shifted_traffic_is_the_same_traffic_later() {
        let csv = "flow,start_s,end_s,packets,bytes,on_s,off_s\n7,1.5,2.5,3,400,0.1,0.2\n";
        let later = shift(csv, 0.25).expect("times");
        assert_eq!(later, "flow,start_s,end_s,packets,bytes,on_s,off_s\n7,1.750000,2.750000,3,400,0.1,0.2\n");
    }

    #[test]
    fn the_traffic_is_no_more_than_an_emulated_guest_can_send() {
        let csv = drawn::csv(SEED);
        assert_eq!(csv, drawn::csv(SEED), "and the same every time");
        let packets: u64 =
            csv.lines().skip(1).filter_map(|line| line.split(',').nth(3)?.parse::<u64>().ok()).sum();
        assert!((15_000..30_000).contains(&packets), "{packets} packets in {} s", drawn::SECONDS);
    }
}
