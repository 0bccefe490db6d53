//! Filters as text, on one line, in the words of Open vSwitch (keys) and `tc` (actions).

use crate::action::{
    ActionKind, Ct, CtFlags, Direction, Gact, Mirred, MirredTarget, Mpls, MplsCommand, Pedit, PeditCommand,
    Police, Skbedit, TunnelKey, TunnelOptions, TunnelSet, Vlan,
};
use crate::keys::{
    Arp, Conntrack, CtState, Cvlan, Eth, FIRST_FRAGMENT, FRAGMENT, GeneveOptionKey, Icmp, Icmpv6, Ip, Ipv4,
    Ipv6, Match, Other, PortRange, Sctp, Tcp, Tunnel, TunnelOptionKeys, Udp, Vlan as VlanKeys,
};
use crate::{Action, Control, Ifindex};
use core::fmt::{self, Display, Formatter, Write};
use netlink_wire::Masked;
use netlink_wire::masked::{Ipv4Net, Ipv6Net};

/// Writes parts with a separator between them.
struct List<'a, 'b> {
    f: &'a mut Formatter<'b>,
    separator: &'static str,
    is_first: bool,
}

impl<'a, 'b> List<'a, 'b> {
    const fn new(f: &'a mut Formatter<'b>, separator: &'static str) -> Self {
        Self { f, separator, is_first: true }
    }

    fn item(&mut self, item: fmt::Arguments<'_>) -> fmt::Result {
        if !core::mem::replace(&mut self.is_first, false) {
            self.f.write_str(self.separator)?;
        }
        self.f.write_fmt(item)
    }

    fn key<T: Display>(&mut self, name: &str, key: Option<T>) -> fmt::Result {
        key.map_or(Ok(()), |key| self.item(format_args!("{name}={key}")))
    }

    fn hex<T: fmt::LowerHex>(&mut self, name: &str, key: Option<T>) -> fmt::Result {
        key.map_or(Ok(()), |key| self.item(format_args!("{name}={key:#x}")))
    }
}

/// Implements `Display` for the keys of one protocol.
macro_rules! listed {
    ($($name:ident { $($how:ident $label:literal $field:ident),* })*) => {$(
        impl Display for $name {
            fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
                let mut list = List::new(f, ",");
                $(listed!(@ list, $how, $label, self.$field);)*
                Ok(())
            }
        }
    )*};
    (@ $list:ident, v4, $label:literal, $self:ident.$field:ident) => { $list.key($label, $self.$field.map(Ipv4Net))?; };
    (@ $list:ident, v6, $label:literal, $self:ident.$field:ident) => { $list.key($label, $self.$field.map(Ipv6Net))?; };
    (@ $list:ident, $how:ident, $label:literal, $self:ident.$field:ident) => { $list.$how($label, $self.$field)?; };
}

listed! {
    VlanKeys { key "vid" id, key "pcp" prio }
    Cvlan { key "vid" id, key "pcp" prio }
    Ipv4 { v4 "src" src, v4 "dst" dst }
    Ipv6 { v6 "src" src, v6 "dst" dst }
    Tcp { key "src" src, key "dst" dst, hex "flags" flags }
    Udp { key "src" src, key "dst" dst }
    Sctp { key "src" src, key "dst" dst }
    Icmp { key "type" kind, key "code" code }
    Icmpv6 { key "type" kind, key "code" code }
    Arp { v4 "sip" sip, v4 "tip" tip, key "op" op, key "sha" sha, key "tha" tha }
    PortRange { key "src_min" src_min, key "src_max" src_max, key "dst_min" dst_min, key "dst_max" dst_max }
    Other {
        hex "hash" hash, key "num_of_vlans" vlans, hex "pppoe_sid" pppoe_sid, hex "ppp_proto" ppp_proto,
        hex "l2tpv3_sid" l2tpv3_sid, key "l2_miss" l2_miss, hex "spi" spi
    }
}

impl Display for crate::keys::Mpls {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let mut list = List::new(f, ",");
        list.key("label", self.label)?;
        list.key("tc", self.tc)?;
        list.key("ttl", self.ttl)?;
        list.key("bos", self.bos)
    }
}

impl Display for Tunnel {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let header = &self.header;
        let mut list = List::new(f, ",");
        list.hex("tun_id", header.id)?;
        list.key("src", header.ipv4_src.map(Ipv4Net))?;
        list.key("dst", header.ipv4_dst.map(Ipv4Net))?;
        list.key("ipv6_src", header.ipv6_src.map(Ipv6Net))?;
        list.key("ipv6_dst", header.ipv6_dst.map(Ipv6Net))?;
        list.hex("tos", header.tos)?;
        list.key("ttl", header.ttl)?;
        list.key("tp_src", header.src_port)?;
        list.key("tp_dst", header.dst_port)?;
        list.hex("flags", header.flags)?;
        match &self.options {
            TunnelOptionKeys::None => Ok(()),
            TunnelOptionKeys::Geneve(options) => {
                list.item(format_args!("geneve("))?;
                options.iter().try_for_each(|option| write!(list.f, "{option}"))?;
                list.f.write_char(')')
            }
            TunnelOptionKeys::VxlanGbp(gbp) => list.item(format_args!("vxlan(gbp={gbp:#x})")),
        }
    }
}

/// `{class=0x102,type=0x80,len=4,0x00010002/0x7fffffff}`, as Open vSwitch prints an option.
impl Display for GeneveOptionKey {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { class, kind, data, data_mask } = self;
        write!(f, "{{class={class:#x},type={kind:#x},len={},{}", data.len(), Hex(data))?;
        if data_mask.iter().any(|byte| *byte != 0xff) {
            write!(f, "/{}", Hex(data_mask))?;
        }
        f.write_char('}')
    }
}

/// Bytes as hexadecimal digits.
struct Hex<'a>(&'a [u8]);

impl Display for Hex<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("0x")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// `eth_type(0x0800),ipv4(src=10.0.0.0/24,proto=6),tcp(dst=80)`; `any` where there is no key.
impl Display for Match {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if *self == Self::default() {
            return f.write_str("any");
        }
        let mut list = List::new(f, ",");
        macro_rules! part {
            ($name:literal, $part:expr) => {
                if !$part.is_empty() {
                    list.item(format_args!(concat!($name, "({})"), $part))?;
                }
            };
        }
        part!("tunnel", self.tunnel);
        conntrack(&mut list, &self.ct)?;
        ethernet(&mut list, &self.eth)?;
        part!("vlan", self.vlan);
        part!("cvlan", self.cvlan);
        if let Some(ethertype) = self.eth.ethertype {
            list.item(format_args!("eth_type({ethertype})"))?;
        }
        part!("mpls", self.mpls);
        part!("ipv4", self.ipv4);
        part!("ipv6", self.ipv6);
        if !self.ip.is_empty() {
            list.item(format_args!("ip("))?;
            ip(list.f, &self.ip)?;
            list.f.write_char(')')?;
        }
        part!("arp", self.arp);
        part!("tcp", self.tcp);
        part!("udp", self.udp);
        part!("sctp", self.sctp);
        part!("ports", self.ports);
        part!("icmp", self.icmp);
        part!("icmpv6", self.icmpv6);
        part!("other", self.other);
        Ok(())
    }
}

fn ethernet(list: &mut List<'_, '_>, eth: &Eth) -> fmt::Result {
    match (eth.src, eth.dst) {
        (None, None) => Ok(()),
        (Some(src), None) => list.item(format_args!("eth(src={src})")),
        (None, Some(dst)) => list.item(format_args!("eth(dst={dst})")),
        (Some(src), Some(dst)) => list.item(format_args!("eth(src={src},dst={dst})")),
    }
}

fn conntrack(list: &mut List<'_, '_>, ct: &Conntrack) -> fmt::Result {
    if let Some(state) = ct.state {
        list.item(format_args!("ct_state({})", CtState(state)))?;
    }
    if let Some(zone) = ct.zone {
        list.item(format_args!("ct_zone({zone})"))?;
    }
    if let Some(mark) = ct.mark {
        list.item(format_args!("ct_mark({mark:#x})"))?;
    }
    if let Some(labels) = ct.labels {
        list.item(format_args!("ct_label({:#x})", labels.map(u128::from_ne_bytes)))?;
    }
    Ok(())
}

fn ip(f: &mut Formatter<'_>, ip: &Ip) -> fmt::Result {
    let mut list = List::new(f, ",");
    list.key("proto", ip.proto)?;
    list.hex("tos", ip.tos)?;
    list.key("ttl", ip.ttl)?;
    let Some(flags) = ip.flags else { return Ok(()) };
    let frag = match (flags.mask & (FRAGMENT | FIRST_FRAGMENT), flags.significant()) {
        (mask, 0) if mask & FRAGMENT != 0 => "no",
        (mask, FRAGMENT) if mask & FIRST_FRAGMENT != 0 => "later",
        (_, bits) if bits == FRAGMENT | FIRST_FRAGMENT => "first",
        (mask, FRAGMENT) if mask == FRAGMENT => "yes",
        _ => return list.hex("flags", Some(flags)),
    };
    list.key("frag", Some(frag))
}

/// A list of actions as text: `tunnel_key unset, mirred egress redirect dev 7`.
///
/// Made by [`actions`].
pub struct Actions<'a, I> {
    actions: I,
    names: &'a dyn Fn(Ifindex, &mut Formatter<'_>) -> fmt::Result,
}

/// Actions as text, with `names` writing the name of a device.
///
/// ```
/// # use tc_flower::{Action, display};
/// fn show(actions: &[Action]) -> String {
///     display::actions(actions.iter(), &|ifindex, f| write!(f, "{ifindex}")).to_string()
/// }
/// assert_eq!(show(&[]), "none");
/// ```
pub const fn actions<'a, 'b, I>(
    actions: I,
    names: &'a dyn Fn(Ifindex, &mut Formatter<'_>) -> fmt::Result,
) -> Actions<'a, I>
where
    I: Iterator<Item = &'b Action> + Clone,
{
    Actions { actions, names }
}

impl<'b, I: Iterator<Item = &'b Action> + Clone> Display for Actions<'_, I> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let mut list = List::new(f, ", ");
        for action in self.actions.clone() {
            match &action.kind {
                ActionKind::Mirred(mirred) => {
                    list.item(format_args!("mirred "))?;
                    self.mirred(list.f, *mirred)?;
                }
                ActionKind::Police(_) if action.index.is_meter() => {
                    list.item(format_args!("police index {:#x}", action.index.0))?;
                }
                _ => list.item(format_args!("{}", action.kind))?,
            }
            // A control that the kind implies says nothing.
            let is_implied = match &action.kind {
                // What follows of these is half of what they say.
                ActionKind::Gact(_) | ActionKind::Police(_) => false,
                ActionKind::Mirred(mirred) if !mirred.copy => {
                    matches!(action.control, Control::Stolen | Control::Pipe)
                }
                _ => action.control == Control::Pipe,
            };
            if !is_implied && !matches!(action.kind, ActionKind::Terse(_)) {
                write!(list.f, " {}", action.control)?;
            }
        }
        if list.is_first { f.write_str("none") } else { Ok(()) }
    }
}

impl<I> Actions<'_, I> {
    fn mirred(&self, f: &mut Formatter<'_>, mirred: Mirred) -> fmt::Result {
        let direction = if mirred.direction == Direction::Egress { "egress" } else { "ingress" };
        let how = if mirred.copy { "mirror" } else { "redirect" };
        match mirred.target {
            MirredTarget::Device(ifindex) => {
                write!(f, "{direction} {how} dev ")?;
                (self.names)(ifindex, f)
            }
            MirredTarget::Block(block) => write!(f, "{direction} {how} blockid {block}"),
        }
    }
}

/// Without the control, and with devices by their number.
impl Display for ActionKind {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mirred(mirred) => {
                f.write_str("mirred ")?;
                let numbers = |ifindex: Ifindex, f: &mut Formatter<'_>| ifindex.fmt(f);
                Actions { actions: (), names: &numbers }.mirred(f, *mirred)
            }
            Self::Gact(gact) => show_gact(f, gact),
            Self::Vlan(vlan) => show_vlan(f, vlan),
            Self::Mpls(mpls) => show_mpls(f, mpls),
            Self::TunnelKey(TunnelKey::Release) => f.write_str("tunnel_key unset"),
            Self::TunnelKey(TunnelKey::Set(set)) => show_tunnel_set(f, set),
            Self::Pedit(pedit) => show_pedit(f, pedit),
            Self::Csum(csum) => write!(f, "csum {}", csum.update),
            Self::Ct(ct) => show_ct(f, ct),
            Self::Police(police) => show_police(f, police),
            Self::Skbedit(skbedit) => show_skbedit(f, skbedit),
            Self::Sample(sample) => write!(f, "sample 1/{} group {}", sample.rate, sample.group),
            Self::Terse(kind) | Self::Unknown(kind) => kind.fmt(f),
        }
    }
}

fn show_gact(f: &mut Formatter<'_>, gact: &Gact) -> fmt::Result {
    f.write_str("gact")?;
    match &gact.probability {
        None => Ok(()),
        Some(some) => write!(f, " {} 1/{} else", some.control, some.value),
    }
}

fn show_vlan(f: &mut Formatter<'_>, vlan: &Vlan) -> fmt::Result {
    match vlan {
        Vlan::Pop => f.write_str("vlan pop"),
        Vlan::PopEth => f.write_str("vlan pop_eth"),
        Vlan::PushEth { dst, src } => write!(f, "vlan push_eth dst {dst} src {src}"),
        Vlan::Push { id, protocol, prio } | Vlan::Modify { id, protocol, prio } => {
            let what = if matches!(vlan, Vlan::Push { .. }) { "push" } else { "modify" };
            write!(f, "vlan {what} id {id}")?;
            if let Some(protocol) = protocol {
                write!(f, " protocol {protocol}")?;
            }
            prio.map_or(Ok(()), |prio| write!(f, " priority {prio}"))
        }
    }
}

fn show_mpls(f: &mut Formatter<'_>, mpls: &Mpls) -> fmt::Result {
    f.write_str(match mpls.command {
        MplsCommand::Pop => "mpls pop",
        MplsCommand::Push => "mpls push",
        MplsCommand::Modify => "mpls modify",
        MplsCommand::DecTtl => "mpls dec_ttl",
        MplsCommand::MacPush => "mpls mac_push",
    })?;
    if let Some(protocol) = mpls.protocol {
        write!(f, " protocol {protocol}")?;
    }
    if let Some(label) = mpls.label {
        write!(f, " label {label}")?;
    }
    for (name, value) in [("tc", mpls.tc), ("ttl", mpls.ttl), ("bos", mpls.bos)] {
        if let Some(value) = value {
            write!(f, " {name} {value}")?;
        }
    }
    Ok(())
}

fn show_tunnel_set(f: &mut Formatter<'_>, set: &TunnelSet) -> fmt::Result {
    f.write_str("tunnel_key set ")?;
    let mut list = List::new(f, ",");
    list.hex("id", set.id)?;
    list.key("src", set.ipv4_src)?;
    list.key("dst", set.ipv4_dst)?;
    list.key("src", set.ipv6_src)?;
    list.key("dst", set.ipv6_dst)?;
    list.key("tp_dst", set.dst_port)?;
    list.hex("tos", set.tos)?;
    list.key("ttl", set.ttl)?;
    match &set.options {
        TunnelOptions::None => {}
        TunnelOptions::Geneve(options) => {
            list.item(format_args!("geneve("))?;
            for option in options {
                let data = Hex(&option.data);
                let length = option.data.len();
                write!(list.f, "{{class={:#x},type={:#x},len={length},{data}}}", option.class, option.kind)?;
            }
            list.f.write_char(')')?;
        }
        TunnelOptions::VxlanGbp(gbp) => list.item(format_args!("vxlan(gbp={gbp:#x})"))?,
    }
    for (is_set, name) in [(set.no_csum == Some(true), "nocsum"), (set.no_frag, "nofrag")] {
        if is_set {
            list.item(format_args!("{name}"))?;
        }
    }
    Ok(())
}

/// `pedit ip+12=0x0a000001/0xffffffff`: header, offset, value and the bits that are written.
fn show_pedit(f: &mut Formatter<'_>, pedit: &Pedit) -> fmt::Result {
    f.write_str("pedit ")?;
    let mut list = List::new(f, ",");
    for key in &pedit.keys {
        let written = key.keep.map(|byte| !byte);
        let sign = if key.command == PeditCommand::Add { "+=" } else { "=" };
        let (header, value) = (key.header.name(), Hex(&key.value));
        list.item(format_args!("{header}+{}{sign}{value}/{}", key.offset, Hex(&written)))?;
    }
    Ok(())
}

fn show_ct(f: &mut Formatter<'_>, ct: &Ct) -> fmt::Result {
    f.write_str("ct(")?;
    let mut list = List::new(f, ",");
    let words = [(CtFlags::COMMIT, "commit"), (CtFlags::FORCE, "force"), (CtFlags::CLEAR, "clear")];
    for (_, word) in words.into_iter().filter(|(flag, _)| ct.flags.contains(*flag)) {
        list.item(format_args!("{word}"))?;
    }
    list.key("zone", ct.zone)?;
    list.hex("mark", ct.mark)?;
    list.hex("label", ct.labels.map(|labels: Masked<_>| labels.map(u128::from_ne_bytes)))?;
    list.key("helper", ct.helper.as_ref().map(|helper| &helper.name))?;
    if ct.flags.contains(CtFlags::NAT) {
        let side = match (ct.flags.contains(CtFlags::NAT_SRC), ct.flags.contains(CtFlags::NAT_DST)) {
            (true, _) => "(src)",
            (_, true) => "(dst)",
            _ => "",
        };
        list.item(format_args!("nat{side}"))?;
        range(&mut list, ct.nat_ipv4_min, ct.nat_ipv4_max, "addr")?;
        range(&mut list, ct.nat_ipv6_min, ct.nat_ipv6_max, "addr")?;
        range(&mut list, ct.nat_port_min, ct.nat_port_max, "port")?;
    }
    f.write_char(')')
}

fn range<T: Display + PartialEq>(
    list: &mut List<'_, '_>,
    min: Option<T>,
    max: Option<T>,
    name: &str,
) -> fmt::Result {
    match (min, max) {
        (Some(min), Some(max)) if min != max => list.item(format_args!("{name}={min}-{max}")),
        (Some(min), _) => list.item(format_args!("{name}={min}")),
        (None, _) => Ok(()),
    }
}

fn show_police(f: &mut Formatter<'_>, police: &Police) -> fmt::Result {
    f.write_str("police")?;
    if police.rate.rate != 0 {
        write!(f, " rate {} byte/s", police.rate64.unwrap_or(police.rate.rate.into()))?;
    }
    if let Some(rate) = police.packet_rate {
        write!(f, " rate {rate} packet/s")?;
    }
    if police.mtu != 0 && police.mtu != u32::MAX {
        write!(f, " mtu {}", police.mtu)?;
    }
    police.result.map_or(Ok(()), |result| write!(f, " conforming {result}, else"))
}

fn show_skbedit(f: &mut Formatter<'_>, skbedit: &Skbedit) -> fmt::Result {
    f.write_str("skbedit")?;
    match skbedit.packet_type {
        Some(0) => f.write_str(" ptype host")?,
        Some(other) => write!(f, " ptype {other}")?,
        None => {}
    }
    if let Some(priority) = skbedit.priority {
        write!(f, " priority {priority:#x}")?;
    }
    if let Some(mark) = skbedit.mark {
        write!(f, " mark {mark:#x}")?;
    }
    skbedit.queue.map_or(Ok(()), |queue| write!(f, " queue {queue}"))
}
