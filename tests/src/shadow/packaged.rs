//! The packaged units of daemon and guard, run by systemd with all of their sandboxes.

use std::fs;

use lab_tests::harness::{Demo, Failure, Lab, Outcome, Ovs, Systemd, ensure, program, wait_for, wait_until};

use super::guard::{before, stay};
use super::scene::{EAGER, SETTLES_WITHIN, Traffic, nothing_left, one_megaflow_each};

const DAEMON: &str = "ovs-offloadd.service";
const DAEMON_TEXT: &str = include_str!("../../../packaging/ovs-offloadd.service");
const GUARD: &str = "ovs-offload-guard.service";
const GUARD_TEXT: &str = include_str!("../../../packaging/ovs-offload-guard.service");
/// However slow the guest is, a daemon starts within this grace time.
const PATIENT: &str = "ovs-offload-guard.service.d/patient.conf";
const PATIENT_TEXT: &str = "[Service]\nExecStart=\n\
    ExecStart=/usr/sbin/ovs-offload-guard --lease \"30 s\" --grace \"60 s\"\n";
const FLOWS: u16 = 4;
const CAP_NET_ADMIN: &str = "0000000000001000";

pub(super) fn the_guard_survives_what_kills_the_daemon_and_is_started_again_when_it_is_killed(
    lab: &mut Lab,
) -> Outcome {
    let ovs = Ovs::start(lab, &["hw-offload=false", "max-idle=600000"])?;
    let demo = Demo::up(&ovs)?;
    one_megaflow_each(&ovs, FLOWS, "output:sn0pf0vf1")?;
    let traffic = Traffic::start(&demo, FLOWS, 200)?;
    let config = lab.dir().join("packaged.toml");
    fs::write(&config, EAGER.replace("shadow.guard = \"none\"\n", ""))?;
    let (daemon, guard, ctl) =
        (program("ovs-offloadd")?, program("ovs-offload-guard")?, program("ovs-offloadctl")?);
    let files = [
        ("/usr/sbin/ovs-offloadd", &*daemon),
        ("/usr/sbin/ovs-offload-guard", &guard),
        ("/usr/bin/ovs-offloadctl", &ctl),
        ("/etc/ovs-offloadd.toml", &config),
    ];
    let units = [(DAEMON, DAEMON_TEXT), (GUARD, GUARD_TEXT), (PATIENT, PATIENT_TEXT)];
    let systemd = Systemd::start(lab, ovs.rundir(), &units, &files)?;
    let verify = format!("systemd-analyze verify --man=no /run/lab-units/{GUARD} 2>&1");
    let said = systemd.run("sh", &["-c", &verify])?;
    ensure!(said.is_empty(), "systemd-analyze verify says {said}");

    systemd.ctl("start", DAEMON)?;
    let there = before()?;
    let guard = systemd.main_pid(GUARD)?;
    let status = systemd.proc(guard, "status")?;
    for set in ["CapBnd", "CapEff", "CapPrm"] {
        ensure!(status.contains(&format!("{set}:\t{CAP_NET_ADMIN}\n")), "{set} is another: {status}");
    }
    ensure!(status.contains("Seccomp:\t2\n"), "it is not confined: {status}");
    let memory = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap_or_default();
    println!("    the guard's memory: {memory}");

    // All that is in the daemon's unit.
    let daemon = systemd.main_pid(DAEMON)?;
    systemd.run("systemctl", &["kill", "--signal=KILL", DAEMON])?;
    stay("the daemon's unit was killed", &there)?;
    ensure!(systemd.main_pid(GUARD)? == guard, "the guard is another process: {}", systemd.log(GUARD)?);
    // It is another one by then, with its own picture of what is there.
    wait_for("another daemon has taken over", SETTLES_WITHIN, || {
        let status = systemd.run("ovs-offloadctl", &["status", "--output", "json"])?;
        let status: serde_json::Value = serde_json::from_str(&status)?;
        let hardware = &status["flows"]["hardware"];
        if systemd.main_pid(DAEMON)? != daemon && hardware.as_u64() >= Some(u64::from(FLOWS)) {
            return Ok(Some(()));
        }
        Err(Failure::new(format!("{hardware} flows are in hardware: {}", systemd.log(DAEMON)?)))
    })?;
    stay("another daemon has taken over", &there)?;

    let there = before()?;
    systemd.run("systemctl", &["kill", "--signal=KILL", GUARD])?;
    wait_for("another guard is there", SETTLES_WITHIN, || {
        let pid = systemd.main_pid(GUARD)?;
        Ok((pid != guard && pid != 0).then_some(()))
    })?;
    stay("the guard was killed", &there)?;

    systemd.ctl("stop", DAEMON)?;
    wait_until("the end of the daemon leaves no rule", SETTLES_WITHIN, || Ok(nothing_left().is_ok()))?;
    systemd.ctl("stop", GUARD)?;
    traffic.sender.stop()?;
    traffic.receiver.finish().map(drop)
}
