//! What probes saw, kept in the run directory for the daemon: a file for each NIC and kind of port.
//!
//! It is gone with the next boot, and before that with a reload of the daemon's configuration, a reset of the NIC and the
//! next probe; and it counts only while driver, firmware and kernel are those that were probed.

use std::fs::{self, File};
use std::io::{self, Read, Write as _};
use std::path::{Path, PathBuf};

use offload_engine::{NicId, PortKind, ProbedRefusal};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use tc_flower::{BlockIndex, Chain, Ifindex, Location};

use super::list::{Devices, Needs, Probe, probes};
use super::report::{FORMAT, Matrix, Outcome, PortRole, Versions};

/// Bytes of a file that are read: a matrix has some 20 KB.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Files that are read: two for each NIC.
const FILES_MAX: usize = 512;

fn directory(rundir: &Path) -> PathBuf {
    rundir.join("ovs-offloadd.probes")
}

fn file_of(rundir: &Path, nic: &str, role: PortRole) -> PathBuf {
    directory(rundir).join(format!("{}+{}.json", nic.replace(['/', '\0'], "+"), role.word()))
}

/// Keeps a matrix in place of the one before it of the same NIC and kind of port.
///
/// # Errors
/// Those of the file system.
pub fn write(rundir: &Path, matrix: &Matrix) -> io::Result<PathBuf> {
    let path = file_of(rundir, &matrix.nic, matrix.port.role);
    fs::create_dir_all(directory(rundir))?;
    let temporary = path.with_extension("tmp");
    let mut file = File::create(&temporary)?;
    file.write_all(&serde_json::to_vec_pretty(matrix)?)?;
    fs::rename(&temporary, &path)?;
    Ok(path)
}

/// All that are kept. What cannot be read, or is of another format, is left out.
pub fn read_all(rundir: &Path) -> Vec<Matrix> {
    let Ok(entries) = fs::read_dir(directory(rundir)) else { return Vec::new() };
    let paths = entries.take(FILES_MAX).filter_map(|entry| Some(entry.ok()?.path()));
    let is_matrix = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "json");
    let mut all: Vec<Matrix> = paths.filter(is_matrix).filter_map(|path| read(&path)).collect();
    all.sort_by(|a, b| (&a.nic, a.port.role.word()).cmp(&(&b.nic, b.port.role.word())));
    all
}

fn read(path: &Path) -> Option<Matrix> {
    let mut text = String::new();
    File::open(path).ok()?.take(FILE_BYTES_MAX).read_to_string(&mut text).ok()?;
    let matrix: Matrix = serde_json::from_str(&text).ok()?;
    (matrix.format == FORMAT).then_some(matrix)
}

/// Forgets what was seen of one NIC, or of all.
pub fn forget(rundir: &Path, nic: Option<&str>) {
    for matrix in read_all(rundir) {
        if nic.is_none_or(|nic| matrix.nic == nic) {
            // What cannot be removed is read again at the next start, and is as true then.
            let _ = fs::remove_file(file_of(rundir, &matrix.nic, matrix.port.role));
        }
    }
}

/// Whether a matrix tells of what is there now.
pub fn holds(matrix: &Matrix, now: &Versions) -> bool {
    matrix.versions == *now && matrix.says_something()
}

/// What a driver was seen to refuse, for the engine.
pub fn refusals(matrix: &Matrix, nic: NicId) -> Vec<ProbedRefusal> {
    if !matrix.says_something() {
        return Vec::new();
    }
    // Which devices a filter names is no part of what it is made of.
    let known = probes(&Devices::default(), Chain(1));
    known
        .iter()
        .filter_map(|probe| {
            let Some(Outcome::Refused { text }) = matrix.outcome(probe.id) else { return None };
            let (at, toward) = kinds(matrix, probe)?;
            Some(ProbedRefusal {
                nic,
                at,
                toward,
                parts: probe.blames()?,
                what: probe.id.to_owned(),
                why: text.clone().unwrap_or_else(|| "without a reason".to_owned()),
            })
        })
        .collect()
}

/// The kinds of ports that a refusal holds for: where the filter was, and where to it would have sent.
fn kinds(matrix: &Matrix, probe: &Probe) -> Option<(PortKind, Option<PortKind>)> {
    let kind = |role| match role {
        PortRole::Uplink => PortKind::Uplink,
        PortRole::Representor => PortKind::Representor,
    };
    let port = kind(matrix.port.role);
    Some(match probe.needs {
        Needs::Nothing => (port, None),
        // Two outputs are of two kinds, where a NIC has one uplink.
        Needs::TwoOutputs => (port, None),
        Needs::Output => (port, Some(kind(matrix.toward.as_ref()?.role))),
        Needs::Tunnel | Needs::Tunnel6 | Needs::Geneve | Needs::Vxlan => (port, Some(PortKind::Tunnel)),
        Needs::FromTunnel | Needs::FromGeneve | Needs::FromVxlan => (PortKind::Tunnel, None),
    })
}

/// Where a running probe has filters; what it leaves when it is killed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Note {
    devices: Vec<u32>,
    blocks: Vec<u32>,
    chain: u32,
}

/// Held while a probe runs: only one does, and the next one knows where an earlier one was.
#[derive(Debug)]
pub(super) struct Lock {
    file: File,
    /// Where an earlier one was, if it did not end as it should.
    pub(super) left: Option<(Vec<Location>, Chain)>,
}

impl Lock {
    /// Takes it.
    pub(super) fn take(rundir: &Path) -> Result<Self, String> {
        let path = rundir.join("ovs-offloadd.probe.lock");
        let failed = |error: io::Error| {
            format!(
                "cannot write {}: {error}; is this Open vSwitch's run directory (--rundir)?",
                path.display()
            )
        };
        let mut file = File::options().create(true).append(true).read(true).open(&path).map_err(failed)?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Err(format!("another probe runs ({} is locked)", path.display()));
        }
        let mut text = String::new();
        let _ = Read::by_ref(&mut file).take(64 << 10).read_to_string(&mut text);
        let left = serde_json::from_str(&text).ok().map(|note: Note| {
            let devices = note.devices.into_iter().map(|ifindex| Location::ingress(Ifindex(ifindex)));
            let blocks = note.blocks.into_iter().map(|block| Location::Block(BlockIndex(block)));
            (devices.chain(blocks).collect(), Chain(note.chain))
        });
        Ok(Self { file, left })
    }

    /// Notes where filters are about to be.
    pub(super) fn note(&mut self, places: &[Location], chain: Chain) -> io::Result<()> {
        let mut note = Note { chain: chain.0, ..Note::default() };
        for place in places {
            match place {
                Location::Device { ifindex, .. } => note.devices.push(ifindex.0),
                Location::Block(block) => note.blocks.push(block.0),
            }
        }
        self.file.set_len(0)?;
        self.file.write_all(&serde_json::to_vec(&note)?)
    }

    /// There are none any more.
    pub(super) fn clear(&mut self) -> io::Result<()> {
        self.file.set_len(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::list::{BASE_DROP, Group};
    use crate::probe::report::tests::{matrix, refused, taken};

    fn seen() -> Matrix {
        matrix(&[
            (BASE_DROP, Group::Base, taken()),
            ("ct_state +inv", Group::Match, refused("no inv")),
            ("vlan push", Group::Action, refused("no push")),
            ("sample", Group::Action, Outcome::refused(netlink_wire::Errno::EINVAL, None)),
            ("route, output", Group::Combination, refused("too many")),
            ("of a later version", Group::Match, refused("what")),
        ])
    }

    #[test]
    fn only_single_matches_and_actions_that_were_refused_keep_rules_back() {
        let refusals = refusals(&seen(), NicId(3));
        let told: Vec<_> = refusals
            .iter()
            .map(|refusal| (&*refusal.what, &*refusal.why, refusal.at, refusal.toward))
            .collect();
        assert_eq!(
            told,
            [
                ("ct_state +inv", "no inv", PortKind::Representor, None),
                ("vlan push", "no push", PortKind::Representor, Some(PortKind::Uplink)),
            ]
        );
        assert!(refusals.iter().all(|refusal| refusal.nic == NicId(3) && !refusal.parts.is_empty()));
        let mut nothing = seen();
        nothing.tried[0].outcome = refused("chain");
        assert_eq!(super::refusals(&nothing, NicId(3)), []);
    }

    #[test]
    fn what_is_kept_is_read_until_it_is_forgotten_or_something_it_holds_for_changed() {
        let directory = tempfile::tempdir().unwrap();
        let rundir = directory.path();
        let path = write(rundir, &seen()).unwrap();
        assert!(
            path.ends_with("ovs-offloadd.probes/pci+0000:03:00.0+representor.json"),
            "{}",
            path.display()
        );
        let uplink = Matrix {
            port: super::super::report::PortName { name: "eth0".into(), role: PortRole::Uplink },
            ..seen()
        };
        write(rundir, &uplink).unwrap();
        write(rundir, &uplink).unwrap();
        assert_eq!(read_all(rundir), [seen(), uplink]);
        let versions = seen().versions;
        assert!(holds(&seen(), &versions));
        let changes: [fn(&mut Versions); 5] = [
            |versions| versions.driver = "other".into(),
            |versions| versions.driver_version = Some("2".into()),
            |versions| versions.firmware = None,
            |versions| versions.kernel = "6.13.0".into(),
            |versions| versions.kernel_build = "#2".into(),
        ];
        for change in changes {
            let mut changed = versions.clone();
            change(&mut changed);
            assert!(!holds(&seen(), &changed), "{changed:?}");
        }
        forget(rundir, Some("pci/0000:04:00.0"));
        assert_eq!(read_all(rundir).len(), 2);
        forget(rundir, Some("pci/0000:03:00.0"));
        assert_eq!(read_all(rundir), []);
    }

    #[test]
    fn a_file_of_another_format_or_of_nonsense_is_left_out() {
        let directory = tempfile::tempdir().unwrap();
        let path = write(directory.path(), &Matrix { format: FORMAT + 1, ..seen() }).unwrap();
        assert_eq!(read_all(directory.path()), []);
        fs::write(&path, "{").unwrap();
        assert_eq!(read_all(directory.path()), []);
        assert_eq!(read_all(Path::new("/nonexistent")), []);
    }

    #[test]
    fn one_probe_runs_at_a_time_and_the_next_knows_where_a_killed_one_was() {
        let directory = tempfile::tempdir().unwrap();
        let mut lock = Lock::take(directory.path()).unwrap();
        assert_eq!(lock.left, None);
        assert!(Lock::take(directory.path()).unwrap_err().contains("another probe runs"));
        let places = vec![Location::ingress(Ifindex(7)), Location::Block(BlockIndex(9))];
        lock.note(&places, Chain(5)).unwrap();
        drop(lock);
        let mut lock = Lock::take(directory.path()).unwrap();
        assert_eq!(lock.left, Some((places, Chain(5))));
        lock.clear().unwrap();
        drop(lock);
        assert_eq!(Lock::take(directory.path()).unwrap().left, None);
    }
}
