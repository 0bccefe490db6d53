//! The judge of the translator: random OpenFlow pipelines and random packets, each by software only and by hardware.
//!
//! A pipeline is a few tables of flows for the packets of one port, and its packets: some that the flows were drawn for,
//! and mutants of them, in which one thing is another or bytes are damaged. Some sixty pipelines are loaded into one
//! bridge at once and tried in a round:
//!
//! 1. All packets are sent, so that Open vSwitch decides about each, and the kernel datapath has its megaflows.
//! 2. They are sent again, until the same comes out twice in a row. The kernel datapath forwards them; what comes out where is what
//!    ought to.
//! 3. The megaflows are read and translated, and the rules given to the NIC: three quarters of them, so that packets of
//!    those that were left out probe whether the others' rules take what is not theirs.
//! 4. The packets are sent a third time. What comes out has to be the same, byte for byte, at the same ports. Where some does
//!    not, they are sent twice more, for what ovs-vswitchd had sent on late: what differs each time fails.
//!
//! Compared is what came out of each packet, known by a number at its end: at each port the frames in order. The order of
//! different packets is not compared, since those that hardware forwards overtake those that software does. Of frames into
//! tunnels, IPv4's identification and UDP's source port are left out, which whoever makes the tunnel's header chooses.
//!
//! Open vSwitch makes a few megaflows that overlap and do different things, even of tables that do not change. These have no rule, as
//! in mode shadow, and which of them software takes is not the same each time: of their ports, packets that are treated otherwise are
//! counted, and fail nothing.
//!
//! Packets that TC has no words for ([`odd`]) are sent, too; those that are treated otherwise are counted by what is odd
//! about them, and fail nothing.
//!
//! What differs is made smaller, fewer packets and fewer flows, as long as it still fails, and told with its seed.
//! `LAB_SEED=N` repeats the pipeline of that seed, alone, and `LAB_SEED=N..M` those from `N` to before `M`, however many.

mod acting;
mod dice;
mod kernel;
mod matching;
mod mutant;
mod odd;
mod outer;
mod packet;
mod phase;
mod pipeline;
mod round;
mod smaller;
mod switch;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use lab_tests::harness::{Failure, Lab, Outcome, ensure};

use crate::simnic::rig::hex;
use pipeline::{AT_ONCE, PACKETS, Pipeline};
use round::{Difference, How, Judge, Round};

/// Pipelines in every run of the tests.
const MANY: u64 = 2_000;
/// Of packets that were sent with rules in the NIC, the share that has to have gone by hardware, in percent.
const BY_HARDWARE_MIN: u64 = 40;
/// Differences that are made smaller and told; others are counted.
const TOLD: usize = 6;

/// What all rounds did.
#[derive(Default)]
struct Total {
    pipelines: usize,
    sent: u64,
    came_out: usize,
    megaflows: usize,
    rules: usize,
    left: usize,
    untranslatable: BTreeMap<String, usize>,
    refused: BTreeMap<String, usize>,
    odd: BTreeMap<&'static str, usize>,
    overlapped: Vec<String>,
    uncertain: usize,
    late: usize,
    sent_by_hardware: u64,
    took: [Duration; 5],
    misses: u64,
    different: usize,
    told: Vec<String>,
}

impl Total {
    fn add(&mut self, pipelines: usize, round: &Round) {
        self.pipelines += pipelines;
        self.sent += round.sent;
        self.came_out += round.came_out;
        self.misses += round.misses;
        self.megaflows += round.megaflows;
        self.rules += round.rules;
        self.left += round.left;
        for (all, some) in
            [(&mut self.untranslatable, &round.untranslatable), (&mut self.refused, &round.refused)]
        {
            for (why, count) in some {
                *all.entry(why.clone()).or_default() += count;
            }
        }
        self.uncertain += round.uncertain;
        self.late += round.late;
        self.sent_by_hardware += round.sent_by_hardware;
        self.overlapped.extend(round.overlapped.iter().cloned());
        for (why, count) in &round.odd {
            *self.odd.entry(why).or_default() += count;
        }
        for (all, some) in self.took.iter_mut().zip(round.took) {
            *all += some;
        }
        self.different += round.differences.len();
    }

    fn print(&self, judge: &Judge<'_>, by_hardware: u64, took: Duration) {
        println!(
            "    {} pipelines, {} packets in {:.0} s, of which {:.1} % by hardware; {} frames came out",
            self.pipelines,
            self.sent,
            took.as_secs_f64(),
            100.0 * by_hardware as f64 / self.sent_by_hardware.max(1) as f64,
            self.came_out
        );
        println!(
            "    {} megaflows: {} as rules in hardware, {} left to software to probe the others' rules",
            self.megaflows, self.rules, self.left
        );
        println!(
            "    {} times by software, a packet had no megaflow, and ovs-vswitchd sent it on",
            self.misses
        );
        println!(
            "    s for loading, upcalls, software, rules, hardware: {:?}",
            self.took.map(|took| took.as_secs())
        );
        println!(
            "    {} phases; {} packets came late; {} found ovs-vswitchd's queue full and {} barriers did not come back, all of which were sent again",
            judge.phases, self.late, judge.lost, judge.barriers.again
        );
        let reasons = |title: &str, all: &BTreeMap<String, usize>| {
            let mut sorted: Vec<_> = all.iter().collect();
            sorted.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
            for (why, count) in sorted {
                println!("    {title} {count:>6}  {why}");
            }
        };
        reasons("software", &self.untranslatable);
        reasons("refused ", &self.refused);
        for megaflow in self.overlapped.iter().take(TOLD) {
            println!("    overlaps {megaflow}");
        }
        println!(
            "    {} megaflows overlap with others that do something else; of their ports {} packets were treated otherwise",
            self.overlapped.len(),
            self.uncertain
        );
        for (why, count) in &self.odd {
            println!("    treated otherwise, as is known, {count:>5} packets with {why}");
        }
    }
}

fn seeds() -> Outcome<std::ops::Range<u64>> {
    if let Ok(seed) = std::env::var("LAB_SEED") {
        let number = |text: &str| text.parse::<u64>().map_err(|_| Failure::new("LAB_SEED is not a number"));
        return match seed.split_once("..") {
            Some((first, end)) => Ok(number(first)?..number(end)?),
            None => Ok(number(&seed)?..number(&seed)? + 1),
        };
    }
    Ok(0..MANY)
}

fn told_of(of: &Pipeline, difference: &Difference) -> String {
    let packet = difference.of.and_then(|(_, packet)| of.packets.get(packet));
    let mut text = match packet {
        Some(packet) => format!("  packet {packet:?}\n  sent   {}\n", hex(&packet.encode(0))),
        None => "  frames that have no number of a packet\n".to_owned(),
    };
    for (way, seen) in [("software", &difference.software), ("hardware", &difference.hardware)] {
        if seen.is_empty() {
            text.push_str(&format!("  by {way}: nothing\n"));
        }
        for (end, frame) in seen.iter().flat_map(|(end, frames)| frames.iter().map(move |frame| (end, frame)))
        {
            text.push_str(&format!("  by {way}: {end:?} {}\n", hex(frame)));
        }
    }
    text
}

/// What fails of `pipeline`, in the smallest case found.
fn tell(judge: &mut Judge<'_>, pipeline: &Pipeline, difference: &Difference) -> Outcome<String> {
    let mut text = format!("pipeline of LAB_SEED={}, from {:?}:\n", pipeline.seed, pipeline.ingress);
    let packet = difference.of.map_or(0, |(_, packet)| packet);
    let smallest = smaller::than(judge, pipeline, packet)?;
    if !smallest.fails {
        text.push_str(" by itself it does not fail; in its round:\n");
        text.push_str(&told_of(pipeline, difference));
    }
    for flow in &smallest.pipeline.flows {
        text.push_str(&format!("  {flow}\n"));
    }
    for difference in &smallest.round.differences {
        text.push_str(&told_of(&smallest.pipeline, difference));
    }
    for (why, count) in &smallest.round.refused {
        text.push_str(&format!("  refused {count}: {why}\n"));
    }
    for megaflow in &smallest.round.texts {
        text.push_str(&format!("  {megaflow}\n"));
    }
    Ok(text)
}

/// Each packet of each pipeline comes out by hardware as by software.
pub(super) fn rules_treat_packets_as_their_megaflows_do(lab: &mut Lab) -> Outcome {
    let begun = Instant::now();
    let mut judge = Judge::new(lab)?;
    let (mut total, seeds) = (Total::default(), seeds()?);
    let before = judge.switch.counted()?;
    let mut at = seeds.start;
    while at < seeds.end {
        let end = (at + AT_ONCE).min(seeds.end);
        let pipelines: Vec<Pipeline> = (at..end).map(Pipeline::draw).collect();
        let round = judge.run(&pipelines, How::default())?;
        total.add(pipelines.len(), &round);
        for difference in &round.differences {
            if total.told.len() < TOLD
                && let Some(pipeline) = pipelines.get(difference.of.map_or(0, |(which, _)| which))
            {
                let told = tell(&mut judge, pipeline, difference)?;
                eprintln!("{told}");
                total.told.push(told);
            } else if total.different < 200
                && let Some(pipeline) = pipelines.get(difference.of.map_or(0, |(which, _)| which))
            {
                eprintln!("LAB_SEED={}: {}", pipeline.seed, told_of(pipeline, difference));
            }
        }
        at = end;
    }
    let after = judge.switch.counted()?;
    let by_hardware = after.hardware - before.hardware;
    total.print(&judge, by_hardware, begun.elapsed());
    ensure!(
        after.lost == before.lost,
        "the NIC dropped {} packets for want of room",
        after.lost - before.lost
    );
    ensure!(
        total.different == 0,
        "{} of {} packets differ:\n{}",
        total.different,
        total.sent,
        total.told.join("\n")
    );
    ensure!(
        total.pipelines < AT_ONCE as usize || by_hardware * 100 >= total.sent_by_hardware * BY_HARDWARE_MIN,
        "{by_hardware} of {} packets went by hardware, which proves little",
        total.sent_by_hardware
    );
    ensure!(
        total.overlapped.len() * 100 <= total.megaflows || total.pipelines < AT_ONCE as usize,
        "{} of {} megaflows overlap with others, so that little is judged",
        total.overlapped.len(),
        total.megaflows
    );
    ensure!(total.sent == (total.pipelines * PACKETS) as u64, "{} packets were sent", total.sent);
    Ok(())
}
