use super::*;
use Heard::{Beat, Bye, Hello, Lost, Took};

const LEASE: Duration = Duration::from_secs(3);
const GRACE: Duration = Duration::from_secs(5);
const TERMS: Terms = Terms { lease: LEASE, grace: GRACE };

const fn ms(value: u64) -> Micros {
    Micros::from_millis(value)
}

/// A guard that has removed what there was, at time 0.
fn rested() -> Watch {
    let mut watch = Watch::new(Micros::ZERO, TERMS, Some(Micros::ZERO));
    assert_eq!(watch.tick(Micros::ZERO), Some(&Scope::All));
    watch.swept(Micros::ZERO, Micros::ZERO, true);
    watch
}

fn hello(pid: i32) -> Heard {
    Hello { pid, answers: false }
}

/// A guard with a daemon that holds a lease.
fn held() -> Watch {
    let mut watch = rested();
    watch.heard(ms(1), hello(7));
    assert_eq!(watch.heard(ms(2), Beat), Reply::Lease { lasts: LEASE, take_within: Duration::ZERO });
    watch
}

#[test]
fn a_guard_that_was_just_started_waits_for_a_daemon_and_then_removes_everything() {
    let mut watch = Watch::new(ms(10), TERMS, None);
    assert_eq!(watch.tick(ms(5_009)), None);
    assert_eq!(watch.wake_at(), Some(ms(5_010)));
    assert_eq!(watch.tick(ms(5_010)), Some(&Scope::All));
    watch.swept(ms(5_010), ms(5_020), true);
    assert_eq!(watch.tick(ms(60_000)), None);
    assert_eq!(watch.wake_at(), None);
}

#[test]
fn guards_that_die_one_after_the_other_do_not_put_the_end_of_rules_off() {
    let first = Watch::new(ms(10), TERMS, None);
    let mut second = Watch::new(ms(4_000), TERMS, first.due_at());
    assert_eq!(second.tick(ms(5_009)), None);
    assert_eq!(second.tick(ms(5_010)), Some(&Scope::All));
}

#[test]
fn a_daemon_that_goes_on_answering_keeps_its_rules_when_the_guard_was_restarted() {
    let mut watch = Watch::new(ms(0), TERMS, None);
    let reply = watch.heard(ms(100), Hello { pid: 7, answers: true });
    assert_eq!(reply, Reply::Lease { lasts: LEASE, take_within: Duration::ZERO });
    assert_eq!(watch.tick(ms(3_000)), None);
}

#[test]
fn nobody_answers_for_rules_that_were_removed() {
    let mut watch = rested();
    assert_eq!(watch.heard(ms(100), Hello { pid: 7, answers: true }), Reply::Taken);
    let mut watch = held();
    watch.heard(ms(10), Lost);
    assert_eq!(watch.heard(ms(20), Hello { pid: 8, answers: true }), Reply::Taken, "another process");
    assert_eq!(watch.tick(ms(5_010)), Some(&Scope::All));
    watch.swept(ms(5_010), ms(5_011), false);
    assert_eq!(watch.heard(ms(5_012), Hello { pid: 7, answers: true }), Reply::Taken, "some are gone");
}

#[test]
fn the_rules_of_a_dead_daemon_go_after_the_grace_time() {
    let mut watch = held();
    watch.heard(ms(1_000), Lost);
    assert_eq!(watch.tick(ms(5_999)), None);
    assert_eq!(watch.tick(ms(6_000)), Some(&Scope::All));
    // Until it has succeeded.
    watch.swept(ms(6_000), ms(6_000), false);
    assert_eq!(watch.tick(ms(6_049)), None);
    assert_eq!(watch.tick(ms(6_050)), Some(&Scope::All));
    watch.swept(ms(6_050), ms(6_050), true);
    assert_eq!(watch.due_at(), None);
}

#[test]
fn a_new_daemon_has_no_lease_before_rules_of_the_old_one_are_taken_over_or_gone() {
    let mut watch = held();
    watch.heard(ms(1_000), Lost);
    let waits = |left| Reply::Lease { lasts: Duration::ZERO, take_within: Duration::from_millis(left) };
    assert_eq!(watch.heard(ms(2_000), hello(8)), waits(4_000));
    assert_eq!(watch.heard(ms(2_500), Beat), waits(3_500));
    assert_eq!(watch.heard(ms(3_000), Took(vec![4])), Reply::None);
    assert_eq!(watch.tick(ms(3_000)), Some(&Scope::NotOn(vec![4])));
    assert_eq!(watch.heard(ms(3_001), Beat), waits(0), "what it did not take over is there yet");
    watch.swept(ms(3_001), ms(3_002), true);
    let lease = Reply::Lease { lasts: LEASE, take_within: Duration::ZERO };
    assert_eq!(watch.heard(ms(3_100), Beat), lease);
    // And where it takes nothing over, all goes in time.
    watch.heard(ms(4_000), Lost);
    watch.heard(ms(4_100), hello(9));
    for at in (4_200..9_000).step_by(100) {
        assert!(matches!(watch.heard(ms(at), Beat), Reply::Lease { lasts: Duration::ZERO, .. }));
        assert_eq!(watch.tick(ms(at)), None);
    }
    assert_eq!(watch.tick(ms(9_000)), Some(&Scope::All));
    watch.swept(ms(9_000), ms(9_000), true);
    assert_eq!(watch.heard(ms(9_100), Beat), lease);
}

#[test]
fn a_taking_over_that_comes_too_late_is_none() {
    let mut watch = held();
    watch.heard(ms(1_000), Lost);
    watch.heard(ms(5_900), hello(8));
    watch.heard(ms(6_000), Took(vec![4]));
    assert_eq!(watch.tick(ms(6_000)), Some(&Scope::All));
    watch.swept(ms(6_000), ms(6_001), false);
    watch.heard(ms(6_010), Took(vec![4]));
    assert_eq!(watch.tick(ms(6_100)), Some(&Scope::All));
}

#[test]
fn a_daemon_that_dies_between_taking_over_and_its_lease_leaves_rules_that_go() {
    for swept in [false, true] {
        let mut watch = held();
        watch.heard(ms(1_000), Lost);
        watch.heard(ms(1_500), hello(8));
        watch.heard(ms(2_000), Took(vec![4]));
        assert!(watch.tick(ms(2_000)).is_some());
        if swept {
            watch.swept(ms(2_000), ms(2_000), true);
        }
        watch.heard(ms(2_010), Lost);
        assert_eq!(watch.tick(ms(7_009)), None);
        assert_eq!(watch.tick(ms(7_010)), Some(&Scope::All));
    }
}

#[test]
fn daemons_that_die_one_after_the_other_do_not_put_the_end_of_rules_off() {
    let mut watch = held();
    watch.heard(ms(1_000), Lost);
    for (pid, at) in (8..).zip((1_500..6_000).step_by(1_000)) {
        watch.heard(ms(at), hello(pid));
        watch.heard(ms(at + 300), Lost);
        assert_eq!(watch.tick(ms(at + 300)), None);
    }
    assert_eq!(watch.tick(ms(6_000)), Some(&Scope::All));
}

#[test]
fn a_silent_daemon_loses_its_rules_again_and_again_and_its_lease() {
    let mut watch = held();
    assert_eq!(watch.wake_at(), Some(ms(3_002)));
    assert_eq!(watch.tick(ms(3_001)), None);
    assert_eq!(watch.tick(ms(3_002)), Some(&Scope::All));
    watch.swept(ms(3_002), ms(3_010), true);
    assert_eq!(watch.tick(ms(4_009)), None);
    assert_eq!(watch.tick(ms(4_010)), Some(&Scope::All));
    watch.swept(ms(4_010), ms(4_010), true);
    // It goes on.
    assert_eq!(watch.heard(ms(4_500), Beat), Reply::Taken);
    assert_eq!(watch.tick(ms(4_500)), Some(&Scope::All), "what it had asked for when it stopped");
    watch.swept(ms(4_500), ms(4_510), true);
    watch.heard(ms(4_600), hello(7));
    assert_eq!(
        watch.heard(ms(4_700), Beat),
        Reply::Lease { lasts: LEASE, take_within: Duration::ZERO },
        "it has begun anew"
    );
}

#[test]
fn a_beat_that_comes_too_late_is_silence_even_if_nobody_looked() {
    let mut watch = held();
    assert_eq!(watch.heard(ms(3_002), Beat), Reply::Taken);
    assert_eq!(watch.tick(ms(3_002)), Some(&Scope::All));
}

#[test]
fn time_in_which_the_guard_could_not_listen_is_no_silence() {
    let mut watch = held();
    watch.heard(ms(1_000), Lost);
    watch.heard(ms(1_500), hello(8));
    watch.heard(ms(2_000), Took(vec![]));
    assert!(watch.tick(ms(2_000)).is_some());
    watch.swept(ms(2_000), ms(9_000), true);
    assert_eq!(watch.tick(ms(9_000)), None);
    assert!(matches!(watch.heard(ms(9_100), Beat), Reply::Lease { lasts: LEASE, .. }));
}

#[test]
fn a_daemon_that_ends_in_order_leaves_nothing() {
    let mut watch = held();
    watch.heard(ms(1_000), Bye);
    assert_eq!(watch.tick(ms(1_000)), Some(&Scope::All));
    assert!(!watch.is_linked());
}

/// A daemon of the simulation: it lives, hangs or is dead, and by its own clock answers for rules up to some time.
#[derive(Default)]
struct Daemon {
    pid: i32,
    connected: bool,
    hangs: bool,
    /// It has a lease, and not only taken over what was there.
    leased: bool,
    until: Micros,
    next_beat: Micros,
}

/// Draws like `offload-engine/tests/simulation/rng.rs`: SplitMix64.
struct Rng(u64);

impl Rng {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

/// Daemons and guards die, hang and come back at random, and removals fail. No rule is there for longer than the bound without
/// somebody who answers for it, and a daemon that is well never loses one.
#[test]
fn no_rule_outlives_who_answers_for_it_by_more_than_the_bound() {
    let (mut removed, mut kept) = (0, 0);
    for seed in 0..2_000 {
        let run = simulate(seed);
        (removed, kept) = (removed + run.0, kept + run.1);
    }
    assert!(
        removed > 2_000 && kept > 2_000,
        "rules were removed {removed} times and taken over {kept} times"
    );
}

/// The longest that rules may be there without anybody who answers for them: the guard is away for a while, then waits the grace
/// time, and its removals fail a few times.
const BOUND: Micros = ms(100 + 5_000 + 4 * 1_000 + 3_000);

struct Run {
    rng: Rng,
    now: Micros,
    guard: Option<Watch>,
    guard_back_at: Micros,
    /// When a guard noted that rules are due.
    noted: Option<Micros>,
    daemon: Daemon,
    /// Whether rules are there, and since when nobody answers for them.
    rules: bool,
    orphaned: Option<Micros>,
    removed: u64,
    kept: u64,
    failures: u32,
}

fn simulate(seed: u64) -> (u64, u64) {
    let now = Micros::from_secs(1);
    let mut run = Run {
        rng: Rng(seed),
        now,
        guard: None,
        guard_back_at: now,
        noted: None,
        daemon: Daemon { pid: 1, ..Daemon::default() },
        rules: false,
        orphaned: None,
        removed: 0,
        kept: 0,
        failures: 0,
    };
    for _ in 0..4_000 {
        run.now = run.now.plus(ms(1 + run.rng.below(20)));
        run.mishap();
        if run.guard.is_none() && run.now >= run.guard_back_at {
            run.guard = Some(Watch::new(run.now, TERMS, run.noted));
        }
        if !run.daemon.hangs {
            run.daemon();
        } else if run.rules && run.now >= run.daemon.until {
            run.orphaned = run.orphaned.or(Some(run.daemon.until));
        }
        run.guard(seed);
        if let Some(since) = run.orphaned {
            assert!(run.now.since(since) <= BOUND, "seed {seed}: rules of nobody since {since:?}");
        }
    }
    (run.removed, run.kept)
}

impl Run {
    fn mishap(&mut self) {
        match self.rng.below(700) {
            0 => {
                if let Some(watch) = self.guard.as_mut().filter(|_| self.daemon.connected) {
                    watch.heard(self.now, Lost);
                }
                let next_beat = self.now.plus(ms(self.rng.below(8_000)));
                self.daemon = Daemon { pid: self.daemon.pid + 1, next_beat, ..Daemon::default() };
                self.orphaned = self.orphaned.or(self.rules.then_some(self.now));
            }
            1 => self.daemon.hangs = true,
            2..6 => self.daemon.hangs = false,
            6 => {
                self.guard = None;
                self.guard_back_at = self.now.plus(ms(self.rng.below(100)));
                self.daemon.connected = false;
                if !self.daemon.leased {
                    self.daemon.until = self.daemon.until.min(self.now);
                }
            }
            _ => {}
        }
    }

    fn daemon(&mut self) {
        let (now, daemon) = (self.now, &mut self.daemon);
        if now >= daemon.until {
            daemon.leased = false;
            // It takes its rules out itself.
            self.rules &= self.orphaned.is_some();
        }
        if now < daemon.next_beat {
            return;
        }
        let Some(watch) = &mut self.guard else { return };
        let hello = Hello { pid: daemon.pid, answers: daemon.leased };
        let heard = if std::mem::replace(&mut daemon.connected, true) { Beat } else { hello };
        match watch.heard(now, heard) {
            Reply::Lease { lasts: Duration::ZERO, take_within } => {
                if !take_within.is_zero() && self.rng.below(4) == 0 {
                    watch.heard(now, Took(vec![1]));
                    (self.orphaned, daemon.until) = (None, now.plus(ms(3_000)));
                    self.kept += u64::from(self.rules);
                }
            }
            Reply::Lease { lasts, .. } => {
                assert!(self.orphaned.is_none(), "a lease beside rules of nobody");
                (daemon.leased, daemon.until) = (true, now.plus(micros(lasts)));
            }
            Reply::Taken => {
                (daemon.connected, daemon.leased, daemon.until) = (false, false, Micros::ZERO);
                self.rules &= self.orphaned.is_some();
            }
            Reply::None => panic!("no answer"),
        }
        daemon.next_beat = now.plus(ms(100));
        self.rules |= daemon.leased && self.rng.below(3) == 0;
    }

    fn guard(&mut self, seed: u64) {
        let now = self.now;
        let Some(watch) = &mut self.guard else { return };
        if let Some(scope) = watch.tick(now).cloned() {
            let is_whole = self.failures >= 4 || self.rng.below(3) > 0;
            self.failures = if is_whole { 0 } else { self.failures + 1 };
            if is_whole && scope == Scope::All && self.rules {
                let is_well = !self.daemon.hangs && self.daemon.leased && now < self.daemon.until;
                assert!(!is_well, "seed {seed}: rules of a daemon that is well");
                (self.rules, self.orphaned, self.removed) = (false, None, self.removed + 1);
            }
            watch.swept(now, now, is_whole);
        }
        self.noted = watch.due_at();
    }
}
