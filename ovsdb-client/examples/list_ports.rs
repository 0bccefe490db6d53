//! Lists bridges with their ports and interfaces, as `ovs-vsctl show` does.
//!
//! ```sh
//! cargo run -p ovsdb-client --example list_ports -- unix:/var/run/openvswitch/db.sock
//! ```
//!
//! It shows how to declare typed rows, take one consistent look at the database, and follow references.

use std::collections::BTreeMap;
use std::error::Error;

use ovsdb_client::{Client, Config, Monitor, Uuid, table};

table! {
    struct Bridge in "Bridge" {
        name: String,
        ports: Vec<Uuid>,
    }
}

table! {
    struct Port in "Port" {
        name: String,
        tag: Option<i64>,
        interfaces: Vec<Uuid>,
    }
}

table! {
    struct Interface in "Interface" {
        name: String,
        kind: String => "type",
        ofport: Option<i64>,
        external_ids: BTreeMap<String, String>,
        // Absent before Open vSwitch 2.3, which then counts as "no error".
        error: Option<String> = None,
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let remote = std::env::args().nth(1).unwrap_or_else(|| "unix:/var/run/openvswitch/db.sock".to_owned());
    let monitor = Monitor::new("Open_vSwitch").rows::<Bridge>().rows::<Port>().rows::<Interface>();
    let (_client, mut watcher) = Client::start(Config::new(remote.parse()?, monitor));
    let tables = watcher.synchronised().await?;

    for bridge in tables.rows::<Bridge>() {
        let (_, bridge) = bridge?;
        println!("{}", bridge.name);
        for port in bridge.ports {
            // A replica is consistent: what is referred to is there.
            let Some(port) = tables.row::<Port>(port)? else { continue };
            let tag = port.tag.map_or(String::new(), |tag| format!(" tag={tag}"));
            println!("  {}{tag}", port.name);
            for interface in port.interfaces {
                let Some(interface) = tables.row::<Interface>(interface)? else { continue };
                let kind = if interface.kind.is_empty() { "system" } else { &interface.kind };
                let ofport = interface.ofport.map_or("-".to_owned(), |ofport| ofport.to_string());
                print!("    {} type={kind} ofport={ofport}", interface.name);
                if let Some(id) = interface.external_ids.get("iface-id") {
                    print!(" iface-id={id}");
                }
                println!("{}", interface.error.map_or(String::new(), |error| format!(" error={error:?}")));
            }
        }
    }
    Ok(())
}
