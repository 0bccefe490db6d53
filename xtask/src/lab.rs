//! The lab as a whole: everything a guest needs, made or found, and the commands `lab` and `demo`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::cache::{self, Cache};
use crate::command::output_of;
use crate::debian::Release;
use crate::guest::{Machine, Run, Shown, Work};
use crate::kernel::{self, Flavour, Kernel};
use crate::problem::{Doing, Problem};
use crate::{host, image, progress, simnic, virtme};

/// The longest a boot that probes KVM may take.
const PROBE_LIMIT: Duration = Duration::from_secs(30);

/// The choice of a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Choice {
    /// Userland.
    pub(crate) release: Release,
    /// Kernel.
    pub(crate) kernel: Flavour,
}

impl Default for Choice {
    fn default() -> Self {
        Self { release: Release::Trixie, kernel: Flavour::Trixie }
    }
}

/// The lab on this machine.
#[derive(Debug)]
pub(crate) struct Lab {
    cache: Cache,
    repository: PathBuf,
}

impl Lab {
    /// Checks this machine and installs what it lacks.
    pub(crate) fn open(repository: &Path) -> Result<Self, Problem> {
        let cache = Cache::open()?;
        host::prepare(&cache)?;
        Ok(Self { cache, repository: repository.to_path_buf() })
    }

    /// The cache of what was made.
    pub(crate) fn cache(&self) -> &Cache {
        &self.cache
    }

    /// What `choice` needs from Debian's archive, found in the cache or fetched.
    pub(crate) fn fetch(&self, choice: Choice) -> Result<(PathBuf, Kernel), Problem> {
        let image = image::userland(&self.cache, &self.repository, choice.release)?;
        Ok((image, kernel::kernel(&self.cache, &self.repository, choice.kernel)?))
    }

    /// All that a guest of `choice` is started from, found in the cache or made.
    pub(crate) fn machine(&self, choice: Choice) -> Result<Machine, Problem> {
        let (image, kernel) = self.fetch(choice)?;
        self.assembled(image, &kernel)
    }

    /// As `machine`, with a userland of the caller's.
    pub(crate) fn machine_with(&self, image: PathBuf, flavour: Flavour) -> Result<Machine, Problem> {
        let kernel = kernel::kernel(&self.cache, &self.repository, flavour)?;
        self.assembled(image, &kernel)
    }

    fn assembled(&self, image: PathBuf, kernel: &Kernel) -> Result<Machine, Problem> {
        let virtme_run = virtme::virtme_run(&self.cache)?;
        let kernel = simnic::with_simnic(&self.cache, &self.repository, kernel)?;
        let mut machine = Machine { virtme_run, image, kernel, kvm: false };
        machine.kvm = self.kvm_works(&machine)?;
        Ok(machine)
    }

    /// Whether a guest boots under KVM. The device being there says little: on some machines a guest fails early on.
    fn kvm_works(&self, machine: &Machine) -> Result<bool, Problem> {
        if fs::OpenOptions::new().read(true).write(true).open("/dev/kvm").is_err() {
            return Ok(false);
        }
        let qemu = output_of(Command::new("qemu-system-x86_64").arg("--version")).unwrap_or_default();
        let host_kernel = fs::read_to_string("/proc/version").unwrap_or_default();
        let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpu.lines().find(|line| line.starts_with("model name")).unwrap_or_default();
        let answer = self.cache.root().join(format!("kvm-{}", cache::key(&[&qemu, &host_kernel, model])));
        if let Ok(text) = fs::read_to_string(&answer) {
            return Ok(text.trim() == "works");
        }
        let works = progress::step("try a guest under KVM", || {
            let logs = self.repository.join("target/lab-logs/kvm-probe");
            let run = Run {
                repository: &self.repository,
                programs: &[],
                share: None,
                logs: &logs,
                topology: None,
                environment: Vec::new(),
                work: Work::Command(vec!["true".to_owned()]),
                shown: Shown::Nowhere,
                time_limit: Some(PROBE_LIMIT),
            };
            Ok(matches!(run.on(&Machine { kvm: true, ..machine.clone() }), Ok(0)))
        })?;
        let word = if works { "works" } else { "fails" };
        progress::note(&format!(
            "KVM {word} on this machine{}",
            if works { "" } else { ": guests run without it, slower" }
        ));
        fs::write(&answer, word).doing(|| format!("write {}", answer.display()))?;
        Ok(works)
    }
}
