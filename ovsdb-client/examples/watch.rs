//! Follows every column of some tables, and says what changed and how the connection does. Stop it with Ctrl-C.
//!
//! ```sh
//! cargo run -p ovsdb-client --example watch -- unix:/var/run/openvswitch/db.sock Open_vSwitch Bridge Port
//! ```
//!
//! Restart the server while it runs: nothing is reported but what is really different afterwards.

use std::error::Error;

use ovsdb_client::{Change, Client, Config, Monitor, Notice};

fn print(change: &Change) {
    match (&change.old, &change.new) {
        (None, Some(row)) => {
            println!("+ {} {}", change.table, change.uuid);
            for (column, value) in row.iter().filter(|(_, value)| !value.is_empty()) {
                println!("    {column} = {}", value.to_json());
            }
        }
        (Some(old), Some(new)) => {
            println!("~ {} {}", change.table, change.uuid);
            for (column, value) in new.iter().filter(|(column, value)| old.get(column) != Some(*value)) {
                let before = old.get(column).map_or_else(|| "-".into(), |before| before.to_json());
                println!("    {column}: {before} -> {}", value.to_json());
            }
        }
        (Some(_), None) => println!("- {} {}", change.table, change.uuid),
        (None, None) => {}
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(remote), Some(database)) = (args.next(), args.next()) else {
        return Err("usage: watch REMOTE DATABASE TABLE...".into());
    };
    let monitor = args.fold(Monitor::new(database), |monitor, table| monitor.every_column(&table));
    let (client, mut watcher) = Client::start(Config::new(remote.parse()?, monitor));
    while let Some(notice) = watcher.next().await {
        match notice {
            Notice::Changes(changes) => changes.iter().for_each(print),
            Notice::Synchronised { schema_version } => {
                let status = client.status();
                println!(
                    "# synchronised: schema {}, {} rows, by {}",
                    schema_version.as_deref().unwrap_or("?"),
                    status.rows,
                    status.monitor_method
                );
            }
            Notice::Lost(why) => println!("# no connection: {why}"),
            _ => {}
        }
    }
    Ok(())
}
