//! Debian releases, and system trees made of them with mmdebstrap from the mirror this machine uses.

use std::ffi::OsString;
use std::fmt;
use std::path::Path;
use std::process::Command;
use std::str::FromStr;

use crate::command::{output_of, run_logged};
use crate::problem::Problem;

/// A Debian release that guests are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Release {
    /// Debian 12: Open vSwitch 3.1.
    Bookworm,
    /// Debian 13: Open vSwitch 3.5.
    Trixie,
    /// Debian unstable: the newest Open vSwitch and kernel. It moves, and may not be installable on some day.
    Sid,
}

impl Release {
    /// Every release.
    pub(crate) const ALL: [Self; 3] = [Self::Trixie, Self::Bookworm, Self::Sid];

    /// The codename, as mirrors use it.
    pub(crate) fn codename(self) -> &'static str {
        match self {
            Self::Bookworm => "bookworm",
            Self::Trixie => "trixie",
            Self::Sid => "sid",
        }
    }
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.codename())
    }
}

impl FromStr for Release {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|release| release.codename() == text);
        found.ok_or_else(|| format!("there is no release `{text}` here: use trixie, bookworm or sid"))
    }
}

/// A system tree to make: packages on top of the smallest apt can work in.
#[derive(Debug)]
pub(crate) struct Tree<'a> {
    /// What it is made of.
    pub(crate) release: Release,
    /// Packages, besides the essential ones.
    pub(crate) packages: &'a [String],
    /// A program run with the tree's path when its packages are installed.
    pub(crate) customize: Option<&'a Path>,
}

impl Tree<'_> {
    /// Makes the tree in `dir`; output goes to `log`.
    pub(crate) fn make(&self, dir: &Path, log: &Path) -> Result<(), Problem> {
        let mut mmdebstrap = Command::new("mmdebstrap");
        mmdebstrap.args(["--mode=root", "--variant=minbase", "--format=directory"]);
        mmdebstrap.arg(format!("--include={}", self.packages.join(",")));
        mmdebstrap.arg("--aptopt=Apt::Install-Recommends \"false\"");
        for unwanted in ["doc", "man", "info", "locale", "bug", "lintian"] {
            mmdebstrap.arg(format!("--dpkgopt=path-exclude=/usr/share/{unwanted}/*"));
        }
        for option in host_download_options() {
            mmdebstrap.arg(format!("--aptopt={option}"));
        }
        if self.release == Release::Sid {
            // A mirror that is a snapshot of some past day serves a Release file that has expired.
            mmdebstrap.arg("--aptopt=Acquire::Check-Valid-Until \"false\"");
        }
        if let Some(program) = self.customize {
            let mut hook = OsString::from("--customize-hook=");
            hook.push(program);
            mmdebstrap.arg(hook);
        }
        mmdebstrap.arg(self.release.codename()).arg(dir).args(sources(self.release, &host_archives()));
        run_logged(&mut mmdebstrap, log)
    }
}

/// The archives of this machine's own apt configuration.
#[derive(Debug, Default, PartialEq, Eq)]
struct Archives {
    main: Option<String>,
    security: Option<String>,
}

fn host_archives() -> Archives {
    let format = "$(LABEL)|$(COMPONENT)|$(REPO_URI)";
    let listing =
        output_of(Command::new("apt-get").args(["indextargets", "--format", format, "Identifier: Packages"]));
    archives(&listing.unwrap_or_default())
}

fn archives(listing: &str) -> Archives {
    let find = |label: &str| {
        listing.lines().find_map(|line| {
            let mut fields = line.splitn(3, '|');
            let wanted = fields.next() == Some(label) && fields.next() == Some("main");
            wanted.then(|| fields.next().map(str::to_owned)).flatten()
        })
    };
    Archives { main: find("Debian"), security: find("Debian-Security") }
}

/// The sources.list lines of `release`; none when this machine's mirror is not known, and mmdebstrap decides.
fn sources(release: Release, archives: &Archives) -> Vec<String> {
    let Some(main) = &archives.main else { return Vec::new() };
    let mut lines = vec![format!("deb {main} {release} main")];
    if release != Release::Sid {
        lines.push(format!("deb {main} {release}-updates main"));
        lines.extend(
            archives.security.iter().map(|security| format!("deb {security} {release}-security main")),
        );
    }
    lines
}

/// This machine's own apt options for downloads: proxies and certificates hold for the guest's packages too.
fn host_download_options() -> Vec<String> {
    let dump = output_of(Command::new("apt-config").args([
        "dump",
        "--no-empty",
        "--format",
        "%F \"%v\";%n",
        "Acquire",
    ]));
    let is_download =
        |line: &&str| ["Acquire::http::", "Acquire::https::"].iter().any(|start| line.starts_with(start));
    let dump = dump.unwrap_or_default();
    dump.lines().filter(is_download).map(|line| line.trim_end_matches(';').to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_the_one_labelled_debian_whatever_else_is_configured() {
        let listing = "Other|main|http://other.example/apt/\nDebian|contrib|http://mirror.example/c/\n\
                       Debian|main|http://mirror.example/debian/\nDebian-Security|main|http://mirror.example/security/\n";
        let found = archives(listing);
        assert_eq!(found.main.as_deref(), Some("http://mirror.example/debian/"));
        assert_eq!(sources(Release::Sid, &found), ["deb http://mirror.example/debian/ sid main"]);
        assert_eq!(sources(Release::Trixie, &found).len(), 3);
        assert!(sources(Release::Trixie, &archives("")).is_empty());
    }
}
