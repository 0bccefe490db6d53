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

/// Sums over seeds: bytes in hardware, installs.
type Sums = BTreeMap<(u32, String), (f64, f64)>;

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
         oracle's, and installs per second.\n\n| rates | entries | planner | best EWMA | OVS rule | LRU | oracle |\n\
         |---|---|---|---|---|---|---|\n",
        options.seeds, options.duration_s, options.warmup_s
    );
    for model in Model::ALL {
        let mut sums = Sums::new();
        for seed in 1..=options.seeds {
            eprintln!("{}, seed {seed}", model.name());
            replay(repository, &directory, options, model, seed, &mut sums)?;
        }
        text.push_str(&rows(model, options, &sums));
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
    sums: &mut Sums,
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
        .args(["--sweep-entries", SIZES, "--warmup", &format!("{}s", options.warmup_s), "--sweep-to"])
        .args([&curve, &file])
        .stdout(std::process::Stdio::null())
        .status();
    if !status.is_ok_and(|status| status.success()) {
        return Err(Problem::Failed(format!("the replay of {} failed.", file.display())));
    }
    let csv = fs::read_to_string(curve.with_extension("csv"))
        .map_err(|error| Problem::cannot(format!("cannot read the curve: {error}.")))?;
    add(&csv, sums).ok_or_else(|| Problem::Failed("the curve is not as it should be.".to_owned()))
}

/// Adds the lines of a sweep's CSV: entries, policy, bytes in hardware, bytes, packets in hardware, packets, installs.
fn add(csv: &str, sums: &mut Sums) -> Option<()> {
    for line in csv.lines().skip(1) {
        let fields: Vec<&str> = line.split(',').collect();
        let number = |index: usize| fields.get(index)?.parse::<f64>().ok();
        let sum = sums.entry((fields.first()?.parse().ok()?, (*fields.get(1)?).to_owned())).or_default();
        sum.0 += number(2)?;
        sum.1 += number(6)?;
    }
    Some(())
}

fn rows(model: Model, options: &TableOptions, sums: &Sums) -> String {
    let counted = (options.duration_s - options.warmup_s).max(1.0) * options.seeds.max(1) as f64;
    let mut text = String::new();
    let mut sizes: Vec<u32> = sums.keys().map(|(entries, _)| *entries).collect();
    sizes.dedup();
    for entries in sizes {
        let of = |policy: &str| sums.get(&(entries, policy.to_owned())).copied().unwrap_or_default();
        let oracle = of("oracle");
        let _ = write!(text, "| {} | {entries} ", model.name());
        for policy in ["planner", "best-ewma", "ovs-rebalance", "lru"] {
            let (bytes, installs) = of(policy);
            let _ = write!(text, "| {:.4}, {:.0}/s ", bytes / oracle.0.max(1.0), installs / counted);
        }
        let _ = writeln!(text, "| {:.0}/s |", oracle.1 / counted);
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
    fn a_table_is_made_of_sums_over_seeds_and_takes_the_place_of_the_one_before() {
        let csv = "entries,policy,…\n256,oracle,200,0,0,0,60,0,0\n256,planner,150,0,0,0,30,0,0\n";
        let mut sums = Sums::new();
        add(csv, &mut sums).expect("lines of a sweep");
        add(csv, &mut sums).expect("lines of a sweep");
        let options = TableOptions { seeds: 2, duration_s: 20.0, warmup_s: 10.0 };
        let row = rows(Model::Constant, &options, &sums);
        assert_eq!(row, "| constant | 256 | 0.7500, 3/s | 0.0000, 0/s | 0.0000, 0/s | 0.0000, 0/s | 6/s |\n");
        let page = format!("a\n{BEGIN}old\n{END}b\n");
        assert_eq!(put(&page, &format!("{BEGIN}{row}{END}")), Some(format!("a\n{BEGIN}{row}{END}b\n")));
        assert_eq!(put("no place", &row), None);
        assert_eq!(add("head\n256,oracle\n", &mut Sums::new()), None);
    }
}
