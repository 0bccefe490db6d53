//! The format of recordings: what is written is read again, whatever it is cut into; what is no recording is refused.

use policies::Micros;
use policies::language::{Bits, Header, Locality, PortName, Subject};
use policies::recording::{
    About, Amount, Book, Decoder, Ending, Epoch, Flow, Home, Key, Move, NameKind, Port, Record, Scribe,
    Split, Start, write,
};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

/// A record that owns what it is made of.
#[derive(Clone, Debug)]
enum Owned {
    Name(NameKind, String),
    Port(Option<u32>, Option<u32>),
    Form(Vec<(Header, u128)>),
    Flow(Box<OwnedFlow>),
    Moved(Vec<Move>),
    Gone(u32),
    Epoch(Epoch),
}

#[derive(Clone, Debug)]
struct OwnedFlow {
    number: u32,
    appeared_us: i64,
    in_tc: bool,
    nic: Option<u16>,
    form: Option<usize>,
    values: Vec<u128>,
    inport: Option<u32>,
    outports: Option<Vec<u32>>,
    names: [Option<u32>; 5],
    answers: [Option<bool>; 4],
    locality: Locality,
}

fn ones(header: Header) -> u128 {
    u128::MAX >> (128 - u32::from(header.width()))
}

fn amount() -> impl Strategy<Value = Amount> {
    (0..1_u64 << 60, any::<u64>().prop_map(|bytes| bytes >> 1))
        .prop_map(|(packets, bytes)| Amount { packets, bytes })
}

fn split() -> impl Strategy<Value = Split> {
    let part = || prop_oneof![Just(Amount::default()), amount()];
    (part(), part()).prop_map(|(software, hardware)| Split { software, hardware })
}

fn form() -> impl Strategy<Value = Vec<(Header, u128)>> {
    let headers: Vec<Header> = Header::all().collect();
    proptest::sample::subsequence(headers, 0..12).prop_flat_map(|headers| {
        let masks = vec(any::<u128>(), headers.len());
        (Just(headers), masks).prop_map(|(headers, masks)| {
            headers.into_iter().zip(masks).map(|(header, mask)| (header, mask & ones(header))).collect()
        })
    })
}

fn flow() -> impl Strategy<Value = OwnedFlow> {
    let what =
        (0..1_u32 << 22, any::<i64>(), any::<bool>(), option::of(any::<u16>()), option::of(any::<usize>()));
    let locality = prop_oneof![
        Just(Locality::Unknown),
        Just(Locality::SameNode),
        Just(Locality::CrossNode),
        Just(Locality::External)
    ];
    let references = (option::of(any::<u32>()), option::of(vec(any::<u32>(), 0..5)));
    let told = (any::<[Option<u32>; 5]>(), any::<[Option<bool>; 4]>(), locality);
    (what, vec(any::<u128>(), 12), references, told).prop_map(|(what, values, references, told)| OwnedFlow {
        number: what.0,
        appeared_us: what.1,
        in_tc: what.2,
        nic: what.3,
        form: what.4,
        values,
        inport: references.0,
        outports: references.1,
        names: told.0,
        answers: told.1,
        locality: told.2,
    })
}

fn record() -> impl Strategy<Value = Owned> {
    let name = (0..7_usize, "\\PC{0,60}").prop_map(|(kind, text)| Owned::Name(NameKind::ALL[kind], text));
    let moves = vec((0..1_u32 << 22, split()), 0..40).prop_map(|mut moves| {
        moves.sort_by_key(|(flow, _)| *flow);
        moves.dedup_by_key(|(flow, _)| *flow);
        Owned::Moved(moves.into_iter().map(|(flow, moved)| Move { flow, moved }).collect())
    });
    let epoch = (0..1_u64 << 44, split(), any::<[u32; 4]>()).prop_map(|(past, stray, [a, b, c, d])| {
        Owned::Epoch(Epoch {
            past: Micros(past),
            stray,
            promotions: a.into(),
            demotions: b.into(),
            merged: c >> 1,
            left_out: d >> 1,
        })
    });
    prop_oneof![
        name,
        (any::<Option<u32>>(), any::<Option<u32>>()).prop_map(|(name, iface_id)| Owned::Port(name, iface_id)),
        form().prop_map(Owned::Form),
        flow().prop_map(|flow| Owned::Flow(Box::new(flow))),
        moves,
        (0..1_u32 << 22).prop_map(Owned::Gone),
        epoch,
    ]
}

/// Writes records, with references made to point at what there is; returns the text of each, and where it ends.
fn written(records: &[Owned]) -> (Vec<u8>, Vec<(String, usize)>) {
    let (mut names, mut ports) = (0_u32, 0_u32);
    let mut forms: Vec<Vec<(Header, u128)>> = Vec::new();
    let mut out = Vec::new();
    let mut told = Vec::new();
    let fit =
        |number: Option<u32>, count: u32| number.filter(|_| count > 0).map(|number| number % count.max(1));
    let start = Start { wall_s: 1_700_000_000, epoch: Micros::from_millis(500), is_anonymised: true };
    let mut put = |record: Record<'_>| {
        write(&mut out, &record);
        told.push((format!("{record:?}"), out.len()));
    };
    put(Record::Start(start));
    for record in records {
        match record {
            Owned::Name(kind, text) => {
                put(Record::Name(*kind, text));
                names += 1;
            }
            Owned::Port(name, iface_id) => {
                put(Record::Port(Port { name: fit(*name, names), iface_id: fit(*iface_id, names) }));
                ports += 1;
            }
            Owned::Form(form) => {
                put(Record::Form(form));
                forms.push(form.clone());
            }
            Owned::Flow(flow) => {
                let form = flow.form.filter(|_| !forms.is_empty()).map(|form| form % forms.len());
                let fields = form.map(|form| forms[form].as_slice()).unwrap_or_default();
                let values: Vec<u128> =
                    fields.iter().zip(&flow.values).map(|((_, mask), value)| value & mask).collect();
                let outports: Option<Vec<u32>> = flow
                    .outports
                    .as_ref()
                    .map(|list| list.iter().filter_map(|port| fit(Some(*port), ports)).collect());
                put(Record::Flow(Flow {
                    number: flow.number,
                    appeared_us: flow.appeared_us,
                    home: if flow.in_tc { Home::Tc } else { Home::Datapath },
                    nic: flow.nic,
                    key: form.map(|form| Key { form: form as u32, fields, values: &values }),
                    inport: fit(flow.inport, ports),
                    outports: outports.as_deref(),
                    encap: fit(flow.names[0], names),
                    tenant: fit(flow.names[1], names),
                    workload: fit(flow.names[2], names),
                    namespace: fit(flow.names[3], names),
                    chassis: fit(flow.names[4], names),
                    rewrites: flow.answers[0],
                    drops: flow.answers[1],
                    recirculates: flow.answers[2],
                    encrypted: flow.answers[3],
                    locality: flow.locality,
                }));
            }
            Owned::Moved(moves) => put(Record::Moved(moves)),
            Owned::Gone(number) => put(Record::Gone(*number)),
            Owned::Epoch(epoch) => put(Record::Epoch(*epoch)),
        }
    }
    put(Record::End(Ending::Interrupted));
    (out, told)
}

/// Everything that can be read from the front of `bytes`, and how many bytes that is.
fn read(bytes: &[u8]) -> (Vec<String>, usize) {
    let mut decoder = Decoder::new();
    let (mut at, mut found) = (0, Vec::new());
    while let Some((record, length)) = decoder.read(&bytes[at..]).expect("a recording") {
        found.push(format!("{record:?}"));
        at += length;
    }
    (found, at)
}

proptest! {
    #[test]
    fn what_is_written_is_read_again(records in vec(record(), 0..60)) {
        let (bytes, told) = written(&records);
        let (found, end) = read(&bytes);
        prop_assert_eq!(end, bytes.len());
        prop_assert_eq!(found, told.into_iter().map(|(text, _)| text).collect::<Vec<_>>());
    }

    #[test]
    fn a_cut_recording_is_read_up_to_its_last_whole_record(records in vec(record(), 0..20), cut in any::<prop::sample::Index>()) {
        let (bytes, told) = written(&records);
        let cut = cut.index(bytes.len());
        let (found, end) = read(&bytes[..cut]);
        let whole: Vec<_> = told.into_iter().take_while(|(_, end)| *end <= cut).collect();
        prop_assert_eq!(end, whole.last().map_or(0, |(_, end)| *end));
        prop_assert_eq!(found, whole.into_iter().map(|(text, _)| text).collect::<Vec<_>>());
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in vec(any::<u8>(), 0..300), kinds in vec(0..12_u8, 0..300)) {
        // Small numbers are what records begin with.
        let mut decoder = Decoder::new();
        let mut input = Vec::new();
        write(&mut input, &Record::Start(Start { wall_s: 0, epoch: Micros::from_secs(1), is_anonymised: false }));
        input.extend(bytes.iter().zip(&kinds).flat_map(|(byte, kind)| [*kind, byte % 24]));
        let mut at = 0;
        while let Ok(Some((_, length))) = decoder.read(&input[at..]) {
            prop_assert!(length > 0);
            at += length;
        }
    }

    #[test]
    fn a_megaflow_is_to_rules_what_it_was(form in form(), values in vec(any::<u128>(), 12), answers in any::<[Option<bool>; 4]>(),
                                          texts in any::<[Option<u8>; 7]>(), outports in option::of(vec(any::<[Option<u8>; 2]>(), 0..4))) {
        let words: Vec<String> = (0..=255).map(|n| format!("name {n}")).collect();
        let word = |n: Option<u8>| n.map(|n| words[usize::from(n)].as_str());
        let ports: Option<Vec<PortName<'_>>> = outports
            .map(|list| list.into_iter().map(|[name, iface_id]| PortName { name: word(name), iface_id: word(iface_id) }).collect());
        let mut subject = Subject::default();
        for ((header, mask), value) in form.iter().zip(values) {
            subject.set(*header, value, *mask);
        }
        subject.inport = PortName { name: word(texts[0]), iface_id: word(texts[1]) };
        subject.outports = ports.as_deref();
        (subject.encap, subject.tenant, subject.workload) = (word(texts[2]), word(texts[3]), word(texts[4]));
        (subject.namespace, subject.chassis) = (word(texts[5]), word(texts[6]));
        [subject.rewrites, subject.drops, subject.recirculates, subject.encrypted] = answers;

        let (mut out, mut scribe) = (Vec::new(), Scribe::new());
        write(&mut out, &Record::Start(Start { wall_s: 0, epoch: Micros::from_secs(1), is_anonymised: false }));
        let about = About { number: 7, appeared_us: -5, home: Home::Tc, nic: Some(0) };
        scribe.flow(&mut out, &about, &subject);
        let first = out.len();
        scribe.flow(&mut out, &about, &subject);
        // The second time nothing new has to be named.
        prop_assert!(out.len() - first <= first);

        let (mut decoder, mut book, mut at, mut seen) = (Decoder::new(), Book::new(), 0, 0);
        while let Some((record, length)) = decoder.read(&out[at..]).expect("a recording") {
            at += length;
            book.take(&record).expect("names of the right kinds");
            let Record::Flow(flow) = record else { continue };
            seen += 1;
            let mut outports = Vec::new();
            let again = book.subject(&flow, &mut outports);
            let bits = |subject: &Subject<'_>| Header::all().map(|header| subject.get(header)).collect::<Vec<Bits>>();
            prop_assert_eq!(bits(&again), bits(&subject));
            prop_assert_eq!((again.inport, again.outports, again.encap), (subject.inport, subject.outports, subject.encap));
            prop_assert_eq!((again.tenant, again.workload, again.locality), (subject.tenant, subject.workload, subject.locality));
            prop_assert_eq!((again.namespace, again.chassis), (subject.namespace, subject.chassis));
            let answers = |subject: &Subject<'_>| (subject.rewrites, subject.drops, subject.recirculates, subject.encrypted);
            prop_assert_eq!(answers(&again), answers(&subject));
        }
        prop_assert_eq!(seen, 2);
    }
}

#[test]
fn a_megaflow_of_version_1_is_read_without_namespace_and_chassis() {
    let mut input = Vec::new();
    write(&mut input, &Record::Start(Start { wall_s: 0, epoch: Micros::from_secs(1), is_anonymised: false }));
    write(&mut input, &Record::Name(NameKind::Workload, "vm0"));
    // Number 3, appeared with the epoch, in TC, no NIC, no form, no ports; no tunnel, no tenant, workload 0; rewrites; cross-node.
    input.extend([5, 3, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 2]);
    let (mut decoder, mut at, mut seen) = (Decoder::new(), 0, None);
    while let Some((record, length)) = decoder.read(&input[at..]).expect("a recording") {
        if let Record::Flow(flow) = record {
            seen = Some((
                flow.number,
                flow.workload,
                flow.namespace,
                flow.chassis,
                flow.rewrites,
                flow.locality,
            ));
        }
        at += length;
    }
    assert_eq!(seen, Some((3, Some(0), None, None, Some(true), policies::language::Locality::CrossNode)));
    assert_eq!(at, input.len());
}

#[test]
fn what_is_no_recording_is_refused_with_the_reason() {
    let start = |out: &mut Vec<u8>| {
        let start = Start { wall_s: 0, epoch: Micros::from_millis(500), is_anonymised: false };
        write(out, &Record::Start(start));
    };
    for (bytes, why) in [
        (&[2, 0, 1, b'a'][..], "it does not begin with its start"),
        (&[11], "no such kind of record"),
        (&[2, 9, 1, b'a'], "no such kind of name"),
        (&[2, 0, 2, 0xff, 0xff], "a name is not text"),
        (&[3, 1, 0], "there is no name of such a number"),
        (&[4, 1, 200], "there is no field of such a code"),
        (&[5, 0, 0, 2], "a megaflow lives where there is no place"),
        (&[5, 0, 0, 0, 0, 1], "there is no form of such a number"),
        (&[6, 0xff, 0xff, 0xff, 0x7f], "a record has too many readings"),
        (&[6, 1, 0, 3, 0], "nobody forwarded a reading"),
        (&[6, 1, 0, 4 | 2, 1, 2, 1], "a part is more than the whole"),
        (&[7, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f], "a number has more than 64 bits"),
        (&[9, 0, 9, 0], "there is more after its end"),
    ] {
        let mut input = Vec::new();
        if bytes[0] != 2 || bytes[3] != b'a' || bytes[1] == 9 {
            start(&mut input);
        }
        input.extend_from_slice(bytes);
        let (mut decoder, mut at) = (Decoder::new(), 0);
        let error = loop {
            match decoder.read(&input[at..]) {
                Ok(Some((_, length))) => at += length,
                Ok(None) => panic!("{bytes:?} is read"),
                Err(error) => break error.to_string(),
            }
        };
        assert!(error.contains(why), "{bytes:?}: {error}");
    }
}
