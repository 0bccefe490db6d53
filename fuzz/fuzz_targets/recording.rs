#![no_main]
//! The format of recordings against any bytes: they are read or refused, never a panic; what is read is written as what reads the
//! same, and is played by rules of every kind.
//!
//! Input: records, without the start of the recording.

use libfuzzer_sys::fuzz_target;
use policies::Micros;
use policies::language::AddressSets;
use policies::recording::{Decoder, Record, Start, write};
use policies::replay::{RecordedTraffic, Taken};
use policies::rules::{Place, RuleText, Rules};

fn rules() -> Rules {
    let conditions = [
        r#"tcp.dst == 443 && inport == "p*""#,
        "ip4.src == 10.0.0.0/8 || encap",
        r#"rate > "1 kpkt/s" && age < "1 s""#,
    ];
    let texts = conditions.map(|condition| RuleText {
        name: condition.into(),
        condition: condition.into(),
        place: Place::Software,
        ..RuleText::default()
    });
    Rules::compile(&texts, Place::Auto, &AddressSets::new()).expect("rules without mistakes")
}

fuzz_target!(|data: &[u8]| {
    let mut input = Vec::new();
    write(
        &mut input,
        &Record::Start(Start { wall_s: 0, epoch: Micros::from_millis(500), is_anonymised: false }),
    );
    input.extend_from_slice(data);

    let (mut decoder, mut again, mut at, mut out) = (Decoder::new(), Decoder::new(), 0, Vec::new());
    while let Ok(Some((record, length))) = decoder.read(&input[at..]) {
        assert!(length > 0);
        at += length;
        out.clear();
        write(&mut out, &record);
        let read = again.read(&out);
        assert_eq!(read, Ok(Some((record, out.len()))));
    }

    let (mut traffic, mut at, mut total) = (RecordedTraffic::new(rules(), Micros::ZERO), 0, 0_u64);
    while let Ok((length, taken)) = traffic.take(&input[at..]) {
        at += length;
        match taken {
            Taken::Epoch => {
                let tick = traffic.tick();
                assert!(tick.end > tick.begin);
                let packets = tick.moved.iter().map(|moved| moved.packets);
                total = packets.fold(total.saturating_add(tick.elsewhere.packets), u64::saturating_add);
            }
            Taken::Start => {}
            Taken::All | Taken::End(_) => break,
        }
    }
    // Sums that are cut at the greatest number agree with nothing.
    if total < u64::MAX {
        assert_eq!(total, traffic.done().moved.total().packets);
    }
});
