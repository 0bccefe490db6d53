//! Progress on standard error: one line when a step begins, one with its time when it ends.

use std::time::{Duration, Instant};

use crate::problem::Problem;

/// Runs `work` as a step that the user sees begin and end.
pub(crate) fn step<T>(name: &str, work: impl FnOnce() -> Result<T, Problem>) -> Result<T, Problem> {
    eprintln!("==> {name}");
    let begin = Instant::now();
    let result = work();
    let outcome = if result.is_ok() { "done" } else { "FAILED" };
    eprintln!("    {outcome}: {name} ({})", seconds(begin.elapsed()));
    result
}

/// A remark within a step.
pub(crate) fn note(text: &str) {
    eprintln!("    {text}");
}

/// A duration as people read it: `7.3 s`, `2 min 05 s`.
pub(crate) fn seconds(elapsed: Duration) -> String {
    let whole = elapsed.as_secs();
    if whole < 60 {
        format!("{:.1} s", elapsed.as_secs_f64())
    } else {
        format!("{} min {:02} s", whole / 60, whole % 60)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_below_a_minute_has_tenths_and_above_has_minutes() {
        assert_eq!(seconds(Duration::from_millis(7_340)), "7.3 s");
        assert_eq!(seconds(Duration::from_secs(125)), "2 min 05 s");
    }
}
