//! What `ovs-offloadctl doctor --probe` kept: read at the start, when a NIC appears, and when a probe says so.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use offload_engine::{Event, NicFacts};
use tokio::sync::{mpsc, oneshot};
use tracing::{debug, info};

use crate::probe::{self, Matrix};

/// Looks that may wait for the loop.
const WAITING_MAX: usize = 16;
/// The longest wait for a driver to tell its firmware.
const LIMIT: Duration = Duration::from_secs(5);

/// Who asked for a look.
pub(crate) type Reply = oneshot::Sender<Result<String, String>>;

/// What a look found, for what is there now.
#[derive(Debug)]
pub(crate) struct Found {
    age: u64,
    matrices: Vec<Matrix>,
    reply: Option<Reply>,
}

/// What probes saw.
#[derive(Debug)]
pub(crate) struct Probes {
    rundir: PathBuf,
    found: mpsc::Sender<Found>,
    /// How often all was forgotten: what was read before that counts no longer.
    age: u64,
    told: bool,
}

impl Probes {
    pub(crate) fn new(rundir: PathBuf) -> (Self, mpsc::Receiver<Found>) {
        let (found, receiver) = mpsc::channel(WAITING_MAX);
        (Self { rundir, found, age: 0, told: false }, receiver)
    }

    /// Reads what is kept, beside the loop: a driver may take its time to tell its firmware.
    pub(crate) fn look<'a>(&self, nics: impl Iterator<Item = &'a NicFacts>, reply: Option<Reply>) {
        let drivers: BTreeMap<String, String> =
            nics.map(|nic| (nic.devlink.clone(), nic.driver.clone())).collect();
        let (rundir, age, sender) = (self.rundir.clone(), self.age, self.found.clone());
        tokio::spawn(async move {
            let mut matrices = Vec::new();
            for matrix in probe::read_all(&rundir) {
                let Some(driver) = drivers.get(&matrix.nic) else { continue };
                let now = probe::versions(&matrix.nic, driver.clone(), LIMIT).await;
                if probe::holds(&matrix, &now) {
                    matrices.push(matrix);
                } else {
                    debug!(nic = matrix.nic, "what a probe saw counts no longer: it was of other versions");
                }
            }
            // A loop that has ended wants none of it.
            let _ = sender.send(Found { age, matrices, reply }).await;
        });
    }

    /// Tells the engine what was found.
    pub(crate) fn take<'a>(
        &mut self,
        found: Found,
        nics: impl Iterator<Item = &'a NicFacts> + Clone,
        events: &mut Vec<Event>,
    ) {
        if found.age != self.age {
            if let Some(reply) = found.reply {
                let _ = reply.send(Err(
                    "what was probed is forgotten already: the NIC was reset, or the configuration reloaded"
                        .to_owned(),
                ));
            }
            return;
        }
        let mut refusals = Vec::new();
        for matrix in &found.matrices {
            for nic in nics.clone().filter(|nic| nic.devlink == matrix.nic) {
                refusals.extend(probe::refusals(matrix, nic.id));
            }
        }
        if let Some(reply) = found.reply {
            let count = refusals.len();
            let _ = reply.send(Ok(format!(
                "the daemon does not try rules with any of {count} matches and actions that were refused"
            )));
        }
        if refusals.is_empty() && !self.told {
            return;
        }
        info!(refused = refusals.len(), "probes saw what drivers refuse");
        self.told = !refusals.is_empty();
        events.push(Event::Probed(refusals));
    }

    /// The drivers may answer differently now: of one NIC, or of all.
    pub(crate) fn forget(&mut self, nic: Option<&str>, events: &mut Vec<Event>) {
        self.age += 1;
        probe::forget(&self.rundir, nic);
        // Of one NIC that was reset the engine forgets by itself.
        if nic.is_none() && std::mem::take(&mut self.told) {
            events.push(Event::Probed(Vec::new()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::list::{BASE_DROP, Group};
    use crate::probe::report::tests::{matrix, refused, taken};
    use offload_engine::NicId;

    fn nic(driver: &str) -> NicFacts {
        NicFacts {
            id: NicId(4),
            devlink: "nobus/nowhere".into(),
            driver: driver.into(),
            switch_id: String::new(),
            eswitch_mode: "switchdev".into(),
        }
    }

    /// What a probe would have kept of a NIC that is not there, which so has no firmware.
    async fn kept() -> Matrix {
        let seen = matrix(&[(BASE_DROP, Group::Base, taken()), ("vlan push", Group::Action, refused("no"))]);
        let versions = probe::versions("nobus/nowhere", "sim".into(), LIMIT).await;
        Matrix { nic: "nobus/nowhere".into(), versions, ..seen }
    }

    async fn told(probes: &mut Probes, found: &mut mpsc::Receiver<Found>, nics: &[NicFacts]) -> Vec<Event> {
        probes.look(nics.iter(), None);
        let mut events = Vec::new();
        probes.take(found.recv().await.unwrap(), nics.iter(), &mut events);
        events
    }

    #[tokio::test]
    async fn what_is_kept_is_told_of_the_nic_and_driver_it_is_of_and_no_other() {
        let directory = tempfile::tempdir().unwrap();
        let (mut probes, mut found) = Probes::new(directory.path().to_owned());
        assert_eq!(told(&mut probes, &mut found, &[nic("sim")]).await, [], "nothing is kept");
        probe::write(directory.path(), &kept().await).unwrap();
        let events = told(&mut probes, &mut found, &[nic("sim")]).await;
        let [Event::Probed(refusals)] = &events[..] else { panic!("{events:?}") };
        assert_eq!((refusals.len(), refusals[0].nic, &*refusals[0].what), (1, NicId(4), "vlan push"));
        let events = told(&mut probes, &mut found, &[nic("another")]).await;
        assert_eq!(events, [Event::Probed(Vec::new())], "what was told before holds no longer");
        assert_eq!(told(&mut probes, &mut found, &[]).await, []);
    }

    #[tokio::test]
    async fn what_is_forgotten_is_told_no_more_even_if_it_was_being_read() {
        let directory = tempfile::tempdir().unwrap();
        let (mut probes, mut found) = Probes::new(directory.path().to_owned());
        probe::write(directory.path(), &kept().await).unwrap();
        let nics = [nic("sim")];
        let (reply, answer) = oneshot::channel();
        probes.look(nics.iter(), Some(reply));
        let read = found.recv().await.unwrap();
        assert_eq!(read.matrices.len(), 1);
        let mut events = Vec::new();
        probes.forget(None, &mut events);
        probes.take(read, nics.iter(), &mut events);
        assert_eq!(events, []);
        assert!(answer.await.unwrap().unwrap_err().contains("forgotten"));
        assert_eq!(told(&mut probes, &mut found, &nics).await, [], "the file is gone");
    }

    #[tokio::test]
    async fn all_that_was_told_is_taken_back_when_all_is_forgotten() {
        let directory = tempfile::tempdir().unwrap();
        let (mut probes, mut found) = Probes::new(directory.path().to_owned());
        probe::write(directory.path(), &kept().await).unwrap();
        assert_eq!(told(&mut probes, &mut found, &[nic("sim")]).await.len(), 1);
        let mut events = Vec::new();
        probes.forget(None, &mut events);
        probes.forget(None, &mut events);
        assert_eq!(events, [Event::Probed(Vec::new())]);
    }
}
