//! Figures of the campus: how many flows begin, how many bytes they have, and how long their packets are.
//!
//! Source: P. Jurkiewicz, "Flow-models: A framework for analysis and modeling of IP network flows", SoftwareX 17 (2022)
//! and successors, 10.1016/j.softx.2023.101506; P. Jurkiewicz, G. Rzym, P. Boryło, "Flow length and size distributions in
//! campus Internet traffic", Computer Communications 167 (2021), 10.1016/j.comcom.2020.12.016; data set
//! agh_2015061019_IPv4_anon, one hour, 6,517,484 flows, 680,883,573 packets, 547,382,325,881 bytes. The mixture is the
//! published fit; the packet lengths are means over the published histogram.

use super::dice::Dice;

/// Flows that began in a second, on average over the hour.
pub(crate) const FLOWS_PER_S: f64 = 6_517_484.0 / 3_600.0;

/// Flow sizes in bytes: weight, sigma and median of each lognormal of the mixture (`all/size/flows.json`).
const SIZES: [(f64, f64, f64); 8] = [
    (0.389_168_754_945, 0.341_956_647_399, 102.423_984_806),
    (0.251_194_403_819, 0.535_049_898_484, 254.147_342_834),
    (0.238_725_479_979, 1.029_918_042_787, 820.309_595_399),
    (0.089_009_338_803, 1.100_404_028_691, 6_459.227_014_19),
    (0.024_456_302_949, 1.237_757_340_703, 78_595.514_306_9),
    (0.005_202_792_517, 1.989_703_948_930, 891_133.212_895),
    (0.001_829_684_433, 0.957_069_785_510, 1_638_854.529_267),
    (0.000_413_242_556, 0.853_182_731_812, 66_280_232.476_8),
];

/// The largest flow of the hour.
const LARGEST: f64 = 3_218_210_994.0;

/// Mean length of a packet, in bytes, of flows of 2^6 to 2^7 bytes, 2^7 to 2^8, and so on to 2^32.
const PACKET_LENGTHS: [f64; 26] = [
    86.8, 98.5, 137.9, 145.2, 176.3, 204.1, 257.3, 279.7, 287.5, 304.4, 333.8, 362.0, 397.5, 408.2, 407.6,
    355.6, 393.0, 566.2, 876.4, 1_059.8, 1_340.4, 1_392.3, 1_271.0, 1_178.5, 1_518.4, 1_301.2,
];

/// A flow's bytes and packets.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Size {
    pub(crate) bytes: u64,
    pub(crate) packets: u64,
}

/// Draws a flow's size.
pub(crate) fn size(dice: &mut Dice) -> Size {
    let mut chosen = dice.fraction();
    let mut part = SIZES[SIZES.len() - 1];
    for candidate in SIZES {
        if chosen <= candidate.0 {
            part = candidate;
            break;
        }
        chosen -= candidate.0;
    }
    let bytes = dice.lognormal(part.2, part.1).clamp(64.0, LARGEST);
    let class = (bytes.log2() as usize).saturating_sub(6).min(PACKET_LENGTHS.len() - 1);
    let packets = (bytes / PACKET_LENGTHS[class]).round().max(1.0);
    // A packet has at least 64 bytes, and a packet of a small flow at most 1514.
    let packets = packets.max((bytes / 1_514.0).ceil()).min((bytes / 64.0).floor().max(1.0));
    Size { bytes: bytes as u64, packets: packets as u64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_those_of_the_campus() {
        let mut dice = Dice::new(3);
        let flows = 2_000_000;
        let (mut bytes, mut packets, mut large, mut of_large) = (0, 0, 0_u64, 0);
        for _ in 0..flows {
            let size = size(&mut dice);
            bytes += size.bytes;
            packets += size.packets;
            if size.bytes >= 1 << 20 {
                large += 1;
                of_large += size.bytes;
            }
        }
        let mean = bytes as f64 / f64::from(flows);
        assert!((mean / 83_987.0 - 1.0).abs() < 0.15, "{mean} bytes per flow");
        let length = bytes as f64 / packets as f64;
        assert!((length / 803.9 - 1.0).abs() < 0.15, "{length} bytes per packet");
        // Flows above 1 MiB: 0.45 % of flows, 92.6 % of bytes.
        assert!((large as f64 / f64::from(flows) - 0.0045).abs() < 0.0006, "{large}");
        assert!((of_large as f64 / bytes as f64 - 0.926).abs() < 0.02);
    }
}
