//! Tunnels that IPsec in mode packet protects: what a VF sends leaves its NIC encapsulated and encrypted, and comes out at the
//! other's VF, past the stacks of both hosts; and nothing leaves otherwise.

mod rig;

use super::super::ipsec::{flipped, renumbered};
use super::super::tcp::transfer;
use crate::harness::{Lab, Outcome, Pings, ensure, wait_until};
use rig::{ARRIVES_WITHIN, By, Ends, GENEVE, KINDS, PAYLOAD, VXLAN, spi};

const PINGS: u64 = 10;

pub(in super::super) fn two_nics_tunnel_and_encrypt_past_both_hosts(lab: &mut Lab) -> Outcome {
    for kind in KINDS {
        let ends = Ends::new(lab, kind)?;
        for at in [0, 1] {
            ends.protect(at, By::Packet)?;
        }
        ends.join()?;
        ends.are_joined()?;
        for at in [0, 1] {
            ends.only_esp(at)?;
        }
        let before = [ends.seen(0)?, ends.seen(1)?];
        let of_sas =
            |at: usize| -> Outcome<[[u64; 2]; 2]> { Ok([ends.counted(at, 0)?, ends.counted(at, 1)?]) };
        let sas = [of_sas(0)?, of_sas(1)?];
        ends.pings(PINGS)?;
        // What ESP has inside: all but the outer Ethernet and IP header.
        let bytes = kind.headers + 20 + 8 + PAYLOAD;
        let seen = [ends.seen(0)?, ends.seen(1)?];
        // Both hosts see the reports of both, and may have seen them before.
        let came = [ends.esp_and_reports(0)?, ends.esp_and_reports(1)?];
        let mut reports = came[0].1 + came[1].1;
        for at in [0, 1] {
            let (frames, after) = (came[at].0, seen[at]);
            ensure!(frames == PINGS, "{kind:?}: {frames} frames with ESP from end {at} for {PINGS} pings");
            let mut expected = before[at];
            expected.by_host = after.by_host.clamp(expected.by_host, expected.by_host + reports);
            for count in [&mut expected.encrypted, &mut expected.decrypted]
                .into_iter()
                .chain(expected.by_rules.iter_mut())
            {
                *count += PINGS;
            }
            ensure!(after == expected, "{kind:?}, end {at}: {after:?} is not {expected:?}");
            let expected = sas[at].map(|[b, p]| [b + PINGS * bytes, p + PINGS]);
            let after = of_sas(at)?;
            ensure!(after == expected, "{kind:?}, SAs at end {at}: {after:?} is not {expected:?}");
        }
        transfer(ends.hosts[0].pod.name(), ends.hosts[1].pod.name(), "10.7.0.2:5001", "10.7.0.2:5001")?;
        // The second end sends acknowledgements alone, as few as its TCP likes.
        let seen = [ends.seen(0)?, ends.seen(1)?];
        let came = [ends.esp_and_reports(0)?, ends.esp_and_reports(1)?];
        reports += came[0].1 + came[1].1;
        for (at, fewest) in [(0, 100), (1, 1)] {
            let frames = came[at].0;
            ensure!(frames >= fewest, "{kind:?}: only {frames} frames from end {at}");
            let by_host = seen[at].by_host - before[at].by_host;
            ensure!(
                by_host <= reports,
                "{kind:?}: host {at} saw {by_host}, with {reports} reports of listeners"
            );
        }
    }
    Ok(())
}

/// Packets that the second pod has had.
fn arrived(ends: &Ends) -> Outcome<u64> {
    let host = &ends.hosts[1];
    let path = format!("/sys/class/net/{}/statistics/rx_packets", host.nic.vf(0));
    Ok(host.pod.run(&["cat", &path])?.trim().parse()?)
}

pub(in super::super) fn bad_esp_and_what_is_in_the_clear_come_out_of_no_tunnel(lab: &mut Lab) -> Outcome {
    let ends = Ends::new(lab, GENEVE)?;
    ends.join()?;
    ends.are_joined()?;
    // It is seen where it is in the clear, and would come out.
    let clear = ends.frame_from(0)?;
    ensure!(ends.only_esp(0).is_err() || ends.only_esp(1).is_err(), "nothing was in the clear");
    let before = arrived(&ends)?;
    ends.inject(&clear)?;
    wait_until("what is in the clear comes out", ARRIVES_WITHIN, || Ok(arrived(&ends)? == before + 1))?;

    for at in [0, 1] {
        ends.protect(at, By::Packet)?;
    }
    ends.are_joined()?;
    // What was under way before.
    while ends.only_esp(0).is_err() || ends.only_esp(1).is_err() {}
    ends.pings(1)?;
    let good = ends.frame_from(0)?;
    let slow = ends.seen(1)?.by_host;
    let bad = [
        ("replayed", good.clone(), "ipsec_rx_replayed"),
        ("forged", renumbered(&good, 5), "ipsec_rx_auth_failed"),
        ("corrupted", flipped(&renumbered(&good, 5), good.len() - 1), "ipsec_rx_auth_failed"),
        ("in the clear", clear.clone(), "ipsec_rx_drop_policy"),
    ];
    for (what, frame, counter) in bad {
        let before = [ends.counter(1, counter)?, arrived(&ends)?];
        ends.inject(&frame)?;
        wait_until(&format!("what is {what} is dropped"), ARRIVES_WITHIN, || {
            Ok(ends.counter(1, counter)? == before[0] + 1)
        })?;
        ensure!(arrived(&ends)? == before[1], "what was {what} came out of the tunnel");
    }
    ensure!(ends.seen(1)?.by_host == slow, "the host saw it");
    ends.pings(PINGS)?;

    // The same where the kernel does IPsec: its policies are about what the NIC takes out of the tunnel, too.
    ends.xfrm(1, "state flush")?;
    ends.xfrm(1, "policy flush")?;
    ends.protect(1, By::Kernel)?;
    let drops = || -> Outcome<u64> { ends.counter(1, "ipsec_rx_drop_policy") };
    let before = [drops()?, arrived(&ends)?];
    ends.inject(&clear)?;
    wait_until("it is dropped", ARRIVES_WITHIN, || Ok(drops()? == before[0] + 1))?;
    ensure!(arrived(&ends)? == before[1], "it came out of the tunnel");
    let stat = ends.hosts[1].netns.run(&["cat", "/proc/net/xfrm_stat"])?;
    ensure!(
        stat.lines().any(|line| line.split_whitespace().eq(["XfrmInTmplMismatch", "1"])),
        "the kernel's counters do not say so: {stat}"
    );
    Ok(())
}

/// A ping goes on while one end's IPsec changes. Each time it is seen that packets come to the NIC, and all that leaves is ESP.
pub(in super::super) fn what_a_tunnel_cannot_have_encrypted_does_not_leave(lab: &mut Lab) -> Outcome {
    let ends = Ends::new(lab, GENEVE)?;
    for at in [0, 1] {
        ends.protect(at, By::Packet)?;
    }
    ends.join()?;
    ends.are_joined()?;
    let pings = Pings::start(&ends.hosts[0].pod, "10.7.0.2", 50, 64)?;
    let vf_sent = |how: &str| -> Outcome<u64> {
        let host = &ends.hosts[0];
        host.counter(&host.nic.representor(0), &format!("vf_tx_{how}_packets"))
    };
    // Ten more of the pod's packets of which none is answered, or all of which go this way and are.
    let nothing_passes = |why: &str| -> Outcome {
        let all = || -> Outcome<u64> { Ok(vf_sent("hw")? + vf_sent("slow")?) };
        wait_until(&format!("pings are sent: {why}"), ARRIVES_WITHIN, || {
            // Answers to what was sent before come until then.
            let before = [all()?, pings.answers()];
            wait_until("ten more", ARRIVES_WITHIN, || Ok(all()? >= before[0] + 10))?;
            Ok(pings.answers() == before[1])
        })?;
        ends.only_esp(0).map(drop)
    };
    let passes = |how: &str, why: &str| -> Outcome {
        let answers = pings.answers();
        wait_until(&format!("pings are answered: {why}"), ARRIVES_WITHIN, || {
            Ok(pings.answers() >= answers + 5)
        })?;
        let before = vf_sent(how)?;
        wait_until(&format!("packets go by {how}: {why}"), ARRIVES_WITHIN, || {
            Ok(vf_sent(how)? >= before + 5)
        })?;
        ends.only_esp(0).map(drop)
    };
    let renew = |by: By, generation: u8, more: &str| -> Outcome {
        ends.xfrm(1, &ends.state(1, By::Packet, 0, generation))?;
        let state = ends.state(0, by, 0, generation);
        ends.xfrm(0, &state.replace("aead", &format!("{more} aead"))).map(drop)
    };
    let delete = |generation: u8| {
        let spi = spi(0, generation);
        ends.xfrm(0, &format!("state delete src 172.31.0.1 dst 172.31.0.2 proto esp spi {spi}"))
    };
    passes("hw", "both ends have it in the NIC")?;

    delete(0)?;
    nothing_passes("the SA is gone")?;
    renew(By::Packet, 1, "")?;
    passes("hw", "there is another SA")?;

    let tmpl = "tmpl proto esp reqid 7 mode transport";
    ends.xfrm(0, &ends.policy("update", 0, By::Packet, 0, "action block"))?;
    nothing_passes("a policy blocks it")?;
    ends.xfrm(0, &ends.policy("update", 0, By::Packet, 0, tmpl))?;
    passes("hw", "the policy blocks no more")?;

    delete(1)?;
    renew(By::Packet, 2, "limit packet-soft 3 limit packet-hard 6")?;
    nothing_passes("the SA is used up")?;

    // From the NIC to the kernel, under traffic, and back.
    ends.xfrm(0, &ends.policy("update", 0, By::Kernel, 0, tmpl))?;
    nothing_passes("the kernel has no SA")?;
    renew(By::Kernel, 3, "")?;
    passes("slow", "the kernel encrypts")?;
    ends.xfrm(0, &ends.policy("update", 0, By::Packet, 0, tmpl))?;
    delete(3)?;
    renew(By::Packet, 4, "")?;
    passes("hw", "the NIC encrypts again")?;

    // The card forgets its SAs, and xfrm is not told. Its rules are gone, too, and come again.
    ends.hosts[0].nic.set("reset", "1")?;
    nothing_passes("the NIC has lost it")?;
    for device in [ends.hosts[0].nic.representor(0).as_str(), "tun"] {
        ends.hosts[0].tc(&format!("filter delete dev {device} ingress"))?;
    }
    ends.join_at(0)?;
    let slow = vf_sent("slow")?;
    nothing_passes("the NIC has lost it, and has rules")?;
    ensure!(vf_sent("slow")? == slow, "packets went to the host");
    ensure!(ends.counter(0, "ipsec_tx_drop_no_sa")? > 0, "no drop is counted");
    pings.stop().map(drop)
}

/// As with mlx5, whichever comes first; rules of the VF and of the tunnel device are not meant.
pub(in super::super) fn rules_on_the_uplink_and_mode_packet_exclude_each_other(lab: &mut Lab) -> Outcome {
    let ends = Ends::new(lab, VXLAN)?;
    let (host, uplink) = (&ends.hosts[0], ends.hosts[0].nic.uplink());
    host.tc(&format!("qdisc add dev {uplink} clsact"))?;
    let rule = |flag: &str| {
        host.tc(&format!(
            "filter add dev {uplink} ingress protocol ip prio 7 flower {flag} ip_proto tcp action drop"
        ))
    };
    let no_rules = || host.tc(&format!("filter delete dev {uplink} ingress")).map(drop);
    let said = |answer: Outcome<String>| answer.err().map(|failure| failure.to_string()).unwrap_or_default();
    rule("skip_sw")?;
    let (state, policy) = (ends.state(0, By::Packet, 0, 0), ends.policy("add", 0, By::Packet, 0, ""));
    for words in [&state, &policy] {
        let said = said(ends.xfrm(0, words));
        ensure!(
            said.contains("TC has rules on the uplink (1), which mode packet excludes"),
            "{words}: {said}"
        );
    }
    // Mode crypto excludes none, and is excluded by none.
    ends.xfrm(0, &state.replace("offload packet", "offload"))?;
    ends.xfrm(0, "state flush")?;

    // Nor does what software alone has.
    no_rules()?;
    rule("skip_hw")?;
    no_rules()?;
    for at in [0, 1] {
        ends.protect(at, By::Packet)?;
    }
    let refused = said(rule("skip_sw"));
    ensure!(refused.contains("the uplink has IPsec in mode packet, which excludes rules on it"), "{refused}");
    rule("")?;
    let shown = host.tc(&format!("filter show dev {uplink} ingress"))?;
    ensure!(shown.contains("not_in_hw"), "{shown}");
    no_rules()?;
    ends.join()?;
    ends.are_joined()?;

    // Both have to go: the SAs alone are not all of it.
    ends.xfrm(0, "state flush")?;
    ensure!(!said(rule("skip_sw")).is_empty(), "the rule is taken beside policies of mode packet");
    ends.xfrm(0, "policy flush")?;
    rule("skip_sw").map(drop)
}
