//! Conntrack in hardware, with plain `tc` and no Open vSwitch: chains as it makes them, which track, commit and forward.

use std::time::Duration;

use super::frame::{Body, Frame, L4, frame, tcp, udp};
use super::rig::{Rig, batch, hex, receive, tc};
use crate::harness::{Outcome, ensure, wait_until};
use crate::io::conntrack;
use crate::io::packet_socket::PacketSocket;

/// The longest that a connection may take into hardware, or out of it.
pub(super) const MOVES_WITHIN: Duration = Duration::from_secs(60);

/// What answers a frame: the same with all that says from where to where turned round.
pub(super) fn answer(frame: &Frame) -> Frame {
    let mut back = Frame { dst: frame.src, src: frame.dst, ..frame.clone() };
    let l4 = match &mut back.body {
        Body::Ipv4(ip) => {
            std::mem::swap(&mut ip.src, &mut ip.dst);
            &mut ip.l4
        }
        Body::Ipv6(ip) => {
            std::mem::swap(&mut ip.src, &mut ip.dst);
            &mut ip.l4
        }
        _ => return back,
    };
    if let L4::Tcp { src, dst, .. } | L4::Udp { src, dst, .. } = l4 {
        std::mem::swap(src, dst);
    }
    back
}

/// A TCP segment of an own connection for each port.
pub(super) fn segment(port: u16) -> Frame {
    frame().v4(|ip| ip.l4 = tcp(1000, port))
}

pub(super) fn datagram(port: u16) -> Frame {
    frame().v4(|ip| ip.l4 = udp(1000, port))
}

/// A NIC whose VFs talk through conntrack.
pub(super) struct Tracked {
    pub(super) rig: Rig,
    pub(super) ends: [PacketSocket; 3],
}

/// What is not tracked is tracked in zone 5; new connections are committed, and all are forwarded.
pub(super) const PIPELINE: [(&str, &str); 3] = [
    ("chain 0 prio 2 protocol ip flower ct_state -trk", "action ct zone 5 pipe action goto chain 1"),
    (
        "chain 1 prio 2 protocol ip flower ct_state +trk+new",
        "action ct commit zone 5 pipe action mirred egress redirect dev OUT",
    ),
    ("chain 1 prio 2 protocol ip flower ct_state +trk+est", "action mirred egress redirect dev OUT"),
];

impl Tracked {
    /// With the pipeline between the first two VFs.
    pub(super) fn new() -> Outcome<Self> {
        let tracked = Self::without_rules()?;
        tracked.set(&PIPELINE)?;
        Ok(tracked)
    }

    pub(super) fn without_rules() -> Outcome<Self> {
        conntrack::flush()?;
        let rig = Rig::new()?;
        let ends = [rig.vf(0)?, rig.vf(1)?, rig.vf(2)?];
        Ok(Self { rig, ends })
    }

    /// The filters on the representors of the first two VFs, `OUT` being the other one, all of them in hardware.
    pub(super) fn set(&self, filters: &[(&str, &str)]) -> Outcome {
        for vf in 0..2 {
            let out = format!("REP{}", 1 - vf);
            let filters = filters.iter().map(|(filter, actions)| (*filter, actions.replace("OUT", &out)));
            self.set_on(vf, filters)?;
        }
        Ok(())
    }

    /// Filters on the representor of one VF; all are in hardware but those that say skip_hw.
    pub(super) fn set_on<'a>(
        &self,
        vf: u32,
        filters: impl IntoIterator<Item = (&'a str, String)>,
    ) -> Outcome {
        let device = self.rig.nic.representor(vf);
        let words: Vec<String> = filters
            .into_iter()
            .map(|(filter, actions)| {
                format!("filter add dev {device} ingress {filter} {}", self.rig.named(&actions))
            })
            .collect();
        let soft = words.iter().filter(|words| words.contains("skip_hw")).count();
        batch("tc", words.into_iter())?;
        let shown = tc(&format!("filter show dev {device} ingress"))?;
        ensure!(shown.matches("not_in_hw").count() == soft, "not all in hardware: {shown}");
        Ok(())
    }

    /// Takes the filters of the first two VFs' chains 0 and 1 away.
    pub(super) fn clear(&self) -> Outcome {
        let devices = [0, 1].map(|vf| self.rig.nic.representor(vf));
        let words = devices.iter().flat_map(|device| {
            [0, 1].map(|chain| format!("filter delete dev {device} ingress chain {chain}"))
        });
        batch("tc", words)
    }

    pub(super) fn connections(&self) -> Outcome<String> {
        self.rig.nic.shown("connections")
    }

    pub(super) fn counter(&self, name: &str) -> Outcome<u64> {
        self.rig.count(0, name)
    }

    /// Packets of the VFs that the host has seen.
    pub(super) fn slow(&self) -> Outcome<u64> {
        (0..3).map(|vf| self.rig.count(vf, "vf_tx_slow_packets")).sum()
    }

    /// Sends `frame` from one VF; it arrives at another as `seen`.
    pub(super) fn send(&self, from: usize, to: usize, frame: &Frame, seen: &Frame) -> Outcome {
        let (sent, wanted) = (frame.encode(0), seen.encode(0));
        self.ends[from].send(&sent)?;
        let got = receive(&self.ends[to], 1)?;
        ensure!(got[0] == wanted, "{} arrived as {}, not as {}", hex(&sent), hex(&got[0]), hex(&wanted));
        Ok(())
    }

    /// A frame from the first VF to another and its answer, which both arrive as they were sent.
    pub(super) fn exchange(&self, to: usize, frame: &Frame) -> Outcome {
        self.send(0, to, frame, frame)?;
        self.send(to, 0, &answer(frame), &answer(frame))
    }

    /// Sends to and fro until the host sees nothing of it any more.
    pub(super) fn establish(&self, to: usize, frame: &Frame) -> Outcome {
        wait_until("the connection is in hardware", MOVES_WITHIN, || {
            let slow = self.slow()?;
            self.exchange(to, frame)?;
            Ok(self.slow()? == slow)
        })
    }

    /// The connection of `frame` passes by hardware, both ways.
    pub(super) fn ensure_in_hardware(&self, to: usize, frame: &Frame) -> Outcome {
        let slow = self.slow()?;
        for _ in 0..5 {
            self.exchange(to, frame)?;
        }
        let seen = self.slow()? - slow;
        ensure!(seen == 0, "the host saw {seen} of 10 packets");
        Ok(())
    }

    pub(super) fn wait_for_connections(&self, count: u64) -> Outcome {
        let what = format!("hardware has {count} directions of connections");
        wait_until(&what, MOVES_WITHIN, || Ok(self.counter("hw_connections")? == count))
    }
}
