//! What OVSDB says of Open vSwitch: its settings, its bridges, and our keys in `external_ids`.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use ipsec_drive::libreswan::OffloadRow;
use offload_engine::{Micros, OvsSettings, OvsVersion, TcPolicy};
use ovsdb_client::{Client, Config, Monitor, Notice, Remote, Tables, Tls, TlsFiles, Uuid, Watcher};
use tokio::sync::mpsc;
use tracing::warn;

use crate::ike::Rows;
use crate::inventory::OvsInterface;
use crate::workload::{self, TunnelRow};

ovsdb_client::table! {
    struct OpenVswitch in "Open_vSwitch" {
        other_config: BTreeMap<String, String>,
        external_ids: BTreeMap<String, String>,
        ovs_version: Option<String>,
    }
}

ovsdb_client::table! {
    struct Bridge in "Bridge" {
        name: String,
        datapath_type: String,
        ports: Vec<Uuid>,
    }
}

ovsdb_client::table! {
    struct Port in "Port" {
        interfaces: Vec<Uuid>,
        external_ids: BTreeMap<String, String>,
    }
}

ovsdb_client::table! {
    struct Interface in "Interface" {
        name: String,
        kind: String => "type",
        ifindex: Option<i64> = None,
        error: Option<String> = None,
        external_ids: BTreeMap<String, String>,
        options: BTreeMap<String, String>,
    }
}

/// What is told.
#[derive(Debug)]
pub(crate) enum News {
    /// The connection is up, or down for this reason.
    Connection(Result<(), String>),
    /// The state of the database, whole.
    State(Box<State>),
}

/// What we read of the database.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct State {
    pub(crate) settings: OvsSettings,
    pub(crate) version: Option<String>,
    pub(crate) external_ids: BTreeMap<String, String>,
    pub(crate) interfaces: BTreeMap<String, OvsInterface>,
    /// The chassis that tunnels lead to, by address.
    pub(crate) chassis: BTreeMap<IpAddr, String>,
    /// What is to be protected by IPsec.
    pub(crate) ipsec: Rows,
}

/// News that wait for the loop at most.
const WAITING_MAX: usize = 16;
/// Longest wait for the first connection: a wrong remote is refused at the start.
const FIRST_CONNECTION: Duration = Duration::from_secs(10);

/// Connects, and tells from then on. The client is for whoever writes.
///
/// # Errors
/// One sentence: the remote is no remote, or nobody answers there.
pub(crate) async fn start(remote: &str) -> Result<(mpsc::Receiver<News>, Client), String> {
    let parsed: Remote = remote.parse().map_err(|error| format!("ovs.database: {error}"))?;
    let monitor = Monitor::new("Open_vSwitch")
        .rows::<OpenVswitch>()
        .rows::<Bridge>()
        .rows::<Port>()
        .rows::<Interface>();
    let tls = match &parsed {
        Remote::Ssl(_) => Some(ovsdb_tls()?),
        _ => None,
    };
    let (client, mut watcher) = Client::start(Config { tls, ..Config::new(parsed, monitor) });
    let refused = |why: String| {
        format!(
            "cannot reach OVSDB at {remote}: {why}; is ovsdb-server running, and is ovs.database right? \
             nothing changed"
        )
    };
    let state = match tokio::time::timeout(FIRST_CONNECTION, watcher.synchronised()).await {
        Ok(Ok(tables)) => state(tables),
        Ok(Err(why)) => return Err(refused(why.to_string())),
        Err(_) => return Err(refused("no answer within 10 s".to_owned())),
    };
    let (say, news) = mpsc::channel(WAITING_MAX);
    tokio::spawn(follow(client.clone(), watcher, say, state));
    Ok((news, client))
}

/// The key and certificates that Open vSwitch's own daemons use.
pub(crate) fn ovsdb_tls() -> Result<Tls, String> {
    let directory = std::path::Path::new("/etc/openvswitch");
    let files = TlsFiles {
        private_key: directory.join("sc-privkey.pem"),
        certificate: directory.join("sc-cert.pem"),
        ca_cert: directory.join("cacert.pem"),
    };
    Tls::from_files(&files).map_err(|error| format!("ovs.database is an ssl: remote: {error}"))
}

async fn follow(client: Client, mut watcher: Watcher, say: mpsc::Sender<News>, first: State) {
    // The watcher ends with the client.
    let _client = client;
    let mut told = first.clone();
    let mut synchronised = true;
    for news in [News::Connection(Ok(())), News::State(Box::new(first))] {
        if say.send(news).await.is_err() {
            return;
        }
    }
    while let Some(notice) = watcher.next().await {
        let mut news = Vec::new();
        match notice {
            Notice::Lost(why) => {
                synchronised = false;
                news.push(News::Connection(Err(why.to_string())));
            }
            Notice::Synchronised { .. } => {
                synchronised = true;
                news.push(News::Connection(Ok(())));
            }
            _ => {}
        }
        if synchronised {
            let state = state(watcher.tables());
            if state != told {
                told = state.clone();
                news.push(News::State(Box::new(state)));
            }
        }
        for news in news {
            if say.send(news).await.is_err() {
                return;
            }
        }
    }
}

/// Reads the whole state. Rows that cannot be read are left out, with a word in the log.
fn state(tables: &Tables) -> State {
    let mut state = State::default();
    if let Some((_, row)) = readable(tables.rows::<OpenVswitch>()).next() {
        let is_true = |key: &str| row.other_config.get(key).is_some_and(|value| value == "true");
        let tc_policy = row.other_config.get("tc-policy").map(String::as_str).unwrap_or_default();
        state.settings = OvsSettings {
            version: row.ovs_version.as_deref().and_then(OvsVersion::parse),
            hw_offload: is_true("hw-offload"),
            tc_policy: TcPolicy::parse(tc_policy),
            max_idle: row.other_config.get("max-idle").and_then(|text| max_idle(text)),
        };
        let other = |key: &str| row.other_config.get(key).filter(|value| !value.is_empty()).cloned();
        state.ipsec.host = ipsec_drive::Host {
            certificate: other("certificate"),
            private_key: other("private_key"),
            ca_cert: other("ca_cert"),
            skb_mark: other("ipsec_skb_mark"),
        };
        state.version = row.ovs_version;
        state.external_ids = row.external_ids;
    }
    let ports: BTreeMap<Uuid, Port> = readable(tables.rows::<Port>()).collect();
    let interfaces: BTreeMap<Uuid, Interface> = readable(tables.rows::<Interface>()).collect();
    for (_, bridge) in readable(tables.rows::<Bridge>()) {
        for port in bridge.ports.iter().filter_map(|port| ports.get(port)) {
            for interface in port.interfaces.iter().filter_map(|uuid| interfaces.get(uuid)) {
                let row = OvsInterface {
                    bridge: bridge.name.clone(),
                    iface_id: interface.external_ids.get("iface-id").cloned(),
                    is_netdev: bridge.datapath_type != "netdev" && matches!(&*interface.kind, "" | "system"),
                    ifindex: interface.ifindex.and_then(|ifindex| u32::try_from(ifindex).ok()),
                    error: interface.error.clone(),
                    remote: interface.options.get("remote_ip").and_then(|remote| remote.parse().ok()),
                    workload: workload::of_interface(&interface.external_ids, &port.external_ids),
                };
                state.interfaces.insert(interface.name.clone(), row);
            }
        }
    }
    state.ipsec = Rows { host: state.ipsec.host, ..ipsec(&ports, &interfaces) };
    state.chassis = workload::chassis(ports.values().flat_map(|port| {
        let chassis_id = port.external_ids.get("ovn-chassis-id");
        let of_port = port.interfaces.iter().filter_map(|uuid| interfaces.get(uuid));
        of_port.filter_map(move |interface| {
            let (chassis_id, remote_ip) = (chassis_id?, interface.options.get("remote_ip")?);
            Some(TunnelRow { chassis_id, remote_ip })
        })
    }));
    state
}

/// Interfaces that are marked for IPsec, and those that have something of ours for it.
fn ipsec(ports: &BTreeMap<Uuid, Port>, interfaces: &BTreeMap<Uuid, Interface>) -> Rows {
    let mut rows = Rows::default();
    let of_no_port = BTreeMap::new();
    let mut of_port = BTreeMap::new();
    for port in ports.values() {
        of_port.extend(port.interfaces.iter().map(|uuid| (*uuid, &port.external_ids)));
    }
    for (uuid, interface) in interfaces {
        let Interface { name, kind, options, external_ids, .. } = interface;
        let tunnel = ipsec_drive::TunnelRow::read(name, kind, options);
        let port = of_port.get(uuid).copied().unwrap_or(&of_no_port);
        let offload = OffloadRow::read(tunnel.as_ref(), name, options, external_ids, port);
        rows.offloads.extend(offload.map(|row| (*uuid, row)));
        rows.tunnels.extend(tunnel);
    }
    rows.tunnels.sort_by(|one, other| one.name.cmp(&other.name));
    rows.offloads.sort_by(|(_, one), (_, other)| one.name.cmp(&other.name));
    rows
}

/// `other_config:max-idle`, in milliseconds: Open vSwitch reads it with `smap_get_int()`, so that what is no number is the
/// default, and takes 0 for no packet at all.
fn max_idle(text: &str) -> Option<Micros> {
    text.parse().ok().map(Micros::from_millis)
}

fn readable<T, E: std::fmt::Display>(
    rows: impl Iterator<Item = Result<(Uuid, T), E>>,
) -> impl Iterator<Item = (Uuid, T)> {
    rows.filter_map(|row| row.inspect_err(|error| warn!(%error, "row of OVSDB cannot be read")).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_wrong_remote_is_refused_in_a_sentence() {
        let sentence = start("unix:/nonexistent/db.sock").await.unwrap_err();
        assert!(sentence.starts_with("cannot reach OVSDB at unix:/nonexistent/db.sock: "), "{sentence}");
        assert!(sentence.ends_with("nothing changed"), "{sentence}");
        assert!(start("unix").await.unwrap_err().starts_with("ovs.database: \"unix\" is not a remote"));
    }

    #[tokio::test]
    async fn a_socket_that_is_no_ovsdb_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("db.sock");
        let listener = tokio::net::UnixListener::bind(&path).unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, b"220 mail.example ESMTP\r\n").await;
            }
        });
        let sentence = start(&format!("unix:{}", path.display())).await.unwrap_err();
        assert!(sentence.starts_with("cannot reach OVSDB at unix:"), "{sentence}");
    }
}
