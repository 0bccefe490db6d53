//! Tunnels of two types between the same two hosts, which one IKE SA carries.

use lab_tests::harness::{Lab, Outcome, wait_until};

use super::entries::{INNER, second_tunnel, shown};
use super::hosts::{DONE_WITHIN, Hosts};

pub(super) fn tunnels_of_two_types_between_the_same_hosts_are_both_encrypted(lab: &mut Lab) -> Outcome {
    let hosts = Hosts::new(lab, ["172.31.0.1", "172.31.0.2"], "")?;
    for ((host, peer), inner) in hosts.both().into_iter().zip(INNER) {
        second_tunnel(host, [host.outer, peer.outer], inner)?;
    }
    hosts.tunnel("geneve", &["options:psk=swordfish"])?;
    let are_both_up = || -> Outcome {
        hosts.are_up()?;
        for (host, _) in hosts.both() {
            wait_until(&format!("tun1 is up at {}", host.outer), DONE_WITHIN, || {
                Ok(shown(host, "tun1")?["state"] == "up")
            })
            .map_err(|failure| hosts.explained(&failure))?;
        }
        hosts.reach_each_other()?;
        wait_until("the second tunnel passes", DONE_WITHIN, || Ok(hosts.left.netns.pings(INNER[1])))
            .map_err(|failure| hosts.explained(&failure))
    };
    are_both_up()?;
    // Of five pings and their answers.
    hosts.so_much_esp_while(lab, "both", 8, || {
        hosts.reach_each_other()?;
        hosts.left.netns.run(&["ping", "-c", "3", "-W", "10", INNER[1]]).map(drop)
    })?;

    // One goes, and the other stays or comes back; nothing of the one is left.
    for (host, _) in hosts.both() {
        host.ovs.vsctl(&["del-br", "br1"])?;
    }
    for (host, _) in hosts.both() {
        wait_until(&format!("nothing is left of tun1 at {}", host.outer), DONE_WITHIN, || {
            let sas = host.charon.swanctl(&["--list-sas"])?;
            let conns = host.charon.swanctl(&["--list-conns"])?;
            Ok(host.policies(4789)? == 0
                && !sas.contains("-vxlan-4789-to-")
                && !conns.contains("-vxlan-4789-to-"))
        })
        .map_err(|failure| hosts.explained(&failure))?;
    }
    hosts.are_up()?;
    hosts.reach_each_other()?;
    hosts.are_private(lab, "one")
}
