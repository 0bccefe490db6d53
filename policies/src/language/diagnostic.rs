//! What is wrong with a condition, where, and what to write instead.

use alloc::format;
use alloc::string::{String, ToString};
use core::fmt;

use super::constant::Format;
use super::syntax::{Relation, Span};

/// What is wrong with a condition.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Problem {
    /// The source, its tests or its values exceed a limit.
    TooLarge {
        /// What there is too much of.
        what: &'static str,
        /// How much there may be.
        max: usize,
    },
    /// Parentheses and negations are nested too deeply.
    TooDeep {
        /// How deep they may be.
        max: usize,
    },
    /// A character that begins nothing.
    UnexpectedCharacter(char),
    /// A quoted string or a comment that does not end.
    Unterminated(&'static str),
    /// A backslash or a control character where none may be.
    BadString(&'static str),
    /// No number, address or mask.
    BadNumber(String),
    /// A mask written in another notation than its value.
    MaskOfAnotherKind(String),
    /// A value with bits that its mask leaves out: it would never match.
    BitsOutsideMask {
        /// What was written.
        found: String,
        /// The value without those bits.
        suggestion: String,
    },
    /// Something else was expected here.
    Expected {
        /// What was expected.
        expected: &'static str,
        /// What is there.
        found: String,
    },
    /// `=` instead of `==`.
    SingleEquals,
    /// `&&` and `||` side by side.
    MixedOperators,
    /// `!` before something that needs parentheses.
    NotNeedsParentheses,
    /// A range whose two relations do not point the same way.
    BadRange,
    /// No field of this name.
    UnknownField {
        /// What was written.
        name: String,
        /// The nearest name that exists.
        nearest: Option<&'static str>,
    },
    /// No address set of this name.
    UnknownAddressSet {
        /// What was written.
        name: String,
        /// The nearest name that exists.
        nearest: Option<String>,
    },
    /// An address set without an address of the field's kind.
    AddressSetOfAnotherKind {
        /// Its name.
        name: String,
        /// The field.
        field: &'static str,
        /// What the field takes.
        takes: &'static str,
    },
    /// A constant of the wrong kind for the field.
    WrongConstant {
        /// The field.
        field: &'static str,
        /// What it takes.
        takes: &'static str,
        /// What was written.
        found: &'static str,
    },
    /// A number that has more bits than the field.
    TooWide {
        /// The field.
        field: &'static str,
        /// Its bits.
        bits: u8,
    },
    /// `<` and the like where only `==` and `!=` make sense.
    OnlyEquality {
        /// What was written.
        relation: Relation,
        /// What it was used on.
        on: &'static str,
    },
    /// A bare field that is wider than one bit.
    NeedsComparison {
        /// The field.
        field: &'static str,
        /// An example of how to compare it.
        example: &'static str,
    },
    /// Bits of a field that has none, or not so many.
    BadBits {
        /// The field.
        field: &'static str,
        /// Its bits; zero when bits of it cannot be selected.
        bits: u8,
    },
    /// A word that is none of the field's.
    NoSuchWord {
        /// The field.
        field: &'static str,
        /// The words it has.
        words: &'static str,
        /// The nearest of them.
        nearest: Option<&'static str>,
    },
    /// Of a description: it cannot be so, as this would have to hold as well.
    Contradiction(String),
    /// No rate or no time.
    BadQuantity {
        /// The field.
        field: &'static str,
        /// What was written.
        found: String,
        /// An example of what to write.
        example: &'static str,
    },
}

impl Problem {
    /// What to do about it, as a short clause; none where the sentence says it already.
    fn advice(&self) -> Option<String> {
        Some(match self {
            Self::UnknownField { nearest: Some(name), .. } => format!("did you mean \"{name}\"?"),
            Self::UnknownField { nearest: None, .. } => {
                "see the list of fields in docs/policy.md".to_string()
            }
            Self::UnknownAddressSet { nearest: Some(name), .. } => format!("did you mean \"${name}\"?"),
            Self::NoSuchWord { nearest: Some(word), .. } => format!("did you mean \"{word}\"?"),
            Self::BitsOutsideMask { suggestion, .. } => format!("write {suggestion}"),
            Self::SingleEquals => "write \"==\"".to_string(),
            Self::MixedOperators => "write (a && b) || c, or a && (b || c)".to_string(),
            Self::NeedsComparison { example, .. } | Self::BadQuantity { example, .. } => {
                format!("write for example: {example}")
            }
            _ => return None,
        })
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge { what, max } => write!(f, "too many {what}: at most {max} are allowed"),
            Self::TooDeep { max } => write!(f, "nested too deeply: at most {max} levels are allowed"),
            Self::UnexpectedCharacter(c) => write!(f, "unexpected character {c:?}"),
            Self::Unterminated(what) => write!(f, "this {what} does not end"),
            Self::BadString(why) => f.write_str(why),
            Self::BadNumber(text) => write!(f, "{text:?} is no number and no address"),
            Self::MaskOfAnotherKind(text) => {
                write!(f, "in {text:?} the mask is written in another way than the value")
            }
            Self::BitsOutsideMask { found, .. } => {
                write!(f, "{found} has bits set that its mask leaves out")
            }
            Self::Expected { expected, found } => write!(f, "expected {expected}, found {found}"),
            Self::SingleEquals => f.write_str("\"=\" compares nothing"),
            Self::MixedOperators => f.write_str("&& and || need parentheses when used together"),
            Self::NotNeedsParentheses => f.write_str("! needs parentheses around a comparison"),
            Self::BadRange => {
                f.write_str("a range has the form x < field < y or x > field > y (or with <= and >=)")
            }
            Self::UnknownField { name, .. } => write!(f, "there is no field {name:?}"),
            Self::UnknownAddressSet { name, .. } => write!(f, "there is no address set \"${name}\""),
            Self::AddressSetOfAnotherKind { name, field, takes } => {
                write!(f, "{field} takes {takes}, and there is none in \"${name}\"")
            }
            Self::WrongConstant { field, takes, found } => write!(f, "{field} takes {takes}, not {found}"),
            Self::TooWide { field, bits } => write!(f, "{field} has {bits} bits, and this value has more"),
            Self::OnlyEquality { relation, on } => {
                write!(f, "{relation} makes no sense for {on}: only == and != do")
            }
            Self::NeedsComparison { field, .. } => write!(f, "{field} has to be compared with something"),
            Self::BadBits { field, bits: 0 } => write!(f, "{field} has no bits to select"),
            Self::BadBits { field, bits } => {
                write!(f, "{field} has the bits 0 to {}, the lower one first", bits - 1)
            }
            Self::NoSuchWord { field, words, .. } => write!(f, "{field} is one of {words}"),
            Self::Contradiction(test) => write!(f, "this contradicts the rest: {test} does not hold"),
            Self::BadQuantity { field, found, .. } => write!(f, "{found:?} is no {field}"),
        }
    }
}

/// What is wrong, and where in the condition's source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// What is wrong.
    pub problem: Problem,
    /// Where.
    pub span: Span,
}

/// Where the condition's source begins in the file that holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin<'a> {
    /// The file's name.
    pub file: &'a str,
    /// The line of the condition's first character, from 1.
    pub line: usize,
    /// The column of the condition's first character, in characters from 1.
    pub column: usize,
}

impl Diagnostic {
    pub(super) fn new(problem: Problem, span: Span) -> Self {
        Self { problem, span }
    }

    /// Line and column in the condition's own source, both from 1, the column in characters.
    pub fn position(&self, source: &str) -> (usize, usize) {
        let before = source.get(..self.span.start.min(source.len())).unwrap_or(source);
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let column = before.get(line_start..).unwrap_or("").chars().count() + 1;
        (before.matches('\n').count() + 1, column)
    }

    /// The message with file, line, column, the line itself and a caret under what is meant.
    ///
    /// ```text
    /// policy.toml:12:10: there is no field "tcp.dport"
    ///    12 | tcp.dport == 443
    ///       | ^^^^^^^^^ did you mean "tcp.dst"?
    /// ```
    pub fn render(&self, source: &str, origin: Origin<'_>) -> String {
        let (line, column) = self.position(source);
        let file_line = origin.line + line - 1;
        let file_column = if line == 1 { origin.column + column - 1 } else { column };
        let text = source.lines().nth(line - 1).unwrap_or("");
        // A tab stays a tab under a tab, so that the caret stays where it belongs.
        let indent: String =
            text.chars().take(column - 1).map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
        let here = source.get(self.span.start..self.span.end).unwrap_or("");
        let width = here.lines().next().unwrap_or("").chars().count().max(1);
        let advice = self.problem.advice().map_or(String::new(), |advice| format!(" {advice}"));
        let number = file_line.to_string();
        let margin = " ".repeat(number.len());
        format!(
            "{}:{file_line}:{file_column}: {}\n  {number} | {text}\n  {margin} | {indent}{}{advice}\n",
            origin.file,
            self.problem,
            "^".repeat(width),
        )
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.problem)?;
        match self.problem.advice() {
            Some(advice) => write!(f, "; {advice}"),
            None => Ok(()),
        }
    }
}

impl core::error::Error for Diagnostic {}

/// What a constant is, for [`Problem::WrongConstant`].
pub(super) fn kind_of(format: Option<Format>) -> &'static str {
    format.map_or("a quoted text", Format::name)
}

/// The candidate that is nearest to `name`, if one is near enough to be meant.
pub(super) fn nearest<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (name.chars().count() / 3).clamp(1, 3);
    candidates
        .map(|candidate| (distance(name, candidate), candidate))
        .filter(|(distance, _)| *distance <= limit)
        .min()
        .map(|(_, candidate)| candidate)
}

/// How many characters have to be inserted, removed or exchanged (Levenshtein). Long names are far from everything.
fn distance(a: &str, b: &str) -> usize {
    const LONGEST: usize = 64;
    if a.chars().count() > LONGEST || b.chars().count() > LONGEST {
        return usize::MAX;
    }
    let mut row = [0_usize; LONGEST + 1];
    for (j, cell) in row.iter_mut().enumerate() {
        *cell = j;
    }
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.chars().enumerate() {
            let replaced = diagonal + usize::from(!x.eq_ignore_ascii_case(&y));
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.chars().count()]
}
