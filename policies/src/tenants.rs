//! Whose megaflows are: the tenants that rules name, and those that the megaflows themselves tell.
//!
//! A rule names its tenant (`tenant = "gold"`), or says where its megaflows' tenants are found (`tenant-from =
//! "namespace"`). The planner knows tenants by number; [`TenantBook`] gives numbers to the names that were not known before.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use crate::language::Subject;
use crate::planner::TenantId;
use crate::{RuleId, Weight};

/// The most tenants that rules may name.
pub const TENANTS_MAX: usize = 256;

/// The most tenants that are told apart by what their megaflows tell; what belongs to more of them is one tenant's.
pub const FOUND_TENANTS_MAX: usize = 1_024;

/// The name of the tenant that has what belongs to more than [`FOUND_TENANTS_MAX`].
pub const OTHER_TENANTS: &str = "(other)";

/// Numbers that the tenants of rules may have end here: 0 stands for nobody.
const FIRST_FOUND: usize = TENANTS_MAX + 1;
const OTHERS: TenantId = TenantId((FIRST_FOUND + FOUND_TENANTS_MAX) as u16);

/// Where the tenant of a rule's megaflows is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TenantFrom {
    /// The Kubernetes namespace of the workload.
    Namespace,
    /// The tenant that the orchestrator tells.
    Tenant,
    /// The workload itself.
    Workload,
}

impl TenantFrom {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Namespace, Self::Tenant, Self::Workload];

    /// The one for the word that policies use.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|from| from.word() == word)
    }

    /// The word that policies use: that of the field in conditions.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Namespace => "namespace",
            Self::Tenant => "tenant",
            Self::Workload => "workload",
        }
    }

    /// What a megaflow tells; nothing where that is not known or empty.
    pub(crate) fn of<'a>(self, subject: &Subject<'a>) -> Option<&'a str> {
        let name = match self {
            Self::Namespace => subject.namespace,
            Self::Tenant => subject.tenant,
            Self::Workload => subject.workload,
        };
        name.filter(|name| !name.is_empty())
    }
}

impl fmt::Display for TenantFrom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

/// The tenants that rules name, in the order of their numbers from 1.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct NamedTenants(Vec<String>);

impl NamedTenants {
    /// The number of the tenant of that name, who is taken up if not known yet; nothing when there are too many.
    pub(crate) fn take(&mut self, name: &str) -> Option<TenantId> {
        if let Some(known) = self.number(name) {
            return Some(known);
        }
        if self.0.len() == TENANTS_MAX {
            return None;
        }
        self.0.push(name.into());
        self.number(name)
    }

    pub(crate) fn number(&self, name: &str) -> Option<TenantId> {
        let index = self.0.iter().position(|known| known == name)?;
        Some(TenantId(index as u16 + 1))
    }

    pub(crate) fn name(&self, id: TenantId) -> Option<&str> {
        self.0.get(usize::from(id.0).checked_sub(1)?).map(String::as_str)
    }
}

/// The shares of tenants, each with the first rule that gave it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Shares {
    pub(crate) named: BTreeMap<TenantId, (Weight, RuleId)>,
    /// That of each tenant that no rule names.
    pub(crate) found: Option<(Weight, RuleId)>,
}

/// Numbers for the tenants that rules do not name: at most [`FOUND_TENANTS_MAX`] at a time.
#[derive(Clone, Debug, Default)]
pub struct TenantBook {
    /// By number, from the first on; nothing where a number is free.
    names: Vec<Option<String>>,
    numbers: BTreeMap<String, TenantId>,
}

impl TenantBook {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// The tenant with that number, where it is one of these.
    pub fn name(&self, id: TenantId) -> Option<&str> {
        if id == OTHERS {
            return Some(OTHER_TENANTS);
        }
        self.names.get(usize::from(id.0).checked_sub(FIRST_FOUND)?)?.as_deref()
    }

    /// Whether a name that is not known gets no number of its own.
    pub fn is_full(&self) -> bool {
        self.numbers.len() >= FOUND_TENANTS_MAX
    }

    /// Frees the numbers that are not in use any more.
    pub fn keep_only(&mut self, used: &BTreeSet<TenantId>) {
        self.numbers.retain(|_, id| used.contains(id));
        for (index, name) in self.names.iter_mut().enumerate() {
            if !used.contains(&number_of(index)) {
                *name = None;
            }
        }
    }

    pub(crate) fn take(&mut self, name: &str) -> TenantId {
        if let Some(known) = self.numbers.get(name) {
            return *known;
        }
        if self.is_full() {
            return OTHERS;
        }
        let index = self.names.iter().position(Option::is_none).unwrap_or(self.names.len());
        if index == self.names.len() {
            self.names.push(None);
        }
        let id = number_of(index);
        self.names[index] = Some(name.into());
        self.numbers.insert(name.into(), id);
        id
    }
}

fn number_of(index: usize) -> TenantId {
    TenantId((FIRST_FOUND + index) as u16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;

    #[test]
    fn a_number_is_given_again_only_when_nothing_is_of_its_tenant_any_more() {
        let mut book = TenantBook::new();
        let (red, blue) = (book.take("red"), book.take("blue"));
        assert_ne!(red, blue);
        assert_eq!(book.take("red"), red);
        assert_eq!(book.name(red), Some("red"));
        book.keep_only(&BTreeSet::from([blue]));
        assert_eq!((book.name(red), book.name(blue)), (None, Some("blue")));
        assert_eq!(book.take("green"), red);
        assert_eq!(book.name(red), Some("green"));
    }

    #[test]
    fn what_belongs_to_more_tenants_than_are_told_apart_is_one_tenants() {
        let mut book = TenantBook::new();
        let ids: BTreeSet<TenantId> =
            (0..FOUND_TENANTS_MAX).map(|number| book.take(&format!("ns-{number}"))).collect();
        assert_eq!(ids.len(), FOUND_TENANTS_MAX, "each has a number of its own");
        assert!(ids.iter().all(|id| usize::from(id.0) > TENANTS_MAX), "none is a tenant's that a rule names");
        let (one, another) = (book.take("late"), book.take("later"));
        assert_eq!((one, book.name(one)), (another, Some(OTHER_TENANTS)));
        assert!(!ids.contains(&one));
        assert_eq!(book.take("ns-7"), book.take("ns-7"));
    }
}
