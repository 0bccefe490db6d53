//! The pauses of Open vSwitch's revalidator.
//!
//! When a flow is modified, `netdev_tc_flow_put()` deletes its filter, makes it anew and only then notes what the old one
//! had counted. A revalidator that reads the flow in between sees its counters fall, and warns (`Unexpected jump in packet
//! stats`). Rounds of revalidation begin half a second apart (`other_config:max-revalidator`), so that right after one there
//! is time to modify flows; `revalidator/wait` answers when one ends (`upcall_unixctl_dump_wait()` in
//! `ofproto/ofproto-dpif-upcall.c`).

use std::path::PathBuf;
use std::time::Duration;

use offload_engine::OpId;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tracing::trace;

use super::vswitchd::{Command, PROGRAM, Said};
use crate::io::rundir::control_socket;
use crate::io::unixctl::Client;

/// Time after a round for which the next one is taken to be away.
const REST: Duration = Duration::from_millis(200);
/// Longest wait for the end of a round. One that takes longer is of a revalidator that somebody has paused, or of so many
/// flows that each is read seldom.
const ROUND_MAX: Duration = Duration::from_secs(2);

/// Tells of each command, in their order, when the revalidator rests.
pub(super) async fn hold_until_quiet(
    rundir: PathBuf,
    mut early: mpsc::Receiver<(OpId, Command)>,
    say: mpsc::Sender<Said>,
    limit: watch::Receiver<Duration>,
) {
    let mut client: Option<Client> = None;
    let mut rounds = Rounds::default();
    while let Some((op, command)) = early.recv().await {
        let limit = *limit.borrow();
        // Without an ovs-vswitchd there is none to wait for, which the command is answered with.
        if let Ok(socket) = control_socket(&rundir, PROGRAM) {
            let client = match client.take() {
                Some(same) if same.socket() == socket => client.insert(same),
                _ => client.insert(Client::new(socket)),
            };
            rounds.quiet(client, limit.min(ROUND_MAX)).await;
        }
        if say.send(Said::Rests(op, command)).await.is_err() {
            return;
        }
    }
}

/// When rounds of revalidation end.
#[derive(Debug, Default)]
struct Rounds {
    ended: Option<Instant>,
}

impl Rounds {
    /// Returns right after a round, or where none can be waited for: one does not end, or ovs-vswitchd has datapaths of
    /// several kinds and refuses to wait.
    async fn quiet(&mut self, client: &mut Client, limit: Duration) {
        if self.ended.is_some_and(|ended| ended.elapsed() < REST) {
            return;
        }
        if let Err(error) = client.command("revalidator/wait", &[], limit).await {
            trace!(%error, "the end of a round of revalidation is not known");
        }
        // After an error too: what is held back meanwhile is not to wait as long, one after the other.
        self.ended = Some(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::io::unixctl::{Commands, Printed, Server};

    const LIMIT: Duration = Duration::from_secs(10);

    /// Answers `revalidator/wait` as often as `rounds` has permits.
    struct Revalidator {
        rounds: tokio::sync::Semaphore,
        answered: AtomicU32,
        refuses: bool,
    }

    impl Commands for Arc<Revalidator> {
        async fn run(&self, method: String, _: Vec<String>, _: bool) -> Result<Printed, String> {
            assert_eq!(method, "revalidator/wait");
            if self.refuses {
                return Err("can't wait on multiple udpifs.".to_owned());
            }
            self.rounds.acquire().await.unwrap().forget();
            self.answered.fetch_add(1, Ordering::SeqCst);
            Ok(Printed::Text(String::new()))
        }
    }

    fn serve(refuses: bool) -> (Arc<Revalidator>, Client, tempfile::TempDir) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s.ctl");
        let rounds = tokio::sync::Semaphore::new(0);
        let revalidator = Arc::new(Revalidator { rounds, answered: AtomicU32::new(0), refuses });
        let server = Server::bind(&path, 4).unwrap();
        let commands = Arc::new(Arc::clone(&revalidator));
        tokio::spawn(async move { server.serve(commands).await });
        (revalidator, Client::new(path), directory)
    }

    #[tokio::test]
    async fn nothing_passes_before_a_round_ends_and_what_comes_right_after_it_does_not_wait() {
        let (revalidator, mut client, _directory) = serve(false);
        let mut rounds = Rounds::default();
        let early = tokio::time::timeout(Duration::from_millis(50), rounds.quiet(&mut client, LIMIT)).await;
        assert!(early.is_err(), "no round has ended");
        revalidator.rounds.add_permits(2);
        let mut rounds = Rounds::default();
        rounds.quiet(&mut client, LIMIT).await;
        let answered = revalidator.answered.load(Ordering::SeqCst);
        assert!(answered >= 1, "a round has ended");
        rounds.ended = Some(Instant::now());
        rounds.quiet(&mut client, LIMIT).await;
        assert_eq!(revalidator.answered.load(Ordering::SeqCst), answered, "the revalidator rests");
        rounds.ended = Instant::now().checked_sub(REST);
        revalidator.rounds.add_permits(1);
        rounds.quiet(&mut client, LIMIT).await;
        assert_eq!(revalidator.answered.load(Ordering::SeqCst), answered + 1, "the next round is waited for");
    }

    #[tokio::test]
    async fn a_round_that_cannot_be_waited_for_holds_nothing_up() {
        let (_refuses, mut client, _directory) = serve(true);
        Rounds::default().quiet(&mut client, LIMIT).await;
        let (_paused, mut client, _directory) = serve(false);
        Rounds::default().quiet(&mut client, Duration::from_millis(20)).await;
    }
}
