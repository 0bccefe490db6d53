//! The reference page for people, `docs/doctor.md`, written from the table of kinds.

use std::fmt::Write as _;

use super::checks;
use super::complaints::{COMPLAINTS, Complaint, ELSEWHERE, PROBE};

const HEAD: &str = include_str!("page_head.md");

const TOLD: &str = "
## What was told in public

Issues and pull requests on GitHub of ports, representors, kernels and settings, as the tests of the lab bring them about:

| complaint | finding | shown by |
|---|---|---|
";

/// The page.
pub fn reference_page() -> String {
    let mut out = HEAD.to_owned();
    out.push_str("| complaint | finding | at worst | in the lab | mend |\n|---|---|---|---|---|\n");
    let cell = |text: &str| text.replace('|', "\\|");
    for kind in checks::kinds() {
        let told = COMPLAINTS.iter().filter(|complaint| complaint.finding == kind.id);
        let told = told.map(|complaint| complaint.heard).collect::<Vec<_>>().join(", ");
        let _ = writeln!(
            out,
            "| {}{} | `{}` ({}) | {} | {} | {} |",
            cell(kind.complaint),
            if told.is_empty() { String::new() } else { format!(" ({told})") },
            kind.id,
            kind.stage.word(),
            kind.severity,
            if kind.in_lab { "yes" } else { "" },
            cell(kind.mend),
        );
    }
    out.push_str(TOLD);
    for Complaint { heard, says, finding, shown_by } in COMPLAINTS {
        let finding =
            if *finding == PROBE { "what `--probe` tells".to_owned() } else { format!("`{finding}`") };
        let _ = writeln!(out, "| {heard}: {} | {finding} | `{shown_by}` |", cell(says));
    }
    out.push_str("\nOthers are not doctor's to find:\n\n");
    for (heard, why) in ELSEWHERE {
        let _ = writeln!(out, "- {heard}: {why}");
    }
    out
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_page_is_what_the_code_finds() {
        crate::golden::compare("docs/doctor.md", &super::reference_page());
    }
}
