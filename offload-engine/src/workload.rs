//! Whose a port is: the virtual machine or pod that it was plugged for.

use alloc::string::String;
use core::fmt;

/// Who plugged a port, told by the keys it left in OVSDB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Orchestrator {
    /// Kube-OVN: `vendor=kube-ovn`.
    KubeOvn,
    /// ovn-kubernetes: `sandbox`, or an `iface-id` with `NAMESPACE_POD` and a pod's UID in `iface-id-ver`.
    OvnKubernetes,
    /// ovs-cni: `Port.external_ids:owner=ovs-cni.network.kubevirt.io`.
    OvsCni,
    /// OpenStack Nova or libvirt: `vm-uuid` or `vm-id`.
    OpenStack,
    /// Anybody who gives OVN an `iface-id`.
    Ovn,
}

impl Orchestrator {
    /// The word for it in tables and JSON.
    pub const fn word(self) -> &'static str {
        match self {
            Self::KubeOvn => "kube-ovn",
            Self::OvnKubernetes => "ovn-kubernetes",
            Self::OvsCni => "ovs-cni",
            Self::OpenStack => "openstack",
            Self::Ovn => "ovn",
        }
    }

    /// All of them.
    pub const ALL: [Self; 5] = [Self::KubeOvn, Self::OvnKubernetes, Self::OvsCni, Self::OpenStack, Self::Ovn];
}

/// What a port was plugged for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// Who plugged it.
    pub orchestrator: Orchestrator,
    /// Pod name, virtual machine's UUID, or, where nobody says more, the iface-id.
    pub name: String,
    /// Kubernetes namespace.
    pub namespace: Option<String>,
    /// Whose it is: the Kubernetes namespace, the OpenStack project; nothing where that is not known.
    pub tenant: Option<String>,
    /// OVN's logical switch or router that it is on, where the Southbound database was asked.
    pub logical_switch: Option<String>,
}

/// `NAMESPACE/NAME`, or the name alone.
impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(namespace) = &self.namespace {
            write!(f, "{namespace}/")?;
        }
        f.write_str(&self.name)
    }
}
