//! The kernel datapath of Open vSwitch: which packets a megaflow takes, and what it does with them, after Linux 6.12's
//! `net/openvswitch/{flow.c,flow_netlink.c,actions.c}`. It knows nothing of the translator.

mod draw;
mod execute;
mod netlink;

pub(crate) use draw::{draw, is_valid};
pub(crate) use execute::{Sent, execute};
pub(crate) use netlink::message;

use crate::packet::{self, IPV4, IPV6, Options, Outer, Packet, be16, is_mpls, is_vlan};
use std::net::IpAddr;

/// Fields of `struct sw_flow_key`, and how long they are.
macro_rules! fields {
    ($($name:ident: $length:literal),* $(,)?) => {
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub(crate) enum Field { $($name),* }
        pub(crate) const LENGTHS: &[usize] = &[$($length),*];
    };
}

fields! {
    InPort: 4, TunProto: 1, TunFlags: 1, TunId: 8, TunSrc4: 4, TunDst4: 4, TunSrc6: 16, TunDst6: 16, TunTos: 1,
    TunTtl: 1, TunTpSrc: 2, TunTpDst: 2, OptsLen: 1, Opts: 64, EthSrc: 6, EthDst: 6, Tpid: 2, Tci: 2, InnerTpid: 2,
    InnerTci: 2, EthType: 2, Proto: 1, Tos: 1, Ttl: 1, Frag: 1, Src4: 4, Dst4: 4, Sha: 6, Tha: 6, Src6: 16,
    Dst6: 16, Label: 4, TpSrc: 2, TpDst: 2, TcpFlags: 2, NdTarget: 16, NdSll: 6, NdTll: 6, Lse0: 4, Lse1: 4,
    Lse2: 4, Labels: 1, Mark: 4, Priority: 4, DpHash: 4, CtState: 4,
}
use Field as F;

const LENGTH: usize = 512;
/// `IP_TUNNEL_*_BIT`
const KEY: u8 = 1;
const CSUM: u8 = 2;
const DF: u8 = 4;
const OAM: u8 = 8;
const GENEVE: u8 = 16;
const VXLAN: u8 = 32;

/// `struct sw_flow_key`, or a mask of it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Key([u8; LENGTH]);

impl Default for Key {
    fn default() -> Self {
        Self([0; LENGTH])
    }
}

fn range(field: Field) -> std::ops::Range<usize> {
    let start = LENGTHS[..field as usize].iter().sum();
    start..start + LENGTHS[field as usize]
}

impl Key {
    pub(crate) fn get(&self, field: Field) -> &[u8] {
        &self.0[range(field)]
    }

    fn set(&mut self, field: Field, bytes: &[u8]) {
        self.0[range(field)].copy_from_slice(bytes);
    }

    fn number(&self, field: Field) -> u64 {
        self.get(field).iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte))
    }

    fn fill(&mut self, field: Field) {
        self.0[range(field)].fill(0xff);
    }

    fn masked(&self, mask: &Self) -> Self {
        Self(std::array::from_fn(|at| self.0[at] & mask.0[at]))
    }
}

/// `ovs_flow_key_extract()`
pub(crate) fn extract(packet: &Packet) -> Key {
    let mut key = Key::default();
    key.set(F::InPort, &packet.in_port.to_be_bytes());
    if let Some(outer) = &packet.outer {
        extract_outer(&mut key, outer);
    }
    let bytes = &packet.bytes;
    key.set(F::EthDst, &bytes[..6]);
    key.set(F::EthSrc, &bytes[6..12]);
    let mut at = 12;
    for (tpid, tci) in [(F::Tpid, F::Tci), (F::InnerTpid, F::InnerTci)] {
        let Some(ethertype) = be16(bytes, at).filter(|ethertype| is_vlan(*ethertype)) else { break };
        key.set(tpid, &ethertype.to_be_bytes());
        key.set(tci, &(be16(bytes, at + 2).unwrap_or(0) | 0x1000).to_be_bytes());
        at += 4;
    }
    let ethertype = match be16(bytes, at).unwrap_or(0) {
        length if length < 0x600 => 0x0004,
        ethertype => ethertype,
    };
    key.set(F::EthType, &ethertype.to_be_bytes());
    let l3 = &bytes[at + 2..];
    match ethertype {
        IPV4 => extract_ipv4(&mut key, l3),
        IPV6 => extract_ipv6(&mut key, l3),
        packet::ARP | packet::RARP => extract_arp(&mut key, l3),
        _ if is_mpls(ethertype) => extract_mpls(&mut key, l3),
        _ => {}
    }
    key
}

fn extract_outer(key: &mut Key, outer: &Outer) {
    match (outer.src, outer.dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            key.set(F::TunProto, &[2]);
            key.set(F::TunSrc4, &src.octets());
            key.set(F::TunDst4, &dst.octets());
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            key.set(F::TunProto, &[10]);
            key.set(F::TunSrc6, &src.octets());
            key.set(F::TunDst6, &dst.octets());
        }
        _ => panic!("a tunnel of two families"),
    }
    let options = outer.option_bytes();
    let kind = match &outer.options {
        Options::None => 0,
        Options::Geneve(_) => GENEVE,
        Options::Gbp(_) => VXLAN,
    };
    let flag = |set: bool, flag: u8| if set { flag } else { 0 };
    let flags = flag(outer.id.is_some(), KEY)
        | flag(outer.csum, CSUM)
        | flag(outer.df, DF)
        | flag(outer.oam, OAM)
        | flag(!options.is_empty(), kind);
    key.set(F::TunFlags, &[flags]);
    key.set(F::TunId, &outer.id.unwrap_or(0).to_be_bytes());
    key.set(F::TunTos, &[outer.tos]);
    key.set(F::TunTtl, &[outer.ttl]);
    key.set(F::TunTpSrc, &outer.tp_src.to_be_bytes());
    key.set(F::TunTpDst, &outer.tp_dst.to_be_bytes());
    key.set(F::OptsLen, &[options.len() as u8]);
    let start = range(F::Opts).start;
    key.0[start..start + options.len()].copy_from_slice(&options);
}

impl Outer {
    /// Options as the kernel keeps them.
    pub(crate) fn option_bytes(&self) -> Vec<u8> {
        match &self.options {
            Options::None => Vec::new(),
            Options::Geneve(bytes) => bytes.clone(),
            Options::Gbp(gbp) => gbp.to_ne_bytes().to_vec(),
        }
    }
}

fn extract_ipv4(key: &mut Key, l3: &[u8]) {
    let length = usize::from(l3[0] & 15) * 4;
    key.set(F::Src4, &l3[12..16]);
    key.set(F::Dst4, &l3[16..20]);
    key.set(F::Proto, &[l3[9]]);
    key.set(F::Tos, &[l3[1]]);
    key.set(F::Ttl, &[l3[8]]);
    let fragment = be16(l3, 6).unwrap_or(0);
    if fragment & 0x1fff != 0 {
        return key.set(F::Frag, &[2]);
    }
    key.set(F::Frag, &[u8::from(fragment & 0x2000 != 0)]);
    extract_l4(key, l3[9], &l3[length..], false);
}

/// The protocol behind all extension headers, and where it begins; nothing of a later fragment.
fn find_ipv6(l3: &[u8]) -> (Option<(u8, usize)>, u8) {
    let (mut next, mut at, mut frag) = (l3[6], 40, 0);
    loop {
        match next {
            0 | 60 | 43 => (next, at) = (l3[at], at + 8 + usize::from(l3[at + 1]) * 8),
            44 => {
                if be16(l3, at + 2).unwrap_or(0) & !7 != 0 {
                    return (None, 2);
                }
                (next, at, frag) = (l3[at], at + 8, 1);
            }
            _ => return (Some((next, at)), frag),
        }
    }
}

fn extract_ipv6(key: &mut Key, l3: &[u8]) {
    let word = u32::from_be_bytes([l3[0], l3[1], l3[2], l3[3]]);
    key.set(F::Tos, &[(word >> 20) as u8]);
    key.set(F::Label, &(word & 0xfffff).to_be_bytes());
    key.set(F::Ttl, &[l3[7]]);
    key.set(F::Src6, &l3[8..24]);
    key.set(F::Dst6, &l3[24..40]);
    let (found, frag) = find_ipv6(l3);
    key.set(F::Frag, &[frag]);
    match found {
        None => key.set(F::Proto, &[44]),
        Some((proto, at)) => {
            key.set(F::Proto, &[proto]);
            extract_l4(key, proto, &l3[at..], true);
        }
    }
}

fn extract_l4(key: &mut Key, proto: u8, l4: &[u8], is_v6: bool) {
    match proto {
        packet::TCP | packet::UDP | packet::SCTP => {
            key.set(F::TpSrc, &l4[..2]);
            key.set(F::TpDst, &l4[2..4]);
            if proto == packet::TCP {
                key.set(F::TcpFlags, &(be16(l4, 12).unwrap_or(0) & 0xfff).to_be_bytes());
            }
        }
        packet::ICMP if !is_v6 => {
            key.set(F::TpSrc, &[0, l4[0]]);
            key.set(F::TpDst, &[0, l4[1]]);
        }
        packet::ICMPV6 if is_v6 => {
            key.set(F::TpSrc, &[0, l4[0]]);
            key.set(F::TpDst, &[0, l4[1]]);
            if l4[1] == 0 && matches!(l4[0], 135 | 136) {
                key.set(F::NdTarget, &l4[8..24]);
                let option = if l4[24] == 1 { F::NdSll } else { F::NdTll };
                key.set(option, &l4[26..32]);
            }
        }
        _ => {}
    }
}

fn extract_arp(key: &mut Key, l3: &[u8]) {
    if l3[..6] != [0, 1, 8, 0, 6, 4] {
        return;
    }
    let op = be16(l3, 6).unwrap_or(0);
    key.set(F::Proto, &[u8::try_from(op).unwrap_or(0)]);
    key.set(F::Sha, &l3[8..14]);
    key.set(F::Src4, &l3[14..18]);
    key.set(F::Tha, &l3[18..24]);
    key.set(F::Dst4, &l3[24..28]);
}

fn extract_mpls(key: &mut Key, l3: &[u8]) {
    let mut count = 0;
    for (at, entry) in l3.chunks_exact(4).enumerate() {
        if let Some(field) = [F::Lse0, F::Lse1, F::Lse2].get(at) {
            key.set(*field, entry);
        }
        count += 1;
        if entry[2] & 1 != 0 {
            break;
        }
    }
    key.set(F::Labels, &[[0, 1, 3, 7][count.min(3)]]);
}

/// One action.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    Output(u32),
    /// `OVS_KEY_ATTR_*`, value, and mask; without one, all bits.
    Set(u16, Vec<u8>, Option<Vec<u8>>),
    SetTunnel(Outer),
    PushVlan(u16, u16),
    PopVlan,
    PushMpls(u32, u16),
    PopMpls(u16),
    DecTtl,
    CtClear,
    Drop,
    /// Of this number and payload: nothing that a NIC does.
    Other(u16, Vec<u8>),
}

const ETHERNET_ATTR: u16 = 4;
const IPV4_ATTR: u16 = 7;
const IPV6_ATTR: u16 = 8;
const TCP_ATTR: u16 = 9;
const UDP_ATTR: u16 = 10;
const SCTP_ATTR: u16 = 17;
const MPLS_ATTR: u16 = 21;

#[derive(Clone)]
pub(crate) struct Megaflow {
    pub(crate) key: Key,
    pub(crate) mask: Key,
    pub(crate) actions: Vec<Act>,
}

impl Megaflow {
    /// `masked_flow_lookup()`
    pub(crate) fn takes(&self, packet: &Packet) -> bool {
        extract(packet).masked(&self.mask) == self.key
    }
}

impl std::fmt::Debug for Megaflow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.actions)
    }
}

/// The megaflow that looks at everything of a packet, and drops it.
pub(crate) fn exact(packet: &Packet) -> Megaflow {
    let key = extract(packet);
    let mut mask = Key([0xff; LENGTH]);
    for field in [F::Label, F::NdTarget, F::NdSll, F::NdTll, F::Priority, F::DpHash] {
        mask.0[range(field)].fill(0);
    }
    Megaflow { key: key.masked(&mask), mask, actions: Vec::new() }
}
