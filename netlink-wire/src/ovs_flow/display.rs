//! Megaflows as text, in the manner of `ovs-dpctl dump-flows` (`lib/odp-util.c`). Keys that do not matter are left out.

use super::actions::{FlowAction, FlowActions, SetField, Userspace};
use super::conntrack::{Conntrack, Nat};
use super::keys::{
    ArpKey, CtTupleIpv4Key, CtTupleIpv6Key, EthKey, FlowKeys, IcmpKey, Ipv4Key, Ipv6Key, NdKey, PortsKey,
    VlanKey,
};
use super::tunnel::{TunnelFlags, TunnelKey};
use crate::masked::{Ipv4Net, Ipv6Net};
use crate::{Bits, Masked};
use core::fmt::{self, Display, Formatter, Write};

/// Writes parts with commas between them.
struct List<'a, 'b> {
    f: &'a mut Formatter<'b>,
    is_first: bool,
}

impl<'a, 'b> List<'a, 'b> {
    const fn new(f: &'a mut Formatter<'b>) -> Self {
        Self { f, is_first: true }
    }

    fn item(&mut self, item: fmt::Arguments<'_>) -> fmt::Result {
        if !core::mem::replace(&mut self.is_first, false) {
            self.f.write_char(',')?;
        }
        self.f.write_fmt(item)
    }

    /// `name=value`, where any of its bits matters.
    fn key<T: Bits>(&mut self, name: &str, key: Masked<T>, show: impl Fn(Masked<T>) -> Shown) -> fmt::Result {
        match key.is_any() {
            true => Ok(()),
            false => self.item(format_args!("{name}={}", show(key))),
        }
    }

    fn decimal<T: Bits + Into<u64>>(&mut self, name: &str, key: Masked<T>) -> fmt::Result {
        self.key(name, key, |key| Shown::Decimal(key.map(Into::into), key.is_exact()))
    }

    fn hex<T: Bits + Into<u64>>(&mut self, name: &str, key: Masked<T>) -> fmt::Result {
        self.key(name, key, |key| Shown::Hex(key.map(Into::into), key.is_exact()))
    }
}

/// A value and its mask, in one of the ways Open vSwitch prints them.
enum Shown {
    Decimal(Masked<u64>, bool),
    Hex(Masked<u64>, bool),
    Mac(Masked<crate::MacAddr>),
    V4(Masked<core::net::Ipv4Addr>),
    V6(Masked<core::net::Ipv6Addr>),
}

impl Display for Shown {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Decimal(key, true) => write!(f, "{}", key.value),
            Self::Decimal(key, false) => write!(f, "{}/{:#x}", key.value, key.mask),
            Self::Hex(key, true) => write!(f, "{:#x}", key.value),
            Self::Hex(key, false) => write!(f, "{:#x}/{:#x}", key.value, key.mask),
            Self::Mac(key) => key.fmt(f),
            Self::V4(key) => Ipv4Net(*key).fmt(f),
            Self::V6(key) => Ipv6Net(*key).fmt(f),
        }
    }
}

/// Implements `Display` for keys whose fields are listed one after the other.
macro_rules! listed {
    ($($name:ident { $($show:ident $label:literal $field:ident),* })*) => {$(
        impl Display for $name {
            fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
                let mut list = List::new(f);
                $(listed!(@ list, $show, $label, self.$field);)*
                Ok(())
            }
        }
    )*};
    (@ $list:ident, frag, $label:literal, $self:ident.$field:ident) => {
        if !$self.$field.is_any() {
            let frag = match $self.$field.significant() { 0 => "no", 1 => "first", _ => "later" };
            $list.item(format_args!(concat!($label, "={}"), frag))?;
        }
    };
    (@ $list:ident, decimal, $label:literal, $self:ident.$field:ident) => { $list.decimal($label, $self.$field)?; };
    (@ $list:ident, hex, $label:literal, $self:ident.$field:ident) => { $list.hex($label, $self.$field)?; };
    (@ $list:ident, $shown:ident, $label:literal, $self:ident.$field:ident) => {
        $list.key($label, $self.$field, Shown::$shown)?;
    };
}

listed! {
    EthKey { Mac "src" src, Mac "dst" dst }
    Ipv4Key {
        V4 "src" src, V4 "dst" dst, decimal "proto" proto, hex "tos" tos, decimal "ttl" ttl, frag "frag" frag
    }
    Ipv6Key {
        V6 "src" src, V6 "dst" dst, hex "label" label, decimal "proto" proto, hex "tclass" tclass,
        decimal "hlimit" hlimit, frag "frag" frag
    }
    PortsKey { decimal "src" src, decimal "dst" dst }
    IcmpKey { decimal "type" kind, decimal "code" code }
    ArpKey { V4 "sip" sip, V4 "tip" tip, decimal "op" op, Mac "sha" sha, Mac "tha" tha }
    NdKey { V6 "target" target, Mac "sll" sll, Mac "tll" tll }
    CtTupleIpv4Key {
        V4 "src" src, V4 "dst" dst, decimal "proto" proto, decimal "tp_src" src_port, decimal "tp_dst" dst_port
    }
    CtTupleIpv6Key {
        V6 "src" src, V6 "dst" dst, decimal "proto" proto, decimal "tp_src" src_port, decimal "tp_dst" dst_port
    }
}

/// `vid=5,pcp=0`
impl Display for VlanKey {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let mut list = List::new(f);
        let part = |mask: u16, shift: u32| self.tci.map(|tci| (tci & mask) >> shift);
        let (vid, pcp) = (part(0x0fff, 0), part(0xe000, 13));
        if vid.mask != 0 {
            let shown = Shown::Decimal(vid.map(Into::into), vid.mask == 0x0fff);
            list.item(format_args!("vid={shown}"))?;
        }
        if pcp.mask != 0 {
            list.item(format_args!("pcp={}", Shown::Decimal(pcp.map(Into::into), pcp.mask == 0x7)))?;
        }
        Ok(())
    }
}

impl Display for TunnelKey {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let mut list = List::new(f);
        list.hex("tun_id", self.id.unwrap_or_default())?;
        list.key("src", self.ipv4_src.unwrap_or_default(), Shown::V4)?;
        list.key("dst", self.ipv4_dst.unwrap_or_default(), Shown::V4)?;
        list.key("ipv6_src", self.ipv6_src.unwrap_or_default(), Shown::V6)?;
        list.key("ipv6_dst", self.ipv6_dst.unwrap_or_default(), Shown::V6)?;
        list.hex("tos", self.tos.unwrap_or_default())?;
        list.decimal("ttl", self.ttl.unwrap_or_default())?;
        list.decimal("tp_src", self.tp_src.unwrap_or_default())?;
        list.decimal("tp_dst", self.tp_dst.unwrap_or_default())?;
        if let Some(geneve) = self.geneve.as_ref().filter(|key| !key.is_any()) {
            list.item(format_args!("geneve({})", Hex(&geneve.value)))?;
        }
        if let Some(gbp) = self.vxlan_gbp.filter(|key| !key.is_any()) {
            list.item(format_args!("vxlan(gbp={gbp:#x})"))?;
        }
        if let Some(erspan) = self.erspan.as_ref().filter(|key| !key.is_any()) {
            list.item(format_args!("erspan({})", Hex(&erspan.value)))?;
        }
        let names =
            [(TunnelFlags::DONT_FRAGMENT, "df"), (TunnelFlags::CSUM, "csum"), (TunnelFlags::OAM, "oam")];
        let mut flags = names.into_iter().filter(|(flag, _)| self.flags.mask.contains(*flag)).peekable();
        if flags.peek().is_some() {
            list.item(format_args!("flags("))?;
            for (flag, name) in flags {
                let sign = if self.flags.value.contains(flag) { '+' } else { '-' };
                write!(list.f, "{sign}{name}")?;
            }
            list.f.write_char(')')?;
        }
        Ok(())
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

/// `OVS_CS_F_*`, by their bit.
const CT_STATES: [(u32, &str); 8] = [
    (0x01, "new"),
    (0x02, "est"),
    (0x04, "rel"),
    (0x08, "rpl"),
    (0x10, "inv"),
    (0x20, "trk"),
    (0x40, "snat"),
    (0x80, "dnat"),
];

struct CtState(Masked<u32>);

impl Display for CtState {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for (bit, name) in CT_STATES.into_iter().filter(|(bit, _)| self.0.mask & bit != 0) {
            let sign = if self.0.value & bit != 0 { '+' } else { '-' };
            write!(f, "{sign}{name}")?;
        }
        Ok(())
    }
}

/// `recirc_id(0),in_port(2),eth(src=…),eth_type(0x0800),ipv4(src=10.0.0.0/24,proto=6),tcp(dst=80)`
impl Display for FlowKeys {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let mut list = List::new(f);
        macro_rules! nested {
            ($name:literal, $key:expr) => {
                if let Some(key) = $key.as_ref().filter(|key| !key.is_any()) {
                    list.item(format_args!(concat!($name, "({})"), key))?;
                }
            };
            ($name:literal, $key:expr, $shape:literal) => {
                if let Some(key) = $key.filter(|key| !key.is_any()) {
                    list.item(format_args!(concat!($name, "(", $shape, ")"), key))?;
                }
            };
        }
        if let Some(tunnel) = &self.tunnel {
            list.item(format_args!("tunnel({tunnel})"))?;
        }
        nested!("recirc_id", self.recirc_id);
        nested!("dp_hash", self.dp_hash, "{:#x}");
        nested!("skb_priority", self.priority, "{:#x}");
        nested!("skb_mark", self.skb_mark, "{:#x}");
        nested!("in_port", self.in_port);
        if let Some(state) = self.ct_state.filter(|key| !key.is_any()) {
            list.item(format_args!("ct_state({})", CtState(state)))?;
        }
        nested!("ct_zone", self.ct_zone);
        nested!("ct_mark", self.ct_mark, "{:#x}");
        if let Some(labels) = self.ct_labels.filter(|key| !key.is_any()) {
            list.item(format_args!("ct_label({:#x})", labels.map(u128::from_ne_bytes)))?;
        }
        nested!("ct_tuple4", self.ct_tuple_ipv4);
        nested!("ct_tuple6", self.ct_tuple_ipv6);
        nested!("eth", self.eth);
        for vlan in self.vlans.iter().flatten().filter(|vlan| !vlan.is_any()) {
            list.item(format_args!("eth_type({}),vlan({vlan})", vlan.tpid))?;
        }
        nested!("eth_type", self.ethertype);
        for lse in self.mpls.iter().flatten().filter(|lse| !lse.is_any()) {
            list.item(format_args!("mpls(lse={lse:#x})"))?;
        }
        nested!("ipv4", self.ipv4);
        nested!("ipv6", self.ipv6);
        nested!("ipv6_exthdrs", self.ipv6_exthdrs, "{:#x}");
        nested!("arp", self.arp);
        nested!("tcp", self.tcp);
        nested!("tcp_flags", self.tcp_flags, "{:#x}");
        nested!("udp", self.udp);
        nested!("sctp", self.sctp);
        nested!("icmp", self.icmp);
        nested!("icmpv6", self.icmpv6);
        nested!("nd", self.nd);
        if let Some(nsh) = self.nsh.as_ref().filter(|key| !key.is_any()) {
            list.item(format_args!("nsh({})", Hex(&nsh.value)))?;
        }
        for unknown in self.unknown.iter().filter(|unknown| !unknown.key.is_any()) {
            list.item(format_args!("key{}({})", unknown.attr, Hex(&unknown.key.value)))?;
        }
        Ok(())
    }
}

/// `push_vlan(vid=5,pcp=0),2`; `drop` where there is no action.
impl Display for FlowActions<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("drop");
        }
        let mut list = List::new(f);
        self.iter().try_for_each(|action| list.item(format_args!("{action}")))
    }
}

impl Display for FlowAction<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Output(port) => port.fmt(f),
            Self::Userspace(userspace) => userspace.fmt(f),
            Self::Set(field) => field.fmt(f),
            Self::PushVlan { tpid, tci } => {
                write!(f, "push_vlan(")?;
                if *tpid != crate::EtherType::VLAN {
                    write!(f, "tpid={tpid},")?;
                }
                write!(f, "vid={},pcp={})", tci & 0x0fff, tci >> 13)
            }
            Self::PopVlan => f.write_str("pop_vlan"),
            Self::Sample { probability, actions } => {
                let percent = f64::from(*probability) / f64::from(u32::MAX) * 100.0;
                write!(f, "sample(sample={percent:.1}%,actions({actions}))")
            }
            Self::Recirc(id) => write!(f, "recirc({id})"),
            Self::Hash { algorithm, basis } => {
                let name = if *algorithm == 1 { "sym_l4" } else { "l4" };
                write!(f, "hash({name}({basis}))")
            }
            Self::PushMpls { lse, ethertype } => write!(f, "push_mpls(lse={lse:#x},eth_type={ethertype})"),
            Self::AddMpls { lse, ethertype, .. } => write!(f, "add_mpls(lse={lse:#x},eth_type={ethertype})"),
            Self::PopMpls(ethertype) => write!(f, "pop_mpls(eth_type={ethertype})"),
            Self::Ct(ct) => ct.fmt(f),
            Self::CtClear => f.write_str("ct_clear"),
            Self::Trunc(length) => write!(f, "trunc({length})"),
            Self::PushEth { src, dst } => write!(f, "push_eth(src={src},dst={dst})"),
            Self::PopEth => f.write_str("pop_eth"),
            Self::PushNsh(bytes) => write!(f, "push_nsh({})", Hex(bytes)),
            Self::PopNsh => f.write_str("pop_nsh()"),
            Self::Meter(meter) => write!(f, "meter({})", meter.0),
            Self::Clone(actions) => write!(f, "clone({actions})"),
            Self::CheckPacketLength { length, greater, less_or_equal } => {
                write!(f, "check_pkt_len(size={length},gt({greater}),le({less_or_equal}))")
            }
            Self::DecTtl(actions) => write!(f, "dec_ttl(le_1({actions}))"),
            Self::Drop(reason) => write!(f, "drop({reason})"),
            Self::Psample { group, cookie } => write!(f, "psample(group={group},cookie={})", Hex(cookie)),
            Self::Unknown { attr, payload } => write!(f, "action{attr}({})", Hex(payload)),
        }
    }
}

impl Display for Userspace<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "userspace(pid={}", self.pid)?;
        if !self.userdata.is_empty() {
            write!(f, ",userdata({})", Hex(self.userdata))?;
        }
        if self.with_actions {
            f.write_str(",actions")?;
        }
        if let Some(port) = self.tunnel_out_port {
            write!(f, ",tunnel_out_port={port}")?;
        }
        f.write_char(')')
    }
}

impl Display for SetField<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.keys() {
            Ok(keys) => write!(f, "set({keys})"),
            // Read once already, so that this does not occur.
            Err(_) => write!(f, "set(key{})", self.key),
        }
    }
}

impl Display for Conntrack<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("ct(")?;
        let mut list = List::new(f);
        if self.commit {
            list.item(format_args!("{}", if self.force { "force_commit" } else { "commit" }))?;
        }
        if self.zone != 0 {
            list.item(format_args!("zone={}", self.zone))?;
        }
        if let Some(mark) = self.mark {
            list.item(format_args!("mark={:#x}/{:#x}", mark.value, mark.mask))?;
        }
        if let Some(labels) = self.labels.map(|labels| labels.map(u128::from_ne_bytes)) {
            list.item(format_args!("label={:#x}/{:#x}", labels.value, labels.mask))?;
        }
        if let Some(helper) = self.helper {
            list.item(format_args!("helper={helper}"))?;
        }
        if let Some(timeout) = self.timeout {
            list.item(format_args!("timeout={timeout}"))?;
        }
        if let Some(nat) = self.nat {
            list.item(format_args!("{nat}"))?;
        }
        f.write_char(')')
    }
}

impl Display for Nat {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("nat")?;
        let side = match (self.src, self.dst) {
            (true, _) => "src",
            (_, true) => "dst",
            _ => return Ok(()),
        };
        write!(f, "({side}")?;
        if let Some(address) = self.ip_min {
            write!(f, "={address}")?;
        }
        if let Some(address) = self.ip_max.filter(|max| Some(*max) != self.ip_min) {
            write!(f, "-{address}")?;
        }
        if let Some(port) = self.port_min {
            write!(f, ":{port}")?;
        }
        if let Some(port) = self.port_max.filter(|max| Some(*max) != self.port_min) {
            write!(f, "-{port}")?;
        }
        let options = [(self.persistent, "persistent"), (self.hash, "hash"), (self.random, "random")];
        for (_, name) in options.into_iter().filter(|(is_set, _)| *is_set) {
            write!(f, ",{name}")?;
        }
        f.write_char(')')
    }
}
