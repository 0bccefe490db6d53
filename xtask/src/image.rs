//! The guest's userland: a Debian tree as an ext4 image, which guests never change.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cache::Cache;
use crate::command::run_logged;
use crate::debian::{Release, Tree};
use crate::problem::{Doing, Problem};

/// Size of the image's file system. The file is sparse, and a guest's own writes go to a temporary file.
const IMAGE_SIZE: &str = "2G";

/// The disk image of `release`'s userland: found in the cache or built.
pub(crate) fn userland(cache: &Cache, repository: &Path, release: Release) -> Result<PathBuf, Problem> {
    let lists = repository.join("lab/images");
    let mut packages = packages(&lists.join("userland.packages"))?;
    let of_release = lists.join(format!("{release}.packages"));
    if of_release.exists() {
        packages.extend(self::packages(&of_release)?);
    }
    let title = format!("build the userland image of {release}");
    Image { name: format!("image-{release}"), title, release, packages, added: None }.made(cache, repository)
}

/// A guest's disk image.
#[derive(Debug)]
pub(crate) struct Image {
    /// Name of its entry in the cache.
    pub(crate) name: String,
    /// What the user is told when it is built.
    pub(crate) title: String,
    /// What it is made of.
    pub(crate) release: Release,
    /// Packages in it, besides the essential ones.
    pub(crate) packages: Vec<String>,
    /// A directory that is copied into it, and where to.
    pub(crate) added: Option<(PathBuf, &'static str)>,
}

impl Image {
    /// The image's file: found in the cache or built.
    pub(crate) fn made(&self, cache: &Cache, repository: &Path) -> Result<PathBuf, Problem> {
        let customize = repository.join("lab/images/customize.sh");
        let script = fs::read_to_string(&customize).doing(|| format!("read {}", customize.display()))?;
        let list = self.packages.join(" ");
        let added = self.added.as_ref().map(|(from, to)| format!("{} {to}", from.display()));
        let mut parts = vec![self.release.codename(), &list, &script, IMAGE_SIZE];
        parts.extend(added.as_deref());
        let entry = cache.entry(&self.name, &parts, &self.title, |dir| {
            let tree = dir.join("tree");
            let customize = Some(customize.as_path());
            Tree { release: self.release, packages: &self.packages, customize }
                .make(&tree, &dir.join("mmdebstrap.log"))?;
            if let Some((from, to)) = &self.added {
                let to = tree.join(to);
                fs::create_dir_all(&to).doing(|| format!("make {}", to.display()))?;
                run_logged(Command::new("cp").arg("-aT").arg(from).arg(&to), &dir.join("copy.log"))?;
            }
            let mut mke2fs = Command::new("mke2fs");
            // No journal and no checksums: the image is thrown away with the guest, and they cost time without KVM.
            mke2fs.args(["-q", "-t", "ext4", "-O", "^has_journal,^metadata_csum", "-m", "0", "-d"]);
            mke2fs.arg(&tree).arg(dir.join("root.ext4")).arg(IMAGE_SIZE);
            run_logged(&mut mke2fs, &dir.join("mke2fs.log"))?;
            fs::remove_dir_all(&tree).doing(|| format!("remove {}", tree.display()))
        })?;
        Ok(entry.join("root.ext4"))
    }
}

/// The package names in a list: one per line, `#` begins a comment.
pub(crate) fn packages(list: &Path) -> Result<Vec<String>, Problem> {
    let text = fs::read_to_string(list).doing(|| format!("read {}", list.display()))?;
    let names = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    Ok(names.filter(|name| !name.is_empty()).map(str::to_owned).collect())
}
