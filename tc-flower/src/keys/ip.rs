//! Keys of IPv4, IPv6 and ARP.

use super::codec::{Byte, Mac, Net32, V4, V6, keys};

/// `IPPROTO_*` numbers that keys depend on (`linux/in.h`).
pub mod proto {
    /// `IPPROTO_ICMP`
    pub const ICMP: u8 = 1;
    /// `IPPROTO_TCP`
    pub const TCP: u8 = 6;
    /// `IPPROTO_UDP`
    pub const UDP: u8 = 17;
    /// `IPPROTO_ICMPV6`
    pub const ICMPV6: u8 = 58;
    /// `IPPROTO_SCTP`
    pub const SCTP: u8 = 132;
}

keys! {
    /// What IPv4 and IPv6 have in common.
    Ip {
        /// `TCA_FLOWER_KEY_IP_PROTO`
        proto: exact Byte(KEY_IP_PROTO);
        /// `TCA_FLOWER_KEY_IP_TOS`: the traffic class of IPv6.
        tos: masked Byte(KEY_IP_TOS, KEY_IP_TOS_MASK);
        /// `TCA_FLOWER_KEY_IP_TTL`: the hop limit of IPv6.
        ttl: masked Byte(KEY_IP_TTL, KEY_IP_TTL_MASK);
        /// `TCA_FLOWER_KEY_FLAGS`: see [`FRAGMENT`](super::FRAGMENT) and [`FIRST_FRAGMENT`](super::FIRST_FRAGMENT).
        flags: masked Net32(KEY_FLAGS, KEY_FLAGS_MASK);
    }
}

keys! {
    /// IPv4 addresses.
    Ipv4 {
        /// `TCA_FLOWER_KEY_IPV4_SRC`
        src: masked V4(KEY_IPV4_SRC, KEY_IPV4_SRC_MASK);
        /// `TCA_FLOWER_KEY_IPV4_DST`
        dst: masked V4(KEY_IPV4_DST, KEY_IPV4_DST_MASK);
    }
}

keys! {
    /// IPv6 addresses.
    Ipv6 {
        /// `TCA_FLOWER_KEY_IPV6_SRC`
        src: masked V6(KEY_IPV6_SRC, KEY_IPV6_SRC_MASK);
        /// `TCA_FLOWER_KEY_IPV6_DST`
        dst: masked V6(KEY_IPV6_DST, KEY_IPV6_DST_MASK);
    }
}

keys! {
    /// ARP and RARP.
    Arp {
        /// `TCA_FLOWER_KEY_ARP_SIP`
        sip: masked V4(KEY_ARP_SIP, KEY_ARP_SIP_MASK);
        /// `TCA_FLOWER_KEY_ARP_TIP`
        tip: masked V4(KEY_ARP_TIP, KEY_ARP_TIP_MASK);
        /// `TCA_FLOWER_KEY_ARP_OP`
        op: masked Byte(KEY_ARP_OP, KEY_ARP_OP_MASK);
        /// `TCA_FLOWER_KEY_ARP_SHA`
        sha: masked Mac(KEY_ARP_SHA, KEY_ARP_SHA_MASK);
        /// `TCA_FLOWER_KEY_ARP_THA`
        tha: masked Mac(KEY_ARP_THA, KEY_ARP_THA_MASK);
    }
}
