#![no_main]
//! A flow to try a policy on, in words or as Open vSwitch prints it: it is read or refused, never a panic; a refusal of words
//! has a place in them, and what was read gives every condition an answer.

use libfuzzer_sys::fuzz_target;
use offload_engine::odp;
use policies::language::{AddressSets, Match, Origin, Sketch, Truth};

const CONDITIONS: [&str; 4] = [
    "tcp.dst == 443 && ip4.src == 10.0.0.0/8",
    r#"inport == "pf*" || outport.iface_id == "?" || encap.type == "geneve""#,
    "ct.est && !drops && vlan.vid < 9",
    r#"age > "1 s" || rate > "1 Mbit/s" || locality == "external""#,
];

fn try_conditions(sketch: &Sketch) {
    for source in CONDITIONS {
        let condition = Match::compile(source, &AddressSets::new()).expect("a condition");
        let (mut once, mut again) = (Vec::new(), Vec::new());
        let truth = condition.evaluate(&sketch.subject(&mut once));
        assert_eq!(condition.trace(&sketch.subject(&mut again)).truth, truth);
        assert!(truth <= Truth::Always);
    }
}

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match Sketch::parse(text) {
        Ok(sketch) => try_conditions(&sketch),
        Err(error) => {
            assert!(text.get(error.span.start..error.span.end).is_some(), "{error:?}");
            assert!(!error.render(text, Origin { file: "f", line: 1, column: 1 }).is_empty());
        }
    }
    if let Ok(sketch) = odp::parse(text) {
        try_conditions(&sketch);
    }
});
