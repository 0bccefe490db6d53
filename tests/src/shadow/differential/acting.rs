//! What flows do: lists of actions that are allowed after what their match says.

use super::dice::Dice;
use super::matching::{Known, address_text, mac_text};
use super::outer::Kind;
use super::packet::{self, ARP, ICMP, IPV4, IPV6, MPLS, MPLS_MULTICAST, SCTP, TCP, UDP};
use super::switch::{GENEVE, GRE, UPLINK, VFS, VXLAN};

/// The actions of a flow in `table`; `last` is the last one.
pub(super) fn draw(known: Known, table: u8, last: u8, dice: &mut Dice) -> String {
    let mut words = Words { known, text: Vec::new(), tags_pushed: 0, labels_pushed: 0 };
    if dice.one_in(14) {
        return "drop".to_owned();
    }
    for _ in 0..dice.of(&[0, 0, 1, 1, 2, 3]) {
        words.change(dice);
        if dice.one_in(5) {
            words.output(dice);
        }
    }
    if table < last && dice.below(3) > 0 {
        words.text.push(format!("resubmit(,{})", table + 1));
        // What comes after goes on with the packet as the other table left it.
        if dice.one_in(2) {
            return words.text.join(",");
        }
    }
    words.output(dice);
    if dice.one_in(6) {
        words.output(dice);
    }
    words.text.join(",")
}

struct Words {
    known: Known,
    text: Vec<String>,
    tags_pushed: usize,
    labels_pushed: usize,
}

impl Words {
    fn set(&mut self, value: &str, field: &str) {
        self.text.push(format!("set_field:{value}->{field}"));
    }

    fn output(&mut self, dice: &mut Dice) {
        match dice.below(12) {
            0 => self.text.push("in_port".to_owned()),
            1 | 2 => self.text.push(format!("output:{UPLINK}")),
            3 => self.tunnel(dice),
            _ => self.text.push(format!("output:{}", 1 + dice.below(VFS as usize))),
        }
    }

    fn tunnel(&mut self, dice: &mut Dice) {
        let kind = dice.of(&[Kind::Geneve, Kind::Vxlan, Kind::Gre]);
        let v6 = kind != Kind::Gre && dice.one_in(3);
        self.set(dice.of(&["7", "0", "0xffffff"]), "tun_id");
        match v6 {
            true => self.set("fd31::2", "tun_ipv6_dst"),
            false => self.set("172.31.0.2", "tun_dst"),
        }
        match kind {
            Kind::Geneve => {
                if dice.one_in(2) {
                    self.set(dice.of(&["0x10002", "0", "0xffffffff"]), "tun_metadata0");
                }
                if dice.one_in(4) {
                    self.set("0x0a0b0c0d0e0f1011", "tun_metadata1");
                }
                self.text.push(format!("output:{GENEVE}"));
            }
            Kind::Vxlan => {
                if dice.one_in(2) {
                    self.set(dice.of(&["0x1234", "1"]), "tun_gbp_id");
                }
                self.text.push(format!("output:{VXLAN}"));
            }
            Kind::Gre => self.text.push(format!("output:{GRE}")),
        }
    }

    fn change(&mut self, dice: &mut Dice) {
        match (dice.below(8), self.known.ethertype) {
            (0, _) => self.mac(dice),
            (1, _) => self.vlan(dice),
            (2, Some(IPV4 | IPV6 | ARP | MPLS | MPLS_MULTICAST)) => self.labels(dice),
            (_, Some(IPV4)) => self.network(dice, false),
            (_, Some(IPV6)) => self.network(dice, true),
            (_, Some(MPLS | MPLS_MULTICAST)) => self.labels(dice),
            (_, Some(ARP)) => match dice.below(3) {
                0 => self.set("2", "arp_op"),
                1 => self.set("10.0.0.9", "arp_spa"),
                _ => self.set("02:00:00:00:00:77", "arp_tha"),
            },
            _ => self.mac(dice),
        }
    }

    fn mac(&mut self, dice: &mut Dice) {
        let field = dice.of(&["eth_src", "eth_dst"]);
        let mac = mac_text(packet::mac(dice));
        match dice.below(3) {
            0 => self.set("00:00:00:00:00:40/00:00:00:00:00:f0", field),
            1 => self.text.push("move:NXM_OF_ETH_SRC[]->NXM_OF_ETH_DST[]".to_owned()),
            _ => self.set(&mac, field),
        }
    }

    fn vlan(&mut self, dice: &mut Dice) {
        // OpenFlow knows of labels inside of tags only.
        if self.labels_pushed > 0 {
            return self.mac(dice);
        }
        if self.known.tagged && dice.one_in(2) {
            self.known.tagged = self.tags_pushed > 1;
            self.tags_pushed = self.tags_pushed.saturating_sub(1);
            return self.text.push("pop_vlan".to_owned());
        }
        if !self.known.tagged || (self.tags_pushed == 0 && dice.one_in(2)) {
            let tpid = dice.of(&["0x8100", "0x88a8"]);
            self.text.push(format!("push_vlan:{tpid}"));
            self.known.tagged = true;
            self.tags_pushed += 1;
        }
        if dice.below(4) > 0 {
            let id = dice.of(&[5_u16, 100, 0, 4094, 1, 7, 8, 4095]);
            self.set(&(0x1000 | id).to_string(), "vlan_vid");
        }
        if dice.one_in(3) {
            self.set(dice.of(&["0", "5", "7"]), "vlan_pcp");
        }
    }

    fn labels(&mut self, dice: &mut Dice) {
        let is_mpls = matches!(self.known.ethertype, Some(MPLS | MPLS_MULTICAST));
        if !is_mpls || (self.labels_pushed == 0 && dice.one_in(4)) {
            let ethertype = dice.of(&[MPLS, MPLS, MPLS_MULTICAST]);
            self.text.push(format!("push_mpls:{ethertype:#06x}"));
            self.known.ethertype = Some(ethertype);
            self.known.proto = None;
            self.labels_pushed += 1;
        }
        match dice.below(6) {
            0 => self.set(dice.of(&["100", "0", "1048575"]), "mpls_label"),
            1 => self.set("5", "mpls_tc"),
            2 => self.text.push("dec_mpls_ttl".to_owned()),
            3 => self.text.push(format!("set_mpls_ttl({})", dice.of(&[1, 64, 255]))),
            4 => {
                let ethertype = dice.of(&[IPV4, IPV4, IPV6, MPLS]);
                self.text.push(format!("pop_mpls:{ethertype:#06x}"));
                self.known.ethertype = Some(ethertype);
                self.known.proto = None;
            }
            _ => {}
        }
    }

    fn network(&mut self, dice: &mut Dice, is_v6: bool) {
        let address = address_text(packet::address(dice, is_v6), is_v6);
        let (src, dst) = if is_v6 { ("ipv6_src", "ipv6_dst") } else { ("ip_src", "ip_dst") };
        match dice.below(11) {
            0 => self.set(&address, src),
            1 => self.set(&address, dst),
            2 if is_v6 => self.set("fd00::5/ffff::ff", dst),
            2 => self.set("10.9.0.0/255.255.0.0", dice.of(&[src, dst])),
            3 => self.set(dice.of(&["0", "46", "63"]), "ip_dscp"),
            4 => self.set(dice.of(&["0", "1", "3"]), "ip_ecn"),
            5 | 6 => self.text.push("dec_ttl".to_owned()),
            7 => self.set(dice.of(&["1", "2", "64", "255"]), "nw_ttl"),
            8 if is_v6 => self.set("0x54321", "ipv6_label"),
            _ => self.ports(dice),
        }
    }

    fn ports(&mut self, dice: &mut Dice) {
        let name = match self.known.proto {
            Some(TCP) => "tcp",
            Some(UDP) => "udp",
            Some(SCTP) => "sctp",
            Some(ICMP) if self.known.ethertype == Some(IPV4) => return self.set("3", "icmp_type"),
            _ => return self.text.push("dec_ttl".to_owned()),
        };
        let field = format!("{name}_{}", dice.of(&["src", "dst"]));
        match dice.one_in(3) {
            true => self.set("0x0100/0xff00", &field),
            false => self.set(&packet::port(dice).to_string(), &field),
        }
    }
}
