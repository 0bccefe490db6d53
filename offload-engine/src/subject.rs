//! A megaflow as conditions of the policy see it: from its filter in TC, or from its keys in the kernel datapath.
//!
//! Both say the same of the same megaflow, as far as TC can express it.

use crate::journey::Journey;
use crate::ports::{PortFacts, PortKind, Ports};
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use netlink_wire::ovs_flow::{FlowAction, FlowActions, FlowKeys, keys::VlanKey};
use netlink_wire::{DpPort, EtherType, Ifindex, MacAddr, Masked};
use policies::language::{Header, PortName, Subject};
use tc_flower::action::{CtFlags, Mirred, MirredTarget, TunnelKey};
use tc_flower::keys::{FIRST_FRAGMENT, FRAGMENT};
use tc_flower::{ActionKind, Control, FilterReport, Match};

/// `ETH_P_ALL`: the protocol of a filter that asks for none.
const ANY_PROTOCOL: EtherType = EtherType(0x0003);
/// Bit 12 of a VLAN tag as conditions see it: there is a tag.
const TAGGED: u128 = 0x1000;

/// A flow's filter as conditions see it. The egress ports are put into `outports`.
pub fn of_filter<'a>(
    report: &FilterReport,
    ports: &'a Ports,
    outports: &'a mut Vec<PortName<'a>>,
) -> Subject<'a> {
    let mut subject = Subject::default();
    let inport = ports.at(report.address.location);
    subject.inport = inport.map(name_of).unwrap_or_default();
    filter_ethernet(&mut subject, report);
    filter_network(&mut subject, &report.keys);
    filter_transport(&mut subject, &report.keys);
    filter_conntrack(&mut subject, &report.keys);
    filter_tunnel(&mut subject, &report.keys, inport.is_some_and(is_tunnel));
    // Open vSwitch keeps the megaflows of a recirculation id in the chain of that number.
    subject.set_exact(Header::RecircId, report.address.chain.0.into());
    let journey = Journey::new(inport, remote_of(&report.keys), exact(report.keys.tunnel.header.dst_port));
    filter_actions(&mut subject, report, journey, ports, outports);
    subject
}

/// A flow of the kernel datapath `dp` as conditions see it. The egress ports are put into `outports`.
pub fn of_megaflow<'a>(
    dp: Ifindex,
    keys: &FlowKeys,
    actions: Option<&FlowActions<'_>>,
    ports: &'a Ports,
    outports: &'a mut Vec<PortName<'a>>,
) -> Subject<'a> {
    let mut subject = Subject::default();
    let inport = keys.in_port().and_then(|port| ports.by_dp_port(dp, port));
    subject.inport = inport.map(name_of).unwrap_or_default();
    megaflow_ethernet(&mut subject, keys);
    megaflow_network(&mut subject, keys);
    megaflow_transport(&mut subject, keys);
    let mut set = Setter(&mut subject);
    set.number(Header::CtState, keys.ct_state);
    set.number(Header::CtZone, keys.ct_zone);
    set.number(Header::CtMark, keys.ct_mark);
    set.number(Header::CtLabel, keys.ct_labels.map(|labels| labels.map(u128::from_le_bytes)));
    set.number(Header::SkbPriority, keys.priority);
    set.number(Header::PktMark, keys.skb_mark);
    set.number(Header::DpHash, keys.dp_hash);
    megaflow_tunnel(&mut subject, keys, inport.is_some_and(is_tunnel));
    subject.set_exact(Header::RecircId, keys.recirc_id().0.into());
    if let Some(actions) = actions {
        let remote = keys.tunnel.as_ref().and_then(|tunnel| {
            remote(tunnel.ipv4_src.map(|src| src.value), tunnel.ipv6_src.map(|src| src.value))
        });
        let dport = exact(keys.tunnel.as_ref().and_then(|tunnel| tunnel.tp_dst));
        let port = |number| ports.by_dp_port(dp, number);
        megaflow_actions(
            &mut subject,
            actions,
            Journey::new(inport, remote, dport),
            (ports, &port),
            outports,
        );
    }
    subject
}

/// A port as conditions know it. Where Open vSwitch's database has told of the interface, it is known to have no
/// iface-id as well.
pub(crate) fn name_of(port: &PortFacts) -> PortName<'_> {
    let told = (!port.bridge.is_empty()).then_some("");
    PortName { name: Some(&port.name), iface_id: port.iface_id.as_deref().or(told) }
}

fn is_tunnel(port: &PortFacts) -> bool {
    port.kind == PortKind::Tunnel
}

/// Whether the filter sends packets to that device.
pub(crate) fn goes_to(report: &FilterReport, ifindex: Ifindex) -> bool {
    report.actions.iter().any(|report| match &report.action.kind {
        ActionKind::Mirred(mirred) => mirred.target == MirredTarget::Device(ifindex),
        _ => false,
    })
}

struct Setter<'s, 'a>(&'s mut Subject<'a>);

impl Setter<'_, '_> {
    fn number<T: Into<u128>>(&mut self, header: Header, key: Option<Masked<T>>) {
        if let Some(Masked { value, mask }) = key {
            self.0.set(header, value.into(), mask.into());
        }
    }

    fn exact<T: Into<u128>>(&mut self, header: Header, key: Option<T>) {
        if let Some(value) = key {
            self.0.set_exact(header, value.into());
        }
    }

    /// Both TC and Open vSwitch look at the lower 8 bits, of operations that have no others.
    fn arp_op(&mut self, key: Option<Masked<u16>>) {
        self.number(
            Header::ArpOp,
            key.map(|op| Masked::new(op.value, if op.mask & 0xff == 0xff { !0 } else { op.mask })),
        );
    }

    fn mac(&mut self, header: Header, key: Option<Masked<MacAddr>>) {
        let number = |mac: MacAddr| mac.0.iter().fold(0, |sum, byte| sum << 8 | u128::from(*byte));
        self.number(header, key.map(|key| Masked::new(number(key.value), number(key.mask))));
    }

    fn v4(&mut self, header: Header, key: Option<Masked<Ipv4Addr>>) {
        self.number(header, key.map(|key| key.map(Ipv4Addr::to_bits)).map(widen));
    }

    fn v6(&mut self, header: Header, key: Option<Masked<Ipv6Addr>>) {
        self.number(header, key.map(|key| Masked::new(key.value.to_bits(), key.mask.to_bits())));
    }
}

fn widen(key: Masked<u32>) -> Masked<u128> {
    Masked::new(key.value.into(), key.mask.into())
}

/// A tag: its id and priority where they matter. That there is one is certain.
fn tag(id: Option<u16>, prio: Option<u8>) -> (u128, u128) {
    let id = id.map_or((0, 0), |id| (u128::from(id & 0xfff), 0xfff));
    let prio = prio.map_or((0, 0), |prio| (u128::from(prio & 7) << 13, 0xe000));
    (TAGGED | id.0 | prio.0, TAGGED | id.1 | prio.1)
}

fn filter_ethernet(subject: &mut Subject<'_>, report: &FilterReport) {
    let (keys, protocol) = (&report.keys, report.address.protocol);
    let mut set = Setter(subject);
    set.mac(Header::EthSrc, keys.eth.src);
    set.mac(Header::EthDst, keys.eth.dst);
    // The filter's protocol is the packet's outermost type.
    let untagged = Some(protocol).filter(|protocol| !protocol.is_vlan() && *protocol != ANY_PROTOCOL);
    set.exact(Header::EthType, keys.eth.ethertype.or(untagged).map(|ethertype| ethertype.0));
    if protocol.is_vlan() {
        let (value, mask) = tag(keys.vlan.id, keys.vlan.prio);
        subject.set(Header::VlanTci, value, mask);
        match keys.vlan.ethertype {
            Some(inner) if inner.is_vlan() => {
                let (value, mask) = tag(keys.cvlan.id, keys.cvlan.prio);
                subject.set(Header::InnerVlanTci, value, mask);
            }
            Some(_) => subject.set_exact(Header::InnerVlanTci, 0),
            None => {}
        }
    } else if protocol != ANY_PROTOCOL {
        subject.set_exact(Header::VlanTci, 0);
        subject.set_exact(Header::InnerVlanTci, 0);
    }
    let parts = [
        (keys.mpls.label, 12, 0xfffff),
        (keys.mpls.tc.map(u32::from), 9, 7),
        (keys.mpls.bos.map(u32::from), 8, 1),
        (keys.mpls.ttl.map(u32::from), 0, 0xff),
    ];
    let (mut value, mut mask) = (0, 0);
    for (part, shift, ones) in parts {
        if let Some(part) = part {
            value |= u128::from(part & ones) << shift;
            mask |= u128::from(ones) << shift;
        }
    }
    subject.set(Header::MplsLse, value, mask);
}

fn filter_network(subject: &mut Subject<'_>, keys: &Match) {
    let mut set = Setter(subject);
    set.exact(Header::IpProto, keys.ip.proto);
    set.number(Header::IpTos, keys.ip.tos);
    set.number(Header::IpTtl, keys.ip.ttl);
    set.v4(Header::Ip4Src, keys.ipv4.src);
    set.v4(Header::Ip4Dst, keys.ipv4.dst);
    set.v6(Header::Ip6Src, keys.ipv6.src);
    set.v6(Header::Ip6Dst, keys.ipv6.dst);
    set.v4(Header::ArpSpa, keys.arp.sip);
    set.v4(Header::ArpTpa, keys.arp.tip);
    set.arp_op(keys.arp.op.map(|op| Masked::new(op.value.into(), op.mask.into())));
    set.mac(Header::ArpSha, keys.arp.sha);
    set.mac(Header::ArpTha, keys.arp.tha);
    if let Some(Masked { value, mask }) = keys.ip.flags {
        let fragment = mask & FRAGMENT != 0;
        let (is_fragment, is_first) = (value & FRAGMENT != 0, value & FIRST_FRAGMENT != 0);
        // A whole packet is no later fragment, whatever else the filter asks for.
        let (bits, known) = match (fragment, mask & FIRST_FRAGMENT != 0) {
            (true, _) if !is_fragment => (0, 3),
            (true, true) => (1 | u128::from(!is_first) << 1, 3),
            (true, false) => (1, 1),
            (false, _) => (0, 0),
        };
        subject.set(Header::IpFrag, bits, known);
    }
}

fn filter_transport(subject: &mut Subject<'_>, keys: &Match) {
    let mut set = Setter(subject);
    let (tcp, udp, sctp) = (&keys.tcp, &keys.udp, &keys.sctp);
    set.number(Header::L4Src, tcp.src.or(udp.src).or(sctp.src));
    set.number(Header::L4Dst, tcp.dst.or(udp.dst).or(sctp.dst));
    set.number(Header::TcpFlags, tcp.flags);
    set.number(Header::IcmpType, keys.icmp.kind.or(keys.icmpv6.kind));
    set.number(Header::IcmpCode, keys.icmp.code.or(keys.icmpv6.code));
}

/// `TCA_FLOWER_KEY_CT_FLAGS_*` and `OVS_CS_F_*` number the same states otherwise.
fn ct_states(flags: u16) -> u128 {
    let pairs =
        [(1 << 0, 0x01), (1 << 1, 0x02), (1 << 2, 0x04), (1 << 3, 0x20), (1 << 4, 0x10), (1 << 5, 0x08)];
    pairs.into_iter().filter(|(flower, _)| flags & flower != 0).map(|(_, ovs)| ovs).sum()
}

fn filter_conntrack(subject: &mut Subject<'_>, keys: &Match) {
    if let Some(Masked { value, mask }) = keys.ct.state {
        subject.set(Header::CtState, ct_states(value), ct_states(mask));
    }
    let mut set = Setter(subject);
    set.number(Header::CtZone, keys.ct.zone);
    set.number(Header::CtMark, keys.ct.mark);
    set.number(Header::CtLabel, keys.ct.labels.map(|labels| labels.map(u128::from_le_bytes)));
}

fn filter_tunnel(subject: &mut Subject<'_>, keys: &Match, from_tunnel: bool) {
    // Open vSwitch always matches on the tunnel's endpoints where there is a tunnel.
    subject.set_exact(Header::Tunnel, (from_tunnel || !keys.tunnel.is_empty()).into());
    let header = &keys.tunnel.header;
    let mut set = Setter(subject);
    set.exact(Header::TunId, header.id);
    set.v4(Header::TunSrc, header.ipv4_src);
    set.v4(Header::TunDst, header.ipv4_dst);
    set.v6(Header::Tun6Src, header.ipv6_src);
    set.v6(Header::Tun6Dst, header.ipv6_dst);
    set.number(Header::TunTos, header.tos);
    set.number(Header::TunTtl, header.ttl);
    set.number(Header::TunTpSrc, header.src_port);
    set.number(Header::TunTpDst, header.dst_port);
}

/// A port that is matched on, or set, in whole.
fn exact(port: Option<Masked<u16>>) -> Option<u16> {
    port.filter(|port| port.mask == !0).map(|port| port.value)
}

/// The address of a tunnel's other end.
fn remote(v4: Option<Ipv4Addr>, v6: Option<Ipv6Addr>) -> Option<IpAddr> {
    let v4 = v4.filter(|address| !address.is_unspecified()).map(IpAddr::V4);
    v4.or(v6.filter(|address| !address.is_unspecified()).map(IpAddr::V6))
}

/// The other end of the tunnel that packets of a filter come out of.
fn remote_of(keys: &Match) -> Option<IpAddr> {
    let header = &keys.tunnel.header;
    remote(header.ipv4_src.map(|src| src.value), header.ipv6_src.map(|src| src.value))
}

/// What a list of actions comes to.
#[derive(Default)]
struct Outcome {
    rewrites: bool,
    recirculates: bool,
    /// Packets or copies of them go somewhere else than to a port.
    goes_elsewhere: bool,
    encapsulates: bool,
    /// Some packets are treated otherwise than others.
    branches: bool,
    /// Something in it is not understood.
    unclear: bool,
}

impl Outcome {
    fn tell<'a>(
        self,
        subject: &mut Subject<'a>,
        encap: Option<&'a str>,
        (journey, ports): (&Journey<'a>, &'a Ports),
        outports: &'a mut Vec<PortName<'a>>,
    ) {
        let outports: &'a [PortName<'a>] = outports;
        let known = |told: bool| (told || !self.unclear).then_some(told);
        subject.rewrites = known(self.rewrites);
        subject.recirculates = known(self.recirculates);
        // One branch may drop what another sends on.
        subject.drops = match outports.is_empty() && !self.recirculates && !self.goes_elsewhere {
            true if self.unclear => None,
            false if self.branches => None,
            drops => Some(drops),
        };
        // After a recirculation the packets may go into a tunnel yet.
        let undecided = self.recirculates || self.unclear;
        subject.encap = match self.encapsulates {
            true => encap,
            false => (!undecided).then_some(""),
        };
        subject.outports = (!undecided && !self.branches).then_some(outports);
        journey.tell(subject, ports, undecided || self.branches);
    }
}

fn filter_actions<'a>(
    subject: &mut Subject<'a>,
    report: &FilterReport,
    mut journey: Journey<'a>,
    ports: &'a Ports,
    outports: &'a mut Vec<PortName<'a>>,
) {
    let mut outcome = Outcome { unclear: !report.unknown.is_empty(), ..Outcome::default() };
    let (mut encap, mut in_tunnel) = (None, false);
    for action in report.actions.iter().map(|report| &report.action) {
        outcome.recirculates |= matches!(action.control, Control::Goto(_));
        outcome.branches |= matches!(action.control, Control::Jump(_));
        outcome.goes_elsewhere |= matches!(action.control, Control::Trap);
        match &action.kind {
            ActionKind::Mirred(Mirred { target, .. }) => {
                let port = match target {
                    MirredTarget::Device(ifindex) => ports.get(*ifindex),
                    MirredTarget::Block(_) => None,
                };
                if in_tunnel && encap.is_none() {
                    encap = port.and_then(|port| port.tunnel_kind.as_deref());
                }
                journey.to(port);
                outports.push(port.map(name_of).unwrap_or_default());
            }
            ActionKind::TunnelKey(TunnelKey::Set(set)) => {
                (outcome.encapsulates, in_tunnel) = (true, true);
                journey.through(remote(set.ipv4_dst, set.ipv6_dst), set.dst_port);
            }
            ActionKind::Vlan(_) | ActionKind::Mpls(_) | ActionKind::Pedit(_) => outcome.rewrites = true,
            ActionKind::Ct(ct) => outcome.rewrites |= ct.flags.contains(CtFlags::NAT),
            ActionKind::Sample(_) => outcome.goes_elsewhere = true,
            ActionKind::Police(police) => outcome.branches |= matches!(police.result, Some(Control::Jump(_))),
            ActionKind::Unknown(_) | ActionKind::Terse(_) => outcome.unclear = true,
            _ => {}
        }
    }
    outcome.tell(subject, encap, (&journey, ports), outports);
}

fn megaflow_ethernet(subject: &mut Subject<'_>, keys: &FlowKeys) {
    let mut set = Setter(subject);
    set.mac(Header::EthSrc, keys.eth.map(|eth| eth.src));
    set.mac(Header::EthDst, keys.eth.map(|eth| eth.dst));
    set.number(Header::EthType, keys.ethertype.map(|ethertype| ethertype.map(|ethertype| ethertype.0)));
    let [outer, inner] = keys.vlans;
    set.number(Header::VlanTci, Some(megaflow_tag(outer)));
    set.number(Header::InnerVlanTci, Some(megaflow_tag(inner)));
    set.number(Header::MplsLse, keys.mpls[0]);
}

/// A key without a tag is of packets without one.
fn megaflow_tag(vlan: Option<VlanKey>) -> Masked<u16> {
    vlan.map_or(Masked::exact(0), |vlan| vlan.tci)
}

fn megaflow_network(subject: &mut Subject<'_>, keys: &FlowKeys) {
    let (v4, v6) = (keys.ipv4, keys.ipv6);
    let mut set = Setter(subject);
    set.v4(Header::Ip4Src, v4.map(|ip| ip.src));
    set.v4(Header::Ip4Dst, v4.map(|ip| ip.dst));
    set.v6(Header::Ip6Src, v6.map(|ip| ip.src));
    set.v6(Header::Ip6Dst, v6.map(|ip| ip.dst));
    set.number(Header::Ip6Label, v6.map(|ip| ip.label));
    set.number(Header::IpProto, v4.map(|ip| ip.proto).or(v6.map(|ip| ip.proto)));
    set.number(Header::IpTos, v4.map(|ip| ip.tos).or(v6.map(|ip| ip.tclass)));
    set.number(Header::IpTtl, v4.map(|ip| ip.ttl).or(v6.map(|ip| ip.hlimit)));
    // OVS_FRAG_TYPE_*: 0 whole, 1 the first fragment, 2 a later one; it is looked at as a whole.
    let kind = v4.map(|ip| ip.frag).or(v6.map(|ip| ip.frag)).filter(|kind| kind.mask != 0);
    set.exact(Header::IpFrag, kind.map(|kind| [0_u8, 1, 3, 3][usize::from(kind.value & 3)]));
    if let Some(arp) = keys.arp {
        set.v4(Header::ArpSpa, Some(arp.sip));
        set.v4(Header::ArpTpa, Some(arp.tip));
        set.arp_op(Some(arp.op));
        set.mac(Header::ArpSha, Some(arp.sha));
        set.mac(Header::ArpTha, Some(arp.tha));
    }
    if let Some(nd) = keys.nd {
        set.v6(Header::NdTarget, Some(nd.target));
        set.mac(Header::NdSll, Some(nd.sll));
        set.mac(Header::NdTll, Some(nd.tll));
    }
}

fn megaflow_transport(subject: &mut Subject<'_>, keys: &FlowKeys) {
    let ports = keys.tcp.or(keys.udp).or(keys.sctp);
    let icmp = keys.icmp.or(keys.icmpv6);
    let mut set = Setter(subject);
    set.number(Header::L4Src, ports.map(|ports| ports.src));
    set.number(Header::L4Dst, ports.map(|ports| ports.dst));
    set.number(Header::TcpFlags, keys.tcp_flags);
    set.number(Header::IcmpType, icmp.map(|icmp| icmp.kind));
    set.number(Header::IcmpCode, icmp.map(|icmp| icmp.code));
}

fn megaflow_tunnel(subject: &mut Subject<'_>, keys: &FlowKeys, from_tunnel: bool) {
    // The key is there for packets of no tunnel as well, without an endpoint (OVS, `flow_tnl_dst_is_set`).
    let has_endpoint = keys.tunnel.as_ref().is_some_and(|tunnel| {
        tunnel.ipv4_dst.is_some_and(|dst| !dst.value.is_unspecified())
            || tunnel.ipv6_dst.is_some_and(|dst| !dst.value.is_unspecified())
    });
    subject.set_exact(Header::Tunnel, (from_tunnel || has_endpoint).into());
    let Some(tunnel) = &keys.tunnel else { return };
    let mut set = Setter(subject);
    set.number(Header::TunId, tunnel.id);
    set.v4(Header::TunSrc, tunnel.ipv4_src);
    set.v4(Header::TunDst, tunnel.ipv4_dst);
    set.v6(Header::Tun6Src, tunnel.ipv6_src);
    set.v6(Header::Tun6Dst, tunnel.ipv6_dst);
    set.number(Header::TunTos, tunnel.tos);
    set.number(Header::TunTtl, tunnel.ttl);
    set.number(Header::TunTpSrc, tunnel.tp_src);
    set.number(Header::TunTpDst, tunnel.tp_dst);
}

fn megaflow_actions<'a>(
    subject: &mut Subject<'a>,
    actions: &FlowActions<'_>,
    mut journey: Journey<'a>,
    (ports, port_of): (&'a Ports, &dyn Fn(DpPort) -> Option<&'a PortFacts>),
    outports: &'a mut Vec<PortName<'a>>,
) {
    let mut outcome = Outcome::default();
    let mut encap = None;
    actions.visit(&mut |action| match action {
        FlowAction::Output(port) => {
            let port = port_of(*port);
            if outcome.encapsulates && encap.is_none() {
                encap = port.and_then(|port| port.tunnel_kind.as_deref());
            }
            journey.to(port);
            outports.push(port.map(name_of).unwrap_or_default());
        }
        FlowAction::Set(field) => match field.keys() {
            Ok(FlowKeys { tunnel: Some(tunnel), .. }) => {
                outcome.encapsulates = true;
                let (v4, v6) = (tunnel.ipv4_dst, tunnel.ipv6_dst);
                let dport = exact(tunnel.tp_dst);
                journey.through(remote(v4.map(|dst| dst.value), v6.map(|dst| dst.value)), dport);
            }
            Ok(_) => outcome.rewrites = true,
            Err(_) => outcome.unclear = true,
        },
        FlowAction::PushVlan { .. }
        | FlowAction::PopVlan
        | FlowAction::PushMpls { .. }
        | FlowAction::AddMpls { .. }
        | FlowAction::PopMpls(_)
        | FlowAction::PushEth { .. }
        | FlowAction::PopEth
        | FlowAction::PushNsh(_)
        | FlowAction::PopNsh
        | FlowAction::DecTtl(_) => outcome.rewrites = true,
        FlowAction::Ct(ct) => outcome.rewrites |= ct.nat.is_some(),
        FlowAction::Recirc(_) => outcome.recirculates = true,
        FlowAction::Userspace(_) | FlowAction::Psample { .. } => outcome.goes_elsewhere = true,
        FlowAction::Sample { .. } | FlowAction::CheckPacketLength { .. } => outcome.branches = true,
        FlowAction::Unknown { .. } => outcome.unclear = true,
        _ => {}
    });
    outcome.tell(subject, encap, (&journey, ports), outports);
}
