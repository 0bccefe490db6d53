//! A rule as one line of text: the match in the words of OVN's match language, the actions in those of `tc`.

use std::fmt::{Display, Write as _};

use netlink_wire::masked::{Ipv4Net, Ipv6Net};
use tc_flower::keys::{CtState, TunnelOptionKeys};
use tc_flower::{ActionKind, FilterReport, Match};

/// Conjunction of conditions.
#[derive(Default)]
struct Conditions(String);

impl Conditions {
    fn add(&mut self, field: &str, value: Option<impl Display>) {
        if let Some(value) = value {
            let and = if self.0.is_empty() { "" } else { " && " };
            let _ = write!(self.0, "{and}{field} == {value}");
        }
    }

    fn say(&mut self, condition: impl Display) {
        let and = if self.0.is_empty() { "" } else { " && " };
        let _ = write!(self.0, "{and}{condition}");
    }
}

/// What packets a rule matches.
pub(crate) fn match_text(keys: &Match) -> String {
    let mut out = Conditions::default();
    tunnel(keys, &mut out);
    out.add("eth.src", keys.eth.src);
    out.add("eth.dst", keys.eth.dst);
    out.add("vlan.vid", keys.vlan.id);
    out.add("vlan.pcp", keys.vlan.prio);
    out.add("cvlan.vid", keys.cvlan.id);
    out.add("cvlan.pcp", keys.cvlan.prio);
    out.add("mpls.label", keys.mpls.label);
    out.add("eth.type", keys.vlan.ethertype.or(keys.cvlan.ethertype).or(keys.eth.ethertype));
    out.add("ip4.src", keys.ipv4.src.map(Ipv4Net));
    out.add("ip4.dst", keys.ipv4.dst.map(Ipv4Net));
    out.add("ip6.src", keys.ipv6.src.map(Ipv6Net));
    out.add("ip6.dst", keys.ipv6.dst.map(Ipv6Net));
    out.add("arp.op", keys.arp.op);
    out.add("arp.spa", keys.arp.sip.map(Ipv4Net));
    out.add("arp.tpa", keys.arp.tip.map(Ipv4Net));
    out.add("ip.proto", keys.ip.proto);
    out.add("ip.tos", keys.ip.tos);
    out.add("ip.ttl", keys.ip.ttl);
    if let Some(flags) = keys.ip.flags {
        out.say(format_args!("ip.flags == {flags}"));
    }
    out.add("tcp.src", keys.tcp.src);
    out.add("tcp.dst", keys.tcp.dst);
    out.add("tcp.flags", keys.tcp.flags);
    out.add("udp.src", keys.udp.src);
    out.add("udp.dst", keys.udp.dst);
    out.add("sctp.src", keys.sctp.src);
    out.add("sctp.dst", keys.sctp.dst);
    out.add("icmp4.type", keys.icmp.kind);
    out.add("icmp4.code", keys.icmp.code);
    out.add("icmp6.type", keys.icmpv6.kind);
    out.add("icmp6.code", keys.icmpv6.code);
    out.add("ct.state", keys.ct.state.map(CtState));
    out.add("ct.zone", keys.ct.zone);
    out.add("ct.mark", keys.ct.mark);
    if keys.ct.labels.is_some() {
        out.say("ct.label");
    }
    if out.0.is_empty() { "1".to_owned() } else { out.0 }
}

fn tunnel(keys: &Match, out: &mut Conditions) {
    let header = &keys.tunnel.header;
    out.add("tun.id", header.id);
    out.add("tun.src", header.ipv4_src.map(Ipv4Net));
    out.add("tun.dst", header.ipv4_dst.map(Ipv4Net));
    out.add("tun.src", header.ipv6_src.map(Ipv6Net));
    out.add("tun.dst", header.ipv6_dst.map(Ipv6Net));
    out.add("tun.udp.dst", header.dst_port);
    match &keys.tunnel.options {
        TunnelOptionKeys::None => {}
        TunnelOptionKeys::Geneve(options) => out.say(format_args!("{} geneve options", options.len())),
        TunnelOptionKeys::VxlanGbp(word) => out.add("tun.gbp", Some(word)),
    }
}

/// What a rule does with packets; netdevs by their names, where `name` knows them.
pub(crate) fn action_text(
    rule: &FilterReport,
    name: impl Fn(netlink_wire::Ifindex) -> Option<String>,
) -> String {
    use tc_flower::action::MirredTarget;
    let mut out = String::new();
    for report in &rule.actions {
        let action = &report.action;
        let comma = if out.is_empty() { "" } else { ", " };
        let _ = match &action.kind {
            ActionKind::Mirred(mirred) => {
                let word = if mirred.copy { "mirror to" } else { "output to" };
                match mirred.target {
                    MirredTarget::Device(ifindex) => {
                        let device = name(ifindex).unwrap_or_else(|| format!("dev {ifindex}"));
                        write!(out, "{comma}{word} {device}")
                    }
                    _ => write!(out, "{comma}{word} a block"),
                }
            }
            ActionKind::Gact(_) => write!(out, "{comma}{}", action.control),
            kind => write!(out, "{comma}{}", kind.name()),
        };
        // A jump or goto of another action than gact is worth telling, too.
        if let tc_flower::Control::Goto(chain) = action.control
            && !matches!(action.kind, ActionKind::Gact(_))
        {
            let _ = write!(out, " (goto chain {chain})");
        }
    }
    if out.is_empty() { "drop".to_owned() } else { out }
}

#[cfg(test)]
mod tests {
    use super::*;
    use netlink_wire::{EtherType, Masked};
    use std::net::Ipv4Addr;

    #[test]
    fn a_match_reads_as_ovn_writes_it() {
        let mut keys = Match::default();
        assert_eq!(match_text(&keys), "1");
        keys.eth.ethertype = Some(EtherType(0x0800));
        keys.ipv4.dst = Some(Masked::new(Ipv4Addr::new(10, 0, 0, 0), Ipv4Addr::new(255, 255, 255, 0)));
        keys.ip.proto = Some(6);
        keys.tcp.dst = Some(Masked::exact(5001));
        let text = match_text(&keys);
        assert!(text.ends_with("ip4.dst == 10.0.0.0/24 && ip.proto == 6 && tcp.dst == 5001"), "{text}");
    }

    #[test]
    fn connection_states_have_signs() {
        let mut keys = Match::default();
        keys.ct.state = Some(Masked::new(0b1010, 0b1011));
        assert_eq!(match_text(&keys), "ct.state == -new+est+trk");
    }
}
