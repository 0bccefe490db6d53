//! Flows of the kernel datapath: what they take, and what they do.

use crate::kernel::{self, DP, attr, port};
use netlink_wire::ovs_flow::FlowBody;
use netlink_wire::{DpPort, Ufid};
use offload_engine::{Count, Megaflow, PortFacts, PortKind};
use tc_flower::{ActionKind, Filter, FilterAddress, FilterFlags, FilterReport};

/// Flows that take packets of others, by their number: how many bits of the address matter.
pub(super) const WIDE: [(u64, u32); 2] = [(11, 30), (12, 29)];
/// Flows whose packets come out of a tunnel.
const OF_TUNNEL: [u64; 3] = [8, 9, 10];
/// The port of that, and the UDP port of its packets.
pub(super) const TUNNEL: u32 = 4;
const UDP_PORT: u16 = 6081;
/// The one of them whose packets are sent twice where they are sent to this port, which the NIC does not do with what comes out of a tunnel.
const TWICE: (u64, u32) = (10, 3);

/// A flow of the kernel datapath.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Flow {
    /// The port it sends packets to.
    pub(super) to: u32,
    pub(super) packets: u64,
}

/// The port of the tunnel: its device is nobody's port of a NIC.
pub(super) fn tunnel() -> PortFacts {
    PortFacts {
        name: "genev_sys_6081".into(),
        kind: PortKind::Tunnel,
        tunnel_kind: Some("geneve".into()),
        tunnel_port: Some(UDP_PORT),
        nic: None,
        hw_tc_offload: false,
        ..port(TUNNEL)
    }
}

pub(super) fn ufid(number: u64) -> Ufid {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&number.to_be_bytes());
    Ufid::from_bytes(bytes)
}

/// The addresses that a flow's packets go to, and the bits of them that matter: 10.0.0.`number`, but for wide ones.
fn addresses(number: u64) -> (u32, u32) {
    let net = u32::from_be_bytes([10, 0, 0, 0]);
    match WIDE.iter().find(|(wide, _)| *wide == number) {
        Some((_, bits)) => (net, !0 << (32 - bits)),
        None => (net | number as u32, !0),
    }
}

/// Whether some packet is of both flows.
pub(super) fn overlap(one: u64, other: u64) -> bool {
    let ((one, mask), (other, other_mask)) = (addresses(one), addresses(other));
    (one ^ other) & mask & other_mask == 0
}

/// The port that a flow's packets come in by.
fn enters(number: u64) -> u32 {
    if OF_TUNNEL.contains(&number) { TUNNEL } else { 1 }
}

/// IPv4 of a port to its addresses, sent to a port.
pub(super) fn body(number: u64, to: u32) -> FlowBody {
    let (mut key, mut mask, mut actions) = (Vec::new(), Vec::new(), Vec::new());
    let (dst, dst_mask) = addresses(number);
    attr(&mut key, 20, &[0; 4]);
    attr(&mut mask, 20, &[0xff; 4]);
    attr(&mut key, 3, &enters(number).to_ne_bytes());
    attr(&mut mask, 3, &[0xff; 4]);
    if enters(number) == TUNNEL {
        let (mut of_key, mut of_mask) = (Vec::new(), Vec::new());
        // Id 7, from 172.16.0.2 to 172.16.0.1; no word of the UDP port, as the kernel has none.
        for (kind, value) in
            [(0, &[0, 0, 0, 0, 0, 0, 0, 7][..]), (1, &[172, 16, 0, 2]), (2, &[172, 16, 0, 1])]
        {
            attr(&mut of_key, kind, value);
            attr(&mut of_mask, kind, &vec![0xff; value.len()]);
        }
        attr(&mut key, 16, &of_key);
        attr(&mut mask, 16, &of_mask);
    }
    attr(&mut key, 4, &[0; 12]);
    attr(&mut mask, 4, &[0; 12]);
    attr(&mut key, 6, &[8, 0]);
    attr(&mut mask, 6, &[0xff; 2]);
    attr(&mut key, 7, &[&[0; 4][..], &dst.to_be_bytes(), &[0; 4]].concat());
    attr(&mut mask, 7, &[&[0; 4][..], &dst_mask.to_be_bytes(), &[0, 0, 0, 0xff]].concat());
    attr(&mut actions, 1, &to.to_ne_bytes());
    if is_twice(number, to) {
        attr(&mut actions, 1, &to.to_ne_bytes());
    }
    FlowBody::from_parts(&key, Some(&mask), &actions).unwrap()
}

/// Whether a flow's packets are sent twice.
pub(super) fn is_twice(number: u64, to: u32) -> bool {
    (number, to) == TWICE
}

pub(super) fn megaflow(number: u64, flow: Flow) -> Box<Megaflow> {
    Box::new(Megaflow {
        ufid: ufid(number),
        dp: DP,
        in_port: Some(DpPort(enters(number))),
        needs_chain_restore: false,
        counted: Some(counted(flow.packets)),
        unfit: None,
        body: Some(body(number, flow.to)),
    })
}

/// So many packets, of 100 bytes each.
pub(super) fn counted(packets: u64) -> Count {
    Count::new(packets, packets * 100)
}

/// Whether a driver takes a rule.
pub(super) fn is_taken(filter: &Filter) -> bool {
    let outputs = filter.actions.iter().filter(|action| matches!(action.kind, ActionKind::Mirred(_)));
    filter.address.location != tunnel().location || outputs.count() < 2
}

/// What the kernel tells of a rule that has counted so much: of one that no driver took, that it is in software.
pub(super) fn report(address: FilterAddress, filter: &Filter, counted: Count) -> FilterReport {
    let mut report = kernel::report(address, filter, counted);
    if address.location == tunnel().location {
        report.flags = if is_taken(filter) { FilterFlags::IN_HW } else { FilterFlags::NONE };
    }
    report
}
