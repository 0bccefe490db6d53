//! Fair shares of tenants and limits of rules, seen from outside: plans are carried out and confirmed at once.

use std::collections::BTreeSet;

use policies::planner::{
    Capacity, Division, Explanation, Limit, Planner, Sample, Settings, TenantId, Terms, Verdict, WaitingFor,
};
use policies::{Micros, Rate, RuleId, Weight};

const EPOCH: Micros = Micros::from_millis(500);

/// A NIC with its planner, on which every plan succeeds.
struct Nic {
    planner: Planner<u32>,
    now: Micros,
    placed: BTreeSet<u32>,
    demotions: u32,
    rates: Vec<(u32, u64)>,
}

impl Nic {
    fn new(capacity: u32, installs_per_s: u32) -> Self {
        let settings = Settings {
            capacity: Capacity::Fixed(capacity),
            min_rate: Rate::BytesPerSecond(1_000),
            installs_per_s,
            install_burst: installs_per_s,
            ..Settings::default()
        };
        let now = Micros::from_secs(100);
        let planner = Planner::new(settings);
        Self { planner, now, placed: BTreeSet::new(), demotions: 0, rates: Vec::new() }
    }

    /// A megaflow that moves so many bytes per second from now on.
    fn add(&mut self, id: u32, tenant: u16, rule: Option<u16>, bytes_per_s: u64) {
        self.planner.set_tenant(self.now, id, TenantId(tenant));
        let terms = Terms { rule: rule.map(RuleId), ..Terms::default() };
        self.planner.set_verdict(self.now, id, Verdict::Auto(terms));
        self.rates.push((id, bytes_per_s));
    }

    fn limit(&mut self, rule: u16, entries: Option<u32>, installs_per_s: Option<u32>) {
        let limits = [(RuleId(rule), Limit { entries, installs_per_s })].into();
        self.planner.set_division(self.now, Division { limits, ..Division::default() });
    }

    fn run(&mut self, epochs: u32) {
        for _ in 0..epochs {
            self.now = self.now.plus(EPOCH);
            for (id, rate) in &self.rates {
                let sample = Sample { packets: rate / 2_000, bytes: rate / 2, over: EPOCH };
                self.planner.observe(self.now, *id, sample);
            }
            // Demotions that are confirmed let the next plan give their entries.
            for _ in 0..2 {
                let plan = self.planner.plan(self.now);
                for id in plan.demote {
                    self.planner.unplaced(self.now, id);
                    self.placed.remove(&id);
                    self.demotions += 1;
                }
                for id in plan.promote {
                    self.planner.placed(self.now, id);
                    self.placed.insert(id);
                }
            }
        }
    }

    fn placed_in(&self, ids: std::ops::Range<u32>) -> usize {
        self.placed.range(ids).count()
    }
}

#[test]
fn a_tenant_that_opens_100_000_flows_does_not_push_another_below_its_share() {
    let mut nic = Nic::new(100, 1_000);
    for id in 0..100_000 {
        nic.add(id, 1, None, 1_000_000 + u64::from(id));
    }
    nic.run(4);
    assert_eq!(nic.placed.len(), 100, "alone, a tenant may have it all");
    for id in 100_000..100_080 {
        nic.add(id, 2, None, 2_000);
    }
    nic.run(12);
    assert_eq!((nic.placed_in(0..100_000), nic.placed_in(100_000..200_000)), (50, 50));
    assert!(
        matches!(
            nic.planner.explain(nic.now, 0),
            Explanation::Waiting { waiting_for: WaitingFor::Share, .. }
        ),
        "{:?}",
        nic.planner.explain(nic.now, 0)
    );
    let demotions = nic.demotions;
    nic.run(6);
    assert_eq!(nic.demotions, demotions, "once divided, nothing moves any more");
}

#[test]
fn newcomers_of_a_crowd_do_not_use_up_the_installs_of_others() {
    let mut nic = Nic::new(1_000, 20);
    for id in 0..5_000 {
        nic.add(id, 1, None, 5_000_000);
    }
    for id in 100_000..100_020 {
        nic.add(id, 2, None, 100_000);
    }
    nic.run(6);
    assert_eq!(nic.placed_in(100_000..200_000), 20, "{} of the crowd", nic.placed_in(0..100_000));
}

#[test]
fn shares_may_be_unlike_and_what_is_left_over_is_used() {
    let mut nic = Nic::new(90, 1_000);
    let shares = [(TenantId(1), Weight::from_thousandths(2_000))].into();
    nic.planner.set_division(nic.now, Division { shares, ..Division::default() });
    for id in 0..200 {
        nic.add(id, 1 + u16::from(id >= 100), None, 1_000_000 + 1_000 * u64::from(id));
    }
    nic.run(12);
    assert_eq!((nic.placed_in(0..100), nic.placed_in(100..200)), (60, 30));
    for id in 10..100 {
        nic.planner.forget(id);
        nic.placed.remove(&id);
    }
    nic.rates.retain(|(id, _)| !(10..100).contains(id));
    nic.run(6);
    assert_eq!((nic.placed_in(0..100), nic.placed_in(100..200)), (10, 80));
}

#[test]
fn a_rule_has_no_more_entries_than_its_limit_and_gives_them_to_its_best() {
    let mut nic = Nic::new(1_000, 1_000);
    nic.limit(3, Some(8), None);
    for id in 0..20 {
        nic.add(id, 0, Some(3), 10_000 + 1_000 * u64::from(id));
    }
    for id in 100..120 {
        nic.add(id, 0, None, 10_000);
    }
    nic.run(6);
    assert_eq!((nic.placed_in(0..100), nic.placed_in(100..200)), (8, 20));
    assert_eq!(nic.placed_in(12..20), 8);
    assert!(matches!(
        nic.planner.explain(nic.now, 0),
        Explanation::Waiting { waiting_for: WaitingFor::RuleEntries, .. }
    ));
    nic.add(50, 0, Some(3), 1_000_000);
    nic.run(12);
    assert!(nic.placed.contains(&50), "a better one of the rule takes the entry of its weakest");
    assert_eq!(nic.placed_in(0..100), 8);
}

#[test]
fn a_limit_that_is_lowered_takes_the_weakest_away_and_nothing_else_moves() {
    let mut nic = Nic::new(1_000, 1_000);
    for id in 0..20 {
        nic.add(id, 0, Some(3), 10_000 + 1_000 * u64::from(id));
    }
    for id in 100..120 {
        nic.add(id, 0, Some(4), 10_000);
    }
    nic.run(10);
    assert_eq!((nic.placed_in(0..100), nic.demotions), (20, 0));
    nic.limit(3, Some(5), None);
    nic.run(2);
    assert_eq!((nic.placed_in(0..100), nic.placed_in(15..20), nic.demotions), (5, 5, 15));
    assert_eq!(nic.placed_in(100..200), 20);
    nic.limit(3, None, None);
    nic.run(2);
    assert_eq!((nic.placed_in(0..100), nic.demotions), (20, 15));
}

#[test]
fn a_rule_has_its_own_install_budget() {
    let mut nic = Nic::new(1_000, 1_000);
    nic.limit(3, None, Some(4));
    for id in 0..100 {
        nic.add(id, 0, Some(3), 1_000_000);
    }
    for id in 100..200 {
        nic.add(id, 0, None, 10_000);
    }
    nic.run(2);
    assert_eq!(nic.placed_in(100..200), 100);
    assert!((4..=6).contains(&nic.placed_in(0..100)), "{}", nic.placed_in(0..100));
    assert!(matches!(
        nic.planner.explain(nic.now, 99),
        Explanation::Waiting { waiting_for: WaitingFor::RuleInstalls, .. } | Explanation::Placed { .. }
    ));
    nic.run(10);
    assert!((22..=26).contains(&nic.placed_in(0..100)), "{}", nic.placed_in(0..100));
}
