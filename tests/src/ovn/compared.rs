//! Traffic in software alone, and then with its flows in hardware, side by side.

use std::time::Duration;

use lab_tests::harness::{
    Failure, Netns, Outcome, Pings, Receiver, Sender, Stream, ensure, wait_for, wait_until,
};

use super::DONE_WITHIN;
use super::fabric::{Chassis, Fabric, Meter, Passed, RATE_PER_S, WATCHED};
use crate::steer::conntrack::Connection;

/// Of the packets of a connection that a NIC can take, this many percent are to be forwarded by it, at every place that is
/// looked at.
pub(super) const SHARE_MIN: f64 = 95.0;
/// Segments sent again in hardware beyond those in software, of [`WATCHED`] packets or more: TCP sends one again when an
/// emulated guest is late to tell it of an acknowledgement.
const RETRANSMITS_MORE: u64 = WATCHED / 100;
const PING_EVERY_MS: u32 = 5;
/// The longest that an answer is late where a host has little time.
const LATE_WITHIN: Duration = Duration::from_secs(3);
/// Two fragments with the pods' MTU.
const FRAGMENTED_BYTES: u32 = 2000;

/// What is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// One connection.
    Tcp,
    /// Packets that are answered.
    Udp,
    /// The same, each packet in two fragments.
    Fragments,
    /// Echo requests and replies.
    Ping,
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Fragments => "UDP in fragments",
            Self::Ping => "ICMP",
        }
    }

    /// Whether connection tracking of a NIC takes it: it has whole packets of TCP and UDP only.
    fn is_tracked_in_nics(self) -> bool {
        matches!(self, Self::Tcp | Self::Udp)
    }
}

/// From where to where something is sent.
#[derive(Clone, Copy)]
pub(super) struct Journey<'a> {
    /// As the table calls it.
    pub(super) topology: &'a str,
    pub(super) from: &'a Netns,
    pub(super) to: &'a Netns,
    /// The other end's address, as it knows itself.
    pub(super) listens: &'a str,
    /// The address that is called.
    pub(super) called: &'a str,
    /// The port that the other end listens at, and the one that is called.
    pub(super) tcp: (u16, u16),
    pub(super) udp: (u16, u16),
    /// Where its packets are counted: the number of a host, from 0 on, and the place there.
    pub(super) meters: &'a [(usize, Meter)],
    /// Whether it passes connection tracking.
    pub(super) tracked: bool,
    /// Least share of hardware, in percent, of what a NIC can take.
    pub(super) share_min: f64,
}

/// Ports where nothing translates them.
pub(super) const TCP: (u16, u16) = (7001, 7001);
pub(super) const UDP: (u16, u16) = (7002, 7002);
/// Counted at both pods.
const PODS: &[(usize, Meter)] = &[(0, Meter::Pod), (1, Meter::Pod)];

impl<'a> Journey<'a> {
    /// From the first pod to the second through connection tracking.
    pub(super) fn between_pods(fabric: &'a Fabric, topology: &'a str, address: &'a str) -> Self {
        Self {
            topology,
            from: &fabric.hosts[0].pod,
            to: &fabric.hosts[1].pod,
            listens: address,
            called: address,
            tcp: TCP,
            udp: UDP,
            meters: PODS,
            tracked: true,
            share_min: SHARE_MIN,
        }
    }

    /// `ADDRESS:PORT` of the other end, and what is called.
    pub(super) fn ends(&self, kind: Kind) -> (String, String) {
        let (listens, called) = if kind == Kind::Tcp { self.tcp } else { self.udp };
        let end = |address: &str, port: u16| match address.contains(':') {
            true => format!("[{address}]:{port}"),
            false => format!("{address}:{port}"),
        };
        (end(self.listens, listens), end(self.called, called))
    }

    pub(super) fn connection(&self) -> Outcome<Connection> {
        let (listens, called) = self.ends(Kind::Tcp);
        Connection::between([self.from, self.to], &listens, &called)
    }
}

/// What is under way.
enum Traffic {
    Tcp(Connection),
    /// With the frames that each packet is sent in.
    Udp {
        sender: Sender,
        receiver: Receiver,
        frames: u64,
    },
    Pings(Pings),
}

impl Traffic {
    fn start(kind: Kind, journey: &Journey<'_>) -> Outcome<Self> {
        let payload_bytes = if kind == Kind::Fragments { FRAGMENTED_BYTES } else { 1200 };
        match kind {
            Kind::Tcp => journey.connection().map(Self::Tcp),
            Kind::Udp | Kind::Fragments => {
                let (listens, to) = journey.ends(kind);
                let receiver = Receiver::start_answering(journey.to, &listens)?;
                let (count, rate_per_s) = (1_000_000, RATE_PER_S / 2);
                let stream = Stream { to: &to, count, rate_per_s, payload_bytes, ..Stream::default() };
                let sender = Sender::start_stoppable(journey.from, stream)?;
                Ok(Self::Udp { sender, receiver, frames: if kind == Kind::Fragments { 2 } else { 1 } })
            }
            Kind::Ping => {
                Pings::start(journey.from, journey.called, PING_EVERY_MS, payload_bytes).map(Self::Pings)
            }
        }
    }

    /// Frames that passed either end so far, about; 0 for a connection, of which that is not known.
    fn frames(&self) -> u64 {
        match self {
            Self::Tcp(_) => 0,
            Self::Udp { sender, frames, .. } => {
                let sent = sender.so_far();
                (sent.packets + sent.answers) * frames
            }
            Self::Pings(pings) => 2 * pings.answers(),
        }
    }

    /// Packets that did not come, or, where they are sent again then, that were.
    fn lost(&self) -> u64 {
        match self {
            Self::Tcp(connection) => connection.retransmits(),
            Self::Udp { sender, .. } => sender.so_far().unanswered,
            Self::Pings(pings) => pings.missing(),
        }
    }

    /// What was lost since so many were missing. A late answer is missing for a while, and is not lost.
    fn lost_since(&self, before: u64) -> u64 {
        let mut least = self.lost();
        if !matches!(self, Self::Tcp(_)) {
            // What is missing then still is lost.
            let _ = wait_until("late answers have come", LATE_WITHIN, || {
                least = least.min(self.lost());
                Ok(least <= before)
            });
        }
        least.saturating_sub(before)
    }

    /// Ends it: packets sent, and those of them that were answered or arrived in the end.
    fn stop(self) -> Outcome<(u64, u64)> {
        match self {
            Self::Tcp(connection) => {
                let bytes = connection.received();
                connection.close()?;
                Ok((bytes, bytes))
            }
            Self::Udp { sender, receiver, .. } => {
                let sent = sender.stop_answered()?;
                let received = receiver.finish()?;
                ensure!(received.duplicated == 0, "packets came twice: {received:?}");
                Ok((sent.packets, sent.answers))
            }
            Self::Pings(pings) => pings.stop(),
        }
    }
}

/// What went by between two looks.
struct Window {
    passed: Vec<Passed>,
    lost: u64,
    frames: u64,
}

impl Window {
    /// The share of hardware at a place. Where a connection in hardware goes along, all that a CPU saw is of the rest.
    fn share(&self, passed: Passed, accompanied: bool) -> f64 {
        if !accompanied {
            return passed.share();
        }
        100.0 * self.frames.saturating_sub(passed.slow()) as f64 / self.frames.max(1) as f64
    }
}

impl Fabric {
    /// What has passed at each place so far.
    pub(super) fn passed(&self, journey: &Journey<'_>) -> Outcome<Vec<Passed>> {
        journey.meters.iter().map(|(host, meter)| self.hosts[*host].passed_at(*meter)).collect()
    }

    /// What goes by until at each place at least [`WATCHED`] packets have.
    fn window(&self, journey: &Journey<'_>, traffic: &Traffic) -> Outcome<Window> {
        let (before, lost, frames) = (self.passed(journey)?, traffic.lost(), traffic.frames());
        wait_for(&format!("{}: packets go by", journey.topology), DONE_WITHIN, || {
            let now = self.passed(journey)?;
            let passed: Vec<Passed> =
                now.iter().zip(&before).map(|(now, before)| now.since(*before)).collect();
            if passed.iter().any(|passed| passed.packets() < WATCHED) {
                let counts: Vec<u64> = passed.iter().map(|passed| passed.packets()).collect();
                return Err(Failure::new(format!("{counts:?} packets{}", self.seen()?)));
            }
            let frames = traffic.frames() - frames;
            Ok(Some(Window { passed, lost: traffic.lost_since(lost), frames }))
        })
    }

    /// Takes everything out of both hosts' hardware, and keeps it out.
    pub(super) fn drain(&self) -> Outcome {
        for host in &self.hosts {
            host.daemon().ctl(&["drain"])?;
        }
        wait_until("hardware is empty", DONE_WITHIN, || {
            Ok(self.hosts[0].flows()?.1 == 0 && self.hosts[1].flows()?.1 == 0)
        })
    }

    /// Lets both hosts use their hardware again.
    pub(super) fn use_again(&self) -> Outcome {
        self.hosts.iter().try_for_each(|host| host.daemon().ctl(&["drain", "--off"]).map(drop))
    }

    /// Sends it in software alone, and then with its flows in hardware: it works as well there. What came of it is a line of
    /// the table for each place that it was counted at. What a NIC does not track goes along with a connection that it does,
    /// so that there is something in hardware.
    pub(super) fn compare(&self, journey: Journey<'_>, kind: Kind) -> Outcome {
        if journey.tracked && kind == Kind::Fragments {
            return self.send_fragments(journey);
        }
        let what = format!("{}, {}", journey.topology, kind.name());
        // The address of a load balancer answers at its ports only.
        let answers = || journey.from.pings(journey.called) || journey.from.pings(journey.listens);
        wait_until(&format!("{what}: {} answers", journey.called), DONE_WITHIN, || Ok(answers()))?;
        self.drain()?;
        let accompanied = journey.tracked && !kind.is_tracked_in_nics();
        let companion = if accompanied { Some(journey.connection()?) } else { None };
        let traffic = Traffic::start(kind, &journey)?;
        // The first packets resolve neighbours, and are Open vSwitch's first of their flows.
        self.window(&journey, &traffic)?;
        let software = self.window(&journey, &traffic)?;
        let drained = traffic.lost();
        self.use_again()?;
        let settled = |window: &Window| {
            let enough = |passed: &Passed| match accompanied {
                // What the connection has beside it is all that a CPU sees.
                true => {
                    passed.slow() <= window.frames + WATCHED / 20 && passed.packets() > passed.slow() * 5 / 4
                }
                false => passed.share() >= journey.share_min,
            };
            window.passed.iter().all(enough)
        };
        let hardware = wait_for(&format!("{what}: it is in hardware"), DONE_WITHIN, || {
            let window = self.window(&journey, &traffic)?;
            // The one after it: something may have moved in the first.
            let next = if settled(&window) { self.window(&journey, &traffic)? } else { window };
            if settled(&next) { Ok(Some(next)) } else { Err(Failure::new(self.told(&next)?)) }
        })?;
        let meanwhile = traffic.lost().saturating_sub(drained + hardware.lost);
        let lost = format!("{} / {meanwhile} / {}", software.lost, hardware.lost);
        for ((host, meter), passed) in journey.meters.iter().zip(&hardware.passed) {
            let share = hardware.share(*passed, accompanied);
            self.hosts[*host].compared(journey.topology, kind.name(), *meter, share, &lost)?;
        }
        let (sent, arrived) = traffic.stop()?;
        println!("    {what}: {arrived} of {sent}");
        companion.map_or(Ok(()), Connection::close)?;
        let more = if kind == Kind::Tcp { RETRANSMITS_MORE } else { 0 };
        ensure!(
            hardware.lost <= software.lost + more,
            "{what}: lost in software, meanwhile, in hardware: {lost}"
        );
        Ok(())
    }

    /// Waits until both hosts forward nearly all of a connection between the pods.
    pub(super) fn settled(&self, what: &str, connection: &Connection) -> Outcome {
        let passed =
            || Ok::<_, Failure>([self.hosts[0].passed_at(Meter::Pod)?, self.hosts[1].passed_at(Meter::Pod)?]);
        let mut before = passed()?;
        wait_until(&format!("{what}: it is in hardware"), DONE_WITHIN, || {
            let now = passed()?;
            let moved = [now[0].since(before[0]), now[1].since(before[1])];
            if moved.iter().any(|moved| moved.packets() < WATCHED / 3) {
                return Err(Failure::new(format!("{} bytes arrived{}", connection.received(), self.seen()?)));
            }
            before = now;
            Ok(moved.iter().all(|moved| moved.share() >= SHARE_MIN))
        })
    }

    fn told(&self, window: &Window) -> Outcome<String> {
        let passed: Vec<String> = window.passed.iter().map(|passed| passed.to_string()).collect();
        Ok(format!("{passed:?}, of it {} frames of what is compared{}", window.frames, self.seen()?))
    }
}

impl Chassis {
    /// Its line of the table.
    pub(super) fn compared(
        &self,
        topology: &str,
        kind: &str,
        meter: Meter,
        share: f64,
        lost: &str,
    ) -> Outcome {
        let (flows, placed, rest) = self.flows()?;
        println!(
            "    | {topology} | {kind} | hv{}{} | {flows} | {placed} | {share:.1} % | {lost} \
             | {rest} |",
            self.number,
            if matches!(meter, Meter::Provider) { ", outside" } else { "" },
        );
        Ok(())
    }
}
