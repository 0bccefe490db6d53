//! The key of a megaflow's text: what it matches (`odp_flow_format`).

use core::net::{Ipv4Addr, Ipv6Addr};

use policies::language::{Header, Sketch};

use super::{NotAMegaflow, call, parts, port, wrong};

/// Deepest nesting of parentheses.
const DEPTH_MAX: usize = 16;

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

pub(super) struct Key<'s> {
    pub(super) sketch: &'s mut Sketch,
    /// VLAN tags read so far.
    pub(super) tags: usize,
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
    pub(super) fn list(&mut self, text: &str, depth: usize) -> Result<(), NotAMegaflow> {
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
