//! Who may have how much of one NIC's table: a fair share for every tenant, and the limits that rules set.
//!
//! Shares are max-min fair: a tenant that wants less than its share leaves the rest to the others, in proportion to their
//! shares; what it wants of its own share nobody can keep from it.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::cmp::Ordering;

use super::capacity::Budget;
use crate::{Micros, RuleId, Weight};

/// A tenant, by the caller's own numbering. Megaflows of nobody in particular are those of number 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TenantId(pub u16);

impl TenantId {
    /// Whether no rule names it: its number is one of a [`crate::tenants::TenantBook`].
    pub fn is_found(self) -> bool {
        usize::from(self.0) > crate::tenants::TENANTS_MAX
    }
}

/// The most that the megaflows of one rule may use of one NIC. `None`: as much as there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limit {
    /// Entries at a time.
    pub entries: Option<u32>,
    /// Installs per second, on average; as many at once.
    pub installs_per_s: Option<u32>,
}

impl Limit {
    /// Whether it limits nothing.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// How a NIC's table is divided.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Division {
    /// What rules are limited to. Rules that are not named have no limit.
    pub limits: BTreeMap<RuleId, Limit>,
    /// How large each tenant's share is against the others'. Tenants that rules name and that are not in it have 1.0, and
    /// so has nobody in particular.
    pub shares: BTreeMap<TenantId, Weight>,
    /// The share of each tenant that no rule names ([`TenantId::is_found`]).
    pub found: Weight,
}

impl Division {
    fn share(&self, tenant: TenantId) -> u64 {
        let others = if tenant.is_found() { self.found } else { Weight::default() };
        u64::from(self.shares.get(&tenant).copied().unwrap_or(others).thousandths())
    }

    /// What a megaflow of that tenant and rule is counted under.
    pub(super) fn claim(&self, tenant: TenantId, rule: Option<RuleId>) -> Claim {
        let rule = rule.filter(|rule| self.limits.get(rule).is_some_and(|limit| !limit.is_none()));
        Claim { tenant, rule }
    }
}

/// What a megaflow's entry is counted under: its tenant, and its rule if that has a limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Claim {
    pub(super) tenant: TenantId,
    pub(super) rule: Option<RuleId>,
}

/// How much is held and wanted under one claim.
#[derive(Clone, Copy, Debug)]
pub(super) struct Demand {
    pub(super) claim: Claim,
    /// Entries held or being installed, those being freed left out.
    pub(super) held: u32,
    /// Megaflows in line.
    pub(super) waiting: u32,
}

#[derive(Clone, Copy, Debug, Default)]
struct TenantUse {
    share: u64,
    held: u32,
    entitled: u32,
}

#[derive(Clone, Copy, Debug, Default)]
struct RuleUse {
    held: u32,
    entries: u32,
    installs: u32,
}

/// How the claims stand against each other at one moment of a plan; kept up to date as entries change hands.
#[derive(Clone, Debug, Default)]
pub(super) struct Standings {
    tenants: BTreeMap<TenantId, TenantUse>,
    rules: BTreeMap<RuleId, RuleUse>,
}

/// What stands in the way of one more entry under a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum InTheWay {
    RuleEntries,
    RuleInstalls,
}

impl Standings {
    /// `capacity`: the entries that are ours to give.
    pub(super) fn new(
        division: &Division,
        budgets: &BTreeMap<RuleId, Budget>,
        capacity: u32,
        demands: impl Iterator<Item = Demand>,
    ) -> Self {
        let mut standings = Self::default();
        let mut wanted: BTreeMap<TenantId, u64> = BTreeMap::new();
        for Demand { claim, held, waiting } in demands {
            let limit = claim.rule.and_then(|rule| division.limits.get(&rule)).copied().unwrap_or_default();
            let tenant = standings.tenants.entry(claim.tenant).or_default();
            tenant.share = division.share(claim.tenant);
            tenant.held += held;
            let most = limit.entries.unwrap_or(u32::MAX).max(held);
            *wanted.entry(claim.tenant).or_default() += u64::from(held.saturating_add(waiting).min(most));
            if let Some(rule) = claim.rule {
                let in_use = standings.rules.entry(rule).or_default();
                in_use.held += held;
                in_use.entries = limit.entries.unwrap_or(u32::MAX);
                in_use.installs = match limit.installs_per_s {
                    Some(_) => budgets.get(&rule).map_or(0, Budget::left),
                    None => u32::MAX,
                };
            }
        }
        standings.entitle(capacity, &wanted);
        standings
    }

    /// Max-min fairness by filling up: the tenants that want least for their share are served first, each with at most its
    /// share of what is left.
    fn entitle(&mut self, capacity: u32, wanted: &BTreeMap<TenantId, u64>) {
        let mut by_want: Vec<(u64, u64, TenantId)> = self
            .tenants
            .iter()
            .map(|(id, tenant)| (wanted.get(id).copied().unwrap_or(0), tenant.share.max(1), *id))
            .collect();
        by_want.sort_by(|a, b| compare_ratios((a.0, a.1), (b.0, b.1)).then(a.2.cmp(&b.2)));
        let mut left = u64::from(capacity);
        let mut shares_left: u64 = by_want.iter().map(|(_, share, _)| share).sum();
        for (want, share, id) in by_want {
            let fair = u128::from(left) * u128::from(share) / u128::from(shares_left.max(1));
            let granted = want.min(u64::try_from(fair).unwrap_or(u64::MAX));
            left -= granted;
            shares_left -= share;
            if let Some(tenant) = self.tenants.get_mut(&id) {
                tenant.entitled = u32::try_from(granted).unwrap_or(u32::MAX);
            }
        }
    }

    /// Whether the tenant holds fewer entries than it is entitled to.
    pub(super) fn is_under(&self, tenant: TenantId) -> bool {
        self.tenants.get(&tenant).is_some_and(|tenant| tenant.held < tenant.entitled)
    }

    /// Whether the tenant holds more entries than it is entitled to.
    pub(super) fn is_over(&self, tenant: TenantId) -> bool {
        self.tenants.get(&tenant).is_some_and(|tenant| tenant.held > tenant.entitled)
    }

    /// Whether there is more than one tenant.
    pub(super) fn has_competition(&self) -> bool {
        self.tenants.len() > 1
    }

    /// Whose turn is later: greater for the tenant that has more of its share already. Equal where there is but one.
    pub(super) fn compare_fill(&self, a: TenantId, b: TenantId) -> Ordering {
        if a == b {
            return Ordering::Equal;
        }
        let of = |id| self.tenants.get(&id).copied().unwrap_or_default();
        let (a, b) = (of(a), of(b));
        compare_ratios((u64::from(a.held), a.share), (u64::from(b.held), b.share))
    }

    /// What keeps a megaflow of this claim from one more entry, beside the table.
    pub(super) fn in_the_way(&self, claim: Claim) -> Option<InTheWay> {
        let in_use = self.rules.get(&claim.rule?)?;
        if in_use.held >= in_use.entries {
            Some(InTheWay::RuleEntries)
        } else if in_use.installs == 0 {
            Some(InTheWay::RuleInstalls)
        } else {
            None
        }
    }

    /// How many entries the rule holds beyond its limit.
    pub(super) fn excess(&self) -> impl Iterator<Item = (RuleId, u32)> + '_ {
        self.rules
            .iter()
            .map(|(rule, in_use)| (*rule, in_use.held.saturating_sub(in_use.entries)))
            .filter(|(_, excess)| *excess > 0)
    }

    /// An entry is given, and an install spent on it.
    pub(super) fn gives(&mut self, claim: Claim) {
        if let Some(tenant) = self.tenants.get_mut(&claim.tenant) {
            tenant.held += 1;
        }
        if let Some(in_use) = claim.rule.and_then(|rule| self.rules.get_mut(&rule)) {
            in_use.held += 1;
            in_use.installs = in_use.installs.saturating_sub(1);
        }
    }

    /// An entry is taken back.
    pub(super) fn takes(&mut self, claim: Claim) {
        if let Some(tenant) = self.tenants.get_mut(&claim.tenant) {
            tenant.held = tenant.held.saturating_sub(1);
        }
        if let Some(in_use) = claim.rule.and_then(|rule| self.rules.get_mut(&rule)) {
            in_use.held = in_use.held.saturating_sub(1);
        }
    }
}

/// Compares `a.0 / a.1` with `b.0 / b.1`.
fn compare_ratios(a: (u64, u64), b: (u64, u64)) -> Ordering {
    (u128::from(a.0) * u128::from(b.1)).cmp(&(u128::from(b.0) * u128::from(a.1)))
}

/// Brings the rules' install budgets up to `now`, and drops those of rules that have none any more.
pub(super) fn refill(budgets: &mut BTreeMap<RuleId, Budget>, division: &Division, now: Micros) {
    budgets.retain(|rule, _| division.limits.contains_key(rule));
    for (rule, limit) in &division.limits {
        if let Some(per_s) = limit.installs_per_s {
            budgets.entry(*rule).or_insert_with(Budget::new).refill_at(now, per_s, per_s);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standings(capacity: u32, tenants: &[(u16, u32, u32, u32)]) -> Standings {
        let shares =
            tenants.iter().map(|(id, share, ..)| (TenantId(*id), Weight::from_thousandths(*share))).collect();
        let division = Division { shares, ..Division::default() };
        let demands = tenants.iter().map(|&(id, _, held, waiting)| Demand {
            claim: Claim { tenant: TenantId(id), rule: None },
            held,
            waiting,
        });
        Standings::new(&division, &BTreeMap::new(), capacity, demands)
    }

    fn entitled(standings: &Standings) -> Vec<u32> {
        standings.tenants.values().map(|tenant| tenant.entitled).collect()
    }

    #[test]
    fn what_a_tenant_does_not_want_goes_to_the_others_by_their_shares() {
        let alike = [(0, 1_000, 0, 10), (1, 1_000, 0, 1_000), (2, 1_000, 0, 1_000)];
        assert_eq!(entitled(&standings(100, &alike)), [10, 45, 45]);
        let unlike = [(0, 1_000, 0, 10), (1, 1_000, 0, 1_000), (2, 2_000, 0, 1_000)];
        assert_eq!(entitled(&standings(100, &unlike)), [10, 30, 60]);
        assert_eq!(entitled(&standings(5_000, &alike)), [10, 1_000, 1_000], "there is room for all");
        assert_eq!(entitled(&standings(u32::MAX, &alike)), [10, 1_000, 1_000]);
        assert_eq!(entitled(&standings(0, &alike)), [0, 0, 0]);
    }

    #[test]
    fn a_crowd_of_one_tenant_does_not_shrink_the_share_of_another() {
        for crowd in [1_000, 100_000, u32::MAX / 2] {
            let standings = standings(1_024, &[(0, 1_000, 900, crowd), (1, 1_000, 0, 600)]);
            assert_eq!(entitled(&standings), [512, 512]);
            assert!(standings.is_over(TenantId(0)) && standings.is_under(TenantId(1)));
            assert_eq!(standings.compare_fill(TenantId(0), TenantId(1)), Ordering::Greater);
        }
    }

    #[test]
    fn a_rule_with_a_limit_wants_no_more_than_that() {
        let rule = RuleId(3);
        let mut division = Division::default();
        division.limits.insert(rule, Limit { entries: Some(8), installs_per_s: None });
        let claim = division.claim(TenantId(0), Some(rule));
        assert_eq!(division.claim(TenantId(0), Some(RuleId(4))).rule, None, "no limit, no claim of its own");
        let demands = [
            Demand { claim, held: 7, waiting: 500 },
            Demand { claim: Claim { tenant: TenantId(1), rule: None }, held: 0, waiting: 500 },
        ];
        let mut standings = Standings::new(&division, &BTreeMap::new(), 100, demands.into_iter());
        assert_eq!(entitled(&standings), [8, 92]);
        assert_eq!(standings.in_the_way(claim), None);
        standings.gives(claim);
        assert_eq!(standings.in_the_way(claim), Some(InTheWay::RuleEntries));
        standings.takes(claim);
        assert_eq!(standings.in_the_way(claim), None);
    }
}
