//! The switch under test: an Open vSwitch that does not offload, a NIC with its uplink and VFs, and the far ends of all
//! of them, in a namespace of their own.

use std::collections::BTreeMap;
use std::fs;
use std::thread;

use lab_tests::harness::{Failure, Lab, Netns, Outcome, Ovs, Simnic, ethtool_counters, output, run};

use super::matching::mac_text;
use super::outer::{FAR_MAC, NEAR_MAC};
use crate::io::netns;
use crate::io::packet_socket::PacketSocket;
use crate::simnic::rig::{batch, up};

/// VFs of the NIC. The OpenFlow ports of their representors are numbered from 1.
pub(super) const VFS: u32 = 56;
/// OpenFlow ports.
pub(super) const UPLINK: u32 = 100;
pub(super) const GENEVE: u32 = 101;
pub(super) const VXLAN: u32 = 102;
pub(super) const GRE: u32 = 103;
/// The devices that Open vSwitch makes for its tunnels.
pub(super) const TUNNEL_DEVICES: [(&str, &str); 3] =
    [("genev_sys_6081", "geneve"), ("vxlan_sys_4789", "vxlan"), ("gre_sys", "gre")];

const SETTINGS: [&str; 5] = [
    "hw-offload=false",
    // All tags that the kernel datapath can tell apart.
    "vlan-limit=0",
    // No megaflow goes but with what it was made from.
    "max-idle=3600000",
    "max-revalidator=60000",
    "min-revalidate-pps=0",
];

/// A place where packets come in and out, at the other end of the NIC's ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum End {
    Vf(u32),
    /// Behind the uplink that is a port of the bridge.
    Wire,
    /// Behind the uplink that tunnels go by.
    Underlay,
}

pub(super) struct Switch {
    pub(super) ovs: Ovs,
    pub(super) ends: PacketSocket,
    pub(super) indexes: BTreeMap<End, i32>,
    nics: [Simnic; 2],
    _remotes: [Simnic; 2],
    _far: Netns,
}

impl Switch {
    pub(super) fn new(lab: &mut Lab) -> Outcome<Self> {
        let nics = [Simnic::new(0, VFS)?, Simnic::on_card(2, 0)?];
        let remotes = [Simnic::new(1, 0)?, Simnic::new(3, 0)?];
        for (nic, remote) in nics.iter().zip(&remotes) {
            nic.wire(remote)?;
            nic.set_mode("switchdev")?;
        }
        let far = Netns::new(lab, "far")?;
        let mut devices = vec![(End::Wire, remotes[0].uplink()), (End::Underlay, remotes[1].uplink())];
        devices.extend((0..VFS).map(|vf| (End::Vf(vf), nics[0].vf(vf))));
        let indexes =
            devices.iter().map(|(end, device)| Ok((*end, index(device)?))).collect::<Outcome<_>>()?;
        far.run(&[
            "sysctl",
            "-qw",
            "net.ipv6.conf.all.disable_ipv6=1",
            "net.ipv6.conf.default.disable_ipv6=1",
        ])?;
        batch("ip", devices.iter().map(|(_, device)| format!("link set {device} netns {}", far.name())))?;
        let path = lab.dir().join("ends.ip");
        fs::write(
            &path,
            devices.iter().map(|(_, device)| format!("link set {device} up\n")).collect::<String>(),
        )?;
        far.run(&["ip", "-batch", &path.to_string_lossy()])?;
        let ovs = Ovs::start(lab, &SETTINGS)?;
        let name = far.name().to_owned();
        let opened =
            thread::spawn(move || netns::enter(&name).and_then(|()| PacketSocket::open_all())).join();
        let ends = opened.map_err(|_| Failure::new("opening the socket of the far ends panicked"))??;
        let switch = Self { ovs, ends, indexes, nics, _remotes: remotes, _far: far };
        switch.set_up_underlay()?;
        switch.set_up_bridge()?;
        Ok(switch)
    }

    fn set_up_underlay(&self) -> Outcome {
        let device = self.nics[1].uplink();
        // So that what software sends has its checksums when it is on the wire, as what hardware sends.
        run("ethtool", &["-K", &device, "tx", "off"])?;
        let far = mac_text(FAR_MAC);
        batch(
            "ip",
            [
                format!("link set {device} address {}", mac_text(NEAR_MAC)),
                format!("link set {device} up"),
                format!("address add 172.31.0.1/24 dev {device}"),
                format!("address add fd31::1/64 dev {device} nodad"),
                format!("neigh replace 172.31.0.2 lladdr {far} dev {device} nud permanent"),
                format!("neigh replace fd31::2 lladdr {far} dev {device} nud permanent"),
            ]
            .into_iter(),
        )
    }

    fn set_up_bridge(&self) -> Outcome {
        let mut ports: Vec<(String, u32)> =
            (0..VFS).map(|vf| (self.nics[0].representor(vf), vf + 1)).collect();
        ports.push((self.nics[0].uplink(), UPLINK));
        let devices: Vec<String> = ports.iter().map(|(device, _)| device.clone()).collect();
        up(&devices)?;
        let mut words = "--may-exist add-br br0 -- set Bridge br0 fail-mode=secure".to_owned();
        for (device, number) in &ports {
            words.push_str(&format!(
                " -- add-port br0 {device} -- set Interface {device} ofport_request={number}"
            ));
        }
        for (port, number, options) in [
            ("geneve", GENEVE, "options:csum=true"),
            ("vxlan", VXLAN, "options:exts=gbp options:tos=inherit"),
            ("gre", GRE, "options:df_default=false"),
        ] {
            words.push_str(&format!(
                " -- add-port br0 {port} -- set Interface {port} type={port} ofport_request={number} \
                 options:remote_ip=flow options:key=flow {options}"
            ));
        }
        self.ovs.vsctl(&words.split_whitespace().collect::<Vec<_>>())?;
        self.ofctl(&[
            "add-tlv-map",
            "br0",
            "{class=0x102,type=0x80,len=4}->tun_metadata0,{class=0x103,type=0x1,len=8}->tun_metadata1",
        ])?;
        let tunnels = TUNNEL_DEVICES.map(|(device, _)| device.to_owned());
        batch("tc", devices.iter().chain(&tunnels).map(|device| format!("qdisc add dev {device} clsact")))
    }

    fn ofctl(&self, words: &[&str]) -> Outcome<String> {
        output(self.ovs.command("ovs-ofctl").args(["--timeout=60", "-O", "OpenFlow15"]).args(words))
    }

    /// Has the bridge use these flows and no others, and forget its megaflows.
    pub(super) fn load(&self, lab: &Lab, flows: &[String]) -> Outcome {
        let path = lab.dir().join("flows.txt");
        fs::write(&path, format!("delete\n{}\n", flows.join("\n")))?;
        self.ofctl(&["--bundle", "add-flows", "br0", &path.to_string_lossy()])?;
        self.ovs.appctl(&["revalidator/purge"]).map(drop)
    }

    /// The OpenFlow port whose device has this name.
    pub(super) fn port_of(&self, device: &str) -> Option<u32> {
        let vf = (0..VFS).find(|vf| self.nics[0].representor(*vf) == device).map(|vf| vf + 1);
        let uplink = || (self.nics[0].uplink() == device).then_some(UPLINK);
        let tunnels = [GENEVE, VXLAN, GRE].into_iter().zip(TUNNEL_DEVICES);
        let mut tunnels = tunnels.filter(|(_, (name, _))| *name == device).map(|(port, _)| port);
        vf.or_else(uplink).or_else(|| tunnels.next())
    }

    /// Takes all rules out of the NIC.
    pub(super) fn clear_rules(&self) -> Outcome {
        let mut devices: Vec<String> = (0..VFS).map(|vf| self.nics[0].representor(vf)).collect();
        devices.push(self.nics[0].uplink());
        devices.extend(TUNNEL_DEVICES.map(|(device, _)| device.to_owned()));
        batch("tc", devices.iter().map(|device| format!("filter delete dev {device} ingress")))
    }

    /// Packets that the NIC dealt with itself, and that it gave to the host, as it counts them.
    pub(super) fn counted(&self) -> Outcome<Counted> {
        let mut counted = Counted::default();
        let mut devices: Vec<String> = (0..VFS).map(|vf| self.nics[0].representor(vf)).collect();
        devices.extend(self.nics.iter().map(Simnic::uplink));
        for device in devices {
            for (counter, packets) in ethtool_counters(&device)? {
                match counter.as_str() {
                    "vf_tx_hw_packets" | "wire_rx_hw_packets" => counted.hardware += packets,
                    "vf_tx_slow_packets" | "wire_rx_slow_packets" => counted.slow += packets,
                    "drop_queue" | "drop_queue_packets" => counted.lost += packets,
                    _ => {}
                }
            }
        }
        Ok(counted)
    }
}

/// Packets by their way.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counted {
    pub(super) hardware: u64,
    pub(super) slow: u64,
    pub(super) lost: u64,
}

fn index(device: &str) -> Outcome<i32> {
    Ok(fs::read_to_string(format!("/sys/class/net/{device}/ifindex"))?.trim().parse()?)
}
