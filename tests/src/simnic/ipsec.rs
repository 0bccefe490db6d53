//! Security associations in the NIC, against the kernel's own ESP at the other end.

mod link;

use std::collections::BTreeMap;

use super::frame::checksum;
use super::tcp::transfer;
use crate::harness::{Failure, Lab, Outcome, ensure, wait_until};
pub(super) use link::is_esp;
use link::{ARRIVES_WITHIN, By, End, Kind, Link, PLAIN};

/// In a frame of ESP over IPv4 without options.
const SPI_AT: usize = 34;
/// Both directions of a ping.
const PINGS: u32 = 3;

/// Kinds of SAs: families, modes and keys, and sequence numbers about to need their upper half.
const KINDS: [Kind; 4] = [
    Kind { replay: ["replay-oseq 0xfffffffe flag esn", "replay-seq 0xfffffffe flag esn"], ..PLAIN },
    Kind { mode: "tunnel", key_bits: 256, window: 32, replay: [""; 2], ..PLAIN },
    Kind { ipv6: true, key_bits: 256, ..PLAIN },
    Kind { ipv6: true, mode: "tunnel", ..PLAIN },
];

/// Hardware at one end, at the other, at both: what one encrypts the other decrypts, and nothing else is on the wire.
pub(super) fn what_the_nic_encrypts_the_kernel_decrypts_and_the_reverse(lab: &mut Lab) -> Outcome {
    let link = Link::new(lab)?;
    for kind in KINDS {
        for by in [[By::Crypto, By::Kernel], [By::Kernel, By::Crypto], [By::Crypto, By::Crypto]] {
            pings_are_encrypted(&link, kind, by)
                .map_err(|failure| Failure::new(format!("{kind:?} by {by:?}: {failure}")))?;
        }
    }
    Ok(())
}

/// The same of mode packet, which is for transport mode.
pub(super) fn what_the_nic_wraps_the_kernel_unwraps_and_the_reverse(lab: &mut Lab) -> Outcome {
    let link = Link::new(lab)?;
    for kind in KINDS.into_iter().filter(|kind| kind.mode == "transport") {
        for by in [
            [By::Packet, By::Kernel],
            [By::Kernel, By::Packet],
            [By::Packet, By::Packet],
            [By::Crypto, By::Packet],
        ] {
            pings_are_encrypted(&link, kind, by)
                .map_err(|failure| Failure::new(format!("{kind:?} by {by:?}: {failure}")))?;
        }
    }
    Ok(())
}

fn pings_are_encrypted(link: &Link, kind: Kind, by: [By; 2]) -> Outcome {
    const COUNTERS: [&str; 2] = ["ipsec_tx_packets", "ipsec_rx_packets"];
    let counters =
        |end: &End| -> Outcome<[u64; 2]> { Ok([end.counter(COUNTERS[0])?, end.counter(COUNTERS[1])?]) };
    let before = [counters(&link.here)?, counters(&link.there)?];
    link.protect(kind, by)?;
    link.here.pings(&link.there, kind, PINGS)?;
    for (at, end) in [&link.here, &link.there].into_iter().enumerate() {
        let seen = link.only_esp(at)?;
        ensure!(seen == PINGS as usize, "{seen} frames with ESP were sent for {PINGS} pings");
        let in_nic = by[at] != By::Kernel;
        let sas = end.nic.shown("sas")?;
        ensure!(sas.lines().count() == if in_nic { 2 } else { 0 }, "the NIC has {sas}");
        ensure!(sas.lines().all(|line| line.contains(&format!("packets {PINGS} "))), "{sas}");
        let (before, after) = (before[at], counters(end)?);
        let expected = before.map(|count| count + if in_nic { u64::from(PINGS) } else { 0 });
        ensure!(after == expected, "{COUNTERS:?} went from {before:?} to {after:?}");
    }
    link.clear()
}

/// Large packets are cut before they come to the NIC.
pub(super) fn tcp_passes_encrypted_by_both_nics(lab: &mut Lab) -> Outcome {
    let link = Link::new(lab)?;
    for by in [By::Crypto, By::Packet] {
        link.protect(PLAIN, [by; 2])?;
        transfer(link.here.netns.name(), link.there.netns.name(), "172.30.0.2:5001", "172.30.0.2:5001")?;
        ensure!(link.only_esp(0)? > 0, "nothing was encrypted");
        let drops = link.there.drops()?;
        // What is still under way when the SAs go has none.
        let bad = ["XfrmInStateProtoError", "XfrmInStateSeqError", "XfrmInStateModeError"];
        ensure!(bad.iter().all(|name| drops.get(*name) == Some(&0)), "{by:?}: {drops:?}");
        link.clear()?;
    }
    Ok(())
}

/// What a state is refused for, and what the NIC says of it. `OFFLOAD` is what asks for it.
const VIOLATIONS: [(&str, &str); 16] = [
    (
        "proto esp spi 1 mode transport enc cbc(aes) 0x00112233445566778899aabbccddeeff \
         auth hmac(sha256) 0x00112233445566778899aabbccddeeff",
        "an algorithm for authentication alone is not offloaded",
    ),
    (
        "proto esp spi 1 mode transport aead rfc4543(gcm(aes)) 0xKEY128 128",
        "the only cipher is AES-GCM, rfc4106(gcm(aes))",
    ),
    (
        "proto esp spi 1 mode transport aead rfc4106(gcm(aes)) 0xKEY128 96",
        "the tag has to have 128 bits, not 96",
    ),
    (
        "proto esp spi 1 mode transport aead rfc4106(gcm(aes)) 0xKEY192 128",
        "the key has to have 128 or 256 bits, not 192",
    ),
    ("proto esp spi 1 mode beet GCM", "the mode has to be transport or tunnel"),
    (
        "proto esp spi 1 mode transport GCM encap espinudp 4500 4500 0.0.0.0",
        "ESP in UDP or TCP is not offloaded",
    ),
    (
        "proto esp spi 1 mode transport GCM sel proto sctp",
        "the selector's protocol has to be any, TCP or UDP",
    ),
    ("proto esp spi 1 mode transport GCM IN mark 5 mask 0xff", "packets from the wire have no mark"),
    ("proto esp spi 1 mode tunnel GCM PACKET", "mode packet is for transport mode alone"),
    ("proto esp spi 1 mode transport reqid 0 GCM PACKET", "mode packet needs a reqid"),
    (
        "proto esp spi 1 mode transport replay-window 96 flag esn GCM IN PACKET",
        "the replay window has to be of 32, 64, 128 or 256",
    ),
    (
        "proto esp spi 1 mode transport GCM PACKET limit packet-soft 9 limit packet-hard 9",
        "the hard limit of packets must be above the soft one",
    ),
    (
        "proto esp spi 1 mode transport GCM PACKET limit byte-soft 9 limit byte-hard 5",
        "the hard limit of bytes must be above the soft one",
    ),
    ("proto esp spi 1 mode transport GCM PACKET limit packet-soft 0", "a limit of packets must not be 0"),
    ("proto esp spi 2 mode transport GCM IN", "there is an SA with this address and SPI"),
    ("proto esp spi 1 mode transport GCM FULL", "the table of SAs is full (1)"),
];

pub(super) fn a_violated_demand_of_a_security_association_is_named(lab: &mut Lab) -> Outcome {
    let link = Link::new(lab)?;
    let (end, device) = (&link.here, link.here.nic.uplink());
    let key = |bits: usize| "5a".repeat(bits / 8 + 4);
    let add = |words: &str| {
        let direction = if words.contains(" IN") { "in" } else { "out" };
        let packet = if words.contains(" PACKET") { "packet" } else { "" };
        let reqid = if words.contains("reqid") { "" } else { "reqid 7" };
        let words = words
            .replace(" IN", "")
            .replace(" PACKET", "")
            .replace(" FULL", "")
            .replace("GCM", &format!("aead rfc4106(gcm(aes)) 0x{} 128", key(128)));
        let words = [128, 192, 256]
            .iter()
            .fold(words, |words, bits| words.replace(&format!("KEY{bits}"), &key(*bits)));
        let addresses =
            if direction == "in" { "src 172.30.0.2 dst 172.30.0.1" } else { "src 172.30.0.1 dst 172.30.0.2" };
        end.ip(&format!(
            "xfrm state add {addresses} {words} {reqid} offload {packet} dev {device} dir {direction}"
        ))
    };
    add("proto esp spi 2 mode transport GCM IN")?;
    for (words, sentence) in &VIOLATIONS {
        if words.contains(" FULL") {
            end.nic.set("sa_table_size", "1")?;
        }
        let said = match add(words) {
            Ok(_) => return Err(Failure::new(format!("`{words}` was taken"))),
            Err(failure) => failure.to_string(),
        };
        ensure!(said.contains(sentence), "`{words}` is refused with {said}");
    }
    let refusals = end.counter("ipsec_refusals")?;
    ensure!(refusals == VIOLATIONS.len() as u64, "{refusals} refusals");
    end.nic.set("sa_table_size", "2")?;
    add("proto esp spi 1 mode transport GCM")?;
    let (count, max) = (end.counter("ipsec_sas")?, end.counter("ipsec_sas_max")?);
    ensure!(count == 2 && max == 2, "{count} SAs of {max}");
    end.nic.set("fail", "sa_add 1 5 no luck")?;
    let said = add("proto esp spi 3 mode transport GCM").err().map(|failure| failure.to_string());
    ensure!(said.as_ref().is_some_and(|said| said.contains("no luck")), "{said:?}");
    Ok(())
}

/// A frame with ESP in IPv4 whose sequence number is `add` more.
pub(super) fn renumbered(frame: &[u8], add: u32) -> Vec<u8> {
    let mut frame = frame.to_vec();
    let mut sequence = [0; 4];
    sequence.copy_from_slice(&frame[38..42]);
    frame[38..42].copy_from_slice(&(u32::from_be_bytes(sequence) + add).to_be_bytes());
    frame
}

/// A frame with IPv4 cut to `bytes` from the IP header on, as IP says too.
fn cut(frame: &[u8], bytes: u16) -> Vec<u8> {
    let mut frame = frame[..14 + usize::from(bytes)].to_vec();
    frame[16..18].copy_from_slice(&bytes.to_be_bytes());
    frame[24..26].copy_from_slice(&[0, 0]);
    let sum = checksum(&frame[14..34]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    frame
}

pub(super) fn flipped(frame: &[u8], at: usize) -> Vec<u8> {
    let mut frame = frame.to_vec();
    frame[at] ^= 1;
    frame
}

/// Makes another of a packet.
type Changed = fn(&[u8]) -> Vec<u8>;

/// What makes bad frames of one that has arrived.
const BAD: [(&str, Changed); 9] = [
    ("replayed", <[u8]>::to_vec),
    ("forged: another sequence number", |frame| renumbered(frame, 5)),
    ("corrupted ciphertext", |frame| flipped(&renumbered(frame, 5), 60)),
    ("corrupted tag", |frame| flipped(&renumbered(frame, 5), frame.len() - 1)),
    ("of an unknown SPI", |frame| flipped(frame, 35)),
    ("cut in the ciphertext", |frame| cut(&renumbered(frame, 5), 100)),
    ("cut behind the vector", |frame| cut(&renumbered(frame, 5), 36)),
    ("cut in the vector", |frame| cut(&renumbered(frame, 5), 30)),
    ("cut in the ESP header", |frame| cut(&renumbered(frame, 5), 24)),
];

/// What each bad frame is counted as at the end that it is sent to.
fn drops_of_bad_frames(link: &Link, by: By) -> Outcome<Vec<BTreeMap<String, u64>>> {
    link.protect(PLAIN, [By::Kernel, by])?;
    link.here.pings(&link.there, PLAIN, 1)?;
    let good = link.esp_from(0)?;
    let reply = link.esp_from(1)?;
    ensure!(reply != good, "the reply is the request");
    let mut all = Vec::new();
    for (what, make) in BAD {
        let before = link.there.drops()?;
        link.inject(&make(&good))?;
        wait_until(&format!("what is {what} is counted by {by:?}"), ARRIVES_WITHIN, || {
            Ok(link.there.drops()? != before)
        })?;
        let after = link.there.drops()?;
        let delta = after.into_iter().map(|(name, count)| {
            let more = count - before.get(&name).copied().unwrap_or_default();
            (name, more)
        });
        all.push(delta.filter(|(_, more)| *more > 0).collect());
    }
    // None of them has moved the window: the next packets are taken, and only they were answered.
    link.here.pings(&link.there, PLAIN, PINGS)?;
    let replies = link.only_esp(1)?;
    ensure!(replies == PINGS as usize, "{replies} replies to {PINGS} pings");
    link.only_esp(0)?;
    link.clear()?;
    Ok(all)
}

pub(super) fn bad_esp_is_dropped_and_counted_as_by_the_kernel(lab: &mut Lab) -> Outcome {
    let link = Link::new(lab)?;
    let kernel = drops_of_bad_frames(&link, By::Kernel)?;
    for (runs, by) in [By::Crypto, By::Packet].into_iter().enumerate() {
        let nic = drops_of_bad_frames(&link, by)?;
        for (((what, _), kernel), nic) in BAD.iter().zip(&kernel).zip(&nic) {
            ensure!(kernel == nic, "{what}: the kernel counts {kernel:?}, by {by:?} it is {nic:?}");
        }
        // Those whose tag was wrong, the three of the ciphertext and the forged one.
        let failed = link.there.counter("ipsec_rx_auth_failed")?;
        ensure!(failed == 4 * (runs as u64 + 1), "{failed} tags were wrong");
    }
    ensure!(kernel[0].contains_key("sa replay") && kernel[1].contains_key("sa failed"), "{kernel:?}");
    ensure!(link.there.counter("ipsec_rx_replayed")? == 1, "the NIC took no packet for a replayed one");
    Ok(())
}

/// What the kernel believes to be in the NIC, and is not any more, does not leave in the clear.
pub(super) fn a_reset_loses_security_associations_and_lets_nothing_out(lab: &mut Lab) -> Outcome {
    let link = Link::new(lab)?;
    link.protect(PLAIN, [By::Crypto, By::Kernel])?;
    link.here.pings(&link.there, PLAIN, 1)?;
    ensure!(link.only_esp(0)? == 1, "the ping was not seen");
    link.here.nic.set("reset", "1")?;
    ensure!(link.here.nic.shown("sas")?.is_empty(), "SAs are left");
    let mut ping = link.here.netns.command("ping");
    let status = ping.args(["-c", "1", "-W", "1", "-p", "706c61696e747874", "172.30.0.2"]).output()?.status;
    ensure!(!status.success(), "it was answered");
    ensure!(link.only_esp(0)? == 0, "something left");
    ensure!(link.here.counter("ipsec_tx_drop_no_sa")? == 1, "the drop is not counted");
    // A new one is as good as the first was.
    link.clear()?;
    link.protect(PLAIN, [By::Crypto, By::Kernel])?;
    link.here.pings(&link.there, PLAIN, 1)
}

/// The NIC tells of both limits, keeps the hard one itself, and lets nothing out afterwards.
pub(super) fn an_sa_in_the_nic_expires_softly_and_then_for_good(lab: &mut Lab) -> Outcome {
    let link = Link::new(lab)?;
    link.protect(PLAIN, [By::Packet, By::Kernel])?;
    link.here.ip("xfrm state delete src 172.30.0.1 dst 172.30.0.2 proto esp spi 0xc0de")?;
    let limited = link.here.state([&link.here, &link.there], "0xc0de", PLAIN, By::Packet);
    link.here.ip(&limited.replace("offload", "limit packet-soft 2 limit packet-hard 4 offload"))?;
    let mut monitor = link.here.netns.command("ip");
    let path = lab.dir().join("expired");
    let mut monitor =
        monitor.args(["xfrm", "monitor", "expire"]).stdout(std::fs::File::create(&path)?).spawn()?;
    let told = listens(&link).and_then(|()| expiries(&link, &path));
    monitor.kill()?;
    monitor.wait()?;
    told
}

/// Somebody has joined a group of XFRM, which is netlink's protocol 6.
fn listens(link: &Link) -> Outcome {
    wait_until("the monitor listens", ARRIVES_WITHIN, || {
        let sockets = link.here.netns.run(&["cat", "/proc/net/netlink"])?;
        Ok(sockets.lines().any(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            words.get(1) == Some(&"6") && words.get(3).is_some_and(|groups| groups.contains(|c| c != '0'))
        }))
    })
}

fn expiries(link: &Link, path: &std::path::Path) -> Outcome {
    let told = |count: usize| {
        wait_until(&format!("{count} expiries are told"), ARRIVES_WITHIN, || {
            Ok(std::fs::read_to_string(path)?.matches("Expired").count() == count)
        })
    };
    // Those that the monitor was not there for are not told again.
    link.here.pings(&link.there, PLAIN, 1)?;
    link.here.pings(&link.there, PLAIN, 1)?;
    told(1)?;
    let counted = link.here.ip("-s xfrm state get src 172.30.0.1 dst 172.30.0.2 proto esp spi 0xc0de")?;
    // Two times 300 bytes and ICMP's header.
    ensure!(counted.contains("616(bytes), 2(packets)"), "{counted}");
    link.here.pings(&link.there, PLAIN, 2)?;
    told(2)?;
    ensure!(link.only_esp(0)? == 4, "more or less than four packets left");
    let mut ping = link.here.netns.command("ping");
    let status = ping.args(["-c", "1", "-W", "1", "172.30.0.2"]).output()?.status;
    ensure!(!status.success() && link.only_esp(0)? == 0, "something left after the hard limit");
    Ok(())
}

/// Out of the NIC and into it nothing passes in the clear that a policy wants encrypted.
pub(super) fn a_policy_in_the_nic_lets_nothing_in_the_clear_pass(lab: &mut Lab) -> Outcome {
    let link = Link::new(lab)?;
    let end = &link.here;
    let device = end.nic.uplink();
    let add = |words: &str| {
        let words = words
            .replace("HERE", &format!("offload packet dev {device}"))
            .replace("TMPL", "tmpl proto esp reqid 7 mode transport");
        end.ip(&format!("xfrm policy add src 172.30.0.1 dst 172.30.0.2 {words}"))
    };
    for (words, sentence) in [
        ("proto sctp dir out HERE TMPL", "the selector's protocol has to be any, TCP or UDP"),
        ("dir fwd HERE TMPL", "a policy of forwarded packets is not offloaded"),
        ("dir out HERE TMPL TMPL", "a policy has one template at most"),
        ("dir out mark 1 HERE TMPL", "the NIC knows no marks and no interface ids"),
        ("dir out HERE tmpl proto esp mode transport", "mode packet needs a reqid"),
        (
            "dir out HERE tmpl src 172.30.0.1 dst 172.30.0.2 proto esp reqid 7 mode tunnel",
            "mode packet is for transport mode alone",
        ),
        ("dir out HERE tmpl proto ah reqid 7 mode transport", "the only protocol is ESP"),
    ] {
        let said = add(words).err().map(|failure| failure.to_string()).unwrap_or_default();
        ensure!(said.contains(sentence), "`{words}` is refused with {said}");
    }
    link.protect(PLAIN, [By::Packet, By::Packet])?;
    ensure!(end.counter("ipsec_policies")? == 2, "{}", end.nic.shown("policies")?);
    link.here.pings(&link.there, PLAIN, 1)?;
    let [before, sent] = [link.there.counter("ipsec_rx_drop_policy")?, end.counter("ipsec_tx_packets")?];
    // The other end's policies stay: it does not take what comes in the clear.
    end.batch(&["xfrm policy flush".to_owned(), "xfrm state flush".to_owned()])?;
    let mut ping = end.netns.command("ping");
    let status = ping.args(["-c", "1", "-W", "1", "172.30.0.2"]).output()?.status;
    ensure!(!status.success(), "what came in the clear was answered");
    ensure!(link.there.counter("ipsec_rx_drop_policy")? == before + 1, "it is not counted");
    ensure!(end.counter("ipsec_tx_packets")? == sent, "it was encrypted");
    Ok(())
}

/// While an SA is negotiated anew the peer is not ready for what is newest, and the policy says so.
pub(super) fn the_spi_of_a_policy_chooses_among_security_associations(lab: &mut Lab) -> Outcome {
    let link = Link::new(lab)?;
    let (here, there) = (&link.here, &link.there);
    let both = [here, there];
    link.protect(PLAIN, [By::Packet, By::Kernel])?;
    here.batch(&[here.state(both, "0xc0e0", PLAIN, By::Packet)])?;
    let policy = |spi: &str| {
        let device = here.nic.uplink();
        here.batch(&[format!(
            "xfrm policy update src 172.30.0.1 dst 172.30.0.2 dir out offload packet dev {device} \
             tmpl proto esp {spi} reqid 7 mode transport"
        )])
    };
    let sent_by = || -> Outcome<u32> {
        let frame = link.esp_from(0)?;
        let spi = frame.get(SPI_AT..SPI_AT + 4).ok_or_else(|| Failure::new("a frame ends before its SPI"))?;
        Ok(u32::from_be_bytes(spi.try_into()?))
    };
    policy("spi 0xc0de")?;
    here.pings(there, PLAIN, 1)?;
    let spi = sent_by()?;
    ensure!(spi == 0xc0de, "the peer does not have {spi:#x} yet");
    there.batch(&[there.state(both, "0xc0e0", PLAIN, By::Kernel)])?;
    for words in ["spi 0xc0e0", ""] {
        policy(words)?;
        here.pings(there, PLAIN, 1)?;
        let spi = sent_by()?;
        ensure!(spi == 0xc0e0, "`{words}` has it sent by {spi:#x}");
    }
    Ok(())
}
