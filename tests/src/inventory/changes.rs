//! What happens to NICs and ports, and how the inventory shows it.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use lab_tests::ensure;
use lab_tests::harness::{Daemon, Failure, Lab, Netns, Outcome, Ovs, Simnic, output, run, wait_for};
use serde_json::Value;

use super::scale::representors;

const SHOWS_WITHIN: Duration = Duration::from_secs(60);
const OBSERVE: &str = "mode = \"observe\"\n";

/// Waits until the representor of NIC 0's `vf` is as `is_so` says.
fn shows(daemon: &Daemon, what: &str, vf: u32, is_so: impl Fn(&Value) -> bool) -> Outcome<Value> {
    wait_for(what, SHOWS_WITHIN, || {
        let ports = representors(daemon)?;
        let port = ports.into_iter().find(|port| port["vf"] == vf && port["nic"] == 0);
        match port {
            Some(port) if is_so(&port) => Ok(Some(port)),
            port => Err(Failure::new(format!("VF {vf} is shown as {port:?}"))),
        }
    })
}

fn sh(ovs: &Ovs, script: &str) -> Outcome {
    output(ovs.command("sh").args(["-ec", script])).map(drop)
}

fn switchdev(vfs: u32, total: u32) -> Outcome<Simnic> {
    let nic = Simnic::with_total_vfs(0, total)?;
    nic.set_mode("switchdev")?;
    nic.enable_vfs(vfs)?;
    Ok(nic)
}

pub(super) fn who_is_behind_a_representor_is_told_and_followed(lab: &mut Lab) -> Outcome {
    let ovs = Ovs::start(lab, &["hw-offload=true"])?;
    let nic = switchdev(2, 2)?;
    let daemon = Daemon::start(lab, &ovs, OBSERVE)?;
    shows(&daemon, "a representor is on no bridge", 0, |port| port["bridge"].is_null())?;
    sh(
        &ovs,
        "ovs-vsctl add-br br0 -- add-port br0 sn0pf0vf0 -- set Interface sn0pf0vf0 external_ids:iface-id=web.shop \
         external_ids:vendor=kube-ovn external_ids:pod_name=web external_ids:pod_namespace=shop",
    )?;
    let port = shows(&daemon, "the port of Open vSwitch is joined", 0, |port| port["bridge"] == "br0")?;
    ensure!(port["iface_id"] == "web.shop" && port["workload"] == "shop/web", "the workload: {port}");
    let own = |name: &'static str| move |port: &Value| port["own_netdev"]["name"] == name;
    let port = shows(&daemon, "the VF's device is joined", 0, own("sn0v0"))?;
    ensure!(port["own_netdev"]["mac"] == port["mac"], "the function's address is not its device's: {port}");

    let pod = Netns::new(lab, "pod")?;
    pod.adopt("sn0v0", "10.99.0.1/24")?;
    shows(&daemon, "the VF's device has left the host's namespace", 0, |port| port["own_netdev"].is_null())?;
    // As an orchestrator names it after a container: a port is known by its switch and its number.
    run("ip", &["link", "set", "sn0pf0vf0", "down"])?;
    run("ip", &["link", "set", "sn0pf0vf0", "name", "0a1b2c3d4e5f_h"])?;
    let renamed = |port: &Value| port["netdev"]["name"] == "0a1b2c3d4e5f_h";
    let port = shows(&daemon, "the new name is shown", 0, renamed)?;
    ensure!(port["netdev"]["link"] == "down" && port["phys_port_name"] == "pf0vf0", "{port}");
    run("ip", &["link", "set", "0a1b2c3d4e5f_h", "name", "sn0pf0vf0"])?;
    run("ip", &["link", "set", "sn0pf0vf0", "up"])?;
    // Open vSwitch has lost its port with the name, and opens it anew.
    let is_back = |port: &Value| port["netdev"]["link"] == "up" && port["bridge"] == "br0";
    shows(&daemon, "it is up again and a port of Open vSwitch", 0, is_back)?;

    run("ip", &["link", "set", "sn0pf0vf1", "mtu", "1400"])?;
    run("ethtool", &["-K", "sn0pf0vf1", "hw-tc-offload", "off"])?;
    let changed = |port: &Value| port["netdev"]["mtu"] == 1400 && port["hw_tc_offload"] == "off";
    shows(&daemon, "MTU and hw-tc-offload are followed", 1, changed)?;
    let text = daemon.ctl(&["nic", "show", "sn0p0"])?;
    let told = [nic.devlink(), "running".into(), "sn0pf0vf1".into(), "shop/web".into()];
    ensure!(told.iter().all(|word| text.contains(word)), "`nic show sn0p0`:\n{text}");
    ensure!(daemon.ctl(&["nic", "show", "7"]).is_err(), "a NIC that is not there is shown");
    Ok(())
}

fn nic_shows(daemon: &Daemon, what: &str, is_so: impl Fn(&Value) -> bool) -> Outcome<Value> {
    wait_for(what, SHOWS_WITHIN, || {
        let nics = daemon.json(&["nic", "list"])?;
        match nics.get(0) {
            Some(nic) if is_so(nic) => Ok(Some(nic.clone())),
            nic => Err(Failure::new(format!("NIC 0 is shown as {nic:?}"))),
        }
    })
}

pub(super) fn functions_and_modes_are_followed_and_ports_without_a_representor_are_stale(
    lab: &mut Lab,
) -> Outcome {
    let ovs = Ovs::start(lab, &["hw-offload=true"])?;
    let nic = Simnic::with_total_vfs(0, 4)?;
    let daemon = Daemon::start(lab, &ovs, OBSERVE)?;
    let at_first = |nic: &Value| nic["eswitch_mode"] == "legacy" && nic["vfs"] == 0 && nic["vfs_max"] == 4;
    nic_shows(&daemon, "the NIC is shown with the VFs it can have", at_first)?;
    nic.enable_vfs(3)?;
    nic_shows(&daemon, "VFs of a NIC in legacy mode are counted", |nic| nic["vfs"] == 3)?;
    nic.set_mode("switchdev")?;
    let switchdev = |nic: &Value| nic["eswitch_mode"] == "switchdev" && nic["ports"] == 4 && nic["nic"] == 0;
    nic_shows(&daemon, "the mode and the representors are followed", switchdev)?;
    sh(
        &ovs,
        "ovs-vsctl add-br br0 -- add-port br0 sn0pf0vf0 -- add-port br0 sn0pf0vf2 -- add-port br0 sn0p0",
    )?;
    shows(&daemon, "the port of Open vSwitch is joined", 2, |port| port["ovs_port"] == "sn0pf0vf2")?;

    nic.enable_vfs(0)?;
    let stale = wait_for("ports without a representor are stale", SHOWS_WITHIN, || {
        let ports = representors(&daemon)?;
        let stale: Vec<Value> = ports.into_iter().filter(|port| port["stale"] == true).collect();
        Ok((stale.len() == 2).then_some(stale))
    })?;
    let names: Vec<&str> = stale.iter().filter_map(|port| port["ovs_port"].as_str()).collect();
    ensure!(names == ["sn0pf0vf0", "sn0pf0vf2"], "{stale:?}");
    ensure!(stale.iter().all(|port| port["nic"] == 0 && port["phys_port_name"].is_string()), "{stale:?}");
    nic_shows(&daemon, "VFs that are gone are", |nic| nic["vfs"] == 0 && nic["ports"] == 1)?;
    let status = daemon.json(&["status"])?;
    ensure!(status["inventory"]["stale_ports"] == 2, "{}", status["inventory"]);

    nic.enable_vfs(1)?;
    shows(&daemon, "the representor is back", 0, |port| port["ovs_port"] == "sn0pf0vf0")?;
    sh(&ovs, "ovs-vsctl del-port br0 sn0pf0vf2")?;
    wait_for("no port is stale any more", SHOWS_WITHIN, || {
        Ok((daemon.json(&["status"])?["inventory"]["stale_ports"] == 0).then_some(()))
    })?;
    nic.set_mode("legacy")?;
    // No notification tells that the switch id is gone.
    let legacy = |nic: &Value| nic["eswitch_mode"] == "legacy" && nic["switch_id"] == "";
    nic_shows(&daemon, "the NIC is in legacy mode and has no switch id", legacy)?;
    drop(nic);
    wait_for("the NIC is gone", SHOWS_WITHIN, || {
        Ok((daemon.json(&["nic", "list"])?.as_array().is_some_and(Vec::is_empty)).then_some(()))
    })
}

/// Notifications of more changes than the daemon's buffer holds while it is stopped.
pub(super) fn lost_notifications_are_made_up_for_by_reading_everything_again(lab: &mut Lab) -> Outcome {
    let ovs = Ovs::start(lab, &["hw-offload=true"])?;
    let nic = switchdev(16, 16)?;
    let config = format!("{OBSERVE}[limits]\nsocket-buffer = 65536\n");
    let mut daemon = Daemon::start(lab, &ovs, &config)?;
    shows(&daemon, "all representors are there", 15, |port| port["netdev"]["mtu"] == 1500)?;
    let overruns = |daemon: &Daemon| -> Outcome<u64> {
        let status = daemon.json(&["status"])?;
        let all = status["connections"].as_array().cloned().unwrap_or_default();
        let netlink = all.iter().find(|connection| connection["name"] == "netlink");
        Ok(netlink.and_then(|netlink| netlink["losses"].as_u64()).unwrap_or_default())
    };
    let before = overruns(&daemon)?;
    daemon.signal("STOP")?;
    let changed = sh(
        &ovs,
        "for round in 1 2 3 4 5 6 7 8; do for vf in $(seq 0 15); do echo link set sn0pf0vf$vf mtu 13$round$round; done; done | \
         ip -batch -; ethtool -K sn0pf0vf3 hw-tc-offload off; ip link set sn0pf0vf4 name lost",
    );
    let unplugged = nic.unbind_vf(15);
    daemon.signal("CONT")?;
    changed?;
    unplugged?;
    let last = |port: &Value| port["netdev"]["mtu"] == 1388;
    for vf in [0, 7, 15] {
        shows(&daemon, "the last MTU is shown", vf, last)?;
    }
    shows(&daemon, "the feature is off", 3, |port| port["hw_tc_offload"] == "off")?;
    shows(&daemon, "the new name is shown", 4, |port| port["netdev"]["name"] == "lost")?;
    shows(&daemon, "the VF's own device is gone", 15, |port| port["own_netdev"].is_null())?;
    let lost = overruns(&daemon)? - before;
    println!("    notifications were lost {lost} times");
    ensure!(lost > 0, "nothing was lost: this has shown nothing");
    Ok(())
}

fn nic_detail(daemon: &Daemon, what: &str, is_so: impl Fn(&Value) -> bool) -> Outcome<Value> {
    wait_for(what, SHOWS_WITHIN, || {
        let detail = daemon.json(&["nic", "show", "0"])?;
        if is_so(&detail) {
            Ok(Some(detail))
        } else {
            Err(Failure::new(format!("NIC 0 is shown as {detail}")))
        }
    })
}

/// The health reporter of this name.
fn reporter<'v>(nic: &'v Value, name: &str) -> &'v Value {
    let all = nic["health_reporters"].as_array();
    all.and_then(|all| all.iter().find(|reporter| reporter["reporter"] == name)).unwrap_or(&Value::Null)
}

pub(super) fn health_resources_and_sub_functions_of_a_nic_are_told(lab: &mut Lab) -> Outcome {
    let ovs = Ovs::start(lab, &["hw-offload=true"])?;
    let nic = switchdev(1, 1)?;
    let daemon = Daemon::start(lab, &ovs, &format!("{OBSERVE}[metrics]\nlisten = \"127.0.0.1:19000\"\n"))?;
    let reporters = |nic: &Value| {
        reporter(nic, "tx")["devlink_port"] == 0
            && reporter(nic, "fw")["state"] == "healthy"
            && nic["health"] == "healthy"
    };
    nic_detail(&daemon, "reporters are shown, all healthy", reporters)?;
    let versions = |nic: &Value| nic["firmware"].is_string() && nic["serial"] == "SN000000";
    nic_detail(&daemon, "firmware and serial number are shown", versions)?;

    // Told by notifications: an error, and the recovery from it.
    run("devlink", &["health", "set", &nic.devlink(), "reporter", "fw", "auto_recover", "false"])?;
    nic.set("health", "fw it stalled")?;
    let detail = nic_detail(&daemon, "the error is shown", |nic| reporter(nic, "fw")["state"] == "error")?;
    ensure!(reporter(&detail, "fw")["errors"] == 1 && detail["health"] == "error", "{detail}");
    ensure!(daemon.ctl(&["status"])?.contains("HEALTH ERROR"), "`status` does not tell of the error");
    run("devlink", &["health", "recover", &nic.devlink(), "reporter", "fw"])?;
    let recovered = |nic: &Value| reporter(nic, "fw")["recoveries"] == 1 && nic["health"] == "healthy";
    nic_detail(&daemon, "the recovery is shown", recovered)?;
    shows(&daemon, "the representor that was made anew is shown", 0, |port| port["netdev"].is_object())?;

    // Asked for when they are shown: resources.
    run("devlink", &["resource", "set", &nic.devlink(), "path", "rules", "size", "1024"])?;
    let size_new = |nic: &Value| nic["resources"][0]["size_new"] == 1024;
    let detail = nic_detail(&daemon, "the size after a reload is shown", size_new)?;
    ensure!(detail["resources"][0]["used"] == 0, "{detail}");
    run("devlink", &["dev", "reload", &nic.devlink()])?;
    nic_detail(&daemon, "the new size is shown", |nic| nic["resources"][0]["size"] == 1024)?;
    shows(&daemon, "the representor is back after the reload", 0, |port| port["netdev"].is_object())?;

    run("devlink", &["port", "add", &nic.devlink(), "flavour", "pcisf", "pfnum", "0", "sfnum", "7"])?;
    nic_shows(&daemon, "the sub-function is counted", |nic| nic["sfs"] == 1)?;
    let sf = |daemon: &Daemon, state: &str, opstate: &str| {
        wait_for("the sub-function's state is shown", SHOWS_WITHIN, || {
            let ports = representors(daemon)?;
            let sf = ports.into_iter().find(|port| port["sf"] == 7);
            // The kernel tells of the port before it tells of its device.
            let is_so = |sf: &Value| {
                sf["state"] == state && sf["opstate"] == opstate && sf["netdev"]["name"] == "sn0pf0sf7"
            };
            match sf {
                Some(sf) if is_so(&sf) => Ok(Some(sf)),
                sf => Err(Failure::new(format!("it is shown as {sf:?}"))),
            }
        })
    };
    let shown = sf(&daemon, "inactive", "detached")?;
    ensure!(shown["flavour"] == "pcisf", "{shown}");
    let port = format!("{}/{}", nic.devlink(), shown["devlink_port"]);
    run("devlink", &["port", "function", "set", &port, "state", "active"])?;
    sf(&daemon, "active", "attached")?;
    let lines = [
        "offloadd_nic_health_errors_total{nic=\"0\",driver=\"simnic\",reporter=\"fw\"} 1",
        "offloadd_nic_health_reporters_in_error{nic=\"0\",driver=\"simnic\",reporter=\"tx\"} 0",
        "offloadd_nic_resource_size_entries{nic=\"0\",driver=\"simnic\",resource=\"rules\"} 1024",
        "offloadd_nic_switchdev{nic=\"0\",driver=\"simnic\"} 1",
        "offloadd_nic_sub_functions{nic=\"0\",driver=\"simnic\"} 1",
        "offloadd_nic_virtual_functions{nic=\"0\",driver=\"simnic\"} 1",
    ];
    wait_for("the metrics tell of all of it", SHOWS_WITHIN, || {
        let text = scrape("127.0.0.1:19000")?;
        for line in lines {
            ensure!(text.lines().any(|told| told == line), "no `{line}` in:\n{text}");
        }
        Ok(Some(()))
    })
}

pub(crate) fn scrape(address: &str) -> Outcome<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.write_all(b"GET /metrics HTTP/1.0\r\nHost: lab\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}
