//! The cache of everything that takes long to make, keyed by what it was made of.
//!
//! An entry is a directory `NAME-KEY` that appears complete or not at all: it is made beside and renamed.

use std::fs;
use std::hash::Hasher;
use std::path::{Path, PathBuf};

use crate::problem::{Doing, Problem};
use crate::progress;

/// Changes whenever the way an entry is made changes: every entry is then made anew.
const SCRIPT_VERSION: &str = "1";

/// The directory that holds the entries: `$XDG_CACHE_HOME/ovs-offloadd`, or `~/.cache/ovs-offloadd`.
#[derive(Debug, Clone)]
pub(crate) struct Cache {
    root: PathBuf,
}

impl Cache {
    /// Opens the cache, making its directory when there is none.
    pub(crate) fn open() -> Result<Self, Problem> {
        let base = match (std::env::var_os("XDG_CACHE_HOME"), std::env::var_os("HOME")) {
            (Some(cache), _) if Path::new(&cache).is_absolute() => PathBuf::from(cache),
            (_, Some(home)) => PathBuf::from(home).join(".cache"),
            _ => {
                return Err(Problem::cannot(
                    "Neither XDG_CACHE_HOME nor HOME is set: set one, to say where the cache is.",
                ));
            }
        };
        let root = base.join("ovs-offloadd");
        fs::create_dir_all(&root).doing(|| format!("make the cache directory {}", root.display()))?;
        Ok(Self { root })
    }

    /// The directory itself.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The entry `name` made of `parts`, when it is there.
    pub(crate) fn find(&self, name: &str, parts: &[&str]) -> Option<PathBuf> {
        let path = self.root.join(entry_name(name, parts));
        path.is_dir().then_some(path)
    }

    /// The entry `name` made of `parts`: found, or made by `make` in the directory it is given.
    pub(crate) fn entry(
        &self,
        name: &str,
        parts: &[&str],
        title: &str,
        make: impl FnOnce(&Path) -> Result<(), Problem>,
    ) -> Result<PathBuf, Problem> {
        if let Some(found) = self.find(name, parts) {
            return Ok(found);
        }
        let entry = entry_name(name, parts);
        let path = self.root.join(&entry);
        let unfinished = self.root.join(format!(".{entry}.{}", std::process::id()));
        progress::step(title, || {
            self.remove_unfinished(name);
            fs::create_dir_all(&unfinished).doing(|| format!("make {}", unfinished.display()))?;
            make(&unfinished)?;
            match fs::rename(&unfinished, &path) {
                // Another run was faster: its entry is as good as ours.
                Err(_) if path.is_dir() => {
                    fs::remove_dir_all(&unfinished).doing(|| format!("remove {}", unfinished.display()))
                }
                renamed => renamed.doing(|| format!("rename {}", unfinished.display())),
            }
        })?;
        Ok(path)
    }

    /// Removes what runs that were killed left behind: directories of this entry whose process is gone.
    fn remove_unfinished(&self, name: &str) {
        let prefix = format!(".{name}-");
        for found in fs::read_dir(&self.root).into_iter().flatten().flatten() {
            let file_name = found.file_name().to_string_lossy().into_owned();
            let owner = file_name.rsplit('.').next().unwrap_or_default();
            if file_name.starts_with(&prefix) && !Path::new("/proc").join(owner).exists() {
                // Left in place when it cannot be removed: it costs space, nothing else.
                let _ = fs::remove_dir_all(found.path());
            }
        }
    }
}

fn entry_name(name: &str, parts: &[&str]) -> String {
    format!("{name}-{}", key(parts))
}

/// A short key for `parts`; equal parts give equal keys on every machine and toolchain.
pub(crate) fn key(parts: &[&str]) -> String {
    let mut hasher = fnv::FnvHasher::default();
    for part in [SCRIPT_VERSION].iter().chain(parts) {
        hasher.write(&part.len().to_le_bytes());
        hasher.write(part.as_bytes());
    }
    format!("{:016x}", hasher.finish())
}

/// The content of all files below `dir` whose name ends in one of `suffixes`, with their names, in a fixed order.
pub(crate) fn content_of(dir: &Path, suffixes: &[&str]) -> Result<String, Problem> {
    let mut files = Vec::new();
    let mut pending = vec![dir.to_path_buf()];
    while let Some(directory) = pending.pop() {
        for found in fs::read_dir(&directory).doing(|| format!("read {}", directory.display()))? {
            let path = found.doing(|| format!("read {}", directory.display()))?.path();
            if path.is_dir() {
                pending.push(path);
            } else if suffixes.iter().any(|suffix| path.to_string_lossy().ends_with(suffix)) {
                files.push(path);
            }
        }
    }
    files.sort();
    let mut content = String::new();
    for file in files {
        content.push_str(&file.strip_prefix(dir).unwrap_or(&file).to_string_lossy());
        content.push('\0');
        content.push_str(&String::from_utf8_lossy(
            &fs::read(&file).doing(|| format!("read {}", file.display()))?,
        ));
        content.push('\0');
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_depends_on_where_one_part_ends() {
        assert_ne!(key(&["ab", "c"]), key(&["a", "bc"]));
        assert_eq!(key(&["ab", "c"]), key(&["ab", "c"]));
    }
}
