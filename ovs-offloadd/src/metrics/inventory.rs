//! Metric families about NICs, their functions and ports.

use std::collections::BTreeMap;

use super::families::{Family, Kind, Samples};
use crate::ctl::inventory::{HealthSum, ResourceView};
use crate::ctl::views::StatusView;

/// Most resources of a NIC that get series.
const RESOURCES_MAX: usize = 64;

/// The families.
pub(super) static FAMILIES: &[Family] = &[
    Family {
        name: "offloadd_nic_info",
        kind: Kind::Gauge,
        labels: &["nic", "driver", "devlink", "firmware", "eswitch_mode"],
        help: "Always 1; what a NIC is, in the labels.",
        samples: |status, _, out| {
            for nic in &status.nics {
                let firmware = nic.firmware.as_deref().unwrap_or("unknown");
                out.put(&[&nic.nic.to_string(), &nic.driver, &nic.devlink, firmware, &nic.eswitch_mode], 1);
            }
        },
    },
    Family {
        name: "offloadd_nic_switchdev",
        kind: Kind::Gauge,
        labels: &["nic", "driver"],
        help: "1 if a NIC's eswitch is in mode switchdev.",
        samples: |status, _, out| {
            for nic in &status.nics {
                let is_switchdev = nic.eswitch_mode == "switchdev";
                out.put(&[&nic.nic.to_string(), &nic.driver], u8::from(is_switchdev));
            }
        },
    },
    Family {
        name: "offloadd_nic_virtual_functions",
        kind: Kind::Gauge,
        labels: &["nic", "driver"],
        help: "Virtual functions of a NIC.",
        samples: |status, _, out| {
            for nic in &status.nics {
                out.put(&[&nic.nic.to_string(), &nic.driver], nic.vfs);
            }
        },
    },
    Family {
        name: "offloadd_nic_virtual_functions_max",
        kind: Kind::Gauge,
        labels: &["nic", "driver"],
        help: "Virtual functions a NIC can have; absent where it has no SR-IOV.",
        samples: |status, _, out| {
            for nic in &status.nics {
                if let Some(most) = nic.vfs_max {
                    out.put(&[&nic.nic.to_string(), &nic.driver], most);
                }
            }
        },
    },
    Family {
        name: "offloadd_nic_sub_functions",
        kind: Kind::Gauge,
        labels: &["nic", "driver"],
        help: "Sub-functions of a NIC.",
        samples: |status, _, out| {
            for nic in &status.nics {
                out.put(&[&nic.nic.to_string(), &nic.driver], nic.sfs);
            }
        },
    },
    Family {
        name: "offloadd_nic_representors",
        kind: Kind::Gauge,
        labels: &["nic", "driver", "state"],
        help: "Representors: up, no_carrier, down, or absent where there is no network device in this namespace.",
        samples: |status, _, out| {
            for nic in &status.nics {
                for (state, representors) in &nic.representors {
                    out.put(&[&nic.nic.to_string(), &nic.driver, state], representors);
                }
            }
        },
    },
    Family {
        name: "offloadd_nic_health_errors_total",
        kind: Kind::Counter,
        labels: &["nic", "driver", "reporter"],
        help: "Errors that a NIC's health reporters reported since its driver was bound, those of its ports included.",
        samples: |status, _, out| out.put_health(status, |sum| sum.errors),
    },
    Family {
        name: "offloadd_nic_health_recoveries_total",
        kind: Kind::Counter,
        labels: &["nic", "driver", "reporter"],
        help: "Recoveries from such errors.",
        samples: |status, _, out| out.put_health(status, |sum| sum.recoveries),
    },
    Family {
        name: "offloadd_nic_health_reporters_in_error",
        kind: Kind::Gauge,
        labels: &["nic", "driver", "reporter"],
        help: "Health reporters that are in error now.",
        samples: |status, _, out| out.put_health(status, |sum| sum.in_error),
    },
    Family {
        name: "offloadd_nic_bond_active",
        kind: Kind::Gauge,
        labels: &["nic", "driver", "bond", "netdev"],
        help: "1 if the bond that a NIC's uplink is a member of may send by it.",
        samples: |status, _, out| {
            for (nic, bond) in
                status.nics.iter().flat_map(|nic| nic.bonds.iter().map(move |bond| (nic, bond)))
            {
                let is_used = bond.active == Some(true) && bond.link_up != Some(false);
                out.put(&[&nic.nic.to_string(), &nic.driver, &bond.bond, &bond.netdev], u8::from(is_used));
            }
        },
    },
    Family {
        name: "offloadd_bond_failovers_total",
        kind: Kind::Counter,
        labels: &["bond"],
        help: "Times that another member of a bond of uplinks took the place of the one that was used.",
        samples: |status, _, out| {
            let all = status.nics.iter().flat_map(|nic| &nic.bonds);
            let bonds: BTreeMap<&str, u64> = all.map(|bond| (&*bond.bond, bond.failovers)).collect();
            for (bond, failovers) in bonds {
                out.put(&[bond], failovers);
            }
        },
    },
    Family {
        name: "offloadd_nic_reload_failed",
        kind: Kind::Gauge,
        labels: &["nic", "driver"],
        help: "1 if a NIC's last devlink reload failed, so that it does not work.",
        samples: |status, _, out| {
            for nic in &status.nics {
                out.put(&[&nic.nic.to_string(), &nic.driver], u8::from(nic.reload_failed));
            }
        },
    },
    Family {
        name: "offloadd_nic_resource_size_entries",
        kind: Kind::Gauge,
        labels: &["nic", "driver", "resource"],
        help: "Size of a NIC's resources as devlink tells it, without the parts they are divided into; absent where it has no limit.",
        samples: |status, _, out| {
            out.put_resources(status, |resource| Some(resource.size).filter(|size| *size != u64::MAX))
        },
    },
    Family {
        name: "offloadd_nic_resource_used_entries",
        kind: Kind::Gauge,
        labels: &["nic", "driver", "resource"],
        help: "How much of them is used, read for each scrape; absent where the driver does not count.",
        samples: |status, _, out| out.put_resources(status, |resource| resource.used),
    },
    Family {
        name: "offloadd_stale_ports",
        kind: Kind::Gauge,
        labels: &[],
        help: "Ports of Open vSwitch whose network device is gone.",
        samples: |status, _, out| out.put(&[], status.inventory.stale_ports),
    },
    Family {
        name: "offloadd_inventory_notifications_total",
        kind: Kind::Counter,
        labels: &["source"],
        help: "Notifications of the kernel about links, NICs, features and devices.",
        samples: |status, _, out| {
            for (source, heard) in &status.inventory.heard {
                out.put(&[source], heard.notifications);
            }
        },
    },
    Family {
        name: "offloadd_inventory_updates_total",
        kind: Kind::Counter,
        labels: &["source"],
        help: "Rows of the inventory that such notifications wrote or removed.",
        samples: |status, _, out| {
            for (source, heard) in &status.inventory.heard {
                out.put(&[source], heard.updates);
            }
        },
    },
    Family {
        name: "offloadd_inventory_questions_total",
        kind: Kind::Counter,
        labels: &[],
        help: "Questions about links and NICs that were asked of the kernel, because no notification tells the answer.",
        samples: |status, _, out| out.put(&[], status.inventory.questions),
    },
];

impl Samples<'_> {
    /// A value of every kind of health reporter.
    fn put_health(&mut self, status: &StatusView, value: fn(&HealthSum) -> u64) {
        for nic in &status.nics {
            for (reporter, sum) in &nic.health_errors {
                self.put(&[&nic.nic.to_string(), &nic.driver, reporter], value(sum));
            }
        }
    }

    /// A value of every resource that has one.
    fn put_resources(&mut self, status: &StatusView, value: fn(&ResourceView) -> Option<u64>) {
        for nic in &status.nics {
            for resource in nic.resources.iter().take(RESOURCES_MAX) {
                if let Some(value) = value(resource) {
                    self.put(&[&nic.nic.to_string(), &nic.driver, &resource.resource], value);
                }
            }
        }
    }
}
