//! `cargo xtask planner-table`: how close the planner comes to the oracle, over models, seeds and sizes of the table.
//!
//! Draws the traces, has `ovs-offloadctl replay` run them, and writes the means into docs/planner.md.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::problem::Problem;
use crate::trace::{self, Model, TraceOptions};

/// What the table is made from.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TableOptions {
    /// How many seeds, from 1.
    pub(crate) seeds: u64,
    /// Length of each trace, in seconds.
    pub(crate) duration_s: f64,
    /// What is left out at the beginning, in seconds.
    pub(crate) warmup_s: f64,
}

impl Default for TableOptions {
    fn default() -> Self {
        Self { seeds: 10, duration_s: 900.0, warmup_s: 300.0 }
    }
}

const SIZES: &str = "256,1024,4096,16384";
const BEGIN: &str = "<!-- written by `cargo xtask planner-table` -->\n";
const END: &str = "<!-- end -->\n";

/// Of each seed, by entries and policy: bytes in hardware, installs.
type Found = BTreeMap<(u32, String), Vec<(f64, f64)>>;

pub(crate) fn run(repository: &Path, options: &TableOptions) -> Result<(), Problem> {
    let cannot = |what: &str, error: std::io::Error| Problem::cannot(format!("cannot {what}: {error}."));
    let built = Command::new("cargo")
        .args(["build", "--release", "--package", "ovs-offloadd", "--bin", "ovs-offloadctl"])
        .current_dir(repository)
        .status()
        .map_err(|error| cannot("run cargo", error))?;
    if !built.success() {
        return Err(Problem::Failed("ovs-offloadctl does not build.".to_owned()));
    }
    let directory = repository.join("target/planner-table");
    fs::create_dir_all(&directory).map_err(|error| cannot("make target/planner-table", error))?;
    let mut text = format!(
        "{BEGIN}{} seeds; {} s of campus traffic, the first {} s left out; 1,000 installs/s. Bytes in hardware as a share of the \
         oracle's, and installs per second: means over the seeds, and for the planner the least of them.\n\n\
         | rates | entries | planner | at least | limit | best EWMA | OVS rule | oracle |\n\
         |---|---|---|---|---|---|---|---|\n",
        options.seeds, options.duration_s, options.warmup_s
    );
    for model in Model::ALL {
        let mut found = Found::new();
        for seed in 1..=options.seeds {
            eprintln!("{}, seed {seed}", model.name());
            replay(repository, &directory, options, model, seed, &mut found)?;
        }
        let rows = rows(model, options, &found);
        eprint!("{rows}");
        text.push_str(&rows);
    }
    text.push_str(END);
    let path = repository.join("docs/planner.md");
    let page = fs::read_to_string(&path).map_err(|error| cannot("read docs/planner.md", error))?;
    let page = put(&page, &text)
        .ok_or_else(|| Problem::cannot("docs/planner.md has no place for the table.".to_owned()))?;
    fs::write(&path, page).map_err(|error| cannot("write docs/planner.md", error))
}

fn replay(
    repository: &Path,
    directory: &Path,
    options: &TableOptions,
    model: Model,
    seed: u64,
    found: &mut Found,
) -> Result<(), Problem> {
    let file = directory.join("trace.csv");
    let duration_s = options.duration_s;
    trace::run(&TraceOptions {
        model,
        seed,
        duration_s,
        output: Some(file.clone()),
        ..TraceOptions::default()
    })?;
    let curve = directory.join("curve");
    let status = Command::new(repository.join("target/release/ovs-offloadctl"))
        .args([
            "--output",
            "json",
            "replay",
            "--entries",
            "256",
            "--installs-per-s",
            "1000",
            "--ewma",
            "--sweep",
        ])
        .args(["--sweep-entries", SIZES, "--warmup", &format!("{}s", options.warmup_s)])
        // Flows that began go on for long; without arrivals the table is easy.
        .args(["--until", &format!("{}s", options.duration_s), "--sweep-to"])
        .args([&curve, &file])
        .stdout(std::process::Stdio::null())
        .status();
    if !status.is_ok_and(|status| status.success()) {
        return Err(Problem::Failed(format!("the replay of {} failed.", file.display())));
    }
    let csv = fs::read_to_string(curve.with_extension("csv"))
        .map_err(|error| Problem::cannot(format!("cannot read the curve: {error}.")))?;
    add(&csv, found).ok_or_else(|| Problem::Failed("the curve is not as it should be.".to_owned()))
}

/// Adds the lines of a sweep's CSV: entries, policy, bytes in hardware, bytes, packets in hardware, packets, installs.
fn add(csv: &str, found: &mut Found) -> Option<()> {
    for line in csv.lines().skip(1) {
        let fields: Vec<&str> = line.split(',').collect();
        let number = |index: usize| fields.get(index)?.parse::<f64>().ok();
        let of_seeds =
            found.entry((fields.first()?.parse().ok()?, (*fields.get(1)?).to_owned())).or_default();
        of_seeds.push((number(2)?, number(6)?));
    }
    Some(())
}

fn rows(model: Model, options: &TableOptions, found: &Found) -> String {
    let seconds = (options.duration_s - options.warmup_s).max(1.0);
    let mut text = String::new();
    let mut sizes: Vec<u32> = found.keys().map(|(entries, _)| *entries).collect();
    sizes.dedup();
    for entries in sizes {
        let of = |policy: &str| found.get(&(entries, policy.to_owned())).map_or(&[][..], Vec::as_slice);
        let oracle = of("oracle");
        // Of each seed, so that a seed with an elephant more does not count for more.
        let shares = |policy| -> Vec<f64> {
            of(policy).iter().zip(oracle).map(|(one, oracle)| one.0 / oracle.0.max(1.0)).collect()
        };
        let mean =
            |values: &[f64]| values.iter().fold(0.0, |sum, value| sum + value) / values.len().max(1) as f64;
        let installs =
            |policy| mean(&of(policy).iter().map(|(_, installs)| installs / seconds).collect::<Vec<_>>());
        let least = shares("planner").into_iter().fold(f64::INFINITY, f64::min);
        let _ = write!(text, "| {} | {entries} ", model.name());
        let _ = write!(text, "| {:.4}, {:.0}/s ", mean(&shares("planner")), installs("planner"));
        let _ = write!(text, "| {least:.4} | {:.4} ", mean(&shares("seen-oracle")));
        for policy in ["best-ewma", "ovs-rebalance"] {
            let _ = write!(text, "| {:.4}, {:.0}/s ", mean(&shares(policy)), installs(policy));
        }
        let _ = writeln!(text, "| {:.0}/s |", installs("oracle"));
    }
    text
}

/// Puts the table in the place of the one before.
fn put(page: &str, table: &str) -> Option<String> {
    let (before, rest) = page.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{table}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_made_of_means_over_seeds_and_takes_the_place_of_the_one_before() {
        let csv = |planner| {
            format!("entries,policy,…\n256,oracle,200,0,0,0,60,0,0\n256,planner,{planner},0,0,0,30,0,0\n")
        };
        let mut found = Found::new();
        add(&csv(150), &mut found).expect("lines of a sweep");
        add(&csv(50), &mut found).expect("lines of a sweep");
        let options = TableOptions { seeds: 2, duration_s: 20.0, warmup_s: 10.0 };
        let row = rows(Model::Constant, &options, &found);
        assert_eq!(
            row,
            "| constant | 256 | 0.5000, 3/s | 0.2500 | 0.0000 | 0.0000, 0/s | 0.0000, 0/s | 6/s |\n"
        );
        let page = format!("a\n{BEGIN}old\n{END}b\n");
        assert_eq!(put(&page, &format!("{BEGIN}{row}{END}")), Some(format!("a\n{BEGIN}{row}{END}b\n")));
        assert_eq!(put("no place", &row), None);
        assert_eq!(add("head\n256,oracle\n", &mut Found::new()), None);
    }
}
