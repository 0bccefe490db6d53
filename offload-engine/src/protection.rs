//! Which tunnels IPsec protects, by the host's policies.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::net::IpAddr;
use netlink_wire::xfrm::Prefix;

/// `IPPROTO_UDP`
const UDP: u8 = 17;
/// `IPPROTO_GRE`
const GRE: u8 = 47;
/// IANA's port of VXLAN, and Open vSwitch's default.
const VXLAN_PORT: u16 = 4789;
/// IANA's port of Geneve, and Open vSwitch's default.
const GENEVE_PORT: u16 = 6081;
/// GRE has none.
const NO_PORT: u16 = 0;

/// One policy of the host, as far as it is about tunnels with others (`struct xfrm_userpolicy_info`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct IpsecPolicy {
    /// Of several the one with the lowest number counts.
    pub priority: u32,
    /// Whether it is about packets that come from the peer, and not about those that go there.
    pub inbound: bool,
    /// Which peers; none for every one.
    pub peer: Option<Prefix>,
    /// `IPPROTO_*`; 0 for any.
    pub proto: u8,
    /// Destination port of the packets, and the bits of it that matter.
    pub dport: (u16, u16),
    /// Whether such packets must be encrypted.
    pub encrypts: bool,
    /// Whether it is the host's own stack that encrypts or drops them: no NIC has the policy.
    pub in_host: bool,
    /// Whether it is about some source ports only, of which a tunnel has many.
    pub partly: bool,
}

impl IpsecPolicy {
    fn takes(&self, outer: &Outer) -> bool {
        let (port, mask) = self.dport;
        self.inbound == outer.inbound
            && self.peer.is_none_or(|peer| peer.has(outer.peer))
            && (self.proto == 0 || self.proto == outer.proto)
            && (outer.dport ^ port) & mask == 0
    }
}

/// The packets of a tunnel, as IPsec sees them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Outer {
    peer: IpAddr,
    inbound: bool,
    proto: u8,
    dport: u16,
}

impl Outer {
    /// Of a tunnel of that kind, as `Interface.type` has it; `dport` where it is known, else the kind's own. None for a kind
    /// whose protocol is not known.
    pub(crate) fn of(kind: &str, peer: IpAddr, inbound: bool, dport: Option<u16>) -> Option<Self> {
        let (proto, usual) = match kind {
            "vxlan" => (UDP, VXLAN_PORT),
            "geneve" => (UDP, GENEVE_PORT),
            "gre" | "ip6gre" | "erspan" | "ip6erspan" => (GRE, NO_PORT),
            _ => return None,
        };
        let dport = dport.filter(|port| proto == UDP && *port != 0).unwrap_or(usual);
        Some(Self { peer, inbound, proto, dport })
    }
}

/// The host's policies, to be asked about tunnels.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Protection {
    // By the peer where a policy is about one alone, as those of tunnels are: there may be thousands.
    of_peer: BTreeMap<IpAddr, Vec<IpsecPolicy>>,
    wide: Vec<IpsecPolicy>,
}

impl Protection {
    pub(crate) fn new(policies: Vec<IpsecPolicy>) -> Self {
        let mut protection = Self::default();
        for policy in policies {
            let peers = match policy.peer {
                Some(Prefix { address: address @ IpAddr::V4(_), bits: 32 }) => Some(address),
                Some(Prefix { address: address @ IpAddr::V6(_), bits: 128 }) => Some(address),
                _ => None,
            };
            match peers {
                Some(peer) => protection.of_peer.entry(peer).or_default().push(policy),
                None => protection.wide.push(policy),
            }
        }
        protection
    }

    /// Whether packets of a tunnel are encrypted: what the first policy that is about them says; without one they are not.
    pub(crate) fn encrypts(&self, outer: &Outer) -> bool {
        let whole = self.about(outer).filter(|policy| !policy.partly);
        whole.min_by_key(|policy| policy.priority).is_some_and(|policy| policy.encrypts)
    }

    /// Whether the host's own stack encrypts or drops packets of a tunnel, or some of them. A NIC that makes the tunnel in hardware
    /// would send them as they are, and take in what the host would not.
    pub(crate) fn needs_host(&self, outer: &Outer) -> bool {
        let whole = self.about(outer).filter(|policy| !policy.partly);
        let first = whole.min_by_key(|policy| policy.priority);
        let comes_before =
            |policy: &&IpsecPolicy| first.is_none_or(|first| policy.priority <= first.priority);
        self.about(outer)
            .filter(comes_before)
            .any(|policy| policy.in_host && (policy.partly || Some(policy) == first))
    }

    /// Whether the host's own stack encrypts or drops anything.
    pub(crate) fn has_host(&self) -> bool {
        self.of_peer.values().flatten().chain(&self.wide).any(|policy| policy.in_host)
    }

    fn about(&self, outer: &Outer) -> impl Iterator<Item = &IpsecPolicy> {
        let near = self.of_peer.get(&outer.peer).into_iter().flatten();
        near.chain(&self.wide).filter(move |policy| policy.takes(outer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    fn peer(last: u8) -> IpAddr {
        [192, 0, 2, last].into()
    }

    fn policy(priority: u32, peers: Option<(u8, u8)>, dport: (u16, u16), encrypts: bool) -> IpsecPolicy {
        let prefix = |(last, bits)| Prefix { address: peer(last), bits };
        let peer = peers.map(prefix);
        IpsecPolicy {
            priority,
            inbound: false,
            peer,
            proto: UDP,
            dport,
            encrypts,
            in_host: encrypts,
            partly: false,
        }
    }

    fn geneve(last: u8) -> Outer {
        Outer::of("geneve", peer(last), false, None).expect("it is known")
    }

    #[test]
    fn a_tunnel_is_encrypted_by_the_policy_that_comes_first() {
        let protection = Protection::new(vec![
            policy(20, Some((0, 24)), (GENEVE_PORT, !0), true),
            policy(10, Some((2, 32)), (GENEVE_PORT, !0), false),
            policy(30, Some((2, 32)), (0, 0), true),
        ]);
        assert!(!protection.encrypts(&geneve(2)), "the one with the lowest number lets it pass");
        assert!(protection.encrypts(&geneve(3)));
        let vxlan = Outer::of("vxlan", peer(2), false, None).expect("it is known");
        assert!(protection.encrypts(&vxlan), "the one of every port");
        let other = Outer::of("geneve", peer(3), false, Some(7777)).expect("it is known");
        assert!(!protection.encrypts(&other), "a port that no policy is about");
    }

    #[test]
    fn a_tunnel_needs_the_host_unless_a_nic_has_the_policy_that_comes_first() {
        let of_all = policy(20, Some((2, 32)), (GENEVE_PORT, !0), true);
        let in_nic = IpsecPolicy { priority: 10, in_host: false, ..of_all };
        let drops_some = IpsecPolicy { priority: 30, encrypts: false, in_host: true, partly: true, ..of_all };
        let needs = |policies: &[IpsecPolicy]| Protection::new(policies.to_vec()).needs_host(&geneve(2));
        assert!(!needs(&[]));
        assert!(needs(&[of_all]), "software encrypts it");
        assert!(!needs(&[in_nic, of_all, drops_some]), "what comes after it is about nothing any more");
        assert!(needs(&[drops_some]), "the NIC's is gone, and the host drops");
        assert!(needs(&[in_nic, IpsecPolicy { priority: 5, ..drops_some }]));
        assert!(!Protection::new(vec![drops_some]).encrypts(&geneve(2)));
    }

    #[test]
    fn packets_in_the_other_direction_or_of_another_protocol_are_not_concerned() {
        let protection = Protection::new(vec![policy(1, Some((2, 32)), (0, 0), true)]);
        let of = |kind, inbound| Outer::of(kind, peer(2), inbound, None).expect("it is known");
        assert!(protection.encrypts(&of("vxlan", false)));
        assert!(!protection.encrypts(&of("vxlan", true)));
        assert!(!protection.encrypts(&of("gre", false)));
        assert_eq!(Outer::of("bareudp", peer(2), false, None), None, "nobody knows its port");
    }
}
