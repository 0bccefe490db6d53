//! `nic apply`.

use lab_tests::ensure;
use lab_tests::harness::{Lab, Netns, Outcome, Simnic, run};

use super::scene::{apply, attribute, bridge, exists, is_up, mode};

const MAC: &str = "02:aa:bb:cc:dd:01";

/// Two of four VFs with all that a representor can have.
fn declared(netns: &str) -> String {
    format!(
        r#"
        [[device]]
        handle = "simnic/simnic0"
        eswitch-mode = "switchdev"
        vfs = 4
        hw-tc-offload = true
        mtu = 9000
        [[device.port]]
        vf = 1
        mac = "{MAC}"
        link = "up"
        mtu = 8900
        bridge = "br0"
        iface-id = "pod1"
        external-ids = {{ sandbox = "a1" }}
        netns = "{netns}"
        [[device.port]]
        vf = 2
        link = "up"
        "#
    )
}

pub(super) fn a_dry_run_says_every_step_and_changes_nothing(lab: &mut Lab) -> Outcome {
    let nic = Simnic::with_total_vfs(0, 4)?;
    let ovs = bridge(lab)?;
    let netns = Netns::new(lab, "pod")?;
    let said = apply(lab, &ovs, &declared(netns.name()), &["--dry-run"])?;
    ensure!(said.status == 0 && said.outcome() == "planned", "{said:?}");
    let steps = said.steps();
    for step in [
        "set the eswitch to switchdev",
        "set the number of VFs to 4",
        "set the MTU of the uplink to 9000",
        "give VF 1 the MAC address 02:aa:bb:cc:dd:01",
        "set the MTU of the representor of VF 1 to 8900",
        "set the representor of VF 1 up",
        "attach the representor of VF 1 to bridge br0",
        "set the representor of VF 2 up",
    ] {
        ensure!(steps.iter().any(|said| said == step), "{step} is not among {steps:#?}");
    }
    let order = |step: &str| steps.iter().position(|said| said.starts_with(step));
    ensure!(order("set the eswitch") < order("set the number of VFs"), "{steps:#?}");
    ensure!(order("attach") < order("hand VF 1 to the network namespace"), "{steps:#?}");
    let command = &said.report["nics"][0]["steps"][0]["command"];
    ensure!(command == "devlink dev eswitch set simnic/simnic0 mode switchdev", "{command}");
    // Nothing has changed.
    ensure!(mode(&nic.devlink())? == "legacy", "the mode has changed");
    ensure!(!exists(&nic.vf(0)) && attribute(&nic.uplink(), "mtu")? == "1500", "something has changed");
    ensure!(ovs.vsctl(&["list-ports", "br0"])?.trim().is_empty(), "a port is attached");
    Ok(())
}

pub(super) fn a_nic_is_made_as_declared_and_then_left_alone(lab: &mut Lab) -> Outcome {
    let nic = Simnic::with_total_vfs(0, 4)?;
    let ovs = bridge(lab)?;
    let netns = Netns::new(lab, "pod")?;
    // As mlx5 wants it: in another order than unbound first it is refused.
    nic.set("mode_needs_unbound_vfs", "1")?;
    let config = declared(netns.name());
    apply(lab, &ovs, &config, &[])?.reached()?;
    ensure!(mode(&nic.devlink())? == "switchdev", "the mode is {}", mode(&nic.devlink())?);
    let representor = nic.representor(1);
    ensure!(attribute(&nic.uplink(), "mtu")? == "9000", "the uplink's MTU");
    ensure!(attribute(&representor, "mtu")? == "8900" && is_up(&representor)?, "the representor");
    ensure!(is_up(&nic.representor(2))? && !is_up(&nic.representor(0))?, "other representors");
    let features = run("ethtool", &["-k", &representor])?;
    ensure!(features.contains("hw-tc-offload: on"), "{features}");
    let ids = ovs.vsctl(&["get", "Interface", &representor, "external_ids"])?;
    for pair in ["iface-id=pod1", "sandbox=a1", "offloadd-attached=\"simnic/simnic0 vf1\""] {
        ensure!(ids.contains(pair), "{pair} is not in {ids}");
    }
    let link = netns.run(&["ip", "link", "show", &nic.vf(1)])?;
    ensure!(link.contains(MAC) && link.contains("mtu 8900"), "in the namespace: {link}");
    ensure!(!exists(&nic.vf(1)) && exists(&nic.vf(0)), "other devices");

    // Nothing is left to do, and what somebody else adds stays.
    ovs.vsctl(&["set", "Interface", &representor, "external_ids:theirs=1"])?;
    apply(lab, &ovs, &config, &[])?.reached_after(0)?;
    ensure!(ovs.vsctl(&["get", "Interface", &representor, "external_ids:theirs"])?.contains('1'), "theirs");
    // Of what has strayed only that is put right.
    run("ip", &["link", "set", &representor, "down"])?;
    netns.run(&["ip", "link", "set", &nic.vf(1), "mtu", "1400"])?;
    apply(lab, &ovs, &config, &[])?.reached_after(2)?;
    let link = netns.run(&["ip", "link", "show", &nic.vf(1)])?;
    ensure!(is_up(&representor)? && link.contains("mtu 8900"), "not put right: {link}");
    // Another identity and address.
    let other = config.replace("pod1", "pod2").replace(MAC, "02:aa:bb:cc:dd:02");
    apply(lab, &ovs, &other, &[])?.reached()?;
    let ids = ovs.vsctl(&["get", "Interface", &representor, "external_ids"])?;
    ensure!(ids.contains("iface-id=pod2") && ids.contains("theirs"), "{ids}");
    ensure!(netns.run(&["ip", "link", "show", &nic.vf(1)])?.contains("02:aa:bb:cc:dd:02"), "the address");

    // And back: what is in use by a namespace nobody declares keeps the NIC as it is, with the reason.
    let legacy = "[[device]]\nhandle = \"simnic/simnic0\"\neswitch-mode = \"legacy\"\n";
    let said = apply(lab, &ovs, legacy, &[])?;
    ensure!(said.status == 1 && said.outcome() == "impossible", "{said:?}");
    ensure!(said.report.to_string().contains("VF 1: its network device is in another namespace"), "{said:?}");
    netns.run(&["ip", "link", "set", &nic.vf(1), "netns", "1"])?;
    apply(lab, &ovs, legacy, &[])?.reached()?;
    ensure!(mode(&nic.devlink())? == "legacy" && exists(&nic.vf(1)), "not back in legacy mode");
    ensure!(ovs.vsctl(&["list-ports", "br0"])?.trim().is_empty(), "its port has stayed");
    let none = format!("{legacy}vfs = 0\n");
    apply(lab, &ovs, &none, &[])?.reached()?;
    ensure!(!exists(&nic.vf(0)), "VFs are left");
    Ok(())
}

pub(super) fn what_cannot_be_or_fails_leaves_the_nic_as_it_was(lab: &mut Lab) -> Outcome {
    let nic = Simnic::with_total_vfs(0, 2)?;
    let ovs = bridge(lab)?;
    let config =
        |rest: &str| format!("[[device]]\nhandle = \"simnic/simnic0\"\neswitch-mode = \"switchdev\"\n{rest}");
    for (rest, why) in [
        ("vfs = 3\n", "vfs: the NIC has 2 at most"),
        ("[[device.port]]\nvf = 1\n", "VF 1: the NIC has 0 VFs"),
        ("vfs = 2\n[[device.port]]\nvf = 1\nbridge = \"br9\"\n", "VF 1: there is no bridge br9"),
        ("vfs = 2\n[[device.port]]\nvf = 1\nnetns = \"nobody\"\n", "No such file"),
        ("vfs = 2\n[[device.port]]\nvf = 1\nnetns = \"/proc/self/status\"\n", "not a namespace"),
    ] {
        let said = apply(lab, &ovs, &config(rest), &[])?;
        ensure!(said.status == 1 && said.outcome() == "impossible", "{rest}: {said:?}");
        ensure!(said.report.to_string().contains(why), "{why} is not in {said:?}");
        ensure!(mode(&nic.devlink())? == "legacy" && !exists(&nic.vf(0)), "{rest} has changed something");
    }
    // The driver refuses an MTU, after the mode and the VFs: both go back.
    let said = apply(lab, &ovs, &config("vfs = 2\n[[device.port]]\nvf = 0\nmtu = 60000\n"), &[])?;
    ensure!(said.status == 1 && said.outcome() == "undone", "{said:?}");
    let failed = said.report["nics"][0]["failed"].as_str().unwrap_or_default().to_owned();
    ensure!(failed.contains("the MTU of") && failed.contains("EINVAL"), "it says: {failed}");
    ensure!(said.steps().len() >= 3, "what was done and undone: {said:?}");
    ensure!(mode(&nic.devlink())? == "legacy" && !exists(&nic.vf(0)), "not as before");
    // There is no such NIC, and the configuration is wrong: two more words for it.
    let said = apply(lab, &ovs, "[[device]]\nhandle = \"simnic/simnic7\"\nvfs = 1\n", &[])?;
    ensure!(said.status == 1 && said.outcome() == "impossible", "{said:?}");
    let wrong = ovs.command("ovs-offloadctl").args(["nic", "apply", "--config", "/nonexistent"]).output()?;
    ensure!(wrong.status.code() == Some(2), "{wrong:?}");
    Ok(())
}

pub(super) fn a_port_whose_representor_is_gone_is_removed_if_it_is_ours(lab: &mut Lab) -> Outcome {
    let nic = Simnic::with_total_vfs(0, 2)?;
    let other = Simnic::with_total_vfs(1, 1)?;
    let ovs = bridge(lab)?;
    let attached = "[[device]]\nhandle = \"simnic/simnic0\"\neswitch-mode = \"switchdev\"\nvfs = 2\n\
                    [[device.port]]\nvf = 0\nbridge = \"br0\"\niface-id = \"pod1\"\n";
    apply(lab, &ovs, attached, &[])?.reached()?;
    other.set_mode("switchdev")?;
    other.enable_vfs(1)?;
    // Not ours: one that somebody attached by hand, one of a NIC nobody declares, one with nothing to it.
    ovs.vsctl(&["add-port", "br0", &nic.representor(1)])?;
    let theirs = "external_ids:offloadd-attached=\"simnic/simnic1 vf0\"";
    ovs.vsctl(&[
        "add-port",
        "br0",
        &other.representor(0),
        "--",
        "set",
        "Interface",
        &other.representor(0),
        theirs,
    ])?;
    // A reboot or an accident: the representors go, the rows stay.
    nic.enable_vfs(0)?;
    other.enable_vfs(0)?;
    let rows = || ovs.vsctl(&["list-ports", "br0"]);
    ensure!(rows()?.lines().count() == 3, "{}", rows()?);
    let bare = "[[device]]\nhandle = \"simnic/simnic0\"\n";
    let said = apply(lab, &ovs, bare, &["--dry-run"])?;
    ensure!(said.steps() == [format!("remove port {} from bridge br0", nic.representor(0))], "{said:?}");
    ensure!(rows()?.lines().count() == 3, "{}", rows()?);
    apply(lab, &ovs, bare, &[])?.reached_after(1)?;
    let left = rows()?;
    let left: Vec<&str> = left.lines().collect();
    ensure!(left == [nic.representor(1), other.representor(0)], "left are {left:?}");
    apply(lab, &ovs, bare, &[])?.reached_after(0)
}
