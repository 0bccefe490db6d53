//! From rows of OVSDB to connections, by the rules of Open vSwitch's `ovs-monitor-ipsec` (`_is_valid_tunnel_conf`).

use alloc::collections::BTreeMap;
use alloc::string::{String, ToString as _};
use alloc::vec;
use core::fmt;
use core::net::IpAddr;

use crate::{Auth, Carries, Connection, ConnectionName, Content, Guard, Host, Offload, SkbMark, TunnelRow};

/// Ports of UDP that tunnels go to unless `options:dst_port` says otherwise (`lib/netdev-vport.c`).
const VXLAN_PORT: u16 = 4_789;
const GENEVE_PORT: u16 = 6_081;
/// strongSwan's bound of `replay_window`.
const REPLAY_WINDOW_MAX: u32 = 4_096;
/// Most connections that are kept: their names have to fit in one message of vici's, 112 bytes each at most.
const CONNECTIONS_MAX: usize = 4_096;

/// What is wanted of the IKE daemon.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Connections by name.
    pub connections: BTreeMap<ConnectionName, Connection>,
    /// Tunnels that can have none, by the interface's name.
    pub rejected: BTreeMap<String, Reason>,
    /// What keeps tunnels' packets from passing in the clear.
    pub guard: Option<Guard>,
    /// `other_config:ipsec_skb_mark`, where it is no mark: then nothing does.
    pub no_mark: Option<String>,
}

/// Why a tunnel can have no connection. None of them changes anything for another tunnel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// `options:remote_ip` is not set.
    NoRemote,
    /// `options:remote_ip` is `flow`, or no address: there is no peer to have a connection with.
    RemoteIsNoAddress(String),
    /// `options:local_ip` is no address.
    LocalIsNoAddress(String),
    /// One address is of IPv4, the other of IPv6.
    Families(IpAddr, IpAddr),
    /// `options:dst_port` is no port.
    Port(String),
    /// A key that both have, beside certificates.
    PskAndCertificates(&'static str),
    /// None of `psk`, `remote_cert` and `remote_name` has a value.
    NoAuthentication,
    /// Certificates without `other_config` having this.
    Lacks(&'static str),
    /// Neither the peer's certificate nor an authority's.
    NobodyVouches,
    /// A file's path that is not absolute.
    Path(&'static str, String),
    /// `options:ipsec_X` that cannot be had.
    Custom {
        /// `X`
        option: String,
        /// Its value.
        value: String,
        /// Why not.
        why: &'static str,
    },
    /// Another tunnel between the same addresses wants something else of it.
    Differs {
        /// The other one.
        from: String,
        /// What differs.
        in_what: &'static str,
    },
    /// There are too many.
    TooMany,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRemote => f.write_str("options:remote_ip is not set"),
            Self::RemoteIsNoAddress(text) if text == "flow" => {
                f.write_str("options:remote_ip is \"flow\": flows tell the peer, and a connection needs one")
            }
            Self::RemoteIsNoAddress(text) => write!(f, "options:remote_ip is {text:?}, which is no address"),
            Self::LocalIsNoAddress(text) => write!(f, "options:local_ip is {text:?}, which is no address"),
            Self::Families(local, remote) => {
                write!(f, "options:local_ip is {local} and options:remote_ip {remote}: one is IPv4, one IPv6")
            }
            Self::Port(text) => write!(f, "options:dst_port is {text:?}, which is no port"),
            Self::PskAndCertificates(other) => write!(f, "{other} must be unset where options:psk is set"),
            Self::NoAuthentication => {
                f.write_str("none of options:psk, options:remote_cert and options:remote_name has a value")
            }
            Self::Lacks(what) => write!(f, "certificates need {what}, which is not set"),
            Self::NobodyVouches => f.write_str(
                "neither options:remote_cert (self-signed) nor other_config:ca_cert (an authority) is set",
            ),
            Self::Path(what, path) => write!(f, "{what} is {path:?}, which is no absolute path"),
            Self::Custom { option, value, why } => write!(f, "options:ipsec_{option}={value}: {why}"),
            Self::Differs { from, in_what } => {
                write!(f, "tunnel {from} leads to the same address, with another {in_what}")
            }
            Self::TooMany => write!(f, "there are more than {CONNECTIONS_MAX} connections"),
        }
    }
}

/// The connections that these tunnels want. `offload` is what a NIC is asked for where the tunnel does not say.
pub fn wanted(tunnels: &[TunnelRow], host: &Host, offload: Offload) -> Wanted {
    let mut wanted = Wanted::default();
    for row in tunnels {
        let taken = connection(row, host, offload).and_then(|connection| take(&mut wanted, connection));
        if let Err(reason) = taken {
            wanted.rejected.insert(row.name.clone(), reason);
        }
    }
    if let Some(text) = &host.skb_mark {
        match SkbMark::read(text) {
            Some(mark) => wanted.guard = Some(Guard::new(mark, wanted.connections.values())),
            None => wanted.no_mark = Some(text.clone()),
        }
    }
    wanted
}

/// Adds a connection, or the tunnel to the one that is there already.
fn take(wanted: &mut Wanted, connection: Connection) -> Result<(), Reason> {
    let Some(there) = wanted.connections.get_mut(&connection.name) else {
        if wanted.connections.len() >= CONNECTIONS_MAX {
            return Err(Reason::TooMany);
        }
        wanted.connections.insert(connection.name.clone(), connection);
        return Ok(());
    };
    let differs = [
        (there.auth != connection.auth, "key or certificate"),
        (there.offload != connection.offload, "nic-offload"),
        (there.encap != connection.encap, "encapsulation"),
        (there.replay_window != connection.replay_window, "replay-window"),
    ];
    if let Some((_, in_what)) = differs.into_iter().find(|(differs, _)| *differs) {
        return Err(Reason::Differs { from: there.tunnels[0].clone(), in_what });
    }
    there.tunnels.extend(connection.tunnels);
    there.tunnels.sort();
    Ok(())
}

fn connection(row: &TunnelRow, host: &Host, offload: Offload) -> Result<Connection, Reason> {
    let remote = row.remote_ip.as_ref().ok_or(Reason::NoRemote)?;
    let remote: IpAddr = remote.parse().map_err(|_| Reason::RemoteIsNoAddress(remote.clone()))?;
    let local = row.local_ip.as_ref().map(|local| match local.parse::<IpAddr>() {
        Ok(local) if local.is_ipv4() == remote.is_ipv4() => Ok(local),
        Ok(local) => Err(Reason::Families(local, remote)),
        Err(_) => Err(Reason::LocalIsNoAddress(local.clone())),
    });
    let local = local.transpose()?;
    let port = |default: u16| match &row.dst_port {
        None => Ok(default),
        Some(text) => {
            let port = text.parse().ok().filter(|port| *port != 0);
            port.ok_or_else(|| Reason::Port(text.clone()))
        }
    };
    let carries = match row.kind.as_str() {
        "vxlan" => Carries::Vxlan(port(VXLAN_PORT)?),
        "geneve" => Carries::Geneve(port(GENEVE_PORT)?),
        _ => Carries::Gre,
    };
    let mut connection = Connection {
        name: ConnectionName::of(carries, local, remote),
        tunnels: vec![row.name.clone()],
        local,
        remote,
        auth: auth(row, host)?,
        content: Content::default(),
        carries,
        offload,
        encap: false,
        replay_window: None,
        generation: 0,
    };
    for (option, value) in &row.custom {
        set(&mut connection, option, value).map_err(|why| Reason::Custom {
            option: option.clone(),
            value: value.clone(),
            why,
        })?;
    }
    Ok(connection)
}

fn auth(row: &TunnelRow, host: &Host) -> Result<Auth, Reason> {
    if let Some(psk) = &row.psk {
        let others = [
            (&host.certificate, "other_config:certificate"),
            (&host.private_key, "other_config:private_key"),
            (&host.ca_cert, "other_config:ca_cert"),
            (&row.remote_cert, "options:remote_cert"),
            (&row.remote_name, "options:remote_name"),
        ];
        let other = others.into_iter().find(|(value, _)| value.is_some());
        return match other {
            Some((_, what)) => Err(Reason::PskAndCertificates(what)),
            None => Ok(Auth::Psk(psk.clone())),
        };
    }
    if row.remote_cert.is_none() && row.remote_name.is_none() {
        return Err(Reason::NoAuthentication);
    }
    let file = |value: &Option<String>, what: &'static str| match value {
        None => Err(Reason::Lacks(what)),
        Some(path) if path.starts_with('/') => Ok(path.clone()),
        Some(path) => Err(Reason::Path(what, path.clone())),
    };
    let certificate = file(&host.certificate, "other_config:certificate")?;
    let private_key = file(&host.private_key, "other_config:private_key")?;
    match (&row.remote_cert, &row.remote_name, &host.ca_cert) {
        (Some(_), ..) => {
            let remote_cert = file(&row.remote_cert, "options:remote_cert")?;
            Ok(Auth::SelfSigned { certificate, private_key, remote_cert })
        }
        (None, Some(remote_name), Some(_)) => {
            let ca_cert = file(&host.ca_cert, "other_config:ca_cert")?;
            Ok(Auth::Ca { certificate, private_key, ca_cert, remote_name: remote_name.to_string() })
        }
        _ => Err(Reason::NobodyVouches),
    }
}

/// Takes `options:ipsec_X=Y`. Those are the words of Libreswan's and strongSwan's files; what has a counterpart in vici is taken.
fn set(connection: &mut Connection, option: &str, value: &str) -> Result<(), &'static str> {
    match (option, value) {
        ("nic-offload", "packet") => connection.offload = Offload::Packet,
        ("nic-offload", "crypto") => connection.offload = Offload::Crypto,
        ("nic-offload", "no") => connection.offload = Offload::None,
        ("nic-offload", "auto") => connection.offload = Offload::Auto,
        ("nic-offload", _) => return Err("it is packet, crypto, auto or no"),
        ("encapsulation" | "forceencaps", "yes") => connection.encap = true,
        ("encapsulation", "no" | "auto") | ("forceencaps", "no") => connection.encap = false,
        ("encapsulation", _) => return Err("it is yes, no or auto"),
        ("forceencaps", _) => return Err("it is yes or no"),
        ("replay-window" | "replay_window", text) => {
            let window = text.parse().ok().filter(|window| *window <= REPLAY_WINDOW_MAX);
            connection.replay_window = Some(window.ok_or("it is a number of packets up to 4096")?);
        }
        _ => return Err("it has no counterpart that ovs-offloadd knows how to ask of an IKE daemon"),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    fn row(name: &str, kind: &str, options: &[(&str, &str)]) -> TunnelRow {
        let options = options.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
        TunnelRow::read(name, kind, &options).unwrap()
    }

    fn of(rows: &[TunnelRow], host: &Host) -> Wanted {
        wanted(rows, host, Offload::Auto)
    }

    fn pki(ca: bool) -> Host {
        Host {
            certificate: Some("/etc/hv1.pem".into()),
            private_key: Some("/etc/hv1-key.pem".into()),
            ca_cert: ca.then(|| "/etc/ca.pem".into()),
            skb_mark: None,
        }
    }

    const PSK: [(&str, &str); 2] = [("remote_ip", "192.0.2.2"), ("psk", "swordfish")];

    #[test]
    fn each_type_of_tunnel_is_protected_by_its_protocol_and_port() {
        let cases = [
            ("vxlan", None, Carries::Vxlan(4_789), (17, Some(4_789))),
            ("geneve", None, Carries::Geneve(6_081), (17, Some(6_081))),
            ("vxlan", Some("8472"), Carries::Vxlan(8_472), (17, Some(8_472))),
            ("gre", None, Carries::Gre, (47, None)),
        ];
        for (kind, port, carries, protocol) in cases {
            let port = port.map(|port| ("dst_port", port));
            let options: Vec<_> = PSK.into_iter().chain(port).collect();
            let wanted = of(&[row("tun0", kind, &options)], &Host::default());
            let connection = wanted.connections.values().next().unwrap();
            assert_eq!((connection.carries, connection.carries.protocol()), (carries, protocol));
        }
    }

    #[test]
    fn ends_know_each_other_by_key_certificate_or_authority() {
        let psk = of(&[row("tun0", "geneve", &PSK)], &Host::default());
        let auth = |wanted: &Wanted| wanted.connections.values().next().unwrap().auth.clone();
        assert_eq!(auth(&psk), Auth::Psk(crate::Secret::new(b"swordfish")));
        let options = [("remote_ip", "2001:db8::2"), ("remote_cert", "/etc/hv2.pem")];
        let own = of(&[row("tun0", "vxlan", &options)], &pki(false));
        assert_eq!(auth(&own).word(), "self-signed");
        let options = [("remote_ip", "2001:db8::2"), ("remote_name", "hv2")];
        let ca = of(&[row("tun0", "vxlan", &options)], &pki(true));
        let Auth::Ca { remote_name, ca_cert, .. } = auth(&ca) else { panic!("{ca:?}") };
        assert_eq!((remote_name.as_str(), ca_cert.as_str()), ("hv2", "/etc/ca.pem"));
    }

    #[test]
    fn what_is_wrong_with_a_row_is_told_of_its_tunnel_and_concerns_no_other() {
        let bare = Host::default();
        let ca = pki(true);
        type Case<'a> = (&'a [(&'a str, &'a str)], &'a Host, &'a str);
        let cases: &[Case<'_>] = &[
            (&[("psk", "x")], &bare, "options:remote_ip is not set"),
            (
                &[("psk", "x"), ("remote_ip", "flow")],
                &bare,
                "options:remote_ip is \"flow\": flows tell the peer, and a connection needs one",
            ),
            (
                &[("psk", "x"), ("remote_ip", "hv2.example")],
                &bare,
                "options:remote_ip is \"hv2.example\", which is no address",
            ),
            (
                &[("psk", "x"), ("remote_ip", "192.0.2.3"), ("local_ip", "here")],
                &bare,
                "options:local_ip is \"here\", which is no address",
            ),
            (
                &[("psk", "x"), ("remote_ip", "192.0.2.3"), ("local_ip", "2001:db8::1")],
                &bare,
                "options:local_ip is 2001:db8::1 and options:remote_ip 192.0.2.3: one is IPv4, one IPv6",
            ),
            (
                &[("psk", "x"), ("remote_ip", "192.0.2.3"), ("dst_port", "0")],
                &bare,
                "options:dst_port is \"0\", which is no port",
            ),
            (
                &[("psk", "x"), ("remote_ip", "192.0.2.3")],
                &ca,
                "other_config:certificate must be unset where options:psk is set",
            ),
            (
                &[("psk", ""), ("remote_ip", "192.0.2.3")],
                &bare,
                "none of options:psk, options:remote_cert and options:remote_name has a value",
            ),
            (
                &[("remote_name", "hv2"), ("remote_ip", "192.0.2.3")],
                &bare,
                "certificates need other_config:certificate, which is not set",
            ),
            (
                &[("remote_name", "hv2"), ("remote_ip", "192.0.2.3")],
                &pki(false),
                "neither options:remote_cert (self-signed) nor other_config:ca_cert (an authority) is set",
            ),
            (
                &[("remote_cert", "hv2.pem"), ("remote_ip", "192.0.2.3")],
                &ca,
                "options:remote_cert is \"hv2.pem\", which is no absolute path",
            ),
            (
                &[("psk", "x"), ("remote_ip", "192.0.2.3"), ("ipsec_nic-offload", "all")],
                &bare,
                "options:ipsec_nic-offload=all: it is packet, crypto, auto or no",
            ),
            (
                &[("psk", "x"), ("remote_ip", "192.0.2.3"), ("ipsec_phase2", "ah")],
                &bare,
                "options:ipsec_phase2=ah: it has no counterpart that ovs-offloadd knows how to ask of an IKE daemon",
            ),
            (
                &[("psk", "another"), ("remote_ip", "192.0.2.2")],
                &bare,
                "tunnel good leads to the same address, with another key or certificate",
            ),
        ];
        for (options, host, expected) in cases {
            let rows = [row("good", "geneve", &PSK), row("tun1", "geneve", options)];
            let wanted = of(&rows, host);
            assert_eq!(wanted.rejected["tun1"].to_string(), *expected);
            // With certificates, that one cannot have its key.
            assert_eq!(wanted.connections.len(), usize::from(*host == &bare), "{wanted:?}");
            assert!(!alloc::format!("{wanted:?}").contains("swordfish"));
        }
    }

    #[test]
    fn what_has_the_hosts_mark_is_dropped_by_the_ports_that_tunnels_have() {
        let other: Vec<_> = PSK.into_iter().chain([("dst_port", "8472")]).collect();
        let rows = [row("tun0", "vxlan", &other)];
        let of_mark = |mark: &str| of(&rows, &Host { skb_mark: Some(mark.into()), ..Host::default() });
        let wanted = of_mark("1/1");
        let guard = wanted.guard.unwrap();
        assert_eq!(guard.mark.to_string(), "0x1/0x1");
        assert_eq!(guard.ports.into_iter().collect::<Vec<_>>(), [4_789, 6_081, 8_472]);
        let wanted = of_mark("one");
        assert_eq!((wanted.guard, wanted.no_mark.as_deref()), (None, Some("one")));
        assert_eq!(of(&rows, &Host::default()).guard, None);
    }

    #[test]
    fn tunnels_to_one_address_share_a_connection() {
        let (more, other): (Vec<_>, Vec<_>) = (
            PSK.into_iter().chain([("key", "8")]).collect(),
            PSK.into_iter().chain([("local_ip", "192.0.2.1")]).collect(),
        );
        let rows = [row("tun1", "vxlan", &PSK), row("tun0", "vxlan", &more), row("tun2", "vxlan", &other)];
        let wanted = of(&rows, &Host::default());
        let tunnels: Vec<_> =
            wanted.connections.values().map(|connection| connection.tunnels.clone()).collect();
        assert_eq!(tunnels, [vec!["tun0", "tun1"], vec!["tun2"]]);
    }

    #[test]
    fn a_tunnels_own_offload_goes_before_the_configurations() {
        let own: Vec<_> = PSK
            .into_iter()
            .chain([
                ("ipsec_nic-offload", "crypto"),
                ("ipsec_encapsulation", "yes"),
                ("ipsec_replay-window", "64"),
            ])
            .collect();
        let wanted = wanted(&[row("tun0", "gre", &own)], &Host::default(), Offload::Packet);
        let connection = wanted.connections.values().next().unwrap();
        assert_eq!(
            (connection.offload, connection.encap, connection.replay_window),
            (Offload::Crypto, true, Some(64))
        );
    }
}
