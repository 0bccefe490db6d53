//! Progress on standard error: one line when a step begins, one with its time when it ends.

use std::io::{self, Write};
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

/// Passes whole lines on, each behind a word that says whose it is.
#[derive(Debug)]
pub(crate) struct Labelled<W> {
    word: String,
    out: W,
    /// The line that has not ended.
    line: Vec<u8>,
}

/// A line that does not end is passed on in pieces of this length.
const LINE_MAX: usize = 64 * 1024;

impl<W: Write> Labelled<W> {
    pub(crate) fn new(word: &str, out: W) -> Self {
        Self { word: word.to_owned(), out, line: Vec::new() }
    }
}

impl<W: Write> Write for Labelled<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.line.extend_from_slice(piece);
            if piece.ends_with(b"\n") || self.line.len() >= LINE_MAX {
                let end = if piece.ends_with(b"\n") { "" } else { "\n" };
                let text = String::from_utf8_lossy(&self.line).into_owned();
                self.line.clear();
                // In one call: another's line must not get between.
                self.out.write_all(format!("{} | {text}{end}", self.word).as_bytes())?;
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
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
    fn lines_are_passed_on_whole_and_say_whose_they_are() {
        let mut seen = Vec::new();
        let mut out = Labelled::new("lab-sid", &mut seen);
        for piece in ["one", " line\ntwo", "\n\nthree"] {
            out.write_all(piece.as_bytes()).expect("a vector takes everything");
        }
        assert_eq!(String::from_utf8_lossy(&seen), "lab-sid | one line\nlab-sid | two\nlab-sid | \n");
    }

    #[test]
    fn a_duration_below_a_minute_has_tenths_and_above_has_minutes() {
        assert_eq!(seconds(Duration::from_millis(7_340)), "7.3 s");
        assert_eq!(seconds(Duration::from_secs(125)), "2 min 05 s");
    }
}
