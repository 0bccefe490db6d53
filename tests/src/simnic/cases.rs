//! Rules and frames to try them with, for the comparison with TC's software path.

use super::frame::{Body, Frame, Ipv4, L4, address6, frame, ipv4, ipv6, tcp, udp};

const Q: u16 = 0x8100;
const AD: u16 = 0x88a8;
/// Redirects, the last action of most rules.
pub(super) const OUT: &str = "action mirred egress redirect dev OUT";

/// A filter, the frames it is tried with, and which of them it is for.
pub(super) struct Case {
    pub(super) filter: &'static str,
    pub(super) actions: String,
    pub(super) frames: Vec<(Frame, bool)>,
    /// Frames that come out of COPY.
    pub(super) copies: usize,
    /// Whether those that match come out at all.
    pub(super) passes: bool,
}

impl Case {
    /// Redirects what matches, unchanged.
    pub(super) fn matching(filter: &'static str, frames: Vec<(Frame, bool)>) -> Self {
        Self { filter, actions: OUT.to_owned(), frames, copies: 0, passes: true }
    }

    /// Changes what matches and redirects it.
    pub(super) fn editing(filter: &'static str, actions: &str, frames: Vec<Frame>) -> Self {
        let frames = frames.into_iter().map(|frame| (frame, true)).collect();
        Self { filter, actions: format!("{actions} {OUT}"), frames, copies: 0, passes: true }
    }
}

fn with_v4(change: impl FnOnce(&mut Ipv4)) -> Frame {
    frame().v4(change)
}

fn with_l4(l4: L4) -> Frame {
    frame().body(Body::Ipv4(ipv4(l4)))
}

fn with_l4_v6(l4: L4) -> Frame {
    frame().body(Body::Ipv6(ipv6(l4)))
}

fn arp() -> Body {
    Body::Arp { op: 1, sha: [2, 0, 0, 0, 0, 1], sip: [10, 0, 0, 1], tha: [0; 6], tip: [10, 0, 0, 2] }
}

fn arp_reply() -> Body {
    Body::Arp {
        op: 2,
        sha: [2, 0, 0, 0, 0, 9],
        sip: [10, 0, 0, 9],
        tha: [2, 0, 0, 0, 0, 3],
        tip: [10, 0, 0, 3],
    }
}

pub(super) fn l2_cases() -> Vec<Case> {
    let other = Frame { dst: [2, 0, 0, 0, 0, 0x31], src: [2, 0, 0, 0, 0, 0x32], ..frame() };
    vec![
        Case::matching("protocol all flower", vec![(frame(), true), (frame().body(arp()), true)]),
        Case::matching(
            "protocol all flower dst_mac 02:00:00:00:00:02",
            vec![(frame(), true), (other.clone(), false)],
        ),
        Case::matching(
            "protocol all flower src_mac 02:00:00:00:00:01",
            vec![(frame(), true), (other.clone(), false)],
        ),
        Case::matching(
            "protocol all flower dst_mac 02:00:00:00:00:00/ff:ff:ff:ff:ff:f0",
            vec![(frame(), true), (other, false)],
        ),
        Case::matching(
            "protocol 0x88b5 flower",
            vec![(frame().body(Body::Other(0x88b5)), true), (frame(), false)],
        ),
        Case::matching(
            "protocol arp flower arp_op request arp_sip 10.0.0.1",
            vec![(frame().body(arp()), true), (frame().body(arp_reply()), false), (frame(), false)],
        ),
        Case::matching(
            "protocol arp flower arp_tip 10.0.0.0/30 arp_sha 02:00:00:00:00:01",
            vec![(frame().body(arp()), true), (frame().body(arp_reply()), false)],
        ),
        Case::matching(
            "protocol arp flower arp_tha 02:00:00:00:00:03",
            vec![(frame().body(arp_reply()), true), (frame().body(arp()), false)],
        ),
        Case::matching(
            "protocol mpls_uc flower mpls_label 77 mpls_tc 3 mpls_bos 1 mpls_ttl 9",
            vec![
                (frame().body(Body::Mpls { label: 77, tc: 3, ttl: 9 }), true),
                (frame().body(Body::Mpls { label: 78, tc: 3, ttl: 9 }), false),
                (frame().body(Body::Mpls { label: 77, tc: 3, ttl: 8 }), false),
            ],
        ),
    ]
}

pub(super) fn vlan_cases() -> Vec<Case> {
    let double = frame().tag(AD, 5).tag(Q, 7);
    vec![
        Case::matching(
            "protocol 802.1q flower vlan_id 100",
            vec![(frame().tag(Q, 100), true), (frame().tag(Q, 101), false), (frame(), false)],
        ),
        Case::matching(
            "protocol 802.1q flower vlan_prio 5",
            vec![(frame().tag(Q, 0xa064), true), (frame().tag(Q, 0x6064), false)],
        ),
        Case::matching(
            "protocol 802.1q flower vlan_id 100 vlan_ethtype ipv4 ip_proto tcp dst_port 80",
            vec![(frame().tag(Q, 100), true), (with_l4(tcp(1, 81)).tag(Q, 100), false), (frame(), false)],
        ),
        Case::matching(
            "protocol 802.1ad flower vlan_id 5 vlan_ethtype 802.1q cvlan_id 7",
            vec![(double.clone(), true), (frame().tag(AD, 5).tag(Q, 8), false), (frame().tag(AD, 5), false)],
        ),
        Case::matching(
            "protocol 802.1ad flower vlan_ethtype 802.1q cvlan_ethtype ipv4 dst_ip 10.0.0.2",
            vec![(double.clone(), true), (frame().tag(AD, 5).tag(Q, 7).v4(|ip| ip.dst[3] = 3), false)],
        ),
        Case::matching(
            "protocol all flower num_of_vlans 2",
            vec![(double, true), (frame().tag(Q, 5), false), (frame(), false)],
        ),
        Case::matching("protocol ip flower", vec![(frame(), true), (frame().tag(Q, 100), false)]),
    ]
}

pub(super) fn l3_cases() -> Vec<Case> {
    let v6 = || with_l4_v6(tcp(1000, 80));
    vec![
        Case::matching(
            "protocol ip flower dst_ip 10.0.0.2",
            vec![(frame(), true), (with_v4(|ip| ip.dst[3] = 3), false)],
        ),
        Case::matching(
            "protocol ip flower src_ip 10.0.0.0/28",
            vec![(frame(), true), (with_v4(|ip| ip.src[3] = 77), false), (v6(), false)],
        ),
        Case::matching(
            "protocol ip flower ip_tos 0x10/0xfc",
            vec![(with_v4(|ip| ip.tos = 0x11), true), (with_v4(|ip| ip.tos = 0x20), false)],
        ),
        Case::matching(
            "protocol ip flower ip_ttl 63",
            vec![(with_v4(|ip| ip.ttl = 63), true), (frame(), false)],
        ),
        Case::matching(
            "protocol ip flower ip_flags frag",
            vec![
                (with_v4(|ip| ip.fragment = 0x2000), true),
                (with_v4(|ip| ip.fragment = 9), true),
                (frame(), false),
            ],
        ),
        Case::matching(
            "protocol ip flower ip_flags nofrag",
            vec![(frame(), true), (with_v4(|ip| ip.fragment = 9), false)],
        ),
        Case::matching(
            "protocol ip flower ip_flags firstfrag",
            vec![
                (with_v4(|ip| ip.fragment = 0x2000), true),
                (with_v4(|ip| ip.fragment = 9), false),
                (frame(), false),
            ],
        ),
        Case::matching("protocol ipv6 flower", vec![(v6(), true), (frame(), false)]),
        Case::matching(
            "protocol ipv6 flower src_ip fd00::1 dst_ip fd00::/124",
            vec![(v6(), true), (frame().v6(|ip| ip.dst = address6(0x22)), false)],
        ),
        Case::matching(
            "protocol ipv6 flower ip_tos 0x20/0xfc ip_ttl 7",
            vec![
                (frame().v6(|ip| (ip.class, ip.hop_limit) = (0x21, 7)), true),
                (frame().v6(|ip| (ip.class, ip.hop_limit) = (0x21, 8)), false),
                (v6(), false),
            ],
        ),
    ]
}

pub(super) fn l4_cases() -> Vec<Case> {
    let flags = |flags| L4::Tcp { src: 1000, dst: 80, flags };
    vec![
        Case::matching("protocol ip flower ip_proto tcp", vec![(frame(), true), (with_l4(udp(1, 2)), false)]),
        Case::matching(
            "protocol ip flower ip_proto 0x63",
            vec![(with_l4(L4::Other(99)), true), (frame(), false)],
        ),
        Case::matching(
            "protocol ip flower ip_proto tcp dst_port 80",
            vec![(frame(), true), (with_l4(tcp(80, 1000)), false), (with_l4(udp(1000, 80)), false)],
        ),
        Case::matching(
            "protocol ip flower ip_proto udp src_port 0x1000/0xf000",
            vec![(with_l4(udp(0x1fff, 80)), true), (with_l4(udp(0x2000, 80)), false)],
        ),
        Case::matching(
            "protocol ip flower ip_proto tcp tcp_flags 0x2/0x17",
            vec![(with_l4(flags(0x02)), true), (with_l4(flags(0x22)), true), (with_l4(flags(0x12)), false)],
        ),
        Case::matching(
            "protocol ip flower ip_proto icmp type 8 code 0",
            vec![
                (with_l4(L4::Icmp { kind: 8, code: 0 }), true),
                (with_l4(L4::Icmp { kind: 0, code: 0 }), false),
            ],
        ),
        Case::matching(
            "protocol ipv6 flower ip_proto icmpv6 type 135",
            vec![
                (with_l4_v6(L4::Icmp { kind: 135, code: 0 }), true),
                (with_l4_v6(L4::Icmp { kind: 136, code: 0 }), false),
            ],
        ),
        Case::matching(
            "protocol ipv6 flower ip_proto udp dst_port 53",
            vec![
                (with_l4_v6(udp(9, 53)), true),
                (with_l4_v6(udp(53, 9)), false),
                (with_l4_v6(tcp(9, 53)), false),
            ],
        ),
    ]
}

pub(super) fn vlan_edits() -> Vec<Case> {
    let tagged = || vec![frame().tag(Q, 100), with_l4(udp(1, 2)).tag(Q, 100)];
    vec![
        Case::editing("protocol ip flower", "action vlan push id 33", vec![frame()]),
        Case::editing(
            "protocol ip flower",
            "action vlan push id 33 priority 5 protocol 802.1ad",
            vec![frame()],
        ),
        Case::editing("protocol 802.1q flower vlan_id 100", "action vlan pop", tagged()),
        Case::editing("protocol 802.1q flower vlan_id 100", "action vlan modify id 34 priority 3", tagged()),
        Case::editing("protocol 802.1q flower vlan_id 100 vlan_prio 0", "action vlan modify id 34", tagged()),
        Case::editing(
            "protocol 802.1q flower vlan_id 100",
            "action vlan push id 9 protocol 802.1ad",
            tagged(),
        ),
        Case::editing(
            "protocol ip flower",
            "action vlan push id 9 action vlan push id 10 protocol 802.1ad",
            vec![frame()],
        ),
        Case::editing(
            "protocol 802.1ad flower vlan_id 5",
            "action vlan pop",
            vec![frame().tag(AD, 5).tag(Q, 7)],
        ),
        Case::editing(
            "protocol 802.1ad flower vlan_id 5 vlan_ethtype 802.1q",
            "action vlan pop action vlan pop",
            vec![frame().tag(AD, 5).tag(Q, 7)],
        ),
        Case::editing(
            "protocol 802.1q flower vlan_id 100",
            "action vlan pop action vlan push id 200 priority 1",
            tagged(),
        ),
        Case::editing(
            "protocol 802.1q flower vlan_id 100 vlan_ethtype ipv4 ip_proto udp",
            "action vlan pop action pedit ex munge ip dst set 10.9.9.9 pipe action csum ip4h and udp pipe",
            vec![with_l4(udp(1, 2)).tag(Q, 100)],
        ),
    ]
}

pub(super) fn header_edits() -> Vec<Case> {
    let no_checksum = || with_l4(L4::Udp { src: 5, dst: 6, checksum: false });
    vec![
        Case::editing(
            "protocol all flower",
            "action pedit ex munge eth dst set 02:aa:bb:cc:dd:ee pipe",
            vec![frame(), frame().body(arp())],
        ),
        Case::editing(
            "protocol ip flower",
            "action pedit ex munge eth src set 02:aa:bb:cc:dd:ee munge eth dst set 02:01:02:03:04:05 pipe",
            vec![frame()],
        ),
        Case::editing(
            "protocol ip flower ip_proto tcp",
            "action pedit ex munge ip src set 192.168.7.9 pipe action csum ip4h and tcp pipe",
            vec![frame()],
        ),
        Case::editing(
            "protocol ip flower ip_proto udp",
            "action pedit ex munge ip dst set 192.168.7.9 pipe action csum ip4h and udp pipe",
            vec![with_l4(udp(1, 2)), no_checksum()],
        ),
        Case::editing(
            "protocol ip flower ip_proto icmp",
            "action pedit ex munge ip dst set 192.168.7.9 pipe action csum ip4h and icmp pipe",
            vec![with_l4(L4::Icmp { kind: 8, code: 0 })],
        ),
        Case::editing(
            "protocol ip flower",
            "action pedit ex munge ip ttl set 9 pipe action csum ip4h pipe",
            vec![frame()],
        ),
        Case::editing(
            "protocol ip flower",
            "action pedit ex munge ip ttl dec pipe action csum ip4h pipe",
            vec![frame(), with_l4(udp(1, 2))],
        ),
        Case::editing(
            "protocol ip flower",
            "action pedit ex munge ip tos set 0x28 retain 0xfc pipe action csum ip4h pipe",
            vec![with_v4(|ip| ip.tos = 0x13)],
        ),
        Case::editing(
            "protocol ip flower ip_proto tcp",
            "action pedit ex munge tcp dport set 8080 munge tcp sport set 4242 pipe action csum tcp pipe",
            vec![frame()],
        ),
        Case::editing(
            "protocol ip flower ip_proto udp",
            "action pedit ex munge udp dport set 5353 pipe action csum udp pipe",
            vec![with_l4(udp(1, 2)), no_checksum()],
        ),
        Case::editing(
            "protocol ip flower ip_proto tcp",
            "action pedit ex munge ip dst set 10.1.2.3 munge ip ttl dec munge tcp dport set 8080 pipe action csum ip4h and tcp pipe",
            vec![frame()],
        ),
        Case::editing(
            "protocol ip flower ip_proto udp",
            "action pedit ex munge ip dst set 10.1.2.3 pipe action csum ip4h and udp pipe",
            vec![
                frame().v4(|ip| (ip.l4, ip.fragment) = (udp(1, 2), 0x2000)),
                frame().v4(|ip| (ip.l4, ip.fragment) = (udp(1, 2), 0x0009)),
            ],
        ),
    ]
}

pub(super) fn header_edits_v6() -> Vec<Case> {
    vec![
        Case::editing(
            "protocol ipv6 flower ip_proto tcp",
            "action pedit ex munge ip6 dst set fd00::77 pipe action csum tcp pipe",
            vec![with_l4_v6(tcp(1, 2))],
        ),
        Case::editing(
            "protocol ipv6 flower ip_proto udp",
            "action pedit ex munge ip6 src set fd00:1:2:3:4:5:6:7 munge udp sport set 99 pipe action csum udp pipe",
            vec![with_l4_v6(udp(1, 2))],
        ),
        Case::editing(
            "protocol ipv6 flower ip_proto icmpv6",
            "action pedit ex munge ip6 dst set fd00::77 pipe action csum icmp pipe",
            vec![with_l4_v6(L4::Icmp { kind: 135, code: 0 })],
        ),
        Case::editing(
            "protocol ipv6 flower",
            "action pedit ex munge ip6 hoplimit set 3 munge ip6 traffic_class set 0x48 pipe",
            vec![with_l4_v6(tcp(1, 2)), frame().v6(|ip| ip.class = 0xff)],
        ),
    ]
}

pub(super) fn outputs() -> Vec<Case> {
    let copy = "action mirred egress mirror dev COPY";
    let edit = "action pedit ex munge eth dst set 02:aa:bb:cc:dd:ee pipe";
    let frames = || vec![(frame(), true), (with_l4(udp(1, 2)), true)];
    let copying = |actions: String| Case {
        filter: "protocol ip flower",
        actions,
        frames: frames(),
        copies: 2,
        passes: true,
    };
    vec![
        copying(format!("{copy} pipe {OUT}")),
        copying(format!("{copy} pipe {edit} {OUT}")),
        copying(format!("{edit} {copy} pipe action vlan push id 7 {OUT}")),
        copying(format!("action vlan push id 8 {copy} pipe action vlan pop {OUT}")),
        Case {
            filter: "protocol ip flower",
            actions: "action drop".to_owned(),
            frames: frames(),
            copies: 0,
            passes: false,
        },
        Case {
            filter: "protocol ip flower",
            actions: format!("{copy} pipe action drop"),
            frames: frames(),
            copies: 2,
            passes: false,
        },
    ]
}
