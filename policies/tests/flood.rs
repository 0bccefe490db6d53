//! A tenant that opens 100,000 flows at once, as a replay sees it: what another tenant keeps of the table.

use policies::planner::{Division, Settings, TenantId};
use policies::replay::{CsvReader, Options, PolicyName, Replay, TraceTraffic, Traffic as _};
use policies::{Micros, Weight};

/// Entries of the table.
const ENTRIES: u32 = 128;
/// Flows of the one tenant: far more than its half of the table.
const MEEK: u32 = 200;
/// Flows that the other opens, each faster than any of the first tenant's.
const FLOOD: u32 = 100_000;
const FLOOD_AT_S: u32 = 10;
const END_S: u32 = 16;
const EPOCH: Micros = Micros::from_millis(500);

/// The tenants' numbers, by the order in which they come.
const MEEK_TENANT: usize = 1;
const FLOOD_TENANT: usize = 2;

/// The meek tenant's flows, half of which begin in the midst of the flood, and the flood if there is one.
fn trace(with_flood: bool) -> CsvReader {
    let mut reader = CsvReader::new();
    let mut take = |line: &str| reader.take(line).expect("a row");
    take("flow,start_s,end_s,packets,bytes,on_s,off_s,tenant");
    for flow in 0..MEEK {
        let start = if flow < MEEK / 2 { 0 } else { FLOOD_AT_S + 2 };
        // 30 to 50 kB/s.
        let bytes = (END_S - start) * (30_000 + 100 * flow);
        take(&format!("m{flow},{start},{END_S},{},{bytes},,,meek", bytes / 500));
    }
    for flow in 0..if with_flood { FLOOD } else { 0 } {
        // All within a quarter of a second, 100 kB/s.
        let start = f64::from(FLOOD_AT_S) + f64::from(flow) / f64::from(FLOOD) / 4.0;
        let bytes = (END_S - FLOOD_AT_S) * 100_000;
        take(&format!("f{flow},{start:.6},{END_S},{},{bytes},,,flood", bytes / 1_000));
    }
    reader
}

/// Bytes of each tenant from the beginning of the flood on, and those of them that were in hardware.
fn tenants(with_flood: bool, entries: u32, division: Division) -> Vec<(u64, u64)> {
    let options = Options {
        entries: vec![entries],
        installs_per_s: 1_000,
        epoch: EPOCH,
        oracle_epoch: EPOCH,
        warmup: Micros::from_secs(u64::from(FLOOD_AT_S)),
        settings: Settings::default(),
        classes: Vec::new(),
        division,
        ewma: false,
    };
    let trace = trace(with_flood).finish().expect("a header");
    let mut replay = Replay::new(&options, trace.flows);
    let mut traffic = TraceTraffic::new(trace, EPOCH);
    while let Some(tick) = traffic.tick() {
        replay.tick(&tick);
    }
    replay.finish();
    let planner = replay.outcomes().into_iter().find(|it| it.policy == PolicyName::Planner);
    let tenants = replay.tenants(entries);
    let in_hardware: u64 = tenants.iter().map(|it| it.1).sum();
    assert_eq!(planner.map(|it| it.tally.bytes), Some(in_hardware), "tenants' bytes are all there are");
    tenants
}

#[test]
fn a_flood_of_100_000_flows_leaves_another_tenant_what_half_of_the_table_is_worth() {
    let alone = tenants(false, ENTRIES / 2, Division::default())[MEEK_TENANT];
    let flooded = tenants(true, ENTRIES, Division::default());
    let (meek, flood) = (flooded[MEEK_TENANT], flooded[FLOOD_TENANT]);
    println!("alone with half of the table {alone:?}; in the flood {meek:?}; the flood {flood:?}");
    assert_eq!(alone.0, meek.0, "the same traffic");
    assert!(meek.1 >= alone.1, "{} bytes in hardware, and {} with half of the table alone", meek.1, alone.1);
    assert!(flood.1 > meek.1, "the flood's flows are faster, and it has its own half");
    // A flood that is entitled to nearly everything shows what is kept from it.
    let shares = [(TenantId(FLOOD_TENANT as u16), Weight::from_thousandths(1_000_000))].into();
    let outweighed = tenants(true, ENTRIES, Division { shares, ..Division::default() })[MEEK_TENANT];
    println!("outweighed a thousandfold {outweighed:?}");
    assert!(outweighed.1 < alone.1 / 4, "{} bytes in hardware", outweighed.1);
}
