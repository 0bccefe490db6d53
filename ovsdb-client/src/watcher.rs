//! What a consumer sees: changes and the state of the connection, coalesced while it is busy.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, mpsc};

use crate::driver::Command;
use crate::error::LinkError;
use crate::replica::{Backlog, Tables};
use crate::row::{Change, RowError, TableRow};

/// What a [`Watcher`] reports.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Notice {
    /// The connection is gone, or could not be made. The rows stay as they were; another attempt follows by itself.
    Lost(Arc<LinkError>),
    /// Rows changed. Each row occurs once, with what it was when the consumer last saw it and what it is now.
    Changes(Vec<Change>),
    /// The rows now are what the server has, and follow it.
    Synchronised {
        /// The version of the server's schema.
        schema_version: Option<String>,
    },
    /// A lock is ours, or is no longer.
    Lock {
        /// Its name.
        name: String,
        /// Whether it is ours.
        held: bool,
    },
}

/// The state of the connection, for a status page.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// Whether the rows follow the server now.
    pub is_synchronised: bool,
    /// The remote in use or tried last.
    pub remote: Option<String>,
    /// Why the last connection ended, or could not be made; absent once the rows follow a server again.
    pub last_error: Option<Arc<LinkError>>,
    /// How often the rows have been brought in line with a server since the start.
    pub synchronisations: u64,
    /// How often a server sent only what had changed since the last connection. Clusters do, standalone servers do not.
    pub continuations: u64,
    /// The method by which the server is monitored.
    pub monitor_method: &'static str,
    /// Rows in the replica.
    pub rows: usize,
    /// Rows that changed and that the consumer has not taken yet.
    pub backlog: usize,
}

/// Between the task that talks to the server and the consumer. It holds at most one notice of each kind, one change of each
/// row and two of each lock, whatever the consumer does.
#[derive(Debug, Default)]
struct Mailbox {
    lost: Option<Arc<LinkError>>,
    backlog: Backlog,
    synchronised: Option<Option<String>>,
    locks: BTreeMap<String, Vec<bool>>,
    status: Status,
    has_ended: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Shared {
    mailbox: Mutex<Mailbox>,
    arrived: Notify,
}

impl Shared {
    fn mailbox(&self) -> MutexGuard<'_, Mailbox> {
        // Nothing panics while it holds the lock; if something did, the mailbox is still whole.
        self.mailbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn changes(&self, changes: Vec<Change>, rows: usize) {
        let mut mailbox = self.mailbox();
        for change in changes {
            mailbox.backlog.push(change);
        }
        mailbox.status.rows = rows;
        self.arrived.notify_one();
    }

    pub(crate) fn synchronised(
        &self,
        schema_version: Option<String>,
        continued: bool,
        monitor_method: &'static str,
    ) {
        let mut mailbox = self.mailbox();
        mailbox.synchronised = Some(schema_version);
        mailbox.status.is_synchronised = true;
        mailbox.status.last_error = None;
        mailbox.status.synchronisations += 1;
        mailbox.status.continuations += u64::from(continued);
        mailbox.status.monitor_method = monitor_method;
        self.arrived.notify_one();
    }

    pub(crate) fn connecting(&self, remote: String) {
        self.mailbox().status.remote = Some(remote);
    }

    pub(crate) fn lost(&self, why: LinkError) {
        let why = Arc::new(why);
        let mut mailbox = self.mailbox();
        mailbox.synchronised = None;
        mailbox.status.is_synchronised = false;
        mailbox.status.last_error = Some(Arc::clone(&why));
        mailbox.lost = Some(why);
        self.arrived.notify_one();
    }

    pub(crate) fn lock(&self, name: String, held: bool) {
        let mut mailbox = self.mailbox();
        let waiting = mailbox.locks.entry(name).or_default();
        // A loss in between must be seen, however short it was; what was before it need not.
        if !held {
            waiting.clear();
        }
        if waiting.last() != Some(&held) {
            waiting.push(held);
        }
        self.arrived.notify_one();
    }

    pub(crate) fn end(&self) {
        self.mailbox().has_ended = true;
        self.arrived.notify_one();
    }

    pub(crate) fn status(&self) -> Status {
        let mailbox = self.mailbox();
        Status { backlog: mailbox.backlog.len(), ..mailbox.status.clone() }
    }

    fn take(&self) -> Option<Option<Notice>> {
        let mut mailbox = self.mailbox();
        if let Some(why) = mailbox.lost.take() {
            return Some(Some(Notice::Lost(why)));
        }
        if !mailbox.backlog.is_empty() {
            return Some(Some(Notice::Changes(mailbox.backlog.take())));
        }
        if let Some(schema_version) = mailbox.synchronised.take() {
            return Some(Some(Notice::Synchronised { schema_version }));
        }
        if let Some(mut entry) = mailbox.locks.first_entry() {
            let held = entry.get_mut().remove(0);
            let name = entry.key().clone();
            if entry.get().is_empty() {
                entry.remove();
            }
            return Some(Some(Notice::Lock { name, held }));
        }
        mailbox.has_ended.then_some(None)
    }
}

/// Follows the monitored rows.
///
/// [`next`](Self::next) gives what happened since it was last called, and [`tables`](Self::tables) the rows as of then.
/// However slow the consumer is, no more waits for it than the difference between what it has seen and what is.
#[derive(Debug)]
pub struct Watcher {
    pub(crate) shared: Arc<Shared>,
    pub(crate) seen: Tables,
    /// Keeps the connection up.
    pub(crate) _commands: mpsc::Sender<Command>,
}

impl Watcher {
    /// Waits for the next notice; `None` when the client has ended. The future may be dropped at any time without losing
    /// a notice.
    pub async fn next(&mut self) -> Option<Notice> {
        loop {
            if let Some(notice) = self.shared.take() {
                if let Some(Notice::Changes(changes)) = &notice {
                    for change in changes {
                        self.seen.apply(change);
                    }
                }
                return notice;
            }
            self.shared.arrived.notified().await;
        }
    }

    /// The rows as of the last notice taken.
    pub fn tables(&self) -> &Tables {
        &self.seen
    }

    /// Waits until the rows are what the server has, taking the notices before that. Meant for programs that want one look;
    /// a failure to connect ends it.
    ///
    /// # Errors
    ///
    /// The reason why the first connection failed.
    pub async fn synchronised(&mut self) -> Result<&Tables, Arc<LinkError>> {
        loop {
            match self.next().await {
                Some(Notice::Synchronised { .. }) => return Ok(&self.seen),
                Some(Notice::Lost(why)) => return Err(why),
                Some(_) => {}
                None => return Err(Arc::new(LinkError::Closed(crate::jsonrpc::Closed::ByPeer))),
            }
        }
    }

    /// The rows of a table as typed rows, as of the last notice taken.
    pub fn rows<T: TableRow>(&self) -> impl Iterator<Item = Result<(uuid::Uuid, T), RowError>> {
        self.seen.rows()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(shared: &Shared) -> Vec<bool> {
        std::iter::from_fn(|| match shared.take() {
            Some(Some(Notice::Lock { held, .. })) => Some(held),
            _ => None,
        })
        .collect()
    }

    #[test]
    fn the_loss_of_a_lock_is_seen_however_short_it_was() {
        let shared = Shared::default();
        for step in [true, false, true, false, true] {
            shared.lock("l".to_owned(), step);
        }
        assert_eq!(held(&shared), [false, true]);
        shared.lock("l".to_owned(), false);
        shared.lock("l".to_owned(), false);
        assert_eq!(held(&shared), [false]);
    }

    #[test]
    fn a_connection_lost_takes_back_a_synchronisation_not_yet_seen() {
        let shared = Shared::default();
        shared.synchronised(None, false, "monitor");
        shared.lost(LinkError::Silent);
        assert!(matches!(shared.take(), Some(Some(Notice::Lost(_)))));
        assert!(shared.take().is_none());
        assert!(!shared.status().is_synchronised);
    }
}
