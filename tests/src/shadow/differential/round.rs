//! One round: some pipelines at once, the same packets by software and by hardware, and what came out.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use lab_tests::harness::{Failure, Lab, Outcome, ensure};
use netlink_wire::ovs_flow::{FlowKeys, Megaflow};
use offload_engine::shadow::{Overlaps, Packets};
use tc_flower::Filter;

use super::dice;
use super::kernel::Kernel;
use super::odd;
use super::outer::GENEVE_PORT;
use super::packet::{self, BARRIER};
use super::pipeline::{Ingress, Pipeline};
use super::switch::{End, Switch};

/// The longest that the barriers of a phase may take to come back.
const COMES_BACK_WITHIN: Duration = Duration::from_secs(60);
/// How long is waited for the next frame while barriers are under way.
const SILENCE: Duration = Duration::from_millis(40);
/// Nothing more comes once nothing has come for so long after the barriers, which packets may take another way than: by
/// hardware, or by ovs-vswitchd.
const LONG_SILENCE: Duration = Duration::from_millis(250);
/// The longest that is waited for what came out before, and has not this time.
const LATE_WITHIN: Duration = Duration::from_secs(3);
/// So many times more are packets sent by software, until the same comes out twice in a row.
const SETTLES_IN: usize = 4;
/// Frames that are sent before what came out is read.
const IN_FLIGHT: usize = 64;
/// Numbers of barriers begin here.
const BARRIERS: u32 = 0x8000_0000;

/// What came out of a phase: by the packet, in order for each port. What has no number is under none.
pub(super) type Seen = BTreeMap<Option<u32>, BTreeMap<End, Vec<Vec<u8>>>>;

/// A packet that was not treated the same.
#[derive(Clone, Debug)]
pub(super) struct Difference {
    /// Which pipeline of the round, and which of its packets; none for frames without a number.
    pub(super) of: Option<(usize, usize)>,
    pub(super) software: BTreeMap<End, Vec<Vec<u8>>>,
    pub(super) hardware: BTreeMap<End, Vec<Vec<u8>>>,
}

/// What a round did.
#[derive(Clone, Debug, Default)]
pub(super) struct Round {
    pub(super) differences: Vec<Difference>,
    /// Packets that were not treated the same, and of which this was known, by what is odd about them.
    pub(super) odd: BTreeMap<&'static str, usize>,
    pub(super) megaflows: usize,
    /// Rules that the NIC had, as the kernel reported.
    pub(super) rules: usize,
    /// Megaflows that could have been rules and were left to software, so that their packets probe the rules.
    pub(super) left: usize,
    /// Megaflows without a rule, by reason.
    pub(super) untranslatable: BTreeMap<String, usize>,
    /// Rules that were refused or are not in hardware, by reason.
    pub(super) refused: BTreeMap<String, usize>,
    /// Packets that had no megaflow although Open vSwitch had decided about them.
    pub(super) misses: u64,
    pub(super) sent: u64,
    /// Frames that came out in the software phase.
    pub(super) came_out: usize,
    /// OpenFlow ports of which there are megaflows that overlap and differ: what becomes of their packets is not certain by
    /// software either.
    pub(super) uncertain_ports: BTreeSet<u32>,
    /// Packets of these that were not treated the same.
    pub(super) uncertain: usize,
    /// Megaflows that take the same packets as others and do something else, as text.
    pub(super) overlapped: Vec<String>,
    /// Megaflows and rules as text, where asked for.
    pub(super) texts: Vec<String>,
    pub(super) took: [Duration; 5],
}

/// How a round is run.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct How {
    /// All rules go in, instead of three quarters of them.
    pub(super) all_rules: bool,
    pub(super) with_texts: bool,
}

pub(super) struct Judge<'l> {
    pub(super) lab: &'l mut Lab,
    pub(super) switch: Switch,
    kernel: Kernel,
    buffer: Vec<u8>,
    barriers: u32,
}

impl<'l> Judge<'l> {
    pub(super) fn new(lab: &'l mut Lab) -> Outcome<Self> {
        let switch = Switch::new(lab)?;
        Ok(Self { lab, switch, kernel: Kernel::open()?, buffer: Vec::new(), barriers: BARRIERS })
    }

    pub(super) fn run(&mut self, pipelines: &[Pipeline], how: How) -> Outcome<Round> {
        let mut round = Round::default();
        let mut watch = Watch { begun: Instant::now(), at: 0 };
        self.switch.clear_rules()?;
        self.load(pipelines)?;
        watch.lap(&mut round);
        let frames = frames(pipelines);
        round.sent = frames.len() as u64;
        // The first time, ovs-vswitchd decides about each packet, and its megaflow is made.
        self.phase(&frames)?;
        watch.lap(&mut round);
        let before = self.kernel.statistics()?;
        let software = self.settled(&frames)?;
        let after = self.kernel.statistics()?;
        ensure!(
            after.lost == before.lost,
            "{} packets did not get to ovs-vswitchd",
            after.lost - before.lost
        );
        round.misses = after.misses - before.misses;
        round.came_out = software.values().flat_map(BTreeMap::values).map(Vec::len).sum();
        watch.lap(&mut round);
        self.install(how, &mut round)?;
        watch.lap(&mut round);
        let hardware = self.phase_like(&frames, &software)?;
        watch.lap(&mut round);
        for difference in differences(pipelines, &software, &hardware) {
            let pipeline = difference.of.and_then(|(which, _)| pipelines.get(which));
            let is_uncertain = pipeline.is_some_and(|of| round.uncertain_ports.contains(&of.ingress.port()));
            match oddity(pipelines, &difference) {
                Some(odd) => *round.odd.entry(odd).or_default() += 1,
                None if is_uncertain => round.uncertain += 1,
                None => round.differences.push(difference),
            }
        }
        Ok(round)
    }

    /// What comes out by software, once it is the same twice in a row. ovs-vswitchd sends packets of its own on at a time of its
    /// own: what is late then comes out of the next phase, and is missed in its own.
    fn settled(&mut self, frames: &[(u32, Ingress, Vec<u8>)]) -> Outcome<Seen> {
        let mut seen = self.phase(frames)?;
        for _ in 0..SETTLES_IN {
            let again = self.phase_like(frames, &seen)?;
            if again == seen {
                return Ok(seen);
            }
            seen = again;
        }
        // What is not certain by software alone is told as what differs.
        Ok(seen)
    }

    /// A phase of which this much is to be seen at least: what is missing is waited for.
    fn phase_like(&mut self, frames: &[(u32, Ingress, Vec<u8>)], like: &Seen) -> Outcome<Seen> {
        let (mut seen, mut awaited) = (self.phase(frames)?, BTreeSet::new());
        let begun = Instant::now();
        while seen != *like && begun.elapsed() < LATE_WITHIN {
            self.take(LONG_SILENCE, &mut seen, &mut awaited)?;
        }
        Ok(seen)
    }

    fn load(&self, pipelines: &[Pipeline]) -> Outcome {
        let ports: BTreeSet<u32> = pipelines.iter().map(|pipeline| pipeline.ingress.port()).collect();
        let barriers = ports.iter().map(|port| {
            // A frame comes back by the port it came from, and those out of tunnels by the first VF's.
            let back = if *port > super::switch::UPLINK { "output:1" } else { "in_port" };
            format!("table=0,priority=65535,in_port={port},dl_type={BARRIER:#06x},actions={back}")
        });
        let flows = pipelines.iter().flat_map(|pipeline| pipeline.flows.iter().cloned());
        self.switch.load(self.lab, &barriers.chain(flows).collect::<Vec<_>>())
    }

    fn send(&self, end: End, frame: &[u8]) -> Outcome {
        let index = self.switch.indexes.get(&end).copied().unwrap_or(0);
        self.switch
            .ends
            .send_by(index, frame)
            .map_err(|error| Failure::new(format!("sending by {end:?}: {error}")))
    }

    /// Sends all frames, and then a barrier by each of their ports; what came out.
    fn phase(&mut self, frames: &[(u32, Ingress, Vec<u8>)]) -> Outcome<Seen> {
        let (mut seen, mut awaited) = (Seen::new(), BTreeSet::new());
        for (at, (_, ingress, frame)) in frames.iter().enumerate() {
            self.send(end_of(*ingress), frame)?;
            if at % IN_FLIGHT == 0 {
                self.take(Duration::ZERO, &mut seen, &mut awaited)?;
            }
        }
        let mut ports: Vec<Ingress> = Vec::new();
        for (_, ingress, _) in frames {
            if !ports.iter().any(|other| other.port() == ingress.port()) {
                ports.push(*ingress);
            }
        }
        for ingress in ports {
            self.barriers += 1;
            let frame = packet::barrier(self.barriers);
            awaited.insert(self.barriers);
            let frame = match ingress {
                Ingress::Tunnel(kind, id) => super::outer::Outer::plain(kind, id).encode(&frame),
                Ingress::Vf(_) | Ingress::Uplink => frame,
            };
            self.send(end_of(ingress), &frame)?;
        }
        let begun = Instant::now();
        while !awaited.is_empty() {
            ensure!(begun.elapsed() < COMES_BACK_WITHIN, "{} barriers did not come back", awaited.len());
            self.take(SILENCE, &mut seen, &mut awaited)?;
        }
        self.take(LONG_SILENCE, &mut seen, &mut awaited)?;
        let dropped = self.switch.ends.dropped()?;
        ensure!(dropped == 0, "{dropped} frames found the socket of the far ends full");
        Ok(seen)
    }

    /// Takes what has come, until nothing comes for so long.
    fn take(&mut self, silence: Duration, seen: &mut Seen, awaited: &mut BTreeSet<u32>) -> Outcome {
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
                Some(number) if number >= BARRIERS => drop(awaited.remove(&number)),
                _ => seen.entry(number).or_default().entry(end).or_default().push(plain(end, frame)),
            }
        }
        Ok(())
    }

    fn install(&mut self, how: How, round: &mut Round) -> Outcome {
        let megaflows = self.kernel.megaflows()?;
        let overlaps = overlaps(&megaflows);
        for megaflow in megaflows {
            let text = text_of(&megaflow);
            if text.contains(&format!("eth_type({BARRIER:#06x})")) {
                continue;
            }
            round.megaflows += 1;
            let is_overlapped = megaflow.counters.ufid.is_some_and(|ufid| overlaps.is_overlapped(ufid));
            if is_overlapped {
                round.overlapped.push(text.clone());
                let port = megaflow.keys.as_ref().and_then(FlowKeys::in_port);
                let device = port.and_then(|port| self.kernel.device(port)).unwrap_or_default();
                round.uncertain_ports.extend(self.switch.port_of(device));
            }
            let filter = match self.kernel.translate(&megaflow)?.map_err(|why| why.to_string()) {
                Ok(filter) if !is_overlapped => filter,
                other => {
                    let why = other
                        .err()
                        .unwrap_or_else(|| "another megaflow takes some of its packets".to_owned());
                    *round.untranslatable.entry(why.clone()).or_default() += 1;
                    if how.with_texts {
                        round.texts.push(format!("{text}\n  software: {why}"));
                    }
                    continue;
                }
            };
            if !how.all_rules && dice::hash(&text).is_multiple_of(4) {
                round.left += 1;
                continue;
            }
            let installed = self.kernel.install(&filter)?;
            if how.with_texts {
                round.texts.push(format!("{text}\n  rule: {}", rule_text(&filter)));
            }
            match installed {
                Ok(report) if report.is_in_hw() => round.rules += 1,
                Ok(_) => *round.refused.entry("not in hardware".to_owned()).or_default() += 1,
                Err(refusal) => *round.refused.entry(refusal).or_default() += 1,
            }
        }
        Ok(())
    }
}

/// What is odd about the packet that was treated otherwise. Where a rewrite of a packet that is cut off has spoilt its number:
/// about the frames.
fn oddity(pipelines: &[Pipeline], difference: &Difference) -> Option<&'static str> {
    if let Some((which, packet)) = difference.of {
        let packet = pipelines.get(which)?.packets.get(packet)?;
        return odd::about(&packet.inner(0)).or_else(|| {
            let from_end = packet.checksum_that_is_made()?;
            difference.is_of_checksum(from_end).then_some(odd::NO_CHECKSUM)
        });
    }
    let mut frames = difference.software.values().chain(difference.hardware.values()).flatten();
    let first = odd::about(frames.next()?)?;
    frames.all(|frame| odd::about(frame).is_some()).then_some(first)
}

impl Difference {
    /// Whether all that differs are the two bytes that are so far from each frame's end.
    fn is_of_checksum(&self, from_end: usize) -> bool {
        let blank = |frame: &Vec<u8>| {
            let mut frame = frame.clone();
            let at = frame.len().checked_sub(from_end);
            if let Some(sum) = at.and_then(|at| frame.get_mut(at..at + 2)) {
                sum.fill(0);
            }
            frame
        };
        let blanked = |seen: &BTreeMap<End, Vec<Vec<u8>>>| -> BTreeMap<End, Vec<Vec<u8>>> {
            seen.iter().map(|(end, frames)| (*end, frames.iter().map(blank).collect())).collect()
        };
        blanked(&self.software) == blanked(&self.hardware)
    }
}

struct Watch {
    begun: Instant,
    at: usize,
}

impl Watch {
    fn lap(&mut self, round: &mut Round) {
        round.took[self.at] = self.begun.elapsed();
        (self.begun, self.at) = (Instant::now(), self.at + 1);
    }
}

const fn end_of(ingress: Ingress) -> End {
    match ingress {
        Ingress::Vf(vf) => End::Vf(vf),
        Ingress::Uplink => End::Wire,
        Ingress::Tunnel(..) => End::Underlay,
    }
}

/// Ports take turns, so that their packets meet in the switch.
fn frames(pipelines: &[Pipeline]) -> Vec<(u32, Ingress, Vec<u8>)> {
    let most = pipelines.iter().map(|pipeline| pipeline.packets.len()).max().unwrap_or(0);
    let numbered = (0..most).flat_map(|at| {
        pipelines.iter().enumerate().filter_map(move |(which, pipeline)| {
            let number = number_of(which, at);
            Some((number, pipeline.ingress, pipeline.packets.get(at)?.encode(number)))
        })
    });
    numbered.collect()
}

const fn number_of(pipeline: usize, packet: usize) -> u32 {
    (pipeline as u32) << 16 | packet as u32
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

fn differences(pipelines: &[Pipeline], software: &Seen, hardware: &Seen) -> Vec<Difference> {
    let numbers: BTreeSet<Option<u32>> = software.keys().chain(hardware.keys()).copied().collect();
    let mut all = Vec::new();
    for number in numbers {
        let of = |seen: &Seen| seen.get(&number).cloned().unwrap_or_default();
        let (mut software, mut hardware) = (of(software), of(hardware));
        if number.is_none() {
            // Of these, nobody knows which belong together.
            software.values_mut().chain(hardware.values_mut()).for_each(|frames| frames.sort());
        }
        if software != hardware {
            let of = number.map(|number| ((number >> 16) as usize, (number & 0xffff) as usize));
            let of = of.filter(|(pipeline, packet)| {
                pipelines.get(*pipeline).is_some_and(|pipeline| *packet < pipeline.packets.len())
            });
            all.push(Difference { of, software, hardware });
        }
    }
    all
}

/// Which megaflows take the same packets as others and do something else with them.
fn overlaps(megaflows: &[Megaflow<'_>]) -> Overlaps {
    let mut overlaps = Overlaps::default();
    for Megaflow { counters, keys, actions } in megaflows {
        if let (Some(ufid), Some(keys), Some(actions)) = (counters.ufid, keys, actions)
            && let Some(port) = keys.in_port()
        {
            let packets = Packets::of(keys);
            overlaps.set(ufid, (counters.dp, port), packets, Some(actions.to_string().as_bytes()));
        }
    }
    overlaps
}

fn text_of(megaflow: &Megaflow<'_>) -> String {
    let keys = megaflow.keys.as_ref().map(ToString::to_string).unwrap_or_default();
    let actions = megaflow.actions.as_ref().map(ToString::to_string).unwrap_or_default();
    format!("{keys}, actions: {actions}")
}

fn rule_text(filter: &Filter) -> String {
    let actions: Vec<String> = filter.actions.iter().map(|action| action.kind.to_string()).collect();
    format!(
        "{:?} prio {} {} | {}",
        filter.address.location,
        filter.address.prio.0,
        filter.keys,
        actions.join(" | ")
    )
}
