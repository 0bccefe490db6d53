//! Byte for byte: encapsulation and decapsulation against the kernel's tunnel devices.

use super::super::frame::{Body, Frame, frame, tcp, udp};
use super::super::rig::{hex, receive};
use super::rig::{TUNNELS, Tunnel, TunnelRig, turned_round, without_identification};
use crate::harness::{Failure, Lab, Outcome, ensure};

/// What is sent through each tunnel: both IP versions with marks of congestion and without, a VLAN tag, both, no IP at all.
fn inner() -> Vec<Frame> {
    vec![
        frame(),
        frame().v4(|ip| (ip.l4, ip.tos, ip.ttl) = (udp(5, 6), 0x2a, 17)),
        frame().v4(|ip| (ip.l4, ip.tos) = (udp(5, 6), 0x03)),
        frame().v4(|ip| (ip.l4, ip.tos) = (tcp(5, 6), 0x01)),
        frame().v6(|ip| (ip.l4, ip.class, ip.hop_limit) = (tcp(7, 8), 0x2a, 21)),
        frame().v6(|ip| ip.l4 = udp(7, 9)),
        frame().tag(0x8100, 0x2005),
        frame().v4(|ip| (ip.l4, ip.tos) = (udp(5, 6), 0x02)).tag(0x8100, 0x2005),
        frame().body(Body::Other(0x88b5)),
    ]
}

fn bytes() -> Vec<Vec<u8>> {
    inner().iter().enumerate().map(|(id, frame)| frame.encode(id)).collect()
}

/// Sends the frames from VF 0; what comes out at the wire's far end.
fn encapsulated(rig: &TunnelRig, tunnel: &Tunnel, flag: &str) -> Outcome<Vec<Vec<u8>>> {
    rig.encapsulate(tunnel, flag)?;
    let vf = rig.rig.vf(0)?;
    for frame in bytes() {
        vf.send(&frame)?;
    }
    receive(&rig.far, bytes().len())
}

/// Sends `outer` from the far end; what arrives at VF 1.
fn decapsulated(rig: &TunnelRig, tunnel: &Tunnel, flag: &str, outer: &[Vec<u8>]) -> Outcome<Vec<Vec<u8>>> {
    rig.decapsulate(tunnel, flag)?;
    let vf = rig.rig.vf(1)?;
    for frame in outer {
        rig.far.send(frame)?;
    }
    receive(&vf, outer.len())
}

fn same(what: &str, hardware: &[Vec<u8>], software: &[Vec<u8>]) -> Outcome {
    for (index, (hard, soft)) in hardware.iter().zip(software).enumerate() {
        let plain = |frame: &[u8]| {
            let bad = || Failure::new(format!("{what} {index}: IPv4 checksum of {}", hex(frame)));
            without_identification(frame).ok_or_else(bad)
        };
        ensure!(
            plain(hard)? == plain(soft)?,
            "{what} {index}: hardware {} software {}",
            hex(hard),
            hex(soft)
        );
    }
    Ok(())
}

fn encapsulate_both_ways(rig: &TunnelRig, tunnel: &Tunnel) -> Outcome {
    let before = rig.slow()?.0;
    let hardware = encapsulated(rig, tunnel, "skip_sw")?;
    let between = rig.slow()?.0;
    ensure!(between == before, "{} packets took the slow path", between - before);
    let rules = rig.rig.nic.rules()?;
    ensure!(rules.contains(&format!(" packets {} ", bytes().len())), "counted: {rules}");
    let software = encapsulated(rig, tunnel, "skip_hw")?;
    ensure!(rig.slow()?.0 == between + software.len() as u64, "the software path was not the software path");
    same("encapsulated frame", &hardware, &software)
}

fn decapsulate_both_ways(rig: &TunnelRig, tunnel: &Tunnel, to: [u8; 6]) -> Outcome {
    let outer: Vec<_> =
        encapsulated(rig, tunnel, "skip_sw")?.iter().map(|frame| turned_round(frame, to)).collect();
    let before = rig.slow()?.1;
    // TC takes no skip_sw on a device that is not the driver's own.
    let hardware = decapsulated(rig, tunnel, "", &outer)?;
    let between = rig.slow()?.1;
    ensure!(between == before, "{} packets took the slow path", between - before);
    let software = decapsulated(rig, tunnel, "skip_hw", &outer)?;
    ensure!(rig.slow()?.1 >= between + software.len() as u64, "the software path was not the software path");
    for (index, (hard, soft)) in hardware.iter().zip(&software).enumerate() {
        ensure!(hard == soft, "frame {index}: hardware {} software {}", hex(hard), hex(soft));
    }
    ensure!(hardware == bytes(), "what came out is not what went in");
    Ok(())
}

/// Tries all kinds and reports every one that differs.
fn try_all(what: impl Fn(&TunnelRig, &Tunnel) -> Outcome) -> Outcome {
    let rig = TunnelRig::new()?;
    let mut wrong = String::new();
    for tunnel in &TUNNELS {
        if let Err(failure) = what(&rig, tunnel) {
            wrong.push_str(&format!("\n  {} {} {}: {failure}", tunnel.device, tunnel.ends.1, tunnel.set));
        }
        // The next kind is not to be disturbed by this one's rules, nor by what was still on its way.
        let _ = rig.clear(tunnel);
        while rig.far.receive(std::time::Duration::from_millis(1))?.is_some() {}
    }
    ensure!(wrong.is_empty(), "{wrong}");
    Ok(())
}

/// VXLAN, its group based policy, Geneve with options, GRE, over IPv4 and IPv6.
pub(in super::super) fn encapsulated_frames_are_those_of_the_kernels_tunnels(_: &mut Lab) -> Outcome {
    try_all(encapsulate_both_ways)
}

/// The same the other way.
pub(in super::super) fn decapsulated_frames_are_those_of_the_kernels_tunnels(_: &mut Lab) -> Outcome {
    try_all(|rig, tunnel| {
        let address = std::fs::read_to_string(format!("/sys/class/net/{}/address", rig.rig.nic.uplink()))?;
        let to: Vec<u8> =
            address.trim().split(':').filter_map(|byte| u8::from_str_radix(byte, 16).ok()).collect();
        let to = <[u8; 6]>::try_from(to).map_err(|_| Failure::new(format!("no MAC address: {address}")))?;
        decapsulate_both_ways(rig, tunnel, to)
    })
}
