//! Servers that die or fall silent, and consumers that do not keep up.

use std::time::{Duration, Instant};

use lab_tests::harness::{Failure, Lab, Outcome, ensure};
use ovsdb_client::{
    Clause, Client, Columns, Config, Mutation, Mutator, RequestError, Tables, Transaction, TransactionError,
};
use tokio::time::{sleep, timeout};

use super::consumer::{
    WITHIN, block_on, config, insert, numbers, synchronised, until_lost, until_rows, until_synchronised,
};
use super::server::{Server, Tap};

async fn until_dry(tap: &Tap) -> Outcome {
    let dry = async {
        while !tap.is_dry() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(WITHIN, dry).await.map_err(|_| Failure::new("waited in vain until the reply was cut"))
}

pub(crate) fn a_server_killed_in_the_middle_of_a_reply_costs_a_reconnection_and_nothing_else(
    lab: &mut Lab,
) -> Outcome {
    let mut server = Server::start(lab)?;
    block_on(async {
        let tap = Tap::before(&server)?;
        let (client, mut watcher) = synchronised(config(tap.remote())).await?;
        insert(&client, (0..2000).map(|number| (format!("thing{number}"), number))).await?;
        until_rows(&mut watcher, "the rows are there", |tables| tables.len() == 2000).await?;
        let before = watcher.tables().clone();

        // The next connection ends inside the schema, then inside the monitor's reply: at its start, deep in it.
        for bytes in [10, 1500, 30_000, 90_000] {
            tap.allow(bytes);
            server.appctl(&["ovsdb-server/reconnect"])?;
            until_dry(&tap).await?;
            server.kill()?;
            tap.allow(u64::MAX);
            server.launch()?;
            let (changes, losses) = until_synchronised(&mut watcher).await?;
            ensure!(changes.is_empty(), "after {bytes} bytes {} changes were seen", changes.len());
            ensure!(losses.iter().any(|why| why.contains("in the middle")), "{losses:?}");
            ensure!(*watcher.tables() == before, "after {bytes} bytes the rows are others");
        }

        // A transaction whose answer is cut off may have been carried out, and is not sent again.
        server.signal("STOP")?;
        let mut transaction = Transaction::new();
        transaction.mutate(
            "Thing",
            &[Clause::equal("name", "thing0")],
            &[Mutation::new("number", Mutator::Add, 1)],
        );
        let (answer, killed) = tokio::join!(client.transact(&transaction), async {
            sleep(Duration::from_millis(200)).await;
            server.kill()?;
            server.launch()
        });
        killed?;
        let lost = TransactionError::Request(RequestError::OutcomeUnknown);
        ensure!(answer.as_ref().err() == Some(&lost), "{answer:?}");
        until_synchronised(&mut watcher).await?;
        let number = numbers(watcher.tables()).get("thing0").copied();
        ensure!(number == Some(0), "the stopped server did not carry it out, and now it is {number:?}");
        Ok(())
    })
}

pub(crate) fn a_server_that_stops_answering_is_noticed_and_comes_back(lab: &mut Lab) -> Outcome {
    let server = Server::start(lab)?;
    block_on(async {
        let soon = Config { probe_interval: Some(Duration::from_secs(2)), ..config(server.remote()) };
        let (client, mut watcher) = synchronised(soon).await?;
        server.signal("STOP")?;
        let begin = Instant::now();
        let why = until_lost(&mut watcher).await?;
        // The probe goes out after 2 s of silence, and the connection is given up after 2 s more.
        ensure!(why.to_string() == "server does not answer", "{why}");
        ensure!(begin.elapsed() >= Duration::from_secs(2), "given up after {:?}", begin.elapsed());
        let status = client.status();
        ensure!(!status.is_synchronised && status.last_error.is_some(), "{status:?}");
        server.signal("CONT")?;
        until_synchronised(&mut watcher).await?;
        insert(&client, [("after".to_owned(), 1)]).await?;
        until_rows(&mut watcher, "the row is there", |tables| tables.len() == 1).await?;
        ensure!(client.status().last_error.is_none(), "{:?}", client.status());
        Ok(())
    })
}

async fn write_often(writer: &Client, count: i64) -> Outcome {
    for number in 1..=count {
        let mut transaction = Transaction::new();
        let columns = Columns::new().set("number", number).set("tags", [format!("tag{number}")]);
        transaction.update("Thing", &[Clause::equal("name", "counter")], columns);
        writer.transact(&transaction).await?;
    }
    Ok(())
}

fn counter(tables: &Tables) -> i64 {
    numbers(tables).get("counter").copied().unwrap_or(-1)
}

pub(crate) fn dropped_futures_neither_lose_an_update_nor_put_the_stream_out_of_step(
    lab: &mut Lab,
) -> Outcome {
    const COUNT: i64 = 300;
    let server = Server::start(lab)?;
    block_on(async {
        let (writer, _) = synchronised(config(server.remote())).await?;
        insert(&writer, [("counter".to_owned(), 0)]).await?;
        let (reader, mut watcher) = synchronised(config(server.remote())).await?;
        let mut seen = watcher.tables().clone();
        let (mut dropped_waits, mut dropped_requests) = (0, 0);
        let writing = write_often(&writer, COUNT);
        tokio::pin!(writing);
        let mut is_written = false;
        while counter(&seen) != COUNT || dropped_waits < 20 || dropped_requests < 20 {
            tokio::select! {
                done = &mut writing, if !is_written => { done?; is_written = true; }
                // A future of `next` and one of `transact` are made, polled once or twice and dropped.
                notice = timeout(Duration::from_micros(50), watcher.next()) => match notice {
                    Ok(Some(ovsdb_client::Notice::Changes(changes))) => {
                        for change in changes {
                            let known = seen.get(&change.table, change.uuid).cloned();
                            ensure!(known == change.old, "a change does not follow on the one before: {change:?}");
                            seen.apply(&change);
                        }
                    }
                    Ok(Some(other)) => return Err(Failure::new(format!("{other:?}"))),
                    Ok(None) => return Err(Failure::new("the client has ended")),
                    Err(_) => dropped_waits += 1,
                },
            }
            let mut read = Transaction::new();
            read.select("Thing", &[], &["name", "number"]);
            tokio::select! {
                biased;
                answer = reader.transact(&read) => { answer?; }
                () = tokio::task::yield_now() => dropped_requests += 1,
            }
        }
        let mut read = Transaction::new();
        let all = read.select("Thing", &[], &["number"]);
        let outcome = timeout(WITHIN, reader.transact(&read)).await;
        let outcome = outcome.map_err(|_| Failure::new("the stream is out of step"))??;
        let number = outcome.rows(all).and_then(|rows| rows.first()?.read::<i64>("number"));
        ensure!(number == Some(COUNT), "{outcome:?}");
        ensure!(reader.status().synchronisations == 1, "the connection was lost: {:?}", reader.status());
        Ok(())
    })
}

pub(crate) fn what_a_slow_consumer_leaves_is_a_difference_and_not_a_queue(lab: &mut Lab) -> Outcome {
    let server = Server::start(lab)?;
    block_on(async {
        let (writer, mut writers) = synchronised(config(server.remote())).await?;
        insert(&writer, [("counter".to_owned(), 0), ("other".to_owned(), 0)]).await?;
        let (reader, mut watcher) = synchronised(config(server.remote())).await?;
        // The consumer does nothing while 500 transactions happen, and the server restarts its connections.
        write_often(&writer, 250).await?;
        server.appctl(&["ovsdb-server/reconnect"])?;
        until_lost(&mut writers).await?;
        until_synchronised(&mut writers).await?;
        write_often(&writer, 250).await?;
        let mut transaction = Transaction::new();
        transaction.delete("Thing", &[Clause::equal("name", "other")]);
        transaction.insert("Thing", Columns::new().set("name", "brief"));
        writer.transact(&transaction).await?;
        let mut transaction = Transaction::new();
        transaction.delete("Thing", &[Clause::equal("name", "brief")]);
        transaction.insert("Thing", Columns::new().set("name", "last"));
        transaction.insert("Thing", Columns::new().set("name", "very last"));
        writer.transact(&transaction).await?;
        let caught_up = async {
            while reader.status().rows != 3 || reader.status().backlog != 4 {
                sleep(Duration::from_millis(5)).await;
            }
        };
        let status = || reader.status();
        timeout(WITHIN, caught_up)
            .await
            .map_err(|_| Failure::new(format!("the backlog is {:?}", status())))?;
        let changes =
            until_rows(&mut watcher, "the last row is there", |tables| numbers(tables).contains_key("last"))
                .await?;
        // One row changed, one went, two came; the one that came and went was never there.
        ensure!(changes.len() == 4 && counter(watcher.tables()) == 250, "{changes:?}");
        Ok(())
    })
}
