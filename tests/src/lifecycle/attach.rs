//! `port attach` and `port detach`.

use std::process::{Child, Stdio};
use std::time::Duration;

use lab_tests::ensure;
use lab_tests::harness::{Lab, Netns, Outcome, Ovs, Simnic, wait_until};

use super::scene::{bridge, ctl, exists};

/// The longest until packets pass a port that was just attached.
const PASSES_WITHIN: Duration = Duration::from_secs(60);

fn attach(ovs: &Ovs, vf: &str, netns: &str, more: &[&str]) -> Outcome<super::scene::Said> {
    let words = ["port", "attach", "--nic", "0", "--vf", vf, "--bridge", "br0", "--netns", netns];
    ctl(ovs, &[&words[..], more].concat())
}

fn detach(ovs: &Ovs, vf: &str, more: &[&str]) -> Outcome<super::scene::Said> {
    ctl(ovs, &[&["port", "detach", "--nic", "0", "--vf", vf][..], more].concat())
}

/// A NIC with two VFs in switchdev mode.
fn nic() -> Outcome<Simnic> {
    let nic = Simnic::with_total_vfs(0, 3)?;
    nic.set_mode("switchdev")?;
    nic.enable_vfs(3)?;
    Ok(nic)
}

pub(super) fn a_container_gets_its_vf_and_its_place_on_a_bridge(lab: &mut Lab) -> Outcome {
    let nic = nic()?;
    let ovs = bridge(lab)?;
    let pods = [Netns::new(lab, "red")?, Netns::new(lab, "blue")?];
    let dry = attach(&ovs, "0", pods[0].name(), &["--iface-id", "red", "--dry-run"])?;
    ensure!(dry.status == 0 && dry.outcome() == "planned" && exists(&nic.vf(0)), "{dry:?}");
    for (vf, pod) in pods.iter().enumerate() {
        let number = vf.to_string();
        let mac = format!("02:00:00:00:00:0{}", vf + 1);
        let more = ["--iface-id", pod.name(), "--mac", &mac, "--mtu", "1400", "--external-id", "sandbox=x"];
        let said = attach(&ovs, &number, pod.name(), &more)?;
        said.reached()?;
        let port = &said.report["nics"][0]["ports"][0];
        let representor = nic.representor(vf as u32);
        ensure!(port["device"] == nic.vf(vf as u32) && port["mac"] == mac && port["mtu"] == 1400, "{port}");
        ensure!(port["representor"] == representor && port["bridge"] == "br0", "{port}");
        // As a CNI plugin may ask again.
        attach(&ovs, &number, pod.name(), &more)?.reached_after(0)?;
        pod.run(&["ip", "address", "add", &format!("10.9.0.{}/24", vf + 1), "dev", &nic.vf(vf as u32)])?;
        pod.run(&["ip", "link", "set", &nic.vf(vf as u32), "up"])?;
        let ids = ovs.vsctl(&["get", "Interface", &representor, "external_ids"])?;
        ensure!(ids.contains("iface-id=") && ids.contains("sandbox=x"), "{ids}");
    }
    wait_until("one container reaches the other", PASSES_WITHIN, || Ok(pods[0].pings("10.9.0.2")))?;

    // Somebody's place is not taken.
    ovs.vsctl(&["add-br", "br1"])?;
    ovs.vsctl(&["add-port", "br1", &nic.representor(2)])?;
    let said = attach(&ovs, "2", pods[0].name(), &[])?;
    ensure!(
        said.status == 1 && said.report.to_string().contains("is on bridge br1, and not by us"),
        "{said:?}"
    );
    let said = detach(&ovs, "2", &[])?;
    ensure!(said.status == 1 && said.report.to_string().contains("was not attached by us"), "{said:?}");

    detach(&ovs, "0", &[])?.reached()?;
    ensure!(exists(&nic.vf(0)) && !exists(&nic.vf(1)), "VF 0 is not back");
    let ports = ovs.vsctl(&["list-ports", "br0"])?;
    ensure!(ports.trim() == nic.representor(1), "on the bridge: {ports}");
    ensure!(!pods[0].pings("10.9.0.2"), "it still reaches the other");
    detach(&ovs, "0", &[])?.reached_after(0)?;
    // A container that is gone: the kernel has brought its VF back, and the port is left to remove.
    let [_, blue] = pods;
    drop(blue);
    wait_until("the VF is back", PASSES_WITHIN, || Ok(exists(&nic.vf(1))))?;
    detach(&ovs, "1", &[])?.reached()?;
    ensure!(ovs.vsctl(&["list-ports", "br0"])?.trim().is_empty(), "a port is left");
    detach(&ovs, "1", &[])?.reached_after(0)?;
    // And a VF that is gone.
    let gone = ctl(&ovs, &["port", "detach", "--nic", &nic.devlink(), "--vf", "9"])?;
    gone.reached_after(0)
}

pub(super) fn a_sub_function_is_made_handed_over_and_taken_back(lab: &mut Lab) -> Outcome {
    let nic = nic()?;
    let ovs = bridge(lab)?;
    let pod = Netns::new(lab, "pod")?;
    let words = ["port", "attach", "--nic", "0", "--sf", "7", "--bridge", "br0", "--netns", pod.name()];
    let words = [&words[..], &["--iface-id", "pod", "--mac", "02:00:00:00:00:07"]].concat();
    let said = ctl(&ovs, &words)?;
    said.reached()?;
    let steps = said.steps();
    ensure!(steps.first().is_some_and(|step| step == "make SF 7"), "{steps:?}");
    ensure!(pod.run(&["ip", "link", "show", "sn0s7"])?.contains("02:00:00:00:00:07"), "its address");
    ensure!(ovs.vsctl(&["list-ports", "br0"])?.trim() == "sn0pf0sf7", "its place");
    ctl(&ovs, &words)?.reached_after(0)?;
    // The driver refuses a second one half-way: it is not left behind.
    nic.set("fail", "fn_state_set 1 5 no room for it")?;
    let other = ["port", "attach", "--nic", "0", "--sf", "8", "--bridge", "br0"];
    let said = ctl(&ovs, &other)?;
    ensure!(said.status == 1 && said.outcome() == "undone", "{said:?}");
    ensure!(said.report.to_string().contains("no room for it"), "{said:?}");
    ensure!(!exists("sn0pf0sf8"), "SF 8 is left behind");
    ctl(&ovs, &["port", "detach", "--nic", "0", "--sf", "7"])?.reached()?;
    ensure!(exists("sn0s7") && ovs.vsctl(&["list-ports", "br0"])?.trim().is_empty(), "not taken back");
    Ok(())
}

/// A process of its own in a namespace that has no name, ended when dropped.
struct Nameless(Child);

impl Nameless {
    fn start() -> Outcome<Self> {
        let mut command = std::process::Command::new("unshare");
        command.args(["--net", "sleep", "1000"]).stdin(Stdio::null());
        let child = command.spawn()?;
        let own = std::fs::read_link("/proc/self/ns/net")?;
        let theirs = format!("/proc/{}/ns/net", child.id());
        wait_until("the process has its namespace", PASSES_WITHIN, || {
            Ok(std::fs::read_link(&theirs)? != own)
        })?;
        Ok(Self(child))
    }
}

impl Drop for Nameless {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(super) fn a_namespace_is_found_by_path_process_and_name(lab: &mut Lab) -> Outcome {
    let nic = nic()?;
    let ovs = bridge(lab)?;
    let named = Netns::new(lab, "pod")?;
    let nameless = Nameless::start()?;
    let pid = nameless.0.id().to_string();
    let path = format!("/run/netns/{}", named.name());
    // The same namespace by another name is the same.
    attach(&ovs, "0", &path, &[])?.reached()?;
    attach(&ovs, "0", named.name(), &[])?.reached_after(0)?;
    attach(&ovs, "1", &pid, &[])?.reached()?;
    attach(&ovs, "1", &format!("/proc/{pid}/ns/net"), &[])?.reached_after(0)?;
    ensure!(named.run(&["ip", "link", "show", &nic.vf(0)])?.contains(&nic.vf(0)), "VF 0");
    // Another namespace is not this one: a VF in use is not taken from there.
    let said = attach(&ovs, "1", named.name(), &[])?;
    ensure!(said.status == 1 && said.report.to_string().contains("is in another namespace"), "{said:?}");
    detach(&ovs, "0", &[])?.reached()?;
    // Where the namespace has no name, it has to be said.
    let said = detach(&ovs, "1", &[])?;
    ensure!(said.status == 1 && said.outcome() == "undone", "{said:?}");
    ensure!(said.report.to_string().contains("no name is known"), "{said:?}");
    let ports = ovs.vsctl(&["list-ports", "br0"])?;
    ensure!(ports.trim() == nic.representor(1), "undone, but on the bridge: {ports}");
    detach(&ovs, "1", &["--netns", &pid])?.reached()?;
    ensure!(exists(&nic.vf(0)) && exists(&nic.vf(1)), "not all are back");
    Ok(())
}
