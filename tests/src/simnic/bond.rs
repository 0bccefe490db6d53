//! Two NICs of one card, their uplinks in a bond.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::frame::frame;
use super::functions::words;
use super::life::{SHOWS_WITHIN, attribute};
use super::rig::{receive, tc, tc_refused, up};
use crate::harness::{Lab, Outcome, Simnic, ensure, run, wait_until};
use crate::io::packet_socket::PacketSocket;

/// NICs 0 and 2 of one card in switchdev mode, wired to 1 and 3; the uplinks are in `bond0`, of which 0 is active.
#[derive(Debug)]
struct Card {
    nics: [Simnic; 2],
    remotes: [Simnic; 2],
    bond: Bond,
}

#[derive(Debug)]
struct Bond;

impl Drop for Bond {
    fn drop(&mut self) {
        // Gone already, perhaps.
        let _ = run("ip", &["link", "delete", "bond0"]);
    }
}

impl Card {
    fn new() -> Outcome<Self> {
        let nics = [Simnic::new(0, 2)?, Simnic::on_card(2, 0)?];
        let remotes = [Simnic::new(1, 0)?, Simnic::new(3, 0)?];
        run("modprobe", &["bonding", "max_bonds=0"])?;
        words("ip", "link add bond0 type bond mode active-backup miimon 20")?;
        let card = Self { nics, remotes, bond: Bond };
        for (nic, remote) in card.nics.iter().zip(&card.remotes) {
            nic.wire(remote)?;
            nic.set_mode("switchdev")?;
            up(&[remote.uplink()])?;
            words("ip", &format!("link set {} master bond0", nic.uplink()))?;
        }
        up(&["sn0p0", "sn2p0", "bond0", "sn0pf0vf0", "sn0v0", "sn0pf0vf1", "sn0v1"].map(str::to_owned))?;
        card.is_active("sn0p0")?;
        tc("qdisc add dev sn0pf0vf0 clsact")?;
        Ok(card)
    }

    fn is_active(&self, uplink: &str) -> Outcome {
        wait_until(&format!("{uplink} is the active one"), SHOWS_WITHIN, || {
            Ok(attribute("bond0", "bonding/active_slave")? == uplink)
        })
    }
}

const REDIRECT: &str =
    "filter add dev sn0pf0vf0 ingress protocol ip flower skip_sw action mirred egress redirect dev";

/// What is sent to the bond, or to an uplink in it, leaves by the active one; a shared block is in both tables.
pub(super) fn a_bond_of_one_card_forwards_by_the_uplink_it_transmits_on(_: &mut Lab) -> Outcome {
    let card = Card::new()?;
    ensure!(attribute("sn0p0", "phys_switch_id")? == attribute("sn2p0", "phys_switch_id")?, "two switch IDs");
    tc(&format!("{REDIRECT} bond0"))?;
    let vf = PacketSocket::open("sn0v0")?;
    let [first, second] = [PacketSocket::open("sn1p0")?, PacketSocket::open("sn3p0")?];
    // A bond has its active member before it tells the NIC.
    let leaves_by = |remote: &PacketSocket| {
        wait_until("what the VF sends leaves by the active one", SHOWS_WITHIN, || {
            vf.send(&frame().encode(0))?;
            receive(remote, 1)?;
            Ok(true)
        })
    };
    leaves_by(&first)?;
    receive(&second, 0)?;
    card.nics[0].set("link", "0")?;
    card.is_active("sn2p0")?;
    leaves_by(&second)?;
    // A rule to an uplink is one to the bond.
    tc("filter delete dev sn0pf0vf0 ingress")?;
    tc(&format!("{REDIRECT} sn0p0"))?;
    vf.send(&frame().encode(0))?;
    receive(&second, 1)?;
    card.nics[0].set("link", "1")?;
    wait_until("the first has carrier", SHOWS_WITHIN, || Ok(attribute("sn0p0", "carrier")? == "1"))?;
    words("ip", "link set bond0 type bond active_slave sn0p0")?;
    card.is_active("sn0p0")?;
    leaves_by(&first)?;

    for uplink in ["sn0p0", "sn2p0"] {
        tc(&format!("qdisc add dev {uplink} ingress_block 22 clsact"))?;
    }
    tc("filter add block 22 protocol ip flower skip_sw action mirred egress redirect dev sn0pf0vf0")?;
    let shown = tc("filter show block 22")?;
    ensure!(shown.contains("in_hw_count 2"), "{shown}");
    for remote in [&first, &second] {
        remote.send(&frame().encode(0))?;
        receive(&vf, 1)?;
    }
    ensure!(card.nics[1].rules()?.contains("port p0 chain 0"), "{}", card.nics[1].rules()?);
    // A bond with something else in it is software's.
    words("ip", "link add veth8 type veth peer name veth9")?;
    words("ip", "link set veth8 master bond0")?;
    tc("filter delete dev sn0pf0vf0 ingress")?;
    let said = tc_refused(&format!("{REDIRECT} bond0"));
    words("ip", "link delete veth8")?;
    ensure!(said?.contains("this card's uplinks alone"), "no reason");
    Ok(())
}

/// A rule that sends to the other NIC goes with that NIC, whatever flows.
pub(super) fn a_card_loses_one_of_its_nics_under_traffic(_: &mut Lab) -> Outcome {
    let Card { nics: [nic, second], remotes, bond } = Card::new()?;
    tc(&format!("{REDIRECT} sn2p0"))?;
    let (stop, vf) = (AtomicBool::new(false), PacketSocket::open("sn0v0")?);
    thread::scope(|scope| {
        scope.spawn(|| {
            let bytes = frame().encode(0);
            while !stop.load(Ordering::Relaxed) {
                // A full queue refuses: the flood goes on until it is told to stop.
                let _ = vf.send(&bytes);
            }
        });
        let flows = wait_until("traffic flows", SHOWS_WITHIN, || {
            Ok(nic.rules()?.split("packets ").nth(1).is_some_and(|rest| !rest.starts_with("0 ")))
        });
        drop(second);
        stop.store(true, Ordering::Relaxed);
        flows
    })?;
    ensure!(nic.rules()?.is_empty(), "a rule is left: {}", nic.rules()?);
    drop((bond, remotes));
    Ok(())
}
