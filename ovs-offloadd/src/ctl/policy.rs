//! The policy as ovs-offloadctl shows it: its rules, and how they come to a decision.

use std::fmt::Write as _;

use offload_engine::{RuleView as EngineRule, odp};
use policies::language::{Origin, Sketch, Truth};
use policies::planner::Verdict;
use policies::rules::{Place, Rules, RulesTrace};
use policies::tenants::TenantFrom;
use serde::Serialize;

use super::text::{bit_rate, number, table};
use super::views::Amount;

/// A rule in force.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RuleView {
    /// Its place in the order, from 1; none for the default.
    pub number: Option<usize>,
    /// Its name.
    pub name: Option<String>,
    /// Its condition.
    #[serde(rename = "match")]
    pub condition: Option<String>,
    /// Where it wants its flows.
    pub place: &'static str,
    /// Whose its flows are.
    pub tenant: Option<String>,
    /// What tells the tenant of each of them, where the rule names none: a field of conditions.
    pub tenant_from: Option<&'static str>,
    /// The most entries they have of each NIC.
    pub max_entries: Option<u32>,
    /// The most of them that are put in each NIC in a second.
    pub installs_per_s: Option<u32>,
    /// Flows in TC that it decides about now.
    pub flows: u64,
    /// Those of them in hardware.
    pub in_hardware: u64,
    /// Times it has decided about a flow since it is in force.
    pub decided: u64,
    /// What its flows carry now, per second.
    pub rate: Amount,
    /// What they carried by hardware since it is in force.
    pub hardware: Amount,
    /// What they carried by software.
    pub software: Amount,
}

/// Every rule in order, the default last.
pub fn rules(rules: &Rules, views: &[EngineRule<'_>]) -> Vec<RuleView> {
    let amount = |count: offload_engine::Count| Amount { packets: count.packets, bytes: count.bytes };
    let view = |view: &EngineRule<'_>| {
        let rule = view.rule.map(|(_, rule)| rule);
        let limit = rule.map(|rule| rule.limit()).unwrap_or_default();
        RuleView {
            number: view.rule.map(|(id, _)| usize::from(id.0) + 1),
            name: rule.map(|rule| rule.name().to_owned()),
            condition: rule.map(|rule| rule.condition().source().to_owned()),
            place: rule.map_or(rules.default_place(), |rule| rule.place()).word(),
            tenant: rule.and_then(|rule| rules.tenant(rule.owner().tenant())).map(str::to_owned),
            tenant_from: rule.and_then(|rule| rule.owner().told_by()).map(TenantFrom::word),
            max_entries: limit.entries,
            installs_per_s: limit.installs_per_s,
            flows: view.flows,
            in_hardware: view.in_hardware,
            decided: view.tally.decided,
            rate: amount(view.rate.total()),
            hardware: amount(view.tally.moved.hardware),
            software: amount(view.tally.moved.software),
        }
    };
    views.iter().map(view).collect()
}

/// Rules in rows.
pub fn rule_list(rules: &[RuleView], width: Option<u16>) -> String {
    let head = [
        ("rule", true),
        ("name", false),
        ("place", false),
        ("flows", true),
        ("in hw", true),
        ("decided", true),
        ("rate", true),
        ("hw packets", true),
        ("sw packets", true),
        ("tenant", false),
        ("limits", false),
        ("match", false),
    ];
    let dash = || "-".to_owned();
    let rows = rules.iter().map(|rule| {
        let entries = rule.max_entries.map(|most| format!("{} entries", number(most.into())));
        let installs = rule.installs_per_s.map(|most| format!("{}/s", number(most.into())));
        let each = rule.tenant_from.map(|field| format!("each {field}"));
        let tenant = rule.tenant.clone().or(each).unwrap_or_else(dash);
        let limits: Vec<String> = entries.into_iter().chain(installs).collect();
        vec![
            rule.number.map_or_else(dash, |number| number.to_string()),
            rule.name.clone().unwrap_or_else(|| policies::rules::DEFAULT_NAME.to_owned()),
            rule.place.to_owned(),
            number(rule.flows),
            number(rule.in_hardware),
            number(rule.decided),
            bit_rate(rule.rate.bytes),
            number(rule.hardware.packets),
            number(rule.software.packets),
            tenant,
            if limits.is_empty() { dash() } else { limits.join(", ") },
            rule.condition
                .as_ref()
                .map_or_else(dash, |text| text.split_whitespace().collect::<Vec<_>>().join(" ")),
        ]
    });
    table(&head, width, rows)
}

/// What a test of a condition said.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TestView {
    /// The test.
    pub test: String,
    /// `always`, `sometimes` or `never`.
    pub truth: String,
    /// It was not written but follows from what was.
    pub implied: bool,
    /// What it looked at; none for a constant.
    pub saw: Option<String>,
}

/// What a rule said.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AskedView {
    /// Its place in the order, from 1.
    pub number: usize,
    /// Its name.
    pub name: String,
    /// `always`, `sometimes` or `never`: for how many of the flow's packets its condition holds.
    pub truth: String,
    /// Its tests.
    pub tests: Vec<TestView>,
}

/// How the policy comes to a decision about a flow.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PolicyTest {
    /// The flow, as it was asked for.
    pub flow: String,
    /// The rule that decides, from 1; none for the default.
    pub rule: Option<usize>,
    /// Its name.
    pub name: Option<String>,
    /// Where it wants the flow.
    pub place: &'static str,
    /// Whose the rule says the flow is.
    pub tenant: Option<String>,
    /// The rules that were asked, in order; the last one decides, unless the default does.
    pub asked: Vec<AskedView>,
}

/// A trace as a view.
pub fn test_of(flow: &str, rules: &Rules, trace: &RulesTrace<'_>) -> PolicyTest {
    let place = match trace.verdict {
        Verdict::Hardware(_) => Place::Hardware,
        Verdict::Software(_) => Place::Software,
        Verdict::Auto(_) => Place::Auto,
    };
    let asked = trace.asked.iter().map(|asked| AskedView {
        number: usize::from(asked.rule.0) + 1,
        name: asked.name.to_owned(),
        truth: asked.condition.truth.to_string(),
        tests: asked
            .condition
            .tests
            .iter()
            .map(|test| TestView {
                test: test.text.to_owned(),
                truth: test.truth.to_string(),
                implied: test.implied,
                saw: Some(test.saw.to_string()).filter(|saw| !saw.is_empty()),
            })
            .collect(),
    });
    PolicyTest {
        flow: flow.to_owned(),
        rule: trace.rule.map(|rule| usize::from(rule.0) + 1),
        name: trace.rule.and_then(|rule| rules.rule(rule)).map(|rule| rule.name().to_owned()),
        place: place.word(),
        tenant: trace.tenant.map(str::to_owned),
        asked: asked.collect(),
    }
}

/// A decision and how it came about, for people.
pub fn policy_test(test: &PolicyTest) -> String {
    let mut out = String::new();
    let by = match (test.rule, &test.name) {
        (Some(rule), Some(name)) => format!("rule {rule} {name:?}"),
        _ => "the default, since no rule matches".to_owned(),
    };
    let tenant = test.tenant.as_ref().map_or_else(String::new, |tenant| format!(", for tenant {tenant:?}"));
    let _ = writeln!(out, "place {}{tenant}: {by}", test.place);
    for asked in &test.asked {
        let says = match asked.truth.as_str() {
            "always" => "matches",
            "sometimes" => "holds for some of its packets only, so it does not apply",
            _ => "does not match",
        };
        let _ = writeln!(out, "\nrule {} {:?} {says}", asked.number, asked.name);
        for test in asked.tests.iter().filter(|test| !test.implied || test.truth != Truth::Always.to_string())
        {
            let implied = if test.implied { " (implied)" } else { "" };
            let saw = test.saw.as_ref().map_or_else(String::new, |saw| format!(": {saw}"));
            let _ = writeln!(out, "  {:<9}  {}{implied}{saw}", test.truth, test.test);
        }
    }
    out
}

/// Reads a flow that is described, by Open vSwitch or by a person.
///
/// # Errors
/// What is wrong with it, with its place.
pub fn sketch(flow: &str) -> Result<Sketch, String> {
    if odp::is_likely(flow) {
        return odp::parse(flow).map_err(|error| error.to_string());
    }
    let origin = Origin { file: "--flow", line: 1, column: 1 };
    Sketch::parse(flow).map_err(|error| error.render(flow, origin).trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, assignments_in};

    fn rules_in(text: &str) -> Rules {
        let written = assignments_in(std::path::Path::new("c.toml"), text).unwrap();
        Config::from_file(&[], &written).unwrap().rules
    }

    const POLICY: &str = r#"
[policy]
default = "software"
[[rule]]
name = "health"
match = 'tcp.dst == {8080, 10256} || arp'
place = "software"
[[rule]]
name = "gold"
match = 'ip4.dst == 10.20.0.0/16 && tcp'
place = "hardware"
tenant = "gold"
"#;

    fn tested(flow: &str) -> String {
        let rules = rules_in(POLICY);
        let sketch = sketch(flow).unwrap();
        let mut outports = Vec::new();
        policy_test(&test_of(flow, &rules, &rules.trace(&sketch.subject(&mut outports))))
    }

    #[test]
    fn a_test_says_which_rule_decides_and_shows_every_test_on_the_way() {
        assert_eq!(
            tested("tcp, ip4.dst=10.20.0.0/24"),
            "place hardware, for tenant \"gold\": rule 2 \"gold\"

rule 1 \"health\" holds for some of its packets only, so it does not apply
  sometimes  tcp.dst == {8080, 10256}: tcp.dst is any
  never      arp: eth.type is 0x800

rule 2 \"gold\" matches
  always     ip4.dst == 10.20.0.0/16: ip4.dst is 10.20.0.0/24
  always     tcp
"
        );
        // The example of the manual.
        let manual = include_str!("../../../docs/operating.md");
        let example = format!(
            "$ ovs-offloadctl policy test --flow 'tcp, ip4.dst=10.20.0.0/24'\n{}```",
            tested("tcp, ip4.dst=10.20.0.0/24")
        );
        assert!(manual.contains(&example), "the manual does not show\n{example}");
        let by_ovs = tested("in_port(2),eth_type(0x0800),ipv4(dst=10.9.0.1,proto=17),udp(dst=53)");
        assert!(by_ovs.starts_with("place software: the default, since no rule matches\n"), "{by_ovs}");
        assert!(by_ovs.contains("  never      tcp (implied): ip.proto is 17\n"), "{by_ovs}");
    }

    #[test]
    fn a_description_that_is_wrong_is_shown_with_a_caret() {
        assert_eq!(
            sketch("tcp, tcp.dport=80").unwrap_err(),
            "--flow:1:6: there is no field \"tcp.dport\"\n  1 | tcp, tcp.dport=80\n    |      ^^^^^^^^^ did you mean \"tcp.dst\"?"
        );
        assert!(sketch("in_port(1),frob(2)").unwrap_err().contains("\"frob\" is no key"));
    }

    #[test]
    fn rules_are_listed_with_what_they_decide_about() {
        let rules = rules_in(&format!("{POLICY}max-entries = 64\ninstalls-per-s = 10\n"));
        let mut views: Vec<EngineRule<'_>> = rules
            .iter()
            .map(Some)
            .chain([None])
            .map(|rule| EngineRule {
                rule,
                tally: offload_engine::RuleTally::default(),
                flows: 1_500,
                in_hardware: 2,
                rate: offload_engine::Traffic::default(),
            })
            .collect();
        views[1].tally.decided = 7;
        let text = rule_list(&super::rules(&rules, &views), None);
        let words: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(words.len(), 4);
        assert_eq!(words[2][..6], ["2", "gold", "hardware", "1,500", "2", "7"]);
        assert!(
            text.lines().nth(2).is_some_and(|line| line.contains("gold    64 entries, 10/s  ip4.dst ==")),
            "{text}"
        );
        assert_eq!(words[3][..3], ["-", "(default)", "software"]);
    }
}
