//! Makes a recording of a CSV of flows, as `ovs-offloadctl record` would have written it at epochs of 500 ms: to try a replay
//! of more traffic than there is at hand.
//!
//! `cargo xtask trace --flows-per-s 8700 --duration-s 3600 --output hour.csv`, then
//! `cargo run --release -p ovs-offloadd --example recording_of_csv -- hour.csv hour.rec 3600`.
//!
//! Each flow gets addresses and ports of its own; everything is counted in software.

use std::error::Error;
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::Path;

use ovs_offloadd::recording::{Sink, Writer};
use policies::Micros;
use policies::language::{Header, PortName, Subject};
use policies::recording::{
    About, Amount, Ending, Epoch, Home, MOVES_MAX, Move, Record, Scribe, Split, Start, write,
};
use policies::replay::{CsvReader, FlowNumber, Moved, TraceTraffic, Traffic as _};

const EPOCH: Micros = Micros::from_millis(500);
/// Representors that flows come in by.
const PORTS: u64 = 64;

struct Maker {
    scribe: Scribe,
    names: Vec<(String, String)>,
    /// The number that each flow of the trace goes by, while its megaflow is there.
    numbers: Vec<u32>,
    given: u32,
    free: Vec<u32>,
    live_max: usize,
}

const NONE: u32 = u32::MAX;

/// SplitMix64.
fn draw(flow: u64, what: u64) -> u64 {
    let mut z = (flow << 8 | what).wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(0x6a09_e667_f3bc_c909);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Maker {
    fn new(flows: u32) -> Self {
        let name = |n| (format!("pf0vf{n}"), format!("{:016x}", draw(n, 99)));
        Self {
            scribe: Scribe::new(),
            names: (0..PORTS).map(name).collect(),
            numbers: vec![NONE; flows as usize],
            given: 0,
            free: Vec::new(),
            live_max: 0,
        }
    }

    fn gone(&mut self, out: &mut Vec<u8>, flow: FlowNumber) {
        let number = std::mem::replace(&mut self.numbers[flow.0 as usize], NONE);
        if number != NONE {
            write(out, &Record::Gone(number));
            self.free.push(number);
        }
    }

    fn moved(&mut self, out: &mut Vec<u8>, begin: Micros, moved: &Moved) -> Move {
        let flow = moved.flow.0 as usize;
        if self.numbers[flow] == NONE {
            self.numbers[flow] = self.free.pop().unwrap_or_else(|| {
                self.given += 1;
                self.given - 1
            });
            self.live_max = self.live_max.max(self.given as usize - self.free.len());
            let appeared_us = moved.appeared.0 as i64 - begin.0 as i64;
            let about = About { number: self.numbers[flow], appeared_us, home: Home::Tc, nic: Some(0) };
            self.describe(out, &about, u64::from(moved.flow.0));
        }
        let software = Amount { packets: moved.packets, bytes: moved.bytes };
        Move { flow: self.numbers[flow], moved: Split { software, hardware: Amount::default() } }
    }

    fn describe(&mut self, out: &mut Vec<u8>, about: &About, flow: u64) {
        let port = draw(flow, 0) % PORTS;
        let (name, iface_id) = &self.names[port as usize];
        let uplink = [PortName { name: Some("p0"), iface_id: Some("") }];
        let mut subject = Subject::default();
        subject.inport = PortName { name: Some(name), iface_id: Some(iface_id) };
        subject.outports = Some(&uplink);
        subject.encap = Some("");
        let proto = if draw(flow, 1) & 3 == 0 { 17 } else { 6 };
        for (header, value) in [
            (Header::EthSrc, 0x0a00_0000_0000 | u128::from(port)),
            (Header::EthDst, 0x0a00_0000_ffff),
            (Header::EthType, 0x0800),
            (Header::VlanTci, 0),
            (Header::InnerVlanTci, 0),
            (Header::IpProto, proto),
            (Header::IpFrag, 0),
            (Header::Ip4Src, u128::from(0x0a00_0000 | (draw(flow, 2) & 0xffff) << 2 | port)),
            (Header::Ip4Dst, u128::from(draw(flow, 3) & 0xffff_ffff)),
            (Header::L4Src, u128::from(draw(flow, 4) & 0xffff)),
            (Header::L4Dst, if draw(flow, 5) & 1 == 0 { 443 } else { u128::from(draw(flow, 6) & 0xffff) }),
            (Header::Tunnel, 0),
            (Header::RecircId, 0),
        ] {
            subject.set_exact(header, value);
        }
        (subject.rewrites, subject.drops, subject.recirculates) = (Some(false), Some(false), Some(false));
        self.scribe.flow(out, about, &subject);
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [csv, recording, seconds] = arguments.as_slice() else {
        return Err("usage: recording_of_csv CSV RECORDING SECONDS".into());
    };
    let end = Micros::from_secs(seconds.parse()?);
    let mut reader = CsvReader::new();
    let (mut input, mut line) = (BufReader::with_capacity(1 << 20, File::open(csv)?), String::new());
    while input.read_line(&mut line)? > 0 {
        reader.take(&line)?;
        line.clear();
    }
    let trace = reader.finish()?;
    let mut maker = Maker::new(trace.flows);
    let mut traffic = TraceTraffic::new(trace, EPOCH);
    let mut sink = Sink::new(Writer::create(Path::new(recording))?, None);
    let mut out = Vec::new();
    write(&mut out, &Record::Start(Start { wall_s: 0, epoch: EPOCH, is_anonymised: false }));
    let (mut moves, mut readings, mut is_first) = (Vec::new(), 0, true);
    while let Some(tick) = traffic.tick().filter(|tick| tick.end <= end) {
        tick.gone.iter().for_each(|flow| maker.gone(&mut out, *flow));
        if !std::mem::take(&mut is_first) {
            write(&mut out, &Record::Epoch(Epoch { past: EPOCH, ..Epoch::default() }));
            sink.take(&out)??;
            out.clear();
        }
        moves.clear();
        moves.extend(tick.moved.iter().map(|moved| maker.moved(&mut out, tick.begin, moved)));
        readings += moves.len();
        moves.sort_unstable_by_key(|moved: &Move| moved.flow);
        moves.chunks(MOVES_MAX).for_each(|part| write(&mut out, &Record::Moved(part)));
    }
    write(&mut out, &Record::Epoch(Epoch { past: EPOCH, ..Epoch::default() }));
    sink.take(&out)??;
    let recorded = sink.finish(Ending::TimeIsUp)?;
    println!("{}", recorded.sentence(Path::new(recording)));
    println!("{readings} readings; at most {} megaflows at a time", maker.live_max);
    Ok(())
}
