//! Whose change to a filter came last.
//!
//! `dpctl/mod-flow` makes ovs-vswitchd write the actions we read a moment before. If Open vSwitch itself changed the
//! flow in between, our command puts the replaced actions back, and nothing in Open vSwitch notices: revalidators
//! compare with what they remember, not with what TC holds. The order of RTNLGRP_TC notifications is the only witness.

/// What the filters seen between sending `dpctl/mod-flow` and its answer tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Judgement {
    /// No filter was made: the flow is gone, or the command did nothing.
    Nothing,
    /// Only the flow as we read it: TC holds what Open vSwitch wants.
    Undisturbed,
    /// Open vSwitch changed the flow after our command: TC holds what it wants.
    TheirsLast,
    /// Our command undid a change: the filter at this place of the list is what Open vSwitch wants.
    OursLast(usize),
    /// It cannot be told; Open vSwitch has to decide afresh.
    Unclear,
}

/// Judges the filters `seen`, oldest first, that were made while a command carrying `base` was under way.
///
/// A command that was answered without error made exactly one of them, equal to `base`.
pub(crate) fn judge<T>(base: &T, seen: &[T], same: impl Fn(&T, &T) -> bool) -> Judgement {
    let Some(last) = seen.last() else {
        return Judgement::Nothing;
    };
    let Some(changed) = seen.iter().rposition(|filter| !same(filter, base)) else {
        return Judgement::Undisturbed;
    };
    if !same(last, base) {
        return Judgement::TheirsLast;
    }
    let ours_after = seen.len() - 1 - changed;
    let ours_before = seen[..changed].iter().any(|filter| same(filter, base));
    match (ours_after, ours_before) {
        // Two or more after the change: one is ours, another Open vSwitch's own return to `base`.
        (2.., _) => Judgement::Undisturbed,
        (_, false) => Judgement::OursLast(changed),
        (_, true) => Judgement::Unclear,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(seen: &str) -> Judgement {
        let seen: alloc::vec::Vec<char> = seen.chars().collect();
        judge(&'a', &seen, |x, y| x == y)
    }

    #[test]
    fn command_alone_is_undisturbed() {
        assert_eq!(judged("a"), Judgement::Undisturbed);
        assert_eq!(judged(""), Judgement::Nothing);
    }

    #[test]
    fn change_after_ours_stands() {
        assert_eq!(judged("ab"), Judgement::TheirsLast);
        assert_eq!(judged("bac"), Judgement::TheirsLast);
        assert_eq!(judged("b"), Judgement::TheirsLast);
    }

    #[test]
    fn change_before_ours_is_put_back() {
        assert_eq!(judged("ba"), Judgement::OursLast(0));
        assert_eq!(judged("bca"), Judgement::OursLast(1));
    }

    #[test]
    fn own_return_of_open_vswitch_to_the_old_actions_stands() {
        assert_eq!(judged("baa"), Judgement::Undisturbed);
    }

    #[test]
    fn order_that_fits_two_stories_is_unclear() {
        assert_eq!(judged("aba"), Judgement::Unclear);
    }
}
