//! What a NIC demands of a security association before it carries it in whole.
//!
//! The list is that of the kernel's mlx5 (`mlx5e_xfrm_validate_state()` of Linux 6.12), the one driver that is known to carry
//! ESP in mode packet on a switch; it checks in this order and names the first.

use ipsec_drive::{Connection, Offload, Planned, REPLAY_WINDOWS};
use netlink_wire::xfrm::{Algorithm, Limit, Sa, SaDirection, SaMode};

use super::UplinkRules;

/// `IPPROTO_ESP`
const ESP: u8 = 50;
/// `IPPROTO_*` of selectors: any, TCP, UDP.
const SELECTOR_PROTOCOLS: [u8; 3] = [0, 6, 17];
/// AES-GCM with the salt of RFC 4106 behind the key.
const AES_GCM: &str = "rfc4106(gcm(aes))";
/// Bits of the salt.
const SALT: u32 = 32;

/// A demand that is not met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Demand {
    /// ESP, of these protocols.
    Esp(u8),
    /// AES-GCM, which is of all algorithms the only one.
    AesGcm(String),
    /// A tag of 128 bits.
    Tag(u32),
    /// A key of 128 or 256 bits, beside the salt.
    Key(u32),
    /// A selector of any protocol, TCP or UDP.
    Selector(u8),
    /// Mode transport or tunnel.
    Mode(SaMode),
    /// ESP in UDP only in mode transport.
    UdpEncap,
    /// A replay window of these sizes.
    Window(u32),
    /// A reqid, which rules in the NIC are joined by.
    Reqid,
    /// A soft limit below the hard one, and neither of them nothing.
    Limits(&'static str),
    /// No rules of TC in hardware on the uplink itself: a demand of the device.
    NoRules(UplinkRules),
}

impl std::fmt::Display for Demand {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Esp(proto) => write!(f, "it is of protocol {proto}, and NICs carry ESP alone"),
            Self::AesGcm(name) => write!(f, "its algorithm is {name}, and NICs carry {AES_GCM} alone"),
            Self::Tag(bits) => write!(f, "its tag has {bits} bits, and NICs carry tags of 128 alone"),
            Self::Key(bits) => write!(f, "its key has {bits} bits, and NICs carry keys of 128 and 256 alone"),
            Self::Selector(proto) => {
                write!(f, "its selector is of protocol {proto}, and NICs carry any, TCP or UDP alone")
            }
            Self::Mode(mode) => write!(f, "it is of {mode}, and NICs carry modes transport and tunnel alone"),
            Self::UdpEncap => f.write_str("it is ESP in UDP, which NICs carry in mode transport alone"),
            Self::Window(packets) => {
                write!(f, "its replay window is {packets} packets, and NICs have 32, 64, 128 and 256 alone")
            }
            Self::Reqid => f.write_str("it has no reqid, by which NICs join policies to it"),
            Self::Limits(what) => {
                write!(f, "its soft limit of {what} is not below its hard one, or one of them is 0")
            }
            Self::NoRules(rules) => {
                write!(f, "{rules}, and NICs carry either rules of the uplink itself or IPsec of mode packet")
            }
        }
    }
}

/// What of a NIC's demands a security association of mode packet does not meet; `direction` is the way of its packets, where
/// it is known.
pub fn demands(sa: &Sa, direction: Option<SaDirection>) -> Vec<Demand> {
    let mut unmet = Vec::new();
    let mut unless = |met: bool, demand: Demand| {
        if !met {
            unmet.push(demand);
        }
    };
    if sa.id.proto != ESP {
        return vec![Demand::Esp(sa.id.proto)];
    }
    match &sa.algorithms {
        [Some(Algorithm { name, key_bits, icv_bits }), None] if &**name == AES_GCM => {
            let tag = icv_bits.unwrap_or_default();
            unless(tag == 128, Demand::Tag(tag));
            let key = key_bits.saturating_sub(SALT);
            unless([128, 256].contains(&key), Demand::Key(key));
        }
        algorithms => {
            let names: Vec<&str> = algorithms.iter().flatten().map(|algorithm| &*algorithm.name).collect();
            let names = if names.is_empty() { "none".to_owned() } else { names.join(" with ") };
            unless(false, Demand::AesGcm(names));
        }
    }
    unless(SELECTOR_PROTOCOLS.contains(&sa.selector.proto), Demand::Selector(sa.selector.proto));
    unless(matches!(sa.mode, SaMode::Transport | SaMode::Tunnel), Demand::Mode(sa.mode));
    unless(!sa.udp_encap || sa.mode == SaMode::Transport, Demand::UdpEncap);
    let guards = sa.esn && direction != Some(SaDirection::Out);
    unless(!guards || REPLAY_WINDOWS.contains(&sa.replay.window), Demand::Window(sa.replay.window));
    unless(sa.reqid.0 != 0, Demand::Reqid);
    unless(are_good(sa.lifetime.bytes), Demand::Limits("bytes"));
    unless(are_good(sa.lifetime.packets), Demand::Limits("packets"));
    unmet
}

/// What of it the security associations of a connection will not meet, and what the uplink that has our end does not, known before it is
/// tried; none where no NIC is asked to do all of IPsec. `rules` are those of that uplink, where its NIC minds them.
pub fn unmet(connection: &Connection, rules: Option<&UplinkRules>) -> Vec<Demand> {
    if !matches!(connection.offload, Offload::Packet | Offload::Auto) {
        return Vec::new();
    }
    let planned = Planned::of(connection);
    let mut unmet = Vec::new();
    let mut unless = |met: bool, demand: Demand| {
        if !met {
            unmet.push(demand);
        }
    };
    unless(planned.icv_bits == 128, Demand::Tag(planned.icv_bits));
    unless([128, 256].contains(&planned.key_bits), Demand::Key(planned.key_bits));
    // Of the policy: the security association has none.
    let (protocol, _) = connection.carries.protocol();
    unless(SELECTOR_PROTOCOLS.contains(&protocol), Demand::Selector(protocol));
    let window = planned.replay_window;
    unless(!planned.esn || REPLAY_WINDOWS.contains(&window), Demand::Window(window));
    if let Some(rules) = rules.filter(|rules| rules.in_hw > 0) {
        unless(false, Demand::NoRules(rules.clone()));
    }
    unmet
}

/// No limit is above every other.
fn are_good(Limit { soft, hard }: Limit) -> bool {
    let above = |limit: Option<u64>| limit.unwrap_or(u64::MAX);
    soft != Some(0) && hard != Some(0) && (hard.is_none() || above(soft) < above(hard))
}

#[cfg(test)]
mod tests {
    use super::super::sample::sa;
    use super::*;
    use netlink_wire::xfrm::Reqid;

    #[test]
    fn what_meets_every_demand_is_carried() {
        assert_eq!(demands(&sa(1), None), []);
    }

    #[test]
    fn each_demand_that_is_not_met_is_named_and_no_other() {
        type Change = fn(&mut Sa);
        fn algorithm(sa: &mut Sa) -> &mut Algorithm {
            sa.algorithms[0].as_mut().unwrap()
        }
        let cases: &[(Change, Demand)] = &[
            (|sa| sa.id.proto = 51, Demand::Esp(51)),
            (|sa| algorithm(sa).name = "cbc(aes)".into(), Demand::AesGcm("cbc(aes)".into())),
            (|sa| sa.algorithms = [None, None], Demand::AesGcm("none".into())),
            (|sa| algorithm(sa).icv_bits = Some(64), Demand::Tag(64)),
            (|sa| algorithm(sa).key_bits = 192 + 32, Demand::Key(192)),
            (|sa| sa.selector.proto = 47, Demand::Selector(47)),
            (|sa| sa.mode = SaMode::Other(4), Demand::Mode(SaMode::Other(4))),
            (|sa| (sa.mode, sa.udp_encap) = (SaMode::Tunnel, true), Demand::UdpEncap),
            (|sa| sa.replay.window = 512, Demand::Window(512)),
            (|sa| sa.reqid = Reqid(0), Demand::Reqid),
            (|sa| sa.lifetime.bytes = Limit { soft: Some(9), hard: Some(9) }, Demand::Limits("bytes")),
            (|sa| sa.lifetime.bytes = Limit { soft: Some(0), hard: None }, Demand::Limits("bytes")),
            (|sa| sa.lifetime.packets = Limit { soft: None, hard: Some(9) }, Demand::Limits("packets")),
        ];
        for (change, demand) in cases {
            let mut changed = sa(1);
            change(&mut changed);
            assert_eq!(demands(&changed, None), std::slice::from_ref(demand), "{demand}");
        }
    }

    #[test]
    fn rules_in_hardware_on_the_uplink_are_a_demand_of_mode_packet_alone() {
        let options = [("psk", "x"), ("remote_ip", "192.0.2.2")];
        let options = options.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        let row = ipsec_drive::TunnelRow::read("tun0", "geneve", &options).unwrap();
        let rules = |in_hw| UplinkRules { uplink: "eth0".into(), filters: 3, in_hw };
        let unmet = |offload, in_hw| {
            let wanted =
                ipsec_drive::wanted(std::slice::from_ref(&row), &ipsec_drive::Host::default(), offload);
            unmet(wanted.connections.values().next().unwrap(), Some(&rules(in_hw)))
        };
        let named = [Demand::NoRules(rules(2))];
        let sentence = named[0].to_string();
        assert!(
            sentence
                .starts_with("uplink eth0 has 3 filters, of which 2 are in hardware, and NICs carry either")
        );
        assert_eq!(unmet(Offload::Packet, 0), []);
        assert_eq!(unmet(Offload::Packet, 2), named);
        assert_eq!(unmet(Offload::Auto, 2), named);
        assert_eq!(unmet(Offload::Crypto, 2), []);
        assert_eq!(unmet(Offload::None, 2), []);
    }

    #[test]
    fn the_replay_window_matters_for_packets_that_come_in() {
        let mut wide = sa(1);
        wide.replay.window = 512;
        assert_eq!(demands(&wide, Some(SaDirection::Out)), []);
        assert_eq!(demands(&wide, Some(SaDirection::In)), [Demand::Window(512)]);
        wide.esn = false;
        assert_eq!(demands(&wide, Some(SaDirection::In)), []);
    }
}
