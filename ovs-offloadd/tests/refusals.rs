//! What cannot work is refused at the start: one clear sentence, exit code 2, nothing changed.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

struct Rundir {
    directory: tempfile::TempDir,
}

impl Rundir {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn config(&self, text: &str) -> PathBuf {
        let path = self.path().join("c.toml");
        std::fs::write(&path, format!("{text}\n[metrics]\nlisten = \"off\"\n")).unwrap();
        path
    }

    fn files(&self) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(self.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    fn daemon(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ovs-offloadd"));
        command.args(arguments).env("OVS_RUNDIR", self.path()).stdin(Stdio::null());
        command
    }

    fn ctl(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_ovs-offloadctl"))
            .args(arguments)
            .env("OVS_RUNDIR", self.path())
            .output()
            .unwrap()
    }
}

fn sentence(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn refused(output: &Output) -> String {
    let text = sentence(output);
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(output.stdout.is_empty());
    text
}

#[test]
fn a_wrong_configuration_is_refused_with_its_place() {
    let rundir = Rundir::new();
    let config = rundir.config("[polcy]");
    let before = rundir.files();
    for arguments in [&["--check"][..], &[]] {
        let output = rundir.daemon(&["--config", config.to_str().unwrap()]).args(arguments).output().unwrap();
        let text = refused(&output);
        assert!(text.starts_with("ovs-offloadd: "), "{text}");
        assert!(text.ends_with("c.toml:1:2: unknown key polcy; did you mean policy?\n"), "{text}");
    }
    assert_eq!(rundir.files(), before);
}

#[test]
fn an_unreadable_configuration_is_refused() {
    let rundir = Rundir::new();
    let output = rundir.daemon(&["--config", "/nonexistent/c.toml"]).output().unwrap();
    assert_eq!(
        refused(&output),
        "ovs-offloadd: /nonexistent/c.toml: cannot read the configuration: No such file or directory (os error 2)\n"
    );
    assert!(rundir.files().is_empty());
}

#[test]
fn a_good_configuration_is_ok() {
    let rundir = Rundir::new();
    let config = rundir.config("mode = \"observe\"");
    let output = rundir.daemon(&["--check", "--config", config.to_str().unwrap()]).output().unwrap();
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(0), b"ok\n".as_slice()));
}

#[test]
fn a_wrong_database_socket_is_refused_and_leaves_nothing_behind() {
    let rundir = Rundir::new();
    let config = rundir.config("mode = \"observe\"\n[ovs]\ndatabase = \"unix:/nonexistent/db.sock\"");
    let before = rundir.files();
    let text = refused(&rundir.daemon(&["--config", config.to_str().unwrap()]).output().unwrap());
    assert!(text.contains("ovs-offloadd: cannot reach OVSDB at unix:/nonexistent/db.sock: "), "{text}");
    assert_eq!(rundir.files(), before);
}

#[test]
fn without_the_capability_steering_is_refused() {
    let rundir = Rundir::new();
    let config = rundir.config("mode = \"steer\"");
    let before = rundir.files();
    // setpriv is in util-linux, which every Debian has. Who is not root lacks the capability already.
    let mut command = Command::new("setpriv");
    if rustix::process::geteuid().is_root() {
        command.arg("--bounding-set=-net_admin");
    }
    let output = command
        .args(["--no-new-privs", env!("CARGO_BIN_EXE_ovs-offloadd"), "--config", config.to_str().unwrap()])
        .env("OVS_RUNDIR", rundir.path())
        .output()
        .unwrap();
    let text = refused(&output);
    assert!(text.contains("mode steer needs the capability CAP_NET_ADMIN"), "{text}");
    assert_eq!(rundir.files(), before);
}

/// A daemon that waits for a database that never answers.
struct Waiting {
    child: Child,
    _listener: UnixListener,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn waiting(rundir: &Rundir, config: &Path) -> Waiting {
    let listener = UnixListener::bind(rundir.path().join("db.sock")).unwrap();
    let child = rundir.daemon(&["--config", config.to_str().unwrap()]).stderr(Stdio::null()).spawn().unwrap();
    let waiting = Waiting { child, _listener: listener };
    let pidfile = rundir.path().join("ovs-offloadd.pid");
    let since = Instant::now();
    while !pidfile.exists() {
        assert!(since.elapsed() < Duration::from_secs(30), "the daemon takes no pidfile");
        std::thread::yield_now();
    }
    waiting
}

#[test]
fn a_second_daemon_is_refused_and_the_first_goes_on() {
    let rundir = Rundir::new();
    let config = rundir.config("mode = \"observe\"");
    let mut first = waiting(&rundir, &config);
    let before = rundir.files();
    let text = refused(&rundir.daemon(&["--config", config.to_str().unwrap()]).output().unwrap());
    let expected = format!("another ovs-offloadd runs already (pid {}, ", first.child.id());
    assert!(text.contains(&expected), "{text}");
    assert_eq!(rundir.files(), before);
    assert_eq!(first.child.try_wait().unwrap(), None);
}

#[test]
fn a_killed_daemon_does_not_stop_the_next_one() {
    let rundir = Rundir::new();
    let config = rundir.config("mode = \"observe\"");
    drop(waiting(&rundir, &config));
    assert!(rundir.path().join("ovs-offloadd.pid").exists(), "kill leaves the pidfile behind");
    let text = sentence(&rundir.ctl(&["status"]));
    assert!(text.contains("was left behind by a process that is gone"), "{text}");
    std::fs::remove_file(rundir.path().join("db.sock")).unwrap();
    let text = refused(&rundir.daemon(&["--config", config.to_str().unwrap()]).output().unwrap());
    assert!(text.contains("cannot reach OVSDB"), "it got past the pidfile: {text}");
}

#[test]
fn without_a_daemon_the_tool_says_so() {
    let rundir = Rundir::new();
    let output = rundir.ctl(&["status"]);
    let text = refused(&output);
    assert!(text.starts_with("ovs-offloadctl: ovs-offloadd is not running: there is no "), "{text}");
    assert!(text.ends_with("start it with: systemctl start ovs-offloadd\n"), "{text}");
    let text = refused(&rundir.ctl(&["--target", "/nonexistent.ctl", "status"]));
    assert!(text.contains("cannot reach /nonexistent.ctl"), "{text}");
    assert_eq!(rundir.ctl(&["flow", "why", "nonsense"]).status.code(), Some(2));
}

#[test]
fn completions_and_manual_pages_come_from_the_same_definitions() {
    let rundir = Rundir::new();
    let bash = rundir.ctl(&["completions", "bash"]);
    assert!(bash.status.success());
    assert!(String::from_utf8(bash.stdout).unwrap().contains("refusal"));
    let pages = rundir.path().join("man");
    assert!(rundir.ctl(&["man", "--directory", pages.to_str().unwrap()]).status.success());
    for page in ["ovs-offloadctl.1", "ovs-offloadctl-flow-list.1"] {
        assert!(pages.join(page).exists(), "{page}");
    }
}
