//! Network namespaces: opening, numbering and entering them.

use std::fs::File;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::Path;

use netlink_wire::{NetnsId, Seq, netns};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::READ_WITHIN;
use crate::io::netlink::{Asker, Protocol};
use crate::lifecycle::declared::NetnsRef;
use crate::lifecycle::observed::{Namespace, Observed, Place};

/// Namespaces that are looked through at most.
pub(super) const NAMESPACES_MAX: usize = 4_096;

/// Opens a namespace that somebody named.
pub(super) fn open(netns: &NetnsRef) -> Result<File, String> {
    let path = netns.path().ok_or_else(|| format!("nobody named the namespace {netns}"))?;
    open_path(&path)
}

fn open_path(path: &Path) -> Result<File, String> {
    let file = File::open(path).map_err(|error| format!("{}: {error}", path.display()))?;
    // A file that is no namespace would be refused by the kernel with less to go by.
    let kind = rustix::fs::fstatfs(&file).map_err(|error| format!("{}: {error}", path.display()))?;
    const NSFS_MAGIC: i64 = 0x6e73_6673;
    match kind.f_type {
        NSFS_MAGIC => Ok(file),
        _ => Err(format!("{}: not a namespace", path.display())),
    }
}

/// Our own namespace.
pub(super) fn home() -> Result<File, String> {
    open_path(Path::new("/proc/thread-self/ns/net"))
}

/// What there is to know of a namespace.
pub(super) async fn look(asker: &mut Asker, netns: &NetnsRef) -> Namespace {
    let file = match open(netns) {
        Ok(file) => file,
        Err(why) => return Namespace::Missing(why),
    };
    match number(asker, &file).await {
        Ok(Some(id)) => Namespace::Numbered(id),
        Ok(None) => Namespace::Unnumbered,
        Err(why) => Namespace::Missing(why),
    }
}

async fn number(asker: &mut Asker, namespace: &File) -> Result<Option<NetnsId>, String> {
    let fd = namespace.as_raw_fd();
    let found = asker
        .ask(1, |seq: Seq| netns::get_by_fd(fd, seq), |message| netns::decode(message).map(Some))
        .await?;
    Ok(found.first().copied().flatten())
}

/// Opens the namespace where a device is: by a name that was given, else by one that `ip netns` knows.
pub(super) async fn open_place(id: NetnsId, now: &Observed) -> Result<File, String> {
    let given = now.namespaces.keys().find(|netns| now.place_of(netns) == Some(Place::Away(id)));
    if let Some(netns) = given {
        return open(netns);
    }
    let mut asker = Asker::open(Protocol::Route, READ_WITHIN)?;
    let entries = std::fs::read_dir("/run/netns").into_iter().flatten().filter_map(Result::ok);
    for entry in entries.take(NAMESPACES_MAX) {
        let Ok(file) = open_path(&entry.path()) else { continue };
        if number(&mut asker, &file).await == Ok(Some(id)) {
            return Ok(file);
        }
    }
    Err(format!("no name is known for the network namespace with the number {id}: say which it is"))
}

/// Does something in a namespace, in a thread that ends there.
pub(super) fn within<T: Send>(
    namespace: &File,
    work: impl AsyncFnOnce() -> Result<T, String> + Send,
) -> Result<T, String> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).map_err(
                |error| format!("cannot enter the network namespace: {error} (it takes CAP_SYS_ADMIN)"),
            )?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.map_err(|error| error.to_string())?.block_on(work())
        });
        thread.join().unwrap_or_else(|_| Err("the thread in the network namespace has died".to_owned()))
    })
}
