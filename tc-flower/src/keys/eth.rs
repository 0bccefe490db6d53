//! Ethernet, VLAN and MPLS keys.

use super::codec::{Byte, Host16, Host32, Mac, Type, keys};

keys! {
    /// The Ethernet header.
    Eth {
        /// `TCA_FLOWER_KEY_ETH_DST`
        dst: masked Mac(KEY_ETH_DST, KEY_ETH_DST_MASK);
        /// `TCA_FLOWER_KEY_ETH_SRC`
        src: masked Mac(KEY_ETH_SRC, KEY_ETH_SRC_MASK);
        /// `TCA_FLOWER_KEY_ETH_TYPE`: the type after all tags; for a tagged packet see [`Vlan::ethertype`].
        ethertype: exact Type(KEY_ETH_TYPE);
    }
}

keys! {
    /// The outer VLAN tag.
    Vlan {
        /// `TCA_FLOWER_KEY_VLAN_ID`, 12 bits
        id: exact Host16(KEY_VLAN_ID);
        /// `TCA_FLOWER_KEY_VLAN_PRIO`, 3 bits
        prio: exact Byte(KEY_VLAN_PRIO);
        /// `TCA_FLOWER_KEY_VLAN_ETH_TYPE`: the type after this tag.
        ethertype: exact Type(KEY_VLAN_ETH_TYPE);
    }
}

keys! {
    /// The inner VLAN tag.
    Cvlan {
        /// `TCA_FLOWER_KEY_CVLAN_ID`, 12 bits
        id: exact Host16(KEY_CVLAN_ID);
        /// `TCA_FLOWER_KEY_CVLAN_PRIO`, 3 bits
        prio: exact Byte(KEY_CVLAN_PRIO);
        /// `TCA_FLOWER_KEY_CVLAN_ETH_TYPE`: the type after this tag.
        ethertype: exact Type(KEY_CVLAN_ETH_TYPE);
    }
}

keys! {
    /// The outermost MPLS label stack entry.
    Mpls {
        /// `TCA_FLOWER_KEY_MPLS_TTL`
        ttl: exact Byte(KEY_MPLS_TTL);
        /// `TCA_FLOWER_KEY_MPLS_BOS`: 1 at the bottom of the stack.
        bos: exact Byte(KEY_MPLS_BOS);
        /// `TCA_FLOWER_KEY_MPLS_TC`: traffic class, 3 bits
        tc: exact Byte(KEY_MPLS_TC);
        /// `TCA_FLOWER_KEY_MPLS_LABEL`, 20 bits
        label: exact Host32(KEY_MPLS_LABEL);
    }
}
