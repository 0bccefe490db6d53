//! The text in which Open vSwitch prints megaflows (`ovs-appctl dpctl/dump-flows`, `ovs-dpctl dump-flows`), read as far as
//! conditions look at it (OVS, `lib/odp-util.c`, `odp_flow_format` and `format_odp_actions`).

use alloc::string::{String, ToString};
use core::fmt;
use policies::language::{Header, Sketch, SketchPort};

mod actions;
mod key;

use actions::read_actions;
use key::Key;

/// Longest text accepted, in bytes.
pub const TEXT_MAX: usize = 64 * 1024;

/// What cannot be read as a megaflow, and the part of the text that cannot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotAMegaflow {
    part: String,
    why: &'static str,
}

impl fmt::Display for NotAMegaflow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "this is no megaflow as Open vSwitch prints them: {:?} {}", self.part, self.why)
    }
}

impl core::error::Error for NotAMegaflow {}

fn wrong<T>(part: &str, why: &'static str) -> Result<T, NotAMegaflow> {
    let part: String = part.chars().take(60).collect();
    Err(NotAMegaflow { part, why })
}

/// Reads a megaflow: its key, and its actions if there are any. Statistics are skipped. Ports are kept as they are
/// printed, by name or by number.
///
/// # Errors
/// The part that is no part of a megaflow.
pub fn parse(text: &str) -> Result<Sketch, NotAMegaflow> {
    if text.len() > TEXT_MAX {
        return wrong(text, "is longer than 64 KiB");
    }
    let text = text.trim();
    let (head, actions) = match text.split_once("actions:") {
        Some((head, actions)) => (head, Some(actions.trim())),
        None => (text, None),
    };
    let key = head.split_once(", packets:").map_or(head, |(key, _)| key);
    let mut sketch = Sketch::default();
    // A key that is not printed is of packets without it.
    for header in [Header::Tunnel, Header::VlanTci, Header::InnerVlanTci, Header::RecircId] {
        sketch.set(header, 0, u128::MAX);
    }
    let mut reader = Key { sketch: &mut sketch, tags: 0 };
    reader.list(key, 0)?;
    if let Some(actions) = actions {
        read_actions(&mut sketch, actions)?;
    }
    Ok(sketch)
}

/// The parts between the commas that are in no parentheses.
fn parts(text: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0_usize;
    text.split(move |c| {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        c == ',' && depth == 0
    })
    .map(str::trim)
    .filter(|part| !part.is_empty())
}

/// `name(inside)`, or a name alone.
fn call(part: &str) -> (&str, Option<&str>) {
    match part.split_once('(') {
        Some((name, rest)) => (name.trim(), Some(rest.strip_suffix(')').unwrap_or(rest))),
        None => (part, None),
    }
}

/// A port by its name or, where names were not printed, by its number in the datapath.
fn port(text: &str) -> SketchPort {
    SketchPort { name: Some(text.trim().to_string()), iface_id: None }
}

/// Whether a text looks like a megaflow of Open vSwitch rather than like anything else that describes one.
pub fn is_likely(text: &str) -> bool {
    let text = text.trim_start();
    let names =
        ["recirc_id(", "in_port(", "eth(", "eth_type(", "tunnel(", "ct_state(", "skb_priority(", "skb_mark("];
    names.iter().any(|name| text.starts_with(name)) || text.starts_with("ufid:") && text.contains('(')
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;
    use alloc::vec::Vec;
    use policies::language::{AddressSets, Match, Truth};

    #[track_caller]
    fn check(text: &str, expected: &[(Truth, &str)]) {
        let sketch = parse(text).expect("a megaflow");
        for (truth, condition) in expected {
            let compiled = Match::compile(condition, &AddressSets::new()).expect("a condition");
            let mut outports = Vec::new();
            assert_eq!(compiled.evaluate(&sketch.subject(&mut outports)), *truth, "{condition} of {text}");
        }
    }

    use Truth::{Always, Never, Sometimes};

    #[test]
    fn a_megaflow_as_open_vswitch_3_5_dumps_it() {
        check(
            "recirc_id(0),in_port(sn0pf0vf0),ct_state(-trk),eth(src=0a:00:00:00:00:01,dst=0a:00:00:00:00:02),eth_type(0x0800),\
             ipv4(src=10.0.0.1,dst=10.0.0.0/255.255.0.0,proto=6,tos=0/0x3,ttl=64,frag=no),tcp(dst=443),tcp_flags(syn|ack), \
             packets:14, bytes:1372, used:0.150s, flags:S., actions:set(tunnel(tun_id=0x7,dst=172.16.0.2,ttl=64,tp_dst=6081,\
             flags(df|key))),genev_sys_6081",
            &[
                (Always, r#"inport == "sn0pf0vf0" && recirc_id == 0 && !ct.trk && !vlan.present && !tun"#),
                (Always, "eth.src == 0a:00:00:00:00:01 && ip4.src == 10.0.0.1 && ip4.dst == 10.0.0.0/16"),
                (Sometimes, "ip4.dst == 10.0.1.0/24"),
                (Always, "tcp.dst == 443 && ip.ecn == 0 && ip.ttl == 64 && !ip.is_frag && tcp.flags == 0x12"),
                (Sometimes, "tcp.src == 1 || ip.dscp == 0"),
                (Always, r#"encap.type == "geneve" && outport == "genev*" && !rewrites && !drops"#),
            ],
        );
    }

    #[test]
    fn the_whole_key_of_a_flow_that_names_what_is_open() {
        check(
            "ufid:a8a8cb2c-1b0d-4b0b-8a7c-8b3e3b1a5a01, skb_priority(0/0),skb_mark(0/0),ct_state(0/0),ct_zone(0/0),\
             ct_mark(0/0),ct_label(0/0),recirc_id(0x3),dp_hash(0/0),in_port(2),packet_type(ns=0/0,id=0/0),eth(src=00:00:00:00:00:00/\
             00:00:00:00:00:00,dst=0a:00:00:00:00:02),eth_type(0x86dd),ipv6(src=::/::,dst=fd00::/ffff::,label=0/0,proto=17,tclass=0/0,\
             hlimit=0/0,frag=no),udp(src=0/0,dst=53), packets:14, bytes:1372, used:0.150s, offloaded:yes, dp:tc, \
             actions:ct(zone=3,nat),recirc(0x5)",
            &[
                (Always, r#"udp.dst == 53 && ip6.dst == fd00::/16 && recirc_id == 3 && inport == "2""#),
                (Sometimes, "udp.src == 1 || ct.est || pkt.mark == 1"),
                (Always, "rewrites && recirculates && !drops"),
                (Sometimes, r#"outport == "x" || encap"#),
            ],
        );
    }

    #[test]
    fn tags_tunnels_and_branches() {
        check(
            "tunnel(tun_id=0x7,src=192.0.2.1,dst=192.0.2.2,ttl=0/0,flags(+key)),recirc_id(0),in_port(4),eth(),eth_type(0x8100),\
             vlan(vid=5,pcp=1/0x0),encap(eth_type(0x0800),ipv4(proto=1,frag=later),icmp(type=8,code=0)), packets:0, bytes:0, \
             used:never, actions:check_pkt_len(size=200,gt(drop),le(3))",
            &[
                (Always, "tun.id == 7 && tun.src == 192.0.2.0/24 && vlan.vid == 5 && icmp4.type == 8"),
                (Always, "ip.later_frag && cvlan.tci == 0"),
                (Sometimes, r#"vlan.pcp == 1 || drops || outport == "3""#),
            ],
        );
        check(
            "in_port(1),eth_type(0x0806),arp(sip=10.0.0.1,op=1), packets:1, actions:drop",
            &[(Always, "drops && arp.op == 1"), (Never, "encap || rewrites")],
        );
        check(
            "in_port(1),eth_type(0x0800),actions:push_vlan(vid=9,pcp=0),2,pop_vlan,3",
            &[(Always, r#"rewrites && outport == "2" && outport == "3""#)],
        );
        check(
            "in_port(1),eth_type(0x0800),ct_state(+est+trk-rpl)",
            &[(Always, "ct.est && !ct.rpl"), (Sometimes, "drops || rewrites")],
        );
        check("in_port(1),actions:userspace(pid=1,slow_path(action))", &[(Never, "drops")]);
        check("in_port(1),actions:frobnicate(1)", &[(Sometimes, "drops || rewrites")]);
    }

    #[test]
    fn scraps_of_megaflows_are_read_or_refused() {
        let scraps = [
            "in_port(",
            "eth_type(",
            "0x0800",
            ")",
            ",",
            "(",
            "ipv4(src=",
            "10.0.0.1",
            "/",
            "255.0.0.0",
            "frag=",
            "no",
            "vlan(vid=",
            "encap(",
            "ct_state(+trk",
            "-est",
            "|",
            "actions:",
            "set(tunnel(",
            "3",
            "recirc(0x",
            "clone(",
            "drop",
            "tp_dst=6081",
            ", packets:",
            "é",
            "ufid:",
            "0x",
            "::",
            "tcp(dst=",
            "=",
            "check_pkt_len(size=1,gt(",
            "mpls(label=",
            "tunnel(",
        ];
        let condition =
            Match::compile("tcp.dst == 443 || encap || drops", &AddressSets::new()).expect("a condition");
        let (mut seed, mut read) = (1_u64, 0);
        for _ in 0..50_000 {
            let mut text = String::new();
            for _ in 0..10 {
                seed ^= seed << 13;
                seed ^= seed >> 7;
                seed ^= seed << 17;
                if seed % 11 == 0 {
                    break;
                }
                text.push_str(scraps[(seed >> 20) as usize % scraps.len()]);
            }
            if let Ok(sketch) = parse(&text) {
                read += 1;
                let mut outports = Vec::new();
                condition.evaluate(&sketch.subject(&mut outports));
            }
        }
        assert!(read > 100, "{read} of them were megaflows");
    }

    #[test]
    fn what_is_no_megaflow_is_refused_with_the_part() {
        for (text, part) in [
            ("tcp.dst=443", "\"tcp.dst=443\" is no key"),
            ("eth_type(0x0800),ipv4(src=10.0.0)", "\"10.0.0\" is no number"),
            ("eth_type(0x0800),frob(1)", "\"frob\" is no key"),
            ("ct_state(+foo)", "has a flag that there is not"),
            ("ipv4(frag=maybe)", "is no kind of fragment"),
        ] {
            let error = parse(text).expect_err(text).to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
        let deep = format!("{}eth_type(1){}", "encap(".repeat(40), ")".repeat(40));
        assert!(parse(&deep).expect_err("too deep").to_string().contains("nested too deeply"));
        assert!(parse(&"x".repeat(TEXT_MAX + 1)).is_err());
        assert!(is_likely("recirc_id(0),in_port(2)") && !is_likely("ip4.src=10.0.0.1") && !is_likely("tcp"));
    }
}
