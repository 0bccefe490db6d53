//! What drivers watch of their NICs, and what is lost when one recovers.

use std::collections::BTreeSet;

use netlink_wire::Ifindex;
use netlink_wire::devlink::{Handle, HealthReporter, PortFlavour};

use super::{Inventory, ReporterName};

impl Inventory {
    /// A notification: a health reporter reported an error, or recovered.
    pub fn reporter(&mut self, reporter: HealthReporter) {
        let name = (reporter.handle.clone(), reporter.port, reporter.name.clone());
        self.reading_health.told(&name);
        self.set_reporter(name, reporter);
    }

    /// What watches the whole instance recovers it by a reset of its firmware (mlx5's `fw_fatal`, bnxt's `fw`); what watches a port, its
    /// queues.
    fn set_reporter(&mut self, name: ReporterName, reporter: HealthReporter) {
        let (handle, of_all, recoveries) =
            (reporter.handle.clone(), reporter.port.is_none(), reporter.recoveries);
        let before = self.health.insert(name, reporter);
        if of_all && before.is_some_and(|before| before.recoveries < recoveries) {
            self.recovered.insert(handle);
        }
    }

    /// NICs whose firmware was reset since this was last asked: hardware has nothing any more of what it was given, and the kernel still
    /// believes in it.
    pub fn take_recovered(&mut self) -> BTreeSet<Handle> {
        std::mem::take(&mut self.recovered)
    }

    /// The network devices of a NIC's uplinks, and the bonds that those are in.
    pub fn uplinks_of(&self, handle: &Handle) -> BTreeSet<Ifindex> {
        let of_nic = self.ports.values().filter(|port| port.handle == *handle);
        let uplinks = of_nic.filter(|port| port.flavour == Some(PortFlavour::Physical));
        let devices = uplinks.filter_map(|port| port.ifindex);
        let with_bond = |device| [Some(device), self.links.get(&device).and_then(|link| link.master)];
        devices.flat_map(with_bond).flatten().collect()
    }

    /// A reading of all health reporters begins.
    pub fn begin_health(&mut self) {
        self.reading_health.begin();
    }

    /// All health reporters were read.
    pub fn health(&mut self, all: Vec<HealthReporter>) {
        let name =
            |reporter: &HealthReporter| (reporter.handle.clone(), reporter.port, reporter.name.clone());
        let rows = all.into_iter().map(|reporter| (name(&reporter), reporter)).collect();
        let known: Vec<ReporterName> = self.health.keys().cloned().collect();
        let (rows, gone) = self.reading_health.finish(known, rows);
        for name in gone {
            self.health.remove(&name);
        }
        for (name, reporter) in rows {
            self.set_reporter(name, reporter);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use netlink_wire::devlink::{HealthState, PortIndex};

    fn reporter(nic: &str, port: Option<PortIndex>, recoveries: u64) -> HealthReporter {
        HealthReporter {
            handle: Handle { bus: "pci".into(), device: nic.into() },
            port,
            name: "fw".into(),
            state: HealthState::Healthy,
            errors: recoveries,
            recoveries,
            graceful_period_ms: None,
            auto_recover: Some(true),
        }
    }

    #[test]
    fn a_nic_was_reset_whose_own_reporter_has_recovered_once_more() {
        let mut inventory = Inventory::default();
        let taken = |inventory: &mut Inventory| {
            let recovered = inventory.take_recovered();
            recovered.into_iter().map(|handle| handle.device.to_string()).collect::<Vec<_>>()
        };
        let port = Some(PortIndex(0));
        inventory.begin_health();
        inventory.health(vec![reporter("a", None, 3), reporter("a", port, 3), reporter("b", None, 0)]);
        assert!(taken(&mut inventory).is_empty(), "that was before");
        inventory.reporter(reporter("a", None, 3));
        inventory.reporter(reporter("a", port, 4));
        assert!(taken(&mut inventory).is_empty(), "an error, and a port's queues");
        inventory.reporter(reporter("b", None, 1));
        assert_eq!(taken(&mut inventory), ["b"]);
        assert!(taken(&mut inventory).is_empty(), "it is told once");
        inventory.begin_health();
        inventory.health(vec![reporter("a", None, 4), reporter("b", None, 1)]);
        assert_eq!(taken(&mut inventory), ["a"], "notifications may be lost");
    }
}
