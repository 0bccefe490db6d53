//! What the control commands and the metrics show, as plain values: taken from the engine at one moment.
//!
//! Their JSON form is the `--output json` of ovs-offloadctl: names carry units, and fields are only ever added.

mod flow;
mod nic;

use serde::Serialize;

use super::inventory::BondView;
use super::openflow::OpenflowTables;
use super::policy::RuleView;
use super::sa::IpsecView;
use std::collections::BTreeMap;

pub use flow::{FlowView, FlowWhy, UnitPart, UnitView};
pub use nic::{DeclaredView, NicDeclaredView, NicView};

/// Packets and bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Amount {
    /// Packets.
    pub packets: u64,
    /// Bytes, Ethernet headers included.
    pub bytes: u64,
}

/// An amount by where the packets were forwarded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Split {
    /// By the host's CPUs.
    pub software: Amount,
    /// By the NIC.
    pub hardware: Amount,
}

impl Split {
    /// Share of the bytes that went through hardware, 0 to 1; none if nothing moved.
    pub fn bytes_share(&self) -> Option<f64> {
        share(self.hardware.bytes, self.software.bytes)
    }

    /// Share of the packets that went through hardware, 0 to 1; none if nothing moved.
    pub fn packets_share(&self) -> Option<f64> {
        share(self.hardware.packets, self.software.packets)
    }

    /// Packets in all.
    pub fn packets(&self) -> u64 {
        self.hardware.packets.saturating_add(self.software.packets)
    }

    /// Bytes in all.
    pub fn bytes(&self) -> u64 {
        self.hardware.bytes.saturating_add(self.software.bytes)
    }
}

fn share(part: u64, rest: u64) -> Option<f64> {
    let whole = part as f64 + rest as f64;
    (whole > 0.0).then(|| part as f64 / whole)
}

/// A connection to something outside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ConnectionView {
    /// `ovsdb`, `vswitchd`, `netlink`, `guard`, `ike` or `southbound`.
    pub name: &'static str,
    /// Whether it is up.
    pub up: bool,
    /// What there is to say beside, such as why it is down.
    pub detail: Option<String>,
    /// Times that messages were lost on it, or that it was lost.
    pub losses: u64,
}

/// Flows that are in software for one reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReasonCount {
    /// The reason, a word of a closed set.
    pub reason: &'static str,
    /// Flows.
    pub flows: u64,
}

/// Numbers of flows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct FlowCounts {
    /// All that are known.
    pub total: u64,
    /// In hardware.
    pub hardware: u64,
    /// In TC, in software.
    pub tc_software: u64,
    /// In the kernel datapath.
    pub datapath: u64,
    /// Those in software by reason, the most frequent first.
    pub software_by_reason: Vec<ReasonCount>,
    /// Not tracked, because `limits.flows-max` is reached.
    pub untracked: u64,
}

/// What was refused for one reason.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RefusalView {
    /// The reason, a word of a closed set.
    pub reason: &'static str,
    /// The driver's or the kernel's own words.
    pub text: String,
    /// Flows that are in software for it now.
    pub flows: u64,
    /// What they carry now, per second.
    pub rate: Amount,
}

/// What the inventory of NICs, ports and links was made from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct InventoryView {
    /// How long it took to read everything after the start, in milliseconds; none before that.
    pub complete_after_ms: Option<u64>,
    /// Questions asked of the kernel since start.
    pub questions: u64,
    /// Notifications by who tells them.
    pub heard: BTreeMap<&'static str, HeardView>,
    /// Ports of Open vSwitch without their network device.
    pub stale_ports: u64,
}

/// What was heard of one source.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct HeardView {
    /// Notifications.
    pub notifications: u64,
    /// Rows that they wrote or removed.
    pub updates: u64,
}

/// What was done since the start.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Deeds {
    /// Rules moved into hardware.
    pub promotions: u64,
    /// Of these, those for which ovs-vswitchd saved the counters first.
    pub clean_promotions: u64,
    /// Rules moved into hardware, per second of late.
    pub promotions_per_s: u64,
    /// Most installs per second and NIC; of the NIC that bears most.
    pub installs_per_s_max: u64,
    /// Rules moved out of hardware.
    pub demotions: u64,
    /// Times that a rule of mode shadow went for a moment, lest its megaflow look idle.
    pub gaps: u64,
    /// Promotions that a change by Open vSwitch undid.
    pub undone: u64,
    /// Changes by Open vSwitch that a command of ours undid, put right at once.
    pub races_repaired: u64,
    /// The longest time until that was put right, in microseconds.
    pub race_longest_us: u64,
    /// Flows that Open vSwitch was asked to decide about afresh.
    pub flows_cleared: u64,
    /// Rules said to be in hardware that the hardware had lost.
    pub lost_in_hardware: u64,
    /// Changes that no notification had told, found by a dump.
    pub changes_missed: u64,
    /// Filters at our ports that are not Open vSwitch's.
    pub foreign_filters: u64,
    /// Messages of the kernel that could not be read.
    pub malformed: u64,
}

/// A port of an Open vSwitch bridge.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PortView {
    /// Netdev name.
    pub name: String,
    /// Netdev index.
    pub ifindex: u32,
    /// Number in the kernel datapath.
    pub dp_port: Option<u32>,
    /// Bridge.
    pub bridge: String,
    /// `representor`, `uplink`, `tunnel`, `internal`, `other`.
    pub kind: &'static str,
    /// The NIC it belongs to.
    pub nic: Option<u16>,
    /// `hw-tc-offload`.
    pub hw_tc_offload: bool,
    /// The bond that it is.
    pub bond: Option<BondView>,
    /// `external_ids:iface-id`.
    pub iface_id: Option<String>,
    /// What it was plugged for: `NAMESPACE/POD`, a virtual machine's UUID, or the iface-id.
    pub workload: Option<String>,
    /// Who plugged it, a word of a closed set.
    pub orchestrator: Option<&'static str>,
    /// Whose it is.
    pub tenant: Option<String>,
    /// OVN's logical switch or router that it is on.
    pub logical_switch: Option<String>,
    /// Flows that come in by it.
    pub flows: u64,
    /// Those of them in hardware.
    pub flows_hardware: u64,
    /// What came in by it since start.
    pub traffic: Split,
    /// What comes in by it, per second.
    pub rate: Split,
}

/// What a group of flows carried since start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GroupView {
    /// The locality or the namespace.
    pub name: String,
    /// What it carried.
    pub traffic: Split,
}

/// What is known of the kernel as to flows that recirculation joins, as conntrack does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct RecirculationView {
    /// Whether it goes on in TC where a NIC stops (`CONFIG_NET_TC_SKB_EXT`): `works`, `missing`, or `unknown`.
    pub kernel: &'static str,
    /// Flows in software for that alone.
    pub held_back: u64,
}

/// The daemon at a glance.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StatusView {
    /// Our version.
    pub version: &'static str,
    /// `observe` or `steer`.
    pub mode: &'static str,
    /// Why not the mode that was asked for.
    pub mode_note: Option<String>,
    /// Hardware is kept empty on request.
    pub draining: bool,
    /// Flows that recirculation joins, and whether they can be in hardware.
    pub recirculation: RecirculationView,
    /// Time since start, in seconds.
    pub uptime_s: u64,
    /// Open vSwitch's version, if known.
    pub ovs_version: Option<String>,
    /// The kernel's release.
    pub kernel: String,
    /// What we are connected to.
    pub connections: Vec<ConnectionView>,
    /// Numbers of flows.
    pub flows: FlowCounts,
    /// What is carried now, per second.
    pub rate: Split,
    /// What was carried since start.
    pub traffic: Split,
    /// The same by how far packets travel; flows outside of TC are `unknown`.
    pub localities: Vec<GroupView>,
    /// The same by Kubernetes namespace: at most 64 of them, the rest as `(other)`.
    pub namespaces: Vec<GroupView>,
    /// Rules of the policy, the default last; `policy show` tells of them.
    #[serde(skip)]
    pub rules: Vec<RuleView>,
    /// NICs.
    pub nics: Vec<NicView>,
    /// What the inventory was made from.
    pub inventory: InventoryView,
    /// IPsec's security associations.
    pub ipsec: IpsecView,
    /// What hardware took of OpenFlow rules in mode shadow; `openflow list` tells of it.
    #[serde(skip)]
    pub openflow: OpenflowTables,
    /// NICs that the configuration declares.
    pub declared: Vec<DeclaredView>,
    /// What was refused, the most flows first.
    pub refused: Vec<RefusalView>,
    /// What was done since start.
    pub done: Deeds,
    /// What is wrong with the configuration, if the running one is not the written one.
    pub config_error: Option<String>,
    /// Keys whose change waits for a restart.
    pub restart_needed: Vec<&'static str>,
    /// Other things that need attention.
    pub notes: Vec<String>,
}

/// Views for tests.
#[cfg(test)]
pub(crate) mod sample {
    use super::*;
    use crate::ctl::inventory::{HealthSum, NicBondView, ResourceView};
    use crate::ctl::sa::SaGroupView;
    use crate::nics::Difference;

    pub(crate) fn split(hardware: u64, software: u64) -> Split {
        let amount = |packets: u64| Amount { packets, bytes: packets * 1000 };
        Split { software: amount(software), hardware: amount(hardware) }
    }

    pub(crate) fn status() -> StatusView {
        StatusView {
            version: "0.1.0",
            mode: "steer",
            mode_note: None,
            draining: false,
            recirculation: RecirculationView { kernel: "works", held_back: 0 },
            uptime_s: 273_600,
            ovs_version: Some("3.5.0".into()),
            kernel: "6.12.117".into(),
            connections: vec![
                ConnectionView { name: "ovsdb", up: true, detail: None, losses: 0 },
                ConnectionView { name: "vswitchd", up: false, detail: Some("not running".into()), losses: 2 },
                ConnectionView { name: "netlink", up: true, detail: None, losses: 0 },
            ],
            flows: FlowCounts {
                total: 48_211,
                hardware: 1_020,
                tc_software: 47_000,
                datapath: 191,
                software_by_reason: vec![
                    ReasonCount { reason: "cold", flows: 47_112 },
                    ReasonCount { reason: "table_full", flows: 79 },
                ],
                untracked: 0,
            },
            rate: split(974, 26),
            traffic: split(9_680, 320),
            localities: vec![GroupView { name: "cross-node".into(), traffic: split(9_000, 20) }],
            namespaces: vec![GroupView { name: "prod".into(), traffic: split(700, 3) }],
            rules: vec![RuleView {
                tenant_from: None,
                number: None,
                name: None,
                condition: None,
                place: "auto",
                tenant: None,
                max_entries: None,
                installs_per_s: None,
                flows: 48_020,
                in_hardware: 1_020,
                decided: 60_000,
                rate: Amount::default(),
                hardware: Amount { packets: 9_680, bytes: 9_680_000 },
                software: Amount { packets: 300, bytes: 300_000 },
            }],
            nics: vec![NicView {
                draining: Some(false),
                nic: 0,
                driver: "mlx5_core".into(),
                devlink: "pci/0000:03:00.0".into(),
                switch_id: "00".into(),
                eswitch_mode: "switchdev".into(),
                entries: 1_020,
                capacity: Some(1_024),
                capacity_learned: true,
                installs_per_s_max: Some(480),
                installs_learned: true,
                foreign: 0,
                waiting: 12,
                in_flight: 3,
                promotions: 5_000,
                demotions: 3_980,
                refusals: [("driver", 18), ("table_full", 40)].into(),
                pci_address: Some("0000:03:00.0".into()),
                inline_mode: Some("none".into()),
                encap_mode: Some("basic".into()),
                firmware: Some("22.39.1002".into()),
                serial: Some("MT2116X".into()),
                vfs: 8,
                vfs_max: Some(127),
                sfs: 0,
                ports: 9,
                external_ports: 0,
                representors: [("up", 7), ("down", 1)].into(),
                health: Some("error"),
                health_errors: [("fw".to_owned(), HealthSum { errors: 3, recoveries: 2, in_error: 1 })]
                    .into(),
                reload_failed: false,
                shares_entries_with: None,
                declared: Some(NicDeclaredView::new(
                    vec![Difference { key: "vf3 link".into(), declared: "up".into(), actual: "down".into() }],
                    None,
                )),
                bonds: vec![NicBondView {
                    bond: "bond0".into(),
                    netdev: "ens1f0".into(),
                    active: Some(true),
                    link_up: Some(true),
                    failovers: 2,
                }],
                resources: vec![ResourceView {
                    resource: "max_local_SFs".into(),
                    size: 256,
                    size_new: None,
                    used: Some(4),
                }],
            }],
            inventory: InventoryView {
                complete_after_ms: Some(41),
                questions: 12,
                heard: [("link", HeardView { notifications: 5, updates: 4 })].into(),
                stale_ports: 1,
            },
            openflow: OpenflowTables {
                tables: vec![("br0".into(), "7".into(), Amount { packets: 9_000, bytes: 900_000 })],
                untold: Amount { packets: 3, bytes: 300 },
            },
            ipsec: IpsecView {
                groups: vec![
                    sa_group("packet", "in", 5),
                    sa_group("packet", "out", 5),
                    sa_group("none", "out", 2),
                ],
                policies: 12,
                ..IpsecView::default()
            },
            declared: Vec::new(),
            refused: vec![RefusalView {
                reason: "driver",
                text: "chain out of range".into(),
                flows: 18,
                rate: Amount { packets: 1, bytes: 11_250_000 },
            }],
            done: Deeds {
                promotions: 5_000,
                promotions_per_s: 41,
                installs_per_s_max: 1_000,
                demotions: 3_980,
                gaps: 12,
                ..Deeds::default()
            },
            config_error: Some("c.toml:1:1: unknown key x".into()),
            restart_needed: vec![],
            notes: vec![],
        }
    }

    fn sa_group(offload: &'static str, direction: &'static str, sas: u64) -> SaGroupView {
        let (bytes, packets) = (sas * 1_000, sas);
        SaGroupView { offload, direction, sas, bytes, packets, outside_window: 0, replayed: 1, forged: 0 }
    }

    pub(crate) fn port(name: &str) -> PortView {
        PortView {
            name: name.into(),
            ifindex: 7,
            dp_port: Some(2),
            bridge: "br0".into(),
            kind: "representor",
            nic: Some(0),
            hw_tc_offload: true,
            bond: None,
            iface_id: None,
            workload: None,
            orchestrator: None,
            tenant: None,
            logical_switch: None,
            flows: 3,
            flows_hardware: 1,
            traffic: split(7, 1),
            rate: split(0, 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_nothing_is_no_share() {
        assert_eq!(Split::default().bytes_share(), None);
        let split = Split {
            software: Amount { packets: 1, bytes: u64::MAX },
            hardware: Amount { packets: 3, bytes: u64::MAX },
        };
        assert_eq!(split.packets_share(), Some(0.75));
        assert_eq!(split.bytes_share(), Some(0.5));
        assert_eq!(split.bytes(), u64::MAX);
    }
}
