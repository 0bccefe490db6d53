//! The daemon's end of what makes IPsec of tunnels: hands it what is wanted, and reads how far it is.

use std::time::Duration;

use ipsec_drive::libreswan::IkeDaemon;
use ipsec_drive::{Device, Seen, Terms};
use netlink_wire::Ifindex;
use ovsdb_client::Client;
use tokio::sync::watch;

use super::xfrm::Xfrm;
use crate::config::{CapacitySetting, Config};
use crate::ctl::tunnel::TunnelView;
use crate::ctl::views::ConnectionView;
use crate::ike::{self, Monitor, Orders, Report, Rows, Standing};
use crate::ipsec::{Listed, Owners};

/// Between two readings of the kernel: what security associations move is known by them alone.
const READ_EVERY: Duration = Duration::from_secs(10);
/// The same where the last one lacks what the IKE daemon takes for installed.
const READ_AGAIN: Duration = Duration::from_millis(500);

/// Orders and the kernel's word one way, reports the other.
#[derive(Debug)]
pub(crate) struct Ike {
    orders: watch::Sender<Orders>,
    kernel: watch::Sender<Seen>,
    report: watch::Receiver<Report>,
}

impl Ike {
    /// Starts the task.
    pub(crate) fn start(config: &Config, database: Client) -> Self {
        let (orders, read) = watch::channel(Orders::default());
        let (kernel, told) = watch::channel(Seen::NotYet);
        let ike = Self { orders, kernel, report: ike::start(read, told, database) };
        ike.configure(config);
        ike
    }

    /// The configuration was read again.
    pub(crate) fn configure(&self, config: &Config) {
        self.order(|orders| {
            (orders.drive, orders.offload) = (config.ipsec.drive, config.ipsec.offload);
            orders.libreswan = config.ipsec.libreswan;
            orders.terms = Terms {
                entries: match config.ipsec.entries {
                    CapacitySetting::Learn => None,
                    CapacitySetting::Entries(entries) => Some(u32::try_from(entries).unwrap_or(u32::MAX)),
                },
                min_rate: config.ipsec.min_rate / 8,
            };
            orders.vici.clone_from(&config.ipsec.vici);
            orders.rundir = config.rundir();
        });
    }

    /// Open vSwitch's database told of itself.
    pub(crate) fn found(&self, rows: Rows) {
        self.order(|orders| orders.rows = Some(rows));
    }

    fn order(&self, change: impl FnOnce(&mut Orders)) {
        self.orders.send_if_modified(|orders| {
            let before = orders.clone();
            change(orders);
            before != *orders
        });
    }

    /// Hands on what the kernel has of IPsec while there are tunnels to drive, and has it read again from time to time. To be called each
    /// second or so.
    pub(crate) fn look(&self, xfrm: &mut Xfrm) {
        if !self.has_tunnels() {
            return;
        }
        let has_doubts = self.report.borrow().offload.has_doubts;
        xfrm.look_every(if has_doubts { READ_AGAIN } else { READ_EVERY }, !has_doubts);
        if let Some(kernel) = xfrm.take_driven() {
            self.kernel.send_replace(Seen::Known(kernel));
        } else if xfrm.why_not().is_some() {
            self.kernel.send_if_modified(|seen| std::mem::replace(seen, Seen::Never) != Seen::Never);
        }
    }

    /// Devices have gone or were set down. Security associations that they carried went along (`xfrm_dev_down()`), and nobody tells.
    pub(crate) fn gone(&self, devices: &[Ifindex], xfrm: &mut Xfrm) {
        if devices.is_empty() || !self.has_tunnels() {
            return;
        }
        let is_gone = |device: Option<Device>| devices.iter().any(|gone| device == Some(Device(gone.0)));
        let carried = match &*self.kernel.borrow() {
            Seen::Known(kernel) => kernel.sas.values().any(|sa| is_gone(sa.device)),
            Seen::NotYet | Seen::Never => false,
        };
        if carried {
            xfrm.look();
        }
    }

    /// Devices were reset, and the kernel still has what they carried.
    pub(crate) fn reset(&self, devices: &[Ifindex], xfrm: &mut Xfrm) {
        xfrm.reset(devices);
        self.gone(devices, xfrm);
    }

    fn has_tunnels(&self) -> bool {
        let orders = self.orders.borrow();
        orders.drive && orders.rows.as_ref().is_some_and(|rows| !rows.tunnels.is_empty())
    }

    /// Moves between NICs and software, and the entries of NICs.
    pub(crate) fn offload(&self) -> ike::OffloadReport {
        self.report.borrow().offload.clone()
    }

    /// Tunnels that are marked for IPsec.
    pub(crate) fn tunnels(&self) -> Vec<TunnelView> {
        self.report.borrow().tunnels.clone()
    }

    /// The IKE daemon, for `status`; none where nobody is to be driven.
    pub(crate) fn connection(&self) -> Option<ConnectionView> {
        let report = self.report.borrow();
        let (up, detail) = match &report.standing {
            Standing::Off | Standing::MonitorRuns(_) => return None,
            Standing::Alone(why) => (false, why.clone()),
            Standing::Driving(version) => {
                let up = report.tunnels.iter().filter(|tunnel| tunnel.state == "up").count();
                (true, format!("{version}, {up} of {} tunnels up", report.tunnels.len()))
            }
        };
        Some(ConnectionView { name: "ike", up, detail: Some(detail), losses: report.losses })
    }

    /// Which IKE daemons are there, and what charon has.
    pub(crate) fn owners(&self) -> Owners {
        let report = self.report.borrow();
        let has_libreswan =
            matches!(report.standing, Standing::MonitorRuns(Monitor { ike: Some(IkeDaemon::Libreswan), .. }));
        let charon = report
            .listed
            .as_ref()
            .map(|(at, sas)| Listed { sas: sas.clone(), age_s: ike::now().0.saturating_sub(at.0) / 1_000 });
        Owners { charon, pluto: has_libreswan || ike::pluto().is_some() }
    }

    /// What is to be said beside.
    pub(crate) fn notes(&self) -> Vec<String> {
        let report = self.report.borrow();
        let left = match report.standing {
            Standing::MonitorRuns(monitor) => {
                Some(format!("{monitor} runs (pid {}): IPsec of tunnels is left to it", monitor.pid))
            }
            _ => None,
        };
        left.into_iter().chain(report.unguarded.clone()).collect()
    }
}
