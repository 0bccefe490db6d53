//! The replica: what it shows, and what it costs to bring it in line again.

use std::path::Path;

use lab_tests::harness::{Failure, Lab, Outcome, ensure, output, wait_until};
use ovsdb_client::{
    Clause, Client, Columns, Condition, Function, LinkError, Monitor, Notice, Transaction, Unsupported, Uuid,
    table,
};

use super::consumer::{
    Thing, WITHIN, block_on, config, config_of, insert, next, numbers, synchronised, until_lost, until_rows,
    until_synchronised,
};
use super::server::{Server, Tap};

pub(crate) fn rows_follow_the_server(lab: &mut Lab) -> Outcome {
    let server = Server::start(lab)?;
    block_on(async {
        let (writer, _) = synchronised(config(server.remote())).await?;
        insert(&writer, (0..2000).map(|number| (format!("thing{number}"), number))).await?;
        let (_reader, mut watcher) = synchronised(config(server.remote())).await?;
        ensure!(watcher.tables().len() == 2000, "{} rows at the start", watcher.tables().len());

        let mut transaction = Transaction::new();
        transaction.update(
            "Thing",
            &[Clause::equal("name", "thing7")],
            Columns::new().set("tags", ["a", "b"]).set("maybe", Some(1)),
        );
        transaction.delete("Thing", &[Clause::new("number", Function::GreaterOrEqual, 10)]);
        transaction.insert("Thing", Columns::new().set("name", "new").set("number", -1));
        writer.transact(&transaction).await?;
        let changes =
            until_rows(&mut watcher, "the transaction is seen", |tables| tables.len() == 11).await?;
        // 1990 rows went, one came, one changed: nothing else, and no row twice.
        ensure!(changes.len() == 1992, "{} changes", changes.len());
        let changed = changes.iter().find(|change| change.old.is_some() && change.new.is_some());
        let changed =
            changed.and_then(|change| change.read::<Thing>()).ok_or(Failure::new("no row changed"))??;
        let (Some(old), Some(new)) = (changed.old, changed.new) else {
            return Err(Failure::new("a changed row has no old or new"));
        };
        ensure!(old.tags.is_empty() && old.maybe.is_none(), "{old:?}");
        ensure!(new.tags.len() == 2 && new.maybe == Some(1) && new.name == "thing7", "{new:?}");

        // Differences of sets come in both directions.
        let mut transaction = Transaction::new();
        transaction.update(
            "Thing",
            &[Clause::equal("name", "thing7")],
            Columns::new().set("tags", ["b", "c"]),
        );
        writer.transact(&transaction).await?;
        until_rows(&mut watcher, "the tags are b and c", |tables| {
            let mut things = tables.rows::<Thing>().flatten().map(|(_, thing)| thing);
            things.any(|thing| thing.tags.iter().eq(["b", "c"]))
        })
        .await?;
        Ok(())
    })
}

pub(crate) fn a_condition_can_be_changed_while_rows_flow(lab: &mut Lab) -> Outcome {
    let server = Server::start(lab)?;
    block_on(async {
        let (writer, _) = synchronised(config(server.remote())).await?;
        insert(&writer, (0..100).map(|number| (format!("thing{number}"), number))).await?;
        let above = |number: i64| Condition::Any(vec![Clause::new("number", Function::Greater, number)]);
        let monitor = Monitor::new("Lab").rows::<Thing>().condition("Thing", above(89));
        let (reader, mut watcher) = synchronised(config_of(server.remote(), monitor)).await?;
        ensure!(watcher.tables().len() == 10, "{} rows above 89", watcher.tables().len());

        reader.set_condition("Thing", above(79)).await?;
        until_rows(&mut watcher, "there are 20 rows", |tables| tables.len() == 20).await?;
        // Three at once: the last one counts, and all callers learn when it is in force.
        let (a, b, c) = tokio::join!(
            reader.set_condition("Thing", above(49)),
            reader.set_condition("Thing", Condition::Never),
            reader.set_condition("Thing", above(97)),
        );
        for applied in [a, b, c] {
            applied?;
        }
        until_rows(&mut watcher, "there are 2 rows", |tables| tables.len() == 2).await?;
        insert(&writer, [("low".to_owned(), 5), ("high".to_owned(), 500)]).await?;
        until_rows(&mut watcher, "the high row is there", |tables| tables.len() == 3).await?;
        ensure!(numbers(watcher.tables()).get("high") == Some(&500), "{:?}", numbers(watcher.tables()));

        // The conditions of now, not those of the start, hold on the next connection.
        server.appctl(&["ovsdb-server/reconnect"])?;
        until_lost(&mut watcher).await?;
        let (changes, _) = until_synchronised(&mut watcher).await?;
        ensure!(changes.is_empty(), "a reconnection changed {changes:?}");
        Ok(())
    })
}

pub(crate) fn a_restart_yields_only_what_really_changed(lab: &mut Lab) -> Outcome {
    let mut server = Server::start(lab)?;
    block_on(async {
        let (client, mut watcher) = synchronised(config(server.remote())).await?;
        insert(&client, (0..500).map(|number| (format!("thing{number}"), number))).await?;
        until_rows(&mut watcher, "the rows are there", |tables| tables.len() == 500).await?;

        server.kill()?;
        until_lost(&mut watcher).await?;
        ensure!(watcher.tables().len() == 500, "the rows went with the connection");
        server.transact_offline(
            r#"["Lab", {"op": "delete", "table": "Thing", "where": [["name", "==", "thing1"]]},
                {"op": "update", "table": "Thing", "where": [["name", "==", "thing2"]], "row": {"number": 2222}},
                {"op": "update", "table": "Thing", "where": [["name", "==", "thing3"]], "row": {"number": 3}},
                {"op": "insert", "table": "Thing", "row": {"name": "thing500", "number": 500}}]"#,
        )?;
        server.launch()?;
        let (changes, _) = until_synchronised(&mut watcher).await?;
        let mut seen: Vec<_> = changes
            .iter()
            .filter_map(|change| Some((change.read::<Thing>()?, change)))
            .map(|(change, _)| {
                change.map(|change| (change.old.map(|row| row.number), change.new.map(|row| row.number)))
            })
            .collect::<Result<_, _>>()?;
        seen.sort_unstable();
        let expected = [(None, Some(500)), (Some(1), None), (Some(2), Some(2222))];
        ensure!(seen == expected, "the restart was seen as {seen:?}");
        ensure!(client.status().continuations == 0, "{:?}", client.status());
        Ok(())
    })
}

pub(crate) fn a_cluster_continues_where_the_last_connection_ended(lab: &mut Lab) -> Outcome {
    let server = Server::of_cluster(lab)?;
    block_on(async {
        let tap = Tap::before(&server)?;
        let leader_only = |remote| ovsdb_client::Config { leader_only: true, ..config(remote) };
        let (writer, _) = synchronised(leader_only(server.remote())).await?;
        let (reader, mut watcher) = synchronised(leader_only(tap.remote())).await?;
        insert(&writer, (0..500).map(|number| (format!("thing{number}"), number))).await?;
        until_rows(&mut watcher, "the rows are there", |tables| tables.len() == 500).await?;

        // A server's history holds no more values than its database: a first transaction that is the database is soon
        // forgotten, so that the reader's last one has to be another.
        insert(&writer, [("small".to_owned(), 0)]).await?;
        until_rows(&mut watcher, "the small row is there", |tables| tables.len() == 501).await?;

        // What happens while the reader is away is all that its next connection brings.
        for round in 0..3u64 {
            tap.cut(true);
            until_lost(&mut watcher).await?;
            let mut transaction = Transaction::new();
            transaction
                .insert("Thing", Columns::new().set("name", format!("round{round}")).set("tags", ["x"]));
            let this = [Clause::equal("name", "thing0")];
            transaction.update(
                "Thing",
                &this,
                Columns::new().set("tags", [format!("tag{round}"), "y".to_owned()]),
            );
            transaction.delete("Thing", &[Clause::equal("name", format!("thing{}", round + 1))]);
            writer.transact(&transaction).await?;
            tap.cut(false);
            let (changes, _) = until_synchronised(&mut watcher).await?;
            let mut kinds: Vec<_> =
                changes.iter().map(|change| (change.old.is_some(), change.new.is_some())).collect();
            kinds.sort_unstable();
            ensure!(
                kinds == [(false, true), (true, false), (true, true)],
                "round {round} was seen as {kinds:?}"
            );
            let status = reader.status();
            ensure!(status.continuations == round + 1, "everything was fetched again: {status:?}");
        }
        let status = reader.status();
        ensure!(status.monitor_method == "monitor_cond_since", "{status:?}");
        let things: Vec<_> = watcher.rows::<Thing>().flatten().map(|(_, thing)| thing).collect();
        ensure!(things.len() == 501, "{} rows", things.len());
        let tagged = things.iter().find(|thing| thing.name == "thing0");
        ensure!(tagged.is_some_and(|thing| thing.tags.iter().eq(["tag2", "y"])), "{tagged:?}");
        Ok(())
    })
}

table! {
    struct Bridge in "Bridge" { name: String, ports: Vec<Uuid> }
}
table! {
    struct Port in "Port" { name: String, tag: Option<i64>, trunks: Vec<i64>, interfaces: Vec<Uuid> }
}
table! {
    struct Interface in "Interface" {
        name: String,
        kind: String => "type",
        ofport: Option<i64>,
        options: std::collections::BTreeMap<String, String>,
        external_ids: std::collections::BTreeMap<String, String>,
        statistics: std::collections::BTreeMap<String, i64>,
        // No release has it: the default stands in.
        colour: String = "none".to_owned(),
    }
}

pub(crate) fn open_vswitchs_own_rows_are_read_as_typed_rows(lab: &mut Lab) -> Outcome {
    let schema = Path::new("/usr/share/openvswitch/vswitch.ovsschema");
    let server = Server::of_schema(lab, schema, &[])?;
    let vsctl = |arguments: &[&str]| {
        let mut command = std::process::Command::new("ovs-vsctl");
        output(command.arg(format!("--db={}", server.remote())).arg("--no-wait").args(arguments))
    };
    block_on(async {
        let monitor = Monitor::new("Open_vSwitch").rows::<Bridge>().rows::<Port>().rows::<Interface>();
        let (_client, mut watcher) = synchronised(config_of(server.remote(), monitor)).await?;
        vsctl(&["add-br", "br0", "--", "add-port", "br0", "p1", "tag=7"])?;
        vsctl(&[
            "set",
            "Interface",
            "p1",
            "type=vxlan",
            "options:remote_ip=10.0.0.2",
            "external_ids:iface-id=vm1",
        ])?;
        until_rows(&mut watcher, "the port is there", |tables| {
            let mut interfaces = tables.rows::<Interface>().flatten().map(|(_, interface)| interface);
            interfaces.any(|interface| interface.name == "p1" && interface.kind == "vxlan")
        })
        .await?;
        let tables = watcher.tables();
        let (_, bridge) = tables.rows::<Bridge>().next().ok_or(Failure::new("there is no bridge"))??;
        ensure!(bridge.name == "br0" && bridge.ports.len() == 2, "{bridge:?}");
        let ports = bridge.ports.iter().filter_map(|uuid| tables.row::<Port>(*uuid).ok()?);
        let port =
            ports.into_iter().find(|port| port.name == "p1").ok_or(Failure::new("there is no port p1"))?;
        ensure!(port.tag == Some(7) && port.trunks.is_empty(), "{port:?}");
        let interface =
            tables.row::<Interface>(port.interfaces[0])?.ok_or(Failure::new("there is no interface"))?;
        ensure!(interface.options["remote_ip"] == "10.0.0.2", "{interface:?}");
        ensure!(interface.external_ids["iface-id"] == "vm1" && interface.colour == "none", "{interface:?}");
        ensure!(interface.ofport.is_none() && interface.statistics.is_empty(), "{interface:?}");

        vsctl(&["del-br", "br0"])?;
        until_rows(&mut watcher, "everything is gone", ovsdb_client::Tables::is_empty).await?;
        Ok(())
    })
}

table! {
    struct Coloured in "Thing" { name: String, colour: String }
}
table! {
    struct Mistyped in "Thing" { name: String, number: String }
}

pub(crate) fn what_the_schema_lacks_is_named(lab: &mut Lab) -> Outcome {
    let server = Server::start(lab)?;
    block_on(async {
        let cases = [
            (Monitor::new("Lab").rows::<Coloured>(), "table Thing has no column colour"),
            (Monitor::new("Lab").rows::<Mistyped>(), "column number is integer"),
            (Monitor::new("Lab").every_column("Nothing"), "has no table Nothing"),
            (Monitor::new("Nowhere").every_column("Thing"), "no database Nowhere"),
        ];
        for (monitor, expected) in cases {
            let (_client, mut watcher) = Client::start(config_of(server.remote(), monitor));
            let why = until_lost(&mut watcher).await?;
            let is_unsupported = matches!(
                &*why,
                LinkError::Unsupported(
                    Unsupported::Column { .. }
                        | Unsupported::ColumnType { .. }
                        | Unsupported::Table { .. }
                        | Unsupported::Database { .. }
                )
            );
            ensure!(is_unsupported && why.to_string().contains(expected), "expected {expected:?}: {why}");
        }
        let monitor = Monitor::new("Lab").rows::<Thing>().every_column("Nothing").optional("Nothing");
        let (_client, mut watcher) = Client::start(config_of(server.remote(), monitor));
        let notice = next(&mut watcher).await?;
        ensure!(matches!(notice, Notice::Synchronised { .. }), "{notice:?}");
        Ok(())
    })?;
    // The refused clients went; the server must be free to go on.
    wait_until("the server answers", WITHIN, || Ok(server.appctl(&["version"]).is_ok()))
}
