//! The daemon keeps NICs as they are declared.

use std::time::Duration;

use lab_tests::ensure;
use serde_json::{Value, json};

use lab_tests::harness::{Daemon, Lab, Outcome, Simnic, run, wait_for, wait_until};

use super::scene::{bridge, exists, is_up, mode};

/// The longest until a deviation is put right. What cannot be is tried again after two seconds, and then after twice as long each
/// time.
const MENDED_WITHIN: Duration = Duration::from_secs(120);

pub(super) fn declared_nics_are_kept_as_declared_and_others_never_touched(lab: &mut Lab) -> Outcome {
    let (nic, other) = (Simnic::with_total_vfs(0, 2)?, Simnic::with_total_vfs(1, 2)?);
    let ovs = bridge(lab)?;
    // Without a device nothing is done, whatever there is.
    let quiet = "[metrics]\nlisten = \"off\"\n";
    let mut daemon = Daemon::start(lab, &ovs, quiet)?;
    ensure!(
        daemon.json(&["status"])?["declared"].as_array().is_some_and(Vec::is_empty),
        "something is declared"
    );
    let declared = format!(
        "{quiet}[[device]]\nhandle = \"simnic/simnic0\"\neswitch-mode = \"switchdev\"\nvfs = 2\n\
         [[device.port]]\nvf = 0\nlink = \"up\"\nbridge = \"br0\"\niface-id = \"pod1\"\n\
         [[device.port]]\nvf = 1\nnetns = \"not-yet\"\n"
    );
    daemon.configure(&declared)?;
    daemon.ctl(&["reload"])?;
    let representor = nic.representor(0);
    let on_bridge = || Ok(ovs.vsctl(&["list-ports", "br0"])?.trim() == representor);
    let stands = |daemon: &Daemon| -> Outcome<Value> {
        let nics = daemon.json(&["nic", "list"])?;
        let of = |handle: String| {
            nics.as_array().into_iter().flatten().find(|nic| nic["devlink"] == handle).cloned()
        };
        let other = of(other.devlink()).unwrap_or_default();
        ensure!(other["declared"].is_null(), "the other NIC is shown as declared: {other}");
        Ok(of(nic.devlink()).unwrap_or_default()["declared"].clone())
    };
    // One port that cannot be had yet keeps neither the NIC nor the other port from it.
    wait_until("the NIC and a port are as declared", MENDED_WITHIN, || {
        Ok(mode(&nic.devlink())? == "switchdev"
            && exists(&representor)
            && is_up(&representor)?
            && on_bridge()?)
    })?;
    wait_until("status tells of the port that cannot be", MENDED_WITHIN, || {
        let status = daemon.ctl(&["status"])?;
        Ok(status.contains("NOT AS DECLARED") && status.contains("VF 1: network namespace not-yet"))
    })?;
    // The list has it from what the kernel and the database tell, and not from whoever made it so.
    let listed = |what: &str, daemon: &Daemon, is_so: &dyn Fn(&Value) -> bool| {
        wait_for(what, MENDED_WITHIN, || {
            let shown = stands(daemon)?;
            ensure!(is_so(&shown), "`nic list` has {shown}");
            Ok(Some(()))
        })
    };
    listed("`nic list` has what differs", &daemon, &|shown| {
        let all = shown["differences"].as_array();
        let keys: Vec<_> = all.into_iter().flatten().map(|difference| &difference["key"]).collect();
        shown["state"] == "differs" && keys == ["vf1 netns"]
    })?;
    let text = daemon.ctl(&["nic", "show", "simnic/simnic0"])?;
    ensure!(text.contains("DIFFERS") && text.contains("declared not-yet"), "`nic show` says {text}");
    // What was missing comes, and is told of by nobody.
    run("ip", &["netns", "add", "not-yet"])?;
    let mended =
        wait_until("VF 1 is handed over", MENDED_WITHIN, || Ok(!exists(&nic.vf(1)))).and_then(|()| {
            wait_until("status says so", MENDED_WITHIN, || {
                let declared = daemon.json(&["status"])?["declared"][0].clone();
                Ok(declared["devlink"] == "simnic/simnic0" && declared["reached"] == true)
            })
        });
    let mended = mended.and_then(|()| {
        listed("`nic list` has it as declared", &daemon, &|shown| {
            shown["state"] == "as_declared" && shown["differences"] == json!([])
        })
    });
    // Deviations that are told of.
    let deviate = || {
        run("ip", &["link", "set", &representor, "down"])?;
        wait_until("the representor is up again", MENDED_WITHIN, || is_up(&representor))?;
        ovs.vsctl(&["del-port", "br0", &representor])?;
        wait_until("the port is back", MENDED_WITHIN, on_bridge)
    };
    // The VF that is in its namespace is taken back for another mode, and goes there again.
    let legacy = format!(
        "{quiet}[[device]]\nhandle = \"simnic/simnic0\"\neswitch-mode = \"legacy\"\nvfs = 2\n\
         [[device.port]]\nvf = 1\nnetns = \"not-yet\"\n"
    );
    let is_there = || run("ip", &["-n", "not-yet", "link", "show", &nic.vf(1)]).is_ok();
    let through_modes = || {
        for (config, wanted) in [(&legacy, "legacy"), (&declared, "switchdev")] {
            daemon.configure(config)?;
            daemon.ctl(&["reload"])?;
            wait_until(&format!("mode {wanted}, and the VF is in its namespace"), MENDED_WITHIN, || {
                Ok(mode(&nic.devlink())? == wanted && is_there())
            })?;
        }
        wait_until("the port is on its bridge again", MENDED_WITHIN, || {
            Ok(on_bridge()? && is_up(&representor)?)
        })
    };
    let outcome = mended.and_then(|()| deviate()).and_then(|()| through_modes());
    run("ip", &["netns", "delete", "not-yet"])?;
    outcome?;
    ensure!(mode(&other.devlink())? == "legacy" && !exists(&other.vf(0)), "the other NIC was touched");
    daemon.signal("TERM")?;
    ensure!(mode(&nic.devlink())? == "switchdev", "it did not stay");
    Ok(())
}
