//! Transactions.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use lab_tests::harness::{Failure, Lab, Outcome, ensure};
use ovsdb_client::{
    Clause, Client, Columns, ErrorTag, Function, Mutation, Mutator, OperationIndex, OperationResult,
    Transaction, TransactionError, Until, Uuid,
};
use tokio::time::timeout;

use super::consumer::{Thing, WITHIN, block_on, config, insert, synchronised, until_rows};
use super::server::Server;

pub(crate) fn every_operation_has_its_result(lab: &mut Lab) -> Outcome {
    let server = Server::start(lab)?;
    block_on(async {
        let (client, mut watcher) = synchronised(config(server.remote())).await?;
        let mut transaction = Transaction::new();
        let options = BTreeMap::from([("colour", "red"), ("size", "ü\"\\\n")]);
        let columns =
            Columns::new().set("name", "a").set("number", 40).set("ratio", ovsdb_client::Real::new(1.5));
        let a = transaction.insert("Thing", columns.set("tags", ["x", "y"]).set("options", options.clone()));
        let friend = Columns::new().set("name", "b").set("friends", [a.name.clone()]).set("maybe", Some(7));
        let b = transaction.insert("Thing", friend);
        let named_a = [Clause::equal("name", "a")];
        let updated = transaction.update("Thing", &named_a, Columns::new().set("flag", true));
        let add = Mutation::new("number", Mutator::Add, 2);
        let tag = Mutation::new("tags", Mutator::Insert, ["z"]);
        let mutated = transaction.mutate("Thing", &named_a, &[add, tag]);
        let expected = vec![Columns::new().set("number", 42)];
        let waited = transaction.wait(Duration::ZERO, "Thing", &named_a, &["number"], Until::Equal, expected);
        let large = [Clause::new("number", Function::Greater, 41)];
        let selected =
            transaction.select("Thing", &large, &["_uuid", "name", "number", "ratio", "tags", "options"]);
        let comment = transaction.comment("a comment");
        transaction.durable();
        let outcome = client.transact(&transaction).await?;

        let uuid = outcome.inserted(&a).ok_or(Failure::new("the insert has no UUID"))?;
        ensure!(outcome.count(updated) == Some(1) && outcome.count(mutated) == Some(1), "{outcome:?}");
        for index in [waited, comment] {
            ensure!(outcome.results.get(index.0) == Some(&OperationResult::Done), "{outcome:?}");
        }
        let [row] = outcome.rows(selected).unwrap_or_default() else {
            return Err(Failure::new(format!("selected {:?}", outcome.rows(selected))));
        };
        ensure!(row.read::<Uuid>("_uuid") == Some(uuid), "{row:?}");
        ensure!(row.read::<i64>("number") == Some(42), "{row:?}");
        ensure!(row.read::<Vec<String>>("tags").is_some_and(|tags| tags == ["x", "y", "z"]), "{row:?}");
        ensure!(row.read::<ovsdb_client::Real>("ratio").map(|ratio| ratio.get()) == Some(1.5), "{row:?}");

        until_rows(&mut watcher, "both rows are there", |tables| tables.len() == 2).await?;
        let read = watcher.tables().row::<Thing>(uuid)?.ok_or(Failure::new("the row is not there"))?;
        ensure!(read.flag && read.number == 42 && read.options["size"] == "ü\"\\\n", "{read:?}");
        let friend = outcome.inserted(&b).and_then(|uuid| watcher.tables().row::<Thing>(uuid).ok()?);
        ensure!(friend.is_some_and(|b| b.friends == [uuid] && b.maybe == Some(7)), "b does not refer to a");

        let mut transaction = Transaction::new();
        let strong = transaction.delete("Thing", &[Clause::equal("name", "b")]);
        let outcome = client.transact(&transaction).await?;
        ensure!(outcome.count(strong) == Some(1), "{outcome:?}");
        until_rows(&mut watcher, "b is gone", |tables| tables.len() == 1).await?;
        Ok(())
    })
}

async fn refusal(client: &Client, transaction: &Transaction) -> Outcome<TransactionError> {
    match client.transact(transaction).await {
        Ok(outcome) => Err(Failure::new(format!("was carried out: {outcome:?}"))),
        Err(error) => Ok(error),
    }
}

pub(crate) fn every_refusal_names_its_operation_and_its_reason(lab: &mut Lab) -> Outcome {
    let server = Server::start(lab)?;
    block_on(async {
        let (client, mut watcher) = synchronised(config(server.remote())).await?;
        insert(&client, [("a".to_owned(), 1)]).await?;
        until_rows(&mut watcher, "a is there", |tables| tables.len() == 1).await?;
        let named_a = [Clause::equal("name", "a")];

        let mut transaction = Transaction::new();
        transaction.comment("first");
        let expected = vec![Columns::new().set("number", 2)];
        transaction.wait(Duration::ZERO, "Thing", &named_a, &["number"], Until::Equal, expected);
        transaction.delete("Thing", &named_a);
        let error = refusal(&client, &transaction).await?;
        ensure!(
            matches!(&error, TransactionError::Operation { index: OperationIndex(1), error } if error.tag == ErrorTag::TimedOut),
            "{error:?}"
        );

        let mut transaction = Transaction::new();
        transaction.assert_lock("nobody");
        let error = refusal(&client, &transaction).await?;
        ensure!(error.server_error().is_some_and(|error| error.tag == ErrorTag::NotOwner), "{error:?}");

        let mut transaction = Transaction::new();
        transaction.mutate("Thing", &named_a, &[Mutation::new("number", Mutator::Divide, 0)]);
        let error = refusal(&client, &transaction).await?;
        ensure!(error.server_error().is_some_and(|error| error.tag == ErrorTag::DomainError), "{error:?}");

        // The same name twice breaks the index, which only the commit finds.
        let mut transaction = Transaction::new();
        transaction.insert("Thing", Columns::new().set("name", "a"));
        let error = refusal(&client, &transaction).await?;
        let is_commit = |error: &TransactionError| match error {
            TransactionError::Commit(error) => error.tag == ErrorTag::ConstraintViolation,
            _ => false,
        };
        ensure!(is_commit(&error), "{error:?}");

        let mut transaction = Transaction::new();
        transaction.insert("Thing", Columns::new().set("name", "c").set("friends", [Uuid::from_u128(1)]));
        let error = refusal(&client, &transaction).await?;
        let tag = error.server_error().map(|error| error.tag.clone());
        ensure!(tag == Some(ErrorTag::ReferentialIntegrityViolation), "{error:?}");

        for (table, column) in [("Nothing", "name"), ("Thing", "colour")] {
            let mut transaction = Transaction::new();
            transaction.update(table, &[], Columns::new().set(column, "x"));
            let error = refusal(&client, &transaction).await?;
            ensure!(
                error.to_string().contains(if table == "Thing" { "colour" } else { "Nothing" }),
                "{error}"
            );
        }
        let mut transaction = Transaction::new();
        transaction.delete("Thing", &[]);
        transaction.abort();
        let error = refusal(&client, &transaction).await?;
        ensure!(error.server_error().is_some_and(|error| error.tag == ErrorTag::Aborted), "{error:?}");

        let unknown = client.request_raw("no such method", &[0]).await;
        ensure!(unknown.is_err(), "a method that does not exist gave {unknown:?}");
        let mut read = Transaction::new();
        let all = read.select("Thing", &[], &["name"]);
        let outcome = client.transact(&read).await?;
        ensure!(outcome.rows(all).is_some_and(|rows| rows.len() == 1), "something was changed: {outcome:?}");
        ensure!(
            client.status().synchronisations == 1,
            "a refusal cost the connection: {:?}",
            client.status()
        );
        Ok(())
    })
}

pub(crate) fn a_wait_whose_future_is_dropped_is_cancelled_at_the_server(lab: &mut Lab) -> Outcome {
    let server = Server::start(lab)?;
    block_on(async {
        let (client, mut watcher) = synchronised(config(server.remote())).await?;
        // The wait holds until thing "go" exists, and would then add "late".
        let mut waiting = Transaction::new();
        let expected = vec![Columns::new().set("name", "go")];
        let go = [Clause::equal("name", "go")];
        waiting.wait(10 * WITHIN, "Thing", &go, &["name"], Until::Equal, expected);
        waiting.insert("Thing", Columns::new().set("name", "late"));
        let begin = Instant::now();
        let dropped = timeout(Duration::from_millis(300), client.transact(&waiting)).await;
        ensure!(dropped.is_err() && begin.elapsed() < WITHIN, "the wait ended: {dropped:?}");
        insert(&client, [("go".to_owned(), 1), ("after".to_owned(), 2)]).await?;
        until_rows(&mut watcher, "both rows are there", |tables| tables.len() >= 2).await?;
        // The server answers in turn: had it not cancelled the wait, "late" would be there before this answer.
        client.echo(&["done"]).await?;
        let mut read = Transaction::new();
        let late = read.select("Thing", &[Clause::equal("name", "late")], &["name"]);
        let outcome = client.transact(&read).await?;
        ensure!(outcome.rows(late).is_some_and(<[_]>::is_empty), "the cancelled transaction was carried out");
        Ok(())
    })
}
