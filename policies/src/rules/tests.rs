use super::*;
use crate::language::Header;

fn rule(name: &str, condition: &str, place: Place) -> RuleText {
    RuleText {
        at: (1, 1),
        name: name.to_string(),
        condition: condition.to_string(),
        condition_at: (3, 9),
        place,
        ..RuleText::default()
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
    let auto = RuleText { weight: Some(Weight::from_thousandths(2_000)), ..rule("rest", "ip", Place::Auto) };
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
    let health = rules.decide(&tcp(Some(8080)), &mut TenantBook::new());
    assert_eq!(health.verdict, Verdict::Software(Because::Rule(RuleId(0))));
    assert_eq!(
        rules.decide(&tcp(Some(443)), &mut TenantBook::new()).verdict,
        Verdict::Hardware(Some(RuleId(1)))
    );
    let Verdict::Auto(terms) = rules.decide(&tcp(Some(22)), &mut TenantBook::new()).verdict else {
        panic!("auto")
    };
    assert_eq!((terms.rule, terms.weight.thousandths()), (Some(RuleId(2)), 2_000));
}

#[test]
fn without_a_match_the_default_decides() {
    let mut lldp = Subject::default();
    lldp.set_exact(Header::EthType, 0x88cc);
    let decision = policy().decide(&lldp, &mut TenantBook::new());
    assert_eq!(
        decision,
        Decision { rule: None, verdict: Verdict::Software(Because::Default), tenant: TenantId(0) }
    );
}

#[test]
fn a_rule_that_matches_some_packets_does_not_apply_and_the_trace_says_so() {
    let rules = policy();
    let any_port = tcp(None);
    assert_eq!(rules.decide(&any_port, &mut TenantBook::new()).rule, Some(RuleId(2)));
    let trace = rules.trace(&any_port);
    assert_eq!(trace.rule, Some(RuleId(2)));
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
    assert_eq!(rendered[0].lines().next(), Some("p.toml:3:20: tcp.dst has 16 bits, and this value has more"));
    assert_eq!(rendered[1], "p.toml:1:1: rule 2 \"b\": min-age has a meaning with place = \"auto\" only\n");
    assert_eq!(rendered[2], "p.toml:1:1: rule 3 \"b\": rule 2 has the same name\n");
    assert_eq!(rendered[3], "p.toml:1:1: rule 4 \"\": a name has 1 to 128 bytes, and is not (default)\n");
    assert!(rendered[4].starts_with("p.toml:3:15: expected a value, found the end"));
}

#[test]
fn tenants_have_numbers_shares_and_limits_come_from_their_rules() {
    let gold = RuleText {
        tenant: Some("gold".into()),
        share: Some(Weight::from_thousandths(3_000)),
        max_entries: Some(64),
        ..rule("gold", "tcp.dst == 443", Place::Hardware)
    };
    let texts = [
        RuleText { tenant: Some("iron".into()), installs_per_s: Some(9), ..rule("iron", "udp", Place::Auto) },
        gold.clone(),
        RuleText { tenant: Some("gold".into()), share: None, ..rule("more gold", "tcp", Place::Auto) },
    ];
    let rules = Rules::compile(&texts, Place::Auto, &AddressSets::new()).expect("a policy");
    assert_eq!(rules.decide(&tcp(Some(443)), &mut TenantBook::new()).tenant, TenantId(2));
    assert_eq!(rules.decide(&tcp(Some(80)), &mut TenantBook::new()).tenant, TenantId(2));
    assert_eq!((rules.tenant(TenantId(1)), rules.tenant(TenantId(2))), (Some("iron"), Some("gold")));
    assert_eq!((rules.tenant(TenantId(0)), rules.tenant(TenantId(3))), (None, None));
    let division = rules.division();
    assert_eq!(division.shares, [(TenantId(2), Weight::from_thousandths(3_000))].into());
    let limits = [
        (RuleId(0), Limit { entries: None, installs_per_s: Some(9) }),
        (RuleId(1), Limit { entries: Some(64), installs_per_s: None }),
    ];
    assert_eq!(division.limits, limits.into());
    let wrong = [
        gold.clone(),
        RuleText { share: Some(Weight::ONE), ..rule("a", "1", Place::Auto) },
        RuleText { name: "b".into(), share: Some(Weight::ONE), ..gold },
        RuleText { max_entries: Some(1), ..rule("c", "1", Place::Software) },
        RuleText { tenant: Some(String::new()), ..rule("d", "1", Place::Auto) },
        RuleText {
            tenant_from: Some(TenantFrom::Namespace),
            tenant: Some("iron".into()),
            ..rule("e", "1", Place::Auto)
        },
    ];
    let errors = Rules::compile(&wrong, Place::Auto, &AddressSets::new()).expect_err("errors");
    let problems: Vec<&RuleProblem> = errors.iter().map(|error| &error.problem).collect();
    let expected = [
        &RuleProblem::ShareOfNobody,
        &RuleProblem::TwoShares(RuleId(0)),
        &RuleProblem::NotForSoftware("max-entries"),
        &RuleProblem::BadTenant,
        &RuleProblem::TwoTenants,
    ];
    assert_eq!(problems, expected);
    assert_eq!(errors[1].to_string(), "rule 3 \"b\": rule 1 gives the same tenant another share");
}

#[test]
fn a_rule_may_leave_it_to_the_megaflows_whose_they_are() {
    let share = |thousandths| Some(Weight::from_thousandths(thousandths));
    let each = RuleText {
        tenant_from: Some(TenantFrom::Namespace),
        share: share(500),
        ..rule("namespaces", "tcp", Place::Auto)
    };
    let gold =
        RuleText { tenant: Some("gold".into()), share: share(3_000), ..rule("gold", "udp", Place::Auto) };
    let rules = Rules::compile(&[each.clone(), gold], Place::Auto, &AddressSets::new()).expect("a policy");
    let mut book = TenantBook::new();
    let mut of = |namespace: Option<&'static str>| {
        let mut subject = tcp(Some(80));
        subject.namespace = namespace;
        rules.decide(&subject, &mut book).tenant
    };
    let (red, blue) = (of(Some("red")), of(Some("blue")));
    assert!(red != blue && red.is_found() && blue.is_found() && of(Some("red")) == red);
    assert_eq!(of(Some("gold")), TenantId(1), "it is the tenant that a rule names");
    assert_eq!([of(Some("")), of(None)], [TenantId(0); 2], "nobody's");
    assert_eq!((book.name(red), rules.tenant(red)), (Some("red"), None));
    let division = rules.division();
    assert_eq!((Some(division.found), division.shares.get(&red)), (share(500), None));
    assert_eq!((Some(rules.share("red")), Some(rules.share("gold"))), (share(500), share(3_000)));

    let mut subject = tcp(Some(80));
    subject.namespace = Some("red");
    assert_eq!(rules.trace(&subject).tenant, Some("red"));
    let other = RuleText {
        share: share(600),
        tenant_from: Some(TenantFrom::Workload),
        name: "w".into(),
        ..each.clone()
    };
    let errors = Rules::compile(&[each, other], Place::Auto, &AddressSets::new()).expect_err("two shares");
    assert_eq!(errors[0].problem, RuleProblem::TwoShares(RuleId(0)));
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
