//! Which packets of a connection hardware takes, what it makes of them, and where software goes on with the others.

use super::conntrack::{PIPELINE, Tracked, answer, datagram, segment};
use super::frame::{Body, Frame, L4, address6, frame, ipv4, ipv6, tcp, udp};
use super::rig::{Software, batch, hex, receive, tc, tc_refused};
use crate::harness::{Lab, Outcome, ensure, wait_until};
use crate::io::packet_socket::PacketSocket;

use super::conntrack::MOVES_WITHIN;

const TTL: &str = "action pedit ex munge ip ttl dec pipe action csum ip4h pipe";

fn older(frame: Frame) -> Frame {
    match frame.body.clone() {
        Body::Ipv4(mut ip) => {
            ip.ttl -= 1;
            frame.body(Body::Ipv4(ip))
        }
        _ => frame,
    }
}

pub(super) fn an_established_connection_passes_by_hardware(_: &mut Lab) -> Outcome {
    let tracked = Tracked::new()?;
    for (frame, protocol) in [(segment(80), "tcp"), (datagram(80), "udp")] {
        tracked.establish(1, &frame)?;
        let representors = [0, 1].map(|vf| PacketSocket::open(&tracked.rig.nic.representor(vf)));
        tracked.ensure_in_hardware(1, &frame)?;
        for representor in representors {
            receive(&representor?, 0)?;
        }
        let shown = tracked.connections()?;
        for line in [
            format!("zone 5 {protocol} 10.0.0.1:1000->10.0.0.2:80 state est mark 0"),
            format!("zone 5 {protocol} 10.0.0.2:80->10.0.0.1:1000 state est/rpl mark 0"),
        ] {
            ensure!(shown.contains(&line), "no `{line}` in {shown}");
        }
    }
    let rules = tracked.rig.nic.rules()?;
    ensure!(rules.matches(" match basic,ct actions ct:5,goto:1 packets ").count() == 2, "{rules}");
    // The kernel may have made a flow anew (act_ct's `tcf_ct_flow_is_outdated`): the old one leaves a little later.
    tracked.wait_for_connections(4)?;
    let zones = tracked.rig.nic.shown("zones")?;
    ensure!(zones.starts_with("zone 5 rules 4 connections 4 hits "), "{zones}");
    let shown = tc(&format!("-s filter show dev {} ingress chain 1", tracked.rig.nic.representor(0)))?;
    ensure!(shown.contains("Sent hardware"), "{shown}");
    Ok(())
}

/// Hardware has changed the packet by the time it finds no connection: software does the rest, and that only.
pub(super) fn a_new_connection_goes_on_in_software_from_its_ct_action(_: &mut Lab) -> Outcome {
    let tracked = Tracked::without_rules()?;
    let track = format!("{TTL} action ct zone 5 pipe action goto chain 1");
    tracked.set(&[("chain 0 prio 2 protocol ip flower ip_proto tcp", &track), PIPELINE[1], PIPELINE[2]])?;
    let representor = PacketSocket::open(&tracked.rig.nic.representor(0))?;
    let (sent, seen) = (segment(80), older(segment(80)));
    tracked.send(0, 1, &sent, &seen)?;
    ensure!(receive(&representor, 1)?[0] == seen.encode(0), "the host did not get the packet as changed");
    let rules = tracked.rig.nic.rules()?;
    ensure!(rules.matches(" packets 0 ").count() == 6, "hardware counted what software finished: {rules}");
    let zones = tracked.rig.nic.shown("zones")?;
    ensure!(zones.ends_with(" hits 0 misses 1\n"), "{zones}");
    wait_until("the connection is in hardware", MOVES_WITHIN, || {
        let slow = tracked.slow()?;
        tracked.send(0, 1, &sent, &seen)?;
        tracked.send(1, 0, &answer(&sent), &older(answer(&sent)))?;
        Ok(tracked.slow()? == slow)
    })
}

/// A chain of which hardware has no rule: copies are out, what was changed stays so, and software begins there.
pub(super) fn a_chain_that_hardware_lacks_is_gone_on_with_in_software(_: &mut Lab) -> Outcome {
    let tracked = Tracked::without_rules()?;
    let first = format!("action mirred egress mirror dev REP2 pipe {TTL} action goto chain 7");
    tracked.set_on(
        0,
        [
            ("chain 0 prio 2 protocol ip flower ip_proto tcp", first),
            (
                "chain 7 prio 2 protocol ip flower ip_proto tcp dst_port 80 skip_hw",
                "action mirred egress redirect dev REP1".to_owned(),
            ),
        ],
    )?;
    let representor = PacketSocket::open(&tracked.rig.nic.representor(0))?;
    tracked.send(0, 1, &segment(80), &older(segment(80)))?;
    ensure!(receive(&representor, 1)?[0] == older(segment(80)).encode(0), "not as changed");
    ensure!(receive(&tracked.ends[2], 1)?[0] == segment(80).encode(0), "the copy is another");
    let rules = tracked.rig.nic.rules()?;
    ensure!(rules.contains(" packets 1 "), "not counted as far as it came: {rules}");
    let chains = tracked.rig.nic.shown("chains")?;
    ensure!(chains.contains("chain 7 rules 0 misses 1\n"), "{chains}");
    Ok(())
}

/// Software gets a packet with the connection that hardware found for it.
pub(super) fn a_later_chain_in_software_sees_the_connection(_: &mut Lab) -> Outcome {
    let tracked = Tracked::without_rules()?;
    let mut filters = PIPELINE;
    filters[2].0 = "chain 1 prio 2 protocol ip flower ct_state +trk+est ct_zone 5 skip_hw";
    tracked.set(&filters)?;
    let frame = segment(80);
    wait_until("hardware knows the connection", MOVES_WITHIN, || {
        tracked.exchange(1, &frame)?;
        Ok(tracked.counter("hw_connections")? == 2)
    })?;
    let (slow, before) = (tracked.slow()?, tracked.rig.nic.shown("zones")?);
    for _ in 0..5 {
        tracked.exchange(1, &frame)?;
    }
    ensure!(tracked.slow()? == slow + 10, "the host saw {} packets of 10", tracked.slow()? - slow);
    let after = tracked.rig.nic.shown("zones")?;
    let misses = |zones: &str| zones.trim().rsplit(' ').next().unwrap_or_default().to_owned();
    ensure!(misses(&before) == misses(&after), "looked up in software: {before} {after}");
    Ok(())
}

/// What a connection's address translation makes of a frame of its original direction.
struct Translation {
    protocol: &'static str,
    words: &'static str,
    sent: Frame,
    seen: Frame,
}

fn translations() -> Vec<Translation> {
    let v4 = |words, l4: L4, seen: Frame| Translation {
        protocol: "ip",
        words,
        sent: frame().body(Body::Ipv4(ipv4(l4))),
        seen,
    };
    let v6 = |words, l4: L4, seen: Frame| Translation {
        protocol: "ipv6",
        words,
        sent: frame().body(Body::Ipv6(ipv6(l4))),
        seen,
    };
    let plain = |src, dst| L4::Udp { src, dst, checksum: false };
    vec![
        v4(
            "nat src addr 192.168.7.9 port 4242",
            tcp(1000, 80),
            frame().v4(|ip| (ip.src, ip.l4) = ([192, 168, 7, 9], tcp(4242, 80))),
        ),
        v4(
            "nat dst addr 192.168.7.9 port 8080",
            tcp(1001, 80),
            frame().v4(|ip| (ip.dst, ip.l4) = ([192, 168, 7, 9], tcp(1001, 8080))),
        ),
        v4(
            "nat src addr 192.168.7.10",
            udp(1002, 53),
            frame().v4(|ip| (ip.src, ip.l4) = ([192, 168, 7, 10], udp(1002, 53))),
        ),
        v4(
            "nat dst addr 192.168.7.11 port 5353",
            plain(1003, 53),
            frame().v4(|ip| (ip.dst, ip.l4) = ([192, 168, 7, 11], plain(1003, 5353))),
        ),
        v6(
            "nat src addr fd00::77 port 4242",
            tcp(1004, 80),
            frame().v6(|ip| (ip.src, ip.l4) = (address6(0x77), tcp(4242, 80))),
        ),
        v6(
            "nat dst addr fd00::78 port 5353",
            udp(1005, 53),
            frame().v6(|ip| (ip.dst, ip.l4) = (address6(0x78), udp(1005, 5353))),
        ),
    ]
}

impl Translation {
    fn pipeline(&self, zone: u32) -> [(String, String); 3] {
        let (protocol, words) = (self.protocol, self.words);
        let filter = |chain: u32, state: &str| {
            format!("chain {chain} prio 2 protocol {protocol} flower ct_state {state}")
        };
        let out = "action mirred egress redirect dev OUT";
        [
            (filter(0, "-trk"), format!("action ct zone {zone} nat pipe action goto chain 1")),
            (filter(1, "+trk+new"), format!("action ct commit zone {zone} {words} pipe {out}")),
            (filter(1, "+trk+est"), out.to_owned()),
        ]
    }

    /// One round: a frame there, its answer back; what arrived at either end.
    fn round(&self, ends: [&PacketSocket; 2], id: usize) -> Outcome<[Vec<u8>; 2]> {
        ends[0].send(&self.sent.encode(id))?;
        let there = receive(ends[1], 1)?.remove(0);
        ends[1].send(&answer(&self.seen).encode(id))?;
        Ok([there, receive(ends[0], 1)?.remove(0)])
    }

    fn compare(&self, tracked: &Tracked, software: [&PacketSocket; 2]) -> Outcome {
        for vf in 0..2_u32 {
            let out = format!("REP{}", 1 - vf);
            let pipeline = self.pipeline(5);
            tracked.set_on(
                vf,
                pipeline.iter().map(|(filter, actions)| (&**filter, actions.replace("OUT", &out))),
            )?;
        }
        let twins = [("swin", "swout"), ("swout", "swin")].into_iter().flat_map(|(device, out)| {
            self.pipeline(6).map(|(filter, actions)| {
                format!("filter add dev {device} ingress {filter} skip_hw {}", actions.replace("OUT", out))
            })
        });
        batch("tc", twins)?;
        let hardware = [&tracked.ends[0], &tracked.ends[1]];
        wait_until("the connection is in hardware", MOVES_WITHIN, || {
            let slow = tracked.slow()?;
            self.round(hardware, 0)?;
            self.round(software, 0)?;
            Ok(tracked.slow()? == slow)
        })?;
        let slow = tracked.slow()?;
        for id in 1..4 {
            let (hard, soft) = (self.round(hardware, id)?, self.round(software, id)?);
            let wanted = [self.seen.encode(id), answer(&self.sent).encode(id)];
            for ((hard, soft), wanted) in hard.iter().zip(&soft).zip(&wanted) {
                ensure!(hard == soft, "hardware {} software {}", hex(hard), hex(soft));
                ensure!(hard == wanted, "{} instead of {}", hex(hard), hex(wanted));
            }
        }
        ensure!(tracked.slow()? == slow, "{} packets went through the host", tracked.slow()? - slow);
        Ok(())
    }
}

/// Source and destination, addresses and ports, both ways, IPv4 and IPv6: byte for byte.
pub(super) fn address_translation_makes_the_bytes_that_software_makes(_: &mut Lab) -> Outcome {
    let tracked = Tracked::without_rules()?;
    let _software = Software::new()?;
    tc("qdisc add dev swout clsact")?;
    let software = [PacketSocket::open("swinx")?, PacketSocket::open("swoutx")?];
    for translation in translations() {
        if let Err(failure) = translation.compare(&tracked, [&software[0], &software[1]]) {
            return Err(crate::harness::Failure::new(format!("{}: {failure}", translation.words)));
        }
        tracked.clear()?;
        for chain in 0..2 {
            for device in ["swin", "swout"] {
                tc(&format!("filter delete dev {device} ingress chain {chain}"))?;
            }
        }
    }
    Ok(())
}

/// By mark, by label and by zone: each connection comes out where its own says, while both are in hardware.
pub(super) fn mark_label_and_zone_of_a_connection_are_matched(_: &mut Lab) -> Outcome {
    const LABELS: [&str; 2] = ["0102030405060708090a0b0c0d0e0f10", "000000000000000000000000000000a5"];
    let commits = [
        ("mark 0x7/0xff", "mark 0x18/0xff", "ct_mark 0x7/0xff", "ct_mark 0x18/0xff", [5, 5]),
        (LABELS[0], LABELS[1], LABELS[0], LABELS[1], [5, 5]),
        ("", "", "ct_zone 5", "ct_zone 9", [5, 9]),
    ];
    for (index, (first, second, is_first, is_second, zones)) in commits.into_iter().enumerate() {
        let words = |text: &str, word: &str| {
            if index == 1 { format!("{word} {text}") } else { text.to_owned() }
        };
        let tracked = Tracked::without_rules()?;
        let mut there: Vec<(String, String)> = Vec::new();
        for (port, commit, mark, zone, vf) in
            [(80, first, is_first, zones[0], 1), (81, second, is_second, zones[1], 2)]
        {
            let (commit, mark) = (words(commit, "label"), words(mark, "ct_label"));
            let out = format!("action mirred egress redirect dev REP{vf}");
            there.extend([
                (
                    format!("chain 0 prio 2 protocol ip flower ct_state -trk ip_proto tcp dst_port {port}"),
                    format!("action ct zone {zone} pipe action goto chain 1"),
                ),
                (
                    format!(
                        "chain 1 prio 2 protocol ip flower ct_state +trk+new ip_proto tcp dst_port {port}"
                    ),
                    format!("action ct commit zone {zone} {commit} pipe {out}"),
                ),
                (format!("chain 1 prio 2 protocol ip flower ct_state +trk+est {mark}"), out),
            ]);
            let back = [
                (
                    "chain 0 prio 2 protocol ip flower ct_state -trk",
                    format!("action ct zone {zone} pipe action goto chain 1"),
                ),
                (
                    "chain 1 prio 2 protocol ip flower ct_state +trk+est+rpl-new-inv-rel",
                    "action mirred egress redirect dev REP0".to_owned(),
                ),
            ];
            tracked.set_on(vf, back)?;
        }
        tracked.set_on(0, there.iter().map(|(filter, actions)| (&**filter, actions.clone())))?;
        for (to, port) in [(1, 80), (2, 81)] {
            tracked.establish(to, &segment(port))?;
        }
        for (to, port) in [(1, 80), (2, 81)] {
            tracked.ensure_in_hardware(to, &segment(port))?;
        }
    }
    Ok(())
}

/// Two zones in one rule, as a logical switch and a router have: hardware needs to know both.
pub(super) fn two_zones_in_one_rule_track_one_connection(_: &mut Lab) -> Outcome {
    let tracked = Tracked::without_rules()?;
    let commit =
        "action ct commit zone 6 pipe action ct commit zone 5 pipe action mirred egress redirect dev OUT";
    tracked.set(&[
        (
            "chain 0 prio 2 protocol ip flower ct_state -trk",
            "action ct zone 5 pipe action ct zone 6 pipe action goto chain 1",
        ),
        ("chain 1 prio 2 protocol ip flower ct_state +trk+new ct_zone 6", commit),
        (
            "chain 1 prio 2 protocol ip flower ct_state +trk+est ct_zone 6",
            "action mirred egress redirect dev OUT",
        ),
    ])?;
    tracked.establish(1, &segment(80))?;
    tracked.ensure_in_hardware(1, &segment(80))?;
    let shown = tracked.connections()?;
    for zone in ["zone 5 ", "zone 6 "] {
        ensure!(shown.matches(zone).count() == 2, "{shown}");
    }
    let slow = tracked.slow()?;
    tracked.send(0, 1, &segment(81), &segment(81))?;
    ensure!(tracked.slow()? == slow + 1, "a new connection did not go through the host");
    Ok(())
}

/// What is not part of an offloaded connection, or is, but in pieces, is for the host.
pub(super) fn fragments_and_other_protocols_stay_in_software(_: &mut Lab) -> Outcome {
    let tracked = Tracked::new()?;
    tracked.establish(1, &datagram(80))?;
    let slow = tracked.slow()?;
    let ping = frame().v4(|ip| ip.l4 = L4::Icmp { kind: 8, code: 0 });
    tracked.send(0, 1, &ping, &ping)?;
    ensure!(tracked.slow()? == slow + 1, "a ping did not go through the host");
    // A first fragment that bears the connection's ports.
    let fragment = frame().v4(|ip| (ip.l4, ip.fragment) = (udp(1000, 80), 0x2000));
    tracked.ends[0].send(&fragment.encode(0))?;
    wait_until("the host has the fragment", MOVES_WITHIN, || Ok(tracked.slow()? == slow + 2))?;
    receive(&tracked.ends[1], 0)?;
    tracked.ensure_in_hardware(1, &datagram(80))
}

/// Rules that cannot be carried out, each with the reason.
pub(super) fn conntrack_rules_that_hardware_cannot_do_say_why(_: &mut Lab) -> Outcome {
    let tracked = Tracked::without_rules()?;
    let refusals = [
        ("ct_state +trk+rel skip_sw action drop", "ct_state +rel"),
        ("ct_state +trk+inv skip_sw action drop", "ct_state +inv"),
    ];
    for (words, text) in refusals {
        let words = format!("filter add dev REP0 ingress protocol ip flower {words}");
        let said = tc_refused(&tracked.rig.named(&words))?;
        ensure!(said.contains("simnic: ") && said.contains(text), "`{words}` was refused with: {said}");
    }
    let refused = tracked.counter("hw_refusals")?;
    ensure!(refused == 2, "hw_refusals is {refused}");
    Ok(())
}
