//! The kernel's table of policies below a tunnel that NICs carry.

use std::fs;

use lab_tests::harness::{Lab, Outcome, wait_until};

use super::hosts::{DONE_WITHIN, Host};
use super::nics::{IPV4, Known, is_carried_by_both, with_tunnel};

/// The table has 8 chains at first, and twice as many as soon as there are more policies of a direction.
const SIZES: [usize; 4] = [16, 32, 64, 128];

/// Whenever it grows, the kernel turns the order around of those policies that it looks for by address and that NICs have, and has what
/// software alone has between them (`xfrm_dst_hash_transfer()` of 6.12). What drops the tunnel's packets where nothing encrypts them must
/// not come before any.
pub(super) fn a_tunnel_in_a_nic_passes_however_many_policies_the_kernel_has(lab: &mut Lab) -> Outcome {
    let hosts = with_tunnel(lab, "geneve", IPV4, Known::ByKey)?;
    hosts.are_up()?;
    hosts.reach_each_other()?;
    let mut before = 0;
    for size in SIZES {
        for (host, _) in hosts.both() {
            add_policies(lab, host, before..size)?;
            wait_until(&format!("the table of {} has grown to {size}", host.outer), DONE_WITHIN, || {
                Ok(chains(host)? > size)
            })?;
        }
        before = size;
        hosts.reach_each_other()?;
    }
    is_carried_by_both(&hosts, lab)
}

/// Adds policies of both directions that no packet has.
fn add_policies(lab: &Lab, host: &Host, numbers: std::ops::Range<usize>) -> Outcome {
    let line = |direction: &str, number: usize| {
        format!("xfrm policy add dir {direction} src 192.0.2.{number}/32 dst 198.51.100.1/32\n")
    };
    let lines = numbers.flat_map(|number| ["in", "out"].map(|direction| line(direction, number)));
    let path = lab.dir().join(format!("policies-{}", host.outer));
    fs::write(&path, lines.collect::<String>())?;
    host.netns.run(&["ip", "-batch", &path.display().to_string()]).map(drop)
}

/// Of the table of policies by number, which grows with that by address, after it.
fn chains(host: &Host) -> Outcome<usize> {
    let shown = host.netns.run(&["ip", "-s", "-s", "xfrm", "policy", "count"])?;
    let count = shown.split("count ").nth(1).and_then(|rest| rest.split_whitespace().next());
    // It is told by the mask.
    Ok(count.and_then(|count| count.parse::<usize>().ok()).map_or(0, |mask| mask + 1))
}
