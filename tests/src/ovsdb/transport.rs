//! Unix sockets, TCP and TLS.

use lab_tests::harness::{Failure, Lab, Outcome, ensure};
use ovsdb_client::{Config, Tls};

use super::consumer::{block_on, config, insert, numbers, synchronised, until_lost, until_rows};
use super::server::{Pki, Server, free_port};

pub(crate) fn rows_arrive_over_every_transport(lab: &mut Lab) -> Outcome {
    let pki = Pki::make(lab)?;
    let (tcp, ssl) = (free_port()?, free_port()?);
    let [key, certificate, ca] = pki.server_arguments();
    let (ptcp, pssl) = (format!("--remote=ptcp:{tcp}:127.0.0.1"), format!("--remote=pssl:{ssl}:127.0.0.1"));
    let server = Server::with_arguments(lab, &[&ptcp, &pssl, &key, &certificate, &ca])?;
    block_on(async {
        let tls = Some(Tls::from_files(&pki.client(pki.ca()))?);
        let remotes = [
            server.remote(),
            format!("tcp:127.0.0.1:{tcp}").parse()?,
            format!("ssl:127.0.0.1:{ssl}").parse()?,
        ];
        let mut clients = Vec::new();
        for remote in remotes {
            clients.push(synchronised(Config { tls: tls.clone(), ..config(remote) }).await?);
        }
        for (position, (client, _)) in clients.iter().enumerate() {
            let databases = client.list_dbs().await?;
            ensure!(databases.iter().any(|database| database == "Lab"), "{databases:?}");
            let schema = client.get_schema().await?;
            ensure!(schema.version.as_deref() == Some("1.2.3"), "{schema:?}");
            let echoed = client.echo(&["a", "b"]).await?;
            ensure!(echoed.get() == r#"["a","b"]"#, "{echoed}");
            insert(client, [(format!("thing{position}"), 1)]).await?;
        }
        for (_, watcher) in &mut clients {
            until_rows(watcher, "all three rows are there", |tables| numbers(tables).len() == 3).await?;
        }
        Ok(())
    })
}

pub(crate) fn a_server_with_a_foreign_certificate_is_refused(lab: &mut Lab) -> Outcome {
    let pki = Pki::make(lab)?;
    let ssl = free_port()?;
    let [key, certificate, ca] = pki.server_arguments();
    let pssl = format!("--remote=pssl:{ssl}:127.0.0.1");
    let _server = Server::with_arguments(lab, &[&pssl, &key, &certificate, &ca])?;
    block_on(async {
        let tls = Some(Tls::from_files(&pki.client(pki.other_ca()))?);
        let remote = format!("ssl:127.0.0.1:{ssl}").parse()?;
        let (_client, mut watcher) = ovsdb_client::Client::start(Config { tls, ..config(remote) });
        // The server may listen on its Unix socket, which is what a test waits for, before it does on the port.
        let why = loop {
            let why = until_lost(&mut watcher).await?.to_string();
            if !why.contains("refused") {
                break why;
            }
        };
        ensure!(why.contains("certificate"), "{why}");
        let missing = pki.client(lab.dir().join("nowhere.pem"));
        let error = Tls::from_files(&missing).err().ok_or(Failure::new("a missing file was used"))?;
        ensure!(error.to_string().contains("nowhere.pem"), "{error}");
        Ok(())
    })
}
