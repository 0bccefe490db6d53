//! The reference page for people, `docs/doctor.md`, written from the table of kinds.

use std::fmt::Write as _;

use super::checks;

const HEAD: &str = include_str!("page_head.md");

/// The page.
pub fn reference_page() -> String {
    let mut out = HEAD.to_owned();
    out.push_str("| complaint | finding | at worst | in the lab | mend |\n|---|---|---|---|---|\n");
    for kind in checks::kinds() {
        let cell = |text: &str| text.replace('|', "\\|");
        let _ = writeln!(
            out,
            "| {}{} | `{}` ({}) | {} | {} | {} |",
            cell(kind.complaint),
            if kind.heard.is_empty() { String::new() } else { format!(" ({})", kind.heard) },
            kind.id,
            kind.stage.word(),
            kind.severity,
            if kind.in_lab { "yes" } else { "" },
            cell(kind.mend),
        );
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
