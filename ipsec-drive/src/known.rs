//! What charon has, as it was listed and as it has told since.
//!
//! Listing children costs: charon asks the kernel for the counters of each, which for thousands takes it seconds. What it tells by itself
//! comes in the order in which it happened and, where the list is asked for on the same connection, between those of its rows that were
//! before and those that were after it.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::String;

use crate::listed::{self, ChildSa, IkeSa, Told};
use crate::vici::Section;
use crate::{ConnectionName, There};

/// IKE SAs and children, by number.
#[derive(Debug, Default)]
pub struct Known {
    /// Connections of our names: what was listed, and what was loaded and taken out since.
    connections: BTreeSet<ConnectionName>,
    ikes: BTreeMap<u32, Row<IkeSa>>,
    children: BTreeMap<u32, Row<Child>>,
    /// Initiated since IKE SAs were listed: what is to be seen of it is not yet.
    initiated: BTreeSet<ConnectionName>,
    /// The number of the list that is read, or was last.
    list: u64,
}

#[derive(Debug)]
struct Row<T> {
    is: T,
    /// The last list that had it, or during which it was told of.
    list: u64,
}

#[derive(Debug)]
struct Child {
    ike: u32,
    is: ChildSa,
}

/// What a list has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// IKE SAs alone.
    IkeSas,
    /// Children, too.
    Everything,
}

impl Known {
    /// A list is asked for.
    pub fn begin(&mut self) {
        self.list += 1;
        self.initiated.clear();
    }

    /// A row of it.
    pub fn row(&mut self, extent: Extent, event: &Section) {
        for (ike, children) in listed::ike_sas(event) {
            let id = ike.id;
            self.note_ike(ike);
            if extent == Extent::Everything {
                children.into_iter().for_each(|child| self.note_child(id, child));
            }
        }
    }

    /// It has ended: what it does not have is gone.
    pub fn end(&mut self, extent: Extent, connections: BTreeSet<ConnectionName>) {
        self.connections = connections;
        self.ikes.retain(|_, row| row.list == self.list);
        if extent == Extent::Everything {
            self.children.retain(|_, row| row.list == self.list);
        }
    }

    /// Something was told, whether a list is read or not. Returns whether it was understood; where it was not, a list is due.
    pub fn told(&mut self, name: &str, event: &Section) -> bool {
        let Some(told) = listed::told(name, event) else { return false };
        match told {
            Told::IkeUp(ike) => self.note_ike(ike),
            Told::IkeDown(id) => {
                self.ikes.remove(&id);
                self.children.retain(|_, child| child.is.ike != id);
            }
            Told::IkeRekeyed { old, new } => {
                self.ikes.remove(&old);
                for child in self.children.values_mut().filter(|child| child.is.ike == old) {
                    (child.is.ike, child.list) = (new.id, self.list);
                }
                self.note_ike(new);
            }
            Told::ChildUp(ike, child) => {
                let id = ike.id;
                self.note_ike(ike);
                self.note_child(id, child);
            }
            Told::ChildDown(id) => drop(self.children.remove(&id)),
            Told::ChildRekeyed { ike, old, new } => {
                let id = ike.id;
                self.note_ike(ike);
                self.terminated(old);
                self.note_child(id, new);
            }
        }
        true
    }

    /// A connection was loaded.
    pub fn loaded(&mut self, name: &ConnectionName) {
        self.connections.insert(name.clone());
    }

    /// A connection was taken out.
    pub fn unloaded(&mut self, name: &ConnectionName) {
        self.connections.remove(name);
    }

    /// A child of a connection was asked for.
    pub fn initiated(&mut self, name: &ConnectionName) {
        self.initiated.insert(name.clone());
    }

    /// A child is on its way out, by number: that it is gone is told when its peer has answered.
    pub fn terminated(&mut self, child: u32) {
        if let Some(child) = self.children.get_mut(&child) {
            child.is.is.is_installed = false;
        }
    }

    /// All of it.
    pub fn there(&self) -> There {
        let of = |is: fn(&IkeSa) -> bool| -> BTreeSet<String> {
            let all = self.ikes.values().filter(|row| is(&row.is));
            all.map(|row| row.is.connection.clone()).collect()
        };
        let mut negotiating = of(|ike| ike.is_negotiating);
        negotiating.extend(self.initiated.iter().map(|name| name.as_str().into()));
        There {
            connections: self.connections.clone(),
            children: self.children.values().map(|row| row.is.is.clone()).collect(),
            negotiating,
            established: of(|ike| ike.is_established),
            ..There::default()
        }
    }

    fn note_ike(&mut self, is: IkeSa) {
        self.ikes.insert(is.id, Row { is, list: self.list });
    }

    fn note_child(&mut self, ike: u32, is: ChildSa) {
        self.children.insert(is.id, Row { is: Child { ike, is }, list: self.list });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vici::Builder;
    use alloc::string::ToString as _;
    use alloc::vec::Vec;

    fn event(write: impl FnOnce(&mut Builder)) -> Section {
        let mut event = Builder::default();
        write(&mut event);
        Section::read(event.bytes()).unwrap()
    }

    fn write_ike(ike: &mut Builder, id: u32, tasks: &[&str], children: &[u32]) {
        ike.value("uniqueid", id.to_string()).value("state", "ESTABLISHED").list("tasks-active", tasks);
        ike.section("child-sas", |all| {
            for child in children {
                all.section("c", |sa| write_child(sa, *child));
            }
        });
    }

    fn write_child(sa: &mut Builder, id: u32) {
        sa.value("name", "offloadd-x-in").value("uniqueid", id.to_string()).value("state", "INSTALLED");
    }

    fn ike(id: u32, tasks: &[&str], children: &[u32]) -> Section {
        event(|event| {
            event.section("offloadd-x", |ike| write_ike(ike, id, tasks, children));
        })
    }

    fn up(id: u32, children: &[u32]) -> Section {
        event(|event| {
            event.value("up", "yes");
            event.section("offloadd-x", |ike| write_ike(ike, id, &[], children));
        })
    }

    fn rekeyed(old: u32, new: u32) -> Section {
        event(|event| {
            event.section("offloadd-x", |ike| {
                ike.value("uniqueid", "1").value("state", "ESTABLISHED");
                ike.section("child-sas", |all| {
                    all.section("offloadd-x-in", |both| {
                        both.section("old", |sa| write_child(sa, old));
                        both.section("new", |sa| write_child(sa, new));
                    });
                });
            });
        })
    }

    fn ike_rekeyed(old: u32, new: u32) -> Section {
        event(|event| {
            event.section("offloadd-x", |both| {
                both.section("old", |ike| write_ike(ike, old, &[], &[]));
                both.section("new", |ike| write_ike(ike, new, &[], &[]));
            });
        })
    }

    /// Numbers of children, and whether packets can use them.
    fn children(known: &Known) -> Vec<(u32, bool)> {
        known.there().children.iter().map(|child| (child.id, child.is_installed)).collect()
    }

    fn name() -> ConnectionName {
        ConnectionName::ours("offloadd-x").unwrap()
    }

    fn list(known: &mut Known, extent: Extent, rows: &[Section]) {
        known.begin();
        rows.iter().for_each(|row| known.row(extent, row));
        known.end(extent, [name()].into());
    }

    #[test]
    fn what_comes_and_goes_between_lists_is_known() {
        let mut known = Known::default();
        list(&mut known, Extent::Everything, &[ike(1, &[], &[3])]);
        assert!(known.told("child-updown", &up(1, &[4])));
        assert!(known.told("child-rekey", &rekeyed(3, 5)));
        assert_eq!(children(&known), [(3, false), (4, true), (5, true)]);
        assert!(known.told("child-updown", &ike(1, &[], &[4])), "without `up` it goes");
        known.terminated(5);
        assert_eq!(children(&known), [(3, false), (5, false)]);
        // That a child which was rekeyed is gone is not told: a list tells.
        list(&mut known, Extent::Everything, &[ike(1, &[], &[6])]);
        assert_eq!(children(&known), [(6, true)]);
        assert!(known.told("ike-updown", &ike(1, &[], &[])));
        assert_eq!(known.there(), There { connections: [name()].into(), ..There::default() });
    }

    #[test]
    fn a_list_without_children_leaves_them_and_tells_what_is_negotiated() {
        let mut known = Known::default();
        list(&mut known, Extent::Everything, &[ike(1, &["CHILD_CREATE"], &[3])]);
        assert_eq!(known.there().negotiating.len(), 1);
        list(&mut known, Extent::IkeSas, &[ike(1, &[], &[])]);
        assert_eq!((known.there().negotiating.len(), known.there().established.len()), (0, 1));
        assert_eq!(children(&known), [(3, true)]);
        list(&mut known, Extent::IkeSas, &[]);
        assert_eq!(known.there().established.len(), 0);
    }

    #[test]
    fn what_was_initiated_is_negotiated_until_a_list_says_otherwise() {
        let mut known = Known::default();
        list(&mut known, Extent::Everything, &[]);
        known.initiated(&name());
        assert!(known.there().negotiating.contains("offloadd-x"));
        list(&mut known, Extent::IkeSas, &[]);
        assert!(known.there().negotiating.is_empty());
    }

    #[test]
    fn what_happens_while_a_list_is_read_is_after_its_row_and_before_those_to_come() {
        let mut known = Known::default();
        list(&mut known, Extent::Everything, &[ike(1, &[], &[3]), ike(2, &[], &[4])]);
        known.begin();
        known.row(Extent::Everything, &ike(1, &[], &[3]));
        known.told("child-updown", &ike(1, &[], &[3]));
        known.told("child-updown", &up(1, &[7]));
        // It is listed neither as the one nor as the other: the one has gone, and the other is where the list has been.
        known.told("ike-rekey", &ike_rekeyed(2, 9));
        known.end(Extent::Everything, [name()].into());
        assert_eq!(children(&known), [(4, true), (7, true)]);
        assert!(known.told("ike-updown", &ike(9, &[], &[])));
        assert_eq!(children(&known), [(7, true)], "children go with the IKE SA that has them now");
    }

    #[test]
    fn what_is_not_understood_makes_a_list_due() {
        let mut known = Known::default();
        assert!(!known.told("child-updown", &event(|_| {})));
        known.loaded(&name());
        known.unloaded(&name());
        assert_eq!(known.there(), There::default());
    }
}
