//! One round: some pipelines at once, the same packets by software and by hardware, and what came out.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use lab_tests::harness::{Lab, Outcome};
use netlink_wire::ovs_flow::{FlowKeys, Megaflow};
use offload_engine::shadow::{Overlaps, Packets};
use tc_flower::Filter;

use super::dice;
use super::kernel::Kernel;
use super::odd;
use super::packet::{self, BARRIER};
use super::phase::{Barriers, LONG_SILENCE, Seen};
use super::pipeline::{Ingress, Pipeline};
use super::switch::{End, Switch};

/// So many times are packets sent by hardware, where some come out otherwise than by software: what ovs-vswitchd sends on late comes
/// out of another phase than its own. What differs each time is told.
const HARDWARE_TIMES: usize = 3;

/// A frame with its number and the place it is sent from.
pub(super) type Frame = (u32, Ingress, Vec<u8>);

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
    /// Packets that came out otherwise, and as by software when they were sent again.
    pub(super) late: usize,
    /// Packets sent with rules in the NIC.
    pub(super) sent_by_hardware: u64,
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
    pub(super) kernel: Kernel,
    pub(super) buffer: Vec<u8>,
    pub(super) barriers: Barriers,
    /// Packets that found the kernel's queue for ovs-vswitchd full.
    pub(super) lost: u64,
    pub(super) phases: usize,
    /// Nothing more comes after a phase once nothing has come for so long.
    pub(super) silence: Duration,
}

impl<'l> Judge<'l> {
    pub(super) fn new(lab: &'l mut Lab) -> Outcome<Self> {
        let switch = Switch::new(lab)?;
        let (buffer, barriers) = (Vec::new(), Barriers::default());
        Ok(Self {
            lab,
            switch,
            kernel: Kernel::open()?,
            buffer,
            barriers,
            lost: 0,
            phases: 0,
            silence: LONG_SILENCE,
        })
    }

    pub(super) fn run(&mut self, pipelines: &[Pipeline], how: How) -> Outcome<Round> {
        let mut round = Round::default();
        let mut watch = Watch { begun: Instant::now(), at: 0 };
        self.switch.clear_rules()?;
        self.load(pipelines)?;
        watch.lap(&mut round);
        let frames = frames(pipelines);
        round.sent = frames.len() as u64;
        let decided = self.decide(&frames)?;
        watch.lap(&mut round);
        let before = self.kernel.statistics()?.misses;
        let software = self.settled(&frames, decided)?;
        round.misses = self.kernel.statistics()?.misses - before;
        round.came_out = software.values().flat_map(BTreeMap::values).map(Vec::len).sum();
        watch.lap(&mut round);
        self.install(how, &mut round)?;
        watch.lap(&mut round);
        self.compare(pipelines, &frames, &software, &mut round)?;
        watch.lap(&mut round);
        Ok(round)
    }

    /// Sends the packets by hardware; what differs from software.
    fn compare(
        &mut self,
        pipelines: &[Pipeline],
        frames: &[Frame],
        software: &Seen,
        round: &mut Round,
    ) -> Outcome {
        let pardoned = pardoned(pipelines, &round.uncertain_ports);
        for time in 1..=HARDWARE_TIMES {
            let hardware = self.by_hardware(frames, software, &pardoned)?;
            round.sent_by_hardware += round.sent;
            round.odd.clear();
            round.uncertain = 0;
            let mut found = Vec::new();
            for difference in differences(pipelines, software, &hardware) {
                let pipeline = difference.of.and_then(|(which, _)| pipelines.get(which));
                let is_uncertain =
                    pipeline.is_some_and(|of| round.uncertain_ports.contains(&of.ingress.port()));
                match oddity(pipelines, &difference) {
                    Some(odd) => *round.odd.entry(odd).or_default() += 1,
                    None if is_uncertain => round.uncertain += 1,
                    None => found.push(difference),
                }
            }
            let before = round.differences.len();
            match time {
                1 => round.differences = found,
                _ => round.differences.retain(|one| found.iter().any(|other| other.of == one.of)),
            }
            round.late += before.saturating_sub(round.differences.len());
            if round.differences.is_empty() {
                break;
            }
        }
        Ok(())
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
                // As the daemon does: in software alone it has no business.
                Ok(report) => {
                    self.kernel.remove(&report)?;
                    *round.refused.entry("not in hardware".to_owned()).or_default() += 1;
                }
                Err(refusal) => *round.refused.entry(refusal).or_default() += 1,
            }
        }
        Ok(())
    }
}

/// Packets that may come out otherwise, by their number.
fn pardoned(pipelines: &[Pipeline], uncertain: &BTreeSet<u32>) -> BTreeSet<u32> {
    let mut all = BTreeSet::new();
    for (which, pipeline) in pipelines.iter().enumerate() {
        let is_uncertain = uncertain.contains(&pipeline.ingress.port());
        let odd = |packet: &packet::Packet| is_uncertain || odd::about(&packet.inner(0)).is_some();
        let at = pipeline.packets.iter().enumerate().filter(|(_, packet)| odd(packet)).map(|(at, _)| at);
        all.extend(at.map(|at| number_of(which, at)));
    }
    all
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

/// Ports take turns, so that their packets meet in the switch.
fn frames(pipelines: &[Pipeline]) -> Vec<Frame> {
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
