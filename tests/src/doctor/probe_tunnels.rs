//! `doctor --probe` of a NIC with tunnels: into them, and out of them at the tunnels' own devices.

use lab_tests::ensure;
use lab_tests::harness::{Lab, Netns, Outcome, Ovs, Simnic, run, wait_until};
use serde_json::Value;

use super::probe::{outcome, probe};
use crate::faults::scene::SETTLES_WITHIN;

const DEVICES: [&str; 2] = ["genev_sys_6081", "vxlan_sys_4789"];

/// NIC 0 with its uplink in the underlay and the representors of its VFs on br0, wired to a host with the other ends.
struct Scene {
    ovs: Ovs,
    nic: Simnic,
    _remote_nic: Simnic,
    _remote: Netns,
}

impl Scene {
    fn up(lab: &mut Lab) -> Outcome<Self> {
        let (nic, remote_nic) = (Simnic::new(0, 2)?, Simnic::new(1, 0)?);
        nic.wire(&remote_nic)?;
        nic.set_mode("switchdev")?;
        let remote = Netns::new(lab, "remote")?;
        remote.adopt(&remote_nic.uplink(), "172.31.0.2/24")?;
        run("ip", &["address", "add", "172.31.0.1/24", "dev", "sn0p0"])?;
        for device in ["sn0p0", "sn0pf0vf0", "sn0pf0vf1"] {
            run("ip", &["link", "set", device, "up"])?;
        }
        let ovs = Ovs::for_steering(lab)?;
        ovs.vsctl(&[
            "add-br",
            "br0",
            "--",
            "add-port",
            "br0",
            "sn0pf0vf0",
            "--",
            "add-port",
            "br0",
            "sn0pf0vf1",
        ])?;
        Ok(Self { ovs, nic, _remote_nic: remote_nic, _remote: remote })
    }

    fn tunnel(&self, name: &str, kind: &str, remote: &str) -> Outcome {
        let (kind, remote) = (format!("type={kind}"), format!("options:remote_ip={remote}"));
        let port = ["add-port", "br0", name, "--", "set", "Interface", name, &kind, &remote];
        self.ovs.vsctl(&[&port[..], &["options:key=flow"]].concat()).map(drop)
    }
}

fn says(matrix: &Value, id: &str, expected: &str, words: &str) -> Outcome {
    let (outcome, text) = outcome(matrix, id)?;
    ensure!(outcome == expected && text.contains(words), "{id} is {outcome}: {text}");
    Ok(())
}

pub(super) fn a_probe_tells_what_a_driver_takes_of_tunnels_and_leaves_nothing_at_their_devices(
    lab: &mut Lab,
) -> Outcome {
    const WORDS: &str = "this firmware reads no options";
    let scene = Scene::up(lab)?;
    // To nowhere that this NIC leads to: that would be refused for the way, and not for what is tried.
    scene.tunnel("gnv0", "geneve", "192.0.2.77")?;
    wait_until("the tunnel's device has its qdisc", SETTLES_WITHIN, || {
        Ok(run("tc", &["qdisc", "show", "dev", DEVICES[0]])?.contains("ingress"))
    })?;
    let matrix = probe(&scene.ovs)?;
    says(&matrix, "tunnel set geneve", "not_tried", "leave by this NIC")?;
    says(&matrix, "tun.dst_port", "taken", "")?;
    says(&matrix, "tun.gbp", "not_tried", "no VXLAN device")?;

    scene.ovs.vsctl(&["set", "Interface", "gnv0", "options:remote_ip=172.31.0.2"])?;
    scene.tunnel("vx0", "vxlan", "172.31.0.2")?;
    wait_until("the other tunnel's device has its qdisc", SETTLES_WITHIN, || {
        Ok(run("tc", &["qdisc", "show", "dev", DEVICES[1]])?.contains("ingress"))
    })?;
    let matrix = probe(&scene.ovs)?;
    for taken in [
        "tun.dst_port",
        "tun.tos",
        "tun.ttl",
        "tun.src masked",
        "tun over ip6",
        "tun.geneve, one option",
        "tun.geneve, two options",
        "tun.gbp",
        "tunnel set geneve",
        "tunnel set geneve, one option",
        "tunnel set geneve, two options",
        "tunnel set vxlan",
        "tunnel set tos",
        "tunnel set csum",
        "tunnel unset",
        "route, tunnel set, output",
        "mirror, tunnel set, output",
    ] {
        says(&matrix, taken, "taken", "")?;
    }
    says(&matrix, "tunnel set over ip6", "not_tried", "leave by this NIC")?;

    scene.nic.set("refuse", &format!("match enc_opts {WORDS}"))?;
    let matrix = probe(&scene.ovs)?;
    says(&matrix, "tun.geneve, one option", "refused", WORDS)?;
    says(&matrix, "tun.dst_port", "taken", "")?;
    for device in DEVICES {
        let left = run("tc", &["filter", "show", "dev", device, "ingress"])?;
        ensure!(!left.contains("0x6f767062"), "{device} has {left}");
    }
    ensure!(!scene.nic.rules()?.contains("chain 268435440"), "the NIC has {}", scene.nic.rules()?);
    Ok(())
}
