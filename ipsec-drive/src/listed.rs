//! What charon lists of its IKE SAs and their children, and what it tells of them by itself (`vici_query.c` of strongSwan 6.0.1).

use alloc::string::{String, ToString as _};
use alloc::vec::Vec;
use core::net::IpAddr;

use crate::ConnectionName;
use crate::vici::{Builder, Section};

/// What is told of by itself. Whatever is said of children is said by these: that a child which was rekeyed is gone by none.
pub const EVENTS: [&str; 4] = ["ike-updown", "child-updown", "child-rekey", "ike-rekey"];

/// No child has this name: parentheses are not of ours.
const NO_CHILD: &str = "(none)";

/// The message of `list-sas` for IKE SAs without their children, for each of which the kernel would be asked. A charon that knows no such
/// selection lists them all the same.
pub fn list_without_children() -> Builder {
    let mut message = Builder::default();
    message.value("child", NO_CHILD);
    message
}

/// A child as strongSwan has it, with its security associations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChildSa {
    /// The connection's name, whoever loaded it; of ours that which the child is of, whichever beside it has the IKE SA.
    pub connection: String,
    /// The child's.
    pub child: String,
    /// strongSwan's number of it.
    pub id: u32,
    /// Whether packets can use it: it is neither asked for still, nor on its way out.
    pub is_installed: bool,
    /// Our end.
    pub local: Option<IpAddr>,
    /// The peer's.
    pub remote: Option<IpAddr>,
    /// SPI of what comes in and of what goes out; none while there is none.
    pub spis: [Option<u32>; 2],
}

/// An IKE SA as strongSwan has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IkeSa {
    /// The name of the connection that it was made for, whoever loaded it.
    pub connection: String,
    /// strongSwan's number of it.
    pub id: u32,
    /// It is negotiated at this moment: the whole of it, or a child.
    pub is_negotiating: bool,
    /// Its ends know each other.
    pub is_established: bool,
}

impl IkeSa {
    fn read(connection: &str, ike: &Section) -> Self {
        let state = ike.value("state");
        let mut tasks = ["tasks-queued", "tasks-active"].into_iter().flat_map(|key| ike.list(key));
        Self {
            connection: connection.to_string(),
            id: number(ike),
            is_negotiating: state == Some("CONNECTING") || tasks.any(|task| task == "CHILD_CREATE"),
            is_established: matches!(state, Some("ESTABLISHED" | "REKEYING" | "REKEYED")),
        }
    }
}

fn number(section: &Section) -> u32 {
    section.value("uniqueid").and_then(|id| id.parse().ok()).unwrap_or_default()
}

fn child_sa(connection: &str, ike: &Section, section: &str, child: &Section) -> ChildSa {
    let host = |key: &str| ike.value(key).and_then(|host| host.parse().ok());
    let spi = |key: &str| child.value(key).and_then(|spi| u32::from_str_radix(spi, 16).ok());
    let name = child.value("name").unwrap_or(section);
    let is_ours = ConnectionName::ours(connection).is_some();
    let of_child = ConnectionName::of_child(name).filter(|_| is_ours);
    ChildSa {
        connection: of_child.map_or_else(|| connection.to_string(), |of_child| of_child.to_string()),
        child: name.to_string(),
        id: number(child),
        is_installed: child.value("state") == Some("INSTALLED"),
        local: host("local-host"),
        remote: host("remote-host"),
        spis: [spi("spi-in"), spi("spi-out")],
    }
}

fn children(ike: &Section) -> impl Iterator<Item = (&str, &Section)> {
    ike.section("child-sas").into_iter().flat_map(Section::sections)
}

/// The IKE SAs of a `list-sa` event, each with those of its children that are in it.
pub fn ike_sas(event: &Section) -> Vec<(IkeSa, Vec<ChildSa>)> {
    let each = event.sections().map(|(connection, ike)| {
        let children = children(ike).map(|(section, child)| child_sa(connection, ike, section, child));
        (IkeSa::read(connection, ike), children.collect())
    });
    each.collect()
}

/// What charon has told of by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// The ends of an IKE SA know each other.
    IkeUp(IkeSa),
    /// An IKE SA is gone, by number, and its children.
    IkeDown(u32),
    /// Another has taken the place of an IKE SA, and its children.
    IkeRekeyed {
        /// The number of that which goes.
        old: u32,
        /// That which is there now.
        new: IkeSa,
    },
    /// A child is there.
    ChildUp(IkeSa, ChildSa),
    /// A child is gone, by number.
    ChildDown(u32),
    /// Another has taken the place of a child, which stays for what is still under way.
    ChildRekeyed {
        /// Whose they are.
        ike: IkeSa,
        /// The number of that which goes.
        old: u32,
        /// That which is there now.
        new: ChildSa,
    },
}

/// Reads an event of [these](EVENTS); none of another, or of one that is not as charon has it.
pub fn told(name: &str, event: &Section) -> Option<Told> {
    let (connection, ike) = event.sections().next()?;
    let is_up = event.value("up") == Some("yes");
    let of_child = |section: &str, child| child_sa(connection, ike, section, child);
    Some(match name {
        "ike-updown" if is_up => Told::IkeUp(IkeSa { is_established: true, ..IkeSa::read(connection, ike) }),
        "ike-updown" => Told::IkeDown(number(ike)),
        "ike-rekey" => Told::IkeRekeyed {
            old: number(ike.section("old")?),
            new: IkeSa::read(connection, ike.section("new")?),
        },
        "child-updown" => {
            let (section, child) = children(ike).next()?;
            match is_up {
                true => Told::ChildUp(IkeSa::read(connection, ike), of_child(section, child)),
                false => Told::ChildDown(number(child)),
            }
        }
        "child-rekey" => {
            let (section, both) = children(ike).next()?;
            let new = of_child(section, both.section("new")?);
            Told::ChildRekeyed { ike: IkeSa::read(connection, ike), old: number(both.section("old")?), new }
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(write: impl FnOnce(&mut Builder)) -> Section {
        let mut event = Builder::default();
        write(&mut event);
        Section::read(event.bytes()).unwrap()
    }

    fn child(name: &'static str, id: &'static str, state: &'static str) -> impl Fn(&mut Builder) {
        move |child| {
            child.value("name", name).value("uniqueid", id).value("state", state);
            child.value("spi-in", "c0de0001").value("spi-out", "000000ff");
        }
    }

    #[test]
    fn security_associations_are_read_from_what_is_listed() {
        let event = read(|event| {
            event.section("offloadd-gre-to-192_0_2_2", |ike| {
                ike.value("local-host", "192.0.2.1").value("remote-host", "192.0.2.2");
                ike.value("uniqueid", "7").value("state", "ESTABLISHED");
                ike.section("child-sas", |all| {
                    all.section("x-3", child("x", "3", "INSTALLED"));
                    all.section("x-4", |child| {
                        child.value("name", "x").value("state", "CREATED");
                    });
                });
            });
        });
        let (ike, children) = ike_sas(&event).remove(0);
        assert_eq!((ike.id, ike.is_established), (7, true));
        assert_eq!(children.len(), 2);
        assert_eq!((children[0].child.as_str(), children[0].id, children[0].is_installed), ("x", 3, true));
        assert_eq!(children[0].spis, [Some(0xc0de_0001), Some(0xff)]);
        assert_eq!(children[0].remote, Some([192, 0, 2, 2].into()));
        assert_eq!((children[1].is_installed, children[1].spis), (false, [None, None]));
    }

    #[test]
    fn a_child_is_that_connections_which_it_is_named_for() {
        let listed = |ike: &str, name: &str| {
            let event = read(|event| {
                event.section(ike, |ike| {
                    ike.section("child-sas", |all| {
                        all.section("c-1", |sa| {
                            sa.value("name", name);
                        });
                    });
                });
            });
            ike_sas(&event).remove(0).1.remove(0).connection
        };
        assert_eq!(listed("offloadd-vxlan-x", "offloadd-geneve-x-in"), "offloadd-geneve-x");
        assert_eq!(listed("offloadd-vxlan-x", "offloadd-gre-x"), "offloadd-gre-x");
        assert_eq!(listed("offloadd-vxlan-x", "theirs"), "offloadd-vxlan-x");
        assert_eq!(listed("theirs", "offloadd-gre-x-in"), "theirs");
    }

    #[test]
    fn what_is_negotiated_is_told_from_what_is_there() {
        let cases = [
            (("CONNECTING", "tasks-active", "IKE_AUTH"), true),
            (("ESTABLISHED", "tasks-queued", "CHILD_CREATE"), true),
            (("ESTABLISHED", "tasks-active", "CHILD_REKEY"), false),
        ];
        for ((state, tasks, task), expected) in cases {
            let event = read(|event| {
                event.section("offloadd-x", |ike| {
                    ike.value("state", state).list(tasks, [task]);
                });
            });
            let (ike, _) = ike_sas(&event).remove(0);
            assert_eq!((ike.is_established, ike.is_negotiating), (state == "ESTABLISHED", expected));
        }
    }

    #[test]
    fn what_is_told_names_what_comes_and_what_goes() {
        let of = |name: &str, is_up: bool, inside: &dyn Fn(&mut Builder)| {
            let event = read(|event| {
                if is_up {
                    event.value("up", "yes");
                }
                event.section("offloadd-x", |ike| {
                    ike.value("uniqueid", "7").value("state", "ESTABLISHED");
                    inside(ike);
                });
            });
            told(name, &event)
        };
        let nothing = |_: &mut Builder| {};
        let ike =
            IkeSa { connection: "offloadd-x".into(), id: 7, is_negotiating: false, is_established: true };
        assert_eq!(of("ike-updown", true, &nothing), Some(Told::IkeUp(ike.clone())));
        assert_eq!(of("ike-updown", false, &nothing), Some(Told::IkeDown(7)));
        let one = |ike: &mut Builder| {
            ike.section("child-sas", |all| {
                all.section("offloadd-x-in-3", child("offloadd-x-in", "3", "INSTALLED"));
            });
        };
        let Some(Told::ChildUp(up, has)) = of("child-updown", true, &one) else { panic!("it is not up") };
        assert_eq!((up, has.id, has.is_installed, has.spis[1]), (ike.clone(), 3, true, Some(0xff)));
        assert_eq!(of("child-updown", false, &one), Some(Told::ChildDown(3)));
        let both = |ike: &mut Builder| {
            ike.section("child-sas", |all| {
                all.section("offloadd-x-in", |both| {
                    both.section("old", child("offloadd-x-in", "3", "REKEYED"));
                    both.section("new", child("offloadd-x-in", "4", "INSTALLED"));
                });
            });
        };
        let rekeyed = of("child-rekey", false, &both);
        let Some(Told::ChildRekeyed { old, new, .. }) = rekeyed else { panic!("{rekeyed:?}") };
        assert_eq!((old, new.id, new.connection.as_str(), new.is_installed), (3, 4, "offloadd-x", true));
        let ikes = |ike: &mut Builder| {
            for (which, id) in [("old", "7"), ("new", "8")] {
                ike.section(which, |ike| {
                    ike.value("uniqueid", id).value("state", "ESTABLISHED");
                });
            }
        };
        assert_eq!(
            of("ike-rekey", false, &ikes),
            Some(Told::IkeRekeyed { old: 7, new: IkeSa { id: 8, ..ike } })
        );
    }

    #[test]
    fn what_is_no_event_of_charon_tells_nothing() {
        let empty = read(|_| {});
        let without = read(|event| {
            event.section("offloadd-x", |ike| {
                ike.value("uniqueid", "7");
            });
        });
        for name in EVENTS {
            assert_eq!(told(name, &empty), None, "{name}");
        }
        for name in ["child-updown", "child-rekey", "ike-rekey", "log"] {
            assert_eq!(told(name, &without), None, "{name}");
        }
    }
}
