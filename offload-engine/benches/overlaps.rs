//! What it costs to know which megaflows overlap, when one comes and goes at a port that has many: by the indexes of groups, and, as the
//! peer, by laying it over each of the others.

use std::hint::black_box;
use std::net::Ipv4Addr;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use netlink_wire::ovs_flow::FlowKeys;
use netlink_wire::ovs_flow::keys::{EthKey, Ipv4Key, PortsKey};
use netlink_wire::{DpPort, EtherType, Ifindex, MacAddr, Masked, Ufid};
use offload_engine::shadow::{Entrance, Overlaps, Packets};

const HERE: Entrance = (Ifindex(3), DpPort(1));

/// Megaflows as a pipeline of L2, routes and ACLs makes them: `masks` kinds, which differ in how many bits of addresses and ports
/// matter.
fn megaflow(number: u32, masks: u32) -> Packets {
    let kind = number % masks;
    let [_, b, c, d] = (number / masks).to_be_bytes();
    let prefix = |bits: u32| Ipv4Addr::from_bits(!0 << (32 - bits));
    let ip = Ipv4Key {
        src: Masked::new(Ipv4Addr::new(10, d, c, b), prefix(8 + kind % 25)),
        dst: Masked::new(Ipv4Addr::new(172, 16, kind as u8, d), prefix(24 + kind % 9)),
        proto: Masked::exact(if kind.is_multiple_of(3) { 6 } else { 17 }),
        frag: Masked::exact(0),
        ..Ipv4Key::default()
    };
    let ports = PortsKey {
        src: Masked::new(u16::from_be_bytes([c, d]), if kind.is_multiple_of(2) { 0xffff } else { 0 }),
        dst: Masked::new(kind as u16, 0xffff),
    };
    let (tcp, udp) = if kind.is_multiple_of(3) { (Some(ports), None) } else { (None, Some(ports)) };
    Packets::of(&FlowKeys {
        in_port: Some(Masked::exact(DpPort(1))),
        eth: Some(EthKey {
            src: Masked::exact(MacAddr([2, 0, 0, b, c, d])),
            dst: Masked::exact(MacAddr([2, 0, 0, 0, 0, kind as u8])),
        }),
        ethertype: Some(Masked::exact(EtherType::IPV4)),
        ipv4: Some(ip),
        tcp,
        udp,
        ..FlowKeys::default()
    })
}

fn ufid(number: u32) -> Ufid {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&number.wrapping_mul(0x9e37_79b9).to_be_bytes());
    Ufid::from_bytes(bytes)
}

fn comes_and_goes(c: &mut Criterion) {
    let mut group = c.benchmark_group("a megaflow comes and goes");
    for (count, masks) in [(1_000, 8), (10_000, 8), (10_000, 50)] {
        let name = format!("{count} megaflows, {masks} masks");
        let mut all = Overlaps::default();
        let there: Vec<Packets> = (0..count).map(|number| megaflow(number, masks)).collect();
        for (number, packets) in (0..).zip(&there) {
            all.set(ufid(number), HERE, packets.clone(), Some(b"1"));
        }
        let mut number = count;
        group.bench_function(BenchmarkId::new("indexes", &name), |b| {
            b.iter(|| {
                number = count + (number + 1) % 1_000;
                let others = all.set(ufid(number), HERE, megaflow(number, masks), Some(b"2"));
                black_box(others.len() + all.remove(ufid(number)).len())
            });
        });
        group.bench_function(BenchmarkId::new("one by one", &name), |b| {
            b.iter(|| {
                number = count + (number + 1) % 1_000;
                let new = megaflow(number, masks);
                black_box(there.iter().filter(|packets| packets.overlap(&new)).count())
            });
        });
    }
    group.finish();
}

criterion_group!(benches, comes_and_goes);
criterion_main!(benches);
