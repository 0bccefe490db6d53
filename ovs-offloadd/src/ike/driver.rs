//! The loop: who is there, and a session with charon for as long as it lives.

use std::path::Path;
use std::time::Duration;

use ipsec_drive::{Moves, Seen};
use ovsdb_client::Client;
use tokio::sync::watch;
use tracing::{info, warn};

use super::libreswan::{self, Pen};
use super::session::{End, Session};
use super::{Monitor, Orders, Report, Standing, progress};
use crate::io::rundir::running_pid;

/// Open vSwitch's own, by the name of its pidfile.
const MONITOR: &str = "ovs-monitor-ipsec";
/// Where Libreswan listens: whoever has it has no strongSwan.
const PLUTO: &str = "/run/pluto/pluto.ctl";
/// Between two looks for who is there.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Starts the task; it ends when nobody gives orders any more.
pub(crate) fn start(
    orders: watch::Receiver<Orders>,
    kernel: watch::Receiver<Seen>,
    database: Client,
) -> watch::Receiver<Report> {
    let (report, read) = watch::channel(Report::default());
    tokio::spawn(run(orders, kernel, report, Pen::new(database)));
    read
}

async fn run(
    mut orders: watch::Receiver<Orders>,
    mut kernel: watch::Receiver<Seen>,
    report: watch::Sender<Report>,
    mut pen: Pen,
) {
    let mut moves = Moves::default();
    loop {
        let now = orders.borrow_and_update().clone();
        let standing = match (now.drive, &now.rows) {
            (false, _) => Some(Standing::Off),
            (true, None) => Some(Standing::Alone("OVSDB has not told of tunnels yet".to_owned())),
            (true, Some(_)) => monitor(&now.rundir).map(Standing::MonitorRuns),
        };
        let standing = match standing {
            Some(standing) => standing,
            None => match Session::open(&now.vici, moves).await {
                Err(why) => Standing::Alone(nobody(&why, Path::new(PLUTO).exists())),
                // To strongSwan that would be a person's word.
                Ok(_) if now.rows.as_ref().is_some_and(libreswan::is_anything_ours) => {
                    pen.write(&now, &Standing::Driving(String::new()), &Seen::NotYet).await;
                    Standing::Alone("what was written for Libreswan is taken out of OVSDB first".to_owned())
                }
                Ok(mut session) => {
                    let end = session.drive(&mut orders, &mut kernel, &report).await;
                    moves = session.moves();
                    match end {
                        End::NoOrders => return,
                        End::OtherOrders => continue,
                        End::Lost(why) => {
                            report.send_modify(|report| report.losses += 1);
                            Standing::Alone(why)
                        }
                    }
                }
            },
        };
        let seen = kernel.borrow_and_update().clone();
        pen.write(&now, &standing, &seen).await;
        tell(&report, standing, &now, &seen);
        tokio::select! {
            changed = orders.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(LOOK_EVERY), if now.drive => {}
        }
    }
}

/// The process of `ovs-monitor-ipsec`, where it runs.
pub(super) fn monitor(rundir: &Path) -> Option<Monitor> {
    let pid = running_pid(rundir, MONITOR).ok()?;
    Some(Monitor { pid, ike: libreswan::ike_daemon(pid) })
}

fn nobody(why: &str, is_libreswan: bool) -> String {
    match is_libreswan {
        true => format!("Libreswan runs here, and strongSwan is what can be driven ({why})"),
        false => format!("strongSwan does not answer: {why}"),
    }
}

/// Reports, with a word in the log where it is another than before.
fn tell(report: &watch::Sender<Report>, standing: Standing, orders: &Orders, kernel: &Seen) {
    if report.borrow().standing != standing {
        match &standing {
            Standing::Off => info!("IPsec of tunnels is left to others; what is there stays"),
            Standing::MonitorRuns(monitor) => {
                info!(%monitor, pid = monitor.pid, "IPsec of tunnels is left to it");
            }
            Standing::Alone(why) => warn!(%why, "IPsec of tunnels cannot be made"),
            Standing::Driving(_) => {}
        }
    }
    let tunnels = progress::idle(orders, &standing, kernel);
    report.send_modify(|report| {
        (report.standing, report.tunnels) = (standing, tunnels);
        report.offload.entries.clear();
        report.offload.has_doubts = false;
        (report.unguarded, report.listed) = (None, None);
    });
}

#[cfg(test)]
mod tests {
    use super::super::Rows;
    use super::*;
    use ovsdb_client::Config;

    async fn reported(report: &mut watch::Receiver<Report>, is: impl FnMut(&Report) -> bool) -> Report {
        let report = tokio::time::timeout(Duration::from_secs(20), report.wait_for(is)).await;
        report.unwrap().unwrap().clone()
    }

    #[tokio::test]
    async fn who_makes_ipsec_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let orders = Orders {
            drive: false,
            vici: directory.path().join("charon.vici"),
            rundir: directory.path().to_owned(),
            rows: Some(Rows::default()),
            ..Orders::default()
        };
        let (order, read) = watch::channel(orders);
        let (_kernel, told) = watch::channel(Seen::NotYet);
        let remote = "unix:/nonexistent/db.sock".parse().unwrap();
        let (database, _) = Client::start(Config::new(remote, ovsdb_client::Monitor::new("Open_vSwitch")));
        let mut report = start(read, told, database);
        assert_eq!(report.borrow_and_update().standing, Standing::Off);
        order.send_modify(|orders| orders.drive = true);
        let found = reported(&mut report, |report| report.standing != Standing::Off).await;
        let Standing::Alone(why) = found.standing else { panic!("{found:?}") };
        assert!(why.contains("charon.vici: No such file or directory"), "{why}");
        order.send_modify(|orders| orders.drive = false);
        reported(&mut report, |report| report.standing == Standing::Off).await;
    }

    #[test]
    fn libreswan_is_named_where_it_runs() {
        assert!(nobody("/x: No such file", true).starts_with("Libreswan runs here"));
        assert_eq!(nobody("/x: refused", false), "strongSwan does not answer: /x: refused");
    }
}
