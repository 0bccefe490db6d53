//! Bridges and ports in Open vSwitch's database: read in one transaction, changed in one each.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ovsdb_client::{Clause, Client, Columns, Config, Monitor, Mutation, Mutator, Remote, Transaction, Uuid};

use super::{NicHands, READ_WITHIN};
use crate::config::show_duration;
use crate::daemon::ovsdb_tls;
use crate::lifecycle::observed::Attachment;

/// Bridges, and all their ports by name.
#[derive(Debug, Default)]
pub(super) struct Switch {
    pub(super) bridges: BTreeSet<String>,
    pub(super) ports: BTreeMap<String, Attachment>,
}

impl NicHands {
    /// The client; it connects at its first use and stays connected.
    fn client(&mut self) -> Result<Client, String> {
        if let Some(client) = &self.ovs {
            return Ok(client.clone());
        }
        let remote: Remote =
            self.places.database.parse().map_err(|error| format!("ovs.database: {error}"))?;
        let tls = match &remote {
            Remote::Ssl(_) => Some(ovsdb_tls()?),
            _ => None,
        };
        let _in_runtime = self.runtime.enter();
        // Nothing is monitored: requests read what they need at the moment it is needed.
        let (client, _watcher) =
            Client::start(Config { tls, ..Config::new(remote, Monitor::new("Open_vSwitch")) });
        self.ovs = Some(client.clone());
        Ok(client)
    }

    fn transact(
        &mut self,
        transaction: &Transaction,
        limit: Duration,
    ) -> Result<ovsdb_client::Outcome, String> {
        let client = self.client()?;
        let answer =
            self.runtime.block_on(async { tokio::time::timeout(limit, client.transact(transaction)).await });
        match answer {
            Ok(outcome) => outcome.map_err(|error| error.to_string()),
            Err(_) => {
                let why = client.status().last_error.map_or_else(
                    || format!("no answer within {}", show_duration(limit)),
                    |why| why.to_string(),
                );
                Err(format!("{}: {why}", self.places.database))
            }
        }
    }

    /// Reads bridges and ports; none where there is no database to be had.
    pub(super) fn switch(&mut self) -> Result<Option<Switch>, String> {
        if let Some(path) = self.places.database.strip_prefix("unix:")
            && !std::path::Path::new(path).exists()
        {
            return Ok(None);
        }
        let mut transaction = Transaction::new();
        let bridges = transaction.select("Bridge", &[], &["name", "ports"]);
        let ports = transaction.select("Port", &[], &["_uuid", "interfaces"]);
        let interfaces = transaction.select("Interface", &[], &["_uuid", "name", "external_ids"]);
        let outcome = self.transact(&transaction, READ_WITHIN)?;
        let rows = |index| outcome.rows(index).unwrap_or_default();
        let interfaces: BTreeMap<Uuid, (String, BTreeMap<String, String>)> = rows(interfaces)
            .iter()
            .filter_map(|row| Some((row.read("_uuid")?, (row.read("name")?, row.read("external_ids")?))))
            .collect();
        let ports: BTreeMap<Uuid, Vec<Uuid>> = rows(ports)
            .iter()
            .filter_map(|row| Some((row.read("_uuid")?, row.read("interfaces")?)))
            .collect();
        let mut switch = Switch::default();
        for row in rows(bridges) {
            let Some(bridge) = row.read::<String>("name") else { continue };
            for port in row.read::<Vec<Uuid>>("ports").unwrap_or_default() {
                for interface in ports.get(&port).into_iter().flatten() {
                    let Some((name, external_ids)) = interfaces.get(interface).cloned() else { continue };
                    let attachment = Attachment { port: name.clone(), bridge: bridge.clone(), external_ids };
                    switch.ports.insert(name, attachment);
                }
            }
            switch.bridges.insert(bridge);
        }
        Ok(Some(switch))
    }

    /// Makes a port with one interface on a bridge.
    pub(super) fn attach(
        &mut self,
        port: &str,
        bridge: &str,
        external_ids: &BTreeMap<String, String>,
    ) -> Result<(), String> {
        let mut transaction = Transaction::new();
        let interface = Columns::new().set("name", port).set("external_ids", external_ids.clone());
        let interface = transaction.insert("Interface", interface);
        let row = Columns::new().set("name", port).set("interfaces", interface.name);
        let row = transaction.insert("Port", row);
        let found = transaction.mutate(
            "Bridge",
            &[Clause::equal("name", bridge)],
            &[Mutation::new("ports", Mutator::Insert, row.name)],
        );
        transaction.comment("ovs-offloadd attaches a representor");
        let outcome = self.transact(&transaction, READ_WITHIN)?;
        match outcome.count(found) {
            Some(1) => Ok(()),
            _ => Err(format!("there is no bridge {bridge}")),
        }
    }

    /// Takes a port off a bridge; its rows go with it. Nothing where it is not there.
    pub(super) fn detach(&mut self, port: &str, bridge: &str) -> Result<(), String> {
        let mut transaction = Transaction::new();
        let found = transaction.select("Port", &[Clause::equal("name", port)], &["_uuid"]);
        let outcome = self.transact(&transaction, READ_WITHIN)?;
        let uuid = outcome.rows(found).and_then(|rows| rows.first()?.read::<Uuid>("_uuid"));
        let Some(uuid) = uuid else { return Ok(()) };
        let mut transaction = Transaction::new();
        transaction.mutate(
            "Bridge",
            &[Clause::equal("name", bridge)],
            &[Mutation::new("ports", Mutator::Delete, uuid)],
        );
        transaction.comment("ovs-offloadd removes the port of a representor");
        self.transact(&transaction, READ_WITHIN).map(drop)
    }

    /// Changes some keys of an interface's `external_ids`.
    pub(super) fn set_ids(
        &mut self,
        port: &str,
        set: &BTreeMap<String, String>,
        remove: &BTreeSet<String>,
    ) -> Result<(), String> {
        let this = [Clause::equal("name", port)];
        let mut transaction = Transaction::new();
        // An insert into a map leaves a key that is there alone.
        let keys: BTreeSet<String> = set.keys().chain(remove).cloned().collect();
        let found = transaction.mutate(
            "Interface",
            &this,
            &[Mutation::new("external_ids", Mutator::Delete, keys.into_iter().collect::<Vec<_>>())],
        );
        transaction.mutate(
            "Interface",
            &this,
            &[Mutation::new("external_ids", Mutator::Insert, set.clone())],
        );
        let outcome = self.transact(&transaction, READ_WITHIN)?;
        match outcome.count(found) {
            Some(1) => Ok(()),
            _ => Err(format!("there is no interface {port}")),
        }
    }
}
