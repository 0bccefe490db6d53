//! Uplinks, representors, tunnels and TC.

use lab_tests::ensure;
use lab_tests::harness::{Demo, Lab, Outcome, Ovs, Simnic};

use super::complaint::{Doctor, shell};

const NIC: Simnic = Simnic::existing(0);

pub(super) fn faults_of_ports_tc_tunnels_and_a_nic_are_named_and_mended(lab: &mut Lab) -> Outcome {
    let ovs = Ovs::for_steering(lab)?;
    let demo = Demo::up(&ovs)?;
    let doctor = Doctor::of_healthy(&ovs)?;
    ports(&ovs, &doctor)?;
    filters(&ovs, &demo, &doctor)?;
    tunnel(&ovs, &doctor)?;
    legacy(&ovs, &doctor)
}

/// Uplinks and representors.
fn ports(ovs: &Ovs, doctor: &Doctor<'_>) -> Outcome {
    doctor.mends("ethtool -K sn0pf0vf1 hw-tc-offload off", "hw-tc-offload-off", "sn0pf0vf1")?;
    doctor.mends("ip link set sn0pf0vf1 down", "representor-down", "sn0pf0vf1")?;
    doctor.mends("ip link set sn0p0 down", "uplink-down", "sn0p0")?;
    doctor.mends("ovs-vsctl del-port br0 sn0pf0vf2", "representor-off-bridge", "sn0pf0vf2")?;
    doctor.mends("ovs-vsctl del-port br0 sn0p0", "uplink-off-bridge", "sn0p0")?;
    // Left over of a VF that is gone.
    doctor.mends("ovs-vsctl --no-wait add-port br0 sn0pf0vf9", "port-netdev-missing", "sn0pf0vf9")?;
    // As an orchestrator names it after a container.
    doctor.mends(
        "ip link set sn0pf0vf3 down && ip link set sn0pf0vf3 name 0a1b2c3d4e5f_h && ip link set 0a1b2c3d4e5f_h up",
        "representor-renamed",
        "sn0pf0vf3 0a1b2c3d4e5f_h",
    )?;
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
    ensure!(demo.vm1.pings(Demo::REMOTE), "vm1 does not reach the remote host to begin with");
    shell(ovs, filter)?;
    ensure!(!demo.vm1.pings(Demo::REMOTE), "vm1 reaches the remote host through a filter that drops all");
    let says = doctor.names(&[("foreign-filter", "sn0pf0vf1")])?;
    shell(ovs, &says.field("foreign-filter", "command")?)?;
    doctor.is_content()?;
    ensure!(demo.vm1.pings(Demo::REMOTE), "vm1 does not reach the remote host when the filter is deleted");

    shell(ovs, "ovs-vsctl set Interface sn0pf0vf1 ingress_policing_rate=100000")?;
    doctor.names(&[("ingress-policing", "sn0pf0vf1")])?;
    shell(ovs, "ovs-vsctl set Interface sn0pf0vf1 ingress_policing_rate=0")?;
    doctor.is_content()?;

    shell(ovs, "tc qdisc del dev sn0pf0vf3 ingress")?;
    doctor.names(&[("ingress-qdisc-missing", "sn0pf0vf3")])?;
    // What the finding says beside the restart: off the bridge and on again.
    shell(ovs, "ovs-vsctl del-port br0 sn0pf0vf3")?;
    shell(ovs, "ovs-vsctl add-port br0 sn0pf0vf3")?;
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
    let command = says.field("tunnel-mtu", "command")?;
    ensure!(command == "ip link set dev sn0v2 mtu 1550", "doctor says: {command}");
    shell(ovs, &command)?;
    let says = doctor.names(&[encap])?;
    shell(ovs, &says.field("eswitch-no-encap", "command")?)?;
    doctor.is_content()?;
    shell(ovs, "ovs-vsctl del-port br0 gnv0")?;
    doctor.is_content()
}

/// A NIC in legacy mode, whose ports come back when it is changed.
fn legacy(ovs: &Ovs, doctor: &Doctor<'_>) -> Outcome {
    NIC.set_mode("legacy")?;
    let gone = [0, 1, 2, 3].map(|vf| NIC.representor(vf));
    let mut expected = vec![("eswitch-legacy", "simnic/simnic0")];
    expected.extend(gone.iter().map(|representor| ("port-netdev-missing", representor.as_str())));
    let says = doctor.names(&expected)?;
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
