//! OVN's Southbound database: which logical switch a port is on, whose it is, which chassis an address belongs to; and, where
//! that is asked for, what this node can offload, told to the fleet in its row of Chassis.
//!
//! Optional: everything works without, and a connection that is lost takes nothing away that was known.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use ovsdb_client::{
    Clause, Client, Condition, Config, Monitor, Mutation, Mutator, Notice, Remote, Tables, Transaction, Uuid,
    Watcher,
};
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

use super::Connection;
use crate::config::{Ovn, SouthboundSetting};
use crate::inventory::OvsInterface;
use crate::workload::{LogicalPort, Southbound};

ovsdb_client::table! {
    struct Chassis in "Chassis" {
        name: String,
        encaps: Vec<Uuid>,
        external_ids: BTreeMap<String, String>,
    }
}

ovsdb_client::table! {
    struct Encap in "Encap" {
        ip: String,
    }
}

ovsdb_client::table! {
    struct PortBinding in "Port_Binding" {
        logical_port: String,
        datapath: Uuid,
        external_ids: BTreeMap<String, String>,
    }
}

ovsdb_client::table! {
    struct DatapathBinding in "Datapath_Binding" {
        external_ids: BTreeMap<String, String>,
    }
}

/// What our keys in `Chassis.external_ids` begin with, as those in `Open_vSwitch.external_ids` do.
const OUR_KEYS: &str = "offloadd-";
/// News that wait for the loop at most.
const WAITING_MAX: usize = 4;
/// The most ports that are asked about.
const PORTS_MAX: usize = 2_048;
/// Longest wait for a transaction, and between one that failed and the next.
const WRITTEN_WITHIN: Duration = Duration::from_secs(10);

/// What the daemon wants of the database.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Wanted {
    /// Where it is; none to do without.
    pub(crate) remotes: Vec<Remote>,
    /// Our chassis: `Open_vSwitch.external_ids:system-id`.
    pub(crate) chassis: String,
    /// The iface-ids of this node's ports.
    pub(crate) iface_ids: BTreeSet<String>,
    /// What the fleet is told of this node, without the keys' prefix; nothing to write nothing.
    pub(crate) publish: Option<BTreeMap<String, String>>,
}

/// What is told.
#[derive(Debug)]
pub(crate) enum News {
    /// The connection is up, or down for this reason; nothing where there is to be none.
    Connection(Option<Result<(), String>>),
    /// What was read, whole.
    State(Southbound),
}

/// The list of remotes of `external_ids:ovn-remote` or of the configuration.
///
/// # Errors
/// One of them cannot be read.
pub(crate) fn remotes(text: &str) -> Result<Vec<Remote>, String> {
    let each = text.split(',').map(str::trim).filter(|remote| !remote.is_empty());
    each.map(|remote| remote.parse().map_err(|error| format!("ovn.southbound: {error}"))).collect()
}

/// The daemon's end of it.
#[derive(Debug)]
pub(crate) struct Link {
    wanted: watch::Sender<Wanted>,
    config: Ovn,
    /// `Open_vSwitch.external_ids:ovn-remote`.
    ovn_remote: String,
    /// What was read last.
    pub(crate) known: Southbound,
    /// Nothing where the database is not asked.
    pub(super) connection: Option<Connection>,
    /// Why it is not asked although it is to be.
    pub(super) note: Option<String>,
}

impl Link {
    /// Begins to follow what the configuration names.
    pub(crate) fn start(config: &Ovn) -> (Self, mpsc::Receiver<News>) {
        let (wanted, read) = watch::channel(Wanted::default());
        let mut link = Self {
            wanted,
            config: Ovn::default(),
            ovn_remote: String::new(),
            known: Southbound::default(),
            connection: None,
            note: None,
        };
        link.configure(config);
        (link, start(read))
    }

    /// The configuration was read again.
    pub(crate) fn configure(&mut self, config: &Ovn) {
        self.config = config.clone();
        self.choose();
        if !config.publish {
            self.want(|wanted| wanted.publish = None);
        }
    }

    /// Open vSwitch's database told of itself.
    pub(crate) fn found(
        &mut self,
        ids: &BTreeMap<String, String>,
        interfaces: &BTreeMap<String, OvsInterface>,
    ) {
        let id = |key: &str| ids.get(key).cloned().unwrap_or_default();
        self.ovn_remote = id("ovn-remote");
        self.choose();
        let (chassis, iface_ids) =
            (id("system-id"), interfaces.values().filter_map(|row| row.iface_id.clone()));
        let iface_ids: BTreeSet<String> = iface_ids.collect();
        self.want(|wanted| (wanted.chassis, wanted.iface_ids) = (chassis, iface_ids));
    }

    /// Takes what this node can offload now.
    pub(crate) fn publish(&mut self, status: &offload_engine::Status<'_>) {
        if !self.config.publish {
            return;
        }
        let nics = status.nics.iter().filter(|nic| nic.facts.eswitch_mode == "switchdev");
        // A learned capacity may change often, and every change is a write for the whole fleet to read.
        let entries = nics.clone().filter_map(|nic| nic.planner).filter(|counts| !counts.capacity_is_learned);
        let entries: u64 = entries.filter_map(|counts| counts.capacity).map(u64::from).sum();
        let mut publish: BTreeMap<String, String> = [
            ("version".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
            ("mode".to_owned(), status.mode.as_str().to_owned()),
            ("nics".to_owned(), nics.count().to_string()),
        ]
        .into();
        if entries > 0 {
            publish.insert("entries".to_owned(), entries.to_string());
        }
        self.want(|wanted| wanted.publish = Some(publish));
    }

    /// Takes news; returns whether more, or something else, is known than before.
    pub(crate) fn take(&mut self, news: News) -> bool {
        match news {
            News::Connection(None) => {
                self.connection = None;
                std::mem::take(&mut self.known) != Southbound::default()
            }
            News::Connection(Some(state)) => {
                if let Err(why) = &state {
                    warn!(%why, "the Southbound database is not there");
                }
                self.connection.get_or_insert_default().set(state);
                false
            }
            News::State(state) => {
                let is_new = self.known != state;
                self.known = state;
                is_new
            }
        }
    }

    /// Which remotes are asked.
    fn choose(&mut self) {
        let text = match &self.config.southbound {
            SouthboundSetting::None => "",
            SouthboundSetting::OvnRemote => &self.ovn_remote,
            SouthboundSetting::At(remotes) => remotes,
        };
        let (remotes, note) = match remotes(text) {
            Ok(remotes) => (remotes, None),
            Err(why) => (Vec::new(), Some(why)),
        };
        self.note = note;
        self.want(|wanted| wanted.remotes = remotes);
    }

    fn want(&self, change: impl FnOnce(&mut Wanted)) {
        self.wanted.send_if_modified(|wanted| {
            let before = wanted.clone();
            change(wanted);
            before != *wanted
        });
    }
}

/// Follows the database that is wanted, and another when that changes, until nobody listens.
fn start(wanted: watch::Receiver<Wanted>) -> mpsc::Receiver<News> {
    let (say, news) = mpsc::channel(WAITING_MAX);
    tokio::spawn(async move {
        let mut wanted = wanted;
        loop {
            let now = wanted.borrow_and_update().clone();
            let ended = if now.remotes.is_empty() {
                say.send(News::Connection(None)).await.is_err() || wanted.changed().await.is_err()
            } else {
                follow(now, &mut wanted, &say).await.is_none()
            };
            if ended {
                return;
            }
        }
    });
    news
}

fn monitor() -> Monitor {
    Monitor::new("OVN_Southbound")
        .rows::<Chassis>()
        .rows::<Encap>()
        .rows::<PortBinding>()
        .rows::<DatapathBinding>()
        .condition("Port_Binding", Condition::Never)
}

/// The rows of this node's ports.
fn of_ports(iface_ids: &BTreeSet<String>) -> Condition {
    Condition::Any(
        iface_ids.iter().take(PORTS_MAX).map(|id| Clause::equal("logical_port", id.as_str())).collect(),
    )
}

/// Follows one database. Returns when another is wanted; nothing when nobody listens any more.
async fn follow(
    mut now: Wanted,
    wanted: &mut watch::Receiver<Wanted>,
    say: &mpsc::Sender<News>,
) -> Option<()> {
    let first = now.remotes.first()?.clone();
    let tls = match now.remotes.iter().any(|remote| matches!(remote, Remote::Ssl(_))) {
        false => None,
        true => match super::ovsdb::ovsdb_tls() {
            Ok(tls) => Some(tls),
            Err(why) => {
                say.send(News::Connection(Some(Err(why)))).await.ok()?;
                return wanted.changed().await.ok();
            }
        },
    };
    let config = Config { remotes: now.remotes.clone(), tls, ..Config::new(first, monitor()) };
    let (client, mut watcher) = Client::start(config);
    ask_about(&client, &now.iface_ids);
    let mut told = None;
    let mut pen = Pen::default();
    loop {
        tokio::select! {
            changed = wanted.changed() => {
                changed.ok()?;
                let next = wanted.borrow_and_update().clone();
                if next.remotes != now.remotes {
                    now.publish = None;
                    publish(&client, &watcher, &now, &mut pen).await;
                    return Some(());
                }
                if next.iface_ids != now.iface_ids {
                    ask_about(&client, &next.iface_ids);
                }
                now = next;
            }
            notice = watcher.next() => match notice? {
                Notice::Lost(why) => say.send(News::Connection(Some(Err(why.to_string())))).await.ok()?,
                Notice::Synchronised { .. } => say.send(News::Connection(Some(Ok(())))).await.ok()?,
                _ => {}
            }
        }
        if !client.status().is_synchronised {
            continue;
        }
        let state = state(watcher.tables());
        if told.as_ref() != Some(&state) {
            say.send(News::State(state.clone())).await.ok()?;
            told = Some(state);
        }
        publish(&client, &watcher, &now, &mut pen).await;
    }
}

/// Has other rows monitored; that is in force when the connection is there.
fn ask_about(client: &Client, iface_ids: &BTreeSet<String>) {
    let (client, condition) = (client.clone(), of_ports(iface_ids));
    tokio::spawn(async move {
        if let Err(error) = client.set_condition("Port_Binding", condition).await {
            warn!(%error, "the Southbound database does not say what ports belong to");
        }
    });
}

fn readable<T, E: std::fmt::Display>(
    rows: impl Iterator<Item = Result<(Uuid, T), E>>,
) -> impl Iterator<Item = (Uuid, T)> {
    rows.filter_map(|row| {
        row.inspect_err(|error| warn!(%error, "row of the Southbound database cannot be read")).ok()
    })
}

/// Reads the whole state.
fn state(tables: &Tables) -> Southbound {
    let encaps: BTreeMap<Uuid, Encap> = readable(tables.rows::<Encap>()).collect();
    let datapaths: BTreeMap<Uuid, DatapathBinding> = readable(tables.rows::<DatapathBinding>()).collect();
    let mut state = Southbound::default();
    for (_, chassis) in readable(tables.rows::<Chassis>()) {
        let addresses =
            chassis.encaps.iter().filter_map(|encap| encaps.get(encap)?.ip.parse::<IpAddr>().ok());
        state.chassis.extend(addresses.map(|address| (address, chassis.name.clone())));
    }
    for (_, port) in readable(tables.rows::<PortBinding>()) {
        let switch = datapaths.get(&port.datapath).and_then(|datapath| datapath.external_ids.get("name"));
        let project = port.external_ids.get("neutron:project_id");
        let logical = LogicalPort { switch: switch.cloned(), project: project.cloned() };
        state.ports.insert(port.logical_port, logical);
    }
    state
}

/// What became of writing so far, over one connection's life.
#[derive(Debug, Default)]
struct Pen {
    wrote: bool,
    refused_until: Option<tokio::time::Instant>,
}

/// Has the row of our chassis say what it is to say. Not in `other_config`: that is ovn-controller's own, which takes every key
/// away that it does not know (seen with 25.03: "Removing unsupported key"), and would do so as often as it is written.
async fn publish(client: &Client, watcher: &Watcher, wanted: &Wanted, pen: &mut Pen) {
    let ours = readable(watcher.tables().rows::<Chassis>()).find(|(_, row)| row.name == wanted.chassis);
    let Some((uuid, row)) = ours else { return };
    // Nothing to say: what this daemon wrote is taken back, what another left is not its own.
    let due: BTreeMap<String, String> = match &wanted.publish {
        Some(publish) => {
            publish.iter().map(|(key, value)| (format!("{OUR_KEYS}{key}"), value.clone())).collect()
        }
        None if pen.wrote => BTreeMap::new(),
        None => return,
    };
    let there: BTreeMap<String, String> =
        row.external_ids.into_iter().filter(|(key, _)| key.starts_with(OUR_KEYS)).collect();
    let is_early = pen.refused_until.is_some_and(|until| tokio::time::Instant::now() < until);
    if due == there || is_early {
        return;
    }
    let stale: BTreeSet<String> = there.into_keys().chain(due.keys().cloned()).collect();
    let mut transaction = Transaction::new();
    let mutations = [
        Mutation::new("external_ids", Mutator::Delete, stale),
        Mutation::new("external_ids", Mutator::Insert, due),
    ];
    transaction.mutate("Chassis", &[Clause::uuid(uuid)], &mutations);
    transaction.comment("ovs-offloadd: what this node can offload");
    let why = match tokio::time::timeout(WRITTEN_WITHIN, client.transact(&transaction)).await {
        Ok(Ok(_)) => {
            info!(chassis = wanted.chassis, "the Southbound database has what this node can offload");
            *pen = Pen { wrote: wanted.publish.is_some(), refused_until: None };
            return;
        }
        Ok(Err(error)) => error.to_string(),
        Err(_) => "no answer".to_owned(),
    };
    if pen.refused_until.replace(tokio::time::Instant::now() + WRITTEN_WITHIN).is_none() {
        warn!(why, "the Southbound database does not take what this node can offload (ovn.publish)");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_remotes_is_read_as_ovn_controller_reads_it() {
        let found = remotes("tcp:192.0.2.1:6642, ssl:[2001:db8::1]:6642,").expect("remotes");
        assert_eq!(
            found.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["tcp:192.0.2.1:6642", "ssl:[2001:db8::1]:6642"]
        );
        assert_eq!(remotes(""), Ok(vec![]));
        let error = remotes("tcp:192.0.2.1:6642,central:6642").expect_err("a name");
        assert!(error.starts_with("ovn.southbound: \"central:6642\" is not a remote"), "{error}");
    }
}
