//! The policy: ordered rules, the first that matches decides, then the default.
//!
//! Rules come as plain values; reading them from a file is the caller's work. A rule whose condition holds only for
//! some packets of a megaflow does not match it ([`Truth::Sometimes`]); [`Rules::trace`] says so.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

use crate::language::{AddressSets, Diagnostic, Match, Origin, Subject, Trace, Truth};
use crate::planner::{Because, Division, Limit, TenantId, Terms, Verdict};
use crate::tenants::{NamedTenants, Shares, TENANTS_MAX, TenantBook, TenantFrom};
use crate::{Micros, Rate, RuleId, Weight};

/// The most rules a policy may have.
pub const RULES_MAX: usize = 1_024;

/// The longest name of a rule or of a tenant, in bytes; the former is a label of metrics.
pub const NAME_BYTES_MAX: usize = 128;

/// What stands in lists and metrics for the name of a rule where none matched.
pub const DEFAULT_NAME: &str = "(default)";

/// Where a rule wants its megaflows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Place {
    /// In hardware, at once, while there is room.
    Hardware,
    /// In software.
    Software,
    /// Where the planner finds them worth it.
    #[default]
    Auto,
}

impl Place {
    /// The place for the word that policies use.
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::Hardware, Self::Software, Self::Auto].into_iter().find(|place| place.word() == word)
    }

    /// The word that policies use.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Hardware => "hardware",
            Self::Software => "software",
            Self::Auto => "auto",
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

/// A rule as it was written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuleText {
    /// Line and column, from 1, of the rule in the file.
    pub at: (usize, usize),
    /// Its name; unique.
    pub name: String,
    /// The condition.
    pub condition: String,
    /// Line and column, from 1, of the condition's first character in the file.
    pub condition_at: (usize, usize),
    /// Where it wants its megaflows.
    pub place: Place,
    /// For `auto`: the slowest rate worth an entry.
    pub min_rate: Option<Rate>,
    /// For `auto`: the youngest age worth an entry.
    pub min_age: Option<Micros>,
    /// For `auto`: how much the saving counts.
    pub weight: Option<Weight>,
    /// Whose its megaflows are.
    pub tenant: Option<String>,
    /// Instead of a tenant: where each megaflow's own is found.
    pub tenant_from: Option<TenantFrom>,
    /// How large that tenant's share, or that of each of those, is against the others'.
    pub share: Option<Weight>,
    /// Not for `software`: the most entries of one NIC.
    pub max_entries: Option<u32>,
    /// Not for `software`: the most installs per second in one NIC.
    pub installs_per_s: Option<u32>,
}

/// What is wrong with a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RuleProblem {
    /// More than [`RULES_MAX`] rules.
    TooManyRules,
    /// The name is empty, longer than [`NAME_BYTES_MAX`], or [`DEFAULT_NAME`].
    BadName,
    /// An earlier rule has the same name.
    DuplicateName(RuleId),
    /// A threshold or a weight on a rule that ranks nothing.
    OnlyForAuto(&'static str),
    /// A limit on a rule that gives no entries.
    NotForSoftware(&'static str),
    /// A share without a tenant whose it is.
    ShareOfNobody,
    /// An earlier rule gives the same tenant, or each tenant that is found, another share.
    TwoShares(RuleId),
    /// A tenant is named, and it is said where to find it.
    TwoTenants,
    /// The tenant's name is empty or longer than [`NAME_BYTES_MAX`], or there are more than [`TENANTS_MAX`].
    BadTenant,
    /// The condition.
    Condition(Diagnostic),
}

/// What is wrong with one rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleError {
    /// The place of the rule in the list, from 0.
    pub rule: usize,
    /// Its name.
    pub name: String,
    /// What is wrong.
    pub problem: RuleProblem,
}

impl RuleError {
    /// The message for a person: file, line, column, and for a condition the line itself with a caret.
    pub fn render(&self, file: &str, rules: &[RuleText]) -> String {
        let text = rules.get(self.rule);
        match (&self.problem, text) {
            (RuleProblem::Condition(diagnostic), Some(text)) => {
                let (line, column) = text.condition_at;
                diagnostic.render(&text.condition, Origin { file, line, column })
            }
            _ => {
                let (line, column) = text.map_or((1, 1), |text| text.at);
                format!("{file}:{line}:{column}: {self}\n")
            }
        }
    }
}

impl fmt::Display for RuleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rule {} {:?}: ", self.rule + 1, self.name)?;
        match &self.problem {
            RuleProblem::TooManyRules => write!(f, "a policy has at most {RULES_MAX} rules"),
            RuleProblem::BadName => {
                write!(f, "a name has 1 to {NAME_BYTES_MAX} bytes, and is not {DEFAULT_NAME}")
            }
            RuleProblem::DuplicateName(first) => write!(f, "{first} has the same name"),
            RuleProblem::OnlyForAuto(key) => write!(f, "{key} has a meaning with place = \"auto\" only"),
            RuleProblem::NotForSoftware(key) => write!(f, "{key} has no meaning with place = \"software\""),
            RuleProblem::ShareOfNobody => {
                write!(f, "share needs tenant, whose share it is, or tenant-from")
            }
            RuleProblem::TwoShares(first) => write!(f, "{first} gives the same tenant another share"),
            RuleProblem::TwoTenants => write!(f, "tenant and tenant-from exclude each other: drop one"),
            RuleProblem::BadTenant => write!(
                f,
                "a tenant's name has 1 to {NAME_BYTES_MAX} bytes, and a policy has at most {TENANTS_MAX} tenants"
            ),
            RuleProblem::Condition(diagnostic) => diagnostic.fmt(f),
        }
    }
}

impl core::error::Error for RuleError {}

/// A rule ready to be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    name: String,
    condition: Match,
    place: Place,
    verdict: Verdict,
    owner: Owner,
    limit: Limit,
}

/// Whose a rule's megaflows are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Owner {
    /// It does not say.
    #[default]
    Nobody,
    /// This tenant's.
    Tenant(TenantId),
    /// Whose each megaflow's own words say.
    From(TenantFrom),
}

impl Owner {
    /// The tenant that a rule names; 0 where it names none.
    pub fn tenant(self) -> TenantId {
        match self {
            Self::Tenant(id) => id,
            Self::Nobody | Self::From(_) => TenantId(0),
        }
    }

    /// What tells the tenant of each megaflow, where the rule leaves it to them.
    pub fn told_by(self) -> Option<TenantFrom> {
        match self {
            Self::From(from) => Some(from),
            Self::Nobody | Self::Tenant(_) => None,
        }
    }
}

impl Rule {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its condition.
    pub fn condition(&self) -> &Match {
        &self.condition
    }

    /// Where it wants its megaflows.
    pub fn place(&self) -> Place {
        self.place
    }

    /// What it says about a megaflow it matches.
    pub fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// Whose its megaflows are.
    pub fn owner(&self) -> Owner {
        self.owner
    }

    /// The most that its megaflows may use of one NIC.
    pub fn limit(&self) -> Limit {
        self.limit
    }
}

/// A policy ready to be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    texts: Vec<RuleText>,
    sets: AddressSets,
    rules: Vec<Rule>,
    default: Place,
    tenants: NamedTenants,
    shares: Shares,
}

/// The tenants and shares of the rules read so far.
#[derive(Debug, Default)]
struct Owners {
    tenants: NamedTenants,
    shares: Shares,
}

impl Owners {
    /// Whose the megaflows of a rule are.
    fn take(&mut self, text: &RuleText, rule: RuleId) -> Result<Owner, RuleProblem> {
        let owner = match (&text.tenant, text.tenant_from) {
            (Some(_), Some(_)) => return Err(RuleProblem::TwoTenants),
            (None, None) if text.share.is_some() => return Err(RuleProblem::ShareOfNobody),
            (None, None) => return Ok(Owner::Nobody),
            (None, Some(from)) => Owner::From(from),
            (Some(name), None) => {
                let is_bad = name.is_empty() || name.len() > NAME_BYTES_MAX;
                let taken = if is_bad { None } else { self.tenants.take(name) };
                Owner::Tenant(taken.ok_or(RuleProblem::BadTenant)?)
            }
        };
        if let Some(share) = text.share {
            let (first, by) = *match owner {
                Owner::Tenant(id) => self.shares.named.entry(id).or_insert((share, rule)),
                Owner::From(_) | Owner::Nobody => self.shares.found.get_or_insert((share, rule)),
            };
            if first != share {
                return Err(RuleProblem::TwoShares(by));
            }
        }
        Ok(owner)
    }
}

/// What a policy says about a megaflow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The rule that matched; `None` for the default.
    pub rule: Option<RuleId>,
    /// What that means for the planner.
    pub verdict: Verdict,
    /// Whose it is; 0 where that is not said.
    pub tenant: TenantId,
}

/// How a policy came to its decision.
#[derive(Clone, Debug)]
pub struct RulesTrace<'a> {
    /// The rule that matched; `None` for the default.
    pub rule: Option<RuleId>,
    /// What that means for the planner.
    pub verdict: Verdict,
    /// Whose the megaflow is; nothing where that is not said.
    pub tenant: Option<&'a str>,
    /// The rules that were asked, in order; the last one matched, unless the default decided.
    pub asked: Vec<RuleTrace<'a>>,
}

/// What one rule said.
#[derive(Clone, Debug)]
pub struct RuleTrace<'a> {
    /// The rule.
    pub rule: RuleId,
    /// Its name.
    pub name: &'a str,
    /// Its condition, test by test. It matched where the truth is "always".
    pub condition: Trace<'a>,
}

impl Default for Rules {
    /// No rules: everything earns its entry.
    fn default() -> Self {
        Self {
            texts: Vec::new(),
            sets: AddressSets::new(),
            rules: Vec::new(),
            default: Place::Auto,
            tenants: NamedTenants::default(),
            shares: Shares::default(),
        }
    }
}

impl Rules {
    /// Checks and compiles a policy. All errors are found, not only the first.
    pub fn compile(texts: &[RuleText], default: Place, sets: &AddressSets) -> Result<Self, Vec<RuleError>> {
        let mut rules = Vec::with_capacity(texts.len().min(RULES_MAX));
        let mut errors = Vec::new();
        let mut names = BTreeMap::new();
        let mut owners = Owners::default();
        for (index, text) in texts.iter().enumerate() {
            let mut fail = |problem| errors.push(RuleError { rule: index, name: text.name.clone(), problem });
            if index == RULES_MAX {
                fail(RuleProblem::TooManyRules);
                break;
            }
            let id = RuleId(index as u16);
            if text.name.is_empty() || text.name.len() > NAME_BYTES_MAX || text.name == DEFAULT_NAME {
                fail(RuleProblem::BadName);
            }
            if let Some(first) = names.get(text.name.as_str()) {
                fail(RuleProblem::DuplicateName(*first));
            } else {
                names.insert(text.name.as_str(), id);
            }
            if let Some(problem) = out_of_place(text) {
                fail(problem);
            }
            let owner = owners.take(text, id).unwrap_or_else(|problem| {
                fail(problem);
                Owner::Nobody
            });
            match Match::compile(&text.condition, sets) {
                Ok(condition) => rules.push(Rule {
                    name: text.name.to_string(),
                    condition,
                    place: text.place,
                    verdict: verdict(text, id),
                    owner,
                    limit: Limit { entries: text.max_entries, installs_per_s: text.installs_per_s },
                }),
                Err(diagnostic) => fail(RuleProblem::Condition(diagnostic)),
            }
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        let Owners { tenants, shares } = owners;
        Ok(Self { texts: texts.to_vec(), sets: sets.clone(), rules, default, tenants, shares })
    }

    /// What the policy says about a megaflow. Allocates nothing but a number for a tenant that is new to `book`.
    pub fn decide(&self, subject: &Subject<'_>, book: &mut TenantBook) -> Decision {
        let matching = self.rules.iter().position(|rule| rule.condition.evaluate(subject) == Truth::Always);
        let Some((rule, matching)) = matching.and_then(|index| self.at(index)) else {
            return self.by_default();
        };
        let tenant = match matching.owner {
            Owner::Nobody => TenantId(0),
            Owner::Tenant(id) => id,
            Owner::From(from) => from.of(subject).map_or(TenantId(0), |name| {
                // A tenant of that name that rules name is that tenant.
                self.tenants.number(name).unwrap_or_else(|| book.take(name))
            }),
        };
        Decision { rule: Some(rule), verdict: matching.verdict, tenant }
    }

    /// What the policy says about a megaflow, and how it came to it.
    pub fn trace<'a>(&'a self, subject: &Subject<'a>) -> RulesTrace<'a> {
        let mut asked = Vec::new();
        let mut matching = None;
        for (index, rule) in self.rules.iter().enumerate() {
            let condition = rule.condition.trace(subject);
            let truth = condition.truth;
            asked.push(RuleTrace { rule: RuleId(index as u16), name: &rule.name, condition });
            if truth == Truth::Always {
                matching = Some(index);
                break;
            }
        }
        let Some((rule, matching)) = matching.and_then(|index| self.at(index)) else {
            return RulesTrace { rule: None, verdict: self.by_default().verdict, tenant: None, asked };
        };
        let tenant = match matching.owner {
            Owner::Nobody => None,
            Owner::Tenant(id) => self.tenants.name(id),
            Owner::From(from) => from.of(subject),
        };
        RulesTrace { rule: Some(rule), verdict: matching.verdict, tenant, asked }
    }

    /// The rule with that number.
    pub fn rule(&self, id: RuleId) -> Option<&Rule> {
        self.rules.get(usize::from(id.0))
    }

    /// All rules, in order.
    pub fn iter(&self) -> impl Iterator<Item = (RuleId, &Rule)> {
        self.rules.iter().enumerate().map(|(index, rule)| (RuleId(index as u16), rule))
    }

    /// Where megaflows go that no rule matches.
    pub fn default_place(&self) -> Place {
        self.default
    }

    /// The rules as they were written, in order.
    pub fn texts(&self) -> &[RuleText] {
        &self.texts
    }

    /// The address sets that conditions may name.
    pub fn sets(&self) -> &AddressSets {
        &self.sets
    }

    /// Whether there is no rule, so that the default decides about every megaflow.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// The rule of that name.
    pub fn named(&self, name: &str) -> Option<RuleId> {
        self.rules.iter().position(|rule| rule.name == name).map(|index| RuleId(index as u16))
    }

    /// The name of a tenant that rules name.
    pub fn tenant(&self, id: TenantId) -> Option<&str> {
        self.tenants.name(id)
    }

    /// The share of a tenant, by name: that of its own, else that of those that are found.
    pub fn share(&self, tenant: &str) -> Weight {
        let named = self.tenants.number(tenant);
        let given = named.map_or(self.shares.found, |id| self.shares.named.get(&id).copied());
        given.map(|(share, _)| share).unwrap_or_default()
    }

    /// How the table of each NIC is to be divided.
    pub fn division(&self) -> Division {
        let limits = self.iter().filter(|(_, rule)| !rule.limit.is_none());
        Division {
            limits: limits.map(|(id, rule)| (id, rule.limit)).collect(),
            shares: self.shares.named.iter().map(|(id, (share, _))| (*id, *share)).collect(),
            found: self.shares.found.map(|(share, _)| share).unwrap_or_default(),
        }
    }

    /// Whether the decision about a megaflow may change while the megaflow stays the same, because a rule asks for
    /// `age` or `rate`: then it has to be asked again from time to time.
    pub fn depend_on_time(&self) -> bool {
        self.rules.iter().any(|rule| rule.condition.depends_on_time())
    }

    /// What it says about a megaflow that no rule matches.
    pub fn by_default(&self) -> Decision {
        Decision {
            rule: None,
            tenant: TenantId(0),
            verdict: match self.default {
                Place::Hardware => Verdict::Hardware(None),
                Place::Software => Verdict::Software(Because::Default),
                Place::Auto => Verdict::Auto(Terms::default()),
            },
        }
    }

    fn at(&self, index: usize) -> Option<(RuleId, &Rule)> {
        Some((RuleId(index as u16), self.rules.get(index)?))
    }
}

/// A key that means nothing where the rule wants its megaflows.
fn out_of_place(text: &RuleText) -> Option<RuleProblem> {
    let first = |keys: &[(&'static str, bool)]| keys.iter().find(|(_, is_set)| *is_set).map(|(key, _)| *key);
    let ranks = [
        ("min-rate", text.min_rate.is_some()),
        ("min-age", text.min_age.is_some()),
        ("weight", text.weight.is_some()),
    ];
    let limits =
        [("max-entries", text.max_entries.is_some()), ("installs-per-s", text.installs_per_s.is_some())];
    match text.place {
        Place::Auto => None,
        Place::Hardware => first(&ranks).map(RuleProblem::OnlyForAuto),
        Place::Software => {
            first(&ranks).map(RuleProblem::OnlyForAuto).or(first(&limits).map(RuleProblem::NotForSoftware))
        }
    }
}

fn verdict(text: &RuleText, id: RuleId) -> Verdict {
    match text.place {
        Place::Hardware => Verdict::Hardware(Some(id)),
        Place::Software => Verdict::Software(Because::Rule(id)),
        Place::Auto => Verdict::Auto(Terms {
            rule: Some(id),
            min_rate: text.min_rate,
            min_age: text.min_age,
            weight: text.weight.unwrap_or_default(),
        }),
    }
}

impl fmt::Display for RuleTrace<'_> {
    /// The rule, and those of its tests that decided: what was written, and what was implied and does not hold.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let says = match self.condition.truth {
            Truth::Always => "matches",
            Truth::Sometimes => "matches only some of its packets, so it does not apply",
            Truth::Never => "does not match",
        };
        write!(f, "{} {:?} {says}", self.rule, self.name)?;
        for test in &self.condition.tests {
            if !test.implied || test.truth != Truth::Always {
                write!(f, "\n  {test}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
