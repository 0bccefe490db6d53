//! Health reporters, reload, resources.

use std::fs;

use super::frame::frame;
use super::functions::{refusal, words};
use super::life::{SHOWS_WITHIN, attribute, exists};
use super::rig::{Rig, receive, tc_refused};
use crate::harness::{Lab, Outcome, Simnic, ensure, wait_until};
use crate::io::packet_socket::PacketSocket;

fn ifindex(device: &str) -> Outcome<u32> {
    Ok(attribute(device, "ifindex")?.parse()?)
}

fn reporter(nic: &Simnic, port: &str, name: &str) -> Outcome<String> {
    words("devlink", &format!("health show {}{port} reporter {name}", nic.devlink()))
}

/// An error in the firmware fails what the firmware does; recovery makes representors anew and loses the rules.
pub(super) fn recovery_of_the_firmware_resets_the_eswitch(_: &mut Lab) -> Outcome {
    let rig = Rig::new()?;
    let nic = &rig.nic;
    words("devlink", "health set simnic/simnic0 reporter fw auto_recover false")?;
    rig.filter_on(&nic.uplink(), "protocol ip flower skip_sw action drop")?;
    let (uplink, rep, vf) = (ifindex(&nic.uplink())?, ifindex(&nic.representor(0))?, ifindex(&nic.vf(0))?);
    nic.set("health", "fw assertion failed at 0x1234")?;
    let shown = reporter(nic, "", "fw")?;
    ensure!(shown.contains("state error error 1 recover 0"), "{shown}");
    let said = tc_refused(&rig.named("filter add dev REP0 ingress protocol ip flower skip_sw action drop"))?;
    ensure!(said.contains("firmware does not answer"), "{said}");
    ensure!(nic.set_mode("legacy").is_err(), "the eswitch mode changed");
    nic.set("fail", "health_recover 1 110 reset timed out")?;
    let recover = "health recover simnic/simnic0 reporter fw";
    ensure!(refusal("devlink", recover)?.contains("reset timed out"), "no text");
    words("devlink", recover)?;
    let shown = reporter(nic, "", "fw")?;
    ensure!(shown.contains("state healthy error 1 recover 1"), "{shown}");
    ensure!(nic.rules()?.is_empty(), "rules are left");
    ensure!(ifindex(&nic.representor(0))? > rep, "the representor is the old one");
    ensure!((ifindex(&nic.uplink())?, ifindex(&nic.vf(0))?) == (uplink, vf), "uplink or VF went, too");

    words("devlink", "health set simnic/simnic0 reporter fw auto_recover true")?;
    nic.set("health", "fw once more")?;
    let shown = reporter(nic, "", "fw")?;
    ensure!(shown.contains("state healthy error 2 recover 2"), "{shown}");
    ensure!(nic.set("health", "hw burnt").is_err(), "an unknown reporter");
    Ok(())
}

/// While the uplink's transmitter hangs nothing leaves; after recovery it does.
pub(super) fn a_hung_transmitter_drops_until_it_recovers(_: &mut Lab) -> Outcome {
    let rig = Rig::new()?;
    rig.filter(0, "protocol ip flower skip_sw action mirred egress redirect dev UPLINK")?;
    let (vf, remote) = (rig.vf(0)?, PacketSocket::open(&rig.remote.uplink())?);
    words("devlink", "health set simnic/simnic0/0 reporter tx auto_recover false")?;
    rig.nic.set("health", "tx queue 0 timed out")?;
    ensure!(reporter(&rig.nic, "/0", "tx")?.contains("state error error 1 recover 0"), "healthy");
    vf.send(&frame().encode(0))?;
    wait_until("the loss is counted", SHOWS_WITHIN, || Ok(rig.uplink_count("drop_queue_packets")? == 1))?;
    words("devlink", "health recover simnic/simnic0/0 reporter tx")?;
    vf.send(&frame().encode(0))?;
    receive(&remote, 1).map(drop)
}

/// A reload makes uplink and representors anew, loses rules and SFs, keeps mode and VFs, and applies the table's size.
pub(super) fn a_reload_makes_all_ports_anew(_: &mut Lab) -> Outcome {
    let rig = Rig::new()?;
    let nic = &rig.nic;
    rig.filter_on(&nic.uplink(), "protocol ip flower skip_sw action drop")?;
    words("devlink", "port add simnic/simnic0 flavour pcisf pfnum 0 sfnum 1")?;
    let resource = "resource show simnic/simnic0";
    let shown = words("devlink", resource)?;
    ensure!(shown.contains("name rules size 65536 occ 1 unit entry"), "{shown}");
    words("devlink", "resource set simnic/simnic0 path rules size 1000")?;
    let (uplink, rep, vf) = (ifindex(&nic.uplink())?, ifindex(&nic.representor(2))?, ifindex(&nic.vf(2))?);
    words("devlink", "dev reload simnic/simnic0")?;
    ensure!(
        ifindex(&nic.uplink())? > uplink && ifindex(&nic.representor(2))? > rep,
        "netdevs are the old ones"
    );
    ensure!(ifindex(&nic.vf(2))? == vf && !exists("sn0pf0sf1"), "the VF went, or the SF stayed");
    ensure!(nic.rules()?.is_empty(), "rules are left");
    ensure!(
        attribute(&nic.uplink(), "phys_switch_id")? == attribute(&nic.representor(0), "phys_switch_id")?,
        "switch ID"
    );
    let shown = words("devlink", resource)?;
    ensure!(shown.contains("name rules size 1000 occ 0"), "{shown}");

    nic.set("fail", "reload_down 1 16 not now")?;
    ensure!(refusal("devlink", "dev reload simnic/simnic0")?.contains("not now"), "no text");
    ensure!(exists(&nic.uplink()), "a refused reload took the uplink");
    nic.set("fail", "reload_up 1 5 firmware lost")?;
    ensure!(refusal("devlink", "dev reload simnic/simnic0")?.contains("firmware lost"), "no text");
    ensure!(!exists(&nic.uplink()) && exists(&nic.vf(2)), "a reload that failed half-way");
    let shown = words("devlink", "dev reload simnic/simnic0 action fw_activate")?;
    ensure!(shown.contains("driver_reinit fw_activate"), "{shown}");
    super::rig::up(&[nic.uplink(), nic.representor(2)])?;
    wait_until("the VF has link again", SHOWS_WITHIN, || Ok(attribute(&nic.vf(2), "carrier")? == "1"))
}

/// Reloads and recoveries go on while traffic does.
pub(super) fn a_nic_reloads_under_traffic(_: &mut Lab) -> Outcome {
    let rig = Rig::new()?;
    let nic = &rig.nic;
    let stop = std::sync::atomic::AtomicBool::new(false);
    let (vf, remote) = (rig.vf(0)?, PacketSocket::open(&rig.remote.uplink())?);
    std::thread::scope(|scope| {
        for socket in [vf, remote] {
            let stop = &stop;
            scope.spawn(move || {
                let bytes = frame().encode(0);
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    // Without carrier it is refused: the flood goes on until it is told to stop.
                    let _ = socket.send(&bytes);
                }
            });
        }
        let churn = (0..4).try_for_each(|round| {
            if round > 0 {
                super::rig::up(&[nic.uplink(), nic.representor(0), nic.representor(1)])?;
                super::rig::tc(&rig.named("qdisc add dev REP0 clsact"))?;
                super::rig::tc(&rig.named(&format!(
                    "qdisc {} dev UPLINK clsact",
                    if round % 2 == 0 { "replace" } else { "add" }
                )))?;
            }
            let redirect = "protocol ip flower skip_sw action mirred egress redirect dev";
            rig.filter(0, &format!("{redirect} UPLINK"))?;
            rig.filter_on(&nic.uplink(), &format!("{redirect} REP1"))?;
            match round % 2 {
                0 => words("devlink", "dev reload simnic/simnic0").map(drop),
                _ => {
                    nic.set("health", "fw assertion failed")?;
                    ensure!(nic.rules()?.is_empty(), "rules are left");
                    super::rig::tc(&rig.named("filter delete dev UPLINK ingress")).map(drop)
                }
            }
        });
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        churn
    })?;
    ensure!(fs::exists("/sys/bus/simnic/devices/simnic0")?, "the NIC is gone");
    Ok(())
}
