//! Libreswan, which `ovs-monitor-ipsec` has protect tunnels: what it is to ask of NICs is written in OVSDB, and what came of that is what
//! the kernel shows.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::net::IpAddr;
use std::time::Duration;

use ipsec_drive::libreswan::{Able, Change, IkeDaemon, MARK, OPTION, OffloadRow, Owner};
use ipsec_drive::{Carried, Offload, Seen, TunnelRow};
use ovsdb_client::{Clause, Client, Columns, Function, Mutation, Mutator, Transaction, Until, Uuid};
use tokio::time::{Instant, timeout};
use tracing::{info, warn};

use super::{Monitor, Orders, Rows, Standing};
use crate::ctl::tunnel::TunnelView;

/// Longest wait for a transaction, and between one that failed and the next.
const WRITTEN_WITHIN: Duration = Duration::from_secs(10);
/// Rows that are changed in one turn.
const ROWS_MAX: usize = 64;
/// Bytes of a process's arguments that are read.
const ARGUMENTS_MAX: u64 = 16_384;
/// The running pluto's, which `ovs-monitor-ipsec` restarts unless it is told not to.
const PLUTO_PIDFILE: &str = "/run/pluto/pluto.pid";

/// Which IKE daemon an `ovs-monitor-ipsec` has: as it was told, else the one that runs.
pub(super) fn ike_daemon(pid: i32) -> Option<IkeDaemon> {
    let mut arguments = Vec::new();
    let read = File::open(format!("/proc/{pid}/cmdline"))
        .and_then(|file| file.take(ARGUMENTS_MAX).read_to_end(&mut arguments));
    let text = String::from_utf8_lossy(&arguments);
    let told = read.ok().and_then(|_| IkeDaemon::of_arguments(text.split('\0')));
    told.or_else(|| pluto().is_some().then_some(IkeDaemon::Libreswan))
}

/// The process of Libreswan's pluto, where one runs as this machine's own.
pub(crate) fn pluto() -> Option<i32> {
    let pid: i32 = std::fs::read_to_string(PLUTO_PIDFILE).ok()?.trim().parse().ok()?;
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    (name.trim() == "pluto").then_some(pid)
}

/// What there is to be of ours, by who makes IPsec; none where everything stays as it is.
fn policy(orders: &Orders, standing: &Standing) -> Option<Offload> {
    match standing {
        Standing::MonitorRuns(Monitor { ike: Some(IkeDaemon::Libreswan), .. }) if orders.libreswan => {
            Some(orders.offload)
        }
        // ovs-monitor-ipsec, or its IKE daemon, is started again, perhaps.
        Standing::MonitorRuns(Monitor { ike: None, .. }) | Standing::Alone(_) => None,
        Standing::Off | Standing::MonitorRuns(_) | Standing::Driving(_) => Some(Offload::None),
    }
}

/// Whether there is something of ours in OVSDB.
pub(super) fn is_anything_ours(rows: &Rows) -> bool {
    rows.offloads.iter().any(|(_, row)| row.ours.is_some())
}

/// Writes to OVSDB.
#[derive(Debug)]
pub(super) struct Pen {
    database: Client,
    not_before: Option<Instant>,
}

impl Pen {
    pub(super) fn new(database: Client) -> Self {
        Self { database, not_before: None }
    }

    /// Has rows changed that are not as they are to be. What came of it is told with OVSDB's next news.
    pub(super) async fn write(&mut self, orders: &Orders, standing: &Standing, seen: &Seen) {
        let Some((rows, policy)) = orders.rows.as_ref().zip(policy(orders, standing)) else { return };
        let is_early = self.not_before.is_some_and(|at| Instant::now() < at);
        if is_early || !self.database.status().is_synchronised {
            return;
        }
        let changes = rows.offloads.iter().filter_map(|(uuid, row)| {
            let tunnel = rows.tunnels.iter().find(|tunnel| tunnel.name == row.name);
            let able = tunnel.map(|tunnel| able(tunnel, seen)).unwrap_or_default();
            let change = row.change(row.due(policy, able))?;
            Some((*uuid, row, change))
        });
        for (uuid, row, change) in changes.take(ROWS_MAX) {
            let transaction = transaction(uuid, row, &change);
            let why = match timeout(WRITTEN_WITHIN, self.database.transact(&transaction)).await {
                Ok(Ok(_)) => {
                    say(row, &change);
                    continue;
                }
                Ok(Err(error)) => error.to_string(),
                Err(_) => "no answer".to_owned(),
            };
            // Most likely somebody changed it at this moment: that is read first.
            warn!(tunnel = row.name, why, "OVSDB does not take what Libreswan is to ask a NIC for");
            self.not_before = Some(Instant::now() + WRITTEN_WITHIN);
            return;
        }
    }
}

fn say(row: &OffloadRow, change: &Change) {
    let tunnel = &row.name;
    match change {
        Change::Write { value, .. } => {
            info!(tunnel, offload = value, "Libreswan is told what to ask a NIC for");
        }
        Change::TakeOut(value) => {
            info!(tunnel, offload = value, "Libreswan is to ask a NIC for nothing more")
        }
        Change::Disown(_) => info!(tunnel, "what Libreswan asks a NIC for is somebody else's word"),
    }
}

fn pair(key: &str, value: &str) -> BTreeMap<String, String> {
    [(key.to_owned(), value.to_owned())].into()
}

/// A change with what it rests on: a row that somebody changed meanwhile is left as it is. The other options, a key among them, are not
/// in it.
fn transaction(uuid: Uuid, row: &OffloadRow, change: &Change) -> Transaction {
    let keys = [("options", OPTION), ("external_ids", MARK)];
    let mut transaction = Transaction::new();
    let mut rests_on = |function: Function, value: &str| {
        let clauses = keys.map(|(column, key)| Clause::new(column, function, pair(key, value)));
        let rows: Vec<Clause> = [Clause::uuid(uuid)].into_iter().chain(clauses).collect();
        let expected = vec![Columns::new().set("name", row.name.as_str())];
        transaction.wait(Duration::ZERO, "Interface", &rows, &["name"], Until::Equal, expected);
    };
    let mut mutations = Vec::new();
    let take_out =
        |value: &str| keys.map(|(column, key)| Mutation::new(column, Mutator::Delete, pair(key, value)));
    match change {
        Change::Write { before, value } => {
            match before {
                Some(before) => {
                    rests_on(Function::Includes, before);
                    mutations.extend(take_out(before));
                }
                // Inserting leaves another value that is there as it is; the same one is told by this.
                None => rests_on(Function::Excludes, value),
            }
            mutations
                .extend(keys.map(|(column, key)| Mutation::new(column, Mutator::Insert, pair(key, value))));
        }
        Change::TakeOut(value) => {
            rests_on(Function::Includes, value);
            mutations.extend(take_out(value));
        }
        Change::Disown(ours) => {
            mutations.push(Mutation::new("external_ids", Mutator::Delete, pair(MARK, ours)));
        }
    }
    transaction.mutate("Interface", &[Clause::uuid(uuid)], &mutations);
    transaction.comment("ovs-offloadd: what Libreswan asks a NIC for");
    transaction
}

/// Our end of a tunnel, where it is said, and the peer's.
fn ends(tunnel: &TunnelRow) -> (Option<IpAddr>, Option<IpAddr>) {
    let address = |text: &Option<String>| text.as_deref().and_then(|text| text.parse().ok());
    (address(&tunnel.local_ip), address(&tunnel.remote_ip))
}

/// Whether the device that has our end of a tunnel does IPsec.
fn able(tunnel: &TunnelRow, seen: &Seen) -> Able {
    match (seen, ends(tunnel)) {
        (Seen::Known(kernel), (local, Some(remote))) => kernel.able_between(local, remote),
        _ => Able::Unknown,
    }
}

/// The word of a view for the option's value.
fn word(value: Option<&str>) -> Option<&'static str> {
    match value {
        None | Some("no") => Some(Offload::None.word()),
        Some("packet") => Some(Offload::Packet.word()),
        Some("crypto") => Some(Offload::Crypto.word()),
        Some(_) => None,
    }
}

/// What a tunnel that Libreswan protects asks of a NIC and has of one, and why no more.
pub(super) fn view(tunnel: &TunnelRow, orders: &Orders, seen: &Seen, view: &mut TunnelView) {
    let rows = orders.rows.iter().flat_map(|rows| &rows.offloads);
    let Some((_, row)) = rows.into_iter().find(|(_, row)| row.name == tunnel.name) else { return };
    view.connection = None;
    view.asks = word(row.value.as_deref());
    if row.owner() == Owner::SomebodyElse {
        view.offload = view.asks;
    }
    let is_packet = view.offload == Some(Offload::Packet.word());
    view.unmet = row.refusals.iter().filter(|_| is_packet).map(ToString::to_string).collect();
    let carriage = match (seen, ends(tunnel)) {
        (Seen::Known(kernel), (local, Some(remote))) => kernel.carriage_between(local, remote),
        _ => None,
    };
    view.carried = carriage.map(|carriage| carriage.least.word());
    view.why_not_more =
        why_not_more(row, orders, able(tunnel, seen), carriage.map(|carriage| carriage.least));
}

fn why_not_more(row: &OffloadRow, orders: &Orders, able: Able, carried: Option<Carried>) -> Option<String> {
    let value = row.value.as_deref().unwrap_or_default();
    let asked = match (value, carried) {
        ("packet", Some(Carried::Packet)) | ("crypto", Some(Carried::Crypto | Carried::Packet)) => None,
        ("packet" | "crypto", Some(_)) => {
            Some(format!("it is asked of a NIC as {value}, and is not there (yet)"))
        }
        ("packet" | "crypto", None) => {
            Some(format!("it is asked of a NIC as {value}, and has nothing yet: pluto's log says more"))
        }
        _ => None,
    };
    let whose = match row.owner() {
        Owner::Us => None,
        Owner::SomebodyElse if value == "packet" => None,
        Owner::SomebodyElse => Some(format!("options:{OPTION}={value} is somebody else's word")),
        Owner::TakenOut => Some(format!(
            "somebody took out options:{OPTION}, which was written here; it is written again when external_ids:{MARK} is taken out, too"
        )),
        Owner::Nobody if !orders.libreswan => {
            Some(format!("ipsec.libreswan is false, and nobody says options:{OPTION}"))
        }
        Owner::Nobody if row.is_ovns => Some(
            "ovn-controller makes its tunnels anew whose options are not what it wrote, so that nothing is written"
                .to_owned(),
        ),
        Owner::Nobody => match orders.offload {
            Offload::Auto => Some(
                "with Libreswan ipsec.offload \"auto\" is software: each move would cost packets, and it does not fall back".to_owned(),
            ),
            Offload::None => Some("ipsec.offload is \"none\"".to_owned()),
            Offload::Packet if !row.refusals.is_empty() => {
                Some("it is not asked of a NIC, for it would not come up".to_owned())
            }
            Offload::Packet | Offload::Crypto => match able {
                Able::Yes => None,
                Able::No => Some(
                    "the device that has its address does no IPsec (esp-hw-offload), and Libreswan leaves a connection out that asks it"
                        .to_owned(),
                ),
                Able::Unknown => Some(
                    "it is not known which device it leaves by: options:local_ip says so, or a security association once it is up"
                        .to_owned(),
                ),
            },
        },
    };
    let sentences: Vec<String> = whose.into_iter().chain(asked).collect();
    (!sentences.is_empty()).then(|| sentences.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ipsec_drive::libreswan::Due;
    use ipsec_drive::{EspId, Kernel, KernelSa};

    fn row(value: Option<&str>, ours: Option<&str>) -> OffloadRow {
        OffloadRow {
            name: "tun0".into(),
            is_marked: true,
            value: value.map(Into::into),
            ours: ours.map(Into::into),
            ..OffloadRow::default()
        }
    }

    fn orders(offload: Offload, row: OffloadRow) -> Orders {
        let options = [("psk", "CANARY"), ("remote_ip", "192.0.2.2")];
        let options = options.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        let tunnel = TunnelRow::read("tun0", "geneve", &options).unwrap();
        let rows = Rows { tunnels: vec![tunnel], offloads: vec![(Uuid::nil(), row)], ..Rows::default() };
        Orders { drive: true, libreswan: true, offload, rows: Some(rows), ..Orders::default() }
    }

    #[test]
    fn what_stays_is_told_from_what_goes_by_who_makes_ipsec() {
        let monitor = |ike| Standing::MonitorRuns(Monitor { pid: 7, ike });
        let mut orders = orders(Offload::Packet, row(None, None));
        let of = |orders: &Orders| {
            [
                Standing::Off,
                monitor(Some(IkeDaemon::Libreswan)),
                monitor(Some(IkeDaemon::Strongswan)),
                monitor(None),
                Standing::Alone("it is started again".into()),
                Standing::Driving("strongSwan".into()),
            ]
            .map(|standing| policy(orders, &standing))
        };
        let none = Some(Offload::None);
        assert_eq!(of(&orders), [none, Some(Offload::Packet), none, None, None, none]);
        orders.libreswan = false;
        assert_eq!(of(&orders), [none, none, none, None, None, none]);
    }

    #[test]
    fn a_change_rests_on_what_was_read_and_leaves_other_options_out_of_it() {
        let wire = |before: OffloadRow, due| {
            let change = before.change(due).unwrap();
            let params = transaction(Uuid::nil(), &before, &change).params("Open_vSwitch");
            serde_json::to_value(&params).unwrap()
        };
        let set = |key: &str, value: &str| serde_json::json!(["map", [[key, value]]]);
        let wrote = wire(row(None, None), Due::Value("packet"));
        let (wait, mutate) = (&wrote[1], &wrote[2]);
        assert_eq!(
            (&wait["op"], &wait["timeout"], &wait["until"]),
            (&"wait".into(), &0.into(), &"==".into())
        );
        assert_eq!(wait["where"][1], serde_json::json!(["options", "excludes", set(OPTION, "packet")]));
        assert_eq!(wait["where"][2], serde_json::json!(["external_ids", "excludes", set(MARK, "packet")]));
        assert_eq!(mutate["mutations"][0], serde_json::json!(["options", "insert", set(OPTION, "packet")]));
        assert_eq!(
            mutate["mutations"][1],
            serde_json::json!(["external_ids", "insert", set(MARK, "packet")])
        );
        let other = wire(row(Some("crypto"), Some("crypto")), Due::Value("packet"));
        assert_eq!(other[1]["where"][1], serde_json::json!(["options", "includes", set(OPTION, "crypto")]));
        assert_eq!(other[2]["mutations"][0], serde_json::json!(["options", "delete", set(OPTION, "crypto")]));
        let out = wire(row(Some("packet"), Some("packet")), Due::Nothing);
        assert_eq!(out[2]["mutations"].as_array().unwrap().len(), 2);
        let disowned = wire(row(Some("no"), Some("packet")), Due::Value("packet"));
        assert_eq!(
            disowned[1]["mutations"],
            serde_json::json!([["external_ids", "delete", set(MARK, "packet")]])
        );
    }

    #[test]
    fn what_a_tunnel_asks_and_has_and_why_no_more_is_shown() {
        let (here, there) = ([192, 0, 2, 1].into(), [192, 0, 2, 2].into());
        let mut kernel = Kernel::default();
        for (spi, (src, dst)) in [(1, (here, there)), (2, (there, here))] {
            let sa = KernelSa { src: Some(src), carried: Carried::Packet, ..KernelSa::default() };
            kernel.sas.insert(EspId { dst, spi }, sa);
        }
        let shown = |orders: &Orders, seen: &Seen| {
            let tunnel = &orders.rows.as_ref().unwrap().tunnels[0];
            let mut shown = TunnelView { offload: Some(orders.offload.word()), ..TunnelView::default() };
            view(tunnel, orders, seen, &mut shown);
            assert!(!format!("{shown:?}").contains("CANARY"));
            (shown.offload, shown.asks, shown.carried, shown.why_not_more.unwrap_or_default())
        };
        let known = Seen::Known(kernel);
        let ours = orders(Offload::Packet, row(Some("packet"), Some("packet")));
        let packet = Some("packet");
        assert_eq!(shown(&ours, &known), (packet, packet, packet, String::new()));
        let (.., carried, why) = shown(&ours, &Seen::NotYet);
        assert_eq!((carried, why.contains("has nothing yet")), (None, true), "{why}");
        let (offload, asks, _, why) = shown(&orders(Offload::Packet, row(Some("no"), None)), &known);
        assert_eq!((offload, asks), (Some("none"), Some("none")));
        assert_eq!(why, "options:ipsec_nic-offload=no is somebody else's word");
        let (.., why) = shown(&orders(Offload::Packet, row(None, None)), &known);
        assert!(why.starts_with("it is not known which device"), "{why}");
        let (.., why) = shown(&orders(Offload::Auto, row(None, None)), &known);
        assert!(why.contains("\"auto\" is software"), "{why}");
        let (.., why) =
            shown(&orders(Offload::Packet, OffloadRow { is_ovns: true, ..row(None, None) }), &known);
        assert!(why.starts_with("ovn-controller makes its tunnels anew"), "{why}");
        let (.., why) = shown(&orders(Offload::Packet, row(None, Some("packet"))), &known);
        assert!(why.starts_with("somebody took out"), "{why}");
    }
}
