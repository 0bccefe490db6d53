//! What people told of in public, of ports, representors, kernels and settings, and what doctor makes of it. A test of the lab
//! brings each about and sees the finding named (`shown("…")`); `docs/doctor.md` has the same table.

/// A complaint on GitHub.
#[derive(Debug)]
pub struct Complaint {
    /// The issue or pull request.
    pub heard: &'static str,
    /// What it says, in short.
    pub says: &'static str,
    /// The finding that names its cause; [`PROBE`] for what a probe tells.
    pub finding: &'static str,
    /// The test that shows it.
    pub shown_by: &'static str,
}

/// Not a finding: what the driver refuses is told by a probe.
pub const PROBE: &str = "--probe";

const PORTS: &str = "faults_of_ports_tc_tunnels_and_a_nic_are_named_and_mended";
const SETTINGS: &str = "settings_that_do_not_hold_and_what_daemons_left_behind_are_named";
const HOST: &str = "what_kernel_and_release_lack_is_named_and_what_a_user_may_not_see_is_told";
const PROBED: &str = "a_probe_tells_what_a_driver_takes_and_no_packet_is_treated_otherwise";

const fn told(
    heard: &'static str,
    says: &'static str,
    finding: &'static str,
    shown_by: &'static str,
) -> Complaint {
    Complaint { heard, says, finding, shown_by }
}

/// All that doctor finds.
pub const COMPLAINTS: &[Complaint] = &[
    told(
        "ovn-kubernetes#839",
        "\"failed to offload flow: Operation not supported\", and no cause is given",
        PROBE,
        PROBED,
    ),
    told(
        "ovn-kubernetes#1933",
        "a representor was named after a container and never back",
        "representor-renamed",
        PORTS,
    ),
    told(
        "ovn-kubernetes#2661",
        "a VF and its representor were not given back, and the next pod fails",
        "port-netdev-missing",
        PORTS,
    ),
    told(
        "ovn-kubernetes#4120",
        "a pod with a VF has no connectivity: its representor stayed down",
        "representor-down",
        PORTS,
    ),
    told(
        "ovn-kubernetes#6393",
        "ports of VFs that virtual machines had are left on the bridge",
        "port-netdev-missing",
        PORTS,
    ),
    told(
        "ovn-org/ovn#155",
        "\"failed to offload flow: No such file or directory\" of each tunnel's port",
        "ingress-qdisc-missing",
        PORTS,
    ),
    told(
        "ovn-org/ovn#160",
        "the same of other ports: something else touched their qdiscs",
        "ingress-qdisc-missing",
        PORTS,
    ),
    told(
        "ovn-org/ovn#173",
        "\"recirc_id sharing not supported\"; NAT and ACLs are not offloaded",
        "kernel-no-skb-ext",
        HOST,
    ),
    told("kube-ovn#2727", "a pod with a VF runs, and nothing is offloaded", "hw-offload-off", SETTINGS),
    told("kube-ovn#2155", "UDP works and TCP does not: the VF's MTU and the tunnel's", "tunnel-mtu", PORTS),
    told(
        "kube-ovn#1816",
        "nothing is offloaded with the Open vSwitch that is bundled",
        "ovs-version-defects",
        HOST,
    ),
    told(
        "sriov-network-operator#38",
        "conntrack is not offloaded since tc-policy is skip_sw",
        "tc-policy-skip-sw",
        SETTINGS,
    ),
    told(
        "sriov-network-operator#384",
        "offloaded flows go and come back; max-revalidator is too short",
        "ovs-version-defects",
        HOST,
    ),
    told(
        "sriov-network-operator#1048",
        "representors of before a reboot are left on the bridge",
        "port-netdev-missing",
        PORTS,
    ),
    told(
        "openshift/sriov-network-operator#775",
        "VFs and representors are never created",
        "eswitch-legacy",
        PORTS,
    ),
    told(
        "rackerlabs/genestack#1740",
        "hw-offload was turned off, and filters in front of Open vSwitch stayed",
        "filters-stranded",
        SETTINGS,
    ),
    told(
        "libreswan#1512",
        "settings that do not go with nic-offload=packet are refused late",
        "ipsec-offload-settings",
        PORTS,
    ),
];

/// Told in public, too, and no finding: why not.
pub const ELSEWHERE: &[(&str, &str)] = &[
    (
        "ovn-kubernetes#3861",
        "only the last conntrack stage was offloaded, and a newer kernel cured it: which change did is not known, and a version that \
         is not certain is not blamed; `--probe` tells what kernel and driver take now",
    ),
    (
        "kube-ovn#2726",
        "pods with a VF could not be made: it was the version of Multus, which is not on the way from firmware to flow",
    ),
    (
        "sriov-network-operator#40",
        "the change from switchdev to legacy fails: that is no state to be found, the kernel refuses it while rules or VFs are in use",
    ),
];
