//! Cuts a condition into tokens.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

use super::constant::{Number, quoted};
use super::diagnostic::{Diagnostic, Problem};
use super::syntax::{Relation, Span};
use super::{SOURCE_BYTES_MAX, TESTS_MAX};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Token {
    OpenParenthesis,
    CloseParenthesis,
    OpenBrace,
    CloseBrace,
    OpenBracket,
    CloseBracket,
    Comma,
    DotDot,
    And,
    Or,
    Not,
    Relation(Relation),
    Name(String),
    AddressSet(String),
    Quoted(String),
    Number(Number),
    End,
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = match self {
            Self::OpenParenthesis => "(",
            Self::CloseParenthesis => ")",
            Self::OpenBrace => "{",
            Self::CloseBrace => "}",
            Self::OpenBracket => "[",
            Self::CloseBracket => "]",
            Self::Comma => ",",
            Self::DotDot => "..",
            Self::And => "&&",
            Self::Or => "||",
            Self::Not => "!",
            Self::Relation(relation) => return write!(f, "\"{relation}\""),
            Self::Name(name) => return write!(f, "\"{name}\""),
            Self::AddressSet(name) => return write!(f, "\"${name}\""),
            Self::Quoted(text) => return f.write_str(&quoted(text)),
            Self::Number(number) => return number.fmt(f),
            Self::End => return f.write_str("the end"),
        };
        write!(f, "\"{sign}\"")
    }
}

/// All tokens of `source`, [`Token::End`] last.
pub(super) fn tokens(source: &str) -> Result<Vec<(Token, Span)>, Diagnostic> {
    let whole = Span { start: 0, end: source.len() };
    if source.len() > SOURCE_BYTES_MAX {
        return Err(Diagnostic::new(Problem::TooLarge { what: "bytes", max: SOURCE_BYTES_MAX }, whole));
    }
    let mut lexer = Lexer { source, at: 0 };
    // A token has a byte at least, so this is bounded by the source; the first guess spares the growing.
    let mut tokens = Vec::with_capacity((source.len() / 4).min(TESTS_MAX));
    loop {
        lexer.skip_blanks()?;
        let start = lexer.at;
        let token = lexer.next()?;
        let is_last = token == Token::End;
        tokens.push((token, Span { start, end: lexer.at }));
        if is_last {
            return Ok(tokens);
        }
    }
}

struct Lexer<'a> {
    source: &'a str,
    at: usize,
}

/// The signs, the longer ones first where one begins with the other.
const SIGNS: [(&str, Token); 18] = [
    ("&&", Token::And),
    ("||", Token::Or),
    ("==", Token::Relation(Relation::Equal)),
    ("!=", Token::Relation(Relation::NotEqual)),
    ("<=", Token::Relation(Relation::LessOrEqual)),
    (">=", Token::Relation(Relation::GreaterOrEqual)),
    ("<", Token::Relation(Relation::Less)),
    (">", Token::Relation(Relation::Greater)),
    ("!", Token::Not),
    ("(", Token::OpenParenthesis),
    (")", Token::CloseParenthesis),
    ("{", Token::OpenBrace),
    ("}", Token::CloseBrace),
    ("[", Token::OpenBracket),
    ("]", Token::CloseBracket),
    (",", Token::Comma),
    ("..", Token::DotDot),
    ("", Token::End),
];

impl Lexer<'_> {
    fn rest(&self) -> &str {
        self.source.get(self.at..).unwrap_or("")
    }

    fn fail<T>(&self, problem: Problem, length: usize) -> Result<T, Diagnostic> {
        let end = (self.at + length).min(self.source.len());
        Err(Diagnostic::new(problem, Span { start: self.at, end }))
    }

    /// Skips white space and comments, `// to the end of the line` and `/* like this */`.
    fn skip_blanks(&mut self) -> Result<(), Diagnostic> {
        loop {
            self.at += self.rest().len() - self.rest().trim_start().len();
            if self.rest().starts_with("//") {
                self.at += self.rest().find('\n').unwrap_or(self.rest().len());
            } else if self.rest().starts_with("/*") {
                match self.rest().find("*/") {
                    Some(end) => self.at += end + 2,
                    None => return self.fail(Problem::Unterminated("comment"), 2),
                }
            } else {
                return Ok(());
            }
        }
    }

    fn next(&mut self) -> Result<Token, Diagnostic> {
        let Some(first) = self.rest().chars().next() else { return Ok(Token::End) };
        if starts_number(self.rest()) {
            return self.number();
        }
        if first.is_ascii_alphabetic() || first == '_' {
            return Ok(Token::Name(self.name().to_string()));
        }
        match first {
            '"' => return self.quoted(),
            '$' => return self.address_set(),
            _ => {}
        }
        for (sign, token) in SIGNS {
            if !sign.is_empty() && self.rest().starts_with(sign) {
                self.at += sign.len();
                return Ok(token);
            }
        }
        match first {
            '=' => self.fail(Problem::SingleEquals, 1),
            c => self.fail(Problem::UnexpectedCharacter(c), c.len_utf8()),
        }
    }

    /// A name may contain dots, but not two in a row: `field[0..7]` has a range in it.
    fn name(&mut self) -> &str {
        let bytes = self.rest().as_bytes();
        let mut length = 0;
        while let Some(byte) = bytes.get(length) {
            let is_inner_dot = *byte == b'.'
                && bytes.get(length + 1).is_some_and(|next| next.is_ascii_alphanumeric() || *next == b'_');
            if !(byte.is_ascii_alphanumeric() || *byte == b'_' || is_inner_dot) {
                break;
            }
            length += 1;
        }
        let start = self.at;
        self.at += length;
        self.source.get(start..self.at).unwrap_or("")
    }

    fn address_set(&mut self) -> Result<Token, Diagnostic> {
        self.at += 1;
        let name = self.name().to_string();
        if name.is_empty() {
            self.at -= 1;
            let found = self.rest().chars().nth(1).map_or("the end".to_string(), |c| c.to_string());
            return self.fail(Problem::Expected { expected: "a name after \"$\"", found }, 1);
        }
        Ok(Token::AddressSet(name))
    }

    fn number(&mut self) -> Result<Token, Diagnostic> {
        let bytes = self.rest().as_bytes();
        let mut length = 0;
        while let Some(byte) = bytes.get(length) {
            let before_digit = bytes.get(length + 1).is_some_and(u8::is_ascii_hexdigit);
            let belongs = match byte {
                b'.' => bytes.get(length + 1) != Some(&b'.'),
                b'/' => before_digit || bytes.get(length + 1) == Some(&b':'),
                b':' => true,
                byte => byte.is_ascii_alphanumeric() || *byte == b'_',
            };
            if !belongs {
                break;
            }
            length += 1;
        }
        let text = self.rest().get(..length).unwrap_or("");
        match Number::parse(text) {
            Ok(number) => {
                self.at += length;
                Ok(Token::Number(number))
            }
            Err(problem) => self.fail(problem, length),
        }
    }

    fn quoted(&mut self) -> Result<Token, Diagnostic> {
        let mut text = String::new();
        let mut escaped = false;
        for (i, c) in self.rest().char_indices().skip(1) {
            match c {
                c if c.is_control() => {
                    self.at += i;
                    let why = "a quoted text holds no line breaks and no control characters";
                    return self.fail(Problem::BadString(why), c.len_utf8());
                }
                '"' if escaped => {
                    text.push('"');
                    escaped = false;
                }
                '\\' | '*' | '?' if escaped => {
                    text.push('\\');
                    text.push(c);
                    escaped = false;
                }
                _ if escaped => {
                    self.at += i - 1;
                    let why = r#"a backslash stands only before ", \, * and ?"#;
                    return self.fail(Problem::BadString(why), 1 + c.len_utf8());
                }
                '\\' => escaped = true,
                '"' => {
                    self.at += i + 1;
                    return Ok(Token::Quoted(text));
                }
                c => text.push(c),
            }
        }
        self.fail(Problem::Unterminated("quoted text"), 1)
    }
}

/// Whether a number or an address begins here: a digit, or hex digits before a colon.
fn starts_number(rest: &str) -> bool {
    let bytes = rest.as_bytes();
    let digits = bytes.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let colon = bytes.get(digits) == Some(&b':');
    bytes.first().is_some_and(u8::is_ascii_digit) || (digits <= 4 && colon)
}
