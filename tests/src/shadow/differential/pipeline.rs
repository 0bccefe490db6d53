//! Pipelines: a few tables of flows for one port's packets, and the packets.

use super::acting;
use super::dice::Dice;
use super::matching;
use super::mutant;
use super::outer::{Kind, Outer};
use super::packet::Packet;
use super::switch::{GENEVE, GRE, UPLINK, VFS, VXLAN};

/// Packets of a pipeline.
pub(super) const PACKETS: usize = 50;
/// Of these, how many are drawn; all others are mutants of them.
const ORIGINALS: usize = 14;

/// Where a pipeline's packets come from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Ingress {
    Vf(u32),
    Uplink,
    /// Out of a tunnel of this kind with this id.
    Tunnel(Kind, u32),
}

impl Ingress {
    /// The number of the OpenFlow port.
    pub(super) const fn port(self) -> u32 {
        match self {
            Self::Vf(vf) => vf + 1,
            Self::Uplink => UPLINK,
            Self::Tunnel(Kind::Geneve, _) => GENEVE,
            Self::Tunnel(Kind::Vxlan, _) => VXLAN,
            Self::Tunnel(Kind::Gre, _) => GRE,
        }
    }

    /// What all flows of the pipeline match.
    fn text(self) -> String {
        match self {
            Self::Tunnel(_, id) => format!("in_port={},tun_id={id:#x}", self.port()),
            Self::Vf(_) | Self::Uplink => format!("in_port={}", self.port()),
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Pipeline {
    pub(super) seed: u64,
    pub(super) ingress: Ingress,
    /// As `ovs-ofctl add-flows` reads them.
    pub(super) flows: Vec<String>,
    pub(super) packets: Vec<Packet>,
}

/// How many pipelines can be there at once.
pub(super) const AT_ONCE: u64 = VFS as u64 + 8;

/// Where the pipeline of this seed has its packets from; pipelines with `AT_ONCE` seeds in a row share none.
fn ingress(seed: u64) -> Ingress {
    let place = (seed % AT_ONCE) as u32;
    let id = 0x100 + place;
    match place.checked_sub(VFS) {
        None => Ingress::Vf(place),
        Some(0) => Ingress::Uplink,
        Some(at) => Ingress::Tunnel([Kind::Geneve, Kind::Vxlan, Kind::Gre][at as usize % 3], id),
    }
}

impl Pipeline {
    pub(super) fn draw(seed: u64) -> Self {
        let (ingress, mut dice) = (ingress(seed), Dice::new(seed));
        let originals: Vec<Packet> = (0..ORIGINALS).map(|_| original(ingress, &mut dice)).collect();
        let last = dice.of(&[0_u8, 1, 1, 2]);
        let mut flows = Vec::new();
        for table in 0..=last {
            for priority in 1..=dice.of(&[2_u16, 4, 6]) {
                flows.push(flow(ingress, table, last, priority, &originals, &mut dice));
            }
        }
        let mut packets = originals.clone();
        while packets.len() < PACKETS {
            let at = dice.below(packets.len());
            packets.push(mutant::of(&packets[at], &mut dice));
        }
        Self { seed, ingress, flows, packets }
    }
}

fn original(ingress: Ingress, dice: &mut Dice) -> Packet {
    let mut packet = Packet::draw(dice);
    if let Ingress::Tunnel(kind, id) = ingress {
        packet.outer = Some(Outer::draw(kind, id, dice));
    }
    packet
}

fn flow(
    ingress: Ingress,
    table: u8,
    last: u8,
    priority: u16,
    originals: &[Packet],
    dice: &mut Dice,
) -> String {
    let of = &originals[dice.below(originals.len())];
    let (mut matched, known) = match priority {
        // So that most packets are of some flow.
        1 if dice.one_in(2) => (String::new(), matching::Known::default()),
        _ => matching::draw(of, dice),
    };
    if !matched.is_empty() {
        matched.insert(0, ',');
    }
    if let Some(outer) = &of.outer
        && dice.one_in(3)
    {
        matched.push_str(&outer_match(outer, dice));
    }
    let actions = acting::draw(known, table, last, dice);
    format!("table={table},priority={priority},{}{matched},actions={actions}", ingress.text())
}

fn outer_match(outer: &Outer, dice: &mut Dice) -> String {
    match (dice.below(4), outer.kind) {
        (0, _) if !outer.v6 => ",tun_src=172.31.0.2".to_owned(),
        (1, Kind::Geneve) => ",tun_metadata0=0x10002".to_owned(),
        (1, Kind::Vxlan) => format!(",tun_gbp_id={:#x}", outer.policy.unwrap_or(0)),
        (2, Kind::Geneve) => format!(",tun_flags={}oam", if outer.oam { '+' } else { '-' }),
        _ => String::new(),
    }
}
