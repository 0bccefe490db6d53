//! What it costs to read filters as ovs-vswitchd makes them, and to write the request that promotes one.

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use netlink_wire::{Message, Messages};
use std::hint::black_box;
use tc_flower::{FilterCounters, FilterReport, ReplaceActions, Seq, TcEvent, request};

#[path = "../../netlink-wire/tests/hex/mod.rs"]
mod hex;

/// The capture's messages again and again, as one dump of this many.
fn dump(name: &str, count: usize) -> Vec<u8> {
    let capture = hex::read(name);
    capture.messages.iter().cycle().take(count).flatten().copied().collect()
}

fn report(bytes: &[u8]) -> Option<FilterReport> {
    match TcEvent::decode(&Message::first(bytes).ok()?) {
        Ok(TcEvent::Filter(report)) => Some(*report),
        _ => None,
    }
}

fn benches(criterion: &mut Criterion) {
    const COUNT: u32 = 1000;
    let mut group = criterion.benchmark_group("filters");
    group.throughput(Throughput::Elements(COUNT.into()));
    let full = dump("ovs", COUNT as usize);
    group.bench_function("full", |bencher| {
        bencher.iter(|| {
            Messages::new(black_box(&full)).flatten().filter_map(|m| TcEvent::decode(&m).ok()).count()
        });
    });
    for name in ["ovs", "ovs-terse"] {
        let bytes = dump(name, COUNT as usize);
        group.bench_function(format!("counters/{name}"), |bencher| {
            bencher.iter(|| {
                let messages = Messages::new(black_box(&bytes)).flatten();
                messages.filter_map(|m| FilterCounters::decode(&m).ok().flatten()).count()
            });
        });
    }
    group.finish();
    let reports: Vec<_> = hex::read("ovs").messages.iter().filter_map(|bytes| report(bytes)).collect();
    let filter = reports.iter().find_map(|report| report.to_filter().ok());
    criterion.bench_function("replace", |bencher| {
        bencher.iter_batched(
            || filter.clone(),
            |filter| filter.map(|filter| request::replace(&filter, ReplaceActions::Fresh, Seq(1))),
            BatchSize::SmallInput,
        );
    });
}

criterion_group!(all, benches);
criterion_main!(all);
