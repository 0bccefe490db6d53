//! A session with charon: what it has is read, what is next is done, until it is lost or the orders are others.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ipsec_drive::strongswan::ChildSa;
use ipsec_drive::vici::Builder;
use ipsec_drive::{
    Auth, Connection, ConnectionName, Mover, Moves, Reconciler, Seen, Step, There, Wanted, strongswan,
};
use tokio::sync::watch;
use tracing::{debug, info, warn};

use super::beside::Beside;
use super::certificates::{self, Files};
use super::contents::Contents;
use super::driver::monitor;
use super::progress::{self, Log};
use super::uplinks::Uplinks;
use super::vici::{Failure, Vici};
use super::{OffloadReport, Orders, Report, Rows, Standing, now};

/// The longest wait for an answer: what charon has is listed when none of it is just being negotiated, which took it 12 s on an emulated
/// machine.
const LIMIT: Duration = Duration::from_secs(60);
/// Between two looks while something is on its way, and while nothing is: what happens is told by itself.
const SOON: Duration = Duration::from_millis(250);
const WHILE_UNSETTLED: Duration = Duration::from_secs(1);
const WHILE_SETTLED: Duration = Duration::from_secs(15);
/// After a look there is none for so many times as long as it took, unless the orders are others: charon asks the kernel for the counters of
/// each security association that it lists, and of thousands that takes it seconds.
const REST_WHILE_UNSETTLED: u32 = 1;
const REST_WHILE_SETTLED: u32 = 10;
const REST_MAX: Duration = WHILE_SETTLED;
/// Events that come together are looked after together.
const GATHER: Duration = Duration::from_millis(50);

/// Why a session is over.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Nobody gives orders any more.
    NoOrders,
    /// Another charon is to be driven, or none.
    OtherOrders,
    /// Charon is gone, or does not answer.
    Lost(String),
}

/// How long there is no other look.
#[derive(Debug, Clone, Copy)]
struct Pause {
    /// Where nothing happens.
    again: Duration,
    /// Whatever charon and the kernel tell.
    rest: Duration,
}

impl Pause {
    /// After a look that took so long, and a turn with steps or without.
    fn after(took: Duration, has_steps: bool, is_settled: bool) -> Self {
        let (again, rests) = match (has_steps, is_settled) {
            (true, _) => (SOON, REST_WHILE_UNSETTLED),
            (false, false) => (WHILE_UNSETTLED, REST_WHILE_UNSETTLED),
            (false, true) => (WHILE_SETTLED, REST_WHILE_SETTLED),
        };
        Self { again, rest: took.saturating_mul(rests).min(REST_MAX) }
    }
}

/// Two connections, one to ask and one to be told, and what is known of what was loaded.
pub(super) struct Session {
    socket: PathBuf,
    asks: Vici,
    told: Vici,
    version: String,
    reconciler: Reconciler,
    mover: Mover,
    /// What was done before this session.
    moved_before: Moves,
    log: Log,
    contents: Contents,
    uplinks: Uplinks,
    beside: Beside,
    /// Whether all tunnels were up at the last look.
    is_settled: bool,
    /// The private key that charon has of us, by its own name for it.
    key: Option<String>,
}

impl Session {
    /// Connects.
    ///
    /// # Errors
    /// Nobody is there who can be driven, in a sentence.
    pub(super) async fn open(socket: &Path, moved_before: Moves) -> Result<Self, String> {
        let mut asks = Vici::connect(socket, LIMIT).await?;
        let mut told = Vici::connect(socket, LIMIT).await?;
        let words = |failure| match failure {
            Failure::Lost(why) | Failure::Refused(why) => format!("{}: {why}", socket.display()),
        };
        for event in strongswan::EVENTS {
            told.register(event).await.map_err(words)?;
        }
        let answer = asks.ask("version", &Builder::default()).await.map_err(words)?;
        let said = |key: &str| answer.value(key).unwrap_or("of unknown version").to_owned();
        let version = format!("strongSwan {} ({})", said("version"), said("daemon"));
        info!(%version, "IPsec of tunnels is made by it, at our word");
        Ok(Self {
            socket: socket.to_owned(),
            asks,
            told,
            version,
            reconciler: Reconciler::default(),
            mover: Mover::default(),
            moved_before,
            log: Log::default(),
            contents: Contents::default(),
            uplinks: Uplinks::default(),
            beside: Beside::default(),
            is_settled: false,
            key: None,
        })
    }

    /// What was moved, before this session and in it.
    pub(super) fn moves(&self) -> Moves {
        self.moved_before + self.mover.moves()
    }

    /// Does what is ordered until that is over.
    pub(super) async fn drive(
        &mut self,
        orders: &mut watch::Receiver<Orders>,
        kernel: &mut watch::Receiver<Seen>,
        report: &watch::Sender<Report>,
    ) -> End {
        loop {
            let told = kernel.borrow_and_update().clone();
            let now = orders.borrow_and_update().clone();
            let Some(rows) = now.rows.as_ref().filter(|_| now.drive && now.vici == self.socket) else {
                return End::OtherOrders;
            };
            // It was started after us, and fights us from now on.
            if monitor(&now.rundir).is_some() {
                return End::OtherOrders;
            }
            let pause = match self.turn(rows, &now, &told, report).await {
                Ok(pause) => pause,
                Err(why) => return End::Lost(why),
            };
            let waited = match self.wait(pause, orders, kernel).await {
                Ok(true) => self.gather().await,
                Ok(false) => return End::NoOrders,
                Err(why) => Err(why),
            };
            if let Err(why) = waited {
                return End::Lost(why);
            }
        }
    }

    /// Waits until it is time for the next look. Returns whether there is somebody who gives orders.
    async fn wait(
        &mut self,
        pause: Pause,
        orders: &mut watch::Receiver<Orders>,
        kernel: &mut watch::Receiver<Seen>,
    ) -> Result<bool, String> {
        let rest = tokio::time::sleep(pause.rest);
        let due = tokio::time::sleep(pause.again.max(pause.rest));
        tokio::pin!(rest, due);
        let (mut rests, mut is_told) = (true, false);
        while rests || !is_told {
            tokio::select! {
                changed = orders.changed() => return Ok(changed.is_ok()),
                changed = kernel.changed(), if !is_told => match changed {
                    Ok(()) => is_told = true,
                    Err(_) => return Ok(false),
                },
                told = self.told.told() => match told {
                    Ok(()) => is_told = true,
                    Err(Failure::Lost(why) | Failure::Refused(why)) => return Err(why),
                },
                () = &mut rest, if rests => rests = false,
                () = &mut due => return Ok(true),
            }
        }
        Ok(true)
    }

    /// Hears what is told together.
    async fn gather(&mut self) -> Result<(), String> {
        let gathered = async {
            loop {
                if let Err(Failure::Lost(why) | Failure::Refused(why)) = self.told.told().await {
                    return why;
                }
            }
        };
        match tokio::time::timeout(GATHER, gathered).await {
            Ok(why) => Err(why),
            Err(_) => Ok(()),
        }
    }

    /// Looks, does what is next, and reports; returns how long not to look again.
    async fn turn(
        &mut self,
        rows: &Rows,
        orders: &Orders,
        kernel: &Seen,
        report: &watch::Sender<Report>,
    ) -> Result<Pause, String> {
        let wanted = ipsec_drive::wanted(&rows.tunnels, &rows.host, orders.offload);
        let wanted = self.with_contents(wanted).await?;
        let begin = Instant::now();
        let mut there = match self.look().await {
            Ok(there) => there,
            Err(Failure::Lost(why) | Failure::Refused(why)) => return Err(why),
        };
        let took = begin.elapsed();
        let listed = (now(), there.children.iter().flat_map(ChildSa::ids).flatten().collect());
        self.mover.set_terms(now(), orders.terms);
        there.share_beside(&wanted);
        self.uplinks.look(&wanted, kernel, self.is_settled).await;
        let is_unmet = |connection: &Connection| !self.uplinks.unmet(connection, kernel).is_empty();
        let mut asked = self.mover.turn(now(), &wanted, &mut there, kernel, &self.reconciler, is_unmet);
        self.uplinks.spare_charon(&mut asked, kernel);
        let steps = self.reconciler.steps(now(), &asked, &there);
        self.log.unmet(&wanted, |connection| self.uplinks.unmet(connection, kernel));
        for step in &steps {
            let answer = match self.take(step).await {
                Ok(()) => Ok(()),
                Err(Failure::Refused(why)) => Err(why),
                Err(Failure::Lost(why)) => return Err(why),
            };
            debug!(connection = %step.name(), step = word(step), ?answer, "step of IPsec");
            self.reconciler.answered(now(), step, answer);
        }
        self.forget_key(&wanted).await.map_err(|failure| match failure {
            Failure::Lost(why) | Failure::Refused(why) => why,
        })?;
        let progress = self.reconciler.progress().map(|(name, progress)| (name.clone(), progress)).collect();
        self.log.changes(&progress);
        let unmet = |connection: &Connection| self.uplinks.unmet(connection, kernel);
        let tunnels = progress::of(rows, &wanted, &progress, (&self.mover, now()), unmet);
        self.is_settled = tunnels.iter().all(progress::is_settled);
        let standing = Standing::Driving(self.version.clone());
        let offload = OffloadReport {
            moves: self.moves(),
            entries: self.mover.entries().collect(),
            has_doubts: self.mover.has_doubts(),
        };
        let unguarded = progress::unguarded(&wanted, self.reconciler.guard_refused());
        report.send_modify(|report| {
            if report.unguarded != unguarded
                && let Some(why) = &unguarded
            {
                warn!(%why, "packets of tunnels may pass in the clear");
            }
            (report.standing, report.tunnels, report.offload) = (standing, tunnels, offload);
            (report.unguarded, report.listed) = (unguarded, Some(listed));
        });
        Ok(Pause::after(took, !steps.is_empty(), self.is_settled))
    }

    /// What is wanted, with what is in the files.
    async fn with_contents(&mut self, mut wanted: Wanted) -> Result<Wanted, String> {
        let mut contents = std::mem::take(&mut self.contents);
        let looked = tokio::task::spawn_blocking(move || {
            contents.look(&mut wanted);
            (contents, wanted)
        });
        let (contents, wanted) = looked.await.map_err(|error| error.to_string())?;
        self.contents = contents;
        Ok(wanted)
    }

    /// What charon has.
    async fn look(&mut self) -> Result<There, Failure> {
        let mut there = There::default();
        let answer = self.asks.ask("get-conns", &Builder::default()).await?;
        there.connections =
            answer.list("conns").iter().filter_map(|name| ConnectionName::ours(name)).collect();
        let listed = self.asks.list("list-sas", "list-sa", |event| {
            there.children.extend(strongswan::child_sas(event));
            there.negotiating.extend(strongswan::negotiating(event));
            there.established.extend(strongswan::established(event));
        });
        listed.await?;
        Ok(there)
    }

    async fn take(&mut self, step: &Step) -> Result<(), Failure> {
        match step {
            Step::Load(connection) => self.load(connection).await,
            Step::Initiate { name, child } => {
                self.asks.have_done("initiate", &strongswan::initiate(name, child)).await
            }
            Step::Terminate { id, .. } => {
                self.asks.have_done("terminate", &strongswan::terminate_child(*id)).await
            }
            Step::Restart(name) => {
                self.done_or_gone("terminate", &strongswan::terminate(name)).await?;
                self.terminate_children(name).await
            }
            Step::Unload(name) => self.unload(name).await,
            Step::Guard(guard) => self.asks.have_done("load-conn", &strongswan::load_guard(guard)).await,
        }
    }

    async fn load(&mut self, connection: &Connection) -> Result<(), Failure> {
        let auth = connection.auth.clone();
        let read = tokio::task::spawn_blocking(move || certificates::read(&auth)).await;
        let files = read.map_err(|error| Failure::Refused(error.to_string()))?.map_err(Failure::Refused)?;
        if let Some(secret) = strongswan::load_shared(connection) {
            self.asks.have_done("load-shared", &secret).await?;
        }
        let certificates = match files {
            None => strongswan::Certificates::default(),
            Some(Files { certificates, key }) => {
                self.load_key(&key).await?;
                certificates
            }
        };
        // Before it is in a NIC, and until it is told to be in none.
        let closed = strongswan::load_closed(connection);
        if let Some(closed) = &closed {
            self.asks.have_done("load-conn", closed).await?;
        }
        let beside = self.beside.of(connection);
        let before = self.beside.load(connection, certificates);
        self.load_as_known(&connection.name).await?;
        // Its children, as they are now, are in their messages, too.
        for name in before.union(&beside) {
            self.load_as_known(name).await?;
        }
        match closed {
            Some(_) => Ok(()),
            None => self.unload_closed(&connection.name).await,
        }
    }

    async fn load_as_known(&mut self, name: &ConnectionName) -> Result<(), Failure> {
        match self.beside.message(name) {
            Some(message) => self.asks.have_done("load-conn", &message).await,
            None => Ok(()),
        }
    }

    /// Takes down children of a connection, whichever beside it has the IKE SA that carries them.
    async fn terminate_children(&mut self, name: &ConnectionName) -> Result<(), Failure> {
        for message in strongswan::terminate_children(name) {
            self.done_or_gone("terminate", &message).await?;
        }
        Ok(())
    }

    async fn unload_closed(&mut self, name: &ConnectionName) -> Result<(), Failure> {
        self.done_or_gone("unload-conn", &strongswan::one("name", &name.closed())).await
    }

    async fn load_key(&mut self, key: &[u8]) -> Result<(), Failure> {
        let answer = self.asks.ask("load-key", &strongswan::load_key(key)).await?;
        ipsec_drive::vici::success(&answer)
            .map_err(|why| Failure::Refused(format!("other_config:private_key: {why}")))?;
        let id = answer.value("id").map(ToOwned::to_owned);
        if self.key != id
            && let Some(before) = std::mem::replace(&mut self.key, id)
        {
            self.unload_key(&before).await?;
        }
        Ok(())
    }

    /// Takes our key out when no connection needs it.
    async fn forget_key(&mut self, wanted: &Wanted) -> Result<(), Failure> {
        let is_needed =
            wanted.connections.values().any(|connection| !matches!(connection.auth, Auth::Psk(_)));
        match self.key.take_if(|_| !is_needed) {
            Some(key) => self.unload_key(&key).await,
            None => Ok(()),
        }
    }

    async fn unload_key(&mut self, id: &str) -> Result<(), Failure> {
        self.done_or_gone("unload-key", &strongswan::one("id", id)).await
    }

    async fn unload(&mut self, name: &ConnectionName) -> Result<(), Failure> {
        // The connection first, or the peer could have it made anew.
        self.done_or_gone("unload-conn", &strongswan::one("name", name.as_str())).await?;
        for beside in self.beside.unload(name) {
            self.load_as_known(&beside).await?;
        }
        self.unload_closed(name).await?;
        self.done_or_gone("terminate", &strongswan::terminate(name)).await?;
        self.terminate_children(name).await?;
        self.done_or_gone("unload-shared", &strongswan::one("id", name.as_str())).await
    }

    /// Has something taken out that may not be there any more.
    async fn done_or_gone(&mut self, command: &str, message: &Builder) -> Result<(), Failure> {
        match self.asks.have_done(command, message).await {
            Err(Failure::Refused(why)) => {
                debug!(command, why, "there was nothing to take out");
                Ok(())
            }
            other => other,
        }
    }
}

fn word(step: &Step) -> &'static str {
    match step {
        Step::Load(_) => "load",
        Step::Initiate { .. } => "initiate",
        Step::Terminate { .. } => "terminate",
        Step::Restart(_) => "restart",
        Step::Unload(_) => "unload",
        Step::Guard(_) => "guard",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_take_a_part_of_the_time_alone_however_long_they_are() {
        for took in [1, 20, 1_500].map(Duration::from_millis) {
            assert_eq!(Pause::after(took, false, true).rest, took * 10);
            for has_steps in [true, false] {
                assert_eq!(Pause::after(took, has_steps, false).rest, took);
            }
        }
        assert_eq!(Pause::after(Duration::from_secs(20), false, true).rest, REST_MAX, "it goes on");
    }
}
