//! Connections that were loaded, and which of them a peer cannot tell from which: the children of those are in each other's messages.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipsec_drive::strongswan::{self, Certificates};
use ipsec_drive::vici::Builder;
use ipsec_drive::{Connection, ConnectionName};

type Ends = (Option<IpAddr>, IpAddr);

/// What was loaded in this session.
#[derive(Debug, Default)]
pub(super) struct Beside {
    loaded: BTreeMap<ConnectionName, (Connection, Certificates)>,
    between: BTreeMap<Ends, BTreeSet<ConnectionName>>,
}

fn ends(connection: &Connection) -> Ends {
    (connection.local, connection.remote)
}

impl Beside {
    /// Those that are beside a connection.
    pub(super) fn of(&self, connection: &Connection) -> BTreeSet<ConnectionName> {
        self.beside(connection).map(|beside| beside.name.clone()).collect()
    }

    fn beside(&self, connection: &Connection) -> impl Iterator<Item = &Connection> {
        let names = self.between.get(&ends(connection)).into_iter().flatten();
        let all = names.filter_map(|name| self.loaded.get(name)).map(|(other, _)| other);
        all.filter(|other| other.is_beside(connection))
    }

    /// A connection is loaded, in place of what had its name; those that were beside that.
    pub(super) fn load(
        &mut self,
        connection: &Connection,
        certificates: Certificates,
    ) -> BTreeSet<ConnectionName> {
        let name = &connection.name;
        let before = self.loaded.insert(name.clone(), (connection.clone(), certificates));
        self.between.entry(ends(connection)).or_default().insert(name.clone());
        before.map(|(before, _)| self.of(&before)).unwrap_or_default()
    }

    /// A connection is taken out; those that were beside it.
    pub(super) fn unload(&mut self, name: &ConnectionName) -> BTreeSet<ConnectionName> {
        let Some((connection, _)) = self.loaded.remove(name) else { return BTreeSet::new() };
        if let Some(names) = self.between.get_mut(&ends(&connection)) {
            names.remove(name);
            if names.is_empty() {
                self.between.remove(&ends(&connection));
            }
        }
        self.of(&connection)
    }

    /// The message that loads a connection as it is known; none of one that was not loaded.
    pub(super) fn message(&self, name: &ConnectionName) -> Option<Builder> {
        let (connection, certificates) = self.loaded.get(name)?;
        let beside: Vec<&Connection> = self.beside(connection).collect();
        Some(strongswan::load_conn(connection, certificates, &beside))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ipsec_drive::vici::Section;
    use ipsec_drive::{Host, Offload, TunnelRow};

    fn connection(kind: &str, psk: &str) -> Connection {
        let options = [("psk", psk), ("remote_ip", "192.0.2.2"), ("local_ip", "192.0.2.1")];
        let options = options.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        let row = TunnelRow::read("tun0", kind, &options).unwrap();
        let wanted = ipsec_drive::wanted(&[row], &Host::default(), Offload::None);
        wanted.connections.into_values().next().unwrap()
    }

    #[test]
    fn what_changes_of_one_is_in_the_messages_of_those_beside_it() {
        let [geneve, vxlan] = ["geneve", "vxlan"].map(|kind| connection(kind, "one"));
        let mut known = Beside::default();
        let children = |known: &Beside, of: &Connection| {
            let read = Section::read(known.message(&of.name).unwrap().bytes()).unwrap();
            read.section(of.name.as_str()).unwrap().section("children").unwrap().sections().count()
        };
        let none = BTreeSet::new();
        assert_eq!(known.load(&geneve, Certificates::default()), none);
        assert_eq!((known.of(&geneve), children(&known, &geneve)), (none.clone(), 2));
        assert_eq!(known.of(&vxlan), [geneve.name.clone()].into());
        known.load(&vxlan, Certificates::default());
        assert_eq!([children(&known, &geneve), children(&known, &vxlan)], [4, 4]);

        // With another key the peer can tell, and the other has to forget it.
        let other = connection("vxlan", "two");
        assert_eq!(known.load(&other, Certificates::default()), [geneve.name.clone()].into());
        assert_eq!([children(&known, &geneve), children(&known, &vxlan)], [2, 2]);
        known.load(&vxlan, Certificates::default());
        assert_eq!(known.unload(&vxlan.name), [geneve.name.clone()].into());
        assert_eq!(children(&known, &geneve), 2);
        assert!(known.message(&vxlan.name).is_none());
        assert_eq!(known.unload(&geneve.name), none);
        assert!(known.between.is_empty());
    }
}
