//! A change of mode on one NIC, and traffic on others.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use lab_tests::ensure;
use lab_tests::harness::{Failure, Lab, Outcome, Simnic, run};

use super::scene::{apply, bridge, mode};
use crate::io::packet_socket::PacketSocket;

/// Times to switchdev and back.
const TURNS: u32 = 3;
/// EtherType of the lab's own frames, for local experiments (IEEE Std 802).
const ETHERTYPE: [u8; 2] = [0x88, 0xb5];

/// A frame with a number in it.
fn frame(number: u64) -> Vec<u8> {
    let mut bytes = vec![0xff; 6];
    bytes.extend([2, 0, 0, 0, 0, 1]);
    bytes.extend(ETHERTYPE);
    bytes.extend(number.to_be_bytes());
    bytes.resize(64, 0);
    bytes
}

fn number_of(bytes: &[u8]) -> Option<u64> {
    let rest = bytes.get(12..)?.strip_prefix(&ETHERTYPE)?;
    Some(u64::from_be_bytes(rest.get(..8)?.try_into().ok()?))
}

pub(super) fn a_switch_to_switchdev_and_back_disturbs_no_traffic_elsewhere(lab: &mut Lab) -> Outcome {
    let changed = Simnic::with_total_vfs(0, 4)?;
    let (left, right) = (Simnic::new(1, 1)?, Simnic::new(2, 0)?);
    left.wire(&right)?;
    left.set_mode("switchdev")?;
    for device in [left.vf(0), left.representor(0), left.uplink(), right.uplink()] {
        run("ip", &["link", "set", &device, "up"])?;
    }
    // From the VF to the wire, by a rule in hardware.
    run("tc", &["qdisc", "add", "dev", &left.representor(0), "clsact"])?;
    let rule = format!(
        "filter add dev {} ingress flower skip_sw action mirred egress redirect dev {}",
        left.representor(0),
        left.uplink()
    );
    run("tc", &rule.split(' ').collect::<Vec<_>>())?;
    let ovs = bridge(lab)?;
    let (out, back) = (PacketSocket::open(&left.vf(0))?, PacketSocket::open(&right.uplink())?);
    let stop = AtomicBool::new(false);
    let (sent, received, switched) = thread::scope(|scope| {
        let sender = scope.spawn(|| -> Outcome<(u64, u64)> {
            let (mut number, mut received) = (0, 0);
            // Never more under way than a queue takes: what is missing was lost on the way, and not for want of room.
            while !stop.load(Ordering::Relaxed) {
                for _ in 0..16 {
                    out.send(&frame(number))?;
                    number += 1;
                }
                while received < number {
                    let bytes = back.receive(Duration::from_secs(10))?.ok_or_else(|| {
                        Failure::new(format!("frame {received} of {number} did not arrive"))
                    })?;
                    let Some(got) = number_of(&bytes) else { continue };
                    ensure!(got == received, "frame {got} arrived where {received} was next");
                    received += 1;
                }
            }
            Ok((number, received))
        });
        let switch = || -> Outcome {
            for turn in 0..TURNS {
                for wanted in ["switchdev", "legacy"] {
                    let vfs = if turn == 0 { "vfs = 4\n" } else { "" };
                    let config = format!(
                        "[[device]]\nhandle = \"simnic/simnic0\"\neswitch-mode = \"{wanted}\"\n{vfs}"
                    );
                    apply(lab, &ovs, &config, &[])?.reached()?;
                    ensure!(mode(&changed.devlink())? == wanted, "it is {}", mode(&changed.devlink())?);
                }
            }
            Ok(())
        };
        let switched = switch();
        stop.store(true, Ordering::Relaxed);
        let sent = sender.join().map_err(|_| Failure::new("the sender has died".to_owned()))??;
        Ok::<_, Failure>((sent.0, sent.1, switched))
    })?;
    switched?;
    println!("{sent} frames sent, {received} received in order, during {} changes of mode", 2 * TURNS);
    ensure!(sent == received && sent > 1_000, "{sent} sent, {received} received");
    Ok(())
}
