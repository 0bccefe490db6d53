//! Connections in the words of strongSwan: what is sent over vici, and what comes back (`swanctl.conf(5)` has the same words).
//!
//! What is asked of the peer is what `ovs-monitor-ipsec` asks, so that it may be at the other end: IKEv2, mode transport, AES-GCM
//! with 256 bits. Beyond that numbers of 64 bits, where the peer has them: 32 bits last a quarter of an hour at 5 million packets/s.

use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;
use core::net::IpAddr;

use crate::vici::Builder;
use crate::{Auth, Connection, ConnectionName, Guard, Offload};

/// Of IKE: what `ovs-monitor-ipsec` has, and curves, which take less.
const PROPOSALS: [&str; 2] =
    ["aes256gcm16-prfsha256-ecp256-modp2048", "aes256gcm16-prfsha384-ecp384-modp2048"];
/// Of ESP: the first with fresh keys at each rekey.
const ESP_PROPOSALS: [&str; 2] = ["aes256gcm16-ecp256-modp2048-esn-noesn", "aes256gcm16-esn-noesn"];
/// Age at which a child is negotiated anew, in seconds: charon's default and, so that generations differ, some more.
const REKEY_S: u32 = 3_600;
const GENERATIONS: u32 = 64;
/// Time without a sign of the peer after which it is asked for one.
const DPD_DELAY: &str = "30s";

/// The content of the files that a connection with certificates names.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Certificates {
    /// Our own, PEM or DER.
    pub own: Vec<u8>,
    /// The common name in it, which the peer knows us by.
    pub own_name: String,
    /// The peer's or the authority's.
    pub other: Vec<u8>,
}

/// The children of a connection, by name: what is a direction of a tunnel is one. Packets of UDP go to the tunnel's port from any,
/// so each end has one for what it sends and one for what it gets; GRE has no ports.
pub fn children(connection: &Connection) -> Vec<(String, [String; 2])> {
    let name = &connection.name;
    match connection.carries.protocol() {
        (_, None) => [(name.to_string(), ["dynamic[gre]".to_string(), "dynamic[gre]".to_string()])].into(),
        (_, Some(port)) => {
            let (any, to) = ("dynamic[udp]".to_string(), format!("dynamic[udp/{port}]"));
            [(format!("{name}-in"), [to.clone(), any.clone()]), (format!("{name}-out"), [any, to])].into()
        }
    }
}

/// The message of `load-conn`.
///
/// `beside` are those that [the peer cannot tell it from](Connection::is_beside). Their children are in it, too, for others to ask for:
/// an IKE SA is the connection's that charon found first for the peer, carries children of all of them, and makes for the peer what fits best
/// of that connection's children. Without its own there, a child for Geneve would be narrowed to what it has in common with
/// one for VXLAN, which is nothing that any packet has (6.0.1).
pub fn load_conn(connection: &Connection, certificates: &Certificates, beside: &[&Connection]) -> Builder {
    let mut message = Builder::default();
    message.section(connection.name.as_str(), |conn| {
        let local = connection.local.map_or_else(|| "%any".to_string(), |local| local.to_string());
        let remote = connection.remote.to_string();
        conn.value("version", "2").value("mobike", "no").value("keyingtries", "0");
        // Of two connections with one peer neither replaces the other.
        conn.value("unique", "never").value("dpd_delay", DPD_DELAY).value("encap", yes(connection.encap));
        conn.list("local_addrs", [&local]).list("remote_addrs", [&remote]).list("proposals", PROPOSALS);
        match &connection.auth {
            Auth::Psk(_) => {
                conn.section("local", |end| {
                    end.value("auth", "psk");
                });
                conn.section("remote", |end| {
                    end.value("auth", "psk").value("id", &remote);
                });
            }
            Auth::SelfSigned { .. } => ends(conn, certificates, "certs", None),
            Auth::Ca { remote_name, .. } => ends(conn, certificates, "cacerts", Some(remote_name)),
        }
        conn.section("children", |all| {
            add_children(all, connection, true);
            beside.iter().for_each(|beside| add_children(all, beside, false));
        });
    });
    message
}

/// Children of a connection in its own message, or in that of one beside it.
fn add_children(all: &mut Builder, connection: &Connection, is_own: bool) {
    for (name, [local_ts, remote_ts]) in children(connection) {
        all.section(&name, |child| {
            child.value("mode", "transport").list("esp_proposals", ESP_PROPOSALS);
            child.list("local_ts", [local_ts]).list("remote_ts", [remote_ts]);
            // A trap keeps packets from leaving in the clear while there is no security association.
            let action = if is_own { "trap" } else { "none" };
            child.value("start_action", action).value("dpd_action", action).value("close_action", action);
            child.value("hw_offload", hw_offload(connection.offload));
            child.value("rekey_time", format!("{}s", REKEY_S + connection.generation % GENERATIONS));
            if let Some(window) = connection.replay_window {
                child.value("replay_window", window.to_string());
            }
        });
    }
}

/// The message of `load-conn` that has packets of a connection dropped where no other policy is about them; none where such policies stay.
///
/// A NIC that does all of IPsec has the policies too, and takes them along when it goes: nobody is told, and packets would leave in the
/// clear until others are negotiated. These are in software, and come after all others (strongSwan's priority of a fallback). They are a
/// connection of their own, which no peer can ask for.
///
/// They are about two local addresses, ours and that which differs from it in the last bit. A policy between two addresses alone is kept with
/// those that a NIC has, whose order the kernel turns around and mixes with software's whenever its table grows (`xfrm_dst_hash_transfer()`
/// of Linux 6.12): the tunnel's packets would be dropped. One that is about more is looked at when none of those has the packet.
pub fn load_closed(connection: &Connection) -> Option<Builder> {
    let (_, port) = connection.carries.protocol();
    let port = port.filter(|_| matches!(connection.offload, Offload::Auto | Offload::Packet))?;
    // Of no address in particular it is about all.
    let local = connection.local.map_or_else(|| "dynamic".to_string(), with_neighbour);
    let (remote, closed) = (connection.remote, connection.name.closed());
    let mut message = Builder::default();
    message.section(&closed, |conn| {
        conn.list("local_addrs", ["127.0.0.1"]).list("remote_addrs", ["127.0.0.1"]);
        conn.section("children", |all| {
            // Old ones tell shunts apart by this name alone.
            let mut drop = |way: &str, [local_ts, remote_ts]: [String; 2]| {
                all.section(&format!("{closed}-{way}"), |child| {
                    child.list("local_ts", [local_ts]).list("remote_ts", [remote_ts]);
                    child.value("mode", "drop").value("start_action", "trap");
                });
            };
            drop("in", [format!("{local}[udp/{port}]"), format!("{remote}[udp]")]);
            drop("out", [format!("{local}[udp]"), format!("{remote}[udp/{port}]")]);
        });
    });
    Some(message)
}

/// An address and that which differs from it in the last bit.
fn with_neighbour(address: IpAddr) -> String {
    let bits = if address.is_ipv4() { 31 } else { 127 };
    format!("{address}/{bits}")
}

/// STT's port of TCP.
const STT: u16 = 7_471;

/// The message of `load-conn` for what drops packets: children of mode `drop` are policies alone. What a connection is for has policies of
/// a higher rank.
pub fn load_guard(guard: &Guard) -> Builder {
    let mut message = Builder::default();
    message.section(guard.name.as_str(), |conn| {
        // No peer's connection is ever taken for it.
        conn.list("remote_addrs", ["127.0.0.1"]);
        conn.section("children", |all| {
            let mut drop = |name: String, ends: [String; 2]| {
                let everywhere = |of: &str| ["0.0.0.0/0", "::/0"].map(|all| format!("{all}[{of}]"));
                all.section(&name, |child| {
                    child.value("mode", "drop").value("start_action", "trap");
                    child.list("local_ts", everywhere(&ends[0])).list("remote_ts", everywhere(&ends[1]));
                    child.value("mark_in", guard.mark.to_string()).value("mark_out", guard.mark.to_string());
                });
            };
            let name = &guard.name;
            drop(format!("{name}-gre"), ["gre".to_string(), "gre".to_string()]);
            let ports = guard.ports.iter().map(|port| ("udp", *port));
            for (protocol, port) in ports.chain([("tcp", STT)]) {
                let (any, to) = (protocol.to_string(), format!("{protocol}/{port}"));
                drop(format!("{name}-{protocol}-{port}-in"), [to.clone(), any.clone()]);
                drop(format!("{name}-{protocol}-{port}-out"), [any, to]);
            }
        });
    });
    message
}

fn ends(conn: &mut Builder, certificates: &Certificates, vouches: &str, remote_name: Option<&String>) {
    conn.section("local", |end| {
        end.value("auth", "pubkey").value("id", &certificates.own_name).list("certs", [&certificates.own]);
    });
    conn.section("remote", |end| {
        end.value("auth", "pubkey").value("id", remote_name.map_or("%any", String::as_str));
        end.list(vouches, [&certificates.other]);
    });
}

fn yes(is: bool) -> &'static str {
    if is { "yes" } else { "no" }
}

/// The word of `hw_offload`: `auto` tries mode packet, then crypto, then software.
fn hw_offload(offload: Offload) -> &'static str {
    match offload {
        Offload::Auto => "auto",
        Offload::Packet => "packet",
        Offload::Crypto => "crypto",
        Offload::None => "no",
    }
}

/// The message of `load-shared`; none where the ends know each other by certificates.
pub fn load_shared(connection: &Connection) -> Option<Builder> {
    let Auth::Psk(psk) = &connection.auth else { return None };
    let mut message = Builder::default();
    message.value("id", connection.name.as_str()).value("type", "IKE").value("data", psk.expose());
    let ends = connection.local.into_iter().chain([connection.remote]);
    message.list("owners", ends.map(|end| end.to_string()));
    Some(message)
}

/// The message of `load-key`.
pub fn load_key(key: &[u8]) -> Builder {
    let mut message = Builder::default();
    message.value("type", "any").value("data", key);
    message
}

/// A message with one value.
pub fn one(name: &str, value: &str) -> Builder {
    let mut message = Builder::default();
    message.value(name, value);
    message
}

/// The message of `initiate`, which does not wait for what comes of it.
pub fn initiate(name: &ConnectionName, child: &str) -> Builder {
    let mut message = Builder::default();
    message.value("ike", name.as_str()).value("child", child).value("timeout", "-1");
    message
}

/// The message of `terminate` for all of a connection, which does not wait for what comes of it.
pub fn terminate(name: &ConnectionName) -> Builder {
    let mut message = Builder::default();
    message.value("ike", name.as_str()).value("timeout", "-1").value("force", "yes");
    message
}

/// The message of `terminate` for one child, which does not wait for what comes of it.
pub fn terminate_child(id: u32) -> Builder {
    let mut message = Builder::default();
    message.value("child-id", id.to_string()).value("timeout", "-1");
    message
}

/// The messages of `terminate` for children of a connection wherever they are: those of one beside it may carry them.
pub fn terminate_children(name: &ConnectionName) -> [Builder; 3] {
    ["", "-in", "-out"].map(|way| {
        let mut message = one("child", &format!("{name}{way}"));
        message.value("timeout", "-1").value("force", "yes");
        message
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vici::Section;
    use crate::{Host, SkbMark, TunnelRow, wanted};

    fn connection(kind: &str, options: &[(&str, &str)], host: &Host) -> Connection {
        let options = options.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
        let row = TunnelRow::read("tun0", kind, &options).unwrap();
        let wanted = wanted(&[row], host, Offload::Packet);
        assert!(wanted.rejected.is_empty(), "{wanted:?}");
        wanted.connections.into_values().next().unwrap()
    }

    fn loaded(connection: &Connection, certificates: &Certificates) -> Section {
        let message = load_conn(connection, certificates, &[]);
        let read = Section::read(message.bytes()).unwrap();
        read.section(connection.name.as_str()).unwrap().clone()
    }

    #[test]
    fn a_tunnel_over_udp_has_a_child_for_each_way() {
        let options = [("psk", "swordfish"), ("remote_ip", "192.0.2.2"), ("ipsec_replay-window", "64")];
        let geneve = connection("geneve", &options, &Host::default());
        let conn = loaded(&geneve, &Certificates::default());
        assert_eq!(conn.list("remote_addrs"), ["192.0.2.2"]);
        assert_eq!(conn.list("local_addrs"), ["%any"]);
        let children: Vec<_> = conn.section("children").unwrap().sections().collect();
        let [(inward, there), (outward, back)] = &children[..] else { panic!("{children:?}") };
        assert!(inward.ends_with("-in") && outward.ends_with("-out"));
        assert_eq!(
            (there.list("local_ts"), there.list("remote_ts")),
            (&["dynamic[udp/6081]".to_string()][..], &["dynamic[udp]".to_string()][..])
        );
        assert_eq!(back.list("remote_ts"), ["dynamic[udp/6081]"]);
        for (_, child) in &children {
            assert_eq!(child.value("hw_offload"), Some("packet"));
            assert_eq!(child.value("mode"), Some("transport"));
            assert_eq!(child.value("start_action"), Some("trap"), "nothing leaves in the clear");
            assert_eq!(child.value("replay_window"), Some("64"));
        }
    }

    #[test]
    fn what_a_nic_may_take_along_is_dropped_by_the_kernel_then() {
        let options = [("psk", "swordfish"), ("remote_ip", "192.0.2.2"), ("local_ip", "192.0.2.1")];
        let mut geneve = connection("geneve", &options, &Host::default());
        let message = load_closed(&geneve).unwrap();
        let read = Section::read(message.bytes()).unwrap();
        let closed = read.section(&geneve.name.closed()).unwrap().section("children").unwrap();
        let end = |way: &str| closed.section(&format!("{}-{way}", geneve.name.closed())).unwrap();
        let out = end("out");
        assert_eq!(out.list("local_ts"), ["192.0.2.1/31[udp]"], "not among those between two addresses");
        assert_eq!(out.list("remote_ts"), ["192.0.2.2[udp/6081]"]);
        assert_eq!((out.value("mode"), out.value("start_action")), (Some("drop"), Some("trap")));
        assert_eq!(end("in").list("local_ts"), ["192.0.2.1/31[udp/6081]"]);
        assert_eq!(end("in").list("remote_ts"), ["192.0.2.2[udp]"]);
        geneve.offload = Offload::Crypto;
        assert!(load_closed(&geneve).is_none(), "its policies are the kernel's");
        let gre = connection("gre", &options, &Host::default());
        assert!(load_closed(&gre).is_none(), "no NIC takes it");
    }

    #[test]
    fn what_drops_packets_has_their_mark_and_both_ways() {
        let guard = Guard::new(SkbMark::read("0/1").unwrap(), []);
        let read = Section::read(load_guard(&guard).bytes()).unwrap();
        let conn = read.section("offloadd-unencrypted").unwrap();
        let children: Vec<_> = conn.section("children").unwrap().sections().collect();
        assert_eq!(children.len(), 1 + 2 * 3);
        for (_, child) in &children {
            assert_eq!((child.value("mode"), child.value("start_action")), (Some("drop"), Some("trap")));
            assert_eq!((child.value("mark_in"), child.value("mark_out")), (Some("0x0/0x1"), Some("0x0/0x1")));
        }
        let of = |name: &str| &children.iter().find(|(found, _)| found.ends_with(name)).unwrap().1;
        assert_eq!(of("udp-6081-out").list("remote_ts"), ["0.0.0.0/0[udp/6081]", "::/0[udp/6081]"]);
        assert_eq!(of("udp-6081-out").list("local_ts"), ["0.0.0.0/0[udp]", "::/0[udp]"]);
        assert_eq!(of("udp-4789-in").list("local_ts"), ["0.0.0.0/0[udp/4789]", "::/0[udp/4789]"]);
    }

    #[test]
    fn children_of_two_generations_differ() {
        let options = [("psk", "swordfish"), ("remote_ip", "192.0.2.2")];
        let mut gre = connection("gre", &options, &Host::default());
        let mut rekey_time = |generation| {
            gre.generation = generation;
            let conn = loaded(&gre, &Certificates::default());
            let (_, child) = conn.section("children").unwrap().sections().next().unwrap();
            child.value("rekey_time").unwrap().to_string()
        };
        assert_eq!([rekey_time(0), rekey_time(63), rekey_time(64)], ["3600s", "3663s", "3600s"]);
    }

    #[test]
    fn gre_has_one_child_for_both_ways() {
        let gre = connection("gre", &[("psk", "x"), ("remote_ip", "2001:db8::2")], &Host::default());
        assert_eq!(children(&gre).len(), 1);
        let conn = loaded(&gre, &Certificates::default());
        let child = conn.section("children").unwrap().sections().next().unwrap().1;
        assert_eq!(child.list("local_ts"), ["dynamic[gre]"]);
    }

    #[test]
    fn the_key_is_in_the_message_that_loads_it_and_in_no_other() {
        let options = [("psk", "swordfish"), ("remote_ip", "192.0.2.2"), ("local_ip", "192.0.2.1")];
        let connection = connection("vxlan", &options, &Host::default());
        let has = |bytes: &[u8]| bytes.windows(9).any(|window| window == b"swordfish");
        let shared = load_shared(&connection).unwrap();
        assert!(has(shared.bytes()));
        let read = Section::read(shared.bytes()).unwrap();
        assert_eq!(read.list("owners"), ["192.0.2.1", "192.0.2.2"]);
        assert!(!has(load_conn(&connection, &Certificates::default(), &[]).bytes()));
        assert!(!has(initiate(&connection.name, "child").bytes()));
        assert!(!format!("{connection:?} {shared:?}").contains("swordfish"));
    }

    #[test]
    fn certificates_are_pinned_or_vouched_for() {
        let host = Host {
            certificate: Some("/c".into()),
            private_key: Some("/k".into()),
            ca_cert: Some("/ca".into()),
            skb_mark: None,
        };
        let certificates =
            Certificates { own: b"OWN".to_vec(), own_name: "hv1".into(), other: b"OTHER".to_vec() };
        let pinned = connection("vxlan", &[("remote_cert", "/r"), ("remote_ip", "192.0.2.2")], &host);
        let conn = loaded(&pinned, &certificates);
        let end = |conn: &Section, name: &str| conn.section(name).unwrap().clone();
        assert_eq!(end(&conn, "local").value("id"), Some("hv1"));
        assert_eq!(end(&conn, "local").list("certs"), ["OWN"]);
        assert_eq!(end(&conn, "remote").list("certs"), ["OTHER"]);
        let vouched = connection("vxlan", &[("remote_name", "hv2"), ("remote_ip", "192.0.2.2")], &host);
        let conn = loaded(&vouched, &certificates);
        assert_eq!(end(&conn, "remote").value("id"), Some("hv2"));
        assert_eq!(end(&conn, "remote").list("cacerts"), ["OTHER"]);
        assert!(load_shared(&vouched).is_none());
    }

    #[test]
    fn children_of_connections_beside_it_can_be_asked_for_and_are_started_by_their_own_alone() {
        let options = [("psk", "x"), ("remote_ip", "192.0.2.2"), ("local_ip", "192.0.2.1")];
        let [geneve, vxlan, gre] =
            ["geneve", "vxlan", "gre"].map(|kind| connection(kind, &options, &Host::default()));
        assert!(geneve.is_beside(&vxlan) && vxlan.is_beside(&geneve) && !geneve.is_beside(&geneve));
        let other_key = [("psk", "y"), options[1], options[2]];
        assert!(!geneve.is_beside(&connection("vxlan", &other_key, &Host::default())));
        assert!(!geneve.is_beside(&connection("vxlan", &options[..2], &Host::default())));

        let message = load_conn(&geneve, &Certificates::default(), &[&vxlan, &gre]);
        let read = Section::read(message.bytes()).unwrap();
        let children: Vec<_> =
            read.section(geneve.name.as_str()).unwrap().section("children").unwrap().sections().collect();
        assert_eq!(children.len(), 2 + 2 + 1);
        for (name, child) in children {
            let of_child = ConnectionName::of_child(name).unwrap();
            let action = if of_child == geneve.name { "trap" } else { "none" };
            let has = ["start_action", "dpd_action", "close_action"].map(|key| child.value(key));
            assert_eq!(has, [Some(action); 3], "{name}");
            assert!([&geneve.name, &vxlan.name, &gre.name].contains(&&of_child));
        }
    }
}
