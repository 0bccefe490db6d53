//! Keys of TCP, UDP, SCTP and ICMP.

use super::codec::{Byte, Net16, keys};

keys! {
    /// TCP.
    Tcp {
        /// `TCA_FLOWER_KEY_TCP_SRC`
        src: masked Net16(KEY_TCP_SRC, KEY_TCP_SRC_MASK);
        /// `TCA_FLOWER_KEY_TCP_DST`
        dst: masked Net16(KEY_TCP_DST, KEY_TCP_DST_MASK);
        /// `TCA_FLOWER_KEY_TCP_FLAGS`, 12 bits
        flags: masked Net16(KEY_TCP_FLAGS, KEY_TCP_FLAGS_MASK);
    }
}

keys! {
    /// UDP.
    Udp {
        /// `TCA_FLOWER_KEY_UDP_SRC`
        src: masked Net16(KEY_UDP_SRC, KEY_UDP_SRC_MASK);
        /// `TCA_FLOWER_KEY_UDP_DST`
        dst: masked Net16(KEY_UDP_DST, KEY_UDP_DST_MASK);
    }
}

keys! {
    /// SCTP.
    Sctp {
        /// `TCA_FLOWER_KEY_SCTP_SRC`
        src: masked Net16(KEY_SCTP_SRC, KEY_SCTP_SRC_MASK);
        /// `TCA_FLOWER_KEY_SCTP_DST`
        dst: masked Net16(KEY_SCTP_DST, KEY_SCTP_DST_MASK);
    }
}

keys! {
    /// Ranges of ports of TCP, UDP or SCTP. Open vSwitch makes none.
    PortRange {
        /// `TCA_FLOWER_KEY_PORT_SRC_MIN`
        src_min: exact Net16(KEY_PORT_SRC_MIN);
        /// `TCA_FLOWER_KEY_PORT_SRC_MAX`
        src_max: exact Net16(KEY_PORT_SRC_MAX);
        /// `TCA_FLOWER_KEY_PORT_DST_MIN`
        dst_min: exact Net16(KEY_PORT_DST_MIN);
        /// `TCA_FLOWER_KEY_PORT_DST_MAX`
        dst_max: exact Net16(KEY_PORT_DST_MAX);
    }
}

keys! {
    /// ICMP.
    Icmp {
        /// `TCA_FLOWER_KEY_ICMPV4_TYPE`
        kind: masked Byte(KEY_ICMPV4_TYPE, KEY_ICMPV4_TYPE_MASK);
        /// `TCA_FLOWER_KEY_ICMPV4_CODE`
        code: masked Byte(KEY_ICMPV4_CODE, KEY_ICMPV4_CODE_MASK);
    }
}

keys! {
    /// ICMPv6.
    Icmpv6 {
        /// `TCA_FLOWER_KEY_ICMPV6_TYPE`
        kind: masked Byte(KEY_ICMPV6_TYPE, KEY_ICMPV6_TYPE_MASK);
        /// `TCA_FLOWER_KEY_ICMPV6_CODE`
        code: masked Byte(KEY_ICMPV6_CODE, KEY_ICMPV6_CODE_MASK);
    }
}
