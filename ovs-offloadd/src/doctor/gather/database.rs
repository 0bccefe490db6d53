//! What Open vSwitch's database says.

use std::collections::BTreeMap;
use std::time::Duration;

use offload_engine::TcPolicy;
use ovsdb_client::{Client, Config, Monitor, Remote, RowError, Tables, Uuid};

use crate::config::show_duration;
use crate::daemon::ovsdb_tls;
use crate::doctor::{Fact, Interface, Ovs};

ovsdb_client::table! {
    struct OpenVswitchRow in "Open_vSwitch" {
        other_config: BTreeMap<String, String>,
        external_ids: BTreeMap<String, String>,
        ovs_version: Option<String>,
    }
}

ovsdb_client::table! {
    struct BridgeRow in "Bridge" {
        name: String,
        datapath_type: String,
        ports: Vec<Uuid>,
    }
}

ovsdb_client::table! {
    struct PortRow in "Port" {
        interfaces: Vec<Uuid>,
        external_ids: BTreeMap<String, String>,
    }
}

ovsdb_client::table! {
    struct InterfaceRow in "Interface" {
        name: String,
        kind: String => "type",
        ofport: Option<i64>,
        error: Option<String> = None,
        options: BTreeMap<String, String>,
        ingress_policing_rate: i64,
        ingress_policing_kpkts_rate: i64 = 0,
    }
}

/// What the database says, and its `external_ids`.
pub(super) async fn read(remote: &str, limit: Duration) -> Fact<(Ovs, Vec<(String, String)>)> {
    let parsed: Remote = remote.parse().map_err(|error| format!("ovs.database: {error}"))?;
    let monitor = Monitor::new("Open_vSwitch")
        .rows::<OpenVswitchRow>()
        .rows::<BridgeRow>()
        .rows::<PortRow>()
        .rows::<InterfaceRow>();
    let tls = match &parsed {
        Remote::Ssl(_) => Some(ovsdb_tls()?),
        _ => None,
    };
    let (_client, mut watcher) = Client::start(Config { tls, ..Config::new(parsed, monitor) });
    match tokio::time::timeout(limit, watcher.synchronised()).await {
        Ok(Ok(tables)) => told(tables).map_err(|error| error.to_string()),
        Ok(Err(why)) => Err(format!("{remote}: {why}")),
        Err(_) => Err(format!("{remote}: no answer within {}", show_duration(limit))),
    }
}

fn told(tables: &Tables) -> Result<(Ovs, Vec<(String, String)>), RowError> {
    let Some(row) = tables.rows::<OpenVswitchRow>().next() else { return Ok(Default::default()) };
    let (_, row) = row?;
    let policy = row.other_config.get("tc-policy").map(String::as_str).unwrap_or_default();
    let mut ovs = Ovs {
        version: row.ovs_version,
        hw_offload: row
            .other_config
            .get("hw-offload")
            .is_some_and(|value| value.eq_ignore_ascii_case("true")),
        tc_policy: TcPolicy::parse(policy),
        max_idle_ms: row.other_config.get("max-idle").and_then(|text| text.parse().ok()),
        interfaces: Vec::new(),
    };
    for bridge in tables.rows::<BridgeRow>() {
        let (_, bridge) = bridge?;
        for port in &bridge.ports {
            let Some(port) = tables.row::<PortRow>(*port)? else { continue };
            for uuid in &port.interfaces {
                let Some(row) = tables.row::<InterfaceRow>(*uuid)? else { continue };
                ovs.interfaces.push(interface(&bridge, &port, row));
            }
        }
    }
    ovs.interfaces.sort_by(|a, b| (&a.bridge, &a.name).cmp(&(&b.bridge, &b.name)));
    Ok((ovs, row.external_ids.into_iter().collect()))
}

/// `ovs-monitor-ipsec` hands `options:ipsec_X` to the IKE daemon as `X` (Open vSwitch 3.0 and newer).
fn ipsec_options(options: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let ours = options.iter().filter_map(|(name, value)| Some((name.strip_prefix("ipsec_")?, value)));
    ours.map(|(name, value)| (name.to_owned(), value.clone())).collect()
}

fn interface(bridge: &BridgeRow, port: &PortRow, row: InterfaceRow) -> Interface {
    Interface {
        bridge: bridge.name.clone(),
        userspace: bridge.datapath_type == "netdev",
        remote_ip: row.options.get("remote_ip").and_then(|address| address.parse().ok()),
        ovn: port.external_ids.contains_key("ovn-chassis-id"),
        name: row.name,
        kind: row.kind,
        ofport: row.ofport,
        error: row.error,
        ipsec: ipsec_options(&row.options),
        policing_kbps: row.ingress_policing_rate,
        policing_kpkts: row.ingress_policing_kpkts_rate,
    }
}
