//! Which packets a megaflow takes, as one row of bits under a mask, so that two can be laid over each other.
//!
//! A bit that the kernel datapath compares and that is left out here is one of which two megaflows are not told apart:
//! they are then taken to overlap, which costs a place in hardware and nothing else. So it is with NSH, the tuple of a connection,
//! ERSPAN and keys without a name, which no rule has either.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::{Ipv4Addr, Ipv6Addr};
use netlink_wire::ovs_flow::keys::{
    ArpKey, EthKey, IcmpKey, Ipv4Key, Ipv6Key, NdKey, PortsKey, RawKey, VlanKey,
};
use netlink_wire::ovs_flow::{FlowKeys, TunnelFlags, TunnelKey};
use netlink_wire::{Bits, DpPort, EtherType, MacAddr, Masked, RecircId};

/// 64 bits of the row: which, and those of them that matter.
pub(super) type Word = (u16, u64);

/// Which packets a megaflow takes.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Packets {
    /// Words of which some bit matters, in order.
    pub(super) mask: Arc<[Word]>,
    /// What these have to be.
    pub(super) values: Box<[u64]>,
}

impl Packets {
    /// Those of a megaflow with these keys.
    pub fn of(keys: &FlowKeys) -> Self {
        Row::of(keys).packed()
    }

    /// All there are: for a megaflow of which nothing is known.
    pub fn all() -> Self {
        Self::default()
    }

    /// Whether some packet is of both.
    pub fn overlap(&self, other: &Self) -> bool {
        let on = common(&self.mask, &other.mask);
        let theirs = projected(&other.mask, &other.values, &on);
        projected(&self.mask, &self.values, &on).eq(theirs)
    }
}

/// The bits that matter to both.
pub(super) fn common(one: &[Word], other: &[Word]) -> Vec<Word> {
    let (mut one, mut other) = (one.iter().peekable(), other.iter().peekable());
    let mut both = Vec::new();
    while let (Some((at, bits)), Some((other_at, other_bits))) = (one.peek(), other.peek()) {
        if at == other_at && bits & other_bits != 0 {
            both.push((*at, bits & other_bits));
        }
        let (step, other_step) = (at <= other_at, other_at <= at);
        step.then(|| one.next());
        other_step.then(|| other.next());
    }
    both
}

/// What of `values`, which are under `mask`, is under `on`, whose words are among those of `mask`.
pub(super) fn projected<'a>(
    mask: &'a [Word],
    values: &'a [u64],
    on: &'a [Word],
) -> impl Iterator<Item = u64> + 'a {
    let mut all = mask.iter().zip(values);
    on.iter().filter_map(move |(at, bits)| all.find(|((of, _), _)| of == at).map(|(_, value)| value & bits))
}

/// Bits as bytes.
trait Octets: Bits {
    fn put(self, to: &mut Vec<u8>);
}

macro_rules! octets {
    ($($type:ty: $self:ident => $bytes:expr;)*) => {$(
        impl Octets for $type {
            fn put($self, to: &mut Vec<u8>) {
                to.extend($bytes);
            }
        }
    )*};
}

octets! {
    u8: self => [self];
    u16: self => self.to_be_bytes();
    u32: self => self.to_be_bytes();
    u64: self => self.to_be_bytes();
    [u8; 16]: self => self;
    Ipv4Addr: self => self.octets();
    Ipv6Addr: self => self.octets();
    MacAddr: self => self.0;
    EtherType: self => self.0.to_be_bytes();
    DpPort: self => self.0.to_be_bytes();
    RecircId: self => self.0.to_be_bytes();
    TunnelFlags: self => [self.0];
}

/// Bytes of all keys without those of variable length, roughly.
const ROOM: usize = 512;

/// Keys one after the other, each at the same place in every row.
struct Row {
    values: Vec<u8>,
    mask: Vec<u8>,
}

impl Row {
    fn of(keys: &FlowKeys) -> Self {
        // By name, so that a key that is new here is not forgotten.
        let FlowKeys {
            priority,
            in_port,
            skb_mark,
            dp_hash,
            recirc_id,
            tunnel,
            ct_state,
            ct_zone,
            ct_mark,
            ct_labels,
            ct_tuple_ipv4: _,
            ct_tuple_ipv6: _,
            packet_type,
            eth,
            vlans,
            ethertype,
            mpls,
            ipv4,
            ipv6,
            ipv6_exthdrs,
            tcp,
            tcp_flags,
            udp,
            sctp,
            icmp,
            icmpv6,
            arp,
            nd,
            nsh: _,
            unknown: _,
        } = keys;
        let mut row = Self { values: Vec::with_capacity(ROOM), mask: Vec::with_capacity(ROOM) };
        // What is asked of nearly every packet comes first, and so do its words.
        row.put(*ethertype);
        // The kernel always matches the tags that are not there (`ovs_nla_get_match()`: «Always match on tci»).
        row.put(Some(Masked::exact(vlans.iter().flatten().count() as u8)));
        let protos = [ipv4.map(|ip| ip.proto), ipv6.map(|ip| ip.proto)];
        protos.into_iter().for_each(|proto| row.put(proto));
        let EthKey { src, dst } = eth.unwrap_or_default();
        row.both(src, dst);
        for vlan in vlans {
            let VlanKey { tpid, tci } = vlan.unwrap_or_default();
            row.both(tpid, tci);
        }
        row.network(ipv4.unwrap_or_default(), ipv6.unwrap_or_default());
        for ports in [tcp, udp, sctp] {
            let PortsKey { src, dst } = ports.unwrap_or_default();
            row.both(src, dst);
        }
        row.put(*tcp_flags);
        for types in [icmp, icmpv6] {
            let IcmpKey { kind, code } = types.unwrap_or_default();
            row.both(kind, code);
        }
        mpls.iter().for_each(|entry| row.put(*entry));
        row.resolution(arp.unwrap_or_default(), nd.unwrap_or_default());
        row.put(*in_port);
        row.put(*recirc_id);
        [priority, skb_mark, dp_hash, ct_state, ct_mark, packet_type]
            .into_iter()
            .for_each(|key| row.put(*key));
        row.put(*ct_zone);
        row.put(*ct_labels);
        row.put(*ipv6_exthdrs);
        row.tunnel(tunnel.as_ref().unwrap_or(&TunnelKey::default()));
        row
    }

    fn put<T: Octets>(&mut self, key: Option<Masked<T>>) {
        let key = key.unwrap_or_default();
        key.value.put(&mut self.values);
        key.mask.put(&mut self.mask);
    }

    fn both<T: Octets, U: Octets>(&mut self, one: Masked<T>, other: Masked<U>) {
        self.put(Some(one));
        self.put(Some(other));
    }

    fn network(&mut self, v4: Ipv4Key, v6: Ipv6Key) {
        let Ipv4Key { src, dst, proto: _, tos, ttl, frag } = v4;
        self.both(src, dst);
        self.both(tos, ttl);
        self.put(Some(frag));
        let Ipv6Key { src, dst, label, proto: _, tclass, hlimit, frag } = v6;
        self.both(src, dst);
        self.both(tclass, hlimit);
        self.both(frag, label);
    }

    fn resolution(&mut self, arp: ArpKey, nd: NdKey) {
        let ArpKey { sip, tip, op, sha, tha } = arp;
        self.both(sip, tip);
        self.both(sha, tha);
        self.put(Some(op));
        let NdKey { target, sll, tll } = nd;
        self.put(Some(target));
        self.both(sll, tll);
    }

    fn tunnel(&mut self, key: &TunnelKey) {
        let TunnelKey {
            id,
            ipv4_src,
            ipv4_dst,
            ipv6_src,
            ipv6_dst,
            tos,
            ttl,
            tp_src,
            tp_dst,
            flags,
            geneve,
            vxlan_gbp,
            erspan: _,
            unknown: _,
        } = key;
        let looks = |key: &Option<Masked<Ipv4Addr>>| key.is_some_and(|key| !key.is_any());
        let looks_v6 = |key: &Option<Masked<Ipv6Addr>>| key.is_some_and(|key| !key.is_any());
        // The kernel always matches the family of a tunnel's ends (`tun_proto`).
        let is_v4 = looks(ipv4_src) || looks(ipv4_dst);
        let is_v6 = looks_v6(ipv6_src) || looks_v6(ipv6_dst);
        self.put((is_v4 || is_v6).then(|| Masked::exact(u8::from(is_v6))));
        self.put(*id);
        [ipv4_src, ipv4_dst].into_iter().for_each(|end| self.put(*end));
        [ipv6_src, ipv6_dst].into_iter().for_each(|end| self.put(*end));
        [tos, ttl].into_iter().for_each(|key| self.put(*key));
        [tp_src, tp_dst].into_iter().for_each(|key| self.put(*key));
        self.put(Some(*flags));
        self.put(*vxlan_gbp);
        self.options(geneve.as_ref());
    }

    /// The kernel matches how long all options are, where a megaflow has any (`tun_opts_len`). They are last in the row.
    fn options(&mut self, options: Option<&RawKey>) {
        let options = options.filter(|options| !options.value.is_empty());
        let length = options.and_then(|options| u16::try_from(options.value.len()).ok());
        self.put(length.map(Masked::exact));
        if let Some(RawKey { value, mask }) = options {
            self.values.extend(value);
            self.mask.extend(mask.iter().take(value.len()));
            self.mask.resize(self.values.len(), 0);
        }
    }

    fn packed(mut self) -> Packets {
        let length = self.mask.len().next_multiple_of(8);
        self.values.resize(length, 0);
        self.mask.resize(length, 0);
        let word = |bytes: &[u8]| bytes.iter().fold(0, |word, byte| word << 8 | u64::from(*byte));
        let words = self.mask.chunks(8).map(word).zip(self.values.chunks(8).map(word));
        let numbered = (0_u16..).zip(words).filter(|(_, (mask, _))| *mask != 0);
        let (mask, values): (Vec<Word>, Vec<u64>) =
            numbered.map(|(at, (mask, value))| ((at, mask), value & mask)).unzip();
        Packets { mask: mask.into(), values: values.into() }
    }
}
