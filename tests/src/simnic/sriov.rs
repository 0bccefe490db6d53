//! VFs that come, go, and lose and find their driver.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::frame::frame;
use super::life::{SHOWS_WITHIN, attribute, exists};
use super::rig::{Rig, receive};
use crate::harness::{Failure, Lab, Outcome, Simnic, ensure, run, wait_until};

fn refused_with(outcome: Outcome, errno: i32) -> Outcome {
    let wanted = format!("os error {errno})");
    match outcome {
        Ok(()) => Err(Failure::new(format!("accepted, not refused with {wanted}"))),
        Err(failure) => {
            ensure!(failure.to_string().contains(&wanted), "not {wanted}: {failure}");
            Ok(())
        }
    }
}

fn read(path: &str) -> Outcome<String> {
    Ok(fs::read_to_string(path)?.trim().to_owned())
}

/// `sriov_numvfs` goes from 0 to n and back, with what it answers on PCI, and representors follow.
pub(super) fn sriov_numvfs_makes_and_removes_vfs_with_their_representors(_: &mut Lab) -> Outcome {
    let nic = Simnic::with_total_vfs(0, 4)?;
    nic.set_mode("switchdev")?;
    ensure!(!exists(&nic.vf(0)) && !exists(&nic.representor(0)), "a VF that nobody enabled");
    nic.enable_vfs(3)?;
    for vf in 0..3 {
        ensure!(exists(&nic.vf(vf)) && exists(&nic.representor(vf)), "VF {vf} is missing");
        let physfn = fs::canonicalize(format!("/sys/class/net/{}/device/physfn", nic.vf(vf)))?;
        ensure!(physfn == fs::canonicalize(nic.device())?, "physfn is {}", physfn.display());
        let virtfn = fs::canonicalize(format!("{}/virtfn{vf}", nic.device()))?;
        ensure!(virtfn.ends_with(nic.vf_device(vf)), "virtfn{vf} is {}", virtfn.display());
    }
    ensure!(!exists(&nic.vf(3)) && !exists(&nic.representor(3)), "a VF too many");
    refused_with(nic.enable_vfs(2), 16)?;
    refused_with(nic.enable_vfs(5), 34)?;
    nic.enable_vfs(3)?;
    ensure!(read(&format!("{}/sriov_numvfs", nic.device()))? == "3", "sriov_numvfs");
    ensure!(read(&format!("{}/sriov_totalvfs", nic.device()))? == "4", "sriov_totalvfs");

    nic.enable_vfs(0)?;
    let ports = run("devlink", &["port", "show"])?;
    ensure!(ports.lines().count() == 1, "ports are left: {ports}");
    for vf in 0..3 {
        ensure!(!exists(&nic.vf(vf)) && !exists(&nic.representor(vf)), "VF {vf} is left");
        ensure!(!Path::new(&format!("{}/virtfn{vf}", nic.device())).exists(), "virtfn{vf} is left");
    }
    fs::write(format!("{}/sriov_drivers_autoprobe", nic.device()), "0")?;
    nic.enable_vfs(4)?;
    ensure!(!exists(&nic.vf(3)) && exists(&nic.representor(3)), "the VF was bound all the same");
    nic.bind_vf(3)?;
    ensure!(exists(&nic.vf(3)), "no netdev although the VF is bound");
    Ok(())
}

/// Without its driver a VF has no netdev but its representor; bound again it has the address it was given meanwhile.
pub(super) fn a_vf_that_is_bound_anew_takes_the_address_it_was_given(_: &mut Lab) -> Outcome {
    let rig = Rig::new()?;
    rig.filter(0, "protocol ip flower skip_sw action mirred egress redirect dev REP1")?;
    rig.nic.unbind_vf(1)?;
    ensure!(!exists(&rig.nic.vf(1)) && exists(&rig.nic.representor(1)), "unbound");
    rig.vf(0)?.send(&frame().encode(0))?;
    wait_until("the loss is counted", SHOWS_WITHIN, || Ok(rig.count(1, "drop_link_packets")? == 1))?;
    let port = format!("{}/2", rig.nic.devlink());
    run("devlink", &["port", "function", "set", &port, "hw_addr", "02:11:22:33:44:66"])?;
    rig.nic.bind_vf(1)?;
    ensure!(attribute(&rig.nic.vf(1), "address")? == "02:11:22:33:44:66", "the VF's address");
    super::rig::up(&[rig.nic.vf(1)])?;
    let out = rig.vf(1)?;
    rig.vf(0)?.send(&frame().encode(0))?;
    receive(&out, 1).map(drop)
}

/// VFs are disabled, unbound and enabled again while they send and rules name them.
pub(super) fn vfs_come_and_go_under_traffic(_: &mut Lab) -> Outcome {
    let rig = Rig::new()?;
    let (stop, uplink) = (AtomicBool::new(false), rig.nic.uplink());
    let redirect = "protocol ip flower skip_sw action mirred egress redirect dev REP1";
    thread::scope(|scope| {
        let (to_wire, to_vf) =
            (rig.vf(0)?, crate::io::packet_socket::PacketSocket::open(&rig.remote.uplink())?);
        for socket in [to_wire, to_vf] {
            let stop = &stop;
            scope.spawn(move || {
                let bytes = frame().encode(0);
                // A device that is down or gone refuses: the flood goes on until it is told to stop.
                while !stop.load(Ordering::Relaxed) {
                    let _ = socket.send(&bytes);
                }
            });
        }
        let churn = (0..3).try_for_each(|_| {
            rig.filter_on(&uplink, redirect)?;
            rig.filter(0, redirect)?;
            rig.nic.unbind_vf(1)?;
            rig.nic.bind_vf(1)?;
            rig.nic.enable_vfs(0)?;
            // The rule on the uplink is still there, and redirects to a port without a VF.
            ensure!(rig.nic.rules()?.lines().count() == 1, "{}", rig.nic.rules()?);
            rig.nic.enable_vfs(3)?;
            super::rig::up(
                &(0..3).flat_map(|vf| [rig.nic.vf(vf), rig.nic.representor(vf)]).collect::<Vec<_>>(),
            )?;
            super::rig::tc(&format!("filter delete dev {uplink} ingress"))?;
            super::rig::tc(&rig.named("qdisc add dev REP0 clsact")).map(drop)
        });
        stop.store(true, Ordering::Relaxed);
        churn
    })
}

/// As many VFs as a NIC takes.
pub(super) fn all_256_vfs_come_and_go(_: &mut Lab) -> Outcome {
    let nic = Simnic::with_total_vfs(0, 256)?;
    nic.set_mode("switchdev")?;
    nic.enable_vfs(256)?;
    let addresses: Result<std::collections::BTreeSet<_>, _> =
        (0..256).map(|vf| attribute(&nic.vf(vf), "address")).collect();
    ensure!(addresses?.len() == 256, "VFs share an address");
    ensure!(attribute(&nic.representor(255), "phys_port_name")? == "pf0vf255", "the last representor's name");
    nic.enable_vfs(0)?;
    ensure!(!exists(&nic.vf(255)) && !exists(&nic.representor(0)), "netdevs are left");
    Ok(())
}
