//! Sets a key in the external_ids of an interface, safely against others who change the same row.
//!
//! ```sh
//! cargo run -p ovsdb-client --example transact -- unix:/var/run/openvswitch/db.sock eth0 my-key my-value
//! ```
//!
//! It shows the operations of one transaction, and how to tell a refusal from a lost connection.

use std::collections::BTreeMap;
use std::error::Error;
use std::time::Duration;

use ovsdb_client::{
    Clause, Client, Config, Monitor, Mutation, Mutator, RequestError, Transaction, TransactionError,
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [remote, interface, key, value] = args.as_slice() else {
        return Err("usage: transact REMOTE INTERFACE KEY VALUE".into());
    };
    // Nothing is monitored: this client only sends requests.
    let (client, _watcher) = Client::start(Config::new(remote.parse()?, Monitor::new("Open_vSwitch")));

    let this = [Clause::equal("name", interface.as_str())];
    let mut transaction = Transaction::new();
    // An insert into a map leaves a key that is there alone, so that it is deleted first: both happen, or neither.
    transaction.mutate("Interface", &this, &[Mutation::new("external_ids", Mutator::Delete, [key.as_str()])]);
    let pair = BTreeMap::from([(key.clone(), value.clone())]);
    let found =
        transaction.mutate("Interface", &this, &[Mutation::new("external_ids", Mutator::Insert, pair)]);
    let read = transaction.select("Interface", &this, &["external_ids"]);
    transaction.comment("set by the transact example of ovsdb-client");

    let answer = tokio::time::timeout(Duration::from_secs(10), client.transact(&transaction)).await;
    let outcome = match answer {
        Err(_) => {
            let why =
                client.status().last_error.map_or("it does not answer".to_owned(), |why| why.to_string());
            return Err(format!("gave up waiting for {remote}: {why}").into());
        }
        Ok(Err(TransactionError::Request(RequestError::OutcomeUnknown))) => {
            return Err("connection lost: look at the row to see whether it was changed".into());
        }
        Ok(outcome) => outcome?,
    };
    if outcome.count(found) == Some(0) {
        return Err(format!("there is no interface {interface}").into());
    }
    for row in outcome.rows(read).unwrap_or_default() {
        println!(
            "external_ids: {:?}",
            row.read::<BTreeMap<String, String>>("external_ids").unwrap_or_default()
        );
    }
    Ok(())
}
