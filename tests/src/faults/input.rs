//! Bad input: one clear sentence, exit code 2, nothing changed.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use lab_tests::harness::{Daemon, Demo, Failure, Lab, Outcome, Ovs, TcWatch, ensure, run, wait_for};

use super::scene::{EAGER, Flows, in_hardware};

/// The longest a refusal may take.
const REFUSED_WITHIN: Duration = Duration::from_secs(30);
/// Nobody: a user without any capability.
const NOBODY: &str = "65534";

/// The database, the files of the run directory, devices and qdiscs: what a refused start must leave as it was.
#[derive(Debug, PartialEq, Eq)]
struct Surroundings {
    database: String,
    files: BTreeMap<String, u64>,
    links: String,
    qdiscs: String,
}

impl Surroundings {
    fn of(ovs: &Ovs) -> Outcome<Self> {
        let mut files = BTreeMap::new();
        for file in std::fs::read_dir(ovs.rundir())? {
            let file = file?;
            let name = file.file_name().to_string_lossy().into_owned();
            // Open vSwitch writes its logs and its database's file by itself.
            if !name.ends_with(".log") && name != "conf.db" {
                files.insert(name, file.metadata()?.len());
            }
        }
        Ok(Self {
            database: ovs.vsctl(&[
                "--columns=other_config,external_ids",
                "list",
                "Open_vSwitch",
                "--",
                "--columns=name,other_config,external_ids,ports",
                "list",
                "Bridge",
                "--",
                "--columns=name,options,external_ids,other_config",
                "list",
                "Interface",
            ])?,
            files,
            links: run("ip", &["-oneline", "link", "show"])?,
            qdiscs: run("tc", &["qdisc", "show"])?,
        })
    }
}

/// An Open vSwitch with a bridge and a port, where nothing happens by itself.
fn quiet(lab: &Lab, settings: &[&str]) -> Outcome<Ovs> {
    let ovs = Ovs::start(lab, settings)?;
    ovs.vsctl(&[
        "add-br",
        "br0",
        "--",
        "add-port",
        "br0",
        "in0",
        "--",
        "set",
        "interface",
        "in0",
        "type=internal",
    ])?;
    Ok(ovs)
}

/// The settings that mode steer wants.
const STEERABLE: &[&str] = &["hw-offload=true", "tc-policy=skip_hw"];

/// Starts the daemon so that it is refused: the sentence.
fn refused(command: &mut Command) -> Outcome<String> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let ended = wait_for("the start is refused", REFUSED_WITHIN, || Ok(child.try_wait()?));
    if let Err(failure) = ended {
        let _ = child.kill();
        let output = child.wait_with_output()?;
        return Err(Failure::new(format!("{failure}: {}", String::from_utf8_lossy(&output.stderr))));
    }
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.code() == Some(2), "it ended with {} and not 2: {said}", output.status);
    ensure!(output.stdout.is_empty(), "it printed {:?}", String::from_utf8_lossy(&output.stdout));
    let sentences: Vec<&str> = said.lines().filter(|line| line.starts_with("ovs-offloadd: ")).collect();
    ensure!(sentences.len() == 1, "it is to say one sentence and said: {said}");
    Ok(sentences[0].to_owned())
}

fn daemon(ovs: &Ovs, config: &Path) -> Command {
    let mut command = ovs.command("ovs-offloadd");
    command.arg("--config").arg(config);
    command
}

fn config(lab: &Lab, text: &str) -> Outcome<std::path::PathBuf> {
    let path = lab.dir().join("other.toml");
    std::fs::write(&path, text)?;
    Ok(path)
}

/// Starts it so that it is refused with `words` in its sentence, and looks whether anything changed.
fn refused_without_a_change(ovs: &Ovs, command: &mut Command, words: &[&str]) -> Outcome {
    let before = Surroundings::of(ovs)?;
    let witness = TcWatch::start()?;
    let sentence = refused(command)?;
    for word in words {
        ensure!(sentence.contains(word), "`{sentence}` does not say `{word}`");
    }
    let after = Surroundings::of(ovs)?;
    ensure!(before == after, "something changed: {before:?} became {after:?}");
    let changes = witness.changes(|_| true)?;
    ensure!(changes.is_empty(), "TC was changed: {changes:?}");
    Ok(())
}

pub(super) fn an_unreadable_configuration_is_refused(lab: &mut Lab) -> Outcome {
    let ovs = quiet(lab, STEERABLE)?;
    refused_without_a_change(
        &ovs,
        &mut daemon(&ovs, Path::new("/nonexistent/offloadd.toml")),
        &["/nonexistent/offloadd.toml", "No such file"],
    )?;
    let directory = lab.dir().to_path_buf();
    refused_without_a_change(&ovs, &mut daemon(&ovs, &directory), &["cannot read the configuration"])?;
    let wrong = config(lab, "mode = \"steer\"\n[policy]\nmin-rat = \"1 Mbit/s\"\n")?;
    refused_without_a_change(&ovs, &mut daemon(&ovs, &wrong), &["other.toml:3:1", "min-rat"])
}

pub(super) fn a_wrong_database_socket_is_refused(lab: &mut Lab) -> Outcome {
    let ovs = quiet(lab, STEERABLE)?;
    let wrong = config(lab, "mode = \"steer\"\n[ovs]\ndatabase = \"unix:/nonexistent/db.sock\"\n")?;
    refused_without_a_change(
        &ovs,
        &mut daemon(&ovs, &wrong),
        &["cannot reach OVSDB at unix:/nonexistent/db.sock", "nothing changed"],
    )?;
    // A socket that is there and is not a database's.
    let other =
        ovs.rundir().join(format!("ovs-vswitchd.{}.ctl", ovs.pid(lab_tests::harness::OvsDaemon::Vswitchd)?));
    let wrong = config(lab, &format!("mode = \"steer\"\n[ovs]\ndatabase = \"unix:{}\"\n", other.display()))?;
    refused_without_a_change(&ovs, &mut daemon(&ovs, &wrong), &["cannot reach OVSDB", "nothing changed"])
}

pub(super) fn a_second_daemon_is_refused_and_the_first_goes_on(lab: &mut Lab) -> Outcome {
    let ovs = Ovs::for_steering(lab)?;
    let demo = Demo::up(&ovs)?;
    let first = Daemon::start(lab, &ovs, EAGER)?;
    let traffic = Flows::new(1).start(&demo, 200)?;
    in_hardware(&first, &ovs, 1)?;
    let same = config(lab, EAGER)?;
    let sentence = refused(&mut daemon(&ovs, &same))?;
    let pid = format!("pid {}", first.pid());
    ensure!(
        sentence.contains("another ovs-offloadd runs already") && sentence.contains(&pid),
        "`{sentence}` does not name the one that runs, {pid}"
    );
    in_hardware(&first, &ovs, 1)?;
    let (sent, lost) = traffic.stop()?;
    ensure!(lost == 0, "of {sent} packets {lost} were lost");
    Ok(())
}

pub(super) fn a_user_without_the_capability_is_refused(lab: &mut Lab) -> Outcome {
    let ovs = quiet(lab, STEERABLE)?;
    let good = config(lab, EAGER)?;
    let mut without = ovs.command("setpriv");
    without.args(["--bounding-set=-net_admin", "--no-new-privs", "ovs-offloadd", "--config"]).arg(&good);
    refused_without_a_change(&ovs, &mut without, &["CAP_NET_ADMIN", "nothing changed"])?;
    let mut nobody = ovs.command("setpriv");
    nobody
        .args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups", "ovs-offloadd", "--config"])
        .arg(&good);
    refused_without_a_change(&ovs, &mut nobody, &["CAP_NET_ADMIN", "nothing changed"])
}

pub(super) fn an_open_vswitch_without_hw_offload_is_not_steered(lab: &mut Lab) -> Outcome {
    let ovs = quiet(lab, &["tc-policy=skip_hw"])?;
    let good = config(lab, EAGER)?;
    let words = ["other_config:hw-offload=true", "nothing changed"];
    refused_without_a_change(&ovs, &mut daemon(&ovs, &good), &words)?;
    ovs.vsctl(&["set", "Open_vSwitch", ".", "other_config:hw-offload=true", "other_config:tc-policy=none"])?;
    let words = ["other_config:tc-policy=skip_hw (it is none)", "nothing changed"];
    refused_without_a_change(&ovs, &mut daemon(&ovs, &good), &words)
}
