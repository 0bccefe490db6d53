//! Waiting for a state: never for a time.

use std::thread;
use std::time::{Duration, Instant};

use super::{Failure, Outcome};

/// Time between two looks.
const POLL: Duration = Duration::from_millis(50);

/// Looks until `probe` finds a value, for at most `limit`; `what` completes "waited in vain until …".
pub fn wait_for<T>(what: &str, limit: Duration, mut probe: impl FnMut() -> Outcome<Option<T>>) -> Outcome<T> {
    let begin = Instant::now();
    loop {
        let last = match probe() {
            Ok(Some(value)) => return Ok(value),
            Ok(None) => "not yet so".to_owned(),
            Err(failure) => failure.to_string(),
        };
        if begin.elapsed() >= limit {
            return Err(Failure::new(format!("waited {limit:?} in vain until {what}; at last: {last}")));
        }
        thread::sleep(POLL);
    }
}

/// Looks until `probe` answers true, for at most `limit`; `what` completes "waited in vain until …".
pub fn wait_until(what: &str, limit: Duration, mut probe: impl FnMut() -> Outcome<bool>) -> Outcome {
    wait_for(what, limit, || Ok(probe()?.then_some(())))
}
