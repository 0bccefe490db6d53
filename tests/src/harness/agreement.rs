//! The three-way comparison: what the NIC does, what Open vSwitch says, and what our tables say.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::Duration;

use super::{Daemon, Failure, Outcome, Ovs, Simnic, wait_for};

/// Where megaflows are, by ufid.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Placements {
    /// In TC, software only.
    pub software: BTreeSet<String>,
    /// In the NIC, with the ports that packets leave by: representors and uplink by `phys_port_name`, or `drop`; nothing
    /// for a tunnel.
    pub hardware: BTreeMap<String, Vec<String>>,
}

/// Waits for at most `limit` until the NIC, Open vSwitch and the daemon agree on what is in hardware, and what is not.
///
/// What is compared: the flows in the NIC's own table, told by their cookies, with the ports they leave by; those that
/// `dpctl/dump-flows` calls offloaded, with theirs; those that `flow list` says are in hardware; and all that is in TC's
/// software path. The three are asked one after the other, and short-lived flows come and go meanwhile: so Open vSwitch is
/// asked before and after us, and what it shows both times we have to show, and nothing that it shows neither time.
pub fn agree(nic: &Simnic, ovs: &Ovs, daemon: &Daemon, limit: Duration) -> Outcome<Placements> {
    agreement(ovs, daemon, limit, "p0", || in_nic(&nic.rules()?))
}

/// The same for several NICs.
pub fn agree_on_all(nics: &[&Simnic], ovs: &Ovs, daemon: &Daemon, limit: Duration) -> Outcome<Placements> {
    agreement(ovs, daemon, limit, "p0", || {
        let tables = nics.iter().map(|nic| nic.rules()).collect::<Outcome<Vec<String>>>()?;
        in_nic(&tables.concat())
    })
}

/// The same for all NICs of one card with their uplinks in the bond that Open vSwitch has as its port `bond`. What comes in
/// by that has to be in the tables of all of them, the same in each.
pub fn agree_on_card(
    nics: &[&Simnic],
    bond: &str,
    ovs: &Ovs,
    daemon: &Daemon,
    limit: Duration,
) -> Outcome<Placements> {
    agreement(ovs, daemon, limit, bond, || {
        let tables = nics.iter().map(|nic| nic.rules()).collect::<Outcome<Vec<String>>>()?;
        let from_wire = |rules: &String| {
            in_nic(&rules.lines().filter(|line| line.starts_with("port p0 ")).collect::<Vec<_>>().join("\n"))
        };
        let shared = tables.iter().map(from_wire).collect::<Outcome<Vec<_>>>()?;
        crate::ensure!(
            shared.windows(2).all(|pair| pair[0] == pair[1]),
            "of one block the NICs have {shared:?}"
        );
        in_nic(&tables.concat())
    })
}

fn agreement(
    ovs: &Ovs,
    daemon: &Daemon,
    limit: Duration,
    uplink: &str,
    in_hardware: impl Fn() -> Outcome<BTreeMap<String, Vec<String>>>,
) -> Outcome<Placements> {
    wait_for("NIC, Open vSwitch and our tables agree", limit, || {
        let before = said_by_ovs(&ovs.flows("tc")?, uplink).software;
        let ours = ours(daemon)?;
        let in_nic = in_hardware()?;
        let after = said_by_ovs(&ovs.flows("tc")?, uplink);
        let our_hardware: BTreeSet<&String> = ours.hardware.keys().collect();
        if in_nic == after.hardware
            && our_hardware == in_nic.keys().collect()
            && before.intersection(&after.software).all(|ufid| ours.software.contains(ufid))
            && ours.software.iter().all(|ufid| before.contains(ufid) || after.software.contains(ufid))
        {
            return Ok(Some(after));
        }
        Err(Failure::new(format!(
            "the NIC has {in_nic:?}\nwe {ours:?}\nOpen vSwitch {after:?}, and before, in software, {before:?}"
        )))
    })
}

/// The ufid of the megaflow that a line of simnic's `rules` belongs to.
pub fn ufid_of_rule(line: &str) -> Option<String> {
    ufid_of_cookie(line.split_whitespace().skip_while(|word| *word != "cookie").nth(1)?)
}

/// The rules of simnic's table.
fn in_nic(rules: &str) -> Outcome<BTreeMap<String, Vec<String>>> {
    let rule = |line: &str| {
        let mut words = line.split_whitespace();
        let actions = words.find(|word| *word == "actions").and_then(|_| words.next())?;
        let leaves = actions.split(',').filter_map(|action| match action.split_once(':') {
            // Open vSwitch names the tunnel's device, and simnic the uplink.
            Some(("redirect" | "mirror", port)) if port.contains("/tunnel") => None,
            Some(("redirect" | "mirror", port)) => Some(port.to_owned()),
            _ => (action == "drop").then(|| action.to_owned()),
        });
        Some((ufid_of_rule(line)?, leaves.collect()))
    };
    let read =
        |line| rule(line).ok_or_else(|| Failure::new(format!("simnic's rule `{line}` is not readable")));
    rules.lines().map(read).collect()
}

/// A ufid as Open vSwitch prints it: four 32-bit words of the machine's byte order.
fn ufid_of_cookie(hex: &str) -> Option<String> {
    let word = |at: usize| Some(u32::from_str_radix(hex.get(at..at + 8)?, 16).ok()?.swap_bytes());
    let (a, b, c, d) = (word(0)?, word(8)?, word(16)?, word(24)?);
    Some(format!("{a:08x}-{:04x}-{:04x}-{:04x}-{:04x}{d:08x}", b >> 16, b & 0xffff, c >> 16, c & 0xffff))
}

/// Lines of `dpctl/dump-flows -m --names type=tc`; the port `uplink` is `p0` to the NIC.
fn said_by_ovs(lines: &[String], uplink: &str) -> Placements {
    let mut placements = Placements::default();
    for line in lines {
        let Some(ufid) = line.split("ufid:").nth(1).and_then(|rest| rest.split(',').next()) else { continue };
        if !line.contains("offloaded:yes") {
            placements.software.insert(ufid.to_owned());
            continue;
        }
        let actions = line.split("actions:").nth(1).unwrap_or_default();
        let leaves = outside_brackets(actions).into_iter().filter_map(|action| {
            let port = action.trim().trim_matches('"');
            let number =
                port.strip_prefix("sn").map(|rest| rest.trim_start_matches(|c: char| c.is_ascii_digit()));
            let uplink = (port == uplink).then_some("p0");
            let told = number.or((port == "drop").then_some(port)).or(uplink);
            told.map(str::to_owned).or_else(|| renamed(port))
        });
        placements.hardware.insert(ufid.to_owned(), leaves.collect());
    }
    placements
}

/// What the NIC calls a representor of the guest's own namespace that somebody has given another name.
fn renamed(port: &str) -> Option<String> {
    let name = fs::read_to_string(format!("/sys/class/net/{port}/phys_port_name")).ok()?;
    Some(name.trim().to_owned())
}

/// `a,set(b,c),d` as `a`, `set(b,c)`, `d`.
fn outside_brackets(text: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut begin) = (Vec::new(), 0_i32, 0);
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&text[begin..at]);
                begin = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[begin..]);
    parts
}

/// What our tables say of the flows in TC; where they leave is not asked.
fn ours(daemon: &Daemon) -> Outcome<Placements> {
    let mut placements = Placements::default();
    for flow in daemon.flows()? {
        let ufid = flow["ufid"].as_str().unwrap_or_default().trim_start_matches("ufid:").to_owned();
        match flow["placement"].as_str() {
            Some("hardware") => drop(placements.hardware.insert(ufid, Vec::new())),
            Some("tc") => drop(placements.software.insert(ufid)),
            _ => {}
        }
    }
    Ok(placements)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_and_a_flow_of_the_same_megaflow_compare_equal() {
        let cookie = "04030201080706050c0b0a09100f0e0d";
        let rule = format!(
            "port pf0vf0 chain 0 prio 2 protocol 0800 match eth,ipv4 actions pedit:1+0:00/ff,csum:0x1,redirect:p0 \
             packets 12 bytes 34 cookie {cookie}"
        );
        let flow = "ufid:01020304-0506-0708-090a-0b0c0d0e0f10, in_port(sn0pf0vf0), packets:1, offloaded:yes, dp:tc, \
                    actions:set(ipv4(src=1.1.1.1,ttl=3)),sn0p0";
        let in_nic = in_nic(&rule).expect("the rule is readable");
        assert_eq!(in_nic.values().next(), Some(&vec!["p0".to_owned()]));
        assert_eq!(said_by_ovs(&[flow.to_owned()], "p0").hardware, in_nic);
    }

    #[test]
    fn a_rule_and_a_flow_into_a_tunnel_compare_equal() {
        let rule = "port pf0vf0 chain 0 prio 2 protocol 0800 match eth actions tunnel_set,redirect:p0/tunnel packets 0 \
                    bytes 0 cookie 04030201080706050c0b0a09100f0e0d";
        let flow = "ufid:01020304-0506-0708-090a-0b0c0d0e0f10, in_port(sn0pf0vf0), packets:1, offloaded:yes, dp:tc, \
                    actions:set(tunnel(tun_id=0x4d,dst=172.31.0.2,ttl=64,tp_dst=6081,flags(csum|key))),genev_sys_6081";
        assert_eq!(
            said_by_ovs(&[flow.to_owned()], "p0").hardware,
            in_nic(rule).expect("the rule is readable")
        );
    }

    #[test]
    fn flows_that_open_vswitch_does_not_call_offloaded_are_in_software() {
        let flow = "ufid:01, in_port(2), packets:1, dp:tc, actions:drop".to_owned();
        let said = said_by_ovs(&[flow], "p0");
        assert_eq!((said.software.len(), said.hardware.len()), (1, 0));
    }

    #[test]
    fn dropped_packets_are_told_from_forwarded_ones() {
        let rule = "port p0 chain 0 prio 2 protocol 0800 match ipv4 actions drop packets 0 bytes 0 cookie \
                    00000000000000000000000000000000";
        let in_nic = in_nic(rule).expect("the rule is readable");
        assert_eq!(in_nic.values().next(), Some(&vec!["drop".to_owned()]));
    }
}
