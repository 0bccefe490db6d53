//! Random graphs and histories against a model that keeps the books.

use std::collections::{BTreeMap, BTreeSet};

use policies::planner::{Because, Capacity, Path, Plan, Planner, Refusal, Sample, Settings, Verdict};
use policies::{Micros, Rate};
use proptest::prelude::*;

const FLOWS: u8 = 20;

#[derive(Clone, Debug)]
enum Step {
    Wait(u64),
    Observe(u8, u64),
    /// A megaflow's place: which are before it, and whether it goes on.
    Path(u8, Option<Vec<u8>>, bool),
    Software(u8, bool),
    Plan,
    /// Answers one operation in flight: which one, and how.
    Answer(usize, Option<Refusal>),
    Forget(u8),
    /// Open vSwitch changed it, which undoes a promotion.
    Undone(u8),
    /// The table's size.
    Entries(u32),
}

fn step() -> impl Strategy<Value = Step> {
    let id = 0..FLOWS;
    let refusal = prop_oneof![Just(Refusal::TableFull), Just(Refusal::Transient), Just(Refusal::Shape)];
    let before = proptest::collection::vec(0..FLOWS, 0..4);
    prop_oneof![
        3 => (0_u64..1_500_000).prop_map(Step::Wait),
        8 => (id.clone(), 0_u64..5_000_000).prop_map(|(id, bytes)| Step::Observe(id, bytes)),
        4 => (id.clone(), before, any::<bool>()).prop_map(|(id, before, on)| Step::Path(id, Some(before), on)),
        2 => (id.clone(), any::<bool>()).prop_map(|(id, on)| Step::Path(id, None, on)),
        1 => (id.clone(), any::<bool>()).prop_map(|(id, software)| Step::Software(id, software)),
        8 => Just(Step::Plan),
        8 => (any::<usize>(), proptest::option::weighted(0.15, refusal))
            .prop_map(|(which, refusal)| Step::Answer(which, refusal)),
        1 => id.clone().prop_map(Step::Forget),
        1 => id.prop_map(Step::Undone),
        1 => (0_u32..16).prop_map(Step::Entries),
    ]
}

/// What an observer of the planner's inputs and outputs knows.
struct Books {
    settings: Settings,
    now: Micros,
    paths: BTreeMap<u8, Path<u8>>,
    placed: BTreeSet<u8>,
    promoting: BTreeSet<u8>,
    demoting: BTreeSet<u8>,
    promoted_at: Vec<Micros>,
    read_at: BTreeMap<u8, Micros>,
}

impl Books {
    /// Those before it that lead to it: that go on.
    fn before(&self, id: u8) -> Option<Vec<u8>> {
        let before = self.paths.get(&id)?.before.as_ref()?;
        let goes_on = |id: &&u8| self.paths.get(*id).is_some_and(|path| path.goes_on);
        Some(before.iter().filter(goes_on).copied().collect())
    }

    fn is_reached(&self, id: u8) -> bool {
        self.before(id)
            .is_none_or(|before| before.iter().any(|other| *other != id && self.placed.contains(other)))
    }

    fn take(&mut self, plan: &Plan<u8>) {
        for id in &plan.demote {
            assert!(self.placed.remove(id), "{id} is demoted without an entry");
            assert!(self.demoting.insert(*id), "{id} is demoted twice");
        }
        for id in &plan.demote {
            let held = self.placed.iter().chain(&self.promoting).chain(&self.demoting);
            for after in held.filter(|after| *after != id) {
                let Some(before) = self.before(*after).filter(|before| before.contains(id)) else { continue };
                let reached = before.iter().any(|other| self.placed.contains(other));
                assert!(reached, "{id} leaves before {after}, which cannot be reached without it");
            }
        }
        for id in &plan.promote {
            assert!(!self.placed.contains(id) && !self.demoting.contains(id), "{id} has its entry");
            assert!(self.is_reached(*id), "{id} is promoted where no packet gets to it");
            assert!(self.promoting.insert(*id), "{id} is promoted twice");
            self.promoted_at.push(self.now);
        }
        let Capacity::Fixed(capacity) = self.settings.capacity else { panic!("a fixed capacity") };
        let held = (self.placed.len() + self.promoting.len() + self.demoting.len()) as u32;
        assert!(plan.promote.is_empty() || held <= capacity, "{held} entries of {capacity}");
        let in_flight = self.promoting.len() + self.demoting.len();
        assert!(in_flight <= self.settings.in_flight_max as usize, "{in_flight} in flight");
        let Some(last) = self.promoted_at.last() else { return };
        for (i, first) in self.promoted_at.iter().enumerate() {
            let installs = (self.promoted_at.len() - i) as u64;
            let earned = last.since(*first).0 * u64::from(self.settings.installs_per_s) / 1_000_000;
            assert!(installs <= u64::from(self.settings.install_burst) + earned, "{installs} since {first}");
        }
    }

    fn answer(&mut self, planner: &mut Planner<u8>, id: u8, refusal: Option<Refusal>) {
        let demoted = self.demoting.remove(&id);
        self.promoting.remove(&id);
        match refusal {
            None if demoted => planner.unplaced(self.now, id),
            None => {
                self.placed.insert(id);
                planner.placed(self.now, id);
            }
            Some(refusal) => {
                if demoted {
                    self.placed.insert(id);
                }
                planner.refused(self.now, id, refusal);
            }
        }
    }

    fn forget(&mut self, id: u8) {
        self.placed.remove(&id);
        self.promoting.remove(&id);
        self.demoting.remove(&id);
        self.paths.remove(&id);
        self.read_at.remove(&id);
    }

    /// Everything comes to rest: then what has an entry is of use.
    fn rest(&mut self, planner: &mut Planner<u8>) {
        let mut quiet = 0;
        for _ in 0..400 {
            self.now = self.now.plus(Micros::from_millis(700));
            let plan = planner.plan(self.now);
            self.take(&plan);
            let is_quiet = plan.is_empty()
                && self.promoting.is_empty()
                && self.demoting.is_empty()
                && !planner.has_turns();
            // With one promotion a second, the next may have to wait for more than one plan.
            quiet = if is_quiet { quiet + 1 } else { 0 };
            if quiet > 2 {
                break;
            }
            let in_flight: Vec<u8> = self.promoting.iter().chain(&self.demoting).copied().collect();
            for id in in_flight {
                self.answer(planner, id, None);
            }
        }
        assert!(self.promoting.is_empty() && self.demoting.is_empty(), "it does not come to rest");
        assert_eq!(planner.counts().placed as usize, self.placed.len());
        let mut reached: BTreeSet<u8> =
            self.placed.iter().copied().filter(|id| self.before(*id).is_none()).collect();
        loop {
            let more: Vec<u8> = self
                .placed
                .iter()
                .copied()
                .filter(|id| !reached.contains(id))
                .filter(|id| {
                    self.before(*id).is_some_and(|before| before.iter().any(|id| reached.contains(id)))
                })
                .collect();
            if more.is_empty() {
                break;
            }
            reached.extend(more);
        }
        assert_eq!(reached, self.placed, "no packet gets to some of them");
        for id in &self.placed {
            let goes_on = self.paths.get(id).is_some_and(|path| path.goes_on);
            let leads = self
                .placed
                .iter()
                .any(|after| after != id && self.before(*after).is_some_and(|before| before.contains(id)));
            assert!(!goes_on || leads, "{id} leads nowhere");
        }
    }
}

/// Settings of an entry for whatever moves more than 10,000 bytes a second.
fn settings(entries: u32, installs_per_s: u32, install_burst: u32, in_flight_max: u32) -> Settings {
    Settings {
        min_rate: Rate::BytesPerSecond(10_000),
        min_residency: Micros::ZERO,
        capacity: Capacity::Fixed(entries),
        installs_per_s,
        install_burst: install_burst.min(installs_per_s),
        in_flight_max,
        ..Settings::default()
    }
}

/// Lives through a history, and comes to rest.
fn live(settings: Settings, steps: Vec<Step>) {
    let mut planner = Planner::new(settings);
    let mut books = Books {
        settings,
        now: Micros::from_secs(1_000),
        paths: BTreeMap::new(),
        placed: BTreeSet::new(),
        promoting: BTreeSet::new(),
        demoting: BTreeSet::new(),
        promoted_at: Vec::new(),
        read_at: BTreeMap::new(),
    };
    for step in steps {
        let now = books.now;
        match step {
            Step::Wait(us) => books.now = now.plus(Micros(us)),
            Step::Observe(id, bytes) => {
                let before = books.read_at.insert(id, now);
                let over = before.map_or(Micros::from_millis(500), |before| now.since(before));
                planner.observe(now, id, Sample { packets: bytes / 1_000, bytes, over });
            }
            Step::Path(id, before, goes_on) => {
                let before = before.map(|before| before.into_iter().filter(|other| *other < id).collect());
                let path = Path { before, goes_on };
                planner.set_path(now, id, path.clone());
                books.paths.insert(id, path);
            }
            Step::Software(id, true) => planner.set_verdict(now, id, Verdict::Software(Because::Default)),
            Step::Software(id, false) => planner.set_verdict(now, id, Verdict::default()),
            Step::Plan => {
                let plan = planner.plan(now);
                books.take(&plan);
            }
            Step::Answer(which, refusal) => {
                let in_flight: Vec<u8> = books.promoting.iter().chain(&books.demoting).copied().collect();
                if !in_flight.is_empty() {
                    books.answer(&mut planner, in_flight[which % in_flight.len()], refusal);
                }
            }
            Step::Forget(id) => {
                planner.forget(id);
                books.forget(id);
            }
            Step::Undone(id) => {
                if books.placed.remove(&id) {
                    planner.unplaced(now, id);
                }
            }
            Step::Entries(entries) => {
                books.settings.capacity = Capacity::Fixed(entries);
                planner.set_settings(now, books.settings);
            }
        }
    }
    books.rest(&mut planner);
}

/// It was promoted as one that nothing leads to, and then what leads to it has to wait for its turn in the only place of a second.
#[test]
fn what_leads_to_an_entry_has_its_turn_before_all_is_at_rest() {
    let steps = vec![
        Step::Entries(2),
        Step::Path(0, None, true),
        Step::Observe(17, 9_413),
        Step::Plan,
        Step::Observe(0, 0),
        Step::Path(17, Some(vec![0]), false),
        Step::Answer(0, None),
    ];
    live(settings(0, 1, 1, 2), steps);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_no_entry_is_out_of_reach_for_long_and_none_leads_nowhere(
        (entries, installs_per_s, install_burst, in_flight_max) in (0_u32..16, 1_u32..20, 1_u32..8, 1_u32..6),
        steps in proptest::collection::vec(step(), 1..200),
    ) {
        live(settings(entries, installs_per_s, install_burst, in_flight_max), steps);
    }
}
