//! Running other programs: quietly into a log, or with their output passed through.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::problem::{Doing, Problem};

/// The command as a shell would take it, for messages.
pub(crate) fn shown(command: &Command) -> String {
    let mut line = command.get_program().to_string_lossy().into_owned();
    for arg in command.get_args() {
        line.push(' ');
        line.push_str(&quoted(&arg.to_string_lossy()));
    }
    line
}

/// `word` quoted for a POSIX shell.
pub(crate) fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./=:,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// Runs `command` with its output in the file `log`; on failure the end of that file becomes part of the message.
pub(crate) fn run_logged(command: &mut Command, log: &Path) -> Result<(), Problem> {
    let out = File::create(log).doing(|| format!("write {}", log.display()))?;
    let err = out.try_clone().doing(|| format!("write {}", log.display()))?;
    let status = command
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(err)
        .status()
        .doing(|| format!("start `{}`", shown(command)))?;
    if status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&std::fs::read(log).unwrap_or_default()).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    let tail = lines[lines.len().saturating_sub(15)..].join("\n      ");
    Err(Problem::cannot(format!(
        "`{}` ended with {status}; the end of its output ({}):\n      {tail}",
        shown(command),
        log.display()
    )))
}

/// Runs `command` with its output passed through; a failure is the project's, not the machine's.
pub(crate) fn run_shown(command: &mut Command) -> Result<(), Problem> {
    let status = command.stdin(Stdio::null()).status().doing(|| format!("start `{}`", shown(command)))?;
    if status.success() {
        Ok(())
    } else {
        Err(Problem::Failed(format!("`{}` ended with {status}.", shown(command))))
    }
}

/// What `command` prints on standard output, or nothing when it cannot be run or fails.
pub(crate) fn output_of(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quoted_word_survives_a_shell() {
        for word in ["plain", "", "two words", "it's", "a$b`c`", "line\nbreak", "*"] {
            let script = format!("printf %s {}", quoted(word));
            assert_eq!(output_of(Command::new("sh").args(["-c", &script])).as_deref(), Some(word));
        }
    }
}
