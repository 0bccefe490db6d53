//! Metric families about OpenFlow rules whose packets Open vSwitch cannot see: by bridge and table, never by cookie.

use super::families::{Family, Kind};

/// The families.
pub(super) static FAMILIES: &[Family] = &[
    Family {
        name: "offloadd_openflow_hardware_packets_total",
        kind: Kind::Counter,
        labels: &["bridge", "table"],
        help: "Packets that hardware took of OpenFlow rules in mode shadow, which their own counters do not have: of the first 256 \
               tables, and of the rest as other. A packet counts in each table that its megaflow passed; bridge \
               is empty before Open vSwitch 4.0.",
        samples: |status, _, out| {
            for (bridge, table, sum) in &status.openflow.tables {
                out.put(&[bridge, table], sum.packets);
            }
        },
    },
    Family {
        name: "offloadd_openflow_hardware_bytes_total",
        kind: Kind::Counter,
        labels: &["bridge", "table"],
        help: "Bytes of these packets.",
        samples: |status, _, out| {
            for (bridge, table, sum) in &status.openflow.tables {
                out.put(&[bridge, table], sum.bytes);
            }
        },
    },
    Family {
        name: "offloadd_openflow_untold_packets",
        kind: Kind::Gauge,
        labels: &[],
        help: "Packets that hardware took in mode shadow, of which Open vSwitch has not told the OpenFlow rules, or not yet.",
        samples: |status, _, out| out.put(&[], status.openflow.untold.packets),
    },
];
