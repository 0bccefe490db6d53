//! Metric families about IPsec: by where a security association is carried and which way it goes, never by SPI.

use super::families::{Family, Kind, Samples};
use crate::ctl::sa::SaGroupView;
use crate::ctl::views::StatusView;

const LABELS: &[&str] = &["offload", "direction"];

/// The families.
pub(super) static FAMILIES: &[Family] = &[
    Family {
        name: "offloadd_ipsec_sas",
        kind: Kind::Gauge,
        labels: LABELS,
        help: "IPsec's security associations: carried in whole by a device (packet), ciphers alone (crypto), or in software (none).",
        samples: |status, _, out| out.put_sas(status, |group| group.sas),
    },
    Family {
        name: "offloadd_ipsec_bytes_total",
        kind: Kind::Counter,
        labels: LABELS,
        help: "Bytes that security associations took, with those that are gone; read for each scrape.",
        samples: |status, _, out| out.put_sas(status, |group| group.bytes),
    },
    Family {
        name: "offloadd_ipsec_packets_total",
        kind: Kind::Counter,
        labels: LABELS,
        help: "Packets that they took.",
        samples: |status, _, out| out.put_sas(status, |group| group.packets),
    },
    Family {
        name: "offloadd_ipsec_dropped_packets_total",
        kind: Kind::Counter,
        labels: &["offload", "direction", "reason"],
        help: "Packets that they dropped: outside of the replay window, replayed, or forged.",
        samples: |status, _, out| {
            for group in &status.ipsec.groups {
                let reasons = [
                    ("outside_window", group.outside_window),
                    ("replayed", group.replayed),
                    ("forged", group.forged),
                ];
                for (reason, packets) in reasons {
                    out.put(&[group.offload, group.direction, reason], packets);
                }
            }
        },
    },
    Family {
        name: "offloadd_ipsec_policies",
        kind: Kind::Gauge,
        labels: &[],
        help: "IPsec's policies.",
        samples: |status, _, out| out.put(&[], status.ipsec.policies),
    },
    Family {
        name: "offloadd_ipsec_expired_total",
        kind: Kind::Counter,
        labels: &["limit"],
        help: "Security associations that reached their soft limit, or ended at their hard one.",
        samples: |status, _, out| {
            out.put(&["soft"], status.ipsec.soft_expired);
            out.put(&["hard"], status.ipsec.hard_expired);
        },
    },
    Family {
        name: "offloadd_ipsec_acquires_total",
        kind: Kind::Counter,
        labels: &[],
        help: "Times that packets needed a security association that was not there.",
        samples: |status, _, out| out.put(&[], status.ipsec.acquires),
    },
    Family {
        name: "offloadd_ipsec_tunnels",
        kind: Kind::Gauge,
        labels: &["asks", "offload"],
        help: "Tunnels that are driven: what a NIC is being asked for, and what they have (unknown while they are not up).",
        samples: |status, _, out| {
            for group in &status.ipsec.tunnels {
                out.put(&[group.asks, group.carried], group.tunnels);
            }
        },
    },
    Family {
        name: "offloadd_ipsec_moves_total",
        kind: Kind::Counter,
        labels: &["what"],
        help: "Tunnels' connections that came into a NIC (to_nic), left it (to_software), or were to come and did not (missed); and \
               children that the kernel lost (lost).",
        samples: |status, _, out| {
            for (what, moves) in &status.ipsec.moves {
                out.put(&[*what], *moves);
            }
        },
    },
    Family {
        name: "offloadd_ipsec_entries",
        kind: Kind::Gauge,
        labels: &["device"],
        help: "Entries that tunnels with offload auto have, by the device that has this host's address.",
        samples: |status, _, out| {
            for entries in &status.ipsec.entries {
                out.put(&[entries.device.as_str()], u64::from(entries.used));
            }
        },
    },
    Family {
        name: "offloadd_ipsec_entries_max",
        kind: Kind::Gauge,
        labels: &["device"],
        help: "Entries that are known to fit: configured, or learned from refusals.",
        samples: |status, _, out| {
            for (entries, room) in status.ipsec.entries.iter().filter_map(|of| Some((of, of.room?))) {
                out.put(&[entries.device.as_str()], u64::from(room));
            }
        },
    },
    Family {
        name: "offloadd_ipsec_rows_left_out",
        kind: Kind::Gauge,
        labels: &[],
        help: "Security associations and policies that are not kept, for there are too many.",
        samples: |status, _, out| out.put(&[], status.ipsec.left_out),
    },
];

impl Samples<'_> {
    /// A value of every group.
    fn put_sas(&mut self, status: &StatusView, value: fn(&SaGroupView) -> u64) {
        for group in &status.ipsec.groups {
            self.put(&[group.offload, group.direction], value(group));
        }
    }
}
