//! What is read from the kernel, and the rules that are given to it.

use std::collections::BTreeMap;
use std::time::Duration;

use lab_tests::harness::{Failure, Outcome};
use netlink_wire::genl::FamilyId;
use netlink_wire::ovs_datapath::DatapathStats;
use netlink_wire::ovs_flow::{Megaflow, Omit};
use netlink_wire::{DpPort, Ifindex, Message, ovs_datapath, ovs_flow, ovs_vport};
use offload_engine::shadow::{self, Abilities, Untranslatable};
use offload_engine::{PortFacts, PortKind};
use ovs_offloadd::io::netlink::{Asker, Protocol};
use tc_flower::{Filter, FilterReport, Location, TcEvent, request};
use tokio::runtime::Runtime;

use super::switch::TUNNEL_DEVICES;

/// The longest the kernel may take to answer.
const ANSWERS_WITHIN: Duration = Duration::from_secs(30);

pub(super) struct Kernel {
    runtime: Runtime,
    generic: Asker,
    route: Asker,
    flows: FamilyId,
    datapaths: FamilyId,
    dp: Ifindex,
    ports: BTreeMap<DpPort, PortFacts>,
}

impl Kernel {
    /// Of the datapath there is, once all its ports are there.
    pub(super) fn open() -> Outcome<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (generic, route, flows, datapaths, dp, ports) = runtime.block_on(async {
            let mut generic = Asker::open(Protocol::Generic, ANSWERS_WITHIN).map_err(Failure::new)?;
            let route = Asker::open(Protocol::Route, ANSWERS_WITHIN).map_err(Failure::new)?;
            let flows = generic.family(ovs_flow::FAMILY).await.map_err(Failure::new)?;
            let datapaths = generic.family(ovs_datapath::FAMILY).await.map_err(Failure::new)?;
            let vports = generic.family(ovs_vport::FAMILY).await.map_err(Failure::new)?;
            let asked = generic.ask(
                8,
                |seq| ovs_datapath::dump(datapaths, seq),
                |m| ovs_datapath::Datapath::decode(m).map(Some),
            );
            let dp = asked.await.map_err(Failure::new)?.first().map(|dp| dp.ifindex);
            let dp = dp.ok_or_else(|| Failure::new("there is no datapath"))?;
            let asked = generic.ask(
                usize::MAX,
                |seq| ovs_vport::dump(vports, dp, seq),
                |m| ovs_vport::Vport::decode(m).map(Some),
            );
            let ports = asked.await.map_err(Failure::new)?;
            let ports = ports.iter().filter_map(|port| Some((port.port, facts(port)?))).collect();
            Ok::<_, Failure>((generic, route, flows, datapaths, dp, ports))
        })?;
        Ok(Self { runtime, generic, route, flows, datapaths, dp, ports })
    }

    /// The name of a port's device.
    pub(super) fn device(&self, port: DpPort) -> Option<&str> {
        self.ports.get(&port).map(|port| &*port.name)
    }

    /// The datapath's counters.
    pub(super) fn statistics(&mut self) -> Outcome<DatapathStats> {
        let family = self.datapaths;
        let asked = self.generic.ask(
            8,
            |seq| ovs_datapath::dump(family, seq),
            |m| ovs_datapath::Datapath::decode(m).map(Some),
        );
        let all = self.runtime.block_on(asked).map_err(Failure::new)?;
        let found = all.iter().find(|dp| dp.ifindex == self.dp).and_then(|dp| dp.stats);
        found.ok_or_else(|| Failure::new("the datapath has no counters"))
    }

    /// All megaflows.
    pub(super) fn megaflows(&mut self) -> Outcome<Vec<Megaflow<'static>>> {
        let (family, dp) = (self.flows, self.dp);
        let read = |m: &Message<'_>| Megaflow::decode(m).map(|flow| Some(flow.into_owned()));
        let asked =
            self.generic.ask(usize::MAX, |seq| ovs_flow::dump(family, dp, Omit::default(), seq), read);
        self.runtime.block_on(asked).map_err(Failure::new)
    }

    pub(super) fn translate(&self, megaflow: &Megaflow<'_>) -> Outcome<Result<Filter, Untranslatable>> {
        let (Some(ufid), Some(keys), Some(actions)) =
            (megaflow.counters.ufid, &megaflow.keys, &megaflow.actions)
        else {
            return Err(Failure::new(format!("a dump without keys or actions: {megaflow:?}")));
        };
        Ok(shadow::translate(ufid, keys, actions, Abilities::ALL, &|port| self.ports.get(&port)))
    }

    /// Gives a rule to the kernel; what the kernel says it has then, or why it refuses.
    pub(super) fn install(&mut self, filter: &Filter) -> Outcome<Result<FilterReport, String>> {
        request::add(filter, tc_flower::Seq(0)).map_err(|why| Failure::new(why.to_string()))?;
        let write = |seq| request::add(filter, seq).unwrap_or_default();
        let read = |m: &Message<'_>| {
            Ok(match TcEvent::decode(m)? {
                TcEvent::Filter(report) => Some(*report),
                _ => None,
            })
        };
        match self.runtime.block_on(self.route.ask(usize::MAX, write, read)) {
            Ok(reports) => {
                let report = reports.into_iter().next();
                report.map(Ok).ok_or_else(|| Failure::new("the kernel took a rule and did not say which"))
            }
            Err(refusal) => Ok(Err(refusal)),
        }
    }

    /// Takes a rule back.
    pub(super) fn remove(&mut self, report: &FilterReport) -> Outcome {
        let write = |seq| request::delete(&report.address, seq);
        let nothing = |_: &Message<'_>| Ok(None::<()>);
        self.runtime.block_on(self.route.ask(usize::MAX, write, nothing)).map(drop).map_err(Failure::new)
    }
}

fn facts(port: &ovs_vport::Vport) -> Option<PortFacts> {
    let ifindex = port.ifindex?;
    let tunnel =
        TUNNEL_DEVICES.iter().find(|(device, _)| *device == &*port.name).map(|(_, kind)| (*kind).to_owned());
    let kind = match (&tunnel, port.kind) {
        (Some(_), _) => PortKind::Tunnel,
        (None, ovs_vport::VportKind::Internal) => PortKind::Internal,
        (None, _) if port.name.contains("vf") => PortKind::Representor,
        (None, _) => PortKind::Uplink,
    };
    Some(PortFacts {
        name: port.name.clone().into(),
        ifindex,
        location: Location::ingress(ifindex),
        dp: Some(port.dp),
        dp_port: Some(port.port),
        bridge: "br0".to_owned(),
        iface_id: None,
        workload: None,
        kind,
        tunnel_port: port.name.rsplit_once("_sys_").and_then(|(_, port)| port.parse().ok()),
        tunnel_kind: tunnel,
        nic: None,
        hw_tc_offload: true,
    })
}
