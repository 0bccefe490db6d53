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
use crate::planner::{Because, Terms, Verdict};
use crate::{Micros, Rate, RuleId, Weight};

/// The most rules a policy may have.
pub const RULES_MAX: usize = 1_024;

/// The longest name of a rule, in bytes; it is a label of metrics.
pub const NAME_BYTES_MAX: usize = 128;

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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleText {
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
}

/// What is wrong with a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RuleProblem {
    /// More than [`RULES_MAX`] rules.
    TooManyRules,
    /// The name is empty or longer than [`NAME_BYTES_MAX`].
    BadName,
    /// An earlier rule has the same name.
    DuplicateName(RuleId),
    /// A threshold or a weight on a rule that ranks nothing.
    OnlyForAuto(&'static str),
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
        let (line, column) = text.map_or((1, 1), |text| text.condition_at);
        match (&self.problem, text) {
            (RuleProblem::Condition(diagnostic), Some(text)) => {
                diagnostic.render(&text.condition, Origin { file, line, column })
            }
            _ => format!("{file}:{line}:{column}: {self}\n"),
        }
    }
}

impl fmt::Display for RuleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rule {} {:?}: ", self.rule + 1, self.name)?;
        match &self.problem {
            RuleProblem::TooManyRules => write!(f, "a policy has at most {RULES_MAX} rules"),
            RuleProblem::BadName => write!(f, "a name has 1 to {NAME_BYTES_MAX} bytes"),
            RuleProblem::DuplicateName(first) => write!(f, "{first} has the same name"),
            RuleProblem::OnlyForAuto(key) => write!(f, "{key} has a meaning with place = \"auto\" only"),
            RuleProblem::Condition(diagnostic) => diagnostic.fmt(f),
        }
    }
}

impl core::error::Error for RuleError {}

/// A rule ready to be asked.
#[derive(Clone, Debug)]
pub struct Rule {
    name: String,
    condition: Match,
    place: Place,
    verdict: Verdict,
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
}

/// A policy ready to be asked.
#[derive(Clone, Debug)]
pub struct Rules {
    rules: Vec<Rule>,
    default: Place,
}

/// What a policy says about a megaflow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The rule that matched; `None` for the default.
    pub rule: Option<RuleId>,
    /// What that means for the planner.
    pub verdict: Verdict,
}

/// How a policy came to its decision.
#[derive(Clone, Debug)]
pub struct RulesTrace<'a> {
    /// The decision.
    pub decision: Decision,
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
        Self { rules: Vec::new(), default: Place::Auto }
    }
}

impl Rules {
    /// Checks and compiles a policy. All errors are found, not only the first.
    pub fn compile(texts: &[RuleText], default: Place, sets: &AddressSets) -> Result<Self, Vec<RuleError>> {
        let mut rules = Vec::with_capacity(texts.len().min(RULES_MAX));
        let mut errors = Vec::new();
        let mut names = BTreeMap::new();
        for (index, text) in texts.iter().enumerate() {
            let mut fail = |problem| errors.push(RuleError { rule: index, name: text.name.clone(), problem });
            if index == RULES_MAX {
                fail(RuleProblem::TooManyRules);
                break;
            }
            let id = RuleId(index as u16);
            if text.name.is_empty() || text.name.len() > NAME_BYTES_MAX {
                fail(RuleProblem::BadName);
            }
            if let Some(first) = names.get(text.name.as_str()) {
                fail(RuleProblem::DuplicateName(*first));
            } else {
                names.insert(text.name.as_str(), id);
            }
            if let Some(key) = only_for_auto(text) {
                fail(RuleProblem::OnlyForAuto(key));
            }
            match Match::compile(&text.condition, sets) {
                Ok(condition) => rules.push(Rule {
                    name: text.name.to_string(),
                    condition,
                    place: text.place,
                    verdict: verdict(text, id),
                }),
                Err(diagnostic) => fail(RuleProblem::Condition(diagnostic)),
            }
        }
        if errors.is_empty() { Ok(Self { rules, default }) } else { Err(errors) }
    }

    /// What the policy says about a megaflow. Allocates nothing.
    pub fn decide(&self, subject: &Subject<'_>) -> Decision {
        let matching = self.rules.iter().position(|rule| rule.condition.evaluate(subject) == Truth::Always);
        self.decision(matching)
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
        RulesTrace { decision: self.decision(matching), asked }
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

    /// Whether the decision about a megaflow may change while the megaflow stays the same, because a rule asks for
    /// `age` or `rate`: then it has to be asked again from time to time.
    pub fn depend_on_time(&self) -> bool {
        self.rules.iter().any(|rule| rule.condition.depends_on_time())
    }

    fn decision(&self, matching: Option<usize>) -> Decision {
        match matching.and_then(|index| self.rules.get(index).map(|rule| (index, rule))) {
            Some((index, rule)) => Decision { rule: Some(RuleId(index as u16)), verdict: rule.verdict },
            None => Decision {
                rule: None,
                verdict: match self.default {
                    Place::Hardware => Verdict::Hardware(None),
                    Place::Software => Verdict::Software(Because::Default),
                    Place::Auto => Verdict::Auto(Terms::default()),
                },
            },
        }
    }
}

fn only_for_auto(text: &RuleText) -> Option<&'static str> {
    if text.place == Place::Auto {
        return None;
    }
    let keys = [
        ("min-rate", text.min_rate.is_some()),
        ("min-age", text.min_age.is_some()),
        ("weight", text.weight.is_some()),
    ];
    keys.into_iter().find(|(_, is_set)| *is_set).map(|(key, _)| key)
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
mod tests {
    use super::*;
    use crate::language::Header;

    fn rule(name: &str, condition: &str, place: Place) -> RuleText {
        RuleText {
            name: name.to_string(),
            condition: condition.to_string(),
            condition_at: (3, 9),
            place,
            min_rate: None,
            min_age: None,
            weight: None,
        }
    }

    fn tcp(port: Option<u128>) -> Subject<'static> {
        let mut subject = Subject::default();
        subject.set_exact(Header::EthType, 0x800);
        subject.set_exact(Header::IpProto, 6);
        if let Some(port) = port {
            subject.set_exact(Header::L4Dst, port);
        }
        subject
    }

    fn policy() -> Rules {
        let auto =
            RuleText { weight: Some(Weight::from_thousandths(2_000)), ..rule("rest", "ip", Place::Auto) };
        let texts = [
            rule("health", "tcp.dst == {8080, 10256} || arp", Place::Software),
            rule("web", "tcp.dst == 443", Place::Hardware),
            auto,
        ];
        Rules::compile(&texts, Place::Software, &AddressSets::new()).expect("a policy")
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        let rules = policy();
        let health = rules.decide(&tcp(Some(8080)));
        assert_eq!(health.verdict, Verdict::Software(Because::Rule(RuleId(0))));
        assert_eq!(rules.decide(&tcp(Some(443))).verdict, Verdict::Hardware(Some(RuleId(1))));
        let Verdict::Auto(terms) = rules.decide(&tcp(Some(22))).verdict else { panic!("auto") };
        assert_eq!((terms.rule, terms.weight.thousandths()), (Some(RuleId(2)), 2_000));
    }

    #[test]
    fn without_a_match_the_default_decides() {
        let mut lldp = Subject::default();
        lldp.set_exact(Header::EthType, 0x88cc);
        let decision = policy().decide(&lldp);
        assert_eq!(decision, Decision { rule: None, verdict: Verdict::Software(Because::Default) });
    }

    #[test]
    fn a_rule_that_matches_some_packets_does_not_apply_and_the_trace_says_so() {
        let rules = policy();
        let any_port = tcp(None);
        assert_eq!(rules.decide(&any_port).rule, Some(RuleId(2)));
        let trace = rules.trace(&any_port);
        assert_eq!(trace.decision, rules.decide(&any_port));
        assert_eq!(trace.asked.len(), 3);
        assert_eq!(
            trace.asked[1].to_string(),
            "rule 2 \"web\" matches only some of its packets, so it does not apply\n  \
             sometimes  tcp.dst == 443: tcp.dst is any"
        );
        assert!(trace.asked[2].to_string().starts_with("rule 3 \"rest\" matches"));
    }

    #[test]
    fn all_errors_are_found_and_each_has_its_place() {
        let texts = [
            rule("a", "tcp.dst == 70000", Place::Auto),
            RuleText { min_age: Some(Micros(1)), ..rule("b", "1", Place::Hardware) },
            rule("b", "1", Place::Auto),
            rule("", "tcp ==", Place::Auto),
        ];
        let errors = Rules::compile(&texts, Place::Auto, &AddressSets::new()).expect_err("errors");
        let rendered: Vec<String> = errors.iter().map(|error| error.render("p.toml", &texts)).collect();
        assert_eq!(
            rendered[0].lines().next(),
            Some("p.toml:3:20: tcp.dst has 16 bits, and this value has more")
        );
        assert_eq!(
            rendered[1],
            "p.toml:3:9: rule 2 \"b\": min-age has a meaning with place = \"auto\" only\n"
        );
        assert_eq!(rendered[2], "p.toml:3:9: rule 3 \"b\": rule 2 has the same name\n");
        assert_eq!(rendered[3], "p.toml:3:9: rule 4 \"\": a name has 1 to 128 bytes\n");
        assert!(rendered[4].starts_with("p.toml:3:15: expected a value, found the end"));
    }

    #[test]
    fn rules_are_bounded() {
        let texts: Vec<RuleText> = (0..=RULES_MAX).map(|i| rule(&i.to_string(), "1", Place::Auto)).collect();
        let errors = Rules::compile(&texts, Place::Auto, &AddressSets::new()).expect_err("too many");
        assert_eq!(errors[0].problem, RuleProblem::TooManyRules);
    }

    #[test]
    fn rules_that_ask_for_age_or_rate_have_to_be_asked_again() {
        assert!(!policy().depend_on_time());
        let texts = [rule("old", r#"age > "1 min""#, Place::Hardware)];
        let rules = Rules::compile(&texts, Place::Auto, &AddressSets::new()).expect("a policy");
        assert!(rules.depend_on_time());
    }
}
