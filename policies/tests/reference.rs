//! docs/policy.md is true: every example in it is tried, and its list of fields is the language's.
//!
//! `UPDATE_GOLDEN=1` writes the list of fields anew.

use policies::language::{
    AddressSets, Constant, Expression, Header, Match, Number, Origin, Subject, Truth, Values, field_help,
};
use policies::rules::{Place, RuleText, Rules};
use policies::{Micros, Rate, Weight};

const REFERENCE: &str = include_str!("../../docs/policy.md");

/// The contents of the code blocks of that kind.
fn blocks(kind: &str) -> Vec<&'static str> {
    let opening = format!("```{kind}\n");
    let blocks: Vec<&str> = REFERENCE
        .match_indices(&opening)
        .filter_map(|(at, _)| REFERENCE[at + opening.len()..].split("\n```").next())
        .collect();
    assert!(!blocks.is_empty(), "docs/policy.md has no example of the kind {kind}");
    blocks
}

fn sets() -> AddressSets {
    let mut sets = AddressSets::new();
    sets.insert("internal", ["10.0.0.0/8", "fd00::/8"]).expect("addresses");
    sets
}

fn compiled(source: &str) -> Match {
    Match::compile(source, &sets()).unwrap_or_else(|error| {
        panic!("{}", error.render(source, Origin { file: "docs/policy.md", line: 1, column: 1 }))
    })
}

#[test]
fn every_kind_of_block_is_known() {
    for line in REFERENCE.lines().filter(|line| line.starts_with("```") && line.len() > 3) {
        assert!(["policy", "match", "megaflow", "error"].contains(&&line[3..]), "nobody tests {line}");
    }
}

#[test]
fn every_condition_compiles() {
    for condition in blocks("match").iter().flat_map(|block| block.lines()) {
        compiled(condition);
    }
    // Those in the running text and in tables that compare something.
    let inline =
        REFERENCE.split('`').skip(1).step_by(2).filter(|code| code.contains(" == ") || code.contains(" < "));
    for condition in inline.filter(|code| !code.contains('\n')) {
        compiled(condition);
    }
}

/// Sets the header that `field == value` speaks of.
fn describe(subject: &mut Subject<'_>, test: &str) {
    let Ok(Expression::Test(test)) = Expression::parse(test) else { panic!("no test: {test}") };
    let header = match test.field.as_str() {
        "eth.type" => Header::EthType,
        "ip.proto" => Header::IpProto,
        "ip4.src" => Header::Ip4Src,
        "ip4.dst" => Header::Ip4Dst,
        "tcp.dst" | "udp.dst" => Header::L4Dst,
        other => panic!("docs/policy.md describes a megaflow by {other}: add it here"),
    };
    match test.comparison {
        Some((_, Values::One(Constant::Number(Number { value, mask, .. }, _)))) => {
            subject.set(header, value, mask.unwrap_or(u128::MAX));
        }
        other => panic!("no number: {other:?}"),
    }
}

#[test]
fn every_answer_is_the_one_that_is_printed() {
    for block in blocks("megaflow") {
        let mut lines = block.lines();
        let mut subject = Subject::default();
        let words: Vec<&str> = lines.next().unwrap_or("").split(' ').collect();
        for test in words.chunks(3) {
            describe(&mut subject, &test.join(" "));
        }
        for line in lines {
            let (truth, condition) = line.split_once(' ').expect("a truth and a condition");
            let condition = condition.trim();
            assert_eq!(compiled(condition).evaluate(&subject).to_string(), truth, "{condition}");
        }
    }
    let mut any_port = Subject::default();
    any_port.set_exact(Header::EthType, 0x800);
    any_port.set_exact(Header::IpProto, 6);
    assert_eq!(compiled("tcp.src < 9 || tcp.src > 8").evaluate(&any_port), Truth::Sometimes);
}

#[test]
fn every_mistake_is_reported_as_printed() {
    for block in blocks("error") {
        let (source, message) = block.split_once('\n').expect("a condition and its message");
        let error = Match::compile(source, &sets()).expect_err("a mistake");
        let rendered = error.render(source, Origin { file: "policy.toml", line: 1, column: 1 });
        assert_eq!(rendered.trim_end(), message);
    }
}

/// The rules of an example, of which every line is `[[rule]]`, blank, or `key = value`.
fn rules_of(example: &str) -> Vec<RuleText> {
    let mut rules = Vec::new();
    for (index, line) in example.lines().enumerate().filter(|(_, line)| !line.is_empty()) {
        if line == "[[rule]]" {
            rules.push(RuleText { at: (index + 1, 1), ..RuleText::default() });
            continue;
        }
        let (key, value) = line.split_once(" = ").unwrap_or_else(|| panic!("no key: {line}"));
        let quote = |quote: char| value.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote));
        let value = quote('\'').or_else(|| quote('"')).unwrap_or(value);
        let rule = rules.last_mut().expect("a key belongs to a rule");
        match key {
            "name" => rule.name = value.into(),
            "match" => (rule.condition, rule.condition_at) = (value.into(), (index + 1, 10)),
            "place" => rule.place = Place::from_word(value).unwrap_or_else(|| panic!("no place: {value}")),
            "min-rate" => rule.min_rate = Some(value.parse::<Rate>().expect("a rate")),
            "min-age" => rule.min_age = Some(value.parse::<Micros>().expect("a time")),
            "weight" => {
                let weight: f64 = value.parse().expect("a number");
                rule.weight = Some(Weight::from_thousandths((weight * 1000.0) as u32));
            }
            "tenant" => rule.tenant = Some(value.into()),
            "share" => {
                let share: f64 = value.parse().expect("a number");
                rule.share = Some(Weight::from_thousandths((share * 1000.0) as u32));
            }
            "max-entries" => rule.max_entries = Some(value.parse().expect("a number")),
            "installs-per-s" => rule.installs_per_s = Some(value.parse().expect("a number")),
            other => panic!("no key of rules: {other}"),
        }
    }
    rules
}

#[test]
fn every_policy_compiles_and_its_keys_are_listed() {
    for example in blocks("policy") {
        let texts = rules_of(example);
        if let Err(errors) = Rules::compile(&texts, Place::Auto, &sets()) {
            let rendered: String =
                errors.iter().map(|error| error.render("docs/policy.md", &texts)).collect();
            panic!("{rendered}");
        }
    }
    for key in [
        "name",
        "match",
        "place",
        "min-rate",
        "min-age",
        "weight",
        "tenant",
        "share",
        "max-entries",
        "installs-per-s",
    ] {
        assert!(REFERENCE.contains(&format!("\n| `{key}` | ")), "{key} is not listed");
    }
}

fn fields_table() -> String {
    let mut table = String::from("| field | compared with | implies or means | |\n|---|---|---|---|\n");
    for field in field_help() {
        let names: Vec<String> =
            std::iter::once(&field.name).chain(field.aliases).map(|name| format!("`{name}`")).collect();
        let implies = if field.implies.is_empty() {
            String::new()
        } else {
            format!("`{}`", field.implies.replace('|', "\\|"))
        };
        table += &format!("| {} | {} | {implies} | {} |\n", names.join(", "), field.takes, field.help);
    }
    table
}

#[test]
fn every_field_is_listed() {
    let (begin, end) = ("<!-- fields: begin -->\n", "<!-- fields: end -->");
    let (before, rest) = REFERENCE.split_once(begin).expect("the list's beginning");
    let (table, after) = rest.split_once(end).expect("the list's end");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/policy.md");
        std::fs::write(path, format!("{before}{begin}{}{end}{after}", fields_table()))
            .expect("docs/policy.md is ours");
        return;
    }
    assert_eq!(
        table,
        fields_table(),
        "UPDATE_GOLDEN=1 cargo test -p policies --test reference writes it anew"
    );
}
