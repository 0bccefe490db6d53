//! Views as text for people.

use std::fmt::Write as _;
use std::time::Duration;

use comfy_table::presets::NOTHING;
use comfy_table::{Cell, CellAlignment, ContentArrangement, Table};

use super::openflow::rules_line;
use super::sa;
use super::views::{
    Amount, Deeds, FlowView, FlowWhy, NicView, PortView, RefusalView, Split, StatusView, UnitPart, UnitView,
};
use crate::config::show_duration;

/// `48,211`.
pub fn number(value: u64) -> String {
    let digits = value.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Three digits and a unit: `38.2 Gbit/s`.
fn scaled(value: f64, unit: &str) -> String {
    const PREFIXES: [&str; 5] = ["", "k", "M", "G", "T"];
    let mut value = value;
    let mut prefix = 0;
    while value >= 999.5 && prefix + 1 < PREFIXES.len() {
        value /= 1000.0;
        prefix += 1;
    }
    let digits = match value {
        _ if prefix == 0 || value >= 99.95 => 0,
        _ if value >= 9.995 => 1,
        _ => 2,
    };
    format!("{value:.digits$} {}{unit}", PREFIXES[prefix])
}

/// Bytes per second as a bit rate.
pub fn bit_rate(bytes_per_s: u64) -> String {
    scaled(bytes_per_s as f64 * 8.0, "bit/s")
}

/// Packets per second.
pub fn packet_rate(packets_per_s: u64) -> String {
    scaled(packets_per_s as f64, "pkt/s")
}

/// `97.4%`, cut and not rounded, so that only all is 100%.
pub fn percent(share: Option<f64>) -> String {
    share.map_or_else(|| "-".to_owned(), |share| format!("{:.1}%", (share * 1000.0).floor() / 10.0))
}

/// The first letters of a table head's words stay as they are: heads are lower case like the keys in JSON.
pub(super) fn table(
    head: &[(&str, bool)],
    width: Option<u16>,
    rows: impl IntoIterator<Item = Vec<String>>,
) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING);
    match width {
        Some(width) => {
            table.set_content_arrangement(ContentArrangement::Dynamic);
            table.set_width(width);
        }
        None => {
            table.set_content_arrangement(ContentArrangement::Disabled);
        }
    }
    table.set_header(head.iter().map(|(name, _)| Cell::new(name)));
    for row in rows {
        table.add_row(row);
    }
    for (index, (_, right)) in head.iter().enumerate() {
        if let Some(column) = table.column_mut(index) {
            column.set_padding((0, 2));
            if *right {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
    }
    let mut out = String::new();
    for line in table.to_string().lines() {
        let _ = writeln!(out, "{}", line.trim_end());
    }
    out
}

/// The status at a glance.
pub fn status(view: &StatusView) -> String {
    let mut out = String::new();
    let draining = if view.draining { ", draining" } else { "" };
    let _ = writeln!(
        out,
        "ovs-offloadd {}   mode {}{draining}   up {}   OVS {}   kernel {}",
        view.version,
        view.mode,
        show_duration(Duration::from_secs(view.uptime_s)),
        view.ovs_version.as_deref().unwrap_or("unknown"),
        view.kernel
    );
    let mut line = |name: &str, text: String| {
        let _ = writeln!(out, "{name:<13} {text}");
    };
    if let Some(note) = &view.mode_note {
        line("", note.clone());
    }
    let connections: Vec<String> = view.connections.iter().map(connection).collect();
    line("connections", connections.join("   "));
    line("flows", flows(view));
    line("traffic", traffic(&view.rate, &view.traffic));
    for nic in &view.nics {
        line(&format!("nic {}", nic.nic), nic_line(nic));
    }
    if view.inventory.stale_ports > 0 {
        let stale = number(view.inventory.stale_ports);
        line("stale", format!("{stale} ports without their device: ovs-offloadctl port list --representors"));
    }
    for nic in &view.declared {
        let marked = if nic.reached { "" } else { "NOT AS DECLARED, " };
        line("declared", format!("{}   {marked}{}", nic.devlink, nic.sentence));
    }
    if view.recirculation.kernel == "missing" {
        let held_back = number(view.recirculation.held_back);
        let kernel = "kernel without CONFIG_NET_TC_SKB_EXT";
        line(
            "recirculation",
            format!("{kernel}: {held_back} flows with conntrack or recirculation held back"),
        );
    }
    if let Some(ipsec) = sa::summary(&view.ipsec) {
        line("ipsec", ipsec);
    }
    line("placing", deeds(&view.done));
    const REFUSALS_SHOWN: usize = 5;
    for (index, refusal) in view.refused.iter().take(REFUSALS_SHOWN).enumerate() {
        let name = if index == 0 { "refused" } else { "" };
        line(
            name,
            format!("{} flows, {}: {}", number(refusal.flows), bit_rate(refusal.rate.bytes), refusal.text),
        );
    }
    if view.refused.len() > REFUSALS_SHOWN {
        line("", format!("{} more kinds: ovs-offloadctl refusal list", view.refused.len() - REFUSALS_SHOWN));
    }
    if let Some(error) = &view.config_error {
        line("configuration", format!("the old one is in force: {error}"));
    }
    if !view.restart_needed.is_empty() {
        line("configuration", format!("a restart is needed for {}", view.restart_needed.join(", ")));
    }
    for note in &view.notes {
        line("note", note.clone());
    }
    out
}

fn connection(connection: &super::views::ConnectionView) -> String {
    let state = if connection.up { "ok" } else { "DOWN" };
    let losses = match (connection.name, connection.losses) {
        ("netlink", losses) => format!(" ({} overruns)", number(losses)),
        (_, 0) => String::new(),
        (_, losses) => format!(" (lost {} times)", number(losses)),
    };
    let detail = connection.detail.as_ref().map_or_else(String::new, |detail| format!(": {detail}"));
    format!("{} {state}{losses}{detail}", connection.name)
}

fn flows(view: &StatusView) -> String {
    let flows = &view.flows;
    let software = flows.tc_software + flows.datapath;
    let reasons: Vec<String> = flows
        .software_by_reason
        .iter()
        .map(|count| format!("{} {}", number(count.flows), count.reason.replace('_', " ")))
        .collect();
    let reasons = if reasons.is_empty() { String::new() } else { format!(" ({})", reasons.join(", ")) };
    let untracked = match flows.untracked {
        0 => String::new(),
        more => format!("; {} beyond limits.flows-max", number(more)),
    };
    format!(
        "{}: {} in hardware; {} in software{reasons}{untracked}",
        number(flows.total),
        number(flows.hardware),
        number(software)
    )
}

fn traffic(rate: &Split, since_start: &Split) -> String {
    let now = match rate.packets() {
        0 => "nothing now".to_owned(),
        packets => format!(
            "{} of {} and {} of {} in hardware",
            percent(rate.bytes_share()),
            bit_rate(rate.bytes()),
            percent(rate.packets_share()),
            packet_rate(packets)
        ),
    };
    match since_start.packets() {
        0 => now,
        _ => format!(
            "{now}; since start {} of bytes and {} of packets",
            percent(since_start.bytes_share()),
            percent(since_start.packets_share())
        ),
    }
}

fn nic_line(nic: &NicView) -> String {
    let ill = match (nic.reload_failed, nic.health) {
        (true, _) => "   RELOAD FAILED",
        (false, Some("error")) => "   HEALTH ERROR",
        (false, _) => "",
    };
    if nic.switch_id.is_empty() {
        return format!("{} {}   {}: takes no rules{ill}", nic.driver, nic.devlink, nic.eswitch_mode);
    }
    if let Some(first) = nic.shares_entries_with {
        return format!("{} {}   counted with nic {first}{ill}", nic.driver, nic.devlink);
    }
    let capacity = match (nic.capacity, nic.capacity_learned) {
        (Some(capacity), false) => number(capacity),
        (Some(capacity), true) => format!("{} (learned)", number(capacity)),
        (None, _) => "an unknown number".to_owned(),
    };
    let others = match nic.foreign {
        0 => String::new(),
        foreign => format!("   {} of others", number(foreign)),
    };
    format!(
        "{} {}   entries {} of {capacity}{others}   waiting {}{ill}",
        nic.driver,
        nic.devlink,
        number(nic.entries),
        number(nic.waiting)
    )
}

fn deeds(done: &Deeds) -> String {
    let mut out = format!(
        "{} promotions ({}/s of {}/s), {} demotions",
        number(done.promotions),
        number(done.promotions_per_s),
        number(done.installs_per_s_max),
        number(done.demotions)
    );
    let more = [
        (done.undone, "undone by Open vSwitch"),
        (done.races_repaired, "races repaired"),
        (done.flows_cleared, "flows cleared"),
        (done.lost_in_hardware, "lost by hardware"),
        (done.changes_missed, "changes missed"),
        (done.malformed, "malformed messages"),
    ];
    for (count, what) in more.into_iter().filter(|(count, _)| *count > 0) {
        let _ = write!(out, ", {} {what}", number(count));
    }
    out
}

fn amounts(split: &Split) -> [String; 2] {
    let cell = |amount: Amount| number(amount.packets);
    [cell(split.hardware), cell(split.software)]
}

/// `NAMESPACE/NAME`, or the name alone.
fn workload_of(flow: &FlowView) -> Option<String> {
    let name = flow.workload.as_ref()?;
    Some(flow.namespace.as_ref().map_or_else(|| name.clone(), |namespace| format!("{namespace}/{name}")))
}

/// Flows in rows; `total` counts those that fit the filter.
pub fn flow_list(flows: &[FlowView], total: u64, width: Option<u16>) -> String {
    let head = [
        ("ufid", false),
        ("placement", false),
        ("reason", false),
        ("port", false),
        ("rate", true),
        ("hw packets", true),
        ("sw packets", true),
        ("age", true),
        ("locality", false),
        ("workload", false),
        ("match", false),
    ];
    let rows = flows.iter().map(|flow| {
        let [hardware, software] = amounts(&flow.traffic);
        vec![
            flow.ufid.clone(),
            flow.placement.to_owned(),
            flow.reason.replace('_', " "),
            flow.port.clone().unwrap_or_else(|| "-".to_owned()),
            bit_rate(flow.rate.bytes()),
            hardware,
            software,
            show_duration(Duration::from_millis(flow.age_ms)),
            flow.locality.to_owned(),
            workload_of(flow).unwrap_or_else(|| "-".to_owned()),
            flow.key.clone(),
        ]
    });
    let mut out = table(&head, width, rows);
    let more = total.saturating_sub(flows.len() as u64);
    if more > 0 {
        let _ = writeln!(out, "and {} more (--limit 0 lists all)", number(more));
    }
    out
}

/// `chain 5, then chain 6; before it 1 of 2 in hardware, after it 0 of 3`
fn unit_line(unit: &UnitView) -> String {
    let mut text = format!("chain {}", unit.chain);
    if let Some(chain) = unit.goes_to {
        let _ = write!(text, ", then chain {chain}");
    }
    let in_hw = |parts: &[UnitPart]| parts.iter().filter(|part| part.in_hardware).count();
    let named =
        |parts: &[UnitPart]| parts.iter().map(|part| part.ufid.as_str()).collect::<Vec<_>>().join(" ");
    if unit.chain != 0 {
        let _ = write!(text, "; before it {} of {} in hardware", in_hw(&unit.before), unit.before.len());
        let _ = write!(text, " {}", named(&unit.before));
    }
    if unit.goes_to.is_some() {
        let shown = if unit.after_count > unit.after.len() as u64 { " (the first shown)" } else { "" };
        let _ = write!(text, "; after it {} of {} in hardware{shown}", in_hw(&unit.after), unit.after_count);
        let _ = write!(text, " {}", named(&unit.after));
    }
    if let Some(entries) = unit.entries.filter(|entries| *entries > 1) {
        let _ = write!(text, "; {entries} entries");
    }
    text
}

/// One flow explained.
pub fn flow_why(view: &FlowWhy) -> String {
    let flow = &view.flow;
    let mut out = String::new();
    let mut line = |name: &str, text: &str| {
        let _ = writeln!(out, "{name:<10} {text}");
    };
    line("flow", &flow.ufid);
    line("match", &flow.key);
    if let Some(actions) = &view.actions {
        line("actions", actions);
    }
    line("port", flow.port.as_deref().unwrap_or("unknown"));
    let mut belongs = flow.locality.to_owned();
    if let Some(chassis) = &flow.chassis {
        let _ = write!(belongs, " (chassis {chassis})");
    }
    if flow.encrypted == Some(true) {
        belongs.push_str(", encrypted");
    }
    if let Some(workload) = workload_of(flow) {
        let _ = write!(belongs, ", workload {workload}");
    }
    if let Some(tenant) = &flow.tenant {
        let _ = write!(belongs, ", tenant {tenant}");
    }
    line("traffic", &belongs);
    line("placement", &format!("{} ({})", flow.placement, flow.reason.replace('_', " ")));
    if let Some(address) = &view.address {
        line("tc", address);
    }
    if let Some(unit) = &view.unit {
        line("unit", &unit_line(unit));
    }
    line(
        "carried",
        &format!(
            "{} packets in hardware, {} in software; now {}",
            number(flow.traffic.hardware.packets),
            number(flow.traffic.software.packets),
            bit_rate(flow.rate.bytes())
        ),
    );
    if let Some(rules) = flow.openflow.as_ref().filter(|rules| !rules.is_empty()) {
        line("openflow", &rules_line(rules));
    }
    for (index, sentence) in view.why.iter().enumerate() {
        line(if index == 0 { "why" } else { "" }, sentence);
    }
    out
}

/// Ports in rows.
pub fn port_list(ports: &[PortView], width: Option<u16>) -> String {
    let head = [
        ("port", false),
        ("bridge", false),
        ("kind", false),
        ("nic", false),
        ("offload", false),
        ("flows", true),
        ("in hw", true),
        ("rate", true),
        ("hw packets", true),
        ("sw packets", true),
        ("iface-id", false),
        ("workload", false),
    ];
    let rows = ports.iter().map(|port| {
        let [hardware, software] = amounts(&port.traffic);
        vec![
            port.name.clone(),
            port.bridge.clone(),
            port_kind(port),
            port.nic.map_or_else(|| "-".to_owned(), |nic| nic.to_string()),
            if port.hw_tc_offload { "on" } else { "off" }.to_owned(),
            number(port.flows),
            number(port.flows_hardware),
            bit_rate(port.rate.bytes()),
            hardware,
            software,
            port.iface_id.clone().unwrap_or_else(|| "-".to_owned()),
            port.workload.clone().unwrap_or_else(|| "-".to_owned()),
        ]
    });
    table(&head, width, rows)
}

/// `uplink by ens1f0` where it is a bond with one member that is used.
fn port_kind(port: &PortView) -> String {
    let members = port.bond.iter().flat_map(|bond| &bond.members);
    let mut active = members.filter(|member| member.active == Some(true)).map(|member| &member.netdev);
    match (active.next(), active.next()) {
        (Some(one), None) => format!("{} by {one}", port.kind),
        _ => port.kind.to_owned(),
    }
}

/// Refusals in rows.
pub fn refusal_list(refusals: &[RefusalView], width: Option<u16>) -> String {
    let head = [("reason", false), ("flows", true), ("rate", true), ("in its words", false)];
    let rows = refusals.iter().map(|refusal| {
        vec![
            refusal.reason.replace('_', " "),
            number(refusal.flows),
            bit_rate(refusal.rate.bytes),
            refusal.text.clone(),
        ]
    });
    table(&head, width, rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ctl::views::sample::{self, split};

    #[test]
    fn numbers_are_as_people_write_them() {
        assert_eq!(number(0), "0");
        assert_eq!(number(999), "999");
        assert_eq!(number(1_234_567), "1,234,567");
        assert_eq!(bit_rate(0), "0 bit/s");
        assert_eq!(bit_rate(125), "1.00 kbit/s");
        assert_eq!(bit_rate(4_775_000_000), "38.2 Gbit/s");
        assert_eq!(packet_rate(5_600_000), "5.60 Mpkt/s");
        assert_eq!(bit_rate(u64::MAX), "147573953 Tbit/s");
    }

    #[test]
    fn only_all_is_a_hundred_percent() {
        assert_eq!(percent(Some(0.99999)), "99.9%");
        assert_eq!(percent(Some(1.0)), "100.0%");
        assert_eq!(percent(None), "-");
    }

    #[test]
    fn the_status_answers_at_a_glance() {
        let expected = "\
ovs-offloadd 0.1.0   mode steer   up 3d 4h   OVS 3.5.0   kernel 6.12.117
connections   ovsdb ok   vswitchd DOWN (lost 2 times): not running   netlink ok (0 overruns)
flows         48,211: 1,020 in hardware; 47,191 in software (47,112 cold, 79 table full)
traffic       97.4% of 8.00 Mbit/s and 97.4% of 1.00 kpkt/s in hardware; since start 96.8% of bytes and 96.8% of packets
nic 0         mlx5_core pci/0000:03:00.0   entries 1,020 of 1,024 (learned)   waiting 12   HEALTH ERROR
stale         1 ports without their device: ovs-offloadctl port list --representors
ipsec         12 SAs: 10 packet, 2 software   → ovs-offloadctl sa list
placing       5,000 promotions (41/s of 1,000/s), 3,980 demotions
refused       18 flows, 90.0 Mbit/s: chain out of range
configuration the old one is in force: c.toml:1:1: unknown key x
";
        assert_eq!(status(&sample::status()), expected);
    }

    #[test]
    fn a_flow_list_says_what_it_leaves_out() {
        let flow = FlowView {
            chain: Some(0),
            goes_to: None,
            ufid: "a8a8cb2c-1b0d-4b0b-8a7c-8b3e3b1a5a01".into(),
            placement: "hardware",
            reason: "hot",
            port: Some("sn0pf0vf0".into()),
            nic: Some(0),
            key: "ip,tcp".into(),
            locality: "cross-node",
            workload: Some("web-0".into()),
            namespace: Some("prod".into()),
            tenant: Some("prod".into()),
            chassis: Some("node-2".into()),
            encrypted: None,
            openflow: None,
            age_ms: 61_000,
            traffic: split(1_000, 2),
            rate: split(1, 0),
        };
        let text = flow_list(&[flow], 3, None);
        let lines: Vec<&str> = text.lines().collect();
        let ends = |line: &str, end: &str| assert!(line.ends_with(end), "{line}");
        assert_eq!(lines.len(), 3);
        ends(lines[0], "hw packets  sw packets      age  locality    workload    match");
        ends(lines[1], "     1,000           2  1min 1s  cross-node  prod/web-0  ip,tcp");
        assert_eq!(lines[2], "and 2 more (--limit 0 lists all)");
    }

    #[test]
    fn an_empty_list_is_its_head() {
        assert_eq!(refusal_list(&[], None).lines().count(), 1);
        assert_eq!(port_list(&[], None).lines().count(), 1);
    }
}
