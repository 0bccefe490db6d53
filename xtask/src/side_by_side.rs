//! Work of one kind, a few pieces of it at a time.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::thread;

use crate::problem::Problem;

/// Does `work` with each of `pieces`, begun in their order and at most `at_once` at a time. The values are in any order.
pub(crate) fn run<T: Send, R: Send>(
    pieces: impl IntoIterator<Item = T>,
    at_once: usize,
    work: impl Fn(T) -> Result<R, Problem> + Sync,
) -> Result<Vec<R>, Problem> {
    let waiting = Mutex::new(pieces.into_iter().collect::<VecDeque<_>>());
    let next = || waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    let hand = || {
        let mut done = Vec::new();
        while let Some(piece) = next() {
            done.push(work(piece)?);
        }
        Ok::<_, Problem>(done)
    };
    thread::scope(|scope| {
        let hands: Vec<_> = (0..at_once.max(1)).map(|_| scope.spawn(hand)).collect();
        let mut all = Vec::new();
        for hand in hands {
            all.extend(hand.join().map_err(|_| Problem::Failed("A part of the work panicked.".to_owned()))??);
        }
        Ok(all)
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn every_piece_is_done_once_and_no_more_at_a_time_than_was_said() {
        let (busy, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let mut done = run(0..50, 2, |piece| {
            most.fetch_max(busy.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            thread::yield_now();
            busy.fetch_sub(1, Ordering::SeqCst);
            Ok(piece)
        })
        .expect("no piece fails");
        done.sort_unstable();
        assert_eq!(done, (0..50).collect::<Vec<_>>());
        assert!(most.into_inner() <= 2);
    }

    #[test]
    fn a_piece_that_fails_is_told() {
        let failed =
            run(
                0..5,
                2,
                |piece| if piece == 3 { Err(Problem::Failed("three".to_owned())) } else { Ok(piece) },
            );
        assert!(matches!(failed, Err(Problem::Failed(why)) if why == "three"));
    }
}
