//! What hardware took of OpenFlow rules that Open vSwitch cannot see (mode shadow), as it is shown, and the text of it.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use offload_engine::{OpenflowRule, OpenflowView, Telling};
use serde::Serialize;

use super::text::{number, table};
use super::views::Amount;

/// Bridges and tables that have series of their own in metrics; the rest is summed up.
const TABLES_MAX: usize = 256;

/// OpenFlow rules of one cookie in one table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OpenflowRuleView {
    /// The bridge, where Open vSwitch tells it: from 4.0 on.
    pub bridge: Option<String>,
    /// The table.
    pub table: u8,
    /// The cookie, with `0x`; `0x0` for none.
    pub cookie: String,
}

impl OpenflowRuleView {
    /// Of a rule.
    pub fn of(rule: &OpenflowRule) -> Self {
        let bridge = Some(&rule.bridge).filter(|name| !name.is_empty()).cloned();
        Self { bridge, table: rule.table, cookie: format!("{:#x}", rule.cookie) }
    }
}

/// The same with what hardware took.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OpenflowSumView {
    /// Which.
    #[serde(flatten)]
    pub rule: OpenflowRuleView,
    /// What hardware took since the daemon started, with what megaflows took that are gone.
    pub hardware: Amount,
}

/// All of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OpenflowListView {
    /// Whether Open vSwitch tells which OpenFlow rules a megaflow is of: `unknown`, `tells` or `unsupported`.
    pub telling: &'static str,
    /// Why it does not.
    pub why: Option<String>,
    /// By bridge, table and cookie.
    pub rules: Vec<OpenflowSumView>,
    /// What hardware took and is not known of which rule: not yet, or no more.
    pub untold: Amount,
    /// What is of more rules than are summed apart.
    pub left_out: Amount,
}

/// The same for metrics, without cookies.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OpenflowTables {
    /// By bridge and table.
    pub tables: Vec<(String, String, Amount)>,
    /// Of no table that is known.
    pub untold: Amount,
}

fn amount(count: offload_engine::Count) -> Amount {
    Amount { packets: count.packets, bytes: count.bytes }
}

/// What the engine has.
pub fn list(view: &OpenflowView<'_>) -> OpenflowListView {
    let (telling, why) = match view.telling {
        Telling::Unknown => ("unknown", None),
        Telling::Tells => ("tells", None),
        Telling::Unsupported(why) => ("unsupported", Some(why.clone())),
    };
    let mut sums: Vec<_> = view.sums.iter().collect();
    sums.sort_by(|a, b| a.rule.cmp(&b.rule));
    let row = |sum: &offload_engine::openflow::Sum| OpenflowSumView {
        rule: OpenflowRuleView::of(&sum.rule),
        hardware: amount(sum.hardware),
    };
    OpenflowListView {
        telling,
        why,
        rules: sums.into_iter().map(row).collect(),
        untold: amount(view.untold),
        left_out: amount(view.left_out),
    }
}

/// The same by bridge and table.
pub fn tables(view: &OpenflowView<'_>) -> OpenflowTables {
    let mut sums: BTreeMap<(&str, u8), Amount> = BTreeMap::new();
    for sum in view.sums {
        let of = sums.entry((&sum.rule.bridge, sum.rule.table)).or_default();
        add(of, amount(sum.hardware));
    }
    let mut tables: Vec<(String, String, Amount)> = Vec::new();
    let mut rest = amount(view.left_out);
    for ((bridge, table), sum) in sums {
        match tables.len() < TABLES_MAX {
            true => tables.push((bridge.to_owned(), table.to_string(), sum)),
            false => add(&mut rest, sum),
        }
    }
    if rest != Amount::default() {
        tables.push(("other".to_owned(), "other".to_owned(), rest));
    }
    OpenflowTables { tables, untold: amount(view.untold) }
}

fn add(sum: &mut Amount, more: Amount) {
    sum.packets = sum.packets.saturating_add(more.packets);
    sum.bytes = sum.bytes.saturating_add(more.bytes);
}

/// Rules in rows.
pub fn openflow_list(view: &OpenflowListView, width: Option<u16>) -> String {
    let head =
        [("bridge", false), ("table", true), ("cookie", false), ("hw packets", true), ("hw bytes", true)];
    let rows = view.rules.iter().map(|sum| {
        vec![
            sum.rule.bridge.clone().unwrap_or_else(|| "-".to_owned()),
            sum.rule.table.to_string(),
            sum.rule.cookie.clone(),
            number(sum.hardware.packets),
            number(sum.hardware.bytes),
        ]
    });
    let mut out = table(&head, width, rows);
    for (what, amount) in [
        ("not known of which rule", view.untold),
        ("of rules beyond those that are kept apart", view.left_out),
    ] {
        if amount != Amount::default() {
            let _ =
                writeln!(out, "{} packets, {} bytes {what}", number(amount.packets), number(amount.bytes));
        }
    }
    if let Some(why) = &view.why {
        let _ = writeln!(out, "{why}");
    }
    out
}

/// `br0 table 3 cookie 0x7, …`: the first few.
pub fn rules_line(rules: &[OpenflowRuleView]) -> String {
    const SHOWN: usize = 8;
    let shown = rules.iter().take(SHOWN);
    let shown: Vec<String> = shown
        .map(|rule| {
            let bridge = rule.bridge.as_ref().map(|name| format!("{name} ")).unwrap_or_default();
            format!("{bridge}table {} cookie {}", rule.table, rule.cookie)
        })
        .collect();
    let more = rules.len().saturating_sub(SHOWN);
    let more = if more > 0 { format!(", and {more} more") } else { String::new() };
    format!("{}{more}", shown.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use offload_engine::Count;
    use offload_engine::openflow::Sum;

    fn sum(bridge: &str, table: u8, cookie: u64, packets: u64) -> Sum {
        let rule = OpenflowRule { bridge: bridge.into(), table, cookie };
        Sum { rule, hardware: Count::new(packets, packets * 100) }
    }

    #[test]
    fn sums_are_shown_by_bridge_table_and_cookie_with_what_is_of_none() {
        let sums = [sum("br0", 1, 0, 1_200), sum("br0", 0, 0xab, 1_200)];
        let telling = Telling::Unsupported("it is too old".into());
        let view = OpenflowView {
            telling: &telling,
            sums: &sums,
            untold: Count::new(3, 300),
            left_out: Count::default(),
        };
        let expected = "\
bridge  table  cookie  hw packets  hw bytes
br0         0  0xab         1,200   120,000
br0         1  0x0          1,200   120,000
3 packets, 300 bytes not known of which rule
it is too old
";
        assert_eq!(openflow_list(&list(&view), None), expected);
        let json = serde_json::to_value(list(&view)).unwrap();
        assert_eq!(json["rules"][0]["cookie"], "0xab");
        assert_eq!(json["rules"][0]["hardware"]["packets"], 1_200);
    }

    #[test]
    fn metrics_are_by_table_and_bounded() {
        let sums: Vec<Sum> =
            (0..600).map(|n| sum(&format!("br{}", n / 200), (n % 200) as u8, n, 1)).collect();
        let telling = Telling::Tells;
        let view = OpenflowView {
            telling: &telling,
            sums: &sums,
            untold: Count::default(),
            left_out: Count::default(),
        };
        let tables = tables(&view);
        assert_eq!(tables.tables.len(), TABLES_MAX + 1);
        assert_eq!(tables.tables.iter().map(|(.., sum)| sum.packets).sum::<u64>(), 600);
        assert_eq!(tables.tables.last().unwrap().0, "other");
    }

    #[test]
    fn many_rules_of_a_flow_are_counted_and_not_listed() {
        let rule = OpenflowRuleView { bridge: Some("br0".into()), table: 1, cookie: "0x2".into() };
        assert_eq!(rules_line(&[OpenflowRuleView { bridge: None, ..rule.clone() }]), "table 1 cookie 0x2");
        assert_eq!(rules_line(std::slice::from_ref(&rule)), "br0 table 1 cookie 0x2");
        assert!(rules_line(&vec![rule; 20]).ends_with(", and 12 more"));
    }
}
