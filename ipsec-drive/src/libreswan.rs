//! What Libreswan is to ask of a NIC where `ovs-monitor-ipsec` has it protect tunnels: `options:ipsec_nic-offload` of an interface, which
//! that makes `nic-offload` of the connection.
//!
//! The option may be anybody's. What was written at our word has the same value beside it in `external_ids`, from the same transaction;
//! everything else is somebody else's and stays as it is.

use alloc::collections::BTreeMap;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;
use core::fmt;

use crate::demand::REPLAY_WINDOWS;
use crate::{Offload, TunnelRow};

/// The key in `Interface.options`.
pub const OPTION: &str = "ipsec_nic-offload";
/// The key in `Interface.external_ids` that has the value of the other where it was written at our word.
pub const MARK: &str = "offloadd-ipsec-nic-offload";
/// What OVN calls the ports of its own tunnels by, in `Port.external_ids` (`OVN_TUNNEL_ID` of its `encaps.c`, and EVPN's).
const OF_OVN: [&str; 2] = ["ovn-chassis-id", "ovn-evpn-tunnel"];
/// Types of interfaces whose policies NICs have no entries for: they are of GRE's protocol.
const GRE: &str = "gre";

/// A row of Interface, as far as its offload is concerned.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OffloadRow {
    /// `name`.
    pub name: String,
    /// Whether `ovs-monitor-ipsec` would protect it.
    pub is_marked: bool,
    /// `options:ipsec_nic-offload`.
    pub value: Option<String>,
    /// `external_ids:offloadd-ipsec-nic-offload`.
    pub ours: Option<String>,
    /// Whether ovn-controller made its port. It makes one anew whose options are not what it wrote.
    pub is_ovns: bool,
    /// What of it Libreswan or a NIC refuses in mode packet.
    pub refusals: Vec<Refusal>,
}

/// What of a tunnel's settings does not go with `nic-offload=packet`: Libreswan (5.2) does not load such a connection, or the NIC's
/// driver refuses it (mlx5 of Linux 6.12).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// `options:ipsec_X=Y`, by X and Y, which Libreswan refuses beside it.
    Option(String, String),
    /// Packets of GRE.
    Gre,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Option(option, value) => {
                write!(f, "Libreswan has no nic-offload=packet with {option}={value}")
            }
            Self::Gre => f.write_str("its selector is of protocol 47, and NICs carry any, TCP or UDP alone"),
        }
    }
}

/// Whether Libreswan refuses an option of a connection beside `nic-offload=packet` (`extract_connection()` of 5.2).
pub fn is_refused(option: &str, value: &str) -> bool {
    match option {
        "replay-window" => !value.parse().is_ok_and(|packets| REPLAY_WINDOWS.contains(&packets)),
        "phase2" => value == "ah",
        "type" => value != "transport",
        "compress" | "encapsulation" => value == "yes",
        _ => false,
    }
}

/// Whose the option of a row is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// There is none.
    Nobody,
    /// It was written at our word.
    Us,
    /// Somebody else wrote it.
    SomebodyElse,
    /// It was written at our word, and somebody took it out since: that is their word.
    TakenOut,
}

/// Whether the device that a tunnel's packets leave by does IPsec, as its feature `esp-hw-offload` says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Able {
    /// It does.
    Yes,
    /// It does not: Libreswan leaves a connection out that asks it, and nothing protects the tunnel.
    No,
    /// Nobody knows which device it is.
    #[default]
    Unknown,
}

/// What there is to be of ours in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// Nothing, which is software.
    Nothing,
    /// This value.
    Value(&'static str),
    /// What there is.
    AsItIs,
}

/// A change of a row. It holds only while the row is as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Have this value, in place of ours where there is one.
    Write {
        /// What there is of ours.
        before: Option<String>,
        /// What there is to be.
        value: &'static str,
    },
    /// Take out ours.
    TakeOut(String),
    /// What is there is somebody else's, whatever the key beside it says.
    Disown(String),
}

impl OffloadRow {
    /// Reads a row; none of one that is neither marked for IPsec nor has anything of ours.
    pub fn read(
        tunnel: Option<&TunnelRow>,
        name: &str,
        options: &BTreeMap<String, String>,
        external_ids: &BTreeMap<String, String>,
        of_port: &BTreeMap<String, String>,
    ) -> Option<Self> {
        let ours = external_ids.get(MARK).cloned();
        if tunnel.is_none() && ours.is_none() {
            return None;
        }
        Some(Self {
            name: name.to_string(),
            is_marked: tunnel.is_some(),
            value: options.get(OPTION).cloned(),
            ours,
            is_ovns: OF_OVN.iter().any(|key| of_port.contains_key(*key)),
            refusals: tunnel.map(refusals).unwrap_or_default(),
        })
    }

    /// Whose the option is.
    pub fn owner(&self) -> Owner {
        match (&self.value, &self.ours) {
            (None, None) => Owner::Nobody,
            (None, Some(_)) => Owner::TakenOut,
            (Some(value), Some(ours)) if value == ours => Owner::Us,
            (Some(_), _) => Owner::SomebodyElse,
        }
    }

    /// What there is to be of ours where `policy` is what a NIC is to be asked for.
    ///
    /// With `auto` nothing is written. `ovs-monitor-ipsec` takes a connection out whose options change before it loads the other, so that
    /// each move would cost its packets; and Libreswan does not fall back.
    pub fn due(&self, policy: Offload, able: Able) -> Due {
        let value = match policy {
            Offload::Packet if self.refusals.is_empty() => "packet",
            Offload::Crypto => "crypto",
            _ => return Due::Nothing,
        };
        match able {
            _ if !self.is_marked || self.is_ovns => Due::Nothing,
            Able::Yes => Due::Value(value),
            Able::No => Due::Nothing,
            Able::Unknown => Due::AsItIs,
        }
    }

    /// What is changed next so that there is what is [due](Self::due).
    pub fn change(&self, due: Due) -> Option<Change> {
        match (self.owner(), due) {
            (Owner::SomebodyElse, _) | (Owner::TakenOut, Due::Nothing) => {
                self.ours.clone().map(Change::Disown)
            }
            (_, Due::AsItIs) | (Owner::TakenOut, _) | (Owner::Nobody, Due::Nothing) => None,
            (Owner::Nobody, Due::Value(value)) => Some(Change::Write { before: None, value }),
            (Owner::Us, Due::Value(value)) if self.value.as_deref() == Some(value) => None,
            (Owner::Us, Due::Value(value)) => Some(Change::Write { before: self.ours.clone(), value }),
            (Owner::Us, Due::Nothing) => self.ours.clone().map(Change::TakeOut),
        }
    }
}

fn refusals(tunnel: &TunnelRow) -> Vec<Refusal> {
    let refused = tunnel.custom.iter().filter(|(option, value)| is_refused(option, value));
    let options = refused.map(|(option, value)| Refusal::Option(option.clone(), value.clone()));
    options.chain((tunnel.kind == GRE).then_some(Refusal::Gre)).collect()
}

/// Which IKE daemon `ovs-monitor-ipsec` has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IkeDaemon {
    /// Libreswan's pluto.
    Libreswan,
    /// strongSwan's charon, by its `ipsec.conf`, which has no word for offload.
    Strongswan,
}

impl IkeDaemon {
    /// Reads the arguments that `ovs-monitor-ipsec` was started with; none where they do not say. Python's `argparse` takes the beginning
    /// of an option for it.
    pub fn of_arguments<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Option<Self> {
        let mut arguments = arguments.into_iter();
        let mut found = None;
        while let Some(argument) = arguments.next() {
            let (option, value) = argument.split_once('=').map_or((argument, None), |(o, v)| (o, Some(v)));
            if option.len() > "--i".len() && "--ike-daemon".starts_with(option) {
                found = value.or_else(|| arguments.next());
            }
        }
        match found? {
            "libreswan" => Some(Self::Libreswan),
            "strongswan" => Some(Self::Strongswan),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect()
    }

    fn row(value: Option<&str>, ours: Option<&str>) -> OffloadRow {
        OffloadRow {
            name: "tun0".into(),
            is_marked: true,
            value: value.map(Into::into),
            ours: ours.map(Into::into),
            ..OffloadRow::default()
        }
    }

    #[test]
    fn what_somebody_else_wrote_or_took_out_stays_so() {
        for due in [Due::Value("packet"), Due::Value("crypto"), Due::Nothing] {
            assert_eq!(row(Some("packet"), None).change(due), None, "it has the value that we would write");
            assert_eq!(row(Some("no"), None).change(due), None);
            let theirs = row(Some("crypto"), Some("packet"));
            assert_eq!(theirs.owner(), Owner::SomebodyElse);
            assert_eq!(theirs.change(due), Some(Change::Disown("packet".into())));
        }
        let taken_out = row(None, Some("packet"));
        assert_eq!(taken_out.owner(), Owner::TakenOut);
        assert_eq!(
            taken_out.change(Due::Value("packet")),
            None,
            "and the key beside it says whose word that is"
        );
        assert_eq!(taken_out.change(Due::Nothing), Some(Change::Disown("packet".into())));
    }

    #[test]
    fn what_is_ours_is_as_the_policy_has_it_and_goes_with_it() {
        let write =
            |before: Option<&str>| Some(Change::Write { before: before.map(Into::into), value: "packet" });
        assert_eq!(row(None, None).change(Due::Value("packet")), write(None));
        assert_eq!(row(Some("packet"), Some("packet")).change(Due::Value("packet")), None);
        assert_eq!(row(Some("crypto"), Some("crypto")).change(Due::Value("packet")), write(Some("crypto")));
        assert_eq!(
            row(Some("packet"), Some("packet")).change(Due::Nothing),
            Some(Change::TakeOut("packet".into()))
        );
        assert_eq!(row(None, None).change(Due::Nothing), None);
    }

    #[test]
    fn each_change_leads_to_what_is_due_and_then_there_is_none() {
        let words = [None, Some("packet"), Some("crypto"), Some("no")];
        for (value, ours) in words.into_iter().flat_map(|value| words.map(|ours| (value, ours))) {
            for due in [Due::Nothing, Due::Value("packet"), Due::Value("crypto"), Due::AsItIs] {
                let mut now = row(value, ours);
                let is_theirs = matches!(now.owner(), Owner::SomebodyElse | Owner::TakenOut);
                for _ in 0..2 {
                    match now.change(due) {
                        Some(Change::Write { value, .. }) => {
                            (now.value, now.ours) = (Some(value.into()), Some(value.into()));
                        }
                        Some(Change::TakeOut(_)) => (now.value, now.ours) = (None, None),
                        Some(Change::Disown(_)) => now.ours = None,
                        None => {}
                    }
                }
                let left = match due {
                    Due::Value(due) if !is_theirs => Some(due),
                    Due::Nothing if !is_theirs => None,
                    _ => value,
                };
                assert_eq!(now.value.as_deref(), left, "{value:?} {ours:?} {due:?}");
                assert_eq!(now.change(due), None, "{now:?}");
            }
        }
    }

    #[test]
    fn nothing_is_due_that_would_be_refused_or_fought_over() {
        let options = |more: &[(&str, &str)]| {
            let own = [("psk", "x"), ("remote_ip", "192.0.2.2")];
            map(&own.iter().chain(more).copied().collect::<Vec<_>>())
        };
        let read = |kind: &str, more: &[(&str, &str)], of_port: &[(&str, &str)]| {
            let options = options(more);
            let tunnel = TunnelRow::read("tun0", kind, &options);
            OffloadRow::read(tunnel.as_ref(), "tun0", &options, &map(&[]), &map(of_port)).unwrap()
        };
        let all = [Offload::Packet, Offload::Crypto, Offload::Auto, Offload::None];
        let due = |row: &OffloadRow| all.map(|policy| row.due(policy, Able::Yes));
        let (nothing, crypto) = (Due::Nothing, Due::Value("crypto"));
        let good = read("geneve", &[], &[]);
        assert_eq!(due(&good), [Due::Value("packet"), crypto, nothing, nothing]);
        assert_eq!(all.map(|policy| good.due(policy, Able::No)), [nothing; 4]);
        assert_eq!(good.due(Offload::Packet, Able::Unknown), Due::AsItIs);
        assert_eq!(good.due(Offload::None, Able::Unknown), nothing);
        assert_eq!(due(&read("geneve", &[], &[("ovn-chassis-id", "hv2")])), [nothing; 4]);
        for (option, value) in [
            ("ipsec_replay-window", "512"),
            ("ipsec_phase2", "ah"),
            ("ipsec_encapsulation", "yes"),
            ("ipsec_type", "tunnel"),
        ] {
            let refused = read("vxlan", &[(option, value)], &[]);
            assert_eq!(due(&refused), [nothing, crypto, nothing, nothing], "{option}");
            let expected = alloc::format!(
                "Libreswan has no nic-offload=packet with {}={value}",
                option.trim_start_matches("ipsec_")
            );
            assert_eq!(refused.refusals[0].to_string(), expected);
        }
        assert_eq!(read("gre", &[], &[]).refusals, [Refusal::Gre]);
        assert!(read("geneve", &[("ipsec_replay-window", "64")], &[]).refusals.is_empty());
    }

    #[test]
    fn a_row_is_read_while_it_is_marked_or_has_something_of_ours() {
        let none = map(&[]);
        assert_eq!(OffloadRow::read(None, "eth0", &none, &none, &none), None);
        let ours = map(&[(MARK, "packet")]);
        let left = OffloadRow::read(None, "tun0", &map(&[(OPTION, "packet")]), &ours, &none).unwrap();
        assert_eq!((left.owner(), left.due(Offload::Packet, Able::Yes)), (Owner::Us, Due::Nothing));
    }

    #[test]
    fn the_ike_daemon_is_read_from_the_arguments_as_python_reads_them() {
        let of = |arguments: &[&str]| IkeDaemon::of_arguments(arguments.iter().copied());
        let start = ["/usr/bin/python3", "/usr/share/openvswitch/scripts/ovs-monitor-ipsec"];
        let with = |more: &[&str]| of(&[&start[..], more].concat());
        assert_eq!(with(&["--pidfile=/x", "--ike-daemon=libreswan", "unix:x"]), Some(IkeDaemon::Libreswan));
        assert_eq!(with(&["--ike-daemon", "strongswan"]), Some(IkeDaemon::Strongswan));
        assert_eq!(with(&["--ike=libreswan"]), Some(IkeDaemon::Libreswan));
        assert_eq!(with(&["--ike-daemon=strongswan", "--ike-daemon=libreswan"]), Some(IkeDaemon::Libreswan));
        assert_eq!(with(&["--ipsec-conf=libreswan"]), None);
        assert_eq!(with(&["--ike-daemon=racoon"]), None);
    }
}
