//! The daemon is killed, and another comes while the guard still waits.

use super::*;
use offload_engine::Lease;

impl Run {
    /// Kills the daemon and starts another; what it takes over is right, and is all that was right. How many rules that were.
    pub(crate) fn succeed(&mut self) -> usize {
        self.requests.clear();
        self.answers.clear();
        self.tc_told.clear();
        self.filter_dumps.clear();
        self.datapath_told.clear();
        (self.datapath_lost, self.flow_dump, self.flushed) = (false, None, None);
        for _ in 0..self.rng.below(12) {
            self.change();
        }
        (self.last_totals, self.taken_over) = (Traffic::default(), false);
        self.datapath_told.clear();
        self.datapath_lost = false;
        self.engine = Engine::new(self.now, Settings { needs_guard: true, ..settings(self.mode, self.plan) });
        self.tell(Event::Lease(Lease::TakingOver));
        self.introduce();
        let right: Vec<FilterAddress> =
            self.filters.keys().copied().filter(|address| self.is_right(address)).collect();
        let made = self.added;
        for _ in 0..400 {
            if self.taken_over {
                break;
            }
            self.now = self.now.plus(Micros::from_millis(1));
            self.wake();
            self.deliver_datapath(usize::MAX);
            self.go_on_dumping();
            self.deliver_tc();
            assert!(self.taken_over || self.requests.is_empty(), "something is done before all is known");
        }
        assert!(self.taken_over, "it never decides about what was left");
        self.carry_on();
        assert!(self.filters.keys().eq(right.iter()), "what is right stays, and nothing else");
        assert_eq!(self.added, made, "a rule was made without a lease");
        let placed = self.engine.flows(self.now).filter(|flow| flow.placement == Placement::Hardware).count();
        assert_eq!(placed, right.len(), "our tables have what was taken over");
        self.tell(Event::Lease(Lease::Held));
        right.len()
    }

    fn is_right(&self, address: &FilterAddress) -> bool {
        let (filter, _) = &self.filters[address];
        self.flows.iter().any(|(number, flow)| self.rule(*number, *flow).as_ref() == Some(filter))
    }

    /// The lease is lost: nothing of ours is left, and nothing is made until there is another.
    pub(crate) fn lose_lease(&mut self) {
        self.tell(Event::Lease(Lease::None));
        self.come_to_rest();
        assert!(self.filters.is_empty(), "rules without a lease: {:?}", self.filters.keys());
        let left_to_guard = self.engine.flows(self.now).all(|flow| flow.placement == Placement::Datapath);
        assert!(left_to_guard, "our tables have rules in hardware");
        self.tell(Event::Lease(Lease::Held));
    }
}
