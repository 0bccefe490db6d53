//! TCP with all of the devices' offloads on: packets that are large and whose checksums are still to be computed.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use crate::harness::{Failure, Lab, Netns, Outcome, Simnic, ensure, run, wait_for};
use crate::io::netns;

use super::rig::{counter_of, tc};

/// Bytes that are sent: enough for many TSO packets.
const BYTES: usize = 4 << 20;
/// How long either end waits for the other.
const PATIENCE: Duration = Duration::from_secs(60);

fn pattern() -> Vec<u8> {
    (0..BYTES).map(|index| u8::try_from(index % 251).unwrap_or_default()).collect()
}

fn serve(namespace: &str, address: &str) -> Outcome<TcpListener> {
    netns::enter(namespace)?;
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Sends the pattern to `address` from one namespace and checks what the other receives.
pub(super) fn transfer(from: &str, to: &str, listen: &'static str, address: &'static str) -> Outcome {
    let (ready, is_ready) = std::sync::mpsc::channel();
    thread::scope(|scope| {
        let server = scope.spawn(move || -> Outcome<Vec<u8>> {
            let listener = serve(to, listen);
            // The client need not know why: joining this thread tells.
            let _ = ready.send(listener.is_ok());
            let listener = listener?;
            let accept = || match listener.accept() {
                Ok((stream, _)) => Ok(Some(stream)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
                Err(error) => Err(error.into()),
            };
            let mut stream = wait_for("a client connects", PATIENCE, accept)?;
            stream.set_nonblocking(false)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            let mut bytes = Vec::new();
            stream.read_to_end(&mut bytes)?;
            Ok(bytes)
        });
        let client = scope.spawn(move || -> Outcome {
            netns::enter(from)?;
            ensure!(is_ready.recv()?, "the server does not listen");
            let mut stream = TcpStream::connect_timeout(&address.parse()?, PATIENCE)?;
            stream.set_write_timeout(Some(PATIENCE))?;
            stream.write_all(&pattern())?;
            Ok(())
        });
        let sent = client.join().map_err(|_| Failure::new("the client panicked"))?;
        sent?;
        let received = server.join().map_err(|_| Failure::new("the server panicked"))??;
        ensure!(received == pattern(), "{} bytes arrived, or others than were sent", received.len());
        Ok(())
    })
}

/// A NIC with a VF for a client of this address and one for a server of 10.7.9.9, filters possible at both representors. Each
/// end takes the other for the owner of one address: `seen` by the client, and by the server.
pub(super) fn two_ends(
    lab: &mut Lab,
    client_address: &str,
    seen: [&str; 2],
) -> Outcome<(Simnic, Netns, Netns)> {
    let nic = Simnic::new(0, 2)?;
    nic.set_mode("switchdev")?;
    let (client, server) = (Netns::new(lab, "client")?, Netns::new(lab, "server")?);
    for vf in 0..2 {
        run("ip", &["link", "set", &nic.representor(vf), "up"])?;
        tc(&format!("qdisc add dev {} clsact", nic.representor(vf)))?;
    }
    client.adopt(&nic.vf(0), client_address)?;
    server.adopt(&nic.vf(1), "10.7.9.9/16")?;
    let mac = |netns: &Netns, device: &str| netns.run(&["cat", &format!("/sys/class/net/{device}/address")]);
    let (mac0, mac1) = (mac(&client, &nic.vf(0))?, mac(&server, &nic.vf(1))?);
    client.run(&["ip", "neigh", "replace", seen[0], "lladdr", mac1.trim(), "dev", &nic.vf(0)])?;
    server.run(&["ip", "neigh", "replace", seen[1], "lladdr", mac0.trim(), "dev", &nic.vf(1)])?;
    Ok((nic, client, server))
}

/// A connection whose addresses and ports the switch rewrites both ways. A receiver believes a checksum that is still
/// to be computed, so once more with the senders computing all and the receivers verifying all.
pub(super) fn tcp_passes_a_rewriting_switch_with_offloads_on(lab: &mut Lab) -> Outcome {
    let (nic, client, server) = two_ends(lab, "10.7.0.1/24", ["10.7.0.2", "10.7.0.1"])?;
    tc(&format!(
        "filter add dev {} ingress protocol ip flower ip_proto tcp dst_ip 10.7.0.2 skip_sw action pedit ex \
         munge ip dst set 10.7.9.9 munge ip ttl dec munge tcp dport set 5002 pipe action csum ip4h and tcp pipe \
         action mirred egress redirect dev {}",
        nic.representor(0),
        nic.representor(1)
    ))?;
    tc(&format!(
        "filter add dev {} ingress protocol ip flower ip_proto tcp src_ip 10.7.9.9 skip_sw action pedit ex \
         munge ip src set 10.7.0.2 munge tcp sport set 5001 pipe action csum ip4h and tcp pipe \
         action mirred egress redirect dev {}",
        nic.representor(1),
        nic.representor(0)
    ))?;
    transfer(client.name(), server.name(), "10.7.9.9:5002", "10.7.0.2:5001")?;
    let packets = counter_of(&nic.representor(0), "vf_tx_hw_packets")?;
    ensure!(packets >= BYTES as u64 / 1460, "{packets} packets for {BYTES} bytes: TSO packets count as one");

    for (netns, device) in [(&client, nic.vf(0)), (&server, nic.vf(1))] {
        netns.run(&["ethtool", "-K", &device, "tx", "off", "tso", "off", "gso", "off"])?;
    }
    transfer(client.name(), server.name(), "10.7.9.9:5002", "10.7.0.2:5001")
}
