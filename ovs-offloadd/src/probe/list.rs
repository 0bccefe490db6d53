//! What is probed: one filter for each match, each action, and the combinations that Open vSwitch makes of them.

use std::net::{Ipv4Addr, Ipv6Addr};

use netlink_wire::{EtherType, Ifindex, MacAddr, Masked};
use serde::Serialize;
use tc_flower::action::{
    Csum, CsumFlags, Ct, CtFlags, Direction, Gact, GeneveOption, Mirred, MirredTarget, Mpls, MplsCommand,
    Pedit, PeditCommand, PeditHeader, PeditKey, Police, RateSpec, Sample, Skbedit, TunnelKey, TunnelOptions,
    TunnelSet, Vlan,
};
use tc_flower::keys::{self, ip::proto};
use tc_flower::{Action, ActionKind, Chain, Control, Match, Parts};

/// What a probe is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Group {
    /// The simplest rules, without which no other answer says anything.
    Base,
    /// One field of a match.
    Match,
    /// One action.
    Action,
    /// Several that Open vSwitch uses together.
    Combination,
}

impl Group {
    /// All, in the order they are told.
    pub const ALL: [Self; 4] = [Self::Base, Self::Match, Self::Action, Self::Combination];

    /// The word in lists and in JSON.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Base => "base",
            Self::Match => "match",
            Self::Action => "action",
            Self::Combination => "combination",
        }
    }
}

/// What a probe needs beside the port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// Nothing: its packets are dropped or go to another chain.
    Nothing,
    /// Another port of the NIC to send to.
    Output,
    /// Two of them.
    TwoOutputs,
    /// A tunnel device of this host, to send to; of any kind.
    Tunnel,
    /// The same, and an IPv6 address at the other end.
    Tunnel6,
    /// A Geneve device.
    Geneve,
    /// A VXLAN device.
    Vxlan,
    /// The filter is at a tunnel's device, and sends to the port.
    FromTunnel,
    /// The same, of a Geneve device.
    FromGeneve,
    /// The same, of a VXLAN device.
    FromVxlan,
}

/// The devices that filters name, by their numbers. A probe that needs one that is not there is not tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Devices {
    /// The port that is probed.
    pub port: Ifindex,
    /// Another port of the same NIC.
    pub output: Option<Ifindex>,
    /// One more.
    pub mirror: Option<Ifindex>,
    /// A Geneve device with an ingress qdisc.
    pub geneve: Option<Ifindex>,
    /// A VXLAN device with an ingress qdisc.
    pub vxlan: Option<Ifindex>,
    /// The UDP port of the Geneve device.
    pub geneve_port: u16,
    /// The UDP port of the VXLAN device.
    pub vxlan_port: u16,
    /// A tunnel's other end that packets leave by this NIC to: drivers look its route up.
    pub remote: Option<Ipv4Addr>,
    /// The same, of IPv6.
    pub remote6: Option<Ipv6Addr>,
}

/// One filter to try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// Its name, which never changes.
    pub id: &'static str,
    /// What it is about.
    pub group: Group,
    /// What it needs.
    pub needs: Needs,
    /// `tcm_info`'s protocol.
    pub protocol: EtherType,
    /// What it matches.
    pub keys: Match,
    /// What it does.
    pub actions: Vec<Action>,
}

impl Probe {
    /// What of a filter the driver refuses if it refuses this; none where it is no single match or action, or was tried with
    /// one kind of tunnel and says nothing of the others.
    pub fn blames(&self) -> Option<Parts> {
        let of_one_kind = match self.needs {
            Needs::Nothing | Needs::Output | Needs::TwoOutputs => false,
            Needs::Tunnel | Needs::Tunnel6 => true,
            // With options of the kind it can be blamed: no other kind has them.
            Needs::Geneve | Needs::Vxlan => !self.has_tunnel_options(),
            // Nothing is: of such a filter the kernel passes on the driver's words and keeps its error to itself.
            Needs::FromTunnel | Needs::FromGeneve | Needs::FromVxlan => true,
        };
        match self.group {
            _ if of_one_kind => None,
            Group::Match => Some(Parts::of_match(self.protocol, &self.keys)),
            Group::Action => Some(Parts::of_actions(&self.actions)),
            Group::Base | Group::Combination => None,
        }
    }
}

impl Probe {
    fn has_tunnel_options(&self) -> bool {
        let sets_some = |action: &Action| match &action.kind {
            ActionKind::TunnelKey(TunnelKey::Set(set)) => set.options != TunnelOptions::None,
            _ => false,
        };
        self.keys.tunnel.options != keys::TunnelOptionKeys::None || self.actions.iter().any(sets_some)
    }
}

/// The probe that tells whether any rule at all is taken.
pub const BASE_DROP: &str = "ip, drop";
/// The one that all that send to a port need.
pub const BASE_OUTPUT: &str = "ip, output";
/// The one that all need that send into a Geneve tunnel.
pub(super) const INTO_GENEVE: &str = "tunnel set geneve";
/// The one that all need that are at a tunnel's device.
pub(super) const OUT_OF_TUNNEL: &str = "tun.dst_port";

fn action(kind: ActionKind) -> Action {
    Action::new(kind, Control::Pipe)
}

pub(super) fn gact(control: Control) -> Action {
    Action::new(ActionKind::Gact(Gact::default()), control)
}

fn to(device: Ifindex, copy: bool, direction: Direction) -> Action {
    let kind = ActionKind::Mirred(Mirred { target: MirredTarget::Device(device), direction, copy });
    Action::new(kind, if copy { Control::Pipe } else { Control::Stolen })
}

/// A match on IPv4, with this protocol above it.
fn ip(proto: Option<u8>) -> Match {
    let eth = keys::Eth { ethertype: Some(EtherType::IPV4), ..keys::Eth::default() };
    Match { eth, ip: keys::Ip { proto, ..keys::Ip::default() }, ..Match::default() }
}

fn ip6(proto: Option<u8>) -> Match {
    let eth = keys::Eth { ethertype: Some(EtherType::IPV6), ..keys::Eth::default() };
    Match { eth, ..ip(proto) }
}

/// Addresses of documentation (RFC 5737, RFC 7042): no packet has them.
const V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const MAC: MacAddr = MacAddr([0x00, 0x00, 0x5e, 0x00, 0x53, 0x01]);

/// All probes, the simplest first.
pub fn probes(devices: &Devices, goto: Chain) -> Vec<Probe> {
    let mut all = vec![
        of_base(BASE_DROP, Needs::Nothing, vec![gact(Control::Drop)]),
        of_base(
            BASE_OUTPUT,
            Needs::Output,
            vec![to(devices.output.unwrap_or_default(), false, Direction::Egress)],
        ),
    ];
    all.extend(super::matches::link_layer());
    all.extend(super::matches::ip());
    all.extend(super::matches::transport());
    all.extend(super::matches::conntrack());
    all.extend(super::matches::tunnel(devices));
    all.extend(actions(devices, goto));
    all.extend(rewrites(devices));
    all.extend(tunnel_actions(devices));
    all.extend(conntrack_actions(goto));
    all.extend(combinations(devices, goto));
    all
}

fn of_base(id: &'static str, needs: Needs, actions: Vec<Action>) -> Probe {
    Probe { id, group: Group::Base, needs, protocol: EtherType::IPV4, keys: ip(None), actions }
}

/// A probe of an action before the packet is sent to another port.
fn before_output(id: &'static str, devices: &Devices, keys: Match, kinds: Vec<ActionKind>) -> Probe {
    let mut actions: Vec<Action> = kinds.into_iter().map(action).collect();
    actions.push(to(devices.output.unwrap_or_default(), false, Direction::Egress));
    Probe { id, group: Group::Action, needs: Needs::Output, protocol: protocol_of(&keys), keys, actions }
}

pub(super) fn protocol_of(keys: &Match) -> EtherType {
    keys.vlan.ethertype.map_or(keys.eth.ethertype, |_| Some(EtherType::VLAN)).unwrap_or(EtherType::ALL)
}

fn of_action(id: &'static str, needs: Needs, actions: Vec<Action>) -> Probe {
    Probe { id, group: Group::Action, needs, protocol: EtherType::IPV4, keys: ip(None), actions }
}

/// What is done with a packet that came out of a tunnel, at the tunnel's device: it goes to the port.
pub(super) fn out_of_tunnel(devices: &Devices) -> Vec<Action> {
    vec![action(ActionKind::TunnelKey(TunnelKey::Release)), to(devices.port, false, Direction::Egress)]
}

/// IPv4 behind one VLAN tag.
pub(super) fn tagged() -> Match {
    let vlan = keys::Vlan { id: Some(7), ethertype: Some(EtherType::IPV4), ..keys::Vlan::default() };
    Match { vlan, ..ip(None) }
}

/// Actions on whole packets and tags.
fn actions(devices: &Devices, goto: Chain) -> Vec<Probe> {
    let push = |protocol| ActionKind::Vlan(Vlan::Push { id: 7, protocol: Some(protocol), prio: Some(1) });
    let mpls = |command, protocol, label| {
        ActionKind::Mpls(Mpls { command, protocol, label, tc: None, ttl: None, bos: None })
    };
    let police = |police: Police| ActionKind::Police(Police { result: Some(Control::Pipe), ..police });
    let mut rate = RateSpec { cell: [0; 8], rate: 1_250_000 };
    // `cell_log`, and TC_LINKLAYER_ETHERNET: without them the kernel refuses a rate.
    (rate.cell[0], rate.cell[1]) = (3, 1);
    let before = |id, kind| before_output(id, devices, ip(None), vec![kind]);
    let output = devices.output.unwrap_or_default();
    let mark = Skbedit { mark: Some(1), ..Skbedit::default() };
    let priority = Skbedit { priority: Some(1), ..Skbedit::default() };
    vec![
        of_action("goto chain", Needs::Nothing, vec![gact(Control::Goto(goto))]),
        of_action("pass", Needs::Nothing, vec![gact(Control::Ok)]),
        of_action("trap", Needs::Nothing, vec![gact(Control::Trap)]),
        of_action(
            "mirror",
            Needs::TwoOutputs,
            vec![
                to(devices.mirror.unwrap_or_default(), true, Direction::Egress),
                to(output, false, Direction::Egress),
            ],
        ),
        of_action("output to ingress", Needs::Output, vec![to(output, false, Direction::Ingress)]),
        before("vlan push", push(EtherType::VLAN)),
        before("vlan push 802.1ad", push(EtherType::QINQ)),
        before_output("vlan pop", devices, tagged(), vec![ActionKind::Vlan(Vlan::Pop)]),
        before_output(
            "vlan modify",
            devices,
            tagged(),
            vec![ActionKind::Vlan(Vlan::Modify { id: 8, protocol: Some(EtherType::VLAN), prio: Some(1) })],
        ),
        before("mpls push", mpls(MplsCommand::Push, Some(EtherType::MPLS), Some(7))),
        before_output(
            "mpls pop",
            devices,
            Match {
                eth: keys::Eth { ethertype: Some(EtherType::MPLS), ..keys::Eth::default() },
                ..Match::default()
            },
            vec![mpls(MplsCommand::Pop, Some(EtherType::IPV4), None)],
        ),
        before("police bytes", police(Police { burst: 1_000_000, rate, ..Police::default() })),
        before(
            "police packets",
            police(Police { packet_rate: Some(10_000), packet_burst: Some(1_000_000), ..Police::default() }),
        ),
        before("police length", police(Police { mtu: 1_400, ..Police::default() })),
        before("sample", ActionKind::Sample(Sample { rate: 1_000, truncate: None, group: 1 })),
        before("skbedit mark", ActionKind::Skbedit(mark)),
        before("skbedit priority", ActionKind::Skbedit(priority)),
    ]
}

/// Rewrites of header fields, each with the checksums that Open vSwitch has mended after it.
fn rewrites(devices: &Devices) -> Vec<Probe> {
    use PeditHeader::{Eth, Ipv4, Ipv6, Tcp, Udp};
    let set = |header, offset, keep: [u8; 4]| PeditKey {
        header,
        command: PeditCommand::Set,
        offset,
        keep,
        value: keep.map(|byte| !byte & 0x01),
        at: 0,
        offset_mask: 0,
        shift: 0,
    };
    let probe = |id, keys: Match, rewrites: Vec<PeditKey>, update: CsumFlags| {
        let pedit = ActionKind::Pedit(Pedit { keys: rewrites, ..Pedit::default() });
        let csum = ActionKind::Csum(Csum { update });
        let kinds = if update.is_empty() { vec![pedit] } else { vec![pedit, csum] };
        before_output(id, devices, keys, kinds)
    };
    let whole = [0; 4];
    let (v4, tcp, udp) = (CsumFlags::IPV4, CsumFlags::TCP, CsumFlags::UDP);
    let add = PeditKey {
        command: PeditCommand::Add,
        value: [0xff, 0, 0, 0],
        ..set(Ipv4, 8, [0, 0xff, 0xff, 0xff])
    };
    let words = |first: u32| (0..4).map(move |word| set(Ipv6, first + 4 * word, whole)).collect::<Vec<_>>();
    vec![
        probe(
            "set eth.dst",
            ip(None),
            vec![set(Eth, 0, whole), set(Eth, 4, [0, 0, 0xff, 0xff])],
            CsumFlags::NONE,
        ),
        probe(
            "set eth.src",
            ip(None),
            vec![set(Eth, 4, [0xff, 0xff, 0, 0]), set(Eth, 8, whole)],
            CsumFlags::NONE,
        ),
        probe("set ip4.src", ip(Some(proto::TCP)), vec![set(Ipv4, 12, whole)], v4 | tcp),
        probe("set ip4.dst", ip(Some(proto::TCP)), vec![set(Ipv4, 16, whole)], v4 | tcp),
        probe("set ip4.ttl", ip(None), vec![set(Ipv4, 8, [0, 0xff, 0xff, 0xff])], v4),
        probe("decrement ip4.ttl", ip(None), vec![add], v4),
        probe("set ip4.tos", ip(None), vec![set(Ipv4, 0, [0xff, 0, 0xff, 0xff])], v4),
        probe("set ip6.src", ip6(Some(proto::TCP)), words(8), tcp),
        probe("set ip6.dst", ip6(Some(proto::TCP)), words(24), tcp),
        probe("set ip6.hlimit", ip6(None), vec![set(Ipv6, 4, [0xff, 0xff, 0xff, 0])], CsumFlags::NONE),
        probe("set tcp.src", ip(Some(proto::TCP)), vec![set(Tcp, 0, [0, 0, 0xff, 0xff])], tcp),
        probe("set tcp.dst", ip(Some(proto::TCP)), vec![set(Tcp, 0, [0xff, 0xff, 0, 0])], tcp),
        probe("set udp.src", ip(Some(proto::UDP)), vec![set(Udp, 0, [0, 0, 0xff, 0xff])], udp),
        probe("set udp.dst", ip(Some(proto::UDP)), vec![set(Udp, 0, [0xff, 0xff, 0, 0])], udp),
    ]
}

fn tunnel_set(devices: &Devices) -> TunnelSet {
    TunnelSet {
        id: Some(7),
        // Which of our addresses it leaves with the route says, as where Open vSwitch has no `local_ip`.
        ipv4_src: Some(Ipv4Addr::UNSPECIFIED),
        ipv4_dst: devices.remote,
        dst_port: Some(devices.geneve_port),
        ttl: Some(64),
        no_csum: Some(true),
        ..TunnelSet::default()
    }
}

/// Into tunnels and out of them.
fn tunnel_actions(devices: &Devices) -> Vec<Probe> {
    let into = |id, needs, device: Option<Ifindex>, set: TunnelSet| {
        let set = action(ActionKind::TunnelKey(TunnelKey::Set(Box::new(set))));
        let output = to(device.unwrap_or_default(), false, Direction::Egress);
        of_action(id, needs, vec![set, output])
    };
    let any = devices.geneve.or(devices.vxlan);
    let option = |words: usize| GeneveOption { class: 0x0102, kind: 0x80, data: vec![0; 4 * words] };
    let v6 = TunnelSet {
        ipv4_src: None,
        ipv4_dst: None,
        ipv6_src: Some(Ipv6Addr::UNSPECIFIED),
        ipv6_dst: devices.remote6,
        ..tunnel_set(devices)
    };
    let port = super::matches::any_port(devices);
    let of_any = || TunnelSet { dst_port: Some(port), ..tunnel_set(devices) };
    let vxlan = TunnelSet { dst_port: Some(devices.vxlan_port), ..tunnel_set(devices) };
    let geneve = |options| TunnelSet { options: TunnelOptions::Geneve(options), ..tunnel_set(devices) };
    vec![
        into(INTO_GENEVE, Needs::Geneve, devices.geneve, tunnel_set(devices)),
        into("tunnel set geneve, one option", Needs::Geneve, devices.geneve, geneve(vec![option(1)])),
        into(
            "tunnel set geneve, two options",
            Needs::Geneve,
            devices.geneve,
            geneve(vec![option(1), option(2)]),
        ),
        into("tunnel set vxlan", Needs::Vxlan, devices.vxlan, vxlan),
        into("tunnel set over ip6", Needs::Tunnel6, any, TunnelSet { dst_port: Some(port), ..v6 }),
        into("tunnel set tos", Needs::Tunnel, any, TunnelSet { tos: Some(4), ..of_any() }),
        into("tunnel set csum", Needs::Tunnel, any, TunnelSet { no_csum: Some(false), ..of_any() }),
        into("tunnel set df", Needs::Tunnel, any, TunnelSet { no_frag: true, ..of_any() }),
        Probe {
            keys: super::matches::from_tunnel(devices),
            ..of_action("tunnel unset", Needs::FromTunnel, out_of_tunnel(devices))
        },
    ]
}

fn ct(flags: CtFlags) -> Ct {
    Ct { flags, zone: (!flags.contains(CtFlags::CLEAR)).then_some(7), ..Ct::default() }
}

/// Connection tracking, and on to the chain where its outcome is matched.
fn conntrack_actions(goto: Chain) -> Vec<Probe> {
    let probe = |id, ct: Ct| {
        let ct = action(ActionKind::Ct(Box::new(ct)));
        let keys = ip(Some(proto::TCP));
        Probe { keys, ..of_action(id, Needs::Nothing, vec![ct, gact(Control::Goto(goto))]) }
    };
    let nat = |side| Ct {
        nat_ipv4_min: Some(V4),
        nat_ipv4_max: Some(V4),
        ..ct(CtFlags::COMMIT | CtFlags::NAT | side)
    };
    let mark = Some(Masked::exact(1));
    let mut label = Masked::new([0; 16], [0; 16]);
    (label.value[0], label.mask[0]) = (1, 1);
    vec![
        probe("ct", ct(CtFlags::NONE)),
        probe("ct commit", ct(CtFlags::COMMIT)),
        probe("ct commit force", ct(CtFlags::COMMIT | CtFlags::FORCE)),
        probe("ct commit, mark", Ct { mark, ..ct(CtFlags::COMMIT) }),
        probe("ct commit, label", Ct { labels: Some(label), ..ct(CtFlags::COMMIT) }),
        probe("ct nat", ct(CtFlags::NAT)),
        probe("ct commit, nat src", nat(CtFlags::NAT_SRC)),
        probe("ct commit, nat dst", nat(CtFlags::NAT_DST)),
        probe("ct clear", ct(CtFlags::CLEAR)),
    ]
}

/// What Open vSwitch puts together: each part may be taken and the whole refused.
fn combinations(devices: &Devices, goto: Chain) -> Vec<Probe> {
    let output = to(devices.output.unwrap_or_default(), false, Direction::Egress);
    let mirror = to(devices.mirror.unwrap_or_default(), true, Direction::Egress);
    let push =
        |protocol, id| action(ActionKind::Vlan(Vlan::Push { id, protocol: Some(protocol), prio: Some(1) }));
    let pop = action(ActionKind::Vlan(Vlan::Pop));
    let combination = |id, needs, keys: Match, actions| Probe {
        id,
        group: Group::Combination,
        needs,
        protocol: protocol_of(&keys),
        keys,
        actions,
    };
    // Routed, as OVN does it: both Ethernet addresses and the time to live.
    let word = |header, offset, keep, value| PeditKey {
        header,
        command: PeditCommand::Set,
        offset,
        keep,
        value,
        at: 0,
        offset_mask: 0,
        shift: 0,
    };
    let mac = MAC.0;
    let routed = Pedit {
        keys: vec![
            word(PeditHeader::Eth, 0, [0; 4], [mac[0], mac[1], mac[2], mac[3]]),
            word(PeditHeader::Eth, 4, [0; 4], [mac[4], mac[5], mac[0], mac[1]]),
            word(PeditHeader::Eth, 8, [0; 4], [mac[2], mac[3], mac[4], mac[5]]),
            word(PeditHeader::Ipv4, 8, [0, 0xff, 0xff, 0xff], [63, 0, 0, 0]),
        ],
        ..Pedit::default()
    };
    let csum = ActionKind::Csum(Csum { update: CsumFlags::IPV4 });
    let routed = [action(ActionKind::Pedit(routed)), action(csum)];
    let meter = ActionKind::Police(Police { mtu: 1_400, result: Some(Control::Pipe), ..Police::default() });
    let of_any = TunnelSet { dst_port: Some(super::matches::any_port(devices)), ..tunnel_set(devices) };
    let set = action(ActionKind::TunnelKey(TunnelKey::Set(Box::new(of_any))));
    let tunnelled = to(devices.geneve.or(devices.vxlan).unwrap_or_default(), false, Direction::Egress);
    let track = action(ActionKind::Ct(Box::new(ct(CtFlags::NONE))));
    let with = |before: &[Action], last: &Action| before.iter().chain([last]).cloned().collect::<Vec<_>>();
    vec![
        combination(
            "mirror, vlan push, output",
            Needs::TwoOutputs,
            ip(None),
            vec![mirror.clone(), push(EtherType::VLAN, 7), output.clone()],
        ),
        combination(
            "vlan push twice, output",
            Needs::Output,
            ip(None),
            vec![push(EtherType::VLAN, 7), push(EtherType::QINQ, 8), output.clone()],
        ),
        combination(
            "vlan pop, vlan push, output",
            Needs::Output,
            tagged(),
            vec![pop, push(EtherType::VLAN, 8), output.clone()],
        ),
        combination("route, output", Needs::Output, ip(None), with(&routed, &output)),
        combination("police, route, output", Needs::Output, ip(None), {
            let mut actions = vec![action(meter)];
            actions.extend(with(&routed, &output));
            actions
        }),
        combination("route, goto chain", Needs::Nothing, ip(None), with(&routed, &gact(Control::Goto(goto)))),
        combination("route, tunnel set, output", Needs::Tunnel, ip(None), {
            let mut actions = routed.to_vec();
            actions.extend([set.clone(), tunnelled.clone()]);
            actions
        }),
        combination(
            "mirror, tunnel set, output",
            Needs::Tunnel,
            ip(None),
            vec![copied(output), set, tunnelled],
        ),
        combination(
            "tunnel unset, ct, goto chain",
            Needs::FromTunnel,
            super::matches::from_tunnel(devices),
            vec![action(ActionKind::TunnelKey(TunnelKey::Release)), track, gact(Control::Goto(goto))],
        ),
    ]
}

/// The same output, of a copy.
fn copied(output: Action) -> Action {
    match output.kind {
        ActionKind::Mirred(mirred) => action(ActionKind::Mirred(Mirred { copy: true, ..mirred })),
        _ => output,
    }
}
