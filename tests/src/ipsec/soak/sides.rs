//! The two sides of the comparison: charon at both ends at the daemon's word, and at that of an operator, who has no daemon.

use std::fs;
use std::time::Duration;

use lab_tests::ensure;
use lab_tests::harness::{Lab, Outcome, Simnic, run, wait_until};

use super::wire::{Flow, Watch};
use crate::ipsec::hosts::{DONE_WITHIN, Host, Hosts};

const OUTER: [&str; 2] = ["172.31.0.1", "172.31.0.2"];
/// The name of the connection of who has no daemon.
const BY_HAND: &str = "tun";
/// The longest that is waited for a charon alone to bring packets back.
const BACK_WITHIN: Duration = Duration::from_secs(10);

/// At whose word charon makes security associations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Driven,
    Alone,
}

impl Side {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Driven => "driven by the daemon",
            Self::Alone => "charon alone",
        }
    }
}

/// An end of the tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Left,
    Right,
}

impl End {
    pub(super) fn of(turn: usize) -> Self {
        if turn.is_multiple_of(2) { Self::Left } else { Self::Right }
    }
}

/// Two hosts with a Geneve tunnel that both NICs encrypt in mode packet, and a watch on the wire.
pub(super) struct Scene {
    pub(super) hosts: Hosts,
    pub(super) watch: Watch,
    pub(super) side: Side,
    /// What charon calls it at each end.
    connections: [String; 2],
}

impl Scene {
    pub(super) fn up(lab: &mut Lab, side: Side) -> Outcome<Self> {
        let mut hosts = Hosts::with_nics(lab, OUTER, "")?;
        if side == Side::Alone {
            hosts.left.daemon.signal("KILL")?;
            hosts.right.daemon.signal("KILL")?;
        }
        for (host, peer) in hosts.both() {
            is_quiet(host, peer)?;
        }
        hosts.tunnel("geneve", &[])?;
        // The watch would see it.
        let watch = Watch::start(lab, &hosts, "unprotected")?;
        Flow::start(&hosts)?.stop()?;
        let seen = watch.stop()?;
        ensure!(seen > 0, "the watch does not see what is in the clear");
        match side {
            Side::Driven => {
                for (host, _) in hosts.both() {
                    host.set(&["options:psk=swordfish", "options:ipsec_nic-offload=packet"])?;
                }
                hosts.are_up()?;
            }
            Side::Alone => {
                for (host, peer) in hosts.both() {
                    write_by_hand(lab, host, peer)?;
                    load_by_hand(lab, host)?;
                }
                initiate_by_hand(&hosts.left)?;
            }
        }
        hosts.reach_each_other()?;
        let watch = Watch::start(lab, &hosts, "protected")?;
        let name = |host: &Host| -> Outcome<String> {
            let shown = if side == Side::Driven { host.tunnel()? } else { None };
            let name = shown.as_ref().and_then(|shown| shown["connection"].as_str());
            Ok(name.unwrap_or(BY_HAND).to_owned())
        };
        let connections = [name(&hosts.left)?, name(&hosts.right)?];
        let scene = Self { hosts, watch, side, connections };
        scene.is_in_hardware()?;
        Ok(scene)
    }

    /// Each way of the tunnel has two security associations in each NIC.
    fn is_in_hardware(&self) -> Outcome {
        for nic in self.hosts.nics()? {
            wait_until("the NIC has the security associations", DONE_WITHIN, || {
                Ok(nic.shown("sas")?.lines().count() >= 4)
            })?;
        }
        Ok(())
    }

    fn host(&self, end: End) -> &Host {
        match end {
            End::Left => &self.hosts.left,
            End::Right => &self.hosts.right,
        }
    }

    fn host_mut(&mut self, end: End) -> &mut Host {
        match end {
            End::Left => &mut self.hosts.left,
            End::Right => &mut self.hosts.right,
        }
    }

    /// Has a child negotiated anew by this end, and waits until both kernels have what came of it.
    pub(super) fn rekey(&self, end: End, way: &str) -> Outcome {
        let connection = &self.connections[end as usize];
        let mut before = Vec::new();
        for (host, _) in self.hosts.both() {
            before.push(host.spis()?);
        }
        self.host(end).charon.swanctl(&["--rekey", "--child", &format!("{connection}-{way}")])?;
        for ((host, _), before) in self.hosts.both().into_iter().zip(&before) {
            wait_until("a child is rekeyed", DONE_WITHIN, || {
                Ok(host.spis()?.iter().filter(|spi| !before.contains(spi)).count() >= 2)
            })
            .map_err(|failure| self.hosts.explained(&failure))?;
        }
        Ok(())
    }

    /// The NIC's driver starts anew, as after a failure of its firmware, and the host's network is configured again as it was.
    pub(super) fn reset_nic(&self, end: End) -> Outcome {
        let nic: &Simnic = &self.hosts.nics()?[end as usize];
        run("devlink", &["dev", "reload", &nic.devlink()])?;
        let host = self.host(end);
        host.netns.adopt(&nic.uplink(), &format!("{}/24", host.outer))
    }

    /// Charon is killed and started again. Where there is no daemon its configuration is loaded and what is in it initiated, as
    /// `start_action = trap|start` does: the security associations of the one that was killed would be used for minutes.
    pub(super) fn restart_charon(&mut self, lab: &Lab, end: End) -> Outcome {
        self.host_mut(end).charon.kill_and_restart()?;
        match self.side {
            Side::Driven => Ok(()),
            Side::Alone => {
                load_by_hand(lab, self.host(end))?;
                initiate_by_hand(self.host(end))
            }
        }
    }

    /// The daemon is killed and started again.
    pub(super) fn restart_daemon(&mut self, end: End) -> Outcome {
        let daemon = &mut self.host_mut(end).daemon;
        daemon.signal("KILL")?;
        daemon.restart()
    }

    /// Waits until packets arrive both ways and both charons have what they need; whether that came, where nobody drives them.
    pub(super) fn recovers(&self, flow: &Flow) -> Outcome<bool> {
        if self.side == Side::Driven {
            flow.goes_on(DONE_WITHIN).map_err(|failure| self.hosts.explained(&failure))?;
            self.hosts.are_up()?;
            self.is_in_hardware().map_err(|failure| self.hosts.explained(&failure))?;
            flow.goes_on(DONE_WITHIN).map_err(|failure| self.hosts.explained(&failure))?;
            return Ok(true);
        }
        if flow.goes_on(BACK_WITHIN).is_ok() && self.have_their_own(BACK_WITHIN).is_ok() {
            return Ok(true);
        }
        Ok(false)
    }

    /// Both charons have security associations that they know of. Those that one left behind which was killed are used for as long as the
    /// other end does not find it dead, and nobody rekeys them.
    fn have_their_own(&self, within: Duration) -> Outcome {
        for (host, _) in self.hosts.both() {
            wait_until("charon has security associations of its own", within, || {
                Ok(host.charon.swanctl(&["--list-sas"])?.matches("INSTALLED").count() >= 2)
            })?;
        }
        Ok(())
    }
}

/// Nothing of the host's own is on the wire, and no packet is lost for the want of a MAC address in the tunnel.
fn is_quiet(host: &Host, peer: &Host) -> Outcome {
    for of in ["all", "default"] {
        host.netns.run(&["sysctl", "-qw", &format!("net.ipv6.conf.{of}.disable_ipv6=1")])?;
    }
    let mac = peer.netns.run(&["cat", "/sys/class/net/br0/address"])?;
    host.netns.run(&["ip", "neigh", "replace", peer.inner, "lladdr", mac.trim(), "dev", "br0"]).map(drop)
}

fn file_by_hand(lab: &Lab, host: &Host) -> String {
    lab.dir().join(format!("{}.conf", host.netns.name())).display().to_string()
}

/// What the daemon loads, in an operator's file.
fn write_by_hand(lab: &Lab, host: &Host, peer: &Host) -> Outcome {
    let child = |way: &str, local: &str, remote: &str| {
        format!(
            "   {BY_HAND}-{way} {{\n    local_ts = dynamic[{local}]\n    remote_ts = dynamic[{remote}]\n    mode = transport\n    \
             esp_proposals = aes256gcm16-ecp256-modp2048-esn-noesn, aes256gcm16-esn-noesn\n    start_action = trap\n    \
             dpd_action = trap\n    close_action = trap\n    hw_offload = packet\n    rekey_time = 3600s\n   }}\n"
        )
    };
    let (here, there) = (host.outer, peer.outer);
    let text = format!(
        "connections {{\n {BY_HAND} {{\n  version = 2\n  mobike = no\n  keyingtries = 0\n  unique = never\n  dpd_delay = 30s\n  \
         local_addrs = {here}\n  remote_addrs = {there}\n  \
         proposals = aes256gcm16-prfsha256-ecp256-modp2048, aes256gcm16-prfsha384-ecp384-modp2048\n  \
         local {{\n   auth = psk\n  }}\n  remote {{\n   auth = psk\n   id = {there}\n  }}\n  children {{\n{}{}  }}\n }}\n}}\n\
         secrets {{\n ike-{BY_HAND} {{\n  id-1 = {here}\n  id-2 = {there}\n  secret = swordfish\n }}\n}}\n",
        child("in", "udp/6081", "udp"),
        child("out", "udp", "udp/6081"),
    );
    Ok(fs::write(file_by_hand(lab, host), text)?)
}

/// What the unit of Debian's strongSwan does after each start of charon.
fn load_by_hand(lab: &Lab, host: &Host) -> Outcome {
    host.charon.swanctl(&["--load-all", "--noprompt", "--file", &file_by_hand(lab, host)]).map(drop)
}

fn initiate_by_hand(host: &Host) -> Outcome {
    for way in ["in", "out"] {
        host.charon.swanctl(&["--initiate", "--ike", BY_HAND, "--child", &format!("{BY_HAND}-{way}")])?;
    }
    Ok(())
}
