//! The text in which Open vSwitch prints megaflows (`ovs-appctl dpctl/dump-flows`, `ovs-dpctl dump-flows`), read as far as
//! conditions look at it (OVS, `lib/odp-util.c`, `odp_flow_format` and `format_odp_actions`).

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;
use core::net::{Ipv4Addr, Ipv6Addr};
use policies::language::{Header, Sketch, SketchActions, SketchPort};

/// Longest text accepted, in bytes.
pub const TEXT_MAX: usize = 64 * 1024;

/// Deepest nesting of parentheses.
const DEPTH_MAX: usize = 16;

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

/// A number or an address of any kind.
fn number(text: &str) -> Option<u128> {
    let text = text.trim();
    if let Some(digits) = text.strip_prefix("0x") {
        return u128::from_str_radix(digits, 16).ok();
    }
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        return text.parse().ok();
    }
    if text.len() == 17 && text.split(':').all(|byte| byte.len() == 2) {
        return text
            .split(':')
            .try_fold(0, |sum, byte| Some(sum << 8 | u128::from(u8::from_str_radix(byte, 16).ok()?)));
    }
    if let Ok(address) = text.parse::<Ipv4Addr>() {
        return Some(address.to_bits().into());
    }
    text.parse::<Ipv6Addr>().ok().map(Ipv6Addr::to_bits)
}

/// `value` or `value/mask`.
fn masked(text: &str) -> Result<(u128, u128), NotAMegaflow> {
    let (value, mask) = match text.split_once('/') {
        Some((value, mask)) => (number(value), number(mask)),
        None => (number(text), Some(u128::MAX)),
    };
    match (value, mask) {
        (Some(value), Some(mask)) => Ok((value, mask)),
        _ => wrong(text, "is no number and no address"),
    }
}

struct Key<'s> {
    sketch: &'s mut Sketch,
    /// VLAN tags read so far.
    tags: usize,
}

/// The fields inside of a key that stand for themselves.
fn field_of(key: &str, field: &str) -> Option<Header> {
    Some(match (key, field) {
        ("eth", "src") => Header::EthSrc,
        ("eth", "dst") => Header::EthDst,
        ("ipv4", "src") => Header::Ip4Src,
        ("ipv4", "dst") => Header::Ip4Dst,
        ("ipv6", "src") => Header::Ip6Src,
        ("ipv6", "dst") => Header::Ip6Dst,
        ("ipv6", "label") => Header::Ip6Label,
        ("ipv4" | "ipv6", "proto") => Header::IpProto,
        ("ipv4", "tos") | ("ipv6", "tclass") => Header::IpTos,
        ("ipv4", "ttl") | ("ipv6", "hlimit") => Header::IpTtl,
        ("tcp" | "udp" | "sctp", "src") => Header::L4Src,
        ("tcp" | "udp" | "sctp", "dst") => Header::L4Dst,
        ("icmp" | "icmpv6", "type") => Header::IcmpType,
        ("icmp" | "icmpv6", "code") => Header::IcmpCode,
        ("arp", "sip") => Header::ArpSpa,
        ("arp", "tip") => Header::ArpTpa,
        ("arp", "op") => Header::ArpOp,
        ("arp", "sha") => Header::ArpSha,
        ("arp", "tha") => Header::ArpTha,
        ("nd", "target") => Header::NdTarget,
        ("nd", "sll") => Header::NdSll,
        ("nd", "tll") => Header::NdTll,
        ("tunnel", "tun_id") => Header::TunId,
        ("tunnel", "src") => Header::TunSrc,
        ("tunnel", "dst") => Header::TunDst,
        ("tunnel", "ipv6_src") => Header::Tun6Src,
        ("tunnel", "ipv6_dst") => Header::Tun6Dst,
        ("tunnel", "tos") => Header::TunTos,
        ("tunnel", "ttl") => Header::TunTtl,
        ("tunnel", "tp_src") => Header::TunTpSrc,
        ("tunnel", "tp_dst") => Header::TunTpDst,
        _ => return None,
    })
}

impl Key<'_> {
    fn list(&mut self, text: &str, depth: usize) -> Result<(), NotAMegaflow> {
        if depth == DEPTH_MAX {
            return wrong(text, "is nested too deeply");
        }
        for part in parts(text) {
            let (name, inside) = call(part);
            let Some(inside) = inside else {
                if part.starts_with("ufid:") {
                    continue;
                }
                return wrong(part, "is no key, such as eth_type(0x0800)");
            };
            self.key(name, inside, depth)?;
        }
        Ok(())
    }

    fn key(&mut self, name: &str, inside: &str, depth: usize) -> Result<(), NotAMegaflow> {
        let whole = match name {
            "in_port" => {
                self.sketch.inport = port(inside);
                return Ok(());
            }
            "encap" => return self.list(inside, depth + 1),
            "vlan" => return self.tag(inside),
            "mpls" => return self.mpls(inside),
            "tcp_flags" => {
                let (value, mask) = flags(inside, &TCP_FLAGS)?;
                self.sketch.set(Header::TcpFlags, value, mask);
                return Ok(());
            }
            "ct_state" => {
                let (value, mask) = flags(inside, &CT_STATES)?;
                self.sketch.set(Header::CtState, value, mask);
                return Ok(());
            }
            "eth_type" => Header::EthType,
            "recirc_id" => Header::RecircId,
            "ct_zone" => Header::CtZone,
            "ct_mark" => Header::CtMark,
            "ct_label" => Header::CtLabel,
            "skb_priority" => Header::SkbPriority,
            "skb_mark" => Header::PktMark,
            "dp_hash" => Header::DpHash,
            "tunnel" => {
                self.sketch.set(Header::Tunnel, 1, 1);
                return self.fields(name, inside);
            }
            "eth" | "ipv4" | "ipv6" | "tcp" | "udp" | "sctp" | "icmp" | "icmpv6" | "arp" | "nd" => {
                return self.fields(name, inside);
            }
            // Keys that conditions do not look at.
            "packet_type" | "ct_tuple4" | "ct_tuple6" | "nsh" | "ipv6_exthdrs" | "nd_ext" => return Ok(()),
            _ => return wrong(name, "is no key of a megaflow"),
        };
        // The type before a tag is the tag's own.
        if whole == Header::EthType && self.tags == 0 && matches!(number(inside), Some(0x8100 | 0x88a8)) {
            return Ok(());
        }
        let (value, mask) = masked(inside)?;
        self.sketch.set(whole, value, mask);
        Ok(())
    }

    fn fields(&mut self, key: &str, inside: &str) -> Result<(), NotAMegaflow> {
        for part in parts(inside) {
            let Some((field, value)) = part.split_once('=') else { continue };
            if field == "frag" {
                let kind = match value {
                    "no" => 0,
                    "first" => 1,
                    "later" | "yes" => 3,
                    _ => return wrong(value, "is no kind of fragment"),
                };
                self.sketch.set(Header::IpFrag, kind, 3);
            } else if let Some(header) = field_of(key, field) {
                let (value, mask) = masked(value)?;
                self.sketch.set(header, value, mask);
            }
        }
        Ok(())
    }

    /// `vlan(vid=5,pcp=0)`, `vlan(tci=0x0000/0x1fff)`.
    fn tag(&mut self, inside: &str) -> Result<(), NotAMegaflow> {
        let header = if self.tags == 0 { Header::VlanTci } else { Header::InnerVlanTci };
        self.tags += 1;
        let (mut tci, mut mask) = (0x1000, 0x1000);
        for part in parts(inside) {
            let Some((field, value)) = part.split_once('=') else { continue };
            let (bits, bits_mask) = masked(value)?;
            let (shift, ones) = match field {
                "vid" => (0, 0xfff),
                "pcp" => (13, 7),
                "cfi" => (12, 1),
                "tci" => {
                    (tci, mask) = (0, 0);
                    (0, 0xffff)
                }
                _ => return wrong(part, "is no part of a VLAN tag"),
            };
            tci |= (bits & ones) << shift;
            mask |= (bits_mask & ones) << shift;
        }
        self.sketch.set(header, tci, mask);
        Ok(())
    }

    /// `mpls(label=16,tc=0,ttl=64,bos=1)`; only the top entry counts.
    fn mpls(&mut self, inside: &str) -> Result<(), NotAMegaflow> {
        let (mut lse, mut mask) = (0, 0);
        for part in parts(inside) {
            let Some((field, value)) = part.split_once('=') else { continue };
            let (shift, ones) = match field {
                "label" => (12, 0xfffff),
                "tc" => (9, 7),
                "bos" => (8, 1),
                "ttl" => (0, 0xff),
                _ => continue,
            };
            let (bits, bits_mask) = masked(value)?;
            lse |= (bits & ones) << shift;
            mask |= (bits_mask & ones) << shift;
        }
        self.sketch.set(Header::MplsLse, lse, mask);
        Ok(())
    }
}

const TCP_FLAGS: [&str; 9] = ["fin", "syn", "rst", "psh", "ack", "urg", "ece", "cwr", "ns"];
const CT_STATES: [&str; 8] = ["new", "est", "rel", "rpl", "inv", "trk", "snat", "dnat"];

/// `+trk-new`, `syn|ack`, or a number with a mask.
fn flags(text: &str, names: &[&str]) -> Result<(u128, u128), NotAMegaflow> {
    if text.starts_with(|c: char| c.is_ascii_digit()) {
        return masked(text);
    }
    let (mut value, mut mask) = (0, 0);
    let signed = text.starts_with(['+', '-']);
    if !signed {
        mask = u128::MAX;
    }
    let mut rest = text;
    while !rest.is_empty() {
        let (is_set, name) = match rest.strip_prefix('-') {
            Some(name) => (false, name),
            None => (true, rest.strip_prefix(['+', '|']).unwrap_or(rest)),
        };
        let end = name.find(['+', '-', '|']).unwrap_or(name.len());
        let (flag, after) = name.split_at(end);
        let Some(bit) = names.iter().position(|known| *known == flag) else {
            return wrong(text, "has a flag that there is not");
        };
        value |= u128::from(is_set) << bit;
        mask |= 1 << bit;
        rest = after;
    }
    Ok((value, mask))
}

/// A port by its name or, where names were not printed, by its number in the datapath.
fn port(text: &str) -> SketchPort {
    SketchPort { name: Some(text.trim().to_string()), iface_id: None }
}

#[derive(Default)]
struct Actions {
    ports: Vec<SketchPort>,
    tunnel: Option<String>,
    rewrites: bool,
    recirculates: bool,
    goes_elsewhere: bool,
    branches: bool,
    unclear: bool,
}

fn read_actions(sketch: &mut Sketch, text: &str) -> Result<(), NotAMegaflow> {
    let mut actions = Actions::default();
    if text != "drop" {
        for part in parts(text) {
            actions.take(part);
        }
    }
    let Actions { ports, tunnel, rewrites, recirculates, goes_elsewhere, branches, unclear } = actions;
    let known = |told: bool| (told || !unclear).then_some(told);
    let drops = match ports.is_empty() && !recirculates && !goes_elsewhere {
        true if unclear => None,
        false if branches => None,
        drops => Some(drops),
    };
    sketch.set_actions(SketchActions { rewrites: known(rewrites), drops, recirculates: known(recirculates) });
    let undecided = recirculates || unclear;
    sketch.encap = tunnel.or((!undecided).then(String::new));
    sketch.outports = (!undecided && !branches).then_some(ports);
    Ok(())
}

impl Actions {
    fn take(&mut self, part: &str) {
        let (name, inside) = call(part);
        match (name, inside) {
            ("set", Some(inside)) => match call(inside) {
                ("tunnel", Some(tunnel)) => self.tunnel = Some(kind_of_tunnel(tunnel)),
                _ => self.rewrites = true,
            },
            ("tnl_push", Some(inside)) => {
                self.tunnel = Some(kind_of_tunnel(inside));
                // `tnl_port(4),header(…),out_port(100)`
                for part in parts(inside) {
                    if let ("out_port", Some(out)) = call(part) {
                        self.ports.push(port(out));
                    }
                }
            }
            (
                "push_vlan" | "push_mpls" | "pop_mpls" | "add_mpls" | "push_eth" | "push_nsh" | "dec_ttl",
                Some(_),
            )
            | ("pop_vlan" | "pop_eth" | "pop_nsh" | "pop_nsh()" | "dec_ttl", None) => self.rewrites = true,
            ("ct", inside) => {
                self.rewrites |= inside.is_some_and(|inside| parts(inside).any(|part| call(part).0 == "nat"));
            }
            ("recirc", Some(_)) => self.recirculates = true,
            ("userspace" | "psample", Some(_)) => self.goes_elsewhere = true,
            ("sample" | "check_pkt_len" | "clone", Some(inside)) => {
                self.branches |= name != "clone";
                self.inner(inside);
            }
            ("hash" | "trunc" | "meter" | "tnl_pop" | "lb_output", Some(_)) | ("ct_clear" | "drop", None) => {
            }
            (_, Some(_)) => self.unclear = true,
            (name, None) => self.ports.push(port(name)),
        }
    }

    /// The actions inside of one: `clone(set(…),3)`, `check_pkt_len(size=200,gt(3),le(2))`.
    fn inner(&mut self, inside: &str) {
        for part in parts(inside) {
            match call(part) {
                ("gt" | "le" | "actions", Some(list)) => {
                    for part in parts(list).filter(|part| *part != "drop") {
                        self.branch(part);
                    }
                }
                _ if part.contains('=') && !part.contains('(') => {}
                _ => self.branch(part),
            }
        }
    }

    /// One level is looked into; what is nested deeper is not judged.
    fn branch(&mut self, part: &str) {
        match call(part).0 {
            "sample" | "check_pkt_len" | "clone" => self.unclear = true,
            _ => self.take(part),
        }
    }
}

/// The kind of tunnel as far as its options or its port tell.
fn kind_of_tunnel(inside: &str) -> String {
    let has = |what: &str| inside.contains(what);
    let kind = if has("geneve(") || has("tp_dst=6081") {
        "geneve"
    } else if has("vxlan(") || has("tp_dst=4789") {
        "vxlan"
    } else if has("erspan(") {
        "erspan"
    } else if has("gre(") {
        "gre"
    } else {
        "tunnel of an unknown kind"
    };
    kind.to_string()
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
