//! Whose an OVS port is, from the keys that orchestrators leave in OVSDB. Pure.
//!
//! No orchestrator's own API is asked. What is written in OVSDB is a tenant's word in places (a pod's name), so every
//! text is cut to a length, and nothing here decides where packets go.

use std::collections::BTreeMap;
use std::net::IpAddr;

use offload_engine::{Orchestrator, Workload};

/// `external_ids` of a row.
type Ids = BTreeMap<String, String>;

/// The longest name that is kept, in bytes. Kubernetes' have at most 253.
const NAME_BYTES_MAX: usize = 255;
/// The most chassis that are known by name.
const CHASSIS_MAX: usize = 8_192;

/// What an interface was plugged for, from its and its port's `external_ids`; nothing for one that belongs to the host or to
/// Open vSwitch itself.
pub(crate) fn of_interface(interface: &Ids, port: &Ids) -> Option<Workload> {
    kube_ovn(interface)
        .or_else(|| ovs_cni(interface, port))
        .or_else(|| virtual_machine(interface))
        .or_else(|| ovn_kubernetes(interface))
        .or_else(|| {
            let iface_id = value(interface, "iface-id")?;
            Some(workload(Orchestrator::Ovn, iface_id, None))
        })
}

fn value<'a>(ids: &'a Ids, key: &str) -> Option<&'a str> {
    ids.get(key).map(String::as_str).filter(|value| !value.is_empty())
}

fn cut(text: &str) -> String {
    let end = (0..=NAME_BYTES_MAX.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    text.get(..end.unwrap_or(0)).unwrap_or_default().to_owned()
}

fn workload(orchestrator: Orchestrator, name: &str, namespace: Option<&str>) -> Workload {
    let namespace = namespace.map(cut);
    Workload { orchestrator, name: cut(name), tenant: namespace.clone(), namespace, logical_switch: None }
}

/// Kube-OVN writes pod and namespace beside an iface-id of `POD.NAMESPACE[.PROVIDER]`
/// (kube-ovn, `pkg/ovs/ovs-vsctl.go`). A pod's name may have dots, a namespace none.
fn kube_ovn(interface: &Ids) -> Option<Workload> {
    if value(interface, "vendor")? != "kube-ovn" {
        return None;
    }
    let by_key = || Some((value(interface, "pod_name")?, value(interface, "pod_namespace")?));
    let (name, namespace) = by_key()?;
    Some(workload(Orchestrator::KubeOvn, name, Some(namespace)))
}

/// ovs-cni names the pod by its UID only, and in the port's row (ovs-cni, `pkg/ovsdb/ovsdb.go`).
fn ovs_cni(interface: &Ids, port: &Ids) -> Option<Workload> {
    let key = |key| value(port, key).or_else(|| value(interface, key));
    if key("owner")? != "ovs-cni.network.kubevirt.io" {
        return None;
    }
    Some(workload(Orchestrator::OvsCni, key("contPodUid").or_else(|| key("contNetns"))?, None))
}

/// Nova and libvirt: `vm-uuid`, or `vm-id` (libvirt, `virnetdevopenvswitch.c`; os-vif, `vif_plug_ovs`).
fn virtual_machine(interface: &Ids) -> Option<Workload> {
    let id = value(interface, "vm-uuid").or_else(|| value(interface, "vm-id"))?;
    Some(workload(Orchestrator::OpenStack, id, None))
}

/// ovn-kubernetes: an iface-id of `[NETWORK_]NAMESPACE_POD`; neither a namespace nor a pod has an underscore in its name
/// (ovn-kubernetes, `go-controller/pkg/util/util.go`). `sandbox` is in the row of every pod's interface.
fn ovn_kubernetes(interface: &Ids) -> Option<Workload> {
    value(interface, "sandbox")?;
    let mut parts = value(interface, "iface-id")?.rsplit('_');
    let (name, namespace) = (parts.next()?, parts.next()?);
    if name.is_empty() || namespace.is_empty() {
        return None;
    }
    Some(workload(Orchestrator::OvnKubernetes, name, Some(namespace)))
}

/// One tunnel port of OVSDB.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TunnelRow<'a> {
    /// `Port.external_ids:ovn-chassis-id`: `CHASSIS@REMOTE%LOCAL`, of which older OVN writes less; `flow` for tunnels
    /// whose remote each flow says (OVN, `controller/encaps.c`).
    pub(crate) chassis_id: &'a str,
    /// `Interface.options:remote_ip`.
    pub(crate) remote_ip: &'a str,
}

/// The chassis that tunnels lead to, by address.
pub(crate) fn chassis<'a>(tunnels: impl Iterator<Item = TunnelRow<'a>>) -> BTreeMap<IpAddr, String> {
    let mut chassis = BTreeMap::new();
    for TunnelRow { chassis_id, remote_ip } in tunnels {
        let name = chassis_id.split('@').next().unwrap_or_default();
        let Ok(address) = remote_ip.parse::<IpAddr>() else { continue };
        if name.is_empty() || chassis_id == "flow" || chassis.len() >= CHASSIS_MAX {
            continue;
        }
        chassis.insert(address, cut(name));
    }
    chassis
}

/// What OVN's Southbound database says of a port of this node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct LogicalPort {
    /// Name of its logical switch or router.
    pub(crate) switch: Option<String>,
    /// OpenStack's project: `neutron:project_id`, which northd copies from the logical port.
    pub(crate) project: Option<String>,
}

/// What OVN's Southbound database says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Southbound {
    /// The names of chassis by the addresses of their tunnels.
    pub(crate) chassis: BTreeMap<IpAddr, String>,
    /// The ports of this node, by iface-id.
    pub(crate) ports: BTreeMap<String, LogicalPort>,
}

impl Southbound {
    /// Adds to a workload what is known of its port.
    pub(crate) fn complete(&self, iface_id: Option<&str>, workload: &mut Workload) {
        let Some(port) = iface_id.and_then(|iface_id| self.ports.get(iface_id)) else { return };
        workload.logical_switch = port.switch.as_deref().map(cut);
        if workload.tenant.is_none() {
            workload.tenant = port.project.as_deref().map(cut);
        }
    }

    /// Chassis by address: those that OVSDB has tunnels to, and the rest of them.
    pub(crate) fn chassis_beside(&self, tunnels: &BTreeMap<IpAddr, String>) -> BTreeMap<IpAddr, String> {
        let mut all = tunnels.clone();
        for (address, name) in &self.chassis {
            if all.len() >= CHASSIS_MAX {
                break;
            }
            all.entry(*address).or_insert_with(|| cut(name));
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Pairs = &'static [(&'static str, &'static str)];

    fn ids(pairs: &[(&str, &str)]) -> Ids {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn each_orchestrator_is_known_by_the_keys_it_writes() {
        let cases: [(Pairs, Pairs, Orchestrator, &str); 9] = [
            (
                &[
                    ("vendor", "kube-ovn"),
                    ("iface-id", "web-0.v2.prod.ovn-nad"),
                    ("pod_name", "web-0.v2"),
                    ("pod_namespace", "prod"),
                ],
                &[],
                Orchestrator::KubeOvn,
                "prod/web-0.v2",
            ),
            (
                &[("iface-id", "prod_web-0"), ("sandbox", "5a"), ("iface-id-ver", "7f")],
                &[],
                Orchestrator::OvnKubernetes,
                "prod/web-0",
            ),
            (
                &[("iface-id", "blue.net_prod_web-0"), ("sandbox", "5a")],
                &[],
                Orchestrator::OvnKubernetes,
                "prod/web-0",
            ),
            (
                &[],
                &[("owner", "ovs-cni.network.kubevirt.io"), ("contPodUid", "c0ffee"), ("contIface", "net1")],
                Orchestrator::OvsCni,
                "c0ffee",
            ),
            (
                &[("iface-id", "port-uuid"), ("iface-status", "active"), ("vm-uuid", "vm-1")],
                &[],
                Orchestrator::OpenStack,
                "vm-1",
            ),
            (&[("iface-id", "port-uuid"), ("vm-id", "vm-2")], &[], Orchestrator::OpenStack, "vm-2"),
            (&[("iface-id", "sw0-port1")], &[], Orchestrator::Ovn, "sw0-port1"),
            // The management port of ovn-kubernetes, and names with one underscore that no pod has.
            (&[("iface-id", "k8s-node_1")], &[], Orchestrator::Ovn, "k8s-node_1"),
            (&[("iface-id", "_web"), ("sandbox", "5a")], &[], Orchestrator::Ovn, "_web"),
        ];
        for (interface, port, orchestrator, shown) in cases {
            let found = of_interface(&ids(interface), &ids(port)).expect(shown);
            assert_eq!((found.orchestrator, found.to_string().as_str()), (orchestrator, shown));
            assert_eq!(found.tenant, found.namespace);
        }
    }

    #[test]
    fn a_port_of_the_host_is_nobodys() {
        for interface in
            [&[][..], &[("iface-id", "")], &[("vendor", "kube-ovn")], &[("ovn-bridge", "br-int")]]
        {
            assert_eq!(of_interface(&ids(interface), &ids(&[("owner", "somebody")])), None);
        }
    }

    #[test]
    fn a_name_of_any_length_is_cut_between_characters() {
        let long = "é".repeat(1_000);
        let found = of_interface(&ids(&[("iface-id", &long)]), &Ids::new()).expect("a workload");
        assert_eq!(found.name, "é".repeat(127));
    }

    #[test]
    fn the_southbound_database_adds_what_an_orchestrator_does_not_tell() {
        let port = LogicalPort { switch: Some("net-blue".into()), project: Some("acme".into()) };
        let southbound = Southbound {
            ports: [("port-uuid".to_owned(), port)].into(),
            chassis: [(IpAddr::from([192, 0, 2, 9]), "node-9".to_owned())].into(),
        };
        let of = |pairs| of_interface(&ids(pairs), &Ids::new()).expect("a workload");
        let mut machine = of(&[("iface-id", "port-uuid"), ("vm-uuid", "vm-1")]);
        southbound.complete(Some("port-uuid"), &mut machine);
        assert_eq!(
            (machine.tenant.as_deref(), machine.logical_switch.as_deref()),
            (Some("acme"), Some("net-blue"))
        );
        // A namespace is a tenant already.
        let mut pod = of(&[("iface-id", "prod_web"), ("sandbox", "5a")]);
        southbound.complete(Some("port-uuid"), &mut pod);
        assert_eq!(pod.tenant.as_deref(), Some("prod"));
        let mut stranger = of(&[("iface-id", "another")]);
        southbound.complete(Some("another"), &mut stranger);
        assert_eq!((stranger.tenant, stranger.logical_switch), (None, None));
        let near = [(IpAddr::from([192, 0, 2, 2]), "node-2".to_owned())].into();
        assert_eq!(southbound.chassis_beside(&near).len(), 2);
    }

    #[test]
    fn tunnels_lead_to_the_chassis_that_ovn_says() {
        let row = |chassis_id, remote_ip| TunnelRow { chassis_id, remote_ip };
        let rows = [
            row("node-2@192.0.2.2%192.0.2.1", "192.0.2.2"),
            row("node-3@192.0.2.3", "192.0.2.3"),
            row("node-6@2001:db8::6%2001:db8::1", "2001:db8::6"),
            row("flow", "flow"),
            row("flow", "192.0.2.9"),
            row("", "192.0.2.4"),
            row("node-5", "not an address"),
        ];
        let found = chassis(rows.into_iter());
        let expected: BTreeMap<IpAddr, String> =
            [("192.0.2.2", "node-2"), ("192.0.2.3", "node-3"), ("2001:db8::6", "node-6")]
                .into_iter()
                .map(|(address, name)| (address.parse().expect("an address"), name.to_owned()))
                .collect();
        assert_eq!(found, expected);
    }
}
