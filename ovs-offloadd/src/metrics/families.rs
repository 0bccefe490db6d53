//! The table of metric families, and the text of a scrape.

use std::fmt::{Display, Write as _};

use crate::ctl::policy::RuleView;
use crate::ctl::views::{Amount, GroupView, PortView, Split, StatusView};

/// What a family's values are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Never falls while the daemon runs.
    Counter,
    /// A state.
    Gauge,
}

impl Kind {
    /// The word of the exposition format.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
        }
    }
}

/// A metric family.
#[derive(Debug)]
pub struct Family {
    /// Name, with its unit.
    pub name: &'static str,
    /// Counter or gauge.
    pub kind: Kind,
    /// Names of the labels, in the order of the values.
    pub labels: &'static [&'static str],
    /// One sentence.
    pub help: &'static str,
    pub(super) samples: fn(&StatusView, &[PortView], &mut Samples<'_>),
}

/// Most ports that get series of their own; the rest is summed up as port `other`.
const PORTS_MAX: usize = 1_000;

/// Every family there is, in the order of a scrape.
pub fn families() -> impl Iterator<Item = &'static Family> {
    FAMILIES
        .iter()
        .chain(super::inventory::FAMILIES)
        .chain(super::ipsec::FAMILIES)
        .chain(super::openflow::FAMILIES)
}

/// Those about flows, and the daemon itself.
static FAMILIES: &[Family] = &[
    Family {
        name: "offloadd_info",
        kind: Kind::Gauge,
        labels: &["version", "mode", "ovs_version"],
        help: "Always 1; what runs, in the labels.",
        samples: |status, _, out| {
            let ovs = status.ovs_version.as_deref().unwrap_or("unknown");
            out.put(&[status.version, status.mode, ovs], 1);
        },
    },
    Family {
        name: "offloadd_uptime_seconds",
        kind: Kind::Gauge,
        labels: &[],
        help: "Time since the daemon started.",
        samples: |status, _, out| out.put(&[], status.uptime_s),
    },
    Family {
        name: "offloadd_packets_total",
        kind: Kind::Counter,
        labels: &["placement"],
        help: "Packets forwarded, by hardware and by software.",
        samples: |status, _, out| {
            out.put(&["hardware"], status.traffic.hardware.packets);
            out.put(&["software"], status.traffic.software.packets);
        },
    },
    Family {
        name: "offloadd_bytes_total",
        kind: Kind::Counter,
        labels: &["placement"],
        help: "Bytes forwarded, Ethernet headers included.",
        samples: |status, _, out| {
            out.put(&["hardware"], status.traffic.hardware.bytes);
            out.put(&["software"], status.traffic.software.bytes);
        },
    },
    Family {
        name: "offloadd_port_packets_total",
        kind: Kind::Counter,
        labels: &["port", "nic", "placement"],
        help: "Packets that came in by a port.",
        samples: |_, ports, out| {
            out.put_ports(ports, |split| [split.hardware.packets, split.software.packets])
        },
    },
    Family {
        name: "offloadd_port_bytes_total",
        kind: Kind::Counter,
        labels: &["port", "nic", "placement"],
        help: "Bytes that came in by a port.",
        samples: |_, ports, out| out.put_ports(ports, |split| [split.hardware.bytes, split.software.bytes]),
    },
    Family {
        name: "offloadd_locality_packets_total",
        kind: Kind::Counter,
        labels: &["locality", "placement"],
        help: "Packets by how far they travelled; those of flows outside of TC are unknown.",
        samples: |status, _, out| out.put_groups(&status.localities, |amount| amount.packets),
    },
    Family {
        name: "offloadd_locality_bytes_total",
        kind: Kind::Counter,
        labels: &["locality", "placement"],
        help: "Bytes by how far they travelled.",
        samples: |status, _, out| out.put_groups(&status.localities, |amount| amount.bytes),
    },
    Family {
        name: "offloadd_namespace_packets_total",
        kind: Kind::Counter,
        labels: &["namespace", "placement"],
        help: "Packets of workloads by Kubernetes namespace: the first 64, and the rest as (other).",
        samples: |status, _, out| out.put_groups(&status.namespaces, |amount| amount.packets),
    },
    Family {
        name: "offloadd_namespace_bytes_total",
        kind: Kind::Counter,
        labels: &["namespace", "placement"],
        help: "Bytes of workloads by Kubernetes namespace.",
        samples: |status, _, out| out.put_groups(&status.namespaces, |amount| amount.bytes),
    },
    Family {
        name: "offloadd_flows",
        kind: Kind::Gauge,
        labels: &["placement"],
        help: "Datapath flows: in hardware, in TC's software path, in the kernel datapath.",
        samples: |status, _, out| {
            out.put(&["hardware"], status.flows.hardware);
            out.put(&["tc_software"], status.flows.tc_software);
            out.put(&["datapath"], status.flows.datapath);
        },
    },
    Family {
        name: "offloadd_software_flows",
        kind: Kind::Gauge,
        labels: &["reason"],
        help: "Flows in software, by the reason why they are not in hardware.",
        samples: |status, _, out| {
            for count in &status.flows.software_by_reason {
                out.put(&[count.reason], count.flows);
            }
        },
    },
    Family {
        name: "offloadd_rule_flows",
        kind: Kind::Gauge,
        labels: &["rule", "placement"],
        help: "Flows in TC that a rule of the policy decides about; rule (default) stands for what no rule matches.",
        samples: |status, _, out| {
            out.put_rules(status, |rule| [rule.in_hardware, rule.flows.saturating_sub(rule.in_hardware)])
        },
    },
    Family {
        name: "offloadd_rule_packets_total",
        kind: Kind::Counter,
        labels: &["rule", "placement"],
        help: "Packets of the flows that a rule decided about.",
        samples: |status, _, out| {
            out.put_rules(status, |rule| [rule.hardware.packets, rule.software.packets])
        },
    },
    Family {
        name: "offloadd_rule_bytes_total",
        kind: Kind::Counter,
        labels: &["rule", "placement"],
        help: "Bytes of the flows that a rule decided about.",
        samples: |status, _, out| out.put_rules(status, |rule| [rule.hardware.bytes, rule.software.bytes]),
    },
    Family {
        name: "offloadd_untracked_flows",
        kind: Kind::Gauge,
        labels: &[],
        help: "Flows beyond limits.flows-max, left in software.",
        samples: |status, _, out| out.put(&[], status.flows.untracked),
    },
    Family {
        name: "offloadd_nic_entries",
        kind: Kind::Gauge,
        labels: &["nic", "driver"],
        help: "Entries of a NIC that are used.",
        samples: |status, _, out| {
            for nic in &status.nics {
                out.put(&[&nic.nic.to_string(), &nic.driver], nic.entries);
            }
        },
    },
    Family {
        name: "offloadd_nic_capacity_entries",
        kind: Kind::Gauge,
        labels: &["nic", "driver"],
        help: "Entries a NIC has room for; absent while unknown.",
        samples: |status, _, out| {
            for nic in &status.nics {
                if let Some(capacity) = nic.capacity {
                    out.put(&[&nic.nic.to_string(), &nic.driver], capacity);
                }
            }
        },
    },
    Family {
        name: "offloadd_nic_installs_per_second_max",
        kind: Kind::Gauge,
        labels: &["nic", "driver"],
        help: "Rules that are put in a NIC in a second at most, as configured or as learned; absent in mode observe.",
        samples: |status, _, out| {
            for nic in &status.nics {
                if let Some(most) = nic.installs_per_s_max {
                    out.put(&[&nic.nic.to_string(), &nic.driver], most);
                }
            }
        },
    },
    Family {
        name: "offloadd_nic_waiting_flows",
        kind: Kind::Gauge,
        labels: &["nic", "driver"],
        help: "Flows worth an entry of a NIC that wait for one.",
        samples: |status, _, out| {
            for nic in &status.nics {
                out.put(&[&nic.nic.to_string(), &nic.driver], nic.waiting);
            }
        },
    },
    Family {
        name: "offloadd_nic_promotions_total",
        kind: Kind::Counter,
        labels: &["nic", "driver"],
        help: "Rules moved into a NIC.",
        samples: |status, _, out| {
            for nic in &status.nics {
                out.put(&[&nic.nic.to_string(), &nic.driver], nic.promotions);
            }
        },
    },
    Family {
        name: "offloadd_nic_demotions_total",
        kind: Kind::Counter,
        labels: &["nic", "driver"],
        help: "Rules moved out of a NIC by us.",
        samples: |status, _, out| {
            for nic in &status.nics {
                out.put(&[&nic.nic.to_string(), &nic.driver], nic.demotions);
            }
        },
    },
    Family {
        name: "offloadd_nic_refusals_total",
        kind: Kind::Counter,
        labels: &["nic", "driver", "reason"],
        help: "Promotions that came to nothing, by reason.",
        samples: |status, _, out| {
            for nic in &status.nics {
                for (reason, refusals) in &nic.refusals {
                    out.put(&[&nic.nic.to_string(), &nic.driver, reason], refusals);
                }
            }
        },
    },
    Family {
        name: "offloadd_promotions_total",
        kind: Kind::Counter,
        labels: &[],
        help: "Rules moved into hardware.",
        samples: |status, _, out| out.put(&[], status.done.promotions),
    },
    Family {
        name: "offloadd_clean_promotions_total",
        kind: Kind::Counter,
        labels: &[],
        help: "Rules moved into hardware after ovs-vswitchd had saved their counters.",
        samples: |status, _, out| out.put(&[], status.done.clean_promotions),
    },
    Family {
        name: "offloadd_demotions_total",
        kind: Kind::Counter,
        labels: &[],
        help: "Rules moved out of hardware by us.",
        samples: |status, _, out| out.put(&[], status.done.demotions),
    },
    Family {
        name: "offloadd_gaps_total",
        kind: Kind::Counter,
        labels: &[],
        help: "Times that a rule of mode shadow went for a moment, lest its megaflow look idle to Open vSwitch (shadow.gaps).",
        samples: |status, _, out| out.put(&[], status.done.gaps),
    },
    Family {
        name: "offloadd_undone_promotions_total",
        kind: Kind::Counter,
        labels: &[],
        help: "Promotions that a change by Open vSwitch undid.",
        samples: |status, _, out| out.put(&[], status.done.undone),
    },
    Family {
        name: "offloadd_repaired_races_total",
        kind: Kind::Counter,
        labels: &[],
        help: "Changes by Open vSwitch that a command of ours undid, put right at once.",
        samples: |status, _, out| out.put(&[], status.done.races_repaired),
    },
    Family {
        name: "offloadd_lost_rules_total",
        kind: Kind::Counter,
        labels: &[],
        help: "Rules said to be in hardware that the hardware had lost.",
        samples: |status, _, out| out.put(&[], status.done.lost_in_hardware),
    },
    Family {
        name: "offloadd_missed_changes_total",
        kind: Kind::Counter,
        labels: &[],
        help: "Changes that no notification had told, found by a dump.",
        samples: |status, _, out| out.put(&[], status.done.changes_missed),
    },
    Family {
        name: "offloadd_malformed_messages_total",
        kind: Kind::Counter,
        labels: &[],
        help: "Messages of the kernel that could not be read and were dropped.",
        samples: |status, _, out| out.put(&[], status.done.malformed),
    },
    Family {
        name: "offloadd_foreign_filters",
        kind: Kind::Gauge,
        labels: &[],
        help: "TC filters at our ports that are not Open vSwitch's.",
        samples: |status, _, out| out.put(&[], status.done.foreign_filters),
    },
    Family {
        name: "offloadd_refused_flows",
        kind: Kind::Gauge,
        labels: &["reason"],
        help: "Flows in software because hardware refused them, by reason.",
        samples: |status, _, out| {
            let mut reasons: Vec<&str> = status.refused.iter().map(|refusal| refusal.reason).collect();
            reasons.sort_unstable();
            reasons.dedup();
            for reason in reasons {
                let of_reason = status.refused.iter().filter(|refusal| refusal.reason == reason);
                out.put(&[reason], of_reason.map(|refusal| refusal.flows).sum::<u64>());
            }
        },
    },
    Family {
        name: "offloadd_connection_up",
        kind: Kind::Gauge,
        labels: &["peer"],
        help: "1 if the connection is up: ovsdb, vswitchd, netlink, and the guard in mode shadow.",
        samples: |status, _, out| {
            for connection in &status.connections {
                out.put(&[connection.name], u8::from(connection.up));
            }
        },
    },
    Family {
        name: "offloadd_connection_losses_total",
        kind: Kind::Counter,
        labels: &["peer"],
        help: "Times a connection was lost; for netlink, times that notifications were lost.",
        samples: |status, _, out| {
            for connection in &status.connections {
                out.put(&[connection.name], connection.losses);
            }
        },
    },
    Family {
        name: "offloadd_configuration_ok",
        kind: Kind::Gauge,
        labels: &[],
        help: "1 if the written configuration is the one in force.",
        samples: |status, _, out| out.put(&[], u8::from(status.config_error.is_none())),
    },
];

/// Where a family's values go.
pub(super) struct Samples<'o> {
    out: &'o mut String,
    name: &'static str,
    labels: &'static [&'static str],
}

impl Samples<'_> {
    /// One value, with those of the labels.
    pub(super) fn put(&mut self, values: &[&str], value: impl Display) {
        debug_assert_eq!(values.len(), self.labels.len(), "{}", self.name);
        self.out.push_str(self.name);
        for (index, (label, text)) in self.labels.iter().zip(values).enumerate() {
            let open = if index == 0 { '{' } else { ',' };
            let _ = write!(self.out, "{open}{label}=\"");
            for c in text.chars() {
                match c {
                    '\\' => self.out.push_str("\\\\"),
                    '"' => self.out.push_str("\\\""),
                    '\n' => self.out.push_str("\\n"),
                    c => self.out.push(c),
                }
            }
            self.out.push('"');
        }
        if !values.is_empty() {
            self.out.push('}');
        }
        let _ = writeln!(self.out, " {value}");
    }

    /// A value for hardware and one for software, of every rule.
    fn put_rules(&mut self, status: &StatusView, values: impl Fn(&RuleView) -> [u64; 2]) {
        for rule in &status.rules {
            let name = rule.name.as_deref().unwrap_or(policies::rules::DEFAULT_NAME);
            let [hardware, software] = values(rule);
            self.put(&[name, "hardware"], hardware);
            self.put(&[name, "software"], software);
        }
    }

    fn put_groups(&mut self, groups: &[GroupView], pick: fn(&Amount) -> u64) {
        for group in groups {
            self.put(&[&group.name, "hardware"], pick(&group.traffic.hardware));
            self.put(&[&group.name, "software"], pick(&group.traffic.software));
        }
    }

    fn put_ports(&mut self, ports: &[PortView], pick: fn(&Split) -> [u64; 2]) {
        let (own, rest) = ports.split_at(ports.len().min(PORTS_MAX));
        for port in own {
            let nic = port.nic.map_or_else(String::new, |nic| nic.to_string());
            let [hardware, software] = pick(&port.traffic);
            self.put(&[&port.name, &nic, "hardware"], hardware);
            self.put(&[&port.name, &nic, "software"], software);
        }
        if !rest.is_empty() {
            let sum = rest.iter().map(|port| pick(&port.traffic)).fold([0_u64; 2], |sum, port| {
                [sum[0].saturating_add(port[0]), sum[1].saturating_add(port[1])]
            });
            self.put(&["other", "", "hardware"], sum[0]);
            self.put(&["other", "", "software"], sum[1]);
        }
    }
}

/// The text of a scrape (`text/plain; version=0.0.4`). Ports come in the order of their index.
pub fn render(status: &StatusView, ports: &[PortView]) -> String {
    let mut out = String::with_capacity(4096 + ports.len() * 320);
    for family in families() {
        let _ = writeln!(out, "# HELP {} {}", family.name, family.help);
        let _ = writeln!(out, "# TYPE {} {}", family.name, family.kind.word());
        (family.samples)(
            status,
            ports,
            &mut Samples { out: &mut out, name: family.name, labels: family.labels },
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ctl::views::sample;

    fn value(text: &str, series: &str) -> Option<String> {
        text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ').map(str::to_owned))
    }

    #[test]
    fn software_and_hardware_are_told_apart() {
        let text = render(&sample::status(), &[sample::port("sn0pf0vf0")]);
        assert_eq!(value(&text, "offloadd_packets_total{placement=\"hardware\"}").unwrap(), "9680");
        assert_eq!(value(&text, "offloadd_packets_total{placement=\"software\"}").unwrap(), "320");
        assert_eq!(
            value(&text, "offloadd_port_bytes_total{port=\"sn0pf0vf0\",nic=\"0\",placement=\"hardware\"}")
                .unwrap(),
            "7000"
        );
        assert_eq!(
            value(&text, "offloadd_nic_capacity_entries{nic=\"0\",driver=\"mlx5_core\"}").unwrap(),
            "1024"
        );
        let most = "offloadd_nic_installs_per_second_max{nic=\"0\",driver=\"mlx5_core\"}";
        assert_eq!(value(&text, most).unwrap(), "480");
        let refusals = "offloadd_nic_refusals_total{nic=\"0\",driver=\"mlx5_core\",reason=\"table_full\"}";
        assert_eq!(value(&text, refusals).unwrap(), "40");
        let namespace = "offloadd_namespace_packets_total{namespace=\"prod\",placement=\"hardware\"}";
        assert_eq!(value(&text, namespace).unwrap(), "700");
        let locality = "offloadd_locality_bytes_total{locality=\"cross-node\",placement=\"software\"}";
        assert_eq!(value(&text, locality).unwrap(), "20000");
        assert_eq!(value(&text, "offloadd_connection_up{peer=\"vswitchd\"}").unwrap(), "0");
        let of_nic = |name: &str, more: &str| {
            value(&text, &format!("offloadd_nic_{name}{{nic=\"0\",driver=\"mlx5_core\"{more}}}")).unwrap()
        };
        assert_eq!(of_nic("health_errors_total", ",reporter=\"fw\""), "3");
        assert_eq!(of_nic("representors", ",state=\"down\""), "1");
        assert_eq!(of_nic("resource_used_entries", ",resource=\"max_local_SFs\""), "4");
        assert_eq!((of_nic("virtual_functions", ""), of_nic("switchdev", "")), ("8".into(), "1".into()));
        assert_eq!(value(&text, "offloadd_configuration_ok").unwrap(), "0");
        let openflow = "offloadd_openflow_hardware_packets_total{bridge=\"br0\",table=\"7\"}";
        assert_eq!(value(&text, openflow).unwrap(), "9000");
        assert_eq!(value(&text, "offloadd_openflow_untold_packets").unwrap(), "3");
    }

    #[test]
    fn every_series_has_its_help_its_type_and_a_number() {
        let text = render(&sample::status(), &[sample::port("a"), sample::port("b")]);
        let mut family = String::new();
        for line in text.lines() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                family = help.split(' ').next().unwrap().to_owned();
            } else if let Some(kind) = line.strip_prefix("# TYPE ") {
                assert!(kind.starts_with(&family));
            } else {
                assert!(line.starts_with(&family), "{line}");
                line.rsplit(' ').next().unwrap().parse::<f64>().unwrap();
            }
        }
    }

    #[test]
    fn names_carry_units_and_counters_end_in_total() {
        for family in families() {
            assert!(family.name.starts_with("offloadd_"));
            assert_eq!(family.name.ends_with("_total"), family.kind == Kind::Counter, "{}", family.name);
            assert!(!family.labels.contains(&"ufid"));
        }
    }

    #[test]
    fn a_name_cannot_break_out_of_its_label() {
        let text = render(&sample::status(), &[sample::port("a\"} 1\n\\")]);
        assert!(text.contains("port=\"a\\\"} 1\\n\\\\\","), "{text}");
    }

    #[test]
    fn ports_beyond_the_bound_are_summed_up() {
        let ports: Vec<PortView> = (0..PORTS_MAX + 3).map(|n| sample::port(&format!("p{n}"))).collect();
        let text = render(&sample::status(), &ports);
        let expected = (Amount { packets: 7, bytes: 7_000 }.packets * 3).to_string();
        assert_eq!(
            value(&text, "offloadd_port_packets_total{port=\"other\",nic=\"\",placement=\"hardware\"}")
                .unwrap(),
            expected
        );
        assert_eq!(
            value(&text, "offloadd_port_packets_total{port=\"p1000\",nic=\"0\",placement=\"hardware\"}"),
            None
        );
    }
}
