//! VFs that go and come back, and representors that get another name.

use lab_tests::harness::{Demo, Lab, Netns, Outcome, Ovs, Sender, ensure, run, wait_until};

use super::scene::{ALL_PORTS, Scene, bring_up};
use crate::faults::scene::{NIC, SETTLES_WITHIN};

const VF1_MAC: &str = "02:73:6e:00:00:02";
const VF2_MAC: &str = "02:73:6e:00:00:03";

pub(super) fn a_vf_that_is_unplugged_and_plugged_again_is_used_again(lab: &mut Lab) -> Outcome {
    let ovs = Ovs::for_steering(lab)?;
    let scene = Scene::up(lab, &ovs)?;
    let other = scene.to_remote()?;
    let (sender, receiver) = scene.to_vf(&scene.demo.vm1, Demo::VM1, VF1_MAC)?;
    scene.in_hardware(2)?;
    NIC.unbind_vf(1)?;
    Scene::flows_on(&other.receiver, 200)?;
    scene.settles()?;
    NIC.bind_vf(1)?;
    scene.demo.vm1.adopt("sn0v1", &format!("{}/24", Demo::VM1))?;
    Scene::flows_on(&receiver, 200)?;
    scene.in_hardware(2)?;
    scene.settles()?;
    sender.stop()?;
    let (sent, lost) = other.stop()?;
    ensure!(lost == 0, "another VF lost {lost} of {sent} packets");
    Ok(())
}

pub(super) fn all_vfs_that_are_disabled_and_enabled_are_used_again(lab: &mut Lab) -> Outcome {
    let ovs = Ovs::for_steering(lab)?;
    let scene = Scene::up(lab, &ovs)?;
    // It ends when its device does.
    let before = scene.to_remote()?;
    scene.in_hardware(1)?;
    NIC.enable_vfs(0)?;
    drop(before);
    scene.settles()?;
    NIC.enable_vfs(4)?;
    bring_up(&ALL_PORTS)?;
    scene.demo.vm0.adopt("sn0v0", &format!("{}/24", Demo::VM0))?;
    scene.demo.hush_vm0()?;
    scene.reaches_remote()?;
    let traffic = scene.to_remote()?;
    scene.in_hardware(1)?;
    Scene::flows_on(&traffic.receiver, 200)?;
    scene.settles()?;
    let (sent, lost) = traffic.stop()?;
    ensure!(lost == 0, "of {sent} packets {lost} were lost");
    Ok(())
}

pub(super) fn a_vf_whose_namespace_is_deleted_comes_back_to_use(lab: &mut Lab) -> Outcome {
    const POD: &str = "10.10.0.3";
    let ovs = Ovs::for_steering(lab)?;
    let scene = Scene::up(lab, &ovs)?;
    let pod = Netns::new(lab, "pod")?;
    pod.adopt("sn0v2", &format!("{POD}/24"))?;
    let other = scene.to_remote()?;
    let (sender, receiver) = scene.to_vf(&pod, POD, VF2_MAC)?;
    scene.in_hardware(2)?;
    // A process in it would keep the namespace.
    drop(receiver);
    drop(pod);
    wait_until("the VF is back", SETTLES_WITHIN, || Ok(std::fs::exists("/sys/class/net/sn0v2")?))?;
    Scene::flows_on(&other.receiver, 200)?;
    scene.settles()?;
    stop(sender)?;
    let pod = Netns::new(lab, "pod")?;
    pod.adopt("sn0v2", &format!("{POD}/24"))?;
    let (sender, receiver) = scene.to_vf(&pod, POD, VF2_MAC)?;
    Scene::flows_on(&receiver, 200)?;
    scene.in_hardware(2)?;
    scene.settles()?;
    stop(sender)?;
    let (sent, lost) = other.stop()?;
    ensure!(lost == 0, "another VF lost {lost} of {sent} packets");
    Ok(())
}

fn stop(sender: Sender) -> Outcome {
    sender.stop().map(drop)
}

pub(super) fn a_renamed_representor_is_the_same_port_with_its_flows(lab: &mut Lab) -> Outcome {
    // The comparison of flows takes what follows the number for the port's name, whatever the number.
    const NAME: &str = "sn7pf0vf0";
    let ovs = Ovs::for_steering(lab)?;
    let scene = Scene::up(lab, &ovs)?;
    let traffic = scene.to_remote()?;
    scene.in_hardware(1)?;
    let ifindex = || -> Outcome<Option<u64>> {
        let ports = scene.daemon.json(&["port", "list"])?;
        let port = ports.as_array().into_iter().flatten().find(|port| port["name"] == NAME);
        Ok(port.and_then(|port| port["ifindex"].as_u64()))
    };
    let before = std::fs::read_to_string("/sys/class/net/sn0pf0vf0/ifindex")?;
    run("ip", &["link", "set", "sn0pf0vf0", "name", NAME])?;
    // Where it comes back before its flows are gone, Open vSwitch (3.5 to 3.7) may take a filter for one of them that is another's by
    // now, and then deletes the filters of two flows in turn for good: it forgets a filter with its device or when its
    // deletion succeeds, and here the device stays and the qdisc is made anew (`del_filter_and_ufid_mapping`).
    ovs.vsctl(&["--if-exists", "del-port", "br0", "sn0pf0vf0"])?;
    wait_until("the port's filters are gone", SETTLES_WITHIN, || {
        Ok(!run("tc", &["filter", "show", "dev", NAME, "ingress"])?.contains("flower"))
    })?;
    ovs.vsctl(&["add-port", "br0", NAME])?;
    wait_until("the port has its new name", SETTLES_WITHIN, || Ok(ifindex()?.is_some()))?;
    ensure!(ifindex()? == before.trim().parse().ok(), "another netdev than {before}");
    Scene::flows_on(&traffic.receiver, 200)?;
    scene.in_hardware(1)?;
    scene.settles()?;
    traffic.stop().map(drop)
}
