//! The numbers of `TCA_FLOWER_*`, of `linux/pkt_cls.h`. Names without that prefix.

pub(crate) const CLASSID: u16 = 1;
pub(crate) const INDEV: u16 = 2;
pub(crate) const ACT: u16 = 3;
pub(crate) const KEY_ETH_DST: u16 = 4;
pub(crate) const KEY_ETH_DST_MASK: u16 = 5;
pub(crate) const KEY_ETH_SRC: u16 = 6;
pub(crate) const KEY_ETH_SRC_MASK: u16 = 7;
pub(crate) const KEY_ETH_TYPE: u16 = 8;
pub(crate) const KEY_IP_PROTO: u16 = 9;
pub(crate) const KEY_IPV4_SRC: u16 = 10;
pub(crate) const KEY_IPV4_SRC_MASK: u16 = 11;
pub(crate) const KEY_IPV4_DST: u16 = 12;
pub(crate) const KEY_IPV4_DST_MASK: u16 = 13;
pub(crate) const KEY_IPV6_SRC: u16 = 14;
pub(crate) const KEY_IPV6_SRC_MASK: u16 = 15;
pub(crate) const KEY_IPV6_DST: u16 = 16;
pub(crate) const KEY_IPV6_DST_MASK: u16 = 17;
pub(crate) const KEY_TCP_SRC: u16 = 18;
pub(crate) const KEY_TCP_DST: u16 = 19;
pub(crate) const KEY_UDP_SRC: u16 = 20;
pub(crate) const KEY_UDP_DST: u16 = 21;
pub(crate) const FLAGS: u16 = 22;
pub(crate) const KEY_VLAN_ID: u16 = 23;
pub(crate) const KEY_VLAN_PRIO: u16 = 24;
pub(crate) const KEY_VLAN_ETH_TYPE: u16 = 25;
pub(crate) const KEY_ENC_KEY_ID: u16 = 26;
pub(crate) const KEY_ENC_IPV4_SRC: u16 = 27;
pub(crate) const KEY_ENC_IPV4_SRC_MASK: u16 = 28;
pub(crate) const KEY_ENC_IPV4_DST: u16 = 29;
pub(crate) const KEY_ENC_IPV4_DST_MASK: u16 = 30;
pub(crate) const KEY_ENC_IPV6_SRC: u16 = 31;
pub(crate) const KEY_ENC_IPV6_SRC_MASK: u16 = 32;
pub(crate) const KEY_ENC_IPV6_DST: u16 = 33;
pub(crate) const KEY_ENC_IPV6_DST_MASK: u16 = 34;
pub(crate) const KEY_TCP_SRC_MASK: u16 = 35;
pub(crate) const KEY_TCP_DST_MASK: u16 = 36;
pub(crate) const KEY_UDP_SRC_MASK: u16 = 37;
pub(crate) const KEY_UDP_DST_MASK: u16 = 38;
pub(crate) const KEY_SCTP_SRC_MASK: u16 = 39;
pub(crate) const KEY_SCTP_DST_MASK: u16 = 40;
pub(crate) const KEY_SCTP_SRC: u16 = 41;
pub(crate) const KEY_SCTP_DST: u16 = 42;
pub(crate) const KEY_ENC_UDP_SRC_PORT: u16 = 43;
pub(crate) const KEY_ENC_UDP_SRC_PORT_MASK: u16 = 44;
pub(crate) const KEY_ENC_UDP_DST_PORT: u16 = 45;
pub(crate) const KEY_ENC_UDP_DST_PORT_MASK: u16 = 46;
pub(crate) const KEY_FLAGS: u16 = 47;
pub(crate) const KEY_FLAGS_MASK: u16 = 48;
pub(crate) const KEY_ICMPV4_CODE: u16 = 49;
pub(crate) const KEY_ICMPV4_CODE_MASK: u16 = 50;
pub(crate) const KEY_ICMPV4_TYPE: u16 = 51;
pub(crate) const KEY_ICMPV4_TYPE_MASK: u16 = 52;
pub(crate) const KEY_ICMPV6_CODE: u16 = 53;
pub(crate) const KEY_ICMPV6_CODE_MASK: u16 = 54;
pub(crate) const KEY_ICMPV6_TYPE: u16 = 55;
pub(crate) const KEY_ICMPV6_TYPE_MASK: u16 = 56;
pub(crate) const KEY_ARP_SIP: u16 = 57;
pub(crate) const KEY_ARP_SIP_MASK: u16 = 58;
pub(crate) const KEY_ARP_TIP: u16 = 59;
pub(crate) const KEY_ARP_TIP_MASK: u16 = 60;
pub(crate) const KEY_ARP_OP: u16 = 61;
pub(crate) const KEY_ARP_OP_MASK: u16 = 62;
pub(crate) const KEY_ARP_SHA: u16 = 63;
pub(crate) const KEY_ARP_SHA_MASK: u16 = 64;
pub(crate) const KEY_ARP_THA: u16 = 65;
pub(crate) const KEY_ARP_THA_MASK: u16 = 66;
pub(crate) const KEY_MPLS_TTL: u16 = 67;
pub(crate) const KEY_MPLS_BOS: u16 = 68;
pub(crate) const KEY_MPLS_TC: u16 = 69;
pub(crate) const KEY_MPLS_LABEL: u16 = 70;
pub(crate) const KEY_TCP_FLAGS: u16 = 71;
pub(crate) const KEY_TCP_FLAGS_MASK: u16 = 72;
pub(crate) const KEY_IP_TOS: u16 = 73;
pub(crate) const KEY_IP_TOS_MASK: u16 = 74;
pub(crate) const KEY_IP_TTL: u16 = 75;
pub(crate) const KEY_IP_TTL_MASK: u16 = 76;
pub(crate) const KEY_CVLAN_ID: u16 = 77;
pub(crate) const KEY_CVLAN_PRIO: u16 = 78;
pub(crate) const KEY_CVLAN_ETH_TYPE: u16 = 79;
pub(crate) const KEY_ENC_IP_TOS: u16 = 80;
pub(crate) const KEY_ENC_IP_TOS_MASK: u16 = 81;
pub(crate) const KEY_ENC_IP_TTL: u16 = 82;
pub(crate) const KEY_ENC_IP_TTL_MASK: u16 = 83;
pub(crate) const KEY_ENC_OPTS: u16 = 84;
pub(crate) const KEY_ENC_OPTS_MASK: u16 = 85;
pub(crate) const IN_HW_COUNT: u16 = 86;
pub(crate) const KEY_PORT_SRC_MIN: u16 = 87;
pub(crate) const KEY_PORT_SRC_MAX: u16 = 88;
pub(crate) const KEY_PORT_DST_MIN: u16 = 89;
pub(crate) const KEY_PORT_DST_MAX: u16 = 90;
pub(crate) const KEY_CT_STATE: u16 = 91;
pub(crate) const KEY_CT_STATE_MASK: u16 = 92;
pub(crate) const KEY_CT_ZONE: u16 = 93;
pub(crate) const KEY_CT_ZONE_MASK: u16 = 94;
pub(crate) const KEY_CT_MARK: u16 = 95;
pub(crate) const KEY_CT_MARK_MASK: u16 = 96;
pub(crate) const KEY_CT_LABELS: u16 = 97;
pub(crate) const KEY_CT_LABELS_MASK: u16 = 98;
pub(crate) const KEY_HASH: u16 = 100;
pub(crate) const KEY_HASH_MASK: u16 = 101;
pub(crate) const KEY_NUM_OF_VLANS: u16 = 102;
pub(crate) const KEY_PPPOE_SID: u16 = 103;
pub(crate) const KEY_PPP_PROTO: u16 = 104;
pub(crate) const KEY_L2TPV3_SID: u16 = 105;
pub(crate) const L2_MISS: u16 = 106;
pub(crate) const KEY_SPI: u16 = 108;
pub(crate) const KEY_SPI_MASK: u16 = 109;
pub(crate) const KEY_ENC_FLAGS: u16 = 110;
pub(crate) const KEY_ENC_FLAGS_MASK: u16 = 111;

/// The attribute that is the mask of this one, where it has one.
pub(crate) const fn mask_of(attr: u16) -> Option<u16> {
    Some(match attr {
        KEY_ETH_DST => KEY_ETH_DST_MASK,
        KEY_ETH_SRC => KEY_ETH_SRC_MASK,
        KEY_IPV4_SRC => KEY_IPV4_SRC_MASK,
        KEY_IPV4_DST => KEY_IPV4_DST_MASK,
        KEY_IPV6_SRC => KEY_IPV6_SRC_MASK,
        KEY_IPV6_DST => KEY_IPV6_DST_MASK,
        KEY_ENC_IPV4_SRC => KEY_ENC_IPV4_SRC_MASK,
        KEY_ENC_IPV4_DST => KEY_ENC_IPV4_DST_MASK,
        KEY_ENC_IPV6_SRC => KEY_ENC_IPV6_SRC_MASK,
        KEY_ENC_IPV6_DST => KEY_ENC_IPV6_DST_MASK,
        KEY_TCP_SRC => KEY_TCP_SRC_MASK,
        KEY_TCP_DST => KEY_TCP_DST_MASK,
        KEY_UDP_SRC => KEY_UDP_SRC_MASK,
        KEY_UDP_DST => KEY_UDP_DST_MASK,
        KEY_SCTP_SRC => KEY_SCTP_SRC_MASK,
        KEY_SCTP_DST => KEY_SCTP_DST_MASK,
        KEY_ENC_UDP_SRC_PORT => KEY_ENC_UDP_SRC_PORT_MASK,
        KEY_ENC_UDP_DST_PORT => KEY_ENC_UDP_DST_PORT_MASK,
        KEY_FLAGS => KEY_FLAGS_MASK,
        KEY_ICMPV4_CODE => KEY_ICMPV4_CODE_MASK,
        KEY_ICMPV4_TYPE => KEY_ICMPV4_TYPE_MASK,
        KEY_ICMPV6_CODE => KEY_ICMPV6_CODE_MASK,
        KEY_ICMPV6_TYPE => KEY_ICMPV6_TYPE_MASK,
        KEY_ARP_SIP => KEY_ARP_SIP_MASK,
        KEY_ARP_TIP => KEY_ARP_TIP_MASK,
        KEY_ARP_OP => KEY_ARP_OP_MASK,
        KEY_ARP_SHA => KEY_ARP_SHA_MASK,
        KEY_ARP_THA => KEY_ARP_THA_MASK,
        KEY_TCP_FLAGS => KEY_TCP_FLAGS_MASK,
        KEY_IP_TOS => KEY_IP_TOS_MASK,
        KEY_IP_TTL => KEY_IP_TTL_MASK,
        KEY_ENC_IP_TOS => KEY_ENC_IP_TOS_MASK,
        KEY_ENC_IP_TTL => KEY_ENC_IP_TTL_MASK,
        KEY_ENC_OPTS => KEY_ENC_OPTS_MASK,
        KEY_CT_STATE => KEY_CT_STATE_MASK,
        KEY_CT_ZONE => KEY_CT_ZONE_MASK,
        KEY_CT_MARK => KEY_CT_MARK_MASK,
        KEY_CT_LABELS => KEY_CT_LABELS_MASK,
        KEY_HASH => KEY_HASH_MASK,
        KEY_SPI => KEY_SPI_MASK,
        KEY_ENC_FLAGS => KEY_ENC_FLAGS_MASK,
        _ => return None,
    })
}

/// Whether it is the mask of another one.
pub(crate) const fn is_mask(attr: u16) -> bool {
    matches!(
        attr,
        KEY_ETH_DST_MASK
            | KEY_ETH_SRC_MASK
            | KEY_IPV4_SRC_MASK
            | KEY_IPV4_DST_MASK
            | KEY_IPV6_SRC_MASK
            | KEY_IPV6_DST_MASK
            | KEY_ENC_IPV4_SRC_MASK
            | KEY_ENC_IPV4_DST_MASK
            | KEY_ENC_IPV6_SRC_MASK
            | KEY_ENC_IPV6_DST_MASK
            | KEY_TCP_SRC_MASK
            | KEY_TCP_DST_MASK
            | KEY_UDP_SRC_MASK
            | KEY_UDP_DST_MASK
            | KEY_SCTP_SRC_MASK
            | KEY_SCTP_DST_MASK
            | KEY_ENC_UDP_SRC_PORT_MASK
            | KEY_ENC_UDP_DST_PORT_MASK
            | KEY_FLAGS_MASK
            | KEY_ICMPV4_CODE_MASK
            | KEY_ICMPV4_TYPE_MASK
            | KEY_ICMPV6_CODE_MASK
            | KEY_ICMPV6_TYPE_MASK
            | KEY_ARP_SIP_MASK
            | KEY_ARP_TIP_MASK
            | KEY_ARP_OP_MASK
            | KEY_ARP_SHA_MASK
            | KEY_ARP_THA_MASK
            | KEY_TCP_FLAGS_MASK
            | KEY_IP_TOS_MASK
            | KEY_IP_TTL_MASK
            | KEY_ENC_IP_TOS_MASK
            | KEY_ENC_IP_TTL_MASK
            | KEY_ENC_OPTS_MASK
            | KEY_CT_STATE_MASK
            | KEY_CT_ZONE_MASK
            | KEY_CT_MARK_MASK
            | KEY_CT_LABELS_MASK
            | KEY_HASH_MASK
            | KEY_SPI_MASK
            | KEY_ENC_FLAGS_MASK
    )
}
