//! What doctor says, and waiting for it to say something.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

use lab_tests::ensure;
use lab_tests::harness::{Failure, Outcome, Ovs, output, wait_for};
use ovs_offloadd::doctor::complaints::COMPLAINTS;
use serde_json::Value;

/// The longest Open vSwitch and the kernel of an emulated guest may take until a change shows.
const SHOWS_WITHIN: Duration = Duration::from_secs(60);

/// What doctor found: the ids, each with what it is about.
pub(super) type Found = BTreeSet<(String, String)>;

/// What doctor says at one moment.
#[derive(Debug)]
pub(super) struct Says(Value);

impl Says {
    /// Asks it.
    pub(super) fn now(ovs: &Ovs, arguments: &[&str]) -> Outcome<Self> {
        let mut command = ovs.command("ovs-offloadctl");
        command.args(["doctor", "--output", "json"]).args(arguments);
        Self::by(&mut command)
    }

    /// What `command`, which runs it, prints. Its exit status has to be that of its worst finding.
    pub(super) fn by(command: &mut Command) -> Outcome<Self> {
        let shown = format!("{command:?}");
        let ended = command.output().map_err(|error| Failure::new(format!("{shown}: {error}")))?;
        let printed = String::from_utf8_lossy(&ended.stdout);
        let said = String::from_utf8_lossy(&ended.stderr);
        let says: Value = serde_json::from_str(&printed)
            .map_err(|error| Failure::new(format!("{shown}: {error}: {printed} {said}")))?;
        let expected = match (says["errors"].as_u64(), says["warnings"].as_u64()) {
            (Some(0), Some(0)) => 0,
            (Some(0), _) => 3,
            _ => 1,
        };
        ensure!(ended.status.code() == Some(expected), "{shown} ended with {}: {printed}", ended.status);
        Ok(Self(says))
    }

    fn findings(&self) -> impl Iterator<Item = &Value> {
        self.0["findings"].as_array().into_iter().flatten()
    }

    /// Its findings.
    pub(super) fn found(&self) -> Found {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let names = |finding: &Value| {
            let all = finding["names"].as_array().map(|names| names.iter().map(text).collect::<Vec<_>>());
            all.unwrap_or_default().join(" ")
        };
        self.findings().map(|finding| (text(&finding["id"]), names(finding))).collect()
    }

    /// The field of the finding `id`, of the first one if there are several.
    pub(super) fn field(&self, id: &str, field: &str) -> Outcome<String> {
        let finding = self.findings().find(|finding| finding["id"] == id);
        let text = finding.and_then(|finding| finding[field].as_str());
        text.map(str::to_owned).ok_or_else(|| Failure::new(format!("no {field} of {id} in {}", self.0)))
    }

    /// How many errors and warnings there are.
    pub(super) fn counts(&self) -> (Option<u64>, Option<u64>) {
        (self.0["errors"].as_u64(), self.0["warnings"].as_u64())
    }
}

/// The doctor of one Open vSwitch, and what is true of the lab before anything is done to it.
#[derive(Debug)]
pub(super) struct Doctor<'a> {
    ovs: &'a Ovs,
    before: Found,
}

impl<'a> Doctor<'a> {
    /// Waits until nothing is found wrong with a topology: no error, and no warning but what is true of the guest's kernel.
    pub(super) fn of_healthy(ovs: &'a Ovs) -> Outcome<Self> {
        let before = wait_for("a healthy topology is found to be one", SHOWS_WITHIN, || {
            let says = Says::now(ovs, &[])?;
            let found = says.found();
            let skb_ext = found.iter().filter(|(id, _)| id == "kernel-no-skb-ext").count() as u64;
            ensure!(says.counts() == (Some(0), Some(skb_ext)), "it is said to have {found:?}");
            Ok(Some(found))
        })?;
        Ok(Self { ovs, before })
    }

    /// Waits until these are found, each an id with what it is about, and nothing else that was not there before.
    pub(super) fn names(&self, expected: &[(&str, &str)]) -> Outcome<Says> {
        self.names_with(&[], expected)
    }

    /// The same, with arguments.
    pub(super) fn names_with(&self, arguments: &[&str], expected: &[(&str, &str)]) -> Outcome<Says> {
        self.names_after(|| Ok(()), arguments, expected)
    }

    /// The same, with what is done before each look.
    pub(super) fn names_after(
        &self,
        first: impl Fn() -> Outcome,
        arguments: &[&str],
        expected: &[(&str, &str)],
    ) -> Outcome<Says> {
        let expected: Found =
            expected.iter().map(|(id, names)| ((*id).to_owned(), (*names).to_owned())).collect();
        wait_for(&format!("doctor names {expected:?}"), SHOWS_WITHIN, || {
            first()?;
            let says = Says::now(self.ovs, arguments)?;
            let new: Found = says.found().difference(&self.before).cloned().collect();
            match new == expected {
                true => Ok(Some(says)),
                false => Err(Failure::new(format!("it names {new:?}"))),
            }
        })
    }

    /// Waits until nothing is found that was not there before.
    pub(super) fn is_content(&self) -> Outcome {
        self.names(&[]).map(drop)
    }

    /// Does `wrong`, waits until doctor names just that, runs its command, and waits until it is content again.
    /// What it said then.
    pub(super) fn mends(&self, wrong: &str, id: &str, names: &str) -> Outcome<Says> {
        shell(self.ovs, wrong)?;
        let says = self.names(&[(id, names)])?;
        shell(self.ovs, &says.field(id, "command")?)?;
        self.is_content()?;
        Ok(says)
    }
}

/// Sees that doctor names the cause of what was told in public.
pub(super) fn shown(heard: &str, says: &Says) -> Outcome {
    let complaint = COMPLAINTS.iter().find(|complaint| complaint.heard == heard);
    let complaint = complaint.ok_or_else(|| Failure::new(format!("{heard} is not in the table")))?;
    let named = says.found().iter().any(|(id, _)| *id == complaint.finding);
    ensure!(named, "of {heard} doctor does not say {}: {:?}", complaint.finding, says.found());
    Ok(())
}

/// Runs a line of shell beside this Open vSwitch.
pub(super) fn shell(ovs: &Ovs, line: &str) -> Outcome {
    output(ovs.command("sh").args(["-c", line])).map(drop)
}
