//! What of a megaflow's traffic is counted together: how far it travels, and the namespace it belongs to.

use crate::counters::Traffic;
use alloc::string::String;
use alloc::vec::Vec;
use policies::language::{Locality, Subject};

/// Namespaces that are counted apart; what belongs to more of them is counted as one.
pub const NAMESPACES_MAX: usize = 64;
/// The name under which the rest is counted. No namespace can be called so.
pub const OTHER_NAMESPACES: &str = "(other)";

/// All localities, in the order of their totals.
const LOCALITIES: [Locality; 4] =
    [Locality::SameNode, Locality::CrossNode, Locality::External, Locality::Unknown];

/// A namespace that is counted: its place in [`Standings`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct NamespaceIndex(u8);

/// What a megaflow counts for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Standing {
    locality: Locality,
    /// Nothing for a megaflow of no namespace, or of one that is not known.
    namespace: Option<NamespaceIndex>,
}

/// Totals by locality and by namespace.
#[derive(Clone, Debug, Default)]
pub(crate) struct Standings {
    localities: [Traffic; LOCALITIES.len()],
    namespaces: Vec<(String, Traffic)>,
}

impl Standings {
    /// What a megaflow counts for from now on.
    pub(crate) fn of(&mut self, subject: &Subject<'_>) -> Standing {
        let namespace = subject.namespace.filter(|name| !name.is_empty()).map(|name| self.index(name));
        Standing { locality: subject.locality, namespace }
    }

    fn index(&mut self, name: &str) -> NamespaceIndex {
        let position = |name: &str| self.namespaces.iter().position(|(known, _)| known == name);
        let name = match position(name) {
            None if self.namespaces.len() >= NAMESPACES_MAX => OTHER_NAMESPACES,
            _ => name,
        };
        let index = position(name).unwrap_or_else(|| {
            self.namespaces.push((name.into(), Traffic::default()));
            self.namespaces.len() - 1
        });
        NamespaceIndex(u8::try_from(index).unwrap_or(u8::MAX))
    }

    /// Counts what a megaflow moved.
    pub(crate) fn account(&mut self, standing: Standing, moved: Traffic) {
        if let Some(index) = LOCALITIES.iter().position(|locality| *locality == standing.locality)
            && let Some(total) = self.localities.get_mut(index)
        {
            *total += moved;
        }
        if let Some(NamespaceIndex(index)) = standing.namespace
            && let Some((_, total)) = self.namespaces.get_mut(usize::from(index))
        {
            *total += moved;
        }
    }

    /// What moved since the engine started, by how far it travelled.
    pub(crate) fn localities(&self) -> impl Iterator<Item = (Locality, Traffic)> {
        LOCALITIES.into_iter().zip(self.localities)
    }

    /// What moved since the engine started, by namespace, in the order of their first appearance.
    pub(crate) fn namespaces(&self) -> impl Iterator<Item = (&str, Traffic)> {
        self.namespaces.iter().map(|(name, total)| (name.as_str(), *total))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counters::Count;
    use alloc::format;

    fn moved(packets: u64) -> Traffic {
        Traffic { software: Count::new(packets, packets * 100), ..Traffic::default() }
    }

    fn of_namespace(name: &str) -> Subject<'_> {
        let mut subject = Subject::default();
        subject.namespace = Some(name);
        subject
    }

    #[test]
    fn more_namespaces_than_are_counted_apart_are_counted_as_one() {
        let mut standings = Standings::default();
        for number in 0..NAMESPACES_MAX + 10 {
            let name = format!("ns-{number}");
            let standing = standings.of(&of_namespace(&name));
            standings.account(standing, moved(1));
        }
        let totals: Vec<_> =
            standings.namespaces().map(|(name, total)| (name, total.software.packets)).collect();
        assert_eq!(totals.len(), NAMESPACES_MAX + 1);
        assert_eq!((totals[0], totals[NAMESPACES_MAX]), (("ns-0", 1), (OTHER_NAMESPACES, 10)));
        let unknown = standings.localities().find(|(locality, _)| *locality == Locality::Unknown);
        assert_eq!(unknown.map(|(_, total)| total.software.packets), Some(NAMESPACES_MAX as u64 + 10));
    }

    #[test]
    fn a_namespace_that_is_known_stays_apart_when_there_is_no_room_for_more() {
        let mut standings = Standings::default();
        for number in 0..NAMESPACES_MAX {
            standings.of(&of_namespace(&format!("ns-{number}")));
        }
        let standing = standings.of(&of_namespace("ns-5"));
        standings.account(standing, moved(3));
        let of_five = standings.namespaces().find(|(name, _)| *name == "ns-5");
        assert_eq!(of_five.map(|(_, total)| total.software.packets), Some(3));
    }
}
