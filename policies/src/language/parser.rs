//! From tokens to the syntax tree, by recursive descent. The grammar is OVN's:
//!
//! ```text
//! any     = operand { "||" operand } | operand { "&&" operand }
//! operand = "(" any ")" | "!" atom | "0" | "1" | test
//! atom    = "(" any ")" | "!" atom | "0" | "1" | field
//! test    = field [ relation values ] | value relation field [ relation value ]
//! field   = name [ "[" number [ ".." number ] "]" ]
//! values  = value | "{" { value [ "," ] } "}"
//! ```

use alloc::boxed::Box;
use alloc::string::ToString;
use alloc::vec::Vec;

use super::constant::{Constant, Format, Number};
use super::diagnostic::{Diagnostic, Problem};
use super::lexer::{Token, tokens};
use super::syntax::{Expression, Relation, Span, Test, Values};
use super::{NESTING_MAX, VALUES_MAX};

impl Expression {
    /// Reads a condition. Fields and values are not looked at yet: [`super::Match::compile`] does that.
    pub fn parse(source: &str) -> Result<Self, Diagnostic> {
        let tokens = tokens(source)?;
        let mut parser = Parser { tokens: &tokens, at: 0, depth: 0, values: 0 };
        let expression = parser.any()?;
        match parser.peek() {
            Token::End => Ok(expression),
            _ => parser.expected("&&, || or the end"),
        }
    }
}

struct Parser<'a> {
    /// Ends with [`Token::End`], which is never taken.
    tokens: &'a [(Token, Span)],
    at: usize,
    depth: usize,
    values: usize,
}

impl Parser<'_> {
    fn peek(&self) -> &Token {
        self.tokens.get(self.at).map_or(&Token::End, |(token, _)| token)
    }

    fn span(&self) -> Span {
        self.tokens.get(self.at).or(self.tokens.last()).map_or(Span::default(), |(_, span)| *span)
    }

    /// The token before this one.
    fn last_span(&self) -> Span {
        self.tokens.get(self.at.saturating_sub(1)).map_or(Span::default(), |(_, span)| *span)
    }

    fn take(&mut self, token: &Token) -> bool {
        let is_it = self.peek() == token;
        self.at += usize::from(is_it);
        is_it
    }

    fn expected<T>(&self, expected: &'static str) -> Result<T, Diagnostic> {
        let found = self.peek().to_string();
        Err(Diagnostic::new(Problem::Expected { expected, found }, self.span()))
    }

    fn any(&mut self) -> Result<Expression, Diagnostic> {
        let first = self.operand()?;
        let operator = self.peek().clone();
        if !matches!(operator, Token::And | Token::Or) {
            return Ok(first);
        }
        let mut operands = Vec::from([first]);
        while self.take(&operator) {
            operands.push(self.operand()?);
        }
        match self.peek() {
            Token::And | Token::Or => Err(Diagnostic::new(Problem::MixedOperators, self.span())),
            _ if operator == Token::And => Ok(Expression::All(operands)),
            _ => Ok(Expression::Any(operands)),
        }
    }

    fn deeper<T>(&mut self, parse: impl FnOnce(&mut Self) -> Result<T, Diagnostic>) -> Result<T, Diagnostic> {
        if self.depth == NESTING_MAX {
            return Err(Diagnostic::new(Problem::TooDeep { max: NESTING_MAX }, self.span()));
        }
        self.depth += 1;
        let result = parse(self);
        self.depth -= 1;
        result
    }

    fn operand(&mut self) -> Result<Expression, Diagnostic> {
        if let Some(atom) = self.closed()? {
            return Ok(atom);
        }
        match self.peek() {
            Token::Name(_) => Ok(Expression::Test(self.test_of_field()?)),
            Token::Number(_) | Token::Quoted(_) | Token::AddressSet(_) | Token::OpenBrace => {
                self.test_of_values()
            }
            _ => self.expected("a field, a value, ! or ("),
        }
    }

    /// What needs no parentheses: parentheses, negations, and `0` or `1` alone.
    fn closed(&mut self) -> Result<Option<Expression>, Diagnostic> {
        if self.take(&Token::OpenParenthesis) {
            let inner = self.deeper(Self::any)?;
            if !self.take(&Token::CloseParenthesis) {
                return self.expected("&&, || or )");
            }
            return Ok(Some(inner));
        }
        if self.take(&Token::Not) {
            return self.deeper(Self::negated).map(Some);
        }
        if let Token::Number(Number { value: value @ 0..=1, mask: None, format: Format::Decimal }) =
            self.peek()
        {
            let value = *value == 1;
            if !matches!(self.tokens.get(self.at + 1), Some((Token::Relation(_), _))) {
                self.at += 1;
                return Ok(Some(Expression::Constant(value)));
            }
        }
        Ok(None)
    }

    fn negated(&mut self) -> Result<Expression, Diagnostic> {
        if let Some(atom) = self.closed()? {
            return Ok(Expression::Not(Box::new(atom)));
        }
        if !matches!(self.peek(), Token::Name(_)) {
            return self.expected("a field or ( after !");
        }
        let test = self.test_of_field()?;
        if test.comparison.is_some() {
            return Err(Diagnostic::new(Problem::NotNeedsParentheses, test.span));
        }
        Ok(Expression::Not(Box::new(Expression::Test(test))))
    }

    fn test_of_field(&mut self) -> Result<Test, Diagnostic> {
        let mut test = self.field()?;
        if let Token::Relation(relation) = *self.peek() {
            self.at += 1;
            test.comparison = Some((relation, self.values()?));
            test.span = test.span.to(self.last_span());
        }
        Ok(test)
    }

    /// `5 < ip.ttl`, or the range `5 < ip.ttl < 64`.
    fn test_of_values(&mut self) -> Result<Expression, Diagnostic> {
        let start = self.span();
        let low = self.values()?;
        let Token::Relation(relation) = *self.peek() else { return self.expected("a relation such as ==") };
        self.at += 1;
        let mut test = self.field()?;
        test.span = start.to(self.last_span());
        let Token::Relation(second) = *self.peek() else {
            test.comparison = Some((relation.turned(), low));
            return Ok(Expression::Test(test));
        };
        let upwards = |relation| matches!(relation, Relation::Less | Relation::LessOrEqual);
        let downwards = |relation| matches!(relation, Relation::Greater | Relation::GreaterOrEqual);
        let is_range = upwards(relation) && upwards(second) || downwards(relation) && downwards(second);
        if !is_range {
            return Err(Diagnostic::new(Problem::BadRange, self.span()));
        }
        self.at += 1;
        let high = self.values()?;
        test.span = start.to(self.last_span());
        let mut other = test.clone();
        test.comparison = Some((relation.turned(), low));
        other.comparison = Some((second, high));
        Ok(Expression::All(Vec::from([Expression::Test(test), Expression::Test(other)])))
    }

    fn field(&mut self) -> Result<Test, Diagnostic> {
        let span = self.span();
        let Token::Name(name) = self.peek() else { return self.expected("a field") };
        let field = name.clone();
        self.at += 1;
        let mut bits = None;
        if self.take(&Token::OpenBracket) {
            let low = self.bit()?;
            let high = if self.take(&Token::DotDot) { self.bit()? } else { low };
            if !self.take(&Token::CloseBracket) {
                return self.expected("]");
            }
            bits = Some((low, high));
        }
        Ok(Test { field, field_span: span, bits, comparison: None, span: span.to(self.last_span()) })
    }

    fn bit(&mut self) -> Result<u8, Diagnostic> {
        match self.peek() {
            Token::Number(Number { value: value @ 0..=127, mask: None, format: Format::Decimal }) => {
                let value = *value as u8;
                self.at += 1;
                Ok(value)
            }
            _ => self.expected("a bit number from 0 to 127"),
        }
    }

    fn values(&mut self) -> Result<Values, Diagnostic> {
        if !self.take(&Token::OpenBrace) {
            return Ok(Values::One(self.value()?));
        }
        let mut values = Vec::new();
        while !self.take(&Token::CloseBrace) {
            values.push(self.value()?);
            self.take(&Token::Comma);
        }
        Ok(Values::Set(values))
    }

    fn value(&mut self) -> Result<Constant, Diagnostic> {
        let span = self.span();
        let constant = match self.peek() {
            Token::Number(number) => Constant::Number(*number, span),
            Token::Quoted(text) => Constant::Quoted(text.clone(), span),
            Token::AddressSet(name) => Constant::AddressSet(name.clone(), span),
            Token::Name(_) => return self.expected("a value (names go in quotes)"),
            _ => return self.expected("a value"),
        };
        self.values += 1;
        if self.values > VALUES_MAX {
            return Err(Diagnostic::new(Problem::TooLarge { what: "values", max: VALUES_MAX }, span));
        }
        self.at += 1;
        Ok(constant)
    }
}
