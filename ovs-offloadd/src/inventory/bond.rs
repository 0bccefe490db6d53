//! Bonds: which member is used, and how often that changed.

use std::mem;

use netlink_wire::Ifindex;
use netlink_wire::link::{BondMember, Link};

use super::Inventory;

/// Moves that are kept until they are taken; further ones are counted and not told.
const MOVES_MAX: usize = 64;

/// What is remembered of a bond.
#[derive(Debug, Default)]
pub(super) struct BondLife {
    /// The member that was the active one last; also while there is none.
    active: Option<Ifindex>,
    /// How often another one took its place.
    pub(super) failovers: u64,
}

/// A bond's traffic goes another way from now on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failover {
    /// The bond's name.
    pub bond: String,
    /// The member that was used until now.
    pub from: String,
    /// The one that is used in its place; none where the bond spreads traffic over all that are left.
    pub to: Option<String>,
}

impl Inventory {
    /// Bonds that changed the member they use since this was last asked.
    pub fn take_failovers(&mut self) -> Vec<Failover> {
        mem::take(&mut self.failovers)
    }

    /// A link has become what it is now. To be called when that is in the table.
    pub(super) fn follow_bond(&mut self, ifindex: Ifindex, old: Option<&Link>) {
        let Some(new) = self.links.get(&ifindex) else {
            self.bonds.remove(&ifindex);
            return;
        };
        if let Some(bond) = new.bond {
            let life = self.bonds.entry(ifindex).or_default();
            let Some(active) = bond.active else { return };
            // A new bond chooses its first one.
            if let Some(before) = life.active.replace(active).filter(|before| *before != active) {
                life.failovers += 1;
                self.tell_failover(ifindex, before, Some(active));
            }
            return;
        }
        // In modes that have no active member every one carries traffic that may.
        let master = new.master.filter(|master| old.and_then(|old| old.master) == Some(*master));
        let Some(master) = master else { return };
        let spreads =
            self.links.get(&master).and_then(|link| link.bond).is_some_and(|bond| bond.active.is_none());
        let is_used = |state: Option<BondMember>| state.is_some_and(|state| state.active && state.link_up);
        let lost = is_used(old.and_then(|old| old.bond_member)) && !is_used(new.bond_member);
        let others = self.members(master).any(|member| is_used(member.bond_member));
        let knew_another = self.bonds.get(&master).is_some_and(|life| life.active.is_some());
        if spreads && lost && others && !knew_another {
            self.bonds.entry(master).or_default().failovers += 1;
            self.tell_failover(master, ifindex, None);
        }
    }

    fn tell_failover(&mut self, bond: Ifindex, from: Ifindex, to: Option<Ifindex>) {
        let name = |ifindex: Ifindex| {
            let name = self.links.get(&ifindex).and_then(|link| link.name.as_deref());
            name.map_or_else(|| ifindex.to_string(), str::to_owned)
        };
        let failover = Failover { bond: name(bond), from: name(from), to: to.map(name) };
        if self.failovers.len() < MOVES_MAX {
            self.failovers.push(failover);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use netlink_wire::link::{Bond, BondMode};

    const BOND: Ifindex = Ifindex(40);

    fn bond(mode: u8, active: Option<u32>) -> Link {
        let bond = Bond { mode: BondMode(mode), active: active.map(Ifindex) };
        let (name, kind) = (Some("bond0".into()), Some("bond".into()));
        Link { ifindex: BOND, name, kind, bond: Some(bond), ..Link::default() }
    }

    fn member(ifindex: u32, active: bool, link_up: bool) -> Link {
        let bond_member = Some(BondMember { active, link_up });
        let name = Some(format!("p{ifindex}").into());
        Link { ifindex: Ifindex(ifindex), name, master: Some(BOND), bond_member, ..Link::default() }
    }

    fn count(inventory: &Inventory) -> u64 {
        inventory.bonds.get(&BOND).map_or(0, |life| life.failovers)
    }

    #[test]
    fn a_failover_is_another_active_member_and_not_the_first_one() {
        let mut inventory = Inventory::default();
        for link in [bond(1, None), member(1, true, true), member(2, false, true), bond(1, Some(1))] {
            inventory.link(link);
        }
        assert_eq!((count(&inventory), inventory.take_failovers()), (0, vec![]));
        // The members are told of before or after, and the bond may be without one for a while.
        for link in [
            member(1, false, false),
            bond(1, None),
            bond(1, Some(2)),
            member(2, true, true),
            bond(1, Some(2)),
        ] {
            inventory.link(link);
        }
        let moved = Failover { bond: "bond0".into(), from: "p1".into(), to: Some("p2".into()) };
        assert_eq!((count(&inventory), inventory.take_failovers()), (1, vec![moved]));
        assert_eq!(inventory.take_failovers(), []);
        inventory.link(bond(1, None));
        inventory.link(bond(1, Some(2)));
        assert_eq!(count(&inventory), 1, "it came back to the same");
        inventory.link(Link { deleted: true, ..bond(1, None) });
        inventory.link(bond(1, Some(1)));
        assert_eq!(count(&inventory), 0, "another bond");
    }

    #[test]
    fn where_all_members_are_used_a_failover_is_one_that_is_lost_while_another_is_left() {
        let mut inventory = Inventory::default();
        for link in [bond(4, None), member(1, true, true), member(2, true, true)] {
            inventory.link(link);
        }
        inventory.link(member(1, true, false));
        inventory.link(member(1, false, false));
        let moved = Failover { bond: "bond0".into(), from: "p1".into(), to: None };
        assert_eq!((count(&inventory), inventory.take_failovers()), (1, vec![moved]));
        inventory.link(member(2, false, true));
        assert_eq!(count(&inventory), 1, "there is none to go on by");
    }
}
