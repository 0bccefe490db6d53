//! IPsec's security associations as they are shown, and the text of them. There is no key in any of it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use serde::Serialize;

use super::text::{number, table};
use crate::config::show_duration;

/// A soft and a hard limit; none for unlimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct LimitView {
    /// From here on a new one is asked for.
    pub soft: Option<u64>,
    /// From here on it is dead.
    pub hard: Option<u64>,
}

/// Where the guard against replay stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ReplayView {
    /// Packets it looks back.
    pub window: u32,
    /// The number of the last packet sent.
    pub sent: u64,
    /// The highest number of a packet received.
    pub received: u64,
    /// Packets outside of the window.
    pub outside_window: u32,
    /// Packets that came again.
    pub replayed: u32,
    /// Packets that were forged or broken.
    pub forged: u32,
}

/// A security association.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SaView {
    /// Security parameter index, `0x` and eight digits.
    pub spi: String,
    /// `esp`, `ah` or `comp`.
    pub protocol: String,
    /// `in`, `out` or `unknown`.
    pub direction: &'static str,
    /// Source of the packets on the wire.
    pub src: String,
    /// Destination.
    pub dst: String,
    /// `transport` or `tunnel`.
    pub mode: String,
    /// What policies find it by.
    pub reqid: u32,
    /// Mark and mask, where it has one.
    pub mark: Option<String>,
    /// Names and sizes in bits.
    pub algorithms: Vec<String>,
    /// `packet`, `crypto` or `none`.
    pub offload: &'static str,
    /// The device that carries it.
    pub device: Option<String>,
    /// Interfaces of Open vSwitch whose tunnel leads to its peer.
    pub tunnels: Vec<String>,
    /// OVN's name of the peer.
    pub chassis: Option<String>,
    /// The IKE daemon that made it: `charon` or `pluto`; `none` of what none of them did, and `unknown`.
    pub owner: &'static str,
    /// Bytes that it took.
    pub bytes: u64,
    /// Packets that it took.
    pub packets: u64,
    /// Seconds since it was added.
    pub age_s: u64,
    /// Extended sequence numbers.
    pub esn: bool,
    /// Whether ESP is put into UDP.
    pub udp_encap: bool,
    /// Limits there are, of `bytes`, `packets`, `age_s` and `used_s`.
    pub limits: BTreeMap<&'static str, LimitView>,
    /// The guard against replay.
    pub replay: ReplayView,
}

/// One explained.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SaWhy {
    /// Which.
    #[serde(flatten)]
    pub sa: SaView,
    /// Why it runs where it does.
    pub why: String,
    /// What of a NIC's demands for mode packet it does not meet.
    pub unmet: Vec<String>,
}

/// Security associations of one kind, summed up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SaGroupView {
    /// `packet`, `crypto` or `none`.
    pub offload: &'static str,
    /// `in`, `out` or `unknown`.
    pub direction: &'static str,
    /// How many there are.
    pub sas: u64,
    /// Bytes that they took since the daemon started, with those that are gone.
    pub bytes: u64,
    /// Packets.
    pub packets: u64,
    /// Packets outside of the replay window.
    pub outside_window: u64,
    /// Packets that came again.
    pub replayed: u64,
    /// Packets that were forged or broken.
    pub forged: u64,
}

/// IPsec at a glance.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct IpsecView {
    /// Security associations by where they are carried.
    pub groups: Vec<SaGroupView>,
    /// Policies there are.
    pub policies: u64,
    /// Soft limits that were reached.
    pub soft_expired: u64,
    /// Hard limits that were reached.
    pub hard_expired: u64,
    /// Packets that needed a security association that was not there.
    pub acquires: u64,
    /// Rows that were left out, for there are too many.
    pub left_out: u64,
    /// Tunnels that are driven, by what they ask a NIC for and what they have.
    pub tunnels: Vec<TunnelGroupView>,
    /// Moves of connections, by name: `to_nic`, `to_software`, `missed`; and `lost` children that were negotiated anew.
    pub moves: BTreeMap<&'static str, u64>,
    /// Entries of NICs that ranked connections have.
    pub entries: Vec<EntriesView>,
}

/// Tunnels that ask for the same and have the same.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct TunnelGroupView {
    /// `packet`, `crypto`, `auto` or `none`.
    pub asks: &'static str,
    /// `packet`, `crypto`, `none`, or `unknown` while not all is known.
    pub carried: &'static str,
    /// How many there are.
    pub tunnels: u64,
}

/// Entries of a NIC, as ranked connections have them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct EntriesView {
    /// The device that has our address; `unknown` where none is known.
    pub device: String,
    /// In use, those on their way included.
    pub used: u32,
    /// So many are known to fit; none where that is not known.
    pub room: Option<u32>,
}

/// `12 SAs: 10 packet, 2 none`; none where there are no security associations.
pub fn summary(view: &IpsecView) -> Option<String> {
    let mut of: BTreeMap<&str, u64> = BTreeMap::new();
    view.groups.iter().for_each(|group| *of.entry(group.offload).or_default() += group.sas);
    let all: u64 = of.values().sum();
    let kinds = ["packet", "crypto", "none"].into_iter().filter_map(|kind| {
        let sas = of.get(kind).copied().filter(|sas| *sas > 0)?;
        let word = if kind == "none" { "software" } else { kind };
        Some(format!("{} {word}", number(sas)))
    });
    let kinds = kinds.collect::<Vec<_>>().join(", ");
    let left_out = match view.left_out {
        0 => String::new(),
        more => format!("; {} more are not kept", number(more)),
    };
    (all > 0).then(|| format!("{} SAs: {kinds}{left_out}   → ovs-offloadctl sa list", number(all)))
}

/// Security associations in rows.
pub fn sa_list(sas: &[SaView], width: Option<u16>) -> String {
    let head = [
        ("spi", false),
        ("dir", false),
        ("src", false),
        ("dst", false),
        ("mode", false),
        ("offload", false),
        ("device", false),
        ("tunnel", false),
        ("chassis", false),
        ("owner", false),
        ("packets", true),
        ("bytes", true),
        ("age", true),
    ];
    let dash = |text: Option<&str>| text.filter(|text| !text.is_empty()).unwrap_or("-").to_owned();
    let rows = sas.iter().map(|sa| {
        vec![
            sa.spi.clone(),
            sa.direction.to_owned(),
            sa.src.clone(),
            sa.dst.clone(),
            sa.mode.clone(),
            sa.offload.to_owned(),
            dash(sa.device.as_deref()),
            dash(Some(&sa.tunnels.join(", "))),
            dash(sa.chassis.as_deref()),
            sa.owner.to_owned(),
            number(sa.packets),
            number(sa.bytes),
            show_duration(Duration::from_secs(sa.age_s)),
        ]
    });
    table(&head, width, rows)
}

/// Those with one SPI explained.
pub fn sa_why(found: &[SaWhy]) -> String {
    found.iter().map(one).collect::<Vec<_>>().join("\n")
}

fn one(SaWhy { sa, why, unmet }: &SaWhy) -> String {
    let mut out = String::new();
    let mut line = |name: &str, text: &str| {
        let _ = writeln!(out, "{name:<11} {text}");
    };
    line("sa", &format!("{} {} {} to {}, {}", sa.protocol, sa.spi, sa.src, sa.dst, sa.direction));
    line("mode", &sa.mode);
    line("algorithms", &sa.algorithms.join(", "));
    line("reqid", &sa.reqid.to_string());
    if let Some(mark) = &sa.mark {
        line("mark", mark);
    }
    let chassis = sa.chassis.as_ref().map_or_else(String::new, |chassis| format!(" (chassis {chassis})"));
    if !sa.tunnels.is_empty() || !chassis.is_empty() {
        line("protects", format!("{}{chassis}", sa.tunnels.join(", ")).trim());
    }
    line("made by", sa.owner);
    let device = sa.device.as_ref().map_or_else(String::new, |device| format!(" by {device}"));
    line("offload", &format!("{}{device}", sa.offload));
    line("why", why);
    let mut unmet = unmet.iter();
    if let Some(first) = unmet.next() {
        line("a NIC would", &format!("refuse mode packet: {first}"));
    } else if sa.offload != "packet" {
        line("a NIC would", "carry it in mode packet, as far as this can tell");
    }
    unmet.for_each(|more| line("", more));
    let traffic = format!("{} packets, {} bytes", number(sa.packets), number(sa.bytes));
    line("traffic", &traffic);
    line("age", &show_duration(Duration::from_secs(sa.age_s)));
    for (of, LimitView { soft, hard }) in &sa.limits {
        let text = |limit: &Option<u64>| limit.map_or_else(|| "none".to_owned(), number);
        line("limit", &format!("{}: soft {}, hard {}", of.replace("_s", " in s"), text(soft), text(hard)));
    }
    let replay = &sa.replay;
    let numbers = if sa.esn { "64-bit numbers" } else { "32-bit numbers" };
    line(
        "replay",
        &format!(
            "window {}, {numbers}, sent {}, received {}; {} outside, {} again, {} forged",
            replay.window,
            number(replay.sent),
            number(replay.received),
            number(replay.outside_window.into()),
            number(replay.replayed.into()),
            number(replay.forged.into())
        ),
    );
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sa() -> SaView {
        SaView {
            spi: "0x0000c0de".into(),
            protocol: "esp".into(),
            direction: "out",
            src: "192.0.2.1".into(),
            dst: "192.0.2.2".into(),
            mode: "transport".into(),
            reqid: 16_401,
            mark: None,
            algorithms: vec!["rfc4106(gcm(aes)) key 288 icv 128".into()],
            offload: "none",
            device: None,
            tunnels: vec!["ovn-abc-0".into()],
            chassis: Some("hv2".into()),
            owner: "charon",
            bytes: 12_345,
            packets: 67,
            age_s: 60,
            esn: true,
            udp_encap: false,
            limits: [("age_s", LimitView { soft: Some(3_240), hard: Some(3_600) })].into(),
            replay: ReplayView {
                window: 32,
                sent: 67,
                received: 0,
                outside_window: 0,
                replayed: 0,
                forged: 0,
            },
        }
    }

    #[test]
    fn a_security_association_is_explained() {
        let why = SaWhy {
            sa: sa(),
            why: "because".into(),
            unmet: vec!["it has no reqid".into(), "its tag is short".into()],
        };
        let expected = "\
sa          esp 0x0000c0de 192.0.2.1 to 192.0.2.2, out
mode        transport
algorithms  rfc4106(gcm(aes)) key 288 icv 128
reqid       16401
protects    ovn-abc-0 (chassis hv2)
made by     charon
offload     none
why         because
a NIC would refuse mode packet: it has no reqid
            its tag is short
traffic     67 packets, 12,345 bytes
age         1 min
limit       age in s: soft 3,240, hard 3,600
replay      window 32, 64-bit numbers, sent 67, received 0; 0 outside, 0 again, 0 forged
";
        assert_eq!(sa_why(&[why]), expected);
    }

    #[test]
    fn the_glance_counts_by_where_they_are_carried() {
        let group = |offload, direction, sas| SaGroupView {
            offload,
            direction,
            sas,
            bytes: 0,
            packets: 0,
            outside_window: 0,
            replayed: 0,
            forged: 0,
        };
        let mut view = IpsecView::default();
        assert_eq!(summary(&view), None);
        view.groups = vec![group("none", "in", 2), group("packet", "in", 5), group("packet", "out", 5)];
        assert_eq!(
            summary(&view).as_deref(),
            Some("12 SAs: 10 packet, 2 software   → ovs-offloadctl sa list")
        );
    }
}
