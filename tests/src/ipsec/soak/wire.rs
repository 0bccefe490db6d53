//! Who watches the wire between two NICs, and numbered packets both ways through the tunnel.

use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::Duration;

use lab_tests::ensure;
use lab_tests::harness::{
    Failure, Lab, Outcome, Received, Receiver, Sender, Stream, run, wait_for, wait_until,
};

use crate::ipsec::hosts::{DONE_WITHIN, Hosts};

/// What may be on the wire: IPsec, the negotiation of it, the search for the peer's MAC address, and what is said of the groups that charon's
/// plug-in `forecast` joins whenever it starts. IPv6 is off.
const NOT_IN_THE_CLEAR: &str = "not (esp or arp or igmp or udp port 500 or udp port 4500)";
/// Bytes of a capture's file before the first packet.
const PCAP_HEADER: u64 = 24;
const PORT: u16 = 9_000;
/// Packets per second, each way.
const RATE: u64 = 100;
/// Packets that have to arrive each way before it is said that they flow.
const FLOWING: u64 = 20;

/// Keeps every packet that is in the clear, from its start on.
pub(super) struct Watch {
    child: Child,
    file: PathBuf,
    said: PathBuf,
}

impl Watch {
    pub(super) fn start(lab: &Lab, hosts: &Hosts, name: &str) -> Outcome<Self> {
        let (file, said) =
            (lab.dir().join(format!("{name}.pcap")), lab.dir().join(format!("{name}.tcpdump")));
        // One from before would be taken for this one's, until it is written over.
        match fs::remove_file(&file) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        let mut command = hosts.tcpdump();
        command.args(["--immediate-mode", "-U", "-s", "200", "-B", "8192", "-w"]).arg(&file);
        command.arg(NOT_IN_THE_CLEAR);
        let child =
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(fs::File::create(&said)?).spawn()?;
        let watch = Self { child, file, said };
        wait_until("the watch of the wire listens", DONE_WITHIN, || {
            Ok(fs::metadata(&watch.file).is_ok_and(|file| file.len() >= PCAP_HEADER))
        })?;
        Ok(watch)
    }

    /// Packets in the clear so far.
    pub(super) fn in_the_clear(&self) -> Outcome<u64> {
        if fs::metadata(&self.file)?.len() == PCAP_HEADER {
            return Ok(0);
        }
        Ok(self.shown()?.lines().count() as u64)
    }

    /// The first of them.
    pub(super) fn first(&self) -> Outcome<String> {
        Ok(self.shown()?.lines().take(5).collect::<Vec<_>>().join("\n"))
    }

    fn shown(&self) -> Outcome<String> {
        // The last packet may not be on file as a whole yet.
        let read = || Ok(Some(run("tcpdump", &["-n", "-r", &self.file.display().to_string()])?));
        wait_for("all packets are on file", DONE_WITHIN, read)
    }

    /// Ends it: packets in the clear. It fails where some were not seen.
    pub(super) fn stop(mut self) -> Outcome<u64> {
        run("kill", &["-INT", &self.child.id().to_string()])?;
        self.child.wait()?;
        let said = fs::read_to_string(&self.said)?;
        ensure!(said.contains("\n0 packets dropped by kernel"), "the watch did not see all: {said}");
        self.in_the_clear()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // Ended already, in most cases.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What became of packets, both ways together.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Count {
    pub(super) sent: u64,
    pub(super) lost: u64,
    pub(super) duplicated: u64,
    /// The longest time between two packets that came one way; what comes after the last is not in it.
    pub(super) silence: Duration,
}

impl Count {
    pub(super) fn add(&mut self, other: Self) {
        self.sent += other.sent;
        self.lost += other.lost;
        self.duplicated += other.duplicated;
        self.silence = self.silence.max(other.silence);
    }
}

/// Numbered packets both ways.
pub(super) struct Flow {
    ways: Vec<(Sender, Receiver)>,
}

impl Flow {
    /// Returns when packets arrive both ways.
    pub(super) fn start(hosts: &Hosts) -> Outcome<Self> {
        let mut ways = Vec::new();
        for (host, peer) in hosts.both() {
            let to = format!("{}:{PORT}", peer.inner);
            let receiver = Receiver::start(&peer.netns, &to)?;
            let stream = Stream {
                to: &to,
                count: 10_000_000,
                rate_per_s: RATE,
                payload_bytes: 200,
                ..Stream::default()
            };
            ways.push((Sender::start_stoppable(&host.netns, stream)?, receiver));
        }
        let flow = Self { ways };
        flow.goes_on(DONE_WITHIN)?;
        Ok(flow)
    }

    /// Waits until more packets arrive both ways.
    pub(super) fn goes_on(&self, within: Duration) -> Outcome {
        let received = || self.ways.iter().map(|(_, receiver)| receiver.so_far().packets).collect::<Vec<_>>();
        let before = received();
        wait_until("packets arrive both ways", within, || {
            Ok(received().iter().zip(&before).all(|(now, before)| *now >= before + FLOWING))
        })
        .map_err(|failure| Failure::new(format!("{failure}: {before:?} before, {:?} now", received())))
    }

    pub(super) fn stop(self) -> Outcome<Count> {
        let mut count = Count::default();
        for (sender, receiver) in self.ways {
            let sent = sender.stop()?;
            let Received { packets, duplicated, silence, socket_drops, .. } = receiver.finish()?;
            ensure!(socket_drops == 0, "the receiver was too slow for {socket_drops} packets");
            let lost = sent.checked_sub(packets);
            let lost = lost.ok_or_else(|| Failure::new(format!("{packets} of {sent} packets came")))?;
            count.add(Count { sent, lost, duplicated, silence });
        }
        Ok(count)
    }
}
