//! What a filter is made of, one by one: which fields it matches and how, and what it does.
//!
//! A [`Shape`](crate::Shape) says that two filters are alike; [`Parts`] says that one contains another: every part of
//! the smaller one is in it. A driver that refuses a filter for what it is made of refuses those that contain it.

use crate::action::{
    Ct, CtFlags, Direction, GeneveOption, Mirred, Mpls, Pedit, Police, Skbedit, TunnelKey, TunnelOptions,
    TunnelSet, Vlan,
};
use crate::keys::attr as key;
use crate::{Action, ActionKind, Control, EtherType, Filter, Match, Seq};
use alloc::collections::BTreeSet;
use netlink_wire::{Attr, Attrs, Family, MessageWriter};

/// One part: a field under a full or a partial mask, a value where the value is structure, or something an action does.
///
/// A number: what it is about in the upper 16 bits, the rest as that needs. It is kept and compared, not read.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Part(pub u64);

/// What a part is about; the upper 16 bits of its number.
#[derive(Clone, Copy)]
enum About {
    Protocol = 1,
    Key = 2,
    Value = 3,
    State = 4,
    Fragment = 5,
    Options = 6,
    Action = 7,
    Control = 8,
    Rewrite = 9,
    Tunnel = 10,
    Conntrack = 11,
    Limit = 12,
}

impl Part {
    const fn new(about: About, rest: u64) -> Self {
        Self(((about as u64) << 48) | (rest & 0xffff_ffff_ffff))
    }
}

/// The parts of a filter.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Parts(BTreeSet<Part>);

impl Parts {
    /// Those of `filter`: where it is, its values and what it is called do not matter, but for protocols, states of
    /// connections and fragments.
    pub fn of(filter: &Filter) -> Self {
        let mut parts = BTreeSet::new();
        of_match(filter.address.protocol, &filter.keys, &mut parts);
        for action in &filter.actions {
            of_action(action, &mut parts);
        }
        Self(parts)
    }

    /// Those of the match alone, of a filter for this protocol.
    pub fn of_match(protocol: EtherType, keys: &Match) -> Self {
        let mut parts = BTreeSet::new();
        of_match(protocol, keys, &mut parts);
        Self(parts)
    }

    /// Those of these actions alone.
    pub fn of_actions(actions: &[Action]) -> Self {
        let mut parts = BTreeSet::new();
        actions.iter().for_each(|action| of_action(action, &mut parts));
        Self(parts)
    }

    /// Whether every part of `other` is one of these.
    pub fn contain(&self, other: &Self) -> bool {
        other.0.is_subset(&self.0)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = Part> {
        self.0.iter().copied()
    }
}

impl FromIterator<Part> for Parts {
    fn from_iter<I: IntoIterator<Item = Part>>(parts: I) -> Self {
        Self(parts.into_iter().collect())
    }
}

/// Keys are told by the attributes that a request would have of them.
fn of_match(protocol: EtherType, keys: &Match, parts: &mut BTreeSet<Part>) {
    parts.insert(Part::new(About::Protocol, u64::from(protocol.0)));
    let mut writer = MessageWriter::new(0, 0, Seq(0));
    keys.put(protocol, &mut writer);
    let Ok(message) = writer.finish() else { return };
    let header = netlink_wire::message::NLMSG_HDRLEN;
    let attrs = || Attrs::new(&message[header..], Family::Tc, header).flatten();
    for attr in attrs() {
        let mask = key::mask_of(attr.kind()).and_then(|kind| attrs().find(|mask| mask.kind() == kind));
        match attr.kind() {
            kind if key::is_mask(kind) => {}
            key::KEY_CT_STATE => of_bits(About::State, &attr, mask.as_ref(), parts),
            key::KEY_FLAGS => of_bits(About::Fragment, &attr, mask.as_ref(), parts),
            key::KEY_ENC_OPTS => {}
            kind => {
                // TCP has 12 flags in 16 bits.
                let unused = |at| if (kind, at) == (key::KEY_TCP_FLAGS, 0) { 0xf0 } else { 0 };
                let full = mask.is_none_or(|mask| {
                    mask.payload().iter().enumerate().all(|(at, byte)| byte | unused(at) == 0xff)
                });
                let is_part = mask.is_some_and(|mask| mask.payload().iter().any(|byte| *byte != 0));
                if full || is_part {
                    parts.insert(Part::new(About::Key, u64::from(kind) << 1 | u64::from(full)));
                }
                if let key::KEY_ETH_TYPE | key::KEY_IP_PROTO | key::KEY_VLAN_ETH_TYPE = kind {
                    let value = attr.payload().iter().fold(0, |all, byte| all << 8 | u64::from(*byte));
                    parts.insert(Part::new(About::Value, u64::from(kind) << 16 | value));
                }
            }
        }
    }
    of_tunnel_options(keys, parts);
}

/// Each bit that is asked for, set or clear: drivers know some of them.
fn of_bits(about: About, value: &Attr<'_>, mask: Option<&Attr<'_>>, parts: &mut BTreeSet<Part>) {
    let Some(mask) = mask else { return };
    let bits = value.payload().iter().zip(mask.payload()).enumerate();
    for (byte, (value, mask)) in bits {
        for bit in (0..8).filter(|bit| mask & (1 << bit) != 0) {
            let is_set = value & (1 << bit) != 0;
            parts.insert(Part::new(about, (byte as u64) << 8 | bit << 1 | u64::from(is_set)));
        }
    }
}

fn of_tunnel_options(keys: &Match, parts: &mut BTreeSet<Part>) {
    use crate::keys::TunnelOptionKeys;
    match &keys.tunnel.options {
        TunnelOptionKeys::None => {}
        TunnelOptionKeys::VxlanGbp(_) => drop(parts.insert(Part::new(About::Options, 1))),
        TunnelOptionKeys::Geneve(options) => {
            parts.insert(Part::new(About::Options, 2));
            for count in 2..=options.len() {
                parts.insert(Part::new(About::Options, 0x100 | count as u64));
            }
        }
    }
}

/// Kinds of actions; the middle of an action's part.
fn of_action(action: &Action, parts: &mut BTreeSet<Part>) {
    let mut does = |kind: u64, detail: u64| {
        parts.insert(Part::new(About::Action, kind << 32 | detail));
    };
    match &action.kind {
        ActionKind::Mirred(Mirred { direction, copy, .. }) => {
            does(1, u64::from(*direction == Direction::Ingress) << 1 | u64::from(*copy));
        }
        // Its control says it all.
        ActionKind::Gact(gact) if gact.probability.is_none() => {}
        ActionKind::Gact(_) => does(2, 0),
        ActionKind::Vlan(vlan) => does(3, of_vlan(*vlan)),
        ActionKind::Mpls(mpls) => does(4, of_mpls(mpls)),
        ActionKind::Csum(csum) => {
            (0..32).filter(|bit| csum.update.0 & (1 << bit) != 0).for_each(|bit| does(5, bit))
        }
        ActionKind::Skbedit(skbedit) => does(6, of_skbedit(skbedit)),
        ActionKind::Sample(_) => does(7, 0),
        ActionKind::Terse(_) | ActionKind::Unknown(_) => does(8, 0),
        ActionKind::TunnelKey(TunnelKey::Release) => does(9, 0),
        ActionKind::TunnelKey(TunnelKey::Set(set)) => of_tunnel_set(set, parts),
        ActionKind::Pedit(pedit) => of_pedit(pedit, parts),
        ActionKind::Ct(ct) => of_ct(ct, parts),
        ActionKind::Police(police) => of_police(police, parts),
    }
    let control = match action.control {
        Control::Drop => 1,
        Control::Ok => 2,
        Control::Trap => 3,
        Control::Goto(_) => 4,
        // What goes on with the next action, or ends with this one, says nothing of its own.
        _ => return,
    };
    parts.insert(Part::new(About::Control, control));
}

fn of_vlan(vlan: Vlan) -> u64 {
    let of = |what: u64, protocol: Option<EtherType>| {
        what << 16 | u64::from(protocol.unwrap_or(EtherType::VLAN).0)
    };
    match vlan {
        Vlan::Pop => 1,
        Vlan::Push { protocol, .. } => of(2, protocol),
        Vlan::Modify { protocol, .. } => of(3, protocol),
        Vlan::PopEth => 4,
        Vlan::PushEth { .. } => 5,
    }
}

fn of_mpls(mpls: &Mpls) -> u64 {
    mpls.command as u64
}

fn of_skbedit(skbedit: &Skbedit) -> u64 {
    let has = [
        skbedit.priority.is_some(),
        skbedit.queue.is_some(),
        skbedit.mark.is_some(),
        skbedit.packet_type.is_some(),
    ];
    has.into_iter().fold(0, |bits, has| bits << 1 | u64::from(has))
}

fn of_pedit(pedit: &Pedit, parts: &mut BTreeSet<Part>) {
    for key in &pedit.keys {
        for byte in (0..4).filter(|byte| key.keep[*byte] != 0xff) {
            let at = u64::from(key.offset) + byte as u64;
            let how = (key.header as u64) << 4 | key.command as u64;
            parts.insert(Part::new(About::Rewrite, how << 32 | at));
        }
    }
}

fn of_tunnel_set(set: &TunnelSet, parts: &mut BTreeSet<Part>) {
    let has = [
        true,
        set.id.is_some(),
        set.ipv4_dst.is_some(),
        set.ipv6_dst.is_some(),
        set.tos.is_some_and(|tos| tos != 0),
        set.no_csum == Some(false),
        set.no_frag,
        matches!(set.options, TunnelOptions::Geneve(_)),
        matches!(set.options, TunnelOptions::VxlanGbp(_)),
    ];
    for (bit, _) in (0..).zip(has).filter(|(_, has)| *has) {
        parts.insert(Part::new(About::Tunnel, bit));
    }
    if let TunnelOptions::Geneve(options) = &set.options {
        let words = options.iter().map(|GeneveOption { data, .. }| data.len() / 4 + 1).sum::<usize>();
        // A driver has room for so much; what needs less is contained in what needs more.
        for word in 0..words {
            parts.insert(Part::new(About::Tunnel, 0x100 | word as u64));
        }
    }
}

fn of_ct(ct: &Ct, parts: &mut BTreeSet<Part>) {
    let nat = ct.nat_ipv4_min.is_some() || ct.nat_ipv6_min.is_some();
    let has = [
        !ct.flags.contains(CtFlags::CLEAR),
        ct.flags.contains(CtFlags::CLEAR),
        ct.flags.contains(CtFlags::COMMIT),
        ct.flags.contains(CtFlags::FORCE),
        ct.flags.contains(CtFlags::NAT),
        ct.flags.contains(CtFlags::NAT_SRC),
        ct.flags.contains(CtFlags::NAT_DST),
        nat,
        ct.nat_port_min.is_some(),
        ct.mark.is_some(),
        ct.labels.is_some(),
        ct.helper.is_some(),
        ct.zone.is_some_and(|zone| zone != 0),
    ];
    for (bit, _) in (0..).zip(has).filter(|(_, has)| *has) {
        parts.insert(Part::new(About::Conntrack, bit));
    }
}

fn of_police(police: &Police, parts: &mut BTreeSet<Part>) {
    let has = [
        true,
        police.rate.rate != 0 || police.rate64.is_some(),
        police.packet_rate.is_some(),
        police.result.is_some(),
        police.mtu != 0 && police.rate.rate == 0,
    ];
    for (bit, _) in (0..).zip(has).filter(|(_, has)| *has) {
        parts.insert(Part::new(About::Limit, bit));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::action::{MirredTarget, PeditCommand, PeditHeader, PeditKey};
    use crate::keys::{Conntrack, GeneveOptionKey, Ip, Ipv4, Tunnel, TunnelOptionKeys, Udp};
    use alloc::vec;
    use core::net::Ipv4Addr;
    use netlink_wire::{Ifindex, Masked};

    fn udp() -> Match {
        Match {
            ip: Ip { proto: Some(17), ..Ip::default() },
            udp: Udp { dst: Some(Masked::exact(53)), ..Udp::default() },
            ..Match::default()
        }
    }

    fn of(keys: &Match) -> Parts {
        Parts::of_match(EtherType::IPV4, keys)
    }

    #[test]
    fn a_match_contains_one_of_fewer_fields_whatever_the_values() {
        let with_address = Match {
            ipv4: Ipv4 { src: Some(Masked::exact(Ipv4Addr::new(10, 0, 0, 1))), ..Ipv4::default() },
            udp: Udp { dst: Some(Masked::exact(4789)), ..Udp::default() },
            ..udp()
        };
        assert!(of(&with_address).contain(&of(&udp())));
        assert!(!of(&udp()).contain(&of(&with_address)));
        assert!(!Parts::of_match(EtherType::IPV6, &with_address).contain(&of(&udp())), "another protocol");
    }

    #[test]
    fn a_full_mask_is_not_a_partial_one_and_no_mask_is_no_match() {
        let source = |mask| Match { ipv4: Ipv4 { src: Some(mask), ..Ipv4::default() }, ..Match::default() };
        let address = Ipv4Addr::new(10, 0, 0, 0);
        let full = of(&source(Masked::exact(address)));
        let prefix = of(&source(Masked::new(address, Ipv4Addr::new(255, 0, 0, 0))));
        let longer = of(&source(Masked::new(address, Ipv4Addr::new(255, 255, 0, 0))));
        assert!(!full.contain(&prefix) && !prefix.contain(&full) && prefix == longer);
        let any = source(Masked::new(address, Ipv4Addr::new(0, 0, 0, 0)));
        assert_eq!(of(&any), of(&Match::default()));
    }

    #[test]
    fn protocols_and_each_state_of_connections_are_told_apart() {
        let tcp = Match { ip: Ip { proto: Some(6), ..Ip::default() }, ..Match::default() };
        assert!(!of(&udp()).contain(&of(&tcp)));
        let state = |value, mask| {
            let ct = Conntrack { state: Some(Masked::new(value, mask)), ..Conntrack::default() };
            of(&Match { ct, ..Match::default() })
        };
        let (tracked, established) = (state(8, 8), state(8 | 2, 8 | 2));
        assert!(established.contain(&tracked) && !tracked.contain(&established));
        assert!(!established.contain(&state(16, 16)), "invalid was not asked for");
        assert!(!state(8, 8 | 2).contain(&established), "not established");
    }

    #[test]
    fn more_options_of_a_tunnel_contain_fewer() {
        let options = |count| {
            let option = GeneveOptionKey {
                class: Masked::exact(0x102),
                kind: Masked::exact(0x80),
                data: vec![0; 4],
                data_mask: vec![0xff; 4],
            };
            let options = TunnelOptionKeys::Geneve(vec![option; count]);
            of(&Match { tunnel: Tunnel { options, ..Tunnel::default() }, ..Match::default() })
        };
        assert!(options(2).contain(&options(1)) && !options(1).contain(&options(2)));
    }

    fn output(device: u32, copy: bool) -> Action {
        let target = MirredTarget::Device(Ifindex(device));
        let kind = ActionKind::Mirred(Mirred { direction: Direction::Egress, copy, target });
        Action::new(kind, if copy { Control::Pipe } else { Control::Stolen })
    }

    fn rewrite(offset: u32) -> Action {
        let key = PeditKey {
            header: PeditHeader::Ipv4,
            command: PeditCommand::Set,
            offset,
            keep: [0; 4],
            value: [1, 2, 3, 4],
            at: 0,
            offset_mask: 0,
            shift: 0,
        };
        Action::new(ActionKind::Pedit(Pedit { keys: vec![key], ..Pedit::default() }), Control::Pipe)
    }

    #[test]
    fn actions_contain_those_of_fewer_and_devices_do_not_matter() {
        let all = Parts::of_actions(&[rewrite(12), output(3, true), output(4, false)]);
        assert!(all.contain(&Parts::of_actions(&[output(9, false)])));
        assert!(all.contain(&Parts::of_actions(&[rewrite(12), output(9, false)])));
        assert!(!all.contain(&Parts::of_actions(&[rewrite(16)])), "the destination");
        let dropped = Action::new(ActionKind::Gact(crate::action::Gact::default()), Control::Drop);
        assert!(!all.contain(&Parts::of_actions(&[dropped])));
    }
}
