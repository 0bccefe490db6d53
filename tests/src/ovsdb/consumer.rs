//! A client as a test uses it: every wait has an end, and says what was waited for.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use lab_tests::harness::{Failure, Outcome, ensure};
use ovsdb_client::{
    Change, Client, Columns, Config, LinkError, Monitor, Notice, Real, Remote, Tables, Transaction, Uuid,
    Watcher, table,
};
use tokio::time::timeout;

/// Longest wait for anything. A guest without KVM is slow, and nothing here takes a tenth of it.
pub(crate) const WITHIN: Duration = Duration::from_secs(60);

table! {
    /// The row of the lab's schema.
    pub(crate) struct Thing in "Thing" {
        pub(crate) name: String,
        pub(crate) number: i64,
        pub(crate) ratio: Real,
        pub(crate) flag: bool,
        pub(crate) maybe: Option<i64>,
        pub(crate) tags: BTreeSet<String>,
        pub(crate) options: BTreeMap<String, String>,
        pub(crate) friends: Vec<Uuid>,
    }
}

/// Runs the asynchronous part of a test.
pub(crate) fn block_on(test: impl Future<Output = Outcome>) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let done = timeout(5 * WITHIN, test).await;
        done.unwrap_or_else(|_| Err(Failure::new("the test took too long")))
    })
}

/// What follows the lab's rows at a remote, impatiently.
pub(crate) fn config(remote: Remote) -> Config {
    config_of(remote, Monitor::new("Lab").rows::<Thing>())
}

pub(crate) fn config_of(remote: Remote, monitor: Monitor) -> Config {
    Config {
        // Longer than a server that has to share its processor is silent.
        probe_interval: Some(Duration::from_secs(20)),
        backoff_min: Duration::from_millis(20),
        backoff_max: Duration::from_millis(200),
        ..Config::new(remote, monitor)
    }
}

/// A client whose rows are what the server has.
pub(crate) async fn synchronised(config: Config) -> Outcome<(Client, Watcher)> {
    let (client, mut watcher) = Client::start(config);
    until_synchronised(&mut watcher).await?;
    Ok((client, watcher))
}

/// The next notice.
pub(crate) async fn next(watcher: &mut Watcher) -> Outcome<Notice> {
    let notice = timeout(WITHIN, watcher.next()).await;
    let notice = notice.map_err(|_| Failure::new("waited in vain for a notice"))?;
    notice.ok_or(Failure::new("the client has ended"))
}

/// Takes notices until the rows are what the server has; gives the changes and the losses on the way.
pub(crate) async fn until_synchronised(watcher: &mut Watcher) -> Outcome<(Vec<Change>, Vec<String>)> {
    let (mut changes, mut losses) = (Vec::new(), Vec::new());
    loop {
        match next(watcher).await? {
            Notice::Changes(more) => changes.extend(more),
            Notice::Lost(why) => losses.push(why.to_string()),
            Notice::Synchronised { .. } => return Ok((changes, losses)),
            _ => {}
        }
    }
}

/// Takes notices until the connection is lost; why.
pub(crate) async fn until_lost(watcher: &mut Watcher) -> Outcome<std::sync::Arc<LinkError>> {
    loop {
        if let Notice::Lost(why) = next(watcher).await? {
            return Ok(why);
        }
    }
}

/// Takes notices until the rows are as `wanted`.
pub(crate) async fn until_rows(
    watcher: &mut Watcher,
    what: &str,
    wanted: impl Fn(&Tables) -> bool,
) -> Outcome<Vec<Change>> {
    let mut changes = Vec::new();
    while !wanted(watcher.tables()) {
        match timeout(WITHIN, watcher.next()).await {
            Ok(Some(Notice::Changes(more))) => changes.extend(more),
            Ok(Some(_)) => {}
            Ok(None) => return Err(Failure::new("the client has ended")),
            Err(_) => {
                let rows: Vec<_> = watcher.rows::<Thing>().take(5).collect();
                return Err(Failure::new(format!("waited in vain until {what}; rows: {rows:?}")));
            }
        }
    }
    Ok(changes)
}

/// Takes notices until a lock is, or is no longer, ours.
pub(crate) async fn until_lock(watcher: &mut Watcher, wanted: bool) -> Outcome {
    loop {
        match next(watcher).await? {
            Notice::Lock { held, .. } if held == wanted => return Ok(()),
            Notice::Lock { held, .. } => {
                return Err(Failure::new(format!("expected lock held={wanted}, was told held={held}")));
            }
            _ => {}
        }
    }
}

/// Inserts things with these names and numbers.
pub(crate) async fn insert(client: &Client, things: impl IntoIterator<Item = (String, i64)>) -> Outcome {
    let mut transaction = Transaction::new();
    for (name, number) in things {
        transaction.insert("Thing", Columns::new().set("name", name).set("number", number));
    }
    let outcome = timeout(WITHIN, client.transact(&transaction)).await;
    let outcome = outcome.map_err(|_| Failure::new("the server did not answer an insert"))??;
    ensure!(outcome.results.len() == transaction.len(), "{outcome:?}");
    Ok(())
}

/// The numbers by name.
pub(crate) fn numbers(tables: &Tables) -> BTreeMap<String, i64> {
    tables.rows::<Thing>().flatten().map(|(_, thing)| (thing.name, thing.number)).collect()
}
