//! Where the rules of shadow mode are, and what they are called.
//!
//! All of them are in chain 0 of their port's ingress hook, at the last of the priorities that every NIC has (mlx5 has 16
//! where it cannot ignore flow levels, `FDB_TC_MAX_PRIO`): what else filters packets there, from priority 1 on as a rule,
//! was asked before Open vSwitch's datapath got them, and still is. Flower takes one protocol per priority, so that each
//! Ethernet type has one of its own, the same with every start.
//!
//! Rules of one priority are not ordered, and need not be: a packet fits at most one megaflow of its datapath
//! (`Documentation/networking/openvswitch.rst` of Linux: «It is the responsibility of the user space program to ensure
//! that any incoming packet can match at most one flow, wildcarded or not»), a rule never takes a packet that its megaflow
//! would not, and a packet has one outermost Ethernet type. Where Open vSwitch leaves two megaflows that overlap for a
//! moment, as its tables change, they do the same, or neither has a rule (`overlap.rs`).
//!
//! Open vSwitch has no filter there: shadow mode is for `hw-offload=false`. Its policer of a port is at priority 1.

use netlink_wire::{EtherType, Ufid};
use tc_flower::{Chain, Cookie, FilterReport, Prio};

/// The chain of every rule.
pub const CHAIN: Chain = Chain(0);

/// Ethernet types of rules, in the order of their priorities.
const PROTOCOLS: [EtherType; 8] = [
    EtherType::IPV4,
    EtherType::IPV6,
    EtherType::VLAN,
    EtherType::QINQ,
    EtherType::ARP,
    RARP,
    EtherType::MPLS,
    EtherType::MPLS_MULTICAST,
];

/// `ETH_P_RARP`
pub(super) const RARP: EtherType = EtherType(0x8035);

/// The first of the priorities.
const FIRST: u16 = 9;

/// The priority of rules for this outermost Ethernet type, where there is one.
pub fn prio(protocol: EtherType) -> Option<Prio> {
    let at = PROTOCOLS.iter().position(|known| *known == protocol)?;
    Some(Prio(FIRST + u16::try_from(at).ok()?))
}

/// Whether rules of shadow mode are at this priority of chain 0.
pub fn is_ours(prio: Prio) -> bool {
    (FIRST..FIRST + PROTOCOLS.len() as u16).contains(&prio.0)
}

/// How a cookie of shadow mode begins.
const TAG: [u8; 4] = *b"shdw";
/// Bytes of the megaflow's id in a cookie.
const ID: usize = 11;

/// The megaflow that a rule of shadow mode was made from, as far as a cookie has room for it: the first 88 bits of its id.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Origin([u8; ID]);

impl Origin {
    /// That of rules made from this megaflow.
    pub fn of(ufid: Ufid) -> Self {
        let mut id = [0; ID];
        id.copy_from_slice(&ufid.as_bytes()[..ID]);
        Self(id)
    }

    /// What a cookie says, if it is of shadow mode.
    pub fn from_cookie(cookie: &Cookie) -> Option<Self> {
        let id = cookie.as_bytes().strip_prefix(&TAG)?;
        id.try_into().ok().map(Self)
    }

    /// What a filter's actions say.
    pub fn of_filter(report: &FilterReport) -> Option<Self> {
        report.actions.iter().find_map(|reported| Self::from_cookie(&reported.action.cookie?))
    }

    /// The cookie. One byte short of a megaflow's id, so that nobody takes it for Open vSwitch's.
    pub fn cookie(self) -> Cookie {
        let mut bytes = [0; TAG.len() + ID];
        bytes[..TAG.len()].copy_from_slice(&TAG);
        bytes[TAG.len()..].copy_from_slice(&self.0);
        Cookie::from(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_protocol_has_a_priority_of_its_own() {
        let prios: alloc::collections::BTreeSet<_> = PROTOCOLS.iter().filter_map(|of| prio(*of)).collect();
        assert_eq!(prios.len(), PROTOCOLS.len());
        assert!(prios.iter().all(|prio| is_ours(*prio)));
        assert!(prios.iter().all(|prio| prio.0 <= 16), "FDB_TC_MAX_PRIO");
        assert_eq!(prio(EtherType(0x88cc)), None);
        assert!(!is_ours(Prio(1)) && !is_ours(Prio(u16::MAX)));
    }

    #[test]
    fn a_cookie_names_its_megaflow_and_is_not_taken_for_one_of_open_vswitch() {
        let ufid = Ufid::from_bytes(*b"0123456789abcdef");
        let cookie = Origin::of(ufid).cookie();
        assert_eq!(cookie.ufid(), None);
        assert_eq!(Origin::from_cookie(&cookie), Some(Origin::of(ufid)));
        assert_ne!(Origin::of(ufid), Origin::of(Ufid::from_bytes(*b"0123456789Abcdef")));
        assert_eq!(Origin::from_cookie(&Cookie::from(ufid)), None);
    }
}
