//! One run of one guest: prepared, started by virtme-ng, ended by its command or by the time limit.

use std::fs::{self, File};
use std::io::{IsTerminal, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::command::quoted;
use crate::problem::{Doing, Problem};
use crate::progress;

/// Virtual processors of a guest.
const PROCESSORS: &str = "2";
/// Memory of a guest.
const MEMORY: &str = "2G";
/// How often a running guest is looked at for its end.
const POLL: Duration = Duration::from_millis(50);

/// All that a guest is started from.
#[derive(Debug, Clone)]
pub(crate) struct Machine {
    /// `virtme-run` of virtme-ng.
    pub(crate) virtme_run: PathBuf,
    /// The userland's disk image. Guests write to a temporary file instead.
    pub(crate) image: PathBuf,
    /// Holds `boot/vmlinuz` and `lib/modules`.
    pub(crate) kernel: PathBuf,
    /// Whether a guest runs under KVM.
    pub(crate) kvm: bool,
}

/// What a guest is to do.
#[derive(Debug)]
pub(crate) enum Work {
    /// A shell on this terminal.
    Shell,
    /// A program with its arguments.
    Command(Vec<String>),
}

/// Where what a guest or another program prints is shown, besides its log.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Shown<'a> {
    /// Nowhere: it is only its end that counts.
    Nowhere,
    /// On this terminal, as it is.
    AsItIs,
    /// On this terminal, each line behind this word, for others print there too.
    Behind(&'a str),
}

impl Shown<'_> {
    pub(crate) fn writer(self, terminal: impl Write + Send + 'static) -> Box<dyn Write + Send> {
        match self {
            Self::Nowhere => Box::new(std::io::sink()),
            Self::AsItIs => Box::new(terminal),
            Self::Behind(word) => Box::new(progress::Labelled::new(word, terminal)),
        }
    }
}

/// One run.
#[derive(Debug)]
pub(crate) struct Run<'a> {
    /// The repository, seen read-only as /repository.
    pub(crate) repository: &'a Path,
    /// Programs that are on PATH in the guest.
    pub(crate) programs: &'a [PathBuf],
    /// A directory of the caller, seen read-write as /share.
    pub(crate) share: Option<&'a Path>,
    /// Where files that the guest leaves in /logs are found afterwards, with its output and its kernel's.
    pub(crate) logs: &'a Path,
    /// A script of lab/topologies to run first, by name.
    pub(crate) topology: Option<&'a str>,
    /// Environment variables for the command.
    pub(crate) environment: Vec<(String, String)>,
    /// What to do.
    pub(crate) work: Work,
    /// Where what it prints is shown.
    pub(crate) shown: Shown<'a>,
    /// The longest it may take, start included; none for a shell.
    pub(crate) time_limit: Option<Duration>,
}

impl Run<'_> {
    /// Starts the guest and waits for its end. The value is the exit status of the command.
    pub(crate) fn on(&self, machine: &Machine) -> Result<u8, Problem> {
        fs::create_dir_all(self.logs).doing(|| format!("make {}", self.logs.display()))?;
        let job = Job::write(self)?;
        let mut command = self.command(machine, &job)?;
        let begin = Instant::now();
        let status = match self.work {
            Work::Shell => command.status().doing(|| "start virtme-run".to_owned())?,
            Work::Command(_) => self.supervise(&mut command, begin)?,
        };
        self.verdict(status)
    }

    /// The exit status that the guest's first program noted: virtme-run's own is the same for a crash and a 255.
    fn verdict(&self, status: ExitStatus) -> Result<u8, Problem> {
        let console = self.logs.join("console.log");
        let started = fs::remove_file(self.logs.join(".started")).is_ok();
        let noted =
            fs::read_to_string(self.logs.join(".status")).ok().and_then(|text| text.trim().parse().ok());
        let _ = fs::remove_file(self.logs.join(".status"));
        match (started, noted) {
            (true, Some(code)) => Ok(code),
            (true, None) if matches!(self.work, Work::Shell) => Ok(0),
            (true, None) => Err(Problem::Failed(format!(
                "The guest ended before its command did ({status}): see {} for what its kernel said last.",
                console.display()
            ))),
            (false, _) => Err(Problem::cannot(format!(
                "The guest did not start ({status}): see {} for what its kernel said.",
                console.display()
            ))),
        }
    }

    fn command(&self, machine: &Machine, job: &Job) -> Result<Command, Problem> {
        // The guest must not outlive this process, however that ends: each of the three dies with its parent.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "TERM"]).arg(&machine.virtme_run);
        command.arg("--qemu-bin").arg(job.dir.join("qemu"));
        command.args(["--mods", "auto", "--root-fstype", "ext4", "--rw", "--force-9p", "--user", "root"]);
        command.args(["--name", "lab", "--cpus", PROCESSORS, "--memory", MEMORY]);
        command.arg("--root-disk").arg(&machine.image).arg("--kimg").arg(machine.kernel.join("boot/vmlinuz"));
        command.arg("--busybox").arg("/bin/busybox");
        if !machine.kvm {
            command.arg("--disable-kvm");
        }
        command.arg("--rodir").arg(mount("/lab", &job.dir)?);
        command.arg("--rodir").arg(mount("/repository", self.repository)?);
        command.arg("--rwdir").arg(mount("/logs", self.logs)?);
        if let Some(share) = self.share {
            command.arg("--rwdir").arg(mount("/share", share)?);
        }
        for option in ["loglevel=5", "mitigations=off", "net.ifnames=0", "panic_on_oops=1"] {
            command.args(["--kopt", option]);
        }
        match self.work {
            Work::Shell => command.args(["--shell", "/lab/start"]),
            Work::Command(_) => command.args(["--script-exec", "/lab/start"]),
        };
        command.args(["--qemu-opts", "-snapshot"]);
        Ok(command)
    }

    /// Passes the guest's output through until it ends or its time is up.
    fn supervise(&self, command: &mut Command, begin: Instant) -> Result<ExitStatus, Problem> {
        let usable_input = File::open("/proc/self/fd/0").is_ok() && !std::io::stdin().is_terminal();
        command.stdin(if usable_input { Stdio::inherit() } else { Stdio::null() });
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().doing(|| "start virtme-run".to_owned())?;
        let log = self.logs.join("output.log");
        let keep = || {
            File::options().create(true).append(true).open(&log).doing(|| format!("write {}", log.display()))
        };
        let _ = fs::remove_file(&log);
        let (keep_out, keep_err) = (keep()?, keep()?);
        let (out, err) = (
            pass(child.stdout.take(), keep_out, self.shown.writer(std::io::stdout())),
            pass(child.stderr.take(), keep_err, self.shown.writer(std::io::stderr())),
        );
        let status = wait(&mut child, self.time_limit.map(|limit| begin + limit))?;
        for reader in [out, err].into_iter().flatten() {
            // A reader thread only ends; it has nothing to say.
            let _ = reader.join();
        }
        match (status, self.time_limit) {
            (Some(status), _) => Ok(status),
            (None, limit) => Err(Problem::Failed(format!(
                "The guest did not finish within {} and was stopped; what it left is in {}.",
                progress::seconds(limit.unwrap_or_default()),
                self.logs.display()
            ))),
        }
    }
}

/// The status of `child`, or nothing when it had to be killed at `deadline`.
fn wait(child: &mut Child, deadline: Option<Instant>) -> Result<Option<ExitStatus>, Problem> {
    loop {
        if let Some(status) = child.try_wait().doing(|| "wait for the guest".to_owned())? {
            return Ok(Some(status));
        }
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            child.kill().doing(|| "stop the guest".to_owned())?;
            child.wait().doing(|| "wait for the guest".to_owned())?;
            return Ok(None);
        }
        thread::sleep(POLL);
    }
}

/// Copies `from` to the file `keep` and to `show` on a thread of its own, until it ends.
pub(crate) fn pass(
    from: Option<impl Read + Send + 'static>,
    mut keep: File,
    mut show: impl Write + Send + 'static,
) -> Option<thread::JoinHandle<()>> {
    let mut from = from?;
    Some(thread::spawn(move || {
        let mut buffer = [0; 16 * 1024];
        while let Ok(count) = from.read(&mut buffer) {
            let text = &buffer[..count];
            // A terminal that is gone must not stop the log, nor a full disk the terminal.
            let (_, _) = (keep.write_all(text), show.write_all(text).and_then(|()| show.flush()));
            if count == 0 {
                break;
            }
        }
    }))
}

/// `GUEST=HOST` for virtme-run, which takes only some characters in a path.
fn mount(guest: &str, host: &Path) -> Result<String, Problem> {
    let host = host.canonicalize().doing(|| format!("find {}", host.display()))?;
    let host = host.to_string_lossy();
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_+ /.-".contains(c);
    if host.chars().all(allowed) {
        return Ok(format!("{guest}={host}"));
    }
    Err(Problem::cannot(format!(
        "`{host}` cannot be shared with a guest: use a path of letters, digits and _ + - . / only."
    )))
}

/// A directory with what one guest needs to know, removed when the run is over.
struct Job {
    dir: PathBuf,
}

impl Job {
    fn write(run: &Run<'_>) -> Result<Self, Problem> {
        let dir = run.repository.join("target/lab").join(format!("run-{}-{}", std::process::id(), unique()));
        let job = Self { dir };
        let bin = job.dir.join("bin");
        fs::create_dir_all(&bin).doing(|| format!("make {}", bin.display()))?;
        for program in run.programs {
            let to = bin.join(program.file_name().unwrap_or_default());
            let linked = fs::hard_link(program, &to).or_else(|_| fs::copy(program, &to).map(drop));
            linked.doing(|| format!("copy {} to {}", program.display(), to.display()))?;
        }
        copy_tree(&run.repository.join("lab/topologies"), &job.dir.join("topologies"))?;
        job.script("qemu", &qemu_script(&run.logs.join("console.log")))?;
        let start = run.repository.join("lab/guest/start.sh");
        job.script("start", &fs::read_to_string(&start).doing(|| format!("read {}", start.display()))?)?;
        job.script("work", &work_script(run))?;
        Ok(job)
    }

    fn script(&self, name: &str, text: &str) -> Result<(), Problem> {
        let path = self.dir.join(name);
        fs::write(&path, text).doing(|| format!("write {}", path.display()))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))
            .doing(|| format!("make {} executable", path.display()))
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        // Left behind, it costs some space under target/ and nothing else.
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Starts QEMU so that it dies with its parent, and keeps in `log` what virtme-run throws away: the kernel's console.
fn qemu_script(log: &Path) -> String {
    format!(
        "#!/bin/sh\nfor word; do\n\tshift\n\tif [ \"$word\" = file,id=console,path=/dev/null ]; then\n\t\t\
         word=file,id=console,path={}\n\tfi\n\tset -- \"$@\" \"$word\"\ndone\n\
         exec setpriv --pdeathsig KILL qemu-system-x86_64 \"$@\"\n",
        quoted(&log.display().to_string())
    )
}

/// Settings that lab/guest/start.sh reads, then what it runs.
fn work_script(run: &Run<'_>) -> String {
    let mut script = String::new();
    for (name, value) in &run.environment {
        script.push_str(&format!("export {name}={}\n", quoted(value)));
    }
    script.push_str(&format!("topology={}\n", run.topology.unwrap_or_default()));
    script.push_str(if run.share.is_some() { "cd /share\n" } else { "cd /root\n" });
    match &run.work {
        Work::Shell => script.push_str("work() { exec bash --norc -i; }\n"),
        Work::Command(words) => {
            let words: Vec<String> = words.iter().map(|word| quoted(word)).collect();
            script.push_str(&format!("work() {{ {}; }}\n", words.join(" ")));
        }
    }
    script
}

fn copy_tree(from: &Path, to: &Path) -> Result<(), Problem> {
    fs::create_dir_all(to).doing(|| format!("make {}", to.display()))?;
    for found in fs::read_dir(from).doing(|| format!("read {}", from.display()))? {
        let path = found.doing(|| format!("read {}", from.display()))?.path();
        let target = to.join(path.file_name().unwrap_or_default());
        fs::copy(&path, &target).doing(|| format!("copy {}", path.display()))?;
    }
    Ok(())
}

fn unique() -> u128 {
    std::time::UNIX_EPOCH.elapsed().map(|since| since.as_nanos()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_virtme_ng_would_misread_is_refused() {
        let dir = std::env::temp_dir().join(format!("lab=x{}", std::process::id()));
        fs::create_dir_all(&dir).expect("a temporary directory can be made");
        let answer = mount("/share", &dir);
        fs::remove_dir_all(&dir).expect("what was made can be removed");
        assert!(matches!(answer, Err(Problem::Cannot(_))));
    }
}
