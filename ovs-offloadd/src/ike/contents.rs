//! Which content the files have that connections name: one that is another has its connection loaded anew.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher as _, RandomState};
use std::os::unix::fs::MetadataExt as _;

use ipsec_drive::{Auth, ConnectionName, Content, Wanted};
use tracing::{info, warn};

use super::certificates;

/// What the file system says of a file: where that is the same, so is its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stat {
    inode: u64,
    length: u64,
    modified_ns: i128,
}

#[derive(Debug, Default)]
struct Seen {
    /// Of what was read; none where it could not be.
    stat: Option<Stat>,
    digest: u64,
    /// Another that was seen once: it may be written still.
    next: Option<Stat>,
}

/// What is known of files by path, and what connections were loaded with.
#[derive(Debug, Default)]
pub(super) struct Contents {
    files: BTreeMap<String, Seen>,
    loaded: BTreeMap<ConnectionName, Content>,
    unusable: BTreeSet<ConnectionName>,
    hasher: RandomState,
}

impl Contents {
    /// Tells each connection the content of its files. Another one counts once two looks in a row find it the same, and once it can be used:
    /// until then it is the one of before.
    pub(super) fn look(&mut self, wanted: &mut Wanted) {
        let named: BTreeSet<&str> =
            wanted.connections.values().flat_map(|connection| paths(&connection.auth)).collect();
        self.files.retain(|path, _| named.contains(path.as_str()));
        for path in named {
            let hasher = &self.hasher;
            self.files.entry(path.to_owned()).or_default().look(path, hasher);
        }
        self.loaded.retain(|name, _| wanted.connections.contains_key(name));
        self.unusable.retain(|name| wanted.connections.contains_key(name));
        for (name, connection) in &mut wanted.connections {
            let digests: Vec<(&str, u64)> = paths(&connection.auth)
                .filter_map(|path| Some((path, self.files.get(path)?.digest)))
                .collect();
            let found = Content(self.hasher.hash_one(&digests));
            let rests = |path: &str| self.files.get(path).is_none_or(|seen| seen.next.is_none());
            let all_rest = paths(&connection.auth).all(rests);
            connection.content = match self.loaded.get(name).copied() {
                Some(before) if !all_rest => before,
                Some(before) if before != found => match certificates::read(&connection.auth) {
                    Ok(_) => {
                        info!(connection = %name, "its files have another content");
                        found
                    }
                    Err(why) => {
                        if self.unusable.insert(name.clone()) {
                            warn!(connection = %name, %why, "its files have another content that cannot be used");
                        }
                        before
                    }
                },
                _ => found,
            };
            if connection.content == found {
                self.unusable.remove(name);
            }
            self.loaded.insert(name.clone(), connection.content);
        }
    }
}

impl Seen {
    fn look(&mut self, path: &str, hasher: &RandomState) {
        // One that is gone is about to be another, most likely.
        let Some(now) = stat(path) else { return self.next = None };
        if self.stat == Some(now) {
            self.next = None;
        } else if self.stat.is_none() || self.next == Some(now) {
            if let Ok(content) = certificates::content(path) {
                self.digest = hasher.hash_one(&content[..]);
            }
            (self.stat, self.next) = (Some(now), None);
        } else {
            self.next = Some(now);
        }
    }
}

fn stat(path: &str) -> Option<Stat> {
    let file = std::fs::metadata(path).ok()?;
    let modified_ns = i128::from(file.mtime()) * 1_000_000_000 + i128::from(file.mtime_nsec());
    Some(Stat { inode: file.ino(), length: file.len(), modified_ns })
}

fn paths(auth: &Auth) -> impl Iterator<Item = &str> {
    let paths = match auth {
        Auth::Psk(_) => [None; 3],
        Auth::SelfSigned { certificate, private_key, remote_cert: other }
        | Auth::Ca { certificate, private_key, ca_cert: other, .. } => {
            [certificate, private_key, other].map(|path| Some(path.as_str()))
        }
    };
    paths.into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ipsec_drive::{Host, Offload, TunnelRow, wanted};

    const CERTIFICATE: &str = include_str!("hv1.pem");

    #[test]
    fn another_content_counts_once_it_rests_and_can_be_used() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name).display().to_string();
        let host =
            Host { certificate: Some(path("c.pem")), private_key: Some(path("k.pem")), ..Host::default() };
        let row = |name: &str, options: &[(&str, String)]| {
            let options = options.iter().map(|(key, value)| ((*key).into(), value.clone())).collect();
            TunnelRow::read(name, "geneve", &options).unwrap()
        };
        let by_certificate = [("remote_ip", "192.0.2.2".to_owned()), ("remote_cert", path("r.pem"))];
        let rows = [row("tun0", &by_certificate)];
        let mut contents = Contents::default();
        let mut look = || {
            let mut wanted = wanted(&rows, &host, Offload::Auto);
            contents.look(&mut wanted);
            wanted.connections.values().next().unwrap().content
        };
        for name in ["c.pem", "k.pem", "r.pem"] {
            std::fs::write(path(name), CERTIFICATE).unwrap();
        }
        let first = look();
        assert_eq!(look(), first);

        // Written anew with what was there.
        std::fs::remove_file(path("r.pem")).unwrap();
        assert_eq!(look(), first, "it is gone for a moment");
        std::fs::write(path("r.pem"), CERTIFICATE).unwrap();
        assert_eq!([look(), look()], [first; 2]);

        std::fs::write(path("r.pem"), format!("renewed\n{CERTIFICATE}")).unwrap();
        assert_eq!(look(), first, "it may be written still");
        let renewed = look();
        assert_ne!(renewed, first);
        assert_eq!(look(), renewed);

        std::fs::write(path("c.pem"), &CERTIFICATE[..CERTIFICATE.len() / 2]).unwrap();
        assert_eq!([look(), look(), look()], [renewed; 3], "it is cut off");
        std::fs::write(path("c.pem"), format!("whole\n{CERTIFICATE}")).unwrap();
        assert_eq!(look(), renewed);
        assert_ne!(look(), renewed);
    }

    #[test]
    fn a_connection_with_a_key_names_no_file() {
        assert_eq!(paths(&Auth::Psk(ipsec_drive::Secret::new(b"x"))).count(), 0);
    }
}
