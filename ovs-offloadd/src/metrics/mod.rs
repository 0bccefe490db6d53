//! Prometheus: what is told, in the text exposition format, rendered from a view at the moment it is asked for.
//!
//! The engine's totals are the only counters there are; a registry beside them would be a second truth, and would
//! keep the series of ports that are gone.

mod families;
mod http;
mod inventory;
mod ipsec;
mod openflow;

pub use families::{Family, Kind, families, render};
pub use http::{Scrape, serve};

/// The reference page for people, in Markdown, written from the table of families.
pub fn reference_page() -> String {
    use std::fmt::Write as _;
    let mut out = String::from(
        "# Metrics\n\n\
         `ovs-offloadd` answers `GET /metrics` on `metrics.listen` (loopback by default) in Prometheus text format.\n\
         Software and hardware are told apart by the label `placement`. Labels come from bounded sets: ports of the\n\
         bridges, NICs, rules of the policy, closed lists of reasons; never from a flow. This page is written from the table in the code.\n\n\
         | name | kind | labels | meaning |\n|---|---|---|---|\n",
    );
    for family in families() {
        let labels = family.labels.iter().map(|label| format!("`{label}`")).collect::<Vec<_>>().join(", ");
        let _ = writeln!(out, "| `{}` | {} | {labels} | {} |", family.name, family.kind.word(), family.help);
    }
    out.push_str(
        "\nExamples:\n\n\
         - Share of bytes in hardware: `sum(rate(offloadd_bytes_total{placement=\"hardware\"}[5m])) / \
         sum(rate(offloadd_bytes_total[5m]))`\n\
         - A full table: `offloadd_nic_entries / offloadd_nic_capacity_entries > 0.95`\n\
         - Something is down: `offloadd_connection_up == 0`\n\
         - A NIC is ill: `offloadd_nic_health_reporters_in_error > 0 or offloadd_nic_reload_failed == 1`\n\
         - Workloads without a representor: `offloadd_stale_ports > 0`\n",
    );
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_page_lists_exactly_the_metrics_the_code_knows() {
        crate::golden::compare("docs/metrics.md", &reference_page());
    }
}
