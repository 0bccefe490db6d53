//! A pipeline that fails, made smaller: fewer packets, then fewer flows, as long as it still fails.

use lab_tests::harness::Outcome;

use super::pipeline::Pipeline;
use super::round::{How, Judge, Round};

/// Rounds that may be spent on it.
const ROUNDS_MAX: usize = 60;

/// The smallest pipeline found, its round, and whether it fails by itself at all.
pub(super) struct Smallest {
    pub(super) pipeline: Pipeline,
    pub(super) round: Round,
    pub(super) fails: bool,
}

struct Search<'j, 'l> {
    judge: &'j mut Judge<'l>,
    how: How,
    spent: usize,
}

impl Search<'_, '_> {
    fn fails(&mut self, pipeline: &Pipeline) -> Outcome<bool> {
        self.spent += 1;
        Ok(!self.judge.run(std::slice::from_ref(pipeline), self.how)?.differences.is_empty())
    }

    fn is_spent(&self) -> bool {
        self.spent >= ROUNDS_MAX
    }

    /// Leaves out runs of packets, halves at first.
    fn fewer_packets(&mut self, pipeline: &mut Pipeline) -> Outcome {
        let mut run = pipeline.packets.len().div_ceil(2);
        while run > 0 && pipeline.packets.len() > 1 && !self.is_spent() {
            let mut at = 0;
            while at < pipeline.packets.len() && !self.is_spent() {
                let mut fewer = pipeline.clone();
                fewer.packets.drain(at..(at + run).min(pipeline.packets.len()));
                if !fewer.packets.is_empty() && self.fails(&fewer)? {
                    *pipeline = fewer;
                } else {
                    at += run;
                }
            }
            run /= 2;
        }
        Ok(())
    }

    fn fewer_flows(&mut self, pipeline: &mut Pipeline) -> Outcome {
        let mut at = 0;
        while at < pipeline.flows.len() && !self.is_spent() {
            let mut fewer = pipeline.clone();
            fewer.flows.remove(at);
            if self.fails(&fewer)? {
                *pipeline = fewer;
            } else {
                at += 1;
            }
        }
        Ok(())
    }
}

/// Makes `pipeline`, of which `packet` was treated otherwise, smaller.
pub(super) fn than(judge: &mut Judge<'_>, pipeline: &Pipeline, packet: usize) -> Outcome<Smallest> {
    let mut search = Search { judge, how: How::default(), spent: 0 };
    let mut smallest = pipeline.clone();
    // As a rule, the packet's own rule is wrong.
    let alone = Pipeline { packets: vec![pipeline.packets[packet].clone()], ..pipeline.clone() };
    search.how.all_rules = true;
    let mut fails = search.fails(&alone)?;
    if fails {
        smallest = alone;
    } else {
        search.how.all_rules = false;
        fails = search.fails(&smallest)?;
    }
    if fails {
        search.fewer_packets(&mut smallest)?;
        search.fewer_flows(&mut smallest)?;
    }
    let how = How { with_texts: true, ..search.how };
    let round = judge.run(std::slice::from_ref(&smallest), how)?;
    Ok(Smallest { pipeline: smallest, round, fails })
}
