//! A port as it stands in the log.

use netlink_wire::{DpPort, Ifindex};
use offload_engine::{NicId, Orchestrator, PortFacts, PortKind, Workload};
use serde::{Deserialize, Serialize};

use super::entry::Place;

const KINDS: [PortKind; 5] =
    [PortKind::Representor, PortKind::Uplink, PortKind::Tunnel, PortKind::Internal, PortKind::Other];

pub(super) fn kind_of_port(word: &str) -> Result<PortKind, String> {
    let kind = KINDS.into_iter().find(|kind| kind.as_str() == word);
    kind.ok_or_else(|| format!("unknown kind of port {word}"))
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct WorkloadEntry {
    orchestrator: String,
    name: String,
    namespace: Option<String>,
    tenant: Option<String>,
    logical_switch: Option<String>,
}

impl WorkloadEntry {
    fn of(workload: &Workload) -> Self {
        Self {
            orchestrator: workload.orchestrator.word().to_owned(),
            name: workload.name.clone(),
            namespace: workload.namespace.clone(),
            tenant: workload.tenant.clone(),
            logical_switch: workload.logical_switch.clone(),
        }
    }

    fn workload(self) -> Result<Workload, String> {
        let Self { orchestrator, name, namespace, tenant, logical_switch } = self;
        let known = Orchestrator::ALL.into_iter().find(|known| known.word() == orchestrator);
        let orchestrator = known.ok_or_else(|| format!("unknown orchestrator {orchestrator}"))?;
        Ok(Workload { orchestrator, name, namespace, tenant, logical_switch })
    }
}

/// A port; what later versions added is absent in older logs.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct PortEntry {
    name: String,
    ifindex: u32,
    at: Place,
    dp_port: Option<u32>,
    #[serde(default)]
    dp: Option<u32>,
    bridge: String,
    iface_id: Option<String>,
    #[serde(default)]
    workload: Option<WorkloadEntry>,
    kind: String,
    #[serde(default)]
    tunnel_kind: Option<String>,
    #[serde(default)]
    tunnel_port: Option<u16>,
    nic: Option<u16>,
    hw_tc_offload: bool,
}

impl PortEntry {
    pub(super) fn of(port: &PortFacts) -> Self {
        Self {
            name: port.name.clone(),
            ifindex: port.ifindex.0,
            at: Place::of(port.location),
            dp_port: port.dp_port.map(|port| port.0),
            dp: port.dp.map(|dp| dp.0),
            bridge: port.bridge.clone(),
            iface_id: port.iface_id.clone(),
            workload: port.workload.as_ref().map(WorkloadEntry::of),
            kind: port.kind.as_str().to_owned(),
            tunnel_kind: port.tunnel_kind.clone(),
            tunnel_port: port.tunnel_port,
            nic: port.nic.map(|nic| nic.0),
            hw_tc_offload: port.hw_tc_offload,
        }
    }

    pub(super) fn facts(self) -> Result<PortFacts, String> {
        let kind = kind_of_port(&self.kind)?;
        Ok(PortFacts {
            name: self.name,
            ifindex: Ifindex(self.ifindex),
            location: self.at.location(),
            dp_port: self.dp_port.map(DpPort),
            dp: self.dp.map(Ifindex),
            bridge: self.bridge,
            iface_id: self.iface_id,
            workload: self.workload.map(WorkloadEntry::workload).transpose()?,
            kind,
            tunnel_kind: self.tunnel_kind,
            tunnel_port: self.tunnel_port,
            nic: self.nic.map(NicId),
            hw_tc_offload: self.hw_tc_offload,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tc_flower::Location;

    #[test]
    fn a_port_comes_back_from_the_log_as_it_was() {
        let workload = Workload {
            orchestrator: Orchestrator::OvnKubernetes,
            name: "web-0".into(),
            namespace: Some("prod".into()),
            tenant: Some("prod".into()),
            logical_switch: None,
        };
        let port = PortFacts {
            name: "rep".into(),
            ifindex: Ifindex(7),
            location: Location::ingress(Ifindex(7)),
            dp_port: Some(DpPort(2)),
            dp: Some(Ifindex(3)),
            bridge: "br-int".into(),
            iface_id: Some("prod_web-0".into()),
            workload: Some(workload),
            kind: PortKind::Representor,
            tunnel_kind: None,
            tunnel_port: None,
            nic: Some(NicId(0)),
            hw_tc_offload: true,
        };
        let line = serde_json::to_string(&PortEntry::of(&port)).unwrap();
        let entry: PortEntry = serde_json::from_str(&line).unwrap();
        assert_eq!(entry.facts().unwrap(), port);
    }

    #[test]
    fn a_port_of_an_older_log_has_no_workload() {
        let line = r#"{"name":"p","ifindex":7,"at":{"device":[7,4294967282]},"dp_port":null,"bridge":"br0",
            "iface_id":"x","kind":"other","nic":null,"hw_tc_offload":false}"#;
        let entry: PortEntry = serde_json::from_str(line).unwrap();
        assert_eq!(entry.facts().unwrap().workload, None);
    }
}
