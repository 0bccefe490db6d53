//! How many entries the table has, as far as one can know, and how many installs may happen now.

use super::rate;
use super::settings::{Capacity, Settings};
use crate::Micros;

/// What is believed about the table's size: learned from the driver's "full", probed with care.
#[derive(Clone, Copy, Debug)]
pub(super) struct Table {
    /// Entries that are believed to fit.
    fits: u32,
    /// What the operator allows at most.
    ceiling: u32,
    /// Set once the driver has said "full": when the next entry beyond `fits` may be tried.
    probe: Option<Probe>,
}

#[derive(Clone, Copy, Debug)]
struct Probe {
    due: Micros,
    back_off: Micros,
    /// How many entries the next probe adds: doubles with each success.
    step: u32,
}

impl Table {
    pub(super) fn new(capacity: Capacity) -> Self {
        Self { fits: capacity.initial(), ceiling: capacity.ceiling(), probe: None }
    }

    /// Takes over a new setting; what the driver taught stays where the setting allows it.
    pub(super) fn reconfigure(&mut self, capacity: Capacity) {
        self.ceiling = capacity.ceiling();
        if self.probe.is_none() {
            self.fits = capacity.initial();
        }
        self.fits = self.fits.min(self.ceiling);
    }

    /// How many entries may be in use at `now`, a probe that is due included.
    pub(super) fn allows(&self, now: Micros) -> u32 {
        let extra = self.probe.filter(|probe| probe.due <= now).map_or(0, |probe| probe.step);
        self.fits.saturating_add(extra).min(self.ceiling)
    }

    /// How many entries are believed to fit.
    pub(super) fn fits(&self) -> u32 {
        self.fits
    }

    /// Whether the size was taught by the driver.
    pub(super) fn is_learned(&self) -> bool {
        self.probe.is_some()
    }

    /// The driver says the table is full while `in_use` entries are in it.
    pub(super) fn is_full(&mut self, now: Micros, in_use: u32, settings: &Settings) {
        let back_off = match self.probe {
            // Refusals of installs that were under way together teach one thing, once.
            Some(probe) if probe.due > now && in_use >= self.fits => return,
            Some(probe) if probe.step == 1 => {
                Micros(probe.back_off.0.saturating_mul(2)).min(settings.retry_after_max)
            }
            Some(probe) => probe.back_off,
            None => settings.retry_after,
        };
        self.fits = self.fits.min(in_use);
        self.probe = Some(Probe { due: now.plus(back_off), back_off, step: 1 });
    }

    /// The driver took an entry; `in_use` includes it.
    pub(super) fn took(&mut self, now: Micros, in_use: u32, settings: &Settings) {
        if in_use <= self.fits {
            return;
        }
        self.fits = in_use.min(self.ceiling);
        if let Some(probe) = self.probe.as_mut().filter(|probe| probe.due <= now) {
            // Wider, but not sooner: a probe that fails costs an install and a refusal.
            probe.step = probe.step.saturating_mul(2);
            probe.back_off = settings.retry_after;
            probe.due = now.plus(settings.retry_after);
        }
    }
}

/// A token bucket: so many installs per second, so many at once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    /// Millionths of an install.
    tokens: u64,
    filled_at: Option<Micros>,
}

const TOKEN: u64 = 1_000_000;

/// What an install costs now: more, the more of the budget is in use.
///
/// Installs are what is scarce when entries are not: without a price the whole budget goes into megaflows that are over
/// before their install has paid.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Toll {
    /// Installs, each fading with [`TOLL_MEMORY`] as its half-life; 32 fractional bits.
    recent: u64,
    at: Micros,
}

/// Memory of the toll.
const TOLL_MEMORY: Micros = Micros::from_secs(2);

impl Toll {
    /// Lets time pass.
    pub(super) fn fade(&mut self, now: Micros) {
        self.recent = rate::scale(self.recent, rate::fading(now.since(self.at), TOLL_MEMORY));
        self.at = self.at.max(now);
    }

    /// An install happens.
    pub(super) fn spend(&mut self) {
        self.recent = self.recent.saturating_add(1 << 32);
    }

    /// An install that was counted did not happen.
    pub(super) fn give_back(&mut self) {
        self.recent = self.recent.saturating_sub(1 << 32);
    }

    /// What an install has to save, in the unit of the settings' saving.
    pub(super) fn price(&self, settings: &Settings) -> u128 {
        // A steady rate r has r × memory / ln 2 installs in the memory.
        let full = u128::from(settings.installs_per_s) * u128::from(TOLL_MEMORY.0) * 1_443 / 1_000_000_000;
        let cost = (u128::from(settings.install_cost) * u128::from(self.recent) / full.max(1)) >> 32;
        let bytes = u64::try_from(cost).unwrap_or(u64::MAX);
        settings.saving.of(bytes.div_ceil(800), bytes)
    }
}

impl Budget {
    pub(super) fn new() -> Self {
        Self { tokens: 0, filled_at: None }
    }

    /// Fills the bucket up to `now`. It starts full.
    pub(super) fn refill(&mut self, now: Micros, settings: &Settings) {
        self.refill_at(now, settings.installs_per_s, settings.install_burst.min(settings.installs_per_s));
    }

    /// Fills the bucket up to `now` with `per_s` installs per second, `burst` at most. It starts full.
    pub(super) fn refill_at(&mut self, now: Micros, per_s: u32, burst: u32) {
        let burst = u64::from(burst) * TOKEN;
        let added = match self.filled_at {
            None => burst,
            Some(then) => now.since(then).0.saturating_mul(u64::from(per_s)),
        };
        self.tokens = self.tokens.saturating_add(added).min(burst);
        self.filled_at = Some(self.filled_at.map_or(now, |then| then.max(now)));
    }

    /// Whole installs left.
    pub(super) fn left(&self) -> u32 {
        u32::try_from(self.tokens / TOKEN).unwrap_or(u32::MAX)
    }

    /// An install that was taken out did not happen.
    pub(super) fn give_back(&mut self) {
        self.tokens = self.tokens.saturating_add(TOKEN);
    }

    /// Takes one install out; the caller has looked at [`Self::left`].
    pub(super) fn spend(&mut self) {
        self.tokens = self.tokens.saturating_sub(TOKEN);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        Settings { installs_per_s: 10, install_burst: 5, ..Settings::default() }
    }

    #[test]
    fn the_budget_starts_full_and_refills_at_its_rate() {
        let mut budget = Budget::new();
        budget.refill(Micros::from_secs(7), &settings());
        assert_eq!(budget.left(), 5);
        for _ in 0..5 {
            budget.spend();
        }
        budget.refill(Micros::from_millis(7_050), &settings());
        assert_eq!(budget.left(), 0);
        budget.refill(Micros::from_millis(7_100), &settings());
        assert_eq!(budget.left(), 1);
        budget.refill(Micros::from_secs(1), &settings());
        assert_eq!(budget.left(), 1, "a clock that jumps back gives nothing");
        budget.refill(Micros::from_secs(3_600), &settings());
        assert_eq!(budget.left(), 5, "no more than the burst");
    }

    #[test]
    fn a_full_table_shrinks_at_once_and_grows_by_probes_that_double() {
        let settings = settings();
        let mut table = Table::new(Capacity::Learned { initial: None });
        assert_eq!(table.allows(Micros::ZERO), u32::MAX);
        table.is_full(Micros::ZERO, 64, &settings);
        assert_eq!(table.allows(Micros::ZERO), 64);
        assert_eq!(table.allows(Micros::from_secs(1)), 65);
        table.took(Micros::from_secs(1), 65, &settings);
        assert_eq!(table.allows(Micros::from_secs(1)), 65);
        assert_eq!(table.allows(Micros::from_secs(2)), 67);
        table.took(Micros::from_secs(2), 66, &settings);
        assert_eq!(table.fits(), 66);
    }

    #[test]
    fn a_probe_that_fails_waits_twice_as_long() {
        let settings = settings();
        let mut table = Table::new(Capacity::Fixed(100));
        table.is_full(Micros::ZERO, 64, &settings);
        table.is_full(Micros::from_secs(1), 64, &settings);
        assert_eq!(table.allows(Micros::from_millis(2_999)), 64);
        assert_eq!(table.allows(Micros::from_secs(3)), 65);
    }

    #[test]
    fn refusals_of_one_batch_teach_once() {
        let settings = settings();
        let mut table = Table::new(Capacity::Learned { initial: Some(1_000) });
        for _ in 0..100 {
            table.is_full(Micros::ZERO, 64, &settings);
        }
        assert_eq!(table.allows(Micros::from_secs(1)), 65);
        table.is_full(Micros::from_millis(10), 60, &settings);
        assert_eq!(
            table.allows(Micros::from_millis(10)),
            60,
            "full with fewer entries teaches a smaller table"
        );
    }

    #[test]
    fn a_confirmation_that_comes_late_corrects_what_was_learned() {
        let settings = settings();
        let mut table = Table::new(Capacity::Learned { initial: None });
        table.is_full(Micros::ZERO, 60, &settings);
        table.took(Micros(5), 61, &settings);
        assert_eq!(table.fits(), 61);
        assert_eq!(table.allows(Micros(5)), 61);
    }

    #[test]
    fn a_new_setting_keeps_what_the_driver_taught() {
        let settings = settings();
        let mut table = Table::new(Capacity::Fixed(100));
        table.is_full(Micros::ZERO, 64, &settings);
        table.reconfigure(Capacity::Fixed(80));
        assert_eq!(table.fits(), 64);
        table.reconfigure(Capacity::Fixed(32));
        assert_eq!(table.allows(Micros::from_secs(9)), 32);
    }
}
