//! NICs and representors as text for people.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::inventory::{BondView, NetdevView, NicBondView, NicDetail, PortDetail};
use super::text::{number, table};
use super::views::NicView;

fn or_dash(text: Option<impl ToString>) -> String {
    text.map_or_else(|| "-".to_owned(), |text| text.to_string())
}

/// NICs in rows.
pub fn nic_list(nics: &[NicView], width: Option<u16>) -> String {
    let head = [
        ("nic", false),
        ("devlink", false),
        ("driver", false),
        ("firmware", false),
        ("eswitch", false),
        ("vfs", true),
        ("sfs", true),
        ("ports", true),
        ("entries", true),
        ("capacity", true),
        ("of others", true),
        ("waiting", true),
        ("most per s", true),
        ("refusals", true),
        ("bond", false),
        ("declared", false),
        ("health", false),
    ];
    let rows = nics.iter().map(|nic| {
        vec![
            nic.nic.to_string(),
            nic.devlink.clone(),
            nic.driver.clone(),
            or_dash(nic.firmware.as_ref()),
            if nic.eswitch_mode.is_empty() { "-".to_owned() } else { nic.eswitch_mode.clone() },
            functions(nic),
            nic.sfs.to_string(),
            number(nic.ports.into()),
            entries(nic),
            capacity(nic),
            number(nic.foreign),
            number(nic.waiting),
            most_per_s(nic),
            number(nic.refusals.values().sum()),
            bonds(nic),
            declared(nic).to_owned(),
            health(nic).to_owned(),
        ]
    });
    table(&head, width, rows)
}

/// `8/127`.
fn functions(nic: &NicView) -> String {
    nic.vfs_max.map_or_else(|| nic.vfs.to_string(), |most| format!("{}/{most}", nic.vfs))
}

fn entries(nic: &NicView) -> String {
    match nic.shares_entries_with {
        Some(first) => format!("with nic {first}"),
        None => number(nic.entries),
    }
}

fn capacity(nic: &NicView) -> String {
    let learned = if nic.capacity_learned { " (learned)" } else { "" };
    nic.capacity.map_or_else(|| "unknown".to_owned(), |capacity| format!("{}{learned}", number(capacity)))
}

fn most_per_s(nic: &NicView) -> String {
    let learned = if nic.installs_learned { " (learned)" } else { "" };
    nic.installs_per_s_max.map_or_else(|| "-".to_owned(), |most| format!("{}{learned}", number(most)))
}

/// `no limit` is what a driver means that says the greatest number there is.
fn size(entries: u64) -> String {
    if entries == u64::MAX { "no limit".to_owned() } else { number(entries) }
}

/// `bond0 active`.
fn bonds(nic: &NicView) -> String {
    let word = |bond: &NicBondView| match (bond.link_up, bond.active) {
        (Some(false), _) => " LINK DOWN",
        (_, Some(true)) => " active",
        (_, Some(false)) => " waits",
        (_, None) => "",
    };
    let bonds = nic.bonds.iter().map(|bond| format!("{}{}", bond.bond, word(bond)));
    or_dash(bonds.reduce(|all, one| format!("{all}, {one}")))
}

/// In one word; `nic show` has what differs.
fn declared(nic: &NicView) -> &'static str {
    match nic.declared.as_ref().map(|declared| declared.state) {
        None => "no",
        Some("as_declared") => "as declared",
        Some(_) => "DIFFERS",
    }
}

fn health(nic: &NicView) -> &'static str {
    match (nic.reload_failed, nic.health) {
        (true, _) => "RELOAD FAILED",
        (false, Some("error")) => "ERROR",
        (false, Some(word)) => word,
        (false, None) => "-",
    }
}

/// All of one NIC.
pub fn nic_show(detail: &NicDetail, width: Option<u16>) -> String {
    let nic = &detail.nic;
    let mut out = String::new();
    let mut line = |name: &str, text: String| {
        let _ = writeln!(out, "{name:<13} {text}");
    };
    line(&format!("nic {}", nic.nic), format!("{} {}", nic.driver, nic.devlink));
    line("switch id", if nic.switch_id.is_empty() { "-".to_owned() } else { nic.switch_id.clone() });
    line(
        "eswitch",
        format!(
            "{}   inline {}   encap {}",
            if nic.eswitch_mode.is_empty() { "unknown" } else { &nic.eswitch_mode },
            or_dash(nic.inline_mode.as_ref()),
            or_dash(nic.encap_mode.as_ref())
        ),
    );
    line(
        "functions",
        format!("{} VFs   {} SFs   {} on other hosts", functions(nic), nic.sfs, nic.external_ports),
    );
    line("serial", or_dash(nic.serial.as_ref()));
    for (what, versions) in [
        ("fixed", &detail.versions.fixed),
        ("running", &detail.versions.running),
        ("stored", &detail.versions.stored),
    ] {
        if !versions.is_empty() {
            line(what, pairs(versions));
        }
    }
    line("entries", format!("{} of {}   {} of others", entries(nic), capacity(nic), number(nic.foreign)));
    let most = nic.installs_per_s_max.map_or_else(|| "-".to_owned(), number);
    line(
        "installs",
        format!("{} done   {most}/s at most   {} waiting", number(nic.promotions), number(nic.waiting)),
    );
    match &nic.declared {
        None => line("declared", "no".to_owned()),
        Some(declared) => {
            let last =
                declared.last_look.as_ref().map_or_else(String::new, |look| format!("   last look: {look}"));
            let word = if declared.state == "as_declared" { "as declared" } else { "DIFFERS" };
            line("declared", format!("{word}{last}"));
            declared.differences.iter().for_each(|difference| line("", difference.to_string()));
        }
    }
    line("health", health(nic).to_owned());
    for reporter in &detail.health_reporters {
        let port = reporter.devlink_port.map_or_else(String::new, |port| format!(" of port {port}"));
        let by_itself = match reporter.auto_recover {
            Some(true) => "recovers by itself",
            Some(false) => "does not recover by itself",
            None => "cannot recover",
        };
        let (errors, recoveries) = (number(reporter.errors), number(reporter.recoveries));
        line(
            "",
            format!(
                "{}{port} {}: {errors} errors, {recoveries} recoveries, {by_itself}",
                reporter.reporter, reporter.state
            ),
        );
    }
    for (index, resource) in detail.resources.iter().enumerate() {
        let used = resource.used.map_or_else(|| "?".to_owned(), number);
        let next = resource
            .size_new
            .map_or_else(String::new, |entries| format!(" ({} after a reload)", size(entries)));
        let name = if index == 0 { "resources" } else { "" };
        line(name, format!("{}: {used} of {}{next}", resource.resource, size(resource.size)));
    }
    for bond in &detail.bonds {
        line("bond", bond_text(bond));
    }
    for uplink in &detail.uplinks {
        line("uplink", uplink.netdev.as_ref().map_or_else(|| "-".to_owned(), netdev_text));
    }
    if !detail.representors.is_empty() {
        let _ = write!(out, "\n{}", representor_list(&detail.representors, width));
    }
    out
}

fn pairs(of: &BTreeMap<String, String>) -> String {
    of.iter().map(|(name, value)| format!("{name} {value}")).collect::<Vec<_>>().join("   ")
}

fn netdev_text(netdev: &NetdevView) -> String {
    format!("{}   {}   mtu {}", netdev.name, netdev.link.replace('_', " "), or_dash(netdev.mtu))
}

fn bond_text(bond: &BondView) -> String {
    let members = bond.members.iter().map(|member| {
        let active = match member.active {
            Some(true) => " (active)",
            Some(false) => " (waits)",
            None => "",
        };
        let link = if member.link_up == Some(false) { " LINK DOWN" } else { "" };
        format!("{}{active}{link}", member.netdev)
    });
    let block = bond.block.map_or_else(String::new, |block| format!("   block {block}"));
    let members = members.collect::<Vec<_>>().join(", ");
    let failovers = format!("   {} failovers", number(bond.failovers));
    format!("{} {}: {members}{failovers}{block}", bond.bond, bond.mode.as_deref().unwrap_or_default())
}

/// `pf0vf3`, `c1pf0sf4`; by its devlink numbers, or else by `phys_port_name`.
fn function(port: &PortDetail) -> String {
    let controller = match (port.controller, port.external) {
        (Some(controller), true) => format!("c{controller}"),
        _ => String::new(),
    };
    match (port.pf, port.vf, port.sf) {
        (Some(pf), Some(vf), _) => format!("{controller}pf{pf}vf{vf}"),
        (Some(pf), None, Some(sf)) => format!("{controller}pf{pf}sf{sf}"),
        (Some(pf), None, None) => format!("{controller}pf{pf}"),
        (None, ..) => or_dash(port.phys_port_name.as_ref()),
    }
}

/// Representors in rows.
pub fn representor_list(ports: &[PortDetail], width: Option<u16>) -> String {
    let head = [
        ("nic", false),
        ("function", false),
        ("representor", false),
        ("link", false),
        ("mtu", true),
        ("offload", false),
        ("mac", false),
        ("state", false),
        ("device", false),
        ("its netdev", false),
        ("ovs port", false),
        ("bridge", false),
        ("iface-id", false),
        ("workload", false),
        ("entries", true),
    ];
    let rows = ports.iter().map(|port| {
        let netdev = port.netdev.as_ref();
        let link = match netdev {
            Some(netdev) => netdev.link.replace('_', " "),
            None if port.stale => "STALE".to_owned(),
            None => "absent".to_owned(),
        };
        vec![
            or_dash(port.nic),
            function(port),
            or_dash(netdev.map(|netdev| &netdev.name)),
            link,
            or_dash(netdev.and_then(|netdev| netdev.mtu)),
            or_dash(port.hw_tc_offload),
            or_dash(port.mac.as_ref()),
            or_dash(port.state),
            or_dash(port.device.as_ref()),
            or_dash(port.own_netdev.as_ref().map(|netdev| &netdev.name)),
            or_dash(port.ovs_port.as_ref()),
            or_dash(port.bridge.as_ref()),
            or_dash(port.iface_id.as_ref()),
            or_dash(port.workload.as_ref()),
            number(port.entries),
        ]
    });
    table(&head, width, rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ctl::views::sample;

    #[test]
    fn a_nic_is_one_line_with_its_mode_functions_entries_and_health() {
        let nics = sample::status().nics;
        let text = nic_list(&nics, None);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[1].split_whitespace().collect::<Vec<_>>().join(" "),
            "0 pci/0000:03:00.0 mlx5_core 22.39.1002 switchdev 8/127 0 9 1,020 1,024 (learned) 0 12 480 (learned) 58 bond0 active DIFFERS ERROR"
        );
        let second = NicView {
            shares_entries_with: Some(0),
            bonds: vec![],
            declared: None,
            health: None,
            reload_failed: true,
            ..nics[0].clone()
        };
        let text = nic_list(&[second], None);
        assert!(text.contains("with nic 0") && text.trim_end().ends_with("RELOAD FAILED"), "{text}");
    }

    #[test]
    fn an_empty_list_is_its_head() {
        assert_eq!(nic_list(&[], None).lines().count(), 1);
        assert_eq!(representor_list(&[], None).lines().count(), 1);
    }
}
