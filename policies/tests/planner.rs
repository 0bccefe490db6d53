//! What must hold of the planner whatever happens: random histories against a model that keeps the books.

use std::collections::{BTreeMap, BTreeSet};

use policies::planner::{
    Because, Capacity, Explanation, Plan, Planner, Refusal, Sample, Saving, Settings, Terms, Verdict,
};
use policies::{Micros, Rate, Weight};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Step {
    Wait(u64),
    Observe(u8, u64, u64),
    Verdict(u8, Verdict),
    Plan,
    /// Answers one operation in flight: which one, and how.
    Answer(usize, Answer),
    Forget(u8),
    Foreign(u32),
    /// A change from outside: an OpenFlow modification undoes a promotion.
    Undone(u8),
}

#[derive(Clone, Copy, Debug)]
enum Answer {
    Done,
    Refused(Refusal),
}

fn refusal() -> impl Strategy<Value = Refusal> {
    prop_oneof![Just(Refusal::TableFull), Just(Refusal::Transient), Just(Refusal::Shape)]
}

fn verdict() -> impl Strategy<Value = Verdict> {
    prop_oneof![
        Just(Verdict::Software(Because::Default)),
        Just(Verdict::Hardware(None)),
        (1_u32..5_000, 0_u64..2_000).prop_map(|(weight, min_age)| Verdict::Auto(Terms {
            weight: Weight::from_thousandths(weight),
            min_age: Some(Micros::from_millis(min_age)),
            ..Terms::default()
        })),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let id = 0_u8..24;
    prop_oneof![
        3 => (0_u64..1_500_000).prop_map(Step::Wait),
        8 => (id.clone(), 0_u64..5_000, 0_u64..5_000_000).prop_map(|(id, p, b)| Step::Observe(id, p, b)),
        1 => (id.clone(), verdict()).prop_map(|(id, verdict)| Step::Verdict(id, verdict)),
        6 => Just(Step::Plan),
        6 => (any::<usize>(), prop_oneof![4 => Just(Answer::Done), 1 => refusal().prop_map(Answer::Refused)])
            .prop_map(|(which, answer)| Step::Answer(which, answer)),
        1 => id.clone().prop_map(Step::Forget),
        1 => (0_u32..4).prop_map(Step::Foreign),
        1 => id.prop_map(Step::Undone),
    ]
}

fn settings() -> impl Strategy<Value = Settings> {
    (0_u32..12, 0_u32..20, 0_u32..8, 0_u64..3_000, 0_u32..100, 1_u32..6, 0_u64..500).prop_map(
        |(entries, installs_per_s, install_burst, residency, hysteresis_percent, in_flight_max, min_age)| {
            Settings {
                saving: Saving::Bytes,
                min_rate: Rate::BytesPerSecond(10_000),
                min_age: Micros::from_millis(min_age),
                min_residency: Micros::from_millis(residency),
                capacity: Capacity::Fixed(entries),
                hysteresis_percent,
                installs_per_s,
                install_burst,
                in_flight_max,
                ..Settings::default()
            }
        },
    )
}

/// What an observer of the planner's inputs and outputs knows.
struct Books {
    settings: Settings,
    now: Micros,
    placed: BTreeMap<u8, Micros>,
    promoting: BTreeSet<u8>,
    demoting: BTreeSet<u8>,
    verdicts: BTreeMap<u8, Verdict>,
    foreign: u32,
    promoted_at: Vec<Micros>,
    last_sample: BTreeMap<u8, Micros>,
}

impl Books {
    fn new(settings: Settings) -> Self {
        Self {
            settings,
            now: Micros::from_secs(1_000),
            placed: BTreeMap::new(),
            promoting: BTreeSet::new(),
            demoting: BTreeSet::new(),
            verdicts: BTreeMap::new(),
            foreign: 0,
            promoted_at: Vec::new(),
            last_sample: BTreeMap::new(),
        }
    }

    fn is_software(&self, id: u8) -> bool {
        matches!(self.verdicts.get(&id), Some(Verdict::Software(_)))
    }

    fn take_plan(&mut self, plan: &Plan<u8>) {
        for id in &plan.demote {
            let since = self.placed.get(id).expect("only what is placed is demoted");
            let resident = self.now.since(*since) >= self.settings.min_residency;
            assert!(resident || self.is_software(*id), "{id} lost its entry within its residency");
            assert!(self.demoting.insert(*id), "{id} is demoted twice");
        }
        for id in &plan.promote {
            assert!(!self.placed.contains_key(id), "{id} has its entry already");
            assert!(self.promoting.insert(*id), "{id} is promoted twice");
            assert!(!self.is_software(*id), "{id} belongs in software");
            self.promoted_at.push(self.now);
        }
        let entries = (self.placed.len() + self.promoting.len()) as u32 + self.foreign;
        let Capacity::Fixed(capacity) = self.settings.capacity else { panic!("a fixed capacity") };
        assert!(plan.promote.is_empty() || entries <= capacity, "{entries} entries of {capacity}");
        let in_flight = self.promoting.len() + self.demoting.len();
        assert!(in_flight <= self.settings.in_flight_max as usize, "{in_flight} in flight");
        self.check_budget();
    }

    fn check_budget(&self) {
        let Some(last) = self.promoted_at.last() else { return };
        for (i, first) in self.promoted_at.iter().enumerate() {
            let installs = (self.promoted_at.len() - i) as u64;
            let earned = last.since(*first).0 * u64::from(self.settings.installs_per_s) / 1_000_000;
            assert!(installs <= u64::from(self.settings.install_burst) + earned, "{installs} since {first}");
        }
    }

    fn forget(&mut self, id: u8) {
        self.placed.remove(&id);
        self.promoting.remove(&id);
        self.demoting.remove(&id);
        self.verdicts.remove(&id);
        self.last_sample.remove(&id);
    }
}

fn answer(books: &mut Books, planner: &mut Planner<u8>, which: usize, answer: Answer) {
    let in_flight: Vec<u8> = books.promoting.iter().chain(&books.demoting).copied().collect();
    let Some(id) = in_flight.get(which % in_flight.len().max(1)).copied() else { return };
    let promotion = books.promoting.remove(&id);
    books.demoting.remove(&id);
    match answer {
        Answer::Done if promotion => {
            planner.placed(books.now, id);
            books.placed.insert(id, books.now);
        }
        Answer::Done => {
            planner.unplaced(books.now, id);
            books.placed.remove(&id);
        }
        Answer::Refused(refusal) => planner.refused(books.now, id, refusal),
    }
}

fn carry_out(books: &mut Books, planner: &mut Planner<u8>, step: &Step) -> Option<Plan<u8>> {
    match *step {
        Step::Wait(us) => books.now = books.now.plus(Micros(us)),
        Step::Observe(id, packets, bytes) => {
            let over = books.now.since(*books.last_sample.entry(id).or_insert(books.now));
            books.last_sample.insert(id, books.now);
            planner.observe(books.now, id, Sample { packets, bytes, over });
        }
        Step::Verdict(id, verdict) => {
            planner.set_verdict(books.now, id, verdict);
            books.verdicts.insert(id, verdict);
        }
        Step::Plan => {
            let plan = planner.plan(books.now);
            books.take_plan(&plan);
            return Some(plan);
        }
        Step::Answer(which, outcome) => answer(books, planner, which, outcome),
        Step::Forget(id) => {
            planner.forget(id);
            books.forget(id);
        }
        Step::Foreign(entries) => {
            planner.set_foreign_entries(entries);
            books.foreign = entries;
        }
        Step::Undone(id) => {
            if books.placed.remove(&id).is_some() {
                books.demoting.remove(&id);
                planner.unplaced(books.now, id);
            }
        }
    }
    None
}

fn agree(books: &Books, planner: &Planner<u8>) {
    let counts = planner.counts();
    assert_eq!(counts.placed as usize, books.placed.len());
    assert_eq!(counts.promoting as usize, books.promoting.len());
    assert_eq!(counts.demoting as usize, books.demoting.len());
    for id in 0..24 {
        match planner.explain(books.now, id) {
            Explanation::Placed { since, .. } => assert_eq!(books.placed.get(&id), Some(&since)),
            Explanation::Promoting { .. } => assert!(books.promoting.contains(&id)),
            Explanation::Demoting { .. } => assert!(books.demoting.contains(&id)),
            Explanation::Policy(_) => assert!(books.is_software(id)),
            Explanation::Waiting { rank, of, .. } => assert!(1 <= rank && rank <= of.max(1)),
            Explanation::BlockedUntil { until, .. } => assert!(until > books.now),
            _ => assert!(!books.placed.contains_key(&id)),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn the_books_agree_whatever_happens(
        settings in settings(),
        steps in prop::collection::vec(step(), 1..200),
    ) {
        let mut books = Books::new(settings);
        let mut planner = Planner::new(settings);
        for step in &steps {
            carry_out(&mut books, &mut planner, step);
            agree(&books, &planner);
        }
    }

    #[test]
    fn the_same_history_gives_the_same_plans(
        settings in settings(),
        steps in prop::collection::vec(step(), 1..200),
    ) {
        let run = || {
            let mut books = Books::new(settings);
            let mut planner = Planner::new(settings);
            steps.iter().filter_map(|step| carry_out(&mut books, &mut planner, step)).collect::<Vec<_>>()
        };
        prop_assert_eq!(run(), run());
    }

    #[test]
    fn in_the_end_the_entries_are_with_those_that_save_most(
        rates in prop::collection::vec((0_u64..1_000_000_000, 1_u32..4_000), 1..80),
        entries in 0_u32..40,
        order in any::<prop::sample::Index>(),
    ) {
        let settings = Settings {
            capacity: Capacity::Fixed(entries),
            min_rate: Rate::BytesPerSecond(1_000),
            min_age: Micros::ZERO,
            min_residency: Micros::ZERO,
            hysteresis_percent: 0,
            in_flight_max: 7,
            ..Settings::default()
        };
        let mut planner = Planner::new(settings);
        let second = Micros::from_secs(1);
        let saving = |id: usize| u128::from(rates[id].0) * u128::from(rates[id].1);
        let mut placed = BTreeSet::new();
        // Half of them come first and take the table, the rest has to win it from them.
        let late = order.index(rates.len());
        for batch in [late..rates.len(), 0..late] {
            for id in batch {
                let terms = Terms { weight: Weight::from_thousandths(rates[id].1), ..Terms::default() };
                planner.observe(second, id, Sample { packets: 1, bytes: rates[id].0, over: second });
                planner.set_verdict(second, id, Verdict::Auto(terms));
            }
            // Later than the readings by less than any rate could fade.
            for round in 0.. {
                let now = second.plus(Micros(round * 1_000));
                let plan = planner.plan(now);
                if plan.is_empty() {
                    break;
                }
                for id in plan.demote {
                    planner.unplaced(now, id);
                    placed.remove(&id);
                }
                for id in plan.promote {
                    planner.placed(now, id);
                    placed.insert(id);
                }
            }
        }
        let worth: Vec<usize> = (0..rates.len()).filter(|id| rates[*id].0 > 1_200).collect();
        let least_placed = placed.iter().map(|id| saving(*id)).min().unwrap_or(u128::MAX);
        for id in worth.iter().filter(|id| !placed.contains(*id)) {
            prop_assert_eq!(placed.len(), entries as usize);
            // The key resolves 2^(1/2^20).
            prop_assert!(saving(*id) / 1_000_000 * 999_998 <= least_placed, "{} is better than one that is placed", id);
        }
    }
}
