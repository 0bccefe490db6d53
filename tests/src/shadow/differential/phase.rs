//! One phase: all packets are sent, and what comes out is taken until nothing more is under way.
//!
//! Nothing here takes it for granted that the machine is fast. A packet that has no megaflow waits in a queue of the kernel for
//! ovs-vswitchd, and is lost where that is full, as is a barrier. So barriers are sent again until they come back, and a phase in which
//! the datapath lost a packet is nothing that counts: it is done again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use lab_tests::harness::{Failure, Outcome, ensure};

use super::outer::{GENEVE_PORT, Outer};
use super::packet;
use super::pipeline::Ingress;
use super::round::{Frame, Judge};
use super::switch::End;

/// The longest that is waited for the next barrier.
const COMES_BACK_WITHIN: Duration = Duration::from_secs(120);
/// Barriers that have not come back by then are sent again, and again after as long.
const SENT_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// How long is waited for the next frame while barriers are under way.
const SILENCE: Duration = Duration::from_millis(40);
/// Nothing more comes once nothing has come for so long after the barriers, which packets may take another way than: by
/// hardware, or by ovs-vswitchd.
pub(super) const LONG_SILENCE: Duration = Duration::from_millis(100);
/// The same where ovs-vswitchd sends most of the packets.
const SILENCE_OF_UPCALLS: Duration = Duration::from_millis(300);
/// The longest that is waited for what came out before, and has not this time; and for what came out by software.
const LATE_WITHIN: Duration = Duration::from_secs(3);
const LATE_BY_HARDWARE: Duration = Duration::from_secs(10);
/// So many times are packets sent by software at most, until the same comes out twice in a row.
const SETTLES_IN: usize = 8;
/// So many times is a phase done again that lost packets.
const LOSSES_MAX: usize = 40;
/// Frames that are sent before what came out is read.
const IN_FLIGHT: usize = 64;
/// Numbers of barriers begin here.
const BARRIERS: u32 = 0x8000_0000;

/// What came out of a phase: by the packet, in order for each port. What has no number is under none.
pub(super) type Seen = BTreeMap<Option<u32>, BTreeMap<End, Vec<Vec<u8>>>>;

/// Barriers under way.
#[derive(Default)]
pub(super) struct Barriers {
    last: u32,
    awaited: BTreeMap<u32, (End, Vec<u8>)>,
    /// How many were sent again.
    pub(super) again: usize,
}

impl Judge<'_> {
    /// Has ovs-vswitchd decide about each packet; what came out.
    pub(super) fn decide(&mut self, frames: &[Frame]) -> Outcome<Seen> {
        self.silence = SILENCE_OF_UPCALLS;
        let seen = self.without_loss(frames, None);
        self.silence = LONG_SILENCE;
        seen
    }

    /// What comes out by software, once it is the same twice in a row; `seen` came out when it was decided. ovs-vswitchd sends packets
    /// of its own on at a time of its own: what is late then comes out of the next phase, and is missed in its own.
    pub(super) fn settled(&mut self, frames: &[Frame], mut seen: Seen) -> Outcome<Seen> {
        for time in 0..SETTLES_IN {
            // Of what came out by ovs-vswitchd, some may come by the kernel datapath no more.
            let within = if time == 0 { Duration::ZERO } else { LATE_WITHIN };
            let again = self.without_loss(frames, Some((&seen, &BTreeSet::new(), within)))?;
            if again == seen {
                return Ok(seen);
            }
            seen = again;
        }
        // What is not certain by software alone is told as what differs.
        Ok(seen)
    }

    /// What comes out by hardware, where this came out by software. What is missing is waited for, but for these packets.
    pub(super) fn by_hardware(
        &mut self,
        frames: &[Frame],
        software: &Seen,
        pardoned: &BTreeSet<u32>,
    ) -> Outcome<Seen> {
        self.without_loss(frames, Some((software, pardoned, LATE_BY_HARDWARE)))
    }

    /// A phase in which ovs-vswitchd was asked about every packet that had no megaflow. Where more of them came than the kernel
    /// keeps for it, each time there are fewer. What is missing of `like` is waited for, so long, but for these packets.
    fn without_loss(
        &mut self,
        frames: &[Frame],
        like: Option<(&Seen, &BTreeSet<u32>, Duration)>,
    ) -> Outcome<Seen> {
        let mut lost = 0;
        for _ in 0..LOSSES_MAX {
            let before = self.kernel.statistics()?.lost;
            let mut seen = self.phase(frames)?;
            let begun = Instant::now();
            while like.is_some_and(|(like, but, within)| lacks(&seen, like, but) && begun.elapsed() < within)
            {
                self.take(LONG_SILENCE, &mut seen)?;
            }
            lost = self.kernel.statistics()?.lost - before;
            if lost == 0 {
                return Ok(seen);
            }
            self.lost += lost;
        }
        Err(Failure::new(format!("{lost} packets did not get to ovs-vswitchd, the {LOSSES_MAX}th time")))
    }

    fn send(&self, end: End, frame: &[u8]) -> Outcome {
        let index = self.switch.indexes.get(&end).copied().unwrap_or(0);
        self.switch
            .ends
            .send_by(index, frame)
            .map_err(|error| Failure::new(format!("sending by {end:?}: {error}")))
    }

    /// Sends all frames, and then a barrier by each of their ports; what came out.
    fn phase(&mut self, frames: &[Frame]) -> Outcome<Seen> {
        let mut seen = Seen::new();
        let mut ports: BTreeMap<u32, Ingress> = BTreeMap::new();
        for (at, (_, ingress, frame)) in frames.iter().enumerate() {
            self.send(end_of(*ingress), frame)?;
            ports.entry(ingress.port()).or_insert(*ingress);
            if at % IN_FLIGHT == 0 {
                self.take(Duration::ZERO, &mut seen)?;
            }
        }
        for ingress in ports.into_values() {
            let number = BARRIERS + self.barriers.last;
            self.barriers.last += 1;
            let frame = packet::barrier(number);
            let frame = match ingress {
                Ingress::Tunnel(kind, id) => Outer::plain(kind, id).encode(&frame),
                Ingress::Vf(_) | Ingress::Uplink => frame,
            };
            self.barriers.awaited.insert(number, (end_of(ingress), frame));
        }
        self.send_barriers()?;
        self.take_barriers(&mut seen)?;
        self.take(self.silence, &mut seen)?;
        self.phases += 1;
        let dropped = self.switch.ends.dropped()?;
        ensure!(dropped == 0, "{dropped} frames found the socket of the far ends full");
        Ok(seen)
    }

    fn send_barriers(&self) -> Outcome {
        self.barriers.awaited.values().try_for_each(|(end, frame)| self.send(*end, frame))
    }

    fn take_barriers(&mut self, seen: &mut Seen) -> Outcome {
        let (mut sent, mut came, mut left) = (Instant::now(), Instant::now(), usize::MAX);
        while !self.barriers.awaited.is_empty() {
            if self.barriers.awaited.len() < left {
                (came, left) = (Instant::now(), self.barriers.awaited.len());
            }
            if came.elapsed() >= COMES_BACK_WITHIN {
                return Err(self.stuck(left));
            }
            if sent.elapsed() >= SENT_AGAIN_AFTER {
                self.barriers.again += left;
                self.send_barriers()?;
                sent = Instant::now();
            }
            self.take(SILENCE, seen)?;
        }
        Ok(())
    }

    /// What the datapath, ovs-vswitchd and the NIC say where nothing comes back.
    fn stuck(&mut self, barriers: usize) -> Failure {
        let datapath = self.kernel.statistics().map_err(|failure| failure.to_string());
        let upcalls = self.switch.ovs.appctl(&["upcall/show"]).map_err(|failure| failure.to_string());
        let (nic, socket) = (self.switch.counted(), self.switch.ends.dropped());
        Failure::new(format!(
            "{barriers} barriers did not come back, {} times sent again\n  datapath {datapath:?}\n  NIC {:?}\n  \
             dropped by the socket {socket:?}\n  upcalls {}",
            self.barriers.again,
            nic.map_err(|failure| failure.to_string()),
            upcalls.unwrap_or_else(|failure| failure)
        ))
    }

    /// Takes what has come, until nothing comes for so long.
    fn take(&mut self, silence: Duration, seen: &mut Seen) -> Outcome {
        while let Some((index, frame)) = self.switch.ends.receive_from(silence, &mut self.buffer)? {
            let Some(end) = self.switch.indexes.iter().find(|(_, of)| **of == index).map(|(end, _)| *end)
            else {
                continue;
            };
            if is_chatter(end, &frame) {
                continue;
            }
            let number = packet::number(&frame);
            match number {
                Some(number) if number >= BARRIERS => drop(self.barriers.awaited.remove(&number)),
                _ => seen.entry(number).or_default().entry(end).or_default().push(plain(end, frame)),
            }
        }
        Ok(())
    }
}

/// Whether fewer frames came out of some packet at some port than there, but for these packets. What has no number is of nobody
/// knows which.
fn lacks(seen: &Seen, like: &Seen, but: &BTreeSet<u32>) -> bool {
    like.iter().any(|(number, ends)| {
        let is_awaited = number.is_some_and(|number| !but.contains(&number));
        is_awaited
            && ends.iter().any(|(end, frames)| {
                let here = seen.get(number).and_then(|ends| ends.get(end));
                here.map_or(0, Vec::len) < frames.len()
            })
    })
}

const fn end_of(ingress: Ingress) -> End {
    match ingress {
        Ingress::Vf(vf) => End::Vf(vf),
        Ingress::Uplink => End::Wire,
        Ingress::Tunnel(..) => End::Underlay,
    }
}

/// A frame without what whoever puts packets into tunnels chooses: IPv4's identification, and the UDP port that it is sent
/// from, which tells flows apart (RFC 7348, RFC 8926) and is a hash of the NIC's or of the kernel's. The checksums over
/// them go, too, where they are right. And without Geneve's bit for critical options, which TC does not set, as the
/// translator says of itself.
fn plain(end: End, mut frame: Vec<u8>) -> Vec<u8> {
    let head = match frame.get(12..15) {
        Some([8, 0, 0x45]) if end == End::Underlay && frame.len() > 42 => 34,
        Some([0x86, 0xdd, _]) if end == End::Underlay && frame.len() > 62 => 54,
        _ => return frame,
    };
    let ends = if head == 34 { 26..34 } else { 22..54 };
    let proto = if head == 34 { frame[23] } else { frame[20] };
    if proto == packet::UDP {
        let datagram = &frame[head..];
        let is_geneve = datagram[2..4] == GENEVE_PORT.to_be_bytes();
        let begin = u32::from(packet::sum(&frame[ends], u32::from(proto))) + datagram.len() as u32;
        if packet::sum(datagram, begin) == 0xffff {
            // Right, which is not the same as none.
            frame[head + 6..head + 8].fill(0xff);
        }
        frame[head..head + 2].fill(0);
        if is_geneve {
            frame[head + 9] &= !0x40;
        }
    }
    if head == 34 && packet::sum(&frame[14..34], 0) == 0xffff {
        frame[18..20].fill(0);
        frame[24..26].fill(0);
    }
    frame
}

/// What the host says by itself at the device of its tunnels: IPv6's neighbour discovery and group membership.
fn is_chatter(end: End, frame: &[u8]) -> bool {
    end == End::Underlay && frame.starts_with(&[0x33, 0x33]) && packet::number(frame).is_none()
}
