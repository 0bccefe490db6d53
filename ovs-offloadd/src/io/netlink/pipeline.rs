//! Sequence numbers and the requests they belong to: many in flight, but not more than a bound.
//!
//! Pure bookkeeping; the owner sends and receives.

use std::collections::{HashMap, VecDeque};

use netlink_wire::Seq;

/// Requests that were sent and wait for their answers, and those that wait to be sent.
///
/// `T` is what the owner needs to know when an answer comes.
#[derive(Debug)]
pub struct Pipeline<T> {
    in_flight: HashMap<Seq, T>,
    waiting: VecDeque<(Vec<u8>, Seq, T)>,
    in_flight_max: usize,
    waiting_max: usize,
    next_seq: u32,
}

/// A request that was answered, or given up.
#[derive(Debug, PartialEq, Eq)]
pub struct InFlight<T> {
    /// Its number.
    pub seq: Seq,
    /// What the owner noted.
    pub note: T,
}

impl<T> Pipeline<T> {
    /// Bounds: requests in flight, and requests that wait behind them.
    pub fn new(in_flight_max: usize, waiting_max: usize) -> Self {
        Self {
            in_flight: HashMap::new(),
            waiting: VecDeque::new(),
            in_flight_max: in_flight_max.max(1),
            waiting_max,
            next_seq: 1,
        }
    }

    /// The number for the next request; never 0, which is the kernel's own.
    pub fn next_seq(&mut self) -> Seq {
        let seq = Seq(self.next_seq);
        self.next_seq = self.next_seq.checked_add(1).unwrap_or(1);
        seq
    }

    /// Takes a request in.
    ///
    /// # Errors
    /// The note back, if too many wait already.
    pub fn push(&mut self, seq: Seq, message: Vec<u8>, note: T) -> Result<(), T> {
        if self.waiting.len() >= self.waiting_max {
            return Err(note);
        }
        self.waiting.push_back((message, seq, note));
        Ok(())
    }

    /// The next request that may be sent now, with its number; it counts as in flight from here on.
    pub fn take_next(&mut self) -> Option<(Seq, Vec<u8>)> {
        if self.in_flight.len() >= self.in_flight_max {
            return None;
        }
        let (message, seq, note) = self.waiting.pop_front()?;
        self.in_flight.insert(seq, note);
        Some((seq, message))
    }

    /// What was noted of a request in flight.
    pub fn get(&self, seq: Seq) -> Option<&T> {
        self.in_flight.get(&seq)
    }

    /// What was noted of a request in flight, to be changed.
    pub fn get_mut(&mut self, seq: Seq) -> Option<&mut T> {
        self.in_flight.get_mut(&seq)
    }

    /// A request was answered.
    pub fn finish(&mut self, seq: Seq) -> Option<T> {
        self.in_flight.remove(&seq)
    }

    /// Gives up all that is in flight, in the order sent: their answers were lost.
    pub fn give_up(&mut self) -> Vec<InFlight<T>> {
        let mut lost: Vec<_> = self.in_flight.drain().map(|(seq, note)| InFlight { seq, note }).collect();
        lost.sort_by_key(|request| request.seq);
        lost
    }

    /// Whether nothing waits and nothing is in flight.
    pub fn is_idle(&self) -> bool {
        self.in_flight.is_empty() && self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_than_the_bound_is_in_flight_and_order_is_kept() {
        let mut pipeline = Pipeline::new(2, 10);
        for note in 0..5_u8 {
            let seq = pipeline.next_seq();
            pipeline.push(seq, vec![note], note).unwrap();
        }
        assert_eq!(pipeline.take_next(), Some((Seq(1), vec![0])));
        assert_eq!(pipeline.take_next(), Some((Seq(2), vec![1])));
        assert_eq!(pipeline.take_next(), None);
        assert_eq!(pipeline.finish(Seq(1)), Some(0));
        assert_eq!(pipeline.finish(Seq(1)), None);
        assert_eq!(pipeline.take_next(), Some((Seq(3), vec![2])));
    }

    #[test]
    fn a_full_queue_gives_the_request_back() {
        let mut pipeline = Pipeline::new(1, 1);
        let seq = pipeline.next_seq();
        pipeline.push(seq, vec![1], 'a').unwrap();
        assert_eq!(pipeline.push(Seq(2), vec![2], 'b'), Err('b'));
    }

    #[test]
    fn lost_answers_are_given_up_in_order() {
        let mut pipeline = Pipeline::new(8, 8);
        for note in ["a", "b", "c"] {
            let seq = pipeline.next_seq();
            pipeline.push(seq, vec![0], note).unwrap();
        }
        while pipeline.take_next().is_some() {}
        pipeline.finish(Seq(2));
        let lost: Vec<_> = pipeline.give_up().into_iter().map(|request| request.note).collect();
        assert_eq!(lost, ["a", "c"]);
        assert!(pipeline.is_idle());
    }

    #[test]
    fn numbers_wrap_past_the_kernels_own() {
        let mut pipeline = Pipeline::<()>::new(1, 1);
        pipeline.next_seq = u32::MAX;
        assert_eq!(pipeline.next_seq(), Seq(u32::MAX));
        assert_eq!(pipeline.next_seq(), Seq(1));
    }
}
