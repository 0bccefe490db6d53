//! From the syntax tree to a program: fields are looked up, constants checked against them, prerequisites added,
//! negations pushed down to the tests, address sets put in.

use alloc::collections::BTreeMap;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use super::constant::{Constant, Format, Number, ones};
use super::diagnostic::{Diagnostic, Problem, kind_of, nearest};
use super::fields::{self, Field, Kind, LOCALITIES, Text};
use super::glob;
use super::program::{Label, Match, Node, Run, Shown, Slice};
use super::subject::Bits;
use super::syntax::{Expression, Relation, Span, Test, Values};
use super::{TESTS_MAX, VALUES_MAX};
use crate::{Micros, Rate};

/// Address sets by name, for `$name`. A set may hold addresses of several kinds; a field takes those of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AddressSets {
    sets: BTreeMap<String, Vec<Number>>,
}

impl AddressSets {
    /// No sets.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a set, or replaces the one of that name. On an error nothing changes; the error comes with the place of the
    /// wrong address in the list.
    pub fn insert<'a>(
        &mut self,
        name: &str,
        addresses: impl IntoIterator<Item = &'a str>,
    ) -> Result<(), (usize, Problem)> {
        let mut numbers = Vec::new();
        for (i, address) in addresses.into_iter().enumerate() {
            if i == VALUES_MAX {
                return Err((i, Problem::TooLarge { what: "values", max: VALUES_MAX }));
            }
            numbers.push(Number::parse(address).map_err(|problem| (i, problem))?);
        }
        self.sets.insert(name.to_string(), numbers);
        Ok(())
    }

    /// All sets by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[Number])> {
        self.sets.iter().map(|(name, numbers)| (name.as_str(), numbers.as_slice()))
    }
}

impl Match {
    /// Reads and compiles a condition.
    pub fn compile(source: &str, sets: &AddressSets) -> Result<Self, Diagnostic> {
        let expression = Expression::parse(source)?;
        let program = Self {
            source: source.to_string(),
            nodes: Vec::new(),
            labels: Vec::new(),
            values: Vec::new(),
            blocks: Vec::new(),
            patterns: Vec::new(),
        };
        let mut compiler = Compiler { sets, program };
        compiler.expression(&expression, false, None)?;
        Ok(compiler.program)
    }
}

struct Compiler<'a> {
    sets: &'a AddressSets,
    program: Match,
}

/// What a test is filed under: the field, where it stands, and whether a trace shows it.
#[derive(Clone, Copy)]
struct Context<'a> {
    field: &'static Field,
    test: &'a Test,
    span: Span,
    shown: Shown,
}

impl Compiler<'_> {
    /// `within`: the expression is the meaning of what is written there.
    fn expression(
        &mut self,
        expression: &Expression,
        negate: bool,
        within: Option<Span>,
    ) -> Result<(), Diagnostic> {
        match expression {
            Expression::Constant(value) => {
                let label = Label {
                    span: Span::default(),
                    text: if *value { "1" } else { "0" }.into(),
                    field: "",
                    format: Format::Decimal,
                    shown: if within.is_none() { Shown::Written } else { Shown::No },
                };
                self.push(Node::Constant(*value != negate), label)
            }
            Expression::Not(operand) => self.expression(operand, !negate, within),
            Expression::All(operands) => self.group(!negate, |this| {
                operands.iter().try_for_each(|operand| this.expression(operand, negate, within))
            }),
            Expression::Any(operands) => self.group(negate, |this| {
                operands.iter().try_for_each(|operand| this.expression(operand, negate, within))
            }),
            Expression::Test(test) => self.test(test, negate, within),
        }
    }

    /// An `All` or an `Any` around what `fill` adds.
    fn group(
        &mut self,
        all: bool,
        fill: impl FnOnce(&mut Self) -> Result<(), Diagnostic>,
    ) -> Result<(), Diagnostic> {
        let at = self.program.nodes.len();
        let label = Label {
            span: Span::default(),
            text: "".into(),
            field: "",
            format: Format::Decimal,
            shown: Shown::No,
        };
        self.push(Node::Any { end: 0 }, label)?;
        fill(self)?;
        let end = self.program.nodes.len() as u32;
        if let Some(node) = self.program.nodes.get_mut(at) {
            *node = if all { Node::All { end } } else { Node::Any { end } };
        }
        Ok(())
    }

    fn push(&mut self, node: Node, label: Label) -> Result<(), Diagnostic> {
        if self.program.nodes.len() == TESTS_MAX {
            return Err(Diagnostic::new(Problem::TooLarge { what: "tests", max: TESTS_MAX }, label.span));
        }
        self.program.nodes.push(node);
        self.program.labels.push(label);
        Ok(())
    }

    fn push_test(&mut self, node: Node, context: Context<'_>) -> Result<(), Diagnostic> {
        let format = match context.field.kind {
            Kind::Bits { format, .. } if context.test.bits.is_none() => format,
            _ => Format::Decimal,
        };
        let label = Label {
            span: context.span,
            text: context.test.to_string().into(),
            field: context.field.name,
            format,
            shown: context.shown,
        };
        self.push(node, label)
    }

    fn test(&mut self, test: &Test, negate: bool, within: Option<Span>) -> Result<(), Diagnostic> {
        let Some(field) = fields::find(&test.field) else {
            let nearest = nearest(&test.field, fields::names());
            let problem = Problem::UnknownField { name: test.field.clone(), nearest };
            return Err(Diagnostic::new(problem, test.field_span));
        };
        let shown = if within.is_none() { Shown::Written } else { Shown::No };
        let context = Context { field, test, span: within.unwrap_or(test.span), shown };
        if field.needs.is_empty() {
            return self.test_itself(context, negate);
        }
        self.group(true, |this| {
            let shown = if within.is_none() { Shown::Implied } else { Shown::No };
            this.meaning(field.needs, false, context.span, field.needs, shown)?;
            this.test_itself(context, negate)
        })
    }

    /// Adds what an abbreviation stands for; a trace shows it as `text`, in one piece.
    fn meaning(
        &mut self,
        meaning: &str,
        negate: bool,
        span: Span,
        text: &str,
        shown: Shown,
    ) -> Result<(), Diagnostic> {
        let at = self.program.nodes.len();
        self.expression(&Expression::parse(meaning)?, negate, Some(span))?;
        if let Some(label) = self.program.labels.get_mut(at) {
            label.text = text.into();
            label.shown = shown;
        }
        Ok(())
    }

    fn test_itself(&mut self, context: Context<'_>, negate: bool) -> Result<(), Diagnostic> {
        let Context { field, test, .. } = context;
        if test.bits.is_some() && !matches!(field.kind, Kind::Bits { .. }) {
            return Err(Diagnostic::new(Problem::BadBits { field: field.name, bits: 0 }, test.span));
        }
        match field.kind {
            Kind::Bits { header, low, width, format } => {
                let slice = select(context, Slice { header, low, width })?;
                self.bits(context, slice, if test.bits.is_some() { Format::Decimal } else { format }, negate)
            }
            Kind::Predicate(meaning) => {
                let positive = is_asked_for(context)? != negate;
                self.meaning(meaning, !positive, context.span, &test.to_string(), context.shown)
            }
            Kind::Flag(flag) => {
                let negated = is_asked_for(context)? == negate;
                self.push_test(Node::Flag { flag, negated }, context)
            }
            Kind::Text(text) => self.text(context, text, negate),
            Kind::Age | Kind::Rate => self.quantity(context, negate),
        }
    }

    fn bits(
        &mut self,
        context: Context<'_>,
        slice: Slice,
        format: Format,
        negate: bool,
    ) -> Result<(), Diagnostic> {
        let (relation, values) = match &context.test.comparison {
            Some((relation, values)) => (*relation, self.numbers(context, slice.width, format, values)?),
            None if slice.width == 1 => (Relation::Equal, Vec::from([Bits { value: 1, mask: 1 }])),
            None => return Err(needs_comparison(context)),
        };
        let relation = if negate { relation.inverted() } else { relation };
        if relation.is_equality() {
            let node = self.member(slice, values, relation == Relation::NotEqual);
            return self.push_test(node, context);
        }
        let on = match (&context.test.comparison, values.as_slice()) {
            (Some((_, Values::One(_))), [one]) if one.mask == ones(slice.width) => {
                self.program.values.push(one.value);
                let at = self.program.values.len() as u32 - 1;
                return self.push_test(Node::Order { slice, relation, at }, context);
            }
            (Some((_, Values::One(Constant::Number(..)))), _) => "a value with a mask",
            _ => "a set of values",
        };
        let relation = context.test.comparison.as_ref().map_or(relation, |(relation, _)| *relation);
        Err(Diagnostic::new(Problem::OnlyEquality { relation, on }, context.test.span))
    }

    fn member(&mut self, slice: Slice, values: Vec<Bits>, negated: bool) -> Node {
        let program = &mut self.program;
        let (first_value, first_block) = (program.values.len(), program.blocks.len());
        for bits in values {
            if bits.mask == ones(slice.width) {
                program.values.push(bits.value);
            } else {
                program.blocks.push(bits);
            }
        }
        if let Some(values) = program.values.get_mut(first_value..) {
            values.sort_unstable();
        }
        let exact = Run { start: first_value as u32, end: program.values.len() as u32 };
        let blocks = Run { start: first_block as u32, end: program.blocks.len() as u32 };
        Node::Member { slice, exact, blocks, negated }
    }

    /// The values as bits of a field `width` bits wide, address sets put in.
    fn numbers(
        &self,
        context: Context<'_>,
        width: u8,
        format: Format,
        values: &Values,
    ) -> Result<Vec<Bits>, Diagnostic> {
        let mut numbers = Vec::new();
        for constant in values.as_slice() {
            match constant {
                Constant::Number(number, span) => {
                    numbers.push(fitting(context, width, format, *number, *span)?);
                }
                Constant::Quoted(_, span) => return Err(wrong_constant(context, format, None, *span)),
                Constant::AddressSet(name, span) => {
                    self.address_set(context, format, name, *span, &mut numbers)?;
                }
            }
            // Within the loop: a long condition may name a large set many times.
            let total = self.program.values.len() + self.program.blocks.len() + numbers.len();
            if total > VALUES_MAX {
                let problem = Problem::TooLarge { what: "values", max: VALUES_MAX };
                return Err(Diagnostic::new(problem, constant.span()));
            }
        }
        Ok(numbers)
    }

    fn address_set(
        &self,
        context: Context<'_>,
        format: Format,
        name: &str,
        span: Span,
        numbers: &mut Vec<Bits>,
    ) -> Result<(), Diagnostic> {
        let Some(set) = self.sets.sets.get(name) else {
            let nearest = nearest(name, self.sets.sets.keys().map(String::as_str)).map(ToString::to_string);
            let problem = Problem::UnknownAddressSet { name: name.to_string(), nearest };
            return Err(Diagnostic::new(problem, span));
        };
        let before = numbers.len();
        let (field, takes) = (context.field.name, format.name());
        if let Some(width) = format.width() {
            let fits = set.iter().filter(|number| number.format == format);
            numbers.extend(
                fits.map(|number| Bits { value: number.value, mask: number.mask.unwrap_or(ones(width)) }),
            );
        }
        if numbers.len() == before && !set.is_empty() {
            let problem = Problem::AddressSetOfAnotherKind { name: name.to_string(), field, takes };
            return Err(Diagnostic::new(problem, span));
        }
        Ok(())
    }

    fn text(&mut self, context: Context<'_>, text: Text, negate: bool) -> Result<(), Diagnostic> {
        let Some((relation, values)) = &context.test.comparison else {
            return Err(needs_comparison(context));
        };
        if !relation.is_equality() {
            let problem = Problem::OnlyEquality { relation: *relation, on: "a text" };
            return Err(Diagnostic::new(problem, context.test.span));
        }
        let start = self.program.patterns.len() as u32;
        for constant in values.as_slice() {
            let pattern = quoted_text(context, constant)?;
            if text == Text::Locality && !LOCALITIES.iter().any(|word| glob::matches(pattern, word)) {
                let problem = Problem::NoSuchWord {
                    field: context.field.name,
                    words: r#""same-node", "cross-node", "external", "unknown""#,
                    nearest: nearest(pattern, LOCALITIES.into_iter()),
                };
                return Err(Diagnostic::new(problem, constant.span()));
            }
            self.program.patterns.push(pattern.to_string());
        }
        let patterns = Run { start, end: self.program.patterns.len() as u32 };
        let negated = (*relation == Relation::NotEqual) != negate;
        self.push_test(Node::Text { text, patterns, negated }, context)
    }

    fn quantity(&mut self, context: Context<'_>, negate: bool) -> Result<(), Diagnostic> {
        let Some((relation, values)) = &context.test.comparison else {
            return Err(needs_comparison(context));
        };
        let Values::One(constant) = values else {
            let problem = Problem::WrongConstant {
                field: context.field.name,
                takes: context.field.takes(),
                found: "a set of values",
            };
            return Err(Diagnostic::new(problem, context.test.span));
        };
        let text = quoted_text(context, constant)?;
        let bad = |example| {
            let problem =
                Problem::BadQuantity { field: context.field.name, found: text.to_string(), example };
            Diagnostic::new(problem, constant.span())
        };
        let relation = if negate { relation.inverted() } else { *relation };
        let node = match context.field.kind {
            Kind::Age => {
                let age: Micros = text.parse().map_err(|_| bad(r#"age >= "10 s""#))?;
                Node::Age { relation, age }
            }
            _ => {
                let rate: Rate = text.parse().map_err(|_| bad(r#"rate >= "2 Mbit/s""#))?;
                Node::Rate { relation, rate }
            }
        };
        self.push_test(node, context)
    }
}

/// `field[low..high]` of a field that is itself part of a header.
fn select(context: Context<'_>, slice: Slice) -> Result<Slice, Diagnostic> {
    let Some((low, high)) = context.test.bits else { return Ok(slice) };
    if low > high || high >= slice.width {
        let problem = Problem::BadBits { field: context.field.name, bits: slice.width };
        return Err(Diagnostic::new(problem, context.test.span));
    }
    Ok(Slice { header: slice.header, low: slice.low + low, width: high - low + 1 })
}

/// Whether a test of a yes or no asks for the yes.
fn is_asked_for(context: Context<'_>) -> Result<bool, Diagnostic> {
    let Some((relation, values)) = &context.test.comparison else { return Ok(true) };
    if !relation.is_equality() {
        let problem = Problem::OnlyEquality { relation: *relation, on: "a yes or no" };
        return Err(Diagnostic::new(problem, context.test.span));
    }
    match values {
        Values::One(Constant::Number(Number { value: value @ 0..=1, mask: None, .. }, _)) => {
            Ok((*value == 1) == (*relation == Relation::Equal))
        }
        _ => {
            let problem = Problem::WrongConstant {
                field: context.field.name,
                takes: context.field.takes(),
                found: "another value",
            };
            Err(Diagnostic::new(problem, context.test.span))
        }
    }
}

fn fitting(
    context: Context<'_>,
    width: u8,
    format: Format,
    number: Number,
    span: Span,
) -> Result<Bits, Diagnostic> {
    if number.format.width().is_some() && number.format != format {
        return Err(wrong_constant(context, format, Some(number.format), span));
    }
    let mask = number.mask.unwrap_or(ones(width));
    if (number.value | mask) & !ones(width) != 0 {
        return Err(Diagnostic::new(Problem::TooWide { field: context.field.name, bits: width }, span));
    }
    Ok(Bits { value: number.value, mask })
}

fn quoted_text<'a>(context: Context<'_>, constant: &'a Constant) -> Result<&'a str, Diagnostic> {
    let found = match constant {
        Constant::Quoted(text, _) => return Ok(text),
        Constant::Number(number, _) => number.format.name(),
        Constant::AddressSet(..) => "an address set",
    };
    let problem = Problem::WrongConstant { field: context.field.name, takes: context.field.takes(), found };
    Err(Diagnostic::new(problem, constant.span()))
}

fn wrong_constant(context: Context<'_>, format: Format, found: Option<Format>, span: Span) -> Diagnostic {
    let (field, takes) = (context.field.name, format.name());
    Diagnostic::new(Problem::WrongConstant { field, takes, found: kind_of(found) }, span)
}

fn needs_comparison(context: Context<'_>) -> Diagnostic {
    let problem = Problem::NeedsComparison { field: context.field.name, example: context.field.example() };
    Diagnostic::new(problem, context.test.span)
}
