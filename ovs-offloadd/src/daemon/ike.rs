//! The daemon's end of what makes IPsec of tunnels: hands it what is wanted, and reads how far it is.

use tokio::sync::watch;

use crate::config::Config;
use crate::ctl::tunnel::TunnelView;
use crate::ctl::views::ConnectionView;
use crate::ike::{self, Orders, Report, Rows, Standing};

/// Orders one way, reports the other.
#[derive(Debug)]
pub(crate) struct Ike {
    orders: watch::Sender<Orders>,
    report: watch::Receiver<Report>,
}

impl Ike {
    /// Starts the task.
    pub(crate) fn start(config: &Config) -> Self {
        let (orders, read) = watch::channel(Orders::default());
        let ike = Self { orders, report: ike::start(read) };
        ike.configure(config);
        ike
    }

    /// The configuration was read again.
    pub(crate) fn configure(&self, config: &Config) {
        self.order(|orders| {
            (orders.drive, orders.offload) = (config.ipsec.drive, config.ipsec.offload);
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

    /// What is to be said beside.
    pub(crate) fn note(&self) -> Option<String> {
        match self.report.borrow().standing {
            Standing::MonitorRuns(pid) => {
                Some(format!("ovs-monitor-ipsec runs (pid {pid}): IPsec of tunnels is left to it"))
            }
            _ => None,
        }
    }
}
