//! Which tests of a suite: numbers and ranges, as Open vSwitch's test programs take them.

use std::str::FromStr;

/// Ranges of tests, their ends included; all tests when there is none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Selection(Vec<(u32, u32)>);

impl Selection {
    /// Adds what one word says: `7`, `7-12`, or `7-` for all from 7 on.
    pub(crate) fn add(&mut self, word: &str) -> Result<(), String> {
        let wrong = || format!("`{word}` is no test: say 7, 7-12 or 7-");
        let number = |text: &str| u32::from_str(text).ok().filter(|number| *number > 0).ok_or_else(wrong);
        let (first, last) = match word.split_once('-') {
            None => (number(word)?, number(word)?),
            Some((first, "")) => (number(first)?, u32::MAX),
            Some((first, last)) => (number(first)?, number(last)?),
        };
        if first > last {
            return Err(wrong());
        }
        self.0.push((first, last));
        self.0.sort_unstable();
        Ok(())
    }

    /// These tests.
    pub(crate) fn of(numbers: impl IntoIterator<Item = u32>) -> Self {
        Self(numbers.into_iter().map(|number| (number, number)).collect())
    }

    /// As the test program takes them.
    pub(crate) fn words(&self) -> Vec<String> {
        let word = |&(first, last): &(u32, u32)| {
            match last {
                u32::MAX => format!("{first}-"),
                // `7-7` would be all from 7 on: the program looks for the end behind the beginning.
                _ if first == last => first.to_string(),
                _ => format!("{first}-{last}"),
            }
        };
        self.0.iter().map(word).collect()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The test that is the next one after `ended`, or the first, and those after that, none of which may be left.
    pub(crate) fn after(&self, ended: Option<u32>) -> Option<(u32, Self)> {
        let all = [(1, u32::MAX)];
        let ranges = if self.0.is_empty() { &all[..] } else { &self.0 };
        let from = |least: u32| {
            ranges
                .iter()
                .filter(move |(_, last)| *last >= least)
                .map(move |(first, last)| (least.max(*first), *last))
        };
        let (next, _) = from(ended.unwrap_or(0).saturating_add(1)).next()?;
        Some((next, Self(from(next.saturating_add(1)).collect())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selection(words: &[&str]) -> Selection {
        let mut selection = Selection::default();
        for word in words {
            selection.add(word).unwrap();
        }
        selection
    }

    #[test]
    fn after_a_guest_that_died_the_rest_begins_behind_the_test_it_died_of() {
        assert_eq!(selection(&[]).after(Some(6)), Some((7, selection(&["8-"]))));
        assert_eq!(selection(&["20-22", "3"]).after(None), Some((3, selection(&["20-22"]))));
        assert_eq!(selection(&["3", "20-22"]).after(Some(3)), Some((20, selection(&["21-22"]))));
        assert_eq!(selection(&["3"]).after(None), Some((3, selection(&[]))));
        assert_eq!(selection(&["3"]).after(Some(3)), None);
    }

    #[test]
    fn what_is_no_range_of_tests_is_refused() {
        for word in ["", "0", "-3", "9-3", "x", "1-2-3"] {
            assert!(Selection::default().add(word).is_err(), "{word}");
        }
    }

    #[test]
    fn words_are_those_of_the_test_program() {
        assert_eq!(selection(&["7", "9-", "1-3"]).words(), ["1-3", "7", "9-"]);
    }
}
