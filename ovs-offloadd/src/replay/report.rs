//! What a replay found, as JSON, as a table, and as CSV.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use policies::Micros;
use policies::replay::{Member, Options, Outcome, PolicyName, RecordedTraffic, Replay, Tally};
use serde::Serialize;

use super::args::ReplayArgs;
use super::input::FileTraffic;
use super::{chart, find};

/// What became of one policy.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PolicyResult {
    /// Bytes of flows while they were in hardware.
    pub bytes_in_hardware: u64,
    /// Packets of flows while they were in hardware.
    pub packets_in_hardware: u64,
    /// Flows put into hardware.
    pub installs: u64,
    /// Flows taken out of hardware; those that ended are not in it.
    pub evictions: u64,
    /// Installs of a flow within 2 s of its last install.
    pub flaps: u64,
    /// Bytes in hardware, as a share of what the oracle gets.
    pub share_of_oracle: Option<f64>,
    /// For the EWMA: the best half-life, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub half_life_s: Option<f64>,
    /// For the EWMA: the best hysteresis.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hysteresis: Option<f64>,
}

/// What became of all policies with one size of table.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SweepPoint {
    /// Entries of the table.
    pub entries: u32,
    /// Results by the policies' names.
    pub policies: BTreeMap<&'static str, PolicyResult>,
}

/// What the planner did for one tenant.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TenantResult {
    /// Bytes after the warm-up.
    pub bytes_total: u64,
    /// Those of them that were in hardware.
    pub bytes_in_hardware: u64,
}

/// What the daemon itself did while it was recorded.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RecordedResult {
    /// Bytes that the NIC forwarded.
    pub bytes_in_hardware: u64,
    /// Packets that the NIC forwarded.
    pub packets_in_hardware: u64,
    /// Rules placed in hardware.
    pub installs: u64,
    /// Rules taken out of hardware.
    pub evictions: u64,
    /// The most megaflows that were there at a time, the warm-up included.
    pub flows_max: u32,
    /// Bytes counted for megaflows that are not in the recording: they are in the totals, and nobody's in hardware.
    pub stray_bytes: u64,
    /// Epochs that are part of another one, since the daemon had no room for them.
    pub epochs_merged: u64,
    /// The most megaflows that were left out at a time, since the daemon had no room for them.
    pub left_out_max: u32,
    /// The NICs that megaflows were of.
    pub nics: Vec<u16>,
}

impl RecordedResult {
    fn of(traffic: &RecordedTraffic) -> Self {
        let done = traffic.done();
        Self {
            bytes_in_hardware: done.moved.hardware.bytes,
            packets_in_hardware: done.moved.hardware.packets,
            installs: done.promotions,
            evictions: done.demotions,
            flows_max: traffic.live_max(),
            stray_bytes: done.stray.bytes,
            epochs_merged: done.merged,
            left_out_max: done.left_out_max,
            nics: traffic.nics().iter().copied().collect(),
        }
    }

    /// What the user ought to know of the NICs, if the planner was to have the megaflows of `nic` or else all of them.
    fn note_of_nics(&self, nic: Option<u16>) -> Option<String> {
        match nic {
            None if self.nics.len() > 1 => Some(format!(
                "flows of {} NICs compete for one table here: --nic NUMBER takes those of one",
                self.nics.len()
            )),
            Some(nic) if !self.nics.contains(&nic) => {
                Some(format!("no flow was of NIC {nic}; the recording has {:?}", self.nics))
            }
            _ => None,
        }
    }
}

/// The result of a replay.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// The file of traffic.
    pub file: String,
    /// The NIC whose flows competed, if one was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nic: Option<u16>,
    /// Entries of the table.
    pub entries: u32,
    /// The install budget.
    pub installs_per_s: u32,
    /// How often the planner decides, in seconds.
    pub epoch_s: f64,
    /// How often everybody else decides, in seconds.
    pub oracle_epoch_s: f64,
    /// What was left out, in seconds.
    pub warmup_s: f64,
    /// How much of the traffic was replayed, in seconds, the warm-up included.
    pub replayed_s: f64,
    /// How long the traffic is, in seconds.
    pub span_s: f64,
    /// Whether it was stopped before the end.
    pub interrupted: bool,
    /// Bytes after the warm-up.
    pub bytes_total: u64,
    /// Packets after the warm-up.
    pub packets_total: u64,
    /// Results by the policies' names.
    pub policies: BTreeMap<&'static str, PolicyResult>,
    /// What the daemon itself did while it was recorded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recorded: Option<RecordedResult>,
    /// Why a recording ends before its time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// What the planner did for each tenant, by name, where the traffic has tenants.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub tenants: BTreeMap<String, TenantResult>,
    /// The same for tables of other sizes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sweep: Vec<SweepPoint>,
}

/// The name of the EWMA family's best in results.
const EWMA: &str = "best-ewma";

impl Report {
    pub(super) fn new(
        args: &ReplayArgs,
        options: &Options,
        replay: &Replay,
        traffic: &FileTraffic,
        interrupted: bool,
    ) -> Self {
        let (outcomes, family) = (replay.outcomes(), replay.ewma());
        let (bytes_total, packets_total) = replay.totals();
        let point =
            |entries: &u32| SweepPoint { entries: *entries, policies: results(&outcomes, &family, *entries) };
        let seconds = |time: Micros| time.0 as f64 / 1e6;
        let end = traffic.end().unwrap_or(replay.now());
        let tenants = traffic.tenants();
        Self {
            file: args.file.display().to_string(),
            nic: args.nic,
            entries: args.entries,
            installs_per_s: options.installs_per_s,
            epoch_s: seconds(options.epoch),
            oracle_epoch_s: seconds(options.oracle_epoch),
            warmup_s: seconds(options.warmup),
            replayed_s: seconds(replay.now().min(end)),
            span_s: seconds(end),
            interrupted,
            bytes_total,
            packets_total,
            policies: results(&outcomes, &family, args.entries),
            recorded: traffic.recording().map(|recording| RecordedResult::of(recording.traffic())),
            note: traffic.recording().filter(|_| !interrupted).and_then(|recording| recording.note()),
            tenants: of_tenants(&replay.tenants(args.entries), &tenants),
            sweep: if args.sweep { options.entries.iter().map(point).collect() } else { Vec::new() },
        }
    }

    /// What the drawing is about.
    pub(super) fn title(&self) -> String {
        format!("Bytes in hardware by table size, {} installs/s", self.installs_per_s)
    }

    /// The drawing's curves: bytes in hardware, as a share of all bytes, by entries.
    pub(super) fn curves(&self) -> Vec<chart::Curve> {
        let names: Vec<&'static str> =
            self.sweep.first().map(|point| point.policies.keys().copied().collect()).unwrap_or_default();
        let share = |result: &PolicyResult| {
            if self.bytes_total == 0 {
                0.0
            } else {
                result.bytes_in_hardware as f64 / self.bytes_total as f64
            }
        };
        names
            .into_iter()
            .map(|name| chart::Curve {
                name,
                points: self
                    .sweep
                    .iter()
                    .filter_map(|point| Some((f64::from(point.entries), share(point.policies.get(name)?))))
                    .collect(),
            })
            .collect()
    }

    /// One line per size and policy.
    pub(super) fn sweep_csv(&self) -> String {
        let mut text =
            "entries,policy,bytes_in_hardware,bytes_total,packets_in_hardware,packets_total,installs,\
                        evictions,flaps\n"
                .to_owned();
        for point in &self.sweep {
            for (name, result) in &point.policies {
                let _ = writeln!(
                    text,
                    "{},{name},{},{},{},{},{},{},{}",
                    point.entries,
                    result.bytes_in_hardware,
                    self.bytes_total,
                    result.packets_in_hardware,
                    self.packets_total,
                    result.installs,
                    result.evictions,
                    result.flaps
                );
            }
        }
        text
    }

    /// For people.
    pub fn table(&self) -> String {
        let mut text = format!(
            "{} s of traffic, the first {} s left out; {} entries, {} installs/s\n",
            self.replayed_s, self.warmup_s, self.entries, self.installs_per_s
        );
        if self.interrupted && self.span_s > self.replayed_s {
            let _ = writeln!(text, "interrupted: the file goes on until {} s", self.span_s);
        } else if self.interrupted {
            let _ = writeln!(text, "interrupted: the file goes on");
        }
        if let Some(note) = &self.note {
            let _ = writeln!(text, "{note}");
        }
        let mut table = comfy_table::Table::new();
        table.load_style(comfy_table::presets::NOTHING);
        table.set_header([
            "policy",
            "bytes",
            "packets",
            "of the oracle",
            "installs/s",
            "evictions/s",
            "flaps",
        ]);
        let percent = |part: u64, whole: u64| format!("{:.2}%", part as f64 * 100.0 / whole.max(1) as f64);
        let counted = (self.replayed_s - self.warmup_s).max(0.001);
        for (name, result) in &self.policies {
            let share = result.share_of_oracle.map(|share| format!("{share:.4}")).unwrap_or_default();
            table.add_row([
                (*name).to_owned(),
                percent(result.bytes_in_hardware, self.bytes_total),
                percent(result.packets_in_hardware, self.packets_total),
                share,
                format!("{:.1}", result.installs as f64 / counted),
                format!("{:.1}", result.evictions as f64 / counted),
                result.flaps.to_string(),
            ]);
        }
        if let Some(recorded) = &self.recorded {
            table.add_row([
                "as recorded".to_owned(),
                percent(recorded.bytes_in_hardware, self.bytes_total),
                percent(recorded.packets_in_hardware, self.packets_total),
                String::new(),
                format!("{:.1}", recorded.installs as f64 / counted),
                format!("{:.1}", recorded.evictions as f64 / counted),
                String::new(),
            ]);
        }
        let _ = writeln!(text, "{table}");
        if let Some(note) = self.recorded.as_ref().and_then(|recorded| recorded.note_of_nics(self.nic)) {
            let _ = writeln!(text, "{note}");
        }
        if let Some(RecordedResult { epochs_merged, left_out_max, .. }) = &self.recorded
            && *epochs_merged + u64::from(*left_out_max) > 0
        {
            let _ = writeln!(
                text,
                "not all of it was recorded: {epochs_merged} epochs are part of later ones, and at most {left_out_max} \
                 flows at a time were left out"
            );
        }
        text
    }
}

/// Nothing, where all flows are one tenant's or nobody's.
fn of_tenants(bytes: &[(u64, u64)], names: &[String]) -> BTreeMap<String, TenantResult> {
    let mut results: BTreeMap<String, TenantResult> = BTreeMap::new();
    for (name, (total, in_hardware)) in names.iter().zip(bytes).filter(|(_, (total, _))| *total > 0) {
        let nothing = TenantResult { bytes_total: 0, bytes_in_hardware: 0 };
        let result = results.entry(name.clone()).or_insert(nothing);
        result.bytes_total += total;
        result.bytes_in_hardware += in_hardware;
    }
    if names.iter().all(String::is_empty) { BTreeMap::new() } else { results }
}

fn results(outcomes: &[Outcome], family: &[Member], entries: u32) -> BTreeMap<&'static str, PolicyResult> {
    let oracle = find(outcomes, PolicyName::Oracle, entries).map(|outcome| outcome.tally.bytes);
    let result = |tally: Tally| PolicyResult {
        bytes_in_hardware: tally.bytes,
        packets_in_hardware: tally.packets,
        installs: tally.installs,
        evictions: tally.evictions,
        flaps: tally.flaps,
        share_of_oracle: oracle.filter(|bytes| *bytes > 0).map(|bytes| tally.bytes as f64 / bytes as f64),
        half_life_s: None,
        hysteresis: None,
    };
    let found = |policy| find(outcomes, policy, entries).map(|it| (policy.word(), result(it.tally)));
    let mut results: BTreeMap<_, _> = PolicyName::ALL.into_iter().filter_map(found).collect();
    let members = family.iter().filter(|member| member.entries == entries);
    if let Some(best) = members.max_by_key(|member| member.tally.bytes) {
        let best = PolicyResult {
            half_life_s: Some(best.half_life.0 as f64 / 1e6),
            hysteresis: Some(f64::from(best.hysteresis) / 100.0),
            ..result(best.tally)
        };
        results.insert(EWMA, best);
    }
    results
}
