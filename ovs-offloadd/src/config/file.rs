//! A TOML text becomes assignments to known keys, or errors with line and column.
//!
//! Meaning is left to the key table; this knows only names and places.

use std::fmt;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::devices::{self, Devices};
use super::keys::{KEYS, Key};
use super::rules::{self, PolicyText};
use super::value::Scalar;
use crate::lifecycle::declared::DeclaredNic;

/// Where a value or an error stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A place in a file; line and column count from 1.
    File {
        /// The file.
        path: PathBuf,
        /// Line.
        line: usize,
        /// Column, in characters.
        column: usize,
    },
    /// A file as a whole.
    Whole(PathBuf),
    /// A key of `Open_vSwitch.external_ids`.
    ExternalIds(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, line, column } => write!(f, "{}:{line}:{column}", path.display()),
            Self::Whole(path) => write!(f, "{}", path.display()),
            Self::ExternalIds(key) => write!(f, "external_ids:{key}"),
        }
    }
}

/// A known key with the value it is given.
#[derive(Debug, Clone)]
pub struct Assignment {
    /// The key.
    pub key: &'static Key,
    /// Its value, not yet checked.
    pub value: Scalar,
    /// Where it stands.
    pub origin: Origin,
}

/// One thing that is wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// Where.
    pub origin: Origin,
    /// What, and what would do.
    pub sentence: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.origin, self.sentence)
    }
}

/// All that is wrong with a configuration, at least one thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors(Vec<ConfigError>);

impl ConfigErrors {
    /// A single error.
    pub fn one(error: ConfigError) -> Self {
        Self(vec![error])
    }

    /// Ok if nothing is wrong.
    ///
    /// # Errors
    /// The given ones.
    pub fn none_or(errors: Vec<ConfigError>) -> Result<(), Self> {
        if errors.is_empty() { Ok(()) } else { Err(Self(errors)) }
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN_MAX: usize = 20;
        for (index, error) in self.0.iter().take(SHOWN_MAX).enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{error}")?;
        }
        match self.0.len().saturating_sub(SHOWN_MAX) {
            0 => Ok(()),
            more => write!(f, "\nand {more} more"),
        }
    }
}

impl std::error::Error for ConfigErrors {}

/// What a file says: assignments to keys, the rules of the policy with its address sets, and NICs.
#[derive(Debug, Clone, Default)]
pub struct Written {
    /// The assignments.
    pub assignments: Vec<Assignment>,
    /// The rules.
    pub policy: PolicyText,
    /// What NICs are declared to be.
    pub devices: Vec<DeclaredNic>,
}

/// Reads a TOML text; `path` only names it.
///
/// # Errors
/// Syntax errors, unknown keys and values that are no scalars, all of them, each with its place.
pub fn assignments_in(path: &Path, text: &str) -> Result<Written, ConfigErrors> {
    let place = |offset: usize| {
        let (line, column) = line_and_column(text, offset);
        Origin::File { path: path.to_owned(), line, column }
    };
    let table = DeTable::parse(text).map_err(|error| {
        let offset = error.span().map_or(0, |span| span.start);
        let sentence = error.message().lines().collect::<Vec<_>>().join(", ");
        ConfigErrors::one(ConfigError { origin: place(offset), sentence })
    })?;
    let policy = PolicyText::new(path, text);
    let devices = Devices::new(path, text);
    let mut found = Walk { place: &place, assignments: Vec::new(), policy, devices, errors: Vec::new() };
    found.table("", table.get_ref());
    found.errors.append(&mut found.devices.errors);
    // Tables iterate by name; people fix files from the top.
    found.errors.sort_by_key(|error| match error.origin {
        Origin::File { line, column, .. } => (line, column),
        _ => (0, 0),
    });
    let Walk { assignments, policy, devices, errors, .. } = found;
    ConfigErrors::none_or(errors).map(|()| Written { assignments, policy, devices: devices.nics })
}

struct Walk<'p> {
    place: &'p dyn Fn(usize) -> Origin,
    assignments: Vec<Assignment>,
    policy: PolicyText,
    devices: Devices<'p>,
    errors: Vec<ConfigError>,
}

impl Walk<'_> {
    // Depth is bounded by the parser's own recursion limit and by the names of KEYS: an unknown table is
    // refused whole.
    fn table(&mut self, prefix: &str, table: &DeTable<'_>) {
        for (name, value) in table {
            let path = if prefix.is_empty() {
                name.get_ref().to_string()
            } else {
                format!("{prefix}.{}", name.get_ref())
            };
            let dotted = format!("{path}.");
            if rules::TABLES.contains(&path.as_str()) {
                self.policy.take(&path, value, &mut self.errors);
            } else if path == devices::TABLE {
                self.devices.take(value);
            } else if let Some(key) = KEYS.iter().find(|key| key.name == path) {
                self.value(key, value);
            } else if KEYS.iter().any(|key| key.name.starts_with(&dotted)) {
                match value.get_ref() {
                    DeValue::Table(inner) => self.table(&path, inner),
                    other => self.error(
                        value.span().start,
                        format!("{path} is a table of keys, not {}", article(other.type_str())),
                    ),
                }
            } else {
                let hint = hint(&path);
                self.error(name.span().start, format!("unknown key {path}{hint}"));
            }
        }
    }

    fn value(&mut self, key: &'static Key, value: &Spanned<DeValue<'_>>) {
        let offset = value.span().start;
        match scalar(value.get_ref()) {
            Ok(value) => self.assignments.push(Assignment { key, value, origin: (self.place)(offset) }),
            Err(sentence) => self.error(offset, format!("{} {sentence}", key.name)),
        }
    }

    fn error(&mut self, offset: usize, sentence: String) {
        self.errors.push(ConfigError { origin: (self.place)(offset), sentence });
    }
}

fn article(kind: &str) -> String {
    let article = if kind.starts_with(['a', 'i', 'o']) { "an" } else { "a" };
    format!("{article} {kind}")
}

pub(super) fn scalar(value: &DeValue<'_>) -> Result<Scalar, String> {
    match value {
        DeValue::String(text) => Ok(Scalar::Text(text.to_string())),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map(Scalar::Integer)
            .map_err(|_| "does not fit in 64 bits".into()),
        DeValue::Float(number) => {
            number.as_str().parse().map(Scalar::Float).map_err(|_| "is not a number".into())
        }
        DeValue::Boolean(value) => Ok(Scalar::Bool(*value)),
        other => Err(format!("must not be {}", article(other.type_str()))),
    }
}

/// Reads a single TOML value, as defaults are written.
pub(super) fn literal(text: &str) -> Result<Scalar, String> {
    let value = DeValue::parse(text).map_err(|error| error.to_string())?;
    scalar(value.get_ref())
}

fn hint(unknown: &str) -> String {
    let keys = KEYS.iter().map(|key| key.name.to_owned());
    let tables = KEYS.iter().filter_map(|key| key.name.split_once('.').map(|(table, _)| table.to_owned()));
    let rules = rules::TABLES.into_iter().chain([devices::TABLE]).map(str::to_owned);
    suggestion(unknown, keys.chain(tables).chain(rules))
        .map_or_else(String::new, |name| format!("; did you mean {name}?"))
}

/// The known name nearest to an unknown one, if any is near.
pub(super) fn suggestion(unknown: &str, known: impl Iterator<Item = String>) -> Option<String> {
    let last = |name: &str| name.rsplit('.').next().unwrap_or_default().to_owned();
    let score = |name: &String| {
        // The right key under the wrong table is as likely as a slip of the finger.
        let tails = strsim::jaro_winkler(&last(unknown), &last(name)) * 0.99;
        strsim::jaro_winkler(unknown, name).max(tails)
    };
    known
        .map(|name| (score(&name), name))
        .filter(|(score, _)| *score > 0.84)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, name)| name)
}

pub(super) fn line_and_column(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn errors(text: &str) -> String {
        assignments_in(Path::new("c.toml"), text)
            .and_then(|written| Config::from_file(&[], &written))
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn an_unknown_key_has_line_column_and_suggestion() {
        assert_eq!(
            errors("mode = \"auto\"\n[policy]\n  min-rat = \"1 Mbit/s\"\n"),
            "c.toml:3:3: unknown key policy.min-rat; did you mean policy.min-rate?"
        );
        assert_eq!(errors("[polcy]\n"), "c.toml:1:2: unknown key polcy; did you mean policy?");
        assert_eq!(
            errors("min-age = \"1 s\"\n"),
            "c.toml:1:1: unknown key min-age; did you mean policy.min-age?"
        );
        assert_eq!(errors("zzz = 1\n"), "c.toml:1:1: unknown key zzz");
    }

    #[test]
    fn a_wrong_value_has_line_and_column() {
        assert_eq!(
            errors("# é\n[policy]\nmin-age = 500\n"),
            "c.toml:3:11: policy.min-age must be a time with its unit in quotes, such as \"500 ms\", \
             not an integer without a unit"
        );
        assert_eq!(errors("mode = []\n"), "c.toml:1:8: mode must not be an array");
        assert_eq!(errors("policy = 3\n"), "c.toml:1:10: policy is a table of keys, not an integer");
    }

    #[test]
    fn every_error_is_shown_from_the_top() {
        let all = errors("x-unknown = 1\n[metrics]\nlistn = 1\n[control]\nsockt = \"\"\n");
        let lines: Vec<&str> = all.lines().map(|line| line.split(": ").next().unwrap()).collect();
        assert_eq!(lines, ["c.toml:1:1", "c.toml:3:1", "c.toml:5:1"]);
    }

    #[test]
    fn broken_syntax_has_line_and_column() {
        assert!(errors("mode = \"auto\nx = 1\n").starts_with("c.toml:1:"), "{}", errors("mode = \"auto\n"));
        assert!(errors("\n\n[policy\n").starts_with("c.toml:3:"));
        assert!(errors("mode = \"auto\"\nmode = \"steer\"\n").starts_with("c.toml:2:1: duplicate key"));
    }

    #[test]
    fn a_hundred_errors_are_cut_short() {
        let text: String = (0..100).map(|n| format!("q{n} = 1\n")).collect();
        assert!(errors(&text).ends_with("and 80 more"));
    }
}
