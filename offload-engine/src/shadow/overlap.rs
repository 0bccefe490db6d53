//! Megaflows that take the same packets and do different things with them.
//!
//! The kernel datapath takes the first that fits, in the order of its masks, which it changes by use
//! (`ovs_flow_masks_rebalance()`). Open vSwitch makes no two that overlap and differ, but for a while: when its tables change, a
//! new one may be there before it has got to the old one. A rule made from either would be the only one in hardware, and do
//! otherwise than software for some packets. So neither has one while both are there ([`Refusal::Overlaps`]).
//!
//! # Cost
//!
//! Of a port, megaflows with the same mask are a group. One that is new is laid over each group in turn, with the bits that matter
//! to both: in a group of more than [`SCANNED`], these bits of all its megaflows are in order ([`Index`]), so that only those are
//! looked at that agree. It is `groups × log(megaflows)` then, and as much when one goes; and for a group so many
//! indexes at most ([`INDEXES_MAX`]), each of 24 bytes and the tree's own for a megaflow. Where there would be more, one by fewer bits serves,
//! which has more to be looked at.

use super::flat::{Packets, Word, common, projected};
use crate::ledger::Home;
use crate::world::World;
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Arc;
use alloc::vec::Vec;
use netlink_wire::{DpPort, Ifindex, RecircId, Ufid};

/// A group of so many is looked at one by one.
const SCANNED: usize = 16;
/// Indexes of a group.
const INDEXES_MAX: usize = 16;

/// What a megaflow does, as the kernel wrote it; none where that is not known, which is then not the same as anything.
type Actions = Option<Arc<[u8]>>;

/// A datapath and a port of it, by which packets come in. Open vSwitch makes no megaflow for more than one.
pub type Entrance = (Ifindex, DpPort);

/// All megaflows that might overlap.
#[derive(Clone, Debug, Default)]
pub struct Overlaps {
    known: BTreeMap<Ufid, Known>,
    ports: BTreeMap<Entrance, BTreeMap<Arc<[Word]>, Group>>,
    /// Every list of actions there is, once.
    actions: BTreeSet<Arc<[u8]>>,
}

/// One of them.
#[derive(Clone, Debug)]
struct Known {
    entrance: Entrance,
    packets: Packets,
    actions: Actions,
    /// How many others overlap with it and do something else.
    others: usize,
}

/// Those with one mask.
#[derive(Clone, Debug, Default)]
struct Group {
    flows: BTreeMap<Ufid, Member>,
    indexes: Vec<Index>,
}

#[derive(Clone, Debug)]
struct Member {
    values: Box<[u64]>,
    actions: Actions,
}

/// Those of a group by what some of the bits are that matter to it.
#[derive(Clone, Debug)]
struct Index {
    on: Box<[Word]>,
    by: BTreeSet<(u64, Ufid)>,
}

impl Overlaps {
    /// Whether another megaflow takes some of the packets of this one, and does something else with them.
    pub fn is_overlapped(&self, ufid: Ufid) -> bool {
        self.known.get(&ufid).is_some_and(|known| known.others > 0)
    }

    /// A megaflow is there, or is another now. Returns others that overlap with one now and did not before, or the other way round.
    pub fn set(
        &mut self,
        ufid: Ufid,
        entrance: Entrance,
        packets: Packets,
        actions: Option<&[u8]>,
    ) -> Vec<Ufid> {
        let is_same = |known: &Known| {
            known.entrance == entrance
                && known.packets == packets
                && known.actions.as_deref() == actions
                && actions.is_some()
        };
        if self.known.get(&ufid).is_some_and(is_same) {
            return Vec::new();
        }
        let mut concerned = self.remove(ufid);
        let actions = actions.map(|actions| self.kept(actions));
        let groups = self.ports.entry(entrance).or_default();
        let others = otherwise(groups, &packets, &actions);
        for other in &others {
            if let Some(known) = self.known.get_mut(other) {
                known.others += 1;
                concerned.extend((known.others == 1).then_some(*other));
            }
        }
        let group = groups.entry(packets.mask.clone()).or_default();
        group.insert(&packets.mask, ufid, packets.values.clone(), actions.clone());
        self.known.insert(ufid, Known { entrance, packets, actions, others: others.len() });
        concerned
    }

    /// A megaflow is not there any more. Returns others that overlap with none now.
    pub fn remove(&mut self, ufid: Ufid) -> Vec<Ufid> {
        let Some(known) = self.known.remove(&ufid) else { return Vec::new() };
        let Known { entrance, packets, actions, others } = known;
        let Some(groups) = self.ports.get_mut(&entrance) else { return Vec::new() };
        if let Some(group) = groups.get_mut(&packets.mask) {
            group.remove(&packets.mask, ufid);
            if group.flows.is_empty() {
                groups.remove(&packets.mask);
            }
        }
        let mut concerned = Vec::new();
        if others > 0 {
            for other in otherwise(groups, &packets, &actions) {
                if let Some(known) = self.known.get_mut(&other) {
                    known.others -= 1;
                    concerned.extend((known.others == 0).then_some(other));
                }
            }
        }
        if groups.is_empty() {
            self.ports.remove(&entrance);
        }
        // The list itself, and the one here.
        if let Some(actions) = actions.filter(|actions| Arc::strong_count(actions) == 2) {
            self.actions.remove(&actions);
        }
        concerned
    }

    /// Nothing is known any more of what enters there.
    pub fn forget(&mut self, entrance: Entrance) {
        let groups = self.ports.remove(&entrance).unwrap_or_default();
        for ufid in groups.into_values().flat_map(|group| group.flows.into_keys()) {
            self.known.remove(&ufid);
        }
        self.actions.retain(|actions| Arc::strong_count(actions) > 1);
    }

    /// Nothing is known any more.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    fn kept(&mut self, actions: &[u8]) -> Arc<[u8]> {
        if let Some(kept) = self.actions.get(actions) {
            return kept.clone();
        }
        let kept: Arc<[u8]> = actions.into();
        self.actions.insert(kept.clone());
        kept
    }
}

/// Megaflows that take some of `packets`, and do not do the same.
fn otherwise(groups: &mut BTreeMap<Arc<[Word]>, Group>, packets: &Packets, actions: &Actions) -> Vec<Ufid> {
    let is_same = |other: &Actions| match (other, actions) {
        (Some(other), Some(actions)) => Arc::ptr_eq(other, actions) || other == actions,
        _ => false,
    };
    let mut found = Vec::new();
    for (mask, group) in groups {
        group.agreeing(mask, packets, |ufid, member| {
            if !is_same(&member.actions) {
                found.push(ufid);
            }
        });
    }
    found
}

impl Group {
    fn insert(&mut self, mask: &[Word], ufid: Ufid, values: Box<[u64]>, actions: Actions) {
        for index in &mut self.indexes {
            index.by.insert((index.place(mask, &values), ufid));
        }
        self.flows.insert(ufid, Member { values, actions });
    }

    fn remove(&mut self, mask: &[Word], ufid: Ufid) {
        let Some(member) = self.flows.remove(&ufid) else { return };
        for index in &mut self.indexes {
            index.by.remove(&(index.place(mask, &member.values), ufid));
        }
    }

    /// Tells `to` of all that take some of `packets`.
    fn agreeing(&mut self, mask: &[Word], packets: &Packets, mut to: impl FnMut(Ufid, &Member)) {
        let on = common(mask, &packets.mask);
        let wanted: Vec<u64> = projected(&packets.mask, &packets.values, &on).collect();
        let agrees = |member: &Member| projected(mask, &member.values, &on).eq(wanted.iter().copied());
        if self.flows.len() > SCANNED
            && let Some(at) = self.index(mask, &on)
        {
            let index = &self.indexes[at];
            let place = index.place(&packets.mask, &packets.values);
            let (first, last) = (Ufid::from_bytes([0; 16]), Ufid::from_bytes([0xff; 16]));
            for (_, ufid) in index.by.range((place, first)..=(place, last)) {
                if let Some(member) = self.flows.get(ufid).filter(|member| agrees(member)) {
                    to(*ufid, member);
                }
            }
            return;
        }
        for (ufid, member) in self.flows.iter().filter(|(_, member)| agrees(member)) {
            to(*ufid, member);
        }
    }

    /// Which index has all that agree on these bits at one place, and the least others. It is made where there is room for one more.
    fn index(&mut self, mask: &[Word], on: &[Word]) -> Option<usize> {
        if on.is_empty() {
            return None;
        }
        if let Some(at) = self.indexes.iter().position(|index| *index.on == *on) {
            return Some(at);
        }
        if self.indexes.len() < INDEXES_MAX {
            let mut index = Index { on: on.into(), by: BTreeSet::new() };
            for (ufid, member) in &self.flows {
                let place = index.place(mask, &member.values);
                index.by.insert((place, *ufid));
            }
            self.indexes.push(index);
            return Some(self.indexes.len() - 1);
        }
        let bits = |words: &[Word]| words.iter().map(|(_, bits)| bits.count_ones()).sum::<u32>();
        let serves = |(_, index): &(usize, &Index)| *common(&index.on, on) == *index.on;
        let serving = self.indexes.iter().enumerate().filter(serves);
        serving.max_by_key(|(_, index)| bits(&index.on)).map(|(at, _)| at)
    }
}

impl Index {
    /// Where those are that have these values under this mask: different ones may be at one place.
    fn place(&self, mask: &[Word], values: &[u64]) -> u64 {
        // The multiplier and the shift of SplitMix64's last step.
        projected(mask, values, &self.on).fold(0, |sum: u64, word| {
            let mixed = (sum ^ word).wrapping_mul(0x94d0_49bb_1331_11eb);
            (mixed ^ mixed >> 31).wrapping_add(1)
        })
    }
}

impl World {
    /// Keeps up with what overlaps, now that this megaflow of the kernel datapath is there, is another, or is gone. Returns others that
    /// overlap with one now and did not before, or the other way round.
    pub(crate) fn lay_over(&mut self, ufid: Ufid) -> Vec<Ufid> {
        let Some(entry) = self.ledger.get(ufid).filter(|entry| entry.home == Home::Datapath) else {
            return self.overlaps.remove(ufid);
        };
        let Some(told) = &entry.told else {
            // Longer than is kept: it may take any packet of its port.
            let port = entry.port.and_then(|ifindex| self.ports.get(ifindex));
            let entrance = port.and_then(|port| port.dp.zip(port.dp_port));
            return match entrance {
                Some(entrance) => self.overlaps.set(ufid, entrance, Packets::all(), None),
                None => self.overlaps.remove(ufid),
            };
        };
        let keys = told.body.keys().ok().filter(|keys| keys.recirc_id() == RecircId(0));
        match keys.and_then(|keys| Some((keys.in_port()?, keys))) {
            Some((port, keys)) => {
                let (_, _, actions) = told.body.parts();
                self.overlaps.set(ufid, (told.dp, port), Packets::of(&keys), Some(actions))
            }
            None => self.overlaps.remove(ufid),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::Ipv4Addr;
    use netlink_wire::ovs_flow::FlowKeys;
    use netlink_wire::ovs_flow::keys::{EthKey, Ipv4Key, PortsKey, RawKey, VlanKey};
    use netlink_wire::ovs_flow::tunnel::TunnelKey;
    use netlink_wire::{EtherType, MacAddr, Masked};

    const HERE: Entrance = (Ifindex(3), DpPort(1));

    fn ufid(number: u32) -> Ufid {
        let mut bytes = [0; 16];
        bytes[12..].copy_from_slice(&number.to_be_bytes());
        Ufid::from_bytes(bytes)
    }

    /// IPv4 to these addresses.
    fn ip(dst: [u8; 4], mask: [u8; 4]) -> FlowKeys {
        FlowKeys {
            in_port: Some(Masked::exact(DpPort(1))),
            eth: Some(EthKey::default()),
            ethertype: Some(Masked::exact(EtherType::IPV4)),
            ipv4: Some(Ipv4Key {
                dst: Masked::new(Ipv4Addr::from(dst), Ipv4Addr::from(mask)),
                frag: Masked::exact(0),
                ..Ipv4Key::default()
            }),
            ..FlowKeys::default()
        }
    }

    fn overlap(one: &FlowKeys, other: &FlowKeys) -> bool {
        let (one, other) = (Packets::of(one), Packets::of(other));
        assert_eq!(one.overlap(&other), other.overlap(&one));
        one.overlap(&other)
    }

    #[test]
    fn two_overlap_where_they_agree_on_all_bits_that_matter_to_both() {
        let wide = ip([10, 0, 0, 0], [255, 255, 255, 0]);
        assert!(overlap(&wide, &ip([10, 0, 0, 7], [255; 4])));
        assert!(overlap(&wide, &ip([0, 0, 0, 7], [0, 0, 0, 255])));
        assert!(!overlap(&wide, &ip([10, 0, 1, 7], [255; 4])));
        let other_type = FlowKeys { ethertype: Some(Masked::exact(EtherType::ARP)), ..FlowKeys::default() };
        assert!(!overlap(&wide, &other_type));
    }

    #[test]
    fn what_the_kernel_always_matches_tells_two_apart_though_no_key_says_so() {
        let plain = ip([10, 0, 0, 1], [255; 4]);
        let tag = VlanKey { tpid: Masked::exact(EtherType::VLAN), tci: Masked::new(0x1000, 0x1000) };
        let tagged = FlowKeys { vlans: [Some(tag), None], ..plain.clone() };
        assert!(!overlap(&plain, &tagged), "tags");
        assert!(!overlap(&tagged, &FlowKeys { vlans: [Some(tag), Some(tag)], ..plain.clone() }), "tags");
        let v4 =
            TunnelKey { ipv4_dst: Some(Masked::exact(Ipv4Addr::new(1, 2, 3, 4))), ..TunnelKey::default() };
        let v6 =
            TunnelKey { ipv6_dst: Some(Masked::exact("fd00::1".parse().unwrap())), ..TunnelKey::default() };
        let through = |tunnel: &TunnelKey| FlowKeys { tunnel: Some(tunnel.clone()), ..plain.clone() };
        assert!(!overlap(&through(&v4), &through(&v6)), "the family of a tunnel");
        let with = |bytes: &[u8]| TunnelKey {
            geneve: Some(RawKey { value: bytes.into(), mask: alloc::vec![0; bytes.len()].into() }),
            ..v4.clone()
        };
        assert!(!overlap(&through(&with(&[1; 8])), &through(&with(&[1; 12]))), "the length of options");
        assert!(overlap(&through(&with(&[1; 8])), &through(&with(&[2; 8]))), "options that do not matter");
        assert!(overlap(&through(&with(&[1; 8])), &through(&v4)));
    }

    #[test]
    fn both_are_told_of_and_are_free_again_when_one_goes_or_does_the_same() {
        let mut all = Overlaps::default();
        let wide = Packets::of(&ip([10, 0, 0, 0], [255, 0, 0, 0]));
        let narrow = |last| Packets::of(&ip([10, 0, 0, last], [255; 4]));
        assert_eq!(all.set(ufid(1), HERE, narrow(1), Some(b"1")), []);
        assert_eq!(all.set(ufid(2), HERE, narrow(2), Some(b"2")), []);
        let elsewhere = (Ifindex(3), DpPort(2));
        assert_eq!(all.set(ufid(9), elsewhere, narrow(1), Some(b"2")), [], "of another port");
        assert_eq!(all.set(ufid(3), HERE, wide.clone(), Some(b"2")), [ufid(1)]);
        assert_eq!([1, 2, 3, 9].map(|of| all.is_overlapped(ufid(of))), [true, false, true, false]);
        assert_eq!(all.set(ufid(3), HERE, wide.clone(), Some(b"2")), [], "nothing is new");
        assert_eq!(all.set(ufid(3), HERE, wide, Some(b"1")), [ufid(1), ufid(2)]);
        assert_eq!([1, 2, 3].map(|of| all.is_overlapped(ufid(of))), [false, true, true]);
        assert_eq!(all.remove(ufid(3)), [ufid(2)]);
        assert!(!all.is_overlapped(ufid(2)));
        assert_eq!(all.set(ufid(4), HERE, Packets::all(), None), [ufid(1), ufid(2)], "of unknown packets");
        for of in [1, 2, 4, 9] {
            all.remove(ufid(of));
        }
        assert!(all.ports.is_empty() && all.actions.is_empty() && all.known.is_empty());
    }

    /// The next number, and what it says.
    fn draw(state: &mut u64, bound: u64) -> u64 {
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (*state >> 33) % bound
    }

    /// Few values under many masks.
    fn drawn(state: &mut u64) -> FlowKeys {
        let masks = [0, 0x01, 0x03, 0x0f, 0xff, 0xf0];
        let mut mask = || masks[draw(state, 6) as usize];
        let (addresses, macs, ports) = ([mask(), mask(), mask(), mask()], [mask(); 6], [mask(); 2]);
        let mut octet = || draw(state, 4) as u8;
        let (dst, mac, port) = ([octet(), octet(), octet(), octet()], [octet(); 6], octet().into());
        FlowKeys {
            eth: Some(EthKey { src: Masked::ANY, dst: Masked::new(MacAddr(mac), MacAddr(macs)) }),
            tcp: Some(PortsKey { src: Masked::ANY, dst: Masked::new(port, u16::from_be_bytes(ports)) }),
            ..ip(dst, addresses)
        }
    }

    /// The same, field by field.
    fn naive(one: &FlowKeys, other: &FlowKeys) -> bool {
        let (a, b) = (one.ipv4.unwrap().dst, other.ipv4.unwrap().dst);
        let ip = (a.value.to_bits() ^ b.value.to_bits()) & a.mask.to_bits() & b.mask.to_bits() == 0;
        let (a, b) = (one.eth.unwrap().dst, other.eth.unwrap().dst);
        let mac = (0..6).all(|at| (a.value.0[at] ^ b.value.0[at]) & a.mask.0[at] & b.mask.0[at] == 0);
        let (a, b) = (one.tcp.unwrap().dst, other.tcp.unwrap().dst);
        ip && mac && (a.value ^ b.value) & a.mask & b.mask == 0
    }

    #[test]
    fn all_that_overlap_are_known_whatever_comes_and_goes() {
        let mut state = 1;
        let (mut all, mut there) = (Overlaps::default(), BTreeMap::new());
        let (mut found, mut indexes) = (0, 0);
        // Few masks and many megaflows of each, then many masks.
        let masks: Vec<FlowKeys> = (0..5).map(|_| drawn(&mut state)).collect();
        for step in 0..3_000 {
            let number = draw(&mut state, 250) as u32;
            if draw(&mut state, 3) == 0 {
                there.remove(&number);
                all.remove(ufid(number));
            } else {
                let mut keys = drawn(&mut state);
                if step < 1_500 {
                    let like = &masks[draw(&mut state, 5) as usize];
                    let (mut ip, mut eth, mut tcp) =
                        (keys.ipv4.unwrap(), keys.eth.unwrap(), keys.tcp.unwrap());
                    ip.dst.mask = like.ipv4.unwrap().dst.mask;
                    eth.dst.mask = like.eth.unwrap().dst.mask;
                    tcp.dst.mask = like.tcp.unwrap().dst.mask;
                    (keys.ipv4, keys.eth, keys.tcp) = (Some(ip), Some(eth), Some(tcp));
                }
                let actions = [draw(&mut state, 40) as u8 / 38];
                all.set(ufid(number), HERE, Packets::of(&keys), Some(&actions));
                there.insert(number, (keys, actions));
            }
            if step % 25 != 0 {
                continue;
            }
            for (number, (keys, actions)) in &there {
                let differs = |(other, (of, does)): (&u32, &(FlowKeys, [u8; 1]))| {
                    other != number && does != actions && naive(keys, of)
                };
                let expected = there.iter().any(differs);
                assert_eq!(all.is_overlapped(ufid(*number)), expected, "megaflow {number} in step {step}");
                found += usize::from(expected);
            }
            indexes += all
                .ports
                .get(&HERE)
                .map_or(0, |groups| groups.values().map(|group| group.indexes.len()).sum());
        }
        assert!(found > 1_000 && indexes > 100, "{found} found, {indexes} indexes used");
    }

    #[test]
    fn where_there_are_more_ways_to_overlap_than_indexes_those_that_there_are_serve() {
        let mut all = Overlaps::default();
        for number in 0..300_u32 {
            let [_, _, high, low] = number.to_be_bytes();
            all.set(ufid(number), HERE, Packets::of(&ip([10, 1, high, low], [255; 4])), Some(b"1"));
        }
        for bits in 1..=31 {
            let mask = (!0_u32 << bits).to_be_bytes();
            let number = 1_000 + bits;
            let concerned =
                all.set(ufid(number), HERE, Packets::of(&ip([10, 1, 0, 0], mask)), Some(b"2")).len();
            assert_eq!(concerned, 300.min(1 << bits), "{bits}");
            assert_eq!(all.remove(ufid(number)).len(), concerned);
        }
        let group = all.ports[&HERE].values().next().unwrap();
        assert_eq!((group.flows.len(), group.indexes.len()), (300, INDEXES_MAX));
        let by = group.indexes.iter().map(|index| index.by.len());
        assert!(by.into_iter().all(|count| count == 300));
    }
}
