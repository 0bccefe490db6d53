//! What it costs to read megaflows of the kernel datapath.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use netlink_wire::Messages;
use netlink_wire::ovs_flow::{FlowCounters, Megaflow};
use std::hint::black_box;

#[path = "../tests/hex/mod.rs"]
mod hex;

/// The capture's messages again and again, as one dump of this many.
fn dump(name: &str, count: usize) -> Vec<u8> {
    let capture = hex::read(name);
    capture.messages.iter().cycle().take(count).flatten().copied().collect()
}

fn benches(criterion: &mut Criterion) {
    const COUNT: u32 = 1000;
    let mut group = criterion.benchmark_group("megaflows");
    group.throughput(Throughput::Elements(COUNT.into()));
    let full = dump("ovs_flow", COUNT as usize);
    group.bench_function("full", |bencher| {
        bencher.iter(|| {
            for message in Messages::new(black_box(&full)).flatten() {
                let _ = black_box(Megaflow::decode(&message));
            }
        });
    });
    for name in ["ovs_flow", "ovs_flow-counters"] {
        let bytes = dump(name, COUNT as usize);
        group.bench_function(format!("counters/{name}"), |bencher| {
            bencher.iter(|| {
                for message in Messages::new(black_box(&bytes)).flatten() {
                    let _ = black_box(FlowCounters::decode(&message));
                }
            });
        });
    }
    group.finish();
}

criterion_group!(all, benches);
criterion_main!(all);
