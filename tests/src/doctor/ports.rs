//! Uplinks, representors, tunnels and TC.

use std::time::Duration;

use lab_tests::ensure;
use lab_tests::harness::{Demo, Lab, Outcome, Ovs, Simnic, wait_until};

use super::complaint::{Doctor, shell, shown};

const NIC: Simnic = Simnic::existing(0);
/// The longest until a ping is answered that nothing keeps from it: the first ones may be lost while addresses are asked for.
const REACHES_WITHIN: Duration = Duration::from_secs(60);

pub(super) fn faults_of_ports_tc_tunnels_and_a_nic_are_named_and_mended(lab: &mut Lab) -> Outcome {
    let ovs = Ovs::for_steering(lab)?;
    let demo = Demo::up(&ovs)?;
    let doctor = Doctor::of_healthy(&ovs)?;
    ports(&ovs, &doctor)?;
    filters(&ovs, &demo, &doctor)?;
    tunnel(&ovs, &doctor)?;
    health(&ovs, &doctor)?;
    legacy(&ovs, &doctor)
}

/// Uplinks and representors.
fn ports(ovs: &Ovs, doctor: &Doctor<'_>) -> Outcome {
    doctor.mends("ethtool -K sn0pf0vf1 hw-tc-offload off", "hw-tc-offload-off", "sn0pf0vf1")?;
    let says = doctor.mends("ip link set sn0pf0vf1 down", "representor-down", "sn0pf0vf1")?;
    shown("ovn-kubernetes#4120", &says)?;
    doctor.mends("ip link set sn0p0 down", "uplink-down", "sn0p0")?;
    doctor.mends("ovs-vsctl del-port br0 sn0pf0vf2", "representor-off-bridge", "sn0pf0vf2")?;
    doctor.mends("ovs-vsctl del-port br0 sn0p0", "uplink-off-bridge", "sn0p0")?;
    // Left over of a VF that is gone.
    let left = "ovs-vsctl --no-wait add-port br0 sn0pf0vf9";
    let says = doctor.mends(left, "port-netdev-missing", "sn0pf0vf9")?;
    for heard in ["ovn-kubernetes#2661", "ovn-kubernetes#6393", "sriov-network-operator#1048"] {
        shown(heard, &says)?;
    }
    // As an orchestrator names it after a container.
    let says = doctor.mends(
        "ip link set sn0pf0vf3 down && ip link set sn0pf0vf3 name 0a1b2c3d4e5f_h && ip link set 0a1b2c3d4e5f_h up",
        "representor-renamed",
        "sn0pf0vf3 0a1b2c3d4e5f_h",
    )?;
    shown("ovn-kubernetes#1933", &says)?;
    // Open vSwitch takes no loopback device.
    shell(ovs, "ovs-vsctl --no-wait add-port br0 lo")?;
    doctor.names(&[("port-not-opened", "lo")])?;
    shell(ovs, "ovs-vsctl del-port br0 lo")?;
    doctor.is_content()?;
    // A cable that is pulled out at this end: there is no command for that.
    NIC.set("link", "0")?;
    let says = doctor.names(&[("uplink-down", "sn0p0")])?;
    let what = says.field("uplink-down", "what")?;
    ensure!(what == "uplink sn0p0 is up and has no carrier", "doctor says: {what}");
    NIC.set("link", "1")?;
    doctor.is_content()
}

/// Filters and qdiscs of others, or missing.
fn filters(ovs: &Ovs, demo: &Demo<'_>, doctor: &Doctor<'_>) -> Outcome {
    // A filter that others left takes what Open vSwitch would forward.
    let filter = "tc filter add dev sn0pf0vf1 ingress prio 1 protocol ip flower skip_hw action drop";
    let reaches = |when: &str| {
        let what = format!("vm1 reaches the remote host {when}");
        wait_until(&what, REACHES_WITHIN, || Ok(demo.vm1.pings(Demo::REMOTE)))
    };
    reaches("to begin with")?;
    shell(ovs, filter)?;
    ensure!(!demo.vm1.pings(Demo::REMOTE), "vm1 reaches the remote host through a filter that drops all");
    let says = doctor.names(&[("foreign-filter", "sn0pf0vf1")])?;
    shell(ovs, &says.field("foreign-filter", "command")?)?;
    doctor.is_content()?;
    reaches("when the filter is deleted")?;

    shell(ovs, "ovs-vsctl set Interface sn0pf0vf1 ingress_policing_rate=100000")?;
    let says = doctor.names(&[("ingress-policing", "sn0pf0vf1")])?;
    let what = says.field("ingress-policing", "what")?;
    ensure!(what.ends_with("its driver did not take the policer"), "doctor says: {what}");
    shell(ovs, "ovs-vsctl set Interface sn0pf0vf1 ingress_policing_rate=0")?;
    doctor.is_content()?;

    shell(ovs, "tc qdisc del dev sn0pf0vf3 ingress")?;
    shown("ovn-org/ovn#160", &doctor.names(&[("ingress-qdisc-missing", "sn0pf0vf3")])?)?;
    // What the finding says beside the restart: off the bridge and on again.
    shell(ovs, "ovs-vsctl del-port br0 sn0pf0vf3")?;
    shell(ovs, "ovs-vsctl add-port br0 sn0pf0vf3")?;
    doctor.is_content()?;

    // Open vSwitch's filters of an internal port are at its egress, and so are those of others.
    shell(ovs, "ovs-vsctl add-port br0 in0 -- set Interface in0 type=internal")?;
    doctor.is_content()?;
    let filter = "tc qdisc replace dev in0 clsact && tc filter add dev in0 egress prio 1 protocol ip flower skip_hw action drop";
    shell(ovs, filter)?;
    let says = doctor.names(&[("foreign-filter", "in0")])?;
    let command = says.field("foreign-filter", "command")?;
    ensure!(command == "tc filter del dev in0 egress prio 1", "doctor says: {command}");
    shell(ovs, &command)?;
    doctor.is_content()?;
    shell(ovs, "ovs-vsctl del-port br0 in0")?;
    doctor.is_content()
}

/// A tunnel whose packets do not fit.
fn tunnel(ovs: &Ovs, doctor: &Doctor<'_>) -> Outcome {
    shell(ovs, "devlink dev eswitch set simnic/simnic0 encap-mode none")?;
    // A VF's own device stands for the host's port to the underlay.
    shell(ovs, "ip address add 172.31.0.1/24 dev sn0v2 && ip link set sn0v2 up")?;
    shell(
        ovs,
        "ovs-vsctl add-port br0 gnv0 -- set Interface gnv0 type=geneve options:remote_ip=172.31.0.2 options:key=flow",
    )?;
    let encap = ("eswitch-no-encap", "simnic/simnic0");
    let says = doctor.names(&[encap, ("tunnel-mtu", "gnv0 sn0v2")])?;
    shown("kube-ovn#2155", &says)?;
    let command = says.field("tunnel-mtu", "command")?;
    ensure!(command == "ip link set dev sn0v2 mtu 1550", "doctor says: {command}");
    shell(ovs, &command)?;
    let says = doctor.names(&[encap])?;
    shell(ovs, &says.field("eswitch-no-encap", "command")?)?;
    doctor.is_content()?;
    shell(ovs, "tc qdisc del dev genev_sys_6081 ingress")?;
    shown("ovn-org/ovn#155", &doctor.names(&[("ingress-qdisc-missing", "genev_sys_6081")])?)?;
    shell(ovs, "tc qdisc add dev genev_sys_6081 ingress")?;
    doctor.is_content()?;
    shell(
        ovs,
        "ovs-vsctl set Interface gnv0 options:ipsec_nic-offload=packet options:ipsec_replay-window=512 options:ipsec_encapsulation=yes",
    )?;
    let says = doctor.names(&[("ipsec-offload-settings", "gnv0")])?;
    shown("libreswan#1512", &says)?;
    shell(ovs, &says.field("ipsec-offload-settings", "command")?)?;
    doctor.is_content()?;
    shell(ovs, "ovs-vsctl del-port br0 gnv0")?;
    doctor.is_content()
}

/// A queue that hangs, and firmware that failed, neither of which recovers by itself.
fn health(ovs: &Ovs, doctor: &Doctor<'_>) -> Outcome {
    for (reporter, of) in [("tx", "simnic/simnic0/0"), ("fw", "simnic/simnic0")] {
        shell(ovs, &format!("devlink health set {of} reporter {reporter} auto_recover false"))?;
        NIC.set("health", &format!("{reporter} something hangs"))?;
        let says = doctor.names(&[("health-reporter-error", &format!("simnic/simnic0 {reporter}"))])?;
        let command = says.field("health-reporter-error", "command")?;
        ensure!(
            command == format!("devlink health recover {of} reporter {reporter}"),
            "doctor says: {command}"
        );
        shell(ovs, &command)?;
        if reporter == "fw" {
            // It makes the representors anew, and nobody has set them up.
            for vf in 0..4 {
                shell(ovs, &format!("ip link set dev {} up", NIC.representor(vf)))?;
            }
        }
        doctor.is_content()?;
        shell(ovs, &format!("devlink health set {of} reporter {reporter} auto_recover true"))?;
    }
    Ok(())
}

/// A NIC in legacy mode, whose ports come back when it is changed.
fn legacy(ovs: &Ovs, doctor: &Doctor<'_>) -> Outcome {
    NIC.set_mode("legacy")?;
    let gone = [0, 1, 2, 3].map(|vf| NIC.representor(vf));
    let mut expected = vec![("eswitch-legacy", "simnic/simnic0")];
    expected.extend(gone.iter().map(|representor| ("port-netdev-missing", representor.as_str())));
    let says = doctor.names(&expected)?;
    shown("openshift/sriov-network-operator#775", &says)?;
    shell(ovs, &says.field("eswitch-legacy", "command")?)?;
    // The representors are new ones, and nobody has set them up.
    expected.clear();
    expected.extend(gone.iter().map(|representor| ("representor-down", representor.as_str())));
    doctor.names(&expected)?;
    for representor in &gone {
        shell(ovs, &format!("ip link set dev {representor} up"))?;
    }
    doctor.is_content()
}
