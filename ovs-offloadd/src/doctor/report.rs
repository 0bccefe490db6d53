//! All findings together, as text and as JSON.

use std::fmt::Write as _;

use serde::Serialize;

use super::checks;
use super::{Facts, Finding, Severity, Stage};

/// What was found, from firmware to flow.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Findings that are errors.
    pub errors: u64,
    /// Findings that are warnings.
    pub warnings: u64,
    /// Findings that are notes.
    pub notes: u64,
    /// What was looked at, stage by stage.
    pub looked_at: Vec<LookedAt>,
    /// All findings, stage by stage, the worst of each first.
    pub findings: Vec<Finding>,
}

/// What was looked at in a stage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LookedAt {
    /// The stage.
    pub stage: Stage,
    /// What was there, in a few words.
    pub what: String,
}

/// Exit status for findings that are warnings at worst; 2 is wrong usage.
const WARNINGS: u8 = 3;

impl Report {
    pub(super) fn new(facts: &Facts, findings: Vec<Finding>) -> Self {
        let count = |severity| findings.iter().filter(|finding| finding.severity == severity).count() as u64;
        let looked_at =
            Stage::ALL.iter().map(|stage| LookedAt { stage: *stage, what: looked_at(*stage, facts) });
        Self {
            errors: count(Severity::Error),
            warnings: count(Severity::Warning),
            notes: count(Severity::Note),
            looked_at: looked_at.collect(),
            findings,
        }
    }

    /// 1 with errors, 3 with warnings and no errors, else 0.
    pub const fn exit_status(&self) -> u8 {
        match (self.errors, self.warnings) {
            (0, 0) => 0,
            (0, _) => WARNINGS,
            _ => 1,
        }
    }

    /// For people, in lines of at most `width` columns where that is given.
    pub fn text(&self, width: Option<u16>) -> String {
        let mut out = String::new();
        for LookedAt { stage, what } in &self.looked_at {
            let _ = writeln!(out, "{:<9}{what}", stage.word());
            for finding in self.findings.iter().filter(|finding| finding.stage == *stage) {
                let head = format!("  {:<7}  ", finding.severity);
                fold(&mut out, &head, &format!("{}: {}", finding.kind.id, finding.what), width);
                fold(&mut out, "           why   ", finding.why, width);
                fold(&mut out, "           mend  ", finding.mend, width);
                if let Some(command) = &finding.command {
                    // Whole, to be copied.
                    let _ = writeln!(out, "           run   {command}");
                }
            }
        }
        out.push_str(&self.sum());
        out
    }

    fn sum(&self) -> String {
        let several = |count: u64, word: &str| format!("{count} {word}{}", if count == 1 { "" } else { "s" });
        let counts =
            [several(self.errors, "error"), several(self.warnings, "warning"), several(self.notes, "note")];
        let verdict = match self.exit_status() {
            0 => "nothing found that keeps flows out of hardware",
            WARNINGS => "some flows may stay out of hardware",
            _ => "flows stay out of hardware, or packets go astray",
        };
        format!("{}: {verdict}\n", counts.join(", "))
    }
}

/// Writes words after a head, and on further lines under the first word.
fn fold(out: &mut String, head: &str, words: &str, width: Option<u16>) {
    let width = width.map_or(usize::MAX, |width| usize::from(width).max(head.len() + 20));
    let mut line = head.to_owned();
    for word in words.split_whitespace() {
        let begun = line.len() > head.len();
        if begun && line.chars().count() + 1 + word.chars().count() > width {
            let _ = writeln!(out, "{}", line.trim_end());
            line = " ".repeat(head.len());
        } else if begun {
            line.push(' ');
        }
        line.push_str(word);
    }
    let _ = writeln!(out, "{}", line.trim_end());
}

fn looked_at(stage: Stage, facts: &Facts) -> String {
    const UNKNOWN: &str = "cannot be looked at";
    match stage {
        Stage::Nic => match &facts.nics {
            Ok(nics) if nics.is_empty() => "none with an eswitch".to_owned(),
            Ok(nics) => {
                let one = |nic: &super::Nic| {
                    format!(
                        "{} ({}) {}",
                        nic.handle,
                        nic.driver,
                        nic.mode.as_deref().unwrap_or("in an unknown mode")
                    )
                };
                listed(nics.iter().map(one))
            }
            Err(_) => UNKNOWN.to_owned(),
        },
        Stage::Kernel => facts.kernel.release.clone(),
        Stage::Ports => {
            if facts.links.is_err() {
                return UNKNOWN.to_owned();
            }
            let count = |role| facts.of_role(role).count();
            let on_bridge = facts
                .all_links()
                .filter(|(_, link)| link.role.is_some() && facts.interface_of(link).is_some())
                .count();
            format!(
                "uplinks: {}, representors: {}, on bridges: {on_bridge}",
                count(super::Role::Uplink),
                count(super::Role::Representor)
            )
        }
        Stage::Ovs => match &facts.ovsdb {
            Ok(ovs) => format!(
                "Open vSwitch {}, hw-offload={}, tc-policy={}",
                ovs.version.as_deref().unwrap_or("of unknown version"),
                ovs.hw_offload,
                ovs.tc_policy.as_str()
            ),
            Err(_) => UNKNOWN.to_owned(),
        },
        Stage::Tunnels => {
            format!(
                "{}",
                facts.interfaces().filter(|interface| checks::tunnels::is_tunnel(&interface.kind)).count()
            )
        }
        Stage::Tc => {
            let filters = facts.filters.values().flatten().map(Vec::len).sum::<usize>();
            format!("filters: {filters} at {} ports", facts.filters.len())
        }
        Stage::Daemon => {
            let state = if facts.daemon_runs { "runs" } else { "does not run" };
            match &facts.mode {
                Ok(mode) => format!("ovs-offloadd {state}, mode {}", mode_word(*mode)),
                Err(_) => format!("ovs-offloadd {state}"),
            }
        }
    }
}

const fn mode_word(mode: crate::config::ModeSetting) -> &'static str {
    match mode {
        crate::config::ModeSetting::Auto => "auto",
        crate::config::ModeSetting::Observe => "observe",
        crate::config::ModeSetting::Steer => "steer",
        crate::config::ModeSetting::Shadow => "shadow",
    }
}

/// A few of them, and how many more there are.
fn listed(all: impl ExactSizeIterator<Item = String>) -> String {
    const SHOWN: usize = 4;
    let more = all.len().saturating_sub(SHOWN);
    let shown = all.take(SHOWN).collect::<Vec<_>>().join(", ");
    if more == 0 { shown } else { format!("{shown} and {more} more") }
}

#[cfg(test)]
mod tests {
    use crate::doctor::facts::sample;
    use crate::doctor::judge;

    #[test]
    fn a_healthy_host_is_seven_lines_and_status_0() {
        let report = judge(&sample::healthy());
        assert_eq!(report.exit_status(), 0);
        assert_eq!(
            report.text(None),
            "\
nic      pci/0000:03:00.0 (mlx5_core) switchdev
kernel   6.12.0
ports    uplinks: 1, representors: 2, on bridges: 3
ovs      Open vSwitch 3.5.0, hw-offload=true, tc-policy=skip_hw
tunnels  0
tc       filters: 2 at 2 ports
daemon   ovs-offloadd does not run, mode auto
0 errors, 0 warnings, 0 notes: nothing found that keeps flows out of hardware
"
        );
    }

    #[test]
    fn the_worst_finding_decides_the_status_and_comes_first_in_its_stage() {
        let mut facts = sample::healthy();
        facts.interface_mut("eth0_1").policing_kbps = 10;
        let report = judge(&facts);
        assert_eq!((report.exit_status(), report.warnings), (3, 1));
        facts.ovs_mut().hw_offload = false;
        facts.link_mut(sample::VF0).up = false;
        let report = judge(&facts);
        assert_eq!(report.exit_status(), 1);
        let ids: Vec<&str> = report.findings.iter().map(|finding| finding.kind.id).collect();
        assert_eq!(ids, ["representor-down", "hw-offload-off", "hw-offload-still-on", "ingress-policing"]);
    }

    #[test]
    fn a_finding_is_told_with_why_how_and_the_command_within_the_width() {
        let mut facts = sample::healthy();
        facts.link_mut(sample::VF0).up = false;
        let text = judge(&facts).text(Some(72));
        let found: Vec<&str> =
            text.lines().skip_while(|line| !line.contains("representor-down")).take(8).collect();
        assert_eq!(found[0], "  error    representor-down: representor eth0_0 on bridge br0 is down");
        assert_eq!(found[1], "           why   while the representor is down the VF has no link, and");
        assert_eq!(found[2], "                 packets that miss the hardware are lost");
        assert!(text.contains("           run   ip link set dev eth0_0 up\n"), "{text}");
        let of_findings = || text.lines().filter(|line| line.starts_with("  "));
        assert!(of_findings().all(|line| line.len() <= 72), "{text}");
    }

    #[test]
    fn json_has_ids_and_names() {
        let mut facts = sample::healthy();
        facts.link_mut(sample::VF0).up = false;
        let json = serde_json::to_value(judge(&facts)).unwrap();
        let finding = &json["findings"][0];
        assert_eq!(
            (&finding["id"], &finding["severity"], &finding["stage"], &finding["names"][0]),
            (&"representor-down".into(), &"error".into(), &"ports".into(), &"eth0_0".into())
        );
        assert_eq!(json["errors"], 1);
        assert_eq!(json["looked_at"][1]["what"], "6.12.0");
    }
}
