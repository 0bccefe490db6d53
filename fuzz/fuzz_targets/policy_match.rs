#![no_main]
//! The match language against any text: it is read or refused, never a panic; what is read prints to the same tree, and
//! its three-valued answer for a megaflow agrees with its answer for a packet of that megaflow.
//!
//! Input: the header bits of a megaflow and of one of its packets, 24 bytes, then the condition.

use libfuzzer_sys::fuzz_target;
use policies::language::{AddressSets, Expression, Header, Match, Origin, Subject, Truth};

const HEADERS: [Header; 8] = [
    Header::EthType,
    Header::VlanTci,
    Header::IpProto,
    Header::IpTtl,
    Header::Ip4Src,
    Header::L4Dst,
    Header::CtState,
    Header::CtMark,
];

/// Some values that conditions are likely to ask for.
const LIKELY: [u128; 8] = [0, 1, 6, 17, 0x800, 0x86dd, 0x1005, 0x0a00_0001];

fn likely(byte: u8) -> u128 {
    LIKELY.get(usize::from(byte)).copied().unwrap_or(u128::from(byte) * 0x0101_0101)
}

/// A megaflow, and one packet of it.
fn subjects(bytes: &[u8]) -> (Subject<'static>, Subject<'static>) {
    let (mut megaflow, mut packet) = (Subject::default(), Subject::default());
    for header in Header::all() {
        packet.set_exact(header, 0);
    }
    for (header, bits) in HEADERS.iter().zip(bytes.chunks_exact(3)) {
        let (value, open) = (likely(bits[0]), u128::from(bits[1]) * 0x0101_0101);
        megaflow.set(*header, value, !open);
        packet.set_exact(*header, value & !open | likely(bits[2]) & open);
    }
    (megaflow, packet)
}

fuzz_target!(|data: &[u8]| {
    let Some((bits, source)) = data.split_at_checked(3 * HEADERS.len()) else { return };
    let Ok(source) = std::str::from_utf8(source) else { return };
    if let Ok(expression) = Expression::parse(source) {
        let printed = expression.to_string();
        assert_eq!(Expression::parse(&printed).as_ref(), Ok(&expression), "{printed}");
    }
    let mut sets = AddressSets::new();
    sets.insert("set", ["10.0.0.0/8", "10.1.2.3", "fd00::/8", "52:54:00:00:00:01"]).expect("addresses");
    match Match::compile(source, &sets) {
        Ok(condition) => {
            let (megaflow, packet) = subjects(bits);
            let (of_megaflow, of_packet) = (condition.evaluate(&megaflow), condition.evaluate(&packet));
            if of_megaflow != Truth::Sometimes && of_packet != Truth::Sometimes {
                assert_eq!(of_megaflow, of_packet, "{source}");
            }
            assert_eq!(condition.trace(&megaflow).truth, of_megaflow);
        }
        Err(error) => {
            assert!(source.get(error.span.start..error.span.end).is_some(), "{error:?}");
            assert!(!error.render(source, Origin { file: "f", line: 1, column: 1 }).is_empty());
        }
    }
});
