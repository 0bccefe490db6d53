//! `cargo xtask trace`: draws traffic from a published model of a campus network, as CSV for `ovs-offloadctl replay`.
//!
//! Arrivals and sizes are those of one hour of the uplink of AGH University of Krakow (10 June 2015): 6,517,484 flows of 547 GB.
//! The data has no durations and no rates, so how fast a flow sends is assumed, and there are several models to vary it.

mod campus;
mod dice;
mod rates;

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;

use crate::problem::Problem;
use dice::Dice;
pub(crate) use rates::Model;
use rates::Row;

/// What to draw.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TraceOptions {
    /// How fast flows send.
    pub(crate) model: Model,
    /// What the draw begins with; another one gives other flows of the same kind.
    pub(crate) seed: u64,
    /// For how long flows arrive, in seconds.
    pub(crate) duration_s: f64,
    /// How many arrive per second.
    pub(crate) flows_per_s: f64,
    /// Among how many tenants they are shared; 0: nobody's.
    pub(crate) tenants: u32,
    /// Flows of one more tenant that all begin at two thirds of the time.
    pub(crate) flood: u32,
    /// Where to; standard output if nowhere.
    pub(crate) output: Option<PathBuf>,
}

impl Default for TraceOptions {
    fn default() -> Self {
        Self {
            model: Model::Constant,
            seed: 1,
            duration_s: 900.0,
            flows_per_s: campus::FLOWS_PER_S,
            tenants: 0,
            flood: 0,
            output: None,
        }
    }
}

/// Draws the trace and writes it.
pub(crate) fn run(options: &TraceOptions) -> Result<(), Problem> {
    let outcome = match &options.output {
        Some(path) => File::create(path).and_then(|file| write(options, &mut BufWriter::new(file))),
        None => write(options, &mut BufWriter::new(io::stdout().lock())),
    };
    match outcome {
        // As with `| head`.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => {
            let place =
                options.output.as_ref().map_or("standard output".into(), |path| path.to_string_lossy());
            Err(Problem::cannot(format!("cannot write the trace to {place}: {error}.")))
        }
        Ok(()) => Ok(()),
    }
}

fn write(options: &TraceOptions, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "flow,start_s,end_s,packets,bytes,on_s,off_s,tenant")?;
    let mut dice = Dice::new(options.seed);
    let mut at = 0.0;
    let mut number = 0_u64;
    let mut rows = Vec::new();
    for row in options.model.residents(&mut dice, options.duration_s) {
        write_row(out, &format!("r{}", row.flow), &row, "")?;
    }
    while at < options.duration_s {
        at += dice.exponential()
            / options.flows_per_s
            / options.model.intensity(at, options.duration_s).max(0.01);
        let size = campus::size(&mut dice);
        rows.clear();
        options.model.draw(&mut dice, at, options.duration_s, size, &mut rows);
        let tenant = match options.tenants {
            0 => String::new(),
            tenants => format!("t{}", dice.below(u64::from(tenants))),
        };
        for row in rows.iter().filter(|row| row.start < options.duration_s) {
            write_row(out, &number.to_string(), row, &tenant)?;
        }
        number += 1;
    }
    let flood_at = options.duration_s * 2.0 / 3.0;
    for flow in 0..options.flood {
        let start = flood_at + dice.fraction();
        let end = options.duration_s.max(start + 1.0);
        let packets = ((end - start) * 40.0) as u64;
        let row = Row { flow: 0, start, end, packets, bytes: packets * 1_000, bursts: None };
        write_row(out, &format!("f{flow}"), &row, "flood")?;
    }
    out.flush()
}

fn write_row(out: &mut impl Write, name: &str, row: &Row, tenant: &str) -> io::Result<()> {
    let Row { start, end, packets, bytes, .. } = row;
    match row.bursts {
        Some((on, off)) => {
            writeln!(out, "{name},{start:.6},{end:.6},{packets},{bytes},{on:.3},{off:.3},{tenant}")
        }
        None => writeln!(out, "{name},{start:.6},{end:.6},{packets},{bytes},,,{tenant}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(options: &TraceOptions) -> String {
        let mut text = Vec::new();
        write(options, &mut text).expect("memory takes everything");
        String::from_utf8(text).expect("text")
    }

    fn short(model: Model) -> TraceOptions {
        TraceOptions { model, duration_s: 20.0, flows_per_s: 500.0, ..TraceOptions::default() }
    }

    #[test]
    fn the_same_seed_gives_the_same_trace_and_another_one_another() {
        for model in Model::ALL {
            let options = short(model);
            assert_eq!(drawn(&options), drawn(&options));
            assert_ne!(drawn(&options), drawn(&TraceOptions { seed: 2, ..options }));
        }
    }

    #[test]
    fn every_row_is_a_phase_that_replay_can_read() {
        for model in Model::ALL {
            let mut reader = policies::replay::CsvReader::new();
            for line in drawn(&TraceOptions { tenants: 3, flood: 10, ..short(model) }).lines() {
                reader.take(line).unwrap_or_else(|bad| panic!("{}: {bad}", model.name()));
            }
            let trace = reader.finish().expect("a header");
            assert!(trace.flows > 9_000, "{}: {} flows", model.name(), trace.flows);
            assert!(trace.phases.iter().all(|phase| phase.bytes >= 64 * phase.packets));
        }
    }
}
