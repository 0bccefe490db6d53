//! The text in which `ovs-vswitchd` prints a datapath flow, and the one in which it reads it back.
//!
//! Clean promotion asks `ovs-vswitchd` to modify a flow to what it already is (`dpctl/mod-flow`). What that command reads,
//! `dpctl/get-flow` prints in two parts: the whole key with `-m`, which implies names of ports; the actions with
//! `--no-names`, for `mod-flow` takes names in keys and not in actions; and both options at once are one argument too many
//! for it (OVS, `lib/dpctl.c`, `dpctl_put_flow_dpif` and `all_commands`). The two commands disagree in one more place:
//! the parser wants `recirc(5)` where the printer writes `recirc(0x5)` (OVS, `lib/odp-util.c`, `parse_odp_action` and
//! `format_odp_action`). And `drop` is how the printer writes a list without actions, while the parser makes an action of it that
//! Open vSwitch itself does not give to TC: the filter then has another number of actions than what the kernel answers, of which
//! Open vSwitch warns (OVS 3.5, `odp_actions_from_string` and, in `lib/tc.c`, `cmp_tc_flower_match_action`).
//!
//! And the text says less than the filter where that matches on a tunnel's outer header. What is written back has to match the
//! same packets, so [`FlowText::complete`] adds what is missing.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use netlink_wire::{Masked, Ufid};
use tc_flower::Match;
use tc_flower::keys::{GeneveOptionKey, Tunnel, TunnelOptionKeys};

/// Longest flow text accepted, in bytes. A megaflow prints in about 1 KiB; the control socket is not ours to trust.
pub const FLOW_TEXT_MAX: usize = 64 * 1024;

/// A datapath flow in `ovs-vswitchd`'s words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowText {
    /// The flow's id.
    pub ufid: Ufid,
    /// Key and mask, as `dpctl/mod-flow` reads them.
    pub key: String,
    /// Actions, as `dpctl/mod-flow` reads them: empty for a flow that is dropped.
    pub actions: String,
}

/// Why a flow's text could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlowTextError {
    /// Longer than [`FLOW_TEXT_MAX`].
    TooLong,
    /// Not one line.
    NotOneLine,
    /// Does not start with `ufid:`.
    NoUfid,
    /// No `, packets:` between the key and the rest.
    NoStatistics,
    /// No `actions:`.
    NoActions,
}

impl core::fmt::Display for FlowTextError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::TooLong => "ovs-vswitchd's flow text is longer than 64 KiB",
            Self::NotOneLine => "ovs-vswitchd's flow text is not one line",
            Self::NoUfid => "ovs-vswitchd's flow text does not start with a ufid",
            Self::NoStatistics => "ovs-vswitchd's flow text has no packet count",
            Self::NoActions => "ovs-vswitchd's flow text has no actions",
        })
    }
}

impl FlowText {
    /// Reads the replies of `dpctl/get-flow -m ufid:…` and of `dpctl/get-flow --no-names ufid:…`.
    pub fn parse(with_whole_key: &str, with_port_numbers: &str) -> Result<Self, FlowTextError> {
        let line = one_line(with_whole_key)?;
        let (ufid, rest) = line.split_once(", ").ok_or(FlowTextError::NoUfid)?;
        let ufid =
            ufid.strip_prefix("ufid:").and_then(|hex| hex.parse().ok()).ok_or(FlowTextError::NoUfid)?;
        let (key, _) = rest.split_once(", packets:").ok_or(FlowTextError::NoStatistics)?;
        let (_, rest) =
            one_line(with_port_numbers)?.split_once(", packets:").ok_or(FlowTextError::NoStatistics)?;
        let (_, actions) = rest.split_once(", actions:").ok_or(FlowTextError::NoActions)?;
        if actions.is_empty() {
            return Err(FlowTextError::NoActions);
        }
        let actions = if actions == DROP { String::new() } else { decimal_recirc(actions) };
        Ok(Self { ufid, key: key.into(), actions })
    }

    /// The text with its VLAN tags as the filter matches them that it was printed from.
    ///
    /// Open vSwitch prints a tag's id and priority whether the filter matches them or not, as 0 then, and leaves out an inner tag
    /// of which the filter matches neither: read back, that is another rule (OVS 3.5, `lib/netdev-offload-tc.c`,
    /// `parse_tc_flower_to_match`). Of a tag of which it is to match neither, it puts into TC only that which does not match the
    /// bit either that says that there is a tag (`netdev_tc_flow_put`).
    ///
    /// # Errors
    /// The text has fewer tags than the filter, or more: what is wrong with it, in a sentence.
    pub fn with_tags_of(self, filter: &Match) -> Result<Self, &'static str> {
        let (outer, inner) = (&filter.vlan, &filter.cvlan);
        let tags: Vec<TagMatched> = [
            (outer.ethertype, outer.id.is_some(), outer.prio.is_some()),
            (inner.ethertype, inner.id.is_some(), inner.prio.is_some()),
        ]
        .into_iter()
        .filter(|(ethertype, id, priority)| ethertype.is_some() || *id || *priority)
        .map(|(_, id, priority)| TagMatched { id, priority })
        .collect();
        let mut pieces = self.key.split(TAG);
        let mut key = String::from(pieces.next().unwrap_or_default());
        let mut printed = 0;
        for piece in pieces {
            let (tag, rest) = piece.split_at(piece.find(')').unwrap_or(piece.len()));
            key.push_str(TAG);
            match tags.get(printed) {
                Some(matched) => key.push_str(&matched.text(tag)),
                None => key.push_str(tag),
            }
            key.push_str(rest);
            printed += 1;
        }
        if printed == tags.len() {
            Ok(Self { key, ..self })
        } else {
            Err("Open vSwitch prints the flow with fewer or more VLAN tags than its filter matches")
        }
    }

    /// Adds to the key what the flow's filter matches of the outer header of a `tunnel` and Open vSwitch's text leaves out:
    ///
    /// - values of 0, for which its tunnel keys have no attribute that could be printed, though their masks have
    ///   (OVS, `lib/odp-util.c`, `tun_key_to_attr`);
    /// - Geneve options: `dpctl/get-flow` reads the filter as one of any port, the first that has it, and options only as one of
    ///   a Geneve port (OVS, `lib/netdev-offload.c`, `netdev_ports_flow_get`).
    pub fn complete(&mut self, tunnel: &Tunnel) {
        const OPEN: &str = "tunnel(";
        // A flow that comes out of no tunnel has none.
        let Some(at) = self.key.find(OPEN).map(|at| at + OPEN.len()) else { return };
        let Some(end) = closing(&self.key[at..]).map(|length| at + length) else { return };
        let said = self.key[at..end].replace("geneve(),", "");
        let mut missing = String::new();
        let header = &tunnel.header;
        for (name, matched) in [
            ("tos", header.tos.map(wide)),
            ("ttl", header.ttl.map(wide)),
            ("tp_src", header.src_port),
            ("tp_dst", header.dst_port),
        ] {
            if let Some(Masked { value, mask }) = matched.filter(|_| !said.contains(&format!("{name}="))) {
                missing += &format!("{name}={value:#x}/{mask:#x},");
            }
        }
        match &tunnel.options {
            TunnelOptionKeys::Geneve(options) if !said.contains("geneve(") => {
                missing += "geneve(";
                options.iter().for_each(|option| missing += &geneve_option(option));
                missing += "),";
            }
            TunnelOptionKeys::VxlanGbp(Masked { value, mask }) if !said.contains("vxlan(") => {
                let [id, flags] = [(value & 0xffff, mask & 0xffff), (value >> 16, mask >> 16)];
                missing +=
                    &format!("vxlan(gbp(id={}/{:#x},flags={:#x}/{:#x})),", id.0, id.1, flags.0, flags.1);
            }
            _ => {}
        }
        self.key.replace_range(at..end, &format!("{missing}{said}"));
    }
}

fn wide(Masked { value, mask }: Masked<u8>) -> Masked<u16> {
    Masked { value: value.into(), mask: mask.into() }
}

/// Where the parenthesis ends that was opened before `text`.
fn closing(text: &str) -> Option<usize> {
    let mut open = 1_usize;
    text.char_indices().find_map(|(at, letter)| {
        match letter {
            '(' => open += 1,
            ')' => open -= 1,
            _ => {}
        }
        (open == 0).then_some(at)
    })
}

/// An option with its masks, as OVS's `scan_geneve` reads it.
fn geneve_option(option: &GeneveOptionKey) -> String {
    let GeneveOptionKey { class, kind, data, data_mask } = option;
    let mut text = format!(
        "{{class={:#x}/{:#x},type={:#x}/{:#x},len={}",
        class.value,
        class.mask,
        kind.value,
        kind.mask,
        data.len()
    );
    if !data.is_empty() {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        text += &format!(",0x{}/0x{}", hex(data), hex(data_mask));
    }
    text + "}"
}

/// How a list without actions is printed.
const DROP: &str = "drop";

/// How a tag begins in a key.
const TAG: &str = "vlan(";

/// What follows a value that may be any.
const MASK_OF_ANY: &str = "/0x0";

/// What a filter matches of a tag.
struct TagMatched {
    id: bool,
    priority: bool,
}

impl TagMatched {
    /// The text of a tag, `vid=5,pcp=0`, with a mask of 0 for each that is not matched.
    fn text(&self, printed: &str) -> String {
        let mut text = String::new();
        for field in printed.split(',') {
            if !text.is_empty() {
                text.push(',');
            }
            text.push_str(field);
            let any = field.starts_with("vid=") && !self.id || field.starts_with("pcp=") && !self.priority;
            if any && !field.contains('/') {
                text.push_str(MASK_OF_ANY);
            }
        }
        if !self.id && !self.priority {
            text.push_str(",cfi=1");
            text.push_str(MASK_OF_ANY);
        }
        text
    }
}

fn one_line(reply: &str) -> Result<&str, FlowTextError> {
    if reply.len() > FLOW_TEXT_MAX {
        return Err(FlowTextError::TooLong);
    }
    Some(reply.trim()).filter(|line| !line.contains('\n')).ok_or(FlowTextError::NotOneLine)
}

/// Rewrites every `recirc(0xN)` to decimal.
fn decimal_recirc(actions: &str) -> String {
    const OPEN: &str = "recirc(0x";
    let mut out = String::with_capacity(actions.len());
    let mut rest = actions;
    while let Some(at) = rest.find(OPEN) {
        let (before, after) = rest.split_at(at);
        out.push_str(before);
        let digits = &after[OPEN.len()..];
        let end = digits.find(')').unwrap_or(digits.len());
        match u32::from_str_radix(&digits[..end], 16) {
            Ok(id) => out.push_str(&alloc::format!("recirc({id}")),
            Err(_) => out.push_str(&after[..OPEN.len() + end]),
        }
        rest = &digits[end..];
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    // `ovs-appctl dpctl/get-flow -m ufid:…`, OVS 3.5.0.
    const WHOLE: &str = "ufid:a8a8cb2c-1b0d-4b0b-8a7c-8b3e3b1a5a01, skb_priority(0/0),skb_mark(0/0),ct_state(0/0),ct_zone(0/0),\
ct_mark(0/0),ct_label(0/0),recirc_id(0),dp_hash(0/0),in_port(vm0_h),packet_type(ns=0/0,id=0/0),eth(src=0a:00:00:00:00:01,dst=0a:00:00:00:00:02),\
eth_type(0x0800),ipv4(src=10.0.0.1,dst=10.0.0.2,proto=6,tos=0/0,ttl=0/0,frag=no),tcp(src=0/0,dst=0/0), packets:14, bytes:1372, used:0.150s, \
offloaded:yes, dp:tc, actions:ct(zone=3,nat),vm1_h,recirc(0x5)\n";
    // `ovs-appctl dpctl/get-flow --no-names ufid:…` of the same flow.
    const NUMBERED: &str = "recirc_id(0),in_port(2),eth(src=0a:00:00:00:00:01,dst=0a:00:00:00:00:02),eth_type(0x0800),\
ipv4(src=10.0.0.1,dst=10.0.0.2,proto=6,frag=no), packets:14, bytes:1372, used:0.150s, actions:ct(zone=3,nat),3,recirc(0x5)\n";

    #[test]
    fn recirc_is_written_as_the_parser_reads_it() {
        let flow = FlowText::parse(WHOLE, NUMBERED).unwrap();
        assert_eq!(flow.actions, "ct(zone=3,nat),3,recirc(5)");
        assert_eq!(decimal_recirc("1,recirc(0xff),recirc(0x10)"), "1,recirc(255),recirc(16)");
        assert_eq!(decimal_recirc("recirc(0xzz)"), "recirc(0xzz)");
        assert_eq!(decimal_recirc("recirc(0x"), "recirc(0x");
    }

    #[test]
    fn flow_that_is_dropped_is_modified_to_one_without_actions() {
        let dropped = NUMBERED.replace("ct(zone=3,nat),3,recirc(0x5)", "drop");
        assert_eq!(FlowText::parse(WHOLE, &dropped).unwrap().actions, "");
        let in_a_branch = NUMBERED.replace("ct(zone=3,nat)", "check_pkt_len(size=200,gt(drop),le(3))");
        let actions = FlowText::parse(WHOLE, &in_a_branch).unwrap().actions;
        assert_eq!(actions, "check_pkt_len(size=200,gt(drop),le(3)),3,recirc(5)");
    }

    #[test]
    fn key_has_neither_ufid_nor_statistics() {
        let flow = FlowText::parse(WHOLE, NUMBERED).unwrap();
        assert_eq!(flow.ufid.to_string(), "ufid:a8a8cb2c-1b0d-4b0b-8a7c-8b3e3b1a5a01");
        assert!(flow.key.starts_with("skb_priority(0/0)"), "{}", flow.key);
        assert!(flow.key.ends_with("tcp(src=0/0,dst=0/0)"), "{}", flow.key);
    }

    // `ovs-appctl dpctl/get-flow -m ufid:…` and `tc filter show`, OVS 3.5.0 and Linux 6.12, of flows with tags:
    // `protocol 802.1ad … vlan_id 4094 vlan_ethtype ipv6 …`, and with `vlan_ethtype 802.1Q cvlan_ethtype ipv6` below it.
    const TAGGED: &str = "ufid:50e69f2e-89e6-4247-919f-287c8c8c608c, recirc_id(0),dp_hash(0/0),skb_priority(0/0),in_port(ovs-p0),\
skb_mark(0/0),ct_state(0/0),ct_zone(0/0),ct_mark(0/0),ct_label(0/0),packet_type(ns=0/0,id=0/0),eth(src=4a:41:3e:e4:a5:03,\
dst=33:33:00:00:00:16),eth_type(0x88a8),vlan(vid=4094,pcp=0),encap(eth_type(0x86dd),ipv6(src=::/::,dst=::/::,label=0/0,proto=0/0,\
tclass=0/0,hlimit=0/0,frag=no)), packets:4, bytes:384, used:1.440s, dp:tc, actions:br0,ovs-p1\n";

    fn tags(outer: (Option<u16>, Option<u8>), inner: Option<(Option<u16>, Option<u8>)>) -> Match {
        let ipv6 = Some(netlink_wire::EtherType(0x86dd));
        let mut filter = Match::default();
        (filter.vlan.id, filter.vlan.prio, filter.vlan.ethertype) = (outer.0, outer.1, ipv6);
        if let Some((id, prio)) = inner {
            filter.vlan.ethertype = Some(netlink_wire::EtherType(0x8100));
            (filter.cvlan.id, filter.cvlan.prio, filter.cvlan.ethertype) = (id, prio, ipv6);
        }
        filter
    }

    #[test]
    fn a_priority_that_the_filter_does_not_match_is_not_matched_by_the_text_either() {
        let flow = FlowText::parse(TAGGED, NUMBERED).unwrap();
        let any = flow.clone().with_tags_of(&tags((Some(4094), None), None)).unwrap();
        assert!(any.key.contains("vlan(vid=4094,pcp=0/0x0),encap("), "{}", any.key);
        assert_eq!(flow.clone().with_tags_of(&tags((Some(4094), Some(0)), None)), Ok(flow.clone()));
        let twice = FlowText {
            key: "vlan(vid=1,pcp=3),encap(eth_type(0x8100),vlan(vid=2,pcp=0),encap())".into(),
            ..flow
        };
        let any = twice.with_tags_of(&tags((Some(1), Some(3)), Some((Some(2), None)))).unwrap();
        assert_eq!(any.key, "vlan(vid=1,pcp=3),encap(eth_type(0x8100),vlan(vid=2,pcp=0/0x0),encap())");
    }

    // `dpctl/get-flow -m` of a flow of `protocol 802.1ad … vlan_ethtype ipv6 …`, OVS 3.5.0: any tag, printed as that of id 0.
    #[test]
    fn a_tag_of_any_id_is_not_narrowed_to_id_0() {
        let flow = FlowText::parse(TAGGED, NUMBERED).unwrap();
        let printed =
            |tag: &str| FlowText { key: flow.key.replace("vlan(vid=4094,pcp=0)", tag), ..flow.clone() };
        let any = printed("vlan(vid=0,pcp=0)").with_tags_of(&tags((None, None), None));
        assert_eq!(any, Ok(printed("vlan(vid=0/0x0,pcp=0/0x0,cfi=1/0x0)")));
        let any_id = printed("vlan(vid=0,pcp=3)").with_tags_of(&tags((None, Some(3)), None));
        assert_eq!(any_id, Ok(printed("vlan(vid=0/0x0,pcp=3)")));
    }

    #[test]
    fn text_that_leaves_out_a_tag_is_no_text_to_modify_the_flow_with() {
        let flow = FlowText::parse(TAGGED, NUMBERED).unwrap();
        assert!(flow.clone().with_tags_of(&tags((Some(4094), None), Some((None, None)))).is_err());
        assert!(flow.with_tags_of(&Match::default()).is_err());
        let untagged = FlowText::parse(WHOLE, NUMBERED).unwrap();
        assert_eq!(untagged.clone().with_tags_of(&Match::default()), Ok(untagged));
    }

    // `ovs-appctl dpctl/get-flow -m ufid:…`, OVS 3.5.0, of a flow whose filter had `enc_tos 0` and
    // `geneve_opts 0102:80:5ab31c77/ffff:ff:ffffffff`; shortened after the port.
    const OUT_OF_GENEVE: &str = "ufid:a5cb3399-9124-4345-b3f2-fdb6fce18d6f, recirc_id(0),tunnel(tun_id=0x4d,src=172.31.0.1,\
dst=172.31.0.2,ttl=0/0,tp_dst=6081,flags(-df+csum+key)),in_port(genev_sys_6081), packets:499, bytes:562872, used:0.004s, dp:tc, \
actions:sn1pf0vf0\n";

    fn tunnel(options: TunnelOptionKeys) -> Tunnel {
        let mut tunnel = Tunnel { options, ..Tunnel::default() };
        tunnel.header.tos = Some(Masked { value: 0, mask: 0xff });
        tunnel.header.dst_port = Some(Masked { value: 6081, mask: 0xffff });
        tunnel
    }

    #[test]
    fn what_the_text_leaves_out_of_a_tunnels_match_is_added() {
        let option = |data: &[u8], data_mask: &[u8]| GeneveOptionKey {
            class: Masked { value: 0x102, mask: 0xffff },
            kind: Masked { value: 0x80, mask: 0xff },
            data: data.to_vec(),
            data_mask: data_mask.to_vec(),
        };
        let options = TunnelOptionKeys::Geneve(alloc::vec![
            option(&[0x5a, 0xb3, 0x1c, 0x77], &[0x7f, 0xff, 0xff, 0xff]),
            option(&[], &[])
        ]);
        let mut flow = FlowText::parse(OUT_OF_GENEVE, NUMBERED).unwrap();
        flow.complete(&tunnel(options));
        assert_eq!(
            flow.key,
            "recirc_id(0),tunnel(tos=0x0/0xff,geneve({class=0x102/0xffff,type=0x80/0xff,len=4,0x5ab31c77/0x7fffffff}\
             {class=0x102/0xffff,type=0x80/0xff,len=0}),tun_id=0x4d,src=172.31.0.1,dst=172.31.0.2,ttl=0/0,tp_dst=6081,\
             flags(-df+csum+key)),in_port(genev_sys_6081)"
        );
        let mut flow = FlowText::parse(OUT_OF_GENEVE, NUMBERED).unwrap();
        flow.complete(&tunnel(TunnelOptionKeys::VxlanGbp(Masked { value: 0, mask: 0x8_ffff })));
        assert!(
            flow.key.contains("tunnel(tos=0x0/0xff,vxlan(gbp(id=0/0xffff,flags=0x0/0x8)),tun_id="),
            "{}",
            flow.key
        );
    }

    #[test]
    fn what_the_text_says_of_a_tunnel_stays_as_it_is() {
        let whole =
            OUT_OF_GENEVE.replace("ttl=0/0,", "tos=0x4,ttl=0/0,geneve({class=0x102,type=0x80,len=4,0x1}),");
        let mut flow = FlowText::parse(&whole, NUMBERED).unwrap();
        let before = flow.clone();
        flow.complete(&tunnel(TunnelOptionKeys::Geneve(alloc::vec![])));
        assert_eq!(flow, before);
        let mut flow = FlowText::parse(WHOLE, NUMBERED).unwrap();
        let before = flow.clone();
        flow.complete(&Tunnel::default());
        assert_eq!(flow, before);
        let mut broken = FlowText { key: "tunnel(tun_id=0x4d".into(), ..before };
        broken.complete(&tunnel(TunnelOptionKeys::None));
        assert_eq!(broken.key, "tunnel(tun_id=0x4d");
    }

    #[test]
    fn text_that_is_not_one_whole_flow_is_refused() {
        let of = FlowText::parse;
        assert_eq!(of("", NUMBERED), Err(FlowTextError::NoUfid));
        assert_eq!(of(NUMBERED, NUMBERED), Err(FlowTextError::NoUfid));
        assert_eq!(of(&WHOLE.replace(", packets:14", ""), NUMBERED), Err(FlowTextError::NoStatistics));
        assert_eq!(of(WHOLE, NUMBERED.split(", packets").next().unwrap()), Err(FlowTextError::NoStatistics));
        assert_eq!(of(WHOLE, NUMBERED.split(", actions").next().unwrap()), Err(FlowTextError::NoActions));
        assert_eq!(of(&WHOLE.repeat(2), NUMBERED), Err(FlowTextError::NotOneLine));
        assert_eq!(of(WHOLE, &NUMBERED.repeat(2)), Err(FlowTextError::NotOneLine));
        assert_eq!(of(WHOLE, &"x".repeat(FLOW_TEXT_MAX + 1)), Err(FlowTextError::TooLong));
    }
}
