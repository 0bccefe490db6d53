//! SFs, what is set for VFs and for the eswitch, and failures injected into all of that.

use super::frame::frame;
use super::life::{attribute, exists};
use super::rig::{Rig, receive, tc, up};
use crate::harness::{Failure, Lab, Outcome, Simnic, ensure, run};
use crate::io::packet_socket::PacketSocket;

/// What the command says when it is refused.
pub(super) fn refusal(program: &str, arguments: &str) -> Outcome<String> {
    match words(program, arguments) {
        Ok(_) => Err(Failure::new(format!("`{program} {arguments}` was accepted"))),
        Err(failure) => Ok(failure.to_string()),
    }
}

/// Runs `program` with the words of `arguments`.
pub(super) fn words(program: &str, arguments: &str) -> Outcome<String> {
    run(program, &arguments.split_whitespace().collect::<Vec<_>>())
}

/// A subfunction has a representor from `port add` on and a netdev while it is active, and forwards as a VF does.
pub(super) fn a_subfunction_has_a_netdev_while_it_is_active(_: &mut Lab) -> Outcome {
    const ADD: &str = "port add simnic/simnic0 flavour pcisf pfnum 0 sfnum 88";
    const PORT: &str = "simnic/simnic0/32768";
    let nic = Simnic::new(0, 1)?;
    ensure!(refusal("devlink", ADD)?.contains("switchdev only"), "no reason in legacy mode");
    nic.set_mode("switchdev")?;
    let added = words("devlink", ADD)?;
    ensure!(added.contains("netdev sn0pf0sf88 flavour pcisf controller 0 pfnum 0 sfnum 88"), "{added}");
    ensure!(added.contains("state inactive opstate detached"), "{added}");
    ensure!(refusal("devlink", ADD)?.contains("already exists"), "a second SF of one number");
    ensure!(attribute("sn0pf0sf88", "phys_port_name")? == "pf0sf88", "phys_port_name");
    ensure!(!exists("sn0s88"), "a netdev of an inactive SF");
    words("devlink", &format!("port function set {PORT} hw_addr 02:00:00:00:00:88 state active"))?;
    let shown = words("devlink", &format!("port show {PORT}"))?;
    ensure!(shown.contains("hw_addr 02:00:00:00:00:88 state active opstate attached"), "{shown}");
    ensure!(attribute("sn0s88", "address")? == "02:00:00:00:00:88", "the SF's address");

    up(&["sn0pf0sf88", "sn0s88", "sn0pf0vf0", "sn0v0"].map(str::to_owned))?;
    tc("qdisc add dev sn0pf0vf0 clsact")?;
    tc(
        "filter add dev sn0pf0vf0 ingress protocol ip flower skip_sw action mirred egress redirect dev sn0pf0sf88",
    )?;
    let (vf, sf) = (PacketSocket::open("sn0v0")?, PacketSocket::open("sn0s88")?);
    vf.send(&frame().encode(0))?;
    receive(&sf, 1)?;
    words("devlink", &format!("port function set {PORT} state inactive"))?;
    ensure!(!exists("sn0s88") && exists("sn0pf0sf88"), "inactive");
    words("devlink", &format!("port function set {PORT} state active"))?;
    words("devlink", &format!("port del {PORT}"))?;
    ensure!(!exists("sn0s88") && !exists("sn0pf0sf88"), "deleted");
    tc("filter delete dev sn0pf0vf0 ingress")?;
    words("devlink", ADD)?;
    nic.set_mode("legacy")?;
    ensure!(!exists("sn0pf0sf88"), "an SF in legacy mode");
    Ok(())
}

/// What `ip link set UPLINK vf N` sets is shown, and the link state is obeyed.
pub(super) fn what_is_set_for_a_vf_is_read_back(_: &mut Lab) -> Outcome {
    let nic = Simnic::with_total_vfs(0, 2)?;
    nic.enable_vfs(2)?;
    up(&[nic.vf(1), nic.uplink()])?;
    ensure!(attribute(&nic.vf(1), "carrier")? == "1", "no carrier in legacy mode");
    words("ip", "link set sn0p0 vf 1 trust on spoofchk on state disable max_tx_rate 100")?;
    words("ip", "link set sn0p0 vf 1 mac 02:00:00:00:11:11")?;
    let shown = words("ip", "link show sn0p0")?;
    let line = shown.lines().find(|line| line.contains("vf 1 ")).unwrap_or_default();
    for part in ["02:00:00:00:11:11", "100Mbps", "spoof checking on", "link-state disable", "trust on"] {
        ensure!(line.contains(part), "no `{part}` in {shown}");
    }
    ensure!(attribute(&nic.vf(1), "address")? == "02:00:00:00:11:11", "the VF's address");
    words("ip", "link set sn0p0 vf 1 mac 00:00:00:00:00:00")?;
    ensure!(
        attribute(&nic.vf(1), "address")? == "02:73:6e:00:00:02",
        "the VF's address is not its own again"
    );
    ensure!(attribute(&nic.vf(1), "carrier")? == "0", "carrier although the link state is disable");
    ensure!(
        refusal("ip", "link set sn0p0 vf 2 trust on")?.contains("Invalid argument"),
        "a VF that is not there"
    );
    nic.enable_vfs(0)?;
    nic.enable_vfs(2)?;
    ensure!(words("ip", "link show sn0p0")?.matches("trust off").count() == 2, "kept over disabling");
    Ok(())
}

/// Inline and encap mode do not change under rules, and the mode not under bound VFs if that is asked for.
pub(super) fn eswitch_settings_wait_for_rules_and_bound_vfs(_: &mut Lab) -> Outcome {
    let rig = Rig::new()?;
    words("devlink", "dev eswitch set simnic/simnic0 inline-mode transport encap-mode basic")?;
    let shown = words("devlink", "dev eswitch show simnic/simnic0")?;
    ensure!(shown.contains("mode switchdev inline-mode transport encap-mode basic"), "{shown}");
    rig.filter(0, "protocol ip flower skip_sw action drop")?;
    for setting in ["encap-mode none", "inline-mode none"] {
        let said = refusal("devlink", &format!("dev eswitch set simnic/simnic0 {setting}"))?;
        ensure!(said.contains("when flows are configured"), "{said}");
    }
    tc(&rig.named("filter delete dev REP0 ingress"))?;
    words("devlink", "dev eswitch set simnic/simnic0 encap-mode none")?;
    rig.nic.set("mode_needs_unbound_vfs", "1")?;
    let said = refusal("devlink", "dev eswitch set simnic/simnic0 mode legacy")?;
    ensure!(said.contains("VF 0 is bound to a driver"), "{said}");
    for vf in 0..3 {
        rig.nic.unbind_vf(vf)?;
    }
    rig.nic.set_mode("legacy")
}

/// A failure is the answer to the nth call, once, with its errno and text; other operations go on.
pub(super) fn an_injected_failure_answers_one_call(_: &mut Lab) -> Outcome {
    let nic = Simnic::with_total_vfs(0, 2)?;
    nic.set("fail", "eswitch_mode_set 2 5 firmware says no")?;
    nic.set("fail", "sriov 1 12")?;
    nic.set_mode("switchdev")?;
    match nic.set_mode("legacy") {
        Ok(()) => return Err(Failure::new("the second call was answered")),
        Err(failure) => {
            let said = failure.to_string();
            ensure!(said.contains("firmware says no") && said.contains("Input/output error"), "{said}");
        }
    }
    nic.set_mode("legacy")?;
    ensure!(nic.enable_vfs(1).is_err(), "VFs were enabled");
    nic.enable_vfs(1)?;
    for (fault, command) in [
        ("set_mtu 1 12", "link set sn0p0 mtu 1400"),
        ("open 1 12", "link set sn0p0 up"),
        ("set_mac 1 5", "link set sn0p0 address 02:00:00:00:00:09"),
        ("vf_trust 1 1", "link set sn0p0 vf 0 trust on"),
    ] {
        nic.set("fail", fault)?;
        refusal("ip", command)?;
        words("ip", command)?;
    }
    nic.set("fail", "fn_probe 1 5")?;
    nic.unbind_vf(0)?;
    ensure!(nic.bind_vf(0).is_err() && !exists(&nic.vf(0)), "the driver was bound");
    nic.bind_vf(0)?;
    for wrong in ["open 0 5", "opens 1 5", "open 1 999", "open"] {
        ensure!(nic.set("fail", wrong).is_err(), "`{wrong}` was taken");
    }
    nic.set("fail", "open 1 12")?;
    nic.set("fail", "clear")?;
    words("ip", "link set sn0v0 up").map(drop)
}
