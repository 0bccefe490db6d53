//! The rules of the policy and its address sets, as the configuration file has them: `[[rule]]` and `[address-sets]`.
//!
//! [`RULE_KEYS`] is to a rule what [`KEYS`](super::keys::KEYS) is to the rest.

use std::path::{Path, PathBuf};

use policies::language::{AddressSets, Diagnostic, Span};
use policies::rules::{Place, RuleProblem, RuleText, Rules};
use policies::tenants::TenantFrom;
use policies::{Micros, Rate, Weight};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::file::{ConfigError, ConfigErrors, Origin, line_and_column, scalar, suggestion};
use super::value::{RateSetting, Scalar};

/// A key of a rule.
#[derive(Debug)]
pub struct RuleKey {
    /// Its name.
    pub name: &'static str,
    /// What may be written, in words.
    pub shape: &'static str,
    /// What it does, in sentences.
    pub doc: &'static str,
    /// Checks a value and puts it in its place.
    pub set: fn(&mut RuleText, &Scalar) -> Result<(), String>,
}

const PLACES: &[(&str, Place)] =
    &[("hardware", Place::Hardware), ("software", Place::Software), ("auto", Place::Auto)];

const TENANTS_FROM: &[(&str, TenantFrom)] = &[
    ("namespace", TenantFrom::Namespace),
    ("tenant", TenantFrom::Tenant),
    ("workload", TenantFrom::Workload),
];

/// The place of that name.
pub(super) fn place(value: &Scalar) -> Result<Place, String> {
    value.one_of(PLACES)
}

fn tenant_from(value: &Scalar) -> Result<TenantFrom, String> {
    value.one_of(TENANTS_FROM)
}

/// A number of thousandths that is no longer than a weight may be.
fn weight(value: &Scalar) -> Result<Weight, String> {
    let number = value.ratio(0.001, 1_000.0).map_err(|_| "must be a number from 0.001 to 1000".to_owned())?;
    Ok(Weight::from_thousandths((number * 1_000.0).round() as u32))
}

/// Every key of a rule, in the order in which people write them.
pub static RULE_KEYS: &[RuleKey] = &[
    RuleKey {
        name: "name",
        shape: "text, unique",
        doc: "Shown by `flow why` and `policy show`; a label of metrics.",
        set: |rule, value| value.string().map(|name| rule.name = name.to_owned()),
    },
    RuleKey {
        name: "match",
        shape: "condition",
        doc: "Which flows the rule is about, in the language of docs/policy.md.",
        set: |rule, value| value.string().map(|condition| rule.condition = condition.to_owned()),
    },
    RuleKey {
        name: "place",
        shape: "\"hardware\", \"software\" or \"auto\"",
        doc: "Where the rule wants them: in hardware at once and ahead of all that compete, while there is room; in \
              software always; or where what they save earns it. \"auto\" if absent.",
        set: |rule, value| place(value).map(|place| rule.place = place),
    },
    RuleKey {
        name: "min-rate",
        shape: "rate",
        doc: "For \"auto\": the slowest rate worth an entry, in place of policy.min-rate.",
        set: |rule, value| {
            rule.min_rate = Some(match value.rate()? {
                RateSetting::Bits(bits) => Rate::BytesPerSecond(bits / 8),
                RateSetting::Packets(packets) => Rate::PacketsPerSecond(packets),
            });
            Ok(())
        },
    },
    RuleKey {
        name: "min-age",
        shape: "time, up to 1 h",
        doc: "For \"auto\": the youngest age worth an entry, in place of policy.min-age.",
        set: |rule, value| {
            let most = std::time::Duration::from_secs(3_600);
            let age = value.duration(std::time::Duration::ZERO, most)?;
            rule.min_age = Some(Micros(u64::try_from(age.as_micros()).unwrap_or(u64::MAX)));
            Ok(())
        },
    },
    RuleKey {
        name: "weight",
        shape: "number from 0.001 to 1000",
        doc: "For \"auto\": how much what they save counts against what others save. 1 if absent.",
        set: |rule, value| weight(value).map(|weight| rule.weight = Some(weight)),
    },
    RuleKey {
        name: "tenant",
        shape: "text",
        doc: "Whose the flows are. Tenants share each NIC's table fairly; flows without one count as one tenant.",
        set: |rule, value| value.string().map(|tenant| rule.tenant = Some(tenant.to_owned())),
    },
    RuleKey {
        name: "tenant-from",
        shape: "\"namespace\", \"tenant\" or \"workload\"",
        doc: "In place of tenant: each flow is its namespace's, its tenant's or its workload's, as conditions see them, and \
              those share each NIC's table. 1024 of them are told apart, and the others are one. Flows without it are \
              nobody's.",
        set: |rule, value| tenant_from(value).map(|from| rule.tenant_from = Some(from)),
    },
    RuleKey {
        name: "share",
        shape: "number from 0.001 to 1000",
        doc: "How large that tenant's share is against the others'; with tenant-from, that of each of them. 1 if absent; \
              rules of one tenant must agree, and so must those with tenant-from.",
        set: |rule, value| weight(value).map(|share| rule.share = Some(share)),
    },
    RuleKey {
        name: "max-entries",
        shape: "whole number from 0 to 16777216",
        doc: "Not for \"software\": the most entries that the rule's flows have of each NIC.",
        set: |rule, value| value.integer(0, 1 << 24).map(|entries| rule.max_entries = Some(entries as u32)),
    },
    RuleKey {
        name: "installs-per-s",
        shape: "whole number from 1 to 1000000",
        doc: "Not for \"software\": the most of the rule's flows that are put in each NIC in a second.",
        set: |rule, value| value.integer(1, 1_000_000).map(|rate| rule.installs_per_s = Some(rate as u32)),
    },
];

/// The rules and address sets of a file, not yet compiled.
#[derive(Debug, Clone, Default)]
pub struct PolicyText {
    path: PathBuf,
    file: String,
    rules: Vec<RuleText>,
    /// For each rule, where in the file each byte of its condition stands.
    condition_bytes: Vec<Vec<usize>>,
    sets: AddressSets,
}

/// The names under which the file has what this module reads.
pub(super) const TABLES: [&str; 2] = ["rule", "address-sets"];

impl PolicyText {
    pub(super) fn new(path: &Path, file: &str) -> Self {
        Self { path: path.to_owned(), file: file.to_owned(), ..Self::default() }
    }

    fn place_of(&self, offset: usize) -> (usize, usize) {
        line_and_column(&self.file, offset)
    }

    fn error(&self, offset: usize, sentence: String) -> ConfigError {
        let (line, column) = self.place_of(offset);
        ConfigError { origin: Origin::File { path: self.path.clone(), line, column }, sentence }
    }

    /// Takes the value of `rule` or of `address-sets`.
    pub(super) fn take(&mut self, name: &str, value: &Spanned<DeValue<'_>>, errors: &mut Vec<ConfigError>) {
        let at = value.span().start;
        match (name, value.get_ref()) {
            ("rule", DeValue::Array(rules)) => {
                for rule in rules {
                    match rule.get_ref() {
                        DeValue::Table(table) => self.rule(rule.span().start, table, errors),
                        _ => errors.push(self.error(rule.span().start, "a rule begins with [[rule]]".into())),
                    }
                }
            }
            ("rule", _) => errors.push(self.error(at, "a rule begins with [[rule]]".into())),
            (_, DeValue::Table(sets)) => {
                for (name, addresses) in sets {
                    self.set(name.get_ref(), addresses, errors);
                }
            }
            (_, _) => errors.push(self.error(at, format!("{name} is a table of lists of addresses"))),
        }
    }

    fn rule(&mut self, at: usize, table: &DeTable<'_>, errors: &mut Vec<ConfigError>) {
        let mut rule = RuleText { at: self.place_of(at), ..RuleText::default() };
        let mut condition_bytes = Vec::new();
        for (name, value) in table {
            let offset = value.span().start;
            let Some(key) = RULE_KEYS.iter().find(|key| key.name == name.get_ref()) else {
                let known = RULE_KEYS.iter().map(|key| key.name.to_owned());
                let hint = suggestion(name.get_ref(), known);
                let hint = hint.map_or_else(String::new, |name| format!("; did you mean {name}?"));
                let sentence = format!("unknown key {} of a rule{hint}", name.get_ref());
                errors.push(self.error(name.span().start, sentence));
                continue;
            };
            let set = scalar(value.get_ref()).and_then(|value| (key.set)(&mut rule, &value));
            if let Err(sentence) = set {
                errors.push(self.error(offset, format!("{} {sentence}", key.name)));
            } else if key.name == "match" {
                let written = self.file.get(value.span()).unwrap_or_default();
                condition_bytes = bytes_of_string(written, offset, &rule.condition);
                rule.condition_at = self.place_of(condition_bytes.first().copied().unwrap_or(offset));
            }
        }
        for name in ["name", "match"].into_iter().filter(|name| !table.contains_key(*name)) {
            errors.push(self.error(at, format!("a rule needs a {name}")));
        }
        self.rules.push(rule);
        self.condition_bytes.push(condition_bytes);
    }

    fn set(&mut self, name: &str, value: &Spanned<DeValue<'_>>, errors: &mut Vec<ConfigError>) {
        let fits = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
        let begins = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        if !begins || !name.chars().all(fits) || name.ends_with('.') {
            let sentence =
                format!("the name of an address set is made of letters, digits, _ and ., not {name:?}");
            errors.push(self.error(value.span().start, sentence));
            return;
        }
        let DeValue::Array(list) = value.get_ref() else {
            let sentence = format!("address set {name} must be a list of addresses in quotes");
            errors.push(self.error(value.span().start, sentence));
            return;
        };
        let texts: Option<Vec<&str>> = list.iter().map(|address| address.get_ref().as_str()).collect();
        let Some(texts) = texts else {
            let wrong = list.iter().find(|address| address.get_ref().as_str().is_none());
            let at = wrong.map_or(value.span().start, |address| address.span().start);
            errors.push(self.error(at, "an address is a text in quotes".into()));
            return;
        };
        if let Err((index, problem)) = self.sets.insert(name, texts) {
            let at = list.get(index).map_or(value.span().start, |address| address.span().start);
            errors.push(self.error(at, format!("address set {name}: {problem}")));
        }
    }

    /// Checks and compiles the rules; `default` is the place of what none of them matches.
    ///
    /// # Errors
    /// All that is wrong with them, with places in the file.
    pub fn compile(&self, default: Place) -> Result<Rules, ConfigErrors> {
        let errors = match Rules::compile(&self.rules, default, &self.sets) {
            Ok(rules) => return Ok(rules),
            Err(errors) => errors,
        };
        let told = errors.into_iter().map(|error| {
            let rule = self.rules.get(error.rule);
            match error.problem {
                RuleProblem::Condition(diagnostic) => self.wrong_condition(error.rule, &diagnostic),
                _ => {
                    let (line, column) = rule.map_or((1, 1), |rule| rule.at);
                    let origin = Origin::File { path: self.path.clone(), line, column };
                    ConfigError { origin, sentence: error.to_string() }
                }
            }
        });
        let told: Vec<ConfigError> = told.collect();
        ConfigErrors::none_or(told).map(|()| Rules::default())
    }

    /// What is wrong with a condition, with the line of the file it stands in.
    fn wrong_condition(&self, rule: usize, diagnostic: &Diagnostic) -> ConfigError {
        let bytes = self.condition_bytes.get(rule).map(Vec::as_slice).unwrap_or_default();
        let in_file = |at: usize| bytes.get(at).or(bytes.last()).copied().unwrap_or(0);
        let span = Span { start: in_file(diagnostic.span.start), end: in_file(diagnostic.span.end) };
        let whole = policies::language::Origin { file: "", line: 1, column: 1 };
        let rendered = Diagnostic { problem: diagnostic.problem.clone(), span }.render(&self.file, whole);
        // ":LINE:COLUMN: " comes from the origin.
        let sentence = rendered.splitn(4, ':').nth(3).unwrap_or(&rendered).trim().to_owned();
        self.error(span.start, sentence)
    }
}

/// Where in the file each byte of a TOML string's value stands, and where its end does; `written` is the string with its
/// quotes, `at` its place.
fn bytes_of_string(written: &str, at: usize, value: &str) -> Vec<usize> {
    let mut places = Vec::with_capacity(value.len() + 1);
    let (quotes, is_literal) = match written {
        _ if written.starts_with("'''") => (3, true),
        _ if written.starts_with("\"\"\"") => (3, false),
        _ => (1, written.starts_with('\'')),
    };
    let mut rest = written.get(quotes..written.len().saturating_sub(quotes)).unwrap_or_default();
    if quotes == 3 {
        rest = rest.strip_prefix("\r\n").or(rest.strip_prefix('\n')).unwrap_or(rest);
    }
    let start = at + written.len() - quotes - rest.len();
    let mut chars = rest.char_indices().peekable();
    while let Some((offset, c)) = chars.next() {
        let mut length = c.len_utf8();
        if c == '\\' && !is_literal {
            let escaped = chars.next().map_or('\\', |(_, c)| c);
            let digits = match escaped {
                'u' => 4,
                'U' => 8,
                'x' => 2,
                _ => 0,
            };
            if escaped.is_whitespace() {
                // A backslash at the end of a line takes the white space after it away.
                while chars.next_if(|(_, c)| c.is_whitespace()).is_some() {}
                continue;
            }
            length = 1;
            if digits > 0 {
                let hex: String = chars.by_ref().take(digits).map(|(_, c)| c).collect();
                let c = u32::from_str_radix(&hex, 16).ok().and_then(char::from_u32);
                length = c.map_or(1, char::len_utf8);
            }
        }
        places.extend(std::iter::repeat_n(start + offset, length));
    }
    places.push(start + rest.len());
    if places.len() == value.len() + 1 { places } else { vec![at; value.len() + 1] }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, assignments_in};

    fn config(text: &str) -> Result<Config, String> {
        assignments_in(Path::new("c.toml"), text)
            .and_then(|written| Config::from_file(&[], &written))
            .map_err(|errors| errors.to_string())
    }

    fn errors(text: &str) -> String {
        config(text).map(|config| config.rules.texts().len()).unwrap_err()
    }

    #[test]
    fn rules_are_read_in_their_order_with_all_their_keys() {
        let config = config(
            "[policy]\ndefault = \"software\"\n[address-sets]\nweb = [\"10.0.0.0/8\", \"fd00::/8\"]\n\
             [[rule]]\nname = \"gold\"\nmatch = 'ip4.dst == $web'\nplace = \"hardware\"\ntenant = \"gold\"\n\
             share = 2.5\nmax-entries = 64\ninstalls-per-s = 10\n\
             [[rule]]\nname = \"rest\"\nmatch = \"1\"\nmin-rate = \"8 kbit/s\"\nmin-age = \"2 s\"\nweight = 3\n",
        )
        .unwrap();
        let [gold, rest] = config.rules.texts() else { panic!("two rules") };
        assert_eq!(
            (gold.name.as_str(), gold.place, gold.tenant.as_deref()),
            ("gold", Place::Hardware, Some("gold"))
        );
        assert_eq!(gold.share, Some(Weight::from_thousandths(2_500)));
        assert_eq!((gold.max_entries, gold.installs_per_s), (Some(64), Some(10)));
        assert_eq!((gold.at, gold.condition_at), ((5, 1), (7, 10)));
        assert_eq!(rest.min_rate, Some(Rate::BytesPerSecond(1_000)));
        assert_eq!(
            (rest.min_age, rest.weight),
            (Some(Micros::from_secs(2)), Some(Weight::from_thousandths(3_000)))
        );
        assert_eq!(config.rules.default_place(), Place::Software);
    }

    #[test]
    fn what_is_wrong_with_a_rule_has_line_and_column() {
        let rule = "[[rule]]\nname = \"a\"\nmatch = '1'\n";
        assert_eq!(
            errors(&format!("{rule}min-rat = 1\n")),
            "c.toml:4:1: unknown key min-rat of a rule; did you mean min-rate?"
        );
        assert_eq!(
            errors(&format!("{rule}place = \"hardwear\"\n")),
            "c.toml:4:9: place \"hardwear\" is not one of \"hardware\", \"software\", \"auto\""
        );
        assert_eq!(
            errors(&format!("{rule}weight = 0\n")),
            "c.toml:4:10: weight must be a number from 0.001 to 1000"
        );
        assert_eq!(
            errors("\n[[rule]]\nplace = \"auto\"\n"),
            "c.toml:2:1: a rule needs a name\nc.toml:2:1: a rule needs a match"
        );
        assert_eq!(errors("rule = 5\n"), "c.toml:1:8: a rule begins with [[rule]]");
        assert_eq!(errors("[[rules]]\n"), "c.toml:1:3: unknown key rules; did you mean rule?");
        assert_eq!(errors(&format!("{rule}{rule}")), "c.toml:4:1: rule 2 \"a\": rule 1 has the same name");
        assert_eq!(
            errors(&format!("{rule}place = \"software\"\nmax-entries = 4\n")),
            "c.toml:1:1: rule 1 \"a\": max-entries has no meaning with place = \"software\""
        );
        assert_eq!(
            errors("[address-sets]\nx = [\"10.0.0.1\", \"10.0.0.300\"]\n"),
            "c.toml:2:18: address set x: \"10.0.0.300\" is no number and no address"
        );
        assert_eq!(errors("[address-sets]\nx = [1]\n"), "c.toml:2:6: an address is a text in quotes");
        assert_eq!(
            errors("address-sets = 1\n"),
            "c.toml:1:16: address-sets is a table of lists of addresses"
        );
    }

    #[test]
    fn a_wrong_condition_is_shown_with_the_line_of_the_file_and_a_caret() {
        assert_eq!(
            errors("[[rule]]\nname = \"a\"\nmatch = 'tcp.dport == 80'\n"),
            "c.toml:3:10: there is no field \"tcp.dport\"\n  3 | match = 'tcp.dport == 80'\n    |          ^^^^^^^^^ did \
             you mean \"tcp.dst\"?"
        );
        assert_eq!(
            errors("[[rule]]\nname = \"a\"\nmatch = '''\ntcp &&\n  ip4.src == 10.0.0.1/8'''\n"),
            "c.toml:5:14: 10.0.0.1/8 has bits set that its mask leaves out\n  5 |   ip4.src == 10.0.0.1/8'''\n    \
             |              ^^^^^^^^^^ write 10.0.0.0/8"
        );
    }

    #[test]
    fn escapes_before_a_mistake_do_not_move_its_column() {
        for (string, column) in [
            ("\"inport == \\\"a\\\" && tpc\"", 29),
            ("\"inport == \\\"\\u00e9\\\" && tpc\"", 34),
            ("'inport == \"a\" && tpc'", 27),
            ("'inport == \"é\" && tpc'", 27),
        ] {
            let told = errors(&format!("[[rule]]\nname = \"a\"\nmatch = {string}\n"));
            assert!(
                told.starts_with(&format!("c.toml:3:{column}: there is no field \"tpc\"")),
                "{string}: {told}"
            );
        }
    }

    #[test]
    fn the_policies_of_the_reference_are_read_from_a_file() {
        let reference = include_str!("../../../docs/policy.md");
        let examples: Vec<&str> =
            reference.split("```policy\n").skip(1).filter_map(|rest| rest.split("\n```").next()).collect();
        assert!(!examples.is_empty());
        for example in examples {
            let rules = example.matches("[[rule]]").count();
            assert_eq!(config(example).map(|config| config.rules.texts().len()), Ok(rules));
        }
        for key in RULE_KEYS {
            assert!(
                reference.contains(&format!("\n| `{}` | ", key.name)),
                "{} is not in the reference",
                key.name
            );
        }
    }

    #[test]
    fn every_rule_key_refuses_something() {
        for key in RULE_KEYS {
            assert!(
                (key.set)(&mut RuleText::default(), &Scalar::Bool(true)).is_err(),
                "{} takes anything",
                key.name
            );
        }
    }
}
