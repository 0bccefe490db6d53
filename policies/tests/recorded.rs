//! Recordings as traffic for a replay: what the rules say of each megaflow, and what a number given again stands for.

use policies::Micros;
use policies::language::{AddressSets, Header, PortName, Subject};
use policies::planner::{Division, Settings, Verdict};
use policies::recording::{About, Amount, Ending, Epoch, Home, Move, Record, Scribe, Split, Start, write};
use policies::replay::{Options, PolicyName, RecordedTraffic, Replay, Taken};
use policies::rules::{Place, RuleText, Rules};
use policies::tenants::TenantFrom;

const EPOCH: Micros = Micros::from_millis(500);

/// Writes a recording, an epoch at a time.
struct Writer {
    out: Vec<u8>,
    scribe: Scribe,
}

impl Writer {
    fn new() -> Self {
        let mut out = Vec::new();
        write(&mut out, &Record::Start(Start { wall_s: 0, epoch: EPOCH, is_anonymised: false }));
        Self { out, scribe: Scribe::new() }
    }

    fn flow(&mut self, number: u32, port: u16, home: Home) {
        self.flow_of((home == Home::Tc).then_some(0), number, port, home);
    }

    fn flow_in(&mut self, namespace: &str, number: u32) {
        let mut subject = Subject::default();
        subject.namespace = Some(namespace);
        subject.set_exact(Header::EthType, 0x800);
        let about = About { number, appeared_us: 0, home: Home::Tc, nic: Some(0) };
        self.scribe.flow(&mut self.out, &about, &subject);
    }

    fn flow_of(&mut self, nic: Option<u16>, number: u32, port: u16, home: Home) {
        let mut subject = Subject::default();
        subject.inport = PortName { name: Some("pf0vf0"), iface_id: Some("") };
        subject.set_exact(Header::EthType, 0x800);
        subject.set_exact(Header::IpProto, 6);
        subject.set_exact(Header::IpFrag, 0);
        subject.set_exact(Header::L4Dst, port.into());
        self.scribe.flow(&mut self.out, &About { number, appeared_us: 0, home, nic }, &subject);
    }

    /// Megaflows with the bytes that each moved in software and in hardware, and those gone at the end.
    fn epoch(&mut self, moved: &[(u32, u64, u64)], gone: &[u32]) {
        let amount = |bytes: u64| Amount { packets: bytes / 100, bytes };
        let moves: Vec<Move> = moved
            .iter()
            .map(|(flow, software, hardware)| Move {
                flow: *flow,
                moved: Split { software: amount(*software), hardware: amount(*hardware) },
            })
            .collect();
        write(&mut self.out, &Record::Moved(&moves));
        gone.iter().for_each(|number| write(&mut self.out, &Record::Gone(*number)));
        write(&mut self.out, &Record::Epoch(Epoch { past: EPOCH, ..Epoch::default() }));
    }
}

fn rules(texts: &[(&str, Place)]) -> Rules {
    let texts: Vec<RuleText> = texts
        .iter()
        .map(|(condition, place)| RuleText {
            name: (*condition).to_owned(),
            condition: (*condition).to_owned(),
            place: *place,
            ..RuleText::default()
        })
        .collect();
    Rules::compile(&texts, Place::Auto, &AddressSets::new()).expect("rules without mistakes")
}

fn options(entries: u32) -> Options {
    Options {
        entries: vec![entries],
        installs_per_s: 100,
        epoch: Micros::from_millis(100),
        oracle_epoch: EPOCH,
        warmup: Micros::ZERO,
        settings: Settings::default(),
        classes: Vec::new(),
        division: Division::default(),
        ewma: false,
    }
}

fn replay(recording: &[u8], rules: Rules, options: Options) -> (Replay, RecordedTraffic) {
    replay_of(None, recording, rules, options)
}

fn replay_of(
    nic: Option<u16>,
    recording: &[u8],
    rules: Rules,
    mut options: Options,
) -> (Replay, RecordedTraffic) {
    let mut traffic = RecordedTraffic::new(rules, options.warmup).of_nic(nic);
    let (mut at, mut taken) = traffic.take(recording).expect("a start");
    assert_eq!(taken, Taken::Start);
    traffic.fit(&mut options);
    options.classes = traffic.classes();
    options.division = traffic.division();
    let mut replay = Replay::new(&options, 0);
    while matches!(taken, Taken::Start | Taken::Epoch) {
        let length;
        (length, taken) = traffic.take(&recording[at..]).expect("a recording");
        at += length;
        if taken == Taken::Epoch {
            replay.tick(&traffic.tick());
        }
    }
    replay.finish();
    (replay, traffic)
}

fn bytes(replay: &Replay, policy: PolicyName) -> u64 {
    replay.outcomes().into_iter().find(|outcome| outcome.policy == policy).expect("all take part").tally.bytes
}

#[test]
fn the_planner_places_what_the_rules_let_it() {
    let mut writer = Writer::new();
    writer.flow(0, 80, Home::Tc);
    writer.flow(1, 443, Home::Tc);
    (0..20).for_each(|_| writer.epoch(&[(0, 1_000_000, 0), (1, 500_000, 0)], &[]));
    let of = |texts: &[(&str, Place)]| replay(&writer.out, rules(texts), options(1)).0;
    let free = of(&[]);
    assert!(bytes(&free, PolicyName::Planner) >= 18_000_000, "the faster one");
    let kept = of(&[("tcp.dst == 80 && inport == \"pf0vf?\"", Place::Software)]);
    let slower = bytes(&kept, PolicyName::Planner);
    assert!((9_000_000..=10_000_000).contains(&slower), "{slower}: the slower one alone");
    assert_eq!(bytes(&kept, PolicyName::Oracle), 20_000_000, "the oracle knows no rules");
    assert_eq!(
        bytes(&of(&[("ip4.src == 10.0.0.0/8", Place::Software)]), PolicyName::Planner),
        bytes(&free, PolicyName::Planner)
    );
    assert_eq!(free.totals(), (30_000_000, 300_000));
}

#[test]
fn namespaces_share_the_table_as_they_do_in_the_daemon() {
    let mut writer = Writer::new();
    (0..8).for_each(|number| writer.flow_in("greedy", number));
    // The second namespace comes later than the first epoch.
    writer.epoch(&(0..8).map(|number| (number, 1_000_000, 0)).collect::<Vec<_>>(), &[]);
    (8..10).for_each(|number| writer.flow_in("modest", number));
    let moved: Vec<_> =
        (0..10).map(|number| (number, if number < 8 { 1_000_000 } else { 100_000 }, 0)).collect();
    (0..40).for_each(|_| writer.epoch(&moved, &[]));
    let of = |from| {
        let each = RuleText {
            name: "each".into(),
            condition: "ip".into(),
            tenant_from: from,
            ..RuleText::default()
        };
        let rules = Rules::compile(&[each], Place::Auto, &AddressSets::new()).expect("a rule");
        let (replay, traffic) = replay(&writer.out, rules, options(4));
        traffic.tenants().into_iter().zip(replay.tenants(4)).collect::<Vec<_>>()
    };
    let shares = of(Some(TenantFrom::Namespace));
    let bytes = |name: &str| {
        let (_, bytes) = shares.iter().find(|(tenant, _)| tenant == name).expect("its traffic is told");
        *bytes
    };
    let (all, placed) = bytes("modest");
    assert_eq!(all, 40 * 200_000);
    assert!(placed >= all * 9 / 10, "{placed} of {all}: half of the table is theirs, and they want no more");
    let (all, placed) = bytes("greedy");
    assert!((all / 5..all * 3 / 10).contains(&placed), "{placed} of {all}: two of eight have an entry");
    // Without shares the fast ones have all four.
    let placed: u64 = of(None).iter().map(|(_, (_, placed))| placed).sum();
    assert!(placed > 41 * 4_000_000 * 9 / 10, "{placed}");
}

#[test]
fn megaflows_of_other_nics_than_the_one_asked_for_compete_for_nothing() {
    let mut writer = Writer::new();
    writer.flow_of(Some(0), 0, 80, Home::Tc);
    writer.flow_of(Some(1), 1, 443, Home::Tc);
    (0..20).for_each(|_| writer.epoch(&[(0, 1_000_000, 0), (1, 500_000, 0)], &[]));
    for (nic, oracle) in [(None, 20_000_000), (Some(0), 20_000_000), (Some(1), 10_000_000), (Some(2), 0)] {
        let (replay, traffic) = replay_of(nic, &writer.out, Rules::default(), options(1));
        assert_eq!(bytes(&replay, PolicyName::Oracle), oracle, "{nic:?}");
        assert!(bytes(&replay, PolicyName::Planner) >= oracle / 10 * 9, "{nic:?}");
        assert_eq!(replay.totals(), (30_000_000, 300_000));
        assert!(traffic.nics().iter().eq(&[0, 1]));
    }
}

#[test]
fn rules_that_ask_for_a_rate_are_asked_again_when_it_has_changed() {
    let mut writer = Writer::new();
    writer.flow(0, 80, Home::Tc);
    (0..10).for_each(|_| writer.epoch(&[(0, 100_000, 0)], &[]));
    (0..10).for_each(|_| writer.epoch(&[(0, 5_000_000, 0)], &[]));
    let texts = [("rate > \"8 Mbit/s\"", Place::Software)];
    let (replay, traffic) = replay(&writer.out, rules(&texts), options(1));
    let placed = bytes(&replay, PolicyName::Planner);
    // All of the slow time but its beginning, and the fast time until its first reading.
    assert!((5_500_000..=6_000_000).contains(&placed), "{placed}");
    assert!(matches!(traffic.classes()[0].verdict, Verdict::Software(_)));
}

#[test]
fn what_no_nic_takes_counts_in_the_totals_and_competes_for_nothing() {
    let mut writer = Writer::new();
    writer.flow(0, 80, Home::Datapath);
    writer.flow(1, 81, Home::Tc);
    writer.epoch(&[(0, 9_000, 0), (1, 100, 0)], &[]);
    // It goes to TC, and back.
    writer.flow(0, 80, Home::Tc);
    writer.epoch(&[(0, 9_000, 0), (1, 100, 0)], &[]);
    writer.flow(0, 80, Home::Datapath);
    writer.epoch(&[(0, 9_000, 0), (1, 100, 0)], &[]);
    let (replay, traffic) = replay(&writer.out, Rules::default(), options(2));
    assert_eq!(replay.totals().0, 27_300);
    assert_eq!(bytes(&replay, PolicyName::Oracle), 9_300);
    assert_eq!((traffic.live(), traffic.live_max()), (2, 2));
}

#[test]
fn a_number_given_again_is_another_megaflow_however_long_the_epochs_are() {
    let mut writer = Writer::new();
    for port in 0..40 {
        writer.flow(0, port, Home::Tc);
        writer.epoch(&[(0, 1_000, 0)], &[0]);
    }
    for oracle_epoch in [500, 1_000, 3_000] {
        let options = Options { oracle_epoch: Micros::from_millis(oracle_epoch), ..options(1) };
        let (replay, traffic) = replay(&writer.out, Rules::default(), options);
        assert_eq!(replay.totals().0, 40_000);
        // Nobody who does not know the future can place what ends with the epoch in which it appears.
        for policy in [PolicyName::Planner, PolicyName::Lru, PolicyName::FirstCome, PolicyName::OvsRebalance]
        {
            assert_eq!(bytes(&replay, policy), 0, "{} at {oracle_epoch} ms", policy.word());
        }
        // The oracle has one entry, and one of those that come one after the other in its epoch.
        assert_eq!(bytes(&replay, PolicyName::Oracle), 20_000_u64.div_ceil(oracle_epoch) * 1_000);
        assert_eq!((traffic.live(), traffic.live_max()), (0, 1));
    }
}

#[test]
fn what_the_daemon_did_is_told_without_the_warm_up() {
    let mut writer = Writer::new();
    writer.flow(0, 80, Home::Tc);
    for _ in 0..4 {
        writer.epoch(&[(0, 1_000, 500)], &[]);
    }
    write(&mut writer.out, &Record::End(Ending::TimeIsUp));
    let options = Options { warmup: Micros::from_secs(1), ..options(1) };
    let (replay, traffic) = replay(&writer.out, Rules::default(), options);
    assert_eq!(replay.totals().0, 3_000);
    let moved = traffic.done().moved;
    assert_eq!((moved.software.bytes, moved.hardware.bytes), (2_000, 1_000));
}

#[test]
fn a_recording_that_contradicts_itself_is_refused() {
    let refused = |fill: &dyn Fn(&mut Writer)| {
        let mut writer = Writer::new();
        fill(&mut writer);
        let mut traffic = RecordedTraffic::new(Rules::default(), Micros::ZERO);
        let mut at = 0;
        loop {
            match traffic.take(&writer.out[at..]) {
                Ok((_, Taken::All | Taken::End(_))) => panic!("it was read"),
                Ok((length, _)) => at += length,
                Err(malformed) => return malformed.to_string(),
            }
        }
    };
    assert_eq!(refused(&|writer| writer.flow(1, 80, Home::Tc)), "the numbers of megaflows have a gap");
    let not_there = "a reading is of a megaflow that is not there";
    assert_eq!(refused(&|writer| writer.epoch(&[(0, 1, 0)], &[])), not_there);
    assert_eq!(refused(&|writer| writer.epoch(&[], &[3])), "a megaflow that is not there is gone");
}

#[test]
fn a_replay_that_is_split_comes_to_the_same() {
    let mut writer = Writer::new();
    (0..50).for_each(|flow| writer.flow(flow, flow as u16, Home::Tc));
    for epoch in 0..40_u64 {
        let moved: Vec<_> =
            (0..50_u32).map(|flow| (flow, 100 * (1 + (u64::from(flow) * 7 + epoch * 13) % 90), 0)).collect();
        writer.epoch(&moved, &[]);
    }
    let mut traffic = RecordedTraffic::new(Rules::default(), Micros::ZERO);
    let mut options = options(8);
    let (mut at, _) = traffic.take(&writer.out).expect("a start");
    traffic.fit(&mut options);
    let mut whole = Replay::new(&options, 0);
    let (mut first, mut rest) = Replay::new(&options, 0).split();
    assert_eq!(rest.len(), 2, "the limit, and everybody else");
    while let Ok((length, Taken::Epoch)) = traffic.take(&writer.out[at..]) {
        at += length;
        let kept = traffic.tick().keep();
        whole.tick(&traffic.tick());
        first.tick(&kept.tick());
        rest.iter_mut().for_each(|part| part.tick(&kept.tick()));
    }
    let mut joined = first.join(rest);
    whole.finish();
    joined.finish();
    assert_eq!(joined.outcomes(), whole.outcomes());
    assert_eq!((joined.totals(), joined.now()), (whole.totals(), whole.now()));
    assert!(whole.outcomes().iter().all(|outcome| outcome.tally.bytes > 0), "{:?}", whole.outcomes());
}
