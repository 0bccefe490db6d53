//! Many megaflows from vm0 to the remote host, and what is asked about them.

use std::time::{Duration, Instant};

use lab_tests::harness::{
    Daemon, Demo, Failure, Lab, Outcome, Ovs, Receiver, Sender, Simnic, Stream, wait_for,
};
use ovs_offloadd::io::unixctl::Client;
use serde_json::Value;

/// The UDP port that all flows go to.
pub(crate) const PORT: u16 = 7000;
/// The source port of the first flow; the others follow.
pub(crate) const FIRST: u16 = 20_000;
/// The NIC of the demo topology that Open vSwitch is on.
pub(crate) const NIC: Simnic = Simnic::existing(0);
/// The longest an emulated guest may take until flows are where they belong.
pub(crate) const SETTLES_WITHIN: Duration = Duration::from_secs(60);
/// A policy that wants every flow of these tests in hardware, soon.
pub(crate) const EAGER: &str = "mode = \"steer\"\nmetrics.listen = \"off\"\n\
    policy.min-rate = \"100 bit/s\"\npolicy.min-age = \"100 ms\"\npolicy.epoch = \"250 ms\"\n";

/// Some flows, told apart by their source port.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Flows {
    /// The source port of the first; the others follow.
    pub(crate) from: u16,
    pub(crate) count: u32,
    /// The UDP port they go to.
    pub(crate) to: u16,
}

impl Flows {
    /// So many flows to [`PORT`].
    pub(crate) fn new(count: u32) -> Self {
        Self { from: FIRST, count, to: PORT }
    }

    /// Has Open vSwitch make a megaflow of each of them, all with these actions.
    pub(crate) fn one_megaflow_each(self, lab: &Lab, ovs: &Ovs, actions: &str) -> Outcome {
        let Self { from, count, to } = self;
        let rule = |n: u32| {
            format!("priority=100,udp,tp_src={},tp_dst={to},actions={actions}\n", u32::from(from) + n)
        };
        let file = lab.dir().join("rules.txt");
        std::fs::write(&file, (0..count).map(rule).collect::<String>())?;
        ovs.ofctl(&["--bundle", "add-flows", "br0", &file.to_string_lossy()]).map(drop)
    }

    /// Sends so many packets per second of them all together, until it is stopped.
    pub(crate) fn start(self, demo: &Demo<'_>, rate_per_s: u64) -> Outcome<Traffic> {
        let to = format!("{}:{}", Demo::REMOTE, self.to);
        let receiver = Receiver::start(&demo.remote, &to)?;
        let stream = Stream {
            to: &to,
            from_port: self.from,
            flows: self.count,
            count: 1_000_000,
            rate_per_s,
            payload_bytes: 200,
        };
        Ok(Traffic { sender: Sender::start_stoppable(&demo.vm0, stream)?, receiver })
    }
}

/// Flows that are being sent.
pub(crate) struct Traffic {
    sender: Sender,
    pub(crate) receiver: Receiver,
}

impl Traffic {
    /// Stops it: packets sent, and how many of them did not arrive.
    pub(crate) fn stop(self) -> Outcome<(u64, u64)> {
        let sent = self.sender.stop()?;
        let received = self.receiver.finish()?;
        lab_tests::ensure!(received.socket_drops == 0, "the receiver was too slow: {received:?}");
        Ok((sent, sent.saturating_sub(received.packets)))
    }
}

/// What `status` says, and how long the daemon took to say it: asked on its socket, without the start of a tool.
pub(crate) fn status(daemon: &Daemon, ovs: &Ovs) -> Outcome<(Value, Duration)> {
    let socket = ovs.rundir().join(format!("ovs-offloadd.{}.ctl", daemon.pid()));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let begin = Instant::now();
    let mut client = Client::new(socket);
    let answer = runtime.block_on(client.command("status", &["--output=json"], SETTLES_WITHIN))?;
    Ok((serde_json::from_str(&answer)?, begin.elapsed()))
}

/// Whether a connection is up, what is said of it, and its losses.
pub(crate) fn connection(status: &Value, name: &str) -> Outcome<(bool, String, u64)> {
    let all = status["connections"].as_array().cloned().unwrap_or_default();
    let of = all.into_iter().find(|connection| connection["name"] == name);
    let of = of.ok_or_else(|| Failure::new(format!("`status` has no connection {name}: {status}")))?;
    let detail = of["detail"].as_str().unwrap_or_default().to_owned();
    Ok((of["up"] == true, detail, of["losses"].as_u64().unwrap_or_default()))
}

/// Waits until at least `count` megaflows are in hardware as the NIC itself counts them: their number.
pub(crate) fn in_hardware(daemon: &Daemon, ovs: &Ovs, count: u64) -> Outcome<u64> {
    wait_for(&format!("{count} flows are in hardware"), SETTLES_WITHIN, || {
        let rules = NIC.rules()?.lines().filter(|line| line.contains("cookie")).count() as u64;
        let said = status(daemon, ovs)?.0["flows"]["hardware"].as_u64().unwrap_or_default();
        if rules >= count && said >= count {
            return Ok(Some(rules));
        }
        Err(Failure::new(format!("the NIC has {rules}, status says {said}")))
    })
}
